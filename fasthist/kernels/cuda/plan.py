"""What the CUDA kernels are told about a list of tensors, and where each of them finds and leaves what.

Two arrays of uint64. The *plan* depends on formats and shapes alone, so it stays on the device from step to step: a row
for each tensor, then the strides of those that are not contiguous, then for each launch the ranges of the blocks. The
*mail* lies in the host's memory, where kernels read and write it over the bus: first the addresses of the tensors, then
what was found in each.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.dtypes import FORMATS

COLUMNS = 9
SIZE, FIRST, ROW, SUMS, DIMS, ITEM, KIND, COUNT, OUT = range(COLUMNS)
"""Columns of a row: elements; number of the first chunk; where its counts begin on the device, and the sums of its chunks;
where in the plan its strides stand, or 0; bytes of an element; the kind; how many counts to hand over, or the most
elements of a sample; and where in the mail the answer begins."""

PLAIN, FLOAT32, FLOAT64, INT32, INT64, UNSIGNED = range(6)
"""Kinds of answers: counts as they stand, or those of slots with what orders as the numbers of the kind do."""

MOST_SAMPLE = 1 << 15
"""Most elements of a sample."""

_TENSOR_COST = 1 << 15
"""Bytes that could be read in the time in which a block begins with another tensor."""


class DeviceArray(NamedTuple):
    """An array in the memory of a GPU.

    Attributes
    ----------
    address : int
        Of its first element.
    size : int
        Elements.
    dims : tuple of (int, int)
        See `Layout`.
    format : str
        A name in `fasthist.dtypes.FORMATS`.
    device : int
        Number of the GPU.
    stream : int
        Handle of the CUDA stream on which its elements are there in time; 0 for the default stream.
    until_launched, until_counted : object
        What has to stay alive so long.
    """

    address: int
    size: int
    dims: tuple[tuple[int, int], ...]
    format: str
    device: int
    stream: int
    until_launched: object = None
    until_counted: object = None


class DeviceArrays(NamedTuple):
    """Arrays in the memory of one GPU, column by column: for hundreds of tensors an object for each takes too long.

    Attributes
    ----------
    device : int
        Number of the GPU.
    addresses : uint64[n]
    sizes, dims, formats : tuple
        As in `Layout`.
    streams : list of int
        Those of the arrays, each once; what counts them runs on the first.
    until_counted : list
        What has to stay alive so long.
    """

    device: int
    addresses: NDArray[np.uint64]
    sizes: tuple[int, ...]
    dims: tuple[tuple[tuple[int, int], ...], ...]
    formats: tuple[str, ...]
    streams: list[int]
    until_counted: list[object]

    @classmethod
    def of(cls, arrays: Sequence[DeviceArray]) -> DeviceArrays:
        """Arrange some arrays of one GPU."""
        addresses, sizes, dims, formats, devices, streams, _, kept = zip(*arrays, strict=True)
        return cls(
            devices[0],
            np.array(addresses, dtype=np.uint64),
            sizes,
            dims,
            formats,
            list(dict.fromkeys(streams)),
            [held for held in kept if held is not None],
        )

    def select(self, places: Sequence[int]) -> DeviceArrays:
        """Return some of them."""
        return self._replace(
            addresses=self.addresses[np.asarray(places)],
            sizes=tuple(self.sizes[i] for i in places),
            dims=tuple(self.dims[i] for i in places),
            formats=tuple(self.formats[i] for i in places),
        )

    @property
    def layouts(self) -> list[Layout]:
        """How the elements of each lie in memory."""
        return list(map(Layout, self.formats, self.sizes, self.dims))


class Layout(NamedTuple):
    """How the elements of a tensor lie in memory.

    Attributes
    ----------
    format : str
        A name in `fasthist.dtypes.FORMATS`.
    size : int
        Elements.
    dims : tuple of (int, int)
        Lengths and strides in bytes, innermost first; empty for a contiguous and aligned tensor.
    """

    format: str
    size: int
    dims: tuple[tuple[int, int], ...] = ()


class Launch(NamedTuple):
    """One launch of a counting kernel: the tensors of one format.

    Attributes
    ----------
    format : str
    strided : bool
    begin, end : int
        Rows of the plan.
    starts : int
        Where in the plan the ranges of the blocks begin.
    blocks : int
    """

    format: str
    strided: bool
    begin: int
    end: int
    starts: int
    blocks: int


class Plan(NamedTuple):
    """How a list of tensors is counted.

    Attributes
    ----------
    table : uint64[...]
        What is on the device.
    launches : list of Launch
    layouts : sequence of Layout
        Of each tensor.
    rows : int64[n]
        The row of each tensor, in the order of the list.
    outs : list of int
        Where in the mail the answer of each tensor begins.
    work, sums, mail : int
        How many numbers each of these takes.
    """

    table: NDArray[np.uint64]
    launches: list[Launch]
    layouts: Sequence[Layout]
    rows: NDArray[np.int64]
    outs: list[int]
    work: int
    sums: int
    mail: int


class Need(NamedTuple):
    """What the answer to one tensor takes.

    Attributes
    ----------
    kind : int
    counts : int
        Numbers on the device.
    amount : int
        What the column COUNT says.
    answer : int
        Numbers in the mail.
    wide : bool
        Whether an element of the sample takes 64 bits.
    """

    kind: int
    counts: int
    amount: int
    answer: int
    wide: bool = False


def in_memory_order(
    address: int, shape: Sequence[int], strides: Sequence[int], itemsize: int
) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Describe a strided array as a walk in the order of memory, which changes no histogram.

    Parameters
    ----------
    address : int
        Of its first element.
    shape, strides : sequence of int
        Strides in bytes.
    itemsize : int
        Bytes of an element.

    Returns
    -------
    address : int
        Of the element that the walk begins with.
    dims : tuple of (int, int)
        See `Layout`.
    """
    axes = []
    for length, stride in zip(shape, strides, strict=True):
        if stride < 0:
            address += (length - 1) * stride
        if length != 1:
            axes.append((length, abs(stride)))
    axes.sort(key=operator.itemgetter(1))
    merged: list[tuple[int, int]] = []
    for length, stride in axes:
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0] * length, merged[-1][1])
        else:
            merged.append((length, stride))
    if address % itemsize == 0 and (not merged or (len(merged) == 1 and merged[0][1] == itemsize)):
        return address, ()
    return address, tuple(merged) or ((1, itemsize),)


