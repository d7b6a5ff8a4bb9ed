"""Check what callers of a writer pass: each function raises `ArgumentError`, naming a value that cannot be written."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasthist.errors import ArgumentError


def as_raw_buckets(
    tag: str, bucket_limits: ArrayLike, bucket_counts: ArrayLike, low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check limits and counts of a histogram from `low` to `high` that was counted elsewhere.

    Infinite limits become finite ones, and equal limits one, with the sum of their counts: readers lose a bucket without
    width, and blank the chart at an infinite edge. Equal values have one bucket.
    """
    try:
        limits = np.asarray(bucket_limits, dtype=np.float64)
        counts = np.asarray(bucket_counts, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = (
            f"histogram {tag!r}: bucket_limits and bucket_counts must be arrays of numbers: {error}. "
            "Accepted: two rows of one length, at least 1."
        )
        raise ArgumentError(msg) from error
    if limits.ndim != 1 or limits.shape != counts.shape or not limits.size:
        msg = (
            f"histogram {tag!r}: bucket_limits has the shape {limits.shape}, bucket_counts {counts.shape}. "
            "Accepted: two rows of one length, at least 1. "
            "Hint: limits are right edges; of numpy.histogram's edges, pass edges[1:]."
        )
        raise ArgumentError(msg)
    if not (limits[1:] >= limits[:-1]).all() or np.isnan(limits[0]):
        msg = (
            f"histogram {tag!r}: bucket_limits hold NaN, or decrease. "
            "Accepted: limits that never decrease. "
            "Hint: sort them, and their counts in the same order."
        )
        raise ArgumentError(msg)
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        msg = (
            f"histogram {tag!r}: bucket_counts hold a number that is not finite, or below 0. "
            "Accepted: how many values are in each bucket."
        )
        raise ArgumentError(msg)
    if low == high:
        return np.array([high]), counts.sum(keepdims=True)
    finite = limits[np.isfinite(limits)]
    if finite.size < limits.size:
        limits = limits.clip(min((low, *finite[:1])), max((high, *finite[-1:])))
    first_of_equal = np.append(True, limits[1:] > limits[:-1]).nonzero()[0]
    limits, counts = limits[first_of_equal], np.add.reduceat(counts, first_of_equal)
    if limits[0] == low and counts[0] and limits.size > 1:
        # A bucket of values at the minimum gets a width that float32 can still tell.
        beside = min(low + (high / 2 - low / 2) * 2.0**-21, low / 2 + limits[1] / 2)
        return np.concatenate(([low, beside], limits[1:])), np.append(0.0, counts)
    return limits, counts


def as_extremes(tag: str, low: Any, high: Any, num: float) -> tuple[float, float]:
    """Check the extremes of a histogram of `num` values that was counted elsewhere."""
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
    """Convert a real number, text that spells one, or any library's array of one element; NaN if it is masked."""
    try:
        masked = isinstance(value, np.ma.MaskedArray) and value.size == 1
        if masked and np.ma.getmaskarray(value).all():
            return math.nan
        # NumPy warns of float() of an array of one element, so the element is taken out first.
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        kind = repr(value) if isinstance(value, (str, bytes)) else type(value).__name__
        msg = f"{tag!r}: {name} is {kind}. Accepted: one real number, or an array of one element."
        raise ArgumentError(msg) from error


def as_bins(bins: Any) -> Any:
    """Convert numpy's edges that `Buckets` refuses: infinite ends to the largest doubles, equal edges to one."""
    if not np.ndim(bins):
        return bins
    try:
        edges = np.array(bins, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        return bins  # `Buckets` raises the error
    if edges.ndim == 1 and (edges[1:] >= edges[:-1]).all():
        largest = np.finfo(np.float64).max
        return np.unique(edges.clip(-largest, largest))
    return bins


def as_step(global_step: Any, name: str = "global_step") -> int:
    """Convert what ``int()`` takes and int64 holds; None is 0."""
    if global_step is None:
        return 0
    try:
        step = int(global_step)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        msg = f"{name}={global_step!r} must be an integer or None."
        raise ArgumentError(msg) from error
    if not -(1 << 63) <= step < 1 << 63:
        msg = f"{name} {step} does not fit. Accepted: -2**63 to 2**63 - 1."
        raise ArgumentError(msg)
    return step


def as_wall_time(walltime: Any) -> float:
    """Return finite seconds since 1970, or now for None."""
    if walltime is None:
        return time.time()
    seconds = as_number("event", "walltime", walltime)
    if not math.isfinite(seconds):
        msg = f"walltime={seconds!r} must be finite. Accepted: seconds since 1970, UTC."
        raise ArgumentError(msg)
    return seconds


def as_count(name: str, value: Any, least: int, hint: str) -> int:
    """Convert a whole number of any type, such as ``numpy.int64(10)`` or ``10.0``; ArgumentError below `least`."""
    try:
        if not isinstance(value, (str, bytes, bool)) and not np.ndim(value):
            count = int(value)
            if count == value and count >= least:
                return count
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    msg = f"{name}={value!r} must be a whole number of at least {least}. Hint: {hint}."
    raise ArgumentError(msg)


def as_seconds(name: str, value: Any) -> float:
    """Convert a number of seconds; None and infinity mean forever."""
    seconds = math.nan
    if value is None:
        seconds = math.inf
    elif not isinstance(value, (str, bytes, bool)):
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            seconds = float(value)
    if seconds >= 0:  # false for NaN
        return seconds
    msg = (
        f"{name}={value!r} must be a number of seconds that is not negative. "
        "Hint: None never writes by time; timedelta.total_seconds() is such a number."
    )
    raise ArgumentError(msg)


def as_text(name: str, value: Any) -> str:
    """Check a string with a UTF-8 form; None is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        with contextlib.suppress(UnicodeEncodeError):
            value.encode()
            return value
    msg = f"{name}={value!r} must be a string with a UTF-8 form. Hint: leave it out to show the tag alone."
    raise ArgumentError(msg)


def as_directory(log_dir: Any) -> str:
    """Check a path or URL."""
    if isinstance(log_dir, (str, bytes, os.PathLike)):
        directory = os.fsdecode(log_dir)
        if "\0" not in directory:
            return directory
    msg = f"log_dir={log_dir!r} must be a path, or a URL that fsspec knows. Hint: 'runs/a'."
    raise ArgumentError(msg)


def as_part_of_path(name: str, value: Any, refused: str) -> str:
    """Check text that a path can hold, without the characters in `refused`."""
    if isinstance(value, str) and not set(value) & {"\0", *refused}:
        return value
    but = f" without {refused}" if refused else ""
    msg = f"{name}={value!r} must be a string{but}. Hint: leave it out to add nothing to the name."
    raise ArgumentError(msg)
