"""Block formats: elements of 4, 6 or 8 bits that share a scale, as MTIA 400 and later and the OCP standard have them.

    R rows, C columns (the depth of a product), b rows and columns of a block

A `BlockFormat` is data: element, block shape, scale.  MTIA 400's MX4, MX8 and MX8S share one exponent among 16 elements
(16 x 16 for MX8S; HC26), OCP's MX formats among 32; NVFP4 shares an E4M3 scale among 16 and has a second scale for the
tensor.  What HC26 leaves unsaid is an assumption with a name, listed in `ASSUMPTIONS` with the alternatives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import log2

import numpy as np

from mtia.errors import BadProblem, UnsupportedDtype
from mtia.numerics.formats import (
    FP4_E2M1,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E4M3,
    FP8_E5M2,
    FloatFormat,
    IntegerFormat,
    decode,
    encode,
)
from mtia.numerics.rounding import Rounding, round_numbers

E8M0_BIAS = 127
E8M0_NAN = 255
MXINT8_STEP = 2.0**-6
"""An MXINT8 element is a two's complement integer times 1/64 (OCP MX v1.0, 5.3.4)."""


class ScaleRule(StrEnum):
    """Which power of two a block's scale is, from its largest magnitude `a` and the element's largest number `m`.

    FLOOR    2**(floor(log2 a) - floor(log2 m)): OCP's own; the top of the block may saturate
    CEIL     as FLOOR with log2 a rounded up: nothing saturates, up to one bit is lost
    EVEN     as FLOOR after rounding `a` to the element's mantissa: saturates less
    FIT      2**ceil(log2(a / m)): the least power of two with which nothing saturates
    """

    FLOOR = "floor"
    CEIL = "ceil"
    EVEN = "even"
    FIT = "fit"


class ScaleKind(StrEnum):
    E8M0 = "e8m0"  # a power of two, 2**-127 to 2**127; code 255 is NaN
    E4M3 = "e4m3"  # an 8-bit number, under a float32 scale of the whole tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """Elements and the scale that `rows` x `cols` of them share; `cols` runs along the depth of a product."""

    name: str
    element: FloatFormat | IntegerFormat
    cols: int
    rows: int = 1
    scale: ScaleKind = ScaleKind.E8M0
    rule: ScaleRule = ScaleRule.FLOOR
    rounding: Rounding = Rounding.NEAREST_EVEN

    @property
    def bits_per_element(self) -> float:
        """Storage, scale included: 4.5 for MX4."""
        return self.element.n_bits + 8 / (self.rows * self.cols)

    @property
    def largest(self) -> float:
        """The largest element, scale apart."""
        return self.element.largest * self.step

    @property
    def step(self) -> float:
        """What an integer element counts; 1 for floats."""
        return MXINT8_STEP if isinstance(self.element, IntegerFormat) else 1.0

    @property
    def mantissa_bits(self) -> int:
        return 6 if isinstance(self.element, IntegerFormat) else self.element.mantissa_bits

    @property
    def largest_exponent(self) -> int:
        return int(np.floor(log2(self.largest)))

    def with_(self, **changes: object) -> BlockFormat:
        """This format with another rule, rounding, block or element: an alternative to an assumption."""
        return replace(self, **changes)  # type: ignore[arg-type]


_MXINT8 = IntegerFormat(name="mxint8", storage_bits=8)
MX4 = BlockFormat(name="mx4", element=FP4_E2M1, cols=16)
MX8 = BlockFormat(name="mx8", element=FP8_E4M3, cols=16)
MX8S = BlockFormat(name="mx8s", element=FP8_E4M3, cols=16, rows=16)
MXFP8_E4M3 = BlockFormat(name="mxfp8e4m3", element=FP8_E4M3, cols=32)
MXFP8_E5M2 = BlockFormat(name="mxfp8e5m2", element=FP8_E5M2, cols=32)
MXFP6_E2M3 = BlockFormat(name="mxfp6e2m3", element=FP6_E2M3, cols=32)
MXFP6_E3M2 = BlockFormat(name="mxfp6e3m2", element=FP6_E3M2, cols=32)
MXFP4 = BlockFormat(name="mxfp4", element=FP4_E2M1, cols=32)
MXINT8 = BlockFormat(name="mxint8", element=_MXINT8, cols=32)
NVFP4 = BlockFormat(name="nvfp4", element=FP4_E2M1, cols=16, scale=ScaleKind.E4M3)
BLOCK_FORMATS: dict[str, BlockFormat] = {
    f.name: f
    for f in (MX4, MX8, MX8S, MXFP8_E4M3, MXFP8_E5M2, MXFP6_E2M3, MXFP6_E3M2, MXFP4, MXINT8, NVFP4)
}  # fmt: skip

