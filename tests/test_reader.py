"""Reading event files, against tensorboard's own loader, protobuf's classes and what was written."""

from __future__ import annotations

import gc
import hashlib
import itertools
import math
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import real_writers
from event_files import Event, masked
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

import fasthist
from fasthist.buckets import Buckets
from fasthist.errors import ArgumentError, EventFileError, FasthistError, MessageError
from fasthist.events import messages, parsing, record, restoring
from fasthist.events.reader import raw_events
from fasthist.events.recordfile import BLOCK, RecordFile
from fasthist.hist import Histogram

GOLDEN = Path(__file__).parent / "golden"
NAME = "events.out.tfevents.0000000001.host"
HEAD = record.frame(messages.first_event(1.5))
DBL_MAX = float(np.finfo(np.float64).max)
UP = math.nextafter


def put(directory, *payloads, name=NAME, head=HEAD):
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(head + b"".join(map(record.frame, payloads)))
    return path


def framed_by_hand(payload):
    """Frame without fasthist, so that a wrong checksum there cannot hide."""
    import google_crc32c

    length = struct.pack("<Q", len(payload))
    crcs = [struct.pack("<I", masked(google_crc32c.value(one))) for one in (length, payload)]
    return length + crcs[0] + payload + crcs[1]


def read_proto(tmp_path, fill):
    """Write one value that `fill` makes with protobuf's classes; give what is read of it."""
    event = Event(wall_time=1.5, step=3)
    fill(event.summary.value.add(tag="a"))
    put(tmp_path, event.SerializeToString(), head=b"")
    found = list(fasthist.read(tmp_path))
    assert [row[:4] for row in found] == [(".", "a", 3, 1.5)]
    return found[0].histogram


def histo(limits, counts, **numbers):
    numbers = {"min": 0.5, "max": 1.5, "num": sum(counts), "sum": 2.0, "sum_squares": 3.0} | numbers

    def fill(value):
        value.histo.bucket_limit.extend(limits)
        value.histo.bucket.extend(counts)
        for name, number in numbers.items():
            setattr(value.histo, name, number)

    return fill


def rows_of(rows, *, form="tensor_content", dtype=2, shape=None):
    rows = np.array(rows, dtype=np.float64).reshape(-1, 3)

    def fill(value):
        value.metadata.plugin_data.plugin_name = "histograms"
        tensor = value.tensor
        tensor.dtype = dtype
        for size in rows.shape if shape is None else shape:
            tensor.tensor_shape.dim.add(size=size)
        if form == "tensor_content":
            tensor.tensor_content = rows.astype("<f4" if dtype == 1 else "<f8").tobytes()
        else:
            getattr(tensor, form).extend(rows.ravel().tolist())

    return fill


def histogram_event(step=1, tag="a", count=50, seed=0):
    h = fasthist.histogram(np.random.default_rng(seed + step).normal(size=count))
    return messages.summary_event([messages.histogram_value(tag, **h.to_raw())], step + 0.5, step)


# --- other libraries' files -------------------------------------------------------------------------------------


def tensorboard_rows(path):
    """Give (tag, step, rows of tensorboard's own loader, those that are not empty) of a file."""
    found = []
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "histograms":
                rows = make_ndarray(value.tensor)
                found.append((value.tag, event.step, rows[rows[:, 2] > 0]))
    return found


def check_against_tensorboard(directory):
    paths = sorted(directory.rglob("*tfevents*"))
    theirs = [row for path in paths for row in tensorboard_rows(path)]
    ours = list(fasthist.read(directory))
    # Its metadata stands in the first value of a tag only.
    assert {(row.tag, row.step) for row in ours} >= {row[:2] for row in theirs}
    ours_by_key = {(row.tag, row.step): row.histogram for row in ours}
    for tag, step, rows in theirs:
        h = ours_by_key[tag, step]
        filled = h.counts > 0
        assert h.counts[filled].tolist() == rows[:, 2].tolist()
        left, right = h.buckets.edges[:-1][filled], h.buckets.edges[1:][filled]
        if h.num and h.min is not None:
            left[0] = h.min  # as tensorboard does
        if h.num and h.max is not None:
            right[-1] = h.max
        inner = slice(h.min is None, len(rows) - (h.max is None))
        assert left[slice(h.min is None, None)].astype(rows.dtype).tolist() == (
            rows[slice(h.min is None, None), 0].tolist()
        )
        assert right[inner].astype(rows.dtype).tolist() == rows[inner, 1].tolist()


def check_values(directory, form):
    found = {(row.tag, row.step): row.histogram for row in fasthist.read(directory)}
    for tag, step, values in real_writers.expected():
        h = found.pop((tag, step))
        doubles = values.astype(np.float64)
        dropped = form == "torch" and tag == "huge"  # torch counts nothing beyond 1e20
        assert h.num == values.size - dropped
        assert h.min == doubles.min()
        assert h.max == (None if dropped else doubles.max())
        if form == "rows" or dropped:
            assert h.sum is None
            assert h.sum_squares is None
        else:
            assert h.sum == pytest.approx(doubles.sum(), rel=1e-12)
            assert h.sum_squares == pytest.approx((doubles**2).sum(), rel=1e-12)
        counted = doubles[:0] if dropped else doubles
        if (
            counted.size and form != "rows"
        ):  # TensorFlow 2 chooses buckets by a division, not by their edges
            index = h.buckets.index(counted)
            assert np.bincount(index, minlength=len(h.buckets)).tolist() == h.counts.tolist()
        for unknown in ("zero_count", "exponent_counts"):
            assert getattr(h, unknown) is None
        # Finite extremes of all values tell that what torch dropped is finite.
        assert (h.nan_count, h.posinf_count) == ((0, 0) if dropped else (None, None))
        assert h.uncounted == (None if form == "rows" else int(dropped))
    for (tag, _), h in found.items():  # empty, or with NaN
        assert (h.sum, h.num) == ((None, 2) if (form, tag) == ("torch", "with_nan") else (h.sum, 0))
        assert (h.min, h.max) == (None, None)
        if tag == "with_nan":
            assert (h.uncounted, h.nan_count) == (1, None)
    return found


FORMS = {"torch": "torch", "tensorboardx": "torch", "tensorflow2": "rows", "tensorflow1": "histo"}
REST = {
    "torch": {"with_nan"},
    "tensorboardx": set(),
    "tensorflow2": {"empty", "no_buckets", "with_nan"},
    "tensorflow1": {"empty"},
}


