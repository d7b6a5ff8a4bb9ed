"""Arrays of Dask: the answers of the whole array, on threads and on processes, and no chunk kept or sent."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from oracle import answer, differences
from test_layers import loaded

import fasthist
from fasthist import dask_arrays
from fasthist.buckets import tensorflow_buckets
from fasthist.errors import ArrayError, BucketsError

DTYPES = (
    "float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool",
    ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
)  # fmt: skip


@pytest.fixture
def da(need):
    return need("dask.array")


def values_of(rng, shape, dtype):
    """Draw values of every kind, of which few are not finite."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    values = rng.normal(0, 3, shape)
    for special in (0.0, np.nan, np.inf, -np.inf):
        values = np.where(rng.random(shape) < 0.03, special, values)
    return values.astype(dtype)


def cut(rng, length):
    """Divide a length into parts of any size, some of them empty."""
    return tuple(
        np.diff(
            np.sort(rng.integers(0, length + 1, rng.integers(0, 4))), prepend=0, append=length
        ).tolist()
    )


def check(found, values):
    """Hold a histogram against the definition, for the edges that it has."""
    named = found.buckets == tensorflow_buckets()
    assert differences(found, answer(values.ravel(), None if named else found.buckets.edges)) == []


@pytest.mark.parametrize("seed", range(60))
def test_the_answer_is_that_of_the_whole_array(da, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(0, 30, rng.integers(0, 4)).tolist())
    values = np.asarray(values_of(rng, shape, DTYPES[seed % len(DTYPES)]))
    spread = da.from_array(values, chunks=tuple(cut(rng, length) for length in shape))
    plain = np.asarray(values.astype("f4")) if values.dtype.kind == "V" else values
    for buckets in ("auto", "tensorflow", [-3.5, -1, 0, 2.5, 100]):
        found = fasthist.histogram(spread, buckets=buckets)
        assert found.buckets == fasthist.histogram([], buckets=buckets).buckets
        check(found, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [1, 7, 200])
def test_uniform_buckets_are_those_of_numpy(da, dtype, number):
    values = values_of(np.random.default_rng(1), (40, 50), dtype)
    found = fasthist.histogram(da.from_array(values, chunks=(13, 17)), buckets=number)
    doubles = values.astype("f4" if values.dtype.kind == "V" else values.dtype).astype("f8")
    counts, edges = np.histogram(doubles[np.isfinite(doubles)], bins=number)
    assert np.array_equal(found.counts, counts)
    assert np.array_equal(found.buckets.edges, edges)
    assert found.buckets.name == "uniform"


def test_chunks_of_unknown_size(da):
    values = np.random.default_rng(2).normal(size=(300, 20))
    spread = da.from_array(values, chunks=(70, 20))
    kept = spread[spread > 0.5]
    assert np.isnan(kept.shape[0])
    for buckets in ("auto", 9):
        check(fasthist.histogram(kept, buckets=buckets), values[values > 0.5])


@pytest.mark.parametrize("buckets", ["auto", 5])
def test_no_finite_value(da, buckets):
    for spread in (da.zeros((0,)), da.zeros((0, 3), chunks=2), da.full((10,), np.nan, chunks=3)):
        found = fasthist.histogram(spread, buckets=buckets)
        assert (found.num, found.min, found.nan_count) == (0, None, int(spread.size))
        assert found.buckets == fasthist.histogram([], buckets=buckets).buckets


def test_quantiles_of_a_thousand_chunks(da):
    """Three levels of additions move the outline by less than the bound of one."""
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 150_000), rng.lognormal(0, 1, 50_000)])
    found = fasthist.histogram(da.from_array(rng.permutation(values), chunks=200))
    ordered = np.sort(values)
    for q in np.linspace(0, 1, 101):
        below = np.searchsorted(ordered, found.quantile(q), side="right") / values.size
        assert abs(below - q) < 0.02
    assert found.outline[:, 2].sum() == values.size


def test_trees_are_computed_once(da, need):
    need("dask")
    made = collections.Counter()

    def make(block_info=None):
        made[block_info[None]["chunk-location"]] += 1
        return np.full((10,), float(block_info[None]["chunk-location"][0]))

    spread = da.map_blocks(make, chunks=((10,) * 8,), dtype="f8", meta=np.empty(0))
    tree = {
        "a": spread,
        "here": [1.0, 2.0],
        "b": {"c": spread * 2},
        "done": fasthist.histogram([3.0]),
    }
    found = fasthist.histograms(tree)
    assert list(found) == ["a", "here", "b/c", "done"]
    assert [h.num for h in found.values()] == [80, 2, 80, 1]
    assert (found["a"].max, found["b/c"].max) == (7.0, 14.0)
    assert made == {(i,): 1 for i in range(8)}


def watched(da, chunks, log):
    """Make an array whose chunks tell when they are made."""

    def make(block_info=None):
        (at,) = block_info[None]["chunk-location"]
        log.append(at)
        return np.arange(100_000.0) + at

    return da.map_blocks(make, chunks=((100_000,) * chunks,), dtype="f8", meta=np.empty(0))


