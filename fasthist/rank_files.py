"""The event files that the ranks of a run wrote: which rank each belongs to, their contents and sum.

A rank has a directory of its own, or a ``filename_suffix`` of its own in a shared one. Its files are read twice, in the
order of their names: for their contents, and to add them up. Memory holds the tags and steps, about 1 MB for each rank,
and the histograms that some rank has not come to yet: few, if the ranks log in the same order. If a rank has written
a step twice, as after a restart, the last counts.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.display import contiguous
from fasthist.errors import ArgumentError, BucketsError
from fasthist.events.reader import ReadHistogram, read
from fasthist.hist import Histogram
from fasthist.outline import Part, merge_outlines

Key = tuple[str, int]
"""A tag and a step."""

# What follows process and counter: fasthist's counter has six digits, torch's and TensorFlow's any number.
_OURS = re.compile(r"\.\d+\.0\d{5}(?!\d)(.*)$")
_OTHERS = re.compile(r"\.\d+\.\d+((?:[^\d.].*|\.\D.*)?)$")
_PAUSE = 10.0
"""Seconds allowed between two runs whose names differ only in a number, as those of ranks may."""

_NUMBERED = re.compile(r"(.*rank\D?)(\d+)(.*)", re.IGNORECASE)


class Rank(NamedTuple):
    """A rank: the name that tells its files apart, and its files in order."""

    name: str
    paths: list[Path]


@dataclass
class Index:
    """What the files of all ranks hold, by tag and step.

    `again` counts how often a rank (by number), tag and step occurs before the one that counts; `spans` holds the wall
    times of each rank's first and last histogram.
    """

    holders: dict[Key, int] = field(default_factory=dict)  # ranks, as bits
    sizes: dict[Path, int] = field(default_factory=dict)  # histograms in each file
    again: Counter[tuple[int, str, int]] = field(default_factory=Counter)
    spans: dict[int, tuple[float, float]] = field(default_factory=dict)


def find_ranks(directory: Path) -> list[Rank]:
    """Group the event files in a directory, and in those in it, by rank; ArgumentError if that is not possible."""
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "is not there"
        msg = f"{directory} {what}. Accepted: a directory with the ranks' event files."
        raise ArgumentError(msg)
    files: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(directory.rglob("*tfevents*")):
        if path.is_file():
            place = path.parent.relative_to(directory).as_posix()
            files.setdefault((place, _suffix(path.name)), []).append(path)
    places: dict[str, str] = {}
    ranks = []
    for (place, suffix), paths in files.items():
        if suffix and (other := places.setdefault(suffix, place)) != place:
            msg = (
                f"{directory}: both {other} and {place} have files that end in {suffix!r}. Accepted: the files of a rank in "
                "one directory. Hint: merge the runs one by one."
            )
            raise ArgumentError(msg)
        name = "/".join(part for part in (place.strip("."), suffix) if part) or "."
        ranks.append(Rank(name, paths))
    if not ranks:
        msg = f"{directory} has no event files. Accepted: a directory with those of the ranks."
        raise ArgumentError(msg)
    if len(ranks) == 1:
        msg = (
            f"{directory} has the files of one rank, {ranks[0].name!r}. Accepted: two ranks or more. Hint: give each rank a "
            'directory or an end of file names of its own, as in SummaryWriter(log_dir, filename_suffix=".rank3").'
        )
        raise ArgumentError(msg)
    return sorted(ranks, key=lambda rank: _natural(rank.name))


def _suffix(name: str) -> str:
    match = _OURS.search(name) or _OTHERS.search(name)
    # Writers without a process number (tensorboardX) tell ranks apart by all that comes after the time.
    suffix = match[1] if match else name.partition("tfevents")[2].lstrip(".0123456789")
    return suffix.removesuffix(".v2")  # which TensorFlow appends


def _natural(name: str) -> list[str | int]:
    """Return a sort key that puts rank10 behind rank9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def lost_ranks(ranks: list[Rank]) -> list[str]:
    """Name the ranks that are missing from those numbered with the word "rank", such as .rank0 and .rank2."""
    matches = [_NUMBERED.fullmatch(rank.name) for rank in ranks]
    numbers = {int(match[2]) for match in matches if match}
    begins = {(match[1], match[3]) for match in matches if match}
    if None in matches or len(begins) != 1:
        return []
    ((before, after),) = begins
    missing = sorted(set(range(max(numbers))) - numbers)
    return [f"{before}{number}{after}" for number in missing]


