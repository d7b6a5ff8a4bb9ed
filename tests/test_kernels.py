"""Counts equal the definition: every format, every limit, every special number, every layout, every thread."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import math
import struct
import sys
from fractions import Fraction

import numpy as np
import oracle
import pytest
import strategies
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fasthist import histogram
from fasthist.buckets import Buckets
from fasthist.dtypes import FORMATS
from fasthist.kernels import cpu, cpu_patterns, host, looks
from fasthist.kernels.chunks import Chunks
from fasthist.kernels.slots import slots_of

KS = (1, 2, 7, 30, 64, 1000, 5000)


def wrong(values, edges=None, **arguments):
    """Name what differs between our histogram of an array and the definition."""
    buckets = "tensorflow" if edges is None else edges
    return oracle.differences(
        histogram(values, buckets=buckets, **arguments),
        oracle.answer(strategies.decoded(values), edges),
    )


def differs_from_numpy(values, k):
    """Compare uniform buckets with numpy.histogram of the finite values as float64: counts and edges."""
    doubles = strategies.decoded(values).astype(np.float64)
    with np.errstate(over="ignore"):  # numpy's own, on the way to an edge that it then replaces
        expected_counts, expected_edges = np.histogram(doubles[np.isfinite(doubles)], bins=k)
    h = histogram(values, buckets=k)
    counts, edges = h.to_numpy()
    found = []
    if not np.array_equal(edges, expected_edges):
        found.append("edges")
    if not np.array_equal(counts, expected_counts):
        found.append("counts")
    if h.below_count or h.above_count:
        found.append("outside")
    return found


# -- the oracle and the helpers themselves ----------------------------------------------------------------------


def test_the_oracle_stands_alone():
    tree = ast.parse(inspect.getsource(oracle))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


def test_the_oracles_limits_are_tensorflows():
    limits = oracle.positive_limits()
    assert limits.size == 774
    assert hashlib.sha256(limits.astype("<f8").tobytes()).hexdigest() == oracle.LIMITS_SHA256
    assert limits[1] == float.fromhex("0x1.359f5a7b2817ap-40")
    assert limits[-1] == float.fromhex("0x1.58323029f544cp+66")
    assert oracle.tensorflow_edges().size == 1551


def test_the_oracle_places_a_value_equal_to_a_limit_in_the_bucket_on_its_right():
    below, counts, above = oracle.bucket_counts(
        np.array([-9.0, 0.0, 1.0, 1.0, 1.5, 2.0, 2.5]), [0.0, 1.0, 2.0]
    )
    assert (below, counts.tolist(), above) == (1, [1, 4], 1)
    below, counts, above = oracle.bucket_counts(
        np.array([-9, 0, 1, 1, 2, 2, 3]), [0.0, 0.5, 1.5, 2.0]
    )
    assert (below, counts.tolist(), above) == (1, [1, 2, 2], 1)


@given(strategies.finite_doubles())
def test_the_oracles_sum_is_fsum(values):
    try:
        expected = math.fsum(values.tolist())
    except OverflowError:
        event("overflow on the way")
        return
    assert oracle.as_double(oracle.exact_sum(values)) == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_the_oracles_sum_of_integers_is_pythons(numbers):
    assert oracle.exact_sum(np.array(numbers, dtype=np.int64)) == sum(numbers)


@pytest.mark.parametrize("name", [*oracle.EXACT, "sum", "sum_squares"])
def test_differences_names_each_attribute_that_is_wrong(name):
    values = np.array([1.0, 2.0, -3.0, 0.0, np.nan])
    h = histogram(values)
    assert oracle.differences(h, oracle.answer(values)) == []
    broken = dataclasses.replace(h, **{name: getattr(h, name) + 1})
    assert oracle.differences(broken, oracle.answer(values)) == [name]


def test_sum_is_right_refuses_nan_a_wrong_infinity_and_what_lies_beyond_the_bound():
    assert oracle.sum_is_right(1.0, Fraction(1), Fraction(1))
    assert oracle.sum_is_right(1.0 + 2**-38, Fraction(1), Fraction(1))
    assert oracle.sum_is_right(math.inf, Fraction(10) ** 400, Fraction(10) ** 400)
    assert not oracle.sum_is_right(math.nan, Fraction(1), Fraction(1))
    assert not oracle.sum_is_right(math.inf, Fraction(1), Fraction(1))
    assert not oracle.sum_is_right(-math.inf, Fraction(10) ** 400, Fraction(10) ** 400)
    assert not oracle.sum_is_right(1e300, Fraction(10) ** 400, Fraction(10) ** 400)
    assert not oracle.sum_is_right(1.0 + 2**-36, Fraction(1), Fraction(1))


def test_differs_from_numpy_can_tell(monkeypatch):
    values = np.array([0.0, 1.0, 2.0, 9.0])
    assert differs_from_numpy(values, 3) == []
    other = {
        "edges": (values, Buckets([0.0, 3.5, 6.0, 9.0])),
        "counts": (np.array([0.0, 4.0, 2.0, 9.0]), Buckets([0.0, 3.0, 6.0, 9.0])),
        "outside": (np.append(values, 10.0), Buckets([0.0, 3.0, 6.0, 9.0])),
    }
    for label, (data, edges) in other.items():
        broken = histogram(data, buckets=edges)
        monkeypatch.setattr(sys.modules[__name__], "histogram", lambda *_, h=broken, **__: h)
        assert differs_from_numpy(values, 3) == [label]
        monkeypatch.undo()


@pytest.mark.parametrize(
    "name", ["float8_e5m2", "float16", "bfloat16", "float32", "float64", "int64"]
)
def test_strategies_reach_every_special_number(name):
    seen = set()

    @settings(max_examples=150, derandomize=True, database=None)
    @given(strategies.patterned(name))
    def look(values):
        seen.update(strategies.kinds_of(values))

    look()
    if name == "int64":
        assert seen == {"empty", "integers"}
        return
    expected = {"empty", "NaN", "+inf", "-inf", "-0.0", "subnormal", "largest", "smallest"}
    if name in strategies.WIDE:
        expected |= {f"{sign}{label} NaN" for sign in "+-" for label in ("quiet", "signalling")}
    assert seen >= expected


# -- random patterns, and all of them ----------------------------------------------------------------------------


def random_patterns(name, size, seed):
    """Give random bits; in the second half with exponents (or magnitudes) that TensorFlow's limits tell apart."""
    rng = np.random.default_rng(seed)
    bits = 8 * strategies.DTYPES[name].itemsize
    patterns = rng.integers(0, 1 << bits, size, dtype=strategies.carrier(name))
    half = patterns[size // 2 :]
    if name in ("float32", "float64"):
        mantissa, bias = (23, 127) if bits == 32 else (52, 1023)
        ones = half.dtype.type(((1 << (bits - 1 - mantissa)) - 1) << mantissa)
        exponents = rng.integers(
            bias - 45, bias + 72, half.size, dtype=half.dtype
        ) << half.dtype.type(mantissa)
        half[:] = (half & ~ones) | exponents
    else:
        shifted = half.view(strategies.DTYPES[name])
        shifted >>= rng.integers(0, bits, half.size, dtype=np.uint8).astype(shifted.dtype)
    return strategies.from_patterns(patterns, name)


@pytest.mark.parametrize("name", strategies.WIDE)
def test_ten_million_random_patterns(name):
    values = random_patterns(name, 10_000_000, seed=20)
    expected = oracle.answer(values, sums=False)
    assert oracle.differences(histogram(values, threads=2), expected) == []
    assert wrong(values[4_500_000:5_500_000]) == []  # sums too, of both halves


@pytest.mark.parametrize("name", strategies.CODES)
def test_all_patterns_of_a_narrow_format_each_a_different_number_of_times(name):
    patterns = strategies.all_patterns(name)
    times = (np.arange(patterns.size) * 40503 + 11) % 65536 % (
        37 if patterns.size > 256 else 257
    ) + 1
    values = np.random.default_rng(1).permutation(np.repeat(patterns, times))
    assert wrong(values) == []
    assert wrong(values, strategies.EDGES) == []
    for k in KS:
        assert differs_from_numpy(values, k) == [], k


@pytest.mark.parametrize(
    "name", [name for name in strategies.CODES if strategies.DTYPES[name].itemsize == 2]
)
def test_all_patterns_of_16_bits_in_arrays_too_short_for_a_table_of_patterns(name):
    order = np.random.default_rng(2).permutation(strategies.all_patterns(name))
    for part in (order[:5], order[5:-1], order[1:], order[-40_000:]):
        assert part.size < host.WIDEN_BELOW[16]
        assert wrong(part) == []
        assert wrong(part, strategies.EDGES) == []
        assert differs_from_numpy(part, 30) == []
    parts = histogram(order[:30_000]) + histogram(order[30_000:])
    assert oracle.differences(parts, oracle.answer(strategies.decoded(order))) == []
    long = np.tile(order, 4)
    assert long.size == host.WIDEN_BELOW[16]
    assert np.array_equal(histogram(long).counts, 4 * parts.counts)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", strategies.WIDE)
def test_every_limit_and_both_its_neighbours(name):
    values = strategies.limits_and_neighbours(name)
    if name == "float64":
        assert np.isin(oracle.tensorflow_edges(), values).all()
    assert wrong(values) == []
    # Different numbers of times: an element in its neighbour's bucket cannot be made up for by another.
    values = np.repeat(values, np.arange(values.size) % 7 + 1)
    assert wrong(values) == []


@pytest.mark.usefixtures("backend")
def test_one_by_one_each_limit_begins_its_bucket():
    edges = oracle.tensorflow_edges()
    whole = histogram(edges)
    assert whole.counts.tolist() == [1] * 1549 + [2]
    before = histogram(np.nextafter(edges[1:-1], -np.inf))
    assert before.counts.tolist() == [1] * 1549 + [0]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", strategies.WIDE)
def test_every_special_pattern(name):
    patterns = np.array(strategies.special_patterns(name), dtype=strategies.carrier(name))
    values = strategies.from_patterns(np.repeat(patterns, np.arange(patterns.size) % 5 + 1), name)
    assert wrong(values) == []
    assert wrong(values, strategies.EDGES) == []


@pytest.mark.usefixtures("backend")
@given(values=strategies.of_any_format())
def test_any_array_of_any_format(values):
    event(values.dtype.name)
    for kind in strategies.kinds_of(values):
        event(kind)
    assert wrong(values) == []
    assert wrong(values, strategies.EDGES) == []


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("sign", [0, 1])
def test_every_nan_payload_is_nan_and_nothing_else(name, sign):
    dtype = strategies.carrier(name)
    bits, mantissa = 8 * dtype.itemsize, {"float32": 23, "float64": 52}[name]
    payloads = np.array(
        [1 << i for i in range(mantissa)] + [(1 << mantissa) - 1, 3, 12345], dtype=dtype
    )
    infinity = ((1 << (bits - 1 - mantissa)) - 1) << mantissa
    values = (payloads | dtype.type(infinity | sign << (bits - 1))).view(strategies.DTYPES[name])
    h = histogram(values)
    assert (h.num, h.nan_count, h.posinf_count, h.neginf_count) == (0, values.size, 0, 0)
    assert (h.min, h.max, h.sum, h.zero_count, int(h.counts.sum())) == (None, None, 0.0, 0, 0)
    mixed = histogram(np.concatenate((values, np.array([1, 2], dtype=name))), buckets=[0, 2])
    assert (mixed.num, mixed.nan_count, mixed.sum, mixed.counts.tolist()) == (
        2,
        values.size,
        3.0,
        [2],
    )


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_negative_zero_is_zero(name):
    h = histogram(np.array([-0.0, 0.0, -0.0], dtype=strategies.DTYPES[name]))
    assert (h.num, h.zero_count, h.min, h.max) == (3, 3, 0.0, 0.0)
    assert math.copysign(1, h.min) == math.copysign(1, h.max) == 1
    assert h.counts[775] == 3
    assert h.exponent_counts.sum() == 0


@pytest.mark.usefixtures("backend")
def test_the_largest_doubles_are_in_the_outermost_buckets():
    h = histogram([oracle.LARGEST, -oracle.LARGEST, 1e20, -1e20])
    assert (h.counts[0], h.counts[-1], h.num) == (2, 2, 4)
    assert (h.min, h.max) == (-oracle.LARGEST, oracle.LARGEST)


# -- integers beyond 2**53 ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("int64", -(2**63), 2**63 - 1), ("uint64", 0, 2**64 - 1), ("int64", 2**53, 2**60)],
)
def test_large_integers_are_counted_in_the_right_bucket(name, low, high):
    limits = [
        math.ceil(edge)
        for edge in oracle.tensorflow_edges()
        if low < edge < high and abs(edge) > 2**52
    ]
    limits += [sign * 2**e for e in range(53, 64) for sign in (1, -1)]
    near = {limit + step for limit in limits for step in (-2, -1, 0, 1, 2)} | {
        low,
        low + 1,
        high,
        high - 1,
    }
    values = np.array(sorted(n for n in near if low <= n <= high), dtype=name)
    assert values.size > 100
    assert wrong(values) == []


