"""Row-wise quantisation to 8 bits, and back."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels.activation_quantise import mtia_quantise_rows
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.iteration import ceil_div, next_power_of_2

DEQUANTIZE = define(Operation("dequantize_rows", ("x", "scale", "bias"), "x * scale + bias"))
ELEMENTS = 4096  # of a program's tile, a row at least


@triton.jit(do_not_specialize=["m", "n"])
def mtia_quantise_int8_rows(x_ptr, q_ptr, scale_ptr, m, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """q[m, n] = round(x / scale) in int8, scale[m] = largest magnitude of the row / 127; ROWS rows a program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    at = row[:, None] * n + column[None, :]
    inside = (row < m)[:, None] & (column < n)[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-12) / 127.0
    tl.store(q_ptr + at, tl.floor(x * (1.0 / scale)[:, None] + 0.5).to(tl.int8), mask=inside)
    tl.store(scale_ptr + row, scale, mask=row < m)


def quantise_launch(m: int, n: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Grid and constants of `mtia_quantise_int8_rows`."""
    block = next_power_of_2(n)
    rows = max(1, ELEMENTS // block)
    return (ceil_div(m, rows),), dict(ROWS=rows, BLOCK=block)


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [m, n] and float32 scale [m, 1] of a contiguous float [m, n]; halves round up."""
    m, n = x.shape
    q, scale = torch.empty_like(x, dtype=torch.int8), torch.empty((m, 1), dtype=torch.float32, device=x.device)
    grid, constants = quantise_launch(m, n)
    mtia_quantise_int8_rows[grid](x, q, scale, m, n, **constants)
    return q, scale


def quantise_fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E4M3 [m, n] and float32 scale [m, 1] (largest magnitude / 448) of a contiguous float [m, n]."""
    m, n = x.shape
    block = min(next_power_of_2(n), ELEMENTS)
    rows = max(1, ELEMENTS // block)
    q = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty((m, 1), dtype=torch.float32, device=x.device)
    mtia_quantise_rows[(ceil_div(m, rows),)](x, q, scale, m, n, ROWS=rows, BLOCK=block, ONCE=n <= block)
    return q, scale


def dequantize_rows(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """x * scale + bias in float32, rounded to `dtype`: x int8 or uint8 [..., n], scale and bias float32 [..., 1]."""
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    launch(DEQUANTIZE, out, (x, scale, bias), compute=torch.float32)
    return out


__all__ = ["DEQUANTIZE", "dequantize_rows", "mtia_quantise_int8_rows", "quantise_fp8_rows", "quantise_launch",
           "quantise_rows"]  # fmt: skip
