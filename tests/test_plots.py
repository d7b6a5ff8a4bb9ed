"""What is drawn: areas are shares, axes hold the values, and files are what their endings say."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fasthist
from fasthist.cli import main
from fasthist.commands.plot import KINDS, MAX_PANELS, SCALES
from fasthist.errors import ArgumentError, MissingPackageError
from fasthist.plots import axis, density, drawing, figures, notebook, page, panels
from fasthist.plots.axis import LINSCALE, ValueAxis, label, outline_axis, step_axis
from fasthist.plots.theme import DARK, LIGHT

os.environ.setdefault("MPLBACKEND", "Agg")  # before pyplot is imported: no window

RNG = np.random.default_rng(5)
NORMAL = RNG.normal(0.5, 2.0, 20_000)
DATA = {
    "normal": NORMAL,
    "relu": np.maximum(NORMAL, 0.0),
    "constant": np.full(100, 3.5),
    "zeros": np.zeros(64),
    "two_valued": np.repeat([-1.0, 2.0], [30, 70]),
    "few": RNG.normal(size=10),
    "one": np.array([7.0]),
    "quantised": np.round(NORMAL),
    "saturated": np.tanh(3 * NORMAL),
    "tiny": NORMAL * 1e-30,
    "subnormal": NORMAL * 1e-310,
    "huge": np.array([-1.7e308, 0.0, 1e300, 1.7e308]),
    "outlier": np.append(NORMAL, 1e6),
    "heavy_tail": RNG.standard_t(1.0, 20_000),
    "far": 1e6 + RNG.normal(size=5000),
    "int8": np.clip(np.round(NORMAL * 30), -128, 127).astype(np.int8),
}
SERIES_KINDS = ("ridge", "heatmap", "percentiles")


@pytest.fixture(autouse=True)
def _own_figures():
    """Leave no current axes of pyplot's to the next test."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@dataclass
class Made:
    """A series of histograms in memory."""

    steps: np.ndarray
    histograms: list

    @property
    def num(self):
        return np.array([h.num for h in self.histograms], dtype=float)

    def __len__(self):
        return len(self.histograms)

    def __getitem__(self, index):
        return self.histograms[index]


def series_of(*arrays, steps=None):
    steps = np.arange(len(arrays)) * 10 if steps is None else np.array(steps)
    return Made(steps.astype(np.int64), [fasthist.histogram(a) for a in arrays])


def figure_of(need):
    need("matplotlib")
    from matplotlib.figure import Figure

    return Figure()


def unit_of(labels):
    """Read what values are divided by from the name of their axis."""
    unit = re.search(r"value / (\S+)", labels)
    return float(unit[1].replace("\u2212", "-")) if unit else 1.0


def share_up_to(rows, x):
    """Give the share of what lies below `x`, with the values of a row spread evenly; by definition."""
    total = below = 0.0
    for left, right, count in rows:
        total += count
        below += count * min(max((x - left) / (right - left), 0.0), 1.0)
    return below / total


# ---- mass


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("bins", ["auto", "tensorflow"])
def test_areas_and_atoms_add_up_to_all_values(name, bins):
    histogram = fasthist.histogram(DATA[name], buckets=bins)
    axis = outline_axis([histogram])
    found = density.density_of(histogram, axis)
    area = (found.heights * np.diff(axis.forward(found.edges))).sum() if found.edges.size else 0
    assert area + found.shares.sum() + found.outside == pytest.approx(1, abs=1e-9)
    assert found.outside <= 0.0021
    assert (found.heights >= 0).all()
    assert np.isfinite(found.heights).all()


@pytest.mark.parametrize("name", ["normal", "saturated", "heavy_tail", "far", "tiny", "outlier"])
def test_the_area_up_to_each_edge_is_the_share_of_the_rows_there(name):
    histogram = fasthist.histogram(DATA[name])
    axis = outline_axis([histogram])
    found = density.density_of(histogram, axis)
    areas = found.heights * np.diff(axis.forward(found.edges))
    rows = histogram.to_rows()
    start = share_up_to(rows, found.edges[0])
    for edge, area in zip(found.edges[1:], np.cumsum(areas), strict=True):
        atoms = found.shares[found.atoms < edge].sum()
        assert start + area + atoms == pytest.approx(share_up_to(rows, edge), abs=1e-9)


def test_wide_rows_are_drawn_as_they_are():
    histogram = fasthist.histogram(NORMAL, buckets=32)
    found = density.density_of(histogram, outline_axis([histogram]))
    counts, edges = np.histogram(NORMAL, 32)
    rows = histogram.to_rows()
    np.testing.assert_allclose(found.edges[[0, -1]], edges[[0, -1]])
    expected = rows[:, 2] / counts.sum() / (rows[:, 1] - rows[:, 0])
    np.testing.assert_allclose(found.heights, expected)


def test_the_density_of_a_normal_is_near_its_formula():
    histogram = fasthist.histogram(np.random.default_rng(1).normal(size=400_000))
    found = density.density_of(histogram, outline_axis([histogram]))
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    formula = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
    assert np.abs(found.heights - formula).max() < 0.06
    assert found.heights.size == 60


def test_atoms_are_taken_out_of_the_density():
    values = DATA["relu"]
    found = density.density_of(h := fasthist.histogram(values), outline_axis([h]))
    assert found.atoms == pytest.approx([0.0], abs=1e-5)
    assert found.shares == pytest.approx([(values == 0).mean()], abs=1e-6)
    # The rest is a normal cut off, whose density is at most 0.2.
    assert 0.15 < found.peak < 0.25


def test_values_that_are_single_are_no_atoms():
    found = density.density_of(h := fasthist.histogram(DATA["few"]), outline_axis([h]))
    assert found.atoms.size == 0
    assert found.heights.size == 8


@pytest.mark.parametrize(
    ("name", "at", "shares"),
    [
        ("constant", [3.5], [1]),
        ("zeros", [0], [1]),
        ("two_valued", [-1, 2], [0.3, 0.7]),
        ("one", [7], [1]),
    ],
)
def test_single_values_are_atoms_alone(name, at, shares):
    found = density.density_of(h := fasthist.histogram(DATA[name]), outline_axis([h]))
    assert found.atoms == pytest.approx(at, abs=1e-5)
    assert found.shares == pytest.approx(shares)
    assert found.peak == 0


def test_the_outline_on_the_axes_has_the_areas(need):
    ax = figure_of(need).add_subplot()
    figures.plot_histogram(fasthist.histogram(NORMAL), ax)
    heights, edges, _ = ax.patches[0].get_data()
    assert (heights * np.diff(edges)).sum() == pytest.approx(1, abs=1e-9)
    assert ax.get_ylim()[1] == pytest.approx(1.1 * heights.max())


def test_the_outlines_of_a_ridge_have_shares_for_areas(need):
    ax = figure_of(need).add_subplot()
    series = series_of(NORMAL, NORMAL + 1)
    figures.plot_series(series, "ridge", ax)
    polygons = ax.collections[-1].get_paths()
    assert len(polygons) == 2
    for row, (path, histogram) in enumerate(zip(polygons, series.histograms, strict=True)):
        x, y = path.vertices[1:-2].T
        heights, edges = row - y[::2], np.append(x[::2], x[-1])
        areas = heights * np.diff(edges)
        for edge, share in zip(edges[1:], np.cumsum(areas) / areas.sum(), strict=True):
            assert share == pytest.approx(share_up_to(histogram.to_rows(), edge), abs=1e-9)


def test_each_column_of_a_heat_map_has_all_values():
    histograms = [fasthist.histogram(NORMAL * scale) for scale in (1.0, 1e-3, 1e-6)]
    axis = step_axis(histograms)
    edges, found = density.heat_of(histograms, axis)
    assert axis.threshold is not None
    np.testing.assert_allclose(np.nansum(found * np.diff(edges)[:, None], axis=0), 1, rtol=1e-9)


