"""What every answer is by definition: plain, slow, and without a line of fasthist (a test holds that).

Values come in decoded, as an array of float32, float64, bool or integers. Integers are compared as integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LARGEST = float.fromhex("0x1.fffffffffffffp+1023")

LIMITS_SHA256 = "26db8ca31be4803fb3fdd401b7e08b17c59bc13f940b30209176da737a89997b"
"""Of the 774 positive limits below the largest double, as little-endian doubles."""

SUM_BOUND = Fraction(1, 2**37)
"""Documented error of a sum, as a share of the sum of the magnitudes."""

# Cast to nearest, ties to even, without saturation: what is at most the first becomes zero; what is beyond the
# second, or equal to it where it is marked so, becomes an infinity or NaN. Tests hold them against real casts.
CASTS = {
    "float16": (2.0**-25, 65520.0, True),
    "float8_e4m3fn": (2.0**-10, 464.0, False),
    "float8_e5m2": (2.0**-17, 61440.0, True),
}


def positive_limits():
    """TensorFlow's limits above zero and below the largest double: a running product."""
    return np.cumprod(np.array([1e-12] + [1.1] * 773))


def tensorflow_edges():
    positive = np.append(positive_limits(), LARGEST)
    return np.concatenate((-positive[::-1], [0.0], positive))


@dataclass
class Answer:
    """Everything that a histogram tells, by definition."""

    num: int
    min: float | None
    max: float | None
    total: Fraction | None
    magnitude: Fraction | None
    squares: Fraction | float | None
    counts: np.ndarray
    below_count: int
    above_count: int
    zero_count: int
    nan_count: int
    posinf_count: int
    neginf_count: int
    exponent_counts: np.ndarray
    cast_losses: np.ndarray


def answer(values, edges=None, *, sums=True):
    """Give the answer for TensorFlow's buckets, or for edges (which see integers as float64).

    Without `sums` these are None, and `differences` passes over them.
    """
    values = np.asarray(values).reshape(-1)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # signalling NaN
            values = values.astype(np.float64)
        finite = np.sort(values[np.isfinite(values)])
        doubles = finite
    else:
        finite = np.sort(values)
        doubles = finite.astype(np.float64)
    to_tensorflow = edges is None
    below, counts, above = bucket_counts(
        finite if to_tensorflow else doubles, tensorflow_edges() if to_tensorflow else edges
    )
    ends = [None, None]
    if finite.size:
        rounded = double_at_most if to_tensorflow else float
        ends = [rounded(finite[i].item()) for i in (0, -1)]
    total = magnitude = squares = None
    if sums:
        with np.errstate(over="ignore", under="ignore"):
            products = doubles * doubles
        total, magnitude = exact_sum(finite), exact_sum(np.abs(doubles))
        squares = exact_sum(products) if np.isfinite(products).all() else math.inf
    is_float = values.dtype.kind == "f"
    return Answer(
        num=finite.size,
        min=ends[0],
        max=ends[1],
        total=total,
        magnitude=magnitude,
        squares=squares,
        counts=counts,
        below_count=below,
        above_count=above,
        zero_count=int((finite == 0).sum()),
        nan_count=int(np.isnan(values).sum()) if is_float else 0,
        posinf_count=int((values == np.inf).sum()) if is_float else 0,
        neginf_count=int((values == -np.inf).sum()) if is_float else 0,
        exponent_counts=exponent_counts(finite),
        cast_losses=cast_losses(doubles),
    )


def double_at_most(value):
    """Round an integer down to a double; leave a float as it is."""
    near = float(value)
    return math.nextafter(near, -math.inf) if isinstance(value, int) and int(near) > value else near


def bucket_counts(ordered, edges):
    """Count sorted finite values in [e0, e1), [e1, e2), ..., [e, last]; also those below and above them."""
    if _is_float(ordered):
        under = np.searchsorted(ordered, edges, side="left")
    else:
        under = np.array([number_below(ordered, float(edge)) for edge in edges])
    # A number is at most the last edge exactly if it is below the next number of its kind.
    last = float(edges[-1])
    at_most = number_below(
        ordered, math.nextafter(last, math.inf) if _is_float(ordered) else math.floor(last) + 1
    )
    counts = np.diff(under)
    counts[-1] = at_most - under[-2]
    return int(under[0]), counts, int(ordered.size - at_most)


def _is_float(values):
    return values.dtype.kind == "f"


