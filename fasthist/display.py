"""Which buckets are written for a viewer to draw."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError

_LARGEST = float(np.finfo(np.float64).max)


def written_buckets(
    edges: NDArray[np.float64], counts: NDArray[np.uint64], max_buckets: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Choose the buckets to be written: none of zero width, no two empty ones side by side.

    Parameters
    ----------
    edges : float64[n + 1]
        From the smallest to the largest finite value; the last bucket may have no width.
    counts : uint64[n]
    max_buckets : int, optional
        Merge equally many neighbours so that no more than this many are left.

    Returns
    -------
    edges : float64[k + 1]
        Strictly increasing; the ends are those of `edges`, but around a constant they leave it a little room.
    counts : float64[k]
        As the file stores them, with the same sum.

    Raises
    ------
    ArgumentError
        `max_buckets` is less than 1.
    """
    if max_buckets is not None and max_buckets < 1:
        msg = f"max_buckets={max_buckets} leaves nothing to write. Accepted: 1 or more, or None."
        raise ArgumentError(msg)
    low, high = float(edges[0]), float(edges[-1])
    if low == high:
        room = max(abs(low) * 2.0**-20, 2.0**-100)
        return np.clip([low - room, low + room], -_LARGEST, _LARGEST), counts.astype(np.float64)
    if edges[-2] == high:
        # The maximum is itself an edge. TensorBoard loses a bucket narrower than about 2**-40 of the range drawn.
        before = float(edges[-3])
        room = max((high / 2 - low / 2) * 2.0**-35, math.ulp(high))
        left = max(high - room, before / 2 + high / 2)
        if before < left < high:
            edges = np.concatenate((edges[:-2], (left, high)))
        else:  # no number lies between
            edges = np.concatenate((edges[:-2], (high,)))
            counts = np.concatenate((counts[:-2], counts[-2:].sum(keepdims=True)))
    # A bucket stays if it holds something, or if the next one does: it is then the gap before that one.
    kept = counts > 0
    kept[:-1] |= kept[1:]
    right = kept.nonzero()[0]
    if max_buckets is None or right.size <= max_buckets:
        # What is left out is empty, so the counts stand as they are.
        written = counts[right].astype(np.float64)
    else:
        group = -(-right.size // max_buckets)
        # Counted from the right, so that the last edge stays.
        right = right[::-1][::group][::-1]
        reached = np.cumsum(counts)[right]
        written = np.diff(reached, prepend=np.uint64(0)).astype(np.float64)
    drawn = np.empty(right.size + 1)
    drawn[0] = low
    drawn[1:] = edges[right + 1]
    return drawn, written
