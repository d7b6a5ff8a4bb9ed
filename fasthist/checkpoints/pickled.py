"""Files of torch.save, read by torch without running any code that they hold."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fasthist.checkpoints.base import Entry, damaged
from fasthist.errors import CheckpointError, MissingPackageError


def iter_torch(path: Path) -> Iterator[Entry]:
    """Give every tensor in the nested containers of a file; a lone tensor has an empty tag.

    Raises
    ------
    CheckpointError
        torch refuses the file: damaged, or with Python objects other than tensors and plain values.
    MissingPackageError
        torch is not installed.

    Notes
    -----
    The names are listed on torch's "meta" device, so nothing is held for a file until its first tensor is
    loaded, and then for this one file only. Files since torch 1.6 are memory-mapped, older ones loaded whole.
    """
    for name, tensor in _read(path, "meta"):
        nbytes = tensor.numel() * tensor.element_size()
        yield Entry(name, nbytes, functools.partial(_load, path, name))


def _load(path: Path, name: str) -> Any:
    status = path.stat()
    tag2tensor = _tensors(path, (status.st_mtime_ns, status.st_size))
    if name not in tag2tensor:
        raise damaged(path, f"tensor {name!r} was there when it was opened, and is not any more")
    return tag2tensor[name]


@functools.lru_cache(maxsize=1)
def _tensors(path: Path, stamp: tuple[int, int]) -> dict[str, Any]:  # noqa: ARG001 - part of the key
    """Keep the tensors of the file that is being counted, and of no other."""
    return dict(_read(path, "cpu"))


def _read(path: Path, device: str) -> list[tuple[str, Any]]:
    """Let torch read the file, or only its names and shapes when `device` is "meta"."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # torch.save since 1.6; only these can be mapped
    try:
        import torch
    except ImportError as error:
        missing = MissingPackageError.for_extra("PyTorch", "torch", f"Reading {path}")
        raise missing from error
    try:
        found = torch.load(path, map_location=device, weights_only=True, mmap=is_zip)
        return list(_iter_tensors(found, torch.Tensor, "", frozenset()))
    except Exception as error:  # an unpickler raises anything on bytes it does not know
        msg = (
            f"{path}: torch cannot read it ({type(error).__name__}). Accepted are files of torch.save that "
            "hold tensors and plain values only: copy it again, or save its state_dict()."
        )
        raise CheckpointError(msg) from error


def _iter_tensors(
    node: object, tensor: type, tag: str, around: frozenset[int]
) -> Iterator[tuple[str, Any]]:
    """Walk nested containers; `around` are the ones further out, for a container may hold itself."""
    if isinstance(node, tensor):
        yield tag, node
    elif isinstance(node, Mapping | list | tuple) and id(node) not in around:
        for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            deeper = f"{tag}/{key}" if tag else str(key)
            yield from _iter_tensors(child, tensor, deeper, around | {id(node)})
