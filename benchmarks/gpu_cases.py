"""The table of what is measured on a GPU, and every library that is asked the same there; as `cases.py` is for the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import peers
import writers
from cases import OURS
from data import Data
from gpu_data import BILLION, DISTRIBUTIONS, DeviceData, DeviceModel
from peers import Peer, Run, Setup

GIB, MIB = 1 << 30, 1 << 20

AUTO = 'fasthist, "auto"'
READ = "torch.sum"
"""The ceiling: what it takes to read every byte once, and to do next to nothing with it."""
HISTC = "torch.histc, min, max"
COPY = ".cpu() and torch make_histogram"
ONE = 'one tensor, "tensorflow"'
ONE_AUTO = 'one tensor, "auto"'
OUR_OWN = (OURS, AUTO, ONE, ONE_AUTO)

ON_DEVICE = "on the device"
DONE = "until done"
IDLE = "returns, idle"
BUSY = "returns, behind work"
"""How a case is timed, see `gpu_measure.CLOCKS`."""

RANGE = 0.12
"""Half of the range that `histogram_even` is given: nothing of 1 GiB of N(0, 0.02) lies outside six deviations."""


# -- how each library is asked -----------------------------------------------------------------------------


def _histogram(buckets: str) -> Setup:
    def setup(data: Data) -> Run:
        import fasthist

        tensor = data.tensor
        return lambda: fasthist.histogram(tensor, buckets=buckets)

    return setup


def _histograms(buckets: str) -> Setup:
    def setup(data: DeviceModel) -> Run:
        import fasthist

        tree = data.tree
        return lambda: fasthist.histograms(tree, buckets=buckets)

    return setup


def _read(data: Data) -> Run:
    import fasthist

    tensor = data.tensor
    return lambda: fasthist.histogram(tensor).num


def _sum(data: Data) -> Run:
    import torch

    tensor = data.tensor
    if (
        tensor.dtype.itemsize == 1
    ):  # of float8 there is no sum, and that of int8 is far from the ceiling
        tensor = tensor.view(torch.float32)
    return tensor.sum


def _histc(data: Data) -> Run:
    import torch

    tensor = data.tensor
    return lambda: (torch.histc(tensor, peers.UNIFORM), tensor.min(), tensor.max())


def _cupy(data: Data) -> Run:
    import cupy

    tensor = cupy.from_dlpack(data.tensor)
    return lambda: cupy.histogram(tensor, bins=peers.UNIFORM)


def _cuda_compute(data: Data) -> Run:
    import torch
    from cuda.compute import histogram_even

    tensor = data.tensor
    counts = torch.zeros(peers.UNIFORM, dtype=torch.int32, device=tensor.device)
    # The type of the levels is read off them: no numbers of Python's.
    arguments = {
        "d_samples": tensor, "d_histogram": counts, "num_output_levels": peers.UNIFORM + 1,
        "lower_level": np.float32(-RANGE), "upper_level": np.float32(RANGE), "num_samples": tensor.numel(),
    }  # fmt: skip
    return lambda: histogram_even(**arguments)


def _copy(data: Data) -> Run:
    import torch.utils.tensorboard as torch_tensorboard
    from torch.utils.tensorboard.summary import make_histogram

    with torch_tensorboard.SummaryWriter(data.folder()) as writer:
        bins = writer.default_bins
    tensor = data.tensor
    return lambda: make_histogram(tensor.cpu().float().numpy().astype(float), bins)


CALLS: dict[str, dict[str, Peer]] = {
    "histogram": {
        OURS: Peer(_histogram("tensorflow")),
        AUTO: Peer(_histogram("auto")),
        READ: Peer(_sum, difference="of 8-bit formats: of the same bytes as float32"),
        HISTC: Peer(_histc, difference=f"{peers.UNIFORM} uniform buckets; three calls"),
        "cupy.histogram": Peer(
            _cupy, difference=f"{peers.UNIFORM} uniform buckets", needs=("cupy",)
        ),
        "cuda.compute.histogram_even": Peer(
            _cuda_compute,
            difference=f"{peers.UNIFORM} uniform buckets, range known",
            needs=("cuda.compute",),
        ),
    },
    "histogram, read": {
        OURS: Peer(_read),
        COPY: Peer(
            _copy,
            difference="on a small tensor, as ours here; for a larger one, scale by its bytes",
            needs=("tensorboard",),
        ),
    },
    "histograms": {
        OURS: Peer(_histograms("tensorflow")),
        AUTO: Peer(_histograms("auto")),
        ONE: Peer(_histogram("tensorflow"), difference="the same bytes"),
        ONE_AUTO: Peer(_histogram("auto"), difference="the same bytes"),
    },
    "add_histograms": {
        OURS: Peer(writers.model_ours(on_disk=False)),
        "torch": Peer(
            writers.model_torch(on_disk=False),
            difference="a loop of add_histogram, which copies every tensor to the host",
            needs=("tensorboard",),
        ),
    },
}
"""How each library is asked; `Peer.setup` is given a `DeviceData` or a `DeviceModel`."""


# -- what is asked -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuCase:
    """One row: a call on some values, how it is timed, and who takes part.

    Parameters
    ----------
    call : str
        A key of `CALLS`.
    format : str
    what : str
        A distribution of `gpu_data.DISTRIBUTIONS`, or a model.
    size : int
        Elements; 0 for a model.
    clock : str
        A key of `gpu_measure.CLOCKS`.
    libraries : tuple of str
        Keys of ``CALLS[call]``, ours first.
    """

    call: str
    format: str
    what: str
    size: int
    clock: str
    libraries: tuple[str, ...]

    @property
    def name(self) -> str:
        """What results are kept under."""
        size = f"/{self.size}" if self.call == "histogram, read" else ""
        return f"{self.call}/{self.format}/{self.what}{size}/{self.clock}"

    def data(self, place: str, *, tiny: int = 0) -> Any:
        """Give the values, which are made on `place`; with `tiny`, only so many of them, or a model with few."""
        if self.size:
            size = min(tiny, self.size) or self.size
            return DeviceData(self.format, self.what, size, place=place)
        return DeviceModel(self.format, "", 0, model=self.what, tiny=bool(tiny), place=place)


def large(format: str, distribution: str) -> GpuCase:
    """Give the case of 1 GiB in one tensor."""
    size = GIB // {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}.get(format, 1)
    libraries = (OURS, AUTO, READ)
    if (format, distribution) == ("float32", "normal"):
        libraries = tuple(CALLS["histogram"])
    return GpuCase("histogram", format, distribution, size, ON_DEVICE, libraries)


def small(size: int, *libraries: str) -> GpuCase:
    """Give the case of a float32 tensor whose histogram is read at once."""
    return GpuCase("histogram, read", "float32", "normal", size, DONE, (OURS, *libraries))


def logged(format: str, model: str, clock: str) -> GpuCase:
    """Give the case of a model that is handed to a writer."""
    # torch's loop takes seconds for the small model, and copies all of it.
    libraries = (OURS, "torch") if (model, clock) == ("transformer", IDLE) else (OURS,)
    return GpuCase("add_histograms", format, model, 0, clock, libraries)


def many(clock: str) -> GpuCase:
    """Give the case of the 300 tensors against the same bytes in one."""
    return GpuCase("histograms", "bfloat16", BILLION, 0, clock, tuple(CALLS["histograms"]))


SKEWED = ("float32", "bfloat16")
"""Formats of which every distribution is measured."""
MODELS = (("float32", "transformer"), ("bfloat16", BILLION))
COPIED = 64 * MIB // 4
LATENCY = (64, 10**6)


def _cases() -> Iterator[GpuCase]:
    # The most telling ones first, in case there is no time for all.
    for distribution in DISTRIBUTIONS:
        for format in SKEWED:
            yield large(format, distribution)
    for format, model in MODELS:
        for clock in (IDLE, BUSY):
            yield logged(format, model, clock)
    yield many(ON_DEVICE)
    yield small(COPIED, COPY)
    for size in LATENCY:
        yield small(size)
    yield many(DONE)
    for format in ("float16", "float8_e4m3fn", "int8", "float64"):
        yield large(format, "normal")


CASES: dict[str, GpuCase] = {case.name: case for case in _cases()}
