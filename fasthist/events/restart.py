"""What a run that begins anew at a step writes, so that both of TensorBoard's loaders forget the later steps."""

from __future__ import annotations

import itertools
import os
import time

from fasthist.events import fields
from fasthist.events.messages import purge_events, summary_event
from fasthist.events.reader import raw_events
from fasthist.events.wire import integer_field


def restart_events(log_dir: str | os.PathLike[str], step: int) -> list[bytes]:
    """Encode the first events of a new file, so that both of TensorBoard's loaders forget the steps from `step` on.

    The run's files are read once and never changed; one value of each tag is held. `log_dir` is empty if unknown.

    The Python loader purges at a note that a session starts. The fast one does not know that note, but a record evicts
    those of its tag with the same or a later step (tensorboard/data/server/reservoir.rs). So for each tag with later values,
    the last value to keep is written again. Without one to keep, that loader forgets a tag's old steps once it is written
    again.
    """
    kept, stale, starts = _last_values(log_dir, step, []) if log_dir else ({}, set(), [])
    if starts:  # the run was restarted before: values that are forgotten already must not come back
        kept, stale, _ = _last_values(log_dir, step, starts)
    again: dict[tuple[int, float], list[bytes]] = {}  # what was in one event stays in one
    for tag in sorted(stale & kept.keys()):
        at, wall_time, value = kept[tag]
        again.setdefault((at, wall_time), []).append(value)
    return purge_events(time.time(), step) + [
        summary_event(values, wall_time, at) + integer_field(fields.EVENT_WRITTEN_AGAIN, 1)
        for (at, wall_time), values in again.items()
    ]


def _last_values(
    log_dir: str | os.PathLike[str], step: int, starts: list[tuple[int, int]]
) -> tuple[dict[str, tuple[int, float, bytes]], set[str], list[tuple[int, int]]]:
    """Return the last value to keep of each tag, the tags that have later ones, and the (number, step) of each start.

    Values that readers forgot at one of the `starts` after them count as later ones.
    """
    kept: dict[str, tuple[int, float, bytes]] = {}
    stale: set[str] = set()
    seen: list[tuple[int, int]] = []
    limits = [*itertools.accumulate((at for _, at in reversed(starts)), min, initial=step)]
    for number, event in enumerate(raw_events(log_dir)):
        if event.starts:
            seen.append((number, event.step))
        while len(limits) > 1 and number >= starts[-len(limits) + 1][0]:
            limits.pop()
        for tag, value in event.values:
            if event.step >= limits[-1]:
                stale.add(tag)
            else:
                kept[tag] = event.step, event.wall_time, value
                stale.discard(tag)
    return kept, stale, seen
