"""Each kind of picture, drawn into matplotlib's axes; nothing here asks where these axes come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fasthist.hist import Histogram
from fasthist.packages import require
from fasthist.plots import density
from fasthist.plots.axis import LINSCALE, ValueAxis, outline_axis, step_axis
from fasthist.plots.theme import DARK, LIGHT, Theme

_MOST_OUTLINES, _MOST_COLUMNS = 21, 600
_OVERLAP = 2.6
APART = 0.85
"""Height of an atom of all values in a ridge, in distances between two steps: so that none reaches into the next."""

_ABOVE = 1.1
_LABELLED = 3
_EXTRA = "'fasthist[plot]'"


class SeriesLike(Protocol):
    """What is drawn of a `fasthist.tag_series.Series`: the histograms of one tag, by step."""

    @property
    def steps(self) -> NDArray[np.int64]:
        """int64[n]."""

    @property
    def num(self) -> NDArray[np.float64]:
        """Finite values, float64[n]."""

    def __getitem__(self, index: int) -> Histogram: ...


def load(module: str) -> Any:
    """Import a module of matplotlib or plotly, or raise MissingPackageError."""
    return require(module, _EXTRA)


def theme_of(ax: Any) -> Theme:
    """Give the theme that suits the ground of axes."""
    red, green, blue, alpha = load("matplotlib.colors").to_rgba(ax.get_facecolor())
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return DARK if alpha > 0.5 and light < 0.5 else LIGHT


def draw_outlines(
    histograms: Mapping[str, Histogram], ax: Any, runs: Sequence[str] = ("",)
) -> None:
    """Draw the densities of histograms over each other, each in the colour of its place among `runs`.

    Atoms are lines with a point on top, as high as their share of the whole height of the axes, and labelled with it.
    """
    known = {name: h for name, h in histograms.items() if h.num}
    if not known:
        draw_nothing(ax)
        return
    theme = theme_of(ax)
    axis = outline_axis(list(known.values()))
    found = {name: density.density_of(h, axis) for name, h in known.items()}
    scale = density.heights_of(list(found.values()), axis)
    for name, drawn in found.items():
        colour = theme.runs[runs.index(name) % len(theme.runs)]
        if drawn.peak:
            heights = scale.scaled(drawn)
            ax.stairs(heights, drawn.edges, fill=True, color=colour, alpha=0.25, linewidth=0)
            ax.stairs(heights, drawn.edges, color=colour, linewidth=1.3, label=name)
        atoms = colour if len(runs) > 1 else theme.atom
        tops = drawn.shares * scale.whole
        seen = drawn.shares >= density.SEEN
        ax.vlines(drawn.atoms, 0, tops, color=atoms, linewidth=1.4)
        ax.plot(drawn.atoms[seen], tops[seen], ".", color=atoms, markersize=6)
        for i in np.nonzero(seen)[0] if seen.sum() <= _LABELLED else ():
            to_right = drawn.atoms[i] < (axis.low + axis.high) / 2
            ax.annotate(
                f" {drawn.shares[i]:.0%} ", (drawn.atoms[i], tops[i]), color=atoms, fontsize=7,
                va="center", ha="left" if to_right else "right",
            )  # fmt: skip
    ax.set_ylim(0, _ABOVE * scale.top)
    ax.set_ylabel(scale.label)
    _set_plain_ticks(ax.yaxis, 4)
    _set_values(ax.xaxis, axis)
    _note(ax, max(one.outside for one in found.values()), known.values())


def draw_ridge(series: SeriesLike, ax: Any) -> None:
    """Draw one outline for each step, one before the other, the newest in front.

    At most 21 steps are drawn, evenly chosen, at equal distances. Each outline is as high as its own peak allows: within
    it areas are shares, between two of them only the widths
    compare. An atom is a line, as high as its share of the distance between two steps.
    """
    steps, histograms = chosen_outlines(series)
    if not histograms:
        draw_nothing(ax)
        return
    theme = theme_of(ax)
    axis = outline_axis(histograms)
    colours = _map(theme.steps, theme.step_ends)(np.linspace(1, 0, len(histograms))[::-1])
    overlap = overlap_of(len(histograms))
    found = [density.density_of(histogram, axis) for histogram in histograms]
    outlines, faces, atoms = [], [], []
    for row, one in enumerate(found):
        if one.peak:
            outlines.append(stepped(one.edges, row - one.heights / one.peak * overlap, row))
            faces.append(colours[row])
        heights = one.shares * APART
        atoms += [
            (x, row, row - height)
            for x, height, share in zip(one.atoms, heights, one.shares, strict=True)
            if share >= density.SEEN
        ]
    ax.hlines(np.arange(len(found)), axis.low, axis.high, colors=colours, linewidth=0.6, alpha=0.7)
    polygons = load("matplotlib.collections").PolyCollection(
        outlines, facecolors=faces, edgecolors=_paled(faces, theme), linewidths=0.5, zorder=3
    )
    ax.add_collection(polygons, autolim=False)
    if atoms:
        at, feet, tops = zip(*atoms, strict=True)
        ax.vlines(at, feet, tops, color=theme.atom, linewidth=1, zorder=4)
        ax.plot(at, tops, ".", color=theme.atom, markersize=3, zorder=4)
    ax.set_ylim(len(histograms) - 0.6, -overlap - 0.3)
    labelled = density.labelled_rows(len(histograms))
    ax.set_yticks(labelled, [str(step) for step in steps[labelled]])
    ax.set_ylabel("step")
    _set_values(ax.xaxis, axis)
    _note(ax, max(one.outside for one in found), histograms)


def draw_heatmap(series: SeriesLike, ax: Any) -> None:
    """Draw the density over steps and values as colour, on a logarithmic scale; crosses mark steps with NaN or infinities.

    At most 600 steps are drawn, evenly chosen.
    """
    steps, histograms = chosen_columns(series)
    if not any(h.num for h in histograms):
        draw_nothing(ax)
        return
    theme = theme_of(ax)
    axis = step_axis(histograms)
    edges, found = density.heat_of(histograms, axis)
    low, high = density.colour_range(found)
    colours = load("matplotlib.colors").LogNorm(low, high, clip=True)
    mesh = ax.pcolormesh(
        density.step_edges(steps), edges, np.ma.masked_invalid(found), norm=colours,
        cmap=_map(theme.heat, theme.heat_ends), rasterized=True,
    )  # fmt: skip
    bar = ax.get_figure().colorbar(
        mesh, ax=ax, pad=0.02, aspect=30, extend=_beyond(found, low, high)
    )
    bar.set_label("density")
    bar.outline.set_visible(False)
    if high < 100 * low:  # few powers of ten
        bar.set_ticks(load("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
        bar.formatter = load("matplotlib.ticker").FormatStrFormatter("%g")
    bar.minorticks_off()
    _set_steps(ax, steps)
    _set_values(ax.yaxis, axis)
    _mark_specials(ax, steps, histograms, theme)


def draw_percentiles(series: SeriesLike, ax: Any) -> None:
    """Draw the percentiles of TensorBoard's Distributions over steps, as bands around the median.

    Crosses mark steps with NaN or infinities. At most 600 steps are drawn, evenly chosen.
    """
    steps, histograms = chosen_columns(series)
    if not any(h.num for h in histograms):
        draw_nothing(ax)
        return
    theme = theme_of(ax)
    axis = step_axis(histograms)
    values = density.percentiles_of(histograms)
    at = steps.astype(np.float64)
    if at.size == 1:
        at, values = density.step_edges(steps), np.repeat(values, 2, axis=0)
    for band in range(4):
        ax.fill_between(
            at, values[:, band], values[:, -1 - band], color=theme.band, alpha=0.2, linewidth=0
        )
    ax.plot(at, values[:, 4], color=theme.band, linewidth=1.6)
    for column in (0, -1):
        ax.plot(at, values[:, column], color=theme.band, linewidth=0.5, alpha=0.6)
    _label_percentiles(ax, values, axis, theme)
    _set_steps(ax, steps)
    _set_values(ax.yaxis, axis)
    _mark_specials(ax, steps, histograms, theme)


def chosen_outlines(series: SeriesLike) -> tuple[NDArray[np.int64], list[Histogram]]:
    """Give the steps of a ridge and their histograms: 21 at most of those that have finite values."""
    (known,) = np.nonzero(series.num > 0)
    chosen = known[density.spread_evenly(known.size, _MOST_OUTLINES)]
    return series.steps[chosen], [series[i] for i in chosen.tolist()]


def chosen_columns(
    series: SeriesLike, most: int = _MOST_COLUMNS
) -> tuple[NDArray[np.int64], list[Histogram]]:
    """Give the steps of a heat map or of bands, and their histograms: 600 at most."""
    chosen = density.spread_evenly(series.steps.size, most)
    return series.steps[chosen], [series[i] for i in chosen.tolist()]


def overlap_of(count: int) -> float:
    """Give the height of an outline in a ridge of so many, in distances between two."""
    return min(_OVERLAP, 0.6 + count / 6)


def draw_nothing(ax: Any) -> None:
    """Say that there is nothing to draw."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(
        0.5, 0.5, "no finite values", transform=ax.transAxes, ha="center", va="center",
        color=theme_of(ax).faint,
    )  # fmt: skip


