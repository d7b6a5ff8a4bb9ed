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
def end_of(plan, tensor, chunk):
    """Give the chunk after the last one of a tensor."""
    row = tensor * _WIDTH
    return _U32(plan[row + _FIRST] + (plan[row + _SIZE] + chunk - _U64(1)) // chunk)


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


def walker(bits: int, one: Callable[..., Any], *, strided: bool) -> Any:
    """Make the function with which the threads of a block hand every element of a chunk to `one`.

    ``one(raw, tables, state)`` gives the next state of the thread; `raw` is the element's pattern.
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

    elif bits == 32:

        @device
        def vector(words, tables, state):
            state = one(words[0], tables, state)
            state = one(words[1], tables, state)
            state = one(words[2], tables, state)
            return one(words[3], tables, state)

    else:
        halves = bits == 16

        @device
        def word(bits_of_it, tables, state):
            if halves:
                state = one(_U32(bits_of_it & _U32(0xFFFF)), tables, state)
                return one(_U32(bits_of_it >> _U32(16)), tables, state)
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
        at = begin + head * size + _U64(16) * thread
        stop = begin + head * size + _U64(16) * vectors
        while at < stop:
            state = vector(load_vector(at), tables, state)
            at += _U64(16) * threads
        # What is left before the first vector and after the last one.
        middle = vectors * count
        i = thread
        while i < length - middle:
            state = one(element(begin + (i if i < head else i + middle) * size), tables, state)
            i += threads
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
