"""A histogram as a value: merging, statistics from the buckets, conversions."""

from __future__ import annotations

import copy
import math
import operator
import pickle
from dataclasses import replace
from fractions import Fraction
from functools import reduce

import numpy as np
import oracle
import pytest
import strategies
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from fasthist import Histogram, histogram
from fasthist.buckets import Buckets, tensorflow_buckets, uniform_buckets
from fasthist.dtypes import CAST_FORMATS
from fasthist.errors import ArgumentError, BucketsError

EDGES = strategies.EDGES
LAYOUTS = {"tensorflow": "tensorflow", "edges": EDGES, "wide": [-1e300, 0.0, 1e300]}
COUNTED_EXACTLY = oracle.EXACT
buckets_arguments = st.sampled_from(["tensorflow", EDGES, [-1e300, 0.0, 1e300], 1, 7, 40])


def disagree(a, b):
    """Name the exactly known attributes in which two histograms differ."""
    return [
        name for name in COUNTED_EXACTLY if not np.array_equal(getattr(a, name), getattr(b, name))
    ]


def test_disagree_can_tell():
    a, b = histogram([1.0, 2.0]), histogram([1.0, 2.0, math.nan])
    assert disagree(a, a) == []
    assert disagree(a, b) == ["nan_count"]
    assert disagree(a, histogram([1.0, -2.0])) == ["min", "max", "counts"]


# -- merging -----------------------------------------------------------------------------------------------------


@given(st.data(), strategies.of_any_format(), st.sampled_from(list(LAYOUTS)))
def test_a_sum_of_parts_is_the_histogram_of_the_whole(data, values, layout):
    buckets = LAYOUTS[layout]
    if layout != "tensorflow" and values.dtype in (np.int64, np.uint64):
        # Their extremes are rounded in another way than those of parts in float32.
        event("rounded to nearest")
    cuts = sorted(data.draw(st.lists(st.integers(0, values.size), max_size=5), "cuts"))
    parts = [histogram(part, buckets=buckets) for part in np.split(values, cuts)]
    whole = histogram(values, buckets=buckets)
    for merged in (sum(parts), reduce(operator.add, parts), reduce(operator.add, parts[::-1])):
        assert disagree(merged, whole) == []
        expected = oracle.answer(strategies.decoded(values))
        if layout == "tensorflow" and values.dtype.kind in "fV":
            # Few parts, so the documented bound has room for their sums' own rounding.
            assert oracle.sum_is_right(merged.sum, expected.total, expected.magnitude)


def test_many_large_parts():
    values = np.random.default_rng(0).normal(size=500_000).astype(np.float32)
    parts = [histogram(part) for part in np.array_split(values, 13)]
    assert disagree(sum(parts), histogram(values)) == []
    assert sum(parts).sum == pytest.approx(histogram(values).sum, rel=1e-12)
    assert sum(parts).sum_squares == pytest.approx(histogram(values).sum_squares, rel=1e-12)


def named_otherwise(name):
    return Buckets(tensorflow_buckets().edges, name=name)


@pytest.mark.parametrize("name", ["auto", "tensorflow", "uniform", "edges"])
def test_a_name_of_buckets_decides_nothing(name):
    values = np.random.default_rng(0).normal(size=5000)
    buckets, plain = named_otherwise(name), histogram(values, buckets="tensorflow")
    h, auto = histogram(values, buckets=buckets), histogram(values)
    assert h == plain == auto
    assert h.outline is None
    for merged in (h + auto, auto + h, h + plain, replace(h, buckets=tensorflow_buckets()) + auto):
        assert merged.num == 10_000
        assert merged.outline is None
        assert merged.to_rows()[:, 2].sum() == 10_000
    merged = auto + replace(auto, buckets=buckets)  # with an outline each
    assert merged.outline[:, 2].sum() == merged.num == 10_000
    for one, other in zip(
        (*h.to_bars(), *h.to_uhi().axes[0].edges),
        (*plain.to_bars(), *plain.to_uhi().axes[0].edges),
        strict=True,
    ):
        assert np.array_equal(one, other)
    assert h.rebucket("tensorflow").buckets is tensorflow_buckets()
    again = pickle.loads(pickle.dumps(Buckets([0.0, 1.0, 4.0], name=name)))
    assert again.edges.tolist() == [0.0, 1.0, 4.0]
    even = histogram(values, buckets=Buckets(np.linspace(-4, 4, 9), name=name))
    assert even.to_bars()[0].size == 8
    assert histogram(values, buckets=Buckets([-4.0, 0.0, 1.0], name=name)).to_bars()[0].size == 30


