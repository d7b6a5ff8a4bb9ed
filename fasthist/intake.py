"""Read any producer's array as bit patterns in place: no copy, and no import of the producer.

A framework that made an array has been imported already, so it is looked up in `sys.modules`. Everything else
comes through a protocol: ``__array__``, DLPack, the buffer protocol, ``__cuda_array_interface__``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist import gpu_intake
from fasthist.dtypes import FORMATS, Format
from fasthist.errors import ArrayError, DeviceError
from fasthist.kernels.cuda.plan import DeviceArray

ACCEPTED = ", ".join(FORMATS)


class Bits(NamedTuple):
    """Bit patterns (unsigned integers[...] as wide as the format) of a format in `FORMATS` that numpy does not have."""

    array: NDArray[Any]
    format: str


class Dense(NamedTuple):
    """A producer's array in host memory: carrier[...] of any shape, strides and byte order, not to be written to."""

    array: NDArray[Any]
    format: Format


def read(
    values: Any, name: str = "values", device: str | None = None, streams: dict[int, int] | None = None
) -> Dense | DeviceArray:  # fmt: skip
    """Take an array from whoever made it.

    NumPy and ml_dtypes arrays, torch tensors on the CPU and on CUDA devices, JAX and TensorFlow arrays, anything with
    ``__array__``, DLPack, the buffer protocol or ``__cuda_array_interface__``; lists and numbers. What is not in
    `FORMATS`, such as int4, long doubles, Decimals, integers beyond 64 bits and text that spells numbers, is converted
    to float64 as numpy does it; None then is NaN.

    `name` stands for the array in errors; ``device="cpu"`` copies from other devices to host memory; several calls in a
    row share `streams`, see `fasthist.gpu_intake.from_torch`.

    Returns a view of the same memory. Only these are copied: lists and numbers, what is converted, the unmasked part of
    a masked array, a torch tensor whose negative bit is set, and whatever a producer's own ``__array__`` copies (JAX:
    an array spread over several devices).

    Raises ArrayError for anything but a dense array of real numbers: complex, times, text, objects, sparse, quantised,
    without memory. Raises DeviceError if the memory belongs to a device other than CUDA, or one that cannot be used.
    """
    if isinstance(values, Bits):
        return _from_bits(values, name)
    if not isinstance(values, np.ndarray):
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(values, torch.Tensor):
            return _from_torch(values, torch, name, device, {} if streams is None else streams)
        values = _from_others(values, name, device)
        if isinstance(values, DeviceArray):
            return values
    if isinstance(values, np.ma.MaskedArray) and not values.dtype.fields:
        values = values.compressed()
    return _from_numpy(np.asarray(values), name)


def finite_values(array: Dense) -> NDArray[np.float64]:
    """Copy the finite elements of an array, in order, as float64."""
    patterns, row = array
    if row.is_code:
        values = row.decode(patterns.ravel())
    else:
        dtype = np.dtype(row.name).newbyteorder(patterns.dtype.byteorder)
        values = patterns.view(dtype).ravel().astype(np.float64)
    return values[np.isfinite(values)]


def _refused(name: str, what: str, hint: str = "") -> ArrayError:
    text = f"{name}: {what}. Accepted: dense arrays of {ACCEPTED}."
    return ArrayError(f"{text} Hint: {hint}." if hint else text)


# Making the name of a numpy dtype takes longer than counting a small array.
_formats: dict[np.dtype[Any], Format | None] = {}


def _from_numpy(array: NDArray[Any], name: str) -> Dense:
    row = _formats.get(array.dtype)
    if row is None:
        row = _formats[array.dtype] = FORMATS.get(array.dtype.name)
    if row is None:
        array, row = _as_float64(array, name), FORMATS["float64"]
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        return Dense(array.view(row.carrier.newbyteorder(array.dtype.byteorder)), row)
    return Dense(array.view(row.carrier), row)


