"""Grouped matrix multiplication: rows sorted by group, each group against a matrix of its own (experts of a model).

Rows of a group take whole tiles of BM rows of `out`; tables name each tile's group, the row of `x` it starts at and how
many rows it has. The matrices are [groups, N, K], K contiguous, as a linear layer keeps them.
"""

from __future__ import annotations

import triton
import triton.language as tl

_INTEGERS = ["N", "K", "TILES"]


@triton.jit
def _tile(TILES, tiles_n, BAND: tl.constexpr):
    """(row tile, column tile) of this program: bands of BAND row tiles, down a band's columns."""
    tile = tl.program_id(0)
    band = tile // (BAND * tiles_n) * BAND
    band_rows = min(TILES - band, BAND)
    within = tile % (BAND * tiles_n)
    return band + within % band_rows, within // band_rows


@triton.jit
def _store(out_ptr, acc, row_tile, present, columns, N, BM: tl.constexpr, EVEN_N: tl.constexpr):
    rows = row_tile.to(tl.int64) * BM + tl.arange(0, BM)
    out = out_ptr + rows[:, None] * N + columns[None, :]
    if EVEN_N:
        tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=present[:, None])
    else:
        tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=present[:, None] & (columns < N)[None, :])


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_grouped_matmul(
    x_ptr,
    w_ptr,
    group_ptr,
    start_ptr,
    count_ptr,
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
    """One BM x BN tile of out[TILES * BM, N] = x[start of the tile ..., K] @ w[its group]^T, K in steps of BK."""
    row_tile, column_tile = _tile(TILES, tl.cdiv(N, BN), BAND)
    group = tl.load(group_ptr + row_tile).to(tl.int64)
    rows = tl.load(start_ptr + row_tile).to(tl.int64) + tl.arange(0, BM)
    present = tl.arange(0, BM) < tl.load(count_ptr + row_tile)
    columns = column_tile * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    inside = columns < N
    x_at = x_ptr + rows[:, None] * K + depth[None, :]
    w_at = w_ptr + group * N * K + depth[:, None] + columns[None, :].to(tl.int64) * K
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=present[:, None], other=0.0)
            w = tl.load(w_at) if EVEN_N else tl.load(w_at, mask=inside[None, :], other=0.0)
        else:
            left = depth < K - k
            x = tl.load(x_at, mask=present[:, None] & left[None, :], other=0.0)
            w = tl.load(w_at, mask=left[:, None] & inside[None, :], other=0.0)
        acc = tl.dot(x, w, acc, out_dtype=tl.float32)
        x_at += BK
        w_at += BK
    _store(out_ptr, acc, row_tile, present, columns, N, BM, EVEN_N)


@triton.jit
def _unpacked(codes, scale, BK: tl.constexpr, BN: tl.constexpr):
    """bfloat16 values of e2m1 codes [BK / 2, BN] with power-of-two scales [BK / 64, BN] (bits of their exponents).

    The code's three magnitude bits are put where bfloat16 keeps its lowest exponent bits; 2**126 mends the bias.
    """
    bits = ((codes & 7) << 6) | ((codes & 8) << 12)
    values = bits.to(tl.bfloat16, bitcast=True) * tl.full([], 2.0**126, tl.bfloat16)
    by_group = tl.reshape(values, (BK // 64, 32, BN)) * tl.reshape(scale, (BK // 64, 1, BN))
    return tl.reshape(by_group, (BK // 2, BN))


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_grouped_matmul_w4(
    x_ptr,
    w_ptr,
    scale_ptr,
    group_ptr,
    start_ptr,
    count_ptr,
    out_ptr,
    N,
    K,
    TILES,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BAND: tl.constexpr,
    EVEN_N: tl.constexpr,
    UNPACK: tl.constexpr,
):
    """As `mtia_grouped_matmul`, on e2m1 codes with one power-of-two scale for 32 of a column (MXFP4 weights).

    `w`: bytes [groups, N, K / 2]; byte j of a step holds depth j in its low half and depth BK / 2 + j in its
    high half. `scale`: uint8 exponents [groups, K / 32, N]. K is a multiple of BK, BK of 64. Without UNPACK the bytes
    are multiplied as they are, as an engine that reads codes itself would: its traffic and its work, not its values.
    """
    row_tile, column_tile = _tile(TILES, tl.cdiv(N, BN), BAND)
    group = tl.load(group_ptr + row_tile).to(tl.int64)
    rows = tl.load(start_ptr + row_tile).to(tl.int64) + tl.arange(0, BM)
    present = tl.arange(0, BM) < tl.load(count_ptr + row_tile)
    columns = column_tile * BN + tl.arange(0, BN)
    inside = columns < N
    half = tl.arange(0, BK // 2)
    eighth = tl.arange(0, BK // 64)
    x_at = x_ptr + rows[:, None] * K + half[None, :]
    w_at = w_ptr + group * N * (K // 2) + half[:, None] + columns[None, :].to(tl.int64) * (K // 2)
    s_at = scale_ptr + group * N * (K // 32) + eighth[:, None] * N + columns[None, :]
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for _ in range(0, K, BK):
        codes = tl.load(w_at) if EVEN_N else tl.load(w_at, mask=inside[None, :], other=0.0)
        if UNPACK:
            bits = codes.to(tl.int16)
            low = (tl.load(s_at, mask=inside[None, :], other=0).to(tl.int16) << 7).to(tl.bfloat16, bitcast=True)
            high = tl.load(s_at + BK // 64 * N, mask=inside[None, :], other=0).to(tl.int16) << 7
            w_low = _unpacked(bits, low, BK, BN)
            w_high = _unpacked(bits >> 4, high.to(tl.bfloat16, bitcast=True), BK, BN)
        else:
            w_low = codes
            w_high = codes
        x_low = tl.load(x_at, mask=present[:, None], other=0.0)
        x_high = tl.load(x_at + BK // 2, mask=present[:, None], other=0.0)
        acc = tl.dot(x_low, w_low, acc, out_dtype=tl.float32)
        acc = tl.dot(x_high, w_high, acc, out_dtype=tl.float32)
        x_at += BK
        w_at += BK // 2
        s_at += BK // 32 * N
    _store(out_ptr, acc, row_tile, present, columns, N, BM, EVEN_N)
