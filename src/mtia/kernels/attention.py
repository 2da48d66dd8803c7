"""Attention: tiled forward (flash attention) for any number of queries, and decode over a paged cache in KV splits.

Softmax is taken block by block with a running maximum and sum, so no row of scores is ever held. `scale` is applied in
base 2: exp(x) = exp2(x log2 e). All kernels take any strides, so transposed and interleaved layouts cost no copy.
"""

# B batch, H query heads, G query heads per KV head, S tokens, D head dim, S_q queries, S_k keys

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels.dtypes import triton_name
from mtia.kernels.iteration import ceil_div, next_power_of_2

LOG2_E = math.log2(math.e)
_INT32_LIMIT = 2**31 - 1

_FORWARD_INTEGERS = [
    "S_q", "S_k", "H", "G", "units", "run", "q_first", "window",
    "q_b", "q_h", "q_s", "q_d", "k_b", "k_h", "k_s", "k_d", "v_b", "v_h", "v_s", "v_d", "o_b", "o_h", "o_s", "o_d",
]  # fmt: skip
_SPLIT_INTEGERS = [
    "H_kv", "splits", "split_tokens", "window", "page_stride",
    "q_b", "q_h", "q_d", "k_page", "k_s", "k_h", "k_d", "v_page", "v_s", "v_h", "v_d", "o_b", "o_h", "o_d",
]  # fmt: skip


# --- pieces -----------------------------------------------------------------------------------------------------------


