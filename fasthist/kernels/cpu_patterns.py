"""Counting every bit pattern of formats of 8 and 16 bits, on a CPU. The same manner of loops as in `cpu`."""

from __future__ import annotations

import numpy as np

from fasthist.kernels.jit import serial

_ONE = np.uint32(1)


@serial
def count_codes8(patterns, counts):
    """Count each pattern of uint8[n] `patterns` into uint32[SUBTABLES, 256] `counts`."""
    c0, c1, c2, c3 = counts[0], counts[1], counts[2], counts[3]
    byte = np.uint64(0xFF)
    words = patterns[: patterns.size & ~7].view(np.uint64)
    for i in range(words.size):
        w = words[i]
        c0[w & byte] += _ONE
        c1[(w >> np.uint64(8)) & byte] += _ONE
        c2[(w >> np.uint64(16)) & byte] += _ONE
        c3[(w >> np.uint64(24)) & byte] += _ONE
        c0[(w >> np.uint64(32)) & byte] += _ONE
        c1[(w >> np.uint64(40)) & byte] += _ONE
        c2[(w >> np.uint64(48)) & byte] += _ONE
        c3[w >> np.uint64(56)] += _ONE
    for i in range(patterns.size & ~7, patterns.size):
        c0[patterns[i]] += _ONE


@serial
def count_codes16(patterns, counts):
    """Count each pattern of uint16[n] `patterns` into uint32[2, 65536] `counts`."""
    c0, c1 = counts[0], counts[1]
    half = np.uint64(0xFFFF)
    words = patterns[: patterns.size & ~3].view(np.uint64)
    for i in range(words.size):
        w = words[i]
        c0[w & half] += _ONE
        c1[(w >> np.uint64(16)) & half] += _ONE
        c0[(w >> np.uint64(32)) & half] += _ONE
        c1[w >> np.uint64(48)] += _ONE
    for i in range(patterns.size & ~3, patterns.size):
        c0[patterns[i]] += _ONE
