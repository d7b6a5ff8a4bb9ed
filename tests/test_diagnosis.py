"""`diagnose`: every rule on histories made by hand, sick and healthy, at the edge of its threshold; then on a trained run."""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

import fasthist
from fasthist.errors import ArgumentError
from fasthist.readings import role

RNG = np.random.default_rng(5)
RULES = (
    "vanishing_gradient", "exploding_gradient", "dead", "saturated", "nonfinite", "init_spread", "init_asymmetry",
    "weight_growth", "weight_decay", "update_ratio", "frozen", "underflow", "overflow", "outliers", "drift",
)  # fmt: skip
STEPS = 20


def normal(std=1.0, size=4096, mean=0.0):
    return RNG.normal(mean, std, size)


def steady(std=1.0, size=4096, steps=STEPS):
    """Give values of one distribution that are others at every step."""
    return [normal(std, size) for _ in range(steps)]


def changing(stds, size=4096):
    return [normal(std, size) for std in stds]


def write(log_dir, tags, every=10):
    """Log arrays, one for each step, and open what was written."""
    with fasthist.SummaryWriter(log_dir) as writer:
        for i in range(max(len(values) for values in tags.values())):
            for tag, values in tags.items():
                if i < len(values):
                    writer.add_histogram(tag, np.asarray(values[i]), i * every)
    return fasthist.History.open(log_dir)


@pytest.fixture
def diagnosed(tmp_path):
    def get(tags, kinds=None, every=10):
        return fasthist.diagnose(write(tmp_path, tags, every), kinds)

    return get


def one(findings, rule, tag):
    found = [finding for finding in findings if (finding.rule, finding.tag) == (rule, tag)]
    assert len(found) == 1, findings
    return found[0]


def rules(findings):
    return {finding.rule for finding in findings}


def grave(findings):
    return [finding for finding in findings if finding.severity != "info"]


def healthy():
    """Give the tags of two layers whose numbers are those of a usual start and of small steps."""
    tags = {}
    for layer, fan_in in (("fc1", 64), ("fc2", 64)):
        weight, bias = normal(1 / 8, 64 * fan_in), normal(1 / 8, 64)
        steps = [normal(1e-4, weight.size) for _ in range(STEPS)]
        tags[f"weights/{layer}.weight"] = list(weight + np.cumsum(steps, axis=0))
        tags[f"weights/{layer}.bias"] = [bias + normal(1e-4, 64) for _ in range(STEPS)]
        tags[f"updates/{layer}.weight"] = steps
        tags[f"gradients/{layer}.weight"] = steady(1e-3)
        tags[f"gradients/{layer}.bias"] = steady(1e-3, 64)
        tags[f"activations/{layer}"] = steady()
        tags[f"activations/{layer}_relu"] = [np.maximum(x, 0) for x in steady()]
    return tags


def test_a_healthy_run_has_no_findings(diagnosed):
    assert diagnosed(healthy()) == []


def test_every_rule_has_texts_and_every_check_a_source():
    path = Path(fasthist.__file__).with_name("rules.toml")
    found = tomllib.loads(path.read_text("utf-8"))
    assert tuple(found) == RULES
    for rule in found.values():
        assert rule["why"].endswith(".")
        assert rule["remedy"].endswith(".")
        checks = [check for check in rule.values() if isinstance(check, dict)]
        assert checks
        for check in checks:
            assert isinstance(check["threshold"], float)
            assert check["severity"] in ("info", "warning", "error")
            assert check["source"]
            assert "{" not in check["says"].format(value=0.5, threshold=1.0)


# Gradients


@pytest.mark.parametrize(("size", "fires"), [(0.9e-7, True), (1.1e-7, False)])
def test_vanishing_in_size(diagnosed, size, fires):
    found = diagnosed({"gradients/a.weight": steady(size), "gradients/b.weight": steady(1e-5)})
    assert ("vanishing_gradient" in rules(found)) is fires
    if fires:
        finding = one(found, "vanishing_gradient", "gradients/a.weight")
        assert finding.value == pytest.approx(size, rel=0.05)
        assert (finding.threshold, finding.severity, finding.layer) == (1e-7, "warning", "a")
        assert (finding.first_step, finding.last_step) == (0, 190)


