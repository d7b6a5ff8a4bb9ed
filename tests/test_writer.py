"""Event files: there from the start, whole records only, every event exactly once, whatever goes wrong."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import math
import multiprocessing
import os
import pickle
import queue
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import timedelta
from decimal import Decimal
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from event_files import all_events, events, files, steps

from fasthist.errors import ArgumentError, FasthistError, WriteError
from fasthist.events import background
from fasthist.events import files as module
from fasthist.events.messages import scalar_value, summary_event
from fasthist.events.writer import EventFileWriter

HELD = r"{} events \([\d,]+ bytes\) are not written yet, and still held\. Hint: .* call flush\(\) again"


def event(step, size=1):
    return summary_event([scalar_value("a" * size, step)], 1.5, step)


def wait_until(happened):
    """Wait for what the writer's thread does by itself."""
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.005)


def take_time():
    """Give the writer's thread time for what it must not do."""
    time.sleep(0.1)


def fails(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


# -- when what is written -------------------------------------------------------------------------


def test_a_file_is_there_when_the_constructor_returns(tmp_path):
    with_parents = tmp_path / "runs" / "a"
    writer = EventFileWriter(with_parents)
    (path,) = files(with_parents)
    assert events(path) == []
    writer.flush()
    writer.close()
    assert files(with_parents) == [path]
    writer.add_event(event(1))
    writer.close()
    assert steps(with_parents) == [1]
    assert len(files(with_parents)) == 2


@pytest.mark.parametrize(
    ("way", "number"), [("run", errno.EEXIST), ("run/deeper", errno.ENOTDIR)], ids=str
)
def test_what_is_in_the_way_is_told_by_the_constructor(tmp_path, way, number):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(
        WriteError, match=r"no event file can be made here\. Hint: .*try again"
    ) as caught:
        EventFileWriter(tmp_path / way)
    assert caught.value.errno == number
    assert caught.value.filename == str(tmp_path / way)
    gc.collect()  # and nobody is told again
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no permissions like these")
def test_a_directory_that_may_not_be_written_is_told_by_the_constructor(tmp_path):
    code = """
import os, sys
from fasthist.errors import WriteError
from fasthist.events.writer import EventFileWriter
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    EventFileWriter(sys.argv[1])
except WriteError as error:
    print(error.errno)
"""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:  # pytest's own, which are closed to others
        parent.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, "-c", code, str(closed / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{errno.EACCES}\n", done.stderr


def blocked(path, **options):
    """Give a writer whose next file cannot be made: something has come in the way."""
    writer = EventFileWriter(path, **options)
    writer.close()
    shutil.rmtree(path)
    path.write_text("in the way")
    return writer


def test_the_name_of_a_file(tmp_path):
    writer = EventFileWriter(str(tmp_path), filename_suffix=".mine")
    writer.add_event(event(1))
    writer.close()
    (path,) = files(tmp_path)
    host = re.escape(socket.gethostname())
    pattern = rf"events\.out\.tfevents\.\d{{10}}\.{host}\.{os.getpid()}\.\d{{6}}\.mine"
    assert re.fullmatch(pattern, path.name)


def test_flush_makes_events_readable(tmp_path):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    wait_until(lambda: files(tmp_path))
    take_time()
    assert steps(tmp_path) == []
    writer.flush()
    assert steps(tmp_path) == [1]
    writer.add_event(event(2))
    writer.flush()
    writer.flush(fsync=True)
    assert steps(tmp_path) == [1, 2]
    writer.close()
    assert steps(tmp_path) == [1, 2]


@pytest.fixture
def synced(monkeypatch):
    """Give the paths that are synced, each with its size at the time."""
    done = []

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append((path, path.stat().st_size if path.is_file() else None))

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here")
    monkeypatch.setattr(module.os, "fsync", fsync)
    return done


def test_fsync_reaches_the_disk(tmp_path, synced):
    run = tmp_path / "runs" / "a"
    writer = EventFileWriter(run)
    writer.add_event(event(1))
    writer.flush()
    assert synced == []
    writer.flush(fsync=True)
    (path,) = files(run)
    assert synced[0] == (path, path.stat().st_size)
    # The file's entry, and those of the directories that were made.
    assert {place for place, _ in synced[1:]} == {run, run.parent, tmp_path}
    assert len(synced) == 4
    writer.flush(fsync=True)
    assert len(synced) == 4
    writer.add_event(event(2))
    writer.flush(fsync=True)
    assert synced[4:] == [(path, path.stat().st_size)]
    writer.close()


def test_fsync_reaches_every_file_since_the_last_one(tmp_path, synced):
    writer = EventFileWriter(tmp_path, max_file_bytes=1000)
    writer.flush(fsync=True)
    del synced[:]
    for begin in (0, 20):
        before = set(files(tmp_path)[:-1])
        for step in range(begin, begin + 20):
            writer.add_event(event(step, size=300))
        writer.flush(fsync=True)
        new = set(files(tmp_path)) - before
        assert len(new) > 5
        last = {path: size for path, size in synced if size is not None}
        assert {path: path.stat().st_size for path in new if path.stat().st_size} == last
        assert (
            sum(path == tmp_path for path, _ in synced) == len(new) - 1
        )  # the first one was there
        del synced[:]
    writer.add_event(event(40))
    writer.close()
    path = files(tmp_path)[-1]
    path.unlink()
    writer.flush(fsync=True)  # what is gone cannot be synced
    assert files(tmp_path)[0] not in dict(synced)
    writer.add_event(event(41))
    writer.close()
    writer.flush(fsync=True)
    assert files(tmp_path)[-1] in dict(synced)


def written_so_far(log_dir):
    (path,) = files(log_dir)
    return path.stat().st_size


@pytest.mark.parametrize(("max_queue", "expected"), [(0, [1, 2, 3]), (1, [1, 2]), (2, [1, 2, 3])])
def test_a_full_queue_goes_to_the_file(tmp_path, max_queue, expected):
    writer = EventFileWriter(tmp_path, max_queue=max_queue)
    for step in (1, 2, 3):
        writer.add_event(event(step))
        # Encoded before the next: the thread may take several at once, and write more than asked.
        wait_until(lambda: not writer._log._incoming)
        take_time()
    assert steps(tmp_path) == expected
    writer.close()
    assert steps(tmp_path) == [1, 2, 3]


def test_time_takes_events_to_the_file_without_a_call(tmp_path):
    quick = EventFileWriter(tmp_path / "quick", flush_secs=0.3)
    slow = EventFileWriter(tmp_path / "slow", flush_secs=60)
    for writer in (quick, slow):
        writer.add_event(event(1))
    wait_until(lambda: files(tmp_path / "quick") and steps(tmp_path / "quick") == [1])
    quick.add_event(event(2))
    wait_until(lambda: steps(tmp_path / "quick") == [1, 2])
    assert steps(tmp_path / "slow") == []
    quick.close()
    slow.close()


def test_an_event_may_be_encoded_later(tmp_path):
    where = []

    def encode():
        where.append(threading.current_thread().name)
        return event(1)

    writer = EventFileWriter(tmp_path)
    writer.add_event(encode)
    writer.close()
    assert steps(tmp_path) == [1]
    assert where == ["fasthist events"]


class Unencodable:
    """Raises, and counts how often it was asked."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self):
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("call", ["flush", "close", "add_event"])
@pytest.mark.parametrize(
    "error", [TypeError("a float"), MemoryError(), OSError(28, "full")], ids=repr
)
def test_what_cannot_be_encoded_is_lost_alone(tmp_path, call, error):
    bad = Unencodable(error)
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    writer.add_event(bad, step=2, tags=["fc/weight", "fc/bias"])
    wait_until(lambda: writer._log._losses)
    arguments = [event(3)] if call == "add_event" else []
    with pytest.raises(
        WriteError, match=r"'fc/weight', 'fc/bias', step 2: it cannot be encoded .* is lost"
    ) as caught:
        getattr(writer, call)(*arguments)
    assert caught.value.__cause__ is error
    assert "space" not in str(caught.value)
    writer.add_event(event(4))
    writer.close()
    assert steps(tmp_path) == [1, *([3] if arguments else []), 4]
    assert bad.calls == 1


def test_each_event_that_is_lost_is_told(tmp_path):
    writer = EventFileWriter(tmp_path)
    with writer._log._working:  # so that the thread gets to all of them in one go
        writer.add_event(lambda: "no bytes", step=1, tags=list("abcde"))
        writer.add_event(lambda: {}["x"], step=2, tags="x")
        writer.add_event(event(3))
        writer.add_event(lambda: 1 / 0, step=4)
    with pytest.raises(WriteError, match=r"'a', 'b', 'c' and 2 more, step 1: ") as caught:
        writer.close()
    others = [note.partition(": it")[0] for note in caught.value.__notes__]
    assert others == ["[Errno 22] 'x', step 2", "[Errno 22] an event, step 4"]
    writer.close()
    assert steps(tmp_path) == [3]


# What ends the thread is printed, as Python does; pytest makes a warning of it.
dies = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@dies
@pytest.mark.parametrize("call", ["flush", "close"])
def test_the_thread_may_die(tmp_path, call):
    """Whatever ends it, what it held is written by who waits, and by the next thread."""
    writer = EventFileWriter(tmp_path, max_queue=100)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer._log, "_next_requests", sys.exit)
        for step in range(3):
            writer.add_event(event(step))
            wait_until(lambda: not writer._log._thread.is_alive())
        getattr(writer, call)()
        assert steps(tmp_path) == [0, 1, 2]
    writer.add_event(event(3))
    wait_until(lambda: not writer._log._incoming)
    writer.close()
    assert steps(tmp_path) == [0, 1, 2, 3]


@dies
def test_the_thread_may_die_while_somebody_waits(tmp_path):
    writer = EventFileWriter(tmp_path)
    turn = writer._log._turn
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            writer._log, "_turn", lambda requests: sys.exit() if requests else turn(requests)
        )
        writer.add_event(event(1))
        threading.Timer(0.2, patched.undo).start()
        writer.flush()
    assert steps(tmp_path) == [1]
    writer.close()


def test_an_error_in_the_thread_reaches_the_next_call_once(tmp_path):
    writer = blocked(tmp_path / "run")
    writer.add_event(event(1))
    wait_until(lambda: writer._log._failure)
    with pytest.raises(WriteError, match=HELD.format(1)):
        writer.add_event(event(2))
    (tmp_path / "run").unlink()
    writer.add_event(event(3))
    writer.close()
    assert steps(tmp_path / "run") == [1, 2, 3]


def test_the_thread_tries_again_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "RETRY_SECS", 0.05)
    writer = blocked(tmp_path / "run", flush_secs=0.01)
    writer.add_event(event(1))
    wait_until(lambda: writer._log._failure)
    (tmp_path / "run").unlink()
    wait_until(lambda: files(tmp_path / "run") and steps(tmp_path / "run") == [1])
    writer.add_event(event(2))  # the error is past, so nobody is told
    writer.close()
    assert steps(tmp_path / "run") == [1, 2]


def append_byte(path):
    with path.open("ab") as file:
        file.write(b"x")


def replace(path):
    path.rename(path.with_name("old"))
    path.write_bytes(b"")


HARM = {
    "the directory deleted": (lambda path: shutil.rmtree(path.parent), errno.ENOENT, "deleted, and [0-9]+ bytes"),
    "deleted": (lambda path: path.unlink(), errno.ENOENT, "deleted, and [0-9]+ bytes"),
    "emptied": (lambda path: os.truncate(path, 0), errno.EIO, "cut from [0-9]+ to 0 bytes"),
    "cut": (lambda path: os.truncate(path, 60), errno.EIO, "cut from [0-9]+ to 60 bytes"),
    "written to": (append_byte, errno.EIO, "another program has written to the event file"),
    "moved": (lambda path: path.rename(path.with_name("old")), errno.ENOENT, "moved or replaced"),
    "replaced": (replace, errno.ENOENT, "moved or replaced"),
}  # fmt: skip


@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_file_that_somebody_else_changes_is_left_and_told(tmp_path, harm, call):
    change, number, text = harm
    writer = EventFileWriter(tmp_path / "run")
    writer.add_event(event(1))
    writer.flush()
    (path,) = files(tmp_path / "run")
    change(path)
    writer.add_event(event(2))
    with pytest.raises(
        WriteError, match=rf"{text}.*What follows goes to a new file\. Hint: keep"
    ) as caught:
        getattr(writer, call)()
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    writer.add_event(event(3))
    writer.close()
    assert [e.step for new in files(tmp_path / "run") if new != path for e in events(new)] == [2, 3]


# -- a disk that does not answer ------------------------------------------------------------------


@pytest.fixture
def stuck(monkeypatch):
    """Give an event: no write to a file ends before it is set, but for the first record."""
    go_on = threading.Event()

    class Stuck(FileIO):
        def write(self, data):
            assert not self.tell() or go_on.wait(60)
            return super().write(data)

    monkeypatch.setattr(module, "FileIO", Stuck)
    yield go_on
    go_on.set()


def test_a_stuck_disk_stops_nobody_until_the_queue_is_full(tmp_path, stuck):
    writer = EventFileWriter(tmp_path, queue_bytes=1500)
    added = []

    def add():
        for step in range(100):
            writer.add_event(event(step, size=100))
            added.append(step)

    thread = threading.Thread(target=add)
    thread.start()
    wait_until(lambda: len(added) >= 9)
    take_time()
    assert len(added) < 15
    stuck.set()
    thread.join()
    writer.close()
    assert steps(tmp_path) == list(range(100))


def test_the_oldest_go_and_are_counted(tmp_path, stuck):
    writer = EventFileWriter(tmp_path, queue_bytes=1000, when_full="drop_oldest")
    writer.add_event(event(0), nbytes=1)
    wait_until(lambda: not writer._log._incoming)  # it waits for the disk
    for step in range(1, 31):
        writer.add_event(event(step), step=step, nbytes=100)
    stuck.set()
    writer.close()
    found = all_events(tmp_path)
    kept = [e.step for e in found if e.summary.value[0].tag == "a"]
    (told,) = (e for e in found if e.summary.value[0].tag == background.DROPPED)
    assert kept == [0, *range(31 - (len(kept) - 1), 31)]
    assert 8 <= len(kept) <= 11
    assert told.step == kept[-1]
    assert told.summary.value[0].simple_value == 31 - len(kept)


def test_a_full_queue_on_a_full_disk_takes_no_more_and_loses_nothing(tmp_path):
    writer = blocked(tmp_path / "run", queue_bytes=1000, max_queue=0)
    taken = []
    for step in range(40):
        try:
            writer.add_event(event(step), nbytes=100)
            taken.append(step)
        except WriteError as error:
            if "was not taken" not in str(error):
                taken.append(step)
    assert 9 <= len(taken) < 40
    (tmp_path / "run").unlink()
    writer.close()
    assert steps(tmp_path / "run") == taken


def test_a_full_disk_and_a_queue_that_drops(tmp_path):
    writer = blocked(tmp_path / "run", queue_bytes=1000, when_full="drop_oldest")
    for step in range(100):
        with contextlib.suppress(WriteError):
            writer.add_event(event(step), step=step)
    with pytest.raises(WriteError):
        writer.flush()
    (tmp_path / "run").unlink()
    writer.close()
    found = all_events(tmp_path / "run")
    kept = [e.step for e in found if e.summary.value[0].tag == "a"]
    assert kept == list(range(100 - len(kept), 100))
    assert 5 < len(kept) < 30
    assert sum(map(len, map(event, kept))) < 1000


def test_after_close_a_new_file_begins(tmp_path):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    writer.close()
    writer.close()
    writer.add_event(event(2))
    writer.close()
    first, second = files(tmp_path)
    assert [e.step for e in events(first)] == [1]
    assert [e.step for e in events(second)] == [2]


def test_files_of_one_second_sort_in_the_order_they_were_made(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: 1_700_000_000.9)
    writer = EventFileWriter(tmp_path)
    for step in range(12):
        writer.add_event(event(step))
        writer.close()
    assert steps(tmp_path) == list(range(12))


def test_a_name_that_is_taken_is_left_alone(tmp_path, monkeypatch):
    names = iter(["a.tfevents.5", "a.tfevents.5", "a.tfevents.5", "a.tfevents.6"])
    monkeypatch.setattr(module, "new_name", lambda taken, suffix: next(names))  # noqa: ARG005
    for step in (1, 2):
        writer = EventFileWriter(tmp_path)
        writer.add_event(event(step))
        writer.close()
    assert steps(tmp_path) == [1, 2]
    assert [path.name[-1] for path in files(tmp_path)] == ["5", "6"]


@pytest.mark.parametrize(
    ("taken", "seconds"),
    [
        ("events.out.tfevents.1600000000.zebra.9.000000", 1_700_000_000),
        ("events.out.tfevents.1700000000.aardvark.9.000000", 1_700_000_000),
        ("events.out.tfevents.1700000000.zebra.9.000000", 1_700_000_001),
        ("events.out.tfevents.1800000000.aardvark.9.000000.v2", 1_800_000_001),
        ("tfevents.of.somebody.else", 1_700_000_000),
    ],
)
def test_a_new_file_sorts_after_all_others(monkeypatch, taken, seconds):
    monkeypatch.setattr(module.time, "time", lambda: 1_700_000_000.9)
    monkeypatch.setattr(module.socket, "gethostname", lambda: "host")
    name = module.new_name([taken, "checkpoint.pt"], ".mine")
    assert name.startswith(f"events.out.tfevents.{seconds}.host.{os.getpid()}.")
    assert name.endswith(".mine")
    assert seconds == 1_700_000_000 or name > taken


def test_two_writers_in_one_directory(tmp_path):
    first, second = EventFileWriter(tmp_path), EventFileWriter(tmp_path)
    for step in range(5):
        first.add_event(event(step))
        second.add_event(event(step + 100))
    first.close()
    second.close()
    assert steps(tmp_path) == [*range(5), *range(100, 105)]


def test_a_relative_directory_is_that_of_the_beginning(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    writer = EventFileWriter("run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.add_event(event(1))
    writer.close()
    assert steps(tmp_path / "run") == [1]


WHOLE = r"must be a whole number of at least {}\. Hint: "
SECONDS = r"must be a number of seconds that is not negative\. Hint: None never writes by time"


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("max_queue", [-5, "a", "3", 2.5, None, math.inf, math.nan, True, [1], np.array([1])], WHOLE.format(0)),
        ("queue_bytes", [0, -1, "1", 0.5, None, math.inf], WHOLE.format(1)),
        ("max_file_bytes", [0, -1, "1", 1.5, math.nan], WHOLE.format(1)),
        ("flush_secs", ["x", "5", math.nan, -1, -math.inf, timedelta(seconds=3), [1], True, 10**400], SECONDS),
        ("filename_suffix", [None, 3, b".x", "a/b", "a\0"], "must be a string without /"),
        ("when_full", ["block", None], r"is not known\. Accepted: 'wait' or 'drop_oldest'"),
        ("log_dir", [3, 1.5, [], "a\0b"], "must be a path, or a URL that fsspec knows"),
    ],
)  # fmt: skip
def test_what_is_no_argument_is_told_where_it_is_given(tmp_path, name, values, text):
    for value in values:
        arguments = {"log_dir": tmp_path / "run", name: value}
        with pytest.raises(ArgumentError, match=rf"^{name}=.*{text}") as caught:
            EventFileWriter(**arguments)
        assert repr(value) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"flush_secs": math.inf},
        {"flush_secs": None},
        {"flush_secs": sys.maxsize},
        {"flush_secs": 1e10},
        {"flush_secs": np.float32(60)},
        {"flush_secs": Decimal(60)},
        {"max_queue": np.int64(10), "queue_bytes": 64e6, "max_file_bytes": np.float64(1e6)},
        {"max_queue": 10.0, "max_file_bytes": None},
    ],
    ids=repr,
)
def test_numbers_of_any_type_work(tmp_path, options):
    writer = EventFileWriter(tmp_path, **options)
    writer.add_event(event(1))
    wait_until(lambda: not writer._log._incoming)
    take_time()
    assert steps(tmp_path) == []
    writer.flush()
    assert steps(tmp_path) == [1]
    for step in range(2, 50):
        writer.add_event(event(step))
    writer.close()
    assert steps(tmp_path) == list(range(1, 50))


def test_files_are_no_larger_than_asked(tmp_path):
    writer = EventFileWriter(tmp_path, max_file_bytes=2000, max_queue=3)
    for step in range(40):
        writer.add_event(event(step, size=300))
    writer.close()
    assert steps(tmp_path) == list(range(40))
    sizes = [path.stat().st_size for path in files(tmp_path)]
    assert 7 <= len(sizes) <= 8  # as the thread finds one or several of them
    assert max(sizes) < 2000 + len(event(0, size=300)) + 16
    assert writer.nbytes == sum(sizes)


def test_many_threads(tmp_path):
    writer = EventFileWriter(tmp_path, max_queue=3)
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for step in range(50):
            writer.add_event(event(number * 50 + step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    found = steps(tmp_path)
    assert sorted(found) == list(range(400))
    for number in range(8):  # each thread's events are in its order
        own = [step for step in found if step // 50 == number]
        assert own == sorted(own)


# -- ends without close ---------------------------------------------------------------------------


def test_garbage_collection_writes_what_is_held(tmp_path):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    del writer
    gc.collect()
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_the_end_of_the_interpreter_writes_what_is_held(tmp_path, ending):
    code = f"""
import sys
from fasthist.events.messages import scalar_value, summary_event
from fasthist.events.writer import EventFileWriter
writer = EventFileWriter(sys.argv[1])
for step in range(3):
    writer.add_event(summary_event([scalar_value("a", step)], 1.5, step))
{ending}
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert steps(tmp_path) == [0, 1, 2]


def test_a_disk_that_never_answers_does_not_keep_the_process(tmp_path):
    code = """
import sys, time
from io import FileIO
from fasthist.events import endings, files
from fasthist.events.writer import EventFileWriter

class Dead(FileIO):
    def write(self, data):
        if self.tell():
            time.sleep(1000)
        return super().write(data)

files.FileIO, endings.PATIENCE = Dead, 0.2
writer = EventFileWriter(sys.argv[1])
writer.add_event(b"x")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "the disk did not answer within 0.2 s, and what was held is lost" in done.stderr


def test_where_no_thread_can_be_started_any_more(tmp_path, monkeypatch):
    """Python 3.12 starts none once the interpreter has begun to end."""

    def start(self):  # noqa: ARG001
        raise RuntimeError

    monkeypatch.setattr(threading.Thread, "start", start)
    writer = EventFileWriter(tmp_path)
    for step in range(3):
        writer.add_event(event(step))
        assert steps(tmp_path) == list(range(step + 1))
    writer.close()
    assert steps(tmp_path) == [0, 1, 2]


def test_what_is_added_after_the_end_has_begun_is_written_at_once(tmp_path):
    code = """
import atexit, sys
writer = None
atexit.register(lambda: writer.add_event(b"x" * 100))
from fasthist.events.writer import EventFileWriter
writer = EventFileWriter(sys.argv[1])
writer.add_event(b"y" * 100)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    first, second = files(tmp_path)
    assert b"y" * 100 in first.read_bytes()
    assert b"x" * 100 in second.read_bytes()


def test_a_copy_sent_by_pickle_has_a_file_of_its_own(tmp_path):
    writer = EventFileWriter(tmp_path, max_queue=3, filename_suffix=".mine")
    writer.add_event(event(1))
    copy = pickle.loads(pickle.dumps(writer))
    copy.add_event(event(2))
    copy.close()
    writer.close()
    assert sorted(steps(tmp_path)) == [1, 2]
    assert [path.name[-5:] for path in files(tmp_path)] == [".mine"] * 2


# -- other processes ------------------------------------------------------------------------------

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
# Python 3.12 warns of a fork in a process with threads, which pytest's plugins may have started; so does JAX.
threads_may_run = pytest.mark.filterwarnings("ignore:.*multi-?threaded")


def in_child(work):
    """Run `work` in a forked child, give its exit status; the child never returns into the test."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@fork
@threads_may_run
def test_a_forked_child_has_a_file_of_its_own(tmp_path):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    writer.flush()
    writer.add_event(event(2))  # held at the fork

    def child():
        writer.flush()
        writer.add_event(event(100))
        writer.flush()
        writer.add_event(event(101))
        writer.close()

    assert in_child(child) == 0
    writer.add_event(event(3))
    writer.close()
    by_process = {
        path.name.split(".")[-2]: [e.step for e in events(path)] for path in files(tmp_path)
    }
    assert by_process.pop(str(os.getpid())) == [1, 2, 3]
    assert list(by_process.values()) == [[100, 101]]


@fork
@threads_may_run
def test_a_forked_child_that_adds_nothing_writes_nothing(tmp_path):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))

    def child():
        writer.flush()
        writer.close()

    wait_until(lambda: files(tmp_path))
    assert in_child(child) == 0
    assert steps(tmp_path) == []
    writer.close()
    assert steps(tmp_path) == [1]


@fork
@threads_may_run
def test_a_lock_that_is_taken_at_the_fork_does_not_stop_the_child(tmp_path, monkeypatch):
    taken, go_on = threading.Event(), threading.Event()

    class Slow(FileIO):
        def write(self, data):
            if self.tell():
                taken.set()
                assert go_on.wait(60)
            return super().write(data)

    monkeypatch.setattr(module, "FileIO", Slow)
    writer = EventFileWriter(tmp_path, max_queue=0)
    writer.add_event(event(1))
    assert taken.wait(60)
    monkeypatch.undo()

    def child():
        signal.alarm(60)  # a lock left locked would stop the test for good
        writer.add_event(event(100))
        writer.close()

    try:
        assert in_child(child) == 0
    finally:
        go_on.set()
    writer.close()
    assert sorted(steps(tmp_path)) == [1, 100]


def add_and_leave(writer, step):
    writer.add_event(event(step))


@fork
@threads_may_run
def test_a_worker_of_multiprocessing_need_not_close(tmp_path):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_and_leave, args=(writer, 100 + i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    writer.add_event(event(2))
    writer.close()
    assert sorted(steps(tmp_path)) == [1, 2, 100, 101, 102]
    assert len(files(tmp_path)) == 4


# -- errors ---------------------------------------------------------------------------------------


def test_a_file_where_the_directory_should_be(tmp_path):
    writer = blocked(tmp_path / "run")
    writer.add_event(event(1))
    with pytest.raises(WriteError, match=HELD.format(1)) as caught:
        writer.flush()
    assert caught.value.errno == errno.EEXIST
    assert caught.value.filename == str(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    assert isinstance(caught.value, (OSError, FasthistError))
    assert isinstance(caught.value.__cause__, FileExistsError)
    writer.add_event(event(2))
    with pytest.raises(WriteError, match=HELD.format(2)):
        writer.flush()
    (tmp_path / "run").unlink()
    writer.flush()
    assert steps(tmp_path / "run") == [1, 2]
    writer.close()


def test_a_file_where_a_parent_should_be(tmp_path):
    writer = EventFileWriter(tmp_path / "run" / "deeper")
    writer.close()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    writer.add_event(event(1))
    with pytest.raises(WriteError, match=HELD.format(1)) as caught:
        writer.flush()
    assert caught.value.errno == errno.ENOTDIR
    (tmp_path / "run").unlink()
    writer.close()
    assert steps(tmp_path / "run" / "deeper") == [1]


@pytest.fixture
def file_size_limit():
    """Give a function that limits, for real, how large a file this process may write."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(
        resource.RLIMIT_FSIZE, (soft if size is None else size, hard)
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("room", "arrived"), [(0, 0), (10, 0), (700, 1), (1300, 2)])
def test_after_a_write_in_part_the_file_goes_on_whole(tmp_path, file_size_limit, room, arrived):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(0))
    writer.flush()
    good = written_so_far(tmp_path)
    for step in (1, 2, 3):
        writer.add_event(event(step, size=500))
    file_size_limit(good + room)
    with pytest.raises(WriteError, match=HELD.format(3 - arrived)) as caught:
        writer.flush()
    assert steps(tmp_path) == list(range(arrived + 1))
    assert (written_so_far(tmp_path) == good) == (arrived == 0)
    assert caught.value.errno == errno.EFBIG
    (path,) = files(tmp_path)
    assert caught.value.filename == str(path)
    with pytest.raises(WriteError, match=HELD.format(3 - arrived)):
        writer.close()
    file_size_limit(None)
    writer.add_event(event(4))
    writer.flush()
    assert steps(tmp_path) == [0, 1, 2, 3, 4]
    assert files(tmp_path) == [path]
    writer.close()


