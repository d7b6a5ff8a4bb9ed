"""`HistogramCallback` logs what Keras trains, on each of its backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fasthist

HERE = Path(__file__).parent


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_training(need, backend, tmp_path):
    need("keras")
    need(backend)
    done = subprocess.run(
        [sys.executable, str(HERE / "keras_training.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["same history"]
    assert told["same weights"]
    assert told["steps"] == [0, 3, 6]
    assert told["weights"] == [[], [], []]
    assert told["activations"] == dict.fromkeys(("first", "norm", "drop", "last"), True)
    assert len(told["gradients"]) == 6
    assert all(told["gradients"].values()), told["gradients"]
    assert told["optimizer"] == []
    assert told["momenta"] == 12
    assert len(told["files"]) == 2
    assert all(steps == [0, 2, 4] for steps in told["files"].values())
    assert all(tag.endswith("kernel/histogram") for tag in told["files"])
    assert told["runs"] == ["train"]
    assert told["extremes"]
    assert set(told["subclassed"].values()) == {True}, told["subclassed"]
    assert len(told["subclassed"]) == 9
    activations = told["embedding"].pop("activations")
    assert activations == [
        f"activations/{name}" for name in ("table", "flat", "inner", "inner/out")
    ]
    assert set(told["embedding"].values()) == {True}, told["embedding"]
    assert told["several at once"] == (None if backend == "torch" else [3, 11, 19, 27])
    assert told["restless"]
    without_batch, unknown, no_tuple, negative, never = told["errors"]
    assert "gradients need values to be computed on" in without_batch
    assert "log='updates' is not known" in unknown
    assert "batch is ndarray" in no_tuple
    assert "histogram_freq=-1 must be a number of epochs" in negative
    assert "every=0 must be a number of steps" in never
    assert told["bfloat16"] == []
    assert told["tensorflow"] == (backend == "tensorflow")


BOTH = """
import keras, sys
from fasthist.adapters.keras import HistogramCallback
model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
model.compile("sgd", "mse")
x = keras.random.normal((16, 3), seed=1)
ours, theirs = (
    kind(f"{sys.argv[1]}/{name}", histogram_freq=2)
    for kind, name in ((HistogramCallback, "ours"), (keras.callbacks.TensorBoard, "keras"))
)
model.fit(x, x[:, :1], epochs=5, verbose=0, callbacks=[ours, theirs])
"""


def test_it_writes_what_keras_own_callback_writes(need, tmp_path):
    need("keras")
    need("tensorflow")
    subprocess.run(
        [sys.executable, "-c", BOTH, str(tmp_path)],
        check=True,
        capture_output=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    found = {
        which: {(run, tag, step): one for run, tag, step, _, one in fasthist.read(tmp_path / which)}
        for which in ("ours", "keras")
    }
    assert found["ours"].keys() == found["keras"].keys()
    assert len(found["ours"]) == 4 * 3
    for place, one in found["keras"].items():
        ours = found["ours"][place]
        assert (ours.num, ours.min, ours.max) == (
            one.num,
            pytest.approx(one.min, abs=1e-6),
            pytest.approx(one.max, abs=1e-6),
        )


SCALARS = """
import keras, numpy as np, sys
from fasthist.adapters.keras import HistogramCallback
folder, TensorBoard = sys.argv[1], keras.callbacks.TensorBoard
x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
y = x[:, :1]

def trained(callbacks, evaluate=False):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(x, y, epochs=3, batch_size=8, verbose=0, validation_split=0.25, callbacks=callbacks)
    if evaluate:
        model.evaluate(x, y, verbose=0, callbacks=callbacks)

for freq in ("epoch", 2):
    for name, kind in (("ours", HistogramCallback), ("keras", TensorBoard)):
        trained([kind(f"{folder}/{name}-{freq}", histogram_freq=1, update_freq=freq)], evaluate=True)
trained([HistogramCallback(f"{folder}/beside"), TensorBoard(f"{folder}/beside/")])
weights = HistogramCallback(f"{folder}/two", include="kernel")
trained([weights, HistogramCallback(f"{folder}/two", include="bias")])
try:
    trained([TensorBoard(f"{folder}/clash", histogram_freq=1), HistogramCallback(f"{folder}/clash")])
except ValueError as error:
    print(error)
"""


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    written = EventAccumulator(str(folder), {"tensors": 0})
    written.Reload()
    plugin = written.SummaryMetadata
    return {
        tag: sorted((e.step, float(make_ndarray(e.tensor_proto))) for e in written.Tensors(tag))
        for tag in written.Tags()["tensors"]
        if plugin(tag).plugin_data.plugin_name == "scalars"
    }


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_no_scalar_of_keras_own_callback_is_lost_or_doubled(need, backend, tmp_path):
    need("keras"), need("tensorflow"), need(backend)
    done = subprocess.run(
        [sys.executable, "-c", SCALARS, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Hint: TensorBoard(..., histogram_freq=0)" in done.stdout
    for freq in ("epoch", "2"):
        for run in ("train", "validation"):
            ours, theirs = (
                scalars(tmp_path / f"{name}-{freq}" / run) for name in ("ours", "keras")
            )
            assert ours == theirs
            assert {"epoch_loss", "epoch_mae"} <= ours.keys()
            if freq == "epoch":  # else Keras asks of epochs, too, whether their batch is a multiple
                assert [step for step, _ in ours["epoch_loss"]] == [0, 1, 2]
        # Its last evaluation comes after training, and so in a second file.
        assert len(list((tmp_path / f"ours-{freq}" / "train").glob("*tfevents*"))) <= 2
    assert "epoch_learning_rate" in scalars(tmp_path / "ours-epoch" / "train")
    assert "evaluation_loss_vs_iterations" in scalars(tmp_path / "ours-epoch" / "validation")
    assert "batch_loss" in scalars(tmp_path / "ours-2" / "train")
    for name in ("beside", "two"):
        # TensorBoard's loader never goes back to a file: what is in a second one would stop the first.
        assert len(list((tmp_path / name / "train").glob("*tfevents*"))) == 1
        assert [step for step, _ in scalars(tmp_path / name / "train")["epoch_loss"]] == [0, 1, 2]
        read = [(tag, step) for _, tag, step, _, _ in fasthist.read(tmp_path / name / "train")]
        assert len(read) == len(set(read)) == 4 * 3


def test_a_missing_framework_is_named():
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "import fasthist\n"
        "try: import fasthist.adapters.keras\n"
        "except fasthist.FasthistError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Run: pip install keras\n" in done.stdout
