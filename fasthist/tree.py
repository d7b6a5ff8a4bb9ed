"""Flatten nested containers of arrays into tags and leaves."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fasthist.errors import ArgumentError
from fasthist.hist import Histogram
from fasthist.intake import Bits


def leaves(tree: Any, tag: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a tree with its tag.

    Parameters
    ----------
    tree : mapping, list, tuple, named tuple, dataclass, model, pytree or leaf
        Mappings by key, named tuples and dataclasses by field, other sequences by position from 0. An object with
        ``named_parameters()`` is a model: its parameters by name; else one with ``state_dict()`` by that. A type that
        is registered with JAX comes apart as JAX says, where JAX is loaded; one of which the attribute ``value`` is the
        only part, such as a variable of Flax, adds nothing to the tag. None is no leaf: a parameter without a gradient. A
        sequence of numbers, or of such sequences, is an array.
    tag : str
        The tag of the tree itself; parts are joined to it with "/".

    Yields
    ------
    tag : str
    leaf : Any
        Not looked at.
    """
    if tree is None:
        return
    parts = _parts(tree)
    if parts is None:
        yield tag, tree
        return
    for key, part in parts:
        if key is _CONTENT:
            yield from leaves(part, tag)
        else:
            yield from leaves(part, f"{tag}/{key}" if tag else str(key))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Give every leaf of a tree by its tag, in the order of the tree.

    Raises
    ------
    ArgumentError
        Two leaves have the same tag, or the tree itself is an array.
    """
    found: dict[str, Any] = {}
    for tag, leaf in leaves(tree):
        if not tag:
            msg = (
                f"{type(leaf).__name__} is an array, not a tree of arrays. Accepted: a mapping, sequence or model. "
                "Hint: pass {tag: array}, or call histogram()."
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
        return _parts(tree.state_dict())
    return None


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
