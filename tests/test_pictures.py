"""What TensorBoard draws of a written tensor is what is in it: both tabs, both loaders, one step and many."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import event_files
import fidelity
import numpy as np
import pytest
from distributions import DISTRIBUTIONS, STEPS, drifting, make
from numpy.typing import ArrayLike, NDArray
from pictures import BINS, PLACE, Verdict, axis, buckets, drawn, finite_sorted, judge
from results import newest
from tensorboard.plugins.distribution.compressor import compress_histogram
from tensorboard_server import Server, serve

import fasthist

LIMIT = 0.02
MAX_BUCKETS = 266  # 256 levels of int8, and rows before the few that hold much
# Three float64 for a bucket, and what an event holds besides: tag, metadata, moments, counts of NaN and infinities.
MAX_BYTES = 24 * MAX_BUCKETS + 512

Floats = NDArray[np.float64]

_RNG = np.random.default_rng(0)
CONSTANTS: dict[str, list[Any]] = {
    **{
        f"always {value}": [np.full(9, value)] * 3
        for value in (0.0, 3.0, -3.0, -100.0, 1e30, 1e-320)
    },
    **{f"the end at {value}": [np.full(9, value)] * 3 for value in (-1.7e308, -1e39, 1e39)},
    "ones, then trained": [np.ones(500), *(_RNG.normal(1, 1e-3 * step, 500) for step in (1, 2, 3))],
    "zeros, then trained": [np.zeros(500), *(_RNG.normal(0, 1e-6, 500) for _ in range(3))],
    "trained, then dead": [*(_RNG.normal(0, 1, 500) for _ in range(3)), np.zeros(500)],
    "dead at the end of the axis": [-_RNG.exponential(1, 500), np.zeros(500), np.zeros(500)],
    "a number that grows": [[0.37 + 0.1 * step] for step in range(20)],
    "a number that falls": [[0.37 - 0.0173 * step] for step in range(20)],
    "far below, and falling": [[-1e4 - 10.0 * step] for step in range(20)],
}
"""Steps of equal values, alone and beside others."""

each_distribution = pytest.mark.parametrize("name", DISTRIBUTIONS)
each_loader = pytest.mark.parametrize("load_fast", [True, False], ids=["fast", "python"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write all distributions: each once in one run, with all its steps in another."""
    folder = tmp_path_factory.mktemp("pictures")
    with fasthist.SummaryWriter(folder / "single") as writer:
        for name in DISTRIBUTIONS:
            writer.add_histogram(name, make(name), 0)
    with fasthist.SummaryWriter(folder / "drifting") as writer:
        for name in DISTRIBUTIONS:
            for step, values in enumerate(drifting(name)):
                writer.add_histogram(name, values, step)
    with fasthist.SummaryWriter(folder / "constants") as writer:
        for name, steps in CONSTANTS.items():
            for step, values in enumerate(steps):
                writer.add_histogram(name, values, step)
    return folder


