"""Lightning: a callback that logs a module's tensors from ``Trainer.fit``."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from fasthist.adapters.torch import TrainerHistograms
from fasthist.errors import FasthistError
from fasthist.packages import require
from fasthist.sinks import Sink, Sinks, as_sink
from fasthist.summary_writer import SummaryWriter

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    # The package has two names; a callback must come from the same one as the user's Trainer.
    old = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    Callback = require("pytorch_lightning" if old else "lightning.pytorch").Callback

_log = logging.getLogger(Callback.__module__)  # shown and silenced with Lightning's own


class HistogramCallback(TrainerHistograms, Callback):
    """Log histograms of weights, gradients, updates or activations during ``Trainer.fit``.

    Parameters
    ----------
    log, every, include, exclude
        As of `fasthist.adapters.torch.watch`; steps are those of the optimizer, ``trainer.global_step``.
    writer : path, SummaryWriter, Sink, run, tracker or logger, optional
        Anything that `fasthist.sinks.as_sink` takes. Default: the runs of all known loggers (``TensorBoardLogger``,
        ``WandbLogger``, ``CometLogger``, ``MLFlowLogger``), else a `fasthist.SummaryWriter` in ``trainer.log_dir``.

    Raises
    ------
    ArgumentError
        An argument is not as above: raised when fitting begins, for `writer` at once.

    Notes
    -----
    Only rank 0 counts and writes; with ``fast_dev_run`` nothing is written. With gradient accumulation a step is logged
    after the optimizer's step, with the gradients that it used. With manual optimization, gradients that the module zeroes
    before the end of ``training_step`` cannot be seen.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> from fasthist.adapters.lightning import HistogramCallback
    >>> trainer = Trainer(max_epochs=1, callbacks=[HistogramCallback(every=50)])  # doctest: +SKIP
    """

    _step = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the writer, on rank 0."""
        self._close()
        # Every rank must ask: they agree on it by communication.
        log_dir = trainer.log_dir or trainer.default_root_dir
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        self._sink = _default_writer(trainer, log_dir) if self._open is None else self._open()
        if self._sink is not None:
            self._watch = self._begin(pl_module, self._sink)
            self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *arguments: object) -> None:
        """Log the optimizer's step, if this batch completed one."""
        del arguments
        if self._watch is not None and trainer.global_step > self._step:
            self._step = trainer.global_step
            self._watch.step(self._step)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close what was opened."""
        del trainer, pl_module, exception
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close what was opened."""
        del trainer, pl_module, stage
        self._close()


def _default_writer(trainer: Any, log_dir: str) -> Sink:
    sinks, takers, others = [], [], []
    for logger in trainer.loggers:
        name = type(logger).__name__
        try:
            sink = as_sink(logger)
        except FasthistError as error:
            others.append(name)
            _log.debug("%s: %s", name, error)
            continue
        if sink is not None:
            sinks.append(sink)
            takers.append(name)
    if sinks:
        _log.info("fasthist: histograms go to %s", ", ".join(takers))
        return sinks[0] if len(sinks) == 1 else Sinks(sinks)
    why = f"; {', '.join(others)} takes none" if others else ""
    _log.info("fasthist: histograms go to event files in %s%s", log_dir, why)
    return SummaryWriter(log_dir)
