"""How the threads of a block go through a tensor, and bring together what each of them found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fasthist.kernels.cuda.plan import COLUMNS, DIMS, FIRST, SIZE
from fasthist.kernels.cuda.primitives import (
    as_float64,
    bits64,
    cuda,
    device,
    load_byte,
    load_vector,
)

_U32 = np.uint32
_U64 = np.uint64

_WIDTH = _U64(COLUMNS)
_SIZE, _FIRST, _DIMS = map(_U64, (SIZE, FIRST, DIMS))


@device
def tensor_at(plan, begin, end, chunk):
    """Find the row of the plan, from `begin` to `end` - 1, whose tensor holds a chunk."""
    while end - begin > _U64(1):
        middle = (begin + end) >> _U64(1)
        if plan[middle * _WIDTH + _FIRST] <= chunk:
            begin = middle
        else:
            end = middle
    return _U32(begin)


@device
def end_of(plan, tensor, end, stop):
    """Return the chunk after the last one of a tensor, or `stop`, where the block's range ends, if that is less.

    It is the first one of the next tensor; no division of 64 bits, whose registers spilled.
    """
    following = _U32(tensor + _U32(1))
    return min(stop, _U32(plan[following * _WIDTH + _FIRST])) if following < end else stop


@device
def part_of(plan, tensor, first, last, chunk):
    """Say with which element the chunks `first` to `last` - 1 of a tensor begin, and how many they hold."""
    row = tensor * _WIDTH
    start = (first - plan[row + _FIRST]) * chunk
    return start, min((last - first) * chunk, plan[row + _SIZE] - start)


@device
def place_of(plan, tensor, i):
    """Say how many bytes after the first element of a strided tensor its element `i` lies; modulo 2**64."""
    place = _U64(0)
    at = plan[tensor * _WIDTH + _DIMS]
    for _ in range(plan[at]):
        length = plan[at + _U64(1)]
        place += i % length * plan[at + _U64(2)]
        i //= length
        at += _U64(2)
    return place


def walker(
    bits: int, one: Callable[..., Any], *, strided: bool, four: Callable[..., Any] | None = None
) -> Any:
    """Make the function with which the threads of a block hand every element of a chunk to `one`.

    ``one(raw, tables, state)`` returns the next state of the thread; `raw` is the element's pattern. For a format of 16 or
    32 bits ``four(a, b, c, d, tables, state)`` may take four at a time where they are aligned.
    """
    size, count = _U64(bits // 8), _U64(128 // bits)

    @device
    def element(address):
        raw = _U64(0)
        for byte in range(bits // 8):
            raw |= load_byte(address + _U64(byte)) << _U64(8 * byte)
        return raw if bits == 64 else _U32(raw)

    if bits == 64:

        @device
        def vector(words, tables, state):
            state = one(_U64(words[0]) | (_U64(words[1]) << _U64(32)), tables, state)
            return one(_U64(words[2]) | (_U64(words[3]) << _U64(32)), tables, state)

    elif bits == 8:

        @device
        def word(bits_of_it, tables, state):
            state = one(_U32(bits_of_it & _U32(0xFF)), tables, state)
            state = one(_U32((bits_of_it >> _U32(8)) & _U32(0xFF)), tables, state)
            state = one(_U32((bits_of_it >> _U32(16)) & _U32(0xFF)), tables, state)
            return one(_U32(bits_of_it >> _U32(24)), tables, state)

        @device
        def vector(words, tables, state):
            state = word(words[0], tables, state)
            state = word(words[1], tables, state)
            state = word(words[2], tables, state)
            return word(words[3], tables, state)

    else:
        if four is None:

            @device
            def four(a, b, c, d, tables, state):
                state = one(a, tables, state)
                state = one(b, tables, state)
                state = one(c, tables, state)
                return one(d, tables, state)

        if bits == 32:

            @device
            def vector(words, tables, state):
                return four(words[0], words[1], words[2], words[3], tables, state)

        else:

            @device
            def two_words(first, second, tables, state):
                return four(
                    _U32(first & _U32(0xFFFF)), _U32(first >> _U32(16)),
                    _U32(second & _U32(0xFFFF)), _U32(second >> _U32(16)), tables, state,
                )  # fmt: skip

            @device
            def vector(words, tables, state):
                state = two_words(words[0], words[1], tables, state)
                return two_words(words[2], words[3], tables, state)

    @device
    def walk_strided(plan, tensor, address, start, length, thread, threads, tables, state):
        i = thread
        while i < length:
            state = one(element(address + place_of(plan, tensor, start + i)), tables, state)
            i += threads
        return state

    @device
    def walk(plan, tensor, address, start, length, thread, threads, tables, state):
        begin = address + start * size
        head = min(((_U64(16) - (begin & _U64(15))) & _U64(15)) // size, length)
        vectors = (length - head) // count
        # What is before the first vector and after the last one comes first, so that of all this only `at` and `stop` are
        # in registers while the vectors are counted.
        middle = vectors * count
        i = thread
        while i < length - middle:
            state = one(element(begin + (i if i < head else i + middle) * size), tables, state)
            i += threads
        at = begin + head * size + _U64(16) * thread
        stop = begin + head * size + _U64(16) * vectors
        while at < stop:
            state = vector(load_vector(at), tables, state)
            at += _U64(16) * threads
        return state

    return walk_strided if strided else walk


@device
def _larger(a, b):
    return max(a, b)


@device
def _plus(a, b):
    return a + b


@device
def _sum(a, b):
    return bits64(as_float64(a) + as_float64(b))


def _reducer(combine: Callable[..., Any]) -> Any:
    """Make the function that combines one 64-bit number of each thread, always in the same order, for thread 0."""

    @device
    def reduce(number, scratch, thread, threads):
        while threads > 1:
            rest = (threads + 7) // 8
            if thread < threads:
                scratch[thread] = number
            cuda.syncthreads()
            if thread < rest:
                i = thread + rest
                while i < threads:
                    number = combine(number, scratch[i])
                    i += rest
            cuda.syncthreads()
            threads = rest
        return number

    return reduce


reduce_max, reduce_add, reduce_sum = _reducer(_larger), _reducer(_plus), _reducer(_sum)
