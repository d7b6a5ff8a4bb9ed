"""`RunIndex`: where the histograms of a run lie in its files, and their numbers: about a hundred bytes for each.

Histograms are checked as in `fasthist.events.finding`, and not kept; `restore` reads them again. After a restart at a
step, earlier entries at that step or later are dropped.
"""

from __future__ import annotations

import contextlib
import math
import operator
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import EventFileError
from fasthist.events.finding import Form, FoundEvent, Restart, RunFiles, restore
from fasthist.events.parsing import Moments, read_moments, read_rows
from fasthist.events.record import HEADER
from fasthist.events.restoring import Numbers, regular_numbers
from fasthist.events.stored import Stored, open_file
from fasthist.hist import Histogram

_numbers_of = operator.attrgetter(*Numbers._fields)
_ZERO_COUNT = Numbers._fields.index("zero_count")

ENTRY = np.dtype(
    [("step", "i8"), ("wall_time", "f8"), ("file", "i4"), ("form", "i4"), ("offset", "i8"), ("size", "i8")]
    + [(name, "f8") for name in Numbers._fields]
)  # fmt: skip
"""A histogram: its event, where its form lies (number of the file, kind of form, first byte, size), and its numbers, NaN
where the file does not tell them."""

_PLACE = ("file", "form", "offset", "size")
_SPECIALS = ("nan_count", "posinf_count", "neginf_count")
_pack = struct.Struct("=qdiiqq11d").pack

# Kinds of form: no finite value, which takes no bytes; the older form; rows.
_EMPTY, _MOMENTS, _ROWS = range(3)

# Bytes between two calls of `advance`: moving a bar takes 10 us.
_TELLING = 1 << 18


