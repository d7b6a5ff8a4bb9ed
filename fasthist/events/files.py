r"""Where event files lie, and the one that is being appended to.

Guarantees:

- A file holds whole records only: one that was written in part is cut off at once, and where that is impossible the file
  is given up. (A reader gives up at a torn record for good.)
- The names of a directory's files sort in the order in which they were begun, whoever began them and whatever the clock.

Sources: TensorBoard reads files in the order of their names; W&B reads those whose names match
``tfevents\.(\d+)\.<host>``, with a time that is not before its own start.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import itertools
import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path
from typing import Protocol

_uids = itertools.count()
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.")


class AppendOnly(Protocol):
    """An event file that grows."""

    name: str
    """A path or URL, for errors."""

    @property
    def size(self) -> int:
        """Bytes of whole records."""

    @property
    def usable(self) -> bool:
        """False once nothing more can be appended."""

    def check(self) -> None:
        """Raise OSError, which says what is lost, if somebody else has changed the file.

        What was appended since the last check is then taken out of it again.
        """

    def append(self, records: Sequence[bytes]) -> int:
        """Write some records; give how many are in the file, fewer than all if it went wrong after some of them."""

    def publish(self, *, fsync: bool) -> None:
        """Let readers see what was appended; with `fsync`, even after the machine lost its power, and of a closed file."""

    def close(self) -> None:
        """End the file. Nothing that was published is lost if this fails."""

    def release(self) -> None:
        """Let go of the file as it is: it is given up, or belongs to another process."""


class Folder(Protocol):
    """A directory that event files are made in."""

    def create(self, suffix: str, header: bytes) -> AppendOnly:
        """Begin a new file with a header, and make the directory if need be; OSError if that fails."""


class EventFile:
    """A file of a local file system; see `AppendOnly`.

    Parameters
    ----------
    path : Path
        Must not exist.
    header : bytes
        Its first record.
    folders : sequence of Path
        Directories that have new entries: its own, and those in which directories were made for it.

    Raises
    ------
    OSError
        It cannot be made, or the header not be written; then no file is left.
    """

    def __init__(self, path: Path, header: bytes, folders: Sequence[Path] = ()) -> None:
        self.name = str(path)
        self.size = 0
        self.usable = True
        self._checked = 0
        self._torn = 0  # bytes behind the last whole record that could not be cut off
        self._synced = 0
        self._unsynced_folders = [*folders]
        self._file = FileIO(path, "xb", opener=_open_to_append)
        try:
            self.append([header])
        except BaseException:
            with contextlib.suppress(OSError):
                self.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def check(self) -> None:
        """Look whether the file is where it was, and ends where it should; see `AppendOnly`."""
        status = os.fstat(self._file.fileno())
        try:
            self._check(status)
        except OSError:
            # It is at the end of the file, wherever that was, and is to be written again elsewhere.
            with contextlib.suppress(OSError):
                surplus = self.size + self._torn - self._checked
                self._file.truncate(max(status.st_size - surplus, 0))
            self.size = self._checked
            raise
        self._checked = self.size

    def _check(self, status: os.stat_result) -> None:
        if status.st_nlink == 0:
            # The system takes what is written into a deleted file, and nobody can ever read it.
            lost = f"the event file was deleted, and {self._checked:,} bytes with it"
            raise FileNotFoundError(errno.ENOENT, lost, self.name)
        end = self.size + self._torn
        if status.st_size < end:
            left = max(status.st_size - (end - self._checked), 0)
            lost = f"the event file was cut from {self._checked:,} to {left:,} bytes by another program"
            raise OSError(errno.EIO, lost, self.name)
        if status.st_size > end:
            text = "another program has written to the event file, which readers may give up at"
            raise OSError(errno.EIO, text, self.name)
        try:
            in_place = os.path.samestat(status, os.stat(self.name))  # noqa: PTH116  # twice as fast as Path.stat
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise FileNotFoundError(errno.ENOENT, "the event file was moved or replaced", self.name)

    def append(self, records: Sequence[bytes]) -> int:
        """Write some records, whole; see `AppendOnly`.

        Raises
        ------
        OSError
            None of them is in the file.
        """
        data = b"".join(records)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            ends = list(itertools.accumulate(map(len, records), initial=0))
            written = len(data) - len(rest)
            arrived = bisect.bisect_right(ends, written) - 1
            self.size += ends[arrived]
            self._cut(written - ends[arrived])
            if not arrived:
                raise
            return arrived
        except BaseException:  # what ends a thread, or Ctrl-C: how much was written is not known
            self._cut(None)
            self.usable = False
            raise
        self.size += len(data)
        return len(records)

    def _cut(self, surplus: int | None) -> None:
        """Cut so many bytes off the end, or all behind the last whole record; where it cannot be done, give up."""
        # Never to an absolute size: somebody may have made the file shorter, and a hole hides what is behind it.
        end = os.fstat(self._file.fileno()).st_size
        if surplus is None:
            surplus = max(end - self.size, 0)
        try:
            self._file.truncate(max(end - surplus, 0))
        except OSError:
            self.usable = False
            self._torn = surplus

    def publish(self, *, fsync: bool) -> None:
        """Have the system write to the disk, if asked; other processes see the file as it grows."""
        if fsync and self._synced < self.size:
            size = self.size
            if self._file.closed:
                with contextlib.suppress(FileNotFoundError):  # deleted by somebody else
                    _sync(self.name, os.O_RDWR)
            else:
                os.fsync(self._file.fileno())
            self._synced = size
        while fsync and self._unsynced_folders:
            with contextlib.suppress(FileNotFoundError):
                _sync(self._unsynced_folders[-1], os.O_RDONLY)
            self._unsynced_folders.pop()

    def close(self) -> None:
        """Close the file."""
        self.usable = False
        self._file.close()

    release = close


class LocalFolder:
    """A directory of a local file system; see `Folder`.

    Parameters
    ----------
    path : Path
        Absolute. Made with its parents when a file is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new_folders: list[
            Path
        ] = []  # those with new entries, until there is a file to sync them with

    def create(self, suffix: str, header: bytes) -> EventFile:
        """Begin a new file; see `Folder`."""
        missing = itertools.takewhile(
            lambda path: not path.exists(), (self.path, *self.path.parents)
        )
        self._new_folders += [path.parent for path in missing]
        self.path.mkdir(parents=True, exist_ok=True)
        while True:
            name = new_name((path.name for path in self.path.iterdir()), suffix)
            # Another writer may have taken the name in this moment, where containers share host name and process number.
            with contextlib.suppress(FileExistsError):
                file = EventFile(self.path / name, header, [self.path, *self._new_folders])
                self._new_folders.clear()
                return file


