"""What the host does to the CUDA driver: contexts, threads, streams, captures, memory, and how many calls it takes.

On a stand-in for the driver (``fakecuda.c``), in processes of their own: `on_fake_driver.py` says what each does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Compile the stand-in driver, and give its folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the stand-in driver needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", folder / "libcuda.so.1"]
    subprocess.run([*command, TESTS / "fakecuda.c", "-lpthread", "-ldl"], check=True)
    return folder


@pytest.fixture
def run(driver, need):
    """Give a function that has a scenario done, and gives what it returned."""
    need("numba_cuda")

    def run(scenario, **variables):
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(driver),
            "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "NUMBA_ENABLE_CUDASIM": "0",
            **variables,
        }  # fmt: skip
        # Under coverage if this process is, which would not see it otherwise.
        coverage = sys.modules.get("coverage")
        runner = ["-m", "coverage", "run"] if coverage and coverage.Coverage.current() else []
        done = subprocess.run(
            [sys.executable, "-W", "error", *runner, str(TESTS / "on_fake_driver.py"), scenario],
            capture_output=True, text=True, timeout=300, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        outcome = json.loads(done.stdout.splitlines()[-1])
        assert outcome.pop("lacked") == 0, "calls that need a context were made without one"
        return outcome

    return run


def calls_of(text):
    return {name: int(n) for name, _, n in (part.partition("=") for part in text.split())}


# -- how many calls ------------------------------------------------------------------------------


def test_a_batch_of_300_tensors_takes_few_calls(run, need):
    need("torch")
    outcome = run("a_model_of_torch")
    calls = calls_of(outcome["calls"])
    assert sum(calls.values()) <= 16, calls
    assert calls["cuLaunchKernel"] == 2
    assert calls["cuStreamIsCapturing"] == 1
    assert [line[0] for line in outcome["lines"]] == ["wait", "launch", "launch", "record"]


def test_where_there_is_one_gpu_no_address_is_asked_for(run):
    calls = calls_of(run("arrays_of_an_interface")["calls"])
    assert sum(calls.values()) <= 16, calls


def test_where_there_are_two_the_driver_says_which(run):
    assert run("the_second_gpu") == {"num": 0}


# -- contexts and lives --------------------------------------------------------------------------


def test_threads_without_a_context_read_and_drop(run):
    alive = run("threads_that_read_and_drop")
    # However many batches there were.
    assert alive["memory"] <= 64
    assert alive["host"] <= 8
    assert alive["events"] <= 16


def test_plans_are_kept_and_edges_are_not(run):
    outcome = run("edges_of_many_shapes")
    assert outcome["grown"] <= outcome["plans"]


def test_batches_that_nobody_reads_are_dropped_in_a_thread_without_a_context(run):
    assert (
        run("dropped_unread") == {}
    )  # `run` has looked for calls without a context, and for tracebacks


def test_an_array_lives_until_it_is_counted(run):
    assert run("held_until_counted") == {"while counted": True, "later": False}


def test_arrays_of_the_host(run):
    assert run("uploaded") == {"nums": [0, 0]}


def test_kernels_declare_the_parameters_that_the_host_prepares(run):
    outcome = run("parameters")
    assert outcome["widths"] == [64]
    assert len(outcome["declared"]) == 6
    assert set(outcome["declared"]) == set(outcome["prepared"])


# -- captures ------------------------------------------------------------------------------------


def test_a_capture_is_refused_and_stays_whole(run):
    outcome = run("in_a_capture")
    assert "is being captured" in outcome["told"]
    assert "Hint: call it before or after the capture" in outcome["told"]
    assert "is being captured" in outcome["beside"]
    assert (outcome["launches"], outcome["outcomes"], outcome["later"]) == (0, [0, 0], 0)


def test_waiting_does_not_break_the_capture_of_another_thread(run):
    assert run("polled_beside_a_capture") == {"outcome": 0, "num": 0}


def test_counting_does_not_break_the_capture_of_another_thread(run):
    assert run("counted_beside_a_capture") == {"outcome": 0}


# -- streams -------------------------------------------------------------------------------------


def test_the_batch_waits_for_a_second_stream_and_the_second_stream_for_the_batch(run):
    outcome = run("two_streams")
    first, second = outcome["streams"]
    order = outcome["lines"]
    launches = [i for i, line in enumerate(order) if line[0] == "launch"]
    assert {line[1] for line in order if line[0] == "launch"} == {first}
    before, after = order[: launches[0]], order[launches[-1] + 1 :]
    (written,) = [event for name, stream, event in before if (name, stream) == ("record", second)]
    assert ["wait", first, written] in before
    (counted,) = [event for name, stream, event in after if (name, stream) == ("record", first)]
    assert ["wait", second, counted] in after[after.index(["record", first, counted]) :]


def test_the_default_streams_of_two_threads_wait_for_each_other(run):
    order = run("each_threads_default_stream")["lines"]
    records = [line[2] for line in order if line[0] == "record"]
    later = order[order.index(["record", 2, records[0]]) + 1 :]
    assert ["wait", 2, records[0]] in later[: [line[0] for line in later].index("launch")]


# -- the device's limits -------------------------------------------------------------------------


def test_as_many_blocks_are_launched_as_the_registers_allow(run):
    launches = [blocks for name, _, blocks in run("few_blocks")["lines"] if name == "launch"]
    processors = 132
    assert launches[0] == 2 * processors


def test_memory_that_is_refused_is_asked_for_again_and_then_named(run, need):
    need("torch")
    outcome = run("little_memory")
    assert (outcome["once"], outcome["later"]) == (0, 0)
    assert "has no memory left" in outcome["always"]
    assert "torch.cuda.empty_cache()" in outcome["always"]


def test_what_failed_before_is_said_to_be_older(run):
    outcome = run("failed_before")
    assert "failed before this call" in outcome["told"]
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in outcome["told"]
    assert "CUDA_LAUNCH_BLOCKING=1" in outcome["told"]
    assert outcome["launches"] == 0


def test_what_failed_since_may_be_anybodys(run):
    outcome = run("failed_since")
    assert "a kernel that was launched before it, or this one" in outcome["told"]
    assert outcome["again"] == outcome["told"]


# -- compiling -----------------------------------------------------------------------------------


def test_a_second_process_compiles_nothing(run, tmp_path):
    first = run("first_histogram", NUMBA_CACHE_DIR=str(tmp_path))
    second = run("first_histogram", NUMBA_CACHE_DIR=str(tmp_path))
    assert first["compiled"] > 0
    assert second["compiled"] == 0


# -- the host's time -----------------------------------------------------------------------------


def test_the_benchmark_of_the_hosts_time(need):
    need("numba_cuda")
    need("torch")
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("the stand-in driver needs a C compiler")
    command = [sys.executable, str(TESTS.parent / "benchmarks" / "gpu_host.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["data_ptr"] < found["histograms"] < found["add_histograms"] * 2
