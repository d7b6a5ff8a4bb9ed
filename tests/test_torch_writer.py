"""Our writer in the place of torch's: what code and tools that know torch's class find."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from event_files import all_events, files

import fasthist
from fasthist.errors import WriteError

WEIGHTS = np.random.default_rng(8).normal(0, 0.02, 500)


@pytest.fixture
def theirs(need):
    need("tensorboard")
    return need("torch.utils.tensorboard.writer")


@pytest.fixture
def ours(theirs):  # noqa: ARG001
    from fasthist.adapters.torch import SummaryWriter

    return SummaryWriter


@pytest.fixture(params=["plain", "adapter"])
def writer_class(request):
    return request.getfixturevalue("ours") if request.param == "adapter" else fasthist.SummaryWriter


# -- attributes -----------------------------------------------------------------------------------

DOCUMENTED = (
    "log_dir", "purge_step", "max_queue", "flush_secs", "filename_suffix", "default_bins",
)  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{}, {"purge_step": 3}, {"max_queue": 3, "flush_secs": 7, "filename_suffix": ".x"}],
    ids=repr,
)
def test_attributes_are_those_of_torch(tmp_path, theirs, writer_class, options):
    known = theirs.SummaryWriter(str(tmp_path), **options)
    writer = writer_class(str(tmp_path), **options)
    for closed in (False, True, False):
        for name in DOCUMENTED:
            assert getattr(writer, name) == getattr(known, name), name
        assert writer.get_logdir() == known.get_logdir() == str(tmp_path)
        for one in (writer, known):
            assert (one.file_writer is None, one.all_writers is None) == (closed, closed)
            if closed:
                one.add_scalar("a", 1.0, 4)
            else:
                assert one.file_writer.get_logdir() == str(tmp_path)
                assert one.all_writers == {str(tmp_path): one.file_writer}
                one.close()
    assert len(files(tmp_path)) == 4


def test_a_file_is_there_and_what_is_in_the_way_is_told(tmp_path, writer_class):
    writer = writer_class(tmp_path / "runs" / "a")
    Path(writer.log_dir, "args.json").write_text("{}")
    (path,) = files(writer.log_dir)
    assert all_events(writer.log_dir) == []
    copy = pickle.loads(pickle.dumps(writer))
    assert files(writer.log_dir) == [path]
    copy.add_scalar("a", 1.0, 1)
    copy.close()
    assert len(files(writer.log_dir)) == 2
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="no event file can be made here"):
        writer_class(tmp_path / "file")
    writer.close()


@pytest.mark.filterwarnings("ignore")  # Lightning's imports, and what it tells of its own
def test_lightnings_loggers_get_versions_of_their_own(tmp_path, need, ours, theirs, monkeypatch):
    need("lightning")
    from lightning.pytorch.loggers import TensorBoardLogger

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", ours)
    made = []
    for _ in range(2):
        logger = TensorBoardLogger(tmp_path, name="logs")
        assert isinstance(logger.experiment, theirs.SummaryWriter)
        made.append(Path(logger.log_dir).name)
    assert made == ["version_0", "version_1"]


def test_scalars_of_several_names_are_written_as_our_own(tmp_path, ours):
    writer = ours(tmp_path, flush_secs=None, filename_suffix=".x")
    for step in range(30):
        writer.add_scalars("both/of", {"a": step, "b": -step}, step)
    writer.close()
    writer.add_scalars("both/of", {"a": 30}, 30)
    writer.close()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"both_of_a", "both_of_b"}
    events = all_events(tmp_path / "both_of_a")  # which are written by fasthist
    assert [event.summary.value[0].simple_value for event in events] == list(range(31))
    assert all(path.name.endswith(".x") for path in files(tmp_path / "both_of_b"))


# -- tools that watch torch's classes -------------------------------------------------------------


def log_everything(writer, prefix=""):
    """Log a few steps of several kinds."""
    for step in range(3):
        writer.add_scalar(f"{prefix}loss", 0.5 * step, step)
        writer.add_histogram(f"{prefix}weights", WEIGHTS * (step + 1), step)
        writer.add_text(f"{prefix}note", "hello", step)
    writer.close()


def test_who_replaces_add_event_sees_every_event(tmp_path, theirs, ours, monkeypatch):
    """ClearML and MLflow put a function of their own in the place of this method."""
    seen = []
    original = theirs.FileWriter.add_event

    def watching(self, event, step=None, walltime=None):
        seen.append((event.summary.value[0].tag, step))
        return original(self, event, step, walltime)

    with ours(tmp_path, every=2, keep_last=True) as writer:
        writer.add_scalar("unseen", 1.0, 0, walltime=7.5)
        with monkeypatch.context() as patched:
            patched.setattr(theirs.FileWriter, "add_event", watching)
            writer.add_histograms({"tree": WEIGHTS, "other": WEIGHTS}, 5, walltime=8.5)
            writer.add_histogram_raw("raw", **fasthist.histogram(WEIGHTS).to_raw(), global_step=3)
            writer.add_histogram("empty", [], 0)
            for step in range(4):
                writer.add_histogram("weights", WEIGHTS, step)
            writer.add_text("note", "hello", 0)
            writer.close()
    assert seen == [
        ("tree", 5), ("raw", 3), ("weights", 0), ("weights", 2), ("note/text_summary", 0), ("weights", 3),
    ]  # fmt: skip
    # And each is in the file, once.
    events = all_events(tmp_path)
    assert [(e.summary.value[0].tag, e.step) for e in events] == [("unseen", 0), *seen]
    assert [event.wall_time for event in events[:2]] == [7.5, 8.5]


@pytest.mark.parametrize("times", [1, 2])
def test_who_replaces_the_class_learns_of_the_directory(tmp_path, theirs, ours, monkeypatch, times):
    """W&B puts a subclass in the place of tensorboard's class, sometimes one over another."""
    told = []
    for _ in range(times):

        class Watching(theirs.EventFileWriter):
            def __init__(self, logdir, *args, **kwargs):
                told.append(logdir)
                super().__init__(logdir, *args, **kwargs)

        monkeypatch.setattr(theirs, "EventFileWriter", Watching)
    writer = ours(tmp_path)
    assert told == [str(tmp_path)] * times
    assert len(files(tmp_path)) == 1
    log_everything(writer)
    assert len(all_events(tmp_path)) == 9
    writer.add_scalars("both", {"a": 1.0}, 0)
    assert told[2 * times :] == [f"{tmp_path}/both_a"] * times
    pickle.loads(pickle.dumps(writer)).close()
    writer.close()