@pytest.mark.parametrize("name", real_writers.WRITERS)
def test_golden_files(name):
    assert {tag for tag, _ in check_values(GOLDEN / name, FORMS[name])} == REST[name]
    check_against_tensorboard(GOLDEN / name)


@pytest.mark.parametrize("name", real_writers.WRITERS)
@pytest.mark.filterwarnings("ignore")
def test_files_written_now(name, need, tmp_path):
    real_writers.WRITERS[name](need, tmp_path)
    assert {tag for tag, _ in check_values(tmp_path, FORMS[name])} == REST[name]
    check_against_tensorboard(tmp_path)


def test_golden_files_are_those_that_were_made():
    for line in (GOLDEN / "MANIFEST").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digest


@pytest.mark.filterwarnings("ignore")
def test_keras(need, tmp_path):
    keras = need("tensorflow").keras
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, name="d1")])
    model.compile("sgd", "mse")
    callback = keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, write_graph=False)
    model.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=2, verbose=0, callbacks=[callback])
    found = [row for row in fasthist.read(tmp_path) if row.tag.endswith("kernel/histogram")]
    assert [(row.run, row.step, row.histogram.num) for row in found] == [
        ("train", 0, 6),
        ("train", 1, 6),
    ]
    assert found[1].histogram.min == float(model.layers[-1].kernel.numpy().min())
    check_against_tensorboard(tmp_path / "train")


# --- our own ----------------------------------------------------------------------------------------------------

arrays = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30)


@given(arrays, st.sampled_from(["auto", "tensorflow", 5]))
def test_what_is_written_is_read(tmp_path_factory, values, buckets):
    array = np.array(values, dtype=np.float64)
    h = fasthist.histogram(array, buckets=buckets)
    directory = tmp_path_factory.mktemp("run")
    with fasthist.SummaryWriter(directory) as writer:
        writer.add_histogram("a", h, 7, walltime=2.5)
    found = list(fasthist.read(directory))
    if not array.size:
        assert found == []
        return
    ((run, tag, step, wall_time, back),) = found
    assert (run, tag, step, wall_time) == (".", "a", 7, 2.5)
    assert back.num == h.num
    specials = ("nan_count", "posinf_count", "neginf_count")
    assert [getattr(back, name) for name in specials] == [getattr(h, name) for name in specials]
    if not h.num:
        assert (back.min, back.max, back.sum) == (None, None, 0)
        return
    assert (back.min, back.max, back.zero_count) == (h.min, h.max, h.zero_count)
    if buckets == "tensorflow" or h.min == h.max:
        assert back.to_rows()[:, 2].sum() == h.num
    rows = h.to_rows()
    filled = rows[rows[:, 2] > 0]
    if h.min == h.max:
        assert back.to_rows().tolist() == rows.tolist()
        return
    ours = back.counts > 0
    assert back.counts[ours].tolist() == filled[:, 2].tolist()
    assert back.buckets.edges[:-1][ours].tolist() == filled[:, 0].tolist()
    assert back.buckets.edges[1:][ours].tolist() == filled[:, 1].tolist()
    if not math.isnan(h.sum_squares):
        assert (back.sum, back.sum_squares) == (h.sum, h.sum_squares)


def test_several_in_one_event(tmp_path):
    tree = {
        "a": np.array([1.0, 2.0, np.nan, np.nan]),
        "b": np.array([np.inf, np.nan]),
        "c": [1.0, 5],
    }
    with fasthist.SummaryWriter(tmp_path) as writer:
        writer.add_histograms(tree, 1)
        writer.add_scalar("free/nan_count", 0.5, 1)
    found = {row.tag: row.histogram for row in fasthist.read(tmp_path)}
    assert {
        tag: (h.num, h.nan_count, h.posinf_count, h.neginf_count) for tag, h in found.items()
    } == {"a": (2, 2, 0, 0), "b": (0, 1, 1, 0), "c": (2, 0, 0, 0)}


def test_a_count_that_float32_rounds_is_unknown(tmp_path):
    h = fasthist.histogram([1.0, 2.0])
    values = [
        messages.histogram_value("a", **h.to_raw()),
        messages.scalar_value("a/nan_count", 2.0**24),
        messages.scalar_value("a/neginf_count", 2.0**24 - 1),
        messages.scalar_value("a/posinf_count", -1),
        messages.scalar_value("b/nan_count", 1e30),
    ]
    put(tmp_path, messages.summary_event(values, 1.5, 1))
    first, second = (row.histogram for row in fasthist.read(tmp_path))
    assert (first.nan_count, first.neginf_count, first.posinf_count) == (None, 2**24 - 1, None)
    assert (second.num, second.nan_count, second.posinf_count) == (0, None, 0)
    assert (first.uncounted, second.uncounted) == (2**24, 2**24)  # at least
    assert {finding.rule for finding in fasthist.diagnose(fasthist.History.open(tmp_path))} == {
        "nonfinite"
    }


def test_others_scalars_are_scalars(tmp_path):
    values = [messages.scalar_value("a/nan_count", 3)]
    event = messages.summary_event(values, 1.5, 1)
    other = Event(wall_time=1.5, file_version="brain.Event:2")
    other.source_metadata.writer = "another"
    put(tmp_path, event, head=framed_by_hand(other.SerializeToString()))
    put(tmp_path / "none", event, head=b"")
    put(tmp_path / "ours", event)
    assert [row.run for row in fasthist.read(tmp_path)] == ["ours"]


# --- the older form ---------------------------------------------------------------------------------------------


def test_histo_by_hand(tmp_path):
    h = read_proto(tmp_path, histo([0, 1, 2, DBL_MAX], [0, 3, 4, 0]))
    assert (h.buckets.edges.tolist(), h.counts.tolist()) == ([0, 1, 2], [3, 4])
    assert (h.num, h.min, h.max, h.sum, h.sum_squares) == (7, 0.5, 1.5, 2.0, 3.0)
    assert h.counts.dtype == np.uint64
    assert h.buckets.name == "edges"
    assert not h.counts.flags.writeable
    assert not h.buckets.edges.flags.writeable
    assert h.counts.flags.aligned
    assert h.buckets.edges.flags.aligned


