"""A histogram in other tools' classes: the real ones, holding what an independent count gives."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest

import fasthist
from fasthist.errors import ArgumentError, BucketsError
from fasthist.pending import PendingHistogram

EDGES = [-2.0, -0.5, 0.0, 0.25, 1.5]


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(0.1, 1.0, 5000).astype(np.float32)


@pytest.fixture
def quiet():
    """Let the packages warn of what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def counted(values, edges):
    """Count in half-open buckets; the last holds its right edge."""
    return np.histogram(values.astype(np.float64), edges)[0]


def follows(values, counts, edges):
    """Say whether counts follow the values: within 2 % of them at every edge."""
    below = np.concatenate(([0], np.cumsum(counts)))
    ordered = np.sort(values.astype(np.float64))
    least = np.searchsorted(ordered, edges, "left") - 0.02 * values.size
    most = np.searchsorted(ordered, edges, "right") + 0.02 * values.size
    return bool(((least <= below) & (below <= most)).all())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_buckets_of_wandb_and_trackio(need, values, package):
    kind = need(package).Histogram
    found = getattr(fasthist.histogram(values), f"to_{package}")()
    assert isinstance(found, kind)
    counts, edges = np.asarray(found.histogram), np.asarray(found.bins)
    assert counts.size <= 512
    assert counts.sum() == values.size
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    assert follows(values, counts, edges)
    assert not follows(values + 1, counts, edges)


# -- what is drawn --------------------------------------------------------------------------------


def shapes(size):
    rng = np.random.default_rng(1)
    normal = rng.normal(size=size)
    return {
        "normal": normal.astype(np.float32),
        "relu": np.maximum(normal, 0).astype(np.float32),
        "zeros": np.zeros(size, np.float32),
        "constant": np.full(size, 3.0, np.float32),
        "far constant": np.full(size, -1e12),
        "90 % zeros": np.where(rng.random(size) < 0.9, 0, normal),
        "200 levels of int8": np.clip(np.rint(normal * 40), -100, 99).astype(np.int8),
        "200 levels as floats": (np.clip(np.rint(normal * 40), -100, 99) * 0.0123).astype("f4"),
        "log-normal": np.exp(2 * normal),
    }


def of_arrays(histogram, edges):
    return np.asarray(histogram, float), np.asarray(edges, float)


def drawn_by_mplhep(h, need):
    axes = need("matplotlib.figure").Figure().add_subplot()
    need("mplhep").histplot(need("hist").Hist(h.to_uhi()), ax=axes)
    heights, edges, _ = axes.patches[0].get_data() if axes.patches else axes.lines[0].get_data()
    return of_arrays(heights, edges)


def drawn_by_mlflow(h, _):
    shares, edges, _ = h.to_mlflow().axes[0].patches[0].get_data()
    return of_arrays(shares * h.num, edges)


def drawn_by_swanlab(h, _):
    options = h.to_swanlab().options
    assert options["series"][0]["barCategoryGap"] == 0
    _, edges = h.to_bars()
    middles = [float(label) for label in options["xAxis"][0]["data"]]
    np.testing.assert_allclose(middles, (edges[1:] + edges[:-1]) / 2, rtol=0.006, atol=1e-9)
    return of_arrays(options["series"][0]["data"], edges)


TOOLS = {
    "wandb": ("wandb", lambda h, _: of_arrays(h.to_wandb().histogram, h.to_wandb().bins)),
    "trackio": (
        "trackio",
        lambda h, _: of_arrays(*(h.to_trackio()._to_dict()[key] for key in ("values", "bins"))),
    ),
    "aim": ("aim", lambda h, _: of_arrays(*h.to_aim().to_np_histogram())),
    "hist and mplhep": ("mplhep", drawn_by_mplhep),
    "mlflow": ("matplotlib.figure", drawn_by_mlflow),
    "swanlab": ("swanlab", drawn_by_swanlab),
}


