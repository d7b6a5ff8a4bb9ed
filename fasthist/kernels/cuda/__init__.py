"""Counting on NVIDIA GPUs, with numba-cuda; imported only when an array lies on one, or is to be counted there."""

from __future__ import annotations

import functools
import importlib.util

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
    from numba import config, cuda

    if config.ENABLE_CUDASIM or cuda.is_available():  # type: ignore[attr-defined, no-untyped-call]
        return
    from numba.cuda.cudadrv.driver import driver

    if not driver.is_available:
        why = str(driver.initialization_error).strip().split("\n")[0]
        msg = f"a GPU is to count, and there is no NVIDIA driver for it ({why}). {_HINT}"
        raise DeviceError(msg)
    msg = f"a GPU is to count, and numba-cuda finds no toolkit to compile with. Run: {_INSTALL}. {_HINT}"
    raise DeviceError(msg)
