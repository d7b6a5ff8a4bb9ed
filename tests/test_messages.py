"""Messages, against frozen bytes and against tensorboard's protobuf classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from event_files import Event
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT
from tensorboard.plugins.histogram import metadata as histogram_plugin
from tensorboard.plugins.scalar import metadata as scalar_plugin
from tensorboard.util.tensor_util import make_ndarray

from fasthist.errors import ArgumentError
from fasthist.events import messages
from fasthist.events.record import frame

# Frozen: wall time 1.5, step 3, tag "a/b". Written down from protobuf's own serialiser, never regenerated.
HISTO = (  # limits -1, 0.5, 2; counts 0, 1, 2; framed
    "7700000000000000e6b4a6c309000000000000f83f10032a6a0a680a03612f622a61"
    "09000000000000f0bf11000000000000004019000000000000084021000000000000f83f290000000000001540"
    "3218000000000000f0bf000000000000e03f0000000000000040"
    "3a180000000000000000000000000000f03f000000000000004015d76473"
)
ROWS = (  # [[-1, 0.5, 1], [0.5, 2, 2]]
    "09000000000000f83f10032a570a550a03612f62423e08021208120208021202080322"
    "30000000000000f0bf000000000000e03f000000000000f03f"
    "000000000000e03f000000000000004000000000000000404a0e0a0c0a0a686973746f6772616d73"
)
NO_ROWS = (
    "09000000000000f83f10032a230a210a03612f62420a08021206120012020803"
    "4a0e0a0c0a0a686973746f6772616d73"
)

tags = st.text(st.characters(codec="utf-8"), min_size=1)
doubles = st.floats()
steps = st.none() | st.integers(-(2**63), 2**63 - 1)
arrays = npst.arrays(np.float64, st.integers(0, 40))


def event_of(values, wall_time=1.5, step=3):
    return messages.summary_event(values, wall_time, step)


def test_frozen_histogram():
    value = messages.histogram_value(
        "a/b",
        min=-1,
        max=2,
        num=3,
        sum=1.5,
        sum_squares=5.25,
        bucket_limits=np.array([-1, 0.5, 2]),
        bucket_counts=np.array([0.0, 1, 2]),
    )
    assert frame(event_of([value])).hex() == HISTO


@pytest.mark.parametrize(
    ("rows", "frozen"), [([[-1, 0.5, 1], [0.5, 2, 2]], ROWS), (np.empty((0, 3)), NO_ROWS)]
)
def test_frozen_rows(rows, frozen):
    value = messages.histogram_tensor_value("a/b", np.array(rows, dtype=np.float64))
    assert event_of([value]).hex() == frozen


def test_first_event():
    event = Event.FromString(messages.first_event(1.5))
    assert (event.wall_time, event.file_version) == (1.5, "brain.Event:2")
    assert event.source_metadata.writer == "fasthist"
    assert event.SerializeToString() == messages.first_event(1.5)


def test_purge_events():
    version, start, again = messages.purge_events(1.5, 7)
    assert again == start
    assert version == Event(wall_time=1.5, step=7, file_version="brain.Event:2").SerializeToString()
    expected = Event(wall_time=1.5, step=7, session_log=SessionLog(status=SessionLog.START))
    assert start == expected.SerializeToString()
    assert start.endswith(bytes.fromhex("3a020801"))


def check(ours, expected):
    """Same bytes, and therefore the same fields; and protobuf reads and writes them back unchanged."""
    assert ours == expected.SerializeToString()
    assert type(expected).FromString(ours).SerializeToString() == ours


@given(tags, doubles, doubles, doubles, doubles, doubles, arrays, doubles, steps)
def test_histograms_as_protobuf_writes_them(
    tag, low, high, num, total, squares, limits, wall, step
):
    counts = np.arange(limits.size, dtype=np.float64)
    value = messages.histogram_value(
        tag,
        min=low,
        max=high,
        num=num,
        sum=total,
        sum_squares=squares,
        bucket_limits=limits,
        bucket_counts=counts,
    )
    histo = HistogramProto(
        min=low,
        max=high,
        num=num,
        sum=total,
        sum_squares=squares,
        bucket_limit=limits,
        bucket=counts,
    )
    summary = Summary(value=[Summary.Value(tag=tag, histo=histo)])
    check(event_of([value], wall, step), Event(wall_time=wall, step=step, summary=summary))


@given(tags, npst.arrays(np.float64, st.tuples(st.integers(0, 20), st.just(3))))
def test_rows_as_protobuf_writes_them(tag, rows):
    dims = [TensorShapeProto.Dim(size=size) for size in rows.shape]
    tensor = TensorProto(
        dtype=DT_DOUBLE,
        tensor_shape=TensorShapeProto(dim=dims),
        tensor_content=rows.tobytes(),
    )
    plugin = SummaryMetadata.PluginData(plugin_name=histogram_plugin.PLUGIN_NAME)
    metadata = SummaryMetadata(plugin_data=plugin)
    value = messages.histogram_tensor_value(tag, rows)
    check(value, Summary.Value(tag=tag, tensor=tensor, metadata=metadata))
    np.testing.assert_array_equal(make_ndarray(Summary.Value.FromString(value).tensor), rows)


@given(tags, doubles)
def test_scalars_as_protobuf_writes_them(tag, number):
    check(messages.scalar_value(tag, number), Summary.Value(tag=tag, simple_value=number))


@given(tags, doubles, st.booleans())
def test_tensor_scalars_as_protobuf_writes_them(tag, number, double):
    tensor = (
        TensorProto(dtype=DT_DOUBLE, double_val=[number])
        if double
        else TensorProto(dtype=DT_FLOAT, float_val=[number])
    )
    plugin = SummaryMetadata.PluginData(plugin_name=scalar_plugin.PLUGIN_NAME)
    expected = Summary.Value(tag=tag, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))
    check(messages.scalar_tensor_value(tag, number, double=double), expected)


@given(st.lists(st.tuples(tags, doubles)), doubles, steps)
def test_an_event_holds_many_values(pairs, wall, step):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=number) for tag, number in pairs])
    ours = event_of([messages.scalar_value(tag, number) for tag, number in pairs], wall, step)
    check(ours, Event(wall_time=wall, step=step, summary=summary))


def test_a_zero_scalar_is_written_and_a_zero_step_is_not():
    event = Event.FromString(event_of([messages.scalar_value("a", 0.0)], 0.0, 0))
    assert event.summary.value[0].WhichOneof("value") == "simple_value"
    assert event_of([], 0.0, None).hex() == "2a00"
    assert event_of([], -0.0, 0).hex() == "0900000000000000802a00"


def test_a_scalar_too_large_for_float32():
    value = Summary.Value.FromString(messages.scalar_value("a", -1e300))
    assert value.simple_value == -math.inf


@pytest.mark.parametrize("tag", ["", None, 3, b"\xff"])
def test_what_is_no_tag(tag):
    with pytest.raises(ArgumentError, match=r"tag=.* must be a name\. Accepted: a string"):
        messages.scalar_value(tag, 1.0)
    with pytest.raises(ArgumentError, match="must be a name"):
        messages.check_tag(tag)


def test_half_a_surrogate_pair():
    with pytest.raises(ArgumentError, match=r"tag='a\\ud800' holds half of a surrogate pair"):
        messages.check_tag("a\ud800")


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1])
def test_a_step_that_does_not_fit(step):
    with pytest.raises(ArgumentError, match=rf"step {step} does not fit\. Accepted"):
        messages.summary_event([], 1.5, step)
    with pytest.raises(ArgumentError, match="does not fit"):
        messages.purge_events(1.5, step)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (1, 3, 1)])
def test_rows_of_another_shape(shape):
    with pytest.raises(ArgumentError, match=r"histogram 'a': rows have the shape .* \(k, 3\)"):
        messages.histogram_tensor_value("a", np.zeros(shape))
