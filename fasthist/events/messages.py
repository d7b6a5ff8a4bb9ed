"""The messages inside an event file, encoded byte for byte as protobuf's own serialiser does, without its runtime.

The ``*_value`` functions return a ``Summary.Value``, the ``*_event`` functions an ``Event`` for
`fasthist.events.record.frame`. Wall times are in seconds since 1970, UTC; steps are int64.

Source: tensorboard/compat/proto/{event,summary,tensor,tensor_shape,types}.proto, and
tensorboard/plugins/{histogram,scalar}/metadata.py for the plugins' names.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError
from fasthist.events import fields
from fasthist.events.wire import (
    delimited,
    delimited_head,
    double_field,
    double_member,
    doubles_field,
    float_member,
    floats_field,
    integer_field,
    raw_doubles,
)

FILE_VERSION = b"brain.Event:2"
"""The version in a file's first event; with it, readers purge steps by the newer rules."""

WRITER = b"fasthist"
"""``SourceMetadata.writer`` of every file."""


def _plugin(name: bytes, shown: bytes = b"") -> bytes:
    data = delimited(fields.METADATA_PLUGIN_DATA, delimited(fields.PLUGIN_NAME, name))
    return delimited(fields.VALUE_METADATA, data + shown)


# Version 0 of both plugins' content encodes to no bytes, so the name is all there is.
_HISTOGRAMS_METADATA = _plugin(b"histograms")
_SCALARS_METADATA = _plugin(b"scalars")
_FLOAT_DTYPE = integer_field(fields.TENSOR_DTYPE, fields.DT_FLOAT)
_DOUBLE_DTYPE = integer_field(fields.TENSOR_DTYPE, fields.DT_DOUBLE)
_THREE_COLUMNS = delimited(fields.SHAPE_DIM, integer_field(fields.DIM_SIZE, 3))

_OWN_FIELDS = (fields.HISTO_ZERO_COUNT, fields.HISTO_SQUARED_DEVIATIONS)
OWN_KEYS = np.array([list(double_member(field, 0.0)[:-8]) for field in _OWN_FIELDS], np.uint8)
"""The keys of the two fields that only fasthist writes into a ``HistogramProto``: uint8[2, 2]."""


def first_event(wall_time: float) -> bytes:
    """Encode the event that opens every file: its version, and who wrote it."""
    version = delimited(fields.EVENT_FILE_VERSION, FILE_VERSION)
    source = delimited(fields.EVENT_SOURCE_METADATA, delimited(fields.SOURCE_WRITER, WRITER))
    return double_field(fields.EVENT_WALL_TIME, wall_time) + version + source


def purge_events(wall_time: float, step: int) -> list[bytes]:
    """Encode the events that restart a run at a step: the file version again, and ``SessionLog.START`` twice.

    Readers then forget what earlier files hold from this step on. Of TensorBoard's loaders only the Python one obeys, and
    it takes the first ``START`` of a run, which may be this one, for the run's beginning:
    tensorboard/backend/event_processing/plugin_event_accumulator.py, ``_CheckForRestartAndMaybePurge``. The other loader
    forgets the later steps of a tag when an earlier one arrives.
    """
    head = _event_head(wall_time, step)
    status = integer_field(fields.SESSION_STATUS, fields.SESSION_START)
    start = head + delimited(fields.EVENT_SESSION_LOG, status)
    return [head + delimited(fields.EVENT_FILE_VERSION, FILE_VERSION), start, start]


def summary_event(values: Iterable[bytes], wall_time: float, step: int | None) -> bytes:
    """Encode one event with all values of a step (None means 0), each with its own tag."""
    parts: list[bytes] = []
    for value in values:
        parts += delimited_head(fields.SUMMARY_VALUE, len(value)), value
    size = sum(map(len, parts))
    head = _event_head(wall_time, step or 0) + delimited_head(fields.EVENT_SUMMARY, size)
    return b"".join((head, *parts))


def scalar_value(tag: str, value: float) -> bytes:
    """Encode a scalar in the older form, ``simple_value``: a float32, which may be NaN or infinite."""
    return _tag(tag) + float_member(fields.VALUE_SIMPLE, value)


def scalar_tensor_value(tag: str, value: float, *, double: bool = False) -> bytes:
    """Encode a scalar in the newer form, a 0-d tensor for the plugin "scalars": float32, or float64 with `double`."""
    if double:
        tensor = _DOUBLE_DTYPE + doubles_field(fields.TENSOR_DOUBLES, np.array([value]))
    else:
        tensor = _FLOAT_DTYPE + floats_field(fields.TENSOR_FLOATS, [value])
    return _tag(tag) + delimited(fields.VALUE_TENSOR, tensor) + _SCALARS_METADATA


def histogram_value(
    tag: str,
    *,
    min: float,
    max: float,
    num: float,
    sum: float,
    sum_squares: float,
    bucket_limits: NDArray[np.float64],
    bucket_counts: NDArray[np.float64],
    zero_count: float | None = None,
    squared_deviations: float | None = None,
) -> bytes:
    """Encode a histogram in the older form, ``HistogramProto``: ``16 * k`` bytes and about 70 more.

    `min` and `max` replace the outermost edges in readers; `bucket_limits`, float64[k], are right edges, which must increase
    and be finite, or the tag's card stays blank: nothing is checked here. `zero_count`, and `squared_deviations` from the
    mean, go into fields that only fasthist reads. No metadata is needed, in either of TensorBoard's loaders.
    """
    parts = [_moments(min, max, num, sum, sum_squares)]
    for field, numbers in (
        (fields.HISTO_LIMITS, bucket_limits),
        (fields.HISTO_COUNTS, bucket_counts),
    ):
        if data := raw_doubles(numbers):
            parts += delimited_head(field, len(data)), data
    # Joined once: each further copy takes half a microsecond.
    return encoded_histogram_value(tag, *parts, _own(zero_count, squared_deviations))


