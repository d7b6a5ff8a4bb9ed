"""How fast Dask counts an array that is larger than memory, beside its own ``sum()``, and how much memory a worker takes.

Both go over the same array in turns. A chunk is a copy of the same normals, so that making it takes little of the time.
The result goes to ``bench_results/dask.json``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from read_report import dask_text
from run import RESULTS, environment

import fasthist

FILE = "dask.json"

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


@click.command(epilog="Example: python benchmarks/dask_rate.py --gigabytes 2")
@click.option("--gigabytes", default=20.0, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--chunk-mib", default=128, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--buckets", default="auto", show_default=True, help="A name, or how many uniform ones."
)
@click.option("--out", default=RESULTS / FILE, type=click.Path(path_type=Path))
def main(
    gigabytes: float, workers: int, chunk_mib: int, rounds: int, buckets: str, out: Path
) -> None:
    """Measure, and keep it."""
    about = environment()
    array = array_of(gigabytes, chunk_mib)
    chosen = int(buckets) if buckets.isdecimal() else buckets
    ways = {
        "histogram": lambda: fasthist.histogram(array, buckets=chosen).num,
        "sum": lambda: array.sum().compute(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[float]] = {name: [] for name in ways}
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(fasthist.histogram, np.zeros(100_000, dtype="f4"))  # the kernels are loaded
        for _ in range(rounds):
            for name, way in ways.items():
                before = client.run(reset_peak)
                begin = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - begin)
                most = client.run(memory, "VmHWM")
                peaks[name].append(
                    max(most[worker] - before[worker] for worker in before) / array.blocks[0].nbytes
                )
    result = {
        **about,
        "nbytes": array.nbytes,
        "chunks": array.numblocks[0],
        "chunk_mib": chunk_mib,
        "workers": workers,
        "buckets": chosen,
        "seconds": seconds,
        "peaks": peaks,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(dask_text(out))


if __name__ == "__main__":
    main()
