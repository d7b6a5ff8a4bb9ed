"""From the numbers in a file to a `Histogram`: None for what the file does not tell, MessageError if it contradicts itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import checked_buckets
from fasthist.errors import MessageError
from fasthist.events.parsing import Moments, Rows
from fasthist.events.wire import read_numbers
from fasthist.hist import Histogram

Specials = tuple[int | None, int | None, int | None]
"""How many NaN, +infinity and -infinity; None if unknown."""

EXACT = 2.0**24
"""Whole numbers below this one are exact in the float32 of a scalar."""

UNTOLD: Specials = (None, None, None)
NONE: Specials = (0, 0, 0)

# Doubles hold every whole number up to here.
_WHOLE = 2.0**53

_NOWHERE = checked_buckets(np.array([0.0, 1.0]))
# A dot product with it adds up a few hundred numbers in half the time of sum().
_ONES = np.ones(1024)
_AT_0 = np.zeros(1, dtype=np.int64)
_NO_COUNTS = np.zeros(1, dtype=np.uint64)


def from_moments(moments: Moments, specials: Specials = UNTOLD) -> Histogram:
    """Restore a histogram from the older form; its buckets reach from the first to the last that is not empty.

    Where the file's `num` exceeds the sum of the counts, as torch writes it for NaN, infinities and what lies beyond its
    buckets, `uncounted` is the difference. `sum` and `sum_squares` include those values, so they are None; so are `min`
    and `max` outside the outer buckets.
    """
    numbers = moments.numbers
    limits, counts = map(_doubles, moments[1:3])
    if counts.size != limits.size:
        msg = f"the histogram has {limits.size} limits and {counts.size} counts"
        raise MessageError(msg)
    counts, num = _counted(counts)
    if not num:
        return empty(*_missing(numbers, num, num, specials), *_known_sums(moments, num))
    filled = counts.nonzero()[0]
    first, last = int(filled[0]), int(filled[-1])
    edges = np.empty(last - first + 2)
    edges[1:] = limits[first : last + 1]
    if first:
        edges[0] = limits[first - 1]
    else:  # the first limit ends a bucket whose left edge is not written
        edges[0] = min(math.nextafter(limits[0], -math.inf), numbers[0])  # which may be NaN
    counts = counts[first : last + 1]
    total = num
    if not (_all(edges[1:] > edges[:-1]) and edges[0] > -math.inf and edges[-1] < math.inf):
        rows = np.column_stack((edges[:-1], edges[1:], counts))
        rows = _placed(rows, numbers[0], numbers[1])
        counts, num = _counted(rows[:, 2])
        if not num:
            return empty(*_missing(numbers, num, total, specials))
        edges, counts, _, _ = _laid_out(rows, counts)
    ends = edges.item(0), edges.item(1), edges.item(-2), edges.item(-1)
    return _made(edges, counts, _borne_out(moments, num, ends, specials, total))


def regular(forms: list[Any], specials: list[Specials]) -> list[Histogram | None]:
    """Restore the regular histograms as `from_moments` does, in a third of the time; None for all others.

    Regular is what fasthist and TensorBoard's tools mostly write: increasing limits, whole counts, the first of them 0,
    the next and the last not.
    """
    joined = join(forms)
    with np.errstate(invalid="ignore"):  # others may be among them
        whole = joined.counts.astype(np.uint64)
    places = zip(joined.starts.tolist(), joined.stops.tolist(), strict=True)
    restored = {}
    for (start, stop), (i, numbers) in zip(places, _numbers(joined, forms, specials), strict=True):
        # Copies, or else a single histogram would keep all of them in memory.
        edges, counts = joined.limits[start:stop].copy(), whole[start + 1 : stop].copy()
        restored[i] = _made(edges, counts, numbers)
    return [restored.get(i) for i in range(len(forms))]


class Numbers(NamedTuple):
    """The attributes of a `Histogram` that are not in its buckets."""

    num: float
    min: float | None
    max: float | None
    sum: float | None
    sum_squares: float | None
    zero_count: int | None
    nan_count: int | None
    posinf_count: int | None
    neginf_count: int | None
    uncounted: int | None
    squared_deviations: float | None


def regular_numbers(forms: list[Any], specials: list[Specials]) -> list[Numbers | None]:
    """Restore only the numbers of regular histograms, in half the time of `regular`; None for all others."""
    restored = dict(_numbers(join(forms), forms, specials))
    return [restored.get(i) for i in range(len(forms))]


def _numbers(
    joined: Joined, forms: list[Any], specials: list[Specials]
) -> Iterator[tuple[int, Numbers]]:
    rows = joined.places.tolist(), joined.nums.tolist(), joined.ends.tolist()
    for i, num, ends in zip(*rows, strict=True):
        yield i, _borne_out(forms[i], int(num), ends, specials[i])


class Joined(NamedTuple):
    """Histograms of the older form in one array, n of them with m limits."""

    limits: NDArray[np.float64]  # float64[m]: the edges of each histogram
    counts: NDArray[np.float64]  # float64[m]: its counts, after a first one of 0
    places: NDArray[np.int64]  # int64[n]: their places among those that were to be joined
    starts: NDArray[np.int64]  # int64[n]: where each begins
    stops: NDArray[np.int64]  # int64[n]: where it ends
    nums: NDArray[np.float64]  # float64[n]: the sum of its counts
    ends: NDArray[np.float64]  # float64[n, 4]: its first two and last two edges


def join(forms: Sequence[Any]) -> Joined:
    """Join the histograms that are regular; see `regular`."""
    moments = [(i, form) for i, form in enumerate(forms) if isinstance(form, Moments)]
    likely = [i for i, form in moments if len(form.limits) == len(form.counts) > 2 * 8]
    if not likely:
        return _NOTHING
    limits = _doubles(b"".join([forms[i].limits for i in likely]))
    counts = _doubles(b"".join([forms[i].counts for i in likely]))
    stops = np.cumsum([len(forms[i].limits) // 8 for i in likely])
    starts = np.concatenate((_AT_0, stops[:-1]))
    # A fraction, a negative number, NaN or infinity is changed by the way through an integer.
    with np.errstate(invalid="ignore", over="ignore"):
        is_regular = counts.astype(np.uint64).astype(np.float64) == counts
        nums = np.add.reduceat(counts, starts)
    is_regular[1:] &= limits[1:] > limits[:-1]
    is_regular[starts] = counts[starts] == 0
    is_regular = np.logical_and.reduceat(is_regular, starts)
    is_regular &= (counts[starts + 1] > 0) & (counts[stops - 1] > 0) & (nums < _WHOLE)
    ends = limits[np.stack((starts, starts + 1, stops - 2, stops - 1), axis=1)]
    is_regular &= (ends[:, 0] > -math.inf) & (ends[:, 3] < math.inf)
    # The limits of a constant say less than its extremes.
    is_regular &= np.array([forms[i].numbers[0] != forms[i].numbers[1] for i in likely])
    places = np.array(likely)
    return Joined(
        limits, counts, *(column[is_regular] for column in (places, starts, stops, nums, ends))
    )


_NOTHING = Joined(*(np.empty(0),) * 2, *(np.empty(0, np.int64),) * 3, np.empty(0), np.empty((0, 4)))


def _doubles(data: bytes) -> NDArray[np.float64]:
    return read_numbers(data, 0, len(data), "<f8").astype(np.float64, copy=False)


def _known_sums(moments: Moments, num: float) -> tuple[float | None, float | None, float | None]:
    """Return sum, sum_squares and squared_deviations; None unless they are of the `num` values counted."""
    _, _, said, total, squares = moments.numbers
    deviations = moments.squared_deviations
    known = said == num  # False for a NaN
    return (
        total if known and not math.isnan(total) else None,
        squares if known and squares >= 0 else None,
        deviations if known and deviations >= 0 else None,
    )


def _borne_out(
    moments: Moments,
    num: float,
    ends: Sequence[float],
    specials: Specials,
    total: float | None = None,
) -> Numbers:
    """Return what the file tells beside the buckets, None where these contradict it.

    `ends` are the first two and the last two edges, `total` all counts of the file where `num` is only part of them.
    """
    low, high, *_ = moments.numbers
    zeros = moments.zero_count
    uncounted, specials = _missing(moments.numbers, num, num if total is None else total, specials)
    low_known, high_known = ends[0] <= low <= ends[1], ends[2] <= high <= ends[3]
    known_zeros = int(zeros) if 0 <= zeros <= num else None
    total_sum, squares, deviations = _known_sums(moments, num)
    return Numbers(
        num, low if low_known else None, high if high_known else None, total_sum, squares, known_zeros,
        *specials, uncounted, deviations,
    )  # fmt: skip


def _missing(
    numbers: Sequence[float], num: float, total: float, specials: Specials
) -> tuple[int | None, Specials]:
    """Return how many values are not among the `num` in buckets, None if unknown, and their kinds.

    `total` is the sum of the file's counts, more than `num` where some have no place.
    """
    low, high, said, *_ = numbers
    if said == num == total:
        return beside(specials), specials
    told = max(total, said if said < _WHOLE else 0)
    if told > num and isinstance(num, int):
        return int(told - num), _ruled_out(low, high, specials)
    return None, specials


def beside(specials: Specials) -> int:
    """Return the least number of values that are not finite, where a count is too large for its scalar."""
    return 0 if None not in specials or specials == UNTOLD else int(EXACT)


def _ruled_out(low: float, high: float, specials: Specials) -> Specials:
    """Set to 0 the kinds that the extremes of all values rule out; a NaN among the values makes both extremes NaN."""
    if math.isnan(low) or math.isnan(high):
        return specials
    nan, posinf, neginf = specials
    return (
        nan or 0,
        0 if posinf is None and high < math.inf else posinf,
        0 if neginf is None and low > -math.inf else neginf,
    )


def from_rows(form: Rows, specials: Specials = UNTOLD) -> Histogram:
    """Restore a histogram from the newer form, with an empty bucket in each gap.

    Without moments beside the rows, `min` and `max` are the outer ends of what is not empty, and the sums are unknown.
    Rows without a finite end count as `uncounted`, with at least one value that is not finite.

    TensorFlow's rows of a constant have no width. With a NaN among the values, all its edges are NaN and nothing is counted;
    with an infinity some edges are infinite, and the finite values are in one row that reaches there, or in none.
    """
    rows = form.rows.astype(np.float64)
    counts, num = _counted(rows[:, 2])
    uncounted = None if specials == UNTOLD else beside(specials)
    outer_are_filled = num and counts.item(0) and counts.item(-1)
    if outer_are_filled and rows[1:, 0].tobytes() == rows[:-1, 1].tobytes():
        # Mostly a row begins where the one before it ends.
        edges = np.empty(len(rows) + 1)
        edges[1:] = rows[:, 1]
        edges[0] = low = rows.item(0)
        high = rows.item(-2)
        if low > -math.inf and high < math.inf and _all(edges[1:] > edges[:-1]):
            told = _beside_rows(form.moments, edges, counts, num, (low, high), uncounted, specials)
            return _made(edges, counts, told)
    if not np.isfinite(rows[:, :2]).all():
        low, high, total = rows.item(0), rows.item(-2), num
        rows = _placed(rows, low, high)
        counts, num = _counted(rows[:, 2])
        is_infinite = math.isinf(low) or math.isinf(high)
        is_told = is_infinite or not (total or (math.isfinite(low) and math.isfinite(high)))
        if is_told:
            specials = _ruled_out(low, high, specials)
        if is_told or total > num:
            uncounted = int(total - num) + is_told
    if not num:
        return empty(uncounted, specials)
    edges, counts, low, high = _laid_out(rows, counts)
    told = _beside_rows(form.moments, edges, counts, num, (low, high), uncounted, specials)
    return _made(edges, counts, told)


def _beside_rows(
    moments: Moments | None, edges: NDArray[np.float64], counts: NDArray[Any], num: float, ends: tuple[float, float],
    uncounted: int | None, specials: Specials,
) -> Numbers:  # fmt: skip
    """Return what the file tells beside the rows; `ends` are the outer ends of what is not empty."""
    if moments is None:
        return Numbers(num, *ends, None, None, None, *specials, uncounted, None)
    first, last = counts.nonzero()[0][[0, -1]]
    outer = (*edges[first : first + 2].tolist(), *edges[last : last + 2].tolist())
    return _borne_out(moments, num, outer, specials)


def _placed(rows: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return the rows that hold something between finite ends; an extreme of the values may replace an infinite one."""
    left, right = rows[:, 0], rows[:, 1]
    rows = rows[(rows[:, 2] > 0) & ~(np.isinf(left) & (left == right))]
    left, right = rows[:, 0], rows[:, 1]
    if math.isfinite(low):
        left[~np.isfinite(left) & (low <= right)] = low
    if math.isfinite(high):
        right[~np.isfinite(right) & (high >= left)] = high
    return rows[np.isfinite(left) & np.isfinite(right)]


