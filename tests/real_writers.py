"""Event files as other libraries write them, each with the same histograms.

``python tests/real_writers.py tests/golden`` made the golden files, and is not to be run again: they are there so that
a reader is tested where none of these libraries is installed.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import numpy as np

SPREAD = ((np.arange(300) * 7919 % 1009 - 504) / 25_000).astype(np.float32)
DATA = {
    "spread": SPREAD,
    "relu": np.maximum(SPREAD, 0),
    "constant": np.full(7, 3.25, dtype=np.float32),
    "zeros": np.zeros(5, dtype=np.float32),
    "huge": np.array([1e30, -2.0, 3.0], dtype=np.float32),
    "layer/weight": np.arange(-20, 20).astype(np.float32),
}
STEPS = {"spread": (0, 10)}
NAN = np.array([1.0, np.nan, 2.0])


def expected():
    """Give the tag, step and values of each histogram without NaN, in the order of writing."""
    return [(tag, step, DATA[tag] * (1 + step)) for tag in DATA for step in STEPS.get(tag, (0,))]


def torch(get, log_dir):
    writer = get("torch.utils.tensorboard").SummaryWriter(str(log_dir))
    for tag, step, values in expected():
        writer.add_histogram(tag, values, step)
    writer.add_scalar("loss", 0.5, 1)
    writer.add_text("text", "nothing to see", 1)
    writer.add_histogram("with_nan", NAN, 3)
    writer.close()


def tensorboardx(get, log_dir):
    writer = get("tensorboardX").SummaryWriter(str(log_dir))
    for tag, step, values in expected():
        writer.add_histogram(tag, values, step)
    writer.add_scalar("loss", 0.5, 1)
    writer.close()


def tensorflow2(get, log_dir):
    tf = get("tensorflow")
    writer = tf.summary.create_file_writer(str(log_dir))
    with writer.as_default():
        for tag, step, values in expected():
            tf.summary.histogram(tag, values, step=step)
        tf.summary.scalar("loss", 0.5, step=1)
        tf.summary.histogram("empty", np.zeros(0), step=3)
        tf.summary.histogram("no_buckets", SPREAD, step=3, buckets=0)
        tf.summary.histogram("with_nan", NAN, step=3)
    writer.close()


def tensorflow1(get, log_dir):
    tf = get("tensorflow").compat.v1
    with tf.Graph().as_default(), tf.Session() as session:
        writer = tf.summary.FileWriter(str(log_dir))
        values = tf.placeholder(tf.float32)
        made = {tag: tf.summary.histogram(tag, values) for tag in (*DATA, "empty")}
        for tag, step, array in [*expected(), ("empty", 3, np.zeros(0))]:
            writer.add_summary(session.run(made[tag], {values: array}), step)
        writer.close()


WRITERS = {write.__name__: write for write in (torch, tensorboardx, tensorflow2, tensorflow1)}

if __name__ == "__main__":
    directory = Path(sys.argv[1])
    for name, write in WRITERS.items():
        write(importlib.import_module, directory / name)
    for made in directory.glob("*/*tfevents*"):
        made.rename(made.with_name("events.out.tfevents.1700000000.host"))
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(directory).as_posix()}\n"
        for path in sorted(directory.glob("*/*tfevents*"))
    ]
    (directory / "MANIFEST").write_text("".join(lines))