@pytest.mark.usefixtures("backend")
def test_an_integer_just_below_a_limit_is_not_rounded_up_to_it():
    limit = next(int(edge) for edge in oracle.tensorflow_edges() if edge > 2**60)
    assert float(limit - 1) == limit, "as float64 the two are the same number"
    below, at = (histogram(np.array([limit - step], dtype=np.int64)) for step in (1, 0))
    assert np.flatnonzero(at.counts) == np.flatnonzero(below.counts) + 1


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "value", [2**54 - 1, -(2**54 - 1), 2**53 + 1, -(2**53 + 1), 2**63 - 1, -(2**63)]
)
@pytest.mark.parametrize("buckets", ["tensorflow", 3, [-1e30, 1e30]])
def test_the_exponent_of_a_large_integer_is_its_own(value, buckets):
    h = histogram(np.array([value], dtype=np.int64), buckets=buckets)
    assert np.flatnonzero(h.exponent_counts).tolist() == [abs(value).bit_length() - 1 + 127]


# -- uniform buckets and explicit edges, against numpy.histogram --------------------------------------------------


def datasets():
    rng = np.random.default_rng(3)
    normal = rng.normal(size=20_000)
    special = np.where(np.arange(normal.size) % 97 == 0, np.nan, normal)
    special[::101], special[5::103] = np.inf, -np.inf
    return {
        "normal": normal,
        "normal float32": normal.astype(np.float32),
        "negative": -np.exp(normal),
        "with NaN and infinities": special,
        "log-uniform": np.exp(rng.uniform(-40, 40, 20_000)),
        "narrow, far from zero": 100 + rng.uniform(-0.001, 0.001, 20_000),
        "narrow float32": (100 + rng.uniform(-0.001, 0.001, 20_000)).astype(np.float32),
        "constant": np.full(5000, 100.0),
        "constant zero": np.zeros(70),
        "constant negative": np.full(33, -1e-3),
        "two values": np.repeat([1.0, 3.0], 100),
        "small integers": rng.integers(-50, 50, 20_000),
        "integers beyond 2**53": rng.integers(-(2**63), 2**63 - 1, 20_000),
        "unsigned beyond 2**53": rng.integers(0, 2**64, 20_000, dtype=np.uint64),
        "int32": rng.integers(-(2**31), 2**31, 20_000, dtype=np.int32),
        "uint32": rng.integers(0, 2**32, 20_000, dtype=np.uint32),
        "bool": normal > 0.3,
        "subnormal": rng.integers(0, 2**40, 20_000, dtype=np.uint64).view(np.float64),
        "empty": np.empty(0),
        "one": np.array([0.1]),
        "all NaN": np.full(9, np.nan),
        "large": rng.uniform(-8e307, 8e307, 20_000),
    }


