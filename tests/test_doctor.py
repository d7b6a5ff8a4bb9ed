"""``fasthist doctor``: what it prints, the JSON, and the exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import fasthist
from fasthist.cli import main

RNG = np.random.default_rng(8)
KEYS = ["rule", "severity", "tag", "first_step", "last_step", "value", "threshold", "source"]


def run(*arguments):
    return CliRunner().invoke(main, ["doctor", *[str(argument) for argument in arguments]])


def write(log_dir, tags, steps=5):
    with fasthist.SummaryWriter(log_dir) as writer:
        for step in range(steps):
            for tag, make in tags.items():
                writer.add_histogram(tag, make(step), step)
    return log_dir


HEALTHY = {
    "gradients/fc1.weight": lambda _: RNG.normal(0, 1e-3, 512),
    "gradients/fc2.weight": lambda _: RNG.normal(0, 1e-3, 512),
}
SICK = {
    "gradients/fc1.weight": lambda _: np.zeros(512),
    "gradients/fc1.bias": lambda step: np.full(8, np.nan) if step > 2 else np.ones(8),
    "weights/fc1.weight": lambda _: np.abs(RNG.normal(0, 0.1, 512)),
    "gradients/fc2.weight": lambda _: RNG.normal(0, 1e-3, 512),
}


def test_a_healthy_run(tmp_path):
    result = run(write(tmp_path, HEALTHY), "--fail-on", "warning")
    assert (result.exit_code, result.output) == (0, "No findings in 2 tags.\n")
    assert json.loads(run(tmp_path, "--json").stdout) == []


def test_a_sick_run_is_told_by_layer(tmp_path):
    result = run(write(tmp_path, SICK))
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "layer fc1"
    assert "error dead  gradients/fc1.weight, step 0 to 4: every value is zero" in lines[1]
    assert "error nonfinite  gradients/fc1.bias, step 3 to 4: " in lines[2]
    assert lines[2].endswith(": 8")
    assert "warning init_asymmetry  weights/fc1.weight, step 0: |mean| / std is 1.3" in lines[3]
    for rule in ("dead", "nonfinite", "init_asymmetry"):
        place = lines.index(rule)
        assert "What people do: " in lines[place + 2]
        assert "Threshold: " in lines[place + 3]
    assert lines[-1] == "3 findings in 4 tags: 2 error, 1 warning, 0 info."


def test_json(tmp_path):
    write(tmp_path, SICK)
    found = json.loads(run(tmp_path, "--json").stdout)
    assert [(one["rule"], one["tag"]) for one in found] == [
        ("dead", "gradients/fc1.weight"),
        ("nonfinite", "gradients/fc1.bias"),
        ("init_asymmetry", "weights/fc1.weight"),
    ]
    types = [str, str, str, int, int, float, float, str]
    for one, finding in zip(found, fasthist.diagnose(fasthist.History.open(tmp_path)), strict=True):
        assert list(one)[: len(KEYS)] == KEYS
        assert [type(one[key]) for key in KEYS] == types
        assert one == {key: getattr(finding, key) for key in one}


@pytest.mark.parametrize(
    ("tags", "fail_on", "code"),
    [
        (HEALTHY, "warning", 0),
        (SICK, "warning", 1),
        (SICK, "error", 1),
        ({"weights/fc1.weight": SICK["weights/fc1.weight"]}, "warning", 1),
        ({"weights/fc1.weight": SICK["weights/fc1.weight"]}, "error", 0),
    ],
)
def test_exit_codes(tmp_path, tags, fail_on, code):
    write(tmp_path, tags)
    assert run(tmp_path, "--fail-on", fail_on).exit_code == code
    assert run(tmp_path).exit_code == 0


def test_tags_are_chosen_and_judged_by_all(tmp_path):
    tags = {
        "gradients/a.weight": lambda _: RNG.normal(0, 1e-7, 64),
        "gradients/b.weight": lambda _: RNG.normal(0, 1e-7, 64),
        "gradients/z.weight": lambda _: RNG.normal(0, 1e-3, 64),
    }
    write(tmp_path, tags)
    found = json.loads(run(tmp_path, "--tag", "a.weight", "--json").stdout)
    assert {one["tag"] for one in found} == {"gradients/a.weight"}
    assert "vanishing_gradient" in {one["rule"] for one in found}


def test_kinds_are_said(tmp_path):
    write(tmp_path, {"d=a": lambda _: RNG.normal(0, 1e-9, 64), "d=b": lambda _: RNG.normal(size=64)})  # fmt: skip
    assert json.loads(run(tmp_path, "--json").stdout) == []
    found = json.loads(run(tmp_path, "--kind", "^d==gradient", "--json").stdout)
    assert {one["rule"] for one in found} == {"vanishing_gradient", "underflow"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--kind", "gradient"], "--kind='gradient' is not known. Accepted: REGEX=KIND"),
        (["--kind", "a=grads"], "kind 'grads' of 'a' is not known. Accepted: weight, gradient"),
        (["--kind", "(=weight"], "'(' must be a regular expression"),
        (["--tag", "("], "--tag='(' must be a regular expression"),
        (["--tag", "zzz"], "--tag='zzz' is found in none of 2 tags"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, text):
    result = run(write(tmp_path, HEALTHY), *arguments)
    assert result.exit_code == 1
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_run_is_one_line(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        result = run(path)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_every_run_of_a_directory_is_judged(tmp_path):
    write(tmp_path / "sick", SICK)
    write(tmp_path / "well", HEALTHY)
    with fasthist.SummaryWriter(tmp_path / "scalars") as writer:
        writer.add_scalar("loss", 1.0, 0)
    result = run(tmp_path, "--fail-on", "error")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    alone = run(tmp_path / "sick").output.splitlines()
    assert lines == ["run sick", *alone, "", "run well", "No findings in 2 tags.", ""]
    rows = json.loads(run(tmp_path, "--json").stdout)
    assert {row.pop("run") for row in rows} == {"sick"}
    assert rows == json.loads(run(tmp_path / "sick", "--json").stdout)
    assert run(tmp_path / "well", "--fail-on", "warning").exit_code == 0


def test_runs_without_histograms(tmp_path):
    for name in ("a", "b"):
        with fasthist.SummaryWriter(tmp_path / name) as writer:
            writer.add_scalar("loss", 1.0, 0)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "holds no histograms. Accepted: event files with at least one. Were any" in result.stderr


def test_one_zero_in_a_coarse_bucket_is_not_dead(tmp_path):
    """Most values of this output are small, few are large, and one is 0: their bucket is narrow, and no proof."""
    edges = [0.0, 1e-4, 1.0, 2.0]
    with fasthist.SummaryWriter(tmp_path) as writer:
        for step in range(5):
            writer.add_histogram_raw(
                "activations/relu", 0, 2, 10_001, 600.0, 700.0, edges, [0, 9501, 100, 400], step
            )
    assert "zero" not in run(tmp_path).output
    shown = CliRunner().invoke(main, ["show", str(tmp_path)]).output
    assert "%" not in shown.splitlines()[1]


def test_zeros_that_are_told_are_those_of_show(tmp_path):
    values = np.where(np.arange(10_001) < 9_501, 0.0, 1e-5)
    with fasthist.SummaryWriter(tmp_path) as writer:
        for step in range(5):
            writer.add_histogram("activations/relu", values, step)
    assert "95.0% of the outputs are zero" in run(tmp_path).output
    assert "95.0%" in CliRunner().invoke(main, ["show", str(tmp_path)]).output
