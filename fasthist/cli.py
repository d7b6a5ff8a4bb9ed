"""The command line: ``fasthist demo``, ``log`` and ``warmup``; `fasthist.commands` has those that read runs.

Whatever fails on purpose (`FasthistError`) or in the system (`OSError`) becomes one line on stderr and exit code 1; wrong
use of the command line is click's exit code 2; Ctrl-C is 130. Results go to stdout, the progress bar to stderr. Everything
heavy is imported inside the command that needs it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import fasthist
from fasthist.commands.compare import compare
from fasthist.commands.doctor import doctor
from fasthist.commands.merge import merge
from fasthist.commands.options import example, local
from fasthist.commands.plot import plot
from fasthist.commands.show import show
from fasthist.commands.terminal import few, print_anything, progress, say, shows_progress
from fasthist.errors import (
    ArgumentError,
    ArrayError,
    CheckpointError,
    FasthistError,
    WriteError,
    printable,
)

if TYPE_CHECKING:
    from fasthist.checkpoints import Checkpoint, Entry
    from fasthist.hist import Histogram

_KERNELS, _DEMO_KERNELS = 86, 23
"""Kernels that `warmup` and the demo compile without a cache, for the bar: a few more or less do no harm."""

GROUP = 64  # histograms in one event: few enough to hold, enough to make an event worth while


class _Commands(click.Group):
    """Turn the errors of every command into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        import numpy as np

        print_anything()
        try:
            # A file may hold any number; overflows are shown as what they are.
            with np.errstate(all="ignore"):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            return ctx.exit(130)
        except WriteError as error:
            text = (
                f"cannot write {_os_text(error)}. Free space, give permission or choose another --log-dir; "
                "what was written before is kept."
            )
        except OSError as error:
            if error.errno == errno.EPIPE:  # stdout was closed, which click handles
                raise
            text = _os_text(error)
        except FasthistError as error:
            text = str(error)
        say(f"fasthist: {printable(' '.join(text.split()))}", err=True)
        return ctx.exit(1)


def _os_text(error: OSError) -> str:
    if error.errno is None or not error.filename:
        return str(error)
    return f"{error.filename}: {os.strerror(error.errno)}"


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("fasthist demo", "tensorboard --logdir runs/demo"),
)
@click.version_option(fasthist.__version__, prog_name="fasthist")
def main() -> None:
    """Histograms of huge tensors, streamed to TensorBoard."""


for _command in (show, compare, doctor, plot, merge):
    main.add_command(_command)


@main.command(epilog=example("fasthist demo --log-dir runs/demo", "tensorboard --logdir runs/demo"))
@click.option(
    "--log-dir",
    default="runs/demo",
    show_default=True,
    metavar="DIR",
    help="Where to write: one directory in it for each run.",
)
@click.option(
    "--epochs",
    default=30,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=1),
    help="How often to go through the data.",
)
def demo(log_dir: str, epochs: int) -> None:
    """Train a small network well and badly, and log both.

    Trains the same numpy network twice on scikit-learn's digits; only the size of the first weights differs. The
    histograms of weights, gradients and activations show why one of them learns nothing. Needs the extra
    fasthist[demo].
    """
    from fasthist.demo import RUN2SCALE, describe, prepare, train_all

    if shows_progress():
        with _kernels_told(_DEMO_KERNELS):
            prepare()
    with progress("training", len(RUN2SCALE) * (epochs + 1), is_bytes=False) as advance:
        runs = list(train_all(log_dir, epochs, seed=0, on_epoch=lambda: advance(1)))
    say(describe(runs))