@pytest.fixture(scope="module")
def servers(written: Path) -> Iterator[dict[bool, Server]]:
    """Serve them with both loaders, which take seconds to start: side by side."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        started = pool.map(lambda fast: stack.enter_context(serve(written, fast)), [True, False])
        yield dict(zip([True, False], started, strict=True))


@functools.lru_cache(maxsize=1)
def steps_of(run: str, name: str) -> list[NDArray[Any]]:
    """Draw again what was written; for both loaders in turn."""
    if run == "constants":
        return [np.asarray(values) for values in CONSTANTS[name]]
    return drifting(name) if run == "drifting" else [make(name)]


def seen(server: Server, run: str, name: str) -> Verdict:
    steps = steps_of(run, name)
    histograms = server.histograms(run, name, steps=len(steps))
    lines = server.get(
        "/data/plugin/distributions/distributions",
        until=lambda found: len(found) >= len(steps),
        run=run,
        tag=name,
    )
    return judge(histograms, lines, steps)


def check(verdict: Verdict, name: str) -> None:
    if name == "range overflow":
        assert np.isnan([verdict.bins, verdict.lines]).all(), "TensorBoard cannot draw it"
    else:
        assert verdict.bins <= LIMIT
        assert verdict.lines <= LIMIT
    # The page's own axis ends before a constant below -10: this one has room on its right.
    assert verdict.ends <= (2.0**-5 if name.startswith("constant -") else PLACE)
    assert verdict.lost == 0
    assert verdict.buckets <= MAX_BUCKETS


# -- what fasthist writes -------------------------------------------------------------------------


@each_loader
@each_distribution
def test_one_step(servers: dict[bool, Server], name: str, load_fast: bool) -> None:
    check(seen(servers[load_fast], "single", name), name)


@each_loader
@each_distribution
def test_drifting_steps_on_one_axis(
    servers: dict[bool, Server], name: str, load_fast: bool
) -> None:
    check(seen(servers[load_fast], "drifting", name), name)


@each_loader
@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_spikes(servers: dict[bool, Server], name: str, load_fast: bool) -> None:
    verdict = seen(servers[load_fast], "constants", name)
    assert verdict.bins <= LIMIT
    assert verdict.lines <= LIMIT
    # A first value below -5 has room on its right: 2**-8 of it.
    assert verdict.ends <= (1e4 * 2.0**-8 / 190 + PLACE if name.startswith("far") else 2.0**-5)
    assert verdict.lost == 0


def test_extremes_in_the_files_are_the_datas_own(written: Path) -> None:
    for run in ("constants", "single"):
        for _, tag, step, _, histogram in fasthist.read(written / run):
            if run == "constants":
                values = finite_sorted(CONSTANTS[tag][step])
            else:
                values = finite_sorted(make(tag))
            assert (histogram.min, histogram.max) == (values[0], values[-1])
            assert histogram.zero_count == (values == 0).sum()
            if np.abs(values).max() < 1e150:  # else squares overflow
                assert histogram.mean == pytest.approx(
                    values.mean(), rel=1e-9, abs=1e-9 * values.std()
                )


def test_events_are_small(written: Path) -> None:
    sizes = {
        e.summary.value[0].tag: e.ByteSize() for e in event_files.all_events(written / "single")
    }
    assert sizes.keys() == DISTRIBUTIONS.keys()
    assert {tag: size for tag, size in sizes.items() if size > MAX_BYTES} == {}


# -- the measure itself, which has to see what is wrong -------------------------------------------


def uniform(values: ArrayLike, count: int) -> Floats:
    """Count in equal buckets, as tf.summary.histogram does."""
    counts, edges = np.histogram(values, count)
    return rows_of(edges, counts)


def rows_of(edges: ArrayLike, counts: ArrayLike) -> Floats:
    edges = np.asarray(edges, float)
    return np.column_stack((edges[:-1], edges[1:], counts))


def judged(rows: list[ArrayLike], steps: list[ArrayLike]) -> Verdict:
    """Judge buckets as if TensorBoard's two routes had given them."""
    found = [np.asarray(step, float).tolist() for step in rows]
    return judge(
        [[0.0, step, buckets] for step, buckets in enumerate(found)],
        [[0.0, step, compress_histogram(buckets)] for step, buckets in enumerate(found)],
        steps,
    )


NORMALS = np.random.default_rng(0).normal(0, 1, 10_000)


def test_true_pictures_pass() -> None:
    steps = [NORMALS, NORMALS * 2 + 1]
    verdict = judged([uniform(values, 240) for values in steps], steps)
    assert verdict.bins < 0.005
    assert verdict.lines < 0.005
    assert (verdict.ends, verdict.lost, verdict.buckets) == (0, 0, 240)


def test_mass_in_a_wrong_bin() -> None:
    rows = uniform(NORMALS, BINS)
    assert judged([rows], [NORMALS]).bins < 1e-12
    rows[15, 2] -= 500
    rows[3, 2] += 500
    assert judged([rows], [NORMALS]).bins == pytest.approx(0.05)


def test_lost_and_invented_mass() -> None:
    rows = uniform(NORMALS, BINS)
    for factor in (0.5, 1.5):
        verdict = judged([rows * (1, 1, factor)], [NORMALS])
        assert verdict.bins == pytest.approx(0.5)
        assert verdict.lost == 5000


def test_equal_buckets_draw_wrong_lines_beside_outliers() -> None:
    values = np.append(NORMALS, (-300, 450))
    verdict = judged([uniform(values, 30)], [values])
    assert verdict.bins < 1e-12
    assert verdict.lines > 0.3


