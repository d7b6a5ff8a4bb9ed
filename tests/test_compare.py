"""`fasthist compare`: distances against scipy's of the values, where runs part, exit codes, checkpoints."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from test_cli import one_line, process, run, save

from fasthist import History, SummaryWriter, histogram
from fasthist.commands import comparing

STEPS = range(10)


def write(log_dir, values):
    """Write {(tag, step): array}, most of them so large that their sums are written too."""
    with SummaryWriter(log_dir) as writer:
        for (tag, step), array in values.items():
            writer.add_histogram(tag, array, step)
    return log_dir


def normals(seed, shift=lambda *_: 0.0, tags=("w", "v"), steps=STEPS, size=2000):
    rng = np.random.default_rng(seed)
    return {
        (tag, step): rng.normal(shift(tag, step), 1, size).astype("f4")
        for step in steps
        for tag in tags
    }


def result_of(*arguments, code=0):
    result = run("compare", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (code, ""), result.output
    return json.loads(result.stdout, parse_constant=pytest.fail)


# ---- runs


def test_distances_of_the_last_step(tmp_path, need):
    first, other = normals(0), normals(1, lambda tag, _: 2.0 * (tag == "v"))
    found = result_of(write(tmp_path / "a", first), write(tmp_path / "b", other))
    assert [one["tag"] for one in found] == ["v", "w"]  # the largest distance first
    for one in found:
        assert (one["step_a"], one["step_b"]) == (9, 9)
        a, b = (values[one["tag"], 9].astype("f8") for values in (first, other))
        expected = need("scipy.stats").wasserstein_distance(a, b) / a.std()
        assert one["wasserstein"] == pytest.approx(expected, rel=0.02, abs=0.01)
        assert one["std_ratio"] == pytest.approx(b.std() / a.std(), rel=1e-6)
        assert one["l2_ratio"] == pytest.approx(np.linalg.norm(b) / np.linalg.norm(a), rel=1e-6)
        assert 0 < one["jensen_shannon"] < 1
        assert one["psi"] > 0
    assert found[0]["wasserstein"] > 1 > found[1]["wasserstein"]


def test_a_run_and_itself(tmp_path):
    write(tmp_path / "a", normals(0))
    write(tmp_path / "b", normals(0))
    for one in result_of(tmp_path / "a", tmp_path / "b", "--fail-above", 0):
        assert (one["wasserstein"], one["jensen_shannon"], one["psi"]) == (0, 0, 0)
        assert (one["std_ratio"], one["l2_ratio"], one["parts_at"]) == (1, 1, None)
    assert run("compare", tmp_path / "a", tmp_path / "b").stdout.splitlines()[-1] == (
        "They never part by more than 0.1 standard deviations."
    )


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("size", [40, 2000])
def test_the_first_step_where_they_part(tmp_path, size, scale):
    """By their means, or by nothing that the sums tell: the values are 3 and -3 instead of normal."""
    first = normals(0, size=size)
    other = {
        (tag, step): values if tag == "w" or step < 6 else values + 3 * scale + 3 * np.sign(values)
        for (tag, step), values in first.items()
    }
    found = result_of(write(tmp_path / "a", first), write(tmp_path / "b", other))
    assert {one["tag"]: one["parts_at"] for one in found} == {"v": 6, "w": None}
    result = run("compare", tmp_path / "a", tmp_path / "b")
    assert result.stdout.splitlines()[-1] == (
        "They part at step 6, first in v: more than 0.1 standard deviations."
    )
    (one,) = result_of(tmp_path / "a", tmp_path / "b", "--part-above", 100, "--tag", "v")
    assert one["parts_at"] is None


def test_parting_is_searched_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_BATCH", 3)
    first = normals(0, tags=("w",))
    other = normals(1, tags=("w",)) | {("w", 8): first["w", 8] * 4}
    (one,) = result_of(
        write(tmp_path / "a", first), write(tmp_path / "b", other), "--part-above", 1
    )
    assert one["parts_at"] == 8


def test_a_constant_is_measured_by_the_other(tmp_path):
    rng = np.random.default_rng(0)
    a = write(tmp_path / "a", {("zeros", 0): np.zeros(500), ("ones", 0): np.full(500, 0.7)})
    b = write(
        tmp_path / "b",
        {("zeros", 0): rng.normal(0, 1e-3, 500), ("ones", 0): np.full(500, 1.4)},
    )
    found = {one["tag"]: one["wasserstein"] for one in result_of(a, b)}
    assert found["zeros"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.1)  # mean of |x| in sigmas
    assert found["ones"] == pytest.approx(1.0, rel=1e-3)


def test_steps(tmp_path):
    a = write(tmp_path / "a", normals(0, steps=(0, 10, 20, 30), tags=("w",)))
    b = write(tmp_path / "b", normals(1, steps=(5, 10, 20, 40), tags=("w",)))
    for arguments, expected in (
        ((), 20),
        (("--step", 10), 10),
        (("--step", 13), 10),
        (("--step", 99), 20),
    ):
        (one,) = result_of(a, b, *arguments)
        assert (one["step_a"], one["step_b"]) == (expected, expected)
    c = write(tmp_path / "c", normals(2, steps=(3, 18), tags=("w",)))
    (one,) = result_of(a, c)
    assert (one["step_a"], one["step_b"], one["parts_at"]) == (30, 18, None)
    (one,) = result_of(a, c, "--step", 12)
    assert (one["step_a"], one["step_b"]) == (10, 18)
    assert " 10, 18 " in run("compare", a, c, "--step", 12).stdout


def test_several_runs_against_the_first(tmp_path):
    paths = [write(tmp_path / str(seed), normals(seed, tags=("w",))) for seed in range(3)]
    found = result_of(*paths)
    assert sorted(one["run"] for one in found) == [str(path) for path in paths[1:]]
    assert str(paths[2]) in run("compare", *paths).stdout


def test_tags_of_one_alone_are_told(tmp_path):
    a = write(tmp_path / "a", normals(0, tags=("w", "old")))
    b = write(tmp_path / "b", normals(1, tags=("w", "new")))
    result = run("compare", a, b)
    assert result.exit_code == 0
    assert result.stderr == f"fasthist: only in {a}: old\nfasthist: only in {b}: new\n"
    assert [line.split()[0] for line in result.stdout.splitlines()[:2]] == ["tag", "w"]


def test_fail_above(tmp_path):
    a = write(tmp_path / "a", normals(0))
    b = write(tmp_path / "b", normals(1, lambda *_: 0.5))
    assert run("compare", a, b, "--fail-above", 0.7).exit_code == 0
    assert run("compare", a, b, "--fail-above", 0.3).exit_code == 1
    assert len(result_of(a, b, "--fail-above", 0.3, code=1)) == 2
    assert process("compare", a, b, "--fail-above", "0.3").returncode == 1


def test_what_has_no_values(tmp_path):
    a = write(tmp_path / "a", {("w", 0): np.array([np.nan]), ("v", 0): np.ones(3)})
    b = write(tmp_path / "b", {("w", 0): np.ones(3), ("v", 0): np.ones(3)})
    found = {one["tag"]: one for one in result_of(a, b, "--fail-above", 0)}
    assert found["w"]["wasserstein"] is found["w"]["psi"] is found["w"]["std_ratio"] is None
    assert found["v"]["wasserstein"] == 0


def test_rows_without_sums():
    """TensorFlow's form: the standard deviation is that of the rows."""
    from test_show import GOLDEN

    found = result_of(GOLDEN / "torch", GOLDEN / "tensorflow2", "--tag", "spread|layer")
    assert {one["tag"] for one in found} == {"spread", "layer/weight"}
    for one in found:
        assert one["wasserstein"] < 0.1
        assert one["std_ratio"] == pytest.approx(1, abs=0.05)
        assert one["l2_ratio"] == pytest.approx(1, abs=0.05)


