"""HTML for notebooks: tables of numbers, and outlines as SVG, without matplotlib."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from sys import float_info
from typing import Any

from fasthist.hist import Histogram
from fasthist.plots.axis import Floats, label
from fasthist.plots.density import SEEN
from fasthist.plots.pictures import overlay_of, stepped
from fasthist.plots.theme import DARK, LIGHT

_WIDTH, _HEIGHT = 360, 90
_SMALL_WIDTH, _SMALL_HEIGHT = 120, 26
_MOST_ROWS = 100
_NUMBERS = ("min", "max", "mean", "std", "l2_norm")
_COUNTS = ("num", "zero_count", "nan_count", "posinf_count", "neginf_count")

# Text takes the notebook's colour. Classes, not ids, since a page may hold many.
_STYLE = f"""<style>
.fasthist {{ display: flex; flex-wrap: wrap; gap: 1.5em; align-items: center }}
.fasthist table {{ margin: 0; font-variant-numeric: tabular-nums }}
.fasthist th, .fasthist td {{ padding: .2em .5em; text-align: left; vertical-align: middle }}
.fasthist .number {{ text-align: right; white-space: nowrap }}
.fasthist svg {{ overflow: visible; vertical-align: middle }}
.fasthist path {{ fill: {LIGHT.band}; fill-opacity: .3; stroke: {LIGHT.band} }}
.fasthist .atom {{ stroke: {LIGHT.atom}; stroke-width: 2 }}
.fasthist text {{ fill: currentColor; font: 11px sans-serif }}
.fasthist .base {{ stroke: currentColor; opacity: .5 }}
@media (prefers-color-scheme: dark) {{
  .fasthist path {{ fill: {DARK.band}; stroke: {DARK.band} }}
  .fasthist .atom {{ stroke: {DARK.atom} }}
}}
</style>"""


class _Markup(str):
    """HTML; all other text is escaped."""

    __slots__ = ()


class _Number(str):
    """A number as text, aligned right."""

    __slots__ = ()


def to_html(histogram: Histogram) -> str:
    """Show a histogram as a table of its known numbers and a picture, some 4 kB, for light and dark themes.

    Special counts of 0 are left out.
    """
    counts = {name: getattr(histogram, name) for name in _COUNTS}
    shown = {"num": f"{counts.pop('num'):,}"}
    for name in _NUMBERS:
        value = getattr(histogram, name)
        if value is not None and histogram.num:
            shown[name] = f"{value:.6g}"
    shown |= {name: f"{count:,}" for name, count in counts.items() if count}
    rows = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in shown.items())
    picture = _svg(histogram, _WIDTH, _HEIGHT)
    return f'{_STYLE}<div class="fasthist"><table>{rows}</table>{picture}</div>'


def history_to_html(run: str, history: Mapping[str, Any]) -> str:
    """Show a run: for at most 100 tags, the steps, and the numbers and outline of the last step."""
    rows = []
    for tag, series in list(history.items())[:_MOST_ROWS]:
        steps = series.steps
        reach = f"{steps.size:,}: {_reach(steps[0], steps[-1])}" if steps.size else "0"
        last = [column[-1:].tolist() for column in (series.num, series.mean, series.std)]
        numbers = (_number(*value) for value in last)
        picture = _svg(series[-1]) if steps.size else ""
        rows.append((tag, reach, *numbers, picture))
    heads = ("tag", "steps", *map(_Number, ("last num", "last mean", "last std")), "last outline")
    return _table(heads, rows, len(history), f"{run}: {_counted(len(history), 'tag')}")


def histograms_to_html(histograms: Mapping[str, Histogram]) -> str:
    """Show histograms by tag: their numbers and outlines, at most 100."""
    rows = []
    for tag, h in list(histograms.items())[:_MOST_ROWS]:
        special = sum(count or 0 for count in (h.nan_count, h.posinf_count, h.neginf_count))
        values = (h.num, h.min, h.max, h.mean, h.std, special or None)
        rows.append((tag, *map(_number, values), _svg(h)))
    numbers = ("num", "min", "max", "mean", "std", "NaN or infinite")
    heads = ("tag", *map(_Number, numbers), "outline")
    return _table(heads, rows, len(histograms), _counted(len(histograms), "histogram"))


def findings_to_html(findings: Sequence[Any]) -> str:
    """Show the findings of a run, at most 100."""
    rows = [
        (f.severity, f.rule, f.tag, _reach(f.first_step, f.last_step), f.message, f.remedy)
        for f in findings[:_MOST_ROWS]
    ]
    heads = ("severity", "rule", "tag", "steps", "finding", "what people do")
    return _table(heads, rows, len(findings), _counted(len(findings), "finding"))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], count: int, caption: str) -> str:
    """Build a table; `count` includes the rows that are left out."""
    head = "".join(_cell(name, "th") for name in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    more = f"<p>and {count - _MOST_ROWS:,} more</p>" if count > _MOST_ROWS else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if count else ""
    text = f"<p>{html.escape(caption)}</p>"
    return f'{_STYLE}<div class="fasthist"><div>{text}{table}{more}</div></div>'


def _cell(text: str, kind: str = "td") -> str:
    look = ' class="number"' if isinstance(text, _Number) else ""
    return f"<{kind}{look}>{text if isinstance(text, _Markup) else html.escape(text)}</{kind}>"


def _number(value: float | None = None) -> _Number:
    if value is None or math.isnan(value):
        return _Number()
    return _Number(f"{value:,.0f}" if abs(value) < 1e15 and value == int(value) else f"{value:.4g}")


def _svg(histogram: Histogram, width: int = _SMALL_WIDTH, height: int = _SMALL_HEIGHT) -> _Markup:
    """Draw an outline; a large one with labelled ends."""
    picture = overlay_of({"": histogram})
    if picture is None:
        return _Markup()
    axis, outline = picture.axis, picture.outlines[""]
    left = axis.forward(axis.low)

    def across(values: Any) -> Floats:
        return (axis.forward(values) - left) / axis.length * width

    parts = []
    if outline.peak:
        tops = height * (1 - outline.heights / outline.peak)
        corners = stepped(across(outline.edges), tops, height)
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        parts.append(f'<path d="M{line}Z"/>')
    for x, share in zip(across(outline.atoms), outline.shares, strict=True):
        if share >= SEEN:
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{height}" y2="{height * (1 - share):.1f}"'
            parts.append(f'<line class="atom" {ends}/>')
    parts.append(f'<line class="base" x2="{width}" y1="{height}" y2="{height}"/>')
    below = 0
    if height == _HEIGHT:
        below = 20
        for x, anchor, value in ((0, "start", axis.low), (width, "end", axis.high)):
            end = label(min(max(value * axis.unit, -float_info.max), float_info.max), 3)
            parts.append(f'<text x="{x}" y="{height + 14}" text-anchor="{anchor}">{end}</text>')
    size = f'width="{width}" height="{height + below}" viewBox="0 -4 {width} {height + below + 4}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return _Markup(f"{head}{''.join(parts)}</svg>")


def _reach(first: int, last: int) -> str:
    return f"{first} to {last}" if last != first else str(first)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
