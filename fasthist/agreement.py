"""Sum the histograms of one step over ranks, on any engine, or raise the same mismatch error on all.

Before anything else the ranks compare a digest of what they are about to add up. If one of them has something else,
or nothing, all of them raise the difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError, listed
from fasthist.stacked import Histograms, Stacked

_NAMED = 3
"""Most differences that an error names for one rank."""

Description = dict[str, Any]
"""The call, the step, and what must be the same for each tag."""


class Engine(Protocol):
    """Carries numbers between ranks; each method is one collective, called on all of them."""

    rank: int
    first: int  # the rank that the others are compared with, as errors name it
    size: int  # how many ranks there are

    def least(self, numbers: Any) -> Any:
        """Return the minimum over the ranks of each element: float64[n] or int64[n]."""

    def add(self, numbers: NDArray[np.int64]) -> Callable[[], NDArray[np.int64] | None]:
        """Start to add up int64[n]; return a function that waits for the sums, None on a rank that does not get them."""

    def spread(self, text: str) -> str:
        """Return the first rank's text."""

    def gather(self, text: str) -> list[str]:
        """Return the texts of all ranks."""


class Reduction:
    """Sums under way."""

    def __init__(self, wait: Callable[[], NDArray[np.int64] | None], stacked: Stacked) -> None:
        self._wait = wait
        self._stacked = stacked

    def wait(self) -> Histograms | None:
        """Wait for the sums: histograms by tag, or None on a rank that does not get them."""
        sums = self._wait()
        return None if sums is None else self._stacked.received(sums)


def begin(engine: Engine, find: Callable[[], Any], call: str, step: int | None) -> Reduction:
    """Start to add up histograms over all ranks: two collectives, and a third to wait for later.

    If `find` raises on one rank, or ranks differ, all others raise ArgumentError. `call`, the caller's name in errors, and
    `step` must be the same on every rank.
    """
    try:
        stacked = Stacked(find())
        mine = {"call": call, "step": step, "tags": stacked.described()}
        said = json.dumps(mine, default=str)
    except Exception as error:
        _check(engine, None, "null", error)  # otherwise the others would wait for this rank
        raise
    _check(engine, mine, said, None)
    stacked.agree(engine.least(stacked.bounds()), engine.size)
    return Reduction(engine.add(stacked.sums()), stacked)


def _check(engine: Engine, mine: Description | None, said: str, failure: Exception | None) -> None:
    """Raise an error on every rank if one of them has failed, or is about to reduce something else."""
    digest = hashlib.blake2b(said.encode(), digest_size=8).digest()
    number = int.from_bytes(digest) >> 2  # so that its negative fits too
    check = np.array([number, -number, -int(mine is None)])
    least, most, failed = engine.least(check).tolist()
    if least == -most and not failed:
        return
    # From here on the step fails anyway, so time does not matter: all compare with the first rank.
    theirs: Description | None = json.loads(engine.spread(said))
    told = ""
    if mine is None:
        told = f"Rank {engine.rank}: {failure}"
    elif theirs is not None and not failed:
        told = "; ".join(_differences(engine, mine, theirs))
    texts = [text for text in engine.gather(told) if text]
    if failed:
        msg = (
            f"nothing was added up, since not every rank has histograms. {' '.join(texts[:_NAMED])}"
        )
        raise ArgumentError(msg) from failure
    msg = (
        f"the ranks do not agree: {'; '.join(texts[:_NAMED])}. "
        "Accepted: the same tags, buckets and step on every rank. "
        'Hint: log what a rank lacks as histogram([]) there; buckets="tensorflow" are the same everywhere.'
    )
    raise ArgumentError(msg)


def _differences(engine: Engine, mine: Description, theirs: Description) -> list[str]:
    """Describe how this rank's description differs from the first rank's."""
    rank, first = engine.rank, engine.first
    differences = [
        f"rank {rank} has {key} {mine[key]}, rank {first} {theirs[key]}"
        for key in ("call", "step")
        if mine[key] != theirs[key]
    ]
    here, there = mine["tags"], theirs["tags"]
    for tags, others, verb, other in ((there, here, "lacks", "has"), (here, there, "has", "lacks")):
        if unshared := [repr(tag) for tag in tags if tag not in others]:
            text = f"rank {rank} {verb} {listed(unshared, _NAMED)}, which rank {first} {other}"
            differences.append(text)
    changed = [tag for tag in here if tag in there and here[tag] != there[tag]]
    differences += [
        f"{tag!r} is {here[tag]} on rank {rank}, {there[tag]} on rank {first}"
        for tag in changed[:_NAMED]
    ]
    return differences