def test_percentiles_are_those_of_the_values(need):
    ax = figure_of(need).add_subplot()
    figures.plot_series(series_of(NORMAL, NORMAL * 2), "percentiles", ax)
    (median, lowest, highest) = (line.get_ydata() for line in ax.lines)
    spread = NORMAL.std()
    assert median == pytest.approx([np.median(NORMAL), 2 * np.median(NORMAL)], abs=0.1 * spread)
    assert lowest == pytest.approx([NORMAL.min(), 2 * NORMAL.min()])
    assert highest == pytest.approx([NORMAL.max(), 2 * NORMAL.max()])
    assert len(ax.collections) == 4


# ---- axes


def test_a_symmetric_logarithmic_axis_is_matplotlibs(need):
    axis = ValueAxis(-50.0, 2000.0, 0.1)
    scale = need("matplotlib.scale").SymmetricalLogTransform(10, 0.1, LINSCALE)
    values = np.array([-50.0, -0.1, -0.05, 0.0, 0.02, 0.1, 1.0, 2000.0])
    np.testing.assert_allclose(axis.forward(values), scale.transform(values) / 0.1)
    slopes = np.diff(axis.forward([0.0999, 0.1, 0.1001]))
    assert slopes[0] == pytest.approx(slopes[1], rel=0.01)
    np.testing.assert_allclose(axis.inverse(axis.forward(values)), values, rtol=1e-12)


def test_ticks_of_a_symmetric_logarithmic_axis():
    assert ValueAxis(-20, 2000, 1).ticks() == [-10, 0, 10, 100, 1000]
    assert ValueAxis(-20, 2000, 1).ticks(4) == [0, 100]
    assert ValueAxis(-2, 2, 0.1).ticks() == [-1, -0.1, 0, 0.1, 1]
    assert ValueAxis(1, 1e8, 1).ticks(4) == [1, 1e3, 1e6]
    assert ValueAxis(0.9, 60, 1).ticks() == [1, 2, 5, 10, 20, 50]


def test_the_threshold_follows_the_smallest_step():
    axis = step_axis([fasthist.histogram(NORMAL), fasthist.histogram(NORMAL * 1e-4)])
    median = np.median(np.abs(NORMAL)) * 1e-4
    assert median <= axis.threshold <= 10 * median
    assert step_axis([fasthist.histogram(NORMAL)]).threshold is None
    assert step_axis([fasthist.histogram(DATA["far"])]).threshold is None
    assert outline_axis([fasthist.histogram(NORMAL)]).threshold is None
    assert outline_axis([fasthist.histogram(DATA["heavy_tail"])]).threshold is not None
    # Zeros tell nothing of the scale.
    assert step_axis([fasthist.histogram(x) for x in (NORMAL, np.zeros(5))]).threshold is None


def test_an_outlier_is_left_out_and_told(need):
    ax = figures.plot_histogram(fasthist.histogram(DATA["outlier"])) if need("matplotlib") else None
    low, high = ax.get_xlim()
    assert -20 < low < high < 300
    told = ax.get_xlabel().replace("\n", " ")
    assert re.fullmatch(
        rf"value · up to \S+% lie beyond, from {re.escape(label(NORMAL.min(), 3))} to 1e6", told
    )


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("kind", SERIES_KINDS)
def test_every_kind_draws_all_sorts_of_data(kind, name, need, tmp_path):
    need("matplotlib")
    ax = figures.plot_series(series_of(DATA[name], DATA[name], np.full(3, np.nan)), kind)
    values = DATA[name].astype(float) / unit_of(ax.get_xlabel() + ax.get_ylabel())
    limits = ax.get_xlim() if kind == "ridge" else ax.get_ylim()
    low, high = np.quantile(values, [0.002, 0.998])
    assert limits[0] <= low <= high <= limits[1]
    assert np.isfinite(limits).all()
    if kind != "ridge":
        assert limits[0] <= values.min() <= values.max() <= limits[1]
        assert ax.get_xlim() == (-5, 25)
    assert {text.split()[0] for text in (ax.get_xlabel(), ax.get_ylabel())} == {"value", "step"}
    if name in ("huge", "tiny", "subnormal", "constant"):
        figures.save(ax.figure, str(tmp_path / "a.png"), "png")


@pytest.mark.parametrize("kind", SERIES_KINDS)
def test_one_step(kind, need):
    need("matplotlib")
    ax = figures.plot_series(series_of(NORMAL, steps=[7]), kind)
    ticks = ax.get_yticklabels() if kind == "ridge" else ax.get_xticklabels()
    ax.figure.draw_without_rendering()
    assert [tick.get_text() for tick in ticks] == ["7"]
    drawn = ax.collections[-1]
    assert drawn.get_paths() if kind != "heatmap" else drawn.get_array().count()


@pytest.mark.parametrize("kind", SERIES_KINDS)
@pytest.mark.parametrize("arrays", [[], [np.full(4, np.nan)] * 2, [np.empty(0)]])
def test_nothing_to_draw_is_said(kind, arrays, need):
    need("matplotlib")
    ax = figures.plot_series(series_of(*arrays), kind)
    assert [text.get_text() for text in ax.texts] == ["no finite values"]


def test_a_histogram_of_no_values_is_said(need):
    need("matplotlib")
    ax = figures.plot_histogram(fasthist.histogram([np.nan]))
    assert [text.get_text() for text in ax.texts] == ["no finite values"]


@pytest.mark.parametrize("kind", ["heatmap", "percentiles"])
def test_steps_with_nan_are_marked(kind, need):
    ax = figure_of(need).add_subplot()
    broken = np.append(NORMAL, [np.nan, np.inf])
    figures.plot_series(series_of(NORMAL, broken, NORMAL, broken), kind, ax)
    marks = [line for line in ax.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in marks] == [[10, 30]]


def test_a_ridge_shows_21_steps_the_newest_last(need):
    ax = figure_of(need).add_subplot()
    figures.plot_series(series_of(*[NORMAL[:500]] * 50), "ridge", ax)
    assert len(ax.collections[-1].get_paths()) == 21
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels == ["0", "100", "200", "300", "400"]
    low, high = ax.get_ylim()
    assert low > high  # later is lower, and drawn over the others


# ---- axes and colours of the caller


def test_the_callers_axes_are_used_and_left_as_they_look(need):
    figure = figure_of(need)
    left, right = figure.subplots(1, 2)
    right.set_facecolor("black")
    for kind in SERIES_KINDS:
        assert figures.plot_series(series_of(NORMAL, NORMAL), kind, left) is left
    assert figures.plot_histogram(fasthist.histogram(NORMAL), right) is right
    assert right.get_facecolor() == (0, 0, 0, 1)
    assert left.spines["top"].get_visible()
    to_hex = need("matplotlib.colors").to_hex
    assert to_hex(right.patches[-1].get_edgecolor()) == DARK.runs[0]


@pytest.mark.parametrize("kind", panels.KINDS)
def test_dark_changes_ground_and_colours(kind, need, tmp_path):
    need("matplotlib")
    runs = {name: {"w": series_of(NORMAL, NORMAL)} for name in "ab"}
    pixels = []
    for dark, theme in ((False, LIGHT), (True, DARK)):
        figure = figures.plot_runs(runs, kind, dark=dark)
        figures.save(figure, str(tmp_path / "a.png"), "png")
        image = need("matplotlib.image").imread(tmp_path / "a.png")
        ground = need("matplotlib.colors").to_rgb(theme.ground)
        np.testing.assert_allclose(image[0, 0, :3], ground, atol=0.01)
        assert figure.axes[0].yaxis.label.get_color() == theme.ink
        pixels.append(image)
    assert (np.abs(pixels[0] - pixels[1]).max(axis=2) > 0.1).mean() > 0.9


def test_runs_keep_their_colours_in_an_overlay(need):
    need("matplotlib")
    runs = {
        "a": {"w": series_of(NORMAL)},
        "b": {"w": series_of(NORMAL + 1), "v": series_of(NORMAL)},
    }
    figure = figures.plot_runs(runs, "overlay")
    to_hex = need("matplotlib.colors").to_hex
    colours = [[to_hex(p.get_edgecolor()) for p in ax.patches[1::2]] for ax in figure.axes]
    assert colours == [[LIGHT.runs[0], LIGHT.runs[1]], [LIGHT.runs[1]]]
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b"]


