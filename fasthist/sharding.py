"""Pick this rank's elements of a tensor on several ranks, so that each is counted once overall.

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
    """Return what this rank contributes to the histogram of a tensor.

    For a ``torch.distributed.tensor.DTensor``, the local shard, not copied; nothing if a lower rank among `ranks` (default:
    all) has the same shard, or if this rank is not in the mesh. For a flat parameter of FSDP1, the local shard without
    the padding at its end. Anything else is returned as it is. ArrayError, naming `name`, for a `DTensor` of partial
    values, since no rank has the final ones, and for a flat parameter that is not sharded now.

    Over the ranks each logical element is counted once. Ranks have the same shard if they differ only along replicated
    dimensions of the mesh; and, where the mesh is part of a larger one, if they have the same place in it: with FSDP2 and
    tensor parallelism, a norm that only FSDP2 shards. Placements other than `Replicate` and `Partial` hold disjoint pieces:
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
    if hasattr(local, "wait"):  # an earlier redistribution may still be receiving it
        local = local.wait()
    mesh = values.device_mesh
    holders = _holders(mesh, tuple(placement.is_replicate() for placement in values.placements))
    lowest = min((rank for rank in holders if ranks is None or rank in ranks), default=None)
    return local if lowest == mesh.get_rank() else local.new_empty(0)


@lru_cache(maxsize=64)  # a model has few meshes and many tensors
def _holders(mesh: Any, replicated: tuple[bool, ...]) -> frozenset[int]:
    """Return the ranks that have the same shard as this one; none if it has none."""
    place = mesh.get_coordinate()
    if place is None:
        return frozenset()
    own = _ranks(mesh)
    same = own[tuple(slice(None) if free else i for free, i in zip(replicated, place, strict=True))]
    root = _ranks(_root_of(mesh))
    # Along a dimension of the larger mesh in which this one does not extend lie copies of it.
    extends = [np.unique(places).size > 1 for places in np.nonzero(np.isin(root, own))]
    holders: set[int] = set()
    for position in np.argwhere(np.isin(root, same)):
        index = tuple(i if wide else slice(None) for i, wide in zip(position, extends, strict=True))
        holders |= set(np.ravel(root[index]).tolist())
    return frozenset(holders)


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
            f"{name}: a flat parameter of FSDP1 whose shards are gathered at the moment. Accepted: sharded ones. "
            "Hint: count it outside of forward(), backward() and summon_full_params()."
        )
        raise ArrayError(msg)
    return values.detach()[: values.numel() - values._shard_numel_padded]
