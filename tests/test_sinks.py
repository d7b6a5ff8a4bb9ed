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
