"""scaled_dot_product_attention and its gradients: PyTorch's overrideable fused operator, served by flash kernels.

Nothing of size queries x keys is kept: the forward pass saves each query's log-sum-exp, and the backward pass computes
the weights again, once for the queries' gradient and once for keys and values. A mask is an additive bias of any
strides (broadcast dims cost nothing). `csrc/attention.cpp` sends here what fits: no dropout, one dtype, no gradient of
the mask.
"""

# B batch, H query heads, G query heads per KV head, S_q queries, S_k keys, D head dim; s scores and p weights [BQ, BN]

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels.attention import LOG2_E, _check_heads, _index, _softmax_step, _tl, attention
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.registry import aten

TILE = 64  # queries and keys of a block, as in `attention`
_TO_BASE_2 = tl.constexpr(LOG2_E)
_TO_BASE_E = tl.constexpr(math.log(2.0))

_STRIDES = [f"{t}_{dim}" for t in ("q", "k", "v", "o", "go", "gq", "gk", "gv") for dim in ("b", "h", "s", "d")]
_INTEGERS = ["S_q", "S_k", "H", "G", "bias_b", "bias_h", "bias_q", "bias_k", *_STRIDES]


# --- pieces -----------------------------------------------------------------------------------------------------------


@triton.jit
def _rows(ptr, row, d, stride_s, stride_d, S, D: tl.constexpr, TYPE: tl.constexpr):
    """Rows [N, BD] of one head; 0 beyond S and D."""
    at = ptr + row[:, None] * stride_s + d[None, :] * stride_d
    return tl.load(at, mask=(row < S)[:, None] & (d < D)[None, :], other=0.0).to(TYPE)


