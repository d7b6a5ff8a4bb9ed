"""The series that a histogram becomes in an event: its picture, what is not finite in it, and its statistics."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fasthist.display import survives_float32
from fasthist.errors import ArgumentError
from fasthist.events import messages
from fasthist.hist import Histogram
from fasthist.outline import MOST_ROWS

Statistic = Callable[[Histogram], float | None]

_SPECIALS = ("nan_count", "posinf_count", "neginf_count")

_STATISTICS: dict[str, Statistic] = {
    "mean": lambda h: h.mean,
    "std": lambda h: h.std,
    "l2_norm": lambda h: h.l2_norm,
    "zero_fraction": lambda h: None if h.zero_count is None else h.zero_count / h.num,
    "min": lambda h: h.min,
    "max": lambda h: h.max,
}

_NUMBERS = (int, float, np.integer, np.floating)

_USUAL = ("mean", "std", "l2_norm", "zero_fraction")


def parse_statistics(stats: Any) -> dict[str, Statistic]:
    """Check what a caller passed as ``stats=``.

    Parameters
    ----------
    stats : bool or iterable of str or float
        True: mean, standard deviation, L2 norm and share of zeros. Or names, among them "min" and "max", and
        numbers from 0 to 1 for quantiles.

    Returns
    -------
    dict of str to callable
        How each is found, by the end of its tag.

    Raises
    ------
    ArgumentError
        Anything else.
    """
    if isinstance(stats, (str, float)) or not (
        isinstance(stats, bool) or hasattr(stats, "__iter__")
    ):
        raise _unknown(stats)
    if isinstance(stats, bool):
        stats = _USUAL if stats else ()
    found: dict[str, Statistic] = {}
    for one in stats:
        if isinstance(one, str) and one in _STATISTICS:
            found[one] = _STATISTICS[one]
        elif isinstance(one, _NUMBERS) and not isinstance(one, bool) and 0 <= one <= 1:
            found[f"quantile_{one:g}"] = _quantile(float(one))
        else:
            raise _unknown(one)
    return found


def _quantile(q: float) -> Statistic:
    return lambda h: h.quantile(q)


def _unknown(value: Any) -> ArgumentError:
    names = ", ".join(map(repr, _STATISTICS))
    return ArgumentError(
        f"stats: {value!r} is no statistic. Accepted: True, False, or a list of {names} and quantiles from 0 to 1. "
        "Hint: stats=['mean', 0.05, 0.95]."
    )


def values_of(
    tag: str,
    histogram: Histogram,
    statistics: dict[str, Statistic],
    max_buckets: int | None = None,
) -> list[bytes]:
    """Encode what is written of a histogram.

    Parameters
    ----------
    tag : str
    histogram : Histogram
    statistics : dict of str to callable
        From `parse_statistics`. Scalars ``<tag>/<key>``.
    max_buckets : int, optional
        Most buckets.

    Returns
    -------
    list of bytes
        Each a ``Summary.Value``. Where there is no finite value only scalars ``<tag>/nan_count``,
        ``<tag>/posinf_count`` and ``<tag>/neginf_count``, which are there whenever they are not 0.

    Raises
    ------
    ArgumentError
        `tag` or `max_buckets` cannot be written.

    Notes
    -----
    A histogram has two forms. The older one takes two thirds of the bytes, keeps the moments, and more tools
    read it; but TensorBoard's Python loader turns its edges into float32, and it cannot leave out a gap. So an outline
    of spikes, or far from zero, takes the newer form; a series may change its form from step to step.
    """
    values: list[bytes] = []
    if histogram.num:
        values.append(_picture_of(tag, histogram, max_buckets))
        for name, find in statistics.items():
            value = find(histogram)
            if value is not None:
                values.append(messages.scalar_value(f"{tag}/{name}", value))
    for name in _SPECIALS:
        count = getattr(histogram, name)
        if count:
            values.append(messages.scalar_value(f"{tag}/{name}", count))
    return values


def _picture_of(tag: str, histogram: Histogram, max_buckets: int | None) -> bytes:
    rows = histogram.outline
    if rows is None or max_buckets is not None:
        raw = histogram.to_raw(max_buckets)
        limits = raw["bucket_limits"]
        if rows is None or (limits.size <= MOST_ROWS + 1 and survives_float32(limits)):
            return messages.histogram_value(tag, **raw)
        return messages.histogram_tensor_value(tag, histogram.to_rows(max_buckets))
    limits, counts = np.empty((2, 2 * len(rows) + 1))
    size, survives = _lay_out()(rows, limits, counts)
    if not survives or size > MOST_ROWS + 1:
        return messages.histogram_tensor_value(tag, rows)
    total, squares = histogram.sum, histogram.sum_squares
    return messages.histogram_value(
        tag,
        min=limits[0],
        max=limits[size - 1],
        num=histogram.num,
        sum=math.nan if total is None else total,
        sum_squares=math.nan if squares is None else squares,
        bucket_limits=limits[:size],
        bucket_counts=counts[:size],
    )


@functools.cache  # an import statement takes 1 us each time
def _lay_out() -> Callable[..., tuple[int, bool]]:
    from fasthist.kernels.outlines import lay_out

    kernel: Callable[..., tuple[int, bool]] = lay_out
    return kernel


class WrittenStep(NamedTuple):
    """What one call writes: histograms of one step, encoded later."""

    histograms: dict[str, Histogram]
    statistics: dict[str, Statistic]
    max_buckets: int | None
    wall_time: float
    step: int

    @property
    def nbytes(self) -> int:
        """About how much memory it takes: counts, and some 8 KiB of outline, exponents and losses for each."""
        return sum(histogram.counts.nbytes + 8192 for histogram in self.histograms.values())

    def says_something(self) -> bool:
        """Whether there is anything to write: not if all arrays were empty."""
        return any(
            h.num or any(getattr(h, name) for name in _SPECIALS) for h in self.histograms.values()
        )

    def encode(self) -> bytes:
        """Give the event."""
        values = [
            value
            for tag, histogram in self.histograms.items()
            for value in values_of(tag, histogram, self.statistics, self.max_buckets)
        ]
        return messages.summary_event(values, self.wall_time, self.step)
