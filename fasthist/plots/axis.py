"""`ValueAxis`: which values a picture shows, and whether their axis is linear or logarithmic on both sides of zero."""

from __future__ import annotations

import math
import re
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

FARTHEST = 1e250
"""What matplotlib computes with values up to here, and with their densities, is finite."""

_LEAST = 1e-250
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

    Attributes
    ----------
    low, high : float
        Its ends.
    threshold : float or None
        Up to where a logarithmic axis is linear; None if all of it is.

    Notes
    -----
    Lengths on it are units of `forward`: of a logarithmic axis, decades. The linear part from 0 to `threshold`
    is ``1 / log(10)`` long, so that the slope, and with it a density on the axis, does not jump there.
    """

    low: float
    high: float
    threshold: float | None = None

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
        """Choose at most `most` round values to label; at least two where they have room.

        A logarithmic axis gets zero and powers of ten, with their multiples by 2 and 5 if it has few decades.
        """
        if self.threshold is None:
            return round_values(self.low, self.high, most)
        gap = self.length / (most + 2)
        first = math.floor(math.log10(self.threshold) + 1e-9)
        last = math.floor(math.log10(max(-self.low, self.high)) + 1e-9)
        for every, factors in (
            (1, (1, 2, 5)),
            *((every, (1,)) for every in range(1, last - first + 2)),
        ):
            sizes = [
                factor * 10.0**power
                for power in range(first, last + 1)
                if power % every == 0
                for factor in factors
            ]
            values = np.array([-size for size in reversed(sizes)] + [0.0] + sizes)
            values = values[(values >= self.low) & (values <= self.high)]
            if self.low <= 0 <= self.high:  # zero has its label, and what is too near to it none
                values = values[(values == 0) | (np.abs(self.forward(values)) >= gap)]
            if values.size <= most and (np.diff(self.forward(values)) >= gap).all():
                break
        return values.tolist() if values.size > 1 else round_values(self.low, self.high, most)


def label(value: float) -> str:
    """Format a tick's value."""
    return re.sub(r"e([+-])0*", lambda sign: "e-" if sign[1] == "-" else "e", f"{value:g}")


def round_values(low: float, high: float, most: int) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten from `low` to `high`, at most `most` of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def pieces(histogram: Histogram) -> tuple[Floats, Floats]:
    """Return the rows of a histogram and the gaps between them: edges float64[n + 1], shares float64[n].

    The shares add up to 1; the first and the last are not 0. A piece of zero width is a value by itself, as is the one
    piece of a constant. Values beyond 1e250 are taken for that, and those within 1e-250 for zero.
    """
    rows = histogram.to_rows()
    (filled,) = np.nonzero(rows[:, 2] > 0)
    rows = rows[filled[0] : filled[-1] + 1]
    edges = within_reach(rows[:, :2].ravel())
    if len(rows) == 1 and _is_room(*edges.tolist()):
        low, high = edges.tolist()
        edges[:] = 0.0 if low <= 0 <= high else low / 2 + high / 2
    shares = np.zeros(edges.size - 1)
    shares[::2] = rows[:, 2] / rows[:, 2].sum()
    kept = (edges[1:] > edges[:-1]) | (shares > 0)
    return np.concatenate((edges[:1], edges[1:][kept])), shares[kept]


def within_reach(values: Floats) -> Floats:
    """Move values to where sums of them, and shares over their differences, are finite."""
    return np.where(np.abs(values) < _LEAST, 0.0, np.clip(values, -FARTHEST, FARTHEST))


def _is_room(low: float, high: float) -> bool:
    """Say whether the only row is the room that a file gives a constant: as much as float32 has there, or at 1 for 0."""
    if low in (0.0, -high) or high == 0:
        return high - low <= 2.0**-22
    return high - low <= 2.0**-19 * max(-low, high)


def quantiles_of(histogram: Histogram, shares: Sequence[float]) -> Floats:
    """Return the values below which given shares lie, as `Histogram.quantile` does, but of `pieces`: float64[k]."""
    edges, held = pieces(histogram)
    return np.array([quantiles.value_at(share, edges, held) for share in shares])


def magnitude(histogram: Histogram, share: float = 0.5) -> float:
    """Return the size that `share` of the values that are not zero reach; 0 if all are zero."""
    edges, shares = pieces(histogram)
    sizes = np.abs(edges[:-1] / 2 + edges[1:] / 2)
    # A file gives zeros a little room, too.
    zeros = (edges[:-1] <= 0) & (edges[1:] >= 0) & (sizes <= 1e-6 * sizes.max())
    shares = np.where(zeros, 0.0, shares)
    order = np.argsort(sizes)
    reached = np.cumsum(shares[order])
    if not reached[-1]:
        return 0.0
    return float(sizes[order][np.searchsorted(reached, reached[-1] * share)])


