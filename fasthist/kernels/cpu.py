"""Counting on a CPU: serial loops that release the GIL, compiled by Numba on first use.

Arrays come in as their carriers (unsigned integers of the same width), contiguous and in native byte order. No
loop allocates more than a block, none writes to its input, and none branches on a value.

What was refused, and why: Numba's ``prange`` (one thread pool for the process, which aborts under two callers or
dies in a forked child, and inlining loses the vectorisation); ``fastmath=True`` (it assumes that there is no NaN);
loops over ``range(a, b)`` of a longer array (the check for negative indices stops vectorisation: slices are taken
first).
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from fasthist.kernels.chunks import CHUNK
from fasthist.kernels.jit import reduction, serial

BLOCK = 1 << 11
"""Elements that stay in the first-level cache between the moments' loop and the counts' loop."""

SUBTABLES = 4
"""Copies of the counters, used in turn: an increment need not wait for the store of the one before."""

SUMS = 7
"""Columns of a chunk's sums; see `tally_float32`."""

_FAR = 2.0**-16
"""Least share of a block's sum of squares that its squared deviations must be, or the difference of sums is too inexact.

Above it, as is usual, the loss is about 1e-11 of the standard deviation, and no value is read again.
"""

_INT = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()

_ONE = np.uint32(1)
_S32 = np.uint32(18)
_S64 = np.uint64(47)
_HALF = np.uint64(32)
_HIGH_CELL = np.uint64(32 + 18)


if numba.config.DISABLE_JIT:

    def _prefetch(array, index):
        """Do nothing: a hint changes no answer."""

else:

    @intrinsic
    def _prefetch(_typing_context, array, index):
        """Ask for the cache line of ``array[index]``, which may lie beyond the array's end.

        The loop of the moments waits for memory and the loop of the counts does not: fetching the next block
        while this one is counted lets the first run from the cache.
        """

        def generate(context, builder, signature, arguments):
            data = make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), _BYTES)
            kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT, _INT, _INT])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            # For reading, kept in all caches, data (not instructions).
            builder.call(hint, [address, _INT(0), _INT(3), _INT(1)])
            return context.get_dummy_value()

        return types.void(array, index), generate


# -- squared deviations from the mean ------------------------------------------------------------------------


@reduction
def _deviations_from(values, center):
    """Sum the finite values' deviations from `center`, which is near their mean, and the squares of these deviations."""
    total = 0.0
    squares = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        deviation = value - center if abs(value) < np.inf else 0.0
        total += deviation
        squares += deviation * deviation
    return total, squares


@serial
def _add_deviations(values, total, squares, num, before):
    """Add a block's squared deviations to those of the blocks before it (Chan, Golub, LeVeque 1983).

    The block float32[n] or float64[n] has `num` finite values with sum `total` and sum of squares `squares`; it is read
    again, from the cache, only where its mean is far from zero. `before`, and the result, are (sum of squared deviations
    from the mean, number of values, mean of the first block, sum of the deviations from that mean): without the last two,
    means that hardly differ could not be told apart.
    """
    deviations, num_before, center, away = before
    if num == 0:
        return before
    mean = total / num
    lost = 0.0
    own = np.inf
    if np.isfinite(squares):
        own = squares - mean * total
        if own < squares * _FAR:
            lost, own = _deviations_from(values, mean)
            own -= lost * lost / num
    if num_before == 0:
        return max(own, 0.0), num, mean, lost
    lost += (mean - center) * num
    apart = lost / num - away / num_before
    deviations += apart * apart * (num * (num_before / (num + num_before))) + max(own, 0.0)
    return deviations, num_before + num, center, away + lost


@serial
def _store_deviations(block, row):
    """Fill columns 3 to 6 of a chunk's sums; round its sum again where the values are far from zero."""
    deviations, num, center, away = block
    if deviations < row[1] * _FAR:
        row[0] = num * center + away
    row[3] = np.inf if np.isnan(deviations) else deviations  # the means' difference overflows
    row[4] = num
    row[5] = center
    row[6] = away


# -- float32 ------------------------------------------------------------------------------------------------


