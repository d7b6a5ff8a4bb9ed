"""A page for a browser: the same pictures drawn by plotly, with zoom and numbers on hover."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np

from fasthist.hist import Histogram
from fasthist.plots import density, pictures
from fasthist.plots.axis import Floats, ValueAxis, label
from fasthist.plots.drawing import load
from fasthist.plots.panels import Layout, Panel
from fasthist.plots.pictures import SeriesLike
from fasthist.plots.theme import Theme

_HEIGHT = 330
_MANY, _FEW_COLUMNS = 4, 200
_SHADES = 64

Traces = list[dict[str, Any]]

# Each picture is a figure of its own, so that a narrow window can have fewer of them in a row.
_STYLE = """
body {{ margin: 1.5em; background: {ground}; color: {ink}; font: 12px sans-serif }}
h1 {{ font-size: 14px; font-weight: normal; color: {faint}; overflow-wrap: anywhere }}
h2 {{ font-size: 13px; margin: 1em 0 0; overflow-wrap: anywhere }}
h2 small {{ font-weight: normal; color: {faint} }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, max(300px, {share:.0f}% - 2em)), 1fr)); gap: 0 1em }}
section {{ min-width: 0 }}
nav button {{ border: 0; background: none; color: inherit; font: inherit; cursor: pointer; overflow-wrap: anywhere }}
nav button[aria-pressed=false] {{ opacity: .4 }}
"""
_TOGGLE = """
for (const button of document.querySelectorAll("nav button"))
  button.onclick = () => {
    const shown = button.ariaPressed !== "true";
    button.ariaPressed = shown;
    for (const picture of document.querySelectorAll(".plotly-graph-div")) {
      const traces = picture.data.flatMap((trace, i) => trace.name === button.value ? [i] : []);
      if (traces.length) Plotly.restyle(picture, {visible: shown}, traces);
    }
  };
"""


def page(layout: Layout, colours: Theme) -> str:
    """Draw a layout as self-contained HTML, some 5 MB of which are plotly's code."""
    to_html = load("plotly.io").to_html
    parts = []
    for place, panel in enumerate(layout.panels):
        picture = to_html(
            figure_of(panel, layout, colours), full_html=False, include_plotlyjs=not place, div_id=f"fasthist{place}",
            config={"responsive": True, "displaylogo": False, "scrollZoom": True},
        )  # fmt: skip
        title, note = html.escape(panel.title), html.escape(panel.note)
        parts.append(f"<section><h2>{title} <small>{note}</small></h2>\n{picture}</section>")
    style = _STYLE.format(share=100 / layout.columns, **vars(colours))
    heading = f"<h1>{html.escape(layout.heading)}</h1>"
    if not layout.heading and layout.kind == "overlay":
        buttons = "\n".join(
            f'<button aria-pressed="true" value="{html.escape(run)}">'
            f'<span style="color:{_run_colour(place, colours)}">■</span> {html.escape(run)}</button>'
            for place, run in enumerate(layout.runs)
        )
        heading = f"<nav>{buttons}</nav>"
    title = html.escape(f"{', '.join(layout.runs)}: {layout.kind}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n<style>{style}</style>'
        f"</head>\n<body>\n{heading}\n<main>\n{''.join(parts)}\n</main>\n<script>{_TOGGLE}</script></body></html>\n"
    )


def figure_of(panel: Panel, layout: Layout, colours: Theme) -> Any:
    """Draw one small picture: a ``plotly.graph_objects.Figure``."""
    figure = load("plotly.graph_objects").Figure()
    figure.update_layout(
        height=_HEIGHT if len(layout.panels) > 1 else 520, paper_bgcolor=colours.ground, plot_bgcolor=colours.ground,
        template="none", font={"color": colours.ink, "size": 11}, margin={"t": 24, "l": 60, "r": 40, "b": 60},
        hoverlabel={"bgcolor": colours.ground, "font": {"color": colours.ink}}, showlegend=False,
    )  # fmt: skip
    lines = {"gridcolor": colours.grid, "zeroline": False, "linecolor": colours.faint}
    figure.update_xaxes(title_standoff=6, showline=True, **lines)
    figure.update_yaxes(title_standoff=6, showline=True, **lines)
    if isinstance(panel.content, dict):
        drawn = _draw_overlay(panel.content, figure, layout, colours)
    else:
        drawn = _DRAW[layout.kind](panel.content, figure, layout, colours)
    if not drawn:
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        figure.add_annotation(
            text="no finite values", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False,
            font={"color": colours.faint},
        )  # fmt: skip
    return figure


