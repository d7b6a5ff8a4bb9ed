"""`count` and `to_histogram`: count in TensorFlow's buckets within ``jit``, on any device.

Slots are found from the bits of the numbers, so a device that flushes subnormals to zero gives the same counts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fasthist.buckets import tensorflow_buckets
from fasthist.dtypes import CAST_FORMATS, FORMATS, cast_limits
from fasthist.errors import ArgumentError, ArrayError
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
    meta_fields=["dtype"],
)
@dataclass(frozen=True)
class Counts:
    """The result of `count`: a pytree of small arrays, which `to_histogram` turns into a `Histogram`.

    Attributes
    ----------
    slots : uint32[n]
        Number of elements in each slot, the finest intervals that the results need: 8 kB.
    low, high : int
        Extremes of the finite values: integers themselves, floats as keys of the same order. `low` is larger than `high` if
        there are no finite values.
    sums : float[4]
        Sum of the values times ``2**-exponent`` and its rounding error, then the same for their squares.
    exponent : int32
    dtype : str
        The format of the slots: "float32" or "float64", or that of integers of 32 and 64 bits.
    """

    slots: Any
    low: Any
    high: Any
    sums: Any
    exponent: Any
    dtype: str


def count(x: Any, axis_name: str | tuple[str, ...] | None = None) -> Counts:
    """Count every element of an array in TensorFlow's buckets, within ``jit``.

    Parameters
    ----------
    x : array[...]
        Of a real dtype that `fasthist.histogram` takes; without x64, JAX holds float64 as float32.
    axis_name : str or tuple of str, optional
        Axes of ``shard_map`` or ``pmap`` over which `x` is divided: each device gets the counts of the whole. Do not name an
        axis over which `x` is replicated: its elements would be counted once for each replica.

    Returns
    -------
    Counts
        Gradients do not flow through. Split the result of ``jax.vmap(count)(stacked)`` or a ``lax.scan`` with
        ``jax.tree.map(lambda part: part[i], counts)``.

    Raises
    ------
    ArrayError
        `fasthist.histogram` does not take the dtype.
    ArgumentError
        There are 2**32 elements or more, too many for counters of 32 bits.

    Notes
    -----
    Counts, extremes and special values equal those of ``fasthist.histogram(x, buckets="tensorflow")`` exactly. Each element
    costs a table look-up, an addition to a counter and some additions to sums. A CPU adds to counters one after the other,
    which takes tens of nanoseconds; compiling takes tenths of a second more for each array. An array that is sharded by
    ``jit`` alone is counted once too; if a mesh has explicit axes, use ``shard_map``, or
    ``jax.sharding.auto_axes(count, out_sharding=P())``.

    Sums are pairs of float32, or float64 with x64, of which the second is the rounding error of the first (Dekker 1971, "A
    floating-point technique for extending the available precision"): for n float32 the error is at most ``n * 2**-45`` of
    the sum of magnitudes, ``2**-35`` more for squares, and near ``1e-10`` in practice. `axis_name` adds ``2**-24`` for each
    device, 32-bit integers without x64 ``2**-23``, and a device that flushes subnormals to zero adds their sum.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fasthist.adapters.jax import count, to_histogram
    >>> counts = jax.jit(count)(jnp.array([0.5, 1.5, jnp.nan]))
    >>> to_histogram(counts)
    Histogram(num=2, min=0.5, max=1.5, mean=1, std=0.5, nan_count=1, buckets='tensorflow'[1550])
    """
    x = jax.lax.stop_gradient(jnp.asarray(x))
    size = x.size if axis_name is None else x.size * jax.lax.axis_size(axis_name)
    if size >= 1 << 32:
        msg = f"{size} elements are too many for counters of 32 bits. Accepted: fewer than 2**32. Hint: count parts."
        raise ArgumentError(msg)
    if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize >= 4:
        dtype, keys, finite, values = str(x.dtype), x, True, x.astype(float)
        cuts = _cuts(dtype)
        n, slot = cuts.size, jnp.searchsorted(jnp.asarray(cuts), x, side="right") - 1
    else:
        dtype, keys, finite, values, slot = _look_at_floats(x)
        n = slots_of(dtype).values.size
    slots = jnp.zeros(n, jnp.uint32).at[slot].add(jnp.uint32(1))
    least, most = (keys.dtype.type(getattr(jnp.iinfo(keys.dtype), end)) for end in ("min", "max"))
    low = jnp.min(jnp.where(finite, keys, most), initial=most)
    high = jnp.max(jnp.where(finite, keys, least), initial=least)
    if axis_name is not None:
        slots = jax.lax.psum(slots, axis_name)
        low, high = jax.lax.pmin(low, axis_name), jax.lax.pmax(high, axis_name)
    exponent = _exponent(low, high, dtype) if dtype in ("float32", "float64") else jnp.int32(0)
    sums = _sums(values, exponent)
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    return Counts(slots, low, high, sums, exponent, dtype)


def to_histogram(found: Counts) -> Histogram:
    """Make a `Histogram`, which can be added to those of `fasthist.histogram`.

    Parameters
    ----------
    found : Counts
        From `count` of one array. Waits for it, and copies it to the host.

    Returns
    -------
    Histogram
        Over ``tensorflow_buckets()``. Its sums are less exact: see `count`.

    Examples
    --------
    >>> import fasthist, jax, jax.numpy as jnp
    >>> from fasthist.adapters.jax import count, to_histogram
    >>> to_histogram(jax.jit(count)(jnp.ones(3))).num
    3
    """
    low, high = int(found.low), int(found.high)
    slots = np.asarray(found.slots).astype(np.uint64)
    if found.dtype in ("float32", "float64"):
        row = classified(slots, FORMATS[found.dtype])
        ends = _number(low, found.dtype), _number(high, found.dtype)
    else:
        of_float64 = np.zeros(slots_of("float64").values.size, dtype=np.uint64)
        np.add.at(of_float64, _slots_of_cuts(found.dtype), slots)
        row = classified(of_float64, FORMATS["float64"])
        ends = as_float(low, down=True), as_float(high, down=True)
    exponent = int(found.exponent)
    sums = np.asarray(found.sums, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        total = float(np.ldexp(sums[0] + sums[1], exponent))
        squares = float(np.ldexp(sums[2] + sums[3], 2 * exponent))
    look = Look(row, *ends, total, squares)
    return histogram_of(look, tensorflow_buckets(), in_limits(look), None)


# -- slots ------------------------------------------------------------------------------------------------


def _look_at_floats(x: Any) -> tuple[str, Any, Any, Any, Any]:
    """Return the format and, for each element, its sort key, finite flag, value (0 if not finite) and slot."""
    dtype, u = _patterns(x)
    row = FORMATS[dtype]
    of_its_width = u.dtype.type
    shift, sign = of_its_width(low_bits(row)), of_its_width(1 << (row.bits - 1))
    slot = (jnp.asarray(slots_of(dtype).table)[u >> shift] + u) >> shift
    infinity = of_its_width(((1 << (row.bits - 1 - row.mantissa)) - 1) << row.mantissa)
    finite = (u & ~sign) < infinity
    # Flip all bits but the sign of negative numbers: then integers have the order of the numbers.
    key = jax.lax.bitcast_convert_type(jnp.where(u >= sign, u ^ ~sign, u), f"int{row.bits}")
    values = jax.lax.bitcast_convert_type(jnp.where(finite, u, of_its_width(0)), dtype)
    return dtype, key, finite, values, slot


def _patterns(x: Any) -> tuple[str, Any]:
    """Return the bit patterns as float32 or float64, which hold each number exactly."""
    name = str(x.dtype)
    if name not in FORMATS:
        msg = f"an array of {name} cannot be counted. Accepted: {', '.join(FORMATS)}."
        raise ArrayError(msg)
    if name == "float64":
        return name, jax.lax.bitcast_convert_type(x, jnp.uint64)
    if name == "bfloat16":  # by its bits: some are subnormal as float32
        u = jax.lax.bitcast_convert_type(x, jnp.uint16)
        return "float32", u.astype(jnp.uint32) << jnp.uint32(16)
    return "float32", jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)


def _number(key: int, dtype: str) -> float:
    bits = FORMATS[dtype].bits
    u = key if key >= 0 else key ^ ((1 << (bits - 1)) - 1)
    return float(np.array(u, f"int{bits}").view(dtype))


@functools.cache
def _cuts(dtype: str) -> NDArray[np.integer]:
    """Return the smallest integer, and each at which a result changes, sorted."""
    limits = np.iinfo(dtype)
    # Buckets contain their left edge on both sides of 0; the other cuts are by magnitude.
    edges = [math.ceil(edge) for edge in tensorflow_buckets().edges.tolist()]
    lost = [math.ceil(cast_limits(name).lost_from) for name in CAST_FORMATS]
    magnitudes = [*lost, *(1 << k for k in range(64))]
    cuts = {limits.min, *edges, *magnitudes, *(1 - magnitude for magnitude in magnitudes)}
    return np.array(sorted(cut for cut in cuts if limits.min <= cut <= limits.max), dtype=dtype)


@functools.cache
def _slots_of_cuts(dtype: str) -> NDArray[np.uint64]:
    """Return the float64 slots of the integers from each cut to the next."""
    cuts = _cuts(dtype).tolist()
    # Round up, since the integers are above the cut; no result changes between neighbouring doubles.
    u = np.array([-as_float(-cut, down=True) for cut in cuts]).view(np.uint64)
    shift = np.uint64(low_bits(FORMATS["float64"]))
    table = cast("NDArray[np.uint64]", slots_of("float64").table)
    slots: NDArray[np.uint64] = (table[u >> shift] + u) >> shift
    return slots


# -- sums -------------------------------------------------------------------------------------------------


def _exponent(low: Any, high: Any, dtype: str) -> Any:
    """Return the exponent of the largest magnitude, limited so that its reciprocal is not subnormal."""
    row = FORMATS[dtype]
    bias = (1 << (row.bits - 2 - row.mantissa)) - 1
    largest = jnp.maximum(jnp.maximum(high, ~low), 0)  # the key of -x is ~x
    return jnp.minimum((largest >> row.mantissa) - bias, bias - 1).astype(jnp.int32)


def _sums(values: Any, exponent: Any) -> Any:
    """Sum values times ``2**-exponent``, and their squares, so that neither overflow nor underflow occurs."""
    row = FORMATS[str(values.dtype)]
    bias = (1 << (row.bits - 2 - row.mantissa)) - 1
    scale = (bias - exponent).astype(f"int{row.bits}") << row.mantissa
    x = values * jax.lax.bitcast_convert_type(scale, values.dtype)
    # A number of half the digits has an exact square; the rest of x**2 is small (Dekker 1971).
    u = jax.lax.bitcast_convert_type(x, f"int{row.bits}")
    mask = -1 << ((row.mantissa + 1) // 2)
    upper = jax.lax.bitcast_convert_type(u & mask, values.dtype)
    rest = (x - upper) * (x + upper)
    zero = values.dtype.type(0)
    terms = (x, jnp.zeros_like(x), upper * upper, rest)
    return jnp.stack(jax.lax.reduce(terms, (zero,) * 4, _add, range(x.ndim)))


def _add(left: Any, right: Any) -> tuple[Any, Any, Any, Any]:
    return *_add_pairs(left[:2], right[:2]), *_add_pairs(left[2:], right[2:])


def _add_pairs(left: Any, right: Any) -> tuple[Any, Any]:
    """Add two numbers of double length: the error stays below the last digit of the sum (Dekker 1971, add2)."""
    (a, lost_of_a), (b, lost_of_b) = left, right
    whole = a + b
    of_b = whole - a
    lost = ((a - (whole - of_b)) + (b - of_b)) + (lost_of_a + lost_of_b)
    total = whole + lost
    return total, lost - (total - whole)
