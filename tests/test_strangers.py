"""What other libraries write of NaN, infinities, nothing, constants and integers: read, shown, exported and diagnosed."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

import fasthist
from fasthist.cli import main

RNG = np.random.default_rng(21)
NAN, INF = math.nan, math.inf


def among(*special):
    values = RNG.normal(size=100)
    values[: len(special)] = special
    return values


CASES = {
    "nan": among(NAN, NAN),
    "inf": among(INF),
    "neginf": among(-INF, -INF),
    "both": among(INF, -INF, -INF),
    "every": among(NAN, INF, -INF),
    "only_nan": np.full(5, NAN),
    "only_inf": np.full(5, INF),
    "only_neginf": np.full(1, -INF),
    "empty": np.zeros(0),
    "constant": np.full(7, 3.25),
    "below": np.full(7, -300.0),
    "zeros": np.zeros(9),
    "one": np.array([2.0]),
    "integers": np.arange(-20, 20),
    "int8": np.arange(-20, 20).astype(np.int8),
    "uint8": np.arange(40).astype(np.uint8),
    "bool": np.array([True, False, True]),
    "float16": among().astype(np.float16),
    "huge": among(1e30, -1e300),
    "largest": among(1.7e308, -1.7e308),
    "tiny": among() * 1e-310,
}


def torch(need, log_dir):
    return need("torch.utils.tensorboard").SummaryWriter(log_dir)


def tensorboardx(need, log_dir):
    return need("tensorboardX").SummaryWriter(log_dir)


class tensorflow2:
    def __init__(self, need, log_dir):
        self._summary = need("tensorflow").summary
        self._writer = self._summary.create_file_writer(log_dir)
        self.close = self._writer.close

    def add_histogram(self, tag, values, step):
        with self._writer.as_default():
            self._summary.histogram(tag, values, step=step)


class tensorflow1:
    def __init__(self, need, log_dir):
        self._tf = need("tensorflow").compat.v1
        self._graph = self._tf.Graph()
        with self._graph.as_default():
            self._writer = self._tf.summary.FileWriter(log_dir)
            self._session = self._tf.Session()

    def add_histogram(self, tag, values, step):
        with self._graph.as_default():
            # Not tf.summary.histogram, which gives the second of a tag in a graph another name.
            summary = self._tf.raw_ops.HistogramSummary(tag=tag, values=self._tf.constant(values))
            self._writer.add_summary(self._session.run(summary), step)

    def close(self):
        self._session.close()
        self._writer.close()


class by_numpy:
    """TensorBoard's own function, which needs no TensorFlow."""

    def __init__(self, need, log_dir):
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event = need("tensorboard.compat.proto.event_pb2").Event
        self._histogram_pb, self._writer = histogram_pb, EventFileWriter(log_dir)
        self.close = self._writer.close

    def add_histogram(self, tag, values, step):
        self._writer.add_event(self._event(step=step, summary=self._histogram_pb(tag, values)))


