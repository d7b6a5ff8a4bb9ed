"""What each kind of picture shows, as numbers: matplotlib and plotly draw the same ones."""

from __future__ import annotations

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
)  # fmt: skip

SHARES = (0.0, 0.07, 0.16, 0.31, 0.5, 0.69, 0.84, 0.93, 1.0)
"""The percentiles of TensorBoard's Distributions: of a normal, the mean and 0.5, 1 and 1.5 standard deviations."""

_MOST_OUTLINES, _MOST_LABELS = 21, 6
_MOST_CHARACTERS = 52
_OVERLAP = 2.6
_APART = (
    0.85  # height of an atom of all values, in distances between two steps: it stays below the next
)
_LABEL_HEIGHT = 0.055  # share of the axes

Steps = NDArray[np.int64]


class SeriesLike(Protocol):
    """What is drawn of a `fasthist.tag_series.Series`: the histograms of one tag, by step."""

    @property
    def steps(self) -> Steps:
        """int64[n]."""

    @property
    def num(self) -> NDArray[np.float64]:
        """Finite values, float64[n]."""

    def __getitem__(self, index: int) -> Histogram: ...


@dataclass(frozen=True)
class Overlay:
    """Outlines of several histograms over each other."""

    axis: ValueAxis
    outlines: dict[str, density.Density]
    heights: density.Heights
    note: str  # what the picture does not show; "" if it shows all


def overlay_of(
    histograms: Mapping[str, Histogram], scale: str = "auto", beside: ValueAxis | None = None
) -> Overlay | None:
    """Compute what is drawn of histograms over each other; None if there are no finite values.

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
    """One outline for each step, at equal distances, the newest in front."""

    steps: Steps
    axis: ValueAxis
    densities: list[density.Density]
    overlap: float  # height of an outline; outlines are 1 apart, and heights point to smaller rows
    ticks: list[tuple[float, str]]  # rows that have a label
    note: str  # what the picture does not show; "" if it shows all

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest row of the picture."""
        return len(self.densities) - 0.6, -self.overlap - 0.3

    def corners(self, row: int) -> Floats:
        """Return an outline's corners, as values and rows: float64[2 * k + 2, 2]; none without a density."""
        drawn = self.densities[row]
        return stepped(drawn.edges, row - drawn.heights / (drawn.peak or 1) * self.overlap, row)

    def atoms(self, row: int) -> Floats:
        """Return value, top and share of the atoms that can be seen: float64[m, 3]."""
        drawn = self.densities[row]
        at, shares = (
            column[drawn.shares >= density.SEEN] for column in (drawn.atoms, drawn.shares)
        )
        return np.column_stack((at, row - shares * _APART, shares))


def ridge_of(series: SeriesLike, scale: str = "auto") -> Ridge | None:
    """Choose at most 21 steps that have finite values, evenly, and compute what is drawn; None if there are none."""
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
    """What the pictures over steps have in common."""

    steps: Steps
    ends: tuple[float, float]  # of the axis of steps
    axis: ValueAxis
    marked: Steps  # steps that have NaN or infinities
    special_counts: NDArray[np.int64]  # how many
    note: str  # what the crosses mean; "" if there are none


@dataclass(frozen=True)
class Heat(Columns):
    """Density as colour."""

    borders: Floats  # float64[n + 1], between steps
    edges: Floats  # float64[k + 1], between cells of values
    density: Floats  # float64[k, n], NaN where there is nothing
    low: float  # where the logarithmic colours begin
    high: float
    ticks: list[tuple[float, str]]  # densities that have a label
    unit: str  # of the colours


@dataclass(frozen=True)
class Bands(Columns):
    """Percentiles as bands around the median."""

    at: Floats  # steps; one without a neighbour that has finite values is there twice, to be a little wide
    values: Floats  # float64[k, 9], at `SHARES`; a row of NaN separates what is not connected
    labels: list[tuple[float, str]]  # names at the right end, and how high on the axis, 0 to 1

    @property
    def parts(self) -> list[slice]:
        """Places in `at` that are connected."""
        breaks = np.nonzero(np.isnan(self.values[:, 0]))[0].tolist()
        return [
            slice(begin, end)
            for begin, end in zip(
                [0, *(i + 1 for i in breaks)], [*breaks, self.at.size], strict=True
            )
        ]