def test_a_first_write_that_fails_leaves_one_file(tmp_path, file_size_limit):
    writer = EventFileWriter(tmp_path)
    file_size_limit(0)
    writer.add_event(event(1))
    for room in (0, 20, 70):
        file_size_limit(room)
        with pytest.raises(WriteError, match=HELD.format(1)):
            writer.flush()
    assert sum(path.stat().st_size for path in files(tmp_path)) < 120
    file_size_limit(None)
    writer.close()
    assert steps(tmp_path) == [1]
    assert len(files(tmp_path)) == 1


def whole_records(path):
    """Give the steps before the torn record at the end of a file that was given up."""
    data = path.read_bytes()
    kept = path.with_name("kept")
    place = 0
    while place + 16 <= len(data):
        end = place + 16 + int.from_bytes(data[place : place + 8], "little")
        if end > len(data):
            break
        place = end
    kept.write_bytes(data[:place])
    try:
        return [e.step for e in events(kept)] if place else []
    finally:
        kept.unlink()


@pytest.mark.parametrize("room", [0, 20, 60, 300, 700, 1300, 1600])
@pytest.mark.parametrize("flushed", [True, False])
def test_where_a_file_cannot_be_cut_a_new_one_goes_on(
    tmp_path, monkeypatch, file_size_limit, flushed, room
):
    class AppendOnly(FileIO):
        def truncate(self, size=None):  # noqa: ARG002
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(module, "FileIO", AppendOnly)
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(0))
    wait_until(lambda: files(tmp_path))
    take_time()
    if flushed:
        writer.flush()
    good = written_so_far(tmp_path)
    for step in (1, 2, 3):
        writer.add_event(event(step, size=500))
    file_size_limit(good + room)
    # Where some records arrived, the others go to a new file at once.
    with contextlib.suppress(WriteError):
        writer.flush()
    file_size_limit(None)
    first = files(tmp_path)[0]
    assert first.stat().st_size == good + room
    writer.add_event(event(4))
    writer.close()
    assert first.stat().st_size == good + room
    found = [step for path in files(tmp_path) for step in whole_records(path)]
    assert found == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device(tmp_path, monkeypatch):
    """/dev/full takes no byte and cannot be truncated."""
    writer = EventFileWriter(tmp_path)
    writer.close()
    with monkeypatch.context() as patched:
        patched.setattr(module, "FileIO", lambda *_, **__: FileIO("/dev/full", "wb"))
        writer.add_event(event(1))
        for _ in range(2):
            with pytest.raises(
                WriteError, match=rf"No space left on device: {HELD.format(1)}"
            ) as caught:
                writer.flush()
            assert caught.value.errno == errno.ENOSPC
    writer.flush()
    assert steps(tmp_path) == [1]
    writer.close()


