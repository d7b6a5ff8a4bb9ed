"""Interpolate inside a bucket: its values are taken to be spread evenly, unless it stands for one value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAVY, NARROW = 1 / 100, 2.0**-19
"""Share of the values, and of half their range: a row with more of one on less of the other stands for one value."""


def stands_for_one(edges: NDArray[np.float64], counts: NDArray[Any], i: int) -> float | None:
    """Return the value that bucket `i` stands for, such as an outline's zeros and saturated ends; None if for many.

    Such a bucket holds more than a hundredth of the values on less than ``2**-19`` of their range. The value is its left
    edge; for the last of several buckets, its right one.
    """
    left, right = float(edges[i]), float(edges[i + 1])
    # Halved, since the range may overflow.
    narrow = NARROW * (float(edges[-1]) / 2 - float(edges[0]) / 2)
    if right / 2 - left / 2 > narrow or counts[i] <= HEAVY * counts.sum():
        return None
    return right if 0 < i == counts.size - 1 else left


def value_at(rank: float, edges: NDArray[np.float64], counts: NDArray[Any]) -> float:
    """Return the value of this rank (0 to ``counts.sum()``), inside its bucket; the last count must not be 0."""
    if rank == 0:
        return float(edges[0])
    reached = np.cumsum(counts)
    # Fractional counts may add up to less than `rank`, by a rounding.
    i = min(int(np.searchsorted(reached, rank, side="left")), counts.size - 1)
    value = stands_for_one(edges, counts, i)
    if value is not None:
        return value
    part = float((rank - (reached[i] - counts[i])) / counts[i])
    left, right = float(edges[i]), float(edges[i + 1])
    if part >= 1:
        return right
    width = right - left
    value = left + part * width if math.isfinite(width) else left * (1 - part) + right * part
    return min(max(value, left), right)


def count_up_to(x: float, edges: NDArray[np.float64], counts: NDArray[Any]) -> float:
    """Return how many values are at most `x`, which lies within the edges but is not the last."""
    i = int(np.searchsorted(edges, x, side="right")) - 1
    value = stands_for_one(edges, counts, i)
    if value is not None:
        return float(counts[: i + (value <= x)].sum())
    left, right = float(edges[i]), float(edges[i + 1])
    width = right - left
    # Halved where the width of a bucket overflows.
    finite = math.isfinite(width)
    part = (x - left) / width if finite else (x / 2 - left / 2) / (right / 2 - left / 2)
    return float(counts[:i].sum().item() + part * counts[i].item())
