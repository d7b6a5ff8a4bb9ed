"""`Readings`: what the rules of `fasthist.rules` look at: the role of each tag, and its numbers at each step."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import ArgumentError, compiled
from fasthist.estimates import spread, zero_share
from fasthist.hist import Histogram
from fasthist.tag_series import Series

KINDS = ("weight", "gradient", "update", "activation")
"""Kinds of tags. An update is what a step added to a weight."""

SAMPLES = 48
"""Histograms of a tag that are read, evenly spread over the run; the columns exist for every step."""

QUANTILES = np.linspace(0.05, 0.95, 19)

NEAR = np.array([1e-2, 1e-3])
"""How near to its ends an output of tanh or sigmoid counts as flat: nearly, and quite."""

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]
Mask = NDArray[np.bool_]

_WORDS = {
    "gradient": "d?grads?|gradients?",
    "update": "updates?|deltas?",
    "activation": "activations?|acts?",
    "weight": "weights?|params?|parameters?",
}
# A tag's first part decides, else a part anywhere. Weights are told by the last part, see _PARAMETER.
_FIRST = {kind: re.compile(rf"({words})/", re.IGNORECASE) for kind, words in _WORDS.items()}
_ANYWHERE = {
    kind: re.compile(rf"(?:^|[/._])({words})(?=$|[/._])", re.IGNORECASE)
    for kind, words in _WORDS.items()
    if kind != "weight"
}
_PARAMETER = re.compile(
    r"(?:.*_)?(weights?|kernel|bias|b|w|gamma|beta|scale|embeddings?)(_(ih|hh|orig|g|v|l?\d).*|\d*)",
    re.IGNORECASE,
)
_FUNCTION = re.compile(r"(?i)(relu|tanh|sigmoid|gelu|silu|swish|elu|softmax|outputs?)[\d_]*")
_BIAS = re.compile(r"(^|_)(bias|beta|b)($|_)", re.IGNORECASE)
_EMBEDDING = re.compile(r"emb|wte|wpe|lookup|(^|[/._])(tok|pos|cls|vocab)", re.IGNORECASE)
_KERAS = re.compile(r"/histogram(_\d+)?$")

# Half a step wider than float16's smallest number, as the edges of a row that holds just this one are.
_TINY = 2.0**-24 * 1.001 * np.array([-1.0, 1.0])


@dataclass(frozen=True)
class Role:
    """What a tag is: its kind, one of `KINDS` or "" if unknown, and the name and layer that it belongs to."""

    kind: str
    name: str  # of the parameter or module: the same for a weight, its gradient and its update
    layer: str  # the module of a parameter, or of an activation

    @functools.cached_property
    def is_bias(self) -> bool:
        """Whether it belongs to a bias."""
        return bool(_BIAS.search(re.split("[/.]", self.name)[-1]))

    @functools.cached_property
    def is_embedding(self) -> bool:
        """Whether it belongs to a table: a step sees only some of its rows."""
        return bool(_EMBEDDING.search(self.name))


def role(tag: str, kinds: Mapping[str, str] | None = None) -> Role:
    """Return a tag's role from its name; `kinds` maps regular expressions to kinds, and the first match counts.

    >>> role("gradients/fc1.weight")
    Role(kind='gradient', name='fc1.weight', layer='fc1')
    >>> role("fc1.weight.grad")
    Role(kind='gradient', name='fc1.weight', layer='fc1')
    >>> role("dense/kernel/histogram")
    Role(kind='weight', name='dense/kernel', layer='dense')
    """
    told = next((kind for pattern, kind in _checked(kinds) if pattern.search(tag)), "")
    kind, name = _from_name(_KERAS.sub("", tag))
    kind = told or kind
    head, _, last = _last_part(name)
    is_parameter = kind != "activation" and _PARAMETER.fullmatch(last)
    return Role(kind, name, (head if is_parameter else name) or name)


def _checked(kinds: Mapping[str, str] | None) -> list[tuple[re.Pattern[str], str]]:
    expressions = []
    for pattern, kind in (kinds or {}).items():
        if kind not in KINDS:
            msg = f"kind {kind!r} of {pattern!r} is not known. Accepted: {', '.join(KINDS)}."
            raise ArgumentError(msg)
        expressions.append((compiled(pattern, repr(pattern)), kind))
    return expressions


def _from_name(tag: str) -> tuple[str, str]:
    """Return the kind, and the tag without it."""
    for kind, pattern in _FIRST.items():
        if (match := pattern.match(tag)) is not None:
            return kind, tag[match.end() :]
    for kind, pattern in _ANYWHERE.items():
        if (match := pattern.search(tag)) is not None:
            return kind, (tag[: match.start()] + tag[match.end() :]).strip("/._") or tag
    last = _last_part(tag)[2]
    if _PARAMETER.fullmatch(last):
        return "weight", tag
    return ("activation" if _FUNCTION.fullmatch(last) else ""), tag


def _last_part(name: str) -> tuple[str, str, str]:
    place = max(name.rfind("/"), name.rfind("."))
    return name[: max(place, 0)], name[place : place + 1], name[place + 1 :]


@dataclass
class Reading:
    """The numbers of one tag: float64[n] at the `steps` (int64[n]) where every value is finite.

    `bad_steps` are the others; `bad_counts` and `inf_counts` are their numbers of values that are not finite, and that
    are infinite; for another library's file, those that it does not count. `fan_in`, the inputs of each unit of a weight
    matrix, is derived from the bias beside it.
    """

    series: Series
    role: Role
    fan_in: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        series = self.series
        self.tag = series.tag
        nan, infinite = series.nan_count, series.posinf_count + series.neginf_count
        # 0 where finite extremes rule them out; otherwise they may be what is not counted.
        missing = np.where(np.isnan(nan + infinite), np.nan_to_num(series.uncounted), 0.0)
        bad = np.maximum(np.nan_to_num(nan) + np.nan_to_num(infinite), missing)
        infinite = np.where(nan == 0, bad, np.nan_to_num(infinite))
        self.bad_steps, self.bad_counts = series.steps[bad > 0], bad[bad > 0]
        self.inf_counts = infinite[bad > 0]
        self.last_logged = int(series.steps[-1]) if len(series) else 0
        self._kept = np.flatnonzero((bad == 0) & (series.num > 0))
        self.steps = series.steps[self._kept]
        self.num = series.num[self._kept]
        self.min, self.max = series.min[self._kept], series.max[self._kept]
        self.mean, self.std = series.mean[self._kept], series.std[self._kept]
        with np.errstate(over="ignore"):
            self.rms = np.sqrt(series.sum_squares[self._kept] / self.num)
        # Rows have no sums; and where something is not counted, the extremes may belong to it.
        for place in np.flatnonzero(np.isnan(self.rms + self.min + self.max)):
            histogram = series[int(self._kept[place])]
            if np.isnan(self.min[place] + self.max[place]):
                self.min[place], self.max[place] = histogram.to_rows()[[0, -1], [0, 1]]
            if np.isnan(self.rms[place]):
                mean, std, _ = spread(histogram)
                self.mean[place], self.std[place] = mean, std
                self.rms[place] = np.hypot(mean, std)
        # Squares may overflow float64.
        self.rms = np.minimum(self.rms, self.largest)

    @property
    def is_zero(self) -> Mask:
        """Whether every value is zero, bool[n]; a file's extremes may lie a little apart around a constant."""
        zero: Mask = (self.rms == 0) | ((self.min == 0) & (self.max == 0))
        return zero

    @property
    def norm(self) -> Floats:
        """L2 norm, float64[n]."""
        norm: Floats = self.rms * np.sqrt(self.num)
        return norm

    @property
    def largest(self) -> Floats:
        """Largest magnitude, float64[n]."""
        largest: Floats = np.maximum(np.abs(self.min), np.abs(self.max))
        return largest

    @property
    def gain(self) -> Floats:
        """How much a layer of these weights scales its inputs, float64[n]: ``rms * sqrt(fan_in)``.

        An unknown `fan_in` is taken to be that of a square matrix.
        """
        gain: Floats = self.rms * np.sqrt(np.sqrt(self.num) if self.fan_in is None else self.fan_in)
        return gain

    @property
    def is_matrix(self) -> bool:
        """Whether its weights are multiplied with inputs: no bias, scale of a normalisation or table."""
        if not self.steps.size or self.role.is_bias:
            return False
        if self.fan_in is not None:
            return self.fan_in > 1
        if self.role.is_embedding:
            return False
        # Scales start at 1, and a step leaves them near it.
        return self.role.kind != "weight" or bool(self.std[0] > 0.3 * abs(self.mean[0]))

    @functools.cached_property
    def sampled(self) -> NDArray[np.int64]:
        """Return the places of the steps whose histograms are read."""
        count = self.steps.size
        return np.unique(np.linspace(0, count - 1, min(count, SAMPLES)).astype(np.int64))

    @functools.cached_property
    def shares(self) -> NDArray[np.void]:
        """Return what only the histograms themselves tell (`LOOK`), for each of `sampled`."""
        places = self._kept[self.sampled]
        zeros = self.series.zero_count[places].tolist()
        return np.array(list(map(_look, self.series[places], zeros)), dtype=LOOK)


