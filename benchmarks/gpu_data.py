"""What is counted on a GPU: tensors and models that are made there, in the form that `data.py` gives those of the CPU."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from data import Data, ModelData

DISTRIBUTIONS = ("normal", "all equal", "90 % zeros", "all exponents")
"""Of `DeviceData`. The last one draws bit patterns: all finite ones are as likely."""

PART = 1 << 26
"""Elements drawn at once: a whole tensor of float32 would be four times as large as one of 8 bits."""

WIDTH, WORDS, POSITIONS = 1792, 32_768, 2048
BILLION = "billion300"
"""A model of `DeviceModel` that is made here: 300 tensors, 1,000 M parameters."""


@dataclass(frozen=True)
class DeviceData(Data):
    """One tensor of a case. Sizes are in elements.

    Parameters
    ----------
    place : str
        Where torch makes it.
    """

    place: str = "cuda"

    @functools.cached_property
    def tensor(self) -> Any:
        """The values, the same each time on the same kind of device."""
        import torch

        dtype = getattr(torch, self.format)
        if self.distribution == "all equal":
            return torch.full((self.size,), 0.02, device=self.place).to(dtype)
        generator = torch.Generator(self.place).manual_seed(20_240_601)
        whole = torch.empty(self.size, dtype=dtype, device=self.place)
        for begin in range(0, self.size, PART):
            part = whole[begin : begin + PART]
            part.copy_(self._drawn(part.numel(), dtype, generator))
        return whole

    def _drawn(self, length: int, dtype: Any, generator: Any) -> Any:
        import torch

        there = {"device": self.place, "generator": generator}
        if self.distribution == "all exponents":
            bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
            most = torch.iinfo(bits).max
            patterns = torch.randint(-most, most, (length,), dtype=bits, **there)
            # Without the highest bit of the exponent, NaN and infinity become finite.
            finite = patterns ^ (1 << (8 * dtype.itemsize - 2))
            return torch.where(patterns.view(dtype).isfinite(), patterns, finite).view(dtype)
        values = torch.randn(length, **there)
        if dtype == torch.int8:
            return values.mul_(20).round_().clamp_(-128, 127).to(dtype)
        values *= 0.02
        if self.distribution == "90 % zeros":
            values[torch.rand(length, **there) < 0.9] = 0
        return values.to(dtype)

    @property
    def elements(self) -> int:
        """How many values are counted."""
        return self.size

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.tensor.element_size()


@dataclass(frozen=True)
class DeviceModel(ModelData):
    """A whole model: one of `models.MODELS`, or `BILLION`.

    Parameters
    ----------
    place : str
        Where torch makes it.
    """

    place: str = "cuda"

    @functools.cached_property
    def tree(self) -> dict[str, Any]:
        """The parameters by name."""
        import models
        import torch

        if self.model != BILLION:
            found = models.parameters(self.model, tiny=self.tiny)
            return {name: tensor.to(self.place) for name, tensor in found.items()}
        generator = torch.Generator(self.place).manual_seed(20_240_601)
        tree = {}
        for name, shape in shapes(tiny=self.tiny).items():
            values = torch.randn(shape, device=self.place, generator=generator)
            # Matrices as they are initialised; vectors as a normalisation's scale that has begun to learn.
            values = values.mul_(0.02) if len(shape) == 2 else values.mul_(0.01).add_(1)
            tree[name] = values.to(getattr(torch, self.format))
        return tree

    @functools.cached_property
    def tensor(self) -> Any:
        """All of the parameters in one tensor."""
        import torch

        return torch.cat([tensor.flatten() for tensor in self.tree.values()])


def shapes(*, tiny: bool = False) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a language model of 24 layers: 150 matrices, 150 vectors, 1,000 M elements in all."""
    width, words, positions = (8, 32, 16) if tiny else (WIDTH, WORDS, POSITIONS)
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(24):
        square, up, down = (width, width), (4 * width, width), (width, 4 * width)
        of_layer = {"q": square, "k": square, "v": square, "out": square, "up": up, "down": down}
        for name, shape in of_layer.items():
            found[f"layers.{layer}.{name}.weight"] = shape
            found[f"layers.{layer}.{name}.scale"] = (shape[0],)
    for name, rows in (("words", words), ("positions", positions)):
        found[f"{name}.weight"] = (rows, width)
        found[f"{name}.scale"] = (width,)
    for i in range(4):
        found[f"heads.{i}.weight"] = (width, width)
        found[f"heads.{i}.scale"] = (width,)
    return found
