"""Where buckets begin and end, and which bucket a value belongs to.

One rule holds everywhere: bucket ``i`` is ``[edges[i], edges[i + 1])``, and the last bucket also holds its
right edge. For edges that a caller passes it is numpy's rule, for TensorFlow's limits it is TensorFlow's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import BucketsError

ACCEPTED = (
    '"auto", "tensorflow", a whole number of uniform buckets >= 1, or increasing finite edges'
)


@dataclass(frozen=True, eq=False, repr=False)
class Buckets:
    """An ordered set of adjacent buckets.

    Parameters
    ----------
    edges : float64[n + 1]
        The borders of n buckets, finite and strictly increasing. Copied and frozen.
    name : {"tensorflow", "uniform", "edges"}, optional
        Where the edges come from, shown by `repr`. `Buckets` with the same edges are equal whatever their names.

    Raises
    ------
    BucketsError
        Fewer than two edges, an edge that is not finite, or edges that do not increase.
    """

    edges: NDArray[np.float64]
    name: str = field(default="edges", kw_only=True)

    def __post_init__(self) -> None:
        try:
            edges = np.array(self.edges, dtype=np.float64)
        except (TypeError, ValueError) as error:
            msg = f"bucket edges {self.edges!r} must be numbers. Accepted: {ACCEPTED}."
            raise BucketsError(msg) from error
        if edges.ndim != 1 or edges.size < 2:
            msg = (
                f"bucket edges have shape {edges.shape}. Accepted: a flat sequence of at least two edges. "
                "Hint: pass a whole number to have uniform buckets made for you."
            )
            raise BucketsError(msg)
        if not np.isfinite(edges).all():
            i = int(np.argmin(np.isfinite(edges)))
            msg = (
                f"bucket edge #{i} is {edges[i]}. Accepted: finite edges. "
                "Hint: values outside the edges are counted in `below_count` and `above_count`."
            )
            raise BucketsError(msg)
        falls = edges[1:] <= edges[:-1]
        if falls.any():
            i = int(np.argmax(falls))
            msg = (
                f"bucket edges do not increase: #{i} is {edges[i]!s} and #{i + 1} is {edges[i + 1]!s}. "
                "Accepted: strictly increasing edges. Hint: numpy.unique sorts them and drops repeats."
            )
            raise BucketsError(msg)
        edges.setflags(write=False)
        object.__setattr__(self, "edges", edges)

    def __len__(self) -> int:
        return self.edges.size - 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Buckets):
            return NotImplemented
        return self is other or np.array_equal(self.edges, other.edges)

    def __hash__(self) -> int:
        return hash((self.edges.size, float(self.edges[0]), float(self.edges[-1])))

    def __repr__(self) -> str:
        low, high = float(self.edges[0]), float(self.edges[-1])
        return f"Buckets({self.name!r}, {len(self)} from {low!r} to {high!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # TensorFlow's limits are one object per process: 12 kB less in each pickle.
        if self is _TENSORFLOW:
            return (tensorflow_buckets, ())
        return (_rebuild, (self.edges, self.name))

    @property
    def is_uniform(self) -> bool:
        """Whether all buckets are equally wide, up to the rounding of their edges."""
        # Halved, since the range may overflow.
        widths = np.diff(self.edges / 2)
        rounding = 4 * math.ulp(float(np.abs(self.edges).max()))
        return float(np.ptp(widths)) <= rounding

    def index(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the bucket of each value, the definition that every kernel follows.

        Parameters
        ----------
        values : float64[...]
            No NaN.

        Returns
        -------
        int64[...]
            0 to n - 1; -1 for a value below the first edge, n for one above the last.
        """
        index = np.searchsorted(self.edges, values, side="right") - 1
        return np.where(values == self.edges[-1], len(self) - 1, index)


def checked_buckets(edges: NDArray[np.float64]) -> Buckets:
    """Wrap edges float64[n + 1] that the caller has checked, without a copy; they become read-only."""
    buckets = object.__new__(Buckets)
    edges.setflags(write=False)
    object.__setattr__(buckets, "edges", edges)
    object.__setattr__(buckets, "name", "edges")
    return buckets


def _rebuild(edges: NDArray[np.float64], name: str) -> Buckets:
    return Buckets(edges, name=name)


def _tensorflow_limits() -> list[float]:
    # The running product, not 1e-12 * 1.1 ** k: a power differs in 731 of the 774 doubles.
    positive = []
    limit = 1e-12
    while limit < 1e20:
        positive.append(limit)
        limit *= 1.1
    positive.append(float(np.finfo(np.float64).max))
    return [-limit for limit in reversed(positive)] + [0.0] + positive


_TENSORFLOW = Buckets(np.array(_tensorflow_limits()), name="tensorflow")


