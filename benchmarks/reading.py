"""How long do `show` and `compare` take over a large log, and other readers over a tenth of it? ``python benchmarks/reading.py``.

Writes two logs of the same shape (4 GB each, in a temporary folder), asks each question in a process of its own, takes the
time and the most memory that it held with all its children, and leaves ``bench_results/reading/<date>_<commit>.json``.
Nothing else should run meanwhile. The peers, tbparse and TensorBoard's EventAccumulator, only load the histograms.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from run import RESULTS, environment, new_path

import fasthist

TAGS, STEPS = 1120, 1000  # 4 GB

LOADERS = {
    "fasthist, History.open": "import fasthist; fasthist.History.open({!r})",
    "fasthist, every histogram": "import fasthist; print(sum(1 for _ in fasthist.read({!r})))",
    "tbparse": "from tbparse import SummaryReader; SummaryReader({!r}, event_types={{'histograms'}}).histograms",
    "TensorBoard, EventAccumulator": (
        "from tensorboard.backend.event_processing.event_accumulator import *\n"
        "loader = EventAccumulator({!r}, size_guidance={{HISTOGRAMS: 0, TENSORS: 0, COMPRESSED_HISTOGRAMS: 1}}).Reload()\n"
        "print(sum(len(loader.Histograms(tag)) for tag in loader.Tags()['histograms']))"
    ),
}


def write(log_dir: Path, tags: int, steps: int, seed: int) -> None:
    """Write a run whose weights drift a little; another seed gives one that never parts from it."""
    rng = np.random.default_rng(seed)
    shape = (64, 8192)
    values = (rng.laplace(size=shape) * rng.uniform(size=shape)).astype(np.float32)
    with fasthist.SummaryWriter(log_dir) as writer:
        for step in range(steps):
            drift = np.float32(1 + 1e-4 * step)
            writer.add_histograms(
                {
                    f"block{i // 4}/part{i % 4}.weight": values[(7 * i + 13 * step) % 64] * drift
                    for i in range(tags)
                },
                step,
            )


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; give its seconds, and the most bytes that it and its children held at once."""
    start = time.perf_counter()
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(_held(pid) for pid in _family(process.pid)))
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"seconds": seconds, "bytes": most}


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            found += [
                int(child) for task in tasks for child in (task / "children").read_text().split()
            ]
        except OSError:  # it has ended meanwhile
            continue
    return found


def _held(pid: int) -> int:
    """Give the proportional set size: what is shared by several processes counts once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def ask(a: Path, b: Path) -> dict[str, dict[str, float]]:
    """Ask the commands about two logs."""
    start = [sys.executable, "-m", "fasthist"]
    commands = {
        "fasthist show": [*start, "show", str(a)],
        "fasthist compare": [*start, "compare", str(a), str(b)],
        "fasthist doctor": [*start, "doctor", str(a)],
    }
    return {name: _told(name, measured(command)) for name, command in commands.items()}


def _told(name: str, result: dict[str, float]) -> dict[str, float]:
    click.echo(f"{name}: {result['seconds']:.1f} s, {result['bytes'] / 1e6:.0f} MB")
    return result


def size_of(log_dir: Path) -> int:
    """Give the bytes of a run."""
    return sum(path.stat().st_size for path in log_dir.iterdir())


@click.command(epilog="Example: python benchmarks/reading.py --tags 100 --steps 100")
@click.option("--tags", default=TAGS, show_default=True)
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="Where files go.")
def main(tags: int, steps: int, results: Path) -> None:
    """Write logs, read them and leave the times."""
    about = environment()
    content: dict[str, Any] = {**about, "tags": tags, "steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        a, b, tenth = (Path(folder, name) for name in ("a", "b", "tenth"))
        for path, seed in ((a, 1), (b, 2)):
            write(path, tags, steps, seed)
        write(tenth, tags, max(1, steps // 10), 1)
        content["nbytes"] = size_of(a)
        click.echo(f"{tags} tags x {steps} steps, {size_of(a) / 1e9:.2f} GB")
        content["whole"] = ask(a, b)
        content["tenth"] = {
            name: _told(name, measured([sys.executable, "-c", code.format(str(tenth))]))
            for name, code in LOADERS.items()
        }
    path = new_path(results / "reading", about["date"], about["commit"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    click.echo(str(path))


if __name__ == "__main__":
    main()
