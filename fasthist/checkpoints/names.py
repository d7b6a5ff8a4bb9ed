"""Find the training step, and the name of a lone tensor, in a file's name."""

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
    """Find the training step in a checkpoint's name; the file need not exist.

    It is the first of: the digits after "step", "iter", "checkpoint" or "ckpt", "epoch" (in this order) in the file's
    name; the same in the two nearest directories; digits that stand apart at the end of the name (``weights_0012``, but
    not ``resnet50``). The number of a shard, ``-00001-of-00005``, does not count.

    >>> step_of("epoch=3-step=1000.ckpt"), step_of("checkpoint-500/model.safetensors"), step_of("gpt2.npz")
    (1000, 500, None)
    """
    return split_name(Path(path))[1]


def stem_of(path: Path) -> str:
    """Return the file's name without its endings and without the number of a shard."""
    name = re.sub(r"\.index\.json$", "", path.name, flags=re.IGNORECASE)
    ending = next((it for it in ENDINGS if name.lower().endswith(it)), "")
    return _SHARD.sub("", name[: len(name) - len(ending)])


def split_name(path: Path) -> tuple[str, int | None]:
    """Split the stem into the rest and the step; a step from a directory leaves the stem whole."""
    stem = stem_of(path)
    match = _find_marked(stem)
    if match is None:
        for folder in path.absolute().parents[:2]:
            if marked := _find_marked(folder.name):
                return stem, int(marked[1])
        match = _TRAILING.search(stem)
    if match is None:
        return stem, None
    rest = [part.strip("-_=. ") for part in (stem[: match.start()], stem[match.end() :])]
    return "_".join(filter(None, rest)), int(match[1])


def _find_marked(name: str) -> re.Match[str] | None:
    return next(filter(None, (pattern.search(name) for pattern in _MARKED)), None)
