"""`Histogram`: a small, exact, mergeable summary of every element of a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fasthist import display, quantiles
from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.conversions import UhiAxis, UhiHistogram, counts_between, cumulative
from fasthist.display import RawHistogram
from fasthist.dtypes import CAST_FORMATS
from fasthist.errors import ArgumentError, BucketsError
from fasthist.outline import Part, Rows, merge_outlines
from fasthist.packages import require

EXPONENTS = range(-127, 129)
"""Binary exponents of `Histogram.exponent_counts`: -127 stands for everything smaller, 128 for everything larger."""

CastFormat = Literal["float16", "float8_e4m3fn", "float8_e5m2"]

_SHOWN = ("zero_count", "nan_count", "posinf_count", "neginf_count", "below_count", "above_count", "uncounted")  # fmt: skip

_MOST_BARS = 512  # that W&B, trackio and Aim take
_BARS = 30
"""Where rows come from a sample, the shares of this many bars are right to 2 %; TensorBoard's page draws as many."""
_COMET_LEAST, _COMET_MOST = 1e-12, 1e20

Outline = Rows | Callable[[], Rows] | None


def _sum(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


def _float_sum(a: float | None, b: float | None) -> float | None:
    total = _sum(a, b)
    return None if total is None or math.isnan(total) else total  # NaN: infinities of opposite sign


def _extreme(choose: Callable[[float, float], float]) -> Callable[[Any, Any], float | None]:
    def merge(a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return b if a is None else a
        return choose(a, b)

    return merge


_SUM, _FLOAT_SUM = {"merge": _sum}, {"merge": _float_sum}
_MIN, _MAX = {"merge": _extreme(min)}, {"merge": _extreme(max)}
"""How a field of two histograms is merged."""


@dataclass(frozen=True, eq=False, repr=False)
class Histogram:
    """What one pass over a tensor leaves: bucket counts, exact extremes and moments, special values.

    Made by `fasthist.histogram`, or read from a file; frozen. Histograms over the same buckets add up with ``+`` and
    ``sum(...)``: the counts of the sum are exactly those of the concatenated data. What a file does not tell is None, and
    so is everything derived from it.

    Attributes
    ----------
    buckets : Buckets
        Edges of the buckets. `counts` belongs to them.
    counts : uint64[n] or float64[n]
        Finite values in each bucket; ``counts.sum() + below_count + above_count == num``. float64 only where a file
        holds counts that are not whole, or beyond 2**53.
    below_count, above_count : int
        Finite values below the first and above the last edge.
    num : int
        Finite values; a float where `counts` are.
    min, max : float or None
        Smallest and largest finite value, exact; None if there is none. Integers beyond 2**53 are rounded as
        they are for counting: down for TensorFlow's buckets, to the nearest float64 for others.
    sum, sum_squares : float or None
        Sums over the finite values, added up in float64 (see Notes). `sum` is None where two histograms are merged
        whose sums are infinite and of opposite sign.
    zero_count, nan_count, posinf_count, neginf_count : int or None
        Values equal to zero (counted in `num` too), and values counted nowhere else.
    uncounted : int or None
        Values that a file mentions but none of the counts above holds: NaN, infinite, or beyond the writer's buckets. A
        lower bound, since TensorFlow 2's rows only tell that there are some. 0 for a tensor counted here.
    exponent_counts : uint64[256] or None
        Non-zero finite values by binary exponent: element ``e + 127`` counts ``2**e <= |x| < 2**(e + 1)``;
        the first also everything smaller (float32's subnormals), the last everything larger.
    cast_losses : uint64[3, 2] or None
        For each of ``fasthist.dtypes.CAST_FORMATS``, the non-zero values that a cast would turn into zero, and
        into an infinity or NaN. Read it through `underflow` and `overflow`.
    outlined : float64[k, 3], callable or None
        What `outline` returns, or a function that computes it on first use.
    squared_deviations : float or None
        Sum over the finite values of ``(x - mean) ** 2``, read by `std`; None for what a GPU or `jit` has counted and for
        other writers' files. Comparisons leave it out.

    Notes
    -----
    The sums of 16-bit formats from 262,144 values on, and of 8-bit ones from 16,384, are correctly rounded. The
    others are float64 sums of blocks of 65,536 values, the blocks added up without further error: each lies within
    ``2**-37`` of the sum of magnitudes in the worst case, near ``1e-15`` of it usually. They do not depend on the
    number of threads. A sum beyond float64 is infinite, never NaN.

    The outline of a large array comes from a sample, weighted to agree with the counts; that of a sum from its parts.
    """

    buckets: Buckets
    counts: NDArray[Any] = field(metadata=_SUM)
    below_count: int = field(metadata=_SUM)
    above_count: int = field(metadata=_SUM)
    num: float = field(metadata=_SUM)
    min: float | None = field(metadata=_MIN)
    max: float | None = field(metadata=_MAX)
    sum: float | None = field(metadata=_FLOAT_SUM)
    sum_squares: float | None = field(metadata=_SUM)
    zero_count: int | None = field(metadata=_SUM)
    nan_count: int | None = field(metadata=_SUM)
    posinf_count: int | None = field(metadata=_SUM)
    neginf_count: int | None = field(metadata=_SUM)
    exponent_counts: NDArray[np.uint64] | None = field(metadata=_SUM)
    cast_losses: NDArray[np.uint64] | None = field(metadata=_SUM)
    outlined: Outline = field(default_factory=lambda: None)
    uncounted: int | None = field(default=0, metadata=_SUM)
    # No default on the class: a pending histogram would return it as its own.
    squared_deviations: float | None = field(default_factory=lambda: None)

    def __post_init__(self) -> None:
        for array in (self.counts, self.exponent_counts, self.cast_losses, self.outlined):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, which also freezes the copy's arrays.
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return Histogram, tuple({**values, "outlined": self.outline}.values())

    @property
    def outline(self) -> Rows | None:
        """Rows that follow the values closely, at most 250, from `min` to `max`; None without "auto" or values.

        float64[k, 3], read-only: left edge, right edge and count of each. It is what is written, and what `quantile`
        and `cdf` read. Comparisons leave it out.
        """
        rows = self.outlined
        if callable(rows):
            rows = rows()
            rows.setflags(write=False)
            object.__setattr__(self, "outlined", rows)  # releases what the callable holds
        return rows

    def __add__(self, other: object) -> Histogram:
        """Merge two histograms of disjoint data over the same buckets.

        Raises
        ------
        BucketsError
            The buckets differ.
        """
        if not isinstance(other, Histogram):
            return NotImplemented
        if self.buckets != other.buckets:
            msg = (
                f"cannot add histograms over {self.buckets!r} and {other.buckets!r}. Accepted: equal buckets. "
                'Hint: buckets="tensorflow" or explicit edges are the same for every tensor; uniform ones '
                "follow its range."
            )
            raise BucketsError(msg)
        merged = {
            part.name: part.metadata["merge"](getattr(self, part.name), getattr(other, part.name))
            for part in fields(self)
            if part.metadata
        }
        # `merge` reads None as "no values", but here it may mean "unknown".
        for name in ("min", "max"):
            if any(part.num and getattr(part, name) is None for part in (self, other)):
                merged[name] = None
        merged["squared_deviations"] = _squared_deviations(self, other)
        parts = self._parts() + other._parts()
        # Histograms without values have no outline and need none.
        if len(parts) != bool(self.num) + bool(other.num):
            parts = []
        rows = merge_outlines(parts) if parts else None
        return Histogram(self.buckets, **merged, outlined=rows)

    def _parts(self) -> list[Part]:
        return [] if self.outline is None else [(self.outline, self.min or 0.0, self.max or 0.0)]

    def __radd__(self, other: object) -> Histogram:
        # sum(histograms) begins with 0, an integer.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self.buckets == other.buckets and all(
            np.array_equal(getattr(self, part.name), getattr(other, part.name))
            for part in fields(self)
            if part.metadata
        )

    def __hash__(self) -> int:
        return hash((self.buckets, self.num, self.min, self.max, self.sum, self.nan_count))

    def __repr__(self) -> str:
        shown = [f"num={self.num}"]
        if self.num:
            numbers = {name: getattr(self, name) for name in ("min", "max", "mean", "std")}
            shown += [f"{name}={value:.6g}" for name, value in numbers.items() if value is not None]
        shown += [f"{name}={getattr(self, name)}" for name in _SHOWN if getattr(self, name)]
        name = self.buckets.name if self.outlined is None else "auto"
        return f"Histogram({', '.join(shown)}, buckets={name!r}[{len(self.buckets)}])"

    def rebucket(self, buckets: str) -> Histogram:
        """Return the same histogram over TensorFlow's buckets alone: what "tensorflow" would have counted.

        It has no outline, and shares its arrays.

        Raises
        ------
        BucketsError
            `buckets` is not "tensorflow", or the counts belong to other buckets.
        """
        if buckets != "tensorflow" or self.buckets != tensorflow_buckets():
            msg = (
                f"cannot rebucket from {self.buckets!r} to {buckets!r}. "
                'Accepted: from "auto" or "tensorflow" to "tensorflow". Hint: count the values again.'
            )
            raise BucketsError(msg)
        return replace(self, buckets=tensorflow_buckets(), outlined=None)

    @property
    def mean(self) -> float | None:
        """Mean of the finite values; None without values. Its error is that of `sum`, over `num`."""
        return self.sum / self.num if self.num and self.sum is not None else None

    @property
    def std(self) -> float | None:
        """Population standard deviation (divisor `num`); None if there is no finite value.

        The variance is ``squared_deviations / num``; the relative error of `std` is about ``1e-11``, and that of a sum
        of histograms at most ``1e-15 * mean / std`` more. Where `squared_deviations` is None, the variance is
        ``sum_squares / num - mean ** 2``, which makes the relative error about ``1e-15 * (mean / std) ** 2``, and
        below that error the result 0.
        """
        mean, squares = self.mean, self.sum_squares
        if self.min == self.max and self.min is not None:
            return 0.0
        if self.num and self.squared_deviations is not None:
            return math.sqrt(self.squared_deviations / self.num)
        if mean is None or squares is None:
            return None
        if not math.isfinite(squares):
            return math.inf
        return math.sqrt(max(0.0, squares / self.num - mean * mean))

    @property
    def l2_norm(self) -> float | None:
        """Square root of `sum_squares`; 0 for no values."""
        return None if self.sum_squares is None else math.sqrt(self.sum_squares)

    def underflow(self, format: CastFormat) -> float | None:
        """Share of the non-zero values that a cast to `format` would turn into zero.

        Parameters
        ----------
        format : {"float16", "float8_e4m3fn", "float8_e5m2"}
            Target of the cast, rounding to nearest even, without scaling.

        Returns
        -------
        float or None
            Exact, 0 to 1; None if there is no non-zero value, or for a histogram from a file.

        Raises
        ------
        ArgumentError
            Another format.
        """
        return self._loss(format, 0)

    def overflow(self, format: CastFormat) -> float | None:
        """Share of the non-zero values that a cast to `format` would turn into an infinity or NaN.

        Without saturation; else as `underflow`.
        """
        return self._loss(format, 1)

    def _loss(self, format: str, column: int) -> float | None:
        if format not in CAST_FORMATS:
            msg = f"format {format!r} has no cast counts. Accepted: {', '.join(CAST_FORMATS)}."
            raise ArgumentError(msg)
        if self.cast_losses is None or self.zero_count is None:
            return None
        nonzero = self.num - self.zero_count
        lost = int(self.cast_losses[CAST_FORMATS.index(format), column])
        return lost / nonzero if nonzero else None

    def quantile(self, q: float) -> float | None:
        """Return the value below which the share `q` of the finite values lies, interpolated inside its bucket.

        Parameters
        ----------
        q : float
            0 to 1.

        Returns
        -------
        float or None
            None if there is no finite value. ``numpy.quantile(..., method="inverted_cdf")`` lies in the same
            bucket, so the error is less than that bucket's width, cut at `min` and `max`: with TensorFlow's
            buckets 10 % of the value, or 1e-12. With "auto" the share below the result is within 2 % of `q`.

        Raises
        ------
        ArgumentError
            `q` is not between 0 and 1.
        """
        if not 0 <= q <= 1:
            msg = f"q={q!r} must be between 0 and 1."
            raise ArgumentError(msg)
        if not self.num:
            return None
        return quantiles.value_at(q * self.num, *self._span())

    def cdf(self, x: float) -> float | None:
        """Return the share of the finite values that are at most `x`, interpolated inside its bucket.

        Parameters
        ----------
        x : float
            Not NaN.

        Returns
        -------
        float or None
            0 to 1; None if there is no finite value. The error is at most the share of the bucket that holds
            `x`; outside `min` and `max` it is 0.

        Raises
        ------
        ArgumentError
            `x` is NaN.
        """
        if math.isnan(x):
            msg = "x is NaN, which has no order. Accepted: any other number."
            raise ArgumentError(msg)
        if not self.num:
            return None
        edges, counts = self._span()
        low = edges[0] if self.min is None else self.min
        high = edges[-1] if self.max is None else self.max
        if not low <= x < high:
            return float(x >= high)
        return quantiles.count_up_to(x, edges, counts) / self.num

    def to_numpy(self) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what `numpy.histogram` returns.

        Returns
        -------
        counts : int64[n]
            A copy; float64[n] where `counts` is.
        edges : float64[n + 1]
            Read-only, no copy.
        """
        dtype = np.int64 if self.counts.dtype.kind == "u" else np.float64
        return self.counts.astype(dtype), self.buckets.edges

    def to_raw(self, max_buckets: int | None = None) -> RawHistogram:
        """Return the keyword arguments of ``add_histogram_raw``: TensorBoard's ``HistogramProto``.

        Parameters
        ----------
        max_buckets : int, optional
            Merge equally many neighbours so that no more than this many buckets are written.

        Returns
        -------
        dict
            ``bucket_limits`` float64[k + 1] are right edges: the first is `min`, with count 0, the last is
            `max`; empty buckets side by side are one. ``bucket_counts`` is float64[k + 1], as the file stores it.
            With "auto" they are the rows of `outline` and the gaps between them.

        Raises
        ------
        BucketsError
            There is no finite value, so there is nothing to draw.

        Notes
        -----
        Both of TensorBoard's loaders replace the outermost edges by `min` and `max` and then disagree about empty
        outer buckets; with limits that begin and end there they agree. Where the two are equal, the limits written are
        a little apart, or else the page reverses its axis. Values outside explicit edges get a bucket of their own, up
        to the first edge or from the last one.
        """
        if not self.num:
            msg = (
                "a histogram of no finite value cannot be written. "
                "Hint: check `num` first; NaN and infinities are in `nan_count`, `posinf_count`, `neginf_count`."
            )
            raise BucketsError(msg)
        if self.outline is not None:
            edges, counts = display.contiguous(self.to_rows(max_buckets))
            if max_buckets is not None and counts.size > max_buckets:
                # Too many gaps between the rows: k rows have at most k - 1 gaps.
                edges, counts = display.contiguous(self.to_rows((max_buckets + 1) // 2))
        else:
            edges, counts = display.written_buckets(*self._span(), max_buckets)
        return display.raw_histogram(edges, counts, self.num, (self.sum, self.sum_squares))

    def to_rows(self, max_buckets: int | None = None) -> NDArray[np.float64]:
        """Return the rows of the histograms plugin's tensor.

        Parameters
        ----------
        max_buckets : int, optional
            As in `to_raw`.

        Returns
        -------
        float64[k, 3]
            Left edge, right edge and count of each bucket; no row if there is no finite value. With "auto" it is
            `outline`, not copied, which may have gaps between rows.
        """
        if not self.num:
            return np.empty((0, 3))
        if self.outline is not None:
            return merge_outlines(self._parts(), display.check_limit(max_buckets))
        edges, counts = display.written_buckets(*self._span(), max_buckets)
        return np.column_stack((edges[:-1], edges[1:], counts))

    def _span(self) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Return the buckets, or the rows, from `min` to `max`: edges[k + 1], counts[k]."""
        if self.outline is not None:
            return display.contiguous(self.outline)
        outside = (self.below_count, self.above_count)
        return display.cut(self.buckets.edges, self.counts, outside, (self.min, self.max))

    def plot(self, ax: Any = None, *, dark: bool = False, scale: str = "auto") -> Any:
        """Draw the density.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw. Default: pyplot's current axes, which ``plt.show()`` and notebooks show.
        dark : bool
            Draw into a new pyplot figure with a dark background.
        scale : {"auto", "linear", "log"}
            Scale of the values; "log" is linear around zero. "auto" picks it where a linear axis would hide most of them.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            `scale` is none of these.
        MissingPackageError
            matplotlib is not installed: the extra fasthist[plot].

        Notes
        -----
        The area over a row is its share of the values. What would be too high to draw, such as exact zeros, is a line with
        a point on top, as high as its share of the whole height.
        """
        return require("fasthist.plots.figures").plot_histogram(self, ax, dark=dark, scale=scale)

    def _repr_html_(self) -> str:
        """Return a table of the numbers and a picture: what notebooks show."""
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
            From `min` to `max`; for a constant, from 0.5 below to 0.5 above it.

        Raises
        ------
        ArgumentError
            `bins` is less than 1.
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
            bins = min(len(self.buckets), _MOST_BARS) if self.buckets.is_uniform else _BARS
        if bins < 1:
            msg = f"bins={bins!r} leaves no bar to draw. Accepted: 1 or more."
            raise ArgumentError(msg)
        limits, reached = cumulative(self.to_raw())
        bars = uniform_buckets(bins, float(limits[0]), float(limits[-1]))
        if limits[0] == limits[-1]:
            counts = np.zeros(bins, np.int64)
            counts[bars.index(limits[:1])] = reached[-1]
        else:
            counts = counts_between(bars.edges, limits, reached)
        return counts, bars.edges

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
        """Return a ``trackio.Histogram``; otherwise as `to_wandb`."""
        return require("trackio").Histogram(np_histogram=self.to_bars())

    def to_aim(self, bins: int = _BARS) -> Any:
        """Return an ``aim.Distribution`` of the bars of `to_bars`, for ``run.track(histogram.to_aim(), name=tag)``.

        Parameters
        ----------
        bins : int
            1 to 512.

        Returns
        -------
        aim.Distribution

        Raises
        ------
        ArgumentError
            `bins` is outside this range.
        BucketsError
            There is no finite value.
        MissingPackageError
            aim is not installed.
        """
        if not 1 <= bins <= _MOST_BARS:
            msg = f"bins={bins!r} is not what Aim takes. Accepted: 1 to {_MOST_BARS}."
            raise ArgumentError(msg)
        counts, edges = self.to_bars(bins)
        ends = (float(edges[0]), float(edges[-1]))
        return require("aim").Distribution(hist=counts, bin_range=ends)

    def to_comet(self) -> Any:
        """Return a ``comet_ml.data_structure.Histogram``, for ``experiment.log_histogram_3d(..., name=tag, step=step)``.

        Its bins are TensorFlow's, and values smaller than 1e-12 count as zero. The counts of "auto" and "tensorflow" are
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
        counts = self.counts
        if self.buckets != limits:
            counts = counts_between(limits.edges, *cumulative(self.to_raw()))
        (filled,) = np.nonzero(counts)
        middles = limits.edges[filled] / 2 + limits.edges[filled + 1] / 2
        middles[np.abs(middles) < _COMET_LEAST] = 0.0  # Comet would put them among larger ones
        most = np.nextafter(_COMET_MOST, 0)  # Comet drops what is beyond
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
        """Return a ``matplotlib.figure.Figure``, for ``mlflow.log_figure(figure, f"{tag}/{step}.png")``.

        It shows the share of the values in each bar of `to_bars`: as a density, a row of exact zeros would leave all
        others too low to be seen.

        Raises
        ------
        BucketsError
            There is no finite value.
        MissingPackageError
            matplotlib is not installed.
        """
        counts, edges = self.to_bars()
        new_figure = require("matplotlib.figure", "matplotlib").Figure
        figure = new_figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot(xlabel="value", ylabel="share of the values")
        axes.stairs(counts / counts.sum(), edges, fill=True)
        return figure

    def to_uhi(self) -> UhiHistogram:
        """Return what scikit-hep's tools take: ``hist.Hist(histogram.to_uhi())``, ``mplhep.histplot(histogram.to_uhi())``.

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


def _squared_deviations(a: Histogram, b: Histogram) -> float | None:
    """Return the sum of both together, None where unknown (Chan, Golub, LeVeque 1983)."""
    if not (a.num and b.num):
        return a.squared_deviations if a.num else b.squared_deviations
    own, others = a.squared_deviations, b.squared_deviations
    if own is None or others is None or a.sum is None or b.sum is None:
        return None
    apart = a.sum / a.num - b.sum / b.num
    total = own + others + apart * apart * (a.num * (b.num / (a.num + b.num)))
    return math.inf if math.isnan(total) else total  # the sums were infinite
