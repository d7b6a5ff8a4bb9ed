"""How a case is timed on a GPU, in a process of its own: ``python benchmarks/gpu_measure.py RECORDS SECONDS NAME...``.

`gpu.py` starts it. A kernel that hangs, or that leaves the GPU's context unusable, costs the case in which it ran and no
other: a case that takes too long ends the process, and so does a lost context; the rest is then measured in a new one.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cases import OURS
from data import HEAD, opened
from gpu_cases import BUSY, CALLS, CASES, DONE, IDLE, ON_DEVICE, OUR_OWN, READ, GpuCase
from measure import error_text, missing, spread
from peers import Run
from results import seconds_text

HEAD_START = 0.005
"""Seconds of other work in front of what is timed on the device, which so never waits for Python to launch something."""

WORK = 0.02
"""Seconds of other work in front of a call that is not to wait for it."""

CASE_LIMIT = 75
"""Seconds that a case may take, compiling included."""

LEAST = 5
"""Seconds that must be left for a case to be begun."""

LOST = 3
"""Exit status: the GPU's context is lost, and all that was measured is written."""


class Budget:
    """What is left of the time that all may take.

    Parameters
    ----------
    seconds : float
    now : callable
        The clock.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    def left(self) -> float:
        """Give the seconds that are left, not below 0."""
        return max(0.0, self._end - self._now())


class Device:
    """The GPU that torch works on. Tests put something in its place that needs none."""

    place = "cuda"
    """torch's name for it."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda

    def synchronize(self) -> None:
        """Wait until all is done; what has failed raises an error."""
        self._cuda.synchronize()

    def occupy(self, seconds: float) -> None:
        """Give the device something to do for about so long, and do not wait for it."""
        self._cuda._sleep(int(seconds * 2e9))  # cycles, of some 2 GHz

    def elapsed(self, run: Run) -> tuple[float, Any]:
        """Give the seconds that the device spends on a run, from its first launch to its last, and what it returns."""
        begin, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        self.occupy(HEAD_START)
        begin.record()
        answer = run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3, answer

    def forget(self) -> None:
        """Give back memory that torch keeps for later."""
        self._cuda.empty_cache()


# -- clocks ------------------------------------------------------------------------------------------------


def _until_done(device: Device, run: Run) -> tuple[float, Any]:
    begin = time.perf_counter()
    answer = run()
    device.synchronize()
    return time.perf_counter() - begin, answer


def _until_it_returns(device: Device, run: Run) -> tuple[float, Any]:  # noqa: ARG001
    begin = time.perf_counter()
    answer = run()
    return time.perf_counter() - begin, answer


def _behind_work(device: Device, run: Run) -> tuple[float, Any]:
    device.occupy(WORK)
    return _until_it_returns(device, run)


CLOCKS: dict[str, Callable[[Device, Run], tuple[float, Any]]] = {
    ON_DEVICE: lambda device, run: device.elapsed(run),
    DONE: _until_done,
    IDLE: _until_it_returns,
    BUSY: _behind_work,
}
"""``clock(device, run)`` gives seconds, and what the run returned; before it the device has nothing to do."""


