"""The first histogram of a process: with a cache, without one, and ten at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from test_layers import PACKAGE

COUNT = "import fasthist, numpy; print(fasthist.histogram(numpy.ones(1000, 'f4')).num)"

WITHOUT_A_CACHE = f"""
from numba.core import caching
caching.FunctionCache._impl_class._locator_classes = []
{COUNT}
"""

IS_WARM = """
import tempfile
import fasthist
from fasthist.kernels import batch, cpu, cpu_buckets, cpu_patterns, outlines, packing
from numba.core.dispatcher import Dispatcher
fasthist.warmup()
with tempfile.TemporaryDirectory() as folder, fasthist.SummaryWriter(folder) as writer:
    writer.add_histogram("a", [1.0, 2.0], 1)
for module in (batch, cpu, cpu_buckets, cpu_patterns, outlines, packing):
    for name, kernel in vars(module).items():
        if isinstance(kernel, Dispatcher) and kernel.stats.cache_misses:
            print(name, *kernel.stats.cache_misses)
"""


def start(code: str, cache: Path, path: Path | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=path,  # which is searched first
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_change_in_one_kernel_reaches_those_that_inline_it(tmp_path):
    package = tmp_path / "fasthist"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    sums = "import fasthist; print(fasthist.histogram([1.0, 2.0]).sum)"
    assert start(sums, tmp_path / "cache", tmp_path).communicate() == ("3.0\n", "")
    source = (package / "kernels" / "cpu.py").read_text("utf-8")
    changed = source.replace(
        "        sums[chunk, 0] = total\n", "        sums[chunk, 0] = total + 1\n"
    )
    assert changed != source
    (package / "kernels" / "cpu.py").write_text(changed, "utf-8")
    assert start(sums, tmp_path / "cache", tmp_path).communicate() == ("4.0\n", "")


def test_ten_processes_on_one_cold_cache(tmp_path):
    processes = [start(COUNT, tmp_path) for _ in range(10)]
    assert [process.communicate() for process in processes] == [("1000\n", "")] * 10
    assert list(tmp_path.rglob("*.nbi"))


def test_nowhere_to_keep_a_cache(tmp_path):
    assert start(WITHOUT_A_CACHE, tmp_path).communicate() == ("1000\n", "")
    assert not list(tmp_path.rglob("*.nbi"))


def test_after_a_warmup_nothing_is_compiled(tmp_path):
    warmup = subprocess.run(
        [sys.executable, "-m", "fasthist", "warmup"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (warmup.returncode, warmup.stderr) == (0, "")
    assert start(IS_WARM, tmp_path).communicate() == ("", "")