def test_wide_buckets_draw_narrow_data_in_wrong_bins() -> None:
    values = 1 + 0.01 * NORMALS
    verdict = judged([rows_of([values.min(), 1.009, values.max()], [8159, 1841])], [values])
    assert verdict.bins > 0.3
    assert verdict.lines > 0.2
    assert verdict.ends == 0


def test_float32_edges_of_narrow_data() -> None:
    values = 1e6 + 0.01 * NORMALS
    rows = uniform(values, 240)
    assert judged([rows], [values]).bins < 1e-3
    rows[:, :2] = rows[:, :2].astype(np.float32)
    verdict = judged([rows], [values])
    assert verdict.bins > 0.1
    assert verdict.ends > 0.01


@pytest.mark.parametrize(
    ("left", "right", "wrong"),
    [(15 - 2e-9, 15, 0), (15, 15 + 2e-9, 0), (15, 17, 0.4), (13, 15, 0.4)],
)
def test_many_equal_values_at_a_border(left: float, right: float, wrong: float) -> None:
    values = np.repeat([0.0, 15.0, 30.0], [10, 80, 10])
    edges = [0, 1e-9, left, right, 30 - 1e-9, 30]
    verdict = judged([rows_of(edges, [10, 0, 80, 0, 10])], [values])
    assert verdict.bins == pytest.approx(wrong)
    assert (verdict.lines <= LIMIT) == (wrong == 0)


def test_lines_do_not_know_gaps() -> None:
    # A bucket begins for them where the one before it ended.
    values = np.repeat([0.0, 15.0, 30.0], [10, 80, 10])
    rows = [[0, 1e-9, 10], [15, 15 + 2e-9, 80], [30 - 1e-9, 30, 10]]
    verdict = judged([rows], [values])
    assert verdict.bins < 1e-12
    assert verdict.lines > 0.5


@pytest.mark.parametrize(
    ("value", "row", "bins", "rest"),
    [
        (3.25, (3.25, 3.25), True, True),
        (3.25, (3.25, 3.25 + 1e-10), False, True),  # a block that fills the axis
        (3.25, (2.75, 3.75), False, False),  # a box around it hides where it is
        (3.25, (3.5, 3.75), False, False),
        (-20, (-20, -20), False, True),  # the page turns its axis round
        (-20, (-20 - 1e-10, -20), False, True),
        (0, (0, 0), True, True),
        (0, (0, 1e-12), False, True),
    ],
)
def test_a_constant(value: float, row: tuple[float, float], bins: bool, rest: bool) -> None:
    verdict = judged([[[*row, 7]]], [np.full(7, value)])
    assert (verdict.bins <= LIMIT) == bins
    assert (verdict.lines <= LIMIT) == rest
    assert (verdict.ends <= PLACE) == rest


