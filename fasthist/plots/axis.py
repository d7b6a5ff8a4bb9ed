"""`ValueAxis`: which values a picture shows, and whether their axis is linear or logarithmic on both sides of zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist import quantiles
from fasthist.errors import ArgumentError
from fasthist.hist import Histogram

Floats = NDArray[np.float64]

SCALES = ("auto", "linear", "log")

# What matplotlib computes with values up to here, and with their densities, is finite.
_FARTHEST, _LEAST = 1e250, 1e-250
_TAIL, _BEYOND = 0.001, 0.5
_APART, _FAR = 30.0, 10.0
_DECADES, _MOST_DECADES = 8, 30
_LOWEST = 0.01
_SAME = 1e-6
_ROOM = 0.03
_LINEAR = 1 / math.log(10)

LINSCALE = 0.9 * _LINEAR
"""What matplotlib calls the length of the linear part."""


@dataclass(frozen=True)
class ValueAxis:
    """The axis of the values.

    Lengths are in units of `forward`: decades on a logarithmic axis. The linear part from 0 to `threshold` is
    ``1 / log(10)`` long, so that the slope, and so a density on the axis, does not jump there.
    """

    low: float
    high: float
    threshold: float | None = None  # a logarithmic axis is linear up to here; None: all of it is
    unit: float = 1.0  # divides the values; not 1 if they are too large or too small to draw

    @property
    def title(self) -> str:
        """Title of the axis."""
        return "value" if self.unit == 1 else f"value / {label(self.unit)}"

    def forward(self, values: Any) -> Floats:
        """Return the places of values on the axis."""
        x = np.asarray(values, dtype=np.float64)
        if self.threshold is None:
            return x.copy()
        u = np.abs(x) / self.threshold
        return np.sign(x) * np.where(u <= 1, u * _LINEAR, _LINEAR + np.log10(np.maximum(u, 1)))

    def inverse(self, places: Any) -> Floats:
        """Return the values at places of the axis."""
        u = np.asarray(places, dtype=np.float64)
        if self.threshold is None:
            return u.copy()
        size = np.abs(u)
        powers = 10.0 ** (np.maximum(size, _LINEAR) - _LINEAR)
        return np.sign(u) * np.where(size <= _LINEAR, size / _LINEAR, powers) * self.threshold

    @property
    def length(self) -> float:
        """Length in units of `forward`."""
        low, high = self.forward([self.low, self.high])
        return float(high - low)

    @property
    def one_sided(self) -> bool:
        """Whether it is logarithmic on one side of zero at most."""
        return self.threshold is not None and not (-self.low > self.threshold < self.high)

    def cells(self, count: int, low: float | None = None, high: float | None = None) -> Floats:
        """Cut the axis from `low` to `high` into cells that are drawn equally wide: edges float64[count + 1]."""
        ends = (self.low if low is None else low, self.high if high is None else high)
        begin, end = self.forward(ends).tolist()
        edges = self.inverse(np.linspace(begin, end, count + 1))
        edges[0], edges[-1] = ends
        return edges

    def ticks(self, most: int = 7) -> list[float]:
        """Choose at most `most` round values to label; at least two if they have room.

        A logarithmic axis gets zero and powers of ten, with their multiples by 2 and 5 if it has few decades.
        """
        if self.threshold is None:
            return round_values(self.low, self.high, most)
        gap = self.length / (most + 2)
        first = math.floor(math.log10(self.threshold) + 1e-9)
        last = math.floor(math.log10(max(-self.low, self.high)) + 1e-9)
        every_decade = [(1, (1, 2, 5)), *((n, (1,)) for n in range(1, last - first + 2))]
        for every, factors in every_decade:
            powers = [power for power in range(first, last + 1) if power % every == 0]
            sizes = [factor * 10.0**power for power in powers for factor in factors]
            values = np.array([-size for size in reversed(sizes)] + [0.0] + sizes)
            values = values[(values >= self.low) & (values <= self.high)]
            if self.low <= 0 <= self.high:  # label zero, and nothing too near to it
                values = values[(values == 0) | (np.abs(self.forward(values)) >= gap)]
            if values.size <= most and (np.diff(self.forward(values)) >= gap).all():
                break
        return values.tolist() if values.size > 1 else round_values(self.low, self.high, most)


def label(value: float, digits: int = 6) -> str:
    """Format a value for a tick or a note, with `digits` significant digits."""
    short = f"{value:.{digits}g}"
    if value and not 1e-3 <= abs(value) < 1e4:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        short = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return short.replace("-", "\u2212")


def round_values(low: float, high: float, most: int) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten from `low` to `high`, at most `most` of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def pieces(histogram: Histogram, unit: float = 1.0) -> tuple[Floats, Floats]:
    """Return the rows of a histogram and the gaps between them: edges float64[n + 1], shares float64[n].

    The shares add up to 1; the first and last are not 0. A piece of zero width is a single value, such as a constant.
    Values are divided by `unit`; those within 1e-250 of zero count as zero.
    """
    rows = histogram.to_rows()
    (filled,) = np.nonzero(rows[:, 2] > 0)
    rows = rows[filled[0] : filled[-1] + 1]
    edges = rows[:, :2].flatten()
    low, high = edges[[0, -1]].tolist()
    if len(rows) == 1 and _is_room(low, high):
        known = histogram.min if histogram.min == histogram.max else None
        middle = 0.0 if low <= 0 <= high else low / 2 + high / 2
        edges[:] = middle if known is None else known
    edges = np.clip(edges / unit, -_FARTHEST, _FARTHEST)
    edges[np.abs(edges) < _LEAST] = 0.0
    shares = np.zeros(edges.size - 1)
    shares[::2] = rows[:, 2] / rows[:, 2].sum()
    kept = (edges[1:] > edges[:-1]) | (shares > 0)
    return np.concatenate((edges[:1], edges[1:][kept])), shares[kept]


def _is_room(low: float, high: float) -> bool:
    """Return whether the only row is the room that a file gives a constant: float32's spacing there, or at 1 for 0."""
    if low in (0.0, -high) or high == 0:
        return high - low <= 2.0**-22
    return high - low <= 2.0**-19 * max(-low, high)


