"""`EventFileWriter`: write events, in a background thread, to files that TensorBoard finds.

Guarantees:

- The directory and a file exist when the constructor returns, or it raises.
- Adding an event encodes nothing and touches no file. It waits only when the queue is full.
- An event is written exactly once: a failed write keeps what is not in the file for the next attempt.
- An event that cannot be encoded is lost alone; so are events that another program deletes or cuts off.
- Errors in the thread are raised by the next call, `flush` and `close` included. If the thread dies, these do its work.
- Held events reach the file at `flush`, at `close`, after `flush_secs`, when the writer is garbage-collected, and when the
  interpreter or a multiprocessing worker exits; on SIGTERM too, unless the program handles it.
- A forked child writes neither to its parent's file nor what its parent holds.
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
"""About 3,000 histograms that are not encoded yet."""

REMOTE_FILE_BYTES = 16 << 20
"""Size from which a remote file, which is sent as a whole each time, gets a successor."""


class EventFileWriter:
    """Write events to one directory; safe to call from several threads.

    Parameters
    ----------
    log_dir : str or os.PathLike
        The run: a local directory, created with its parents, or a URL that fsspec knows (extra ``fasthist[fsspec]``).
    max_queue : int
        Encoded events that may be held; with one more, the thread writes all of them to the file.
    flush_secs : float or None
        Seconds after which held events are written to the file. None or infinity: never by time.
    filename_suffix : str
        Appended to every file name.
    queue_bytes : int
        Memory that events may take before they are in the file.
    when_full : {"wait", "drop_oldest"}
        When the queue is full, wait until its events are written; or drop the oldest, and write their number as the scalar
        ``fasthist/dropped_events``.
    max_file_bytes : int, optional
        Begin a new file when one has reached this size. Default: never; 16 MiB for URLs.
    last_events : callable
        Called in the writer's thread at `close` or when the process ends; returns the entries to write last.
    opens : bool
        Create the directory and a file now, not at the first event.

    Raises
    ------
    ArgumentError
        An argument is not as above.
    MissingPackageError
        `log_dir` is a URL, and a package that it needs is not installed.
    WriteError
        No file can be created there.

    Notes
    -----
    `fasthist.events.files.new_name` names the files. A new file is begun by an event that is added after `close`, in a
    forked child, or in a process that received the writer by pickle.

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
            max_file_bytes = as_count("max_file_bytes", max_file_bytes, 1, "None writes one file")
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
        """Return the absolute path of the directory, or the URL."""
        return str(self._arguments["log_dir"])

    @property
    def nbytes(self) -> int:
        """Bytes written to files so far, in this process."""
        return self._log.nbytes

    def add_event(
        self,
        event: bytes | Callable[[], bytes],
        *,
        step: int = 0,
        nbytes: int | None = None,
        tags: Collection[str] = (),
    ) -> None:
        """Queue an event.

        Parameters
        ----------
        event : bytes or callable
            An encoded ``Event``, from `fasthist.events.messages`, or a function that returns one, called once in the
            writer's thread. If it raises, this event is lost, and the next call says so.
        step : int
            At which to write the number of dropped events, if this is the newest event then.
        nbytes : int, optional
            Memory held until the event is encoded. Default: its size.
        tags : collection of str
            Names of the event in an error.

        Raises
        ------
        WriteError
            An earlier event could not be written; the error says whether it is held or lost. This event is held, unless
            the error says that there is no room for it.
        """
        size = nbytes if nbytes is not None else len(event) if isinstance(event, bytes) else 0
        self._log.add(Entry(event, step, size, tags))

    def flush(self, *, fsync: bool = False) -> None:
        """Write every event added so far to the file, where other processes can read it.

        Parameters
        ----------
        fsync : bool
            Also wait until it is on the disk, so that it survives a power loss.

        Raises
        ------
        WriteError
            Not all could be written; the rest is still held.
        """
        self._log.ask("fsync" if fsync else "flush")

    def close(self) -> None:
        """Flush, close the file and end the thread; a later event goes to a new file.

        Raises
        ------
        WriteError
            Not all could be written; the rest is still held.
        """
        self._log.close()

    def discard(self) -> None:
        """Drop held events and close the file: for a caller that gives up after a `WriteError`."""
        self._log.ask("discard")


def _rebuild(arguments: dict[str, Any]) -> EventFileWriter:
    return EventFileWriter(**arguments, opens=False)
