"""Draw a run: time against size, and how many times as long other libraries take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cases import CASES
from matplotlib.figure import Figure
from results import OURS, NotMeasured, Run, ratio_text

# Okabe and Ito's colours, which most colour-blind people can tell apart.
COLOURS = {
    OURS: "#D55E00",
    "torch": "#0072B2",
    "tensorboardX": "#56B4E9",
    "boost-histogram": "#009E73",
    "numpy": "#CC79A7",
    "fast-histogram": "#E69F00",
    "tf.summary": "#555555",
}
INK, FAINT = "#333333", "#999999"

PANELS = {
    "tensorflow": (
        "TensorFlow's buckets",
        {
            "fasthist": "fasthist",
            "torch make_histogram": "torch",
            "boost-histogram, 2 threads": "boost-histogram",
            "torch.sum": "torch.sum,\nonly reading",
        },
    ),
    "uniform": (
        "64 uniform buckets",
        {
            "fasthist": "fasthist",
            "numpy.histogram": "numpy.histogram",
            "torch.histc": "torch.histc",
            "boost-histogram, 2 threads": "boost-histogram",
            "fast-histogram": "fast-histogram",
            "torch.sum": "torch.sum,\nonly reading",
        },
    ),
}

BARS = (
    ("1e8 float32 normals,\nTensorFlow's buckets", "tensorflow/float32/normal/1e8",
     ("torch make_histogram", "torch make_histogram, unconverted")),
    ("1e8 float32 normals,\n64 uniform buckets", "uniform/float32/normal/1e8",
     ("numpy.histogram", "torch.histc", "fast-histogram", "boost-histogram, 2 threads")),
    ("add_histogram,\n64 elements", "add_histogram/float32/normal/64", ("torch", "tensorboardX", "tf.summary")),
    ("104-tensor model,\nuntil it returns", "add_histograms, returns/float32/transformer", ("torch", "tensorboardX")),
    ("104-tensor model,\nuntil on disk", "add_histograms, on disk/float32/transformer", ("torch", "tensorboardX")),
)  # fmt: skip


def colour(library: str) -> str:
    """Give a library its colour; yardsticks are grey."""
    if library == "torch.sum":
        return FAINT
    return next(shade for name, shade in COLOURS.items() if library.startswith(name))


def spread_apart(places: list[float], gap: float) -> list[float]:
    """Move labels that would overlap: keep their order, at least `gap` apart, each near its place."""
    order = np.argsort(places)
    moved = np.array(places, dtype=float)[order]
    for _ in range(200):
        for i in range(len(moved) - 1):
            short = gap - (moved[i + 1] - moved[i])
            if short > 1e-9:
                moved[i] -= short / 2
                moved[i + 1] += short / 2
    result = np.empty_like(moved)
    result[order] = moved
    return result.tolist()


def _lines(run: Run, call: str, library: str) -> tuple[list[int], list[float]]:
    sizes, seconds = [], []
    for case in CASES.values():
        if (case.call, case.format, case.distribution) == (call, "float32", "normal"):
            try:
                seconds.append(run.median(case.name, library))
            except NotMeasured:
                continue
            sizes.append(case.size)
    return sizes, seconds


def _draw_growth(axes: Any, run: Run, call: str) -> None:
    title, libraries = PANELS[call]
    drawn: list[tuple[str, str, int, float]] = []
    for library, label in libraries.items():
        sizes, seconds = _lines(run, call, library)
        if not sizes:
            continue
        ours, yardstick = library == OURS, library == "torch.sum"
        axes.plot(
            sizes, seconds, color=colour(library), linewidth=2.8 if ours else 1.5,
            linestyle="--" if yardstick else "-", marker="" if yardstick else "o", markersize=4,
            zorder=3 if ours else 2,
        )  # fmt: skip
        drawn.append((library, label, sizes[-1], seconds[-1]))
    axes.set(xscale="log", yscale="log", xlim=(40, 2e8), ylim=(1e-6, 10))
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xticks([10.0**k for k in range(2, 9)])
    axes.set_yticks([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10])
    axes.set_yticklabels(["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"])
    axes.set_xlabel("elements (float32)")
    axes.minorticks_off()
    axes.grid(color="#E8E8E8", linewidth=0.7)
    # Each line's label is at its right end, or beyond it where lines end together.
    heights = spread_apart([float(np.log10(seconds)) for *_, seconds in drawn], 0.36)
    for (library, label, size, seconds), height in zip(drawn, heights, strict=True):
        axes.annotate(
            label, (size, seconds), xytext=(3.4e8, 10**height), textcoords="data", va="center",
            fontsize=10, color=colour(library) if library != "torch.sum" else "#666666",
            fontweight="bold" if library == OURS else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#CCCCCC", "linewidth": 0.7, "shrinkB": 4},
        )  # fmt: skip


def _draw_ratios(axes: Any, run: Run) -> None:
    y, ticks = 0.0, []
    shortest = longest = 1.0
    for label, name, libraries in BARS:
        top = y
        for library in libraries:
            try:
                ratio = run.ratio(name, library)
            except NotMeasured as error:
                text = f"{library}: {str(error).partition(':')[0]}"
                axes.text(1.06, y, text, va="center", fontsize=9.5, color=FAINT)
            else:
                axes.barh(y, ratio - 1, left=1, height=0.8, color=colour(library))
                shown = library.replace(", unconverted", ", not converted to float64")
                axes.text(
                    max(ratio, 1) * 1.06, y, f"{ratio_text(ratio)}  {shown}", va="center",
                    fontsize=9.5, color=INK,
                )  # fmt: skip
                shortest, longest = min(shortest, ratio), max(longest, ratio)
            y += 1
        ticks.append(((top + y - 1) / 2, label))
        y += 0.8
    axes.set(xscale="log", xlim=(min(shortest, 1) * 0.93, longest * 8), ylim=(y - 1.2, -0.8))
    axes.axvline(1, color=COLOURS[OURS], linewidth=2)
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([1, 10, 100], ["as long as\nfasthist", "10x", "100x"])
    axes.minorticks_off()
    axes.set_title("Times as long as fasthist", loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.spines["left"].set_visible(False)


def draw(run: Run, path: Path) -> None:
    """Draw a run.

    Parameters
    ----------
    run : Run
    path : Path
        The PNG to write; its folder is made.
    """
    style = {
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "font.size": 10,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(12, 10.5), facecolor="white")
        above = figure.add_gridspec(
            1, 2, left=0.075, right=0.87, top=0.955, bottom=0.595, wspace=0.6
        )
        for column, call in enumerate(PANELS):
            _draw_growth(figure.add_subplot(above[0, column]), run, call)
        below = figure.add_gridspec(1, 1, left=0.165, right=0.87, top=0.49, bottom=0.085)
        _draw_ratios(figure.add_subplot(below[0, 0]), run)
        about = run.content
        figure.text(
            0.015, 0.015,
            f"{about['cpu']}, {about['cores']} cores; medians of one run, {about['date'][:10]}, commit {about['commit']}",
            fontsize=9, color="#666666",
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Software": None})
