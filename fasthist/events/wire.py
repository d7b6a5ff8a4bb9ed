"""Protobuf's wire format, as far as event files need it, encoding only.

Knows bytes and field numbers that it is given, no message. Guarantees:

- What comes out is what protobuf's own serialiser gives for the same field, byte for byte.
- Functions that may leave a field out say so: proto3 omits a number that equals +0.0 or 0, never -0.0.
- An array of doubles costs one copy.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import functools
import math
import struct

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_ZERO_DOUBLE = bytes(8)
_pack_double = struct.Struct("<d").pack
_pack_float = struct.Struct("<f").pack


def varint(value: int) -> bytes:
    """Encode an integer in groups of seven bits, the lowest first.

    Parameters
    ----------
    value : int
        ``-2**63`` to ``2**64 - 1``. A negative one is taken as its two's complement and needs 10 bytes.

    Returns
    -------
    bytes
        1 to 10 of them.

    Raises
    ------
    ArgumentError
        `value` needs more than 64 bits.

    Examples
    --------
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
    """Encode an integer or enum field; nothing for 0.

    Parameters
    ----------
    number : int
        The field's number.
    value : int
        As in `varint`.

    Returns
    -------
    bytes
    """
    return _key(number, _VARINT) + varint(value) if value else b""


def double_field(number: int, value: float) -> bytes:
    """Encode a double field; nothing for +0.0, 9 bytes for anything else, -0.0 included.

    Parameters
    ----------
    number : int
        The field's number.
    value : float

    Returns
    -------
    bytes
    """
    packed = _pack_double(value)
    return _key(number, _FIXED64) + packed if packed != _ZERO_DOUBLE else b""


def float_member(number: int, value: float) -> bytes:
    """Encode a float field that belongs to a ``oneof``: written even if it is zero.

    Parameters
    ----------
    number : int
        The field's number.
    value : float
        Rounded to float32, to an infinity where it is too large for one.

    Returns
    -------
    bytes
        5 of them.
    """
    return _key(number, _FIXED32) + _float32(value)


def floats_field(number: int, values: list[float]) -> bytes:
    """Encode a packed repeated float field; nothing if there are no values.

    Parameters
    ----------
    number : int
        The field's number.
    values : list of float
        Rounded as in `float_member`.

    Returns
    -------
    bytes
    """
    return delimited(number, b"".join(map(_float32, values))) if values else b""


def doubles_field(number: int, values: NDArray[np.float64]) -> bytes:
    """Encode a packed repeated double field; nothing if there are no values.

    Parameters
    ----------
    number : int
        The field's number.
    values : float64[...]
        Written in C order.

    Returns
    -------
    bytes
    """
    return delimited(number, raw_doubles(values)) if values.size else b""


def raw_doubles(values: NDArray[np.float64]) -> bytes:
    """Give the little-endian bytes of an array, in C order.

    Parameters
    ----------
    values : float64[...]

    Returns
    -------
    bytes
        ``8 * values.size`` of them.
    """
    return np.asarray(values, dtype="<f8").tobytes()


def delimited(number: int, payload: bytes) -> bytes:
    """Encode a submessage, string or bytes field, even if it is empty.

    Parameters
    ----------
    number : int
        The field's number.
    payload : bytes
        The encoded submessage, or the string in UTF-8.

    Returns
    -------
    bytes

    Examples
    --------
    >>> delimited(1, b"ab").hex()
    '0a026162'
    """
    return b"".join((_key(number, _DELIMITED), varint(len(payload)), payload))


@functools.cache  # a dozen keys for each histogram, the same each time
def _key(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def _float32(value: float) -> bytes:
    try:
        return _pack_float(value)
    except OverflowError:  # C's conversion, which protobuf uses, gives an infinity here
        return _pack_float(math.copysign(math.inf, value))
