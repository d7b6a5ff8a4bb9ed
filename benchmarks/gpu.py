"""Everything that needs a GPU, in one command of some minutes: its tests, the sanitizer, the benchmarks, a short table.

``python benchmarks/gpu.py`` writes ``bench_results/gpu/<name of the GPU>.json``.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from gpu_cases import Gpu, Target, cases, targets
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]

PACKAGES = (
    "fasthist",
    "numpy",
    "numba",
    "numba-cuda",
    "cuda-core",
    "torch",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cuda-cccl",
)

SMALL = """
import numpy, torch, fasthist
tree = {n: (torch.randn(70000, device="cuda") * 9).to(getattr(torch, n)) for n in
        ("float32", "float64", "bfloat16", "float16", "int8", "int64", "bool")}
tree["strided"] = torch.randn(300, 301, device="cuda")[:, ::2]
for buckets in ("auto", 30, [-1.0, 0.0, 1.0]):
    assert all(h.num for h in fasthist.histograms(tree, buckets=buckets).values())
"""
"""What runs under the sanitizer."""


class Budget:
    """What is left of the time that all may take.

    Parameters
    ----------
    seconds : float
    now : callable
        The clock.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    def left(self) -> float:
        """Give the seconds that are left, not below 0."""
        return max(0.0, self._end - self._now())


def missing() -> str:
    """Say what is missing here, and what installs it; empty if nothing is."""
    try:
        import torch
    except ImportError:
        return "torch is not installed. Run: pip install torch (a build for CUDA)."
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU. It needs an NVIDIA GPU, its driver, and a build for CUDA: pip install torch."
    from fasthist.errors import DeviceError
    from fasthist.kernels.cuda import require

    try:
        require()
    except DeviceError as error:
        return str(error)
    return ""


def machine() -> dict[str, Any]:
    """Say what the machine is."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    query = "driver_version,clocks.max.memory,clocks.max.sm,memory.total"
    told = (
        shutil.which("nvidia-smi")
        and _output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], 20)[1]
    )
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "gpu": properties.name,
        "processors": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        query: (told or "").strip().splitlines()[:1],
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def _output(command: list[str], seconds: float) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=seconds, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        told = expired.stdout or b""
        return 124, told.decode() if isinstance(told, bytes) else told
    return done.returncode, done.stdout


def run_tests(budget: Budget) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "cuda",
        "tests",
        "--require=numba_cuda,torch",
    ]
    status, told = _output(command, min(budget.left(), 150))
    lines = told.strip().splitlines()
    return {"status": status, "summary": lines[-1] if lines else "", "tail": lines[-30:]}


def sanitize(budget: Budget) -> dict[str, Any]:
    """Run compute-sanitizer, where it is, over some small tensors."""
    places = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    tool = shutil.which("compute-sanitizer") or next(
        (found for place in places if (found := shutil.which(f"{place}/bin/compute-sanitizer"))),
        None,
    )
    if tool is None:
        return {"found": False}
    found: dict[str, Any] = {"found": True}
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, sys.executable, "-c", SMALL]
        status, told = _output(command, min(budget.left() / 3, 75))
        lines = (
            re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY.*", told) or told.strip().splitlines()[-1:]
        )
        found[name] = {"status": status, "summary": lines[-1] if lines else ""}
    return found


def run_cases(
    gpu: Gpu, budget: Budget, tell: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Measure one case after the other while there is time.

    Returns
    -------
    found : dict
        By the name of the case.
    skipped : list of str
        Cases for which there was none.
    """
    found: dict[str, Any] = {}
    skipped: list[str] = []
    for name, measure in cases(gpu):
        if budget.left() < 5:
            skipped.append(name)
            continue
        try:
            one = measure()
        except Exception as error:  # noqa: BLE001 - one case that fails does not end the others
            found[name] = {
                "seconds": {},
                "failed": {"all": f"{type(error).__name__}: {error}"[:300]},
            }
            tell(f"{name}: {found[name]['failed']['all']}")
            continue
        if one["bytes"]:
            one["GB/s"] = {who: one["bytes"] / 1e9 / took for who, took in one["seconds"].items()}
        found[name] = one
        tell(
            f"{name}: "
            + ", ".join(f"{who} {took * 1e6:,.0f} us" for who, took in one["seconds"].items())
        )
    return found, skipped


def table(rows: list[Target]) -> Table:
    """Draw the rows."""
    drawn = Table("what", "target", "measured", "holds?")
    for row in rows:
        drawn.add_row(
            row.what, row.target, row.measured, {True: "yes", False: "NO", None: "-"}[row.holds]
        )
    return drawn


@click.command(epilog="Example: python benchmarks/gpu.py --minutes 7.5")
@click.option(
    "--minutes",
    default=7.5,
    show_default=True,
    help="Time for all of it; what does not fit is left out.",
)
@click.option(
    "--results",
    default=ROOT / "bench_results" / "gpu",
    type=click.Path(path_type=Path),
    help="Where the file goes.",
)
def main(minutes: float, results: Path) -> None:
    """Run the GPU's tests, the sanitizer and the benchmarks, and keep what came out."""
    console = Console(width=120)
    what = missing()
    if what:
        console.print(what, markup=False)
        raise SystemExit(2)
    import torch

    budget = Budget(60 * minutes)
    told = machine()
    console.print(told, markup=False)
    # The benchmarks first: the tests and the sanitizer can be run again on any GPU.
    found, skipped = run_cases(
        Gpu(torch), Budget(min(budget.left(), 240)), lambda line: console.print(line, markup=False)
    )
    torch.cuda.empty_cache()
    outcome = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python benchmarks/gpu.py",
        "machine": told,
        "cases": found,
        "skipped": skipped,
        "tests": run_tests(budget),
        "sanitizer": sanitize(budget),
    }
    rows = targets(found)
    outcome["targets"] = [row._asdict() for row in rows]
    results.mkdir(parents=True, exist_ok=True)
    path = results / (re.sub(r"\W+", "-", told["gpu"].lower()).strip("-") + ".json")
    path.write_text(json.dumps(outcome, indent=1) + "\n", "utf-8")
    console.print(table(rows))
    console.print(f"tests: {outcome['tests']['summary']}", markup=False)
    console.print(f"sanitizer: {outcome['sanitizer']}", markup=False)
    console.print(f"skipped for lack of time: {skipped or 'nothing'}; kept in {path}", markup=False)


if __name__ == "__main__":
    main()
