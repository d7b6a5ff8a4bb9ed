"""What is left when processes die, disks fill and many write at once, as every reader sees it."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from event_files import files
from loaders import fast_loader, python_loader

import fasthist
from fasthist.errors import WriteError
from fasthist.events.messages import scalar_value, summary_event
from fasthist.events.writer import EventFileWriter
from fasthist.summary_writer import SummaryWriter

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*multi-?threaded"
)  # a fork beside pytest's threads
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

KILLS = 200
TERMINATIONS = 50


def values_at(step):
    """The values that each step writes: their sum tells the step."""
    return np.array([step, step + 0.5, -1.0], dtype=np.float64)


def write_until_killed(log_dir, told, *, flush):
    """Write histograms and scalars of rising steps; tell through a pipe what must be readable from now on."""
    writer = SummaryWriter(log_dir, max_queue=3)
    step = 0
    while True:
        writer.add_histogram("values", values_at(step), step)
        writer.add_scalar("step", step, step)
        if flush and step % 3 == 2:
            writer.flush()
        if not flush or step % 3 == 2:
            os.write(told, step.to_bytes(4, "little"))
        step += 1
        time.sleep(0.0005)


def kill_while_writing(log_dir, number, rng, *, flush):
    """Fork a process that writes, end it by a signal at a random moment, and give the last step that it told."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            write_until_killed(log_dir, write_end, flush=flush)
        finally:
            os._exit(1)
    os.close(write_end)
    # What is killed before its first word has promised nothing.
    told, words = b"", rng.randint(1, 40)
    while len(told) < 4 * words:
        assert select.select([read_end], [], [], 60)[0]
        told += os.read(read_end, 4 * words - len(told))
    time.sleep(rng.uniform(0, 0.003))
    os.kill(child, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -number
    while part := os.read(read_end, 1 << 16):
        told += part
    os.close(read_end)
    return int.from_bytes(told[-4:], "little")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Give a directory of runs that were killed, and the last step flushed of each."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    fasthist.histogram(values_at(0))  # compiled before the forks
    log_dir = tmp_path_factory.mktemp("killed")
    rng = random.Random(5)
    runs = [f"run{i:03d}" for i in range(KILLS)]
    return log_dir, {
        run: kill_while_writing(log_dir / run, signal.SIGKILL, rng, flush=True) for run in runs
    }


def check_runs(found, flushed):
    """`found` is {run: {step: (num, low, high)}}: all that was flushed, and nothing that was not written."""
    assert set(found) == set(flushed)
    for run, last in flushed.items():
        steps = sorted(found[run])
        assert steps == list(range(len(steps))), run
        assert len(steps) > last, run
        for step, seen in found[run].items():
            assert seen == pytest.approx((3, -1.0, step + 0.5), rel=1e-6), (run, step)


def check_rows(found, flushed):
    """Check what a loader of TensorBoard gives: rows of left edge, right edge and count."""
    runs = {}
    for (run, tag), data in found.items():
        assert tag == "values"
        runs[run] = {
            step: (rows[:, 2].sum(), rows[0, 0], max(rows[-1, 1], step + 0.5))
            for step, rows in data
        }
    check_runs(runs, flushed)


def test_killed_runs_were_killed_in_the_middle(killed):
    log_dir, flushed = killed
    assert min(flushed.values()) >= 2
    written = [sum(path.stat().st_size for path in files(log_dir / run)) for run in flushed]
    assert len(set(written)) > KILLS / 10


def test_killed_runs_in_our_reader(killed):
    log_dir, flushed = killed
    found = {run: {} for run in flushed}
    for run, tag, step, _, h in fasthist.read(log_dir):
        assert tag == "values"
        assert step not in found[run]
        assert h.sum == pytest.approx(2 * step - 0.5)
        found[run][step] = (h.num, h.min, h.max)
    check_runs(found, flushed)


def test_killed_runs_in_tensorboards_python_loader(killed):
    log_dir, flushed = killed
    check_rows(python_loader(log_dir, "histograms"), flushed)


def test_killed_runs_in_tensorboards_fast_loader(killed):
    log_dir, flushed = killed

    def complete(found):
        return all(len(found.get((run, "values"), ())) > last for run, last in flushed.items())

    check_rows(fast_loader(log_dir, "histograms", complete), flushed)


def test_killed_runs_in_tbparse(killed):
    log_dir, flushed = killed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tbparse import SummaryReader

        frame = SummaryReader(
            str(log_dir), extra_columns={"dir_name", "min", "max", "num"}
        ).histograms
    found = {run: {} for run in flushed}
    for row in frame.itertuples():
        found[row.dir_name][row.step] = (row.num, row.min, row.max)
    check_runs(found, flushed)


@posix
def test_sigterm_loses_nothing(tmp_path):
    fasthist.histogram(values_at(0))  # compiled before the forks
    rng = random.Random(6)
    for i in range(TERMINATIONS):
        run = tmp_path / str(i)
        told = kill_while_writing(run, signal.SIGTERM, rng, flush=False)
        steps = steps_in(run)
        assert steps == list(range(len(steps)))
        assert len(steps) > told


@posix
def test_sigterm_while_the_main_thread_holds_what_the_writer_needs(tmp_path):
    code = """
import os, signal, sys, threading, time
from fasthist.events import endings, messages, writer
lock = threading.Lock()
def event():
    with lock:  # an import's, or the compiler's
        return messages.summary_event([messages.scalar_value("a", 1)], 1.0, 1)
endings.PATIENCE = 5
writer = writer.EventFileWriter(sys.argv[1])
with lock:
    writer.add_event(event)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
time.sleep(10)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGTERM
    assert time.monotonic() - started < 5
    assert [step for step, _ in python_loader(tmp_path, "scalars")[".", "a"]] == [1]


@posix
@pytest.mark.parametrize("own", ["signal.SIG_IGN", "lambda *_: sys.exit(7)"])
def test_a_program_that_handles_sigterm_keeps_its_way(tmp_path, own):
    code = f"""
import os, signal, sys
import fasthist
signal.signal(signal.SIGTERM, {own})
writer = fasthist.SummaryWriter(sys.argv[1])
writer.add_scalar("a", 1, 1)
os.kill(os.getpid(), signal.SIGTERM)
writer.add_scalar("a", 2, 2)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    exits = "exit" in own
    assert done.returncode == (7 if exits else 0)
    found = python_loader(tmp_path, "scalars")
    assert [step for step, _ in found[".", "a"]] == ([1] if exits else [1, 2])


# -- a disk that is full ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Mount a real file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux"):
        pytest.skip("a small file system is mounted as Linux does it")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=256k"):
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(os.fsencode(folder), 2)


def steps_in(log_dir):
    return [step for _, _, step, _, _ in fasthist.read(log_dir)]


def test_a_full_disk_is_told_and_loses_no_step(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(150_000))
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, 5000).astype(np.float32)
    errors = {}
    writer = SummaryWriter(small_disk / "run", max_queue=0)
    for step in range(100):  # 3.2 kB each: after some 30 of them the disk is full
        try:
            writer.add_histogram("weights", weights, step)
            writer.flush()
        except WriteError as error:
            errors[step] = error
    full = min(errors)
    assert 20 < full < 40
    assert list(errors) == list(range(full, 100))  # told within a flush, and at each
    for error in errors.values():
        assert error.errno == errno.ENOSPC
        assert str(small_disk) in str(error)
    assert steps_in(small_disk) == list(range(full))
    ballast.unlink()
    # 100 of them are more than fit even so: the rest is held until there is room again.
    with pytest.raises(WriteError, match="No space left"):
        writer.flush()
    libc = ctypes.CDLL(None, use_errno=True)
    remount = 32
    assert libc.mount(b"tmpfs", os.fsencode(small_disk), b"tmpfs", remount, b"size=4m") == 0
    writer.flush()
    assert steps_in(small_disk) == list(range(100))
    writer.close()
    for loaded in (
        python_loader(small_disk, "histograms"),
        fast_loader(small_disk, "histograms", lambda f: len(f.get(("run", "weights"), ())) == 100),
    ):
        assert [step for step, _ in loaded["run", "weights"]] == list(range(100))


