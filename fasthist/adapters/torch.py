"""PyTorch: `watch` logs a model's tensors from a training loop, `SummaryWriter` is torch's own with our histograms.

Weights, gradients and updates are read after the optimizer's step, so that nothing of ours is in the graph: it makes no
difference to ``torch.compile``, autocast, gradient accumulation or activation checkpointing.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from fasthist.adapters.watching import Pattern, Schedule, Selection, parse_log
from fasthist.errors import ArgumentError
from fasthist.packages import require
from fasthist.sinks import as_sink

torch = require("torch")

if TYPE_CHECKING:
    from fasthist.hist import Histogram


def watch(
    model: Any,
    writer: Any,
    log: str | Iterable[str] = "all",
    every: int = 100,
    *,
    include: Pattern = None,
    exclude: Pattern = None,
    optimizer: Any = None,
    distributed: Any = False,
) -> Watch:
    """Log histograms of a model's tensors while it is trained.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled, or wrapped in ``DistributedDataParallel``, too: names are those of the model inside.
    writer : path, SummaryWriter, Sink, run, tracker, logger or None
        Whatever `fasthist.sinks.as_sink` takes. It stays open; of a path, ``close()`` closes the files. None, with
        `distributed`, on the ranks that do not write.
    log : str or iterable of str
        Some of "weights", "gradients", "updates" and "activations"; "all" is the first three.
    every : int
        Log the first step, then each at which a multiple of `every` is reached.
    include, exclude : str or re.Pattern, optional
        Regular expressions, searched for in the tag: log tags that match the first, and not the second.
    optimizer : torch.optim.Optimizer, optional
        Count its steps, and log right after each that is due. Without it, call ``step()`` of what is returned.
    distributed : bool or torch.distributed.ProcessGroup
        Log the whole of what lies on several ranks: all of them, or those of a group. Each of them watches, with the same
        arguments but for `writer`. Without it, nothing is sent, and a writer gets what its own rank counts.

    Returns
    -------
    Watch
        Call its ``step()`` after each ``optimizer.step()`` and before ``zero_grad()``, and its ``close()`` in the end.

    Raises
    ------
    ArgumentError
        An argument is not as above, or activations of a compiled model are asked for: compiled code runs no hooks. With
        `distributed`, there is no process group, or a model of FSDP1 keeps copies of its shards.

    Notes
    -----
    Tags are ``weights/<name>``, ``gradients/<name>`` and ``updates/<name>`` after ``named_parameters()``, and
    ``activations/<name>`` after ``named_modules()``.

    - Gradients are what the optimizer has used: accumulated, averaged over ranks, unscaled, clipped. Parameters without
      one are left out; of a sparse one, the rows that it holds are counted.
    - An update is a weight less what it was before the step. For a step that is logged, a copy of the chosen weights
      is made when the step before it ends, and let go of afterwards. 16-bit weights are subtracted as float32.
    - Activations are floating-point outputs of every module in training mode but containers and the model itself, added
      up over the forward passes of the step. Hooks are there only during steps that are logged; what checkpointing
      computes again is not counted twice.

    Between logged steps nothing is done. No random number is drawn, no tensor is changed, and none is kept.

    With `distributed`, a step that is logged takes the three collectives of `fasthist.distributed`, and one for each gradient
    that is a `Partial` `DTensor`. Every element of a parameter is counted once: of a `DTensor` (FSDP2, tensor parallelism) as
    its placements say; of FSDP1 each rank's shard (``use_orig_params=True`` keeps the names); any other is taken to be the
    same on each rank, as in ``DistributedDataParallel``, and counted on the first. Activations are each rank's own, and
    added up.

    Examples
    --------
    >>> import fasthist
    >>> from fasthist.adapters.torch import watch
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with fasthist.SummaryWriter("runs/a") as writer, watch(model, writer, every=10) as watched:
    ...     for step in range(20):
    ...         optimizer.zero_grad()
    ...         loss = model(torch.ones(8, 3)).square().mean()
    ...         loss.backward()
    ...         _ = optimizer.step()
    ...         watched.step(step)
    """
    return Watch(model, writer, log, every, Selection(include, exclude), optimizer, distributed)


class Watch:
    """What `watch` returns."""

    def __init__(
        self, model: Any, writer: Any, log: str | Iterable[str], every: int,
        selection: Selection, optimizer: Any, distributed: Any,
    ) -> None:  # fmt: skip
        if not isinstance(model, torch.nn.Module):
            msg = f"model={type(model).__name__} is no torch.nn.Module. Accepted: a module whose parameters are trained."
            raise ArgumentError(msg)
        if writer is None and not distributed:
            msg = "writer=None writes nothing. Accepted: a SummaryWriter or sink; None with distributed=True alone."
            raise ArgumentError(msg)
        self._distributed = bool(distributed)
        self._group = None if distributed is True else distributed
        self._sharded = False
        if distributed:
            from fasthist.distributed import check_group

            check_group(self._group)
            self._sharded = _is_sharded(model)
        self._kinds = parse_log(log)
        self._schedule = Schedule(every)
        self._selection = selection
        self._given = writer
        self._writer = None if writer is None else as_sink(writer)
        self._hooks: list[Any] = []
        self._before: dict[str, Any] = {}
        self._outputs: dict[str, list[Histogram]] = {}
        self._warned = False
        inner = _unwrapped(model)
        if "activations" in self._kinds:
            _check_not_compiled(model)
        # Weak: a model that the user has let go of frees its memory.
        self._model: Callable[[], Any] = weakref.ref(inner)
        self._attached = None if optimizer is None else _attach(optimizer, self.step)
        self._prepare()

    def step(self, global_step: int | None = None) -> None:
        """Take note that the optimizer has made a step, and log it if it is due.

        Parameters
        ----------
        global_step : int, optional
            Default: one more than last time, from 0.

        Raises
        ------
        FasthistError
            What the writer's ``add_histograms`` raises.
        """
        due = self._schedule.due
        step = self._schedule.advance(global_step)
        if due:
            tree = dict(self._found())
            self._release()
            if self._distributed:
                tree = self._whole(tree, step)
            if self._writer is not None:
                self._writer.add_histograms(tree, step)
        if self._schedule.due:
            self._prepare()

    def close(self) -> None:
        """Remove all hooks; a writer stays open, the files of a path are closed."""
        self._release()
        self._schedule.due = False
        if self._attached is not None:
            self._attached.remove()
            self._attached = None
        self._model = _gone
        if self._writer is not None and self._writer is not self._given:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _found(self) -> Iterator[tuple[str, Any]]:
        """Give what is to be logged of the step that is done, each with its tag."""
        parameters = self._parameters()
        if "weights" in self._kinds:
            yield from self._chosen("weights", parameters)
        if "gradients" in self._kinds:
            # Where FSDP1 has left nothing of a parameter, there is no gradient either.
            gradients = [
                (name, one if one.grad is None else one.grad)
                for name, one in parameters
                if one.grad is not None or (self._sharded and one.requires_grad and not one.numel())
            ]
            if parameters and not gradients and not self._warned:
                self._warned = True
                warnings.warn(
                    "fasthist: no parameter has a gradient when its step is logged. "
                    "Hint: call step() after optimizer.step() and before zero_grad().",
                    stacklevel=3,
                )
            yield from self._chosen("gradients", [(name, _dense(one)) for name, one in gradients])
        for tag, one in self._chosen("updates", parameters):
            if tag in self._before:
                yield tag, _difference(one, self._before[tag])
        for tag, outputs in self._outputs.items():
            yield tag, sum(outputs[1:], outputs[0])

    def _whole(self, tree: dict[str, Any], step: int) -> dict[str, Histogram]:
        """Add up what all ranks have; of what each has a copy of, that of the first."""
        from fasthist import distributed

        if not self._sharded and torch.distributed.get_rank(self._group):
            tree = {tag: one.new_empty(0) if _is_copy(one) else one for tag, one in tree.items()}
        return distributed.histograms(tree, self._group, step=step, redistribute=True)

    def _chosen(self, kind: str, named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, one in named:
            tag = f"{kind}/{name}"
            if tag in self._selection:
                yield tag, one.detach()

    def _parameters(self) -> list[tuple[str, Any]]:
        model = self._model()
        if model is None:
            return []
        return [
            (_clean(name), one)
            for name, one in model.named_parameters()
            if not torch.nn.parameter.is_lazy(one)
        ]

    def _prepare(self) -> None:
        """Get ready for a step that will be logged."""
        model = self._model()
        if "updates" in self._kinds:
            weights = self._chosen("updates", self._parameters())
            self._before = {tag: one.clone() for tag, one in weights}
        if "activations" in self._kinds and model is not None:
            for name, module in model.named_modules():
                tag = f"activations/{_clean(name)}"
                if name and not isinstance(module, _CONTAINERS) and tag in self._selection:
                    self._hooks.append(module.register_forward_hook(partial(self._on_forward, tag)))

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._before = {}
        self._outputs = {}

    def _on_forward(self, tag: str, module: Any, inputs: Any, output: Any) -> None:
        del inputs
        # Within backward(), checkpointing runs the same forward pass once more.
        if not module.training or torch._C._current_graph_task_id() != -1:
            return
        from fasthist.compute import histograms

        found = histograms(dict(_tensors(output, tag)))
        for name, one in found.items():
            self._outputs.setdefault(name, []).append(one)


_CONTAINERS = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)


def _gone() -> None:
    """Stand for a reference to a model that is not there any more."""


def _clean(name: str) -> str:
    """Take the names of wrappers out of a parameter's or module's."""
    return name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")


def _is_copy(one: Any) -> bool:
    """Say whether this is a parameter's tensor that each rank has all of: activations are histograms by now."""
    return isinstance(one, torch.Tensor) and not hasattr(one, "placements")


