"""`History`: the columns and histograms of a run, against TensorBoard's classes and the values themselves."""

from __future__ import annotations

import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from event_files import Event, all_events, files
from lives import accumulated_steps, write_history
from loaders import python_loader
from real_writers import DATA, expected

import fasthist
from fasthist import History, SummaryWriter
from fasthist.errors import ArgumentError, EventFileError
from fasthist.events import finding, index
from fasthist.events.messages import (
    histogram_tensor_value,
    histogram_value,
    purge_events,
    scalar_value,
    summary_event,
)
from fasthist.events.record import frame

GOLDEN = Path(__file__).parent / "golden"
RNG = np.random.default_rng(3)


def write(log_dir, steps, tags=("a", "b"), scale=1.0, **options):
    """Write normal values, so many that their sums are written too; give {(tag, step): values}."""
    written = {}
    with SummaryWriter(log_dir, **options) as writer:
        for step in steps:
            for tag in tags:
                values = RNG.normal(0, scale, 1000)
                writer.add_histogram(tag, values, step)
                written[tag, step] = values
    return written


# ---- what it tells


def test_series_by_tag_in_order_of_appearance(tmp_path):
    write(tmp_path, range(3), tags=("z", "a"))
    write(tmp_path, range(3, 5), tags=("m", "a"))
    history = History.open(tmp_path)
    assert list(history) == ["z", "a", "m"]
    assert [len(series) for series in history.values()] == [3, 5, 2]
    assert history.run == "."
    assert history["a"].tag == "a"
    assert "m" in history
    with pytest.raises(KeyError):
        history["gone"]


