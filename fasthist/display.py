"""Which buckets are written for a viewer to draw."""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import limit_above
from fasthist.errors import ArgumentError
from fasthist.outline import FAR


class RawHistogram(TypedDict):
    """The keyword arguments of ``add_histogram_raw``."""

    min: float
    max: float
    num: float
    sum: float
    sum_squares: float
    bucket_limits: NDArray[np.float64]
    bucket_counts: NDArray[np.float64]


Range = tuple[float, float]
"""Smallest and largest value."""

_NO_COUNT = np.zeros(1)
_OWN_AXIS_FROM, _OWN_AXIS_TO = -5.0, 1e308
_BINS = 30
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def written_buckets(
    edges: NDArray[np.float64], counts: NDArray[Any], max_buckets: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Choose the buckets to write: none of zero width, no two empty ones side by side.

    `edges`, float64[n + 1], go from the smallest to the largest finite value, and the last bucket may have no width. At most
    `max_buckets` are left, by merging equally many neighbours. Returns edges, float64[k + 1], strictly increasing, with the
    same ends (a constant has one bucket of no width), and counts, float64[k], with the same sum.
    """
    check_limit(max_buckets)
    low, high = float(edges[0]), float(edges[-1])
    if low == high:
        return edges[[0, -1]], counts.sum(keepdims=True).astype(np.float64)
    # An end may itself be an edge. TensorBoard loses a bucket narrower than about 2**-40 of the range drawn.
    narrow = (high / 2 - low / 2) * 2.0**-35
    if edges[-2] == high:
        before = float(edges[-3])
        left = max(high - max(narrow, math.ulp(high)), before / 2 + high / 2)
        if before < left < high:
            edges = np.concatenate((edges[:-2], (left, high)))
        else:  # no double lies between
            edges = np.concatenate((edges[:-2], (high,)))
            counts = np.concatenate((counts[:-2], counts[-2:].sum(keepdims=True)))
    if edges[1] == low:  # the last edge of a caller's edges, which the last bucket holds
        after = float(edges[2])
        beside = min(low + max(narrow, math.ulp(low)), low / 2 + after / 2)
        if low < beside < after:
            edges = np.concatenate(((low, beside), edges[2:]))
        else:
            edges = np.concatenate(((low,), edges[2:]))
            counts = np.concatenate((counts[:2].sum(keepdims=True), counts[2:]))
    # Keep a bucket if it holds something, or as a gap if the next one does.
    kept = counts > 0
    kept[:-1] |= kept[1:]
    right = kept.nonzero()[0]
    if max_buckets is None or right.size <= max_buckets:
        # What is left out is empty, so the counts stay as they are.
        written = counts[right].astype(np.float64)
    else:
        group = -(-right.size // max_buckets)
        # Counted from the right, so that the last edge stays.
        right = right[::-1][::group][::-1]
        reached = np.cumsum(counts)[right]
        written = np.diff(reached, prepend=reached.dtype.type(0)).astype(np.float64)
    drawn = np.empty(right.size + 1)
    drawn[0] = low
    drawn[1:] = edges[right + 1]
    return drawn, written


def raw_histogram(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    num: float,
    sums: tuple[float | None, float | None],
) -> RawHistogram:
    """Build the arguments of ``add_histogram_raw`` from edges[k + 1], counts[k] and (sum, sum of squares or None).

    An unknown sum is written as NaN. The first limit is the first edge, with count 0. A constant's last limit is
    TensorFlow's next one above it: TensorBoard puts `min` and `max` there, other readers want a bucket.
    """
    total, squares = (math.nan if moment is None else moment for moment in sums)
    low, high = float(edges[0]), float(edges[-1])
    return RawHistogram(
        min=low,
        max=high,
        num=num,
        sum=total,
        sum_squares=squares,
        bucket_limits=edges if low < high else np.array([low, limit_above(low)]),
        bucket_counts=np.concatenate((_NO_COUNT, counts)),
    )


def constant_rows(value: float, num: float, seen: Range | None) -> NDArray[np.float64] | None:
    """Return the rows that make TensorBoard draw `num` equal values as a spike; None if the older form does.

    `seen` is the range of the values at earlier steps, None at the first. The older form has one bucket, which both loaders
    make one of no width, `min` to `max`.

    While all edges of a tag are equal the page draws its own axis, ``value / 1.1 - 1`` to ``value * 1.1 + 1``. So a tag
    that has been constant so far gets a row of no width: any other would fill the whole axis. But that axis ends before
    a value below -10, and near float64's end beyond it; an empty row on the right then makes an axis, 2**-8 of the value
    wide (on the left, the Distributions tab would take it for values). Once other values are on the axis, rounding may
    lose a row of no width at its end or at a border of two bins; it then gets 2**-22 of the range.
    Source: tensorboard/plugins/histogram/tf_histogram_dashboard/histogramCore.ts, ``intermediateToD3``.
    """
    low, high = (value, value) if seen is None else (min(value, seen[0]), max(value, seen[1]))
    if low < high and _is_lost(value, low, high):
        end = _above(value, (high / 2 - low / 2) * 2.0**-21)
        return np.array([[min(value, end), max(value, end), num]])
    if low < high or _OWN_AXIS_FROM < value < _OWN_AXIS_TO:
        is_float32 = abs(value) < _LARGEST_FLOAT32
        return None if is_float32 else np.array([[value, value, num]])
    end = _above(value, abs(value) * 2.0**-8)
    if end > value:
        return np.array([[value, value, num], [value, end, 0.0]])
    return np.array([[end, value, num]])


def _is_lost(value: float, low: float, high: float) -> bool:
    """Return whether the page, by its own arithmetic, draws a row of no width in none of its bins."""
    width = (high - low) / _BINS
    for place in range(_BINS):
        left = low + place * width
        right = left + width
        if value <= right:
            return not (left <= value and (value < right or right >= high))
    return True


def _above(value: float, room: float) -> float:
    """Return a number `room` above a value, at least the next one; below it where there is none above."""
    for end in (max(value + room, math.nextafter(value, math.inf)), value - room):
        if math.isfinite(end):
            return end
    return value


def check_limit(max_buckets: int | None) -> int | None:
    """Return `max_buckets`; raise ArgumentError if it is less than 1."""
    if max_buckets is not None and max_buckets < 1:
        msg = f"max_buckets={max_buckets} leaves nothing to write. Accepted: 1 or more, or None."
        raise ArgumentError(msg)
    return max_buckets


def contiguous(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put an empty bucket in each gap between an outline's rows: return edges float64[n + 1], counts float64[n]."""
    edges = rows[:, :2].ravel()
    counts = np.zeros(edges.size - 1)
    counts[::2] = rows[:, 2]
    wide = ((edges[1:] > edges[:-1]) | (counts > 0)).nonzero()[0]
    drawn = np.empty(wide.size + 1)
    drawn[0] = edges[0]
    np.take(edges, wide + 1, out=drawn[1:])
    return drawn, counts[wide]


def survives_float32(edges: NDArray[np.float64]) -> bool:
    """Return whether edges stay apart, and the ends in place, for a reader that takes them as float32.

    TensorBoard's Python loader does so with the older form of a histogram.
    """
    low, high = float(edges[0]), float(edges[-1])
    far = max(-low, high)
    if far > FAR * (high - low) or not far < _LARGEST_FLOAT32:
        return False
    rounded = edges.astype(np.float32)
    return bool((rounded[1:] > rounded[:-1]).all())


def cut(
    edges: NDArray[np.float64],
    counts: NDArray[Any],
    outside: tuple[int, int],
    ends: tuple[float | None, float | None],
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Cut buckets to the values in them: return edges[k + 1] and counts[k], the first and last not 0.

    `outside` counts the values below the first and above the last edge, which get buckets of their own. `ends` are the
    smallest and the largest value, which become the outer edges; None keeps the edge.
    """
    if any(outside):
        around = np.array(outside, dtype=np.uint64)
        counts = np.concatenate((around[:1], counts, around[1:]))
        edges = np.concatenate((edges[:1], edges, edges[-1:]))
    occupied = counts != 0
    first, last = int(occupied.argmax()), occupied.size - 1 - int(occupied[::-1].argmax())
    span = edges[first : last + 2].copy()
    low, high = ends
    span[0] = span[0] if low is None else low
    span[-1] = span[-1] if high is None else high
    return span, counts[first : last + 1]