ASSUMPTIONS: dict[str, str] = {
    "mx-element-encoding": "MX4's element is OCP's E2M1, MX8's and MX8S's E4M3; HC26 says '4-bit float' and '8-bit "
    "float'. Alternatives: element=FP8_E5M2 (the 300 has both).",
    "mx-scale-encoding": "the shared exponent is one E8M0 byte, code 255 NaN, as OCP's; one byte a block is derived "
    "from the tile sizes of HC26 (512 B of scales for 64 x 128 B of MX8).",
    "mx-scale-choice": "the SFU chooses the scale by OCP's rule (ScaleRule.FLOOR). Alternatives: CEIL, EVEN, FIT.",
    "mx-element-rounding": "elements round to nearest even and saturate. Alternatives: every Rounding, STOCHASTIC "
    "where the SFU has it.",
    "mx8s-layout": "MX8S shares one exponent among a 16 x 16 square, so a transpose keeps codes and scales.",
}


def block_format(name: str) -> BlockFormat:
    """The block format called `name`. Raises UnsupportedDtype naming the known ones."""
    if name not in BLOCK_FORMATS:
        raise UnsupportedDtype("block format", chip="openMTIA", dtype=name, supported=list(BLOCK_FORMATS))
    return BLOCK_FORMATS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTensor:
    """Codes [R, C] uint8, one element a byte (`pack_pairs` halves 4-bit ones), scales [R / rows, C / cols] uint8.

    `tensor_scale`: float32 factor of the whole tensor, 1 but for E4M3 scales.
    """

    codes: np.ndarray
    scales: np.ndarray
    fmt: BlockFormat
    tensor_scale: float = 1.0

    @property
    def n_bytes(self) -> float:
        return self.codes.size * self.fmt.element.n_bits / 8 + self.scales.size


# --- scales -----------------------------------------------------------------------------------------------------------


