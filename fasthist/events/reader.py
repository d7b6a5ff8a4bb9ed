"""`read`: the histograms in event files, whoever wrote them, while they are still written to.

Guarantees:

- What is given was in the file as it is: the checksums of every record are looked at.
- A record that is not all there yet is the end for now; asking again goes on with it.
- What is held is one block of a file, or one record where that is larger, the histograms in it, and a few names.

Two ways in: `read` gives the histograms of files and runs, `raw_values` the values of one run as bytes, for who
writes them again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fasthist.errors import ArgumentError, EventFileError, MessageError
from fasthist.events.messages import WRITER
from fasthist.events.parsing import (
    HISTOGRAMS,
    Moments,
    Value,
    read_event,
    read_moments,
    read_rows,
    read_text,
    read_value,
    read_writer,
)
from fasthist.events.recordfile import RecordFile
from fasthist.events.restoring import (
    NONE,
    UNTOLD,
    Specials,
    empty,
    from_moments,
    from_rows,
    regular,
)
from fasthist.hist import Histogram

_SPECIALS = (b"/nan_count", b"/posinf_count", b"/neginf_count")

# A float32 holds whole numbers below this one exactly.
_EXACT = 2.0**24

# Bytes of events that are restored together: some 70 histograms, which numpy takes a third of the time for.
_BATCH = 1 << 18


class ReadHistogram(NamedTuple):
    """A histogram from an event file, and where it stood.

    Attributes
    ----------
    run : str
        The directory of the file, below the one that is read, with slashes; "." for that one itself.
    tag : str
    step : int
    wall_time : float
        Seconds since 1970, UTC.
    histogram : Histogram
    """

    run: str
    tag: str
    step: int
    wall_time: float
    histogram: Histogram


def read(log_dir: str | os.PathLike[str], *, skip_corrupt: bool = False) -> EventReader:
    """Read the histograms in event files.

    Parameters
    ----------
    log_dir : str or os.PathLike
        A directory, with all directories in it, of which each is a run; or one file.
    skip_corrupt : bool
        Pass over records that are damaged, and count them in ``corrupt_count``, instead of raising.

    Returns
    -------
    EventReader
        Gives a `ReadHistogram` (run, tag, step, wall_time, histogram) for each, one run after the other, in the
        order of the files' names. Iterate again for what has been written since.

    Raises
    ------
    ArgumentError
        There is no such directory or file.

    Notes
    -----
    Files of fasthist, torch, tensorboardX, TensorFlow and Keras are read, and both forms of histograms in them. What
    the form does not tell is None: TensorFlow 2's and Keras' rows have no sums, and only fasthist tells how many
    values were NaN and infinite. A histogram has the file's buckets, and around a constant their ends may leave the
    value a little room. Everything in the files is given, also what a restarted run has written again.

    Examples
    --------
    >>> import fasthist
    >>> with fasthist.SummaryWriter("runs/a") as writer:
    ...     writer.add_histogram("fc1/weight", [1.0, 2.0, 4.0], 7)
    >>> for run, tag, step, wall_time, histogram in fasthist.read("runs"):
    ...     print(run, tag, step, histogram.num)
    a fc1/weight 7 3
    """
    return EventReader(log_dir, skip_corrupt=skip_corrupt)


# The tag, step, wall time, form and specials of a histogram that is not restored yet: of no finite value if it has no
# form. A class with names takes 0.3 us to make.
_Found = tuple[str, int, float, Moments | NDArray[Any] | None, Specials]


class _Run:
    """What is known of a run: how far its files have been read, and what only their first events tell."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.files: dict[str, RecordFile] = {}
        self.ours: set[str] = (
            set()
        )  # files that fasthist wrote, whose scalars may tell of NaN and infinities
        self.tags: set[bytes] = set()  # whose tensors are rows of histograms

    def decode(self, payload: bytes, path: str, *, first: bool) -> list[_Found]:
        """Find the histograms in an event, or raise MessageError."""
        event = read_event(payload)
        if first and event.source is not None and read_writer(payload, event.source) == WRITER:
            self.ours.add(path)
        found: list[Value] = []
        told: dict[bytes, list[float]] = {}
        for place in event.values:
            value = read_value(payload, place)
            tag = value.tag
            if value.histo is not None:
                found.append(value)
            elif value.tensor is not None:
                if value.plugin == HISTOGRAMS:
                    self.tags.add(tag)
                if value.plugin == HISTOGRAMS or (not value.plugin and tag in self.tags):
                    found.append(value)
            elif value.simple is not None and tag.endswith(_SPECIALS) and path in self.ours:
                base, name = tag.rsplit(b"/", 1)
                told.setdefault(base, [0.0] * 3)[_SPECIALS.index(b"/" + name)] = value.simple
        if not (found or told):
            return []
        silent = NONE if path in self.ours else UNTOLD
        made: list[_Found] = []
        step, wall_time = event.step, event.wall_time
        for value in found:
            counts = told.pop(value.tag, None)
            specials = silent if counts is None else _specials(counts)
            form: Moments | NDArray[Any]
            if value.histo is not None:
                form = read_moments(payload, value.histo)
            else:
                assert value.tensor is not None
                form = read_rows(payload, value.tensor)
            made.append((read_text(value.tag), step, wall_time, form, specials))
        for tag, counts in told.items():
            if all(_is_count(count) for count in counts):
                made.append((read_text(tag), step, wall_time, None, _specials(counts)))
        return made


def _specials(counts: list[float]) -> Specials:
    first, second, third = (int(one) if _is_count(one) and one < _EXACT else None for one in counts)
    return first, second, third


def _is_count(value: float) -> bool:
    return value >= _EXACT or (value >= 0 and value.is_integer())


