"""From the numbers in a file to a `Histogram`: what the file tells, None for what it does not, or an error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import checked_buckets
from fasthist.errors import MessageError
from fasthist.events.parsing import Moments, Rows
from fasthist.events.wire import read_numbers
from fasthist.hist import Histogram

Specials = tuple[int | None, int | None, int | None]
"""How many NaN, +infinity and -infinity; None where nothing tells."""

UNTOLD: Specials = (None, None, None)
NONE: Specials = (0, 0, 0)

# Doubles count in steps of one up to here.
_WHOLE = 2.0**53

_NOWHERE = checked_buckets(np.array([0.0, 1.0]))
# A product with it adds up a few hundred numbers in half the time of sum().
_ONES = np.ones(1024)
_AT_0 = np.zeros(1, dtype=np.int64)
_NO_COUNTS = np.zeros(1, dtype=np.uint64)


def from_moments(moments: Moments, specials: Specials = UNTOLD) -> Histogram:
    """Restore a histogram from the older form.

    Parameters
    ----------
    moments : Moments
        From `fasthist.events.parsing.read_moments`.
    specials : (int or None, int or None, int or None)

    Returns
    -------
    Histogram
        Its buckets are from the first to the last that is not empty. Where the file's `num` is not the sum of the
        counts, as torch writes it for values that it did not count, `sum` and `sum_squares` are of other values
        too, and None; so are `min` and `max` where they lie outside the outer buckets.

    Raises
    ------
    MessageError
        It contradicts itself.
    """
    limits, counted = map(_doubles, moments[1:3])
    if counted.size != limits.size:
        msg = f"the histogram has {limits.size} limits and {counted.size} counts"
        raise MessageError(msg)
    counts, num = _counted(counted)
    if not num:
        return empty(specials, *_known_sums(moments.numbers, num))
    filled = counts.nonzero()[0]
    first, last = int(filled[0]), int(filled[-1])
    edges = np.empty(last - first + 2)
    edges[1:] = limits[first : last + 1]
    # The first limit is the right end of a bucket whose left one is nowhere.
    edges[0] = limits[first - 1] if first else _begin(moments.numbers[0], float(limits[0]))
    counts = counts[first : last + 1]
    ends = edges.item(0), edges.item(1), edges.item(-2), edges.item(-1)
    if not (_all(edges[1:] > edges[:-1]) and ends[0] > -math.inf and ends[3] < math.inf):
        msg = "the limits of the histogram's buckets do not increase, or are not finite"
        raise MessageError(msg)
    return _with_moments(moments, edges, counts, num, ends, specials)


def regular(found: list[Any], specials: list[Specials]) -> list[Histogram | None]:
    """Restore what needs no second look, in a third of the time that `from_moments` takes for one after the other.

    Parameters
    ----------
    found : list of Moments or something else
    specials : list of (int or None, int or None, int or None)

    Returns
    -------
    list of Histogram or None
        What `from_moments` gives. None for something else, and where the histogram is not one as fasthist and
        TensorBoard's tools mostly write them: its first count 0, the next and the last one not, all of them whole, and
        limits that increase.
    """
    made: list[Histogram | None] = [None] * len(found)
    joined = join(found)
    rows = zip(
        joined.places.tolist(), joined.starts.tolist(), joined.stops.tolist(),
        joined.nums.tolist(), joined.ends.tolist(), strict=True,
    )  # fmt: skip
    with np.errstate(invalid="ignore"):  # others may be among them
        whole = joined.counts.astype(np.uint64)
    for i, start, stop, num, outer in rows:
        # Copies, or else a histogram that is kept would keep all of them.
        edges, counts = joined.limits[start:stop].copy(), whole[start + 1 : stop].copy()
        made[i] = _with_moments(found[i], edges, counts, int(num), outer, specials[i])
    return made


class Numbers(NamedTuple):
    """Of a histogram, what is not in its buckets; as its attributes of these names."""

    num: int
    min: float | None
    max: float | None
    sum: float | None
    sum_squares: float | None
    zero_count: int | None


def regular_numbers(found: list[Any], specials: list[Specials]) -> list[Numbers | None]:
    """Check histograms as `regular` does, and restore their numbers alone, in half the time."""
    del specials
    made: list[Numbers | None] = [None] * len(found)
    joined = join(found)
    for i, num, outer in zip(
        joined.places.tolist(), joined.nums.tolist(), joined.ends.tolist(), strict=True
    ):
        made[i] = Numbers(int(num), *_borne_out(found[i], num, outer))
    return made


class Joined(NamedTuple):
    """Histograms of the older form behind each other, n of them in m limits.

    Attributes
    ----------
    limits, counts : float64[m]
        Of a histogram its edges, and its counts behind a first one, which is 0.
    places : int64[n]
        Which of those that were joined they are.
    starts, stops : int64[n]
        Where they begin and end.
    nums : float64[n]
        Sums of their counts.
    ends : float64[n, 4]
        The first two and last two edges.
    """

    limits: NDArray[np.float64]
    counts: NDArray[np.float64]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    nums: NDArray[np.float64]
    ends: NDArray[np.float64]


def join(found: Sequence[Any]) -> Joined:
    """Join those histograms that need no second look; arguments and which those are as in `regular`."""
    likely = [
        i
        for i, one in enumerate(found)
        if isinstance(one, Moments) and len(one.limits) == len(one.counts) > 2 * 8
    ]
    if not likely:
        return _NOTHING
    limits = _doubles(b"".join([found[i].limits for i in likely]))
    counts = _doubles(b"".join([found[i].counts for i in likely]))
    stops = np.cumsum([len(found[i].limits) // 8 for i in likely])
    starts = np.concatenate((_AT_0, stops[:-1]))
    # What is not whole, negative, NaN or infinite does not come back from an integer as it went in.
    with np.errstate(invalid="ignore", over="ignore"):
        right = counts.astype(np.uint64).astype(np.float64) == counts
        nums = np.add.reduceat(counts, starts)
    right[1:] &= limits[1:] > limits[:-1]
    right[starts] = counts[starts] == 0
    right = np.logical_and.reduceat(right, starts)
    right &= (counts[starts + 1] > 0) & (counts[stops - 1] > 0) & (nums < _WHOLE)
    ends = limits[np.stack((starts, starts + 1, stops - 2, stops - 1), axis=1)]
    right &= (ends[:, 0] > -math.inf) & (ends[:, 3] < math.inf)
    # The limits of a constant say less than its extremes.
    right &= np.array([found[i].numbers[0] != found[i].numbers[1] for i in likely])
    places = np.array(likely)
    return Joined(limits, counts, *(of[right] for of in (places, starts, stops, nums, ends)))


_NOTHING = Joined(*(np.empty(0),) * 2, *(np.empty(0, np.int64),) * 3, np.empty(0), np.empty((0, 4)))


def _doubles(data: bytes) -> NDArray[np.float64]:
    return read_numbers(data, 0, len(data), "<f8").astype(np.float64, copy=False)


def _known_sums(numbers: Sequence[float], num: float) -> tuple[float | None, float | None]:
    _, _, said, total, squares = numbers
    # A sum is known if it is of the values counted; a NaN compares unequal.
    known = said == num
    return (
        total if known and not math.isnan(total) else None,
        squares if known and squares >= 0 else None,
    )


def _with_moments(
    moments: Moments,
    edges: NDArray[np.float64],
    counts: NDArray[Any],
    num: float,
    ends: Sequence[float],
    specials: Specials,
) -> Histogram:
    """Make a histogram of what the file says beside its buckets, as far as these bear it out.

    `ends` are its first two and its last two edges.
    """
    return _made(edges, counts, num, *_borne_out(moments, num, ends), specials)


def _borne_out(
    moments: Moments, num: float, ends: Sequence[float]
) -> tuple[float | None, float | None, float | None, float | None, int | None]:
    """Return extremes, sums and the number of zeros, None for what the file does not tell or its buckets contradict."""
    low, high, *_ = moments.numbers
    return (
        low if ends[0] <= low <= ends[1] else None,
        high if ends[2] <= high <= ends[3] else None,
        *_known_sums(moments.numbers, num),
        int(moments.zero_count) if 0 <= moments.zero_count <= num else None,
    )


def _begin(smallest: float, limit: float) -> float:
    return smallest if smallest < limit else math.nextafter(limit, -math.inf)


def from_rows(form: Rows, specials: Specials = UNTOLD) -> Histogram:
    """Restore a histogram from the newer form.

    Parameters
    ----------
    form : Rows
        From `fasthist.events.parsing.read_rows`.
    specials : (int or None, int or None, int or None)

    Returns
    -------
    Histogram
        With an empty bucket in each gap. Where no moments are written beside the rows, `min` and `max` are the outer ends
        of what is not empty, and the sums are unknown.

    Raises
    ------
    MessageError
        It contradicts itself.

    Notes
    -----
    TensorFlow's rows of a constant have no width. Its rows of NaN count nothing; those of infinities cannot be used.
    """
    rows = form.rows.astype(np.float64)
    counts, num = _counted(rows[:, 2])
    if not num:
        return empty(specials)
    if counts.item(0) and counts.item(-1) and rows[1:, 0].tobytes() == rows[:-1, 1].tobytes():
        # Mostly one row begins where another ends.
        edges = np.empty(len(rows) + 1)
        edges[1:] = rows[:, 1]
        edges[0] = low = rows.item(0)
        high = rows.item(-2)
        if low > -math.inf and high < math.inf and _all(edges[1:] > edges[:-1]):
            return _of_rows(form.moments, edges, counts, num, (low, high), specials)
    ends = rows[:, :2].ravel()
    if not (_all(ends[1:] >= ends[:-1]) and ends[0] > -math.inf and ends[-1] < math.inf):
        msg = "the edges of the histogram's buckets go backwards, or are not finite"
        raise MessageError(msg)
    filled = counts.nonzero()[0]
    low, high = ends.item(2 * filled[0]), ends.item(2 * filled[-1] + 1)
    wide = ends[1:] > ends[:-1]
    if not _all(wide[::2]):
        rows = _widened(rows[wide[::2] | (counts > 0)])
        counts, ends = _counted(rows[:, 2])[0], rows[:, :2].ravel()
        wide = ends[1:] > ends[:-1]
    # Every second bucket is the gap behind a row, which mostly has no width.
    spread = np.zeros(wide.size, dtype=counts.dtype)
    spread[::2] = counts
    counts = spread[wide]
    edges = np.empty(counts.size + 1)
    edges[0] = ends[0]
    edges[1:] = ends[1:][wide]
    return _of_rows(form.moments, edges, counts, num, (low, high), specials)


def _of_rows(
    moments: Moments | None,
    edges: NDArray[np.float64],
    counts: NDArray[Any],
    num: float,
    ends: tuple[float, float],
    specials: Specials,
) -> Histogram:
    if moments is None:
        return _made(edges, counts, num, *ends, None, None, None, specials)
    first, last = counts.nonzero()[0][[0, -1]]
    outer = (*edges[first : first + 2].tolist(), *edges[last : last + 2].tolist())
    return _with_moments(moments, edges, counts, num, outer, specials)


def _widened(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give each value that has a row for itself the smallest bucket: it begins there, or it is the next row's."""
    made: list[list[float]] = []
    value, held = 0.0, 0.0
    for left, right, count in rows.tolist():
        if held and left > value:
            made.append([value, math.nextafter(value, math.inf), held])
            held = 0.0
        if left == right:
            value, held = left, held + count
        else:
            made.append([left, right, held + count])
            held = 0.0
    if held:
        after = math.nextafter(value, math.inf)
        if after < math.inf:
            made.append([value, after, held])
        elif (
            made and made[-1][1] == value
        ):  # nothing is beyond, and the last bucket holds its right edge
            made[-1][2] += held
        else:
            made.append([math.nextafter(value, -math.inf), value, held])
    return np.array(made)


