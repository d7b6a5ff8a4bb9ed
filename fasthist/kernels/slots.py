"""Slots: the finest classes of numbers that any result needs, found from the bits alone.

The bit patterns of a format, read as unsigned integers, are cut at every pattern where a result changes: at
TensorFlow's limits, at the powers of two, where a narrower format would lose the value, at zero, infinity and
NaN. Between two cuts lies a *slot*. Kernels count slots; every result is a sum of slots.

For float32 and float64 a *bit table* finds the slot without a branch, a logarithm or a search. The top bits of
a pattern (sign, exponent, five bits of mantissa) are its *cell*. A cell holds at most one cut, since it spans
at most 1/32 and TensorFlow's limits grow by 1.1, so with S low bits, ``low = pattern - (cell << S)``,

    slot = ((first slot of the cell << S) + (2**S - cut, or 0 without a cut) + low) >> S

where the addition carries into the next slot exactly when ``low >= cut``. What depends on the cell alone is
in the table, modulo the width of the pattern: ``slot = (table[cell] + pattern) >> S``. (Masking ``low`` out first
costs a tenth of the rate.) Four bits of mantissa would do for the limits alone; the fifth separates the limit
63889.6 from 65520, where float16 overflows.

Formats of 8 and 16 bits need no table: each pattern is a slot.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import tensorflow_buckets
from fasthist.dtypes import CAST_FORMATS, FORMATS, Format, cast_limits
from fasthist.hist import EXPONENTS

CELL_MANTISSA_BITS = 5

FINITE, ZERO, NAN, POSINF, NEGINF = range(5)
"""Kinds of slots."""


@dataclass(frozen=True, eq=False)
class Slots:
    """What each slot of a format means.

    `table` is the bit table, carrier[n_cells], or None for a format whose patterns are the slots; all others have an element
    for each slot. `values` is one value of the slot, the only one when patterns are slots; `kind` FINITE (and not zero),
    ZERO, NAN, POSINF or NEGINF; `bucket` TensorFlow's, 0 for NaN and infinities; `exponent` the index into
    ``Histogram.exponent_counts``, meaningful if FINITE. Bit ``2 * i`` of `losses` is set if a cast to ``CAST_FORMATS[i]``
    gives zero, bit ``2 * i + 1`` if it gives no finite number. `meaning` has the last four in a word, as kernels read them:
    `kind` in bits 0 to 2, `exponent` in 3 to 10, `losses` in 11 to 16, `bucket` above. (Each array passed to a kernel costs
    0.2 us of a call's 17.)
    """

    table: NDArray[np.unsignedinteger] | None
    values: NDArray[np.float64]
    kind: NDArray[np.uint8]
    bucket: NDArray[np.int16]
    exponent: NDArray[np.uint8]
    losses: NDArray[np.uint8]
    meaning: NDArray[np.uint32] = field(init=False)

    def __post_init__(self) -> None:
        parts = ((self.kind, 0), (self.exponent, 3), (self.losses, 11), (self.bucket, 17))
        words = [part.astype(np.uint32) << np.uint32(shift) for part, shift in parts]
        object.__setattr__(self, "meaning", np.bitwise_or.reduce(words))


def low_bits(row: Format) -> int:
    """Return the number of bits of a pattern below its cell: S above."""
    return row.mantissa - CELL_MANTISSA_BITS


@functools.cache
def slots_of(name: str) -> Slots:
    """Return the slots of the format called `name`: float32, float64 or one of at most 16 bits."""
    row = FORMATS[name]
    if row.is_code:
        return _classify(None, row.decode(np.arange(1 << row.bits, dtype=row.carrier)))
    cuts = cuts_of(row)
    starts = np.insert(cuts, 0, 0).astype(row.carrier)
    with np.errstate(invalid="ignore"):  # the first NaN is a signalling one
        values = starts.view(f"f{row.bits // 8}").astype(np.float64)
    return _classify(bit_table(cuts, row), values)


def _classify(table: NDArray[np.unsignedinteger] | None, values: NDArray[np.float64]) -> Slots:
    kind = np.full(values.size, FINITE, dtype=np.uint8)
    kind[values == 0] = ZERO
    kind[np.isnan(values)] = NAN
    kind[values == np.inf] = POSINF
    kind[values == -np.inf] = NEGINF
    finite = np.where(np.isfinite(values), values, 0.0)
    magnitude = np.abs(finite)
    exponent = np.clip(np.frexp(magnitude)[1] - 1, EXPONENTS[0], EXPONENTS[-1]) - EXPONENTS[0]
    losses = np.zeros(values.size, dtype=np.uint8)
    for i, name in enumerate(CAST_FORMATS):
        limits = cast_limits(name)
        losses |= (magnitude <= limits.zero_up_to).astype(np.uint8) << np.uint8(2 * i)
        losses |= (magnitude >= limits.lost_from).astype(np.uint8) << np.uint8(2 * i + 1)
    bucket = tensorflow_buckets().index(finite).astype(np.int16)
    return Slots(table, values, kind, bucket, exponent.astype(np.uint8), losses)


def cuts_of(row: Format) -> NDArray[np.uint64]:
    """Return the patterns, except 0, where a new slot begins, in the order of unsigned integers."""
    sign = 1 << (row.bits - 1)
    infinity = ((1 << (row.bits - 1 - row.mantissa)) - 1) << row.mantissa
    above_zero = tensorflow_buckets().edges
    above_zero = above_zero[above_zero > 0]
    largest = float(np.finfo(f"f{row.bits // 8}").max)
    above_zero = above_zero[above_zero <= largest]
    lost = [cast_limits(name).lost_from for name in CAST_FORMATS]
    zeroed = [cast_limits(name).zero_up_to for name in CAST_FORMATS]
    powers = [2.0**e for e in EXPONENTS[1:] if 2.0**e <= largest]
    # The last bucket holds its right edge, the largest double: no cut there on the positive side.
    from_here = _patterns([*above_zero[above_zero < np.finfo(np.float64).max], *powers, *lost], row)
    next_above = _patterns(zeroed, row, strictly=True)
    # On the negative side bucket [-b, -a) holds magnitudes above a: the cut is the first beyond a.
    mirrored = _patterns(above_zero[above_zero < np.finfo(np.float64).max], row, strictly=True)
    magnitude = {1, infinity, infinity + 1}
    positive = magnitude | from_here | next_above
    negative = magnitude | mirrored | _patterns([*powers, *lost], row) | next_above
    return np.array(sorted(positive | {sign} | {sign | cut for cut in negative}), dtype=np.uint64)


def _patterns(
    values: list[float] | NDArray[np.float64], row: Format, *, strictly: bool = False
) -> set[int]:
    """Return the patterns of the format's smallest numbers at least, or strictly above, positive values."""
    exact = np.asarray(values, dtype=np.float64)
    rounded = exact.astype(f"f{row.bits // 8}")
    pattern = rounded.view(row.carrier).astype(np.uint64)
    back = rounded.astype(np.float64)
    below = (back <= exact) if strictly else (back < exact)
    return {int(cut) for cut in pattern + below.astype(np.uint64)}


def bit_table(cuts: NDArray[np.uint64], row: Format) -> NDArray[np.unsignedinteger]:
    """Make a format's bit table for such patterns; no cell may hold two of them inside."""
    shift = np.uint64(low_bits(row))
    size = np.uint64(1) << shift
    begins = np.arange(1 << (row.bits - low_bits(row)), dtype=np.uint64) << shift
    first = np.searchsorted(cuts, begins, side="right")
    beyond = np.searchsorted(cuts, begins + (size - np.uint64(1)), side="right")
    if (beyond - first).max() > 1:
        cell = int(np.argmax(beyond - first))
        msg = f"cell {cell} of {row.name} holds more than one cut; it needs more mantissa bits"
        raise AssertionError(msg)
    carry = np.zeros(begins.size, dtype=np.uint64)
    inside = np.flatnonzero(beyond > first)
    carry[inside] = size - (cuts[first[inside]] - begins[inside])
    # Unsigned: a difference below zero wraps, and the kernel's addition wraps it back.
    return ((first.astype(np.uint64) << shift) + carry - begins).astype(row.carrier)
