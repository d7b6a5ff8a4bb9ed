"""`SummaryWriter`: what arrives in the file, in every reader of it, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import shutil
import socket
import time
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from event_files import all_events, files
from loaders import fast_loader, python_loader
from tensorboard_server import serve

import fasthist
from fasthist.errors import ArgumentError, ArrayError, BucketsError, FasthistError, WriteError
from fasthist.events.messages import histogram_tensor_value, summary_event
from fasthist.events.writer import EventFileWriter
from fasthist.summary_writer import SummaryWriter

RNG = np.random.default_rng(7)
WEIGHTS = RNG.normal(0, 0.02, 1000).astype(np.float32)


@pytest.fixture
def writer(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        yield writer


def values_of(log_dir):
    """Give {(step, tag): value} of all events; a tag that comes twice in a step is an error."""
    found = {}
    for event in all_events(log_dir):
        for value in event.summary.value:
            assert (event.step, value.tag) not in found
            found[event.step, value.tag] = value
    return found


def only_value(writer):
    writer.flush()
    (value,) = values_of(writer.log_dir).values()
    return value


# -- histograms -----------------------------------------------------------------------------------


def test_a_histogram_arrives_as_it_was_counted(writer):
    writer.add_histogram("fc1/weight", WEIGHTS, 3, walltime=1.5)
    writer.flush()
    (event,) = all_events(writer.log_dir)
    assert (event.step, event.wall_time) == (3, 1.5)
    (value,) = event.summary.value
    expected = fasthist.histogram(WEIGHTS).to_raw()
    limits, counts = expected.pop("bucket_limits"), expected.pop("bucket_counts")
    assert value.tag == "fc1/weight"
    assert {name: getattr(value.histo, name) for name in expected} == expected
    assert list(value.histo.bucket_limit) == limits.tolist()
    assert list(value.histo.bucket) == counts.tolist()
    assert sum(value.histo.bucket) == value.histo.num == 1000
    assert value.histo.min == WEIGHTS.min()


def test_wall_time_is_now_and_step_is_0(writer, monkeypatch):
    monkeypatch.setattr("fasthist.arguments.time.time", lambda: 1234.5)
    writer.add_histogram("a", WEIGHTS)
    writer.flush()
    (event,) = all_events(writer.log_dir)
    assert (event.step, event.wall_time) == (0, 1234.5)


def test_bins(writer):
    for step, bins in enumerate([4, [-1.0, 0.0, 1.0], fasthist.histogram([]).buckets]):
        writer.add_histogram("a", WEIGHTS, step, bins=bins)
    writer.flush()
    found = values_of(writer.log_dir)
    assert len(found[0, "a"].histo.bucket) == 5
    below = int((WEIGHTS < 0).sum())
    assert list(found[1, "a"].histo.bucket) == [0, below, 1000 - below]
    assert found[2, "a"].histo.num == 1000


def test_max_bins(writer):
    writer.add_histogram("a", WEIGHTS, max_bins=10)
    histo = only_value(writer).histo
    assert len(histo.bucket) <= 11
    assert sum(histo.bucket) == 1000
    with pytest.raises(ArgumentError, match="max_bins=0"):
        writer.add_histogram("a", WEIGHTS, max_bins=0)


def test_a_finished_histogram(writer):
    parts = (WEIGHTS[:400], WEIGHTS[400:])
    whole = sum(fasthist.histogram(part, buckets="tensorflow") for part in parts)
    writer.add_histogram("merged", whole, 1)
    writer.add_histogram("merged", WEIGHTS, 2, bins="tensorflow")
    writer.flush()
    found = values_of(writer.log_dir)
    merged, direct = found[1, "merged"].histo, found[2, "merged"].histo
    assert list(merged.bucket) == list(direct.bucket)
    assert (merged.num, merged.min, merged.max) == (1000, WEIGHTS.min(), WEIGHTS.max())
    with pytest.raises(
        ArgumentError, match=r"histogram 'a': bins=30 is given for a Histogram.*Hint"
    ):
        writer.add_histogram("a", whole, bins=30)


def test_a_tree_is_one_event(writer):
    tree = {"fc": {"weight": WEIGHTS, "bias": [0.5, math.nan]}, "done": fasthist.histogram(WEIGHTS)}
    writer.add_histograms(tree, 7, walltime=2.5)
    writer.flush()
    (event,) = all_events(writer.log_dir)
    assert (event.step, event.wall_time) == (7, 2.5)
    tags = [value.tag for value in event.summary.value]
    assert tags == ["fc/weight", "fc/bias", "fc/bias/nan_count", "done"]


def test_a_model(writer, need):
    torch = need("torch")
    writer.add_histograms(torch.nn.Linear(3, 2), 1)
    writer.flush()
    (event,) = all_events(writer.log_dir)
    assert [(v.tag, v.histo.num) for v in event.summary.value] == [("weight", 6), ("bias", 2)]


def test_specials_are_scalars_beside_the_histogram(writer):
    special = [math.nan] * 3 + [math.inf] * 2 + [-math.inf]
    writer.add_histogram("some", [1.0, 2.0, *special], 1)
    writer.add_histogram("only", special[:4], 2)
    writer.flush()
    assert [len(event.summary.value) for event in all_events(writer.log_dir)] == [4, 2]
    found = values_of(writer.log_dir)
    histo = found.pop((1, "some")).histo
    assert (histo.num, histo.min, histo.max, histo.sum) == (2, 1, 2, 3)
    assert {key: value.simple_value for key, value in found.items()} == {
        (1, "some/nan_count"): 3,
        (1, "some/posinf_count"): 2,
        (1, "some/neginf_count"): 1,
        (2, "only/nan_count"): 3,
        (2, "only/posinf_count"): 1,
    }


def test_an_empty_array_writes_nothing(writer, tmp_path):
    writer.add_histogram("a", [])
    writer.add_histograms({})
    writer.add_histograms({"a": np.empty(0)})
    writer.flush()
    assert all_events(tmp_path) == []


# -- raw histograms -------------------------------------------------------------------------------

RAW = {
    "min": -1,
    "max": 2,
    "num": 3,
    "sum": 1.5,
    "sum_squares": 5.25,
    "bucket_limits": [-1, 0.5, 2],
    "bucket_counts": [0, 1, 2],
}


def test_a_raw_histogram(writer):
    writer.add_histogram_raw("a/b", **RAW, global_step=3, walltime=1.5)
    value = only_value(writer)
    assert value.SerializeToString().hex() == (  # the frozen bytes of test_messages
        "0a03612f622a6109000000000000f0bf11000000000000004019000000000000084021000000000000f83f"
        "2900000000000015403218000000000000f0bf000000000000e03f0000000000000040"
        "3a180000000000000000000000000000f03f0000000000000040"
    )


def test_a_raw_histogram_of_numpy(writer):
    counts, edges = np.histogram(WEIGHTS, bins=30)
    arguments = (WEIGHTS.min(), WEIGHTS.max(), np.int64(1000), WEIGHTS.sum(), WEIGHTS @ WEIGHTS)
    writer.add_histogram_raw("a", *arguments, edges[1:], counts, 1)
    histo = only_value(writer).histo
    assert list(histo.bucket) == counts.tolist()
    assert list(histo.bucket_limit) == edges[1:].tolist()


def test_what_a_histogram_says_can_be_written_raw(writer):
    writer.add_histogram_raw("a", **fasthist.histogram(WEIGHTS).to_raw(), global_step=1)
    writer.add_histogram("a", WEIGHTS, 2)
    writer.flush()
    found = values_of(writer.log_dir)
    for value in (found[1, "a"], found[2, "a"]):
        value.DiscardUnknownFields()  # the number of zeros, which a raw histogram does not tell
    assert found[1, "a"] == found[2, "a"]


def test_a_raw_histogram_of_nothing(writer, tmp_path):
    empty = RAW | {"num": 0, "min": math.inf, "max": -math.inf, "bucket_limits": []}
    writer.add_histogram_raw("a", **empty)
    writer.flush()
    assert all_events(tmp_path) == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"bucket_limits": [1, 2]}, r"bucket_limits has the shape \(2,\), bucket_counts \(3,\)\. .*edges\[1:\]"),
        ({"bucket_limits": [], "bucket_counts": []}, r"has the shape \(0,\).* at least 1"),
        ({"bucket_limits": [[1, 2, 3]], "bucket_counts": [[0, 1, 2]]}, r"has the shape \(1, 3\)"),
        ({"bucket_limits": [-1, 2, 1]}, "bucket_limits hold NaN, or decrease"),
        ({"bucket_limits": [-1, math.nan, 2]}, "bucket_limits hold NaN, or decrease"),
        ({"bucket_limits": [math.nan], "bucket_counts": [3]}, "bucket_limits hold NaN, or decrease"),
        ({"bucket_limits": ["a", "b", "c"]}, "bucket_limits and bucket_counts must be arrays of numbers"),
        ({"bucket_limits": [[1], [2, 3]]}, "must be arrays of numbers"),
        ({"bucket_counts": [0, -1, 4]}, "bucket_counts hold a number that is not finite, or below 0"),
        ({"bucket_counts": [0, 1, math.nan]}, "bucket_counts hold a number"),
        ({"min": 3}, r"min=3\.0, max=2\.0, num=3\.0\. Accepted: finite min <= max"),
        ({"min": math.nan}, "min=nan"),
        ({"max": math.inf}, "max=inf"),
        ({"num": -1}, r"num=-1\.0"),
        ({"num": math.inf}, "num=inf"),
        ({"sum": None}, r"sum is NoneType\. Accepted: one real number"),
    ],
)  # fmt: skip
def test_what_a_raw_histogram_may_not_be(writer, tmp_path, wrong, text):
    with pytest.raises(ArgumentError, match=rf"'a/b': .*{text}"):
        writer.add_histogram_raw("a/b", **(RAW | wrong))
    writer.flush()
    assert all_events(tmp_path) == []


NOUGHT = {"min": 0, "max": 0, "num": 10, "sum": 0, "sum_squares": 0}
SPREAD = {"min": -1, "max": 2, "num": 10, "sum": 3, "sum_squares": 9}
UNUSUAL = {
    # of a bias that is zero, as detectron2 counts it; rows that must be drawn
    "all limits equal": (NOUGHT, [0.0] * 4, [0, 0, 10, 0], [[0, 0, 10]]),
    "a constant": (NOUGHT, [-0.5, 0.5], [0, 10], [[0, 0, 10]]),
    "some limits equal": (SPREAD, [0, 0, 0, 2], [1, 2, 3, 4], [[-1, 0, 6], [0, 2, 4]]),
    "the last limit infinite": (SPREAD, [0, 1, math.inf], [2, 3, 5], [[-1, 0, 2], [0, 1, 3], [1, 2, 5]]),
    "the last limit infinite, beside another": (SPREAD, [0, 2, math.inf], [2, 3, 5], [[-1, 0, 2], [0, 2, 8]]),
    "both ends infinite": (SPREAD, [-math.inf, 0, math.inf], [0, 4, 6], [[-1, 0, 4], [0, 2, 6]]),
    "one infinite limit": (SPREAD, [math.inf], [10], [[-1, 2, 10]]),
    "values at the first limit": (SPREAD, [-1, 1, 2], [3, 3, 4], [[-1, -1, 3], [-1, 1, 3], [1, 2, 4]]),
    "equal limits at the minimum": (SPREAD, [-1, -1, 2], [3, 3, 4], [[-1, -1, 6], [-1, 2, 4]]),
}  # fmt: skip


def test_a_raw_histogram_with_unusual_limits_is_drawn_as_it_is(tmp_path):
    for number, (moments, limits, counts, _) in enumerate(UNUSUAL.values()):
        with SummaryWriter(tmp_path / str(number)) as writer:
            writer.add_histogram_raw("a", **moments, bucket_limits=limits, bucket_counts=counts)
    loaded = python_loader(tmp_path, "histograms")
    fast = fast_loader(tmp_path, "histograms", lambda found: len(found) == len(UNUSUAL))
    for number, (name, (moments, _, _, rows)) in enumerate(UNUSUAL.items()):
        for found in (loaded, fast):
            ((_, drawn),) = found[str(number), "a"]
            drawn = drawn[drawn[:, 2] > 0]
            np.testing.assert_allclose(drawn, rows, atol=1e-6, err_msg=name)
            # What lies at one place is given width where other values widen the axis, or a reader may lose it.
            widths = drawn[:, 1] - drawn[:, 0]
            assert (widths > 0).all() or moments["min"] == moments["max"], name
        ((*_, histogram),) = fasthist.read(tmp_path / str(number))
        assert (histogram.num, histogram.min, histogram.max) == tuple(
            map(moments.get, ("num", "min", "max"))
        )
        assert (histogram.sum, histogram.sum_squares) == (moments["sum"], moments["sum_squares"])


@pytest.mark.parametrize("constant", [-1e6, -20.0, 0.25, 3e38])
def test_a_raw_constant_is_drawn_as_a_counted_one(tmp_path, constant):
    values = np.full(10, constant)
    raw = {
        "min": constant,
        "max": constant,
        "num": 10,
        "sum": values.sum(),
        "sum_squares": values @ values,
    }
    with SummaryWriter(tmp_path / "raw") as writer:
        writer.add_histogram_raw("a", **raw, bucket_limits=[constant] * 3, bucket_counts=[0, 10, 0])
        writer.add_histogram_raw("a", **RAW, global_step=1)
        writer.add_histogram_raw(
            "a", **raw, bucket_limits=[constant], bucket_counts=[10], global_step=2
        )
    with SummaryWriter(tmp_path / "counted") as writer:
        writer.add_histogram("a", values)
        writer.add_histogram("a", [-1.0, 2.0], 1)
        writer.add_histogram("a", values, 2)
    loaded = python_loader(tmp_path, "histograms")
    for step in (0, 2):
        raw_rows, counted = (loaded[run, "a"][step][1] for run in ("raw", "counted"))
        assert raw_rows.tolist() == counted.tolist()


# -- what TensorBoard shows beside them -----------------------------------------------------------


@pytest.mark.parametrize("load_fast", [True, False])
def test_a_name_and_a_description_arrive_in_tensorboard(tmp_path, load_fast):
    shown = {"display_name": "Gewichte \N{SNOWMAN}", "description": "of *layer* 1"}
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("older", WEIGHTS, **shown)
        writer.add_histogram("newer", [1e9, 1e9 + 1], **shown, stats=["mean"])
        writer.add_histogram("constant", [-500.0], description="only this")
        writer.add_scalar(
            "scalar",
            1.0,
            display_name=shown["display_name"],
            summary_description=shown["description"],
        )
        writer.add_scalar("tensor", 1.0, new_style=True, **shown)
        writer.add_scalar("plain", 1.0, display_name=None, description=None)
    values = [value for event in all_events(tmp_path) for value in event.summary.value]
    forms = {value.tag: value.WhichOneof("value") for value in values}
    assert (forms["older"], forms["newer"]) == ("histo", "tensor")
    with serve(tmp_path, load_fast) as server:
        histograms = server.get(
            "/data/plugin/histograms/tags", until=lambda tags: len(tags.get(".", ())) == 3
        )["."]
        scalars = server.get(
            "/data/plugin/scalars/tags", until=lambda tags: len(tags.get(".", ())) == 4
        )["."]
        assert len(server.histograms(".", "older")) == len(server.scalars(".", "tensor")) == 1
    html = "<p>of <em>layer</em> 1</p>"
    for series in (histograms["older"], histograms["newer"], scalars["scalar"], scalars["tensor"]):
        assert (series["displayName"], series["description"]) == (shown["display_name"], html)
    assert histograms["constant"]["description"] == "<p>only this</p>"
    assert scalars["plain"]["description"] == scalars["newer/mean"]["description"] == ""
    assert [h.histogram.num for h in fasthist.read(tmp_path)] == [1000, 2, 1]


@pytest.mark.parametrize("name", ["display_name", "description", "summary_description"])
def test_what_is_no_description(writer, name):
    for wrong in (3, b"text", "\ud800"):
        with pytest.raises(ArgumentError, match=r"must be a string with a UTF-8 form\. Hint"):
            writer.add_scalar("a", 1.0, **{name: wrong})
        if name != "summary_description":
            with pytest.raises(ArgumentError, match=f"{name}=.* must be a string"):
                writer.add_histogram("a", WEIGHTS, **{name: wrong})
    writer.flush()
    assert all_events(writer.log_dir) == []


# -- scalars --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [2.5, np.float32(2.5), np.array(2.5), np.array([[2.5]]), Decimal("2.5")],
    ids=lambda number: f"{type(number).__name__}{np.shape(number)}",
)
def test_a_scalar(writer, number):
    writer.add_scalar("loss", number, 3)
    value = only_value(writer)
    assert (value.tag, value.WhichOneof("value"), value.simple_value) == (
        "loss",
        "simple_value",
        2.5,
    )


def test_a_tensor_scalar(writer, need):
    torch = need("torch")
    writer.add_scalar("loss", torch.tensor([2.5], requires_grad=True, dtype=torch.bfloat16))
    assert only_value(writer).simple_value == 2.5


@pytest.mark.parametrize(("double", "stored"), [(False, np.float32(0.1)), (True, 0.1)])
def test_a_scalar_of_the_new_style(writer, double, stored):
    writer.add_scalar("loss", 0.1, 3, new_style=True, double_precision=double)
    value = only_value(writer)
    assert value.metadata.plugin_data.plugin_name == "scalars"
    assert [*value.tensor.float_val, *value.tensor.double_val] == [stored]


def test_scalars_that_are_not_finite_are_written(writer):
    for step, number in enumerate([math.nan, math.inf, -math.inf, 0.0]):
        writer.add_scalar("loss", number, step)
    writer.flush()
    found = [value.simple_value for value in values_of(writer.log_dir).values()]
    np.testing.assert_array_equal(found, [math.nan, math.inf, -math.inf, 0.0])


@pytest.mark.parametrize(
    "wrong", ["2.5 s", b"two", None, 1j, [1.0], np.ones(2), np.array("two"), 10**400]
)
def test_what_is_no_scalar(writer, wrong):
    kind = repr(wrong) if isinstance(wrong, (str, bytes)) else type(wrong).__name__
    with pytest.raises(
        ArgumentError, match=rf"'loss': scalar_value is {kind}\. Accepted: one real"
    ):
        writer.add_scalar("loss", wrong)


# -- arguments that all share ---------------------------------------------------------------------

CALLS = {
    "add_histogram": lambda writer, tag="a", **rest: writer.add_histogram(tag, WEIGHTS, **rest),
    "add_histogram_raw": lambda writer, tag="a", **rest: writer.add_histogram_raw(
        tag, **RAW, **rest
    ),
    "add_scalar": lambda writer, tag="a", **rest: writer.add_scalar(tag, 1.0, **rest),
    "add_histograms": lambda writer, tag="a", **rest: writer.add_histograms({tag: WEIGHTS}, **rest),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
each_tagged_call = pytest.mark.parametrize("call", [*CALLS.values()][:3], ids=[*CALLS][:3])


@each_call
@pytest.mark.parametrize("step", [5, np.int64(5), np.array(5), 5.9, "5"])
def test_steps_as_torch_takes_them(writer, call, step):
    call(writer, global_step=step)
    writer.flush()
    (event,) = all_events(writer.log_dir)
    assert event.step == 5


@each_call
@pytest.mark.parametrize("step", ["five", math.nan, math.inf, np.arange(2), object()])
def test_what_is_no_step(writer, call, step):
    with pytest.raises(ArgumentError, match=r"global_step=.* must be an integer or None"):
        call(writer, global_step=step)


@each_call
def test_a_step_beyond_64_bits(writer, call):
    with pytest.raises(
        ArgumentError, match=r"global_step 9223372036854775808 does not fit\. Accepted"
    ):
        call(writer, global_step=2**63)
    call(writer, global_step=-(2**63))
    writer.flush()
    assert all_events(writer.log_dir)[0].step == -(2**63)


@each_call
@pytest.mark.parametrize("walltime", [math.nan, math.inf])
def test_what_is_no_time(writer, call, walltime):
    with pytest.raises(
        ArgumentError, match=rf"walltime={walltime} must be finite\. Accepted: seconds"
    ):
        call(writer, walltime=walltime)


@each_tagged_call
@pytest.mark.parametrize("tag", ["", None, 3, b"\xff"])
def test_what_is_no_tag(writer, call, tag):
    with pytest.raises(ArgumentError, match=r"tag=.* must be a name\. Accepted: a string"):
        call(writer, tag=tag)


def test_what_cannot_be_counted_is_named_and_not_written(writer, tmp_path):
    with pytest.raises(ArrayError, match="fc1"):
        writer.add_histogram("fc1", [1j])
    with pytest.raises(ArrayError, match="fc2/weight"):
        writer.add_histograms({"fc1": WEIGHTS, "fc2": {"weight": ["text"]}})
    with pytest.raises(BucketsError, match="buckets='best'"):
        writer.add_histogram("fc1", WEIGHTS, bins="best")
    writer.flush()
    assert all_events(tmp_path) == []


@pytest.mark.parametrize("max_bins", [0, -1, 2.5, "50", b"5", True, math.nan, math.inf, [3]])
def test_what_is_no_number_of_buckets(writer, max_bins):
    with pytest.raises(
        ArgumentError, match=r"^max_bins=.* must be a whole number of at least 1\. Hint"
    ):
        writer.add_histogram("a", WEIGHTS, max_bins=max_bins)
    writer.flush()
    assert all_events(writer.log_dir) == []


@pytest.mark.parametrize("max_bins", [50, 50.0, np.int16(50), np.float32(50), Decimal(50)])
def test_numbers_of_buckets_of_any_type(writer, max_bins):
    writer.add_histogram("a", WEIGHTS, max_bins=max_bins)
    assert 30 < len(only_value(writer).histo.bucket) <= 51


@pytest.mark.parametrize("comment", [None, 3, b"x", "a\0b"])
def test_what_is_no_comment(tmp_path, monkeypatch, comment):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"^comment=.* must be a string\. Hint"):
        SummaryWriter(comment=comment)
    assert list(tmp_path.iterdir()) == []


def test_an_event_that_cannot_be_encoded_names_its_tag(writer):
    broken = dataclasses.replace(fasthist.histogram(WEIGHTS), sum="much")
    writer.add_histogram("good", WEIGHTS, 1)
    writer.add_histogram("fc1/weight", broken, 7)
    with pytest.raises(WriteError, match=r"'fc1/weight', step 7: it cannot be encoded"):
        writer.flush()
    writer.add_histogram("good", WEIGHTS, 8)
    writer.flush()
    assert [event.step for event in all_events(writer.log_dir)] == [1, 8]


def test_what_torch_has_and_we_have_not(writer):
    with pytest.raises(
        AttributeError,
        match=r"'add_image': .* Hint: fasthist\.adapters\.torch\.SummaryWriter writes all",
    ):
        writer.add_image("a", None)
    with pytest.raises(AttributeError, match=r"no attribute 'colour'$"):
        writer.colour  # noqa: B018
    assert not hasattr(writer, "add_text")


@pytest.mark.parametrize("name", ["__init__", "add_histogram", "add_histogram_raw", "add_scalar"])
def test_torch_signatures(need, name):
    torch_writer = need("torch.utils.tensorboard").SummaryWriter
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(getattr(cls, name)).parameters.values()]
        for cls in (SummaryWriter, torch_writer)
    )
    # Other buckets by default, of which TensorBoard draws a better picture.
    named = [(name, "tensorflow" if default == "auto" else default) for name, default in ours]
    assert named[: len(theirs)] == theirs
    assert [extra for extra, _ in ours[len(theirs) :]] in (
        [],
        ["stats", "display_name", "description"],
        ["display_name", "summary_description", "description"],
        [
            "logdir", "every", "keep_last", "max_file_bytes", "queue_bytes", "when_full", "writer",
        ],
    )  # fmt: skip


# -- directories ----------------------------------------------------------------------------------


def test_the_default_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = SummaryWriter(comment="_lr0.1")
    host = re.escape(socket.gethostname())
    pattern = rf"runs/\w{{3}}\d\d_\d\d-\d\d-\d\d_{host}_lr0\.1"
    assert re.fullmatch(pattern, Path(writer.get_logdir()).as_posix())
    assert len(files(writer.log_dir)) == 1
    writer.add_scalar("a", 1)
    writer.close()
    assert len(files(writer.log_dir)) == 1


def test_both_spellings(tmp_path):
    assert SummaryWriter(tmp_path).log_dir == str(tmp_path)
    assert SummaryWriter(logdir=str(tmp_path)).get_logdir() == str(tmp_path)
    with pytest.raises(ArgumentError, match=r"log_dir='a' and logdir='b' mean the same"):
        SummaryWriter("a", logdir="b")


def wait_until(happened):
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_queue_time_and_suffix_reach_the_files(tmp_path):
    eager = SummaryWriter(tmp_path / "queue", max_queue=0, filename_suffix=".x")
    eager.add_scalar("a", 1)
    wait_until(lambda: files(eager.log_dir) and all_events(eager.log_dir))
    assert files(eager.log_dir)[0].name.endswith(".x")
    timed = SummaryWriter(tmp_path / "time", flush_secs=0)
    timed.add_scalar("a", 1)
    wait_until(lambda: files(timed.log_dir) and all_events(timed.log_dir))
    eager.close()
    timed.close()


def test_purge_step(tmp_path):
    with SummaryWriter(tmp_path, purge_step=5) as writer:
        writer.add_scalar("a", 1, 5)
    version, *starts, scalar = all_events(tmp_path)
    assert (version.step, version.file_version) == (5, "brain.Event:2")
    assert [(start.step, start.session_log.status) for start in starts] == [(5, 1), (5, 1)]
    assert scalar.step == 5
    with pytest.raises(ArgumentError, match="purge_step='x' must be an integer"):
        SummaryWriter(tmp_path, purge_step="x")


def test_leaving_the_context_closes(tmp_path):
    writer = SummaryWriter(tmp_path)

    def fail_within():
        with writer:
            writer.add_scalar("a", 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert len(all_events(tmp_path)) == 1
    writer.add_scalar("a", 2)
    writer.close()
    assert len(files(tmp_path)) == 2


def add_and_flush(writer, step):
    writer.add_histogram("a", WEIGHTS, step)
    writer.flush()


def test_what_cannot_be_written_is_kept(tmp_path):
    writer = SummaryWriter(tmp_path / "run")
    writer.close()
    shutil.rmtree(writer.log_dir)
    (tmp_path / "run").write_text("in the way")
    for step in (1, 2):
        with pytest.raises(
            WriteError, match=rf"{step} events .* still held\. Hint: .*flush\(\) again"
        ):
            add_and_flush(writer, step)
    assert issubclass(WriteError, FasthistError)
    (tmp_path / "run").unlink()
    writer.close()
    assert [event.step for event in all_events(writer.log_dir)] == [1, 2]


# -- readers --------------------------------------------------------------------------------------

STEPS = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory of runs: one in two files, one flushed but not closed, one in the tensor form."""
    log_dir = tmp_path_factory.mktemp("logs")
    with SummaryWriter(log_dir / "closed") as closed:
        for step in range(STEPS):
            closed.add_histograms(tree(step), step, walltime=100.0 + step)
            closed.add_scalar("loss", 1 / (step + 1), step)
            closed.add_scalar("new", step, step, new_style=True)
            if step == 1:
                closed.close()
    rows = EventFileWriter(log_dir / "rows")
    value = histogram_tensor_value("a", fasthist.histogram(WEIGHTS).to_rows())
    rows.add_event(summary_event([value], 100.0, 1))
    rows.close()
    with SummaryWriter(log_dir / "open") as still_open:
        still_open.add_histogram("a", WEIGHTS, 1)
        still_open.flush()
        yield log_dir


