"""Fused element-wise steps of a transformer layer: gated activation, residual RMS norm, rotary embedding, quantisation.

One program per row (of a token) and block of columns; R rows, N elements of an output row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mtia.kernels.elementwise import Operation, define
from mtia.kernels.functions import exp_by_powers

#: out = silu(gate) * x: the activation between the matrices of a gated feed-forward.
SILU_MUL = define(Operation("silu_mul", ("gate", "x"), "gate / (1.0 + tl.exp(-gate)) * x"))
#: The same, and gelu (tanh form), where exponentials come from powers of two.
SILU_MUL_BY_POWERS = define(
    Operation("silu_mul_by_powers", ("gate", "x"), "gate / (1.0 + fn.exp_by_powers(-gate)) * x")
)
GELU_BY_POWERS = define(
    Operation(
        "gelu_by_powers",
        ("x",),
        "0.5 * x * (1.0 + fn.tanh_by_powers(x * tl.fma(x * x, 0.035677408136300125, 0.7978845608028654)))",
    )
)


@triton.jit(do_not_specialize=["R", "N"])
def mtia_add_rms_norm(x_ptr, residual_ptr, w_ptr, out_ptr, eps, R, N, WIDTH: tl.constexpr):
    """residual += x; out = residual / rms(residual) * w. One row of at most WIDTH elements a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    mask = column < N
    at = row * N + column
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(residual_ptr + at, x.to(residual_ptr.dtype.element_ty), mask=mask)
    scale = 1.0 / tl.sqrt_rn(tl.sum(x * x, 0) / N + eps)
    y = x * scale * tl.load(w_ptr + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["R", "N"])
def mtia_quantize_groups(
    x_ptr, out_ptr, scale_ptr, R, N, ROWS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, TOP: tl.constexpr
):
    """Dynamic quantisation by groups of GROUP columns: scale = max |x| / TOP, out = x / scale in out's type.

    ROWS rows by GROUPS groups a program; N is a multiple of GROUP. `scale` is float32 [R, N / GROUP].
    """
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    n_groups = N // GROUP
    inside = (row < R)[:, None] & (group < n_groups)[None, :]
    at = (row * N)[:, None, None] + (group * GROUP)[None, :, None] + tl.arange(0, GROUP)[None, None, :]
    x = tl.load(x_ptr + at, mask=inside[:, :, None], other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 2), 1e-12) / TOP
    tl.store(scale_ptr + (row * n_groups)[:, None] + group[None, :], scale, mask=inside)
    tl.store(out_ptr + at, (x / scale[:, :, None]).to(out_ptr.dtype.element_ty), mask=inside[:, :, None])


@triton.jit(do_not_specialize=["R", "N"])
def mtia_norm_streamed(
    x_ptr, w_ptr, out_ptr, eps, R, N, WIDTH: tl.constexpr, CENTRE: tl.constexpr, HAS_W: tl.constexpr
):
    """One row a program, walked twice in blocks: sums and squares together, then (x - mean) * rstd (* w).

    Squares are taken about zero, so it is less exact than mtia_layer_norm_long, which walks a third time.
    """
    start = tl.program_id(0).to(tl.int64) * N
    sums = tl.zeros((WIDTH,), tl.float32)
    squares = tl.zeros((WIDTH,), tl.float32)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=0.0).to(tl.float32)
        squares += x * x
        if CENTRE:
            sums += x
    mean = tl.sum(sums, 0) / N
    rstd = 1.0 / tl.sqrt_rn(tl.sum(squares, 0) / N - mean * mean + eps)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=0.0).to(tl.float32)
        y = (x - mean) * rstd
        if HAS_W:
            y = y * tl.load(w_ptr + column, mask=column < N, other=0.0).to(tl.float32)
        tl.store(out_ptr + start + column, y.to(out_ptr.dtype.element_ty), mask=column < N)


@triton.jit(do_not_specialize=["R", "N"])
def mtia_softmax_streamed(x_ptr, out_ptr, R, N, WIDTH: tl.constexpr):
    """One row a program, walked three times in blocks: largest, sum of exponentials, quotients."""
    start = tl.program_id(0).to(tl.int64) * N
    tops = tl.full((WIDTH,), float("-inf"), tl.float32)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=float("-inf")).to(tl.float32)
        tops = tl.maximum(tops, x)
    top = tl.max(tops, 0)
    sums = tl.zeros((WIDTH,), tl.float32)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=float("-inf")).to(tl.float32)
        sums += exp_by_powers(tl.maximum(x - top, -200.0))
    total = tl.sum(sums, 0)
    for k in range(0, N, WIDTH):
        column = k + tl.arange(0, WIDTH)
        x = tl.load(x_ptr + start + column, mask=column < N, other=float("-inf")).to(tl.float32)
        y = exp_by_powers(tl.maximum(x - top, -200.0)) / total
        tl.store(out_ptr + start + column, y.to(out_ptr.dtype.element_ty), mask=column < N)


@triton.jit(do_not_specialize=["HEADS"])
def mtia_rope(x_ptr, table_ptr, HEADS, ROWS: tl.constexpr, HALF: tl.constexpr):
    """x[token, head, :] turned in place by the angles of its token, ROWS heads a program.

    `table`: [tokens, 2 * HALF], cosines then sines. Element i turns with element i + HALF.
    """
    token = tl.program_id(1).to(tl.int64)
    head = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, HALF)
    mask = (head < HEADS)[:, None]
    cosine = tl.load(table_ptr + token * (2 * HALF) + column).to(tl.float32)[None, :]
    sine = tl.load(table_ptr + token * (2 * HALF) + HALF + column).to(tl.float32)[None, :]
    at = x_ptr + (token * HEADS + head[:, None]) * (2 * HALF) + column[None, :]
    a = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(at + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(at, (a * cosine - b * sine).to(x_ptr.dtype.element_ty), mask=mask)
    tl.store(at + HALF, (b * cosine + a * sine).to(x_ptr.dtype.element_ty), mask=mask)
