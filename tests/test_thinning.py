"""What keeps event files small: fewer steps, an estimate before, and a word when they are large all the same."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from event_files import all_events, files

import fasthist
from fasthist import thinning
from fasthist.errors import ArgumentError, ArrayError, WriteError
from fasthist.summary_writer import SummaryWriter

WEIGHTS = np.random.default_rng(3).normal(0, 0.02, 2000).astype(np.float32)


def written(log_dir):
    """Give {tag: [steps]} in the order of the files."""
    found = {}
    for _, tag, step, _, _ in fasthist.read(log_dir):
        found.setdefault(tag, []).append(step)
    return found


def test_every(tmp_path):
    with SummaryWriter(tmp_path, every=10) as writer:
        for step in range(3, 48):
            writer.add_histogram("a", WEIGHTS, step)
            if step % 7 == 0:
                writer.add_histograms({"b": WEIGHTS, "c": {"d": WEIGHTS}}, step)
    sparse = [7, 21, 35]
    assert written(tmp_path) == {"a": [3, 13, 23, 33, 43], "b": sparse, "c/d": sparse}


def test_scalars_are_all_written(tmp_path):
    with SummaryWriter(tmp_path, every=10) as writer:
        for step in range(5):
            writer.add_scalar("loss", step, step)
        writer.flush()
        assert writer._events.nbytes > 5 * 20


def test_a_raw_histogram_is_thinned_as_well(tmp_path):
    raw = fasthist.histogram(WEIGHTS).to_raw()
    with SummaryWriter(tmp_path, every=3) as writer:
        for step in range(5):
            writer.add_histogram_raw("a", **raw, global_step=step)
    assert written(tmp_path) == {"a": [0, 3]}


def test_what_is_left_out_is_not_counted(tmp_path, monkeypatch):
    with SummaryWriter(tmp_path, every=10) as writer:
        writer.add_histogram("a", WEIGHTS, 0)
        writer.add_histograms({"b": WEIGHTS}, 0)
        monkeypatch.setattr(
            "fasthist.compute.tally",
            lambda arrays, *_, **__: pytest.fail("counted") if arrays else [],
        )
        writer.add_histogram("a", WEIGHTS, 1)
        writer.add_histograms({"b": WEIGHTS}, 1)


def test_a_series_that_begins_late_has_its_first_step(tmp_path):
    with SummaryWriter(tmp_path, every=100) as writer:
        writer.add_histograms({"a": WEIGHTS}, 0)
        writer.add_histograms({"a": WEIGHTS, "b": WEIGHTS}, 7)
    assert written(tmp_path) == {"a": [0], "b": [7]}


def test_a_step_that_goes_back_begins_anew(tmp_path):
    with SummaryWriter(tmp_path, every=10) as writer:
        for step in (0, 10, 15, 20, 12, 13, 22):
            writer.add_histogram("a", WEIGHTS, step)
    assert written(tmp_path) == {"a": [0, 10, 20, 12, 22]}


def test_the_last_step_is_written_at_the_end(tmp_path):
    with SummaryWriter(tmp_path, every=10, keep_last=True) as writer:
        for step in range(26):
            writer.add_histograms({"a": WEIGHTS[: step + 1], "b": WEIGHTS}, step)
            if step < 20:
                writer.add_histogram("c", WEIGHTS, step, stats=True)
        writer.add_histogram("d", WEIGHTS, 0)
        writer.flush()
        assert written(tmp_path) == {"a": [0, 10, 20], "b": [0, 10, 20], "c": [0, 10], "d": [0]}
    assert written(tmp_path) == {
        "a": [0, 10, 20, 25],
        "b": [0, 10, 20, 25],
        "c": [0, 10, 19],
        "d": [0],
    }
    last = [h for _, tag, step, _, h in fasthist.read(tmp_path) if (tag, step) == ("a", 25)]
    assert last[0].num == 26


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_the_last_step_is_written_whatever_ends_the_process(tmp_path, ending):
    code = f"""
import os, signal, sys
import fasthist
writer = fasthist.SummaryWriter(sys.argv[1], every=10, keep_last=True)
for step in range(15):
    writer.add_histogram("a", [1.0, 2.0], step)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == (-signal.SIGTERM if "kill" in ending else 3 if ending else 0)
    assert written(tmp_path) == {"a": [0, 10, 14]}


def go_on(writer):
    writer.add_histogram("b", WEIGHTS, 0)
    writer.add_histogram("b", WEIGHTS, 3)
    writer.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-?threaded")