def tree(step):
    rng = np.random.default_rng(step)
    return {
        "fc": {"weight": rng.normal(0, 0.02 * (step + 1), 500), "bias": rng.normal(0.1, 0.1, 8)},
        "constant": np.full(10, 3.25),
        "special": [1.0, 2.0, math.nan, math.inf],
        "empty": [],
    }


SHOWN = ["constant", "fc/bias", "fc/weight", "special"]


@pytest.mark.parametrize("load_fast", [True, False])
def test_tensorboard_serves_every_tag_and_step(run, load_fast):
    with serve(run, load_fast) as server:
        for tag in SHOWN:
            found = server.histograms("closed", tag, steps=STEPS)
            assert [(wall, step) for wall, step, _ in found] == [
                (100.0 + i, i) for i in range(STEPS)
            ]
            for _, step, rows in found:
                raw = fasthist.histograms(tree(step))[tag].to_raw()
                lefts, rights, counts = np.array(rows, dtype=np.float64).T
                filled = counts > 0
                expected = raw["bucket_counts"]
                assert counts[filled].tolist() == expected[expected > 0].tolist()
                assert (lefts.min(), rights.max()) == (
                    pytest.approx(raw["min"], rel=1e-6),
                    pytest.approx(raw["max"], rel=1e-6),
                )
        tags = server.tags(until=lambda tags: len(tags) == 3)
        assert tags == {"closed": SHOWN, "open": ["a"], "rows": ["a"]}
        rows = fasthist.histogram(WEIGHTS).to_rows()
        assert server.histograms("rows", "a") == [[100.0, 1, rows.tolist()]]
        scalars = server.tags("scalars")["closed"]
        assert scalars == ["loss", "new", "special/nan_count", "special/posinf_count"]
        for tag in ("loss", "new", "special/nan_count"):
            assert [step for _, step, _ in server.scalars("closed", tag, steps=STEPS)] == [
                *range(STEPS)
            ]


