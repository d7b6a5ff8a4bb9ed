"""Where event files are read: local directories, or URLs that fsspec knows (``s3://``, ``memory://``).

A path is either. Reading a URL raises OSError as reading a local file does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from fasthist.errors import ArgumentError
from fasthist.events.remote import as_os_error, is_url, system_of

# Bytes of one request, which takes some 50 ms.
_BLOCK = 4 << 20


class _LocalFile(FileIO):
    def size(self) -> int:
        return os.fstat(self.fileno()).st_size


class _RemoteFile:
    """A file as it was when it was opened; holds one block of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        with as_os_error(url):
            self._system, self._path = system_of(url)
            self._size: int = self._system.size(self._path)
        self._at = self._begin = 0
        self._block = b""

    def seek(self, offset: int, /) -> int:
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        stop = min(self._at + size, self._size)
        if self._at >= stop:
            return b""
        if not self._begin <= self._at <= stop <= self._begin + len(self._block):
            end = min(max(stop, self._at + _BLOCK), self._size)
            with as_os_error(self._url):
                self._block = self._system.cat_file(self._path, start=self._at, end=end)
            self._begin = self._at
        data = self._block[self._at - self._begin : stop - self._begin]
        self._at += len(data)
        return data

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        self._block = b""


Stored = _LocalFile | _RemoteFile
"""One file to read: `seek`, `read`, `size` and `close`."""


def open_file(path: str) -> Stored:
    """Open a file to read it; OSError if that fails."""
    return _RemoteFile(path) if is_url(path) else _LocalFile(path)


def size_of(path: str) -> int:
    """Return the size of a file in bytes; OSError if it is missing."""
    if not is_url(path):
        return Path(path).stat().st_size
    with as_os_error(path):
        system, place = system_of(path)
        return int(system.size(place))


def check_exists(path: str, name: str = "") -> None:
    """Raise ArgumentError if there is no such directory or file; `name` is the argument that held the path."""
    hint = f"Hint: paths are taken from {str(Path.cwd())!r}."
    if is_url(path):
        with as_os_error(path):
            system, place = system_of(path)
            is_there = system.exists(place)
        hint = "Hint: was anything flushed to it?"
    else:
        is_there = Path(path).exists()
    if not is_there:
        told = f"{name}={path!r}" if name else path
        msg = f"{told} is not there. Accepted: a directory or an event file. {hint}"
        raise ArgumentError(msg)


def is_dir(path: str) -> bool:
    """Return whether a path is a directory."""
    if not is_url(path):
        return Path(path).is_dir()
    with as_os_error(path):
        system, place = system_of(path)
        return bool(system.isdir(place))


def join(directory: str, name: str) -> str:
    """Return the path of an entry of a directory; "." is the directory itself."""
    if not is_url(directory):
        return str(Path(directory, name))
    return directory if name == "." else f"{directory.rstrip('/')}/{name}"


def names_in(directory: str) -> list[str]:
    """Return the names of the files in a directory."""
    return next((names for _, names in walk(directory)), [])


def walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each directory from `top` on: its relative path, with slashes, and the names of its files."""
    if is_url(top):
        with as_os_error(top):
            system, place = system_of(top)
            for directory, _, names in system.walk(place):
                yield directory[len(place) :].strip("/") or ".", list(names)
        return
    seen: set[tuple[int, int]] = set()
    # Runs are often links to directories elsewhere; a link that leads back up must not be followed forever.
    for directory, inner, names in os.walk(top, followlinks=True):
        status = Path(directory).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            inner.clear()
            continue
        seen.add(identity)
        inner.sort()
        yield Path(directory).relative_to(top).as_posix(), names