def test_a_file_that_was_closed_from_outside(tmp_path):
    """A daemon closes every descriptor; what follows goes to a new file."""
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    writer.flush()
    os.close(writer._log._file._file.fileno())
    writer.add_event(event(2))
    with pytest.raises(WriteError, match=rf"descriptor: {HELD.format(1)}") as caught:
        writer.flush()
    assert caught.value.errno == errno.EBADF
    writer.close()
    assert steps(tmp_path) == [1, 2]


def test_an_error_at_close(tmp_path, monkeypatch):
    class Remote(FileIO):
        def close(self):
            if not self.closed:
                super().close()
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "FileIO", Remote)
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    with pytest.raises(
        WriteError, match=r"last events may be missing\. Hint: check the file"
    ) as caught:
        writer.close()
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == str(files(tmp_path)[0])
    monkeypatch.undo()
    writer.add_event(event(2))
    writer.close()
    assert steps(tmp_path) == [1, 2]


def test_an_error_at_the_end_is_told(tmp_path):
    code = """
import sys, shutil
from fasthist.events.writer import EventFileWriter
writer = EventFileWriter(sys.argv[1])
writer.close()
shutil.rmtree(sys.argv[1])
open(sys.argv[1], "w").close()  # in the way
try:
    writer.add_event(bytes([16, 1]))  # step: 1
except OSError:
    pass
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert re.search(HELD.format(1), done.stderr)


# -- interruptions --------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Writes take a while, in portions."""

    class Slow(FileIO):
        def write(self, data):
            time.sleep(0.002)
            return super().write(data[:1000])

    monkeypatch.setattr(module, "FileIO", Slow)


