"""Activations to 8 or 4 bits as they come: absolute maximum of a row or a block, scale, round. x is [m, k], contiguous.

`mtia_quantise_rows`: one float32 scale a row (a token). `mtia_quantise_blocks`: one a block of GROUP elements of a row;
with PACKED two elements of 4 bits (e2m1) share a byte and the scale is 8 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl

E4M3_MAX = tl.constexpr(448.0)
E2M1_MAX = tl.constexpr(6.0)


@triton.jit(do_not_specialize=["m", "k"])
def mtia_quantise_rows(x_ptr, q_ptr, scale_ptr, m, k, ROWS: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr):
    """ROWS rows a program. ONCE: a row fits one block and is read once; else it is read again to be scaled."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = row < m
    at = tl.arange(0, BLOCK)
    x_at = x_ptr + row[:, None] * k + at[None, :]
    q_at = q_ptr + row[:, None] * k + at[None, :]
    if ONCE:
        inside = here[:, None] & (at < k)[None, :]
        x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-12) / E4M3_MAX
        tl.store(q_at, (x * (1.0 / scale)[:, None]).to(q_ptr.dtype.element_ty), mask=inside)
    else:
        most = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
        for begin in range(0, k, BLOCK):
            inside = here[:, None] & (at < k - begin)[None, :]
            x = tl.load(x_at + begin, mask=inside, other=0.0).to(tl.float32)
            most = tl.maximum(most, tl.abs(x))
        scale = tl.maximum(tl.max(most, axis=1), 1e-12) / E4M3_MAX
        for begin in range(0, k, BLOCK):
            inside = here[:, None] & (at < k - begin)[None, :]
            x = tl.load(x_at + begin, mask=inside, other=0.0).to(tl.float32)
            tl.store(q_at + begin, (x * (1.0 / scale)[:, None]).to(q_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr + row, scale, mask=here)


@triton.jit(do_not_specialize=["n_groups"])
def mtia_quantise_blocks(
    x_ptr, q_ptr, scale_ptr, n_groups, GROUP: tl.constexpr, GROUPS: tl.constexpr, PACKED: tl.constexpr
):
    """GROUPS blocks of GROUP elements a program, one after the other in memory."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    here = group < n_groups
    at = tl.arange(0, GROUP)
    x = tl.load(x_ptr + group[:, None] * GROUP + at[None, :], mask=here[:, None], other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-12)
    if PACKED:
        scale = largest / E2M1_MAX
        codes = tl.clamp(x * (1.0 / scale)[:, None], -E2M1_MAX, E2M1_MAX).to(tl.int8).to(tl.uint8, bitcast=True)
        low, high = tl.split(tl.reshape(codes, (GROUPS, GROUP // 2, 2)))
        half = tl.arange(0, GROUP // 2)
        q_at = q_ptr + group[:, None] * (GROUP // 2) + half[None, :]
        tl.store(q_at, (low & 15) | (high << 4), mask=here[:, None])
    else:
        scale = largest / E4M3_MAX
        q = (x * (1.0 / scale)[:, None]).to(q_ptr.dtype.element_ty)
        tl.store(q_ptr + group[:, None] * GROUP + at[None, :], q, mask=here[:, None])
    tl.store(scale_ptr + group, scale.to(scale_ptr.dtype.element_ty), mask=here)


__all__ = ["mtia_quantise_blocks", "mtia_quantise_rows"]