# -- turns -------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How often a library is asked.

    Attributes
    ----------
    most, fewest : int
        Rounds, after a first one that compiles.
    seconds : float
        No further round for a library that has taken so long, once it had its fewest.
    """

    most: int = 21
    fewest: int = 3
    seconds: float = 2.0


PLAN = Plan()


class Rounds(NamedTuple):
    """What came out of the turns of one library.

    Attributes
    ----------
    seconds : list of float
    failed : str
        With what error it ended; empty if it did not.
    """

    seconds: list[float]
    failed: str = ""


def take_turns(
    runs: dict[str, Run], time_round: Callable[[Run], float], plan: Plan
) -> dict[str, Rounds]:
    """Time some runs, one round of each after the other; one that fails is told of, and the others go on."""
    found = {library: Rounds([]) for library in runs}
    for turn in range(plan.most + 1):
        for library, run in runs.items():
            seconds, failed = found[library]
            enough = len(seconds) >= plan.fewest and sum(seconds) > plan.seconds
            if failed or enough:
                continue
            try:
                took = time_round(run)
            except Exception as error:  # noqa: BLE001  # recorded, reported, and the run goes on
                found[library] = Rounds(seconds, error_text(error))
                continue
            if turn:  # the first one compiles
                seconds.append(took)
    return found


# -- a case ------------------------------------------------------------------------------------------------


def measure(case: GpuCase, device: Device, *, tiny: int = 0, plan: Plan = PLAN) -> dict[str, Any]:
    """Time a case.

    Parameters
    ----------
    case : GpuCase
    device : Device
    tiny : int
        Measure so many elements only: to try it out.
    plan : Plan

    Returns
    -------
    dict
        What the case is, and for each library what `measure.measure` gives, with all its rounds in "all", and "GB/s" and
        "share", its part of `READ`'s rate; or "failed" or "skipped", and why.
    """
    table, clock = CALLS[case.call], CLOCKS[case.clock]
    with opened(case.data(device.place, tiny=tiny)) as data, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library warns of is not what is measured
        results: dict[str, dict[str, Any]] = {}
        runs: dict[str, Run] = {}
        for library in case.libraries:
            peer = table[library]
            try:
                if module := missing(peer):
                    results[library] = {"skipped": f"{module} is not installed"}
                else:
                    runs[library] = peer.setup(data)
            except Exception as error:  # noqa: BLE001  # as in `take_turns`
                results[library] = {"failed": error_text(error)}

        def time_round(run: Run) -> float:
            device.synchronize()
            took, answer = clock(device, run)
            # Nothing of this round is left to do in the next one.
            _read(answer)
            data.settle()
            device.synchronize()
            return took

        try:
            wrong = disagreement(data)
        except Exception as error:  # noqa: BLE001
            wrong = error_text(error)
        if wrong:  # a fast wrong answer is none
            for library in [library for library in runs if library in OUR_OWN]:
                del runs[library]
                results[library] = {"failed": f"its answer is not what it must be: {wrong}"}
        sizes = {"elements": data.elements, "bytes": data.nbytes}
        for library, rounds in take_turns(runs, time_round, plan).items():
            results[library] = _summary(rounds, sizes)
    ordered = {library: results[library] for library in case.libraries}
    for library, found in ordered.items():
        if table[library].difference:
            found["difference"] = table[library].difference
    _compare(ordered)
    about = {"name": case.name, "call": case.call, "format": case.format, "what": case.what}
    return {**about, "clock": case.clock, **sizes, "libraries": ordered}


def _read(answer: Any) -> None:
    import fasthist

    for one in answer.values() if isinstance(answer, dict) else [answer]:
        if isinstance(one, fasthist.Histogram):
            one.num  # noqa: B018  # it waits


def disagreement(data: Any) -> str:
    """Say how our answer on the device differs from that on the CPU; empty if it does not.

    Parameters
    ----------
    data : DeviceData or DeviceModel
        Of one tensor the first million values are counted on both; of a model, how many were counted of each tensor.
    """
    import fasthist

    if hasattr(data, "tree"):
        found = fasthist.histograms(data.tree)
        wrong = [tag for tag, tensor in data.tree.items() if found[tag].num != tensor.numel()]
        return f"{len(wrong)} tensors are not all counted; the first, {wrong[0]}" if wrong else ""
    counted = fasthist.histogram(data.tensor, buckets="tensorflow").num
    if counted != data.elements:
        return f"num {counted} instead of {data.elements}"
    head = data.tensor[:HEAD]
    there, here = (fasthist.histogram(x, buckets="tensorflow") for x in (head, head.cpu()))
    for name in ("num", "min", "max"):
        if getattr(there, name) != getattr(here, name):
            return f"{name} {getattr(there, name)} instead of {getattr(here, name)}"
    differing = (there.counts != here.counts).nonzero()[0]
    return f"{differing.size} counts differ; the first, {differing[0]}" if differing.size else ""


def _summary(rounds: Rounds, sizes: dict[str, int]) -> dict[str, Any]:
    if rounds.failed or not rounds.seconds:
        return {"failed": rounds.failed or "not timed"}
    found = {**spread(rounds.seconds), **sizes, "all": rounds.seconds}
    return {**found, "GB/s": sizes["bytes"] / 1e9 / found["median"]}


def _compare(libraries: dict[str, dict[str, Any]]) -> None:
    ceiling = libraries.get(READ, {}).get("median")
    ours = libraries[OURS].get("median")
    for found in libraries.values():
        if "median" in found and ours:
            found["ratio"] = found["median"] / ours
        if "median" in found and ceiling:
            found["share"] = ceiling / found["median"]


def line(record: dict[str, Any]) -> str:
    """Write a record in one line."""
    found = [
        f"{library} {seconds_text(one['median'])}"
        if "median" in one
        else f"{library} {one.get('failed') or one.get('skipped')}"
        for library, one in record["libraries"].items()
    ]
    return f"{record['name']}: {', '.join(found)}"


def measure_all(
    names: list[str],
    device: Device,
    budget: Budget,
    keep: Callable[[dict[str, Any]], None],
    **options: Any,
) -> bool:
    """Measure one case after the other while there is time.

    Parameters
    ----------
    names : list of str
        Keys of `gpu_cases.CASES`.
    device, options
        See `measure`.
    budget : Budget
    keep : callable
        Is given each record.

    Returns
    -------
    bool
        Whether the device can still be used.
    """
    for name in names:
        if budget.left() < LEAST:
            return True
        limit = min(CASE_LIMIT, budget.left())
        faulthandler.dump_traceback_later(limit, exit=True)  # a thread of C's: it needs no GIL
        try:
            try:
                record = measure(CASES[name], device, **options)
            except Exception as error:  # noqa: BLE001  # as in `take_turns`: there was no memory for its values, say
                record = {"name": name, "libraries": {OURS: {"failed": error_text(error)}}}
            keep(record)
            device.synchronize()
            device.forget()
        except Exception:  # noqa: BLE001  # no call succeeds after one that has failed on the device
            return False
        finally:
            faulthandler.cancel_dump_traceback_later()
    return True


def main(path: str, seconds: str, *names: str) -> int:
    """Measure some cases, write a line of JSON for each, and give the exit status."""

    def keep(record: dict[str, Any]) -> None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(line(record), flush=True)  # noqa: T201

    usable = measure_all(list(names), Device(), Budget(float(seconds)), keep)
    return 0 if usable else LOST


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
