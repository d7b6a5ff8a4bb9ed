"""What `test_cuda_driver.py` has done in processes of their own, on the stand-in driver of ``fakecuda.c``.

``python on_fake_driver.py SCENARIO`` prints what the function of that name returns, as JSON. Nothing is counted there: all
histograms are empty.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import sys
import threading
import time

import numpy as np

import fasthist
from fasthist.errors import DeviceError

fake = ctypes.CDLL("libcuda.so.1")
fake.fake_calls.restype = ctypes.c_long
fake.fake_lacked_context.restype = ctypes.c_long

MEMORY, HOST, EVENT, STREAM = range(1, 5)
GLOBAL = 0
ILLEGAL_ADDRESS = 700


def put(name, value):
    """Set a variable of the driver."""
    ctypes.c_int.in_dll(fake, name).value = value


def report(*, ordered):
    """Return what the driver has noted since the last `reset`."""
    out = ctypes.create_string_buffer(1 << 20)
    fake.fake_report(out, len(out), ordered)
    return out.value.decode()


def lines():
    """Return the calls that order work on streams, as [name, stream, event or blocks]."""
    split = (line.split() for line in report(ordered=True).splitlines())
    return [[name, int(first), int(second)] for name, first, second in split]


def reset():
    """Forget all calls so far."""
    fake.fake_reset()


def new_stream():
    """Create a stream, in a context of its own."""
    context, stream = ctypes.c_void_p(), ctypes.c_void_p()
    fake.cuInit(0)
    fake.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    fake.cuCtxPushCurrent_v2(context)
    assert fake.cuStreamCreate(ctypes.byref(stream), 1) == 0
    fake.cuCtxPopCurrent_v2(ctypes.byref(context))
    return stream.value


class Capture:
    """Capture a stream, as ``torch.cuda.graph`` does: in this thread's context, and with its mode."""

    def __init__(self, stream, mode=GLOBAL):
        self.stream, self.mode, self.outcome = ctypes.c_void_p(stream), mode, None

    def __enter__(self):
        context = ctypes.c_void_p()
        fake.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        fake.cuCtxPushCurrent_v2(context)
        assert fake.cuStreamBeginCapture_v2(self.stream, self.mode) == 0
        return self

    def __exit__(self, *_):
        graph = ctypes.c_void_p()
        self.outcome = fake.cuStreamEndCapture(self.stream, ctypes.byref(graph))
        fake.cuCtxPopCurrent_v2(ctypes.byref(graph))


class OnGpu:
    """So many float32 somewhere on the GPU."""

    def __init__(self, size=1000, stream=None, dtype="<f4"):
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": dtype, "data": (1 << 40, False), "version": 3, "stream": stream,
        }  # fmt: skip


