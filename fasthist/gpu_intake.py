"""Any producer's array in the memory of a GPU: its address, and the stream on which its elements are there in time."""

from __future__ import annotations

import ctypes
import functools
import operator
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fasthist.dtypes import FORMATS, Format
from fasthist.errors import ArrayError
from fasthist.kernels.cuda import require
from fasthist.kernels.cuda.plan import DeviceArray, DeviceArrays, in_memory_order

_LEGACY_STREAM = 1
"""The default stream of the driver, as both protocols call it."""

_DLPACK_CUDA = {2, 13}  # kDLCUDA, kDLCUDAManaged in dlpack.h

_DLPACK_KINDS = {
    0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool",
    10: "float8_e4m3fn", 11: "float8_e4m3fnuz", 12: "float8_e5m2", 13: "float8_e5m2fnuz",
}  # fmt: skip
"""DLDataTypeCode in dlpack.h."""


TORCH_KIND = "cuda"
"""What torch calls GPUs; where there is none, tests have it mean the CPU."""


def from_torch(
    tensor: Any, address: int, torch: Any, row: Format, streams: dict[int, int]
) -> DeviceArray:
    """Say where a CUDA tensor lies.

    Parameters
    ----------
    tensor : torch.Tensor
        Strided, on a CUDA device, with memory; as its bits stand.
    address : int
        Of its first element.
    torch : module
    row : Format
    streams : dict of int to int
        The current stream of each device, as far as it was asked for already: that takes longer than all else here.
    """
    device = tensor.get_device()
    stream = streams.get(device)
    if stream is None:
        stream = streams[device] = torch.cuda.current_stream(device).cuda_stream
    size = row.bits // 8
    # Once all is launched the tensor need not live on: what its memory is used for next comes later on the stream.
    if tensor.is_contiguous() and address % size == 0:
        return DeviceArray(address, tensor.numel(), (), row.name, device, stream, tensor)
    strides = [stride * size for stride in tensor.stride()]
    array = _array(address, tensor.shape, strides, row, device, stream)
    return array._replace(until_launched=tensor)


def plain_types(torch: Any) -> set[type]:
    """Return the types of which a tensor is nothing but its memory."""
    return {torch.Tensor, torch.nn.Parameter}


_device_of, _layout_of, _is_nested, _dtype_of = map(
    operator.attrgetter, ("device", "layout", "is_nested", "dtype")
)


def all_of_torch(tensors: list[Any]) -> DeviceArrays | None:
    """Say where many CUDA tensors lie, asking the same of all at once: a fifth of the time of one after the other.

    Parameters
    ----------
    tensors : list
        Of anything.

    Returns
    -------
    DeviceArrays or None
        None unless all are plain dense tensors on one GPU; what is special about one, `fasthist.intake.read` says.
    """
    torch = sys.modules.get("torch")
    if torch is None or not tensors or not set(map(type, tensors)) <= plain_types(torch):
        return None
    if "torch.distributed.fsdp" in sys.modules and any(
        getattr(tensor, "_is_flat_param", False) for tensor in tensors
    ):
        return None
    device, *others = set(map(_device_of, tensors))
    if others or device.type != TORCH_KIND or any(map(_is_nested, tensors)):
        return None
    if set(map(_layout_of, tensors)) != {torch.strided}:
        return None
    names, tensor_type = _torch_names(torch), torch.Tensor
    dtypes = list(map(_dtype_of, tensors))
    if not names.keys() >= set(dtypes) or any(map(tensor_type.is_neg, tensors)):
        return None
    formats = tuple(map(names.__getitem__, dtypes))
    try:
        addresses = np.array(list(map(tensor_type.data_ptr, tensors)), dtype=np.uint64)
    except RuntimeError:  # some hold no memory of their own
        return None
    sizes = tuple(map(tensor_type.numel, tensors))
    if not addresses.all() and any(sizes[i] for i in np.flatnonzero(addresses == 0)):
        return None
    dims: list[tuple[tuple[int, int], ...]] = [()] * len(tensors)
    number = device.index or 0
    streams = {number: torch.cuda.current_stream(number).cuda_stream}
    contiguous = list(map(tensor_type.is_contiguous, tensors))
    unaligned = addresses % _MOST_BYTES > 0
    if unaligned.any() or not all(contiguous):
        for i, tensor in enumerate(tensors):
            if unaligned[i] or not contiguous[i]:
                array = from_torch(tensor, int(addresses[i]), torch, FORMATS[formats[i]], streams)
                addresses[i], dims[i] = array.address, array.dims
    return DeviceArrays(number, addresses, sizes, tuple(dims), formats, list(streams.values()), [])


_MOST_BYTES = 8
"""Of an element."""


