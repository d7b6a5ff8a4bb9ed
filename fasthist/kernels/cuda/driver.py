"""One GPU, through NVIDIA's driver: contexts, memory, events, launches.

- Every call is made within `Gpu.current`, where the GPU's primary context is current, whatever the thread, and where nothing that
  may wait breaks the capture of another thread.
- What is dropped, in whatever thread, is noted and freed later by `Gpu.sweep`: no finalizer calls the driver.
- A launch takes parameters that are laid out once: through Numba it takes ten times as long.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from cuda.bindings import driver as cu
from numpy.typing import NDArray

from fasthist.errors import DeviceError
from fasthist.kernels.cuda import cubins

_RELAXED = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
_UNTIMED = int(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING)
_MAPPED = cu.CU_MEMHOSTALLOC_DEVICEMAP | cu.CU_MEMHOSTALLOC_PORTABLE
_LEGACY_STREAM = 1  # what 0 means may depend on the environment of the process
_CAPTURED = range(900, 908)
"""CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED to _WRONG_THREAD in cuda.h."""

_LASTING = frozenset((214, 220, *range(700, 705), *range(708, 711), *range(714, 722)))
"""Errors in cuda.h of a kernel that has run, after which every call fails until the process ends: illegal addresses and their like."""

_TRASH = 16
"""Dropped pieces of memory that are kept until they are freed together: freeing waits for the GPU."""


class DriverError(Exception):
    """A call of the driver that has failed.

    Attributes
    ----------
    code : CUresult
    """

    def __init__(self, call: str, code: Any) -> None:
        super().__init__(f"{call} gives {code.name}")
        self.code = code

    @property
    def lasts(self) -> bool:
        """Whether a kernel has failed, ours or another one, and the GPU is lost to this process."""
        return int(self.code) in _LASTING

    @property
    def lacks_memory(self) -> bool:
        """Whether memory was asked for, and there is none."""
        return bool(self.code == cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the driver; raise what it says, return what it gives."""
    code, *values = function(*arguments)
    if code:
        raise DriverError(function.__name__, code)
    return values[0] if values else None


@functools.cache
def gpu_count() -> int:
    """Return how many GPUs the driver sees.

    Raises
    ------
    DriverError
        The driver cannot be used.
    """
    _call(cu.cuInit, 0)
    return int(_call(cu.cuDeviceGetCount))


def gpu_of(address: int) -> int:
    """Return the number of the GPU that an address belongs to."""
    try:
        if gpu_count() == 1:
            return 0
        ordinal = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(_call(cu.cuPointerGetAttribute, ordinal, address))
    except DriverError as error:
        msg = f"no GPU knows the address {address:#x} ({error})"
        raise DeviceError(msg) from error


class Memory:
    """Numbers in the memory of a GPU.

    Attributes
    ----------
    address, size : int
        Of the first number, and how many.
    dtype : numpy dtype
    """

    def __init__(self, trash: list[tuple[Any, int]], address: int, size: int, dtype: Any) -> None:
        self.address, self.size, self.dtype = address, size, np.dtype(dtype)
        self._trash = trash

    def __del__(self) -> None:
        self._trash.append((cu.cuMemFree, self.address))


class Mapped(Memory):
    """Numbers in the memory of the host, where kernels reach them over the bus.

    Attributes
    ----------
    array : uint64[size]
        Not to be used once this is gone.
    """

    def __init__(self, trash: list[tuple[Any, int]], host: int, address: int, size: int) -> None:
        super().__init__(trash, address, size, np.uint64)
        self._host = host
        numbers = (ctypes.c_uint64 * size).from_address(host)
        self.array: NDArray[np.uint64] = np.frombuffer(memoryview(numbers), dtype=np.uint64)

    def __del__(self) -> None:
        self._trash.append((cu.cuMemFreeHost, self._host))


class Event:
    """A moment in the work of a stream."""

    __slots__ = ("_idle", "handle")

    def __init__(self, idle: list[Any]) -> None:
        self._idle = idle
        try:
            self.handle = idle.pop()
        except IndexError:
            self.handle = _call(cu.cuEventCreate, _UNTIMED)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._idle.append(self.handle)


