"""What is measured on a GPU: our calls and the peers on the same tensor, in turns, and the time a training thread waits."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fasthist

Run = Callable[[], Any]

DISTRIBUTIONS = ("normal", "constant", "90 % zeros", "all exponents")
FORMATS = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int8", "float64")
READ = "torch.sum"
"""The ceiling: what it takes to read every element once."""


class Gpu(NamedTuple):
    """Where tensors are, and how runs are timed there.

    Attributes
    ----------
    torch : module
    device : str
        Of torch; "cpu" in tests.
    nbytes : int
        Of a large tensor.
    rounds : int
    """

    torch: Any
    device: str = "cuda"
    nbytes: int = 1 << 30
    rounds: int = 9

    def wait(self) -> None:
        """Wait until all is done."""
        if self.device != "cpu":
            self.torch.cuda.synchronize()

    def time(self, run: Run) -> float:
        """Give the seconds that the device spends on a run."""
        if self.device == "cpu":
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin
        cuda = self.torch.cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        # The device is kept busy for a millisecond, so that it does not wait for Python between two launches.
        cuda._sleep(2_000_000)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def in_turns(self, runs: dict[str, Run]) -> tuple[dict[str, float], dict[str, str]]:
        """Time some runs, one round of each after the other.

        Returns
        -------
        medians : dict of str to float
            Seconds.
        failed : dict of str to str
            Why a run gave no time.
        """
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        failed: dict[str, str] = {}
        for turn in range(self.rounds + 1):
            for name, run in runs.items():
                if name in failed:
                    continue
                try:
                    took = self.time(run)
                except Exception as error:  # noqa: BLE001 - a peer that fails is told of, and the others go on
                    failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                    continue
                if turn:  # the first one compiles
                    seconds[name].append(took)
        return {
            name: statistics.median(found)
            for name, found in seconds.items()
            if found and name not in failed
        }, failed


def large(gpu: Gpu, format: str, distribution: str) -> Any:
    """Make a tensor of `nbytes` on the device."""
    torch = gpu.torch
    dtype = getattr(torch, format)
    size = gpu.nbytes // torch.empty(0, dtype=dtype).element_size()
    generator = torch.Generator(gpu.device).manual_seed(1)
    if distribution == "constant":
        return torch.full((size,), 0.5, device=gpu.device).to(dtype)
    if distribution == "all exponents":
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        most = 1 << (8 * dtype.itemsize - 1)
        low, high = (0, 256) if dtype.itemsize == 1 else (-most, most - 1)
        drawn = torch.randint(
            low, high, (size,), dtype=bits, device=gpu.device, generator=generator
        )
        return drawn.view(dtype)
    # In parts, since all at once would be four times as large in between.
    parts = []
    for begin in range(0, size, 1 << 26):
        length = min(1 << 26, size - begin)
        part = torch.randn(length, device=gpu.device, generator=generator)
        part *= 20 if dtype == torch.int8 else 0.02
        if distribution == "90 % zeros":
            part[torch.rand(length, device=gpu.device, generator=generator) < 0.9] = 0
        parts.append(part.to(dtype))
    return torch.cat(parts)


def contenders(gpu: Gpu, tensor: Any, format: str, distribution: str) -> dict[str, Run]:
    """Give what is timed on a tensor: our two kinds of buckets, the read ceiling, and libraries."""
    torch = gpu.torch
    # torch sums no float8: the same bytes as int8 then.
    summed = tensor.view(torch.int8) if format.startswith("float8") else tensor
    runs: dict[str, Run] = {
        "fasthist": lambda: fasthist.histogram(tensor, buckets="tensorflow"),
        "fasthist, auto": lambda: fasthist.histogram(tensor),
        READ: summed.sum,
    }
    if format == "float32" and distribution == "normal":
        runs["torch.histc, min, max"] = lambda: (
            torch.histc(tensor, 64),
            tensor.min(),
            tensor.max(),
        )
        runs["cupy.histogram"] = lambda: _cupy(tensor)
        runs["cuda.compute.histogram_even"] = lambda: _cuda_compute(torch, tensor)
    return runs


def _cupy(tensor: Any) -> Any:
    import cupy

    return cupy.histogram(cupy.from_dlpack(tensor), bins=64)


def _cuda_compute(torch: Any, tensor: Any) -> Any:
    from cuda.compute import histogram_even

    counts = torch.zeros(64, dtype=torch.int32, device=tensor.device)
    histogram_even(
        d_samples=tensor, d_histogram=counts, num_output_levels=65, lower_level=-0.12, upper_level=0.12,
        num_samples=tensor.numel(),
    )  # fmt: skip
    return counts


def distributions(gpu: Gpu) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Give the cases of one large tensor: a name, and what measures it."""
    for format in FORMATS:
        for distribution in DISTRIBUTIONS:
            if distribution == "normal" or format in FORMATS[:2]:

                def measure(
                    format: str = format, distribution: str = distribution
                ) -> dict[str, Any]:
                    tensor = large(gpu, format, distribution)
                    seconds, failed = gpu.in_turns(contenders(gpu, tensor, format, distribution))
                    nbytes = tensor.numel() * tensor.element_size()
                    return {"bytes": nbytes, "seconds": seconds, "failed": failed}

                yield f"{format}/{distribution}", measure


