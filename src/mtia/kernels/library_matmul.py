"""Matrix multiplication as vendors' libraries tile it: tiles of one or two widths, and depth split among programs.

out[M, N] = x[M, K] @ w[N, K]^T, depth contiguous in both. A tile is BM x (BN + BN2): 128 + 64 gives the 192 columns
that one power of two cannot. With a split depth each program sums one stretch of it and leaves a float32 partial tile;
`mtia_sum_splits` adds them up.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(tile, tiles_m, tiles_n, group):
    """Row and column of a tile in the order of bands of `group` rows, down a band's columns."""
    band = tile // (group * tiles_n) * group
    band_rows = min(tiles_m - band, group)
    within = tile % (group * tiles_n)
    return band + within % band_rows, within // band_rows


@triton.jit(do_not_specialize=["M", "N", "K", "depth", "group"])
def mtia_matmul_split(
    x_ptr,
    w_ptr,
    out_ptr,
    M,
    N,
    K,
    depth,
    group,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BN2: tl.constexpr,
    BK: tl.constexpr,
    EVEN_K: tl.constexpr,
    INDEX: tl.constexpr,
):
    """One tile of one split. Grid (tiles, splits); split s sums depth elements s * depth to (s + 1) * depth.

    out_ptr: [splits, M, N]. Tiles are walked in bands of `group` rows, down a band's columns. `depth` is a multiple of
    BK; EVEN_K: it divides K.
    """
    row, column = _place(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN + BN2), group)
    split = tl.program_id(1).to(INDEX)
    rows = (row * BM + tl.arange(0, BM)).to(INDEX)
    first = column * (BN + BN2)
    columns = (first + tl.arange(0, BN)).to(INDEX)
    steps = tl.arange(0, BK).to(INDEX)
    row_mask = rows < M
    column_mask = columns < N
    begin = split * depth
    x_at = x_ptr + rows[:, None] * K + (begin + steps)[None, :]
    w_at = w_ptr + (begin + steps)[:, None] + columns[None, :] * K
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    if BN2 > 0:
        columns2 = (first + BN + tl.arange(0, BN2)).to(INDEX)
        column2_mask = columns2 < N
        w2_at = w_ptr + (begin + steps)[:, None] + columns2[None, :] * K
        acc2 = tl.zeros((BM, BN2), dtype=tl.float32)
    for k in range(0, depth, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=row_mask[:, None], other=0.0)
            w = tl.load(w_at, mask=column_mask[None, :], other=0.0)
        else:
            inside = steps < K - begin - k
            x = tl.load(x_at, mask=row_mask[:, None] & inside[None, :], other=0.0)
            w = tl.load(w_at, mask=inside[:, None] & column_mask[None, :], other=0.0)
        acc = tl.dot(x, w, acc)
        if BN2 > 0:
            if EVEN_K:
                w2 = tl.load(w2_at, mask=column2_mask[None, :], other=0.0)
            else:
                w2 = tl.load(w2_at, mask=(steps < K - begin - k)[:, None] & column2_mask[None, :], other=0.0)
            acc2 = tl.dot(x, w2, acc2)
            w2_at += BK
        x_at += BK
        w_at += BK
    out_at = out_ptr + split * M * N + rows[:, None] * N + columns[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=row_mask[:, None] & column_mask[None, :])
    if BN2 > 0:
        out2_at = out_ptr + split * M * N + rows[:, None] * N + columns2[None, :]
        tl.store(out2_at, acc2.to(out_ptr.dtype.element_ty), mask=row_mask[:, None] & column2_mask[None, :])


