"""Draw each kind of picture into given matplotlib axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fasthist.hist import Histogram
from fasthist.packages import require
from fasthist.plots import density, pictures
from fasthist.plots.axis import LINSCALE, ValueAxis, label
from fasthist.plots.pictures import SeriesLike
from fasthist.plots.theme import DARK, LIGHT, Theme

_MOST_COLUMNS = 600
_ABOVE = 1.1
_LABELLED = 3
_EXTRA = "'fasthist[plot]'"


def load(module: str) -> Any:
    """Import a module of matplotlib or plotly, or raise MissingPackageError."""
    return require(module, _EXTRA)


def theme_of(ax: Any) -> Theme:
    """Return the theme that suits the background of axes."""
    red, green, blue, alpha = load("matplotlib.colors").to_rgba(ax.get_facecolor())
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return DARK if alpha > 0.5 and light < 0.5 else LIGHT


def draw_outlines(
    histograms: Mapping[str, Histogram], ax: Any, runs: Sequence[str] = ("",), scale: str = "auto"
) -> None:
    """Draw the densities of histograms in one picture, each in the colour of its place among `runs`.

    Atoms are lines with a point on top, as high as their share of the whole height, and labelled with it. Everything that
    the axes already show stays visible.
    """
    beside = getattr(ax, "_fasthist_axis", None) if ax.has_data() else None
    picture = pictures.overlay_of(histograms, scale, beside)
    if picture is None:
        draw_nothing(ax)
        return
    theme, heights = theme_of(ax), picture.heights
    shown = (ax.get_xlim(), ax.get_ylim()) if ax.has_data() else None
    earlier = len(ax.lines)  # one for each histogram
    for name, drawn in picture.outlines.items():
        colour = theme.runs[(earlier + runs.index(name)) % len(theme.runs)]
        if drawn.peak:
            scaled = heights.scaled(drawn)
            ax.stairs(scaled, drawn.edges, fill=True, color=colour, alpha=0.25, linewidth=0)
            ax.stairs(scaled, drawn.edges, color=colour, linewidth=1.3, label=name)
        atoms = colour if len(runs) > 1 or earlier else theme.atom
        tops = drawn.shares * heights.whole
        seen = drawn.shares >= density.SEEN
        ax.vlines(drawn.atoms, 0, tops, color=atoms, linewidth=1.4)
        ax.plot(drawn.atoms[seen], tops[seen], ".", color=atoms, markersize=6)
        middle = picture.axis.forward([picture.axis.low, picture.axis.high]).mean()
        for i in np.nonzero(seen)[0] if seen.sum() <= _LABELLED else ():
            to_right = picture.axis.forward(drawn.atoms[i]) < middle
            ax.annotate(
                f" {drawn.shares[i]:.0%} ", (drawn.atoms[i], tops[i]), color=atoms, fontsize=7,
                va="center", ha="left" if to_right else "right",
            )  # fmt: skip
    ax.set_ylim(0, _ABOVE * heights.top)
    ax.set_ylabel(ax.get_ylabel() if beside else heights.label)
    ax._fasthist_axis = picture.axis
    _set_plain_ticks(ax.yaxis, 4)
    _set_values(ax.xaxis, picture.axis, picture.note)
    if shown:
        x, y = (*shown[0], *ax.get_xlim()), (*shown[1], *ax.get_ylim())
        ax.set(xlim=(min(x), max(x)), ylim=(min(y), max(y)))


def draw_ridge(series: SeriesLike, ax: Any, scale: str = "auto") -> None:
    """Draw one outline for each of at most 21 evenly chosen steps, the newest in front.

    Each outline is scaled by its own peak: areas compare within an outline, only widths between two. An atom is a line, as
    high as its share of the distance between two steps.
    """
    picture = pictures.ridge_of(series, scale)
    if picture is None:
        draw_nothing(ax)
        return
    theme, axis = theme_of(ax), picture.axis
    rows = range(picture.steps.size)
    colours = _map(theme.steps, theme.step_ends)(np.linspace(1, 0, len(rows))[::-1])
    outlined = [row for row in rows if picture.densities[row].peak]
    ax.hlines(np.array(rows), axis.low, axis.high, colors=colours, linewidth=0.6, alpha=0.7)
    polygons = load("matplotlib.collections").PolyCollection(
        [picture.corners(row) for row in outlined], facecolors=colours[outlined],
        edgecolors=_paled(colours[outlined], theme), linewidths=0.5, zorder=3,
    )  # fmt: skip
    ax.add_collection(polygons, autolim=False)
    for row in rows:
        at, tops, _ = picture.atoms(row).T
        if at.size:
            ax.vlines(at, row, tops, color=theme.atom, linewidth=1, zorder=4)
            ax.plot(at, tops, ".", color=theme.atom, markersize=3, zorder=4)
    ax.set_ylim(*picture.limits)
    _set_ticks(ax.yaxis, picture.ticks)
    ax.set_ylabel("step")
    _set_values(ax.xaxis, axis, picture.note)


def draw_heatmap(series: SeriesLike, ax: Any, scale: str = "auto") -> None:
    """Draw the density over at most 600 evenly chosen steps as logarithmic colour; crosses mark NaN or infinities."""
    picture = pictures.heat_of(series, _MOST_COLUMNS, scale)
    if picture is None:
        draw_nothing(ax)
        return
    theme = theme_of(ax)
    shown = np.ma.masked_invalid(picture.density)
    mesh = ax.pcolormesh(
        picture.borders, picture.edges, shown, cmap=_map(theme.heat, theme.heat_ends), rasterized=True,
        norm=load("matplotlib.colors").LogNorm(picture.low, picture.high, clip=True),
    )  # fmt: skip
    more = (shown.min() < picture.low) + 2 * (shown.max() > picture.high)
    extend = ("neither", "min", "max", "both")[int(more)]
    bar = ax.get_figure().colorbar(mesh, ax=ax, pad=0.02, aspect=30, extend=extend)
    bar.set_label(picture.unit)
    bar.outline.set_visible(False)
    _set_ticks(bar, picture.ticks)
    bar.minorticks_off()
    _set_columns(ax, picture, theme)


def draw_percentiles(series: SeriesLike, ax: Any, scale: str = "auto") -> None:
    """Draw the percentiles of TensorBoard's Distributions over at most 600 steps; crosses mark NaN or infinities."""
    picture = pictures.bands_of(series, _MOST_COLUMNS, scale)
    if picture is None:
        draw_nothing(ax)
        return
    theme, at, values = theme_of(ax), picture.at, picture.values.T
    for low, high in zip(values[:4], values[:4:-1], strict=True):
        ax.fill_between(at, low, high, color=theme.band, alpha=0.2, linewidth=0)
    ax.plot(at, values[4], color=theme.band, linewidth=1.6)
    for end in values[[0, -1]]:
        ax.plot(at, end, color=theme.band, linewidth=0.5, alpha=0.6)
    beside = {"xycoords": "axes fraction", "va": "center", "fontsize": 7, "color": theme.faint}
    for place, text in picture.labels:
        ax.annotate(text, (1.01, place), **beside)
    _set_columns(ax, picture, theme)


