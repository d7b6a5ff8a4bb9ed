"""What counting a model on a GPU takes of the training thread, without a GPU: ``python benchmarks/gpu_host.py``.

On the tests' stand-in for the driver, where launches do nothing: so all that is timed is the host's own work. The tensors are the
CPU's. What torch takes for 300 addresses, in the same process, is the measure of what a machine is worth.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"

TENSORS = 300
REPEATS = 200


def median(run: Callable[[], Any], after: Callable[[Any], object] = id) -> float:
    """Return the median of the seconds of this thread that a call takes, without what is done with its result."""
    seconds = []
    for _ in range(REPEATS):
        begin = (
            time.thread_time()
        )  # and not the wall's: nothing is waited for, but for other processes
        result = run()
        seconds.append(time.thread_time() - begin)
        after(result)
        del result  # or else the next call's time would hold the end of this one's
    return sorted(seconds)[REPEATS // 2]


def measure() -> dict[str, float]:
    """Time the calls of a training loop, in microseconds; on the stand-in driver."""
    import pretended

    import fasthist

    model = pretended.model(TENSORS)
    tensors = list(model.values())
    first = time.perf_counter()
    fasthist.histograms(model)[f"layers/{TENSORS - 1}/weight"].num  # noqa: B018
    first = time.perf_counter() - first
    found = {
        "first": first,
        "data_ptr": median(lambda: [tensor.data_ptr() for tensor in tensors]),
        "histograms": median(
            lambda: fasthist.histograms(model), lambda made: next(iter(made.values())).num
        ),
    }
    with tempfile.TemporaryDirectory() as folder, fasthist.SummaryWriter(folder) as writer:
        steps = iter(range(REPEATS))
        found["add_histograms"] = median(
            lambda: writer.add_histograms(model, next(steps)), lambda _: writer.flush()
        )
    return {name: round(1e6 * seconds, 1) for name, seconds in found.items()}


def main() -> None:
    """Compile the driver, and measure in a process that finds it."""
    if "--measure" in sys.argv:
        sys.path.insert(0, str(TESTS))
        sys.stdout.write(json.dumps(measure()) + "\n")
        return
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("The stand-in driver needs a C compiler. Hint: install gcc.")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "libcuda.so.1")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, TESTS / "fakecuda.c"]
        subprocess.run([*command, "-lpthread", "-ldl"], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        subprocess.run([sys.executable, __file__, "--measure"], check=True, env=environment)


if __name__ == "__main__":
    main()
