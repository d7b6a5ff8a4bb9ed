"""Protobuf's primitives, against the protobuf runtime and against bytes written down."""

from __future__ import annotations

import math

import numpy as np
import pytest
from event_files import Event
from google.protobuf.wrappers_pb2 import (
    DoubleValue,
    FloatValue,
    Int64Value,
    StringValue,
    UInt64Value,
)
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto.summary_pb2 import HistogramProto
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from fasthist.errors import ArgumentError, FasthistError
from fasthist.events import wire


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (2**63 - 1, "ffffffffffffffff7f"),
        (2**64 - 1, "ffffffffffffffffff01"),
        (-1, "ffffffffffffffffff01"),
        (-(2**63), "80808080808080808001"),
    ],
)
def test_varint(value, encoded):
    assert wire.varint(value).hex() == encoded


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_varint_refuses_what_does_not_fit(value):
    with pytest.raises(ArgumentError, match=rf"{value} does not fit a field of 64 bits\. Accepted"):
        wire.varint(value)
    assert issubclass(ArgumentError, FasthistError)
    assert issubclass(ArgumentError, ValueError)


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_as_protobuf_writes_them(value):
    assert wire.integer_field(1, value) == Int64Value(value=value).SerializeToString()


@given(st.integers(0, 2**64 - 1))
def test_unsigned_integers_as_protobuf_writes_them(value):
    assert wire.integer_field(1, value) == UInt64Value(value=value).SerializeToString()


@given(st.floats())
def test_doubles_as_protobuf_writes_them(value):
    assert wire.double_field(1, value) == DoubleValue(value=value).SerializeToString()


def test_only_positive_zero_is_left_out():
    assert wire.double_field(1, 0.0) == b""
    assert wire.double_field(1, -0.0).hex() == "090000000000000080"
    assert wire.integer_field(1, 0) == b""


@given(st.floats())
def test_floats_as_protobuf_writes_them(value):
    # A plain field is left out at +0.0, a member of a oneof never is.
    expected = FloatValue(value=value).SerializeToString() or bytes.fromhex("0d00000000")
    assert wire.float_member(1, value) == expected


def test_a_float_too_large_becomes_infinite():
    assert wire.float_member(1, 1e300) == wire.float_member(1, math.inf)
    assert wire.float_member(1, -1e300) == wire.float_member(1, -math.inf)


@given(st.text())
def test_strings_as_protobuf_writes_them(text):
    expected = StringValue(value=text).SerializeToString() or bytes.fromhex("0a00")
    assert wire.delimited(1, text.encode()) == expected


@given(st.lists(st.floats()))
def test_packed_doubles_as_protobuf_writes_them(values):
    expected = HistogramProto(bucket_limit=values).SerializeToString()
    assert wire.doubles_field(6, np.array(values, dtype=np.float64)) == expected


@given(st.lists(st.floats(width=32)))
def test_packed_floats_as_protobuf_writes_them(values):
    assert wire.floats_field(5, values) == TensorProto(float_val=values).SerializeToString()


def test_doubles_are_little_endian_and_in_c_order():
    expected = "000000000000f03f0000000000000040000000000000084000000000000010c0"
    rows = np.array([[1.0, 2.0], [3.0, -4.0]])
    for array in (rows, np.asfortranarray(rows), rows.astype(">f8"), rows.astype(np.float32)):
        assert wire.raw_doubles(array).hex() == expected
    assert wire.raw_doubles(np.repeat(rows, 2, axis=1)[:, ::2]).hex() == expected


def test_field_numbers_above_15_need_two_bytes():
    assert wire.integer_field(16, 1).hex() == "800101"
    event = Event.FromString(wire.delimited(10, wire.delimited(1, b"x" * 200)))
    assert event.source_metadata.writer == "x" * 200
