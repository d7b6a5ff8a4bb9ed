"""A few threads of our own, on which compiled loops run side by side.

They work for several Python threads at once, and a forked child makes its own. (Numba's layers do neither:
``workqueue`` aborts the process under two callers, ``omp`` kills a child of a process that has used it.)
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fasthist.errors import ArgumentError

VARIABLE = "FASTHIST_NUM_THREADS"

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def thread_count(threads: int | None) -> int:
    """Return how many threads a call may use: `threads`, else ``FASTHIST_NUM_THREADS``, else all CPUs of this process."""
    if threads is None:
        value = os.environ.get(VARIABLE, "").strip()
        if not value:
            return available_cpus()
        if not value.isdecimal() or int(value) < 1:
            msg = f"{VARIABLE}={value!r} must be a whole number >= 1, or unset."
            raise ArgumentError(msg)
        return int(value)
    try:
        number = operator.index(threads)
    except TypeError:
        number = 0
    if number < 1:
        msg = f"threads={threads!r} must be a whole number >= 1, or None for all CPUs."
        raise ArgumentError(msg)
    return number


def available_cpus() -> int:
    """Count the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(work: Callable[[], None], threads: int) -> None:
    """Call ``work()`` on `threads` threads at once, including the caller's, wait for all, and raise the first error."""
    if threads == 1:
        work()
        return
    helpers = list(filter(None, (_submit(work, threads - 1) for _ in range(threads - 1))))
    try:
        work()
    finally:
        for helper in helpers:
            # A helper that has not started has nothing left to do: work is taken in turn.
            if not helper.cancel():
                helper.exception()
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def _submit(work: Callable[[], None], size: int) -> Future[None] | None:
    global _pool, _pool_size  # noqa: PLW0603 - one pool in each process
    with _lock:
        if _pool is None or _pool_size < size:
            # An outgrown pool ends when its last task does.
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool = ThreadPoolExecutor(size, thread_name_prefix="fasthist")
            _pool_size = size
        try:
            return _pool.submit(work)
        except RuntimeError:
            # The interpreter is shutting down: the caller's thread does all the work.
            return None


def _forget() -> None:
    # The threads of the parent do not exist in a forked child, and its lock may be held by one of them.
    global _lock, _pool, _pool_size  # noqa: PLW0603
    _lock = threading.Lock()
    _pool = None
    _pool_size = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
