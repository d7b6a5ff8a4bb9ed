"""PyTorch: `watch` logs a model's tensors from a training loop; `SummaryWriter` is torch's, with fasthist's histograms.

Weights, gradients and updates are read after the optimizer's step, so nothing is added to the graph: ``torch.compile``,
autocast, gradient accumulation and activation checkpointing are not affected.
"""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fasthist.adapters.watching import (
    Pattern,
    Schedule,
    Selection,
    countable,
    parse_log,
    refuse_unknown,
)
from fasthist.errors import ArgumentError
from fasthist.packages import require
from fasthist.sinks import Sink, as_sink, sink_opener

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
    prefix: str = "",
    **others: Any,
) -> Watch:
    """Log histograms of a model's tensors during training.

    Parameters
    ----------
    model : torch.nn.Module, or mapping or sequence of them
        May be compiled, or wrapped in ``DistributedDataParallel``: names are those of the model inside. With several
        models, the key or position precedes the names. Models are not kept alive.
    writer : path, SummaryWriter, Sink, run, tracker, logger or None
        Anything that `fasthist.sinks.as_sink` takes. It stays open; for a path, ``close()`` closes the files. None, with
        `distributed`, on ranks that do not write.
    log : str or iterable of str
        Some of "weights", "gradients", "updates" and "activations"; "all" is the first three.
    every : int
        Log the first step, then each at which a multiple of `every` is reached.
    include, exclude : str or re.Pattern, optional
        Regular expressions: log the tags in which the first is found and the second is not.
    optimizer : torch.optim.Optimizer, optional
        Count its steps, and log right after each that is due. Without it, call ``step()`` of the result.
    distributed : bool or torch.distributed.ProcessGroup
        Log whole tensors that are spread over all ranks, or those of a group. Every rank must watch, with the same
        arguments except `writer`. Without it nothing is sent, and a writer gets only what its own rank counts.
    prefix : str
        Precedes all names: ``weights/<prefix>/<name>``.

    Returns
    -------
    Watch
        Call its ``step()`` between ``optimizer.step()`` and ``zero_grad()``, and its ``close()`` at the end.

    Raises
    ------
    ArgumentError
        An argument is not as above; activations of a compiled model are asked for, whose code runs no hooks; another open
        watch writes the same tags to the same writer; or, with `distributed`, there is no process group, or FSDP1 keeps
        copies of shards.

    Notes
    -----
    Tags are ``weights/<name>``, ``gradients/<name>`` and ``updates/<name>``, named as in ``named_parameters()``, and
    ``activations/<name>`` as in ``named_modules()``.

    - Gradients are those that the optimizer used: accumulated, averaged over ranks, unscaled, clipped. Parameters without
      one are left out; of a sparse gradient, the stored rows are counted.
    - An update is the difference of a weight after and before the step. Before a step that is logged, the chosen weights
      are copied; the copies are freed afterwards. 16-bit weights are subtracted as float32.
    - Activations are the floating-point outputs of every module in training mode except containers and the model itself,
      summed over the forward passes of a step. Hooks exist only during steps that are logged; recomputation by
      checkpointing is not counted again.

    Complex tensors are logged as ``<tag>/real`` and ``<tag>/imag``; of sparse and nested tensors, the stored values. A
    tensor that cannot be counted is left out, with one warning that names it. If a parameter was replaced, or has a new
    shape or device, its update is left out once.

    Hooks are hidden from code that copies, saves, exports, traces or transforms the model, and count nothing within it. If
    the model is compiled later, a warning says so.

    Between logged steps nothing is done. No random numbers are drawn, and no tensors are changed or kept.

    With `distributed`, a logged step takes the three collectives of `fasthist.distributed`, and one for each gradient that
    is a `Partial` `DTensor`. Every element is counted once: a `DTensor` (FSDP2, tensor parallelism) by its placements;
    FSDP1 by each rank's shard (``use_orig_params=True`` keeps the names); any other parameter is assumed to be the same on
    all ranks, as in ``DistributedDataParallel``, and is counted on the first. Activations are summed over ranks.

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
    refuse_unknown(
        others, "model, writer, log, every, include, exclude, optimizer, distributed, prefix"
    )
    return Watch(
        model, writer, log, every, Selection(include, exclude), optimizer, distributed, prefix
    )


class Watch:
    """What `watch` returns."""

    def __init__(
        self, model: Any, writer: Any, log: str | Iterable[str], every: int,
        selection: Selection, optimizer: Any, distributed: Any, prefix: str,
    ) -> None:  # fmt: skip
        models = _named_models(model, prefix)
        if writer is None and not distributed:
            msg = "writer=None writes nothing. Accepted: a SummaryWriter or sink; None with distributed=True alone."
            raise ArgumentError(msg)
        self._distributed = bool(distributed)
        self._group = None if distributed is True else distributed
        self._sharded = False
        if distributed:
            from fasthist.distributed import check_group

            check_group(self._group)
            self._sharded = any(list(map(_is_sharded, dict(models).values())))  # checks each
        self._kinds = parse_log(log)
        self._schedule = Schedule(every)
        self._selection = selection
        self._given = writer
        self._writer = None if writer is None else as_sink(writer)
        self._hooks: list[tuple[Any, Any]] = []
        self._before: dict[str, tuple[Any, Any]] = {}
        self._outputs: dict[str, Histogram] = {}
        self._warned: set[str] = set()
        self._logged: int | None = None
        if "activations" in self._kinds:
            for _, module in models:
                _check_not_compiled(module)
        self._models = [_Reference(label, _unwrapped(module)) for label, module in models]
        self._check_alone()
        self._attached = None if optimizer is None else _attach(optimizer, self.step)
        weakref.finalize(self, _remove, self._hooks)
        _open.add(self)
        self._prepare()

    def step(self, global_step: int | None = None) -> None:
        """Note that the optimizer has made a step, and log it if it is due.

        Parameters
        ----------
        global_step : int, optional
            Default: one more than last time, from 0.

        Raises
        ------
        FasthistError
            As ``add_histograms`` of the writer.
        """
        due = self._schedule.due
        step = self._schedule.advance(global_step)
        if due and step != self._logged:
            self._logged = step
            tree = self._tensors()
            self._release()
            if self._distributed:
                tree = self._whole(tree, step)
            if self._writer is not None:
                self._writer.add_histograms(tree, step)
        if self._schedule.due:
            self._prepare()

    def close(self) -> None:
        """Remove all hooks; close the files of a path. A writer stays open."""
        self._release()
        self._schedule.due = False
        if self._attached is not None:
            self._attached.remove()
            self._attached = None
        self._models = []
        _open.discard(self)
        if self._writer is not None and self._writer is not self._given:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _tensors(self) -> dict[str, Any]:
        """Return the tensors to log for the last step, by tag."""
        tensors: dict[str, Any] = {}
        parameters = self._parameters()
        if "weights" in self._kinds:
            tensors.update(self._chosen("weights", parameters))
        if "gradients" in self._kinds:
            # A parameter of which FSDP1 has left nothing on this rank has no gradient.
            gradients = [
                (name, weight if weight.grad is None else weight.grad)
                for name, weight in parameters
                if weight.grad is not None
                or (self._sharded and weight.requires_grad and not weight.numel())
            ]
            if parameters and not gradients:
                self._warn(
                    "no parameter has a gradient when its step is logged. "
                    "Hint: call step() after optimizer.step() and before zero_grad()."
                )
            tensors.update(self._chosen("gradients", gradients))
        for tag, weight in self._chosen("updates", parameters):
            reference, before = self._before.get(tag, (_gone, None))
            if reference() is weight and _is_like(weight, before):
                tensors[tag] = _difference(weight.detach(), before)
        if "activations" in self._kinds and parameters and not self._outputs:
            self._warn(
                "no activations were seen in a step that is logged. Hint: they are those in training mode, of a model that "
                "is not compiled, outside of transforms such as torch.func's."
            )
        parts = dict(part for tag, tensor in tensors.items() for part in _parts(tag, tensor))
        whole = {}
        if self._distributed:  # fasthist.distributed counts tensors that are spread over ranks
            whole = {tag: part for tag, part in parts.items() if hasattr(part, "placements")}
        rest = {tag: part for tag, part in parts.items() if tag not in whole}
        kept = whole | countable(rest, self._warned) | self._outputs
        return {tag: kept[tag] for tag in (*parts, *self._outputs) if tag in kept}

    def _warn(self, text: str) -> None:
        """Warn once with each text."""
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(f"fasthist: {text}", stacklevel=4)

    def _whole(self, tree: dict[str, Any], step: int) -> dict[str, Histogram]:
        """Sum over ranks; count replicated tensors on the first rank only."""
        from fasthist import distributed

        if not self._sharded and torch.distributed.get_rank(self._group):
            tree = {tag: x.new_empty(0) if _is_copy(x) else x for tag, x in tree.items()}
        return distributed.histograms(tree, self._group, step=step, redistribute=True)

    def _chosen(self, kind: str, named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        tagged = ((f"{kind}/{name}", tensor) for name, tensor in named)
        return ((tag, tensor) for tag, tensor in tagged if tag in self._selection)

    def _parameters(self) -> list[tuple[str, Any]]:
        every = (named for model in self._models for named in model.parameters())
        return [named for named in every if not torch.nn.parameter.is_lazy(named[1])]

    def _observed(self) -> Iterator[tuple[str, Any]]:
        """Yield the tags and modules whose outputs are logged."""
        for model in self._models:
            for name, module in model.modules():
                tag = f"activations/{model.label}{name}"
                if name and not isinstance(module, _CONTAINERS) and tag in self._selection:
                    yield tag, module

    def _tags(self) -> set[str]:
        parameters = self._parameters()
        kinds = [kind for kind in self._kinds if kind != "activations"]
        tags = {tag for kind in kinds for tag, _ in self._chosen(kind, parameters)}
        if "activations" in self._kinds:
            tags.update(tag for tag, _ in self._observed())
        return tags

    def _check_alone(self) -> None:
        """Raise ArgumentError if another watch writes these tags to this writer."""
        if self._writer is None:
            return
        own = self._tags()
        rivals: list[Watch] = []
        for attempt in range(2):
            rivals = [other for other in _open if other._writes_like(self) and own & other._tags()]
            if not rivals:
                return
            if not attempt:
                gc.collect()  # free models that a notebook cell made when it ran before
        tag = min(own & rivals[0]._tags())
        if self._writer is not self._given:
            self._writer.close()
        msg = (
            f"another watch() writes {tag!r} to the same writer. Accepted: tags that differ. "
            "Hint: prefix=, a mapping of models in one call, or close() the other one first."
        )
        raise ArgumentError(msg)

    def _writes_like(self, other: Watch) -> bool:
        return self._given is other._given or _folder(self._writer) == _folder(other._writer) != ""

    def _prepare(self) -> None:
        """Copy weights and register hooks for a step that will be logged."""
        self._release()
        if "updates" in self._kinds:
            self._before = {
                tag: (weakref.ref(weight), weight.detach().clone())
                for tag, weight in self._chosen("updates", self._parameters())
                if _has_updates(weight)
            }
        if "activations" in self._kinds:
            watch = weakref.ref(self)
            for tag, module in self._observed():
                if module._compiled_call_impl is not None:
                    self._warn("a model was compiled after watch(): no activations of it are seen.")
                    continue
                handle = module.register_forward_hook(partial(_on_forward, watch, tag))
                self._hooks.append((handle, weakref.ref(module)))
                # Copying and saving a module call this for its state.
                get_state = partial(_state_without_hooks, weakref.ref(module))
                vars(module).setdefault("__getstate__", get_state)

    def _release(self) -> None:
        _remove(self._hooks)
        self._before = {}
        self._outputs = {}

    def _count(self, tag: str, output: Any) -> None:
        """Count a module's output, and add it to its earlier outputs of this step."""
        from fasthist.compute import histograms

        parts = dict(part for named in _tensors(output, tag) for part in _parts(*named))
        for name, counted in histograms(countable(parts, self._warned)).items():
            before = self._outputs.get(name)
            self._outputs[name] = counted if before is None else before + counted


