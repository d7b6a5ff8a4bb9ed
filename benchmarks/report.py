"""Turn the newest results into the README's tables and picture: ``python benchmarks/report.py [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import ranks_model
from gpu_targets import COMMAND, FILE, INSTALL, kept, remarks, rows, title
from read_report import dask_text, doctor_text, reading_text
from results import OURS, Run, newest, rate_text, ratio_text, seconds_text
from targets import TARGETS

ROOT = Path(__file__).parents[1]

SHOWN = (
    "tensorflow/float32/normal/64",
    "tensorflow/float32/normal/1e6",
    "tensorflow/float32/normal/1e8",
    "tensorflow/float64/normal/1e7",
    "tensorflow/bfloat16/normal/1e7",
    "tensorflow/float8_e4m3fn/normal/1e7",
    "tensorflow/int8/normal/1e7",
    "uniform/float32/normal/1e6",
    "uniform/float32/normal/1e8",
    "edges/float32/normal/1e7",
    "add_histogram/float32/normal/64",
    "add_histogram/float32/normal/1e6",
    "add_histograms, returns/float32/cnn",
    "add_histograms, returns/float32/transformer",
    "add_histograms, on disk/float32/transformer",
    "add_histograms, returns/bfloat16/encoder300",
    "add_histograms, on disk/bfloat16/encoder300",
)
"""The rows of the README, of all that a result file holds."""

_CALLS = {
    "tensorflow": '`histogram`, "tensorflow"',
    "auto": '`histogram`, "auto"',
    "auto, drawn": '`histogram`, "auto", and `to_raw`',
    "uniform": "`histogram`, 64 buckets",
    "edges": "`histogram`, 64 edges",
    "add_histogram": "`add_histogram`",
    "add_histograms, returns": "`add_histograms` until it returns",
    "add_histograms, on disk": "`add_histograms` until on disk",
}
_MODELS = {
    "cnn": "a small CNN",
    "transformer": "104-tensor transformer",
    "encoder300": "300-tensor encoder",
}


def benchmark_table(run: Run) -> str:
    """Write the table of one run: our times, and how many times as long the others took."""
    lines = [
        "| call | values | fasthist | rate | the others, in times as long |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(run.records[name]) for name in SHOWN if name in run.records]
    failures = run.failures()
    if failures:
        lines += ["", "Failed in this run:", "", *(f"- {_cell(failure)}" for failure in failures)]
    return "\n".join(lines)


def _row(record: dict[str, Any]) -> str:
    ours = record["libraries"][OURS]
    call, values = _described(record)
    if "median" not in ours:
        return f"| {call} | {values} | {_outcome(ours)} | - | - |"
    others = [
        f"{_outcome(found)} {library}"
        for library, found in record["libraries"].items()
        if not library.startswith(OURS) and "skipped" not in found
    ]
    rate = rate_text(ours["elements"] / ours["median"])
    return f"| {call} | {values} | {seconds_text(ours['median'])} | {rate} | {' · '.join(others)} |"


def _described(record: dict[str, Any]) -> tuple[str, str]:
    if "call" not in record:  # the process died before it could say more
        return _cell(record["name"]), "-"
    if "model" in record:
        values = f"{_MODELS[record['model']]}, {record['elements'] / 1e6:.1f} M {record['format']}"
    else:
        values = f"{record['elements']:,} {record['format']}"
    return _CALLS[record["call"]], values


def _outcome(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"failed ({_cell(found['failed'])})"
    return "-" if "skipped" in found else ratio_text(found["ratio"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def target_table(run: Run) -> str:
    """Write the table of claims of one run."""
    lines = ["| what | target | measured | holds? |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in target.row(run))} |" for target in TARGETS]
    return "\n".join(lines)


def gpu_text(path: Path) -> str:
    """Write what was measured on each GPU, or that nothing was.

    Parameters
    ----------
    path : Path
        The file of `gpu.py`, which need not be there.

    Raises
    ------
    ValueError
        The file holds something else.
    """
    gpus = kept(path)
    if not gpus:
        return (
            "**On a GPU** nothing was measured yet, so there is no figure here and no claim. "
            f"After\n`{INSTALL}`, `{COMMAND}` runs the benchmarks and the tests on one, in less\n"
            "than 8 minutes."
        )
    parts = [f"**On a GPU**, measured with `{COMMAND}`: medians, rounds taken in turns."]
    for outcome in gpus.values():
        lines = ["| what | target | measured | holds? |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows(outcome)]
        parts += [title(outcome), "\n".join(lines)]
        parts.append("\n".join(f"- {_cell(remark)}" for remark in remarks(outcome)))
    return "\n\n".join(parts)


def blocks(runs: list[Run], results: Path) -> dict[str, str]:
    """Write the text between each pair of markers: a table for each machine, under a line that names it."""
    tables = (("benchmarks", benchmark_table), ("targets", target_table))
    return {
        **{
            name: "\n\n".join(f"{run.title}\n\n{table(run)}" for run in runs)
            for name, table in tables
        },
        "gpu": gpu_text(results / FILE),
        "doctor": doctor_text(results / "illnesses"),
        "reading": reading_text(results / "reading"),
        "dask": dask_text(results / "dask.json"),
        "ranks": ranks_model.text_of(results / ranks_model.FILE),
    }


def spliced(readme: str, texts: dict[str, str]) -> str:
    """Put texts between their markers.

    Parameters
    ----------
    readme : str
        Has one line ``<!-- name:begin -->`` and, after it, one ``<!-- name:end -->`` for each text.
    texts : dict of str to str
        By name.

    Raises
    ------
    ValueError
        A marker is missing.
    """
    for name, text in texts.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found_begin, rest = readme.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            msg = f"the README has no {begin} ... {end}. Hint: add both lines where the table belongs."
            raise ValueError(msg)
        readme = f"{before}{begin}\n{text}\n{end}{after}"
    return readme


@click.command(epilog="Example: python benchmarks/report.py --check")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the README is stale.")
@click.option("--results", default=ROOT / "bench_results", type=click.Path(path_type=Path))
@click.option("--readme", default=ROOT / "README.md", type=click.Path(path_type=Path))
def main(check: bool, results: Path, readme: Path) -> None:
    """Write the newest results of each machine into the README, and draw them."""
    runs = newest(results)
    if not runs:
        click.echo(f"no run in {results}. Hint: python benchmarks/run.py", err=True)
        sys.exit(1)
    old = readme.read_text(encoding="utf-8")
    try:
        new = spliced(old, blocks(runs, results))
    except ValueError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    if check:
        if new != old:
            click.echo(f"{readme.name} is stale. Hint: python benchmarks/report.py", err=True)
            sys.exit(1)
        return
    readme.write_text(new, encoding="utf-8")
    from plots import draw

    picture = results / "pictures" / "benchmarks.png"
    draw(runs[0], picture)
    click.echo(f"wrote {readme.name} and {picture.name}")


if __name__ == "__main__":
    main()
