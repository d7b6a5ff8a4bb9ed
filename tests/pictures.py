"""How true TensorBoard's pictures are: what its page draws of the served buckets, against the data themselves.

Nothing of fasthist is used. The page's rules are those of TensorBoard 2.21:

- Histograms tab: all steps of a tag share one axis, from the smallest left edge to the largest right one, cut into 30
  bins. A bucket gives each bin the share of its count by which it lies in it.
- Distributions tab: lines at fixed shares of the mass, which the server finds by interpolation inside the buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS = 30
BASIS_POINTS = (0, 668, 1587, 3085, 5000, 6915, 8413, 9332, 10000)

# A value that many elements share has to be drawn as a bucket of some width, because the page may lose one without
# any. A bucket this narrow counts as drawn in its place: on an axis of 1,000 pixels it is a thousandth of one. The
# ends of the axis may be as far off, since the Python loader rounds them to float32; and so near to the border of two
# bins a value may be drawn in either.
PLACE = 2.0**-20


@dataclass(frozen=True)
class Verdict:
    """How far pictures are from the truth: the worst of all steps of a tag.

    Parameters
    ----------
    bins : float
        Share of the mass that is not in its bin of the Histograms tab.
    lines : float
        How far the share below a line of the Distributions tab is from the share that the line stands for. Both are
        NaN where the width of the data's range is beyond float64: no bin then has a width, and interpolation
        overflows, whatever is written.
    ends : float
        How far the smallest and the largest value are from where they are drawn, as a share of the range.
    lost : float
        By how much the counts of a step differ from its number of values.
    buckets : int
        The most buckets of a step.
    """

    bins: float
    lines: float
    ends: float
    lost: float
    buckets: int


def judge(histograms: list[Any], distributions: list[Any], steps: Sequence[ArrayLike]) -> Verdict:
    """Compare what is served of a tag with what was written.

    Parameters
    ----------
    histograms, distributions : list
        The answers of the routes of both tabs: ``[[wall_time, step, ...], ...]``.
    steps : sequence of array
        The values of step 0, 1, ...; those that are not finite are not looked for.
    """
    for served in (histograms, distributions):
        assert [step for _, step, _ in served] == list(range(len(steps)))
    rows = [buckets(step) for _, _, step in histograms]
    truth = [finite_sorted(values) for values in steps]
    lines = [np.array(step, float)[:, 1] for _, _, step in distributions]
    for _, _, step in distributions:
        assert tuple(point for point, _ in step) == BASIS_POINTS
    scale = range_of(truth)
    drawable = np.isfinite(scale)
    return Verdict(
        bins=max(bins_wrong(rows, truth)) if drawable else np.nan,
        lines=max(map(lines_off, lines, truth, [scale] * len(truth))) if drawable else np.nan,
        ends=ends_off(rows, lines, truth, scale),
        lost=max(abs(_sum(r) - len(t)) for r, t in zip(rows, truth, strict=True)),
        buckets=max(map(len, rows)),
    )


def buckets(served: list[list[Any]]) -> Floats:
    """Read the buckets of a step; NaN and infinities are strings in TensorBoard's JSON."""
    return np.array(served, float).reshape(-1, 3)


def finite_sorted(values: ArrayLike) -> Floats:
    """Give the finite values of any format as sorted float64."""
    found = np.asarray(values).astype(np.float64).ravel()
    return np.sort(found[np.isfinite(found)])


def range_of(truth: Sequence[Floats]) -> float:
    """Say how wide the axis is that all steps share.

    A constant has no range. The page gives it an axis of about this width.
    """
    low, high = min(values[0] for values in truth), max(values[-1] for values in truth)
    if low == high:
        return float(2 + abs(low) * (1.1 - 1 / 1.1))
    with np.errstate(over="ignore"):
        return float(high - low)


# -- the Histograms tab ---------------------------------------------------------------------------


def axis(rows: Sequence[Floats]) -> tuple[float, float]:
    """Give both ends of the axis that the page chooses for the steps of a tag.

    Where all edges are equal it widens the axis; below -10.5 that turns it round.
    """
    left = min((step[:, 0].min() for step in rows if len(step)), default=0.0)
    right = max((step[:, 1].max() for step in rows if len(step)), default=0.0)
    if left == right:
        return float(left / 1.1 - 1), float(right * 1.1 + 1)
    return float(left), float(right)


def borders(left: float, right: float) -> Floats:
    """Give the left end of each bin, and the right end of the last."""
    with np.errstate(over="ignore", invalid="ignore"):
        width = np.float64(right - left) / BINS
        starts = left + np.arange(BINS) * width
        return np.append(starts, starts[-1] + width)