def test_an_interrupted_flush_loses_and_doubles_nothing(tmp_path, stuck):
    writer = EventFileWriter(tmp_path)
    for step in range(20):
        writer.add_event(event(step, size=50))
    timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    timer.join()
    stuck.set()
    writer.add_event(event(20))
    writer.close()
    assert steps(tmp_path) == list(range(21))


@pytest.mark.parametrize("then", ["add_event", "flush", "close"])
def test_a_signal_handler_may_use_the_writer_wherever_it_comes(tmp_path, slow, then):  # noqa: ARG001
    """A timer's signals hit the middle of adding, of flushing and of waiting."""
    writer = EventFileWriter(tmp_path, max_queue=2)
    own, others = itertools.count(), itertools.count(10**6)

    def handler(number, frame):  # noqa: ARG001
        writer.add_event(event(next(others)))
        if then != "add_event":
            getattr(writer, then)()
        # Not at regular times, which a slow machine would not keep up with.
        signal.setitimer(signal.ITIMER_REAL, 0.0007)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0007)
    try:
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline:
            writer.add_event(event(next(own)))
            time.sleep(0.0003)
        writer.flush()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    writer.close()
    found = steps(tmp_path)
    assert [step for step in found if step < 10**6] == list(range(next(own)))
    assert [step for step in found if step >= 10**6] == list(range(10**6, next(others)))
    assert next(others) > 10**6 + 5