def _draw_overlay(
    histograms: dict[str, Histogram], figure: Any, layout: Layout, colours: Theme
) -> bool:
    picture = pictures.overlay_of(histograms, layout.scale)
    if picture is None:
        return False
    axis, heights = picture.axis, picture.heights
    for run, drawn in picture.outlines.items():
        colour = _run_colour(layout.runs.index(run), colours)
        if drawn.peak:
            corners = pictures.stepped(drawn.edges, heights.scaled(drawn), 0.0)
            outline = _outline(corners, drawn, axis, "density")
            line = {"color": colour, "width": 1.5}
            figure.add_trace(outline | {"line": line, "fillcolor": _clear(colour), "name": run})
        atoms = np.column_stack((drawn.atoms, drawn.shares * heights.whole, drawn.shares))
        seen = atoms[drawn.shares >= density.SEEN]
        figure.add_traces(_atoms(seen, axis, 0.0, colour, run))
    _show_values(figure.layout.xaxis, axis, picture.note)
    figure.update_yaxes(title=heights.label, rangemode="tozero", nticks=5, exponentformat="e")
    return True


def _draw_ridge(series: SeriesLike, figure: Any, layout: Layout, colours: Theme) -> bool:
    picture = pictures.ridge_of(series, layout.scale)
    if picture is None:
        return False
    rows = picture.steps.size
    shades = _shades(colours.steps, colours.step_ends, max(rows, 2))[-rows:]
    for row, step in enumerate(picture.steps.tolist()):
        drawn = picture.densities[row]
        if drawn.peak:
            outline = _outline(picture.corners(row), drawn, picture.axis, f"step {step}, density")
            line = {"color": colours.ground, "width": 0.6}
            figure.add_trace(outline | {"line": line, "fillcolor": shades[row]})
    for row, step in enumerate(picture.steps.tolist()):  # before all outlines
        atoms = picture.atoms(row)
        figure.add_traces(_atoms(atoms, picture.axis, row, colours.atom, f"step {step}"))
    _show_values(figure.layout.xaxis, picture.axis, picture.note)
    places, texts = zip(*picture.ticks, strict=True)
    figure.update_yaxes(
        title="step", tickvals=places, ticktext=texts, showgrid=False, range=picture.limits
    )
    return True


def _draw_heatmap(series: SeriesLike, figure: Any, layout: Layout, colours: Theme) -> bool:
    picture = pictures.heat_of(series, _most_columns(layout), layout.scale)
    if picture is None:
        return False
    edges, cells = picture.edges, picture.density
    middles = np.broadcast_to((edges[:-1] / 2 + edges[1:] / 2)[:, None], cells.shape)
    at = np.broadcast_to(picture.steps.astype(np.float64), cells.shape)
    ticks, texts = zip(*picture.ticks, strict=True)
    figure.add_heatmap(
        x=picture.borders, y=picture.axis.forward(edges), z=np.log10(cells).astype(np.float32),
        zmin=math.log10(picture.low), zmax=math.log10(picture.high), hoverongaps=False,
        customdata=np.stack((at, middles, cells), axis=2), hovertemplate="step %{customdata[0]:.0f}<br>"
        "value %{customdata[1]:.4~g}<br>" + picture.unit + " %{customdata[2]:.4~g}<extra></extra>",
        colorscale=_shades(colours.heat, colours.heat_ends, _SHADES), colorbar={
            "thickness": 9, "outlinewidth": 0, "tickvals": np.log10(ticks), "ticktext": texts,
            "title": {"text": picture.unit, "font": {"size": 10}},
        },
    )  # fmt: skip
    _show_columns(picture, figure, colours)
    return True


def _draw_percentiles(series: SeriesLike, figure: Any, layout: Layout, colours: Theme) -> bool:
    picture = pictures.bands_of(series, _most_columns(layout), layout.scale)
    if picture is None:
        return False
    at, values = picture.at, picture.values
    places = picture.axis.forward(values)
    for band in range(4):
        # A ring for each part: along one percentile and back along the other.
        around = [(at[part], places[part, band]) for part in picture.parts]
        back = [(at[part][::-1], places[part, -1 - band][::-1]) for part in picture.parts]
        gap = np.full((2, 1), np.nan)
        ring = np.hstack([np.hstack((*pair, gap)) for pair in zip(around, back, strict=True)])
        figure.add_scatter(
            x=ring[0], y=ring[1], mode="lines", fill="toself", fillcolor=_clear(colours.band, 0.2), line={"width": 0},
            hoverinfo="skip",
        )  # fmt: skip
    for column, share in enumerate(pictures.SHARES):
        outer = column in (0, len(pictures.SHARES) - 1)
        figure.add_scatter(
            x=at, y=places[:, column], customdata=values[:, column], name=f"{share:.0%}", mode="lines",
            hovertemplate="%{customdata:.4~g}", connectgaps=False,
            line={"color": colours.band, "width": 2 if share == 0.5 else 0.6 if outer else 0},
        )  # fmt: skip
    for place, text in picture.labels:
        figure.add_annotation(
            text=text, x=1, y=place, xref="paper", yref="paper", xanchor="left", showarrow=False,
            font={"size": 10, "color": colours.faint},
        )  # fmt: skip
    figure.update_layout(hovermode="x unified")
    _show_columns(picture, figure, colours)
    return True


