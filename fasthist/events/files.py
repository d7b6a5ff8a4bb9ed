r"""Event files on local disks: their names, and appending to one.

Guarantees:

- A file holds whole records only: a partly written one is cut off at once, or else the file is abandoned, since a reader
  stops at a torn record for good.
- The names in a directory sort in the order in which the files were begun, by any process and whatever the clock says.

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
        """Raise OSError, which says what is lost, if another program has changed the file.

        First remove what was appended since the last check, for the caller to write elsewhere.
        """

    def append(self, records: Sequence[bytes]) -> int:
        """Write whole records; return how many are in the file. OSError: none is."""

    def publish(self, *, fsync: bool) -> None:
        """Show readers what was appended; with `fsync`, make it survive a power loss, even if the file is closed."""

    def close(self) -> None:
        """Close the file. Published records survive a failure."""

    def release(self) -> None:
        """Drop the file as it is: it is abandoned, or belongs to another process."""


class Folder(Protocol):
    """A directory for event files."""

    def create(self, suffix: str, header: bytes) -> AppendOnly:
        """Create a file with a header, and the directory if it is missing; OSError if that fails."""


class EventFile:
    """A file of a local file system; see `AppendOnly`. OSError if it cannot be created: then none is left.

    `folders` are the directories with new entries: its own, and those in which directories were made for it.
    """

    def __init__(self, path: Path, header: bytes, folders: Sequence[Path] = ()) -> None:
        self.name = str(path)
        self.size = 0
        self.usable = True
        self._checked = 0
        self._torn = 0  # bytes after the last whole record that could not be cut off
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
        """Check that the file is in its place and ends where it should; see `AppendOnly`."""
        try:
            status = os.fstat(self._file.fileno())
        except OSError:
            if self.usable:
                raise
            return  # the write that failed has said so
        try:
            self._check(status)
        except OSError:
            # Unchecked records are at the end of the file, wherever that is now.
            with contextlib.suppress(OSError):
                surplus = self.size + self._torn - self._checked
                self._file.truncate(max(status.st_size - surplus, 0))
            self.size = self._checked
            raise
        self._checked = self.size

    def _check(self, status: os.stat_result) -> None:
        if status.st_nlink == 0:
            # Writing to a deleted file succeeds, but nobody can ever read it.
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
        """Write whole records; see `AppendOnly`."""
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
        """Cut `surplus` bytes off the end (None: all after the last whole record); if that fails, abandon the file."""
        # Never to an absolute size: if another program has shortened the file, a hole would hide what follows it.
        try:
            end = os.fstat(self._file.fileno()).st_size
            if surplus is None:
                surplus = max(end - self.size, 0)
            self._file.truncate(max(end - surplus, 0))
        except OSError:
            self.usable = False
            self._torn = surplus or 0

    def publish(self, *, fsync: bool) -> None:
        """Sync to the disk with `fsync`; other processes see the file grow anyway."""
        if fsync and self._synced < self.size:
            size = self.size
            if self._file.closed:
                with contextlib.suppress(FileNotFoundError):  # another program deleted it
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
    """A directory of a local file system, given as an absolute path; see `Folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new_folders: list[Path] = []  # have new entries, to be synced with the next file

    def create(self, suffix: str, header: bytes) -> EventFile:
        """Create a file, and the directory with its parents; see `Folder`."""
        missing = itertools.takewhile(lambda p: not p.exists(), (self.path, *self.path.parents))
        self._new_folders += [path.parent for path in missing]
        self.path.mkdir(parents=True, exist_ok=True)
        while True:
            name = new_name((path.name for path in self.path.iterdir()), suffix)
            # Containers with equal host names and process numbers may take the same name at the same moment.
            with contextlib.suppress(FileExistsError):
                file = EventFile(self.path / name, header, [self.path, *self._new_folders])
                self._new_folders.clear()
                return file


def _open_to_append(path: str, flags: int) -> int:
    """Open a file so that each write goes to its end, even if another program has just shortened it."""
    return os.open(path, flags | os.O_APPEND, 0o666)


def _sync(path: str | Path, flags: int) -> None:
    """Sync a file, or the entries of a directory, to the disk."""
    if os.name == "nt" and flags == os.O_RDONLY:
        return  # Windows syncs entries itself, and cannot open a directory
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_name(taken: Iterable[str], suffix: str) -> str:
    """Name a new event file so that readers take it after the names in its directory.

    The name is ``events.out.tfevents.<seconds since 1970>.<host>.<process>.<number><suffix>``. The seconds run ahead of
    the clock if another file's do, or if a file of the same second would sort later.
    """
    rest = f"{socket.gethostname()}.{os.getpid()}.{next(_uids):06d}{suffix}"
    newest = max((name for name in taken if _NAME.match(name)), default="")
    seconds = int(time.time())
    name = f"events.out.tfevents.{seconds:010d}.{rest}"
    if name <= newest and (match := _NAME.match(newest)):
        seconds = min(int(match[1]) + 1, 9_999_999_999)
    return f"events.out.tfevents.{seconds:010d}.{rest}"
