"""Tensors to block formats (MX4, MX8, MX8S, OCP MX, NVFP4), and back, as numerics/blocks.py has them, bit for bit.

x is [m, k], contiguous; a scale is shared by ROWS rows (1, or 16 for MX8S) by BLOCK elements of a row. A scale is an
E8M0 byte found in the bits of the block's largest magnitude, or (NVFP4) an E4M3 number under a float32 of the tensor.
Elements are divided by it and rounded to nearest even, or by chance where the SFU does that. NaN or infinity makes the
block's scale NaN and its elements zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from mtia.chips.multiply import refused_rounding
from mtia.errors import BadProblem
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.tiling import chip_or_none
from mtia.numerics.blocks import BlockFormat, ScaleKind
from mtia.numerics.formats import FP4_E2M1, FP8_E4M3, FP8_E5M2, IntegerFormat, encode
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


@triton.jit
def _random_bits(seed, at):
    """16 bits for each element, a function of the seed and of the element's place alone."""
    return tl.randint(seed, at.to(tl.int32)) & 0xFFFF


@triton.jit
def _rounded_steps(steps, drawn, is_negative, STOCHASTIC: tl.constexpr):
    """Whole steps of magnitudes in steps: to nearest even, or up where the rest of the number, with its sign, and
    `drawn` / 2**16 reach the next whole one."""
    whole = tl.floor(steps)
    rest = steps - whole
    if STOCHASTIC:
        chance = drawn.to(tl.float32) * (1.0 / 65536.0)
        up = tl.where(is_negative, rest > chance, rest >= 1.0 - chance)
    else:
        odd = (whole.to(tl.int32) & 1) != 0
        up = (rest > 0.5) | ((rest == 0.5) & odd)
    return whole.to(tl.int32) + up.to(tl.int32)


@triton.jit
def _small_float(x, drawn, MANTISSA: tl.constexpr, LEAST: tl.constexpr, TOP: tl.constexpr, SIGN: tl.constexpr,
                 STOCHASTIC: tl.constexpr):  # fmt: skip
    """Codes of a float of MANTISSA bits: LEAST the exponent of its least normal number, TOP its largest code, SIGN the
    place of its sign."""
    size = tl.abs(x)
    is_negative = x.to(tl.int32, bitcast=True) < 0
    exponent = tl.maximum((size.to(tl.int32, bitcast=True) >> 23) - 127, LEAST)
    a_step = ((127 + MANTISSA - exponent) << 23).to(tl.float32, bitcast=True)
    steps = _rounded_steps(size * a_step, drawn, is_negative, STOCHASTIC)
    code = tl.minimum(steps + ((exponent - LEAST) << MANTISSA), TOP)
    return (code | (is_negative.to(tl.int32) << SIGN)).to(tl.uint8)


@triton.jit
def _whole_number(x, drawn, STOCHASTIC: tl.constexpr):
    """int8 of x x 64 (MXINT8's step), -128 unused."""
    is_negative = x < 0
    steps = tl.minimum(_rounded_steps(tl.abs(x) * 64.0, drawn, is_negative, STOCHASTIC), 127)
    return tl.where(is_negative, -steps, steps).to(tl.int8)


