"""The one command for whoever has a GPU: every case runs here on tiny tensors of the CPU, and the table tells the truth."""

from __future__ import annotations

import io
import json
import sys

import gpu as command
import pytest
from click.testing import CliRunner
from rich.console import Console


@pytest.fixture
def cases(need):
    need("torch")
    return need("gpu_cases")


@pytest.fixture
def tiny(cases, need):
    return cases.Gpu(need("torch"), "cpu", nbytes=1 << 12, rounds=2)


def clock(*times):
    moments = iter(times)
    return lambda: next(moments)


def test_every_case_runs(cases, tiny, need):
    need("tensorboard")
    found, skipped = command.run_cases(tiny, command.Budget(600), lambda _: None)
    assert skipped == []
    assert list(found) == [name for name, _ in cases.cases(tiny)]
    for name, one in found.items():
        assert set(one["failed"]) <= {
            "cupy.histogram",
            "cuda.compute.histogram_even",
            "torch.sum",
        }, (name, one)
        assert all(took > 0 for took in one["seconds"].values()), name
    assert set(found["float32/normal"]["seconds"]) >= {
        "fasthist",
        "fasthist, auto",
        "torch.sum",
        "torch.histc, min, max",
    }
    rows = cases.targets(found)
    assert all(row.holds is not None for row in rows), rows


def test_tensors_are_what_their_names_say(cases, tiny, need):
    torch = need("torch")
    for format in cases.FORMATS[:2]:
        made = {name: cases.large(tiny, format, name) for name in cases.DISTRIBUTIONS}
        assert {tensor.numel() * tensor.element_size() for tensor in made.values()} == {1 << 12}
        assert made["constant"].unique().tolist() == [0.5]
        assert 0.85 < (made["90 % zeros"] == 0).float().mean() < 0.95
        assert made["all exponents"].float().frexp()[1].unique().numel() > 100
        assert made["normal"].float().std() == pytest.approx(0.02, rel=0.1)
    assert cases.large(tiny, "int8", "normal").dtype == torch.int8
    assert sum(cases.shapes(10**9)) == pytest.approx(10**9, rel=0.01)
    assert len(cases.shapes(10**9)) == 300


def test_what_fails_is_told_and_the_others_go_on(tiny):
    def fail():
        msg = "no such thing\nmore"
        raise ValueError(msg)

    seconds, failed = tiny.in_turns({"good": lambda: 1, "bad": fail})
    assert list(seconds) == ["good"]
    assert failed == {"bad": "ValueError: no such thing"}


def test_cases_are_skipped_when_the_time_is_up(monkeypatch):
    ran = []
    made = [
        (name, lambda name=name: ran.append(name) or {"bytes": 0, "seconds": {}, "failed": {}})
        for name in "abc"
    ]
    monkeypatch.setattr(command, "cases", lambda _: made)
    budget = command.Budget(10, clock(0, 1, 4, 6))
    found, skipped = command.run_cases(None, budget, lambda _: None)
    assert (list(found), ran, skipped) == (["a", "b"], ["a", "b"], ["c"])


def test_a_case_that_fails_does_not_end_the_others(monkeypatch):
    def fail():
        msg = "too large"
        raise MemoryError(msg)

    good = {"bytes": 10**9, "seconds": {"fasthist": 0.5}, "failed": {}}
    monkeypatch.setattr(command, "cases", lambda _: [("bad", fail), ("good", lambda: good)])
    found, _ = command.run_cases(None, command.Budget(100), lambda _: None)
    assert found["bad"]["failed"] == {"all": "MemoryError: too large"}
    assert found["good"]["GB/s"] == {"fasthist": 2.0}


def made_up(**changes):
    seconds = {
        "float32/normal": {"fasthist": 1.0, "torch.sum": 0.75, "torch.histc, min, max": 6.0},
        "bfloat16/normal": {"fasthist": 1.0, "torch.sum": 0.6},
        **{f"{f}/{d}": {"fasthist": 1.0, "torch.sum": 0.55} for f in ("float32", "bfloat16") for d in ("constant", "all exponents")},
        "float32/90 % zeros": {"fasthist": 1.0, "torch.sum": 0.51},
        "300 tensors/bfloat16": {"300 tensors": 1.4, "one tensor": 1.0},
        "blocked/104 tensors": {"idle": 1e-4, "behind work": 3e-4},
        "copied/float32": {"fasthist": 1e-3, ".cpu() and torch's histogram": 0.2},
        **changes,
    }  # fmt: skip
    return {name: {"seconds": found} for name, found in seconds.items()}


def test_targets_are_met_missed_or_not_measured(cases):
    rows = {row.what: row for row in cases.targets(made_up())}
    assert rows["float32, normal: share of torch.sum's rate"] == (
        "float32, normal: share of torch.sum's rate", ">= 0.7", "0.75", True,
    )  # fmt: skip
    assert rows["bfloat16, normal: share of torch.sum's rate"].holds is False
    assert rows["float32, the worst distribution (90 % zeros): the same"].measured == "0.51"
    assert rows["300 tensors, bfloat16: share of the rate of one tensor"].holds is True
    assert rows["add_histograms of 104 tensors keeps the thread"][2:] == ("300 us", False)
    assert rows["add_histograms of 300 tensors keeps the thread"][2:] == ("not measured", None)
    assert rows["float32, normal: against torch.histc, min and max"].holds is True
    # One distribution of bfloat16 is missing: it might be the worst.
    assert [row.holds for what, row in rows.items() if what.startswith("bfloat16, the worst")] == [
        None
    ]


def test_the_table_shows_them(cases):
    told = io.StringIO()
    Console(file=told, width=120).print(command.table(cases.targets(made_up())))
    lines = {
        line.split("│")[1].strip(): line for line in told.getvalue().splitlines() if "│" in line
    }
    assert "│ NO" in lines["bfloat16, normal: share of torch.sum's rate"]
    assert "│ yes" in lines["float32, normal: share of torch.sum's rate"]


def test_without_a_gpu_it_ends_at_once_and_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "missing", lambda: "torch 2 finds no GPU. Run: pip install torch")
    done = CliRunner().invoke(command.main, ["--results", str(tmp_path)])
    assert done.exit_code == 2
    assert "finds no GPU. Run: pip install torch" in done.output
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_here(need):
    torch = need("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU can be used here")
    assert "finds no GPU" in command.missing()


def test_all_of_it_is_kept(monkeypatch, tmp_path, need):
    need("torch")
    monkeypatch.setattr(command, "missing", str)
    monkeypatch.setattr(command, "machine", lambda: {"gpu": "NVIDIA H200 (test)"})
    monkeypatch.setattr(command, "run_cases", lambda *_: (made_up(), ["latency"]))
    monkeypatch.setattr(command, "_output", lambda *_: (0, "...\n3 passed in 1 s\n"))
    done = CliRunner().invoke(command.main, ["--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "nvidia-h200-test.json").read_text())
    assert kept["tests"]["summary"] == "3 passed in 1 s"
    assert kept["skipped"] == ["latency"]
    assert {row["holds"] for row in kept["targets"]} == {True, False, None}
    assert "tests: 3 passed" in done.output


def test_a_command_that_takes_too_long_is_ended():
    assert (
        command._output(
            [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], 2
        )[0]
        == 124
    )
