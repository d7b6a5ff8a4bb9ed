"""Files of numpy: npy, and npz, which is a zip archive of them."""

from __future__ import annotations

import ast
import functools
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fasthist.checkpoints.base import Entry, Span, damaged, is_sizes, load_span, read_bytes, refuse
from fasthist.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_HEADER_BYTES = 65_535  # what version 1 of the npy format can express
INFLATE_BYTES = 16_384  # one step of inflating, at most 16 MiB of output
MAX_DEFLATE_RATIO = 1032  # of the deflate format, see the zlib technical details

_COUNTED = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
ZIP_ERRORS = (  # what zipfile raises on damaged archives
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


class _Header(NamedTuple):
    """What an npy header says: the type (None when it cannot be counted), elements, and its own size."""

    dtype: np.dtype[Any] | None
    descr: object
    elements: int
    nbytes: int


def iter_npy(path: Path) -> Iterator[Entry]:
    r"""Yield the one array of an npy file; its tag is empty.

    The layout: ``\x93NUMPY``, two bytes of version, the length of the header (2 bytes, from version 2 on 4),
    a Python dict literal with descr, fortran_order and shape, the values. Source: NEP 1.
    """
    with path.open("rb") as file:
        header = _read_header(file, str(path))
        data_bytes = os.fstat(file.fileno()).st_size - header.nbytes
    if header.dtype is None:
        load = functools.partial(refuse, str(path), f"the numpy type {header.descr!r}")
        yield Entry("", data_bytes, load)
        return
    nbytes = header.elements * header.dtype.itemsize
    if nbytes > data_bytes:
        wrong = f"its header announces {nbytes} bytes of values, and {data_bytes} follow"
        raise damaged(path, wrong)
    span = Span(path, header.nbytes, nbytes)
    yield Entry("", nbytes, functools.partial(load_span, span, header.dtype.str, None))


def iter_npz(path: Path) -> Iterator[Entry]:
    """Yield the members of an npz file, each tagged with its name without ``.npy``.

    Only the archive's directory and the npy headers are read here. A member is checked against its CRC-32 before its
    values are handed out.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        yield _open_member(path, file, archive, info)
        except CheckpointError:
            raise
        except ZIP_ERRORS as error:
            raise damaged(path, f"it is not a readable zip archive ({error})") from error


def _open_member(
    path: Path, file: IO[bytes], archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> Entry:
    """Open one member; `info` comes from the archive's directory, which may be wrong."""
    where = f"{path}: member {info.filename!r}"
    name = info.filename.removesuffix(".npy")
    if name == info.filename:
        load = functools.partial(refuse, name, "a member that is not an npy file")
        return Entry(name, info.file_size, load)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        msg = f"{where} is compressed in a way that numpy does not use. Save it again with numpy.savez."
        raise CheckpointError(msg)
    with archive.open(info) as stream:
        header = _read_header(stream, where)
    start = start_of_member(file, info)
    is_stored = info.compress_type == zipfile.ZIP_STORED
    most = info.compress_size if is_stored else info.compress_size * MAX_DEFLATE_RATIO
    if start + info.compress_size > os.fstat(file.fileno()).st_size or info.file_size > most:
        wrong = (
            f"{info.file_size} bytes cannot come out of {info.compress_size} bytes from {start} on"
        )
        raise damaged(where, wrong)
    if header.dtype is None:
        load = functools.partial(refuse, name, f"the numpy type {header.descr!r}")
        return Entry(name, info.file_size, load)
    nbytes = header.elements * header.dtype.itemsize
    if header.nbytes + nbytes != info.file_size:
        wrong = f"its header announces {header.nbytes + nbytes} bytes in all, and it has {info.file_size}"
        raise damaged(where, wrong)
    span = Span(path, start, info.compress_size)
    inflated_bytes = None if is_stored else info.file_size
    load_values = functools.partial(
        _load_member, span, where, inflated_bytes, info.CRC, header.nbytes, header.dtype
    )
    return Entry(name, nbytes, load_values)


def start_of_member(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Find a member's bytes, which follow a header of 30 bytes, a name and extra fields: APPNOTE.TXT 4.3.7."""
    file.seek(info.header_offset + 26)
    name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
    return int(info.header_offset + 30 + name_bytes + extra_bytes)


def _load_member(
    span: Span, where: str, inflated_bytes: int | None, crc: int, skip: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Read and inflate a member, compare its checksum, and leave out its npy header."""
    raw = read_bytes(span)
    if inflated_bytes is not None:
        raw = _inflate(raw, inflated_bytes, where)
    if zlib.crc32(raw.data) != crc:
        raise damaged(where, "its bytes do not have the CRC-32 that the archive gives")
    return raw[skip:].view(dtype)


def _inflate(raw: NDArray[np.uint8], nbytes: int, where: str) -> NDArray[np.uint8]:
    """Undo deflate step by step into one array of `nbytes`, so that nothing is held twice."""
    out = np.empty(nbytes, np.uint8)
    stream, filled = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        for begin in range(0, raw.size, INFLATE_BYTES):
            piece = stream.decompress(raw[begin : begin + INFLATE_BYTES].data)
            out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    except (zlib.error, ValueError) as error:  # ValueError: the piece does not fit into `out`
        raise damaged(where, f"it cannot be decompressed ({error})") from error
    if filled != nbytes:
        raise damaged(where, f"it decompresses to {filled} bytes instead of {nbytes}")
    return out


def _read_header(file: IO[bytes], where: str) -> _Header:
    """Parse an npy header by hand: numpy's parser warns, and raises whatever odd input makes it raise."""
    start = file.read(8)
    length_bytes = {1: 2, 2: 4, 3: 4}.get(start[6]) if len(start) == 8 else None
    if length_bytes is None or start[:6] != b"\x93NUMPY":
        raise damaged(where, "it does not start like an npy file of version 1, 2 or 3")
    text_bytes = int.from_bytes(file.read(length_bytes), "little")
    if text_bytes > MAX_HEADER_BYTES:
        wrong = f"its npy header of {text_bytes} bytes exceeds {MAX_HEADER_BYTES} bytes"
        raise damaged(where, wrong)
    raw = file.read(text_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of odd literals; no npy file has them
            fields = ast.literal_eval(raw.decode("utf-8" if start[6] == 3 else "latin1"))
        descr, shape = fields["descr"], list(fields["shape"])
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise damaged(where, f"its npy header cannot be read ({error})") from error
    if len(raw) != text_bytes or not is_sizes(shape):
        raise damaged(where, "its npy header is cut off, or its shape is not one")
    is_counted = isinstance(descr, str) and _COUNTED.fullmatch(descr)
    dtype = np.dtype(descr) if is_counted else None
    return _Header(dtype, descr, math.prod(shape), 8 + length_bytes + text_bytes)
