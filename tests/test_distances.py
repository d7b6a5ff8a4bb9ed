"""Distances of histograms: against scipy's of the values, within the bound of the buckets, and what must hold for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fasthist import Buckets, History, SummaryWriter, histogram, read
from fasthist.distances import distances_of_pairs, jensen_shannon, psi, wasserstein
from fasthist.events.parsing import Moments
from fasthist.events.restoring import join

ALL = (wasserstein, jensen_shannon, psi)
BUCKETS = ("auto", "tensorflow", 40)

values = hnp.arrays(
    np.float64,
    st.integers(1, 80),
    elements=st.floats(-1e3, 1e3).map(lambda x: x if abs(x) > 1e-9 else 0.0),
)


def room(*histograms):
    """Give how far the distance of rows may be from that of the values: half of their mean width, each."""
    found = 0.0
    for one in histograms:
        left, right, counts = one.to_rows().T
        found += float(counts @ (right - left) / counts.sum() / 2)
    return found * (1 + 1e-9) + 1e-12


def scipy_distance(need, a, b):
    return need("scipy.stats").wasserstein_distance(a, b)


# ---- Wasserstein


@pytest.mark.parametrize("buckets", BUCKETS)
@given(a=values, b=values)
def test_wasserstein_is_that_of_the_values_within_the_bound(need, buckets, a, b):
    first, second = histogram(a, buckets=buckets), histogram(b, buckets=buckets)
    true = scipy_distance(need, a, b)
    assert abs(wasserstein(first, second) - true) <= room(first, second) + 1e-9 * true


@given(a=values, b=values)
def test_wasserstein_between_different_buckets(need, a, b):
    first, second = histogram(a, buckets="tensorflow"), histogram(b, buckets=7)
    true = scipy_distance(need, a, b)
    assert abs(wasserstein(first, second) - true) <= room(first, second) + 1e-9 * true


@given(a=values, shift=st.floats(-100, 100))
def test_a_shift_is_its_own_distance(a, shift):
    first, second = histogram(a, buckets="tensorflow"), histogram(a + shift, buckets="tensorflow")
    assert abs(wasserstein(first, second) - abs(shift)) <= room(first, second) + 1e-9


@given(a=values, b=values, c=values)
def test_wasserstein_obeys_the_triangle_inequality(a, b, c):
    a, b, c = histogram(a), histogram(b), histogram(c)
    assert wasserstein(a, c) <= (wasserstein(a, b) + wasserstein(b, c)) * (1 + 1e-9) + 1e-9


def test_wasserstein_of_many_values(need):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 50_000), rng.normal(0.3, 1.2, 50_000)
    true = scipy_distance(need, a, b)
    for buckets in BUCKETS:
        found = wasserstein(histogram(a, buckets=buckets), histogram(b, buckets=buckets))
        assert found == pytest.approx(true, rel=0.02)


@pytest.mark.nojit
def test_pairs_that_are_joined_are_each_as_far_apart_as_alone(tmp_path):
    rng = np.random.default_rng(1)
    shapes = [
        rng.normal(size=2000),
        rng.normal(size=5000),
        rng.uniform(-1, 0.5, 4000),
        rng.integers(0, 9, 3000),
    ]
    for run, scale in (("a", 1.0), ("b", 1.5)):
        with SummaryWriter(tmp_path / run) as writer:
            for step, values in enumerate(shapes):
                writer.add_histogram("w", np.multiply(values, scale), step)
    a, b = (History.open(tmp_path / run)["w"] for run in ("a", "b"))
    joined = [join(one.forms(np.arange(len(shapes)))) for one in (a, b)]
    assert joined[0].places.tolist() == list(range(len(shapes)))
    pairs = np.array([(0, 0), (3, 1), (2, 2), (1, 1), (0, 3)])
    found = distances_of_pairs(*joined, pairs)
    alone = [wasserstein(a[int(i)], b[int(j)]) for i, j in pairs]
    assert found.tolist() == pytest.approx(alone, rel=1e-9)
    assert distances_of_pairs(joined[0], joined[0], pairs[::2])[0] == 0.0


def test_pairs_too_far_apart_for_float64_are_left_to_who_can():
    limits, counts = np.array([-1.7e308, 1.0, 1.7e308]), np.array([0.0, 1.0, 1.0])
    joined = join([Moments((-1.7e308, 1.7e308, 2.0, 0.0, 0.0), limits.tobytes(), counts.tobytes())])
    assert np.isnan(distances_of_pairs(joined, joined, np.array([[0, 0]]))).all()


@pytest.mark.nojit
def test_wasserstein_by_hand():
    a = histogram([0.5] * 4, buckets=[0, 1, 2])
    b = histogram([1.5] * 3, buckets=[0, 1, 2])
    assert wasserstein(a, b) == pytest.approx(1.0)
    # Half of the values of [0, 2] have to go to [0, 1], by 1 on average.
    wide, left = histogram([0.0, 2.0], buckets=[0, 2]), histogram([0.0, 1.0], buckets=[0, 1])
    assert wasserstein(wide, left) == pytest.approx(0.5)
    # They cross in the middle: each half moves by a fourth.
    inner = histogram([0.5, 1.5], buckets=[0.5, 1.5])
    assert wasserstein(wide, inner) == pytest.approx(0.25)


def test_wasserstein_at_the_ends_of_float64():
    largest = np.finfo(np.float64).max
    ends = histogram([-largest, largest])
    assert wasserstein(ends, histogram([largest])) == pytest.approx(largest, rel=1e-3)
    assert wasserstein(histogram([-largest]), histogram([largest])) == math.inf
    assert wasserstein(histogram([0.0]), histogram([1e-300])) < 1e-7


# ---- Jensen-Shannon and PSI


def levels(shares, at=None):
    """Give a thousand values, so many of each level."""
    counts = np.round(np.asarray(shares) * 1000).astype(int)
    return np.repeat(np.arange(counts.size, dtype=float) if at is None else at, counts)


@given(data=st.data())
def test_jensen_shannon_of_levels_is_scipys(need, data):
    count = data.draw(st.integers(2, 6))
    p, q = (
        np.array(data.draw(st.lists(st.integers(20, 60), min_size=count, max_size=count)))
        for _ in range(2)
    )
    a, b = (histogram(np.repeat(np.arange(count) * 0.25 - 0.5, part)) for part in (p, q))
    expected = need("scipy.spatial.distance").jensenshannon(p, q, base=2) ** 2
    assert jensen_shannon(a, b) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_jensen_shannon_is_little_less_than_that_of_the_counts(need, seed):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(), rng.uniform(0.5, 2)
    edges = Buckets(np.linspace(-9, 9, 200))
    first, second = (
        histogram(np.clip(values, -8.9, 8.9), buckets=edges)
        for values in (rng.normal(0, 1, 20_000), rng.normal(mean, std, 20_000))
    )
    jensenshannon = need("scipy.spatial.distance").jensenshannon
    expected = jensenshannon(first.counts, second.counts, base=2) ** 2
    assert 0.9 * expected - 0.003 <= jensen_shannon(first, second) <= expected + 1e-9


@pytest.mark.parametrize("buckets", BUCKETS)
def test_jensen_shannon_of_normals(buckets):
    """By numerical integration of the densities; chance and the twenty parts cost some percent."""
    x = np.linspace(-12, 12, 200_001)
    p, q = (np.exp(-((x - mean) ** 2) / 2) for mean in (0.0, 1.0))
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    expected = (p @ np.log2(p / middle) + q @ np.log2(q / middle)) / 2
    rng = np.random.default_rng(1)
    a, b, c = (histogram(rng.normal(mean, 1, 100_000), buckets=buckets) for mean in (0, 1, 0))
    assert jensen_shannon(a, b) == pytest.approx(expected, rel=0.05)
    assert jensen_shannon(a, c) < 0.002


def test_nothing_in_common_is_one_bit():
    assert jensen_shannon(histogram([0.0, 1.0]), histogram([2.0, 3.0])) == 1.0
    assert jensen_shannon(histogram(np.zeros(9)), histogram([1e-3])) == 1.0


@pytest.mark.parametrize(
    ("p", "q"),
    [((0.6, 0.4), (0.2, 0.8)), ((0.2, 0.5, 0.3), (0.3, 0.3, 0.4)), ((1.0, 0.0), (0.0, 1.0))],
)
def test_psi_of_levels_by_its_formula(p, q):
    a, b = histogram(levels(p)), histogram(levels(q))
    p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
    assert psi(a, b) == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=1e-6)


@pytest.mark.parametrize("buckets", BUCKETS)
@pytest.mark.parametrize("mean", [0.1, 0.5, 2.0])
def test_psi_of_the_values_themselves(buckets, mean):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=100_000), rng.normal(mean, 1.1, size=100_000)
    cuts = np.quantile(a, np.arange(1, 10) / 10)
    p, q = (
        np.diff(np.searchsorted(np.sort(x), cuts), prepend=0, append=x.size) / x.size
        for x in (a, b)
    )
    expected = np.sum((q - p) * np.log(q / p))
    found = psi(histogram(a, buckets=buckets), histogram(b, buckets=buckets))
    assert found == pytest.approx(expected, rel=0.1, abs=0.002)


@pytest.mark.parametrize("distance", [jensen_shannon, psi])
def test_zeros_are_one_value_however_wide_their_row_is(distance):
    """The row of a spike is as wide as a share of the range, which an outlier changes."""
    rng = np.random.default_rng(4)
    relu = np.maximum(rng.normal(size=50_000), 0)
    other = relu.copy()
    other[0] = 40.0
    assert histogram(relu).to_rows()[0, 1] != histogram(other).to_rows()[0, 1]
    assert distance(histogram(relu), histogram(other)) < 0.01
    thinner = np.where(rng.random(relu.size) < 0.5, relu, 0)
    assert distance(histogram(relu), histogram(thinner)) > 0.04


# ---- all of them


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("buckets", BUCKETS)
@given(a=values, b=values)
def test_never_negative_and_0_for_the_same(distance, buckets, a, b):
    first, second = histogram(a, buckets=buckets), histogram(b, buckets=buckets)
    assert distance(first, first) == 0.0
    assert distance(first, histogram(a.copy(), buckets=buckets)) == 0.0
    found = distance(first, second)
    assert 0.0 <= found < math.inf
    if distance is jensen_shannon:
        assert found <= 1.0


@pytest.mark.parametrize("distance", [wasserstein, jensen_shannon])
@given(a=values, b=values)
def test_symmetry(distance, a, b):
    a, b = histogram(a), histogram(b)
    assert distance(a, b) == distance(b, a)


@pytest.mark.parametrize("distance", ALL)
def test_without_values_there_is_none(distance):
    nothing, something = histogram([np.nan]), histogram([1.0])
    assert distance(nothing, something) is None
    assert distance(something, nothing) is None
    assert distance(nothing, nothing) is None


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("buckets", BUCKETS)
def test_a_histogram_read_back_is_where_it_was(distance, buckets, tmp_path):
    one = histogram(np.random.default_rng(5).normal(size=2000).astype("f4"), buckets=buckets)
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", one, 0)
    (found,) = read(tmp_path)
    assert distance(one, found.histogram) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("distance", ALL)
def test_the_whole_range_of_float64(distance):
    largest = np.finfo(np.float64).max
    ends, inner = histogram([-largest, 0.0, largest]), histogram([-1.0, 1.0])
    assert distance(ends, inner) > 0
    assert distance(inner, ends) > 0