def number_below(ordered, edge):
    """How many of the sorted values are below a number; exact for integers too."""
    if _is_float(ordered):
        return int(np.searchsorted(ordered, edge, side="left"))
    # An integer is below the edge exactly if it is below the edge's ceiling.
    ceiling, info = math.ceil(edge), np.iinfo(ordered.dtype)
    if ceiling <= info.min:
        return 0
    if ceiling > info.max:
        return ordered.size
    return int(np.searchsorted(ordered, np.array(ceiling, dtype=ordered.dtype), side="left"))


def exponent_counts(finite):
    """Element e + 127 counts 2**e <= |x| < 2**(e + 1); e from -127, with all below, to 128, with all above."""
    if _is_float(finite):
        exponents = np.frexp(finite[finite != 0])[1].astype(np.int64) - 1
    else:
        negative = finite < 0
        # In two's complement the magnitude of the smallest integer exists as an unsigned one.
        unsigned = (
            finite.astype(np.int64).view(np.uint64)
            if finite.dtype.kind == "i"
            else finite.astype(np.uint64)
        )
        magnitude = np.where(negative, ~unsigned + np.uint64(1), unsigned)
        powers = np.array([1 << e for e in range(64)], dtype=np.uint64)
        exponents = np.searchsorted(powers, magnitude[magnitude > 0], side="right") - 1
    return np.bincount(np.clip(exponents, -127, 128) + 127, minlength=256)


def cast_losses(doubles):
    """For each of `CASTS`: how many non-zero finite values a cast makes zero, and how many it makes not finite."""
    magnitude = np.abs(doubles[doubles != 0])
    rows = []
    for zeroed, lost, lost_itself in CASTS.values():
        beyond = (magnitude >= lost) if lost_itself else (magnitude > lost)
        rows.append([int((magnitude <= zeroed).sum()), int(beyond.sum())])
    return np.array(rows)


def exact_sum(values):
    """Sum finite values without any rounding."""
    if values.size == 0:
        return Fraction(0)
    if not _is_float(values):
        wide = values if values.itemsize == 8 else values.astype(np.int64)
        high, low = wide >> 32, wide & wide.dtype.type(0xFFFFFFFF)
        return Fraction((int(high.sum()) << 32) + int(low.sum()))
    fraction, exponent = np.frexp(values)
    order = np.argsort(exponent.astype(np.int16), kind="stable")
    whole, exponent = np.ldexp(fraction, 53).astype(np.int64)[order], exponent[order]
    begins = np.flatnonzero(np.diff(exponent, prepend=exponent[0] - 1))
    # Halves of 53 bits, so that no sum of int64 overflows; then Python's integers.
    high, low = np.add.reduceat(whole >> 32, begins), np.add.reduceat(whole & 0xFFFFFFFF, begins)
    parts = zip(high.tolist(), low.tolist(), exponent[begins].tolist(), strict=True)
    scale = 2000
    return Fraction(sum(((h << 32) + part) << (e - 53 + scale) for h, part, e in parts), 1 << scale)


def as_double(exact):
    """Round to the nearest double; infinite where there is none."""
    try:
        return float(exact)
    except OverflowError:
        return math.copysign(math.inf, exact)


def sum_is_right(found, exact, magnitude):
    """Whether a float is an exact sum up to the documented share of the sum of magnitudes."""
    if math.isnan(found):
        return False
    room = magnitude * SUM_BOUND
    if math.isinf(found):
        reach = exact + room if found > 0 else -exact + room
        return reach >= Fraction(LARGEST)
    return abs(Fraction(found) - exact) <= room


EXACT = (
    "num",
    "min",
    "max",
    "counts",
    "below_count",
    "above_count",
    "zero_count",
    "nan_count",
    "posinf_count",
    "neginf_count",
    "exponent_counts",
    "cast_losses",
)


def differences(histogram, expected):
    """Name every attribute of a histogram that is not what the definition says: [] means it is right."""
    wrong = [
        name
        for name in EXACT
        if not np.array_equal(getattr(histogram, name), getattr(expected, name))
    ]
    if expected.total is None:
        return wrong
    if not sum_is_right(histogram.sum, expected.total, expected.magnitude):
        wrong.append("sum")
    if expected.squares == math.inf:
        if histogram.sum_squares != math.inf:
            wrong.append("sum_squares")
    elif not sum_is_right(histogram.sum_squares, expected.squares, expected.squares):
        wrong.append("sum_squares")
    return wrong
