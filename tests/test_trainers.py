"""The callbacks for Lightning and for Hugging Face's Trainer log each step of the optimizer, and nothing twice."""

from __future__ import annotations

import logging
import os
import warnings

import numpy as np
import oracle
import pytest
from test_watch import Recorder

import fasthist


@pytest.fixture
def quiet(monkeypatch):
    """Let trainers say what they like: of this machine, of what they will do another way soon."""
    monkeypatch.setitem(os.environ, "TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(log_dir):
    """Give the histograms of a run by tag and step."""
    return {(tag, step): one for _, tag, step, _, one in fasthist.read(log_dir)}


def agrees(found, tensor):
    """Compare a histogram from a file, whose rows have ends of their own, with the values themselves."""
    values = tensor.detach().double().numpy().ravel()
    answer = oracle.answer(values, sums=False)
    rows = found.to_rows()
    # Rows are half-open, but for the last.
    within = [((values >= left) & (values < right)).sum() for left, right, _ in rows[:-1]]
    within.append((values >= rows[-1][0]).sum())
    # Around a constant the file leaves it a little room.
    if (found.num, found.min, found.max) != (
        answer.num,
        pytest.approx(answer.min, rel=1e-6, abs=1e-7),
        pytest.approx(answer.max, rel=1e-6, abs=1e-7),
    ):
        return False
    return np.abs(np.cumsum(within) - np.cumsum(rows[:, 2])).max() <= 0.02 * values.size


# -- Lightning --------------------------------------------------------------------------------------------


def module_of(lightning, torch, gradients):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(4, 3)
            self.head = torch.nn.Linear(3, 1)

        def training_step(self, batch, index):
            del index
            return self.head(self.layer(batch[0]).tanh()).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_before_optimizer_step(self, optimizer):
            del optimizer
            gradients.append({name: one.grad.clone() for name, one in self.named_parameters()})

    return Module()


def loader(torch, count):
    values = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(values), batch_size=2)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("logger", ["tensorboard", "csv", "none"])
def test_lightning_logs_the_steps_of_the_optimizer(need, tmp_path, logger):
    torch, lightning = need("torch"), need("lightning.pytorch")
    need("tensorboard")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from fasthist.adapters.lightning import HistogramCallback

    gradients = []
    module = module_of(lightning, torch, gradients)
    loggers = {
        "tensorboard": TensorBoardLogger(tmp_path, name="run", version=0),
        "csv": CSVLogger(tmp_path, name="run", version=0),
        "none": False,
    }
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", accumulate_grad_batches=2, logger=loggers[logger], default_root_dir=tmp_path,
        callbacks=[HistogramCallback(every=3)], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(torch, 16))  # 8 batches, so 4 steps an epoch
    log_dir = tmp_path if logger == "none" else tmp_path / "run" / "version_0"
    files = [path for path in log_dir.iterdir() if "tfevents" in path.name]
    assert len(files) == 1
    found = read(log_dir)
    assert sorted({step for _, step in found}) == [1, 3, 6]
    assert len(gradients) == 8
    for step in (1, 3, 6):
        for name, one in gradients[step - 1].items():
            assert agrees(found[f"gradients/{name}", step], one)
    assert not agrees(found["gradients/layer.weight", 6], gradients[5]["layer.weight"] * 0)


@pytest.mark.usefixtures("quiet")
def test_lightning_sends_to_a_writer_of_the_users_own(need, tmp_path):
    torch, lightning = need("torch"), need("lightning.pytorch")
    from fasthist.adapters.lightning import HistogramCallback

    sink = Recorder()
    module = module_of(lightning, torch, [])
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False,
        callbacks=[HistogramCallback("weights", every=4, include="head", writer=sink)],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(torch, 16))
    assert list(sink.steps) == [1, 4, 8]
    last = {f"weights/head.{name}": one for name, one in module.head.named_parameters()}
    assert sink.differences(8, last) == []
    assert not list(tmp_path.glob("*tfevents*"))


def fit(lightning, module, values, callback, **arguments):
    arguments = {"max_epochs": 1, "enable_checkpointing": False, **arguments}
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[callback], enable_progress_bar=False, enable_model_summary=False,
        **arguments,
    )  # fmt: skip
    trainer.fit(module, values)
    return trainer


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("own", [False, True])
def test_lightnings_fast_dev_run_writes_nothing(need, tmp_path, monkeypatch, own):
    torch, lightning = need("torch"), need("lightning.pytorch")
    from fasthist.adapters.lightning import HistogramCallback

    monkeypatch.chdir(tmp_path)
    sink = Recorder()
    callback = HistogramCallback(every=1, writer=sink if own else None)
    fit(lightning, module_of(lightning, torch, []), loader(torch, 4), callback, fast_dev_run=True)
    assert not list(tmp_path.rglob("*tfevents*"))
    assert not sink.steps


