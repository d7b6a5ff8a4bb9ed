"""Open the runs that a command names, and choose tags."""

from __future__ import annotations

from collections.abc import Callable

from fasthist.commands.terminal import few
from fasthist.errors import ArgumentError, compiled
from fasthist.events.stored import is_dir, join, names_in
from fasthist.history import History, find_runs


def find_run(path: str, *, skip_corrupt: bool) -> History:
    """Find the run that a path names, without reading it; ArgumentError if there is none, or several."""
    runs = find_all_runs(path, skip_corrupt=skip_corrupt)
    if "." in runs:
        return runs["."]
    if len(runs) > 1:
        names = few([join(path, name) for name in runs], 8)
        msg = f"{path} holds {len(runs)} runs. Accepted: one. Name one of: {names}."
        raise ArgumentError(msg)
    return next(iter(runs.values()))


def find_all_runs(path: str, *, skip_corrupt: bool) -> dict[str, History]:
    """Find every run below a path, by name, without reading it; ArgumentError if there is none."""
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
    """Return whether a path is that of a file whose name ends like a checkpoint's."""
    from fasthist.checkpoints import OPENERS

    name = path.rstrip("/").rpartition("/")[2].lower()
    # The name of an event file may end in anything.
    return name.endswith(tuple(OPENERS)) and "tfevents" not in name and not is_dir(path)


def read_run(history: History, advance: Callable[[int], None]) -> None:
    """Read a run; ArgumentError if it holds no histograms."""
    read_runs({history.run: history}, advance)


def read_runs(runs: dict[str, History], advance: Callable[[int], None]) -> dict[str, History]:
    """Read runs and return those that hold histograms; ArgumentError if none does."""
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
    """Return the tags that match a regular expression; ArgumentError if it is invalid or matches none."""
    if pattern is None:
        return tags
    expression = compiled(pattern, f"--tag={pattern!r}")
    chosen = [tag for tag in tags if expression.search(tag)]
    if not chosen:
        msg = f"--tag={pattern!r} is found in none of {len(tags)} tags. There are: {few(tags, 5)}."
        raise ArgumentError(msg)
    return chosen
