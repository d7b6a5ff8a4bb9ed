"""The table of ``fasthist show``: a `Line` for each tag of a run, and the columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fasthist.commands.runs import matching
from fasthist.commands.terminal import Column, number, sparkline
from fasthist.errors import ArgumentError, printable
from fasthist.estimates import spread, zero_share
from fasthist.hist import Histogram
from fasthist.history import History
from fasthist.tag_series import Series

_CELLS = 12
"""Characters of a sparkline."""


@dataclass(frozen=True)
class Line:
    """The numbers shown for a tag; NaN if unknown."""

    tag: str
    steps: int
    step: int
    num: float
    mean: float
    std: float
    min: float
    max: float
    p1: float
    p50: float
    p99: float
    zeros: float
    nan: float
    uncounted: int
    distribution: str
    over_time: str
    is_estimate: bool


def _moment(name: str) -> Callable[[Line], str]:
    return lambda line: "~" * line.is_estimate + number(getattr(line, name))


def _value(name: str) -> Callable[[Line], str]:
    return lambda line: number(getattr(line, name))


COLUMNS = {
    "tag": Column("tag", lambda line: printable(line.tag), 99, is_text=True),
    "steps": Column("steps", lambda line: f"{line.steps:,}", 6),
    "step": Column("at step", lambda line: str(line.step), 2),
    "num": Column("num", lambda line: f"{line.num:,.0f}", 5),
    "mean": Column("mean", _moment("mean"), 10),
    "std": Column("std", _moment("std"), 12),
    "min": Column("min", _value("min"), 8),
    "max": Column("max", _value("max"), 9),
    "p1": Column("1 %", _value("p1"), 3),
    "p50": Column("50 %", _value("p50"), 1),
    "p99": Column("99 %", _value("p99"), 4),
    "zeros": Column("zeros", lambda line: _share(line.zeros), 7),
    "nan": Column("NaN", lambda line: "~" * (line.uncounted > 0) + number(line.nan), 7),
    "distribution": Column("1 % to 99 %", lambda line: line.distribution, 13, is_text=True),
    "over_time": Column("std over time", lambda line: line.over_time, 11, is_text=True),
}


def lines_of(
    history: History, pattern: str | None, step: int | None, sort: str | None
) -> list[Line]:
    """Compute the lines: the given or last step of each matching tag; `sort` names a field, largest first."""
    tags = matching(list(history), pattern)
    check_step(history, tags, step)
    lines = []
    for tag in tags:
        series = history[tag]
        place = len(series) - 1 if step is None else int(series.steps.searchsorted(step))
        if step is None or (place < len(series) and series.steps[place] == step):
            lines.append(_line(series, place))
    if sort == "tag":
        lines.sort(key=lambda line: line.tag)
    elif sort is not None:
        lines.sort(key=lambda line: _descending(getattr(line, sort)))
    return lines


def _descending(value: float) -> tuple[bool, float]:
    return math.isnan(value), -value


def check_step(history: History, tags: list[str], step: int | None) -> None:
    """Raise ArgumentError if no tag has this step."""
    if step is None:
        return
    steps = np.unique(np.concatenate([history[tag].steps for tag in tags]))
    if step not in steps:
        nearest = steps[np.abs(steps - step).argmin()]
        msg = (
            f"--step={step} was not written. Accepted: one of {steps.size} steps, {steps[0]} to {steps[-1]}. "
            f"The nearest is {nearest}."
        )
        raise ArgumentError(msg)


def _line(series: Series, place: int) -> Line:
    histogram = series[place]
    uncounted = histogram.uncounted or 0
    mean, std, is_told = spread(histogram)
    p1, p50, p99 = (_told(histogram.quantile(q)) for q in (0.01, 0.5, 0.99))
    return Line(
        tag=series.tag, steps=len(series), step=int(series.steps[place]), num=histogram.num, mean=mean, std=std,
        min=_told(histogram.min), max=_told(histogram.max), p1=p1, p50=p50, p99=p99,
        zeros=zero_share(histogram, float(series.zero_count[place])),
        nan=(histogram.nan_count or 0) + uncounted if uncounted else _told(histogram.nan_count),
        uncounted=uncounted, distribution=_distribution(histogram, p1, p99),
        over_time=sparkline(_stds(series)), is_estimate=not is_told,
    )  # fmt: skip


def _told(value: float | None) -> float:
    return math.nan if value is None else value


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


def _distribution(histogram: Histogram, low: float, high: float) -> str:
    """Draw the shares of equal cells between two quantiles; the outer cells include the tails."""
    if not histogram.num:
        return ""
    cuts = low + (high - low) * np.arange(1, _CELLS) / _CELLS
    reached = [_told(histogram.cdf(cut)) for cut in cuts.tolist()]
    return sparkline(np.diff(reached, prepend=0.0, append=1.0).tolist())


def _stds(series: Series) -> list[float]:
    """Return the standard deviation at up to 12 steps, estimated from the rows if the file does not tell it."""
    places = np.unique(np.linspace(0, len(series) - 1, _CELLS).astype(np.int64))
    stds: list[float] = series.std[places].tolist()
    untold = places[np.isnan(stds)]
    estimates = iter([spread(histogram)[1] for histogram in series[untold]] if untold.size else [])
    return [next(estimates) if math.isnan(std) else std for std in stds]
