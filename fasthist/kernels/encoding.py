"""Encode outlines as the older form of a histogram, in protobuf's wire format: all of an event in one call."""

from __future__ import annotations

import numpy as np

from fasthist.kernels.jit import serial
from fasthist.kernels.outlines import lay_out


@serial
def encode(rows, begins, moments, first, own_keys, most, out, ends):
    """Encode outlines as `fasthist.events.messages.histogram_value` does, in 3 us each, not 7.

    `rows`, float64[k, 3], are left edge, right edge and count of each row, one outline after the other; `begins`,
    int64[n + 1], where each outline begins, and the last ends. `moments`, float64[n, 7], are minimum, maximum, number of
    values, sum, sum of squares; number of zeros and sum of squared deviations, NaN where unknown. `first`, at most 8, is the
    number of the message's first field, which the next four moments, limits and counts follow; the last two moments begin
    with `own_keys`, uint8[2, 2]. `most` is how many limits this form may have. Fills `out`, uint8[79 * n + 32 * k], which is
    always enough, with the messages, and `ends`, int64[n], with where each ends; what this form cannot hold, for its length
    or for readers who take edges for float32, takes no bytes.

    Numbers are written as memory holds them: little-endian, as on every machine that Numba compiles for.
    """
    longest = 0
    for i in range(ends.size):
        longest = max(longest, begins[i + 1] - begins[i])
    limits = np.empty(2 * longest + 1)
    counts = np.empty(2 * longest + 1)
    doubles = np.empty(7)
    doubles_raw = doubles.view(np.uint8)
    at = 0
    for i in range(ends.size):
        size, survives = lay_out(rows[begins[i] : begins[i + 1]], limits, counts)
        if survives and size <= most:
            doubles[:] = moments[i]
            for j in range(5):
                # proto3 leaves +0.0 out, not -0.0.
                if doubles[j] != 0.0 or np.signbit(doubles[j]):
                    out[at] = (first + j) << 3 | 1
                    out[at + 1 : at + 9] = doubles_raw[8 * j : 8 * j + 8]
                    at += 9
            for j in range(2):
                out[at] = (first + 5 + j) << 3 | 2
                at += 1
                length = 8 * size
                while length > 127:
                    out[at] = length & 127 | 128
                    at += 1
                    length >>= 7
                out[at] = length
                at += 1
                raw = (limits if j == 0 else counts).view(np.uint8)
                out[at : at + 8 * size] = raw[: 8 * size]
                at += 8 * size
            for j in range(2):
                if not np.isnan(doubles[5 + j]):
                    out[at : at + 2] = own_keys[j]
                    out[at + 2 : at + 10] = doubles_raw[8 * (5 + j) : 8 * (6 + j)]
                    at += 10
        ends[i] = at