def test_an_overlay_of_unlike_widths_draws_each_to_its_peak(need):
    ax = figure_of(need).add_subplot()
    found = {"a": fasthist.histogram(NORMAL), "b": fasthist.histogram(NORMAL / 10)}
    drawing.draw_outlines(found, ax, ["a", "b"])
    assert [patch.get_data().values.max() for patch in ax.patches[1::2]] == [1, 1]
    assert ax.get_ylabel() == "density / its peak"


# ---- which panels


def test_the_layout():
    runs = {run: {f"t{i}": series_of(NORMAL[:9]) for i in range(15)} for run in "ab"}
    one = panels.lay_out({"a": runs["a"]}, "ridge", "t[0-3]$")
    assert [panel.title for panel in one.panels] == ["t0", "t1", "t2", "t3"]
    assert (one.columns, one.left_out) == (2, 0)
    both = panels.lay_out(runs, "heatmap")
    assert (both.columns, len(both.panels), both.left_out) == (4, 24, 6)
    assert [(p.title, p.note) for p in both.panels[:3]] == [("t0", "a"), ("t0", "b"), ("t1", "a")]
    overlay = panels.lay_out(runs, "overlay", step=0)
    assert (len(overlay.panels), overlay.panels[0].note) == (15, "step 0")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "pie"}, "kind='pie' is unknown"),
        ({"kind": "ridge", "step": 3}, "step=3 has no meaning for kind 'ridge'"),
        ({"kind": "ridge", "tag": "("}, r"tag '\(' must be a regular expression"),
        ({"kind": "ridge", "tag": "zz"}, "no tag contains 'zz'. Accepted: .* one of w"),
        ({"kind": "overlay", "step": 3}, "no histogram has step 3. Accepted: 0 to 0"),
    ],
)
def test_what_cannot_be_laid_out(arguments, text):
    with pytest.raises(ArgumentError, match=text):
        panels.lay_out({"a": {"w": series_of(NORMAL[:9])}}, **arguments)
    with pytest.raises(ArgumentError, match="there are no histograms in a"):
        panels.lay_out({"a": {}}, "ridge")


