"""Products with 2:4 sparse weights: of four along the depth two are kept, with their places, and the engine multiplies
those (MTIA 200: twice the dense rate).

values [N, K / 2] in the depth's order; places [K / 8, N] bytes (so a tile's are long runs of memory), a nibble for four
elements, the first four in the low half: bits 0 and 1 the place of the first value, bits 2 and 3 that of the second.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from mtia.kernels.library_matmul import _place
from mtia.kernels.scaled_matmul import _finish, launch_tiled
from mtia.kernels.tiling import Operand

_INTEGERS = ["M", "N", "K"]
_RATES = {torch.int8: "int8", torch.float16: "fp16", torch.bfloat16: "bf16"}


@triton.jit
def _spread(values, places, BK: tl.constexpr, BN: tl.constexpr):
    """Dense [BK, BN] of values [BK / 2, BN] and places [BK / 8, BN]: what the engine does as it reads them."""
    nibbles = tl.permute(tl.join(places & 15, places >> 4), (0, 2, 1)).reshape(BK // 4, BN)
    first, second = tl.split(tl.permute(values.reshape(BK // 4, 2, BN), (0, 2, 1)))
    at_first, at_second = nibbles & 3, nibbles >> 2
    none = tl.zeros((BK // 4, BN), dtype=values.dtype)
    e0 = tl.where(at_first == 0, first, tl.where(at_second == 0, second, none))
    e1 = tl.where(at_first == 1, first, tl.where(at_second == 1, second, none))
    e2 = tl.where(at_first == 2, first, tl.where(at_second == 2, second, none))
    e3 = tl.where(at_first == 3, first, tl.where(at_second == 3, second, none))
    four = tl.join(tl.join(e0, e2), tl.join(e1, e3)).reshape(BK // 4, BN, 4)
    return tl.permute(four, (0, 2, 1)).reshape(BK, BN)


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_matmul_sparse(
    x_ptr, values_ptr, places_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, out_ptr, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, EVEN_K: tl.constexpr,
    SCALED: tl.constexpr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out[M, N] = x[M, K] @ w[N, K]^T. SCALED: times float32 scales, one for each row of x and of w, after the sums."""
    row, column = _place(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    rows = row * BM + tl.arange(0, BM)
    columns = column * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    kept = tl.arange(0, BK // 2)
    eights = tl.arange(0, BK // 8)
    x_at = x_ptr + rows.to(tl.int64)[:, None] * K + depth[None, :]
    values_at = values_ptr + kept[:, None] + columns.to(tl.int64)[None, :] * (K // 2)
    places_at = places_ptr + eights.to(tl.int64)[:, None] * N + columns[None, :]
    acc = tl.zeros((BM, BN), dtype=ACC)
    for k in range(0, K, BK):
        if EVEN_K:
            x = tl.load(x_at, mask=(rows < M)[:, None], other=0.0)
            values = tl.load(values_at, mask=(columns < N)[None, :], other=0.0)
            places = tl.load(places_at, mask=(columns < N)[None, :], other=4)
        else:
            x = tl.load(x_at, mask=(rows < M)[:, None] & (depth < K - k)[None, :], other=0.0)
            values = tl.load(values_at, mask=(kept < (K - k) // 2)[:, None] & (columns < N)[None, :], other=0.0)
            places = tl.load(places_at, mask=(eights < (K - k) // 8)[:, None] & (columns < N)[None, :], other=4)
        w = libdevice.sparse_2_4(_spread(values, places, BK, BN))
        acc = tl.dot(x, w, acc, out_dtype=ACC)
        x_at += BK
        values_at += BK // 2
        places_at += BK // 8 * N
    result = acc.to(tl.float32)
    if SCALED:
        result = result * tl.load(x_scale_ptr + rows, mask=rows < M, other=0.0)[:, None]
        result = result * tl.load(w_scale_ptr + columns, mask=columns < N, other=0.0)[None, :]
    _finish(out_ptr, bias_ptr, result, rows, columns, M, N, HAS_BIAS)


def multiply_sparse(
    x: torch.Tensor, values: torch.Tensor, places: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor] | None,
    bias: torch.Tensor | None, out: torch.Tensor,
) -> None:  # fmt: skip
    """out = x @ w.T + bias: x [M, K] contiguous in the type of `values`; of int8, float32 scales of both's rows."""
    (M, K), N = x.shape, values.shape[0]
    is_int = x.dtype == torch.int8
    flags = dict(SCALED=scales is not None, HAS_BIAS=bias is not None, ACC=tl.int32 if is_int else tl.float32)
    x_scale, w_scale = (out, out) if scales is None else scales
    arguments = (x, values, places, x_scale, w_scale, out if bias is None else bias, out)

    operand = Operand(_RATES[x.dtype], float(x.element_size()))
    launch_tiled(mtia_matmul_sparse, operand, arguments, (M, N, K), flags, (str(out.dtype), *flags.values()))


__all__ = ["mtia_matmul_sparse", "multiply_sparse"]
