"""TensorFlow 2 custom loops: variables and the gradients of a ``tf.GradientTape``, eager and in ``tf.function``."""

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
        A Keras model's are its ``weights``, a module's its ``variables``. A Keras variable is called by its path,
        another by its name without ":0"; of those with one name, the second gets "_1" at its end, and so on.

    Returns
    -------
    dict of str to variable
        For `add_histograms`.
    """
    found = getattr(variables, "weights", None) or getattr(variables, "variables", variables)
    variables = list(found)
    named = zip(_names(variables), variables, strict=True)
    return {f"weights/{name}": one.value if hasattr(one, "path") else one for name, one in named}


def gradients(found: Iterable[Any], variables: Iterable[Any]) -> dict[str, Any]:
    """Name what ``tape.gradient(loss, variables)`` has given ``gradients/<name>``.

    Parameters
    ----------
    found : iterable of tf.Tensor, tf.IndexedSlices or None
        Variables without a gradient are left out.
    variables : iterable of tf.Variable
        In the same order.

    Returns
    -------
    dict of str to tf.Tensor or tf.IndexedSlices
        For `add_histograms` of this module, which is the one that knows ``tf.IndexedSlices``.
    """
    variables = list(variables)
    named = zip(_names(variables), found, strict=True)
    return {f"gradients/{name}": one for name, one in named if one is not None}


def add_histograms(writer: Any, tree: dict[str, Any], step: Any, every: int = 1) -> None:
    """Log histograms of a step, from eager code or from within a ``tf.function``.

    Parameters
    ----------
    writer : SummaryWriter, Sink, run, tracker or logger
        Whatever `fasthist.sinks.as_sink` takes but a path: a `fasthist.SummaryWriter`, or one of ``tf.summary``.
    tree : dict of str to tf.Tensor, tf.Variable or tf.IndexedSlices
        Tags and values, such as ``{**weights(model), **gradients(found, model.trainable_variables)}``. Of
        ``tf.IndexedSlices``, the gradient of an embedding, the rows that it holds are counted, those of one index
        added up as optimizers do; never the zeros of the others, which may be most of a huge table.
    step : int or int64[]
        Within a ``tf.function`` a tensor or variable: a number of Python's would be traced again for each step.
    every : int
        Log steps that are a multiple.

    Raises
    ------
    ArgumentError
        `writer` or `every` is not as above, or `step` is a Python number within a ``tf.function``.
    FasthistError
        What the writer's ``add_histograms`` raises. Within a ``tf.function`` TensorFlow raises errors of its own,
        with our text.

    Notes
    -----
    Tensors and variables are read where they lie; only the rows of ``tf.IndexedSlices`` are copied, to be added up.
    Within a ``tf.function`` a ``tf.py_function`` inside a ``tf.cond`` is added to the graph: on steps that are not
    due it costs the comparison. On the others the graph waits until the histograms are counted. A graph with it runs
    only in the process that has traced it, not on TPUs nor with ``jit_compile=True``, and cannot be saved as a
    SavedModel.

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
                f"step={step!r} is a number of Python's within a tf.function, which would be traced again for each. "
                "Accepted: a tensor or variable of int64. Hint: pass tf.constant(step, tf.int64) to the function."
            )
            raise ArgumentError(msg)
        _add_in_graph(sink, tree, tf.cast(step, tf.int64), every)
    elif int(step) % every == 0:
        sink.add_histograms({tag: _dense(one) for tag, one in tree.items()}, int(step))


def _add_in_graph(sink: Sink, tree: dict[str, Any], step: Any, every: int) -> None:
    tags = list(tree)

    def add(step: Any, *values: Any) -> None:
        sink.add_histograms(dict(zip(tags, values, strict=True)), int(step))

    # It runs eagerly: nothing of it, nor of what it calls, is to become a graph.
    on_host = tf.autograph.experimental.do_not_convert(add)

    def due() -> Any:
        values = [tf.convert_to_tensor(_dense(value)) for value in tree.values()]
        with tf.control_dependencies([tf.py_function(on_host, [step, *values], [])]):
            return tf.constant(True)

    tf.cond(step % every == 0, due, lambda: tf.constant(False))


def _names(variables: list[Any]) -> list[str]:
    return distinct(getattr(one, "path", None) or one.name.partition(":")[0] for one in variables)


def _dense(gradient: Any) -> Any:
    """Add up the rows of one index; leave a tensor as it is."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, place = tf.unique(gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
