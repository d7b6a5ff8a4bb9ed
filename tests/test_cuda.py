"""What is a GPU's own: borders of vectors, chunks and blocks, batches, streams, what is pending, and its producers.

Runs on a GPU, or in the simulator of one (``NUMBA_ENABLE_CUDASIM=1``). `test_kernels.py` runs there too.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import pickle
import sys
import threading
import time
import types

import numpy as np
import oracle
import pytest
import strategies

import fasthist
from fasthist import Histogram, SummaryWriter, histograms, intake
from fasthist.errors import ArrayError, DeviceError
from fasthist.events.reader import read
from fasthist.pending import PendingHistogram

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("on_gpu")]

FORMATS = ["float32", "float64", "bfloat16", "float16", "int64", "uint32", "int8", "float8_e4m3fn"]
NORMAL = np.random.default_rng(1).normal(0, 0.02, 3000).astype(np.float32)


def differences(histogram, values, edges=None):
    return oracle.differences(histogram, oracle.answer(strategies.decoded(values), edges))


def random_values(name, size, seed=0):
    rng = np.random.default_rng(seed)
    bits = 8 * strategies.DTYPES[name].itemsize
    return strategies.from_patterns(
        rng.integers(0, 1 << bits, size, dtype=strategies.carrier(name)), name
    )


# -- borders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_sizes_around_the_borders_of_vectors_and_chunks(name, offset, on_gpu):
    chunk, vector = on_gpu.CHUNK, 16 // strategies.DTYPES[name].itemsize
    whole = random_values(name, 3 * chunk + 40)
    sizes = {1, vector - 1, vector, vector + 1, chunk - 1, chunk, chunk + 1, 3 * chunk + 7} - {0}
    parts = {str(size): whole[offset : offset + size] for size in sorted(sizes)}
    found = histograms(
        {tag: on_gpu.OnGpu(part) for tag, part in parts.items()}, buckets="tensorflow"
    )
    assert {tag: differences(found[tag], part) for tag, part in parts.items()} == {
        tag: [] for tag in parts
    }


@pytest.mark.parametrize("name", FORMATS)
def test_one_value_at_each_border_is_counted_once(name, on_gpu):
    chunk = on_gpu.CHUNK
    values = np.ones(2 * chunk + 9).astype(strategies.DTYPES[name])
    for place in (0, 3, 4, 15, 16, chunk - 1, chunk, 2 * chunk - 1, 2 * chunk, -1):
        marked = values.copy()
        marked[place] = 100
        h = on_gpu.histogram(marked[1:] if place else marked, buckets=[0, 50, 150])
        assert (h.counts.tolist()[1], h.max) == (1, float(marked[place])), place


@pytest.mark.parametrize("shift", [0, 1, 2, 4, 7, 8, 15])
def test_any_address(shift, on_gpu):
    """Multiples of the element's size, and odd ones."""
    memory = np.frombuffer(random_values("uint8", 4 * 600 + 16).tobytes(), dtype=np.uint8)
    for name in ("float32", "float16", "int64"):
        values = np.frombuffer(memory[shift:].tobytes()[: 8 * 250], dtype=name)
        at = np.frombuffer(bytes(shift) + values.tobytes(), dtype=np.uint8)
        moved = np.frombuffer(at, dtype=name, offset=shift)
        assert differences(on_gpu.histogram(moved, buckets="tensorflow"), values) == []


# -- batches -------------------------------------------------------------------------------------


