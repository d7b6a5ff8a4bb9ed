"""Arrays in host memory, counted on the CPU: which kernel counts which array."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.dtypes import FORMATS, Format
from fasthist.hist import Histogram, Outline
from fasthist.kernels import pool
from fasthist.kernels.answers import (
    Placed,
    as_float32,
    between,
    ends_of,
    histogram_of,
    in_limits,
    place,
)
from fasthist.kernels.chunks import CHUNK, Chunks
from fasthist.kernels.looks import Look, look_at_all, sweep

_GROUP_BYTES = 4 << 20
"""Most memory for the rows and copies of the arrays counted in one call."""

WIDEN_BELOW = {8: CHUNK // 4, 16: 4 * CHUNK}
"""Elements, by bits of the format, below which an array is copied as float32 and counted together with others.

For larger arrays it is quicker to count patterns: clearing and reading 65,536 counters takes about 0.3 ms a thread.
"""


def tally(
    arrays: Sequence[tuple[NDArray[Any], Format]],
    buckets: Buckets | int,
    threads: int,
    *,
    outlined: bool = False,
) -> list[Histogram]:
    """Count every element of some arrays; the result is the same to the last bit whatever is counted beside it.

    Arrays are (carrier[...], Format): bit patterns of any shape, strides and byte order, and what they mean. Only small arrays
    of 8 and 16 bits (`WIDEN_BELOW`) are copied, and, where an array is not contiguous, chunk after chunk into one buffer for
    each thread. An int for `buckets` asks for that many uniform ones over each array's finite [min, max], for which formats
    of four and eight bytes are read twice. `outlined` adds an outline, only over TensorFlow's buckets. Any number of threads
    gives the same result.
    """
    histograms: list[Histogram] = []
    down = buckets == tensorflow_buckets()
    for group in [arrays] if len(arrays) == 1 else _groups(arrays):
        walks = [(Chunks(array, CHUNK), row) for array, row in map(_widened, group)]
        looks = look_at_all(walks, threads, down=down)
        outlines = _outlines(looks, walks, threads) if outlined else itertools.repeat(None)
        histograms += [
            _histogram(look, chunks, row, buckets, threads, outline, down=down)
            for look, (chunks, row), outline in zip(looks, walks, outlines, strict=False)
        ]
    return histograms


def count_uniform(
    array: tuple[NDArray[Any], Format], buckets: Buckets, threads: int
) -> NDArray[np.uint64]:
    """Count an array, as for `tally`, in uniform buckets of known range, uint64[k]: only the second of its two passes.

    Values outside the buckets are skipped.
    """
    if array[1].is_code:
        return tally([array], buckets, threads)[0].counts
    chunks = Chunks(array[0], CHUNK)
    return _count_again(chunks, array[1], buckets, threads, spanned=True)[0]


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
    """Copy a small array of few patterns as float32."""
    array, row = item
    if not _is_widened(array, row):
        return item
    return np.atleast_1d(as_float32(array, row)), FORMATS["float32"]


def _outlines(looks: list[Look], walks: list[tuple[Chunks, Format]], threads: int) -> list[Outline]:
    """Outline all arrays; threads take them in turn."""
    from fasthist.kernels import outlines

    if len(looks) == 1:
        return [outlines.outline_of(*walks[0], looks[0]) if looks[0].low <= looks[0].high else None]
    outlined: list[Outline] = [None] * len(looks)
    turns = itertools.count()

    def work() -> None:
        while (turn := next(turns)) < len(looks):
            if looks[turn].low <= looks[turn].high:
                outlined[turn] = outlines.outline_of(*walks[turn], looks[turn])

    pool.run(work, min(threads, len(looks)))
    return outlined


def _histogram(
    look: Look, chunks: Chunks, row: Format, buckets: Buckets | int, threads: int, outline: Outline, *, down: bool
) -> Histogram:  # fmt: skip
    spanned = isinstance(buckets, int)
    if isinstance(buckets, int):
        buckets = uniform_buckets(buckets, *ends_of(look))
    if down:
        placed = in_limits(look)
    elif look.patterns is not None:
        placed = place(look.patterns, row, buckets)
    else:
        placed = _count_again(chunks, row, buckets, threads, spanned=spanned)
    return histogram_of(look, buckets, placed, outline)


def _count_again(
    chunks: Chunks, row: Format, buckets: Buckets, threads: int, *, spanned: bool
) -> Placed:
    """Read the values again, with edges that are now known; `spanned`: uniform ones over all finite values."""
    from fasthist.kernels import cpu, cpu_buckets

    edges = buckets.edges.copy()  # writable: see Chunks
    low, high, n = float(edges[0]), float(edges[-1]), len(buckets)
    if spanned and math.isfinite(high - low):
        # Rounding errors of the guess, and of the edges themselves, in units of one bucket.
        doubt = 8 * (n * 2.0**-53 + math.ulp(max(-low, high)) * n / (high - low))
        tables = cpu.SUBTABLES if n <= 4096 else 1

        def count(values: Any, first: int, last: int, _rows: slice, counters: Any) -> None:
            cpu_buckets.count_uniform(values.view(row.name), first, last, edges, doubt, counters)

        return sweep(chunks, threads, (tables, n + 1), count)[:-1], 0, 0

    def bisect(values: Any, first: int, last: int, _rows: slice, counters: Any) -> None:
        cpu_buckets.count_edges(values.view(row.name), first, last, edges, counters)

    return between(sweep(chunks, threads, (1, n + 3), bisect))
