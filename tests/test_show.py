"""`fasthist show`: what its table and its exports tell, and one line with exit code 1 for what goes wrong."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from event_files import files
from test_cli import one_line, read_terminal, run

from fasthist import SummaryWriter
from fasthist.commands.lines import Line
from fasthist.commands.show import SORTED_BY
from fasthist.commands.terminal import sparkline

GOLDEN = Path(__file__).parent / "golden"
RNG = np.random.default_rng(8)
STEPS = (0, 5, 10)


@pytest.fixture
def values():
    """Three tags, of which one grows."""
    return (
        {("fc/weight", step): RNG.normal(0, 1 + step, 2000).astype("f4") for step in STEPS}
        | {("fc/bias", step): np.zeros(20) for step in STEPS}
        | {("relu", 10): np.maximum(RNG.normal(0, 1, 2000).astype("f4"), 0)}
    )


@pytest.fixture
def log_dir(tmp_path, values):
    with SummaryWriter(tmp_path / "run") as writer:
        for (tag, step), array in values.items():
            writer.add_histogram(tag, array, step)
    return tmp_path / "run"


def table(result):
    """Give {tag: {head: text}} of a table whose columns are apart by two blanks."""
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    head, *lines = result.stdout.splitlines()
    names = [
        "tag",
        "steps",
        "at step",
        "num",
        "mean",
        "std",
        "min",
        "max",
        "1 %",
        "50 %",
        "99 %",
        "zeros",
        "NaN",
    ]
    ends = {name: head.index(name) + len(name) for name in names}
    found = {}
    for line in lines:
        tag = line.split()[0]
        begin = len(max([tag, *(one.split()[0] for one in lines)], key=len))
        found[tag] = {}
        for name in names[1:]:
            found[tag][name] = line[begin : ends[name]].strip()
            begin = ends[name]
    return found


# ---- the table


def test_a_line_for_each_tag(log_dir, values):
    found = table(run("show", log_dir))
    assert list(found) == ["fc/weight", "fc/bias", "relu"]
    weight, expected = found["fc/weight"], values["fc/weight", 10].astype("f8")
    assert (weight["steps"], weight["at step"], weight["num"]) == ("3", "10", "2,000")
    for name, value in {
        "mean": expected.mean(), "std": expected.std(), "min": expected.min(), "max": expected.max(),
    }.items():  # fmt: skip
        assert weight[name] == f"{value:.4g}"
    for name, q in {"1 %": 0.01, "50 %": 0.5, "99 %": 0.99}.items():
        assert abs((expected <= float(weight[name])).mean() - q) < 0.02
    assert weight["NaN"] == "0"
    assert found["fc/bias"]["zeros"] == "100.0%"
    zeros = (values["relu", 10] == 0).mean()
    assert float(found["relu"]["zeros"].rstrip("%")) == pytest.approx(100 * zeros, abs=0.2)


def test_a_given_step(log_dir, values):
    found = table(run("show", log_dir, "--step", 5))
    assert list(found) == ["fc/weight", "fc/bias"]
    assert found["fc/weight"]["at step"] == "5"
    assert found["fc/weight"]["max"] == f"{values['fc/weight', 5].max():.4g}"
    line = one_line(run("show", log_dir, "--step", 6))
    assert "--step=6 was not written. Accepted: one of 3 steps, 0 to 10. The nearest is 5." in line


def test_tags_and_order(log_dir):
    assert list(table(run("show", log_dir, "--tag", "^fc/"))) == ["fc/weight", "fc/bias"]
    assert list(table(run("show", log_dir, "--sort", "tag"))) == ["fc/bias", "fc/weight", "relu"]
    assert list(table(run("show", log_dir, "--sort", "std"))) == ["fc/weight", "relu", "fc/bias"]
    assert next(iter(table(run("show", log_dir, "--sort", "zeros")))) == "fc/bias"
    assert "--tag='x' is found in none of 3 tags. There are: fc/weight; fc/bias; relu." in one_line(
        run("show", log_dir, "--tag", "x")
    )
    assert "--tag='(' must be a regular expression" in one_line(run("show", log_dir, "--tag", "("))


@pytest.mark.parametrize("column", SORTED_BY)
def test_every_column_sorts(log_dir, column):
    assert len(table(run("show", log_dir, "--sort", column))) == 3
    assert column in Line.__dataclass_fields__


def test_what_the_file_does_not_tell_is_marked():
    found = table(run("show", GOLDEN / "tensorflow2"))
    from real_writers import DATA

    expected = DATA["layer/weight"].astype("f8")
    line = found["layer/weight"]
    assert line["std"].startswith("~")
    assert float(line["std"][1:]) == pytest.approx(expected.std(), rel=0.05)
    assert float(line["mean"][1:]) == pytest.approx(expected.mean(), abs=0.5)
    assert line["NaN"] == ""


def test_bars(log_dir):
    text = run("show", log_dir).stdout
    weight, bias, relu = text.splitlines()[1:]
    over_time = weight.rstrip().split("  ")[-1].strip()
    assert over_time == sparkline([1, 6, 11])
    assert weight.count("█") >= 2
    assert "█" in bias
    assert "█" in relu


def test_specials_alone(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", [np.nan] * 3, 0)
    found = table(run("show", tmp_path))["w"]
    assert (found["num"], found["mean"], found["zeros"], found["NaN"]) == ("0", "", "", "3")


def on_terminal(log_dir, width, *arguments, kind="dumb", wait=None):
    terminal, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "fasthist", "show", str(log_dir), *arguments],
        stdin=child,
        stdout=child,
        stderr=subprocess.PIPE,
        env=os.environ
        | {"TERM": kind, "COLUMNS": str(width), "LINES": "25", "PYTHONIOENCODING": "utf-8"},
    ) as command:
        os.close(child)
        if wait is not None:
            return wait(command, terminal)
        seen = read_terminal(terminal)
        assert command.wait() == 0, command.stderr.read()
    return seen.replace("\r", "")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_table_fits_the_terminal(tmp_path, width):
    long = "model/" + "decoder/" * 12
    with SummaryWriter(tmp_path) as writer:
        for name in ("weight", "bias"):
            writer.add_histogram(long + name, RNG.normal(size=500).astype("f4"), 0)
    lines = on_terminal(tmp_path, width).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert "weight" in lines[1]
    assert lines[1].startswith("…")
    assert ("std over time" in lines[0]) == (width > 40)


@pytest.fixture
def many(tmp_path):
    with SummaryWriter(tmp_path / "many") as writer:
        writer.add_histograms({f"layer{n:03}": [1.0 * n, 2.0] for n in range(40)}, 0)
    return tmp_path / "many"


def test_the_first_lines_after_sorting(many, log_dir):
    assert list(table(run("show", many, "--top", 2))) == ["layer000", "layer001"]
    found = table(run("show", many, "--top", 2, "--sort", "max"))
    assert list(found) == ["layer039", "layer038"]
    assert len(table(run("show", log_dir, "--top", 99))) == 3
    for arguments in (["--top", 0], ["--top", 2, "--json"], ["--top", 2, "--parquet", "x"]):
        assert run("show", log_dir, *arguments).exit_code == 2


def test_what_is_longer_than_the_terminal_is_paged(many, tmp_path, monkeypatch):
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ncat >{tmp_path}/paged\n")
    pager.chmod(0o755)
    monkeypatch.setenv("PAGER", str(pager))
    assert "layer005" in on_terminal(many, 100, "--top", "20", kind="xterm")
    assert not (tmp_path / "paged").exists()
    assert "layer005" not in on_terminal(many, 100, kind="xterm")
    head, *lines = (tmp_path / "paged").read_text("utf-8").splitlines()
    assert "std" in head
    assert [line.split()[0] for line in lines] == [f"layer{n:03}" for n in range(40)]
    # No pager where the output goes to a file, or the terminal can do nothing.
    (tmp_path / "paged").unlink()
    assert len(run("show", many).stdout.splitlines()) == 41
    assert len(on_terminal(many, 100).splitlines()) == 41
    assert not (tmp_path / "paged").exists()


@pytest.mark.parametrize("command", [["show"], ["doctor"], ["plot", "-o", "x.html"]])
@pytest.mark.parametrize("name", ["model.safetensors", "a.pt", "b.npz", "c.NPY", "d.bin"])
def test_a_checkpoint_is_no_run(tmp_path, command, name, need):
    if command[0] == "plot":
        need("plotly")
    path = tmp_path / name
    path.write_bytes(bytes(100))
    line = one_line(run(*command, path))
    assert f"{path} is a checkpoint and not a run. Accepted: a directory of event files" in line
    assert f"fasthist log {path} --log-dir" in line
    assert f"fasthist log {path} --log-dir" in one_line(run(*command, tmp_path))


def test_follow_draws_again_until_interrupted(tmp_path):
    writer = SummaryWriter(tmp_path)
    writer.add_histogram("first", [1.0, 2.0], 0)
    writer.flush()

    def see(terminal, text):
        seen, end = b"", time.monotonic() + 60
        while text not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 65_536)
        return text in seen

    def wait(command, terminal):
        late = threading.Timer(60, command.kill)
        try:
            assert see(terminal, b"first")
            writer.add_histogram("second", [3.0], 1)
            writer.close()
            assert see(terminal, b"second")
            command.send_signal(signal.SIGINT)
            late.start()
            read_terminal(terminal)
            return command.wait(60), command.stderr.read()
        finally:
            late.cancel()
            command.kill()

    assert on_terminal(tmp_path, 100, "--follow", kind="xterm", wait=wait) == (130, b"")


# ---- exports


def check(records, values):
    """Compare what was exported with the values, and the rows with themselves."""
    assert [(one["tag"], one["step"]) for one in records] == sorted(
        values, key=lambda key: (["fc/weight", "fc/bias", "relu"].index(key[0]), key[1])
    )
    for one in records:
        expected = values[one["tag"], one["step"]].astype("f8")
        assert one["num"] == expected.size
        assert (one["min"], one["max"]) == (expected.min(), expected.max()) or one[
            "tag"
        ] == "fc/bias"
        if one["mean"] is not None:
            assert one["mean"] == pytest.approx(expected.mean(), abs=1e-9)
            assert one["std"] == pytest.approx(expected.std(), rel=1e-9, abs=1e-9)
        assert one["nan_count"] == 0
        assert abs(one["wall_time"] - time.time()) < 1000
        assert sum(one["count"]) == expected.size
        left, right, counts = (np.array(one[name]) for name in ("left", "right", "count"))
        assert ((left < right) | (one["min"] == one["max"])).all()
        assert (left[1:] >= right[:-1]).all()
        assert left[0] == expected.min()
        median = np.searchsorted(np.cumsum(counts), expected.size / 2)
        assert left[median] <= one["p50"] <= right[median]
    assert sum(one["mean"] is not None for one in records) >= 4


def test_json(log_dir, values):
    result = run("show", log_dir, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    check(json.loads(result.stdout), values)


def test_csv(log_dir, values):
    result = run("show", log_dir, "--csv")
    assert (result.exit_code, result.stderr) == (0, "")
    records = []
    for line in csv.DictReader(io.StringIO(result.stdout)):
        record = {
            name: float(text) if text else None
            for name, text in line.items()
            if name not in ("tag", "left", "right", "count")
        }
        records.append(
            record
            | {"tag": line["tag"], "step": int(line["step"])}
            | {
                name: [float(one) for one in line[name].split()]
                for name in ("left", "right", "count")
            }
        )
    check(records, values)


def test_parquet(log_dir, values, tmp_path, need):
    parquet = need("pyarrow.parquet")
    path = tmp_path / "run.parquet"
    result = run("show", log_dir, "--parquet", path)
    assert (result.exit_code, result.output) == (0, "")
    check(parquet.read_table(path).to_pylist(), values)


def test_parquet_in_pieces(log_dir, tmp_path, need, monkeypatch):
    parquet = need("pyarrow.parquet")
    from fasthist.commands import export

    monkeypatch.setattr(export, "_PIECE", 3)
    path = tmp_path / "run.parquet"
    assert run("show", log_dir, "--parquet", path).exit_code == 0
    assert parquet.ParquetFile(path).metadata.num_rows == 7
    assert parquet.ParquetFile(path).metadata.num_row_groups == 3


def test_an_export_of_one_step_and_some_tags(log_dir):
    result = run("show", log_dir, "--json", "--step", 10, "--tag", "relu|bias")
    assert [(one["tag"], one["step"]) for one in json.loads(result.stdout)] == [
        ("fc/bias", 10),
        ("relu", 10),
    ]


def test_json_has_no_infinity(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram_raw("w", 0, 1, 2, math.inf, math.inf, [0, 1], [0, 2], 0)
    (one,) = json.loads(run("show", tmp_path, "--json").stdout, parse_constant=pytest.fail)
    assert (one["sum"], one["num"]) == (None, 2)


def test_parquet_without_pyarrow(log_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "Run: pip install pyarrow" in one_line(run("show", log_dir, "--parquet", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_parquet_where_nothing_can_be_written(log_dir, tmp_path, need):
    need("pyarrow.parquet")
    assert "gone/x" in one_line(run("show", log_dir, "--parquet", tmp_path / "gone" / "x"))


# ---- what goes wrong


def test_no_such_path(tmp_path):
    assert f"{tmp_path}/gone is not there" in one_line(run("show", tmp_path / "gone"))


def test_an_empty_directory(tmp_path):
    assert f"{tmp_path} holds no event files" in one_line(run("show", tmp_path))


def test_no_histograms(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert f"{tmp_path} holds no histograms" in one_line(run("show", tmp_path))
    with SummaryWriter(tmp_path / "inner") as writer:
        writer.add_histogram("w", [1.0], 0)
    assert f"Name one of the runs below: {tmp_path}/inner" in one_line(run("show", tmp_path))


def test_several_runs(tmp_path):
    for name in ("a", "b"):
        with SummaryWriter(tmp_path / name) as writer:
            writer.add_histogram("w", [1.0], 0)
    line = one_line(run("show", tmp_path))
    assert (
        f"{tmp_path} holds 2 runs. Accepted: one. Name one of: {tmp_path}/a; {tmp_path}/b." in line
    )
    assert list(table(run("show", tmp_path / "a"))) == ["w"]


def test_a_file_that_is_no_event_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not an event file, but long enough for the head of a record")
    assert "checksum" in one_line(run("show", path))


def test_a_damaged_record(log_dir):
    (path,) = files(log_dir)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"{path}, byte " in one_line(run("show", log_dir))
    assert len(table(run("show", log_dir, "--skip-corrupt"))) >= 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(log_dir):
    (path,) = files(log_dir)
    path.chmod(0)
    assert "Permission denied" in one_line(run("show", log_dir))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--sort", "colour"],
        ["--step", "x"],
        ["--json", "--follow"],
        ["--csv", "--parquet", "x"],
    ],
)
def test_wrong_use_is_exit_code_2(arguments, tmp_path):
    result = run("show", *([tmp_path] if arguments else []), *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_help_has_an_example():
    assert "\n  Example:\n    fasthist show runs/" in run("show", "--help").output
