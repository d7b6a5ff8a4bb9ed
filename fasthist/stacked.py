"""The histograms of one step as flat arrays for an all-reduce: a MIN of one array over all ranks, then a SUM of another.

A sum of floats depends on their order, so they become integers first, and everything is added up exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets, tensorflow_buckets
from fasthist.errors import ArgumentError
from fasthist.hist import EXPONENTS, Histogram
from fasthist.kernels import packing
from fasthist.pending import PendingHistogram

Histograms = dict[str, Histogram]

_SUMS = ("sum", "sum_squares")
_INTEGERS = (
    "num", "below_count", "above_count", "zero_count", "nan_count", "posinf_count", "neginf_count",
)  # fmt: skip
_OPTIONAL = (*_INTEGERS[3:], "exponent_counts", "cast_losses")
_get_floats = attrgetter("min", "max", *_SUMS, "squared_deviations")
_get_integers = attrgetter(*_INTEGERS)
_get_arrays = attrgetter("counts", "exponent_counts", "cast_losses")

_LIMB = 40
"""Bits of a limb: a sum is sent as two of them, whose sums over four million ranks fit into int64."""

_NUMBERS = len(_INTEGERS) + 6 + 2 * (len(_SUMS) + 2)
"""Integers for each histogram beside its counts: 21, which are added up."""


class Stacked:
    """The histograms of one step as arrays that any engine can reduce.

    If all ranks' `described` are equal, take the minimum of their `bounds`, pass it to `agree`, take the sum of their
    `sums`, and pass that to `received`. ArgumentError if the histograms are not a dict, or counts are not whole.
    """

    def __init__(self, histograms: Any) -> None:
        if not isinstance(histograms, dict):
            msg = f"histograms={type(histograms).__name__} must be a dict. Accepted: what fasthist.histograms() returns."
            raise ArgumentError(msg)
        self._order = list(histograms)
        self._tags = sorted(histograms)
        self._parts = [histograms[tag] for tag in self._tags]
        self._described: dict[str, str] = {}
        self._members: dict[int, list[int]] = {}  # tensors by their buckets, which most share
        self._counts: list[NDArray[Any]] = []
        exponents, losses, integers = [_NO_EXPONENTS[:0]], [_NO_LOSSES[:0]], []
        texts: dict[tuple[int, str], str] = {}
        for i, (tag, histogram) in enumerate(zip(self._tags, self._parts, strict=True)):
            if not isinstance(histogram, Histogram):
                kind = type(histogram).__name__
                msg = f"{tag!r} must be a Histogram, not {kind}. Accepted: what fasthist.histograms() returns."
                raise ArgumentError(msg)
            counts, by_exponent, lost = _get_arrays(histogram)
            if counts.dtype != np.uint64:
                if counts.dtype.kind != "u":
                    msg = f"{tag!r} has counts that are not whole. Accepted: histograms that fasthist has counted."
                    raise ArgumentError(msg)
                counts = counts.astype(np.uint64)
            numbers: Sequence[int] = _get_integers(histogram)
            missing = ""
            if by_exponent is None or lost is None or None in numbers:
                missing = ", ".join(name for name in _OPTIONAL if getattr(histogram, name) is None)
                numbers = [number or 0 for number in numbers]
                by_exponent = _NO_EXPONENTS if by_exponent is None else by_exponent
                lost = _NO_LOSSES if lost is None else lost
            buckets = id(histogram.buckets)
            if (buckets, missing) not in texts:
                texts[buckets, missing] = _described(histogram.buckets, missing)
            self._described[tag] = texts[buckets, missing]
            self._members.setdefault(buckets, []).append(i)
            self._counts.append(counts)
            exponents.append(by_exponent)
            losses.append(lost)
            integers.append(numbers)
        self._exponents = np.concatenate(exponents).reshape(-1, len(EXPONENTS))
        self._losses = np.concatenate(losses).reshape(-1, 6).astype(np.int64)
        self._integers = np.array(integers, np.int64).reshape(-1, len(_INTEGERS))
        # NaN where unknown.
        floats = [_get_floats(histogram) for histogram in self._parts]
        self._floats = np.array(floats, np.float64).reshape(-1, 5)
        self._locate_counts()

    def _locate_counts(self) -> None:
        """Find the counts' addresses and sizes, and the buckets of the extremes."""
        n = len(self._counts)
        self._addresses = np.fromiter(map(packing.address, self._counts), np.int64, n)
        for i in np.flatnonzero(self._addresses == 0).tolist():
            self._counts[i] = self._counts[i].copy()
            self._addresses[i] = packing.address(self._counts[i])
        self._sizes = np.empty(n, np.int64)
        self._outermost = np.empty((n, 2), np.int64)
        for members in self._members.values():
            buckets = self._parts[members[0]].buckets
            self._sizes[members] = len(buckets)
            self._outermost[members] = buckets.index(self._floats[members, :2])
        lengths = np.fromiter(map(len, self._counts), np.int64, n)
        if (lengths != self._sizes).any():  # or memory beyond the counts would be read
            i = int(np.argmax(lengths != self._sizes))
            msg = f"{self._tags[i]!r} has {lengths[i]} counts. Accepted: one for each of its {self._sizes[i]} buckets."
            raise ArgumentError(msg)

    def described(self) -> dict[str, str]:
        """Return what must be the same on every rank, by tag."""
        return self._described

    def bounds(self) -> NDArray[np.float64]:
        """Return what the ranks take the minimum of: float64[tensors, 14].

        The smallest value, the largest, both sums, `num`, whether the squared deviations are known, and for each segment
        the first and last non-zero count. Maxima are stored negated so that one MIN serves both. +-inf marks "no value" or
        "unknown", or is an infinite sum.
        """
        values = self._floats[:, :4]
        num, below, above = self._integers[:, :3].T
        ends = np.hstack((values[:, :1], -values[:, 1:2], values[:, 2:], -values[:, 2:]))
        ends[np.isnan(ends)] = -np.inf
        ends[num == 0, :2] = np.inf  # a tensor without values has no extremes
        inside = (num - below - above).view(np.uint64)
        spans = np.empty((num.size, packing.SEGMENTS, 2), np.int64)
        places = (self._addresses, self._sizes, self._outermost)
        packing.find_spans(*places, inside, self._exponents, spans)
        spans[..., 1] *= -1
        spans = np.where(spans[..., 1:] < 0, spans, np.inf)
        known = (num == 0) | np.isfinite(self._floats[:, [2, 4]]).all(axis=1)
        spans = spans.reshape(-1, 2 * packing.SEGMENTS)
        return np.hstack((ends, -num[:, None], known[:, None], spans))

    def agree(self, bounds: NDArray[np.float64], ranks: int) -> None:
        """Set the minimum of all ranks' bounds."""
        self._extremes = bounds[:, :2]
        self._sum_bounds = bounds[:, 2:6].reshape(-1, 2, 2)
        spans = bounds[:, 8:].reshape(-1, packing.SEGMENTS, 2)
        self._spans = np.where(np.isfinite(spans), np.abs(spans), 0).astype(np.int64)
        # Two counts share an int64 where no sum of either can reach the other half.
        self._narrow = -bounds[:, 6] * ranks < 2.0**31
        sizes = self._spans[..., 1] - self._spans[..., 0]
        narrow = self._narrow[:, None]
        few, many = np.where(narrow, sizes, 0), np.where(narrow, 0, sizes)
        self._places = np.where(narrow, _before(few), _before(many))
        self._pairs, self._wide = (int(few.sum()) + 1) // 2, int(many.sum())
        # The upper limb of a sum counts units such that the largest rank's sum has less than 2**_LIMB of them.
        center, most = self._middle(bounds)
        largest = np.hstack((np.abs(self._sum_bounds).max(axis=1), most))
        self._finite = np.isfinite(largest)
        self._units = np.frexp(np.where(self._finite, largest, 0.0))[1] - _LIMB
        # Deviations from one center add up over ranks; each mean's distance from it leads back to those from the mean.
        num, (total, deviations) = self._integers[:, 0], self._floats[:, [2, 4]].T
        with np.errstate(over="ignore", invalid="ignore"):
            away = np.where(num > 0, total / np.maximum(num, 1) - center, 0.0)
            apart = np.stack((num * away, deviations + num * away * away), axis=1)
            apart = np.clip(apart, -most, most)  # a file's extremes may contradict its sum
        self._apart = np.where(np.isfinite(most) & (num > 0)[:, None], apart, 0.0)

    @staticmethod
    def _middle(bounds: NDArray[np.float64]) -> tuple[Any, NDArray[np.float64]]:
        """Return the middle of all values' range, and the most that any rank's deviations from it add up to.

        Both ends are values, so the squared deviations from the middle are at most ``num / 2`` times those from the mean:
        as many units in the last place may be lost. The most, float64[tensors, 2], is for deviations and squared ones; NaN
        where unknown or beyond float64.
        """
        low, high, num = bounds[:, 0], -bounds[:, 1], -bounds[:, 6]
        with np.errstate(over="ignore", invalid="ignore"):
            reach = np.where((bounds[:, 7] > 0) & (low <= high), high - low, np.nan)
            most = np.stack((num * reach, num * reach * reach), axis=1)
            most[~np.isfinite(most).all(axis=1)] = np.nan
            return low / 2 + high / 2, most

    def sums(self) -> NDArray[np.int64]:
        """Return what the ranks add up: the counts of the agreed spans, then 21 numbers for each tensor."""
        n = len(self._parts)
        sums = np.zeros(self._pairs + self._wide + n * _NUMBERS, np.int64)
        narrow, wide, rest = self._divided(sums)
        counted = (self._addresses, self._exponents, self._spans)
        packing.pack(*counted, self._places, self._narrow, narrow, wide)
        floats = np.hstack((self._floats[:, 2:4], self._apart))
        scaled = np.ldexp(np.where(self._finite, floats, 0.0), -self._units)
        upper = np.rint(scaled)
        lower = np.rint(np.ldexp(scaled - upper, _LIMB))
        numbers = (self._integers, self._losses, upper, lower)
        np.concatenate(numbers, axis=1, out=rest, casting="unsafe")
        return sums

    def received(self, sums: NDArray[np.int64]) -> Histograms:
        """Return the histograms of the sums over all ranks, each made when it is first read."""
        *counts, rest = self._divided(sums)

        def find(i: int) -> Histogram:
            return self._histogram(i, counts[not self._narrow[i]], rest[i].tolist())

        by_tag: Histograms = {tag: PendingHistogram(find, i) for i, tag in enumerate(self._tags)}
        return by_tag if self._order == self._tags else {tag: by_tag[tag] for tag in self._order}

    def _divided(self, sums: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Return views of the parts: counts as uint32 and as uint64, then int64[tensors, 21]."""
        narrow, wide, rest = np.split(sums, (self._pairs, self._pairs + self._wide))
        return narrow.view(np.uint32), wide.view(np.uint64), rest.reshape(-1, _NUMBERS)

    def _histogram(self, i: int, counts: NDArray[Any], rest: list[int]) -> Histogram:
        mine = self._parts[i]
        whole = np.zeros(len(mine.buckets), np.uint64)
        by_exponent = np.zeros(len(EXPONENTS), np.uint64)
        goals, spans = (whole, whole, by_exponent), self._spans[i].tolist()
        for goal, (first, after), place in zip(goals, spans, self._places[i].tolist(), strict=True):
            goal[first:after] = counts[place : place + after - first]
        values: dict[str, Any] = dict(zip(_INTEGERS, rest, strict=False))
        values["exponent_counts"] = by_exponent
        values["cast_losses"] = np.array(rest[7:13], np.uint64).reshape(3, 2)
        values.update({name: None for name in _OPTIONAL if getattr(mine, name) is None})
        for j, name in enumerate(_SUMS):
            low, high = self._sum_bounds[i, :, j].tolist()
            values[name] = _total(low, high, rest[13 + j], rest[17 + j], self._units[i, j])
        if self._finite[i, 2] and values["num"]:
            away, squares = (_scaled(rest[13 + j], rest[17 + j], self._units[i, j]) for j in (2, 3))
            values["squared_deviations"] = max(0.0, squares - away * away / values["num"])
        low, high = self._extremes[i].tolist()
        values["min"] = low if math.isfinite(low) else None
        values["max"] = -high if math.isfinite(high) else None
        return Histogram(mine.buckets, whole, **values)


_NO_EXPONENTS = np.zeros(len(EXPONENTS), np.uint64)
_NO_LOSSES = np.zeros((3, 2), np.uint64)


def _before(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each element, the sum of those before it."""
    before: NDArray[np.int64] = np.cumsum(sizes).reshape(sizes.shape) - sizes
    return before


def _described(buckets: Buckets, missing: str) -> str:
    kind = "tensorflow"
    if buckets != tensorflow_buckets():
        digest = hashlib.blake2b(buckets.edges.tobytes(), digest_size=4).hexdigest()
        low, high = buckets.edges[[0, -1]].tolist()
        kind = f"{len(buckets)} buckets from {low!r} to {high!r} (edges {digest})"
    return f"{kind} without {missing}" if missing else kind


def _total(low: float, high: float, upper: int, lower: int, unit: Any) -> float | None:
    """Return the sum of the ranks' sums, rounded once; None if some are unknown, or infinite with either sign."""
    if low == high == -math.inf:
        return None
    if -math.inf in (low, high):
        return low if low == -math.inf else math.inf
    return _scaled(upper, lower, unit)


def _scaled(upper: int, lower: int, unit: Any) -> float:
    total = float((upper << _LIMB) + lower)
    try:
        return math.ldexp(total, int(unit) - _LIMB)
    except OverflowError:
        return math.copysign(math.inf, total)