class _Current:
    """Makes a context current in this thread, and lets it call what may wait, until the block ends."""

    __slots__ = ("_context", "_mode")

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        _call(cu.cuCtxPushCurrent, self._context)
        self._mode = _call(cu.cuThreadExchangeStreamCaptureMode, _RELAXED)

    def __exit__(self, *_: object) -> None:
        _call(cu.cuThreadExchangeStreamCaptureMode, self._mode)
        _call(cu.cuCtxPopCurrent)


class Gpu:
    """One GPU.

    Parameters
    ----------
    number : int

    Raises
    ------
    DriverError
        It is not there.
    """

    def __init__(self, number: int) -> None:
        gpu_count()
        self.number = number
        self._device = _call(cu.cuDeviceGet, number)
        # Never released: it is the context that torch and all others use.
        self._context = _call(cu.cuDevicePrimaryCtxRetain, self._device)
        self._trash: list[tuple[Any, int]] = []
        self._idle: list[Any] = []
        self._streams: dict[int, Any] = {}
        self._functions: dict[Any, tuple[Any, Any]] = {}
        self._at_once: dict[str, int] = {}
        self.give_up: Callable[[], object] = list
        """Called where memory is short; drops what can be made again."""

    def current(self) -> _Current:
        """Make it the GPU of this thread, within a ``with`` statement."""
        return _Current(self._context)

    def sweep(self, most: int = _TRASH) -> None:
        """Free what was dropped, if it is more than so many pieces."""
        if len(self._trash) > most:
            with contextlib.suppress(IndexError):  # another thread may have taken the last
                while True:
                    free, address = self._trash.pop()
                    _call(free, address)

    def _allocate(self, function: Callable[..., Any], *arguments: Any) -> int:
        try:
            return int(_call(function, *arguments))
        except DriverError as error:
            if not error.lacks_memory:
                raise
        self.give_up()
        self.sweep(0)
        return int(_call(function, *arguments))

    def empty(self, size: int, dtype: Any) -> Memory:
        """Allocate memory for so many numbers."""
        address = self._allocate(cu.cuMemAlloc, max(size, 1) * np.dtype(dtype).itemsize)
        return Memory(self._trash, address, size, dtype)

    def zeros(self, size: int, stream: int) -> Memory:
        """Allocate memory for so many uint64, which are 0 for what comes later on a stream."""
        memory = self.empty(size, np.uint64)
        _call(cu.cuMemsetD8Async, memory.address, 0, 8 * size, self._stream(stream))
        return memory

    def upload(self, array: NDArray[Any], stream: int | None = None) -> Memory:
        """Copy a contiguous array, for what comes later on a stream; without one, for all that comes later."""
        memory = self.empty(array.size, array.dtype)
        self.copy(memory, array, stream)
        return memory

    def copy(self, memory: Memory, array: NDArray[Any], stream: int | None = None) -> None:
        """Copy a contiguous array to where memory begins."""
        if array.nbytes == 0:
            return
        source = array.__array_interface__["data"][0]
        if stream is None:
            _call(cu.cuMemcpyHtoD, memory.address, source, array.nbytes)
        else:  # from pageable memory, which may change once this returns
            _call(cu.cuMemcpyHtoDAsync, memory.address, source, array.nbytes, self._stream(stream))

    def mapped(self, size: int) -> Mapped:
        """Allocate memory of the host for so many uint64."""
        host = self._allocate(cu.cuMemHostAlloc, 8 * size, _MAPPED)
        address = _call(cu.cuMemHostGetDevicePointer, host, 0)
        return Mapped(self._trash, host, int(address), size)

    def check(self, stream: int) -> None:
        """Make sure that work can be given to a stream now.

        Raises
        ------
        DeviceError
            It is being captured into a graph, or what ran before has failed.
        """
        code, capturing = cu.cuStreamIsCapturing(self._stream(stream))
        if int(code) in _CAPTURED or (not code and capturing):
            msg = (
                f"GPU {self.number}: the stream is being captured into a CUDA graph, or another one is and this one waits for "
                "it. A replay would count into memory that serves other calls by then. "
                "Hint: call it before or after the capture; what a replay leaves in a tensor can be counted each time."
            )
            raise DeviceError(msg)
        if not code:
            return
        error = DriverError(cu.cuStreamIsCapturing.__name__, code)
        if not error.lasts:
            raise error
        msg = (
            f"GPU {self.number} has failed before this call ({code.name}): a kernel or a copy of other code. "
            "This process cannot use it any more. Hint: with CUDA_LAUNCH_BLOCKING=1 in the environment, the call that "
            "did it raises the error."
        )
        raise DeviceError(msg) from error

    def record(self, stream: int) -> Event:
        """Return an event that comes when the work of a stream so far is done."""
        event = Event(self._idle)
        _call(cu.cuEventRecord, event.handle, self._stream(stream))
        return event

    def wait(self, stream: int, event: Event) -> None:
        """Have a stream wait for an event."""
        _call(cu.cuStreamWaitEvent, self._stream(stream), event.handle, 0)

    def has_come(self, event: Event) -> bool:
        """Say whether an event has come."""
        (code,) = cu.cuEventQuery(event.handle)
        if code not in (cu.CUresult.CUDA_SUCCESS, cu.CUresult.CUDA_ERROR_NOT_READY):
            raise DriverError(cu.cuEventQuery.__name__, code)
        return bool(code == cu.CUresult.CUDA_SUCCESS)

    def _stream(self, handle: int) -> Any:
        stream = self._streams.get(handle)
        if stream is None:
            if len(self._streams) > 64:
                self._streams.clear()
            stream = self._streams[handle] = cu.CUstream(handle or _LEGACY_STREAM)
        return stream

    def call(
        self, kernel: Any, label: str, blocks: int, threads: int, arguments: Iterable[Any]
    ) -> Call:
        """Prepare launches of a kernel with these arguments, each a `Memory` or a numpy scalar."""
        arguments = list(arguments)
        return Call(self._function(kernel, label, arguments), blocks, threads, arguments)

    def blocks_at_once(
        self, kernel: Any, label: str, threads: int, arguments: Iterable[Any]
    ) -> int:
        """Return how many blocks of a kernel the GPU holds, by its registers, shared memory and threads."""
        if label not in self._at_once:
            function = self._function(kernel, label, list(arguments))
            most = _call(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor, function, threads, 0)
            self._at_once[label] = max(1, int(most)) * self._attribute("MULTIPROCESSOR_COUNT")
        return self._at_once[label]

    def _attribute(self, name: str) -> int:
        attribute = getattr(cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(_call(cu.cuDeviceGetAttribute, attribute, self._device))

    def _function(self, kernel: Any, label: str, arguments: list[Any]) -> Any:
        """Load a kernel for arguments of such types, once; compile it if no process has done it yet."""
        if label not in self._functions:
            target = tuple(
                self._attribute(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR")
            )
            signature = [
                argument.dtype.name + "[]" * isinstance(argument, Memory) for argument in arguments
            ]
            self._functions[label] = cubins.load(kernel, label, signature, target, self._load)
        return self._functions[label][1]

    @staticmethod
    def _load(name: str, cubin: bytes) -> tuple[Any, Any]:
        module = _call(cu.cuModuleLoadData, cubin)
        return module, _call(cu.cuModuleGetFunction, module, name.encode())


class Call:
    """A kernel and the parameters of its launches.

    Notes
    -----
    Numba takes an array apart: two pointers of its own, the numbers, bytes of a number, address, length, stride. Each
    parameter has eight bytes here; the driver reads as many as the kernel declares.
    """

    def __init__(self, function: Any, blocks: int, threads: int, arguments: list[Any]) -> None:
        words: list[int] = []
        self._places = []
        for argument in arguments:
            self._places.append(len(words) + 4)
            if isinstance(argument, Memory):
                item = argument.dtype.itemsize
                words += [0, 0, argument.size, item, argument.address, argument.size, item]
            else:
                words.append(int.from_bytes(argument.tobytes(), "little"))
        self._words = (ctypes.c_uint64 * len(words))(*words)
        first = ctypes.addressof(self._words)
        self._pointers = (ctypes.c_void_p * len(words))(*range(first, first + 8 * len(words), 8))
        self._held = arguments
        self._launch = function, blocks, 1, 1, threads, 1, 1, 0
        self._parameters = ctypes.addressof(self._pointers)

    def put(self, place: int, memory: Memory) -> None:
        """Replace an argument by other memory of the same type."""
        self._held[place] = memory
        self._words[self._places[place]] = memory.address

    def run(self, gpu: Gpu, stream: int) -> None:
        """Launch it."""
        _call(cu.cuLaunchKernel, *self._launch, gpu._stream(stream), self._parameters, 0)
