"""One GPU: its memory, its kernels, and the batches of tensors that it counts.

Nothing here waits for the device, but `Batch.answers`. A batch runs on the stream of whoever made its tensors: behind
what writes them, before what overwrites them. Its answers arrive in memory of the host that the kernels write to
themselves, so no copy has to be asked for.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

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
    DeviceArrays,
    Layout,
    Need,
    Plan,
    kind_of,
    make_plan,
)
from fasthist.kernels.cuda.primitives import SIMULATED, THREADS
from fasthist.kernels.cuda.slots import N_SLOTS, exact_cuts, magnitude_table

if SIMULATED:
    from fasthist.kernels.cuda import simulated as driver
else:
    from fasthist.kernels.cuda import driver  # type: ignore[no-redef]

MOST_PENDING = 4
"""Batches of which nobody has read the answers yet; one more, and the oldest is waited for."""

_MOST_PLANS = 16


Counter = tuple[Any, str, tuple[Any, ...]]
"""A kernel, its label, and its arguments between the mail and the rows."""


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
        self.chunk = CHUNK
        self._lock = threading.RLock()
        self._plans: OrderedDict[Any, _Prepared] = OrderedDict()
        self._free: list[Any] = []
        self._pending: deque[Batch] = deque()
        self._last: Any = None
        with self.errors():
            self.gpu = gpu(number)
            self.gpu.give_up = self._forget
            with self.gpu.current():
                upload = self.gpu.upload
                self._work = upload(np.zeros(1, dtype=np.uint64))
                self._sums = self.gpu.empty(1, np.float64)
                self._tables = {wide: upload(magnitude_table(wide=wide)) for wide in (False, True)}
                self._exact = upload(exact_cuts())
                self._spans = upload(spans())
                self._edges = upload(tensorflow_buckets().edges)

    def count(self, arrays: DeviceArrays, *, sampled: bool) -> Batch:
        """Begin to count the slots, or patterns of 8 bits, of some arrays of this device.

        Parameters
        ----------
        arrays : DeviceArrays
            At least one.
        sampled : bool
            Whether a sample of each is wanted too.

        Raises
        ------
        DeviceError
            The device has no memory left, or has failed; or a stream is being captured.
        """
        need = functools.partial(_need, sampled=sampled)
        with self._opened(arrays) as stream:
            prepared = self._prepare(arrays, sampled, need, self._tally, stream)
            return self._run(prepared, arrays, stream)

    def count_between(
        self, arrays: DeviceArrays, edges: NDArray[np.float64], *, even: bool
    ) -> Batch:
        """Begin to count some arrays of this device, of more than 8 bits, between edges.

        Parameters
        ----------
        arrays : DeviceArrays
            At least one.
        edges : float64[k + 1] or float64[n_arrays, k + 1]
            The same for all, or those of each.
        even : bool
            Whether they are equally far from each other, and all finite values between them.

        Raises
        ------
        DeviceError
            The device has no memory left, or has failed; or a stream is being captured.
        """
        n = edges.shape[-1]
        numbers = Need(PLAIN, n + 2, n + 2, n + 2)
        step, parts = n if edges.ndim == 2 else 0, float(n - 1) if even else 0.0
        rest = np.int64(n), np.int64(step), np.float64(parts)

        def between(name: str, strided: bool) -> Counter:
            kernel = count.count_between(name, strided=strided)
            return kernel, f"between {name} {strided}", (self._work, prepared_edges, *rest)

        with self._opened(arrays) as stream:
            prepared_edges = self._edges  # of the same type, for the plan
            prepared = self._prepare(arrays, n, lambda _: numbers, between, stream)
            ordered = edges
            if edges.ndim == 2:
                ordered = np.empty_like(edges)
                ordered[prepared.plan.rows] = edges
            prepared_edges = self.gpu.upload(np.ascontiguousarray(ordered).reshape(-1), stream)
            batch = self._run(prepared, arrays, stream)
            prepared.forget()  # the edges, which are of this batch alone
            return batch

    @contextlib.contextmanager
    def _opened(self, arrays: DeviceArrays) -> Iterator[int]:
        """Give the stream to run on, behind all that writes the arrays, and behind the batch before this one."""
        with self._lock, self.errors(), self.gpu.current():
            first, *others = arrays.streams
            self.gpu.check(first)
            for other in others:
                self.gpu.check(other)
                self.gpu.wait(first, self.gpu.record(other))
            while len(self._pending) >= MOST_PENDING:
                with contextlib.suppress(
                    DeviceError, IndexError
                ):  # whoever reads it gets the error
                    self._pending.popleft().answers()
            self.gpu.sweep()
            # Also if the handle is the same, which may be another stream by now.
            if self._last is not None:
                self.gpu.wait(first, self._last)
            yield first

    def _prepare(
        self,
        arrays: DeviceArrays,
        what: int,
        need: Callable[[Layout], Need],
        counter: Callable[[str, bool], Counter],
        stream: int,
    ) -> _Prepared:
        """Return the plan for arrays of these layouts, and bring it to the device if there is none yet."""
        key = (what, self.chunk, arrays.sizes, arrays.dims, arrays.formats)
        prepared = self._plans.get(key)
        if prepared is None:
            prepared = _Prepared()
            layouts = arrays.layouts
            plan = make_plan(
                layouts, need, functools.partial(self._blocks_at_once, counter), self.chunk
            )
            prepared.plan, prepared.needs = plan, [need(layout) for layout in layouts]
            prepared.table = self.gpu.upload(plan.table, stream)
            self._plans[key] = prepared
            if len(self._plans) > _MOST_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        prepared.counter = counter
        return prepared

    def _run(self, prepared: _Prepared, arrays: DeviceArrays, stream: int) -> Batch:
        """Launch all kernels of a batch."""
        plan, gpu = prepared.plan, self.gpu
        mail = self._mail_of(plan.mail)
        mail.array[plan.rows] = arrays.addresses
        self._make_room(plan, stream)
        room = self._work, self._sums
        if not prepared.calls or prepared.room != room:
            prepared.calls, prepared.room = self._calls(prepared, mail), room
        for call in prepared.calls:
            call.put(1, mail)
            call.run(gpu, stream)
        done = gpu.record(stream)
        for other in arrays.streams[1:]:
            gpu.wait(other, done)
        self._last = done
        kept = [*arrays.until_counted, prepared.table, prepared.calls, room]
        batch = Batch(self, plan, prepared.needs, mail, done, kept)
        self._pending.append(batch)
        return batch

    def _tally(self, name: str, strided: bool) -> Counter:
        """Return what counts a format."""
        if FORMATS[name].bits == 8:
            return count.count_codes(strided=strided), f"codes {strided}", (self._work,)
        table = self._tables[name not in NARROW]
        arguments = table, self._exact, self._work, self._sums
        return count.tally(name, strided=strided), f"tally {name} {strided}", arguments

    def _calls(self, prepared: _Prepared, mail: Any) -> list[Any]:
        """Prepare the launches of a batch: of each format, and the last one, which hands over the answers."""
        plan, table = prepared.plan, prepared.table
        calls = []
        for launch in plan.launches:
            kernel, label, arguments = prepared.counter(launch.format, launch.strided)
            rows = map(np.uint64, (launch.begin, launch.end, launch.starts, self.chunk))
            call = self.gpu.call(
                kernel, label, launch.blocks, self.threads, (table, mail, *arguments, *rows)
            )
            calls.append(call)
        n = len(plan.outs)
        arguments = self._work, self._sums, self._spans, self._edges
        rows = map(np.uint64, (0, n, self.chunk))
        last = (table, mail, *arguments, *rows)
        calls.append(self.gpu.call(finish(), "finish", n, self.threads, last))
        return calls

    def _blocks_at_once(
        self, counter: Callable[[str, bool], Counter], name: str, strided: bool
    ) -> int:
        """Return how many blocks of a kernel run at once."""
        kernel, label, arguments = counter(name, strided)
        table = mail = self._work  # for their types
        rows = (np.uint64(0),) * 4
        return self.gpu.blocks_at_once(
            kernel, label, self.threads, (table, mail, *arguments, *rows)
        )

    def _mail_of(self, size: int) -> Any:
        """Take an array of host memory that the device sees, and nobody uses."""
        for i, mail in enumerate(self._free):
            if mail.size >= size:
                return self._free.pop(i)
        self._free.clear()
        return self.gpu.mapped(1 << (size - 1).bit_length())

    def _forget(self) -> None:
        """Drop what can be made again."""
        self._free.clear()
        self._plans.clear()

    def take_back(self, batch: Batch, mail: Any) -> None:
        """Have the memory of a batch back, whose answers are read."""
        with contextlib.suppress(ValueError):
            self._pending.remove(batch)
        if len(self._free) < MOST_PENDING:
            self._free.append(mail)

    def _make_room(self, plan: Plan, stream: int) -> None:
        if self._work.size < plan.work:
            self._work = self.gpu.zeros(1 << plan.work.bit_length(), stream)
        if self._sums.size < plan.sums:
            self._sums = self.gpu.empty(1 << plan.sums.bit_length(), np.float64)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn whatever Numba or the driver raise into a `DeviceError`, and begin anew with the device."""
        try:
            yield
        except DeviceError:
            raise
        except Exception as error:
            _devices.pop(self.number, None)
            raise DeviceError(self._told(error)) from error
        except BaseException:
            # Between two launches of a batch, such as by Ctrl-C: its counts are still where the next batch would count.
            _devices.pop(self.number, None)
            raise

    def _told(self, error: Exception) -> str:
        """Return what to say of an error."""
        elsewhere = 'device="cpu" copies the arrays and counts them there'
        if isinstance(error, driver.DriverError) and error.lacks_memory:
            others = (how for module, how in _GIVES_BACK.items() if module in sys.modules)
            hints = "; ".join([*others, elsewhere])
            return f"GPU {self.number} has no memory left to count with ({error}). Hint: {hints}."
        if isinstance(error, driver.DriverError) and error.lasts:
            return (
                f"GPU {self.number} has failed ({error}): a kernel that was launched before it, or this one. This process "
                "cannot use the GPU any more. Hint: with CUDA_LAUNCH_BLOCKING=1 in the environment, the call that did it "
                "raises the error."
            )
        first_line = str(error).strip().split("\n")[0]
        return (
            f"GPU {self.number} cannot count: {type(error).__name__}: {first_line}. "
            f"Hint: {elsewhere}."
        )


