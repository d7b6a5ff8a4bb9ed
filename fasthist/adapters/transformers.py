"""Hugging Face ``Trainer``: a callback that logs the model's tensors where the scalars go."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

from fasthist.adapters.torch import TrainerHistograms
from fasthist.adapters.watching import caller
from fasthist.errors import FasthistError
from fasthist.packages import require
from fasthist.sinks import (
    CometSink,
    MlflowSink,
    Sink,
    Sinks,
    SwanlabSink,
    TrackioSink,
    WandbSink,
    as_sink,
)

require("transformers")

from transformers import Trainer, TrainerCallback, integrations
from transformers.trainer_callback import CallbackHandler
from transformers.utils import logging

_log = logging.get_logger("transformers.fasthist")  # shown and silenced with its own

_TRACKERS: dict[str, Callable[[], Sink]] = {
    "WandbCallback": partial(WandbSink, step_metric="train/global_step"),
    "TrackioCallback": partial(TrackioSink, step_metric="train/global_step"),
    "MLflowCallback": MlflowSink,
    "CometCallback": lambda: CometSink(require("comet_ml").get_running_experiment()),
    "SwanLabCallback": SwanlabSink,
}
"""For each callback of ``report_to``, the sink for its run, with the steps that it logs."""


class HistogramCallback(TrainerHistograms, TrainerCallback):
    """Log histograms of weights, gradients, updates or activations during training with a ``Trainer``.

    Parameters
    ----------
    log, every, include, exclude
        As of `fasthist.adapters.torch.watch`; steps are those of the optimizer, ``state.global_step``.
    writer : path, SummaryWriter, Sink, run, tracker or logger, optional
        Send histograms there, and write nothing else: anything that `fasthist.sinks.as_sink` takes. Default: where
        ``report_to`` sends the scalars: TensorBoard, W&B, trackio, MLflow, Comet or SwanLab. If it names none of these, a
        `fasthist.adapters.torch.SummaryWriter` in the directory of ``TensorBoardCallback``, which then gets the scalars too.

    Raises
    ------
    ArgumentError
        An argument is not as above: raised when training begins, for `writer` at once.

    Notes
    -----
    Only rank 0 counts and writes. With gradient accumulation a step is logged after the optimizer's step, with the gradients
    that it used. Pass the callback to the Trainer's ``callbacks=`` rather than to ``add_callback``: only then does it close
    its files if training ends with an exception.

    Examples
    --------
    >>> from transformers import Trainer
    >>> from fasthist.adapters.transformers import HistogramCallback
    >>> trainer = Trainer(model, callbacks=[HistogramCallback(every=50)])  # doctest: +SKIP
    """

    _files: Any = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wrap ``Trainer.train``, since the Trainer does not tell callbacks of exceptions."""
        del args, state, control, kwargs
        trainer = caller(Trainer)
        if trainer is not None:
            trainer.train = update_wrapper(partial(_train, trainer.train, self), trainer.train)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """On rank 0, begin files of our own if there is no other place."""
        self._close()
        if state.is_world_process_zero and self._writes_files():
            self._own_files().on_train_begin(args, state, control, **kwargs)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """On rank 0, begin to watch: by now all other callbacks have begun their runs."""
        del args, control
        if self._watch is None and state.is_world_process_zero:
            self._sink = self._chosen_sink()
            if self._sink is not None:
                self._watch = self._begin(kwargs["model"], self._sink)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step that the optimizer has just made."""
        del args, control, kwargs
        if self._watch is not None:
            self._watch.step(state.global_step + 1)  # incremented after this

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the Trainer's scalars, unless another callback does."""
        if state.is_world_process_zero and self._writes_files():
            self._own_files().on_log(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close what was opened."""
        del args, state, control, kwargs
        self._close()

    def _close(self) -> None:
        super()._close()
        if self._files is not None:
            self._files.on_train_end(None, None, None)

    def _writes_files(self) -> bool:
        return self._open is None and not any(map(_is_known, _reporters()))

    def _own_files(self) -> Any:
        if self._files is None:
            self._files = _own_files()
        return self._files

    def _chosen_sink(self) -> Sink | None:
        if self._open is not None:
            return self._open()
        if self._writes_files():
            writer: Sink = self._own_files().tb_writer
            others = [name for name in map(_name, _reporters()) if name in _OTHERS]
            say = _log.warning if others else _log.info
            why = f"; {', '.join(others)} takes none" if others else ""
            say(f"fasthist: histograms go to event files in {self._files.logging_dir}{why}")
            return writer
        sinks, takers = [], []
        for callback in filter(_is_known, _reporters()):
            try:
                sink = _sink_of(callback)
            except FasthistError as error:  # it reports nothing, or lacks a package
                _log.warning(f"fasthist: no histograms go to {_name(callback)}: {error}")
                continue
            if sink is not None:
                sinks.append(sink)
                takers.append(_name(callback))
        _log.info(f"fasthist: histograms go to the run of {', '.join(takers)}")
        return Sinks(sinks) if len(sinks) > 1 else next(iter(sinks), None)


def _train(train: Any, callback: HistogramCallback, *arguments: Any, **keywords: Any) -> Any:
    try:
        return train(*arguments, **keywords)
    finally:
        callback._close()


def _own_files() -> Any:
    from fasthist.adapters.torch_writer import SummaryWriter  # needs tensorboard

    class Files(integrations.TensorBoardCallback):
        """The Trainer's callback with our writer, which may choose its directory before training."""

        logging_dir: str | None

        def _init_summary_writer(self, args: Any) -> None:
            if self.logging_dir is None:
                name = f"{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}"
                self.logging_dir = str(Path(args.output_dir, "runs", name))
            super()._init_summary_writer(args)

    files = Files()
    files._SummaryWriter = SummaryWriter
    return files


def _reporters() -> list[Any]:
    handler = caller(CallbackHandler)
    return [] if handler is None else handler.callbacks


_OTHERS = {kind.__name__ for kind in integrations.INTEGRATION_TO_CALLBACK.values()}


def _name(callback: Any) -> str:
    """Return the name of its base class in transformers, else of its own class."""
    names = [kind.__name__ for kind in type(callback).__mro__]
    known = [name for group in (_TRACKERS, _OTHERS) for name in names if name in group]
    return [*known, names[0]][0]


def _is_known(callback: Any) -> bool:
    return _name(callback) in _TRACKERS or isinstance(callback, integrations.TensorBoardCallback)


def _sink_of(callback: Any) -> Sink | None:
    if isinstance(callback, integrations.TensorBoardCallback):
        return None if callback.tb_writer is None else as_sink(callback.tb_writer)
    return _TRACKERS[_name(callback)]()