# -- many at once ----------------------------------------------------------------------------------

THREADS, PROCESSES, EACH = 8, 4, 100_000 // 32


def write_much(log_dir, process):
    """Write `EACH` histograms from each of `THREADS` threads, through one writer."""
    writer = SummaryWriter(log_dir)
    histogram = fasthist.histogram([float(process)], buckets=[-1.0, 10.0])

    def work(thread):
        for step in range(EACH):
            writer.add_histogram(f"{process}/{thread}", histogram, step)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()


@posix
def test_threads_and_processes_in_one_directory(tmp_path):
    workers = [
        multiprocessing.get_context("fork" if i % 2 else "spawn").Process(
            target=write_much, args=(tmp_path, i)
        )
        for i in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(files(tmp_path)) == PROCESSES
    tags = {f"{process}/{thread}" for process in range(PROCESSES) for thread in range(THREADS)}
    ours = Counter((tag, step) for _, tag, step, _, h in fasthist.read(tmp_path))
    assert ours == Counter((tag, step) for tag in tags for step in range(EACH))
    for loaded in (
        python_loader(tmp_path, "histograms"),
        fast_loader(tmp_path, "histograms", lambda f: sum(map(len, f.values())) == 32 * EACH),
    ):
        assert {tag for _, tag in loaded} == tags
        for data in loaded.values():
            assert sorted(step for step, _ in data) == list(range(EACH))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_stays_flat_over_a_million_events(tmp_path):
    # In a process of its own: here others' threads and caches grow too.
    code = """
import os, sys
from pathlib import Path
from fasthist.events.messages import scalar_value, summary_event
from fasthist.events.writer import EventFileWriter
event = summary_event([scalar_value("a", 1.0)], 1.5, 1)
writer = EventFileWriter(sys.argv[1], queue_bytes=1 << 20)
for i in range(1_000_001):
    writer.add_event(event)
    if i % 200_000 == 0 and i:
        writer.flush()
        print(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
writer.close()
assert writer.nbytes // (len(event) + 16) == 1_000_002  # and the header, a little larger
print(writer.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    )
    *seen, nbytes = map(int, done.stdout.split())
    (path,) = files(tmp_path)
    assert path.stat().st_size == nbytes
    assert seen[-1] - seen[0] < 4 << 20


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_ten_thousand_writers_leave_nothing_behind(tmp_path):
    event = summary_event([scalar_value("a", 1.0)], 1.5, 1)

    def held():
        return threading.active_count(), len([*Path("/proc/self/fd").iterdir()])

    before = held()
    for i in range(10_000):
        writer = EventFileWriter(tmp_path / str(i % 100))
        writer.add_event(event)
        if i % 2:
            writer.close()
        del writer  # closed or not, it is gone
    deadline = time.monotonic() + 30
    while held() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held() == before
    assert sum(len(files(tmp_path / str(i))) for i in range(100)) == 10_000
