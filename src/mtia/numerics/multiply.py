"""The multiply-accumulate contract: what `tl.dot` and `tl.dot_scaled` compute, and how far from exact they may be.

One rule for every generation (docs/numerics.md says what is published of it):

- Operands are numbers of their format.  A block scale belongs to its elements: the number is element x scale.
- Products are exact: two significands of a format fit the accumulator's (`product_bits`).
- Sums run in float32, rounded to nearest even at each addition, or in int32, exact and wrapping.  The order inside one
  `tl.dot` is unpublished; `error_bound` holds for every order.  Successive `tl.dot`s add in program order.
- The result is converted once, by the kernel's own `.to(...)`, to nearest even.

The functional simulator (engine/functional/interpreter.py) implements it and the native executor repeats its bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtia.chips.multiply import MultiplyPath, multiply_path
from mtia.chips.spec import ChipSpec
from mtia.numerics.blocks import BLOCK_FORMATS
from mtia.numerics.formats import FORMATS, FP32, FloatFormat, IntegerFormat

UNIT_ROUNDOFF = FP32.epsilon / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplyContract:
    """What a chip's product of two operands of `fmt` computes. Blocks are in elements."""

    fmt: str
    path: MultiplyPath
    block_m: int
    block_n: int
    block_k: int
    product_bits: int  # significant bits of an exact product
    accumulator: str  # "fp32" or "int32"

    @property
    def is_exact(self) -> bool:
        """Sums too: integers, until int32 wraps at a depth of 2**31 / 127**2 = 133 k."""
        return self.accumulator == "int32"

    def __str__(self) -> str:
        where = "dot product engine" if self.path.on_engine else "vector cores"
        unpacked = f", unpacked on the cores to {self.path.rate}" if self.path.unpack_passes else ""
        return (
            f"{self.fmt} on {self.path.chip}: {where}{unpacked}, blocks {self.block_m} x {self.block_k} x "
            f"{self.block_n}, {self.path.mac_per_cycle:g} multiply-adds a cycle and PE, products exact in "
            f"{self.product_bits} bits, sums in {self.accumulator}"
        )


def contract_of(spec: ChipSpec, fmt: str) -> MultiplyContract:
    """The contract of a format (a name of `FORMATS` or `BLOCK_FORMATS`) on a chip. Raises UnsupportedDtype."""
    path, element = multiply_path(spec, fmt), _element(fmt)
    n_bytes = (16 if path.unpack_passes else element.n_bits) / 8
    return MultiplyContract(
        fmt=fmt,
        path=path,
        block_m=spec.pe.dpe.block_m,
        block_n=spec.pe.dpe.block_n,
        block_k=max(1, int(spec.pe.dpe.block_k_bytes / n_bytes)),
        product_bits=2 * _significant_bits(fmt),
        accumulator="int32" if fmt == "int8" else "fp32",
    )


def _element(fmt: str) -> FloatFormat | IntegerFormat:
    return BLOCK_FORMATS[fmt].element if fmt in BLOCK_FORMATS else FORMATS[fmt]


def _significant_bits(fmt: str) -> int:
    """Of element x scale: a power of two adds none, NVFP4's E4M3 scale adds its own."""
    element = _element(fmt)
    bits = element.n_bits - 1 if isinstance(element, IntegerFormat) else element.mantissa_bits + 1
    has_wide_scale = fmt in BLOCK_FORMATS and BLOCK_FORMATS[fmt].scale.value == "e4m3"
    return bits + 4 if has_wide_scale else bits


# --- the reference ----------------------------------------------------------------------------------------------------


def reference(a_MK: np.ndarray, b_KN: np.ndarray) -> np.ndarray:
    """a @ b in float64 [M, N]: the numbers that operands hold (scales applied), multiplied and added without rounding
    that matters beside float32's."""
    return a_MK.astype(np.float64) @ b_KN.astype(np.float64)


def error_bound(
    a_MK: np.ndarray, b_KN: np.ndarray, contract: MultiplyContract, *, out: FloatFormat | None = None
) -> np.ndarray:
    """float64 [M, N]: the most that a result may differ from `reference`, for every order of addition.

    g (|a| @ |b|) with g = K u / (1 - K u), u = 2**-24 (N. Higham, Accuracy and Stability of Numerical Algorithms, 3.1),
    K roundings to the smallest subnormal of float32, and half a step of `out` where the result is converted.
    An operand wider than 12 significant bits (float32) rounds its products too, one more u.
    """
    sizes = np.abs(a_MK.astype(np.float64)) @ np.abs(b_KN.astype(np.float64))
    roundings = a_MK.shape[1] + (1 if contract.product_bits > FP32.mantissa_bits + 1 else 0)
    growth = roundings * UNIT_ROUNDOFF / (1 - roundings * UNIT_ROUNDOFF)
    bound = np.zeros_like(sizes) if contract.is_exact else growth * sizes + roundings * FP32.smallest_subnormal
    if out is None:
        return bound
    largest = np.abs(reference(a_MK, b_KN)) + bound
    return bound + largest * out.epsilon / 2 + out.smallest_subnormal / 2


__all__ = ["UNIT_ROUNDOFF", "MultiplyContract", "contract_of", "error_bound", "reference"]