@pytest.mark.parametrize(("ratio", "fires"), [(0.9e-3, True), (1.1e-3, False)])
def test_vanishing_along_the_depth(diagnosed, ratio, fires):
    """Norms are 64 times the standard deviation: 4,096 values."""
    last = 1e-4 / 64 / 1.2e-3
    found = diagnosed({"gradients/a.weight": steady(ratio * last), "gradients/z.weight": steady(last)})  # fmt: skip
    assert ("vanishing_gradient" in rules(found)) is fires
    if fires:
        assert one(found, "vanishing_gradient", "gradients/a.weight").value == pytest.approx(ratio, rel=0.05)  # fmt: skip


def test_a_small_gradient_that_is_not_small_in_itself_does_not_vanish(diagnosed):
    tags = {"gradients/a.weight": steady(1e-2), "gradients/z.weight": steady(100.0)}
    assert diagnosed(tags) == []


def test_a_run_that_has_converged_has_not_vanished(diagnosed):
    sizes = np.geomspace(1e-2, 1e-9, STEPS)
    found = diagnosed({"gradients/a.weight": changing(sizes), "gradients/b.weight": changing(sizes)})  # fmt: skip
    assert grave(found) == []


@pytest.mark.parametrize(("factor", "fires"), [(90.0, False), (110.0, True)])
def test_exploding_against_the_first_step(diagnosed, factor, fires):
    sizes = [1e-3] * 15 + [factor * 1e-3] + [1e-3] * 4
    found = diagnosed({"gradients/a.weight": changing(sizes), "gradients/b.weight": steady(1e-3)})
    assert ("exploding_gradient" in rules(found)) is fires
    if fires:
        finding = one(found, "exploding_gradient", "gradients/a.weight")
        assert (finding.first_step, finding.last_step, finding.severity) == (150, 150, "error")
        assert finding.value == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize(("ratio", "fires"), [(65.0, False), (75.0, True)])
def test_exploding_along_the_depth(diagnosed, ratio, fires):
    found = diagnosed({"gradients/a.weight": steady(ratio * 1e-3), "gradients/b.weight": steady(1e-3)})  # fmt: skip
    assert ("exploding_gradient" in rules(found)) is fires


def test_infinite_gradients_explode(diagnosed):
    values = steady(1e-3)
    for i in range(12, STEPS):
        values[i][:3] = np.inf
    found = diagnosed({"gradients/a.weight": values})
    assert one(found, "exploding_gradient", "gradients/a.weight").value == 3
    assert one(found, "nonfinite", "gradients/a.weight").first_step == 120


# Dead and saturated layers


@pytest.mark.parametrize(("share", "fires"), [(0.88, False), (0.92, True)])
def test_dead_activations(diagnosed, share, fires):
    values = [x * (RNG.random(x.size) >= share) for x in np.abs(steady())]
    found = diagnosed({"activations/relu1": values})
    assert [finding.rule for finding in found] == ["dead"] * fires
    if fires:
        assert found[0].value == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("share", "fires"), [(0.68, False), (0.72, True)])
def test_dead_gradients_but_of_the_first_layer(diagnosed, share, fires):
    values = [x * (RNG.random(x.size) >= share) for x in steady(1e-2)]
    found = diagnosed({"gradients/a.weight": values, "gradients/b.weight": values})
    assert [finding.tag for finding in found] == ["gradients/b.weight"] * fires


def test_all_zero_is_an_error_in_every_kind(diagnosed):
    zeros = [np.zeros(500)] * STEPS
    tags = {f"{kind}/a.weight": zeros for kind in ("activations", "gradients")}
    found = diagnosed(tags)
    assert {(one.rule, one.severity, one.tag) for one in found} == {("dead", "error", tag) for tag in tags}  # fmt: skip


def test_zeros_for_a_step_or_two_are_not_dead(diagnosed):
    values = [np.zeros(500), *steady(1e-2, 500)]
    assert "dead" not in rules(diagnosed({"gradients/a.weight": values}))