def _open_to_append(path: str, flags: int) -> int:
    """Open a file so that each write goes to its end, even where another program has just made it shorter."""
    return os.open(path, flags | os.O_APPEND, 0o666)


def _sync(path: str | Path, flags: int) -> None:
    """Have the system write a file, or the entries of a directory, to the disk."""
    if os.name == "nt" and flags == os.O_RDONLY:
        return  # Windows writes entries by itself, and opens no directory
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_name(taken: Iterable[str], suffix: str) -> str:
    """Name a new event file, so that it is read after all others of its directory.

    Parameters
    ----------
    taken : iterable of str
        Names in the directory.
    suffix : str
        Ends the name.

    Returns
    -------
    str
        ``events.out.tfevents.<seconds since 1970>.<host>.<process>.<number><suffix>``. The seconds run ahead of the
        clock if another file's do, or if it was begun in the same second and sorts later.
    """
    rest = f"{socket.gethostname()}.{os.getpid()}.{next(_uids):06d}{suffix}"
    newest = max((name for name in taken if _NAME.match(name)), default="")
    seconds = int(time.time())
    name = f"events.out.tfevents.{seconds:010d}.{rest}"
    if name <= newest and (found := _NAME.match(newest)):
        seconds = min(int(found[1]) + 1, 9_999_999_999)
    return f"events.out.tfevents.{seconds:010d}.{rest}"
