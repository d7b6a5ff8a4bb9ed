"""The rules of `fasthist.diagnosis`, one function each over the readings of a run; thresholds: ``rules.toml``."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist.readings import Floats, Mask, Reading, Readings, Steps

FIRST_STEPS = 10
"""Steps up to which weights are taken for initial ones, as in AWS smdebug."""


@functools.cache
def texts() -> dict[str, dict[str, Any]]:
    """Load ``rules.toml``: for each rule its why, its remedy and its checks."""
    return tomllib.loads(Path(__file__).with_name("rules.toml").read_text("utf-8"))


@dataclass(frozen=True)
class Hit:
    """Where and when a rule's check found something, and how much."""

    check: str
    tag: str
    first_step: int
    last_step: int
    value: float


def _stretch(mask: Mask, share: float = 0.2) -> slice | None:
    """Return the longest run of steps where the mask holds; None if shorter than `share` of them, or than three."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
    if not edges.size:
        return None
    begins, ends = edges[::2], edges[1::2]
    longest = int((ends - begins).argmax())
    begin, end = int(begins[longest]), int(ends[longest])
    enough = max(min(3, mask.size), math.ceil(share * mask.size))
    return slice(begin, end) if end - begin >= enough else None


def _lasting(
    check: str, reading: Reading, steps: Steps, values: Floats, mask: Mask, share: float = 0.2
) -> list[Hit]:
    """Return a hit with the median value if the mask holds for long enough."""
    if (held := _stretch(mask, share)) is None:
        return []
    first, last = int(steps[held.start]), int(steps[held.stop - 1])
    return [Hit(check, reading.tag, first, last, float(np.median(values[held])))]


def _worst(check: str, reading: Reading, steps: Steps, values: Floats, limit: float) -> list[Hit]:
    """Return a hit with the largest value if any is above the limit."""
    above = values > limit
    if not above.any():
        return []
    held = steps[above]
    return [Hit(check, reading.tag, int(held[0]), int(held[-1]), float(values[above].max()))]


def _common(a: Reading, b: Reading) -> tuple[Steps, NDArray[np.intp], NDArray[np.intp]]:
    """Return the steps of both, and their places in each."""
    steps, places, others = np.intersect1d(a.steps, b.steps, return_indices=True)
    return steps, places, others


def _ratio(a: Floats, b: Floats, otherwise: float = 0.0) -> Floats:
    """Return a / b, or `otherwise` where b is 0."""
    ratio: Floats = np.divide(a, b, out=np.full(b.size, otherwise), where=b > 0)
    return ratio


def vanishing_gradient(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find gradients too small in themselves, or against the last layer's."""
    gradients = run.matrices("gradient")
    for reading in gradients:
        rms, steps = reading.rms, reading.steps
        small = (rms < limits["size"]["threshold"]) & (rms > 0) & run.unsettled(steps)
        hits = _lasting("size", reading, steps, rms, small)
        if not hits and reading is not gradients[-1]:
            steps, places, others = _common(reading, gradients[-1])
            ratio = _ratio(reading.norm[places], gradients[-1].norm[others], 1.0)
            small = (ratio < limits["depth"]["threshold"]) & (ratio > 0)
            small &= (reading.norm[places] < limits["depth"]["norm"]) & run.unsettled(steps)
            hits = _lasting("depth", reading, steps, ratio, small)
        yield from hits


