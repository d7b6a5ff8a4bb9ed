"""`Conversions`: a histogram as other tools want it. Each is imported when its method is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError
from fasthist.packages import require

if TYPE_CHECKING:
    from fasthist.buckets import Buckets
    from fasthist.display import RawHistogram

_WANDB_MOST = 512
_AIM_MOST = 512
_COMET_LEAST, _COMET_MOST = 1e-12, 1e20
_FARTHEST = 1e300  # Aim takes the difference of the ends, matplotlib the sum of all edges
_DRAWN = 100


class Conversions:
    """What `fasthist.Histogram` has from here; it brings the attributes."""

    if TYPE_CHECKING:
        buckets: Buckets
        counts: NDArray[Any]
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

    def to_wandb(self) -> Any:
        """Give a ``wandb.Histogram`` of at most 512 buckets, for ``run.log({tag: histogram.to_wandb()})``.

        Its edges are the limits of `to_raw`, from `min` to `max`; its counts are float64.

        Raises
        ------
        BucketsError
            There is no finite value.
        MissingPackageError
            wandb is not installed.
        """
        return require("wandb").Histogram(np_histogram=self._between(_WANDB_MOST))

    def to_trackio(self) -> Any:
        """Give a ``trackio.Histogram``; else as `to_wandb`."""
        return require("trackio").Histogram(np_histogram=self._between(_WANDB_MOST))

    def to_aim(self, bins: int = 64) -> Any:
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
        if not 1 <= bins <= _AIM_MOST:
            msg = f"bins={bins!r} is not what Aim takes. Accepted: 1 to {_AIM_MOST}."
            raise ArgumentError(msg)
        counts, edges = self._uniform(bins)
        ends = (float(edges[0]), float(edges[-1]))
        return require("aim").Distribution(hist=counts, bin_range=ends)

    def to_comet(self) -> Any:
        """Give a ``comet_ml.data_structure.Histogram``, for ``experiment.log_histogram_3d(..., name=tag, step=step)``.

        Its bins are TensorFlow's, and what is smaller than 1e-12 counts as zero. With "auto" and "tensorflow" each bucket
        is one of them; of other buckets all values count at the middle.

        Raises
        ------
        MissingPackageError
            comet_ml is not installed.
        """
        found = require("comet_ml.data_structure", "comet_ml").Histogram()
        (filled,) = np.nonzero(self.counts)
        edges = self.buckets.edges
        middles = edges[filled] / 2 + edges[filled + 1] / 2
        middles[np.abs(middles) < _COMET_LEAST] = 0.0  # or it would put them among larger ones
        most = np.nextafter(_COMET_MOST, 0)  # and it leaves out what is beyond
        if filled.size:
            found.add(np.clip(middles, -most, most), self.counts[filled])
        return found

    def to_mlflow(self) -> Any:
        """Give a ``matplotlib.figure.Figure``, for ``mlflow.log_figure(figure, f"{tag}/{step}.png")``.

        It shows the share of the values in each of 100 uniform bins, which are made as in `to_aim`: the density of a row
        for exact zeros would leave all others too low to be seen.

        Raises
        ------
        BucketsError
            There is no finite value.
        MissingPackageError
            matplotlib is not installed.
        """
        counts, edges = self._uniform(_DRAWN)
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
            Over `outline` with "auto", over the buckets that hold something with "tensorflow", else over all buckets.
            Values outside explicit edges are its underflow and overflow.

        Raises
        ------
        BucketsError
            "auto" or "tensorflow", and there is no finite value.
        """
        edges, counts = self.buckets.edges, self.counts
        if self.outline is not None:
            counts, edges = self._between(None)
        elif self.buckets.name in ("auto", "tensorflow"):
            self.to_raw()  # raises where there is nothing to give
            (filled,) = np.nonzero(counts)
            first, last = filled[0], filled[-1] + 1
            edges, counts = edges[first : last + 1], counts[first:last]
        values = np.concatenate(([self.below_count], counts, [self.above_count]))
        return UhiHistogram((UhiAxis(edges),), values.astype(np.float64))

    def _between(self, most: int | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give counts[k] and edges[k + 1], as numpy does."""
        raw = self.to_raw(most)
        return raw["bucket_counts"][1:], raw["bucket_limits"]

    def _uniform(self, bins: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Give whole counts[bins] that add up to `num`, and uniform edges[bins + 1]."""
        counts, edges = self._between(None)
        edges = np.clip(edges, -_FARTHEST, _FARTHEST)
        low, high = float(edges[0]), float(edges[-1])
        if low == high:  # no value lies nearer
            low, high = min(low, 0.0), max(high, 0.0)
        # As shares of the range: the slope to a subnormal edge would be infinite.
        places = (edges - low) / (high - low)
        below = np.interp(
            np.linspace(0, 1, bins + 1), places, np.concatenate(([0.0], np.cumsum(counts)))
        )
        below[0], below[-1] = 0, counts.sum()
        whole = np.rint(below).astype(np.int64)
        return whole[1:] - whole[:-1], np.linspace(low, high, bins + 1)


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
