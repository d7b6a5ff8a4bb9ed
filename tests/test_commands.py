"""Every command, over every file and on every terminal: no traceback, no warning, no escape code of somebody else's."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pty
import random
import re
import shutil
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from event_files import crc32c, files, masked, records
from test_cli import read_terminal

import fasthist
from fasthist.cli import main
from fasthist.commands import comparing
from fasthist.estimates import spread
from fasthist.events.parsing import Rows
from fasthist.events.restoring import from_rows

RNG = np.random.default_rng(4)
LARGEST, LEAST = float(np.finfo("f8").max), 5e-324

# ---- any file

# By name: the arrays of a tag at step 0, 1 and 2.
EXTREMES = {
    "float64": [np.array([-LARGEST, 0, LARGEST]), np.full(5, LARGEST), np.full(5, -LARGEST)],
    "int64": [np.array([-(2**63), 2**63 - 1]), np.array([2**63 - 1] * 4), np.arange(-3, 4)],
    "uint64": [np.array(values, "u8") for values in ([0, 2**64 - 1], [2**64 - 1] * 3, [1, 2**63])],
    "subnormal": [np.array([-LEAST, 0, LEAST]), np.full(3, LEAST), np.array([0, 2.2e-308])],
    "bfloat16": [np.array([-3.39e38, 3.39e38, 9e-41], "f4"), np.full(9, 3.39e38, "f4"), np.ones(3)],
    "constant": [np.zeros(9), np.full(9, 1e300), np.full(9, 1e-300)],
    "special": [np.array([np.inf, -np.inf, np.nan]), np.array([np.inf, 1]), np.array([])],
    "growing": [RNG.normal(0, 10.0**exponent, 300) for exponent in (0, 150, 307)],
}
KINDS = ("weights/{}.weight", "gradients/{}.weight", "updates/{}.weight", "activations/{}")


def write(log_dir, shift=0, bins="auto"):
    with fasthist.SummaryWriter(log_dir) as writer:
        for step in range(3):
            for name, arrays in EXTREMES.items():
                for kind in KINDS:
                    array = arrays[(step + shift) % 3]
                    writer.add_histogram(kind.format(name), array, step, bins)
    return log_dir


def write_moments(log_dir):
    """Write sums that are infinite or unknown, and counts that are not whole."""
    with fasthist.SummaryWriter(log_dir) as writer:
        for step in range(3):
            raw = {
                "weights": (0, 1, 2, math.inf, math.inf, [0, 1], [0, 2]),
                "gradients": (-LARGEST, LARGEST, 2, -math.inf, math.inf, [-LARGEST, LARGEST], [0, 2]),
                "activations": (-1, LARGEST, 1.5, math.nan, math.nan, [-1, 0, LARGEST], [0, 1, 0.5]),
            }  # fmt: skip
            for kind, values in raw.items():
                writer.add_histogram_raw(f"{kind}/a.weight", *values, step)
    return log_dir


def write_rows(log_dir):
    """Write the newer form as others do: another number of rows at each step, none, and rows of no width."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_tensor_proto

    log_dir.mkdir()
    steps = [
        [[0, 1, 2], [1, 2, 3]], [[0, 1, 2]], [[k, k + 1, k] for k in range(30)], np.zeros((30, 3)), [[5, 5, 9], [5, 5, 0]],
    ]  # fmt: skip
    events = [Event(wall_time=1, file_version="brain.Event:2")]
    for kind in KINDS:
        for step, rows in enumerate(steps):
            event = Event(wall_time=step + 1, step=step)
            tensor = make_tensor_proto(np.array(rows, "f8"))
            value = event.summary.value.add(tag=kind.format("a"), tensor=tensor)
            value.metadata.plugin_data.plugin_name = "histograms"
            events.append(event)
    path = log_dir / "events.out.tfevents.1.host.1.0"
    path.write_bytes(b"".join(map(record, (event.SerializeToString() for event in events))))
    return log_dir


def record(payload):
    head = struct.pack("<Q", len(payload))
    return (
        head + struct.pack("<I", masked(crc32c(head))) + payload + struct.pack("<I", masked(crc32c(payload)))
    )  # fmt: skip


