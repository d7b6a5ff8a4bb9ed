"""Flatten nested containers of arrays into tags and leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from fasthist.hist import Histogram
from fasthist.intake import Bits


def leaves(tree: Any, tag: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a tree with its tag.

    Parameters
    ----------
    tree : mapping, list, tuple, named tuple, dataclass, model or leaf
        Mappings by key, named tuples and dataclasses by field, other sequences by position from 0. An object with
        ``named_parameters()`` is a model: its parameters by name. None is no leaf: a parameter without a gradient.
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
    if isinstance(tree, (Histogram, Bits)):  # one is a dataclass, the other a named tuple
        yield tag, tree
        return
    if isinstance(tree, Mapping):
        parts: Iterator[tuple[Any, Any]] = iter(tree.items())
    elif hasattr(tree, "named_parameters"):
        parts = iter(tree.named_parameters())
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        parts = zip(tree._fields, tree, strict=True)
    elif (
        dataclasses.is_dataclass(tree)
        and not isinstance(tree, type)
        and not hasattr(tree, "__array__")
    ):
        parts = ((part.name, getattr(tree, part.name)) for part in dataclasses.fields(tree))
    elif isinstance(tree, (list, tuple)) and not _is_array(tree):
        parts = iter(enumerate(tree))
    else:
        yield tag, tree
        return
    for key, part in parts:
        yield from leaves(part, f"{tag}/{key}" if tag else str(key))


def _is_array(sequence: list[Any] | tuple[Any, ...]) -> bool:
    # [1, 2, 3] and [[1, 2], [3, 4]] are arrays as they stand; [w, b] is a tree.
    first = sequence[0] if sequence else 0.0
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, (bool, int, float, complex, str))
