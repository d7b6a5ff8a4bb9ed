"""Where adapters send histograms: TensorBoard's files, or a tracker."""

from __future__ import annotations

from typing import Any, Protocol


class Sink(Protocol):
    """What takes the histograms of a step; a `fasthist.SummaryWriter` is one."""

    def add_histograms(self, tree: Any, global_step: int | None = None) -> None:
        """Count every array of a tree, and log all histograms of this step.

        Parameters
        ----------
        tree : tree
            Of arrays or finished histograms; tags as in `fasthist.histograms`.
        global_step : int, optional
        """

    def flush(self) -> None:
        """Send on what is held."""

    def close(self) -> None:
        """Flush, and let go of what this sink has opened itself."""
