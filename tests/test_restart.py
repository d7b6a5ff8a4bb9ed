"""A run that goes on from a checkpoint: what both of TensorBoard's loaders still show of its first life."""

from __future__ import annotations

import pytest
from event_files import files
from loaders import fast_loader, python_loader

import fasthist
from fasthist.errors import ArgumentError, WriteError
from fasthist.summary_writer import SummaryWriter


def first_life(log_dir, open_writer=SummaryWriter):
    """Write steps 0 to 9 of two series, and one that begins late."""
    writer = open_writer(str(log_dir))
    for step in range(10):
        writer.add_scalar("loss", step, step)
        writer.add_scalar("other", step, step)
        if step >= 6:
            writer.add_scalar("late", step, step)
    writer.close()


def second_life(log_dir, step):
    """Go on from `step`: one series is sparser than before, the late one comes again, the other never."""
    with SummaryWriter(log_dir, purge_step=step) as writer:
        for at in (step + 2, step + 3):
            writer.add_scalar("loss", 100 + at, at)
        writer.add_scalar("late", 100, step)


def shown(found):
    """Give {tag: {step: value}}, with the last value where a step comes twice."""
    return {tag: dict(data) for (_, tag), data in found.items()}


EXPECTED = {
    "loss": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 7: 107, 8: 108},
    "other": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
    "late": {5: 100},
}


@pytest.mark.parametrize("first_writer", ["fasthist", "torch"])
def test_both_loaders_forget_what_was_after(tmp_path, need, first_writer):
    if first_writer == "torch":
        first_life(tmp_path, need("torch.utils.tensorboard").SummaryWriter)
    else:
        first_life(tmp_path)
    second_life(tmp_path, 5)
    assert shown(python_loader(tmp_path, "scalars")) == EXPECTED
    assert shown(fast_loader(tmp_path, "scalars", lambda f: shown(f) == EXPECTED)) == EXPECTED


def test_a_third_life(tmp_path):
    first_life(tmp_path)
    second_life(tmp_path, 5)
    second_life(tmp_path, 3)
    expected = {
        "loss": {0: 0, 1: 1, 2: 2, 5: 105, 6: 106},
        "other": {0: 0, 1: 1, 2: 2},
        "late": {3: 100},
    }
    assert shown(python_loader(tmp_path, "scalars")) == expected
    assert shown(fast_loader(tmp_path, "scalars", lambda f: shown(f) == expected)) == expected


def test_what_a_second_life_forgot_does_not_come_back(tmp_path):
    first_life(tmp_path)
    for step in (
        5,
        8,
    ):  # "late" was at 6, 7, 8 and 9 in the first life, and nowhere since the second
        with SummaryWriter(tmp_path, purge_step=step) as writer:
            writer.add_scalar("loss", 100, step)
    assert shown(python_loader(tmp_path, "scalars")) == {
        "loss": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 100, 8: 100},
        "other": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
        "late": {},
    }


def test_histograms_are_forgotten_too(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step in range(10):
            writer.add_histogram("a", [float(step), 1.0, 2.0], step)
    with SummaryWriter(tmp_path, purge_step=4) as writer:
        writer.add_histogram("a", [50.0, 60.0], 8)
    for found in (
        python_loader(tmp_path, "histograms"),
        fast_loader(tmp_path, "histograms", lambda f: len(f.get((".", "a"), ())) == 5),
    ):
        steps = [step for step, _ in found[".", "a"]]
        assert sorted(set(steps)) == [0, 1, 2, 3, 8]
        assert found[".", "a"][-1][1][:, 2].sum() == 2


def test_counts_written_again_are_not_histograms(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("a", [1.0, float("nan")], 2)
        for step in (3, 8):
            writer.add_histogram("a", [1.0], step)
        writer.add_histogram("a", [1.0, float("nan")], 9)
    SummaryWriter(
        tmp_path, purge_step=5
    ).close()  # "a" at 3 and "a/nan_count" at 2 are written again
    found = [(step, h.num, h.nan_count) for _, _, step, _, h in fasthist.read(tmp_path)]
    assert found == [(2, 1, 1), (3, 1, 0), (8, 1, 0), (9, 1, 1), (3, 1, 0)]


def test_without_a_first_life(tmp_path):
    second_life(tmp_path / "new", 5)
    expected = {"loss": {7: 107, 8: 108}, "late": {5: 100}}
    assert shown(python_loader(tmp_path, "scalars")) == expected


def test_the_files_of_the_first_life_are_not_touched(tmp_path):
    first_life(tmp_path)
    (path,) = files(tmp_path)
    before = path.read_bytes()
    second_life(tmp_path, 5)
    assert files(tmp_path)[0] == path
    assert path.read_bytes() == before
    assert len(files(tmp_path)) == 2


def test_what_cannot_be_begun_is_told_at_once(tmp_path):
    with pytest.raises(ArgumentError, match="purge_step='x' is no step"):
        SummaryWriter(tmp_path, purge_step="x")
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(WriteError, match="no event file can be made here"):
        SummaryWriter(tmp_path / "run", purge_step=3)
    (tmp_path / "run").unlink()
    assert list(fasthist.read(tmp_path)) == []
