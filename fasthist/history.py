"""`History`: a run read back, as one series of histograms for each tag."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fasthist.errors import ArgumentError, listed
from fasthist.events.finding import event_files, run_files
from fasthist.events.index import RunIndex
from fasthist.events.stored import check_exists, is_dir, join, names_in, size_of
from fasthist.plots import figures
from fasthist.plots.notebook import history_to_html
from fasthist.plots.panels import MAX_PANELS
from fasthist.tag_series import Series


class History(Mapping[str, Series]):
    """The histograms of one run: a `Series` for each tag, in the order in which they first appeared.

    Made by `History.open` and `History.open_all`. The files are read through once, and checked; about a hundred bytes
    are kept for each histogram, which is read again when it is asked for.

    Attributes
    ----------
    run : str
        The directory of the run relative to the opened one, with slashes; "." for the opened one itself.
    path : str
        The directory of the run, or the one file that was opened.

    Notes
    -----
    Where a run was continued at an earlier step with ``purge_step``, by whichever library, what its first life wrote
    from that step on is left out. The steps are those that TensorBoard's ``EventAccumulator`` keeps, except that rows
    written by fasthist are left out with the rest, as on TensorBoard's page.

    Examples
    --------
    >>> import fasthist
    >>> with fasthist.SummaryWriter("runs/a") as writer:
    ...     for step in range(3):
    ...         writer.add_histogram("fc1/weight", [1.0, 2.0, 3.0 + step], step)
    >>> history = fasthist.History.open("runs/a")
    >>> history["fc1/weight"].max
    array([3., 4., 5.])
    >>> history["fc1/weight"].at(2).num
    3
    """

    def __init__(self, path: str, run: str, *, skip_corrupt: bool = False) -> None:
        self.run = run
        self.path = path
        self._index = RunIndex(skip_corrupt=skip_corrupt)
        self._series: dict[str, Series] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_series": {}}  # each series would bring its table once more

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._find_series()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], run: str | None = None, *, skip_corrupt: bool = False
    ) -> History:
        """Read a run.

        Parameters
        ----------
        path : str or os.PathLike
            A directory, where each directory with event files is a run; or one file; or the URL of either.
        run : str, optional
            Which run below `path`. Default: the only one.
        skip_corrupt : bool
            Skip damaged records, and count them in `corrupt_count`, instead of raising.

        Returns
        -------
        History
            Without tags if nothing has been written yet.

        Raises
        ------
        ArgumentError
            There is no such directory, file or run, or there are several runs, which the text names.
        EventFileError
            A record is damaged.
        OSError
            A file or directory cannot be read.
        """
        histories = find_runs(path, skip_corrupt=skip_corrupt)
        if run is None and len(histories) > 1:
            msg = (
                f"{os.fspath(path)} holds {len(histories)} runs: {listed(map(repr, histories), 8)}. "
                "Accepted: one. Hint: name it with run=."
            )
            raise ArgumentError(msg)
        if run is not None and run not in histories:
            msg = f"run={run!r} is not below {os.fspath(path)}. Accepted: {listed(map(repr, histories), 8)}."
            raise ArgumentError(msg)
        history = next(iter(histories.values())) if run is None else histories[run]
        history.refresh()
        return history

    @classmethod
    def open_all(
        cls, path: str | os.PathLike[str], *, skip_corrupt: bool = False
    ) -> dict[str, History]:
        """Read every run below a directory; arguments, errors and order as in `open`.

        Returns
        -------
        dict of str to History
            By the names of the runs.
        """
        histories = find_runs(path, skip_corrupt=skip_corrupt)
        for history in histories.values():
            history.refresh()
        return histories

    @property
    def corrupt_count(self) -> int:
        """Number of damaged records skipped so far."""
        return self._index.corrupt_count

    @property
    def nbytes(self) -> int:
        """Bytes of the run's files, as they are now."""
        return sum(map(size_of, self._paths()))

    def refresh(self, advance: Callable[[int], None] | None = None) -> bool:
        """Read what has been written since the last call.

        Parameters
        ----------
        advance : callable, optional
            Called now and then with the number of bytes that were read since its last call.

        Returns
        -------
        bool
            Whether there was anything new.

        Raises
        ------
        EventFileError
            A record is damaged. What comes before it is kept; the next call raises this again.
        OSError
            A file cannot be read.
        """
        try:
            return self._index.update(self._paths(), advance)
        finally:
            self._find_series()

    def _find_series(self) -> None:
        self._series = {
            tag: self._series[tag] if tag in self._series else Series(self._index, tag)
            for tag in self._index.tables
        }

    def plot(
        self, kind: str = "ridge", tag: str | None = None, step: int | None = None,
        *, dark: bool = False, scale: str = "auto", max_panels: int = MAX_PANELS,
    ) -> Any:  # fmt: skip
        """Draw every tag, as a grid of small pictures in a new pyplot figure.

        ``plt.show()`` and notebooks show it. `fasthist.plots.figures.plot_runs` draws several runs.

        Parameters
        ----------
        kind : {"ridge", "overlay", "heatmap", "percentiles"}
            As in `Series.plot`; "overlay" shows one step.
        tag : str, optional
            Regular expression that a tag must contain. Default: all tags.
        step : int, optional
            Step of an overlay. Default: the last.
        dark : bool
            Use a dark background.
        scale : {"auto", "linear", "log"}
            Scale of the values; "log" is linear around zero. "auto" picks it where a linear axis would hide most of them.
        max_panels : int
            Draw only the first this many tags.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ArgumentError
            The kind or scale is unknown, `step` is given for another kind than "overlay", `max_panels` is below 1, the
            expression is invalid, or no tag, or none with that step, matches.
        EventFileError, OSError
            A file has changed, or cannot be read.
        MissingPackageError
            matplotlib is not installed: the extra fasthist[plot].
        """
        return figures.plot_runs(
            {self._name: self}, kind, tag, step, dark=dark, scale=scale, max_panels=max_panels
        )

    def _paths(self) -> list[str]:
        if not is_dir(self.path):
            return [self.path]
        return event_files(self.path, names_in(self.path))

    def __getitem__(self, tag: str) -> Series:
        return self._series[tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        return f"History({self.run!r}, {len(self)} tags)"

    def _repr_html_(self) -> str:
        """Return a table of the tags with their last numbers and outlines: what notebooks show."""
        return history_to_html(self._name, self)

    @property
    def _name(self) -> str:
        """Return the run's name, or that of its directory."""
        return os.path.basename(os.path.abspath(self.path)) if self.run == "." else self.run  # noqa: PTH100, PTH119 - URLs too


def find_runs(path: str | os.PathLike[str], *, skip_corrupt: bool = False) -> dict[str, History]:
    """Find every run below a directory, without reading it; ArgumentError if there is no event file."""
    name = os.fsdecode(path)
    check_exists(name)
    is_file = not is_dir(name)
    histories = {
        run: History(name if is_file else join(name, run), run, skip_corrupt=skip_corrupt)
        for run, _ in run_files(name)
    }
    if not histories:
        msg = f"{name} holds no event files, nor does any directory in it. Accepted: a directory that TensorBoard reads."
        raise ArgumentError(msg)
    return histories
