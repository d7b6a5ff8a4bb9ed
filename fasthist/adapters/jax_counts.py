"""`count` and `to_histogram`: TensorFlow's buckets within ``jit``, on whatever device computes.

The slots of `fasthist.kernels.slots` are found by the same bit table as on a CPU, from integers alone, so that a device which
takes subnormals for zero gives the same counts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import tensorflow_buckets
from fasthist.dtypes import FORMATS
from fasthist.errors import ArgumentError
from fasthist.hist import Histogram
from fasthist.kernels.answers import histogram_of, in_limits
from fasthist.kernels.looks import Look, classified
from fasthist.kernels.slots import low_bits, slots_of
from fasthist.kernels.totals import as_float
from fasthist.packages import require

jax = require("jax")
jnp = require("jax.numpy", "jax")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["slots", "low", "high", "sums", "exponent"],
    meta_fields=["name", "signed"],
)
@dataclass(frozen=True)
class Counts:
    """What `count` finds: a pytree of small arrays, that `to_histogram` makes a `Histogram` of.

    Attributes
    ----------
    slots : uint32[n]
        Elements in each of the slots of `fasthist.kernels.slots`: float32's, or those of float64.
    low, high : int
        Keys of the extremes, in the order of the values; `low` is the larger one if no value is finite.
    sums : float[2, 2]
        Sum and sum of squares of the values times ``2**-exponent``, each as a number and what it lacks.
    exponent : int32
    name : str
        The format whose slots they are; of integers, "" before it.
    signed : bool
        Whether `low` and `high` are the values themselves.
    """

    slots: Any
    low: Any
    high: Any
    sums: Any
    exponent: Any
    name: str
    signed: bool


def count(x: Any, axis_name: Any = None) -> Counts:
    """Count every element of an array in TensorFlow's buckets, within ``jit`` or outside.

    Parameters
    ----------
    x : array[...]
        Of any real dtype. Gradients do not flow through.
    axis_name : str or tuple of str, optional
        Axes of ``shard_map`` or ``pmap`` over which `x` is divided: the counts are of all shards, on each of them. Each
        element is counted once only if `x` is not replicated over these axes.

    Returns
    -------
    Counts
        Some 15 kB (float32), which take no part in what is computed.

    Raises
    ------
    ArgumentError
        There are 2**32 elements or more, which the counters cannot hold.

    Notes
    -----
    Counts, extremes and special values are those of `fasthist.histogram`, bit for bit. It takes one pass of a gather and a
    scatter-add, and a pairwise summation. Sums are float32, or float64 where JAX has it, of values scaled by a power of
    two, with the errors of all additions added up too (the two-sum of Knuth, TAOCP 2, 4.2.2): squares neither
    overflow nor vanish. A float32's square is rounded, so `sum_squares` has a relative error of 2**-24 at most, plus that of
    subnormals, which some devices take for zero.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fasthist.adapters.jax import count, to_histogram
    >>> found = jax.jit(count)(jnp.array([0.5, 1.5, jnp.nan]))
    >>> to_histogram(found).num
    2
    """
    x = jax.lax.stop_gradient(jnp.asarray(x)).ravel()
    axis = () if axis_name is None else axis_name
    total = x.size if axis_name is None else x.size * jax.lax.axis_size(axis)
    if total >= 1 << 32:
        msg = f"{total} elements do not fit the counters of 32 bits. Accepted: fewer than 2**32. Hint: count slices."
        raise ArgumentError(msg)
    if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize >= 4:
        name, signed, slot, values, low, high = _look_at_integers(x)
    else:
        name, signed, slot, values, low, high = _look_at_floats(x)
    n = slots_of(name).values.size
    slots = jnp.zeros(n, jnp.uint32).at[slot].add(jnp.uint32(1))
    biggest = jnp.max(jnp.abs(values), initial=0)
    if axis_name is not None:
        slots = jax.lax.psum(slots, axis)
        low, high = jax.lax.pmin(low, axis), jax.lax.pmax(high, axis)
        biggest = jax.lax.pmax(biggest, axis)
    sums, exponent = _sums(values, biggest)
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis)
    return Counts(slots, low, high, sums, exponent, name, signed)


def to_histogram(found: Counts) -> Histogram:
    """Make a `Histogram` over TensorFlow's buckets, which adds up with those that `fasthist.histogram` counts.

    Parameters
    ----------
    found : Counts
        From `count`. What the device holds is copied, and waited for.
    """
    row = classified(np.asarray(found.slots).astype(np.uint64), FORMATS[found.name])
    low, high = int(found.low), int(found.high)
    if low > high:
        ends = math.inf, -math.inf
    elif found.signed:
        ends = as_float(low, down=True), as_float(high, down=True)
    else:
        ends = _number(low, found.name), _number(high, found.name)
    exponent = int(found.exponent)
    total, squares = np.asarray(found.sums, np.float64).sum(axis=1)
    with np.errstate(over="ignore"):  # a sum of squares beyond float64 is infinite
        look = Look(
            row,
            *ends,
            float(np.ldexp(total, exponent)),
            float(np.ldexp(squares, 2 * exponent)),
        )
    return histogram_of(look, tensorflow_buckets(), in_limits(look), None)


def _look_at_floats(x: Any) -> tuple[str, bool, Any, Any, Any, Any]:
    """Find slots, finite values and extremes from the patterns alone: a device may take subnormals for zero."""
    u, name = _patterns(x)
    row = FORMATS[name]
    dtype = u.dtype.type
    shift, sign = dtype(low_bits(row)), dtype(1 << (row.bits - 1))
    table = jnp.asarray(slots_of(name).table)
    slot = (table[(u >> shift).astype(jnp.int32)] + u) >> shift
    finite = (u & ~sign) < dtype(((1 << (row.bits - 1 - row.mantissa)) - 1) << row.mantissa)
    # In the order of integers as in that of the numbers: the bits below the sign are turned for negative ones.
    key = jax.lax.bitcast_convert_type(jnp.where(u & sign, u ^ ~sign, u), f"int{row.bits}")
    limits = jnp.iinfo(key.dtype)
    low = jnp.min(jnp.where(finite, key, limits.max), initial=limits.max)
    high = jnp.max(jnp.where(finite, key, limits.min), initial=limits.min)
    values = jax.lax.bitcast_convert_type(jnp.where(finite, u, dtype(0)), f"float{row.bits}")
    return name, False, slot.astype(jnp.int32), values, low, high


def _patterns(x: Any) -> tuple[Any, str]:
    """Give the patterns of numbers as float32 or float64, which hold each exactly."""
    name = str(x.dtype)
    if name in ("float32", "float64"):
        return jax.lax.bitcast_convert_type(x, f"uint{FORMATS[name].bits}"), name
    if name == "bfloat16":
        return jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16, "float32"
    if name in FORMATS and name.startswith("float"):
        codes = jax.lax.bitcast_convert_type(x, f"uint{FORMATS[name].bits}")
        table = slots_of(name).values.astype(np.float32).view(np.uint32)
        return jnp.asarray(table)[codes.astype(jnp.int32)], "float32"
    if name in FORMATS:  # bool, and integers of 8 and 16 bits
        return jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32), "float32"
    msg = f"an array of {name} cannot be counted. Accepted: {', '.join(FORMATS)}."
    raise ArgumentError(msg)


def _look_at_integers(x: Any) -> tuple[str, bool, Any, Any, Any, Any]:
    """Find the slots of float64 by a search among integers, since JAX may have no float64."""
    limits = jnp.iinfo(x.dtype)
    cuts, slots = _integer_cuts(str(x.dtype))
    slot = jnp.asarray(slots)[jnp.searchsorted(jnp.asarray(cuts), x, side="right") - 1]
    low = jnp.min(x, initial=x.dtype.type(limits.max))
    high = jnp.max(x, initial=x.dtype.type(limits.min))
    return "float64", True, slot, x.astype(_widest()), low, high


@functools.cache
def _integer_cuts(dtype: str) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Give the integers at which a new slot of float64 begins, in order, and the slot."""
    limits = np.iinfo(dtype)
    slots = slots_of("float64")
    starts = slots.values[np.isfinite(slots.values)]
    positive = [math.ceil(start) for start in starts[starts > 0].tolist()]
    # Below zero a slot of larger magnitudes begins with the first integer beyond one of TensorFlow's limits, which doubles of
    # 2**53 and more may not hold, or at a power of two.
    edges = set(tensorflow_buckets().edges.tolist())
    before = {start: math.nextafter(start, 0) for start in (-starts[starts < 0]).tolist()}
    first = [int(b) + 1 if b in edges else math.ceil(start) for start, b in before.items()]
    cuts = {limits.min, 0, 1, *positive, *(1 - one for one in first)}
    inside = sorted(cut for cut in cuts if limits.min <= cut <= limits.max)
    row = FORMATS["float64"]
    doubles = np.array([math.copysign(as_float(abs(cut), down=True), cut) for cut in inside])
    u = doubles.view(np.uint64)
    shift = np.uint64(low_bits(row))
    assert slots.table is not None
    found = (slots.table[u >> shift] + u) >> shift
    return np.array(inside, dtype=dtype), found.astype(np.int32)