@triton.jit(do_not_specialize=["M", "N", "K", "depth", "group"])
def mtia_matmul_scaled(
    x_ptr,
    w_ptr,
    x_scale_ptr,
    w_scale_ptr,
    out_ptr,
    M,
    N,
    K,
    depth,
    group,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BLOCK: tl.constexpr,
    FORMAT: tl.constexpr,
    EVEN_K: tl.constexpr,
    INDEX: tl.constexpr,
):
    """As `mtia_matmul_split`, for an engine that multiplies block-scaled operands itself.

    A scale for each BLOCK elements of depth, [K / BLOCK, M] and [K / BLOCK, N]. FORMAT e2m1: two elements a byte.
    """
    PER_BYTE: tl.constexpr = 2 if FORMAT == "e2m1" else 1
    row, column = _place(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), group)
    split = tl.program_id(1).to(INDEX)
    rows = (row * BM + tl.arange(0, BM)).to(INDEX)
    columns = (column * BN + tl.arange(0, BN)).to(INDEX)
    bytes_ = tl.arange(0, BK // PER_BYTE).to(INDEX)
    blocks = tl.arange(0, BK // BLOCK).to(INDEX)
    row_mask = rows < M
    column_mask = columns < N
    begin = split * depth
    x_at = x_ptr + rows[:, None] * (K // PER_BYTE) + (begin // PER_BYTE + bytes_)[None, :]
    w_at = w_ptr + (begin // PER_BYTE + bytes_)[:, None] + columns[None, :] * (K // PER_BYTE)
    xs_at = x_scale_ptr + rows[:, None] + (begin // BLOCK + blocks)[None, :] * M
    ws_at = w_scale_ptr + columns[:, None] + (begin // BLOCK + blocks)[None, :] * N
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, depth, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=row_mask[:, None], other=0.0)
            w = tl.load(w_at, mask=column_mask[None, :], other=0.0)
            xs = tl.load(xs_at, mask=row_mask[:, None], other=0.0)
            ws = tl.load(ws_at, mask=column_mask[:, None], other=0.0)
        else:
            inside = bytes_ < (K - begin - k) // PER_BYTE
            scaled = blocks < (K - begin - k) // BLOCK
            x = tl.load(x_at, mask=row_mask[:, None] & inside[None, :], other=0.0)
            w = tl.load(w_at, mask=inside[:, None] & column_mask[None, :], other=0.0)
            xs = tl.load(xs_at, mask=row_mask[:, None] & scaled[None, :], other=0.0)
            ws = tl.load(ws_at, mask=column_mask[:, None] & scaled[None, :], other=0.0)
        acc = tl.dot_scaled(x, xs, FORMAT, w, ws, FORMAT, acc)
        x_at += BK // PER_BYTE
        w_at += BK // PER_BYTE
        xs_at += BK // BLOCK * M
        ws_at += BK // BLOCK * N
    out_at = out_ptr + split * M * N + rows[:, None] * N + columns[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=row_mask[:, None] & column_mask[None, :])


@triton.jit(do_not_specialize=["M", "N", "K", "depth", "group"])
def mtia_matmul_promoted(
    x_ptr,
    w_ptr,
    x_scale_ptr,
    w_scale_ptr,
    out_ptr,
    M,
    N,
    K,
    depth,
    group,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EVEN_K: tl.constexpr,
    INDEX: tl.constexpr,
):
    """As `mtia_matmul_split`, for an engine without scales: each BK of depth is multiplied by itself, scaled on the
    vector cores and added to a second accumulator.

    Scales: float32, of x [K / BK, M], of w [N / BN, K / BK].
    """
    row, column = _place(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), group)
    split = tl.program_id(1).to(INDEX)
    rows = (row * BM + tl.arange(0, BM)).to(INDEX)
    columns = (column * BN + tl.arange(0, BN)).to(INDEX)
    steps = tl.arange(0, BK).to(INDEX)
    row_mask = rows < M
    column_mask = columns < N
    begin = split * depth
    x_at = x_ptr + rows[:, None] * K + (begin + steps)[None, :]
    w_at = w_ptr + (begin + steps)[:, None] + columns[None, :] * K
    xs_at = x_scale_ptr + (begin // BK) * M + rows
    ws_at = w_scale_ptr + column.to(INDEX) * (K // BK) + begin // BK
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, depth, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=row_mask[:, None], other=0.0)
            w = tl.load(w_at, mask=column_mask[None, :], other=0.0)
        else:
            inside = steps < K - begin - k
            x = tl.load(x_at, mask=row_mask[:, None] & inside[None, :], other=0.0)
            w = tl.load(w_at, mask=inside[:, None] & column_mask[None, :], other=0.0)
        scale = tl.load(xs_at, mask=row_mask, other=0.0) * tl.load(ws_at)
        acc += tl.dot(x, w) * scale[:, None]
        x_at += BK
        w_at += BK
        xs_at += M
        ws_at += 1
    out_at = out_ptr + split * M * N + rows[:, None] * N + columns[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=row_mask[:, None] & column_mask[None, :])


@triton.jit(do_not_specialize=["n_elements"])
def mtia_sum_splits(parts_ptr, out_ptr, n_elements, SPLITS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """out[i] = sum over s of parts[s, i], in float32, in the order of the splits."""
    at = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n_elements
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    from_ = parts_ptr + at
    for _ in range(SPLITS):
        total += tl.load(from_, mask=mask, other=0.0)
        from_ += n_elements
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=mask)


__all__ = ["mtia_matmul_promoted", "mtia_matmul_scaled", "mtia_matmul_split", "mtia_sum_splits"]
