"""Counting on a GPU: what `fasthist.kernels.cpu` does, for a whole list of tensors in one launch.

Blocks stay: each takes a contiguous range of chunks, which may begin in one tensor and end in another, and keeps its
counters in shared memory until the tensor changes. Then it adds them to the tensor's row. Which block counts which chunk
changes no count; and the sums of a chunk, which are written one by one, do not depend on it either.

What was refused, and why: several copies of the counters (adding a constant 1 whose result nobody reads becomes
``ATOMS.POPC.INC``, which merges the lanes of a warp that meet); 64-bit or float atomics in shared memory (loops of
compare-and-swap); warp shuffles (the simulator has none, and a chunk is reduced once in 65,536 elements).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fasthist.dtypes import FORMATS
from fasthist.kernels.cuda.formats import NARROW, float32_pattern, float64_parts, key_of, number_of
from fasthist.kernels.cuda.plan import COLUMNS, FIRST, ROW, SUMS
from fasthist.kernels.cuda.primitives import (
    THREADS,
    as_float32,
    as_float64,
    bits64,
    cuda,
    device,
    kernel,
    larger32,
    smaller32,
    smaller_u32,
)
from fasthist.kernels.cuda.slots import (
    BEYOND,
    CELLS,
    MARK_HUGE,
    MARK_INFINITE,
    MARK_NAN,
    N_MAGNITUDES,
    N_SLOTS,
    SHIFT,
    SIGN,
    TINY,
)
from fasthist.kernels.cuda.walk import end_of, part_of, reduce_max, reduce_sum, tensor_at, walker

MOST_SHARED = 8192
"""Counters of `between` that fit into shared memory; more are kept in global memory."""

BLOCKS = 3
"""Blocks in one processor that hide the latency of memory: 1,536 threads have 24 KiB on the way. They get 40 registers a
thread without a spill; four would get 32, with 40 bytes spilled."""

SHARED = 47 << 10
"""Bytes of shared memory that a block of `tally` takes, with the 1 KiB that the hardware adds."""

_COLUMNS = 32
"""Copies of the counters of 256 patterns, one for each lane: no two lanes of a warp ever meet."""

_CODES = 256 * _COLUMNS

_CELLS, _N_SLOTS = np.int32(CELLS), np.int32(N_SLOTS)
_U32 = np.uint32
_U64 = np.uint64
_ONE = _U32(1)
_WIDTH = _U64(COLUMNS)
_FIRST, _ROW, _SUMS = map(_U64, (FIRST, ROW, SUMS))
_ALL = _U64(0xFFFFFFFFFFFFFFFF)
_SHIFT = _U32(SHIFT)
_SECOND_SIGN = _U32(N_MAGNITUDES)
_LOW_BITS = _U32((1 << SHIFT) - 1)
_LAST_CELL = _U32(CELLS - 1)
_TO_SECOND_SIGN = _U32(N_MAGNITUDES - CELLS + (1 << 32))
_MAGNITUDE32 = _U32(0x7FFFFFFF)
_INFINITY32 = _U32(0x7F800000)
_MAGNITUDE = _U64(SIGN - 1)
_INFINITY = _U64(0x7FF0000000000000)
_LARGE = _U64((1023 + 900) << 52)  # 2**900
_BIAS = _U64((1023 - 127) << 23)


def _tally_narrow(name: str) -> tuple[Any, Any]:
    """Return the functions that count one element, and four."""
    pattern_of = float32_pattern(name)

    @device
    def slot_of(table, pattern):
        # The sign stays in it, as bit 13 of the sum: to take it out and add its slots later costs 3 instructions more.
        moved = _U32(_U32(table[_U32(pattern >> _SHIFT) & _LAST_CELL] + pattern) >> _SHIFT)
        return smaller_u32(moved, _U32(moved + _TO_SECOND_SIGN))

    @device
    def summed(pattern, state):
        low, high, total, squares, scaled = state
        if _U32(pattern & _MAGNITUDE32) < _INFINITY32:
            number = as_float32(pattern)
            value = np.float64(number)
            low, high = smaller32(low, number), larger32(high, number)
            total += value
            squares += value * value
        return low, high, total, squares, scaled

    @device
    def one(raw, tables, state):
        table, counts, _ = tables
        pattern = pattern_of(raw)
        cuda.atomic.add(counts, slot_of(table, pattern), _ONE)
        return summed(pattern, state)

    @device
    def four(a, b, c, d, tables, state):
        table, counts, _ = tables
        a, b, c, d = pattern_of(a), pattern_of(b), pattern_of(c), pattern_of(d)
        # All look-ups before the first increment: behind it, each would wait, as it might read what was incremented.
        slot_a, slot_b = slot_of(table, a), slot_of(table, b)
        slot_c, slot_d = slot_of(table, c), slot_of(table, d)
        cuda.atomic.add(counts, slot_a, _ONE)
        cuda.atomic.add(counts, slot_b, _ONE)
        cuda.atomic.add(counts, slot_c, _ONE)
        cuda.atomic.add(counts, slot_d, _ONE)
        first, second, third, fourth = as_float32(a), as_float32(b), as_float32(c), as_float32(d)
        # Finite if all four are, as float64 holds it: one test for four, where one of each took 2 instructions more.
        partial = np.float64(first) + np.float64(second) + np.float64(third) + np.float64(fourth)
        if abs(partial) < np.inf:
            low, high, total, squares, scaled = state
            low = smaller32(smaller32(smaller32(smaller32(low, first), second), third), fourth)
            high = larger32(larger32(larger32(larger32(high, first), second), third), fourth)
            squares += np.float64(first) * np.float64(first)
            squares += np.float64(second) * np.float64(second)
            squares += np.float64(third) * np.float64(third)
            squares += np.float64(fourth) * np.float64(fourth)
            return low, high, total + partial, squares, scaled
        return summed(d, summed(c, summed(b, summed(a, state))))

    # Of 16 bits, the other half of the vector waits in two registers more, which spills.
    return one, four if name == "float32" else None


def _tally_wide(name: str) -> Any:
    parts = float64_parts(name)
    floats = name == "float64"

    @device
    def one(raw, tables, state):
        table, counts, exact = tables
        low, high, total, squares, scaled = state
        pattern, value, key = parts(raw)
        magnitude = pattern & _MAGNITUDE
        if magnitude < _U64(TINY):
            short = _ONE if magnitude else _U32(0)
        elif magnitude < _U64(BEYOND):
            short = _U32((magnitude >> _U64(29)) - _BIAS)
        elif magnitude < _INFINITY:
            short = _U32(MARK_HUGE)
        else:
            short = _U32(MARK_INFINITE) if magnitude == _INFINITY else _U32(MARK_NAN)
        moved = _U32(table[short >> _SHIFT] + short)
        slot = _U32(moved >> _SHIFT)
        if pattern != magnitude:
            slot = _U32(slot + _SECOND_SIGN)
        # The last float32 before a cut stands for numbers on both sides of it; so does the last of a cell, for none.
        if (moved & _LOW_BITS) == _LOW_BITS and magnitude >= exact[slot]:
            slot = _U32(slot + _ONE)
        cuda.atomic.add(counts, slot, _ONE)
        if not floats or magnitude < _INFINITY:
            low = min(low, key)
            high = max(high, key)
            if not floats or magnitude < _LARGE:
                total += value
            else:
                scaled += value * 2.0**-64
            squares += value * value
        return low, high, total, squares, scaled

    return one


@functools.cache
def tally(name: str, *, strided: bool) -> Any:
    """Give the kernel that counts the slots of tensors of one format, and sums each of their chunks.

    Parameters
    ----------
    name : str
        A format of 16, 32 or 64 bits.
    strided : bool
        Whether the plan gives the strides of the tensors, which then need not be aligned either.

    Notes
    -----
    The kernel's arguments: `plan` and `mail` uint64[...], see `fasthist.kernels.cuda.plan`; `table` uint32[CELLS] and
    `exact` uint64[N_SLOTS], see `fasthist.kernels.cuda.slots`; `work` uint64[...], where ``N_SLOTS + 2`` numbers of each
    tensor, zeros at first, get the counts, and the largest of ``~key`` and of ``key`` of the finite values; `sums`
    float64[...], where each chunk gets its sum, sum of squares, and sum in units of 2**64; the first row of the plan and
    the one after the last; where in the plan the ranges of the blocks begin; and the number of elements in a chunk.
    """
    narrow = name in NARROW
    one, four = _tally_narrow(name) if narrow else (_tally_wide(name), None)
    walk = walker(FORMATS[name].bits, one, strided=strided, four=four)
    least, most = (np.float32(np.inf), np.float32(-np.inf)) if narrow else (_ALL, _U64(0))
    floats = name == "float64"

    def tally(plan, mail, table, exact, work, sums, begin, end, starts, chunk):
        now = _U32(plan[starts + _U64(cuda.blockIdx.x)])
        stop = _U32(plan[starts + _U64(cuda.blockIdx.x) + _U64(1)])
        if now >= stop:
            return
        thread, threads = _U32(cuda.threadIdx.x), _U32(cuda.blockDim.x)
        cells = cuda.shared.array(CELLS, np.uint32)
        counts = cuda.shared.array(N_SLOTS, np.uint32)
        scratch = cuda.shared.array(THREADS, np.uint64)
        for i in range(cuda.threadIdx.x, _CELLS, cuda.blockDim.x):  # 32 bits
            cells[i] = table[i]
        for i in range(cuda.threadIdx.x, _N_SLOTS, cuda.blockDim.x):
            counts[i] = _U32(0)
        cuda.syncthreads()
        tensor = tensor_at(plan, begin, end, now)
        while now < stop:
            until = end_of(plan, tensor, end, stop)
            address = mail[tensor]  # once, since it comes over the bus
            low, high = least, most
            while now < until:
                at, length = part_of(plan, tensor, now, now + _ONE, chunk)
                low, high, total, squares, scaled = walk(
                    plan, tensor, address, at, length, thread, threads,
                    (cells, counts, exact), (low, high, 0.0, 0.0, 0.0),
                )  # fmt: skip
                total = as_float64(reduce_sum(bits64(total), scratch, thread, threads))
                squares = as_float64(reduce_sum(bits64(squares), scratch, thread, threads))
                if floats:
                    scaled = as_float64(reduce_sum(bits64(scaled), scratch, thread, threads))
                if thread == 0:
                    row = tensor * _WIDTH
                    place = plan[row + _SUMS] + _U64(3) * (now - plan[row + _FIRST])
                    sums[place] = total
                    sums[place + _U64(1)] = squares
                    sums[place + _U64(2)] = scaled
                now = _U32(now + _ONE)
            # All counts are there: the last reduction has waited for every thread.
            goal = plan[tensor * _WIDTH + _ROW]
            for i in range(cuda.threadIdx.x, _N_SLOTS, cuda.blockDim.x):
                if counts[i] > _U32(0):
                    cuda.atomic.add(work, goal + _U64(i), _U64(counts[i]))
                    counts[i] = _U32(0)
            if narrow:
                lowest, highest = _U64(key_of(low)), _U64(key_of(high))
            else:
                lowest, highest = low, high
            lowest = reduce_max(~lowest, scratch, thread, threads)
            highest = reduce_max(highest, scratch, thread, threads)
            if thread == 0:
                cuda.atomic.max(work, goal + _U64(N_SLOTS), lowest)
                cuda.atomic.max(work, goal + _U64(N_SLOTS + 1), highest)
            tensor = _U32(tensor + _ONE)

    return kernel(tally, blocks=BLOCKS if narrow and not strided else None)


@functools.cache
def count_codes(*, strided: bool) -> Any:
    """Give the kernel that counts each pattern of formats of 8 bits.

    Its arguments are `tally`'s without the tables and the sums; 256 numbers of each tensor in `work` get the counts.
    """

    @device
    def one(raw, tables, state):
        cuda.atomic.add(tables[0], raw * _U32(_COLUMNS) + tables[1], _ONE)
        return state

    walk = walker(8, one, strided=strided)

    def count_codes(plan, mail, work, begin, end, starts, chunk):
        now = _U32(plan[starts + _U64(cuda.blockIdx.x)])
        stop = _U32(plan[starts + _U64(cuda.blockIdx.x) + _U64(1)])
        if now >= stop:
            return
        thread, threads = _U32(cuda.threadIdx.x), _U32(cuda.blockDim.x)
        counts = cuda.shared.array(_CODES, np.uint32)
        for i in range(thread, _CODES, threads):
            counts[i] = _U32(0)
        cuda.syncthreads()
        column = _U32(thread % _COLUMNS)
        tensor = tensor_at(plan, begin, end, now)
        while now < stop:
            until = end_of(plan, tensor, end, stop)
            at, length = part_of(plan, tensor, now, until, chunk)
            walk(
                plan, tensor, mail[tensor], at, length, thread, threads,
                (counts, column), _ONE,
            )  # fmt: skip
            cuda.syncthreads()
            for code in range(thread, 256, threads):
                total = _U32(0)
                for i in range(_COLUMNS):
                    # Begun at another column by each thread, or else all lanes would read the same bank.
                    cell = code * _COLUMNS + (code + i) % _COLUMNS
                    total = _U32(total + counts[cell])
                    counts[cell] = _U32(0)
                if total > _U32(0):
                    cuda.atomic.add(work, plan[tensor * _WIDTH + _ROW] + _U64(code), _U64(total))
            cuda.syncthreads()
            now = until
            tensor = _U32(tensor + _ONE)

    return kernel(count_codes, blocks=None if strided else BLOCKS)


@functools.cache
def count_between(name: str, *, strided: bool) -> Any:
    """Give the kernel that counts tensors of one format between edges.

    Notes
    -----
    The kernel's arguments: `plan`, `mail` and the last four as `tally`'s; `work`, where ``k + 3`` numbers of each
    tensor get the count below the first edge, those of the k buckets, that above the last edge, and that of what is not
    finite; `edges` float64[k + 1, or n_tensors * (k + 1)]; how many there are of a tensor; how many further those of
    the next tensor begin; and the number of buckets by which the guess of an even division is made, or 0.0 for a search.
    """
    number = number_of(name)

    @device
    def one(raw, tables, state):
        edges, at, n, low, high, scale, counts, work, goal = tables
        value = number(raw)
        if not abs(value) < np.inf:
            place = n + 1
        elif value < low:
            place = 0 * n
        elif value > high:
            place = n
        else:
            # The guess, or the whole range; what holds is the edges' answer.
            begin, end = 0 * n, n - 1
            if scale > 0.0:
                begin = min(max(np.int64((value - low) * scale), 0 * n), n - 2)
                end = begin + 1
                while begin > 0 and value < edges[at + begin]:
                    begin -= 1
                while end < n - 1 and value >= edges[at + end]:
                    end += 1
                begin = max(begin, end - 1) if value >= edges[at + end - 1] else begin
            while end - begin > 1:
                middle = (begin + end) // 2
                if value >= edges[at + middle]:
                    begin = middle
                else:
                    end = middle
            place = begin + 1
        if n + 2 <= MOST_SHARED:
            cuda.atomic.add(counts, place, _ONE)
        else:
            cuda.atomic.add(work, goal + _U64(place), _U64(1))
        return state

    walk = walker(FORMATS[name].bits, one, strided=strided)

    def count_between(plan, mail, work, edges, n, step, even, begin, end, starts, chunk):
        now = _U32(plan[starts + _U64(cuda.blockIdx.x)])
        stop = _U32(plan[starts + _U64(cuda.blockIdx.x) + _U64(1)])
        if now >= stop:
            return
        thread, threads = _U32(cuda.threadIdx.x), _U32(cuda.blockDim.x)
        counts = cuda.shared.array(MOST_SHARED, np.uint32)
        shared = np.int32(n + 2 if n + 2 <= MOST_SHARED else 0)
        for i in range(cuda.threadIdx.x, shared, cuda.blockDim.x):
            counts[i] = _U32(0)
        cuda.syncthreads()
        tensor = tensor_at(plan, begin, end, now)
        while now < stop:
            until = end_of(plan, tensor, end, stop)
            at, length = part_of(plan, tensor, now, until, chunk)
            goal = plan[tensor * _WIDTH + _ROW]
            own = np.int64(tensor) * step
            low, high = edges[own], edges[own + n - 1]
            # A guess may be off by any rounding, so it is made by a product: a division takes far more instructions.
            scale = even / (high - low)
            walk(
                plan, tensor, mail[tensor], at, length, thread, threads,
                (edges, own, n, low, high, scale, counts, work, goal), _ONE,
            )  # fmt: skip
            cuda.syncthreads()
            for i in range(cuda.threadIdx.x, shared, cuda.blockDim.x):
                if counts[i] > _U32(0):
                    cuda.atomic.add(work, goal + _U64(i), _U64(counts[i]))
                    counts[i] = _U32(0)
            cuda.syncthreads()
            now = until
            tensor = _U32(tensor + _ONE)

    return kernel(count_between)
