"""The two calls: arguments, threads, forks, memory, trees."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import strategies
from numba import config

import fasthist
from fasthist import FasthistError, Histogram, histogram, histograms
from fasthist.errors import ArgumentError, ArrayError, BucketsError, DeviceError
from fasthist.kernels import batch, cpu, cpu_buckets, cpu_patterns, pool

NORMAL = np.random.default_rng(0).normal(size=65536 * 24 + 77).astype(np.float32)


# -- arguments ---------------------------------------------------------------------------------------------------


def test_the_default_counts_tensorflows_buckets():
    assert histogram([1.0]) == histogram([1.0], buckets="tensorflow")
    assert histogram([1.0]).outline is not None
    assert repr(histogram([1.0])).endswith("buckets='auto'[1550])")


@pytest.mark.parametrize("buckets", [0, "auto?", [1.0, 0.0], 2.5])
def test_wrong_buckets_are_refused_before_the_array_is_looked_at(buckets):
    with pytest.raises(BucketsError, match=r"Accepted: |must be between"):
        histogram(None, buckets=buckets)


@pytest.mark.parametrize("device", ["gpu", "", 0, "cuda:", "cuda:-1", "cuda:x"])
def test_what_is_no_device_is_refused(device):
    with pytest.raises(DeviceError, match=r'is not known. Accepted: "cpu", "cuda", "cuda:0"'):
        histogram([1.0], device=device)
    assert histogram([1.0], device="cpu") == histogram([1.0], device=None)


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:12"])
def test_without_a_gpu_what_is_missing_is_named(device):
    text = 'numba-cuda is not installed. Run: pip install|there is no NVIDIA driver.*Hint: device="cpu" copies'
    with pytest.raises(DeviceError, match=text):
        histogram([1.0], device=device)
    with pytest.raises(DeviceError, match=text):
        histograms({"w": NORMAL}, device=device)


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", [1]])
def test_a_number_of_threads_that_is_none_is_refused(threads):
    with pytest.raises(ArgumentError, match=r"threads=.* must be a whole number >= 1, or None"):
        histogram([1.0], threads=threads)


def test_more_threads_than_chunks():
    assert histogram([1.0, 2.0], threads=64) == histogram([1.0, 2.0], threads=1)


# -- the number of threads ---------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Record how many threads each run of the pool was asked for."""
    seen = []
    run = pool.run

    def spy(work, threads):
        seen.append(threads)
        run(work, threads)

    monkeypatch.setattr(pool, "run", spy)
    return seen


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("3", 3), (" 2 ", 2)])
def test_the_variable_sets_the_number_of_threads(value, expected, monkeypatch, asked):
    monkeypatch.setenv("FASTHIST_NUM_THREADS", value)
    assert pool.thread_count(None) == expected
    histogram(NORMAL)
    assert asked == [expected]


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_is_none(value, monkeypatch):
    monkeypatch.setenv("FASTHIST_NUM_THREADS", value)
    assert pool.thread_count(None) == pool.available_cpus() >= 1
    monkeypatch.delenv("FASTHIST_NUM_THREADS")
    assert pool.thread_count(None) == pool.available_cpus()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1e3", "²"])
def test_a_variable_that_is_no_number_of_threads_is_refused(value, monkeypatch):
    monkeypatch.setenv("FASTHIST_NUM_THREADS", value)
    text = f"FASTHIST_NUM_THREADS='{value}' must be a whole number >= 1, or unset"
    with pytest.raises(ArgumentError, match=text):
        histogram([1.0])
    assert histogram([1.0], threads=1).num == 1, "the argument comes first"


def test_the_argument_sets_the_number_of_threads(monkeypatch, asked):
    monkeypatch.setenv("FASTHIST_NUM_THREADS", "5")
    histogram(NORMAL, threads=2)
    histogram(NORMAL, threads=np.int64(3))
    histograms({"w": NORMAL}, threads=4)
    assert asked == [2, 3, 4]


