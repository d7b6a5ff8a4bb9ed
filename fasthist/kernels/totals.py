"""Numbers from chunks to one answer: sums added up, and integers as float64."""

from __future__ import annotations

import math
import operator
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


def add_up_deviations(sums: list[list[float]]) -> float:
    """Combine the chunks' sums of squared deviations from their own means (Chan, Golub, LeVeque 1983)."""
    if len(sums) == 1:
        return sums[0][3]
    parts = [part[3:] for part in sums if part[4]]
    if not parts or any(math.isinf(part[0]) for part in parts):
        return math.inf if parts else 0.0
    # From the first chunk's center: means that hardly differ are told apart only so.
    origin = parts[0][2]
    away = [center - origin + total / num for _, num, center, total in parts]
    nums = [part[1] for part in parts]
    mean = math.fsum(map(operator.mul, nums, away)) / math.fsum(nums)
    each = zip((part[0] for part in parts), nums, away, strict=True)
    terms = (own + num * (far - mean) * (far - mean) for own, num, far in each)
    return _saturating(lambda: math.fsum(terms), 1.0)


def _saturating(compute: Callable[[], float], sign: float) -> float:
    try:
        return compute()
    except OverflowError:
        return math.copysign(math.inf, sign)