@pytest.mark.parametrize(("size", "fires"), [(1.5, False), (8.0, True)])
def test_saturated_tanh(diagnosed, size, fires):
    found = diagnosed({"activations/tanh": [np.tanh(x) for x in steady(size)], "activations/z": steady()})  # fmt: skip
    assert [finding.rule for finding in found] == ["saturated"] * fires
    if fires:
        expected = 1 - math.erf(math.atanh(0.99) / size / math.sqrt(2))
        assert found[0].value == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("size", "fires"), [(1.0, False), (20.0, True)])
def test_saturated_sigmoid(diagnosed, size, fires):
    values = [1 / (1 + np.exp(-x)) for x in steady(size)]
    found = diagnosed({"activations/sigmoid": values, "activations/z": steady()})
    assert [finding.rule for finding in found] == ["saturated"] * fires


def test_the_end_of_a_model_may_be_sure(diagnosed):
    values = [1 / (1 + np.exp(-x)) for x in steady(20.0)]
    found = diagnosed({"activations/a": steady(), "activations/sigmoid": values})
    assert [finding.severity for finding in found] == ["info"]


def test_softmax_and_small_relu_are_not_saturated(diagnosed):
    logits = [x.reshape(-1, 2) * 20 for x in steady()]
    softmax = [np.exp(x - x.max(1, keepdims=True)) for x in logits]
    tags = {
        "activations/softmax": [x / x.sum(1, keepdims=True) for x in softmax],
        "activations/relu": [np.clip(x, 0, 1) for x in steady(0.4)],
        "activations/z": steady(),
    }
    assert diagnosed(tags) == []


# NaN and infinities


def test_nan_is_told_where_and_when_it_is_first_seen(diagnosed):
    tags = healthy()
    for tag, values in tags.items():
        for i in range(12 if "fc2" in tag else 15, STEPS):
            values[i] = values[i].copy()
            values[i][: 1 + ("fc1" in tag)] = np.nan
    found = [finding for finding in diagnosed(tags) if finding.rule == "nonfinite"]
    assert {finding.tag for finding in found} == set(tags)
    assert all(finding.severity == "error" for finding in found)
    assert {(one.layer.startswith("fc2"), one.first_step, one.last_step, one.value) for one in found} == {
        (True, 120, 190, 1.0),
        (False, 150, 190, 2.0),
    }  # fmt: skip
    assert found[0].layer.startswith("fc2")


def test_a_tag_of_unknown_kind_is_looked_through_for_nan_alone(diagnosed):
    tags = {"x": [np.zeros(9)] * 4, "y": [[1.0, np.nan]] * 4}
    assert [(one.rule, one.tag) for one in diagnosed(tags)] == [("nonfinite", "y")]


@pytest.mark.parametrize(("at", "severity"), [(0, "info"), (10, "warning")])
def test_infinities_that_pass_are_no_error(diagnosed, at, severity):
    """A loss scaler looks for its scale in the first steps."""
    tags = healthy()
    values = tags["gradients/fc1.weight"]
    values[at] = np.full(values[at].size, np.inf)
    found = [finding for finding in diagnosed(tags) if finding.rule == "nonfinite"]
    assert [finding.severity for finding in found] == [severity]


# Initialisation


@pytest.mark.parametrize(
    ("gain", "fires"), [(0.04, True), (0.06, False), (2.8, False), (3.2, True)]
)
def test_initial_spread_against_the_fan_in(diagnosed, gain, fires):
    """A layer of 16 inputs and 256 units, between two usual ones."""
    tags = healthy()
    layer = {
        "weights/mid.weight": [normal(gain / 4, 16 * 256)] * 2,
        "weights/mid.bias": [np.zeros(256)] * 2,
    }
    first = {tag: values for tag, values in tags.items() if "fc1" in tag}
    found = diagnosed({**first, **layer, **tags})
    assert {(one.rule, one.layer) for one in found} == ({("init_spread", "mid")} if fires else set())  # fmt: skip
    if fires:
        assert found[0].value == pytest.approx(gain, rel=0.05)
        assert (found[0].first_step, found[0].last_step) == (0, 0)


