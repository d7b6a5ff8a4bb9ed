"""The CUDA kernels, compiled for the CPU, count what the CPU's own kernels count."""

from __future__ import annotations

import functools

import compiled_cuda
import numpy as np
import oracle
import pytest
import strategies

from fasthist.buckets import parse_buckets, tensorflow_buckets, wants_outline
from fasthist.dtypes import FORMATS
from fasthist.kernels import tally
from fasthist.kernels.cuda.plan import DeviceArray, in_memory_order

NAMES = [name for name in strategies.DTYPES if name in FORMATS]


@pytest.fixture(scope="module")
def on_devices():
    count, device = compiled_cuda.load()
    device.chunk = 64
    return count


def placed(array):
    """Say where an array lies, as `fasthist.gpu_intake` would."""
    address = array.__array_interface__["data"][0]
    address, dims = in_memory_order(address, array.shape, array.strides, array.itemsize)
    return DeviceArray(address, array.size, dims, array.dtype.name, 0, 0, array)


@functools.cache
def values_of(name):
    """Give every special pattern, and some random ones: NaN, infinities, limits and their neighbours."""
    rng = np.random.default_rng(5)
    special = np.array(strategies.special_patterns(name), dtype=strategies.carrier(name))
    if special.size > 700:
        special = rng.choice(special, 700)
    drawn = rng.integers(0, 1 << (8 * special.itemsize), 300, dtype=special.dtype)
    return strategies.from_patterns(rng.permutation(np.append(special, drawn)), name)


@pytest.mark.parametrize(
    ("name", "strided"),
    [(name, False) for name in NAMES]
    + [(name, True) for name in ("float32", "bfloat16", "float64", "int64", "uint8")],
)
def test_every_format(name, strided, on_devices):
    values = values_of(name)
    # Of an odd length, and not beginning where a vector begins.
    array = np.repeat(values, 2)[1::2] if strided else values[1:]
    expected = oracle.answer(strategies.decoded(array))
    for layout in ("auto", strategies.EDGES, 7):
        found = on_devices([placed(array)], parse_buckets(layout), outlined=wants_outline(layout))[
            0
        ]
        here = tally(
            [(array.view(strategies.carrier(name)), FORMATS[name])], parse_buckets(layout), 1
        )[0]
        assert np.array_equal(found.counts, here.counts)
        assert np.array_equal(found.buckets.edges, here.buckets.edges)
        assert (found.min, found.max, found.num) == (here.min, here.max, here.num)
        if layout == "auto":
            assert oracle.differences(found, expected) == []
        elif layout != 7:
            assert oracle.differences(found, oracle.answer(strategies.decoded(array), layout)) == []


def test_the_sample_is_the_cpus(on_devices):
    values = np.random.default_rng(6).normal(0, 0.02, 70_001).astype(np.float32)
    values[::5] = 0
    found = on_devices([placed(values)], tensorflow_buckets(), outlined=True)[0]
    array = values.view(np.uint32), FORMATS["float32"]
    here = tally([array], tensorflow_buckets(), 1, outlined=True)[0]
    assert np.array_equal(found.outline, here.outline)
