"""Random histories of runs: some lives in one directory, each of a writer drawn at random, replayable by number.

``python tests/lives.py 17 /tmp/run`` writes history 17, so that it can be looked at.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

TAGS = ("w", "b", "layer/weight")
OLDEST = 1_700_000_000
HEADER = 12  # of a record: its length, and that one's checksum


class _TensorFlow2:
    def __init__(self, get, log_dir, purge_step):
        del purge_step  # it knows none
        self._summary = get("tensorflow").summary
        self._writer = self._summary.create_file_writer(log_dir)

    def add_histogram(self, tag, values, step):
        with self._writer.as_default():
            self._summary.histogram(tag, values, step=step, buckets=5)

    def add_scalar(self, tag, value, step):
        with self._writer.as_default():
            self._summary.scalar(tag, value, step=step)

    def flush(self):
        self._writer.flush()

    def close(self):
        self._writer.close()


class _TensorFlow1:
    """A session's writer, which notes that it starts, as ``tf.train.Supervisor`` had it do."""

    def __init__(self, get, log_dir, purge_step):
        self._tf = get("tensorflow").compat.v1
        with self._tf.Graph().as_default():
            self._writer = self._tf.summary.FileWriter(log_dir)
        if purge_step is not None:
            start = self._tf.SessionLog(status=self._tf.SessionLog.START)
            self._writer.add_session_log(start, purge_step)

    def add_histogram(self, tag, values, step):
        counts, edges = np.histogram(values, 7)
        histo = self._tf.HistogramProto(
            min=values.min(), max=values.max(), num=values.size, sum=values.sum(), sum_squares=(values**2).sum(),
            bucket_limit=edges, bucket=[0.0, *counts],
        )  # fmt: skip
        self._add(self._tf.Summary.Value(tag=tag, histo=histo), step)

    def add_scalar(self, tag, value, step):
        self._add(self._tf.Summary.Value(tag=tag, simple_value=value), step)

    def _add(self, value, step):
        self._writer.add_summary(self._tf.Summary(value=[value]), step)

    def flush(self):
        self._writer.flush()

    def close(self):
        self._writer.close()


def _class_of(module):
    def make(get, log_dir, purge_step):
        return get(module).SummaryWriter(log_dir, purge_step=purge_step)

    return make


WRITERS = {
    "torch": _class_of("torch.utils.tensorboard"),
    "tensorboardX": _class_of("tensorboardX"),
    "tensorflow2": _TensorFlow2,
    "tensorflow1": _TensorFlow1,
    "fasthist": _class_of("fasthist"),
    "adapter": _class_of("fasthist.adapters.torch"),
}


def write_history(get, number, log_dir):
    """Write a history; give what was done, a line for each life."""
    rng = np.random.default_rng(number)
    return [_write_life(get, rng, log_dir, life) for life in range(rng.integers(1, 5))]


def _write_life(get, rng, log_dir, life):
    name = str(rng.choice(list(WRITERS)))
    purge_step = int(rng.integers(0, 12)) if rng.random() < (0.6 if life else 0.15) else None
    begin = int(rng.integers(0, 8)) if purge_step is None else purge_step
    steps = np.arange(begin, begin + rng.integers(1, 8))
    if rng.random() < 0.2:  # some processes write in no order
        rng.shuffle(steps)
    tags = rng.choice(TAGS, rng.integers(1, len(TAGS) + 1), replace=False).tolist()
    before = set(log_dir.glob("*tfevents*"))
    writer = WRITERS[name](get, str(log_dir), purge_step)
    for step in steps.tolist():
        for tag in tags:
            if rng.random() < 0.9:
                writer.add_histogram(tag, rng.normal(size=20), step)
        if rng.random() < 0.3:
            writer.add_scalar("loss", 0.5, step)
        if rng.random() < 0.3:
            writer.flush()
    writer.close()
    # Where nothing is new, the writer has taken the name of a file of this second, and written over it.
    made = sorted(set(log_dir.glob("*tfevents*")) - before)
    end = "closed"
    for written in made:
        path = written
        if rng.random() < 0.8:  # else all begin in this second, and sort as their writers' names do
            _, _, rest = path.name.partition("tfevents.")
            path = path.rename(path.with_name(f"events.out.tfevents.{OLDEST + life}{rest[10:]}"))
        end = _crash(rng, path)
    return f"{name} purge_step={purge_step} steps={steps.tolist()} tags={tags} {end}"


def _crash(rng, path):
    """Leave, now and then, what a process leaves that dies: less, up to nothing, or a file that has lost its beginning."""
    data, chance = path.read_bytes(), rng.random()
    if chance < 0.3:
        size = int(rng.integers(0, len(data) + 1))
        path.write_bytes(data[:size])
        return f"cut off at {size} of {len(data)}"
    if chance < 0.45:
        path.write_bytes(data[HEADER + 4 + int.from_bytes(data[:8], "little") :])
        return "without its version"
    return "closed"


def accumulated_steps(log_dir):
    """Give {tag: steps} of the histograms that TensorBoard's EventAccumulator keeps, in both forms."""
    module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    every = dict.fromkeys(module.DEFAULT_SIZE_GUIDANCE, 0)
    accumulator = module.EventAccumulator(str(log_dir), size_guidance=every).Reload()
    kinds = accumulator.Tags()
    found = {}
    for tag in kinds["histograms"]:
        found.setdefault(tag, set()).update(event.step for event in accumulator.Histograms(tag))
    for tag in kinds["tensors"]:
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "histograms":
            found.setdefault(tag, set()).update(event.step for event in accumulator.Tensors(tag))
    return {tag: sorted(steps) for tag, steps in found.items() if steps}


if __name__ == "__main__":
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True)
    print(*write_history(importlib.import_module, int(sys.argv[1]), directory), sep="\n")  # noqa: T201
    print(accumulated_steps(directory))  # noqa: T201
