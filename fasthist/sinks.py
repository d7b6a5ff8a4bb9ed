"""Where adapters send histograms: TensorBoard's files, or the tracker that a team already uses.

A sink counts what it is given with `fasthist.histograms`, so that only finished histograms reach the tracker. Beside each
it logs the mean and the standard deviation, which the trackers' histograms lack, and how many values are NaN or infinite, if
any are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

from fasthist.errors import ArgumentError
from fasthist.hist import Histogram
from fasthist.packages import require


class Sink(Protocol):
    """What takes the histograms of a step; a `fasthist.SummaryWriter` is one."""

    def add_histograms(self, tree: Any, global_step: int | None = None) -> None:
        """Count every array of a tree, and log all histograms of this step.

        Parameters
        ----------
        tree : tree
            Of arrays or finished histograms; tags as in `fasthist.histograms`.
        global_step : int, optional
        """

    def flush(self) -> None:
        """Send on what is held."""

    def close(self) -> None:
        """Flush, and let go of what this sink has opened itself."""


class _TrackerSink(ABC):
    """Count a tree and hand over the histograms; what the trackers' sinks share."""

    def add_histograms(self, tree: Any, global_step: int | None = None) -> None:
        """Count every array of a tree, and log all histograms of this step, as `Sink` says."""
        from fasthist.compute import histograms

        self._log(histograms(tree), global_step)

    @abstractmethod
    def _log(self, found: dict[str, Histogram], step: int | None) -> None:
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


class WandbSink(_TrackerSink):
    """Log to Weights & Biases: one ``run.log`` for each step.

    Parameters
    ----------
    run : wandb.Run, optional
        Default: the one that ``wandb.init`` has begun.

    Raises
    ------
    ArgumentError
        There is no such run.
    MissingPackageError
        wandb is not installed.

    Notes
    -----
    W&B drops a step that is less than one logged before. Other values of the same step are kept beside these if they
    are logged with ``step=`` too.
    """

    def __init__(self, run: Any = None) -> None:
        self._run = run or require("wandb").run
        if self._run is None:
            msg = "there is no W&B run. Accepted: WandbSink(run), or a call of wandb.init() before it."
            raise ArgumentError(msg)

    def _log(self, found: dict[str, Histogram], step: int | None) -> None:
        self._run.log(_values(found, "to_wandb"), step=step)


class TrackioSink(_TrackerSink):
    """Log to trackio: one ``trackio.log`` for each step.

    Parameters
    ----------
    run : trackio.Run, optional
        Default: the one that ``trackio.init`` has begun.

    Raises
    ------
    MissingPackageError
        trackio is not installed.
    """

    def __init__(self, run: Any = None) -> None:
        self._run = run or require("trackio")

    def _log(self, found: dict[str, Histogram], step: int | None) -> None:
        self._run.log(_values(found, "to_trackio"), step=step)


def _values(found: dict[str, Histogram], method: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for tag, one in found.items():
        if one.num:
            values[tag] = getattr(one, method)()
        values.update(_scalars(tag, one))
    return values


class AimSink(_TrackerSink):
    """Log to Aim.

    Parameters
    ----------
    run : aim.Run
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def _log(self, found: dict[str, Histogram], step: int | None) -> None:
        for name, value in _values(found, "to_aim").items():
            self._run.track(value, name=name, step=step)


class CometSink(_TrackerSink):
    """Log to Comet.

    Parameters
    ----------
    experiment : comet_ml.CometExperiment
    """

    def __init__(self, experiment: Any) -> None:
        self._experiment = experiment

    def _log(self, found: dict[str, Histogram], step: int | None) -> None:
        for tag, one in found.items():
            if one.num:
                self._experiment.log_histogram_3d(one.to_comet(), name=tag, step=step or 0)
            self._experiment.log_metrics(dict(_scalars(tag, one)), step=step)


class MlflowSink(_TrackerSink):
    """Log to MLflow, which has no histograms: a picture of each, and its mean and standard deviation as metrics.

    Parameters
    ----------
    run_id : str, optional
        Default: the run that is active.

    Raises
    ------
    ArgumentError
        No run is active, and none is given.
    MissingPackageError
        mlflow or matplotlib is not installed.

    Notes
    -----
    Pictures go to ``histograms/<tag>/<step>.png``. Drawing one takes some 50 ms: choose few tags.
    """

    def __init__(self, run_id: str | None = None) -> None:
        self._mlflow = mlflow = require("mlflow")
        require("matplotlib.figure", "matplotlib")  # before the training begins
        active = mlflow.active_run()
        if run_id is None and active is None:
            msg = "no MLflow run is active. Accepted: MlflowSink(run_id), or a call of mlflow.start_run() before it."
            raise ArgumentError(msg)
        self._run_id = run_id or active.info.run_id
        self._client = mlflow.MlflowClient()

    def _log(self, found: dict[str, Histogram], step: int | None) -> None:
        for tag, one in found.items():
            if one.num:
                path = f"histograms/{tag}/{step or 0}.png"
                self._client.log_figure(self._run_id, one.to_mlflow(), path)
            self._mlflow.log_metrics(dict(_scalars(tag, one)), step=step, run_id=self._run_id)