@reduction
def _moments_float32(keys, values):
    """Return the extreme keys, sum, sum of squares and number of values, which must all be finite.

    Extremes are taken of integer keys, which order as their floats do, since LLVM vectorises those.
    """
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x80000000)
    total = 0.0
    squares = 0.0
    for i in range(keys.size):
        key = np.int32(keys[i] ^ ((keys[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        low = min(low, key)
        high = max(high, key)
        value = np.float64(values[i])
        total += value
        squares += value * value
    return low, high, total, squares, keys.size


@serial
def _finite_moments_float32(keys, values):
    """Do the same, skipping values that are not finite."""
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x80000000)
    total = 0.0
    squares = 0.0
    num = 0
    for i in range(keys.size):
        if (keys[i] & np.int32(0x7F800000)) != np.int32(0x7F800000):
            key = np.int32(keys[i] ^ ((keys[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            low = min(low, key)
            high = max(high, key)
            value = np.float64(values[i])
            total += value
            squares += value * value
            num += 1
    return low, high, total, squares, num


@serial
def _count_float32(patterns, table, counts):
    c0, c1, c2, c3 = counts[0], counts[1], counts[2], counts[3]
    # Two elements in one load, a tenth faster than one by one.
    pairs = patterns[: patterns.size & ~15].view(np.uint64)
    for line in range(pairs.size // 8):
        _prefetch(pairs, 8 * line + BLOCK // 2)
        for i in range(4 * line, 4 * line + 4):
            p = pairs[2 * i]
            q = pairs[2 * i + 1]
            a = np.uint32(p)
            b = np.uint32(p >> _HALF)
            c = np.uint32(q)
            d = np.uint32(q >> _HALF)
            c0[np.uint32(table[a >> _S32] + a) >> _S32] += _ONE
            c1[np.uint32(table[p >> _HIGH_CELL] + b) >> _S32] += _ONE
            c2[np.uint32(table[c >> _S32] + c) >> _S32] += _ONE
            c3[np.uint32(table[q >> _HIGH_CELL] + d) >> _S32] += _ONE
    for i in range(patterns.size & ~15, patterns.size):
        a = patterns[i]
        c0[np.uint32(table[a >> _S32] + a) >> _S32] += _ONE


@serial
def tally_float32(patterns, first, last, table, counts, sums):
    """Count the slots of chunks `first` to `last` - 1 of uint32[n] `patterns`, and sum each chunk.

    `table` is uint32[2**14], see `fasthist.kernels.slots`; chunks have `CHUNK` elements, the array's last maybe fewer. Adds to
    `counts`, uint32[SUBTABLES, n_slots], which take fewer than 2**32 elements between two calls of `fold`. Row ``c`` of
    `sums`, float64[n_chunks, SUMS], gets the sum, the sum of squares, 0, the sum of squared deviations from the chunk's
    mean, the number of finite values, a number near the mean, and the sum of the deviations from that number. Returns the
    extremes of the finite values; inf and -inf if there is none.
    """
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x80000000)
    for chunk in range(first, last):
        begin = chunk * CHUNK
        end = min(begin + CHUNK, patterns.size)
        total = 0.0
        squares = 0.0
        deviations = (0.0, 0, 0.0, 0.0)
        for start in range(begin, end, BLOCK):
            block = patterns[start : min(start + BLOCK, end)]
            moments = _moments_float32(block.view(np.int32), block.view(np.float32))
            # A square of a finite float32 cannot overflow a float64.
            if not np.isfinite(moments[3]):
                moments = _finite_moments_float32(block.view(np.int32), block.view(np.float32))
            low = min(low, moments[0])
            high = max(high, moments[1])
            total += moments[2]
            squares += moments[3]
            deviations = _add_deviations(
                block.view(np.float32), moments[2], moments[3], moments[-1], deviations
            )
            _count_float32(block, table, counts)
        sums[chunk, 0] = total
        sums[chunk, 1] = squares
        sums[chunk, 2] = 0.0
        _store_deviations(deviations, sums[chunk])
    if low > high:
        return np.inf, -np.inf
    ends = np.array([low, high], dtype=np.int32)
    for i in range(2):
        ends[i] = np.int32(ends[i] ^ ((ends[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    # Adding zero turns -0.0 into 0.0.
    return np.float64(ends.view(np.float32)[0]) + 0.0, np.float64(ends.view(np.float32)[1]) + 0.0


# -- float64, and integers of 32 and 64 bits by way of it ----------------------------------------------------


@reduction
def _moments_float64(keys, values):
    low = np.int64(0x7FFFFFFFFFFFFFFF)
    high = ~low
    total = 0.0
    squares = 0.0
    for i in range(keys.size):
        key = keys[i] ^ ((keys[i] >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))
        low = min(low, key)
        high = max(high, key)
        total += values[i]
        squares += values[i] * values[i]
    return low, high, total, squares, 0.0, keys.size


@serial
def _finite_moments_float64(keys, values):
    """Skip values that are not finite, and sum in units of 2**64 if the sum might overflow on the way."""
    low = np.int64(0x7FFFFFFFFFFFFFFF)
    high = ~low
    total = 0.0
    squares = 0.0
    scaled = 0.0
    num = 0
    for i in range(keys.size):
        if (keys[i] & np.int64(0x7FF0000000000000)) != np.int64(0x7FF0000000000000):
            key = keys[i] ^ ((keys[i] >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))
            low = min(low, key)
            high = max(high, key)
            if abs(values[i]) < 2.0**900:
                total += values[i]
            else:
                scaled += values[i] * 2.0**-64
            squares += values[i] * values[i]
            num += 1
    return low, high, total, squares, scaled, num


@serial
def _count_float64(patterns, table, counts):
    c0, c1, c2, c3 = counts[0], counts[1], counts[2], counts[3]
    for line in range(patterns.size // 8):
        _prefetch(patterns, 8 * line + BLOCK)
        for i in range(2 * line, 2 * line + 2):
            a = patterns[4 * i]
            b = patterns[4 * i + 1]
            c = patterns[4 * i + 2]
            d = patterns[4 * i + 3]
            c0[(table[a >> _S64] + a) >> _S64] += _ONE
            c1[(table[b >> _S64] + b) >> _S64] += _ONE
            c2[(table[c >> _S64] + c) >> _S64] += _ONE
            c3[(table[d >> _S64] + d) >> _S64] += _ONE
    for i in range(patterns.size & ~7, patterns.size):
        a = patterns[i]
        c0[(table[a >> _S64] + a) >> _S64] += _ONE


@serial
def _from_key(key):
    bits = key ^ ((key >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))
    pattern = np.array([bits], dtype=np.int64)
    return pattern.view(np.float64)[0] + 0.0


@serial
def tally_float64(patterns, first, last, table, counts, sums):
    """Do what `tally_float32` does, for uint64[n] patterns and a uint64[2**17] table.

    In a block whose sum of squares overflows, values of 2**900 and more are summed in units of 2**64 in ``sums[chunk, 2]``,
    so that their sum cannot overflow before it is complete.
    """
    low = np.int64(0x7FFFFFFFFFFFFFFF)
    high = ~low
    for chunk in range(first, last):
        begin = chunk * CHUNK
        end = min(begin + CHUNK, patterns.size)
        total = 0.0
        squares = 0.0
        deviations = (0.0, 0, 0.0, 0.0)
        scaled = 0.0
        for start in range(begin, end, BLOCK):
            block = patterns[start : min(start + BLOCK, end)]
            moments = _moments_float64(block.view(np.int64), block.view(np.float64))
            if not np.isfinite(moments[3]):
                moments = _finite_moments_float64(block.view(np.int64), block.view(np.float64))
            low = min(low, moments[0])
            high = max(high, moments[1])
            total += moments[2]
            squares += moments[3]
            scaled += moments[4]
            deviations = _add_deviations(
                block.view(np.float64), moments[2], moments[3], moments[-1], deviations
            )
            _count_float64(block, table, counts)
        sums[chunk, 0] = total
        sums[chunk, 1] = squares
        sums[chunk, 2] = scaled
        _store_deviations(deviations, sums[chunk])
    if low > high:
        return np.inf, -np.inf
    return _from_key(low), _from_key(high)


@serial
def _widen(values, widened):
    """Convert 64-bit integers to float64 in the same bucket and of the same exponent.

    Rounded down, an integer below a limit never reaches it: a limit above 2**53 is itself an integer, so
    ``limit <= value`` exactly if ``limit <= widened value``. But down is away from zero for negative integers, which may so
    reach a power of two; these are rounded up, since no limit is a power of two.
    """
    for i in range(values.size):
        # Both halves are exact; the sum rounds, and what it lost is exact again (Dekker's Fast2Sum).
        upper = np.float64(values[i] >> 32) * 2.0**32
        lower = np.float64(values[i] & 0xFFFFFFFF)
        wide = upper + lower
        lost = lower - (wide - upper)
        if lost < 0.0:
            wide = np.nextafter(wide, -np.inf)
        if lost != 0.0 and math.frexp(wide)[0] == -0.5:
            wide = np.nextafter(wide, 0.0)
        widened[i] = wide


@serial
def tally_integers(values, first, last, exact, table, counts, sums):
    """Do what `tally_float64` does, for integers of 32 or 64 bits; return the extremes as integers.

    `exact` says whether float64 holds every number of the type.
    """
    widened = np.empty(CHUNK, dtype=np.float64)
    low = values[first * CHUNK]
    high = low
    for chunk in range(first, last):
        part = values[chunk * CHUNK : min((chunk + 1) * CHUNK, values.size)]
        for i in range(part.size):
            low = min(low, part[i])
            high = max(high, part[i])
        if exact:
            for i in range(part.size):
                widened[i] = np.float64(part[i])
        else:
            _widen(part, widened)
        patterns = widened[: part.size].view(np.uint64)
        tally_float64(patterns, 0, 1, table, counts, sums[chunk : chunk + 1])
    return low, high


# -- from slots to results -----------------------------------------------------------------------------------


@serial
def fold(counts, totals):
    """Add the subtables of uint32[t, n] `counts` to uint64[n] `totals`, and clear them."""
    for table in range(counts.shape[0]):
        row = counts[table]
        for i in range(row.size):
            totals[i] += np.uint64(row[i])
            row[i] = np.uint32(0)


@serial
def classify(totals, meaning, kinds, buckets, exponents, cast_losses):
    """Distribute uint64[n_slots] `totals` over what the slots mean (uint32[n_slots], see `fasthist.kernels.slots.Slots`).

    Adds to `kinds` uint64[5], `buckets` uint64[n_buckets], `exponents` uint64[256] and `cast_losses` uint64[6].
    """
    for slot in range(totals.size):
        count = totals[slot]
        if count == 0:
            continue
        word = meaning[slot]
        kind = word & np.uint32(7)
        kinds[kind] += count
        if kind <= 1:
            buckets[word >> np.uint32(17)] += count
        if kind == 0:
            exponents[(word >> np.uint32(3)) & np.uint32(255)] += count
            for bit in range(6):
                if (word >> np.uint32(11 + bit)) & np.uint32(1):
                    cast_losses[bit] += count