class EventReader:
    """The histograms in event files; made by `read`.

    It is its own iterator. Where it ends, everything written so far has been given; iterating again gives what
    came since, in files that have grown, and in new files and runs.

    Raises
    ------
    EventFileError
        While iterating: a record is damaged. The next attempt raises it again.
    OSError
        While iterating: a file or directory cannot be read.
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, skip_corrupt: bool = False) -> None:
        self.log_dir = os.fsdecode(log_dir)
        self.skip_corrupt = skip_corrupt
        if not Path(self.log_dir).exists():
            msg = (
                f"log_dir={self.log_dir!r} is not there. Accepted: a directory or an event file. "
                f"Hint: paths are taken from {str(Path.cwd())!r}."
            )
            raise ArgumentError(msg)
        self._runs: dict[str, _Run] = {}
        self._walk: Iterator[ReadHistogram] | None = None

    @property
    def corrupt_count(self) -> int:
        """Damaged records passed over so far."""
        return sum(file.corrupt_count for run in self._runs.values() for file in run.files.values())

    def __iter__(self) -> EventReader:
        return self

    def __next__(self) -> ReadHistogram:
        if self._walk is None:
            self._walk = self._pass()
        try:
            return next(self._walk)
        except BaseException:  # the end, too: a generator that raised is spent
            self._walk = None
            raise

    def _pass(self) -> Iterator[ReadHistogram]:
        for name, paths in _runs(self.log_dir):
            run = self._runs.setdefault(name, _Run(name))
            for path in paths:
                if path not in run.files:
                    run.files[path] = RecordFile(path, skip_corrupt=self.skip_corrupt)
                with contextlib.suppress(FileNotFoundError):  # it has been deleted meanwhile
                    yield from _histograms(run, run.files[path])


def _histograms(run: _Run, file: RecordFile) -> Iterator[ReadHistogram]:
    """Give what is new in a file, restored some at a time."""
    pending: list[tuple[int, list[_Found]]] = []
    held = 0
    records = iter(file)
    while True:
        try:
            payload, offset = next(records)
        except StopIteration:
            break
        except (EventFileError, OSError):
            yield from _restored(run, file, pending)
            raise
        try:
            found = run.decode(payload, file.path, first=offset == 0)
        except MessageError as error:
            yield from _restored(run, file, pending)
            pending, held = [], 0
            _corrupt(file, offset, error)
            continue
        if found:
            pending.append((offset, found))
            held += len(payload)
            if held >= _BATCH:
                yield from _restored(run, file, pending)
                pending, held = [], 0
    yield from _restored(run, file, pending)


def _restored(
    run: _Run, file: RecordFile, pending: list[tuple[int, list[_Found]]]
) -> Iterator[ReadHistogram]:
    """Restore what was found in some events: all of an event, or nothing."""
    name = run.name
    found = [one for _, event in pending for one in event]
    quick = iter(regular([one[3] for one in found], [one[4] for one in found]))
    for offset, event in pending:
        made = [next(quick) for _ in event]
        try:
            rows = [
                ReadHistogram(name, tag, step, wall_time, done or _restore(form, specials))
                for (tag, step, wall_time, form, specials), done in zip(event, made, strict=True)
            ]
        except MessageError as error:
            _corrupt(file, offset, error)
        else:
            yield from rows


def _restore(form: Moments | NDArray[Any] | None, specials: Specials) -> Histogram:
    if form is None:
        return empty(specials, 0.0, 0.0)
    if isinstance(form, Moments):
        return from_moments(form, specials)
    return from_rows(form, specials)


def _corrupt(file: RecordFile, offset: int, error: MessageError) -> None:
    after, file.offset = file.offset, offset
    file.corrupt(str(error))
    file.offset = after


def _runs(log_dir: str) -> list[tuple[str, list[str]]]:
    """Give the names of runs and the paths of their files, in order."""
    if not Path(log_dir).is_dir():
        return [(".", [log_dir])]
    found = []
    seen: set[tuple[int, int]] = set()
    # Runs are often links to directories elsewhere; one that leads back up must not be followed for ever.
    for directory, inner, names in os.walk(log_dir, followlinks=True):
        status = Path(directory).stat()
        place = (status.st_dev, status.st_ino)
        if place in seen:
            inner.clear()
            continue
        seen.add(place)
        inner.sort()
        paths = _event_files(directory, names)
        if paths:
            found.append((Path(directory).relative_to(log_dir).as_posix(), paths))
    return sorted(found)


def _event_files(directory: str, names: list[str]) -> list[str]:
    return [str(Path(directory, name)) for name in sorted(names) if "tfevents" in name]


def raw_values(log_dir: str | os.PathLike[str]) -> Iterator[tuple[str, int, float, bytes]]:
    """Give every value in the event files of one run, as it is encoded.

    Parameters
    ----------
    log_dir : str or os.PathLike
        A directory; those in it are left out. It need not be there.

    Yields
    ------
    tag : str
    step : int
    wall_time : float
    value : bytes
        A ``Summary.Value``: what `fasthist.events.messages.summary_event` takes.

    Raises
    ------
    OSError
        A file cannot be read.

    Notes
    -----
    Damaged records, and one that is not all there, are passed over. Holds one block or one record.
    """
    directory = Path(os.fsdecode(log_dir))
    if not directory.is_dir():
        return
    names = [path.name for path in directory.iterdir() if path.is_file()]
    for path in _event_files(str(directory), names):
        for payload, _ in RecordFile(path, skip_corrupt=True):
            with contextlib.suppress(MessageError):
                event = read_event(payload)
                values = [
                    (read_text(read_value(payload, place).tag), payload[slice(*place)])
                    for place in event.values
                ]
                for tag, value in values:
                    yield tag, event.step, event.wall_time, value