def test_large_runs_are_read_side_by_side(tmp_path, monkeypatch):
    paths = [write(tmp_path / str(seed), normals(seed, tags=("u", "v", "w"))) for seed in range(2)]
    expected = result_of(*paths)
    monkeypatch.setattr(comparing, "_LARGE", 0)
    monkeypatch.setattr(comparing.os, "cpu_count", lambda: 4)
    assert result_of(*paths) == expected
    here, refresh = [], History.refresh
    monkeypatch.setattr(History, "refresh", lambda *args: here.append(args) or refresh(*args))
    assert result_of(*paths) == expected
    assert [history.path for history, _ in here] == [str(paths[1])]  # the other one elsewhere
    (file,) = paths[0].iterdir()
    file.write_bytes(file.read_bytes()[:-300] + bytes(300))
    assert "checksum" in one_line(run("compare", *paths))


# ---- checkpoints


def test_checkpoints(tmp_path, need):
    rng = np.random.default_rng(0)
    first = {"fc.weight": rng.normal(size=3000).astype("f4"), "fc.bias": np.ones(7)}
    other = {"fc.weight": first["fc.weight"] * 1.5, "fc.bias": np.ones(7)}
    a, b = save(tmp_path / "step_1.safetensors", first), save(tmp_path / "step_2.npz", other)
    weight, bias = result_of(a, b)
    assert (weight["tag"], weight["step_a"], weight["step_b"]) == ("fc.weight", 1, 2)
    expected = need("scipy.stats").wasserstein_distance(first["fc.weight"], other["fc.weight"])
    assert weight["wasserstein"] == pytest.approx(expected / first["fc.weight"].std(), rel=0.05)
    assert weight["std_ratio"] == pytest.approx(1.5, rel=1e-6)
    assert (bias["tag"], bias["wasserstein"]) == ("fc.bias", 0)
    assert run("compare", a, b, "--fail-above", 0.1).exit_code == 1
    assert run("compare", a, b, "--fail-above", 0.1, "--tag", "bias").exit_code == 0
    assert "--step=1 chooses" in one_line(run("compare", a, b, "--step", 1))