DATASETS = datasets()


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("data", DATASETS)
def test_uniform_buckets_are_numpys(data, k):
    assert differs_from_numpy(DATASETS[data], k) == []


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_uniform_buckets_with_all_values_on_edges_or_beside_them(k, name):
    rng = np.random.default_rng(k)
    for low, high in (
        (0.0, 1.0),
        (-0.3, 0.7),
        (99.9, 100.1),
        (-1e-3, 1e6),
        *np.sort(rng.normal(size=(20, 2))),
    ):
        edges = np.linspace(low, high, k + 1).astype(name)
        inner = strategies.neighbours(edges)
        values = np.concatenate(
            (inner[(inner >= edges[0]) & (inner <= edges[-1])], np.repeat(edges, 2))
        )
        assert differs_from_numpy(rng.permutation(values), k) == [], (low, high)


@pytest.mark.usefixtures("backend")
@given(st.data(), strategies.finite_doubles(min_size=1), st.integers(1, 70))
def test_uniform_buckets_are_numpys_for_any_numbers(data, values, k):
    with np.errstate(over="ignore"):
        single = values.astype(np.float32).astype(np.float64)
    numbers = data.draw(st.sampled_from([values, single]))
    numbers = numbers[np.isfinite(numbers)]
    with np.errstate(over="ignore"):
        spread = float(numbers.max(initial=0.0)) - float(numbers.min(initial=0.0))
    try:
        with np.errstate(all="ignore"):
            np.histogram(numbers, bins=k)
    except ValueError:
        event("numpy refuses")
        h = histogram(numbers, buckets=k)
        assert int(h.counts.sum()) == h.num == numbers.size
        return
    if math.isinf(spread):
        event("range overflows")
        assert int(histogram(numbers, buckets=k).counts.sum()) == numbers.size
        return
    assert differs_from_numpy(numbers, k) == []


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("k", KS)
def test_uniform_buckets_over_a_range_that_overflows(k):
    values = np.array([-1.7e308, 1.7e308, 0.0, 1.0, -1e300, 1.6e308])
    h = histogram(values, buckets=k)
    assert int(h.counts.sum()) == h.num == 6
    assert h.below_count == h.above_count == 0
    assert (h.buckets.edges[0], h.buckets.edges[-1]) == (-1.7e308, 1.7e308)
    below, counts, above = oracle.bucket_counts(np.sort(values), h.buckets.edges)
    assert (below, counts.tolist(), above) == (0, h.counts.tolist(), 0)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "value", [1e20, -1e20, 1e300, oracle.LARGEST, -oracle.LARGEST, 2.0**53, 5e-324]
)
@pytest.mark.parametrize("k", [1, 30, 1000])
def test_uniform_buckets_never_raise_where_numpy_has_too_few_doubles(value, k):
    for values in ([value] * 3, [value, math.nextafter(value, 0.0)]):
        h = histogram(np.array(values), buckets=k)
        assert len(h.buckets) == k
        below, counts, above = oracle.bucket_counts(np.sort(values), h.buckets.edges)
        assert (below, above, counts.tolist()) == (0, 0, h.counts.tolist())


