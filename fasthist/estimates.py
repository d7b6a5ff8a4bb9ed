"""What a histogram's rows tell of its moments and zeros, where the file that it comes from does not: torch's, TensorFlow's."""

from __future__ import annotations

import math

import numpy as np

from fasthist.hist import Histogram

_NARROW = 2.0**-19
"""Of half the range: what is narrower holds one value."""


def spread(histogram: Histogram) -> tuple[float, float, bool]:
    """Give mean and standard deviation, and whether the histogram itself knows them.

    Parameters
    ----------
    histogram : Histogram

    Returns
    -------
    mean, std : float
        NaN if there is no finite value. Where they are not known, or its sums are infinite, those of its rows, with the
        values of a row spread evenly: ``(left + right) / 2`` and ``(right - left)**2 / 12`` are a row's mean and variance.
    is_told : bool
    """
    if not histogram.num:
        return math.nan, math.nan, True
    mean, std = histogram.mean, histogram.std
    if mean is not None and std is not None and math.isfinite(mean) and math.isfinite(std):
        return mean, std, True
    left, right, counts = histogram.to_rows().T
    share = counts / counts.sum()
    middle = left / 2 + right / 2
    # In units of the largest distance, for squares overflow long before the deviation does.
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(share @ middle)
        far, wide = np.abs(middle - found), right / 2 - left / 2
        unit = float(max(far.max(), wide.max()))
        if not 0 < unit < math.inf:
            return found, unit, False
        variance = float(share @ ((far / unit) ** 2 + (wide / unit) ** 2 / 3))
    return found, unit * math.sqrt(variance), False


def l2_norm(histogram: Histogram) -> float:
    """Give the L2 norm, where it is not known that of the rows; NaN if there is no finite value."""
    if histogram.l2_norm is not None:
        return histogram.l2_norm
    mean, std, _ = spread(histogram)
    return math.sqrt(histogram.num) * math.hypot(mean, std)


def zero_share(histogram: Histogram, told: float = math.nan) -> float:
    """Return the share of the finite values that are exactly 0.

    Parameters
    ----------
    histogram : Histogram
    told : float
        How many zeros a scalar beside the histogram tells; NaN if none does.

    Returns
    -------
    float
        0 to 1; NaN if there is no finite value, or where nothing tells. Without a count of zeros they are known only if
        no row holds 0, or if the one that does is too narrow to hold anything else.
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
    # A constant has one row, as wide as float32 can tell from it.
    reach = max(rows[-1, 1] / 2 - rows[0, 0] / 2, 0.0) if len(rows) > 1 else 2.0**-6
    if (right / 2 - left / 2 > _NARROW * reach).any():
        return math.nan
    return float(counts.sum() / histogram.num)
