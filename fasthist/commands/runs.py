"""How commands open what they are told: one run for each path, and some of its tags."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fasthist.commands.terminal import few
from fasthist.errors import ArgumentError
from fasthist.history import History, find_runs


def find_run(path: Path, *, skip_corrupt: bool) -> History:
    """Find the run that a path names, and read nothing yet.

    Parameters
    ----------
    path : Path
        A directory with event files, or with one such directory in it, or an event file.
    skip_corrupt : bool

    Raises
    ------
    ArgumentError
        There is none, or there are several.
    """
    found = find_runs(path, skip_corrupt=skip_corrupt)
    if "." in found:
        return found["."]
    if len(found) > 1:
        names = few([str(path / name) for name in found], 8)
        msg = f"{path} holds {len(found)} runs. Accepted: one. Name one of: {names}."
        raise ArgumentError(msg)
    return next(iter(found.values()))


def read_run(history: History, advance: Callable[[int], None]) -> None:
    """Read a run, which must hold histograms.

    Raises
    ------
    ArgumentError
        It holds none.
    EventFileError, OSError
        It cannot be read.
    """
    history.refresh(advance)
    if not history:
        below = [str(Path(history.path, run)) for run in find_runs(history.path) if run != "."]
        hint = f"Name one of the runs below: {few(below, 8)}." if below else "Were any flushed?"
        msg = f"{history.path} holds no histograms. Accepted: event files with at least one. {hint}"
        raise ArgumentError(msg)


def matching(tags: list[str], pattern: str | None) -> list[str]:
    """Give the tags in which a regular expression is found; all without one.

    Raises
    ------
    ArgumentError
        It is none, or is found in no tag.
    """
    if pattern is None:
        return tags
    try:
        found = [tag for tag in tags if re.search(pattern, tag)]
    except re.error as error:
        msg = f"--tag={pattern!r} is no regular expression: {error}."
        raise ArgumentError(msg) from error
    if not found:
        msg = f"--tag={pattern!r} is found in none of {len(tags)} tags. There are: {few(tags, 5)}."
        raise ArgumentError(msg)
    return found
