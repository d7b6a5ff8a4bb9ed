"""Measure how true TensorBoard's pictures are of what each library writes: ``python benchmarks/fidelity.py``.

Writes the distributions of ``tests/distributions.py`` with fasthist, torch and TensorFlow, each by its defaults, serves
them with both loaders of the real TensorBoard, and compares what its page would draw with the data, as
``tests/pictures.py`` tells. Leaves ``bench_results/fidelity/<date>_<commit>.json`` and a table beside it; a file that
exists is never written over.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from run import RESULTS, environment, new_path

# The measure, the data and the server are the tests' own; from anywhere but pytest they are not to be found.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from distributions import DISTRIBUTIONS, drifting, make
from event_files import Event, files, records
from pictures import judge
from tensorboard_server import Server, serve

Add = Callable[[str, np.ndarray, int], None]

LIMIT = 0.02
LOADERS = {"fast": True, "python": False}
SERIES = {
    "single": lambda name: [make(name)],
    "drifting": drifting,
}
"""The steps of a distribution: one, or as many as drift on one axis."""

EXPLAINED = (
    "Bins wrong % / percentiles off %, of the worse loader: how many of the values lie in a wrong one of the 30 bins of "
    "the Histograms tab, and how far the share of the values below a line of the Distributions tab is from the share "
    f"that the line stands for. Bold: more than {LIMIT:.0%}. n/a alone: TensorBoard cannot draw it, whatever is written."
)

LAST = "~last"
"""The tag that a loader comes to last: what is not there now will not come."""


@contextlib.contextmanager
def fasthist_writer(folder: Path) -> Iterator[Add]:
    """Write with fasthist."""
    import fasthist

    with fasthist.SummaryWriter(folder) as writer:
        yield writer.add_histogram


@contextlib.contextmanager
def torch_writer(folder: Path) -> Iterator[Add]:
    """Write with torch, from tensors: NumPy's arrays it cannot read in every format."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    def add(tag: str, values: np.ndarray, step: int) -> None:
        if values.dtype.isbuiltin == 1:
            tensor = torch.from_numpy(values)
        else:  # a format of ml_dtypes; its name is torch's too
            carrier = values.view(f"i{values.itemsize}")
            tensor = torch.from_numpy(carrier).view(getattr(torch, values.dtype.name))
        writer.add_histogram(tag, tensor, step)

    with SummaryWriter(str(folder)) as writer:
        yield add


@contextlib.contextmanager
def tensorflow_writer(folder: Path) -> Iterator[Add]:
    """Write with tf.summary."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        yield lambda tag, values, step: tf.summary.histogram(tag, values, step=step)
    writer.close()


WRITERS = {
    "fasthist": fasthist_writer,
    "torch": torch_writer,
    "TensorFlow": tensorflow_writer,
}


def run_name(library: str, series: str) -> str:
    """Name the run that holds what a library wrote."""
    return f"{library}-{series}"


def write(folder: Path, library: str, series: str, names: list[str]) -> dict[str, Any]:
    """Write distributions as one run.

    Returns
    -------
    dict
        What is known by now of each: ``{"bytes": ...}``, of the largest event, or ``{"failed": ...}``.
    """
    run = folder / run_name(library, series)
    known: dict[str, Any] = {name: {} for name in names}
    with WRITERS[library](run) as add:
        for name in names:
            try:
                for step, values in enumerate(SERIES[series](name)):
                    add(name, values, step)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the library's answer
                text = (str(error).splitlines() or [""])[0]
                known[name] = {"failed": f"{type(error).__name__}: {text}"}
        add(LAST, np.zeros(1, np.float32), 0)
    for path in files(run):
        for payload in records(path.read_bytes()):
            event = Event.FromString(payload)
            for tag in {value.tag for value in event.summary.value} & known.keys():
                largest = max(known[tag].get("bytes", 0), len(payload))
                known[tag] = {**known[tag], "bytes": largest}
    return known


def look(server: Server, run: str, name: str, series: str) -> dict[str, Any]:
    """Judge what one loader serves of one tag."""
    query = {"run": run, "tag": name}
    pages = ("/data/plugin/histograms/histograms", "/data/plugin/distributions/distributions")
    found = [server.get(page, until=lambda _: True, **query) for page in pages]
    steps = SERIES[series](name)
    if any(len(page) < len(steps) for page in found):
        return {"failed": f"{min(map(len, found))} of {len(steps)} steps are served"}
    # JSON has no NaN: here it stands for what TensorBoard cannot draw.
    verdict = asdict(judge(*found, steps))
    return {key: None if math.isnan(value) else value for key, value in verdict.items()}


def measure(names: list[str], libraries: list[str]) -> dict[str, Any]:
    """Write all, serve all, judge all.

    Returns
    -------
    dict
        ``[series][distribution][library]`` gives ``bytes`` and a verdict for each loader, or ``failed``.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fasthist-") as place:
        folder = Path(place)
        for series in SERIES:
            found[series] = {name: {} for name in names}
            for library in libraries:
                for name, known in write(folder, library, series, names).items():
                    found[series][name][library] = known
        runs = {run_name(library, series) for library in libraries for series in SERIES}
        for loader, load_fast in LOADERS.items():
            with serve(folder, load_fast) as server:
                tags = server.tags(
                    until=lambda tags: {run for run in tags if LAST in tags[run]} == runs
                )
                for series in SERIES:
                    for name in names:
                        for library, known in found[series][name].items():
                            run = run_name(library, series)
                            if name not in tags[run]:
                                known.setdefault("failed", f"the {loader} loader does not serve it")
                            if "failed" not in known:
                                known[loader] = look(server, run, name, series)
    return found


