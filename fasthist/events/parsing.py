"""The messages inside an event file, decoded as far as histograms need it.

A message is given by the bytes around it and its place in them, so nothing is copied on the way down. Values other than
histograms and unknown fields are skipped. Anything else raises MessageError.

Source: as of `fasthist.events.messages`.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import MessageError
from fasthist.events import fields
from fasthist.events.wire import (
    DELIMITED,
    FIXED32,
    FIXED64,
    VARINT,
    delimited_head,
    read_double,
    read_float,
    read_numbers,
    signed,
    split,
    varint,
)

Place = tuple[int, int]
"""Where a message begins and ends in the bytes around it."""

HISTOGRAMS = b"histograms"
"""The plugin of tensors of rows."""

_WALL_TIME = fields.EVENT_WALL_TIME << 3 | FIXED64
_STEP = fields.EVENT_STEP << 3 | VARINT
_VERSION = fields.EVENT_FILE_VERSION << 3 | DELIMITED
_SUMMARY = fields.EVENT_SUMMARY << 3 | DELIMITED
_SOURCE = fields.EVENT_SOURCE_METADATA << 3 | DELIMITED
_WRITER = fields.SOURCE_WRITER << 3 | DELIMITED
_SESSION = fields.EVENT_SESSION_LOG << 3 | DELIMITED
_AGAIN = fields.EVENT_WRITTEN_AGAIN << 3 | VARINT
_STATUS = fields.SESSION_STATUS << 3 | VARINT
_VALUE = fields.SUMMARY_VALUE << 3 | DELIMITED

_TAG = fields.VALUE_TAG << 3 | DELIMITED
_SIMPLE = fields.VALUE_SIMPLE << 3 | FIXED32
_HISTO = fields.VALUE_HISTO << 3 | DELIMITED
_TENSOR = fields.VALUE_TENSOR << 3 | DELIMITED
_METADATA = fields.VALUE_METADATA << 3 | DELIMITED
_PLUGIN_DATA = fields.METADATA_PLUGIN_DATA << 3 | DELIMITED
_PLUGIN_NAME = fields.PLUGIN_NAME << 3 | DELIMITED

_MOMENTS = {number << 3 | FIXED64: place for place, number in enumerate(fields.HISTO_MOMENTS)}
_MOMENT_KEYS = bytes(_MOMENTS)
_ALL_MOMENTS = struct.Struct("<xdxdxdxdxd")
_LIMITS = fields.HISTO_LIMITS << 3 | DELIMITED
_LIMIT = fields.HISTO_LIMITS << 3 | FIXED64
_COUNTS = fields.HISTO_COUNTS << 3 | DELIMITED
_COUNT = fields.HISTO_COUNTS << 3 | FIXED64
_ZERO_COUNT = fields.HISTO_ZERO_COUNT << 3 | FIXED64
_DEVIATIONS = fields.HISTO_SQUARED_DEVIATIONS << 3 | FIXED64
_ZERO_COUNT_KEY, _DEVIATIONS_KEY = varint(_ZERO_COUNT), varint(_DEVIATIONS)
_OWN_SIZE = len(_ZERO_COUNT_KEY) + 8
_ALL_LIMITS = frozenset((_LIMITS, _LIMIT))
_BUCKETS = _ALL_LIMITS | {_COUNTS, _COUNT}

_DTYPE = fields.TENSOR_DTYPE << 3 | VARINT
_SHAPE = fields.TENSOR_SHAPE << 3 | DELIMITED
_CONTENT = fields.TENSOR_CONTENT << 3 | DELIMITED
_FLOATS = fields.TENSOR_FLOATS << 3 | DELIMITED
_FLOAT = fields.TENSOR_FLOATS << 3 | FIXED32
_DOUBLES = fields.TENSOR_DOUBLES << 3 | DELIMITED
_DOUBLE = fields.TENSOR_DOUBLES << 3 | FIXED64
_TENSOR_MOMENTS = fields.TENSOR_MOMENTS << 3 | DELIMITED
_DIM = fields.SHAPE_DIM << 3 | DELIMITED
_SIZE = fields.DIM_SIZE << 3 | VARINT

_FORMATS = {
    fields.DT_FLOAT: "<f4", fields.DT_DOUBLE: "<f8", fields.DT_HALF: "<f2", fields.DT_BFLOAT16: "<u2",
    fields.DT_INT8: "<i1", fields.DT_INT16: "<i2", fields.DT_INT32: "<i4", fields.DT_INT64: "<i8",
    fields.DT_UINT8: "<u1", fields.DT_UINT16: "<u2", fields.DT_UINT32: "<u4", fields.DT_UINT64: "<u8",
}  # fmt: skip

# One value may stand for all; no histogram has more rows than this.
_MOST_ROWS = 1 << 20


class Event(NamedTuple):
    """An event: places of each ``Summary.Value``, of its source and of its file version.

    `starts` says that a session starts, `again` that a restarted run has written values of its first life once more.
    """

    wall_time: float
    step: int
    values: list[Place]
    source: Place | None
    version: Place | None
    starts: bool
    again: bool


class Value(NamedTuple):
    """A ``Summary.Value``: its tag, its plugin, and the one content that is present."""

    tag: bytes
    plugin: bytes | None
    simple: float | None
    histo: Place | None
    tensor: Place | None


class Moments(NamedTuple):
    """A ``HistogramProto``, not checked.

    `numbers` are min, max, num, sum and sum_squares. `limits` and `counts` are the bytes of little-endian doubles: making
    and joining these takes a fourth of the time that arrays take. `zero_count` and `squared_deviations` are NaN if absent.
    """

    numbers: Sequence[float]
    limits: bytes
    counts: bytes
    zero_count: float = math.nan
    squared_deviations: float = math.nan


class Rows(NamedTuple):
    """A histogram of the newer form, not checked.

    `rows` [k, 3] are left edge, right edge and count of each bucket: a view in the tensor's own type, float32 for bfloat16.
    `moments` are what fasthist writes beside them, without buckets; None in the files of others.
    """

    rows: NDArray[Any]
    moments: Moments | None = None


def read_event(data: bytes) -> Event:
    """Decode an event, the payload of a record."""
    wall_time, step, source, version = 0.0, 0, None, None
    starts = again = False
    values: list[Place] = []
    for key, at, stop in split(data, 0, len(data)):
        if key == _SUMMARY:
            size = stop - at - 3
            if size >= 128 and data[at : at + 3] == delimited_head(fields.SUMMARY_VALUE, size):
                values.append((at + 3, stop))  # a single value, as in most events: 0.2 us less
                continue
            for inner, begin, end in split(data, at, stop):
                if inner == _VALUE:
                    values.append((begin, end))
        elif key == _WALL_TIME:
            wall_time = read_double(data, at)
        elif key == _STEP:
            step = signed(at)
        elif key == _SOURCE:
            source = at, stop
        elif key == _VERSION:
            version = at, stop
        elif key == _AGAIN:
            again = bool(at)
        elif key == _SESSION:
            starts = any(
                inner == _STATUS and status == fields.SESSION_START
                for inner, status, _ in split(data, at, stop)
            )
    return Event(wall_time, step, values, source, version, starts, again)


def read_writer(data: bytes, place: Place) -> bytes:
    """Decode who wrote a file, from the `source` of its first event."""
    return _last(data, place, _WRITER) or b""


def read_version(data: bytes, place: Place) -> float:
    """Decode a file version, from the `version` of an event; -1 if it is not a number."""
    try:
        return float(data[slice(*place)].decode().rpartition("brain.Event:")[2])
    except ValueError:
        return -1.0


def read_value(data: bytes, place: Place) -> Value:
    """Decode the kind of a value, one of an event's `values`, without its numbers."""
    tag, plugin, simple, histo, tensor = b"", None, None, None, None
    for key, at, stop in split(data, *place):
        if key == _TAG:
            tag = data[at:stop]
        elif key == _SIMPLE:
            simple = read_float(data, at)
        elif key == _HISTO:
            histo = at, stop
        elif key == _TENSOR:
            tensor = at, stop
        elif key == _METADATA:
            plugin = (_known_plugin if stop - at < _SHORT else _plugin)(data[at:stop])
    if histo is not None and tensor is not None:
        msg = "a value is both a histogram and a tensor"
        raise MessageError(msg)
    return Value(tag, plugin, simple, histo, tensor)


