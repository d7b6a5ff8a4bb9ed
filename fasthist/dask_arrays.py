"""Dask's arrays: one task counts a chunk where it is, and a tree of tasks adds up the histograms.

Guarantees:

- No chunk leaves the worker that made it, and none is kept longer than it takes to count it.
- All arrays of a call are one graph, computed once, by whatever scheduler Dask is set to.
- Counts, extremes and special values are those of the whole array in one piece.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fasthist import intake
from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.errors import ArrayError
from fasthist.hist import Histogram
from fasthist.kernels import host, tally
from fasthist.kernels.cuda.plan import DeviceArray
from fasthist.kernels.pool import VARIABLE, thread_count
from fasthist.outline import merge_outlines

_BRANCHES = 16
"""Histograms that one task adds up: some 400 kB sent to one worker."""


def is_dask(values: Any) -> TypeGuard[Any]:
    """Return whether this is a Dask array, without importing Dask."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(values, module.Array)


class How(NamedTuple):
    """How a task counts a chunk: `device` is that of `fasthist.histogram`, `gpu` the number in it.

    `threads` are the CPU threads of each task. None: ``FASTHIST_NUM_THREADS`` of the worker, else 1, since Dask runs a
    task on each of its own threads.
    """

    threads: int | None
    device: str | None
    gpu: int | None
    outlined: bool

    def thread_count(self) -> int:
        """Return how many threads this worker's tasks use."""
        if self.threads is None and not os.environ.get(VARIABLE, "").strip():
            return 1
        return thread_count(self.threads)


def count(arrays: Mapping[str, Any], buckets: Buckets | int, how: How) -> dict[str, Histogram]:
    """Count every element of Dask arrays (any shape and chunks, empty and unknown ones too), in one computation.

    Sums are those of the chunks, added up: within ``2**-37`` of the sum of magnitudes of the chunks' own, and a rounding
    for each addition. The outline is that of a sum of histograms. ArrayError if a dtype cannot be counted, before
    anything is computed; if a chunk is not a dense array; or if its values were others when they were made again. What a
    task of the arrays' own raises comes through.

    Named buckets and edges take one pass. Uniform ones (an int) need the extremes of all chunks before the first can be
    counted, so every chunk is made and read twice, in one graph: for all but the counts, and for the counts. Keeping the
    chunks would take the memory of the whole array; where there is enough, ``x.persist()`` first is quicker.

    The kernels are compiled once per machine, by `fasthist.warmup` or the first call, and found in Numba's cache by
    every worker that shares it.

    >>> import dask.array, fasthist
    >>> x = dask.array.arange(1_000_000, chunks=100_000) % 10
    >>> fasthist.histogram(x, buckets=5).counts.tolist()
    [200000, 200000, 200000, 200000, 200000]
    """
    import dask

    graphs = [_graph(array, name, buckets, how) for name, array in arrays.items()]
    counted: dict[str, Histogram] = dict(zip(arrays, dask.compute(*graphs), strict=True))
    for name, histogram in counted.items():
        if isinstance(buckets, int) and histogram.counts.sum() != histogram.num:
            msg = (
                f"{name}: the values of the Dask array were others when its chunks were made a second time. Accepted "
                'with a number of buckets: chunks that are the same each time. Hint: pass .persist(), or buckets="auto".'
            )
            raise ArrayError(msg)
    return counted


def _graph(array: Any, name: str, buckets: Buckets | int, how: How) -> Any:
    """Return a Dask array without dimensions, whose only chunk is the histogram."""
    # The caller hears of a dtype that cannot be counted before anything is computed.
    intake.read(np.empty(0, array.dtype), name)
    if isinstance(buckets, Buckets):
        return _reduced(_each(partial(_count, name, how, buckets), array), _added)
    from dask.graph_manipulation import bind

    # Edges other than TensorFlow's take integers as float64, as uniform ones do.
    rounds = array.dtype.kind in "iu" and array.dtype.itemsize == 8
    first = Buckets(np.array([0.0, 1.0])) if rounds else tensorflow_buckets()
    look = _reduced(_each(partial(_count, name, how, first), array), _added)
    edges = _each(partial(_divide, buckets), look)
    # The same chunks under other names, made after the edges are known: otherwise all would be held until then.
    again = _each(partial(_count_again, name, how), bind(array, edges), edges)
    return _each(_completed, look, edges, _reduced(again, _added_counts))


def _each(work: Any, array: Any, *shared: Any) -> Any:
    """Call ``work(chunk, *shared)`` for each chunk; `shared` are arrays without dimensions."""
    import dask.array

    index = tuple(range(array.ndim))
    others = [part for array_shared in shared for part in (array_shared, ())]
    meta = np.empty((0,) * array.ndim, dtype=object)
    return dask.array.blockwise(work, index, array, index, *others, dtype=object, meta=meta)


def _reduced(counted: Any, add: Any) -> Any:
    """Add up a Dask array whose chunks are histograms or their counts, by a tree."""
    import dask.array

    return dask.array.reduction(
        counted, chunk=_unchanged, combine=add, aggregate=add, concatenate=False, split_every=_BRANCHES,
        dtype=object, meta=np.empty((), dtype=object),
    )  # fmt: skip


def _unchanged(counted: Any, axis: Any, keepdims: bool) -> Any:
    del axis, keepdims
    return counted


def _count(name: str, how: How, buckets: Buckets, chunk: Any) -> Histogram:
    array = intake.read(chunk, name, how.device)
    return tally([array], buckets, how.thread_count(), how.gpu, outlined=how.outlined)[0]


def _count_again(name: str, how: How, chunk: Any, edges: Buckets) -> NDArray[np.uint64]:
    """Count in buckets that divide the range of all values."""
    array = intake.read(chunk, name, how.device)
    if isinstance(array, DeviceArray) or how.gpu is not None:
        return tally([array], edges, how.thread_count(), how.gpu)[0].counts
    return host.count_uniform(array, edges, how.thread_count())


def _divide(number: int, whole: Histogram) -> Buckets:
    ends = (0.0, 1.0) if whole.min is None or whole.max is None else (whole.min, whole.max)
    return uniform_buckets(number, *ends)


def _completed(look: Histogram, edges: Buckets, counts: NDArray[np.uint64]) -> Histogram:
    return replace(look, buckets=edges, counts=counts, below_count=0, above_count=0)


def _flat(counted: Any) -> list[Any]:
    """Flatten nested lists: one level for each axis, or none."""
    if not isinstance(counted, list):
        return [counted]
    return [leaf for part in counted for leaf in _flat(part)]


def _added_counts(counted: Any, axis: Any, keepdims: bool) -> NDArray[np.uint64]:
    del axis, keepdims
    total: NDArray[np.uint64] = np.add.reduce(_flat(counted))
    return total


def _added(counted: Any, axis: Any, keepdims: bool) -> Histogram:
    del axis, keepdims
    parts: list[Histogram] = _flat(counted)
    # All outlines at once: merging one after the other takes longer, and moves the rows each time.
    plain = [replace(part, outlined=None) for part in parts]
    outlines = [
        (part.outline, part.min, part.max)
        for part in parts
        if part.outline is not None and part.min is not None and part.max is not None
    ]
    rows = merge_outlines(outlines) if outlines else None
    return replace(sum(plain[1:], plain[0]), outlined=rows)
