"""`SummaryWriter`: torch's own class, with our histograms, and our event file under everything that it writes."""

from __future__ import annotations

import os
from typing import Any

from fasthist.buckets import tensorflow_buckets
from fasthist.events.foreign import ForeignWriter
from fasthist.events.writer import EventFileWriter
from fasthist.packages import require
from fasthist.summary_writer import SummaryWriter as FasthistWriter

require("torch")
require("tensorboard")

from torch.utils.tensorboard import writer as torch_writer


class SummaryWriter(FasthistWriter, torch_writer.SummaryWriter):
    """Write all that ``torch.utils.tensorboard.SummaryWriter`` writes, histograms as `fasthist.SummaryWriter` does.

    Parameters
    ----------
    log_dir, comment, purge_step, max_queue, flush_secs, filename_suffix
        As in torch.
    **kwargs
        The others of `fasthist.SummaryWriter`.

    Notes
    -----
    It is an instance of torch's class, so that what asks for one takes it. Images, figures, graphs, text and all else
    are encoded by torch and written to the same file; ``add_scalars`` and ``add_hparams`` make further directories,
    as they do with torch.

    Examples
    --------
    >>> from fasthist.adapters.torch import SummaryWriter
    >>> with SummaryWriter("runs/a") as writer:
    ...     writer.add_text("note", "a first run", global_step=0)
    ...     writer.add_histogram("weights/fc", [0.1, 0.2, 0.2], global_step=0)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: float = 120,
        filename_suffix: str = "",
        **kwargs: Any,
    ) -> None:
        FasthistWriter.__init__(
            self, log_dir, comment, purge_step, max_queue, flush_secs, filename_suffix, **kwargs
        )
        self.max_queue, self.flush_secs = max_queue, flush_secs  # torch's add_scalars asks for them
        self.filename_suffix = filename_suffix
        self.default_bins = tensorflow_buckets().edges.tolist()
        self.file_writer = _FileWriter(self._events, self.log_dir)
        self.all_writers = {self.log_dir: self.file_writer}

    def _get_file_writer(self) -> Any:
        return self.file_writer

    def flush(self, *, fsync: bool = False) -> None:
        """Bring everything added so far to the files, those of ``add_scalars`` too."""
        super().flush(fsync=fsync)
        for other in self._others():
            other.flush()

    def close(self) -> None:
        """Flush and close all files; what is added later goes to new ones."""
        super().close()
        for other in self._others():
            other.close()
        self.all_writers = {self.log_dir: self.file_writer}

    def _others(self) -> list[Any]:
        return [one for one in self.all_writers.values() if one is not self.file_writer]


class _FileWriter(torch_writer.FileWriter):
    """Hand torch's events to our file."""

    def __init__(self, events: EventFileWriter | ForeignWriter, log_dir: str) -> None:
        self.event_writer = _EventWriter(events, log_dir)


class _EventWriter:
    """What tensorboard's ``EventFileWriter`` is to torch's ``FileWriter``."""

    def __init__(self, events: EventFileWriter | ForeignWriter, log_dir: str) -> None:
        self._events = events
        self._log_dir = log_dir

    def get_logdir(self) -> str:
        return self._log_dir

    def add_event(self, event: Any) -> None:
        self._events.add_event(event.SerializeToString(), step=event.step)

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def reopen(self) -> None:
        """Do nothing: a file is opened when an event comes."""
