"""How commands open what they are told: a run, or all below a directory, and some of its tags."""

from __future__ import annotations

import re
from collections.abc import Callable

from fasthist.commands.terminal import few
from fasthist.errors import ArgumentError
from fasthist.events.stored import is_dir, join, names_in
from fasthist.history import History, find_runs


def find_run(path: str, *, skip_corrupt: bool) -> History:
    """Find the run that a path names, and read nothing yet.

    Parameters
    ----------
    path : str
        A directory with event files, or with one such directory in it, or an event file; or the URL of one of these.
    skip_corrupt : bool

    Raises
    ------
    ArgumentError
        There is none, or there are several.
    """
    found = find_all_runs(path, skip_corrupt=skip_corrupt)
    if "." in found:
        return found["."]
    if len(found) > 1:
        names = few([join(path, name) for name in found], 8)
        msg = f"{path} holds {len(found)} runs. Accepted: one. Name one of: {names}."
        raise ArgumentError(msg)
    return next(iter(found.values()))


def find_all_runs(path: str, *, skip_corrupt: bool) -> dict[str, History]:
    """Find every run below a path, by name, and read nothing yet.

    Raises
    ------
    ArgumentError
        There is none.
    """
    if is_checkpoint(path):
        raise ArgumentError(_CHECKPOINT.format(path=path, files=path))
    try:
        return find_runs(path, skip_corrupt=skip_corrupt)
    except ArgumentError:
        inside = [join(path, name) for name in names_in(path)] if is_dir(path) else []
        if files := sorted(filter(is_checkpoint, inside)):
            raise ArgumentError(_CHECKPOINT.format(path=path, files=files[0])) from None
        raise


_CHECKPOINT = (
    "{path} is a checkpoint and not a run. Accepted: a directory of event files, or one of them. "
    "Write its histograms to a run first: fasthist log {files} --log-dir runs/weights."
)


def is_checkpoint(path: str) -> bool:
    """Whether a path is that of a file whose name ends like a checkpoint's."""
    from fasthist.checkpoints import OPENERS

    name = path.rstrip("/").rpartition("/")[2].lower()
    # An event file's name may end in anything, but a checkpoint's does not hold this.
    return name.endswith(tuple(OPENERS)) and "tfevents" not in name and not is_dir(path)


def read_run(history: History, advance: Callable[[int], None]) -> None:
    """Read a run, which must hold histograms; errors as those of `read_runs`."""
    read_runs({history.run: history}, advance)


def read_runs(runs: dict[str, History], advance: Callable[[int], None]) -> dict[str, History]:
    """Read runs; return those that hold histograms.

    Raises
    ------
    ArgumentError
        None does.
    EventFileError, OSError
        One cannot be read.
    """
    for history in runs.values():
        history.refresh(advance)
    filled = {name: history for name, history in runs.items() if history}
    if not filled:
        path = next(iter(runs.values())).path
        below = [join(path, run) for run in find_runs(path) if run != "." and run not in runs]
        hint = f"Name one of the runs below: {few(below, 8)}." if below else "Were any flushed?"
        msg = f"{path} holds no histograms. Accepted: event files with at least one. {hint}"
        raise ArgumentError(msg)
    return filled


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
