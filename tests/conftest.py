"""Shared knobs: which optional packages must be present, what the report tells, how hypothesis runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import signal
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fasthist.errors import DeviceError
from fasthist.kernels.cuda import require

# Read when a test imports them: no start-up messages, no search for an accelerator.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Spawned processes import the tests by the names that pytest gives them; behind all else, so that what is installed is tested.
sys.path.append(str(Path(__file__).parents[1]))

# In the background of a shell Ctrl-C is ignored, and so it would be by all processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
"""Whether a GPU is simulated: 10,000 elements then take a second."""

if SIMULATED:
    sys.setswitchinterval(1e-4)  # a tenth of the time: threads wait for each other at every barrier
settings.register_profile(
    "fasthist",
    deadline=None,
    max_examples=20 if SIMULATED else 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "ci", parent=settings.get_profile("fasthist"), derandomize=True, database=None
)
settings.load_profile("ci" if os.environ.get("CI") else "fasthist")

JIT_IS_OFF = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def pytest_addoption(parser):
    parser.addoption(
        "--require",
        default="",
        metavar="NAMES",
        help="comma list of optional packages; a missing one FAILS its tests instead of skipping them",
    )


def pytest_configure(config):
    if JIT_IS_OFF or SIMULATED:
        # Numpy's scalars warn where compiled integers wrap and compiled floats saturate, both meant to.
        for text in ("overflow encountered in", "invalid value encountered in", "divide by zero"):
            config.addinivalue_line("filterwarnings", f"ignore:{text}:RuntimeWarning")


def pytest_report_header(config):
    found = []
    for name in (
        "numpy",
        "numba",
        "numba_cuda",
        "ml_dtypes",
        "hypothesis",
        "torch",
        "jax",
        "tensorflow",
        "scipy",
    ):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} -")
    required = config.getoption("--require") or "nothing"
    return [", ".join(found), f"required: {required}; JIT {'off' if JIT_IS_OFF else 'on'}"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def backend(request, monkeypatch):
    """Run a test twice: as it stands, and with the name `histogram` in its module standing for a GPU's."""
    if request.param == "cuda":
        on_gpu = request.getfixturevalue("on_gpu")
        monkeypatch.setattr(request.module, "histogram", on_gpu.histogram)
    return request.param


@pytest.fixture
def on_gpu(need, monkeypatch):
    """Give the module of that name, with small chunks; skip where there is no GPU, nor the simulator of one."""
    need("numba_cuda")
    try:
        require()
    except DeviceError as error:
        pytest.skip(str(error))
    module = importlib.import_module("on_gpu")
    module.small_chunks(monkeypatch)
    return module


@pytest.fixture
def without_gpu():
    """Skip a test of what is said where no GPU can be used."""
    try:
        require()
    except DeviceError:
        return
    pytest.skip("a GPU can be used here")


@pytest.fixture
def need(request):
    """Import an optional package: missing, it skips the test, or fails it if --require names it."""
    required = {name for name in request.config.getoption("--require").split(",") if name}

    def get(name):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a package warns of at its import is not ours
                return importlib.import_module(name)
        except ImportError as error:
            if name.partition(".")[0] in required:
                pytest.fail(f"--require={name} was given, but: {error}")
            pytest.skip(f"{name} is not installed")

    return get
