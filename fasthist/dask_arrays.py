"""Dask's arrays: one task counts a chunk where the chunk is, and a tree of tasks adds up what they found.

Guarantees:

- No chunk leaves the worker that made it, and none is kept for longer than it takes to count it.
- All arrays of a call are one graph, computed once, by whatever scheduler Dask is set to.
- Counts, extremes and special values are those of the whole array in one piece.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeGuard

import numpy as np

from fasthist import intake
from fasthist.buckets import Buckets, auto_buckets, tensorflow_buckets, uniform_buckets
from fasthist.errors import ArrayError
from fasthist.hist import Histogram
from fasthist.kernels import tally
from fasthist.kernels.pool import VARIABLE, thread_count
from fasthist.outline import merge_outlines

_BRANCHES = 16
"""Histograms that one task adds up: some 400 kB that come to one worker."""


def is_dask(values: Any) -> TypeGuard[Any]:
    """Say whether something is an array of Dask; Dask is not imported for it."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(values, module.Array)


def count(
    arrays: Mapping[str, Any],
    buckets: Buckets | int,
    threads: int | None,
    device: str | None,
    gpu: int | None,
) -> dict[str, Histogram]:
    """Count every element of some arrays of Dask, in one computation.

    Parameters
    ----------
    arrays : mapping of str to dask.array.Array
        By name. Of any number of dimensions and size, with chunks of any sizes, empty and unknown ones too.
    buckets : Buckets or int
        An int: that many uniform buckets over each array's finite [min, max]. See the notes.
    threads : int, optional
        CPU threads of each task. Default: ``FASTHIST_NUM_THREADS`` of the worker, else 1, since Dask runs a task
        on each of its own threads.
    device : str, optional
        As in `fasthist.histogram`, for each chunk.
    gpu : int, optional
        The number in `device`, of a GPU of each worker.

    Returns
    -------
    dict of str to Histogram
        In the order of `arrays`. Sums are those of the chunks, added up: within ``2**-37`` of the sum of magnitudes of
        the chunks' own, and a rounding for each addition. The outline is that of a sum of histograms.

    Raises
    ------
    ArrayError
        The dtype of one cannot be counted; nothing has been computed then. Or a chunk is no dense array, or with an
        int for `buckets`, its values were others when they were made again.
    Exception
        Whatever a task of the arrays' own raises.

    Notes
    -----
    Named buckets and edges take one pass. Uniform ones need the extremes of all chunks before the first can be counted:
    both are in one graph, in which every chunk is made twice, since to keep them would take the memory of the whole
    array. ``x.persist()`` first is quicker where that is there.

    The kernels are compiled once for a machine, by `fasthist.warmup` or the first call, and found in Numba's cache by
    every worker that sees the same one.

    Examples
    --------
    >>> import dask.array, fasthist
    >>> x = dask.array.arange(1_000_000, chunks=100_000) % 10
    >>> fasthist.histogram(x, buckets=5).counts.tolist()
    [200000, 200000, 200000, 200000, 200000]
    """
    import dask

    how = {"threads": threads, "device": device, "gpu": gpu}
    graphs = [_graph(array, name, buckets, how) for name, array in arrays.items()]
    found: dict[str, Histogram] = dict(zip(arrays, dask.compute(*graphs), strict=True))
    for name, histogram in found.items():
        if isinstance(buckets, int) and histogram.below_count + histogram.above_count:
            msg = (
                f"{name}: the values of the Dask array were others when its chunks were made a second time. Accepted "
                'with a number of buckets: chunks that are the same each time. Hint: pass .persist(), or buckets="auto".'
            )
            raise ArrayError(msg)
    return found


def _graph(array: Any, name: str, buckets: Buckets | int, how: dict[str, Any]) -> Any:
    """Give an array of Dask without dimensions, whose only chunk is the histogram."""
    # Of a dtype that no chunk can be counted in, the caller hears before anything is computed.
    intake.read(np.empty(0, array.dtype), name)
    work = partial(_count, name=name, **how)
    if isinstance(buckets, Buckets):
        return _reduced(_each(partial(work, buckets=buckets), array))
    from dask.graph_manipulation import bind

    # Other edges than TensorFlow's take integers as float64, as uniform ones do, but need a second look at them.
    rounds = array.dtype.kind in "iu" and array.dtype.itemsize == 8
    first = Buckets(np.array([0.0, 1.0])) if rounds else tensorflow_buckets()
    edges = _each(
        partial(_divide, number=buckets), _reduced(_each(partial(work, buckets=first), array))
    )
    # The same chunks under other names, made after the edges are known: else all would be held until then.
    return _reduced(_each(work, bind(array, edges), edges))


def _each(work: Any, array: Any, *shared: Any) -> Any:
    """Call ``work(chunk, *shared)`` for each chunk; `shared` are arrays without dimensions."""
    import dask.array

    index = tuple(range(array.ndim))
    others = [part for one in shared for part in (one, ())]
    meta = np.empty((0,) * array.ndim, dtype=object)
    return dask.array.blockwise(work, index, array, index, *others, dtype=object, meta=meta)


def _reduced(counted: Any) -> Any:
    """Add up an array of Dask whose chunks are histograms, by a tree."""
    import dask.array

    return dask.array.reduction(
        counted,
        chunk=_unchanged,
        combine=_added,
        aggregate=_added,
        concatenate=False,
        split_every=_BRANCHES,
        dtype=object,
        meta=np.empty((), dtype=object),
    )


def _unchanged(counted: Any, axis: Any, keepdims: bool) -> Any:
    del axis, keepdims
    return counted


def _count(
    chunk: Any,
    buckets: Buckets,
    *,
    name: str,
    threads: int | None,
    device: str | None,
    gpu: int | None,
) -> Histogram:
    if threads is None and not os.environ.get(VARIABLE, "").strip():
        threads = 1
    return tally([intake.read(chunk, name, device)], buckets, thread_count(threads), gpu)[0]


def _divide(whole: Histogram, number: int) -> Buckets:
    ends = (0.0, 1.0) if whole.min is None or whole.max is None else (whole.min, whole.max)
    return uniform_buckets(number, *ends)


def _added(counted: Any, axis: Any, keepdims: bool) -> Histogram:
    """Add up histograms in nested lists: one for each axis, or none."""
    del axis, keepdims
    parts: list[Histogram] = []
    waiting = [counted]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Histogram):
            parts.append(one)
        else:
            waiting += reversed(one)
    if len(parts) == 1 or parts[0].buckets.name != "auto":
        return sum(parts[1:], parts[0])
    # All outlines at once: one after the other takes longer, and moves the rows each time.
    plain = [part.rebucket("tensorflow") for part in parts]
    outlines = [
        (part.outline, part.min, part.max)
        for part in parts
        if part.outline is not None and part.min is not None and part.max is not None
    ]
    rows = merge_outlines(outlines) if outlines else None
    return replace(sum(plain[1:], plain[0]), buckets=auto_buckets(), outlined=rows)