def test_the_event_accumulator(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's record reader, if installed, is deprecated
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(
            str(run / "closed"), size_guidance={"histograms": 0}
        ).Reload()
    assert sorted(accumulator.Tags()["histograms"]) == SHOWN
    for tag in SHOWN:
        found = accumulator.Histograms(tag)
        assert [event.step for event in found] == [*range(STEPS)]
        for event in found:
            raw = fasthist.histograms(tree(event.step))[tag].to_raw()
            histo = event.histogram_value
            assert (histo.min, histo.max, histo.num) == (raw["min"], raw["max"], raw["num"])
            assert (histo.sum, histo.sum_squares) == (raw["sum"], raw["sum_squares"])
            assert histo.bucket == raw["bucket_counts"].tolist()
            assert histo.bucket_limit == raw["bucket_limits"].tolist()
    assert [event.value for event in accumulator.Scalars("special/nan_count")] == [1.0] * STEPS


def test_tbparse(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tbparse import SummaryReader

        frame = SummaryReader(
            str(run / "closed"), extra_columns={"min", "max", "num", "sum"}
        ).histograms
    assert sorted(set(frame["tag"])) == SHOWN
    assert len(frame) == len(SHOWN) * STEPS
    for row in frame.itertuples():
        raw = fasthist.histograms(tree(row.step))[row.tag].to_raw()
        assert (row.min, row.max, row.num, row.sum) == tuple(
            raw[k] for k in ("min", "max", "num", "sum")
        )
        np.testing.assert_array_equal(row.limits, raw["bucket_limits"])
        np.testing.assert_array_equal(row.counts, raw["bucket_counts"])