def exploding_gradient(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find gradients that grow far beyond the first ones, or from the last layer to the first; infinities."""
    for reading in run.all:
        if reading.role.kind == "gradient" and not _is_calibration(run, reading):
            limit = limits["infinite"]["threshold"]
            yield from _worst("infinite", reading, reading.bad_steps, reading.inf_counts, limit)
    gradients = run.matrices("gradient")
    for reading in gradients:
        first = max(run.first_gradient, float(reading.norm[0]))
        growth = reading.norm / first if first > 0 else np.zeros(reading.steps.size)
        hits = _worst("growth", reading, reading.steps, growth, limits["growth"]["threshold"])
        if not hits and reading is not gradients[-1]:
            steps, places, others = _common(reading, gradients[-1])
            ratio = _ratio(reading.norm[places], gradients[-1].norm[others])
            large = (ratio > limits["depth"]["threshold"]) & run.unsettled(steps)
            hits = _lasting("depth", reading, steps, ratio, large)
        yield from hits


def dead(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find outputs, gradients or weights that are all or nearly all zero."""
    gradients = run.matrices("gradient")
    for reading in (*run.kind("activation"), *gradients, *run.matrices("weight")):
        kind, steps = reading.role.kind, reading.steps
        hits = _lasting("all", reading, steps, np.ones(steps.size), reading.is_zero)
        # The first layer's gradient has the zeros of its inputs.
        is_judged = kind == "activation" or (kind == "gradient" and reading is not gradients[0])
        if not hits and is_judged:
            shares, steps = reading.shares["zero"], reading.steps[reading.sampled]
            hits = _lasting(kind, reading, steps, shares, shares > limits[kind]["threshold"])
        yield from hits


def saturated(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find outputs of tanh or sigmoid at their ends."""
    activations = run.kind("activation")
    for reading in activations:
        low, high = float(reading.min.min()), float(reading.max.max())
        if high > 1 or high < 0.99 or low < -1:
            continue
        shares, steps = reading.shares, reading.steps[reading.sampled]
        top = shares["one"]
        if low < -0.99:
            check, ends = "tanh", shares["minus_one"] + top
        elif low >= 0 and not _is_softmax(reading):
            # Both ends, and no exact zeros: else it may be a ReLU's output.
            is_sigmoid = (top[:, :1] > 0.1) & (shares["zero"][:, None] < 0.1)
            check, ends = "sigmoid", np.where(is_sigmoid, shares["naught"] + top, 0.0)
        else:
            continue
        check = "output" if reading is activations[-1] else check
        threshold = limits[check]["threshold"]
        # Codes may be learned; an output that starts flat is not learned, nor one that is quite flat.
        share = ends[:, 0 if ends[0, 0] > threshold else 1]
        yield from _lasting(check, reading, steps, share, share > threshold)


def _is_softmax(reading: Reading) -> bool:
    """Return whether the mean is one over a whole number at every step."""
    if not (reading.mean > 0).all():
        return False
    parts = 1 / reading.mean
    return bool((np.abs(parts - np.rint(parts)) < 1e-4 * parts).all())


def nonfinite(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find NaN and infinities: where and when they first occur, and whether they go away."""
    for reading in run.all:
        if reading.bad_counts.max(initial=0) <= limits["persistent"]["threshold"]:
            continue
        check = "persistent"
        if reading.bad_steps[-1] < reading.last_logged:
            check = "calibration" if _is_calibration(run, reading) else "passing"
        first, last = int(reading.bad_steps[0]), int(reading.bad_steps[-1])
        yield Hit(check, reading.tag, first, last, float(reading.bad_counts[0]))


def _is_calibration(run: Readings, reading: Reading) -> bool:
    """Return whether a gradient was not finite in the first tenth of its steps only, and no weight ever was."""
    if reading.role.kind != "gradient" or not reading.bad_steps.size or not reading.steps.size:
        return False
    begin = int(min(reading.steps[0], reading.bad_steps[0]))
    is_early = reading.bad_steps[-1] <= begin + 0.1 * (reading.last_logged - begin)
    weights = (other for other in run.all if other.role.kind == "weight")
    return bool(is_early) and not any(weight.bad_steps.size for weight in weights)


def init_spread(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find initial weights that shrink or blow up their inputs; zeros are assumed to be intended."""
    weights = run.matrices("weight")
    usual = float(np.median([reading.gain[0] for reading in weights[:-1]] or [1.0]))
    small = "all_small" if usual < limits["all_small"]["threshold"] else "small"
    for reading in weights:
        step, gain = int(reading.steps[0]), float(reading.gain[0])
        unsure = 1.0 if reading.fan_in is not None else limits["large"]["unsure"]
        # A head may start near zero, so that all classes are equally likely.
        is_small = 0 < gain * unsure < limits[small]["threshold"] and reading is not weights[-1]
        if step <= FIRST_STEPS and (is_small or gain > limits["large"]["threshold"] * unsure):
            yield Hit(small if is_small else "large", reading.tag, step, step, gain)


def init_asymmetry(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find initial weights whose mean is not zero."""
    limit = limits["mean"]
    for reading in run.kind("weight"):
        step, mean, std = int(reading.steps[0]), abs(float(reading.mean[0])), float(reading.std[0])
        is_scale = reading.fan_in == 1 or (reading.fan_in is None and std < 0.3 * mean)
        is_matrix = not (is_scale or reading.role.is_bias or reading.role.is_embedding)
        if step > FIRST_STEPS or not is_matrix or not mean:
            continue
        # A file's extremes of a constant may be this far apart.
        if reading.max[0] - reading.min[0] <= 1e-5 * mean:
            yield Hit("constant", reading.tag, step, step, 0.0)
        elif mean > std * max(limit["threshold"], limit["errors"] / math.sqrt(reading.num[0])):
            yield Hit("mean", reading.tag, step, step, mean / std if std else math.inf)


def weight_growth(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights whose norm grows without end."""
    for reading in run.matrices("weight"):
        if reading.steps.size < 2:
            continue
        # Weights that start near zero may grow to the size of a usual initialisation.
        usual = 0.5 * reading.rms[0] / reading.gain[0] if reading.gain[0] else math.inf
        total = float(reading.rms[-1] / max(reading.rms[0], usual))
        middle = (reading.steps.size - 1) // 2
        late = float(reading.rms[-1] / max(reading.rms[middle], usual))
        first, last = int(reading.steps[0]), int(reading.steps[-1])
        if total > limits["total"]["threshold"]:
            yield Hit("total", reading.tag, first, last, total)
        elif late > limits["late"]["threshold"]:
            yield Hit("late", reading.tag, int(reading.steps[middle]), last, late)


def weight_decay(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights whose norm falls exponentially from its peak, since early learning may hide the decay."""
    for reading in run.matrices("weight"):
        peak = int(reading.rms.argmax()) if reading.steps.size else 0
        steps, rms = reading.steps[peak:], reading.rms[peak:]
        if steps.size < 3 or not (rms > 0).all():
            continue
        fall = float(rms[-1] / rms[0])
        slope = float(np.polyfit(steps, np.log(rms), 1)[0])
        first, last = int(steps[0]), int(steps[-1])
        rate = limits["rate"]
        if fall < limits["total"]["threshold"]:
            yield Hit("total", reading.tag, first, last, fall)
        elif slope < rate["threshold"] and fall < rate["fall"]:
            yield Hit("rate", reading.tag, first, last, slope)


def update_ratio(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find updates far from a thousandth of the weights."""
    for reading in run.matrices("update"):
        weight = run.named("weight", reading.role.name)
        if weight is None:
            continue
        steps, places, others = _common(reading, weight)
        ratio = _ratio(reading.rms[places], weight.rms[others])
        # Weights that were zero before an update are all update.
        extreme = np.where(weight.gain[others] > 0.5, ratio, 0.0)
        large = ratio > limits["large"]["threshold"]
        small = (ratio < limits["small"]["threshold"]) & (ratio > 0)
        yield from (
            _worst("extreme", reading, steps, extreme, limits["extreme"]["threshold"])
            or _lasting("large", reading, steps, ratio, large)
            or _lasting("small", reading, steps, ratio, small, share=0.5)
        )


def frozen(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights that stay the same to the last bit, or updates that are zero where the weights are not logged."""
    weights = run.kind("weight")
    still: list[tuple[Reading, slice]] = []
    for weight in weights:
        values = np.column_stack([weight.num, weight.min, weight.max, weight.mean, weight.rms])
        change = np.abs(np.diff(values, axis=0)).max(axis=1)
        held = _stretch(change <= limits["unchanged"]["threshold"])
        # A step that changes nothing lies between two logged ones.
        if weight.steps.size > 2 and held is not None:
            still.append((weight, held))
    # Fine-tuning: most of the model, in several layers, has no gradient, while the rest has. In a single layer that may
    # be a mistake.
    idle = {
        weight.tag: weight.num[0]
        for weight, held in still
        if held.start == 0 and run.named("gradient", weight.role.name) is None
    }
    layers = {weight.role.layer for weight, _ in still if weight.tag in idle}
    total = float(sum(weight.num[0] for weight in weights))
    share = float(sum(idle.values())) / total if total else 0.0
    enough = share >= limits["meant"]["threshold"]
    is_meant = bool(run.kind("gradient")) and len(layers) > 1 and enough
    for weight, held in still:
        steps = weight.steps[held.start : held.stop + 1]
        check, value = ("meant", share) if is_meant and weight.tag in idle else ("unchanged", 0.0)
        yield Hit(check, weight.tag, int(steps[0]), int(steps[-1]), value)
    for update in run.kind("update"):
        if run.named("weight", update.role.name) is None:
            zeros = np.zeros(update.steps.size)
            yield from _lasting("zero", update, update.steps, zeros, update.is_zero)


def underflow(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find gradients that float16 cannot hold."""
    is_lost = False
    for reading in run.matrices("gradient"):
        share, steps = reading.shares["tiny"], reading.steps[reading.sampled]
        going = run.unsettled(steps)
        hits: list[Hit] = []
        for check in ("most", "some"):
            mask = going & (share > limits[check]["threshold"])
            hits = hits or _lasting(check, reading, steps, share, mask)
        is_lost |= bool(hits)
        yield from hits
    if is_lost:
        for reading in run.matrices("gradient"):
            ones = np.ones(reading.steps.size)
            yield from _lasting("gone", reading, reading.steps, ones, reading.is_zero)


def overflow(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find values that float16 cannot hold, or barely can."""
    for reading in run.all:
        if reading.role.kind and reading.steps.size:
            yield from (
                _worst("float16", reading, reading.steps, reading.largest, limits["float16"]["threshold"])
                or _worst("headroom", reading, reading.steps, reading.largest, limits["headroom"]["threshold"])
            )  # fmt: skip


def outliers(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find activations with a few huge values."""
    massive, growth = limits["massive"], limits["growth"]
    for reading in run.kind("activation"):
        median, steps = reading.shares["median"], reading.steps[reading.sampled]
        size, rms = reading.largest[reading.sampled], reading.rms[reading.sampled]
        ratio, peak = _ratio(size, median), _ratio(size, rms)
        grown = peak / peak[0] if peak[0] else np.zeros(size.size)
        is_massive = (ratio > massive["threshold"]) & (size > massive["magnitude"])
        is_growing = (grown > growth["threshold"]) & (peak > growth["sigma"])
        yield from (
            _lasting("massive", reading, steps, ratio, is_massive)
            or _lasting("growth", reading, steps, grown, is_growing)
        )


def drift(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights or activations that move all at once, after the first third of the run."""
    for reading in (*run.matrices("weight"), *run.kind("activation")):
        if reading.sampled.size < 6:
            continue
        quantiles, std = reading.shares["quantiles"], reading.std[reading.sampled][:-1]
        distance = np.abs(np.diff(quantiles, axis=0)).mean(axis=1)
        moved = _ratio(distance, std)
        steps, begin = reading.steps[reading.sampled][1:], moved.size // 3
        usual = float(np.median(moved))
        check = "jump" if reading.role.kind == "weight" else "shift"
        for name in dict.fromkeys((check, "shift")):
            limit = max(limits[name]["threshold"], limits[name]["usual"] * usual)
            if hits := _worst(name, reading, steps[begin:], moved[begin:], limit):
                yield from hits
                break


RULES: dict[str, Callable[[Readings, dict[str, Any]], Iterator[Hit]]] = {
    rule.__name__: rule
    for rule in (
        vanishing_gradient, exploding_gradient, dead, saturated, nonfinite, init_spread, init_asymmetry,
        weight_growth, weight_decay, update_ratio, frozen, underflow, overflow, outliers, drift,
    )
}  # fmt: skip
