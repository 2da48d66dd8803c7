"""Tensors to block formats with power-of-two scales (MX4, MX8, MX8S, OCP MX), and back, as numerics/blocks.py has them.

x is [m, k], contiguous; a scale is shared by ROWS rows (1, or 16 for MX8S) by BLOCK elements of a row. A scale is an
E8M0 byte found in the bits of the block's largest magnitude; elements are divided by it exactly and rounded to nearest
even. NaN or infinity makes the block's scale NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mtia.errors import BadProblem
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.numerics.blocks import BlockFormat, ScaleKind
from mtia.numerics.formats import FP4_E2M1, FP8_E4M3, FP8_E5M2
from mtia.numerics.rounding import Rounding

ELEMENTS = 4096  # of a program's tile
SQUARE = 64
_ROUND = tl.constexpr(12582912.0)  # 1.5 x 2**23: added and taken away, leaves the nearest whole number, ties to even


@triton.jit
def _scale_code(largest, LARGEST_EXPONENT: tl.constexpr, LARGEST: tl.constexpr, MANTISSA: tl.constexpr,
                RULE: tl.constexpr):  # fmt: skip
    """E8M0 codes (int32) of float32 largest magnitudes; 255 where they are not finite."""
    bits = largest.to(tl.int32, bitcast=True)
    if RULE == "even":
        bits += 1 << (22 - MANTISSA)
    code = (bits >> 23) - LARGEST_EXPONENT
    if RULE == "ceil":
        code += ((bits & 0x7FFFFF) != 0).to(tl.int32)
    code = tl.maximum(code, 0)
    if RULE == "fit":  # one more where the largest would saturate
        code += (largest > LARGEST * _power(code)).to(tl.int32)
    return tl.where((largest.to(tl.int32, bitcast=True) >> 23) == 255, 255, tl.minimum(code, 254))


@triton.jit
def _power(code):
    """2**(code - 127) in float32; code 0 is subnormal."""
    return tl.where(code == 0, 0x400000, code << 23).to(tl.float32, bitcast=True)


@triton.jit
def _e2m1(x):
    """Codes of numbers in units of the scale: half steps below 2, whole ones below 4, twos above, 6 at most."""
    size = tl.abs(x)
    fine = (size * 2.0 + _ROUND) - _ROUND
    middle = (size + _ROUND) - _ROUND + 2.0
    coarse = (size * 0.5 + _ROUND) - _ROUND + 4.0
    code = tl.minimum(tl.where(size < 2.0, fine, tl.where(size < 4.0, middle, coarse)), 7.0).to(tl.int32)
    return (code | ((x.to(tl.int32, bitcast=True) >> 28) & 8)).to(tl.uint8)


@triton.jit(do_not_specialize=["m", "k"])
def mtia_quantise_mx(
    x_ptr, q_ptr, scale_ptr, m, k, ROWS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, BANDS: tl.constexpr,
    LARGEST_EXPONENT: tl.constexpr, LARGEST: tl.constexpr, MANTISSA: tl.constexpr, RULE: tl.constexpr,
    PACKED: tl.constexpr,
):  # fmt: skip
    """BANDS * ROWS rows by TILES blocks a program, grid (rows, columns). PACKED: e2m1 pairs, the first in the low half;
    else the element type of q. Scales of a row lie one after the other (ROWS > 1), or those of a block's depth do."""
    band = tl.program_id(0) * BANDS + tl.arange(0, BANDS)
    block = tl.program_id(1) * TILES + tl.arange(0, TILES)
    row = (tl.program_id(0) * BANDS * ROWS + tl.arange(0, BANDS * ROWS)).to(tl.int64)
    column = tl.program_id(1) * TILES * BLOCK + tl.arange(0, TILES * BLOCK)
    inside = (row < m)[:, None] & (column < k)[None, :]
    x = tl.load(x_ptr + row[:, None] * k + column[None, :], mask=inside, other=0.0).to(tl.float32)
    by_block = tl.reshape(x, (BANDS * ROWS, TILES, BLOCK))
    largest = tl.max(tl.abs(by_block).to(tl.int32, bitcast=True), axis=2)  # as integers NaN is above infinity
    if ROWS > 1:
        largest = tl.max(tl.reshape(largest, (BANDS, ROWS, TILES)), axis=1)
    code = _scale_code(largest.to(tl.float32, bitcast=True), LARGEST_EXPONENT, LARGEST, MANTISSA, RULE)
    scales = k // BLOCK
    kept = (band < tl.cdiv(m, ROWS))[:, None] & (block < scales)[None, :]
    scale_at = scale_ptr + (band.to(tl.int64)[:, None] * scales + block[None, :] if ROWS > 1 else
                            band[:, None] + block.to(tl.int64)[None, :] * m)  # fmt: skip
    tl.store(scale_at, code.to(tl.uint8), mask=kept)
    inverse = _power(tl.maximum(254 - code, 0))
    if ROWS > 1:
        inverse = tl.reshape(tl.broadcast_to(inverse[:, None, :], (BANDS, ROWS, TILES)), (BANDS * ROWS, TILES))
    scaled = tl.reshape(by_block * inverse[:, :, None], (BANDS * ROWS, TILES * BLOCK))
    if PACKED:
        low, high = tl.split(tl.reshape(_e2m1(scaled), (BANDS * ROWS, TILES * BLOCK // 2, 2)))
        pair = tl.program_id(1) * (TILES * BLOCK // 2) + tl.arange(0, TILES * BLOCK // 2)
        held = (row < m)[:, None] & (pair < k // 2)[None, :]
        tl.store(q_ptr + row[:, None] * (k // 2) + pair[None, :], low | (high << 4), mask=held)
    else:
        tl.store(q_ptr + row[:, None] * k + column[None, :], scaled.to(q_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["m", "k"])
def mtia_dequantise_mx(
    q_ptr, scale_ptr, out_ptr, m, k, ROWS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, BANDS: tl.constexpr
):
    """out[m, k] = element x scale for float8 elements; the grid and scales of `mtia_quantise_mx`."""
    row = (tl.program_id(0) * BANDS * ROWS + tl.arange(0, BANDS * ROWS)).to(tl.int64)
    block = tl.program_id(1) * TILES + tl.arange(0, TILES)
    column = tl.program_id(1) * TILES * BLOCK + tl.arange(0, TILES * BLOCK)
    inside = (row < m)[:, None] & (column < k)[None, :]
    q = tl.load(q_ptr + row[:, None] * k + column[None, :], mask=inside, other=0.0).to(tl.float32)
    kept = (row < m)[:, None] & (block < k // BLOCK)[None, :]
    scale_at = scale_ptr + ((row // ROWS)[:, None] * (k // BLOCK) + block[None, :] if ROWS > 1 else
                            row[:, None] + block.to(tl.int64)[None, :] * m)  # fmt: skip
    code = tl.load(scale_at, mask=kept, other=0).to(tl.int32)
    scale = tl.where(code == 255, float("nan"), _power(code))
    wide = tl.reshape(q, (BANDS * ROWS, TILES, BLOCK)) * scale[:, :, None]
    at = out_ptr + row[:, None] * k + column[None, :]
    tl.store(at, tl.reshape(wide, (BANDS * ROWS, TILES * BLOCK)).to(out_ptr.dtype.element_ty), mask=inside)


_ELEMENT_DTYPE = {FP8_E4M3: torch.float8_e4m3fn, FP8_E5M2: torch.float8_e5m2, FP4_E2M1: torch.uint8}


def _tiles(m: int, k: int, fmt: BlockFormat) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and tile constants: about ELEMENTS elements a program, whole blocks; as many rows as columns where there
    are, since the scales of neighbouring rows lie together."""
    columns = max(SQUARE // fmt.cols, ELEMENTS // (fmt.cols * next_power_of_2(m)))
    tiles = max(1, min(columns, ELEMENTS // (fmt.rows * fmt.cols), next_power_of_2(k // fmt.cols)))
    bands = max(1, ELEMENTS // (fmt.rows * tiles * fmt.cols))
    grid = (ceil_div(m, bands * fmt.rows), ceil_div(k // fmt.cols, tiles))
    return grid, dict(ROWS=fmt.rows, BLOCK=fmt.cols, TILES=tiles, BANDS=bands)


def quantise_mx(x: torch.Tensor, fmt: BlockFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and E8M0 scales (uint8 [ceil(m / rows), k / block]) of a contiguous float [m, k].

    Codes: float8 [m, k], or uint8 [m, k / 2] for 4-bit elements. Scales of one row a block lie turned, those of one
    depth next to each other (`scaled_matmul.is_turned`). A last band of fewer than 16 rows is as if padded with
    zeros. Raises BadProblem for a depth that is no multiple of the block, or a format without a kernel.
    """
    m, k = x.shape
    check_on_device(fmt)
    if k % fmt.cols:
        raise BadProblem(f"{fmt.name} blocks", argument="depth", value=k, allowed=f"a multiple of {fmt.cols}; pad it")
    packed = fmt.element is FP4_E2M1
    q = torch.empty((m, k // 2 if packed else k), dtype=_ELEMENT_DTYPE[fmt.element], device=x.device)  # type: ignore[index]
    shape = (ceil_div(m, fmt.rows), k // fmt.cols)
    scale = torch.empty(shape if fmt.rows > 1 else shape[::-1], dtype=torch.uint8, device=x.device)
    grid, tiles = _tiles(m, k, fmt)
    mtia_quantise_mx[grid](
        x, q, scale, m, k, LARGEST_EXPONENT=fmt.largest_exponent, LARGEST=fmt.largest, MANTISSA=fmt.mantissa_bits,
        RULE=fmt.rule.value, PACKED=packed, **tiles,
    )  # fmt: skip
    return q, scale if fmt.rows > 1 else scale.t()


def check_on_device(fmt: BlockFormat) -> None:
    """Raises BadProblem for a block format that the device has no kernel for, naming what works."""
    if (
        fmt.element not in _ELEMENT_DTYPE
        or fmt.scale is not ScaleKind.E8M0
        or fmt.rounding is not Rounding.NEAREST_EVEN
    ):
        raise BadProblem(
            "quantising on the device", argument="format", value=fmt.name,
            allowed="E2M1, E4M3 or E5M2 elements under E8M0 scales, rounded to nearest even; mtia.numerics.blocks has "
            "the others on the host",
        )  # fmt: skip


def dequantise_mx(q: torch.Tensor, scale: torch.Tensor, fmt: BlockFormat, dtype: torch.dtype) -> torch.Tensor:
    """float8 codes [m, k] and their scales as numbers of `dtype`."""
    m, k = q.shape
    held = scale if fmt.rows > 1 else scale.t().contiguous()
    out = torch.empty((m, k), dtype=dtype, device=q.device)
    grid, tiles = _tiles(m, k, fmt)
    mtia_dequantise_mx[grid](q, held, out, m, k, **tiles)
    return out


__all__ = ["check_on_device", "dequantise_mx", "mtia_dequantise_mx", "mtia_quantise_mx", "quantise_mx"]