def _laid_out(
    rows: NDArray[np.float64], counts: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[Any], float, float]:
    """Return increasing edges, the counts between them, and the outer ends of what is not empty; or raise MessageError."""
    ends = rows[:, :2].ravel()
    if not _all(ends[1:] >= ends[:-1]):
        rows = rows[rows[:, 2] > 0]
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        counts, ends = _counted(rows[:, 2])[0], rows[:, :2].ravel()
        if not _all(ends[1:] >= ends[:-1]):
            msg = "the edges of the histogram's buckets decrease, or two buckets overlap"
            raise MessageError(msg)
    filled = counts.nonzero()[0]
    low, high = ends.item(2 * filled[0]), ends.item(2 * filled[-1] + 1)
    wide = ends[1:] > ends[:-1]
    if not _all(wide[::2]):
        rows = _widened(rows[wide[::2] | (counts > 0)])
        counts, ends = _counted(rows[:, 2])[0], rows[:, :2].ravel()
        wide = ends[1:] > ends[:-1]
    # Every second bucket is the gap after a row, mostly without width.
    spread = np.zeros(wide.size, dtype=counts.dtype)
    spread[::2] = counts
    edges = np.empty(np.count_nonzero(wide) + 1)
    edges[0] = ends[0]
    edges[1:] = ends[1:][wide]
    return edges, spread[wide], low, high


