"""The contents of each kind of picture, as numbers, which matplotlib and plotly both draw."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fasthist.hist import Histogram
from fasthist.plots import density
from fasthist.plots.axis import (
    Floats,
    ValueAxis,
    label,
    outline_axis,
    quantiles_of,
    round_values,
    step_axis,
)

SHARES = (0.0, 0.07, 0.16, 0.31, 0.5, 0.69, 0.84, 0.93, 1.0)
"""The percentiles of TensorBoard's Distributions: for a normal, the mean and 0.5, 1 and 1.5 standard deviations."""

_MOST_OUTLINES, _MOST_LABELS = 21, 6
_MOST_CHARACTERS = 52
_OVERLAP = 2.6
_APART = 0.85  # height of an atom of all values, in distances between steps: below the next one
_LABEL_HEIGHT = 0.055  # share of the axes

Steps = NDArray[np.int64]


class SeriesLike(Protocol):
    """The part of `fasthist.tag_series.Series` that is drawn: the histograms of one tag, by step."""

    @property
    def steps(self) -> Steps:
        """int64[n]."""

    @property
    def num(self) -> NDArray[np.float64]:
        """Numbers of finite values, float64[n]."""

    def __getitem__(self, index: int) -> Histogram: ...


@dataclass(frozen=True)
class Overlay:
    """Outlines of several histograms in one picture."""

    axis: ValueAxis
    outlines: dict[str, density.Density]
    heights: density.Heights
    note: str  # tells what the picture leaves out; "" if nothing


def overlay_of(
    histograms: Mapping[str, Histogram], scale: str = "auto", beside: ValueAxis | None = None
) -> Overlay | None:
    """Compute the overlay of histograms; None if there are no finite values.

    `beside` is the axis of outlines already drawn: heights compare only on the same scale.
    """
    known = {name: h for name, h in histograms.items() if h.num}
    if not known:
        return None
    axis = outline_axis(list(known.values()), scale)
    if beside and beside.unit == axis.unit:
        axis = outline_axis(list(known.values()), "linear") if beside.threshold is None else axis
        axis = replace(axis, threshold=beside.threshold)
    outlines = {name: density.density_of(h, axis) for name, h in known.items()}
    heights = density.heights_of(list(outlines.values()), axis)
    return Overlay(axis, outlines, heights, _outside(outlines.values(), known.values()))


