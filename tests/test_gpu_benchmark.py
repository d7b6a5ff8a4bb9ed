"""The one command for whoever has a GPU: every case runs here on tiny tensors of the CPU, and the table tells the truth."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from types import SimpleNamespace

import gpu as command
import gpu_measure
import gpu_targets
import numpy as np
import pytest
import report
from click.testing import CliRunner
from gpu_cases import (
    AUTO,
    BILLION,
    BUSY,
    CALLS,
    CASES,
    COPIED,
    COPY,
    DONE,
    HISTC,
    IDLE,
    ON_DEVICE,
    ONE,
    ONE_AUTO,
    OURS,
    READ,
    SKEWED,
    large,
    logged,
    many,
    small,
)
from gpu_data import DISTRIBUTIONS, DeviceData, DeviceModel, shapes
from gpu_measure import Budget, Device, Plan
from peers import Peer
from rich.console import Console

import fasthist
from fasthist.pending import PendingHistogram

OTHERS = {"cupy.histogram", "cuda.compute.histogram_even"}
"""Libraries that only a machine with a GPU may have."""


class Host(Device):
    """Stands for a GPU: torch's CPU, which is done when a call returns."""

    place = "cpu"

    def __init__(self, lost=False):
        self.lost, self.done = lost, []

    def synchronize(self):
        self.done.append("synchronize")
        if self.lost:
            msg = "an illegal memory access was encountered"
            raise RuntimeError(msg)

    def occupy(self, seconds):
        self.done.append(f"occupy {seconds}")

    def elapsed(self, run):
        begin = time.perf_counter()
        answer = run()
        return time.perf_counter() - begin, answer

    def forget(self):
        self.done.append("forget")


def clock(*times):
    moments = iter(times)
    return lambda: next(moments)


# -- what is measured --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_runs(case, need):
    need("torch")
    need("tensorboard")
    host = Host()
    record = gpu_measure.measure(case, host, tiny=4096, plan=Plan(2, 1, 60.0))
    assert list(record["libraries"]) == list(case.libraries)
    assert {k: v for k, v in record["libraries"].items() if "median" not in v}.keys() <= OTHERS
    for library, found in record["libraries"].items():
        if library not in OTHERS:
            assert (len(found["all"]), found["rounds"]) == (2, 2)
            assert found["median"] > 0
            assert found["GB/s"] == pytest.approx(record["bytes"] / found["median"] / 1e9)
    assert record["elements"] <= 5e5
    assert ("occupy 0.02" in host.done) == (case.clock == BUSY)
    if READ in case.libraries:
        ours, read = record["libraries"][OURS], record["libraries"][READ]
        assert ours["share"] == pytest.approx(read["median"] / ours["median"])
    json.dumps(record)
    assert gpu_measure.line(record).startswith(f"{case.name}: fasthist ")


