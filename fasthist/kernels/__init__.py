"""From an array of bit patterns to a `Histogram`: the one place that knows which kernel counts what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.dtypes import FORMATS, Format
from fasthist.hist import EXPONENTS, Histogram
from fasthist.kernels import pool
from fasthist.kernels.chunks import Chunks
from fasthist.kernels.slots import FINITE, NAN, NEGINF, POSINF, ZERO, Slots, slots_of

_FLUSH = 1 << 31
"""Elements after which 32-bit counters are added to 64-bit ones."""


class _Pass(NamedTuple):
    """What the one look at all elements gives."""

    slots: Slots
    totals: NDArray[np.uint64]
    low: float
    high: float
    total: float
    squares: float


def tally(array: NDArray[Any], row: Format, buckets: Buckets | int, threads: int) -> Histogram:
    """Count every element of an array.

    Parameters
    ----------
    array : carrier[...]
        Bit patterns; any shape, strides and byte order. Copied nowhere but, where it is not contiguous, chunk by
        chunk into one buffer for each thread.
    row : Format
        What the patterns mean.
    buckets : Buckets or int
        An int: that many uniform buckets over the finite [min, max], for which 4- and 8-byte formats are looked
        at twice.
    threads : int
        At most this many; the result is the same to the last bit for every number.

    Returns
    -------
    Histogram
    """
    from fasthist.kernels import cpu

    if row.is_code and row.bits > 8 and array.size < cpu.CHUNK:
        # Clearing and reading 65,536 counters would take longer than looking each value up.
        values = slots_of(row.name).values.astype(np.float32)
        array = np.take(values, array.astype(row.carrier, copy=False)).view(np.uint32)
        row = FORMATS["float32"]
    chunks = Chunks(array, cpu.CHUNK)
    to_tensorflow = buckets == tensorflow_buckets()
    if row.is_code:
        first = _count_codes(chunks, row, threads)
    else:
        first = _count_slots(chunks, row, threads, down=to_tensorflow and row.bits == 64)

    kinds = np.zeros(5, dtype=np.uint64)
    by_limit = np.zeros(len(tensorflow_buckets()), dtype=np.uint64)
    exponents = np.zeros(len(EXPONENTS), dtype=np.uint64)
    losses = np.zeros((3, 2), dtype=np.uint64)
    slots = first.slots
    cpu.classify(
        first.totals, slots.kind, slots.bucket, slots.exponent, slots.losses,
        kinds, by_limit, exponents, losses.reshape(-1),
    )  # fmt: skip
    num = int(kinds[FINITE] + kinds[ZERO])
    spanned = isinstance(buckets, int)
    if isinstance(buckets, int):
        buckets = uniform_buckets(buckets, *((first.low, first.high) if num else (0.0, 1.0)))
    if to_tensorflow:
        counts, below, above = by_limit, 0, 0
    elif row.is_code:
        counts, below, above = _place(first, buckets)
    else:
        counts, below, above = _count_again(chunks, row, buckets, threads, spanned=spanned)
    return Histogram(
        buckets,
        counts=counts,
        below_count=below,
        above_count=above,
        num=num,
        min=first.low if num else None,
        max=first.high if num else None,
        sum=first.total,
        sum_squares=first.squares,
        zero_count=int(kinds[ZERO]),
        nan_count=int(kinds[NAN]),
        posinf_count=int(kinds[POSINF]),
        neginf_count=int(kinds[NEGINF]),
        exponent_counts=exponents,
        cast_losses=losses,
    )


def _sweep(
    chunks: Chunks,
    threads: int,
    shape: tuple[int, int],
    count: Callable[[NDArray[Any], int, int, slice, NDArray[np.uint32]], None],
) -> NDArray[np.uint64]:
    """Have threads take spans of chunks in turn; add up what each of them has counted.

    Parameters
    ----------
    shape : (int, int)
        Of a thread's own counters, uint32[subtables, n].
    count : callable
        ``count(values, first, last, rows, counters)``, see `Chunks.take`.

    Returns
    -------
    uint64[n]
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
            held += (last - first) * cpu.CHUNK
            if held >= _FLUSH:
                cpu.fold(counters, totals)
                held = 0
        cpu.fold(counters, totals)
        results.append(totals)

    pool.run(work, max(1, min(threads, len(spans))))
    return results[0] if len(results) == 1 else np.add.reduce(results)


