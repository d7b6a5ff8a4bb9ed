"""Numpy arrays on a GPU, or in the simulator of one, exactly as they lie in memory: strides, alignment and all."""

from __future__ import annotations

import ctypes

import numpy as np

import fasthist
from fasthist.kernels.cuda.device import open_device

CHUNK = 256
"""Elements in a chunk, where tests look at what happens at its borders."""


class OnGpu:
    """A copy of an array, which gives its address as CuPy's and Numba's arrays do."""

    def __init__(self, array, stream=None):
        self.dtype = array.dtype
        reach = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
        before = -sum(step for step in reach if step < 0)
        after = sum(step for step in reach if step > 0) + array.itemsize
        first = array.__array_interface__["data"][0] - before
        content = ctypes.string_at(first, before + after) if array.size else b""
        gpu = open_device(0).gpu
        with gpu.current():
            self.memory = gpu.upload(np.zeros(32 + len(content), dtype=np.uint8))
            # As far from a multiple of 16 as it is here.
            begin = self.memory.address
            begin += (first - begin) % 16
            shifted = np.zeros(self.memory.size, dtype=np.uint8)
            shifted[begin - self.memory.address :][: len(content)] = np.frombuffer(
                content, np.uint8
            )
            gpu.copy(self.memory, shifted)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (begin + before, False),
            "strides": array.strides,
            "version": 3,
            "stream": stream,
        }


def histogram(values, **arguments):
    """Count an array, as `fasthist.histogram` does, on the GPU that it is copied to first."""
    array = np.asarray(values)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return fasthist.histogram(OnGpu(array), **arguments)


def small_chunks(monkeypatch):
    """Have the first GPU work in chunks of `CHUNK` elements."""
    monkeypatch.setattr(open_device(0), "chunk", CHUNK)
