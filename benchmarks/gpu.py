"""Everything that needs a GPU, in one command of less than 8 minutes: ``python benchmarks/gpu.py``.

The benchmarks, the tests that need a GPU, compute-sanitizer where it is; then a short table. What came out is kept in
``bench_results/gpu.json``, beside that of other GPUs; `report.py` brings it into the README.

Before it, ``pip install '.[benchmark,test,cuda13]'``; cupy-cuda13x and cuda-cccl[cu13] take part where they are installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from cases import OURS
from gpu_cases import CASES
from gpu_measure import LEAST, LOST, Budget
from gpu_targets import COMMAND, FILE, keep, kept, profile, remarks, rows
from rich.console import Console
from rich.table import Table
from run import RESULTS, environment, versions_of

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGES = (
    "numba-cuda", "cuda-core", "cuda-bindings", "cuda-toolkit", "cupy", "cupy-cuda12x", "cupy-cuda13x", "cuda-cccl",
)  # fmt: skip

MEASURING = 0.55
"""What of the time the benchmarks may take: the tests and the sanitizer can be run again without this command."""

TESTING = 0.6
"""What of the rest the tests may take, if there is a sanitizer."""

CHECKED = """
import numpy, torch, fasthist
names = "float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "int8", "int64", "bool"
tree = {name: (torch.randn(70_001, device="cuda") * 9).to(getattr(torch, name)) for name in names}
tree["strided"] = torch.randn(300, 301, device="cuda")[:, ::2]
tree["unaligned"] = torch.randn(5000, device="cuda")[3:]
assert all(found.num for found in fasthist.histograms(tree).values())
few = {name: tree[name] for name in ("float32", "bfloat16", "int8", "strided")}
for buckets in 30, [-1.0, 0.0, 1.0]:
    assert all(found.num for found in fasthist.histograms(few, buckets=buckets).values())
