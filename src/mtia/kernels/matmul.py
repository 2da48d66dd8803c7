"""Matrix multiplication on the dot product engine: one tiled kernel for every product of matrices and vectors.

out[b, M, N] = alpha * (x[b, M, K] @ y[b, K, N]) + beta * c[b, M, N]; any strides, so transposes cost no copy.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from mtia.host_runtime import silicon
from mtia.host_runtime.launch import time_kernel
from mtia.kernels.copy import cast, contiguous, copy_strided, fill
from mtia.kernels.dtypes import accumulate_dtype, scalar_argument, triton_name
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.iteration import ceil_div
from mtia.kernels.known_launch import KnownLaunch
from mtia.kernels.reduce import reduce
from mtia.kernels.registry import aten
from mtia.kernels.tiling import Tiling, band_rows, choose_tiling

_INTEGERS = ["M", "N", "K", "x_b", "x_m", "x_k", "y_b", "y_k", "y_n", "c_b", "c_m", "c_n", "o_b", "o_m", "o_n"]


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_matmul(
    x_ptr,
    y_ptr,
    c_ptr,
    out_ptr,
    alpha,
    beta,
    M,
    N,
    K,
    x_b,
    x_m,
    x_k,
    y_b,
    y_k,
    y_n,
    c_b,
    c_m,
    c_n,
    o_b,
    o_m,
    o_n,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN_K: tl.constexpr,
    SCALED: tl.constexpr,
    HAS_C: tl.constexpr,
    INDEX: tl.constexpr,
):
    """One BM x BN tile of one matrix of the batch; K in steps of BK, accumulated in ACC.

    Tiles are walked in bands of GROUP rows, down a band's columns: neighbours share a strip of y, and a strip of either
    operand is read while a band needs it, not once a row of tiles.
    """
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(INDEX)
    band = tile // (GROUP * tiles_n) * GROUP
    band_rows = min(tiles_m - band, GROUP)
    within = tile % (GROUP * tiles_n)
    rows = ((band + within % band_rows) * BM + tl.arange(0, BM)).to(INDEX)
    columns = ((within // band_rows) * BN + tl.arange(0, BN)).to(INDEX)
    depth = tl.arange(0, BK).to(INDEX)
    row_mask = rows < M
    column_mask = columns < N
    x_at = x_ptr + batch * x_b + rows[:, None] * x_m + depth[None, :] * x_k
    y_at = y_ptr + batch * y_b + depth[:, None] * y_k + columns[None, :] * y_n
    acc = tl.zeros((BM, BN), dtype=ACC)
    for k in range(0, K, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=row_mask[:, None], other=0.0)
            y = tl.load(y_at, mask=column_mask[None, :], other=0.0)
        else:
            x = tl.load(x_at, mask=row_mask[:, None] & (depth < K - k)[None, :], other=0.0)
            y = tl.load(y_at, mask=(depth < K - k)[:, None] & column_mask[None, :], other=0.0)
        acc = tl.dot(x, y, acc, input_precision="ieee", out_dtype=ACC)
        x_at += BK * x_k
        y_at += BK * y_k
    mask = row_mask[:, None] & column_mask[None, :]
    result = acc
    if SCALED:
        result = result * tl.full([], alpha, ACC)
    if HAS_C:
        c = tl.load(c_ptr + batch * c_b + rows[:, None] * c_m + columns[None, :] * c_n, mask=mask, other=0.0).to(ACC)
        if SCALED:
            c = c * tl.full([], beta, ACC)
        result += c
    tl.store(
        out_ptr + batch * o_b + rows[:, None] * o_m + columns[None, :] * o_n,
        result.to(out_ptr.dtype.element_ty),
        mask=mask,
    )


_ACCUMULATORS = {torch.int8: torch.int32, torch.uint8: torch.int32}
_MULTIPLIED = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8)
_INT32_LIMIT = 2**31 - 1


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return _ACCUMULATORS.get(dtype, accumulate_dtype(dtype))


_launches: dict[tuple, KnownLaunch] = {}


def _launch_of(
    x: torch.Tensor, y: torch.Tensor, c: torch.Tensor | None, out: torch.Tensor, scaled: bool
) -> KnownLaunch:
    B, M, K = x.shape
    N = y.shape[2]
    acc = _accumulator(x.dtype)
    strides = (*x.stride(), *y.stride(), *((0, 0, 0) if c is None else c.stride()), *out.stride())
    integers = (M, N, K, *strides)
    far = max(_reach(t) for t in (x, y, out))
    flags: dict[str, Any] = dict(
        ACC=getattr(tl, triton_name(acc).removeprefix("tl.")),
        SCALED=scaled,
        HAS_C=c is not None,
        INDEX=tl.int64 if far > _INT32_LIMIT else tl.int32,
    )
    numbers = (1.0, 1.0) if acc.is_floating_point else (1, 1)

    def time_of(t: Tiling) -> float:
        addend = out if c is None else c
        return time_kernel(
            mtia_matmul,
            _grid(B, M, N, t),
            (x, y, addend, out, *numbers, *integers),
            {**flags, **_blocks(t, K)},
            num_stages=t.stages,
        )

    tiling = choose_tiling(B, M, N, K, x.dtype, (x.stride(2) == 1, y.stride(2) == 1, scaled, c is not None), time_of)
    constants = {**flags, **_blocks(tiling, K), "num_stages": tiling.stages}
    return KnownLaunch(mtia_matmul, _grid(B, M, N, tiling), integers, constants)


def _blocks(t: Tiling, K: int) -> dict[str, Any]:
    return dict(BM=t.m, BN=t.n, BK=t.k, GROUP=band_rows(), EVEN_K=K % t.k == 0)


def _grid(B: int, M: int, N: int, t: Tiling) -> tuple[int, int]:
    return ceil_div(M, t.m) * ceil_div(N, t.n), B


def _reach(t: torch.Tensor) -> int:
    touched = sum((n - 1) * abs(s) for n, s in zip(t.shape, t.stride(), strict=True))
    return touched + 4096 * max(1, *map(abs, t.stride()))


def multiply(
    x: torch.Tensor, y: torch.Tensor, out: torch.Tensor, c: torch.Tensor | None = None, alpha: Any = 1, beta: Any = 1
) -> None:
    """out = alpha * (x @ y) + beta * c for [B, M, K], [B, K, N]; c broadcastable to [B, M, N]; beta 0 ignores c.

    A batch of 1, or a stride of 0, shares that operand among the batch. dtypes of x and y agree.
    """
    if out.numel() == 0:
        return
    if beta == 0:
        c = None
    if x.dtype not in _MULTIPLIED:
        _multiply_integers(x, y, out, c, alpha, beta)
        return
    if c is not None:
        c = c.expand(out.shape)
    scaled = alpha != 1 or (c is not None and beta != 1)
    key = (
        x.dtype,
        out.dtype,
        x.shape,
        y.shape,
        x.stride(),
        y.stride(),
        out.stride(),
        scaled,
        None if c is None else (c.stride(), c.dtype),
        id(silicon.chip()) if x.is_mtia else 0,
    )
    found = _launches.get(key)
    if found is None:
        found = _launches[key] = _launch_of(x, y, c, out, scaled)
    acc = _accumulator(x.dtype)
    a, b = (
        scalar_argument(alpha, torch.float32 if acc.is_floating_point else acc),
        scalar_argument(beta, torch.float32 if acc.is_floating_point else acc),
    )
    found((x, y, out if c is None else c, out), (a, b))


PRODUCT = define(Operation("product", ("x", "other"), "x * other", for_bool="x & other"))


def _multiply_integers(
    x: torch.Tensor, y: torch.Tensor, out: torch.Tensor, c: torch.Tensor | None, alpha: Any, beta: Any
) -> None:
    """Types the dot product engine has no path for (16- to 64-bit integers): products, then a sum, on the SFU."""
    alpha, beta = int(alpha), int(beta)  # as PyTorch does
    B, M, K = x.shape
    N = y.shape[2]
    products = torch.empty((B, M, N, K), dtype=x.dtype, device=x.device)
    launch(PRODUCT, products, (x.unsqueeze(2), y.transpose(1, 2).unsqueeze(1)), compute=x.dtype)
    total = torch.empty((B, M, N), dtype=x.dtype, device=x.device)
    reduce("sum", products, 3, total, acc=torch.int64)
    if alpha != 1:
        total.mul_(alpha)
    if c is not None:
        total.add_(c, alpha=beta)
    copy_strided(out, total)


def _matrix(x: torch.Tensor) -> torch.Tensor:
    return x.unsqueeze(0) if x.dim() == 2 else x


def _out(out: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(out.shape) != shape:
        out.resize_(shape)
    return out


@aten("mm.out")
def mm_out(x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    _out(out, (x.shape[0], y.shape[1]))
    if x.shape[1] == 0:
        return fill(out, 0)
    multiply(_matrix(x), _matrix(y), _matrix(out))
    return out


@aten("addmm.out")
def addmm_out(
    c: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, beta: Any = 1, alpha: Any = 1, out: torch.Tensor
) -> torch.Tensor:
    _out(out, (x.shape[0], y.shape[1]))
    multiply(_matrix(x), _matrix(y), _matrix(out), c.expand(out.shape).unsqueeze(0), alpha, beta)
    return out


@aten("bmm.out")
def bmm_out(x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    _out(out, (x.shape[0], x.shape[1], y.shape[2]))
    if x.shape[2] == 0:
        return fill(out, 0)
    multiply(x, y, out)
    return out


@aten("baddbmm.out")
def baddbmm_out(
    c: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, beta: Any = 1, alpha: Any = 1, out: torch.Tensor
) -> torch.Tensor:
    _out(out, (x.shape[0], x.shape[1], y.shape[2]))
    multiply(x, y, out, c, alpha, beta)
    return out


@aten("addbmm.out")
def addbmm_out(
    c: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, beta: Any = 1, alpha: Any = 1, out: torch.Tensor
) -> torch.Tensor:
    B, M, K = x.shape
    long_x = x.permute(1, 0, 2).reshape(M, B * K)
    return addmm_out(c, long_x, y.reshape(B * K, y.shape[2]), beta=beta, alpha=alpha, out=out)


@aten("mv.out")
def mv_out(x: torch.Tensor, v: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    _out(out, (x.shape[0],))
    multiply(
        v.view(1, 1, -1) if v.is_contiguous() else contiguous(v).view(1, 1, -1),
        x.t().unsqueeze(0),
        out.view(1, 1, -1) if out.is_contiguous() else out[None, None, :],
    )
    return out


@aten("mv")
def mv(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return mv_out(x, v, out=torch.empty(x.shape[0], dtype=x.dtype, device=x.device))


@aten("addmv.out")
def addmv_out(
    c: torch.Tensor, x: torch.Tensor, v: torch.Tensor, *, beta: Any = 1, alpha: Any = 1, out: torch.Tensor
) -> torch.Tensor:
    _out(out, (x.shape[0],))
    multiply(v[None, None, :], x.t().unsqueeze(0), out[None, None, :], c.expand(out.shape)[None, None, :], alpha, beta)
    return out


@aten("dot")
def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.empty((), dtype=x.dtype, device=x.device)
    acc = accumulate_dtype(x.dtype)
    products = torch.empty(x.shape, dtype=acc, device=x.device)
    launch(PRODUCT, products, (x, y), compute=acc)
    reduce("sum", products, 0, out, acc=acc)
    return out


@aten("vdot")
def vdot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return dot(x, y)


@aten("_int_mm.out")
def int_mm_out(x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    return mm_out(x, y, out=out)


@aten("_int_mm")
def int_mm(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return mm_out(x, y, out=torch.empty((x.shape[0], y.shape[1]), dtype=torch.int32, device=x.device))


@aten("_grouped_mm")
def grouped_mm(
    x: torch.Tensor,
    y: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Groups of rows (2-D by 3-D), of columns (3-D by 2-D), of depth (2-D by 2-D), or a plain batch (3-D by 3-D)."""
    kind = out_dtype or x.dtype
    if x.dim() == 3 and y.dim() == 3:
        out = torch.empty((x.shape[0], x.shape[1], y.shape[2]), dtype=kind, device=x.device)
        multiply(x, y, out)
        return out
    assert offs is not None
    ends = offs.tolist()
    starts = [0, *ends[:-1]]
    pieces = list(enumerate(zip(starts, ends, strict=True)))
    if x.dim() == 2 and y.dim() == 2:
        out = torch.zeros((len(ends), x.shape[0], y.shape[1]), dtype=kind, device=x.device)
        parts = [(x[:, a:b], y[a:b], out[g]) for g, (a, b) in pieces]
    elif x.dim() == 2:
        out = torch.zeros((x.shape[0], y.shape[2]), dtype=kind, device=x.device)
        parts = [(x[a:b], y[g], out[a:b]) for g, (a, b) in pieces]
    else:
        out = torch.zeros((x.shape[1], y.shape[1]), dtype=kind, device=x.device)
        parts = [(x[g], y[:, a:b], out[:, a:b]) for g, (a, b) in pieces]
    for left, right, into in parts:
        if left.numel() and right.numel():
            multiply(_matrix(left), _matrix(right), _matrix(into))
    return out if bias is None else out + cast(bias, kind)
