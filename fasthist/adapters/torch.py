"""PyTorch: `watch` logs a model's tensors from a training loop, `SummaryWriter` is torch's own with our histograms.

Weights, gradients and updates are read after the optimizer's step, so that nothing of ours is in the graph: it makes no
difference to ``torch.compile``, autocast, gradient accumulation or activation checkpointing.
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
    """Log histograms of a model's tensors while it is trained.

    Parameters
    ----------
    model : torch.nn.Module, or mapping or sequence of them
        Compiled, or wrapped in ``DistributedDataParallel``, too: names are those of the model inside. Of several,
        each has its key or position before its names. None of them is kept alive.
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
        Log the whole of what lies on several ranks: all of them, or those of a group. Each of them watches, with the
        same arguments but for `writer`. Without it, nothing is sent, and a writer gets what its own rank counts.
    prefix : str
        Put before all names: ``weights/<prefix>/<name>``.

    Returns
    -------
    Watch
        Call its ``step()`` after each ``optimizer.step()`` and before ``zero_grad()``, and its ``close()`` in the end.

    Raises
    ------
    ArgumentError
        An argument is not as above, or activations of a compiled model are asked for: compiled code runs no hooks. Or
        a watch that is not closed writes the same tags to the same writer. With `distributed`, there is no process
        group, or a model of FSDP1 keeps copies of its shards.

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

    Of a complex tensor ``<tag>/real`` and ``<tag>/imag`` are logged, of a sparse or nested one the values that it
    holds. A tensor that cannot be counted is left out, with one warning that names it. Where a parameter has become
    another one, or has another shape or device, its update is left out once.

    Hooks are invisible to what copies, saves, exports, traces or transforms the model, and count nothing within it. A
    model that is compiled later is noticed by a warning.

    Between logged steps nothing is done. No random number is drawn, no tensor is changed, and none is kept.

    With `distributed`, a step that is logged takes the three collectives of `fasthist.distributed`, and one for each
    gradient that is a `Partial` `DTensor`. Every element of a parameter is counted once: of a `DTensor` (FSDP2,
    tensor parallelism) as its placements say; of FSDP1 each rank's shard (``use_orig_params=True`` keeps the names);
    any other is taken to be the same on each rank, as in ``DistributedDataParallel``, and counted on the first.
    Activations are each rank's own, and added up.

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
            self._sharded = any(list(map(_is_sharded, dict(models).values())))
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
            for _, one in models:
                _check_not_compiled(one)
        self._models = [_Reference(label, _unwrapped(one)) for label, one in models]
        self._check_alone()
        self._attached = None if optimizer is None else _attach(optimizer, self.step)
        weakref.finalize(self, _remove, self._hooks)
        _open.add(self)
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
        if due and step != self._logged:
            self._logged = step
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
        self._models = []
        _open.discard(self)
        if self._writer is not None and self._writer is not self._given:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _found(self) -> dict[str, Any]:
        """Return what to log of the step that is done, by tag."""
        tensors: dict[str, Any] = {}
        parameters = self._parameters()
        if "weights" in self._kinds:
            tensors.update(self._chosen("weights", parameters))
        if "gradients" in self._kinds:
            # Where FSDP1 has left nothing of a parameter, there is no gradient either.
            gradients = [
                (name, one if one.grad is None else one.grad)
                for name, one in parameters
                if one.grad is not None or (self._sharded and one.requires_grad and not one.numel())
            ]
            if parameters and not gradients:
                self._warn(
                    "no parameter has a gradient when its step is logged. "
                    "Hint: call step() after optimizer.step() and before zero_grad()."
                )
            tensors.update(self._chosen("gradients", gradients))
        for tag, one in self._chosen("updates", parameters):
            reference, before = self._before.get(tag, (_gone, None))
            if reference() is one and _is_like(one, before):
                tensors[tag] = _difference(one.detach(), before)
        if "activations" in self._kinds and parameters and not self._outputs:
            self._warn(
                "no activations were seen in a step that is logged. Hint: they are those in training mode, of a model that "
                "is not compiled, outside of transforms such as torch.func's."
            )
        parts = {part: one for tag, tensor in tensors.items() for part, one in _parts(tag, tensor)}
        whole = {}
        if self._distributed:  # what lies on several ranks is left to fasthist.distributed
            whole = {tag: one for tag, one in parts.items() if hasattr(one, "placements")}
        rest = {tag: one for tag, one in parts.items() if tag not in whole}
        kept = whole | countable(rest, self._warned) | self._outputs
        return {tag: kept[tag] for tag in (*parts, *self._outputs) if tag in kept}

    def _warn(self, text: str) -> None:
        """Warn once of a kind of trouble."""
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(f"fasthist: {text}", stacklevel=4)

    def _whole(self, tree: dict[str, Any], step: int) -> dict[str, Histogram]:
        """Sum over ranks; count replicated tensors on the first rank only."""
        from fasthist import distributed

        if not self._sharded and torch.distributed.get_rank(self._group):
            tree = {tag: one.new_empty(0) if _is_copy(one) else one for tag, one in tree.items()}
        return distributed.histograms(tree, self._group, step=step, redistribute=True)

    def _chosen(self, kind: str, named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, one in named:
            tag = f"{kind}/{name}"
            if tag in self._selection:
                yield tag, one

    def _parameters(self) -> list[tuple[str, Any]]:
        return [
            (name, one)
            for model in self._models
            for name, one in model.parameters()
            if not torch.nn.parameter.is_lazy(one)
        ]

    def _observed(self) -> Iterator[tuple[str, Any]]:
        """Yield the modules whose outputs are logged, each with its tag."""
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
            rivals = [one for one in _open if one._writes_like(self) and own & one._tags()]
            if not rivals:
                return
            if not attempt:
                gc.collect()  # models that nobody holds any more, as in a notebook's cell that is run again
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
        """Get ready for a step that will be logged."""
        self._release()
        if "updates" in self._kinds:
            weights = self._chosen("updates", self._parameters())
            self._before = {
                tag: (weakref.ref(one), one.detach().clone())
                for tag, one in weights
                if _has_updates(one)
            }
        if "activations" in self._kinds:
            watch = weakref.ref(self)
            for tag, module in self._observed():
                if module._compiled_call_impl is not None:
                    self._warn("a model was compiled after watch(): no activations of it are seen.")
                    continue
                handle = module.register_forward_hook(partial(_on_forward, watch, tag))
                self._hooks.append((handle, weakref.ref(module)))
                # What copies and saves a module asks it for its state.
                vars(module).setdefault(
                    "__getstate__", partial(_state_without_hooks, weakref.ref(module))
                )

    def _release(self) -> None:
        _remove(self._hooks)
        self._before = {}
        self._outputs = {}

    def _count(self, tag: str, output: Any) -> None:
        """Count a module's output, and add it to its earlier outputs of this step."""
        from fasthist.compute import histograms

        tensors = {
            part: one
            for name, tensor in _tensors(output, tag)
            for part, one in _parts(name, tensor)
        }
        for name, one in histograms(countable(tensors, self._warned)).items():
            before = self._outputs.get(name)
            self._outputs[name] = one if before is None else before + one


_open: weakref.WeakSet[Watch] = weakref.WeakSet()
"""What writes now: two of them must not write the same."""


class TrainerHistograms:
    """What the callbacks of trainers share: their arguments, and what is open while they train."""

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
    """A model that is not kept alive: if only a wrapper is gone, the modules that it held.

    `label` precedes its names.
    """

    def __init__(self, label: str, model: Any) -> None:
        self.label = label
        self._modules = [(name, weakref.ref(one)) for name, one in model.named_modules()]

    def _alive(self) -> list[tuple[str, Any]]:
        """Return the outermost living modules, each with the prefix of its names."""
        outermost: list[tuple[str, Any]] = []
        for name, reference in self._modules:  # those within come behind
            module, start = reference(), f"{name}." if name else ""
            if module is not None and not any(start.startswith(one) for one, _ in outermost):
                outermost.append((start, module))
                if not name:
                    break
        return outermost

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield each parameter once, with its label and name."""
        seen: set[int] = set()
        for start, module in self._alive():
            for name, one in module.named_parameters():
                if id(one) not in seen:
                    seen.add(id(one))
                    yield self.label + _clean(start + name), one

    def modules(self) -> Iterator[tuple[str, Any]]:
        """Yield each module with its name; the model's own is empty."""
        for start, module in self._alive():
            for name, one in module.named_modules():
                yield _clean((start + name).removesuffix(".")), one


def _named_models(model: Any, prefix: Any) -> list[tuple[str, Any]]:
    """Return the models, each with what is put before its names."""
    if not isinstance(prefix, str):
        msg = f"prefix={prefix!r} is not a name. Accepted: a str."
        raise ArgumentError(msg)
    models: list[tuple[Any, Any]] = [("", model)]
    if isinstance(model, Mapping):
        models = list(model.items())
    elif isinstance(model, (list, tuple)):
        models = list(enumerate(model))
    if not models or not all(isinstance(one, torch.nn.Module) for _, one in models):
        msg = (
            f"model={type(model).__name__} is no torch.nn.Module. "
            "Accepted: a module whose parameters are trained, or a mapping or list of such modules."
        )
        raise ArgumentError(msg)
    labels = ["/".join(filter(None, (prefix.strip("/"), str(key)))) for key, _ in models]
    return [
        (f"{label}/" if label else "", one) for label, (_, one) in zip(labels, models, strict=True)
    ]


def _folder(writer: Any) -> str:
    """Return the directory that a writer tells of, in one spelling."""
    folder = getattr(writer, "log_dir", "")
    return str(Path(folder).absolute()) if isinstance(folder, str) and folder else ""


def _on_forward(watch: Any, tag: str, module: Any, inputs: Any, output: Any) -> None:
    """Count a module's output; whatever happens, the user's forward pass goes on as without it."""
    del inputs
    if torch.compiler.is_compiling():  # or this would become a part of the compiled code
        return
    # Within backward(), checkpointing runs the same forward pass once more.
    if not module.training or torch._C._current_graph_task_id() != -1 or _is_traced():
        return
    watch = watch()
    if watch is not None:
        try:
            watch._count(tag, output)
        except Exception as error:  # noqa: BLE001 - a tensor of any class may raise anything
            watch._warn(f"{tag} cannot be counted ({str(error).strip().partition(chr(10))[0]})")


def _is_traced() -> bool:
    """Return whether something records or transforms what is done with tensors."""
    functorch = getattr(torch._C, "_functorch", None)
    return (
        torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or (functorch is not None and functorch.peek_interpreter_stack() is not None)
    )


def _is_ours(hook: Any) -> bool:
    return isinstance(hook, partial) and hook.func is _on_forward


def _state_without_hooks(reference: Any) -> Any:
    """Return the state of a module as it would be without us."""
    module = reference()
    get_state: Any = type(module).__getstate__
    state = get_state(module)
    plain = state[0] if isinstance(state, tuple) and state else state
    if not isinstance(plain, dict):
        return state
    plain = {name: one for name, one in plain.items() if name != "__getstate__"}
    hooks = plain.get("_forward_hooks")
    if hooks is not None:
        plain["_forward_hooks"] = type(hooks)(
            (key, one) for key, one in hooks.items() if not _is_ours(one)
        )
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
    """Stand for a reference to a model that is gone."""


def _clean(name: str) -> str:
    """Remove the names of wrappers from a parameter's or module's."""
    return name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")


def _is_copy(one: Any) -> bool:
    """Return whether every rank has all of this tensor: activations are histograms by now."""
    return isinstance(one, torch.Tensor) and not hasattr(one, "placements")


def _is_sharded(model: Any) -> bool:
    """Return whether the plain parameters of a model are shards: those of FSDP1 are."""
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
    """Return the model inside a compiled one, and inside one whose gradients are averaged over ranks."""
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
            f"optimizer={type(optimizer).__name__} tells nobody of its steps. Accepted: a torch.optim.Optimizer. "
            "Hint: call step() of what watch() returns yourself."
        )
        raise ArgumentError(msg)

    # A compiled optimizer step is to call it, not to be made of it.
    hook = torch.compiler.disable(lambda *_: step())
    return inner.register_step_post_hook(hook)


