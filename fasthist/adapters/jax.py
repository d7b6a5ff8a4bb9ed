"""JAX: name the arrays of Flax, Equinox and Optax, count shards without gathering them, and count within ``jit``.

Outside ``jit``, call ``writer.add_histograms(named(weights=params, gradients=grads), step)``; `histograms` counts arrays that
are sharded over devices, and `all_reduce` sums over processes. Within ``jit``, `count` counts on the device, and
`add_histograms` sends the result to a writer.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np

from fasthist import compute
from fasthist.adapters.jax_counts import Counts, count, to_histogram
from fasthist.adapters.jax_processes import all_reduce
from fasthist.adapters.watching import Pattern, Schedule, Selection
from fasthist.hist import Histogram
from fasthist.packages import require
from fasthist.sinks import lent_sink
from fasthist.tree import named_leaves

jax = require("jax")
jnp = require("jax.numpy", "jax")
io_callback = require("jax.experimental", "jax").io_callback

__all__ = ["Counts", "add_histograms", "all_reduce", "count", "histograms", "named", "to_histogram"]


def named(include: Pattern = None, exclude: Pattern = None, **trees: Any) -> dict[str, Any]:
    """Return the floating-point and complex arrays of pytrees by tag.

    Parameters
    ----------
    include, exclude : str or re.Pattern, optional
        Regular expressions: return the tags in which the first is found and the second is not.
    **trees : pytree
        Such as ``weights=params, gradients=grads, optimizer=state``; the keyword begins the tags. May be dictionaries of
        Flax, modules and states of NNX, modules of Equinox, states of Optax. Other leaves are left out: functions, text,
        Python numbers, None, random keys, and integer arrays, which are counters and old-style keys.

    Returns
    -------
    dict of str to array
        Tags such as ``weights/Dense_0/kernel``; for complex arrays ``<tag>/real`` and ``<tag>/imag``, which are copies.
        Works within ``jit`` too.

    Raises
    ------
    ArgumentError
        `include` or `exclude` is not a regular expression, or two leaves have the same tag.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fasthist.adapters.jax import named
    >>> list(named(weights={"fc": {"kernel": jnp.ones((2, 3)), "steps": jnp.int32(1), "activation": jnp.tanh}}))
    ['weights/fc/kernel']
    """
    selection = Selection(include, exclude)
    arrays: dict[str, Any] = {}
    for tag, leaf in named_leaves(trees).items():
        if tag not in selection or not hasattr(leaf, "dtype"):
            continue
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            arrays[tag] = leaf
        elif jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            arrays[f"{tag}/real"], arrays[f"{tag}/imag"] = leaf.real, leaf.imag
    return arrays


def histograms(values: Any, *, buckets: compute.BucketsArgument = "auto") -> dict[str, Histogram]:
    """Count like `fasthist.histograms`, without gathering arrays that are sharded over devices.

    Parameters
    ----------
    values : pytree
        Of arrays, such as from `named`.
    buckets
        As in `fasthist.histogram`; not a number of uniform buckets if an array has several shards, whose ranges differ.

    Returns
    -------
    dict of str to Histogram
        By tag. Each element is counted once: in the first replica of its shard, if this process holds it. If an array is
        spread over processes, these are histograms of a part, which `all_reduce` sums to the whole.

    Raises
    ------
    FasthistError
        As `fasthist.histograms`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fasthist.adapters.jax import histograms
    >>> histograms({"fc": {"kernel": jnp.arange(5.0)}})["fc/kernel"].num
    5
    """
    shards = {tag: _own_shards(leaf) for tag, leaf in named_leaves(values).items()}
    parts = {
        tag if len(arrays) == 1 else f"{tag} (shard {i})": array
        for tag, arrays in shards.items()
        for i, array in enumerate(arrays)
    }
    counted = iter(compute.histograms(parts, buckets=buckets).values())
    return {
        tag: cast("Histogram", sum(itertools.islice(counted, len(arrays))))
        for tag, arrays in shards.items()
    }


def _own_shards(leaf: Any) -> list[Any]:
    """Return the arrays that hold the elements that this process must count."""
    is_array = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    if not is_array or len(leaf.sharding.device_set) == 1:
        return [leaf]
    first = [shard.data for shard in leaf.addressable_shards if shard.replica_id == 0]
    return first or [np.empty(0, dtype=leaf.dtype)]


def add_histograms(writer: Any, values: Any, step: Any, *, every: int = 1) -> None:
    """Count the arrays of a tree and log the histograms, from within ``jit``.

    Parameters
    ----------
    writer : SummaryWriter, Sink, run, tracker or logger
        Anything that `fasthist.sinks.as_sink` takes except a path.
    values : pytree
        Of arrays, such as from `named`.
    step : int or int[]
    every : int
        Log the steps that are a multiple.

    Raises
    ------
    ArgumentError
        `writer` or `every` is not as above; or as `count`.
    jax.errors.JaxRuntimeError
        Later, with the text of an error in ``add_histograms`` of the writer.

    Notes
    -----
    This is a ``lax.cond`` around `count` of each array and one unordered ``io_callback``. Steps that are not due cost a
    comparison; others the counting and 8 kB to the host for each array, where a thread of JAX calls the writer. Steps may
    arrive in any order; call ``jax.effects_barrier()`` before you close the writer. Activations may be logged in a function
    that is differentiated, but JAX refuses callbacks within ``jax.checkpoint``. Under ``shard_map`` each device would log:
    use `count` with `axis_name` there, and log outside.

    Examples
    --------
    >>> import fasthist, jax, jax.numpy as jnp
    >>> from fasthist.adapters.jax import add_histograms, named
    >>> writer = fasthist.SummaryWriter("runs/a")
    >>> @jax.jit
    ... def train(w, step):
    ...     gradient = jax.grad(lambda w: jnp.sum(w**2))(w)
    ...     add_histograms(writer, named(weights={"w": w}, gradients={"w": gradient}), step, every=10)
    ...     return w - 0.1 * gradient
    >>> w = jnp.ones(3)
    >>> for step in range(20):
    ...     w = train(w, step)
    >>> jax.effects_barrier()
    >>> writer.close()
    """
    Schedule(every)  # checks it
    sink = lent_sink(writer)
    if sink is None:
        return
    arrays = jax.lax.stop_gradient(named_leaves(values))

    def write(step: Any, counts: dict[str, Counts]) -> None:
        sink.add_histograms({tag: to_histogram(c) for tag, c in counts.items()}, int(step))

    def due() -> None:
        io_callback(write, None, step, {tag: count(array) for tag, array in arrays.items()})

    jax.lax.cond(jnp.asarray(step) % every == 0, due, lambda: None)