def test_a_long_tag_is_shortened_in_the_middle():
    assert panels.shortened("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"


# ---- files


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    for run, scale in (("one", 1.0), ("two", 0.1)):
        with fasthist.SummaryWriter(path / run) as writer:
            for step in range(4):
                tree = {"w/<fc1>": NORMAL[:2000] * scale, "relu": DATA["relu"], "nan": [np.nan]}
                writer.add_histograms({**tree, "constant": np.ones(9)}, step)
    return path


def pages_of(layout):
    """Give plotly's figures, one for each picture."""
    return [page.figure_of(panel, layout, LIGHT) for panel in layout.panels]


def plot(*arguments):
    return CliRunner().invoke(main, ["plot", *map(str, arguments)])


class Page(HTMLParser):
    """What a page loads, and whether its tags match."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        self.scripts += tag == "script"
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", panels.KINDS)
def test_the_command_writes_what_the_ending_says(kind, log_dir, need, tmp_path):
    need("matplotlib")
    need("plotly")
    for ending in ("png", "svg", "html"):
        result = plot(log_dir, "-o", tmp_path / f"a.{ending}", "--kind", kind, "--tag", "w/|nan")
        assert (result.exit_code, result.stderr) == (0, "")
        count = 2 if kind == "overlay" else 4
        assert result.stdout == f"{tmp_path}/a.{ending}: {count} pictures of kind {kind}\n"
    image = need("matplotlib.image").imread(tmp_path / "a.png")
    assert image.shape[2] == 4
    assert image[..., :3].std() > 0.02
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = (tmp_path / "a.html").read_text("utf-8")
    parser = Page()
    parser.feed(text)
    assert (parser.open, parser.loaded) == ([], [])
    assert parser.scripts > 0
    assert "w/<fc1>" not in text
    assert f"background: {LIGHT.ground};" in text


def test_the_page_has_zoom_hover_and_the_numbers(log_dir, need):
    need("plotly")
    from fasthist.history import History

    runs = History.open_all(log_dir)
    text = page.page(panels.lay_out(runs, "percentiles", "w/"), DARK)
    assert '"scrollZoom": true' in text
    assert "x unified" in text
    assert DARK.ground in text
    (figure, _) = pages_of(panels.lay_out(runs, "percentiles", "w/"))
    lines = [trace for trace in figure.data if (trace.name or "").endswith("%")]
    assert [line.name for line in lines] == [
        "0%",
        "7%",
        "16%",
        "31%",
        "50%",
        "69%",
        "84%",
        "93%",
        "100%",
    ]
    expected = np.median(NORMAL[:2000])
    assert lines[4].customdata == pytest.approx([expected] * 4, abs=0.1)
    assert (np.diff([line.customdata for line in lines], axis=0) >= 0).all()


def test_the_outline_on_the_page_has_the_areas(need):
    need("plotly")
    runs = {"a": {"w": series_of(NORMAL)}}
    ((trace,),) = [figure.data for figure in pages_of(panels.lay_out(runs, "overlay"))]
    x, y = np.array(trace.x), np.array(trace.y)
    assert abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", panels.KINDS)
def test_pages_of_all_sorts_of_data(kind, need):
    need("plotly")
    runs = {
        "a": {name: series_of(values, np.full(3, np.nan), values) for name, values in DATA.items()},
        "b": {"empty": series_of([np.nan]), "one_step": series_of(NORMAL)},
    }
    layout = panels.lay_out(runs, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = pages_of(layout)
    assert len(drawn) == len(layout.panels) == len(DATA) + 2
    said = [[note.text for note in figure.layout.annotations] for figure in drawn]
    assert said.count(["no finite values"]) == 1
    assert sum(bool(figure.data) for figure in drawn) == len(drawn) - 1


def test_the_same_is_written_twice(log_dir, need, tmp_path):
    need("matplotlib")
    for ending in ("png", "svg"):
        files = [tmp_path / f"{name}.{ending}" for name in "ab"]
        for file in files:
            assert plot(log_dir / "one", "-o", file, "--tag", "w/").exit_code == 0
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_kind_follows_what_is_given(log_dir, need, tmp_path):
    need("matplotlib")
    out = tmp_path / "a.png"
    assert "1 picture of kind ridge" in plot(log_dir / "one", "-o", out, "--tag", "w/").stdout
    assert "1 picture of kind overlay" in plot(log_dir, "-o", out, "--tag", "w/").stdout
    one_step = plot(log_dir / "one", "-o", out, "--tag", "w/", "--step", 2)
    assert "1 picture of kind overlay" in one_step.stdout
    assert (KINDS, SCALES, MAX_PANELS) == (panels.KINDS, axis.SCALES, panels.MAX_PANELS)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{tmp}/nowhere", "-o", "{tmp}/a.png"], "nowhere is not there"),
        (["{tmp}", "-o", "{tmp}/a.png"], "holds no event files"),
        (["{runs}", "-o", "{tmp}/a.gif"], "a.gif: its ending names no known format"),
        (["{runs}", "-o", "{tmp}/x/a.png"], "there is no directory"),
        (["{runs}", "-o", "{tmp}/a.png", "--tag", "zz"], "no tag contains 'zz'"),
        (["{runs}", "-o", "{tmp}/a.png", "--tag", "["], "must be a regular expression"),
        (["{runs}", "-o", "{tmp}/a.png", "--step", "9"], "the nearest is 3"),
        (["{runs}", "{runs}", "-o", "{tmp}/a.png"], "is named twice"),
        (["{runs}", "-o", "{tmp}/a.png", "--step", "1", "--kind", "ridge"], "has no meaning"),
    ],
)
def test_what_goes_wrong_is_one_line(arguments, text, log_dir, tmp_path):
    result = plot(*(one.format(tmp=tmp_path, runs=log_dir) for one in arguments))
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("fasthist: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
    assert not (tmp_path / "a.png").exists()


def test_runs_without_histograms(tmp_path):
    with fasthist.SummaryWriter(tmp_path / "runs") as writer:
        writer.add_scalar("loss", 1.0, 0)
    result = plot(tmp_path / "runs", "-o", tmp_path / "a.png")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no histograms" in result.stderr


def test_too_many_pictures_are_told(need, tmp_path):
    need("matplotlib")
    with fasthist.SummaryWriter(tmp_path / "runs") as writer:
        writer.add_histograms({f"t{i}": [1.0, 2.0] for i in range(30)}, 0)
    result = plot(tmp_path / "runs", "-o", tmp_path / "a.svg")
    assert result.exit_code == 0
    assert "24 pictures" in result.stdout
    told = "fasthist: left out 6 more; choose with --tag, or draw more with --max-panels\n"
    assert result.stderr == told
    result = plot(tmp_path / "runs", "-o", tmp_path / "b.svg", "--max-panels", 30)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "30 pictures" in result.stdout
    assert (tmp_path / "b.svg").read_text("utf-8").count("<!-- t") == 30


@pytest.mark.parametrize("package", ["matplotlib", "plotly"])
def test_a_missing_package_is_named(package, monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    runs = {"a": {"w": series_of(NORMAL[:9])}}
    text = re.escape("pip install 'fasthist[plot]'")
    draw = page.page if package == "plotly" else figures.draw
    with pytest.raises(MissingPackageError, match=text):
        draw(panels.lay_out(runs, "ridge"), LIGHT)


def test_pyplot_is_never_imported(log_dir, need, tmp_path):
    need("matplotlib")
    need("plotly")
    code = f"""
import sys
from fasthist.cli import main
for ending in ("png", "svg", "html"):
    for kind in {KINDS!r}:
        main(["plot", {str(log_dir)!r}, "-o", {str(tmp_path)!r} + "/a." + ending, "--kind", kind, "--tag", "w/"],
             standalone_mode=False)
assert "matplotlib.figure" in sys.modules
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# ---- notebooks


@pytest.mark.parametrize("name", DATA)
def test_what_a_notebook_shows(name):
    text = notebook.to_html(fasthist.histogram(DATA[name]))
    root = ET.fromstring(f"<p>{text}</p>")
    cells = {row[0].text: row[1].text for row in root.iter("tr")}
    assert cells["num"] == f"{DATA[name].size:,}"
    assert cells["max"] == f"{float(DATA[name].max()):.6g}"
    svg = root.find(".//{http://www.w3.org/2000/svg}svg")
    assert svg.findall("{*}path") or svg.findall("{*}line[@class='atom']")
    assert len(text) < 8000
    assert "prefers-color-scheme: dark" in text
    assert "nan" not in text.replace("nan_count", "")
    assert not re.search(r"(src|href)=", text)


def test_a_notebook_shows_special_values_and_no_picture_of_nothing():
    text = notebook.to_html(fasthist.histogram([np.nan, np.nan, np.inf]))
    assert "<svg" not in text
    assert "<th>nan_count</th><td>2</td>" in text
    assert "<th>posinf_count</th><td>1</td>" in text
    assert "neginf" not in text


def test_the_outline_in_a_notebook_has_the_areas():
    svg = notebook.to_html(fasthist.histogram(DATA["relu"]))
    (path,) = re.findall(r'<path d="M(.*?)Z"/>', svg)
    x, y = np.array([corner.split() for corner in path.split("L")], dtype=float).T
    steps = (90 - y[1:-1:2]) * np.diff(x[1::2], prepend=x[0])[: len(y[1:-1:2])]
    assert steps.min() >= 0
    assert len(re.findall(r'class="atom"', svg)) == 1


def test_notebooks_need_no_matplotlib():
    code = "import fasthist, sys\nfrom fasthist.plots.notebook import to_html\nto_html(fasthist.histogram([1.0, 2.0]))\n"
    code += "print(sorted({'matplotlib', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- the methods that people call


def test_a_histogram_draws_itself(need):
    figure = figure_of(need)
    ax = fasthist.histogram(NORMAL).plot()
    assert ax.figure is not figure
    assert ax.get_xlabel() == "value"
    mine = figure.add_subplot()
    assert fasthist.histogram(NORMAL).plot(mine) is mine
    dark = fasthist.histogram(NORMAL).plot(dark=True)
    assert dark.get_facecolor() != ax.get_facecolor()


def test_a_notebook_shows_a_histogram():
    html = fasthist.histogram(NORMAL)._repr_html_()
    assert html == notebook.to_html(fasthist.histogram(NORMAL))
    assert "<svg" in html


@pytest.fixture
def history(tmp_path):
    with fasthist.SummaryWriter(tmp_path) as writer:
        for step in range(3):
            for tag in ("a", "b"):
                writer.add_histogram(tag, NORMAL[:1000] * (step + 1), step)
    return fasthist.History.open(tmp_path)


@pytest.mark.parametrize("kind", SERIES_KINDS)
def test_a_series_draws_itself(need, history, kind):
    mine = figure_of(need).add_subplot()
    assert history["a"].plot(kind, mine) is mine
    assert mine.has_data()


@pytest.mark.parametrize("kind", KINDS)
def test_a_history_draws_itself(need, history, kind):
    need("matplotlib")
    figure = history.plot(kind, dark=True)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert [title for title in titles if title] == ["a", "b"]
    assert len(history.plot(kind, tag="b").axes) < len(figure.axes)
    with pytest.raises(ArgumentError, match="pie"):
        history.plot("pie")


# ---- the mass in the picture is where the data is

BIG = np.random.default_rng(6).normal(size=20_000)
TRUE = {
    "normal": BIG,
    "relu": np.maximum(BIG, 0.0),
    "zeros": np.zeros(1000),
    "three": np.full(1000, 3.0),
    "minus_hundred": np.full(1000, -100.0),
    "ninety_zeros": np.where(np.arange(BIG.size) % 10, 0.0, BIG),
    "int8": np.clip(np.round(BIG * 30), -100, 99).astype(np.int8),
    "log_normal": np.exp(3 * BIG),
    "extremes": np.repeat([-1e308, 0.0, 1e308], [300, 400, 300]),
    "subnormal": BIG * 1e-320,
}
CONSTANTS = {"zeros": (-1, 1), "three": (1.5, 4.5), "minus_hundred": (-150, -50)}


def misplaced(values, bars, atoms):
    """Give the share of the data that is drawn elsewhere: `bars` are edges and areas, `atoms` places and shares."""
    edges, areas = bars
    places, held = np.array(atoms, dtype=float).reshape(2, -1)
    rest, wrong = np.sort(values), 0.0
    for place, share in zip(places, held, strict=True):
        near = np.abs(rest - place) <= 1e-4 * (abs(place) or np.abs(values).max() * 1e-3)
        wrong += abs(near.mean() * rest.size / values.size - share)
        rest = rest[~near]
    if len(edges):
        inside = np.histogram(rest, edges)[0] / values.size
        wrong += np.abs(inside - areas).sum() + (rest.size / values.size - inside.sum())
    else:
        wrong += rest.size / values.size
    return wrong / 2


def areas_of(places, heights, atom_shares):
    """Give areas that add up to what the atoms leave."""
    areas = np.asarray(heights) * np.diff(places)
    return areas / areas.sum() * (1 - np.sum(atom_shares)) if len(areas) else areas


@pytest.mark.parametrize("scale", ["auto", "linear", "log"])
@pytest.mark.parametrize("name", TRUE)
def test_matplotlibs_outline_is_where_the_data_is(name, scale, need):
    ax = figure_of(need).add_subplot()
    fasthist.histogram(TRUE[name]).plot(ax, scale=scale)
    values = TRUE[name].astype(float) / unit_of(ax.get_xlabel())
    whole = ax.get_ylim()[1] / 1.1 if ax.patches else 1.0
    atoms = [line.get_xydata().T for line in ax.lines]
    assert len(atoms) == 1
    atoms[0][1] /= whole
    edges, areas = np.empty(0), np.empty(0)
    if ax.patches:
        heights, edges, _ = ax.patches[0].get_data()
        areas = areas_of(ax.xaxis.get_transform().transform(edges), heights, atoms[0][1])
    assert misplaced(values, (edges, areas), atoms[0]) <= 0.02
    if name in CONSTANTS:
        assert ax.get_xlim() == pytest.approx(CONSTANTS[name])
        assert (atoms[0][0].tolist(), atoms[0][1].tolist()) == ([values[0]], [1])


def polygons_of(name, scale, kind):
    """Give plotly's traces of a picture, its layout and what its places on the axis mean."""
    runs = {"a": {"w": series_of(TRUE[name], TRUE[name])}}
    (figure,) = pages_of(panels.lay_out(runs, kind, scale=scale))
    axis = outline_axis(runs["a"]["w"].histograms, scale)
    return figure, axis


@pytest.mark.parametrize("scale", ["auto", "linear", "log"])
@pytest.mark.parametrize("name", TRUE)
@pytest.mark.parametrize("kind", ["overlay", "ridge"])
def test_plotlys_outline_is_where_the_data_is(kind, name, scale, need):
    need("plotly")
    figure, axis = polygons_of(name, scale, kind)
    values = TRUE[name].astype(float) / unit_of(figure.layout.xaxis.title.text)
    outlines = [trace for trace in figure.data if trace.fill == "toself"]
    atoms = [trace for trace in figure.data if trace.mode == "lines+markers"]
    held = np.empty((2, 0))
    if atoms:
        held = np.array(atoms[0].customdata)[::3].T
    places, edges, areas = np.empty(0), np.empty(0), np.empty(0)
    if outlines:
        places = np.array(outlines[0].x)[::2]
        edges = np.array(outlines[0].customdata)[::2, 0]
        heights = np.abs(np.array(outlines[0].y)[1:-1:2])
        areas = areas_of(places, heights, held[1])
        np.testing.assert_allclose(axis.inverse(places), edges, rtol=1e-9, atol=1e-12)
    assert misplaced(values, (edges, areas), held) <= 0.02
    if atoms:
        np.testing.assert_allclose(axis.inverse(np.array(atoms[0].x)[::3]), held[0], atol=1e-12)
    if name in CONSTANTS:
        assert figure.layout.xaxis.range == pytest.approx(CONSTANTS[name])


@pytest.mark.parametrize("scale", ["auto", "linear", "log"])
@pytest.mark.parametrize("name", TRUE)
def test_matplotlibs_ridge_is_where_the_data_is(name, scale, need):
    ax = figure_of(need).add_subplot()
    figures.plot_series(series_of(TRUE[name], TRUE[name]), "ridge", ax, scale=scale)
    values = TRUE[name].astype(float) / unit_of(ax.get_xlabel())
    atoms = [line.get_xydata().T for line in ax.lines][:1]
    held = np.array([atoms[0][0], -atoms[0][1] / 0.85]) if atoms else np.empty((2, 0))
    polygons = ax.collections[1].get_paths()
    edges, areas = np.empty(0), np.empty(0)
    if polygons:
        x, y = polygons[0].vertices[1:-2].T
        edges = np.append(x[::2], x[-1])
        areas = areas_of(ax.xaxis.get_transform().transform(edges), -y[::2], held[1])
    assert misplaced(values, (edges, areas), held) <= 0.02
    if name in CONSTANTS:
        assert ax.get_xlim() == pytest.approx(CONSTANTS[name])


@pytest.mark.parametrize("name", TRUE)
def test_a_heat_map_is_where_the_data_is(name, need):
    need("matplotlib")
    need("plotly")
    series = series_of(TRUE[name], TRUE[name])
    ax = figures.plot_series(series, "heatmap", figure_of(need).add_subplot())
    mesh = ax.collections[0]
    edges = mesh.get_coordinates()[:, 0, 1]
    cells = mesh.get_array()[:, 0].filled(0.0)
    by_decade = ax.figure.axes[1].get_ylabel() == "share per decade"
    widths = np.diff(ax.yaxis.get_transform().transform(edges) if by_decade else edges)
    shares = cells * widths / (cells * widths).sum()
    values = TRUE[name].astype(float) / unit_of(ax.get_ylabel())
    wide = np.append(
        edges[:-1:4], edges[-1]
    )  # a cell holds a few of the values, of which the histogram is a sample
    assert misplaced(values, (wide, np.add.reduceat(shares, range(0, shares.size, 4))), []) <= 0.02
    if name in CONSTANTS:
        assert ax.get_ylim() == pytest.approx(CONSTANTS[name])
        assert np.count_nonzero(cells) == 1
        (row,) = np.nonzero(cells)[0]
        assert edges[row] < values[0] < edges[row + 1]
    (figure,) = pages_of(panels.lay_out({"a": {"w": series}}, "heatmap"))
    drawn = np.array(figure.data[0].z, dtype=float)
    np.testing.assert_allclose(10 ** np.nan_to_num(drawn[:, 0], nan=-400), cells, rtol=1e-4)
    np.testing.assert_allclose(step_axis(series.histograms).inverse(figure.data[0].y), edges)


@pytest.mark.parametrize("name", TRUE)
def test_bands_are_where_the_data_is(name, need):
    need("matplotlib")
    need("plotly")
    series = series_of(TRUE[name], TRUE[name])
    ax = figures.plot_series(series, "percentiles", figure_of(need).add_subplot())
    values = np.sort(TRUE[name].astype(float)) / unit_of(ax.get_ylabel())
    (figure,) = pages_of(panels.lay_out({"a": {"w": series}}, "percentiles"))
    lines = [trace for trace in figure.data if (trace.name or "").endswith("%")]
    shares = [0, 0.07, 0.16, 0.31, 0.5, 0.69, 0.84, 0.93, 1]
    near = 1e-5 * np.abs(values).max()
    for line, share in zip(lines, shares, strict=True):
        at = line.customdata[0]
        below, upto = (values < at - near).mean(), (values <= at + near).mean()
        assert below - 0.02 <= share <= upto + 0.02
    median, lowest, highest = (line.get_ydata()[0] for line in ax.lines)
    assert [lowest, median, highest] == [lines[i].customdata[0] for i in (0, 4, 8)]
    if name in CONSTANTS:
        assert [line.customdata[0] for line in lines] == [values[0]] * 9
        assert ax.get_ylim() == pytest.approx(CONSTANTS[name])


@pytest.mark.parametrize("value", [0.0, 3.0, -100.0, 1e-9, 1e30, -7e-5])
@pytest.mark.parametrize("room", ["none", "float32", "around"])
def test_a_constant_is_a_spike_with_any_room_that_a_file_gives_it(value, room, need):
    end = {"none": value, "float32": float(np.nextafter(np.float32(value), np.float32(np.inf)))}
    rows = np.array([[value, end.get(room, value), 50.0]])
    if room == "around":
        width = max(abs(value) * 2.0**-20, 2.0**-100)
        rows[0, :2] = value - width, value + width
    elif value == 0 and room == "float32":
        rows[0, 1] = 2.0**-24
    spike = dataclasses.replace(fasthist.histogram(np.full(50, value)), outlined=rows)
    near = abs(value) / 2 or 1.0
    axis = outline_axis([spike])
    assert (axis.low, axis.high) == pytest.approx((value - near, value + near), rel=1e-5)
    found = density.density_of(spike, axis)
    assert found.atoms == pytest.approx([value], rel=1e-5, abs=0)
    assert (found.shares.tolist(), found.peak) == ([1.0], 0)
    need("matplotlib")
    for kind in SERIES_KINDS:
        ax = figures.plot_series(
            Made(np.arange(2), [spike, spike]), kind, figure_of(need).add_subplot()
        )
        ax.figure.draw_without_rendering()


EXTREME = {
    "float64": np.array([np.finfo(float).max, -np.finfo(float).max, 1.0, 0.0]),
    "float64_max": np.full(5, np.finfo(float).max),
    "float64_spread": np.linspace(-1.7, 1.7, 1001) * 1e308,
    "float64_exponents": 2.0 ** np.arange(-1074, 1024, 3.0),
    "smallest": np.array([5e-324, 1e-323, 0.0]),
    "smallest_alone": np.full(3, 5e-324),
    "smallest_normal": np.array([np.finfo(float).tiny, -np.finfo(float).tiny]),
    "int64": np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max, 0, 1]),
    "int64_ends": np.array([np.iinfo(np.int64).max - 1, np.iinfo(np.int64).max]),
    "uint64": np.array([0, 2**64 - 1], dtype=np.uint64),
    "float32": np.array([np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal], dtype=np.float32),
    "float32_max": np.full(9, np.finfo(np.float32).max, dtype=np.float32),
    "neighbours": np.array([1.0, np.nextafter(1.0, 2.0)]),
    "far_neighbours": np.array([1e300, np.nextafter(1e300, np.inf)]),
    "mixed": np.append(NORMAL, [1e308, -1e-308]),
    "infinite": np.array([np.inf, -np.inf, np.nan, 2.0]),
    "bf16": np.array([3.3895314e38, -3.3895314e38, 9.2e-41], dtype=np.float32),
}  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "buckets"), [("auto", "auto"), ("log", "auto"), ("auto", "tensorflow")]
)
@pytest.mark.parametrize("name", EXTREME)
def test_extremes_are_drawn_without_a_warning(name, scale, buckets, need):
    need("matplotlib")
    need("plotly")
    histogram = fasthist.histogram(EXTREME[name], buckets=buckets)
    other = fasthist.histogram(NORMAL[:100], buckets=buckets)
    runs = {
        "a": {
            "alone": Made(np.arange(1), [histogram]),
            "beside": Made(np.arange(2), [histogram, other]),
        }
    }
    for kind in panels.KINDS:
        layout = panels.lay_out(runs, kind, scale=scale)
        figure = figures.draw(layout, LIGHT)
        figure.draw_without_rendering()
        for ax in figure.axes:
            limits = np.array([ax.get_xlim(), ax.get_ylim()])
            assert np.isfinite(limits).all()
            assert (np.diff(limits) != 0).all()
        for drawn in pages_of(layout):
            for along in (drawn.layout.xaxis, drawn.layout.yaxis):
                assert along.range is None or np.isfinite(along.range).all()
            assert drawn.to_json()
    assert "<svg" in notebook.to_html(histogram)


