"""What a notebook shows of a histogram: its numbers, and its outline as SVG made here, without matplotlib."""

from __future__ import annotations

from typing import Any

from fasthist.hist import Histogram
from fasthist.plots import density
from fasthist.plots.axis import Floats, outline_axis
from fasthist.plots.pictures import stepped
from fasthist.plots.theme import DARK, LIGHT

_WIDTH, _HEIGHT = 360, 90
_NUMBERS = ("min", "max", "mean", "std", "l2_norm")
_COUNTS = ("num", "zero_count", "nan_count", "posinf_count", "neginf_count")

# Text takes the notebook's colour. Classes, since a page may hold many.
_STYLE = f"""<style>
.fasthist {{ display: flex; flex-wrap: wrap; gap: 1.5em; align-items: center }}
.fasthist table {{ margin: 0; font-variant-numeric: tabular-nums }}
.fasthist svg {{ overflow: visible }}
.fasthist path {{ fill: {LIGHT.band}; fill-opacity: .3; stroke: {LIGHT.band} }}
.fasthist .atom {{ stroke: {LIGHT.atom}; stroke-width: 2 }}
.fasthist text {{ fill: currentColor; font: 11px sans-serif }}
.fasthist .base {{ stroke: currentColor; opacity: .5 }}
@media (prefers-color-scheme: dark) {{
  .fasthist path {{ fill: {DARK.band}; stroke: {DARK.band} }}
  .fasthist .atom {{ stroke: {DARK.atom} }}
}}
</style>"""


def to_html(histogram: Histogram) -> str:
    """Give a table of the numbers and a picture, some 4 kB, for light and dark ground.

    What is not known is left out, and so are counts of special values that are 0.
    """
    counts = {name: getattr(histogram, name) for name in _COUNTS}
    shown = {"num": f"{counts.pop('num'):,}"}
    for name in _NUMBERS:
        value = getattr(histogram, name)
        if value is not None and histogram.num:
            shown[name] = f"{value:.6g}"
    shown |= {name: f"{count:,}" for name, count in counts.items() if count}
    rows = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in shown.items())
    picture = _svg(histogram) if histogram.num else ""
    return f'{_STYLE}<div class="fasthist"><table>{rows}</table>{picture}</div>'


def _svg(histogram: Histogram) -> str:
    axis = outline_axis([histogram])
    found = density.density_of(histogram, axis)
    left = axis.forward(axis.low)

    def across(values: Any) -> Floats:
        return (axis.forward(values) - left) / axis.length * _WIDTH

    parts = []
    if found.peak:
        corners = stepped(across(found.edges), _HEIGHT * (1 - found.heights / found.peak), _HEIGHT)
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        parts.append(f'<path d="M{line}Z"/>')
    for x, share in zip(across(found.atoms), found.shares, strict=True):
        if share >= density.SEEN:
            top = _HEIGHT * (1 - share)
            parts.append(
                f'<line class="atom" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEIGHT}" y2="{top:.1f}"/>'
            )
    parts.append(f'<line class="base" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>')
    for x, anchor, value in ((0, "start", axis.low), (_WIDTH, "end", axis.high)):
        parts.append(f'<text x="{x}" y="{_HEIGHT + 14}" text-anchor="{anchor}">{value:.3g}</text>')
    size = f'width="{_WIDTH}" height="{_HEIGHT + 20}" viewBox="0 -4 {_WIDTH} {_HEIGHT + 24}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(parts)}</svg>'
