"""Events into another library's writer, so that tools that watch its classes see them (W&B's sync, ClearML).

Source: torch/utils/tensorboard/writer.py, tensorboardX/writer.py: both have ``FileWriter.add_event(event, step,
walltime)`` over ``EventFileWriter.add_event(event)``, which take their own protobuf classes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

from fasthist.errors import ArgumentError, MissingPackageError
from fasthist.events.background import Entry


class ForeignWriter:
    """Hand events to another library's writer, which is flushed, never closed.

    `writer` is a SummaryWriter of torch or tensorboardX, or has ``add_event``, which gets ``Event`` objects of tensorboard's
    protobuf classes. Events are encoded in the calling thread and parsed again, since these writers take objects.
    `last_events` returns the entries to write at `close`.

    ArgumentError if `writer` is none of these; MissingPackageError if the protobuf classes are not installed.
    """

    def __init__(self, writer: Any, last_events: Callable[[], Iterable[Entry]] = tuple) -> None:
        if not (hasattr(writer, "_get_file_writer") or hasattr(writer, "add_event")):
            accepted = "a SummaryWriter of torch or tensorboardX, or an object with add_event()"
            msg = f"writer={type(writer).__name__} takes no events. Accepted: {accepted}."
            raise ArgumentError(msg)
        package = type(writer).__module__.partition(".")[0]
        module = "tensorboardX.proto" if package == "tensorboardX" else "tensorboard.compat.proto"
        try:
            self._event_class = importlib.import_module(f"{module}.event_pb2").Event
        except ImportError as error:
            msg = f"writer={type(writer).__name__} needs the package tensorboard. Run: pip install tensorboard"
            raise MissingPackageError(msg) from error
        self._writer = writer
        self._last_events = last_events
        self.nbytes = 0

    def get_logdir(self) -> str:
        """Return where the other writer writes, or "" if it does not tell."""
        log_dir = getattr(self._writer, "log_dir", None) or getattr(self._writer, "logdir", None)
        if not log_dir and hasattr(self._writer, "get_logdir"):
            log_dir = self._writer.get_logdir()
        return os.fsdecode(log_dir) if log_dir else ""

    def add_event(
        self,
        event: bytes | Callable[[], bytes],
        *,
        step: int = 0,
        nbytes: int | None = None,
        tags: Collection[str] = (),
    ) -> None:
        """Hand over one event; errors of the other writer pass through."""
        del step, nbytes, tags
        encoded = event if isinstance(event, bytes) else event()
        if not encoded:
            return
        self.nbytes += len(encoded)
        parsed = self._event_class.FromString(encoded)
        if hasattr(self._writer, "_get_file_writer"):
            # Without a time, the writer would set the current one. None: it is configured to write nothing.
            inner = self._writer._get_file_writer()
            if inner is not None:
                inner.add_event(parsed, parsed.step, parsed.wall_time)
        else:
            self._writer.add_event(parsed)

    def flush(self, *, fsync: bool = False) -> None:
        """Flush the other writer, if it has such a method."""
        del fsync
        if hasattr(self._writer, "flush"):
            self._writer.flush()

    def close(self) -> None:
        """Hand over the last events, and flush the other writer."""
        for entry in self._last_events():
            self.add_event(entry.event)
        self.flush()
