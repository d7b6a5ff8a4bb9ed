"""`SummaryWriter`: torch's names over our counting and our event files, without torch.

Guarantees:

- Values are counted before the call returns; the writer keeps no reference to them.
- What is left is done in a thread of the writer's own: encoding, checksums and files.
- All values of one call are in one event.
- NaN and infinities never reach a bucket: they are counted, and written as scalars beside the histogram.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from fasthist import compute
from fasthist.arguments import (
    as_bins,
    as_count,
    as_directory,
    as_part_of_path,
    as_step,
    as_text,
    as_wall_time,
)
from fasthist.buckets import tensorflow_buckets
from fasthist.errors import ArgumentError
from fasthist.events import messages
from fasthist.events.foreign import ForeignWriter
from fasthist.events.record import OVERHEAD
from fasthist.events.restart import restart_events
from fasthist.events.writer import QUEUE_BYTES, EventFileWriter, WhenFull
from fasthist.hist import Histogram
from fasthist.raw_writer import RawWriter
from fasthist.series import WrittenStep, parse_statistics
from fasthist.thinning import Thinning, last_events
from fasthist.tree import named_leaves


class SummaryWriter(RawWriter):
    """Write histograms and scalars for TensorBoard, with the signatures of ``torch.utils.tensorboard``.

    Parameters
    ----------
    log_dir : str or os.PathLike, optional
        A directory, made at once, with an event file in it; or a URL that fsspec knows, such as ``s3://bucket/runs/a``
        (extra ``fasthist[fsspec]``). Default: ``runs/<month><day>_<hour>-<minute>-<second>_<host><comment>``.
    comment : str
        Ends the default directory's name; of no effect beside `log_dir`.
    purge_step : int, optional
        The run begins anew at this step: both of TensorBoard's loaders forget what earlier files hold from there on.
        Written at once.
    max_queue : int
        Events that may be held encoded; one more, and the thread takes all of them to the file.
    flush_secs : float or None
        Seconds after which the thread takes what is held to the file. None or infinity: never by time.
    filename_suffix : str
        Ends the name of every event file.
    logdir : str or os.PathLike, optional
        Another spelling of `log_dir`.
    every : int
        Write histograms of a tag's first step, then of those at least so many steps further than the last one written.
        What is left out is not counted either. TensorBoard keeps 100 steps of a tag, and draws 51.
    keep_last : bool
        With `every`, write the last step of each tag too, when the writer is closed. All steps are then counted.
    max_file_bytes : int, optional
        Begin a new file after so many bytes. Default: never, and after 16 MiB where `log_dir` is a URL.
    queue_bytes : int
        Memory for histograms that are not in the file yet.
    when_full : {"wait", "drop_oldest"}
        What a call does when there is no room: wait for the disk, or drop what is oldest; the number of dropped calls is
        then written as a scalar ``fasthist/dropped_events``.
    writer : torch or tensorboardX SummaryWriter, or any with ``add_event``, optional
        Hand all events to it, instead of to a file of our own: for tools that watch these classes, such as W&B's
        ``sync_tensorboard`` and ClearML. It stays open.

    Raises
    ------
    ArgumentError
        Both `log_dir` and `logdir` are given, or another argument is not as above.
    MissingPackageError
        `log_dir` is a URL, or `writer` is given, and a package for it is not installed.
    WriteError
        The directory or the event file cannot be made.

    Notes
    -----
    Safe to call from several threads and after a fork; a forked or spawned process that uses the writer has a file of its
    own. `fasthist.events.writer.EventFileWriter` tells what is written when, and that an error in the thread is raised by
    the next call, and says what is still held. Use one writer for a directory: TensorBoard shows one event of a tag and
    step.

    `log_dir`, `max_queue`, `flush_secs`, `filename_suffix`, `purge_step`, `default_bins`, `file_writer` and `all_writers`
    are attributes as in torch: `purge_step` is None once it is written, and the last two are None from `close` until
    the next event.

    Examples
    --------
    >>> with SummaryWriter("runs/a") as writer:
    ...     writer.add_histogram("fc1/weight", [0.1, 0.2, 0.2], global_step=1)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: float | None = 120,
        filename_suffix: str = "",
        *,
        logdir: str | os.PathLike[str] | None = None,
        every: int = 1,
        keep_last: bool = False,
        max_file_bytes: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        when_full: WhenFull = "wait",
        writer: Any = None,
    ) -> None:
        if log_dir and logdir:
            msg = f"log_dir={log_dir!r} and logdir={logdir!r} mean the same. Accepted: one of them."
            raise ArgumentError(msg)
        chosen = log_dir or logdir
        if writer is not None and chosen:
            msg = f"log_dir={chosen!r} is given beside writer=, which has its own. Accepted: one of them."
            raise ArgumentError(msg)
        as_part_of_path("comment", comment, "")
        purge_from = None if purge_step is None else as_step(purge_step, "purge_step")
        thinning = Thinning(every, keep_last=keep_last)
        if writer is not None:
            foreign = ForeignWriter(writer, functools.partial(last_events, thinning))
            super().__init__(foreign.get_logdir(), foreign, thinning)
        else:
            if not chosen:
                now = f"{datetime.now():%b%d_%H-%M-%S}"
                chosen = Path("runs", f"{now}_{socket.gethostname()}{comment}")
            events = EventFileWriter(
                chosen,
                max_queue=max_queue,
                flush_secs=flush_secs,
                filename_suffix=filename_suffix,
                queue_bytes=queue_bytes,
                when_full=when_full,
                max_file_bytes=max_file_bytes,
                last_events=functools.partial(last_events, thinning),
            )
            super().__init__(as_directory(chosen), events, thinning)
        self.max_queue, self.flush_secs = max_queue, flush_secs
        self.filename_suffix = filename_suffix
        self.purge_step = None  # as in torch, once it is written
        if purge_from is not None:
            self._purge(purge_from)

    @functools.cached_property
    def default_bins(self) -> list[float]:
        """The edges of torch's ``bins="tensorflow"``."""
        return [*map(float, tensorflow_buckets().edges[1:-1])]

    def _purge(self, step: int) -> None:
        try:
            for event in restart_events(self.log_dir, step):
                self._events.add_event(event)
                self._events.flush()  # one by one, or a small queue may drop them
        except OSError:
            if isinstance(self._events, EventFileWriter):
                self._events.discard()  # nobody gets this writer, so nobody can flush it again
            raise

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: int | None = None,
        bins: compute.BucketsArgument = "auto",
        walltime: float | None = None,
        max_bins: int | None = None,
        *,
        stats: bool | Iterable[str | float] = False,
        display_name: str | None = None,
        description: str | None = None,
    ) -> None:
        """Count every element of an array and write its histogram.

        Parameters
        ----------
        tag : str
            Name of the series, parts joined with "/".
        values : array[...] or Histogram
            As in `fasthist.histogram`; or a finished histogram, whose buckets then stand.
        global_step : int, optional
            int64. None writes 0; TensorBoard shows one histogram for each step.
        bins : "auto", "tensorflow", int, float64[k + 1], Buckets or a rule of numpy
            `buckets` of `fasthist.histogram`. "auto" is ours; numpy's other names, such as "fd", mean what they mean there.
            Edges may be equal, which makes them one, and the outermost may be infinite.
        walltime : float, optional
            Seconds since 1970, UTC. Default: now.
        max_bins : int, optional
            Merge neighbours so that at most this many buckets are written.
        stats : bool or iterable of str or float
            Write scalars beside it. True: ``<tag>/mean``, ``<tag>/std``, ``<tag>/l2_norm`` and
            ``<tag>/zero_fraction``. Or some of "mean", "std", "l2_norm", "zero_fraction", "min", "max", and numbers
            from 0 to 1: ``<tag>/quantile_0.95``.
        display_name, description : str, optional
            What TensorBoard shows in place of the tag, and beside it, as Markdown. It takes them from the first histogram of
            a tag.

        Raises
        ------
        ArrayError, DeviceError
            `values` is no dense array of real numbers that can be read.
        BucketsError
            `bins` is none of the above.
        ArgumentError
            `tag`, `global_step`, `walltime`, `max_bins`, `stats`, `display_name` or `description` cannot be written, or
            `bins` is given for a finished histogram.
        WriteError
            The file cannot be written; the event is held.

        Notes
        -----
        Where there is no finite value no histogram is written. Scalars ``<tag>/nan_count``,
        ``<tag>/posinf_count`` and ``<tag>/neginf_count`` go with it, those that are not 0.
        """
        tag = messages.check_tag(tag)
        statistics = parse_statistics(stats)
        wall_time, step = as_wall_time(walltime), as_step(global_step)
        if max_bins is not None:
            max_bins = as_count("max_bins", max_bins, 1, "leave it out to write all buckets")
        shown = as_text("display_name", display_name), as_text("description", description)
        if isinstance(values, Histogram) and not (isinstance(bins, str) and bins == "auto"):
            msg = (
                f"histogram {tag!r}: bins={bins!r} is given for a Histogram, which has its buckets. "
                "Hint: leave bins out, or pass the array itself."
            )
            raise ArgumentError(msg)
        due = self._thinning.is_due(tag, step)
        if not due and not self._thinning.keeps_last:
            return
        if not isinstance(values, Histogram):
            values = compute.histogram(values, buckets=as_bins(bins), name=tag)
        written = WrittenStep(
            {tag: values}, statistics, max_bins, wall_time, step, self._ranges, *shown
        )
        if due:
            self._add_histograms(written)
        else:
            self._thinning.skip(tag, written)

    def add_histograms(
        self,
        tree: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        *,
        stats: bool | Iterable[str | float] = False,
    ) -> None:
        """Count every array of a tree and write all histograms as one event.

        Parameters
        ----------
        tree : mapping, sequence, dataclass or model, nested
            Of arrays or finished histograms; tags as in `fasthist.histograms`.
        global_step, walltime, stats
            As in `add_histogram`.

        Raises
        ------
        ArrayError, DeviceError
            A leaf cannot be read; nothing is written.
        ArgumentError
            Two leaves have one tag, or a tag, `global_step`, `walltime` or `stats` cannot be written.
        WriteError
            The file cannot be written; the event is held.

        Examples
        --------
        >>> with SummaryWriter("runs/a") as writer:
        ...     writer.add_histograms({"fc": {"weight": [[1.0, 2.0]], "bias": [0.5]}}, global_step=1)
        """
        statistics = parse_statistics(stats)
        wall_time, step = as_wall_time(walltime), as_step(global_step)
        late: set[str] = set()
        if self._thinning.every > 1:
            tree = named_leaves(tree)
            late = {tag for tag in tree if not self._thinning.is_due(tag, step)}
            if not self._thinning.keeps_last:
                tree = {tag: leaf for tag, leaf in tree.items() if tag not in late}
        found = compute.histograms(tree)
        for tag in found.keys() - self._tags:
            messages.check_tag(tag)
        self._tags |= found.keys()
        for tag in late & found.keys():
            one = {tag: found.pop(tag)}
            self._thinning.skip(
                tag, WrittenStep(one, statistics, None, wall_time, step, self._ranges)
            )
        if found:
            self._add_histograms(
                WrittenStep(found, statistics, None, wall_time, step, self._ranges)
            )

    def estimate_size(
        self, tree: Any, steps: int, *, stats: bool | Iterable[str | float] = False
    ) -> int:
        """Say how many bytes it takes to log a tree at so many steps, counting it once and writing nothing.

        Parameters
        ----------
        tree, stats
            As in `add_histograms`.
        steps : int
            Steps from the first to the last, of which `every` is taken account of.

        Returns
        -------
        int
            Histograms of other steps may take somewhat more or less.

        Examples
        --------
        >>> writer = SummaryWriter("runs/a", every=100)
        >>> writer.estimate_size({"weight": [0.1, 0.2]}, steps=100_000) < 1_000_000
        True
        """
        found = compute.histograms(tree)
        event = WrittenStep(
            found, parse_statistics(stats), None, time.time(), max(steps - 1, 0), {}
        ).encode()
        return (len(event) + OVERHEAD) * -(-steps // self._thinning.every)

    def _add_histograms(self, written: WrittenStep) -> None:
        if written.says_something():
            self._add(written.encode, written.step, written.nbytes, written.histograms)
