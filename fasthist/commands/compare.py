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
    help="Distance above which two runs have parted.",
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
        differences = compare_checkpoints(paths, pattern)
    else:
        differences = compare_runs(paths, pattern, step, threshold, skip_corrupt=skip_corrupt)
    differences.sort(key=lambda d: -1.0 if d.wasserstein is None else d.wasserstein, reverse=True)
    if as_json:
        rows = ({name: finite(value) for name, value in asdict(d).items()} for d in differences)
        lines = [json.dumps(row, allow_nan=False) for row in rows]
        say("[\n" + ",\n".join(lines) + "\n]")
    else:
        _print(differences, paths, threshold)
    if fail_above is not None and any((d.wasserstein or 0.0) > fail_above for d in differences):
        ctx.exit(1)


def _print(differences: list[Difference], paths: Sequence[str], threshold: float) -> None:
    columns = {"tag": Column("tag", lambda d: printable(d.tag), 99, is_text=True)}
    if len(paths) > 2:
        columns["run"] = Column("run", lambda d: printable(d.run), 13, is_text=True)
    columns |= {
        "step": Column("at step", _steps, 2),
        "distance": Column("distance", lambda d: number(d.wasserstein), 14),
        "js": Column("JS", lambda d: number(d.jensen_shannon), 3),
        "psi": Column("PSI", lambda d: number(d.psi), 4),
        "std": Column("std", lambda d: _times(d.std_ratio), 6),
        "l2": Column("l2", lambda d: _times(d.l2_ratio), 5),
        "parts": Column("parts at", lambda d: "" if d.parts_at is None else str(d.parts_at), 12),
    }
    console = console_of()
    console.print(table_of(console, columns, differences))
    first = min(differences, key=lambda d: math.inf if d.parts_at is None else d.parts_at)
    limit = f"more than {threshold:g} standard deviations"
    if first.parts_at is not None:
        say(f"They part at step {first.parts_at}, first in {printable(first.tag)}: {limit}.")
    elif any(d.step_a is not None and d.step_a == d.step_b for d in differences):
        say(f"They never part by {limit}.")


def _steps(difference: Difference) -> str:
    steps = difference.step_a, difference.step_b
    a, b = ("-" if step is None else str(step) for step in steps)
    return a if a == b else f"{a}, {b}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"x{number(ratio)}"
