"""The benchmark suite: every case runs, every library's answer is right, and nothing that failed looks as if it had not."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import measure
import numpy as np
import oracle
import peers
import pytest
import report
import run
from cases import CALLS, CASES, OURS, Case
from click.testing import CliRunner
from data import DISTRIBUTIONS, Data, make_array, opened
from figures import FIGURES, check_controls, run_child
from results import NotMeasured, Run, newest, ratio_text, seconds_text
from targets import TARGETS

import fasthist

SIZE = 1000
ROOT = Path(__file__).parents[1]
MARKED = (
    "# x\n<!-- {0}:begin -->\n<!-- {0}:end -->\ntext\n<!-- {1}:begin -->\nold\n<!-- {1}:end -->\n"
    + "".join(
        f"<!-- {name}:begin -->\n<!-- {name}:end -->\n"
        for name in ("gpu", "doctor", "reading", "dask", "ranks")
    )
)


def entries():
    """Give each combination of call, values and library once: cases differ in size too, which here is always small."""
    found = {}
    for case in CASES.values():
        for library in (OURS, *case.libraries):
            key = (case.call, case.format, case.model or case.distribution, library)
            found.setdefault("/".join(key), (case, library))
    return found


ENTRIES = entries()


def ask(case, library, data, need):
    peer = CALLS[case.call][library]
    for module in peer.needs:
        need(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries warn of is theirs
        return peer.setup(peer.on(data) if peer.on else data)()


def fails(text):
    return {"failed": text}


# -- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "library"), ENTRIES.values(), ids=ENTRIES)
def test_answers_agree(case, library, need):
    if case.model:
        need("torch")
    with opened(case.data(tiny=SIZE)) as data:
        before = None if case.model else data.array.copy()
        answer = ask(case, library, data, need)
        assert measure.compare(case, library, data, answer) == ""
        if before is not None:
            np.testing.assert_array_equal(data.array, before)


FIRST = {
    f"{call}/{library}": next(
        case for case in CASES.values() if case.call == call and library in (OURS, *case.libraries)
    )
    for call, libraries in CALLS.items()
    for library, peer in libraries.items()
    if peer.counts is not None and peer.on is None
}


@pytest.mark.parametrize(("entry", "case"), FIRST.items(), ids=FIRST)
def test_that_comparison_can_fail(entry, case, need):
    library = entry.partition("/")[2]
    # The answer for other values of the same kind: another distribution, another model.
    other = replace(case, model="mlp") if case.model else replace(case, distribution="uniform")
    with opened(case.data(tiny=SIZE)) as data, opened(other.data(tiny=SIZE)) as other_data:
        answer = ask(case, library, other_data, need)
        if library == OURS and CALLS[case.call][OURS].expected is None:
            theirs = CALLS[case.call][OURS].counts(answer, other_data)
            assert measure.disagreement(
                CALLS[case.call][OURS], data, ask(case, OURS, data, need), theirs
            )
        else:
            assert measure.compare(case, library, data, answer) != ""


def test_a_single_misplaced_value_is_seen():
    peer = peers.Peer(peers.ours("tensorflow"), peers.plain_counts)
    ours = np.array([5, 0, 7])
    assert measure.disagreement(peer, None, [5, 0, 7], ours) == ""
    found = measure.disagreement(peer, None, [5, 1, 6], ours)
    assert found == "2 of 3 counts differ; the first, 1, is 1 instead of 0"
    assert measure.disagreement(peer, None, [5, 7], ours) == "2 counts instead of 3"


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_our_own_answer_is_right(distribution):
    data = Data("float32", distribution, SIZE)
    counts = peers.histogram_counts(peers.ours("tensorflow")(data)(), data)
    ordered = np.sort(data.array).astype(np.float64)
    _, wanted, _ = oracle.bucket_counts(ordered, oracle.tensorflow_edges())
    np.testing.assert_array_equal(counts, wanted)


def test_distributions_are_what_they_say():
    drawn = {name: make_array("float32", name, 100_000) for name in DISTRIBUTIONS}
    assert drawn["normal"].std() == pytest.approx(0.02, rel=0.02)
    assert np.unique(drawn["all equal"]).size == 1
    assert (drawn["90 % zeros"] == 0).mean() == pytest.approx(0.9, abs=0.01)
    low, high = np.quantile(np.log10(drawn["lognormal"]), [0.0015, 0.9985])
    assert high - low == pytest.approx(20, abs=1)
    assert (np.diff(drawn["sorted"]) >= 0).all()
    assert make_array("int8", "normal", 1000).dtype == np.int8


@pytest.mark.parametrize("format", ["float32", "bfloat16", "float8_e4m3fn", "int64"])
def test_tensor_is_the_array(format, need):
    torch = need("torch")
    need("ml_dtypes")
    data = Data(format, "normal", SIZE)
    assert str(data.tensor.dtype) == f"torch.{format}"
    np.testing.assert_array_equal(
        data.tensor.to(torch.float64).numpy(), data.array.astype(np.float64)
    )


def test_models_have_the_tensors_they_promise(need):
    need("torch")
    import models

    found = {name: len(models.parameters(name, tiny=True)) for name in models.MODELS}
    assert found == models.TENSORS
    size = sum(tensor.numel() for tensor in models.parameters("transformer").values())
    assert round(size / 1e6, 1) == 22.7


def test_every_library_takes_part():
    used = {(case.call, library) for case in CASES.values() for library in (OURS, *case.libraries)}
    assert used == {(call, library) for call, table in CALLS.items() for library in table}


# -- timing ----------------------------------------------------------------------------------------------


class Stopwatch:
    """Stands in for pytest-benchmark's fixture, whose package is optional."""

    def __init__(self):
        self.stats = None

    def pedantic(self, target, rounds, iterations, teardown):
        self.rounds, self.iterations = rounds, iterations
        for _ in range(rounds + 1):  # it makes one call more, for its result
            target()
            teardown()
        data = [float(i) for i in range(1, rounds + 1)]
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=data))