@pytest.mark.parametrize(
    ("limits", "counts", "low", "edges"),
    [
        ([1, 2], [3, 4], 0.5, [0.5, 1, 2]),
        ([1, 2], [3, 4], 1.0, [math.nextafter(1, 0), 1, 2]),
        ([1, 2], [3, 4], math.nan, [math.nextafter(1, 0), 1, 2]),
        ([-5, 0, 1, 2, 3, 9], [0, 0, 1, 0, 0, 0], 0.5, [0, 1]),
        ([0, DBL_MAX], [0, 2], 0.5, [0, DBL_MAX]),
    ],
)
def test_the_outer_edges(tmp_path, limits, counts, low, edges):
    h = read_proto(tmp_path, histo(limits, counts, min=low))
    assert h.buckets.edges.tolist() == edges
    assert h.num == sum(counts)


def test_what_the_counts_do_not_hold_is_unknown(tmp_path):
    def read(**numbers):
        h = read_proto(tmp_path, histo([0, 1, 2], [0, 3, 4], **numbers))
        return h.num, h.min, h.max, h.sum, h.sum_squares

    assert read(num=8) == (7, 0.5, 1.5, None, None)
    assert read(num=math.nan) == (7, 0.5, 1.5, None, None)
    assert read(min=math.nan, max=math.inf) == (7, None, None, 2.0, 3.0)
    assert read(min=-1, max=3) == (7, None, None, 2.0, 3.0)
    assert read(sum=math.nan, sum_squares=math.nan) == (7, 0.5, 1.5, None, None)
    assert read(sum=math.inf, sum_squares=math.inf) == (7, 0.5, 1.5, math.inf, math.inf)
    assert read(sum_squares=-1) == (7, 0.5, 1.5, 2.0, None)


def test_counts_that_are_not_whole(tmp_path):
    h = read_proto(tmp_path, histo([0, 1, 2], [0, 0.5, 0.25]))
    assert (h.counts.tolist(), h.num, h.counts.dtype) == ([0.5, 0.25], 0.75, np.float64)
    assert h.quantile(0.5) == pytest.approx(0.5 + 0.5 * 0.75)
    assert h.cdf(1.0) == pytest.approx(2 / 3)
    assert h.to_numpy()[0].tolist() == [0.5, 0.25]
    assert (h + h).num == 1.5
    large = read_proto(tmp_path, histo([0, 1, 2], [0, 2.0**60, 3]))
    assert large.counts.tolist() == [2.0**60, 3]
    assert large.num == 2.0**60


AWKWARD = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    2.0**52,
    2.0**53,
    2.0**63,
    DBL_MAX,
]


def random_moments(rng):
    """Mostly a regular histogram, or one with something wrong."""
    size = int(rng.integers(0, 12))
    limits = np.cumsum(rng.integers(1, 9, size)) - 9.0
    counts = rng.integers(0, 5, size).astype(np.float64)
    if rng.random() < 0.8:
        counts[:1] = 0
        counts[1:2] += 1
        counts[-1:] += size > 1
    for array in (limits, counts):
        if rng.random() < 0.15 and size:
            array[rng.choice([0, 1, -2, -1, rng.integers(size)]) % size] = rng.choice(AWKWARD)
    if rng.random() < 0.1:
        counts = counts[:-1]
    with np.errstate(all="ignore"):
        numbers = [limits[0] if size else 0.0, limits[-1] if size else 0.0, counts.sum(), 2.0, 3.0]
    for place in range(5):
        if rng.random() < 0.1:
            numbers[place] = rng.choice(AWKWARD)
    return parsing.Moments([float(one) for one in numbers], limits.tobytes(), counts.tobytes())


def restored(moments, specials):
    try:
        return vars(restoring.from_moments(moments, specials))
    except MessageError as error:
        return str(error)


def comparable(attributes):
    """Give something that is equal if type, bits and flags are."""
    if isinstance(attributes, str):
        return attributes
    arrays = attributes["buckets"].edges, attributes["counts"]
    parts = [
        (a.dtype, a.tobytes(), a.flags.aligned, a.flags.writeable, a.flags.c_contiguous)
        for a in arrays
    ]
    rest = {k: repr(v) for k, v in attributes.items() if k not in ("buckets", "counts")}
    return parts, attributes["buckets"].name, rest


def test_regular_and_other_histograms_in_one_file(tmp_path):
    """All of an event or nothing, in order, whichever of its histograms is damaged."""
    rng = np.random.default_rng(1)
    expected, events = [], []
    for step in range(1000):
        event = Event(wall_time=1.5, step=step)
        rows = []
        for _ in range(rng.integers(1, 4)):
            moments = random_moments(rng)
            value = event.summary.value.add(tag="a")
            histo(
                np.frombuffer(moments.limits),
                np.frombuffer(moments.counts),
                **dict(
                    zip(("min", "max", "num", "sum", "sum_squares"), moments.numbers, strict=True)
                ),
            )(value)
            rows.append(comparable(restored(moments, (None,) * 3)))
        events.append(event.SerializeToString())
        expected.append((step, rows))
    bad = [step for step, rows in expected if any(isinstance(row, str) for row in rows)]
    good = [(step, row) for step, rows in expected if step not in bad for row in rows]
    assert len(bad) > 20
    put(tmp_path, *events, head=b"")
    reader = fasthist.read(tmp_path, skip_corrupt=True)
    assert [(row.step, comparable(vars(row.histogram))) for row in reader] == good
    assert reader.corrupt_count == len(bad)
    reader = fasthist.read(tmp_path)
    steps = []
    for _ in range(2):
        with pytest.raises(EventFileError, match="histogram"):
            steps.extend(row.step for row in reader)
    assert steps == [step for step, _ in good if step < bad[0]]


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 17, 200, 2046, 2047, 2048, 5000])
def test_limits_and_counts_of_every_length(tmp_path, size):
    """The short cut through the older form ends where lengths take one byte or three."""
    limits, counts = np.arange(float(size)), np.ones(size)
    found = read_proto(tmp_path / "same", histo(limits, counts, num=size or 1.0))
    assert found.num == size
    assert found.buckets.edges[1:].tolist() == (limits.tolist() or [1])
    with pytest.raises(EventFileError, match=f"{size} limits and {size + 1} counts"):
        read_proto(tmp_path / "other", histo(limits, np.ones(size + 1)))


