"""`Difference`: how far two histograms of a tag are from each other, in every measure that is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fasthist.distances import jensen_shannon, psi, wasserstein
from fasthist.estimates import l2_norm, spread
from fasthist.hist import Histogram

CONSTANT = 1e-7
"""Of the mean: a standard deviation less than that is the rounding of a constant's."""


@dataclass(frozen=True)
class Difference:
    """How far a tag of another run is from the first run's, at steps `step_a` of the first and `step_b` of the other.

    `wasserstein` is in units of the first's standard deviation; of the other's where the first is a constant, and of
    its value where both are. The ratios are the other's over the first's. None if undefined.
    """

    run: str
    tag: str
    step_a: int | None
    step_b: int | None
    wasserstein: float | None
    jensen_shannon: float | None
    psi: float | None
    std_ratio: float | None
    l2_ratio: float | None
    parts_at: int | None = (
        None  # the first common step at which `wasserstein` is above the threshold
    )


def difference_of(
    run: str, tag: str, steps: tuple[int | None, int | None], a: Histogram, b: Histogram
) -> Difference:
    """Compute all of `Difference` but `parts_at`."""
    distance = wasserstein(a, b)
    return Difference(
        run=run,
        tag=tag,
        step_a=steps[0],
        step_b=steps[1],
        wasserstein=distance and _in_units(unit_of(a, b), distance),
        jensen_shannon=jensen_shannon(a, b),
        psi=psi(a, b),
        std_ratio=_ratio(spread(b)[1], spread(a)[1]),
        l2_ratio=_ratio(l2_norm(b), l2_norm(a)),
    )


def unit_of(a: Histogram, b: Histogram) -> float:
    """Return the unit of `Difference.wasserstein`; 0 for two constants of zero."""
    values = []
    for histogram in (a, b):
        mean, std, _ = spread(histogram)
        if std > CONSTANT * abs(mean):
            return std
        values.append(abs(mean))
    return values[0] or values[1]


def _in_units(unit: float, distance: float) -> float:
    """Return a distance in units; infinite where a file says that both are zeros, and its buckets that they differ."""
    return distance / unit if unit else math.inf


def _ratio(other: float, first: float) -> float | None:
    return other / first if first and math.isfinite(other / first) else None
