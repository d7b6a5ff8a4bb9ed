"""`SummaryWriter`: torch's names over our counting and our event files, without torch.

Guarantees:

- Values are counted before the call returns; the writer keeps no reference to them.
- All values of one call are in one event.
- NaN and infinities never reach a bucket: they are counted, and written as scalars beside the histogram.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from numpy.typing import ArrayLike

from fasthist import compute
from fasthist.arguments import as_number, as_raw_buckets, as_step, as_wall_time
from fasthist.errors import ArgumentError, WriteError
from fasthist.events import messages
from fasthist.events.writer import EventFileWriter
from fasthist.hist import Histogram
from fasthist.series import parse_statistics, values_of


class SummaryWriter:
    """Write histograms and scalars for TensorBoard, with the signatures of ``torch.utils.tensorboard``.

    Parameters
    ----------
    log_dir : str or os.PathLike, optional
        A local directory, made when the first event arrives. Default:
        ``runs/<month><day>_<hour>-<minute>-<second>_<host><comment>``.
    comment : str
        Ends the default directory's name; of no effect beside `log_dir`.
    purge_step : int, optional
        Tell TensorBoard that the run begins anew at this step, and to forget what earlier files hold from there
        on. Written at once. (Its Python loader does so from the second such note on; its fast loader needs none.)
    max_queue : int
        Events held in memory before they go to the file.
    flush_secs : float
        Seconds after which the next event takes all that is held to the file.
    filename_suffix : str
        Ends the name of every event file.
    logdir : str or os.PathLike, optional
        Another spelling of `log_dir`.

    Raises
    ------
    ArgumentError
        Both `log_dir` and `logdir` are given, or the directory is a URL, or `purge_step` is no step.
    WriteError
        With `purge_step`: the file cannot be made.

    Notes
    -----
    Safe to call from several threads and after a fork; `fasthist.events.writer.EventFileWriter` tells what is
    written when. `log_dir` is an attribute too. Use one writer for a directory: TensorBoard shows one event of a
    tag and step.

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
        flush_secs: float = 120,
        filename_suffix: str = "",
        *,
        logdir: str | os.PathLike[str] | None = None,
    ) -> None:
        if log_dir and logdir:
            msg = f"log_dir={log_dir!r} and logdir={logdir!r} mean the same. Accepted: one of them."
            raise ArgumentError(msg)
        chosen = log_dir or logdir
        if not chosen:
            chosen = Path("runs", f"{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}{comment}")
        self.log_dir = os.fsdecode(chosen)
        self._events = EventFileWriter(
            chosen, max_queue=max_queue, flush_secs=flush_secs, filename_suffix=filename_suffix
        )
        if purge_step is not None:
            try:
                for event in messages.purge_events(time.time(), as_step(purge_step)):
                    self._events.add_event(event)
            except WriteError:
                self._events.discard()  # nobody gets this writer, so nobody can flush it again
                raise

    def get_logdir(self) -> str:
        """Give `log_dir`."""
        return self.log_dir

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
        bins : "auto", "tensorflow", int, float64[k + 1] or Buckets
            `buckets` of `fasthist.histogram`.
        walltime : float, optional
            Seconds since 1970, UTC. Default: now.
        max_bins : int, optional
            Merge neighbours so that at most this many buckets are written.
        stats : bool or iterable of str or float
            Write scalars beside it. True: ``<tag>/mean``, ``<tag>/std``, ``<tag>/l2_norm`` and
            ``<tag>/zero_fraction``. Or some of "mean", "std", "l2_norm", "zero_fraction", "min", "max", and numbers
            from 0 to 1: ``<tag>/quantile_0.95``.

        Raises
        ------
        ArrayError, DeviceError
            `values` is no dense array of real numbers that can be read.
        BucketsError
            `bins` is none of the above.
        ArgumentError
            `tag`, `global_step`, `walltime`, `max_bins` or `stats` cannot be written, or `bins` is given for a
            finished histogram.
        WriteError
            The file cannot be written; the event is held.

        Notes
        -----
        Where there is no finite value no histogram is written. Scalars ``<tag>/nan_count``,
        ``<tag>/posinf_count`` and ``<tag>/neginf_count`` go with it, those that are not 0.
        """
        messages.check_tag(tag)
        statistics = parse_statistics(stats)
        if not isinstance(values, Histogram):
            values = compute.histogram(values, buckets=bins, name=tag)
        elif not isinstance(bins, str) or bins != "auto":
            msg = (
                f"histogram {tag!r}: bins={bins!r} is given for a Histogram, which has its buckets. "
                "Hint: leave bins out, or pass the array itself."
            )
            raise ArgumentError(msg)
        self._add(values_of(tag, values, statistics, max_bins), global_step, walltime)

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
        found = compute.histograms(tree)
        values = [
            value
            for tag, histogram in found.items()
            for value in values_of(tag, histogram, statistics)
        ]
        self._add(values, global_step, walltime)

    def add_histogram_raw(
        self,
        tag: str,
        min: float,
        max: float,
        num: float,
        sum: float,
        sum_squares: float,
        bucket_limits: ArrayLike,
        bucket_counts: ArrayLike,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Write a histogram that was counted elsewhere.

        Parameters
        ----------
        tag : str
            Name of the series.
        min, max : float
            Smallest and largest value, finite. TensorBoard puts them in the place of the outermost edges.
        num : float
            How many values. Nothing is written for 0.
        sum, sum_squares : float
            Their moments.
        bucket_limits : float64[k]
            Right edges: finite, each greater than the one before, at least one. Both loaders draw the same
            picture if the first is `min`, with count 0, and the last `max`.
        bucket_counts : float64[k]
            Values in each bucket, finite and not negative.
        global_step, walltime
            As in `add_histogram`.

        Raises
        ------
        ArgumentError
            One of these is not so.
        WriteError
            The file cannot be written; the event is held.
        """
        messages.check_tag(tag)
        num = as_number(tag, "num", num)
        if num == 0:
            return
        limits, counts = as_raw_buckets(tag, bucket_limits, bucket_counts)
        low, high = as_number(tag, "min", min), as_number(tag, "max", max)
        # not <=: NaN fails as well
        if not (math.isfinite(low) and math.isfinite(high) and low <= high and 0 < num < math.inf):
            msg = (
                f"histogram {tag!r}: min={low!r}, max={high!r}, num={num!r}. "
                "Accepted: finite min <= max, and a finite num that is not negative. "
                "Hint: leave NaN and infinities out of them; add_histogram does so."
            )
            raise ArgumentError(msg)
        value = messages.histogram_value(
            tag,
            min=low,
            max=high,
            num=num,
            sum=as_number(tag, "sum", sum),
            sum_squares=as_number(tag, "sum_squares", sum_squares),
            bucket_limits=limits,
            bucket_counts=counts,
        )
        self._add([value], global_step, walltime)

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """Write one number.

        Parameters
        ----------
        tag : str
            Name of the series.
        scalar_value : float or array[1]
            A real number, or an array or tensor of one element, from any library; stored as float32.
        global_step, walltime
            As in `add_histogram`.
        new_style : bool
            Write a tensor for the plugin "scalars" instead of ``simple_value``.
        double_precision : bool
            With `new_style`, store float64. ``simple_value`` is float32 in any case.

        Raises
        ------
        ArgumentError
            `scalar_value` is no real number, or another argument cannot be written.
        WriteError
            The file cannot be written; the event is held.
        """
        messages.check_tag(tag)
        number = as_number(tag, "scalar_value", scalar_value)
        if new_style:
            value = messages.scalar_tensor_value(tag, number, double=double_precision)
        else:
            value = messages.scalar_value(tag, number)
        self._add([value], global_step, walltime)

    def flush(self) -> None:
        """Bring everything added so far to the file, where TensorBoard can read it.

        Raises
        ------
        WriteError
            Not all could be written; the rest is held for the next attempt.
        """
        self._events.flush()

    def close(self) -> None:
        """Flush and close the file; what is added later goes to a new one.

        Raises
        ------
        WriteError
            Not all could be written; the rest is held for the next attempt.
        """
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> NoReturn:
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name.startswith("add_"):
            msg += (
                ": fasthist writes histograms and scalars. "
                f"Hint: use torch's SummaryWriter beside it, in a directory of its own, for {name}."
            )
        raise AttributeError(msg)

    def _add(self, values: list[bytes], global_step: Any, walltime: Any) -> None:
        step = None if global_step is None else as_step(global_step)
        event = messages.summary_event(values, as_wall_time(walltime), step)
        if values:
            self._events.add_event(event)
