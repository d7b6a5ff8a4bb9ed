"""`ValueAxis`: which values a picture shows, and whether their axis is linear or symmetric-logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.display import contiguous
from fasthist.hist import Histogram

Floats = NDArray[np.float64]

_FARTHEST = 1e250  # what matplotlib computes with such values, and their densities, is finite
_LEAST = 1e-250
_TAIL, _BEYOND = 0.001, 0.5
_APART, _FAR = 30.0, 10.0
_DECADES = 8
_SAME = 1e-6
_ROOM = 0.03
_LINEAR = 1 / math.log(10)

LINSCALE = 0.9 * _LINEAR
"""What matplotlib calls the length of the linear part."""


@dataclass(frozen=True)
class ValueAxis:
    """The axis of the values.

    Attributes
    ----------
    low, high : float
        Its ends.
    threshold : float or None
        Up to where a symmetric-logarithmic axis is linear; None for a linear one.

    Notes
    -----
    Lengths on it are units of `forward`: of a symmetric-logarithmic axis, decades. The linear part from 0 to `threshold`
    is ``1 / log(10)`` long, so that the slope, and with it a density on the axis, does not jump there.
    """

    low: float
    high: float
    threshold: float | None = None

    def forward(self, values: Any) -> Floats:
        """Give the places of values on the axis."""
        x = np.asarray(values, dtype=np.float64)
        if self.threshold is None:
            return x.copy()
        u = np.abs(x) / self.threshold
        return np.sign(x) * np.where(u <= 1, u * _LINEAR, _LINEAR + np.log10(np.maximum(u, 1)))

    def inverse(self, places: Any) -> Floats:
        """Give the values at places of the axis."""
        u = np.asarray(places, dtype=np.float64)
        if self.threshold is None:
            return u.copy()
        size = np.abs(u)
        size = np.where(
            size <= _LINEAR, size / _LINEAR, 10.0 ** (np.maximum(size, _LINEAR) - _LINEAR)
        )
        return np.sign(u) * size * self.threshold

    @property
    def length(self) -> float:
        """How long it is, in units of `forward`."""
        low, high = self.forward([self.low, self.high])
        return float(high - low)

    def cells(self, count: int, low: float | None = None, high: float | None = None) -> Floats:
        """Cut a part of the axis, or all of it, into cells that are drawn equally wide: float64[count + 1]."""
        ends = (self.low if low is None else low, self.high if high is None else high)
        begin, end = self.forward(ends).tolist()
        edges = self.inverse(np.linspace(begin, end, count + 1))
        edges[0], edges[-1] = ends
        return edges

    def ticks(self, most: int = 7) -> list[float]:
        """Give zero and powers of ten, `most` at most, for a symmetric-logarithmic axis."""
        if self.threshold is None:
            return []
        first = round(math.log10(self.threshold))
        lasts = [
            (sign, math.floor(math.log10(end) + 1e-9))
            for sign, end in ((-1.0, -self.low), (1.0, self.high))
            if end > 0
        ]
        zero = [0.0] if self.low <= 0 <= self.high else []
        # The threshold is too near to zero for a label; the largest have one.
        for every in range(1, _DECADES + 2):
            found = [
                sign * 10.0**exponent
                for sign, last in lasts
                for exponent in range(last, first, -every)
            ]
            if len(found) + len(zero) <= most:
                break
        return sorted(found + zero)


def pieces(histogram: Histogram) -> tuple[Floats, Floats]:
    """Give the rows of a histogram and the gaps between them: edges float64[n + 1], shares float64[n].

    The shares add up to 1. Values beyond 1e250 are taken for that, and those within 1e-250 for zero; only there pieces may
    be without width.
    """
    edges, counts = contiguous(histogram.to_rows())
    return within_reach(edges), counts / counts.sum()


def within_reach(values: Floats) -> Floats:
    """Move values to where sums of them, and shares over their differences, are finite."""
    return np.where(np.abs(values) < _LEAST, 0.0, np.clip(values, -_FARTHEST, _FARTHEST))


def is_constant(edges: Floats) -> bool:
    """Say whether rows are those of one value: a file leaves it a little room, as much as float32 has there or at 1."""
    return edges.size == 2 and bool(edges[1] - edges[0] <= 2.0**-22 * max(1.0, abs(edges[0])))


def magnitude(histogram: Histogram) -> float:
    """Give the median size of the values that are not zero; 0 if there are none, or only one value."""
    edges, shares = pieces(histogram)
    if is_constant(edges):
        return 0.0
    sizes = np.abs(edges[:-1] / 2 + edges[1:] / 2)
    shares = np.where(sizes > 1e-6 * sizes.max(), shares, 0.0)
    order = np.argsort(sizes)
    reached = np.cumsum(shares[order])
    return float(sizes[order][np.searchsorted(reached, reached[-1] / 2)]) if reached[-1] else 0.0


def outline_axis(histograms: Sequence[Histogram]) -> ValueAxis:
    """Choose the axis for outlines of histograms, of which one at least has finite values.

    It is linear, unless the usual size of the values, their median magnitude without zeros, is 30 times as large in one
    histogram as in another, or the tails of most histograms reach as far: then symmetric-logarithmic, and linear up to the
    power of ten above the smallest of these sizes. An end is left out that is far from all but a thousandth of each
    histogram's values, by more than half of what these span: else one value would make a line of all others.
    """
    known = [h for h in histograms if h.num]
    low, high = _without_tails(known, *_ends(known))
    sizes = [(size, h) for h in known if (size := magnitude(h)) > 0]
    if not sizes:
        return _axis(low, high, None)
    usual = [size for size, _ in sizes]
    tails = [max(abs(_inner(h)[0]), abs(_inner(h)[1])) / size for size, h in sizes]
    wide = max(usual) > _APART * min(usual) or float(np.median(tails)) > _APART
    return _axis(low, high, min(usual) if wide else None)


def step_axis(histograms: Sequence[Histogram]) -> ValueAxis:
    """Choose the axis for values over steps, from the smallest to the largest value of all.

    It is symmetric-logarithmic if the largest magnitude is more than 10 times the usual size of the values where that is
    smallest; threshold and usual size are those of `outline_axis`.
    """
    known = [h for h in histograms if h.num]
    low, high = _ends(known)
    usual = min((size for h in known if (size := magnitude(h)) > 0), default=math.inf)
    return _axis(low, high, usual if max(-low, high) > _FAR * usual else None)


def _ends(histograms: Sequence[Histogram]) -> tuple[float, float]:
    ends = np.array([pieces(h)[0][[0, -1]] for h in histograms])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def _inner(histogram: Histogram) -> tuple[float, float]:
    """Give the ends without a thousandth of the values at each."""
    ends = np.array([histogram.quantile(_TAIL), histogram.quantile(1 - _TAIL)], dtype=np.float64)
    low, high = within_reach(ends).tolist()
    return low, high


def _without_tails(histograms: Sequence[Histogram], low: float, high: float) -> tuple[float, float]:
    inner = [_inner(h) for h in histograms]
    left, right = min(ends[0] for ends in inner), max(ends[1] for ends in inner)
    near = _BEYOND * (right - left)
    if near == 0:
        return low, high
    return (low if left - low <= near else left, high if high - right <= near else right)


def _axis(low: float, high: float, usual: float | None) -> ValueAxis:
    """Leave a little room at both ends, and enough around a constant."""
    largest = max(-low, high)
    if high - low <= _SAME * largest or high - low < _LEAST:
        room = max(largest / 2 or 1.0, _LEAST)
        return ValueAxis(low - room, high + room)
    threshold = None
    if usual is not None and largest > 1e9 * _LEAST:
        threshold = 10.0 ** math.ceil(math.log10(max(usual, largest * 10.0**-_DECADES)))
    axis = ValueAxis(low, high, threshold)
    ends = axis.forward([low, high]) + np.array([-_ROOM, _ROOM]) * axis.length
    low, high = axis.inverse(ends).tolist()
    return ValueAxis(low, high, threshold)