def test_an_outline_survives_what_holds_no_values():
    h, nothing = histogram([1.0, 2.0]), histogram([math.nan])
    assert nothing.outline is None
    for merged in (h + nothing, nothing + h, histogram([], buckets="tensorflow") + h):
        assert merged.outline.tolist() == h.outline.tolist()


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1e308, 1e308), (1e6, 1e6 + 1e-3), (0.0, 1e-300)]
)
@pytest.mark.parametrize("count", [3, 7, 1000])
def test_uniform_buckets_are_told_from_others(low, high, count):
    edges = uniform_buckets(count, low, high).edges
    assert Buckets(edges).is_uniform
    assert not Buckets(np.delete(edges, 1)).is_uniform
    assert not tensorflow_buckets().is_uniform


def test_nothing_is_neutral():
    h, nothing = histogram([1.0, math.nan, -2.0]), histogram([])
    assert h + nothing == h == nothing + h
    assert sum([h]) is h
    assert nothing + nothing == nothing
    assert (nothing + nothing).min is None


def test_merging_leaves_the_parts_as_they_were():
    a, b = histogram([1.0, 2.0]), histogram([3.0, math.inf])
    before = pickle.dumps((a, b))
    merged = a + b
    assert pickle.dumps((a, b)) == before
    assert not merged.counts.flags.writeable
    assert (merged.num, merged.posinf_count) == (3, 1)


@pytest.mark.parametrize(
    ("a", "b", "total"),
    [
        ([1.7e308] * 3, [-1.7e308] * 3, "never NaN"),
        ([1.7e308] * 3, [1.0], math.inf),
        ([1.7e308], [1.7e308], math.inf),
    ],
)
def test_a_merged_sum_is_never_nan(a, b, total):
    merged = histogram(a) + histogram(b)
    for found in (merged.sum, merged.mean):
        assert found is None or not math.isnan(found)
    if total != "never NaN":
        assert merged.sum == total


def test_different_buckets_do_not_add_up():
    a, b = histogram([1.0]), histogram([1.0], buckets=[0, 2])
    with pytest.raises(BucketsError, match=r"cannot add .*'tensorflow', 1550.*'edges', 1 from 0.0"):
        a + b
    with pytest.raises(BucketsError, match=r'Accepted: equal buckets. Hint: buckets="tensorflow"'):
        sum([a, b])
    with pytest.raises(BucketsError, match="uniform"):
        histogram([1.0, 2.0], buckets=3) + histogram([1.0, 2.5], buckets=3)
    same = histogram([0.0, 3.0], buckets=3) + histogram([0.0, 1.0, 2.0, 3.0], buckets=[0, 1, 2, 3])
    assert same.counts.tolist() == [2, 1, 3]


@pytest.mark.parametrize("other", [1, 0.0, None, "x", [1]])
def test_only_histograms_add_up(other):
    h = histogram([1.0])
    for add in (lambda: h + other, lambda: other + h):
        with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate"):
            add()


# -- as a value --------------------------------------------------------------------------------------------------

VALUES = [1.0, 2.0, -3.0, 0.0]


@pytest.mark.parametrize(
    "other",
    [
        [1.0, 2.0, -3.0],
        [1.0, 2.0, -3.0, 0.0, math.nan],
        [1.0, 2.0, -3.0, 0.0, math.inf],
        [1.0, 2.0, -3.0, 0.0, -math.inf],
        [1.0, 2.0, -3.1, 0.0],
        [1.0, 2.01, -3.0, 0.0],
        [1.0, 2.0, -3.0, 1e-13],
        [],
    ],
)
def test_equality(other):
    h = histogram(VALUES)
    assert h == histogram(np.array(VALUES)[::-1])
    assert hash(h) == hash(histogram(np.array(VALUES)[::-1]))
    assert h != histogram(other)
    assert not h == histogram(other)  # noqa: SIM201 - both operators


