"""What a histogram's rows tell of its moments, where the file that it comes from has no sums: TensorFlow 2's and Keras'."""

from __future__ import annotations

import math

import numpy as np

from fasthist.hist import Histogram


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
