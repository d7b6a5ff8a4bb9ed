"""Hugging Face ``Trainer``: its TensorBoard callback, with histograms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from fasthist.adapters.torch import Watch, watch
from fasthist.adapters.torch_writer import SummaryWriter
from fasthist.adapters.watching import Pattern
from fasthist.packages import require
from fasthist.sinks import Sink

require("transformers")

from transformers.integrations import TensorBoardCallback


class HistogramCallback(TensorBoardCallback):
    """Write what ``TensorBoardCallback`` writes, and histograms of weights, gradients, updates or activations.

    Parameters
    ----------
    log, every, include, exclude
        As of `fasthist.adapters.torch.watch`; steps are those of the optimizer, ``state.global_step``.
    writer : Sink, optional
        Send histograms there, and write nothing else. Default: a `fasthist.adapters.torch.SummaryWriter` in the directory
        that ``TensorBoardCallback`` would take, for the Trainer's scalars too.

    Raises
    ------
    ArgumentError
        An argument is not as above; raised when training begins.

    Notes
    -----
    With ``report_to="tensorboard"`` the Trainer's own callback writes the scalars, and this one leaves them out. Only
    the process of rank 0 counts and writes. Under gradient accumulation a step is logged when the optimizer has made it,
    with the gradients that it used.

    Examples
    --------
    >>> from transformers import Trainer
    >>> from fasthist.adapters.transformers import HistogramCallback
    >>> trainer = Trainer(model, callbacks=[HistogramCallback(every=50)])  # doctest: +SKIP
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
        self._SummaryWriter = SummaryWriter
        self._begin = partial(watch, log=log, every=every, include=include, exclude=exclude)
        self._given = writer
        self._watch: Watch | None = None
        self._scalars = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the writer, on rank 0."""
        if not state.is_world_process_zero:
            return
        self._scalars = self._given is None and "tensorboard" not in args.report_to
        if self._given is None:
            super().on_train_begin(args, state, control, **kwargs)
        self._watch = self._begin(kwargs["model"], self._given or self.tb_writer)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step that the optimizer has just made."""
        del args, control, kwargs
        if self._watch is not None:
            self._watch.step(state.global_step + 1)  # it is counted after this

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the Trainer's scalars, unless its own callback does."""
        if self._scalars:
            super().on_log(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close what was opened."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        super().on_train_end(args, state, control, **kwargs)
