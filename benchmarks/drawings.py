"""Draw some of the labelled runs of `illnesses` for the README, on light and dark ground: ``python benchmarks/drawings.py``.

Needs torch, and the extra ``fasthist[plot]``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from illnesses import train
from planted import ILLNESSES, OPTIMIZERS, Plan
from small_networks import mlp
from torch import nn

from fasthist import History
from fasthist.plots.figures import draw, save
from fasthist.plots.panels import lay_out
from fasthist.plots.theme import theme

FOLDER = Path(__file__).resolve().parents[1] / "bench_results" / "pictures"

PLANS = {
    "ReLU": lambda: Plan(mlp(nn.ReLU, deep=True), OPTIMIZERS["adam"]),
    "sigmoid": lambda: ILLNESSES["vanishing_sigmoid"](mlp, 0),
    "strong decay": lambda: ILLNESSES["strong_decay"](mlp, 0),
    "exploding": lambda: ILLNESSES["exploding_lr"](mlp, 0),
    "saturated": lambda: ILLNESSES["saturated_tanh"](mlp, 0),
}

PICTURES = {
    "overlay": (("ReLU", "sigmoid"), r"gradients/(0|8|18)\.weight"),
    "ridge": (("ReLU",), r"activations/1$|weights/(0|18)\.weight"),
    "heatmap": (("strong decay",), r"weights/(0|2|4)\.weight"),
    "percentiles": (("saturated",), r"activations/(1|3|5)$"),
}
"""For each kind of picture: of which runs, and of which tags."""


def main() -> None:
    """Train and draw."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, make in PLANS.items():
            torch.manual_seed(0)
            train(make(), Path(folder, name), seed=0)
        histories = {name: History.open(Path(folder, name)) for name in PLANS}
        for kind, (names, tag) in PICTURES.items():
            runs = {name: histories[name] for name in names}
            for suffix in ("", "_dark"):
                figure = draw(lay_out(runs, kind, tag), theme(dark=bool(suffix)))
                save(figure, str(FOLDER / f"plot_{kind}{suffix}.png"), "png")


if __name__ == "__main__":
    main()
