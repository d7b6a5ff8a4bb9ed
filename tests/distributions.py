"""Distributions that tensors of a training have, and some that are hard to draw, each with a drift over 30 steps."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[Any]
Draw = Callable[[Generator, int, int], Any]

SINGLE = 200_000
"""Values of a distribution that is drawn once."""

DRIFTING = 20_000
"""Values of each step of one that drifts."""

STEPS = 30


@dataclass(frozen=True)
class Distribution:
    """How values are drawn, and the format in which they are written.

    Parameters
    ----------
    format : str
        A name that numpy, ml_dtypes and torch share.
    draw : callable
        ``draw(rng, n, step)`` gives real numbers, about `n`; at step 0 nothing has drifted yet.
    """

    format: str
    draw: Draw

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(getattr(ml_dtypes, self.format, self.format))


def make(name: str, n: int = SINGLE, step: int = 0) -> Array:
    """Draw one step of a distribution: the same values every time."""
    found = DISTRIBUTIONS[name]
    rng = np.random.default_rng([zlib.crc32(name.encode()), n, step])
    return np.asarray(found.draw(rng, n, step)).astype(found.dtype)


def drifting(name: str) -> list[Array]:
    """Draw all steps."""
    return [make(name, DRIFTING, step) for step in range(STEPS)]


def normal(mean: float, std: float, slope: float = 0.0, growth: float = 1.0) -> Draw:
    """Make normals whose mean moves by `slope` and whose spread grows by a factor at every step."""
    return lambda rng, n, step: rng.normal(mean + slope * step, std * growth**step, n)


def constant(value: float, slope: float = 0.0) -> Draw:
    return lambda _, n, step: np.full(n, value + slope * step)


def two_values(low: float, high: float) -> Draw:
    return lambda rng, n, step: np.where(rng.random(n) < 0.3 + 0.01 * step, high, low)


def mixed(first: Draw, second: Draw) -> Draw:
    """Draw each half of the values in a way of its own."""

    def draw(rng: Generator, n: int, step: int) -> Array:
        return np.concatenate((first(rng, n // 2, step), second(rng, n - n // 2, step)))

    return draw


def with_values(draw_rest: Draw, *values: float) -> Draw:
    """Put a few values at the end, in the place of others."""

    def draw(rng: Generator, n: int, step: int) -> Array:
        return np.concatenate((draw_rest(rng, n - len(values), step), values))

    return draw


def kept(draw_all: Draw, share: float, slope: float = 0.0) -> Draw:
    """Make all values exact zeros but a share, which changes by `slope` at every step."""

    def draw(rng: Generator, n: int, step: int) -> Array:
        return np.where(rng.random(n) < share + slope * step, draw_all(rng, n, step), 0.0)

    return draw


def clipped(draw_all: Draw, low: float, high: float) -> Draw:
    return lambda rng, n, step: np.clip(draw_all(rng, n, step), low, high)


def rounded(draw_all: Draw, low: int, high: int) -> Draw:
    return lambda rng, n, step: np.clip(np.rint(draw_all(rng, n, step)), low, high)


def signed(draw_sizes: Draw) -> Draw:
    return lambda rng, n, step: draw_sizes(rng, n, step) * rng.choice((-1.0, 1.0), n)


def quantised(rng: Generator, n: int, step: int) -> Array:
    # float32 throughout, as dequantised weights are
    levels = np.clip(np.rint(rng.normal(0, 25, n)), -127, 127).astype(np.float32)
    return levels * np.float32(0.0123 * 1.01**step)


def image(rng: Generator, n: int, step: int) -> Array:
    """Draw pixels: black margins, some that are overexposed, the rest in between."""
    kind, lit = rng.random(n), rng.beta(2, 3, n) * (200 + step)
    pixels: Array = np.select((kind < 0.2, kind > 0.92), (0, 255), lit)
    return pixels.round()


def sparse_rows(rng: Generator, n: int, step: int) -> Array:
    """Draw the gradient of an embedding: few rows of 50 are used in a step."""
    rows = rng.random(n // 50) < 0.02 + 0.001 * step
    return (rows[:, None] * rng.normal(0, 1e-3, (len(rows), 50))).ravel()


def with_specials(rng: Generator, n: int, step: int) -> Array:
    values = rng.normal(0.01 * step, 1, n)
    for special, share in ((np.nan, 0.01), (np.inf, 0.005), (-np.inf, 0.002)):
        values[rng.random(n) < share] = special
    return values


DISTRIBUTIONS = {
    # -- the usual ones
    "normal": Distribution("float32", normal(0, 0.02, 5e-4, 0.98)),
    "uniform": Distribution("float32", lambda rng, n, t: rng.uniform(-1, 1, n) * (1 + 0.02 * t)),
    "ramp": Distribution("float32", lambda _, n, t: np.linspace(-1, 1 + 0.02 * t, n)),
    "exponential decay": Distribution(
        "float32", lambda _, n, t: np.exp(-np.linspace(0, 15 + 0.1 * t, n))
    ),
    # -- narrow, far from zero
    "layernorm": Distribution("float32", normal(1, 0.01, 0.002, 1.01)),
    "100 +- 0.001": Distribution("float32", normal(100, 1e-3, 2e-4)),
    "1e6 +- 0.01": Distribution("float64", normal(1e6, 0.01, 2e-3)),
    # -- several modes
    "two modes": Distribution("float32", mixed(normal(-1, 0.03), normal(1, 0.03, 0.02))),
    "two far modes": Distribution("float32", mixed(normal(-1, 0.01), normal(1000, 0.01, 1))),
    # -- activations
    "tanh": Distribution(
        "float32", lambda rng, n, t: np.tanh(rng.normal(0, 3 * (1 + 0.05 * t), n))
    ),
    "relu6": Distribution("float32", clipped(normal(2, 3, 0.02), 0, 6)),
    "relu": Distribution("float32", clipped(normal(0, 1, -0.01), 0, np.inf)),
    "dropout": Distribution("float32", kept(normal(0, 1, 0.01), 0.5)),
    "clipped": Distribution("float32", clipped(normal(0, 1, 0.01, 1.01), -1, 1)),
    # -- many zeros
    "90 % zeros": Distribution("float32", kept(normal(0, 1), 0.1, -0.002)),
    "sparse rows": Distribution("float32", sparse_rows),
    # -- heavy tails
    "lognormal gradients": Distribution(
        "float32", signed(lambda rng, n, t: rng.lognormal(-8 - 0.05 * t, 2, n))
    ),
    "negative lognormal": Distribution("float32", lambda rng, n, t: -rng.lognormal(0.01 * t, 1, n)),
    "20 decades": Distribution("float32", lambda rng, n, t: rng.lognormal(-0.1 * t, 5.1, n)),
    "9 decades": Distribution(
        "float64", signed(lambda rng, n, t: 10 ** rng.uniform(-4.5, 4.5 - 0.02 * t, n))
    ),
    "student t3": Distribution("float32", lambda rng, n, t: rng.standard_t(3, n) * 0.02 * 0.98**t),
    "cauchy": Distribution("float32", lambda rng, n, t: rng.standard_cauchy(n) + 0.1 * t),
    "outliers": Distribution("float32", with_values(normal(0, 0.02, 5e-4), 9, -9, 8.5, -8.5, 8)),
    "far outliers": Distribution(
        "float32", with_values(normal(0, 0.02, 5e-4), 9, -90, 900, -9e3, 9e4)
    ),
    "narrow between outliers": Distribution(
        "float32", with_values(normal(100, 1e-3, 2e-4), 0, 1e4)
    ),
    # -- few different values
    "quantised": Distribution("float32", quantised),
    "int8": Distribution("int8", rounded(normal(0, 40, 0.5), -128, 127)),
    "uint8 image": Distribution("uint8", image),
    "bool": Distribution("bool", two_values(0, 1)),
    "int64 ids": Distribution(
        "int64", lambda rng, n, t: np.floor(50257 * rng.random(n) ** (3 + 0.02 * t))
    ),
    "0 and 1": Distribution("float32", two_values(0, 1)),
    "-1 and 1000": Distribution("float32", two_values(-1, 1000)),
    "constant 0": Distribution("float32", constant(0)),
    "constant 3.25": Distribution("float32", constant(3.25, 0.01)),
    "constant -20": Distribution("float32", constant(-20, -0.5)),
    "constant 1e30": Distribution("float64", constant(1e30, 1e28)),
    "constant -100, unmoved": Distribution("float32", constant(-100)),
    "one element": Distribution("float32", lambda _rng, _n, t: [0.37 + 0.01 * t]),
    "two elements": Distribution("float32", lambda _rng, _n, t: [0.1, 0.2 + 0.01 * t]),
    # -- the ends of the formats
    "float32 subnormals": Distribution("float32", normal(0, 1e-40, 1e-42)),
    "float64 subnormals": Distribution("float64", normal(0, 1e-310, 1e-312)),
    "1e300": Distribution(
        "float64", lambda rng, n, t: rng.uniform(-1, 1, n) * 1e300 * (1 + 0.02 * t)
    ),
    "range overflow": Distribution(
        "float64", lambda rng, n, t: rng.uniform(-1, 1, n) * (1.7e308 - 1e306 * t)
    ),
    "NaN and infinities": Distribution("float32", with_specials),
    # -- small formats
    "float16": Distribution("float16", normal(0, 0.02, 5e-4, 0.98)),
    "bfloat16": Distribution("bfloat16", normal(0, 0.02, 5e-4, 0.98)),
    "float8_e4m3fn": Distribution("float8_e4m3fn", normal(0, 1, 0.01)),
    "float8_e5m2": Distribution("float8_e5m2", normal(0, 1, 0.01)),
}
"""All distributions by name; TensorBoard's tags too, so no name starts or ends with a slash."""
