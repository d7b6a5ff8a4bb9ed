"""TensorFlow 2 custom loops: variables and gradients of a ``tf.GradientTape``, eager or in ``tf.function``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fasthist.adapters.watching import Schedule, distinct
from fasthist.errors import ArgumentError
from fasthist.packages import require
from fasthist.sinks import Sink, lent_sink

tf = require("tensorflow")


def weights(variables: Any) -> dict[str, Any]:
    """Name variables ``weights/<name>``.

    Parameters
    ----------
    variables : model, tf.Module or iterable of tf.Variable
        Of a Keras model its ``weights``, of a module its ``variables``. Names are the paths of Keras variables, else the
        names without ":0"; repeated names get "_1", "_2" and so on appended.

    Returns
    -------
    dict of str to variable
        For `add_histograms`.
    """
    own = getattr(variables, "weights", None) or getattr(variables, "variables", variables)
    variables = list(own)
    named = zip(_names(variables), variables, strict=True)
    return {f"weights/{name}": v.value if hasattr(v, "path") else v for name, v in named}


def gradients(found: Iterable[Any], variables: Iterable[Any]) -> dict[str, Any]:
    """Name the result of ``tape.gradient(loss, variables)`` ``gradients/<name>``.

    Parameters
    ----------
    found : iterable of tf.Tensor, tf.IndexedSlices or None
        Variables without a gradient are left out.
    variables : iterable of tf.Variable
        In the same order.

    Returns
    -------
    dict of str to tf.Tensor or tf.IndexedSlices
        For `add_histograms` of this module, which handles ``tf.IndexedSlices``.
    """
    variables = list(variables)
    named = zip(_names(variables), found, strict=True)
    return {f"gradients/{name}": gradient for name, gradient in named if gradient is not None}


def add_histograms(writer: Any, tree: dict[str, Any], step: Any, every: int = 1) -> None:
    """Log histograms of a step, from eager code or within a ``tf.function``.

    Parameters
    ----------
    writer : SummaryWriter, Sink, run, tracker or logger
        Anything that `fasthist.sinks.as_sink` takes except a path, such as a writer of fasthist or ``tf.summary``.
    tree : dict of str to tf.Tensor, tf.Variable or tf.IndexedSlices
        Tags and values, such as ``{**weights(model), **gradients(grads, model.trainable_variables)}``. Of
        ``tf.IndexedSlices``, the gradient of an embedding, the stored rows are counted, rows of the same index summed as
        optimizers do; not the zeros of all other rows.
    step : int or int64[]
        Within a ``tf.function`` a tensor or variable: a Python number would cause a new trace at each step.
    every : int
        Log the steps that are a multiple.

    Raises
    ------
    ArgumentError
        `writer` or `every` is not as above, or `step` is a Python number within a ``tf.function``.
    FasthistError
        As ``add_histograms`` of the writer. Within a ``tf.function`` TensorFlow raises its own errors with the same text.

    Notes
    -----
    Only the rows of ``tf.IndexedSlices`` are copied. A ``tf.function`` gets a ``tf.py_function`` inside a ``tf.cond``: steps
    that are not due cost a comparison; on the others the graph waits until the histograms are counted. Such a graph runs
    only in the process that traced it, not on TPUs or with ``jit_compile=True``, and cannot be saved as a SavedModel.

    Examples
    --------
    >>> import fasthist, tensorflow as tf
    >>> from fasthist.adapters.tensorflow import add_histograms, gradients, weights
    >>> w = tf.Variable([1.0, 2.0], name="w")
    >>> writer = fasthist.SummaryWriter("runs/a")
    >>> @tf.function
    ... def train(x, step):
    ...     with tf.GradientTape() as tape:
    ...         loss = tf.reduce_sum(w * x)
    ...     found = tape.gradient(loss, [w])
    ...     w.assign_sub(0.1 * found[0])
    ...     add_histograms(writer, {**weights([w]), **gradients(found, [w])}, step, every=10)
    >>> for step in range(20):
    ...     train(tf.ones(2), tf.constant(step, tf.int64))
    >>> writer.close()
    """
    Schedule(every)  # checks it
    sink = lent_sink(writer)
    if sink is None:
        return
    if tf.inside_function():
        if not tf.is_tensor(step) and not isinstance(step, tf.Variable):
            msg = (
                f"step={step!r} is a Python number within a tf.function, which would be traced again for each step. "
                "Accepted: a tensor or variable of int64. Hint: pass tf.constant(step, tf.int64) to the function."
            )
            raise ArgumentError(msg)
        _add_in_graph(sink, tree, tf.cast(step, tf.int64), every)
    elif int(step) % every == 0:
        sink.add_histograms({tag: _dense(tensor) for tag, tensor in tree.items()}, int(step))


def _add_in_graph(sink: Sink, tree: dict[str, Any], step: Any, every: int) -> None:
    tags = list(tree)

    def add(step: Any, *values: Any) -> None:
        sink.add_histograms(dict(zip(tags, values, strict=True)), int(step))

    # This runs eagerly: neither it nor its callees must become part of a graph.
    on_host = tf.autograph.experimental.do_not_convert(add)

    def due() -> Any:
        values = [tf.convert_to_tensor(_dense(value)) for value in tree.values()]
        with tf.control_dependencies([tf.py_function(on_host, [step, *values], [])]):
            return tf.constant(True)

    tf.cond(step % every == 0, due, lambda: tf.constant(False))


def _names(variables: list[Any]) -> list[str]:
    return distinct(getattr(v, "path", None) or v.name.partition(":")[0] for v in variables)


def _dense(gradient: Any) -> Any:
    """Sum the rows of each index; return a tensor unchanged."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, place = tf.unique(gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