class RunIndex:
    """The histograms in the files of a run: `tables` maps each tag, in order of appearance, to ENTRY[n].

    A table is sorted by step, with one entry for each: the one that was read last.
    """

    def __init__(self, *, skip_corrupt: bool = False) -> None:
        self.tables: dict[str, NDArray[Any]] = {}
        self._run = RunFiles(regular_numbers, skip_corrupt=skip_corrupt)
        self._numbers: dict[str, int] = {}  # of the files in the tables, by path
        self._news: dict[str, bytearray] = {}
        self._hidden: dict[str, NDArray[Any]] = {}  # rows with a later histogram of their step

    @property
    def corrupt_count(self) -> int:
        """Number of damaged records skipped so far."""
        return self._run.corrupt_count

    def only(self, tags: Iterable[str]) -> RunIndex:
        """Return an index of some tags, to read their histograms; it cannot be updated."""
        part = RunIndex()
        part.tables = {tag: self.tables[tag] for tag in tags}
        part._numbers = self._numbers
        return part

    def update(self, paths: list[str], advance: Callable[[int], None] | None = None) -> bool:
        """Read what is new in the files; return whether there was any histogram, or a restart.

        Paths are in the order of writing; a missing file is skipped. `advance` gets the bytes read since its last call.
        What lies before a damaged record is kept; the next call raises its EventFileError again.
        """
        before = self.tables
        try:
            for path in paths:
                self._read(path, advance or (lambda _: None))
        finally:
            self._merge()
        return self.tables is not before

    def _read(self, path: str, advance: Callable[[int], None]) -> None:
        events = self._run.read(path)
        told = self._run.files[path].offset if path in self._run.files else 0
        try:
            for event, histograms in events:
                if event.restart is not None:
                    self._restart(event.step, event.restart)
                self._take(path, event, histograms)
                offset = self._run.files[path].offset
                if offset - told >= _TELLING:
                    advance(offset - told)
                    told = offset
        finally:
            advance(self._run.files[path].offset - told)

    def _take(
        self, path: str, event: FoundEvent, histograms: Sequence[Numbers | Histogram]
    ) -> None:
        number = self._numbers.setdefault(path, len(self._numbers))
        for (tag, (begin, end), form, _, share), histogram in zip(
            event.histograms, histograms, strict=True
        ):
            kind = _EMPTY if form is None else _MOMENTS if isinstance(form, Moments) else _ROWS
            numbers = [math.nan if n is None else n for n in _numbers_of(histogram)]
            if histogram.zero_count is None:
                numbers[_ZERO_COUNT] = share * histogram.num
            place = number, kind, event.offset + HEADER + begin, end - begin
            entry = _pack(event.step, event.wall_time, *place, *numbers)
            if tag in self._news:
                self._news[tag] += entry
            else:
                self._news[tag] = bytearray(entry)

    def _restart(self, step: int, restart: Restart) -> None:
        self._merge()
        tables = dict(self.tables)
        for tag in tables if restart.tags is None else restart.tags & tables.keys():
            table = tables[tag]
            if tag in restart.stays:
                table = table[(table["step"] < step) | (table["form"] == _ROWS)]
                if tag in self._hidden:  # perhaps by an entry that is dropped now
                    table = self._by_step(tag, np.concatenate((self._hidden[tag], table)))
            else:
                table = table[table["step"] < step]
            tables[tag] = table
        self.tables = {tag: table for tag, table in tables.items() if table.size}

    def _merge(self) -> None:
        """Merge what is new into copies of the tables."""
        if not self._news:
            return
        tables = dict(self.tables)
        for tag, news in self._news.items():
            table = np.frombuffer(news, ENTRY)
            if tag in tables:
                table = np.concatenate((tables[tag], table))
            tables[tag] = self._by_step(tag, table)
        self._news = {}
        self.tables = tables

    def _by_step(self, tag: str, table: NDArray[Any]) -> NDArray[Any]:
        """Sort by step and keep the last entry of each; remember hidden rows."""
        table = table[table["step"].argsort(kind="stable")]
        is_last = _ends(table["step"])
        # In an event that a restart has written again, counts of NaN and infinities may be alone.
        events = table[["step", "wall_time"]]
        (again,) = (
            (events[1:] == events[:-1]) & is_last[1:] & (table["form"][1:] == _EMPTY)
        ).nonzero()
        if again.size:
            for name in _SPECIALS:
                table[name][again] = np.fmax(table[name][again], table[name][again + 1])
            is_last[again], is_last[again + 1] = True, False
        hidden = table[~is_last & (table["form"] == _ROWS)]
        if hidden.size:
            if tag in self._hidden:
                hidden = np.concatenate((self._hidden[tag], hidden))
                hidden = hidden[hidden["step"].argsort(kind="stable")]
            self._hidden[tag] = hidden[_ends(hidden["step"])]
        table = table[is_last]
        table.setflags(write=False)
        return table

    def restore(self, entries: NDArray[Any]) -> list[Histogram]:
        """Read the histograms of entries again; EventFileError or MessageError if the file has changed since."""
        counts = entries[list(_SPECIALS)].tolist()
        specials: list[Any] = [
            tuple(None if math.isnan(count) else int(count) for count in row) for row in counts
        ]
        return restore(self.forms(entries), specials)

    def forms(self, entries: NDArray[Any]) -> list[Form]:
        """Read the forms of histograms again; errors as in `restore`."""
        paths = list(self._numbers)
        forms: list[Form] = []
        with contextlib.ExitStack() as opened:
            files: dict[int, Stored] = {}
            for number, form, offset, size in entries[list(_PLACE)].tolist():
                if form == _EMPTY:
                    forms.append(None)
                    continue
                if number not in files:
                    files[number] = open_file(paths[number])
                    opened.callback(files[number].close)
                files[number].seek(offset)
                data = files[number].read(size)
                if len(data) < size:
                    raise EventFileError(paths[number], offset, "the file has become shorter")
                read = read_moments if form == _MOMENTS else read_rows
                forms.append(read(data, (0, size)))
        return forms


def _ends(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the last of each run of equal steps."""
    return np.append(steps[1:] != steps[:-1], steps.size > 0)[: steps.size]
