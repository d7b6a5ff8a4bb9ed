"""Densities along an axis: outlines with atoms, and the cells of a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fasthist.hist import Histogram
from fasthist.plots.axis import Floats, ValueAxis, pieces

SEEN = 0.01
"""Smallest share of an atom that is drawn as more than a line."""

_MOST_CELLS, _FEWEST_CELLS = 60, 8
_WIDE = 1 / 250
_NARROW = 1 / 1000
_AROUND = 7  # cells
_TOWERS = 5
_ALIKE = 4
_LATTICE = 0.9


@dataclass(frozen=True)
class Density:
    """The density of a histogram along an axis: the areas under `heights`, `shares` and `outside` sum to 1."""

    edges: Floats  # float64[k + 1]; empty if there are only atoms
    heights: Floats  # float64[k]: share of the values per unit of ``axis.forward``
    atoms: Floats  # float64[m]: values whose density would be infinite
    shares: Floats  # float64[m]: each atom's share of the values
    outside: float  # share of the values beyond the axis

    @property
    def peak(self) -> float:
        """The largest height; 0 if there are only atoms."""
        return float(self.heights.max(initial=0.0))


def density_of(histogram: Histogram, axis: ValueAxis) -> Density:
    """Compute the density of a histogram that has finite values.

    Values are spread evenly inside a row, as everywhere in fasthist. Rows that are all wide enough to be seen (1/250 of
    the axis) are drawn as they are. Otherwise the axis from the smallest to the largest value is cut into equal cells,
    ``2 * num ** (1/3)`` of them (Rice's rule), 8 to 60, and the area over a cell is exactly the share of values in it.

    A row is an *atom* if it is narrower than 1/1000 of the axis, holds more than one element and 1 % of all, and more than
    five times the average of the seven cells around it: zeros of a ReLU, a saturated end, a constant. Atoms would make the
    density too low to be seen, so they are taken out of it and kept with their shares. If most values lie in such rows, as
    in quantised data, rows of less than 1 % are atoms too.
    """
    edges, shares = pieces(histogram, axis.unit)
    places = axis.forward(edges)
    widths = np.diff(places)
    filled = shares > 0
    if widths[filled].min() >= _WIDE * axis.length:
        outside = 1.0 - _between(edges, shares, np.array([axis.low, axis.high]))[0]
        return Density(edges, shares / widths, np.empty(0), np.empty(0), max(0.0, float(outside)))

    middles = places[:-1] / 2 + places[1:] / 2
    reach = axis.length / _MOST_CELLS * _AROUND / 2
    around = [axis.inverse(middles + side) for side in (-reach, reach)]
    beside = _up_to(edges, shares, around[1]) - _up_to(edges, shares, around[0]) - shares
    narrow = widths <= _NARROW * axis.length
    is_atom = narrow & (shares * histogram.num > 1.5) & (shares > _TOWERS / _AROUND * beside)
    if shares[is_atom & (shares >= SEEN)].sum() < 0.5:
        is_atom &= shares >= SEEN  # or single values in a tail would be atoms
    is_atom |= filled & (widths <= 0)
    at = np.where((edges[:-1] <= 0) & (edges[1:] >= 0), 0.0, edges[:-1] / 2 + edges[1:] / 2)
    seen = is_atom & (at >= axis.low) & (at <= axis.high)
    rest = np.where(is_atom, 0.0, shares)

    cells, heights = np.empty(0), np.empty(0)
    (kept,) = np.nonzero(rest)
    if kept.size:
        low, high = max(edges[kept[0]], axis.low), min(edges[kept[-1] + 1], axis.high)
        if low < high:
            count = math.ceil(2 * histogram.num ** (1 / 3))
            count = min(max(count, _FEWEST_CELLS), _MOST_CELLS)
            cells = _cells([(edges, rest)], axis, count, (low, high))
            cells = cells[np.diff(axis.forward(cells), prepend=-np.inf) > 0]
            heights = _between(edges, rest, cells) / np.diff(axis.forward(cells))
    drawn = float((heights * np.diff(axis.forward(cells))).sum()) if heights.size else 0.0
    outside = max(0.0, 1.0 - drawn - float(shares[seen].sum()))
    atoms, which = np.unique(at[seen], return_inverse=True)
    held = np.bincount(which, shares[seen], atoms.size).astype(np.float64)
    return Density(cells, heights, atoms, held, outside)


def heat_of(histograms: Sequence[Histogram], axis: ValueAxis) -> tuple[Floats, Floats]:
    """Compute a heat map: edges float64[k + 1] and densities float64[k, len(histograms)].

    Edges are equally far apart on the axis; k is three times that of Rice's rule, 24 to 180. A density is a cell's share
    divided by its width, NaN for 0: by value if a logarithmic axis has both signs, so that one hump stays one; else by
    decade.
    """
    known = {column: pieces(h, axis.unit) for column, h in enumerate(histograms) if h.num}
    # An odd number, so that a constant lies in the middle of a cell.
    count = int(np.clip(6 * max(h.num for h in histograms) ** (1 / 3), 24, 180)) | 1
    edges = _cells(list(known.values()), axis, count, (axis.low, axis.high))
    widths = np.diff(axis.forward(edges) if axis.one_sided else edges)
    density = np.full((edges.size - 1, len(histograms)), np.nan)
    for column, rows in known.items():
        density[:, column] = _between(*rows, edges) / widths
    density[density <= 0] = np.nan
    return edges, density


def _cells(
    outlines: Sequence[tuple[Floats, Floats]], axis: ValueAxis, most: int, ends: tuple[float, float]
) -> Floats:
    """Cut a part of the axis into at most `most` cells that are drawn equally wide.

    If the values lie on a lattice, as integers do, each cell holds equally many of its points: else the picture would be a
    comb.
    """
    plain = axis.cells(most, *ends)
    shares = np.concatenate([shares for _, shares in outlines])
    rows = np.concatenate([np.column_stack((edges[:-1], edges[1:])) for edges, _ in outlines])
    places = np.unique(rows[shares > 0, 0])
    if axis.threshold is not None or places.size < _FEWEST_CELLS:
        return plain
    spacing = float(np.median(np.diff(places)))
    off = (rows - places[0]) / spacing
    off = np.abs(off - off.round()).min(axis=1)  # of the nearer edge
    on_it = (off <= 1e-3) & (np.diff(rows)[:, 0] <= spacing / 2)
    if shares[on_it].sum() < _LATTICE * shares.sum():
        return plain
    width = spacing * math.ceil((ends[1] - ends[0]) / spacing / most)
    first = float(places[0]) - spacing / 2
    first -= width * math.ceil((first - ends[0]) / width)
    cells = np.arange(math.ceil((ends[1] - first) / width) + 1) * width + first
    return np.asarray(cells, dtype=np.float64)


def colour_range(density: Floats) -> tuple[float, float]:
    """Return the ends of a logarithmic colour scale: all filled cells but the palest 2 % and brightest 0.5 %."""
    known = density[np.isfinite(density)]
    if not known.size:
        return 0.1, 1.0
    low, high = np.quantile(known, [0.02, 0.995], method="nearest").tolist()
    low = max(low, high * 1e-6)
    return (low, high) if high > 1.1 * low else (high / 10, high)


@dataclass(frozen=True)
class Heights:
    """The scale of heights that outlines share."""

    top: float  # the largest height drawn
    whole: float  # height of an atom of all values
    own: bool  # each outline is scaled by its own peak, since one is over four times as high as another
    label: str

    def scaled(self, density: Density) -> Floats:
        """Return the heights to draw."""
        return density.heights / density.peak if self.own and density.peak else density.heights


def heights_of(densities: Sequence[Density], axis: ValueAxis) -> Heights:
    """Choose the scale for outlines; if there are only atoms, heights are their shares."""
    peaks = [density.peak for density in densities if density.peak]
    if not peaks:
        top = max(float(density.shares.max(initial=0.0)) for density in densities)
        return Heights(top, 1.0, False, "share")
    unit = "density" if axis.threshold is None else "share per decade"
    if max(peaks) > _ALIKE * min(peaks):
        return Heights(1.0, 1.0, True, f"{unit} / its peak")
    return Heights(max(peaks), max(peaks), False, unit)


def _up_to(edges: Floats, shares: Floats, values: Floats) -> Floats:
    reached = np.concatenate(([0.0], np.cumsum(shares)))
    return np.asarray(np.interp(values, edges, reached), dtype=np.float64)


def _between(edges: Floats, shares: Floats, borders: Floats) -> Floats:
    """Return the shares between neighbouring borders."""
    return np.diff(_up_to(edges, shares, borders))