WRITERS = {
    "auto": write,
    "tensorflow": lambda log_dir: write(log_dir, 1, "tensorflow"),
    "moments": write_moments,
    "rows": write_rows,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: make(folder / name) for name, make in WRITERS.items()}


READING = [
    ["show"], ["show", "--sort", "zeros"], ["show", "--json"], ["show", "--csv"], ["doctor"], ["doctor", "--json"],
]  # fmt: skip


def check(*arguments, is_whole=False):
    """Run a command in this process, where each warning is an error; it ends well or with one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    said = f"{arguments}: {result.output[-500:]} {result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit), said
    assert "Warning" not in result.output, said
    if is_whole:
        assert (result.exit_code, result.stderr) == (0, ""), said
    assert result.exit_code in (0, 1), said
    if result.exit_code:
        assert (result.stderr[:10], result.stderr.count("\n")) == ("fasthist: ", 1), said
    elif "--json" in arguments:
        json.loads(result.stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
@pytest.mark.parametrize("name", WRITERS)
def test_extreme_values(runs, name, arguments):
    check(*arguments, runs[name], is_whole=True)


@pytest.mark.parametrize("first", WRITERS)
@pytest.mark.parametrize("other", ["auto", "tensorflow"])
def test_comparing_extreme_values(runs, first, other):
    is_whole = {first, other} <= {"auto", "tensorflow"}  # the others have hardly a tag in common
    check("compare", runs[first], runs[other], is_whole=is_whole)
    check("compare", runs[first], runs[other], "--json", is_whole=is_whole)
    check("compare", runs[first], runs[first], "--json", is_whole=True)


def test_comparing_in_several_processes(runs, monkeypatch, capfd):
    monkeypatch.setattr(comparing, "_LARGE", 0)
    paths = runs["auto"], runs["tensorflow"]
    check("compare", *paths, "--part-above", 1e9, is_whole=True)
    assert capfd.readouterr() == ("", "")  # of the other processes


def test_merging_extreme_values(runs, tmp_path):
    for rank, name in enumerate(("auto", "tensorflow")):
        shutil.copytree(runs[name], tmp_path / "ranks" / f"rank{rank}")
    out = tmp_path / "out"
    check("merge", tmp_path / "ranks", "--out", out, "--allow-missing", is_whole=True)
    check("show", out, is_whole=True)


@pytest.mark.parametrize("name", WRITERS)
def test_extreme_values_in_parquet(runs, name, tmp_path, need):
    need("pyarrow")
    check("show", runs[name], "--parquet", tmp_path / "x.parquet", is_whole=True)


def test_a_deviation_whose_square_overflows():
    rows = np.array([[-2e300, -1e300, 1], [1e300, 2e300, 1]])
    mean, std, is_told = spread(from_rows(Rows(rows)))
    assert (mean, is_told) == (0, False)
    assert std == pytest.approx(1e300 * math.sqrt(1.5**2 + 1 / 12))


NUMBERS = (LARGEST, -LARGEST, math.inf, -math.inf, math.nan, 0.0, -0.0, LEAST, 1e300, -1.0, 2.0**63)


def damaged(payload, chance):
    """Change a byte or a number, or cut the end off: what a checksum of other software would not tell."""
    payload, kind = bytearray(payload), chance.random()
    if kind < 0.4:
        payload[chance.randrange(len(payload))] = chance.randrange(256)
    elif kind < 0.8:
        place = chance.randrange(max(1, len(payload) - 8))
        payload[place : place + 8] = struct.pack("<d", chance.choice(NUMBERS))
    else:
        del payload[chance.randrange(len(payload)) :]
    return bytes(payload)


@pytest.mark.parametrize("seed", range(25))
def test_damaged_copies(runs, tmp_path, seed):
    chance = random.Random(seed)
    whole = runs[chance.choice(list(runs))]
    (path,) = files(whole)
    payloads = list(records(path.read_bytes()))
    for _ in range(chance.choice([1, 2, 8])):
        number = chance.randrange(1, len(payloads))
        payloads[number] = damaged(payloads[number], chance)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / path.name).write_bytes(b"".join(map(record, payloads)))
    for options in ([], ["--skip-corrupt"]):
        for arguments in READING:
            check(*arguments, copy, *options)
        check("compare", whole, copy, *options)
        check("compare", copy, whole, "--json", *options)


# ---- any terminal

HOSTILE = "fc\x1b[31m\x07\r\n\u202e/größe→weight"
ESCAPED = r"fc\x1b[31m\x07\r\n\u202e/größe→weight"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for run in ("rank0", "rank1"):
        with fasthist.SummaryWriter(folder / run) as writer:
            for step in range(3):
                for tag in (f"gradients/{HOSTILE}", f"weights/{HOSTILE}"):
                    values = [np.nan] if tag[0] == "g" else RNG.normal(5, step + 1, 100)
                    writer.add_histogram(tag, values, step)
                if run == "rank0":
                    writer.add_histogram(f"alone/{HOSTILE}", [1.0], step)
    return folder


ALL = """
import json, sys
from fasthist.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


