"""Time everything and keep it: ``python benchmarks/run.py [--quick] [--only REGEX]``.

Starts pytest on this folder, then writes one file, ``bench_results/<machine>/<date>_<commit>.json``. A file that exists
is never written over. A case that leaves no result, because the process died in it, is kept as failed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from cases import CASES, OURS
from figures import FIGURES

HERE = Path(__file__).parent
RESULTS = HERE.parent / "bench_results"
PACKAGES = (
    "fasthist", "numpy", "numba", "ml_dtypes", "torch", "tensorboard", "tensorboardX", "tensorflow", "tensorflow-cpu",
    "boost-histogram", "fast-histogram", "pytest-benchmark",
)  # fmt: skip


def cpu_name() -> str:
    """Name the processor as the system does, with its family and model where the name alone is vague."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in reversed(lines) if ":" in line)
    name = about.get("model name", platform.machine())
    if "cpu family" in about and "model" in about:
        name += f" (family {about['cpu family']}, model {about['model']})"
    return name


def machine_name(cpu: str, cores: int) -> str:
    """Make a folder's name of a processor, without anything that tells whose it is."""
    plain = re.sub(r"\((R|TM|family .*)\)|\bCPU\b|@.*", " ", cpu, flags=re.IGNORECASE)
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return f"{slug}-{cores}-cores"


def git(*arguments: str) -> str:
    """Ask git something about this checkout; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Give the versions of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Say where and with what a run is made: nothing that names a host, a user or a path."""
    versions = {"python": platform.python_version(), **versions_of(PACKAGES)}
    import fasthist
    from fasthist.kernels.pool import thread_count

    versions["fasthist"] = fasthist.__version__
    threads = {"fasthist": thread_count(None)}
    try:
        import torch
    except ImportError:
        pass
    else:
        threads["torch"] = torch.get_num_threads()
    cpu = cpu_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "schema": 1,
        "machine": machine_name(cpu, cores or 1),
        "cpu": cpu,
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": bool(
            git("status", "--porcelain", "--untracked-files=all", "--", "fasthist", "benchmarks")
        ),
        "versions": versions,
    }


def expected_names(*, quick: bool, only: str) -> tuple[list[str], list[str]]:
    """Name the cases and the figures that a run has to leave a result of."""
    cases = [case.name for case in CASES.values() if case.quick or not quick]
    return (
        [name for name in cases if re.search(only, name)],
        [name for name in FIGURES if re.search(only, name)],
    )


def completed(records: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Give the record of each name in turn; what has none has failed."""
    found = {record["name"]: record for record in records}
    died = {OURS: {"failed": "left no result: the process ended in it, or before it"}}
    return [found.get(name, {"name": name, "libraries": died}) for name in names]


def new_path(folder: Path, date: str, commit: str) -> Path:
    """Choose a file name that nothing has yet."""
    stem = f"{date.replace(':', '').replace('-', '')}_{commit}"
    tries = [folder / f"{stem}.json", *(folder / f"{stem}_{i}.json" for i in range(2, 1000))]
    return next(path for path in tries if not path.exists())


def save(result: dict[str, Any], results: Path) -> Path:
    """Write a run to a new file.

    Raises
    ------
    FileExistsError
        Another process has made the file in this moment; it is not touched.
    """
    folder = results / result["machine"]
    folder.mkdir(parents=True, exist_ok=True)
    path = new_path(folder, result["date"], result["commit"])
    with path.open("x", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    return path


@click.command(epilog="Example: python benchmarks/run.py --only 'add_histograms/.*/transformer'")
@click.option("--quick", is_flag=True, help="Only the short suite.")
@click.option("--only", default="", metavar="REGEX", help="Only what has a matching name.")
@click.option("--tiny", default=0, metavar="N", help="At most N elements: tries the suite out.")
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), help="Where to keep it.")
def main(quick: bool, only: str, tiny: int, out: Path) -> None:
    """Run the benchmarks and keep the results, those that failed too; then exit with 1."""
    about = environment()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fasthist-") as folder:
        path = Path(folder, "records.jsonl")
        command = [sys.executable, "-m", "pytest", str(HERE), "-o", f"pythonpath={HERE}"]
        # Libraries' warnings are not ours to judge here; its table would show our times alone.
        command += ["-o", "filterwarnings=default", "--benchmark-quiet", "-q", "--tb=no"]
        command += [f"--records={path}", f"--only={only}", f"--tiny={tiny}"]
        status = subprocess.run([*command, *["--quick"] * quick], check=False).returncode
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    cases, figures = expected_names(quick=quick, only=only)
    result = {
        **about,
        "quick": quick,
        "only": only,
        "tiny": tiny,
        "seconds": round(time.perf_counter() - begin, 1),
        "cases": completed(records, cases),
        "figures": completed(records, figures),
    }
    saved = save(result, out)
    click.echo(
        f"{len(cases)} cases and {len(figures)} figures in {result['seconds']:.0f} s: {saved}"
    )
    if status:
        click.echo("Something failed; the file says what.", err=True)
    sys.exit(1 if status else 0)


if __name__ == "__main__":
    main()
