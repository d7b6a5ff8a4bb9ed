"""Find what there is to read: runs below a directory, event files in a run, and the histograms in a file (`RunFiles`).

Guarantees:

- Only what the file holds is returned: the checksum of every record is checked.
- An incomplete record is the end for now; the next call continues with it.
- Memory is bounded by one block of a file, or one larger record, its histograms, and a few names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from fasthist.errors import EventFileError, MessageError
from fasthist.events import parsing, restoring
from fasthist.events.messages import WRITER
from fasthist.events.parsing import HISTOGRAMS, Moments, Place, Rows, read_text, read_value
from fasthist.events.recordfile import RecordFile
from fasthist.events.restoring import EXACT, NONE, UNTOLD, Specials
from fasthist.events.stored import is_dir, join, walk
from fasthist.hist import Histogram

Form = Moments | Rows | None
"""The numbers of a histogram as in the file: the older form, rows, or None if it has no finite value."""

Restored = TypeVar("Restored")
"""What is made of a histogram: itself, or its numbers."""

_SPECIALS = (b"/nan_count", b"/posinf_count", b"/neginf_count")
_ZEROS = b"/zero_fraction"

# Bytes of events restored together: some 70 histograms, in a third of the time that numpy takes one by one.
_BATCH = 1 << 18


class Found(NamedTuple):
    """A histogram that is not restored yet."""

    tag: str
    place: Place  # where its form begins and ends in the event
    form: Form
    specials: Specials
    zero_fraction: float  # NaN if unknown


class Restart(NamedTuple):
    """A note that the run began anew at a step: what it wrote at this step and later is void."""

    tags: frozenset[str] | None  # void for these alone; None for all
    stays: frozenset[str]  # tags whose rows stay: see `RunFiles`


class FoundEvent(NamedTuple):
    """An event with histograms, or with a restart, which applies before its histograms."""

    step: int
    wall_time: float
    offset: int  # where its record begins in the file
    restart: Restart | None
    histograms: list[Found]


class RunFiles(Generic[Restored]):
    """The files of a run: how far each is read, and what only its first events tell.

    `restore_regular` is `regular`, or `regular_numbers` for callers that need only the numbers.

    A restart is recognised as by TensorBoard's ``EventAccumulator``: at each note that a session starts, even the first;
    or, without a file version so far, at each event whose step is below the last one's, and then for its tags only
    (tensorboard/backend/event_processing/event_accumulator.py). It does not forget tensors then. So the rows of other
    libraries stay; fasthist's, which may be one step's form of a tag and not another's, do not. TensorBoard's page, which
    reads through ``plugin_event_accumulator.py``, forgets tensors too, but not at the first note.
    """

    def __init__(
        self,
        restore_regular: Callable[[list[Any], list[Specials]], list[Restored | None]],
        *,
        skip_corrupt: bool = False,
    ) -> None:
        self._restore_regular = restore_regular
        self.skip_corrupt = skip_corrupt
        self.files: dict[str, RecordFile] = {}
        self._ours: set[str] = set()  # whose scalars tell of NaN, infinities and zeros
        self._row_tags: set[bytes] = set()  # whose tensors are rows of histograms
        self._others_rows: set[str] = set()  # tags with rows that others wrote
        self._version = 0.0
        self._newest = -1  # step, as long as there is no version

    @property
    def corrupt_count(self) -> int:
        """Number of damaged records skipped so far."""
        return sum(file.corrupt_count for file in self.files.values())

    def read(self, path: str) -> Iterator[tuple[FoundEvent, list[Restored | Histogram]]]:
        """Yield what is new in a file: all histograms of an event, or none; nothing if the file is gone.

        Histograms are as `restore_regular` returns them, or a Histogram where it returns None. Events before a damaged
        record come first; the next call raises its EventFileError again.
        """
        file = self.files.get(path)
        if file is None:
            file = self.files[path] = RecordFile(path, skip_corrupt=self.skip_corrupt)
        pending: list[FoundEvent] = []
        held = 0
        records = iter(file)
        while True:
            try:
                payload, offset = next(records)
            except (StopIteration, FileNotFoundError):
                break
            except (EventFileError, OSError):
                yield from self._restored(file, pending)
                raise
            try:
                event = self._find(payload, path, offset)
            except MessageError as error:
                yield from self._restored(file, pending)
                pending, held = [], 0
                _corrupt(file, offset, error)
                continue
            if event is not None:
                pending.append(event)
                held += len(payload)
                if held >= _BATCH:
                    yield from self._restored(file, pending)
                    pending, held = [], 0
        yield from self._restored(file, pending)

    def _restored(
        self, file: RecordFile, pending: list[FoundEvent]
    ) -> Iterator[tuple[FoundEvent, list[Restored | Histogram]]]:
        every = [found for event in pending for found in event.histograms]
        forms, specials = [found.form for found in every], [found.specials for found in every]
        regular = iter(self._restore_regular(forms, specials))
        for event in pending:
            # All of them are taken first: an error must not leave any to the next event.
            restored = [(found, next(regular)) for found in event.histograms]
            try:
                whole = [done or _restore(found.form, found.specials) for found, done in restored]
            except MessageError as error:
                _corrupt(file, event.offset, error)
            else:
                yield event, whole

    def _find(self, payload: bytes, path: str, offset: int) -> FoundEvent | None:
        """Find the histograms in an event, or raise MessageError."""
        event = parsing.read_event(payload)
        step, wall_time, source = event.step, event.wall_time, event.source
        if offset == 0 and source and parsing.read_writer(payload, source) == WRITER:
            self._ours.add(path)
        if event.version is not None:
            self._version = parsing.read_version(payload, event.version)
        restart: Restart | None = None
        is_back = False
        if self._version < 2:
            is_back = step < self._newest and bool(event.values)
            self._newest = self._newest if is_back else step
        elif event.starts:
            restart = Restart(None, frozenset(self._others_rows))
        if not event.values:
            return None if restart is None else FoundEvent(step, wall_time, offset, restart, [])
        is_ours = path in self._ours
        values: list[parsing.Value] = []  # the histograms
        told: dict[bytes, list[float]] = {}  # counts of `_SPECIALS`, by tag
        zeros: dict[bytes, float] = {}
        for place in event.values:
            value = read_value(payload, place)
            tag = value.tag
            if value.histo is not None:
                values.append(value)
            elif value.tensor is not None:
                if value.plugin == HISTOGRAMS:
                    self._row_tags.add(tag)
                if value.plugin == HISTOGRAMS or (not value.plugin and tag in self._row_tags):
                    values.append(value)
            elif value.simple is not None and is_ours:
                if tag.endswith(_SPECIALS):
                    base, name = tag.rsplit(b"/", 1)
                    told.setdefault(base, [0.0] * 3)[_SPECIALS.index(b"/" + name)] = value.simple
                elif tag.endswith(_ZEROS):
                    zeros[tag.removesuffix(_ZEROS)] = value.simple
        silent = NONE if is_ours else UNTOLD
        histograms: list[Found] = []
        for value in values:
            counts = told.pop(value.tag, None)
            specials = silent if counts is None else _specials(counts)
            form: Form
            if value.histo is not None:
                place = value.histo
                form = parsing.read_moments(payload, place)
            else:
                assert value.tensor is not None
                place = value.tensor
                form = parsing.read_rows(payload, place)
                if not is_ours:
                    self._others_rows.add(read_text(value.tag))
            share = zeros.get(value.tag, math.nan) if zeros else math.nan
            histograms.append(Found(read_text(value.tag), place, form, specials, share))
        for tag, counts in () if event.again else told.items():
            if all(map(_is_count, counts)):
                histograms.append(Found(read_text(tag), (0, 0), None, _specials(counts), math.nan))
        if is_back:
            tags = frozenset(read_text(read_value(payload, place).tag) for place in event.values)
            restart = Restart(tags, frozenset(self._others_rows))
        if not (histograms or restart):
            return None
        return FoundEvent(step, wall_time, offset, restart, histograms)


def _specials(counts: list[float]) -> Specials:
    first, second, third = (
        int(count) if _is_count(count) and count < EXACT else None for count in counts
    )
    return first, second, third


def _is_count(value: float) -> bool:
    return value >= EXACT or (value >= 0 and value.is_integer())


def restore(forms: list[Form], specials: list[Specials]) -> list[Histogram]:
    """Restore histograms from their forms; MessageError if one contradicts itself."""
    rows = zip(restoring.regular(forms, specials), forms, specials, strict=True)
    return [histogram or _restore(form, counts) for histogram, form, counts in rows]


def _restore(form: Form, specials: Specials) -> Histogram:
    if form is None:
        return restoring.empty(restoring.beside(specials), specials, 0.0, 0.0, 0.0, 0)
    if isinstance(form, Moments):
        return restoring.from_moments(form, specials)
    return restoring.from_rows(form, specials)


def _corrupt(file: RecordFile, offset: int, error: MessageError) -> None:
    after, file.offset = file.offset, offset
    file.corrupt(str(error))
    file.offset = after


def run_files(log_dir: str) -> list[tuple[str, list[str]]]:
    """Return each run below a directory, with the paths of its files, in order; or the one file."""
    if not is_dir(log_dir):
        return [(".", [log_dir])]
    runs = []
    for run, names in walk(log_dir):
        paths = event_files(join(log_dir, run), names)
        if paths:
            runs.append((run, paths))
    return sorted(runs)


def event_files(directory: str, names: Iterable[str]) -> list[str]:
    """Return the paths of the event files among these names, oldest first, without those of a profiler."""
    return [
        join(directory, name)
        for name in sorted(names)
        if "tfevents" in name and not name.endswith(".profile-empty")
    ]