def model():
    """Give a tree with everything in it: formats, shapes, what is empty, what is not contiguous."""
    rng = np.random.default_rng(2)
    return {
        "w": rng.normal(size=(30, 40)).astype(np.float32),
        "w.T": rng.normal(size=(30, 40)).astype(np.float32).T,
        "column": rng.normal(size=(300, 4)).astype(np.float32)[:, 1],
        "bias": rng.normal(size=7).astype(np.float32),
        "empty": np.empty((0, 3), dtype=np.float32),
        "empty integers": np.empty(0, dtype=np.int64),
        "half": random_values("float16", 700),
        "brain": random_values("bfloat16", 900)[::-2],
        "double": random_values("float64", 400),
        "ids": rng.integers(-(2**63), 2**63 - 1, 300),
        "mask": rng.random(600) > 0.5,
        "quantised": random_values("float8_e5m2", 600),
        "scalar": np.float32(2.5).reshape(()),
        "nothing finite": np.array([np.nan, np.inf, -np.inf], dtype=np.float32),
    }


@pytest.mark.parametrize("buckets", ["auto", "tensorflow", 9, [-1.0, 0.0, 0.5, 2.0]], ids=str)
def test_a_tree_in_one_batch_is_each_array_on_its_own(buckets, on_gpu):
    tree = model()
    there = {tag: on_gpu.OnGpu(values) for tag, values in tree.items()}
    for _ in range(
        2
    ):  # the second time with the plan of the first, in memory that must be zeros again
        found = histograms(there, buckets=buckets)
        assert list(found) == list(tree)
        here = histograms(tree, buckets=buckets)
        for tag, values in tree.items():
            assert np.array_equal(found[tag].counts, here[tag].counts), tag
            assert found[tag].buckets == here[tag].buckets, tag
            assert (found[tag].outline is None) == (here[tag].outline is None), tag
            if isinstance(buckets, str):
                assert differences(found[tag], values) == [], tag
            elif not isinstance(buckets, int):
                assert differences(found[tag], values, buckets) == [], tag


def test_batches_of_other_shapes_do_not_see_what_the_last_one_left(on_gpu):
    trees = [model(), {"a": NORMAL}, {"b": NORMAL[:5], "c": np.arange(300)}, {"d": NORMAL[::7]}]
    for tree in [*trees, *reversed(trees)]:
        found = histograms(
            {tag: on_gpu.OnGpu(values) for tag, values in tree.items()}, buckets="tensorflow"
        )
        assert {tag: differences(found[tag], values) for tag, values in tree.items()} == {
            tag: [] for tag in tree
        }


def test_arrays_here_and_there_keep_their_order(on_gpu):
    found = histograms({"a": NORMAL[:10], "b": on_gpu.OnGpu(NORMAL[:20]), "c": NORMAL[:30]})
    assert {tag: h.num for tag, h in found.items()} == {"a": 10, "b": 20, "c": 30}


def test_sums_are_the_same_bits_every_time(on_gpu):
    h = [on_gpu.histogram(NORMAL) for _ in range(3)]
    assert len({(one.sum, one.sum_squares) for one in h}) == 1
    beside = histograms(
        {"x": on_gpu.OnGpu(np.ones(900)), "n": on_gpu.OnGpu(NORMAL), "y": on_gpu.OnGpu(NORMAL[5:])}
    )
    assert (beside["n"].sum, beside["n"].sum_squares) == (h[0].sum, h[0].sum_squares)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float64", "int32", "uint8"])
def test_the_outline_follows_the_values(name, on_gpu):
    values = (NORMAL * (1 if name[0] in "fb" else 5000)).astype(strategies.DTYPES[name])
    h = on_gpu.histogram(values)
    doubles = np.sort(strategies.decoded(values).astype(np.float64))
    assert h.outline[:, 2].sum() == h.num == values.size
    for q in (0.01, 0.25, 0.5, 0.9, 0.999):
        share = (doubles <= h.quantile(q)).mean()
        below = (doubles < h.quantile(q)).mean()
        assert below - 0.02 <= q <= share + 0.02


def test_a_large_array_is_sampled_where_the_cpu_samples_it(on_gpu):
    from fasthist.kernels import outlines

    values = np.tile(NORMAL, 2)
    h = on_gpu.histogram(values)
    assert np.array_equal(h.outline, fasthist.histogram(values).outline)
    assert outlines.elements_wanted(values.size, 0, 0, 0) < values.size / 2