def in_threads(*functions):
    """Run each function in a thread of its own, all at once; raise what one raises."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def refused(function):
    """Return the error that a call raises."""
    try:
        function()
    except DeviceError as error:
        return str(error)
    return None


# -- scenarios -----------------------------------------------------------------------------------


def a_model_of_torch():
    """Count 300 tensors of torch again and again, as training does."""
    import pretended

    model = pretended.model(300)
    for _ in range(3):
        fasthist.histograms(model)["layers/0/weight"].num  # noqa: B018
    reset()
    found = fasthist.histograms(model)
    calls, order = report(ordered=False), lines()
    return {"calls": calls, "lines": order, "nums": sum(h.num for h in found.values())}


def arrays_of_an_interface():
    """Count 300 arrays that only their addresses tell the GPU of."""
    model = {str(i): OnGpu() for i in range(300)}
    fasthist.histograms(model)["0"].num  # noqa: B018
    reset()
    fasthist.histograms(model)
    return {"calls": report(ordered=False)}


def the_second_gpu():
    """Count where there are two."""
    put("fake_devices", 2)
    return {"num": fasthist.histogram(OnGpu()).num}


def threads_that_read_and_drop():
    """Begin here, read and drop elsewhere, and the other way round."""

    def many():
        for _ in range(40):
            fasthist.histogram(OnGpu(), buckets=[-1.0, 0.0, 1.0]).num  # noqa: B018
            fasthist.histogram(OnGpu(dtype="<f8", size=7)).num  # noqa: B018

    many()
    in_threads(many, many, many)
    for i in range(60):
        begun = fasthist.histograms({str(j): OnGpu(i + 1) for j in range(3)}, buckets=[0.0, 1.0])
        in_threads(lambda held=[begun]: [h.num for h in held.pop().values()])
        del begun
    gc.collect()
    kinds = {"memory": MEMORY, "host": HOST, "events": EVENT}
    return {name: fake.fake_alive(kind) for name, kind in kinds.items()}


def edges_of_many_shapes():
    """Count arrays of many sizes between edges, and free all that can be freed."""
    from fasthist.kernels.cuda.device import open_device

    def alive():
        gpu = open_device(0).gpu
        with gpu.current():
            gpu.sweep(0)
        return fake.fake_alive(MEMORY)

    fasthist.histogram(OnGpu(), buckets=[0.0, 1.0]).num  # noqa: B018
    before = alive()
    shapes = 6
    for i in range(shapes):
        fasthist.histogram(OnGpu(i + 1), buckets=[0.0, 1.0]).num  # noqa: B018
    return {"grown": alive() - before, "plans": 2 * shapes}


def dropped_unread():
    """Begin batches that nobody reads, and drop them in a thread that has no context."""
    held = [fasthist.histogram(OnGpu(), buckets=[-1.0, 0.0, 1.0]) for _ in range(9)]
    in_threads(held.clear)
    for _ in range(9):
        fasthist.histogram(OnGpu(), buckets=[-1.0, 0.0, 1.0])
    return {}


def in_a_capture():
    """Count on a stream that is being captured, and on the default stream beside it."""
    stream = new_stream()
    fasthist.histogram(OnGpu(stream=stream)).num  # noqa: B018
    reset()
    with Capture(stream) as own:
        told = refused(lambda: fasthist.histogram(OnGpu(stream=stream)))
    with Capture(stream) as other:
        beside = refused(lambda: fasthist.histogram(OnGpu()))
    launches = fake.fake_calls(b"cuLaunchKernel") + fake.fake_calls(b"cuLaunchKernelEx")
    return {
        "told": told,
        "beside": beside,
        "launches": launches,
        "outcomes": [own.outcome, other.outcome],
        "later": fasthist.histogram(OnGpu(stream=stream)).num,
    }


def polled_beside_a_capture():
    """Wait for a batch in one thread while another one captures."""
    stream = new_stream()
    fasthist.histogram(OnGpu()).num  # noqa: B018
    put("fake_busy", 1)
    begun = fasthist.histogram(OnGpu())
    reader = threading.Thread(target=lambda: begun.num)
    reset()
    reader.start()
    while fake.fake_calls(b"cuEventQuery") < 3:
        time.sleep(1e-3)
    with Capture(stream) as capture:
        before = fake.fake_calls(b"cuEventQuery")
        while fake.fake_calls(b"cuEventQuery") < before + 5 and reader.is_alive():
            time.sleep(1e-3)
    put("fake_busy", 0)
    reader.join()
    return {"outcome": capture.outcome, "num": begun.num}


def counted_beside_a_capture():
    """Begin a batch of new shapes on one stream while another thread captures another."""
    stream, own = new_stream(), new_stream()
    fasthist.histogram(OnGpu()).num  # noqa: B018
    with Capture(stream) as capture:
        in_threads(lambda: fasthist.histogram(OnGpu(77, own)).num)
    return {"outcome": capture.outcome}


def two_streams():
    """Count one array of each of two streams in one batch."""
    first, second = new_stream(), new_stream()
    tree = {"a": OnGpu(stream=first), "b": OnGpu(stream=second)}
    fasthist.histograms(tree, buckets="tensorflow")["a"].num  # noqa: B018
    reset()
    fasthist.histograms(tree, buckets="tensorflow")
    return {"streams": [first, second], "lines": lines()}


def each_threads_default_stream():
    """Count on stream 2 of two threads, which are two streams."""
    per_thread = 2
    fasthist.histogram(OnGpu(stream=per_thread)).num  # noqa: B018
    reset()
    held = []
    for _ in range(2):
        in_threads(lambda: held.append(fasthist.histogram(OnGpu(stream=per_thread))))
    return {"lines": lines()}


def few_blocks():
    """Count a large array where registers let a processor hold two blocks."""
    put("fake_blocks", 2)
    fasthist.histogram(OnGpu(1 << 26, dtype="<f8"))
    return {"lines": lines()}


def little_memory():
    """Count where allocations fail, once and then always, and torch is there, which holds memory that it does not use."""
    import torch  # noqa: F401

    fasthist.histogram(OnGpu()).num  # noqa: B018
    put("fake_refused_allocations", 1)
    once = fasthist.histograms({str(i): OnGpu(i) for i in range(40)})["0"].num
    put("fake_refused_allocations", 10**6)
    always = refused(lambda: fasthist.histograms({str(i): OnGpu(i) for i in range(400)}))
    put("fake_refused_allocations", 0)
    later = fasthist.histograms({str(i): OnGpu(i) for i in range(400)})["0"].num
    return {"once": once, "always": always, "later": later}


def failed_before():
    """Count after a kernel of somebody else has failed."""
    fasthist.histogram(OnGpu()).num  # noqa: B018
    put("fake_fault", ILLEGAL_ADDRESS)
    reset()
    told = refused(lambda: fasthist.histogram(OnGpu()))
    return {"told": told, "launches": fake.fake_calls(b"cuLaunchKernel")}


def failed_since():
    """Read a batch after something has failed that was launched before or with it."""
    begun = fasthist.histogram(OnGpu())
    put("fake_fault", ILLEGAL_ADDRESS)
    return {"told": refused(lambda: begun.num), "again": refused(lambda: begun.num)}


def held_until_counted():
    """Drop an array while it is counted."""
    import weakref

    put("fake_busy", 1)
    array = OnGpu()
    alive = weakref.ref(array)
    begun = fasthist.histogram(array)
    del array
    while_counted = alive() is not None
    put("fake_busy", 0)
    begun.num  # noqa: B018
    return {"while counted": while_counted, "later": alive() is not None}


def uploaded():
    """Count arrays in host memory on the GPU."""
    h = fasthist.histogram(np.ones(10_000, dtype=np.float32), device="cuda")
    g = fasthist.histogram(np.ones(10_000, dtype=np.float32), buckets=[0.0, 2.0], device="cuda:0")
    return {"nums": [h.num, g.num]}


def parameters():
    """Count the parameters that some kernels declare, and those that are prepared for each."""
    import re

    from fasthist.kernels.cuda import cubins, driver
    from fasthist.kernels.cuda.primitives import numba_cuda

    declared, prepared = [], []
    compile_, call = numba_cuda.compile, driver.Call.__init__

    def compiled(*arguments, **options):
        text, kind = compile_(*arguments, **options)
        (entry,) = re.findall(r"\.entry\s+[\w$]+\((.*?)\)", text, flags=re.DOTALL)
        declared.append(re.findall(r"\.param \.(\w)(\d+) ", entry))
        return text, kind

    def noted(self, *arguments):
        call(self, *arguments)
        prepared.append(len(self._words))

    numba_cuda.compile, driver.Call.__init__ = compiled, noted
    cubins._folder = lambda: None
    for dtype in "<f4", "<f8", "|i1":
        fasthist.histogram(OnGpu(dtype=dtype)).num  # noqa: B018
        fasthist.histogram(OnGpu(dtype=dtype), buckets=[0.0, 1.0]).num  # noqa: B018
    widths = {int(bits) for kernel in declared for _, bits in kernel}
    return {
        "declared": sorted(map(len, declared)),
        "prepared": sorted(set(prepared)),
        "widths": sorted(widths),
    }


def first_histogram():
    """Say how long the first histogram of a process takes, and whether it has compiled anything."""
    from fasthist.kernels.cuda.primitives import numba_cuda as cuda

    compiled = []
    compile_ = cuda.compile
    cuda.compile = lambda *arguments, **options: (
        compiled.append(1) or compile_(*arguments, **options)
    )
    begin = time.perf_counter()
    fasthist.histogram(OnGpu()).num  # noqa: B018
    return {"seconds": time.perf_counter() - begin, "compiled": len(compiled)}


if __name__ == "__main__":
    outcome = globals()[sys.argv[1]]()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({**outcome, "lacked": fake.fake_lacked_context()}) + "\n")
