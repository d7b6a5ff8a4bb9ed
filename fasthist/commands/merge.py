"""``fasthist merge``: sum the files that the ranks of a run wrote into one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasthist.commands.options import example, local
from fasthist.commands.terminal import progress, say
from fasthist.errors import ArgumentError, BucketsError, printable

if TYPE_CHECKING:
    from fasthist.events.reader import ReadHistogram
    from fasthist.hist import Histogram

GROUP = 64  # histograms in one event

LEFT_OUT = 3
"""Exit code if something is left out because a rank lacks it."""


@click.command(
    epilog=example("fasthist merge runs/ranks --out runs/whole", "tensorboard --logdir runs/whole")
)
@click.argument("directory", metavar="DIR", type=local)
@click.option(
    "-o", "--out", required=True, metavar="OUT", type=local,
    help="New or empty directory for the event file.",
)  # fmt: skip
@click.option("--allow-missing", is_flag=True, help="Also sum what only some ranks have.")
def merge(directory: Path, out: Path, allow_missing: bool) -> None:
    """Sum the histograms that the ranks of a run wrote, each to files of its own.

    A rank is a directory in DIR, or the files in it with the same suffix: SummaryWriter(log_dir, filename_suffix=".rank3").
    Histograms of the same tag and step are summed; if a rank wrote one twice, as after a restart, the last counts.
    Scalars are left out, except those of NaN and infinities.

    The sum is exact, as far as the files tell, in num, min, max, the sums and the numbers of NaN and infinities, and in the
    counts if all ranks counted with bins="tensorflow". Otherwise the ranks' pictures are summed: the share below any value
    is then within 2 % of that of all values.

    Files of different runs are refused: one ended before the other began, or most tags are not in both. Names that number
    the ranks, such as rank0 and rank1, are trusted.

    Histograms that a rank lacks are listed and left out, and the exit code is 3, or 0 with --allow-missing. A rank whose
    shard of a tensor is empty writes no histogram of it.
    """
    from fasthist import rank_files

    ranks = rank_files.find_ranks(directory)
    _check_out(out, directory)
    lost = rank_files.lost_ranks(ranks)
    names = printable(f"{len(ranks)} ranks, {ranks[0].name} to {ranks[-1].name}")
    if lost and not allow_missing:
        msg = (
            f"{directory} has files of {names}, but none of {', '.join(lost)}. Accepted: files of every rank. "
            "Hint: --allow-missing sums without them."
        )
        raise ArgumentError(msg)
    total = sum(path.stat().st_size for rank in ranks for path in rank.paths)
    with progress("reading", total, is_bytes=True) as advance:
        index = rank_files.look_through(ranks, advance)
    rank_files.check_one_run(ranks, index, allow_missing=allow_missing)
    everyone = (1 << len(ranks)) - 1
    chosen = {key for key, holders in index.holders.items() if allow_missing or holders == everyone}
    if not chosen:
        msg = (
            f"no tag and step is in the files of all {names}. Accepted: ranks that log the same. "
            "Hint: --allow-missing sums over those that have it."
        )
        raise ArgumentError(msg)
    with progress("merging", len(chosen), is_bytes=False) as advance:
        untold = _write(rank_files.collected(ranks, index, chosen), out, advance)
    what = "1 histogram" if len(chosen) == 1 else f"{len(chosen)} histograms"
    say(f"{out}: {what} of {names}")
    say(f"Look at them with: tensorboard --logdir {out}")
    missing = rank_files.incomplete(ranks, index)
    if lost or missing:
        say(
            "Summed without some ranks:"
            if allow_missing
            else "Left out, since not every rank has it:"
        )
        for line in [f"no files of {name}" for name in lost] + missing:
            say(f"  {printable(line)}")
    if untold:
        text = f"fasthist: the files do not tell of {untold} of them how many values were NaN or infinite"
        say(text, err=True)
    if missing and not allow_missing:
        click.get_current_context().exit(LEFT_OUT)


def _check_out(out: Path, directory: Path) -> None:
    """Raise ArgumentError if `out` is not empty, or lies in the directory that is read."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = (
            f"--out {out} exists and is not an empty directory. Accepted: a new or empty directory."
        )
        raise ArgumentError(msg)
    if out.resolve().is_relative_to(directory.resolve()):
        msg = f"--out {out} lies in {directory}, whose files are summed. Accepted: a directory beside it."
        raise ArgumentError(msg)


def _write(sums: Iterable[list[ReadHistogram]], out: Path, advance: Callable[[int], None]) -> int:
    """Write the sum of each list to a new event file; return how many have no counts of NaN and infinities."""
    import fasthist
    from fasthist.rank_files import added

    untold = 0
    group: dict[str, Histogram] = {}
    step, latest = 0, 0.0
    with fasthist.SummaryWriter(out) as writer:
        for parts in sums:
            tag = parts[0].tag
            if group and (parts[0].step != step or tag in group or len(group) == GROUP):
                writer.add_histograms(group, step, latest)
                group, latest = {}, 0.0
            step, latest = parts[0].step, max(latest, *(part.wall_time for part in parts))
            try:
                group[tag] = added([part.histogram for part in parts])
            except BucketsError as error:
                msg = f"{tag!r} at step {step}: {error}"
                raise BucketsError(msg) from error
            untold += group[tag].nan_count is None
            advance(1)
        if group:
            writer.add_histograms(group, step, latest)
    return untold
