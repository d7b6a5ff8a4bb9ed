"""From arrays of bit patterns to `Histogram` values: the one place that knows which kernel counts what."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.dtypes import FORMATS, Format
from fasthist.hist import EXPONENTS, Histogram
from fasthist.kernels import pool
from fasthist.kernels.chunks import CHUNK, Chunks
from fasthist.kernels.slots import FINITE, NAN, NEGINF, POSINF, ZERO, slots_of
from fasthist.kernels.totals import add_up, as_float

_FLUSH = 1 << 31
"""Elements after which 32-bit counters are added to 64-bit ones."""

_JOB_CHUNKS = 4
"""Chunks in a job, some hundred microseconds: short beside a large tensor, long beside the 3 us of its end."""

_MOST_JOBS = 128
"""Jobs of one tensor; each has a row of 15 kB."""

_GROUP_BYTES = 4 << 20
"""What the arrays counted in one call may take in rows and copies, beside themselves."""

WIDEN_BELOW = {8: CHUNK // 4, 16: 4 * CHUNK}
"""Elements, by bits of the format, below which an array is copied as float32 and counted together with others.

For larger ones it is quicker to count patterns: clearing and reading 65,536 counters takes about 0.3 ms a thread.
"""

_KINDS = slice(0, 5)
_EXPONENTS = slice(5, 5 + len(EXPONENTS))
_LOSSES = slice(_EXPONENTS.stop, _EXPONENTS.stop + 6)
_LIMITS = slice(_LOSSES.stop, _LOSSES.stop + len(tensorflow_buckets()))


class _Look(NamedTuple):
    """What the look at all elements gives.

    Attributes
    ----------
    row : uint64[267 + n_buckets]
        Kinds, exponents, losses and TensorFlow's buckets, as `fasthist.kernels.batch.do_jobs` lays them out.
    low, high : float
        Extremes of the finite values; inf and -inf if there is none.
    total, squares : float
        Sum and sum of squares.
    patterns : uint64[n] or None
        Count of every pattern, of a format of few patterns.
    """

    row: NDArray[np.uint64]
    low: float
    high: float
    total: float
    squares: float
    patterns: NDArray[np.uint64] | None = None


def tally(
    arrays: Sequence[tuple[NDArray[Any], Format]], buckets: Buckets | int, threads: int
) -> list[Histogram]:
    """Count every element of some arrays.

    Parameters
    ----------
    arrays : sequence of (carrier[...], Format)
        Bit patterns of any shape, strides and byte order, and what they mean. Copied are only small arrays of 8
        and 16 bits (`WIDEN_BELOW`), and, where an array is not contiguous, chunk after chunk into one buffer for
        each thread.
    buckets : Buckets or int
        An int: that many uniform buckets over each array's finite [min, max], for which formats of four and eight
        bytes are looked at twice.
    threads : int
        At most this many.

    Returns
    -------
    list of Histogram
        One for each array, the same to the last bit whatever stands beside it and for every number of threads.
    """
    found: list[Histogram] = []
    down = buckets is tensorflow_buckets() or buckets == tensorflow_buckets()
    for group in [arrays] if len(arrays) == 1 else _groups(arrays):
        walks = [(Chunks(array, CHUNK), row) for array, row in map(_widened, group)]
        looks = _look_at_all(walks, threads, down=down)
        found += [
            _histogram(look, chunks, row, buckets, threads, down=down)
            for look, (chunks, row) in zip(looks, walks, strict=True)
        ]
    return found


def _groups(
    arrays: Sequence[tuple[NDArray[Any], Format]],
) -> Iterator[Sequence[tuple[NDArray[Any], Format]]]:
    """Divide a long list so that the rows (15 kB) and the copies of a group stay within some MiB."""
    begin = held = 0
    for i, (array, row) in enumerate(arrays):
        held += 15_000 + (4 * array.size if _is_widened(array, row) else 0)
        if held > _GROUP_BYTES:
            yield arrays[begin : i + 1]
            begin, held = i + 1, 0
    if begin < len(arrays):
        yield arrays[begin:]


def _is_widened(array: NDArray[Any], row: Format) -> bool:
    return row.is_code and array.size < WIDEN_BELOW[row.bits]


def _widened(item: tuple[NDArray[Any], Format]) -> tuple[NDArray[Any], Format]:
    """Copy a small array of few patterns as float32, which holds each of their values exactly."""
    array, row = item
    if not _is_widened(array, row):
        return item
    codes = array.astype(row.carrier, copy=False)
    if row.name == "bfloat16":
        # The upper half of a float32: a shift takes a third of the look-up's time.
        patterns = np.left_shift(codes, 16, dtype=np.uint32)
    else:
        # Not table[codes], which takes three times as long.
        patterns = np.take(_as_float32(row.name), codes)
    return np.atleast_1d(patterns), FORMATS["float32"]


@functools.cache
def _as_float32(name: str) -> NDArray[np.uint32]:
    """Give the float32 pattern of every value of a format of at most 16 bits."""
    return slots_of(name).values.astype(np.float32).view(np.uint32)


def _look_at_all(walks: list[tuple[Chunks, Format]], threads: int, *, down: bool) -> list[_Look]:
    looks: dict[int, _Look] = {}
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
        found = _look_together([walks[i][0] for i in members], name, threads)
        looks.update(zip(members, found, strict=True))
    return [looks[i] for i in range(len(walks))]


def _look_at_one(flat: NDArray[Any], name: str) -> _Look:
    """Look at one array of one chunk: what `_look_together` does, in a third of its 12 us for 64 elements."""
    from fasthist.kernels import batch

    slots = slots_of(name)
    row = np.zeros(_LIMITS.stop, dtype=np.uint64)
    low, high, *sums = batch.do_one(flat, slots.table, slots.meaning, row)
    return _Look(row, low, high, *add_up([sums]))


def _histogram(
    look: _Look, chunks: Chunks, row: Format, buckets: Buckets | int, threads: int, *, down: bool
) -> Histogram:
    kinds = look.row[_KINDS].tolist()
    num = kinds[FINITE] + kinds[ZERO]
    spanned = isinstance(buckets, int)
    if isinstance(buckets, int):
        buckets = uniform_buckets(buckets, *((look.low, look.high) if num else (0.0, 1.0)))
    if down:
        counts, below, above = look.row[_LIMITS], 0, 0
    elif look.patterns is not None:
        counts, below, above = _place(look.patterns, row, buckets)
    else:
        counts, below, above = _count_again(chunks, row, buckets, threads, spanned=spanned)
    return Histogram(
        buckets,
        counts=counts,
        below_count=below,
        above_count=above,
        num=num,
        min=look.low if num else None,
        max=look.high if num else None,
        sum=look.total,
        sum_squares=look.squares,
        zero_count=kinds[ZERO],
        nan_count=kinds[NAN],
        posinf_count=kinds[POSINF],
        neginf_count=kinds[NEGINF],
        exponent_counts=look.row[_EXPONENTS],
        cast_losses=look.row[_LOSSES].reshape(3, 2),
    )


def _look_together(together: list[Chunks], name: str, threads: int) -> list[_Look]:
    """Look at contiguous float32 or float64 arrays in one call for each thread."""
    from fasthist.kernels import batch

    slots = slots_of(name)
    jobs: list[tuple[int, int, int, int, int]] = []
    begins: list[int] = []
    bases = [0]
    for chunks in together:
        begins.append(len(jobs))
        step = max(_JOB_CHUNKS, -(-chunks.count // _MOST_JOBS))
        # An empty array has one job too, so that it has a row.
        jobs += [
            (chunks.address, chunks.size, first, min(first + step, chunks.count), bases[-1])
            for first in range(0, max(chunks.count, 1), step)
        ]
        bases.append(bases[-1] + chunks.count)
    table = np.array(jobs, dtype=np.int64)
    rows = np.zeros((len(jobs), _LIMITS.stop), dtype=np.uint64)
    sums = np.empty((bases[-1], 3))
    ends = np.empty((len(jobs), 2))
    turn = np.zeros(1, dtype=np.int64)
    work = functools.partial(
        batch.do_jobs, turn, table, slots.table, slots.meaning, rows, sums, ends
    )
    # Waking a thread takes as long as counting some chunks does.
    pool.run(work, max(1, min(threads, len(jobs), bases[-1] // 2)))
    begins.append(len(jobs))
    lows, highs = ends.T.tolist()
    parts = sums.tolist()
    return [
        _Look(
            # Not np.add.reduceat over all: it takes a microsecond for each row even of a tensor with one.
            rows[i] if j == i + 1 else np.add.reduce(rows[i:j], axis=0),
            min(lows[i:j]),
            max(highs[i:j]),
            *add_up(parts[base:end]),
        )
        for (i, j), (base, end) in zip(
            itertools.pairwise(begins), itertools.pairwise(bases), strict=True
        )
    ]


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
            held += (last - first) * CHUNK
            if held >= _FLUSH:
                cpu.fold(counters, totals)
                held = 0
        cpu.fold(counters, totals)
        results.append(totals)

    pool.run(work, max(1, min(threads, len(spans))))
    return results[0] if len(results) == 1 else np.add.reduce(results)


def _look_at_chunks(chunks: Chunks, row: Format, threads: int, *, down: bool) -> _Look:
    """Look at integers of four and eight bytes, and at floats that are not contiguous."""
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
            numbers, exact = values.view(row.name), row.bits == 32
            found = cpu.tally_integers(
                numbers, first, last, exact, slots.table, counters, sums[rows]
            )
        ends.append(found)

    totals = _sweep(chunks, threads, (cpu.SUBTABLES, slots.kind.size), count)
    low = min((end[0] for end in ends), default=math.inf)
    high = max((end[1] for end in ends), default=-math.inf)
    if ends and row.kind != "float":
        low, high = as_float(int(low), down=down), as_float(int(high), down=down)
    return _Look(_classified(totals, row), low, high, *add_up(sums.tolist()))


def _classified(totals: NDArray[np.uint64], row: Format) -> NDArray[np.uint64]:
    from fasthist.kernels import cpu

    slots = slots_of(row.name if row.is_code or row.name == "float32" else "float64")
    result = np.zeros(_LIMITS.stop, dtype=np.uint64)
    cpu.classify(
        totals, slots.meaning,
        result[_KINDS], result[_LIMITS], result[_EXPONENTS], result[_LOSSES],
    )  # fmt: skip
    return result


def _look_at_patterns(chunks: Chunks, row: Format, threads: int, *, down: bool) -> _Look:
    """Look at formats of one and two bytes: count each pattern, and derive the rest."""
    from fasthist.kernels import cpu, cpu_patterns

    del down  # they hold no integer that float64 does not
    slots = slots_of(row.name)
    kernel = cpu_patterns.count_codes8 if row.bits == 8 else cpu_patterns.count_codes16

    def count(
        values: NDArray[Any], first: int, last: int, rows: slice, counters: NDArray[np.uint32]
    ) -> None:
        del rows
        kernel(values[first * CHUNK : last * CHUNK], counters)

    # Two subtables of 65,536 counters are as large as the second-level cache; eight bits leave room for four.
    shape = (cpu.SUBTABLES, 256) if row.bits == 8 else (2, 65536)
    totals = _sweep(chunks, threads, shape, count)
    result = _classified(totals, row)
    seen = np.flatnonzero((totals > 0) & (slots.kind <= ZERO))
    if not seen.size:
        return _Look(result, math.inf, -math.inf, 0.0, 0.0, totals)
    values, times = slots.values[seen], totals[seen].astype(np.float64)
    # At most 16 bits of integer or 11 of mantissa: each product is exact, and fsum rounds once.
    total = math.fsum((values * times).tolist())
    squares = math.fsum((values * values * times).tolist())
    # Adding zero turns -0.0 into 0.0.
    low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
    return _Look(result, low, high, total, squares, totals)


def _place(
    patterns: NDArray[np.uint64], row: Format, buckets: Buckets
) -> tuple[NDArray[np.uint64], int, int]:
    """Put the counts of patterns into buckets by the buckets' own definition."""
    slots = slots_of(row.name)
    seen = np.flatnonzero((patterns > 0) & (slots.kind <= ZERO))
    placed = np.zeros(len(buckets) + 2, dtype=np.uint64)
    np.add.at(placed, buckets.index(slots.values[seen]) + 1, patterns[seen])
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