@triton.jit
def _masked(s, row, column, S_k, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """Scores of keys that a query may not see become -inf. row: position [M] of each query, column [N] of each key."""
    seen = column[None, :] < S_k
    if CAUSAL:
        seen = seen & (column[None, :] <= row[:, None])
    if WINDOWED:
        seen = seen & (column[None, :] > row[:, None] - window)
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _maximum(s, top, scale):
    """The running maximum [M] (scaled) with one more block of scores."""
    return tl.maximum(top, tl.max(s, 1) * scale)


@triton.jit
def _weights(s, top, new_top, scale, MASKED: tl.constexpr):
    """Weights of a block of scores [M, N] (base 2), and the factor for what came before the new maximum."""
    shift = new_top
    if MASKED:  # a row that has seen no key yet has no maximum
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    p = tl.exp2(tl.fma(s, tl.full(s.shape, 0, tl.float32) + scale, tl.broadcast_to(-shift[:, None], s.shape)))
    return p, tl.exp2(top - shift)


@triton.jit
def _softmax_step(s, top, total, scale, MASKED: tl.constexpr):
    """One block of scores [M, N]: weights, new maximum and sum [M], factor for what came before."""
    new_top = _maximum(s, top, scale)
    p, alpha = _weights(s, top, new_top, scale, MASKED)
    return p, new_top, total * alpha + tl.sum(p, 1), alpha


@triton.jit
def _key_block(k_at, at, k_s, d, D, n, S_k, EVEN_D: tl.constexpr, MASKED: tl.constexpr, TYPE: tl.constexpr):
    """Keys `at` + n as [D, N], in the type that the scores are multiplied in."""
    where = k_at + at * k_s
    if EVEN_D and not MASKED:
        k = tl.load(where)
    elif EVEN_D:
        k = tl.load(where, mask=(at + n < S_k)[None, :], other=0.0)
    else:
        k = tl.load(where, mask=(d < D)[:, None] & (at + n < S_k)[None, :], other=0.0)
    return k.to(TYPE)


@triton.jit
def _value_block(v_at, at, v_s, d, D, n, S_k, EVEN_D: tl.constexpr, MASKED: tl.constexpr, TYPE: tl.constexpr):
    """Values `at` + n as [N, D]."""
    where = v_at + at * v_s
    if EVEN_D and not MASKED:
        v = tl.load(where)
    elif EVEN_D:
        v = tl.load(where, mask=(at + n < S_k)[:, None], other=0.0)
    else:
        v = tl.load(where, mask=(at + n < S_k)[:, None] & (d < D)[None, :], other=0.0)
    return v.to(TYPE)


# --- forward ----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_FORWARD_INTEGERS)
def mtia_attention_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    scale, out_scale,
    S_q, S_k, H, G, units, run, q_first, window,
    q_b, q_h, q_s, q_d, k_b, k_h, k_s, k_d, v_b, v_h, v_s, v_d, o_b, o_h, o_s, o_d,
    BQ: tl.constexpr, BG: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, D: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, HAS_LSE: tl.constexpr, LOOKAHEAD: tl.constexpr,
    TYPE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """BQ queries of one head, or (BG > 1) of all G heads of one KV head: out = softmax(scale q k^T) v.

    scale holds log2 e; query i has position q_first + i. A batch has `units` = H or, packed, H / G such heads.
    Whole blocks below the diagonal are not masked. Tiles are walked in sections of `run` units: the longest (last)
    tiles of a section first, and every other section the other way round, so that all PEs get tiles of like total
    length. LOOKAHEAD: the scores of the next block are multiplied before the weights of this one are needed, so that
    the dot product engine works during the exponentials; that takes accumulators for one more block of scores. The
    steps of the softmax still follow each other.
    TYPE: what is multiplied in (float8 or narrower caches are converted up to it).
    """
    EVEN_D: tl.constexpr = BD == D
    BM: tl.constexpr = BQ * BG
    tiles = tl.cdiv(S_q, BQ)
    program = tl.program_id(0)
    section = program // (run * tiles)
    within = program % (run * tiles)
    rank = within // run
    tile = rank if section % 2 == 1 else tiles - 1 - rank
    unit = section * run + within % run
    batch = (unit // units).to(INDEX)
    unit = unit % units
    if BG > 1:
        head = unit * G
        kv_head = unit
    else:
        head = unit
        kv_head = unit // G
    n = tl.arange(0, BN)
    d = tl.arange(0, BD)
    g = tl.arange(0, BG)
    query = tile * BQ + tl.arange(0, BQ)
    position = tl.reshape(tl.broadcast_to((query + q_first)[:, None], (BQ, BG)), (BM,))
    first_row = tile * BQ + q_first
    stop = S_k
    if CAUSAL:
        stop = min(S_k, first_row + BQ)
    start = 0
    if WINDOWED:
        start = max(0, first_row - window + 1) // BN * BN
    last = start + max(0, stop - start - 1) // BN * BN  # first key of the last block
    whole = start if WINDOWED else S_k // BN * BN  # blocks from here on are masked
    if CAUSAL and not WINDOWED:
        whole = min(whole, max(0, first_row + 1) // BN * BN)
    q_mask = (query < S_q)[:, None, None] & (head + g < H)[None, :, None] & (d < D)[None, None, :]
    if BG > 1:
        q_mask = q_mask & (g < G)[None, :, None]
    q_at = q_ptr + batch * q_b + head * q_h + query.to(INDEX)[:, None, None] * q_s + g[None, :, None] * q_h
    k_at = k_ptr + batch * k_b + kv_head * k_h + d[:, None] * k_d + n.to(INDEX)[None, :] * k_s
    v_at = v_ptr + batch * v_b + kv_head * v_h + n.to(INDEX)[:, None] * v_s + d[None, :] * v_d
    q = tl.reshape(tl.load(q_at + d[None, None, :] * q_d, mask=q_mask, other=0.0), (BM, BD)).to(TYPE)
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.full((BM,), 0, tl.float32)
    acc = tl.full((BM, BD), 0, tl.float32)
    if LOOKAHEAD:
        whole = min(whole, last)
        s = tl.dot(q, _key_block(k_at, start, k_s, d, D, n, S_k, EVEN_D, True, TYPE), input_precision="ieee")
        for at in range(start, whole, BN):
            k = _key_block(k_at, at + BN, k_s, d, D, n, S_k, EVEN_D, True, TYPE)
            new_top = _maximum(s, top, scale)
            s_next = tl.dot(q, k, input_precision="ieee")
            p, alpha = _weights(s, top, new_top, scale, False)
            v = _value_block(v_at, at, v_s, d, D, n, S_k, EVEN_D, False, TYPE)
            total = total * alpha + tl.sum(p, 1)
            acc = tl.dot(p.to(TYPE), v, acc * alpha[:, None], input_precision="ieee")
            top = new_top
            s = s_next
        for at in range(whole, last, BN):
            k = _key_block(k_at, at + BN, k_s, d, D, n, S_k, EVEN_D, True, TYPE)
            s = _masked(s, position, at + n, S_k, window, CAUSAL, WINDOWED)
            new_top = _maximum(s, top, scale)
            s_next = tl.dot(q, k, input_precision="ieee")
            p, alpha = _weights(s, top, new_top, scale, True)
            v = _value_block(v_at, at, v_s, d, D, n, S_k, EVEN_D, True, TYPE)
            total = total * alpha + tl.sum(p, 1)
            acc = tl.dot(p.to(TYPE), v, acc * alpha[:, None], input_precision="ieee")
            top = new_top
            s = s_next
        s = _masked(s, position, last + n, S_k, window, CAUSAL, WINDOWED)
        p, top, total, alpha = _softmax_step(s, top, total, scale, True)
        p = p.to(TYPE)
        v = _value_block(v_at, last, v_s, d, D, n, S_k, EVEN_D, True, TYPE)
        acc = tl.dot(p, v, acc * alpha[:, None], input_precision="ieee")
    else:
        for at in range(start, whole, BN):
            k = _key_block(k_at, at, k_s, d, D, n, S_k, EVEN_D, False, TYPE)
            v = _value_block(v_at, at, v_s, d, D, n, S_k, EVEN_D, False, TYPE)
            p, top, total, alpha = _softmax_step(tl.dot(q, k, input_precision="ieee"), top, total, scale, False)
            acc = tl.dot(p.to(TYPE), v, acc * alpha[:, None], input_precision="ieee")
        for at in range(whole, stop, BN):
            k = _key_block(k_at, at, k_s, d, D, n, S_k, EVEN_D, True, TYPE)
            v = _value_block(v_at, at, v_s, d, D, n, S_k, EVEN_D, True, TYPE)
            s = _masked(tl.dot(q, k, input_precision="ieee"), position, at + n, S_k, window, CAUSAL, WINDOWED)
            p, top, total, alpha = _softmax_step(s, top, total, scale, True)
            acc = tl.dot(p.to(TYPE), v, acc * alpha[:, None], input_precision="ieee")
    sums = tl.where(total == 0.0, 1.0, total)
    acc = acc * (out_scale / sums)[:, None]
    o_at = out_ptr + batch * o_b + head * o_h + query.to(INDEX)[:, None, None] * o_s + g[None, :, None] * o_h
    out = tl.reshape(acc, (BQ, BG, BD)).to(out_ptr.dtype.element_ty)
    tl.store(o_at + d[None, None, :] * o_d, out, mask=q_mask)
    if HAS_LSE:
        lse = tl.reshape((top + tl.log2(total)) * 0.6931471805599453, (BQ, BG))
        lse_at = lse_ptr + (batch * H + head + g)[None, :] * S_q + query[:, None]
        tl.store(lse_at, lse, mask=(query < S_q)[:, None] & (g < (G if BG > 1 else 1))[None, :])


# --- decode -----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_SPLIT_INTEGERS)
def mtia_attention_decode(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, length_ptr, table_ptr,
    scale, out_scale,
    H_kv, splits, split_tokens, window, page_stride,
    q_b, q_h, q_d, k_page, k_s, k_h, k_d, v_page, v_s, v_h, v_d, o_b, o_h, o_d,
    G: tl.constexpr, BG: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    WINDOWED: tl.constexpr, SPLIT: tl.constexpr, TYPE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """One query token per sequence against `split_tokens` of its keys and values; all G heads of one KV head together.

    length [B]: keys of each sequence, the new token's included. table [B, page_stride]: page of the cache that holds
    tokens PAGE i to PAGE (i + 1); a multiple of BN tokens lies in one page. PAGE 0: no table, sequence b lies whole at
    b times k_page (v_page), as in a cache whose pages were handed out in order. SPLIT: out is float32
    [B, H, splits, D] and lse [B, H, splits] (base 2) for `mtia_attention_combine`; else out is the answer.
    """
    EVEN_D: tl.constexpr = BD == D
    program = tl.program_id(0)
    split = program % splits
    kv_head = program // splits % H_kv
    batch = program // (splits * H_kv)
    n = tl.arange(0, BN)
    d = tl.arange(0, BD)
    g = tl.arange(0, BG)
    length = tl.load(length_ptr + batch)
    first = 0
    if WINDOWED:
        first = max(0, length - window)
    begin = first // BN * BN + split * split_tokens
    stop = min(length, begin + split_tokens)
    head = kv_head * G + g
    q_at = q_ptr + batch.to(INDEX) * q_b + head[:, None] * q_h + d[None, :] * q_d
    q = tl.load(q_at, mask=(g < G)[:, None] & (d < D)[None, :], other=0.0).to(TYPE)
    k_at = k_ptr + kv_head * k_h + d[:, None] * k_d + n.to(INDEX)[None, :] * k_s
    v_at = v_ptr + kv_head * v_h + n.to(INDEX)[:, None] * v_s + d[None, :] * v_d
    top = tl.full((BG,), float("-inf"), tl.float32)
    total = tl.full((BG,), 0, tl.float32)
    acc = tl.full((BG, BD), 0, tl.float32)
    for at in range(begin, stop, BN):
        if PAGE:
            page = tl.load(table_ptr + batch * page_stride + at // PAGE).to(INDEX)
            token = at % PAGE
        else:
            page = batch.to(INDEX)
            token = at
        k = _key_block(k_at + page * k_page, token, k_s, d, D, n, stop - at + token, EVEN_D, True, TYPE)
        v = _value_block(v_at + page * v_page, token, v_s, d, D, n, stop - at + token, EVEN_D, True, TYPE)
        s = tl.dot(q, k, input_precision="ieee")
        seen = at + n < stop
        if WINDOWED:
            seen = seen & (at + n >= first)
        s = tl.where(seen[None, :], s, float("-inf"))
        p, top, total, alpha = _softmax_step(s, top, total, scale, True)
        acc = tl.dot(p.to(TYPE), v, acc * alpha[:, None], input_precision="ieee")
    sums = tl.where(total == 0.0, 1.0, total)
    acc = acc * (out_scale / sums)[:, None]
    mask = (g < G)[:, None] & (d < D)[None, :]
    rows = (batch * H_kv * G + head).to(INDEX)
    if SPLIT:
        part = rows * splits + split
        tl.store(out_ptr + part[:, None] * D + d[None, :], acc, mask=mask)
        tl.store(lse_ptr + part, top + tl.log2(total), mask=g < G)
    else:
        o_at = out_ptr + batch.to(INDEX) * o_b + head[:, None] * o_h + d[None, :] * o_d
        tl.store(o_at, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "splits"])
def mtia_attention_combine(
    part_ptr, lse_ptr, out_ptr,
    rows, splits,
    ROWS: tl.constexpr, SPLITS: tl.constexpr, BD: tl.constexpr, D: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """ROWS of all B H heads: the mean of their partial answers [splits, D] weighted by 2^lse; out contiguous."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.arange(0, SPLITS)
    d = tl.arange(0, BD)
    known = (row < rows)[:, None] & (part < splits)[None, :]
    at = row.to(INDEX)[:, None] * splits + part[None, :]
    lse = tl.load(lse_ptr + at, mask=known, other=float("-inf"))
    mask = (row < rows)[:, None, None] & (part < splits)[None, :, None] & (d < D)[None, None, :]
    x_at = part_ptr + row.to(INDEX)[:, None, None] * (splits * D) + part[None, :, None] * D + d[None, None, :]
    x = tl.load(x_at, mask=mask, other=0.0)
    top = tl.max(lse, 1)
    weight = tl.exp2(lse - tl.where(top == float("-inf"), 0.0, top)[:, None])
    sums = tl.sum(weight, 1)
    weight = weight / tl.where(sums == 0.0, 1.0, sums)[:, None]
    out = tl.sum(x * weight[:, :, None], 1)
    o_at = out_ptr + row.to(INDEX)[:, None] * D + d[None, :]
    tl.store(o_at, out.to(out_ptr.dtype.element_ty), mask=(row < rows)[:, None] & (d < D)[None, :])


# --- cache ------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["tokens", "stride"])
def mtia_attention_store(
    k_ptr, v_ptr, k_cache_ptr, v_cache_ptr,
    k_scale, v_scale,
    tokens, stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of keys and values, N elements each, into a cache of their own type (float8: times its scale).

    Tokens lie `stride` elements apart in all four tensors.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    at = row[:, None] * stride + column[None, :]
    mask = (row < tokens)[:, None] & (column < N)[None, :]
    k = tl.load(k_ptr + at, mask=mask, other=0.0).to(tl.float32) * k_scale
    v = tl.load(v_ptr + at, mask=mask, other=0.0).to(tl.float32) * v_scale
    tl.store(k_cache_ptr + at, k.to(k_cache_ptr.dtype.element_ty), mask=mask)
    tl.store(v_cache_ptr + at, v.to(v_cache_ptr.dtype.element_ty), mask=mask)


# --- on the device ----------------------------------------------------------------------------------------------------


def _tl(dtype: torch.dtype) -> Any:
    return getattr(tl, triton_name(dtype).removeprefix("tl."))


def _index(*tensors: torch.Tensor) -> Any:
    """int64 where an element lies further from the first than int32 reaches."""
    far = max(sum((n - 1) * abs(s) for n, s in zip(t.shape, t.stride(), strict=True)) for t in tensors)
    return tl.int64 if far > _INT32_LIMIT else tl.int32


def _check_heads(name: str, heads: int, kv_heads: int) -> int:
    if kv_heads <= 0 or heads % kv_heads:
        raise ValueError(
            f"{name}: {heads} query heads are not a multiple of {kv_heads} key and value heads; each of those "
            "serves as many query heads as the next. Repeat or leave out heads until it does."
        )
    return heads // kv_heads


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    window: int = 0,
    scale: float | None = None,
    q_first: int = 0,
    v_scale: float = 1.0,
    with_lse: bool = False,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    tile: tuple[int, int] = (64, 64),
    packed: bool = False,
    lookahead: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """softmax(scale q k^T) v of q [B, H, S_q, D] with k and v [B, H_kv, S_k, D], any strides, H a multiple of H_kv.

    causal: query i sees keys up to q_first + i. window: and of those the last `window` (0: all). scale: default
    1 / sqrt(D); float8 operands' own scales belong in it and in v_scale. Also returns log-sum-exp [B, H, S_q] if asked.
    out: written to and returned, any strides; else a new contiguous tensor.
    tile: queries and keys of one block; packed: all query heads of a KV head share the rows of one program.
    """
    B, H, S_q, D = q.shape
    H_kv, S_k = k.shape[1], k.shape[2]
    group = _check_heads("attention", H, H_kv)
    if window and not causal:
        raise ValueError(
            f"attention: a window of {window} tokens needs causal=True: it reaches back from each query. For a window "
            "to both sides give scaled_dot_product_attention a mask."
        )
    if out is None:
        out = torch.empty((B, H, S_q, D), dtype=out_dtype or q.dtype, device=q.device)
    lse = torch.empty((B, H, S_q), dtype=torch.float32, device=q.device) if with_lse else None
    if out.numel() == 0:
        return out, lse
    BG = next_power_of_2(group) if packed else 1
    BQ, BN = min(max(1, tile[0] // BG), next_power_of_2(S_q)), min(tile[1], next_power_of_2(S_k))
    units = H_kv if packed else H
    mtia_attention_forward[(ceil_div(S_q, BQ) * B * units,)](
        q, k, v, out, out if lse is None else lse,
        (D**-0.5 if scale is None else scale) * LOG2_E, v_scale,
        S_q, S_k, H, group, units, 1 if packed else group, q_first, window,
        *q.stride(), *k.stride(), *v.stride(), *out.stride(),
        BQ=BQ, BG=BG, BN=BN, BD=next_power_of_2(D), D=D, CAUSAL=causal, WINDOWED=window > 0, HAS_LSE=with_lse,
        LOOKAHEAD=lookahead, TYPE=_tl(q.dtype), INDEX=_index(q, k, v, out),
    )  # fmt: skip
    return out, lse


def combine(parts: torch.Tensor, lse: torch.Tensor, out: torch.Tensor) -> None:
    """out [B, H, .., D], contiguous in this order or of one token, from float32 parts [B, H, splits, D] and lse."""
    B, H, splits, D = parts.shape
    mtia_attention_combine[(B * H,)](
        parts, lse, out, B * H, splits,
        ROWS=1, SPLITS=next_power_of_2(splits), BD=next_power_of_2(D), D=D, INDEX=_index(parts),
    )  # fmt: skip


def paged_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    table: torch.Tensor,
    *,
    window: int = 0,
    scale: float | None = None,
    v_scale: float = 1.0,
    splits: int = 1,
    block: int = 64,
) -> torch.Tensor:
    """Attention of one new token per sequence, q [B, H, D], to a paged cache [pages, PAGE, H_kv, D]: [B, H, D].

    lengths int32 [B]: tokens of each sequence, the new one's included. table int32 [B, most pages]: the pages of each
    sequence in order. The cache may be float8: it is converted up to q's type. splits: parts of the keys that are
    worked on side by side and combined by a second kernel.
    """
    B, H, D = q.shape
    PAGE, H_kv = k_cache.shape[1], k_cache.shape[2]
    group = _check_heads("paged_decode", H, H_kv)
    BN = min(block, PAGE)
    if PAGE & (PAGE - 1):
        raise ValueError(
            f"paged_decode: pages of {PAGE} tokens; the kernel needs a power of two. Allocate the cache with pages of "
            f"{1 << PAGE.bit_length() - 1} or {1 << PAGE.bit_length()}."
        )
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if out.numel() == 0:
        return out
    most = table.shape[1] * PAGE
    tokens = ceil_div(most if not window else min(most, window + BN), BN * splits) * BN
    parts = torch.empty((B, H, splits, D), dtype=torch.float32, device=q.device) if splits > 1 else out
    lse = torch.empty((B, H, splits), dtype=torch.float32, device=q.device) if splits > 1 else out
    mtia_attention_decode[(splits * H_kv * B,)](
        q, k_cache, v_cache, parts, lse, lengths, table,
        (D**-0.5 if scale is None else scale) * LOG2_E, v_scale,
        H_kv, splits, tokens, window, table.stride(0),
        *q.stride(), *k_cache.stride(), *v_cache.stride(), *out.stride(),
        G=group, BG=next_power_of_2(group), BN=BN, BD=next_power_of_2(D), D=D, PAGE=PAGE, WINDOWED=window > 0,
        SPLIT=splits > 1, TYPE=_tl(q.dtype), INDEX=_index(q, k_cache, v_cache),
    )  # fmt: skip
    if splits > 1:
        combine(parts, lse, out)
    return out


__all__ = [
    "LOG2_E",
    "attention",
    "combine",
    "mtia_attention_combine",
    "mtia_attention_decode",
    "mtia_attention_forward",
    "mtia_attention_store",
    "paged_decode",
]
