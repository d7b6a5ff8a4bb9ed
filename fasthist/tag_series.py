"""`Series`: the histograms of one tag in a run, read on demand, and their numbers as columns."""

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


class _Column:
    """A column of a series' table: a property with its name in the table and its docstring."""

    def __init__(self, name: str, doc: str) -> None:
        self._name = name
        self.__doc__ = doc

    def __get__(self, series: Series | None, owner: type[Series]) -> Any:
        return self if series is None else series._table[self._name]


_BATCH = 64
"""Histograms restored together: numpy takes a third of the time for 64 together that it takes one by one."""


class Series(Sequence[Histogram]):
    """The histograms of one tag, by step.

    Each is read from the file when it is asked for, and not kept. The columns (`steps`, `num`, `mean` and so on) are
    there without reading anything, NaN where the file does not tell. `History.refresh` adds what is new. A step that was
    written several times appears once, as it was written last.

    Attributes
    ----------
    tag : str
    """

    def __init__(self, index: RunIndex, tag: str) -> None:
        self.tag = tag
        self._index = index

    def __getstate__(self) -> dict[str, Any]:
        # Without the other tags of the run.
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
            It is missing; the text names the nearest step.
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

    steps = _Column("step", "int64[n], increasing.")
    wall_times = _Column("wall_time", "Seconds since 1970, UTC, float64[n].")
    num = _Column("num", "Number of finite values, float64[n].")
    min = _Column("min", "Smallest finite value, float64[n].")
    max = _Column("max", "Largest finite value, float64[n].")
    sum = _Column("sum", "Sum of the finite values, float64[n].")
    sum_squares = _Column("sum_squares", "Sum of their squares, float64[n].")
    zero_count = _Column(
        "zero_count",
        "Values equal to zero, float64[n], from the float32 scalar ``<tag>/zero_fraction`` that ``stats=`` writes: "
        "within ``2**-24`` of the true share. The histograms themselves do not hold it.",
    )
    nan_count = _Column("nan_count", "NaN, float64[n].")
    posinf_count = _Column("posinf_count", "Values of +infinity, float64[n].")
    neginf_count = _Column("neginf_count", "Values of -infinity, float64[n].")
    uncounted = _Column("uncounted", "Values counted in no other column, float64[n].")
    _squared_deviations = _Column("squared_deviations", "As in `Histogram`, float64[n].")

    @property
    def mean(self) -> Column:
        """Mean of the finite values, float64[n]."""
        return _divided(self.sum, self.num)

    @property
    def std(self) -> Column:
        """Population standard deviation, float64[n]: formula and error are those of `Histogram.std`."""
        with np.errstate(invalid="ignore", over="ignore"):
            square = _divided(self.sum_squares, self.num)
            std = np.sqrt(np.maximum(0.0, square - self.mean**2))
            std[np.isposinf(square)] = np.inf
            known = np.sqrt(_divided(self._squared_deviations, self.num))
        std = np.where(np.isnan(known), std, known)
        std[self.min == self.max] = 0.0
        return std

    @property
    def l2_norm(self) -> Column:
        """Square root of `sum_squares`, float64[n]."""
        norm: Column = np.sqrt(self.sum_squares)
        return norm

    def quantiles(self, qs: ArrayLike) -> Column:
        """Return the values below which given shares of the finite values lie, at every step.

        Parameters
        ----------
        qs : float64[k]
            0 to 1.

        Returns
        -------
        float64[n, k]
            As `Histogram.quantile` returns them; NaN where there is no finite value. Reads every histogram.

        Raises
        ------
        ArgumentError
            One of `qs` is not between 0 and 1.
        EventFileError, OSError
            A file has changed, or cannot be read.
        """
        shares = np.asarray(qs, dtype=np.float64).ravel().tolist()
        values = np.array([[h.quantile(q) for q in shares] for h in self], dtype=np.float64)
        return values.reshape(len(self), len(shares))

    def forms(self, places: NDArray[np.int64]) -> list[Form]:
        """Read histograms as the file stores them, at places in `steps`: see `fasthist.events.restoring.join`."""
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
            Draw into a new pyplot figure with a dark background.
        scale : {"auto", "linear", "log"}
            Scale of the values; "log" is linear around zero. "auto" picks it where a linear axis would hide most of them.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            The kind or scale is unknown.
        EventFileError, OSError
            A file has changed, or cannot be read.
        MissingPackageError
            matplotlib is not installed: the extra fasthist[plot].
        """
        return figures.plot_series(self, kind, ax, dark=dark, scale=scale)


_NOTHING = np.empty(0, dtype=ENTRY)


def _divided(sums: Column, nums: Column) -> Column:
    means: Column = np.full(sums.shape, np.nan)
    return np.divide(sums, nums, out=means, where=nums > 0)