def test_what_the_helpers_check(tmp_path):
    """A torn record or one of another file's is seen by the reader that these tests trust."""
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    writer.close()
    (path,) = files(tmp_path)
    data = path.read_bytes()
    for broken in (data[:-1], data + b"\0", data[1:], data[:-1] + b"\0"):
        path.write_bytes(broken)
        with pytest.raises((AssertionError, struct.error)):
            steps(tmp_path)


# -- what short schedules of faults have shown: see test_schedules.py -----------------------------


def test_a_file_no_larger_than_its_header_takes_one_event(tmp_path):
    writer = EventFileWriter(tmp_path, max_file_bytes=1)
    for step in range(3):
        writer.add_event(event(step))
    writer.close()
    assert [[e.step for e in events(path)] for path in files(tmp_path)][:3] == [[0], [1], [2]]


@pytest.mark.parametrize("call", [EventFileWriter.flush, EventFileWriter.close])
def test_a_change_is_told_where_nothing_more_is_written(tmp_path, call):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    writer.flush()
    os.truncate(*files(tmp_path), 0)
    with pytest.raises(WriteError, match=r"was cut from [0-9]+ to 0 bytes"):
        call(writer)
    writer.close()


@pytest.mark.parametrize("size", [0, 30])
def test_a_file_that_is_cut_in_the_moment_of_a_write(tmp_path, monkeypatch, size):
    """What was written behind others' end is taken back, and is in the next file."""
    cuts = [size]

    class Cut(FileIO):
        def write(self, data):
            if self.tell() and cuts:
                os.truncate(self.name, cuts.pop())
            return super().write(data)

    monkeypatch.setattr(module, "FileIO", Cut)
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    with pytest.raises(WriteError, match=f"was cut from [0-9]+ to {size} bytes"):
        writer.flush()
    writer.close()
    first, second = files(tmp_path)
    assert first.stat().st_size == size
    assert [e.step for e in events(second)] == [1]


