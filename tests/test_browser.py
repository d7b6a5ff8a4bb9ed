"""What a person sees: the demo's runs in the real TensorBoard, in a real browser."""

from __future__ import annotations

import browser
import numpy as np
import pytest
from click.testing import CliRunner
from tensorboard_server import serve
from test_demo import EPOCHS, HISTOGRAMS

from fasthist import SummaryWriter, demo
from fasthist.cli import main

CARDS = {(tag, run) for tag in HISTOGRAMS for run in demo.RUN2SCALE}
STEPS = EPOCHS + 1


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "runs"
    result = CliRunner().invoke(main, ["demo", "--log-dir", str(folder)])
    assert result.exit_code == 0, result.output
    with serve(folder, load_fast=True) as server:
        server.tags(until=lambda found: sum(map(len, found.values())) == len(CARDS))
        yield server.url


@pytest.fixture(scope="module")
def page(request):
    if reason := browser.missing():
        required = request.config.getoption("--require").split(",")
        (pytest.fail if "selenium" in required else pytest.skip)(reason)
    with browser.chromium() as opened:
        yield opened


def check(page, tab, tmp_path, name, paths):
    """Have every card drawn, with so many paths at least, and nothing complained of."""
    found = page.cards(tab, len(CARDS), paths)
    page.photograph(tmp_path / f"{name}.png")
    assert set(found) == CARDS
    assert {card: len(drawn) for card, drawn in found.items() if len(drawn) < paths} == {}
    assert [card for card, drawn in found.items() if any("NaN" in path for path in drawn)] == []
    assert page.errors() == []
    assert (tmp_path / f"{name}.png").stat().st_size > 50_000
    return found


def test_histograms(page, served, tmp_path):
    page.open(served, "histograms")
    offset = check(page, "histograms", tmp_path, "offset", STEPS)
    page.press("paper-button", "overlay")
    overlay = check(page, "histograms", tmp_path, "overlay", STEPS)
    assert offset != overlay


def test_distributions(page, served, tmp_path):
    page.open(served, "distributions")
    # Nine lines, and the bands between them.
    check(page, "distributions", tmp_path, "distributions", 9)


def test_time_series(page, served, tmp_path):
    page.open(served, "timeseries", height=14_000)
    offset = check(page, "timeseries", tmp_path, "timeseries", STEPS)
    page.press(".mat-mdc-select-trigger", "offset")
    page.press("mat-option", "overlay")
    overlay = check(page, "timeseries", tmp_path, "timeseries_overlay", STEPS)
    assert offset != overlay


def test_a_step_that_is_not_drawn_is_missed(page, tmp_path):
    for run, steps in (("whole", 3), ("short", 1)):
        with SummaryWriter(tmp_path / run) as writer:
            for step in range(steps):
                writer.add_histogram("w", np.arange(9.0) + step, step)
    with serve(tmp_path, load_fast=True) as server:
        server.tags(until=lambda found: len(found) == 2)
        page.open(server.url, "histograms")
        found = page.cards("histograms", 2, 4)
    assert len(found["w", "whole"]) == len(found["w", "short"]) + 2
    assert page.errors() == []
