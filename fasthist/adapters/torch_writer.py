"""`SummaryWriter`: torch's class, with fasthist's histograms and event files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, NoReturn

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
    It is an instance of torch's class. Torch encodes images, figures, graphs, text and the rest, which go to the same file;
    ``add_scalars`` and ``add_hparams`` make further directories, as in torch. Tools that patch torch's classes, such as
    W&B's ``sync_tensorboard`` and ClearML, see every event; for ClearML the calling thread encodes it.

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
        flush_secs: float | None = 120,
        filename_suffix: str = "",
        **kwargs: Any,
    ) -> None:
        arguments = log_dir, comment, purge_step, max_queue, flush_secs, filename_suffix
        FasthistWriter.__init__(self, *arguments, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # These belong to this process, as its files do.
        return {**self.__dict__, "file_writer": None, "all_writers": None}

    def __getattr__(self, name: str) -> NoReturn:
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(msg)

    def _open_writers(self) -> None:
        self.file_writer = _FileWriter(self._events, self.log_dir)
        self.all_writers = {self.log_dir: self.file_writer}

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            self._open_writers()
        return self.file_writer

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: dict[str, Any],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Write several numbers, each to its own directory, as torch does."""
        log_dir = self._get_file_writer().get_logdir()
        for tag in tag_scalar_dict:
            # Torch makes no writer if there is one of this name.
            name = f"{log_dir}/{main_tag.replace('/', '_')}_{tag}"
            if name not in self.all_writers:
                options = ("max_queue", "flush_secs", "filename_suffix")
                events = EventFileWriter(name, **{key: getattr(self, key) for key in options})
                self.all_writers[name] = _FileWriter(events, name)
        super().add_scalars(main_tag, tag_scalar_dict, global_step, walltime)

    def flush(self, *, fsync: bool = False) -> None:
        """Write everything added so far to the files, those of ``add_scalars`` included."""
        super().flush(fsync=fsync)
        for other in self._others():
            other.event_writer.flush(fsync=fsync)

    def close(self) -> None:
        """Flush and close all files; later values go to new ones."""
        if self.file_writer is not None and self.file_writer.is_watched():
            for entry in self._thinning.last_events():
                self._add(entry.event, entry.step)
        for other in self._others():
            other.close()
        super().close()

    def _others(self) -> list[Any]:
        every = (self.all_writers or {}).values()
        return [other for other in every if other is not self.file_writer]

    def _hand_over(
        self,
        event: bytes | Callable[[], bytes],
        step: int,
        nbytes: int | None,
        tags: Collection[str],
    ) -> None:
        if self._get_file_writer().is_watched():
            ForeignWriter(self).add_event(event)
        else:
            super()._hand_over(event, step, nbytes, tags)


class _FileWriter(torch_writer.FileWriter):
    """Hand torch's events to our file."""

    def __init__(self, events: EventFileWriter | ForeignWriter, log_dir: str) -> None:
        # W&B replaces tensorboard's class with a subclass, whose constructor tells it of the directory. Our class stands
        # between the two, so that this constructor is called, but not the one that creates a file.
        watching = torch_writer.EventFileWriter
        made = _EventWriter if watching is _ORIGINAL else type("_", (watching, _EventWriter), {})
        self.event_writer = made(log_dir, events)

    def is_watched(self) -> bool:
        """Return whether a tool such as ClearML has replaced torch's ``add_event``."""
        code = getattr(self.add_event, "__code__", None)
        return code is None or code.co_filename != torch_writer.__file__


_ORIGINAL = torch_writer.EventFileWriter.__mro__[-2]
"""tensorboard's class, even if a tool replaced it before this module was imported."""


class _EventWriter(_ORIGINAL):  # type: ignore[misc, valid-type]
    """Take events as tensorboard's ``EventFileWriter`` does."""

    def __init__(self, log_dir: str, events: EventFileWriter | ForeignWriter) -> None:
        self._logdir = log_dir
        self._events = events

    def add_event(self, event: Any) -> None:
        tags = [value.tag for value in event.summary.value]
        self._events.add_event(event.SerializeToString(), step=event.step, tags=tags)

    def flush(self, *, fsync: bool = False) -> None:
        self._events.flush(fsync=fsync)

    def close(self) -> None:
        self._events.close()

    def reopen(self) -> None:
        """Do nothing: a file is opened when an event comes."""
