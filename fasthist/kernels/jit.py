"""How kernels are compiled: without the GIL, and cached on disk wherever a directory can be written.

Numba looks for a place beside the source file, then in the user's cache directory (``NUMBA_CACHE_DIR`` goes before
both). Where it finds none, as in a container of which nothing can be written, kernels are compiled in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def _digest() -> str:
    # Those compiled, and the one that is beside them because it runs in Python too.
    sources = [
        *sorted(Path(__file__).parent.glob("*.py")),
        Path(__file__).parents[1] / "outline.py",
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


_KERNELS = _digest()


def _decorator(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        try:
            kernel = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return numba.njit(nogil=True, **options)(function)
        # Numba looks at the file of a kernel only, and would run what it once inlined from another. Nothing public
        # tells it more, and a version of Numba without these names is no worse than without this.
        with contextlib.suppress(AttributeError):
            file = kernel._cache._cache_file
            file._source_stamp = (*file._source_stamp, _KERNELS)
        return kernel

    return decorate


serial = _decorator()

elementwise = _decorator(error_model="numpy")
"""Division by zero gives what IEEE 754 says; Numba's own check for it would stop vectorisation."""

reduction = _decorator(fastmath={"reassoc", "contract", "nsz"})
"""Sums may be reordered, so that LLVM vectorises them; NaN and infinities stay what they are."""