def _widened(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give each value that has a row of its own the smallest bucket that begins there, or the next row's."""
    buckets: list[list[float]] = []
    value, held = 0.0, 0.0
    for left, right, count in rows.tolist():
        if held and left > value:
            buckets.append([value, math.nextafter(value, math.inf), held])
            held = 0.0
        if left == right:
            value, held = left, held + count
        else:
            buckets.append([left, right, held + count])
            held = 0.0
    if held:
        after = math.nextafter(value, math.inf)
        if after < math.inf:
            buckets.append([value, after, held])
        elif buckets and buckets[-1][1] == value:  # the last bucket holds its right edge
            buckets[-1][2] += held
        else:
            buckets.append([math.nextafter(value, -math.inf), value, held])
    return np.array(buckets)


def empty(
    uncounted: int | None, specials: Specials, total: float | None = None, squares: float | None = None,
    deviations: float | None = None, zeros: int | None = None,
) -> Histogram:  # fmt: skip
    """Return the histogram of no finite value, over one bucket without meaning."""
    told = Numbers(0, None, None, total, squares, zeros, *specials, uncounted, deviations)
    return _made(_NOWHERE.edges, _NO_COUNTS, told)


def _counted(counts: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Check float64[k] counts; return them, as uint64[k] if they are whole, and their sum."""
    if not counts.size:
        return _NO_COUNTS, 0
    with np.errstate(invalid="ignore"):
        whole = counts.astype(np.uint64)
    # A fraction, a negative count, NaN or infinity is changed by the way through an integer.
    back = whole.astype(np.float64)
    if back.tobytes() == counts.tobytes() or _all(whole == counts):
        num = float(back.dot(_ONES[: back.size]) if back.size <= _ONES.size else back.sum())
        if num < _WHOLE:
            return whole, int(num)
    counts = counts.astype(np.float64)
    if not (counts.min() >= 0 and counts.max() < math.inf):  # or there is a NaN
        msg = "the histogram has a count that is negative or not finite"
        raise MessageError(msg)
    with np.errstate(over="ignore"):
        num = float(counts.sum())
    if num == math.inf:
        msg = "the counts of the histogram add up to more than a double holds"
        raise MessageError(msg)
    return counts, num


def _all(flags: NDArray[np.bool_]) -> bool:
    # Takes half the time of numpy's all() for a few hundred.
    return b"\0" not in flags.tobytes()


def _made(edges: NDArray[np.float64], counts: NDArray[Any], numbers: Numbers) -> Histogram:
    """Construct a histogram, in a third of its constructor's time: a frozen class sets attributes one by one."""
    counts.setflags(write=False)
    histogram = object.__new__(Histogram)
    vars(histogram).update(
        numbers._asdict(), counts=counts, below_count=0, above_count=0, exponent_counts=None, cast_losses=None,
        buckets=_NOWHERE if edges is _NOWHERE.edges else checked_buckets(edges), outlined=None,
    )  # fmt: skip
    return histogram