@pytest.mark.parametrize(
    ("limits", "counts", "problem"),
    [
        ([0, 1, 2], [0, 1], "3 limits and 2 counts"),
        ([0, 2, 1], [0, 1, 1], "decrease"),
        ([0, math.nan, 1], [0, 1, 1], "decrease"),
        ([0, 1, 2], [0, -1, 1], "negative"),
        ([0, 1, 2], [0, math.nan, 1], "not finite"),
        ([0, 1, 2], [0, math.inf, 1], "not finite"),
        ([0, 1, 2], [0, DBL_MAX, DBL_MAX], "add up"),
    ],
)
def test_histograms_that_contradict_themselves(tmp_path, limits, counts, problem):
    with pytest.raises(EventFileError, match=problem):
        read_proto(tmp_path, histo(limits, counts, num=2))


@pytest.mark.parametrize(
    ("limits", "counts", "ends", "edges", "held", "uncounted"),
    [
        ([0, 1, math.inf], [0, 1, 3], (0.5, 7.5), [0, 1, 7.5], [1, 3], 0),
        ([0, 1, math.inf], [0, 1, 3], (0.5, math.inf), [0, 1], [1], 3),
        ([0, 1, math.inf], [0, 1, 3], (0.5, math.nan), [0, 1], [1], 3),
        ([0, math.inf], [0, 3], (0.5, math.inf), None, None, 3),
        ([0, 1, math.inf], [0, 4, 0], (0.5, 1.0), [0, 1], [4], 0),
        ([0, 1, math.inf, math.inf], [0, 1, 2, 3], (0.5, 7.5), [0, 1, 7.5], [1, 2], 3),
        ([-math.inf, 1, 2], [0, 1, 3], (-4.5, 1.5), [-4.5, 1, 2], [1, 3], 0),
        ([-math.inf, 1, 2], [2, 1, 3], (-4.5, 1.5), [-4.5, 1, 2], [1, 3], 2),
        ([-DBL_MAX, 1], [1, 1], (0.5, 0.5), [-DBL_MAX, 1], [1], 1),
        ([1, 1, 1], [0, 3, 4], (1, 1), [1, UP(1, 2)], [7], 0),
        ([0, 1, 1, 2], [0, 1, 3, 2], (0.5, 1.5), [0, 1, 2], [1, 5], 0),
        ([0, 1, 1], [0, 1, 3], (0.5, 1), [0, 1, UP(1, 2)], [1, 3], 0),
        ([5, 5, 5], [0, 0, 0], (5, 5), None, None, 0),
    ],
)
def test_limits_that_are_infinite_or_equal(tmp_path, limits, counts, ends, edges, held, uncounted):
    h = read_proto(tmp_path, histo(limits, counts, min=ends[0], max=ends[1]))
    if edges is None:
        assert (h.num, h.min, h.max) == (0, None, None)
    else:
        assert (h.buckets.edges.tolist(), h.counts.tolist()) == (edges, held)
        assert h.num == sum(held)
        assert h.buckets == Buckets(np.array(edges))  # which checks them
    assert h.uncounted == uncounted
    assert h.num + h.uncounted == sum(counts)


@pytest.mark.parametrize(
    ("ends", "kinds"),
    [
        ((0.5, 1.5), (0, 0, 0)),
        ((0.5, math.inf), (0, None, 0)),
        ((-math.inf, 1.5), (0, 0, None)),
        ((-math.inf, math.inf), (0, None, None)),
        ((math.nan, math.nan), (None, None, None)),
    ],
)
def test_what_is_not_counted(tmp_path, ends, kinds):
    """The rest of `num` is of the kinds that the extremes do not rule out."""
    h = read_proto(tmp_path, histo([0, 1, 2], [0, 3, 4], num=12, min=ends[0], max=ends[1]))
    assert (h.num, h.uncounted) == (7, 5)
    assert (h.nan_count, h.posinf_count, h.neginf_count) == kinds
    assert (h + h).uncounted == 10
    series = fasthist.History.open(tmp_path)["a"]
    assert series.uncounted.tolist() == [5]
    assert series[0] == h
    told = [series.nan_count[0], series.posinf_count[0], series.neginf_count[0]]
    assert told == pytest.approx([math.nan if one is None else one for one in kinds], nan_ok=True)


@pytest.mark.parametrize("said", [6, 0, math.nan, -1, math.inf])
def test_a_num_that_tells_nothing(tmp_path, said):
    h = read_proto(tmp_path, histo([0, 1, 2], [0, 3, 4], num=said))
    assert (h.num, h.uncounted, h.nan_count) == (7, None, None)


def test_unpacked_and_split_arrays(tmp_path):
    """What a parser of protobuf has to take, though no writer of these files gives it."""
    one = b"".join(b"\x31" + struct.pack("<d", limit) for limit in (0, 1, 2))
    two = b"\x3a\x10" + struct.pack("<2d", 0, 3) + b"\x3a\x08" + struct.pack("<d", 4)
    nums = b"\x19" + struct.pack("<d", 7)
    body = one + two + nums
    value = b"\x0a\x01a\x2a" + bytes([len(body)]) + body
    put(tmp_path, messages.summary_event([value], 1.5, 3))
    assert Event.FromString(messages.summary_event([value], 1.5, 3)).summary.value[0].histo.num == 7
    ((*_, h),) = fasthist.read(tmp_path)
    assert (h.buckets.edges.tolist(), h.counts.tolist()) == ([0, 1, 2], [3, 4])