def test_a_full_queue_takes_an_event_when_only_others_are_lost(tmp_path):
    writer = EventFileWriter(tmp_path, queue_bytes=1)
    with writer._log._working:
        writer.add_event(lambda: 1 / 0, step=1, nbytes=9, tags=["a"])
    with pytest.raises(WriteError, match="'a', step 1: it cannot be encoded"):
        writer.add_event(event(2))
    writer.close()
    assert steps(tmp_path) == [2]


def test_the_last_ones_that_are_dropped_are_counted(tmp_path):
    writer = blocked(tmp_path / "run", queue_bytes=1, when_full="drop_oldest", max_queue=1000)
    for step in range(5):
        with contextlib.suppress(WriteError):
            writer.add_event(event(step))
            writer.flush()
    (tmp_path / "run").unlink()
    writer.close()
    values = {
        e.summary.value[0].tag: e.summary.value[0].simple_value
        for e in all_events(tmp_path / "run")
    }
    assert values[background.DROPPED] == 4
    assert steps(tmp_path / "run")[-1] == 4


def test_directories_are_synced_though_the_first_file_failed(tmp_path, monkeypatch, synced):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    writer = EventFileWriter(tmp_path / "a" / "b", opens=False)
    with monkeypatch.context() as patched:
        patched.setattr(module, "FileIO", full)
        writer.add_event(event(1))
        with pytest.raises(WriteError):
            writer.flush()
    writer.flush(fsync=True)
    made = {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}
    assert made <= {place for place, _ in synced}
    writer.close()


