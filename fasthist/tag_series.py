"""`Series`: the histograms of one tag in a run, read when they are asked for, and their numbers as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasthist.errors import ArgumentError
from fasthist.events.finding import Form
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
        """Return what to pickle: without the other tags of the run."""
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
        """Return the histogram of a step.

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
    def uncounted(self) -> Column:
        """Values that none of the other columns counts, float64[n]: see `Histogram.uncounted`."""
        return self._column("uncounted")

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
            known = np.sqrt(_divided(self._column("squared_deviations"), self.num))
        std = np.where(np.isnan(known), std, known)
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
        values = np.array([[h.quantile(q) for q in shares] for h in self], dtype=np.float64)
        return values.reshape(len(self), len(shares))

    def forms(self, places: NDArray[np.int64]) -> list[Form]:
        """Read histograms as they stand in the file, at places in `steps`: see `fasthist.events.restoring.join`."""
        return self._index.forms(self._table[places])

    def plot(
        self, kind: str = "ridge", ax: Any = None, *, dark: bool = False, scale: str = "auto"
    ) -> Any:
        """Draw the histograms over steps.

        Parameters
        ----------
        kind : {"ridge", "heatmap", "percentiles"}
            One outline a step, the newest in front; the density as colour; or percentiles as bands.
        ax : matplotlib.axes.Axes, optional
            Where to draw. Default: pyplot's current axes, which ``plt.show()`` and notebooks show.
        dark : bool
            Draw into a new figure of pyplot's, on dark ground.
        scale : {"auto", "linear", "log"}
            Of the values; "log" is linear around zero. "auto" takes it where a linear axis would hide most of them.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            Another kind or scale.
        EventFileError, OSError
            A file has changed, or cannot be read.
        MissingPackageError
            matplotlib is not installed: the extra fasthist[plot].
        """
        return figures.plot_series(self, kind, ax, dark=dark, scale=scale)

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self._table[name]
        return column


_NOTHING = np.empty(0, dtype=ENTRY)


def _divided(sums: Column, nums: Column) -> Column:
    means: Column = np.full(sums.shape, np.nan)
    return np.divide(sums, nums, out=means, where=nums > 0)