def look_through(ranks: list[Rank], advance: Callable[[int], None]) -> Index:
    """Read all files for their contents, reporting the bytes of each; ArgumentError if there is no histogram."""
    index = Index()
    for number, rank in enumerate(ranks):
        for path in rank.paths:
            size = 0
            for item in read(path):
                key = (item.tag, item.step)
                holders = index.holders.get(key, 0)
                if holders >> number & 1:
                    index.again[number, item.tag, item.step] += 1
                index.holders[key] = holders | 1 << number
                begin, end = index.spans.get(number, (item.wall_time, item.wall_time))
                index.spans[number] = min(begin, item.wall_time), max(end, item.wall_time)
                size += 1
            index.sizes[path] = size
            advance(path.stat().st_size)
    if not index.holders:
        msg = f"there is no histogram in the {len(ranks)} ranks' files. Accepted: files that hold some."
        raise ArgumentError(msg)
    return index


def check_one_run(ranks: list[Rank], index: Index, *, allow_missing: bool) -> None:
    """Raise ArgumentError for files of two runs, unless their names number them with the word "rank".

    Ranks log at the same time, and mostly the same tags (not checked with `allow_missing`). The times of ranks that log
    only one step prove nothing: they may be the parts of a checkpoint, which are logged one after the other.
    """
    if all(_NUMBERED.fullmatch(rank.name) for rank in ranks):
        return
    tags: list[set[str]] = [set() for _ in ranks]
    steps: list[set[int]] = [set() for _ in ranks]
    for (tag, step), holders in index.holders.items():
        for number in range(len(ranks)):
            if holders >> number & 1:
                tags[number].add(tag)
                steps[number].add(step)
    order = sorted(index.spans, key=index.spans.__getitem__)
    last = order[0]
    for number in order[1:]:
        earlier, later = ranks[last].name, ranks[number].name
        # One process may write for one rank after the other, as tests do; it then names them alike.
        alike = re.sub(r"\d+", "0", earlier) == re.sub(r"\d+", "0", later)
        pause = index.spans[number][0] - index.spans[last][1]
        common = tags[last] & tags[number]
        problem = ""
        if pause > alike * _PAUSE and min(len(steps[last]), len(steps[number])) > 1:
            problem = f"{earlier} ended before {later} began"
        elif not allow_missing and 2 * len(common) < len(tags[last] | tags[number]):
            problem = f"most tags of {earlier} and {later} are not in both"
        if problem:
            msg = (
                f"{problem}, so they look like two runs. Accepted: the files of the ranks of one run. Hint: compare runs "
                "with fasthist compare; if they are ranks, call their directories rank0, rank1 and so on."
            )
            raise ArgumentError(msg)
        last = max(last, number, key=lambda rank: index.spans[rank][1])


def collected(ranks: list[Rank], index: Index, chosen: set[Key]) -> Iterator[list[ReadHistogram]]:
    """Yield each rank's histogram of every chosen tag and step, in the order of the first rank's files."""
    again = index.again.copy()
    waiting: dict[Key, dict[int, ReadHistogram]] = {}

    def last_ones(number: int) -> Iterator[ReadHistogram]:
        for path in ranks[number].paths:
            # Skip what has been written since the index was made.
            for item in itertools.islice(read(path), index.sizes[path]):
                if again[number, item.tag, item.step]:
                    again[number, item.tag, item.step] -= 1
                elif (item.tag, item.step) in chosen:
                    yield item

    def joined(number: int, item: ReadHistogram) -> list[ReadHistogram] | None:
        key = (item.tag, item.step)
        parts = waiting.setdefault(key, {})
        parts[number] = item
        if len(parts) < index.holders[key].bit_count():
            return None
        del waiting[key]
        return [parts[number] for number in sorted(parts)]

    streams = [last_ones(number) for number in range(len(ranks))]
    for first, stream in enumerate(streams):
        for item in stream:
            if whole := joined(first, item):
                yield whole
            key = (item.tag, item.step)
            for number, other in enumerate(streams):
                holds = index.holders[key] >> number & 1
                # A complete set of histograms is no longer waiting.
                while holds and number not in waiting.get(key, {number: 0}):
                    met = next(other, None)
                    if met is None:
                        msg = (
                            f"the files of {ranks[number].name} became shorter while they were read. "
                            "Accepted: files that do not change meanwhile. Hint: merge again."
                        )
                        raise ArgumentError(msg)
                    if whole := joined(number, met):
                        yield whole


