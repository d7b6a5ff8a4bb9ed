"""One table: every number format that can be counted, and what its bit patterns mean.

A *carrier* is the unsigned integer type of the same width, in which the kernels see the bits. Formats of 8 and 16 bits are
also described completely by `Format.decode`: the float64 value of every pattern.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Format:
    """How to read one element: the name that numpy, ml_dtypes and torch share, such as "bfloat16", and its bits.

    `kind` is "bool", "int", "uint" or "float"; `mantissa` (explicit bits) and `bias` (of the exponent) describe a float.
    `specials` says which patterns of a float are not finite: those of the highest exponent ("ieee"); only all ones
    after the sign, NaN ("fn"); only the pattern of -0, NaN ("fnuz").

    Source of the 8-bit formats: "FP8 Formats for Deep Learning" (arXiv 2209.05433) for e4m3fn and e5m2,
    "8-bit Numerical Formats for Deep Neural Networks" (arXiv 2206.02915) for the fnuz forms.
    """

    name: str
    kind: str
    bits: int
    mantissa: int = 0
    bias: int = 0
    specials: str = "ieee"

    @property
    def carrier(self) -> np.dtype[np.unsignedinteger]:
        """The unsigned integer dtype of the same width, in native byte order."""
        return np.dtype(f"u{self.bits // 8}")

    @property
    def is_code(self) -> bool:
        """Whether the patterns are few enough (at most 65,536) to be counted individually."""
        return self.bits <= 16

    def decode(self, patterns: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
        """Return the exact float64 value of each pattern (carrier[...], at most 16 bits), NaN and infinities included."""
        u: NDArray[np.int64] = patterns.astype(np.int64)
        if self.kind == "bool":
            u = (u != 0).astype(np.int64)
        if self.kind == "int":
            u = u - ((u >> (self.bits - 1)) << self.bits)
        if self.kind != "float":
            return u.astype(np.float64)
        exponent_bits = self.bits - 1 - self.mantissa
        top = (1 << exponent_bits) - 1
        exponent = (u >> self.mantissa) & top
        fraction = u & ((1 << self.mantissa) - 1)
        negative = (u >> (self.bits - 1)) == 1
        significand = np.where(exponent == 0, fraction, fraction + (1 << self.mantissa))
        scale = np.maximum(exponent, 1) - self.bias - self.mantissa
        value: NDArray[np.float64] = np.ldexp(significand.astype(np.float64), scale)
        if self.specials == "ieee":
            value[exponent == top] = np.inf
            value[(exponent == top) & (fraction != 0)] = np.nan
        elif self.specials == "fn":
            value[(exponent == top) & (fraction == (1 << self.mantissa) - 1)] = np.nan
        else:
            value[negative & (exponent == 0) & (fraction == 0)] = np.nan
        return np.where(negative, -value, value)


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("bool", "bool", 8),
        *(Format(f"int{bits}", "int", bits) for bits in (8, 16, 32, 64)),
        *(Format(f"uint{bits}", "uint", bits) for bits in (8, 16, 32, 64)),
        Format("float8_e4m3fn", "float", 8, 3, 7, "fn"),
        Format("float8_e5m2", "float", 8, 2, 15),
        Format("float8_e4m3fnuz", "float", 8, 3, 8, "fnuz"),
        Format("float8_e5m2fnuz", "float", 8, 2, 16, "fnuz"),
        Format("float16", "float", 16, 10, 15),
        Format("bfloat16", "float", 16, 7, 127),
        Format("float32", "float", 32, 23, 127),
        Format("float64", "float", 64, 52, 1023),
    )
}


@dataclass(frozen=True)
class CastLimits:
    """Where round-to-nearest-even into a narrower float format loses a value, without saturation.

    Source: IEEE 754-2019, section 4.3.1 (roundTiesToEven) and 7.4 (overflow).
    """

    zero_up_to: float  # largest |x| that becomes zero: half the smallest subnormal (its tie goes to even, zero)
    lost_from: float  # smallest float64 |x| that becomes infinite or, where there is none, NaN


@functools.cache
def cast_limits(name: str) -> CastLimits:
    """Derive the limits of a format from its patterns."""
    row = FORMATS[name]
    values = row.decode(np.arange(1 << (row.bits - 1), dtype=row.carrier))
    finite = values[np.isfinite(values)]
    largest, spacing = finite[-1], finite[-1] - finite[-2]
    halfway = float(largest + spacing / 2)
    # The tie goes to the even mantissa: beyond the format if the largest pattern is odd, else back into it.
    largest_is_odd = (len(finite) - 1) % 2 == 1
    lost_from = halfway if largest_is_odd else float(np.nextafter(halfway, np.inf))
    return CastLimits(float(finite[1]) / 2, lost_from)


CAST_FORMATS = ("float16", "float8_e4m3fn", "float8_e5m2")
"""The formats for which every histogram keeps what a cast would lose, in the order of `Histogram.cast_losses`."""
