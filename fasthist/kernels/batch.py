"""Many tensors in one call: threads take jobs from one table until none is left.

A job is a range of chunks of one tensor. Its counts go to a row of its own, its extremes likewise, and the sums of
each chunk to their place in one array; so no two threads ever write to the same memory, and what comes out does not
depend on who did what.
"""

from __future__ import annotations

import ctypes
import threading

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

from fasthist.kernels.cpu import SUBTABLES, SUMS, classify, fold, tally_float32, tally_float64
from fasthist.kernels.jit import serial

EXPONENTS, LOSSES, BUCKETS = 5, 261, 267
"""Where the parts of a row begin, after the five kinds; see `fasthist.kernels.cpu.classify`."""


def _tally(patterns, first, last, table, counts, sums):
    tally = tally_float32 if patterns.dtype == np.uint32 else tally_float64
    return tally(patterns, first, last, table, counts, sums)


@overload(_tally)
def _overload_tally(patterns, first, last, table, counts, sums):  # noqa: ARG001 - only the types matter
    tally = tally_float32 if patterns.dtype == types.uint32 else tally_float64

    def chosen(patterns, first, last, table, counts, sums):
        return tally(patterns, first, last, table, counts, sums)

    return chosen


if numba.config.DISABLE_JIT:

    def memory_at(address, size, table):
        """Do what the compiled one does."""
        memory = (ctypes.c_char * (int(size) * table.itemsize)).from_address(int(address))
        return np.ndarray(int(size), table.dtype, memory)

    _turns = threading.Lock()

    def _take(turn):
        with _turns:
            turn[0] += 1
            return turn[0] - 1

else:

    @intrinsic
    def _pointer(_typing_context, address, table):
        """Make a pointer to numbers as wide as those of `table`."""

        def generate(_context, builder, _signature, arguments):
            return builder.inttoptr(arguments[0], ir.IntType(table.dtype.bitwidth).as_pointer())

        return types.CPointer(table.dtype)(address, table), generate

    @serial
    def memory_at(address, size, table):
        """Give the numbers that begin at an address, as an array: so many, as wide as those of `table`."""
        return numba.carray(_pointer(address, table), size)

    @intrinsic
    def _take(_typing_context, turn):
        """Give ``turn[0]`` and add one to it, as one step for all threads."""

        def generate(context, builder, signature, arguments):
            data = make_array(signature.args[0])(context, builder, arguments[0]).data
            return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

        return types.int64(turn), generate


@serial
def _finish(counts, totals, meaning, row):
    """Add what is counted to a row of answers, and clear the counters."""
    fold(counts, totals)
    classify(
        totals, meaning, row[:EXPONENTS], row[BUCKETS:], row[EXPONENTS:LOSSES], row[LOSSES:BUCKETS]
    )
    totals[:] = np.uint64(0)


@serial
def do_one(patterns, table, meaning, row):
    """Count one contiguous array of one chunk.

    Parameters
    ----------
    patterns : uint32[n] or uint64[n]
        Patterns of float32 or float64, 1 to `fasthist.kernels.chunks.CHUNK`.
    table, meaning
        As in `do_jobs`.
    row : uint64[267 + n_buckets]
        Zeros; filled like a row of `do_jobs`.

    Returns
    -------
    low, high : float
        Extremes of the finite values.
    total, squares, scaled, deviations : float
        The first of `sums`, see `fasthist.kernels.cpu.tally_float64`.
    """
    counts = np.zeros((SUBTABLES, meaning.size), dtype=np.uint32)
    totals = np.zeros(meaning.size, dtype=np.uint64)
    sums = np.empty((1, SUMS))
    low, high = _tally(patterns, 0, 1, table, counts, sums)
    _finish(counts, totals, meaning, row)
    return low, high, sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3]


@serial
def do_jobs(turn, jobs, table, meaning, rows, sums, ends):
    """Do jobs until there is none left.

    Parameters
    ----------
    turn : int64[1]
        The next job; shared by all threads.
    jobs : int64[j, 5]
        For each: the address of the first element of a contiguous float32 or float64 array, how many elements it
        has, the first chunk to count and the chunk after the last, and the row of `sums` for the array's chunk 0.
    table : uint32[...] or uint64[...]
        Its type tells float32 from float64.
    meaning : uint32[n_slots]
        See `fasthist.kernels.slots.Slots`.
    rows : uint64[j, 267 + n_buckets]
        Zeros; each job adds to its own: 5 kinds, 256 exponents, 6 losses, and the buckets.
    sums : float64[n_chunks, SUMS]
        See `fasthist.kernels.cpu.tally_float32`.
    ends : float64[j, 2]
        Extremes of each job's finite values.
    """
    counts = np.zeros((SUBTABLES, meaning.size), dtype=np.uint32)
    totals = np.zeros(meaning.size, dtype=np.uint64)
    while True:
        job = _take(turn)
        if job >= jobs.shape[0]:
            return
        address, size, first, last, base = jobs[job]
        patterns = memory_at(address, size, table)
        low, high = _tally(patterns, first, last, table, counts, sums[base:])
        ends[job, 0] = low
        ends[job, 1] = high
        _finish(counts, totals, meaning, rows[job])