# ---- what a person reads


def test_a_step_of_nan_leaves_a_gap_and_a_note(need):
    need("matplotlib")
    need("plotly")
    far = NORMAL[:2000] + 50  # a band that reaches down to 0 would be seen
    nothing = np.full(3, np.nan)
    series = series_of(far, far, nothing, far, nothing, far, far)
    ax = figures.plot_series(series, "percentiles", figure_of(need).add_subplot())
    told = "step · x: NaN or infinite at 2 steps"
    assert ax.get_xlabel() == told
    (figure,) = pages_of(panels.lay_out({"a": {"w": series}}, "percentiles"))
    assert figure.layout.xaxis.title.text == told
    areas = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(areas) == len(ax.collections) == 4
    for area, band in zip(areas, ax.collections, strict=True):
        x, y = np.array(area.x), np.array(area.y)
        assert np.nanmin(y) > 40
        gaps = np.nonzero(np.isnan(y))[0]
        parts = [part[~np.isnan(part)] for part in np.split(x, gaps)]
        ends = [(part.min(), part.max()) for part in parts if part.size]
        assert ends == [(0, 10), (25, 35), (50, 60)]
        drawn = [path.get_extents() for path in band.get_paths()]
        assert [(box.x0, box.x1) for box in drawn] == ends
        assert min(box.y0 for box in drawn) > 40
    for trace in figure.data:
        if trace.mode == "lines" and trace.fill is None:
            assert np.isnan(trace.y).sum() == 2
            assert not trace.connectgaps


