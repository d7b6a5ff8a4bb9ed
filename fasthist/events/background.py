"""The thread that writes events to a file, and the state it shares with callers.

Signal handlers and finalizers may use a writer in the middle of its own methods. So only the thread touches files, a
`queue.SimpleQueue` wakes it (its ``put`` is re-entrant), and no caller waits for it while holding a lock that it needs to
answer.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fasthist.errors import DeviceError, QueueFullError, WriteError
from fasthist.events import endings
from fasthist.events.files import AppendOnly, Folder
from fasthist.events.messages import first_event, scalar_value, summary_event
from fasthist.events.record import frame

RETRY_SECS = 1.0
"""Seconds after a failed write before the thread tries again unasked."""

DROPPED = "fasthist/dropped_events"
"""Tag of the scalar with the number of events dropped so far."""


class Entry(NamedTuple):
    """An event that may not be encoded yet, and the tags that name it in an error."""

    event: bytes | Callable[[], bytes]
    step: int = 0
    nbytes: int = 0
    tags: Collection[str] = ()


class _Request(NamedTuple):
    """A request of a caller, who waits for the answer."""

    what: Literal["open", "flush", "fsync", "close", "discard"]
    answer: queue.SimpleQueue[WriteError | DeviceError | None]


@dataclass(frozen=True)
class Limits:
    """The limits of a writer; see `fasthist.events.writer.EventFileWriter`."""

    max_queue: int
    flush_secs: float
    filename_suffix: str
    queue_bytes: int
    drops: bool
    max_file_bytes: int | None


class Log:
    """The state of a writer, in an object of its own so that the thread does not keep the writer alive.

    `place` names `folder` in errors; `last_events` returns what to write last, when the log is closed.
    """

    def __init__(
        self,
        folder: Folder,
        place: str,
        limits: Limits,
        last_events: Callable[[], Iterable[Entry]] = tuple,
    ) -> None:
        self._folder = folder
        self._place = place
        self._limits = limits
        self._last_events = last_events
        self.nbytes = 0
        self.told = False  # whether close() has raised that held events could not be written
        self._file: AppendOnly | None = None
        self.forget()

    def forget(self) -> None:
        """Reset all state: in a forked child, where the thread does not exist and any lock may be held."""
        # Callers' side. The lock is re-entrant: a signal handler may add an event while another is added.
        self._adding = threading.RLock()
        self._thread: threading.Thread | None = None
        self._wake: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._incoming: deque[Entry] = deque()
        self._taken_in = 0  # bytes of the events handed over, without dropped ones
        self._dropped = 0
        self._failure: WriteError | None = None
        self._losses: deque[WriteError | DeviceError] = deque()  # errors about lost events
        self._starting = False
        self.at_end = False  # whether the process ends, so that each event must be written at once
        # The thread's side. The lock keeps out a second thread, which a signal handler may start while the first is being
        # started, and a caller who does the work while there is no thread.
        self._working = threading.RLock()
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._done_with = 0  # bytes of `_taken_in` that are encoded
        self._dropped_held = self._told_dropped = self._step = 0
        self._flushed_at = 0.0
        self._retry_at = 0.0
        self._unpublished = False
        self._unsynced: list[AppendOnly] = []  # closed files that are not synced yet
        self._let_go()

    # -- the callers' side ------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Queue an event; raise what went wrong in the thread since the last call."""
        if self._lacks_room(entry):
            self._make_room(entry)
        self.told = False
        with self._adding:
            self._taken_in += entry.nbytes
            self._incoming.append(entry)
            self._start()
        self._wake.put(None)
        if self.at_end:
            self.ask("flush")
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        loss = self._take_losses()
        if loss is not None:
            raise loss

    def _take_losses(self) -> WriteError | DeviceError | None:
        """Return the first error about a lost event, with the others as notes."""
        first = None
        while self._losses:
            loss = self._losses.popleft()
            if first is None:
                first = loss
            else:
                first.add_note(str(loss))
        return first

    def _backlog(self) -> int:
        return self._taken_in - self._done_with + self._held_bytes

    def _lacks_room(self, entry: Entry) -> bool:
        return self._backlog() + entry.nbytes > self._limits.queue_bytes

    def _make_room(self, entry: Entry) -> None:
        if self._limits.drops:
            with self._adding, contextlib.suppress(IndexError):  # the thread may empty the queue
                while self._lacks_room(entry):
                    self._taken_in -= self._incoming.popleft().nbytes
                    self._dropped += 1
        elif self._backlog():
            try:
                self.ask("flush")
            except (WriteError, DeviceError) as error:
                # Unless the disk fails, the error is about earlier events, and there is room for this one.
                if isinstance(error, WriteError) and self._retry_at and self._lacks_room(entry):
                    text = f"{error.strerror}. The queue of {self._limits.queue_bytes:,} bytes is full, so this event was not taken"
                    raise QueueFullError(error.errno, text, error.filename) from error
                # Frames in its traceback would keep the writer from being garbage-collected.
                self._losses.append(error.with_traceback(None))

    def _running(self) -> threading.Thread | None:
        """Return the thread, or None if it was never started or has ended."""
        thread = self._thread
        return thread if thread is not None and thread.is_alive() else None

    def _start(self) -> None:
        if self._starting or self._running() is not None:
            return
        self._starting = True
        try:
            endings.watch_process(self)
            # Requests to an ended thread are repeated by `ask`; answering them here too would swallow an error.
            self._wake = queue.SimpleQueue()
            thread = threading.Thread(target=self._serve, name="fasthist events", daemon=True)
            thread.start()
            self._thread = thread
        except RuntimeError:
            # The interpreter is ending and starts no thread; `ask` does the work then.
            self.at_end = True
        finally:
            self._starting = False

    def ask(
        self, what: Literal["open", "flush", "fsync", "close", "discard"], wait: float | None = None
    ) -> bool:
        """Send the thread a request and wait for the answer; return whether it came in time."""
        request = _Request(what, queue.SimpleQueue())
        thread = self._running()
        if thread is None:
            with self._adding:
                thread = self._running()
                if thread is None:
                    with self._working:
                        self._turn([request])
        if thread is not None:
            self._wake.put(request)
            if threading.get_ident() in endings.servers:
                # A finalizer in a writer's thread must not wait for itself, nor for another thread that waits.
                return True
        until = None if wait is None else time.monotonic() + wait
        while True:
            try:
                error = request.answer.get(timeout=0.5)
                break
            except queue.Empty:
                if until is not None and time.monotonic() > until:
                    return False
                if thread is None or not thread.is_alive():
                    # It was closed meanwhile with nothing left, or it died with everything left.
                    return self.ask(what, None if until is None else until - time.monotonic())
        if error is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame, and so the writer
        return True

    def open(self) -> None:
        """Create the directory and a file; reset if that fails."""
        try:
            self.ask("open")
        except WriteError:
            self.ask("discard")
            raise

    def close(self, wait: float | None = None) -> bool:
        """Write everything and end the thread; return whether that was done in time."""
        try:
            return self.ask("close", wait)
        except WriteError as error:
            self.told = True
            loss = self._take_losses() if self.at_end else None  # nobody will call again
            if loss is not None:
                error.add_note("\n".join([str(loss), *getattr(loss, "__notes__", ())]))
            raise

    @property
    def holds(self) -> bool:
        """Whether there are events that are not in a file."""
        return bool(self._incoming or self._held)

    # -- the thread's side ------------------------------------------------------------------------

    def _serve(self) -> None:
        endings.servers.add(threading.get_ident())
        try:
            closed = False
            while not closed:
                requests = self._next_requests()
                with self._working:
                    closing = self._turn(requests)
                closed = closing and self._end()
        finally:
            endings.servers.discard(threading.get_ident())

    def _next_requests(self) -> list[_Request]:
        """Wait until there is something to do; return the requests."""
        wait = None
        if self._held or self._unpublished:
            due = max(self._flushed_at + self._limits.flush_secs, self._retry_at)
            wait = min(max(due - time.monotonic(), 0), threading.TIMEOUT_MAX)
        requests = []
        try:
            token = self._wake.get(timeout=wait)
            while True:
                if token is not None:
                    requests.append(token)
                token = self._wake.get_nowait()
        except queue.Empty:
            return requests

    def _turn(self, requests: list[_Request]) -> bool:
        """Encode what came in, write if it is due, answer the requests; return whether the log is closed."""
        asked = {request.what for request in requests}
        closing = "close" in asked
        error: WriteError | None = None
        try:
            if "discard" in asked:
                self._incoming.clear()
                self._done_with, self._held_bytes = self._taken_in, 0
                self._held.clear()
                if self._file is not None:
                    with contextlib.suppress(OSError):
                        self._file.close()
                self._let_go()
            if closing:
                self._incoming.extend(self._last_events())
            self._encode()
            now = time.monotonic()
            wanted = self._held or "open" in asked
            if wanted and self._file is None and (asked or now >= self._retry_at):
                self._open()
            late = now >= self._flushed_at + self._limits.flush_secs
            full = len(self._held) > self._limits.max_queue
            if asked or ((late or full) and now >= self._retry_at):
                self._write(publish=bool(asked) or late, fsync="fsync" in asked)
            if closing:
                self._close_file()
        except Exception as caught:  # noqa: BLE001  # a caller gets it, and the thread lives on
            error = self._failed(caught, opening="open" in asked)
            self._retry_at = time.monotonic() + RETRY_SECS
        if error is None or not requests:
            self._failure = error
        answer = error or (self._take_losses() if requests else None)
        for request in requests:
            request.answer.put(answer)
        is_closed = closing and error is None
        # Their tracebacks hold the caller's frames, and so the writer, or this frame.
        error = answer = None
        return is_closed

    def _end(self) -> bool:
        """End the thread unless more came in meanwhile; return whether it ends."""
        # No holder of this lock waits for the thread.
        with self._adding:
            ended = not self._incoming and self._wake.empty()
            if ended:
                self._thread = None
        return ended

    def _encode(self) -> None:
        """Encode what is queued now, not what comes in meanwhile: or a caller might wait forever."""
        for _ in range(len(self._incoming)):
            try:
                entry = self._incoming.popleft()
            except IndexError:  # a caller has just dropped it
                return
            try:
                event = entry.event if isinstance(entry.event, bytes) else entry.event()
                record = frame(event) if event else b""
            except Exception as error:  # noqa: BLE001  # the other events must not wait for this one
                self._done_with += entry.nbytes
                self._losses.append(_loss(entry, error))
                continue
            except BaseException:
                self._incoming.appendleft(entry)
                raise
            if record:
                self._hold(record)
            self._done_with += entry.nbytes
            self._step = entry.step

    def _hold(self, record: bytes) -> None:
        self._held.append(record)
        self._held_bytes += len(record)
        most = self._limits.queue_bytes
        while self._limits.drops and self._held_bytes > most and len(self._held) > 1:
            self._held_bytes -= len(self._held.popleft())
            self._dropped_held += 1

    def _write(self, *, publish: bool, fsync: bool) -> None:
        changes = 0
        if publish and not self._held and (self._unpublished or not self.at_end):
            self._changed()  # or no caller would learn of it
        while self._held or self._dropped + self._dropped_held != self._told_dropped:
            file = self._file or self._open()
            dropped = self._dropped + self._dropped_held
            records = self._next_records(file)
            if dropped != self._told_dropped:
                count = summary_event([scalar_value(DROPPED, dropped)], time.time(), self._step)
                records.insert(0, frame(count))
            try:
                arrived = records[: file.append(records)]
            except BaseException:
                if not file.usable and not self._changed():
                    self._give_up()
                raise
            if self._changed():
                changes += 1
                if changes == 3:  # some file systems report wrong sizes: do not repeat forever
                    raise self._losses.pop()
                continue
            if not file.usable:
                self._give_up()
            self.nbytes += sum(map(len, arrived))
            if arrived and dropped != self._told_dropped:
                self._told_dropped = dropped
                del arrived[0]
            for record in arrived:
                self._held_bytes -= len(record)
                self._held.popleft()
            self._unpublished = self._file is not None
            if self._limits.max_file_bytes is not None and file.size >= self._limits.max_file_bytes:
                self._close_file()
        while fsync and self._unsynced:
            self._unsynced[-1].publish(fsync=True)
            self._unsynced.pop()
        if publish and self._file is not None and (self._unpublished or fsync):
            self._file.publish(fsync=fsync)
            self._unpublished = False
        if publish:
            self._flushed_at = time.monotonic()
            self._retry_at = 0.0
            self.told = False

    def _changed(self) -> bool:
        """Abandon the file if another program has changed it; return whether that is so."""
        if self._file is None:
            return False
        try:
            self._file.check()
        except OSError as error:
            text = (
                f"{error.strerror or error}. What follows goes to a new file. "
                "Hint: keep other programs, such as logrotate, away from the files of a run that is being written"
            )
            self._losses.append(WriteError(error.errno or errno.EIO, text, self._file.name))
            self._give_up()
            return True
        return False

    def _give_up(self) -> None:
        """Sync the file if possible, and leave it as it is."""
        if self._file is not None:
            try:
                self._file.publish(fsync=True)
            except OSError:
                self._unsynced.append(self._file)
        self._let_go()

    def _next_records(self, file: AppendOnly) -> list[bytes]:
        """Return the records that fill a file: at least one, at most 16 MiB and a record, so that joining them is quick."""
        room = 1 << 24
        if self._limits.max_file_bytes is not None:
            room = min(room, self._limits.max_file_bytes - file.size)
        reached = itertools.accumulate(map(len, self._held), initial=0)
        count = sum(1 for _ in itertools.takewhile(room.__gt__, reached))
        return list(itertools.islice(self._held, max(count, 1)))

    def _open(self) -> AppendOnly:
        header = frame(first_event(time.time()))
        self._file = self._folder.create(self._limits.filename_suffix, header)
        self.nbytes += self._file.size
        self._unpublished = True
        self._flushed_at = time.monotonic()
        return self._file

    def _close_file(self) -> None:
        file = self._file
        if file is None:
            return
        if self._unpublished:
            file.publish(fsync=False)
        self._file, self._unpublished = None, False
        self._unsynced.append(file)
        try:
            file.close()
        except OSError as error:  # a network file system may report a lost write only now
            text = f"{error.strerror}: the last events may be missing. Hint: check the file and its disk"
            raise WriteError(error.errno, text, file.name) from error

    def _let_go(self) -> None:
        """Forget the file."""
        file, self._file, self._unpublished = self._file, None, False
        if file is not None:
            with contextlib.suppress(OSError):
                file.release()

    def _failed(self, error: Exception, *, opening: bool) -> WriteError:
        if isinstance(error, WriteError):
            return error
        reason = f"{type(error).__name__}: {error}"
        number, place = errno.EIO, self._file.name if self._file else self._place
        if isinstance(error, OSError):
            reason, number = error.strerror or reason, error.errno or number
            place = error.filename or place
        count, size = len(self._held) + len(self._incoming), self._backlog()
        again = "call flush() again"
        if count:
            what = f"{count} events ({size:,} bytes) are not written yet, and still held"
        elif opening:
            what, again = "no event file can be made here", "try again"
        else:
            what = "the last events are kept, but not yet visible to readers"
        text = f"{reason}: {what}. Hint: free space, grant permission or move what is in the way, then {again}"
        failure = WriteError(number, text, place)
        failure.__cause__ = error
        return failure


def _loss(entry: Entry, error: Exception) -> WriteError | DeviceError:
    """Return the error that says which event is lost, and why."""
    if isinstance(error, DeviceError):  # the event's data was on the device only
        return error
    tags = ", ".join(map(repr, itertools.islice(entry.tags, 3))) or "an event"
    more = f" and {len(entry.tags) - 3} more" if len(entry.tags) > 3 else ""
    text = (
        f"{tags}{more}, step {entry.step}: it cannot be encoded ({type(error).__name__}: {error}) and is lost; "
        "all other events are kept. Hint: check the arguments of this call"
    )
    loss = WriteError(errno.EINVAL, text)
    loss.__cause__ = error
    return loss
