"""Scenarios for any number of ranks: what is reduced, and what is told when the ranks do not agree."""

from __future__ import annotations

import math

import numpy as np
import oracle
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import fasthist
from fasthist import distributed
from fasthist.errors import ArgumentError, ArrayError

EDGES = [-2.0, -1.0, -0.25, 0.0, 0.5, 3.0]


def arrays():
    """Whole arrays, the same on every rank."""
    rng = np.random.default_rng(7)
    special = rng.normal(0, 1, 101).astype(np.float32)
    special[::9] = [np.nan, np.inf, -np.inf, 0.0] * 3
    return {
        "normal": rng.normal(0, 0.02, 5003).astype(np.float32),
        "special": special,
        "only nan": np.full(5, np.nan),
        "nothing": np.empty(0, np.float32),
        "one": np.array([-3.5]),
        "wide": np.ldexp(rng.normal(0, 1, 999), rng.integers(-900, 900, 999)),
        "half": rng.normal(0, 100, 3001).astype(np.float16),
        "int64": rng.integers(-(2**62), 2**62, 501),
        "uint8": rng.integers(0, 256, 1000).astype(np.uint8),
        "bool": rng.integers(0, 2, 77).astype(bool),
        "zeros": np.zeros(40, np.float32),
    }


def mine(whole):
    return np.array_split(whole, dist.get_world_size())[dist.get_rank()]


def adds_up():
    """Every attribute of the sums, through each way to call."""
    rank, wrong = dist.get_rank(), []
    for buckets in ("auto", "tensorflow", EDGES):
        wholes = arrays()
        answers = {
            tag: oracle.answer(wholes[tag], EDGES if buckets is EDGES else None)
            for tag in list(wholes)[rank :: dist.get_world_size()]  # each rank looks at some
        }
        parts = {
            tag: fasthist.histogram(mine(whole), buckets=buckets) for tag, whole in wholes.items()
        }
        order = list(parts.items())
        parts = dict(order if rank % 2 else order[::-1])  # each rank may have an order of its own
        handle = distributed.all_reduce(parts, async_op=True)
        last = dist.get_world_size() - 1
        ways = {
            "all_reduce": distributed.all_reduce(parts, step=3),
            "async": handle.wait(),
            "again": handle.wait(),
            "reduce": distributed.reduce(parts, dst=last),
            "reduce async": distributed.reduce(parts, async_op=True).wait(),
        }
        for way, found in ways.items():
            if rank != last if way == "reduce" else rank != 0 and way == "reduce async":
                wrong += [] if found is None else [f"{way} gives {found}"]
                continue
            wrong += [] if list(found) == list(parts) else [f"{way}: order {list(found)}"]
            wrong += [] if found == ways["all_reduce"] else [f"{way} is something else"]
            for tag, answer in answers.items():
                one = found[tag]
                wrong += [
                    f"{buckets} {way} {tag} {name}" for name in oracle.differences(one, answer)
                ]
                expected = "edges" if buckets is EDGES else "tensorflow"
                wrong += [] if one.buckets.name == expected else [f"{tag}: {one.buckets}"]
    return wrong


def nothing_at_all():
    return distributed.all_reduce({})


