"""Flatten nested containers of arrays into tags and leaves."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, MappingView
from typing import Any

import numpy as np

from fasthist.errors import ArgumentError
from fasthist.gpu_intake import plain_types
from fasthist.hist import Histogram
from fasthist.intake import Bits


def leaves(tree: Any, tag: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a tree with its tag.

    Parameters
    ----------
    tree : mapping, list, tuple, named tuple, dataclass, model, pytree or leaf
        Mappings by key (see Notes), named tuples and dataclasses by field, other sequences by position from 0. An object with
        ``named_parameters()`` is a model: its parameters by name; else one with ``state_dict()`` by that. Of an optimizer of
        torch, or its ``state_dict()``, the state by its parameters' names or numbers. A type that
        is registered with JAX comes apart as JAX says, where JAX is loaded; one of which the attribute ``value`` is the
        only part, such as a variable of Flax, adds nothing to the tag. None is not a leaf: a parameter without a gradient. A
        sequence of numbers, or of such sequences, is an array.
    tag : str
        The tag of the tree itself; parts are joined to it with "/".

    Yields
    ------
    tag : str
    leaf : Any
        Not looked at.

    Raises
    ------
    ArgumentError
        A container holds itself, or they are nested deeper than 200.

    Notes
    -----
    A key that is a tuple of names adds them to the tag, as Flax's flat dictionaries mean it; a type or function its name; a number, None or whatever else has a
    short text that text. A tensor or array that is a leaf of the tree too adds its tag there, as the parameters of a
    model do. Any other key adds its place among such keys of its mapping, which is the same at each step while the mapping
    grows at its end only.
    """
    return _walk(tree, tag, _Names(tree), ())


