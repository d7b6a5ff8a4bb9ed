"""The series that a histogram becomes in an event: its picture, its values that are not finite, and its statistics."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fasthist import display
from fasthist.display import Range
from fasthist.errors import ArgumentError
from fasthist.events import fields, messages
from fasthist.hist import Histogram
from fasthist.outline import MOST_ROWS, Rows
from fasthist.pending import PendingHistogram

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

_PENDING = 12_400
"""Bytes of the counts of TensorFlow's buckets."""

_USUAL = ("mean", "std", "l2_norm", "zero_fraction")


def parse_statistics(stats: Any) -> dict[str, Statistic]:
    """Parse ``stats=``: return how to compute each statistic, by the end of its tag; ArgumentError for anything else.

    True means mean, standard deviation, L2 norm and share of zeros. A list names some, "min" and "max" among them, and
    numbers from 0 to 1 are quantiles.
    """
    if isinstance(stats, bool):
        stats = _USUAL if stats else ()
    if isinstance(stats, (str, float)) or not hasattr(stats, "__iter__"):
        raise _unknown(stats)
    statistics: dict[str, Statistic] = {}
    for choice in stats:
        if isinstance(choice, str) and choice in _STATISTICS:
            statistics[choice] = _STATISTICS[choice]
        elif isinstance(choice, _NUMBERS) and not isinstance(choice, bool) and 0 <= choice <= 1:
            statistics[f"quantile_{choice:g}"] = _quantile(float(choice))
        else:
            raise _unknown(choice)
    return statistics


def _quantile(q: float) -> Statistic:
    return lambda h: h.quantile(q)


def _unknown(value: Any) -> ArgumentError:
    names = ", ".join(map(repr, _STATISTICS))
    return ArgumentError(
        f"stats: {value!r} is not known. Accepted: True, False, or a list of {names} and quantiles from 0 to 1. "
        "Hint: stats=['mean', 0.05, 0.95]."
    )


def _values_of(
    tag: str, histogram: Histogram, statistics: dict[str, Statistic], picture: bytes | None
) -> list[bytes]:
    """Return each ``Summary.Value`` of a histogram; without finite values, only those of the other counts."""
    values: list[bytes] = []
    if picture is not None:
        values.append(picture)
        for name, find in statistics.items():
            value = find(histogram)
            if value is not None:
                values.append(messages.scalar_value(f"{tag}/{name}", value))
    for name in _SPECIALS:
        count = getattr(histogram, name)
        if count:
            values.append(messages.scalar_value(f"{tag}/{name}", count))
    return values


def _moments(histogram: Histogram, low: float, high: float) -> messages.Moments:
    total, squares = histogram.sum, histogram.sum_squares
    return messages.Moments(
        min=low,
        max=high,
        num=histogram.num,
        sum=math.nan if total is None else total,
        sum_squares=math.nan if squares is None else squares,
        zero_count=histogram.zero_count,
        squared_deviations=histogram.squared_deviations,
    )


def _picture_of(
    tag: str, histogram: Histogram, max_buckets: int | None, seen: Range | None
) -> bytes:
    """Encode a histogram in one of its two forms; `seen` is the range of the tag's earlier steps.

    The older one takes two thirds of the bytes, and more tools read it; but TensorBoard's Python loader turns its edges
    into float32, it cannot leave out a gap, and of a constant it tells only the value. So an outline of spikes, or
    far from zero, takes the newer form; a series may change its form from step to step.
    """
    raw = histogram.to_raw(max_buckets)
    limits, low, high = raw["bucket_limits"], raw["min"], raw["max"]
    rows: Rows | None = None
    if low == high:
        rows = display.constant_rows(low, raw["num"], seen)
    elif histogram.outline is not None and not (
        limits.size <= MOST_ROWS + 1 and display.survives_float32(limits)
    ):
        rows = histogram.to_rows(max_buckets)
    if rows is None:
        zeros, deviations = histogram.zero_count, histogram.squared_deviations
        return messages.histogram_value(tag, **raw, zero_count=zeros, squared_deviations=deviations)
    return messages.histogram_tensor_value(tag, rows, _moments(histogram, low, high))