"""
"""What runs under the sanitizer."""


# -- the machine -------------------------------------------------------------------------------------------


def missing() -> list[str]:
    """Say what is missing here, and what installs it."""
    found = []
    if importlib.util.find_spec("torch") is None:
        found.append("torch is not installed. Run: pip install torch")
    else:
        import torch

        if torch.version.cuda is None:
            found.append(
                f"torch {torch.__version__} is built without CUDA. Run: pip install --force-reinstall torch"
            )
        elif not torch.cuda.is_available():
            found.append(
                "torch finds no GPU. An NVIDIA GPU and its driver are needed; nvidia-smi tells whether they are there."
            )
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"):
        found.append("Numba is to simulate a GPU. Run: unset NUMBA_ENABLE_CUDASIM")
    from fasthist.errors import DeviceError
    from fasthist.kernels.cuda import require

    try:
        require()
    except DeviceError as error:
        found.append(str(error).partition(" Hint:")[0])
    return found


def describe(properties: Any, smi: str) -> dict[str, Any]:
    """Say what the GPU is.

    Parameters
    ----------
    properties : object
        What ``torch.cuda.get_device_properties`` gives.
    smi : str
        What nvidia-smi answers to `SMI`; empty where there is none.
    """
    first = smi.strip().split("\n")[0]
    told = dict(zip(SMI, first.split(", "), strict=True)) if first else {}
    machine = {
        "gpu": properties.name,
        "processors": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_GiB": round(properties.total_memory / 2**30, 1),
        "driver": told.get("driver_version", "unknown"),
        "nvidia-smi": told,
    }
    # Older versions of torch do not tell these. Twice a clock: the memory of all GPUs of these years has a double data rate.
    width = getattr(properties, "memory_bus_width", 0)
    clock = getattr(properties, "memory_clock_rate", 0) * 1e3
    if not clock and (digits := re.match(r"\d+", told.get("clocks.max.memory", ""))):
        clock = int(digits[0]) * 1e6
    if width and clock:
        machine |= {"memory_clock_MHz": clock / 1e6, "memory_bus_bits": width}
        machine["theoretical_GB/s"] = round(2 * clock * width / 8 / 1e9, 1)
    return machine


SMI = ("driver_version", "clocks.max.memory", "clocks.max.sm", "power.limit", "memory.total")


def machine() -> dict[str, Any]:
    """Say what the GPU of this machine is."""
    import torch

    smi = ""
    if shutil.which("nvidia-smi"):
        query = ["--id=0", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"]
        status, told = output(["nvidia-smi", *query], 20)
        smi = "" if status else told
    return describe(torch.cuda.get_device_properties(0), smi) | {"cuda": torch.version.cuda}


# -- other processes ---------------------------------------------------------------------------------------


def output(
    command: list[str], seconds: float, *, shown: bool = False, **variables: str
) -> tuple[int, str]:
    """Run a command, and end it and all that it has started when its time is up.

    Parameters
    ----------
    command : list of str
    seconds : float
    shown : bool
        Its standard output goes to the screen, and is not kept.
    variables : str
        Of the environment.

    Returns
    -------
    status : int
        124 if its time was up.
    told : str
        Without what would tell whose machine it is.
    """
    with (
        tempfile.TemporaryFile() as file
    ):  # and not a pipe, which whatever it has left behind could hold open
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=None if shown else file,
            stderr=file if shown else subprocess.STDOUT, start_new_session=True, env={**os.environ, **variables},
        )  # fmt: skip
        try:
            status = process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        file.seek(0)
        told = file.read().decode(errors="replace").replace(str(ROOT), ".")
    home = str(Path.home())
    return status, told.replace(home, "~") if home != "/" else told


def last_line(told: str) -> str:
    """Give the last line that says something."""
    return next((line for line in reversed(told.splitlines()) if line.strip()), "").strip()


# -- what is done ------------------------------------------------------------------------------------------

Start = Callable[[list[str], float], tuple[list[dict[str, Any]], int, str]]


def start_measuring(names: list[str], seconds: float) -> tuple[list[dict[str, Any]], int, str]:
    """Measure cases in a process of its own: give the records that it wrote, its exit status, and its errors."""
    with tempfile.TemporaryDirectory(prefix="fasthist-") as folder:
        path = Path(folder, "records.jsonl")
        command = [sys.executable, str(HERE / "gpu_measure.py"), str(path), str(seconds), *names]
        # Before what is there already: that may be where fasthist's own packages are.
        paths = [str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        status, told = output(
            command, seconds + LEAST, shown=True, PYTHONPATH=os.pathsep.join(paths)
        )
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines], status, told


def run_cases(
    names: list[str], budget: Budget, start: Start = start_measuring
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure one case after the other while there is time, in a new process whenever one has died.

    Returns
    -------
    records : list of dict
        As `gpu_measure.measure` gives. A case in which the process died is kept as failed.
    skipped : list of str
        Cases for which there was no time.
    """
    records: list[dict[str, Any]] = []
    left = list(names)
    while left and budget.left() >= LEAST:
        found, status, told = start(left, budget.left())
        records += found
        done = {record["name"] for record in records}
        left = [name for name in left if name not in done]
        if status == 0:
            break  # what is left had no time
        if left and (status != LOST or not found) and budget.left() >= LEAST:
            late = re.search(
                r"^Timeout \(.*", told, flags=re.MULTILINE
            )  # then come many lines of where it was
            why = f"the process ended in it with status {status}: {late[0] if late else last_line(told)}"
            died = {"failed": why, "tail": told.splitlines()[-20:]}
            records.append({"name": left.pop(0), "libraries": {OURS: died}})
    return records, left


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU: how they ended, and the last lines."""
    if seconds < LEAST:
        return {"status": None, "summary": "skipped, no time was left", "tail": []}
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
    status, told = output(command, seconds)
    summary = last_line(told).strip("= ")
    if status == 124:
        summary = f"not done after {seconds:.0f} s; so far: {summary}"
    return {"status": status, "summary": summary, "tail": told.splitlines()[-40:]}


def find_sanitizer() -> str | None:
    """Find compute-sanitizer where CUDA's toolkit puts it."""
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    if home := os.environ.get("CUDA_HOME"):
        folders.insert(1, str(Path(home, "bin")))
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def sanitize(tool: str | None, budget: Budget) -> dict[str, Any]:
    """Run compute-sanitizer over some small tensors, and keep the line in which it says what it found."""
    kinds = ("memcheck", "racecheck")
    if tool is None:
        return {kind: {"status": None, "summary": "compute-sanitizer not found"} for kind in kinds}
    found: dict[str, Any] = {}
    for later, kind in zip((1, 0), kinds, strict=True):
        seconds = budget.left() / (1 + later)
        if seconds < LEAST:
            found[kind] = {"status": None, "summary": "skipped, no time was left"}
            continue
        command = [tool, "--tool", kind, "--error-exitcode", "99", sys.executable, "-c", CHECKED]
        # Each tensor in memory of its own, or memcheck could not see where it ends.
        status, told = output(command, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        summaries = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY.*)", told)
        summary = summaries[-1] if summaries else last_line(told)
        if status == 124:
            summary = f"not done after {seconds:.0f} s; so far: {summary}"
        found[kind] = {"status": status, "summary": summary, "tail": told.splitlines()[-20:]}
    return found


