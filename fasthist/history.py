"""`History`: a run read back, as one series of histograms for each tag."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasthist.errors import ArgumentError
from fasthist.events.finding import Form, event_files, run_files
from fasthist.events.index import ENTRY, RunIndex
from fasthist.hist import Histogram
from fasthist.plots import figures

Column = NDArray[np.float64]

# Histograms that are restored together: numpy takes a third of the time for 64 that it takes for each alone.
_BATCH = 64


class Series(Sequence[Histogram]):
    """The histograms of one tag, by step.

    Each is read from the file when it is asked for, and not kept. The columns (`steps`, `num`, `mean` and so on) are
    there without reading anything. `History.refresh` puts what is new into it.

    Parameters
    ----------
    index : RunIndex
    tag : str

    Attributes
    ----------
    tag : str

    Notes
    -----
    A step that was written several times is there once, as it was written last.
    """

    def __init__(self, index: RunIndex, tag: str) -> None:
        self.tag = tag
        self._index = index

    def __getstate__(self) -> dict[str, Any]:
        """Give what is pickled: without the other tags of the run."""
        return {"tag": self.tag, "_index": self._index.only((self.tag,))}

    @property
    def _table(self) -> NDArray[Any]:
        return self._index.tables.get(self.tag, _NOTHING)

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Histogram: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.int64]) -> list[Histogram]: ...
    def __getitem__(self, index: int | slice | NDArray[np.int64]) -> Histogram | list[Histogram]:
        if isinstance(index, (slice, np.ndarray)):
            return self._index.restore(self._table[index])
        return self._index.restore(self._table[[index]])[0]

    def __iter__(self) -> Iterator[Histogram]:
        table = self._table
        for begin in range(0, len(table), _BATCH):
            yield from self._index.restore(table[begin : begin + _BATCH])

    def __repr__(self) -> str:
        steps = self.steps
        reach = f", {steps[0]} to {steps[-1]}" if steps.size else ""
        return f"Series({self.tag!r}, {steps.size} steps{reach})"

    def at(self, step: int) -> Histogram:
        """Give the histogram of a step.

        Raises
        ------
        ArgumentError
            There is none; the text names the nearest step that has one.
        EventFileError, OSError
            The file has changed, or cannot be read.
        """
        steps = self.steps
        place = int(steps.searchsorted(step))
        if place < steps.size and steps[place] == step:
            return self[place]
        if not steps.size:
            msg = f"{self.tag!r} has no step {step}, nor any other."
            raise ArgumentError(msg)
        nearest = steps[np.abs(steps - step).argmin()]
        msg = (
            f"{self.tag!r} has no step {step}. Accepted: one of its {steps.size} steps, {steps[0]} to {steps[-1]}. "
            f"Hint: the nearest is {nearest}."
        )
        raise ArgumentError(msg)

    @property
    def steps(self) -> NDArray[np.int64]:
        """int64[n], increasing."""
        return self._column("step")

    @property
    def wall_times(self) -> Column:
        """Seconds since 1970, UTC, float64[n]."""
        return self._column("wall_time")

    @property
    def num(self) -> Column:
        """Finite values, float64[n]."""
        return self._column("num")

    @property
    def min(self) -> Column:
        """Smallest finite value, float64[n]; NaN where the file does not tell, as in all that follow."""
        return self._column("min")

    @property
    def max(self) -> Column:
        """Largest finite value, float64[n]."""
        return self._column("max")

    @property
    def sum(self) -> Column:
        """Sum of the finite values, float64[n]."""
        return self._column("sum")

    @property
    def sum_squares(self) -> Column:
        """Sum of their squares, float64[n]."""
        return self._column("sum_squares")

    @property
    def zero_count(self) -> Column:
        """Values equal to zero, float64[n], from the scalar ``<tag>/zero_fraction`` that ``stats=`` writes.

        Within ``2**-24`` of the true one, for that is a float32; it is not in the histograms themselves.
        """
        return self._column("zero_count")

    @property
    def nan_count(self) -> Column:
        """NaN, float64[n]."""
        return self._column("nan_count")

    @property
    def posinf_count(self) -> Column:
        """Values of +infinity, float64[n]."""
        return self._column("posinf_count")

    @property
    def neginf_count(self) -> Column:
        """Values of -infinity, float64[n]."""
        return self._column("neginf_count")

    @property
    def mean(self) -> Column:
        """Mean of the finite values, float64[n]."""
        return _divided(self.sum, self.num)

    @property
    def std(self) -> Column:
        """Population standard deviation, float64[n]: the formula and the error are those of `Histogram.std`."""
        with np.errstate(invalid="ignore", over="ignore"):
            square = _divided(self.sum_squares, self.num)
            std = np.sqrt(np.maximum(0.0, square - self.mean**2))
        std[np.isposinf(square)] = np.inf
        std[self.min == self.max] = 0.0
        return std

    @property
    def l2_norm(self) -> Column:
        """Square root of `sum_squares`, float64[n]."""
        norm: Column = np.sqrt(self.sum_squares)
        return norm

    def quantiles(self, qs: ArrayLike) -> Column:
        """Values below which given shares of the finite values lie, at every step.

        Parameters
        ----------
        qs : float64[k]
            0 to 1.

        Returns
        -------
        float64[n, k]
            As `Histogram.quantile` finds them; NaN where there is no finite value. Every histogram is read.

        Raises
        ------
        ArgumentError
            One of `qs` is not within 0 and 1.
        EventFileError, OSError
            A file has changed, or cannot be read.
        """
        shares = np.asarray(qs, dtype=np.float64).ravel().tolist()
        found = np.array([[h.quantile(q) for q in shares] for h in self], dtype=np.float64)
        return found.reshape(len(self), len(shares))

    def forms(self, places: NDArray[np.int64]) -> list[Form]:
        """Read histograms as they stand in the file, for who goes through very many: see `fasthist.events.restoring.join`.

        Parameters
        ----------
        places : int64[k]
            In `steps`.

        Raises
        ------
        EventFileError, OSError
            A file has changed, or cannot be read.
        """
        return self._index.forms(self._table[places])

    def plot(self, kind: str = "ridge", ax: Any = None, *, dark: bool = False) -> Any:
        """Draw the histograms over steps.

        Parameters
        ----------
        kind : {"ridge", "heatmap", "percentiles"}
            One outline a step, the newest in front; the density as colour; or percentiles as bands.
        ax : matplotlib.axes.Axes, optional
            Where to draw. Default: the axes of a new figure, which is ``ax.figure``, and of no window.
        dark : bool
            Draw a new figure on dark ground.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            Another kind.
        EventFileError, OSError
            A file has changed, or cannot be read.
        MissingPackageError
            matplotlib is not installed: the extra fasthist[plot].
        """
        return figures.plot_series(self, kind, ax, dark=dark)

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self._table[name]
        return column


_NOTHING = np.empty(0, dtype=ENTRY)


def _divided(sums: Column, nums: Column) -> Column:
    means: Column = np.full(sums.shape, np.nan)
    return np.divide(sums, nums, out=means, where=nums > 0)


class History(Mapping[str, Series]):
    """The histograms of one run: a `Series` for each tag, in the order in which they first appeared.

    Made by `History.open` and `History.open_all`. The files are gone through once, and checked; about a hundred bytes
    are kept for each histogram, which is read again when it is asked for.

    Attributes
    ----------
    run : str
        The directory of the run below the one that was opened, with slashes; "." for that one itself.
    path : str
        The directory of the run, or the one file that was opened.

    Notes
    -----
    Where a run was continued at an earlier step with ``purge_step``, what its first life wrote from there on is left
    out, as TensorBoard leaves it out.

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
        """Give what is pickled: without the series, which would bring their tables once more."""
        return vars(self) | {"_series": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled."""
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
            A directory, with all directories in it, of which each is a run; or one file.
        run : str, optional
            Which run below `path`. Default: the only one.
        skip_corrupt : bool
            Pass over damaged records, and count them in `corrupt_count`, instead of raising.

        Returns
        -------
        History
            Without tags if nothing is written yet.

        Raises
        ------
        ArgumentError
            There is no such directory, file or run, or there are several runs, which the text names.
        EventFileError
            A record is damaged.
        OSError
            A file or directory cannot be read.
        """
        found = find_runs(path, skip_corrupt=skip_corrupt)
        if run is None and len(found) > 1:
            msg = f"{os.fspath(path)} holds {len(found)} runs: {_names(found)}. Accepted: one. Hint: name it with run=."
            raise ArgumentError(msg)
        if run is not None and run not in found:
            msg = f"run={run!r} is not below {os.fspath(path)}. Accepted: {_names(found)}."
            raise ArgumentError(msg)
        history = next(iter(found.values())) if run is None else found[run]
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
        found = find_runs(path, skip_corrupt=skip_corrupt)
        for history in found.values():
            history.refresh()
        return found

    @property
    def corrupt_count(self) -> int:
        """Damaged records passed over so far."""
        return self._index.corrupt_count

    @property
    def nbytes(self) -> int:
        """Bytes of the run's files, as they are now."""
        return sum(Path(path).stat().st_size for path in self._paths())

    def refresh(self, advance: Callable[[int], None] | None = None) -> bool:
        """Read what was written since.

        Parameters
        ----------
        advance : callable, optional
            Called now and then with the number of bytes that were read since its last call.

        Returns
        -------
        bool
            Whether there was anything.

        Raises
        ------
        EventFileError
            A record is damaged. What lies before it is kept; the next call raises it again.
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
        self, kind: str = "ridge", tag: str | None = None, step: int | None = None, *, dark: bool = False
    ) -> Any:  # fmt: skip
        """Draw every tag, as a grid of small pictures; `fasthist.plots.figures.plot_runs` draws several runs.

        Parameters
        ----------
        kind : {"ridge", "overlay", "heatmap", "percentiles"}
            As in `Series.plot`; "overlay" is one step.
        tag : str, optional
            Regular expression that a tag has to contain. Default: all.
        step : int, optional
            Of an overlay. Default: the last.
        dark : bool
            On dark ground.

        Returns
        -------
        matplotlib.figure.Figure
            Of 24 pictures at most.

        Raises
        ------
        ArgumentError
            An unknown kind, a step for another kind than "overlay", no regular expression, no tag, or none with that
            step.
        EventFileError, OSError
            A file has changed, or cannot be read.
        MissingPackageError
            matplotlib is not installed: the extra fasthist[plot].
        """
        return figures.plot_runs({self.run: self}, kind, tag, step, dark=dark)

    def _paths(self) -> list[str]:
        directory = Path(self.path)
        if not directory.is_dir():
            return [self.path]
        return event_files(self.path, [path.name for path in directory.iterdir()])

    def __getitem__(self, tag: str) -> Series:
        return self._series[tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        return f"History({self.run!r}, {len(self)} tags)"


def find_runs(path: str | os.PathLike[str], *, skip_corrupt: bool = False) -> dict[str, History]:
    """Find every run below a directory, and read nothing yet: `History.refresh` does.

    Raises
    ------
    ArgumentError
        There is no such directory or file, or no event file in it.
    """
    name = os.fsdecode(path)
    if not Path(name).exists():
        msg = f"{name} is not there. Accepted: a directory or an event file. Hint: paths are taken from {Path.cwd()}."
        raise ArgumentError(msg)
    found = {
        run: History(
            str(Path(name, run)) if Path(name).is_dir() else name, run, skip_corrupt=skip_corrupt
        )
        for run, _ in run_files(name)
    }
    if not found:
        msg = f"{name} holds no event files, nor does any directory in it. Accepted: a directory of TensorBoard's."
        raise ArgumentError(msg)
    return found


def _names(runs: Mapping[str, object], most: int = 8) -> str:
    names = [repr(name) for name in runs]
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