def _pictures_of(histograms: dict[str, Histogram]) -> dict[str, bytes]:
    """Encode those with an outline that are not constant, as `_picture_of` does, but all in one call of a kernel."""
    outlines: dict[str, Rows] = {}
    moments: list[messages.Moments] = []
    for tag, histogram in histograms.items():
        rows = histogram.outline
        if rows is None:
            continue
        low, high = rows.item(0), rows.item(-2)
        if low < high:
            outlines[tag] = rows
            moments.append(_moments(histogram, low, high))
    if not outlines:
        return {}
    every = np.concatenate(list(outlines.values()))
    begins = np.cumsum([0, *map(len, outlines.values())])
    numbers = np.array([[*moment.values()] for moment in moments], dtype=np.float64)
    out = np.empty(79 * len(outlines) + 32 * len(every), dtype=np.uint8)
    ends = np.empty(len(outlines), dtype=np.int64)
    _encode()(every, begins, numbers, fields.HISTO_MIN, messages.OWN_KEYS, MOST_ROWS + 1, out, ends)
    encoded = out.data
    pictures = {}
    begin = 0
    for (tag, rows), moment, end in zip(outlines.items(), moments, ends.tolist(), strict=True):
        if end > begin:
            pictures[tag] = messages.encoded_histogram_value(tag, encoded[begin:end])
        else:
            pictures[tag] = messages.histogram_tensor_value(tag, rows, moment)
        begin = end
    return pictures


@functools.cache  # an import statement takes 1 us each time
def _encode() -> Callable[..., None]:
    from fasthist.kernels.encoding import encode

    kernel: Callable[..., None] = encode
    return kernel


def _widened(seen: Range | None, histogram: Histogram) -> Range:
    """Return the range of a tag's values with those of one more step."""
    low, high = histogram.min, histogram.max
    if low is None or high is None:
        rows = histogram.to_rows()
        low, high = rows.item(0), rows.item(-2)
    return (low, high) if seen is None else (min(low, seen[0]), max(high, seen[1]))


class WrittenStep(NamedTuple):
    """What one call writes: histograms of one step, encoded later; `ranges` are the tags' ranges encoded so far."""

    histograms: dict[str, Histogram]
    statistics: dict[str, Statistic]
    max_buckets: int | None
    wall_time: float
    step: int
    ranges: dict[str, Range]
    display_name: str = ""
    description: str = ""

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes: counts, and some 8 KiB of outline, exponents and losses for each."""
        counts = (
            _PENDING if isinstance(histogram, PendingHistogram) else histogram.counts.nbytes
            for histogram in self.histograms.values()
        )
        return sum(counts) + 8192 * len(self.histograms)

    def says_something(self) -> bool:
        """Return whether there may be anything to write: not if all arrays were empty."""
        return any(
            isinstance(h, PendingHistogram) or h.num or any(getattr(h, name) for name in _SPECIALS)
            for h in self.histograms.values()
        )

    def encode(self) -> bytes:
        """Return the event, empty if there is nothing to write; DeviceError if a device's histogram cannot be had."""
        pictures = _pictures_of(self.histograms) if self.max_buckets is None else {}
        values: list[bytes] = []
        for tag, histogram in self.histograms.items():
            picture = None
            if histogram.num:
                seen = self.ranges.get(tag)
                picture = pictures.get(tag) or _picture_of(tag, histogram, self.max_buckets, seen)
                picture = messages.described(picture, self.display_name, self.description)
                self.ranges[tag] = _widened(seen, histogram)
            values += _values_of(tag, histogram, self.statistics, picture)
        return messages.summary_event(values, self.wall_time, self.step) if values else b""
