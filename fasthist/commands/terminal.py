"""Output of commands: text for any terminal, tables, a progress bar, sparklines, short numbers."""

from __future__ import annotations

import codecs
import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from fasthist.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_BARS = "▁▂▃▄▅▆▇█"

_PLAIN = dict(zip(_BARS, ".:-=+*%#", strict=True)) | {"…": "~"}
"""Replacements for characters that the encoding of a stream lacks."""

_ANY_WIDTH = 1 << 14

_GAP = 2
_LEAST_TAG = 24
_LEAST_ROOM = 8


def print_anything() -> None:
    """Let stdout and stderr print any text in any encoding: replace or escape what it lacks."""
    codecs.register_error("fasthist", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="fasthist")


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (error.object[error.start] in _PLAIN):
        return _PLAIN[error.object[error.start]], error.start + 1
    return codecs.backslashreplace_errors(error)


def say(text: str, *, err: bool = False) -> None:
    """Print a line in the encoding of stdout or stderr; click alone would print UTF-8 instead of ASCII."""
    click.echo(text, file=sys.stderr if err else sys.stdout)


def console_of() -> Console:
    """Return a console for stdout, which breaks lines on a terminal only."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _ANY_WIDTH
    return console


class Column(NamedTuple):
    """A column: its head, the text of its cells, and its weight; a narrow terminal drops the lightest first."""

    head: str
    text: Callable[[Any], str]
    weight: int
    is_text: bool = False


def table_of(console: Console, columns: Mapping[str, Column], lines: Sequence[Any]) -> Table:
    """Make a table of lines; on a terminal, of as many columns as it has room for, always with "tag"."""
    from rich.table import Table
    from rich.text import Text

    texts = {
        name: [column.head, *(column.text(line) for line in lines)]
        for name, column in columns.items()
    }
    shown = list(columns)
    if console.is_terminal:
        if "run" in texts:
            texts["run"] = [_shortened(text, _LEAST_TAG) for text in texts["run"]]
        widths = {name: max(map(len, column)) for name, column in texts.items()}
        shown.sort(key=lambda name: columns[name].weight)
        least = min(widths["tag"], _LEAST_TAG)
        while len(shown) > 2 and least + sum(widths[n] + _GAP for n in shown[:-1]) > console.width:
            del shown[0]
        left = console.width - sum(widths[name] + _GAP for name in shown[:-1])
        texts["tag"] = [_shortened(text, max(left, _LEAST_ROOM)) for text in texts["tag"]]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    kept = [name for name in columns if name in shown]
    for name in kept:
        justify: Literal["left", "right"] = "left" if columns[name].is_text else "right"
        table.add_column(texts[name][0], justify=justify, no_wrap=True)
    for cells in zip(*(texts[name][1:] for name in kept), strict=True):
        table.add_row(*map(Text, cells))
    return table


def _shortened(text: str, room: int) -> str:
    # The end of a tag is more specific than its beginning.
    return text if len(text) <= room else "…" + text[len(text) - room + 1 :]


def print_paged(console: Console, table: Table) -> None:
    """Print a table, through the user's pager if it is longer than the terminal."""
    if not console.is_terminal or console.is_dumb_terminal or table.row_count < console.height - 1:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    click.echo_via_pager(captured.get().rstrip())


def shows_progress() -> bool:
    """Return whether stderr is a terminal on which a bar can move."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def progress(what: str, total: int, *, is_bytes: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr if it is a terminal; yield the function that moves it."""
    from rich import progress as parts
    from rich.console import Console

    amounts: list[parts.ProgressColumn] = [parts.MofNCompleteColumn()]
    if is_bytes:
        amounts = [parts.DownloadColumn(), parts.TransferSpeedColumn()]
    columns = parts.TextColumn(what), parts.BarColumn(), *amounts, parts.TimeRemainingColumn()
    console, hidden = Console(stderr=True), not shows_progress()
    with parts.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


def sparkline(values: Iterable[float]) -> str:
    """Draw numbers as bars, one character each: from 0, or the smallest if it is negative, to the largest.

    0 and numbers that are not finite are blanks.

    >>> sparkline([1, 2, 4, 0, 8])
    '▂▃▅ █'
    """
    heights = list(values)
    finite = [height for height in heights if math.isfinite(height)]
    low = min(0.0, *finite) if finite else 0.0
    reach = max(finite, default=0.0) - low
    if not reach:
        return " " * len(heights)
    last = len(_BARS) - 1
    return "".join(
        _BARS[min(int((height - low) / reach * len(_BARS)), last)]
        if math.isfinite(height) and height != low
        else " "
        for height in heights
    )


def number(value: float | None) -> str:
    """Format a number in four digits; nothing for None and NaN.

    >>> number(-0.0123456), number(1e9), number(2.0), number(None)
    ('-0.01235', '1e+09', '2', '')
    """
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def finite(value: Any) -> Any:
    """Return a value for JSON: None for NaN and infinities, which JSON lacks."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def few(texts: list[str], most: int = 3) -> str:
    """Join the first `most` texts, and say how many more there are."""
    more = len(texts) - most
    return "; ".join(map(printable, texts[:most])) + (f"; and {more} more" if more > 0 else "")
