"""The labelled runs of `illnesses`: healthy ones, and what makes them ill, in which layer; a seed chooses it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from small_networks import MODELS, Module, cnn, mlp
from torch import nn

Optimize = Callable[[Any], Any]

OPTIMIZERS: dict[str, Optimize] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.1),
}


@dataclass
class Plan:
    """How one run is trained, and what it should be found to have.

    Attributes
    ----------
    model : torch.nn.Module
    optimize : callable
        Makes the optimizer of the parameters.
    rules : set of str
        Any of them names the illness.
    layers : set of str
        Any of them is its place.
    step : int, optional
        At which it must be first seen.
    before_step : callable
        Called with the step, between the backward pass and the optimizer's step.
    half : bool
        Whether forward and backward pass are in float16, with float32 weights beside it.
    loss_scale : float
    """

    model: Module
    optimize: Optimize = OPTIMIZERS["adam"]
    rules: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()
    step: int | None = None
    before_step: Callable[[int], None] = lambda _: None
    half: bool = False
    loss_scale: float = 1.0


def hidden(model: Module) -> list[tuple[str, Module, str]]:
    """Give the layers that an activation follows: name, module, name of the activation."""
    found = []
    before: tuple[str, Module] | None = None
    for name, part in model.named_modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            before = name, part
        elif isinstance(part, _ACTIVATIONS) and before is not None:
            found.append((*before, name))
    return found


_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU)


def _first(model: Module) -> str:
    return next(
        name for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))
    )


def vanishing_sigmoid(make: Callable[..., Module], seed: int) -> Plan:
    """Stack many layers of sigmoids."""
    del seed
    model = make(nn.Sigmoid, deep=True)
    return Plan(model, rules=frozenset({"vanishing_gradient"}), layers=frozenset({_first(model)}))


def exploding_lr(make: Callable[..., Module], seed: int) -> Plan:
    """Choose a learning rate some hundred times too large."""
    model = make()
    rate = (20.0, 50.0, 100.0)[seed % 3]
    layers = frozenset(name for name, part in model.named_modules() if hasattr(part, "weight"))
    rules = frozenset({"exploding_gradient", "nonfinite", "update_ratio"})
    return Plan(model, lambda it: torch.optim.SGD(it, lr=rate), rules, layers)


def dead_relu(make: Callable[..., Module], seed: int) -> Plan:
    """Set a bias so low that no unit of a layer fires."""
    model = make(nn.ReLU)
    name, layer, after = hidden(model)[seed % len(hidden(model))]
    nn.init.constant_(layer.bias, -20.0)
    return Plan(model, rules=frozenset({"dead"}), layers=frozenset({name, after}))


def saturated_tanh(make: Callable[..., Module], seed: int) -> Plan:
    """Choose weights of a layer that drive its tanh to the ends."""
    model = make(nn.Tanh)
    name, layer, after = hidden(model)[seed % len(hidden(model))]
    nn.init.normal_(layer.weight, std=10.0)
    return Plan(model, rules=frozenset({"saturated"}), layers=frozenset({name, after}))


def _with_init(make: Callable[..., Module], seed: int, factor: float) -> Plan:
    model = make()
    name, layer, _ = hidden(model)[seed % len(hidden(model))]
    with torch.no_grad():
        layer.weight.mul_(factor)
    return Plan(model, rules=frozenset({"init_spread"}), layers=frozenset({name}))


def small_init(make: Callable[..., Module], seed: int) -> Plan:
    """Make the initial weights of a layer 100 to 30 times too small."""
    return _with_init(make, seed, (0.01, 0.03, 0.02)[seed % 3])


def large_init(make: Callable[..., Module], seed: int) -> Plan:
    """Make the initial weights of a layer 10 to 30 times too large."""
    return _with_init(make, seed, (10.0, 20.0, 30.0)[seed % 3])


def strong_decay(make: Callable[..., Module], seed: int) -> Plan:
    """Choose a weight decay of a layer that outweighs its gradient."""
    model = make()
    name, layer, _ = hidden(model)[seed % len(hidden(model))]
    decay = (3.0, 5.0, 10.0)[seed % 3]

    def optimize(parameters: Iterable[Any]) -> Any:
        others = [one for one in parameters if one is not layer.weight]
        groups = [{"params": others}, {"params": [layer.weight], "weight_decay": decay}]
        return torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.01)

    return Plan(model, optimize, frozenset({"weight_decay"}), frozenset({name}))


def nan_gradient(make: Callable[..., Module], seed: int) -> Plan:
    """Put one NaN into the gradient of a layer at a known step."""
    model = make()
    name, layer, _ = hidden(model)[seed % len(hidden(model))]
    at = (50, 100, 70)[seed % 3]

    def plant(step: int) -> None:
        if step == at:
            layer.weight.grad.view(-1)[0] = float("nan")

    return Plan(
        model, rules=frozenset({"nonfinite"}), layers=frozenset({name}), step=at, before_step=plant
    )


def frozen_layer(make: Callable[..., Module], seed: int) -> Plan:
    """Give a layer no gradient."""
    model = make()
    name, layer, _ = hidden(model)[seed % len(hidden(model))]
    layer.requires_grad_(requires_grad=False)
    return Plan(model, rules=frozenset({"frozen"}), layers=frozenset({name}))


def float16_underflow(make: Callable[..., Module], seed: int) -> Plan:
    """Have gradients in float16, of a loss that is averaged over many: without loss scaling, and a step size to match."""
    model = make()
    scale = (2e-5, 1.5e-5, 1e-5)[seed % 3]
    return Plan(
        model, rules=frozenset({"underflow"}), layers=frozenset({_first(model)}), half=True, loss_scale=scale
    )  # fmt: skip


ILLNESSES = {
    plant.__name__: plant
    for plant in (
        vanishing_sigmoid, exploding_lr, dead_relu, saturated_tanh, small_init, large_init, strong_decay,
        nan_gradient, frozen_layer, float16_underflow,
    )
}  # fmt: skip

HEALTHY: dict[str, Callable[[], Module]] = {
    **MODELS,
    "cnn, batch norm": functools.partial(cnn, norm=True),
    "mlp, tanh": functools.partial(mlp, nn.Tanh),
}


def runs(seeds: int, only: str = "") -> Iterable[tuple[str, str, int, Callable[[], Plan]]]:
    """Give every run of the labelled set: model, illness, seed, and what makes its plan."""
    for seed in range(seeds):
        if not only:
            for name, make in HEALTHY.items():
                for kind, optimize in OPTIMIZERS.items():
                    if name in MODELS or kind == "adam":
                        yield f"{name}, {kind}", "", seed, lambda m=make, o=optimize: Plan(m(), o)
        for name, build in MODELS.items():
            for illness, plant in ILLNESSES.items():
                if only in f"{name} {illness}":
                    yield name, illness, seed, functools.partial(plant, build, seed)
