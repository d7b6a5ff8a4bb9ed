"""`read`: the histograms in event files of any writer, even while they are written.

`read` returns the histograms of files and runs, with the guarantees of `fasthist.events.finding`; `raw_events` returns
the events of one run without decoding their values, for a caller that writes them again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from fasthist.errors import MessageError
from fasthist.events.finding import RunFiles, event_files, run_files
from fasthist.events.parsing import read_event, read_text, read_value
from fasthist.events.recordfile import RecordFile
from fasthist.events.restoring import regular
from fasthist.events.stored import check_exists, is_dir, names_in
from fasthist.hist import Histogram


class ReadHistogram(NamedTuple):
    """A histogram from an event file, and where it stood.

    Attributes
    ----------
    run : str
        The directory of the file, relative to the one that is read, with slashes; "." for that one itself.
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
        A directory, where each directory with event files is a run; or one file; or the URL of either, such as
        ``s3://bucket/runs`` (needs fsspec and its package for it).
    skip_corrupt : bool
        Skip damaged records and count them in ``corrupt_count``, instead of raising.

    Returns
    -------
    EventReader
        Yields a `ReadHistogram` (run, tag, step, wall_time, histogram) for each, run after run, in the order of the
        files' names. Iterate again for what has been written since.

    Raises
    ------
    ArgumentError
        There is no such directory or file, or fsspec does not know this kind of URL.
    MissingPackageError
        The package that reads this kind of URL is not installed.

    Notes
    -----
    Files of fasthist, torch, tensorboardX, TensorFlow and Keras are read, with both forms of histograms. What a form does
    not tell is None: the rows of TensorFlow 2 and Keras have no sums, and only fasthist counts NaN and infinities; in
    files of others `Histogram.uncounted` tells what was not counted. A histogram has the file's buckets; around a
    constant their ends may leave the value a little room. Everything in the files is returned, including steps that a
    restarted run has written again.

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


class EventReader:
    """Iterate over the histograms in event files; made by `read`.

    It is its own iterator. It ends when everything written so far has been yielded; iterating again yields what
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
        check_exists(self.log_dir, "log_dir")
        self._runs: dict[str, RunFiles[Histogram]] = {}
        self._walk: Iterator[ReadHistogram] | None = None

    @property
    def corrupt_count(self) -> int:
        """Number of damaged records skipped so far."""
        return sum(run.corrupt_count for run in self._runs.values())

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
        for name, paths in run_files(self.log_dir):
            if name not in self._runs:
                self._runs[name] = RunFiles(regular, skip_corrupt=self.skip_corrupt)
            for path in paths:
                for event, histograms in self._runs[name].read(path):
                    for found, histogram in zip(event.histograms, histograms, strict=True):
                        yield ReadHistogram(name, found.tag, event.step, event.wall_time, histogram)


class RawEvent(NamedTuple):
    """An event whose values are not decoded."""

    step: int
    wall_time: float
    starts: bool
    values: list[tuple[str, bytes]]
    """Tag and encoded ``Summary.Value``."""


def raw_events(log_dir: str | os.PathLike[str]) -> Iterator[RawEvent]:
    """Yield every event in the event files of one run.

    Skips directories in it, and damaged or incomplete records; `log_dir` need not exist. Holds one block or one record.
    """
    directory = os.fsdecode(log_dir)
    if not is_dir(directory):
        return
    for path in event_files(directory, names_in(directory)):
        for payload, _ in RecordFile(path, skip_corrupt=True):
            with contextlib.suppress(MessageError):
                event = read_event(payload)
                values = [
                    (read_text(read_value(payload, place).tag), payload[slice(*place)])
                    for place in event.values
                ]
                yield RawEvent(event.step, event.wall_time, event.starts, values)