@functools.cache
def _torch_names(torch: Any) -> dict[Any, str]:
    """Return the formats by torch's dtypes."""
    return {getattr(torch, name): name for name in FORMATS if hasattr(torch, name)}


def is_on_gpu(values: Any, dlpack_device: tuple[int, int] | None) -> bool:
    """Say whether one of the two protocols finds an array on a GPU."""
    on_cuda = dlpack_device is not None and dlpack_device[0] in _DLPACK_CUDA
    return on_cuda or hasattr(values, "__cuda_array_interface__")


def from_protocol(values: Any, dlpack_device: tuple[int, int] | None) -> DeviceArray:
    """Say where the array of any other producer lies.

    Parameters
    ----------
    values : array
        With ``__cuda_array_interface__`` or DLPack.
    dlpack_device : (int, int) or None
        What ``__dlpack_device__`` gives.

    Raises
    ------
    ArrayError
        It is of another dtype, or masked.
    DeviceError
        No GPU can be used.
    """
    require()
    # One with a stream goes before DLPack, where the producer waits for us, but we do not run on its stream.
    interface = getattr(values, "__cuda_array_interface__", None)
    on_cuda = dlpack_device is not None and dlpack_device[0] in _DLPACK_CUDA
    if on_cuda and (interface is None or interface.get("stream") is None):
        assert dlpack_device is not None
        return _from_dlpack(values, dlpack_device[1])
    assert interface is not None
    return _from_interface(values, interface)


def _array(
    address: int, shape: Sequence[int], strides: Sequence[int], row: Format, device: int, stream: int,
    until_counted: Any = None,
) -> DeviceArray:  # fmt: skip
    size = int(np.prod(shape, dtype=np.int64))
    if size == 0:
        return DeviceArray(0, 0, (), row.name, device, stream)
    address, dims = in_memory_order(address, shape, strides, row.bits // 8)
    return DeviceArray(address, size, dims, row.name, device, stream, until_counted=until_counted)


def _format(name: str) -> Format:
    row = FORMATS.get(name)
    if row is None:
        msg = f"dtype {name} cannot be counted"
        raise ArrayError(msg)
    return row


def _from_interface(values: Any, interface: dict[str, Any]) -> DeviceArray:
    # https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3
    if interface.get("mask") is not None:
        msg = "a masked array on a GPU cannot be counted"
        raise ArrayError(msg)
    typestr = interface["typestr"]
    if typestr[0] == ">":
        msg = f"byte order of {typestr} is not that of the GPU"
        raise ArrayError(msg)
    # The interface has no name for bfloat16 and its like; the array's own dtype has.
    own = getattr(values, "dtype", None)
    row = _format(own.name if isinstance(own, np.dtype) else np.dtype(typestr).name)
    shape, address = interface["shape"], interface["data"][0]
    strides = interface.get("strides") or _contiguous(shape, row.bits // 8)
    from fasthist.kernels.cuda.device import gpu_of

    device = gpu_of(address) if address else 0
    return _array(address, shape, strides, row, device, interface.get("stream") or 0, values)


def _contiguous(shape: Sequence[int], size: int) -> list[int]:
    strides = []
    for length in reversed(shape):
        strides.append(size)
        size *= length
    return strides[::-1]


class _DLTensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h, with which a ``DLManagedTensor`` begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(values: Any, device: int) -> DeviceArray:
    capsule = values.__dlpack__(stream=_LEGACY_STREAM)
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    row = _format(_dlpack_name(tensor))
    shape = tensor.shape[: tensor.ndim]
    strides = _contiguous(shape, row.bits // 8)
    if tensor.strides:
        strides = [stride * (row.bits // 8) for stride in tensor.strides[: tensor.ndim]]
    # The capsule keeps the memory until it is gone itself, since nobody has taken it over: as long as it is there, JAX copies
    # an array that a function is given to keep, instead of letting it write there.
    address = (tensor.data or 0) + tensor.byte_offset
    return _array(address, shape, strides, row, device, _LEGACY_STREAM, capsule)


def _dlpack_name(tensor: _DLTensor) -> str:
    kind = _DLPACK_KINDS.get(tensor.code, f"of DLPack's code {tensor.code} and {tensor.bits} bits")
    if tensor.lanes != 1:
        return f"{kind} in vectors of {tensor.lanes}"
    return f"{kind}{tensor.bits}" if kind in ("int", "uint", "float", "bfloat") else kind


def fetched(values: Any) -> Any:
    """Copy the array of any other producer to host memory, with its own method; None if it has none."""
    for method in ("get", "copy_to_host", "__array__"):  # CuPy; Numba; JAX
        if hasattr(values, method):
            return getattr(values, method)()
    return None
