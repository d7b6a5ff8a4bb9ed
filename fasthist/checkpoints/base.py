"""What the formats share: a tensor not read yet, bytes of a file, JSON, and the error for damage."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeGuard

import numpy as np

from fasthist.errors import ArrayError, CheckpointError
from fasthist.intake import Bits
from fasthist.kernels.pool import run, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_JSON_BYTES = 100_000_000  # the limit of the safetensors library for its header
MAX_DIMENSIONS = 64  # of a numpy array
_READ_BYTES = 1 << 23  # that a thread reads at once
_READERS = 8  # more threads do not make memory faster
_SHORTER = "it became shorter after it was opened"


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint, not read yet.

    `tag` is its name in the file; levels of nested containers are joined with ``/``. `nbytes` is the size of its values.
    ``load()`` reads the values into something that `fasthist.histogram` counts: a numpy array dtype[n], flat and in the
    order of the file, since a histogram does not need the shape; a `Bits` when numpy lacks the format; or a torch tensor.
    It raises `ArrayError` when the type cannot be counted, `CheckpointError` when the file is damaged or changed, `OSError`
    when it cannot be opened.
    """

    tag: str
    nbytes: int
    load: Callable[[], Any]


class Span(NamedTuple):
    """A run of bytes in a file."""

    path: Path
    start: int
    nbytes: int


def damaged(where: Path | str, wrong: str) -> CheckpointError:
    """Return the error for a damaged file: what is wrong, and what to do."""
    msg = f"{where}: {wrong}. The file is damaged or incomplete: copy or save it again."
    return CheckpointError(msg)


def refuse(tag: str, kind: str) -> NoReturn:
    """Raise ArrayError: the `load` of a tensor that cannot be counted."""
    msg = (
        f"{tag}: {kind} cannot be counted. Accepted: bool, integers of 8 to 64 bits, float8 (e4m3 and e5m2), "
        "float16, bfloat16, float32, float64. Convert it before saving it."
    )
    raise ArrayError(msg)


def read_bytes(span: Span) -> NDArray[np.uint8]:
    """Read bytes of a file into uint8[span.nbytes] of their own, returned to the system with the last array that uses them.

    Not a mapping of the file: the system kills a process that reads mapped bytes which are gone. From the page cache this
    reaches half the speed of counting in a mapping; disks are slower than both.
    """
    if span.nbytes == 0:
        return np.empty(0, np.uint8)
    with span.path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < span.start + span.nbytes:
            raise damaged(span.path, _SHORTER)  # before memory is taken for it
        skip = span.start % mmap.PAGESIZE  # whole pages are read faster
        room = mmap.mmap(-1, skip + span.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                room.madvise(mmap.MADV_HUGEPAGE)
        view, starts = memoryview(room), iter(range(0, len(room), _READ_BYTES))

        def read() -> None:
            for start in starts:
                piece, place = view[start : start + _READ_BYTES], span.start - skip + start
                while piece:
                    count = os.preadv(file.fileno(), [piece], place)
                    if not count:
                        raise damaged(span.path, _SHORTER)
                    piece, place = piece[count:], place + count

        run(read, min(thread_count(None), _READERS, -(-len(room) // _READ_BYTES)))
    return np.frombuffer(room, np.uint8, span.nbytes, skip)


def load_span(span: Span, dtype: str, name: str | None) -> NDArray[Any] | Bits:
    """Read values of `dtype`; `name` is that of the format when numpy lacks it."""
    values = read_bytes(span).view(dtype)
    return values if name is None else Bits(values, name)


def is_sizes(value: object) -> TypeGuard[list[int]]:
    """Return whether a value from a file is a list of so few and small integers that it can be a shape."""
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def read_json(file: IO[bytes], nbytes: int, where: Path, what: str) -> dict[str, Any]:
    """Read `nbytes` of JSON, which must be an object; `what` names it in errors."""
    if nbytes > MAX_JSON_BYTES:
        raise damaged(where, f"its {what} of {nbytes} bytes exceeds {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(file.read(nbytes).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"its {what} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise damaged(where, f"its {what} is not a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a key twice; Python would silently keep the last."""
    content = dict(pairs)
    if len(content) != len(pairs):
        msg = "a name occurs in it twice"
        raise ValueError(msg)
    return content