@main.command(
    epilog=example(
        "fasthist log checkpoint-*/model.safetensors --log-dir runs/weights",
        "tensorboard --logdir runs/weights",
    )
)
@click.argument("files", nargs=-1, required=True, type=local)
@click.option("--log-dir", required=True, metavar="DIR", help="Where the event file goes.")
@click.option(
    "--step",
    metavar="N",
    type=click.IntRange(min=0),
    help="Training step of the files. Default: the one in each file's name, else 0.",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    help="CPU threads. Default: FASTHIST_NUM_THREADS, else all of them.",
)
def log(files: tuple[Path, ...], log_dir: str, step: int | None, threads: int | None) -> None:
    """Write a histogram of every tensor in checkpoints.

    FILES are .safetensors, .npz, .npy, sharded checkpoints by their .index.json and, where torch is
    installed, .pt, .pth, .bin, .ckpt. One tensor is read at a time. A file or tensor that cannot be read is
    named, the others are logged, and the exit code is 1. The step comes from the name: 1000 for
    model_step_1000.safetensors and for checkpoint-1000/model.safetensors.
    """
    from rich.filesize import decimal

    from fasthist.checkpoints import open_checkpoint

    done, checkpoints = _Done(), []
    for path in files:
        try:
            checkpoints.append(open_checkpoint(path, step))
        except (FasthistError, OSError) as error:
            done.add_failure(error)
    _check_distinct(checkpoints)
    total = sum(entry.nbytes for checkpoint in checkpoints for entry in checkpoint.entries)
    with progress("counting", total, is_bytes=True) as advance:
        _log(checkpoints, log_dir, threads, advance, done)
    if not done.histograms:
        if done.failed:
            raise CheckpointError(few(done.failed))
        msg = f"nothing was written, since no tensor can be counted: {few(done.left_out) or 'the files hold none'}"
        raise CheckpointError(msg)
    steps = sorted({checkpoint.step or 0 for checkpoint in checkpoints})
    where = f"step {steps[0]}"
    if len(steps) > 1:
        where = f"{len(steps)} steps, {steps[0]} to {steps[-1]}"
    if any(checkpoint.step is None for checkpoint in checkpoints):
        where += " (0 where a file's name has none)"
    what = "1 histogram" if done.histograms == 1 else f"{done.histograms} histograms"
    say(f"{log_dir}: {what} of {decimal(done.nbytes)} at {where}")
    say(f"Look at them with: tensorboard --logdir {log_dir}")
    if done.left_out:
        say(f"fasthist: left out {len(done.left_out)}: {few(done.left_out)}", err=True)
    if done.failed:
        say(f"fasthist: {printable(few(done.failed))}", err=True)
        click.get_current_context().exit(1)


@main.command(epilog=example("RUN pip install fasthist && fasthist warmup   # in a Dockerfile"))
def warmup() -> None:
    """Compile all kernels ahead, so that no run waits for it.

    They are kept in Numba's cache: beside the installed package, or in the user's cache directory where that cannot be
    written, or in NUMBA_CACHE_DIR.
    """
    with _kernels_told(_KERNELS):
        fasthist.warmup()
    say("All kernels are compiled.")


@contextlib.contextmanager
def _kernels_told(total: int) -> Iterator[None]:
    """Show a bar that moves with each kernel that is compiled."""
    from fasthist.kernels.jit import each_compiled

    with (
        progress("compiling kernels", total, is_bytes=False) as tick,
        each_compiled(lambda: tick(1)),
    ):
        yield


@dataclass
class _Done:
    """What `log` has done so far."""

    histograms: int = 0
    nbytes: int = 0
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add_failure(self, error: FasthistError | OSError) -> None:
        """Keep the error of a file or tensor that cannot be read."""
        text = _os_text(error) if isinstance(error, OSError) else str(error)
        self.failed.append(" ".join(text.split()))


def _log(
    checkpoints: list[Checkpoint],
    log_dir: str,
    threads: int | None,
    advance: Callable[[int], None],
    done: _Done,
) -> None:
    """Count tensor by tensor, and write in groups, so that neither is held for long."""
    group: dict[str, Histogram] = {}

    def write(step: int) -> None:
        counted = dict(group)
        group.clear()
        writer().add_histograms(counted, global_step=step)
        done.histograms += len(counted)

    with contextlib.ExitStack() as stack:
        # A directory is made when there is something to write.
        writer = functools.cache(lambda: stack.enter_context(fasthist.SummaryWriter(log_dir)))
        for checkpoint in checkpoints:
            try:
                for entry in checkpoint.entries:
                    try:
                        values = _loaded(entry)
                        counted = fasthist.histogram(values, threads=threads, name=entry.tag)
                        group[entry.tag] = counted
                        done.nbytes += entry.nbytes
                    except ArrayError as error:  # the others are still worth having
                        done.left_out.append(str(error).partition(". Accepted")[0])
                    except CheckpointError as error:
                        done.add_failure(error)
                    advance(entry.nbytes)
                    if len(group) == GROUP:
                        write(checkpoint.step or 0)
            finally:  # write what is counted, even if an error ends it here
                if group:
                    write(checkpoint.step or 0)


def _loaded(entry: Entry) -> Any:
    try:
        return entry.load()
    except OSError as error:
        raise CheckpointError(_os_text(error)) from error


def _check_distinct(checkpoints: list[Checkpoint]) -> None:
    """Refuse two files that would write the same tag at the same step."""
    seen: dict[tuple[int, str], Path] = {}
    for checkpoint in checkpoints:
        step = checkpoint.step or 0
        for entry in checkpoint.entries:
            other = seen.setdefault((step, entry.tag), checkpoint.path)
            if other is not checkpoint.path:
                msg = (
                    f"{other} and {checkpoint.path} both hold {entry.tag!r} at step {step}. Accepted: one "
                    "file for each step. Log them one by one with --step, or put the step into their names, "
                    "like model_step_1000."
                )
                raise ArgumentError(msg)
