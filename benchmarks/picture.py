"""Make the README's pictures: the demo's runs in the real TensorBoard, photographed by headless Chromium.

Needs the extras ``fasthist[demo,browser]`` and Debian's packages chromium and chromium-driver. Run:
``python benchmarks/picture.py``.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

# The browser and the server are the tests' own; from anywhere but pytest they are not to be found.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from browser import chromium
from tensorboard_server import serve

FOLDER = Path(__file__).resolve().parents[1] / "bench_results" / "pictures"
TABS = {"demo.png": "histograms", "demo_distributions.png": "distributions"}
TAGS = "gradients%2F.*weight"
CARDS = 8
STEPS = 31
HEIGHT = 1090


def main() -> None:
    """Train, serve, photograph."""
    # From a folder of its own, so that the page shows a short path.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        command = [sys.executable, "-m", "fasthist", "demo", "--log-dir", "runs/demo"]
        subprocess.run(command, check=True)
        with serve("runs/demo", load_fast=True) as server, chromium() as page:
            server.tags(until=lambda found: len(found) == 2)
            for name, tab in TABS.items():
                page.open(server.url, tab, TAGS, HEIGHT)
                page.cards(tab, CARDS, STEPS if tab == "histograms" else 9)
                page.photograph(FOLDER / name)


if __name__ == "__main__":
    main()