def draw_nothing(ax: Any) -> None:
    """Say that there is nothing to draw."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(
        0.5, 0.5, "no finite values", transform=ax.transAxes, ha="center", va="center",
        color=theme_of(ax).faint,
    )  # fmt: skip


def _paled(colours: Any, theme: Theme) -> Any:
    ground = np.array(load("matplotlib.colors").to_rgba(theme.ground))
    return 0.4 * colours + 0.6 * ground


def _map(name: str, ends: tuple[float, float]) -> Any:
    """Return the part of a colour map between two ends."""
    colours = load("matplotlib").colormaps[name](np.linspace(*ends, 256))
    return load("matplotlib.colors").ListedColormap(colours)


def _set_columns(ax: Any, picture: pictures.Columns, theme: Theme) -> None:
    """Set the axes of a picture over steps, and mark the steps with NaN or infinities."""
    ax.xaxis.set_major_locator(load("matplotlib.ticker").MaxNLocator(5, integer=True))
    if picture.steps.size == 1:
        ax.set_xticks([int(picture.steps[0])])
    _set_values(ax.yaxis, picture.axis)
    ax.set_xlim(picture.ends)
    ax.set_xlabel("\n".join(pictures.lines_of("step", picture.note)))
    if picture.marked.size:
        ax.plot(
            picture.marked, np.full(picture.marked.size, 0.97), "x", transform=ax.get_xaxis_transform(),
            color=theme.atom, markersize=5, label="NaN or infinite",
        )  # fmt: skip


def _set_values(axis: Any, shown: ValueAxis, note: str = "") -> None:
    """Set the limits, scale, ticks and label of a matplotlib axis."""
    set_scale = getattr(axis.axes, f"set_{axis.axis_name}scale")
    if shown.threshold is None:
        set_scale("linear")
        _set_plain_ticks(axis, 5)
    else:
        if shown.low >= shown.threshold:
            set_scale("log")
        else:
            set_scale("symlog", linthresh=shown.threshold, linscale=LINSCALE, base=10)
        _set_ticks(axis, [(tick, label(tick)) for tick in shown.ticks()])
        axis.set_minor_locator(load("matplotlib.ticker").NullLocator())
    getattr(axis.axes, f"set_{axis.axis_name}lim")(shown.low, shown.high)
    axis.set_label_text("\n".join(pictures.lines_of(shown.title, note)))


def _set_ticks(axis: Any, ticks: list[tuple[float, str]]) -> None:
    axis.set_ticks([place for place, _ in ticks], labels=[text for _, text in ticks])


def _set_plain_ticks(axis: Any, most: int) -> None:
    ticker = load("matplotlib.ticker")
    axis.set_major_locator(ticker.MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    formatter = ticker.ScalarFormatter()
    formatter.set_powerlimits((-3, 4))
    axis.set_major_formatter(formatter)
