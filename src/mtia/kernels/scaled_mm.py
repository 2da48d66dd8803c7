"""PyTorch's scaled products (`torch._scaled_mm`, `F.scaled_mm`, `F.scaled_grouped_mm`) on the device.

x [M, K] by y [K, N], y's depth contiguous as torch asks of every back end. Scales: one for a tensor, one a row
(float32), one for 1 x 128 or 128 x 128 (float32), or one for 1 x 16 or 1 x 32 of depth (E8M0, or E4M3 under a tensor's
float32). Block scales are plain [rows, K / block]; CUDA's swizzled order is refused with what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import ScalingType, SwizzleType

from mtia.errors import BadProblem
from mtia.kernels.iteration import ceil_div
from mtia.kernels.library_matmul import mtia_matmul_promoted
from mtia.kernels.registry import aten
from mtia.kernels.scaled_matmul import is_turned, multiply_blocks, multiply_rows

_WIDE_BLOCK = 128
_BLOCK_SCALES = (torch.float8_e8m0fnu, torch.uint8)
_PACKED = torch.float4_e2m1fn_x2


@dataclass(frozen=True, slots=True)
class Scaled:
    """One operand [rows, K] (depth contiguous), its scale, and a factor of the whole tensor where it has one."""

    x: torch.Tensor
    scale: torch.Tensor
    block: int  # of depth; 0: one scale a row or for all
    factor: torch.Tensor | None = None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[rows, K] contiguous; packed pairs as bytes."""
    held = x.view(torch.uint8) if x.dtype == _PACKED else x
    return held if held.is_contiguous() else held.contiguous()


def _depth(x: torch.Tensor) -> int:
    return x.shape[1] * (2 if x.dtype in (_PACKED, torch.uint8) else 1)


def _refuse(argument: str, value: object, allowed: str) -> BadProblem:
    return BadProblem("scaled_mm on mtia", argument=argument, value=value, allowed=allowed)