class Readings:
    """The readings of a run, in the order of its tags."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.all = readings
        self._named = {(reading.role.kind, reading.role.name): reading for reading in readings}
        biases: dict[str, list[Reading]] = {}
        for reading in self.kind("weight"):
            if reading.role.is_bias:
                biases.setdefault(reading.role.layer, []).append(reading)
        for reading in self.kind("weight"):
            if not reading.role.is_bias:
                reading.fan_in = _fan_in(reading, biases.get(reading.role.layer, []))
        for reading in (*self.kind("gradient"), *self.kind("update")):
            weight = self.named("weight", reading.role.name)
            reading.fan_in = None if weight is None else weight.fan_in
        self.steps, self._gradient = _largest(self.kind("gradient"))

    def kind(self, kind: str) -> list[Reading]:
        """Return the readings of a kind that have a step of finite values."""
        return [reading for reading in self.all if reading.role.kind == kind and reading.steps.size]

    def matrices(self, kind: str) -> list[Reading]:
        """Return the readings of a kind that belong to weight matrices."""
        return [reading for reading in self.kind(kind) if self._is_matrix(reading)]

    def named(self, kind: str, name: str) -> Reading | None:
        """Return a parameter's reading of a kind, if it has a step of finite values."""
        reading = self._named.get((kind, name))
        return reading if reading is not None and reading.steps.size else None

    @property
    def first_gradient(self) -> float:
        """Return the largest norm of a gradient at the first step."""
        return float(self._gradient[0]) if self._gradient.size else 0.0

    def unsettled(self, steps: Steps) -> Mask:
        """Mark the steps at which some gradient is still above a thousandth of the first."""
        now = self._gradient[np.searchsorted(self.steps, steps)]
        return now >= 1e-3 * self.first_gradient

    def _is_matrix(self, reading: Reading) -> bool:
        weight = self.named("weight", reading.role.name)
        return reading.is_matrix and (weight is None or weight.is_matrix)