_open: weakref.WeakSet[Watch] = weakref.WeakSet()
"""Open watches, of which no two may write the same tags to one writer."""


class TrainerHistograms:
    """The arguments that callbacks of trainers share, and the objects that are open during training."""

    def __init__(
        self,
        log: str | Iterable[str] = "all",
        every: int = 100,
        *,
        include: Pattern = None,
        exclude: Pattern = None,
        writer: Any = None,
        **others: Any,
    ) -> None:
        super().__init__()
        refuse_unknown(others, "log, every, include, exclude, writer")
        self._begin = partial(watch, log=log, every=every, include=include, exclude=exclude)
        self._given = writer
        self._open = None if writer is None else sink_opener(writer)
        self._sink: Sink | None = None
        self._watch: Watch | None = None

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._sink is not None and self._sink is not self._given:
            self._sink.close()
        self._watch = self._sink = None


class _Reference:
    """A weak reference to a model, or to the modules that it held if only a wrapper is gone; `label` precedes names."""

    def __init__(self, label: str, model: Any) -> None:
        self.label = label
        self._modules = [(name, weakref.ref(module)) for name, module in model.named_modules()]

    def _alive(self) -> list[tuple[str, Any]]:
        """Return the outermost living modules, each with the prefix of its names."""
        outermost: list[tuple[str, Any]] = []
        for name, reference in self._modules:  # inner modules come later
            module, start = reference(), f"{name}." if name else ""
            if module is not None and not start.startswith(tuple(outer for outer, _ in outermost)):
                outermost.append((start, module))
                if not name:
                    break
        return outermost

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield each parameter once, with its label and name."""
        seen: set[int] = set()
        for start, module in self._alive():
            for name, weight in module.named_parameters():
                if id(weight) not in seen:
                    seen.add(id(weight))
                    yield self.label + _clean(start + name), weight

    def modules(self) -> Iterator[tuple[str, Any]]:
        """Yield each module with its name; the model's own is empty."""
        for start, outer in self._alive():
            for name, module in outer.named_modules():
                yield _clean((start + name).removesuffix(".")), module