@triton.jit(do_not_specialize=["m", "k", "seed"])
def mtia_quantise_mx(
    x_ptr, q_ptr, scale_ptr, tensor_ptr, m, k, seed,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, BANDS: tl.constexpr,
    LARGEST_EXPONENT: tl.constexpr, LARGEST: tl.constexpr, MANTISSA: tl.constexpr, RULE: tl.constexpr,
    KIND: tl.constexpr, LEAST: tl.constexpr, TOP: tl.constexpr, SIGN: tl.constexpr, WIDE_SCALE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """BANDS * ROWS rows by TILES blocks a program, grid (rows, columns). Scales of a row lie one after the other
    (ROWS > 1), or those of a block's depth do. WIDE_SCALE: E4M3 scales under the float32 at `tensor_ptr`.

    KIND: "pair" two e2m1 codes a byte, the first in the low half; "int" MXINT8; "code" a small float a byte; "convert"
    the element type of q, by the converter.
    """
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
    top = largest.to(tl.float32, bitcast=True)
    code = _scale_code(top, LARGEST_EXPONENT, LARGEST, MANTISSA, RULE)
    scales = k // BLOCK
    kept = (band < tl.cdiv(m, ROWS))[:, None] & (block < scales)[None, :]
    scale_at = scale_ptr + (band.to(tl.int64)[:, None] * scales + block[None, :] if ROWS > 1 else
                            band[:, None] + block.to(tl.int64)[None, :] * m)  # fmt: skip
    is_bad = code == 255
    if WIDE_SCALE:
        tensor = tl.load(tensor_ptr)
        scale = tl.div_rn(tl.div_rn(tl.where(is_bad, 0.0, top), LARGEST), tensor).to(tl.float8e4nv)
        held = tl.where(is_bad, 127, scale.to(tl.uint8, bitcast=True))
        tl.store(scale_at, held.to(tl.uint8), mask=kept)
        factor = scale.to(tl.float32) * tensor
        is_bad = is_bad | (factor == 0.0)
        by_block = tl.where(is_bad[:, :, None], 0.0, by_block)
        scaled = tl.div_rn(by_block, tl.broadcast_to(tl.where(is_bad, 1.0, factor)[:, :, None], by_block.shape))
    else:
        tl.store(scale_at, code.to(tl.uint8), mask=kept)
        inverse = tl.where(is_bad, 0.0, _power(tl.maximum(254 - code, 0)))
        if ROWS > 1:
            inverse = tl.reshape(tl.broadcast_to(inverse[:, None, :], (BANDS, ROWS, TILES)), (BANDS * ROWS, TILES))
        scaled = by_block * inverse[:, :, None]
        scaled = tl.where(inverse[:, :, None] == 0.0, 0.0, scaled)
    scaled = tl.reshape(scaled, (BANDS * ROWS, TILES * BLOCK))
    drawn = tl.zeros((BANDS * ROWS, TILES * BLOCK), dtype=tl.int32)
    if STOCHASTIC:
        drawn = _random_bits(seed, row[:, None] * k + column[None, :])
    if KIND == "pair":
        codes = _small_float(scaled, drawn, 1, 0, 7, 3, True) if STOCHASTIC else _e2m1(scaled)
        low, high = tl.split(tl.reshape(codes, (BANDS * ROWS, TILES * BLOCK // 2, 2)))
        pair = tl.program_id(1) * (TILES * BLOCK // 2) + tl.arange(0, TILES * BLOCK // 2)
        held = (row < m)[:, None] & (pair < k // 2)[None, :]
        tl.store(q_ptr + row[:, None] * (k // 2) + pair[None, :], low | (high << 4), mask=held)
    else:
        if KIND == "int":
            q = _whole_number(scaled, drawn, STOCHASTIC).to(tl.uint8, bitcast=True)
        elif KIND == "code":
            q = _small_float(scaled, drawn, MANTISSA, LEAST, TOP, SIGN, STOCHASTIC)
        else:
            q = scaled.to(q_ptr.dtype.element_ty)
        tl.store(q_ptr + row[:, None] * k + column[None, :], q, mask=inside)


@triton.jit(do_not_specialize=["seed", "n"])
def mtia_random_bits(out_ptr, seed, n, BLOCK: tl.constexpr):
    """What stochastic rounding draws for element i, as int32."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, _random_bits(seed, at), mask=at < n)


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


_ELEMENT_DTYPE = {FP8_E4M3: torch.float8_e4m3fn, FP8_E5M2: torch.float8_e5m2}


def _tiles(m: int, k: int, fmt: BlockFormat) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and tile constants: about ELEMENTS elements a program, whole blocks; as many rows as columns where there
    are, since the scales of neighbouring rows lie together."""
    columns = max(SQUARE // fmt.cols, ELEMENTS // (fmt.cols * next_power_of_2(m)))
    tiles = max(1, min(columns, ELEMENTS // (fmt.rows * fmt.cols), next_power_of_2(k // fmt.cols)))
    bands = max(1, ELEMENTS // (fmt.rows * tiles * fmt.cols))
    grid = (ceil_div(m, bands * fmt.rows), ceil_div(k // fmt.cols, tiles))
    return grid, dict(ROWS=fmt.rows, BLOCK=fmt.cols, TILES=tiles, BANDS=bands)


def _element(fmt: BlockFormat) -> dict[str, Any]:
    """How the kernel makes elements of the format."""
    element, stochastic = fmt.element, fmt.rounding is Rounding.STOCHASTIC
    if isinstance(element, IntegerFormat):
        return dict(KIND="int", LEAST=0, TOP=0, SIGN=0)
    kind = "pair" if element is FP4_E2M1 else "convert" if element in _ELEMENT_DTYPE and not stochastic else "code"
    top = int(encode(np.array([element.largest], dtype=np.float32), element)[0])
    return dict(KIND=kind, LEAST=element.least_exponent, TOP=top, SIGN=element.n_bits - 1)


def tensor_scale_of(x: torch.Tensor, fmt: BlockFormat) -> torch.Tensor:
    """float32 of one element: what E4M3 scales of `x` are under, the least with which the largest of them fits."""
    size = x.abs().float()
    top = torch.where(size < float("inf"), size, 0.0).amax()
    return torch.where(top == 0, 1.0, top / (fmt.largest * FP8_E4M3.largest)).reshape(1)


def quantise_mx(
    x: torch.Tensor, fmt: BlockFormat, *, seed: int = 0, tensor_scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales ([ceil(m / rows), k / block]) of a contiguous float [m, k].

    Codes: float8 [m, k]; uint8 [m, k / 2] for 4-bit elements, uint8 [m, k] for FP6 (a code a byte) and MXINT8. Scales:
    E8M0 uint8; float8 E4M3 for NVFP4, under `tensor_scale` (default `tensor_scale_of(x, fmt)`). Scales of one row a
    block lie turned, those of one depth next to each other (`scaled_matmul.is_turned`). A last band of fewer than 16
    rows is as if padded with zeros. `seed`: of stochastic rounding's 16 bits an element (Triton's Philox; the SFU's own
    generator is unpublished, and the time here is that of drawing them in software).
    Raises BadProblem for a depth that is no multiple of the block or another rounding, and UnsupportedDtype for
    stochastic rounding on a chip without it.
    """
    m, k = x.shape
    check_on_device(fmt)
    if k % fmt.cols:
        raise BadProblem(f"{fmt.name} blocks", argument="depth", value=k, allowed=f"a multiple of {fmt.cols}; pad it")
    element = _element(fmt)
    narrow = _ELEMENT_DTYPE.get(fmt.element, torch.uint8)  # type: ignore[call-overload]
    q = torch.empty((m, k // 2 if element["KIND"] == "pair" else k), dtype=narrow, device=x.device)
    shape = (ceil_div(m, fmt.rows), k // fmt.cols)
    scale = torch.empty(shape if fmt.rows > 1 else shape[::-1], dtype=torch.uint8, device=x.device)
    has_wide_scale = fmt.scale is ScaleKind.E4M3
    tensor = tensor_scale if tensor_scale is not None else tensor_scale_of(x, fmt) if has_wide_scale else scale
    grid, tiles = _tiles(m, k, fmt)
    mtia_quantise_mx[grid](
        x, q if narrow is torch.uint8 or element["KIND"] == "convert" else q.view(torch.uint8), scale, tensor, m, k,
        seed, LARGEST_EXPONENT=fmt.largest_exponent, LARGEST=fmt.largest, MANTISSA=fmt.mantissa_bits,
        RULE=fmt.rule.value, WIDE_SCALE=has_wide_scale, STOCHASTIC=fmt.rounding is Rounding.STOCHASTIC, **element,
        **tiles,
    )  # fmt: skip
    if has_wide_scale:
        scale = scale.view(torch.float8_e4m3fn)
    return q, scale if fmt.rows > 1 else scale.t()


def random_bits(n: int, seed: int, device: torch.device | str) -> torch.Tensor:
    """int32 [n]: what `quantise_mx` draws for the elements of a tensor of n, in memory order."""
    out = torch.empty(n, dtype=torch.int32, device=device)
    mtia_random_bits[(ceil_div(n, ELEMENTS),)](out, seed, n, BLOCK=ELEMENTS)
    return out


def check_on_device(fmt: BlockFormat) -> None:
    """Raises BadProblem for a rounding that the device has no kernel for, UnsupportedDtype for stochastic rounding on a
    chip whose SFU has none."""
    if fmt.rounding not in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC):
        raise BadProblem(
            "quantising on the device", argument="rounding", value=fmt.rounding.value,
            allowed="nearest-even, or stochastic where the SFU has it; on the host mtia.numerics.blocks has the others",
        )  # fmt: skip
    spec = chip_or_none()
    if fmt.rounding is Rounding.STOCHASTIC and spec is not None and not spec.pe.sfu.stochastic_rounding:
        raise refused_rounding(spec, what=f"quantising to {fmt.name}")


def dequantise_mx(q: torch.Tensor, scale: torch.Tensor, fmt: BlockFormat, dtype: torch.dtype) -> torch.Tensor:
    """float8 codes [m, k] and their scales as numbers of `dtype`."""
    m, k = q.shape
    held = scale if fmt.rows > 1 else scale.t().contiguous()
    out = torch.empty((m, k), dtype=dtype, device=q.device)
    grid, tiles = _tiles(m, k, fmt)
    mtia_dequantise_mx[grid](q, held, out, m, k, **tiles)
    return out


__all__ = ["check_on_device", "dequantise_mx", "mtia_dequantise_mx", "mtia_quantise_mx", "quantise_mx", "random_bits",
           "tensor_scale_of"]  # fmt: skip
