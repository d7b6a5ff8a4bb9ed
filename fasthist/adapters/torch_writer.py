"""`SummaryWriter`: torch's own class, with our histograms, and our event file under everything that it writes."""

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
    It is an instance of torch's class, so that what asks for one takes it. Images, figures, graphs, text and all else
    are encoded by torch and written to the same file; ``add_scalars`` and ``add_hparams`` make further directories,
    as they do with torch. Tools that put their own code into torch's classes, such as W&B's ``sync_tensorboard`` and
    ClearML, see every event; ClearML gets each in the calling thread, which then encodes it.

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
        FasthistWriter.__init__(
            self, log_dir, comment, purge_step, max_queue, flush_secs, filename_suffix, **kwargs
        )

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
        """Write several numbers, each to a directory of its own, as torch does."""
        log_dir = self._get_file_writer().get_logdir()
        for tag in tag_scalar_dict:
            # Where torch finds a writer of this name, it makes none.
            name = f"{log_dir}/{main_tag.replace('/', '_')}_{tag}"
            if name not in self.all_writers:
                events = EventFileWriter(
                    name,
                    max_queue=self.max_queue,
                    flush_secs=self.flush_secs,
                    filename_suffix=self.filename_suffix,
                )
                self.all_writers[name] = _FileWriter(events, name)
        super().add_scalars(main_tag, tag_scalar_dict, global_step, walltime)

    def flush(self, *, fsync: bool = False) -> None:
        """Bring everything added so far to the files, those of ``add_scalars`` too."""
        super().flush(fsync=fsync)
        for other in self._others():
            other.event_writer.flush(fsync=fsync)

    def close(self) -> None:
        """Flush and close all files; what is added later goes to new ones."""
        if self.file_writer is not None and self.file_writer.is_watched():
            for entry in self._thinning.last_events():
                self._add(entry.event, entry.step)
        for other in self._others():
            other.close()
        super().close()

    def _others(self) -> list[Any]:
        return [
            other for other in (self.all_writers or {}).values() if other is not self.file_writer
        ]

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
        # W&B learns of a directory from the constructor of a subclass that it puts in the place of tensorboard's class.
        # Ours stands between the two, so that the constructor is called, and the one that makes a file is not.
        watching = torch_writer.EventFileWriter
        made = _EventWriter if watching is _ORIGINAL else type("_", (watching, _EventWriter), {})
        self.event_writer = made(log_dir, events)

    def is_watched(self) -> bool:
        """Say whether a tool such as ClearML has put a function of its own in the place of torch's ``add_event``."""
        code = getattr(self.add_event, "__code__", None)
        return code is None or code.co_filename != torch_writer.__file__


_ORIGINAL = torch_writer.EventFileWriter.__mro__[-2]
"""tensorboard's class, even if it is another by the time that this module is imported."""


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
