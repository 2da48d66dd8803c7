"""Number formats bit by bit: what each code means, and which code a number becomes.

Two descriptions are held together by the tests: the fields of `FloatFormat` define every code from sign, exponent and
mantissa (`FloatFormat.value_of`, plain Python), and `encode`/`decode` do arrays through numpy and ml_dtypes.
Rounding is to nearest, ties to even, everywhere here. What is beyond the largest finite number becomes infinity, or NaN
where the format has no infinity (E4M3), or the largest number with `saturate=True`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Any

import ml_dtypes
import numpy as np

from mtia.errors import UnsupportedDtype


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFormat:
    """A binary floating-point format: 1 sign bit, `exponent_bits`, `mantissa_bits`, most significant first.

    `has_infinity`: the top exponent holds infinity and NaN as in IEEE 754; else only the all-ones code is NaN and the
    rest of the top exponent are numbers (OCP E4M3); without `has_nan` every code is a finite number (OCP FP6 and FP4).
    `storage_bits` is what one element takes in an array (TF32 lives in 32; FP6 and FP4 in 8 until they are packed).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    storage_bits: int
    has_infinity: bool = True
    has_nan: bool = True

    @property
    def n_bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        top = (1 << self.exponent_bits) - (2 if self.has_infinity else 1)
        mantissa = (1 << self.mantissa_bits) - (1 if self.has_infinity or not self.has_nan else 2)
        return self._normal(top, mantissa)

    @property
    def largest_exponent(self) -> int:
        """The exponent of the largest finite number: 8 for E4M3 (448 = 1.75 x 2**8)."""
        return (1 << self.exponent_bits) - (2 if self.has_infinity else 1) - self.bias

    @property
    def least_exponent(self) -> int:
        """The exponent of the smallest normal number."""
        return 1 - self.bias

    @property
    def smallest_normal(self) -> float:
        return self._normal(1, 0)

    @property
    def smallest_subnormal(self) -> float:
        return 2.0 ** (1 - self.bias - self.mantissa_bits)

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next number."""
        return 2.0**-self.mantissa_bits

    def fields(self, code: int) -> tuple[int, int, int]:
        """(sign, exponent, mantissa) of a code."""
        mantissa = code & ((1 << self.mantissa_bits) - 1)
        exponent = (code >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1)
        return code >> (self.n_bits - 1) & 1, exponent, mantissa

    def value_of(self, code: int) -> float:
        """The number that a code means: the definition, one code at a time."""
        sign, exponent, mantissa = self.fields(code)
        return -self._magnitude(exponent, mantissa) if sign else self._magnitude(exponent, mantissa)

    def _magnitude(self, exponent: int, mantissa: int) -> float:
        top = (1 << self.exponent_bits) - 1
        if exponent == top and self.has_infinity:
            return nan if mantissa else inf
        if self.has_nan and exponent == top and mantissa == (1 << self.mantissa_bits) - 1:
            return nan
        return self._normal(exponent, mantissa) if exponent else mantissa * self.smallest_subnormal

    def _normal(self, exponent: int, mantissa: int) -> float:
        return (1 + mantissa * 2.0**-self.mantissa_bits) * 2.0 ** (exponent - self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerFormat:
    """Two's complement. Encoding rounds to nearest, ties to even, and saturates."""

    name: str
    storage_bits: int

    @property
    def n_bits(self) -> int:
        return self.storage_bits

    @property
    def least(self) -> int:
        return -(1 << (self.n_bits - 1))

    @property
    def largest(self) -> int:
        return (1 << (self.n_bits - 1)) - 1

    def value_of(self, code: int) -> float:
        return float(code - (1 << self.n_bits) if code >> (self.n_bits - 1) else code)


FP32 = FloatFormat(name="fp32", exponent_bits=8, mantissa_bits=23, storage_bits=32)
TF32 = FloatFormat(name="tf32", exponent_bits=8, mantissa_bits=10, storage_bits=32)
BF16 = FloatFormat(name="bf16", exponent_bits=8, mantissa_bits=7, storage_bits=16)
FP16 = FloatFormat(name="fp16", exponent_bits=5, mantissa_bits=10, storage_bits=16)
FP8_E4M3 = FloatFormat(name="fp8e4m3", exponent_bits=4, mantissa_bits=3, storage_bits=8, has_infinity=False)
FP8_E5M2 = FloatFormat(name="fp8e5m2", exponent_bits=5, mantissa_bits=2, storage_bits=8)
FP6_E2M3 = FloatFormat(
    name="fp6e2m3", exponent_bits=2, mantissa_bits=3, storage_bits=8, has_infinity=False, has_nan=False
)
FP6_E3M2 = FloatFormat(
    name="fp6e3m2", exponent_bits=3, mantissa_bits=2, storage_bits=8, has_infinity=False, has_nan=False
)
FP4_E2M1 = FloatFormat(
    name="fp4e2m1", exponent_bits=2, mantissa_bits=1, storage_bits=8, has_infinity=False, has_nan=False
)
INT8 = IntegerFormat(name="int8", storage_bits=8)
FORMATS: dict[str, FloatFormat | IntegerFormat] = {
    f.name: f for f in (FP32, TF32, BF16, FP16, FP8_E4M3, FP8_E5M2, FP6_E2M3, FP6_E3M2, FP4_E2M1, INT8)
}
_ARRAY_TYPE: dict[str, Any] = {
    "fp32": np.float32, "bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp8e4m3": ml_dtypes.float8_e4m3fn,
    "fp8e5m2": ml_dtypes.float8_e5m2, "fp6e2m3": ml_dtypes.float6_e2m3fn, "fp6e3m2": ml_dtypes.float6_e3m2fn,
    "fp4e2m1": ml_dtypes.float4_e2m1fn, "int8": np.int8,
}  # fmt: skip
_CODE_TYPE: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32}


