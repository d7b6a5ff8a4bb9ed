"""How each format's patterns become numbers on a GPU: float32 where that is exact, else float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fasthist.dtypes import FORMATS
from fasthist.kernels.cuda.plan import FLOAT32, FLOAT64, INT32, INT64
from fasthist.kernels.cuda.primitives import as_float32, as_float64, bits32, bits64, device
from fasthist.kernels.cuda.slots import SIGN

_U32 = np.uint32
_U64 = np.uint64

_SIGN32 = _U32(1 << 31)
_SIGN64 = _U64(SIGN)
_ONE = _U64(1)
_HALF = _U64(32)
_TWO_TO_32 = 2.0**32
_HIDDEN = _U64((1 << 52) - 1)

NARROW = ("float32", "bfloat16", "float16", "int16", "uint16")
"""Formats whose numbers are float32 numbers."""


@functools.cache
def float32_pattern(name: str) -> Any:
    """Give the function that turns a pattern of a format of `NARROW` into that of the same number as float32."""
    if name == "float32":

        def convert(raw):
            return raw

    elif name == "bfloat16":

        def convert(raw):
            return _U32(raw << _U32(16))

    elif name == "float16":
        # The product is exact, and makes normal numbers of subnormal ones.
        rescale = np.float32(2.0**112)

        def convert(raw):
            moved = _U32((raw & _U32(0x7FFF)) << _U32(13))
            pattern = bits32(np.float32(as_float32(moved) * rescale))
            if moved >= _U32(0x0F800000):  # infinity and NaN
                pattern = _U32(moved | _U32(0x7F800000))
            return _U32(pattern | _U32((raw & _U32(0x8000)) << _U32(16)))

    elif name == "int16":

        def convert(raw):
            return bits32(np.float32(np.int32(_U32(raw << _U32(16))) >> np.int32(16)))

    else:

        def convert(raw):
            return bits32(np.float32(raw))

    return device(convert)


@device
def key_of(number):
    """Give the unsigned integer that orders as the float32 numbers do."""
    pattern = bits32(number)
    return _U32(~pattern) if pattern >= _SIGN32 else _U32(pattern | _SIGN32)


@functools.cache
def float64_parts(name: str) -> Any:
    """Give the function that turns a pattern of another format into three things.

    ``pattern, value, key = parts(raw)``: the float64 that finds the slot, as `fasthist.kernels.cpu` widens integers; the
    nearest float64; and an unsigned integer that orders as the numbers do.
    """
    if name == "float64":

        def parts(raw):
            key = ~raw if raw >= _SIGN64 else raw | _SIGN64
            return raw, as_float64(raw), key

    elif name in ("int32", "uint32"):
        flip = _SIGN32 if name == "int32" else _U32(0)
        signed = name == "int32"

        def parts(raw):
            value = np.float64(np.int32(raw)) if signed else np.float64(raw)
            return bits64(value), value, _U64(_U32(raw ^ flip))

    else:
        sign = _SIGN64 if name == "int64" else _U64(0)

        def parts(raw):
            negative = (raw & sign) != _U64(0)
            magnitude = _U64(~raw + _ONE) if negative else raw
            # Both halves are exact; the sum rounds, and what it lost is exact again (Dekker's Fast2Sum).
            upper = np.float64(magnitude >> _HALF) * _TWO_TO_32
            lower = np.float64(magnitude & _U64(0xFFFFFFFF))
            wide = upper + lower
            lost = lower - (wide - upper)
            pattern = bits64(wide)
            # Down, which is away from zero for a negative number, but never to a power of two.
            if (lost < 0.0 and not negative) or (lost < 0.0 and (pattern & _HIDDEN) == _U64(0)):
                pattern -= _ONE
            elif lost > 0.0 and negative and ((pattern + _ONE) & _HIDDEN) != _U64(0):
                pattern += _ONE
            if negative:
                return pattern | _SIGN64, -wide, raw ^ sign
            return pattern, wide, raw ^ sign

    return device(parts)


@functools.cache
def number_of(name: str) -> Any:
    """Give the function that turns a pattern of a format into the nearest float64."""
    if name in NARROW:
        convert = float32_pattern(name)

        def number(raw):
            return np.float64(as_float32(convert(raw)))

    else:
        parts = float64_parts(name)

        def number(raw):
            return parts(raw)[1]

    assert not FORMATS[name].is_code or name in NARROW
    return device(number)


def as_number(kind: int, key: int) -> float:
    """Give the number that a key stands for, on the host: an int of any size for a format of integers."""
    if kind == FLOAT32:
        pattern = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
        # Adding zero turns -0.0 into 0.0.
        return float(np.uint32(pattern).view(np.float32)) + 0.0
    if kind == FLOAT64:
        pattern = key ^ SIGN if key >= SIGN else ~key & 0xFFFFFFFFFFFFFFFF
        return float(np.uint64(pattern).view(np.float64)) + 0.0
    return key - {INT32: 1 << 31, INT64: SIGN}.get(kind, 0)
