"""Outlines: rows that hold what is in them, wherever they come from, and that add up."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import strategies
from distributions import DISTRIBUTIONS, make
from event_files import all_events
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import judge
from tensorboard.plugins.distribution.compressor import compress_histogram

from fasthist import Histogram, SummaryWriter, display, histogram, histograms
from fasthist.buckets import tensorflow_buckets
from fasthist.display import contiguous, survives_float32
from fasthist.errors import ArgumentError, BucketsError
from fasthist.kernels import outlines
from fasthist.outline import MOST_ROWS, ROOM, trace


def traced(values, limit=MOST_ROWS):
    """Trace all finite values, each of which weighs 1, in both forms of the function."""
    values = np.asarray(values).astype(np.float64).ravel()
    points = np.sort(values[np.isfinite(values)])
    reach = np.arange(points.size + 1.0)
    rows, again = np.full((2, ROOM, 3), np.nan)
    found = outlines.trace(points, reach, limit, rows)
    assert trace(points.tolist(), reach.tolist(), limit, again) == found
    assert np.array_equal(rows, again, equal_nan=True)
    return rows[:found]


def check(rows, values, limit=MOST_ROWS):
    """Say that rows are those of values, as exactly as can be said without knowing how they are chosen."""
    values = np.asarray(values).astype(np.float64).ravel()
    values = np.sort(values[np.isfinite(values)])
    left, right, counts = rows.T
    assert np.isfinite(rows).all()
    assert 1 <= len(rows) <= (limit if len(np.unique(values)) > 300 else max(limit, ROOM))
    assert (left < right).all() or (len(rows) == 1 and values[0] == values[-1])
    assert (right[:-1] <= left[1:]).all()
    assert counts.sum() == values.size
    assert (counts >= 0).all()
    assert (left[0], right[-1]) == (values[0], values[-1])
    # A value at an edge may be meant by either row.
    fewest = np.searchsorted(values, right, "left") - np.searchsorted(values, left, "right")
    most = np.searchsorted(values, right, "right") - np.searchsorted(values, left, "left")
    assert (fewest <= counts).all()
    assert (counts <= most).all()


def written(h):
    """Give the rows that a first step is written in."""
    rows = display.constant_rows(h.min, h.num, None) if h.min == h.max else None
    return h.to_rows() if rows is None else rows


def drawn(rows, values):
    """Judge rows as if TensorBoard served them."""
    found = rows.tolist()
    return judge([[0.0, 0, found]], [[0.0, 0, compress_histogram(found)]], [values])


# -- rows from values -----------------------------------------------------------------------------

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-10, 10, width=16),
    st.integers(-3, 3).map(float),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308]),
)


@given(st.lists(numbers, min_size=1, max_size=400), st.sampled_from([1, 2, 3, 10, MOST_ROWS]))
@settings(max_examples=300)
def test_any_values(values, limit):
    check(traced(values, limit), values, limit)


@given(st.integers(0, 2**32), st.integers(300, 3000), st.sampled_from([1, 7, 60, MOST_ROWS]))
@settings(max_examples=40)
def test_many_values(seed, size, limit):
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal() * 10.0 ** rng.integers(-3, 8), 1, size)
    values[rng.random(size) < rng.random()] = rng.choice([0.0, values[0], values.max()])
    values[rng.random(size) < 0.01] *= 10.0 ** rng.integers(0, 300)
    check(traced(values, limit), values, limit)


def test_every_value_has_a_row_where_they_are_few():
    values = np.random.default_rng(0).normal(size=MOST_ROWS)
    rows = traced(np.repeat(values, 3))
    rows = rows[rows[:, 2] > 0]
    assert rows[:, 2].tolist() == [3] * MOST_ROWS
    assert rows[:-1, 0].tolist() == np.sort(values)[:-1].tolist()


@pytest.mark.nojit
@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, -20.0, 1e300, 5e-324, -1e-310, 1.7976931348623157e308]
)
def test_a_constant_is_a_spike_at_its_value(value):
    for sign in (1, -1):
        assert traced([sign * value] * 5).tolist() == [[sign * value, sign * value, 5]]


def test_an_atom_is_hardly_wider_than_its_value():
    normal = np.random.default_rng(0).normal(size=10_000)
    rows = traced(np.concatenate((normal, np.zeros(2000), np.full(1000, normal.max()))))
    left, right, _ = rows.T
    span = np.ptp(normal)
    zeros = rows[(left <= 0) & (right > 0)]
    assert zeros[:, 2].tolist() == [2000]
    assert right[left == 0] < span * 1e-6
    assert rows[-1, 2] == 1001
    assert right[-1] - left[-1] < span * 1e-6


@pytest.mark.nojit
def test_a_gap_is_open():
    rng = np.random.default_rng(0)
    rows = traced(np.concatenate((rng.normal(-1, 0.01, 5000), rng.normal(1000, 0.01, 5000))))
    left, right, counts = rows.T
    assert not counts[(left < 990) & (right > 10)].any()


@pytest.mark.nojit
def test_neighbouring_floats():
    for values in (
        [1.0, np.nextafter(1.0, 2)],
        [1.0, np.nextafter(1.0, 2), 1 + 2**-51],
        [0.0, 5e-324],
    ):
        for times in (1, 1000):
            check(traced(values * times), values * times)


# -- samples --------------------------------------------------------------------------------------


@pytest.mark.nojit
def test_places_are_one_in_each_part_and_keep_no_step():
    places = np.empty(4096, dtype=np.int64)
    outlines.pick(1_000_003, places)
    parts = np.arange(4097) * 1_000_003 // 4096
    assert ((parts[:-1] <= places) & (places < parts[1:])).all()
    for period in (2, 3, 7, 16, 64, 100):
        seen = np.bincount(places % period, minlength=period)
        assert seen.std() < 1.5 * math.sqrt(4096 / period)


@pytest.mark.parametrize("others", [0, 1, 50, 1_000_000])
def test_a_sample_is_small_however_many_zeros_there_are(others):
    values = np.zeros(3_000_000)
    values[:others] = np.random.default_rng(0).normal(1, 1e-3, others)
    h = histogram(values)
    edges = tensorflow_buckets().edges.copy()
    size = outlines.sample_size(values.size, h.zero_count, edges, h.counts.copy(), h.min, h.max)
    assert 1024 <= size <= 32_768
    assert h.outline[:, 2].sum() == values.size


@pytest.mark.nojit
def test_a_sample_agrees_with_the_counts():
    rng = np.random.default_rng(0)
    values = np.concatenate((rng.normal(0, 0.02, 50_000), [9.0, -9.0, 3e5, 1e-30], np.zeros(5000)))
    h = histogram(rng.permutation(values).astype(np.float32), buckets="tensorflow")
    sample = np.sort(rng.choice(values[:50_000], 3000, replace=False).astype(np.float32)).astype(
        np.float64
    )
    edges = tensorflow_buckets().edges
    places, reach = np.empty(sample.size + 1553), np.empty(sample.size + 1554)
    known = outlines.weigh(sample, 5000, edges, h.counts, h.min, h.max, places, reach)
    places, reach = places[:known], reach[: known + 1]
    assert (np.diff(places) >= 0).all()
    assert (np.diff(reach) >= 0).all()
    assert (places[0], places[-1]) == (h.min, h.max)
    # At each limit the sample says what the counts say.
    inside = np.searchsorted(edges, places, "right") - 1
    found = np.zeros(1550)
    np.add.at(found, inside, np.diff(reach))
    assert found.tolist() == h.counts.tolist()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [1000, 20_000, 1_000_000])
def test_pictures_of_all_sizes(name, size):
    values = make(name, size)
    h = histogram(values)
    rows = written(h)
    assert len(rows) <= MOST_ROWS + 16 * (name == "int8")
    assert rows[:, 2].sum() == h.num
    if name != "range overflow":
        verdict = drawn(rows, values)
        limit = 0.02 if size > 1000 else 0.03
        assert verdict.bins <= limit
        assert verdict.lines <= limit
        assert verdict.ends <= (2.0**-5 if name.startswith("constant -") else 2.0**-20)


@pytest.mark.parametrize("name", strategies.DTYPES)
@pytest.mark.parametrize("size", [0, 1, 5, 1000, 1025, 30_000, 400_000])
def test_all_formats_and_layouts(name, size):
    dtype = strategies.DTYPES[name]
    values = np.random.default_rng(0).normal(3, 30, size)
    values = np.clip(values, 0, 100).astype(dtype) if dtype.kind in "ub" else values.astype(dtype)
    h = histogram(values)
    assert (h.outline is None) == (size == 0)
    if size:
        decoded = values.astype(np.float64)
        check_ends = h.outline[0, 0], h.outline[-1, 1]
        if decoded.min() < decoded.max():
            assert check_ends == (decoded.min(), decoded.max())
        assert h.outline[:, 2].sum() == size
        if size <= 1024:
            check(h.outline, decoded)
    strided = np.repeat(values, 2)[::2]
    assert np.array_equal(histogram(strided).to_rows(), h.to_rows())
    assert np.array_equal(histogram(values, threads=1).to_rows(), h.to_rows())
    together = histograms({"a": values, "b": np.ones(3), "c": strided})
    assert np.array_equal(together["a"].to_rows(), h.to_rows())
    assert np.array_equal(together["c"].to_rows(), h.to_rows())


@pytest.mark.nojit
def test_values_that_are_not_finite_are_left_out():
    for size in (20, 5000):
        values = np.random.default_rng(0).normal(size=size).astype(np.float32)
        clean = histogram(values)
        specials = np.array([np.nan, np.inf, -np.inf, -np.nan] * (size // 4), dtype=np.float32)
        h = histogram(np.concatenate((values, specials)))
        assert h.outline[:, 2].sum() == h.num == size
        assert (h.outline[0, 0], h.outline[-1, 1]) == (clean.min, clean.max)
    assert histogram([np.nan, np.inf]).outline is None
    assert histogram(np.full(5000, np.nan)).to_rows().shape == (0, 3)


@pytest.mark.nojit
def test_large_integers():
    values = np.array([2**53 + 1, 2**60 + 1, -(2**62) - 1, 2**63 - 1] * 400)
    h = histogram(values)
    assert (h.outline[0, 0], h.outline[-1, 1]) == (h.min, h.max)
    assert h.outline[:, 2].sum() == values.size


# -- a histogram with an outline ------------------------------------------------------------------


def test_auto_is_the_default_and_counts_as_tensorflow_does():
    values = make("layernorm")
    h = histogram(values)
    assert h.buckets is tensorflow_buckets()
    exact = histogram(values, buckets="tensorflow")
    assert h == exact
    assert h.rebucket("tensorflow").outline is None
    assert h.rebucket("tensorflow").buckets is tensorflow_buckets()
    assert exact.rebucket("tensorflow") == exact
    assert histograms({"a": values})["a"].outline.tolist() == h.outline.tolist()


def test_rebucket_refuses_what_it_cannot_do():
    with pytest.raises(BucketsError, match=r"cannot rebucket from .* to 30"):
        histogram([1.0]).rebucket(30)
    with pytest.raises(BucketsError, match=r"cannot rebucket from .*'uniform'"):
        histogram([1.0], buckets=3).rebucket("tensorflow")


@pytest.mark.parametrize("name", [n for n in DISTRIBUTIONS if n != "range overflow"])
def test_64_shards_make_the_whole(name):
    values = make(name)
    whole = histogram(values)
    merged = sum(histogram(shard) for shard in np.array_split(values, 64))
    assert np.array_equal(merged.counts, whole.counts)
    assert merged.num == whole.num == merged.outline[:, 2].sum()
    assert (merged.min, merged.max) == (whole.min, whole.max)
    assert len(merged.outline) <= MOST_ROWS + 16 * (name in ("int8", "quantised"))
    verdict = drawn(written(merged), values)
    assert verdict.bins <= 0.02
    assert verdict.lines <= 0.02
    assert verdict.ends <= (2.0**-5 if name.startswith("constant -") else 2.0**-20)


def test_merging_ranges_beyond_float64():
    parts = [histogram(make("range overflow", 1000, step)) for step in range(3)]
    merged = sum(parts)
    assert merged.outline[:, 2].sum() == 3000
    assert np.isfinite(merged.outline).all()


def test_merging_with_nothing_and_with_other_buckets():
    h, empty = histogram([1.0, 2.0]), histogram([])
    for merged in (h + empty, empty + h):
        assert merged.outline.tolist() == h.outline.tolist()
    assert (empty + empty).outline is None
    plain = h + histogram([3.0], buckets="tensorflow")
    assert plain.outline is None
    assert plain.buckets is tensorflow_buckets()
    assert plain == histogram([1.0, 2.0, 3.0])
    assert len(plain.to_rows()) > 0


def test_fewer_rows_on_request():
    values = make("normal")
    h = histogram(values)
    for limit in (1, 2, 10, 100):
        rows = h.to_rows(limit)
        assert len(rows) <= limit
        assert rows[:, 2].sum() == h.num
        assert (rows[0, 0], rows[-1, 1]) == (h.min, h.max)
    with pytest.raises(ArgumentError, match="max_buckets=0"):
        h.to_rows(0)


def test_quantiles_follow_the_outline():
    values = make("100 +- 0.001")
    h = histogram(values)
    for q in (0.0, 0.01, 0.25, 0.5, 0.9, 1.0):
        share = (values <= h.quantile(q)).mean()
        assert abs(share - q) < 0.02
        assert abs(h.cdf(float(np.quantile(values, q))) - q) < 0.02
    assert (h.quantile(0), h.quantile(1)) == (h.min, h.max)


def test_it_can_be_pickled_and_not_be_changed():
    h = histogram([1.0, 2.0, 2.0])
    again = pickle.loads(pickle.dumps(h))
    assert again == h
    assert again.outline.tolist() == h.outline.tolist()
    assert again.buckets is tensorflow_buckets()
    for one in (h, again):
        with pytest.raises(ValueError, match="read-only"):
            one.outline[0, 0] = 5
    assert isinstance(again, Histogram)


# -- what is written ------------------------------------------------------------------------------


def test_gaps_become_empty_buckets():
    edges, counts = contiguous(np.array([[0.0, 1, 5], [1, 2, 6], [4, 5, 7]]))
    assert edges.tolist() == [0, 1, 2, 4, 5]
    assert counts.tolist() == [5, 6, 0, 7]


@pytest.mark.parametrize(
    ("edges", "survive"),
    [
        ([0, 1, 2], True),
        ([-1, 1e-30, 1], True),
        ([0, 1e-60, 1], False),
        ([1, 1.1, 1 + 1e-9, 1.2], False),
        ([100, 100.5, 101], False),
        ([-101, -100.5, -100], False),
        ([-100, np.nextafter(np.float32(-100), np.float32(0))], False),
        ([-1e39, 1], False),
        ([0, 1e39], False),
        ([-1.7e308, 1.7e308], False),
    ],
)
def test_edges_as_float32(edges, survive):
    assert survives_float32(np.array(edges, float)) == survive


def test_a_million_normals_are_small(tmp_path):
    values = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", values, 1)
    [event] = [event for event in all_events(tmp_path) if event.summary.value]
    [value] = event.summary.value
    assert value.HasField("histo")
    assert len(value.histo.bucket) <= 256
    assert event.ByteSize() <= 4200
    assert sum(value.histo.bucket) == value.histo.num == 1_000_000