EDGE_SETS = {
    "one bucket": [0.0, 1.0],
    "few": strategies.EDGES,
    "far away": [1e100, 1e101],
    "beyond 2**53": [-(2.0**62), -(2.0**53), 2.0**53, 2.0**53 + 2, 2.0**62],
    "thousand": np.linspace(-2.0, 2.0, 1001),
    "logarithmic": np.geomspace(1e-17, 1e17, 300),
    "extreme": [-oracle.LARGEST, -5e-324, 0.0, 5e-324, oracle.LARGEST],
    "neighbours": [math.nextafter(1.0, 0.0), 1.0, math.nextafter(1.0, 2.0)],
}


@pytest.mark.parametrize("edges", EDGE_SETS)
@pytest.mark.parametrize("data", DATASETS)
def test_explicit_edges_are_numpys(data, edges):
    values, edges = DATASETS[data], np.asarray(EDGE_SETS[edges], dtype=np.float64)
    doubles = values.astype(np.float64)
    finite = doubles[np.isfinite(doubles)]
    h = histogram(values, buckets=edges)
    assert h.to_numpy()[0].tolist() == np.histogram(finite, bins=edges)[0].tolist()
    assert np.array_equal(h.buckets.edges, edges)
    assert (h.below_count, h.above_count) == ((finite < edges[0]).sum(), (finite > edges[-1]).sum())
    assert oracle.differences(h, oracle.answer(values, edges)) == []


