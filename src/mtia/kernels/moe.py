"""The small kernels around the grouped matrix multiplications of a mixture of experts.

Tokens choose experts (`mtia_route`), assignments are counted and given places sorted by expert (`mtia_count_experts`,
`mtia_place`), rows are copied there (`mtia_permute`), and what the experts give comes back weighted (`mtia_combine`).
T tokens, E experts, each token to TOPK of them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T", "E"])
def mtia_route(logits_ptr, id_ptr, weight_ptr, T, E, ROWS: tl.constexpr, WIDTH: tl.constexpr, TOPK: tl.constexpr):
    """Softmax over the experts, then the TOPK largest, one after the other. ROWS tokens a program."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    mask = (row < T)[:, None] & (column < E)[None, :]
    x = tl.load(logits_ptr + row[:, None] * E + column[None, :], mask=mask, other=float("-inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, 1)[:, None])
    p = tl.where(mask, e / tl.sum(e, 1)[:, None], -1.0)
    for k in tl.static_range(TOPK):
        best, which = tl.max(p, 1, return_indices=True)
        tl.store(id_ptr + row * TOPK + k, which, mask=row < T)
        tl.store(weight_ptr + row * TOPK + k, best, mask=row < T)
        p = tl.where(column[None, :] == which[:, None], -1.0, p)


@triton.jit(do_not_specialize=["A", "E"])
def mtia_count_experts(id_ptr, offset_ptr, A, E, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PAD: tl.constexpr):
    """One program: how many of the A assignments each expert got, in rows of whole tiles of PAD, summed up."""
    counts = tl.zeros((WIDTH,), tl.int32)
    for start in range(0, A, BLOCK):
        at = start + tl.arange(0, BLOCK)
        ids = tl.load(id_ptr + at, mask=at < A, other=0)
        counts += tl.histogram(ids, WIDTH, mask=at < A)
    ends = tl.cumsum((counts + PAD - 1) // PAD * PAD, 0)
    expert = tl.arange(0, WIDTH)
    tl.store(offset_ptr + expert, ends, mask=expert < E)


@triton.jit(do_not_specialize=["A"])
def mtia_place(id_ptr, next_ptr, place_ptr, source_ptr, A, TOPK: tl.constexpr, BLOCK: tl.constexpr):
    """The place of each assignment in the sorted order, and the token that each place comes from."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < A
    expert = tl.load(id_ptr + at, mask=mask, other=0)
    place = tl.atomic_add(next_ptr + expert, 1, mask=mask)
    tl.store(place_ptr + at, place, mask=mask)
    tl.store(source_ptr + place, at // TOPK, mask=mask)


@triton.jit(do_not_specialize=["H"])
def mtia_permute(x_ptr, source_ptr, out_ptr, H, BLOCK: tl.constexpr):
    """out[i] = x[source[i]], BLOCK columns a program."""
    place = tl.program_id(1).to(tl.int64)
    token = tl.load(source_ptr + place).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + token * H + column, mask=column < H)
    tl.store(out_ptr + place * H + column, x, mask=column < H)


@triton.jit(do_not_specialize=["H"])
def mtia_combine(y_ptr, place_ptr, weight_ptr, out_ptr, H, TOPK: tl.constexpr, BLOCK: tl.constexpr):
    """out[t] = sum over k of weight[t, k] * y[place[t, k]]; a place below zero is another rank's. BLOCK columns."""
    token = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(TOPK):
        place = tl.load(place_ptr + token * TOPK + k).to(tl.int64)
        weight = tl.load(weight_ptr + token * TOPK + k)
        y = tl.load(y_ptr + place * H + column, mask=(column < H) & (place >= 0), other=0.0).to(tl.float32)
        total += weight * y
    tl.store(out_ptr + token * H + column, total.to(out_ptr.dtype.element_ty), mask=column < H)
