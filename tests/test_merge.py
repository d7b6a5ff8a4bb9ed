"""``fasthist merge``: the files of ranks become one run, exactly where files tell, and nothing is guessed."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from event_files import events, files
from oracle import answer, tensorflow_edges

import fasthist
from fasthist import rank_files
from fasthist.cli import main
from fasthist.events.messages import histogram_value, summary_event
from fasthist.events.writer import EventFileWriter

RNG = np.random.default_rng(5)


def run(*arguments):
    return CliRunner().invoke(main, ["merge", *map(str, arguments)])


def log(log_dir, steps, suffix="", bins="tensorflow"):
    """Write {step: {tag: values}} to a new file."""
    with fasthist.SummaryWriter(log_dir, filename_suffix=suffix) as writer:
        for step, tree in steps.items():
            for tag, values in tree.items():
                writer.add_histogram(tag, values, step, bins)


def found_in(log_dir):
    rows = list(fasthist.read(log_dir))
    assert len(rows) == len({(row.tag, row.step) for row in rows})
    return {(row.tag, row.step): row.histogram for row in rows}


def one_line(result):
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("fasthist: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    return result.stderr


def check_counts(found, values):
    """Hold a histogram from a file against the definition of TensorFlow's buckets."""
    expected = answer(values)
    edges, filled = tensorflow_edges(), expected.counts.nonzero()[0]
    kept = found.counts.nonzero()[0]
    assert found.counts[kept].tolist() == expected.counts[filled].tolist()
    # Each bucket of the file lies in the one of TensorFlow's that has its count, but for the room around what is outermost.
    assert (found.buckets.edges[kept][1:-1] >= edges[filled][1:-1]).all()
    assert (found.buckets.edges[kept + 1][:-1] <= edges[filled + 1][:-1]).all()
    for name in ("num", "min", "max", "nan_count", "posinf_count", "neginf_count"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.sum == pytest.approx(float(expected.total), rel=1e-12, abs=1e-12)
    assert found.sum_squares == pytest.approx(float(expected.squares), rel=1e-12)


SHARDS = {
    "normal": [RNG.normal(0, scale, 1000) for scale in (1, 0.1, 5, 1e-4)],
    "zero is the largest": [-np.maximum(RNG.normal(size=500), 0) for _ in range(4)],
    "a limit is the largest": [
        np.append(RNG.uniform(0, 1e-12 * 1.1, 100), 1e-12 * 1.1),
        np.arange(3.0),
    ],
    "constants beside others": [
        np.zeros(7),
        np.full(9, 0.3),
        RNG.normal(size=400),
        np.full(1, -1e-12),
    ],
    "not finite": [
        np.array([np.nan, 1, 2, np.inf]),
        np.array([np.nan] * 3),
        np.array([-np.inf, 5.0, -3]),
    ],
    "single values": [np.array([one]) for one in (1.0, 2.0, -7.5)] + [np.array([0.5, 8.0])],
    "wide": [np.array([-1e300, 0, 1e-300]), np.array([1e19, 1e21, 3e38])],
}


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("layout", ["suffixes", "directories"])
def test_tensorflows_counts_add_up_exactly(tmp_path, name, layout):
    shards = SHARDS[name]
    for rank, shard in enumerate(shards):
        place, suffix = ("", f".rank{rank}") if layout == "suffixes" else (f"rank{rank}", "")
        log(tmp_path / "ranks" / place, {3: {"w": shard}, 5: {"w": shard * 2, "v": -shard}}, suffix)
    result = run(tmp_path / "ranks", "--out", tmp_path / "whole")
    assert result.exit_code == 0, result.output
    found = found_in(tmp_path / "whole")
    assert list(found) == [("w", 3), ("w", 5), ("v", 5)]
    whole = np.concatenate(shards)
    for key, values in zip(found, (whole, whole * 2, -whole), strict=True):
        check_counts(found[key], values)


def test_random_shards_add_up_exactly(tmp_path):
    rng = np.random.default_rng(6)
    trees = []
    for rank in range(5):
        sizes = rng.integers(1, 400, 60)
        trees.append(
            {
                f"t{i}": rng.normal(0, 10.0 ** rng.integers(-14, 22), size)
                for i, size in enumerate(sizes)
            }
        )
        log(tmp_path / "ranks", {0: trees[-1]}, f"_{'abcde'[rank]}")
    assert run(tmp_path / "ranks", "-o", tmp_path / "out").exit_code == 0
    found = found_in(tmp_path / "out")
    assert len(found) == 60
    for tag in trees[0]:
        check_counts(found[tag, 0], np.concatenate([tree[tag] for tree in trees]))


PICTURES = {
    "alike": [RNG.normal(0, 1, 20_000) for _ in range(8)],
    "apart": [RNG.normal(rank, 0.1 + rank, 5_000) for rank in range(8)],
    "heavy tails": [RNG.standard_cauchy(4_000) for _ in range(3)],
    "half zero": [np.maximum(RNG.normal(0, 1, 9_000), 0) for _ in range(4)],
    "layer norm": [RNG.normal(1, 0.01, 3_000) for _ in range(4)],
    "one constant": [np.ones(300), RNG.uniform(0, 2, 700)],
    "few": [np.array([1.0, 2.0, 3.0]), np.array([2.5]), np.array([1.0, 1.0])],
    "far from zero": [1e6 + RNG.normal(0, 0.01, 3_000) for _ in range(2)],
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_add_up_within_their_bound(tmp_path, name):
    shards = PICTURES[name]
    for rank, shard in enumerate(shards):
        log(tmp_path / "ranks", {1: {"w": np.append(shard, np.nan)}}, f".rank{rank}", "auto")
    assert run(tmp_path / "ranks", "--out", tmp_path / "out").exit_code == 0
    (found,) = found_in(tmp_path / "out").values()
    ordered = np.sort(np.concatenate(shards))
    assert (found.num, found.nan_count, found.posinf_count) == (ordered.size, len(shards), 0)
    assert found.counts.sum() == ordered.size
    # Around a constant, and in the newer form, the ends may leave a value some room.
    assert found.min == pytest.approx(ordered[0], rel=1e-6)
    assert found.max == pytest.approx(ordered[-1], rel=1e-6)
    if found.sum is not None:
        assert found.sum == pytest.approx(float(answer(ordered).total), rel=1e-12)
    room = 1e-6 * (ordered[-1] - ordered[0])
    for q in np.linspace(0, 1, 101):
        value = found.quantile(q)
        low = np.searchsorted(ordered, value - room, side="left") / ordered.size
        high = np.searchsorted(ordered, value + room, side="right") / ordered.size
        assert low - 0.02 <= q <= high + 0.02


def test_a_dull_series_of_one_value_is_left_as_it_is(tmp_path):
    for rank in range(2):
        log(
            tmp_path / "ranks", {1: {"w": np.full(10, 0.25), "n": [np.nan]}}, f".rank{rank}", "auto"
        )
    assert run(tmp_path / "ranks", "--out", tmp_path / "out").exit_code == 0
    found = found_in(tmp_path / "out")
    assert (found["w", 1].num, found["w", 1].mean) == (20, 0.25)
    assert found["w", 1].max - found["w", 1].min < 1e-6
    assert (found["n", 1].num, found["n", 1].nan_count) == (0, 2)


def test_what_is_written(tmp_path):
    """Through tensorboard's own messages: one event of a step, with the time of the last rank."""
    for rank in range(2):
        log(tmp_path / "ranks", {4: {"v": [1.0, 2.0], "w": np.arange(10.0) + rank}}, f".rank{rank}")
    run(tmp_path / "ranks", "--out", tmp_path / "out")
    (path,) = files(tmp_path / "out")
    (event,) = events(path)
    assert [value.tag for value in event.summary.value] == ["v", "w"]
    histo = event.summary.value[1].histo
    assert (event.step, histo.num, histo.min, histo.max, histo.sum) == (4, 20, 0, 10, 100)
    assert sum(histo.bucket) == 20
    assert event.wall_time == max(row.wall_time for row in fasthist.read(tmp_path / "ranks"))


def test_torchs_files(tmp_path, need):
    need("tensorboard")
    board = need("torch.utils.tensorboard")
    shards = [RNG.normal(size=400), RNG.normal(3, 0.1, size=200), np.array([0.0, 7.0])]
    for rank, shard in enumerate(shards):
        with board.SummaryWriter(str(tmp_path / "ranks"), filename_suffix=f".rank{rank}") as writer:
            writer.add_histogram("w", shard, 2)
    result = run(tmp_path / "ranks", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "do not tell of 1 of them how many values were NaN or infinite" in result.stderr
    check_counts(found_in(tmp_path / "out")["w", 2], np.concatenate(shards))


# ---- restarts, order, what is missing


def test_what_was_written_last_counts(tmp_path):
    first = {step: {"w": np.full(10, step + 0.5)} for step in range(6)}
    log(tmp_path / "ranks", first, ".rank0")
    log(tmp_path / "ranks", first, ".rank1")
    again = {step: {"w": np.full(20, step + 0.25)} for step in range(3, 8)}
    log(tmp_path / "ranks", again, ".rank1")
    log(tmp_path / "ranks", {6: {"w": [1.0]}, 7: {"w": [2.0]}}, ".rank0")
    with fasthist.SummaryWriter(tmp_path / "ranks", filename_suffix=".rank0") as writer:
        for value in (1.0, 2.0, 3.0):  # in one file, too
            writer.add_histogram("w", [value], 7, "tensorflow")
    result = run(tmp_path / "ranks", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = found_in(tmp_path / "out")
    assert {step: found["w", step].num for step in range(8)} == {
        0: 20, 1: 20, 2: 20, 3: 30, 4: 30, 5: 30, 6: 21, 7: 21,
    }  # fmt: skip
    ends = {step: (found["w", step].min, found["w", step].max) for step in (1, 4, 7)}
    assert ends == {
        step: pytest.approx(pair)
        for step, pair in {1: (1.5, 1.5), 4: (4.25, 4.5), 7: (3, 7.25)}.items()
    }


def orders(tmp_path):
    """Log the same in three orders, two clocks among them; the third rank lacks some."""
    everything = [(tag, step) for step in range(40) for tag in ("a", "b", "c")]
    everything += [("epoch", step) for step in range(4)]
    by_tag = sorted(everything)
    clocks = sorted(everything, key=lambda key: key[1] * 10 if key[0] == "epoch" else key[1])
    few = [key for key in everything if key[0] != "b"]
    for rank, keys in enumerate((clocks, by_tag, few, everything)):
        with fasthist.SummaryWriter(tmp_path / "ranks", filename_suffix=f".rank{rank}") as writer:
            for tag, step in keys:
                writer.add_histogram(tag, np.arange(1.0, 2 + rank + step), step, "tensorflow")
    return everything


def test_any_order(tmp_path):
    everything = orders(tmp_path)
    result = run(tmp_path / "ranks", "--out", tmp_path / "out", "--allow-missing")
    assert result.exit_code == 0, result.output
    found = found_in(tmp_path / "out")
    assert set(found) == set(everything)
    for (tag, step), histogram in found.items():
        ranks = (0, 1, 3) if tag == "b" else (0, 1, 2, 3)
        assert histogram.num == sum(rank + step + 1 for rank in ranks)


def test_what_is_missing_is_said_and_left_out(tmp_path):
    orders(tmp_path)
    log(tmp_path / "ranks", {99: {"a": [1.0], "d": [1.0]}}, ".rank2")
    result = run(tmp_path / "ranks", "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        f"{tmp_path}/out: 84 histograms of 4 ranks, .rank0 to .rank3",
        f"Look at them with: tensorboard --logdir {tmp_path}/out",
        "Left out, since not every rank has it:",
        "  b at 40 steps, 0 to 39: not in the files of .rank2",
        "  a at step 99: not in the files of .rank0, .rank1, .rank3",
        "  d at step 99: not in the files of .rank0, .rank1, .rank3",
    ]
    assert {tag for tag, _ in found_in(tmp_path / "out")} == {"a", "c", "epoch"}
    result = run(tmp_path / "ranks", "--out", tmp_path / "more", "--allow-missing")
    assert result.exit_code == 0
    assert "126 histograms of 4 ranks" in result.stdout
    assert (
        "Summed without some ranks:\n  b at 40 steps, 0 to 39: not in the files of .rank2\n"
        in result.stdout
    )


def test_a_rank_that_is_not_there(tmp_path):
    for rank in (0, 1, 3, 10):
        log(tmp_path / "ranks" / f"rank{rank}", {1: {"w": [1.0]}})
    text = one_line(run(tmp_path / "ranks", "--out", tmp_path / "out"))
    assert "has files of 4 ranks, rank0 to rank10, but none of rank2, rank4, rank5, rank6, " in text
    assert not (tmp_path / "out").exists()
    result = run(tmp_path / "ranks", "--out", tmp_path / "out", "--allow-missing")
    assert result.exit_code == 0
    assert "Summed without some ranks:\n  no files of rank2\n  no files of rank4\n" in result.stdout


def test_few_histograms_are_held(tmp_path, monkeypatch):
    """Ranks that log in the same order, of which two have been restarted and one lacks a tag."""
    steps = {step: {tag: [step + 1.0] for tag in "abcd"} for step in range(50)}
    for rank in range(6):
        log(
            tmp_path,
            {step: tree for step, tree in steps.items() if rank % 3 or step < 30},
            f".{rank}x",
        )
        if rank % 3 == 0:
            log(tmp_path, {step: tree for step, tree in steps.items() if step >= 17}, f".{rank}x")
    log(tmp_path, {step: {tag: tree[tag] for tag in "acd"} for step, tree in steps.items()}, ".6x")
    ranks = rank_files.find_ranks(tmp_path)
    index = rank_files.look_through(ranks, lambda _: None)
    held = 0

    def counted(path):
        nonlocal held
        for one in fasthist.read(path):
            held += 1
            yield one

    monkeypatch.setattr(rank_files, "read", counted)
    given, most = 0, 0
    for parts in rank_files.collected(ranks, index, set(index.holders)):
        given += len(parts)
        most = max(most, held - given)
    # What a restart has written again is read, and not held.
    assert given == 6 * 200 + 150
    assert most - 2 * 4 * 13 < 20


def test_ranks_of_their_own_processes(tmp_path):
    script = (
        "import sys, fasthist, numpy as np\n"
        "rank = int(sys.argv[1])\n"
        "with fasthist.SummaryWriter(sys.argv[2], filename_suffix=f'.rank{rank}') as writer:\n"
        "    for step in range(20):\n"
        "        writer.add_histogram('w', np.random.default_rng([rank, step]).normal(size=50), step, 'tensorflow')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(rank), str(tmp_path / "ranks")])
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert run(tmp_path / "ranks", "--out", tmp_path / "out").exit_code == 0
    found = found_in(tmp_path / "out")
    assert len(found) == 20
    for (_, step), histogram in found.items():
        parts = [np.random.default_rng([rank, step]).normal(size=50) for rank in range(2)]
        check_counts(histogram, np.concatenate(parts))


# ---- whose files they are


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("events.out.tfevents.1760000000.host.1234.000000.rank3", ".rank3"),
        ("events.out.tfevents.1760000000.a.b.c.1234.000001.3", ".3"),
        ("events.out.tfevents.1760000000.10.0.0.1.1234.000000", ""),
        ("events.out.tfevents.1760000000.host.1234.000012_r", "_r"),
        ("events.out.tfevents.1760000000.host.1234.0", ""),
        ("events.out.tfevents.1760000000.host.1234.12.rank3", ".rank3"),
        ("events.out.tfevents.1760000000.10.0.0.1.123456.0.rank2", ".rank2"),
        ("events.out.tfevents.1760000000.host.1234.0.v2", ""),
        ("events.out.tfevents.1760000000.host.1234.0.rank1.v2", ".rank1"),
        ("events.out.tfevents.1760000000.hostrank1", "hostrank1"),
    ],
)
def test_suffixes_of_every_writer(tmp_path, name, suffix):
    (tmp_path / name).touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "events.out.tfevents.1760000000.h.1.000000").touch()
    assert {rank.name for rank in rank_files.find_ranks(tmp_path)} == {"other", suffix or "."}


def test_ranks_are_in_the_order_of_their_numbers(tmp_path):
    for rank, node in itertools.product((10, 9, 0), (2, 10)):
        place = tmp_path / f"node{node}"
        place.mkdir(exist_ok=True)
        (place / f"events.out.tfevents.1760000000.h.1.000000.r{rank}n{node}").touch()
    names = [rank.name for rank in rank_files.find_ranks(tmp_path)]
    assert names == [f"node{node}/.r{rank}n{node}" for node in (2, 10) for rank in (0, 9, 10)]
    assert rank_files.lost_ranks(rank_files.find_ranks(tmp_path)) == []


# ---- what goes wrong


def two_ranks(directory, tree=None):
    for rank in range(2):
        log(directory, {1: tree or {"w": [1.0, 2.0]}}, f".rank{rank}")
    return directory


def test_a_directory_that_cannot_be_merged(tmp_path):
    out = tmp_path / "out"
    assert "nowhere is not there. Accepted: a directory" in one_line(
        run(tmp_path / "nowhere", "-o", out)
    )
    (tmp_path / "file").touch()
    assert "file is a file. Accepted: a directory" in one_line(run(tmp_path / "file", "-o", out))
    (tmp_path / "empty").mkdir()
    assert "empty has no event files" in one_line(run(tmp_path / "empty", "-o", out))
    for _ in range(2):
        log(tmp_path / "one", {1: {"w": [1.0]}}, ".rank0")
    text = one_line(run(tmp_path / "one", "-o", out))
    assert "has the files of one rank, '.rank0'" in text
    assert "filename_suffix" in text
    for name in ("a", "b"):
        two_ranks(tmp_path / "runs" / name)
    text = one_line(run(tmp_path / "runs", "-o", out))
    assert "both a and b have files that end in '.rank0'" in text
    for rank in range(2):
        with fasthist.SummaryWriter(tmp_path / "scalars", filename_suffix=f".rank{rank}") as writer:
            writer.add_scalar("loss", 1.0, 1)
        log(tmp_path / "strangers", {rank: {"w": [1.0]}}, f".rank{rank}")
    assert "no histogram in the 2 ranks' files" in one_line(run(tmp_path / "scalars", "-o", out))
    text = one_line(run(tmp_path / "strangers", "-o", out))
    assert "no tag and step is in the files of all 2 ranks, .rank0 to .rank1" in text
    assert not out.exists()


def at_times(log_dir, begin, tags=("a", "b"), steps=3):
    """Write a run of which each step takes a second."""
    with fasthist.SummaryWriter(log_dir) as writer:
        for step in range(steps):
            writer.add_histograms({tag: np.arange(5.0) for tag in tags}, step, begin + step)


@pytest.mark.parametrize(
    ("names", "pause", "refused"),
    [
        (("before", "after"), 0.5, True),
        (("before", "after"), -1.5, False),  # at the same time: hosts, maybe
        (("version_0", "version_1"), 60.0, True),
        (("version_0", "version_1"), 0.5, False),
        (("rank0", "rank1"), 60.0, False),
    ],
)
def test_one_run_after_the_other_is_refused(tmp_path, names, pause, refused):
    at_times(tmp_path / "runs" / names[0], 1e9)
    at_times(tmp_path / "runs" / names[1], 1e9 + 2 + pause)
    result = run(tmp_path / "runs", "--out", tmp_path / "out")
    if refused:
        line = one_line(result)
        assert f"{names[0]} ended before {names[1]} began, so they look like two runs" in line
        assert "fasthist compare" in line
        assert not (tmp_path / "out").exists()
    else:
        assert result.exit_code == 0, result.output
        assert found_in(tmp_path / "out")["a", 2].num == 10


def test_a_rank_within_the_time_of_another_is_of_its_run(tmp_path):
    for name, begin, steps in (("a", 0, 100), ("b", 10, 3), ("c", 50, 3)):
        at_times(tmp_path / "runs" / name, 1e9 + begin, steps=steps)
    result = run(tmp_path / "runs", "--out", tmp_path / "out", "--allow-missing")
    assert result.exit_code == 0, result.output


def test_parts_of_a_checkpoint_may_be_logged_one_after_the_other(tmp_path):
    for name, begin in (("encoder", 0), ("decoder", 900)):
        at_times(tmp_path / "runs" / name, 1e9 + begin, steps=1)
    assert run(tmp_path / "runs", "--out", tmp_path / "out").exit_code == 0


def test_runs_of_different_models_are_refused(tmp_path):
    at_times(tmp_path / "runs" / "cnn", 1e9, ("conv1", "conv2", "fc"))
    at_times(tmp_path / "runs" / "mlp", 1e9, ("fc1", "fc2", "fc"))
    line = one_line(run(tmp_path / "runs", "--out", tmp_path / "out"))
    assert "most tags of cnn and mlp are not in both, so they look like two runs" in line
    result = run(tmp_path / "runs", "--out", tmp_path / "out", "--allow-missing")
    assert result.exit_code == 0, result.output


def test_an_out_that_must_not_be_written(tmp_path):
    ranks = two_ranks(tmp_path / "ranks")
    assert "lies in" in one_line(run(ranks, "-o", ranks / "sub"))
    assert "is not an empty directory" in one_line(run(ranks, "-o", ranks))
    assert "is not an empty directory" in one_line(run(ranks, "-o", tmp_path))
    (tmp_path / "file").touch()
    assert "is not an empty directory" in one_line(run(ranks, "-o", tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    assert run(ranks, "-o", tmp_path / "empty").exit_code == 0
    assert "Missing option" in run(ranks).stderr
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "cannot write" in one_line(run(ranks, "-o", tmp_path / "closed" / "out"))


def test_damaged_files(tmp_path):
    ranks = two_ranks(tmp_path / "ranks")
    path = min(ranks.iterdir())
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert f"{path}, byte " in one_line(run(ranks, "-o", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_counts_that_are_not_whole(tmp_path):
    ranks = two_ranks(tmp_path / "ranks")
    value = {"min": 0.0, "max": 1.0, "num": 1.5, "sum": 1.0, "sum_squares": 1.0}
    for suffix in (".rank0", ".rank1"):
        writer = EventFileWriter(ranks, filename_suffix=suffix)
        event = histogram_value(
            "x", **value, bucket_limits=np.array([0.0, 1.0]), bucket_counts=np.array([0.0, 1.5])
        )
        writer.add_event(summary_event([event], 1.0, 6))
        writer.close()
    text = one_line(run(ranks, "-o", tmp_path / "out"))
    assert text.startswith("fasthist: 'x' at step 6: counts that are not whole numbers")


def test_a_file_that_shrinks(tmp_path):
    ranks = two_ranks(tmp_path / "ranks")
    found = rank_files.find_ranks(ranks)
    index = rank_files.look_through(found, lambda _: None)
    path = found[1].paths[0]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(fasthist.FasthistError, match=r"files of \.rank1 became shorter"):
        list(rank_files.collected(found, index, set(index.holders)))


def test_the_progress_bar(tmp_path):
    ranks = two_ranks(tmp_path / "ranks")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "fasthist", "merge", str(ranks), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, stderr=follower, stdout=subprocess.PIPE, text=True)
    os.close(follower)
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert done.returncode == 0
    assert "reading" in shown
    assert "merging" in shown
    assert done.stdout.startswith(f"{tmp_path}/out: 1 histogram of 2 ranks")


def test_help_tells_the_exit_codes():
    text = run("--help").output
    assert "exit code is 3" in " ".join(text.split())
    assert Path(rank_files.__file__).name == "rank_files.py"