# -- what is pending -----------------------------------------------------------------------------


def test_nothing_is_waited_for_until_a_value_is_read(on_gpu, monkeypatch):
    from fasthist.kernels.cuda.batch import Batch
    from fasthist.kernels.cuda.device import open_device

    asked = []
    wait = Batch.answers
    monkeypatch.setattr(Batch, "answers", lambda self: asked.append(self) or wait(self))
    h = on_gpu.histogram(NORMAL)
    assert isinstance(h, PendingHistogram)
    assert isinstance(h, Histogram)
    batch = open_device(0)._pending[-1]
    assert batch not in asked
    assert h.num == NORMAL.size
    assert batch in asked
    assert type(h) is Histogram
    with pytest.raises(AttributeError, match="'Histogram' object has no attribute 'nums'"):
        on_gpu.histogram(NORMAL).nums  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        repr, hash, copy.copy, copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h)), lambda h: h == copy.copy(h),
        lambda h: h + h, lambda h: h.quantile(0.5), lambda h: h.outline, lambda h: h.rebucket("tensorflow"),
        lambda h: sum([h, h]), lambda h: h.to_raw(), lambda h: h.mean,
    ],
)  # fmt: skip
def test_a_pending_histogram_is_one_in_every_use(use, on_gpu):
    def shown(result):
        return repr(result.tolist() if isinstance(result, np.ndarray) else result)

    finished = on_gpu.histogram(NORMAL)
    assert finished.num
    assert shown(use(on_gpu.histogram(NORMAL))) == shown(use(finished))


def test_more_batches_than_there_is_memory_for_are_waited_for(on_gpu):
    from fasthist.kernels.cuda.device import MOST_PENDING, open_device

    pending = [on_gpu.histogram(NORMAL[: i + 1]) for i in range(3 * MOST_PENDING)]
    assert len(open_device(0)._pending) <= MOST_PENDING
    assert [h.num for h in pending] == list(range(1, 3 * MOST_PENDING + 1))
    assert len(open_device(0)._free) <= MOST_PENDING


def test_several_threads_read_one_batch(on_gpu):
    found = histograms({str(i): on_gpu.OnGpu(NORMAL[: i + 1]) for i in range(20)})
    seen = []

    def look():
        seen.append([h.num for h in found.values()])

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [list(range(1, 21))] * 4