def test_a_range_beyond_float64_cannot_be_drawn() -> None:
    values = np.linspace(-1, 1, 1000) * 1.7e308
    with np.errstate(over="ignore"):
        verdict = judged([rows_of([-1.7e308, 0, 1, 1.7e308], [500, 0, 500])], [values])
    assert np.isnan([verdict.bins, verdict.lines]).all()
    assert (verdict.ends, verdict.lost, verdict.buckets) == (0, 0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_edge_that_is_not_finite_blanks_all_steps(bad: float) -> None:
    rows = [uniform(NORMALS, 240), uniform(NORMALS, 240)]
    rows[1][3, 0] = bad
    assert judged(rows, [NORMALS, NORMALS]).bins == 1


def test_buckets_as_json_and_values_that_are_not_finite() -> None:
    assert (
        str(buckets([["NaN", 1.0, 2.0], [1.0, "Infinity", 3.0]]))
        == "[[nan  1.  2.]\n [ 1. inf  3.]]"
    )
    assert buckets([]).shape == (0, 3)
    assert finite_sorted([np.nan, 2, np.inf, 1, -np.inf]).tolist() == [1, 2]


def test_what_the_page_draws() -> None:
    # Worked out by hand: bins of width 1, a bucket that sticks out, one across three bins, one without width in a
    # bin, one at the right end, and a backwards one as the fast loader gives for TensorFlow's.
    rows = [[-2, 1, 8], [1.5, 3.5, 8], [7.5, 7.5, 5], [29, 30, 2], [30, 30, 1], [40, 30, 0]]
    heights = np.zeros(BINS)
    heights[[0, 1, 2, 3, 7, 29]] = [8, 2, 4, 2, 5, 3]
    np.testing.assert_allclose(drawn(np.array(rows, float), 0, 30), heights)
    # At the border of two bins neither has it.
    assert not drawn(np.array([[0, 1, 0], [7, 7, 5]], float), 0, 30).any()
    assert drawn(np.empty((0, 3)), 0, 30).tolist() == [0] * BINS


def test_the_axis() -> None:
    steps = [np.array([[0, 1, 1], [1, 4, 0]]), np.array([[-1, 2, 1]]), np.empty((0, 3))]
    assert axis(steps) == (-1, 4)
    assert axis([np.array([[11, 11, 3]])]) == pytest.approx((9, 13.1))
    assert axis([np.array([[-11, -11, 3]])]) == pytest.approx((-11, -11.1))
    assert axis([np.empty((0, 3))]) == (-1, 1)


def test_missing_steps_are_an_error() -> None:
    with pytest.raises(AssertionError):
        judged([uniform(NORMALS, 30)], [NORMALS, NORMALS])


def test_distributions_drift_and_are_the_same_every_time() -> None:
    assert len(DISTRIBUTIONS) >= 28
    for name, found in DISTRIBUTIONS.items():
        first, again, last = (make(name, 100, step) for step in (0, 0, STEPS - 1))
        assert first.dtype == found.dtype
        assert first.tobytes() == again.tobytes()
        still = name in ("constant 0", "constant -100, unmoved")
        assert (first.tobytes() == last.tobytes()) == still, name


# -- the comparison with other libraries ----------------------------------------------------------


def result_of(known: dict[str, Any]) -> dict[str, Any]:
    """Make a result of benchmarks/fidelity.py with one distribution."""
    return {
        "date": "2026-11-24T01:02:03Z",
        "commit": "abc",
        "dirty": False,
        "versions": {"numpy": "2"},
        "only": "fidelity",
        "tiny": 0,
        **{series: {"layernorm": known} for series in fidelity.SERIES},
    }


def test_a_table_of_results() -> None:
    good = {"bins": 0.0012, "lines": 0.0}
    known = {
        "fasthist": {"fast": good, "python": {"bins": 0.001, "lines": 0.004}, "bytes": 3000},
        "torch": {"fast": good, "python": {"bins": 0.0201, "lines": 0.5}, "bytes": 3000},
        "undrawable": {
            "fast": {"bins": None, "lines": None},
            "python": {"bins": None, "lines": None},
        },
        "raising": {"failed": "ValueError: The histogram is empty, please file a bug report."},
        "unseen": {"fast": good, "python": {"failed": "0 of 1 steps are served"}},
    }
    text = fidelity.table(result_of(known))
    assert "| values | fasthist | torch | undrawable | raising | unseen |" in text
    row = "| layernorm | 0.1 / 0.4 | **2.0** / **50.0** | n/a / n/a | n/a (raised ValueError) "
    assert text.count(row + "| n/a (0 of 1 steps are served) |") == 2


def test_results_are_kept_beside_those_of_speed(tmp_path: Path) -> None:
    paths = [fidelity.save(result_of({}), tmp_path / "fidelity") for _ in range(2)]
    assert [path.name for path in paths] == [
        "20261124T010203Z_abc.json",
        "20261124T010203Z_abc_2.json",
    ]
    assert all(path.with_suffix(".md").is_file() for path in paths)
    assert newest(tmp_path) == []


def test_what_a_library_cannot_write_is_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def picky(folder: Path) -> Iterator[fidelity.Add]:
        def add(tag: str, values: NDArray[Any], step: int) -> None:
            if tag == "bool":
                message = "no bool\nand no more"
                raise TypeError(message)
            writer.add_histogram(tag, values, step)

        with fasthist.SummaryWriter(folder) as writer:
            yield add

    monkeypatch.setitem(fidelity.WRITERS, "picky", picky)
    known = fidelity.write(tmp_path, "picky", "single", ["bool", "one element"])
    assert known["bool"] == {"failed": "TypeError: no bool"}
    assert 50 < known["one element"]["bytes"] < 500
