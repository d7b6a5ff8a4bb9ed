"""`SummaryWriter`: torch's names over our counting and our event files, without torch.

Guarantees:

- Values are counted before the call returns; the writer keeps no reference to them.
- The rest is done in the writer's own thread: encoding, checksums and files.
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

from fasthist import arguments, compute
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
from fasthist.thinning import Thinning
from fasthist.tree import named_leaves


class SummaryWriter(RawWriter):
    """Write histograms and scalars for TensorBoard, with the signatures of ``torch.utils.tensorboard``.

    Parameters
    ----------
    log_dir : str or os.PathLike, optional
        A directory, made at once, with an event file in it; or a URL that fsspec knows, such as ``s3://bucket/runs/a``
        (extra ``fasthist[fsspec]``). Default: ``runs/<month><day>_<hour>-<minute>-<second>_<host><comment>``.
    comment : str
        Appended to the default directory's name; no effect beside `log_dir`.
    purge_step : int, optional
        Restart the run at this step: both of TensorBoard's loaders forget what earlier files hold from there on. Written
        at once.
    max_queue : int
        Most events to buffer encoded; with one more, the thread writes all of them to the file.
    flush_secs : float or None
        Seconds after which the thread writes buffered events to the file. None or infinity: never by time.
    filename_suffix : str
        Appended to the name of every event file.
    logdir : str or os.PathLike, optional
        Another spelling of `log_dir`.
    every : int
        Write a tag's histogram at its first step, then at each at least this many steps after the last one written.
        Skipped steps are not counted either. TensorBoard keeps 100 steps of a tag, and draws 51.
    keep_last : bool
        With `every`, write the last step of each tag too, when the writer is closed. All steps are then counted.
    max_file_bytes : int, optional
        Start a new file after this many bytes. Default: never; 16 MiB if `log_dir` is a URL.
    queue_bytes : int
        Memory for histograms that are not in the file yet.
    when_full : {"wait", "drop_oldest"}
        What a call does when there is no room: wait for the disk, or drop the oldest; the number of dropped calls is
        then written as a scalar ``fasthist/dropped_events``.
    writer : torch or tensorboardX SummaryWriter, or any with ``add_event``, optional
        Pass all events to it, instead of to an own file: for tools that watch these classes, such as W&B's
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
    own. `fasthist.events.writer.EventFileWriter` says what is written when, and that the next call raises an error of the
    thread and says what is still buffered. Use one writer for a directory: TensorBoard shows one event per tag and step.

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
        arguments.as_part_of_path("comment", comment, "")
        purge_from = None if purge_step is None else arguments.as_step(purge_step, "purge_step")
        thinning = Thinning(every, keep_last=keep_last)
        if writer is not None:
            foreign = ForeignWriter(writer, thinning.last_events)
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
                last_events=thinning.last_events,
            )
            super().__init__(arguments.as_directory(chosen), events, thinning)
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
            Equal edges become one, and the outermost may be infinite.
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
            `values` must be a dense array of real numbers, in memory that fasthist can read.
        BucketsError
            `bins` is none of the above.
        ArgumentError
            `tag`, `global_step`, `walltime`, `max_bins`, `stats`, `display_name` or `description` cannot be written, or
            `bins` is given for a finished histogram.
        WriteError
            The file cannot be written; the event is kept for the next attempt.

        Notes
        -----
        Without finite values no histogram is written. Scalars ``<tag>/nan_count``, ``<tag>/posinf_count`` and
        ``<tag>/neginf_count`` go with it, if they are not 0.
        """
        tag = messages.check_tag(tag)
        statistics = parse_statistics(stats)
        wall_time, step = arguments.as_wall_time(walltime), arguments.as_step(global_step)
        if max_bins is not None:
            hint = "leave it out to write all buckets"
            max_bins = arguments.as_count("max_bins", max_bins, 1, hint)
        name = arguments.as_text("display_name", display_name)
        text = arguments.as_text("description", description)
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
            values = compute.histogram(values, buckets=arguments.as_bins(bins), name=tag)
        step_of = (statistics, max_bins, wall_time, step, self._ranges)
        written = WrittenStep({tag: values}, *step_of, name, text)
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
            Arrays or finished histograms; tags as in `fasthist.histograms`.
        global_step, walltime, stats
            As in `add_histogram`.

        Raises
        ------
        ArrayError, DeviceError
            A leaf cannot be read; nothing is written.
        ArgumentError
            Two leaves have the same tag, or a tag, `global_step`, `walltime` or `stats` cannot be written.
        WriteError
            The file cannot be written; the event is kept for the next attempt.

        Examples
        --------
        >>> with SummaryWriter("runs/a") as writer:
        ...     writer.add_histograms({"fc": {"weight": [[1.0, 2.0]], "bias": [0.5]}}, global_step=1)
        """
        statistics = parse_statistics(stats)
        wall_time, step = arguments.as_wall_time(walltime), arguments.as_step(global_step)
        late: set[str] = set()
        if self._thinning.every > 1:
            tree = named_leaves(tree)
            late = {tag for tag in tree if not self._thinning.is_due(tag, step)}
            if not self._thinning.keeps_last:
                tree = {tag: leaf for tag, leaf in tree.items() if tag not in late}
        counted = compute.histograms(tree)
        for tag in counted.keys() - self._tags:
            messages.check_tag(tag)
        self._tags |= counted.keys()
        step_of = (statistics, None, wall_time, step, self._ranges)
        for tag in late & counted.keys():
            self._thinning.skip(tag, WrittenStep({tag: counted.pop(tag)}, *step_of))
        if counted:
            self._add_histograms(WrittenStep(counted, *step_of))

    def estimate_size(
        self, tree: Any, steps: int, *, stats: bool | Iterable[str | float] = False
    ) -> int:
        """Return how many bytes it takes to log a tree at so many steps; counts it once and writes nothing.

        Parameters
        ----------
        tree, stats
            As in `add_histograms`.
        steps : int
            Number of steps, first to last; `every` is taken into account.

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
        now, last, statistics = time.time(), max(steps - 1, 0), parse_statistics(stats)
        event = WrittenStep(compute.histograms(tree), statistics, None, now, last, {}).encode()
        return (len(event) + OVERHEAD) * -(-steps // self._thinning.every)

    def _add_histograms(self, written: WrittenStep) -> None:
        if written.says_something():
            self._add(written.encode, written.step, written.nbytes, written.histograms)
