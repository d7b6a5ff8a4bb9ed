"""`EventFileWriter`: events to files that TensorBoard finds, in a thread of its own, whatever happens on the way.

Guarantees:

- The directory and a file are there when the constructor returns; what is in the way is told there.
- Handing over an event encodes nothing and touches no file. It waits only when the queue is full.
- An event handed over is written exactly once: a failed write keeps what is not in the file, for the next attempt.
- An event that cannot be encoded is lost alone, and so is what somebody else deletes or cuts off of a file.
- What went wrong in the thread is raised by the next call, and by `flush` and `close`. If the thread dies, they do its work.
- What is held reaches the file at `flush`, at `close`, after `flush_secs`, when the writer is garbage-collected, and when
  the interpreter or a multiprocessing worker exits; after SIGTERM too, unless the program handles that itself.
- A forked child neither writes to its parent's file nor writes what its parent holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from fasthist.arguments import as_count, as_directory, as_part_of_path, as_seconds
from fasthist.errors import ArgumentError
from fasthist.events import endings
from fasthist.events.background import Entry, Limits, Log
from fasthist.events.files import Folder, LocalFolder
from fasthist.events.remote import RemoteFolder, is_url

WhenFull = Literal["wait", "drop_oldest"]

QUEUE_BYTES = 64 << 20
"""Some 3,000 histograms that are not encoded yet."""

REMOTE_FILE_BYTES = 16 << 20
"""Where a file is sent as a whole each time, one that is as large as this gets a successor."""


class EventFileWriter:
    """Write events to one directory; safe to call from several threads.

    Parameters
    ----------
    log_dir : str or os.PathLike
        The run: a local directory, or a URL that fsspec knows (extra ``fasthist[fsspec]``). Made at once, parents
        included; a relative one is taken from the directory that is current now.
    max_queue : int
        Events that may be held encoded; one more, and the thread takes all of them to the file.
    flush_secs : float or None
        Seconds after which what is held is taken to the file. None or infinity: never by time.
    filename_suffix : str
        Ends the name of every file.
    queue_bytes : int
        Memory that events may take before they are in the file.
    when_full : {"wait", "drop_oldest"}
        What happens to one more: it waits for the others to be written; or the oldest go, and their number
        is written as a scalar ``fasthist/dropped_events``.
    max_file_bytes : int, optional
        A file that has reached this size gets a successor. Default: none does, but for URLs.
    last_events : callable
        Called in the writer's thread when the writer is closed, or its process ends: gives what is to be written last.
    opens : bool
        Make the directory and a file now, and not when the first event arrives.

    Raises
    ------
    ArgumentError
        One of these is not so.
    MissingPackageError
        `log_dir` is a URL, and what reads it is not installed.
    WriteError
        No file can be made there.

    Notes
    -----
    Files are named as `fasthist.events.files.new_name` tells. After a fork, a child that adds an event gets a file of
    its own; so does a process that a writer is sent to by pickle, and whoever adds an event after `close`.

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
        flush_secs: float | None = 120,
        filename_suffix: str = "",
        queue_bytes: int = QUEUE_BYTES,
        when_full: WhenFull = "wait",
        max_file_bytes: int | None = None,
        last_events: Callable[[], Iterable[Entry]] = tuple,
        opens: bool = True,
    ) -> None:
        if when_full not in ("wait", "drop_oldest"):
            msg = f"when_full={when_full!r} is not known. Accepted: 'wait' or 'drop_oldest'."
            raise ArgumentError(msg)
        max_queue = as_count("max_queue", max_queue, 0, "max_queue=0 holds no event back")
        flush_secs = as_seconds("flush_secs", flush_secs)
        filename_suffix = as_part_of_path("filename_suffix", filename_suffix, "/\\")
        queue_bytes = as_count("queue_bytes", queue_bytes, 1, "the default is 64 MiB")
        if max_file_bytes is not None:
            hint = "None writes one file"
            max_file_bytes = as_count("max_file_bytes", max_file_bytes, 1, hint)
        directory = as_directory(log_dir)
        folder: Folder
        if is_url(directory):
            folder = RemoteFolder(directory)
            max_file_bytes = max_file_bytes or REMOTE_FILE_BYTES
        else:
            directory = str(Path(directory).absolute())
            folder = LocalFolder(Path(directory))
        self._arguments: dict[str, Any] = {
            "log_dir": directory,
            "max_queue": max_queue,
            "flush_secs": flush_secs,
            "filename_suffix": filename_suffix,
            "queue_bytes": queue_bytes,
            "when_full": when_full,
            "max_file_bytes": max_file_bytes,
            "last_events": last_events,
        }
        drops = when_full == "drop_oldest"
        limits = Limits(max_queue, flush_secs, filename_suffix, queue_bytes, drops, max_file_bytes)
        self._log = Log(folder, directory, limits, last_events)
        if opens:
            self._log.open()
        endings.watch(self, self._log)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._arguments,)

    def get_logdir(self) -> str:
        """Return the directory, absolute, or the URL."""
        return str(self._arguments["log_dir"])

    @property
    def nbytes(self) -> int:
        """Bytes that went to files so far, in this process."""
        return self._log.nbytes

    def add_event(
        self,
        event: bytes | Callable[[], bytes],
        *,
        step: int = 0,
        nbytes: int | None = None,
        tags: Collection[str] = (),
    ) -> None:
        """Hand over one event.

        Parameters
        ----------
        event : bytes or callable
            An encoded ``Event``, from `fasthist.events.messages`, or what gives one: it is called once, in the writer's
            thread. If it raises, its event is lost, and the next call tells so.
        step : int
            Where the number of dropped events is written, if this is the newest event then.
        nbytes : int, optional
            Memory that is held until it is encoded. Default: the event's own.
        tags : collection of str
            What to call the event in an error.

        Raises
        ------
        WriteError
            Something that was handed over before could not be written; the error says whether it is held or lost. This
            event is held, unless the error says that there is no room for it.
        """
        size = nbytes if nbytes is not None else len(event) if isinstance(event, bytes) else 0
        self._log.add(Entry(event, step, size, tags))

    def flush(self, *, fsync: bool = False) -> None:
        """Bring every event handed over to the file, where other processes can read it.

        Parameters
        ----------
        fsync : bool
            Wait until the disk has it as well, so that it survives a loss of power.

        Raises
        ------
        WriteError
            Not all could be written; the rest is still held.
        """
        self._log.ask("fsync" if fsync else "flush")

    def close(self) -> None:
        """Flush, close the file and end the thread; an event added later goes to a new file.

        Raises
        ------
        WriteError
            Not all could be written; the rest is still held.
        """
        self._log.close()

    def discard(self) -> None:
        """Forget what is held and let go of the file; for a caller that gives up after a `WriteError`."""
        self._log.ask("discard")


def _rebuild(arguments: dict[str, Any]) -> EventFileWriter:
    return EventFileWriter(**arguments, opens=False)