def _is_sharded(model: Any) -> bool:
    """Say whether the plain parameters of a model are shards: those of FSDP1 are."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return False
    wrapped = [one for one in model.modules() if isinstance(one, fsdp.FullyShardedDataParallel)]
    for one in wrapped:
        strategy = one.sharding_strategy.name
        if strategy not in ("FULL_SHARD", "SHARD_GRAD_OP") or not one._use_orig_params:
            msg = (
                f"a module of FSDP1 with {strategy}, use_orig_params={one._use_orig_params} has copies or padding on its "
                "ranks. Accepted: FULL_SHARD or SHARD_GRAD_OP, with use_orig_params=True. Hint: or use fully_shard()."
            )
            raise ArgumentError(msg)
    return bool(wrapped)


def _unwrapped(model: Any) -> Any:
    """Give the model inside a compiled one, and inside one whose gradients are averaged over ranks."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
            model = model.module
        else:
            return model


def _check_not_compiled(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            msg = (
                "activations of a compiled model cannot be logged: compiled code runs no hooks. "
                'Hint: log="all" needs none; or watch activations in a run without torch.compile.'
            )
            raise ArgumentError(msg)


def _attach(optimizer: Any, step: Callable[[], None]) -> Any:
    """Have `step` called after each step of an optimizer, also of one that Accelerate has wrapped."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not hasattr(inner, "register_step_post_hook"):
        msg = (
            f"optimizer={type(optimizer).__name__} tells nobody of its steps. Accepted: a torch.optim.Optimizer. "
            "Hint: call step() of what watch() returns yourself."
        )
        raise ArgumentError(msg)

    return inner.register_step_post_hook(lambda *_: step())


def _dense(gradient: Any) -> Any:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _difference(after: Any, before: Any) -> Any:
    # A difference of two bfloat16 seldom is one.
    if after.element_size() < 4:
        return after.float() - before.float()
    return after - before


def _tensors(output: Any, tag: str) -> Iterator[tuple[str, Any]]:
    """Give the floating-point tensors in what a module returns."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() and output.layout is torch.strided:
            yield tag, output.detach()
    elif isinstance(output, dict):
        for key, part in output.items():
            yield from _tensors(part, f"{tag}/{key}")
    elif isinstance(output, (list, tuple)):
        for place, part in enumerate(output):
            yield from _tensors(part, f"{tag}/{place}")


def __getattr__(name: str) -> Any:
    if name == "SummaryWriter":  # it alone needs tensorboard
        from fasthist.adapters.torch_writer import SummaryWriter

        return SummaryWriter
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
