"""Of a tensor that lies on several ranks, the elements that this one is to count, so that a sum counts each once.

Only local memory is looked at: nothing here communicates, and torch is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArrayError


def local_part(values: Any, name: str = "values", ranks: Sequence[int] | None = None) -> Any:
    """Give what this rank contributes to the histogram of a tensor.

    Parameters
    ----------
    values : Any
        A ``torch.distributed.tensor.DTensor``, a flat parameter of FSDP1, or anything else.
    name : str
        What to call it in an error.
    ranks : sequence of int, optional
        The ranks whose histograms will be added up. Default: all.

    Returns
    -------
    Any
        Of a `DTensor`, a tensor of this rank's memory, not copied: the local shard, whatever its size; nothing if a lower
        one of the ranks has the same shard, or if this rank is not in the mesh. Of a flat parameter, the local shard
        without the padding at its end. Anything else as it is.

    Raises
    ------
    ArrayError
        A `DTensor` of partial values, of which no rank has the final ones; or a flat parameter that is not sharded now.

    Notes
    -----
    Over the ranks each logical element is counted once. Those have the same shard that differ in what the placements
    replicate; and, where the mesh is part of a larger one, those that have the same place in its other parts: with FSDP2 and
    tensor parallelism, a norm that only FSDP2 shards. What is neither `Replicate` nor `Partial` holds disjoint pieces:
    `Shard`, and `_StridedShard` of FSDP2 beside tensor parallelism.
    """
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is not None and isinstance(values, getattr(tensors, "DTensor", ())):
        return _of_dtensor(values, name, None if ranks is None else frozenset(ranks))
    if "torch.distributed.fsdp" in sys.modules and getattr(values, "_is_flat_param", False):
        return _of_flat_parameter(values, name)
    return values


def _of_dtensor(values: Any, name: str, ranks: frozenset[int] | None) -> Any:
    if any(placement.is_partial() for placement in values.placements):
        msg = (
            f"{name}: a DTensor placed {values.placements} holds partial values, which are not final. "
            "Accepted: Shard and Replicate. Hint: redistribute() it to one of these, on every rank; or pass "
            "redistribute=True to fasthist.distributed.histograms()."
        )
        raise ArrayError(msg)
    local = values.detach().to_local()
    if hasattr(local, "wait"):  # what a redistribution, begun before, still receives
        local = local.wait()
    mesh = values.device_mesh
    holders = _holders(mesh, tuple(placement.is_replicate() for placement in values.placements))
    lowest = min((rank for rank in holders if ranks is None or rank in ranks), default=None)
    return local if lowest == mesh.get_rank() else local.new_empty(0)


@lru_cache(maxsize=64)  # a model has few meshes, and many tensors
def _holders(mesh: Any, replicated: tuple[bool, ...]) -> frozenset[int]:
    """Give the ranks that have the same shard as this one; none if it has none."""
    place = mesh.get_coordinate()
    if place is None:
        return frozenset()
    own = _ranks(mesh)
    same = own[tuple(slice(None) if free else i for free, i in zip(replicated, place, strict=True))]
    root = _ranks(_root_of(mesh))
    # Along a dimension of the larger mesh in which this one does not extend lie copies of it.
    extends = [np.unique(places).size > 1 for places in np.nonzero(np.isin(root, own))]
    found: set[int] = set()
    for position in np.argwhere(np.isin(root, same)):
        index = tuple(i if wide else slice(None) for i, wide in zip(position, extends, strict=True))
        found |= set(np.ravel(root[index]).tolist())
    return frozenset(found)


def _ranks(mesh: Any) -> NDArray[np.int64]:
    ranks: NDArray[np.int64] = mesh.mesh.numpy(force=True)
    return ranks


def _root_of(mesh: Any) -> Any:
    if hasattr(mesh, "_get_root_mesh"):
        return mesh._get_root_mesh()
    # torch until 2.8
    return sys.modules["torch.distributed.device_mesh"]._mesh_resources.get_root_mesh(mesh)


def _of_flat_parameter(values: Any, name: str) -> Any:
    if values.shape != values._sharded_size:
        msg = (
            f"{name}: a flat parameter of FSDP1 whose shards are together just now. Accepted: sharded ones. "
            "Hint: count it outside of forward(), backward() and summon_full_params()."
        )
        raise ArrayError(msg)
    return values.detach()[: values.numel() - values._shard_numel_padded]