# --- the newer form ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "edges", "counts", "ends"),
    [
        ([[0, 1, 2], [1, 3, 4]], [0, 1, 3], [2, 4], (0, 3)),
        ([[0, 1, 2], [2, 3, 4]], [0, 1, 2, 3], [2, 0, 4], (0, 3)),
        ([[0, 1, 0], [1, 2, 5], [2, 3, 0]], [0, 1, 2, 3], [0, 5, 0], (1, 2)),
        ([[5, 5, 0], [5, 5, 0], [5, 5, 9]], [5, UP(5, 9)], [9], (5, 5)),
        ([[0, 0, 9]], [0, 5e-324], [9], (0, 0)),
        ([[0, 1, 2], [1, 1, 3], [1, 2, 4]], [0, 1, 2], [2, 7], (0, 2)),
        ([[0, 1, 2], [1, 1, 3]], [0, 1, UP(1, 2)], [2, 3], (0, 1)),
        ([[1, 1, 3], [1, 1, 1], [1, 2, 4]], [1, 2], [8], (1, 2)),
        ([[1, 1, 3], [2, 2, 4]], [1, UP(1, 2), 2, UP(2, 3)], [3, 0, 4], (1, 2)),
        ([[1, 1, 3], [UP(1, 2), 2, 4]], [1, UP(1, 2), 2], [3, 4], (1, 2)),
        ([[1, 1, 3], [UP(1, 2), UP(1, 2), 4]], [1, UP(1, 2), UP(UP(1, 2), 2)], [3, 4], None),
        ([[DBL_MAX, DBL_MAX, 3]], [UP(DBL_MAX, 0), DBL_MAX], [3], (DBL_MAX, DBL_MAX)),
        ([[0, DBL_MAX, 1], [DBL_MAX, DBL_MAX, 3]], [0, DBL_MAX], [4], (0, DBL_MAX)),
        ([[0, 1, 0.5], [2, 3, 4]], [0, 1, 2, 3], [0.5, 0, 4], (0, 3)),
        ([[2, 3, 1], [0, 1, 2], [5, 4, 0]], [0, 1, 2, 3], [2, 0, 1], (0, 3)),
    ],
)
def test_rows(tmp_path, rows, edges, counts, ends):
    h = read_proto(tmp_path, rows_of(rows))
    assert (h.buckets.edges.tolist(), h.counts.tolist()) == (edges, counts)
    assert (h.min, h.max) == (ends or (rows[0][0], rows[-1][1]))
    assert (h.num, h.sum, h.sum_squares) == (sum(row[2] for row in rows), None, None)
    assert h.buckets == Buckets(np.array(edges))  # which checks them


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("tensor_content", 1), ("tensor_content", 2), ("float_val", 1), ("double_val", 2)],
)
def test_every_form_of_a_tensor(tmp_path, form, dtype):
    h = read_proto(tmp_path, rows_of([[0.1, 0.5, 2], [0.5, 3, 4]], form=form, dtype=dtype))
    low = float(np.float32(0.1)) if dtype == 1 else 0.1
    assert (h.buckets.edges.tolist(), h.counts.tolist()) == ([low, 0.5, 3], [2, 4])


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("rows", "held", "uncounted", "kinds"),
    [
        # As TensorFlow writes [1, 2, inf], [-inf, 1, 2], both infinities, NaN, and finite values too far apart.
        ([[1, INF, 2], [INF, INF, 0], [INF, INF, 0]], None, 3, (0, None, 0)),
        ([[-INF, NAN, 0], [NAN, NAN, 0], [NAN, 2, 0]], None, 1, (0, 0, None)),
        ([[-INF, NAN, 0], [NAN, NAN, 0], [NAN, INF, 0]], None, 1, (0, None, None)),
        ([[NAN, NAN, 0]] * 3, None, 1, (None, None, None)),
        ([[-1e308, INF, 3], [INF, INF, 0], [INF, 1e308, 0]], ([-1e308, 1e308], [3]), None, (None, None, None)),
        # As TensorBoard's own function in numpy writes them.
        ([[NAN, INF, 2], [INF, INF, 0]], None, 3, (None, None, None)),
        ([[NAN, NAN, 0], [NAN, 2, 0]], None, 1, (None, None, None)),
        # Others.
        ([[0, 1, 2], [1, INF, 3]], ([0, 1], [2]), 4, (0, None, 0)),
        ([[-INF, 0, 2], [0, 1, 3]], ([0, 1], [3]), 3, (0, 0, None)),
        ([[0, 1, 2], [1, 2, 0], [0, 0, 0]], ([0, 1], [2]), None, (None, None, None)),
        ([[0, 1, 2], [INF, INF, 3]], ([0, 1], [2]), 4, (0, None, 0)),
        ([[0, NAN, 2]], None, 2, (None, None, None)),
    ],
)  # fmt: skip
def test_rows_without_finite_ends(tmp_path, rows, held, uncounted, kinds):
    h = read_proto(tmp_path, rows_of(rows))
    if held is None:
        assert (h.num, h.min, h.max) == (0, None, None)
    else:
        assert (h.buckets.edges.tolist(), h.counts.tolist()) == held
        assert (h.num, h.min, h.max) == (sum(held[1]), held[0][0], held[0][-1])
    assert h.uncounted == uncounted
    assert (h.nan_count, h.posinf_count, h.neginf_count) == kinds
    assert fasthist.History.open(tmp_path)["a"][0] == h


@pytest.mark.parametrize("dtype", ["HALF", "BFLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"])  # fmt: skip
def test_tensors_of_other_types(tmp_path, dtype):
    from tensorboard.compat.proto.types_pb2 import DataType

    values = np.array([[0, 1, 2], [1, 3, 4]], dtype=np.float32)
    if dtype == "BFLOAT16":
        content = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        content = values.astype(dtype.replace("HALF", "float16").lower()).tobytes()

    def fill(value):
        rows_of(values, dtype=DataType.Value(f"DT_{dtype}"))(value)
        value.tensor.tensor_content = content

    h = read_proto(tmp_path, fill)
    assert (h.buckets.edges.tolist(), h.counts.tolist()) == ([0, 1, 3], [2, 4])


def test_one_value_for_all(tmp_path):
    """As protobuf's tensors may leave out what repeats: 30 rows of zeros."""
    fill = rows_of([[0, 0, 0]] * 30, form="float_val", dtype=1)

    def shortened(value):
        fill(value)
        del value.tensor.float_val[1:]

    assert read_proto(tmp_path, shortened).num == 0
    with pytest.raises(EventFileError, match="holds 1 values"):
        read_proto(tmp_path, lambda value: (shortened(value), setattr(value.tensor.tensor_shape.dim[0], "size", 10**9)))  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[0, 0, 0]] * 30,
        [[math.nan, math.nan, 0]] * 3,
        [[DBL_MAX, -DBL_MAX, 0]],
        [[0, math.inf, 0]],
    ],
)
def test_rows_of_nothing(tmp_path, rows):
    h = read_proto(tmp_path, rows_of(rows))
    assert (h.num, h.min, h.max, h.sum, h.quantile(0.5), h.cdf(0)) == (0, *[None] * 5)
    assert h.to_rows().shape == (0, 3)