def empty(
    specials: Specials,
    total: float | None = None,
    squares: float | None = None,
    zeros: int | None = None,
) -> Histogram:
    """Make the histogram of no finite value, over one bucket that means nothing."""
    return _made(_NOWHERE.edges, _NO_COUNTS, 0, None, None, total, squares, zeros, specials)


def _counted(counts: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Check float64[k] counts; give uint64[k] if they are whole, else float64[k], and their sum."""
    if not counts.size:
        return _NO_COUNTS, 0
    with np.errstate(invalid="ignore"):
        whole = counts.astype(np.uint64)
    # Neither a negative count nor NaN, an infinity or a fraction comes back from an integer as it went in.
    back = whole.astype(np.float64)
    if back.tobytes() == counts.tobytes() or _all(whole == counts):
        num = float(back.dot(_ONES[: back.size]) if back.size <= _ONES.size else back.sum())
        if num < _WHOLE:
            return whole, int(num)
    counts = counts.astype(np.float64)
    if not (counts.min() >= 0 and counts.max() < math.inf):  # so it is with a NaN
        msg = "the histogram has a count that is negative or not finite"
        raise MessageError(msg)
    with np.errstate(over="ignore"):
        num = float(counts.sum())
    if num == math.inf:
        msg = "the counts of the histogram add up to more than a double holds"
        raise MessageError(msg)
    return counts, num


def _all(answers: NDArray[np.bool_]) -> bool:
    # Half the time of numpy's all() for a few hundred.
    return b"\0" not in answers.tobytes()


def _made(
    edges: NDArray[np.float64],
    counts: NDArray[Any],
    num: float,
    low: float | None,
    high: float | None,
    total: float | None,
    squares: float | None,
    zeros: int | None,
    specials: Specials,
) -> Histogram:
    counts.setflags(write=False)
    made = object.__new__(Histogram)
    # As its constructor would do, in a third of the time: a frozen class sets one attribute after the other.
    vars(made).update(
        buckets=_NOWHERE if edges is _NOWHERE.edges else checked_buckets(edges),
        counts=counts,
        below_count=0,
        above_count=0,
        num=num,
        min=low,
        max=high,
        sum=total,
        sum_squares=squares,
        zero_count=zeros,
        nan_count=specials[0],
        posinf_count=specials[1],
        neginf_count=specials[2],
        exponent_counts=None,
        cast_losses=None,
        outlined=None,
    )
    return made