def test_columns_are_those_of_the_values(tmp_path):
    written = write(tmp_path, range(150), tags=("w",), scale=0.3)  # more than one batch
    series = History.open(tmp_path)["w"]
    assert series.steps.tolist() == list(range(150))
    assert series.steps.dtype == np.int64
    values = np.stack([written["w", step] for step in range(150)])
    assert series.num.tolist() == [1000.0] * 150
    np.testing.assert_array_equal(series.min, values.min(axis=1))
    np.testing.assert_array_equal(series.max, values.max(axis=1))
    np.testing.assert_allclose(series.sum, values.sum(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(series.mean, values.mean(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(series.std, values.std(axis=1), rtol=1e-12)
    np.testing.assert_allclose(series.l2_norm, np.linalg.norm(values, axis=1), rtol=1e-12)
    assert not series.nan_count.any()
    assert series.zero_count.tolist() == [0.0] * 150


@pytest.mark.parametrize("buckets", ["auto", "tensorflow"])
def test_std_of_values_far_from_zero_survives_a_file(tmp_path, buckets):
    rng = np.random.default_rng(8)
    cases = {
        "far": 1e6 + rng.normal(0, 1e-3, 5000),
        "spikes": 1e6 + np.repeat([0.0, 1e-3, 5e-3], 40),
        "with NaN": np.append(1e6 + rng.normal(0, 1e-3, 50), np.nan),
        "near": rng.normal(size=300),
    }
    with SummaryWriter(tmp_path) as writer:
        for step in range(2):
            for tag, values in cases.items():
                h = fasthist.histogram(values, buckets=buckets)
                writer.add_histogram(tag, h, step)
    history = History.open(tmp_path)
    for tag, values in cases.items():
        finite = values[np.isfinite(values)]
        expected = (finite - finite[0]).std()
        series = history[tag]
        assert series.std == pytest.approx(expected, rel=1e-9)
        assert [h.std for h in series] == series.std.tolist()
        assert (series[0] + series[0]).std == pytest.approx(expected, rel=1e-6)


def test_columns_are_those_of_tensorboards_own_reader(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(7))
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    history = History.open(tmp_path)
    for tag in ("a", "b"):
        found = accumulator.Histograms(tag)
        series = history[tag]
        assert series.steps.tolist() == [one.step for one in found]
        assert series.wall_times.tolist() == [one.wall_time for one in found]
        for name in ("num", "min", "max", "sum", "sum_squares"):
            assert getattr(series, name).tolist() == [
                getattr(one.histogram_value, name) for one in found
            ]


@pytest.mark.parametrize("library", ["torch", "tensorboardx", "tensorflow1", "tensorflow2"])
def test_files_of_other_libraries(library):
    history = History.open(GOLDEN / library)
    for tag, step, values in expected():
        if tag == "huge" and library in ("torch", "tensorboardx"):  # which do not count 1e30
            continue
        series = history[tag]
        place = series.steps.tolist().index(step)
        assert series.num[place] == values.size
        assert series.at(step).num == values.size
        if library == "tensorflow2":  # whose rows have no sums
            assert np.isnan([series.mean[place], series.sum[place]]).all()
            assert math.isnan(series.std[place]) == (values.min() < values.max())
        else:
            doubles = values.astype(np.float64)
            assert series.mean[place] == pytest.approx(doubles.mean(), rel=1e-6)
            assert series.std[place] == pytest.approx(doubles.std(), rel=1e-6, abs=1e-12)
        assert math.isnan(series.nan_count[place])  # only fasthist tells
    assert set(DATA) <= set(history)


@pytest.mark.parametrize("library", ["torch", "tensorboardx", "tensorflow1", "tensorflow2"])
def test_histograms_and_columns_are_what_the_reader_gives(library):
    read = {(one.tag, one.step): one.histogram for one in fasthist.read(GOLDEN / library)}
    found = {
        (tag, step): (histogram, row)
        for tag, series in History.open(GOLDEN / library).items()
        for step, histogram, row in zip(
            series.steps.tolist(),
            series,
            zip(series.num, series.min, series.max, series.mean, series.std, strict=True),
            strict=True,
        )
    }
    assert found.keys() == read.keys()
    for key, (histogram, row) in found.items():
        assert histogram == read[key]
        told = [getattr(histogram, name) for name in ("num", "min", "max", "mean", "std")]
        assert list(row) == pytest.approx(
            [math.nan if one is None else one for one in told], nan_ok=True, rel=1e-14
        )


def test_specials_and_zeros_of_our_own_files(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", [0.0, 0.0, 1.0, 3.0, np.nan, np.inf], 0, stats=True)
        writer.add_histogram("w", [1.0, -np.inf, -np.inf], 1)
        writer.add_histogram("w", [np.nan] * 5, 2)
    series = History.open(tmp_path)["w"]
    assert series.num.tolist() == [4, 1, 0]
    assert series.nan_count.tolist() == [1, 0, 5]
    assert series.posinf_count.tolist() == [1, 0, 0]
    assert series.neginf_count.tolist() == [0, 2, 0]
    assert series.zero_count.tolist() == [2, 0, 0]
    assert np.isnan([series.min[2], series.mean[2], series.std[2]]).all()
    assert series.at(2).nan_count == 5
    assert series.at(0).posinf_count == 1


def test_constants_and_infinite_sums(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", fasthist.histogram([1e300, 2e300], buckets="tensorflow"), 0)
        writer.add_histogram("w", [0.3] * 9, 1)
    series = History.open(tmp_path)["w"]
    assert series.std[0] == math.inf
    assert series.std[1] == pytest.approx(0, abs=1e-8)
    assert [one.std for one in series] == series.std.tolist()


def test_quantiles(tmp_path):
    written = write(tmp_path, range(70), tags=("w",))
    found = History.open(tmp_path)["w"].quantiles([0.1, 0.5, 1.0])
    assert found.shape == (70, 3)
    values = np.stack([written["w", step] for step in range(70)])
    np.testing.assert_array_equal(found[:, 2], values.max(axis=1))
    below = (values < found[:, 1:2]).mean(axis=1)
    assert abs(below - 0.5).max() < 0.03
    with pytest.raises(ArgumentError, match=r"q=2\.0"):
        History.open(tmp_path)["w"].quantiles([2.0])


def test_quantiles_of_nothing_are_nan(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", [np.nan], 0)
        writer.add_histogram("w", [2.0], 1)
    found = History.open(tmp_path)["w"].quantiles(0.5)
    assert np.isnan(found[0, 0])
    assert found[1, 0] == pytest.approx(2.0)


def test_index_slice_and_places(tmp_path):
    written = write(tmp_path, (1, 5, 9), tags=("w",))
    series = History.open(tmp_path)["w"]
    assert series[-1].max == written["w", 9].max()
    assert [one.max for one in series[:2]] == [written["w", step].max() for step in (1, 5)]
    assert [one.max for one in series[np.array([2, 0])]] == [
        written["w", step].max() for step in (9, 1)
    ]
    assert [one.max for one in reversed(series)] == [written["w", step].max() for step in (9, 5, 1)]
    with pytest.raises(IndexError):
        series[3]
    assert repr(series) == "Series('w', 3 steps, 1 to 9)"


def test_at_names_the_nearest_step(tmp_path):
    written = write(tmp_path, (0, 10, 20), tags=("w",))
    series = History.open(tmp_path)["w"]
    assert series.at(10).max == written["w", 10].max()
    with pytest.raises(ArgumentError, match=r"no step 14\. .* 3 steps, 0 to 20\. .* nearest is 10"):
        series.at(14)
    with pytest.raises(ArgumentError, match="nearest is 20"):
        series.at(21)


# ---- restarts


def test_steps_are_sorted_and_the_last_written_wins(tmp_path):
    write(tmp_path, (3, 1, 2), tags=("w",))
    again = write(tmp_path, (2, 4), tags=("w",))
    series = History.open(tmp_path)["w"]
    assert series.steps.tolist() == [1, 2, 3, 4]
    assert series.at(2).max == again["w", 2].max()


def test_a_restart_forgets_what_was_after_it_as_tensorboard_does(tmp_path):
    write(tmp_path, range(10), tags=("w", "v"))
    write(tmp_path, range(5, 10), tags=("late",))
    second = write(tmp_path, (7, 8), tags=("w",), purge_step=5)
    history = History.open(tmp_path)
    shown = {
        tag: sorted({step for step, *_ in steps})
        for (_, tag), steps in python_loader(tmp_path, "histograms").items()
        if steps
    }
    assert {tag: series.steps.tolist() for tag, series in history.items()} == shown
    assert shown == {"w": [0, 1, 2, 3, 4, 7, 8], "v": [0, 1, 2, 3, 4]}
    assert history["w"].at(7).max == second["w", 7].max()


def test_the_first_start_of_a_session_counts(tmp_path, need):
    """torch's first life notes none, so that the one of its purge_step is the first."""
    torch_writer = need("torch.utils.tensorboard").SummaryWriter
    for purge_step, steps in ((None, range(10)), (5, range(5, 8))):
        with torch_writer(str(tmp_path), purge_step=purge_step) as writer:
            for step in steps:
                writer.add_histogram("w", RNG.normal(size=20), step)
    assert accumulated_steps(tmp_path) == {"w": list(range(8))}
    assert History.open(tmp_path)["w"].steps.tolist() == list(range(8))


@pytest.mark.filterwarnings("ignore")  # what the libraries warn of
def test_random_histories_of_lives(tmp_path, need):
    """Whatever was written after whatever, the steps are those of TensorBoard's EventAccumulator."""
    for name in ("torch", "tensorboardX", "tensorflow"):
        need(name)
    for number in range(int(os.environ.get("FASTHIST_HISTORIES", "60"))):
        log_dir = tmp_path / str(number)
        log_dir.mkdir()
        lives = write_history(need, number, log_dir)
        if not any(log_dir.iterdir()):
            continue
        found = {tag: series.steps.tolist() for tag, series in History.open(log_dir).items()}
        assert found == accumulated_steps(log_dir), (number, *lives)


@pytest.mark.parametrize(
    "version", [None, "brain.Event:1", "brain.Event:2", "brain.Event:3.5", "2", "two", "é"]
)
def test_every_version_of_a_file(tmp_path, version):
    """Before the second one, a step back says that the tags of its event began anew, and a start of a session nothing."""
    head = [] if version is None else [Event(file_version=version).SerializeToString()]
    value = {tag: histogram_value(tag, **fasthist.histogram([1.0, 4.0]).to_raw()) for tag in "ab"}
    payloads = [
        *[summary_event(value.values(), 1.0, step) for step in (0, 1, 2, 3, 4)],
        summary_event([value["a"]], 1.0, 2),
        summary_event([scalar_value("b", 0.5)], 1.0, 3),
        purge_events(1.0, 1)[1],
        summary_event([value["b"]], 1.0, 1),
    ]
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"".join(map(frame, head + payloads)))
    found = {tag: series.steps.tolist() for tag, series in History.open(tmp_path).items()}
    assert found == accumulated_steps(tmp_path)


def test_a_restart_forgets_rows_of_our_own(tmp_path):
    """Which are one step's form of a series, and another's not; EventAccumulator forgets no tensors."""
    for purge_step, steps in ((None, range(6)), (3, (3,))):
        with SummaryWriter(tmp_path, purge_step=purge_step) as writer:
            for step in steps:
                writer.add_histogram("w", RNG.normal(size=20 if step % 2 else 200), step)
    events = all_events(tmp_path)
    assert {value.WhichOneof("value") for e in events for value in e.summary.value} >= {
        "histo",
        "tensor",
    }
    assert History.open(tmp_path)["w"].steps.tolist() == [0, 1, 2, 3]


def test_a_restart_keeps_histograms_and_counts_of_nan_together(tmp_path):
    """It writes the last value of each tag again, and a count of NaN may be from an earlier step than its histogram."""
    values = {2: [1, 2, np.inf], 3: [1, 2, np.nan], 4: [3.0, 5], 7: [1, np.nan, np.inf]}
    for begin in (0, 2):
        log_dir = tmp_path / str(begin)
        steps = [step for step in values if step >= begin and step != (4 if begin else None)]
        with SummaryWriter(log_dir) as writer:
            for step in steps:
                writer.add_histogram("a", values[step], step)
        first = History.open(log_dir)["a"]
        expected = {step: first.at(step) for step in steps if step < 5}
        for _ in range(2):
            with SummaryWriter(log_dir, purge_step=5) as writer:
                writer.add_histogram("b", [1.0], 5)
        series = History.open(log_dir)["a"]
        assert dict(zip(series.steps.tolist(), series, strict=True)) == expected
        assert [h.nan_count for h in series] == [0, 1, 0][: len(expected)]


def test_a_restart_forgets_what_hid_rows_of_others_and_not_them(tmp_path):
    """Rows and another form at one step, which EventAccumulator keeps apart."""
    rows = histogram_tensor_value("w", np.array([[0.0, 1, 2], [1, 2, 3]]))
    other = histogram_value("w", **fasthist.histogram([1.0, 4.0]).to_raw())
    start = purge_events(1.0, 2)[:2]
    for name, events in {
        "1": [summary_event([rows], 1.0, step) for step in range(4)],
        "2": [summary_event([other], 1.0, step) for step in (3, 1)],
        "3": start,
    }.items():
        payloads = [purge_events(1.0, 0)[0], *events]
        (tmp_path / f"events.out.tfevents.{name}").write_bytes(b"".join(map(frame, payloads)))
    assert accumulated_steps(tmp_path) == {"w": [0, 1, 2, 3]}
    series = History.open(tmp_path)["w"]
    assert series.steps.tolist() == [0, 1, 2, 3]
    assert series.num.tolist() == [5, 2, 5, 5]


# ---- live runs


def test_refresh_gives_what_was_written_since(tmp_path):
    writer = SummaryWriter(tmp_path)
    writer.add_histogram("a", [1.0], 0)
    writer.flush()
    history = History.open(tmp_path)
    series = history["a"]
    assert not history.refresh()
    writer.add_histogram("a", [2.0, 3.0], 1)
    writer.add_histogram("b", [4.0], 1)
    writer.flush()
    assert series.steps.tolist() == [0]
    assert history.refresh()
    assert series.steps.tolist() == [0, 1]
    assert history["a"] is series
    assert series.at(1).max == 3.0
    assert list(history) == ["a", "b"]
    writer.close()
    write(tmp_path, (2,), tags=("a",))
    assert history.refresh()
    assert series.steps.tolist() == [0, 1, 2]
    write(tmp_path, (), purge_step=1)
    assert history.refresh()
    assert series.steps.tolist() == [0]
    assert list(history) == ["a"]


def test_refresh_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "_BATCH", 2000)
    monkeypatch.setattr(index, "_TELLING", 500)
    write(tmp_path, range(5))
    (path,) = files(tmp_path)
    advanced = []
    history = History(str(tmp_path), ".")
    assert history.nbytes == path.stat().st_size
    history.refresh(advanced.append)
    assert len(advanced) > 3
    assert sum(advanced) == path.stat().st_size


def test_half_a_record_is_the_end_for_now(tmp_path):
    write(tmp_path, range(3), tags=("w",))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    history = History.open(tmp_path)
    assert history["w"].steps.tolist() == [0, 1]
    path.write_bytes(whole)
    assert history.refresh()
    assert history["w"].steps.tolist() == [0, 1, 2]


# ---- runs


def test_the_only_run_below_a_directory(tmp_path):
    write(tmp_path / "runs" / "a", range(2))
    for path, run in ((tmp_path, "runs/a"), (tmp_path / "runs", "a"), (tmp_path / "runs/a", ".")):
        history = History.open(path)
        assert (history.run, list(history)) == (run, ["a", "b"])
    (path,) = files(tmp_path / "runs/a")
    assert list(History.open(path)) == ["a", "b"]


def test_several_runs_are_named(tmp_path):
    for run in ("x", "y/z"):
        write(tmp_path / run, range(2))
    with pytest.raises(ArgumentError, match=r"holds 2 runs: 'x', 'y/z'\. .* run="):
        History.open(tmp_path)
    assert History.open(tmp_path, "y/z").run == "y/z"
    with pytest.raises(ArgumentError, match=r"run='w' is not below .* 'x', 'y/z'"):
        History.open(tmp_path, run="w")
    everything = History.open_all(tmp_path)
    assert list(everything) == ["x", "y/z"]
    assert [len(history) for history in everything.values()] == [2, 2]


def test_no_run(tmp_path):
    with pytest.raises(ArgumentError, match="is not there"):
        History.open(tmp_path / "gone")
    with pytest.raises(ArgumentError, match="holds no event files"):
        History.open(tmp_path)
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert len(History.open(tmp_path)) == 0


# ---- damage


def damaged_run(tmp_path, fragment=b"\x01b"):
    """Write three steps, and flip a bit in the second one of "b"."""
    write(tmp_path, range(3))
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    second = [i for i in range(len(data)) if data.startswith(b"\x0a" + fragment, i)][1]
    data[second + 500] ^= 4
    path.write_bytes(data)
    return path


def test_damage_is_an_error_or_is_passed_over(tmp_path):
    path = damaged_run(tmp_path)
    with pytest.raises(EventFileError, match="checksum of the record's data is wrong"):
        History.open(tmp_path)
    history = History.open(tmp_path, skip_corrupt=True)
    assert history.corrupt_count == 1
    assert history["a"].steps.tolist() == [0, 1, 2]
    assert history["b"].steps.tolist() == [0, 2]
    fresh = History(str(path), ".")
    for _ in range(2):  # the next attempt raises it again, and what was before stays
        with pytest.raises(EventFileError):
            fresh.refresh()
        assert fresh["a"].steps.tolist() == [0, 1]


def test_an_event_that_contradicts_itself(tmp_path):
    write(tmp_path, range(2), tags=("w",))
    (path,) = files(tmp_path)
    # Three limits and no count, in a value called "x".
    value = b"\x0a\x01x\x2a\x1a\x32\x18" + np.arange(3.0).tobytes()
    with path.open("ab") as file:
        file.write(frame(summary_event([value], 1.0, 5)))
    with pytest.raises(EventFileError, match="3 limits and 0 counts"):
        History.open(tmp_path)
    history = History.open(tmp_path, skip_corrupt=True)
    assert (list(history), history.corrupt_count) == (["w"], 1)


def test_a_tag_that_is_no_text(tmp_path):
    write(tmp_path, range(2), tags=("w",))
    (path,) = files(tmp_path)
    value = b"\x0a\x01\xff\x2a\x14\x32\x08" + bytes(8) + b"\x3a\x08" + bytes(8)
    with path.open("ab") as file:
        file.write(frame(summary_event([value], 1.0, 5)))
    with pytest.raises(EventFileError, match="not UTF-8"):
        History.open(tmp_path)


def test_a_file_that_has_become_shorter_or_is_gone(tmp_path):
    write(tmp_path / "run", range(3), tags=("w",))
    series = History.open(tmp_path)["w"]
    (path,) = files(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(EventFileError, match="has become shorter"):
        series[-1]
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        series[0]


# ---- memory


def test_a_hundred_bytes_for_each(tmp_path):
    assert index.ENTRY.itemsize <= 128
    write(tmp_path, range(20))
    history = History.open(tmp_path)
    held = [value for value in vars(history._index).values() if isinstance(value, dict)]
    assert sum(table.nbytes for table in history._index.tables.values()) == 40 * 128
    assert not any(isinstance(one, fasthist.Histogram) for each in held for one in each.values())


def test_pickled_whole_or_one_series(tmp_path):
    write(tmp_path, range(3))
    history = History.open(tmp_path)
    copy = pickle.loads(pickle.dumps(history))
    assert list(copy) == list(history)
    assert copy["b"].at(2).counts.tolist() == history["b"].at(2).counts.tolist()
    write(tmp_path, (3,), tags=("b",))
    assert copy.refresh()
    assert copy["b"].steps.tolist() == [0, 1, 2, 3]
    series = pickle.loads(pickle.dumps(history["b"]))
    assert series.at(1).counts.tolist() == history["b"].at(1).counts.tolist()
    assert list(series._index.tables) == ["b"]