@pytest.mark.parametrize(
    ("fill", "problem"),
    [
        (rows_of([[0, 1, 2], [0.5, 2, 1]]), "decrease"),
        (rows_of([[1, 0, 2]]), "decrease"),
        (rows_of([[0, 2, 2], [2, math.inf, 0], [1.5, 3, 1]]), "decrease"),
        (rows_of([[0, 1, -2]]), "negative"),
        (rows_of([[0, 1, 2]], shape=(10**9, 3)), "holds 3 values, but its shape"),
        (rows_of([[0, 1, 2]], shape=(2**62, 3)), "holds 3 values, but its shape"),
        (rows_of([[0, 1, 2]], shape=(-1, 3)), "holds 3 values, but its shape"),
        (rows_of([[0, 1, 2]], shape=(3, 1)), r"shape \[3, 1\], not \(k, 3\)"),
        (rows_of([[0, 1, 2]], shape=(3,)), r"not \(k, 3\)"),
        (rows_of([[0, 1, 2]], dtype=7), "data type 7"),
        (rows_of([[0, 1, 2]], dtype=0), "data type 0"),
    ],
)
def test_rows_that_contradict_themselves(tmp_path, fill, problem):
    with pytest.raises(EventFileError, match=problem):
        read_proto(tmp_path, fill)


def test_only_the_first_event_of_a_tag_names_the_plugin(tmp_path):
    named = messages.histogram_tensor_value("a", np.array([[0.0, 1, 2]]))
    bare = named[: named.index(b"\x4a\x0e\x0a\x0c")]
    scalar = messages.scalar_tensor_value("b", 0.5)
    for directory in ("one", "two"):
        events = [
            messages.summary_event([v], 1.5, i) for i, v in enumerate([bare, scalar, named, bare])
        ]
        put(tmp_path / directory, *events[: 4 if directory == "one" else 2])
    put(tmp_path / "one", messages.summary_event([bare], 1.5, 9), name=NAME + ".later")
    found = [(row.run, row.step) for row in fasthist.read(tmp_path)]
    assert found == [("one", 2), ("one", 3), ("one", 9)]


# --- what is unknown stays unknown ------------------------------------------------------------------------------


def test_unknown_numbers(tmp_path):
    h = read_proto(tmp_path, histo([-3, 0, 1, 2], [0, 0, 3, 4], num=9, min=math.nan, max=math.nan))
    names = (
        "min",
        "max",
        "sum",
        "sum_squares",
        "mean",
        "std",
        "l2_norm",
        "zero_count",
        "nan_count",
    )
    assert [getattr(h, name) for name in names] == [None] * len(names)
    assert h.underflow("float16") is None
    assert h.overflow("float16") is None
    assert h.uncounted == 2
    assert repr(h) == "Histogram(num=7, uncounted=2, buckets='edges'[2])"
    assert (h.quantile(0), h.quantile(1), h.cdf(-0.5), h.cdf(2), h.cdf(1)) == (0, 2, 0, 1, 3 / 7)
    assert h.to_rows().tolist() == [[0, 1, 3], [1, 2, 4]]
    raw = h.to_raw()
    assert math.isnan(raw["sum"])
    assert math.isnan(raw["sum_squares"])
    assert (raw["min"], raw["max"]) == (0, 2)
    copy = pickle.loads(pickle.dumps(h))
    assert copy == h
    assert hash(copy) == hash(h)
    # A read one is made without the constructor.
    assert vars(h).keys() - {"outline"} == Histogram.__dataclass_fields__.keys()


def test_merging_what_is_unknown(tmp_path):
    read = fasthist.histogram([0.5, 1.5, np.nan], buckets=[0, 1, 2])
    file = read_proto(tmp_path, histo([0, 1, 2], [0, 3, 4], max=math.nan))
    both = read + file
    assert both == file + read
    assert (both.num, both.min, both.max, both.sum) == (9, 0.5, None, 4.0)
    assert (both.zero_count, both.nan_count, both.exponent_counts, both.cast_losses) == (None,) * 4
    assert both.counts.tolist() == [4, 5]
    nothing = fasthist.histogram(np.array([np.nan]), buckets=[0, 1, 2])
    assert (nothing + file).min == 0.5
    assert (nothing + file).max is None
    assert file != read
    assert file == file + fasthist.histogram(np.empty(0), buckets=[0, 1, 2])


# --- files, runs, growth ----------------------------------------------------------------------------------------


def test_runs_and_files_in_order(tmp_path):
    for run, name, step in [
        ("b", "2", 4),
        ("b", "1", 3),
        ("", "1", 1),
        ("a/x", "1", 2),
        ("b", "10", 5),
    ]:
        put(tmp_path / run, histogram_event(step), name=f"events.out.tfevents.{name}")
    put(tmp_path / "a", histogram_event(9), name="events.out.tfevents.9.profile-empty")
    (tmp_path / "a" / "notes.txt").write_text("no event file")
    put(tmp_path / "a", histogram_event(9), name="events.out")
    found = [(row.run, row.step) for row in fasthist.read(tmp_path)]
    assert found == [(".", 1), ("a/x", 2), ("b", 3), ("b", 5), ("b", 4)]
    (row,) = fasthist.read(tmp_path / "a" / "events.out")
    assert row[:4] == (".", "a", 9, 9.5)


def test_links_are_followed_but_not_for_ever(tmp_path):
    put(tmp_path / "elsewhere", histogram_event(1))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "logs" / "back").symlink_to(tmp_path / "logs")
    assert [row.run for row in fasthist.read(tmp_path / "logs")] == ["linked"]


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(
        ArgumentError, match=r"is not there\. Accepted: a directory or an event file"
    ):
        fasthist.read(tmp_path / "none")
    assert list(fasthist.read(tmp_path)) == []


def test_a_file_that_grows_byte_by_byte(tmp_path):
    data = HEAD + b"".join(record.frame(histogram_event(step, count=3)) for step in range(3))
    ends = [len(HEAD)]
    for step in range(3):
        ends.append(ends[-1] + len(record.frame(histogram_event(step, count=3))))
    path = tmp_path / NAME
    path.touch()
    reader = fasthist.read(tmp_path)
    with path.open("ab", buffering=0) as file:
        for size, byte in enumerate(data, start=1):
            file.write(bytes([byte]))
            found = [row.step for row in reader]
            assert found == ([ends.index(size) - 1] if size in ends[1:] else [])


