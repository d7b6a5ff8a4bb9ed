"""What is not the time of a call: start-up, peak memory, bytes of an event, the slowdown of a training loop."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import events
import writers
from child import CONTROL_BYTES
from data import Data, opened
from measure import spread

HERE = Path(__file__).parent
NOT_QUICK = "not in the short suite"
SLACK_BYTES = 2 << 20
"""By how much a control may miss; the kernel counts pages of a thread in batches."""


def run_child(script: str, *arguments: str, **environment: str) -> Any:
    """Run a script of this folder in a process of its own, with the fasthist that is imported here.

    Returns
    -------
    object
        What its last line holds as JSON.

    Raises
    ------
    RuntimeError
        It failed; the text ends with its last line of output.
    """
    import fasthist

    home = str(Path(fasthist.__file__).parents[1])
    paths = [home, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        msg = f"{script} {' '.join(arguments)}: {last}"
        raise RuntimeError(msg)
    return json.loads(done.stdout.strip().splitlines()[-1])


@dataclass(frozen=True)
class Figure:
    """Something to measure, for us and for others.

    Parameters
    ----------
    name : str
    unit : str
        Of every value.
    libraries : tuple of str
    values : callable
        ``values(library, quick, tiny)`` gives the measurements.
    slow : tuple of str
        Libraries that take too long to start for the short suite.
    """

    name: str
    unit: str
    libraries: tuple[str, ...]
    values: Callable[[str, bool, bool], list[float]]
    slow: tuple[str, ...] = ()

    def measure(self, *, quick: bool = False, tiny: int = 0) -> dict[str, Any]:
        """Measure each library; what fails is recorded with its error.

        Returns
        -------
        dict
            As `measure.measure` gives, in `unit` instead of seconds.
        """
        results: dict[str, Any] = {}
        for library in self.libraries:
            if quick and library in self.slow:
                results[library] = {"skipped": NOT_QUICK}
                continue
            try:
                results[library] = spread(self.values(library, quick, bool(tiny)))
            except Exception as error:  # noqa: BLE001  # recorded, reported, and the run goes on
                text = " ".join(str(error).split())
                results[library] = {"failed": f"{type(error).__name__}: {text[:200]}"}
        return {"name": self.name, "unit": self.unit, "libraries": results}


# -- start-up --------------------------------------------------------------------------------------------

_MODULES = {
    "fasthist": "fasthist",
    "torch": "torch.utils.tensorboard",
    "tensorboardX": "tensorboardX",
}


def _rounds(library: str, quick: bool, tiny: bool) -> int:
    # Frameworks take seconds to start: they are asked less often.
    return 1 if tiny else (3, 1)[quick] if library != "fasthist" else (9, 3)[quick]


def _import_seconds(library: str, quick: bool, tiny: bool) -> list[float]:
    module = _MODULES[library]
    run_child("child.py", "start", module)  # reads files from the disk
    rounds = range(_rounds(library, quick, tiny))
    return [run_child("child.py", "start", module)["import"] for _ in rounds]


@functools.cache
def _first_use(library: str, quick: bool, tiny: bool) -> dict[str, list[float]]:
    """Time import and first histogram: with an empty Numba cache, then with the one this has filled."""
    found: dict[str, list[float]] = {"cold": [], "warm": []}

    def once(kind: str, folder: str) -> None:
        seconds = run_child("child.py", "start", _MODULES[library], NUMBA_CACHE_DIR=folder)
        found[kind].append(seconds["import"] + seconds["first"])

    for _ in range(1 if quick or tiny or library != "fasthist" else 3):
        with tempfile.TemporaryDirectory(prefix="fasthist-") as folder:
            once("cold", folder)
            for _ in range(min(3, _rounds(library, quick, tiny))):
                once("warm", folder)
    return found


def _first_warm(library: str, quick: bool, tiny: bool) -> list[float]:
    return _first_use(library, quick, tiny)["warm"]


def _first_cold(library: str, quick: bool, tiny: bool) -> list[float]:
    return _first_use(library, quick, tiny)["cold"]


# -- memory ----------------------------------------------------------------------------------------------

_MEMORY = {
    "fasthist": "tensorflow:fasthist",
    "fasthist, 64 uniform buckets": "uniform:fasthist",
    "torch make_histogram": "tensorflow:torch make_histogram",
    "numpy.histogram, 64 uniform buckets": "uniform:numpy.histogram",
}


def check_controls(found: dict[str, int]) -> int:
    """Give the extra memory, if the controls say that the measurement can be trusted.

    Raises
    ------
    RuntimeError
        Doing nothing cost memory, or touching memory did not show.
    """
    reads_right = abs(found["control"] - CONTROL_BYTES) <= SLACK_BYTES
    if found["nothing"] > SLACK_BYTES or not reads_right:
        msg = f"the controls read {found['nothing']} and {found['control']} bytes"
        raise RuntimeError(msg)
    return found["extra"]


def _extra_bytes(library: str, quick: bool, tiny: bool) -> list[float]:
    size = 10**5 if tiny else 10**7 if quick else 10**8
    rounds = range(1 if quick or tiny or not library.startswith("fasthist") else 3)
    return [
        check_controls(run_child("child.py", "memory", _MEMORY[library], str(size))) for _ in rounds
    ]


# -- bytes of an event -----------------------------------------------------------------------------------

_EVENT_WRITERS = {
    "fasthist": writers.add_ours,
    "torch": writers.add_torch,
    "tensorboardX": writers.add_tensorboardx,
    "tf.summary": writers.add_tensorflow,
}


def _event_bytes(library: str, quick: bool, tiny: bool) -> list[float]:  # noqa: ARG001
    """Write one histogram, then another; the file grows by one event with its frame."""
    with opened(Data("float32", "normal", 1000 if tiny else 10**6)) as data:
        run = _EVENT_WRITERS[library](data)
        sizes = []
        for _ in range(2):
            written = run()
            written.settle()
            files = Path(written.folder).glob("*tfevents*")
            sizes.append(sum(path.stat().st_size for path in files))
    return [float(sizes[1] - sizes[0])]


# -- event files ------------------------------------------------------------------------------------------


def _events(what: str, **arguments: Any) -> Any:
    return run_child("events.py", json.dumps({"what": what, **arguments}))


def _reading_seconds(library: str, quick: bool, tiny: bool) -> list[float]:
    steps = 20 if tiny else events.STEPS
    with tempfile.TemporaryDirectory(prefix="fasthist-") as folder:
        _events("write", folder=folder, steps=steps)
        return [
            _events("reading", library=library, folder=folder, steps=steps)
            for _ in range(1 if quick or tiny else 5)
        ]


def _writer_lock(library: str, quick: bool, tiny: bool) -> list[float]:  # noqa: ARG001
    steps = 2 if tiny else 20
    # A shared machine's slow phases last longer than five rounds.
    rounds = range(1 if quick or tiny else 15)
    return [_events("writer_lock", steps=steps, tiny=tiny) for _ in rounds]


# -- training --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A training loop, all of whose ways of logging take turns in one process.

    Parameters
    ----------
    name, unit, libraries
        As of `Figure`.
    task : str
        A key of ``training.TASKS``.
    every : int
        Log each so many steps.
    blocks, quick_blocks : dict of str to (int, int)
        Steps of a block and number of blocks for each way of logging. Nothing: not measured.
    """

    name: str
    unit: str
    libraries: tuple[str, ...]
    task: str
    every: int
    blocks: dict[str, tuple[int, int]]
    quick_blocks: dict[str, tuple[int, int]] | None = None

    def measure(self, *, quick: bool = False, tiny: int = 0) -> dict[str, Any]:
        """Train once, with all of the libraries in turns."""
        blocks = self.quick_blocks if quick else self.blocks
        if tiny:
            blocks = dict.fromkeys(self.blocks, (self.every, 1))
        try:
            if not blocks:
                results = {name: {"skipped": NOT_QUICK} for name in self.libraries}
            else:
                plan = {
                    "task": self.task,
                    "every": self.every,
                    "blocks": blocks,
                    "tiny": bool(tiny),
                }
                found = run_child("training.py", json.dumps(plan))
                results = {name: spread(seconds) for name, seconds in found.items()}
        except Exception as error:  # noqa: BLE001  # recorded, reported, and the run goes on
            text = " ".join(str(error).split())
            failed = f"{type(error).__name__}: {text[:200]}"
            results = {name: {"failed": failed} for name in self.libraries}
        return {"name": self.name, "unit": self.unit, "libraries": results}