PLAN = measure.Plan(budget=0.0, round=0.0, fewest=4, most=4)


def time_made_up(monkeypatch, **libraries):
    """Time a made-up call, on the values of a real one."""
    table = {OURS: peers.Peer(peers.ours("tensorflow"), peers.histogram_counts), **libraries}
    monkeypatch.setitem(CALLS, "made up", table)
    case = Case("made up", "float32", "normal", SIZE, tuple(libraries))
    return measure.measure(case, Stopwatch(), PLAN)["libraries"]


def test_rounds_take_turns():
    order = []
    ours = measure.Entrant(lambda: order.append("we"), SIZE, SIZE, rounds=4)
    theirs = measure.Entrant(lambda: order.append("they"), SIZE, SIZE, calls=2, rounds=2)
    with opened(Data("float32", "normal", SIZE)) as data:
        data.settlers.append(lambda: order.append("."))
        measure._take_turns(Stopwatch(), {OURS: ours, "they": theirs}, data)
    # They have half as many rounds, spread evenly, of two calls; nobody follows the extra call in the end. What works
    # in the background is waited for after every round.
    assert " ".join(order) == "we . we . they they . we . we . they they . we ."
    assert ours.seconds == [1.0, 2.0, 3.0, 4.0]
    assert len(theirs.seconds) == 2


def test_what_fails_is_recorded(monkeypatch):
    def explode(_):
        msg = "no\n  such thing"
        raise ValueError(msg)

    result = time_made_up(
        monkeypatch,
        broken=peers.Peer(explode),
        wrong=peers.Peer(lambda _: lambda: np.zeros(3), peers.plain_counts),
        absent=peers.Peer(explode, needs=("no_such_module",)),
        small=peers.Peer(explode, largest=10, why_not_larger="it is slow"),
        fine=peers.Peer(peers.numpy_copyto),
    )
    assert result["broken"] == fails("ValueError: no such thing")
    assert result["wrong"]["failed"].startswith("its answer is not what it must be: 3 counts")
    assert result["absent"] == {"skipped": "no_such_module is not installed"}
    assert result["small"] == {"skipped": "measured up to 1e+01 elements: it is slow"}
    assert result["fine"]["rounds"] == 4
    assert result["fine"]["elements"] == SIZE
    assert result["fine"]["bytes"] == 4 * SIZE


def test_without_ours_nothing_is_compared(monkeypatch):
    def explode(_):
        raise MemoryError

    monkeypatch.setitem(
        CALLS, "made up", {OURS: peers.Peer(explode), "they": peers.Peer(peers.numpy_copyto)}
    )
    case = Case("made up", "float32", "normal", SIZE, ("they",))
    result = measure.measure(case, Stopwatch(), PLAN)["libraries"]
    assert result == {
        OURS: fails("MemoryError: "),
        "they": fails("not timed, because fasthist failed"),
    }