def outline_axis(histograms: Sequence[Histogram], scale: str = "auto") -> ValueAxis:
    """Choose the axis for outlines of histograms, of which one at least has finite values.

    "auto" is linear, unless the usual size of the values, their median magnitude without zeros, is 30 times as large in
    one histogram as in another, or the tails of most histograms reach as far. An end is left out that is far from all but
    a thousandth of each histogram's values, by more than half of what these span: else one value would make a line of
    all others.

    Notes
    -----
    A logarithmic axis is linear around zero: up to the power of ten above the smallest usual size, so that values of both
    signs make one hump; or, where nearly all have the same sign, or for ``scale="log"``, up to the power of ten below all
    but a hundredth of them.
    """
    known = [h for h in histograms if h.num]
    tails = {id(h): quantiles_of(h, (_TAIL, 1 - _TAIL)) for h in known}
    sizes = [(size, h) for h in known if (size := magnitude(h)) > 0]
    reach = [float(np.abs(tails[id(h)]).max()) / size for size, h in sizes]
    usual = [size for size, _ in sizes]
    wide = bool(usual) and (max(usual) > _APART * min(usual) or float(np.median(reach)) > _APART)
    low, high = _ends(known)
    threshold = _threshold(known, scale, wide, max(-low, high))
    places = ValueAxis(low, high, threshold).forward
    inner = np.array(list(tails.values()))
    left, right = float(inner[:, 0].min()), float(inner[:, 1].max())
    near = _BEYOND * float(places(right) - places(left))
    if near > 0:
        low = low if places(left) - places(low) <= near else left
        high = high if places(high) - places(right) <= near else right
    return _with_room(low, high, threshold)


def step_axis(histograms: Sequence[Histogram], scale: str = "auto") -> ValueAxis:
    """Choose the axis for values over steps, from the smallest to the largest value of all.

    "auto" is logarithmic if the largest magnitude is more than 10 times the usual size of the values where that is
    smallest; see `outline_axis`.
    """
    known = [h for h in histograms if h.num]
    low, high = _ends(known)
    usual = min((size for h in known if (size := magnitude(h)) > 0), default=math.inf)
    largest = max(-low, high)
    return _with_room(low, high, _threshold(known, scale, largest > _FAR * usual, largest))


def check_scale(scale: str) -> None:
    """Raise ArgumentError if there is no such scale."""
    if scale not in SCALES:
        msg = f"scale={scale!r} is unknown. Accepted: {', '.join(SCALES)}."
        raise ArgumentError(msg)


def _threshold(
    histograms: Sequence[Histogram], scale: str, wide: bool, largest: float
) -> float | None:
    """Return up to where the axis is linear; None if all of it is."""
    check_scale(scale)
    if scale == "linear" or (scale == "auto" and not wide):
        return None
    usual = [size for h in histograms if (size := magnitude(h)) > 0]
    if not usual or largest < 1e9 * _LEAST:
        return None
    if scale == "auto" and not _one_sided(histograms):
        return 10.0 ** math.ceil(math.log10(max(*usual, largest * 10.0**-_DECADES)))
    lowest = min(magnitude(h, _LOWEST) for h in histograms if magnitude(h) > 0)
    floor = max(lowest, largest * 10.0**-_MOST_DECADES, 1e9 * _LEAST)
    return 10.0 ** math.floor(math.log10(floor) + 1e-9)


def _one_sided(histograms: Sequence[Histogram]) -> bool:
    """Say whether nearly all values have the same sign, in all histograms; a file gives zeros a little room."""
    ends = np.array([quantiles_of(h, (_TAIL, 1 - _TAIL)) for h in histograms])
    room = 1e-6 * np.abs(ends).max(axis=1)
    return bool((ends[:, 0] >= -room).all() or (ends[:, 1] <= room).all())


def _ends(histograms: Sequence[Histogram]) -> tuple[float, float]:
    ends = np.array([pieces(h)[0][[0, -1]] for h in histograms])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def _with_room(low: float, high: float, threshold: float | None) -> ValueAxis:
    """Leave a little room at both ends, and enough around a constant."""
    largest = max(-low, high)
    if high - low <= _SAME * largest or high - low < _LEAST:
        room = max(largest / 2 or 1.0, _LEAST)
        return ValueAxis(low - room, high + room)
    axis = ValueAxis(low, high, threshold)
    ends = axis.forward([low, high]) + np.array([-_ROOM, _ROOM]) * axis.length
    low, high = axis.inverse(ends).tolist()
    return ValueAxis(low, high, threshold)