def misplaced(heights, edges, values):
    """Give the share of the values that is drawn in another bar than the one they are in."""
    return np.abs(heights - counted(values, edges)).sum() / 2 / values.size


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("size", [3000, 400_000])
def test_bars_are_the_data(need, tool, size):
    package, drawn = TOOLS[tool]
    need(package)
    for name, data in shapes(size).items():
        heights, edges = drawn(fasthist.histogram(data), need)
        # These tools draw a count as the height of a bar.
        np.testing.assert_allclose(np.diff(edges), np.ptp(edges) / heights.size, rtol=1e-2)
        low, high = float(data.min()), float(data.max())
        ends = (low, high) if low < high else (low - 0.5, high + 0.5)
        np.testing.assert_allclose((edges[0], edges[-1]), ends, rtol=1e-12)
        assert heights.sum() == pytest.approx(size)
        assert misplaced(heights, edges, data) <= 0.02, name
        assert misplaced(heights[::-1], edges, data + np.ptp(edges) / 3) > 0.02, name
        if (share := (data == 0).mean()) > 0.05:
            bar = int(np.searchsorted(edges, 0, side="right")) - 1
            assert heights[bar] >= share * size, name


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", shapes(2))
def test_comet_draws_what_it_would_have_counted(need, name):
    need("comet_ml")
    from comet_ml.data_structure import Histogram

    data = shapes(5000)[name]
    theirs = Histogram()
    theirs.add(data.astype(np.float64))
    np.testing.assert_array_equal(fasthist.histogram(data).to_comet().counts, theirs.counts)
    other = fasthist.histogram(data, buckets=500).to_comet()
    assert other.counts.sum() == data.size


@pytest.mark.parametrize("buckets", [1, 20, 512])
def test_uniform_buckets_are_bars_as_they_are(values, buckets):
    h = fasthist.histogram(values, buckets=buckets)
    counts, edges = h.to_bars()
    np.testing.assert_array_equal(counts, h.counts)
    np.testing.assert_array_equal(edges, h.buckets.edges)
    assert fasthist.histogram(values, buckets=5000).to_bars()[0].size == 512


def test_bars_of_tensorflows_buckets_and_of_edges(values):
    for buckets in ("tensorflow", EDGES):
        counts, edges = fasthist.histogram(values, buckets=buckets).to_bars(4)
        np.testing.assert_allclose(edges, np.linspace(float(values.min()), float(values.max()), 5))
        assert counts.sum() == values.size
    with pytest.raises(ArgumentError, match="bins=0 leaves no bar"):
        fasthist.histogram(values).to_bars(0)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_wide_histograms_keep_to_the_limit(need, package):
    need(package)
    wide = np.concatenate([s * 10.0 ** np.linspace(-11, 30, 4000) for s in (-1, 1)])
    for buckets in ("auto", "tensorflow", 5000):
        found = getattr(fasthist.histogram(wide, buckets=buckets), f"to_{package}")()
        assert len(found.histogram) <= 512
        assert sum(found.histogram) == wide.size


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("bins", [1, 10, 64, 512])
def test_aim_gets_uniform_bins(need, values, bins):
    aim = need("aim")
    found = fasthist.histogram(values).to_aim(bins)
    assert isinstance(found, aim.Distribution)
    counts, edges = found.to_np_histogram()
    assert counts.dtype == np.int64
    assert counts.size == bins
    assert counts.sum() == values.size
    np.testing.assert_allclose(
        edges, np.linspace(float(values.min()), float(values.max()), bins + 1)
    )
    assert follows(values, counts, edges)
    with pytest.raises(ArgumentError, match="bins=513 is not what Aim takes"):
        fasthist.histogram(values).to_aim(513)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("buckets", ["auto", "tensorflow"])
def test_comet_gets_the_counts_it_would_have_counted(need, values, buckets):
    need("comet_ml")
    from comet_ml.data_structure import Histogram

    some = np.concatenate([values, np.zeros(7), [1e19, -1e19]])
    found = fasthist.histogram(some, buckets=buckets).to_comet()
    assert isinstance(found, Histogram)
    theirs = Histogram()
    theirs.add(some.astype(np.float64))
    np.testing.assert_array_equal(found.counts, theirs.counts)


@pytest.mark.usefixtures("quiet")
def test_comet_loses_nothing_beyond_its_range(need):
    need("comet_ml")
    assert fasthist.histogram([1e25, -1e300, 1e-15, 1.0]).to_comet().counts.sum() == 4
    assert fasthist.histogram([float("nan")]).to_comet().is_empty()


@pytest.mark.parametrize("buckets", ["auto", "tensorflow", 100])
def test_mlflow_gets_a_picture_of_the_shares(need, values, buckets):
    figure_type = need("matplotlib.figure").Figure
    some = np.maximum(values, 0)  # half of them are exactly zero, in a bucket of hardly any width
    figure = fasthist.histogram(some, buckets=buckets).to_mlflow()
    assert isinstance(figure, figure_type)
    shares, edges, _ = figure.axes[0].patches[0].get_data()
    bars = 100 if buckets == 100 else 30
    np.testing.assert_allclose(edges, np.linspace(0, float(some.max()), bars + 1))
    room = 0.02 if buckets != 100 else 1e-3
    assert shares == pytest.approx(counted(some, edges) / some.size, abs=room)
    assert figure.axes[0].get_ylim()[1] < 1
    # values outside the edges are drawn too
    shares, edges, _ = (
        fasthist.histogram(values, buckets=EDGES).to_mlflow().axes[0].patches[0].get_data()
    )
    assert shares.sum() == pytest.approx(1)
    assert (edges[0], edges[-1]) == (values.min(), values.max())