_GIVES_BACK = {
    "torch": "torch.cuda.empty_cache() gives back what torch holds and does not use",
    "cupy": "cupy.get_default_memory_pool().free_all_blocks() gives back what CuPy does not use",
    "jax": "XLA_PYTHON_CLIENT_MEM_FRACTION in the environment says how much JAX takes",
}


class _Prepared:
    """All that batches of the same layouts share."""

    plan: Plan
    needs: list[Need]
    table: Any
    counter: Callable[[str, bool], Counter]
    room: Any = None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def forget(self) -> None:
        """Drop what holds the arguments of the last batch."""
        self.calls = []
        del self.counter


def _need(layout: Layout, *, sampled: bool) -> Need:
    bits = FORMATS[layout.format].bits
    if bits == 8:
        return Need(PLAIN, 256, 256, 256)
    sample = min(layout.size, MOST_SAMPLE) if sampled else 0
    room = sample if bits == 64 else (sample + 1) // 2
    return Need(kind_of(layout.format), N_SLOTS + 2, sample, HEAD + N_SLOTS + room, bits == 64)


_devices: dict[int, Device] = {}
_opening = threading.Lock()

gpu_of = driver.gpu_of

gpu = functools.cache(driver.Gpu)
"""Give a GPU itself, which outlives the `Device` that an error ends: what that has held is freed by the next."""


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