def _count_slots(chunks: Chunks, row: Format, threads: int, *, down: bool) -> _Pass:
    from fasthist.kernels import cpu

    slots = slots_of("float32" if row.name == "float32" else "float64")
    sums = np.empty((chunks.count, 3))
    ends: list[tuple[float, float]] = []

    def count(
        values: NDArray[Any], first: int, last: int, rows: slice, counters: NDArray[np.uint32]
    ) -> None:
        if row.name == "float32":
            found = cpu.tally_float32(values, first, last, slots.table, counters, sums[rows])
        elif row.name == "float64":
            found = cpu.tally_float64(values, first, last, slots.table, counters, sums[rows])
        else:
            numbers = values.view(row.name)
            found = cpu.tally_integers(
                numbers, first, last, down, slots.table, counters, sums[rows]
            )
        ends.append(found)

    totals = _sweep(chunks, threads, (cpu.SUBTABLES, slots.kind.size), count)
    low = min((end[0] for end in ends), default=math.inf)
    high = max((end[1] for end in ends), default=-math.inf)
    return _Pass(slots, totals, low, high, *_add_up(sums))


def _add_up(sums: NDArray[np.float64]) -> tuple[float, float]:
    """Combine the sums of chunks; the order of the chunks fixes every bit, and fsum adds no error of its own."""
    total, scaled = sums[:, 0].tolist(), sums[:, 2].tolist()
    if any(scaled):
        halves = math.fsum([math.fsum(scaled), math.ldexp(math.fsum(total), -64)])
        result = _saturating(lambda: math.ldexp(halves, 64), halves)
    else:
        result = math.fsum(total)
    return result, _saturating(lambda: math.fsum(sums[:, 1].tolist()), 1.0)


def _saturating(compute: Callable[[], float], sign: float) -> float:
    try:
        return compute()
    except OverflowError:
        return math.copysign(math.inf, sign)


def _count_codes(chunks: Chunks, row: Format, threads: int) -> _Pass:
    from fasthist.kernels import cpu

    slots = slots_of(row.name)
    kernel = cpu.count_codes8 if row.bits == 8 else cpu.count_codes16

    def count(
        values: NDArray[Any], first: int, last: int, rows: slice, counters: NDArray[np.uint32]
    ) -> None:
        del rows
        kernel(values[first * cpu.CHUNK : last * cpu.CHUNK], counters)

    # Two subtables of 65,536 counters are as large as the second-level cache; eight bits leave room for four.
    shape = (cpu.SUBTABLES, 256) if row.bits == 8 else (2, 65536)
    totals = _sweep(chunks, threads, shape, count)
    seen = np.flatnonzero((totals > 0) & (slots.kind <= ZERO))
    if not seen.size:
        return _Pass(slots, totals, math.inf, -math.inf, 0.0, 0.0)
    values, times = slots.values[seen], totals[seen].astype(np.float64)
    # At most 16 bits of integer or 11 of mantissa: each product is exact, and fsum rounds once.
    total = math.fsum((values * times).tolist())
    squares = math.fsum((values * values * times).tolist())
    return _Pass(
        slots, totals, float(values.min()) + 0.0, float(values.max()) + 0.0, total, squares
    )


def _place(first: _Pass, buckets: Buckets) -> tuple[NDArray[np.uint64], int, int]:
    """Put the counts of patterns into buckets by the buckets' own definition."""
    seen = np.flatnonzero((first.totals > 0) & (first.slots.kind <= ZERO))
    placed = np.zeros(len(buckets) + 2, dtype=np.uint64)
    np.add.at(placed, buckets.index(first.slots.values[seen]) + 1, first.totals[seen])
    return placed[1:-1], int(placed[0]), int(placed[-1])


def _count_again(
    chunks: Chunks, row: Format, buckets: Buckets, threads: int, *, spanned: bool
) -> tuple[NDArray[np.uint64], int, int]:
    """Look a second time, with edges that are now known; `spanned`: uniform ones over all finite values."""
    from fasthist.kernels import cpu, cpu_buckets

    edges = buckets.edges.copy()  # writable: see Chunks
    low, high, n = float(edges[0]), float(edges[-1]), len(buckets)
    if spanned and math.isfinite(high - low):
        # Rounding errors of the guess, and of the edges themselves, in units of one bucket.
        doubt = 8 * (n * 2.0**-53 + math.ulp(max(-low, high)) * n / (high - low))
        tables = cpu.SUBTABLES if n <= 4096 else 1

        def count(
            values: NDArray[Any], first: int, last: int, rows: slice, counters: NDArray[np.uint32]
        ) -> None:
            del rows
            cpu_buckets.count_uniform(values.view(row.name), first, last, edges, doubt, counters)

        return _sweep(chunks, threads, (tables, n + 1), count)[:-1], 0, 0

    def bisect(
        values: NDArray[Any], first: int, last: int, rows: slice, counters: NDArray[np.uint32]
    ) -> None:
        del rows
        cpu_buckets.count_edges(values.view(row.name), first, last, edges, counters)

    placed = _sweep(chunks, threads, (1, n + 3), bisect)
    return placed[1 : n + 1], int(placed[0]), int(placed[n + 1])