LARGEST = float(np.finfo(np.float64).max)


@pytest.mark.parametrize(
    "extreme",
    [[-LARGEST, 0.0, LARGEST], [LARGEST] * 3, [-LARGEST] * 2, [5e-324, 0.0, 1e-310], [3.0], [0.0]],
    ids=str,
)
def test_the_ends_of_float64_stop_nobody(need, extreme):
    aim = need("aim")
    need("matplotlib")
    found = fasthist.histogram(extreme)
    counts, edges = found.to_aim().to_np_histogram()
    assert counts.min() >= 0
    assert counts.sum() == len(extreme)
    assert np.isfinite(edges).all()
    if len(extreme) == 3 and extreme[0] < 0:
        assert (counts[0], counts[-1]) == (1, 1)
    assert isinstance(found.to_aim(1), aim.Distribution)
    figure = found.to_mlflow()
    figure.savefig(io.BytesIO())
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(1)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("method", ["wandb", "trackio", "aim", "comet", "mlflow", "swanlab", "uhi"])
def test_a_histogram_on_its_way_is_waited_for(need, values, method):
    packages = {"mlflow": "matplotlib", "comet": "comet_ml", "uhi": "numpy"}
    need(packages.get(method, method))
    pending = PendingHistogram(lambda _: fasthist.histogram(values), 0)
    assert getattr(pending, f"to_{method}")() is not None
    assert type(pending) is fasthist.Histogram
    assert pending.num == values.size


def test_pictures_leave_the_users_figures_alone(need):
    need("matplotlib")
    code = "import fasthist, sys; fasthist.histogram([1.0, 2.0]).to_mlflow()\nprint('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_uhi_is_what_its_protocol_says(need, values):
    plottable = need("uhi.typing.plottable")
    found = fasthist.histogram(values, buckets=EDGES).to_uhi()
    assert isinstance(found, plottable.PlottableHistogram)
    (axis,) = found.axes
    assert isinstance(axis, plottable.PlottableAxisGeneric)
    assert isinstance(axis.traits, plottable.PlottableTraits)
    assert list(axis) == list(itertools.pairwise(EDGES))
    assert axis[-1] == (0.25, 1.5)
    assert axis == fasthist.histogram(values, buckets=EDGES).to_uhi().axes[0]
    assert axis != fasthist.histogram(values, buckets=3).to_uhi().axes[0]
    np.testing.assert_array_equal(found.values(), counted(values, EDGES))
    np.testing.assert_array_equal(found.variances(), found.counts())
    flow = [(values < EDGES[0]).sum(), *counted(values, EDGES), (values > EDGES[-1]).sum()]
    np.testing.assert_array_equal(found.values(flow=True), flow)


@pytest.mark.parametrize("buckets", ["auto", "tensorflow", 20, EDGES])
def test_hist_and_mplhep_take_it(need, values, buckets):
    hist, mplhep = need("hist"), need("mplhep")
    matplotlib = need("matplotlib.figure")
    ours = fasthist.histogram(values, buckets=buckets).to_uhi()
    found = hist.Hist(ours)
    assert found.sum(flow=True) == values.size
    edges = found.axes[0].edges
    if isinstance(buckets, str):
        assert follows(values, found.values(), edges)
    else:
        np.testing.assert_array_equal(found.values(), counted(values, edges))
    axes = matplotlib.Figure().add_subplot()
    mplhep.histplot(ours, ax=axes)
    drawn = axes.patches[0].get_data() if axes.patches else None
    assert drawn is None or drawn.values.sum() == found.values().sum()
    assert axes.has_data()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("method", ["wandb", "trackio", "aim", "mlflow", "swanlab", "uhi"])
def test_no_finite_value_is_said(need, method):
    packages = {"mlflow": "matplotlib", "uhi": "numpy"}
    need(packages.get(method, method))
    with pytest.raises(BucketsError, match="no finite value"):
        getattr(fasthist.histogram([float("inf")]), f"to_{method}")()


@pytest.mark.parametrize(
    ("call", "module", "package"),
    [
        ("to_wandb", "wandb", "wandb"),
        ("to_trackio", "trackio", "trackio"),
        ("to_aim", "aim", "aim"),
        ("to_comet", "comet_ml.data_structure", "comet_ml"),
        ("to_mlflow", "matplotlib.figure", "matplotlib"),
        ("to_swanlab", "swanlab", "swanlab"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, call, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"Run: pip install {package}$"):
        getattr(fasthist.histogram([1.0, 2.0]), call)()
