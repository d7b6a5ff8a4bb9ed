"""Safetensors files, whose header is parsed here: the package of that name is not needed."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fasthist.checkpoints.base import Entry, Span, damaged, is_sizes, load_span, read_json, refuse

TYPES: dict[str, tuple[str, str | None]] = {
    "BOOL": ("?", None),
    **{f"U{8 * n}": (f"<u{n}", None) for n in (1, 2, 4, 8)},
    **{f"I{8 * n}": (f"<i{n}", None) for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": (f"<f{n}", None) for n in (2, 4, 8)},
    "BF16": ("<u2", "bfloat16"),
    "F8_E4M3": ("u1", "float8_e4m3fn"),
    "F8_E5M2": ("u1", "float8_e5m2"),
    "F8_E4M3FNUZ": ("u1", "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": ("u1", "float8_e5m2fnuz"),
}
"""The file's name of a type -> the numpy dtype of its bytes, and our name where that dtype is only bits."""


def iter_safetensors(path: Path) -> Iterator[Entry]:
    """Yield the tensors of one file in the order of their bytes.

    The layout: 8 bytes, little endian, length of the header; the header, JSON in UTF-8, name -> dtype, shape and
    data_offsets (counted from the header's end); the tensors, little endian, in C order, without holes and not always
    aligned. Source: the section "Format" in the README of safetensors.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            wrong = (
                f"its header should take {header_bytes} bytes, and the file has {size} bytes in all"
            )
            raise damaged(path, wrong)
        header = read_json(file, header_bytes, path, "header")
    header.pop("__metadata__", None)
    base, data_bytes = 8 + header_bytes, size - 8 - header_bytes
    rows = sorted(_parse_row(path, name, row) for name, row in header.items())
    position = 0
    for begin, end, name, kind, count in rows:
        if begin != position or not begin <= end <= data_bytes:
            wrong = (
                f"tensor {name!r} should lie at bytes {begin} to {end} after the header, where {data_bytes} "
                f"bytes follow and {position} are taken"
            )
            raise damaged(path, wrong)
        position = end
        if kind not in TYPES:
            load = functools.partial(refuse, name, f"the safetensors type {kind}")
            yield Entry(name, end - begin, load)
            continue
        dtype, format_name = TYPES[kind]
        if count * np.dtype(dtype).itemsize != end - begin:
            wrong = f"tensor {name!r} has {count} elements of {kind} in {end - begin} bytes"
            raise damaged(path, wrong)
        span = Span(path, base + begin, end - begin)
        yield Entry(name, end - begin, functools.partial(load_span, span, dtype, format_name))
    if position != data_bytes:
        raise damaged(path, f"{data_bytes - position} bytes follow its last tensor")


def _parse_row(path: Path, name: str, row: object) -> tuple[int, int, str, str, int]:
    """Check a tensor's row of the header: return begin, end, name, type and number of elements."""
    fields = row if isinstance(row, dict) else {}
    kind, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if isinstance(kind, str) and is_sizes(shape) and is_sizes(offsets) and len(offsets) == 2:
        return offsets[0], offsets[1], name, kind, math.prod(shape)
    raise damaged(path, f"its header does not tell type, shape and place of tensor {name!r}")