@pytest.mark.usefixtures("backend")
@given(st.data(), strategies.finite_doubles(), strategies.finite_doubles(min_size=2))
def test_any_explicit_edges_are_numpys(data, values, edges):
    edges = np.unique(edges)
    if edges.size < 2:
        event("too few edges")
        return
    picked = data.draw(
        st.lists(st.sampled_from(strategies.neighbours(edges).tolist()), max_size=20), "on edges"
    )
    values = np.concatenate((values, np.array(picked, dtype=np.float64)))
    assert wrong(values, edges) == []


@pytest.mark.usefixtures("backend")
def test_explicit_edges_equal_to_tensorflows_are_tensorflows():
    values = np.array([2**60 + 1, 7, -3])
    assert histogram(values, buckets=oracle.tensorflow_edges()) == histogram(values)


# -- min, max, sums ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["float32", "float64", "int32", "uint32", "int64", "uint64", "float16", "uint8"]
)
@pytest.mark.parametrize("size", [1, 3, 2047, 2049, 65537, 200_001])
def test_extremes_and_sums_at_any_length(name, size):
    rng = np.random.default_rng(size)
    dtype = strategies.DTYPES[name]
    if dtype.kind == "f":
        values = rng.normal(3, 1000, size).astype(dtype)
    else:
        values = rng.integers(
            np.iinfo(dtype).min, np.iinfo(dtype).max, size, dtype=dtype, endpoint=True
        )
    assert wrong(values) == []
    # Far nearer to the exact sum than the documented worst case.
    exact = oracle.exact_sum(values.astype(np.float64))
    magnitude = oracle.exact_sum(np.abs(values.astype(np.float64)))
    assert abs(Fraction(histogram(values).sum) - exact) <= magnitude * Fraction(1, 10**14)


@pytest.mark.parametrize("place", [0, 1, 2, 3, 2047, 2048, 65535, 65536, -1])
@pytest.mark.parametrize("name", ["float32", "float64", "int32", "int64", "uint64"])
def test_no_element_is_passed_over_at_a_border(name, place):
    values = np.ones(65536 + 2048 + 3, dtype=name)
    values[place] = 100
    h = histogram(values)
    assert (
        h.max,
        h.sum,
        int(h.counts[oracle.tensorflow_edges().searchsorted(100, "right") - 1]),
    ) == (
        100.0,
        values.size + 99.0,
        1,
    )
    assert wrong(values) == []


@pytest.mark.parametrize("name", ["uint8", "int8", "float8_e5m2", "uint16", "bfloat16", "float16"])
@pytest.mark.parametrize("more", [0, 7, 65_541])
def test_sums_of_counted_patterns_are_correctly_rounded(name, more):
    patterns = strategies.all_patterns(name)
    size = host.WIDEN_BELOW[8 * patterns.itemsize] + more
    patterns = patterns[np.isfinite(strategies.decoded(patterns).astype(np.float64))]
    values = np.random.default_rng(size).choice(patterns, size)
    h = histogram(values)
    doubles = strategies.decoded(values).astype(np.float64)
    assert h.sum == math.fsum(doubles.tolist())
    assert h.sum_squares == math.fsum((doubles * doubles).tolist())


