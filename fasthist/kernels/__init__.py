"""From arrays to `Histogram` values: the one place that branches on the device.

`fasthist.kernels.host` counts what lies in host memory, on the CPU; `fasthist.kernels.cuda.tally` what lies in that of a GPU,
there; `fasthist.kernels.cuda.upload` brings the one to the other.
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
    """Count every element of some arrays.

    Parameters
    ----------
    arrays : sequence of (carrier[...], Format) or DeviceArray; or DeviceArrays
        Bit patterns in host memory, and what they mean; or where a GPU's memory holds an array.
    buckets : Buckets or int
        An int: that many uniform buckets over each array's finite [min, max].
    threads : int
        At most this many of the CPU's.
    gpu : int, optional
        Number of the GPU on which to count arrays in host memory. Default: on the CPU.
    outlined : bool
        Whether to find an outline too. Only over TensorFlow's buckets.

    Returns
    -------
    list of Histogram
        One for each array. Those that a GPU counts are waited for when a value is read.
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
        found = host.tally(here, buckets, threads, outlined=outlined)
    else:
        from fasthist.kernels.cuda.upload import tally_uploaded

        found = tally_uploaded(here, buckets, gpu, outlined=outlined)
    if not there:
        return found
    sources = {True: iter(counted), False: iter(found)}
    return [next(sources[isinstance(array, DeviceArray)]) for array in arrays]
