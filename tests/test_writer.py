"""Event files: made late, whole records only, every event exactly once, whatever goes wrong."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from io import FileIO
from pathlib import Path

import pytest
from event_files import events, files, steps

from fasthist.errors import ArgumentError, FasthistError, WriteError
from fasthist.events import writer as module
from fasthist.events.messages import scalar_value, summary_event
from fasthist.events.writer import EventFileWriter

HELD = r"{} events \([\d,]+ bytes\) are not written yet, and still held\. Hint: .* call flush\(\) again"


def event(step, size=1):
    return summary_event([scalar_value("a" * size, step)], 1.5, step)


# -- when what is written -------------------------------------------------------------------------


def test_nothing_appears_before_the_first_event(tmp_path):
    with_parents = tmp_path / "runs" / "a"
    writer = EventFileWriter(with_parents)
    writer.flush()
    writer.close()
    assert not with_parents.parent.exists()
    writer.add_event(event(1))
    assert len(files(with_parents)) == 1
    writer.close()
    assert steps(with_parents) == [1]


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
    assert written_so_far(tmp_path) == 0
    writer.flush()
    assert steps(tmp_path) == [1]
    writer.add_event(event(2))
    writer.flush()
    writer.flush()
    assert steps(tmp_path) == [1, 2]
    writer.close()
    assert steps(tmp_path) == [1, 2]


def written_so_far(log_dir):
    (path,) = files(log_dir)
    return path.stat().st_size


@pytest.mark.parametrize(("max_queue", "expected"), [(0, [1, 2, 3]), (1, [1, 2]), (2, [1, 2, 3])])
def test_a_full_queue_goes_to_the_file(tmp_path, max_queue, expected):
    writer = EventFileWriter(tmp_path, max_queue=max_queue)
    for step in (1, 2, 3):
        writer.add_event(event(step))
    assert steps(tmp_path) == expected
    writer.close()
    assert steps(tmp_path) == [1, 2, 3]


def test_time_takes_events_to_the_file(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    writer = EventFileWriter(tmp_path, flush_secs=60)
    writer.add_event(event(1))
    now += 59
    writer.add_event(event(2))
    assert written_so_far(tmp_path) == 0
    now += 1
    writer.add_event(event(3))
    assert steps(tmp_path) == [1, 2, 3]
    now += 59
    writer.add_event(event(4))
    assert steps(tmp_path) == [1, 2, 3]
    writer.close()


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
    monkeypatch.setattr(module.time, "time", lambda: 1_700_000_000.0)
    monkeypatch.setattr(module, "_uids", iter([5, 5, 5, 6]))
    for step in (1, 2):
        writer = EventFileWriter(tmp_path)
        writer.add_event(event(step))
        writer.close()
    assert steps(tmp_path) == [1, 2]
    assert [path.name[-6:] for path in files(tmp_path)] == ["000005", "000006"]


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


def test_a_url_is_refused():
    with pytest.raises(
        ArgumentError, match=r"log_dir='s3://bucket/a' is a URL\. Accepted: a local"
    ):
        EventFileWriter("s3://bucket/a")


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

    assert in_child(child) == 0
    assert written_so_far(tmp_path) == 0
    writer.close()
    assert steps(tmp_path) == [1]


@fork
@threads_may_run
def test_a_lock_that_is_taken_at_the_fork_does_not_stop_the_child(tmp_path, monkeypatch):
    taken, go_on = threading.Event(), threading.Event()

    class Slow(FileIO):
        def write(self, data):
            taken.set()
            assert go_on.wait(60)
            return super().write(data)

    writer = EventFileWriter(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(module, "FileIO", Slow)
        writer.add_event(event(1))
    thread = threading.Thread(target=writer.flush)
    thread.start()
    assert taken.wait(60)

    def child():
        signal.alarm(60)  # a lock left locked would stop the test for good
        writer.add_event(event(100))
        writer.close()

    try:
        assert in_child(child) == 0
    finally:
        go_on.set()
        thread.join()
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
    (tmp_path / "run").write_text("in the way")
    writer = EventFileWriter(tmp_path / "run")
    with pytest.raises(WriteError, match=HELD.format(1)) as caught:
        writer.add_event(event(1))
    assert caught.value.errno == errno.EEXIST
    assert caught.value.filename == str(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    assert isinstance(caught.value, (OSError, FasthistError))
    assert isinstance(caught.value.__cause__, FileExistsError)
    with pytest.raises(WriteError, match=HELD.format(2)):
        writer.add_event(event(2))
    (tmp_path / "run").unlink()
    writer.flush()
    assert steps(tmp_path / "run") == [1, 2]
    writer.close()


def test_a_file_where_a_parent_should_be(tmp_path):
    (tmp_path / "run").write_text("in the way")
    writer = EventFileWriter(tmp_path / "run" / "deeper")
    with pytest.raises(WriteError, match=HELD.format(1)) as caught:
        writer.add_event(event(1))
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


@pytest.mark.parametrize("room", [0, 10, 700, 1600])
def test_after_a_write_in_part_the_file_goes_on_whole(tmp_path, file_size_limit, room):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(0))
    writer.flush()
    good = written_so_far(tmp_path)
    for step in (1, 2, 3):
        writer.add_event(event(step, size=500))
    file_size_limit(good + room)
    with pytest.raises(WriteError, match=HELD.format(3)) as caught:
        writer.flush()
    assert written_so_far(tmp_path) == good + room
    assert caught.value.errno == errno.EFBIG
    (path,) = files(tmp_path)
    assert caught.value.filename == str(path)
    with pytest.raises(WriteError, match=HELD.format(3)):
        writer.close()
    file_size_limit(None)
    writer.add_event(event(4))
    writer.flush()
    assert steps(tmp_path) == [0, 1, 2, 3, 4]
    assert files(tmp_path) == [path]
    writer.close()


def test_a_first_write_that_fails_leaves_one_file(tmp_path, file_size_limit):
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    for room in (0, 20, 70):
        file_size_limit(room)
        with pytest.raises(WriteError, match=HELD.format(1)):
            writer.flush()
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
    if flushed:
        writer.flush()
    good = written_so_far(tmp_path)
    for step in (1, 2, 3):
        writer.add_event(event(step, size=500))
    file_size_limit(good + room)
    with pytest.raises(WriteError, match=HELD.format(3 if flushed else 4)):
        writer.flush()
    file_size_limit(None)
    torn = written_so_far(tmp_path)
    assert torn == good + room
    writer.add_event(event(4))
    writer.close()
    first, second = files(tmp_path)
    assert first.stat().st_size == torn
    assert whole_records(first) + [e.step for e in events(second)] == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device(tmp_path, monkeypatch):
    """/dev/full takes no byte and cannot be truncated."""
    writer = EventFileWriter(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(module, "FileIO", lambda path, mode: FileIO("/dev/full", "wb"))  # noqa: ARG005
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
    """A daemon closes every descriptor; the next write fails, and one after it goes to a new file."""
    writer = EventFileWriter(tmp_path)
    writer.add_event(event(1))
    writer.flush()
    os.close(writer._log._file.fileno())
    writer.add_event(event(2))
    with pytest.raises(WriteError, match=HELD.format(1)) as caught:
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
import sys
from fasthist.events.writer import EventFileWriter
writer = EventFileWriter(sys.argv[1])
try:
    writer.add_event(b"")
except OSError:
    pass
"""
    (tmp_path / "run").write_text("in the way")
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert re.search(HELD.format(1), done.stderr)


