"""The README's table "instead of this line, write that": each line trains a real model, and logs what NumPy counts."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fasthist

README = Path(__file__).parents[1] / "README.md"
HEAD = "| you use | instead of | write |\n|---|---|---|\n"


def rows():
    """Give the lines of each row by what it is for."""
    table = README.read_text("utf-8").partition(HEAD)[2].partition("\n\n")[0]
    cells = [line.strip("|").split(" | ") for line in table.splitlines()]
    return {
        name.strip(): html.unescape("\n".join(re.findall(r"`([^`]+)`", ours)))
        for name, _, ours in cells
    }


ROWS = rows()


def write(row, **names):
    """Run the lines of a row, and give the names that there are then."""
    exec(ROWS[row], names)
    return SimpleNamespace(**names)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what frameworks say of themselves
        yield


def follows(values, counts, edges):
    """Say whether counts are those of the values: at each edge within 2 % of them, as the outline promises."""
    values = np.sort(np.asarray(values, np.float64).ravel())
    below, room = np.cumsum(counts), 0.02 * values.size + 1e-9
    least = np.searchsorted(values, edges[1:], "left") - room
    most = np.searchsorted(values, edges[1:], "right") + room
    return (
        below[-1] == values.size
        and edges[0] == pytest.approx(values[0], rel=1e-6, abs=1e-6)
        and bool(((least <= below) & (below <= most)).all())
    )


def in_files(folder, tag):
    """Give the counts and edges of a tag, as they were written last."""
    raw = [one for _, name, _, _, one in fasthist.read(folder) if name == tag][-1].to_raw()
    return raw["bucket_counts"][1:], raw["bucket_limits"]


@pytest.fixture
def model(need):
    """Give a model of torch, and a function that makes a step."""
    torch = need("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x = torch.randn(16, 4)

    def step():
        optimizer.zero_grad()
        (network(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()

    return SimpleNamespace(network=network, optimizer=optimizer, step=step, x=x)


def weight_of(model):
    model.step()
    return model.network[0].weight.detach().numpy().copy()


def test_pytorch(need, model):
    need("tensorboard")
    names = write("PyTorch")
    with names.SummaryWriter("runs") as writer:
        for step in range(3):
            values = weight_of(model)
            writer.add_histogram("w", model.network[0].weight, step)
            writer.add_text("note", "beside it", step)
    assert follows(values, *in_files("runs", "w"))
    assert not follows(values + 1, *in_files("runs", "w"))


def test_wandb_watch(need, model):
    wandb = need("wandb")
    logged = {}
    run = SimpleNamespace(log=lambda values, step: logged.update({step: values}))
    names = write("`wandb.watch`", model=model.network, run=run)
    for _ in range(101):
        values = weight_of(model)
        names.watched.step()
    assert list(logged) == [0, 100]
    found = logged[100]["weights/0.weight"]
    assert isinstance(found, wandb.Histogram)
    assert follows(values, found.histogram, found.bins)
    gradient = model.network[0].weight.grad.numpy()
    found = logged[100]["gradients/0.weight"]
    assert follows(gradient, found.histogram, found.bins)


def test_accelerate(need, model):
    accelerator = need("accelerate").Accelerator(cpu=True)
    network, optimizer = accelerator.prepare(model.network, model.optimizer)
    with fasthist.SummaryWriter("runs") as writer:
        write("Accelerate", model=network, writer=writer, optimizer=optimizer)
        accelerator.backward(network(model.x).square().mean())
        optimizer.step()
    assert follows(network[0].weight.detach(), *in_files("runs", "weights/0.weight"))


def test_lightning(need, model):
    lightning, torch = need("lightning.pytorch"), need("torch")
    need("tensorboard")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = model.network

        def training_step(self, batch, index):
            del index
            return self.network(batch).square().mean()

        def configure_optimizers(self):
            return model.optimizer

    trainer = write("Lightning", Trainer=lightning.Trainer).trainer
    trainer.fit(Module(), torch.utils.data.DataLoader(model.x[:1]))
    values = model.network[0].weight.detach()
    assert follows(values, *in_files("lightning_logs", "weights/network.0.weight"))


def test_hugging_face(need):
    transformers, torch = need("transformers"), need("torch")
    need("accelerate"), need("tensorboard")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    network = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(0, 20, (2, 8))
    arguments = transformers.TrainingArguments(
        "out",
        max_steps=1,
        per_device_train_batch_size=2,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = write(
        "Hugging Face", Trainer=transformers.Trainer, model=network, args=arguments,
        data=[{"input_ids": one, "labels": one} for one in tokens],
    ).trainer  # fmt: skip
    trainer.train()
    values = network.transformer.wte.weight.detach()
    assert follows(values, *in_files("out/runs", "weights/transformer.wte.weight"))


def test_tensorflow(need):
    tf = need("tensorflow")
    w = tf.Variable(np.random.default_rng(0).normal(size=300).astype(np.float32))
    with fasthist.SummaryWriter("runs") as writer:
        for step in range(2):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(w**2)
            w.assign_sub(0.1 * tape.gradient(loss, w))
            write("TensorFlow", writer=writer, w=w, step=step)
    assert follows(w.numpy(), *in_files("runs", "w"))


def test_jax(need):
    jax = need("jax")
    params = {"fc": {"kernel": jax.random.normal(jax.random.key(0), (20, 30))}}
    with fasthist.SummaryWriter("runs") as writer:
        for step in range(2):
            grads = jax.grad(lambda params: (params["fc"]["kernel"] ** 3).sum())(params)
            params = jax.tree_util.tree_map(lambda p, g: p - 0.01 * g, params, grads)
            write("JAX", writer=writer, params=params, grads=grads, step=step)
    assert follows(params["fc"]["kernel"], *in_files("runs", "weights/fc/kernel"))
    assert follows(grads["fc"]["kernel"], *in_files("runs", "gradients/fc/kernel"))


KERAS = """
import keras, numpy as np, sys
names = {}
exec(sys.argv[1], names)
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(30)])
model.compile("sgd", "mse")
x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
model.fit(x, np.tile(x[:, :1], 30), epochs=2, verbose=0, callbacks=[names["callback"]])
kernel = model.layers[0].kernel
np.save("kernel.npy", keras.ops.convert_to_numpy(kernel))
print(kernel.path)
"""


def test_keras(need):
    """In a process of its own, since another test may have chosen another backend."""
    need("keras"), need("jax")
    done = subprocess.run(
        [sys.executable, "-c", KERAS, ROWS["Keras"]],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    path = done.stdout.split()[-1]
    assert follows(np.load("kernel.npy"), *in_files("logs", f"{path}/histogram"))


@pytest.mark.parametrize(("row", "package"), [("W&B", "wandb"), ("trackio", "trackio")])
def test_histograms_of_trackers(need, model, row, package):
    kind = need(package).Histogram
    values = weight_of(model)
    found = write(row, fasthist=fasthist, x=values).found
    assert isinstance(found, kind)
    assert follows(values, np.asarray(found.histogram), np.asarray(found.bins))


def test_aim(need, model):
    need("aim")
    values = weight_of(model)
    counts, edges = write("Aim", fasthist=fasthist, x=values).found.to_np_histogram()
    assert counts.size == 30
    assert follows(values, counts, edges)


def test_comet(need, model):
    need("comet_ml")
    from comet_ml.data_structure import Histogram

    logged = []
    experiment = SimpleNamespace(log_histogram_3d=lambda *arguments: logged.append(arguments))
    values = weight_of(model)
    write("Comet", fasthist=fasthist, x=values, experiment=experiment, step=1)
    theirs = Histogram()
    theirs.add(values.astype(np.float64))
    ((found, name, step),) = logged
    assert (name, step) == ("w", 1)
    assert np.array_equal(found.counts, theirs.counts)


def test_mlflow(need, model):
    need("mlflow"), need("matplotlib")
    logged = []
    mlflow = SimpleNamespace(log_figure=lambda *arguments: logged.append(arguments))
    values = weight_of(model)
    write("MLflow", fasthist=fasthist, x=values, mlflow=mlflow)
    ((figure, name),) = logged
    shares, edges, _ = figure.axes[0].patches[0].get_data()
    assert name == "w.png"
    assert follows(values, np.rint(shares * values.size), edges)


def test_hist_and_mplhep(need, model):
    hist = need("hist")
    values = weight_of(model)
    found = write("hist, mplhep", fasthist=fasthist, hist=hist, x=values).found
    assert follows(values, found.values(), found.axes[0].edges)


def test_no_row_is_left_out():
    tests = "".join(Path(__file__).read_text("utf-8").partition("def test_pytorch")[1:])
    assert all(f'"{row}"' in tests for row in ROWS)
    assert len(ROWS) == 14