SUMS = {
    "cancels after an overflow": ([1e308, 1e308, -1e308, -1e308], 0.0),
    "overflows": ([1.7e308] * 3, math.inf),
    "overflows below": ([-1.7e308] * 3, -math.inf),
    "fits again": ([1.7e308, 1.7e308, -1.7e308], 1.7e308),
    "large and small": ([1.7e308, -1.7e308, 1.0, 2.0], 3.0),
    "largest": ([oracle.LARGEST], oracle.LARGEST),
    "squares overflow, sum does not": ([1e200, 2e200], 3e200),
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", SUMS)
@pytest.mark.parametrize("specials", [[], [math.nan, math.inf, -math.inf]])
def test_sums_of_huge_numbers(case, specials):
    values, expected = SUMS[case]
    h = histogram([*values, *specials])
    assert h.sum == pytest.approx(expected, rel=1e-15, abs=0)
    assert h.sum_squares == math.inf
    assert h.nan_count == (1 if specials else 0)


@pytest.mark.parametrize("size", [70_000, 300_000])
def test_sums_of_huge_numbers_over_many_chunks(size):
    signs = np.where(np.arange(size) < size // 2, 1.0, -1.0)
    assert histogram(signs * 2.0**1023).sum == 0.0
    assert wrong(signs * 1.5e308) == []
    assert histogram(np.full(size, 1.7e308)).sum == math.inf
    assert histogram(np.full(size, -1.7e308)).sum == -math.inf
    assert wrong(np.append(signs * 1.5e308, 1e300)) == []


@pytest.mark.usefixtures("backend")
@given(strategies.finite_doubles(max_size=300))
def test_the_sum_is_never_nan(values):
    h = histogram(values)
    assert not math.isnan(h.sum)
    assert not math.isnan(h.sum_squares)


# -- layouts -----------------------------------------------------------------------------------------------------

BASE = {
    name: random_patterns(name, 210 * 700, seed=4)
    if name in strategies.WIDE
    else np.random.default_rng(4).choice(strategies.all_patterns(name), 210 * 700)
    for name in ("float32", "float64", "int64", "bfloat16", "float16", "float8_e4m3fn", "bool")
}


@pytest.mark.parametrize("layout", strategies.LAYOUTS)
@pytest.mark.parametrize("name", BASE)
def test_every_layout_has_the_same_answer(name, layout):
    array = strategies.LAYOUTS[layout](BASE[name])
    before = array.tobytes()
    plain = np.ascontiguousarray(array).reshape(-1).astype(strategies.DTYPES[name])
    expected = oracle.answer(strategies.decoded(plain))
    for threads in (1, 3):
        assert oracle.differences(histogram(array, threads=threads), expected) == []
    assert np.array_equal(histogram(array, buckets=30).counts, histogram(plain, buckets=30).counts)
    assert np.array_equal(
        histogram(array, buckets=strategies.EDGES).counts,
        histogram(plain, buckets=strategies.EDGES).counts,
    )
    assert array.tobytes() == before


@pytest.mark.usefixtures("backend")
@given(st.data(), strategies.of_any_format())
def test_every_layout_of_small_arrays(data, values):
    layouts = (
        strategies.LAYOUTS
        if values.size
        else ["contiguous", "strided", "reversed", "read-only", "big-endian"]
    )
    layout = data.draw(st.sampled_from(list(layouts)), "layout")
    array = strategies.LAYOUTS[layout](values)
    plain = np.ascontiguousarray(array).reshape(-1).astype(values.dtype)
    expected = oracle.answer(strategies.decoded(plain))
    assert oracle.differences(histogram(array), expected) == []


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", strategies.DTYPES)
def test_an_array_of_no_dimensions(name):
    array = np.array(1, dtype=strategies.DTYPES[name])
    assert array.shape == ()
    h = histogram(array)
    assert (h.num, h.min, h.max, h.sum) == (1, 1.0, 1.0, 1.0)
    assert histogram(array, buckets=2).counts.tolist() == [0, 1]
    assert histogram(array, buckets=[0, 1]).counts.tolist() == [1]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", strategies.DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
@pytest.mark.parametrize("buckets", ["tensorflow", 5, [0.0, 1.0]])
def test_an_empty_array_is_a_histogram_of_nothing(name, shape, buckets):
    h = histogram(np.empty(shape, dtype=strategies.DTYPES[name]), buckets=buckets)
    assert (h.num, h.min, h.max, h.sum, h.sum_squares, int(h.counts.sum())) == (
        0,
        None,
        None,
        0.0,
        0.0,
        0,
    )
    assert (h.nan_count, h.zero_count, h.below_count, h.above_count) == (0, 0, 0, 0)


def test_a_memory_map_is_read_in_place(tmp_path):
    values = BASE["float32"]
    values.tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", dtype=np.float32, mode="r")
    assert histogram(mapped) == histogram(values)
    shifted = np.memmap(tmp_path / "data", dtype=np.float32, mode="r", offset=12)
    assert histogram(shifted) == histogram(values[3:])


# -- threads -----------------------------------------------------------------------------------------------------


def bits_of(h):
    numbers = struct.pack("<4d", h.sum, h.sum_squares, h.min, h.max)
    arrays = (h.counts, h.exponent_counts, h.cast_losses, h.buckets.edges)
    return (
        numbers
        + b"".join(array.tobytes() for array in arrays)
        + repr((h.num, h.below_count)).encode()
    )


@pytest.mark.parametrize("buckets", ["tensorflow", 30, 5000, strategies.EDGES], ids=str)
@pytest.mark.parametrize("name", ["float32", "float64", "int64", "uint32", "bfloat16", "int8"])
def test_the_same_bits_for_every_number_of_threads(name, buckets):
    size = 65536 * 33 + 4321
    values = np.random.default_rng(5).normal(0, 100, size)
    values = (np.abs(values) if name == "uint32" else values).astype(strategies.DTYPES[name])
    one = histogram(values, threads=1, buckets=buckets)
    assert one.num == size
    for threads in (2, 3, 8):
        assert bits_of(histogram(values, threads=threads, buckets=buckets)) == bits_of(one), threads


def test_the_same_bits_for_every_number_of_threads_where_sums_overflow_and_layouts_are_odd():
    values = np.random.default_rng(6).uniform(-1, 1, size=(1000, 900)) * 1.7e308
    values[3, ::7] = np.nan
    with np.errstate(invalid="ignore"):
        for array in (values, values.T, values[:, ::-1], values[:, 1:]):
            one = histogram(array, threads=1)
            assert not math.isnan(one.sum)
            for threads in (2, 3, 8):
                assert bits_of(histogram(array, threads=threads)) == bits_of(one)


@pytest.mark.parametrize("name", ["float32", "float64", "int32", "uint8", "float16"])
def test_counters_of_32_bits_are_emptied_before_they_overflow(name, monkeypatch):
    values = np.ones(65536 * 40, dtype=name)
    if values.dtype.kind == "f" and values.itemsize >= 4:
        values = np.repeat(values, 2)[::2]  # contiguous ones empty their counters after each job
    monkeypatch.setattr(looks, "_FLUSH", 65536 * 3)
    folds = []
    fold = cpu.fold

    def recorded(counts, totals):
        folds.append(int(counts.sum()))
        fold(counts, totals)

    monkeypatch.setattr(cpu, "fold", recorded)
    for threads in (1, 2):
        folds.clear()
        h = histogram(values, threads=threads)
        size = values.size
        assert (h.num, h.sum, int(h.counts.sum())) == (size, size, size)
        assert sum(folds) == size
        assert max(folds) <= 65536 * (3 + 64)
        assert len(folds) > threads


def test_fold_adds_up_and_clears():
    counts = np.array([[1, 2, 2**32 - 1], [4, 5, 2**32 - 1]], dtype=np.uint32)
    totals = np.array([10, 0, 1], dtype=np.uint64)
    cpu.fold(counts, totals)
    assert totals.tolist() == [15, 7, 2 * (2**32 - 1) + 1]
    assert not counts.any()


# -- chunks and slots --------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    shape=st.lists(st.integers(0, 6), max_size=4),
    order=st.randoms(use_true_random=False),
    steps=st.lists(st.sampled_from([1, 2, -1, -2]), min_size=4, max_size=4),
    size=st.integers(1, 30),
    threads=st.integers(1, 5),
)
def test_chunks_hold_every_element_once(shape, order, steps, size, threads):
    whole = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)
    axes = list(range(whole.ndim))
    order.shuffle(axes)
    array = whole.transpose(axes)[tuple(slice(None, None, step) for step in steps[: whole.ndim])]
    chunks = Chunks(array, size)
    found, rows_seen = [], []
    buffer = chunks.buffer()
    for span in chunks.spans(threads):
        values, first, last, rows = chunks.take(span, buffer)
        part = values[first * size : last * size]
        assert part.size <= size * len(span)
        found += part.tolist()
        rows_seen += list(range(chunks.count)[rows])[first:last]
    event("in place" if buffer.size == 0 else "through a buffer")
    assert sorted(found) == sorted(array.reshape(-1).tolist())
    assert sorted(rows_seen) == list(range(chunks.count))