def format_named(name: str) -> FloatFormat | IntegerFormat:
    """The format called `name`. Raises UnsupportedDtype naming the known ones."""
    if name not in FORMATS:
        raise UnsupportedDtype("number format", chip="openMTIA", dtype=name, supported=list(FORMATS))
    return FORMATS[name]


def encode(x: np.ndarray, fmt: FloatFormat | IntegerFormat, *, saturate: bool = False) -> np.ndarray:
    """Codes of `x` (float32 or float64, any shape), as unsigned integers of the format's storage size.

    Rounds once (TF32 takes float64 by way of float32), to nearest, ties to even. With `saturate`, finite numbers beyond
    the largest become the largest; an infinity stays one where the format has it, and becomes the largest where it has
    none. Integers always saturate, and have no code for NaN (0 is stored). FP6 and FP4 have neither infinity nor NaN:
    they always saturate, and NaN becomes the largest number of its sign, so a block keeps its NaN in the scale
    (`blocks.py`).
    """
    code_type = _CODE_TYPE[fmt.storage_bits]
    if isinstance(fmt, IntegerFormat):
        whole = np.clip(np.rint(np.nan_to_num(x, nan=0.0)), fmt.least, fmt.largest)
        return whole.astype(_ARRAY_TYPE[fmt.name]).view(code_type)
    held = _saturated(x, fmt) if saturate or not fmt.has_nan else x
    with np.errstate(over="ignore", invalid="ignore"):  # overflow to infinity and NaN to NaN are meant
        if fmt is TF32:
            return _encode_tf32(held)
        return held.astype(_ARRAY_TYPE[fmt.name]).view(code_type)


def decode(codes: np.ndarray, fmt: FloatFormat | IntegerFormat) -> np.ndarray:
    """float32 numbers that `codes` mean (exact: every format here is within float32)."""
    stored = np.ascontiguousarray(codes, dtype=_CODE_TYPE[fmt.storage_bits])
    if fmt is TF32:
        return (stored << np.uint32(FP32.mantissa_bits - TF32.mantissa_bits)).view(np.float32)
    return stored.view(_ARRAY_TYPE[fmt.name]).astype(np.float32)


def round_to(x: np.ndarray, fmt: FloatFormat | IntegerFormat, *, saturate: bool = False) -> np.ndarray:
    """`x` as the nearest numbers of the format, in float32."""
    return decode(encode(x, fmt, saturate=saturate), fmt)


def _saturated(x: np.ndarray, fmt: FloatFormat) -> np.ndarray:
    held = np.clip(x, -fmt.largest, fmt.largest)
    if not fmt.has_nan:
        return np.where(np.isnan(x), np.copysign(fmt.largest, x), held).astype(x.dtype)
    return np.where(np.isinf(x), x, held).astype(x.dtype) if fmt.has_infinity else held


def _encode_tf32(x: np.ndarray) -> np.ndarray:
    """float32 bits rounded to 10 mantissa bits, shifted down to the 19 bits that mean something."""
    dropped = np.uint32(FP32.mantissa_bits - TF32.mantissa_bits)
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    tie_to_even = (bits >> dropped & np.uint32(1)) + np.uint32((1 << (int(dropped) - 1)) - 1)
    rounded = bits + np.where(np.isnan(x), np.uint32(0), tie_to_even)
    quiet = np.where(np.isnan(x), np.uint32(1 << 22), np.uint32(0))
    return (rounded | quiet) >> dropped


__all__ = [
    "BF16", "FORMATS", "FP4_E2M1", "FP6_E2M3", "FP6_E3M2", "FP8_E4M3", "FP8_E5M2", "FP16", "FP32", "INT8", "TF32",
    "FloatFormat", "IntegerFormat", "decode", "encode", "format_named", "round_to",
]  # fmt: skip
