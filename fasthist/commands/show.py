"""``fasthist show``: print a run as a table with a line for each tag, or export it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasthist.commands.options import example, local, readable, skip_corrupt_option, tag_option
from fasthist.commands.terminal import console_of, print_paged, progress, table_of

if TYPE_CHECKING:
    from rich.table import Table

SORTED_BY = (
    "tag", "steps", "step", "num", "mean", "std", "min", "max", "p1", "p50", "p99", "zeros", "nan",
)  # fmt: skip

_EVERY = 1.0
"""Seconds between two refreshes of a run that is followed."""


@click.command(
    epilog=example(
        "fasthist show runs/example --tag 'weight$' --sort std",
        "fasthist show runs/example --parquet example.parquet",
    )
)
@click.argument("run", type=readable)
@tag_option
@click.option("--step", metavar="N", type=int, help="Default: the last of each tag.")
@click.option(
    "--sort", metavar="COLUMN", type=click.Choice(SORTED_BY),
    help=f"Largest first: {', '.join(SORTED_BY)}. Default: in order of appearance.",
)  # fmt: skip
@click.option("--top", metavar="N", type=click.IntRange(min=1), help="Print the first N lines.")
@click.option("--json", "form", flag_value="json", help="Print every step and bucket as JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print every step and bucket as CSV.")
@click.option(
    "--parquet", metavar="FILE", type=local,
    help="Write every step and bucket to a file (needs fasthist[parquet]).",
)  # fmt: skip
@click.option("--follow", is_flag=True, help="Redraw the table when something is written.")
@skip_corrupt_option
def show(
    run: str, pattern: str | None, step: int | None, sort: str | None, top: int | None, form: str | None,
    parquet: Path | None, *, follow: bool, skip_corrupt: bool,
) -> None:  # fmt: skip
    """Show the histograms of a run as a table, a line for each tag.

    RUN is a directory of event files, one of them, or the URL of either. "~" marks numbers estimated from the buckets; under
    NaN, values that another library's file does not count: NaN, infinite or beyond its buckets. Output longer than the
    terminal goes through the pager that PAGER names.
    """
    from fasthist.commands.export import export
    from fasthist.commands.lines import COLUMNS, check_step, lines_of
    from fasthist.commands.runs import find_run, matching, read_run

    if sum((form is not None, parquet is not None, follow)) > 1:
        msg = "--json or --csv, --parquet and --follow exclude each other"
        raise click.UsageError(msg)
    if top is not None and (form or parquet):
        msg = "--top is for the table: choose what is exported with --tag and --step"
        raise click.UsageError(msg)
    history = find_run(run, skip_corrupt=skip_corrupt)
    with progress("reading", history.nbytes, is_bytes=True) as advance:
        read_run(history, advance)
    if form or parquet:
        tags = matching(list(history), pattern)
        check_step(history, tags, step)
        export([history[tag] for tag in tags], step, form, parquet)
        return
    console = console_of()

    def table() -> Table:
        return table_of(console, COLUMNS, lines_of(history, pattern, step, sort)[:top])

    if not follow:
        print_paged(console, table())
        return
    from rich.live import Live

    with Live(table(), console=console) as live:
        while True:
            time.sleep(_EVERY)
            if history.refresh():
                live.update(table())
