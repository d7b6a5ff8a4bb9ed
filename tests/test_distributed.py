"""Histograms of several real processes add up to those of the whole, or every process is told why not."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = 120
"""After which the engine gives a collective up; only a machine that is overloaded comes near."""

WORLD = 8


def environment():
    """Give the environment of a rank."""
    return {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "FASTHIST_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def run_ranks(directory, world, module, *scenarios, seconds=SECONDS):
    """Run scenarios on so many processes, and give what each rank found; None for one that wrote nothing."""
    command = [
        sys.executable,
        HERE / "distributed_worker.py",
        str(world),
        directory,
        str(seconds),
        module,
    ]
    done = subprocess.run([*command, *scenarios], env=environment(), capture_output=True, text=True)
    files = [directory / f"{rank}.json" for rank in range(world)]
    found = [json.loads(file.read_text("utf-8")) if file.exists() else None for file in files]
    if not any(found):
        pytest.fail(done.stderr)
    return found


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """Run scenarios in a directory of their own, where torch is installed."""
    required = request.config.getoption("--require").split(",")
    if importlib.util.find_spec("torch") is None:
        (pytest.fail if "torch" in required else pytest.skip)("torch is not installed")
    return lambda *args, **kwargs: run_ranks(tmp_path_factory.mktemp("ranks"), *args, **kwargs)


def of(ranks, scenario):
    """Give what a scenario has found on each rank; fail where it raised."""
    found = [one and one.get(scenario) for one in ranks]
    for rank, one in enumerate(found):
        if isinstance(one, str) and one.startswith("Traceback"):
            pytest.fail(f"rank {rank}: {one}")
    return found


# -- any arrays --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sums(run):
    names = (
        "adds_up", "nothing_at_all", "sums_are_exact", "from_files", "partial_values", "counting_is_silent", "a_group",
        "disagreements", "meshes", "thousand",
    )  # fmt: skip
    return run(WORLD, "distributed_sums", *names)


@pytest.fixture(scope="module", params=[2, 4])
def few(run, request):
    return run(request.param, "distributed_sums", "adds_up", "disagreements")


def test_sums_over_ranks_are_those_of_the_whole(sums):
    assert of(sums, "adds_up") == [[]] * WORLD


def test_so_are_those_over_fewer(few):
    assert of(few, "adds_up") == [[]] * len(few)


def test_no_histograms_give_none(sums):
    assert of(sums, "nothing_at_all") == [{}] * WORLD


def test_the_sums_of_floats_are_rounded_once(sums):
    assert of(sums, "sums_are_exact") == [["[inf, inf, None]", "inf"]] * WORLD


def test_what_is_unknown_stays_so(sums):
    expected = dict.fromkeys(("exponent_counts", "cast_losses", "nan_count", "min", "sum"))
    known = {"max": 7.0, "sum_squares": 140.0 * WORLD, "zero_count": WORLD, "num": 8 * WORLD}
    assert of(sums, "from_files") == [expected | known] * WORLD


def test_random_meshes_and_placements(sums):
    found = of(sums, "meshes")
    assert [one["wrong"] for one in found] == [[]] * WORLD
    assert {one["of"] for one in found} == {200}
    assert sum(one["empty"] for one in found) > 200  # replicas, empty shards and ranks outside
    assert all(one["num"] for one in found)


def test_partial_values_are_refused(sums):
    for told, num, largest in of(sums, "partial_values"):
        assert told.startswith("a: a DTensor placed (Partial(sum),) holds partial values")
        assert "redistribute() it" in told
        assert (num, largest) == (3, WORLD)


def test_nothing_is_sent_by_itself(sums):
    assert of(sums, "counting_is_silent") == [[]] * WORLD


def test_a_group_of_some_ranks(sums):
    found = of(sums, "a_group")
    assert found[7] == [4, 1 + 3 + 5 + 7]
    assert found[1:7:2] == [None] * 3
    assert all(
        told.startswith(f"rank {2 * i} is not in this group") for i, told in enumerate(found[::2])
    )


def test_three_collectives_for_a_thousand_tensors(sums):
    for one in of(sums, "thousand"):
        for kind, num in (("normal", 300), ("everywhere", 1551)):
            assert one[kind]["calls"] == ["all_reduce"] * 3
            assert one[kind]["bytes"] <= 20e6
            assert one[kind]["nums"] == [num * WORLD]


TOLD = {
    "one less": ["rank 1 lacks 'layer3', which rank 0 has"],
    "first less": ["rank 1 has 'layer3', which rank 0 lacks"],
    "renamed": [
        "rank 1 lacks 'layer3', which rank 0 has",
        "rank 1 has 'other', which rank 0 lacks",
    ],
    "step": ["rank 1 has step 8, rank 0 7"],
    "buckets": [
        "'layer1' is 2 buckets from 0.0 to 2.0",
        "on rank 1, tensorflow on rank 0",
    ],
    "edges": ["2 buckets from 0.0 to 3.0", "2 buckets from 0.0 to 2.0"],
    "uniform": ["4 buckets from 0.0 to 1.0", 'buckets="tensorflow"'],
    "call": ["rank 1 has call reduce(dst=1), rank 0 all_reduce()"],
    "dst": ["rank 1 has call reduce(dst=1), rank 0 reduce(dst=0)"],
    "not counted": ["Rank 1: layer2: dtype complex128 cannot be counted"],
    "no dict": ["Rank 1: histograms=list must be a dict"],
    "no histogram": ["Rank 1: 'layer0' must be a Histogram, not int"],
    "all fail": [
        "Rank 0: histograms=list must be a dict",
        "Rank 1: histograms=list must be a dict",
    ],
    "no such rank": ["Rank 0: dst=99 must be a rank of the group"],
}


@pytest.mark.parametrize("what", TOLD)
def test_what_differs_is_told_on_every_rank(sums, few, what):
    for ranks in (sums, few):
        for one in of(ranks, "disagreements"):
            assert [text for text in TOLD[what] if text not in one[what]] == []
            assert one[f"{what}: then"] == len(ranks)  # and the group is as good as before


# -- torchrun ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_torchrun(need, tmp_path, ranks):
    need("torch")
    import fasthist

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)),
        *("--master-addr", "127.0.0.1", "--master-port", str(port)),
        *(str(HERE / "distributed_torchrun.py"), str(tmp_path)),
    ]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [(tag, step, one.num) for _, tag, step, _, one in fasthist.read(tmp_path)]
    sizes = {"0.weight": 35, "0.bias": 7, "2.weight": 7, "2.bias": 1}
    assert sorted(found) == sorted(
        (f"{kind}/{name}", step, size)
        for kind in ("weights", "gradients", "updates")
        for name, size in sizes.items()
        for step in range(2)
    )


# -- lost ranks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["dies", "does_not_call"])
def test_a_lost_rank_is_the_engines_error(run, how):
    found = of(run(2, "distributed_losses", how, seconds=6), how)[0]
    assert found["told"].startswith(("RuntimeError", "DistBackendError"))
    assert found["seconds"] < 12


# -- training ----------------------------------------------------------------------------------------------------

TRAINED = ("fsdp2", "hybrid", "tensor_parallel", "both", "replicated", "fsdp1")
TENSORS = 19
"""Parameters of the transformer."""


@pytest.fixture(scope="module")
def training(run):
    return run(4, "distributed_training", *TRAINED, "sequence_parallel", "fsdp1_flat", "refused")


@pytest.mark.parametrize("how", TRAINED)
def test_what_is_logged_is_that_of_the_gathered_tensors(training, how):
    found = of(training, how)
    assert [one["wrong"] for one in found] == [[]] * 4
    writers = (0, 2) if how == "replicated" else (0,)
    assert [one["tags"] for one in found] == [
        2 * 3 * TENSORS if rank in writers else 0 for rank in range(4)
    ]


def test_strided_shards_were_among_them(training):
    assert of(training, "both")[0]["placements"] == ["Replicate", "Shard", "_StridedShard"]


def test_gradients_that_are_partial(training):
    for one in of(training, "sequence_parallel"):
        assert one == {"wrong": [], "placements": "(Partial(sum),)"}


def test_flat_parameters_are_counted_without_their_padding(training):
    for one in of(training, "fsdp1_flat"):
        assert one["wrong"] == []
        assert "Accepted: FULL_SHARD or SHARD_GRAD_OP, with use_orig_params=True" in one["told"]
        assert "whose shards are gathered at the moment" in one["together"]


def test_what_watch_refuses(training):
    without, alone = of(training, "refused")[0]
    assert without.startswith("writer=None writes nothing")
    assert alone == 1


def test_without_a_process_group(need):
    need("torch")
    import fasthist
    from fasthist import distributed
    from fasthist.adapters.torch import watch
    from fasthist.errors import ArgumentError

    with pytest.raises(ArgumentError, match="has no process group"):
        distributed.all_reduce({"a": fasthist.histogram([1.0])})
    with pytest.raises(ArgumentError, match="has no process group"):
        watch(need("torch").nn.Linear(1, 1), None, distributed=True)
