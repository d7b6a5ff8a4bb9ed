"""What a run on a GPU has to show, and ``bench_results/gpu.json``: how it is kept, and its numbers for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cases import OURS
from gpu_cases import (
    AUTO,
    BILLION,
    BUSY,
    COPIED,
    COPY,
    DISTRIBUTIONS,
    DONE,
    HISTC,
    IDLE,
    LATENCY,
    MODELS,
    ON_DEVICE,
    ONE,
    ONE_AUTO,
    READ,
    SKEWED,
    large,
    logged,
    many,
    small,
)
from results import NotMeasured, Run, cut, seconds_text
from targets import Target, at_most, faster

FILE = "gpu.json"
COMMAND = "python benchmarks/gpu.py"
INSTALL = "pip install '.[benchmark,test,cuda13]'"

_BUCKETS = {OURS: '"tensorflow"', AUTO: '"auto"'}
_MODELS = {"transformer": "104 tensors, 22.7 M float32", BILLION: "300 tensors, 1,000 M bfloat16"}
_FIRST = {IDLE: "the GPU idle", BUSY: "20 ms of work before it"}


# -- claims ------------------------------------------------------------------------------------------------


def _share(run: Run, name: str, library: str) -> tuple[float, str]:
    ours, ceiling = run.result(name, library), run.result(name, READ)
    share = ceiling["median"] / ours["median"]
    return share, f"{cut(share):.2f} ({ours['GB/s']:,.0f} of {ceiling['GB/s']:,.0f} GB/s)"


def _of_normals(format: str, library: str) -> Target:
    def judge(run: Run) -> tuple[str, bool]:
        share, text = _share(run, large(format, "normal").name, library)
        return text, share >= 0.7

    what = f"{format}, 1 GiB of normals, {_BUCKETS[library]}: share of torch.sum's rate"
    return Target(what, ">= 0.7", judge)


def _of_the_worst(format: str, library: str) -> Target:
    def judge(run: Run) -> tuple[str, bool]:
        # One that was not measured might be the worst: then nothing is said.
        found = {what: _share(run, large(format, what).name, library) for what in DISTRIBUTIONS[1:]}
        worst = min(found, key=lambda what: found[what][0])
        share, text = found[worst]
        return f"{text}, {worst}", share >= 0.5

    what = f"{format}, the worst distribution, {_BUCKETS[library]}: the same"
    return Target(what, ">= 0.5", judge)


def _as_long_as_one(clock: str, library: str, one: str) -> Target:
    def judge(run: Run) -> tuple[str, bool]:
        ours, whole = (run.median(many(clock).name, who) for who in (library, one))
        return f"{ours / whole:.3f}x ({seconds_text(ours)} against {seconds_text(whole)})", (
            ours <= 1.5 * whole
        )

    what = f"{_MODELS[BILLION]}, {_BUCKETS[library]}, {clock}: against the same bytes in one tensor"
    return Target(what, "<= 1.5x", judge)


def _targets() -> Iterator[Target]:
    for claim in (_of_normals, _of_the_worst):
        for format in SKEWED:
            for library in _BUCKETS:
                yield claim(format, library)
    for clock in (ON_DEVICE, DONE):
        yield _as_long_as_one(clock, OURS, ONE)
        yield _as_long_as_one(clock, AUTO, ONE_AUTO)
    for format, model in MODELS:
        for clock, first in _FIRST.items():
            what = f"`add_histograms`, {_MODELS[model]}: the thread is blocked, {first}"
            yield at_most(what, logged(format, model, clock).name, 200e-6, seconds_text)
    normal, copied = large("float32", "normal").name, small(COPIED, COPY).name
    yield faster("float32, 1 GiB of normals: against torch.histc, min and max", normal, HISTC, 5)
    what = "float32, 64 MiB until read: against a copy to the host and torch's make_histogram"
    yield faster(what, copied, COPY, 100)


TARGETS = tuple(_targets())


def run_of(outcome: dict[str, Any]) -> Run:
    """Give what was measured on one GPU in the form of a run of the suite."""
    return Run({"cases": outcome["cases"], "figures": []})


def rows(outcome: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Judge what was measured on one GPU: what, target, measurement and verdict of each claim."""
    run = run_of(outcome)
    return [target.row(run) for target in TARGETS]


# -- text --------------------------------------------------------------------------------------------------


def profile(outcome: dict[str, Any]) -> list[str]:
    """Write for each library of each case how many bytes it read, how fast, and what share of the ceiling that is."""
    peak = outcome["machine"].get("theoretical_GB/s")
    notes = []
    for record in outcome["cases"]:
        for library, found in record["libraries"].items():
            if "median" not in found or record.get("clock") not in (ON_DEVICE, DONE):
                continue
            note = f"{found['bytes'] / 1e9:,.3f} GB in {seconds_text(found['median'])}: {found['GB/s']:,.1f} GB/s"
            if "share" in found:
                note += f", {cut(found['share']):.2f} of torch.sum's"
            if peak:
                note += f", {cut(found['GB/s'] / peak):.2f} of the memory's"
            notes.append(f"{record['name']}, {library}: {note}")
    return notes


def title(outcome: dict[str, Any]) -> str:
    """Say on what, when and with what the cases were measured."""
    machine = outcome["machine"]
    peak = machine.get("theoretical_GB/s")
    memory = f", memory of {peak:,.0f} GB/s in theory" if peak else ""
    state = " with changes not committed" if outcome["dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in outcome["versions"].items())
    return (
        f"{machine['gpu']} ({machine['processors']} processors{memory}, driver {machine['driver']}), "
        f"{outcome['cpu']}; {outcome['date'][:10]}, commit {outcome['commit']}{state}, {outcome['seconds']:.0f} s. {versions}."
    )


def remarks(outcome: dict[str, Any]) -> list[str]:
    """Say what the table of claims does not: latency, tests, sanitizer, and what is missing and why."""
    run = run_of(outcome)
    found = []
    for size in LATENCY:
        try:
            found.append(
                f"{seconds_text(run.median(small(size).name))} for {size:,} float32 elements"
            )
        except NotMeasured as why:
            found.append(f"{why} for {size:,} elements")
    lines = [f"`fasthist.histogram(x).num`: {', '.join(found)}."]
    lines.append(f"Tests that need a GPU: {outcome['tests']['summary']}.")
    lines += [
        f"compute-sanitizer, {tool}: {one['summary']}."
        for tool, one in outcome["sanitizer"].items()
    ]
    lines += [f"Failed: {failure}." for failure in run.failures()]
    without = {
        f"{library} ({one['skipped']})"
        for record in outcome["cases"]
        for library, one in record["libraries"].items()
        if "skipped" in one
    }
    if without:
        lines.append(f"Left out: {', '.join(sorted(without))}.")
    if outcome["skipped"]:
        lines.append(f"No time was left for: {', '.join(outcome['skipped'])}.")
    return lines


# -- the file ----------------------------------------------------------------------------------------------


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """Read the outcomes of all GPUs, by the name of the GPU; there are none where there is no file.

    Raises
    ------
    ValueError
        The file holds something else.
    """
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["gpus"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not a file of {COMMAND}. Hint: move it away."
        raise ValueError(msg) from error


def keep(path: Path, outcome: dict[str, Any]) -> None:
    """Write an outcome to the file, in the place of an older one of the same GPU; those of others stay."""
    gpus = kept(path) | {outcome["machine"]["gpu"]: outcome}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"schema": 1, "gpus": gpus}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)  # never half a file
