"""What the README says of `illnesses`, `reading` and `dask_rate`, from their newest files."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from results import bytes_text, seconds_text


def newest_of(folder: Path) -> dict[str, Any] | None:
    """Read the file whose name, which begins with a date, comes last."""
    paths = sorted(folder.glob("*.json"))
    return json.loads(paths[-1].read_text(encoding="utf-8")) if paths else None


def doctor_text(folder: Path) -> str:
    """Write how many of the labelled runs `diagnose` was right about, of the seeds that no rule was made with."""
    content = newest_of(folder)
    if content is None:
        return "Not measured yet: `python benchmarks/illnesses.py`."
    runs = [run for run in content["runs"] if run["seed"] >= content["seen"]]
    named, healthy = ([run for run in runs if bool(run["illness"]) is ill] for ill in (True, False))
    seeds = len({run["seed"] for run in runs})
    return (
        f"In {sum(run['named'] for run in named)} of {len(named)} runs with a planted illness, of {seeds} seeds that no rule "
        f"was made with, `doctor` names it and its layer;\nof {len(healthy)} healthy runs "
        f'{sum(run["named"] for run in healthy)} have no finding above "info" ({content["date"][:10]}, commit '
        f"{content['commit']})."
    )


def reading_text(folder: Path) -> str:
    """Write how long `show`, `compare` and `doctor` take over a large log, and who else loads a tenth of it."""
    content = newest_of(folder)
    if content is None:
        return "Not measured yet: `python benchmarks/reading.py`."
    tags, steps = content["tags"], content["steps"]
    lines = [
        f"{content['cpu']}, {content['cores']} cores; {content['date'][:10]}, commit {content['commit']}.",
        "",
        "| what | of how much | time | memory |",
        "|---|---|---|---|",
    ]
    for part, share in (("whole", 1), ("tenth", 10)):
        amount = (
            f"{tags:,} tags x {steps // share:,} steps, {content['nbytes'] / share / 1e9:.2g} GB"
        )
        for name, result in content[part].items():
            shown = amount + (" each" if name.endswith("compare") else "")
            lines.append(
                f"| {name} | {shown} | {seconds_text(result['seconds'])} | {bytes_text(result['bytes'])} |"
            )
    return "\n".join(lines)


def dask_text(path: Path) -> str:
    """Write how fast Dask counts an array, and how much memory a worker takes for it."""
    if not path.exists():
        return "Not measured yet: `python benchmarks/dask_rate.py`."
    found = json.loads(path.read_text(encoding="utf-8"))
    seconds, peaks = found["seconds"], found["peaks"]
    shares = [
        plain / ours for plain, ours in zip(seconds["sum"], seconds["histogram"], strict=True)
    ]
    return (
        f"Dask counts {found['nbytes'] / 1e9:.3g} GB of float32 in {found['chunks']} chunks on {found['workers']} workers in "
        f"{seconds_text(statistics.median(seconds['histogram']))},\nat {statistics.median(shares):.2f} of the rate of its own "
        f"`sum()`; a worker takes at most {max(peaks['histogram']):.2f} times the memory of a chunk beside what it has\n"
        f"({max(peaks['sum']):.2f} for `sum()`; {found['cpu']}, {found['cores']} cores; {found['date'][:10]}, commit "
        f"{found['commit']})."
    )
