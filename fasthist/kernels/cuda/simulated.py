"""One GPU that is simulated: what `driver` gives, of numpy's arrays, with kernels that run as they are called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class DriverError(Exception):
    """What is never raised here."""

    lasts = lacks_memory = False


def gpu_count() -> int:
    """Return how many GPUs there are."""
    return 1


def gpu_of(address: int) -> int:
    """Return the number of the GPU that an address belongs to."""
    del address
    return 0


class Memory:
    """Numbers in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.size, self.dtype = array.size, array.dtype
        self.address: int = array.__array_interface__["data"][0]


class Gpu:
    """The GPU of number 0."""

    def __init__(self, number: int) -> None:
        if number >= gpu_count():
            msg = f"there is no GPU {number}"
            raise IndexError(msg)
        self.give_up: Callable[[], object] = list

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing, within a ``with`` statement."""
        return contextlib.nullcontext()

    def sweep(self, most: int = 0) -> None:
        """Leave it to Python."""

    def empty(self, size: int, dtype: Any) -> Memory:
        """Allocate memory for so many numbers."""
        return Memory(np.empty(max(size, 1), dtype=dtype))

    def zeros(self, size: int, stream: int) -> Memory:
        """Allocate memory for so many uint64, all 0."""
        del stream
        return Memory(np.zeros(size, dtype=np.uint64))

    def mapped(self, size: int) -> Memory:
        """Allocate memory for so many uint64."""
        return self.zeros(size, 0)

    def upload(self, array: NDArray[Any], stream: int | None = None) -> Memory:
        """Copy an array."""
        del stream
        return Memory(array.copy())

    def copy(self, memory: Memory, array: NDArray[Any], stream: int | None = None) -> None:
        """Copy an array to where memory begins."""
        del stream
        memory.array[: array.size] = array

    def check(self, stream: int) -> None:
        """Find nothing."""

    def record(self, stream: int) -> object:
        """Return an event."""
        return stream

    def wait(self, stream: int, event: object) -> None:
        """Do nothing: whatever was launched is done."""

    def has_come(self, event: object) -> bool:
        """Say so."""
        del event
        return True

    def blocks_at_once(
        self, kernel: Any, label: str, threads: int, arguments: Iterable[Any]
    ) -> int:
        """Return how many blocks there are at most."""
        del kernel, label, threads, arguments
        return 3

    def call(
        self, kernel: Any, label: str, blocks: int, threads: int, arguments: Iterable[Any]
    ) -> Call:
        """Prepare launches of a kernel with these arguments."""
        del label
        return Call(kernel, blocks, threads, list(arguments))


class Call(NamedTuple):
    """A kernel and its arguments."""

    kernel: Any
    blocks: int
    threads: int
    arguments: list[Any]

    def put(self, place: int, memory: Memory) -> None:
        """Replace an argument."""
        self.arguments[place] = memory

    def run(self, gpu: Gpu, stream: int) -> None:
        """Run it."""
        del gpu, stream
        arrays = [getattr(argument, "array", argument) for argument in self.arguments]
        self.kernel[self.blocks, self.threads](*arrays)