def added(parts: list[Histogram]) -> Histogram:
    """Add up histograms from files, of disjoint values and without an outline; BucketsError if counts are fractional.

    `num`, special values, extremes and sums follow the rules of ``+``. If all buckets can be TensorFlow's, the counts are
    exact. Otherwise the sum has an outline made of the parts' buckets, with the values of a bucket spread evenly: the share
    below any value is within 2 % of that of all values if the parts are outlines.
    """
    if any(part.counts.dtype.kind == "f" for part in parts):
        msg = "counts that are not whole numbers, or beyond 2**53, cannot be added. Accepted: whole counts."
        raise BucketsError(msg)
    filled = [part for part in parts if part.num]
    placed = [_placed(part) for part in filled]
    plain = [part for part in placed if part is not None]
    if len(plain) == len(filled) and any(len(part.buckets) > 1 for part in filled):
        zeros = np.zeros(len(_LIMITS), "u8")
        return _sum([*plain, *(_over(_LIMITS, part, zeros) for part in parts if not part.num)])
    whole = _sum([_over(_ANY, part, np.array([part.num], "u8")) for part in parts])
    if not filled:
        return whole
    rows = merge_outlines([_outline(part) for part in filled])
    edges, counts = contiguous(rows)
    low, high = edges[[0, -1]].tolist()
    buckets = Buckets(edges) if low < high else uniform_buckets(1, low, high)
    return replace(whole, buckets=buckets, counts=counts.astype("u8"), outlined=rows)


_LIMITS = tensorflow_buckets()
_ANY = Buckets(np.array([0.0, 1.0]))


def _sum(parts: list[Histogram]) -> Histogram:
    return sum(parts[1:], parts[0])


def _over(buckets: Buckets, part: Histogram, counts: NDArray[np.uint64]) -> Histogram:
    return replace(part, buckets=buckets, counts=counts)


def _placed(part: Histogram) -> Histogram | None:
    """Put counts back into TensorFlow's buckets, if each bucket of a file can only be one of those."""
    limits, edges = _LIMITS.edges, part.buckets.edges
    low, high = part.min, part.max
    if low == high and low is not None:
        edges = np.array([low, low])
    elif edges[-1] in limits and edges[-2] not in limits:
        # The largest value is itself a limit: values equal to it have a narrow bucket before it.
        edges = np.append(edges[:-2], edges[[-1, -1]])
    filled = part.counts.nonzero()[0]
    place = _LIMITS.index(edges[filled])
    if not (np.isin(edges[1:-1], limits).all() and (edges[filled + 1] <= limits[place + 1]).all()):
        return None
    counts = np.zeros(len(_LIMITS), dtype=np.uint64)
    np.add.at(counts, place, part.counts[filled])
    return replace(part, buckets=_LIMITS, counts=counts)


def _outline(part: Histogram) -> Part:
    rows = part.to_rows()
    return rows, rows.item(0), rows.item(-2)


def incomplete(ranks: list[Rank], index: Index) -> list[str]:
    """Describe which tags and steps some ranks lack, in a line for each tag and set of ranks."""
    everyone = (1 << len(ranks)) - 1
    lacking: dict[tuple[int, str], list[int]] = {}
    for (tag, step), holders in index.holders.items():
        if holders != everyone:
            lacking.setdefault((holders, tag), []).append(step)
    lines = []
    for (holders, tag), steps in lacking.items():
        missing = [rank.name for number, rank in enumerate(ranks) if not holders >> number & 1]
        where = f"step {steps[0]}"
        if len(steps) > 1:
            where = f"{len(steps)} steps, {min(steps)} to {max(steps)}"
        lines.append(f"{tag} at {where}: not in the files of {', '.join(missing)}")
    return lines
