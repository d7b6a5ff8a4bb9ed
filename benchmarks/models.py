"""Whole models whose parameters are logged: made from torch.nn with a seed, each with its number of tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn


class Block(nn.Module):
    """A transformer layer of 8 tensors: two norms with biases, four matrices without."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend, then transform each position; batch x positions x width in and out."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """An encoder of 12 layers: 12 x 8 tensors and 8 around them make 104."""

    def __init__(
        self, width: int, inner: int, heads: int, words: int, length: int, layers: int = 12
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Embedding(length, width)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(Block(width, inner, heads) for _ in range(layers))
        self.head = nn.Linear(width, words)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Score every word at every position."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm_in(self.words(tokens) + self.positions(places))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm_out(x))


class DeepMlp(nn.Module):
    """52 residual layers with a matrix and a bias each: 104 tensors."""

    def __init__(self, width: int, layers: int = 52) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform rows of `width` numbers."""
        for layer in self.layers:
            x = x + 0.1 * torch.tanh(layer(x))
        return x


def _cnn(tiny: bool) -> nn.Module:
    width = 4 if tiny else 32
    stages: list[nn.Module] = []
    channels = 3
    for out in (width, 2 * width, 4 * width):
        stages += [nn.Conv2d(channels, out, 3), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    stages += [nn.Flatten(), nn.Linear(channels * 16, 4 * width), nn.ReLU()]
    return nn.Sequential(*stages, nn.Linear(4 * width, 10))


def _transformer(tiny: bool) -> nn.Module:
    if tiny:
        return Transformer(16, 32, 2, 50, 8)
    return Transformer(384, 1536, 6, 1600, 512)


def _encoder300(tiny: bool) -> nn.Module:
    width, inner, words = (16, 32, 50) if tiny else (256, 1024, 4000)
    layers = [nn.TransformerEncoderLayer(width, 4, inner) for _ in range(24)]
    around = [
        nn.Embedding(words, width),
        nn.Embedding(64 if tiny else 512, width),
        nn.Embedding(2, width),
        nn.LayerNorm(width),
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.Linear(width, width),
        nn.Linear(width, words, bias=False),
    ]
    return nn.ModuleList([*layers, *around]).to(torch.bfloat16)


def _mlp(tiny: bool) -> nn.Module:
    return DeepMlp(8 if tiny else 128)


MODELS: dict[str, Callable[[bool], nn.Module]] = {
    "cnn": _cnn,
    "transformer": _transformer,
    "encoder300": _encoder300,
    "mlp": _mlp,
}
TENSORS = {"cnn": 16, "transformer": 104, "encoder300": 300, "mlp": 104}
"""How many parameters each has; a test counts them."""


def build(name: str, *, tiny: bool = False) -> nn.Module:
    """Make a model with the initial weights that torch gives it, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name](tiny)


@functools.lru_cache(maxsize=2)
def parameters(name: str, *, tiny: bool = False) -> dict[str, torch.Tensor]:
    """Give the parameters by name, detached."""
    return {key: value.detach() for key, value in build(name, tiny=tiny).named_parameters()}
