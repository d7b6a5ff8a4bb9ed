"""The first pass over all elements: what each kernel counts and sums, in one form."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import tensorflow_buckets
from fasthist.dtypes import Format
from fasthist.hist import EXPONENTS
from fasthist.kernels import pool
from fasthist.kernels.chunks import CHUNK, Chunks
from fasthist.kernels.slots import ZERO, slots_of
from fasthist.kernels.totals import add_up, add_up_deviations, as_float

_FLUSH = 1 << 31
"""Elements after which 32-bit counters are added to 64-bit ones."""

_JOB_CHUNKS = 4
"""Chunks in a job, some hundred microseconds: short beside a large tensor, long beside the 3 us that a job costs."""

_MOST_JOBS = 128
"""Jobs of one tensor; each has a row of 15 kB."""

KINDS = slice(0, 5)
EXPONENT_COLUMNS = slice(5, 5 + len(EXPONENTS))
LOSSES = slice(EXPONENT_COLUMNS.stop, EXPONENT_COLUMNS.stop + 6)
LIMITS = slice(LOSSES.stop, LOSSES.stop + len(tensorflow_buckets()))


class Look(NamedTuple):
    """What the first pass over an array finds.

    `row`, uint64[267 + n_buckets], has kinds, exponents, losses and TensorFlow's buckets, laid out as in
    `fasthist.kernels.batch.do_jobs`; `low` and `high` are the extremes of the finite values, inf and -inf if there is none;
    `total` and `squares` their sum and sum of squares; `patterns` the count of every pattern, uint64[n], for a format of
    few patterns; `deviations` the sum of squared deviations from the mean, None where a device has not computed it.
    """

    row: NDArray[np.uint64]
    low: float
    high: float
    total: float
    squares: float
    patterns: NDArray[np.uint64] | None = None
    deviations: float | None = None


def look_at_all(walks: list[tuple[Chunks, Format]], threads: int, *, down: bool) -> list[Look]:
    """Look at arrays on up to `threads` threads; `down` rounds integers beyond float64 down, as TensorFlow's limits need it."""
    looks: dict[int, Look] = {}
    together: dict[str, list[int]] = {}
    for i, (chunks, row) in enumerate(walks):
        if chunks.flat is None or row.name not in ("float32", "float64"):
            look = _look_at_patterns if row.is_code else _look_at_chunks
            looks[i] = look(chunks, row, threads, down=down)
        elif len(walks) == 1 and chunks.count == 1:
            return [_look_at_one(chunks.flat, row.name)]
        else:
            together.setdefault(row.name, []).append(i)
    for name, members in together.items():
        joint = _look_together([walks[i][0] for i in members], name, threads)
        looks.update(zip(members, joint, strict=True))
    return [looks[i] for i in range(len(walks))]


def _look_at_one(flat: NDArray[Any], name: str) -> Look:
    """Look at one array of one chunk: what `_look_together` does, in a third of its 12 us for 64 elements."""
    from fasthist.kernels import batch

    slots = slots_of(name)
    row = np.zeros(LIMITS.stop, dtype=np.uint64)
    low, high, *sums = batch.do_one(flat, slots.table, slots.meaning, row)
    return Look(row, low, high, *add_up([sums]), deviations=sums[3])


