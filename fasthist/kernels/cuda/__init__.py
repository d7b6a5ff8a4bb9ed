"""Counting on NVIDIA GPUs, with numba-cuda; imported only when an array lies on one, or is to be counted there."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Iterator

import numpy as np

from fasthist.errors import DeviceError

_INSTALL = "pip install 'fasthist[cuda13]' (or 'fasthist[cuda12]', for a driver older than 580)"
_HINT = 'Hint: device="cpu" copies arrays to the host and counts them there.'


@functools.cache
def require() -> None:
    """Make sure that GPUs can be used.

    Raises
    ------
    DeviceError
        Something is missing; it says what.
    """
    if importlib.util.find_spec("numba_cuda") is None:
        msg = f"a GPU is to count, and numba-cuda is not installed. Run: {_INSTALL}. {_HINT}"
        raise DeviceError(msg)
    from fasthist.kernels.cuda.primitives import SIMULATED

    if SIMULATED:
        return
    try:
        from fasthist.kernels.cuda.driver import gpu_count

        if gpu_count():
            return
        why = "it sees no GPU"
    except Exception as error:  # noqa: BLE001 - without a driver, whatever its bindings raise
        why = str(error).strip().split("\n")[0]
    msg = f"a GPU is to count, and there is no NVIDIA driver for it ({why}). {_HINT}"
    raise DeviceError(msg)


@contextlib.contextmanager
def row_stack() -> Iterator[None]:
    """Give numpy back, for a moment, the name that numba-cuda 0.30 asks for when it is imported.

    numpy 2.5 has dropped it, and 2.0 to 2.4 warn of it. With a limit for numpy among our requirements instead, users would get
    an older numpy for all they do, and those who have installed numba-cuda themselves would be no better off.
    """
    missing = "row_stack" not in vars(np)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if missing:
            vars(np)["row_stack"] = np.vstack
        try:
            yield
        finally:
            if missing:
                del vars(np)["row_stack"]
