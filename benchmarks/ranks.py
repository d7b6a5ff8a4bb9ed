"""Time `fasthist.distributed.all_reduce` over Gloo: ``python benchmarks/ranks.py [--tensors N] [--rounds N]``.

With 2, 4 and 8 processes of this machine; the result goes to ``bench_results/ranks.json``. In every round each of these is
timed once, all ranks beginning together, until rank 0 has its answer:

- ours;
- "three": the same three collectives with their arrays ready, which is what ours cannot be quicker than;
- "same": one all_reduce of as many bytes;
- "whole": one all_reduce of all numbers of the histograms as they are, most of them zeros that ours does not send;
- "local": what ours does beside communicating, on rank 0 while the others wait.

Where there are fewer cores than processes, what the ranks do at the same time takes its turns.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", FASTHIST_NUM_THREADS="1")

import click
import numpy as np
import torch
import torch.distributed as dist
from ranks_model import FILE
from run import RESULTS, environment

import fasthist
from fasthist import distributed
from fasthist.stacked import Stacked

WORLDS = (2, 4, 8)
NORMALS, EVERYWHERE = "normals", "everywhere"


def histograms_of(kind: str, rank: int, tensors: int) -> dict[str, fasthist.Histogram]:
    """Count 4,096 normals of five scales, others on each rank; or values in every bucket that float64 has."""
    rng = np.random.default_rng(rank)
    edges = fasthist.histogram([]).buckets.edges
    tree = {
        f"layer{i}/weight": edges
        if kind == EVERYWHERE
        else rng.normal(0, 10.0 ** -(i % 5), 4096).astype(np.float32)
        for i in range(tensors)
    }
    return fasthist.histograms(tree)


def sent_by(call: Any) -> list[torch.Tensor]:
    """Give copies of what a call hands to all_reduce."""
    sent = []
    kept = dist.all_reduce

    def recorded(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.append(tensor.clone())
        return kept(tensor, *args, **kwargs)

    dist.all_reduce = recorded
    try:
        call()
    finally:
        dist.all_reduce = kept
    return sent


def local(parts: dict[str, fasthist.Histogram], world: int) -> None:
    """Do what ours does, beside the digest, without any other rank."""
    stacked = Stacked(parts)
    stacked.agree(stacked.bounds(), world)
    stacked.received(stacked.sums())


def run_rank(rank: int, kind: str, world: int, directory: str, tensors: int, rounds: int) -> None:
    """Measure on one rank; the first one writes it down."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{directory}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    parts = histograms_of(kind, rank, tensors)
    sent = sent_by(lambda: distributed.all_reduce(parts))
    sizes = [one.numel() * one.element_size() for one in sent]
    numbers = sum(one.counts.size + one.exponent_counts.size + 21 for one in parts.values())
    same, whole = (torch.zeros(n, dtype=torch.int64) for n in (sum(sizes) // 8, numbers))
    ways = {
        "ours": lambda: distributed.all_reduce(parts),
        "three": lambda: [dist.all_reduce(one) for one in sent],
        "same": lambda: dist.all_reduce(same),
        "whole": lambda: dist.all_reduce(whole),
        "local": lambda: rank or local(parts, world),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            dist.barrier()
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    if rank == 0:
        found = {
            "values": kind,
            "processes": world,
            "bytes": sizes,
            "bytes_whole": 8 * numbers,
            # Without the first round, in which memory is new.
            "seconds": {name: each[1:] for name, each in seconds.items()},
        }
        Path(directory, "found.json").write_text(json.dumps(found), "utf-8")
    dist.barrier()
    os._exit(0)


def measured(kind: str, world: int, tensors: int, rounds: int) -> dict[str, Any]:
    """Measure with so many processes."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as directory:
        args = kind, world, directory, tensors, rounds
        ranks = [fork.Process(target=run_rank, args=(rank, *args)) for rank in range(world)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        return json.loads(Path(directory, "found.json").read_text("utf-8"))


@click.command(epilog="Example: python benchmarks/ranks.py --rounds 30")
@click.option("--tensors", default=1000, show_default=True, help="Of each rank.")
@click.option("--rounds", default=15, show_default=True, help="The medians are of so many.")
@click.option("--out", default=RESULTS / FILE, type=click.Path(path_type=Path))
def main(tensors: int, rounds: int, out: Path) -> None:
    """Measure, and keep it."""
    local(histograms_of(NORMALS, 0, 2), 2)  # loads the kernels, before the ranks are forked
    about = environment()
    rows = [
        measured(kind, world, tensors, rounds) for kind in (NORMALS, EVERYWHERE) for world in WORLDS
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "tensors": tensors, "rows": rows}, indent=1)
    out.write_text(text + "\n", "utf-8")
    for row in rows:
        medians = {name: statistics.median(each) * 1e3 for name, each in row["seconds"].items()}
        told = ", ".join(f"{name} {median:.1f} ms" for name, median in medians.items())
        click.echo(f"{row['values']}, {row['processes']} processes: {told}")


if __name__ == "__main__":
    main()
