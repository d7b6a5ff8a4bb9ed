"""What commands draw with: a progress bar, a line of small bars, numbers in few digits."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_BARS = "▁▂▃▄▅▆▇█"

_ANY_WIDTH = 1 << 14


def console_of() -> Console:
    """Give stdout, which breaks no line unless it is a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _ANY_WIDTH
    return console


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
        disable=not console.is_terminal,
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


def few(texts: list[str], most: int = 3) -> str:
    """Join the first few, and say how many more there are."""
    more = len(texts) - most
    return "; ".join(texts[:most]) + (f"; and {more} more" if more > 0 else "")
