"""A histogram whose numbers are still on their way from a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from fasthist.hist import Histogram

_NAMES = frozenset(part.name for part in fields(Histogram))


class PendingHistogram(Histogram):
    """Wait for its numbers when one of them is first read, and be a `Histogram` from then on.

    Parameters
    ----------
    find : callable
        Gives the histogram, once the device is done. What it raises, the reader gets, each time.
    number : int
        What to call it with.
    """

    def __init__(self, find: Callable[[int], Histogram], number: int) -> None:
        object.__setattr__(self, "_find", (find, number))  # faster than through a dict

    def __getattr__(self, name: str) -> Any:
        # Python asks here only for what it has not found.
        if name not in _NAMES:
            msg = f"'Histogram' object has no attribute {name!r}"
            raise AttributeError(msg)
        find = vars(self).get("_find")
        if find is not None:  # or else another thread has found it in this moment
            vars(self).update(vars(find[0](find[1])))
            object.__setattr__(self, "__class__", Histogram)
            vars(self).pop("_find", None)
        return vars(self)[name]
