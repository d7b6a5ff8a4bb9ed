"""A script as people write it, for ``torchrun``: a model of FSDP2, of which the first rank writes what all ranks have.

Run by test_distributed.py.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import fasthist
from fasthist.adapters.torch import watch


def main(log_dir):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 1))
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = fasthist.SummaryWriter(log_dir) if dist.get_rank() == 0 else None
    watch(model, writer, every=1, optimizer=optimizer, distributed=True)
    for _ in range(2):
        model(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    if writer is not None:
        writer.close()
    dist.barrier()
    # With FSDP2 over Gloo, torch 2.13 sometimes aborts a process of torchrun that ends otherwise ("terminate called without
    # an active exception"): in 3 of 14 runs of such a script that does not import fasthist.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
