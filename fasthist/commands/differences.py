"""`Difference`: the distance of two histograms of a tag, in every measure that is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fasthist.distances import jensen_shannon, psi, wasserstein
from fasthist.estimates import l2_norm, spread
from fasthist.hist import Histogram

CONSTANT = 1e-7
"""Share of the mean below which a standard deviation is the rounding error of a constant."""


@dataclass(frozen=True)
class Difference:
    """The distance of a tag in another run, at `step_b`, from that in the first run, at `step_a`.

    `wasserstein` is in units of the first's standard deviation; of the other's if the first is a constant, and of its value
    if both are. Ratios are the other's over the first's. None if undefined.
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
    parts_at: int | None = None  # first common step with `wasserstein` above the threshold


def difference_of(
    run: str, tag: str, steps: tuple[int | None, int | None], a: Histogram, b: Histogram
) -> Difference:
    """Compute all of `Difference` but `parts_at`."""
    distance = wasserstein(a, b)
    return Difference(
        run, tag, *steps, distance and _in_units(unit_of(a, b), distance), jensen_shannon(a, b), psi(a, b),
        std_ratio=_ratio(spread(b)[1], spread(a)[1]), l2_ratio=_ratio(l2_norm(b), l2_norm(a)),
    )  # fmt: skip


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
    """Return a distance in units; infinite if a file says that both are zeros, but its buckets differ."""
    return distance / unit if unit else math.inf


def _ratio(other: float, first: float) -> float | None:
    return other / first if first and math.isfinite(other / first) else None