def _plugin(metadata: bytes) -> bytes | None:
    for key, at, stop in split(metadata, 0, len(metadata)):
        if key == _PLUGIN_DATA:
            return _last(metadata, (at, stop), _PLUGIN_NAME) or b""
    return None


def _sizes(shape: bytes) -> list[int]:
    """Decode the dimensions of a tensor's shape."""
    dims = [place for key, *place in split(shape, 0, len(shape)) if key == _DIM]
    sizes = [[at for key, at, _ in split(shape, *place) if key == _SIZE] for place in dims]
    return [signed(size[-1]) if size else 0 for size in sizes]


# Every event of a file repeats the same few metadata and shapes.
_SHORT = 64
_known_plugin = functools.lru_cache(maxsize=256)(_plugin)
_known_sizes = functools.lru_cache(maxsize=256)(_sizes)


def _last(data: bytes, place: Place, wanted: int) -> bytes | None:
    """Return the last value of a field."""
    values = [data[at:stop] for key, at, stop in split(data, *place) if key == wanted]
    return values[-1] if values else None


def read_text(name: bytes) -> str:
    """Decode a tag; MessageError if it is not UTF-8."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        msg = f"the tag {name[:100]!r} is not UTF-8"
        raise MessageError(msg) from error


def read_moments(data: bytes, place: Place) -> Moments:
    """Decode a histogram of the older form, the `histo` of a value."""
    numbers = [0.0] * 5
    zero_count = deviations = math.nan
    begin, end = place
    middle = begin + _ALL_MOMENTS.size
    if middle < end and data[begin:middle:9] == _MOMENT_KEYS:
        # Mostly all five are present, none of them zero, in the order of their numbers.
        told = _ALL_MOMENTS.unpack_from(data, begin)
        # As many limits as counts follow, 16 to 2047: 1.5 us less than splitting the fields.
        if data.startswith(_DEVIATIONS_KEY, end - _OWN_SIZE):
            deviations, end = read_double(data, end - 8), end - _OWN_SIZE
        if data.startswith(_ZERO_COUNT_KEY, end - _OWN_SIZE):
            zero_count, end = read_double(data, end - 8), end - _OWN_SIZE
        half = (end - middle) // 2
        size = half - 3
        if (
            size >= 128
            and not size & 7
            and data[middle : middle + 3] == delimited_head(fields.HISTO_LIMITS, size)
            and data[middle + half : end - size] == delimited_head(fields.HISTO_COUNTS, size)
        ):
            limits_at = slice(middle + 3, middle + half)
            return Moments(told, data[limits_at], data[end - size : end], zero_count, deviations)
        numbers, zero_count, deviations = list(told), math.nan, math.nan
        begin, end = middle, place[1]
    limits: list[bytes] = []
    counts: list[bytes] = []
    for key, at, stop in split(data, begin, end):
        if key in _BUCKETS:
            if stop - at & 7:
                msg = f"{stop - at} bytes are not a whole number of values"
                raise MessageError(msg)
            (limits if key in _ALL_LIMITS else counts).append(data[at:stop])
        elif key in _MOMENTS:
            numbers[_MOMENTS[key]] = read_double(data, at)
        elif key == _ZERO_COUNT:
            zero_count = read_double(data, at)
        elif key == _DEVIATIONS:
            deviations = read_double(data, at)
    return Moments(numbers, b"".join(limits), b"".join(counts), zero_count, deviations)


def read_rows(data: bytes, place: Place) -> Rows:
    """Decode a histogram of the newer form, the `tensor` of a value whose plugin is `HISTOGRAMS`.

    MessageError if it is not a numeric tensor of the shape (k, 3), or the number of values does not match its shape.
    """
    dtype = 0
    sizes: list[int] = []
    content: Place | None = None
    parts: list[NDArray[Any]] = []
    moments: Moments | None = None
    for key, at, stop in split(data, *place):
        if key == _DTYPE:
            dtype = at
        elif key == _SHAPE:
            sizes = sizes + (_known_sizes if stop - at < _SHORT else _sizes)(data[at:stop])
        elif key == _CONTENT:
            content = at, stop
        elif key in (_FLOATS, _FLOAT):
            parts.append(read_numbers(data, at, stop, "<f4"))
        elif key in (_DOUBLES, _DOUBLE):
            parts.append(read_numbers(data, at, stop, "<f8"))
        elif key == _TENSOR_MOMENTS:
            moments = read_moments(data, (at, stop))
    if dtype not in _FORMATS:
        msg = f"the histogram is a tensor of data type {dtype}, not of floats or integers"
        raise MessageError(msg)
    if content is not None and content[0] < content[1]:
        parts = [read_numbers(data, *content, _FORMATS[dtype])]
        if dtype == fields.DT_BFLOAT16:
            parts = [(parts[0].astype(np.uint32) << 16).view(np.float32)]
    values = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])
    if len(sizes) != 2 or sizes[1] != 3:
        msg = f"the histogram is a tensor of the shape {sizes[:8]}, not (k, 3)"
        raise MessageError(msg)
    if values.size == 1 and 0 < sizes[0] <= _MOST_ROWS:
        values = values.repeat(3 * sizes[0])
    if values.size != 3 * sizes[0]:
        msg = f"the tensor of the histogram holds {values.size} values, but its shape is {sizes}"
        raise MessageError(msg)
    return Rows(values.reshape(-1, 3), moments)
