"""How much a real PyTorch training loop on the CPU is slowed by logging weights and gradients.

Blocks of steps with and without logging take turns in one process. A block ends when everything is on disk, so no
library's background work is counted as another's. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import models
import torch
from torch import nn


def transformer_batch(step: int, *, tiny: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw 8 sentences of 128 words, and the words to predict."""
    words, shape = (50, (2, 8)) if tiny else (1600, (8, 128))
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(words, shape, generator=generator)
    return tokens, tokens.roll(1, dims=1)


def short_batch(step: int, *, tiny: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one sentence of 64 words, so that a hundred steps take seconds."""
    given, wanted = transformer_batch(step, tiny=tiny)
    return given[:1, :64], wanted[:1, :64]


def mlp_batch(step: int, *, tiny: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw 512 rows, and what to make of them."""
    shape = (4, 8) if tiny else (512, 128)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(step))
    return x, x.flip(1)


def transformer_loss(out: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over all positions."""
    return nn.functional.cross_entropy(out.flatten(0, 1), wanted.flatten())


TASKS: dict[str, tuple[str, Any, Any]] = {
    "transformer": ("transformer", transformer_batch, transformer_loss),
    "transformer, short": ("transformer", short_batch, transformer_loss),
    "mlp": ("mlp", mlp_batch, nn.functional.mse_loss),
}


def log_with_fasthist(writer: Any, model: nn.Module, every: int) -> Callable[[int], None]:
    """Write all weights and gradients with `watch`."""
    from fasthist.adapters.torch import watch

    return watch(model, writer, ("weights", "gradients"), every).step


def log_with_torch(writer: Any, model: nn.Module, every: int) -> Callable[[int], None]:
    """Write all weights and gradients in a loop."""

    def log(step: int) -> None:
        if step % every:
            return
        for name, parameter in model.named_parameters():
            writer.add_histogram(f"weights/{name}", parameter, step)
            writer.add_histogram(f"gradients/{name}", parameter.grad, step)

    return log


def fasthist_writer(folder: str) -> Any:
    """Open our writer."""
    import fasthist

    return fasthist.SummaryWriter(folder)


def torch_writer(folder: str) -> Any:
    """Open torch's writer."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


Start = Callable[[Any, nn.Module, int], Callable[[int], None]]
LOGGERS: dict[str, tuple[Callable[[str], Any], Start]] = {
    "fasthist": (fasthist_writer, log_with_fasthist),
    "torch": (torch_writer, log_with_torch),
}


class Loop:
    """A model in training.

    Parameters
    ----------
    task : str
        A key of `TASKS`.
    tiny : bool
        Few elements, for tests.
    """

    def __init__(self, task: str, *, tiny: bool = False) -> None:
        self.tiny = tiny
        model, self.batch, self.loss = TASKS[task]
        self.model = models.build(model, tiny=tiny).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.step = 0

    def run(self, steps: int, log: Callable[[int], None] | None = None) -> float:
        """Train for some steps, call `log` after each, and give the seconds that it took."""
        taken = 0.0
        for _ in range(steps):
            given, wanted = self.batch(self.step, tiny=self.tiny)
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(self.model(given), wanted).backward()
            self.optimizer.step()
            if log is not None:
                start = time.perf_counter()
                log(self.step)
                taken += time.perf_counter() - start
            self.step += 1
        return taken


def slowdown(
    task: str, *, every: int, blocks: dict[str, tuple[int, int]], tiny: bool = False
) -> dict[str, list[float]]:
    """Time blocks of steps with and without logging in turns.

    Parameters
    ----------
    task : str
        A key of `TASKS`.
    every : int
        Log each so many steps. The steps of a block are a multiple of it.
    blocks : dict of str to (int, int)
        For "no logging" and keys of `LOGGERS`: steps of a block, and how many blocks. Every block with logging has a
        block without beside it, which is as long.
    tiny : bool

    Returns
    -------
    dict
        Seconds for a step, block by block; under "<name>, in the call" those that the loop has waited for the logger.
    """
    loop = Loop(task, tiny=tiny)
    loop.run(2)
    seconds: dict[str, list[float]] = {"no logging": []}
    with tempfile.TemporaryDirectory(prefix="fasthist-") as folder:
        for name, (steps, times) in blocks.items():
            open_writer, start = LOGGERS[name]
            writer = open_writer(f"{folder}/{name}")
            log = start(writer, loop.model, every)
            log(0)  # what only a first use costs is measured elsewhere
            writer.flush()
            seconds[name], seconds[f"{name}, in the call"] = [], []
            for _ in range(times):
                loop.step = 0
                begin = time.perf_counter()
                loop.run(steps)
                seconds["no logging"].append((time.perf_counter() - begin) / steps)
                loop.step = 0
                begin = time.perf_counter()
                taken = loop.run(steps, log)
                writer.flush()
                seconds[name].append((time.perf_counter() - begin) / steps)
                seconds[f"{name}, in the call"].append(taken / steps)
            writer.close()
    return seconds


if __name__ == "__main__":
    sys.stdout.write(json.dumps(slowdown(**json.loads(sys.argv[1]))) + "\n")
