"""The bit table of `fasthist.kernels.slots`, made small enough for the memory that a block of CUDA threads shares.

Positive and negative float32 numbers are cut at the same magnitudes, since no limit of TensorFlow is a float32. So half
the table, that of the magnitudes, serves both signs: 32 KiB. Every other format is brought to float32 first. Formats
of at most 16 bits fit into it. Of float64, and of integers of 32 and 64 bits by way of it, the magnitude is rounded
towards zero; that changes the slot only of what rounds to the last number before a cut, and such numbers are compared
with the cut itself.

Slots are those of float64: of the positive numbers by magnitude, then of the negative ones.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from fasthist.dtypes import FORMATS
from fasthist.kernels.slots import bit_table, cuts_of, low_bits

SHIFT = low_bits(FORMATS["float32"])

CELLS = 1 << (31 - SHIFT)

SIGN = 1 << 63

TINY = 0x3810000000000000
"""The float64 pattern of 2**-126: all smaller magnitudes but zero are in one slot."""

BEYOND = 0x47F0000000000000
"""That of 2**128, which float32 has no number for: it and all larger ones, infinity and NaN get the three marks."""

MARK_HUGE, MARK_INFINITE, MARK_NAN = 0x7F800000, 0x7F840000, 0x7F880000


@functools.cache
def _magnitudes() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Give float64's cuts among the positive numbers, and those among the negative ones, without the sign."""
    cuts = cuts_of(FORMATS["float64"])
    positive, negative = cuts[cuts < SIGN], cuts[cuts > SIGN] - np.uint64(SIGN)
    assert positive.size == negative.size
    return positive, negative


N_MAGNITUDES = _magnitudes()[0].size + 1
N_SLOTS = 2 * N_MAGNITUDES


@functools.cache
def exact_cuts() -> NDArray[np.uint64]:
    """Give, for each slot, the magnitude from which on a float64 is in the next one: uint64[N_SLOTS]."""
    return np.concatenate([np.append(cuts, np.uint64(SIGN)) for cuts in _magnitudes()])


@functools.cache
def magnitude_table(*, wide: bool) -> NDArray[np.uint32]:
    """Give the half table: uint32[CELLS].

    Parameters
    ----------
    wide : bool
        Whether it is for float64 rounded to float32, with the three marks, or for float32.
    """
    positive, negative = (_as_float32(cuts, wide=wide) for cuts in _magnitudes())
    assert np.array_equal(positive, negative)
    return bit_table(positive, FORMATS["float32"])[:CELLS].astype(np.uint32)


def _as_float32(cuts: NDArray[np.uint64], *, wide: bool) -> NDArray[np.uint64]:
    """Give the patterns of the smallest float32 at least as large as each cut."""
    inside = cuts[cuts < BEYOND]
    exact = inside.view(np.float64)
    rounded = exact.astype(np.float32)
    found = rounded.view(np.uint32).astype(np.uint64) + (rounded < exact)
    # What is left are the cuts at 2**128, infinity and NaN.
    marks = [MARK_HUGE, MARK_INFINITE, MARK_NAN] if wide else [0x7F800000, 0x7F800000, 0x7F800001]
    return np.append(found, np.array(marks, dtype=np.uint64))