def scale_exponents(largest: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """E8M0 codes for blocks whose largest magnitudes are `largest` (float32, NaN and infinity allowed).

    The exponent is clamped to what E8M0 holds; a block of zeros takes the least scale; NaN or infinity in a block makes
    its scale NaN (OCP leaves it to the implementation).
    """
    finite = np.isfinite(largest)
    safe = np.where(finite, largest, 1.0).astype(np.float64)
    exponent = np.clip(_chosen_exponent(safe, fmt), -E8M0_BIAS, E8M0_BIAS)
    exponent = np.where(safe == 0, -E8M0_BIAS, exponent)
    return np.where(finite, exponent + E8M0_BIAS, E8M0_NAN).astype(np.uint8)


def _chosen_exponent(largest: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    if fmt.rule is ScaleRule.FIT:
        return _ceil_log2(largest / fmt.largest)
    if fmt.rule is ScaleRule.CEIL:
        return _ceil_log2(largest) - fmt.largest_exponent
    if fmt.rule is ScaleRule.EVEN:  # half a unit of the element's mantissa carries into the exponent
        half_unit = np.ldexp(1.0, _floor_log2(largest) - fmt.mantissa_bits - 1)
        return _floor_log2(largest + half_unit) - fmt.largest_exponent
    return _floor_log2(largest) - fmt.largest_exponent


def _floor_log2(x: np.ndarray) -> np.ndarray:
    return np.frexp(x)[1] - 1


def _ceil_log2(x: np.ndarray) -> np.ndarray:
    fraction, exponent = np.frexp(x)
    return np.where(fraction == 0.5, exponent - 1, exponent)


def scale_values(scales: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """float64 factors that scale codes mean, NaN for a NaN code."""
    if fmt.scale is ScaleKind.E4M3:
        return decode(scales, FP8_E4M3).astype(np.float64)
    powers = np.ldexp(1.0, scales.astype(np.int64) - E8M0_BIAS)
    return np.where(scales == E8M0_NAN, np.nan, powers)


# --- quantise and back ------------------------------------------------------------------------------------------------


def quantise(
    x_RC: np.ndarray, fmt: BlockFormat, *, random: np.random.Generator | None = None, tensor_scale: float | None = None
) -> BlockTensor:
    """`x_RC` (float32 [R, C]) in blocks of `fmt`: a scale from each block's largest magnitude, elements rounded to it.

    `tensor_scale`: of E4M3 scales alone; by default the least with which the largest block scale fits E4M3.
    NaN or infinity anywhere in a block makes the block NaN.
    Raises BadProblem where the blocks do not divide the shape.  Source: OCP Microscaling Formats v1.0, section 6.3.
    """
    blocks = _as_blocks(x_RC, fmt)
    largest = np.abs(blocks).max(axis=(1, 3)) if blocks.size else np.zeros((blocks.shape[0], blocks.shape[2]))
    if fmt.scale is ScaleKind.E4M3:
        tensor = _tensor_scale(largest, fmt) if tensor_scale is None else tensor_scale
        finite = np.where(np.isfinite(largest), largest, np.nan)
        scales = encode((finite / fmt.largest / tensor).astype(np.float32), FP8_E4M3, saturate=True)
    else:
        tensor, scales = 1.0, scale_exponents(largest, fmt)
    factors = (scale_values(scales, fmt)[:, None, :, None] * tensor).astype(_arithmetic(fmt))
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(factors == 0, 0.0, blocks.astype(factors.dtype) / factors)
    codes = encode_elements(np.nan_to_num(scaled, nan=0.0), fmt, random=random)
    return BlockTensor(codes=codes.reshape(x_RC.shape), scales=scales, fmt=fmt, tensor_scale=tensor)


def _arithmetic(fmt: BlockFormat) -> type:
    """What elements are divided in: powers of two divide exactly, other scales in float32, as a kernel does."""
    return np.float32 if fmt.scale is ScaleKind.E4M3 else np.float64


def _as_blocks(x_RC: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    R, C = x_RC.shape
    if R % fmt.rows or C % fmt.cols:
        raise BadProblem(
            f"{fmt.name} blocks", argument="shape", value=(R, C),
            allowed=f"rows must be a multiple of {fmt.rows} and columns of {fmt.cols}; pad with zeros",
        )  # fmt: skip
    return x_RC.reshape(R // fmt.rows, fmt.rows, C // fmt.cols, fmt.cols)


def _tensor_scale(largest: np.ndarray, fmt: BlockFormat) -> float:
    finite = largest[np.isfinite(largest)]
    top = float(finite.max()) if finite.size else 0.0
    return float(np.float32(top / (fmt.largest * FP8_E4M3.largest))) if top else 1.0


def encode_elements(scaled: np.ndarray, fmt: BlockFormat, *, random: np.random.Generator | None = None) -> np.ndarray:
    """Element codes of numbers already divided by their scale."""
    steps = scaled / fmt.step
    rounded = round_numbers(steps, fmt.element, fmt.rounding, random=random)
    if isinstance(fmt.element, IntegerFormat):  # symmetric: -128 is left unused, as OCP allows
        return np.maximum(rounded, -fmt.element.largest).astype(np.int8).view(np.uint8)
    return encode(rounded.astype(np.float32), fmt.element, saturate=True)


def decode_elements(codes: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """float64 numbers that element codes mean, scale apart."""
    if isinstance(fmt.element, IntegerFormat):
        return codes.view(np.int8).astype(np.float64) * fmt.step
    return decode(codes, fmt.element).astype(np.float64)


def dequantise(blocks: BlockTensor) -> np.ndarray:
    """float32 [R, C]; NaN where the block's scale is NaN. Exact: every product fits float32 but at E8M0's very ends."""
    fmt = blocks.fmt
    factors = scale_values(blocks.scales, fmt) * blocks.tensor_scale
    wide = factors.repeat(fmt.rows, axis=0).repeat(fmt.cols, axis=1)
    with np.errstate(over="ignore"):  # 2**127 times 448 is beyond float32: infinity, as OCP leaves it
        return (decode_elements(blocks.codes, fmt) * wide).astype(np.float32)


def round_blocks(x_RC: np.ndarray, fmt: BlockFormat, *, random: np.random.Generator | None = None) -> np.ndarray:
    """`x_RC` as the block format holds it, float32."""
    return dequantise(quantise(x_RC, fmt, random=random))


# --- packing ----------------------------------------------------------------------------------------------------------


def pack_pairs(codes: np.ndarray) -> np.ndarray:
    """4-bit codes, two to a byte along the last dim, the first in the low half."""
    return (codes[..., 0::2] & 15) | (codes[..., 1::2] << 4).astype(np.uint8)


def unpack_pairs(packed: np.ndarray) -> np.ndarray:
    """One code a byte, as `pack_pairs` took them."""
    return np.stack((packed & 15, packed >> 4), axis=-1).reshape(*packed.shape[:-1], -1)


__all__ = [
    "ASSUMPTIONS", "BLOCK_FORMATS", "MX4", "MX8", "MX8S", "MXFP4", "MXFP6_E2M3", "MXFP6_E3M2", "MXFP8_E4M3",
    "MXFP8_E5M2", "MXINT8", "NVFP4", "BlockFormat", "BlockTensor", "ScaleKind", "ScaleRule", "block_format",
    "decode_elements", "dequantise", "encode_elements", "pack_pairs", "quantise", "round_blocks", "scale_exponents",
    "scale_values", "unpack_pairs",
]  # fmt: skip