def _named_models(model: Any, prefix: Any) -> list[tuple[str, Any]]:
    """Return the models, each with the prefix of its names."""
    if not isinstance(prefix, str):
        msg = f"prefix={prefix!r} is not a name. Accepted: a str."
        raise ArgumentError(msg)
    models: list[tuple[Any, Any]] = [("", model)]
    if isinstance(model, Mapping):
        models = list(model.items())
    elif isinstance(model, (list, tuple)):
        models = list(enumerate(model))
    if not models or not all(isinstance(module, torch.nn.Module) for _, module in models):
        msg = (
            f"model={type(model).__name__} is not a torch.nn.Module. "
            "Accepted: a module whose parameters are trained, or a mapping or list of such modules."
        )
        raise ArgumentError(msg)
    start = prefix.strip("/")
    labels = ["/".join(filter(None, (start, str(key)))) for key, _ in models]
    modules = [module for _, module in models]
    return [(f"{label}/" if label else "", m) for label, m in zip(labels, modules, strict=True)]


def _folder(writer: Any) -> str:
    """Return the absolute directory of a writer, or "" if unknown."""
    folder = getattr(writer, "log_dir", "")
    return str(Path(folder).absolute()) if isinstance(folder, str) and folder else ""


def _on_forward(watch: Any, tag: str, module: Any, inputs: Any, output: Any) -> None:
    """Count a module's output; never disturb the user's forward pass."""
    del inputs
    if torch.compiler.is_compiling():  # or this would become part of the compiled code
        return
    # Within backward(), checkpointing repeats the forward pass.
    if not module.training or torch._C._current_graph_task_id() != -1 or _is_traced():
        return
    watch = watch()
    if watch is not None:
        try:
            watch._count(tag, output)
        except Exception as error:  # noqa: BLE001 - a tensor of any class may raise anything
            watch._warn(f"{tag} cannot be counted ({str(error).strip().partition(chr(10))[0]})")