def quantiles_of(histogram: Histogram, shares: Sequence[float], unit: float = 1.0) -> Floats:
    """Return the values below which the given shares lie: `Histogram.quantile` over `pieces`, float64[k]."""
    edges, held = pieces(histogram, unit)
    return np.array([quantiles.value_at(share, edges, held) for share in shares])


def outline_axis(histograms: Sequence[Histogram], scale: str = "auto") -> ValueAxis:
    """Choose the axis for outlines of histograms, at least one of which has finite values.

    "auto" is linear unless the usual size of the values (their median magnitude without zeros) is 30 times as large in
    one histogram as in another, or the tails of most histograms reach 30 times their usual size. An end is cut off if it
    lies beyond all but a thousandth of each histogram's values by more than half of their span: one value would squeeze
    all others.

    A logarithmic axis is linear around zero: up to the power of ten above the smallest usual size, so that values of both
    signs make one hump; or, if nearly all have the same sign, or for ``scale="log"``, up to the power of ten below all but
    a hundredth of them.
    """
    sizes = _Sizes(histograms)
    usual, low, high = sizes.usual, sizes.low, sizes.high
    wide = usual.size and (
        usual.max() > _APART * usual.min() or np.median(sizes.reach / usual) > _APART
    )
    threshold = sizes.threshold(scale, wide=bool(wide))
    places = ValueAxis(low, high, threshold).forward
    left, right = float(sizes.inner[:, 0].min()), float(sizes.inner[:, 1].max())
    near = _BEYOND * float(places(right) - places(left))
    if near > 0:
        low = low if places(left) - places(low) <= near else left
        high = high if places(high) - places(right) <= near else right
    return _with_room(low, high, threshold, sizes.unit)


def step_axis(histograms: Sequence[Histogram], scale: str = "auto") -> ValueAxis:
    """Choose the axis for values over steps, from the smallest to the largest of all.

    "auto" is logarithmic if the largest magnitude is more than 10 times the smallest usual size; see `outline_axis`.
    """
    sizes = _Sizes(histograms)
    wide = sizes.largest > _FAR * sizes.usual.min(initial=np.inf)
    threshold = sizes.threshold(scale, wide=bool(wide))
    return _with_room(sizes.low, sizes.high, threshold, sizes.unit)


