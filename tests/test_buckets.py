"""Where buckets begin and end."""

from __future__ import annotations

import hashlib
import math
import pickle
import re

import numpy as np
import oracle
import pytest
import strategies
from hypothesis import assume, event, given
from hypothesis import strategies as st

from fasthist import FasthistError
from fasthist.buckets import (
    MAX_UNIFORM,
    Buckets,
    parse_buckets,
    tensorflow_buckets,
    uniform_buckets,
)
from fasthist.errors import BucketsError


def test_tensorflows_limits_are_the_running_products_doubles():
    edges = tensorflow_buckets().edges
    positive = edges[(edges > 0) & (edges < 1e300)]
    assert hashlib.sha256(positive.astype("<f8").tobytes()).hexdigest() == oracle.LIMITS_SHA256
    assert np.array_equal(edges, oracle.tensorflow_edges())
    assert len(tensorflow_buckets()) == 1550
    assert tensorflow_buckets() is tensorflow_buckets()


def test_edges_are_copied_and_frozen():
    edges = np.array([0.0, 1.0, 2.0])
    buckets = Buckets(edges)
    edges[1] = 1.5
    assert buckets.edges.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        buckets.edges[0] = 7
    with pytest.raises(AttributeError):
        buckets.edges = edges
    with pytest.raises(ValueError, match="read-only"):
        tensorflow_buckets().edges[0] = 7


@pytest.mark.parametrize("edges", [[0, 1, 2], (0, 1, 2), range(3), np.arange(3), np.arange(3.0)])
def test_edges_come_as_any_sequence(edges):
    assert Buckets(edges) == Buckets([0.0, 1.0, 2.0])
    assert parse_buckets(edges) == Buckets([0.0, 1.0, 2.0])
    assert Buckets(edges).edges.dtype == np.float64


WRONG = {
    "few": ([1.0], r"shape \(1,\).*at least two edges"),
    "none": ([], r"shape \(0,\).*at least two edges"),
    "flat": ([[0.0, 1.0]], r"shape \(1, 2\).*flat sequence"),
    "nan": ([0.0, math.nan, 2.0], r"edge #1 is nan. Accepted: finite edges"),
    "infinite": ([-1.0, 0.0, math.inf], r"edge #2 is inf. Accepted: finite.*above_count"),
    "falling": ([0.0, 2.0, 1.0], r"do not increase: #1 is 2.0 and #2 is 1.0.*numpy.unique"),
    "equal": ([0.0, 0.0], r"do not increase: #0 is 0.0 and #1 is 0.0"),
    "zeros": ([-0.0, 0.0], r"do not increase"),
    "words": (["a", "b"], r"'a'.*must be numbers. Accepted: \"auto\", \"tensorflow\""),
    "ragged": ([[0.0], [1.0, 2.0]], r"must be numbers"),
    "nothing": ([0.0, None, object()], r"must be numbers"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("make", [Buckets, parse_buckets])
def test_edges_that_cannot_be_are_refused(case, make):
    edges, text = WRONG[case]
    with pytest.raises(BucketsError, match=text):
        make(edges)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (
            "tensorflo",
            r"buckets='tensorflo' is not known. Accepted: \"auto\", \"tensorflow\", a whole number",
        ),
        ("", "buckets='' is not known"),
        (0, "buckets=0 must be between 1 and 1,048,576"),
        (-3, "buckets=-3 must be between 1 and"),
        (MAX_UNIFORM + 1, "buckets=1048577 must be between 1 and"),
        (10**30, "must be between 1 and"),
        (np.int64(0), "buckets=0 must be between 1 and"),
        (True, "buckets=True is neither a whole number nor edges"),
        (
            30.0,
            r"buckets=30.0 is neither a whole number nor edges. Accepted: \"auto\", \"tensorflow\"",
        ),
        (math.nan, "buckets=nan is neither"),
        (None, "buckets=None is neither"),
        ({"a": 1}, "must be numbers"),
    ],
)
def test_arguments_that_are_no_buckets_are_refused(argument, text):
    with pytest.raises(BucketsError, match=text) as caught:
        parse_buckets(argument)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FasthistError)
    assert len(caught.value.args) == 1


def test_arguments_that_are_buckets():
    buckets = Buckets([0, 1])
    assert parse_buckets(buckets) is buckets
    assert parse_buckets("tensorflow") is tensorflow_buckets()
    assert parse_buckets(1) == 1
    assert parse_buckets(MAX_UNIFORM) == MAX_UNIFORM
    assert type(parse_buckets(np.int32(30))) is int


