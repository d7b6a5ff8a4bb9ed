"""Networks that `illnesses` trains in a second: of scikit-learn's digits, which are float[n, 64]."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Module = Any


class Block(nn.Module):
    """A transformer's block; the sizes are those of a toy."""

    def __init__(self, width: int, act: type[Module], *, residual: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), act(), nn.Linear(4 * width, width))
        self.residual = residual

    def forward(self, x: Any) -> Any:
        """Give float[n, tokens, width]."""
        inner = self.norm1(x)
        attended = self.attention(inner, inner, inner, need_weights=False)[0]
        x = x + attended if self.residual else attended
        inner = self.mlp(self.norm2(x))
        return x + inner if self.residual else inner


class Transformer(nn.Module):
    """The eight rows of a digit are its tokens."""

    def __init__(self, act: type[Module], blocks: int, *, residual: bool = True) -> None:
        super().__init__()
        width = 32
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = nn.ModuleList(Block(width, act, residual=residual) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        """Give the logits float[n, 10] of digits float[n, 64]."""
        x = self.embed(x.view(-1, 8, 8)) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))


def mlp(act: type[Module] = nn.ReLU, *, deep: bool = False) -> Module:
    """Give a multilayer perceptron."""
    layers: list[Module] = []
    for _ in range(9 if deep else 3):
        layers += [nn.Linear(64, 64), act()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def cnn(act: type[Module] = nn.ReLU, *, deep: bool = False, norm: bool = False) -> Module:
    """Give a convolutional network."""
    layers: list[Module] = [nn.Unflatten(1, (1, 8, 8))]
    widths = [1, *[16] * (8 if deep else 3)]
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), *[nn.BatchNorm2d(n_out)] * norm, act()]
        layers += [nn.MaxPool2d(2)] * (i == 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))


def transformer(act: type[Module] = nn.GELU, *, deep: bool = False) -> Module:
    """Give a transformer; a deep one has no residual connections, which is what makes it one."""
    return Transformer(act, 4 if deep else 2, residual=not deep)


MODELS: dict[str, Callable[..., Module]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}
