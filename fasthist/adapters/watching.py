"""Shared by all adapters: which tensors to log, at which steps, under which tags."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from types import FrameType
from typing import Any

from fasthist.errors import ArgumentError, FasthistError, compiled

KINDS = ("weights", "gradients", "updates", "activations")
"""Kinds of tensors, each the first part of its tags: ``weights/<name>``. An update is what a step adds to a weight."""

Pattern = str | re.Pattern[str] | None


def parse_log(log: str | Iterable[str], accepted: Iterable[str] = KINDS) -> tuple[str, ...]:
    """Return the kinds of tensors that a caller asked for, in the order of `accepted`; ArgumentError for any other."""
    accepted = tuple(accepted)
    asked = {log} if isinstance(log, str) else set(log)
    if "all" in asked:
        asked = asked - {"all"} | set(accepted) - {"activations"}
    if not asked or not asked <= set(accepted):
        msg = f'log={log!r} is not known. Accepted: "all", or some of {", ".join(map(repr, accepted))}.'
        raise ArgumentError(msg)
    return tuple(kind for kind in accepted if kind in asked)


def caller(kind: type) -> Any:
    """Return the ``self`` of the nearest caller that is an instance of a class, or None.

    Keras and transformers do not tell a callback which list it is in, or whose.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if issubclass(type(owner), kind):
            return owner
        frame = frame.f_back
    return None


_EVERY = re.compile(r"freq|interval|period|every|n_steps|_steps$")


def refuse_unknown(arguments: Iterable[str], accepted: str) -> None:
    """Raise ArgumentError for unknown arguments; for those of other libraries, name the equivalent."""
    for name in arguments:
        hint = f" Hint: {name} is every= here, a number of steps." if _EVERY.search(name) else ""
        msg = f"{name}= is not an argument. Accepted: {accepted}.{hint}"
        raise ArgumentError(msg)


def countable(tree: Any, warned: set[str]) -> dict[str, Any]:
    """Flatten a tree to tags, without tensors that cannot be counted; warn once per tag, remembered in `warned`."""
    from fasthist.hist import Histogram
    from fasthist.intake import read
    from fasthist.sharding import local_part
    from fasthist.tree import named_leaves

    kept = {}
    for tag, leaf in named_leaves(tree).items():
        try:
            if not isinstance(leaf, Histogram):
                read(local_part(leaf, tag), tag)
        except FasthistError as error:
            if tag not in warned:
                warned.add(tag)
                warnings.warn(f"fasthist: left out, and the rest is logged: {error}", stacklevel=3)
        else:
            kept[tag] = leaf
    return kept


def distinct(names: Iterable[str]) -> list[str]:
    """Make names unique: Keras and TensorFlow allow layers with the same name, and so variables with the same path.

    >>> distinct(["dense", "norm", "dense"])
    ['dense', 'norm', 'dense_1']
    """
    unique: dict[str, None] = {}
    for name in names:
        free, count = name, 0
        while free in unique:
            count += 1
            free = f"{name}_{count}"
        unique[free] = None
    return list(unique)


class Selection:
    """Tags chosen by regular expressions, searched for anywhere in the tag; ArgumentError if one is invalid.

    A tag is chosen if it matches `include`, if any, and not `exclude`.
    """

    def __init__(self, include: Pattern = None, exclude: Pattern = None) -> None:
        self._include = compiled("" if include is None else include, f"{include=}")
        self._exclude = None if exclude is None else compiled(exclude, f"{exclude=}")

    def __contains__(self, tag: str) -> bool:
        if not self._include.search(tag):
            return False
        return self._exclude is None or not self._exclude.search(tag)


class Schedule:
    """Decide at which steps to log: the first one, then whenever a multiple of `every` is reached or passed.

    The distance of the last two steps predicts whether the next is due, so hooks and copies are made only for steps that
    are logged. A jump of the steps delays a log by one call at most.

    `due` is about the next step; `step` is the last one, -1 before the first.
    """

    def __init__(self, every: int) -> None:
        if every < 1:
            msg = f"every={every!r} must be a number of steps. Accepted: an integer from 1 on."
            raise ArgumentError(msg)
        self.every = every
        self.due = True
        self.step = -1
        self._logged = -1

    def advance(self, step: int | None = None) -> int:
        """Note that a step is done, and return its number: `step`, or one more than the last."""
        step = self.step + 1 if step is None else int(step)
        stride = max(step - self.step, 1) if self.step >= 0 else 1
        if self.due:
            self._logged = step
        self.step = step
        self.due = (step + stride) // self.every != self._logged // self.every
        return step