def heat_of(series: SeriesLike, most: int, scale: str = "auto") -> Heat | None:
    """Compute what a heat map of at most `most` steps shows; None if there are no finite values."""
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
    """Compute what percentiles of at most `most` steps show; None if there are no finite values."""
    steps, histograms = _evenly_chosen(series, most)
    known = np.array([h.num > 0 for h in histograms], dtype=bool)
    if not known.any():
        return None
    axis = step_axis(histograms, scale)
    nothing = np.full(len(SHARES), np.nan)
    borders = step_edges(steps)
    places = np.nonzero(known)[0]
    at: list[float] = []
    values: list[Floats] = []
    for part in np.split(places, np.nonzero(np.diff(places) > 1)[0] + 1):
        if at:
            at.append(at[-1])
            values.append(nothing)
        ends = [borders[part[0]], borders[part[0] + 1]]
        at += ends if part.size == 1 else steps[part].tolist()
        values += [
            quantiles_of(histograms[i], SHARES, axis.unit)
            for i in np.resize(part, max(part.size, 2))
        ]
    bands = np.array(values)
    last = (axis.forward(bands[-1]) - axis.forward(axis.low)) / axis.length
    labels: list[tuple[float, str]] = []
    for column in (4, 0, 8, 2, 6, 1, 7, 3, 5):  # those that have room
        place = float(last[column])
        if all(abs(place - other) > _LABEL_HEIGHT for other, _ in labels):
            labels.append((place, f"{SHARES[column]:.0%}"))
    return Bands(
        **_in_common(steps, histograms, axis), at=np.array(at), values=bands, labels=labels
    )


def step_edges(steps: Steps) -> Floats:
    """Return borders between steps, half way; the outer ones as far away as the next: float64[n + 1]."""
    at = steps.astype(np.float64)
    if at.size == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middles = (at[:-1] + at[1:]) / 2
    return np.concatenate(([2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]))


def spread_evenly(count: int, most: int) -> NDArray[np.int64]:
    """Choose `most` of so many places, or all: the first, the last, and between them evenly."""
    if not count:
        return np.empty(0, dtype=np.int64)
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def stepped(edges: Floats, heights: Floats, base: float) -> Floats:
    """Return the corners of an outline in steps, from its base and back to it: float64[2 * k + 2, 2]."""
    return (
        np.column_stack(
            (np.repeat(edges, 2), np.concatenate(([base], np.repeat(heights, 2), [base])))
        )
        if heights.size
        else np.empty((0, 2))
    )


def lines_of(title: str, note: str) -> list[str]:
    """Return what stands under an axis, in lines that the neighbours of a small picture leave room for."""
    return textwrap.wrap(" · ".join(filter(None, (title, note))), _MOST_CHARACTERS)


def _evenly_chosen(series: SeriesLike, most: int) -> tuple[Steps, list[Histogram]]:
    chosen = spread_evenly(series.steps.size, most)
    return series.steps[chosen], [series[i] for i in chosen.tolist()]


def _in_common(steps: Steps, histograms: Sequence[Histogram], axis: ValueAxis) -> dict[str, Any]:
    """Return the arguments of `Columns`."""
    counts = np.array(
        [(h.nan_count or 0) + (h.posinf_count or 0) + (h.neginf_count or 0) for h in histograms]
    )
    borders = step_edges(steps)
    marked = steps[counts > 0]
    note = f"x: NaN or infinite at {_counted(marked.size, 'step')}" if marked.size else ""
    return {
        "steps": steps, "ends": (float(borders[0]), float(borders[-1])), "axis": axis, "marked": marked,
        "special_counts": counts[counts > 0], "note": note,
    }  # fmt: skip


def _row_ticks(steps: Steps) -> list[tuple[float, str]]:
    """Choose rows of a ridge to label: round steps if these are about equally far apart, else every so many rows."""
    distances = np.diff(steps)
    if steps.size > _MOST_LABELS and distances.max() <= 4 * np.median(distances):
        ticks = round_values(float(steps[0]), float(steps[-1]), _MOST_LABELS)
        rows = np.interp(ticks, steps, np.arange(steps.size))
        return [(row, f"{tick:.0f}") for row, tick in zip(rows.tolist(), ticks, strict=True)]
    every = math.ceil(steps.size / _MOST_LABELS)
    labelled = range(steps.size - 1, -1, -every)
    return [(float(row), str(steps[row])) for row in reversed(labelled)]


def _outside(drawn: Iterable[density.Density], histograms: Iterable[Histogram]) -> str:
    """Say what the axis of outlines does not show."""
    share = max(outline.outside for outline in drawn)
    if share <= 1e-12:
        return ""
    ends = [end for h in histograms for end in (h.min, h.max) if end is not None]
    reach = f", from {label(min(ends), 3)} to {label(max(ends), 3)}" if ends else ""
    return f"up to {100 * share:.2g}% lie beyond{reach}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