_FRAMEWORKS = ("torch", "tensorboardX")
_TRAINING = ("no logging", "fasthist", "fasthist, in the call", "torch", "torch, in the call")
FIGURES: dict[str, Figure | Training] = {
    figure.name: figure
    for figure in (
        Figure("import beyond numpy", "s", tuple(_MODULES), _import_seconds, _FRAMEWORKS),
        Figure("first histogram, warm cache", "s", tuple(_MODULES), _first_warm, _FRAMEWORKS),
        Figure("first histogram, cold cache", "s", ("fasthist",), _first_cold),
        Figure("extra memory", "bytes", tuple(_MEMORY), _extra_bytes, ("torch make_histogram",)),
        Figure("event of 1e6 normals", "bytes", tuple(_EVENT_WRITERS), _event_bytes),
        Figure("reading a histogram back", "s", tuple(events.READERS), _reading_seconds),
        Figure("writer's thread, interpreter's lock for a histogram", "s", ("fasthist",), _writer_lock),
        Training(
            "training step, transformer, every step", "s", _TRAINING,
            "transformer", 1, {"fasthist": (4, 6), "torch": (1, 3)},
        ),
        Training(
            "training step, mlp, every step", "s", _TRAINING,
            "mlp", 1, {"fasthist": (10, 10), "torch": (2, 3)}, {"fasthist": (5, 3), "torch": (1, 2)},
        ),
        Training(
            "training step, mlp, every 100th", "s", _TRAINING,
            "mlp", 100, {"fasthist": (100, 6), "torch": (100, 3)},
        ),
        Training(
            "training step, transformer, every 100th", "s", _TRAINING,
            "transformer, short", 100, {"fasthist": (100, 5), "torch": (100, 1)},
        ),
    )
}  # fmt: skip
