"""The last launch of a batch: what was counted, and a sample of each tensor, to the host; the memory back to zeros.

A tensor's answer in the mail, if slots were counted: the first of its magnitudes that has a count and the one after the
last, ``~key`` of the smallest value, the key of the largest, three sums (as bits), the size of the sample; then the
counts, of which only those are written that may not be zero; then the elements of the sample, as two 32-bit patterns in a
number, or one of 64 bits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import tensorflow_buckets
from fasthist.kernels.cuda.plan import (
    COLUMNS,
    COUNT,
    DIMS,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    ITEM,
    KIND,
    OUT,
    PLAIN,
    ROW,
    SIZE,
    SUMS,
)
from fasthist.kernels.cuda.primitives import (
    THREADS,
    as_float32,
    as_float64,
    bits64,
    cuda,
    device,
    kernel,
    load_byte,
)
from fasthist.kernels.cuda.slots import N_MAGNITUDES, N_SLOTS, SIGN
from fasthist.kernels.cuda.walk import place_of, reduce_add, reduce_max, reduce_sum
from fasthist.kernels.outlines import cells_seen, elements_wanted, place_in
from fasthist.kernels.slots import FINITE, slots_of

HEAD = 8
"""Numbers of an answer before the counts."""

_U32 = np.uint32
_U64 = np.uint64
_WIDTH = _U64(COLUMNS)
_SIZE, _ROW, _SUMS, _DIMS, _ITEM, _KIND, _COUNT, _OUT = map(
    _U64, (SIZE, ROW, SUMS, DIMS, ITEM, KIND, COUNT, OUT)
)
_SIGN = _U64(SIGN)
_ONE = _U64(1)
_N = N_MAGNITUDES
_LAST_FINITE = N_MAGNITUDES - 2  # infinity and NaN follow
_BUCKETS = len(tensorflow_buckets())

_cells_seen = device(cells_seen)
_wanted = device(elements_wanted)
_place_in = device(place_in)


@functools.cache
def spans() -> NDArray[np.uint32]:
    """Give, for each of TensorFlow's buckets, its first slot that is not zero and the one after the last: [2 * n]."""
    slots = slots_of("float64")
    found = np.zeros((_BUCKETS, 2), dtype=np.uint32)
    order = np.flatnonzero(slots.kind == FINITE)
    buckets, first = np.unique(slots.bucket[order], return_index=True)
    size = np.bincount(slots.bucket[order], minlength=_BUCKETS)[buckets]
    found[buckets, 0] = order[first]
    found[buckets, 1] = order[first] + size
    return found.reshape(-1)


@device
def _number(kind, key):
    """Give the number, or the float64 next to it, that a key stands for."""
    if kind == _U64(FLOAT32):
        pattern = _U32(key)
        pattern = _U32(pattern ^ _U32(1 << 31)) if pattern >> _U32(31) else _U32(~pattern)
        return np.float64(as_float32(pattern))
    if kind == _U64(FLOAT64):
        return as_float64(key ^ _SIGN if key >= _SIGN else ~key)
    if kind == _U64(INT32):
        return np.float64(key) - 2.0**31
    if kind == _U64(INT64):
        return np.float64(np.int64(key ^ _SIGN))
    return np.float64(key)


@device
def _hand_over(work, mail, source, goal, thread, threads, count):
    """Move counts into the mail, and leave zeros."""
    for i in range(thread, np.int64(count), threads):
        mail[goal + _U64(i)] = work[source + _U64(i)]
        work[source + _U64(i)] = _U64(0)


