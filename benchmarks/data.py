"""What is counted: arrays by format, distribution and size, whole models, and folders to write to.

Every array comes from a fixed seed. A library that does not know a format is given the values as float32.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD = 1_000_000
"""Elements on which a library with a rule of its own is checked: emulating a rule takes many passes."""

NOT_IN_NUMPY = ("bfloat16", "float8_e4m3fn")

SPREAD = {"int8": 20.0, "int32": 1e6, "int64": 1e12}
"""Standard deviation of "normal" integers; that of floats is 0.02, a common initial weight."""


def _normal(rng: np.random.Generator, size: int, dtype: Any, spread: float) -> NDArray[Any]:
    values = rng.standard_normal(size, dtype=dtype)
    values *= spread
    return values


def _constant(rng: np.random.Generator, size: int, dtype: Any, spread: float) -> NDArray[Any]:  # noqa: ARG001
    return np.full(size, spread, dtype=dtype)


def _uniform(rng: np.random.Generator, size: int, dtype: Any, spread: float) -> NDArray[Any]:
    values = rng.random(size, dtype=dtype)
    values *= spread
    return values


def _zeros(rng: np.random.Generator, size: int, dtype: Any, spread: float) -> NDArray[Any]:
    values = _normal(rng, size, dtype, spread)
    values[rng.random(size, dtype=np.float32) < 0.9] = 0
    return values


def _lognormal(rng: np.random.Generator, size: int, dtype: Any, spread: float) -> NDArray[Any]:  # noqa: ARG001
    # 10 decades are three standard deviations, so nearly all values span 20 decades.
    values = _normal(rng, size, dtype, 10 / 3)
    return np.power(10, values, out=values)


def _sorted(rng: np.random.Generator, size: int, dtype: Any, spread: float) -> NDArray[Any]:
    values = _normal(rng, size, dtype, spread)
    values.sort()
    return values


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int, Any, float], NDArray[Any]]] = {
    "normal": _normal,
    "uniform": _uniform,
    "all equal": _constant,
    "90 % zeros": _zeros,
    "lognormal": _lognormal,
    "sorted": _sorted,
}


@functools.lru_cache(maxsize=3)
def make_array(format: str, distribution: str, size: int) -> NDArray[Any]:
    """Draw the values of a case; the last few arrays are kept, since neighbouring cases share them.

    Parameters
    ----------
    format : str
        A numpy or ml_dtypes dtype.
    distribution : str
        A key of `DISTRIBUTIONS`.
    size : int

    Returns
    -------
    format[size]
        Not to be written to. Integers are rounded, and clipped to what the format holds.
    """
    wanted = _dtype(format)
    drawn = np.float32 if wanted.itemsize <= 4 and wanted.kind != "i" else np.float64
    rng = np.random.default_rng(20_240_601)
    values = DISTRIBUTIONS[distribution](rng, size, drawn, SPREAD.get(format, 0.02))
    if wanted.kind == "i":
        limits = np.iinfo(wanted)
        np.clip(np.rint(values, out=values), limits.min, limits.max, out=values)
    return values.astype(wanted, copy=False)


def _dtype(format: str) -> np.dtype[Any]:
    if format not in NOT_IN_NUMPY:
        return np.dtype(format)
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, format))


@dataclass(frozen=True)
class Data:
    """One array of a case, in the forms in which libraries take it.

    Parameters
    ----------
    format, distribution : str
    size : int
        Elements.
    part : int
        Only the first so many of them.
    """

    format: str
    distribution: str
    size: int
    part: int = 0
    stack: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)
    settlers: list[Callable[[], Any]] = field(default_factory=list, compare=False, repr=False)

    @property
    def elements(self) -> int:
        """How many values are counted."""
        return self.array.size

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.array.nbytes

    @property
    def array(self) -> NDArray[Any]:
        """The values, with the dtype of the format (ml_dtypes' for bfloat16 and float8)."""
        whole = make_array(self.format, self.distribution, self.size)
        return whole[: self.part] if self.part else whole

    @property
    def plain(self) -> NDArray[Any]:
        """The same as numpy's own dtypes: float32 where numpy does not have the format."""
        return self.array.astype(np.float32) if self.format in NOT_IN_NUMPY else self.array

    @property
    def tensor(self) -> Any:
        """The same memory as a torch tensor."""
        import torch

        array = self.array
        if self.format not in NOT_IN_NUMPY:
            return torch.from_numpy(array)
        patterns = torch.from_numpy(array.view(f"u{array.itemsize}"))
        return patterns.view(getattr(torch, self.format))

    def head(self) -> Data:
        """Give the first `HEAD` values as data of their own."""
        return replace(self, part=min(HEAD, self.elements))

    def like(self, **changes: Any) -> Data:
        """Give other values, with some fields changed."""
        return replace(self, part=0, **changes)

    def folder(self) -> str:
        """Make a folder that is removed with the case."""
        return self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fasthist-"))

    def closing(self, writer: Any, settle: Callable[[], Any]) -> Any:
        """Close a writer at the end of the case, and have it settle after each round."""
        self.stack.callback(writer.close)
        self.settlers.append(settle)
        return writer

    def settle(self) -> None:
        """Wait for background work, so that it does not slow the next library's round."""
        for settler in self.settlers:
            settler()


@dataclass(frozen=True)
class ModelData(Data):
    """A whole model: parameters by name.

    Parameters
    ----------
    model : str
        A key of `models.MODELS`.
    tiny : bool
        The same tensors with few elements, for tests.
    """

    model: str = ""
    tiny: bool = False

    @property
    def tree(self) -> dict[str, Any]:
        """The parameters, detached, by name."""
        import models

        return models.parameters(self.model, tiny=self.tiny)

    @property
    def elements(self) -> int:
        """How many parameters the model has."""
        return sum(tensor.numel() for tensor in self.tree.values())

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tree.values())


@contextlib.contextmanager
def opened(data: Data) -> Iterator[Data]:
    """Close what the callables of a case have opened, whatever happens."""
    with data.stack:
        yield data