@pytest.mark.usefixtures("quiet")
def test_lightnings_wandb_and_tensorboard_loggers_both_get_histograms(
    need, tmp_path, monkeypatch, caplog
):
    torch, lightning, wandb = need("torch"), need("lightning.pytorch"), need("wandb")
    need("tensorboard")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
    from test_sinks import wandb_history

    from fasthist.adapters.lightning import HistogramCallback

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    module = module_of(lightning, torch, [])
    step_of = type(module).training_step

    def training_step(self, batch, index):
        loss = step_of(self, batch, index)
        self.log("loss", loss)
        return loss

    type(module).training_step = training_step
    loggers = [
        CSVLogger(tmp_path / "csv"),
        WandbLogger(save_dir=tmp_path / "wandb", offline=True),
        TensorBoardLogger(tmp_path / "tb", name="run", version=0),
    ]
    (tmp_path / "wandb").mkdir()
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    callback = HistogramCallback("weights", every=4, include="head")
    with caplog.at_level(logging.INFO):
        fit(lightning, module, loader(torch, 16), callback, logger=loggers, log_every_n_steps=1)
    wandb.finish()
    wandb.teardown()
    told = [line for line in caplog.messages if line.startswith("fasthist: ")]
    assert told == ["fasthist: histograms go to WandbLogger, TensorBoardLogger"]
    rows = list(wandb_history(tmp_path / "wandb"))
    assert [int(row["_step"]) for row in rows] == list(range(len(rows)))
    losses = [int(row["trainer/global_step"]) for row in rows if "loss" in row]
    assert losses == list(range(8))
    ours = {
        int(row["trainer/global_step"]): row for row in rows if "weights/head.weight/_type" in row
    }
    assert list(ours) == [1, 4, 8]
    assert sum(ours[8]["weights/head.weight/values"]) == module.head.weight.numel()
    found = read(tmp_path / "tb" / "run" / "version_0")
    assert sorted({step for _, step in found}) == [1, 4, 8]
    assert len(list((tmp_path / "tb" / "run" / "version_0").glob("*tfevents*"))) == 1
    assert {path.parent.name for path in tmp_path.rglob("*tfevents*")} == {"version_0"}


@pytest.mark.usefixtures("quiet")
def test_lightning_closes_what_it_opened_when_training_raises(need, tmp_path):
    torch, lightning = need("torch"), need("lightning.pytorch")
    from fasthist.adapters.lightning import HistogramCallback

    module = module_of(lightning, torch, [])
    step_of, hooked = type(module).training_step, []

    def training_step(self, batch, index):
        loss = step_of(self, batch, index)
        hooked.append(len(self.head._forward_hooks))
        if index == 1:
            msg = "out of memory"
            raise RuntimeError(msg)
        return loss

    type(module).training_step = training_step
    callback = HistogramCallback(("weights", "activations"), every=1, writer=tmp_path / "run")
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(lightning, module, loader(torch, 8), callback, logger=False, default_root_dir=tmp_path)
    assert hooked == [1, 1]
    assert not module.head._forward_hooks
    assert callback._watch is None
    assert callback._sink is None
    assert {step for _, step in read(tmp_path / "run")} == {1}


@pytest.mark.parametrize("module", ["lightning", "transformers"])
def test_callbacks_refuse_writers_and_names_when_they_are_given(need, module):
    need("torch"), need("lightning.pytorch"), need("transformers")
    kind = need(f"fasthist.adapters.{module}").HistogramCallback
    with pytest.raises(fasthist.errors.ArgumentError, match="writer=7 takes no histograms"):
        kind(writer=7)
    with pytest.raises(fasthist.errors.ArgumentError, match="log_every_n_steps is every= here"):
        kind(log_every_n_steps=7)


# -- Hugging Face -----------------------------------------------------------------------------------------


