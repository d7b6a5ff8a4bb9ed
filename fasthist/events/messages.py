"""The messages inside an event file, encoded.

Functions take plain numbers and arrays and give encoded bytes: the ``*_value`` functions a
``Summary.Value``, the ``*_event`` functions an ``Event`` ready for `fasthist.events.record.frame`. The bytes
are those of protobuf's own serialiser; the protobuf runtime is not needed.

Source: tensorboard/compat/proto/{event,summary,tensor,tensor_shape,types}.proto, and
tensorboard/plugins/{histogram,scalar}/metadata.py for the plugins' names.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import TypedDict, cast

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
"""What the first event of a file says; readers purge steps by the newer rules if it is there."""

WRITER = b"fasthist"
"""``SourceMetadata.writer`` of every file."""


def _plugin(name: bytes, shown: bytes = b"") -> bytes:
    data = delimited(fields.METADATA_PLUGIN_DATA, delimited(fields.PLUGIN_NAME, name))
    return delimited(fields.VALUE_METADATA, data + shown)


# Version 0 of both plugins' content encodes to no bytes, so the name is all there is.
_HISTOGRAMS_METADATA = _plugin(b"histograms")
_SCALARS_METADATA = _plugin(b"scalars")
_FLOAT_DTYPE = integer_field(fields.TENSOR_DTYPE, fields.DT_FLOAT)
OWN_KEYS = np.array(
    [
        list(double_member(number, 0.0)[:-8])
        for number in (fields.HISTO_ZERO_COUNT, fields.HISTO_SQUARED_DEVIATIONS)
    ],
    dtype=np.uint8,
)
"""What the field of the number of zeros begins with."""

_DOUBLE_DTYPE = integer_field(fields.TENSOR_DTYPE, fields.DT_DOUBLE)
_THREE_COLUMNS = delimited(fields.SHAPE_DIM, integer_field(fields.DIM_SIZE, 3))


def first_event(wall_time: float) -> bytes:
    """Encode the event that opens every file: its version, and who wrote it.

    Parameters
    ----------
    wall_time : float
        Seconds since 1970, UTC.

    Returns
    -------
    bytes
    """
    return b"".join(
        (
            double_field(fields.EVENT_WALL_TIME, wall_time),
            delimited(fields.EVENT_FILE_VERSION, FILE_VERSION),
            delimited(fields.EVENT_SOURCE_METADATA, delimited(fields.SOURCE_WRITER, WRITER)),
        )
    )


def purge_events(wall_time: float, step: int) -> list[bytes]:
    """Encode what tells a reader that a run begins anew at a step.

    Parameters
    ----------
    wall_time : float
        Seconds since 1970, UTC.
    step : int
        int64. Earlier files' events at this step and later are to be forgotten.

    Returns
    -------
    list of bytes
        The file version again, and ``SessionLog.START`` twice.

    Raises
    ------
    ArgumentError
        `step` does not fit.

    Notes
    -----
    Of TensorBoard's loaders only the Python one honours it, and it takes the first ``START`` of a run for the run's
    beginning, which may be this one: tensorboard/backend/event_processing/plugin_event_accumulator.py,
    ``_CheckForRestartAndMaybePurge``. The other forgets a tag's steps when an earlier one comes.
    """
    head = _event_head(wall_time, step)
    start = head + delimited(
        fields.EVENT_SESSION_LOG, integer_field(fields.SESSION_STATUS, fields.SESSION_START)
    )
    return [head + delimited(fields.EVENT_FILE_VERSION, FILE_VERSION), start, start]


def summary_event(values: Iterable[bytes], wall_time: float, step: int | None) -> bytes:
    """Encode one event that holds all values of a step.

    Parameters
    ----------
    values : iterable of bytes
        From the ``*_value`` functions, each with a tag of its own.
    wall_time : float
        Seconds since 1970, UTC.
    step : int or None
        int64; None means 0.

    Returns
    -------
    bytes

    Raises
    ------
    ArgumentError
        `step` does not fit.
    """
    parts: list[bytes] = []
    for value in values:
        parts += delimited_head(fields.SUMMARY_VALUE, len(value)), value
    size = sum(map(len, parts))
    head = _event_head(wall_time, step or 0) + delimited_head(fields.EVENT_SUMMARY, size)
    return b"".join((head, *parts))


def scalar_value(tag: str, value: float) -> bytes:
    """Encode a scalar in the older form, ``simple_value``.

    Parameters
    ----------
    tag : str
        Name of the series.
    value : float
        Stored as float32; NaN and infinities are allowed.

    Returns
    -------
    bytes

    Raises
    ------
    ArgumentError
        `tag` is no tag.
    """
    return _tag(tag) + float_member(fields.VALUE_SIMPLE, value)


def scalar_tensor_value(tag: str, value: float, *, double: bool = False) -> bytes:
    """Encode a scalar in the newer form, a tensor of no dimensions for the plugin "scalars".

    Parameters
    ----------
    tag : str
        Name of the series.
    value : float
        NaN and infinities are allowed.
    double : bool
        Store float64 instead of float32.

    Returns
    -------
    bytes

    Raises
    ------
    ArgumentError
        `tag` is no tag.
    """
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
    """Encode a histogram in the older form, ``HistogramProto``.

    Parameters
    ----------
    tag : str
        Name of the series.
    min, max : float
        Smallest and largest value; readers put them in the place of the outermost edges.
    num : float
        How many values.
    sum, sum_squares : float
        Their moments.
    bucket_limits : float64[k]
        Right edges, increasing and finite.
    bucket_counts : float64[k]
        Values in each bucket.
    zero_count : float, optional
        How many values are zero, in a field that only fasthist knows. Default: not written.
    squared_deviations : float, optional
        Sum of squared deviations from the mean, likewise.

    Returns
    -------
    bytes
        ``16 * k`` of them, and about 70 more.

    Raises
    ------
    ArgumentError
        `tag` is no tag.

    Notes
    -----
    The numbers are not looked at: a NaN or infinite edge blanks the card of the tag. Needs no metadata, in
    either of TensorBoard's loaders.
    """
    moments = _moments(min, max, num, sum, sum_squares)
    limits, counts = raw_doubles(bucket_limits), raw_doubles(bucket_counts)
    limits_head = delimited_head(fields.HISTO_LIMITS, len(limits)) if limits else b""
    counts_head = delimited_head(fields.HISTO_COUNTS, len(counts)) if counts else b""
    # Joined once: each further copy takes half a microsecond.
    own = _own(zero_count, squared_deviations)
    return encoded_histogram_value(tag, moments, limits_head, limits, counts_head, counts, own)


def _moments(min: float, max: float, num: float, sum: float, sum_squares: float) -> bytes:
    return b"".join(
        (
            double_field(fields.HISTO_MIN, min),
            double_field(fields.HISTO_MAX, max),
            double_field(fields.HISTO_NUM, num),
            double_field(fields.HISTO_SUM, sum),
            double_field(fields.HISTO_SUM_SQUARES, sum_squares),
        )
    )


def _own(zeros: float | None, deviations: float | None) -> bytes:
    """Encode the fields that only fasthist knows."""
    own = b"" if zeros is None else double_member(fields.HISTO_ZERO_COUNT, zeros)
    if deviations is not None:
        own += double_member(fields.HISTO_SQUARED_DEVIATIONS, deviations)
    return own


def encoded_histogram_value(tag: str, *parts: bytes | memoryview) -> bytes:
    """Encode a histogram whose ``HistogramProto`` is encoded already.

    Parameters
    ----------
    tag : str
        Name of the series.
    *parts : bytes-like
        The ``HistogramProto``.

    Returns
    -------
    bytes

    Raises
    ------
    ArgumentError
        `tag` is no tag.
    """
    size = sum(map(len, parts))
    return b"".join((_tag(tag), delimited_head(fields.VALUE_HISTO, size), *parts))


class Moments(TypedDict):
    """What is written beside a tensor of rows, which has no place for it; see `histogram_value`."""

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
    """Encode a histogram in the form of ``tf.summary.histogram``, a tensor of rows.

    Parameters
    ----------
    tag : str
        Name of the series.
    rows : float64[k, 3]
        Left edge, right edge and count of each bucket, in increasing order.
    moments : Moments, optional
        Written as a ``HistogramProto`` without buckets, in a field that only fasthist knows. Default: not written.

    Returns
    -------
    bytes
        ``24 * k`` of them, and about 100 more.

    Raises
    ------
    ArgumentError
        `tag` is no tag, or `rows` has not three columns.

    Notes
    -----
    The plugin's name goes into every event: TensorBoard needs it in a series' first one only, other readers
    in each.
    """
    if rows.ndim != 2 or rows.shape[1] != 3:
        msg = f"histogram {tag!r}: rows have the shape {rows.shape}. Accepted: (k, 3), for left, right and count."
        raise ArgumentError(msg)
    # A dimension of size 0 is a submessage of no bytes, but it is there.
    shape = delimited(fields.SHAPE_DIM, integer_field(fields.DIM_SIZE, len(rows))) + _THREE_COLUMNS
    content = raw_doubles(rows)
    tensor = b"".join(
        (
            _DOUBLE_DTYPE,
            delimited(fields.TENSOR_SHAPE, shape),
            delimited(fields.TENSOR_CONTENT, content) if content else b"",
            _tensor_moments(**moments) if moments else b"",
        )
    )
    return _tag(tag) + delimited(fields.VALUE_TENSOR, tensor) + _HISTOGRAMS_METADATA


def _tensor_moments(
    zero_count: float | None, squared_deviations: float | None, **moments: float
) -> bytes:
    own = _own(zero_count, squared_deviations)
    return delimited(fields.TENSOR_MOMENTS, _moments(**moments) + own)


def described(value: bytes, display_name: str, description: str, *, scalar: bool = False) -> bytes:
    """Add a name to show in place of the tag, and a description, to an encoded histogram or scalar.

    Parameters
    ----------
    value : bytes
        From one of the ``*_value`` functions.
    display_name, description : str
        Empty for none. TensorBoard takes the description for Markdown, and both from the first value of a tag.
    scalar : bool
        Whether it is a scalar.

    Returns
    -------
    bytes
    """
    if not (display_name or description):
        return value
    # TensorBoard's fast loader drops the metadata of the older forms where the class is missing.
    plugin, data_class = b"histograms", fields.DATA_CLASS_TENSOR
    if scalar:
        plugin, data_class = b"scalars", fields.DATA_CLASS_SCALAR
    shown = b"".join(
        (
            delimited(fields.METADATA_DISPLAY_NAME, display_name.encode()),
            delimited(fields.METADATA_DESCRIPTION, description.encode()),
            integer_field(fields.METADATA_DATA_CLASS, data_class),
        )
    )
    return value.removesuffix(_plugin(plugin)) + _plugin(plugin, shown)


def check_tag(tag: object) -> str:
    """Return the name of a series, which may come as UTF-8.

    Raises
    ------
    ArgumentError
        `tag` is not a string, is empty, or has no UTF-8 form.
    """
    if isinstance(tag, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            tag = tag.decode()
    _tag(tag)
    return cast("str", tag)


def _tag(tag: object) -> bytes:
    if isinstance(tag, str):
        return _tag_field(tag)
    raise _no_tag(tag)


def _no_tag(tag: object) -> ArgumentError:
    msg = (
        f"tag={tag!r} names no series. Accepted: a string that is not empty, such as 'fc1/weight'."
    )
    return ArgumentError(msg)


@functools.lru_cache(maxsize=1 << 12)  # the same at each step: 1 us less
def _tag_field(tag: str) -> bytes:
    if not tag:
        raise _no_tag(tag)
    try:
        name = tag.encode()
    except UnicodeEncodeError as error:
        msg = f"tag={tag!r} holds half of a surrogate pair and has no UTF-8 form. Hint: remove that character."
        raise ArgumentError(msg) from error
    return delimited(fields.VALUE_TAG, name)


def _event_head(wall_time: float, step: int) -> bytes:
    if not -(1 << 63) <= step < 1 << 63:
        msg = f"step {step} does not fit. Accepted: -2**63 to 2**63 - 1."
        raise ArgumentError(msg)
    return double_field(fields.EVENT_WALL_TIME, wall_time) + integer_field(fields.EVENT_STEP, step)