def tensorflow_buckets() -> Buckets:
    """Return TensorFlow's 1,550 buckets, always the same object: limits 1e-12 * 1.1**k up to 1e20, mirrored, 0, +-max.

    Source: ``InitDefaultBucketsInner`` in tsl/lib/histogram/histogram.cc of openxla/xla. TensorFlow has one more bucket,
    below the smallest double, which nothing can enter; and it writes past its array for a value equal to the largest
    double, which is counted here in the last bucket.
    """
    return _TENSORFLOW


def limit_above(value: float) -> float:
    """Return the smallest of TensorFlow's limits above a value; for the largest double, itself."""
    limits = _TENSORFLOW.edges
    return float(limits[min(int(limits.searchsorted(value, side="right")), limits.size - 1)])


def uniform_buckets(count: int, low: float, high: float) -> Buckets:
    """Divide [low, high] into `count` buckets of equal width, with the edges that `numpy.histogram` uses.

    Equal ends are moved apart by 0.5 each, as numpy does. Where the doubles between them are too few for `count` distinct
    edges, or the range overflows, numpy raises an error; here the range is widened or halved as little as needed, so that
    a tensor never stops a training run. Source: ``_get_outer_edges`` and ``_get_bin_edges`` in
    numpy/lib/_histograms_impl.py.
    """
    if low == high:
        low, high = low - 0.5, high + 0.5
    largest = float(np.finfo(np.float64).max)
    grow = 0.0
    while True:
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(high - low):
                edges = np.linspace(low, high, count + 1)
            else:
                # numpy's subtraction overflows: the same line, in halves.
                edges = np.linspace(low / 2, high / 2, count + 1) * 2
        if (edges[1:] > edges[:-1]).all() and np.isfinite(edges).all():
            return Buckets(edges, name="uniform")
        grow = max(2 * grow, math.ulp(max(abs(low), abs(high))) * count / 2)
        low, high = max(low - grow, -largest), min(high + grow, largest)


RULES = ("doane", "fd", "rice", "scott", "sqrt", "stone", "sturges")
"""The rules of ``numpy.histogram_bin_edges``, which choose the number of uniform buckets from the values."""


def rule_buckets(rule: str, values: NDArray[np.float64]) -> Buckets:
    """Choose uniform buckets for finite values float64[n] by one of `RULES`, as ``numpy.histogram_bin_edges`` does.

    The edges are numpy's, but at most `MAX_UNIFORM` buckets; where numpy raises an error, since the range overflows or
    holds too few doubles, about ``log2(n)`` buckets, so that a tensor never stops a training run.
    """
    if not values.size:
        return uniform_buckets(1, 0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    width = 0.0
    with np.errstate(all="ignore"):
        # The two rules by which outliers may ask for any number of buckets. Source: numpy/lib/_histograms_impl.py.
        if rule == "fd":
            spread = float(np.subtract(*np.percentile(values, [75, 25])))
            width = 2 * spread / values.size ** (1 / 3)
        elif rule == "scott":
            width = (24 * math.pi**0.5 / values.size) ** (1 / 3) * float(values.std())
        if width > 0 and (high - low) / width > MAX_UNIFORM:
            return uniform_buckets(MAX_UNIFORM, low, high)
        try:
            return Buckets(np.histogram_bin_edges(values, rule), name="uniform")
        except (ValueError, OverflowError, IndexError):
            return uniform_buckets(values.size.bit_length(), low, high)


def parse_buckets(buckets: str | int | Sequence[float] | NDArray[Any] | Buckets) -> Buckets | int:
    """Parse ``buckets=``: an int asks for that many uniform buckets over the data; "auto" and "tensorflow" share buckets.

    Raises BucketsError, naming the value and what is accepted.
    """
    if isinstance(buckets, Buckets):
        return buckets
    if isinstance(buckets, str):
        if buckets in ("auto", "tensorflow"):
            return _TENSORFLOW
        why = "needs all values of one array in memory" if buckets in RULES else "is not known"
        msg = f"buckets={buckets!r} {why}. Accepted: {ACCEPTED}."
        raise BucketsError(msg)
    if isinstance(buckets, (int, np.integer)) and not isinstance(buckets, (bool, np.bool_)):
        if not 1 <= buckets <= MAX_UNIFORM:
            msg = f"buckets={buckets} must be between 1 and {MAX_UNIFORM:,}."
            raise BucketsError(msg)
        return int(buckets)
    if isinstance(buckets, (bool, np.bool_, float, np.floating)) or buckets is None:
        msg = f"buckets={buckets!r} is neither a whole number nor edges. Accepted: {ACCEPTED}."
        raise BucketsError(msg)
    return Buckets(buckets)  # type: ignore[arg-type]  # it checks and converts


def wants_outline(buckets: Any) -> bool:
    """Return whether ``buckets=`` asks for an outline beside the counts."""
    return isinstance(buckets, str) and buckets == "auto"


MAX_UNIFORM = 1 << 20
"""Most uniform buckets: each worker thread holds a counter for each (8 MiB at this number)."""
