"""Scenarios for four ranks: a small transformer trained in every way in which torch spreads one over processes.

What `watch` logs is compared with numpy's counts of the gathered full tensors.
"""

from __future__ import annotations

import oracle
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import fasthist
from fasthist.adapters.torch import watch
from fasthist.errors import ArgumentError, ArrayError

WIDTH = 12
"""Not a multiple of eight: shards are uneven."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.between = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        y = self.before(x)
        q, k, v = (
            part(y).unflatten(-1, (-1, WIDTH // 4)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        return x + self.down(torch.relu(self.up(self.between(x))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList([Block()])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        self.scale = nn.Parameter(torch.ones(1))  # less than there are ranks

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) * self.scale


class Recorder:
    def __init__(self):
        self.steps = {}

    def add_histograms(self, tree, global_step=None):
        self.steps[global_step] = fasthist.histograms(tree)

    def flush(self):
        pass

    def close(self):
        pass


def full(tensor):
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def trained(model, wholes=None, log="all", data_rank=None, writers=(0,)):
    """Train two steps, watched; say where the logged counts differ from those of the gathered tensors."""
    rank = dist.get_rank()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = Recorder() if rank in writers else None
    watched = watch(model, sink, log, every=1, distributed=True)
    rng = torch.Generator().manual_seed(rank if data_rank is None else data_rank)
    wholes = wholes or (lambda kind: {
        name: full(one if kind == "weights" else one.grad) for name, one in model.named_parameters()
    })  # fmt: skip
    wrong, tags = [], 0
    before = wholes("weights")
    for step in range(2):
        optimizer.zero_grad()
        tokens = torch.randint(0, 11, (4, 6), generator=rng)
        model(tokens).square().mean().backward()
        optimizer.step()
        watched.step(step)
        weights, gradients = wholes("weights"), wholes("gradients")
        expected = {f"weights/{name}": one for name, one in weights.items()}
        expected |= {f"gradients/{name}": one for name, one in gradients.items()}
        expected |= {f"updates/{name}": one - before[name] for name, one in weights.items()}
        before = weights
        if sink is None:
            continue
        found = sink.steps.pop(step)
        tags += len(found)
        wrong += [f"step {step}: {tag}" for tag in found.keys() ^ expected.keys()]
        wrong += [
            f"step {step}: {tag} {name}"
            for tag in found.keys() & expected.keys()
            for name in oracle.differences(found[tag], oracle.answer(expected[tag].numpy()))
        ]
    watched.close()
    if sink is not None and sink.steps:
        wrong.append(f"other steps: {list(sink.steps)}")
    return {"wrong": sorted(wrong), "tags": tags}


def transformer():
    torch.manual_seed(0)
    return Transformer()


def fsdp2():
    model = transformer()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return trained(model)


def hybrid():
    """Two replicas of a model, each on two ranks."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = transformer()
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return trained(model)


def parallelized(model, mesh):
    for block in model.blocks:
        parallelize_module(block, mesh, {
            **{name: ColwiseParallel() for name in ("query", "key", "value", "up")},
            **{name: RowwiseParallel() for name in ("out", "down")},
        })  # fmt: skip
    return model


def tensor_parallel():
    mesh = init_device_mesh("cpu", (4,))
    return trained(parallelized(transformer(), mesh), data_rank=0)


def both():
    """Tensor parallel within pairs, FSDP2 between them: strided shards."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = parallelized(transformer(), mesh["tensor"])
    for block in model.blocks:
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    found = trained(model, data_rank=dist.get_rank() // 2)
    kinds = {type(kind).__name__ for one in model.parameters() for kind in one.placements}
    return {**found, "placements": sorted(kinds)}


def sequence_parallel():
    """A norm on parts of the sequence: the gradients of its weights are sums that no rank has yet."""
    mesh = init_device_mesh("cpu", (4,))
    norm = parallelize_module(nn.LayerNorm(WIDTH), mesh, SequenceParallel())
    rng = torch.Generator().manual_seed(dist.get_rank())
    norm(torch.randn(2, 3, WIDTH, generator=rng)).to_local().exp().sum().backward()
    sink = Recorder()
    watch(norm, sink, ["weights", "gradients"], distributed=True).step(5)
    expected = {f"gradients/{name}": full(one.grad) for name, one in norm.named_parameters()}
    expected |= {f"weights/{name}": full(one) for name, one in norm.named_parameters()}
    wrong = [
        f"{tag} {name}"
        for tag, one in expected.items()
        for name in oracle.differences(sink.steps[5][tag], oracle.answer(one.numpy()))
    ]
    return {"wrong": wrong, "placements": str(norm.weight.grad.placements)}


def replicated():
    """DistributedDataParallel: a copy on each rank, of which one is counted."""
    model = nn.parallel.DistributedDataParallel(transformer())
    inner = model.module
    wholes = {
        "weights": lambda: {name: full(one) for name, one in inner.named_parameters()},
        "gradients": lambda: {name: full(one.grad) for name, one in inner.named_parameters()},
    }
    return trained(model, lambda kind: wholes[kind](), writers=(0, 2))


def fsdp1():
    """Flat parameters, seen through views of their shards."""
    policy = torch.distributed.fsdp.wrap.ModuleWrapPolicy({Block})
    model = FullyShardedDataParallel(
        transformer(), auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )

    def wholes(kind):
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            return {
                name.replace("_fsdp_wrapped_module.", ""): full(
                    one if kind == "weights" else one.grad
                )
                for name, one in model.named_parameters()
            }

    return trained(model, wholes)


def fsdp1_flat():
    """Without the views: the padding of flat parameters is no element."""
    from fasthist import distributed

    model = FullyShardedDataParallel(
        transformer(), use_orig_params=False, device_id=torch.device("cpu")
    )
    found = distributed.histograms(model)
    plain = torch.cat([one.detach().ravel() for one in transformer().parameters()])
    (one,) = found.values()
    try:
        watch(model, None, distributed=True)
    except ArgumentError as error:
        told = str(error)
    (flat,) = model.parameters()
    together = []

    def look(*_):
        try:
            together.append(repr(fasthist.histogram(flat)))
        except ArrayError as error:
            together.append(str(error))

    model.module.register_forward_hook(look)
    model(torch.zeros(1, 2, dtype=torch.int64))
    wrong = oracle.differences(one, oracle.answer(plain.numpy()))
    return {"wrong": wrong, "told": told, "together": together[0]}


def refused():
    """What cannot be asked of `watch`; and what it writes where it is not asked to communicate: this rank's part."""
    model = nn.Linear(2, 1, bias=False)
    try:
        told = repr(watch(model, None))
    except ArgumentError as error:
        told = str(error)
    fully_shard(model)
    sink = Recorder()
    watch(model, sink, "weights").step()
    ranks = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, sink.steps[0]["weights/weight"].num)
    return [told, sum(num > 0 for num in ranks)]