def test_what_is_pending_is_not_read_after_a_fork(on_gpu):
    h = on_gpu.histogram(NORMAL)
    child = os.fork()
    if child == 0:
        try:
            h.num  # noqa: B018
        except DeviceError as error:
            os._exit(7 if "before the fork" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert h.num == NORMAL.size


def test_the_array_is_not_kept_alive_by_what_it_gave(on_gpu):
    array = on_gpu.OnGpu(NORMAL)
    h = fasthist.histogram(array)
    assert h.num
    before = sys.getrefcount(array)
    del h
    assert sys.getrefcount(array) == before == 2


# -- the writer ----------------------------------------------------------------------------------


def test_the_writer_takes_what_is_pending(tmp_path, on_gpu):
    tree = {tag: values for tag, values in model().items() if tag != "empty integers"}
    there = {tag: on_gpu.OnGpu(values) for tag, values in tree.items()}
    with SummaryWriter(tmp_path / "gpu") as writer:
        for step in range(3):
            writer.add_histograms(there, step, stats=["max"])
        writer.add_histogram("alone", there["w"], 3)
        writer.add_histogram("nothing", on_gpu.OnGpu(np.empty(0)), 3)
    with SummaryWriter(tmp_path / "cpu") as writer:
        for step in range(3):
            writer.add_histograms(tree, step, stats=["max"])
        writer.add_histogram("alone", tree["w"], 3)
        writer.add_histogram("nothing", np.empty(0), 3)
    written = {
        where: {(one.tag, one.step): one for one in read(tmp_path / where)}
        for where in ("gpu", "cpu")
    }
    assert written["gpu"].keys() == written["cpu"].keys()
    assert ("alone", 3) in written["gpu"]
    for key, one in written["cpu"].items():
        other = written["gpu"][key]
        assert (one.histogram.num, one.histogram.min, one.histogram.max) == (
            other.histogram.num, other.histogram.min, other.histogram.max,
        )  # fmt: skip


def test_thinning_keeps_the_last_step_of_what_is_pending(tmp_path, on_gpu):
    with SummaryWriter(tmp_path, every=5, keep_last=True) as writer:
        for step in range(8):
            writer.add_histograms({"w": on_gpu.OnGpu(NORMAL[: step + 1])}, step)
    assert {one.step: one.histogram.num for one in read(tmp_path)} == {0: 1, 5: 6, 7: 8}


def test_an_error_of_the_device_reaches_the_caller_and_the_rest_is_written(
    tmp_path, on_gpu, monkeypatch
):
    from fasthist.kernels.cuda.batch import Batch

    writer = SummaryWriter(tmp_path)
    writer.add_histograms({"before": NORMAL}, 0)
    writer.flush()

    def fail(_):
        msg = "an illegal memory access was encountered"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "_wait", fail)
        pending = histograms({"lost": on_gpu.OnGpu(NORMAL)})
        with pytest.raises(DeviceError, match=r"GPU 0 cannot count: .*illegal memory access"):
            pending["lost"].num  # noqa: B018
        with pytest.raises(DeviceError):  # and again, not something else
            pending["lost"].num  # noqa: B018
        writer.add_histograms({"lost": on_gpu.OnGpu(NORMAL)}, 1)
        with pytest.raises(DeviceError, match="illegal memory access"):
            writer.flush()
    writer.add_histograms({"after": on_gpu.OnGpu(NORMAL)}, 2)
    writer.close()
    assert [(one.tag, one.step) for one in read(tmp_path)] == [("before", 0), ("after", 2)]


def test_an_error_of_the_device_is_raised_by_the_next_call(tmp_path, on_gpu, monkeypatch):
    from fasthist.kernels.cuda.batch import Batch

    done = threading.Event()

    def fail(_):
        done.set()
        msg = "out of memory"
        raise RuntimeError(msg)

    writer = SummaryWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "_wait", fail)
        writer.add_histograms({"lost": on_gpu.OnGpu(NORMAL)}, 1)
        assert done.wait(10)
    time.sleep(0.2)
    with pytest.raises(DeviceError, match="out of memory"):
        writer.add_scalar("loss", 0.5, 2)
    writer.close()


# -- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int64", "int8"])
def test_an_array_in_host_memory_is_brought_there_in_pieces(name, monkeypatch):
    from fasthist.kernels.cuda import upload

    monkeypatch.setattr(upload, "PIECE", 512)
    values = random_values(name, 1200)
    for array in (values, values.reshape(12, 100)[:, 5:60], values[:0]):
        for buckets in ("auto", 7, strategies.EDGES):
            here = fasthist.histogram(array, buckets=buckets, device="cpu")
            there = fasthist.histogram(array, buckets=buckets, device="cuda:0")
            assert np.array_equal(here.counts, there.counts)
            assert here.buckets == there.buckets
            assert (here.outline is None) == (there.outline is None)
            if buckets != 7:
                edges = None if buckets == "auto" else buckets
                assert differences(there, array, edges) == []


def test_what_lies_there_is_counted_there_with_either_name(on_gpu):
    for device in (None, "cuda", "cuda:0"):
        assert isinstance(on_gpu.histogram(NORMAL, device=device), PendingHistogram)


def test_a_device_that_is_not_there(on_gpu):
    with pytest.raises(DeviceError, match=r'GPU 63 cannot count: .*Hint: device="cpu"'):
        fasthist.histogram(NORMAL, device="cuda:63")
    assert on_gpu.histogram(NORMAL).num == NORMAL.size


