"""Event files in object stores and other places that fsspec reaches.

An object store cannot append: a file grows in a local spool, and all of it is sent whenever it is published.
`fasthist.events.writer` begins a new file after some megabytes, so that no more than these are sent again.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fasthist.errors import ArgumentError, FasthistError, MissingPackageError
from fasthist.events.files import EventFile, new_name

_WAITS = (0.1, 0.5, 2.0)
"""Seconds before each further attempt to send a file."""

_OBJECT_STORES = {"abfs", "abfss", "az", "gcs", "gs", "oci", "oss", "r2", "s3", "s3a"}
"""Here directories need not be made; fsspec's packages would make a bucket of a mistyped name."""


def is_url(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def system_of(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, without cached listings, and the path in it."""
    _check_kind(url)
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return system, path


def _check_kind(url: str) -> None:
    try:
        import fsspec
    except ImportError as error:
        package = extra = "fsspec"
        raise MissingPackageError.for_extra(package, extra, f"log_dir={url!r}") from error
    try:
        fsspec.get_filesystem_class(url.partition("://")[0])
    except ImportError as error:
        msg = f"log_dir={url!r} needs a package that is not installed: {error}"
        raise MissingPackageError(msg) from error
    except ValueError as error:
        msg = f"log_dir={url!r}: {error}. Accepted: a local directory, or a URL that fsspec knows."
        raise ArgumentError(msg) from error


class RemoteFolder:
    """A directory that fsspec reaches; see `fasthist.events.files.Folder`.

    Options, such as credentials and endpoints, come from the environment variables and files of fsspec and its packages.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        _check_kind(url)

    def create(self, suffix: str, header: bytes) -> RemoteFile:
        """Create a file with its own spool; nothing is sent yet."""
        with as_os_error(self._url):
            # Not kept: a connection does not survive a fork.
            system, path = system_of(self._url)
            try:
                taken = system.ls(path, detail=False)
            except FileNotFoundError:
                taken = []
        name = new_name((entry.rpartition("/")[2] for entry in taken), suffix)
        return RemoteFile(system, f"{path}/{name}", f"{self._url}/{name}", header)


class RemoteFile:
    """A file that grows in a local spool; see `fasthist.events.files.AppendOnly`."""

    def __init__(self, system: Any, path: str, name: str, header: bytes) -> None:
        self.name = name
        self._system = system
        self._path = path
        self._sent = 0
        self._folder = Path(tempfile.mkdtemp(prefix="fasthist-"))
        try:
            self._spool = EventFile(self._folder / name.rpartition("/")[2], header)
        except OSError:
            self._folder.rmdir()
            raise
        self._empty = self.size  # without an event

    @property
    def size(self) -> int:
        """Bytes of whole records."""
        return self._spool.size

    @property
    def usable(self) -> bool:
        """Whether more can be appended."""
        return self._spool.usable

    def check(self) -> None:
        """Check that the spool is unchanged."""
        self._spool.check()

    def append(self, records: Sequence[bytes]) -> int:
        """Write to the spool."""
        return self._spool.append(records)

    def publish(self, *, fsync: bool) -> None:
        """Send the whole file, in a few attempts; OSError if all fail. It is as durable as the store makes it."""
        del fsync
        if self._sent == self.size:
            return
        for wait in (*_WAITS, None):
            try:
                with as_os_error(self.name):
                    if self.name.partition("://")[0] not in _OBJECT_STORES:
                        self._system.makedirs(self._path.rpartition("/")[0], exist_ok=True)
                    self._system.put_file(self._spool.name, self._path)
            except OSError:
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                self._sent = self.size
                return

    def close(self) -> None:
        """Remove the spool, unless it holds events that could not be sent."""
        self._spool.close()
        if self.size in (self._sent, self._empty):
            with contextlib.suppress(OSError):
                Path(self._spool.name).unlink()
                self._folder.rmdir()

    def release(self) -> None:
        """Leave the spool to its owner."""
        self._spool.release()


@contextlib.contextmanager
def as_os_error(url: str) -> Iterator[None]:
    """Turn the errors of fsspec's packages into an OSError that names the place."""
    try:
        yield
    except (FileNotFoundError, FasthistError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise OSError(getattr(error, "errno", None) or errno.EIO, text, url) from error