def _is_traced() -> bool:
    """Return whether operations on tensors are recorded or transformed."""
    functorch = getattr(torch._C, "_functorch", None)
    return (
        torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or (functorch is not None and functorch.peek_interpreter_stack() is not None)
    )


def _is_ours(hook: Any) -> bool:
    return isinstance(hook, partial) and hook.func is _on_forward


def _state_without_hooks(reference: Any) -> Any:
    """Return the state that a module would have without our hooks."""
    module = reference()
    get_state: Any = type(module).__getstate__
    state = get_state(module)
    plain = state[0] if isinstance(state, tuple) and state else state
    if not isinstance(plain, dict):
        return state
    plain = {name: value for name, value in plain.items() if name != "__getstate__"}
    hooks = plain.get("_forward_hooks")
    if hooks is not None:
        others = ((key, hook) for key, hook in hooks.items() if not _is_ours(hook))
        plain["_forward_hooks"] = type(hooks)(others)
    return (plain, *state[1:]) if isinstance(state, tuple) else plain


def _remove(hooks: list[tuple[Any, Any]]) -> None:
    """Remove hooks from their modules, and forget them."""
    for handle, reference in hooks:
        handle.remove()
        module = reference()
        if module is not None and not any(map(_is_ours, module._forward_hooks.values())):
            vars(module).pop("__getstate__", None)
    hooks.clear()


