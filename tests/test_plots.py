"""What is drawn: areas are shares, axes hold the values, and files are what their endings say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

import fasthist
from fasthist.cli import main
from fasthist.commands.plot import KINDS
from fasthist.errors import ArgumentError, MissingPackageError
from fasthist.plots import density, drawing, figures, notebook, page, panels
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
        rf"value up to \S+ of all lie beyond, from {re.escape(label(NORMAL.min(), 3))} to 1e6", told
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
        ({"kind": "pie"}, "kind 'pie' is no picture"),
        ({"kind": "ridge", "step": 3}, "step=3 has no meaning for kind 'ridge'"),
        ({"kind": "ridge", "tag": "("}, r"tag '\(' is no regular expression"),
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
    assert [line.name for line in lines] == ["0%", "7%", "16%", "31%", "50%", "69%", "84%", "93%", "100%"]
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
    assert KINDS == panels.KINDS


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{tmp}/nowhere", "-o", "{tmp}/a.png"], "nowhere is not there"),
        (["{tmp}", "-o", "{tmp}/a.png"], "holds no event files"),
        (["{runs}", "-o", "{tmp}/a.gif"], "a.gif: its ending tells no format"),
        (["{runs}", "-o", "{tmp}/x/a.png"], "there is no directory"),
        (["{runs}", "-o", "{tmp}/a.png", "--tag", "zz"], "no tag contains 'zz'"),
        (["{runs}", "-o", "{tmp}/a.png", "--tag", "["], "is no regular expression"),
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