@dies
@pytest.mark.parametrize("share", [0.5, 1])
def test_a_thread_that_dies_in_a_write_leaves_nothing_of_it(tmp_path, monkeypatch, share):
    lives = [1]

    class Deadly(FileIO):
        def write(self, data):
            if self.tell() and lives:
                lives.pop()
                super().write(data[: int(len(data) * share)])
                sys.exit()
            return super().write(data)

    monkeypatch.setattr(module, "FileIO", Deadly)
    writer = EventFileWriter(tmp_path, max_queue=0)
    writer.add_event(event(1))
    wait_until(lambda: not lives and not writer._log._thread.is_alive())
    writer.close()
    assert steps(tmp_path) == [1]


def fail_and_lose_one(writer, monkeypatch, call):
    """Call what cannot write, when an event has been lost besides."""
    monkeypatch.setattr(writer._log._file, "append", fails)
    writer.add_event(event(1))
    writer.add_event(lambda: 1 / 0, tags=["a"])
    with pytest.raises(WriteError, match=HELD.format(1)):
        call()


def test_a_writer_dropped_after_an_error_is_closed_at_once(tmp_path, monkeypatch):
    """The loss that is still to be told, from the same turn of the thread as an error raised here, keeps no frames."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hooked: told.append(str(hooked.exc_value)))
    writer = EventFileWriter(tmp_path)
    with monkeypatch.context() as patched:
        fail_and_lose_one(writer, patched, writer.flush)
    del writer
    gc.collect()
    assert steps(tmp_path) == [1]
    assert "'a', step 0: it cannot be encoded" in "".join(told)


def test_a_file_given_up_is_looked_at_first(tmp_path, file_size_limit, monkeypatch):
    class AppendOnly(FileIO):
        def truncate(self, size=None):  # noqa: ARG002
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(module, "FileIO", AppendOnly)
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(0))
    writer.flush()
    (path,) = files(tmp_path)
    file_size_limit(path.stat().st_size + 20)
    path.unlink()
    writer.add_event(event(1, size=500))
    with pytest.raises(WriteError):
        writer.flush()
    file_size_limit(None)
    with pytest.raises(WriteError, match="the event file was deleted"):
        writer.flush()
    assert steps(tmp_path) == [1]
    writer.close()


@dies
def test_what_a_dead_thread_was_asked_takes_no_error_from_the_next(tmp_path):
    writer = EventFileWriter(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer._log, "_next_requests", sys.exit)
        writer.add_event(event(1))
        wait_until(lambda: not writer._log._thread.is_alive())
        writer._log._wake.put(
            background._Request("flush", queue.SimpleQueue())
        )  # as by who came too late
    writer.add_event(lambda: 1 / 0, tags=["a"])
    with pytest.raises(WriteError, match="'a', step 0: it cannot be encoded"):
        writer.flush()
    writer.close()
    assert steps(tmp_path) == [1]


def test_what_else_was_lost_is_told_when_the_last_close_fails(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        sys,
        "unraisablehook",
        lambda hooked: told.extend([str(hooked.exc_value), *hooked.exc_value.__notes__]),
    )
    writer = EventFileWriter(tmp_path)
    fail_and_lose_one(writer, monkeypatch, writer.close)
    del writer
    gc.collect()
    assert "'a', step 0: it cannot be encoded" in "".join(told)


def test_sigterm_tells_what_could_not_be_written(tmp_path):
    code = """
import os, signal, sys, time
from fasthist.errors import DeviceError
from fasthist.events.writer import EventFileWriter
def fails():
    raise DeviceError("the device has failed")
writers = [EventFileWriter(sys.argv[1] + name) for name in "ab"]
for writer in writers:
    with writer._log._working:
        writer.add_event(fails)
        os.kill(os.getpid(), signal.SIGTERM) if writer is writers[-1] else None
time.sleep(10)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stderr.count("the device has failed") >= 2
