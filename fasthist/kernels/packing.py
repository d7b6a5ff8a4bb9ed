"""The counts of many histograms, packed for sending: each read where it lies, and of most only what is not zero.

1,000 histograms of float32 are 14.5 MB in as many places. Hence addresses instead of arrays, one call for all, and a look
at the extremes, which tell where the outermost counts are: most zeros lie beyond them, and are not read.
"""

from __future__ import annotations

import numpy as np

from fasthist.kernels.batch import memory_at
from fasthist.kernels.jit import serial

SEGMENTS = 3
"""Of the counts of a histogram: lower and upper half of the buckets, exponents. Of each the used span is sent."""

_WORD = np.empty(0, dtype=np.uint64)


@serial
def address(array):
    """Give where the numbers of an array lie, in 0.2 us: ``array.ctypes.data`` takes a microsecond.

    Parameters
    ----------
    array : any numbers[...]

    Returns
    -------
    int
        0 if they are not of eight bytes, or not one after the other.
    """
    return array.ctypes.data if array.itemsize == 8 and array.flags.c_contiguous else 0


@serial
def _shrink(counts, first, after):
    """Cut zeros off both ends of a span; what is left of an empty one is (0, 0)."""
    while first < after and counts[first] == 0:
        first += 1
    while first < after and counts[after - 1] == 0:
        after -= 1
    return (first, after) if first < after else (0, 0)


@serial
def _total(counts, first, after):
    part = counts[first:after]  # and from 0: so LLVM vectorises it
    total = np.uint64(0)
    for i in range(part.size):
        total += part[i]
    return total


@serial
def find_spans(addresses, sizes, outermost, totals, exponents, spans):
    """Find where counts are that are not zero.

    Parameters
    ----------
    addresses : int64[n]
        Where the counts of each histogram lie: uint64.
    sizes : int64[n]
        How many they are.
    outermost : int64[n, 2]
        The buckets of minimum and maximum; anything where these are unknown.
    totals : uint64[n]
        What the counts add up to. If they do not between the outermost buckets, all are looked at.
    exponents : uint64[n, e]
    spans : int64[n, 3, 2]
        Filled for each of `SEGMENTS` with the first count that is not zero, and the one after the last; twice 0 if there
        is none.
    """
    for i in range(sizes.size):
        size = sizes[i]
        counts = memory_at(addresses[i], size, _WORD)
        middle = size // 2
        first = min(max(outermost[i, 0], 0), size)
        after = min(max(outermost[i, 1] + 1, 0), size)
        lower = _shrink(counts, first, min(after, middle))
        upper = _shrink(counts, max(first, middle), after)
        if _total(counts, *lower) + _total(counts, *upper) != totals[i]:
            lower = _shrink(counts, 0, middle)
            upper = _shrink(counts, middle, size)
        spans[i, 0] = lower
        spans[i, 1] = upper
        spans[i, 2] = _shrink(exponents[i], 0, exponents.shape[1])


@serial
def pack(addresses, exponents, spans, places, narrow, few, many):
    """Put the counts of spans side by side.

    Parameters
    ----------
    addresses : int64[n]
    exponents : uint64[n, e]
        As for `find_spans`.
    spans : int64[n, 3, 2]
        What is wanted of each.
    places : int64[n, 3]
        Where each goes.
    narrow : bool[n]
        Whether to `few`, or to `many`.
    few : uint32[k]
    many : uint64[l]
    """
    for i in range(narrow.size):
        for segment in range(SEGMENTS):
            first, after = spans[i, segment]
            if segment < 2:
                counts = memory_at(addresses[i], after, _WORD)[first:]
            else:
                counts = exponents[i, first:after]
            place = places[i, segment]
            if narrow[i]:
                goal = few[place : place + counts.size]
                for j in range(counts.size):
                    goal[j] = counts[j]
            else:
                many[place : place + counts.size] = counts
