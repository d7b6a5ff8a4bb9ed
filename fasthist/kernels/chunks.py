"""Walk over any strided array in contiguous chunks, without a copy where memory is contiguous already.

The order of the elements does not matter to a histogram, so axes are walked in the order of their strides, and
backwards where a stride is negative: transposed, reversed and Fortran-ordered arrays are contiguous.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 1 << 16
"""Elements whose sums are added in one go; the sums of chunks do not depend on the number of threads."""


class Chunks:
    """The chunks of one array, numbered from 0; which elements they hold depends on the array alone.

    Takes carrier[...] of any shape, strides and byte order, and the most elements in a chunk. `count` chunks hold `size`
    elements; `flat`, carrier[n], has all of them if memory holds them contiguous and in native byte order, else None.
    """

    def __init__(self, array: Array, size: int) -> None:
        ordered = array if array.flags.c_contiguous else _in_memory_order(array)
        self._length = size
        self.size = array.size
        self._native = array.dtype.newbyteorder("=")
        self.flat: Array | None = None
        self._pieces: list[Array] = []
        if ordered.flags.c_contiguous and ordered.flags.aligned and array.dtype.isnative:
            self.flat = _writable(ordered.reshape(-1))
            self.count = -(-array.size // size)
        else:
            self._pieces = list(_split(ordered, size))
            self.count = len(self._pieces)

    @property
    def address(self) -> int:
        """The address of `flat`'s first element."""
        assert self.flat is not None
        return int(self.flat.__array_interface__["data"][0])

    def buffer(self) -> Array:
        """Return memory for `take` to copy a chunk to; each thread needs its own."""
        return np.empty(0 if self.flat is not None else self._length, dtype=self._native)

    def spans(self, threads: int) -> list[range]:
        """Divide the chunks into spans that threads can take in turn: several for each thread, none very long."""
        # 64 chunks are some milliseconds, long against the microseconds that taking one costs.
        length = 1 if self.flat is None else max(1, min(64, self.count // (4 * threads)))
        return [range(i, min(i + length, self.count)) for i in range(0, self.count, length)]

    def pick(self, places: NDArray[np.int64]) -> Array:
        """Copy elements of an array that is not `flat`: int64[k] increasing places in the order of the chunks."""
        ends = np.cumsum([piece.size for piece in self._pieces])
        parts = np.split(places, np.searchsorted(places, ends[:-1]))
        picked = [
            piece[np.unravel_index(part - (end - piece.size), piece.shape)]
            for piece, part, end in zip(self._pieces, parts, ends, strict=True)
        ]
        return np.concatenate(picked).astype(self._native)

    def take(self, span: range, buffer: Array) -> tuple[Array, int, int, slice]:
        """Return ``values, first, last, rows`` for a span.

        `values` are carrier[n], contiguous and in native byte order: the whole array, or `buffer`. Chunks `first` to
        `last` - 1 of it are the span's; `rows` is where these rows begin in a table with a row for each chunk of the array.
        """
        if self.flat is not None:
            return self.flat, span.start, span.stop, slice(None)
        piece = self._pieces[span.start]
        values = buffer[: piece.size]
        np.copyto(values.reshape(piece.shape), piece)
        return values, 0, 1, slice(span.start, span.stop)


def _in_memory_order(array: Array) -> Array:
    array = array[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)]
    axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    return array.transpose(axes).squeeze()


def _split(array: Array, size: int) -> Iterator[Array]:
    if array.size == 0:
        return
    if array.size <= size:
        yield array
        return
    row = array.size // array.shape[0]
    if row >= size:
        for part in array:
            yield from _split(part, size)
        return
    for start in range(0, array.shape[0], size // row):
        yield array[start : start + size // row]


def _writable(flat: Array) -> Array:
    # A read-only array is another type to Numba, which would compile every kernel again. No kernel writes to its input.
    if flat.flags.writeable or flat.size == 0:
        return flat
    memory = (ctypes.c_char * flat.nbytes).from_address(flat.ctypes.data)
    memory._owner = flat  # type: ignore[attr-defined]  # keeps the memory alive as long as the alias
    return np.ndarray(flat.shape, flat.dtype, memoryview(memory))