@pytest.mark.parametrize(
    ("buckets", "passes"), [("auto", 1), ("tensorflow", 1), ([0.0, 1.0], 1), (4, 2)]
)
def test_no_chunk_is_kept(da, need, buckets, passes):
    """No task's result is as large as a chunk; and the second pass begins where the first is over."""
    callbacks, log, sizes = need("dask.callbacks"), [], []

    def posttask(*found):
        sizes.append(getattr(found[1], "nbytes", 0))

    with callbacks.Callback(posttask=posttask):
        found = fasthist.histogram(watched(da, 40, log), buckets=buckets)
    assert found.num == 4_000_000
    assert len(sizes) > 40 * passes
    assert max(sizes) < 100_000
    for i in range(passes):
        assert sorted(log[40 * i : 40 * (i + 1)]) == list(range(40))
    assert len(log) == 40 * passes


def test_additions_are_a_tree(da, need, monkeypatch):
    sizes = []
    whole = dask_arrays.merge_outlines
    monkeypatch.setattr(
        dask_arrays, "merge_outlines", lambda parts: sizes.append(len(parts)) or whole(parts)
    )
    need("dask")
    fasthist.histogram(da.arange(4000, chunks=10))
    assert max(sizes) == 16
    assert len(sizes) == 25 + 2 + 1


@pytest.mark.parametrize(
    ("variable", "asked", "expected"), [("", None, 1), ("3", None, 3), ("3", 2, 2)]
)
def test_a_task_has_one_thread(da, monkeypatch, variable, asked, expected):
    seen = []
    whole = dask_arrays.tally
    monkeypatch.setattr(
        dask_arrays,
        "tally",
        lambda arrays, buckets, threads, gpu, outlined: (
            seen.append(threads) or whole(arrays, buckets, threads, gpu, outlined=outlined)
        ),
    )
    monkeypatch.setenv("FASTHIST_NUM_THREADS", variable)
    fasthist.histogram(da.ones(1000, chunks=100), threads=asked)
    assert seen == [expected] * 10


def test_arrays_of_every_making(da, need):
    """Uniform buckets make each chunk twice, whatever makes it."""
    delayed = need("dask").delayed
    values = np.random.default_rng(5).normal(size=60)
    parts = [
        da.from_delayed(delayed(np.copy)(values[i : i + 20]), (20,), "f8") for i in (0, 20, 40)
    ]
    for spread in (
        da.random.default_rng(0).normal(size=(90, 40), chunks=(17, 23)),
        da.concatenate(parts),
        da.from_array(values, chunks=7, lock=True)[::2].rechunk(11),
        da.from_array(np.ma.masked_greater(values, 0.5), chunks=13),
        da.from_array(values, chunks=7).astype("f4").persist(),
    ):
        whole = spread.compute()
        plain = whole.compressed() if isinstance(whole, np.ma.MaskedArray) else whole
        check(fasthist.histogram(spread), plain)
        found = fasthist.histogram(spread, buckets=6)
        assert np.array_equal(found.counts, np.histogram(plain.astype("f8"), bins=6)[0])


@pytest.mark.parametrize("buckets", ["auto", 16])
def test_zarr_and_npy_stacks(da, need, tmp_path, buckets):
    zarr = need("zarr")
    values = np.random.default_rng(4).normal(size=(300, 40)).astype("f4")
    store = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=values.shape, chunks=(64, 40), dtype="f4"
    )
    store[:] = values
    da.to_npy_stack(str(tmp_path / "stack"), da.from_array(values, chunks=(50, 40)))
    for spread in (
        da.from_zarr(str(tmp_path / "a.zarr")),
        da.from_npy_stack(str(tmp_path / "stack")),
    ):
        check(fasthist.histogram(spread, buckets=buckets), values)


def test_a_writer_takes_them(da, tmp_path):
    with fasthist.SummaryWriter(tmp_path) as writer:
        writer.add_histogram("x", da.arange(1000, chunks=300), 3)
        writer.add_histograms({"y": da.ones((50, 2), chunks=7)}, 4)
    assert [(h.tag, h.step, h.histogram.num) for h in fasthist.read(tmp_path)] == [
        ("x", 3, 1000),
        ("y", 4, 100),
    ]


# ---- what goes wrong


@pytest.mark.parametrize("dtype", ["c8", "M8[s]"])
def test_a_dtype_that_cannot_be_counted_is_told_before(da, dtype):
    log = []
    spread = watched(da, 3, log).astype(dtype) if dtype != "M8[s]" else da.zeros(3, dtype=dtype)
    with pytest.raises(ArrayError, match=r"^w: dtype .* cannot be counted"):
        fasthist.histogram(spread, name="w")
    assert log == []


def test_a_chunk_that_is_no_array(da):
    spread = da.map_blocks(lambda: None, chunks=((5, 5),), dtype="f8", meta=np.empty(0))
    with pytest.raises(ArrayError, match=r"^fc/w: NoneType is not an array of numbers"):
        fasthist.histograms({"fc": {"w": spread}})


