"""Sinks write to real trackers, offline, and what comes back is what was counted."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest

import fasthist
from fasthist import sinks
from fasthist.errors import ArgumentError

# Read when comet_ml is imported: it would log what other trackers log, and tests of other files, in runs of its own.
os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")


@pytest.fixture(autouse=True)
def quiet():
    """Let the packages warn of what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def tree():
    values = np.random.default_rng(0).normal(0, 1, 200)
    return {"weights": {"fc": values}, "gradients": {"fc": np.append(values, np.nan)}}


def check(logged, tree):
    """Compare what was logged, by name, with the values."""
    values = tree["weights"]["fc"]
    assert logged["weights/fc/mean"] == pytest.approx(values.mean())
    assert logged["gradients/fc/std"] == pytest.approx(values.std())
    assert logged["gradients/fc/nan_count"] == 1
    assert "weights/fc/nan_count" not in logged


def test_wandb(need, tree, tmp_path, monkeypatch):
    wandb = need("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(ArgumentError, match=r"Accepted: WandbSink\(run\)"):
        sinks.WandbSink()
    with wandb.init(mode="offline", dir=tmp_path, project="p") as run:
        sink = sinks.WandbSink()
        sink.add_histograms(tree, 3)
        run.log({"loss": 0.5}, step=3)
        sink.add_histograms({"gone": [np.nan]}, 7)
        sink.flush()
        sink.close()
    wandb.teardown()  # its process has then written the file to the end
    steps = {int(record["_step"]): record for record in wandb_history(tmp_path)}
    assert sorted(steps) == [3, 7]
    assert steps[3]["loss"] == 0.5
    check(steps[3], tree)
    assert steps[3]["weights/fc/_type"] == "histogram"
    assert sum(steps[3]["weights/fc/values"]) == 200
    assert steps[3]["weights/fc/bins"][0] == tree["weights"]["fc"].min()
    assert steps[7]["gone/nan_count"] == 1
    assert "gone/_type" not in steps[7]


def wandb_history(folder):
    """Read what a run has logged from its offline file."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.rglob("*.wandb")
    for data in level_db_log(path.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            yield {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }


def level_db_log(data):
    """Give the records of a log: parts that lie in blocks of 32 KiB, the first of which begins with 7 bytes of its own.

    Source: LevelDB, doc/log_format.md.
    """
    block, head = 1 << 15, struct.Struct("<IHB")
    place, record = 7, b""
    while place + head.size <= len(data):
        left = block - place % block
        if left < head.size:
            place += left
            continue
        _, length, kind = head.unpack_from(data, place)
        place += head.size
        record += data[place : place + length]
        place += length
        if kind in (1, 4):  # whole, last
            yield record
            record = b""


TRACKIO = """
import sys, trackio
import numpy as np
from fasthist import sinks
values = np.load(sys.argv[1])
run = trackio.init(project="p", auto_log_cpu=False, auto_log_gpu=False)
tree = {"weights": {"fc": values}, "gradients": {"fc": np.append(values, np.nan)}}
sinks.TrackioSink().add_histograms(tree, 3)
sinks.TrackioSink(run).add_histograms({"gone": [np.nan]}, 7)
trackio.finish()
"""


def test_trackio(need, tree, tmp_path):
    need("trackio")
    values = tree["weights"]["fc"]
    np.save(tmp_path / "values.npy", values)
    # Its folder is read from the environment once, when it is imported.
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", TRACKIO, str(tmp_path / "values.npy")]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "p.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics").fetchall()
    steps = {step: json.loads(metrics) for step, metrics in rows}
    assert len(rows) == 2
    check(steps[3], tree)
    found = steps[3]["weights/fc"]
    assert found["_type"] == "trackio.histogram"
    assert sum(found["values"]) == 200
    assert (found["bins"][0], found["bins"][-1]) == (values.min(), values.max())
    assert steps[7] == {"gone/nan_count": 1}


def test_aim(need, tree, tmp_path):
    aim = need("aim")
    run = aim.Run(repo=str(tmp_path), system_tracking_interval=None, capture_terminal_logs=False)
    sinks.AimSink(run).add_histograms(tree, 3)
    context = need("aim.storage.context").Context({})
    metrics = {}
    for name in ("weights/fc/mean", "gradients/fc/std", "gradients/fc/nan_count"):
        steps, (values, *_) = run.get_metric(name, context).data.items_list()
        metrics[name] = values[0]
        assert list(steps) == [3]
    check(metrics, tree)
    steps, (values, *_) = run.get_distribution_sequence("weights/fc", context).data.items_list()
    assert list(steps) == [3]
    counts, edges = values[0].to_np_histogram()
    assert counts.sum() == 200
    assert edges[-1] == tree["weights"]["fc"].max()
    run.close()


def test_comet(need, tree, tmp_path):
    comet_ml = need("comet_ml")
    experiment = comet_ml.OfflineExperiment(
        project_name="p", workspace="w", offline_directory=str(tmp_path), disabled=False,
        log_env_details=False, log_code=False, log_git_metadata=False, auto_output_logging=False,
        display_summary_level=0, parse_args=False,
    )  # fmt: skip
    sinks.CometSink(experiment).add_histograms(tree, 3)
    experiment.end()
    (path,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    messages = [json.loads(line) for line in texts["messages.json"].decode().splitlines()]
    metrics = {
        one["payload"]["metric"]["metricName"]: float(one["payload"]["metric"]["metricValue"])
        for one in messages
        if one["type"] == "metric_msg"
    }
    check(metrics, tree)
    uploads = [one["payload"] for one in messages if one["type"] == "file_upload"]
    assets = {
        (one["additional_params"]["fileName"], one["additional_params"]["step"]): json.loads(
            texts[one["file_path"]]
        )["index_values"]
        for one in uploads
        if one["upload_type"] == "histogram3d"
    }
    theirs = need("comet_ml.data_structure").Histogram()
    theirs.add(tree["weights"]["fc"])
    expected = [[place, theirs.counts[place]] for place in np.flatnonzero(theirs.counts)]
    assert assets == {("weights/fc", 3): expected, ("gradients/fc", 3): expected}


def test_mlflow(need, tree, tmp_path):
    mlflow = need("mlflow")
    need("matplotlib")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    with pytest.raises(ArgumentError, match=r"Accepted: MlflowSink\(run_id\)"):
        sinks.MlflowSink()
    mlflow.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("e")
    with mlflow.start_run() as run:
        sinks.MlflowSink().add_histograms(tree, 3)
    sink = sinks.MlflowSink(run.info.run_id)  # which is over
    sink.add_histograms({"gone": [np.nan], "empty": []}, 7)
    logged = mlflow.get_run(run.info.run_id).data.metrics
    check(logged, tree)
    assert logged["gone/nan_count"] == 1
    assert len(logged) == 6
    pictures = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert [name.partition("histograms/")[2] for name in pictures] == [
        "gradients/fc/3.png",
        "weights/fc/3.png",
    ]


def test_watch_takes_any_of_them(need, tmp_path):
    torch, trackio = need("torch"), need("trackio")
    from fasthist.adapters.torch import watch

    class Run:
        logged = None

        def log(self, values, step):
            self.logged = (values, step)

    run, model = Run(), torch.nn.Linear(3, 2)
    watch(model, sinks.TrackioSink(run), "weights", every=1).step(5)
    values, step = run.logged
    assert step == 5
    assert isinstance(values["weights/bias"], trackio.Histogram)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sink", "package"),
    [("WandbSink", "wandb"), ("TrackioSink", "trackio"), ("MlflowSink", "mlflow")],
)
def test_a_missing_tracker_is_named(monkeypatch, sink, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(fasthist.FasthistError, match=f"Run: pip install {package}$"):
        getattr(sinks, sink)()


# -- what is taken for a writer ------------------------------------------------------------------------------


def scalars_and_histograms(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), {"histograms": 0, "tensors": 0})
    found.Reload()
    tags = found.Tags()
    return {tag: [one.step for one in found.Histograms(tag)] for tag in tags["histograms"]} | {
        tag: [one.step for one in found.Tensors(tag)] for tag in tags["tensors"]
    }


def test_every_tensorboard_writer_takes_histograms(need, tmp_path):
    need("torch"), need("tensorboardX"), need("tensorboard")
    import tensorboardX
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from torch.utils import tensorboard

    writers = {
        "torch": tensorboard.SummaryWriter(tmp_path / "torch"),
        "tensorboardX": tensorboardX.SummaryWriter(str(tmp_path / "tensorboardX")),
        "events": EventFileWriter(str(tmp_path / "events")),
        "own": fasthist.SummaryWriter(tmp_path / "own"),
        "path": tmp_path / "path",
        "text": str(tmp_path / "text"),
    }
    for name, writer in writers.items():
        sink = sinks.as_sink(writer)
        sink.add_histograms({"w": np.arange(5.0)}, 3)
        sink.flush()
        if sink is not writer:
            sink.close()
        if hasattr(writer, "add_scalar"):
            writer.add_scalar("still open", 1.0, 4)
        if hasattr(writer, "close"):
            writer.close()
        assert scalars_and_histograms(tmp_path / name) == {"w": [3]}, name
        ((_, _, _, _, found),) = fasthist.read(tmp_path / name)
        assert (found.num, found.min, found.max) == (5, 0, 4)
    assert sinks.as_sink(writers["own"]) is writers["own"]


TENSORFLOW = """
import sys
import numpy as np, tensorflow as tf
from fasthist import sinks
writer = tf.summary.create_file_writer(sys.argv[1])
sink = sinks.as_sink(writer)
with writer.as_default(0), tf.summary.record_if(False):  # Keras's callback leaves that behind
    for step in range(3):
        sink.add_histograms({"w": np.arange(5.0)}, step)
with writer.as_default(5):
    tf.summary.scalar("loss", 0.5)
sink.close()
with writer.as_default(6):
    tf.summary.scalar("loss", 0.25)
writer.close()
"""


def test_tensorflows_writer_takes_histograms_in_its_own_file(need, tmp_path):
    need("tensorflow"), need("tensorboard")
    done = subprocess.run(
        [sys.executable, "-c", TENSORFLOW, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.iterdir())) == 1
    assert scalars_and_histograms(tmp_path) == {"w": [0, 1, 2], "loss": [5, 6]}
    assert all(one.num == 5 for *_, one in fasthist.read(tmp_path))


@pytest.mark.parametrize("unwrap", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_accelerates_tracker_is_a_writer(need, tmp_path, unwrap, rank):
    torch, accelerate = need("torch"), need("accelerate")
    need("tensorboard")
    from fasthist.adapters.torch import watch

    accelerator = accelerate.Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    if rank:
        tracker = accelerate.tracking.GeneralTracker(_blank=True)  # what get_tracker() gives there
    else:
        accelerator.init_trackers("run")
        tracker = accelerator.get_tracker("tensorboard", unwrap=unwrap)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, tracker, every=1, optimizer=optimizer)
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    accelerator.end_training()
    if rank:
        assert not list(tmp_path.rglob("*tfevents*"))
    else:
        found = scalars_and_histograms(tmp_path / "run")
        assert {tag: steps for tag, steps in found.items() if tag.startswith("updates")} == {
            "updates/weight": [0],
            "updates/bias": [0],
        }


class Answers:
    """Answer to every name, as mocks and Lightning's dummies do."""

    def __getattr__(self, name):
        return self

    def __call__(self, *arguments, **keywords):
        """Take anything."""


class OtherSignature:
    def add_histograms(self):
        """Take nothing."""


@pytest.mark.parametrize(
    "writer", [7, "", None, np, object(), Answers(), OtherSignature(), dict, {}, fasthist.SummaryWriter, print]
)  # fmt: skip
def test_what_is_no_writer_is_told_when_it_is_given(need, writer):
    torch = need("torch")
    from fasthist.adapters.torch import watch

    with pytest.raises(ArgumentError, match="Accepted: a path"):
        sinks.as_sink(writer)
    with pytest.raises(ArgumentError):
        watch(torch.nn.Linear(1, 1), writer)


def test_an_object_with_nothing_but_add_histograms_is_a_sink():
    class Adder:
        steps = ()

        def add_histograms(self, tree, step):
            assert tree == {"w": [1.0]}
            self.steps += (step,)

    adder = Adder()
    sink = sinks.as_sink(adder)
    sink.add_histograms({"w": [1.0]}, 4)
    sink.flush()
    sink.close()
    assert adder.steps == (4,)


def test_a_run_or_its_module_is_a_writer(need, tmp_path, monkeypatch):
    wandb = need("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(ArgumentError, match="there is no W&B run"):
        sinks.as_sink(wandb)
    with wandb.init(mode="offline", dir=tmp_path, project="p") as run:
        assert {type(sinks.as_sink(one)) for one in (run, wandb)} == {sinks.WandbSink}
    wandb.teardown()


def test_wandb_rows_are_neither_dropped_nor_shifted(need, tree, tmp_path, monkeypatch):
    wandb = need("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path, project="p") as run:
        late = sinks.WandbSink(run)
        counted = sinks.WandbSink(run, step_metric="trainer/global_step")
        for step in range(6):
            run.log({"loss": step, "trainer/global_step": step // 2})  # twice an iteration
        late.add_histograms(tree, 3)
        counted.add_histograms(tree, 4)
        run.log({"loss": 6})
    wandb.teardown()
    rows = sorted(wandb_history(tmp_path), key=lambda row: int(row["_step"]))
    assert [int(row["_step"]) for row in rows] == list(range(9))
    assert [row["loss"] for row in rows if "loss" in row] == list(range(7))
    assert rows[6]["global_step"] == 3
    assert rows[7]["trainer/global_step"] == 4
    for row in rows[6:8]:
        check(row, tree)


def test_trackio_without_a_run_is_told_at_once(need):
    need("trackio")
    with pytest.raises(ArgumentError, match=r"Accepted: TrackioSink\(run\)"):
        sinks.TrackioSink()


def test_swanlab(need, tree):
    need("swanlab")
    if not hasattr(fasthist.Histogram, "to_swanlab"):
        pytest.skip("Histogram.to_swanlab is not there")
    logged = {}

    class Run:
        def log(self, values, step):
            logged[step] = values

    sinks.SwanlabSink(Run()).add_histograms(tree, 3)
    check(logged[3], tree)
    assert "weights/fc" in logged[3]


def test_swanlab_without_a_run_is_told_at_once(need):
    need("swanlab")
    with pytest.raises(ArgumentError, match=r"Accepted: SwanlabSink\(run\)"):
        sinks.SwanlabSink()


NAMES = {
    "weights/experts@0.w1": "weights/experts_0.w1",
    "a[0](b),c": "a_0__b__c",
    "fc": "fc",
    "fc/mean": "fc/mean",  # beside the metric fc/mean
    "a@b": "a_b",
    "a(b": "a_b",
    "//x/../y/": "_/_/x/_/y/_",
    "n" * 300: "n" * 240,
}


@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_mlflow_takes_every_name(need, tmp_path, monkeypatch, store):
    mlflow = need("mlflow")
    need("matplotlib")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(
        f"sqlite:///{tmp_path}/runs.db" if store == "sqlite" else (tmp_path / "store").as_uri()
    )
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("e", (tmp_path / "artifacts").as_uri())
    )
    tree = {tag: [1.0, float(place)] for place, tag in enumerate(NAMES)}
    with mlflow.start_run() as run:
        sink = sinks.MlflowSink()
        for step in range(2):
            sink.add_histograms(dict(reversed(tree.items())) if step else tree, step)
    client = mlflow.MlflowClient()
    logged = mlflow.get_run(run.info.run_id).data.metrics
    assert len(logged) == 2 * len(tree)
    for name, value in logged.items():
        assert [
            (one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)
        ] == [
            (0, value),
            (1, value),
        ], name
    assert logged["weights/experts_0.w1/mean"] == 0.5
    assert {logged["a_b/mean"], logged["a_b/mean_1"]} == {2.5, 3.0}
    pictures = {
        path.relative_to(tmp_path).as_posix().partition("histograms/")[2]
        for path in tmp_path.rglob("*.png")
    }
    assert {path.rpartition("/")[0] for path in pictures} == set(NAMES.values())


def test_several_sinks_get_what_is_counted_once():
    from test_watch import Recorder

    one, other = Recorder(), Recorder()
    both = sinks.Sinks([one, other])
    both.add_histograms({"w": np.arange(3.0)}, 1)
    both.flush()
    both.close()
    assert one.steps[1]["w"] is other.steps[1]["w"]
    assert one.steps[1]["w"].num == 3


@pytest.mark.filterwarnings("ignore")
def test_lightnings_loggers_are_writers(need, tree, tmp_path):
    need("lightning.pytorch"), need("mlflow"), need("matplotlib"), need("tensorboard")
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger

    mlflow = MLFlowLogger(
        "e", tracking_uri=f"sqlite:///{tmp_path}/runs.db", artifact_location=(tmp_path / "artifacts").as_uri()
    )  # fmt: skip
    sinks.as_sink(mlflow).add_histograms(tree, 3)
    check(mlflow.experiment.get_run(mlflow.run_id).data.metrics, tree)
    board = TensorBoardLogger(tmp_path / "board")
    sink = sinks.as_sink(board)
    sink.add_histograms(tree, 3)
    sink.flush()
    assert scalars_and_histograms(board.log_dir)["weights/fc"] == [3]
    with pytest.raises(ArgumentError, match="writer=CSVLogger takes no histograms"):
        sinks.as_sink(CSVLogger(tmp_path / "csv"))