def table(outcome: dict[str, Any]) -> Table:
    """Draw the claims."""
    drawn = Table("what", "target", "measured", "holds?")
    for row in rows(outcome):
        drawn.add_row(*(cell.replace("*", "").replace("`", "") for cell in row))
    return drawn


@click.command(epilog=f"Example: {COMMAND} --minutes 4")
@click.option(
    "--minutes",
    default=7.5,
    show_default=True,
    help="For all of it; what does not fit is left out.",
)
@click.option(
    "--results", default=RESULTS / FILE, type=click.Path(path_type=Path), help="Where to keep it."
)
def main(minutes: float, results: Path) -> None:
    """Run the benchmarks, the tests and the sanitizer on the GPU of this machine, and keep what came out."""
    console = Console(width=150, highlight=False)
    budget = Budget(60 * minutes)
    begin = time.monotonic()
    lacking = missing()
    if lacking:
        click.echo("\n- ".join(["Nothing can be measured on a GPU here:", *lacking]), err=True)
        sys.exit(2)
    try:
        kept(results)  # now, and not in 8 minutes
    except ValueError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    about = environment()
    about["versions"] |= versions_of(PACKAGES)
    outcome: dict[str, Any] = {
        **about, "machine": machine(), "command": COMMAND, "minutes": minutes, "seconds": 0.0, "cases": [], "skipped": list(CASES),
        "tests": {"status": None, "summary": "not run yet"}, "sanitizer": {}, "profile": [],
    }  # fmt: skip
    console.print(outcome["machine"], about["versions"], markup=False)

    def save() -> None:
        # After each step, so that nothing is lost of what was measured.
        outcome["seconds"] = round(time.monotonic() - begin, 1)
        keep(results, outcome)

    outcome["cases"], outcome["skipped"] = run_cases(list(CASES), Budget(MEASURING * budget.left()))
    outcome["profile"] = profile(outcome)
    outcome["targets"] = [
        dict(zip(("what", "target", "measured", "holds"), row, strict=True))
        for row in rows(outcome)
    ]
    save()
    sanitizer = find_sanitizer()
    outcome["tests"] = run_tests(budget.left() * (TESTING if sanitizer else 1))
    save()
    outcome["sanitizer"] = sanitize(sanitizer, budget)
    save()
    console.print(table(outcome))
    for remark in remarks(outcome):
        console.print(remark, markup=False)
    console.print(
        f"{outcome['seconds']:.0f} s; kept in {results}. Next: python benchmarks/report.py",
        markup=False,
    )


if __name__ == "__main__":
    main()