def _look_together(together: list[Chunks], name: str, threads: int) -> list[Look]:
    """Look at contiguous float32 or float64 arrays in one call for each thread."""
    from fasthist.kernels import batch, cpu

    slots = slots_of(name)
    jobs: list[tuple[int, int, int, int, int]] = []
    begins: list[int] = []
    bases = [0]
    for chunks in together:
        begins.append(len(jobs))
        step = max(_JOB_CHUNKS, -(-chunks.count // _MOST_JOBS))
        # An empty array has one job too, and so a row.
        jobs += [
            (chunks.address, chunks.size, first, min(first + step, chunks.count), bases[-1])
            for first in range(0, max(chunks.count, 1), step)
        ]
        bases.append(bases[-1] + chunks.count)
    table = np.array(jobs, dtype=np.int64)
    rows = np.zeros((len(jobs), LIMITS.stop), dtype=np.uint64)
    sums = np.empty((bases[-1], cpu.SUMS))
    ends = np.empty((len(jobs), 2))
    turn = np.zeros(1, dtype=np.int64)
    shared = (turn, table, slots.table, slots.meaning, rows, sums, ends)
    work = functools.partial(batch.do_jobs, *shared)
    # Waking a thread takes as long as counting some chunks does.
    pool.run(work, max(1, min(threads, len(jobs), bases[-1] // 2)))
    begins.append(len(jobs))
    lows, highs = ends.T.tolist()
    parts = sums.tolist()
    return [
        Look(
            # Not np.add.reduceat over all: it takes a microsecond per row even for a tensor with one. A copy, since a
            # histogram that is kept would otherwise keep the rows of all tensors.
            rows[i].copy() if j == i + 1 else np.add.reduce(rows[i:j], axis=0),
            min(lows[i:j]),
            max(highs[i:j]),
            *add_up(parts[base:end]),
            deviations=add_up_deviations(parts[base:end]),
        )
        for (i, j), (base, end) in zip(*map(itertools.pairwise, (begins, bases)), strict=True)
    ]


def sweep(
    chunks: Chunks,
    threads: int,
    shape: tuple[int, int],
    count: Callable[[NDArray[Any], int, int, slice, NDArray[np.uint32]], None],
) -> NDArray[np.uint64]:
    """Have up to `threads` threads take spans of chunks in turn; return the sum of their counters, uint64[n].

    ``count(values, first, last, rows, counters)`` counts one span, see `Chunks.take`; `shape` is that of a thread's own
    counters, uint32[subtables, n].
    """
    from fasthist.kernels import cpu

    spans = chunks.spans(threads)
    turns = itertools.count()
    results: list[NDArray[np.uint64]] = []

    def work() -> None:
        counters = np.zeros(shape, dtype=np.uint32)
        totals = np.zeros(shape[1], dtype=np.uint64)
        buffer = chunks.buffer()
        held = 0
        while (turn := next(turns)) < len(spans):
            values, first, last, rows = chunks.take(spans[turn], buffer)
            count(values, first, last, rows, counters)
            held += (last - first) * CHUNK
            if held >= _FLUSH:
                cpu.fold(counters, totals)
                held = 0
        cpu.fold(counters, totals)
        results.append(totals)

    pool.run(work, max(1, min(threads, len(spans))))
    return results[0] if len(results) == 1 else np.add.reduce(results)


def _look_at_chunks(chunks: Chunks, row: Format, threads: int, *, down: bool) -> Look:
    """Look at integers of four and eight bytes, and at floats that are not contiguous."""
    from fasthist.kernels import cpu

    slots = slots_of("float32" if row.name == "float32" else "float64")
    sums = np.empty((chunks.count, cpu.SUMS))
    ends: list[tuple[float, float]] = []

    def count(values: Any, first: int, last: int, rows: slice, counters: Any) -> None:
        if row.name == "float32":
            span = cpu.tally_float32(values, first, last, slots.table, counters, sums[rows])
        elif row.name == "float64":
            span = cpu.tally_float64(values, first, last, slots.table, counters, sums[rows])
        else:
            chosen = (values.view(row.name), first, last, row.bits == 32)
            span = cpu.tally_integers(*chosen, slots.table, counters, sums[rows])
        ends.append(span)

    totals = sweep(chunks, threads, (cpu.SUBTABLES, slots.kind.size), count)
    low = min((end[0] for end in ends), default=math.inf)
    high = max((end[1] for end in ends), default=-math.inf)
    if ends and row.kind != "float":
        low, high = as_float(int(low), down=down), as_float(int(high), down=down)
    parts, counts = sums.tolist(), classified(totals, row)
    return Look(counts, low, high, *add_up(parts), deviations=add_up_deviations(parts))


def classified(totals: NDArray[np.uint64], row: Format) -> NDArray[np.uint64]:
    """Distribute the counts of slots over what the slots mean: the row of a `Look`."""
    from fasthist.kernels import cpu

    slots = slots_of(row.name if row.is_code or row.name == "float32" else "float64")
    result = np.zeros(LIMITS.stop, dtype=np.uint64)
    cpu.classify(
        totals, slots.meaning,
        result[KINDS], result[LIMITS], result[EXPONENT_COLUMNS], result[LOSSES],
    )  # fmt: skip
    return result


def _look_at_patterns(chunks: Chunks, row: Format, threads: int, *, down: bool) -> Look:
    """Look at formats of one and two bytes: count each pattern, and derive the rest."""
    from fasthist.kernels import cpu, cpu_patterns

    del down  # float64 holds all their integers
    kernel = cpu_patterns.count_codes8 if row.bits == 8 else cpu_patterns.count_codes16

    def count(values: Any, first: int, last: int, _rows: slice, counters: Any) -> None:
        kernel(values[first * CHUNK : last * CHUNK], counters)

    # Two subtables of 65,536 counters are as large as the second-level cache; eight bits leave room for four.
    shape = (cpu.SUBTABLES, 256) if row.bits == 8 else (2, 65536)
    return look_of_patterns(sweep(chunks, threads, shape, count), row)


def look_of_patterns(totals: NDArray[np.uint64], row: Format) -> Look:
    """Derive everything from the counts of all patterns of a format."""
    slots = slots_of(row.name)
    result = classified(totals, row)
    seen = np.flatnonzero((totals > 0) & (slots.kind <= ZERO))
    if not seen.size:
        return Look(result, math.inf, -math.inf, 0.0, 0.0, totals, 0.0)
    values, times = slots.values[seen], totals[seen].astype(np.float64)
    # At most 16 bits of integer or 11 of mantissa: each product is exact, and fsum rounds once.
    total = math.fsum((values * times).tolist())
    squares = math.fsum((values * values * times).tolist())
    apart = values - total / float(times.sum())
    deviations = float((apart * apart * times).sum())
    # Adding zero turns -0.0 into 0.0.
    low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
    return Look(result, low, high, total, squares, totals, deviations)
