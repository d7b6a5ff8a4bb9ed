"""Histograms side by side as flat arrays: of one the minimum over all ranks is taken, of the other the sum.

A sum of floats depends on their order, so they become whole numbers first, and everything is added up exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import compress
from operator import attrgetter, not_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets, tensorflow_buckets
from fasthist.errors import ArgumentError
from fasthist.hist import Histogram
from fasthist.pending import PendingHistogram

Histograms = dict[str, Histogram]

_SUMS = ("sum", "sum_squares")
_INTEGERS = (
    "num", "below_count", "above_count", "zero_count", "nan_count", "posinf_count", "neginf_count",
)  # fmt: skip
_OPTIONAL = (*_INTEGERS[3:], "exponent_counts", "cast_losses")
_get_floats = attrgetter("min", "max", *_SUMS)
_get_integers = attrgetter(*_INTEGERS)
_get_arrays = attrgetter("counts", "exponent_counts", "cast_losses")

_LIMB = 40
"""Bits of a limb: a sum is sent as two of them, whose sums over four million ranks fit into int64."""

_SEGMENTS = 3
"""Of the counts of a histogram: lower and upper half of the buckets, exponents. Of each the used span is sent."""


class Stacked:
    """The histograms of one step as arrays that any engine can reduce.

    Parameters
    ----------
    histograms : dict of str to Histogram

    Raises
    ------
    ArgumentError
        It is no such dict, or counts are not whole.

    Notes
    -----
    If all ranks' `described` are equal, take the minimum of their `bounds`, give it to `agree`, take the sum of their
    `sums`, and give that to `received`.
    """

    def __init__(self, histograms: Any) -> None:
        if not isinstance(histograms, dict):
            msg = f"histograms={type(histograms).__name__} is no dict. Accepted: what fasthist.histograms() gives."
            raise ArgumentError(msg)
        self._order = list(histograms)
        self._tags = sorted(histograms)
        self._parts = [histograms[tag] for tag in self._tags]
        self._segments: list[NDArray[np.uint64]] = []
        self._losses = [_NO_LOSSES[:0]]
        self._integers: list[Sequence[int]] = []
        self._described: dict[str, str] = {}
        texts: dict[tuple[int, str], str] = {}  # most histograms have the same buckets
        for tag, one in zip(self._tags, self._parts, strict=True):
            if not isinstance(one, Histogram):
                msg = f"{tag!r} is {type(one).__name__}, no Histogram. Accepted: what fasthist.histograms() gives."
                raise ArgumentError(msg)
            counts, exponents, losses = _get_arrays(one)
            if counts.dtype.kind != "u":
                msg = f"{tag!r} has counts that are not whole. Accepted: histograms that fasthist has counted."
                raise ArgumentError(msg)
            middle = counts.size // 2
            self._segments += (
                counts[:middle],
                counts[middle:],
                _NONE if exponents is None else exponents,
            )
            self._losses.append(_NO_LOSSES if losses is None else losses)
            integers: Sequence[int] = _get_integers(one)
            missing = ""
            if exponents is None or losses is None or None in integers:
                missing = ", ".join(name for name in _OPTIONAL if getattr(one, name) is None)
                integers = [number or 0 for number in integers]
            self._integers.append(integers)
            key = id(one.buckets), missing
            if key not in texts:
                texts[key] = _described(one.buckets, missing)
            self._described[tag] = texts[key]
        # NaN for those that are unknown.
        floats = [_get_floats(one) for one in self._parts]
        self._floats = np.array(floats, np.float64).reshape(-1, 4)

    def described(self) -> dict[str, str]:
        """Say what has to be the same on every rank, by tag."""
        return self._described

    def bounds(self) -> NDArray[np.float64]:
        """Give what the ranks take the minimum of: float64[tensors, 13].

        The smallest value, the largest, both sums, `num`, and of each segment the first and last count that is not zero;
        what the largest is wanted of is negative. Infinities stand for none; and for unknown, where they are not the sum itself.
        """
        values = self._floats
        ends = np.hstack((values[:, :1], -values[:, 1:2], values[:, 2:], -values[:, 2:]))
        ends[np.isnan(ends)] = -np.inf
        num = np.array([row[:1] for row in self._integers], np.float64).reshape(-1, 1)
        ends[num[:, 0] == 0, :2] = np.inf  # the extremes of no values are any rank's

        begins = np.cumsum([0, *(segment.size for segment in self._segments)])
        seen = np.concatenate([_NONE, *self._segments], dtype=bool, casting="unsafe")
        used = np.flatnonzero(seen)
        low, high = np.searchsorted(used, begins[:-1]), np.searchsorted(used, begins[1:])
        some = low < high
        spans = np.full((some.size, 2), np.inf)
        spans[some, 0] = used[low[some]] - begins[:-1][some]
        spans[some, 1] = begins[:-1][some] - used[high[some] - 1]
        return np.hstack((ends, -num, spans.reshape(-1, 2 * _SEGMENTS)))

    def agree(self, bounds: NDArray[np.float64], ranks: int) -> None:
        """Take note of the minimum of so many ranks' bounds."""
        self._extremes = bounds[:, :2].tolist()
        self._sum_bounds = bounds[:, 2:6].reshape(-1, 2, 2)
        spans = bounds[:, 7:].reshape(-1, 2)
        used = np.isfinite(spans)
        first = np.where(used, spans, 0)[:, 0].astype(np.int64)
        after = np.where(used, 1 - spans, 0)[:, 1].astype(np.int64)
        self._first, self._after = first.tolist(), after.tolist()
        # Two counts share an int64 where no sum of either can reach the other.
        narrow = np.repeat(-bounds[:, 6] * ranks < 2.0**31, _SEGMENTS)
        sizes = np.where((narrow, ~narrow), after - first, 0)
        ends = np.cumsum(sizes, axis=1)
        self._places = np.where(narrow, *(ends - sizes)).tolist()
        self._narrow = narrow.tolist()
        self._pairs, self._wide = (int(sizes[0].sum()) + 1) // 2, int(sizes[1].sum())
        # The upper limb of a sum counts units of which the largest rank's sum has less than 2**_LIMB.
        largest = np.abs(self._sum_bounds).max(axis=1)
        self._finite = np.isfinite(largest)
        self._units = np.frexp(np.where(self._finite, largest, 0.0))[1] - _LIMB

    def sums(self) -> NDArray[np.int64]:
        """Give what the ranks add up: the counts of the agreed spans, then 17 numbers for each tensor."""
        spans = zip(self._segments, self._first, self._after, strict=True)
        counts = [segment[first:after] for segment, first, after in spans]
        narrow = np.zeros(2 * self._pairs, np.uint32)
        few = [_NONE, *compress(counts, self._narrow)]
        np.concatenate(few, out=narrow[: sum(map(len, few))], casting="unsafe")
        wide = np.concatenate([_NONE, *compress(counts, map(not_, self._narrow))])
        scaled = np.ldexp(np.where(self._finite, self._floats[:, 2:], 0.0), -self._units)
        upper = np.rint(scaled)
        lower = np.rint(np.ldexp(scaled - upper, _LIMB))
        rest = (
            np.array(self._integers, np.int64).reshape(-1, len(_INTEGERS)),
            np.concatenate(self._losses).reshape(-1, 6),
            upper,
            lower,
        )
        numbers = np.hstack([part.astype(np.int64) for part in rest])
        return np.concatenate((narrow.view(np.int64), wide.view(np.int64), numbers.ravel()))

    def received(self, sums: NDArray[np.int64]) -> Histograms:
        """Give the histograms that the sums over all ranks tell, each made when it is first read."""
        narrow, wide, rest = np.split(sums, (self._pairs, self._pairs + self._wide))
        counts: dict[bool, NDArray[Any]] = {True: narrow.view(np.uint32), False: wide}
        numbers = rest.reshape(-1, 17)

        def find(number: int) -> Histogram:
            return self._found(number, counts, numbers[number].tolist())

        number = {tag: i for i, tag in enumerate(self._tags)}
        return {tag: PendingHistogram(find, number[tag]) for tag in self._order}

    def _found(self, number: int, counts: dict[bool, NDArray[Any]], rest: list[int]) -> Histogram:
        begin = number * _SEGMENTS
        arrays = []
        for i in range(begin, begin + _SEGMENTS):
            first, after, place = self._first[i], self._after[i], self._places[i]
            arrays.append(np.zeros(self._segments[i].size, np.uint64))
            arrays[-1][first:after] = counts[self._narrow[i]][place : place + after - first]
        values: dict[str, Any] = dict(zip(_INTEGERS, rest, strict=False))
        values["exponent_counts"] = arrays.pop()
        values["cast_losses"] = np.array(rest[7:13], np.uint64).reshape(3, 2)
        mine = self._parts[number]
        values.update({name: None for name in _OPTIONAL if getattr(mine, name) is None})
        for i, name in enumerate(_SUMS):
            low, high = self._sum_bounds[number, :, i].tolist()
            values[name] = _total(low, high, rest[13 + i], rest[15 + i], self._units[number, i])
        low, high = self._extremes[number]
        values["min"] = low if math.isfinite(low) else None
        values["max"] = -high if math.isfinite(high) else None
        buckets = tensorflow_buckets() if mine.buckets.name == "auto" else mine.buckets
        return Histogram(buckets, np.concatenate(arrays), **values)


_NONE = np.empty(0, np.uint64)
_NO_LOSSES = np.zeros((3, 2), np.uint64)


def _described(buckets: Buckets, missing: str) -> str:
    kind = "tensorflow"
    if buckets != tensorflow_buckets():
        digest = hashlib.blake2b(buckets.edges.tobytes(), digest_size=4).hexdigest()
        kind = f"{buckets!r} (edges {digest})"
    return f"{kind} without {missing}" if missing else kind


def _total(low: float, high: float, upper: int, lower: int, unit: Any) -> float | None:
    """Give the sum of the ranks' sums, rounded once; None where some are unknown, or infinite with either sign."""
    if low == high == -math.inf:
        return None
    if -math.inf in (low, high):
        return low if low == -math.inf else math.inf
    total = float((upper << _LIMB) + lower)
    try:
        return math.ldexp(total, int(unit) - _LIMB)
    except OverflowError:
        return math.copysign(math.inf, total)
