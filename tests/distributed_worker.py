"""A group of processes: each rank runs the scenarios that are named, and writes down what it has found.

Run by test_distributed.py. A scenario is a function of one of the modules distributed_sums, distributed_training and
distributed_losses; it gives whatever JSON can hold. The ranks are forked once everything is imported, which takes longer
than most scenarios.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import fasthist


def run_rank(rank, world, out, seconds, module, names):
    faulthandler.dump_traceback_later(seconds)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=seconds),
    )
    found = {}
    for name in names:
        try:
            found[name] = getattr(module, name)()
        except Exception:  # noqa: BLE001 - the test tells it
            found[name] = traceback.format_exc()
            break  # the other ranks may be anywhere now
    Path(out, f"{rank}.json").write_text(json.dumps(found), "utf-8")
    os._exit(0)  # a rank whose peers are gone may wait for them in its destructors


def main(world, out, seconds, module, *names):
    scenarios = importlib.import_module(module)
    fasthist.histograms({"loads": torch.ones(3), "the": [1.0], "kernels": [1]})
    fork = multiprocessing.get_context("fork")
    args = int(world), out, float(seconds), scenarios, names
    ranks = [fork.Process(target=run_rank, args=(rank, *args)) for rank in range(int(world))]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 2 * float(seconds)
    for rank in ranks:
        rank.join(max(deadline - time.monotonic(), 0))
    for rank in ranks:
        rank.kill()
        rank.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
