"""Keras 3, on every backend: `HistogramCallback` in the place of ``TensorBoard(log_dir, histogram_freq)``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasthist.adapters.watching import Pattern, Schedule, Selection, parse_log
from fasthist.errors import ArgumentError
from fasthist.packages import require
from fasthist.sinks import Sink
from fasthist.summary_writer import SummaryWriter

keras = require("keras")

if TYPE_CHECKING:
    from keras.callbacks import Callback
else:
    Callback = keras.callbacks.Callback

_KINDS = ("weights", "gradients", "optimizer", "activations")
_NEED_BATCH = ("gradients", "activations")


class HistogramCallback(Callback):
    """Log histograms while ``Model.fit`` runs.

    Parameters
    ----------
    log_dir : str or os.PathLike
        Files go to its directory ``train``, as Keras's own callback puts them.
    histogram_freq : int
        Log after each epoch whose number is a multiple; the step is the number of the epoch.
    log : str or iterable of str
        Some of "weights", "gradients", "optimizer" and "activations"; "all" is the first three.
    every : int, optional
        Log after batches instead: the first one, then whenever a multiple of so many is reached. The step is the number of
        batches before it.
    batch : (x, y), optional
        What gradients and activations are computed on.
    include, exclude : str or re.Pattern, optional
        Regular expressions, searched for in the tag: log tags that match the first, and not the second.
    writer : Sink, optional
        Send histograms there; it stays open. Default: a `fasthist.SummaryWriter` in ``<log_dir>/train``.

    Raises
    ------
    ArgumentError
        An argument is not as above, or gradients or activations are asked for without `batch`. While training: activations
        of a model that is neither functional nor sequential.
    FasthistError
        While training: what the writer's ``add_histograms`` raises.

    Notes
    -----
    Tags are ``<weight.path>/histogram``, Keras's own, and ``gradients/<weight.path>``, ``optimizer/<variable.path>`` and
    ``activations/<layer name>``.

    Gradients are those of the loss of `batch` after the step, without dropout and with the averages that batch
    normalisation has so far: the same rule on every backend, whose own gradients nobody gets to see. It costs one more
    forward and backward pass for each logged step, activations one forward pass; choose a small batch. Both are stateless:
    training goes on as if nothing had been logged, to the bit.

    Examples
    --------
    >>> import keras
    >>> from fasthist.adapters.keras import HistogramCallback
    >>> callback = HistogramCallback("logs", histogram_freq=1)
    >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones((8, 3)), keras.ops.ones((8, 1))
    >>> _ = model.fit(x, y, verbose=0, callbacks=[callback])
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 1,
        log: str | Iterable[str] = "weights",
        *,
        every: int | None = None,
        batch: tuple[Any, Any] | None = None,
        include: Pattern = None,
        exclude: Pattern = None,
        writer: Sink | None = None,
    ) -> None:
        super().__init__()
        self._kinds = parse_log(log, _KINDS)
        missing = [kind for kind in _NEED_BATCH if kind in self._kinds and batch is None]
        if missing:
            msg = f"{missing[0]} need values to be computed on. Accepted: batch=(x, y), a few rows of the training data."
            raise ArgumentError(msg)
        self._log_dir = log_dir
        self._freq = histogram_freq
        self._schedule = None if every is None else Schedule(every)
        self._batch = batch
        self._selection = Selection(include, exclude)
        self._given = writer
        self._writer: Sink | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Log after a batch, if batches are counted and this one is due."""
        del batch, logs
        if self._schedule is not None:
            due = self._schedule.due
            step = self._schedule.advance()
            if due:
                self._log(step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log after an epoch, if epochs are counted and this one is due."""
        del logs
        if self._schedule is None and self._freq and epoch % self._freq == 0:
            self._log(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        """Close what was opened."""
        del logs
        if self._writer is not None and self._writer is not self._given:
            self._writer.close()
        self._writer = None

    def _log(self, step: int) -> None:
        if self._writer is None:
            self._writer = self._given or SummaryWriter(Path(self._log_dir, "train"))
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # within an epoch, JAX keeps the weights elsewhere
        self._writer.add_histograms(dict(self._found()), step)

    def _found(self) -> Iterator[tuple[str, Any]]:
        """Give what is to be logged, each with its tag."""
        model = self.model
        if "weights" in self._kinds:
            named = ((f"{one.path}/histogram", one.value) for one in model.weights)
            yield from self._chosen(named)
        if "gradients" in self._kinds:
            variables = [
                one
                for one in model.trainable_variables
                if f"gradients/{one.path}" in self._selection
            ]
            found = zip(variables, _gradients(model, variables, *self._batch or ()), strict=True)
            yield from ((f"gradients/{one.path}", gradient) for one, gradient in found)
        if "optimizer" in self._kinds:
            named = (
                (f"optimizer/{one.path}", one.value)
                for one in model.optimizer.variables
                if one.shape
            )
            yield from self._chosen(named)
        if "activations" in self._kinds and self._batch is not None:
            yield from _activations(model, self._batch[0], self._selection)

    def _chosen(self, named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        return ((tag, value) for tag, value in named if tag in self._selection)


def _gradients(model: Any, variables: list[Any], x: Any = None, y: Any = None) -> list[Any]:
    """Compute gradients of the loss, changing nothing: what the model would write is caught in a scope."""

    def loss_of(values: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            predicted = model(x, training=False)
            return model.compute_loss(x=x, y=y, y_pred=predicted, training=False)

    x, y = _tensors(x), _tensors(y)
    values = [one.value for one in variables]
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        leaves = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            found = torch.autograd.grad(loss_of(leaves), leaves, allow_unused=True)
        return [
            torch.zeros_like(leaf) if one is None else one
            for one, leaf in zip(found, leaves, strict=True)
        ]
    if backend == "jax":
        import jax

        return list(jax.grad(loss_of)(values))
    import tensorflow as tf

    inputs = [tf.convert_to_tensor(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = loss_of(inputs)
    return list(tape.gradient(loss, inputs, unconnected_gradients="zero"))


def _activations(model: Any, x: Any, selection: Selection) -> Iterator[tuple[str, Any]]:
    """Compute what each layer gives."""
    if not getattr(model, "inputs", None):
        msg = (
            f"activations of {type(model).__name__} {model.name!r} cannot be seen. "
            "Accepted: functional and sequential models, whose layers' outputs Keras knows."
        )
        raise ArgumentError(msg)
    outputs = {}
    for layer in model.layers:
        tag = f"activations/{layer.name}"
        nodes = layer._inbound_nodes
        if tag in selection and nodes and not isinstance(layer, keras.layers.InputLayer):
            outputs[tag] = layer.output if len(nodes) == 1 else [node.outputs for node in nodes]
    if outputs:
        with keras.StatelessScope():
            found = keras.Model(model.inputs, outputs)(_tensors(x), training=False)
        yield from found.items()


def _tensors(values: Any) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_tensor, values)