def test_equality_looks_at_the_buckets():
    assert histogram([0.5], buckets=[0, 1]) != histogram([0.5], buckets=[0, 2])
    assert histogram([0.0, 1.0], buckets=1) == histogram([0.0, 1.0], buckets=[0, 1])
    assert hash(histogram([0.0, 1.0], buckets=1)) == hash(histogram([0.0, 1.0], buckets=[0, 1]))
    assert histogram([1.0]) != 1


@given(strategies.of_any_format(), buckets_arguments, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_pickle_and_copies(values, buckets, protocol):
    h = histogram(values, buckets=buckets)
    for again in (pickle.loads(pickle.dumps(h, protocol)), copy.copy(h), copy.deepcopy(h)):
        assert again == h
        assert hash(again) == hash(h)
        assert repr(again) == repr(h)
        if buckets == "tensorflow":
            assert again.buckets is tensorflow_buckets()


def test_a_pickle_is_small():
    assert len(pickle.dumps(histogram(np.random.default_rng(0).normal(size=1000)))) < 20_000


ARRAYS = ("counts", "exponent_counts", "cast_losses")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    "door", [lambda h: h, lambda h: h + h, lambda h: pickle.loads(pickle.dumps(h)), copy.deepcopy]
)
def test_arrays_are_frozen_through_every_door(name, door):
    h = door(histogram([1.0, 2.0]))
    with pytest.raises(ValueError, match="read-only"):
        getattr(h, name)[0] = 7


def test_attributes_are_frozen():
    h = histogram([1.0])
    for name in ("num", "counts", "min", "buckets"):
        with pytest.raises(AttributeError):
            setattr(h, name, 0)


def test_repr():
    assert repr(histogram([])) == "Histogram(num=0, buckets='tensorflow'[1550])"
    h = histogram([1.0, 2.0, 0.0, math.nan, math.inf, -math.inf, 9.0], buckets=[0.5, 3])
    assert repr(h) == (
        "Histogram(num=4, min=0, max=9, mean=3, std=3.53553, zero_count=1, nan_count=1, "
        "posinf_count=1, neginf_count=1, below_count=1, above_count=1, buckets='edges'[1])"
    )


# -- moments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "int8", "uint16", "int64"])
@pytest.mark.parametrize(("centre", "spread"), [(0, 1), (3, 20), (100, 0.5), (-90, 5)])
def test_mean_std_and_norm_are_numpys(name, centre, spread):
    values = np.random.default_rng(0).normal(centre, spread, 5001)
    values = (np.abs(values) if name.startswith("u") else values).astype(name)
    h, doubles = histogram(values), values.astype(np.float64)
    assert h.mean == pytest.approx(doubles.mean(), rel=1e-13, abs=1e-15 * np.abs(doubles).mean())
    # Documented: the variance is off by some 1e-15 of the mean square.
    assert h.std**2 == pytest.approx(doubles.var(), rel=0, abs=4e-15 * (doubles**2).mean())
    assert h.l2_norm == pytest.approx(np.linalg.norm(doubles), rel=1e-14)


