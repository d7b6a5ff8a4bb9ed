"""Counting in uniform buckets or between any edges, on a CPU: the second pass over data whose extremes are known.

The loops are written as in `fasthist.kernels.cpu`.
"""

from __future__ import annotations

import numpy as np

from fasthist.kernels.chunks import CHUNK
from fasthist.kernels.cpu import BLOCK
from fasthist.kernels.jit import elementwise, serial

_ONE = np.uint32(1)


@elementwise
def _uniform_index(values, low, high, n, doubt, index):
    """Put numpy's first guess of each bucket into `index`, and count the guesses that the edges may correct."""
    width = high - low
    doubtful = 0
    for i in range(values.size):
        value = np.float64(values[i])
        inside = (value >= low) & (value <= high)
        place = (value - low) / width * n if inside else 0.5
        guess = np.int32(place)
        away = place - np.float64(guess)
        doubtful += np.int64((away < doubt) | (away > 1.0 - doubt))
        index[i] = guess if inside else np.int32(n)
    return doubtful


@serial
def count_uniform(values, first, last, edges, doubt, counts):
    """Count chunks `first` to `last` - 1 in uniform buckets, as `numpy.histogram` does, skipping what is not finite.

    The first and the last of `edges`, float64[k + 1], are the extremes of the data or beyond them. `doubt` is how near to a
    border, in buckets, the guess ``(x - low) / (high - low) * k`` may be wrong by one. Adds to `counts`,
    uint32[1 or SUBTABLES, k + 1], whose last column takes what is not finite. Source of the guess and of its correction by
    the edges: ``histogram`` in numpy/lib/_histograms_impl.py.
    """
    n = edges.size - 1
    tables = counts.shape[0]
    c0, c1, c2, c3 = counts[0], counts[1 % tables], counts[2 % tables], counts[3 % tables]
    index = np.empty(BLOCK, dtype=np.int32)
    end = min(last * CHUNK, values.size)
    for start in range(first * CHUNK, end, BLOCK):
        block = values[start : min(start + BLOCK, end)]
        if _uniform_index(block, edges[0], edges[n], n, doubt, index) > 0:
            for i in range(block.size):
                k = index[i]
                value = np.float64(block[i])
                if value >= edges[0] and value <= edges[n]:
                    k = min(k, n - 1)
                    if value < edges[k]:
                        k -= 1
                    if value >= edges[k + 1] and k != n - 1:
                        k += 1
                index[i] = k
        for i in range(block.size // 4):
            c0[np.uint32(index[4 * i])] += _ONE
            c1[np.uint32(index[4 * i + 1])] += _ONE
            c2[np.uint32(index[4 * i + 2])] += _ONE
            c3[np.uint32(index[4 * i + 3])] += _ONE
        for i in range(block.size & ~3, block.size):
            c0[np.uint32(index[i])] += _ONE


@serial
def count_edges(values, first, last, edges, counts):
    """Count chunks `first` to `last` - 1 between any edges, float64[k + 1], by bisection.

    Adds to `counts`, uint32[1, k + 3]: values below the first edge, the buckets, values above the last edge, and what is not
    finite.
    """
    n = edges.size
    row = counts[0]
    steps = 0
    while (1 << steps) <= n:
        steps += 1
    # Padded with infinities to a power of two, every search takes the same steps without a check of bounds; and all of a
    # block take each step together, so that searches do not wait for one another.
    padded = np.full(1 << steps, np.inf)
    padded[:n] = edges
    wide = np.empty(BLOCK, dtype=np.float64)
    place = np.empty(BLOCK, dtype=np.uint32)
    end = min(last * CHUNK, values.size)
    for start in range(first * CHUNK, end, BLOCK):
        block = values[start : min(start + BLOCK, end)]
        for i in range(block.size):
            wide[i] = np.float64(block[i])
            place[i] = np.uint32(0)
        for step in range(steps - 1, -1, -1):
            ahead = np.uint32(1 << step)
            for i in range(block.size):
                reached = padded[place[i] + ahead - np.uint32(1)] <= wide[i]
                place[i] = np.uint32(place[i] + (ahead if reached else np.uint32(0)))
        for i in range(block.size):
            k = place[i]
            if wide[i] == edges[n - 1]:
                k = np.uint32(n - 1)
            if not np.isfinite(wide[i]):
                k = np.uint32(n + 1)
            row[k] += _ONE
