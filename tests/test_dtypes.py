"""The table of formats: values, special patterns and cast limits against numpy, struct and ml_dtypes."""

from __future__ import annotations

import math
import struct

import ml_dtypes
import numpy as np
import oracle
import pytest
import strategies

from fasthist.dtypes import CAST_FORMATS, FORMATS, cast_limits

NARROW_FLOATS = [name for name in strategies.CODES if FORMATS[name].kind == "float"]


def same_numbers(a, b):
    """Equal with NaN equal to NaN, and zeros of the same sign."""
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(
        np.signbit(a) & (a == 0), np.signbit(b) & (b == 0)
    )


def test_same_numbers_can_tell():
    numbers = np.array([0.0, np.nan, np.inf])
    assert same_numbers(numbers, numbers.copy())
    for other in ([-0.0, np.nan, np.inf], [0.0, 1.0, np.inf], [0.0, np.nan, -np.inf]):
        assert not same_numbers(numbers, np.array(other))


def test_there_is_a_row_for_each_format():
    assert set(FORMATS) == set(strategies.DTYPES)
    for name, row in FORMATS.items():
        dtype = strategies.DTYPES[name]
        assert (row.name, row.bits) == (name, 8 * dtype.itemsize)
        assert row.carrier == np.dtype(f"u{dtype.itemsize}")
        assert row.is_code == (dtype.itemsize <= 2)


@pytest.mark.parametrize("name", strategies.CODES)
def test_every_pattern_has_the_value_that_its_library_gives_it(name):
    patterns = np.arange(1 << FORMATS[name].bits).astype(strategies.carrier(name))
    if name == "bool":
        expected = np.array([0.0] + [1.0] * 255)
    else:
        expected = strategies.decoded(patterns.view(strategies.DTYPES[name])).astype(np.float64)
    found = FORMATS[name].decode(patterns)
    assert found.dtype == np.float64
    assert same_numbers(found, expected)


def test_every_float16_has_the_value_that_struct_gives_it():
    patterns = np.arange(65536, dtype=np.uint16)
    expected = np.array([struct.unpack("<e", struct.pack("<H", p))[0] for p in range(65536)])
    assert same_numbers(FORMATS["float16"].decode(patterns), expected)


def test_every_bfloat16_is_the_upper_half_of_a_float32():
    patterns = np.arange(65536, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        expected = (patterns.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    assert same_numbers(FORMATS["bfloat16"].decode(patterns), expected)


@pytest.mark.parametrize(
    ("name", "largest", "smallest", "nans", "infinities"),
    [
        ("float8_e4m3fn", 448.0, 2.0**-9, 2, 0),
        ("float8_e5m2", 57344.0, 2.0**-16, 6, 2),
        ("float8_e4m3fnuz", 240.0, 2.0**-10, 1, 0),
        ("float8_e5m2fnuz", 57344.0, 2.0**-17, 1, 0),
    ],
)
def test_the_8_bit_floats_are_those_of_the_papers(name, largest, smallest, nans, infinities):
    values = FORMATS[name].decode(np.arange(256, dtype=np.uint8))
    assert values[np.isfinite(values)].max() == largest
    assert values[values > 0].min() == smallest
    assert (np.isnan(values).sum(), np.isinf(values).sum()) == (nans, infinities)


def probes(name):
    """Float32 numbers where a cast may change its mind, with both neighbours: limits, ties, random ones."""
    info = ml_dtypes.finfo(strategies.DTYPES[name])
    smallest, largest = float(info.smallest_subnormal), float(info.max)
    turns = [smallest, smallest / 2, smallest / 4, smallest * 1.5, largest, largest * 2]
    turns += [2.0**-25, 2.0**-10, 2.0**-17, 464.0, 61440.0, 65520.0, 448.0, 480.0, 57344.0, 65504.0]
    turns += [largest * (1 + share / 64) for share in range(33)]
    with np.errstate(over="ignore"):
        turns = strategies.neighbours(np.array(turns).astype(np.float32))
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 300_000, dtype=np.uint32).view(np.float32)
    near = np.exp2(rng.uniform(-30, 18, 300_000)).astype(np.float32)
    values = np.concatenate((turns, -turns, bits, near, -near))
    return values[np.isfinite(values) & (values != 0)]


@pytest.mark.parametrize("name", NARROW_FLOATS)
def test_cast_limits_are_where_a_real_cast_loses_a_value(name):
    limits, values = cast_limits(name), probes(name)
    with np.errstate(over="ignore", under="ignore"):
        cast = values.astype(strategies.DTYPES[name]).astype(np.float64)
    magnitude = np.abs(values.astype(np.float64))
    assert np.array_equal(magnitude <= limits.zero_up_to, cast == 0)
    assert np.array_equal(magnitude >= limits.lost_from, ~np.isfinite(cast))


def test_the_oracles_casts_are_real_casts():
    assert tuple(oracle.CASTS) == CAST_FORMATS
    for row, name in enumerate(oracle.CASTS):
        values = probes(name)
        with np.errstate(over="ignore", under="ignore"):
            cast = values.astype(strategies.DTYPES[name]).astype(np.float64)
        expected = [(cast == 0).sum(), (~np.isfinite(cast)).sum()]
        assert min(expected) > 1000
        assert oracle.cast_losses(values.astype(np.float64))[row].tolist() == expected


@pytest.mark.parametrize(
    ("name", "zero_up_to", "lost_from"),
    [
        ("float16", 2.0**-25, 65520.0),
        ("float8_e4m3fn", 2.0**-10, math.nextafter(464.0, math.inf)),
        ("float8_e5m2", 2.0**-17, 61440.0),
    ],
)
def test_cast_limits_in_numbers(name, zero_up_to, lost_from):
    assert cast_limits(name).zero_up_to == zero_up_to
    assert cast_limits(name).lost_from == lost_from
