"""How kernels are compiled: without the GIL, and cached on disk wherever a directory can be written.

Numba looks for a place beside the source file, then in the user's cache directory (``NUMBA_CACHE_DIR`` goes before
both). Where it finds none, as in a container of which nothing can be written, kernels are compiled in every process.

Whoever waits for longer than a second is told why, once in a process, by a warning of the logger ``fasthist``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import event

_PATIENCE = 1.0
"""Seconds of compiling before anything is said."""


class _Notice(event.Listener):
    """Tells who waits that kernels are compiled; Numba reports none that comes from the cache.

    Numba compiles one kernel at a time, and reports every step of it: no timer is needed, nor a thread that could
    outlive the interpreter.
    """

    def __init__(self) -> None:
        self.is_cached = True
        self.on_kernel: Callable[[], None] | None = None
        self._depth = 0
        self._began = 0.0
        self._waited = 0.0
        self._is_due = True

    def on_start(self, report: event.Event) -> None:
        """Say something if it has taken long by now."""
        if _is_kernel(report):
            if not self._depth:
                self._began = time.monotonic()
            self._depth += 1
        if not self._depth or not self._is_due or self.on_kernel is not None:
            return
        if self._waited + time.monotonic() - self._began > _PATIENCE:
            self._is_due = False
            often = (
                "once"
                if self.is_cached
                else "in every process, for its cache can be written nowhere (NUMBA_CACHE_DIR sets where)"
            )
            logging.getLogger("fasthist").warning(
                "fasthist: compiling kernels for this machine, %s; this takes some ten seconds. "
                "To do it ahead, run: fasthist warmup",
                often,
            )

    def on_end(self, report: event.Event) -> None:
        """Add up what was waited for."""
        if not _is_kernel(report):
            return
        self._depth -= 1
        if not self._depth:
            self._waited += time.monotonic() - self._began
        if self.on_kernel is not None:
            self.on_kernel()


def _is_kernel(report: event.Event) -> bool:
    if report.kind != "numba:compile":
        return False
    module: str = report.data["dispatcher"].py_func.__module__
    return module.startswith("fasthist.")


_NOTICE = _Notice()
for _kind in ("numba:compile", "numba:run_pass"):
    event.register(_kind, _NOTICE)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def each_compiled(on_kernel: Callable[[], None]) -> Iterator[None]:
    """Call a function for each kernel that is compiled, instead of the warning."""
    _NOTICE.on_kernel = on_kernel
    try:
        yield
    finally:
        _NOTICE.on_kernel = None


_IMPORT = re.compile(r"^from fasthist\b([\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


def digest(package: Path, kernels: str) -> str:
    """Hash the kernels' modules, by a pattern, and all that these import, whose values are compiled in."""
    waiting = sorted(package.glob(kernels))
    sources: dict[Path, str] = {}
    while waiting:
        path = waiting.pop()
        if path in sources:
            continue
        sources[path] = path.read_text(encoding="utf-8")
        for module, names in _IMPORT.findall(sources[path]):
            place = package.joinpath(*module.split("."))
            modules = [place, *(place / name for name in re.findall(r"\w+", names))]
            waiting += [
                file for file in (one.with_suffix(".py") for one in modules) if file.is_file()
            ]
    return hashlib.sha256("".join(sources[path] for path in sorted(sources)).encode()).hexdigest()


_KERNELS = digest(Path(__file__).parents[1], "kernels/*.py")


@functools.cache
def _digest_of(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _decorator(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        try:
            kernel = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            _NOTICE.is_cached = False
            return numba.njit(nogil=True, **options)(function)
        # Numba looks at the time and size of a kernel's own file: it would run what it once inlined from another file,
        # and compile all again after the same version is installed once more. What the files hold decides instead.
        # Nothing public does it; a version of Numba without these names is no worse than without this.
        with contextlib.suppress(AttributeError):
            kernel._cache._cache_file._source_stamp = (
                _digest_of(function.__code__.co_filename),
                _KERNELS,
            )
        return kernel

    return decorate


serial = _decorator()

elementwise = _decorator(error_model="numpy")
"""Division by zero gives what IEEE 754 says; Numba's own check for it would stop vectorisation."""

reduction = _decorator(fastmath={"reassoc", "contract", "nsz"})
"""Sums may be reordered, so that LLVM vectorises them; NaN and infinities stay what they are."""
