"""Read the files of past runs, and write their numbers for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS = "fasthist"


class NotMeasured(Exception):
    """A number is not in a run; the text says why."""


class Run:
    """What one run of the suite measured.

    Parameters
    ----------
    content : dict
        A result file, see `run.main`.
    parts : sequence of dict
        Those of later runs of a choice of cases, which stand in the place of the older ones.
    """

    def __init__(self, content: dict[str, Any], parts: Sequence[dict[str, Any]] = ()) -> None:
        self.content = content
        self.parts = parts
        self.records = {
            record["name"]: record
            for run in (content, *parts)
            for record in run["cases"] + run["figures"]
        }

    def result(self, name: str, library: str = OURS) -> dict[str, Any]:
        """Give what is known of a library in a case or figure.

        Raises
        ------
        NotMeasured
            The case is not in this run, or the library failed or was skipped in it.
        """
        found = self.records.get(name, {"libraries": {}})["libraries"].get(library)
        if found is None:
            msg = "not measured"
            raise NotMeasured(msg)
        if "median" not in found:
            raise NotMeasured(told(found))
        return found

    def median(self, name: str, library: str = OURS) -> float:
        """Give a median: seconds, or what the figure's unit is."""
        return self.result(name, library)["median"]

    def ratio(self, name: str, library: str) -> float:
        """Give how many times as long as ours a library took, by the medians of interleaved rounds."""
        return self.median(name, library) / self.median(name)

    def rate(self, name: str, library: str = OURS) -> float:
        """Give elements for a second."""
        found = self.result(name, library)
        return found["elements"] / found["median"]

    def failures(self) -> list[str]:
        """List everything that failed, with its error."""
        return [
            f"{name}, {library}: {found['failed']}"
            for name, record in self.records.items()
            for library, found in record["libraries"].items()
            if "failed" in found
        ]

    @property
    def title(self) -> str:
        """Say when, where and with what the run was made."""
        about = self.content
        state = " with changes not committed" if about["dirty"] else ""
        threads = ", ".join(f"{name} {count}" for name, count in about["threads"].items())
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        kind = "short suite" if about["quick"] else "whole suite"
        return (
            f"{about['cpu']}, {about['cores']} cores (threads: {threads}), {about['system']}; "
            f"{about['date'][:10]}, commit {about['commit']}{state}, {kind} in {about['seconds']:.0f} s. "
            f"{versions}." + "".join(map(_told_part, self.parts))
        )


def _told_part(part: dict[str, Any]) -> str:
    state = " with changes not committed" if part["dirty"] else ""
    count = len(part["cases"]) + len(part["figures"])
    return f" {count} cases measured again on {part['date'][:10]}, commit {part['commit']}{state}."


def told(found: dict[str, Any]) -> str:
    """Say why a library has no time."""
    return next(f"{key}: {found[key]}" for key in ("failed", "skipped") if key in found)


def newest(results: Path) -> list[Run]:
    """Read each machine's newest whole run, or short one where there is no other.

    Parameters
    ----------
    results : Path
        The folder that has one folder for each machine.

    Returns
    -------
    list of Run
        The newest first, each with later runs of a choice of cases. Runs on few elements are not looked at.
    """
    chosen = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        runs = [
            json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
        ]
        runs = [
            run for run in runs if "cases" in run and not run["tiny"]
        ]  # else another benchmark's
        full = [run for run in runs if not run["only"]]
        # max() keeps the first of equals; of two runs in one second the later has the later name.
        whole = [run for run in full if not run["quick"]] or full
        if whole:
            last = max(reversed(whole), key=lambda run: run["date"])
            parts = [
                run
                for run in runs
                if run["only"] and not run["quick"] and run["date"] > last["date"]
            ]
            chosen.append(Run(last, sorted(parts, key=lambda run: run["date"])))
    return sorted(chosen, key=lambda run: run.content["date"], reverse=True)


def seconds_text(seconds: float) -> str:
    """Write a time with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-9)} ns"


def bytes_text(count: float) -> str:
    """Write a number of bytes."""
    if count >= 1 << 20:
        return f"{significant(count / (1 << 20))} MiB"
    return f"{count:,.0f} B"


def rate_text(rate: float) -> str:
    """Write elements for a second."""
    return f"{significant(rate / 1e6)} M/s"


def ratio_text(ratio: float) -> str:
    """Write how many times as long, cut and not rounded: 29.99 is not yet 30."""
    return f"{significant(cut(ratio))}x"


def cut(number: float) -> float:
    """Drop what `significant` would round."""
    step = 1.0 if number >= 100 else 0.1 if number >= 10 else 0.01
    # A little more than half a unit in the last place, so that 0.29 (28.999... steps) stays 0.29.
    return math.floor(number / step * (1 + 1e-12)) * step


def significant(number: float) -> str:
    """Write three digits, or all of a longer whole part."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
