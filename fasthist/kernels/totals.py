"""Numbers from chunks to one answer: sums added up, and integers as float64."""

from __future__ import annotations

import math
from collections.abc import Callable


def as_float(number: int, *, down: bool) -> float:
    """Round an integer beyond 2**53 down, as for TensorFlow's limits, or to the nearest, as numpy does."""
    nearest = float(number)
    return math.nextafter(nearest, -math.inf) if down and nearest > number else nearest


def add_up(sums: list[list[float]]) -> tuple[float, float]:
    """Combine the sums of chunks; the order of the chunks fixes every bit, and fsum adds no error of its own."""
    if len(sums) == 1 and not sums[0][2]:
        return sums[0][0], sums[0][1]
    total = math.fsum(part[0] for part in sums)
    scaled = math.fsum(part[2] for part in sums)
    if scaled:
        units = math.fsum([scaled, math.ldexp(total, -64)])
        total = _saturating(lambda: math.ldexp(units, 64), units)
    return total, _saturating(lambda: math.fsum(part[1] for part in sums), 1.0)


def _saturating(compute: Callable[[], float], sign: float) -> float:
    try:
        return compute()
    except OverflowError:
        return math.copysign(math.inf, sign)
