"""What can only be measured in a process of its own: start-up, first use, memory. Prints one line of JSON.

Imports nothing at its head but the standard library's smallest modules, because imports are what it measures.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any


def start(module: str) -> dict[str, float]:
    """Import a module when numpy is there already; then do its first histogram.

    Returns
    -------
    dict
        "import" and "first", in seconds.
    """
    import numpy as np

    values = np.random.default_rng(0).standard_normal(100_000, dtype=np.float32)
    begin = time.perf_counter()
    loaded: Any = importlib.import_module(module)
    imported = time.perf_counter()
    if module == "fasthist":
        loaded.histogram(values)
    elif module == "torch.utils.tensorboard":
        from torch.utils.tensorboard.summary import make_histogram

        make_histogram(values.astype(float), 30)
    elif module == "tensorboardX":
        from tensorboardX.summary import make_histogram

        make_histogram(values.astype(float), 30)
    return {"import": imported - begin, "first": time.perf_counter() - imported}


CONTROL_BYTES = 64 << 20


def memory(library: str, size: int) -> dict[str, int]:
    """Measure by how much a call raises the peak of resident memory, the array being there before.

    The peak is reset just before the call (Linux's ``/proc/self/clear_refs``), so that nothing earlier hides it;
    ``getrusage`` cannot tell it, since its peak includes what the parent process had when it forked. Beside the library,
    two controls: doing nothing, and touching `CONTROL_BYTES`.

    Returns
    -------
    dict
        "extra", "nothing" and "control", in bytes.
    """
    import cases
    from data import Data

    call, _, name = library.partition(":")
    peer = cases.CALLS[call][name]
    peer.setup(Data("float32", "normal", 100_000))()  # compile and import before
    run = peer.setup(Data("float32", "normal", size))

    def touch() -> None:
        bytearray(CONTROL_BYTES)[:: 1 << 12] = b"x" * (CONTROL_BYTES >> 12)

    return {"nothing": _extra(int), "control": _extra(touch), "extra": _extra(run)}


def _extra(run: Any) -> int:
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL(None).malloc_trim(
        0
    )  # freed memory that is still resident would hide what is needed again
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _peak()
    run()
    return _peak() - before


def _peak() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    msg = "/proc/self/status has no VmHWM; peak memory is measured on Linux only"
    raise OSError(msg)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    found = start(*arguments) if what == "start" else memory(arguments[0], int(arguments[1]))
    sys.stdout.write(json.dumps(found) + "\n")
