"""Histograms of huge tensors at memory speed, streamed to TensorBoard.

Names are resolved on first use: ``import fasthist`` loads neither Numba nor any framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasthist.buckets import Buckets as Buckets
    from fasthist.compute import histogram as histogram
    from fasthist.compute import histograms as histograms
    from fasthist.compute import warmup as warmup
    from fasthist.diagnosis import Finding as Finding
    from fasthist.diagnosis import diagnose as diagnose
    from fasthist.errors import EventFileError as EventFileError
    from fasthist.errors import FasthistError as FasthistError
    from fasthist.events.reader import read as read
    from fasthist.hist import Histogram as Histogram
    from fasthist.history import History as History
    from fasthist.summary_writer import SummaryWriter as SummaryWriter

__version__ = "0.1.0"

_HOME = {
    "Buckets": "fasthist.buckets",
    "EventFileError": "fasthist.errors",
    "FasthistError": "fasthist.errors",
    "Finding": "fasthist.diagnosis",
    "Histogram": "fasthist.hist",
    "History": "fasthist.history",
    "SummaryWriter": "fasthist.summary_writer",
    "diagnose": "fasthist.diagnosis",
    "histogram": "fasthist.compute",
    "histograms": "fasthist.compute",
    "read": "fasthist.events.reader",
    "warmup": "fasthist.compute",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'fasthist' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