def test_every_library_is_asked_and_every_clock_is_used():
    assert {(case.call, who) for case in CASES.values() for who in case.libraries} == {
        (call, who) for call, table in CALLS.items() for who in table
    }
    assert {case.clock for case in CASES.values()} == set(gpu_measure.CLOCKS)
    sizes = {case.format: case.data("cpu").size for case in CASES.values() if case.size > COPIED}
    bits = {"float32": 32, "bfloat16": 16, "float16": 16, "float8_e4m3fn": 8, "int8": 8, "float64": 64}  # fmt: skip
    assert sizes == {format: 2**33 // n for format, n in bits.items()}


@pytest.mark.parametrize("format", SKEWED)
def test_tensors_are_what_their_names_say(format, need):
    need("torch")
    made = {
        what: DeviceData(format, what, 4096, place="cpu").tensor.float() for what in DISTRIBUTIONS
    }
    assert all(tensor.isfinite().all() for tensor in made.values())
    assert made["all equal"].unique().numel() == 1
    assert 0.85 < (made["90 % zeros"] == 0).float().mean() < 0.95
    assert made["normal"].std() == pytest.approx(0.02, rel=0.1)
    exponents = made["all exponents"].frexp()[1]
    assert exponents.unique().numel() > 230
    assert (exponents > 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_tensors_are_drawn_in_parts(need, monkeypatch):
    torch = need("torch")
    monkeypatch.setattr("gpu_data.PART", 1000)
    tensor = DeviceData("int8", "normal", 2500, place="cpu").tensor
    assert (tensor.dtype, tensor.numel()) == (torch.int8, 2500)
    parts = tensor.float().split(1000)
    assert [part.std().item() for part in parts] == pytest.approx([20] * 3, rel=0.15)
    assert not torch.equal(parts[0], parts[1])


def test_the_large_model():
    found = shapes()
    assert sum(int(np.prod(shape)) for shape in found.values()) == pytest.approx(1e9, rel=0.01)
    assert [sum(len(shape) == n for shape in found.values()) for n in (1, 2)] == [150, 150]
    assert {name: len(shape) for name, shape in shapes(tiny=True).items()} == {
        name: len(shape) for name, shape in found.items()
    }


def test_the_same_bytes_in_one_tensor(need):
    torch = need("torch")
    data = DeviceModel("bfloat16", "", 0, model=BILLION, tiny=True, place="cpu")
    assert (data.tensor.dtype, data.tensor.numel()) == (torch.bfloat16, data.elements)
    assert torch.equal(data.tensor[:64].view(8, 8), data.tree["layers.0.q.weight"])
    assert data.nbytes == 2 * data.elements


# -- how it is measured ------------------------------------------------------------------------------------


def test_libraries_take_turns_and_slow_ones_are_asked_less():
    asked, seconds = [], {"quick": 0.1, "slow": 3.0, "bad": 0.1}

    def time_round(run):
        asked.append(run())
        if asked[-1] == "bad" and asked.count("bad") == 2:
            msg = "no such\nthing"
            raise ValueError(msg)
        return seconds[asked[-1]]

    runs = {name: lambda name=name: name for name in seconds}
    found = gpu_measure.take_turns(runs, time_round, Plan(most=5, fewest=2, seconds=2.0))
    assert asked[:6] == ["quick", "slow", "bad"] * 2
    assert asked[6:] == ["quick", "slow", "quick", "quick", "quick"]
    assert [len(found[name].seconds) for name in seconds] == [5, 2, 0]
    assert found["bad"].failed == "ValueError: no such thing"


def test_time_on_the_device():
    did = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            did.append("event")

        def synchronize(self):
            did.append("wait")

        def elapsed_time(self, other):
            assert other is not self
            return 2.5  # milliseconds

    device = Host()
    device._cuda = SimpleNamespace(Event=Event, _sleep=did.append)
    device.occupy = lambda seconds: Device.occupy(device, seconds)
    seconds, answer = Device.elapsed(device, lambda: did.append("run") or "answer")
    assert (seconds, answer) == (0.0025, "answer")
    assert did == [10_000_000, "event", "run", "event", "wait"]


def test_what_is_timed(monkeypatch):
    host = Host()
    monkeypatch.setattr(gpu_measure.time, "perf_counter", lambda: host.done.append("now") or 0.0)

    def run():
        host.done.append("run")

    orders = {}
    for name in (DONE, IDLE, BUSY):
        host.done.clear()
        gpu_measure.CLOCKS[name](host, run)
        orders[name] = list(host.done)
    assert orders == {
        DONE: ["now", "run", "synchronize", "now"],
        IDLE: ["now", "run", "now"],
        BUSY: ["occupy 0.02", "now", "run", "now"],
    }


def test_nothing_of_a_round_is_left_for_the_next_one(need, monkeypatch):
    need("torch")
    did = []
    monkeypatch.setattr(gpu_measure, "disagreement", lambda _: "")
    monkeypatch.setattr(DeviceModel, "settle", lambda _: did.append("settle"))
    monkeypatch.setattr(Host, "synchronize", lambda _: did.append("wait"))
    finished = fasthist.histogram(np.ones(3))

    def find(number):
        did.append(f"read {number}")
        return finished

    def run():
        did.append("run")
        return {"a": PendingHistogram(find, 1), "b": PendingHistogram(find, 2)}

    monkeypatch.setitem(CALLS["add_histograms"], OURS, Peer(lambda _: run))
    gpu_measure.measure(logged("bfloat16", BILLION, IDLE), Host(), tiny=1, plan=Plan(2, 1))
    assert did == ["wait", "run", "read 1", "read 2", "settle", "wait"] * 3


class Liar(np.ndarray):
    """A tensor that holds something else when it is copied to the host."""

    factor = 1.5

    def cpu(self):
        return np.asarray(self) * np.float32(self.factor)


def test_a_wrong_answer_is_seen(monkeypatch):
    values = np.array([1.0, 2.0, 2.0], dtype=np.float32)
    lying = SimpleNamespace(tensor=values.view(Liar), elements=3)
    assert gpu_measure.disagreement(lying) == "min 1.0 instead of 1.5"
    values[:] = 1, 1, 2
    lying.tensor = values.view(Liar)
    monkeypatch.setattr(Liar, "factor", np.array([1, 2, 1]))  # the extremes stay
    assert gpu_measure.disagreement(lying) == "2 counts differ; the first, 1065"
    monkeypatch.setattr(Liar, "factor", 1)
    assert gpu_measure.disagreement(lying) == ""
    lying.elements = 4
    assert gpu_measure.disagreement(lying) == "num 3 instead of 4"


def test_a_tensor_of_a_model_that_is_not_all_counted_is_seen(need):
    torch = need("torch")
    tree = {"a": torch.ones(4), "b": torch.tensor([1.0, torch.nan])}
    wrong = gpu_measure.disagreement(SimpleNamespace(tree=tree))
    assert wrong == "1 tensors are not all counted; the first, b"
    assert gpu_measure.disagreement(SimpleNamespace(tree={"a": tree["a"]})) == ""


def test_a_wrong_answer_is_not_timed(need, monkeypatch):
    need("torch")
    monkeypatch.setattr(gpu_measure, "disagreement", lambda _: "2 counts differ")
    record = gpu_measure.measure(large("float32", "normal"), Host(), tiny=64, plan=Plan(1, 1))
    failed = {"failed": "its answer is not what it must be: 2 counts differ"}
    assert record["libraries"][OURS] == record["libraries"][AUTO] == failed
    assert "median" in record["libraries"][READ]


def test_a_library_that_is_missing_or_cannot_be_set_up(need, monkeypatch):
    need("torch")
    table = CALLS["histogram"]
    absent = Peer(lambda _: None, needs=("no_such_module",))
    monkeypatch.setitem(table, "cupy.histogram", absent)
    monkeypatch.setitem(table, HISTC, Peer(lambda _: 1 / 0))
    record = gpu_measure.measure(large("float32", "normal"), Host(), tiny=64, plan=Plan(1, 1))
    found = record["libraries"]
    assert found["cupy.histogram"] == {"skipped": "no_such_module is not installed"}
    assert found[HISTC] == {"failed": "ZeroDivisionError: division by zero"}
    assert found[OURS]["ratio"] == 1


# -- time and processes ------------------------------------------------------------------------------------


def measured(name):
    return {"name": name, "libraries": {OURS: {"failed": "made up"}}}


def test_cases_are_left_out_when_the_time_is_up(monkeypatch):
    monkeypatch.setattr(gpu_measure, "CASES", {name: name for name in "abc"})
    monkeypatch.setattr(gpu_measure, "measure", lambda case, _: measured(case))
    kept, host = [], Host()
    budget = Budget(20, clock(0, 1, 1, 10, 10, 16))
    assert gpu_measure.measure_all(list("abc"), host, budget, kept.append)
    assert [record["name"] for record in kept] == ["a", "b"]
    assert host.done == ["synchronize", "forget"] * 2


def test_a_case_that_fails_does_not_end_the_others_but_a_lost_context_does(monkeypatch):
    def measure(case, device):
        if case == "a":
            msg = "no memory for it"
            raise MemoryError(msg)
        device.lost = case == "b"
        return measured(case)

    monkeypatch.setattr(gpu_measure, "CASES", {name: name for name in "abc"})
    monkeypatch.setattr(gpu_measure, "measure", measure)
    kept = []
    assert not gpu_measure.measure_all(list("abc"), Host(), Budget(60), kept.append)
    assert [record["name"] for record in kept] == ["a", "b"]
    assert kept[0]["libraries"][OURS] == {"failed": "MemoryError: no memory for it"}


def test_a_process_that_dies_costs_one_case():
    starts = []

    def start(names, seconds):
        starts.append((names, seconds))
        after = {
            "abcdefg": ("ab", 1, "Timeout (0:01:15)!\n  File x\n"),  # and c hangs
            "defg": ("d", gpu_measure.LOST, ""),
            "efg": ("", gpu_measure.LOST, "no room on the disk\n"),
            "fg": ("f", 0, ""),  # and g had no time
        }
        done, status, told = after["".join(names)]
        return [measured(name) for name in done], status, told

    records, skipped = command.run_cases(list("abcdefg"), Budget(99, lambda: 0), start)
    assert skipped == ["g"]
    assert [record["name"] for record in records] == list("abcdef")
    why = {record["name"]: record["libraries"][OURS]["failed"] for record in records}
    assert why["c"] == "the process ended in it with status 1: Timeout (0:01:15)!"
    assert why["e"] == "the process ended in it with status 3: no room on the disk"
    assert len(starts) == 4
    assert command.run_cases(["a"], Budget(4, lambda: 0), start) == ([], ["a"])
    assert len(starts) == 4


def test_the_measuring_process_finds_packages_where_this_one_does(monkeypatch):
    given = {}
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    monkeypatch.setattr(
        command, "output", lambda *_, **variables: given.update(variables) or (0, "")
    )
    command.start_measuring(["a case"], 1)
    paths = given["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(command.ROOT), str(command.HERE), "/of/the/user"]


def test_the_process_that_measures(need):
    torch = need("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU can be used here")
    name = large("bfloat16", "normal").name
    records, status, told = command.start_measuring([name, "and this one is not reached"], 60)
    # Nothing works on a GPU that is not there: a lost context is no different.
    assert (status, [record["name"] for record in records]) == (gpu_measure.LOST, [name]), told
    assert records[0]["libraries"][OURS]["failed"]


def test_a_case_that_hangs_ends_its_process(need):
    need("torch")
    code = (
        "import sys, time; sys.path[:0] = ['benchmarks']; import gpu_measure as g; g.CASE_LIMIT = 1;"
        "g.measure = lambda *_: time.sleep(60); g.measure_all(list(g.CASES), None, g.Budget(99), print)"
    )
    status, told = command.output([sys.executable, "-c", code], 50)
    assert (status, "Timeout (0:00:01)!" in told) == (1, True), told


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started():
    code = "import subprocess, time; subprocess.Popen(['sleep', '50']); print(1, flush=True); time.sleep(60)"
    begin = time.monotonic()
    assert command.output([sys.executable, "-c", code], 2) == (124, "1\n")
    assert time.monotonic() - begin < 20


def test_output_does_not_tell_whose_machine_it_is():
    code = f"print({str(command.ROOT / 'x')!r}, {str(command.Path.home() / 'y')!r})"
    status, told = command.output([sys.executable, "-c", code], 60)
    assert (status, told.split()[0]) == (0, "./x")
    assert told.split()[1] in ("~/y", "/y")


@pytest.fixture
def answered(monkeypatch):
    """Have other processes answer at once; gives the list of commands and their times."""
    asked = []

    def answer(status, told):
        def output(arguments, seconds, **variables):
            asked.append((arguments, seconds, variables))
            return status, told

        monkeypatch.setattr(command, "output", output)
        return asked

    return answer


def test_tests_of_the_gpu(answered):
    asked = answered(1, "F..\n==== 1 failed, 2 passed in 3.1s ====\n")
    found = command.run_tests(100)
    assert (found["status"], found["summary"]) == (1, "1 failed, 2 passed in 3.1s")
    assert found["tail"][0] == "F.."
    assert asked[0][0][1:7] == ["-m", "pytest", "-q", "-m", "cuda", "tests"]
    answered(124, "...\n")
    assert command.run_tests(100)["summary"] == "not done after 100 s; so far: ..."
    assert command.run_tests(2)["summary"] == "skipped, no time was left"


def test_the_sanitizer(answered, monkeypatch, tmp_path):
    hazards = "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"
    asked = answered(99, f"text\n{hazards}\n")
    found = command.sanitize("compute-sanitizer", Budget(100, lambda: 0))
    assert found["racecheck"]["summary"] == hazards.removeprefix("========= ")
    assert [(arguments[2], seconds) for arguments, seconds, _ in asked] == [
        ("memcheck", 50), ("racecheck", 100),
    ]  # fmt: skip
    compile(asked[0][0][-1], "CHECKED", "exec")
    assert command.sanitize("x", Budget(1))["memcheck"]["summary"] == "skipped, no time was left"
    assert command.sanitize(None, Budget(9))["racecheck"]["summary"] == "compute-sanitizer not found"  # fmt: skip

    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert command.find_sanitizer() == str(tool)


# -- what it shows -----------------------------------------------------------------------------------------


def timed(seconds, nbytes=10**12):
    return {"median": seconds, "bytes": nbytes, "elements": nbytes, "GB/s": nbytes / 1e9 / seconds}


def made_up(**changes):
    """Give an outcome in which everything holds, each number at its limit; `changes` by the name of the GPU's fields."""
    libraries = {
        OURS: 1.0, AUTO: 1.0, READ: 0.7, HISTC: 6.0, ONE: 1 / 1.5, ONE_AUTO: 1 / 1.5, COPY: 100.0, "torch": 9.0,
    }  # fmt: skip
    cases = []
    for case in CASES.values():
        scale = 200e-6 if case.call == "add_histograms" else 1.0
        found = {
            who: timed(scale * libraries[who])
            if who in libraries
            else {"skipped": f"{who} is not installed"}
            for who in case.libraries
        }
        cases.append({"name": case.name, "clock": case.clock, "libraries": found})
    return {
        "machine": {"gpu": "NVIDIA Test", "processors": 132, "driver": "590.1", "theoretical_GB/s": 2000.0},
        "cpu": "Made-up", "date": "2026-01-02T03:04:05Z", "commit": "0123456789ab", "dirty": False, "seconds": 400.0,
        "versions": {"torch": "2.13.0"}, "cases": cases, "skipped": [],
        "tests": {"status": 0, "summary": "3 passed in 1 s"},
        "sanitizer": {"memcheck": {"status": 0, "summary": "ERROR SUMMARY: 0 errors"}},
        **changes,
    }  # fmt: skip


def changed(outcome, case, library, **values):
    (record,) = [record for record in outcome["cases"] if record["name"] == case.name]
    record["libraries"][library] = values
    return outcome


def row(outcome, beginning):
    (found,) = [row for row in gpu_targets.rows(outcome) if row[0].startswith(beginning)]
    return found


def test_every_target_is_decided_by_a_whole_run():
    rows = gpu_targets.rows(made_up())
    assert len(rows) == len(gpu_targets.TARGETS) == 18
    assert [row for row in rows if row[3] != "yes"] == []


MISSED = [
    (large("float32", "normal"), OURS, 1.01, 'float32, 1 GiB of normals, "tensorflow"', "0.69 (990 of 1,429 GB/s)"),
    (large("bfloat16", "normal"), AUTO, 1.01, 'bfloat16, 1 GiB of normals, "auto"', "0.69 (990 of 1,429 GB/s)"),
    (large("float32", "90 % zeros"), OURS, 1.5, 'float32, the worst distribution, "tensorflow"', "0.46 (667 of 1,429 GB/s), 90 % zeros"),
    (many(ON_DEVICE), OURS, 1.01, '300 tensors, 1,000 M bfloat16, "tensorflow", on the device', "1.515x (1.01 s against 667 ms)"),
    (logged("bfloat16", BILLION, BUSY), OURS, 0.02, "`add_histograms`, 300 tensors, 1,000 M bfloat16: the thread is blocked, 20 ms", "20.0 ms"),
    (large("float32", "normal"), HISTC, 4.999, "float32, 1 GiB of normals: against torch.histc", "4.99x (1.00 s against 5.00 s)"),
    (small(COPIED, COPY), COPY, 99.99, "float32, 64 MiB until read", "99.9x (1.00 s against 100.0 s)"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "library", "seconds", "what", "shown"), MISSED)
def test_a_target_is_missed(case, library, seconds, what, shown):
    outcome = changed(made_up(), case, library, **timed(seconds))
    assert row(outcome, what)[2:] == (shown, "**no**")
    assert sum(one[3] == "**no**" for one in gpu_targets.rows(outcome)) == 1


def test_what_was_not_measured_is_unknown():
    outcome = changed(made_up(), large("float32", "all equal"), OURS, failed="DeviceError: x")
    # It might have been the worst.
    assert row(outcome, 'float32, the worst distribution, "tensorflow"')[2:] == (
        "failed: DeviceError: x", "unknown",
    )  # fmt: skip
    assert row(outcome, 'float32, the worst distribution, "auto"')[3] == "yes"
    assert {one[2:] for one in gpu_targets.rows(made_up(cases=[]))} == {("not measured", "unknown")}


def test_the_table_and_the_notes():
    told = io.StringIO()
    outcome = changed(made_up(), large("float32", "normal"), OURS, share=0.7, **timed(1.01))
    Console(file=told, width=180).print(command.table(outcome))
    lines = [
        line for line in told.getvalue().splitlines() if '1 GiB of normals, "tensorflow"' in line
    ]
    assert [line.split("│")[-2].strip() for line in lines] == ["no", "yes"]
    notes = gpu_targets.profile(outcome)
    assert notes[0] == (
        "histogram/float32/normal/on the device, fasthist: "
        "1,000.000 GB in 1.01 s: 990.1 GB/s, 0.70 of torch.sum's, 0.49 of the memory's"
    )
    assert not any("returns" in note for note in notes)


def test_what_is_said_beside_the_table():
    outcome = made_up(skipped=["late/one"])
    without = ", ".join(f"{who} ({who} is not installed)" for who in sorted(OTHERS))
    assert gpu_targets.remarks(outcome) == [
        "`fasthist.histogram(x).num`: 1.00 s for 64 float32 elements, 1.00 s for 1,000,000 float32 elements.",
        "Tests that need a GPU: 3 passed in 1 s.",
        "compute-sanitizer, memcheck: ERROR SUMMARY: 0 errors.",
        f"Left out: {without}.",
        "No time was left for: late/one.",
    ]
    outcome["cases"] = [measured("x")]
    assert gpu_targets.remarks(outcome)[0].startswith(
        "`fasthist.histogram(x).num`: not measured for 64"
    )
    assert "Failed: x, fasthist: made up." in gpu_targets.remarks(outcome)


def test_results_of_other_gpus_stay(tmp_path):
    path = tmp_path / "new" / "gpu.json"
    gpu_targets.keep(path, made_up())
    gpu_targets.keep(path, made_up(machine={"gpu": "NVIDIA Other"}, commit="first"))
    gpu_targets.keep(path, made_up(machine={"gpu": "NVIDIA Other"}, commit="second"))
    found = gpu_targets.kept(path)
    assert list(found) == ["NVIDIA Test", "NVIDIA Other"]
    assert found["NVIDIA Other"]["commit"] == "second"
    assert found["NVIDIA Test"] == made_up()
    assert [file.name for file in path.parent.iterdir()] == ["gpu.json"]


def test_the_report(tmp_path):
    path = tmp_path / "gpu.json"
    nothing = report.gpu_text(path)
    assert nothing.startswith(
        "**On a GPU** nothing was measured yet, so there is no figure here and no claim."
    )
    assert "`python benchmarks/gpu.py`" in nothing
    gpu_targets.keep(path, changed(made_up(), large("float32", "normal"), OURS, **timed(1.01)))
    gpu_targets.keep(path, made_up(machine={"gpu": "NVIDIA Other", "processors": 1, "driver": "1"}))
    text = report.gpu_text(path)
    assert "nothing was measured" not in text
    assert (
        "NVIDIA Test (132 processors, memory of 2,000 GB/s in theory, driver 590.1), Made-up; 2026-01-02, commit"
        in text
    )
    assert "NVIDIA Other (1 processors, driver 1)" in text
    assert (text.count("| **no** |"), text.count("| yes |")) == (1, 35)
    assert "| >= 0.7 | 0.69 (990 of 1,429 GB/s) | **no** |" in text
    assert text.count("\n- Tests that need a GPU: 3 passed in 1 s.\n") == 2
    path.write_text("[]", "utf-8")
    with pytest.raises(ValueError, match="is not a file of python benchmarks/gpu"):
        report.gpu_text(path)


# -- the command -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_it_ends_at_once_and_says_what_is_missing(need, tmp_path):
    torch = need("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU can be used here")
    done = CliRunner().invoke(command.main, ["--results", str(tmp_path / "gpu.json")])
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert lines[0] == "Nothing can be measured on a GPU here:"
    assert any(line.startswith("- torch ") for line in lines)
    assert any("numba-cuda" in line or "driver" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_each_thing_that_is_missing_has_its_line(monkeypatch, need):
    torch = need("torch")
    monkeypatch.setattr("fasthist.kernels.cuda.require", lambda: None)
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (line,) = command.missing()
    assert line.endswith("is built without CUDA. Run: pip install --force-reinstall torch")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.missing()[0].startswith("torch finds no GPU.")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert command.missing() == []
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert "unset NUMBA_ENABLE_CUDASIM" in command.missing()[0]


def test_what_the_machine_is():
    torch_says = {"name": "NVIDIA H100 80GB HBM3", "multi_processor_count": 132, "major": 9, "minor": 0, "total_memory": 80 << 30}  # fmt: skip
    smi = "590.48.01, 2619 MHz, 1980 MHz, 700.00 W, 81559 MiB\n"
    newer = SimpleNamespace(**torch_says, memory_clock_rate=2_619_000, memory_bus_width=5120)
    found = command.describe(newer, "")
    assert (found["driver"], found["theoretical_GB/s"]) == ("unknown", 3352.3)
    newer.memory_clock_rate = 0
    found = command.describe(newer, smi)
    assert (found["driver"], found["theoretical_GB/s"]) == ("590.48.01", 3352.3)
    assert found["nvidia-smi"]["clocks.max.sm"] == "1980 MHz"
    assert "theoretical_GB/s" not in command.describe(SimpleNamespace(**torch_says), smi)


def test_all_of_it_is_kept(monkeypatch, tmp_path, answered):
    answered(0, "3 passed in 1 s\n")
    monkeypatch.setattr(command, "missing", list)
    monkeypatch.setattr(command, "machine", lambda: made_up()["machine"])
    seen = []

    def run_cases(names, budget):
        seen.append((len(names), budget.left()))
        return made_up()["cases"], ["late/one"]

    monkeypatch.setattr(command, "run_cases", run_cases)
    path = tmp_path / "gpu.json"
    done = CliRunner().invoke(command.main, ["--results", str(path), "--minutes", "2"])
    assert done.exit_code == 0, done.output
    assert seen == [(len(CASES), pytest.approx(66, abs=5))]
    kept = gpu_targets.kept(path)["NVIDIA Test"]
    assert (kept["tests"]["summary"], kept["skipped"]) == ("3 passed in 1 s", ["late/one"])
    assert {one["holds"] for one in kept["targets"]} == {"yes"}
    assert kept["command"] == "python benchmarks/gpu.py"
    assert kept["versions"]["fasthist"]
    assert "No time was left for: late/one." in done.output

    path.write_text("{}", "utf-8")
    refused = CliRunner().invoke(command.main, ["--results", str(path)])
    assert (refused.exit_code, path.read_text("utf-8")) == (2, "{}")
    assert "Hint: move it away." in refused.output
