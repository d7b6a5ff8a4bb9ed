"""Keras 3 on every backend: `HistogramCallback`, a replacement for ``TensorBoard(log_dir, histogram_freq)``."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fasthist.adapters.watching import (
    Pattern,
    Schedule,
    Selection,
    caller,
    countable,
    distinct,
    parse_log,
)
from fasthist.errors import ArgumentError
from fasthist.packages import require
from fasthist.sinks import Sink, as_sink, sink_opener
from fasthist.summary_writer import SummaryWriter

keras = require("keras")

if TYPE_CHECKING:
    from keras.callbacks import Callback, TensorBoard
else:
    Callback, TensorBoard = keras.callbacks.Callback, keras.callbacks.TensorBoard

_KINDS = ("weights", "gradients", "optimizer", "activations")
_NEED_BATCH = ("gradients", "activations")


class HistogramCallback(Callback):
    """Log histograms during ``Model.fit``, and the scalars that Keras's own ``TensorBoard`` logs.

    Parameters
    ----------
    log_dir : str or os.PathLike
        Files go to its directories ``train`` and ``validation``, as with Keras's callback. May be a URL, as in
        `fasthist.SummaryWriter`.
    histogram_freq : int
        Log after each epoch whose number is a multiple; the step is the epoch. 0: never.
    log : str or iterable of str
        Some of "weights", "gradients", "optimizer" and "activations"; "all" is the first three.
    every : int, optional
        Log after batches instead: the first one, then whenever a multiple of `every` is reached. The step is the number of
        batches before it; with ``steps_per_execution``, before the last of those that Keras ran together.
    batch : (x, y) or (x, y, sample_weight), optional
        Data for computing gradients and activations.
    include, exclude : str or re.Pattern, optional
        Regular expressions: log the tags in which the first is found and the second is not.
    writer : path, SummaryWriter, Sink, run, tracker or logger, optional
        Send histograms there, and write nothing else: anything that `fasthist.sinks.as_sink` takes.
    write_graph, write_images, write_steps_per_second, update_freq, profile_batch, embeddings_freq, embeddings_metadata
        Passed to ``keras.callbacks.TensorBoard``. Graphs need TensorFlow as the backend; images and profiles need it
        installed.

    Raises
    ------
    ArgumentError
        An argument is not as above; gradients or activations are asked for without `batch`; or, when training begins,
        another ``TensorBoard`` callback writes histograms under the same tags.
    FasthistError
        During training: as ``add_histograms`` of the writer.

    Notes
    -----
    An inner ``keras.callbacks.TensorBoard`` writes scalars into the same file as the histograms. If the model has its own
    ``TensorBoard`` with the same `log_dir`, that one writes the scalars, and histograms go into its file.

    Tags are ``<weight.path>/histogram``, as in Keras, ``gradients/<weight.path>``, ``optimizer/<variable.path>`` except
    for scalars, and ``activations/<layer name>``. Repeated paths get "_1", "_2" and so on appended.

    Gradients are those of the loss of `batch` after the step, without dropout and with the current averages of batch
    normalisation: the same rule on every backend, since backends do not expose their own. They include regularizers and
    ``add_loss``, but not the factor of a ``LossScaleOptimizer``. They cost an uncompiled forward and backward pass for
    each logged step, activations one forward pass: choose a small batch. Both are stateless: training continues exactly
    as if nothing had been logged, to the bit.

    Activations are the outputs of the layers in ``model.layers``, and in models among these; for a layer that is called
    several times, ``activations/<layer name>/0`` and so on. Layers inside other layers are not seen, nor those that run in
    a ``tf.function``, ``jax.jit`` or ``jax.checkpoint``.

    Weights and optimizer state are counted without a copy; activations and gradients are held until they are counted.
    TensorFlow's sparse gradient of an embedding is made dense, so that all backends count the same zeros.

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
        batch: Any = None,
        include: Pattern = None,
        exclude: Pattern = None,
        writer: Any = None,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: Any = "epoch",
        profile_batch: Any = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: Any = None,
    ) -> None:
        super().__init__()
        self._kinds = parse_log(log, _KINDS)
        missing = [kind for kind in _NEED_BATCH if kind in self._kinds and batch is None]
        if missing:
            msg = f"{missing[0]} need values to be computed on. Accepted: batch=(x, y), a few rows of the training data."
            raise ArgumentError(msg)
        if batch is not None and not (isinstance(batch, (tuple, list)) and 2 <= len(batch) <= 3):
            msg = f"batch is {type(batch).__name__}. Accepted: a tuple (x, y), or (x, y, sample_weight)."
            raise ArgumentError(msg)
        if histogram_freq < 0:
            msg = f"histogram_freq={histogram_freq!r} must be a number of epochs. Accepted: an integer from 0 on."
            raise ArgumentError(msg)
        self._log_dir = os.fspath(log_dir)
        self._freq = histogram_freq
        self._schedule = None if every is None else Schedule(every)
        self._before_epoch = 0
        self._batch = batch
        self._selection = Selection(include, exclude)
        self._given = writer
        self._open = None if writer is None else sink_opener(writer)
        self._writer: Sink | None = None
        self._warned: set[str] = set()
        self._tensorboard: TensorBoard | None = None
        self._beside: Any = None
        if writer is None:
            needs_tensorflow = bool(write_images or profile_batch)
            if needs_tensorflow:
                require("tensorflow")
            is_local = "://" not in self._log_dir
            has_tensorflow = keras.backend.backend() == "tensorflow" and is_local
            kind = TensorBoard if needs_tensorflow or has_tensorflow else _OwnTensorBoard
            self._tensorboard = kind(
                self._log_dir,
                histogram_freq=0,
                write_graph=write_graph and kind is TensorBoard,
                write_images=write_images,
                write_steps_per_second=write_steps_per_second,
                update_freq=update_freq,
                profile_batch=profile_batch,
                embeddings_freq=embeddings_freq,
                embeddings_metadata=embeddings_metadata,
            )

    def set_model(self, model: Any) -> None:
        """Set the model, and find other callbacks that write into the directory."""
        super().set_model(model)
        self._close()
        self._beside = None if self._tensorboard is None else self._other_writer()
        self._tell("set_model", model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forward to the scalars."""
        self._tell("on_train_begin", logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember the batches before this epoch: Keras numbers them from 0 in each."""
        self._tell("on_epoch_begin", epoch, logs)
        if self._schedule is not None:
            self._before_epoch = self._schedule.step + 1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Forward to the scalars."""
        self._tell("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Log after a batch, if batches are counted and this one is due."""
        self._tell("on_train_batch_end", batch, logs)
        if self._schedule is not None:
            due = self._schedule.due
            step = self._schedule.advance(self._before_epoch + batch)
            if due:
                self._log(step)

    def on_test_begin(self, logs: Any = None) -> None:
        """Forward to the scalars."""
        self._tell("on_test_begin", logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Forward to the scalars."""
        self._tell("on_test_batch_begin", batch, logs)

    def on_test_end(self, logs: Any = None) -> None:
        """Write the scalars of an evaluation."""
        self._tell("on_test_end", logs)
        if self._tensorboard is not None and self._beside is None:
            self._tensorboard._val_writer.flush()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log after an epoch, if epochs are counted and this one is due; flush the writer."""
        self._tell("on_epoch_end", epoch, logs)
        if self._schedule is None and self._freq and epoch % self._freq == 0:
            self._log(epoch)
        if self._writer is not None:
            self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the files and the writer."""
        self._tell("on_train_end", logs)
        self._close()

    def _tell(self, event: str, *arguments: Any) -> None:
        """Forward an event to the inner callback, unless another one writes the scalars."""
        if self._tensorboard is None or self._beside is not None:
            return
        if event != "on_epoch_end":
            getattr(self._tensorboard, event)(*arguments)
            return
        # NumPy warns of how Keras reads its learning rate; if warnings are errors, training would end.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            self._tensorboard.on_epoch_end(*arguments)

    def _other_writer(self) -> Any:
        """Return the other callback in the list that writes the scalars of the directory, if any."""
        running = caller(keras.callbacks.CallbackList)
        others = [] if running is None else running.callbacks
        folder = os.path.normpath(self._log_dir)
        for callback in others:
            if isinstance(callback, TensorBoard) and os.path.normpath(callback.log_dir) == folder:
                if callback.histogram_freq and "weights" in self._kinds:
                    msg = (
                        f"TensorBoard(histogram_freq={callback.histogram_freq}) beside HistogramCallback writes the same tags "
                        f"into {self._log_dir}. Accepted: one of them. Hint: TensorBoard(..., histogram_freq=0)."
                    )
                    raise ArgumentError(msg)
                return callback
        for callback in others:
            if callback is self:
                break
            tensorboard = getattr(callback, "_tensorboard", None)
            if tensorboard is not None and os.path.normpath(tensorboard.log_dir) == folder:
                return tensorboard
        return None

    def _close(self) -> None:
        if self._writer is not None and self._writer is not self._given:
            self._writer.close()
        self._writer = None
        if self._tensorboard is not None:
            self._tensorboard._close_writers()  # also after training that ended with an exception

    def _log(self, step: int) -> None:
        if self._writer is None:
            tensorboard = self._beside or self._tensorboard
            if tensorboard is None:
                self._writer = self._open() if self._open is not None else None
            else:
                self._writer = as_sink(tensorboard._train_writer)
        if self._writer is None:
            return
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # within an epoch, JAX keeps the weights elsewhere
        self._writer.add_histograms(countable(dict(self._tensors()), self._warned), step)

    def _tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield the tags and tensors to log."""
        model, batch, chosen = self.model, self._batch or (), self._selection
        weights = dict(zip(map(id, model.weights), _paths(model.weights), strict=True))
        if "weights" in self._kinds:
            for weight in model.weights:
                tag = f"{weights[id(weight)].replace(':', '_')}/histogram"  # as in Keras
                if tag in chosen:
                    yield tag, weight.value
        if "gradients" in self._kinds:
            tags = [f"gradients/{weights[id(weight)]}" for weight in model.trainable_variables]
            if any(tag in chosen for tag in tags):
                with _without_a_trace():
                    tagged = zip(tags, _gradients(model, *batch), strict=True)
                yield from ((tag, gradient) for tag, gradient in tagged if tag in chosen)
        if "optimizer" in self._kinds:
            variables = model.optimizer.variables
            for path, variable in zip(_paths(variables), variables, strict=True):
                if len(variable.shape) and f"optimizer/{path}" in chosen:
                    yield f"optimizer/{path}", variable.value
        if "activations" in self._kinds:
            with _without_a_trace():
                activations = dict(_activations(model, batch[0], chosen))
            yield from activations.items()


class _OwnTensorBoard(TensorBoard):
    """Keras's callback with fasthist's writers instead of TensorFlow's, which it would import on any backend."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._own = _Summary()

    @property
    def summary(self) -> _Summary:
        """The stand-in for the module ``tf.summary``."""
        return self._own


class _Summary:
    """The part of ``tf.summary`` that Keras uses."""

    def __init__(self) -> None:
        self._writers: list[SummaryWriter] = []
        self._conditions: list[Callable[[], bool]] = []

    def create_file_writer(self, log_dir: str) -> _FileWriter:
        """Open a writer."""
        writer = _FileWriter(log_dir)
        writer.summary = self
        return writer

    @contextlib.contextmanager
    def writing_to(self, writer: SummaryWriter) -> Iterator[None]:
        """Send scalars to a writer."""
        self._writers.append(writer)
        try:
            yield
        finally:
            self._writers.pop()

    @contextlib.contextmanager
    def record_if(self, condition: Callable[[], bool]) -> Iterator[None]:
        """Write scalars only if a function returns true."""
        self._conditions.append(condition)
        try:
            yield
        finally:
            self._conditions.pop()

    def scalar(self, name: str, data: Any, step: Any) -> None:
        """Write a number, if there is a writer for it."""
        if self._writers and all(condition() for condition in self._conditions[-1:]):
            value, at = (keras.ops.convert_to_numpy(number) for number in (data, step))
            self._writers[-1].add_scalar(name, float(value), int(at), new_style=True)


class _FileWriter(SummaryWriter):
    """A writer with the additional method that Keras calls."""

    summary: _Summary

    def as_default(self, step: Any = None) -> contextlib.AbstractContextManager[None]:
        """Send scalars, which have their own steps, to this writer."""
        del step
        return self.summary.writing_to(self)


@contextlib.contextmanager
def _without_a_trace() -> Iterator[None]:
    """Restore global random states, from which a user's layers may draw."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - not drawn from
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "torch":
            stack.enter_context(require("torch").random.fork_rng())
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _paths(variables: Iterable[Any]) -> list[str]:
    return distinct(variable.path for variable in variables)


def _gradients(model: Any, x: Any, y: Any, sample_weight: Any = None) -> list[Any]:
    """Compute gradients of the loss in a scope that keeps the model from changing anything."""
    variables = model.trainable_variables
    x, y, sample_weight = map(_tensors, (x, y, sample_weight))

    def loss_of(values: Any) -> Any:
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            predicted = model(x, training=False)
            # The public method of a user's class may be of an older form, without `training`.
            return model._compute_loss(x, y, predicted, sample_weight, training=False)

    values = [variable.value for variable in variables]
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        leaves = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            loss = loss_of(leaves)
            return list(
                torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            )
    if backend == "jax":
        import jax

        return list(jax.grad(loss_of)(values))
    import tensorflow as tf

    inputs = [tf.convert_to_tensor(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = loss_of(inputs)
    gradients = tape.gradient(loss, inputs, unconnected_gradients="zero")
    return list(map(tf.convert_to_tensor, gradients))  # that of an embedding is sparse


def _activations(model: Any, x: Any, chosen: Selection) -> Iterator[tuple[str, Any]]:
    """Run the model once, and yield the outputs of its layers."""
    layers = list({id(layer): (name, layer) for name, layer in _layers(model)}.values())
    names = distinct(f"activations/{name}" for name, _ in layers)
    given: dict[str, list[Any]] = {name: [] for name in names if name in chosen}
    with contextlib.ExitStack() as stack:
        for name, (_, layer) in zip(names, layers, strict=True):
            if name in given:
                stack.enter_context(_kept(layer, given[name]))
        if given:
            with keras.StatelessScope():
                model(_tensors(x), training=False)
    for name, outputs in given.items():
        if outputs:
            yield name, outputs[0] if len(outputs) == 1 else outputs


def _layers(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        yield prefix + layer.name, layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer, f"{prefix}{layer.name}/")


@contextlib.contextmanager
def _kept(layer: Any, outputs: list[Any]) -> Iterator[None]:
    """Keep the outputs of a layer: in this context, an attribute hides its method `call`."""
    call, attributes = layer.call, vars(layer)
    had_its_own = "call" in attributes

    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        if not any(map(_is_traced, keras.tree.flatten(output))):
            outputs.append(output)
        return output

    attributes["call"] = wrapper
    try:
        yield
    finally:
        if had_its_own:
            attributes["call"] = call
        else:
            del attributes["call"]


def _is_traced(tensor: Any) -> bool:
    """Return whether a tensor has no values yet: in ``tf.function``, ``jax.jit``, ``jax.checkpoint`` or a scan."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.is_symbolic_tensor(tensor))
    return False


def _tensors(values: Any) -> Any:
    to_tensor = keras.ops.convert_to_tensor
    return keras.tree.map_structure(lambda x: None if x is None else to_tensor(x), values)
