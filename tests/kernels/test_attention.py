"""Attention kernels on the device against PyTorch on the host."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mtia.kernels.attention import attention, paged_decode


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _seen(S_q: int, S_k: int, window: int, first: int) -> torch.Tensor:
    row, column = first + torch.arange(S_q)[:, None], torch.arange(S_k)[None, :]
    seen = column <= row
    return seen & (column > row - window) if window else seen


def _expected(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, window: int = 0, first: int = 0
) -> torch.Tensor:
    mask = _seen(q.shape[2], k.shape[2], window, first) if causal else None
    q, k, v = q.double(), k.double(), v.double()
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize(("S_q", "S_k", "D"), [(64, 64, 32), (37, 37, 16), (70, 130, 20), (1, 5, 64)])
def test_forward(S_q: int, S_k: int, D: int, causal: bool, lookahead: bool) -> None:
    q, k, v = _random(2, 3, S_q, D), _random(2, 3, S_k, D, seed=1), _random(2, 3, S_k, D, seed=2)
    moved = [x.to("mtia") for x in (q, k, v)]
    got, lse = attention(*moved, causal=causal, with_lse=True, tile=(32, 16), lookahead=lookahead)
    torch.testing.assert_close(got.cpu().double(), _expected(q, k, v, causal), atol=1e-5, rtol=1e-4)
    scores = q.double() @ k.double().mT / D**0.5
    if causal:
        scores = scores.masked_fill(~_seen(S_q, S_k, 0, 0), float("-inf"))
    assert lse is not None
    torch.testing.assert_close(lse.cpu().double(), scores.logsumexp(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [1, 7, 16, 100])
@pytest.mark.parametrize("first", [0, 13])
@pytest.mark.parametrize(("packed", "lookahead"), [(False, False), (False, True), (True, False), (True, True)])
def test_window_and_grouped_heads(window: int, first: int, packed: bool, lookahead: bool) -> None:
    """Three query heads a KV head: packed, a tile has rows for four, of which one is empty."""
    q, k, v = _random(2, 6, 50, 16), _random(2, 2, 63, 16, seed=1), _random(2, 2, 63, 16, seed=2)
    moved = [x.to("mtia") for x in (q, k, v)]
    got, lse = attention(
        *moved, causal=True, window=window, q_first=first, tile=(16, 16), packed=packed, lookahead=lookahead,
        with_lse=True,
    )  # fmt: skip
    torch.testing.assert_close(got.cpu().double(), _expected(q, k, v, True, window, first), atol=1e-5, rtol=1e-4)
    scores = q.double() @ k.repeat_interleave(3, 1).double().mT / 4
    scores = scores.masked_fill(~_seen(50, 63, window, first), float("-inf"))
    assert lse is not None
    torch.testing.assert_close(lse.cpu().double(), scores.logsumexp(-1), atol=1e-5, rtol=1e-4)


def test_any_strides_and_bfloat16() -> None:
    """Heads inside tokens, as projections leave them; queries, keys and values in one tensor."""
    packed = _random(2, 40, 3, 4, 32, dtype=torch.bfloat16)
    q, k, v = packed.unbind(2)
    expected = _expected(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), True)
    q, k, v = packed.to("mtia").unbind(2)
    got, _ = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True, tile=(16, 32))
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got.cpu().double(), expected, atol=2e-2, rtol=2e-2)


def test_float8() -> None:
    """Queries, keys, values and weights in float8; the operands' scales are the caller's."""
    q, k, v = (_random(1, 2, 40, 32, seed=i) for i in range(3))
    narrow = [x.to(torch.float8_e4m3fn) for x in (q, k, v)]
    got, _ = attention(*(x.to("mtia") for x in narrow), causal=True, v_scale=2.0, out_dtype=torch.float32)
    q, k, v = (x.float() for x in narrow)
    torch.testing.assert_close(got.cpu().double(), 2 * _expected(q, k, v, True), atol=0.15, rtol=0.1)


def _paged(lengths: list[int], H_kv: int, D: int, page: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """A cache whose pages lie scattered, its block table, and the keys and values of each sequence."""
    most = max(-(-n // page) for n in lengths)
    order = torch.randperm(most * len(lengths) + 3, generator=torch.Generator().manual_seed(5)).to(torch.int32)
    table = order[: most * len(lengths)].view(len(lengths), most)
    k = _random(order.numel(), page, H_kv, D, seed=1).to(dtype)
    v = _random(order.numel(), page, H_kv, D, seed=2).to(dtype)
    return k, v, table, torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.parametrize("splits", [1, 3, 4])
@pytest.mark.parametrize("window", [0, 24])
@pytest.mark.parametrize("cache", [torch.float32, torch.float8_e4m3fn])
def test_paged_decode(splits: int, window: int, cache: torch.dtype) -> None:
    H, H_kv, D, page, lengths = 6, 2, 16, 16, [1, 50, 64, 97]
    k, v, table, length = _paged(lengths, H_kv, D, page, cache)
    q = _random(len(lengths), H, D)
    moved = [x.to("mtia") for x in (q, k, v, length, table)]
    got = paged_decode(*moved, window=window, splits=splits, block=16).cpu().double()
    for b, n in enumerate(lengths):
        keys, values = (x.float()[table[b].long()].flatten(0, 1)[:n].transpose(0, 1)[None] for x in (k, v))
        expected = _expected(q[b][None, :, None], keys, values, window > 0, window, n - 1)
        torch.testing.assert_close(got[b], expected[0, :, 0], atol=1e-5, rtol=1e-4)


def test_bfloat16_decode() -> None:
    k, v, table, length = _paged([33, 12], 4, 32, 32, torch.bfloat16)
    q = _random(2, 4, 32, dtype=torch.bfloat16)
    got = paged_decode(*(x.to("mtia") for x in (q, k, v, length, table)))
    for b, n in enumerate([33, 12]):
        keys, values = (x[table[b].long()].flatten(0, 1)[:n].transpose(0, 1)[None] for x in (k, v))
        expected = _expected(q[b][None, :, None], keys, values, False)
        torch.testing.assert_close(got[b].cpu().double(), expected[0, :, 0], atol=2e-2, rtol=2e-2)


def test_refusals() -> None:
    q, k = _random(1, 6, 4, 16), _random(1, 4, 4, 16)
    with pytest.raises(ValueError, match=r"6 query heads are not a multiple of 4.*Repeat or leave out heads"):
        attention(q.to("mtia"), k.to("mtia"), k.to("mtia"))
    with pytest.raises(
        ValueError, match=r"window of 3 tokens needs causal=True.*give scaled_dot_product_attention a mask"
    ):
        attention(q.to("mtia"), q.to("mtia"), q.to("mtia"), window=3)
    cache, ints = torch.zeros(2, 12, 2, 16), torch.zeros(1, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"pages of 12 tokens.*pages of 8 or 16"):
        paged_decode(torch.zeros(1, 2, 16), cache, cache, ints[:, 0], ints)
