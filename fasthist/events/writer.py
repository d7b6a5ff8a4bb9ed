"""`EventFileWriter`: encoded events to a file that TensorBoard finds, whatever happens on the way.

Guarantees:

- The directory and the file appear with the first event, not before.
- A file holds whole records only: a record that was written in part is cut off before anything follows
  it, and where that is impossible a new file takes over. (A reader gives up at a torn record for good.)
- An event handed over is written exactly once: a failed write keeps what is not in the file, for the next
  attempt; an interrupted one too.
- What is held reaches the file at `flush`, at `close`, when the writer is garbage-collected, and when the
  interpreter or a multiprocessing worker exits.
- A forked child neither writes to its parent's file nor writes what its parent holds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
import weakref
from io import FileIO
from pathlib import Path

from fasthist.errors import ArgumentError, WriteError
from fasthist.events.messages import first_event
from fasthist.events.record import frame

_uids = itertools.count()


class EventFileWriter:
    """Write encoded events to one directory; safe to call from several threads.

    Parameters
    ----------
    log_dir : str or os.PathLike
        A local directory, the run. Made when it is needed, parents included; a relative one is taken from the
        directory that is current now.
    max_queue : int
        Events that may be held; one more, and all of them go to the file.
    flush_secs : float
        Seconds after which the next event takes all that is held to the file.
    filename_suffix : str
        Ends the name of every file.

    Raises
    ------
    ArgumentError
        `log_dir` is a URL.

    Notes
    -----
    Files are named ``events.out.tfevents.<seconds since 1970>.<host>.<process>.<number><suffix>``; readers
    take them in the order of their names. Writing happens in the thread that hands over the event. After a
    fork, a child that adds an event gets a file of its own.

    Examples
    --------
    >>> from fasthist.events.messages import scalar_value, summary_event
    >>> writer = EventFileWriter("runs/a")
    >>> writer.add_event(summary_event([scalar_value("loss", 0.5)], wall_time=1.5, step=1))
    >>> writer.close()
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        max_queue: int = 10,
        flush_secs: float = 120,
        filename_suffix: str = "",
    ) -> None:
        directory = os.fsdecode(log_dir)
        if "://" in directory:
            msg = (
                f"log_dir={directory!r} is a URL. Accepted: a local directory. "
                "Hint: write to a local one and copy it, or mount the remote one."
            )
            raise ArgumentError(msg)
        self._log = _Log(Path(directory).absolute(), max_queue, flush_secs, filename_suffix)
        weakref.finalize(self, _close_for_good, self._log)

    def add_event(self, event: bytes) -> None:
        """Hand over one event.

        Parameters
        ----------
        event : bytes
            An encoded ``Event``, from `fasthist.events.messages`.

        Raises
        ------
        WriteError
            The file cannot be made, or what is held cannot be written to it. The event is held nevertheless.
        """
        self._log.add(frame(event))

    def flush(self) -> None:
        """Bring every event handed over to the file, where other processes can read it.

        Raises
        ------
        WriteError
            Not all could be written; the rest is still held.
        """
        self._log.flush()

    def close(self) -> None:
        """Flush and close the file; an event added later goes to a new file.

        Raises
        ------
        WriteError
            Not all could be written; the rest is still held, and the file open.
        """
        self._log.close()

    def discard(self) -> None:
        """Forget what is held and let go of the file; for a caller that gives up after a `WriteError`."""
        self._log.forget()


