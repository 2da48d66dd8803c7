"""Cumulative sums and products along one dim: blocks of a row, with what came before carried from block to block."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels import functions
from mtia.kernels.copy import contiguous, copy_strided
from mtia.kernels.dtypes import accumulate_dtype, triton_name
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.registry import aten

multiply = functions.multiply
TILE = 1024


@triton.jit(do_not_specialize=["R", "N"])
def mtia_scan(x_ptr, out_ptr, R, N, ROWS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr, ACC: tl.constexpr):
    """Inclusive scan of rows of N elements."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    before = tl.full((ROWS,), 1 if PRODUCT else 0, ACC)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        mask = (row < R)[:, None] & (column < N)[None, :]
        at = (row * N)[:, None] + column[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=1 if PRODUCT else 0).to(ACC)
        if PRODUCT:
            y = tl.associative_scan(x, 1, multiply) * before[:, None]
            before = before * tl.reduce(x, 1, multiply)
        else:
            y = tl.cumsum(x, 1) + before[:, None]
            before = before + tl.sum(x, 1)
        tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


def scan(x: torch.Tensor, dim: int, out: torch.Tensor, *, product: bool) -> torch.Tensor:
    """out = cumulative sum (or product) of x along dim, in out's dtype."""
    if tuple(out.shape) != tuple(x.shape):
        out.resize_(x.shape)
    if x.numel() == 0:
        return out
    rows = contiguous(x.reshape(1) if x.dim() == 0 else x.movedim(dim, -1))
    n = rows.shape[-1]
    direct = out.is_contiguous() and (x.dim() == 0 or dim % x.dim() == x.dim() - 1)
    result = out if direct else torch.empty(rows.shape, dtype=out.dtype, device=out.device)
    width = min(next_power_of_2(n), TILE)
    n_rows = rows.numel() // n
    height = min(max(1, TILE // width), next_power_of_2(n_rows))
    kind: Any = accumulate_dtype(out.dtype)
    mtia_scan[(ceil_div(n_rows, height),)](
        rows,
        result,
        n_rows,
        n,
        ROWS=height,
        WIDTH=width,
        PRODUCT=product,
        ACC=getattr(tl, triton_name(kind).removeprefix("tl.")),
    )
    if not direct:
        copy_strided(out.movedim(dim, -1), result)
    return out


@aten("cumsum.out")
def cumsum_out(x: torch.Tensor, dim: int, *, dtype: Any = None, out: torch.Tensor) -> torch.Tensor:
    return scan(x, dim, out, product=False)


@aten("cumprod.out")
def cumprod_out(x: torch.Tensor, dim: int, *, dtype: Any = None, out: torch.Tensor) -> torch.Tensor:
    return scan(x, dim, out, product=True)