def table(result: dict[str, Any]) -> str:
    """Write the results for people: of both loaders the worse."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    state = " with changes not committed" if result["dirty"] else ""
    lines = [
        f"Each library's default, {result['date'][:10]}, commit {result['commit']}{state}. {versions}.",
        "",
        EXPLAINED,
    ]
    for series, title in (("single", "One step"), ("drifting", "Drifting steps on one axis")):
        libraries = list(next(iter(result[series].values()), {}))
        lines += ["", f"## {title}", "", f"| values | {' | '.join(libraries)} |"]
        lines.append("|---" * (len(libraries) + 1) + "|")
        lines += [
            f"| {name} | {' | '.join(map(_cell, row.values()))} |"
            for name, row in result[series].items()
        ]
    return "\n".join(lines) + "\n"


def _cell(known: dict[str, Any]) -> str:
    verdicts = [known[loader] for loader in LOADERS if loader in known]
    reasons = [one["failed"] for one in (known, *verdicts) if "failed" in one]
    if reasons:
        raised = re.match(r"(\w+): ", reasons[0])
        return f"n/a (raised {raised[1]})" if raised else f"n/a ({reasons[0]})"
    return " / ".join(_percent([one[what] for one in verdicts]) for what in ("bins", "lines"))


def _percent(shares: list[float | None]) -> str:
    known = [share for share in shares if share is not None]
    if not known:
        return "n/a"
    text = f"{100 * max(known):.1f}"
    return f"**{text}**" if max(known) > LIMIT else text


def save(result: dict[str, Any], folder: Path) -> Path:
    """Write a result and its table to new files.

    Raises
    ------
    FileExistsError
        Another process has made one of them in this moment; it is not touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = new_path(folder, result["date"], result["commit"])
    with path.open("x", encoding="utf-8") as file:
        json.dump(result, file, indent=1, allow_nan=False)
        file.write("\n")
    with path.with_suffix(".md").open("x", encoding="utf-8") as file:
        file.write(table(result))
    return path


@click.command(epilog="Example: python benchmarks/fidelity.py --only 'constant|layernorm'")
@click.option("--only", default="", metavar="REGEX", help="Only what has a matching name.")
@click.option("--libraries", default=",".join(WRITERS), metavar="NAMES", help="Only these.")
@click.option(
    "--out",
    default=RESULTS / "fidelity",
    type=click.Path(path_type=Path),
    help="Where to keep it.",
)
def main(only: str, libraries: str, out: Path) -> None:
    """Measure and keep the results; what a library cannot write is kept too."""
    about = environment()
    begin = time.perf_counter()
    names = [name for name in DISTRIBUTIONS if re.search(only, name)]
    found = measure(names, libraries.split(","))
    # `only` is never empty: `results.newest` looks for whole runs of the timed suite in all folders.
    kind = {"kind": "fidelity", "quick": False, "only": only or "fidelity", "tiny": 0}
    seconds = round(time.perf_counter() - begin, 1)
    saved = save({**about, **kind, "seconds": seconds, **found}, out)
    click.echo(f"{len(names)} distributions in {seconds:.0f} s: {saved}")


if __name__ == "__main__":
    main()