@pytest.mark.parametrize(
    "turn", [lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::-1].T, lambda a: a[None, :, None]]
)
def test_what_is_contiguous_in_some_order_is_not_copied(turn):
    array = np.arange(600, dtype=np.uint64).reshape(20, 30)
    chunks = Chunks(turn(array), 100)
    values, *_ = chunks.take(range(1), chunks.buffer())
    assert np.shares_memory(values, array)
    assert values.tolist() == list(range(600))


def test_a_read_only_array_is_read_in_place_and_kept_alive():
    array = np.frombuffer(struct.pack("<3I", 7, 8, 9), dtype="<u4")
    address = array.ctypes.data
    chunks = Chunks(array, 100)
    del array
    values, *_ = chunks.take(range(1), chunks.buffer())
    assert values.ctypes.data == address
    assert values.tolist() == [7, 8, 9]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_the_bit_table_tells_every_slot_apart(name):
    slots = slots_of(name)
    patterns = np.array(strategies.special_patterns(name), dtype=strategies.carrier(name))
    shift = patterns.dtype.type({"float32": 18, "float64": 47}[name])
    found = (slots.table[patterns >> shift] + patterns) >> shift
    with np.errstate(invalid="ignore"):
        starts = strategies.from_patterns(patterns, name).astype(np.float64)
    assert found.max() < slots.kind.size
    assert (np.diff(found.astype(np.int64)) >= 0).all()
    kinds = np.select(
        [np.isnan(starts), starts == np.inf, starts == -np.inf, starts == 0], [2, 3, 4, 1], 0
    )
    assert slots.kind[found].tolist() == kinds.tolist()


def test_a_cell_with_two_cuts_is_refused():
    from fasthist.kernels import slots

    cuts = np.array([(1 << 20) + 1, (1 << 20) + 2], dtype=np.uint64)
    with pytest.raises(AssertionError, match="cell 4 of float32 holds more than one cut"):
        slots.bit_table(cuts, FORMATS["float32"])


# -- the kernels as Python: every line of cpu.py, in a few thousand elements -------------------------------------

SMALL = {
    "float32": lambda rng: strategies.from_patterns(
        rng.integers(0, 2**32, 300, dtype=np.uint32), "float32"
    ),
    "float64": lambda rng: strategies.from_patterns(
        rng.integers(0, 2**64, 300, dtype=np.uint64), "float64"
    ),
    "int32": lambda rng: rng.integers(-(2**31), 2**31, 203, dtype=np.int32),
    "uint32": lambda rng: rng.integers(0, 2**32, 203, dtype=np.uint32),
    "int64": lambda rng: rng.integers(-(2**63), 2**63 - 1, 203, dtype=np.int64),
    "uint64": lambda rng: rng.integers(0, 2**64, 203, dtype=np.uint64),
    "uint8": lambda rng: rng.integers(0, 2**8, 203, dtype=np.uint8),
    "int8": lambda rng: rng.integers(-(2**7), 2**7, 203, dtype=np.int8),
    "bool": lambda rng: rng.integers(0, 2, 203).astype(bool),
    "float16": lambda rng: strategies.from_patterns(
        rng.integers(0, 2**16, 203, dtype=np.uint16), "float16"
    ),
    "bfloat16": lambda rng: strategies.from_patterns(
        rng.integers(0, 2**16, 203, dtype=np.uint16), "bfloat16"
    ),
}