@dataclass(frozen=True)
class Ridge:
    """One outline for each step, equally far apart, the newest in front."""

    steps: Steps
    axis: ValueAxis
    densities: list[density.Density]
    overlap: float  # height of an outline; outlines are 1 apart, and heights point to smaller rows
    ticks: list[tuple[float, str]]  # rows with a label
    note: str  # tells what the picture leaves out; "" if nothing

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest row of the picture."""
        return len(self.densities) - 0.6, -self.overlap - 0.3

    def corners(self, row: int) -> Floats:
        """Return the corners of an outline, as values and rows: float64[2 * k + 2, 2]; empty without a density."""
        drawn = self.densities[row]
        return stepped(drawn.edges, row - drawn.heights / (drawn.peak or 1) * self.overlap, row)

    def atoms(self, row: int) -> Floats:
        """Return value, top and share of the visible atoms: float64[m, 3]."""
        drawn = self.densities[row]
        seen = drawn.shares >= density.SEEN
        at, shares = drawn.atoms[seen], drawn.shares[seen]
        return np.column_stack((at, row - shares * _APART, shares))


def ridge_of(series: SeriesLike, scale: str = "auto") -> Ridge | None:
    """Choose at most 21 steps with finite values, evenly, and compute their outlines; None if there are none."""
    (known,) = np.nonzero(series.num > 0)
    chosen = known[spread_evenly(known.size, _MOST_OUTLINES)]
    if not chosen.size:
        return None
    steps, histograms = series.steps[chosen], [series[i] for i in chosen.tolist()]
    axis = outline_axis(histograms, scale)
    densities = [density.density_of(h, axis) for h in histograms]
    missing = int(series.steps.size - known.size)
    notes = [f"no finite values at {_counted(missing, 'step')}" if missing else ""]
    notes += [_outside(densities, histograms)]
    overlap = min(_OVERLAP, 0.6 + chosen.size / 6)
    return Ridge(steps, axis, densities, overlap, _row_ticks(steps), "; ".join(filter(None, notes)))


@dataclass(frozen=True)
class Columns:
    """The fields that pictures over steps share."""

    steps: Steps
    ends: tuple[float, float]  # of the axis of steps
    axis: ValueAxis
    marked: Steps  # steps with NaN or infinities
    special_counts: NDArray[np.int64]  # how many there are
    note: str  # explains the crosses; "" if there are none


@dataclass(frozen=True)
class Heat(Columns):
    """Density as colour."""

    borders: Floats  # float64[n + 1], between steps
    edges: Floats  # float64[k + 1], between cells of values
    density: Floats  # float64[k, n], NaN where there is nothing
    low: float  # ends of the logarithmic colour scale
    high: float
    ticks: list[tuple[float, str]]  # densities with a label
    unit: str  # of the colours


@dataclass(frozen=True)
class Bands(Columns):
    """Percentiles as bands around the median."""

    at: Floats  # steps; one whose neighbours have no finite values is there twice, to have a width
    values: Floats  # float64[k, 9], at `SHARES`; a row of NaN between unconnected parts
    labels: list[tuple[float, str]]  # place on the axis, 0 to 1, and text, at the right end

    @property
    def parts(self) -> list[slice]:
        """Connected parts of `at`."""
        breaks = np.nonzero(np.isnan(self.values[:, 0]))[0].tolist()
        return [slice(a + 1, b) for a, b in itertools.pairwise([-1, *breaks, self.at.size])]


def heat_of(series: SeriesLike, most: int, scale: str = "auto") -> Heat | None:
    """Compute a heat map of at most `most` steps; None if there are no finite values."""
    steps, histograms = _evenly_chosen(series, most)
    if not any(h.num for h in histograms):
        return None
    axis = step_axis(histograms, scale)
    edges, colours = density.heat_of(histograms, axis)
    low, high = density.colour_range(colours)
    return Heat(
        **_in_common(steps, histograms, axis), borders=step_edges(steps), edges=edges, density=colours,
        low=low, high=high, ticks=[(tick, label(tick)) for tick in ValueAxis(low, high, low).ticks(6)],
        unit="share per decade" if axis.one_sided else "density",
    )  # fmt: skip


def bands_of(series: SeriesLike, most: int, scale: str = "auto") -> Bands | None:
    """Compute the percentiles of at most `most` steps; None if there are no finite values."""
    steps, histograms = _evenly_chosen(series, most)
    (places,) = np.nonzero([h.num > 0 for h in histograms])
    if not places.size:
        return None
    axis = step_axis(histograms, scale)
    borders = step_edges(steps)
    at: list[float] = []
    values: list[Floats] = []
    for part in np.split(places, np.nonzero(np.diff(places) > 1)[0] + 1):
        if at:
            at.append(at[-1])
            values.append(np.full(len(SHARES), np.nan))
        ends = [borders[part[0]], borders[part[0] + 1]]
        at += ends if part.size == 1 else steps[part].tolist()
        shown = [histograms[i] for i in np.resize(part, max(part.size, 2))]
        values += [quantiles_of(histogram, SHARES, axis.unit) for histogram in shown]
    bands = np.array(values)
    last = (axis.forward(bands[-1]) - axis.forward(axis.low)) / axis.length
    labels: list[tuple[float, str]] = []
    for column in (4, 0, 8, 2, 6, 1, 7, 3, 5):  # as many as have room
        place = float(last[column])
        if all(abs(place - other) > _LABEL_HEIGHT for other, _ in labels):
            labels.append((place, f"{SHARES[column]:.0%}"))
    common = _in_common(steps, histograms, axis)
    return Bands(**common, at=np.array(at), values=bands, labels=labels)


def step_edges(steps: Steps) -> Floats:
    """Return the borders midway between steps, and one beyond each end: float64[n + 1]."""
    at = steps.astype(np.float64)
    if at.size == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middles = (at[:-1] + at[1:]) / 2
    return np.concatenate(([2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]))


def spread_evenly(count: int, most: int) -> NDArray[np.int64]:
    """Choose at most `most` of `count` indices: the first, the last, and evenly between them."""
    if not count:
        return np.empty(0, dtype=np.int64)
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def stepped(edges: Floats, heights: Floats, base: float) -> Floats:
    """Return the corners of a stepped outline, from its base and back: float64[2 * k + 2, 2], or none."""
    if not heights.size:
        return np.empty((0, 2))
    tops = np.concatenate(([base], np.repeat(heights, 2), [base]))
    return np.column_stack((np.repeat(edges, 2), tops))


def lines_of(title: str, note: str) -> list[str]:
    """Wrap the text under an axis to the width of a small picture."""
    return textwrap.wrap(" · ".join(filter(None, (title, note))), _MOST_CHARACTERS)


def _evenly_chosen(series: SeriesLike, most: int) -> tuple[Steps, list[Histogram]]:
    chosen = spread_evenly(series.steps.size, most)
    return series.steps[chosen], [series[i] for i in chosen.tolist()]


def _in_common(steps: Steps, histograms: Sequence[Histogram], axis: ValueAxis) -> dict[str, Any]:
    """Return the arguments of `Columns`."""
    specials = [(h.nan_count, h.posinf_count, h.neginf_count) for h in histograms]
    counts = np.array([sum(count or 0 for count in row) for row in specials])
    borders = step_edges(steps)
    marked = steps[counts > 0]
    note = f"x: NaN or infinite at {_counted(marked.size, 'step')}" if marked.size else ""
    return {
        "steps": steps, "ends": (float(borders[0]), float(borders[-1])), "axis": axis, "marked": marked,
        "special_counts": counts[counts > 0], "note": note,
    }  # fmt: skip


def _row_ticks(steps: Steps) -> list[tuple[float, str]]:
    """Choose rows of a ridge to label: round steps if steps are about equally far apart, else every n-th row."""
    distances = np.diff(steps)
    if steps.size > _MOST_LABELS and distances.max() <= 4 * np.median(distances):
        ticks = round_values(float(steps[0]), float(steps[-1]), _MOST_LABELS)
        rows = np.interp(ticks, steps, np.arange(steps.size))
        return [(row, f"{tick:.0f}") for row, tick in zip(rows.tolist(), ticks, strict=True)]
    every = math.ceil(steps.size / _MOST_LABELS)
    labelled = range(steps.size - 1, -1, -every)
    return [(float(row), str(steps[row])) for row in reversed(labelled)]


def _outside(drawn: Iterable[density.Density], histograms: Iterable[Histogram]) -> str:
    """Return a note about values beyond the axis."""
    share = max(outline.outside for outline in drawn)
    if share <= 1e-12:
        return ""
    ends = [end for h in histograms for end in (h.min, h.max) if end is not None]
    reach = f", from {label(min(ends), 3)} to {label(max(ends), 3)}" if ends else ""
    return f"up to {100 * share:.2g}% lie beyond{reach}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
