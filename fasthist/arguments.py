"""What callers of a writer pass, checked before it is written.

Each function raises `ArgumentError`, naming the value, where it cannot be written.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasthist.errors import ArgumentError


def as_raw_buckets(
    tag: str, bucket_limits: ArrayLike, bucket_counts: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take limits and counts of a histogram that was counted elsewhere; ArgumentError if they make none."""
    try:
        limits = np.asarray(bucket_limits, dtype=np.float64)
        counts = np.asarray(bucket_counts, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"histogram {tag!r}: bucket_limits or bucket_counts is no array of numbers: {error}"
        raise ArgumentError(msg) from error
    if limits.ndim != 1 or limits.shape != counts.shape or not limits.size:
        msg = (
            f"histogram {tag!r}: bucket_limits has the shape {limits.shape}, bucket_counts {counts.shape}. "
            "Accepted: two rows of one length, at least 1. "
            "Hint: limits are right edges; of numpy.histogram's edges, pass edges[1:]."
        )
        raise ArgumentError(msg)
    if not (np.isfinite(limits).all() and (limits[1:] > limits[:-1]).all()):
        msg = (
            f"histogram {tag!r}: bucket_limits are not finite and increasing. "
            "Accepted: finite limits, each greater than the one before; others blank the chart."
        )
        raise ArgumentError(msg)
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        msg = f"histogram {tag!r}: bucket_counts hold a number that is not finite, or below 0."
        raise ArgumentError(msg)
    return limits, counts


def as_extremes(tag: str, low: Any, high: Any, num: float) -> tuple[float, float]:
    """Take the extremes of a histogram of `num` values that was counted elsewhere."""
    low, high = as_number(tag, "min", low), as_number(tag, "max", high)
    # not <=: NaN fails as well
    if not (math.isfinite(low) and math.isfinite(high) and low <= high and 0 < num < math.inf):
        msg = (
            f"histogram {tag!r}: min={low!r}, max={high!r}, num={num!r}. "
            "Accepted: finite min <= max, and a finite num that is not negative. "
            "Hint: leave NaN and infinities out of them; add_histogram does so."
        )
        raise ArgumentError(msg)
    return low, high


def as_number(tag: str, name: str, value: Any) -> float:
    """Take one real number, or an array of one element from any library."""
    cause = None
    try:
        # float() of an array of one element warns in NumPy, so the element is asked for first.
        number = value.item() if hasattr(value, "item") else value
        if not isinstance(number, (str, bytes)):
            return float(number)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        cause = error
    kind = type(value).__name__
    msg = f"{tag!r}: {name} is {kind}. Accepted: one real number, or an array of one element."
    raise ArgumentError(msg) from cause


def as_step(global_step: Any) -> int:
    """Take what ``int()`` takes and int64 holds; None is 0."""
    if global_step is None:
        return 0
    try:
        step = int(global_step)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        msg = f"global_step={global_step!r} is no step. Accepted: an integer, or None."
        raise ArgumentError(msg) from error
    if not -(1 << 63) <= step < 1 << 63:
        msg = f"global_step {step} does not fit. Accepted: -2**63 to 2**63 - 1."
        raise ArgumentError(msg)
    return step


def as_wall_time(walltime: Any) -> float:
    """Take finite seconds since 1970, or None for now."""
    if walltime is None:
        return time.time()
    seconds = as_number("event", "walltime", walltime)
    if not math.isfinite(seconds):
        msg = f"walltime={seconds!r} is no time. Accepted: finite seconds since 1970, UTC."
        raise ArgumentError(msg)
    return seconds
