"""`fasthist demo`: one small network, trained once from a good start and once from a bad one.

The network is numpy only, so that all the logging is in view: `train` is what a training loop with fasthist looks like. Both
runs see the same data in the same order; only the size of the first weights differs. From the bad start the gradients
shrink from layer to layer on their way back to the first one, the network learns nothing, and TensorBoard shows why.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.filesize import decimal

import fasthist
from fasthist.errors import MissingPackageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTHS = (64, 64, 64, 32, 10)  # 8x8 pixels in, 10 digits out, three hidden layers
LAYERS = tuple(f"fc{n}" for n in range(1, len(WIDTHS)))
# Standard deviation of the first weights, times the square root of the number of inputs. A sigmoid passes on
# at most a quarter of a gradient: 4 makes up for that, 0.25 makes it worse.
RUN2SCALE = {"good_init": 4.0, "bad_init": 0.25}
TEST_SHARE = 0.2
BATCH = 32
LEARNING_RATE = 0.1
MOMENTUM = 0.9


class Network:
    """Fully connected layers with sigmoids between them, and a softmax behind the last.

    `parameters`, such as ``fc1.weight`` and ``fc1.bias``, are float32 and updated in place. Weights start at the size
    that `scale` gives, see `RUN2SCALE`, and biases at zero.
    """

    def __init__(self, scale: float, rng: np.random.Generator) -> None:
        self.parameters: dict[str, NDArray[np.float32]] = {}
        for layer, (n_in, n_out) in zip(LAYERS, itertools.pairwise(WIDTHS), strict=True):
            weight = scale / np.sqrt(n_in) * rng.standard_normal((n_in, n_out))
            self.parameters[f"{layer}.weight"] = weight.astype(np.float32)
            self.parameters[f"{layer}.bias"] = np.zeros(n_out, np.float32)
        self._velocities = {name: np.zeros_like(it) for name, it in self.parameters.items()}

    def forward(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the output float32[n, width] of every layer; the last holds log-probabilities."""
        layer2output: dict[str, NDArray[np.float32]] = {}
        signal = images
        for layer in LAYERS:
            summed = signal @ self.parameters[f"{layer}.weight"] + self.parameters[f"{layer}.bias"]
            if layer == LAYERS[-1]:
                summed -= summed.max(axis=1, keepdims=True)
                signal = summed - np.log(np.exp(summed).sum(axis=1, keepdims=True))
            else:
                signal = np.reciprocal(1 + np.exp(-summed))
            layer2output[layer] = signal
        return layer2output

    def backward(
        self,
        images: NDArray[np.float32],
        digits: NDArray[np.int64],
        layer2output: dict[str, NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float32]]:
        """Return the gradient of the mean cross-entropy for every parameter, under the same names."""
        gradients: dict[str, NDArray[np.float32]] = {}
        error: Any = np.exp(layer2output[LAYERS[-1]])
        error[np.arange(len(digits)), digits] -= 1
        error /= len(digits)
        for n in reversed(range(len(LAYERS))):
            signal = layer2output[LAYERS[n - 1]] if n else images
            gradients[f"{LAYERS[n]}.weight"] = signal.T @ error
            gradients[f"{LAYERS[n]}.bias"] = error.sum(axis=0)
            if n:
                error = (error @ self.parameters[f"{LAYERS[n]}.weight"].T) * signal * (1 - signal)
        return gradients

    def learn(self, images: NDArray[np.float32], digits: NDArray[np.int64]) -> None:
        """Take one step of gradient descent with momentum on one batch."""
        gradients = self.backward(images, digits, self.forward(images))
        for name, parameter in self.parameters.items():
            velocity = self._velocities[name]
            velocity *= MOMENTUM
            velocity -= LEARNING_RATE * gradients[name]
            parameter += velocity  # noqa: PLW2901 - in place, as a real optimiser does


@dataclass(frozen=True)
class Data:
    """Images float32[n, 64] from 0 to 1 and their digits int64[n], to train and to test with."""

    train: tuple[NDArray[np.float32], NDArray[np.int64]]
    test: tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Run:
    """What one training wrote and achieved."""

    log_dir: Path
    histograms: int  # number of tags
    scalars: int
    steps: int  # of each tag
    nbytes: int  # of the event file
    test_accuracy: float  # after the last epoch, 0 to 1
    gradient_stds: tuple[float, ...]  # of every layer's weights before training