# -- interruptions --------------------------------------------------------------------------------


def nothing():
    pass


def fail():
    raise KeyboardInterrupt


class Interrupting(FileIO):
    """Writes in portions and calls `hook` after each."""

    hook = staticmethod(nothing)

    def write(self, data):
        size = super().write(data[:100])
        Interrupting.hook()
        return size


@pytest.mark.parametrize("after", range(1, 6))
def test_an_interrupted_write_is_neither_lost_nor_doubled(tmp_path, monkeypatch, after):
    calls = 0

    def interrupt():
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "FileIO", Interrupting)
    monkeypatch.setattr(Interrupting, "hook", interrupt)
    writer = EventFileWriter(tmp_path)
    for step in range(5):
        writer.add_event(event(step, size=50))
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    writer.add_event(event(5))
    writer.close()
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("after", range(1, 6))
@pytest.mark.parametrize("then", ["add_event", "flush", "close"])
def test_a_signal_handler_may_use_the_writer_in_the_middle_of_a_write(
    tmp_path, monkeypatch, after, then
):
    calls = 0

    def handler(number, frame):  # noqa: ARG001
        writer.add_event(event(100))
        if then != "add_event":
            getattr(writer, then)()
            assert steps(tmp_path)[-1] == 100

    def interrupt():
        nonlocal calls
        calls += 1
        if calls == after:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(module, "FileIO", Interrupting)
    monkeypatch.setattr(Interrupting, "hook", interrupt)
    writer = EventFileWriter(tmp_path)
    for step in range(5):
        writer.add_event(event(step, size=50))
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        writer.flush()
    finally:
        signal.signal(signal.SIGUSR1, before)
    # The next write fails in part, and is cut off where the writer believes its whole records to end.
    monkeypatch.setattr(Interrupting, "hook", fail)
    writer.add_event(event(5))
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    monkeypatch.setattr(Interrupting, "hook", nothing)
    writer.close()
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 100, 5]


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
