"""`Conversions`: a histogram as other tools want it. Each is imported when its method is called."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import tensorflow_buckets, uniform_buckets
from fasthist.errors import ArgumentError
from fasthist.packages import require

if TYPE_CHECKING:
    from fasthist.buckets import Buckets
    from fasthist.display import RawHistogram

_MOST = 512  # bars that W&B, trackio and Aim take
_COMET_LEAST, _COMET_MOST = 1e-12, 1e20
_FARTHEST = 1e300  # Aim takes the difference of the ends, matplotlib the sum of all edges
_BARS = 30
"""Where rows come from a sample, the shares of so many bars are right to 2 %; TensorBoard's page draws as many."""


class Conversions:
    """What `fasthist.Histogram` has from here; it brings the attributes."""

    if TYPE_CHECKING:
        buckets: Buckets
        counts: NDArray[Any]
        outlined: Any
        num: float
        below_count: int
        above_count: int

        def to_raw(self, max_buckets: int | None = None) -> RawHistogram:
            """Give limits and counts, the first limit with count 0."""

        @property
        def outline(self) -> NDArray[np.float64] | None:
            """Rows of left edge, right edge and count."""

    def plot(self, ax: Any = None, *, dark: bool = False, scale: str = "auto") -> Any:
        """Draw the density.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw. Default: pyplot's current axes, which ``plt.show()`` and notebooks show.
        dark : bool
            Draw into a new figure of pyplot's, on dark ground.
        scale : {"auto", "linear", "log"}
            Of the values; "log" is linear around zero. "auto" takes it where a linear axis would hide most of them.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            Another scale.
        MissingPackageError
            matplotlib is not installed: the extra fasthist[plot].

        Notes
        -----
        The area over a row is the share of the values in it. What would be too high to be drawn, such as exact zeros, is
        a line with a point on top, as high as its share of the whole height.
        """
        return require("fasthist.plots.figures").plot_histogram(self, ax, dark=dark, scale=scale)

    def _repr_html_(self) -> str:
        """Give a table of the numbers and a picture: what notebooks show."""
        html: str = require("fasthist.plots.notebook").to_html(self)
        return html

    def to_bars(self, bins: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return bars of equal width, for tools that draw a count as the height of a bar.

        Parameters
        ----------
        bins : int, optional
            How many, at least 1. Default: the uniform buckets that were counted, up to 512; 30 for all other buckets.

        Returns
        -------
        counts : int64[bins]
            They add up to `num`.
        edges : float64[bins + 1]
            From `min` to `max`; around a constant, from 0.5 below to 0.5 above it.

        Raises
        ------
        ArgumentError
            `bins` is not as above.
        BucketsError
            There is no finite value.

        Notes
        -----
        They stand for ``numpy.histogram(values, bins)``. The values of a bucket, or of a row of `outline`, that lies in
        two bars are taken to be spread evenly in it; a value with a row of its own, such as zero, is in one bar. Values
        beyond 1e300 are in the outer bars, since the tools' own arithmetic overflows there.

        Examples
        --------
        >>> import fasthist
        >>> fasthist.histogram([0.0, 0.0, 1.0, 4.0]).to_bars(4)[0].tolist()
        [2, 1, 0, 1]
        """
        if bins is None:
            bins = min(len(self.buckets), _MOST) if self.buckets.is_uniform else _BARS
        if bins < 1:
            msg = f"bins={bins!r} leaves no bar to draw. Accepted: 1 or more."
            raise ArgumentError(msg)
        limits, reached = self._reached()
        low, high = float(limits[0]), float(limits[-1])
        ends = uniform_buckets(bins, low, high)
        if low == high:
            counts = np.zeros(bins, np.int64)
            counts[ends.index(limits[:1])] = reached[-1]
        else:
            counts = _between(ends.edges, limits, reached)
        return counts, ends.edges

    def to_wandb(self) -> Any:
        """Return a ``wandb.Histogram`` of the bars of `to_bars`, for ``run.log({tag: histogram.to_wandb()})``.

        Raises
        ------
        BucketsError
            There is no finite value.
        MissingPackageError
            wandb is not installed.
        """
        return require("wandb").Histogram(np_histogram=self.to_bars())

    def to_trackio(self) -> Any:
        """Return a ``trackio.Histogram``; else as `to_wandb`."""
        return require("trackio").Histogram(np_histogram=self.to_bars())

    def to_aim(self, bins: int = _BARS) -> Any:
        """Give an ``aim.Distribution``, for ``run.track(histogram.to_aim(), name=tag, step=step)``.

        Parameters
        ----------
        bins : int
            1 to 512. Aim knows uniform bins only, from `min` to `max`.

        Returns
        -------
        aim.Distribution
            int64 counts that add up to `num`. Values of a bucket that lies in two bins are taken to lie evenly in it, and
            those beyond 1e300 in the outer bins.

        Raises
        ------
        ArgumentError
            `bins` is not as above.
        BucketsError
            There is no finite value.
        MissingPackageError
            aim is not installed.
        """
        if not 1 <= bins <= _MOST:
            msg = f"bins={bins!r} is not what Aim takes. Accepted: 1 to {_MOST}."
            raise ArgumentError(msg)
        counts, edges = self.to_bars(bins)
        ends = (float(edges[0]), float(edges[-1]))
        return require("aim").Distribution(hist=counts, bin_range=ends)

    def to_comet(self) -> Any:
        """Give a ``comet_ml.data_structure.Histogram``, for ``experiment.log_histogram_3d(..., name=tag, step=step)``.

        Its bins are TensorFlow's, and what is smaller than 1e-12 counts as zero. The counts of "auto" and "tensorflow" are
        those of its bins; the values of other buckets are taken to be spread evenly in them.

        Raises
        ------
        MissingPackageError
            comet_ml is not installed.
        """
        histogram = require("comet_ml.data_structure", "comet_ml").Histogram()
        if not self.num:
            return histogram
        limits = tensorflow_buckets()
        counts = self.counts if self.buckets == limits else _between(limits.edges, *self._reached())
        (filled,) = np.nonzero(counts)
        middles = limits.edges[filled] / 2 + limits.edges[filled + 1] / 2
        middles[np.abs(middles) < _COMET_LEAST] = 0.0  # or it would put them among larger ones
        most = np.nextafter(_COMET_MOST, 0)  # and it leaves out what is beyond
        histogram.add(np.clip(middles, -most, most), counts[filled])
        return histogram

    def to_swanlab(self) -> Any:
        """Return a bar chart, for ``swanlab.log({tag: histogram.to_swanlab()}, step=step)``: SwanLab has no histograms.

        Returns
        -------
        pyecharts.charts.Bar
            A bar for each of `to_bars`, labelled with its middle.

        Raises
        ------
        BucketsError
            There is no finite value.
        MissingPackageError
            swanlab is not installed.
        """
        counts, edges = self.to_bars()
        chart = require("swanlab").echarts.Bar()
        chart.add_xaxis([f"{middle:.3g}" for middle in (edges[:-1] / 2 + edges[1:] / 2).tolist()])
        chart.add_yaxis("values", counts.tolist(), category_gap=0)
        return chart

    def to_mlflow(self) -> Any:
        """Give a ``matplotlib.figure.Figure``, for ``mlflow.log_figure(figure, f"{tag}/{step}.png")``.

        It shows the share of the values in each bar of `to_bars`: the density of a row for exact zeros would leave all
        others too low to be seen.

        Raises
        ------
        BucketsError
            There is no finite value.
        MissingPackageError
            matplotlib is not installed.
        """
        counts, edges = self.to_bars()
        figure = require("matplotlib.figure", "matplotlib").Figure(
            figsize=(5, 3), layout="constrained"
        )
        axes = figure.add_subplot(xlabel="value", ylabel="share of the values")
        axes.stairs(counts / counts.sum(), edges, fill=True)
        return figure

    def to_uhi(self) -> UhiHistogram:
        """Give what scikit-hep's tools take: ``hist.Hist(histogram.to_uhi())``, ``mplhep.histplot(histogram.to_uhi())``.

        Returns
        -------
        UhiHistogram
            The bars of `to_bars` with "auto" and "tensorflow", since these tools draw a count as the height of a bar; else
            the buckets. Values outside explicit edges are its underflow and overflow.

        Raises
        ------
        BucketsError
            "auto" or "tensorflow", and there is no finite value.
        """
        counts, edges = self.counts, self.buckets.edges
        if self.outlined is not None or self.buckets == tensorflow_buckets():
            counts, edges = self.to_bars()
        values = np.concatenate(([self.below_count], counts, [self.above_count]))
        return UhiHistogram((UhiAxis(edges),), values.astype(np.float64))

    def _reached(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return edges from `min` to `max`, and how many values lie below each."""
        raw = self.to_raw()
        limits = np.clip(raw["bucket_limits"], -_FARTHEST, _FARTHEST)
        if raw["min"] == raw["max"]:
            limits[-1] = limits[0]
        return limits, np.cumsum(raw["bucket_counts"])


def _between(
    cuts: NDArray[np.float64], limits: NDArray[np.float64], reached: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return how many values lie between cuts, whole numbers with the sum of all."""
    low, high = float(limits[0]), float(limits[-1])
    if low == high:
        below = np.where(cuts <= low, 0.0, reached[-1])
    else:
        # Multiplied by a power of two, which rounds nothing: the slope to a subnormal edge would be infinite.
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
    """A histogram by the protocol ``PlottableHistogram`` of scikit-hep's package uhi.

    Source: uhi, ``uhi/typing/plottable.py``.
    """

    axes: tuple[UhiAxis]
    _values: NDArray[np.float64]
    kind = "COUNT"

    def values(self, flow: bool = False) -> NDArray[np.float64]:
        """Give counts float64[n], or [n + 2] with what lies below and above."""
        return self._values if flow else self._values[1:-1]

    counts = variances = values  # for plain counts all three are one

    def _to_boost_histogram_(self) -> Any:
        library = require("boost_histogram", "boost-histogram")
        found = library.Histogram(library.axis.Variable(self.axes[0].edges))
        found.view(flow=True)[...] = self._values
        return found