def load_data(seed: int) -> Data:
    """Shuffle scikit-learn's 1,797 handwritten digits and split them."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        missing = MissingPackageError.for_extra("scikit-learn", "demo", "The demo's data set")
        raise missing from error
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images, digits = (images[order] / 16).astype(np.float32), digits[order]
    n_test = int(TEST_SHARE * len(images))
    return Data((images[n_test:], digits[n_test:]), (images[:n_test], digits[:n_test]))


def train(
    log_dir: str, scale: float, data: Data, epochs: int, seed: int, on_epoch: Callable[[], None]
) -> Run:
    """Train one network and log it: step 0 is before training, step n is after epoch n.

    `seed` decides the first weights and the order of the batches; `on_epoch` is called after every logged step.
    """
    rng = np.random.default_rng(seed)
    network = Network(scale, rng)
    images, digits = data.train
    before = _event_bytes(log_dir)
    # With purge_step, TensorBoard shows this run instead of an earlier demo in the same directory.
    with fasthist.SummaryWriter(log_dir, purge_step=0) as writer:
        for epoch in range(epochs + 1):
            if epoch > 0:
                order = rng.permutation(len(images))
                for batch in np.split(order, range(BATCH, len(order), BATCH)):
                    network.learn(images[batch], digits[batch])

            activations = network.forward(images)
            gradients = network.backward(images, digits, activations)
            # One call for everything: names before the slash become groups in TensorBoard.
            tag2array = (
                {f"weights/{name}": array for name, array in network.parameters.items()}
                | {f"gradients/{name}": array for name, array in gradients.items()}
                | {f"activations/{layer}": array for layer, array in activations.items()}
            )
            writer.add_histograms(tag2array, global_step=epoch)

            tag2scalar = _score(network, data)
            for tag, value in tag2scalar.items():
                writer.add_scalar(tag, value, global_step=epoch)
            if epoch == 0:
                stds = [fasthist.histogram(gradients[f"{layer}.weight"]).std for layer in LAYERS]
            on_epoch()
    return Run(
        log_dir=Path(log_dir),
        histograms=len(tag2array),
        scalars=len(tag2scalar),
        steps=epochs + 1,
        nbytes=_event_bytes(log_dir) - before,
        test_accuracy=tag2scalar["accuracy/test"],
        gradient_stds=tuple(std or 0.0 for std in stds),
    )


def _score(network: Network, data: Data) -> dict[str, float]:
    """Return loss (cross-entropy in nats) and accuracy on both parts of the data."""
    tag2scalar = {}
    for part, (images, digits) in (("train", data.train), ("test", data.test)):
        chances = network.forward(images)[LAYERS[-1]]
        tag2scalar[f"loss/{part}"] = -float(chances[np.arange(len(digits)), digits].mean())
        tag2scalar[f"accuracy/{part}"] = float((chances.argmax(axis=1) == digits).mean())
    return tag2scalar


def _event_bytes(log_dir: str) -> int:
    return sum(path.stat().st_size for path in Path(log_dir).glob("events.out.tfevents.*"))


def prepare() -> None:
    """Compile the kernels that the training needs, by logging an untrained network to nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        train(folder, 1.0, load_data(0), 0, 0, lambda: None)


def train_all(log_dir: str, epochs: int, seed: int, on_epoch: Callable[[], None]) -> Iterator[Run]:
    """Train from the good start, then from the bad one; same data, same seed. Yield each `Run` when it is finished."""
    data = load_data(seed)
    for name, scale in RUN2SCALE.items():
        yield train(f"{log_dir}/{name}", scale, data, epochs, seed, on_epoch)


def describe(runs: list[Run]) -> str:
    """Summarise what was written, how it went and how to look at it."""
    lines = []
    for run in runs:
        first, last = run.gradient_stds[0], run.gradient_stds[-1]
        lines.append(
            f"{run.log_dir}: {run.histograms} histograms and {run.scalars} scalars at {run.steps} steps, "
            f"{decimal(run.nbytes)}\n"
            f"  reads {run.test_accuracy:.1%} of the digits that it was not trained on\n"
            f"  gradients before training, std: {last:.1e} in {LAYERS[-1]}, {first:.1e} in {LAYERS[0]}"
        )
    lines.append(f"Look at it: tensorboard --logdir {runs[0].log_dir.parent}")
    return "\n".join(lines)
