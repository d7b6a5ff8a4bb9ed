"""Nested containers become tags and leaves."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import numpy as np
import pytest

import fasthist
from fasthist.errors import ArgumentError, ArrayError
from fasthist.tree import leaves

W, B = np.ones((2, 2)), np.zeros(2)


@dataclasses.dataclass
class Pair:
    weight: object
    bias: object


@dataclasses.dataclass
class Boxed:
    data: object

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.data)


Named = collections.namedtuple("Named", ["kernel", "scale"])


class Model:
    def named_parameters(self):
        yield "fc.weight", W
        yield "fc.bias", B


class Saved:
    def state_dict(self):
        return {"running": {"mean": W}, "count": B}


BOXED = Boxed([1.0])

TREES = {
    "mapping": ({"w": W, "b": B}, {"w": W, "b": B}),
    "nested": ({"fc": {"w": W, "b": {"x": B}}}, {"fc/w": W, "fc/b/x": B}),
    "ordered": (collections.OrderedDict(z=W, a=B), {"z": W, "a": B}),
    "keys are made strings": ({0: W, (1, 2): B}, {"0": W, "(1, 2)": B}),
    "list": ([W, B], {"0": W, "1": B}),
    "tuple": ((W, [B, W]), {"0": W, "1/0": B, "1/1": W}),
    "named tuple": ({"n": Named(W, B)}, {"n/kernel": W, "n/scale": B}),
    "dataclass": ({"p": Pair(W, [B])}, {"p/weight": W, "p/bias/0": B}),
    "dataclass at the top": (Pair(W, B), {"weight": W, "bias": B}),
    "dataclass that is an array": ({"x": BOXED}, {"x": BOXED}),
    "class of a dataclass": ({"x": Pair}, {"x": Pair}),
    "model": (Model(), {"fc.weight": W, "fc.bias": B}),
    "model in a tree": ({"net": Model()}, {"net/fc.weight": W, "net/fc.bias": B}),
    "something with a state": ({"norm": Saved()}, {"norm/running/mean": W, "norm/count": B}),
    "none": ({"w": W, "g": None, "more": [None, B]}, {"w": W, "more/1": B}),
    "nothing": (None, {}),
    "empty mapping": ({"a": {}, "b": W}, {"b": W}),
    "numbers are an array": ({"x": [1, 2.5, 3]}, {"x": [1, 2.5, 3]}),
    "nested numbers": ({"x": [[1, 2], [3, 4]]}, {"x": [[1, 2], [3, 4]]}),
    "tuple of numbers": ({"x": (True, False)}, {"x": (True, False)}),
    "empty list is an empty array": ({"x": []}, {"x": []}),
    "scalar": ({"x": 1.5}, {"x": 1.5}),
    "one array": (W, {"": W}),
}


@pytest.mark.parametrize("case", TREES)
def test_leaves(case):
    tree, expected = TREES[case]
    found = list(leaves(tree))
    assert [tag for tag, _ in found] == list(expected)
    for (_, leaf), wanted in zip(found, expected.values(), strict=True):
        assert leaf is wanted or leaf == wanted


def test_the_tag_of_the_tree_comes_first():
    assert [tag for tag, _ in leaves({"a": [W, {"b": B}]}, "grad")] == ["grad/a/0", "grad/a/1/b"]


def test_leaves_are_not_looked_at():
    class Untouchable:
        def __getattribute__(self, name):
            if name in ("__class__", "__dict__"):
                return object.__getattribute__(self, name)
            raise AttributeError(name)

    leaf = Untouchable()
    assert list(leaves({"x": leaf})) == [("x", leaf)]


def test_torch_modules(need):
    torch = need("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    found = dict(leaves({"net": net}))
    assert list(found) == ["net/0.weight", "net/0.bias", "net/2.weight", "net/2.bias"]
    assert found["net/0.bias"] is net[0].bias
    gradients = dict(leaves({"g": [parameter.grad for parameter in net.parameters()]}))
    assert gradients == {}


def test_pytrees_of_jax(need):
    jax = need("jax")

    @jax.tree_util.register_pytree_with_keys_class
    class Layer:
        def __init__(self, kernel, scale, kind):
            self.kernel, self.scale, self.kind = kernel, scale, kind

        def tree_flatten_with_keys(self):
            keys = jax.tree_util.GetAttrKey("kernel"), jax.tree_util.DictKey("scale")
            return tuple(zip(keys, (self.kernel, self.scale), strict=True)), self.kind

        @classmethod
        def tree_unflatten(cls, kind, parts):
            return cls(*parts, kind)

    @jax.tree_util.register_pytree_node_class
    class Unnamed:
        def tree_flatten(self):
            return (W, B), None

        @classmethod
        def tree_unflatten(cls, _kind, _parts):
            return cls()

    array = jax.numpy.ones(3)
    found = dict(leaves({"net": [Layer({"w": array}, None, "dense"), Unnamed()]}))
    # What is no part of the tree, such as the kind, is left out.
    assert list(found) == ["net/0/kernel/w", "net/1/0", "net/1/1"]
    assert found["net/0/kernel/w"] is array


def test_what_only_holds_a_value_has_its_tag(need):
    jax = need("jax")

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Variable:
        value: object

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Observed:
        value: object
        count: object

    tree = {
        "w": Variable(W),
        "deep": Variable({"b": B}),
        "o": Observed(W, B),
        "value": {"value": W},
    }
    assert list(leaves(tree)) == [
        ("w", W),
        ("deep/b", B),
        ("o/value", W),
        ("o/count", B),
        ("value/value", W),
    ]
    assert list(leaves(Variable(W), "w")) == [("w", W)]


class Plain:
    """Its text is a memory address."""


class Texted:
    def __str__(self):
        return "named"


def tags(tree):
    return [tag for tag, _ in leaves(tree)]


KEYS = {
    "numbers": ({3: W, 3.5: W, True: W, np.int64(7): W, np.float32(0.5): W}, "3 3.5 True 7 0.5"),
    "none": ({None: W, "None ": B}, ["None", "None "]),
    "tuples": ({("fc", "kernel"): W, ("fc", 0): B, (1, 2): W}, ["fc/kernel", "fc/0", "(1, 2)"]),
    "bytes": ({b"fc": W, b"\xff": B}, "fc \\xff"),
    "types": ({dict: W, Plain: B, len: W}, "dict Plain len"),
    "texts": ({Texted(): W, Path("a/b"): B}, "named a/b"),
    "objects": ({Plain(): W, "w": W, Plain(): B, frozenset("ab"): W}, "0 w 1 2"),
    "objects in tuples": ({("a", Plain()): W, ("b", Plain()): B}, "a/0 b/1"),
    "deeper": ({"x": {Plain(): W}, "y": {Plain(): {Plain(): B}}}, "x/0 y/0/0"),
    "long": ({"x": {Path("a" * 300): W}}, "x/0"),
}


@pytest.mark.parametrize("case", KEYS)
def test_keys_that_are_not_names(case):
    tree, expected = KEYS[case]
    assert tags(tree) == (expected.split() if isinstance(expected, str) else expected)


def test_arrays_as_keys_have_the_name_that_the_tree_tells(need):
    torch = need("torch")
    net = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    parts = ("step", "exp_avg", "exp_avg_sq")
    of_numbers = [f"o/{n}/{part}" for n in (0, 1) for part in parts]
    assert tags({"o": optimizer.state}) == of_numbers
    assert tags({"o": dict(optimizer.state)}) == of_numbers
    of_names = [f"o/net/{name}/{part}" for name in ("weight", "bias") for part in parts]
    assert tags({"o": optimizer.state, "net": net}) == [*of_names, "net/weight", "net/bias"]
    # A scalar parameter, whose text is short, is no name either.
    assert tags(
        {torch.tensor(1.5): W, torch.ones(2): B, torch.nn.Parameter(torch.ones(())): W}
    ) == list("012")


def test_optimizers_of_torch(need):
    torch = need("torch")
    net = torch.nn.Linear(2, 3)
    for parameters, names in (
        (net.parameters(), (0, 1)),
        (net.named_parameters(), ("weight", "bias")),
    ):
        optimizer = torch.optim.SGD(parameters, momentum=0.9)
        for step in range(3):
            net(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            expected = [f"o/state/{name}/momentum_buffer" for name in names]
            found = fasthist.histograms({"o": optimizer})
            assert list(found) == expected, step
            assert fasthist.histograms({"o": optimizer.state_dict()}) == found
    assert found["o/state/bias/momentum_buffer"] == fasthist.histogram(
        optimizer.state[net.bias]["momentum_buffer"]
    )


def test_states_of_optax(need):
    optax, jnp = need("optax"), need("jax.numpy")
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init({"fc": {"w": jnp.ones(3)}})
    assert tags({"o": state}) == ["o/1/0/count", "o/1/0/mu/fc/w", "o/1/0/nu/fc/w"]


def test_what_holds_itself_or_is_very_deep():
    tree = {"w": W}
    tree["more"] = [B, tree]
    with pytest.raises(
        ArgumentError, match=r"^the dict at 'more/1' holds itself\. Accepted: .* Hint"
    ):
        tags(tree)
    assert tags({"a": [tree["w"], W], "b": W}) == ["a/0", "a/1", "b"]  # twice is not within itself
    deep = W
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(
        ArgumentError, match=r"^the list at '0/0.*\.\.\..*' is nested deeper than 200\."
    ):
        tags(deep)
    deep = W
    for _ in range(200):
        deep = [deep]
    assert len(tags(deep)) == 1


@pytest.mark.parametrize(
    "make", [lambda: (a for a in [W]), {"a": W}.values, {"a": W}.items, lambda: map(abs, [W])]
)
def test_what_is_read_once_is_no_tree(make):
    with pytest.raises(
        ArgumentError, match=r"read once, and without names.*Hint: pass a dict, or list"
    ):
        fasthist.histograms(make())
    with pytest.raises(ArrayError, match=r"^a/0: .* is not an array of numbers.*pass list"):
        fasthist.histograms({"a": [make()]})
