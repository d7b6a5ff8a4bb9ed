"""What goes into an event beside the picture: statistics, on request."""

from __future__ import annotations

import math
import struct

import distributions
import numpy as np
import pytest
from event_files import all_events
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.summary_pb2 import HistogramProto

from fasthist import SummaryWriter, histogram
from fasthist.display import contiguous, survives_float32
from fasthist.errors import ArgumentError
from fasthist.events.messages import OWN_KEYS
from fasthist.kernels.encoding import encode
from fasthist.kernels.outlines import lay_out
from fasthist.series import parse_statistics

VALUES = np.concatenate((np.random.default_rng(0).normal(3, 2, 5000), np.zeros(2500)))


def scalars(log_dir):
    return {
        value.tag: value.simple_value
        for event in all_events(log_dir)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_none_by_default(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", VALUES, 1)
        writer.add_histograms({"a": VALUES}, 1)
        writer.add_histograms({"b": VALUES}, 1, stats=[])
    assert scalars(tmp_path) == {}


def test_the_usual_ones(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", VALUES, 1, stats=True)
    assert scalars(tmp_path) == {
        "w/mean": pytest.approx(VALUES.mean(), rel=1e-6),
        "w/std": pytest.approx(VALUES.std(), rel=1e-6),
        "w/l2_norm": pytest.approx(np.linalg.norm(VALUES), rel=1e-6),
        "w/zero_fraction": pytest.approx(1 / 3, rel=1e-6),
    }


def test_chosen_ones_for_every_leaf_of_a_tree(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histograms(
            {"a": VALUES, "b": histogram([1.0, 2.0])}, 1, stats=("max", 0.5, 0, "min", 0.999)
        )
    assert len(all_events(tmp_path)) == 1
    found = scalars(tmp_path)
    names = ["max", "quantile_0.5", "quantile_0", "min", "quantile_0.999"]
    assert list(found) == [f"{tag}/{name}" for tag in ("a", "b") for name in names]
    assert (found["b/min"], found["b/max"], found["b/quantile_0"]) == (1, 2, 1)
    assert found["a/max"] == pytest.approx(VALUES.max(), rel=1e-6)
    share = (found["a/quantile_0.5"] >= VALUES).mean()
    assert abs(share - 0.5) < 0.02


def test_nothing_of_no_value_and_nothing_of_no_number(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("none", [], 1, stats=True)
        writer.add_histogram("nan", [math.nan], 1, stats=True)
        lost = histogram([1.7e308, 1.7e308]) + histogram([-1.7e308, -1.7e308])
        writer.add_histogram("lost", lost, 1, stats=["mean", "max"])
    assert lost.mean is None
    assert scalars(tmp_path) == {"nan/nan_count": 1, "lost/max": math.inf}


@pytest.mark.parametrize(
    "stats", ["mean", 0.5, None, 3, ["median"], [1.5], [-0.1], [math.nan], [True], [None]]
)
def test_what_is_no_statistic(tmp_path, stats):
    with pytest.raises(
        ArgumentError,
        match=r"stats: .* is not known. Accepted: True, False, or a list of 'mean'",
    ):
        parse_statistics(stats)
    with SummaryWriter(tmp_path) as writer:
        for add in (
            writer.add_histogram,
            lambda tag, values, **options: writer.add_histograms({tag: values}, **options),
        ):
            with pytest.raises(ArgumentError, match="is not known"):
                add("w", VALUES, stats=stats)
    assert all_events(tmp_path) == []


def test_numpys_numbers_are_numbers():
    assert list(parse_statistics([np.float32(0.5), np.float64(0.25), np.str_("std")])) == [
        "quantile_0.5",
        "quantile_0.25",
        "std",
    ]


@pytest.mark.nojit
@pytest.mark.parametrize("name", distributions.DISTRIBUTIONS)
def test_an_outline_is_laid_out_as_numpy_would(name):
    """The kernel that lays it out follows the functions that say what is written."""
    h = histogram(distributions.make(name, 2000))
    if h.min == h.max:
        pytest.skip("how a constant is written depends on what was written before")
    limits, counts = np.empty((2, 2 * len(h.outline) + 1))
    size, survives = lay_out(h.outline, limits, counts)
    raw = h.to_raw()
    assert limits[:size].tolist() == raw["bucket_limits"].tolist()
    assert counts[:size].tolist() == raw["bucket_counts"].tolist()
    assert survives == survives_float32(raw["bucket_limits"])


@pytest.mark.nojit
@given(
    st.lists(st.sampled_from(list(distributions.DISTRIBUTIONS)), min_size=1, max_size=5),
    st.lists(st.floats(), min_size=35, max_size=35),
)
@settings(max_examples=50, deadline=None)
def test_an_event_is_encoded_as_one_histogram_after_the_other(names, moments):
    outlines = [histogram(distributions.make(name, 500)).outline for name in names]
    outlines = [rows for rows in outlines if rows[0, 0] < rows[-1, 1]]
    assume(outlines)
    moments = np.array(moments).reshape(5, 7)[: len(outlines)]
    begins = np.cumsum([0, *map(len, outlines)])
    out = np.full(79 * len(outlines) + 32 * begins[-1], 99, dtype=np.uint8)
    ends = np.empty(len(outlines), dtype=np.int64)
    encode(np.concatenate(outlines), begins, moments, 1, OWN_KEYS, 251, out, ends)
    begin = 0
    for rows, (low, high, num, total, squares, zeros, deviations), end in zip(
        outlines, moments, ends, strict=True
    ):
        limits, counts = contiguous(rows)
        expected = b""
        if survives_float32(limits) and limits.size <= 251:
            expected = HistogramProto(
                min=low, max=high, num=num, sum=total, sum_squares=squares,
                bucket_limit=limits, bucket=[0, *counts],
            ).SerializeToString()  # fmt: skip
            # Fields 1001 and 1002, which protobuf's own classes keep as unknown.
            for key, own in ((b"\xc9\x3e", zeros), (b"\xd1\x3e", deviations)):
                expected += b"" if math.isnan(own) else key + struct.pack("<d", own)
        assert out[begin:end].tobytes() == expected
        begin = end
