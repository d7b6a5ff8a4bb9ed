"""Numpy's rules for the number of buckets: its edges, its counts, and no array that ends a training run."""

from __future__ import annotations

import numpy as np
import pytest
from event_files import all_events

import fasthist
from fasthist import intake
from fasthist.buckets import MAX_UNIFORM
from fasthist.errors import BucketsError

RULES = ["doane", "fd", "rice", "scott", "sqrt", "stone", "sturges"]
RNG = np.random.default_rng(12)

ARRAYS = {
    "normal": RNG.normal(0, 0.02, 3000),
    "float32": RNG.normal(3, 1, 3000).astype(np.float32),
    "float16": RNG.normal(0, 1, 500).astype(np.float16),
    "strided": RNG.normal(0, 1, (60, 40))[::2, ::-3],
    "big endian": RNG.normal(0, 1, 500).astype(">f4"),
    "int8": RNG.integers(-100, 100, 2000).astype(np.int8),
    "int64": RNG.integers(-(10**12), 10**12, 500),
    "bool": RNG.random(100) < 0.3,
    "outliers": RNG.standard_t(2, 5000),
    "zeros": np.zeros(10),
    "one": np.array([3.5]),
    "no spread in the middle": np.r_[np.zeros(100), 1.0, 2.0],
}


def check(histogram, values, rule):
    """Compare with numpy's answer for the finite values as float64."""
    finite = np.asarray(values).astype(np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    counts, edges = np.histogram(finite, bins=rule)
    assert histogram.buckets.edges.tolist() == edges.tolist()
    assert histogram.counts.tolist() == counts.tolist()
    assert histogram.num == finite.size


@pytest.mark.filterwarnings("ignore:The number of bins estimated may be suboptimal")  # numpy's own
@pytest.mark.parametrize("values", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("rule", RULES)
def test_edges_and_counts_are_numpys(rule, values):
    check(fasthist.histogram(values, buckets=rule), values, rule)


def test_what_is_not_finite_is_counted_apart():
    values = np.r_[ARRAYS["normal"], [np.nan] * 3, np.inf, -np.inf]
    histogram = fasthist.histogram(values, buckets="fd")
    check(histogram, values, "fd")
    assert (histogram.nan_count, histogram.posinf_count, histogram.neginf_count) == (3, 1, 1)


def test_a_tree(need):
    torch = need("torch")
    tree = {
        "array": np.array([0.5, 1.0, 4.0]),
        "half": torch.randn(300).to(torch.bfloat16),
        "done": fasthist.histogram([1.0]),
    }
    found = fasthist.histograms(tree, buckets="sqrt")
    assert list(found) == [*tree]
    check(found["array"], tree["array"], "sqrt")
    check(found["half"], tree["half"].double().numpy(), "sqrt")
    assert found["done"] == tree["done"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308, 0.0],  # the range overflows
        [1e16, 1e16 + 2, 1e16 + 4],  # between these are few numbers
        [0.0, 5e-324, 1e-323],
        [],
        [np.nan, np.inf],
    ],
    ids=str,
)
def test_what_numpy_raises_at_is_counted(rule, values):
    finite = np.isfinite(values).sum()
    histogram = fasthist.histogram(values, buckets=rule)
    assert histogram.num == histogram.counts.sum() == finite
    assert histogram.below_count == histogram.above_count == 0


@pytest.mark.parametrize("scale", [1e12, 1e300])
def test_an_outlier_does_not_take_all_memory(scale):
    values = np.r_[
        ARRAYS["normal"], scale
    ]  # numpy would make 1e15 buckets, or more than it can count
    histogram = fasthist.histogram(values, buckets="fd")
    assert len(histogram.buckets) == MAX_UNIFORM
    assert (histogram.num, histogram.min, histogram.max) == (3001, values.min(), scale)


def test_the_writers_take_them_too(tmp_path, need):
    classes = [fasthist.SummaryWriter]
    need("tensorboard")
    if need("torch"):
        from fasthist.adapters.torch import SummaryWriter

        classes.append(SummaryWriter)
    for number, writer_class in enumerate(classes):
        with writer_class(tmp_path / str(number)) as writer:
            for step, rule in enumerate(RULES):
                writer.add_histogram("a", ARRAYS["outliers"], step, bins=rule)
        for event, rule in zip(all_events(writer.log_dir), RULES, strict=True):
            counts, _ = np.histogram(ARRAYS["outliers"], bins=rule)
            written = np.array(event.summary.value[0].histo.bucket)
            assert written[written > 0].tolist() == counts[counts > 0].tolist()


def test_our_auto_is_the_default_and_not_numpys():
    assert fasthist.histogram(ARRAYS["normal"], buckets="auto") == fasthist.histogram(
        ARRAYS["normal"]
    )
    assert len(fasthist.histogram(ARRAYS["normal"], buckets="auto").buckets) == 1550


def test_where_the_values_are_not_at_hand(need):
    array = need("dask.array")
    with pytest.raises(BucketsError, match=r"buckets='fd' needs all values of one array in memory"):
        fasthist.histogram(array.ones(10), buckets="fd")
    with pytest.raises(BucketsError, match=r"buckets='FD' is not known\. Accepted: "):
        fasthist.histogram([1.0], buckets="FD")


def test_a_code_of_eight_bits_may_stand_for_nan():
    patterns = intake.Bits(np.arange(256, dtype=np.uint8), "float8_e4m3fn")
    histogram = fasthist.histogram(patterns, buckets="rice")
    assert (histogram.num, histogram.nan_count, histogram.max) == (254, 2, 448.0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bins", "pass buckets="),
        ("range", r"pass the edges: buckets=numpy\.linspace"),
        ("axis", r"it counts all elements; histograms\(\)"),
        ("density", r"divide \.counts by \.num"),
        ("weights", "it counts each element once"),
        ("colour", r"see help\(fasthist\.histogram\)"),
    ],
)
def test_arguments_of_other_libraries_are_pointed_to_ours(name, hint):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}'\. Hint: {hint}"):
        fasthist.histogram([1.0], **{name: 3})