@triton.jit
def _block_of_head(S, H, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """What this program works on: head of all (batch * H + head), batch, head, its first row of S."""
    tiles = tl.cdiv(S, BLOCK)
    unit = tl.program_id(0) // tiles
    return unit, (unit // H).to(INDEX), (unit % H).to(INDEX), tl.program_id(0) % tiles * BLOCK


@triton.jit
def _scores(
    q, k, scale, bias_ptr, row, column, S_q, S_k, bias_q, bias_k, BIASED: tl.constexpr, CAUSAL: tl.constexpr
):  # fmt: skip
    """Scores in base 2 [BQ, BN] of queries `row` and keys `column`; -inf where a query may not see a key."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (row < S_q)[:, None] & (column < S_k)[None, :]
    if BIASED:
        at = bias_ptr + row[:, None] * bias_q + column[None, :] * bias_k
        s = s + tl.load(at, mask=seen, other=0.0).to(tl.float32) * _TO_BASE_2
    if CAUSAL:
        seen = seen & (column[None, :] <= row[:, None])
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _saved(lse_ptr, delta_ptr, row, S_q):
    """log-sum-exp in base 2 (0 where a query saw no key: its weights are then exp2(-inf)) and delta, of these rows."""
    lse = tl.load(lse_ptr + row, mask=row < S_q, other=0.0)
    lse = tl.where(lse == float("-inf"), 0.0, lse) * _TO_BASE_2
    return lse, tl.load(delta_ptr + row, mask=row < S_q, other=0.0)


# --- forward with a mask ----------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_attention_biased(
    q_ptr, k_ptr, v_ptr, bias_ptr, o_ptr, lse_ptr,
    scale,
    S_q, S_k, H, G,
    q_b, q_h, q_s, q_d, k_b, k_h, k_s, k_d, v_b, v_h, v_s, v_d, bias_b, bias_h, bias_q, bias_k, o_b, o_h, o_s, o_d,
    BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """BQ queries of one head: out = softmax(scale q k^T + bias) v, and log-sum-exp [B, H, S_q]."""
    unit, batch, head, first = _block_of_head(S_q, H, BQ, INDEX)
    row = first + tl.arange(0, BQ)
    d = tl.arange(0, BD)
    n = tl.arange(0, BN)
    q = _rows(q_ptr + batch * q_b + head * q_h, row, d, q_s, q_d, S_q, D, TYPE)
    top = tl.full((BQ,), float("-inf"), tl.float32)
    total = tl.full((BQ,), 0, tl.float32)
    acc = tl.full((BQ, BD), 0, tl.float32)
    stop = S_k
    if CAUSAL:
        stop = min(S_k, first + BQ)
    for at in range(0, stop, BN):
        k = _rows(k_ptr + batch * k_b + head // G * k_h, at + n, d, k_s, k_d, S_k, D, TYPE)
        v = _rows(v_ptr + batch * v_b + head // G * v_h, at + n, d, v_s, v_d, S_k, D, TYPE)
        s = _scores(
            q, k, scale, bias_ptr + batch * bias_b + head * bias_h, row, at + n, S_q, S_k, bias_q, bias_k, True, CAUSAL
        )
        p, top, total, alpha = _softmax_step(s, top, total, 1.0, True)
        acc = tl.dot(p.to(TYPE), v, acc * alpha[:, None], input_precision="ieee")
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    o_at = o_ptr + batch * o_b + head * o_h + row[:, None] * o_s + d[None, :] * o_d
    tl.store(o_at, acc.to(o_ptr.dtype.element_ty), mask=(row < S_q)[:, None] & (d < D)[None, :])
    tl.store(lse_ptr + unit.to(INDEX) * S_q + row, (top + tl.log2(total)) * _TO_BASE_E, mask=row < S_q)


# --- backward ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_attention_delta(
    o_ptr, go_ptr, delta_ptr, S_q, H,
    o_b, o_h, o_s, o_d, go_b, go_h, go_s, go_d,
    BQ: tl.constexpr, BD: tl.constexpr, D: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """delta [B, H, S_q]: the sum over D of out times its gradient, BQ queries of one head."""
    unit, batch, head, first = _block_of_head(S_q, H, BQ, INDEX)
    row = first + tl.arange(0, BQ)
    d = tl.arange(0, BD)
    o = _rows(o_ptr + batch * o_b + head * o_h, row, d, o_s, o_d, S_q, D, tl.float32)
    go = _rows(go_ptr + batch * go_b + head * go_h, row, d, go_s, go_d, S_q, D, tl.float32)
    tl.store(delta_ptr + unit.to(INDEX) * S_q + row, tl.sum(o * go, 1), mask=row < S_q)


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_attention_backward_queries(
    q_ptr, k_ptr, v_ptr, bias_ptr, go_ptr, lse_ptr, delta_ptr, gq_ptr,
    scale, out_scale,
    S_q, S_k, H, G,
    q_b, q_h, q_s, q_d, k_b, k_h, k_s, k_d, v_b, v_h, v_s, v_d, bias_b, bias_h, bias_q, bias_k, go_b, go_h, go_s, go_d,
    gq_b, gq_h, gq_s, gq_d,
    BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, D: tl.constexpr, BIASED: tl.constexpr, CAUSAL: tl.constexpr,
    TYPE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The gradient of BQ queries of one head, over all keys that they see."""
    unit, batch, head, first = _block_of_head(S_q, H, BQ, INDEX)
    row = first + tl.arange(0, BQ)
    d = tl.arange(0, BD)
    n = tl.arange(0, BN)
    q = _rows(q_ptr + batch * q_b + head * q_h, row, d, q_s, q_d, S_q, D, TYPE)
    go = _rows(go_ptr + batch * go_b + head * go_h, row, d, go_s, go_d, S_q, D, TYPE)
    lse, delta = _saved(lse_ptr + unit.to(INDEX) * S_q, delta_ptr + unit.to(INDEX) * S_q, row, S_q)
    acc = tl.full((BQ, BD), 0, tl.float32)
    stop = S_k
    if CAUSAL:
        stop = min(S_k, first + BQ)
    for at in range(0, stop, BN):
        k = _rows(k_ptr + batch * k_b + head // G * k_h, at + n, d, k_s, k_d, S_k, D, TYPE)
        v = _rows(v_ptr + batch * v_b + head // G * v_h, at + n, d, v_s, v_d, S_k, D, TYPE)
        s = _scores(
            q, k, scale, bias_ptr + batch * bias_b + head * bias_h, row, at + n, S_q, S_k, bias_q, bias_k, BIASED,
            CAUSAL,
        )  # fmt: skip
        p = tl.exp2(s - lse[:, None])
        gs = p * (tl.dot(go, tl.trans(v), input_precision="ieee") - delta[:, None])
        acc = tl.dot(gs.to(TYPE), k, acc, input_precision="ieee")
    at = gq_ptr + batch * gq_b + head * gq_h + row[:, None] * gq_s + d[None, :] * gq_d
    tl.store(at, (acc * out_scale).to(gq_ptr.dtype.element_ty), mask=(row < S_q)[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_attention_backward_keys(
    q_ptr, k_ptr, v_ptr, bias_ptr, go_ptr, lse_ptr, delta_ptr, gk_ptr, gv_ptr,
    scale, out_scale,
    S_q, S_k, H, G,
    q_b, q_h, q_s, q_d, k_b, k_h, k_s, k_d, v_b, v_h, v_s, v_d, bias_b, bias_h, bias_q, bias_k, go_b, go_h, go_s, go_d,
    gk_b, gk_h, gk_s, gk_d, gv_b, gv_h, gv_s, gv_d,
    BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, D: tl.constexpr, BIASED: tl.constexpr, CAUSAL: tl.constexpr,
    TYPE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The gradients of BN keys and values of one KV head, over the queries of all its G heads that see them."""
    _, batch, kv_head, first = _block_of_head(S_k, H // G, BN, INDEX)
    column = first + tl.arange(0, BN)
    d = tl.arange(0, BD)
    m = tl.arange(0, BQ)
    k = _rows(k_ptr + batch * k_b + kv_head * k_h, column, d, k_s, k_d, S_k, D, TYPE)
    v = _rows(v_ptr + batch * v_b + kv_head * v_h, column, d, v_s, v_d, S_k, D, TYPE)
    grad_k = tl.full((BN, BD), 0, tl.float32)
    grad_v = tl.full((BN, BD), 0, tl.float32)
    start = 0
    if CAUSAL:
        start = first // BQ * BQ
    for g in range(0, G):
        head = kv_head * G + g
        saved = (batch * H + head) * S_q
        for at in range(start, S_q, BQ):
            row = at + m
            q = _rows(q_ptr + batch * q_b + head * q_h, row, d, q_s, q_d, S_q, D, TYPE)
            go = _rows(go_ptr + batch * go_b + head * go_h, row, d, go_s, go_d, S_q, D, TYPE)
            lse, delta = _saved(lse_ptr + saved, delta_ptr + saved, row, S_q)
            s = _scores(
                q, k, scale, bias_ptr + batch * bias_b + head * bias_h, row, column, S_q, S_k, bias_q, bias_k, BIASED,
                CAUSAL,
            )  # fmt: skip
            p = tl.exp2(s - lse[:, None])
            grad_v = tl.dot(tl.trans(p.to(TYPE)), go, grad_v, input_precision="ieee")
            gs = p * (tl.dot(go, tl.trans(v), input_precision="ieee") - delta[:, None])
            grad_k = tl.dot(tl.trans(gs.to(TYPE)), q, grad_k, input_precision="ieee")
    mask = (column < S_k)[:, None] & (d < D)[None, :]
    gk_at = gk_ptr + batch * gk_b + kv_head * gk_h + column[:, None] * gk_s + d[None, :] * gk_d
    gv_at = gv_ptr + batch * gv_b + kv_head * gv_h + column[:, None] * gv_s + d[None, :] * gv_d
    tl.store(gk_at, (grad_k * out_scale).to(gk_ptr.dtype.element_ty), mask=mask)
    tl.store(gv_at, grad_v.to(gv_ptr.dtype.element_ty), mask=mask)


# --- on the device ----------------------------------------------------------------------------------------------------


def _blocks(S_q: int, S_k: int, D: int) -> dict[str, int]:
    tile = [min(TILE, next_power_of_2(max(1, n))) for n in (S_q, S_k)]
    return dict(BQ=tile[0], BN=tile[1], BD=next_power_of_2(D), D=D)


def _spread(bias: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The mask as [B, H, S_q, S_k], stride 0 in dims that it is broadcast along."""
    return bias.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])


def _scale_of(q: torch.Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


@aten("_scaled_dot_product_fused_attention_overrideable")
def fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_bias: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, return_debug_mask: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """softmax(scale q k^T + bias) v of [B, H, S, D] tensors: out (laid out like query), log-sum-exp [B, H, S_q], and
    what PyTorch's schema asks besides. is_causal: query i sees keys 0 to i."""
    if dropout_p:
        raise ValueError(
            f"fused attention on mtia has no dropout (dropout_p = {dropout_p}); scaled_dot_product_attention takes its "
            f"own composition there, so call that."
        )
    S_q, S_k = query.shape[2], key.shape[2]
    out = torch.empty_like(query)
    if attn_bias is None:
        _, lse = attention(query, key, value, causal=is_causal, scale=scale, with_lse=True, out=out)
    else:
        lse = _biased(query, key, value, attn_bias, out, is_causal, scale)
    seed, offset = (torch.empty((), dtype=torch.int64, device=query.device) for _ in range(2))
    return out, lse, None, None, S_q, S_k, seed, offset, None


def _biased(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, out: torch.Tensor, causal: bool,
    scale: float | None,
) -> torch.Tensor:  # fmt: skip
    B, H, S_q, D = q.shape
    S_k = k.shape[2]
    group = _check_heads("fused attention", H, k.shape[1])
    lse = torch.empty((B, H, S_q), dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return lse
    bias = _spread(bias, q, k)
    blocks = _blocks(S_q, S_k, D)
    mtia_attention_biased[(ceil_div(S_q, blocks["BQ"]) * B * H,)](
        q, k, v, bias, out, lse, _scale_of(q, scale) * LOG2_E, S_q, S_k, H, group,
        *q.stride(), *k.stride(), *v.stride(), *bias.stride(), *out.stride(),
        **blocks, CAUSAL=causal, TYPE=_tl(q.dtype), INDEX=_index(q, k, v, bias, out),
    )  # fmt: skip
    return lse


@aten("_scaled_dot_product_fused_attention_overrideable_backward")
def fused_attention_backward(
    grad_out: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attn_bias: torch.Tensor | None, grad_input_mask: list[bool], out: torch.Tensor, logsumexp: torch.Tensor,
    cum_seq_q: Any, cum_seq_k: Any, max_q: int, max_k: int, dropout_p: float, is_causal: bool, philox_seed: Any,
    philox_offset: Any, *, scale: float | None = None,
) -> tuple[torch.Tensor | None, ...]:  # fmt: skip
    """Gradients of query, key and value, laid out like them. That of a mask is not served (it never gets here)."""
    if grad_input_mask[3]:
        raise NotImplementedError(
            "fused attention on mtia gives no gradient of its mask; detach the mask, or run under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        )
    B, H, S_q, D = query.shape
    S_k = key.shape[2]
    grads = tuple(torch.empty_like(t) for t in (query, key, value))
    if query.numel() == 0 or key.numel() == 0:
        return *(g.zero_() for g in grads), None
    group = _check_heads("fused attention", H, key.shape[1])
    blocks = _blocks(S_q, S_k, D)
    bias = query if attn_bias is None else _spread(attn_bias, query, key)
    INDEX = _index(query, key, value, bias, grad_out, out, *grads)
    delta = torch.empty((B, H, S_q), dtype=torch.float32, device=query.device)
    query_tiles = ceil_div(S_q, blocks["BQ"])
    mtia_attention_delta[(query_tiles * B * H,)](
        out, grad_out, delta, S_q, H, *out.stride(), *grad_out.stride(),
        BQ=blocks["BQ"], BD=blocks["BD"], D=D, INDEX=INDEX,
    )  # fmt: skip
    factor = _scale_of(query, scale)
    flags = dict(**blocks, BIASED=attn_bias is not None, CAUSAL=is_causal, TYPE=_tl(query.dtype), INDEX=INDEX)
    saved = (query, key, value, bias, grad_out, logsumexp, delta)
    shared = (
        factor * LOG2_E, factor, S_q, S_k, H, group,
        *query.stride(), *key.stride(), *value.stride(), *bias.stride(), *grad_out.stride(),
    )  # fmt: skip
    mtia_attention_backward_queries[(query_tiles * B * H,)](*saved, grads[0], *shared, *grads[0].stride(), **flags)
    mtia_attention_backward_keys[(ceil_div(S_k, blocks["BN"]) * B * (H // group),)](
        *saved, grads[1], grads[2], *shared, *grads[1].stride(), *grads[2].stride(), **flags
    )
    return *grads, None


__all__ = ["fused_attention", "fused_attention_backward"]
