"""Attention over a cache of keys and values in 8 bits: `mtia_cache_store` writes it, `mtia_attention_cached` reads it.

A cache is [B, H_kv, S, D] bytes of E4M3, tokens in order. Its scales are one float32 for each KV head (fp8), or an E8M0
byte for each 16 elements of a token's D (mx8), [B, H_kv, S, D / 16]. `seen`: int64 of one element on the device, the
tokens that the cache holds once the call's own are written; the last of the queries sees all of them.
"""

# B batch, H query heads, G query heads per KV head, T new tokens, S tokens of room, D head dim

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mtia.kernels.attention import LOG2_E, _check_heads, _index, _softmax_step, _tl, combine
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.quantise_mx import _power, _scale_code
from mtia.kernels.tiling import chip_or_none

BLOCK = 16  # elements under a scale of mx8
TOKENS = 64  # queries, and keys where there are many, of a step
MOST_KEYS = 256  # of a step of one query: enough bytes under way for the memory behind
SLOTS = 4
PROGRAMS = 2  # for each PE, where a cache is split among them
_STORE = ["T", "S", "H", "x_b", "x_h", "x_t", "x_d"]
_ATTEND = ["S_q", "S", "H_kv", "splits", "q_b", "q_h", "q_s", "q_d", "o_b", "o_h", "o_s", "o_d"]


