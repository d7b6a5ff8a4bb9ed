"""Outlines of counted arrays, from all their values or from a sample that agrees with TensorFlow's counts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist import outline
from fasthist.buckets import tensorflow_buckets
from fasthist.dtypes import Format
from fasthist.kernels.chunks import Chunks
from fasthist.kernels.jit import serial
from fasthist.kernels.looks import KINDS, LIMITS, Look
from fasthist.kernels.slots import ZERO, slots_of
from fasthist.kernels.sort import sort
from fasthist.outline import FAR, MOST_ROWS, ROOM, Rows

_FEW = 1 << 10
"""Elements up to which all are looked at, on first use of the outline: copying them is quicker than tracing. Also the
smallest sample."""

_MOST = 1 << 14
"""Elements of the largest sample, for values that TensorFlow's buckets do not resolve.

A share p of the values is then known to sqrt(p * (1 - p) / 16384).
"""

_LARGE = 1 << 18
"""Elements from which on a larger sample takes a small part of the time that counting takes."""

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_EDGES = tensorflow_buckets().edges.copy()  # writable: to Numba that is another type
_ZERO_BUCKET = int(tensorflow_buckets().index(np.zeros(1))[0])

trace = serial(outline.trace)


def cells_seen(size):
    """Return the number of cells that cut the range: narrower buckets are exact enough for the page's 30 bins.

    Of 40 arrays of a million normals, 60 cells left up to 2.5 % in a wrong bin, 90 up to 1.2 %; of 10,000, up to 1.5 %. Runs
    in Python as well as compiled, also on a GPU.
    """
    return 60.0 if size < _LARGE else 90.0


def elements_wanted(size, zeros, heaviest, coarse):
    """Return how many of `size` elements to look at; runs in Python as well as compiled, also on a GPU.

    `zeros` elements are zero and say nothing about the spread of the others. Without them, `heaviest` lie in the fullest
    TensorFlow bucket, and `coarse` in all buckets wider than a cell of `cells_seen`.
    """
    if size <= _FEW:
        return size
    # Enough for errors of half a percent in percentiles inside the heaviest bucket, and of one percent over all bins.
    others = max(np.float64(size) - np.float64(zeros), 1.0)
    share = max(heaviest / others * _MOST / 4, coarse / others * _MOST)
    wanted = min(max(share, np.float64(_FEW)) * np.float64(size) / others, 2.0 * _MOST)
    # From half on it is as quick to take all.
    return size if wanted > size / 2 else np.int64(wanted)


def place_in(i, size, parts):
    """Return a random place in part `i` of an array's `parts` equal parts; runs in Python as well as compiled."""
    begin = i * size // parts
    end = (i + 1) * size // parts
    # The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the same places in every run, and never in
    # step with a period of the data.
    mixed = np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    part = np.uint64(end - begin)
    return begin + np.int64(((mixed >> np.uint64(32)) * part) >> np.uint64(32))


_cells_seen = serial(cells_seen)
_elements_wanted = serial(elements_wanted)
_place_in = serial(place_in)


@serial
def sample_size(size, zeros, edges, counts, low, high):
    """Return how many elements to look at; the arguments are those of `weigh`."""
    if size <= _FEW:
        return size
    cells = _cells_seen(size)
    cell = high / cells - low / cells
    heaviest = 0.0
    coarse = 0.0
    for bucket in range(counts.size):
        count = np.float64(counts[bucket])
        if bucket == _ZERO_BUCKET:
            count -= zeros
        heaviest = max(heaviest, count)
        if min(edges[bucket + 1], high) - max(edges[bucket], low) > cell:
            coarse += count
    return _elements_wanted(size, zeros, heaviest, coarse)


@serial
def pick(size, places):
    """Fill int64[k] `places` with one random place in each of k equal parts of an array."""
    for i in range(places.size):
        places[i] = _place_in(i, size, places.size)


@serial
def weigh(points, zeros, edges, counts, low, high, places, reach):
    """Give each element of a sample its share of its bucket's count; return the number of points.

    `points` is the sample, float64[k], sorted and without zeros, of which the array has `zeros`. `counts`, uint64[n] between
    `edges` float64[n + 1], at least one in all, and the extremes `low` and `high` are those of the whole array. Fills
    `places`, float64[k + n + 3], with the sample, zero, the extremes, and a point in each bucket without any other; and
    `reach`, float64[k + n + 4], with how many elements lie before each, as `fasthist.outline.trace` reads it.
    """
    first = 0
    while counts[first] == 0:
        first += 1
    final = counts.size - 1
    while counts[final] == 0:
        final -= 1
    i = 0
    size = 0
    below = np.uint64(0)
    reach[0] = 0.0
    for bucket in range(first, final + 1):
        count = counts[bucket]
        if bucket == _ZERO_BUCKET and zeros > 0:
            places[size] = 0.0
            size += 1
            below += np.uint64(zeros)
            count -= np.uint64(zeros)
            reach[size] = np.float64(below)
        begin = size
        if bucket == first:
            places[size] = low
            size += 1
        while i < points.size and (points[i] < edges[bucket + 1] or bucket == final):
            if count > 0:
                places[size] = min(max(points[i], low), high)
                size += 1
            i += 1
        if bucket == final:
            places[size] = high
            size += 1
        if count > 0 and size == begin:
            places[size] = edges[bucket] / 2 + edges[bucket + 1] / 2
            size += 1
        if size > begin:
            each = np.float64(count) / (size - begin)
            for j in range(begin, size):
                reach[j + 1] = np.rint(np.float64(below) + (j + 1 - begin) * each)
            below += count
    return size


