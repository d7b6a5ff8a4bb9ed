"""What commands draw with: text for any terminal, a progress bar, a line of small bars, numbers in few digits."""

from __future__ import annotations

import codecs
import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_BARS = "▁▂▃▄▅▆▇█"

_PLAIN = dict(zip(_BARS, ".:-=+*%#", strict=True)) | {"…": "~"}
"""What is drawn instead where the encoding of a stream lacks it."""

_ANY_WIDTH = 1 << 14


def print_anything() -> None:
    """Let stdout and stderr print any text in any encoding, plainer or escaped where there is no other way."""
    codecs.register_error("fasthist", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="fasthist")


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (error.object[error.start] in _PLAIN):
        return _PLAIN[error.object[error.start]], error.start + 1
    return codecs.backslashreplace_errors(error)


def printable(text: str) -> str:
    r"""Escape what a terminal would obey instead of showing it, such as line ends and colour codes.

    Examples
    --------
    >>> print(printable("fc\x1b[31m/größe"))
    fc\x1b[31m/größe
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )


def console_of() -> Console:
    """Give stdout, which breaks no line unless it is a terminal."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _ANY_WIDTH
    return console


def print_paged(console: Console, table: Table) -> None:
    """Print a table, through the user's pager if it is longer than the terminal."""
    if not console.is_terminal or console.is_dumb_terminal or table.row_count < console.height - 1:
        console.print(table)
        return
    import click

    with console.capture() as captured:
        console.print(table)
    click.echo_via_pager(captured.get())


def shows_progress() -> bool:
    """Whether stderr is a terminal on which a bar can move."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def progress(what: str, total: int, *, is_bytes: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr while it is a terminal; give the function that moves it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    amounts = [DownloadColumn(), TransferSpeedColumn()] if is_bytes else [MofNCompleteColumn()]
    with Progress(
        TextColumn(what),
        BarColumn(),
        *amounts,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shows_progress(),
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


def sparkline(values: Iterable[float]) -> str:
    """Draw numbers as bars, one character each: from 0 to the largest, or from the smallest if one is below 0.

    What is not finite is a blank, and so is 0.

    Examples
    --------
    >>> sparkline([1, 2, 4, 0, 8])
    '▂▃▅ █'
    """
    heights = list(values)
    finite = [height for height in heights if math.isfinite(height)]
    low = min(0.0, *finite) if finite else 0.0
    reach = max(finite, default=0.0) - low
    if not reach:
        return " " * len(heights)
    return "".join(
        _BARS[min(int((height - low) / reach * len(_BARS)), len(_BARS) - 1)]
        if math.isfinite(height) and height != low
        else " "
        for height in heights
    )


def number(value: float | None) -> str:
    """Write a number in four digits; nothing for None and NaN.

    Examples
    --------
    >>> number(-0.0123456), number(1e9), number(2.0), number(None)
    ('-0.01235', '1e+09', '2', '')
    """
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def finite(value: Any) -> Any:
    """Return a value for JSON, which has no number for NaN and infinities: None for these."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def few(texts: list[str], most: int = 3) -> str:
    """Join the first few, and say how many more there are."""
    more = len(texts) - most
    return "; ".join(map(printable, texts[:most])) + (f"; and {more} more" if more > 0 else "")