def _finish(plan, mail, work, sums, ranges, edges, begin, end, chunk):
    thread, threads = _U32(cuda.threadIdx.x), _U32(cuda.blockDim.x)
    scratch = cuda.shared.array(THREADS, np.uint64)
    chosen = cuda.shared.array(3, np.uint64)
    tensor = begin + _U64(cuda.blockIdx.x)
    while tensor < end:
        row = tensor * _WIDTH
        size, kind, at = plan[row + _SIZE], plan[row + _KIND], plan[row + _ROW]
        amount, out = plan[row + _COUNT], plan[row + _OUT]
        if kind == _U64(PLAIN):
            _hand_over(work, mail, at, out, thread, threads, amount)
            tensor += _U64(cuda.gridDim.x)
            continue

        # How large a sample: as `fasthist.kernels.outlines.sample_size` says.
        zeros = work[at] + work[at + _U64(_N)]
        low, high = (
            _number(kind, ~work[at + _U64(N_SLOTS)]),
            _number(kind, work[at + _U64(N_SLOTS + 1)]),
        )
        cells = _cells_seen(size)
        cell = high / cells - low / cells
        heaviest, coarse = _U64(0), _U64(0)
        for bucket in range(thread, _BUCKETS, threads):
            count = _U64(0)
            for slot in range(ranges[2 * bucket], ranges[2 * bucket + 1]):
                count += work[at + _U64(slot)]
            heaviest = max(heaviest, count)
            if min(edges[bucket + 1], high) - max(edges[bucket], low) > cell:
                coarse += count
        heaviest = reduce_max(heaviest, scratch, thread, threads)
        coarse = reduce_add(coarse, scratch, thread, threads)

        # The magnitudes between which all counts lie; zero, infinity and NaN go with them in any case.
        first, last = _U64(0), _U64(0)
        for slot in range(thread, _LAST_FINITE, threads):
            if slot > 0 and work[at + _U64(slot)] + work[at + _U64(slot + _N)] > _U64(0):
                first = max(first, _U64(_LAST_FINITE - slot))
                last = max(last, _U64(slot + 1))
        first = reduce_max(first, scratch, thread, threads)
        last = reduce_max(last, scratch, thread, threads)

        total, squares, scaled = 0.0, 0.0, 0.0
        base = plan[row + _SUMS]
        for i in range(thread, np.int64((size + chunk - _ONE) // chunk), threads):
            part = base + _U64(3 * i)
            total += sums[part]
            squares += sums[part + _U64(1)]
            scaled += sums[part + _U64(2)]
        total = reduce_sum(bits64(total), scratch, thread, threads)
        squares = reduce_sum(bits64(squares), scratch, thread, threads)
        scaled = reduce_sum(bits64(scaled), scratch, thread, threads)
        if thread == 0:
            chosen[0] = _U64(_LAST_FINITE) - first
            chosen[1] = last
            taken = _U64(0)
            if amount > _U64(0) and size > _U64(0):
                taken = min(
                    _U64(_wanted(np.int64(size), zeros, np.float64(heaviest), np.float64(coarse))),
                    amount,
                )
            chosen[2] = taken
            mail[out] = chosen[0]
            mail[out + _U64(1)] = last
            mail[out + _U64(2)] = work[at + _U64(N_SLOTS)]
            mail[out + _U64(3)] = work[at + _U64(N_SLOTS + 1)]
            mail[out + _U64(4)] = total
            mail[out + _U64(5)] = squares
            mail[out + _U64(6)] = scaled
            mail[out + _U64(7)] = taken
            work[at + _U64(N_SLOTS)] = _U64(0)
            work[at + _U64(N_SLOTS + 1)] = _U64(0)
        cuda.syncthreads()
        for slot in range(thread, _N, threads):
            if slot == 0 or slot >= _LAST_FINITE or (chosen[0] <= _U64(slot) < chosen[1]):
                for i in range(2):
                    source = _U64(slot + i * _N)
                    mail[out + _U64(HEAD) + source] = work[at + source]
                    work[at + source] = _U64(0)

        address = mail[tensor]  # once, since it comes over the bus
        item = plan[row + _ITEM]
        pairs = _U64(1) if item == _U64(8) else _U64(2)
        goal = out + _U64(HEAD + N_SLOTS)
        for i in range(thread, np.int64((chosen[2] + pairs - _ONE) // pairs), threads):
            word = _U64(0)
            for half in range(np.int64(pairs)):
                k = np.int64(i) * np.int64(pairs) + half
                if k < np.int64(chosen[2]):
                    place = k
                    if chosen[2] != size:
                        place = _place_in(k, np.int64(size), np.int64(chosen[2]))
                    offset = _U64(place) * item
                    if plan[row + _DIMS] > _U64(0):
                        offset = place_of(plan, tensor, _U64(place))
                    for byte in range(np.int64(item)):
                        word |= load_byte(address + offset + _U64(byte)) << _U64(
                            32 * half + 8 * byte
                        )
            mail[goal + _U64(i)] = word
        cuda.syncthreads()
        tensor += _U64(cuda.gridDim.x)


@functools.cache
def finish() -> Any:
    """Give the kernel.

    Notes
    -----
    The kernel's arguments: `plan`, `mail`, `work` and `sums` as `fasthist.kernels.cuda.count.tally` has left them; `spans`;
    the edges of TensorFlow's buckets; the first row of the plan and the one after the last; the elements of a chunk.
    """
    return kernel(_finish)
