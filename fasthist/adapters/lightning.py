"""Lightning: a callback that logs a module's tensors from ``Trainer.fit``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from fasthist.adapters.torch import Watch, watch
from fasthist.adapters.watching import Pattern
from fasthist.packages import require
from fasthist.sinks import Sink
from fasthist.summary_writer import SummaryWriter

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    # The same package has two names; a callback has to come from the one that the user's Trainer comes from.
    old = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    Callback = require("pytorch_lightning" if old else "lightning.pytorch").Callback


class HistogramCallback(Callback):
    """Log histograms of weights, gradients, updates or activations while ``Trainer.fit`` runs.

    Parameters
    ----------
    log, every, include, exclude
        As of `fasthist.adapters.torch.watch`; steps are those of the optimizer, ``trainer.global_step``.
    writer : Sink, optional
        Default: the first logger's own writer where it is a ``TensorBoardLogger``, so that all is in one file; else a
        `fasthist.SummaryWriter` in ``trainer.log_dir``.

    Raises
    ------
    ArgumentError
        An argument is not as above; raised when fitting begins.

    Notes
    -----
    Only rank 0 counts and writes. Under gradient accumulation a step is logged when the optimizer has made it, with
    the gradients that it used. With manual optimization, gradients that the module has set to zero by the end of
    ``training_step`` cannot be seen.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> from fasthist.adapters.lightning import HistogramCallback
    >>> trainer = Trainer(max_epochs=1, callbacks=[HistogramCallback(every=50)])  # doctest: +SKIP
    """

    def __init__(
        self,
        log: str | Iterable[str] = "all",
        every: int = 100,
        *,
        include: Pattern = None,
        exclude: Pattern = None,
        writer: Sink | None = None,
    ) -> None:
        super().__init__()
        self._begin = partial(watch, log=log, every=every, include=include, exclude=exclude)
        self._given = writer
        self._writer: Sink | None = None
        self._watch: Watch | None = None
        self._step = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the writer, on rank 0."""
        log_dir = (
            trainer.log_dir or trainer.default_root_dir
        )  # asked on every rank: they agree on it there
        if not trainer.is_global_zero:
            return
        self._writer = self._given or _default_writer(trainer, log_dir)
        self._watch = self._begin(pl_module, self._writer)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *arguments: object) -> None:
        """Log the optimizer's step, if this batch has made it."""
        del arguments
        if self._watch is not None and trainer.global_step > self._step:
            self._step = trainer.global_step
            self._watch.step(self._step)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the writer, however fitting has ended."""
        del trainer, pl_module, stage
        if self._watch is not None:
            self._watch.close()
        if self._writer is not None and self._writer is not self._given:
            self._writer.close()
        self._watch = self._writer = None


def _default_writer(trainer: Any, log_dir: str) -> Sink:
    experiment = getattr(trainer.logger, "experiment", None)
    if hasattr(experiment, "_get_file_writer"):
        return SummaryWriter(writer=experiment)
    return SummaryWriter(log_dir)