def test_a_device_out_of_memory_says_so_and_works_on(on_gpu, monkeypatch):
    from fasthist.kernels.cuda import device

    def refuse(*_, **__):
        msg = "[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(device.Device, "_mail_of", refuse)
        with pytest.raises(
            DeviceError, match=r"GPU 0 cannot count: .*OUT_OF_MEMORY.*Hint: device="
        ):
            on_gpu.histogram(NORMAL)
    assert on_gpu.histogram(NORMAL).num == NORMAL.size


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_between_two_launches_leaves_no_counts_behind(
    interruption, on_gpu, monkeypatch
):
    from fasthist.kernels.cuda import device

    assert on_gpu.histogram(NORMAL).num == NORMAL.size
    array = on_gpu.OnGpu(NORMAL[:100])
    run, launched = device.driver.Call.run, []

    def interrupted(call, *where):
        launched.append(call)
        if len(launched) == 2:
            raise interruption
        run(call, *where)

    monkeypatch.setattr(device.driver.Call, "run", interrupted)
    with pytest.raises(interruption):
        fasthist.histogram(array)
    assert fasthist.histogram(array).num == 100


# -- producers -----------------------------------------------------------------------------------


class Interface:
    """An array that has nothing but the interface."""

    def __init__(self, values, **changes):
        self.values = values
        self.__cuda_array_interface__ = {**values.__cuda_array_interface__, **changes}


def test_the_interface_alone_tells_enough(on_gpu):
    assert fasthist.histogram(Interface(on_gpu.OnGpu(NORMAL), strides=None)).num == NORMAL.size
    assert intake.read(Interface(on_gpu.OnGpu(NORMAL), stream=7)).stream == 7
    assert intake.read(Interface(on_gpu.OnGpu(NORMAL), stream=None)).stream == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"typestr": "<c8"}, "dtype complex64 cannot be counted"),
        ({"typestr": ">f4"}, "byte order of >f4"),
        ({"typestr": "<V2"}, "dtype void16 cannot be counted"),
        ({"mask": 1}, "masked array"),
    ],
)
def test_what_the_interface_tells_and_cannot_be_counted(changes, text, on_gpu):
    with pytest.raises(ArrayError, match=f"^x: .*{text}.*Accepted: dense arrays of bool"):
        fasthist.histogram(Interface(on_gpu.OnGpu(NORMAL), **changes), name="x")


class Capsule:
    """An array on a GPU that speaks DLPack: in the simulator a CPU's, whose capsule is laid out alike."""

    def __init__(self, values):
        self.values = values
        self.streams = []

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.values.__dlpack__()


def test_dlpack():
    from fasthist.kernels.cuda.primitives import SIMULATED

    if not SIMULATED:
        pytest.skip("the capsules of this test hold addresses of the host")
    rng = np.random.default_rng(3)
    for values in (
        rng.normal(size=(9, 11)).astype(np.float32), rng.normal(size=(9, 11))[::2, 1::3], rng.integers(0, 9, 30),
        rng.random(40) > 0.5, np.empty((3, 0)), rng.integers(0, 9, 30).astype(np.uint8), np.array(3.0),
    ):  # fmt: skip
        capsule = Capsule(values)
        assert differences(fasthist.histogram(capsule, buckets="tensorflow"), values) == []
        assert capsule.streams == [1]


def test_dlpack_of_torch_has_bfloat16_too(need):
    from fasthist.kernels.cuda.primitives import SIMULATED

    torch = need("torch")
    if not SIMULATED:
        pytest.skip("the capsules of this test hold addresses of the host")
    tensor = torch.arange(-30, 40).to(torch.bfloat16)
    assert fasthist.histogram(Capsule(tensor)).sum == sum(range(-30, 40))
    with pytest.raises(ArrayError, match="dtype of DLPack's code 5 and 64 bits cannot be counted"):
        fasthist.histogram(Capsule(torch.ones(2, dtype=torch.complex64)))


