"""What keeps event files small: TensorBoard keeps 100 steps of a tag and draws 51, whatever is on the disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

from fasthist.arguments import as_count
from fasthist.events.background import Entry
from fasthist.series import WrittenStep

_LARGE = 1 << 30


class Thinning:
    """Decide for each tag which of its steps are written.

    Parameters
    ----------
    every : int
        The first step of a tag is written, then each that is at least so many further than the last one written. A step
        that lies before that one begins anew, as a restarted run does.
    keep_last : bool
        Whether the last step is to be written in the end too.

    Raises
    ------
    ArgumentError
        `every` is not a whole number of at least 1.
    """

    def __init__(self, every: int, *, keep_last: bool) -> None:
        self.every = as_count("every", every, 1, "every=1 writes all steps")
        self.keeps_last = keep_last and self.every > 1
        self._written: dict[str, int] = {}
        self._skipped: dict[str, WrittenStep] = {}
        self._process = os.getpid()

    def is_due(self, tag: str, step: int) -> bool:
        """Say whether a step is to be written."""
        before = self._written.get(tag)
        return before is None or not before < step < before + self.every

    def wrote(self, tags: Iterable[str], step: int) -> None:
        """Take a step as written: it was counted and handed over."""
        if self.every > 1:
            for tag in tags:
                self._written[tag] = step
                self._skipped.pop(tag, None)

    def skip(self, tag: str, what: WrittenStep) -> None:
        """Keep what was not written of a tag, until something later comes."""
        self._of_this_process()[tag] = what

    def take_skipped(self) -> list[WrittenStep]:
        """Give what was skipped last of each tag, and forget it."""
        skipped = self._of_this_process()
        self._skipped = {}
        return list(skipped.values())

    def _of_this_process(self) -> dict[str, WrittenStep]:
        # What a forked or spawned process finds here is its parent's, who writes it.
        if self._process != os.getpid():
            self._process, self._skipped = os.getpid(), {}
        return self._skipped


def last_events(thinning: Thinning) -> list[Entry]:
    """Return what was skipped last of each tag: the events that end a run."""
    return [
        Entry(written.encode, written.step, tags=written.histograms)
        for written in thinning.take_skipped()
    ]


class SizeWarning:
    """Warns when a run has become so large that TensorBoard is slow to read it, and each time that it has doubled."""

    def __init__(self) -> None:
        self._at = _LARGE

    def check(self, nbytes: int, log_dir: str) -> None:
        """Look at the size that a run has now."""
        if nbytes < self._at:
            return
        self._at = 2 * nbytes
        text = (
            f"{log_dir}: {nbytes / 1e9:.1f} GB of events are written by now, and TensorBoard reads all of them. "
            "Hint: SummaryWriter(every=...) writes fewer steps, add_histogram(max_bins=...) fewer buckets."
        )
        warnings.warn(text, stacklevel=4)
