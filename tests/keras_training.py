"""Train a small model with Keras on the backend of KERAS_BACKEND, and compare what is logged with NumPy's counts.

Run by test_keras.py in a process of its own, since the backend is chosen when Keras is imported. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import oracle

import fasthist
from fasthist.adapters.keras import HistogramCallback
from fasthist.errors import ArgumentError


class Recorder:
    def __init__(self):
        self.steps = {}

    def add_histograms(self, tree, global_step=None):
        self.steps[global_step] = fasthist.histograms(tree)

    def flush(self):
        pass

    def close(self):
        pass


class Witness(keras.callbacks.Callback):
    """Keep the weights of each batch and epoch, by Keras's own means."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        del batch, logs
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.batches.append(arrays(self.model.weights))

    def on_epoch_end(self, epoch, logs=None):
        del epoch, logs
        self.epochs.append(arrays(self.model.weights))


def arrays(variables):
    return {one.path: keras.ops.convert_to_numpy(one.value) for one in variables}


def build():
    # Seeds of its own: keras.utils.set_random_seed() would import TensorFlow.
    layers, glorot = keras.layers, keras.initializers.GlorotUniform
    model = keras.Sequential(
        [
            layers.Input((5,)), layers.Dense(8, activation="relu", name="first", kernel_initializer=glorot(1)),
            layers.BatchNormalization(name="norm"), layers.Dropout(0.3, name="drop", seed=2),
            layers.Dense(1, name="last", kernel_initializer=glorot(3)),
        ],
        name="net",
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], run_eagerly=False)
    return model


def data():
    x = np.random.default_rng(0).normal(0, 1, (64, 5)).astype(np.float32)
    return x, x.sum(1, keepdims=True)


def fit(callbacks, epochs=2):
    model, (x, y) = build(), data()
    history = model.fit(
        x, y, batch_size=16, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )
    return model, history.history


def differences(found, expected):
    wrong = sorted(found.keys() ^ expected.keys())
    for tag in found.keys() & expected.keys():
        counts = oracle.answer(np.asarray(expected[tag], np.float64).ravel(), sums=False).counts
        if not np.array_equal(found[tag].counts, counts):
            wrong.append(tag)
    return wrong


def close(found, expected):
    """Compare with values that another order of sums may give in their last bits."""
    return found.num == expected.size and np.allclose(
        [found.min, found.max, found.sum],
        [expected.min(), expected.max(), expected.sum()],
        rtol=1e-3,
        atol=1e-5,
    )


def by_hand(model, x, y):
    """Compute activations and gradients of the two layers, with NumPy."""
    w = {
        path.removeprefix("net/"): value.astype(np.float64)
        for path, value in arrays(model.weights).items()
    }
    w = {path.rpartition("net/")[2]: value for path, value in w.items()}
    before = x @ w["first/kernel"] + w["first/bias"]
    first = np.maximum(before, 0)
    scale = w["norm/gamma"] / np.sqrt(w["norm/moving_variance"] + 1e-3)
    norm = (first - w["norm/moving_mean"]) * scale + w["norm/beta"]
    last = norm @ w["last/kernel"] + w["last/bias"]
    d_last = 2 * (last - y) / last.size
    d_first = (d_last @ w["last/kernel"].T) * scale * (before > 0)
    activations = {"first": first, "norm": norm, "drop": norm, "last": last}
    gradients = {
        "first/kernel": x.T @ d_first, "first/bias": d_first.sum(0), "last/kernel": norm.T @ d_last,
        "last/bias": d_last.sum(0), "norm/beta": (d_last @ w["last/kernel"].T).sum(0),
        "norm/gamma": ((d_last @ w["last/kernel"].T) * (norm - w["norm/beta"]) / w["norm/gamma"]).sum(0),
    }  # fmt: skip
    return activations, gradients


def main(folder):
    told = {}
    x, y = data()

    witness, sink = Witness(), Recorder()
    everything = ("all", "activations")
    callback = HistogramCallback(log=everything, every=3, batch=(x[:16], y[:16]), writer=sink)
    model, history = fit([callback, witness])
    plain, plain_history = fit([])
    told["same history"] = history == plain_history
    told["same weights"] = all(
        np.array_equal(one, other)
        for one, other in zip(
            arrays(model.weights).values(), arrays(plain.weights).values(), strict=True
        )
    )
    told["steps"] = list(sink.steps)
    told["weights"] = [
        differences(
            {tag: one for tag, one in sink.steps[step].items() if tag.endswith("/histogram")},
            {f"{path}/histogram": value for path, value in witness.batches[step].items()},
        )
        for step in sink.steps
    ]

    sink = Recorder()
    late = HistogramCallback(log=everything, every=8, batch=(x[:16], y[:16]), writer=sink)
    late._schedule._logged, late._schedule.due = 0, False
    model, _ = fit([late])
    late.set_model(model)
    late._log(7)
    activations, gradients = by_hand(model, x[:16], y[:16])
    found = {tag: one for tag, one in sink.steps[7].items() if not tag.endswith("/histogram")}
    told["activations"] = {
        name: close(found[f"activations/{name}"], value) for name, value in activations.items()
    }
    told["gradients"] = {
        name: any(
            tag.endswith(name) and close(one, value)
            for tag, one in found.items()
            if tag.startswith("gradients/")
        )
        for name, value in gradients.items()
    }
    optimizer = {
        f"optimizer/{path}": value
        for path, value in arrays(model.optimizer.variables).items()
        if value.shape
    }
    told["optimizer"] = differences(
        {tag: one for tag, one in found.items() if tag.startswith("optimizer")}, optimizer
    )
    told["momenta"] = len(optimizer)

    witness = Witness()
    fit([HistogramCallback(folder, histogram_freq=2, include="kernel"), witness], epochs=5)
    read = {}
    for run, tag, step, _, one in fasthist.read(folder):
        read.setdefault(tag, {})[step] = (run, one.num, one.min, one.max)
    told["files"] = {tag: sorted(steps) for tag, steps in read.items()}
    told["runs"] = sorted({run for steps in read.values() for run, *_ in steps.values()})
    told["extremes"] = all(
        (num, low, high) == (value.size, value.min(), value.max())
        for tag, steps in read.items()
        for step, (_, num, low, high) in steps.items()
        for value in [witness.epochs[step][tag.removesuffix("/histogram")]]
    )

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = keras.layers.Dense(1)

        def call(self, inputs):
            return self.layer(inputs)

    own = Own()
    own.compile("sgd", "mse")
    errors = []
    for make in (
        lambda: HistogramCallback(log="gradients"),
        lambda: HistogramCallback(log="updates"),
        lambda: own.fit(
            x,
            y,
            verbose=0,
            callbacks=[HistogramCallback(log="activations", batch=(x, y), writer=sink)],
        ),
    ):
        try:
            make()
        except ArgumentError as error:
            errors.append(str(error))
    told["errors"] = errors

    keras.config.set_dtype_policy("bfloat16")
    sink = Recorder()
    model, _ = fit([HistogramCallback(writer=sink, include="kernel")], epochs=1)
    expected = {
        f"{path}/histogram": value.astype(np.float64)
        for path, value in arrays(model.weights).items()
        if "kernel" in path
    }
    told["bfloat16"] = differences(sink.steps[0], expected)
    told["tensorflow"] = "tensorflow" in sys.modules
    sys.stdout.write(json.dumps(told, default=str) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
