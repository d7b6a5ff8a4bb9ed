"""Kernels as the GPU runs them: compiled by numba-cuda once, and kept on disk beside Numba's own cache.

Numba's cache would not do: it keeps what is compiled by the time of the source file, and of closures it knows no difference.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fasthist.kernels.cpu import fold
from fasthist.kernels.cuda import row_stack
from fasthist.kernels.jit import digest

Loaded = TypeVar("Loaded")

_DIGEST = 32  # bytes of SHA-256


def load(
    kernel: Any,
    label: str,
    signature: Sequence[str],
    target: tuple[int, ...],
    loader: Callable[[str, bytes], Loaded],
) -> Loaded:
    """Load a kernel from the cache, or compile it and leave it there.

    Parameters
    ----------
    kernel : dispatcher
        Of numba-cuda.
    label : str
        Names it among all kernels of the package.
    signature : sequence of str
        The types of its arguments, such as "float64" and "uint64[]".
    target : (int, int)
        The compute capability.
    loader : callable
        Takes the kernel's name and the cubin.
    """
    key = _key(label, signature, target)
    folder, name = _folder(), f"{label.replace(' ', '-')}.sm_{target[0]}{target[1]}.cubin"
    path = Path(folder, name) if folder else None
    cached = _read(path, key) if path else None
    if cached is not None:
        # A driver that is older than the toolkit of whoever compiled it may refuse it.
        with contextlib.suppress(Exception):
            return loader(*cached)
    name, cubin = _compiled(kernel, signature, target)
    loaded = loader(name, cubin)
    if path:
        _write(path, key, name, cubin)
    return loaded


def _key(label: str, signature: Sequence[str], target: tuple[int, ...]) -> bytes:
    """Hash all that the code of a kernel depends on."""
    text = repr((label, list(signature), target, _versions()))
    return hashlib.sha256(text.encode()).digest()


@functools.cache
def _versions() -> tuple[str, ...]:
    import cuda.bindings
    import numba
    import numba_cuda

    package = Path(__file__).parents[2]
    sources = digest(package, "kernels/cuda/*.py")
    return sources, numba.__version__, numba_cuda.__version__, cuda.bindings.__version__


@functools.cache
def _folder() -> str | None:
    """Return where Numba keeps what it compiles for the CPU; None if it can write nowhere."""
    stats = getattr(fold, "stats", None)  # a plain function has none, where the JIT is off
    return None if stats is None else stats.cache_path


def _read(path: Path, key: bytes) -> tuple[str, bytes] | None:
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        body = content[2 * _DIGEST :]
        if content[:_DIGEST] == key and content[_DIGEST : 2 * _DIGEST] == _sum(body):
            name, _, cubin = body.partition(b"\0")
            return name.decode(), cubin
    return None


def _write(path: Path, key: bytes, name: str, cubin: bytes) -> None:
    body = name.encode() + b"\0" + cubin
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(key + _sum(body) + body)
        Path(file.name).replace(path)  # at once, whoever else reads or writes it


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _compiled(kernel: Any, signature: Sequence[str], target: tuple[int, ...]) -> tuple[str, bytes]:
    """Compile a kernel; return its name and the cubin."""
    with row_stack():
        from cuda.core import Linker, LinkerOptions, ObjectCode
        from numba import types

        from fasthist.kernels.cuda.primitives import numba_cuda

        compiler: Any = numba_cuda

        kinds = [getattr(types, name.removesuffix("[]")) for name in signature]
        arguments = [
            types.Array(kind, 1, "C") if name.endswith("[]") else kind
            for kind, name in zip(kinds, signature, strict=True)
        ]
        text, _ = compiler.compile(
            kernel.py_func, types.void(*arguments), device=False, abi="numba", cc=target, output="ptx",
            launch_bounds=kernel.targetoptions.get("launch_bounds"),
        )  # fmt: skip
    entry = re.search(r"\.entry\s+([\w$]+)", text)
    assert entry is not None
    options = LinkerOptions(arch=f"sm_{target[0]}{target[1]}")
    linked = Linker(ObjectCode.from_ptx(text.encode()), options=options).link("cubin")
    return entry[1], bytes(linked.code)