def test_a_head_scales_tables_and_late_steps_are_not_judged(diagnosed, tmp_path):
    tags = {
        "weights/embedding.weight": [normal(1.0, 64_000)] * 2,
        "weights/norm.weight": [np.ones(64)] * 2,
        "weights/norm.bias": [np.zeros(64)] * 2,
        "weights/rms.weight": [np.ones(64)] * 2,
        "weights/lora_b.weight": [np.zeros(64)] * 2,
        "weights/fc.weight": [normal(1 / 8)] * 2,
        "weights/head.weight": [normal(1e-3, 640)] * 2,
    }
    assert diagnosed(tags) == []
    late = {"weights/a.weight": [normal(1e-4)] * 2, "weights/b.weight": [normal(1 / 8)] * 2}
    with fasthist.SummaryWriter(tmp_path / "late") as writer:
        for tag, values in late.items():
            writer.add_histogram(tag, values[0], 1000)
    assert fasthist.diagnose(fasthist.History.open(tmp_path / "late")) == []


@pytest.mark.parametrize(("mean", "fires"), [(0.25, False), (0.35, True)])
def test_initial_asymmetry(diagnosed, mean, fires):
    found = diagnosed({"weights/a.weight": [normal(1 / 8, mean=mean / 8)] * 2})
    assert [finding.rule for finding in found] == ["init_asymmetry"] * fires


def test_few_weights_are_asymmetric_by_chance(diagnosed):
    values = np.linspace(-1, 1.9, 16) / 8
    assert values.mean() > 0.3 * values.std()
    assert diagnosed({"weights/a.weight": [values] * 2}) == []


def test_equal_weights_are_asymmetric(diagnosed):
    tags = {"weights/a.weight": [np.full(640, 0.1)] * 2, "weights/a.bias": [np.zeros(10)] * 2}
    finding = one(diagnosed(tags), "init_asymmetry", "weights/a.weight")
    assert (finding.value, finding.threshold) == (0.0, 0.0)


# Weights over time


@pytest.mark.parametrize(("factor", "fires"), [(8.0, False), (12.0, True)])
def test_weight_growth(diagnosed, factor, fires):
    found = diagnosed({"weights/a.weight": changing(np.linspace(1, factor, STEPS) / 8)})
    assert ("weight_growth" in rules(found)) is fires
    if fires:
        assert one(found, "weight_growth", "weights/a.weight").value == pytest.approx(factor, rel=0.05)  # fmt: skip


def test_late_growth(diagnosed):
    found = diagnosed({"weights/a.weight": changing([1 / 8] * 10 + [0.5] * 10)})
    assert one(found, "weight_growth", "weights/a.weight").value == pytest.approx(4, rel=0.05)


def test_weights_that_begin_near_zero_may_grow(diagnosed):
    found = diagnosed({"weights/a.weight": changing(np.linspace(1e-4, 0.1, STEPS)), "weights/b.weight": steady(0.1)})  # fmt: skip
    assert "weight_growth" not in rules(found)


@pytest.mark.parametrize(("rate", "fires"), [(0.8e-3, False), (2.5e-3, True), (2e-2, True)])
def test_weight_decay(diagnosed, rate, fires):
    found = diagnosed({"weights/a.weight": changing(np.exp(-rate * np.arange(STEPS) * 10) / 8)})
    assert ("weight_decay" in rules(found)) is fires
    if rate == 2.5e-3:
        assert one(found, "weight_decay", "weights/a.weight").value == pytest.approx(-rate, rel=0.1)  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "severity"),
    [(0.6, "error"), (0.12, "warning"), (0.08, ""), (2e-6, ""), (0.5e-6, "warning")],
)
def test_update_ratio(diagnosed, ratio, severity):
    tags = {"weights/a.weight": steady(1 / 8), "updates/a.weight": steady(ratio / 8)}
    found = [finding for finding in diagnosed(tags) if finding.rule == "update_ratio"]
    assert [finding.severity for finding in found] == [severity] * bool(severity)
    if found:
        assert found[0].value == pytest.approx(ratio, rel=0.1)