def invoke(command, *arguments):
    result = CliRunner().invoke(main, [command, *map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Warning" not in result.stderr
    return result.stdout


@pytest.mark.parametrize("library", [torch, tensorboardx, tensorflow1, tensorflow2, by_numpy])
def test_special_values(library, need, tmp_path):
    written = write(library, need, tmp_path)
    assert len(written) >= len(CASES) - 9
    history = fasthist.History.open(tmp_path)
    raw = {(row.tag, row.step): row.histogram for row in fasthist.read(tmp_path)}
    told = {}
    for case, values in CASES.items():
        series = history[f"gradients/{case}.weight"]
        assert series.steps.tolist() == ([0, 1, 2] if case in written else [0, 2])
        for step, h in zip(series.steps.tolist(), series, strict=True):
            assert h == raw[series.tag, step]
            if step != 1:
                assert h.num == 100
        if case in written:
            told[case] = check(library, case, series.at(1), values.astype(np.float64))
    assert invoke("show", tmp_path).count("gradients/") == len(history)
    rows = json.loads(invoke("show", tmp_path, "--json"))
    assert {(row["tag"], row["step"]): row["uncounted"] for row in rows} == {
        key: h.uncounted for key, h in raw.items()
    }
    assert len(list(csv.DictReader(io.StringIO(invoke("show", tmp_path, "--csv"))))) == len(rows)
    lines = invoke("show", tmp_path, "--step", 1).splitlines()
    for case, uncounted in told.items():
        (line,) = (line for line in lines if line.startswith(f"gradients/{case}.weight "))
        assert not uncounted or f" ~{uncounted} " in line
    assert ("nonfinite" in invoke("doctor", tmp_path)) == (library is not tensorflow1)
    findings = fasthist.diagnose(history)
    found = {one.tag: one for one in findings if one.rule == "nonfinite"}
    bad = [case for case in told if not np.isfinite(CASES[case].astype(np.float64)).all()]
    finite = {case for case in told if case not in bad and case != "largest"}
    assert found.keys() >= {f"gradients/{case}.weight" for case in bad}
    assert not found.keys() & {f"gradients/{case}.weight" for case in finite}
    assert {(one.first_step, one.last_step) for one in found.values()} <= {(1, 1)}
    # What else is wrong in the run is told all the same.
    assert ("vanishing_gradient", "gradients/fc1.weight") in {
        (one.rule, one.tag) for one in findings
    }


def write(library, need, log_dir):
    """Write each case at step 1, between usual values, and two layers; give the cases that the library takes."""
    taken = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries warn of
        writer = library(need, str(log_dir))
        for step in range(3):
            writer.add_histogram("gradients/fc1.weight", RNG.normal(0, 1e-9, 512), step)
            for case, values in CASES.items():
                tag = f"gradients/{case}.weight"
                if step != 1:
                    writer.add_histogram(tag, RNG.normal(size=100), step)
                    continue
                try:
                    writer.add_histogram(tag, values, step)
                except Exception:  # noqa: BLE001 each library refuses with errors of its own
                    continue
                taken.append(case)
            writer.add_histogram("gradients/fc2.weight", RNG.normal(0, 1e-2, 512), step)
        writer.close()
    return taken


def check(library, case, h, values):
    """Compare a histogram with the values; give how many are not counted."""
    finite = values[np.isfinite(values)]
    assert h.num <= finite.size
    if h.num and case not in ("huge", "largest", "tiny"):  # TensorFlow takes 1e-310 for 0
        assert h.min in (None, finite.min())
        assert h.max in (None, finite.max())
    for name, count in {
        "nan_count": np.isnan(values).sum(),
        "posinf_count": (values == INF).sum(),
        "neginf_count": (values == -INF).sum(),
    }.items():
        assert getattr(h, name) in (None, count), name
    if library in (tensorflow2, by_numpy):
        assert bool(h.uncounted) == (
            finite.size < values.size or (case == "largest" and library is by_numpy)
        )
    else:
        assert h.num + h.uncounted == values.size
        assert h.num == finite.size or case in ("huge", "largest")
    return h.uncounted or 0


@pytest.mark.filterwarnings("ignore")
def test_keras(need, tmp_path):
    keras = need("tensorflow").keras
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4, name="d1")])
    model.compile(keras.optimizers.SGD(0.0), "mse")

    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002
            kernel = np.ones((3, 4))
            kernel[0] = (1, 2, 3, INF if epoch == 1 else NAN if epoch == 2 else 4)
            self.model.layers[-1].set_weights([kernel, np.zeros(4)])

    board = keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, write_graph=False)
    ones = np.ones((4, 3)), np.ones((4, 4))
    model.fit(*ones, epochs=4, verbose=0, callbacks=[Spoil(), board])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fasthist.History.open(tmp_path)
        (series,) = (history[tag] for tag in history if tag.endswith("d1/kernel/histogram"))
        assert series.steps.tolist() == [0, 1, 2, 3]
        assert series.num[[0, 3]].tolist() == [12, 12]
        assert (series.uncounted > 0).tolist() == [False, True, True, False]
        invoke("show", tmp_path / "train")
        told = invoke("doctor", tmp_path / "train")
        assert f"warning nonfinite  {series.tag}, step 1 to 2: " in told
        assert "error nonfinite" not in told