def _paled(colours: list[Any], theme: Theme) -> Any:
    ground = np.array(load("matplotlib.colors").to_rgba(theme.ground))
    return [0.4 * colour + 0.6 * ground for colour in colours]


def stepped(edges: NDArray[np.float64], heights: NDArray[np.float64], base: float) -> Any:
    """Give the corners of an outline in steps, from its base and back to it: float64[2 * k + 2, 2]."""
    return np.column_stack(
        (np.repeat(edges, 2), np.concatenate(([base], np.repeat(heights, 2), [base])))
    )


def _label_percentiles(ax: Any, values: NDArray[np.float64], axis: ValueAxis, theme: Theme) -> None:
    """Name the percentiles at the right end, those that have room there."""
    known = values[np.isfinite(values[:, 0])]
    places = (axis.forward(known[-1]) - axis.forward(axis.low)) / axis.length
    taken: list[float] = []
    for column in (4, 0, 8, 2, 6, 1, 7, 3, 5):
        place = float(places[column])
        if all(abs(place - other) > 0.055 for other in taken):
            taken.append(place)
            ax.annotate(
                f"{density.SHARES[column]:.0%}", (1.01, place), xycoords="axes fraction",
                va="center", fontsize=7, color=theme.faint,
            )  # fmt: skip


