"""``fasthist compare``: how far runs, or checkpoints, are from the first of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from fasthist.commands.options import example, readable, skip_corrupt_option, tag_option
from fasthist.commands.terminal import Column, console_of, finite, number, say, table_of
from fasthist.errors import ArgumentError, printable

if TYPE_CHECKING:
    from fasthist.commands.differences import Difference


@click.command(
    epilog=example(
        "fasthist compare runs/before runs/after --fail-above 0.1",
        "fasthist compare before.safetensors after.safetensors",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="A B...", type=readable)
@tag_option
@click.option(
    "--step",
    metavar="N",
    type=int,
    help="Compare there, or at the nearest step of both. Default: their last common step.",
)
@click.option(
    "--part-above",
    "threshold",
    metavar="X",
    default=0.1,
    show_default=True,
    type=click.FloatRange(min=0),
    help="From which distance on two runs have parted.",
)
@click.option(
    "--fail-above",
    metavar="X",
    type=click.FloatRange(min=0),
    help="Exit code 1 if a distance is larger.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@skip_corrupt_option
@click.pass_context
def compare(
    ctx: click.Context, /, paths: tuple[str, ...], pattern: str | None, step: int | None, threshold: float,
    fail_above: float | None, *, as_json: bool, skip_corrupt: bool,
) -> None:  # fmt: skip
    """Tell how far runs, or checkpoints, are from the first of them.

    For each tag: the Wasserstein distance in standard deviations of A, the Jensen-Shannon divergence (JS, in bits), the
    population stability index (PSI), how many times larger the standard deviation and the l2 norm are, and the first
    step at which they part. The largest distance comes first.
    """
    from fasthist.commands.comparing import compare_checkpoints, compare_runs
    from fasthist.commands.runs import is_checkpoint

    if len(paths) < 2:
        msg = "there is nothing to compare with: name two runs or more"
        raise click.UsageError(msg)
    are_files = [is_checkpoint(path) for path in paths]
    if any(are_files) and not all(are_files):
        msg = (
            f"{paths[are_files.index(True)]} is a checkpoint and {paths[are_files.index(False)]} is none. "
            "Accepted: runs, or checkpoints. Write it as a run first: fasthist log."
        )
        raise ArgumentError(msg)
    if all(are_files):
        if step is not None:
            msg = f"--step={step} chooses among the steps of runs. Accepted: none with checkpoints, which hold one."
            raise ArgumentError(msg)
        found = compare_checkpoints(paths, pattern)
    else:
        found = compare_runs(paths, pattern, step, threshold, skip_corrupt=skip_corrupt)
    found.sort(key=lambda one: -1.0 if one.wasserstein is None else one.wasserstein, reverse=True)
    if as_json:
        rows = ({name: finite(value) for name, value in asdict(one).items()} for one in found)
        lines = [json.dumps(row, allow_nan=False) for row in rows]
        say("[\n" + ",\n".join(lines) + "\n]")
    else:
        _print(found, paths, threshold)
    if fail_above is not None and any((one.wasserstein or 0.0) > fail_above for one in found):
        ctx.exit(1)


def _print(found: list[Difference], paths: Sequence[str], threshold: float) -> None:
    columns = {"tag": Column("tag", lambda one: printable(one.tag), 99, is_text=True)}
    if len(paths) > 2:
        columns["run"] = Column("run", lambda one: printable(one.run), 13, is_text=True)
    columns |= {
        "step": Column("at step", _steps, 2),
        "distance": Column("distance", lambda one: number(one.wasserstein), 14),
        "js": Column("JS", lambda one: number(one.jensen_shannon), 3),
        "psi": Column("PSI", lambda one: number(one.psi), 4),
        "std": Column("std", lambda one: _times(one.std_ratio), 6),
        "l2": Column("l2", lambda one: _times(one.l2_ratio), 5),
        "parts": Column(
            "parts at", lambda one: "" if one.parts_at is None else str(one.parts_at), 12
        ),
    }
    console = console_of()
    console.print(table_of(console, columns, found))
    parted = [one.parts_at for one in found if one.parts_at is not None]
    if parted:
        first = min(found, key=lambda one: math.inf if one.parts_at is None else one.parts_at)
        say(
            f"They part at step {first.parts_at}, first in {printable(first.tag)}: more than {threshold:g} standard deviations."
        )
    elif any(one.step_a is not None and one.step_a == one.step_b for one in found):
        say(f"They never part by more than {threshold:g} standard deviations.")


def _steps(one: Difference) -> str:
    a, b = ("-" if step is None else str(step) for step in (one.step_a, one.step_b))
    return a if a == b else f"{a}, {b}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"x{number(ratio)}"