def _walk(
    tree: Any, tag: str, names: _Names | None, around: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a tree inside of containers with the ids `around`."""
    if tree is None:
        return
    parts = _parts(tree)
    if parts is None:
        yield tag, tree
        return
    if id(tree) in around or len(around) == _DEEPEST:
        wrong = "holds itself" if id(tree) in around else f"is nested deeper than {_DEEPEST}"
        msg = (
            f"the {type(tree).__name__} at {_shortened(tag)!r} {wrong}. Accepted: a tree of arrays. "
            "Hint: leave that part out, or pass {tag: array}."
        )
        raise ArgumentError(msg)
    around = (*around, id(tree))
    places = itertools.count()
    for key, part in parts:
        if key is _CONTENT:
            yield from _walk(part, tag, names, around)
        else:
            name = key if isinstance(key, str) else _name_of_key(key, names, places)
            yield from _walk(part, f"{tag}/{name}" if tag else name, names, around)


_DEEPEST = 200
"""Python itself ends at 1000 nested calls, the user's among them."""


def _shortened(tag: str) -> str:
    return tag if len(tag) <= 80 else f"{tag[:40]}...{tag[-30:]}"


class _Names:
    """Finds the tag of an array in a tree; the tree is walked when this is first asked for."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree

    @functools.cached_property
    def _leaves(self) -> dict[int, tuple[str, Any]]:
        return {id(leaf): (tag, leaf) for tag, leaf in _walk(self._tree, "", None, ())}

    def find(self, array: Any) -> str | None:
        tag, leaf = self._leaves.get(id(array), ("", None))
        return tag if leaf is array else None


def _name_of_key(key: Any, names: _Names | None, places: Iterator[int]) -> str:
    """Return a text for a key of a mapping that is the same at each step, and tells no memory address."""
    if isinstance(key, str):
        return key
    if isinstance(key, tuple):
        parts = [_name_of_key(part, names, places) for part in key]
        return "/".join(parts) if key and isinstance(key[0], str) else f"({', '.join(parts)})"
    if isinstance(key, bytes):
        return key.decode(errors="backslashreplace")
    if hasattr(key, "shape") and hasattr(key, "dtype") and not isinstance(key, np.generic):
        return (names and names.find(key)) or str(next(places))
    if hasattr(key, "__qualname__"):
        return str(key.__qualname__)
    text = (
        "" if isinstance(key, (set, frozenset)) else str(key)
    )  # the order of a set is not the same in each process
    if not text or len(text) > _LONGEST or _NO_NAME.search(text):
        return (names and names.find(key)) or str(next(places))
    return text


_LONGEST = 100
"""Characters of a key's text that a tag can do with."""

_NO_NAME = re.compile(r"\b0x[0-9a-fA-F]{6,}|\n")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Give every leaf of a tree by its tag, in the order of the tree.

    Raises
    ------
    ArgumentError
        Two leaves have the same tag, or the tree itself is an array.
    """
    torch = sys.modules.get("torch")
    if torch is not None and type(tree) is dict and "" not in tree:
        # No need to walk: a third of what `histograms` takes for tensors of a GPU.
        kinds = set(map(type, tree.values()))
        if kinds <= plain_types(torch) and set(map(type, tree)) == {str}:
            return tree
    found: dict[str, Any] = {}
    for tag, leaf in leaves(tree):
        if not tag:
            what, hint = "an array", "pass {tag: array}, or call histogram()"
            if isinstance(leaf, (Iterator, MappingView)):
                what, hint = "read once, and without names", "pass a dict, or list(...) of it"
            msg = (
                f"{type(leaf).__name__} is {what}, not a tree of arrays. Accepted: a mapping, sequence or model. "
                f"Hint: {hint}."
            )
            raise ArgumentError(msg)
        if tag in found:
            msg = f"two leaves have the tag {tag!r}. Accepted: distinct tags. Hint: rename one of the keys."
            raise ArgumentError(msg)
        found[tag] = leaf
    return found


_array_types: set[type] = set()
"""Types seen so far whose instances are leaves: to look this up takes a tenth of the microsecond that asking takes."""


_CONTENT = object()
"""The key of what a box holds, whose tag is that of the box."""


def _parts(tree: Any) -> Iterable[tuple[Any, Any]] | None:
    """Give the keys and parts of a container; None for a leaf."""
    kind = type(tree)
    if kind in _array_types:
        return None
    if isinstance(tree, (Histogram, Bits)):  # one is a dataclass, the other a named tuple
        return None
    if isinstance(tree, Mapping):
        if tree.keys() == _OPTIMIZER:
            return _parts_of_optimizer(tree["state"], tree["param_groups"])
        return tree.items()
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return zip(tree._fields, tree, strict=True)
    if isinstance(tree, (list, tuple)):
        return None if _is_array(tree) else enumerate(tree)
    if hasattr(kind, "__array__"):
        _array_types.add(kind)
        return None
    if hasattr(tree, "named_parameters"):
        parameters: Iterable[tuple[str, Any]] = tree.named_parameters()
        return parameters
    jax = sys.modules.get("jax")
    if jax is not None and not jax.tree_util.all_leaves([tree]):
        return _parts_of_pytree(tree, jax)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(part.name, getattr(tree, part.name)) for part in dataclasses.fields(tree)]
    if hasattr(tree, "state_dict"):
        if hasattr(tree, "param_groups") and hasattr(tree, "state"):
            return _parts_of_optimizer(tree.state, tree.param_groups)
        return _parts(tree.state_dict())
    return None


_OPTIMIZER = {"state", "param_groups"}
"""The keys of the ``state_dict()`` of torch's optimizers."""


def _parts_of_optimizer(state: Any, groups: Any) -> Iterable[tuple[Any, Any]]:
    """Return the state of each parameter by its name, or its number in the groups; their settings are left out."""
    names: dict[Any, Any] = {}
    for group in groups:
        for place, parameter in enumerate(group["params"]):
            given = group.get("param_names")
            names[parameter] = given[place] if given else len(names)
    return [("state", {names.get(key, key): part for key, part in state.items()})]


def _parts_of_pytree(tree: Any, jax: Any) -> list[tuple[Any, Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda part: part is not tree)
    if len(flat) == 1 and [getattr(key, "name", None) for key in flat[0][0]] == ["value"]:
        return [(_CONTENT, flat[0][1])]
    return [("/".join(_name_of(key) for key in path), part) for path, part in flat]


def _name_of(key: Any) -> str:
    # JAX's four kinds of keys: of an attribute, a mapping, a sequence, and of a type that names none.
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _is_array(sequence: list[Any] | tuple[Any, ...]) -> bool:
    # [1, 2, 3] and [[1, 2], [3, 4]] are arrays as they stand; [w, b] is a tree.
    first = sequence[0] if sequence else 0.0
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, (bool, int, float, complex, str))