def _as_float64(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Convert an array whose dtype is not in `FORMATS` but whose elements are real numbers."""
    dtype, reason = array.dtype, ""
    # Numpy would drop an imaginary part, the unit of a time, and the name of a single field.
    if dtype.kind not in "cmM" and "complex" not in dtype.name and not dtype.fields:
        try:
            with np.errstate(all="ignore"):  # beyond float64 is infinite
                return array.astype(np.float64)
        except Exception as error:  # noqa: BLE001 - an object's own conversion may raise anything
            reason = f" ({_first_line(error)})"
    raise _refused(name, f"dtype {dtype} cannot be counted{reason}", _hint(dtype))


def _hint(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "c" or "complex" in dtype.name:
        return "count .real and .imag, or the absolute values, on their own"
    if dtype.kind == "O":
        return "each element must be a real number that float64 can hold; count arrays in a list on their own"
    if dtype.kind in "SUT":
        return "convert the text to numbers first"
    if dtype.kind in "mM":
        return 'view the times as "int64" first'
    if dtype.fields:
        return "count each field on its own"
    return "convert it to one of these first"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _from_bits(bits: Bits, name: str) -> Dense:
    row = FORMATS.get(bits.format)
    if row is None:
        raise _refused(name, f"format {bits.format!r} is not known")
    array = np.asarray(bits.array)
    if array.dtype.kind != "u" or array.dtype.itemsize * 8 != row.bits:
        what = f"patterns of {row.name} must be uint{row.bits}, not {array.dtype}"
        raise _refused(name, what, "view them as such")
    return Dense(array, row)


def _from_torch(
    tensor: Any, torch: Any, name: str, device: str | None, streams: dict[int, int]
) -> Dense | DeviceArray:
    where = tensor.device.type
    if device == "cpu" and where not in ("cpu", "meta"):
        tensor, where = tensor.detach().cpu(), "cpu"
    row = _torch_formats.get(tensor.dtype)
    if row is None:
        row = FORMATS.get(str(tensor.dtype).removeprefix("torch."))
        _torch_formats[tensor.dtype] = row
    if tensor.is_nested:
        strided = tensor.layout is torch.strided
        hint = "count each of .unbind()" if strided else "count .values()"
        raise _refused(name, "a nested torch tensor is not dense", hint)
    if tensor.layout is not torch.strided or where not in ("cpu", "cuda"):
        raise _refused_torch(tensor, torch, name)
    if row is None:
        if tensor.is_complex() or tensor.is_quantized:
            raise _refused_torch(tensor, torch, name)
        try:
            tensor, row = tensor.detach().to(torch.float64), FORMATS["float64"]
        except (RuntimeError, TypeError) as error:  # torch has dtypes without any conversion
            raise _refused_torch(tensor, torch, name) from error
    try:
        address = tensor.data_ptr()
        if address == 0 and tensor.numel():
            what = f"{type(tensor).__name__} holds no memory of its own"
            hint = "pass the tensor that it wraps, such as .to_local() of a DTensor"
            raise _refused(name, what, hint)
        if where == "cuda":
            if tensor.is_neg():
                tensor = tensor.resolve_neg()
                address = tensor.data_ptr()
            return gpu_intake.from_torch(tensor, address, torch, row, streams)
        plain = tensor.detach()
        if plain.is_neg():
            plain = plain.resolve_neg()
        # As signed integers, since .numpy() supports no bfloat16 and no float8, and older torch no uint16.
        patterns = plain.view(getattr(torch, f"int{row.bits}")).numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ArrayError):
            raise
        what = f"{type(tensor).__name__} has no memory to read ({error})"
        raise _refused(name, what) from error
    return Dense(patterns.view(row.carrier), row)


_torch_formats: dict[Any, Format | None] = {}


def _refused_torch(tensor: Any, torch: Any, name: str) -> ArrayError | DeviceError:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        what = f"a {layout} torch tensor is not dense"
        return _refused(name, what, "count .values(), or .to_dense()")
    if tensor.is_quantized:
        what = f"a quantised torch tensor ({kind}) is not a plain array"
        return _refused(name, what, "count .int_repr(), or .dequantize()")
    if tensor.device.type == "meta":
        what = "a torch tensor on the meta device has no values"
        return _refused(name, what, "materialise it first")
    if tensor.device.type not in ("cpu", "cuda"):
        return _elsewhere(name, f"a torch tensor on {tensor.device}")
    if tensor.is_complex():
        hint = "count .real and .imag, or .abs(), on their own"
        return _refused(name, "a complex torch tensor cannot be counted", hint)
    return _refused(name, f"torch dtype {kind} cannot be counted")


def _elsewhere(name: str, what: str) -> DeviceError:
    return DeviceError(
        f"{name}: {what} is out of reach. Accepted: arrays in host memory and on CUDA devices. "
        'Hint: device="cpu" copies it, if its producer can.'
    )


def _from_others(values: Any, name: str, device_wanted: str | None) -> Any:
    """Return a numpy array, or its place on a GPU."""
    kind = type(values).__name__
    if isinstance(values, (bytes, Mapping)) or values is None:
        hint = {
            "bytes": "numpy.frombuffer takes numbers from bytes",
            "NoneType": "leave out what has no values, such as a parameter without a gradient",
        }.get(kind, "histograms() counts each of its arrays")
        raise _refused(name, f"{kind} is not an array of numbers", hint)
    device = _dlpack_device(values)
    elsewhere = device is not None and device[0] not in _DLPACK_HOST
    if gpu_intake.is_on_gpu(values, device) or elsewhere:
        if device_wanted == "cpu":
            copied = gpu_intake.fetched(values)
            if copied is not None:
                return copied
        elif gpu_intake.is_on_gpu(values, device):
            try:
                return gpu_intake.from_protocol(values, device)
            except ArrayError as error:
                raise _refused(name, str(error)) from error
            except DeviceError as error:
                msg = f"{name}: {error}"
                raise DeviceError(msg) from error
        raise _elsewhere(name, f"{kind} on DLPack device {device}")
    if device is not None and not hasattr(values, "__array__"):
        return _from_dlpack(values, name)
    if not hasattr(values, "__array__"):
        if "sparse" in f"{type(values).__module__}.{kind}".lower():
            hint = "count its stored values, such as .data or .values"
            raise _refused(name, f"{kind} is sparse", hint)
        if kind == "IndexedSlices":
            raise _refused(name, "IndexedSlices are sparse", "count .values")
        if kind == "RaggedTensor":
            raise _refused(name, "a RaggedTensor is not dense", "count .flat_values")
    try:
        array = np.asarray(values)
    except Exception as error:
        # A producer may raise anything here: a tracer, a symbolic tensor, a ragged list, a deleted buffer.
        hint = "pass values that are computed already"
        if isinstance(values, (list, tuple)):
            hint = "lists of unequal length are not an array; count each part on its own"
        raise _refused(name, f"{kind} gives no array ({_first_line(error)})", hint) from error
    if array.dtype == object and not array.ndim and not hasattr(values, "__float__"):
        hint = "pass an array, or an object with __array__, DLPack or the buffer protocol"
        if isinstance(values, Iterable):
            hint = "pass list(...) of numbers; histograms() counts each array of a dict or list"
        elif hasattr(values, "named_parameters") or hasattr(values, "state_dict"):
            hint = "histograms() counts each of its arrays"
        raise _refused(name, f"{kind} is not an array of numbers", hint)
    return array


_DLPACK_HOST = {1, 3, 11}  # kDLCPU, kDLCUDAHost, kDLROCMHost in dlpack.h


def _dlpack_device(values: Any) -> tuple[int, int] | None:
    try:
        device, number = values.__dlpack_device__()
    except Exception:  # noqa: BLE001 - no such method, or it cannot answer (a JAX array on a TPU)
        return None
    return int(device), int(number)


def _from_dlpack(values: Any, name: str) -> NDArray[Any]:
    try:
        return np.from_dlpack(values)
    except Exception as error:
        kind = type(values).__name__
        msg = f"{kind} gives no DLPack capsule that numpy reads ({error})"
        raise _refused(name, msg) from error