def test_an_update_of_zeros_is_all_of_them(diagnosed):
    first = normal(1e-3)
    tags = {"weights/a.weight": [first, *steady(1 / 8)], "updates/a.weight": [first, *steady(1e-4)]}
    assert "update_ratio" not in rules(diagnosed(tags))


def test_frozen_weights(diagnosed):
    still = normal(1 / 8)
    moving = [still + normal(1e-6) for _ in range(STEPS)]
    found = diagnosed({"weights/a.weight": [still] * STEPS, "weights/b.weight": moving})
    assert [(one.rule, one.tag) for one in found] == [("frozen", "weights/a.weight")]
    assert (found[0].first_step, found[0].last_step) == (0, 190)


@pytest.mark.parametrize(("layers", "severity"), [(3, "info"), (1, "warning")])
def test_what_is_frozen_on_purpose_is_no_warning(diagnosed, layers, severity):
    """As in fine-tuning: most of the model has no gradient; one layer alone may have lost it by mistake."""
    still = normal(1 / 8)
    tags = {f"weights/base.{layer}.weight": [still] * STEPS for layer in range(layers)}
    tags["weights/head.weight"] = [still + normal(1e-3) for _ in range(STEPS)]
    tags["gradients/head.weight"] = steady(1e-3)
    frozen = [finding for finding in diagnosed(tags) if finding.rule == "frozen"]
    assert [finding.severity for finding in frozen] == [severity] * layers
    assert ("75% of the model: frozen on purpose" in frozen[0].message) == (severity == "info")


def test_weights_that_freeze_late_are_told_since_when(diagnosed):
    weights = steady(1 / 8, steps=12)
    found = diagnosed({"weights/a.weight": weights + [weights[-1]] * 8})
    assert (found[0].rule, found[0].first_step) == ("frozen", 110)


def test_updates_that_are_zero(diagnosed):
    assert rules(diagnosed({"updates/a.weight": [np.zeros(99)] * 5})) == {"frozen"}


# Precision


@pytest.mark.parametrize(
    ("share", "severity"), [(0.04, ""), (0.1, "info"), (0.28, "info"), (0.33, "warning")]
)
def test_underflow_from_the_rows(diagnosed, share, severity):
    values = [np.where(RNG.random(x.size) < share, np.sign(x) * 2.0**-26, x) for x in steady(1e-3)]
    found = diagnosed({"gradients/a.weight": values})
    assert [finding.rule for finding in found] == ["underflow"] * bool(severity)
    if found:
        assert found[0].severity == severity
        assert found[0].value == pytest.approx(share, abs=0.02)


def test_gradients_that_are_float16(diagnosed):
    """Of a standard deviation of one subnormal: a third becomes zero, and half of the rest is the smallest number."""
    values = [x.astype(np.float16) for x in steady(2.0**-24)]
    nonzero = values[0][values[0] != 0]
    expected = np.mean(np.abs(nonzero) == 2.0**-24)
    finding = one(diagnosed({"gradients/a.weight": values}), "underflow", "gradients/a.weight")
    assert finding.severity == "warning"
    assert finding.value == pytest.approx(expected, abs=0.05)


def test_zeros_do_not_underflow(diagnosed):
    values = [np.maximum(x, 0) for x in steady(1e-3)]
    assert diagnosed({"gradients/a.weight": values}) == []


@pytest.mark.parametrize(("top", "severity"), [(3e4, ""), (4e4, "info"), (7e4, "warning")])
def test_overflow(diagnosed, top, severity):
    values = [RNG.uniform(-1, 1, 999) * top for _ in range(5)]
    for x in values:
        x[0] = -top
    found = diagnosed({"activations/a": values})
    assert [(one.rule, one.severity) for one in found] == [("overflow", severity)] * bool(severity)
    assert all(finding.value == pytest.approx(top) for finding in found)