def _number(key: int, name: str) -> float:
    """Give the number of a key."""
    bits = FORMATS[name].bits
    u = key if key >= 0 else key ^ ((1 << (bits - 1)) - 1)
    return float(np.array(u, f"int{bits}").view(f"float{bits}"))


def _widest() -> Any:
    return jnp.float64 if jax.config.jax_enable_x64 else jnp.float32


def _sums(values: Any, biggest: Any) -> tuple[Any, Any]:
    """Add up values and their squares, scaled by the power of two that brings the biggest one to between 1 and 2."""
    bits = values.dtype.itemsize * 8
    row = FORMATS[f"float{bits}"]
    bias = (1 << (bits - 2 - row.mantissa)) - 1
    u = jax.lax.bitcast_convert_type(biggest.astype(values.dtype), f"int{bits}")
    # At most one less than the largest exponent: the scale of that one would be subnormal.
    exponent = jnp.minimum((u >> row.mantissa) - bias, bias - 1)
    scale = jax.lax.bitcast_convert_type((bias - exponent) << row.mantissa, values.dtype)
    scaled = values * scale
    sums = jnp.stack([_add_up(scaled), _add_up(scaled * scaled)])
    return sums, exponent.astype(jnp.int32)


def _add_up(values: Any) -> Any:
    """Add in pairs, and give the sum and the sum of the errors of all additions."""
    errors = jnp.zeros_like(values)
    while values.size > 1:
        odd = values.size % 2
        values, errors = (jnp.pad(one, (0, odd)) for one in (values, errors))
        half = values.size // 2
        a, b = values[:half], values[half:]
        values = a + b
        other = values - a
        errors = errors[:half] + errors[half:] + ((a - (values - other)) + (b - other))
    return jnp.stack([values.sum(), errors.sum()])