def test_the_cpus_of_the_process_are_counted(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert pool.available_cpus() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert pool.available_cpus() == 1


# -- the pool ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_work_runs_on_as_many_threads_as_asked_for(threads):
    together = threading.Barrier(threads, timeout=30)  # broken if fewer come
    places = []
    pool.run(lambda: places.append(together.wait()), threads)
    assert sorted(places) == list(range(threads))


def test_a_larger_pool_replaces_a_smaller_one():
    for threads in (2, 4, 3):
        together = threading.Barrier(threads, timeout=30)
        pool.run(together.wait, threads)
    assert threading.active_count() < 50


def test_where_no_thread_can_start_the_callers_does_all_the_work(monkeypatch):
    class Closed:
        def submit(self, _):
            text = "cannot schedule new futures after shutdown"
            raise RuntimeError(text)

    monkeypatch.setattr(pool, "_pool", Closed())
    monkeypatch.setattr(pool, "_pool_size", 99)
    assert histogram(NORMAL, threads=4) == histogram(NORMAL, threads=1)


class BrokenError(Exception):
    """What no kernel raises by itself."""


def float32_rows():
    return NORMAL[: NORMAL.size // 2 * 2].reshape(-1, 2)[:, :1]


# Where each kernel is looked up, and an array of several chunks that needs it.
KERNELS = {
    "do_jobs": (batch, NORMAL, "tensorflow"),
    "tally_float32": (cpu, float32_rows(), "tensorflow"),
    "tally_float64": (cpu, float32_rows().astype(np.float64)[::2], "tensorflow"),
    "tally_integers": (cpu, np.ones(300_000, dtype=np.int32), "tensorflow"),
    "count_codes8": (cpu_patterns, np.ones(300_000, dtype=np.uint8), "tensorflow"),
    "count_codes16": (cpu_patterns, np.ones(300_000, dtype=np.float16), "tensorflow"),
    "count_uniform": (cpu_buckets, NORMAL, 30),
    "count_edges": (cpu_buckets, NORMAL, [0.0, 1.0]),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("where", ["helper", "caller"])
def test_the_error_of_a_thread_is_not_lost(name, where, monkeypatch):
    module, values, buckets = KERNELS[name]
    expected = histogram(values, buckets=buckets)
    raised = threading.Event()
    caller = threading.current_thread()
    kernel = getattr(module, name)

    def broken(*arguments):
        if (threading.current_thread() is caller) == (where == "caller"):
            raised.set()
            raise BrokenError(name)
        # The other thread goes on only when the error is on its way, so that both take part.
        assert raised.wait(30)
        return kernel(*arguments)

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(BrokenError, match=name):
        histogram(values, buckets=buckets, threads=2)
    monkeypatch.undo()
    assert histogram(values, buckets=buckets, threads=2) == expected


def test_the_error_of_a_thread_comes_out_of_run():
    together = threading.Barrier(2, timeout=30)
    caller = threading.current_thread()

    def work():
        together.wait()
        if threading.current_thread() is not caller:
            text = "helper"
            raise BrokenError(text)

    with pytest.raises(BrokenError, match="helper"):
        pool.run(work, 2)


def test_eight_threads_at_once():
    arrays = [NORMAL[i : i + 300_000 + i] for i in range(8)]
    arguments = ["tensorflow", 30, strategies.EDGES, 7]
    expected = [histogram(a, buckets=arguments[i % 4], threads=1) for i, a in enumerate(arrays)]
    together = threading.Barrier(8, timeout=60)

    def one(i):
        together.wait()
        return [histogram(arrays[i], buckets=arguments[i % 4], threads=2) for _ in range(6)]

    with ThreadPoolExecutor(8) as callers:
        for i, found in enumerate(callers.map(one, range(8))):
            assert found == [expected[i]] * 6


FORK = """
    import os, signal, threading
    import numpy as np
    import fasthist
    from fasthist.kernels import pool

    values = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    expected = fasthist.histogram(values, threads=1)
    assert fasthist.histogram(values, threads=4) == expected  # the pool has threads now

    def in_a_child(then=None):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            pool.run(threading.Barrier(4, timeout=30).wait, 4)  # there are threads again
            same = all(fasthist.histogram(values, threads=n) == expected for n in (1, 2, 4, 6))
            if then is not None:
                then()
            os._exit(0 if same else 3)
        assert os.waitpid(child, 0)[1] == 0

    in_a_child()
    in_a_child(then=in_a_child)
    assert fasthist.histogram(values, threads=4) == expected
    print("same")
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_child_counts_as_its_parent_does():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK)],
        capture_output=True,
        text=True,
        cwd=Path(fasthist.__file__).parents[1],
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "same\n", "")


# -- memory ------------------------------------------------------------------------------------------------------


def peak_of(work):
    """Give the most bytes that Python and numpy held at once while work ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_peak_of_sees_a_copy():
    values = np.ones(1 << 22, dtype=np.float32)
    assert peak_of(values.copy) >= values.nbytes


@pytest.mark.parametrize("buckets", ["tensorflow", 30, strategies.EDGES], ids=str)
@pytest.mark.parametrize(
    "layout", ["contiguous", "read-only", "transposed", "big-endian", "strided"]
)
@pytest.mark.parametrize("name", ["float32", "int64", "float16"])
def test_no_layout_is_copied_whole(layout, name, buckets):
    values = (np.arange(1 << 22) % 2003).astype(name)
    array = strategies.LAYOUTS[layout](values)
    histogram(array[:70_000], buckets=buckets)  # tables that every later call shares
    peak = peak_of(lambda: histogram(array, buckets=buckets, threads=2))
    assert peak < 3 << 20
    assert peak < values.nbytes / 2


# -- trees -------------------------------------------------------------------------------------------------------


def test_histograms_of_a_tree():
    tree = {"fc": {"weight": NORMAL, "bias": [0.5, np.nan]}, "steps": [NORMAL[:9], None, 3.0]}
    found = histograms(tree, buckets=[-1.0, 0.0, 1.0])
    assert list(found) == ["fc/weight", "fc/bias", "steps/0", "steps/2"]
    assert found["fc/weight"] == histogram(NORMAL, buckets=[-1.0, 0.0, 1.0])
    assert (found["fc/bias"].num, found["fc/bias"].nan_count) == (1, 1)
    assert (found["steps/2"].num, found["steps/2"].above_count) == (1, 1)
    assert histograms({}) == histograms(None) == {}


@pytest.mark.nojit
@pytest.mark.parametrize("buckets", ["tensorflow", 7, [-1.0, 0.0, 0.5]])
@pytest.mark.parametrize("threads", [1, 3])
def test_many_at_once_are_what_each_is_alone(buckets, threads):
    rng = np.random.default_rng(3)
    sizes = [0, 1, 64, 1000] if config.DISABLE_JIT else [0, 1, 64, 1000, 70_000, 400_001]
    tree = {}
    for name in ("float32", "float64", "float16", "int8", "bool", "uint16", "int32", "int64"):
        for size in sizes:
            values = (rng.normal(0, 3, size) * (name != "bool")).astype(name)
            tree[f"{name}/{size}"] = values
            tree[f"{name}/{size}/strided"] = np.repeat(values, 2)[::2]
    tree["special"] = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324])
    assert list(tree) == list(found := histograms(tree, buckets=buckets, threads=threads))
    alone = {tag: histogram(leaf, buckets=buckets, threads=1) for tag, leaf in tree.items()}
    assert [tag for tag in tree if found[tag] != alone[tag]] == []


def test_more_arrays_than_one_group_holds():
    tree = {str(i): np.full(60_000, i, dtype=np.int16) for i in range(40)}
    found = histograms(tree)
    assert [h.min for h in found.values()] == list(range(40))
    assert {h.num for h in found.values()} == {60_000}


def test_a_histogram_in_a_tree_is_taken_as_it_is():
    done = histogram([1.0], buckets=3)
    found = histograms({"a": done, "b": [2.0]})
    assert found["a"] is done
    assert isinstance(found["b"], Histogram)


def test_a_model_is_a_tree(need):
    torch = need("torch")
    net = torch.nn.Linear(3, 2)
    found = histograms({"net": net})
    assert list(found) == ["net/weight", "net/bias"]
    assert found["net/weight"] == histogram(net.weight.detach().numpy())


@pytest.mark.parametrize("values", [NORMAL, [1.0, 2.0], 3.0, np.float32(3)])
def test_an_array_is_no_tree(values):
    kind = type(values).__name__
    with pytest.raises(ArgumentError, match=rf"{kind} is an array, not a tree.*\{{tag: array\}}"):
        histograms(values)


def test_two_leaves_of_one_tag_are_refused():
    with pytest.raises(ArgumentError, match=r"two leaves have the tag 'a/b'. .*rename one of the"):
        histograms({"a/b": [1.0], "a": {"b": [2.0]}})


def test_errors_of_a_tree_name_the_leaf_and_are_ours():
    with pytest.raises(ArrayError, match=r"^w/1: dtype <U4 cannot be counted"):
        histograms({"w": [NORMAL, "text"]})
    with pytest.raises(FasthistError):
        histograms({"w": NORMAL}, buckets=0)
    with pytest.raises(DeviceError):
        histograms({"w": NORMAL}, device="gpu")