WANDB = """
import os, sys
import wandb
from test_torch_writer import log_everything
from fasthist.adapters.torch import SummaryWriter
from torch.utils.tensorboard import SummaryWriter as TorchWriter
os.chdir(sys.argv[1])
for name, writer_class in (("torch", TorchWriter), ("fasthist", SummaryWriter)):
    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(project="p", name=name, mode="offline", sync_tensorboard=True, dir=name, settings=settings)
    log_everything(writer_class(name + "/logs"))
    run.finish()
    wandb.tensorboard.unpatch()
"""


def payloads(path):
    """Give the records of a W&B file: LevelDB's log format behind 7 bytes."""
    data, place, payload, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        left = (1 << 15) - place % (1 << 15)
        if left < 7:  # too little of a block for a header
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        payload += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(payload)
            payload = b""
    return found


def run_tool(code, folder):
    for name in ("torch", "fasthist"):
        (folder / name).mkdir()
    path = [str(Path(fasthist.__file__).parents[1]), str(Path(__file__).parent)]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        f"import sys; sys.path[:0] = {path!r}\n{code}",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_wandb_syncs_every_event(tmp_path, need, ours):  # noqa: ARG001
    need("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    run_tool(WANDB, tmp_path)
    rows = {}
    for name in ("torch", "fasthist"):
        (path,) = (tmp_path / name / "wandb").glob("offline-run*/*.wandb")
        records = [Record.FromString(payload) for payload in payloads(path)]
        rows[name] = [
            {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            for record in records
            if record.WhichOneof("record_type") == "history"
        ]
    assert [row["loss"] for row in rows["torch"]] == [0.0, 0.5, 1.0]
    for name in ("loss", "global_step", "weights._type"):
        assert [row[name] for row in rows["fasthist"]] == [row[name] for row in rows["torch"]]
    for row in rows["fasthist"]:
        assert sum(row["weights.values"]) == pytest.approx(WEIGHTS.size)


CLEARML = """
import json, os, sys
folder = os.environ["HOME"] = os.environ["CLEARML_CACHE_DIR"] = sys.argv[1]
from fasthist.adapters.torch import SummaryWriter  # before a thread of ClearML's imports torch
from torch.utils.tensorboard import SummaryWriter as TorchWriter
from test_torch_writer import log_everything
from clearml import Task
Task.set_offline(True)
task = Task.init(
    "p", "t", auto_connect_arg_parser=False, auto_resource_monitoring=False, auto_connect_streams=False
)
log_everything(TorchWriter(folder + "/torch/logs"), "torch_")
log_everything(SummaryWriter(folder + "/fasthist/logs"), "fasthist_")
task.flush(wait_for_uploads=True)
session = str(task.get_offline_mode_folder())
task.close()
with open(session + "/metrics.jsonl") as lines:
    events = [event for line in lines for event in json.loads(line)]
with open(folder + "/events.json", "w") as file:
    json.dump(events, file)
"""


def test_clearml_sees_every_event(tmp_path, need, ours):  # noqa: ARG001
    need("clearml")
    run_tool(CLEARML, tmp_path)
    seen = {"torch": Counter(), "fasthist": Counter()}
    for event in json.loads((tmp_path / "events.json").read_text()):
        for name, events in seen.items():
            series = f"{event['metric']}/{event['variant']}"
            if name in series:
                what = (
                    series.replace(f"{name}_", ""),
                    event["type"],
                    event["iter"],
                    event.get("value"),
                )
                events[what] += 1
    assert sum(seen["torch"].values()) >= 9
    assert seen["fasthist"] == seen["torch"]
    assert len(all_events(tmp_path / "fasthist" / "logs")) == 9
