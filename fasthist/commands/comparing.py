"""Compare checkpoints or runs tag by tag, runs in several processes: the work of ``fasthist compare``."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.checkpoints import Checkpoint, open_checkpoint
from fasthist.commands.differences import CONSTANT, Difference, difference_of, unit_of
from fasthist.commands.runs import find_run, matching, read_run
from fasthist.commands.terminal import few, progress, say
from fasthist.compute import histogram
from fasthist.distances import distances_of_pairs, wasserstein
from fasthist.errors import ArgumentError, ArrayError, printable
from fasthist.events.restoring import join
from fasthist.hist import Histogram
from fasthist.history import History
from fasthist.tag_series import Series

# Pairs of histograms compared between two checks whether the series have parted.
_BATCH = 64

# Bytes from which other processes are worth while: starting them takes half a second.
_LARGE = 1 << 27


# ---- checkpoints


def compare_checkpoints(paths: Sequence[str], pattern: str | None) -> list[Difference]:
    """Count the tensors of at least two files, and compare the first with the others."""
    checkpoints = [open_checkpoint(path) for path in paths]
    total = sum(entry.nbytes for checkpoint in checkpoints for entry in checkpoint.entries)
    with progress("counting", total, is_bytes=True) as advance:
        first, *others = [_counted(checkpoint, pattern, advance) for checkpoint in checkpoints]
    differences: list[Difference] = []
    for path, checkpoint, other in zip(paths[1:], checkpoints[1:], others, strict=True):
        steps = checkpoints[0].step, checkpoint.step
        common = _common(first, other, paths[0], path, pattern)
        differences += [difference_of(path, t, steps, first[t], other[t]) for t in common]
    return differences


def _counted(
    checkpoint: Checkpoint, pattern: str | None, advance: Callable[[int], None]
) -> dict[str, Histogram]:
    chosen = set(matching([entry.tag for entry in checkpoint.entries], pattern))
    histograms: dict[str, Histogram] = {}
    for entry in checkpoint.entries:
        if entry.tag in chosen:
            try:
                array = entry.load()
                histograms[entry.tag] = histogram(array, buckets="tensorflow", name=entry.tag)
            except ArrayError as error:  # go on with the others
                text = printable(str(error).partition(". Accepted")[0])
                say(f"fasthist: left out {text}", err=True)
        advance(entry.nbytes)
    return histograms


def _common(
    first: Mapping[str, object],
    other: Mapping[str, object],
    path: str,
    other_path: str,
    pattern: str | None,
) -> list[str]:
    """Return the common tags that match the pattern, and report those in only one."""
    chosen = set(matching([*first, *other], pattern))
    common = [tag for tag in first if tag in other and tag in chosen]
    if not common:
        msg = (
            f"{path} and {other_path} have no tag in common. Accepted: runs of one model. "
            f"The first has {few(list(first)) or 'none'}, the other {few(list(other)) or 'none'}."
        )
        raise ArgumentError(msg)
    for name, tags, rest in ((path, first, other), (other_path, other, first)):
        alone = [tag for tag in tags if tag not in rest and tag in chosen]
        if alone:
            say(f"fasthist: only in {name}: {few(alone)}", err=True)
    return common


# ---- runs


def compare_runs(
    paths: Sequence[str],
    pattern: str | None,
    step: int | None,
    threshold: float,
    *,
    skip_corrupt: bool,
) -> list[Difference]:
    """Read at least two runs, and compare the first with the others, at their last common step or nearest to `step`.

    Two series part when their distance exceeds `threshold` standard deviations.
    """
    histories = [find_run(path, skip_corrupt=skip_corrupt) for path in paths]
    sizes = [history.nbytes for history in histories]
    with progress("reading", sum(sizes), is_bytes=True) as advance:
        histories = _in_parallel(_read, [(history,) for history in histories], sizes, advance)
    first, *others = histories
    jobs: list[tuple[str, list[tuple[Series, Series]], int | None, float]] = []
    for path, other in zip(paths[1:], others, strict=True):
        tags = _common(first, other, paths[0], path, pattern)
        pairs = [(first[tag], other[tag]) for tag in tags]
        half = -(-len(pairs) // 2)
        parts = filter(None, (pairs[:half], pairs[half:]))
        jobs += [(path, part, step, threshold) for part in parts]
    amounts = [len(job[1]) for job in jobs]
    large = sum(sizes) > _LARGE
    with progress("comparing", sum(amounts), is_bytes=False) as advance:
        differences = _in_parallel(_compare_series, jobs, amounts, advance, large=large)
    return list(itertools.chain.from_iterable(differences))


def _in_parallel(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    amounts: Sequence[int],
    advance: Callable[[int], None],
    *,
    large: bool | None = None,
) -> list[Any]:
    """Do jobs, all but the last in other processes if there is much to do.

    The bar moves with the last job, and whenever another one is done.
    """
    workers = min(len(jobs), os.cpu_count() or 1) - 1
    if workers < 1 or not (sum(amounts) > _LARGE if large is None else large):
        return [work(*job, advance) for job in jobs]
    # Spawn, since threads may hold locks; the pool ends its processes if this one is interrupted.
    spawned = multiprocessing.get_context("spawn")
    with spawned.Pool(workers, _begin_worker) as pool:
        waited = [pool.apply_async(work, (*job, _nothing)) for job in jobs[:-1]]
        last = work(*jobs[-1], advance)
        results = []
        for answer, amount in zip(waited, amounts[:-1], strict=True):
            results.append(answer.get())
            advance(amount)
    return [*results, last]


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent process, and ignore overflows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    np.seterr(all="ignore")


def _nothing(_: int) -> None:
    """Move no bar."""


def _read(history: History, advance: Callable[[int], None]) -> History:
    read_run(history, advance)
    return history


def _compare_series(
    name: str,
    pairs: list[tuple[Series, Series]],
    step: int | None,
    threshold: float,
    advance: Callable[[int], None],
) -> list[Difference]:
    differences = []
    for a, b in pairs:
        common, places_a, places_b = np.intersect1d(
            a.steps, b.steps, assume_unique=True, return_indices=True
        )
        if common.size:
            i = common.size - 1 if step is None else int(np.abs(common - step).argmin())
            i, j = int(places_a[i]), int(places_b[i])
        else:
            i, j = _nearest(a, step), _nearest(b, step)
        steps = int(a.steps[i]), int(b.steps[j])
        difference = difference_of(name, a.tag, steps, a[i], b[j])
        parted = _first_parted(a, b, places_a, places_b, threshold)
        parts_at = None if parted is None else int(common[parted])
        differences.append(replace(difference, parts_at=parts_at))
        advance(1)
    return differences


def _nearest(series: Series, step: int | None) -> int:
    return len(series) - 1 if step is None else int(np.abs(series.steps - step).argmin())


def _first_parted(
    a: Series, b: Series, places_a: NDArray[np.intp], places_b: NDArray[np.intp], threshold: float
) -> int | None:
    """Return the index of the first step at which the distance exceeds the threshold; None if there is none.

    The distance is at least that of the means: where these are too far apart, no histogram need be read.
    """
    std = a.std[places_a]
    mean = a.mean[places_a]
    units = np.where(std > CONSTANT * np.abs(mean), std, np.nan)
    apart = np.abs(mean - b.mean[places_b]) > threshold * units
    known = int(apart.argmax()) if apart.any() else None
    open_places = np.arange(len(places_a))[:known]
    for begin in range(0, open_places.size, _BATCH):
        batch = open_places[begin : begin + _BATCH]
        distances = _distances(a, b, places_a[batch], places_b[batch])
        # Read a histogram for its unit only if the unit is unknown and there is a distance.
        for k in np.flatnonzero(np.isnan(units[batch]) & (distances > 0)).tolist():
            units[batch[k]] = unit_of(a[int(places_a[batch[k]])], b[int(places_b[batch[k]])])
        parted = distances > threshold * units[batch]
        if parted.any():
            return int(batch[parted.argmax()])
    return known


def _distances(
    a: Series, b: Series, places_a: NDArray[np.intp], places_b: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the Wasserstein distances of pairs, over the files' own buckets; NaN if either has no finite value."""
    distances = np.full(places_a.size, np.nan)
    joined_a, joined_b = join(a.forms(places_a)), join(b.forms(places_b))
    quick, i, j = np.intersect1d(
        joined_a.places, joined_b.places, assume_unique=True, return_indices=True
    )
    if quick.size:
        distances[quick] = distances_of_pairs(joined_a, joined_b, np.column_stack((i, j)))
    for k in np.flatnonzero(np.isnan(distances)).tolist():
        first, other = a[int(places_a[k])], b[int(places_b[k])]
        if first.num and other.num:
            distances[k] = wasserstein(first, other)
    return distances
