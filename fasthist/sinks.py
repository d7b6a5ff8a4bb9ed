"""Where adapters send histograms: TensorBoard's files, or the tracker that a team already uses.

A sink counts its input with `fasthist.histograms`, so that only finished histograms reach the tracker. Beside each it
logs the mean and the standard deviation, which trackers' histograms lack, and the counts of NaN and infinities, if any.
"""

from __future__ import annotations

import inspect
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from fasthist.errors import ArgumentError
from fasthist.hist import Histogram
from fasthist.packages import require

if TYPE_CHECKING:
    from fasthist.summary_writer import SummaryWriter


class Sink(Protocol):
    """What takes the histograms of a step, such as a `fasthist.SummaryWriter`."""

    def add_histograms(self, tree: Any, global_step: int | None = None) -> None:
        """Count every array of a tree, and log all histograms of this step.

        Parameters
        ----------
        tree : tree
            Arrays or finished histograms; tags as in `fasthist.histograms`.
        global_step : int, optional
        """

    def flush(self) -> None:
        """Send on what is buffered."""

    def close(self) -> None:
        """Flush, and close what this sink has opened itself."""


class _TrackerSink(ABC):
    """What the trackers' sinks share: count a tree and hand over the histograms."""

    def add_histograms(self, tree: Any, global_step: int | None = None) -> None:
        """Count every array of a tree, and log all histograms of this step, as `Sink` says."""
        from fasthist.compute import histograms

        self._log(histograms(tree), global_step)

    @abstractmethod
    def _log(self, histograms: dict[str, Histogram], step: int | None) -> None:
        """Hand over the histograms of a step."""

    def flush(self) -> None:  # noqa: B027 - nothing is held here
        """Do nothing: the tracker sends by itself."""

    def close(self) -> None:  # noqa: B027 - nothing was opened here
        """Do nothing: the run is its owner's."""


def _scalars(tag: str, histogram: Histogram) -> Iterator[tuple[str, float]]:
    for name in ("mean", "std"):
        value = getattr(histogram, name)
        if value is not None:
            yield f"{tag}/{name}", value
    for name in ("nan_count", "posinf_count", "neginf_count"):
        value = getattr(histogram, name)
        if value:
            yield f"{tag}/{name}", value


class _RowSink(_TrackerSink):
    """Log a row of values for each step; what W&B, trackio and SwanLab share."""

    _method: str
    _service: str
    _package: str

    def __init__(self, run: Any, step_metric: str | None = None) -> None:
        if run is None:
            msg = (
                f"there is no {self._service} run. "
                f"Accepted: {type(self).__name__}(run), or a call of {self._package}.init() before it."
            )
            raise ArgumentError(msg)
        self._run = run
        self._step_metric = step_metric

    def _log(self, histograms: dict[str, Histogram], step: int | None) -> None:
        values = _values(histograms, self._method)
        if self._step_metric is None:
            self._run.log(values, step=step)
        else:
            # The run counts its rows itself: our step would shift others' rows, or be dropped behind them.
            self._run.log(values if step is None else {**values, self._step_metric: step})


class WandbSink(_RowSink):
    """Log to Weights & Biases: one ``run.log`` for each step.

    Parameters
    ----------
    run : wandb.Run, optional
        Default: the one that ``wandb.init`` has started.
    step_metric : str, optional
        Log the step as a value of this name, such as "trainer/global_step", and leave the run's own counter alone: for
        runs that are logged to without ``step=``.

    Raises
    ------
    ArgumentError
        There is no run.
    MissingPackageError
        wandb is not installed.

    Notes
    -----
    Without `step_metric`, other values of the same step stay in the same row if they are logged with ``step=`` too. W&B
    drops what is logged for a step before its last one: such histograms go to the next row, beside "global_step".
    """

    _method, _service, _package = "to_wandb", "W&B", "wandb"

    def __init__(self, run: Any = None, step_metric: str | None = None) -> None:
        super().__init__(run or require("wandb").run, step_metric)

    def _log(self, histograms: dict[str, Histogram], step: int | None) -> None:
        if self._step_metric is None and step is not None and step < getattr(self._run, "step", 0):
            self._run.log({**_values(histograms, self._method), "global_step": step})
        else:
            super()._log(histograms, step)


