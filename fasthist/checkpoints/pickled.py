"""Files of torch.save, read by torch without running any code that they hold."""

from __future__ import annotations

import functools
import mmap
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fasthist.checkpoints.base import Entry, Span, damaged, read_bytes
from fasthist.checkpoints.npy import ZIP_ERRORS, start_of_member
from fasthist.errors import CheckpointError, MissingPackageError


def iter_torch(path: Path) -> Iterator[Entry]:
    """Yield every tensor in a file's nested containers; a lone tensor has an empty tag.

    torch maps all tensors of files since torch 1.6, and we read each from its place in the file when it is loaded. Older
    files are loaded whole, one at a time: here on torch's "meta" device, which holds nothing. Raises CheckpointError if
    torch refuses the file (damaged, or with Python objects other than tensors and plain values) or it is a TorchScript
    archive; MissingPackageError without torch.
    """
    for name, tensor in _read(path, "meta"):
        yield Entry(name, _nbytes(tensor), functools.partial(_load, path, name))


def _nbytes(tensor: Any) -> int:
    try:
        return int(tensor.numel() * tensor.element_size())
    except RuntimeError:  # unknown to some kinds of sparse and nested tensors
        return 0


def _load(path: Path, name: str) -> Any:
    status = path.stat()
    tag2tensor, address = _tensors(path, (status.st_mtime_ns, status.st_size))
    if name not in tag2tensor:
        raise damaged(path, f"tensor {name!r} was there when it was opened, and is not any more")
    tensor = tag2tensor[name]
    return tensor if address is None or not _is_plain(tensor) else _copy(path, tensor, address)


@functools.lru_cache(maxsize=1)
def _tensors(path: Path, stamp: tuple[int, int]) -> tuple[dict[str, Any], int | None]:  # noqa: ARG001 - part of the key
    """Keep the tensors of the file that is being counted, and no other's, and where torch has mapped it."""
    tag2tensor = dict(_read(path, "cpu"))
    return tag2tensor, _address(path, filter(_is_plain, tag2tensor.values()))


def _is_plain(tensor: Any) -> bool:
    """Return whether a tensor is a view of bytes in the file."""
    if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        return False
    special = tensor.is_quantized or tensor.is_nested or tensor.is_neg() or tensor.is_conj()
    return not special and tensor.numel() > 0


def _address(path: Path, tensors: Iterator[Any]) -> int | None:
    """Find where torch has mapped a file: where the tensors' storages lie at the places of its records."""
    storages = {it.data_ptr(): it.nbytes() for it in (t.untyped_storage() for t in tensors)}
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            records = {start_of_member(file, it): it.file_size for it in archive.infolist()}
    except ZIP_ERRORS:
        return None
    offsets = {min(storages) - start for start in records} if storages else set()
    fitting = [
        place
        for place in offsets
        if place % mmap.PAGESIZE == 0
        and all(records.get(address - place) == nbytes for address, nbytes in storages.items())
    ]
    return fitting[0] if len(fitting) == 1 else None


def _copy(path: Path, tensor: Any, address: int) -> Any:
    """Read a tensor's bytes from the file: mapped ones may vanish while they are counted."""
    import torch

    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    size = tensor.element_size()
    raw = read_bytes(Span(path, tensor.data_ptr() - address, (reach + 1) * size))
    return torch.from_numpy(raw).view(tensor.dtype).as_strided(tensor.shape, tensor.stride())


def _read(path: Path, device: str) -> list[tuple[str, Any]]:
    """Let torch read the file, or only its names and shapes when `device` is "meta"."""
    is_zip = _check(path)
    try:
        import torch
    except ImportError as error:
        missing = MissingPackageError.for_extra("PyTorch", "torch", f"Reading {path}")
        raise missing from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls some kinds of tensors prototypes
            content = _load_whole(torch, path, "cpu" if is_zip else device, is_zip)
        return list(_iter_tensors(content, torch.Tensor, "", frozenset()))
    except Exception as error:  # an unpickler raises anything on bytes it does not know
        msg = (
            f"{path}: torch cannot read it ({type(error).__name__}). Accepted are files of torch.save that "
            "hold tensors and plain values only: copy it again, or save its state_dict()."
        )
        raise CheckpointError(msg) from error


def _load_whole(torch: Any, path: Path, device: str, is_zip: bool) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=is_zip)
    except NotImplementedError:  # "meta" has no quantised tensors
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _check(path: Path) -> bool:
    """Return whether a file is a zip archive, as those of torch.save since 1.6 are; only these can be mapped."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        try:
            names = zipfile.ZipFile(file).namelist()
        except ZIP_ERRORS:
            return True  # torch reports what is wrong with it
    if any(name.endswith("/constants.pkl") for name in names):
        msg = (
            f"{path}: it is a TorchScript archive, which holds code. Accepted are files of torch.save: "
            "save torch.jit.load(...).state_dict() with it."
        )
        raise CheckpointError(msg)
    return True


def _iter_tensors(
    node: object, tensor: type, tag: str, around: frozenset[int]
) -> Iterator[tuple[str, Any]]:
    """Walk nested containers; `around` are the outer ones, since a container may hold itself."""
    if isinstance(node, tensor):
        yield tag, node
    elif isinstance(node, Mapping | list | tuple) and id(node) not in around:
        for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            deeper = f"{tag}/{key}" if tag else str(key)
            yield from _iter_tensors(child, tensor, deeper, around | {id(node)})
