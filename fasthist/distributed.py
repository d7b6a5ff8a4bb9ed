"""Add up the histograms of one step over the ranks of ``torch.distributed``: three collectives, however many there are.

Nothing else in fasthist communicates, and nothing here does so unless every rank calls it. A `DTensor` (FSDP2, tensor
parallelism) knows which of its elements this rank counts, see `fasthist.sharding`; for other tensors, count on each rank
what no other rank counts, ``fasthist.histogram([])`` if nothing is left. Megatron's parameters, for example::

    part = p if is_here(p) else []  # p.tensor_model_parallel, or the first rank of its tensor-parallel group
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist import agreement, compute, sharding, tree
from fasthist.agreement import Reduction
from fasthist.errors import ArgumentError
from fasthist.packages import require
from fasthist.stacked import Histograms

torch = require("torch")
dist = require("torch.distributed", "torch")

__all__ = ["Reduction", "all_reduce", "check_group", "histograms", "reduce"]


def all_reduce(
    histograms: Histograms, group: Any = None, *, step: int | None = None, async_op: bool = False
) -> Any:
    """Add up the histograms of all ranks, and return the sums on every rank.

    Parameters
    ----------
    histograms : dict of str to Histogram
        This rank's, of one step. The same tags and buckets on every rank, in any order: "auto", "tensorflow", or edges.
    group : torch.distributed.ProcessGroup, optional
        Default: all ranks.
    step : int, optional
        Compared between the ranks.
    async_op : bool
        Return while the counts are under way.

    Returns
    -------
    dict of str to Histogram, or Reduction
        In this rank's order. With `async_op`, a `Reduction` whose ``wait()`` returns it.

    Raises
    ------
    ArgumentError
        On every rank, naming the difference: the tags, buckets, step or calls are not the same everywhere,
        or a rank's histograms cannot be sent. On this rank: it is not in the group, or there is no group.
    RuntimeError
        Raised by the backend, such as after its timeout, where a rank is gone or does not call.

    Notes
    -----
    Counts, `min` and `max` are those of the concatenated data. `sum` and `sum_squares` are added up as integers:
    the same bits on every rank, whatever the number and order of ranks, within R * 2**-80 of the largest rank's sum
    before it is rounded. A sum over "auto" is over "tensorflow", without an outline.

    Three collectives, by Gloo, NCCL or another backend, in host memory if the group has a backend for it, else on its
    device: MIN of three int64, which show whether the ranks agree; MIN of 14 float64 for each tensor; SUM of int64,
    the counts from the first bucket that any rank has used to the last, on either side of the middle, two in one
    where they are small, and 21 numbers more. For 1,000 float32 tensors these are 1 to 2 MB, and 8 MB if every bucket
    is used (15 MB if the ranks have more than 2**31 values of each tensor). The call waits for the first two with
    `async_op` too; other collectives of the group may follow before ``wait()``.

    Examples
    --------
    >>> import torch.distributed as dist
    >>> import fasthist, fasthist.distributed
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> part = fasthist.histograms({"weight": [0.5, 1.0]})  # this rank's
    >>> fasthist.distributed.all_reduce(part, step=0)["weight"].num
    2
    >>> dist.destroy_process_group()
    """
    return _reduced(lambda: histograms, group, None, step, async_op)


def reduce(
    histograms: Histograms, dst: int = 0, group: Any = None, *, step: int | None = None, async_op: bool = False
) -> Any:  # fmt: skip
    """Add up the histograms of all ranks, and return the sums on one of them.

    Parameters
    ----------
    dst : int
        The rank that gets them, among all ranks as in ``torch.distributed.reduce``.
    histograms, group, step, async_op
        As in `all_reduce`; half as many bytes are sent.

    Returns
    -------
    dict of str to Histogram, None, or Reduction
        None on the other ranks. With `async_op`, a `Reduction` whose ``wait()`` returns it.

    Raises
    ------
    ArgumentError, RuntimeError
        As in `all_reduce`, and if `dst` is not in the group.
    """
    return _reduced(lambda: histograms, group, dst, step, async_op)


def histograms(
    values: Any, group: Any = None, *, step: int | None = None, redistribute: bool = False
) -> Histograms:
    """Count a tree whose tensors lie on several ranks, each rank its part, and return the whole on every rank.

    Parameters
    ----------
    values : tree
        As in `fasthist.histograms`. `DTensor` leaves are counted once, whatever their placement; all others are taken
        to be each rank's own, and added up.
    group, step
        As in `all_reduce`. Values held only by ranks of a tensor's mesh that are not in the group are not counted.
    redistribute : bool
        Reduce `Partial` tensors to final values first, with a collective for each. Otherwise they are refused.

    Returns
    -------
    dict of str to Histogram
        Over "tensorflow".

    Raises
    ------
    ArgumentError
        As in `all_reduce`; also on every rank if a leaf cannot be counted on one.
    RuntimeError
        As in `all_reduce`.
    """

    def count() -> Histograms:
        ranks = dist.get_process_group_ranks(group)
        leaves = tree.named_leaves(values)
        if redistribute:  # all of them before anything can fail
            leaves = {tag: _final(leaf) for tag, leaf in leaves.items()}
        parts = {tag: sharding.local_part(leaf, tag, ranks) for tag, leaf in leaves.items()}
        return compute.histograms(parts, buckets="tensorflow")

    summed: Histograms = _reduced(count, group, None, step, False)
    return summed


class _Torch:
    """A process group as an engine of `fasthist.agreement`."""

    def __init__(self, group: Any, dst: int | None) -> None:
        check_group(group)
        self._group = group
        self._dst = dst
        self._device = _device(group)
        self.ranks = dist.get_process_group_ranks(group)
        self.rank, self.first, self.size = dist.get_rank(), self.ranks[0], len(self.ranks)

    def least(self, numbers: Any) -> Any:
        sent = torch.from_numpy(numbers).to(self._device)
        dist.all_reduce(sent, dist.ReduceOp.MIN, self._group)
        return sent.cpu().numpy()

    def add(self, numbers: NDArray[np.int64]) -> Callable[[], NDArray[np.int64] | None]:
        sent = torch.from_numpy(numbers).to(self._device)
        if self._dst is None:
            work = dist.all_reduce(sent, dist.ReduceOp.SUM, self._group, async_op=True)
        else:
            work = dist.reduce(sent, self._dst, dist.ReduceOp.SUM, self._group, async_op=True)

        def wait() -> NDArray[np.int64] | None:
            work.wait()
            return sent.cpu().numpy() if self._dst in (None, self.rank) else None

        return wait

    def spread(self, text: str) -> str:
        texts = [text]
        dist.broadcast_object_list(texts, self.first, self._group, self._device)
        return texts[0]

    def gather(self, text: str) -> list[str]:
        texts = [""] * self.size
        dist.all_gather_object(texts, text, self._group)
        return texts


def _reduced(
    find: Callable[[], Histograms], group: Any, dst: int | None, step: int | None, async_op: bool
) -> Any:
    engine = _Torch(group, dst)

    def checked() -> Histograms:
        if dst is not None and dst not in engine.ranks:
            msg = f"dst={dst!r} must be a rank of the group. Accepted: {engine.ranks}."
            raise ArgumentError(msg)
        return find()

    call = "all_reduce()" if dst is None else f"reduce(dst={dst})"
    reduction = agreement.begin(engine, checked, call, step)
    return reduction if async_op else reduction.wait()


def _final(leaf: Any) -> Any:
    placements = getattr(leaf, "placements", ())
    if not any(placement.is_partial() for placement in placements):
        return leaf
    replicate = torch.distributed.tensor.Replicate()
    final = [replicate if placement.is_partial() else placement for placement in placements]
    return leaf.detach().redistribute(placements=final)


def check_group(group: Any) -> None:
    """Raise ArgumentError if there is no process group, or this rank is not in it."""
    if not (dist.is_available() and dist.is_initialized()):
        msg = (
            "torch.distributed has no process group. Accepted: ranks that have made one. "
            "Hint: start with torchrun, and call torch.distributed.init_process_group() first."
        )
        raise ArgumentError(msg)
    if dist.get_rank(group) < 0:
        msg = f"rank {dist.get_rank()} is not in this group. Accepted: calls from the ranks of the group alone."
        raise ArgumentError(msg)


def _device(group: Any) -> Any:
    """Return the device from which the group sends."""
    engines = dict(pair.split(":") for pair in dist.get_backend_config(group).split(","))
    if "cpu" in engines:
        return torch.device("cpu")
    kind = next(iter(engines))
    return torch.device(kind, torch.get_device_module(kind).current_device())