@serial
def outline_values(values, size, zeros, edges, counts, low, high, rows):
    """Trace the outline of an array of `size` elements into `rows`, float64[ROOM, 3]; return the number of rows.

    `values`, any[k], is the array, or a sample that is used whole; the other arguments are those of `weigh`.
    """
    wanted = values.size
    if wanted == size:
        wanted = sample_size(size, zeros, edges, counts, low, high)
    sample = np.empty(wanted)
    known = 0
    if wanted < values.size:
        places = np.empty(wanted, dtype=np.int64)
        pick(size, places)
        for i in range(wanted):
            sample[known] = np.float64(values[places[i]])
            known += np.isfinite(sample[known]) and sample[known] != 0.0
    else:
        whole = wanted == size
        for i in range(wanted):
            sample[known] = np.float64(values[i])
            known += np.isfinite(sample[known]) and (whole or sample[known] != 0.0)
    sample = sample[:known]
    sort(sample)
    if wanted == size:
        for i in range(known):
            # Integers beyond 2**53 are rounded differently from the extremes.
            sample[i] = min(max(sample[i], low), high)
        sample[0] = low
        sample[-1] = high
        points = sample
        reach = np.empty(known + 1)
        for i in range(known + 1):
            reach[i] = i
    else:
        points = np.empty(known + counts.size + 3)
        reach = np.empty(points.size + 1)
        known = weigh(sample, zeros, edges, counts, low, high, points, reach)
    # A single call, since it is compiled into every place that calls it.
    return trace(points[:known], reach[: known + 1], MOST_ROWS, rows)


def outline_of(chunks: Chunks, row: Format, look: Look) -> Rows | Callable[[], Rows]:
    """Trace the outline of a counted array with a finite value, float64[k, 3] as `fasthist.outline.trace` says.

    For few elements return a callable that does so, and keeps a copy of them.
    """
    if look.patterns is not None:
        return outline_of_patterns(look.patterns, row.name)
    values = chunks.flat
    if values is None:
        values = sample_of(chunks, look)
    elif chunks.size <= _FEW:
        values = values.copy()
    later = functools.partial(outline_of_sample, values.view(row.name), chunks.size, look)
    return later if chunks.size <= _FEW else later()


def sample_of(chunks: Chunks, look: Look) -> NDArray[Any]:
    """Copy as many elements of a counted array as its outline needs, or all of them."""
    counts, zeros = look.row[LIMITS], look.row[KINDS][ZERO]
    wanted = sample_size(chunks.size, zeros, _EDGES, counts, look.low, look.high)
    places = np.empty(wanted, dtype=np.int64)
    pick(chunks.size, places)
    return chunks.pick(places) if chunks.flat is None else chunks.flat[places]


def outline_of_sample(values: NDArray[Any], size: int, look: Look) -> Rows:
    """Trace the outline of an array of `size` elements, from some of them or all."""
    rows = np.empty((ROOM, 3))
    counts, zeros = look.row[LIMITS], look.row[KINDS][ZERO]
    used = outline_values(values, size, zeros, _EDGES, counts, look.low, look.high, rows)
    return rows[:used].copy()


@functools.cache
def _order(name: str) -> NDArray[np.intp]:
    """Return the patterns of a format that are finite numbers, in increasing order of these."""
    slots = slots_of(name)
    finite = np.flatnonzero(slots.kind <= ZERO)
    return finite[np.argsort(slots.values[finite], kind="stable")]


def outline_of_patterns(patterns: NDArray[np.uint64], name: str) -> Rows:
    """Trace the outline of an array from the counts of all patterns; at least one is a finite number."""
    counts = patterns[_order(name)]
    seen = np.flatnonzero(counts)
    reach = np.append(0, np.cumsum(counts[seen])).astype(np.float64)
    rows = np.empty((ROOM, 3))
    points = slots_of(name).values[_order(name)][seen]
    return rows[: trace(points, reach, MOST_ROWS, rows)].copy()


@serial
def lay_out(rows, limits, counts):
    """Lay out an outline as it is written, gaps filled: `display.contiguous` and `survives_float32` in 1 us, not 17.

    `rows` float64[k, 3] are left edge, right edge and count of each, none without width. Fills `limits` and `counts`,
    float64[2 * k]; the first limit is the first edge, with count 0. Returns the number of limits, and whether readers who
    take the limits for float32 still tell them apart.
    """
    size = 1
    limits[0] = rows[0, 0]
    counts[0] = 0.0
    for i in range(rows.shape[0]):
        if rows[i, 0] > limits[size - 1]:
            limits[size] = rows[i, 0]
            counts[size] = 0.0
            size += 1
        limits[size] = rows[i, 1]
        counts[size] = rows[i, 2]
        size += 1
    low, high = limits[0], limits[size - 1]
    largest = max(-low, high)
    survives = largest < _LARGEST_FLOAT32 and largest <= FAR * (high - low)
    if survives:
        for i in range(1, size):
            survives &= np.float32(limits[i]) > np.float32(limits[i - 1])
    return size, survives
