"""One GPU: its memory, its kernels, and the batches of tensors that it counts.

Nothing here waits for the device, but `Batch.answers`. A batch runs on the stream of whoever made its tensors: behind
what writes them, before what overwrites them. Its answers arrive in memory of the host that the kernels write to
themselves, so no copy has to be asked for.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import tensorflow_buckets
from fasthist.dtypes import FORMATS
from fasthist.errors import DeviceError
from fasthist.kernels.chunks import CHUNK
from fasthist.kernels.cuda import count
from fasthist.kernels.cuda.batch import Batch
from fasthist.kernels.cuda.finish import HEAD, finish, spans
from fasthist.kernels.cuda.formats import NARROW
from fasthist.kernels.cuda.plan import (
    MOST_SAMPLE,
    PLAIN,
    DeviceArray,
    Launch,
    Layout,
    Need,
    Plan,
    kind_of,
    make_plan,
)
from fasthist.kernels.cuda.primitives import (
    SIMULATED,
    THREADS,
    event_after,
    numba_cuda,
    stream_of,
)
from fasthist.kernels.cuda.slots import N_SLOTS, exact_cuts, magnitude_table

MOST_PENDING = 4
"""Batches of which nobody has read the answers yet; one more, and the oldest is waited for."""

_MOST_PLANS = 16


class Device:
    """One GPU, number `number`.

    Raises
    ------
    DeviceError
        It cannot be used.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        # The simulator starts a thread of Python's for each thread of a block.
        self.threads = 8 if SIMULATED else THREADS
        self.least_blocks = 1 if SIMULATED else 128  # Numba warns of fewer
        self.chunk = CHUNK
        self._lock = threading.RLock()
        self._plans: OrderedDict[Any, tuple[Plan, list[Need], Any]] = OrderedDict()
        self._streams: dict[int, Any] = {}
        self._free: list[Any] = []
        self._pending: deque[Batch] = deque()
        self._last: tuple[int, Any] | None = None
        with self.errors(), self.current():
            self._work = numba_cuda.to_device(np.zeros(1, dtype=np.uint64))
            self._sums = numba_cuda.device_array(1, dtype=np.float64)
            self._tables = {
                wide: numba_cuda.to_device(magnitude_table(wide=wide)) for wide in (False, True)
            }
            self._exact = numba_cuda.to_device(exact_cuts())
            self._spans = numba_cuda.to_device(spans())
            self._edges = numba_cuda.to_device(tensorflow_buckets().edges)
            numba_cuda.synchronize()  # type: ignore[no-untyped-call]  # what was copied is there for kernels on any stream

    def count(self, arrays: Sequence[DeviceArray], *, sampled: bool) -> Batch:
        """Begin to count the slots, or patterns of 8 bits, of some arrays of this device.

        Parameters
        ----------
        arrays : sequence of DeviceArray
            At least one.
        sampled : bool
            Whether a sample of each is wanted too.

        Raises
        ------
        DeviceError
            The device has no memory left, or has failed.
        """

        def start(run: _Run) -> None:
            for launch in run.plan.launches:
                if FORMATS[launch.format].bits == 8:
                    run.launch(count.count_codes(strided=launch.strided), launch, self._work)
                else:
                    kernel = count.tally(launch.format, strided=launch.strided)
                    table = self._tables[launch.format not in NARROW]
                    run.launch(kernel, launch, table, self._exact, self._work, self._sums)

        return self._begin(arrays, sampled, functools.partial(_need, sampled=sampled), start)

    def count_between(
        self, arrays: Sequence[DeviceArray], edges: NDArray[np.float64], *, even: bool
    ) -> Batch:
        """Begin to count some arrays of this device, of more than 8 bits, between edges.

        Parameters
        ----------
        arrays : sequence of DeviceArray
            At least one.
        edges : float64[k + 1] or float64[n_arrays, k + 1]
            The same for all, or those of each.
        even : bool
            Whether they are equally far from each other, and all finite values between them.

        Raises
        ------
        DeviceError
            The device has no memory left, or has failed.
        """
        n = edges.shape[-1]
        numbers = Need(PLAIN, n + 2, n + 2, n + 2)

        def start(run: _Run) -> None:
            ordered = edges
            if edges.ndim == 2:
                ordered = np.empty_like(edges)
                ordered[run.plan.rows] = edges
            there = numba_cuda.to_device(ordered.reshape(-1), stream=run.stream)
            run.kept.append(there)
            rest = (
                np.int64(n),
                np.int64(n if edges.ndim == 2 else 0),
                float(n - 1) if even else 0.0,
            )
            for launch in run.plan.launches:
                kernel = count.count_between(launch.format, strided=launch.strided)
                run.launch(kernel, launch, self._work, there, *rest)

        return self._begin(arrays, n, lambda _: numbers, start)

    def _begin(
        self,
        arrays: Sequence[DeviceArray],
        what: int,
        need: Callable[[Layout], Need],
        start: Callable[[_Run], None],
    ) -> Batch:
        while len(self._pending) >= MOST_PENDING:
            with contextlib.suppress(DeviceError, IndexError):  # whoever reads it gets the error
                self._pending.popleft().answers()
        key = (what, self.chunk, *map(_layout_of, arrays))
        with self._lock, self.errors(), self.current():
            stream = self._enter_stream(arrays)
            plan, needs, table = self._plans.get(key) or self._new_plan(key, arrays, need, stream)
            self._plans.move_to_end(key)
            mail = self._mail_of(plan.mail)
            mail[plan.rows] = list(map(_address_of, arrays))
            self._make_room(plan, stream)
            run = _Run(self, plan, table, mail, stream, [table, *map(_kept_of, arrays)])
            start(run)
            finishing = finish()[max(len(arrays), self.least_blocks), self.threads, stream]
            finishing(
                table, mail, self._work, self._sums, self._spans, self._edges,
                np.uint64(0), np.uint64(len(arrays)), np.uint64(self.chunk),
            )  # fmt: skip
            done = event_after(stream)
            self._last = (arrays[0].stream, done)
        batch = Batch(self, plan, needs, mail, done, run.kept)
        self._pending.append(batch)
        return batch

    def _new_plan(
        self, key: Any, arrays: Sequence[DeviceArray], need: Callable[[Layout], Need], stream: Any
    ) -> tuple[Plan, list[Need], Any]:
        layouts = [Layout(array.format, array.size, array.dims) for array in arrays]
        plan = make_plan(layouts, need, self._blocks_at_once, self.chunk, self.least_blocks)
        table = numba_cuda.to_device(plan.table, stream=stream)
        found = plan, [need(layout) for layout in layouts], table
        self._plans[key] = found
        if len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)
        return found

    def _blocks_at_once(self, name: str, strided: bool) -> int:
        del name, strided
        if SIMULATED:
            return 3
        gpu = self.current()
        shared = gpu.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR // count.SHARED
        threads = gpu.MAX_THREADS_PER_MULTIPROCESSOR // self.threads
        return int(min(count.BLOCKS, shared, threads) * gpu.MULTIPROCESSOR_COUNT)

    def _mail_of(self, size: int) -> Any:
        """Take an array of host memory that the device sees, and nobody uses."""
        for i, mail in enumerate(self._free):
            if mail.size >= size:
                return self._free.pop(i)
        self._free.clear()
        return numba_cuda.mapped_array(1 << (size - 1).bit_length(), dtype=np.uint64)

    def current(self) -> Any:
        """Make it the device of this thread, within a ``with`` statement."""
        return numba_cuda.gpus[self.number]

    def take_back(self, batch: Batch, mail: Any) -> None:
        """Have the memory of a batch back, whose answers are read."""
        with contextlib.suppress(ValueError):
            self._pending.remove(batch)
        if len(self._free) < MOST_PENDING:
            self._free.append(mail)

    def _make_room(self, plan: Plan, stream: Any) -> None:
        if self._work.size < plan.work:
            zeros = np.zeros(1 << plan.work.bit_length(), dtype=np.uint64)
            self._work = numba_cuda.to_device(zeros, stream=stream)
        if self._sums.size < plan.sums:
            self._sums = numba_cuda.device_array(1 << plan.sums.bit_length(), dtype=np.float64)

    def _enter_stream(self, arrays: Sequence[DeviceArray]) -> Any:
        """Give the stream to run on, behind all that writes the arrays, and behind the batch before this one."""
        handles = dict.fromkeys(map(_stream_of, arrays))
        streams = [self._stream(handle) for handle in handles]
        for other in streams[1:]:
            event_after(other).wait(streams[0])
        if self._last is not None and self._last[0] != arrays[0].stream:
            self._last[1].wait(streams[0])
        return streams[0]

    def _stream(self, handle: int) -> Any:
        if handle not in self._streams:
            if len(self._streams) > 64:
                self._streams.clear()
            self._streams[handle] = stream_of(handle)
        return self._streams[handle]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn whatever Numba or the driver raise into a `DeviceError`, and begin anew with the device."""
        try:
            yield
        except DeviceError:
            raise
        except Exception as error:
            _devices.pop(self.number, None)
            first_line = str(error).strip().split("\n")[0]
            msg = (
                f"GPU {self.number} cannot count: {type(error).__name__}: {first_line}. "
                'Hint: device="cpu" copies the arrays and counts them there.'
            )
            raise DeviceError(msg) from error


class _Run(NamedTuple):
    """What the launches of one batch share."""

    device: Device
    plan: Plan
    table: Any
    mail: Any
    stream: Any
    kept: list[Any]

    def launch(self, kernel: Any, launch: Launch, *arguments: Any) -> None:
        """Launch a kernel over the rows of one format."""
        rows = (launch.begin, launch.end, launch.starts, self.device.chunk)
        run = kernel[launch.blocks, self.device.threads, self.stream]
        run(self.table, self.mail, *arguments, *map(np.uint64, rows))


def _need(layout: Layout, *, sampled: bool) -> Need:
    bits = FORMATS[layout.format].bits
    if bits == 8:
        return Need(PLAIN, 256, 256, 256)
    sample = min(layout.size, MOST_SAMPLE) if sampled else 0
    room = sample if bits == 64 else (sample + 1) // 2
    return Need(kind_of(layout.format), N_SLOTS + 2, sample, HEAD + N_SLOTS + room, bits == 64)


_layout_of = operator.attrgetter("size", "dims", "format")
_address_of, _stream_of, _kept_of = map(operator.attrgetter, ("address", "stream", "until_counted"))

_devices: dict[int, Device] = {}
_opening = threading.Lock()


def open_device(number: int) -> Device:
    """Give a GPU.

    Raises
    ------
    DeviceError
        It cannot be used.
    """
    with _opening:
        if number not in _devices:
            _devices[number] = Device(number)
        return _devices[number]
