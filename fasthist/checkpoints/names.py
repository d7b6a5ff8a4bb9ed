"""The training step, and the name of a lone tensor, out of the name of a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

ENDINGS = (".safetensors", ".npz", ".npy", ".pt", ".pth", ".bin", ".ckpt")

# In order of preference: epoch=3-step=1000 is step 1000. 18 digits fit a 64-bit step.
_WORDS = (r"(?:global[-_ ]?)?steps?", r"iter(?:ation)?s?", r"checkpoint|ckpt", r"epochs?")
_MARKED = [
    re.compile(rf"(?<![a-z])(?:{word})[-_=. ]*(\d{{1,18}})(?!\d)", re.IGNORECASE) for word in _WORDS
]
_TRAILING = re.compile(r"(?:^|[-_=. ])(\d{1,18})$")
_SHARD = re.compile(r"[-_.]?\d+-of-\d+$")


def step_of(path: str | os.PathLike[str]) -> int | None:
    """Find the training step in the name of a checkpoint.

    Parameters
    ----------
    path : path
        Only the name is looked at; the file need not exist.

    Returns
    -------
    int or None
        The first of: the digits after "step", "iter", "checkpoint" or "ckpt", "epoch" (in this order) in the
        file's name; the same in the two nearest directories; digits that stand apart at the end of the name
        (``weights_0012``, but not ``resnet50``). The number of a shard, ``-00001-of-00005``, is no step.

    Examples
    --------
    >>> step_of("epoch=3-step=1000.ckpt"), step_of("checkpoint-500/model.safetensors"), step_of("gpt2.npz")
    (1000, 500, None)
    """
    return split_name(Path(path))[1]


def stem_of(path: Path) -> str:
    """Give the file's name without its endings and without the number of a shard."""
    name = re.sub(r"\.index\.json$", "", path.name, flags=re.IGNORECASE)
    ending = next((it for it in ENDINGS if name.lower().endswith(it)), "")
    return _SHARD.sub("", name[: len(name) - len(ending)])


def split_name(path: Path) -> tuple[str, int | None]:
    """Split the stem into the rest and the step; a step from a directory leaves the stem whole."""
    stem = stem_of(path)
    found = _find_marked(stem)
    if found is None:
        for folder in path.absolute().parents[:2]:
            if marked := _find_marked(folder.name):
                return stem, int(marked[1])
        found = _TRAILING.search(stem)
    if found is None:
        return stem, None
    rest = [part.strip("-_=. ") for part in (stem[: found.start()], stem[found.end() :])]
    return "_".join(filter(None, rest)), int(found[1])


def _find_marked(name: str) -> re.Match[str] | None:
    return next((found for pattern in _MARKED if (found := pattern.search(name))), None)
