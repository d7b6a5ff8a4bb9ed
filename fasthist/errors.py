"""Every error that fasthist raises on purpose, and the helpers for their texts.

Each class is a `FasthistError` and also the builtin that a caller would expect, so both
``except fasthist.FasthistError`` and ``except ValueError`` work. Every text says what was wrong with
the value, what is accepted, and what to do next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def printable(text: str) -> str:
    r"""Escape what a terminal would obey instead of show, such as line ends and colour codes.

    >>> print(printable("fc\x1b[31m/größe"))
    fc\x1b[31m/größe
    """
    if text.isprintable():
        return text
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


class FasthistError(Exception):
    """Base of every error that fasthist raises on purpose."""

    def __str__(self) -> str:
        """Return the text; tags and file names in it may hold anything, and it goes to terminals."""
        return "\n".join(map(printable, super().__str__().split("\n")))


class ArrayError(FasthistError, TypeError):
    """A value that is not a dense array of real numbers."""


class DeviceError(FasthistError, RuntimeError):
    """A device that is missing or has failed, or an array in device memory that fasthist cannot read."""


class BucketsError(FasthistError, ValueError):
    """Buckets that cannot be made, or two histograms whose buckets differ."""


class ArgumentError(FasthistError, ValueError):
    """An argument outside what is accepted."""


class CheckpointError(FasthistError, ValueError):
    """A checkpoint file that cannot be read."""


class MessageError(FasthistError, ValueError):
    """Bytes that are not a message, or a message that contradicts itself; the text says what is wrong."""


class EventFileError(FasthistError, ValueError):
    """A record of an event file that is damaged.

    Attributes
    ----------
    path : str
        The file.
    offset : int
        Where the record begins in it, in bytes.
    problem : str
        What is wrong.
    """

    def __init__(self, path: str, offset: int, problem: str) -> None:
        super().__init__(path, offset, problem)  # the arguments that pickle restores it from
        self.path, self.offset, self.problem = path, offset, problem

    def __str__(self) -> str:
        return (
            f"{self.path}, byte {self.offset}: {self.problem}. Accepted: records as they were written. "
            "Hint: pass skip_corrupt=True (--skip-corrupt) to pass over such records, or copy the file again."
        )


class WriteError(FasthistError, OSError):
    """An event file that could not be written; the text says what is buffered and what is lost."""


class QueueFullError(WriteError):
    """An event that was refused because the queue is full and cannot be written."""


class MissingPackageError(FasthistError, ImportError):
    """An optional package that this call needs is not installed."""

    @classmethod
    def for_extra(cls, package: str, extra: str, purpose: str) -> MissingPackageError:
        """Name the package, why it is needed and the command that installs it."""
        msg = f"{purpose} needs {package}, which is not installed. Run: pip install 'fasthist[{extra}]'"
        return cls(msg)


def listed(names: Iterable[str], most: int) -> str:
    """Join the first few names, and say how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def compiled(pattern: str | re.Pattern[str], argument: str) -> re.Pattern[str]:
    """Compile a regular expression, or raise ArgumentError that names the argument with its value."""
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        msg = f"{argument} must be a regular expression: {error}. Accepted: Python's, such as 'weights/.*'."
        raise ArgumentError(msg) from error