def test_a_tensor_that_cannot_be_counted(tmp_path):
    odd = {"w": np.ones(3), "text": np.array(["a"])}
    a, b = save(tmp_path / "a.npz", odd), save(tmp_path / "b.npz", odd)
    result = run("compare", a, b)
    assert result.exit_code == 0
    assert result.stderr.count("fasthist: left out text: the numpy type '<U1' cannot be") == 2


# ---- what goes wrong


def test_runs_and_checkpoints_are_not_mixed(tmp_path):
    a, b = write(tmp_path / "a", normals(0)), save(tmp_path / "b.npz")
    line = one_line(run("compare", a, b))
    assert f"{b} is a checkpoint and {a} is none" in line


def test_bad_paths(tmp_path):
    good = write(tmp_path / "a", normals(0))
    assert "gone is not there" in one_line(run("compare", good, tmp_path / "gone"))
    assert "No such file" in one_line(run("compare", tmp_path / "x.npz", tmp_path / "y.npz"))
    (tmp_path / "empty").mkdir()
    assert "holds no event files" in one_line(run("compare", good, tmp_path / "empty"))
    with SummaryWriter(tmp_path / "scalars") as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert "holds no histograms" in one_line(run("compare", good, tmp_path / "scalars"))
    assert "holds 2 runs" in one_line(run("compare", good, tmp_path))


def test_nothing_in_common(tmp_path):
    a = write(tmp_path / "a", normals(0, tags=("w",)))
    b = write(tmp_path / "b", normals(0, tags=("v",)))
    line = one_line(run("compare", a, b))
    assert f"{a} and {b} have no tag in common" in line
    assert "The first has w, the other v." in line
    assert "is found in none" in one_line(run("compare", a, a, "--tag", "x"))


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "--fail-above", "-1"]])
def test_wrong_use_is_exit_code_2(arguments):
    assert run("compare", *arguments).exit_code == 2


def test_help_has_an_example():
    assert "\n  Example:\n    fasthist compare runs/" in run("compare", "--help").output


def test_the_shortcut_by_the_means_agrees_with_the_distances(tmp_path):
    """Where the means alone tell that two series have parted, their distance says so too."""
    first = normals(0, tags=("w",))
    other = normals(1, lambda _, step: step * 0.05, tags=("w",))
    a, b = History.open(write(tmp_path / "a", first)), History.open(write(tmp_path / "b", other))
    from fasthist.distances import wasserstein

    expected = next(
        step
        for step in STEPS
        if wasserstein(histogram(first["w", step]), histogram(other["w", step]))
        > 0.2 * first["w", step].std()
    )
    (one,) = result_of(a.path, b.path, "--part-above", 0.2)
    assert one["parts_at"] == expected


def test_runs_of_the_same_moments_part_where_their_values_do(tmp_path):
    one, other = [-10.0, 0, 4, 5, 10], [-10.0, 1, 2, 6, 10]  # the same sums, extremes and squares
    for name, values in (("a", one), ("b", other)):
        with SummaryWriter(tmp_path / name) as writer:
            writer.add_histogram("w", np.repeat(values, 100), 0, bins="tensorflow")
    a, b = (History.open(tmp_path / name)["w"] for name in ("a", "b"))
    assert (a.sum, a.sum_squares) == (b.sum, b.sum_squares)
    found = run("compare", tmp_path / "a", tmp_path / "b", "--json")
    assert [row["parts_at"] for row in json.loads(found.stdout)] == [0]