_DRAW = {"ridge": _draw_ridge, "heatmap": _draw_heatmap, "percentiles": _draw_percentiles}


def _most_columns(layout: Layout) -> int:
    return _FEW_COLUMNS if len(layout.panels) > _MANY else 3 * _FEW_COLUMNS


def _outline(corners: Floats, drawn: density.Density, axis: ValueAxis, what: str) -> dict[str, Any]:
    """Return the trace of a stepped outline."""
    heights = np.concatenate(([0], np.repeat(drawn.heights, 2), [0]))
    return {
        "type": "scatter", "x": axis.forward(corners[:, 0]), "y": corners[:, 1], "mode": "lines", "fill": "toself", "hoveron": "points",
        "customdata": np.column_stack((corners[:, 0], heights)),
        "hovertemplate": what + " %{customdata[1]:.4~g}<br>value %{customdata[0]:.4~g}", "name": "",
    }  # fmt: skip


def _atoms(atoms: Floats, axis: ValueAxis, foot: float, colour: str, name: str) -> Traces:
    """Return a trace of atoms, float64[m, 3] of value, top and share: lines with a point on top."""
    if not len(atoms):
        return []
    at, tops, shares = atoms.T
    gap = np.full(at.size, np.nan)
    x = axis.forward(at)
    return [
        {
            "type": "scatter", "x": np.column_stack((x, x, gap)).ravel(),
            "y": np.column_stack((np.full(at.size, float(foot)), tops, gap)).ravel(),
            "mode": "lines+markers", "line": {"color": colour, "width": 1.5},
            "marker": {"color": colour, "size": np.tile([0.0, 5.0, 0.0], at.size), "line": {"width": 0}},
            "customdata": np.repeat(np.column_stack((at, shares)), 3, axis=0),
            "hovertemplate": "%{customdata[1]:.2%} at %{customdata[0]:.4~g}", "name": name,
        }
    ]  # fmt: skip


def _show_values(along: Any, axis: ValueAxis, note: str = "") -> None:
    title = "<br>".join(pictures.lines_of(axis.title, note))
    along.update(range=axis.forward([axis.low, axis.high]).tolist(), title=title)
    if axis.threshold is not None:
        ticks = axis.ticks()
        along.update(tickvals=axis.forward(ticks).tolist(), ticktext=list(map(label, ticks)))
    else:
        along.update(nticks=6, exponentformat="e", minexponent=3)


def _show_columns(picture: pictures.Columns, figure: Any, colours: Theme) -> None:
    """Set the axes of a picture over steps, and mark the steps with NaN or infinities."""
    _show_values(figure.layout.yaxis, picture.axis)
    title = "<br>".join(pictures.lines_of("step", picture.note))
    figure.update_xaxes(range=picture.ends, title=title, nticks=6)
    if picture.steps.size == 1:
        figure.update_xaxes(tickvals=picture.steps.tolist())
    if picture.marked.size:
        low, high = figure.layout.yaxis.range
        figure.add_scatter(
            x=picture.marked, y=np.full(picture.marked.size, low + 0.97 * (high - low)), mode="markers",
            marker={"symbol": "x", "color": colours.atom, "size": 7}, customdata=picture.special_counts,
            hovertemplate="%{customdata:.0f} NaN or infinite<extra></extra>", name="NaN or infinite",
        )  # fmt: skip


def _run_colour(place: int, colours: Theme) -> str:
    return colours.runs[place % len(colours.runs)]


def _shades(name: str, ends: tuple[float, float], count: int) -> list[str]:
    """Return `count` colours of a colour map between two ends."""
    scale = name.removesuffix("_r").capitalize() + "_r" * name.endswith("_r")
    places = np.linspace(*ends, count).tolist()
    shades: list[str] = load("plotly.colors").sample_colorscale(scale, places)
    return shades


def _clear(colour: str, alpha: float = 0.25) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.2f})"
