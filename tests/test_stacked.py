"""What ranks send each other, with NumPy for the engine: sums of histograms are those of all values together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest

import fasthist
from fasthist.errors import ArgumentError
from fasthist.kernels import packing
from fasthist.stacked import Stacked

RNG = np.random.default_rng


def added_up(ranks):
    """Do what an engine does."""
    stacked = [Stacked(one) for one in ranks]
    assert all(one.described() == stacked[0].described() for one in stacked)
    bounds = np.minimum.reduce([one.bounds() for one in stacked])
    for one in stacked:
        one.agree(bounds, len(ranks))
    sums = np.add.reduce([one.sums() for one in stacked])
    assert sums.dtype == np.int64
    return stacked[0].received(sums)


def arrays(rng):
    values = rng.normal(0, 10.0 ** rng.integers(-15, 25), 50)
    yield from (values, np.abs(values), -np.abs(values), values[:1], values[:0])
    yield np.where(rng.random(50) < 0.5, values, [0.0, np.nan, np.inf, -np.inf, 1e-300] * 10)
    yield rng.integers(-(2**63), 2**63, 40)
    yield np.array([-np.finfo("f8").max, np.finfo("f8").max])
    yield np.full(7, np.nan)


@pytest.mark.nojit
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("buckets", ["auto", "tensorflow", [-1e9, -1.0, -1e-3, 0.0, 2.0]])
def test_sums_are_those_of_the_whole(seed, buckets):
    rng = RNG(seed)
    pieces = [list(arrays(rng)) for _ in range(1 + seed % 4)]
    count = len(pieces[0])
    ranks = [
        {f"{i}": fasthist.histogram(piece[i], buckets=buckets) for i in rng.permutation(count)}
        for piece in pieces
    ]
    found = added_up(ranks)
    assert list(found) == list(ranks[0])
    for i in range(count):
        whole = np.concatenate([piece[i] for piece in pieces])
        expected = oracle.answer(whole, buckets if isinstance(buckets, list) else None)
        assert oracle.differences(found[f"{i}"], expected) == []


@pytest.mark.nojit
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_std_of_values_far_from_zero(ranks):
    rng = RNG(ranks)
    pieces = {
        "near": [1e6 + rng.normal(0, 1e-3, 1000 + rank) for rank in range(ranks)],
        "apart": [np.full(100, 1e6 + 1e-3 * rank) for rank in range(ranks)],
        "one": [np.append(1e6 + rng.normal(0, 1e-3, 300), [0.0] * (rank == 0)) for rank in range(ranks)],
        "some have none": [1e6 + rng.random(9 * (rank % 2)) for rank in range(ranks)],
        "none": [np.empty(0)] * ranks,
        "small": [rng.normal(0, 1e-150, 50) for _ in range(ranks)],
    }  # fmt: skip
    parts = [
        {tag: fasthist.histogram(piece[rank]) for tag, piece in pieces.items()}
        for rank in range(ranks)
    ]
    found = added_up(parts)
    assert [one.squared_deviations for one in added_up(parts[::-1]).values()] == [
        found[tag].squared_deviations for tag in pieces
    ]
    for tag, piece in pieces.items():
        whole = np.concatenate(piece)
        if whole.size:
            expected = (whole - whole[-1]).std()
            assert found[tag].std == pytest.approx(expected, rel=1e-7, abs=1e-12 * expected), tag
        else:
            assert found[tag].std is None


@pytest.mark.nojit
@pytest.mark.parametrize("change", [
    {"squared_deviations": None}, {"sum": None}, {"min": None}, {"sum": 1e300}, {"min": 30.0},
    {"squared_deviations": 1e300},
])  # fmt: skip
def test_deviations_that_one_rank_does_not_know(change):
    whole = fasthist.histogram([-3.0, 0.15, 20.0])
    found = added_up([{"a": whole, "b": whole}, {"a": replace(whole, **change), "b": whole}])
    assert found["b"].std == pytest.approx(whole.std, rel=1e-14)
    if None in change.values():
        assert found["a"].squared_deviations is None
    if "squared_deviations" in change or "min" in change:
        assert found["a"].sum == 2 * whole.sum


@pytest.mark.nojit
def test_counts_beyond_32_bits():
    small = fasthist.histogram([-1.0, 0.5, 3.0])
    large = replace(small, counts=small.counts * np.uint64(2**40), num=3 * 2**40)
    for ranks in ([large, small], [small, large], [large] * 5):
        found = added_up([{"a": small, "b": one, "c": small} for one in ranks])
        for tag, parts in (("a", [small] * len(ranks)), ("b", ranks)):
            assert np.array_equal(found[tag].counts, np.add.reduce([one.counts for one in parts]))
            assert found[tag].num == sum(one.num for one in parts)


def test_two_counts_share_a_word_only_where_neither_can_overflow():
    one = fasthist.histogram(np.ones(8))
    for num, size in ((2**30 - 1, 1), (2**30, 2)):
        part = replace(one, counts=one.counts // np.uint64(8) * np.uint64(num), num=num)
        stacked = Stacked({"a": part})
        stacked.agree(stacked.bounds(), 2)
        assert stacked.sums().size == size + 21
        found = added_up([{"a": part}] * 2)["a"]
        assert found.counts.max() == 2 * num


@pytest.mark.nojit
@pytest.mark.parametrize("change", [
    {"min": None}, {"max": None}, {"min": 40.0}, {"max": -40.0}, {"min": 0.1, "max": 0.2}, {"below_count": 3},
])  # fmt: skip
def test_counts_are_found_whatever_the_extremes_say(change):
    whole = fasthist.histogram([-3.0, 0.15, 20.0])
    found = added_up([{"a": replace(whole, **change)}, {"a": whole}])["a"]
    assert np.array_equal(found.counts, 2 * whole.counts)


@pytest.mark.nojit
def test_counts_in_any_memory():
    whole = fasthist.histogram(RNG(0).normal(size=1000))
    strided = np.repeat(whole.counts, 2)[::2]
    for counts in (strided, whole.counts.astype("u2"), whole.counts.astype(">u8")):
        found = added_up([{"a": replace(whole, counts=counts)}] * 2)["a"]
        assert np.array_equal(found.counts, 2 * whole.counts)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counts": np.zeros(3, "u8")}, "'a' has 3 counts. Accepted: one for each of its 1550"),
        ({"counts": np.zeros(1550)}, "'a' has counts that are not whole"),
    ],
)
def test_what_cannot_be_sent(change, told):
    with pytest.raises(ArgumentError, match=told):
        Stacked({"a": replace(fasthist.histogram([1.0]), **change)})


@pytest.mark.nojit
def test_addresses():
    for array in (np.arange(5, dtype="u8"), np.ones((2, 3))):
        assert packing.address(array) == array.ctypes.data
    for array in (np.arange(5, dtype="u4"), np.arange(6, dtype="u8")[::2], np.ones((2, 3)).T):
        assert packing.address(array) == 0