def test_the_last_steps_of_another_process_are_its_own(tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    with SummaryWriter(tmp_path, every=10, keep_last=True) as writer:
        for step in range(5):
            writer.add_histogram("a", WEIGHTS, step)
        child = multiprocessing.get_context(method).Process(target=go_on, args=(writer,))
        child.start()
        child.join()
        assert child.exitcode == 0
    assert len(files(tmp_path)) == 2
    assert written(tmp_path) == {"a": [0, 4], "b": [0, 3]}


@pytest.mark.parametrize("every", [0, -1, 2.5, "10", None, math.inf, True])
def test_what_is_no_distance(tmp_path, every):
    with pytest.raises(
        ArgumentError,
        match=rf"every={every!r} must be a whole number of at least 1\. Hint: every=1",
    ):
        SummaryWriter(tmp_path / "run", every=every)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [[1j], ["text"], [object()]], ids=repr)
def test_a_step_that_could_not_be_counted_is_not_the_last_one_written(tmp_path, bad):
    with SummaryWriter(tmp_path, every=100) as writer:
        for step in range(5):
            values = WEIGHTS if step else bad
            with contextlib.nullcontext() if step else pytest.raises(ArrayError):
                writer.add_histogram("a", values, step)
            with contextlib.nullcontext() if step else pytest.raises(ArrayError):
                writer.add_histograms({"b": WEIGHTS, "c": values}, step)
            writer.add_histogram("d", WEIGHTS if step else [], step)  # nothing to write at first
    assert written(tmp_path) == {"a": [1], "b": [1], "c": [1], "d": [1]}


def test_a_step_that_did_not_get_into_the_queue_is_not_the_last_one_written(tmp_path):
    run = tmp_path / "run"
    writer = SummaryWriter(run, every=100, queue_bytes=20_000)
    writer.close()
    shutil.rmtree(run)
    run.write_text("in the way")
    writer.add_histograms({"full": WEIGHTS}, 0)
    with pytest.raises(WriteError, match="was not taken"):
        writer.add_histogram("a", WEIGHTS, 0)
    run.unlink()
    for step in (1, 2):
        writer.add_histogram("a", WEIGHTS, step)
    writer.close()
    assert written(run) == {"full": [0], "a": [1]}


def test_one_last_step_that_cannot_be_encoded_costs_itself_alone(tmp_path):
    writer = SummaryWriter(tmp_path, every=10, keep_last=True)
    for step in range(3):
        writer.add_histograms(dict.fromkeys("abc", WEIGHTS), step)
    broken = dataclasses.replace(fasthist.histogram(WEIGHTS), num="many")
    writer.add_histogram("b", broken, 3)
    with pytest.raises(WriteError, match="'b', step 3: it cannot be encoded"):
        writer.close()
    assert written(tmp_path) == {"a": [0, 2], "b": [0], "c": [0, 2]}


@pytest.mark.parametrize("every", [1, 4])
def test_the_estimate_is_what_is_written(tmp_path, every):
    tree = {"a": WEIGHTS, "b": [1.0, float("nan")], "c": WEIGHTS > 0}
    with SummaryWriter(tmp_path, every=every) as writer:
        estimate = writer.estimate_size(tree, 21, stats=True)
        writer.flush()
        assert written(tmp_path) == {}
        for step in range(21):
            writer.add_histograms(tree, step, stats=True)
    (path,) = files(tmp_path)
    header = 52
    assert estimate == pytest.approx(path.stat().st_size - header, rel=0.002)


def test_a_large_run_is_told_once_and_when_it_has_doubled(tmp_path, monkeypatch):
    monkeypatch.setattr(thinning, "_LARGE", 1000)
    told = []
    writer = SummaryWriter(tmp_path)
    for step in range(100):
        try:
            writer.add_scalar("a", 1.0, step)
        except UserWarning as warning:
            told.append(str(warning))
        writer.flush()
    writer.close()
    assert 2 <= len(told) <= 4
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path))}: 0\.0 GB of events .* Hint: SummaryWriter\(every=.*", told[0]
    )


def test_a_step_that_is_held_counts_as_written(tmp_path):
    """The error was about another event, so this one is in the file, and the next is too near."""
    writer = SummaryWriter(tmp_path, every=10)
    with writer._events._log._working:
        writer._events.add_event(lambda: 1 / 0, tags=["x"])
    while not writer._events._log._losses:
        time.sleep(0.001)
    with pytest.raises(WriteError, match="'x', step 0"):
        writer.add_histogram("a", [1.0, 2.0], 1)
    writer.add_histogram("a", [1.0, 2.0], 2)
    writer.close()
    assert [step for _, _, step, _, _ in fasthist.read(tmp_path)] == [1]


def test_a_small_queue_drops_nothing_of_a_restart(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step in range(4):
            writer.add_scalar("a", step, step)
    SummaryWriter(tmp_path, purge_step=2, queue_bytes=1, when_full="drop_oldest").close()
    starts = [e.step for e in all_events(tmp_path) if e.session_log.status == 1]
    assert starts
    assert set(starts) == {2}
