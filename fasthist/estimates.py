"""Estimate moments and zeros from a histogram's rows, where its file does not tell them: torch's, TensorFlow's."""

from __future__ import annotations

import math

import numpy as np

from fasthist.hist import Histogram
from fasthist.quantiles import NARROW


def spread(histogram: Histogram) -> tuple[float, float, bool]:
    """Return the mean, the standard deviation, and whether the histogram itself knows them.

    NaN if there is no finite value. If unknown or infinite, they are computed from the rows, with the values of a row
    spread evenly: ``(left + right) / 2`` and ``(right - left)**2 / 12`` are a row's mean and variance.
    """
    if not histogram.num:
        return math.nan, math.nan, True
    mean, std = histogram.mean, histogram.std
    if mean is not None and std is not None and math.isfinite(mean) and math.isfinite(std):
        return mean, std, True
    left, right, counts = histogram.to_rows().T
    share = counts / counts.sum()
    middle = left / 2 + right / 2
    # In units of the largest distance, since squares overflow long before the deviation does.
    with np.errstate(over="ignore", invalid="ignore"):
        estimate = float(share @ middle)
        far, wide = np.abs(middle - estimate), right / 2 - left / 2
        unit = float(max(far.max(), wide.max()))
        if not 0 < unit < math.inf:
            return estimate, unit, False
        variance = float(share @ ((far / unit) ** 2 + (wide / unit) ** 2 / 3))
    return estimate, unit * math.sqrt(variance), False


def l2_norm(histogram: Histogram) -> float:
    """Return the L2 norm, estimated from the rows where unknown; NaN if there is no finite value."""
    if histogram.l2_norm is not None:
        return histogram.l2_norm
    mean, std, _ = spread(histogram)
    return math.sqrt(histogram.num) * math.hypot(mean, std)


def zero_share(histogram: Histogram, told: float = math.nan) -> float:
    """Return the share of the finite values that are exactly 0: 0 to 1, or NaN if unknown or without finite values.

    `told` is the number of zeros in a scalar beside the histogram. Without any count they are known only if no row holds
    0, or if the row that does is too narrow to hold anything else.
    """
    if not histogram.num:
        return math.nan
    if histogram.zero_count is not None:
        told = histogram.zero_count
    if not math.isnan(told):
        return told / histogram.num
    rows = histogram.to_rows()
    holds = (rows[:, 0] <= 0) & (rows[:, 1] > 0) & (rows[:, 2] > 0)
    holds[-1] |= rows[-1, 1] == 0  # only the last row holds its right edge
    left, right, counts = rows[holds].T
    # A constant has one row, as wide as what float32 can tell from it.
    reach = max(rows[-1, 1] / 2 - rows[0, 0] / 2, 0.0) if len(rows) > 1 else 2.0**-6
    if (right / 2 - left / 2 > NARROW * reach).any():
        return math.nan
    return float(counts.sum() / histogram.num)