@pytest.mark.parametrize("kind", panels.KINDS)
def test_texts_of_a_grid_neither_overlap_nor_leave_it(kind, need):
    need("matplotlib")
    tags = ["a/rather/long/name.of/a_layer_with.weight_norm", "b", "outlier", "c" * 60, "nan", "d"]
    broken = np.append(DATA["outlier"], np.nan)
    runs = {"run": {tag: series_of(broken, np.array([np.nan]), broken) for tag in tags}}
    runs["run"]["nan"] = series_of(np.array([np.nan]))
    for names in (("run",), ("first/run", "second/run/of/which/the/name/is/long")):
        figure = figures.draw(panels.lay_out(dict.fromkeys(names, runs["run"]), kind), LIGHT)
        figure.draw_without_rendering()
        page_box = figure.bbox
        texts = [
            text
            for ax in figure.axes
            for text in (ax._left_title, ax._right_title, ax.xaxis.label)
            if text.get_text()
        ]
        assert any("·" in text.get_text() for text in texts)
        boxes = [text.get_window_extent() for text in texts]
        for text, box in zip(texts, boxes, strict=True):
            if text.get_text().endswith(
                "\n"
            ):  # an empty line, where the title is; lines are 1.2 apart
                box.y0 = box.y1 - (box.y1 - box.y0) / 2.2
        for i, box in enumerate(boxes):
            assert page_box.x0 <= box.x0 < box.x1 <= page_box.x1, texts[i]
            assert page_box.y0 <= box.y0 < box.y1 <= page_box.y1, texts[i]
            assert [texts[j] for j in range(i) if box.overlaps(boxes[j])] == []


@pytest.mark.parametrize("kind", panels.KINDS)
@pytest.mark.parametrize("factor", [1e-3, 0.03, 0.1, 0.3, 1.0])
def test_an_axis_has_more_than_one_tick(kind, factor, need):
    need("matplotlib")
    for axis_of in (outline_axis, step_axis):
        for scale in ("auto", "linear", "log"):
            known = [fasthist.histogram(NORMAL * 1e-5), fasthist.histogram(NORMAL * 1e-5 * factor)]
            axis = axis_of(known, scale)
            ticks = axis.ticks()
            assert 2 <= len(ticks) <= 7
            assert all(axis.low <= tick <= axis.high for tick in ticks)
            assert len({label(tick) for tick in ticks}) == len(ticks)
            far = np.diff(axis.forward(ticks)).min() / axis.length
            assert far > 0.08
    runs = {"a": {"w": series_of(NORMAL * 1e-5, NORMAL * 1e-5 * factor)}}
    ax = figures.draw(panels.lay_out(runs, kind), LIGHT).axes[0]
    low, high = ax.get_xlim() if kind in ("ridge", "overlay") else ax.get_ylim()
    values = ax.xaxis if kind in ("ridge", "overlay") else ax.yaxis
    assert sum(low <= tick <= high for tick in values.get_majorticklocs()) >= 2


def test_a_label_is_short_and_a_number():
    texts = [label(x) for x in (0.0, 0.001, 250, 9999, 1e4, -1e-4, 2.5e-310, 1e308, -20)]
    assert texts == ["0", "0.001", "250", "9999", "1e4", "−1e−4", "2.5e−310", "1e308", "−20"]  # noqa: RUF001
    assert label(1234567.0, 3) == "1.23e6"


@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_one_sign_over_decades_get_a_logarithmic_axis(sign, need):
    need("matplotlib")
    values = sign * np.exp(3 * BIG)
    histogram = fasthist.histogram(values)
    axis = outline_axis([histogram])
    # Nine tenths of the values take most of the axis, not a bar of it.
    ends = axis.forward(np.quantile(values, [0.05, 0.95]))
    assert np.ptp(ends) > 0.3 * axis.length
    found = density.density_of(histogram, axis)
    high = found.heights > found.peak / 2
    assert high.sum() >= 5
    middle = sign * np.exp(0)
    assert found.edges[:-1][high][0] < middle < found.edges[1:][high][-1]
    ax = figures.plot_histogram(histogram, figure_of(need).add_subplot())
    assert ax.get_xscale() in ("log", "symlog")
    colour = density.heat_of([histogram], step_axis([histogram]))
    brightest = colour[0][np.nanargmax(colour[1][:, 0])]
    assert 0.02 < abs(brightest) < 50
    # A few zeros, or a value of the other sign, do not change it.
    with_zeros = outline_axis([fasthist.histogram(np.append(values, [0.0, 0.0, -sign]))])
    assert axis.threshold / 10 <= with_zeros.threshold <= 10 * axis.threshold < 0.1
    assert outline_axis([histogram], "linear").threshold is None
    assert outline_axis([fasthist.histogram(BIG)], "log").threshold <= 0.01
    for data in (BIG, np.exp(BIG / 2), np.abs(BIG)):
        assert outline_axis([fasthist.histogram(data)]).threshold is None


