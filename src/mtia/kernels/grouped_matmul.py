"""Grouped matrix multiplication: rows sorted by group, each group against a matrix of its own (experts of a model).

Rows of a group start at a multiple of BM; a table names the group of every BM rows. Padding rows are multiplied like
others and nobody reads what comes out. The matrices are [groups, N, K], K contiguous, as a linear layer keeps them.
"""

from __future__ import annotations

import triton
import triton.language as tl

_INTEGERS = ["N", "K", "TILES"]
GROUP_ROWS = 8  # row tiles of a band: neighbours share columns of a group's matrix


@triton.jit
def _tile(TILES, tiles_n, BAND: tl.constexpr):
    """(row tile, column tile) of this program: bands of BAND row tiles, down a band's columns."""
    tile = tl.program_id(0)
    band = tile // (BAND * tiles_n) * BAND
    band_rows = min(TILES - band, BAND)
    within = tile % (BAND * tiles_n)
    return band + within % band_rows, within // band_rows


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_grouped_matmul(
    x_ptr,
    w_ptr,
    group_ptr,
    out_ptr,
    N,
    K,
    TILES,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BAND: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """One BM x BN tile of out[TILES * BM, N] = x[TILES * BM, K] @ w[group of the rows]^T, K in steps of BK."""
    row_tile, column_tile = _tile(TILES, tl.cdiv(N, BN), BAND)
    group = tl.load(group_ptr + row_tile).to(tl.int64)
    rows = row_tile.to(tl.int64) * BM + tl.arange(0, BM)
    columns = column_tile * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    inside = columns < N
    x_at = x_ptr + rows[:, None] * K + depth[None, :]
    w_at = w_ptr + group * N * K + depth[:, None] + columns[None, :].to(tl.int64) * K
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        if EVEN_K:
            x = tl.load(x_at)
            w = tl.load(w_at) if EVEN_N else tl.load(w_at, mask=inside[None, :], other=0.0)
        else:
            left = depth < K - k
            x = tl.load(x_at, mask=left[None, :], other=0.0)
            w = tl.load(w_at, mask=left[:, None] & inside[None, :], other=0.0)
        acc = tl.dot(x, w, acc, out_dtype=tl.float32)
        x_at += BK
        w_at += BK
    out = out_ptr + rows[:, None] * N + columns[None, :]
    if EVEN_N:
        tl.store(out, acc.to(out_ptr.dtype.element_ty))
    else:
        tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=inside[None, :])
