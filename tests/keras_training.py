"""Train a small model with Keras on the backend of KERAS_BACKEND, and compare what is logged with NumPy's counts.

Run by test_keras.py in a process of its own, since the backend is chosen when Keras is imported. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
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
    """Compare counts with values of which another order of sums may give other last bits.

    At every edge, at least as many values lie below as surely do, and at most as many as may.
    """
    expected = np.ravel(expected)
    room = 1e-6 + 1e-4 * np.abs(expected)
    edges, below = oracle.tensorflow_edges(), np.append(0, np.cumsum(found.counts.astype(np.int64)))
    surely = np.searchsorted(np.sort(expected + room), edges)
    maybe = np.searchsorted(np.sort(expected - room), edges)
    return bool(found.num == expected.size and (surely <= below).all() and (below <= maybe).all())


def by_differences(loss, weights):
    """Compute the gradient of each array by central differences, in float64."""
    found = {}
    for name, array in weights.items():
        found[name] = slope = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            ends = []
            for nudge in (1e-5, -1e-5):
                moved = {**weights, name: array.copy()}
                moved[name][place] += nudge
                ends.append(loss(moved))
            slope[place] = (ends[0] - ends[1]) / 2e-5
    return found


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


class Subclassed(keras.Model):
    """Two layers of one name, one of them called twice, and a loss as it was written before Keras 3.3."""

    def __init__(self):
        super().__init__(name="own")
        l2, glorot = keras.regularizers.L2, keras.initializers.GlorotUniform
        self.first = keras.layers.Dense(
            3, name="d", kernel_initializer=glorot(4), kernel_regularizer=l2(0.1), activity_regularizer=l2(0.01)
        )  # fmt: skip
        self.second = keras.layers.Dense(3, name="d", kernel_initializer=glorot(5))

    def call(self, x):
        return self.second(self.second(self.first(x)))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        del x, sample_weight
        return keras.ops.mean((y_pred - y) ** 2) + sum(self.losses)


def train(model, x, y, log, batch, **arguments):
    """Give what is logged after the first and only step, and the weights after it."""
    model.compile("sgd", arguments.pop("loss", None))
    sink = Recorder()
    if log:
        arguments["callbacks"] = [
            HistogramCallback(log=log, batch=batch, writer=sink, exclude="bias")
        ]
    model.fit(x, y, batch_size=len(x), verbose=0, shuffle=False, **arguments)
    return sink.steps.get(0), [value.astype(np.float64) for value in arrays_in_order(model)]


def arrays_in_order(model):
    return [keras.ops.convert_to_numpy(one.value) for one in model.weights]


def subclassed():
    x, _ = data()
    x, y = x[:8], x[:8, :3]
    log = ("weights", "gradients", "activations")
    found, (first, bias, second, bias_2) = train(Subclassed(), x, y, log, (x, y))
    _, plain = train(Subclassed(), x, y, (), None)

    def passes(w):
        one = x.astype(np.float64) @ w["d/kernel"] + bias
        two = one @ w["d/kernel_1"] + bias_2
        return one, two, two @ w["d/kernel_1"] + bias_2

    def loss(w):
        one, _, last = passes(w)
        weight_decay = 0.1 * (w["d/kernel"] ** 2).sum()
        activity = 0.01 * (one**2).sum() / len(x)  # Keras divides it by the size of the batch
        return np.mean((last - y) ** 2) + weight_decay + activity

    weights = {"d/kernel": first, "d/kernel_1": second}
    one, two, last = passes(weights)
    expected = {f"own/{name}/histogram": value for name, value in weights.items()}
    expected |= {f"gradients/own/{n}": v for n, v in by_differences(loss, weights).items()}
    expected |= {"activations/d": one, "activations/d_1/0": two, "activations/d_1/1": last}
    same = all(map(np.array_equal, plain, [first, bias, second, bias_2]))
    return {
        "same weights": same,
        **{tag: tag in found and close(found[tag], value) for tag, value in expected.items()},
        "no other": found.keys() == expected.keys(),
    }


def embedding():
    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 6, (8, 2)), generator.normal(size=(8, 1)).astype(np.float32)
    weight = np.arange(8).astype(np.float32)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((2,), dtype="int32"), layers.Embedding(10, 3, name="table"), layers.Flatten(name="flat"),
            keras.Sequential([layers.Dense(1, name="out")], name="inner"),
        ],
        name="words",
    )  # fmt: skip
    log = ("gradients", "activations")
    found, (table, kernel, bias) = train(model, x, y, log, (x, y, weight), loss="mse")

    def loss(w):
        predicted = w["table"][x].reshape(8, 6) @ w["out"] + bias
        return np.sum(weight * (predicted - y)[:, 0] ** 2) / 8

    slopes = by_differences(loss, {"table": table, "out": kernel})
    gradients = {
        name: next(
            one for tag, one in found.items() if tag.startswith("gradients/") and name in tag
        )
        for name in slopes
    }
    return {
        **{name: close(gradients[name], slope) for name, slope in slopes.items()},
        "zeros of unused rows": gradients["table"].zero_count >= 3 * (10 - np.unique(x).size) > 0,
        "activations": [tag for tag in found if tag.startswith("activations/")],
    }


class Restless(keras.layers.Layer):
    """Draw from every global source, count calls, and add a loss, in each forward pass."""

    def __init__(self):
        super().__init__()
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.noise = keras.layers.GaussianNoise(0.1)

    def call(self, x):
        self.calls.assign(self.calls + 1)
        self.add_loss(0.1 * keras.ops.mean(x**2))
        x = x + 0.001 * (random.random() + np.random.random())  # noqa: NPY002
        return self.noise(x, training=True)


def restless():
    """Say whether training, and all global seeds, are the same with and without the callback's own passes."""
    x, y = data()
    told = []
    for log in ((), ("gradients", "activations")):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - the one that users' layers draw from
        model = keras.Sequential(
            [
                keras.layers.Input((5,)), keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(7)), Restless(),
                keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(8)),
            ],
            name="restless",
        )  # fmt: skip
        model.layers[1].noise.seed_generator.state.assign([1, 2])
        model.compile("sgd", "mse", metrics=["mae"])
        callbacks = (
            [HistogramCallback(log=log, batch=(x[:8], y[:8]), writer=Recorder())] if log else []
        )
        history = model.fit(
            x, y, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks
        )
        drawn = random.random(), np.random.random()  # noqa: NPY002
        values = [one.tolist() for one in arrays_in_order(model)]
        told.append(json.dumps([history.history, values, drawn], default=str))
    return told[0] == told[1]


def several_at_once():
    """Steps that are logged where Keras runs four at once; torch's backend cannot."""
    model, (x, y) = build(), data()
    if keras.backend.backend() == "torch":
        return None
    model.compile("sgd", "mse", steps_per_execution=4)
    sink = Recorder()
    callback = HistogramCallback(every=8, writer=sink, include="kernel")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    return list(sink.steps)


def errors(x):
    found = []
    for arguments in (
        {"log": "gradients"},
        {"log": "updates"},
        {"log": "activations", "batch": x},
        {"histogram_freq": -1},
        {"every": 0},
    ):
        try:
            HistogramCallback(**arguments)
        except ArgumentError as error:
            found.append(str(error))
    return found


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
    model, _ = fit(
        [HistogramCallback(log=everything, every=7, batch=(x[:16], y[:16]), writer=sink)]
    )
    activations, gradients = by_hand(model, x[:16], y[:16])  # step 7 was the last
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

    told["subclassed"] = subclassed()
    told["embedding"] = embedding()
    told["several at once"] = several_at_once()
    told["restless"] = restless()
    told["errors"] = errors(x)

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
