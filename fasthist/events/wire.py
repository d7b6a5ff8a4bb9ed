"""Protobuf's wire format, as far as event files need it: encoding, then decoding.

It handles bytes and field numbers, not messages. Guarantees:

- The output equals that of protobuf's own serialiser byte for byte.
- Functions that may omit a field say so: proto3 omits a number that equals +0.0 or 0, never -0.0.
- Encoding an array of doubles takes one copy, decoding none.
- Decoding stays within the given bounds and holds only views: a damaged length is an error, not an allocation.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError, MessageError

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types: how the value of a field is encoded."""

_ZERO_DOUBLE = bytes(8)
_LITTLE_ENDIAN = np.dtype("<f8")
_pack_double = struct.Struct("<d").pack
_pack_float = struct.Struct("<f").pack
_unpack_double = struct.Struct("<d").unpack_from
_unpack_float = struct.Struct("<f").unpack_from


def varint(value: int) -> bytes:
    """Encode an integer in groups of seven bits, the lowest first; a negative one as its two's complement, in 10 bytes.

    >>> varint(300).hex()
    'ac02'
    """
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not -(1 << 63) <= value < 1 << 64:
        msg = f"{value} does not fit a field of 64 bits. Accepted: -2**63 to 2**64 - 1."
        raise ArgumentError(msg)
    value &= (1 << 64) - 1
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


_ONE_BYTE = [bytes([value]) for value in range(0x80)]


def integer_field(number: int, value: int) -> bytes:
    """Encode an integer or enum field; nothing for 0."""
    return _key(number, VARINT) + varint(value) if value else b""


def double_field(number: int, value: float) -> bytes:
    """Encode a double field; nothing for +0.0, 9 bytes for anything else, -0.0 included."""
    packed = _pack_double(value)
    return _key(number, FIXED64) + packed if packed != _ZERO_DOUBLE else b""


def double_member(number: int, value: float) -> bytes:
    """Encode a double field whose presence has a meaning: written even if zero."""
    return _key(number, FIXED64) + _pack_double(value)


def float_member(number: int, value: float) -> bytes:
    """Encode a float field of a ``oneof``: written even if zero; infinite beyond float32."""
    return _key(number, FIXED32) + _float32(value)


def floats_field(number: int, values: list[float]) -> bytes:
    """Encode a packed repeated float field, rounded as in `float_member`; nothing if there are no values."""
    return delimited(number, b"".join(map(_float32, values))) if values else b""


def doubles_field(number: int, values: NDArray[np.float64]) -> bytes:
    """Encode a packed repeated double field, in C order; nothing if there are no values."""
    return delimited(number, raw_doubles(values)) if values.size else b""


def raw_doubles(values: NDArray[np.float64]) -> bytes:
    """Return the little-endian bytes of an array, in C order."""
    return np.asarray(values, dtype=_LITTLE_ENDIAN).tobytes()


def delimited(number: int, payload: bytes) -> bytes:
    """Encode a submessage, string or bytes field, even if it is empty.

    >>> delimited(1, b"ab").hex()
    '0a026162'
    """
    return delimited_head(number, len(payload)) + payload


# Histograms have a few hundred different sizes.
@functools.lru_cache(maxsize=1 << 12)
def delimited_head(number: int, size: int) -> bytes:
    """Encode the head of a `delimited` field, for a caller that joins many parts at once."""
    return _key(number, DELIMITED) + varint(size)


@functools.cache  # a dozen keys for each histogram, the same each time
def _key(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def _float32(value: float) -> bytes:
    try:
        return _pack_float(value)
    except OverflowError:  # C's conversion, which protobuf uses, gives an infinity here
        return _pack_float(math.copysign(math.inf, value))


def split(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the key of each field, ``number << 3 | wire type``, and where its value begins and ends.

    For a VARINT the beginning is the value itself, unsigned. Groups, which are obsolete, are refused.

    >>> list(split(delimited(1, b"ab") + integer_field(2, 300), 0, 7))
    [(10, 2, 4), (16, 300, 7)]
    """
    at = begin
    while at < end:
        key = data[at]
        at += 1
        if key > 0x7F:
            key, at = read_varint(data, at - 1, end)
        kind = key & 7
        if not 8 <= key < 1 << 32:
            msg = f"a field has the number {key >> 3}"
            raise MessageError(msg)
        value = at
        if kind == DELIMITED:
            # Most lengths take one or two bytes; a length that points beyond the end is caught below.
            if at + 1 < end and (first := data[at]) < 0x80:
                value = at + 1
                at = value + first
            elif at + 2 < end and (second := data[at + 1]) < 0x80:
                value = at + 2
                at = value + (first & 0x7F | second << 7)
            else:
                size, value = read_varint(data, at, end)
                at = value + size
        elif kind == FIXED64:
            at += 8
        elif kind == VARINT:
            value, at = read_varint(data, at, end)
        elif kind == FIXED32:
            at += 4
        else:
            msg = f"field {key >> 3} has the wire type {kind}, which event files do not use"
            raise MessageError(msg)
        if at > end:
            msg = f"field {key >> 3} is longer than the message around it"
            raise MessageError(msg)
        yield key, value, at


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Decode an integer of at most ten bytes that ends before `end`: return it, 0 to ``2**64 - 1``, and its end."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
    msg = "an integer has no end"
    raise MessageError(msg)


def signed(value: int) -> int:
    """Return the int64 that has the bits of this uint64."""
    return value - (1 << 64) if value >> 63 else value


def read_double(data: bytes, at: int) -> float:
    """Decode a double, whose 8 bytes `split` has checked."""
    value: float = _unpack_double(data, at)[0]
    return value


def read_float(data: bytes, at: int) -> float:
    """Decode a float, whose 4 bytes `split` has checked."""
    value: float = _unpack_float(data, at)[0]
    return value


def read_numbers(data: bytes, at: int, stop: int, dtype: str) -> NDArray[Any]:
    """Return a view of packed little-endian numbers: read-only, seldom aligned; it keeps `data` alive."""
    count, rest = divmod(stop - at, 8 if dtype == "<f8" else int(dtype[2:]))
    if rest:
        msg = f"{stop - at} bytes are not a whole number of values"
        raise MessageError(msg)
    return np.frombuffer(data, dtype, count, at) if count else np.empty(0)