def _operand(x: torch.Tensor, scale: torch.Tensor, name: str, factor: torch.Tensor | None = None) -> Scaled:
    """The scale's shape and type say what it is of. `x` is [rows, K]."""
    rows, depth = x.shape[0], _depth(x)
    if scale.dtype == torch.float32 and scale.numel() in (1, rows) and not _is_wide(scale, depth):
        return Scaled(_rows(x), scale.reshape(-1).contiguous(), 0, factor)
    if scale.dim() != 2:
        raise _refuse(
            f"{name}.shape", tuple(scale.shape),
            f"one value, one for each of {rows} rows, or [rows, {depth} / block]; a swizzled scale of one dim must be "
            "given plain (SwizzleType.NO_SWIZZLE)",
        )  # fmt: skip
    if scale.dtype == torch.float32:
        return Scaled(_rows(x), scale, _WIDE_BLOCK, factor)
    if scale.shape[0] not in (rows, ceil_div(rows, 16)) or depth % scale.shape[1]:
        raise _refuse(f"{name}.shape", tuple(scale.shape), f"[{rows} or {ceil_div(rows, 16)}, {depth} / block]")
    held = scale.view(torch.uint8) if scale.dtype in _BLOCK_SCALES else scale
    return Scaled(_rows(x), held if is_turned(held) else held.contiguous(), depth // scale.shape[1], factor)


def _is_wide(scale: torch.Tensor, depth: int) -> bool:
    return scale.dim() == 2 and scale.shape[1] > 1 and scale.shape[1] == ceil_div(depth, _WIDE_BLOCK)


def _product(x: Scaled, w: Scaled, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    if x.block != w.block:
        raise _refuse("scales", (x.block, w.block), "both operands with the same block of depth (0: rows or tensors)")
    factors = [s.factor for s in (x, w) if s.factor is not None]
    into = torch.empty(out.shape, dtype=torch.float32, device=out.device) if factors else out
    held_bias = None if bias is None or factors else bias.contiguous()
    if x.block == 0:
        multiply_rows(x.x, w.x, x.scale, w.scale, held_bias, into)
    elif x.block == _WIDE_BLOCK and x.scale.dtype == torch.float32:
        _multiply_wide(x, w, into)
    else:
        multiply_blocks(x.x, w.x, x.scale, w.scale, held_bias, into, block=x.block)
    for factor in factors:
        into.mul_(factor)
    if bias is not None and (factors or x.block == _WIDE_BLOCK):
        into.add_(bias)
    return out.copy_(into) if into is not out else out


def _multiply_wide(x: Scaled, w: Scaled, out: torch.Tensor) -> None:
    """float32 scales for 1 x 128 of x and 128 x 128 of w: each 128 of depth is multiplied by itself and scaled on the
    vector cores (no MTIA's engine takes such scales)."""
    (M, K), N = x.x.shape, w.x.shape[0]
    if K % _WIDE_BLOCK or N % _WIDE_BLOCK or tuple(w.scale.shape) != (N // _WIDE_BLOCK, K // _WIDE_BLOCK):
        raise _refuse("scale_b.shape", tuple(w.scale.shape), "128 x 128 blocks [N / 128, K / 128] that divide N and K")
    import triton.language as tl

    grid = (ceil_div(M, 64) * (N // _WIDE_BLOCK), 1)
    mtia_matmul_promoted[grid](
        x.x, w.x, x.scale.t().contiguous(), w.scale.contiguous(), out, M, N, K, K, 1,
        BM=64, BN=_WIDE_BLOCK, BK=_WIDE_BLOCK, EVEN_K=True, INDEX=tl.int32,
    )  # fmt: skip


def _finish(out: torch.Tensor, scale_result: torch.Tensor | None) -> torch.Tensor:
    return out if scale_result is None else out.mul_(scale_result)


@aten("_scaled_mm.out")
def scaled_mm_out(
    x: torch.Tensor,
    y: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale_result: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """`use_fast_accum` changes nothing: sums are float32 either way."""
    w = y.t()
    if scale_b.dtype == torch.float32 and scale_b.dim() == 2 and min(scale_b.shape) > 1:
        scale_b = scale_b.t()  # [K / 128, N / 128], as torch has it
    return _finish(_product(_operand(x, scale_a, "scale_a"), _operand(w, scale_b, "scale_b"), bias, out), scale_result)


@aten("_scaled_mm")
def scaled_mm(
    x: torch.Tensor,
    y: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale_result: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
) -> torch.Tensor:
    out = torch.empty((x.shape[0], y.shape[1]), dtype=out_dtype or x.dtype, device=x.device)
    return scaled_mm_out(x, y, scale_a, scale_b, bias, scale_result, out_dtype, use_fast_accum, out=out)


# --- the second form: recipes named -----------------------------------------------------------------------------------

_RECIPES = {int(r.value): r for r in ScalingType.__members__.values()}
_BLOCK_OF = {ScalingType.BlockWise1x16: 16, ScalingType.BlockWise1x32: 32}


def _by_recipe(
    x: torch.Tensor, scales: Sequence[torch.Tensor], recipes: Sequence[int], swizzles: Sequence[int], name: str
) -> Scaled:
    if any(s != SwizzleType.NO_SWIZZLE.value for s in swizzles):
        raise _refuse(f"swizzle of {name}", list(swizzles), "NO_SWIZZLE: scales lie plain, [rows, K / block]")
    recipe = _RECIPES[recipes[0]]
    factor = scales[1] if len(scales) > 1 and recipes[1] == ScalingType.TensorWise.value else None
    scale = scales[0]
    if recipe in _BLOCK_OF:
        scale = scale.reshape(-1, _depth(x) // _BLOCK_OF[recipe])
    return _operand(x, scale, name, factor)


@aten("_scaled_mm_v2.out")
def scaled_mm_v2_out(
    x: torch.Tensor, y: torch.Tensor, scale_a: Sequence[torch.Tensor], recipe_a: Sequence[int],
    swizzle_a: Sequence[int], scale_b: Sequence[torch.Tensor], recipe_b: Sequence[int], swizzle_b: Sequence[int],
    bias: torch.Tensor | None, out_dtype: torch.dtype | None, contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False, *, out: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    left = _by_recipe(x, scale_a, recipe_a, swizzle_a, "scale_a")
    return _product(left, _by_recipe(y.t(), scale_b, recipe_b, swizzle_b, "scale_b"), bias, out)


@aten("_scaled_mm_v2")
def scaled_mm_v2(
    x: torch.Tensor, y: torch.Tensor, scale_a: Sequence[torch.Tensor], recipe_a: Sequence[int],
    swizzle_a: Sequence[int], scale_b: Sequence[torch.Tensor], recipe_b: Sequence[int], swizzle_b: Sequence[int],
    bias: torch.Tensor | None, out_dtype: torch.dtype | None, contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False,
) -> torch.Tensor:  # fmt: skip
    out = torch.empty((x.shape[0], y.shape[1]), dtype=out_dtype or torch.bfloat16, device=x.device)
    return scaled_mm_v2_out(x, y, scale_a, recipe_a, swizzle_a, scale_b, recipe_b, swizzle_b, bias, out_dtype,
                            contraction_dim, use_fast_accum, out=out)  # fmt: skip


# --- groups -----------------------------------------------------------------------------------------------------------


@aten("_scaled_grouped_mm")
def scaled_grouped_mm(
    x: torch.Tensor,
    y: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    scale_result: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
) -> torch.Tensor:
    """Groups of x's rows [total, K] by matrices y [G, K, N], one scale a row of each; or a batch, 3-D by 3-D."""
    if y.dim() != 3:
        raise _refuse("mat2.dim()", y.dim(), "3: a matrix [K, N] for each group")
    kind = out_dtype or torch.bfloat16
    if x.dim() == 3:
        out = torch.empty((x.shape[0], x.shape[1], y.shape[2]), dtype=kind, device=x.device)
        parts = [(x[g], scale_a[g], out[g], g) for g in range(x.shape[0])]
    else:
        if offs is None:
            raise _refuse("offs", None, "where each group of rows ends, int32 [groups]")
        out = torch.zeros((x.shape[0], y.shape[2]), dtype=kind, device=x.device)
        ends = offs.tolist()
        parts = [
            (x[a:b], scale_a[a:b], out[a:b], g) for g, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
        ]
    for rows, scale, into, g in parts:
        if rows.numel():
            _product(_operand(rows, scale, "scale_a"), _operand(y[g].t(), scale_b[g], "scale_b"), None, into)
    return out if bias is None else out + bias


@aten("_scaled_grouped_mm_v2")
def scaled_grouped_mm_v2(
    x: torch.Tensor, y: torch.Tensor, scale_a: Sequence[torch.Tensor], recipe_a: Sequence[int],
    swizzle_a: Sequence[int], scale_b: Sequence[torch.Tensor], recipe_b: Sequence[int], swizzle_b: Sequence[int],
    offs: torch.Tensor | None = None, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None,
    contraction_dim: Sequence[int] = (), use_fast_accum: bool = False,
) -> torch.Tensor:  # fmt: skip
    if any(s != SwizzleType.NO_SWIZZLE.value for s in (*swizzle_a, *swizzle_b)):
        raise _refuse("swizzle", [*swizzle_a, *swizzle_b], "NO_SWIZZLE: scales lie plain, [rows, K / block]")
    return scaled_grouped_mm(x, y, scale_a[0], scale_b[0], offs, bias, None, out_dtype, use_fast_accum)