class _Sizes:
    """The sizes of the values of histograms, at least one of which has finite values; all are divided by `unit`.

    `inner` and `most` (float64[n, 2]) are each histogram's ends without a thousandth and a hundredth of its values. For
    histograms that are not all zero, `usual` and `lowest` (float64[m]) are the magnitudes that half and a hundredth of the
    non-zero values do not exceed, and `reach` is the larger magnitude of `inner`.
    """

    def __init__(self, histograms: Sequence[Histogram]) -> None:
        known = [h for h in histograms if h.num]
        ends = np.array([h.to_rows()[[0, -1], [0, 1]] for h in known])
        largest = float(np.abs(ends).max())
        far = largest > _FARTHEST or 0 < largest < _LEAST
        self.unit = 10.0 ** max(math.floor(math.log10(largest)), -300) if far else 1.0
        ends = np.array([pieces(h, self.unit)[0][[0, -1]] for h in known])
        self.low, self.high = float(ends[:, 0].min()), float(ends[:, 1].max())
        self.largest = max(-self.low, self.high)
        shares = (_TAIL, 1 - _TAIL, _LOWEST, 1 - _LOWEST)
        ends = np.array([quantiles_of(h, shares, self.unit) for h in known])
        self.inner, self.most = ends[:, :2], ends[:, 2:]
        sizes = np.array([magnitudes(h, (0.5, _LOWEST), self.unit) for h in known])
        seen = sizes[:, 0] > 0
        self.usual, self.lowest = sizes[seen].T
        self.reach = np.abs(self.inner[seen]).max(axis=1)

    def threshold(self, scale: str, *, wide: bool) -> float | None:
        """Return the value up to which the axis is linear; None if all of it is."""
        check_scale(scale)
        if scale == "linear" or (scale == "auto" and not wide) or not self.usual.size:
            return None
        # A file gives zeros some room.
        room = 1e-6 * self.largest
        one_sided = (self.most[:, 0] >= -room).all() or (self.most[:, 1] <= room).all()
        if scale == "auto" and not one_sided:
            least = max(float(self.usual.min()), self.largest * 10.0**-_DECADES)
            return 10.0 ** math.ceil(math.log10(least))
        least = max(float(self.lowest.min()), self.largest * 10.0**-_MOST_DECADES)
        smallest = max(self.low, -self.high)
        if smallest > least / 100:  # near, and all values have one sign: logarithmic throughout
            least = smallest / 2
        return 10.0 ** math.floor(math.log10(least) + 1e-9)


def magnitudes(histogram: Histogram, shares: Sequence[float], unit: float = 1.0) -> Floats:
    """Return the magnitudes that the given shares of the non-zero values do not exceed, float64[k]; 0 if all are zero."""
    edges, held = pieces(histogram, unit)
    sizes = np.abs(edges[:-1] / 2 + edges[1:] / 2)
    # A file gives zeros some room.
    zeros = (edges[:-1] <= 0) & (edges[1:] >= 0) & (sizes <= 1e-6 * sizes.max())
    order = np.argsort(sizes)
    reached = np.cumsum(np.where(zeros, 0.0, held)[order])
    if not reached[-1]:
        return np.zeros(len(shares))
    places = np.searchsorted(reached, reached[-1] * np.array(shares))
    return np.asarray(sizes[order][places], dtype=np.float64)


def check_scale(scale: str) -> None:
    """Raise ArgumentError for an unknown scale."""
    if scale not in SCALES:
        msg = f"scale={scale!r} is unknown. Accepted: {', '.join(SCALES)}."
        raise ArgumentError(msg)


def _with_room(low: float, high: float, threshold: float | None, unit: float) -> ValueAxis:
    """Add some room at both ends, and enough around a constant."""
    largest = max(-low, high)
    if high - low <= _SAME * largest or high - low < _LEAST:
        room = max(largest / 2 or 1.0, _LEAST)
        return ValueAxis(low - room, high + room, None, unit)
    axis = ValueAxis(low, high, threshold)
    ends = axis.forward([low, high]) + np.array([-_ROOM, _ROOM]) * axis.length
    low, high = axis.inverse(ends).tolist()
    return ValueAxis(low, high, threshold, unit)