def test_the_scale_is_an_option_everywhere(need, history, log_dir, tmp_path):
    need("matplotlib")
    need("plotly")
    histogram = fasthist.histogram(NORMAL)
    assert histogram.plot(figure_of(need).add_subplot(), scale="log").get_xscale() == "symlog"
    assert history["a"].plot(ax=figure_of(need).add_subplot(), scale="log").get_xscale() == "symlog"
    scales = [ax.get_xscale() for ax in history.plot(scale="log").axes]
    assert scales == ["symlog", "symlog"]
    positive = fasthist.histogram(NORMAL**2 + 1).plot(figure_of(need).add_subplot(), scale="log")
    assert positive.get_xscale() == "log"
    for call in (histogram.plot, history["a"].plot, history.plot):
        with pytest.raises(ArgumentError, match="scale='cubic' is unknown"):
            call(scale="cubic")
    sizes = {}
    for scale in ("linear", "log"):
        result = plot(log_dir, "-o", tmp_path / f"{scale}.svg", "--tag", "w/", "--scale", scale)
        assert result.exit_code == 0
        sizes[scale] = (tmp_path / f"{scale}.svg").read_text("utf-8")
    assert "0.01" in sizes["log"]
    assert sizes["log"] != sizes["linear"]
    assert plot(log_dir, "-o", tmp_path / "a.svg", "--scale", "cubic").exit_code == 2


@pytest.mark.parametrize(
    ("steps", "ticks"),
    [
        (range(0, 1000, 20), ["0", "200", "400", "600", "800"]),
        (range(0, 1001, 20), ["0", "200", "400", "600", "800", "1000"]),
        (range(3), ["0", "1", "2"]),
        (range(7, 5000, 100), ["1000", "2000", "3000", "4000"]),
        ([1, 2, 5, 10, 100, 1000, 10_000, 20_000], ["2", "10", "1000", "20000"]),
    ],
)
def test_the_ticks_of_a_ridge_are_round_steps_at_their_places(steps, ticks, need):
    need("matplotlib")
    need("plotly")
    series = series_of(*[NORMAL[:50]] * len(steps), steps=steps)
    ax = figures.plot_series(series, "ridge", figure_of(need).add_subplot())
    labels = [text.get_text() for text in ax.get_yticklabels()]
    (figure,) = pages_of(panels.lay_out({"a": {"w": series}}, "ridge"))
    assert labels == list(figure.layout.yaxis.ticktext) == ticks
    assert list(figure.layout.yaxis.tickvals) == ax.get_yticks().tolist()
    low, high = ax.get_ylim()
    assert figure.layout.yaxis.range == (low, high)
    rows = ax.get_yticks()
    assert (np.diff(rows) > 0).all()
    if len(steps) > 21:  # between the rows of the steps around it
        expected = (np.array(ticks, dtype=float) - steps[0]) / (steps[-1] - steps[0]) * 20
        np.testing.assert_allclose(rows, expected, atol=0.6)


def test_titles_have_the_room_that_there_is(need):
    need("matplotlib")
    tag = "encoder.layers.11.self_attn.q_proj.weight/grad_norm"
    alone = figures.draw(panels.lay_out({"a": {tag: series_of(NORMAL)}}, "ridge"), LIGHT)
    assert alone.axes[0].get_title(loc="left") == tag
    many = {tag + str(i): series_of(NORMAL[:9]) for i in range(6)}
    small = figures.draw(panels.lay_out({"a": many}, "ridge"), LIGHT)
    assert "…" in small.axes[0].get_title(loc="left")


@pytest.mark.parametrize("kind", panels.KINDS)
def test_the_run_is_named(kind, need, history, log_dir):
    need("matplotlib")
    need("plotly")
    figure = history.plot(kind)
    assert figure.get_suptitle() == Path(history.path).name
    runs = fasthist.History.open_all(log_dir)
    layout = panels.lay_out({"<one>": runs["one"]}, kind)
    assert figures.draw(layout, LIGHT).get_suptitle() == "<one>"
    assert "<h1>&lt;one&gt;</h1>" in page.page(layout, LIGHT)
    both = panels.lay_out({"<one>": runs["one"], "two": runs["two"]}, kind, "w/")
    figure = figures.draw(both, LIGHT)
    text = page.page(both, LIGHT)
    if kind == "overlay":
        assert [entry.get_text() for entry in figure.legends[0].texts] == ["<one>", "two"]
        assert (
            len(re.findall(r'<button aria-pressed="true" value="(?:&lt;one&gt;|two)">', text)) == 2
        )
    else:
        notes = [ax.get_title(loc="right").strip() for ax in figure.axes]
        assert [note for note in notes if note] == ["<one>", "two"]
        assert re.findall(r"<small>(.*?)</small>", text) == ["&lt;one&gt;", "two"]


def test_more_pictures_are_an_option(need):
    need("matplotlib")
    runs = {"a": {f"t{i}": series_of(NORMAL[:9]) for i in range(30)}}
    for most, count in ((24, 24), (30, 30), (100, 30), (1, 1), (5, 5)):
        layout = panels.lay_out(runs, "ridge", max_panels=most)
        assert (len(layout.panels), layout.left_out) == (count, 30 - count)
    assert len(figures.draw(panels.lay_out(runs, "ridge", max_panels=30), LIGHT).axes) == 30
    with pytest.raises(ArgumentError, match="max_panels=0 leaves nothing to draw"):
        panels.lay_out(runs, "ridge", max_panels=0)


def test_percentiles_are_named_in_both(need):
    need("matplotlib")
    need("plotly")
    series = series_of(NORMAL, NORMAL)
    ax = figures.plot_series(series, "percentiles", figure_of(need).add_subplot())
    (figure,) = pages_of(panels.lay_out({"a": {"w": series}}, "percentiles"))
    texts = [text.get_text() for text in ax.texts]
    assert {"0%", "50%", "100%"} <= set(texts)
    assert [note.text for note in figure.layout.annotations] == texts
    low, high = ax.get_ylim()
    for note, text in zip(figure.layout.annotations, ax.texts, strict=True):
        assert note.y == pytest.approx(text.xy[1])
        value = low + note.y * (high - low)
        assert (value >= NORMAL).mean() == pytest.approx(float(note.text[:-1]) / 100, abs=0.02)


@pytest.mark.parametrize("kind", panels.KINDS)
def test_titles_of_a_page_do_not_overlap_in_a_narrow_window(kind, log_dir, need, tmp_path):
    need("plotly")
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    runs = {
        f"{name}/with/a/rather/long/name": history
        for name, history in fasthist.History.open_all(log_dir).items()
    }
    script = """<script>onload = () => setTimeout(() => {
        const parts = [...document.querySelectorAll("h1, h2, nav button, .plotly-graph-div")];
        const boxes = parts.map(part => part.getBoundingClientRect());
        const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
        const clashes = boxes.filter((a, i) => boxes.some((b, j) => i < j && !apart(a, b))).length;
        const beyond = boxes.filter(a => a.left < 0 || a.right > innerWidth).length;
        const columns = new Set(parts.filter(part => part.tagName === "H2").map(part => part.offsetLeft)).size;
        document.querySelector("nav button")?.click();
        const traces = [...document.querySelectorAll(".plotly-graph-div")].flatMap(picture => picture.data);
        const hidden = new Set(traces.filter(trace => trace.visible === false).map(trace => trace.name));
        const taken = [...document.querySelectorAll(".modebar-btn")].filter(button => button.onclick).length;  // plotly's
        document.title = JSON.stringify([boxes.length, clashes, beyond, columns, [...hidden], taken]);
    }, 500)</script>"""
    text = page.page(panels.lay_out(runs, kind), LIGHT)
    (tmp_path / "a.html").write_text(text + script, "utf-8")
    for width, columns in ((500, 1), (1600, 2 if kind == "overlay" else 4)):
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--dump-dom",
        ]
        arguments += [
            f"--window-size={width},900",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=20000",
        ]
        done = subprocess.run(
            [chromium, *arguments, (tmp_path / "a.html").as_uri()], capture_output=True, text=True, check=True, timeout=100
        )  # fmt: skip
        count, *told = json.loads(re.search(r"<title>(\[.*?)</title>", done.stdout)[1])
        assert count >= 8
        hidden = [next(iter(runs))] if kind == "overlay" else []
        assert told == [0, 0, columns, hidden, 0]