def test_every_truncation_is_an_end(tmp_path):
    data = HEAD + b"".join(record.frame(histogram_event(step, count=3)) for step in range(3))
    whole = [
        row.histogram
        for row in fasthist.read(put(tmp_path, *[histogram_event(s, count=3) for s in range(3)]))
    ]
    for size in range(len(data)):
        (tmp_path / NAME).write_bytes(data[:size])
        found = [row.histogram for row in fasthist.read(tmp_path)]
        assert found == whole[: len(found)]
        assert len(found) < 3


def test_new_files_and_runs(tmp_path):
    put(tmp_path, histogram_event(1))
    reader = fasthist.read(tmp_path)
    assert [row.step for row in itertools.islice(reader, 1)] == [1]
    assert list(reader) == []
    put(tmp_path, histogram_event(2), name=NAME + ".2")
    put(tmp_path / "new", histogram_event(3))
    assert [(row.run, row.step) for row in reader] == [(".", 2), ("new", 3)]
    with (tmp_path / NAME).open("ab") as file:
        file.write(record.frame(histogram_event(4)))
    (tmp_path / "new" / NAME).unlink()
    assert [row.step for row in reader] == [4]


def test_stopping_in_the_middle_of_an_event(tmp_path):
    h = fasthist.histogram([1.0])
    values = [messages.histogram_value(tag, **h.to_raw()) for tag in "abc"]
    put(tmp_path, messages.summary_event(values, 1.5, 1), histogram_event(2))
    reader = fasthist.read(tmp_path)
    tags = []
    for row in reader:
        tags.append(row.tag)
        if len(tags) == 2:
            break
    assert [row.tag for row in reader] == ["c", "a"]


def test_records_larger_than_a_block(tmp_path):
    large = messages.summary_event(
        [b"\x0a\x05image\x22" + b"\x80\x80\xc0\x01" + bytes(3 << 20)], 1, 1
    )
    put(tmp_path, histogram_event(1), large, histogram_event(2), large, histogram_event(3))
    assert [row.step for row in fasthist.read(tmp_path)] == [1, 2, 3]


def test_records_over_every_place_of_a_block_border(tmp_path):
    event = histogram_event(1, count=3)
    for place in range(-3, len(event) + 20, 7):
        filler = messages.summary_event([b"\x22" + b"\xff\xff\x3f" + bytes((1 << 20) - 1)], 1, 1)
        filler = filler[: BLOCK - len(HEAD) - 16 - place]
        path = tmp_path / NAME
        path.write_bytes(HEAD + record.frame(filler) + record.frame(event))
        reader = fasthist.read(tmp_path, skip_corrupt=True)
        assert [row.step for row in reader] == [1]
        assert reader.corrupt_count == 1  # the filler, cut