def in_one_process(commands, environment, **options):
    """Start a process that runs many commands, where each warning is an error."""
    texts = json.dumps([[str(argument) for argument in command] for command in commands])
    kept = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_ALL")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", ALL, texts],
        stderr=subprocess.PIPE,
        env=kept | environment,
        **options,
    )


ENCODINGS = [
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
def test_any_encoding(hostile, tmp_path, environment):
    first, other = hostile / "rank0", hostile / "rank1"
    commands = {
        ("show", first): 0,
        ("doctor", hostile): 0,
        ("compare", first, other): 0,
        ("merge", hostile, "--out", tmp_path / "out"): 3,
        ("show", first, "--csv"): 0,
        ("show", first, "--json"): 0,
        ("doctor", first, "--json"): 0,
        ("compare", first, other, "--json"): 0,
        ("show", first, "--tag", "zzz"): 1,
    }
    with in_one_process(commands, environment, stdout=subprocess.PIPE) as process:
        out, err = (pipe.decode("cp1252") for pipe in process.communicate())
    parts = re.split(r"exit (\d+)\r?\n", out)
    assert [int(code) for code in parts[1::2]] == list(commands.values()), err
    escaped = ESCAPED.replace("→", r"\u2192")
    if "cp1252" not in environment.values():
        escaped = escaped.replace("ö", r"\xf6").replace("ß", r"\xdf")
    for text in (*parts[:8:2], err):
        assert escaped in text
        assert "\x1b" not in text
        assert "\x07" not in text
    assert "#" in parts[0]  # a line of bars
    assert r"\u2588" not in parts[0]
    for text in parts[10:16:2]:
        assert HOSTILE in {row["tag"].partition("/")[2] for row in json.loads(text)}
    rows = list(csv.DictReader(io.StringIO(parts[8])))
    assert len(rows) == 9
    lines = err.splitlines()
    assert all(line.startswith("fasthist: ") for line in lines)
    assert len(lines) == 3  # in one run alone, twice, and found nowhere


@pytest.mark.parametrize("width", [40, 100])
@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}], ids=str)  # fmt: skip
def test_any_terminal(hostile, width, environment):
    paths = [hostile / "rank0", hostile / "rank1"]
    commands = [("show", paths[0]), ("doctor", paths[0]), ("compare", *paths)]
    size = {"COLUMNS": str(width), "LINES": "50", "PYTHONIOENCODING": "utf-8"}
    terminal, child = pty.openpty()
    with in_one_process(commands, size | environment, stdout=child) as process:
        os.close(child)
        seen = read_terminal(terminal)
        assert process.wait() == 0, process.stderr.read()
    assert seen.count("exit 0") == 3
    seen = re.sub(r"\x1b\[[124;]*[01]?m", "", seen)  # bold and dim, and their ends
    assert "\x1b" not in seen
    assert "\x07" not in seen
    assert "\u202e" not in seen
    assert "größe" in seen
    lines = seen.replace("\r", "").splitlines()
    assert max(len(line) for line in lines if not line.startswith("They part")) <= width
    # Numbers are whole, or not there at all; and the tag always is.
    head = next(line for line in lines if "distance" in line)
    assert re.fullmatch(r"tag +(at step  )?distance( +\w+( at)?)* *", head)
    row = lines[lines.index(head) + 1]
    assert row.split()[0].endswith("größe→weight")
    assert ("PSI" in head) == (width > 40)
