"""The library's matrix multiplications and quantising kernels on the device against the host."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

from mtia.kernels.activation_quantise import mtia_quantise_blocks, mtia_quantise_rows
from mtia.kernels.iteration import ceil_div
from mtia.kernels.library_matmul import mtia_matmul_promoted, mtia_matmul_scaled, mtia_matmul_split, mtia_sum_splits

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("M", "N", "K", "splits", "bn2"), [(40, 100, 96, 1, 0), (40, 100, 96, 1, 16), (17, 70, 200, 3, 16)]
)
def test_split_depth_and_two_widths(M: int, N: int, K: int, splits: int, bn2: int) -> None:
    x, w = _random(M, K).to(torch.bfloat16), _random(N, K, seed=1).to(torch.bfloat16)
    BM, BN, BK = 16, 32, 32
    depth = ceil_div(ceil_div(K, splits), BK) * BK
    parts = torch.empty(splits, M, N, device="mtia")
    grid = (ceil_div(M, BM) * ceil_div(N, BN + bn2), splits)
    mtia_matmul_split[grid](
        x.to("mtia"), w.to("mtia"), parts, M, N, K, depth, 2,
        BM=BM, BN=BN, BN2=bn2, BK=BK, EVEN_K=depth * splits == K, INDEX=tl.int32,
    )  # fmt: skip
    out = torch.empty(M, N, device="mtia")
    mtia_sum_splits[(ceil_div(M * N, 256),)](parts, out, M * N, SPLITS=splits, BLOCK=256, INDEX=tl.int32)
    torch.testing.assert_close(out.cpu(), x.float() @ w.float().T, atol=1e-4, rtol=1e-4)


def test_quantised_rows() -> None:
    x = _random(5, 300).to(torch.bfloat16)
    for rows, block, once in ((1, 512, True), (2, 512, True), (2, 128, False)):
        q = torch.empty(5, 300, dtype=torch.float8_e4m3fn, device="mtia")
        scale = torch.empty(5, device="mtia")
        grid = (ceil_div(5, rows),)
        mtia_quantise_rows[grid](x.to("mtia"), q, scale, 5, 300, ROWS=rows, BLOCK=block, ONCE=once)
        expected = x.float().abs().amax(1) / 448
        torch.testing.assert_close(scale.cpu(), expected)
        back = q.cpu().float() * expected[:, None]
        torch.testing.assert_close(back, x.float(), atol=0.01, rtol=0.07)


def test_promoted_blocks() -> None:
    M, N, K, B = 20, 40, 96, 32
    x, w = (_random(*s, seed=i).to(torch.float8_e4m3fn) for i, s in enumerate(((M, K), (N, K))))
    xs, ws = _random(K // B, M, seed=2).abs() + 0.5, _random(ceil_div(N, B), K // B, seed=3).abs() + 0.5
    out = torch.empty(M, N, device="mtia")
    mtia_matmul_promoted[(ceil_div(M, 16) * ceil_div(N, B), 1)](
        *(t.to("mtia") for t in (x, w, xs, ws)), out, M, N, K, K, 1, BM=16, BN=B, BK=B, EVEN_K=True, INDEX=tl.int32
    )
    wide_x = x.float() * xs.T.repeat_interleave(B, 1)
    wide_w = w.float() * ws.repeat_interleave(B, 0)[:N].repeat_interleave(B, 1)
    torch.testing.assert_close(out.cpu(), wide_x @ wide_w.T, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("form", ["e2m1", "e4m3"])
def test_block_scaled_multiply(form: str) -> None:
    """tl.dot_scaled: 4-bit pairs with e4m3 scales for 16, 8-bit elements with powers of two for 32."""
    M, N, K = 20, 24, 128
    group = 16 if form == "e2m1" else 32
    generator = torch.Generator().manual_seed(4)
    if form == "e2m1":
        x, w = (torch.randint(0, 256, (r, K // 2), generator=generator, dtype=torch.uint8) for r in (M, N))
        wide = [E2M1[torch.stack((t & 15, t >> 4), -1).flatten(-2).long()] for t in (x, w)]
        xs, ws = ((_random(K // group, r, seed=r).abs() + 0.5).to(torch.float8_e4m3fn) for r in (M, N))
        factors = [s.float() for s in (xs, ws)]
    else:
        x, w = (_random(r, K, seed=r).to(torch.float8_e4m3fn) for r in (M, N))
        wide = [t.float() for t in (x, w)]
        xs, ws = (torch.randint(125, 130, (K // group, r), generator=generator, dtype=torch.uint8) for r in (M, N))
        factors = [torch.exp2(s.float() - 127) for s in (xs, ws)]
    out = torch.empty(M, N, device="mtia")
    mtia_matmul_scaled[(ceil_div(M, 16) * ceil_div(N, 16), 1)](
        *(t.to("mtia") for t in (x, w, xs, ws)), out, M, N, K, K, 1,
        BM=16, BN=16, BK=64, BLOCK=group, FORMAT=form, EVEN_K=True, INDEX=tl.int32,
    )  # fmt: skip
    a, b = (t * f.T.repeat_interleave(group, 1) for t, f in zip(wide, factors, strict=True))
    torch.testing.assert_close(out.cpu(), a @ b.T, atol=1e-3, rtol=1e-4)


def test_quantised_blocks() -> None:
    x = _random(4, 256).to(torch.bfloat16)
    q = torch.empty(4, 256, dtype=torch.float8_e4m3fn, device="mtia")
    scale = torch.empty(8, device="mtia")
    mtia_quantise_blocks[(2,)](x.to("mtia"), q, scale, 8, GROUP=128, GROUPS=4, PACKED=False)
    expected = x.float().view(8, 128).abs().amax(1) / 448
    torch.testing.assert_close(scale.cpu(), expected)
    torch.testing.assert_close(
        q.cpu().float().view(8, 128) * expected[:, None], x.float().view(8, 128), atol=0.01, rtol=0.07
    )
