"""Which buckets are written for a viewer to draw."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError


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
    edges = edges.copy()
    if edges[0] == edges[-1]:
        room = max(abs(edges[0]) * 2.0**-20, 2.0**-100)
        edges = np.array([edges[0] - room, edges[0] + room])
    elif edges[-2] == edges[-1]:
        # The maximum is itself an edge. TensorBoard loses a bucket narrower than about 2**-40 of the range drawn.
        room = max((edges[-1] / 2 - edges[0] / 2) * 2.0**-35, math.ulp(float(edges[-1])))
        edges[-2] = max(edges[-1] - room, (edges[-3] + edges[-1]) / 2)
    kept = np.ones(counts.size, dtype=bool)
    kept[:-1] = (counts[:-1] > 0) | (counts[1:] > 0)
    right = np.flatnonzero(kept)
    if max_buckets is not None and right.size > max_buckets:
        group = -(-right.size // max_buckets)
        # Counted from the right, so that the last edge stays.
        right = right[::-1][::group][::-1]
    reached = np.cumsum(counts)[right]
    return (
        np.concatenate((edges[:1], edges[1:][right])),
        np.diff(reached, prepend=np.uint64(0)).astype(np.float64),
    )
