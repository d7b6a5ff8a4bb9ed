"""Turn what a device has counted into `Histogram` values, whichever device it was."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets
from fasthist.dtypes import Format
from fasthist.hist import Histogram, Outline
from fasthist.kernels.looks import EXPONENT_COLUMNS, KINDS, LIMITS, LOSSES, Look
from fasthist.kernels.slots import FINITE, NAN, NEGINF, POSINF, ZERO, slots_of

Placed = tuple[NDArray[np.uint64], int, int]
"""Counts of buckets, and those below the first and above the last edge."""


def histogram_of(look: Look, buckets: Buckets, placed: Placed, outline: Outline) -> Histogram:
    """Put together the results of one array."""
    counts, below, above = placed
    kinds = look.row[KINDS].tolist()
    num = kinds[FINITE] + kinds[ZERO]
    return Histogram(
        buckets,
        counts=counts,
        below_count=below,
        above_count=above,
        num=num,
        min=look.low if num else None,
        max=look.high if num else None,
        sum=look.total,
        sum_squares=look.squares,
        zero_count=kinds[ZERO],
        nan_count=kinds[NAN],
        posinf_count=kinds[POSINF],
        neginf_count=kinds[NEGINF],
        exponent_counts=look.row[EXPONENT_COLUMNS],
        cast_losses=look.row[LOSSES].reshape(3, 2),
        outlined=outline,
        squared_deviations=look.deviations,
    )


def in_limits(look: Look) -> Placed:
    """Return the counts of TensorFlow's buckets, which every look has."""
    return look.row[LIMITS], 0, 0


def place(patterns: NDArray[np.uint64], row: Format, buckets: Buckets) -> Placed:
    """Put the counts of patterns into buckets by the buckets' own definition."""
    slots = slots_of(row.name)
    seen = np.flatnonzero((patterns > 0) & (slots.kind <= ZERO))
    placed = np.zeros(len(buckets) + 2, dtype=np.uint64)
    np.add.at(placed, buckets.index(slots.values[seen]) + 1, patterns[seen])
    return placed[1:-1], int(placed[0]), int(placed[-1])


def between(counted: NDArray[np.uint64]) -> Placed:
    """Split what was counted between k + 1 edges: below, buckets, above, and what is not finite."""
    return counted[1:-2], int(counted[0]), int(counted[-2])


def ends_of(look: Look) -> tuple[float, float]:
    """Return the range for uniform buckets; 0 to 1 without values."""
    return (look.low, look.high) if look.low <= look.high else (0.0, 1.0)


def as_float32(codes: NDArray[Any], row: Format) -> NDArray[np.uint32]:
    """Return the float32 patterns of numbers of a format of few patterns, which float32 holds exactly."""
    codes = codes.astype(row.carrier, copy=False)
    patterns: NDArray[np.uint32]
    if row.name == "bfloat16":
        # The upper half of a float32: a shift takes a third of the look-up's time.
        patterns = np.left_shift(codes, 16, dtype=np.uint32)
    else:
        # Not table[codes], which takes three times as long.
        patterns = np.take(_as_float32(row.name), codes)
    return patterns


@functools.cache
def _as_float32(name: str) -> NDArray[np.uint32]:
    """Return the float32 pattern of every value of a format of at most 16 bits."""
    return slots_of(name).values.astype(np.float32).view(np.uint32)