def _moments(*moments: float) -> bytes:
    """Encode min, max, num, sum and sum_squares."""
    return b"".join(map(double_field, fields.HISTO_MOMENTS, moments))


def _own(*numbers: float | None) -> bytes:
    """Encode the fields that only fasthist reads: number of zeros and squared deviations."""
    return b"".join(
        double_member(field, number)
        for field, number in zip(_OWN_FIELDS, numbers, strict=True)
        if number is not None
    )


def encoded_histogram_value(tag: str, *parts: bytes | memoryview) -> bytes:
    """Encode a histogram whose ``HistogramProto`` is already encoded, in one or more parts."""
    size = sum(map(len, parts))
    return b"".join((_tag(tag), delimited_head(fields.VALUE_HISTO, size), *parts))


class Moments(TypedDict):
    """The moments written beside a tensor of rows, which has no place for them; see `histogram_value`."""

    min: float
    max: float
    num: float
    sum: float
    sum_squares: float
    zero_count: float | None
    squared_deviations: float | None


def histogram_tensor_value(
    tag: str, rows: NDArray[np.float64], moments: Moments | None = None
) -> bytes:
    """Encode a histogram as ``tf.summary.histogram`` does: ``24 * k`` bytes and about 100 more.

    `rows`, float64[k, 3], are left edge, right edge and count, in increasing order. `moments` are written as a
    ``HistogramProto`` without buckets, in a field that only fasthist reads. Every event names the plugin: TensorBoard needs
    it in the first of a series only, other readers in each.
    """
    if rows.ndim != 2 or rows.shape[1] != 3:
        msg = f"histogram {tag!r}: rows have the shape {rows.shape}. Accepted: (k, 3), for left, right and count."
        raise ArgumentError(msg)
    # A dimension of size 0 is a submessage of no bytes, but it is there.
    shape = delimited(fields.SHAPE_DIM, integer_field(fields.DIM_SIZE, len(rows))) + _THREE_COLUMNS
    tensor = _DOUBLE_DTYPE + delimited(fields.TENSOR_SHAPE, shape)
    if content := raw_doubles(rows):
        tensor += delimited(fields.TENSOR_CONTENT, content)
    if moments:
        own = _own(moments["zero_count"], moments["squared_deviations"])
        five = (
            moments["min"],
            moments["max"],
            moments["num"],
            moments["sum"],
            moments["sum_squares"],
        )
        tensor += delimited(fields.TENSOR_MOMENTS, _moments(*five) + own)
    return _tag(tag) + delimited(fields.VALUE_TENSOR, tensor) + _HISTOGRAMS_METADATA


def described(value: bytes, display_name: str, description: str, *, scalar: bool = False) -> bytes:
    """Add a display name and a description to an encoded histogram or scalar; an empty string adds none.

    TensorBoard reads the description as Markdown, and takes both from the first value of a tag.
    """
    if not (display_name or description):
        return value
    plugin, data_class = b"histograms", fields.DATA_CLASS_TENSOR
    if scalar:
        plugin, data_class = b"scalars", fields.DATA_CLASS_SCALAR
    shown = delimited(fields.METADATA_DISPLAY_NAME, display_name.encode())
    shown += delimited(fields.METADATA_DESCRIPTION, description.encode())
    # TensorBoard's fast loader drops the metadata of the older forms where the class is missing.
    shown += integer_field(fields.METADATA_DATA_CLASS, data_class)
    return value.removesuffix(_plugin(plugin)) + _plugin(plugin, shown)


def check_tag(tag: object) -> str:
    """Return a tag, given as text or UTF-8; ArgumentError if it is not text, is empty, or has no UTF-8 form."""
    if isinstance(tag, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            tag = tag.decode()
    if not isinstance(tag, str):
        raise _no_tag(tag)
    _tag(tag)
    return tag


def _no_tag(tag: object) -> ArgumentError:
    accepted = "a string that is not empty, such as 'fc1/weight'"
    return ArgumentError(f"tag={tag!r} must be a name. Accepted: {accepted}.")


@functools.lru_cache(maxsize=1 << 12)  # the same at each step: 1 us less
def _tag(tag: object) -> bytes:
    if not isinstance(tag, str) or not tag:
        raise _no_tag(tag)
    try:
        name = tag.encode()
    except UnicodeEncodeError as error:
        msg = f"tag={tag!r} holds half of a surrogate pair and has no UTF-8 form. Accepted: Unicode text. Hint: remove that character."
        raise ArgumentError(msg) from error
    return delimited(fields.VALUE_TAG, name)


def _event_head(wall_time: float, step: int) -> bytes:
    if not -(1 << 63) <= step < 1 << 63:
        msg = f"step {step} does not fit. Accepted: -2**63 to 2**63 - 1."
        raise ArgumentError(msg)
    return double_field(fields.EVENT_WALL_TIME, wall_time) + integer_field(fields.EVENT_STEP, step)
