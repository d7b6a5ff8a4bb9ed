"""A page of its own, for a browser: the same pictures by plotly, to zoom into and to ask for numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.hist import Histogram
from fasthist.plots import density, drawing
from fasthist.plots.axis import ValueAxis, outline_axis, step_axis
from fasthist.plots.drawing import load
from fasthist.plots.panels import Layout, Panel, shortened
from fasthist.plots.theme import Theme

_ROW, _TITLE, _ABOVE_ALL = 330, 46, 90
_MANY, _FEW_COLUMNS = 4, 200
_SHADES = 64

Traces = list[dict[str, Any]]


class _Sheet:
    """Where a panel's traces go: plotly's figure, and the names of the panel's axes in it."""

    def __init__(self, figure: Any, place: int, layout: Layout, colours: Theme) -> None:
        self.figure, self.layout, self.colours = figure, layout, colours
        self.at = {"row": place // layout.columns + 1, "col": place % layout.columns + 1}
        number = str(place + 1) if place else ""
        self.x, self.y = figure.layout[f"xaxis{number}"], figure.layout[f"yaxis{number}"]

    def add(self, traces: Traces) -> None:
        self.figure.add_traces(
            traces, rows=[self.at["row"]] * len(traces), cols=[self.at["col"]] * len(traces)
        )

    def show_values(self, along: Any, axis: ValueAxis) -> None:
        along.update(range=axis.forward([axis.low, axis.high]).tolist(), title="value")
        if axis.threshold is not None:
            ticks = axis.ticks()
            along.update(
                tickvals=axis.forward(ticks).tolist(), ticktext=[f"{tick:g}" for tick in ticks]
            )
        else:
            along.update(nticks=6, exponentformat="e", minexponent=3)


def page(layout: Layout, colours: Theme) -> str:
    """Draw a layout as HTML that needs nothing else, some 5 MB of which are plotly's program.

    Raises
    ------
    MissingPackageError
        plotly is not installed.
    """
    figure = _figure(layout, colours)
    drawn = load("plotly.io").to_html(
        figure, full_html=False, include_plotlyjs=True, div_id="fasthist",
        config={"responsive": True, "displaylogo": False, "scrollZoom": True},
    )  # fmt: skip
    title = html.escape(f"{', '.join(layout.runs)}: {layout.kind}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f'<body style="margin:0;background:{colours.ground}">\n{drawn}\n</body></html>\n'
    )


def _figure(layout: Layout, colours: Theme) -> Any:
    rows = -(-len(layout.panels) // layout.columns)
    height = rows * _ROW + _ABOVE_ALL
    gap = (_TITLE + 50) / (height - _ABOVE_ALL)
    heads = [
        f"<b>{html.escape(shortened(panel.title))}</b>"
        + (f" · {html.escape(panel.note)}" if panel.note else "")
        for panel in layout.panels
    ]
    figure = load("plotly.subplots").make_subplots(
        rows, layout.columns, subplot_titles=heads, vertical_spacing=min(gap, 1 / rows),
        horizontal_spacing=(0.32 if layout.kind == "heatmap" else 0.24) / layout.columns,
    )  # fmt: skip
    figure.update_annotations(font={"size": 12, "color": colours.ink})
    for place, panel in enumerate(layout.panels):
        _draw(panel, _Sheet(figure, place, layout, colours))
    figure.update_layout(
        height=max(height, 520), paper_bgcolor=colours.ground, plot_bgcolor=colours.ground, template="none",
        font={"color": colours.ink, "size": 11}, margin={"t": 60, "l": 70, "r": 60, "b": 50},
        hovermode="x unified" if layout.kind == "percentiles" else "closest",
        legend={"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "x": 0.5, "xanchor": "center"},
        hoverlabel={"bgcolor": colours.ground, "font": {"color": colours.ink}}, showlegend=layout.kind == "overlay" and len(layout.runs) > 1,
    )  # fmt: skip
    lines = {
        "gridcolor": colours.grid,
        "zeroline": False,
        "linecolor": colours.faint,
        "showline": True,
    }
    figure.update_xaxes(title_standoff=6, **lines)
    figure.update_yaxes(title_standoff=6, **lines)
    return figure


def _draw(panel: Panel, sheet: _Sheet) -> None:
    if isinstance(panel.content, dict):
        _draw_overlay(panel.content, sheet)
        return
    if sheet.layout.kind == "ridge":
        steps, histograms = drawing.chosen_outlines(panel.content)
    else:
        most = _FEW_COLUMNS if len(sheet.layout.panels) > _MANY else 3 * _FEW_COLUMNS
        steps, histograms = drawing.chosen_columns(panel.content, most)
    if not any(h.num for h in histograms):
        _say_nothing(sheet)
        return
    draw = {"ridge": _draw_ridge, "heatmap": _draw_heatmap, "percentiles": _draw_percentiles}
    draw[sheet.layout.kind](steps, histograms, sheet)


def _draw_overlay(histograms: dict[str, Histogram], sheet: _Sheet) -> None:
    known = [h for h in histograms.values() if h.num]
    if not known:
        _say_nothing(sheet)
        return
    axis = outline_axis(known)
    found = {run: density.density_of(h, axis) for run, h in histograms.items() if h.num}
    scale = density.heights_of(list(found.values()), axis)
    for run, one in found.items():
        place = sheet.layout.runs.index(run)
        colour = sheet.colours.runs[place % len(sheet.colours.runs)]
        first = not any(trace.name == run and trace.showlegend for trace in sheet.figure.data)
        group: dict[str, Any] = {"name": run, "legendgroup": run}
        if one.peak:
            trace = _outline(one, axis, 0.0, scale.scaled(one), "density", one.heights)
            look = {"line": {"color": colour, "width": 1.5}, "fillcolor": _clear(colour)}
            sheet.add([{**trace, **look, **group, "showlegend": first}])
        group["showlegend"] = first and not one.peak
        sheet.add(_atoms(one, axis, 0.0, one.shares * scale.whole, colour, **group))
    sheet.show_values(sheet.x, axis)
    sheet.y.update(title=scale.label, rangemode="tozero", nticks=5, exponentformat="e")


def _draw_ridge(steps: NDArray[np.int64], histograms: Sequence[Histogram], sheet: _Sheet) -> None:
    axis = outline_axis(histograms)
    overlap = drawing.overlap_of(len(histograms))
    shades = _shades(sheet.colours.steps, sheet.colours.step_ends, max(len(histograms), 2))[
        -len(histograms) :
    ]
    for row, (step, histogram) in enumerate(zip(steps.tolist(), histograms, strict=True)):
        one = density.density_of(histogram, axis)
        if one.peak:
            trace = _outline(
                one,
                axis,
                -row,
                one.heights / one.peak * overlap,
                f"step {step}, density",
                one.heights,
            )
            line = {"color": sheet.colours.ground, "width": 0.6}
            sheet.add([{**trace, "fillcolor": shades[row], "line": line}])
        sheet.add(
            _atoms(
                one, axis, -row, one.shares * drawing.APART, sheet.colours.atom, name=f"step {step}"
            )
        )
    labelled = density.labelled_rows(len(histograms))
    sheet.show_values(sheet.x, axis)
    sheet.y.update(
        title="step",
        tickvals=(-labelled).tolist(),
        ticktext=[str(step) for step in steps[labelled]],
        showgrid=False,
    )


def _draw_heatmap(steps: NDArray[np.int64], histograms: Sequence[Histogram], sheet: _Sheet) -> None:
    axis = step_axis(histograms)
    edges, found = density.heat_of(histograms, axis)
    low, high = (float(np.log10(end)) for end in density.colour_range(found))
    middles = np.broadcast_to((edges[:-1] / 2 + edges[1:] / 2)[:, None], found.shape)
    at = np.broadcast_to(steps.astype(np.float64), found.shape)
    parts = (0.0,) if high - low > 2 else (0.0, math.log10(2), math.log10(5))
    ticks = [
        power + part
        for power in range(math.floor(low), math.ceil(high))
        for part in parts
        if low <= power + part <= high
    ]
    (_, right), (bottom, top) = sheet.x.domain, sheet.y.domain
    sheet.add(
        [
            {
                "type": "heatmap", "x": density.step_edges(steps), "y": axis.forward(edges),
                "z": np.log10(found).astype(np.float32), "zmin": low, "zmax": high,
                "customdata": np.stack((at, middles, found), axis=2),
                "hovertemplate": "step %{customdata[0]:.0f}<br>value %{customdata[1]:.4~g}<br>"
                "density %{customdata[2]:.4~g}<extra></extra>",
                "hoverongaps": False,
                "colorscale": _shades(sheet.colours.heat, sheet.colours.heat_ends, _SHADES),
                "colorbar": {
                    "x": right + 0.004, "y": (bottom + top) / 2, "len": top - bottom, "thickness": 9, "outlinewidth": 0,
                    "tickvals": ticks, "ticktext": [f"{10.0**tick:g}" for tick in ticks], "title": {"text": "density", "font": {"size": 10}},
                },
            }
        ]
    )  # fmt: skip
    sheet.show_values(sheet.y, axis)
    _show_steps(steps, histograms, sheet)


def _draw_percentiles(
    steps: NDArray[np.int64], histograms: Sequence[Histogram], sheet: _Sheet
) -> None:
    axis = step_axis(histograms)
    values = density.percentiles_of(histograms)
    at = steps.astype(np.float64)
    if at.size == 1:
        at, values = density.step_edges(steps), np.repeat(values, 2, axis=0)
    colour = sheet.colours.band
    traces: Traces = []
    for column, share in enumerate(density.SHARES):
        outer = column in (0, len(density.SHARES) - 1)
        # Each band reaches down to the percentile before; those next to the median are the darkest.
        inner = max(0, min(column - 1, len(density.SHARES) - 1 - column))
        traces.append(
            {
                "type": "scatter", "x": at, "y": axis.forward(values[:, column]), "customdata": values[:, column],
                "name": f"{share:.0%}", "hovertemplate": "%{customdata:.4~g}", "mode": "lines",
                "line": {"color": colour, "width": 2 if share == 0.5 else 0.6 if outer else 0},
                "fill": "tonexty" if column else "none", "fillcolor": _clear(colour, 0.12 + 0.15 * inner), "connectgaps": False,
            }
        )  # fmt: skip
    sheet.add(traces)
    sheet.show_values(sheet.y, axis)
    _show_steps(steps, histograms, sheet)


def _outline(
    one: density.Density, axis: ValueAxis, base: float, heights: Any, what: str, told: Any
) -> dict[str, Any]:
    """Give the trace of an outline in steps."""
    corners = drawing.stepped(one.edges, base + heights, base)
    return {
        "type": "scatter", "x": axis.forward(corners[:, 0]), "y": corners[:, 1], "mode": "lines", "fill": "toself", "hoveron": "points",
        "customdata": np.column_stack((corners[:, 0], np.concatenate(([0], np.repeat(told, 2), [0])))),
        "hovertemplate": what + " %{customdata[1]:.4~g}<br>value %{customdata[0]:.4~g}", "name": "",
    }  # fmt: skip


def _atoms(
    one: density.Density, axis: ValueAxis, base: float, heights: Any, colour: str, **more: Any
) -> Traces:
    """Give the trace of all atoms that can be seen: lines with a point on top."""
    seen = one.shares >= density.SEEN
    if not seen.any():
        return []
    gap = np.full(int(seen.sum()), np.nan)
    x = axis.forward(one.atoms[seen])
    foot = np.full(x.size, float(base))
    told = np.repeat(np.column_stack((one.atoms[seen], one.shares[seen])), 3, axis=0)
    return [
        {
            "type": "scatter", "x": np.column_stack((x, x, gap)).ravel(),
            "y": np.column_stack((foot, base + heights[seen], gap)).ravel(),
            "mode": "lines+markers", "line": {"color": colour, "width": 1.5},
            "marker": {"color": colour, "size": np.tile([0.0, 5.0, 0.0], x.size), "line": {"width": 0}}, "customdata": told,
            "hovertemplate": "%{customdata[1]:.2%} at %{customdata[0]:.4~g}", **more,
        }
    ]  # fmt: skip


def _show_steps(steps: NDArray[np.int64], histograms: Sequence[Histogram], sheet: _Sheet) -> None:
    edges = density.step_edges(steps)
    sheet.x.update(range=[edges[0], edges[-1]], title="step", nticks=6)
    if steps.size == 1:
        sheet.x.update(tickvals=steps.tolist())
    counts = density.special_counts(histograms)
    marked = counts > 0
    if marked.any():
        axis = sheet.y.range
        sheet.add(
            [
                {
                    "type": "scatter", "x": steps[marked], "y": np.full(int(marked.sum()), axis[0] + 0.97 * (axis[1] - axis[0])),
                    "mode": "markers", "marker": {"symbol": "x", "color": sheet.colours.atom, "size": 7}, "customdata": counts[marked],
                    "hovertemplate": "%{customdata:.0f} NaN or infinite<extra></extra>", "name": "NaN or infinite",
                }
            ]
        )  # fmt: skip


def _say_nothing(sheet: _Sheet) -> None:
    sheet.x.update(visible=False, range=[0, 1])
    sheet.y.update(visible=False, range=[0, 1])
    text = {
        "x": [0.5],
        "y": [0.5],
        "mode": "text",
        "text": ["no finite values"],
        "hoverinfo": "skip",
    }
    sheet.add(
        [
            {
                "type": "scatter",
                "showlegend": False,
                "textfont": {"color": sheet.colours.faint},
                **text,
            }
        ]
    )


def _shades(name: str, ends: tuple[float, float], count: int) -> list[str]:
    """Give colours of a part of a colour map."""
    scale = name.removesuffix("_r").capitalize() + "_r" * name.endswith("_r")
    found: list[str] = load("plotly.colors").sample_colorscale(
        scale, np.linspace(*ends, count).tolist()
    )
    return found


def _clear(colour: str, alpha: float = 0.25) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.2f})"