def test_equality_and_hash_look_at_the_edges_alone():
    a, b = Buckets([0.0, 0.5, 1.0]), uniform_buckets(2, 0.0, 1.0)
    assert a.name != b.name
    assert a == b
    assert hash(a) == hash(b)
    assert hash(Buckets([-0.0, 1.0])) == hash(Buckets([0.0, 1.0]))
    assert Buckets([-0.0, 1.0]) == Buckets([0.0, 1.0])
    for other in (Buckets([0.0, 0.6, 1.0]), Buckets([0.0, 1.0]), tensorflow_buckets()):
        assert a != other
    assert a != [0.0, 0.5, 1.0]
    assert Buckets(oracle.tensorflow_edges()) == tensorflow_buckets()


def test_repr():
    assert repr(Buckets([0, 0.25, 1])) == "Buckets('edges', 2 from 0.0 to 1.0)"
    assert re.fullmatch(
        r"Buckets\('tensorflow', 1550 from -1.79.*e\+308 to .*\)", repr(tensorflow_buckets())
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    buckets = uniform_buckets(5, 0.1, 0.7)
    again = pickle.loads(pickle.dumps(buckets, protocol))
    assert again == buckets
    assert again.name == "uniform"
    assert not again.edges.flags.writeable
    assert pickle.loads(pickle.dumps(tensorflow_buckets(), protocol)) is tensorflow_buckets()
    assert len(pickle.dumps(tensorflow_buckets(), protocol)) < 200


def index_one(edges, value):
    """Say where a value belongs, one comparison at a time."""
    if value < edges[0]:
        return -1
    if value > edges[-1]:
        return len(edges) - 1
    inside = [i for i in range(len(edges) - 1) if edges[i] <= value < edges[i + 1]]
    return inside[0] if inside else len(edges) - 2


@given(strategies.finite_doubles(min_size=2, max_size=12), strategies.finite_doubles(max_size=20))
def test_index_says_which_bucket_holds_a_value(edges, values):
    edges = np.unique(edges)
    assume(edges.size >= 2)
    probes = np.concatenate((values, edges, [np.inf, -np.inf]))
    found = Buckets(edges).index(probes)
    assert found.tolist() == [index_one(edges.tolist(), value) for value in probes.tolist()]


@given(
    st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.one_of(st.integers(1, 40), st.just(5000))
)
def test_uniform_buckets_have_numpys_edges(a, b, count):
    low, high = min(a, b), max(a, b)
    try:
        expected = np.histogram_bin_edges(np.array([low, high]), bins=count)
    except ValueError:
        event("numpy refuses")
        expected = None
    edges = uniform_buckets(count, low, high).edges
    if expected is not None and (np.diff(expected) > 0).all():
        assert np.array_equal(edges, expected)
    else:
        assert edges.size == count + 1
        assert edges[0] <= low <= high <= edges[-1]


@pytest.mark.parametrize("count", [1, 2, 3, 30, 5000, MAX_UNIFORM])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 0.0),
        (100.0, 100.0),
        (1e16, 1e16),
        (-1e300, -1e300),
        (oracle.LARGEST, oracle.LARGEST),
        (-oracle.LARGEST, -oracle.LARGEST),
        (-oracle.LARGEST, oracle.LARGEST),
        (-oracle.LARGEST, 1.0),
        (math.nextafter(oracle.LARGEST, 0), oracle.LARGEST),
        (1.0, math.nextafter(1.0, 2)),
        (0.0, 5e-324),
        (-5e-324, 5e-324),
        (-1e308, 1.7e308),
    ],
)
def test_uniform_buckets_exist_for_every_range(count, low, high):
    edges = uniform_buckets(count, low, high).edges  # `Buckets` itself checks that they increase
    assert edges.size == count + 1
    assert edges[0] <= low
    assert high <= edges[-1]


def test_a_range_is_widened_no_further_than_needed():
    assert uniform_buckets(4, 3.0, 3.0).edges.tolist() == [2.5, 2.75, 3.0, 3.25, 3.5]
    edges = uniform_buckets(30, 1e16, 1e16).edges
    assert edges[-1] - edges[0] <= 4 * 30 * math.ulp(1e16)
