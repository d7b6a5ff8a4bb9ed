"""What a run that begins anew at a step writes, so that both of TensorBoard's loaders forget the later steps."""

from __future__ import annotations

import os
import time

from fasthist.events.messages import purge_events, summary_event
from fasthist.events.reader import raw_values


def restart_events(log_dir: str | os.PathLike[str], step: int) -> list[bytes]:
    """Encode the first events of a new file, so that both of TensorBoard's loaders forget the steps from `step` on.

    The run's files are read once and never changed; one value of each tag is held. `log_dir` is empty if unknown.

    The Python loader purges at a note that a session starts. The fast one does not know that note, but a record evicts
    those of its tag with the same or a later step (tensorboard/data/server/reservoir.rs). So for each tag with later values,
    the last value to keep is written again. Without one to keep, that loader forgets a tag's old steps once it is written
    again.
    """
    kept: dict[str, tuple[int, float, bytes]] = {}
    stale: set[str] = set()
    for tag, at, wall_time, value in raw_values(log_dir) if log_dir else ():
        if at >= step:
            stale.add(tag)
        else:
            kept[tag] = at, wall_time, value
            stale.discard(tag)
    again: dict[tuple[int, float], list[bytes]] = {}  # what was in one event stays in one
    for tag in sorted(stale & kept.keys()):
        at, wall_time, value = kept[tag]
        again.setdefault((at, wall_time), []).append(value)
    return purge_events(time.time(), step) + [
        summary_event(values, wall_time, at) for (at, wall_time), values in again.items()
    ]