def sums_are_exact():
    """Sums over ranks are those of the ranks' sums, rounded once: fsum's."""
    rank, size = dist.get_rank(), dist.get_world_size()
    rng = np.random.default_rng(3)
    rows = {
        f"{i}": np.ldexp(rng.normal(0, 1, size), rng.integers(-9, 9, size) * i) for i in range(5)
    }
    rows["cancels"] = np.array([1e16, -1e16] * (size // 2 - 1) + [1.0, 2.0**-20])
    rows["least"] = np.full(size, 5e-324)
    found = distributed.all_reduce(
        {tag: fasthist.histogram(row[rank : rank + 1]) for tag, row in rows.items()}
    )
    wrong = [
        f"{tag}: {found[tag].sum!r} is not {math.fsum(row)!r}"
        for tag, row in rows.items()
        if found[tag].sum != math.fsum(row)
    ]
    # Beyond float64: each of a rank, and of all together.
    huge = fasthist.histogram([1.7e308, 1.7e308] if rank == 0 else [1.0])
    large = fasthist.histogram([1.7e308])
    both = fasthist.histogram([(-1.0) ** rank * 1.7e308] * 2)
    found = distributed.all_reduce({"huge": huge, "large": large, "both": both})
    return [*wrong, repr([found[tag].sum for tag in found]), repr(found["both"].sum_squares)]


def from_files():
    """What a file does not tell is unknown of the sum too."""
    from dataclasses import replace

    whole = fasthist.histogram(np.arange(8.0))
    part = replace(
        whole, exponent_counts=None, cast_losses=None, nan_count=None, min=None, sum=None
    )
    found = distributed.all_reduce({"a": part})["a"]
    return {name: getattr(found, name) for name in (
        "exponent_counts", "cast_losses", "nan_count", "min", "max", "sum", "sum_squares", "zero_count", "num",
    )}  # fmt: skip


def meshes():
    """Random tensors on 200 random meshes, sharded and replicated at random."""
    rng = np.random.default_rng(11)
    rank, world = dist.get_rank(), dist.get_world_size()
    kinds = [np.float32, np.float64, np.float16, np.int32]
    wholes, parts, placed = {}, {}, {}
    for number in range(200):
        sizes = [int(n) for n in rng.integers(1, 5, rng.integers(1, 4))]
        while math.prod(sizes) > world:
            sizes[int(np.argmax(sizes))] -= 1
        ranks = rng.permutation(world)[: math.prod(sizes)].reshape(sizes)
        mesh = DeviceMesh("cpu", ranks, _init_backend=False)
        shape = tuple(rng.integers(0, 12, rng.integers(0, 4)))
        whole = (rng.normal(0, 10, shape) * (rng.random(shape) > 0.2)).astype(kinds[number % 4])
        if number % 4 == 0 and whole.size:
            whole.ravel()[rng.integers(whole.size)] = np.nan
        whole = np.asarray(whole)
        placements = [
            Shard(int(rng.integers(whole.ndim)))
            if whole.ndim and rng.random() < 0.7
            else Replicate()
            for _ in sizes
        ]
        tag = f"{number}: {ranks.tolist()} {placements} {whole.shape}"
        tensor = distribute_tensor(torch.from_numpy(whole), mesh, placements, src_data_rank=None)
        wholes[tag], parts[tag], placed[tag] = whole, fasthist.histogram(tensor), tensor
    wrong = []
    found = distributed.all_reduce(parts)
    counted = distributed.histograms(placed)
    for number, (tag, whole) in enumerate(wholes.items()):
        if number % world != rank:
            continue  # each rank looks at some
        answer = oracle.answer(whole)
        wrong += [f"{tag} {name}" for name in oracle.differences(found[tag], answer)]
        wrong += [f"histograms {tag} {name}" for name in oracle.differences(counted[tag], answer)]
    kept = [one.num for one in parts.values()]
    return {"wrong": wrong, "empty": kept.count(0), "of": len(kept), "num": sum(kept)}


def partial_values():
    """Sums that no rank has yet are refused, until they are redistributed."""
    mesh = DeviceMesh("cpu", list(range(dist.get_world_size())))
    tensor = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    try:
        told = repr(fasthist.histograms({"a": tensor}))
    except ArrayError as error:
        told = str(error)
    final = tensor.redistribute(placements=[Replicate()])
    found = distributed.histograms({"a": final})["a"]
    return [told, found.num, found.max]


def thousand():
    """Collectives and bytes for 1,000 tensors: normals, and such that use every bucket."""
    world, rank = dist.get_world_size(), dist.get_rank()
    rng = np.random.default_rng(rank)
    everywhere = np.array(oracle.tensorflow_edges())
    parts = {
        "normal": {f"layer{i}/weight": fasthist.histogram(rng.normal(0, 10.0 ** -(i % 5), 300).astype(np.float32)) for i in range(1000)},
        "everywhere": dict.fromkeys(map(str, range(1000)), fasthist.histogram(everywhere)),
    }  # fmt: skip
    found = {}
    for kind, tree in parts.items():
        calls = []
        with recorded(calls):
            summed = distributed.all_reduce(tree, step=1)
        nums = {one.num for one in summed.values()}
        # A ring sends each byte to be reduced, and then the result, (world - 1) / world times.
        sent = sum(size for _, size in calls) * 2 * (world - 1) / world
        found[kind] = {"calls": [name for name, _ in calls], "bytes": sent, "nums": sorted(nums)}
    return found


class recorded:
    """Record every collective of torch.distributed with its bytes."""

    NAMES = (
        "all_reduce", "reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "gather", "gather_object",
        "broadcast", "broadcast_object_list", "scatter", "reduce_scatter", "reduce_scatter_tensor", "all_to_all",
        "all_to_all_single", "barrier", "send", "recv", "isend", "irecv",
    )  # fmt: skip

    def __init__(self, calls):
        self._calls = calls

    def __enter__(self):
        self._kept = {name: getattr(dist, name) for name in self.NAMES}
        for name in self.NAMES:
            setattr(dist, name, self._wrapped(name))

    def __exit__(self, *error):
        for name, function in self._kept.items():
            setattr(dist, name, function)

    def _wrapped(self, name):
        def call(*args, **kwargs):
            size = (
                args[0].numel() * args[0].element_size()
                if args and hasattr(args[0], "numel")
                else 0
            )
            self._calls.append((name, size))
            return self._kept[name](*args, **kwargs)

        return call


def counting_is_silent():
    """Nothing is sent unless it is asked for: one rank counts alone, and no collective is called."""
    calls = []
    mesh = DeviceMesh("cpu", list(range(dist.get_world_size())))
    tensor = distribute_tensor(torch.arange(20.0), mesh, [Shard(0)])
    if dist.get_rank() == 0:
        with recorded(calls):
            fasthist.histograms({"a": tensor, "b": tensor.detach()})
            repr(fasthist.histogram(tensor))
    return calls


def a_group():
    """Some of the ranks, and a rank that is not one of them."""
    rank = dist.get_rank()
    members = list(range(1, dist.get_world_size(), 2))
    group = dist.new_group(members)
    parts = {"a": fasthist.histogram([float(rank)])}
    try:
        found = distributed.reduce(parts, dst=members[-1], group=group)
    except ArgumentError as error:
        return str(error)
    return None if found is None else [found["a"].num, found["a"].sum]


def disagreements():
    """What every rank is told, for each thing in which one rank differs; the group works on afterwards."""
    rank = dist.get_rank()
    tree = {f"layer{i}": [float(i)] for i in range(5)}
    parts = fasthist.histograms(tree)
    odd = rank == 1

    def without(name):
        return {tag: one for tag, one in parts.items() if tag != name}

    attempts = {
        "one less": lambda: distributed.all_reduce(without("layer3") if odd else parts, step=1),
        "first less": lambda: distributed.all_reduce(parts if rank else without("layer3"), step=1),
        "renamed": lambda: distributed.all_reduce({**without("layer3"), "other": parts["layer3"]} if odd else parts),
        "step": lambda: distributed.all_reduce(parts, step=8 if odd else 7),
        "buckets": lambda: distributed.all_reduce({**parts, "layer1": fasthist.histogram([1.0], buckets=[0, 1, 2])} if odd else parts),
        "edges": lambda: distributed.all_reduce({"x": fasthist.histogram([1.0], buckets=[0, 1, 3 if odd else 2])}),
        "uniform": lambda: distributed.all_reduce({"x": fasthist.histogram([0.0, rank], buckets=4)}),
        "call": lambda: distributed.reduce(parts, dst=1) if odd else distributed.all_reduce(parts),
        "dst": lambda: distributed.reduce(parts, dst=1 if odd else 0),
        "not counted": lambda: distributed.histograms({**tree, "layer2": [1j] if odd else [1.0]}),
        "no dict": lambda: distributed.all_reduce([1] if odd else parts),
        "no histogram": lambda: distributed.all_reduce({**parts, "layer0": 3} if odd else parts),
        "all fail": lambda: distributed.all_reduce([1]),
        "no such rank": lambda: distributed.reduce(parts, dst=99),
    }  # fmt: skip
    told = {}
    for name, attempt in attempts.items():
        try:
            told[name] = repr(attempt())
        except ArgumentError as error:
            told[name] = str(error)
        told[f"{name}: then"] = distributed.all_reduce(parts)["layer1"].num
    return told