@pytest.mark.usefixtures("backend")
@pytest.mark.nojit
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("threads", [1, 2])
def test_small_arrays(name, threads):
    values = SMALL[name](np.random.default_rng(7))
    assert wrong(values, threads=threads) == []
    assert wrong(values, strategies.EDGES, threads=threads) == []


@pytest.mark.usefixtures("backend")
@pytest.mark.nojit
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_small_arrays_of_limits(name):
    values = np.random.default_rng(8).choice(strategies.limits_and_neighbours(name), 1500)
    assert wrong(values) == []


@pytest.mark.usefixtures("backend")
@pytest.mark.nojit
@pytest.mark.parametrize("name", ["int64", "uint64"])
def test_small_arrays_of_large_integers(name):
    values = np.random.default_rng(8).choice(strategies.limits_and_neighbours(name), 500)
    h = histogram(values)
    assert np.array_equal(h.counts, oracle.answer(values).counts)


@pytest.mark.usefixtures("backend")
@pytest.mark.nojit
@pytest.mark.parametrize("k", [1, 7, 64, 5000])
def test_small_arrays_in_uniform_buckets(k):
    rng = np.random.default_rng(9)
    edges = np.linspace(-0.3, 0.7, min(k, 300) + 1)
    beside = strategies.neighbours(edges)
    values = np.concatenate((edges, beside[(beside >= -0.3) & (beside <= 0.7)], [np.nan, np.inf]))
    assert differs_from_numpy(rng.permutation(values), k) == []
    assert differs_from_numpy(rng.normal(size=301).astype(np.float32), k) == []
    assert differs_from_numpy(np.full(5, 2.5), k) == []
    assert differs_from_numpy(rng.integers(0, 9, 100), k) == []


@pytest.mark.usefixtures("backend")
@pytest.mark.nojit
@pytest.mark.parametrize("name", ["float32", "float64", "int32"])
def test_small_arrays_of_values_on_edges(name):
    edges = np.array([-2.0, 0.0, 1.0, 3.0, 4.0, 9.0])
    values = np.repeat(np.concatenate((edges, edges - 1, [10.0])), 3).astype(name)
    assert wrong(values, edges) == []
    assert wrong(values, edges[:2]) == []


@pytest.mark.usefixtures("backend")
@pytest.mark.nojit
def test_small_sums_of_huge_numbers():
    assert histogram([1e308, 1e308, -1e308, -1e308, 1.0]).sum == 1.0
    assert histogram([1.7e308] * 3).sum == math.inf
    assert histogram(np.array([np.nan, np.inf, -np.inf])).num == 0
    assert histogram(np.array([np.nan, np.inf, -np.inf], dtype=np.float32)).num == 0


@pytest.mark.nojit
def test_codes_of_16_bits_in_a_table_of_patterns():
    patterns = np.concatenate((np.arange(0, 65536, 50), [3, 3])).astype(np.uint16)
    counters = np.zeros((2, 65536), dtype=np.uint32)
    cpu_patterns.count_codes16(patterns, counters)
    assert counters.sum(axis=0).tolist() == np.bincount(patterns, minlength=65536).tolist()


def small_blocks(monkeypatch):
    """Have interpreted kernels work in chunks of 32 elements and blocks of 8, wherever these are imported."""
    for module in [
        module for name, module in sys.modules.items() if name.startswith("fasthist.kernels")
    ]:
        for name, size in (("CHUNK", 32), ("BLOCK", 8)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, size)
    monkeypatch.setattr(host, "WIDEN_BELOW", {8: 8, 16: 128})


@pytest.mark.nojit
@pytest.mark.parametrize("name", [name for name in SMALL if not name.endswith("float16")])
@pytest.mark.parametrize("threads", [1, 3])
def test_borders_of_chunks_and_blocks(name, threads, monkeypatch):
    if hasattr(cpu.fold, "py_func"):
        pytest.skip("compiled kernels hold the sizes of chunk and block")
    small_blocks(monkeypatch)
    monkeypatch.setattr(looks, "_FLUSH", 64)
    rng = np.random.default_rng(10)
    for size in (31, 32, 33, 95, 160):
        values = np.resize(SMALL[name](rng), size)
        for layout in (values, np.repeat(values, 2)[::2]):
            assert wrong(layout, threads=threads) == []
            assert wrong(layout, strategies.EDGES, threads=threads) == []
            assert differs_from_numpy(layout, 7) == []


@pytest.mark.nojit
def test_borders_of_chunks_of_16_bits(monkeypatch):
    if hasattr(cpu.fold, "py_func"):
        pytest.skip("compiled kernels hold the sizes of chunk and block")
    small_blocks(monkeypatch)
    values = np.resize(SMALL["bfloat16"](np.random.default_rng(11)), 71)
    assert wrong(values) == []