def test_short_calls_are_repeated():
    entrant = measure.Entrant(lambda: None, 1, 4)
    entrant.choose_rounds(measure.FULL)
    assert entrant.calls > 1000
    assert measure.FULL.fewest <= entrant.rounds <= measure.FULL.most


def test_spread():
    assert measure.spread([3.0, 1.0, 2.0, 4.0, 5.0]) == {
        "median": 3.0,
        "min": 1.0,
        "iqr": 2.0,
        "rounds": 5,
    }
    assert measure.spread([7.0])["iqr"] == 0


# -- runs and their files --------------------------------------------------------------------------------


def test_machine_name_is_neutral():
    cpu = "Intel(R) Xeon(R) CPU @ 2.20GHz (family 6, model 79)"
    assert run.machine_name(cpu, 2) == "intel-xeon-2-cores"
    assert run.machine_name("AMD EPYC (family 25, model 1)", 4) == "amd-epyc-4-cores"


def test_a_run_names_no_host_and_no_path():
    about = json.dumps(run.environment())
    for private in (socket.gethostname(), str(Path.home()), sys.prefix, str(ROOT)):
        assert private not in about
    assert {"python", "numpy", "numba", "fasthist"} <= set(run.environment()["versions"])


def test_a_case_without_a_record_has_failed():
    done = {"name": "a", "libraries": {}}
    found = run.completed([done], ["a", "b"])
    assert found[0] is done
    assert found[1]["name"] == "b"
    assert "process ended" in found[1]["libraries"][OURS]["failed"]


def test_no_file_is_written_over(tmp_path):
    result = {"machine": "m", "date": "2026-01-02T03:04:05Z", "commit": "abc"}
    first, second = run.save(result, tmp_path), run.save({**result, "other": 1}, tmp_path)
    assert [first.name, second.name] == ["20260102T030405Z_abc.json", "20260102T030405Z_abc_2.json"]
    assert json.loads(first.read_text("utf-8")) == result


def test_short_suite_is_a_part_of_the_whole():
    quick, whole = (run.expected_names(quick=quick, only="")[0] for quick in (True, False))
    assert 0 < len(quick) < len(whole)
    assert set(quick) < set(whole)
    assert run.expected_names(quick=False, only="^import") == ([], ["import beyond numpy"])


def test_controls_guard_the_memory_measurement():
    good = {"nothing": 4096, "control": 64 << 20, "extra": 5}
    assert check_controls(good) == 5
    for bad in ({"nothing": 5 << 20}, {"control": 0}, {"control": 100 << 20}):
        with pytest.raises(RuntimeError, match="the controls read"):
            check_controls({**good, **bad})


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/clear_refs is missing")
def test_memory_of_a_known_call():
    # numpy.copyto's callable copies into memory that exists; make_array's values were there before.
    found = run_child("child.py", "memory", "tensorflow:numpy.copyto", "1000000")
    assert check_controls(found) <= 1 << 20


def test_a_child_that_fails_is_told():
    with pytest.raises(RuntimeError, match=r"child\.py start no_such_module: ModuleNotFoundError"):
        run_child("child.py", "start", "no_such_module")


def test_a_training_loop_takes_turns(need):
    need("torch")
    need("tensorboard")
    import training

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = training.slowdown(
            "mlp", every=2, blocks={"fasthist": (2, 2), "torch": (2, 1)}, tiny=True
        )
    assert {name: len(seconds) for name, seconds in found.items()} == {
        "no logging": 3,
        "fasthist": 2,
        "fasthist, in the call": 2,
        "torch": 1,
        "torch, in the call": 1,
    }
    assert all(found["torch"][0] > taken > 0 for taken in found["torch, in the call"])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("library", ["fasthist", "torch"])