@pytest.fixture
def on_cuda(need, monkeypatch):
    """Give a function that makes CUDA tensors: real ones, or such as say so, with addresses of the host."""
    from fasthist.kernels.cuda.primitives import SIMULATED

    torch = need("torch")
    if not SIMULATED:
        return lambda tensor: tensor.cuda()

    class Tensor(torch.Tensor):
        device = torch.device("cuda", 0)

        def get_device(self):
            return 0

    stream = types.SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    return lambda tensor: tensor.as_subclass(Tensor)


def test_tensors_of_torch(on_cuda, need):
    torch = need("torch")
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(40, 30, generator=generator)
    tensors = {
        str(dtype): normal.mul(10).to(dtype)
        for dtype in (
            torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int64,
            torch.bool, torch.float8_e4m3fn,
        )
    }  # fmt: skip
    tensors |= {
        "transposed": normal.T, "rows": normal[3:9], "columns": normal[:, 2:5], "offset": normal.reshape(-1)[1:],
        "expanded": normal[:1].expand(5, 30), "scalar": normal[0, 0], "empty": normal[:0],
    }  # fmt: skip
    found = fasthist.histograms(
        {tag: on_cuda(tensor) for tag, tensor in tensors.items()}, buckets="tensorflow"
    )
    here = fasthist.histograms(tensors, buckets="tensorflow")
    for tag in tensors:
        assert np.array_equal(found[tag].counts, here[tag].counts), tag
        assert (found[tag].num, found[tag].min, found[tag].max) == (
            here[tag].num, here[tag].min, here[tag].max,
        ), tag  # fmt: skip
        assert found[tag].sum == pytest.approx(here[tag].sum, rel=1e-12)


@pytest.fixture
def taken_for_cuda(need, monkeypatch):
    """Have all tensors on the CPU taken for such on a GPU by what asks many at once; count what it was given."""
    from fasthist import gpu_intake
    from fasthist.kernels.cuda.primitives import SIMULATED

    torch = need("torch")
    if not SIMULATED:
        pytest.skip("a GPU cannot read them")
    monkeypatch.setattr(gpu_intake, "TORCH_KIND", "cpu")
    stream = types.SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    taken, all_of_torch = [], gpu_intake.all_of_torch

    def noted(tensors):
        found = all_of_torch(tensors)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(gpu_intake, "all_of_torch", noted)
    return taken


def test_many_tensors_of_torch_at_once(taken_for_cuda, need):
    torch = need("torch")
    normal = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    bytes_ = torch.frombuffer(bytearray(normal.numpy().tobytes()), dtype=torch.uint8)
    tensors = {
        "plain": normal, "transposed": normal.T, "columns": normal[:, 2:5], "offset": normal.reshape(-1)[1:],
        "expanded": normal[:1].expand(5, 30), "scalar": normal[0, 0], "empty": normal[:0],
        "half": normal.half(), "brain": normal.bfloat16()[3:, 1:], "integers": normal.mul(9).long(),
        "unaligned": bytes_[3:4003], "parameter": torch.nn.Parameter(normal),
    }  # fmt: skip
    found = fasthist.histograms(tensors, buckets="tensorflow")
    assert taken_for_cuda == [True]
    for tag, tensor in tensors.items():
        here = fasthist.histogram(tensor, buckets="tensorflow")
        assert np.array_equal(found[tag].counts, here.counts), tag
        assert (found[tag].num, found[tag].min) == (here.num, here.min), tag


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_special_tensors_of_torch_are_looked_at_one_by_one(taken_for_cuda, need):
    torch = need("torch")
    plain = torch.ones(6)
    specials = {
        "negative": torch.tensor([1 + 2j, 3 + 4j]).conj().imag,
        "complex": torch.ones(2, dtype=torch.complex64),
        "sparse": plain.to_sparse(),
        "nested": torch.nested.nested_tensor([plain, plain[:2]]),
        "meta": torch.ones(3, device="meta"),
    }
    for special in specials.values():
        with contextlib.suppress(ArrayError):
            fasthist.histograms({"plain": plain, "special": special})
    with contextlib.suppress(ArrayError):
        fasthist.histograms({"plain": plain, "array": NORMAL})
    assert taken_for_cuda == [False] * (len(specials) + 1)


