"""`RawWriter`: what a summary writer does with values that are finished, and with its files."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NoReturn, Self

from numpy.typing import ArrayLike

from fasthist.arguments import (
    as_extremes,
    as_number,
    as_raw_buckets,
    as_step,
    as_text,
    as_wall_time,
)
from fasthist.display import Range, constant_rows
from fasthist.errors import DeviceError, QueueFullError, WriteError
from fasthist.events import messages
from fasthist.events.foreign import ForeignWriter
from fasthist.events.writer import EventFileWriter
from fasthist.thinning import SizeWarning, Thinning


class RawWriter:
    """Write scalars and histograms that were counted elsewhere.

    Parameters
    ----------
    log_dir : str
        Of the run, as its writer was told; empty if that is not known.
    events : EventFileWriter or ForeignWriter
        Takes the events.
    thinning : Thinning
        Says which steps of histograms are written.
    """

    def __init__(
        self, log_dir: str, events: EventFileWriter | ForeignWriter, thinning: Thinning
    ) -> None:
        self.log_dir = log_dir
        self._events = events
        self._thinning = thinning
        self._size_warning = SizeWarning()
        self._ranges: dict[str, Range] = {}  # of each tag's values so far
        self._tags: set[str] = set()  # that are known to be fit to be written
        self._open_writers()

    def _open_writers(self) -> None:
        """Set what code written for torch's class reads; None from `close` until an event comes."""
        self.file_writer: Any = self._events
        self.all_writers: Any = {self.log_dir: self._events}

    def get_logdir(self) -> str:
        """Give `log_dir`."""
        return self.log_dir

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
            Right edges, in order, at least one. Both loaders draw the same picture if the first is `min`, with count 0,
            and the last `max`. Equal ones are written as one, with the sum of their counts; infinite ones as the finite
            number nearest to them among `min`, `max` and the others.
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
        tag = messages.check_tag(tag)
        num = as_number(tag, "num", num)
        if num == 0:
            return
        wall_time, step = as_wall_time(walltime), as_step(global_step)
        low, high = as_extremes(tag, min, max, num)
        limits, counts = as_raw_buckets(tag, bucket_limits, bucket_counts, low, high)
        moments = messages.Moments(
            min=low,
            max=high,
            num=num,
            sum=as_number(tag, "sum", sum),
            sum_squares=as_number(tag, "sum_squares", sum_squares),
            zero_count=None,
            squared_deviations=None,
        )
        if not self._thinning.is_due(tag, step):
            return
        rows = constant_rows(low, num, self._ranges.get(tag)) if low == high else None
        if rows is None:
            value = messages.histogram_value(
                tag, **moments, bucket_limits=limits, bucket_counts=counts
            )
        else:
            value = messages.histogram_tensor_value(tag, rows, moments)
        ends = sorted((low, high, *self._ranges.get(tag, ())))
        self._ranges[tag] = ends[0], ends[-1]
        self._add(messages.summary_event([value], wall_time, step), step, histograms=[tag])

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
        *,
        display_name: str | None = None,
        summary_description: str | None = None,
        description: str | None = None,
    ) -> None:
        """Write one number.

        Parameters
        ----------
        tag : str
            Name of the series.
        scalar_value : float or array[1]
            A real number, text that spells one, or an array or tensor of one element, from any library; stored as float32.
        global_step, walltime
            As in `add_histogram`.
        new_style : bool
            Write a tensor for the plugin "scalars" instead of ``simple_value``.
        double_precision : bool
            With `new_style`, store float64. ``simple_value`` is float32 in any case.
        display_name, summary_description : str, optional
            What TensorBoard shows in place of the tag, and beside it, as Markdown. It takes them from the first scalar of a
            tag.
        description : str, optional
            Another spelling of `summary_description`.

        Raises
        ------
        ArgumentError
            `scalar_value` is not a real number, or another argument cannot be written.
        WriteError
            The file cannot be written; the event is held.
        """
        tag = messages.check_tag(tag)
        number = as_number(tag, "scalar_value", scalar_value)
        if new_style:
            value = messages.scalar_tensor_value(tag, number, double=double_precision)
        else:
            value = messages.scalar_value(tag, number)
        name = as_text("display_name", display_name)
        text = as_text("description", summary_description or description)
        value = messages.described(value, name, text, scalar=True)
        step = as_step(global_step)
        self._add(messages.summary_event([value], as_wall_time(walltime), step), step)

    def flush(self, *, fsync: bool = False) -> None:
        """Bring everything added so far to the file, where TensorBoard can read it.

        Parameters
        ----------
        fsync : bool
            Wait until the disk has it as well, so that it survives a loss of power.

        Raises
        ------
        WriteError
            Not all could be written; the rest is held for the next attempt.
        """
        self._events.flush(fsync=fsync)

    def close(self) -> None:
        """Flush and close the file; what is added later goes to a new one.

        Raises
        ------
        WriteError
            Not all could be written; the rest is held for the next attempt.
        """
        self._events.close()
        self.file_writer = self.all_writers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> NoReturn:
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name.startswith("add_"):
            msg += (
                ": fasthist writes histograms and scalars. Hint: fasthist.adapters.torch.SummaryWriter "
                "writes all that torch's class does, to the same file; it needs torch and tensorboard."
            )
        raise AttributeError(msg)

    def _add(
        self,
        event: bytes | Callable[[], bytes],
        step: int,
        nbytes: int | None = None,
        histograms: Collection[str] = (),
    ) -> None:
        if self.file_writer is None:
            self._open_writers()
        try:
            self._hand_over(event, step, nbytes, histograms)
        except QueueFullError:
            raise
        except (WriteError, DeviceError):  # of other events: this one is held
            self._thinning.wrote(histograms, step)
            raise
        self._thinning.wrote(histograms, step)
        self._size_warning.check(self._events.nbytes, self.log_dir)

    def _hand_over(
        self,
        event: bytes | Callable[[], bytes],
        step: int,
        nbytes: int | None,
        tags: Collection[str],
    ) -> None:
        """Hand an event to whoever writes it; `tags` name what is lost if it cannot be encoded."""
        self._events.add_event(event, step=step, nbytes=nbytes, tags=tags)
