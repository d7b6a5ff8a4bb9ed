"""Arrays in host memory, counted on a GPU: brought there piece after piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.dtypes import Format
from fasthist.hist import Histogram
from fasthist.kernels.answers import as_float32, between, ends_of, histogram_of, in_limits, place
from fasthist.kernels.chunks import Chunks
from fasthist.kernels.cuda.batch import Answer, Batch
from fasthist.kernels.cuda.device import Device, open_device
from fasthist.kernels.cuda.plan import DeviceArray, DeviceArrays
from fasthist.kernels.cuda.tally import look_of
from fasthist.kernels.looks import Look
from fasthist.kernels.outlines import outline_of_patterns, outline_of_sample, sample_of
from fasthist.outline import Rows

PIECE = 1 << 22
"""Elements that are on the device at once: some milliseconds of the bus, long against a launch."""


def tally_uploaded(
    arrays: Sequence[tuple[NDArray[Any], Format]],
    buckets: Buckets | int,
    gpu: int,
    *,
    outlined: bool,
) -> list[Histogram]:
    """Count every element of some arrays in host memory on a GPU.

    Parameters
    ----------
    arrays, buckets, outlined
        As in `fasthist.kernels.tally`.
    gpu : int
        Number of the device.

    Raises
    ------
    DeviceError
        The device cannot be used, has no memory left, or fails.
    """
    device = open_device(gpu)
    return [_tally(device, array, row, buckets, outlined=outlined) for array, row in arrays]


def _tally(
    device: Device, array: NDArray[Any], row: Format, buckets: Buckets | int, *, outlined: bool
) -> Histogram:
    chunks = Chunks(array, PIECE)
    down = not isinstance(buckets, int) and buckets == tensorflow_buckets()
    found = _pieces(device, chunks, row, lambda piece: device.count(piece, sampled=False))
    look = look_of(_sum(found), row.name, down=down)
    if down:
        assert isinstance(buckets, Buckets)
        outline = _outline(chunks, row, look) if outlined and look.low <= look.high else None
        return histogram_of(look, buckets, in_limits(look), outline)
    even = isinstance(buckets, int)
    if isinstance(buckets, int):
        buckets = uniform_buckets(buckets, *ends_of(look))
    if look.patterns is not None:
        return histogram_of(look, buckets, place(look.patterns, row, buckets), None)
    edges = buckets.edges
    even &= math.isfinite(edges[-1] - edges[0])
    found = _pieces(
        device, chunks, row, lambda piece: device.count_between(piece, edges, even=even)
    )
    return histogram_of(look, buckets, between(_sum(found).counts), None)


def _pieces(
    device: Device, chunks: Chunks, row: Format, count: Callable[[DeviceArrays], Batch]
) -> Iterator[Answer]:
    gpu = device.gpu
    with device.errors(), gpu.current():
        staging = gpu.empty(min(chunks.size, PIECE), row.carrier)
    buffer = chunks.buffer()
    for i in range(max(chunks.count, 1)):
        length = 0
        if chunks.count:
            values, first, last, _ = chunks.take(range(i, i + 1), buffer)
            values = values[first * PIECE : last * PIECE]
            length = values.size
            with device.errors(), gpu.current():
                gpu.copy(staging, values)
        piece = DeviceArray(staging.address, length, (), row.name, device.number, 0)
        # Waited for, since the next piece takes the same memory.
        yield count(DeviceArrays.of([piece])).answers()[0]
    del staging
    with device.errors(), gpu.current():
        gpu.sweep(0)


def _sum(found: Iterable[Answer]) -> Answer:
    counts, lows, highs, sums, _ = zip(*found, strict=True)
    return Answer(np.add.reduce(counts), min(lows), max(highs), list(chain.from_iterable(sums)))


def _outline(chunks: Chunks, row: Format, look: Look) -> Rows:
    if look.patterns is not None:
        return outline_of_patterns(look.patterns, row.name)
    sample = sample_of(chunks, look)
    values = as_float32(sample, row).view(np.float32) if row.is_code else sample.view(row.name)
    return outline_of_sample(values, chunks.size, look)
