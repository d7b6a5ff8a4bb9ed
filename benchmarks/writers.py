"""The libraries' summary writers: one tensor, or a whole model, until the call returns or until it is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from data import Data, ModelData
from peers import Counts, Run, Setup, proto_counts, steps

TAG = "values"


class Written:
    """A writer in a folder of its own: what a callable returns, so that the events can be read back.

    Parameters
    ----------
    data : Data
        Removes the folder and closes the writer in the end.
    open_writer : callable
        ``open_writer(folder)``.
    settle : callable, optional
        ``settle(writer)`` waits until everything is on disk. Default: ``writer.flush()``.
    """

    def __init__(
        self,
        data: Data,
        open_writer: Callable[[str], Any],
        settle: Callable[[Any], None] = methodcaller("flush"),
    ) -> None:
        self.folder = data.folder()
        self.writer = open_writer(self.folder)
        self.settle = lambda: settle(self.writer)
        data.closing(self.writer, self.settle)

    def last_values(self) -> list[Any]:
        """Read the values of the last step that was written."""
        self.settle()
        found: dict[int, list[Any]] = {}
        for event in _events(self.folder):
            found.setdefault(event.step, []).extend(event.summary.value)
        return found[max(found)]


def _events(folder: str) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    for path in sorted(Path(folder).glob("*tfevents*")):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            if event.HasField("summary"):
                yield event


def written_counts(answer: Written, data: Data) -> Counts:
    """Read back what was written last: one histogram after the other."""
    return np.concatenate(
        [proto_counts(value.histo, data) for value in answer.last_values() if value.HasField("histo")]
    )  # fmt: skip


def expected_counts(data: Data) -> Counts:
    """Count what `written_counts` has to find."""
    return _counted(data, lambda tensor: tensor)


def outlined_counts(answer: Written, data: Data) -> Counts:
    """Read back an outline: how many values it holds, and at which tenths of the data it is within 2 % of their share."""
    from tensorboard.util import tensor_util

    found = []
    for value, tensor in zip(answer.last_values(), _tensors(data), strict=False):
        if value.HasField("histo"):
            right, counts = np.array(value.histo.bucket_limit), np.array(value.histo.bucket)
        else:
            _, right, counts = tensor_util.make_ndarray(value.tensor).T
        values = np.sort(np.asarray(tensor.detach().double()).ravel())
        tenths = values[np.arange(1, 10) * values.size // 10]
        share = np.interp(tenths, right, np.cumsum(counts) / values.size, left=0.0)
        fewest = np.searchsorted(values, tenths, "left") / values.size - 0.02
        most = np.searchsorted(values, tenths, "right") / values.size + 0.02
        found += [counts.sum(), *((fewest <= share) & (share <= most))]
    return np.array(found, dtype=np.int64)


def outlined_rule(data: Data) -> Counts:
    """Say what `outlined_counts` has to find."""
    return np.array([[tensor.numel(), *[1] * 9] for tensor in _tensors(data)]).ravel()


def _tensors(data: Data) -> list[Any]:
    return list(data.tree.values()) if isinstance(data, ModelData) else [data.tensor]


def float16_rule(data: Data) -> Counts:
    """Count what torch writes of bfloat16: it casts to float16 first."""
    import torch

    return _counted(
        data, lambda tensor: tensor.to(torch.float16) if tensor.dtype == torch.bfloat16 else tensor
    )


def _counted(data: Data, cast: Any) -> Counts:
    import fasthist

    return np.concatenate(
        [
            fasthist.histogram(cast(tensor), buckets="tensorflow").counts.astype(np.int64)
            for tensor in _tensors(data)
        ]
    )


# -- one writer of each library --------------------------------------------------------------------------


def _ours(data: Data) -> Written:
    import fasthist

    return Written(data, fasthist.SummaryWriter)


def _torch(data: Data) -> Written:
    from torch.utils.tensorboard import SummaryWriter

    return Written(data, SummaryWriter)


def _tensorboardx(data: Data) -> Written:
    from tensorboardX import SummaryWriter

    return Written(data, SummaryWriter, _drain)


def _drain(writer: Any) -> None:
    # tensorboardX's flush() does not wait for its queue; of its public methods only close() does.
    if writer.file_writer is not None:
        # Its thread ends at a mark behind all events, and another one goes on. An empty queue would not tell: another thread feeds it.
        events = writer.file_writer.event_writer
        events._worker.stop()
        events._worker = type(events._worker)(
            events._event_queue, events._ev_writer, events._flush_secs
        )
        events._worker.start()
        writer.flush()


# -- one tensor ------------------------------------------------------------------------------------------


def _one(open_writer: Any) -> Setup:
    def setup(data: Data) -> Run:
        written, tensor, step = open_writer(data), data.tensor, steps()

        def run() -> Written:
            written.writer.add_histogram(TAG, tensor, step())
            return written

        return run

    return setup


add_ours, add_torch, add_tensorboardx = _one(_ours), _one(_torch), _one(_tensorboardx)


def add_tensorflow(data: Data) -> Run:
    """Write with tf.summary.histogram: 30 uniform buckets."""
    import tensorflow as tf

    written = Written(data, tf.summary.create_file_writer)
    tensor, step = tf.constant(data.array), steps()

    def run() -> Written:
        with written.writer.as_default():
            tf.summary.histogram(TAG, tensor, step=step())
        return written

    return run


def tensorflow_counts(answer: Written, data: Data) -> Counts:  # noqa: ARG001
    """Read the counts of tf.summary's rows: left edge, right edge, count."""
    from tensorboard.util import tensor_util

    (value,) = answer.last_values()
    return tensor_util.make_ndarray(value.tensor)[:, 2].astype(np.int64)


def tensorflow_rule(data: Data) -> Counts:
    """Bucket number (x - min) / ((max - min) / 30) in float64, the maximum in the last."""
    values = data.array.astype(np.float64)
    low, width = values.min(), (values.max() - values.min()) / 30
    return np.bincount(np.minimum(((values - low) / width).astype(np.int64), 29), minlength=30)


# -- whole models ----------------------------------------------------------------------------------------


def model_ours(*, on_disk: bool) -> Setup:
    """Write a model with one add_histograms."""

    def setup(data: ModelData) -> Run:
        written, tree, step = _ours(data), data.tree, steps()

        def run() -> Written:
            written.writer.add_histograms(tree, step())
            if on_disk:
                written.writer.flush()
            return written

        return run

    return setup


def model_torch(*, on_disk: bool) -> Setup:
    """Write a model with a loop of torch's add_histogram."""

    def setup(data: ModelData) -> Run:
        written, tree, step = _torch(data), data.tree, steps()

        def run() -> Written:
            number = step()
            for tag, tensor in tree.items():
                written.writer.add_histogram(tag, tensor, number)
            if on_disk:
                written.writer.flush()
            return written

        return run

    return setup


def model_tensorboardx(*, on_disk: bool) -> Setup:
    """Write a model with a loop of tensorboardX's add_histogram; on disk means closed, see `_drain`."""

    def setup(data: ModelData) -> Run:
        written, tree, step = _tensorboardx(data), data.tree, steps()
        cast = data.format == "bfloat16"

        def run() -> Written:
            number = step()
            for tag, tensor in tree.items():
                written.writer.add_histogram(tag, tensor.float() if cast else tensor, number)
            if on_disk:
                written.writer.close()
            return written

        return run

    return setup
