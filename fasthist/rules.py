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
"""Steps up to which weights are taken for initial ones; AWS smdebug looks at as many."""


@functools.cache
def texts() -> dict[str, dict[str, Any]]:
    """Load ``rules.toml``: for each rule why, remedy and its checks."""
    return tomllib.loads(Path(__file__).with_name("rules.toml").read_text("utf-8"))


@dataclass(frozen=True)
class Hit:
    """What a check of a rule found: where, when and how much."""

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
    check: str, one: Reading, steps: Steps, values: Floats, mask: Mask, share: float = 0.2
) -> Iterator[Hit]:
    """Yield a hit with the median value if the mask holds for long enough."""
    held = _stretch(mask, share)
    if held is not None:
        first, last = int(steps[held.start]), int(steps[held.stop - 1])
        yield Hit(check, one.tag, first, last, float(np.median(values[held])))


def _worst(check: str, one: Reading, steps: Steps, values: Floats, mask: Mask) -> Iterator[Hit]:
    """Yield a hit with the largest value if the mask holds anywhere."""
    if mask.any():
        held = steps[mask]
        yield Hit(check, one.tag, int(held[0]), int(held[-1]), float(values[mask].max()))


def _common(one: Reading, other: Reading) -> tuple[Steps, NDArray[np.intp], NDArray[np.intp]]:
    steps, places, others = np.intersect1d(one.steps, other.steps, return_indices=True)
    return steps, places, others