def _parts(tag: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield what can be counted of a tensor: the values that it holds, real and imaginary parts."""
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout in _HAS_VALUES or (tensor.is_nested and not _has_holes(tensor)):
        tensor = tensor.values()
        if tensor.is_complex():
            tensor = tensor.clone()  # torch takes no real part of what is a view of a sparse tensor
    if tensor.is_complex():
        yield f"{tag}/real", tensor.real
        yield f"{tag}/imag", tensor.imag
    else:
        yield tag, tensor


_HAS_VALUES = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def _has_holes(nested: Any) -> bool:
    return nested.layout is torch.jagged and nested.lengths() is not None


def _has_updates(one: Any) -> bool:
    has_values = (one.is_floating_point() or one.is_complex()) and not one.is_meta
    has_values = has_values and not isinstance(one, torch._subclasses.FakeTensor)
    return has_values and one.layout is torch.strided and not (one.is_nested or one.is_quantized)


def _is_like(one: Any, other: Any) -> bool:
    return (one.shape, one.device, one.dtype) == (other.shape, other.device, other.dtype)


def _difference(after: Any, before: Any) -> Any:
    # A difference of two bfloat16 seldom is one.
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
    if name == "SummaryWriter":  # it alone needs tensorboard
        from fasthist.adapters.torch_writer import SummaryWriter

        return SummaryWriter
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