def test_a_training_loop_logs_what_it_should(library, every, need, tmp_path):
    need("torch")
    need("tensorboard")
    import training

    loop = training.Loop("transformer, short", tiny=True)
    open_writer, start = training.LOGGERS[library]
    writer = open_writer(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop.run(7, start(writer, loop.model, every))
        writer.close()
    steps = {}
    for _, tag, step, _, _ in fasthist.read(tmp_path):
        steps.setdefault(tag, []).append(step)
    assert len(steps) == 2 * 104
    assert all(found == list(range(0, 7, every)) for found in steps.values())


# -- the report ------------------------------------------------------------------------------------------


def made_up(**changes):
    """Make a result file of the whole suite: we take 1 s for everything, and so does everybody."""
    one = {"median": 1.0, "min": 1.0, "iqr": 0.0, "rounds": 3, "ratio": 1.0}
    cases = []
    for case in CASES.values():
        size = case.size or 10**6
        kind = {"model": case.model} if case.model else {"distribution": case.distribution}
        libraries = {
            library: {**one, "elements": size, "bytes": size} for library in (OURS, *case.libraries)
        }
        names = {"name": case.name, "call": case.call, "format": case.format, "elements": size}
        cases.append({**names, **kind, "libraries": libraries})
    figures = [
        {"name": figure.name, "unit": figure.unit, "libraries": {name: dict(one) for name in figure.libraries}}
        for figure in FIGURES.values()
    ]  # fmt: skip
    return {
        "machine": "m-2-cores",
        "cpu": "Made-up",
        "cores": 2,
        "system": "Linux",
        "threads": {"fasthist": 2},
        "date": "2026-01-02T03:04:05Z",
        "commit": "0123456789ab",
        "dirty": False,
        "versions": {"numpy": "2.4.6"},
        "quick": False,
        "only": "",
        "tiny": 0,
        "seconds": 900.0,
        "cases": cases,
        "figures": figures,
        **changes,
    }


def changed(content, name, library, **values):
    content = copy.deepcopy(content)
    for record in content["cases"] + content["figures"]:
        if record["name"] == name:
            record["libraries"][library] = values
    return content


def timed(seconds, elements):
    return {"median": seconds, "elements": elements, "ratio": seconds}


def target_row(content, beginning):
    rows = report.target_table(Run(content)).splitlines()
    (row,) = [row for row in rows if row.startswith(f"| {beginning}")]
    return row


def test_table_row():
    content = changed(
        made_up(), "edges/float32/normal/1e7", "numpy.histogram", **timed(18.04, 10**7)
    )
    rows = report.benchmark_table(Run(content)).splitlines()
    (row,) = [row for row in rows if "64 edges" in row]
    assert row == (
        "| `histogram`, 64 edges | 10,000,000 float32 | 1.00 s | 10.0 M/s | 18.0x numpy.histogram"
        " · 1.00x boost-histogram, 1 thread · 1.00x boost-histogram, 2 threads · 1.00x torch.sum |"
    )


def test_every_row_of_the_readme_exists():
    assert set(report.SHOWN) <= set(CASES)
    table = report.benchmark_table(Run(made_up()))
    assert len(table.splitlines()) == len(report.SHOWN) + 2
    assert "Failed" not in table


def test_a_failed_case_is_shown_as_failed():
    name = "add_histogram/float32/normal/64"
    content = changed(made_up(), name, "tf.summary", failed="ValueError: a | b")
    table = report.benchmark_table(Run(content))
    assert "failed (ValueError: a \\| b) tf.summary" in table
    assert f"- {name}, tf.summary: ValueError: a \\| b" in table
    content = changed(made_up(), name, OURS, failed="MemoryError: ")
    assert "| `add_histogram` | 64 float32 | failed (MemoryError: ) | - | - |" in (
        report.benchmark_table(Run(content))
    )
    assert target_row(content, "`add_histogram` of 64 elements |").endswith(
        "| failed: MemoryError:  | unknown |"
    )


def test_a_case_whose_process_died_is_shown():
    content = made_up()
    names = [record["name"] for record in content["cases"]]
    content["cases"] = run.completed(content["cases"][1:], names)
    table = report.benchmark_table(Run(content))
    assert f"| {names[0]} | - | failed (left no result" in table


def test_targets_are_all_decided_by_a_whole_run():
    rows = report.target_table(Run(made_up())).splitlines()[2:]
    assert len(rows) == len(TARGETS)
    assert [row for row in rows if not row.endswith(("| yes |", "| **no** |"))] == []


@pytest.mark.parametrize(
    ("ratio", "shown", "verdict"), [(30.0, "30.0x", "yes"), (29.99, "29.9x", "**no**")]
)
def test_a_target_is_met_or_missed(ratio, shown, verdict):
    name = "tensorflow/float32/normal/1e8"
    content = changed(made_up(), name, "torch make_histogram", **timed(ratio, 10**8))
    what = 'float32, 1e8 normals, "tensorflow": against torch make_histogram as'
    row = target_row(content, what)
    assert f"| >= 30x | {shown} (1.00 s against {seconds_text(ratio)}) | {verdict} |" in row


def test_a_missing_case_is_not_measured():
    content = made_up()
    content["cases"] = []
    assert target_row(content, "the slowest").endswith("| not measured | unknown |")


def test_the_slowest_distribution_is_named():
    content = made_up()
    for name, seconds in (("all equal", 2.0), ("sorted", 1.5)):
        content = changed(content, f"tensorflow/float32/{name}/1e8", OURS, **timed(seconds, 10**8))
        content = changed(
            content, f"tensorflow/float32/{name}/1e8", "fasthist on normal", **timed(1.0, 10**8)
        )
    assert target_row(content, "the slowest").endswith("| 0.50 (all equal) | **no** |")


def test_growth_compares_elements_not_seconds():
    name = "tensorflow/float32/normal/1e8"
    content = changed(made_up(), name, OURS, **timed(1.2, 10**8))
    content = changed(content, name, "fasthist on 1e7", **timed(0.1, 10**7))
    assert target_row(content, "time for an element").endswith("| 1.200x | **no** |")


def test_slowdown_of_training():
    name = "training step, transformer, every step"
    content = changed(made_up(), name, "fasthist", median=1.04)
    content = changed(content, name, "torch", median=3.0)
    row = target_row(content, "training the 104-tensor transformer")
    assert row.endswith("| +4.0% (torch's add_histogram: 200 %; a step without: 1.00 s) | yes |")
    assert target_row(changed(content, name, "fasthist", median=1.06), "training the 104").endswith(
        "**no** |"
    )


def test_numbers_never_look_better_than_they_are():
    assert [ratio_text(x) for x in (29.99, 4.999, 199.9, 0.249)] == [
        "29.9x",
        "4.99x",
        "199x",
        "0.24x",
    ]
    assert [ratio_text(x) for x in (30.0, 0.29, 100.0, 1.1)] == ["30.0x", "0.29x", "100x", "1.10x"]
    assert [seconds_text(x) for x in (2.5, 0.0123, 19.06e-6, 5e-7)] == [
        "2.50 s",
        "12.3 ms",
        "19.1 µs",
        "500 ns",
    ]


def test_results_tell_why_there_is_no_number():
    content = changed(made_up(), "extra memory", "fasthist", skipped="too large")
    with pytest.raises(NotMeasured, match="skipped: too large"):
        Run(content).median("extra memory")
    with pytest.raises(NotMeasured, match="not measured"):
        Run(content).median("extra memory", "nobody")


def put(results, name, **changes):
    content = made_up(**changes)
    folder = results / content["machine"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")


def test_newest_whole_run_of_each_machine(tmp_path):
    put(tmp_path, "1", date="2026-01-01T00:00:00Z", commit="old")
    put(tmp_path, "2", date="2026-01-03T00:00:00Z", commit="new")
    put(tmp_path, "3", date="2026-01-04T00:00:00Z", commit="quick", quick=True)
    put(tmp_path, "4", date="2026-01-05T00:00:00Z", commit="part", only="x")
    put(tmp_path, "5", date="2026-01-06T00:00:00Z", commit="tiny", tiny=9)
    put(tmp_path, "1", date="2026-01-09T00:00:00Z", commit="other", quick=True, machine="b")
    (tmp_path / "pictures").mkdir()
    put(tmp_path, "6", date="2026-01-02T00:00:00Z", commit="before", only="x")
    other, new = newest(tmp_path)
    assert (other.content["commit"], other.parts) == ("other", [])
    assert new.content["commit"] == "new"
    assert [part["commit"] for part in new.parts] == ["part"]
    assert "cases measured again on 2026-01-05, commit part." in new.title


def test_a_later_run_of_some_cases_stands_in_their_place():
    def content(commit, median, **rest):
        case = {"name": "a", "libraries": {"fasthist": {"median": median}}}
        return {"commit": commit, "cases": [case], "figures": [], **rest}

    assert Run(content("old", 1.0)).median("a") == 1.0
    assert Run(content("old", 1.0), [content("new", 2.0)]).median("a") == 2.0


def reported(*arguments, tmp_path):
    paths = ["--results", str(tmp_path), "--readme", str(tmp_path / "README.md")]
    return CliRunner().invoke(report.main, [*arguments, *paths])


def test_report_writes_the_readme_and_sees_when_it_is_stale(tmp_path, need):
    need("matplotlib")
    readme = tmp_path / "README.md"
    readme.write_text(MARKED.format("targets", "benchmarks"), "utf-8")
    put(tmp_path, "1", commit="first")
    assert reported("--check", tmp_path=tmp_path).exit_code == 1
    done = reported(tmp_path=tmp_path)
    assert done.exit_code == 0, done.output
    text = readme.read_text("utf-8")
    assert "commit first, whole suite in 900 s" in text
    assert "\nold\n" not in text
    assert text.startswith("# x\n<!-- targets:begin -->\n")
    assert "\n<!-- targets:end -->\ntext\n<!-- benchmarks:begin -->\n" in text
    picture = (tmp_path / "pictures" / "benchmarks.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert reported("--check", tmp_path=tmp_path).exit_code == 0

    put(tmp_path, "2", commit="second", date="2026-02-02T00:00:00Z")
    stale = reported("--check", tmp_path=tmp_path)
    assert stale.exit_code == 1
    assert "README.md is stale" in stale.output
    assert readme.read_text("utf-8") == text


def test_report_asks_for_markers_and_for_a_run(tmp_path):
    (tmp_path / "README.md").write_text("# x\n", "utf-8")
    empty = reported(tmp_path=tmp_path)
    assert (empty.exit_code, "no run in" in empty.output) == (1, True)
    put(tmp_path, "1")
    unmarked = reported("--check", tmp_path=tmp_path)
    assert unmarked.exit_code == 1
    assert "the README has no <!-- benchmarks:begin -->" in unmarked.output


def test_the_benchmark_of_ranks_and_its_report(tmp_path, need):
    need("torch")
    need("matplotlib")
    import ranks_model

    script = ROOT / "benchmarks" / "ranks.py"
    out = tmp_path / ranks_model.FILE
    command = [sys.executable, str(script), "--tensors", "3", "--rounds", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text("utf-8"))
    assert [row["processes"] for row in found["rows"]] == [2, 4, 8] * 2
    for row in found["rows"]:
        assert len(row["bytes"]) == 3
        of_counts = sum(row["bytes"]) - ranks_model.bytes_of(3, 0)
        buckets = 1550 + 256 if row["values"] == "everywhere" else 600
        assert 0 < of_counts <= 3 * 4 * buckets
    readme = tmp_path / "README.md"
    readme.write_text(MARKED.format("targets", "benchmarks"), "utf-8")
    put(tmp_path, "1")
    out.rename(tmp_path / "kept")
    assert reported(tmp_path=tmp_path).exit_code == 0
    assert "Not measured yet: `python benchmarks/ranks.py`" in readme.read_text("utf-8")
    (tmp_path / "kept").rename(out)
    assert reported(tmp_path=tmp_path).exit_code == 0
    assert "| normals | 8 | " in readme.read_text("utf-8")
    assert "| everywhere | 10,000 | " in readme.read_text("utf-8")
    out.write_text("[]", "utf-8")
    assert "is not a file of python benchmarks/ranks.py" in reported(tmp_path=tmp_path).output


def test_the_model_of_many_ranks():
    import ranks_model

    assert ranks_model.bytes_of(1000, 1806, narrow=False) == 24 + 1000 * (112 + 168 + 1806 * 8)
    assert ranks_model.sent_in_ring(8.0, 4) == 12
    assert [ranks_model.messages(1024, ring=ring) for ring in (True, False)] == [6138, 60]


def test_labels_do_not_overlap(need):
    need("matplotlib")
    from plots import spread_apart

    moved = spread_apart([1.0, 0.0, 0.05, 0.1], 0.3)
    assert min(np.diff(sorted(moved))) >= 0.3 - 1e-6
    assert np.argsort(moved).tolist() == [1, 2, 3, 0]
    assert spread_apart([0.0, 5.0], 0.3) == [0.0, 5.0]


def test_this_readme_is_not_stale():
    if not newest(ROOT / "bench_results"):
        pytest.skip("bench_results has no run of the suite")
    done = CliRunner().invoke(report.main, ["--check"])
    assert done.exit_code == 0, done.output