class _Log:
    """The state behind a writer; apart from it, so that its end can be waited for without keeping it alive."""

    def __init__(self, directory: Path, max_queue: int, flush_secs: float, suffix: str) -> None:
        self._directory = directory
        self._max_queue = max_queue
        self._flush_secs = flush_secs
        self._suffix = suffix
        # Re-entrant: a signal handler or a __del__ may add or flush in the middle of a write of its own thread.
        self._lock = threading.RLock()
        self._turn = 0  # counts attempts to write, so that the one cut into notices
        self._held: list[bytes] = []
        self._file: FileIO | None = None
        self._path = directory
        self._header = b""
        self._size = 0  # bytes of whole records in the file
        self._torn = False  # whether there may be more bytes in it than that
        self._flushed_at = 0.0
        self.told = False  # whether close() has said that what is held could not be written
        _logs.add(self)

    def add(self, record: bytes) -> None:
        with self._lock:
            self._held.append(record)
            if self._file is None:
                self._open()
            late = time.monotonic() - self._flushed_at >= self._flush_secs
            if late or len(self._held) > self._max_queue:
                self._write()

    def flush(self) -> None:
        with self._lock:
            self._write()

    def close(self) -> None:
        with self._lock:
            try:
                self._write()
            except WriteError:
                self.told = True
                raise
            file, self._file = self._file, None
            if file is None:
                return
            try:
                file.close()
            except OSError as error:  # network file systems may report a lost write only now
                text = f"{error.strerror}: the last events may be missing. Hint: check the file and its disk"
                raise WriteError(error.errno, text, str(self._path)) from error

    def forget(self) -> None:
        """Let go of the file, of what is held, and of a lock that a thread of another process may own."""
        self._lock = threading.RLock()
        self._held = []
        file, self._file, self._torn = self._file, None, False
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _open(self) -> FileIO:
        path = self._directory
        file = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            while file is None:
                name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_uids):06d}"
                path = self._directory / f"events.out.tfevents.{name}{self._suffix}"
                # Containers may share a host name and a process number: then the next number is free.
                with contextlib.suppress(FileExistsError):
                    file = FileIO(path, "xb")
        except OSError as error:
            raise self._failed(error, path) from error
        self._header = frame(first_event(time.time()))
        self._file, self._path, self._size, self._torn = file, path, 0, False
        self._flushed_at = time.monotonic()
        _flush_at_worker_exit(self)
        return file

    def _write(self) -> None:
        self._turn = turn = self._turn + 1
        if self._torn:
            self._mend()
        if not self._held:
            return
        file = self._file or self._open()
        count = len(self._held)
        data = b"".join(self._unwritten())
        size = self._size + len(data)
        try:
            rest = memoryview(data)
            while rest and self._turn == turn:
                self._torn = True
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise self._failed(error, self._path) from error
        if self._turn == turn:
            # Nothing is called here, so an interrupt comes before this (what was written is cut off again) or
            # after it, never in between.
            self._held, self._size, self._torn, self.told = self._held[count:], size, False, False
            self._flushed_at = time.monotonic()

    def _unwritten(self) -> list[bytes]:
        return self._held if self._size else [self._header, *self._held]

    def _mend(self) -> None:
        """Cut off what follows the last whole record, or let a new file take over."""
        assert self._file is not None
        try:
            self._file.seek(self._size)
            self._file.truncate()
        except OSError:
            # Records that did arrive whole stay where they are, so they are not to be written again.
            end = self._size
            with contextlib.suppress(OSError):
                end = os.fstat(self._file.fileno()).st_size
            ends = itertools.accumulate(map(len, self._unwritten()), initial=self._size)
            arrived = sum(reached <= end for reached in ends) - 1
            if self._size == 0:
                arrived = max(arrived - 1, 0)  # the header is none of those held
            file, self._file = self._file, None
            self._held = self._held[arrived:]
            with contextlib.suppress(OSError):
                file.close()
        self._torn = False

    def _failed(self, error: OSError, path: Path) -> WriteError:
        size = sum(map(len, self._held))
        text = (
            f"{error.strerror}: {len(self._held)} events ({size:,} bytes) are not written yet, and still held. "
            "Hint: free space, give permission or move what is in the way, then call flush() again"
        )
        return WriteError(error.errno, text, error.filename or str(path))


_logs: weakref.WeakSet[_Log] = weakref.WeakSet()


def _forget_all() -> None:
    for log in list(_logs):
        log.forget()


def _close_for_good(log: _Log) -> None:
    told = log.told
    try:
        log.close()
    except WriteError:
        # Nobody is left to catch it, but Python prints it; worth doing unless close() has said so already.
        if not told:
            raise
    finally:
        log.forget()


def _flush_if_alive(reference: weakref.ref[_Log]) -> None:
    log = reference()
    if log is not None:
        log.flush()


def _flush_at_worker_exit(log: _Log) -> None:
    # A forked worker of multiprocessing ends by os._exit, so atexit, and with it weakref.finalize, never runs
    # there. Where the module is not loaded, this process is no such worker.
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import parent_process, util

        if parent_process() is not None:
            util.Finalize(log, _flush_if_alive, args=(weakref.ref(log),), exitpriority=0)


# A check of the process number in each call would not do: a thread that the child does not have may hold the
# lock at the fork, and two threads of the child might both replace it. The hook runs before any of them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
