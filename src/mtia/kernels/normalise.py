"""Softmax, layer normalisation and RMS normalisation, forward and backward: one program per few rows.

Rows up to `WHOLE` elements are held in local memory; longer ones are walked in blocks.
"""

# R rows, N elements of a row

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels.copy import cast, contiguous, copy_strided
from mtia.kernels.dtypes import accumulate_dtype, compute_dtype, triton_name
from mtia.kernels.functions import square_root
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.registry import aten

WHOLE = 8192
TILE = 2048
BLOCK = 2048
_R_N = ["R", "N"]


def _rows_of(n_rows: int, width: int) -> int:
    """Rows per program: about TILE elements, and enough programs for the grid."""
    return max(1, min(TILE // width, next_power_of_2(ceil_div(n_rows, 64))))


def _tl(dtype: torch.dtype) -> Any:
    return getattr(tl, triton_name(dtype).removeprefix("tl."))


# --- softmax ----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_R_N)
def mtia_softmax(x_ptr, out_ptr, R, N, ROWS: tl.constexpr, WIDTH: tl.constexpr, LOG: tl.constexpr, ACC: tl.constexpr):
    """Rows that fit: out = softmax(x) or its logarithm."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    mask = (row < R)[:, None] & (column < N)[None, :]
    at = (row * N)[:, None] + column[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(ACC)
    x = x - tl.max(x, 1)[:, None]
    e = tl.exp(x)
    total = tl.sum(e, 1)[:, None]
    if LOG:
        y = x - tl.log(total)
    else:
        y = e / total
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_R_N)
def mtia_softmax_long(x_ptr, out_ptr, R, N, WIDTH: tl.constexpr, LOG: tl.constexpr, ACC: tl.constexpr):
    """One long row a program: running maximum and sum, then a second pass."""
    start = tl.program_id(0).to(tl.int64) * N
    top = tl.full((1,), float("-inf"), ACC)
    total = tl.full((1,), 0, ACC)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=float("-inf")).to(ACC)
        new_top = tl.maximum(top, tl.max(x, 0))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), 0)
        top = new_top
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=float("-inf")).to(ACC)
        if LOG:
            y = x - top - tl.log(total)
        else:
            y = tl.exp(x - top) / total
        tl.store(out_ptr + start + column, y.to(out_ptr.dtype.element_ty), mask=column < N)


@triton.jit(do_not_specialize=_R_N)
def mtia_softmax_backward(
    g_ptr, y_ptr, out_ptr, R, N, ROWS: tl.constexpr, WIDTH: tl.constexpr, LOG: tl.constexpr, ACC: tl.constexpr
):
    """Rows that fit: y (g - sum(g y)), or g - exp(y) sum(g) for the logarithm."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    mask = (row < R)[:, None] & (column < N)[None, :]
    at = (row * N)[:, None] + column[None, :]
    g = tl.load(g_ptr + at, mask=mask, other=0.0).to(ACC)
    y = tl.load(y_ptr + at, mask=mask, other=0.0).to(ACC)
    if LOG:
        d = g - tl.exp(y) * tl.sum(g, 1)[:, None]
    else:
        d = y * (g - tl.sum(g * y, 1)[:, None])
    tl.store(out_ptr + at, d.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_R_N)
def mtia_softmax_backward_long(g_ptr, y_ptr, out_ptr, R, N, WIDTH: tl.constexpr, LOG: tl.constexpr, ACC: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * N
    total = tl.full((WIDTH,), 0, ACC)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        g = tl.load(g_ptr + start + column, mask=column < N, other=0.0).to(ACC)
        if LOG:
            total += g
        else:
            total += g * tl.load(y_ptr + start + column, mask=column < N, other=0.0).to(ACC)
    whole = tl.sum(total, 0)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        g = tl.load(g_ptr + start + column, mask=column < N, other=0.0).to(ACC)
        y = tl.load(y_ptr + start + column, mask=column < N, other=0.0).to(ACC)
        if LOG:
            d = g - tl.exp(y) * whole
        else:
            d = y * (g - whole)
        tl.store(out_ptr + start + column, d.to(out_ptr.dtype.element_ty), mask=column < N)


def _last(x: torch.Tensor, dim: int) -> torch.Tensor:
    return contiguous(x if x.dim() == 0 else x.movedim(dim, -1))


def _deliver(result: torch.Tensor, out: torch.Tensor, dim: int, direct: bool) -> None:
    if not direct:
        copy_strided(out if out.dim() == 0 else out.movedim(dim, -1), result)


def _softmax(x: torch.Tensor, dim: int, out: torch.Tensor, log: bool) -> torch.Tensor:
    if out.shape != x.shape:
        out.resize_(x.shape)
    if x.numel() == 0:
        return out
    rows = _last(x, dim)
    n = rows.shape[-1] if rows.dim() else 1
    direct = out.is_contiguous() and (x.dim() == 0 or dim % x.dim() == x.dim() - 1)
    result = out if direct else torch.empty(rows.shape, dtype=out.dtype, device=out.device)
    n_rows = rows.numel() // n
    kernel, grid, constants = softmax_launch(n_rows, n, x.dtype, log=log)
    kernel[grid](rows, result, n_rows, n, **constants)
    _deliver(result, out, dim, direct)
    return out


def softmax_launch(
    n_rows: int, n: int, dtype: torch.dtype, *, log: bool, whole: int = WHOLE
) -> tuple[Any, tuple[int], dict[str, Any]]:
    """(kernel, grid, constants) of a softmax over rows of n elements; arguments: x, out, n_rows, n.

    Rows up to `whole` are held by a program, longer ones walked in blocks.
    """
    flags = dict(LOG=log, ACC=_tl(accumulate_dtype(dtype)))
    if n > whole:
        return mtia_softmax_long, (n_rows,), dict(WIDTH=BLOCK, **flags)
    width = next_power_of_2(n)
    height = _rows_of(n_rows, width)
    return mtia_softmax, (ceil_div(n_rows, height),), dict(ROWS=height, WIDTH=width, **flags)


def _softmax_backward(g: torch.Tensor, y: torch.Tensor, dim: int, out: torch.Tensor, log: bool) -> torch.Tensor:
    if out.shape != g.shape:
        out.resize_(g.shape)
    if g.numel() == 0:
        return out
    g_rows, y_rows = _last(g, dim), _last(y, dim)
    n = g_rows.shape[-1] if g_rows.dim() else 1
    direct = out.is_contiguous() and (g.dim() == 0 or dim % g.dim() == g.dim() - 1)
    result = out if direct else torch.empty(g_rows.shape, dtype=out.dtype, device=out.device)
    n_rows, acc = g_rows.numel() // n, _tl(accumulate_dtype(y.dtype))
    if n <= WHOLE // 2:
        width = next_power_of_2(n)
        height = _rows_of(n_rows, width)
        mtia_softmax_backward[(ceil_div(n_rows, height),)](
            g_rows, y_rows, result, n_rows, n, ROWS=height, WIDTH=width, LOG=log, ACC=acc
        )
    else:
        mtia_softmax_backward_long[(n_rows,)](g_rows, y_rows, result, n_rows, n, WIDTH=BLOCK, LOG=log, ACC=acc)
    _deliver(result, out, dim, direct)
    return out


@aten("_softmax.out")
def softmax_out(x: torch.Tensor, dim: int, half_to_float: bool, *, out: torch.Tensor) -> torch.Tensor:
    return _softmax(x, dim, out, False)


@aten("_log_softmax.out")
def log_softmax_out(x: torch.Tensor, dim: int, half_to_float: bool, *, out: torch.Tensor) -> torch.Tensor:
    return _softmax(x, dim, out, True)


@aten("_softmax_backward_data.out")
def softmax_backward_out(
    g: torch.Tensor, y: torch.Tensor, dim: int, input_dtype: torch.dtype, *, grad_input: torch.Tensor
) -> torch.Tensor:
    return _softmax_backward(g, y, dim, grad_input, False)


@aten("_log_softmax_backward_data.out")
def log_softmax_backward_out(
    g: torch.Tensor, y: torch.Tensor, dim: int, input_dtype: torch.dtype, *, out: torch.Tensor
) -> torch.Tensor:
    return _softmax_backward(g, y, dim, out, True)


# --- layer and RMS norm -----------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_R_N)
def mtia_layer_norm(
    x_ptr,
    w_ptr,
    b_ptr,
    out_ptr,
    mean_ptr,
    rstd_ptr,
    eps,
    R,
    N,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CENTRE: tl.constexpr,
    HAS_W: tl.constexpr,
    HAS_B: tl.constexpr,
    ACC: tl.constexpr,
):
    """Rows that fit: (x - mean) rstd w + b; without CENTRE, x / rms(x) w."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    row_mask, column_mask = row < R, column < N
    mask = row_mask[:, None] & column_mask[None, :]
    at = (row * N)[:, None] + column[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC)
    if CENTRE:
        mean = tl.sum(x, 1) / N
        tl.store(mean_ptr + row, mean.to(mean_ptr.dtype.element_ty), mask=row_mask)
        x = tl.where(mask, x - mean[:, None], 0.0)
    rstd = 1.0 / square_root(tl.sum(x * x, 1) / N + tl.full([], eps, ACC))
    tl.store(rstd_ptr + row, rstd.to(rstd_ptr.dtype.element_ty), mask=row_mask)
    y = x * rstd[:, None]
    if HAS_W:
        y = y * tl.load(w_ptr + column, mask=column_mask, other=0.0).to(ACC)[None, :]
    if HAS_B:
        y = y + tl.load(b_ptr + column, mask=column_mask, other=0.0).to(ACC)[None, :]
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_R_N)
def mtia_layer_norm_long(
    x_ptr,
    w_ptr,
    b_ptr,
    out_ptr,
    mean_ptr,
    rstd_ptr,
    eps,
    R,
    N,
    WIDTH: tl.constexpr,
    CENTRE: tl.constexpr,
    HAS_W: tl.constexpr,
    HAS_B: tl.constexpr,
    ACC: tl.constexpr,
):
    """One long row a program, in blocks: mean, then squares about it, then the result."""
    row = tl.program_id(0).to(tl.int64)
    start = row * N
    mean = tl.full([], 0, ACC)
    if CENTRE:
        sums = tl.full((WIDTH,), 0, ACC)
        for k in range(0, N, WIDTH):
            column = k + tl.arange(0, WIDTH)
            sums += tl.load(x_ptr + start + column, mask=column < N, other=0.0).to(ACC)
        mean = tl.sum(sums, 0) / N
        tl.store(mean_ptr + row, mean.to(mean_ptr.dtype.element_ty))
    squares = tl.full((WIDTH,), 0, ACC)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=0.0).to(ACC)
        x = tl.where(column < N, x - mean, 0.0)
        squares += x * x
    rstd = 1.0 / square_root(tl.sum(squares, 0) / N + tl.full([], eps, ACC))
    tl.store(rstd_ptr + row, rstd.to(rstd_ptr.dtype.element_ty))
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=0.0).to(ACC)
        y = (x - mean) * rstd
        if HAS_W:
            y = y * tl.load(w_ptr + column, mask=column < N, other=0.0).to(ACC)
        if HAS_B:
            y = y + tl.load(b_ptr + column, mask=column < N, other=0.0).to(ACC)
        tl.store(out_ptr + start + column, y.to(out_ptr.dtype.element_ty), mask=column < N)


@triton.jit(do_not_specialize=_R_N)
def mtia_layer_norm_backward(
    g_ptr,
    x_ptr,
    w_ptr,
    mean_ptr,
    rstd_ptr,
    out_ptr,
    R,
    N,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CENTRE: tl.constexpr,
    HAS_W: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradient of the input; a row longer than WIDTH is walked in blocks (ROWS 1), twice."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_mask = row < R
    rstd = tl.load(rstd_ptr + row, mask=row_mask, other=0.0).to(ACC)[:, None]
    mean = tl.zeros_like(rstd)
    if CENTRE:
        mean = tl.load(mean_ptr + row, mask=row_mask, other=0.0).to(ACC)[:, None]
    sum_g = tl.full((ROWS, WIDTH), 0, ACC)
    sum_gx = tl.full((ROWS, WIDTH), 0, ACC)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        mask = row_mask[:, None] & (column < N)[None, :]
        at = (row * N)[:, None] + column[None, :]
        g = tl.load(g_ptr + at, mask=mask, other=0.0).to(ACC)
        if HAS_W:
            g = g * tl.load(w_ptr + column, mask=column < N, other=0.0).to(ACC)[None, :]
        x_hat = (tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC) - mean) * rstd
        sum_g += g
        sum_gx += g * tl.where(mask, x_hat, 0.0)
    mean_gx = (tl.sum(sum_gx, 1) / N)[:, None]
    mean_g = tl.zeros_like(mean_gx)
    if CENTRE:
        mean_g = (tl.sum(sum_g, 1) / N)[:, None]
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        mask = row_mask[:, None] & (column < N)[None, :]
        at = (row * N)[:, None] + column[None, :]
        g = tl.load(g_ptr + at, mask=mask, other=0.0).to(ACC)
        if HAS_W:
            g = g * tl.load(w_ptr + column, mask=column < N, other=0.0).to(ACC)[None, :]
        x_hat = (tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC) - mean) * rstd
        d = (g - mean_g - x_hat * mean_gx) * rstd
        tl.store(out_ptr + at, d.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_R_N)
def mtia_norm_parameters_backward(
    g_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    w_out_ptr,
    b_out_ptr,
    R,
    N,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CENTRE: tl.constexpr,
    NEED_W: tl.constexpr,
    NEED_B: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of weight and bias: WIDTH columns a program, folded over all rows."""
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    sum_w = tl.full((ROWS, WIDTH), 0, ACC)
    sum_b = tl.full((ROWS, WIDTH), 0, ACC)
    for start in range(0, R, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < R)[:, None] & (column < N)[None, :]
        at = (row * N)[:, None] + column[None, :]
        g = tl.load(g_ptr + at, mask=mask, other=0.0).to(ACC)
        sum_b += g
        if NEED_W:
            x = tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC)
            if CENTRE:
                x = x - tl.load(mean_ptr + row, mask=row < R, other=0.0).to(ACC)[:, None]
            sum_w += g * x * tl.load(rstd_ptr + row, mask=row < R, other=0.0).to(ACC)[:, None]
    if NEED_W:
        tl.store(w_out_ptr + column, tl.sum(sum_w, 0).to(w_out_ptr.dtype.element_ty), mask=column < N)
    if NEED_B:
        tl.store(b_out_ptr + column, tl.sum(sum_b, 0).to(b_out_ptr.dtype.element_ty), mask=column < N)


def _normalise(
    x: torch.Tensor,
    n_dims: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    centre: bool,
    stat_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = contiguous(x)
    kept = x.shape[: x.dim() - n_dims]
    n = 1
    for s in x.shape[x.dim() - n_dims :]:
        n *= s
    out = torch.empty_like(x)
    shape = (*kept, *([1] * n_dims))
    mean = torch.empty(shape if centre else (0,), dtype=stat_dtype, device=x.device)
    rstd = torch.empty(shape, dtype=stat_dtype, device=x.device)
    if x.numel() == 0:
        return out, mean, rstd
    n_rows = x.numel() // n
    w, b = _or(weight, x), _or(bias, x)
    arguments = (x, w, b, out, mean if centre else rstd, rstd, float(eps), n_rows, n)
    kernel, grid, constants = norm_launch(
        n_rows, n, x.dtype, centre=centre, weight=weight is not None, bias=bias is not None
    )
    kernel[grid](*arguments, **constants)
    return out, mean, rstd


def norm_launch(
    n_rows: int, n: int, dtype: torch.dtype, *, centre: bool, weight: bool, bias: bool, whole: int = WHOLE
) -> tuple[Any, tuple[int], dict[str, Any]]:
    """(kernel, grid, constants) of a normalisation of rows of n elements.

    Arguments: x, weight, bias, out, mean (rstd again where not centred), rstd, eps, n_rows, n. `whole` as for
    `softmax_launch`.
    """
    flags = dict(CENTRE=centre, HAS_W=weight, HAS_B=bias, ACC=_tl(accumulate_dtype(dtype)))
    if n > whole:
        return mtia_layer_norm_long, (n_rows,), dict(WIDTH=BLOCK, **flags)
    width = next_power_of_2(n)
    height = _rows_of(n_rows, width)
    return mtia_layer_norm, (ceil_div(n_rows, height),), dict(ROWS=height, WIDTH=width, **flags)


def _or(t: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """The tensor, contiguous; `x` stands in for an absent one (never read)."""
    return x if t is None else contiguous(t)


def _normalise_backward(
    g: torch.Tensor,
    x: torch.Tensor,
    n_dims: int,
    mean: torch.Tensor | None,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias_like: torch.Tensor | None,
    mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    g, x, rstd = contiguous(g), contiguous(x), contiguous(rstd)
    mean_or = rstd if mean is None else contiguous(mean)
    n = 1
    for s in x.shape[x.dim() - n_dims :]:
        n *= s
    n_rows = x.numel() // max(n, 1)
    acc, centre = _tl(accumulate_dtype(x.dtype)), mean is not None
    dx = dw = db = None
    if mask[0]:
        dx = torch.empty_like(x)
        width = min(next_power_of_2(n), BLOCK)
        height = _rows_of(n_rows, width) if n <= width else 1
        if x.numel():
            mtia_layer_norm_backward[(ceil_div(n_rows, height),)](
                g,
                x,
                _or(weight, x),
                mean_or,
                rstd,
                dx,
                n_rows,
                n,
                ROWS=height,
                WIDTH=width,
                CENTRE=centre,
                HAS_W=weight is not None,
                ACC=acc,
            )
    need_w, need_b = mask[1] and weight is not None, mask[2] and bias_like is not None
    if need_w or need_b:
        dw = torch.zeros_like(weight) if need_w else None
        db = torch.zeros_like(bias_like) if need_b else None
        width = min(next_power_of_2(n), 64)
        if x.numel():
            mtia_norm_parameters_backward[(ceil_div(n, width),)](
                g,
                x,
                mean_or,
                rstd,
                _or(dw, x),
                _or(db, x),
                n_rows,
                n,
                ROWS=min(32, next_power_of_2(n_rows)),
                WIDTH=width,
                CENTRE=centre,
                NEED_W=need_w,
                NEED_B=need_b,
                ACC=acc,
            )
    return dx, dw, db


@aten("native_layer_norm")
def native_layer_norm(
    x: torch.Tensor, normalized_shape: Sequence[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """mean and rstd come in x's dtype, as PyTorch's reference for mtia has them."""
    return _normalise(x, len(normalized_shape), weight, bias, eps, True, x.dtype)


@aten("native_group_norm")
def native_group_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    N: int, C: int, HxW: int, group: int, eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Each group of channels a row of a layer norm; with weight or bias, narrow types are rounded after those."""
    affine = weight is not None or bias is not None
    wide = cast(x, compute_dtype(x.dtype)) if affine else x
    rows = contiguous(wide).view(N * group, C // group * HxW)
    y, mean, rstd = _normalise(rows, 1, None, None, eps, True, x.dtype)
    y = y.view(N, C, HxW)
    if weight is not None:
        y = y * cast(weight, y.dtype).view(C, 1)
    if bias is not None:
        y = y + cast(bias, y.dtype).view(C, 1)
    return cast(y, x.dtype).view(x.shape), mean.view(N, group), rstd.view(N, group)


@aten("native_layer_norm_backward")
def native_layer_norm_backward(
    g: torch.Tensor,
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    return _normalise_backward(g, x, len(normalized_shape), mean, rstd, weight, bias, output_mask)


@aten("_fused_rms_norm")
def fused_rms_norm(
    x: torch.Tensor, normalized_shape: Sequence[int], weight: torch.Tensor | None, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    floor = torch.finfo(accumulate_dtype(x.dtype)).eps if eps is None else eps
    out, _, rstd = _normalise(x, len(normalized_shape), weight, None, floor, False, accumulate_dtype(x.dtype))
    return out, rstd


@aten("_fused_rms_norm_backward")
def fused_rms_norm_backward(
    g: torch.Tensor,
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    mask = (output_mask[0], output_mask[1], False)
    dx, dw, _ = _normalise_backward(g, x, len(normalized_shape), None, rstd, weight, None, mask)
    return dx, dw