# ---- pyplot's figures


def test_pyplot_shows_what_is_drawn_without_axes(need, history):
    plt = need("matplotlib.pyplot")
    histogram = fasthist.histogram(NORMAL)
    assert plt.get_fignums() == []
    ax = histogram.plot()
    assert (plt.gca(), plt.get_fignums()) == (ax, [1])
    assert ax.patches
    _, (left, right) = plt.subplots(1, 2)
    assert plt.gca() is right
    plt.sca(left)
    assert histogram.plot() is left
    assert not right.has_data()
    for kind in SERIES_KINDS:
        plt.figure()
        assert history["a"].plot(kind) is plt.gca()
        assert plt.gca().has_data()
    numbers = plt.get_fignums()
    assert histogram.plot(right) is right
    assert history["a"].plot(ax=right) is right
    assert plt.get_fignums() == numbers
    figure = history.plot()
    assert plt.gcf() is figure
    assert len(plt.get_fignums()) == len(numbers) + 1
    dark = histogram.plot(dark=True)
    assert plt.gcf() is dark.figure
    assert need("matplotlib.colors").to_hex(dark.get_facecolor()) == DARK.ground


def test_histograms_drawn_into_the_same_axes_all_stay_in_sight(need):
    plt = need("matplotlib.pyplot")
    narrow = fasthist.histogram(NORMAL / 10).plot()
    first = narrow.get_xlim(), narrow.get_ylim()
    wide = fasthist.histogram(NORMAL + 30).plot()
    assert wide is narrow is plt.gca()
    (left, right), (_, top) = wide.get_xlim(), wide.get_ylim()
    assert left <= first[0][0] < first[0][1] < (NORMAL + 30).max() <= right
    assert top == first[1][1]
    colours = {patch.get_edgecolor() for patch in wide.patches[1::2]}
    assert len(colours) == 2
    for first, then in ((np.exp(3 * BIG), BIG), (BIG, np.exp(3 * BIG))):
        ax = fasthist.histogram(first).plot(figure_of(need).add_subplot())
        scale = ax.get_xscale()
        fasthist.histogram(then).plot(ax)
        assert ax.get_xscale() in ({"linear"} if scale == "linear" else {"log", "symlog"})
        for patch in ax.patches[::2]:  # both by the same unit
            heights, edges, _ = patch.get_data()
            transform = ax.xaxis.get_transform()
            unit = getattr(transform, "linthresh", 1.0)
            areas = heights * np.diff(transform.transform(edges)) / unit
            assert areas.sum() == pytest.approx(1, abs=0.02)


FIRST_CELL = """
%matplotlib inline
import fasthist, numpy as np
values = np.random.default_rng(1).normal(size=500)
with fasthist.SummaryWriter("run") as writer:
    for step in range(3):
        writer.add_histogram("w", values * 1e-9, step)
h, history = fasthist.histogram(values), fasthist.History.open("run")
"""
CELLS = [
    FIRST_CELL,
    "h.plot()",
    "h.plot(); history['w'].plot('heatmap')\nNone",
    "history.plot()",
    "history.plot();",
    "figure = history.plot()\nprint('drawn')",
    "figure",
    "h",
    "history",
    "fasthist.histograms({'a': values, '<b>': values})",
    "findings = fasthist.diagnose(history)\nassert isinstance(findings, list)\nfindings",
]


def test_a_notebook_shows_each_picture_once(need, tmp_path):
    need("matplotlib")
    need("matplotlib_inline")
    need("ipykernel")
    need("nbclient")
    code = f"""
import json, nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in {CELLS!r}])
nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
print(json.dumps([[sorted(output.get("data", {{}})) for output in cell.outputs] for cell in notebook.cells]))
"""
    env = {name: text for name, text in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [
        list(itertools.chain(*outputs)) for outputs in json.loads(done.stdout.splitlines()[-1])
    ]
    assert [kinds.count("image/png") for kinds in shown] == [0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert [kinds.count("text/html") for kinds in shown] == [0] * 7 + [1] * 4


# ---- tables in a notebook


def cells_of(text):
    """Give the texts of a table's body, row by row; the HTML has to be well-formed."""
    root = ET.fromstring(f"<p>{text}</p>")
    return [["".join(cell.itertext()) for cell in row] for row in root.iterfind(".//tbody/tr")]


def test_a_table_of_histograms():
    tree = {
        "w": [1.0, 2.0, 6.0],
        "<script>alert(1)</script>": np.full(3, np.nan),
        "z": np.zeros(1500),
    }
    text = fasthist.histograms(tree)._repr_html_()
    assert cells_of(text) == [
        ["w", "3", "1", "6", "3", "2.16", "", ""],
        ["<script>alert(1)</script>", "0", "", "", "", "", "3", ""],
        ["z", "1,500", "0", "0", "0", "0", "", ""],
    ]
    assert "<script" not in text
    assert text.count("<svg") == 2
    assert "3 histograms" in text


def test_what_histograms_returns_is_a_dict():
    tree = {"a": [1.0], "b": [2.0, 3.0]}
    found = fasthist.histograms(tree)
    plain = {tag: fasthist.histogram(values) for tag, values in tree.items()}
    assert isinstance(found, dict)
    assert list(found) == ["a", "b"]
    assert found == plain
    assert plain == found
    for twin in (pickle.loads(pickle.dumps(found)), copy.copy(found), copy.deepcopy(found)):
        assert type(twin) is type(found)
        assert twin == found
    assert found | {"c": 1} == {**plain, "c": 1}
    assert repr(found) == repr(plain)


def test_a_table_of_a_run(history):
    text = history._repr_html_()
    last = history["a"]
    row = ["3: 0 to 2", "1,000", f"{last.mean[-1]:.4g}", f"{last.std[-1]:.4g}", ""]
    assert cells_of(text) == [["a", *row], ["b", *row]]
    assert text.count("<svg") == 2
    assert f"{Path(history.path).name}: 2 tags" in text


def test_tables_show_a_hundred_rows_and_say_how_many_more(tmp_path):
    with fasthist.SummaryWriter(tmp_path) as writer:
        writer.add_histograms({f"<t{i}>": [1.0, 2.0] for i in range(130)}, 7)
        writer.add_histograms({"nan": [np.nan]}, 8)
    history = fasthist.History.open(tmp_path)
    text = history._repr_html_()
    assert len(cells_of(text)) == text.count("<svg") == 100
    assert cells_of(text)[1][:2] == ["<t1>", "1: 7"]
    assert "and 31 more" in text
    counted = fasthist.histograms({str(i): [1.0] for i in range(101)})
    assert "and 1 more" in counted._repr_html_()
    empty = tmp_path / "empty"
    with fasthist.SummaryWriter(empty) as writer:
        writer.add_scalar("loss", 1.0, 0)
    for nothing in (fasthist.histograms({}), fasthist.History.open(empty)):
        assert cells_of(nothing._repr_html_()) == []


def test_a_table_of_findings(tmp_path):
    with fasthist.SummaryWriter(tmp_path) as writer:
        for step in range(10):
            writer.add_histogram("gradients/<fc1>.weight", np.array([1e-9, -2e-9, 3e-9]), step)
    findings = fasthist.diagnose(fasthist.History.open(tmp_path))
    assert isinstance(findings, list)
    assert findings
    text = findings._repr_html_()
    assert "<fc1>" not in text
    expected = [
        [one.severity, one.rule, one.tag, "0 to 9", one.message, one.remedy] for one in findings
    ]
    assert cells_of(text) == expected
    assert pickle.loads(pickle.dumps(findings)) == list(findings)
    assert "0 findings" in type(findings)()._repr_html_()