def test_memory_is_a_block(tmp_path):
    event = record.frame(histogram_event(1, count=5000))
    (tmp_path / NAME).write_bytes(HEAD + event * (20 * BLOCK // len(event)))
    reader = fasthist.read(tmp_path)
    next(reader)
    gc.collect()
    tracemalloc.start()
    count = sum(1 for _ in reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 1000
    assert peak < 2 << 20


# --- damage -----------------------------------------------------------------------------------------------------


def test_the_error_tells_where_and_what(tmp_path):
    path = put(tmp_path, histogram_event(1), histogram_event(2), histogram_event(3))
    data = bytearray(path.read_bytes())
    second = len(HEAD) + len(record.frame(histogram_event(1)))
    data[second + 100] ^= 1
    path.write_bytes(data)
    reader = fasthist.read(tmp_path)
    assert next(reader).step == 1
    for _ in range(3):
        with pytest.raises(EventFileError) as caught:
            next(reader)
    error = caught.value
    assert isinstance(error, FasthistError)
    assert isinstance(error, ValueError)
    assert (error.path, error.offset) == (str(path), second)
    assert str(error) == (
        f"{path}, byte {second}: the checksum of the record's data is wrong. Accepted: records as they were written. "
        "Hint: pass skip_corrupt=True (--skip-corrupt) to pass over such records, or copy the file again."
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert reader.corrupt_count == 0
    skipping = fasthist.read(tmp_path, skip_corrupt=True)
    assert [row.step for row in skipping] == [1, 3]
    assert skipping.corrupt_count == 1
    assert list(skipping) == []
    assert skipping.corrupt_count == 1


def test_a_message_that_is_none(tmp_path):
    put(tmp_path, histogram_event(1), b"\x09short", histogram_event(2), b"\x0b", histogram_event(3))
    reader = fasthist.read(tmp_path)
    assert next(reader).step == 1
    for _ in range(2):
        with pytest.raises(EventFileError, match="field 1 is longer than the message around it"):
            next(reader)
    skipping = fasthist.read(tmp_path, skip_corrupt=True)
    assert [row.step for row in skipping] == [1, 2, 3]
    assert skipping.corrupt_count == 2


def test_every_damaged_byte(tmp_path):
    """Any byte, any bit: what is not damaged is read, and nothing else."""
    events = [histogram_event(step, count=3) for step in range(3)]
    path = put(tmp_path, *events)
    data = path.read_bytes()
    whole = {row.step: row for row in fasthist.read(tmp_path)}
    starts = np.cumsum([len(HEAD)] + [len(record.frame(event)) for event in events])
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        hit = int(np.searchsorted(starts, place, side="right")) - 1
        with pytest.raises(EventFileError) as caught:
            list(fasthist.read(tmp_path))
        assert caught.value.offset == ([0, *starts][hit + 1])
        reader = fasthist.read(tmp_path, skip_corrupt=True)
        found = {row.step: row for row in reader}
        assert reader.corrupt_count == 1
        assert sorted(found) == [step for step in range(3) if step != hit]
        if hit >= 0:
            assert all(found[step] == whole[step] for step in found)


def test_bytes_lost_and_added(tmp_path):
    events = [histogram_event(step, count=3) for step in range(4)]
    path = put(tmp_path, *events)
    data = path.read_bytes()
    middle = len(HEAD) + len(record.frame(events[0])) + 40
    for damaged in (
        data[:middle] + data[middle + 9 :],
        data[:middle] + b"\x00" * 50 + data[middle:],
        data[: middle - 35] + data[middle:],
    ):
        path.write_bytes(damaged)
        reader = fasthist.read(tmp_path, skip_corrupt=True)
        assert [row.step for row in reader] == [0, 2, 3]
        assert reader.corrupt_count == 1


@pytest.mark.parametrize("rubbish", [bytes(100), b"\xff" * 100, bytes(3 * BLOCK), bytes(BLOCK - 5)])
def test_rubbish_and_then_records_again(tmp_path, rubbish):
    path = put(tmp_path, histogram_event(1))
    with path.open("ab") as file:
        file.write(rubbish)
    reader = fasthist.read(tmp_path, skip_corrupt=True)
    assert [row.step for row in reader] == [1]
    assert list(reader) == []
    assert reader.corrupt_count == 1
    with path.open("ab") as file:
        file.write(record.frame(histogram_event(2)))
    assert [row.step for row in reader] == [2]
    assert list(reader) == []
    assert reader.corrupt_count == 1


def test_a_length_beyond_the_file_is_a_tail(tmp_path):
    path = put(tmp_path, histogram_event(1))
    length = struct.pack("<Q", 2**62)
    with path.open("ab") as file:
        file.write(length + struct.pack("<I", record.masked_crc(length)) + bytes(100))
    reader = fasthist.read(tmp_path)
    assert [row.step for row in reader] == [1]
    assert list(reader) == []


# --- the layers below -------------------------------------------------------------------------------------------


def test_record_file(tmp_path):
    events = [histogram_event(step) for step in range(3)]
    path = put(tmp_path, *events)
    file = RecordFile(str(path))
    found = list(file)
    assert [payload for payload, _ in found] == [messages.first_event(1.5), *events]
    assert found[1][1] == len(HEAD)
    assert file.offset == path.stat().st_size
    file.offset = found[2][1]
    assert list(file) == found[2:]


def test_raw_events(tmp_path):
    h = fasthist.histogram([1.0, 2.0])
    values = [messages.histogram_value("a", **h.to_raw()), messages.scalar_value("b", 0.5)]
    path = put(tmp_path, messages.summary_event(values, 1.5, 7), b"\xff", histogram_event(8))
    put(tmp_path / "inner", histogram_event(9))
    data = bytearray(path.read_bytes())
    path.write_bytes(data + data[:30])
    found = list(raw_events(tmp_path))
    assert found[1] == (7, 1.5, False, [("a", values[0]), ("b", values[1])])
    assert [(event.step, [tag for tag, _ in event.values]) for event in found] == [
        (0, []),
        (7, ["a", "b"]),
        (8, ["a"]),
    ]
    data[30] ^= 1
    path.write_bytes(data)
    assert list(raw_events(tmp_path)) == found[1:]
    assert list(raw_events(tmp_path / "none")) == []


@given(st.binary(max_size=40))
def test_fields_as_protobuf_takes_them(data):
    """Whatever protobuf refuses is refused, groups too; what it takes is taken, with the same step and time."""
    from google.protobuf.message import DecodeError

    from fasthist.events.parsing import read_event

    try:
        theirs = Event.FromString(data)
    except DecodeError:
        theirs = None
    try:
        ours = read_event(data)
    except MessageError:
        return
    if theirs is not None:
        assert (ours.step, len(ours.values)) == (theirs.step, len(theirs.summary.value))
        assert struct.pack("<d", ours.wall_time) == struct.pack("<d", theirs.wall_time)


def test_reading_needs_neither_numba_nor_protobuf():
    code = (
        "import fasthist, sys; print(len(list(fasthist.read(sys.argv[1]))));"
        "print(*{'numba', 'google.protobuf', 'tensorboard', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN)], capture_output=True, text=True, check=True
    )
    count, *loaded = done.stdout.split()
    assert int(count) > 20
    assert loaded == []


def test_many_restored_at_once_equal_each_alone():
    """Regular histograms take a way of their own; among irregular ones of every kind it gives what the other gives."""
    rng = np.random.default_rng(11)

    def moments(kind):
        size = int(rng.integers(3, 40))
        limits = np.sort(rng.normal(0, 1, size))
        counts = rng.integers(1, 9, size).astype(np.float64)
        counts[0] = 0
        counts[rng.integers(1, size, 2)] = 5
        low, high = limits[0], limits[-1]
        num, total, squares = counts.sum(), rng.normal(), 3.5
        if kind == "nan":
            counts[size // 2] = math.nan
        elif kind == "fraction":
            counts[1] = 0.5
        elif kind == "negative":
            counts[1] = -1
        elif kind == "huge":
            counts[1] = 2.0**60
        elif kind == "inf":
            limits[-1] = math.inf
        elif kind == "falling":
            limits[1] = limits[2]
        elif kind == "full first":
            counts[0] = 2
        elif kind == "empty last":
            counts[-1] = 0
        elif kind == "empty":
            counts[:] = 0
        elif kind == "sizes":
            counts = counts[1:]
        elif kind == "short":
            limits, counts = limits[:2], counts[:2]
        elif kind == "num":
            num += 1
        elif kind == "sums":
            total = squares = math.nan
        elif kind == "ends":
            low, high = low - 1, math.nan
        numbers = [low, high, num, total, squares]
        return parsing.Moments(numbers, limits.tobytes(), counts.tobytes())

    kinds = [
        "", "nan", "fraction", "negative", "huge", "inf", "falling", "full first", "empty last", "empty", "sizes",
        "short", "num", "sums", "ends",
    ]  # fmt: skip
    quick = 0
    for _ in range(50):
        batch = [moments(kind) for kind in rng.choice(kinds, 30)]
        specials = [(i, None, 0) for i in range(len(batch))]
        for one, special, made in zip(
            batch, specials, restoring.regular(batch, specials), strict=True
        ):
            if made is not None:
                quick += 1
                alone = restoring.from_moments(one, special)
                assert made == alone
                assert (made.counts.dtype, made.sum, made.sum_squares) == (
                    (alone.counts.dtype, alone.sum, alone.sum_squares)
                )
                assert made.counts.base is None
    assert quick > 200
    assert restoring.regular([], []) == []
