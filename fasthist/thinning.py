"""Keep event files small: TensorBoard keeps 100 steps of a tag and draws 51, whatever is on the disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

from fasthist.arguments import as_count
from fasthist.events.background import Entry
from fasthist.series import WrittenStep

_LARGE = 1 << 30


class Thinning:
    """Decide which steps of each tag are written.

    A tag's first step is written, then each that is at least `every` further than the last one written. A step before
    that one starts over, as a restarted run does. `keep_last` says whether the last step is written in the end too.
    """

    def __init__(self, every: int, *, keep_last: bool) -> None:
        self.every = as_count("every", every, 1, "every=1 writes all steps")
        self.keeps_last = keep_last and self.every > 1
        self._written: dict[str, int] = {}
        self._skipped: dict[str, WrittenStep] = {}
        self._process = os.getpid()

    def is_due(self, tag: str, step: int) -> bool:
        """Return whether a step is to be written."""
        before = self._written.get(tag)
        return before is None or not before < step < before + self.every

    def wrote(self, tags: Iterable[str], step: int) -> None:
        """Record a step as written: it was counted and handed over."""
        if self.every > 1:
            for tag in tags:
                self._written[tag] = step
                self._skipped.pop(tag, None)

    def skip(self, tag: str, what: WrittenStep) -> None:
        """Keep a tag's latest step that was not written, until a later one comes."""
        self._of_this_process()[tag] = what

    def last_events(self) -> list[Entry]:
        """Return what was skipped last of each tag, the events that end a run, and forget it."""
        skipped = self._of_this_process()
        self._skipped = {}
        return [Entry(step.encode, step.step, tags=step.histograms) for step in skipped.values()]

    def _of_this_process(self) -> dict[str, WrittenStep]:
        # In a forked or spawned process these are its parent's, which writes them.
        if self._process != os.getpid():
            self._process, self._skipped = os.getpid(), {}
        return self._skipped


class SizeWarning:
    """Warn when a run has become so large that TensorBoard is slow to read it, and each time that it doubles."""

    def __init__(self) -> None:
        self._at = _LARGE

    def check(self, nbytes: int, log_dir: str) -> None:
        """Check a run's current size."""
        if nbytes < self._at:
            return
        self._at = 2 * nbytes
        text = (
            f"{log_dir}: {nbytes / 1e9:.1f} GB of events have been written, and TensorBoard reads all of them. "
            "Hint: SummaryWriter(every=...) writes fewer steps, add_histogram(max_bins=...) fewer buckets."
        )
        warnings.warn(text, stacklevel=4)