def test_parameters_and_gradients_of_torch(on_cuda, need):
    torch = need("torch")
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 50))
    assert fasthist.histogram(on_cuda(weight)).num == 50
    negative = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    assert negative.is_neg()
    assert fasthist.histogram(on_cuda(negative)).max == -2.0


def test_one_call_asks_once_for_the_stream(on_cuda, need, monkeypatch):
    torch = need("torch")
    asked = []
    current = torch.cuda.current_stream
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: asked.append(device) or current(device)
    )
    tree = {str(i): on_cuda(torch.ones(3)) for i in range(5)}
    assert all(h.num == 3 for h in fasthist.histograms(tree).values())
    assert asked == [0]


def test_what_torch_says_of_a_tensor_that_cannot_be_counted(on_cuda, need):
    torch = need("torch")
    with pytest.raises(ArrayError, match=r"^g: a complex torch tensor cannot be counted"):
        fasthist.histogram(on_cuda(torch.ones(2, dtype=torch.complex64)), name="g")


def test_with_cpu_as_its_device_an_array_is_counted_here(on_cuda, need):
    torch = need("torch")
    h = fasthist.histogram(on_cuda(torch.ones(3)), device="cpu")
    assert (type(h), h.num) == (Histogram, 3)


def test_arrays_of_numba():
    from fasthist.kernels.cuda.primitives import SIMULATED, numba_cuda

    if SIMULATED:
        pytest.skip("the simulator's arrays have no interface")
    there = numba_cuda.to_device(NORMAL)
    assert differences(fasthist.histogram(there, buckets="tensorflow"), NORMAL) == []
    assert fasthist.histogram(there, device="cpu").num == NORMAL.size


def test_arrays_of_cupy(need):
    cupy = need("cupy")
    for values in (NORMAL, NORMAL[::3], NORMAL.reshape(30, 100).T):
        assert (
            differences(fasthist.histogram(cupy.asarray(values), buckets="tensorflow"), values)
            == []
        )


# -- on a GPU alone ------------------------------------------------------------------------------


@pytest.fixture
def cuda_torch(need):
    """Give torch, with a GPU that is none of the simulator's."""
    from fasthist.kernels.cuda.primitives import SIMULATED

    torch = need("torch")
    if SIMULATED or not torch.cuda.is_available():
        pytest.skip("needs a GPU and a CUDA build of torch")
    return torch


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64", "int32", "int8"])
def test_a_hundred_million_elements(name, cuda_torch, monkeypatch):
    from fasthist.kernels.chunks import CHUNK
    from fasthist.kernels.cuda.device import open_device

    monkeypatch.setattr(open_device(0), "chunk", CHUNK)
    tensor = (cuda_torch.randn(100_000_003, device="cuda") * 20).to(getattr(cuda_torch, name))
    there, here = fasthist.histogram(tensor), fasthist.histogram(tensor.cpu())
    assert there == here or math.isclose(there.sum, here.sum, rel_tol=1e-9, abs_tol=1e-3)
    assert np.array_equal(there.counts, here.counts)
    assert np.array_equal(there.exponent_counts, here.exponent_counts)


def test_a_tensor_may_be_changed_by_the_next_kernel_of_its_stream(cuda_torch):
    stream = cuda_torch.cuda.Stream()
    with cuda_torch.cuda.stream(stream):
        tensor = cuda_torch.ones(50_000_000, device="cuda")
        found = []
        for _ in range(6):
            found.append(fasthist.histogram(tensor, buckets="tensorflow"))
            tensor.mul_(2)
    assert [(h.min, h.max) for h in found] == [(2.0**i, 2.0**i) for i in range(6)]
