"""The Wasserstein-1 distance of two histograms, in one walk over the edges of both.

It reads both once: some 400 edges and counts of a layer's weights, 6 KB from the cache, in 2 us; numpy's way of
sorting and interpolating takes 60 us, most of it for the calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.kernels.jit import serial


def wasserstein(
    edges_a: NDArray[np.float64], counts_a: NDArray[Any], edges_b: NDArray[np.float64], counts_b: NDArray[Any]
) -> float:  # fmt: skip
    """Integrate the difference of two distributions.

    Edges are float64[n + 1], increasing, and their range must not overflow; counts, uint64[n] or float64[n], are not all 0.
    Values are spread evenly between edges.
    """
    area: float = _walk(*map(_of_one_type, (edges_a, counts_a, edges_b, counts_b)))
    return area


def wasserstein_of_pairs(
    edges_a: NDArray[np.float64], counts_a: NDArray[np.float64], spans_a: NDArray[np.int64],
    edges_b: NDArray[np.float64], counts_b: NDArray[np.float64], spans_b: NDArray[np.int64],
) -> NDArray[np.float64]:  # fmt: skip
    """Return the distances of many pairs of histograms, float64[k], in a third of the time of a call for each.

    Edges and counts are float64[m], one histogram behind the other; the first count of each, which has no edge on its left, is
    ignored. `spans_a` and `spans_b`, int64[k, 2], are where those of a pair begin and end, with at least two edges.
    """
    numbers = map(_of_one_type, (edges_a, counts_a, edges_b, counts_b))
    distances = np.empty(len(spans_a))
    _walk_pairs(*numbers, spans_a, spans_b, distances)
    return distances


@serial
def _walk_pairs(edges_a, counts_a, edges_b, counts_b, spans_a, spans_b, distances):
    for pair in range(distances.size):
        begin_a, end_a = spans_a[pair]
        begin_b, end_b = spans_b[pair]
        distances[pair] = _walk(
            edges_a[begin_a:end_a], counts_a[begin_a + 1 : end_a],
            edges_b[begin_b:end_b], counts_b[begin_b + 1 : end_b],
        )  # fmt: skip


def _of_one_type(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return a read-only view, so that Numba compiles once: writable and read-only arrays are two types to it."""
    view = np.ascontiguousarray(array, np.float64).view()
    view.setflags(write=False)
    return view


@serial
def _walk(edges_a, counts_a, edges_b, counts_b):
    all_a = all_b = 0.0
    for count in counts_a:
        all_a += count
    for count in counts_b:
        all_b += count
    # How far the walk has come: the next edge of each, and the share of the values up to the edge before it.
    i = j = 0
    below_a = below_b = 0.0
    area = before = 0.0
    x = min(edges_a[0], edges_b[0])
    while i < edges_a.size or j < edges_b.size:
        if j == edges_b.size or (i < edges_a.size and edges_a[i] <= edges_b[j]):
            point = edges_a[i]
        else:
            point = edges_b[j]
        reached_a, i, below_a = _reach(point, edges_a, counts_a, i, below_a)
        reached_b, j, below_b = _reach(point, edges_b, counts_b, j, below_b)
        difference = reached_a / all_a - reached_b / all_b
        width = point - x
        if before * difference < 0.0:  # the line crosses zero: two triangles
            size = abs(before) + abs(difference)
            area += width * (before * before + difference * difference) / size
        else:
            area += width * abs(before + difference)
        x, before = point, difference
    return area / 2.0


@serial
def _reach(point, edges, counts, i, below):
    """Return how many values lie up to a point, at most edge `i`; the next edge, and how many lie below that."""
    if i == edges.size:
        return below, i, below
    if point == edges[i]:
        if i > 0:
            below += counts[i - 1]
        return below, i + 1, below
    if i == 0:
        return 0.0, i, below
    part = (point - edges[i - 1]) / (edges[i] - edges[i - 1])
    return below + counts[i - 1] * part, i, below
