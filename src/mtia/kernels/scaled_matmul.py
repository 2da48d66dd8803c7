"""Products of 8- and 4-bit operands: one scale for a tensor or a row (`mtia_matmul_rows`), one for a block of the depth
(`mtia_matmul_blocks`), or narrow weights beside wide activations, unpacked as they come (`mtia_matmul_unpacked`).

out[M, N] = x[M, K] @ w[N, K]^T, depth contiguous in both, as a linear layer keeps its weights.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels.iteration import ceil_div
from mtia.kernels.library_matmul import _place
from mtia.kernels.tiling import Operand, Tiling, band_rows, choose_tiling

_INTEGERS = ["M", "N", "K"]


@triton.jit
def _finish(out_ptr, bias_ptr, result, rows, columns, M, N, HAS_BIAS: tl.constexpr):
    if HAS_BIAS:
        result += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    at = out_ptr + rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(at, result.to(out_ptr.dtype.element_ty), mask=(rows < M)[:, None] & (columns < N)[None, :])


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_matmul_rows(
    x_ptr,
    w_ptr,
    x_scale_ptr,
    w_scale_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN_K: tl.constexpr,
    X_ROWS: tl.constexpr,
    W_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr,
):
    """int8 or float8 operands. Scales are float32: one for each row of x (w) with X_ROWS (W_ROWS), else one for all.

    Sums in ACC (int32, float32); scales and bias follow in float32, in that order.
    """
    row, column = _place(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    rows = row * BM + tl.arange(0, BM)
    columns = column * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    x_at = x_ptr + rows.to(tl.int64)[:, None] * K + depth[None, :]
    w_at = w_ptr + depth[:, None] + columns.to(tl.int64)[None, :] * K
    acc = tl.zeros((BM, BN), dtype=ACC)
    for k in range(0, K, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=(rows < M)[:, None], other=0.0)
            w = tl.load(w_at, mask=(columns < N)[None, :], other=0.0)
        else:
            x = tl.load(x_at, mask=(rows < M)[:, None] & (depth < K - k)[None, :], other=0.0)
            w = tl.load(w_at, mask=(depth < K - k)[:, None] & (columns < N)[None, :], other=0.0)
        acc = tl.dot(x, w, acc, out_dtype=ACC)
        x_at += BK
        w_at += BK
    if X_ROWS:
        x_scale = tl.load(x_scale_ptr + rows, mask=rows < M, other=0.0)
        result = acc.to(tl.float32) * x_scale[:, None]
    else:
        result = acc.to(tl.float32) * tl.load(x_scale_ptr)
    if W_ROWS:
        w_scale = tl.load(w_scale_ptr + columns, mask=columns < N, other=0.0)
        result = result * w_scale[None, :]
    else:
        result = result * tl.load(w_scale_ptr)
    _finish(out_ptr, bias_ptr, result, rows, columns, M, N, HAS_BIAS)


@triton.jit
def _scales_at(ptr, rows, blocks, n_rows, n_blocks, ROWS: tl.constexpr, TURNED: tl.constexpr):
    """Where the scales of rows by blocks lie, and the step from a block to the next."""
    if TURNED:
        at = ptr + (rows // ROWS)[:, None] + blocks.to(tl.int64)[None, :] * n_rows
        step = n_rows
    else:
        at = ptr + (rows // ROWS).to(tl.int64)[:, None] * n_blocks + blocks[None, :]
        step = 1
    return at, step


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_matmul_blocks(
    x_ptr,
    w_ptr,
    x_scale_ptr,
    w_scale_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK: tl.constexpr,
    X_ROWS: tl.constexpr,
    W_ROWS: tl.constexpr,
    X_TURNED: tl.constexpr,
    W_TURNED: tl.constexpr,
    X_FORMAT: tl.constexpr,
    W_FORMAT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Block-scaled operands, a scale for X_ROWS (W_ROWS) rows by BLOCK of depth: [ceil(M / X_ROWS), K / BLOCK], with
    X_TURNED (W_TURNED) the rows next to each other in memory.

    Format e2m1: two elements a byte. K is a multiple of BLOCK, BK of BLOCK.
    """
    X_PACKED: tl.constexpr = 2 if X_FORMAT == "e2m1" else 1
    W_PACKED: tl.constexpr = 2 if W_FORMAT == "e2m1" else 1
    row, column = _place(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    rows = row * BM + tl.arange(0, BM)
    columns = column * BN + tl.arange(0, BN)
    x_bytes = tl.arange(0, BK // X_PACKED)
    w_bytes = tl.arange(0, BK // W_PACKED)
    blocks = tl.arange(0, BK // BLOCK)
    x_at = x_ptr + rows.to(tl.int64)[:, None] * (K // X_PACKED) + x_bytes[None, :]
    w_at = w_ptr + w_bytes[:, None] + columns.to(tl.int64)[None, :] * (K // W_PACKED)
    xs_at, xs_step = _scales_at(x_scale_ptr, rows, blocks, tl.cdiv(M, X_ROWS), K // BLOCK, X_ROWS, X_TURNED)
    ws_at, ws_step = _scales_at(w_scale_ptr, columns, blocks, tl.cdiv(N, W_ROWS), K // BLOCK, W_ROWS, W_TURNED)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=(rows < M)[:, None], other=0.0)
            w = tl.load(w_at, mask=(columns < N)[None, :], other=0.0)
            xs = tl.load(xs_at, mask=(rows < M)[:, None], other=0.0)
            ws = tl.load(ws_at, mask=(columns < N)[:, None], other=0.0)
        else:
            inside = blocks < (K - k) // BLOCK
            x = tl.load(x_at, mask=(rows < M)[:, None] & (x_bytes < (K - k) // X_PACKED)[None, :], other=0.0)
            w = tl.load(w_at, mask=(w_bytes < (K - k) // W_PACKED)[:, None] & (columns < N)[None, :], other=0.0)
            xs = tl.load(xs_at, mask=(rows < M)[:, None] & inside[None, :], other=0.0)
            ws = tl.load(ws_at, mask=(columns < N)[:, None] & inside[None, :], other=0.0)
        acc = tl.dot_scaled(x, xs, X_FORMAT, w, ws, W_FORMAT, acc)
        x_at += BK // X_PACKED
        w_at += BK // W_PACKED
        xs_at += xs_step * (BK // BLOCK)
        ws_at += ws_step * (BK // BLOCK)
    _finish(out_ptr, bias_ptr, acc, rows, columns, M, N, HAS_BIAS)


@triton.jit
def _wide(codes, FORMAT: tl.constexpr):
    """bfloat16 numbers of int8, MXINT8, e4m3 or (one a byte) e2m1, e2m3 and e3m2 codes, exactly, on any chip: a code's
    exponent and mantissa are moved to where bfloat16 keeps them, and a power of two mends the bias."""
    if FORMAT == "int8":
        return codes.to(tl.int8, bitcast=True).to(tl.bfloat16)
    if FORMAT == "mxint8":
        return codes.to(tl.int8, bitcast=True).to(tl.bfloat16) * tl.full([], 2.0**-6, tl.bfloat16)
    bits = codes.to(tl.int16)
    if FORMAT == "e2m3":
        moved = ((bits & 31) << 4) | ((bits & 32) << 10)
        return moved.to(tl.bfloat16, bitcast=True) * tl.full([], 2.0**126, tl.bfloat16)
    if FORMAT == "e3m2":
        moved = ((bits & 31) << 5) | ((bits & 32) << 10)
        return moved.to(tl.bfloat16, bitcast=True) * tl.full([], 2.0**124, tl.bfloat16)
    if FORMAT == "e4m3":
        moved = ((bits & 127) << 4) | ((bits & 128) << 8)
        return moved.to(tl.bfloat16, bitcast=True) * tl.full([], 2.0**120, tl.bfloat16)
    moved = ((bits & 7) << 6) | ((bits & 8) << 12)
    return moved.to(tl.bfloat16, bitcast=True) * tl.full([], 2.0**126, tl.bfloat16)


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_matmul_unpacked(
    x_ptr,
    w_ptr,
    w_scale_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN_K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK: tl.constexpr,
    W_ROWS: tl.constexpr,
    W_TURNED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """bfloat16 x by narrow weights (bytes), widened to bfloat16 on the vector cores.

    BLOCK 0: a float32 scale for each row of w, after the sums. Else E8M0 codes for W_ROWS rows by BLOCK of depth, which
    scale the weights exactly before they are multiplied.
    """
    PACKED: tl.constexpr = 2 if FORMAT == "e2m1" else 1
    row, column = _place(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    rows = row * BM + tl.arange(0, BM)
    columns = column * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    bytes_ = tl.arange(0, BK // PACKED)
    x_at = x_ptr + rows.to(tl.int64)[:, None] * K + depth[None, :]
    w_at = w_ptr + columns.to(tl.int64)[:, None] * (K // PACKED) + bytes_[None, :]
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    if BLOCK > 0:
        blocks = tl.arange(0, BK // BLOCK)
        ws_at, ws_step = _scales_at(w_scale_ptr, columns, blocks, tl.cdiv(N, W_ROWS), K // BLOCK, W_ROWS, W_TURNED)
    for k in range(0, K, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=(rows < M)[:, None], other=0.0)
            codes = tl.load(w_at, mask=(columns < N)[:, None], other=0)
        else:
            x = tl.load(x_at, mask=(rows < M)[:, None] & (depth < K - k)[None, :], other=0.0)
            codes = tl.load(w_at, mask=(columns < N)[:, None] & (bytes_ < (K - k) // PACKED)[None, :], other=0)
        if PACKED == 2:
            codes = tl.reshape(tl.join(codes & 15, codes >> 4), (BN, BK))
        w = _wide(codes, FORMAT)
        if BLOCK > 0:
            inside = (columns < N)[:, None] & (blocks < (K - k) // BLOCK)[None, :]
            scale = (tl.load(ws_at, mask=inside, other=0).to(tl.int16) << 7).to(tl.bfloat16, bitcast=True)
            w = tl.reshape(tl.reshape(w, (BN, BK // BLOCK, BLOCK)) * tl.reshape(scale, (BN, BK // BLOCK, 1)), (BN, BK))
            ws_at += ws_step * (BK // BLOCK)
        acc = tl.dot(x, tl.trans(w), acc)
        x_at += BK
        w_at += BK // PACKED
    if BLOCK == 0:
        acc = acc * tl.load(w_scale_ptr + columns, mask=columns < N, other=0.0)[None, :]
    _finish(out_ptr, bias_ptr, acc, rows, columns, M, N, HAS_BIAS)


# --- calls ------------------------------------------------------------------------------------------------------------


def launch_tiled(
    kernel: Any, x_rate: Operand, arguments: tuple, sizes: tuple[int, int, int], flags: dict[str, Any], kind: tuple
) -> None:
    """Launch with the tiling of least simulated time. `arguments`: the kernel's tensors, in order."""
    M, N, K = sizes

    def blocks_of(t: Tiling) -> dict[str, Any]:
        return dict(BM=t.m, BN=t.n, BK=t.k, GROUP=band_rows(), EVEN_K=K % t.k == 0, **flags)

    def grid_of(t: Tiling) -> tuple[int]:
        return (ceil_div(M, t.m) * ceil_div(N, t.n),)

    def time_of(t: Tiling) -> float:
        from mtia.host_runtime.launch import time_kernel

        return time_kernel(kernel, grid_of(t), (*arguments, M, N, K), blocks_of(t), num_stages=t.stages)

    tiling = choose_tiling(1, M, N, K, x_rate, (kernel.fn.__name__, *kind), time_of)
    kernel[grid_of(tiling)](*arguments, M, N, K, **blocks_of(tiling), num_stages=tiling.stages)


def multiply_rows(
    x: torch.Tensor,
    w: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """out = (x @ w.T) * x_scale * w_scale + bias: x [M, K], w [N, K] int8 or float8 alike, contiguous; scales float32
    of one element or one a row."""
    (M, K), N = x.shape, w.shape[0]
    is_int = x.dtype == torch.int8
    flags = dict(X_ROWS=x_scale.numel() > 1, W_ROWS=w_scale.numel() > 1, HAS_BIAS=bias is not None,
                 ACC=tl.int32 if is_int else tl.float32)  # fmt: skip
    operand = Operand("int8" if is_int else "fp8", 1.0)
    arguments = (x, w, x_scale, w_scale, out if bias is None else bias, out)
    launch_tiled(
        mtia_matmul_rows, operand, arguments, (M, N, K), flags, (str(x.dtype), str(out.dtype), *flags.values())
    )


def multiply_blocks(
    x: torch.Tensor,
    w: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    block: int,
) -> None:
    """out = x @ w.T + bias for block-scaled operands: e4m3, e5m2 or packed e2m1 (uint8) [M, K], [N, K]; scales uint8
    (E8M0 codes) or e4m3 [rows or ceil(rows / 16), K / block], contiguous or the transpose of what is."""
    formats = {torch.float8_e4m3fn: "e4m3", torch.float8_e5m2: "e5m2", torch.uint8: "e2m1"}
    x_format, w_format = formats[x.dtype], formats[w.dtype]
    M, N = x.shape[0], w.shape[0]
    K = x.shape[1] * (2 if x_format == "e2m1" else 1)
    flags = dict(BLOCK=block, X_ROWS=_rows_a_scale(M, x_scale), W_ROWS=_rows_a_scale(N, w_scale),
                 X_TURNED=is_turned(x_scale), W_TURNED=is_turned(w_scale), X_FORMAT=x_format, W_FORMAT=w_format,
                 HAS_BIAS=bias is not None)  # fmt: skip
    narrow = x_format == w_format == "e2m1"
    operand = Operand("mx4", 0.5) if narrow else Operand("mx8", 1.0)
    arguments = (x, w, x_scale, w_scale, out if bias is None else bias, out)
    launch_tiled(mtia_matmul_blocks, operand, arguments, (M, N, K), flags, (str(out.dtype), *flags.values()))


def _rows_a_scale(rows: int, scale: torch.Tensor) -> int:
    return 1 if scale.shape[0] == rows else 16


def is_turned(scale: torch.Tensor) -> bool:
    """Whether block scales [rows, blocks] lie with their rows next to each other: the scales of a tile are then long
    runs of memory, where those of one row are a run shorter than a line of SRAM."""
    return not scale.is_contiguous() and scale.t().is_contiguous()


def multiply_unpacked(
    x: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    form: str,
    block: int,
) -> None:
    """out = x @ wide(w).T + bias: x bfloat16 [M, K], w bytes [N, K], of e2m1 [N, K / 2]; `form` as `_wide` has it."""
    (M, K), N = x.shape, w.shape[0]
    flags = dict(
        FORMAT=form,
        BLOCK=block,
        W_ROWS=_rows_a_scale(N, w_scale),
        W_TURNED=is_turned(w_scale),
        HAS_BIAS=bias is not None,
    )
    arguments = (x, w, w_scale, out if bias is None else bias, out)
    kind = (str(out.dtype), *flags.values())
    launch_tiled(mtia_matmul_unpacked, Operand("bf16", 2.0), arguments, (M, N, K), flags, kind)


__all__ = ["is_turned", "launch_tiled", "mtia_matmul_blocks", "mtia_matmul_rows", "mtia_matmul_unpacked",
           "multiply_blocks", "multiply_rows", "multiply_unpacked"]  # fmt: skip
