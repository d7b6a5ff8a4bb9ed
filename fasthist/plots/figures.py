"""Figures: a picture in axes of the caller's or of its own, and grids of small ones. pyplot is never used."""

from __future__ import annotations

from typing import IO, Any

from fasthist.hist import Histogram
from fasthist.plots import drawing
from fasthist.plots.drawing import SeriesLike, load
from fasthist.plots.panels import Layout, Panel, Runs, check_kind, lay_out, shortened
from fasthist.plots.theme import Theme, theme

_DRAW = {
    "ridge": drawing.draw_ridge,
    "heatmap": drawing.draw_heatmap,
    "percentiles": drawing.draw_percentiles,
}
_DPI = 160


def plot_histogram(histogram: Histogram, ax: Any = None, *, dark: bool = False) -> Any:
    """Draw the density of a histogram.

    Parameters
    ----------
    histogram : Histogram
    ax : matplotlib.axes.Axes, optional
        Where to draw; its ground decides between light and dark colours. Default: the axes of a new figure, which is
        ``ax.figure``, and of no window.
    dark : bool
        Draw a new figure on dark ground.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingPackageError
        matplotlib is not installed.

    Notes
    -----
    The area over a row is the share of the values in it. What would be too high to be drawn, such as exact zeros, is a
    line with a point on top, as high as its share of the whole height; see `density.density_of`.
    """
    return _one(lambda axes: drawing.draw_outlines({"": histogram}, axes), ax, dark)


def plot_series(
    series: SeriesLike, kind: str = "ridge", ax: Any = None, *, dark: bool = False
) -> Any:
    """Draw the histograms of one tag over steps.

    Parameters
    ----------
    series : Series
    kind : {"ridge", "heatmap", "percentiles"}
        One outline a step, the newest in front; the density as colour; or percentiles as bands.
    ax, dark
        As in `plot_histogram`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        Another kind.
    MissingPackageError
        matplotlib is not installed.
    """
    check_kind(kind, tuple(_DRAW))
    return _one(lambda axes: _DRAW[kind](series, axes), ax, dark)


def plot_runs(
    runs: Runs,
    kind: str = "ridge",
    tag: str | None = None,
    step: int | None = None,
    *,
    dark: bool = False,
) -> Any:
    """Draw every tag of runs, as a grid of small pictures.

    Parameters
    ----------
    runs : mapping of str to History
    kind, tag, step
        As in `lay_out`.
    dark : bool
        On dark ground.

    Returns
    -------
    matplotlib.figure.Figure
        Of 24 pictures at most.

    Raises
    ------
    ArgumentError
        As in `lay_out`.
    MissingPackageError
        matplotlib is not installed.
    """
    return draw(lay_out(runs, kind, tag, step), theme(dark))


def draw(layout: Layout, colours: Theme) -> Any:
    """Draw a layout: a ``matplotlib.figure.Figure``."""
    count, columns = len(layout.panels), layout.columns
    rows = -(-count // columns)
    size = (6.4, 4.2) if count == 1 else (3.5 * columns, 2.7 * rows)
    figure = load("matplotlib.figure").Figure(
        figsize=size, dpi=_DPI, layout="constrained", facecolor=colours.ground
    )
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.05)
    for place, panel in enumerate(layout.panels):
        ax = figure.add_subplot(rows, columns, place + 1, facecolor=colours.ground)
        _draw_panel(layout.kind, panel, ax, layout.runs)
        below = place + columns < count
        _dress(ax, colours, small=count > 1)
        if place % columns and layout.kind != "overlay":
            ax.set_ylabel("")
        if below and ax.get_xlabel() in ("value", "step"):
            ax.set_xlabel("")
    if layout.kind == "overlay" and len(layout.runs) > 1:
        _legend(figure, layout.runs, colours)
    return figure


def save(figure: Any, target: str | IO[bytes], format: str) -> None:
    """Write a figure as "png" or "svg": the same bytes whenever the same is drawn."""
    metadata = {"Software": None} if format == "png" else {"Date": None, "Creator": None}
    with load("matplotlib").rc_context({"svg.hashsalt": "fasthist"}):
        figure.savefig(target, format=format, dpi=_DPI, metadata=metadata)


def _one(drawn: Any, ax: Any, dark: bool) -> Any:
    if ax is not None:
        drawn(ax)
        return ax
    colours = theme(dark)
    figure = load("matplotlib.figure").Figure(
        figsize=(6.4, 4.2), dpi=_DPI, layout="constrained", facecolor=colours.ground
    )
    ax = figure.add_subplot(facecolor=colours.ground)
    drawn(ax)
    _dress(ax, colours, small=False)
    return ax


def _draw_panel(kind: str, panel: Panel, ax: Any, runs: list[str]) -> None:
    if isinstance(panel.content, dict):
        drawing.draw_outlines(panel.content, ax, runs)
    else:
        _DRAW[kind](panel.content, ax)
    ax.set_title(shortened(panel.title), loc="left")
    if panel.note:
        ax.set_title(panel.note, loc="right")


def _dress(ax: Any, colours: Theme, *, small: bool) -> None:
    """Give axes of our own figures the colours of the theme; a caller's are left as they are."""
    size = 8 if small else 10
    for one in ax.figure.axes if ax.figure.axes[-1] is not ax else [ax]:
        one.tick_params(colors=colours.faint, labelcolor=colours.ink, labelsize=size - 0.5)
        for label in (one.xaxis.label, one.yaxis.label):
            label.set(color=colours.ink, fontsize=size)
        for text in (one.xaxis.offsetText, one.yaxis.offsetText):
            text.set(color=colours.ink, fontsize=size - 1)
        one.spines[:].set_color(colours.faint)
    ax.spines[["top", "right"]].set_visible(False)
    ax.title.set_color(colours.ink)
    for title, weight, colour in (
        (ax._left_title, "bold", colours.ink),
        (ax._right_title, "normal", colours.faint),
    ):
        title.set(color=colour, fontsize=size if weight == "bold" else size - 1, fontweight=weight)


def _legend(figure: Any, runs: list[str], colours: Theme) -> None:
    lines = load("matplotlib.lines")
    shown = [
        lines.Line2D([], [], color=colours.runs[i % len(colours.runs)], linewidth=3)
        for i in range(len(runs))
    ]
    figure.legend(
        shown, [shortened(run, 50) for run in runs], loc="outside upper center", ncols=min(len(runs), 4), frameon=False,
        labelcolor=colours.ink, fontsize=9,
    )  # fmt: skip
