"""How two histograms' values become one: a rule for each kind, so that every way of merging follows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def _sum(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


def _extreme(
    choose: Callable[[float, float], float],
) -> Callable[[float | None, float | None], float | None]:
    def merge(a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return b if a is None else a
        return choose(a, b)

    return merge


def _total(a: float | None, b: float | None) -> float | None:
    if a is None or b is None or math.isnan(a + b):
        return None  # both were beyond float64, on either side
    return a + b


SUM = {"merge": _sum}
FLOAT_SUM = {"merge": _total}
MIN = {"merge": _extreme(min)}
MAX = {"merge": _extreme(max)}