@pytest.mark.parametrize(("top", "fires"), [(500.0, False), (1000.0, True)])
def test_massive_activations(diagnosed, top, fires):
    values = steady()
    for x in values:
        x[7] = top  # the median magnitude of normals is 0.6745
    found = diagnosed({"activations/a": values})
    assert [finding.rule for finding in found] == ["outliers"] * fires
    if fires:
        assert found[0].value == pytest.approx(top / 0.6745, rel=0.05)


def test_growing_outliers_are_worth_a_line(diagnosed):
    values = steady()
    for i, x in enumerate(values):
        x[7] = 4 + 3 * i
    found = diagnosed({"activations/a": values})
    assert grave(found) == []


def test_drift_is_a_jump(diagnosed):
    walk = [normal(1 / 8) + 0.001 * i for i in range(STEPS)]
    jump = [x + (2 / 8 if i >= 13 else 0) for i, x in enumerate(walk)]
    assert "drift" not in rules(diagnosed({"weights/a.weight": walk}))
    finding = one(diagnosed({"weights/b.weight": jump}), "drift", "weights/b.weight")
    assert (finding.severity, finding.first_step) == ("warning", 130)
    assert finding.value == pytest.approx(2, rel=0.1)


# What a tag is


@pytest.mark.parametrize(
    ("tag", "kind", "name", "layer"),
    [
        ("weights/fc1.weight", "weight", "fc1.weight", "fc1"),
        ("gradients/fc1.bias", "gradient", "fc1.bias", "fc1"),
        ("updates/h.0.attn.in_proj_weight", "update", "h.0.attn.in_proj_weight", "h.0.attn"),
        ("activations/blocks.0.mlp.1", "activation", "blocks.0.mlp.1", "blocks.0.mlp.1"),
        ("weights/params/Dense_0/kernel", "weight", "params/Dense_0/kernel", "params/Dense_0"),
        ("sequential/dense/kernel/histogram", "weight", "sequential/dense/kernel", "sequential/dense"),
        ("dense/bias_0/histogram", "weight", "dense/bias_0", "dense"),
        ("grad/fc1.weight", "gradient", "fc1.weight", "fc1"),
        ("conv1.weight.grad", "gradient", "conv1.weight", "conv1"),
        ("conv1.weight_grad", "gradient", "conv1.weight", "conv1"),
        ("conv1/gradients", "gradient", "conv1", "conv1"),
        ("conv1.weight", "weight", "conv1.weight", "conv1"),
        ("output.weight", "weight", "output.weight", "output"),
        ("lstm.weight_ih_l0", "weight", "lstm.weight_ih_l0", "lstm"),
        ("bn1.gamma", "weight", "bn1.gamma", "bn1"),
        ("layer1/relu", "activation", "layer1/relu", "layer1/relu"),
        ("loss_scale_of_it", "", "loss_scale_of_it", "loss_scale_of_it"),
        ("gradient", "gradient", "gradient", "gradient"),
    ],
)  # fmt: skip
def test_the_name_tells_what_a_tag_is(tag, kind, name, layer):
    found = role(tag)
    assert (found.kind, found.name, found.layer) == (kind, name, layer)


def test_a_kind_can_be_said(tmp_path):
    tags = {"d_a": steady(1e-8), "d_b": steady(1e-2)}
    history = write(tmp_path, tags)
    assert fasthist.diagnose(history) == []
    found = fasthist.diagnose(history, {"^d_": "gradient"})
    assert one(found, "vanishing_gradient", "d_a").layer == "d_a"


@pytest.mark.parametrize(
    ("kinds", "text"),
    [({"x": "grad"}, "kind 'grad' of 'x' is not known"), ({"(": "weight"}, "must be a regular expression")],
)  # fmt: skip
def test_a_kind_that_is_none(diagnosed, kinds, text):
    with pytest.raises(ArgumentError, match=text):
        diagnosed({"a": [[1.0]]}, kinds)


# The list