def make_plan(
    layouts: Sequence[Layout],
    need: Callable[[Layout], Need],
    most_blocks: Callable[[str, bool], int],
    chunk: int,
) -> Plan:
    """Decide which block counts what.

    Parameters
    ----------
    layouts : sequence of Layout
        At least one.
    need : callable
        What the answer to a tensor takes.
    most_blocks : callable
        How many blocks of the kernel of a format, strided or not, the device runs at once.
    chunk : int
        Elements in a chunk.
    """
    order = sorted(range(len(layouts)), key=lambda i: (layouts[i].format, bool(layouts[i].dims)))
    chunks = [-(-layouts[i].size // chunk) for i in order]
    firsts = [0, *itertools.accumulate(chunks)]
    needs = [need(layouts[i]) for i in order]
    table = np.zeros((len(order), COLUMNS), dtype=np.uint64)
    pool: list[int] = []
    held, out = 0, len(order)
    outs = [0] * len(order)
    for row, i in enumerate(order):
        layout, one = layouts[i], needs[row]
        dims = 0
        if layout.dims:
            dims = table.size + len(pool)
            pool += [len(layout.dims), *itertools.chain.from_iterable(layout.dims)]
        item = FORMATS[layout.format].bits // 8
        sums = 3 * firsts[row]
        table[row] = (layout.size, firsts[row], held, sums, dims, item, one.kind, one.amount, out)
        outs[i] = out
        held += one.counts
        out += one.answer
    launches = []
    parts = [table.reshape(-1), np.array(pool, dtype=np.uint64)]
    starts = table.size + len(pool)
    for (name, strided), group in itertools.groupby(
        range(len(order)), lambda row: (layouts[order[row]].format, bool(layouts[order[row]].dims))
    ):
        rows = list(group)
        begin, end = rows[0], rows[-1] + 1
        if firsts[begin] == firsts[end]:  # all of them are empty
            continue
        ranges = _ranges(table[begin:end], chunk, firsts[end], most_blocks(name, strided))
        launches.append(Launch(name, strided, begin, end, starts, ranges.size - 1))
        parts.append(ranges)
        starts += ranges.size
    return Plan(
        np.concatenate(parts), launches, layouts, np.argsort(order), outs, held, 3 * firsts[-1], out
    )


def _ranges(
    table: NDArray[np.uint64], chunk: int, last: int, most_blocks: int
) -> NDArray[np.uint64]:
    """Divide the chunks of some tensors into contiguous ranges that take equally long."""
    first = int(table[0, FIRST])
    blocks = min(last - first, most_blocks)
    # Where each chunk ends, in bytes read; a tensor begins with what it costs to begin.
    sizes, items = table[:, SIZE].astype(np.int64), table[:, ITEM].astype(np.int64)
    counts = -(-sizes // chunk)
    cost = np.repeat(chunk * items, counts)
    ends = np.cumsum(counts)
    filled = counts > 0
    cost[ends[filled] - 1] -= (counts * chunk - sizes)[filled] * items[filled]
    cost[(ends - counts)[filled]] += _TENSOR_COST
    done = np.append(0, np.cumsum(cost))
    shares = np.arange(1, blocks) * done[-1] // max(blocks, 1)
    inner = np.searchsorted(done, shares)
    return (first + np.concatenate(([0], inner, [last - first]))).astype(np.uint64)


@functools.cache
def kind_of(name: str) -> int:
    """Give the kind of a format whose slots are counted."""
    row = FORMATS[name]
    if row.bits == 16 or name == "float32":
        return FLOAT32
    if name == "float64":
        return FLOAT64
    return {"int32": INT32, "int64": INT64}.get(name, UNSIGNED)