def test_an_error_of_a_task_is_its_own(da):
    def fail():
        msg = "the disk is gone"
        raise OSError(msg)

    spread = da.map_blocks(fail, chunks=((5, 5),), dtype="f8", meta=np.empty(0))
    with pytest.raises(OSError, match="the disk is gone"):
        fasthist.histogram(spread)


def test_chunks_that_change(da):
    calls = []

    def make():
        calls.append(0)
        return np.full(5, float(len(calls)))

    spread = da.map_blocks(make, chunks=((5,) * 6,), dtype="f8", meta=np.empty(0))
    with pytest.raises(
        ArrayError,
        match=r"^v: the values of the Dask array were others .* Hint: pass \.persist\(\)",
    ):
        fasthist.histogram(spread, buckets=3, name="v")


def test_wrong_arguments(da):
    with pytest.raises(BucketsError, match=r"buckets=0 must be between 1 and"):
        fasthist.histogram(da.ones(3), buckets=0)
    with pytest.raises(fasthist.FasthistError, match=r"threads=0"):
        fasthist.histogram(da.ones(3), threads=0)


def test_dask_is_not_imported_for_others():
    code = "import fasthist, sys; fasthist.histogram([1.0]); assert 'dask' not in sys.modules"
    assert loaded(code) == {"numba"}


# ---- on several processes


@pytest.fixture(scope="module")
def started():
    import cloudpickle
    import distributed

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    with (
        distributed.LocalCluster(
            n_workers=4,
            threads_per_worker=1,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def client(need, request):
    need("distributed")
    return request.getfixturevalue("started")


def made_by(directory, delay, block_info=None):
    """Make a chunk, and leave a file that tells which process did."""
    (at,) = block_info[None]["chunk-location"]
    time.sleep(delay)
    (directory / f"{os.getpid()}-{at}-{time.monotonic_ns()}").touch()
    return part_of(at)


def part_of(at):
    values = np.random.default_rng(at).normal(at % 7, 1, 20_000)
    values[:3] = np.nan, np.inf, 0.0
    return values


def pids(directory):
    return collections.Counter(int(path.name.split("-")[0]) for path in directory.iterdir())


def array_of(da, directory, chunks, delay=0.0):
    return da.map_blocks(
        made_by, directory, delay, chunks=((20_000,) * chunks,), dtype="f8", meta=np.empty(0)
    )


@pytest.mark.parametrize(("buckets", "passes"), [("auto", 1), (64, 2), ([-1.0, 0.0, 5.0], 1)])
def test_four_processes(da, client, tmp_path, buckets, passes):
    from distributed import get_task_stream

    whole = np.concatenate([part_of(at) for at in range(40)])
    with get_task_stream(client) as stream:
        found = fasthist.histogram(array_of(da, tmp_path, 40), buckets=buckets)
    check(found, whole)
    if buckets == 64:
        assert np.array_equal(found.counts, np.histogram(whole[np.isfinite(whole)], bins=64)[0])
    workers = pids(tmp_path)
    assert os.getpid() not in workers
    assert len(workers) == 4
    assert workers.total() == 40 * passes
    # Nothing that a task gives is as large as a chunk: none was kept, sent or gathered.
    assert len(stream.data) > 40 * passes
    assert max(task["nbytes"] for task in stream.data) < 100_000


def test_persisted_arrays(da, client, tmp_path):
    spread = array_of(da, tmp_path, 8).persist()
    whole = np.concatenate([part_of(at) for at in range(8)])
    for buckets in ("tensorflow", 10):
        check(fasthist.histogram(spread, buckets=buckets), whole)
    assert pids(tmp_path).total() == 8
    del client


@pytest.mark.parametrize(("buckets", "after"), [("auto", 4), (64, 24)])
def test_a_worker_is_killed(da, client, tmp_path, buckets, after):
    """After some chunks of its own: the second time in the second pass, since a pass has 20 for each worker."""
    spread = array_of(da, tmp_path, 80, delay=0.03)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(fasthist.histogram(spread, buckets=buckets))
    )
    victim = min(client.run(os.getpid).values())
    thread.start()
    while thread.is_alive() and pids(tmp_path)[victim] < after:
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    thread.join()
    whole = np.concatenate([part_of(at) for at in range(80)])
    check(found[0], whole)
    made = pids(tmp_path)
    # What was lost was made again.
    assert made.total() > 80 * (1 if buckets == "auto" else 2)


def test_the_benchmark(need, tmp_path):
    need("distributed")
    script = Path(__file__).parents[1] / "benchmarks" / "dask_rate.py"
    options = ["--gigabytes", "0.04", "--chunk-mib", "4", "--rounds", "1", "--workers", "1"]
    out = tmp_path / "dask.json"
    done = subprocess.run(
        [sys.executable, str(script), *options, "--out", str(out)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(out.read_text("utf-8"))
    assert (found["chunks"], found["workers"]) == (10, 1)
    assert set(found["peaks"]) == set(found["seconds"]) == {"histogram", "sum"}
    assert "Dask counts 0.0419 GB of float32 in 10 chunks on 1 workers in " in done.stdout