class TrackioSink(_RowSink):
    """Log to trackio: one ``trackio.log`` for each step.

    Parameters
    ----------
    run : trackio.Run, optional
        Default: the one that ``trackio.init`` has started.
    step_metric : str, optional
        As in `WandbSink`.

    Raises
    ------
    ArgumentError
        There is no run.
    MissingPackageError
        trackio is not installed.
    """

    _method, _service, _package = "to_trackio", "trackio", "trackio"

    def __init__(self, run: Any = None, step_metric: str | None = None) -> None:
        super().__init__(run or require("trackio").context_vars.current_run.get(), step_metric)


class SwanlabSink(_RowSink):
    """Log to SwanLab: one ``run.log`` for each step.

    Parameters
    ----------
    run : swanlab.Run, optional
        Default: the one that ``swanlab.init`` has started.

    Raises
    ------
    ArgumentError
        There is no run.
    MissingPackageError
        swanlab is not installed.
    """

    _method, _service, _package = "to_swanlab", "SwanLab", "swanlab"

    def __init__(self, run: Any = None) -> None:
        swanlab = require("swanlab")
        super().__init__(run or (swanlab.get_run() if swanlab.has_run() else None))


def _values(histograms: dict[str, Histogram], method: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for tag, histogram in histograms.items():
        if histogram.num:
            values[tag] = getattr(histogram, method)()
        values.update(_scalars(tag, histogram))
    return values


class AimSink(_TrackerSink):
    """Log to Aim.

    Parameters
    ----------
    run : aim.Run
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def _log(self, histograms: dict[str, Histogram], step: int | None) -> None:
        for name, value in _values(histograms, "to_aim").items():
            self._run.track(value, name=name, step=step)


class CometSink(_TrackerSink):
    """Log to Comet.

    Parameters
    ----------
    experiment : comet_ml.CometExperiment
    """

    def __init__(self, experiment: Any) -> None:
        self._experiment = experiment

    def _log(self, histograms: dict[str, Histogram], step: int | None) -> None:
        for tag, histogram in histograms.items():
            if histogram.num:
                self._experiment.log_histogram_3d(histogram.to_comet(), name=tag, step=step or 0)
            self._experiment.log_metrics(dict(_scalars(tag, histogram)), step=step)


class MlflowSink(_TrackerSink):
    """Log to MLflow, which has no histograms: a picture of each, with mean and standard deviation as metrics.

    Parameters
    ----------
    run_id : str, optional
        Default: the active run.
    client : mlflow.MlflowClient, optional
        Client of the server that has the run. Default: the one of ``mlflow.set_tracking_uri``.

    Raises
    ------
    ArgumentError
        No run is active, and `run_id` is not given.
    MissingPackageError
        mlflow or matplotlib is not installed.

    Notes
    -----
    Pictures go to ``histograms/<tag>/<step>.png``. Drawing one takes some 50 ms: choose few tags. Characters that
    MLflow refuses in names become "_"; a name that equals another, or is its folder, ends in "_1".
    """

    def __init__(self, run_id: str | None = None, client: Any = None) -> None:
        mlflow = require("mlflow")
        require("matplotlib.figure", "matplotlib")  # before the training begins
        active = mlflow.active_run()
        if run_id is None and active is None:
            msg = "no MLflow run is active. Accepted: MlflowSink(run_id), or a call of mlflow.start_run() before it."
            raise ArgumentError(msg)
        self._run_id = run_id or active.info.run_id
        self._client = client or mlflow.MlflowClient()
        self._metric = require("mlflow.entities", "mlflow").Metric
        self._names: dict[str, str] = {}

    def _log(self, histograms: dict[str, Histogram], step: int | None) -> None:
        step, now, metrics = step or 0, int(time.time() * 1000), []
        for tag, histogram in histograms.items():
            if histogram.num:
                path = f"histograms/{_mlflow_name(tag)}/{step}.png"
                self._client.log_figure(self._run_id, histogram.to_mlflow(), path)
            for name, value in _scalars(tag, histogram):
                metrics.append(self._metric(self._name_of(name), value, now, step))
        for first in range(0, len(metrics), _MLFLOW_MOST):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + _MLFLOW_MOST])

    def _name_of(self, name: str) -> str:
        """Return a metric's name: the same at each step, and never a file where another name has a folder."""
        if name not in self._names:
            self._names[name] = _free(_mlflow_name(name), self._names.values())
        return self._names[name]


_MLFLOW_MOST = 1000
"""Metrics that MLflow takes in one call."""

_MLFLOW_REFUSED = re.compile(r"[^\w.\- /]" if os.name == "nt" else r"[^\w.\- :/]")
_MLFLOW_LONGEST = 240


def _mlflow_name(name: str) -> str:
    parts = _MLFLOW_REFUSED.sub("_", name)[-_MLFLOW_LONGEST:].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def _free(name: str, taken: Iterable[str]) -> str:
    """Return a name that is not taken, not inside a taken name, and not a folder of one."""
    count = 0
    start = free = name
    rest = ""
    while True:
        clash = next((other for other in taken if f"{other}/".startswith(f"{free}/")), None)
        if clash is None:
            clash = next((other for other in taken if free.startswith(f"{other}/")), None)
            if clash is None:
                return free
            start, rest, count = clash, free[len(clash) :], 0
        count += 1
        free = f"{start}_{count}{rest}"


class Sinks:
    """Count once, and send the histograms to each of several sinks.

    Parameters
    ----------
    sinks : iterable of Sink
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = tuple(sinks)

    def add_histograms(self, tree: Any, global_step: int | None = None) -> None:
        """Count and log, as `Sink` says."""
        from fasthist.compute import histograms

        counted = histograms(tree)
        for sink in self._sinks:
            sink.add_histograms(counted, global_step)

    def flush(self) -> None:
        """Flush each."""
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Close each."""
        for sink in self._sinks:
            sink.close()


class _Plain:
    """Another library's sink, which may have nothing but ``add_histograms``; it stays open."""

    def __init__(self, writer: Any) -> None:
        self.add_histograms = writer.add_histograms
        self.flush = getattr(writer, "flush", _nothing)

    def close(self) -> None:
        """Do nothing: its owner closes it."""


def _nothing() -> None:
    """Do nothing, and return no sink."""


class _TensorFlowEvents:
    """Pass events to a writer of ``tf.summary.create_file_writer``, which takes one step's summaries at a time."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._summary = require("tensorflow").summary
        self.flush = writer.flush

    def add_event(self, event: Any) -> None:
        """Write one event's values; TensorFlow sets the time."""
        summary = self._summary
        with self._writer.as_default(step=event.step), summary.record_if(True):
            summary.experimental.write_raw_pb(event.summary.SerializeToString(), step=event.step)


_ACCEPTED = (
    "a path, a SummaryWriter of fasthist, torch or tensorboardX, a writer of tf.summary.create_file_writer, a run of W&B, "
    "trackio, Aim, Comet, MLflow or SwanLab, a tracker of Accelerate, a logger of Lightning for one of these, "
    "or an object with add_histograms(tree, step)"
)
_RUNS: Mapping[str, tuple[str, Callable[..., _TrackerSink]]] = {
    "wandb": ("log", WandbSink),
    "trackio": ("log", TrackioSink),
    "swanlab": ("log", SwanlabSink),
    "aim": ("track", AimSink),
    "comet_ml": ("log_histogram_3d", CometSink),
}
"""The method that a run of each package has, and its sink."""

_LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
_LOGGERS = ("TensorBoardLogger", "CometLogger", "AimLogger", "SwanLabLogger")
"""Lightning's loggers whose ``experiment`` is a writer or run."""


def as_sink(writer: Any) -> Sink | None:
    """Return the sink for whatever a user calls a writer.

    A path opens a `fasthist.SummaryWriter`. Another library's writer, a run, a tracker of Accelerate and a logger of
    Lightning get a sink of their own, and stay open; a sink is returned as it is. A module such as ``wandb`` stands for
    the run that it has started.

    Returns
    -------
    Sink or None
        Close it if it is not `writer` itself. None: this process writes nothing, which Accelerate and Lightning say on
        all ranks but the first.

    Raises
    ------
    ArgumentError
        `writer` is none of these, or there is no run.
    MissingPackageError
        A package for it is not installed.
    WriteError
        A file cannot be made.
    """
    return sink_opener(writer)()


def lent_sink(writer: Any) -> Sink | None:
    """Do what `as_sink` does, for a single call: refuse a path, since nobody would close its files."""
    if isinstance(writer, (str, os.PathLike)):
        msg = f"writer={writer!r} would be opened at each call. Accepted: an open writer. Hint: fasthist.SummaryWriter(path)."
        raise ArgumentError(msg)
    return as_sink(writer)


def sink_opener(writer: Any) -> Callable[[], Sink | None]:
    """Check a writer now, and return what opens its sink later: callbacks are made before there are ranks and runs.

    The result can be pickled if the writer can; `as_sink` says what `writer` may be.
    """
    if isinstance(writer, (str, os.PathLike)) and os.fspath(writer):
        return partial(_summary_writer, log_dir=writer)
    if isinstance(writer, ModuleType):
        if writer.__name__ in _RUNS:
            return _RUNS[writer.__name__][1]
        if writer.__name__ == "mlflow":
            return MlflowSink
    elif not isinstance(writer, type):
        classes = [(c.__module__.partition(".")[0], c.__name__) for c in type(writer).__mro__]
        if hasattr(writer, "_fasthist_asks_for_what_nobody_has"):  # it answers to every name
            if classes[0][0] in _LIGHTNING:
                return _nothing
        else:
            opener = _opener_for(writer, classes)
            if opener is not None:
                return opener
    msg = f"writer={_described(writer)} takes no histograms. Accepted: {_ACCEPTED}."
    raise ArgumentError(msg)


def _described(writer: Any) -> str:
    if isinstance(writer, (ModuleType, type)):
        return f"{type(writer).__name__} {writer.__name__}"
    return repr(writer) if isinstance(writer, (str, int, float)) else type(writer).__name__


def _opener_for(writer: Any, classes: list[tuple[str, str]]) -> Callable[[], Sink | None] | None:
    """Return the opener for an instance, by its classes' packages and names; None if unknown."""
    if _takes_histograms(writer):
        is_whole = all(callable(getattr(writer, name, None)) for name in ("flush", "close"))
        return partial(_itself, writer) if is_whole else partial(_Plain, writer)
    for package, name in classes:
        if package in _RUNS and callable(getattr(writer, _RUNS[package][0], None)):
            return partial(_RUNS[package][1], writer)
        if package == "mlflow" and hasattr(writer, "info"):
            return partial(MlflowSink, writer.info.run_id)
        if package == "tensorflow" and name == "SummaryWriter":
            return partial(_tensorflow_writer, writer)
        if (package, name) == ("accelerate", "GeneralTracker"):
            inner = getattr(writer, "tracker", None)  # None for a blank tracker
            return _nothing if inner is None else sink_opener(inner)
        if package in _LIGHTNING and name == "DummyLogger":
            return _nothing
        if name in _LOGGERS:
            return partial(_sink_of_logger, writer)
        if name == "WandbLogger":
            return partial(_sink_of_logger, writer, WandbSink, step_metric="trainer/global_step")
        if name == "MLFlowLogger":
            return partial(_mlflow_of_logger, writer)
    if hasattr(writer, "_get_file_writer") or callable(getattr(writer, "add_event", None)):
        return partial(_summary_writer, writer=writer)
    return None


def _takes_histograms(writer: Any) -> bool:
    method = getattr(writer, "add_histograms", None)
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind({}, 0)
    except TypeError:
        return False
    except ValueError:  # a signature that cannot be read
        pass
    return True


def _itself(writer: Any) -> Any:
    return writer


def _summary_writer(**arguments: Any) -> SummaryWriter:
    from fasthist.summary_writer import SummaryWriter

    return SummaryWriter(**arguments)


def _tensorflow_writer(writer: Any) -> SummaryWriter:
    return _summary_writer(writer=_TensorFlowEvents(writer))


def _sink_of_logger(logger: Any, kind: Any = as_sink, **arguments: Any) -> Sink | None:
    run = logger.experiment
    is_dummy = sink_opener(run) is _nothing  # on ranks but the first
    return None if is_dummy else kind(run, **arguments)


def _mlflow_of_logger(logger: Any) -> Sink | None:
    client = logger.experiment  # creates the run, on the first rank
    return None if logger.run_id is None else MlflowSink(logger.run_id, client)
