"""Arrays of every format, of every kind of number, in every memory layout."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import oracle
from hypothesis import strategies as st

DTYPES = {
    "bool": np.dtype(bool),
    **{
        f"{sign}int{bits}": np.dtype(f"{sign}int{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
"""All formats, by the name that numpy, ml_dtypes and torch share."""

CODES = [name for name, dtype in DTYPES.items() if dtype.itemsize <= 2]
WIDE = [name for name, dtype in DTYPES.items() if dtype.itemsize > 2]
EDGES = [-3.0, -1.0, -0.5, 0.0, 1e-12, 0.25, 1.0, 1.5, 700.0]


def carrier(name):
    return np.dtype(f"u{DTYPES[name].itemsize}")


def from_patterns(patterns, name):
    """Read bit patterns as a format; every non-zero pattern of a bool is true, and stored as 1."""
    patterns = np.asarray(patterns, dtype=carrier(name))
    return (patterns != 0) if name == "bool" else patterns.view(DTYPES[name])


def all_patterns(name):
    count = 2 if name == "bool" else 1 << (8 * DTYPES[name].itemsize)
    return from_patterns(np.arange(count).astype(carrier(name)), name)


def decoded(array):
    """What the oracle reads: float64 of 8- and 16-bit floats, by numpy's and ml_dtypes' own conversion."""
    with np.errstate(invalid="ignore"):
        return array.astype(np.float64) if array.dtype.kind in "fV" else array


def neighbours(values):
    """Each number of a float array, the one before it and the one after it."""
    with np.errstate(over="ignore"):
        return np.concatenate((np.nextafter(values, -np.inf), values, np.nextafter(values, np.inf)))


@functools.cache
def limits_and_neighbours(name):
    """TensorFlow's limits, powers of two and cast limits that a 4- or 8-byte format has, and their neighbours."""
    dtype = DTYPES[name]
    turns = np.concatenate(
        (
            oracle.tensorflow_edges(),
            *([2.0**e, -(2.0**e)] for e in range(-150, 130)),
            *([x, -x] for cast in oracle.CASTS.values() for x in cast[:2]),
        )
    )
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return neighbours(turns.astype(dtype))
    info = np.iinfo(dtype)
    near = {int(np.floor(x)) + step for x in turns for step in (-1, 0, 1, 2)} | {
        info.min,
        info.max,
        info.max - 1,
    }
    return np.array(sorted(x for x in near if info.min <= x <= info.max), dtype=dtype)


@functools.cache
def core_patterns(name):
    """Patterns where an encoding changes: zeros, extremes, subnormals, infinities, NaN payloads, both signs."""
    dtype = DTYPES[name]
    bits = 8 * dtype.itemsize
    sign = 1 << (bits - 1)
    magnitudes = {0, 1, 2, sign - 2, sign - 1}
    if dtype.itemsize <= 2:
        infinity = {"float16": 0x7C00, "bfloat16": 0x7F80, "float8_e5m2": 0x7C}.get(name, 0x7F)
        magnitudes |= {infinity + step for step in (-1, 0, 1, 2)}
    elif dtype.kind == "f":
        mantissa = 23 if bits == 32 else 52
        infinity = ((1 << (bits - 1 - mantissa)) - 1) << mantissa
        quiet = 1 << (mantissa - 1)
        magnitudes |= {(1 << mantissa) - 1, 1 << mantissa, infinity - 1, infinity}
        magnitudes |= {infinity + payload for payload in (1, 2, quiet - 1, quiet, quiet + 1)}
    magnitudes = {pattern for pattern in magnitudes if 0 <= pattern < sign}
    return sorted(magnitudes | {pattern | sign for pattern in magnitudes})


@functools.cache
def special_patterns(name):
    """The core patterns and, of a 4- or 8-byte format, every limit with its neighbours."""
    found = set(core_patterns(name))
    if DTYPES[name].itemsize > 2:
        found |= set(limits_and_neighbours(name).view(carrier(name)).tolist())
    return sorted(found)


def patterned(name, max_size=60):
    """Arrays of one format out of random and of special bit patterns, empty ones too."""
    bits = 8 * DTYPES[name].itemsize
    pattern = st.one_of(
        st.sampled_from(core_patterns(name)),
        st.sampled_from(special_patterns(name)),
        st.integers(0, (1 << bits) - 1),
    )
    return st.lists(pattern, max_size=max_size).map(
        lambda patterns: from_patterns(np.array(patterns, dtype=carrier(name)), name)
    )


