"""From arrays to `Histogram` values: the one place that branches on the device.

`fasthist.kernels.host` counts arrays in host memory on the CPU; `fasthist.kernels.cuda.tally` arrays in a GPU's memory
there; `fasthist.kernels.cuda.upload` brings arrays from host memory to a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fasthist.buckets import Buckets
from fasthist.dtypes import Format
from fasthist.hist import Histogram
from fasthist.kernels import host
from fasthist.kernels.cuda import require
from fasthist.kernels.cuda.plan import DeviceArray, DeviceArrays

HostArray = tuple[NDArray[Any], Format]


def tally(
    arrays: Sequence[HostArray | DeviceArray] | DeviceArrays,
    buckets: Buckets | int,
    threads: int,
    gpu: int | None = None,
    *,
    outlined: bool = False,
) -> list[Histogram]:
    """Count every element of some arrays; the histograms of a GPU are waited for when a value is read.

    `arrays` are (carrier[...], Format), bit patterns in host memory and what they mean, or `DeviceArray` in a GPU's. An int for
    `buckets` asks for that many uniform ones over each array's finite [min, max]. `threads` is the most CPU threads, `gpu`
    the index of the GPU that counts arrays in host memory, None for the CPU. `outlined` adds an outline, only over
    TensorFlow's buckets.
    """
    if isinstance(arrays, DeviceArrays):
        require()
        from fasthist.kernels.cuda.tally import tally_on_devices

        return tally_on_devices(arrays, buckets, outlined=outlined)
    there = [array for array in arrays if isinstance(array, DeviceArray)]
    here = [array for array in arrays if not isinstance(array, DeviceArray)]
    counted: list[Histogram] = []
    if there or gpu is not None:
        require()
    if there:
        from fasthist.kernels.cuda.tally import tally_on_devices

        # First, so that the GPU counts while the CPU does.
        counted = tally_on_devices(there, buckets, outlined=outlined)
    if not here:
        return counted
    if gpu is None:
        counted_here = host.tally(here, buckets, threads, outlined=outlined)
    else:
        from fasthist.kernels.cuda.upload import tally_uploaded

        counted_here = tally_uploaded(here, buckets, gpu, outlined=outlined)
    if not there:
        return counted_here
    sources = {True: iter(counted), False: iter(counted_here)}
    return [next(sources[isinstance(array, DeviceArray)]) for array in arrays]