def vanishing_gradient(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find gradients too small in themselves, or against the last layer's."""
    gradients = run.matrices("gradient")
    for one in gradients:
        small = (one.rms < limits["size"]["threshold"]) & (one.rms > 0) & run.unsettled(one.steps)
        hits = list(_lasting("size", one, one.steps, one.rms, small))
        if not hits and one is not gradients[-1]:
            steps, places, others = _common(one, gradients[-1])
            last = gradients[-1].norm[others]
            ratio = np.divide(one.norm[places], last, out=np.ones(last.size), where=last > 0)
            limit = limits["depth"]
            small = (ratio < limit["threshold"]) & (one.norm[places] < limit["norm"]) & (ratio > 0)
            hits = list(_lasting("depth", one, steps, ratio, small & run.unsettled(steps)))
        yield from hits


def exploding_gradient(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find gradients that grow far beyond the first ones, or from the last layer to the first; infinities."""
    for one in run.all:
        if one.role.kind == "gradient" and not _is_calibration(run, one):
            yield from _worst(
                "infinite", one, one.bad_steps, one.inf_counts, one.inf_counts > limits["infinite"]["threshold"]
            )  # fmt: skip
    gradients = run.matrices("gradient")
    for one in gradients:
        first = max(run.first_gradient, float(one.norm[0]))
        growth = one.norm / first if first > 0 else np.zeros(one.steps.size)
        hits = list(
            _worst("growth", one, one.steps, growth, growth > limits["growth"]["threshold"])
        )
        if not hits and one is not gradients[-1]:
            steps, places, others = _common(one, gradients[-1])
            last = gradients[-1].norm[others]
            ratio = np.divide(one.norm[places], last, out=np.zeros(last.size), where=last > 0)
            large = (ratio > limits["depth"]["threshold"]) & run.unsettled(steps)
            hits = list(_lasting("depth", one, steps, ratio, large))
        yield from hits


def dead(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find outputs, gradients or weights that are all or nearly all zero."""
    gradients = run.matrices("gradient")
    for one in (*run.kind("activation"), *gradients, *run.matrices("weight")):
        kind = one.role.kind
        hits = list(_lasting("all", one, one.steps, np.ones(one.steps.size), one.is_zero))
        # The first layer's gradient has the zeros of its inputs.
        is_judged = kind == "activation" or (kind == "gradient" and one is not gradients[0])
        if not hits and is_judged:
            shares, steps = one.shares["zero"], one.steps[one.sampled]
            hits = list(_lasting(kind, one, steps, shares, shares > limits[kind]["threshold"]))
        yield from hits


def saturated(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find outputs of tanh or sigmoid at their ends."""
    activations = run.kind("activation")
    for one in activations:
        low, high = float(one.min.min()), float(one.max.max())
        if high > 1 or high < 0.99 or low < -1:
            continue
        shares, steps = one.shares, one.steps[one.sampled]
        top = shares["one"]
        if low < -0.99:
            check, ends = "tanh", shares["minus_one"] + top
        elif low >= 0 and not _is_softmax(one):
            # Both ends, and no exact zeros: else it may be a ReLU's output.
            is_sigmoid = (top[:, :1] > 0.1) & (shares["zero"][:, None] < 0.1)
            check, ends = "sigmoid", np.where(is_sigmoid, shares["naught"] + top, 0.0)
        else:
            continue
        check = "output" if one is activations[-1] else check
        threshold = limits[check]["threshold"]
        # Codes may be learned; what begins flat is not, nor what is quite flat.
        share = ends[:, 0 if ends[0, 0] > threshold else 1]
        yield from _lasting(check, one, steps, share, share > threshold)


def _is_softmax(one: Reading) -> bool:
    """Whether the mean is one over a whole number at every step."""
    if not (one.mean > 0).all():
        return False
    parts = 1 / one.mean
    return bool((np.abs(parts - np.rint(parts)) < 1e-4 * parts).all())


def nonfinite(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find NaN and infinities: where and when first, and whether they went away."""
    for one in run.all:
        if not one.bad_steps.size or one.bad_counts.max() <= limits["persistent"]["threshold"]:
            continue
        check = "persistent"
        if one.bad_steps[-1] < one.last_logged:
            check = "calibration" if _is_calibration(run, one) else "passing"
        first, last = int(one.bad_steps[0]), int(one.bad_steps[-1])
        yield Hit(check, one.tag, first, last, float(one.bad_counts[0]))


def _is_calibration(run: Readings, one: Reading) -> bool:
    """Whether a gradient was not finite in the first tenth of its steps alone, and no weight ever was."""
    if one.role.kind != "gradient" or not one.bad_steps.size or not one.steps.size:
        return False
    begin = int(min(one.steps[0], one.bad_steps[0]))
    is_early = one.bad_steps[-1] <= begin + 0.1 * (one.last_logged - begin)
    return bool(is_early) and not any(
        other.bad_steps.size for other in run.all if other.role.kind == "weight"
    )


def init_spread(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find initial weights that shrink or blow up what passes through them; zeros are taken to be meant."""
    weights = run.matrices("weight")
    usual = float(np.median([one.gain[0] for one in weights[:-1]] or [1.0]))
    small = "all_small" if usual < limits["all_small"]["threshold"] else "small"
    for one in weights:
        step, gain = int(one.steps[0]), float(one.gain[0])
        unsure = 1.0 if one.fan_in is not None else limits["large"]["unsure"]
        # A head may begin near zero, so that all classes are equally likely.
        is_small = 0 < gain * unsure < limits[small]["threshold"] and one is not weights[-1]
        if step <= FIRST_STEPS and (is_small or gain > limits["large"]["threshold"] * unsure):
            yield Hit(small if is_small else "large", one.tag, step, step, gain)


def init_asymmetry(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find initial weights whose mean is not zero."""
    limit = limits["mean"]
    for one in run.kind("weight"):
        step, mean, std = int(one.steps[0]), abs(float(one.mean[0])), float(one.std[0])
        is_scale = one.fan_in == 1 or (one.fan_in is None and std < 0.3 * mean)
        if step > FIRST_STEPS or one.role.is_bias or one.role.is_embedding or is_scale or not mean:
            continue
        if one.max[0] - one.min[0] <= 1e-5 * mean:  # a file leaves a constant a little room
            yield Hit("constant", one.tag, step, step, 0.0)
        elif mean > std * max(limit["threshold"], limit["errors"] / math.sqrt(one.num[0])):
            yield Hit("mean", one.tag, step, step, mean / std if std else math.inf)


def weight_growth(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights whose norm grows without end."""
    for one in run.matrices("weight"):
        if one.steps.size < 2:
            continue
        # What begins near zero may grow to the size of a usual initialisation.
        usual = 0.5 * one.rms[0] / one.gain[0] if one.gain[0] else math.inf
        total = float(one.rms[-1] / max(one.rms[0], usual))
        middle = (one.steps.size - 1) // 2
        late = float(one.rms[-1] / max(one.rms[middle], usual))
        first, last = int(one.steps[0]), int(one.steps[-1])
        if total > limits["total"]["threshold"]:
            yield Hit("total", one.tag, first, last, total)
        elif late > limits["late"]["threshold"]:
            yield Hit("late", one.tag, int(one.steps[middle]), last, late)


def weight_decay(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights whose norm falls exponentially from where it is largest: what is learned first may hide it."""
    for one in run.matrices("weight"):
        peak = int(one.rms.argmax()) if one.steps.size else 0
        steps, rms = one.steps[peak:], one.rms[peak:]
        if steps.size < 3 or not (rms > 0).all():
            continue
        fall = float(rms[-1] / rms[0])
        slope = float(np.polyfit(steps, np.log(rms), 1)[0])
        first, last = int(steps[0]), int(steps[-1])
        rate = limits["rate"]
        if fall < limits["total"]["threshold"]:
            yield Hit("total", one.tag, first, last, fall)
        elif slope < rate["threshold"] and fall < rate["fall"]:
            yield Hit("rate", one.tag, first, last, slope)


def update_ratio(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find updates far from a thousandth of the weights."""
    for one in run.matrices("update"):
        weight = run.named("weight", one.role.name)
        if weight is None:
            continue
        steps, places, others = _common(one, weight)
        size = weight.rms[others]
        ratio = np.divide(one.rms[places], size, out=np.zeros(size.size), where=size > 0)
        # Of what was zero before it, an update is all.
        extreme = (ratio > limits["extreme"]["threshold"]) & (weight.gain[others] > 0.5)
        large = ratio > limits["large"]["threshold"]
        small = (ratio < limits["small"]["threshold"]) & (ratio > 0)
        yield from (
            list(_worst("extreme", one, steps, ratio, extreme))
            or list(_lasting("large", one, steps, ratio, large))
            or _lasting("small", one, steps, ratio, small, share=0.5)
        )


def frozen(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights that stay the same to the last bit, or updates that are zero where no weights are told."""
    weights = run.kind("weight")
    still: list[tuple[Reading, slice]] = []
    for weight in weights:
        values = np.column_stack([weight.num, weight.min, weight.max, weight.mean, weight.rms])
        change = np.abs(np.diff(values, axis=0)).max(axis=1)
        held = _stretch(change <= limits["unchanged"]["threshold"])
        # A step that changes nothing is between two.
        if weight.steps.size > 2 and held is not None:
            still.append((weight, held))
    # Fine-tuning: most of the model has no gradient, in several layers, while the rest has one. A single layer without
    # one may be a mistake.
    idle = {
        weight.tag: weight.num[0]
        for weight, held in still
        if held.start == 0 and run.named("gradient", weight.role.name) is None
    }
    layers = {weight.role.layer for weight, _ in still if weight.tag in idle}
    total = float(sum(weight.num[0] for weight in weights))
    share = float(sum(idle.values())) / total if total else 0.0
    is_meant = (
        bool(run.kind("gradient")) and len(layers) > 1 and share >= limits["meant"]["threshold"]
    )
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
    for one in run.matrices("gradient"):
        share, steps = one.shares["tiny"], one.steps[one.sampled]
        going = run.unsettled(steps)
        hits: list[Hit] = []
        for check in ("most", "some"):
            mask = going & (share > limits[check]["threshold"])
            hits = hits or list(_lasting(check, one, steps, share, mask))
        is_lost |= bool(hits)
        yield from hits
    if is_lost:
        for one in run.matrices("gradient"):
            yield from _lasting("gone", one, one.steps, np.ones(one.steps.size), one.is_zero)


def overflow(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find values that float16 cannot hold, or nearly."""
    for one in run.all:
        if one.role.kind and one.steps.size:
            size = one.largest
            yield from (
                list(_worst("float16", one, one.steps, size, size > limits["float16"]["threshold"]))
                or _worst("headroom", one, one.steps, size, size > limits["headroom"]["threshold"])
            )


def outliers(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find activations with a few huge values."""
    massive, growth = limits["massive"], limits["growth"]
    for one in run.kind("activation"):
        median, steps = one.shares["median"], one.steps[one.sampled]
        size, rms = one.largest[one.sampled], one.rms[one.sampled]
        ratio = np.divide(size, median, out=np.zeros(size.size), where=median > 0)
        peak = np.divide(size, rms, out=np.zeros(size.size), where=rms > 0)
        grown = peak / peak[0] if peak[0] else np.zeros(size.size)
        yield from (
            list(_lasting("massive", one, steps, ratio, (ratio > massive["threshold"]) & (size > massive["magnitude"])))
            or _lasting("growth", one, steps, grown, (grown > growth["threshold"]) & (peak > growth["sigma"]))
        )  # fmt: skip


def drift(run: Readings, limits: dict[str, Any]) -> Iterator[Hit]:
    """Find weights or activations that move at once, after the first third of the run."""
    for one in (*run.matrices("weight"), *run.kind("activation")):
        if one.sampled.size < 6:
            continue
        quantiles, std = one.shares["quantiles"], one.std[one.sampled][:-1]
        distance = np.abs(np.diff(quantiles, axis=0)).mean(axis=1)
        moved = np.divide(distance, std, out=np.zeros(std.size), where=std > 0)
        steps, begin = one.steps[one.sampled][1:], moved.size // 3
        usual = float(np.median(moved))
        check = "jump" if one.role.kind == "weight" else "shift"
        for name in dict.fromkeys((check, "shift")):
            limit = max(limits[name]["threshold"], limits[name]["usual"] * usual)
            hits = list(_worst(name, one, steps[begin:], moved[begin:], moved[begin:] > limit))
            if hits:
                yield from hits
                break


RULES: dict[str, Callable[[Readings, dict[str, Any]], Iterator[Hit]]] = {
    rule.__name__: rule
    for rule in (
        vanishing_gradient, exploding_gradient, dead, saturated, nonfinite, init_spread, init_asymmetry,
        weight_growth, weight_decay, update_ratio, frozen, underflow, overflow, outliers, drift,
    )
}  # fmt: skip
