"""How far apart two histograms are: `wasserstein`, `jensen_shannon`, `psi`.

All three compare the distributions that the rows of the histograms stand for (`Histogram.to_rows`, which is what is
written): the values of a row lie evenly between its edges. The last two, which ask where values are and not how far
apart, take a row that holds more than a hundredth of the values on less than ``2**-19`` of the range of both
histograms as one value, such as zeros, saturated ends and quantised levels: its left edge, and for the last of several
rows its right one. All return None if a histogram has no finite value.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fasthist.display import contiguous
from fasthist.events.restoring import Joined
from fasthist.hist import Histogram
from fasthist.kernels import transport
from fasthist.quantiles import HEAVY, NARROW

Floats = NDArray[np.float64]

_FAR = 2.0**1000
_DECILES = np.arange(1, 10) / 10
_TWENTIETHS = np.arange(1, 20) / 20

_LEAST = 1e-4  # the share that `psi` takes for less


def wasserstein(a: Histogram, b: Histogram) -> float | None:
    """Return the Wasserstein-1 distance: how far one's values must be moved, on average, to become the other's.

    In units of the values; 0 for the same rows, and infinite beyond float64.

    ``integral |F_a(x) - F_b(x)| dx`` over both cumulative distributions (Vallender, "Calculation of the Wasserstein
    distance between probability distributions on the line", 1974), exact for the rows but for rounding. A value lies
    in its row, so the distance of the values themselves differs by at most half the mean width of the rows, weighted
    with their shares, of `a` plus that of `b`. With "auto" the rows of a large array come from a sample: its shares are
    within 2 % in addition.

    >>> import fasthist
    >>> a, b = fasthist.histogram([1.0, 2.0]), fasthist.histogram([2.0, 4.0])
    >>> round(wasserstein(a, b), 5)
    1.5
    """
    if not (a.num and b.num):
        return None
    return distance_between(*contiguous(a.to_rows()), *contiguous(b.to_rows()))


def distance_between(
    edges_a: Floats, counts_a: NDArray[np.generic], edges_b: Floats, counts_b: NDArray[np.generic]
) -> float:
    """Return the Wasserstein-1 distance of values spread evenly between increasing edges; both must have some."""
    exponent = max(_exponent(edges_a), _exponent(edges_b))
    if exponent:
        edges_a, edges_b = np.ldexp(edges_a, -exponent), np.ldexp(edges_b, -exponent)
    area = transport.wasserstein(edges_a, counts_a, edges_b, counts_b)
    try:
        return math.ldexp(area, exponent)
    except OverflowError:
        return math.inf


def distances_of_pairs(a: Joined, b: Joined, pairs: NDArray[np.int64]) -> Floats:
    """Return the Wasserstein-1 distances, float64[k], of pairs (int64[k, 2]) of histograms over the files' own buckets.

    NaN where `distance_between` must decide: the difference of edges may overflow float64.
    """
    i, j = pairs.T
    distances = transport.wasserstein_of_pairs(
        a.limits, a.counts, np.column_stack((a.starts[i], a.stops[i])),
        b.limits, b.counts, np.column_stack((b.starts[j], b.stops[j])),
    )  # fmt: skip
    reach = np.maximum(np.abs(a.ends[i]).max(axis=1), np.abs(b.ends[j]).max(axis=1))
    distances[reach > _FAR] = np.nan
    return distances


def _exponent(points: Floats) -> int:
    """Return the power of two to divide sorted points by, so that no difference overflows; 0 for most."""
    return 100 if max(-points[0], points[-1]) > _FAR else 0


def jensen_shannon(a: Histogram, b: Histogram) -> float | None:
    """Return the Jensen-Shannon divergence, in bits, over 20 parts that hold a twentieth of both together.

    0 for the same rows, to 1 for distributions that have nothing in common.

    ``(KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2`` and logarithms to base 2 (Lin, "Divergence measures based
    on the Shannon entropy", 1991); scipy's ``jensenshannon`` is its square root. `p` and `q` are the shares of the
    parts, between the twentieths of the distribution ``m``; a single value at one of these is a part of its own.
    Finer parts never give less, but then random samples of one distribution differ by chance.

    >>> import fasthist
    >>> a, b = fasthist.histogram([1.0, 2.0]), fasthist.histogram([2.0, 4.0])
    >>> round(jensen_shannon(a, b), 5)
    0.5
    """
    if not (a.num and b.num):
        return None
    levels = _on_same_points(a.to_rows(), b.to_rows())
    p, q = _parts(levels, levels.mean(axis=0), _TWENTIETHS)
    middle = (p + q) / 2
    bits = 0.0
    for part in (p, q):
        held = part > 0
        bits += float(part[held] @ np.log2(part[held] / middle[held])) / 2
    return min(max(bits, 0.0), 1.0)


def psi(a: Histogram, b: Histogram) -> float | None:
    """Return the population stability index of `b` against `a`, the reference.

    0 for the same rows; by convention less than 0.1 is little and more than 0.25 much.

    ``sum (q - p) * ln(q / p)`` over the ten parts between the deciles of `a`, where `p` and `q` are the shares of `a`
    and `b` (Siddiqi, "Credit Risk Scorecards", 2006). A single value at a decile is a part of its own, and a share less
    than 1e-4 is taken as 1e-4, so that the index is finite.

    >>> import fasthist
    >>> a, b = fasthist.histogram([1.0, 2.0]), fasthist.histogram([1.0, 1.0, 1.0, 2.0])
    >>> round(psi(a, b), 5)  # 0.25 * ln(1.5) + 0.25 * ln(2)
    0.27465
    """
    if not (a.num and b.num):
        return None
    levels = _on_same_points(a.to_rows(), b.to_rows())
    p, q = np.maximum(_parts(levels, levels[0], _DECILES), _LEAST)
    return float((q - p) @ np.log(q / p))


def _on_same_points(rows_a: Floats, rows_b: Floats) -> Floats:
    """Return the shares of both below each edge of either, and up to it, alternating: float64[2, 2 m]."""
    both = (rows_a, rows_b)
    points = np.unique(np.concatenate([rows[:, :2].ravel() for rows in both]))
    exponent = _exponent(points)
    points = np.ldexp(points, -exponent)
    narrow = NARROW * (points[-1] - points[0])
    scaled = (_jumping(rows, np.ldexp(rows[:, :2], -exponent), points, narrow) for rows in both)
    return np.stack(list(scaled))


def _jumping(rows: Floats, edges: Floats, points: Floats, narrow: float) -> Floats:
    counts = rows[:, 2]
    spike = (counts > HEAVY * counts.sum()) & (edges[:, 1] - edges[:, 0] <= narrow)
    spread = np.cumsum(np.where(spike, 0.0, counts))
    ends = np.column_stack((np.append(0.0, spread[:-1]), spread))
    smooth = np.interp(points, edges.ravel(), ends.ravel())
    places = edges[:, 0].copy()
    if len(places) > 1:
        places[-1] = edges[-1, 1]
    jumps = np.zeros(points.size)
    jumps[points.searchsorted(places[spike])] = counts[spike]
    reached = smooth + np.cumsum(jumps)
    levels: Floats = np.column_stack((reached - jumps, reached)).ravel() / reached[-1]
    return levels


def _parts(levels: Floats, reference: Floats, shares: Floats) -> Floats:
    """Return the shares of both between the places where the reference reaches given shares: float64[2, k]."""
    i = reference.searchsorted(shares)
    # From an even to an odd place the shares jump at one point: one cut, however many shares it reaches.
    jumps = i % 2 == 1
    first = ~jumps | (np.diff(i, prepend=-1) > 0)
    i, shares, jumps = i[first], shares[first], jumps[first]
    low, high = reference[i - 1], reference[i]
    part = (shares - low) / (high - low)
    between = levels[:, i - 1] * (1 - part) + levels[:, i] * part
    below = np.where(jumps, levels[:, i - 1], between)
    up_to = np.where(jumps, levels[:, i], between)
    cuts = np.stack((below, up_to), axis=2).reshape(2, -1)
    return np.maximum(np.diff(cuts, axis=1, prepend=0.0, append=1.0), 0.0)