def _fan_in(weight: Reading, biases: Sequence[Reading]) -> float | None:
    """Return how many weights there are for each bias of the same layer."""
    name = weight.role.name.removeprefix(weight.role.layer)
    beside = {name.replace(word, "bias") for word in ("weight", "kernel", "scale")}
    beside.add(name.replace("gamma", "beta"))
    for bias in biases:
        if bias.role.name.removeprefix(bias.role.layer) in beside:
            return float(weight.num[0] / bias.num[0])
    return None


def _largest(readings: Sequence[Reading]) -> tuple[Steps, Floats]:
    """Return the steps of any of the readings, and the largest norm at each."""
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(r.steps for r in readings)]))
    largest = np.zeros(steps.size)
    for reading in readings:
        np.maximum.at(largest, np.searchsorted(steps, reading.steps), reading.norm)
    return steps, largest


LOOK = np.dtype(
    [
        ("zero", "f8"),
        ("tiny", "f8"),
        ("minus_one", "f8", 2),
        ("naught", "f8", 2),
        ("one", "f8", 2),
        ("median", "f8"),
        ("quantiles", "f8", QUANTILES.size),
    ]
)
"""Shares of the values: exactly zero; of the non-zero ones, at most 2**-24 in magnitude; within `NEAR` of -1 or below, of 0,
and of 1 or above. The median magnitude of the non-zero values, and the quantiles `QUANTILES`."""


def _look(histogram: Histogram, told: float) -> tuple[float | Floats, ...]:
    edges, counts = histogram.buckets.edges, histogram.counts
    reached = np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64))) / max(histogram.num, 1)

    def cdf(x: Floats) -> Floats:
        return np.interp(x, edges, reached, left=0.0, right=1.0)

    zero = zero_share(histogram, told)
    zero = 0.0 if math.isnan(zero) else zero  # unknown zeros are not judged
    nonzero = 1 - zero
    magnitudes = np.unique(np.abs(edges))
    folded = np.maximum.accumulate(cdf(magnitudes) - cdf(-magnitudes))
    below, above = cdf(_TINY)
    tiny = max(float(above - below) - zero, 0.0)
    return (
        zero,
        tiny / nonzero if nonzero else 0.0,
        _at_end(cdf(NEAR - 1), edges, reached),
        cdf(NEAR),
        _at_end(1 - cdf(1 - NEAR), -edges[::-1], 1 - reached[::-1]),
        float(np.interp(zero + nonzero / 2, folded, magnitudes)) if nonzero else 0.0,
        np.interp(QUANTILES, reached, edges),
    )


def _at_end(shares: Floats, edges: Floats, reached: Floats) -> Floats:
    """Return the shares near the first edge; if the end bin is too wide for that, its excess over its neighbour."""
    if edges.size < 3 or edges[1] - edges[0] <= NEAR[0]:
        return shares
    return np.full(NEAR.size, max(2 * reached[1] - reached[0] - reached[2], 0.0))