@triton.jit(do_not_specialize=_STORE, debug=True)
def mtia_cache_store(
    x_ptr, cache_ptr, scale_ptr, seen_ptr, T, S, H, x_b, x_h, x_t, x_d,
    BT: tl.constexpr, BD: tl.constexpr, D: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """BT of T tokens of one head, to the cache's tokens seen - T to seen. BLOCKS: scales of 16 are found and written;
    else the head's scale divides. Halves to even, saturating."""
    tiles = tl.cdiv(T, BT)
    unit = (tl.program_id(0) // tiles).to(INDEX)
    head = unit % H
    t = tl.program_id(0) % tiles * BT + tl.arange(0, BT)
    d = tl.arange(0, BD)
    inside = (t < T)[:, None] & (d < D)[None, :]
    x_at = x_ptr + unit // H * x_b + head * x_h + t[:, None] * x_t + d[None, :] * x_d
    x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    seen = tl.load(seen_ptr)
    tl.device_assert(seen <= S, "more tokens than the cache has room for")
    token = unit * S + seen.to(INDEX) - T + t
    if BLOCKS:
        by_block = tl.reshape(x, (BT, BD // 16, 16))
        code = _scale_code(tl.max(tl.abs(by_block), axis=2), 8, 448.0, 3, "fit")
        x = tl.reshape(by_block * _power(tl.maximum(254 - code, 0))[:, :, None], (BT, BD))
        block = tl.arange(0, BD // 16)
        known = (t < T)[:, None] & (block < D // 16)[None, :]
        tl.store(scale_ptr + token[:, None] * (D // 16) + block[None, :], code.to(tl.uint8), mask=known)
    else:
        x = x * (1.0 / tl.load(scale_ptr + head))
    tl.store(cache_ptr + token[:, None] * D + d[None, :], x.to(cache_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _factors(code, TYPE: tl.constexpr):
    return tl.where(code == 255, float("nan"), _power(code.to(tl.int32))).to(TYPE)


@triton.jit(do_not_specialize=_ATTEND)
def mtia_attention_cached(
    q_ptr, k_ptr, v_ptr, ks_ptr, vs_ptr, out_ptr, lse_ptr, seen_ptr, scale, S_q, S, H_kv, splits,
    q_b, q_h, q_s, q_d, o_b, o_h, o_s, o_d,
    BQ: tl.constexpr, G: tl.constexpr, BG: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, D: tl.constexpr,
    BLOCKS: tl.constexpr, SPLIT: tl.constexpr, TYPE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """BQ queries of all G heads of a KV head against a part of the cache: out = softmax(scale q k^T) v, causal.

    Elements become TYPE, exactly; scales of blocks multiply them, a head's scale multiplies scores and results. SPLIT
    (one query): float32 parts [B, H, splits, D] and lse [B, H, splits] in base 2 for `mtia_attention_combine`.
    """
    BM: tl.constexpr = BQ * BG
    tiles = tl.cdiv(S_q, BQ)
    split = tl.program_id(0) % splits
    tile = tl.program_id(0) // splits % tiles
    unit = (tl.program_id(0) // (splits * tiles)).to(INDEX)
    kv_head = unit % H_kv
    n = tl.arange(0, BN)
    d = tl.arange(0, BD)
    block = tl.arange(0, BD // 16)
    g = tl.arange(0, BG)
    query = tile * BQ + tl.arange(0, BQ)
    seen = tl.load(seen_ptr).to(tl.int32)
    first = seen - S_q
    position = tl.reshape(tl.broadcast_to((query + first)[:, None], (BQ, BG)), (BM,))
    head = kv_head * G + g
    q_mask = (query < S_q)[:, None, None] & (g < G)[None, :, None] & (d < D)[None, None, :]
    q_at = q_ptr + unit // H_kv * q_b + query[:, None, None] * q_s + head[None, :, None] * q_h + d[None, None, :] * q_d
    q = tl.reshape(tl.load(q_at, mask=q_mask, other=0.0), (BM, BD)).to(TYPE)
    if not BLOCKS:
        scale = scale * tl.load(ks_ptr + kv_head)
    stop = min(seen, first + (tile + 1) * BQ)
    part = tl.cdiv(tl.cdiv(stop, BN), splits) * BN
    begin = split * part
    stop = min(stop, begin + part)
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.full((BM,), 0, tl.float32)
    acc = tl.full((BM, BD), 0, tl.float32)
    for at in range(begin, stop, BN):
        token = unit * S + at + n
        inside = at + n < stop
        k_mask = (d < D)[:, None] & inside[None, :]
        k = tl.load(k_ptr + token[None, :] * D + d[:, None], mask=k_mask, other=0.0).to(TYPE)
        v = tl.load(v_ptr + token[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0).to(
            TYPE
        )
        if BLOCKS:
            ks_mask = (block < D // 16)[:, None] & inside[None, :]
            ks = tl.load(ks_ptr + token[None, :] * (D // 16) + block[:, None], mask=ks_mask, other=127)
            vs_mask = inside[:, None] & (block < D // 16)[None, :]
            vs = tl.load(vs_ptr + token[:, None] * (D // 16) + block[None, :], mask=vs_mask, other=127)
            k = tl.reshape(tl.reshape(k, (BD // 16, 16, BN)) * _factors(ks, TYPE)[:, None, :], (BD, BN))
            v = tl.reshape(tl.reshape(v, (BN, BD // 16, 16)) * _factors(vs, TYPE)[:, :, None], (BN, BD))
        s = tl.dot(q, k, input_precision="ieee")
        s = tl.where(inside[None, :] & ((at + n)[None, :] <= position[:, None]), s, float("-inf"))
        p, top, total, alpha = _softmax_step(s, top, total, scale, True)
        acc = tl.dot(p.to(TYPE), v, acc * alpha[:, None], input_precision="ieee")
    sums = 1.0 / tl.where(total == 0.0, 1.0, total)
    if not BLOCKS:
        sums = sums * tl.load(vs_ptr + kv_head)
    acc = tl.reshape(acc * sums[:, None], (BQ, BG, BD))
    if SPLIT:
        rows = (unit * G + tl.arange(0, BG)) * splits + split
        mask = (g < G)[:, None] & (d < D)[None, :]
        tl.store(out_ptr + rows[:, None] * D + d[None, :], tl.reshape(acc, (BG, BD)), mask=mask)
        tl.store(lse_ptr + rows, top + tl.log2(total), mask=g < G)
    else:
        o_at = out_ptr + unit // H_kv * o_b + query[:, None, None] * o_s + head[None, :, None] * o_h
        tl.store(o_at + d[None, None, :] * o_d, acc.to(out_ptr.dtype.element_ty), mask=q_mask)


def store(x: torch.Tensor, cache: torch.Tensor, scale: torch.Tensor, seen: torch.Tensor) -> None:
    """x [B, H_kv, T, D], any strides, to the cache's last T of `seen` tokens. `scale`: float32 [H_kv] that divides, or
    uint8 [B, H_kv, S, D / 16] that is written."""
    B, H, T, D = x.shape
    if x.numel() == 0:
        return
    tokens = min(TOKENS, next_power_of_2(T))
    mtia_cache_store[(ceil_div(T, tokens) * B * H,)](
        x, cache, scale, seen, T, cache.shape[2], H, *x.stride(),
        BT=tokens, BD=next_power_of_2(D), D=D, BLOCKS=scale.dtype == torch.uint8, INDEX=_index(x, cache),
    )  # fmt: skip


def _keys_of_a_step(S_q: int, S: int, D: int, wide_bytes: int) -> int:
    """Of one query as many as local memory holds in SLOTS of both operands, beside both once more, widened."""
    spec = chip_or_none()
    keys = min(TOKENS, next_power_of_2(S))
    while S_q == 1 and spec is not None and keys < min(MOST_KEYS, S):
        if 2 * (2 * keys) * D * (SLOTS + wide_bytes) > spec.pe.local_memory_bytes:
            break
        keys *= 2
    return keys


def _splits(S_q: int, S: int, units: int, keys: int) -> int:
    """Parts of the cache, so that each PE has PROGRAMS of them and a part some steps."""
    spec = chip_or_none()
    if S_q > 1 or spec is None:
        return 1
    return max(1, min(ceil_div(PROGRAMS * spec.grid.n_pes, units), S // keys))


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_scale: torch.Tensor, v_scale: torch.Tensor,
    seen: torch.Tensor, *, scale: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Causal attention of q [B, H, S_q, D], the last S_q of `seen` tokens, to a cache: [B, H, S_q, D], laid out as
    [B, S_q, H, D]. One query's cache is split among programs (`mtia_attention_combine` adds their parts up)."""
    B, H, S_q, D = q.shape
    H_kv, S = k.shape[1], k.shape[2]
    group = _check_heads("attention over a cache", H, H_kv)
    out = torch.empty((B, S_q, H, D), dtype=q.dtype, device=q.device).transpose(1, 2)
    if out.numel() == 0:
        return out
    wide = next_power_of_2(group)
    queries = min(max(1, TOKENS // wide), next_power_of_2(S_q))
    keys = _keys_of_a_step(S_q, S, D, q.element_size())
    splits = _splits(S_q, S, B * H_kv, keys)
    parts = torch.empty((B, H, splits, D), dtype=torch.float32, device=q.device) if splits > 1 else out
    lse = torch.empty((B, H, splits), dtype=torch.float32, device=q.device) if splits > 1 else out
    mtia_attention_cached[(splits * ceil_div(S_q, queries) * H_kv * B,)](
        q, k, v, k_scale, v_scale, parts, lse, seen, (D**-0.5 if scale is None else scale) * LOG2_E, S_q, S, H_kv,
        splits, *q.stride(), *out.stride(),
        BQ=queries, G=group, BG=wide, BN=keys, BD=next_power_of_2(D), D=D, BLOCKS=k_scale.dtype == torch.uint8,
        SPLIT=splits > 1, TYPE=_tl(q.dtype), INDEX=_index(q, k, v), num_stages=SLOTS if S_q == 1 else 2,
    )  # fmt: skip
    if splits > 1:
        combine(parts, lse, out)
    return out


__all__ = ["BLOCK", "TOKENS", "attend", "mtia_attention_cached", "mtia_cache_store", "store"]
