"""Open checkpoints without reading their data, and hand out one tensor at a time.

What a caller can rely on:

- `open_checkpoint` reads names, types, sizes and places, and no tensor. It keeps no file open.
- A tensor is read when it is loaded, and kept only by the caller; a file of ``torch.save`` from before torch 1.6 is
  loaded whole, one at a time.
- A loaded tensor does not change with its file.
- No length, offset or size in a file is used before it is checked against the file itself.
- A broken file raises `CheckpointError`, which names the file and what is wrong with it. A tensor of a type that cannot
  be counted raises `ArrayError` when it is loaded, so that the others can still be.

To read it: `base` is what the formats share, then one module per format; `names` finds the step.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fasthist.checkpoints.base import Entry, damaged, read_json
from fasthist.checkpoints.names import split_name, stem_of, step_of
from fasthist.checkpoints.npy import iter_npy, iter_npz
from fasthist.checkpoints.pickled import iter_torch
from fasthist.checkpoints.safetensors import iter_safetensors
from fasthist.errors import CheckpointError

__all__ = ["Checkpoint", "Entry", "open_checkpoint", "step_of"]


@dataclass(frozen=True)
class Checkpoint:
    """What `open_checkpoint` finds.

    `path` is the file, or the index of the shards; `step` the training step, None when neither the caller nor the file's
    name gives one; `entries` the tensors, in the order of their bytes where the file has one.
    """

    path: Path
    step: int | None
    entries: tuple[Entry, ...]


def open_checkpoint(path: str | os.PathLike[str], step: int | None = None) -> Checkpoint:
    """List the tensors of a checkpoint without reading them.

    `path` ends in ``.safetensors``, ``.npz``, ``.npy``; ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` for ``torch.save`` (needs torch);
    or ``.index.json``, which maps tensors to such files beside it, as Hugging Face writes it. `step` defaults to the one in
    the name, see `step_of`. A lone array (npy, or a tensor saved by itself) is tagged with the file's name, without a step
    that was taken from it.

    Raises CheckpointError for a damaged, incomplete or unknown file, MissingPackageError without torch, OSError if the
    file cannot be opened.

    >>> for entry in open_checkpoint("checkpoint-500/model.safetensors").entries:  # doctest: +SKIP
    ...     print(entry.tag, fasthist.histogram(entry.load()))
    """
    path = Path(path)
    path.stat()  # a missing file is reported as such, whatever its name
    iterate = _find_opener(path.name)
    if path.is_dir() or iterate is None:
        what = "is a directory" if path.is_dir() else "has no ending that tells its format"
        msg = f"{path}: {what}. Accepted: files ending in {', '.join(OPENERS)}."
        raise CheckpointError(msg)
    name, own_step = split_name(path)
    lone_tag = (name if step is None else stem_of(path)) or "values"
    entries = tuple(
        entry if entry.tag else dataclasses.replace(entry, tag=lone_tag) for entry in iterate(path)
    )
    seen: set[str] = set()
    for entry in entries:
        if any("\ud800" <= character <= "\udfff" for character in entry.tag):
            raise damaged(path, f"the name of tensor {entry.tag!r} holds half a character")
        if entry.tag in seen:
            raise damaged(path, f"two of its tensors are called {entry.tag!r}")
        seen.add(entry.tag)
    return Checkpoint(path, own_step if step is None else step, entries)


def _find_opener(name: str) -> Callable[[Path], Iterator[Entry]] | None:
    return next((OPENERS[ending] for ending in OPENERS if name.lower().endswith(ending)), None)


def _iter_index(path: Path) -> Iterator[Entry]:
    """Yield the tensors of the shards, in the order in which the index first names these."""
    with path.open("rb") as file:
        index = read_json(file, os.fstat(file.fileno()).st_size, path, "index")
    tag2shard = index.get("weight_map")
    if not isinstance(tag2shard, dict) or not all(isinstance(it, str) for it in tag2shard.values()):
        raise damaged(path, "it has no weight_map of tensor names to file names")
    shard2tags: dict[str, set[str]] = {}
    for tag, shard in tag2shard.items():
        shard2tags.setdefault(shard, set()).add(tag)
    for shard, tags in shard2tags.items():
        iterate, place = _find_opener(shard), PurePosixPath(shard)
        # An index comes from elsewhere: it may not lead out of its directory, nor to itself.
        is_outside = place.is_absolute() or ".." in place.parts or "\0" in shard
        if iterate in (None, _iter_index) or is_outside:
            wrong = f"its weight_map names {shard!r}, which is not a checkpoint file beside it"
            raise damaged(path, wrong)
        if not (path.parent / shard).is_file():
            msg = f"{path}: the shard {shard} that it names is missing. Put every shard beside the index."
            raise CheckpointError(msg)
        for entry in iterate(path.parent / shard):
            if entry.tag in tags:
                tags.remove(entry.tag)
                yield entry
        if tags:
            wrong = f"tensor {min(tags)!r} is not in the shard {shard}, which should hold it"
            raise damaged(path, wrong)


OPENERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    ".index.json": _iter_index,
    ".safetensors": iter_safetensors,
    ".npz": iter_npz,
    ".npy": iter_npy,
    ".pt": iter_torch,
    ".pth": iter_torch,
    ".bin": iter_torch,
    ".ckpt": iter_torch,
}
