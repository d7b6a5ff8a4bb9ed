"""Events through another library's writer, where tools that watch its classes see them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from event_files import files
from loaders import python_loader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import fasthist
from fasthist.errors import ArgumentError, MissingPackageError
from fasthist.summary_writer import SummaryWriter

WEIGHTS = np.random.default_rng(4).normal(0, 0.02, 3000).astype(np.float32)


def write(writer):
    for step in range(4):
        writer.add_histogram("a", WEIGHTS * (step + 1), step, walltime=100.0 + step)
        writer.add_histograms({"b": {"c": WEIGHTS}}, step, stats=["mean"])
        writer.add_scalar("loss", 0.5, step)


def check(log_dir):
    """All is there once, as it would be in a file of our own."""
    found = [item for item in fasthist.read(log_dir) if item.tag == "a"]
    assert [(item.step, item.wall_time) for item in found] == [(i, 100.0 + i) for i in range(4)]
    for item in found:
        expected = fasthist.histogram(WEIGHTS * (item.step + 1))
        assert (item.histogram.num, item.histogram.min, item.histogram.max, item.histogram.sum) == (
            (expected.num, expected.min, expected.max, expected.sum)
        )
    scalars = python_loader(log_dir, "scalars")
    assert {tag for _, tag in scalars} - {"theirs"} == {"b/c/mean", "loss"}
    assert [step for step, _ in scalars[".", "loss"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("module", ["torch.utils.tensorboard", "tensorboardX"])
def test_a_summary_writer(tmp_path, need, module):
    theirs = need(module).SummaryWriter(str(tmp_path))
    ours = SummaryWriter(writer=theirs)
    assert ours.log_dir == str(tmp_path)
    write(ours)
    ours.close()
    theirs.add_scalar("theirs", 0.5, 3)  # it is open still
    theirs.close()
    assert len(files(tmp_path)) == 1
    check(tmp_path)


def test_tools_that_watch_torchs_classes_see_the_events(tmp_path, need, monkeypatch):
    """ClearML and W&B put a function of their own in the place of these methods."""
    module = need("torch.utils.tensorboard.writer")
    seen = []
    original = module.FileWriter.add_event

    def watching(self, event, step=None, walltime=None):
        seen.append((event.step, [value.tag for value in event.summary.value]))
        return original(self, event, step, walltime)

    monkeypatch.setattr(module.FileWriter, "add_event", watching)
    theirs = need("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    write(SummaryWriter(writer=theirs))
    theirs.close()
    assert seen[:3] == [(0, ["a"]), (0, ["b/c", "b/c/mean"]), (0, ["loss"])]
    assert len(seen) == 12


def test_an_event_file_writer(tmp_path):
    theirs = EventFileWriter(str(tmp_path))
    ours = SummaryWriter(writer=theirs)
    assert ours.log_dir == str(tmp_path)
    write(ours)
    ours.flush()
    theirs.close()
    check(tmp_path)


def test_any_object_that_takes_events():
    class Sink:
        def __init__(self):
            self.events = []

        def add_event(self, event):
            self.events.append(event)

    sink = Sink()
    with SummaryWriter(writer=sink, every=2) as writer:
        assert writer.log_dir == ""
        write(writer)
    assert all(isinstance(event, Event) for event in sink.events)
    assert [e.step for e in sink.events if e.summary.value[0].tag == "a"] == [0, 2]


def test_the_last_step_is_handed_over_when_the_writer_is_closed(tmp_path):
    theirs = EventFileWriter(str(tmp_path))
    ours = SummaryWriter(writer=theirs, every=10, keep_last=True)
    for step in range(4):
        ours.add_histogram("a", WEIGHTS, step)
    ours.close()
    theirs.close()
    assert [item.step for item in fasthist.read(tmp_path)] == [0, 3]


def test_what_the_other_writer_raises_comes_through():
    class Broken:
        def add_event(self, event):
            raise OSError(event.step)

    with pytest.raises(OSError, match="7"):
        SummaryWriter(writer=Broken()).add_scalar("a", 1, 7)


def test_what_takes_no_events(tmp_path, monkeypatch):
    with pytest.raises(
        ArgumentError, match=r"writer=list takes no events\. Accepted: a SummaryWriter"
    ):
        SummaryWriter(writer=[])
    theirs = EventFileWriter(str(tmp_path))
    with pytest.raises(ArgumentError, match=r"log_dir='a' is given beside writer="):
        SummaryWriter("a", writer=theirs)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(
        MissingPackageError, match=r"EventFileWriter needs the package tensorboard\. Run"
    ):
        SummaryWriter(writer=theirs)
    theirs.close()
