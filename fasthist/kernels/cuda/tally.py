"""Arrays in the memory of GPUs, counted there: which kernel counts which of them, and what comes of it."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import numpy as np

from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.dtypes import FORMATS
from fasthist.hist import Histogram, Outline
from fasthist.kernels.answers import (
    as_float32,
    between,
    ends_of,
    histogram_of,
    in_limits,
    place,
)
from fasthist.kernels.cuda.batch import Answer, Batch
from fasthist.kernels.cuda.device import open_device
from fasthist.kernels.cuda.formats import as_number
from fasthist.kernels.cuda.plan import FLOAT32, FLOAT64, DeviceArray, DeviceArrays, kind_of
from fasthist.kernels.looks import Look, classified, look_of_patterns
from fasthist.kernels.outlines import outline_of_patterns, outline_of_sample
from fasthist.kernels.totals import add_up, as_float
from fasthist.outline import Rows
from fasthist.pending import PendingHistogram

_MOST_EDGES = 1 << 22
"""Counts between edges that one batch keeps in memory."""


def tally_on_devices(
    arrays: Sequence[DeviceArray] | DeviceArrays, buckets: Buckets | int, *, outlined: bool
) -> list[Histogram]:
    """Begin to count every element of some arrays, each where it lies.

    Parameters
    ----------
    arrays : sequence of DeviceArray, or DeviceArrays
        At least one. A sequence may be of several devices.
    buckets : Buckets or int
        As in `fasthist.kernels.tally`. For an int the call waits until the extremes are known.
    outlined : bool
        As there.

    Returns
    -------
    list of Histogram
        One for each array; a value that is read waits for the device.

    Raises
    ------
    DeviceError
        A device cannot be used, or has no memory left. What it does later, it tells whoever reads a value.
    """
    if isinstance(arrays, DeviceArrays):
        return _tally(arrays, buckets, outlined=outlined)
    numbers = set(map(operator.attrgetter("device"), arrays))
    if len(numbers) == 1:
        return _tally(DeviceArrays.of(arrays), buckets, outlined=outlined)
    found: list[Histogram | None] = [None] * len(arrays)
    for number in sorted(numbers):
        members = [i for i, array in enumerate(arrays) if array.device == number]
        mine = DeviceArrays.of([arrays[i] for i in members])
        counted = _tally(mine, buckets, outlined=outlined)
        for i, histogram in zip(members, counted, strict=True):
            found[i] = histogram
    return [histogram for histogram in found if histogram is not None]


def _tally(arrays: DeviceArrays, buckets: Buckets | int, *, outlined: bool) -> list[Histogram]:
    device = open_device(arrays.device)
    batch = device.count(arrays, sampled=outlined)
    if not isinstance(buckets, int) and buckets == tensorflow_buckets():
        find = functools.partial(_in_limits, batch, buckets, outlined)
        return [PendingHistogram(find, i) for i in range(len(arrays.sizes))]
    seconds: dict[int, tuple[Batch, int, Buckets]] = {}
    again = [i for i, name in enumerate(arrays.formats) if FORMATS[name].bits > 8]
    width = buckets if isinstance(buckets, int) else len(buckets)
    step = max(1, _MOST_EDGES // width)
    for begin in range(0, len(again), step):
        group = again[begin : begin + step]
        members = arrays.select(group)
        if isinstance(buckets, int):
            answers = batch.answers()
            looks = [look_of(answers[i], arrays.formats[i], down=False) for i in group]
            own = [uniform_buckets(buckets, *ends_of(look)) for look in looks]
            edges = np.stack([one.edges for one in own])
            even = bool(np.isfinite(edges[:, -1] - edges[:, 0]).all())
        else:
            own, edges, even = [buckets] * len(group), buckets.edges, False
        second = device.count_between(members, edges, even=even)
        seconds |= {i: (second, j, own[j]) for j, i in enumerate(group)}
    find = functools.partial(_between, batch, buckets, seconds)
    return [PendingHistogram(find, i) for i in range(len(arrays.sizes))]


def _in_limits(batch: Batch, buckets: Buckets, outlined: bool, i: int) -> Histogram:
    name, size, _ = batch.layouts[i]
    answer = batch.answers()[i]
    look = look_of(answer, name, down=True)
    outline: Outline = None
    if outlined and look.low <= look.high:
        outline = functools.partial(_outline, answer, name, size, look)
    return histogram_of(look, buckets, in_limits(look), outline)


def _outline(answer: Answer, name: str, size: int, look: Look) -> Rows:
    if look.patterns is not None:
        return outline_of_patterns(look.patterns, name)
    assert answer.sample is not None
    row = FORMATS[name]
    if row.is_code:
        return outline_of_sample(as_float32(answer.sample, row).view(np.float32), size, look)
    return outline_of_sample(answer.sample.view(name), size, look)


def _between(
    batch: Batch, buckets: Buckets | int, seconds: dict[int, tuple[Batch, int, Buckets]], i: int
) -> Histogram:
    name = batch.layouts[i].format
    look = look_of(batch.answers()[i], name, down=False)
    if i in seconds:
        counted, j, own = seconds[i]
        return histogram_of(look, own, between(counted.answers()[j].counts), None)
    assert look.patterns is not None
    own = uniform_buckets(buckets, *ends_of(look)) if isinstance(buckets, int) else buckets
    return histogram_of(look, own, place(look.patterns, FORMATS[name], own), None)


def look_of(answer: Answer, name: str, *, down: bool) -> Look:
    """Bring what a device has found in an array into the form of `fasthist.kernels.looks`."""
    if FORMATS[name].bits == 8:
        return look_of_patterns(answer.counts, FORMATS[name])
    row = classified(answer.counts, FORMATS["float64"])
    if answer.low > answer.high:
        low, high = math.inf, -math.inf
    else:
        low, high = (as_number(kind_of(name), key) for key in (answer.low, answer.high))
        if kind_of(name) not in (FLOAT32, FLOAT64):
            low, high = as_float(int(low), down=down), as_float(int(high), down=down)
    return Look(row, low, high, *add_up(answer.sums))
