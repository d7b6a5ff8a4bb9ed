"""Time the libraries of a case in turns, so that a busy moment of the machine meets all of them.

One round of a library is many calls where a call is short. Ours is timed by pytest-benchmark; between two of its rounds
every other library has a round of its own. What fails is recorded with its error, and so is what is skipped.
"""

from __future__ import annotations

import importlib
import statistics
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cases import CALLS, OURS, Case
from data import HEAD, Data, opened
from peers import Peer


@dataclass(frozen=True)
class Plan:
    """How much time is spent.

    Parameters
    ----------
    budget : float
        Seconds for each library of a case.
    round : float
        Seconds that a round should last at least.
    fewest, most : int
        Rounds.
    """

    budget: float = 0.6
    round: float = 0.005
    fewest: int = 5
    most: int = 30


FULL = Plan()
QUICK = Plan(budget=0.15, round=0.002, fewest=3, most=10)


@dataclass
class Entrant:
    """A library that takes part in a case."""

    run: Any
    elements: int
    nbytes: int
    calls: int = 1
    rounds: int = 1
    seconds: list[float] = field(default_factory=list)

    def time_round(self) -> float:
        """Run one round, and keep and give the time of one call."""
        run = self.run
        start = time.perf_counter()
        for _ in range(self.calls):
            run()
        self.seconds.append((time.perf_counter() - start) / self.calls)
        return self.seconds[-1]

    def choose_rounds(self, plan: Plan) -> None:
        """Lengthen the round until it lasts as long as planned: a call alone is slower than one of many."""
        while (call := max(self.time_round(), 1e-9)) * self.calls < plan.round / 2:
            self.calls = min(-int(-plan.round // call), 8 * self.calls)
        self.seconds.clear()
        rounds = int(plan.budget / (call * self.calls))
        # A library whose call takes seconds is asked less often, not left out.
        fewest = plan.fewest if call < 1 else min(3, plan.fewest)
        self.rounds = min(max(rounds, fewest), plan.most)


def disagreement(peer: Peer, data: Data, answer: Any, ours: np.ndarray) -> str:
    """Say how an answer differs from what it must be; empty if it does not.

    Parameters
    ----------
    peer : Peer
        Whose answer it is.
    data : Data
        What was counted.
    answer : object
        What the peer's callable returned.
    ours : int64[n]
        Our counts of the same data, which stand unless the peer has a rule of its own.
    """
    if peer.counts is None:
        return ""
    found = peer.counts(answer, data)
    wanted = ours if peer.expected is None else peer.expected(data)
    if found.shape != wanted.shape:
        return f"{found.size} counts instead of {wanted.size}"
    wrong = np.flatnonzero(found != wanted)
    if not wrong.size:
        return ""
    i = wrong[0]
    return f"{wrong.size} of {wanted.size} counts differ; the first, {i}, is {found[i]} instead of {wanted[i]}"


def compare(case: Case, library: str, data: Data, answer: Any = None) -> str:
    """Say how a library's answer differs from what it must be; empty if it does not.

    Parameters
    ----------
    case : Case
    library : str
        A key of ``CALLS[case.call]``.
    data : Data
        What was counted.
    answer : object, optional
        What the library's callable returned for it. None: it is asked now.
    """
    peer, ours = CALLS[case.call][library], CALLS[case.call][OURS]
    if peer.on is not None:
        return ""  # a yardstick: the same call on other values
    if answer is None:
        answer = peer.setup(data)()
    needed = peer.expected is None and peer.counts is not None
    return disagreement(
        peer, data, answer, ours.counts(ours.setup(data)(), data) if needed else np.empty(0)
    )


def missing(peer: Peer) -> str:
    """Name the first module that a peer needs and that is not installed."""
    for module in peer.needs:
        try:
            importlib.import_module(module)
        except ImportError:
            return module
    return ""


def measure(case: Case, benchmark: Any, plan: Plan = FULL, *, tiny: int = 0) -> dict[str, Any]:
    """Time a case.

    Parameters
    ----------
    case : Case
        From `cases.CASES`.
    benchmark : pytest_benchmark.fixture.BenchmarkFixture
        Times our rounds.
    plan : Plan
    tiny : int
        Measure so many elements only: to try the suite out.

    Returns
    -------
    dict
        What the case is, and for each library "median", "min" and "iqr" in seconds for a call, "rounds", "calls"
        in each of them, "elements", "bytes" and "ratio", its median over ours; or "failed" or "skipped", and why.
    """
    table = CALLS[case.call]
    with opened(case.data(tiny=tiny)) as data, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library warns of is not what is measured
        results: dict[str, dict[str, Any]] = {}
        entrants: dict[str, Entrant] = {}
        for library in (OURS, *case.libraries):
            outcome = _enter(case, library, data, plan)
            if isinstance(outcome, Entrant):
                entrants[library] = outcome
            else:
                results[library] = outcome
        if OURS in entrants:
            try:
                _take_turns(benchmark, entrants, data)
            except Exception as error:  # noqa: BLE001  # recorded, reported, and the run goes on
                results[OURS] = {"failed": error_text(error)}
        results |= {
            library: summary(entrant) for library, entrant in entrants.items() if entrant.seconds
        }
        for library in (OURS, *case.libraries):
            results.setdefault(library, {"failed": f"not timed, because {OURS} failed"})
            if table[library].difference:
                results[library]["difference"] = table[library].difference
        described = {"elements": data.elements, "bytes": data.nbytes}
    ours = results[OURS].get("median")
    for result in results.values():
        if ours and "median" in result:
            result["ratio"] = result["median"] / ours
    order = {library: results[library] for library in (OURS, *case.libraries)}
    names = {"name": case.name, "call": case.call, "format": case.format}
    kind = {"model": case.model} if case.model else {"distribution": case.distribution}
    return {**names, **kind, **described, "libraries": order}


def _enter(case: Case, library: str, data: Data, plan: Plan) -> Entrant | dict[str, Any]:
    peer = CALLS[case.call][library]
    if module := missing(peer):
        return {"skipped": f"{module} is not installed"}
    if data.elements > peer.largest:
        return {"skipped": f"measured up to {peer.largest:.0e} elements: {peer.why_not_larger}"}
    try:
        own = peer.on(data) if peer.on else data
        entrant = Entrant(peer.setup(own), own.elements, own.nbytes)
        answer = entrant.run()
        if peer.expected is not None and not case.model and data.elements > HEAD:
            wrong = compare(case, library, data.head())
        else:
            wrong = compare(case, library, data, answer)
        del answer
        if wrong:
            return {"failed": f"its answer is not what it must be: {wrong}"}
        entrant.choose_rounds(plan)
        data.settle()
    except Exception as error:  # noqa: BLE001  # recorded, reported, and the run goes on
        return {"failed": error_text(error)}
    return entrant


def error_text(error: Exception) -> str:
    """Write an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _take_turns(benchmark: Any, entrants: dict[str, Entrant], data: Data) -> None:
    ours = entrants[OURS]
    others = {library: entrant for library, entrant in entrants.items() if library != OURS}
    ours.rounds = max(entrant.rounds for entrant in entrants.values())
    turn = 0

    def between_rounds() -> None:
        # pytest-benchmark makes one call more in the end, for its result; nobody has a turn after it.
        nonlocal turn
        turn += 1
        data.settle()
        for entrant in others.values():
            before, due = ((turn + k) * entrant.rounds // ours.rounds for k in (-1, 0))
            if due > before and turn <= ours.rounds:
                entrant.time_round()
                data.settle()

    benchmark.pedantic(ours.run, rounds=ours.rounds, iterations=ours.calls, teardown=between_rounds)
    if benchmark.stats is not None:  # None with --benchmark-disable
        ours.seconds = list(benchmark.stats.stats.data)


def summary(entrant: Entrant) -> dict[str, Any]:
    """Give what is kept of a library's rounds."""
    return {
        **spread(entrant.seconds),
        "calls": entrant.calls,
        "elements": entrant.elements,
        "bytes": entrant.nbytes,
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Give median, least and interquartile range of some measurements, and how many they are."""
    quarters = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [0, 0, 0]
    )
    return {
        "median": statistics.median(values),
        "min": min(values),
        "iqr": quarters[2] - quarters[0],
        "rounds": len(values),
    }
