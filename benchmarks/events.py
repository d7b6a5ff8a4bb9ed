"""What event files cost beside counting: the writer's thread, and reading them back. Prints one line of JSON.

Runs as a script of its own: TensorBoard's loader is to be the one that people have who did not install TensorFlow.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 500
SIZE = 20_000


def write(folder: str, steps: int) -> None:
    """Write one series of drifting normals, with `fasthist`."""
    import fasthist

    rng = np.random.default_rng(0)
    with fasthist.SummaryWriter(folder) as writer:
        for step in range(steps):
            values = rng.normal(step / steps, 0.02 + step / steps, SIZE)
            writer.add_histogram("values", values.astype(np.float32), step)


def read_ours(folder: str) -> Iterator[float]:
    """Give the number of values in each histogram, read by us."""
    import fasthist

    for found in fasthist.read(folder):
        yield float(found.histogram.counts.sum())


def read_tensorboard(folder: str) -> Iterator[float]:
    """Give the same, read by TensorBoard's Python loader: one file after the other."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    for path in sorted(Path(folder).glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                yield float(tensor_util.make_ndarray(value.tensor)[:, 2].sum())


def read_tbparse(folder: str) -> Iterator[float]:
    """Give the same, read by tbparse."""
    from tbparse import SummaryReader

    for counts in SummaryReader(folder).histograms["counts"]:
        yield float(counts.sum())


READERS: dict[str, Callable[[str], Iterator[float]]] = {
    "fasthist": read_ours,
    "TensorBoard's Python loader": read_tensorboard,
    "tbparse": read_tbparse,
}


def reading(library: str, folder: str, steps: int) -> float:
    """Time reading a histogram back, in seconds: the median of some passes over all of them.

    Raises
    ------
    RuntimeError
        What is read is not what was written.
    """
    read = READERS[library]
    passes: list[float] = []
    list(read(folder))  # what is imported late, is imported now
    while not passes or sum(passes) < 0.3:
        start = time.perf_counter()
        found = list(read(folder))
        passes.append(time.perf_counter() - start)
        if found != [SIZE] * steps:
            msg = f"{len(found)} histograms instead of {steps}, or other counts"
            raise RuntimeError(msg)
    return statistics.median(passes) / steps


def writer_lock(steps: int, *, tiny: bool) -> float:
    """Measure how long the writer's thread holds the interpreter's lock for a histogram of a 104-tensor model, in seconds.

    It is the CPU time of the thread, less that of the kernels, which run without the lock. The file takes no time.
    """
    import tempfile

    import models

    import fasthist
    from fasthist.events import background, files
    from fasthist.kernels import encoding, outlines

    class Nowhere(FileIO):
        def write(self, data: Any) -> int:
            return len(data)

    held = 0.0

    def adding(sign: int, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any) -> Any:
            nonlocal held
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                if threading.current_thread().name == "fasthist events":
                    held += sign * (time.thread_time() - start)

        return timed

    files.FileIO = Nowhere  # type: ignore[misc]
    background.Log._turn = adding(1, background.Log._turn)  # type: ignore[method-assign]
    outlines.outline_values = adding(-1, outlines.outline_values)
    encoding.encode = adding(-1, encoding.encode)
    model = models.build("transformer", tiny=tiny)
    tensors = len(dict(model.named_parameters()))
    with tempfile.TemporaryDirectory(prefix="fasthist-") as folder:
        writer = fasthist.SummaryWriter(folder)
        for step in range(steps + 1):
            writer.add_histograms(model, step)
            writer.flush()
            if step == 0:
                held = 0.0  # the kernels are compiled or loaded
        seconds = held / steps / tensors
        writer.close()
    return seconds


if __name__ == "__main__":
    sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
    asked = json.loads(sys.argv[1])
    what = {"write": write, "reading": reading, "writer_lock": writer_lock}[asked.pop("what")]
    sys.stdout.write(json.dumps(what(**asked)) + "\n")