def drawn(rows: Floats, left: float, right: float) -> Floats:
    """Say what the page draws of one step: the height of each bin."""
    if not len(rows):
        return np.zeros(BINS)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        width = np.float64(right - left) / BINS
        starts = left + np.arange(BINS)[:, None] * width
        ends = starts + width
        # Buckets that stick out of the axis count as if they ended there.
        lefts, rights = np.maximum(left, rows[:, 0]), np.minimum(right, rows[:, 1])
        # Bins and buckets are walked through side by side: a bin is done at the first bucket that ends beyond it,
        # which is then the first of the next bin. What lies out of order is missed. Edges are finite here, and the
        # running maximum finds that bucket for an axis of either direction.
        last = np.searchsorted(np.maximum.accumulate(rights), ends[:, 0], side="right")
        last = np.maximum.accumulate(last)
        first = np.concatenate(([0], last[:-1]))
        places = np.arange(len(rows))
        met = (first[:, None] <= places) & (places <= last[:, None])
        shared = np.minimum(rights, ends) - np.maximum(lefts, starts)
        shares = np.where(shared > 0, shared / (rights - lefts), 0.0)
        # A bucket without width is in a bin, or it is not. At a border it should be in the right one, but the left
        # one has walked past it; and the last bin may miss the end of the axis by a rounding. Then it is nowhere.
        inside = np.where(ends >= right, rights <= ends, rights < ends) & (starts <= lefts)
        shares = np.where(rights - lefts > 0, shares, inside)
        return np.where(met, shares, 0.0) @ rows[:, 2]


def bins_wrong(rows: Sequence[Floats], truth: Sequence[Floats]) -> list[float]:
    """Say for each step what share of its values is not drawn in the bin that they are in."""
    low, high = min(values[0] for values in truth), max(values[-1] for values in truth)
    # One edge that is not finite, and the page draws nothing of the whole tag.
    if not all(np.isfinite(step).all() for step in rows):
        return [1.0] * len(rows)
    left, right = axis(rows)
    heights = [drawn(step, left, right) for step in rows]
    if low == high:
        pairs = zip(rows, heights, truth, strict=True)
        return [_constant_wrong(r, h, float(low), len(t), left, right) for r, h, t in pairs]
    places = borders(left, right)
    return [
        _misplaced(step, values, places, PLACE * (right - left))
        for step, values in zip(heights, truth, strict=True)
    ]


def _misplaced(heights: Floats, values: Floats, places: Floats, tolerance: float) -> float:
    """Give the share of the values that is missing where it should be, or is where it should not.

    Bins are closed-open, the last is closed. Values within the tolerance of a border may be drawn on either side.
    """
    if not np.isfinite(heights).all():
        return 1.0
    inner = places[1:-1]
    fewest = np.searchsorted(values, inner - tolerance, side="left")
    most = np.searchsorted(values, inner + tolerance, side="right")
    # What is drawn left of a border, less what should be there, may be anything in an interval. It starts at 0; moved
    # at each border only as far as it has to be, it moves least in all, and each move is mass in a wrong bin.
    sums = np.cumsum(heights)
    excess, added, missing = 0.0, 0.0, 0.0
    bounds = [*zip(sums[:-1] - most, sums[:-1] - fewest, strict=True)]
    final = sums[-1] - len(values)
    for lowest, highest in [*bounds, (final, final)]:
        moved = min(max(excess, lowest), highest)
        added += max(moved - excess, 0.0)
        missing += max(excess - moved, 0.0)
        excess = moved
    # Both are half the L1 distance, unless mass was lost or came from nowhere.
    return float(max(added, missing) / len(values))


def _constant_wrong(
    rows: Floats, heights: Floats, value: float, num: int, left: float, right: float
) -> float:
    """Give the share of equal values that is not drawn as a spike at their value.

    The axis comes from the buckets alone. It must not be turned round, nor be so narrow that its numbers look alike; and
    all mass has to be in the bin of the value, or in both where it is a border.
    """
    slack = PLACE * range_of([np.array([value])])
    if right - left < 2.0**-9 * max(1.0, abs(value)):
        return 1.0
    places = borders(left, right)
    touched = (places[:-1] <= value + slack) & (value - slack <= places[1:])
    return float(1 - min(heights[touched].sum(), _sum(rows), num) / num)


# -- the Distributions tab ------------------------------------------------------------------------


def lines_off(lines: Floats, values: Floats, scale: float) -> float:
    """Say how far a step's lines are from their shares, at worst.

    A line at x is right for each share from that of the values below x to that of the values up to x: where many
    values are equal, several lines meet.

    Parameters
    ----------
    lines : float64[9]
        Where the lines are; the outermost are the ends.
    values : float64[n]
        Sorted.
    scale : float
        The width of the axis.
    """
    x, shares = lines[1:-1], np.array(BASIS_POINTS[1:-1]) / 10000
    if not np.isfinite(x).all():
        return 1.0
    slack = PLACE * scale
    below = np.searchsorted(values, x - slack, side="left") / len(values)
    up_to = np.searchsorted(values, x + slack, side="right") / len(values)
    return float(np.maximum(below - shares, shares - up_to).max(initial=0))


def ends_off(
    rows: Sequence[Floats], lines: Sequence[Floats], truth: Sequence[Floats], scale: float
) -> float:
    """Say how far the ends of both tabs are from the smallest and the largest value, as a share of the range."""
    pairs = []
    for found, step, values in zip(rows, lines, truth, strict=True):
        lows = (found[:, 0].min(initial=np.inf), step[0])
        highs = (found[:, 1].max(initial=-np.inf), step[-1])
        pairs += [(low, values[0]) for low in lows] + [(high, values[-1]) for high in highs]
    places, ends = np.array(pairs).T
    if not np.isfinite(places).all():
        return 1.0
    # Divided first: the difference of two float64 may overflow.
    scale = min(scale, np.finfo(float).max)
    return float(np.abs(places / scale - ends / scale).max())


def _sum(rows: Floats) -> float:
    return float(rows[:, 2].sum())
