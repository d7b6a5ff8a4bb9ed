"""Time `fasthist.distributed.all_reduce` against one plain all_reduce, over Gloo on this machine.

    python benchmarks/distributed.py [TENSORS]

prints one line of JSON for 2, 4 and 8 processes: milliseconds (median and least of 15, from a barrier until rank 0 has its
answer), the bytes that a rank hands to the engine and those that a ring sends of them, and the ratio of the medians: to one
all_reduce of as many bytes ("same"), and to one of all the numbers of the histograms as they are ("whole"), most of which
are zeros that we do not send. Where there are fewer cores than processes, what the ranks do at the same time takes its turns.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", FASTHIST_NUM_THREADS="1")

import numpy as np
import torch
import torch.distributed as dist

import fasthist
from fasthist import distributed

REPEATS = 15


def timed(call):
    """Give the milliseconds that a call takes on this rank, all ranks beginning together."""
    found = []
    for _ in range(REPEATS):
        dist.barrier()
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1e3)
    return found


def run_rank(rank, world, store, tensors):
    """Measure on one rank; the first one prints."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    rng = np.random.default_rng(rank)
    tree = {
        f"layer{i}/weight": rng.normal(0, 10.0 ** -(i % 5), 4096).astype(np.float32)
        for i in range(tensors)
    }
    parts = fasthist.histograms(tree)
    sizes = []
    kept = dist.all_reduce

    def recorded(tensor, *args, **kwargs):
        sizes.append(tensor.numel() * tensor.element_size())
        return kept(tensor, *args, **kwargs)

    dist.all_reduce = recorded
    distributed.all_reduce(parts)
    dist.all_reduce = kept
    numbers = sum(one.counts.size + one.exponent_counts.size + 17 for one in parts.values())
    same, whole = (torch.zeros(n, dtype=torch.int64) for n in (sum(sizes) // 8, numbers))
    times = {
        "fasthist": timed(lambda: distributed.all_reduce(parts)),
        "same": timed(lambda: dist.all_reduce(same)),
        "whole": timed(lambda: dist.all_reduce(whole)),
    }
    if rank == 0:
        row = {
            "processes": world,
            "cores": len(os.sched_getaffinity(0)),
            "tensors": tensors,
            "collectives": len(sizes),
            "bytes": sum(sizes),
            "bytes_sent": round(sum(sizes) * 2 * (world - 1) / world),
        }
        row["bytes_whole"] = 8 * numbers
        for name, each in times.items():
            row[f"{name}_ms"] = round(statistics.median(each), 2)
            row[f"{name}_least_ms"] = round(min(each), 2)
        for name in ("same", "whole"):
            row[f"ratio_to_{name}"] = round(row["fasthist_ms"] / row[f"{name}_ms"], 2)
        print(json.dumps(row), flush=True)  # noqa: T201 - what the script is for
    dist.barrier()
    os._exit(0)


def main(tensors=1000):
    """Measure with 2, 4 and 8 processes."""
    fasthist.histograms({"loads": np.ones(3, np.float32)})
    fork = multiprocessing.get_context("fork")
    for world in (2, 4, 8):
        with tempfile.TemporaryDirectory() as directory:
            args = world, f"{directory}/store", int(tensors)
            ranks = [fork.Process(target=run_rank, args=(rank, *args)) for rank in range(world)]
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
