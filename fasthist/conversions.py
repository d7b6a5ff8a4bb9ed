"""What `Histogram` needs to become other tools' histograms: counts between any edges, and scikit-hep's protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.display import RawHistogram
from fasthist.packages import require

_FARTHEST = 1e300  # Aim takes the difference of the ends, matplotlib the sum of all edges


def cumulative(raw: RawHistogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return edges from `min` to `max`, and how many values lie below each."""
    limits = np.clip(raw["bucket_limits"], -_FARTHEST, _FARTHEST)
    if raw["min"] == raw["max"]:
        limits[-1] = limits[0]
    return limits, np.cumsum(raw["bucket_counts"])


def counts_between(
    cuts: NDArray[np.float64], limits: NDArray[np.float64], reached: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the number of values between cuts, int64[n - 1], rounded so that they add up to all."""
    low, high = float(limits[0]), float(limits[-1])
    if low == high:
        below = np.where(cuts <= low, 0.0, reached[-1])
    else:
        # Scaled by a power of two, which rounds nothing: the slope to a subnormal edge would be infinite.
        exponent = -math.frexp(high - low)[1]
        places, knots = (np.ldexp(x, exponent) for x in (np.clip(cuts, low, high), limits))
        below = np.interp(places, knots, reached)
    below[0], below[-1] = 0.0, reached[-1]
    whole = np.rint(below).astype(np.int64)
    return whole[1:] - whole[:-1]


@dataclass(frozen=True)
class _Traits:
    circular: bool = False
    discrete: bool = False


@dataclass(frozen=True, eq=False)
class UhiAxis:
    """An axis of buckets between edges float64[n + 1]; a sequence of pairs of edges."""

    edges: NDArray[np.float64]
    traits = _Traits()

    def __len__(self) -> int:
        return self.edges.size - 1

    def __getitem__(self, index: int) -> tuple[float, float]:
        place = range(len(self))[index]
        return float(self.edges[place]), float(self.edges[place + 1])

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UhiAxis) and np.array_equal(self.edges, other.edges)

    def __hash__(self) -> int:
        return hash(self.edges.tobytes())


@dataclass(frozen=True, eq=False)
class UhiHistogram:
    """A histogram by scikit-hep's ``PlottableHistogram`` protocol (uhi, ``uhi/typing/plottable.py``)."""

    axes: tuple[UhiAxis]
    _values: NDArray[np.float64]
    kind = "COUNT"

    def values(self, flow: bool = False) -> NDArray[np.float64]:
        """Return the counts float64[n], or [n + 2] with those below and above."""
        return self._values if flow else self._values[1:-1]

    counts = variances = values  # equal for plain counts

    def _to_boost_histogram_(self) -> Any:
        library = require("boost_histogram", "boost-histogram")
        converted = library.Histogram(library.axis.Variable(self.axes[0].edges))
        converted.view(flow=True)[...] = self._values
        return converted
