"""The first histogram of a process: with a cache, without one, and ten at once; and what it says while it compiles."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import read_terminal
from test_layers import PACKAGE

COUNT = "import fasthist, numpy; print(fasthist.histogram(numpy.ones(1000, 'f4')).num)"

# Of two formats and both kinds of buckets, in several threads: many kernels, and one line.
COUNT_MUCH = """
import fasthist, numpy
for dtype in ("f4", "i4", "f8"):
    for buckets in ("auto", [0, 1]):
        print(fasthist.histogram(numpy.ones(10, dtype), buckets=buckets, threads=2).num)
"""

NOTICE = (
    "fasthist: compiling kernels for this machine, once; this takes some ten seconds. "
    "To do it ahead, run: fasthist warmup\n"
)

SILENCED = f"""
import logging
logging.getLogger("fasthist").setLevel(logging.ERROR)
{COUNT}
"""

IMPATIENT = f"""
import numba
import fasthist.kernels.jit
fasthist.kernels.jit._PATIENCE = 0
print(numba.njit(lambda x: x + 1)(1))
{COUNT}
"""

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
    assert start(sums, tmp_path / "cache", tmp_path).communicate() == ("3.0\n", NOTICE)
    for file in package.rglob("*.py"):
        os.utime(file, (0, 0))  # as when the same version is installed once more
    assert start(sums, tmp_path / "cache", tmp_path).communicate() == ("3.0\n", "")
    source = (package / "kernels" / "cpu.py").read_text("utf-8")
    changed = source.replace(
        "        sums[chunk, 0] = total\n", "        sums[chunk, 0] = total + 1\n"
    )
    assert changed != source
    (package / "kernels" / "cpu.py").write_text(changed, "utf-8")
    assert start(sums, tmp_path / "cache", tmp_path).communicate()[0] == "4.0\n"


def test_ten_processes_on_one_cold_cache(tmp_path):
    processes = [start(COUNT, tmp_path) for _ in range(10)]
    answers = [process.communicate() for process in processes]
    assert [out for out, _ in answers] == ["1000\n"] * 10
    assert {err for _, err in answers} <= {"", NOTICE}
    assert list(tmp_path.rglob("*.nbi"))


def test_nowhere_to_keep_a_cache(tmp_path):
    out, err = start(WITHOUT_A_CACHE, tmp_path).communicate()
    assert out == "1000\n"
    assert err.count("\n") == 1
    assert "in every process, for its cache can be written nowhere (NUMBA_CACHE_DIR sets" in err
    assert not list(tmp_path.rglob("*.nbi"))


def test_who_waits_is_told_why_once(tmp_path):
    assert start(COUNT_MUCH, tmp_path).communicate() == ("10\n" * 6, NOTICE)
    # What comes from the cache is not waited for, and a kernel of somebody else is not ours to speak of.
    assert start(COUNT_MUCH, tmp_path).communicate() == ("10\n" * 6, "")
    assert start(IMPATIENT, tmp_path).communicate() == ("2\n1000\n", "")


def test_who_waits_can_have_silence(tmp_path):
    assert start(SILENCED, tmp_path).communicate() == ("1000\n", "")


def test_a_bar_moves_while_kernels_compile(tmp_path):
    terminal, stderr = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "fasthist", "demo", "--epochs", "1", "--log-dir", tmp_path / "runs"],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "TERM": "xterm", "COLUMNS": "100"},
    ) as command:
        os.close(stderr)
        seen = read_terminal(terminal)
        assert b"compiling" not in command.communicate()[0]
    assert command.returncode == 0
    assert "fasthist: compiling" not in seen
    compiling, _, training = seen.rpartition("compiling kernels")
    assert "4/4" in training
    counts = {int(done): int(total) for done, total in re.findall(r"(\d+)/(\d+)", compiling)}
    assert len(counts) > 5
    assert max(counts) == pytest.approx(counts[max(counts)], rel=0.3)


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
