"""Choose the small pictures of runs: one for each tag and run, or one of all runs for each tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fasthist.errors import ArgumentError, compiled, listed
from fasthist.hist import Histogram
from fasthist.plots.axis import check_scale
from fasthist.plots.pictures import SeriesLike

KINDS = ("ridge", "overlay", "heatmap", "percentiles")
MAX_PANELS = 24

Runs = Mapping[str, Mapping[str, Any]]
"""For each run a `fasthist.history.History`, or another mapping of tags to series."""


@dataclass(frozen=True)
class Panel:
    """One small picture; its content is a dict, by run, for an overlay."""

    title: str  # the tag
    note: str  # the run, if there are several; the step of an overlay
    content: SeriesLike | dict[str, Histogram]


@dataclass(frozen=True)
class Layout:
    """The small pictures, left to right and row by row."""

    kind: str
    panels: list[Panel]
    columns: int
    runs: list[str]  # names in an overlay, in the order of their colours
    left_out: int  # number of pictures beyond the most
    scale: str

    @property
    def heading(self) -> str:
        """The text above all pictures: the only run; "" if each picture or a legend names its run."""
        return self.runs[0] if len(self.runs) == 1 else ""


def lay_out(
    runs: Runs,
    kind: str,
    tag: str | None = None,
    step: int | None = None,
    *,
    scale: str = "auto",
    max_panels: int = MAX_PANELS,
) -> Layout:
    """Choose the pictures; arguments and errors as in `History.plot`, for several runs."""
    check_kind(kind, KINDS)
    check_scale(scale)
    if max_panels < 1:
        msg = f"max_panels={max_panels} leaves nothing to draw. Accepted: 1 or more."
        raise ArgumentError(msg)
    if step is not None and kind != "overlay":
        msg = f"step={step} has no meaning for kind {kind!r}, which shows all steps. Accepted: kind 'overlay'."
        raise ArgumentError(msg)
    tags = _tags(runs, tag)
    several = len(runs) > 1
    if kind == "overlay":
        panels = [panel for name in tags if (panel := _overlay(runs, name, step)) is not None]
        if not panels:
            raise _no_step(runs, tags, step)
    else:
        panels = [
            Panel(name, run if several else "", history[name])
            for name in tags
            for run, history in runs.items()
            if name in history
        ]
    columns = _columns(min(len(panels), max_panels))
    in_rows = kind != "overlay" and len(panels) == len(tags) * len(runs)
    if several and len(runs) <= 4 and in_rows:
        columns = len(runs) * min(len(tags), 4 // len(runs))  # all runs of a tag in one row
    left_out = max(0, len(panels) - max_panels)
    return Layout(kind, panels[:max_panels], columns, list(runs), left_out, scale)


def check_kind(kind: str, accepted: tuple[str, ...]) -> None:
    """Raise ArgumentError for an unknown kind."""
    if kind not in accepted:
        msg = f"kind={kind!r} is unknown. Accepted: {', '.join(accepted)}."
        raise ArgumentError(msg)


def shortened(text: str, most: int) -> str:
    """Cut the middle out of a text that is too long for a title."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _tags(runs: Runs, tag: str | None) -> list[str]:
    every = list(dict.fromkeys(name for history in runs.values() for name in history))
    if not every:
        names = ", ".join(runs) or "nothing"
        msg = f"there are no histograms in {names}. Accepted: runs with histograms. Hint: scalars are not drawn."
        raise ArgumentError(msg)
    pattern = compiled(tag or "", f"tag {tag!r}")
    tags = [name for name in every if pattern.search(name)]
    if not tags:
        msg = f"no tag contains {tag!r}. Accepted: a regular expression that finds one of {listed(every, 5)}."
        raise ArgumentError(msg)
    return tags


def _columns(count: int) -> int:
    return 2 if count == 4 else min(3, count)


def _overlay(runs: Runs, tag: str, step: int | None) -> Panel | None:
    histograms: dict[str, Histogram] = {}
    steps = set()
    for run, history in runs.items():
        series = history.get(tag)
        if series is None or not len(series):
            continue
        (places,) = np.nonzero(series.steps == (series.steps[-1] if step is None else step))
        if places.size:
            steps.add(int(series.steps[places[0]]))
            histograms[run] = series[int(places[0])]
    if not histograms:
        return None
    note = f"step {steps.pop()}" if len(steps) == 1 else "last steps"
    return Panel(tag, note, histograms)


def _no_step(runs: Runs, tags: list[str], step: int | None) -> ArgumentError:
    steps = np.concatenate(
        [history[name].steps for history in runs.values() for name in tags if name in history]
    )
    nearest = steps[np.abs(steps - (step or 0)).argmin()]
    return ArgumentError(
        f"no histogram has step {step}. Accepted: {steps.min()} to {steps.max()}. Hint: the nearest is {nearest}."
    )
