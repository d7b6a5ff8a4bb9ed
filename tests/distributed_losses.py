"""Scenarios for two ranks of which one is lost: the other is told by the engine, and does not hang."""

from __future__ import annotations

import os
import time

import torch.distributed as dist

import fasthist
from fasthist import distributed


def _told(parts):
    began = time.monotonic()
    try:
        told = repr(distributed.all_reduce(parts))
    except RuntimeError as error:
        told = f"{type(error).__name__}: {error}"
    return {"told": told, "seconds": time.monotonic() - began}


def dies():
    """Rank 1 is gone when rank 0 reduces."""
    parts = {"a": fasthist.histogram([1.0])}
    distributed.all_reduce(parts)
    if dist.get_rank() == 1:
        os._exit(3)
    return _told(parts)


def does_not_call():
    """Rank 1 is alive, and never calls."""
    parts = {"a": fasthist.histogram([1.0])}
    distributed.all_reduce(parts)
    if dist.get_rank() == 1:
        time.sleep(12)
        return None
    return _told(parts)