def trainer_of(need, tmp_path, callback, gradients, **arguments):
    torch, transformers = need("torch"), need("transformers")
    need("accelerate")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=20,
            n_positions=8,
            n_embd=8,
            n_layer=1,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    tokens = torch.randint(0, 20, (16, 8), generator=torch.Generator().manual_seed(1))

    class Witness(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            del args, state, control, kwargs
            gradients.append({name: one.grad.clone() for name, one in model.named_parameters()})

    return transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path / "out"),
            num_train_epochs=2,
            per_device_train_batch_size=2,
            logging_steps=2,
            gradient_accumulation_steps=2,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=[{"input_ids": one, "labels": one} for one in tokens],
        callbacks=[Witness(), callback],
    )


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_the_trainers_steps_are_logged(need, tmp_path, monkeypatch, report_to):
    need("torch"), need("transformers"), need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from fasthist.adapters.transformers import HistogramCallback

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    gradients = []
    trainer = trainer_of(need, tmp_path, HistogramCallback(every=3), gradients, report_to=report_to)
    trainer.train()
    found = read(tmp_path / "runs")
    assert sorted({step for _, step in found}) == [1, 3, 6]
    for step in (1, 3, 6):
        for name, one in gradients[step - 1].items():
            assert agrees(found[f"gradients/{name}", step], one)
    # The loader reads files in the order of their names, and never goes back to one: so there is one.
    assert len(list((tmp_path / "runs").iterdir())) == 1
    written = EventAccumulator(str(tmp_path / "runs"))
    written.Reload()
    assert [one.step for one in written.Scalars("train/loss")] == [2, 4, 6, 8]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_an_evaluation_is_written_once_and_where_the_run_is(need, tmp_path, monkeypatch, report_to):
    need("torch"), need("transformers"), need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from fasthist.adapters.transformers import HistogramCallback

    monkeypatch.chdir(tmp_path)
    trainer = trainer_of(need, tmp_path, HistogramCallback(every=3), [], report_to=report_to)
    trainer.evaluate(trainer.train_dataset)
    trainer.train()
    trainer.evaluate(trainer.train_dataset)
    steps = {}
    for path in sorted(tmp_path.rglob("*tfevents*")):
        written = EventAccumulator(str(path))
        written.Reload()
        for tag in written.Tags()["scalars"]:
            steps.setdefault(tag, []).extend(one.step for one in written.Scalars(tag))
    assert sorted(steps["eval/loss"]) == [0, 8]
    assert steps["train/loss"] == [2, 4, 6, 8]
    if report_to == "none":
        assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("quiet")
def test_the_trainers_wandb_run_gets_histograms(need, tmp_path, monkeypatch):
    wandb = need("wandb")
    need("torch"), need("transformers")
    from test_sinks import wandb_history

    from fasthist.adapters.transformers import HistogramCallback

    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    callback = HistogramCallback("weights", every=4, include="wte")
    trainer = trainer_of(need, tmp_path, callback, [], report_to="wandb")
    trainer.train()
    wandb.finish()
    wandb.teardown()
    rows = list(wandb_history(tmp_path))
    assert [int(row["_step"]) for row in rows] == list(range(len(rows)))
    assert [int(row["train/global_step"]) for row in rows if "train/loss" in row] == [2, 4, 6, 8]
    tag = "weights/transformer.wte.weight"
    ours = {int(row["train/global_step"]): row for row in rows if f"{tag}/_type" in row}
    assert list(ours) == [1, 4, 8]
    assert sum(ours[8][f"{tag}/values"]) == trainer.model.transformer.wte.weight.numel()
    assert not list(tmp_path.rglob("*tfevents*"))


@pytest.mark.usefixtures("quiet")
def test_the_trainers_callback_closes_what_it_opened_when_training_raises(need, tmp_path):
    need("torch"), need("transformers"), need("accelerate")
    from fasthist.adapters.transformers import HistogramCallback

    callback = HistogramCallback(("weights", "activations"), every=1, writer=tmp_path / "run")
    trainer = trainer_of(need, tmp_path, callback, [], report_to="none")
    head, hooked = trainer.model.lm_head, []

    def training_step(*arguments, step_of=trainer.training_step):
        loss = step_of(*arguments)
        hooked.append(len(head._forward_hooks))
        if len(hooked) == 3:
            msg = "out of memory"
            raise RuntimeError(msg)
        return loss

    trainer.training_step = training_step
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert hooked == [1, 1, 1]
    assert not head._forward_hooks
    assert callback._watch is None
    assert callback._sink is None
    assert {step for _, step in read(tmp_path / "run")} == {1}


@pytest.mark.usefixtures("quiet")
def test_the_trainer_sends_to_a_writer_of_the_users_own(need, tmp_path, monkeypatch):
    need("torch"), need("transformers"), need("tensorboard")
    from fasthist.adapters.transformers import HistogramCallback

    sink = Recorder()
    callback = HistogramCallback("weights", every=4, writer=sink)
    monkeypatch.chdir(tmp_path)
    trainer = trainer_of(need, tmp_path, callback, [], report_to="none")
    trainer.evaluate(trainer.train_dataset)
    trainer.train()
    assert list(sink.steps) == [1, 4, 8]
    last = {f"weights/{name}": one for name, one in trainer.model.named_parameters()}
    assert sink.differences(8, last) == []
    assert not list(tmp_path.rglob("*tfevents*"))
