"""`fasthist demo`: two real trainings, whose gradients tell them apart in TensorBoard's own reader."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from tensorboard_server import serve

from fasthist import demo
from fasthist.cli import main

EPOCHS = 30
HISTOGRAMS = {
    *(f"{kind}/{layer}.{part}" for kind in ("weights", "gradients") for layer in demo.LAYERS for part in ("weight", "bias")),
    *(f"activations/{layer}" for layer in demo.LAYERS),
}  # fmt: skip
SCALARS = {f"{what}/{part}" for what in ("loss", "accuracy") for part in ("train", "test")}


def read_run(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"histograms": 0, "scalars": 0, "tensors": 0}
    return EventAccumulator(str(path), size_guidance=sizes).Reload()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once as a user would: its result, both runs as TensorBoard reads them, and where they are."""
    folder = tmp_path_factory.mktemp("demo") / "runs"
    result = CliRunner().invoke(main, ["demo", "--log-dir", str(folder)])
    assert result.exit_code == 0, result.output
    return result, {name: read_run(folder / name) for name in demo.RUN2SCALE}, folder


def test_every_tag_has_every_step(finished):
    _, name2events, _ = finished
    assert name2events.keys() == {"good_init", "bad_init"}
    for events in name2events.values():
        tags = events.Tags()
        assert set(tags["histograms"]) == HISTOGRAMS
        assert set(tags["scalars"]) == SCALARS
        for tag in HISTOGRAMS:
            found = [event.step for event in events.Histograms(tag)]
            # Steps whose values are far from zero, and close to each other, are in the newer form.
            if tag in tags["tensors"]:
                found += [event.step for event in events.Tensors(tag)]
            assert sorted(found) == list(range(EPOCHS + 1))
        for tag in SCALARS:
            assert [event.step for event in events.Scalars(tag)] == list(range(EPOCHS + 1))


@pytest.mark.parametrize("load_fast", [True, False])
def test_tensorboard_serves_every_tag_at_every_step(finished, load_fast):
    with serve(finished[2], load_fast) as server:
        tags = server.tags(until=lambda found: sorted(map(len, found.values())) == [20, 20])
        assert set(tags) == {"good_init", "bad_init"}
        for run, names in tags.items():
            for tag in names:
                rows = server.histograms(run, tag, steps=EPOCHS + 1)
                assert [row[1] for row in rows] == list(range(EPOCHS + 1))


def test_histograms_hold_every_element(finished):
    _, name2events, _ = finished
    counts = {
        "weights/fc1.weight": 64 * 64,
        "gradients/fc4.bias": 10,
        "activations/fc3": 32 * (1797 - 359),
    }
    for tag, count in counts.items():
        last = name2events["good_init"].Histograms(tag)[-1].histogram_value
        assert last.num == count
        assert sum(last.bucket) == count


def stds(events, tag):
    values = [event.histogram_value for event in events.Histograms(tag)]
    return np.array([np.sqrt(h.sum_squares / h.num - (h.sum / h.num) ** 2) for h in values])


def test_gradients_vanish_with_depth_only_in_the_bad_run(finished):
    _, name2events, _ = finished
    good, bad = (
        [stds(name2events[name], f"gradients/{layer}.weight") for layer in demo.LAYERS]
        for name in ("good_init", "bad_init")
    )
    # Before training, each layer of the bad run passes on a small part; all in all a thousandth.
    assert bad[0][0] < bad[1][0] < bad[2][0] < bad[3][0]
    assert bad[0][0] < 1e-3 * bad[3][0]
    assert good[0][0] > 1e-2 * good[3][0]
    assert (bad[0] < 1e-2 * good[0][0]).all(), "it recovers during the training"


def test_the_good_run_learns_and_the_bad_one_does_not(finished):
    _, name2events, _ = finished
    accuracy = {
        name: [event.value for event in events.Scalars("accuracy/test")]
        for name, events in name2events.items()
    }
    assert accuracy["good_init"][0] < 0.3
    assert accuracy["good_init"][-1] > 0.95
    assert accuracy["bad_init"][-1] < 0.3


def test_it_says_what_was_written_and_how_to_look_at_it(finished):
    result, name2events, _ = finished
    lines = result.stdout.splitlines()
    assert len(lines) == 7
    assert result.stderr == ""
    assert re.search(r"good_init: 20 histograms and 4 scalars at 31 steps, [\d.]+ [kM]B$", lines[0])
    accuracy = name2events["good_init"].Scalars("accuracy/test")[-1].value
    assert f"reads {accuracy:.1%} of the digits" in lines[1]
    std = stds(name2events["bad_init"], "gradients/fc1.weight")[0]
    assert f"{std:.1e} in fc1" in lines[5]
    assert re.fullmatch(r"Look at it: tensorboard --logdir .*/runs", lines[6])


def test_the_same_seed_gives_the_same_run(tmp_path):
    data = demo.load_data(3)

    def once(name, seed=3):
        ticks = []
        run = demo.train(str(tmp_path / name), 4.0, data, 2, seed, lambda: ticks.append(1))
        assert len(ticks) == 3
        values = read_run(tmp_path / name).Histograms("weights/fc1.weight")[-1].histogram_value
        return run.gradient_stds, run.test_accuracy, values

    assert once("a") == once("b")
    assert once("c", seed=4) != once("b")


def test_backward_gives_the_slope_of_the_loss():
    rng = np.random.default_rng(0)
    network = demo.Network(4.0, rng)
    network.parameters = {name: it.astype(float) for name, it in network.parameters.items()}
    images, digits = rng.random((7, 64)), rng.integers(0, 10, 7)

    def loss():
        return -network.forward(images)["fc4"][np.arange(7), digits].mean()

    gradients = network.backward(images, digits, network.forward(images))
    assert gradients.keys() == network.parameters.keys()
    for name, parameter in network.parameters.items():
        assert gradients[name].shape == parameter.shape
        place = tuple(rng.integers(0, parameter.shape))
        parameter[place] += 1e-5
        above = loss()
        parameter[place] -= 2e-5
        slope = (above - loss()) / 2e-5
        parameter[place] += 1e-5
        assert gradients[name][place] == pytest.approx(slope, rel=1e-4, abs=1e-9), name


def test_the_data_are_split_without_overlap():
    data = demo.load_data(0)
    assert [len(part[0]) for part in (data.train, data.test)] == [1438, 359]
    assert [part[0].dtype for part in (data.train, data.test)] == [np.float32] * 2
    assert data.train[0].min() == 0
    assert data.train[0].max() == 1
    both = np.concatenate([data.train[0], data.test[0]])
    assert len(np.unique(both, axis=0)) == 1797


def test_scikit_learn_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = CliRunner().invoke(main, ["demo", "--log-dir", str(tmp_path / "runs")])
    assert result.exit_code == 1
    assert result.stderr == (
        "fasthist: The demo's data set needs scikit-learn, which is not installed. "
        "Run: pip install 'fasthist[demo]'\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_second_demo_in_the_same_place_counts_only_its_own_bytes(tmp_path):
    data = demo.load_data(0)
    sizes = [demo.train(str(tmp_path), 4.0, data, 1, 0, lambda: None).nbytes for _ in range(2)]
    assert sizes[0] == sizes[1] > 10_000
