"""``fasthist plot``: draw runs as a picture, or as a page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasthist.commands.options import example, local, readable, skip_corrupt_option, tag_option
from fasthist.commands.terminal import say
from fasthist.errors import ArgumentError

if TYPE_CHECKING:
    from fasthist.history import History

FORMATS = ("png", "svg", "html")
KINDS = ("ridge", "overlay", "heatmap", "percentiles")
SCALES = ("auto", "linear", "log")
MAX_PANELS = 24


@click.command(
    epilog=example(
        "fasthist plot runs/example -o weights.png --tag weight",
        "fasthist plot runs/before runs/after -o page.html --step 1000",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="RUN...", type=readable)
@click.option(
    "-o", "--out", required=True, metavar="FILE", type=local,
    help="File to write: .png, .svg, or .html, a page to zoom into.",
)  # fmt: skip
@tag_option
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="Default: ridge for one run, overlay for several or with --step.",
)
@click.option(
    "--step", metavar="N", type=int, help="Step of an overlay. Default: the last of each run."
)
@click.option(
    "--scale", type=click.Choice(SCALES), default="auto",
    help="Axis of the values. Default: auto, log where a linear one would hide most of them.",
)  # fmt: skip
@click.option(
    "--max-panels", metavar="N", type=click.IntRange(min=1), default=MAX_PANELS,
    help=f"Draw the first N pictures. Default: {MAX_PANELS}.",
)  # fmt: skip
@click.option("--dark", is_flag=True, help="Draw on a dark background.")
@skip_corrupt_option
def plot(
    paths: tuple[str, ...], out: Path, pattern: str | None, kind: str | None, step: int | None, scale: str,
    max_panels: int, dark: bool, skip_corrupt: bool,
) -> None:  # fmt: skip
    """Draw runs: a small picture for each tag.

    RUN is a directory of runs, an event file, or the URL of either. Kinds: ridge, an outline for each step, the newest in
    front; heatmap and percentiles, over steps; overlay, one step of all runs in one picture. Needs the extra
    fasthist[plot].
    """
    from fasthist.plots import figures
    from fasthist.plots.page import page
    from fasthist.plots.panels import lay_out
    from fasthist.plots.theme import theme

    form = out.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        accepted = ", ".join(f".{name}" for name in FORMATS)
        msg = f"-o {out}: its ending names no known format. Accepted: {accepted}."
        raise ArgumentError(msg)
    if not out.absolute().parent.is_dir():
        msg = f"-o {out}: there is no directory {out.absolute().parent}. Hint: create it first."
        raise ArgumentError(msg)
    runs = _open(paths, skip_corrupt=skip_corrupt)
    kind = kind or ("ridge" if len(runs) == 1 and step is None else "overlay")
    layout = lay_out(runs, kind, pattern, step, scale=scale, max_panels=max_panels)
    if form == "html":
        out.write_text(page(layout, theme(dark)), encoding="utf-8")
    else:
        figures.save(figures.draw(layout, theme(dark)), str(out), form)
    count = len(layout.panels)
    say(f"{out}: {count} picture{'s' * (count != 1)} of kind {kind}")
    if layout.left_out:
        hint = "choose with --tag, or draw more with --max-panels"
        say(f"fasthist: left out {layout.left_out} more; {hint}", err=True)


def _open(paths: tuple[str, ...], *, skip_corrupt: bool) -> dict[str, History]:
    """Read all runs that have histograms, named by the path or, below a single path, by the run."""
    from fasthist.commands.runs import find_all_runs
    from fasthist.events.stored import join

    runs: dict[str, History] = {}
    for path in paths:
        for run, history in find_all_runs(path, skip_corrupt=skip_corrupt).items():
            history.refresh()
            name = run if len(paths) == 1 and run != "." else join(path, run)
            if name in runs:
                msg = f"{path} is named twice. Accepted: each run once."
                raise ArgumentError(msg)
            if len(history):
                runs[name] = history
    if not runs:
        msg = f"{', '.join(paths)}: no histograms. Accepted: event files with at least one. Hint: were they flushed?"
        raise ArgumentError(msg)
    return runs