def _map(name: str, ends: tuple[float, float]) -> Any:
    """Give the part of a colour map between two ends."""
    colours = load("matplotlib").colormaps[name](np.linspace(*ends, 256))
    return load("matplotlib.colors").ListedColormap(colours)


def _set_steps(ax: Any, steps: NDArray[np.int64]) -> None:
    edges = density.step_edges(steps)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(load("matplotlib.ticker").MaxNLocator(5, integer=True))
    if steps.size == 1:
        ax.set_xticks([int(steps[0])])


def _set_values(axis: Any, shown: ValueAxis) -> None:
    """Give matplotlib's axis the ends, the scale and the ticks."""
    name = axis.axis_name
    if shown.threshold is not None:
        getattr(axis.axes, f"set_{name}scale")(
            "symlog", linthresh=shown.threshold, linscale=LINSCALE, base=10
        )
        axis.set_ticks(shown.ticks())
        axis.set_minor_locator(load("matplotlib.ticker").NullLocator())
        axis.set_major_formatter(load("matplotlib.ticker").LogFormatterMathtext())
    else:
        getattr(axis.axes, f"set_{name}scale")("linear")
        _set_plain_ticks(axis, 5)
    getattr(axis.axes, f"set_{name}lim")(shown.low, shown.high)
    axis.set_label_text("value")


def _set_plain_ticks(axis: Any, most: int) -> None:
    ticker = load("matplotlib.ticker")
    axis.set_major_locator(ticker.MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    formatter = ticker.ScalarFormatter()
    formatter.set_powerlimits((-3, 4))
    axis.set_major_formatter(formatter)


def _note(ax: Any, outside: float, histograms: Iterable[Histogram]) -> None:
    """Say what the axis does not show."""
    if outside > 1e-12:
        ends = [end for h in histograms for end in (h.min, h.max) if end is not None]
        reach = f", from {min(ends):.3g} to {max(ends):.3g}" if ends else ""
        ax.set_xlabel(f"value; up to {outside:.2g} of all lie beyond{reach}")


def _mark_specials(
    ax: Any, steps: NDArray[np.int64], histograms: Sequence[Histogram], theme: Theme
) -> None:
    at = steps[density.special_counts(histograms) > 0]
    if at.size:
        ax.plot(
            at, np.full(at.size, 0.97), "x", transform=ax.get_xaxis_transform(), color=theme.atom,
            markersize=5, label="NaN or infinite",
        )  # fmt: skip
        ax.annotate(
            "NaN or infinite: x", (1, 1), (0, 2), xycoords="axes fraction",
            textcoords="offset points", ha="right", va="bottom", fontsize=7, color=theme.atom,
        )  # fmt: skip


def _beyond(found: NDArray[np.float64], low: float, high: float) -> str:
    """Say at which ends of a colour scale there is more."""
    below, above = np.nanmin(found) < low, np.nanmax(found) > high
    return {(1, 1): "both", (1, 0): "min", (0, 1): "max", (0, 0): "neither"}[int(below), int(above)]
