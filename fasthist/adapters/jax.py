"""JAX: name the arrays of Flax, Equinox and Optax, count shards where they lie, and count within ``jit``.

Outside ``jit``, ``writer.add_histograms(named(weights=params, gradients=grads), step)`` is all it takes; `histograms`
does not gather what is sharded over devices, and `all_reduce` adds up over processes. Within, `count` counts on the
device that computes, and `add_histograms` sends the answer to a writer.
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
    """Return every array of floating-point or complex numbers in some pytrees by its tag.

    Parameters
    ----------
    include, exclude : str or re.Pattern, optional
        Regular expressions, searched for in the tag: give tags that match the first, and not the second.
    **trees : pytree
        Such as ``weights=params, gradients=grads, optimizer=state``; the keyword begins the tags. Dictionaries of
        Flax, modules and states of NNX, modules of Equinox, states of Optax. Left out is all else that they hold:
        functions, text, Python's numbers, None, random keys, and arrays of integers, which are counters and keys of
        old style.

    Returns
    -------
    dict of str to array
        Tags such as ``weights/Dense_0/kernel``; of complex numbers ``<tag>/real`` and ``<tag>/imag``. Only those are
        copied; works within ``jit`` too.

    Raises
    ------
    ArgumentError
        `include` or `exclude` is no regular expression, or two leaves have the same tag.

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
    """Do what `fasthist.histograms` does, without gathering arrays that are sharded over devices.

    Parameters
    ----------
    values : pytree
        Of arrays, such as `named` gives.
    buckets
        As in `fasthist.histogram`. A number of uniform ones fits no array in several shards, since each has its own
        range.

    Returns
    -------
    dict of str to Histogram
        By tag. Each element is counted once: of every shard, the first replica, if this process holds it. So where an
        array is spread over processes these are histograms of a part, which `all_reduce` adds up to the whole.

    Raises
    ------
    FasthistError
        What `fasthist.histograms` raises.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fasthist.adapters.jax import histograms
    >>> histograms({"fc": {"kernel": jnp.arange(5.0)}})["fc/kernel"].num
    5
    """
    shards = {tag: _own_shards(leaf) for tag, leaf in named_leaves(values).items()}
    parts = {
        tag if len(of_one) == 1 else f"{tag} (shard {i})": part
        for tag, of_one in shards.items()
        for i, part in enumerate(of_one)
    }
    counted = iter(compute.histograms(parts, buckets=buckets).values())
    return {
        tag: cast("Histogram", sum(itertools.islice(counted, len(of_one))))
        for tag, of_one in shards.items()
    }


def _own_shards(leaf: Any) -> list[Any]:
    """Give arrays that together hold every element that this process is to count."""
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
        Whatever `fasthist.sinks.as_sink` takes but a path.
    values : pytree
        Of arrays, such as `named` gives.
    step : int or int[]
    every : int
        Log the steps that it divides.

    Raises
    ------
    ArgumentError
        `writer` or `every` is not as above; or what `count` raises.
    jax.errors.JaxRuntimeError
        Later, with the text of what the writer's ``add_histograms`` has raised.

    Notes
    -----
    It is a ``lax.cond``, `count` of each array and one ``io_callback`` for all, which is not ordered. Steps that are
    not due cost the comparison; others the counting, and 8 kB for each array to the host, where the writer's call is
    made in a thread of JAX's. Steps may arrive in any order; ``jax.effects_barrier()`` waits for all, before the
    writer is closed. Activations may be logged from a function that is differentiated, but JAX refuses callbacks
    within ``jax.checkpoint``. Under ``shard_map`` each device would log: use `count` with `axis_name` there, and log
    outside.

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

    def write(step: Any, found: dict[str, Counts]) -> None:
        sink.add_histograms({tag: to_histogram(one) for tag, one in found.items()}, int(step))

    def due() -> None:
        io_callback(write, None, step, {tag: count(array) for tag, array in arrays.items()})

    jax.lax.cond(jnp.asarray(step) % every == 0, due, lambda: None)
