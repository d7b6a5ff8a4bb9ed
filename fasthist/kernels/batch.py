"""Many tensors in one call: threads take jobs from one table until none is left.

A job is a range of chunks of one tensor. Its counts and extremes go to a row of its own, the sums of each chunk to their
place in one array; so no two threads write to the same memory, and the result does not depend on who did what.
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
        """Do what the compiled function does."""
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
        """Return `size` numbers at an address as an array, each as wide as those of `table`."""
        return numba.carray(_pointer(address, table), size)

    @intrinsic
    def _take(_typing_context, turn):
        """Return ``turn[0]`` and add one to it, atomically."""

        def generate(context, builder, signature, arguments):
            data = make_array(signature.args[0])(context, builder, arguments[0]).data
            return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

        return types.int64(turn), generate


@serial
def _finish(counts, totals, meaning, row):
    """Add the counts to a row of results, and clear the counters."""
    fold(counts, totals)
    classify(
        totals, meaning, row[:EXPONENTS], row[BUCKETS:], row[EXPONENTS:LOSSES], row[LOSSES:BUCKETS]
    )
    totals[:] = np.uint64(0)


@serial
def do_one(patterns, table, meaning, row):
    """Count one contiguous array of one chunk, uint32[n] or uint64[n] patterns of float32 or float64, n >= 1.

    Fills `row`, uint64[267 + n_buckets] zeros, like a row of `do_jobs`. Returns the extremes, and the sum, the sum of squares,
    the sum in units of 2**64 and the squared deviations of `fasthist.kernels.cpu.tally_float64`.
    """
    counts = np.zeros((SUBTABLES, meaning.size), dtype=np.uint32)
    totals = np.zeros(meaning.size, dtype=np.uint64)
    sums = np.empty((1, SUMS))
    low, high = _tally(patterns, 0, 1, table, counts, sums)
    _finish(counts, totals, meaning, row)
    return low, high, sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3]


@serial
def do_jobs(turn, jobs, table, meaning, rows, sums, ends):
    """Do jobs until none is left.

    `turn`, int64[1], is the next job; all threads share it. `jobs`, int64[j, 5], has for each the address of the first element
    of a contiguous array, its number of elements, the first chunk to count and the chunk after the last, and the row of
    `sums` for the array's chunk 0. The type of `table` tells float32 from float64; `meaning` is that of
    `fasthist.kernels.slots.Slots`. Each job adds to its own of the zeros `rows`, uint64[j, 267 + n_buckets]: 5 kinds,
    256 exponents, 6 losses, and the buckets; puts its extremes in `ends`, float64[j, 2], and fills `sums`,
    float64[n_chunks, SUMS], as `fasthist.kernels.cpu.tally_float32` says.
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
