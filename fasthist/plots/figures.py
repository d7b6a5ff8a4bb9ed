"""Figures: one picture in the caller's axes or pyplot's, and grids of small pictures."""

from __future__ import annotations

from functools import partial
from typing import IO, Any

from fasthist.hist import Histogram
from fasthist.plots import drawing
from fasthist.plots.axis import check_scale
from fasthist.plots.drawing import load
from fasthist.plots.panels import MAX_PANELS, Layout, Panel, Runs, check_kind, lay_out, shortened
from fasthist.plots.pictures import SeriesLike
from fasthist.plots.theme import Theme, theme

_DRAW = {
    "ridge": drawing.draw_ridge,
    "heatmap": drawing.draw_heatmap,
    "percentiles": drawing.draw_percentiles,
}
_DPI = 160


def plot_histogram(
    histogram: Histogram, ax: Any = None, *, dark: bool = False, scale: str = "auto"
) -> Any:
    """Draw the density of a histogram: see `Histogram.plot`."""
    check_scale(scale)
    draw_in = partial(drawing.draw_outlines, {"": histogram}, scale=scale)
    return _draw_alone(draw_in, ax, dark)


def plot_series(
    series: SeriesLike,
    kind: str = "ridge",
    ax: Any = None,
    *,
    dark: bool = False,
    scale: str = "auto",
) -> Any:
    """Draw the histograms of one tag over steps: see `Series.plot`."""
    check_kind(kind, tuple(_DRAW))
    check_scale(scale)
    return _draw_alone(partial(_DRAW[kind], series, scale=scale), ax, dark)


def plot_runs(
    runs: Runs,
    kind: str = "ridge",
    tag: str | None = None,
    step: int | None = None,
    *,
    dark: bool = False,
    scale: str = "auto",
    max_panels: int = MAX_PANELS,
) -> Any:
    """Draw every tag of runs in a new pyplot figure: see `History.plot`."""
    layout = lay_out(runs, kind, tag, step, scale=scale, max_panels=max_panels)
    figure = draw(layout, theme(dark), load("matplotlib.pyplot").figure)
    figure._ipython_display_ = partial(_show_once, figure)
    return figure


def draw(layout: Layout, colours: Theme, new_figure: Any = None) -> Any:
    """Draw a layout; pass pyplot's `figure` as `new_figure` to show it. By default no window opens."""
    count, columns = len(layout.panels), layout.columns
    rows = -(-count // columns)
    width, height = (6.4, 4.2) if count == 1 else (3.5 * columns, 2.8 * rows)
    figure = (new_figure or load("matplotlib.figure").Figure)(
        figsize=(width, height + 0.3 * bool(layout.heading)), dpi=_DPI, layout="constrained",
        facecolor=colours.ground,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.05)
    for place, panel in enumerate(layout.panels):
        ax = figure.add_subplot(rows, columns, place + 1, facecolor=colours.ground)
        _draw_panel(layout, panel, ax)
        _dress(ax, colours, small=count > 1)
        _set_titles(ax, panel, colours, width / columns, small=count > 1)
        if place % columns and layout.kind != "overlay":
            ax.set_ylabel("")
        if place + columns < count and ax.get_xlabel() in ("value", "step"):
            ax.set_xlabel("")
    if layout.heading:
        heading = shortened(layout.heading, int(72 * width / (0.62 * 9)))
        figure.suptitle(heading, x=0.01, ha="left", fontsize=9, color=colours.faint)
    elif layout.kind == "overlay":
        _legend(figure, layout.runs, colours)
    return figure


def save(figure: Any, target: str | IO[bytes], format: str) -> None:
    """Write a figure as "png" or "svg"; equal figures give equal bytes."""
    metadata = {"Software": None} if format == "png" else {"Date": None, "Creator": None}
    with load("matplotlib").rc_context({"svg.hashsalt": "fasthist"}):
        figure.savefig(target, format=format, dpi=_DPI, metadata=metadata)


def _draw_alone(draw_in: Any, ax: Any, dark: bool) -> Any:
    """Draw into the caller's axes or pyplot's; only a dark figure of our own gets all of the theme's colours."""
    pyplot = load("matplotlib.pyplot") if ax is None else None
    if pyplot and (dark or not pyplot.get_fignums()):
        ground = {"facecolor": theme(dark).ground} if dark else {}
        ax = pyplot.figure(layout="constrained", **ground).add_subplot(**ground)
    elif pyplot:
        ax = pyplot.gca()
    draw_in(ax)
    if pyplot and dark:
        _dress(ax, theme(dark), small=False)
    return ax


def _show_once(figure: Any) -> None:
    """Show a figure that a notebook cell returns, and close it: the end of the cell shows all open figures again."""
    pyplot = load("matplotlib.pyplot")
    if "inline" not in pyplot.get_backend():
        raise NotImplementedError  # IPython then shows it like any other
    del figure._ipython_display_
    pyplot.close(figure)
    load("IPython.display").display(figure)


def _draw_panel(layout: Layout, panel: Panel, ax: Any) -> None:
    if isinstance(panel.content, dict):
        drawing.draw_outlines(panel.content, ax, layout.runs, layout.scale)
    else:
        _DRAW[layout.kind](panel.content, ax, layout.scale)


def _set_titles(ax: Any, panel: Panel, colours: Theme, width: float, *, small: bool) -> None:
    """Put the tag on the left, and the note on the right, or above if there is no room; `width` is in inches."""
    size = 8 if small else 10
    room = int((72 * width - 50) / (0.66 * size))
    title, note = shortened(panel.title, room), shortened(panel.note, room)
    ax.set_title(title, loc="left", color=colours.ink, fontsize=size, fontweight="bold")
    above = "\n" * (len(title) + len(note) > room - 2)
    ax.set_title(note + above * bool(note), loc="right", color=colours.faint, fontsize=size - 1)


def _dress(ax: Any, colours: Theme, *, small: bool) -> None:
    """Set the theme's colours on axes of our own figures."""
    size = 8 if small else 10
    for axes in ax.figure.axes if ax.figure.axes[-1] is not ax else [ax]:
        axes.tick_params(colors=colours.faint, labelcolor=colours.ink, labelsize=size - 0.5)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=colours.ink, fontsize=size)
        for text in (axes.xaxis.offsetText, axes.yaxis.offsetText):
            text.set(color=colours.ink, fontsize=size - 1)
        axes.spines[:].set_color(colours.faint)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, runs: list[str], colours: Theme) -> None:
    line, count = load("matplotlib.lines").Line2D, len(colours.runs)
    lines = [line([], [], color=colours.runs[i % count], linewidth=3) for i in range(len(runs))]
    figure.legend(
        lines, [shortened(run, 50) for run in runs], loc="outside upper center", ncols=min(len(runs), 4), frameon=False,
        labelcolor=colours.ink, fontsize=9,
    )  # fmt: skip
