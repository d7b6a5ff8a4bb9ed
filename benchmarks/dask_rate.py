"""How fast Dask counts an array that is larger than memory, beside its own ``sum()``, and how much memory a worker takes.

Both go over the same array in turns. A chunk is a copy of the same normals, so that making it takes little of the time.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import fasthist

_NORMALS = 1 << 16


def chunk_of(size: int, block_info: dict | None = None) -> np.ndarray:
    """Make one chunk of float32."""
    (at,) = block_info[None]["chunk-location"]
    normals = np.random.default_rng(at).standard_normal(_NORMALS, dtype="f4")
    return np.resize(normals, size)


def array_of(gigabytes: float, chunk_mib: int) -> da.Array:
    """Describe a float32 array of about so many bytes."""
    size = chunk_mib * (1 << 20) // 4
    chunks = max(1, round(gigabytes * 1e9 / (4 * size)))
    return da.map_blocks(
        chunk_of, size, chunks=((size,) * chunks,), dtype="f4", meta=np.empty(0, "f4")
    )


def memory(field: str) -> int:
    """Give the bytes of a line of this process' status: VmRSS now, VmHWM at most since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def reset_peak() -> int:
    """Begin a new peak; give what memory is taken now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chunk-mib", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--buckets", default="auto", help="a name, or a number of uniform buckets")
    arguments = parser.parse_args()
    buckets = int(arguments.buckets) if arguments.buckets.isdecimal() else arguments.buckets
    array = array_of(arguments.gigabytes, arguments.chunk_mib)
    ways = {
        "histogram": lambda: fasthist.histogram(array, buckets=buckets).num,
        "sum": lambda: array.sum().compute(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[float]] = {name: [] for name in ways}
    with (
        LocalCluster(
            n_workers=arguments.workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(fasthist.histogram, np.zeros(100_000, dtype="f4"))  # the kernels are loaded
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                before = client.run(reset_peak)
                begin = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - begin)
                most = client.run(memory, "VmHWM")
                peaks[name].append(
                    max(most[worker] - before[worker] for worker in before) / array.blocks[0].nbytes
                )
    rates = {name: array.nbytes / statistics.median(taken) / 1e9 for name, taken in seconds.items()}
    ratio = statistics.median(
        plain / ours for plain, ours in zip(seconds["sum"], seconds["histogram"], strict=True)
    )
    print(  # noqa: T201
        json.dumps(
            {
                "gigabytes": array.nbytes / 1e9,
                "chunks": array.numblocks[0],
                "chunk_mib": arguments.chunk_mib,
                "workers": arguments.workers,
                "buckets": buckets,
                "gigabytes_per_second": rates,
                "share_of_the_rate_of_sum": ratio,
                "peak_in_chunks": {name: max(found) for name, found in peaks.items()},
                "seconds": seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
