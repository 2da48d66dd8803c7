"""QR by Householder reflections, kept as LAPACK keeps them: v below the diagonal (its first element 1), tau apart.

One program per matrix in a tile; larger matrices are halved by columns. Shapes: a_BMN row-major, tau_BK.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mtia.kernels import functions
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.matrices import TILE_ELEMENTS, fits, new, width

square_root = functions.square_root
MOST_COLUMNS = 32
"""Columns that a program of a product with reflectors holds."""


@triton.jit(do_not_specialize=["M", "N"])
def mtia_householder_qr(a_ptr, tau_ptr, M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """a = Q R in place: R on and above the diagonal, reflectors below, their factors in tau."""
    matrix = tl.program_id(0).to(tl.int64)
    i, k = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row, column = i[:, None], k[None, :]
    inside = (row < M) & (column < N)
    at = matrix * M * N + row * N + column
    a = tl.load(a_ptr + at, mask=inside, other=0.0)
    steps = min(M, N)
    for j in range(0, steps):
        x = tl.sum(tl.where(column == j, a, 0.0), 1)
        alpha = tl.sum(tl.where(i == j, x, 0.0), 0)
        below = tl.where(i > j, x, 0.0)
        largest = tl.maximum(tl.max(tl.abs(below), 0), tl.abs(alpha))
        scale = tl.where(largest == 0, 1.0, largest)
        tail = tl.sum((below / scale) * (below / scale), 0)
        norm = scale * square_root(tail + (alpha / scale) * (alpha / scale))
        flat = tail == 0
        beta = tl.where(flat, alpha, tl.where(alpha >= 0, -norm, norm))
        tau = tl.where(flat, 0.0, (beta - alpha) / tl.where(flat, 1.0, beta))
        v = tl.where(i == j, 1.0, below / tl.where(flat, 1.0, alpha - beta)).to(a.dtype)
        w = tl.sum(v[:, None] * a, 0)
        a = a - tau * v[:, None] * tl.where(k > j, w, 0.0)[None, :]
        a = tl.where((column == j) & (row >= j), tl.where(i == j, beta, v)[:, None], a)
        tl.store(tau_ptr + matrix * steps + j, tau)
    tl.store(a_ptr + at, a, mask=inside)


@triton.jit(do_not_specialize=["M", "N", "K", "v_batch", "v_row", "v_column"])
def mtia_reflect(
    v_ptr,
    tau_ptr,
    x_ptr,
    M,
    N,
    K,
    v_batch,
    v_row,
    v_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TRANSPOSE: tl.constexpr,
):
    """x = Q x (or Q^T x) in place, Q the product of K reflectors; COLUMNS of x's N columns a program."""
    matrix = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, ROWS)
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (i < M)[:, None] & (c < N)[None, :]
    at = matrix * M * N + i[:, None] * N + c[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    for step in range(0, K):
        k = step if TRANSPOSE else K - 1 - step
        below = tl.load(v_ptr + matrix * v_batch + i * v_row + k * v_column, mask=(i > k) & (i < M), other=0.0)
        v = tl.where(i == k, 1.0, below).to(x.dtype)
        tau = tl.load(tau_ptr + matrix * K + k)
        x = x - tau * v[:, None] * tl.sum(v[:, None] * x, 0)[None, :]
    tl.store(x_ptr + at, x, mask=inside)


def householder_qr(a: torch.Tensor) -> torch.Tensor:
    """Replaces a [B, M, N] by R and the reflectors; returns tau [B, min(M, N)]."""
    B, M, N = a.shape
    steps = min(M, N)
    tau = new(a, B, steps)
    if a.numel() == 0:
        return tau
    if fits(M, N) or N == 1:
        mtia_householder_qr[(B,)](a, tau, M, N, ROWS=width(M), COLUMNS=width(N) if N > 1 else 1)
        return tau
    half = max(1, steps // 2)
    left = a[:, :, :half].contiguous()
    left_tau = householder_qr(left)
    right = reflect(left, left_tau, a[:, :, half:], transpose=True)
    rest = right[:, half:].contiguous()
    rest_tau = householder_qr(rest)
    a[:, :, :half] = left
    a[:, :half, half:] = right[:, :half]
    a[:, half:, half:] = rest
    return torch.cat((left_tau, rest_tau), 1)


def reflect(v: torch.Tensor, tau: torch.Tensor, x: torch.Tensor, *, transpose: bool = False) -> torch.Tensor:
    """Q x, or Q^T x: x [B, M, N], reflectors below the diagonal of v [B, M, >= K] (any strides), tau [B, K]."""
    B, M, N = x.shape
    y = x.clone(memory_format=torch.contiguous_format)
    K = tau.shape[1]
    if y.numel() == 0 or K == 0:
        return y
    rows = width(M)
    columns = max(1, min(MOST_COLUMNS, next_power_of_2(N), TILE_ELEMENTS // rows))
    mtia_reflect[(ceil_div(N, columns), B)](
        v, tau.contiguous(), y, M, N, K, *v.stride(), ROWS=rows, COLUMNS=columns, TRANSPOSE=transpose
    )
    return y


__all__ = ["householder_qr", "reflect"]