FAR = {
    "1e6 +- 1e-3": lambda rng, n: 1e6 + rng.normal(0, 1e-3, n),
    "1e8 in float32": lambda rng, n: (1e8 + rng.normal(0, 30, n)).astype(np.float32),
    "integers": lambda rng, n: rng.integers(10**9, 10**9 + 9, n).astype(np.int32),
    "64-bit integers": lambda rng, n: rng.integers(2**33, 2**33 + 99, n),
    "counted patterns": lambda rng, n: rng.integers(60_000, 60_009, n).astype(np.uint16),
    "halves": lambda _, n: np.where(np.arange(n) < n // 2, -1e6 - 1e-3, -1e6 + 1e-3),
    "constant blocks": lambda _, n: 1e6 + 1e-3 * (np.arange(n) // 2048 % 2),
    "one apart": lambda _, n: 1e6 + 1e-3 * (np.arange(n) == n - 1),
    "special values among them": lambda rng, n: np.where(
        rng.random(n) < 0.1, [np.nan, np.inf, -np.inf, 1e6] * (n // 4), 1e6 + rng.normal(0, 1e-3, n)
    ),
    "a block of none": lambda rng, n: np.where(np.arange(n) // 2048 % 2, np.nan, 1e6 + rng.random(n)),
}  # fmt: skip


@pytest.mark.parametrize("case", FAR)
@pytest.mark.parametrize("size", [12, 5000, 300_000])
@pytest.mark.parametrize("step", [1, 2])
def test_std_of_values_far_from_zero(case, size, step):
    values = FAR[case](np.random.default_rng(5), size)
    doubles = values[np.isfinite(values)].astype(np.float64)
    expected = (doubles - doubles[0]).std()  # the differences are exact
    layout = np.repeat(values, step)[::step]
    for threads in (1, 2, 3):
        h = histogram(layout, threads=threads)
        assert h.std == pytest.approx(expected, rel=1e-10)
        assert h.squared_deviations == histogram(layout, threads=1).squared_deviations
    assert histogram(layout, buckets=7).std == h.std
    parts = [histogram(part) for part in np.array_split(values, 7)]
    for merged in (sum(parts), reduce(operator.add, parts[::-1]), sum(parts, histogram([]))):
        assert merged.std == pytest.approx(expected, rel=1e-6)


def test_std_of_a_sum_where_deviations_are_not_known():
    h = histogram([1.0, 2.0, 4.0])
    unknown = replace(h, squared_deviations=None)
    assert unknown.std == pytest.approx(h.std, rel=1e-14)
    for merged in (h + unknown, unknown + h, replace(h, sum=None) + h):
        assert merged.squared_deviations is None
    assert (h + unknown).std == pytest.approx(h.std, rel=1e-14)
    # Of no values they are known, whatever is told.
    nothing = replace(histogram([]), squared_deviations=None)
    assert (
        (h + nothing).squared_deviations == (nothing + h).squared_deviations == h.squared_deviations
    )


def test_deviations_beyond_float64():
    huge = histogram([1e300, -1e300, 1.0])
    assert huge.squared_deviations == math.inf
    assert (huge + huge).std == (huge + histogram([1.0])).std == math.inf
    assert (histogram([1e200, 2e200]) + histogram([1.7e308] * 3)).std == math.inf
    blocks = np.repeat([1.7e308, -1.7e308], 2048 * 40)
    assert histogram(blocks).std == math.inf


@given(strategies.finite_doubles(min_size=1))
def test_std_is_within_its_documented_error(values):
    values = np.clip(values, -1e100, 1e100)
    values[np.abs(values) < 1e-100] = 0.0
    h = histogram(values)
    exact = [Fraction(value) for value in values.tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    mean_square = sum(value**2 for value in exact) / len(exact)
    assert abs(Fraction(h.std) ** 2 - variance) <= mean_square * Fraction(1, 10**14)


def test_moments_of_few_values():
    nothing = histogram([math.nan, math.inf])
    assert (nothing.mean, nothing.std, nothing.l2_norm) == (None, None, 0.0)
    constant = histogram([0.1] * 77)
    assert constant.std == 0.0
    assert constant.mean == pytest.approx(0.1, rel=1e-15)
    assert histogram([1e200, -1e200]).std == math.inf
    assert histogram([3.0, 4.0]).l2_norm == 5.0


# -- what a cast would lose --------------------------------------------------------------------------------------


def cast_shares(values, name):
    """Cast for real: the shares of non-zero finite values that become zero, and that become not finite."""
    values = values[np.isfinite(values) & (values != 0)]
    with np.errstate(over="ignore", under="ignore"):
        cast = values.astype(strategies.DTYPES[name]).astype(np.float64)
    return (cast == 0).sum() / values.size, (~np.isfinite(cast)).sum() / values.size


@pytest.mark.parametrize("target", CAST_FORMATS)
def test_underflow_and_overflow_of_float32_are_those_of_a_real_cast(target):
    rng = np.random.default_rng(0)
    spread = np.exp2(rng.uniform(-30, 18, 50_000)).astype(np.float32)
    ties = np.array([2.0**-25, 2.0**-10, 2.0**-17, 464, 61440, 65520], dtype=np.float32)
    ties = strategies.neighbours(ties)
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0], dtype=np.float32)
    for values in (spread, ties, np.concatenate((spread, -spread, ties, -ties, special))):
        h = histogram(values)
        under, over = cast_shares(values, target)
        assert 0 < under < 1
        assert 0 < over < 1
        assert (h.underflow(target), h.overflow(target)) == (under, over)
        wide = histogram(values.astype(np.float64))
        assert (wide.underflow(target), wide.overflow(target)) == (under, over)


@pytest.mark.parametrize("name", strategies.CODES)
@pytest.mark.parametrize("target", CAST_FORMATS)
def test_underflow_and_overflow_of_every_narrow_format(name, target):
    values = strategies.all_patterns(name)
    with np.errstate(invalid="ignore"):
        singles = strategies.decoded(values).astype(np.float32)
    expected = cast_shares(singles, target)
    for array in (values, np.tile(values, -(-70_000 // values.size))):
        h = histogram(array)
        assert (h.underflow(target), h.overflow(target)) == pytest.approx(expected, rel=1e-14)


def test_no_share_of_nothing():
    h = histogram([0.0, math.nan, math.inf])
    assert [h.underflow(name) for name in CAST_FORMATS] == [None] * 3
    assert [h.overflow(name) for name in CAST_FORMATS] == [None] * 3
    for method in (h.underflow, h.overflow):
        with pytest.raises(
            ArgumentError, match=r"'bfloat16' has no cast counts. Accepted: float16"
        ):
            method("bfloat16")


# -- quantile and cdf --------------------------------------------------------------------------------------------


def bucket_of(h, value):
    """Give the ends of the bucket that holds a value, cut at min and max."""
    edges = h.buckets.edges
    place = int(h.buckets.index(np.array([value]))[0])
    left = h.min if place < 0 else max(h.min, float(edges[place]))
    right = h.max if place >= edges.size - 1 else min(h.max, float(edges[place + 1]))
    return left, right


@given(
    strategies.finite_doubles(min_size=1),
    buckets_arguments,
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1 / 3])),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, buckets, q):
    h = histogram(values, buckets=buckets)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    left, right = bucket_of(h, exact)
    assert left <= h.quantile(q) <= right


@given(strategies.finite_doubles(min_size=1), buckets_arguments)
def test_quantiles_rise_from_min_to_max(values, buckets):
    h = histogram(values, buckets=buckets)
    found = [h.quantile(q) for q in np.linspace(0, 1, 41)]
    assert (found[0], found[-1]) == (h.min, h.max)
    assert found == sorted(found)


def test_a_quantile_of_tensorflows_buckets_is_within_a_tenth():
    values = np.random.default_rng(0).normal(size=100_000)
    h = histogram(values, buckets="tensorflow")
    for q in np.linspace(0.001, 0.999, 200):
        exact = np.quantile(values, q, method="inverted_cdf")
        assert abs(h.quantile(q) - exact) <= max(0.1 * abs(exact), 1e-12)


@pytest.mark.parametrize("q", [-0.1, 1.0001, math.nan, math.inf, 50])
def test_a_quantile_of_no_share_is_refused(q):
    with pytest.raises(ArgumentError, match=r"must be between 0 and 1"):
        histogram([1.0]).quantile(q)


@given(
    strategies.finite_doubles(min_size=1),
    buckets_arguments,
    st.lists(st.floats(allow_nan=False), max_size=8),
)
@example(np.array([0.0, 5e-324]), "tensorflow", [0.0])
@example(np.array([-oracle.LARGEST, oracle.LARGEST]), [-1e300, 0.0, 1e300], [0.0, 1.0])
def test_cdf(values, buckets, points):
    h = histogram(values, buckets=buckets)
    points = sorted([*points, h.min, h.max, *values[:5].tolist()])
    found = [h.cdf(x) for x in points]
    assert found == sorted(found)
    assert h.cdf(h.max) == h.cdf(math.inf) == 1.0
    assert h.cdf(-math.inf) == 0.0
    assert h.cdf(math.nextafter(h.min, -math.inf)) == 0.0
    for x, share in zip(points, found, strict=True):
        exact = (values <= x).sum() / values.size
        inside = 0.0
        if h.min <= x <= h.max:
            place = int(h.buckets.index(np.array([x]))[0])
            own = h.buckets.index(values) == place
            inside = own.sum() / values.size
        assert abs(share - exact) <= inside + 1e-15


def test_cdf_of_nan_is_refused():
    with pytest.raises(ArgumentError, match=r"x is NaN, which has no order. Accepted: any other"):
        histogram([1.0]).cdf(math.nan)


def test_nothing_has_no_quantile():
    h = histogram([math.nan])
    assert h.quantile(0.5) is None
    assert h.cdf(0.0) is None


@pytest.mark.parametrize("value", [0.1, -0.3, 1 / 3, 1e300, 5e-324, 0.0, -7.7])
def test_all_quantiles_of_a_constant_are_the_constant(value):
    for buckets in ("tensorflow", 3, [-1.0, 1.0], [value, value + 10 + abs(value)]):
        h = histogram([value] * 9, buckets=buckets)
        assert {h.quantile(q) for q in np.linspace(0, 1, 101)} == {value}
        assert (h.cdf(value), h.cdf(math.nextafter(value, -math.inf))) == (1.0, 0.0)


# -- conversions -------------------------------------------------------------------------------------------------


def test_to_numpy():
    values = np.random.default_rng(0).normal(size=1000)
    counts, edges = histogram(values, buckets=13).to_numpy()
    expected, expected_edges = np.histogram(values, bins=13)
    assert counts.dtype == expected.dtype == np.int64
    assert counts.tolist() == expected.tolist()
    assert np.array_equal(edges, expected_edges)
    counts[0] = 99  # a copy
    with pytest.raises(ValueError, match="read-only"):
        edges[0] = 1


def above(value):
    """Give the next of TensorFlow's limits."""
    return min((e for e in oracle.tensorflow_edges() if e > value), default=value)


def flaws(raw, h, max_buckets=None):
    """Say what is wrong with the keyword arguments of add_histogram_raw."""
    limits, counts = raw["bucket_limits"], raw["bucket_counts"]
    rules = {
        "types": limits.dtype == counts.dtype == np.float64 and limits.shape == counts.shape,
        "increasing": bool((limits[1:] > limits[:-1]).all()) or h.max == oracle.LARGEST,
        "finite": bool(np.isfinite(limits).all()),
        "first is empty": counts[0] == 0,
        "first": limits[0] == h.min,
        "last": limits[-1] == (h.max if h.min < h.max else above(h.max)),
        "counts": counts.sum() == h.num and bool((counts >= 0).all()),
        "number": max_buckets is None or counts.size - 1 <= max_buckets,
        "two empty ones": max_buckets is not None
        or not ((counts[1:-1] == 0) & (counts[2:] == 0)).any(),
        "attributes": all(raw[k] == getattr(h, k) for k in ("num", "sum", "sum_squares")),
        "ends": (raw["min"], raw["max"]) == (h.min, h.max),
    }
    return [name for name, holds in rules.items() if not holds]


def test_flaws_can_tell():
    h = histogram([1.0, 2.0, 7.0], buckets=[0, 3, 6, 9])
    raw = h.to_raw()
    assert flaws(raw, h) == []
    assert flaws(raw, h, max_buckets=1) == ["number"]
    limits, counts = raw["bucket_limits"], raw["bucket_counts"]
    broken = {
        "types": {"bucket_counts": counts.astype(np.int64)},
        "increasing": {"bucket_limits": limits[[0, 2, 1, 3]]},
        "finite": {"bucket_limits": np.where(limits == limits[1], np.nan, limits)},
        "first is empty": {"bucket_counts": counts[::-1]},
        "first": {"bucket_limits": np.append(limits[0] - 1, limits[1:])},
        "last": {"bucket_limits": np.append(limits[:-1], limits[-1] + 1)},
        "counts": {"bucket_counts": counts * 2},
        "two empty ones": {"bucket_counts": np.array([0.0, 0.0, 0.0, 3.0])},
        "attributes": {"num": 4},
    }
    for name, change in broken.items():
        assert name in flaws({**raw, **change}, h)


@given(
    strategies.finite_doubles(min_size=1),
    buckets_arguments,
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_what_is_written(values, buckets, max_buckets):
    h = histogram(values, buckets=buckets)
    raw = h.to_raw(max_buckets)
    assert flaws(raw, h, max_buckets) == []
    rows = h.to_rows(max_buckets)
    assert np.array_equal(rows[:, 0], raw["bucket_limits"][:-1])
    assert np.array_equal(rows[:-1, 1], raw["bucket_limits"][1:-1])
    assert rows[-1, 1] == h.max
    assert np.array_equal(rows[:, 2], raw["bucket_counts"][1:])
    assert rows.dtype == np.float64


@pytest.mark.parametrize(
    ("values", "buckets"),
    [
        ([oracle.LARGEST], "tensorflow"),
        ([-oracle.LARGEST] * 2, "tensorflow"),
        ([-oracle.LARGEST, oracle.LARGEST], "tensorflow"),
        ([-oracle.LARGEST, oracle.LARGEST], 3),
        ([1.2e308, 1.5e308], [0.0, 1e308, 1.5e308, 1.7e308]),
        ([-1.5e308, -1.2e308], [-1.7e308, -1.2e308, 0.0]),
        ([1.0, math.nextafter(1.0, 2)], [0.0, math.nextafter(1.0, 2), 2.0]),
        ([math.nextafter(2.0, 1), 2.0], [0.0, 2.0, 3.0]),
        ([0.0, 5e-324], [-1.0, 5e-324, 1.0]),
        ([-5e-324, 0.0], "tensorflow"),
    ],
)
def test_what_is_written_where_float64_ends(values, buckets):
    h = histogram(values, buckets=buckets)
    assert flaws(h.to_raw(), h) == []


@given(strategies.finite_doubles(min_size=1), buckets_arguments)
def test_written_buckets_hold_what_lies_in_them(values, buckets):
    h = histogram(values, buckets=buckets)
    # Only the room given to a point moves an edge away from those of the buckets.
    assume(h.min != h.max)
    assume(h.max not in h.buckets.edges[:-1])
    raw = h.to_raw()
    limits = raw["bucket_limits"]
    assert set(limits[1:-1].tolist()) <= set(h.buckets.edges.tolist())
    below, counts, above = oracle.bucket_counts(np.sort(values), limits)
    assert (below, counts.tolist(), above) == (0, raw["bucket_counts"][1:].tolist(), 0)


def test_values_outside_the_edges_are_written_in_buckets_of_their_own():
    raw = histogram([-5.0, -4.0, 0.5, 7.0, 8.0, 9.0], buckets=[0, 1, 2]).to_raw()
    assert raw["bucket_limits"].tolist() == [-5, 0, 1, 2, 9]
    assert raw["bucket_counts"].tolist() == [0, 2, 1, 0, 3]
    raw = histogram([-5.0, -4.0], buckets=[0, 1, 2]).to_raw()
    assert raw["bucket_limits"].tolist() == [-5, -4]
    assert raw["bucket_counts"].tolist() == [0, 2]
    raw = histogram([7.0, 8.0], buckets=[0, 1, 2]).to_raw()
    assert raw["bucket_limits"].tolist() == [7, 8]


def test_empty_neighbours_are_one():
    raw = histogram([0.5, 7.5, 9.5], buckets=10).to_raw()
    assert raw["bucket_counts"].tolist() == [0, 1, 0, 1, 0, 1]
    raw = histogram([0.0, 10.0], buckets=list(range(11))).to_raw()
    assert raw["bucket_limits"].tolist() == [0, 1, 9, 10]
    assert raw["bucket_counts"].tolist() == [0, 1, 0, 1]


def test_max_buckets_merges_neighbours_and_keeps_counts():
    h = histogram(np.random.default_rng(0).normal(size=10_000), buckets="tensorflow")
    whole = h.to_raw()
    assert whole["bucket_counts"].size > 150
    for most in (1, 2, 3, 30, 100, 256):
        raw = h.to_raw(max_buckets=most)
        assert flaws(raw, h, most) == []
        assert set(raw["bucket_limits"].tolist()) <= set(whole["bucket_limits"].tolist())
        assert raw["bucket_counts"].size - 1 > most / 2 - 1
        reached = np.interp(
            raw["bucket_limits"], whole["bucket_limits"], np.cumsum(whole["bucket_counts"])
        )
        assert np.cumsum(raw["bucket_counts"]).tolist() == reached.tolist()
    assert h.to_raw(1)["bucket_counts"].tolist() == [0, 10_000]
    plenty = h.to_raw(100_000)
    assert np.array_equal(plenty["bucket_limits"], whole["bucket_limits"])


@pytest.mark.parametrize("most", [0, -1])
def test_max_buckets_that_leave_nothing_are_refused(most):
    h = histogram([1.0])
    for method in (h.to_raw, h.to_rows):
        with pytest.raises(ArgumentError, match=f"max_buckets={most} leaves nothing to write"):
            method(max_buckets=most)


@pytest.mark.parametrize("value", [0.0, 1.0, -100.0, 1e-30, 1e30, -5e-324, 3.25])
@pytest.mark.parametrize("buckets", ["tensorflow", 7, [-200.0, 0.0, 200.0], [-1e-3, 0.0, 1e-3]])
def test_a_constant_is_its_value(value, buckets):
    h = histogram([value] * 7, buckets=buckets)
    raw = h.to_raw()
    assert flaws(raw, h) == []
    assert raw["bucket_limits"].tolist() == [value, above(value)]
    assert raw["bucket_counts"].tolist() == [0, 7]
    assert h.to_rows().tolist() == [[value, value, 7]]
    assert {h.quantile(q) for q in (0, 0.01, 0.5, 1)} == {value}
    assert (h.cdf(math.nextafter(value, -math.inf)), h.cdf(value)) == (0, 1)


@pytest.mark.parametrize("buckets", ["auto", "tensorflow"])
def test_quantiles_of_many_zeros_are_zero(buckets):
    rng = np.random.default_rng(0)
    for low in (0.0, -5.0):
        values = np.maximum(rng.normal(size=4000), low)
        values[rng.random(4000) < 0.6] = 0.0
        h = histogram(values, buckets=buckets)
        below, up_to = (values < 0).mean(), (values <= 0).mean()
        qs = np.linspace(below, up_to, 7)[1:-1]
        assert {h.quantile(q) for q in qs} == {0.0}
        assert h.cdf(0.0) == pytest.approx(up_to, abs=1e-3)
        assert h.cdf(-1e-300) == pytest.approx(below, abs=1e-3)


@pytest.mark.parametrize("buckets", ["tensorflow", [0.0, 1.0, 2.0, 3.0], [1.0, 2.0]])
def test_a_maximum_that_is_an_edge_is_written_with_room(buckets):
    for values in ([1.0, 2.0, 2.0], [1.0, 1.0, 1.5, 2.0]):
        h = histogram(values, buckets=buckets)
        raw = h.to_raw()
        assert flaws(raw, h) == []
        assert np.diff(raw["bucket_limits"]).min() >= 2.0**-40 * (h.max - h.min)
        assert raw["bucket_counts"][-1] >= values.count(2.0)


def test_two_values():
    h = histogram([1.0] * 3 + [5.0] * 4)
    raw = h.to_raw()
    assert flaws(raw, h) == []
    assert raw["bucket_counts"].tolist() == [0, 3, 0, 4]


def test_nothing_is_not_written():
    for h in (histogram([]), histogram([math.nan, math.inf])):
        with pytest.raises(
            BucketsError, match=r"no finite value cannot be written. Hint: check `num`"
        ):
            h.to_raw()
        assert h.to_rows().shape == (0, 3)


def test_a_histogram_can_be_made_by_hand():
    h = histogram([0.25, 0.75, 3.0], buckets=[0, 0.5, 1.0])
    again = Histogram(
        Buckets([0, 0.5, 1.0]),
        **{name: getattr(h, name) for name in (*COUNTED_EXACTLY, "sum", "sum_squares")},
    )
    assert again == h


@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [1.0, 1.0, 5.0], [1.0, np.nextafter(1.0, 2)], [1.0, 1e300]], ids=str
)
def test_a_minimum_that_is_the_last_edge_is_written_with_some_width(values):
    found = histogram(values, buckets=[-1.0, 0.0, 1.0])
    raw = found.to_raw()
    limits = raw["bucket_limits"]
    assert (np.diff(limits) > 0).all()
    assert (limits[0], limits[-1]) == (1.0, values[-1])
    assert raw["bucket_counts"].sum() == len(values)
    rows = found.to_rows()
    assert (rows[:, 0] < rows[:, 1]).all()