def copied(gpu: Gpu) -> dict[str, Any]:
    """Time what users do today, on a sixteenth of a large tensor: copy it, then torch's own ``add_histogram``."""
    from torch.utils.tensorboard.summary import make_histogram

    from fasthist.buckets import tensorflow_buckets

    small = gpu._replace(nbytes=gpu.nbytes // 16, rounds=3)
    tensor = large(small, "float32", "normal")

    bins = tensorflow_buckets().edges

    def today() -> None:
        small.wait()
        make_histogram(tensor.cpu().numpy().astype(float), bins)

    runs: dict[str, Run] = {
        "fasthist": lambda: fasthist.histogram(tensor),
        ".cpu() and torch's histogram": today,
    }
    seconds, failed = small.in_turns(runs)
    return {"bytes": small.nbytes, "seconds": seconds, "failed": failed}


def shapes(parameters: int) -> list[int]:
    """Give the sizes of 300 tensors with so many elements in all: 150 matrices, 150 vectors."""
    width = max(4, int((parameters / 150) ** 0.5))
    return [width * width, width] * 150


def many_tensors(gpu: Gpu) -> dict[str, Any]:
    """Time 300 tensors of one model in bfloat16, and the same bytes in one tensor."""
    torch = gpu.torch
    sizes = shapes(gpu.nbytes)  # 1 Gi elements
    whole = torch.cat([
        (torch.randn(size, device=gpu.device) * 0.02).to(torch.bfloat16) for size in sizes
    ])  # fmt: skip
    tree = {str(i): part.clone() for i, part in enumerate(whole.split(sizes))}
    runs: dict[str, Run] = {
        "300 tensors": lambda: fasthist.histograms(tree, buckets="tensorflow"),
        "one tensor": lambda: fasthist.histogram(whole, buckets="tensorflow"),
    }
    seconds, failed = gpu.in_turns(runs)
    return {"bytes": 2 * whole.numel(), "seconds": seconds, "failed": failed}


def blocked(gpu: Gpu, count: int, parameters: int) -> dict[str, Any]:
    """Time how long ``add_histograms`` keeps the calling thread, with nothing before it and behind 10 ms of work."""
    torch = gpu.torch
    width = max(2, int((parameters / count) ** 0.5))
    tree = {f"layer{i}/w": torch.randn(width, width, device=gpu.device) for i in range(count)}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as where, fasthist.SummaryWriter(where) as writer:
        for name, cycles in (("idle", 0), ("behind work", 20_000_000)):
            taken = []
            for step in range(gpu.rounds + 2):
                writer.flush()
                gpu.wait()
                if cycles and gpu.device != "cpu":
                    torch.cuda._sleep(cycles)
                begin = time.perf_counter()
                writer.add_histograms(tree, step)
                taken.append(time.perf_counter() - begin)
            seconds[name] = statistics.median(taken[2:])
    return {"tensors": count, "bytes": 4 * count * width * width, "seconds": seconds, "failed": {}}


def latency(gpu: Gpu) -> dict[str, Any]:
    """Time a histogram of a small tensor until a value is read."""
    seconds = {}
    for size in (64, 1_000_000):
        tensor = gpu.torch.randn(size, device=gpu.device)
        taken = []
        for _ in range(gpu.rounds + 2):
            gpu.wait()
            begin = time.perf_counter()
            assert fasthist.histogram(tensor).num == size
            taken.append(time.perf_counter() - begin)
        seconds[f"{size} elements"] = statistics.median(taken[2:])
    return {"bytes": 0, "seconds": seconds, "failed": {}}


def cases(gpu: Gpu) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Give every case, the most telling ones first."""
    large_ones = list(distributions(gpu))
    yield from large_ones[:8]
    yield "300 tensors/bfloat16", lambda: many_tensors(gpu)
    yield "blocked/104 tensors", lambda: blocked(gpu, 104, 22_700_000)
    yield "blocked/300 tensors", lambda: blocked(gpu, 300, 100_000_000)
    yield "copied/float32", lambda: copied(gpu)
    yield "latency", lambda: latency(gpu)
    yield from large_ones[8:]


class Target(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    what, target, measured : str
    holds : bool or None
        None: not measured.
    """

    what: str
    target: str
    measured: str
    holds: bool | None


def targets(found: dict[str, dict[str, Any]]) -> list[Target]:
    """Judge what was measured."""

    def ratio(case: str, slow: str, fast: str) -> float | None:
        seconds = found.get(case, {}).get("seconds", {})
        return seconds[slow] / seconds[fast] if slow in seconds and fast in seconds else None

    def row(what: str, least: float, value: float | None) -> Target:
        if value is None:
            return Target(what, f">= {least:g}", "not measured", None)
        return Target(what, f">= {least:g}", f"{value:.3g}", value >= least)

    rows = [
        row(
            f"{format}, normal: share of torch.sum's rate",
            0.7,
            ratio(f"{format}/normal", READ, "fasthist"),
        )
        for format in FORMATS[:2]
    ]
    for format in FORMATS[:2]:
        shares = {name: ratio(f"{format}/{name}", READ, "fasthist") for name in DISTRIBUTIONS[1:]}
        known = {name: share for name, share in shares.items() if share is not None}
        worst = min(known, key=lambda name: known[name], default="")
        value = known[worst] if len(known) == len(shares) else None
        rows.append(row(f"{format}, the worst distribution ({worst or '-'}): the same", 0.5, value))
    one = ratio("300 tensors/bfloat16", "one tensor", "300 tensors")
    rows.append(row("300 tensors, bfloat16: share of the rate of one tensor", 1 / 1.5, one))
    for count in (104, 300):
        seconds = found.get(f"blocked/{count} tensors", {}).get("seconds", {})
        what, target = f"add_histograms of {count} tensors keeps the thread", "<= 200 us"
        if seconds:
            longest = max(seconds.values())
            rows.append(Target(what, target, f"{longest * 1e6:.0f} us", longest <= 200e-6))
        else:
            rows.append(Target(what, target, "not measured", None))
    normal = "float32/normal"
    rows.append(
        row(
            "float32, normal: against torch.histc, min and max",
            5,
            ratio(normal, "torch.histc, min, max", "fasthist"),
        )
    )
    today = ratio("copied/float32", ".cpu() and torch's histogram", "fasthist")
    rows.append(row("float32, normal: against a copy and torch's histogram", 100, today))
    return rows