def of_any_format(max_size=60):
    return st.sampled_from(sorted(DTYPES)).flatmap(lambda name: patterned(name, max_size))


def finite_doubles(max_size=60, min_size=0):
    """Float64 arrays without NaN and infinities, in which numbers meet limits and repeat."""
    special = from_patterns(special_patterns("float64"), "float64")
    special = special[np.isfinite(special)].tolist()
    number = st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(special),
        st.sampled_from([0.0, -0.0, 1.0, 0.25, -0.5, 3.0]),
        st.integers(-8, 8).map(float),
    )
    return st.lists(number, min_size=min_size, max_size=max_size).map(
        lambda x: np.array(x, dtype=np.float64)
    )


def kinds_of(array):
    """What an array of floats has: names for the test that strategies reach everything."""
    if array.size == 0:
        return {"empty"}
    if array.dtype.kind not in "fV":
        return {"integers"}
    found = set()
    if array.dtype in (np.float32, np.float64):
        bits = array.view(carrier(array.dtype.name))
        mantissa = 23 if array.itemsize == 4 else 52
        is_nan = np.isnan(array)
        quiet = (bits >> carrier(array.dtype.name).type(mantissa - 1)) & 1 == 1
        negative = bits >> carrier(array.dtype.name).type(8 * array.itemsize - 1) == 1
        for label, which in (("quiet", quiet), ("signalling", ~quiet)):
            for sign, side in (("+", ~negative), ("-", negative)):
                if (is_nan & which & side).any():
                    found.add(f"{sign}{label} NaN")
    values = decoded(array)
    info = ml_dtypes.finfo(array.dtype)
    tests = {
        "NaN": np.isnan(values),
        "+inf": values == np.inf,
        "-inf": values == -np.inf,
        "-0.0": (values == 0) & np.signbit(values),
        "subnormal": (values != 0) & (np.abs(values) < float(info.smallest_normal)),
        "largest": values == float(info.max),
        "smallest": values == float(info.min),
    }
    return found | {label for label, which in tests.items() if which.any()}


# -- memory layouts: each takes a flat array and gives one with the same elements, some of them repeated -------


def _strided(array):
    return np.repeat(array, 3)[1::3]


def _transposed(array):
    rows = next(rows for rows in (7, 5, 3, 2, 1) if array.size % rows == 0)
    return array.reshape(rows, -1).T


def _shuffled_axes(array):
    size = array.size
    a = next(a for a in (4, 3, 2, 1) if size % a == 0)
    b = next(b for b in (5, 3, 2, 1) if size // a % b == 0)
    return array.reshape(a, b, -1).transpose(1, 2, 0)[:, ::-1]


def _part_of_rows(array):
    rows = next(rows for rows in (7, 5, 3, 2, 1) if array.size % rows == 0)
    wide = np.zeros((rows, array.size // rows + 2), dtype=array.dtype)
    wide[:, 1:-1] = array.reshape(rows, -1)
    return wide[:, 1:-1]


def _big_endian(array):
    if array.dtype.kind == "V":  # ml_dtypes knows one byte order
        return array
    return array.astype(array.dtype.newbyteorder(">"))


def _misaligned(array):
    memory = bytearray(1) + bytearray(array.tobytes())
    return np.frombuffer(memory, dtype=array.dtype, offset=1)


def _read_only(array):
    copy = array.copy()
    copy.setflags(write=False)
    return copy


LAYOUTS = {
    "contiguous": lambda array: array,
    "strided": _strided,
    "reversed": lambda array: array[::-1],
    "transposed": _transposed,
    "shuffled axes": _shuffled_axes,
    "part of rows": _part_of_rows,
    "read-only": _read_only,
    "big-endian": _big_endian,
    "big-endian strided": lambda array: _strided(_big_endian(array)),
    "misaligned": _misaligned,
    "broadcast": lambda array: np.broadcast_to(array, (3, array.size)),
    "broadcast inner": lambda array: np.broadcast_to(array[:, None], (array.size, 2)),
    "axes of one": lambda array: array[None, :, None],
}
