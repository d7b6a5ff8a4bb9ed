"""Colours for a light and a dark background, distinct for most colour-blind people too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours for one background."""

    ground: str
    ink: str
    faint: str  # text beside the picture
    grid: str  # lines under the picture
    runs: tuple[str, ...]  # one for each run: Okabe and Ito's, without what the ground hides
    atom: str
    band: str
    steps: str  # names of matplotlib's and plotly's colour maps: what is early or rare is near the ground
    heat: str
    step_ends: tuple[float, float]  # the parts of the maps that are far enough from the ground
    heat_ends: tuple[float, float]


LIGHT = Theme(
    ground="#ffffff", ink="#333333", faint="#767676", grid="#e8e8e8",
    runs=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"),
    atom="#d55e00", band="#0072b2", steps="viridis_r", heat="magma_r", step_ends=(0.1, 0.95), heat_ends=(0.03, 0.9),
)  # fmt: skip
DARK = Theme(
    ground="#14171c", ink="#dddddd", faint="#9a9a9a", grid="#2b2f36",
    runs=("#56b4e9", "#e69f00", "#2fc39a", "#cc79a7", "#f0e442", "#d55e00", "#dddddd"),
    atom="#ff8c42", band="#56b4e9", steps="viridis", heat="magma", step_ends=(0.15, 0.97), heat_ends=(0.15, 1.0),
)  # fmt: skip


def theme(dark: bool) -> Theme:
    """Return the colours for a dark or a light background."""
    return DARK if dark else LIGHT
