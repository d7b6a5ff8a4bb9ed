"""What adding up over ranks costs: ``bench_results/ranks.json`` for people, and what follows for more ranks than were measured.

The formulas are those of the README. Bytes and collectives are exact; times are a model, of a ring (Gloo) or a tree (NCCL)
whose every message takes `MESSAGE` and `BYTE`.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from results import cut, significant

FILE = "ranks.json"
COMMAND = "python benchmarks/ranks.py"

AGREEMENT, BOUNDS, NUMBERS = 3 * 8, 14 * 8, 21 * 8
"""Bytes of the first collective, and of each tensor in the second and the third, beside its counts."""

MESSAGE, BYTE = 20e-6, 1 / 12.5e9
"""Seconds: a message between two hosts of a cluster, and a byte on a link of 100 Gbit/s. Assumed, not measured."""

MANY = (1024, 10_000)


def bytes_of(tensors: int, counts: float, *, narrow: bool = True) -> float:
    """Give the bytes that a rank hands to its engine for a step.

    Parameters
    ----------
    tensors : int
    counts : float
        Of each tensor, in the spans that some rank has used.
    narrow : bool
        Whether no tensor has ``2**31 / ranks`` values or more on any rank.
    """
    return AGREEMENT + tensors * (BOUNDS + NUMBERS + counts * (4 if narrow else 8))


def sent_in_ring(size: float, ranks: int) -> float:
    """Give the bytes that a rank sends: each part goes round once to be added up, and once as the result."""
    return 2 * (ranks - 1) / ranks * size


def messages(ranks: int, *, ring: bool) -> int:
    """Give how many messages follow one another in three collectives."""
    return 3 * 2 * (ranks - 1 if ring else math.ceil(math.log2(ranks)))


def text_of(path: Path) -> str:
    """Write both tables, or that nothing was measured.

    Raises
    ------
    ValueError
        The file holds something else.
    """
    if not path.exists():
        return f"Not measured yet: `{COMMAND}`."
    try:
        found = json.loads(path.read_text("utf-8"))
        tensors = found["tensors"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not a file of {COMMAND}. Hint: move it away."
        raise ValueError(msg) from error
    state = " with changes not committed" if found["dirty"] else ""
    about = (
        f"{tensors:,} float32 histograms on each rank, over Gloo; {found['cpu']}, {found['cores']} cores, so that more ranks "
        f"take turns; {found['date'][:10]}, commit {found['commit']}{state}, torch {found['versions'].get('torch', '?')}. "
        f"Medians of {len(found['rows'][0]['seconds']['ours'])}, each beside the others."
    )
    assumed = (
        f"The same {tensors:,} tensors by the formulas, if a message takes {MESSAGE * 1e6:.0f} µs and a link carries "
        f"{1e-9 / BYTE:.1f} GB/s, which is assumed:"
    )
    head = (
        "| values | ranks | a rank sends | `all_reduce` | its collectives alone | its work alone | one of as many bytes "
        "| one of all counts |"
    )
    lines = [about, "", head, "|---|---|---|---|---|---|---|---|"]
    lines += map(_measured_row, found["rows"])
    lines += ["", assumed, ""]
    lines += [
        "| values | ranks | a rank sends | messages in a row | time |",
        "|---|---|---|---|---|",
    ]
    lines += [
        _modelled_row(row, ranks, tensors)
        for row in found["rows"]
        if row["processes"] == max(other["processes"] for other in found["rows"])
        for ranks in MANY
    ]
    return "\n".join(lines)


def _measured_row(row: dict[str, Any]) -> str:
    times = {name: statistics.median(each) for name, each in row["seconds"].items()}
    sent = sent_in_ring(sum(row["bytes"]), row["processes"])
    others = [
        f"{_text(times[name])} ({significant(cut(times['ours'] / times[name]))}x)"
        for name in ("same", "whole")
    ]
    cells = [
        row["values"],
        str(row["processes"]),
        f"{sent / 1e6:.1f} MB",
        *(_text(times[name]) for name in ("ours", "three", "local")),
        *others,
    ]
    return f"| {' | '.join(cells)} |"


def _modelled_row(row: dict[str, Any], ranks: int, tensors: int) -> str:
    counts = (sum(row["bytes"]) - bytes_of(tensors, 0)) / tensors / 4
    work = statistics.median(row["seconds"]["local"])
    sent = sent_in_ring(bytes_of(tensors, counts), ranks)
    wide = sent_in_ring(bytes_of(tensors, counts, narrow=False), ranks)
    rounds = {way: messages(ranks, ring=way == "ring") for way in ("ring", "tree")}
    times = {way: work + count * MESSAGE + sent * BYTE for way, count in rounds.items()}
    cells = [
        row["values"],
        f"{ranks:,}",
        f"{sent / 1e6:.1f} MB; {wide / 1e6:.1f} MB from {2**31 / ranks:,.0f} values of a tensor on a rank",
        ", ".join(f"{count:,} ({way})" for way, count in rounds.items()),
        ", ".join(f"{_text(time)} ({way})" for way, time in times.items()),
    ]
    return f"| {' | '.join(cells)} |"


def _text(seconds: float) -> str:
    return f"{significant(seconds)} s" if seconds >= 1 else f"{significant(seconds * 1e3)} ms"