def test_the_gravest_comes_first_and_then_the_earliest(diagnosed):
    tags = healthy()
    tags["activations/last"] = [x * (4e4 if i > 15 else 1) for i, x in enumerate([np.r_[-1:1:99j]] * STEPS)]  # fmt: skip
    tags["gradients/fc1.weight"][5:] = [np.full(9, np.nan)] * 15
    tags["weights/fc1.weight"][3:] = [np.full(9, np.nan)] * 17
    tags["activations/fc1"] = [np.zeros(5)] * STEPS
    found = diagnosed(tags)
    order = ["error", "warning", "info"]
    keys = [(order.index(one.severity), one.first_step) for one in found]
    assert keys == sorted(keys)
    assert len({one.severity for one in found}) > 1


def test_findings_are_frozen_and_numbers(diagnosed):
    for finding in diagnosed({"gradients/a.weight": [np.zeros(9)] * 4}):
        with pytest.raises(dataclasses.FrozenInstanceError):
            finding.value = 1
        assert type(finding.first_step) is int
        assert type(finding.value) is float
        assert finding.rule in RULES
        assert finding.why
        assert finding.remedy
        assert finding.message


def test_nothing_logged_is_nothing_found(diagnosed):
    assert fasthist.diagnose({}) == []
    assert diagnosed({"weights/a.weight": [normal(1 / 8)]}) == []


# Files of others, and a trained run


def test_files_of_torch(tmp_path, need):
    need("torch")
    module = need("torch.utils.tensorboard")
    with module.SummaryWriter(str(tmp_path)) as writer:
        for step, x in enumerate(steady()):
            writer.add_histogram("conv1.weight.grad", x * 1e-9, step)
            writer.add_histogram("conv2.weight.grad", x * 1e-2, step)
            writer.add_histogram("relu", np.maximum(x - 2, 0), step)
            writer.add_histogram("activations/dead", np.zeros(9), step)
            writer.add_histogram("layer/tanh", np.tanh(x * 20), step)
            writer.add_histogram("layer/out", x, step)
    found = fasthist.diagnose(fasthist.History.open(tmp_path))
    assert {(one.rule, one.tag) for one in found} == {
        ("vanishing_gradient", "conv1.weight.grad"),
        ("underflow", "conv1.weight.grad"),
        ("dead", "relu"),
        ("dead", "activations/dead"),
        ("saturated", "layer/tanh"),
    }


def test_thirty_equal_rows_tell_no_zeros_but_sizes(tmp_path, need):
    tf = need("tensorflow")
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        for step, x in enumerate(steady(steps=5)):
            tf.summary.histogram("gradients/a.weight", x * 1e-9, step=step)
            tf.summary.histogram("gradients/b.weight", x * (np.abs(x) > 2) * 1e-2, step=step)
    writer.close()
    found = fasthist.diagnose(fasthist.History.open(tmp_path))
    assert {(one.rule, one.layer) for one in found} == {("vanishing_gradient", "a"), ("underflow", "a")}  # fmt: skip


@pytest.mark.parametrize("illness", ["", "vanishing_gradient", "dead"])
def test_a_trained_network(tmp_path, need, illness, request):
    torch = need("torch")
    request.addfinalizer(functools.partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)
    watch = need("fasthist.adapters.torch").watch
    torch.manual_seed(3)
    make = torch.nn.Sigmoid if illness == "vanishing_gradient" else torch.nn.ReLU
    depth = 8 if illness == "vanishing_gradient" else 2
    layers = [part for _ in range(depth) for part in (torch.nn.Linear(32, 32), make())]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(32, 4))
    if illness == "dead":
        torch.nn.init.constant_(model[2].bias, -20.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    teacher = torch.nn.Linear(32, 4)
    log = ("weights", "gradients", "updates", "activations")
    with fasthist.SummaryWriter(tmp_path) as writer, watch(model, writer, log, 10) as watched:
        for step in range(60):
            x = torch.randn(64, 32)
            model.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), teacher(x).argmax(1))
            loss.backward()
            optimizer.step()
            watched.step(step)
    found = grave(fasthist.diagnose(fasthist.History.open(tmp_path)))
    if not illness:
        assert found == []
    place = {"vanishing_gradient": "0", "dead": "3"}.get(illness)
    assert not illness or (illness, place) in {(one.rule, one.layer) for one in found}
