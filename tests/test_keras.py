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
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(HERE)},
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
    without_batch, unknown, no_tuple, negative, never = told["errors"]
    assert "gradients need values to be computed on" in without_batch
    assert "log='updates' is not known" in unknown
    assert "batch is ndarray" in no_tuple
    assert "histogram_freq=-1 is no number of epochs" in negative
    assert "every=0 is no number of steps" in never
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


def test_a_missing_framework_is_named():
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "import fasthist\n"
        "try: import fasthist.adapters.keras\n"
        "except fasthist.FasthistError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Run: pip install keras\n" in done.stdout