_CONTAINERS = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)


def _gone() -> None:
    """Stand in for a dead weak reference."""


def _clean(name: str) -> str:
    """Remove the names of wrappers from a parameter's or module's name."""
    return name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")


def _is_copy(value: Any) -> bool:
    """Return whether every rank has all of this value; activations are histograms by now, and differ."""
    return isinstance(value, torch.Tensor) and not hasattr(value, "placements")


def _is_sharded(model: Any) -> bool:
    """Return whether the plain parameters of a model are shards, as with FSDP1; ArgumentError if they have copies."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return False
    wrapped = [m for m in model.modules() if isinstance(m, fsdp.FullyShardedDataParallel)]
    for module in wrapped:
        strategy = module.sharding_strategy.name
        if strategy not in ("FULL_SHARD", "SHARD_GRAD_OP") or not module._use_orig_params:
            msg = (
                f"a module of FSDP1 with {strategy}, use_orig_params={module._use_orig_params} has copies or padding on its "
                "ranks. Accepted: FULL_SHARD or SHARD_GRAD_OP, with use_orig_params=True. Hint: or use fully_shard()."
            )
            raise ArgumentError(msg)
    return bool(wrapped)


def _unwrapped(model: Any) -> Any:
    """Return the model inside compiled and data-parallel wrappers."""
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
    """Call `step` after each step of an optimizer, even if Accelerate has wrapped it."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not hasattr(inner, "register_step_post_hook"):
        msg = (
            f"optimizer={type(optimizer).__name__} does not report its steps. Accepted: a torch.optim.Optimizer. "
            "Hint: call step() of what watch() returns yourself."
        )
        raise ArgumentError(msg)

    # A compiled optimizer step must call it, not inline it.
    hook = torch.compiler.disable(lambda *_: step())
    return inner.register_step_post_hook(hook)


def _parts(tag: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield the countable parts of a tensor: its stored values, of complex ones the real and imaginary parts."""
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout in _HAS_VALUES or (tensor.is_nested and not _has_holes(tensor)):
        tensor = tensor.values()
        if tensor.is_complex():
            tensor = tensor.clone()  # torch takes no real part of a view of a sparse tensor
    if tensor.is_complex():
        yield f"{tag}/real", tensor.real
        yield f"{tag}/imag", tensor.imag
    else:
        yield tag, tensor


_HAS_VALUES = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def _has_holes(nested: Any) -> bool:
    return nested.layout is torch.jagged and nested.lengths() is not None


def _has_updates(weight: Any) -> bool:
    is_fake = weight.is_meta or isinstance(weight, torch._subclasses.FakeTensor)
    is_dense = weight.layout is torch.strided and not (weight.is_nested or weight.is_quantized)
    return is_dense and not is_fake and (weight.is_floating_point() or weight.is_complex())


def _is_like(tensor: Any, other: Any) -> bool:
    return (tensor.shape, tensor.device, tensor.dtype) == (other.shape, other.device, other.dtype)


def _difference(after: Any, before: Any) -> Any:
    # The difference of two bfloat16 is seldom a bfloat16.
    if after.element_size() < 4:
        return after.float() - before.float()
    return after - before


def _tensors(output: Any, tag: str) -> Iterator[tuple[str, Any]]:
    """Yield the floating-point tensors in what a module returns."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() or output.is_complex():
            yield tag, output
    elif isinstance(output, dict):
        for key, part in output.items():
            yield from _tensors(part, f"{tag}/{key}")
    elif isinstance(output, (list, tuple)):
        for place, part in enumerate(output):
            yield from _tensors(part, f"{tag}/{place}")


def __getattr__(name: str) -> Any:
    if name == "SummaryWriter":  # only this needs tensorboard
        from fasthist.adapters.torch_writer import SummaryWriter

        return SummaryWriter
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
