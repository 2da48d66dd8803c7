"""Grouped multiplies and the routing kernels around them, on the simulated device against PyTorch on the host."""

from __future__ import annotations

import pytest
import torch

from mtia.kernels.elementwise import launch
from mtia.kernels.grouped_matmul import mtia_grouped_matmul, mtia_grouped_matmul_w4
from mtia.kernels.moe import mtia_combine, mtia_count_experts, mtia_permute, mtia_place, mtia_route
from mtia.kernels.transformer import (
    GELU_BY_POWERS,
    SILU_MUL_BY_POWERS,
    mtia_add_rms_norm,
    mtia_norm_streamed,
    mtia_quantize_groups,
    mtia_softmax_streamed,
)

BM = 16
LAST = 5  # rows of the last tile
GROUPS = [0, 0, 2, 3]  # of each row tile; group 1 has no rows
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def tables() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Groups, first rows and rows of the tiles: all full but the last."""
    starts = torch.arange(len(GROUPS), dtype=torch.int32) * BM
    counts = torch.tensor([BM, BM, BM, LAST], dtype=torch.int32)
    return torch.tensor(GROUPS, dtype=torch.int32).to("mtia"), starts.to("mtia"), counts.to("mtia")


@pytest.mark.parametrize(("n", "k"), [(64, 128), (40, 72)])
def test_each_tile_of_rows_meets_its_groups_matrix(n: int, k: int) -> None:
    x, w = random(len(GROUPS) * BM, k), random(4, n, k)
    out = torch.zeros((x.shape[0], n), dtype=torch.bfloat16, device="mtia")
    grid = (len(GROUPS) * -(-n // 32),)
    blocks = dict(BM=BM, BN=32, BK=64, BAND=2, EVEN_N=n % 32 == 0, EVEN_K=k % 64 == 0)
    mtia_grouped_matmul[grid](x.to("mtia"), w.to("mtia"), *tables(), out, n, k, len(GROUPS), **blocks)
    expected = torch.cat([x[t * BM : (t + 1) * BM].float() @ w[g].float().t() for t, g in enumerate(GROUPS)])
    expected[3 * BM + LAST :] = 0
    torch.testing.assert_close(out.cpu().float(), expected, atol=0.15, rtol=2e-2)


def test_four_bit_weights_are_those_of_the_format() -> None:
    n, k, bk = 32, 256, 128
    x = random(len(GROUPS) * BM, k)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 16, (4, n, k), generator=generator)
    exponents = torch.randint(124, 130, (4, n, k // 32), generator=generator)
    steps = codes.view(4, n, k // bk, 2, bk // 2)
    packed = (steps[..., 0, :] | steps[..., 1, :] << 4).reshape(4, n, k // 2).to(torch.uint8)
    out = torch.zeros((x.shape[0], n), dtype=torch.bfloat16, device="mtia")
    mtia_grouped_matmul_w4[(len(GROUPS),)](
        x.to("mtia"), packed.to("mtia"), exponents.transpose(1, 2).contiguous().to(torch.uint8).to("mtia"), *tables(), out, n, k, len(GROUPS),
        BM=BM, BN=32, BK=bk, BAND=2, EVEN_N=True, UNPACK=True,
    )  # fmt: skip
    w = E2M1[codes] * (2.0 ** (exponents - 127)).repeat_interleave(32, dim=2)
    expected = torch.cat([x[t * BM : (t + 1) * BM].float() @ w[g].t() for t, g in enumerate(GROUPS)])
    expected[3 * BM + LAST :] = 0
    torch.testing.assert_close(out.cpu().float(), expected, atol=1.0, rtol=2e-2)


def test_a_block_of_experts_from_routing_to_the_weighted_sum() -> None:
    tokens, experts, topk, hidden = 24, 8, 2, 64
    logits, x = random(tokens, experts, dtype=torch.float32), random(tokens, hidden, dtype=torch.float32)
    w = random(experts, hidden, hidden, dtype=torch.float32)
    ids = torch.empty((tokens, topk), dtype=torch.int32, device="mtia")
    weights = torch.empty((tokens, topk), dtype=torch.float32, device="mtia")
    mtia_route[(tokens // 8,)](logits.to("mtia"), ids, weights, tokens, experts, ROWS=8, WIDTH=8, TOPK=topk)
    best = logits.softmax(1).topk(topk, dim=1)
    assert torch.equal(ids.cpu().long(), best.indices)
    torch.testing.assert_close(weights.cpu(), best.values)

    ends = torch.empty(experts, dtype=torch.int32, device="mtia")
    mtia_count_experts[(1,)](ids, ends, tokens * topk, experts, WIDTH=8, BLOCK=64, PAD=BM)
    padded = -(-best.indices.flatten().bincount(minlength=experts) // BM) * BM
    assert torch.equal(ends.cpu().long(), padded.cumsum(0))

    following = (ends.cpu().long() - padded).to(torch.int32).to("mtia")
    places = torch.empty((tokens, topk), dtype=torch.int32, device="mtia")
    source = torch.zeros(int(padded.sum()), dtype=torch.int32, device="mtia")
    mtia_place[(1,)](ids, following, places, source, tokens * topk, TOPK=topk, BLOCK=64)
    rows = torch.empty((len(source), hidden), dtype=torch.float32, device="mtia")
    mtia_permute[(1, len(source))](x.to("mtia"), source, rows, hidden, BLOCK=64)
    groups = torch.repeat_interleave(torch.arange(experts), padded // BM).to(torch.int32).to("mtia")
    starts = torch.arange(len(groups), dtype=torch.int32).mul(BM).to("mtia")
    counts = torch.full_like(starts, BM)
    y = torch.empty_like(rows)
    blocks = dict(BM=BM, BN=64, BK=64, BAND=8, EVEN_N=True, EVEN_K=True)
    mtia_grouped_matmul[(len(groups),)](
        rows, w.to("mtia"), groups, starts, counts, y, hidden, hidden, len(groups), **blocks
    )
    out = torch.empty_like(x, device="mtia")
    mtia_combine[(1, tokens)](y, places, weights, out, hidden, TOPK=topk, BLOCK=64)
    each = torch.einsum("th,tkoh->tko", x, w[best.indices])
    torch.testing.assert_close(out.cpu(), (each * best.values[..., None]).sum(1), atol=1e-2, rtol=1e-2)


def test_fused_steps_of_a_layer() -> None:
    x, residual, w = random(5, 96, dtype=torch.float32), random(5, 96, dtype=torch.float32).roll(1), random(96).float()
    moved, out = residual.to("mtia"), torch.empty_like(x, device="mtia")
    mtia_add_rms_norm[(5,)](x.to("mtia"), moved, w.to("mtia"), out, 1e-5, 5, 96, WIDTH=128)
    torch.testing.assert_close(moved.cpu(), x + residual)
    torch.testing.assert_close(out.cpu(), torch.nn.functional.rms_norm(x + residual, (96,), w, 1e-5))
    mtia_norm_streamed[(5,)](x.to("mtia"), w.to("mtia"), out, 1e-5, 5, 96, WIDTH=32, CENTRE=True, HAS_W=True)
    torch.testing.assert_close(out.cpu(), torch.nn.functional.layer_norm(x, (96,), w, eps=1e-5), atol=1e-5, rtol=1e-4)


def test_quantised_groups_keep_three_bits() -> None:
    x = random(6, 256)
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn, device="mtia")
    scale = torch.empty((6, 2), dtype=torch.float32, device="mtia")
    mtia_quantize_groups[(1, 2)](x.to("mtia"), out, scale, 6, 256, ROWS=4, GROUPS=2, GROUP=128, TOP=448.0)
    groups = x.float().view(6, 2, 128)
    torch.testing.assert_close(scale.cpu(), groups.abs().amax(2) / 448)
    back = out.cpu().float().view(6, 2, 128) * scale.cpu()[..., None]
    torch.testing.assert_close(back, groups, atol=2e-2, rtol=1 / 16)


def test_functions_from_powers_of_two() -> None:
    x = torch.cat([torch.linspace(-90, 90, 500), torch.linspace(-1, 1, 500)])
    out = torch.empty_like(x, device="mtia")
    launch(GELU_BY_POWERS, out, (x.to("mtia"),), compute=torch.float32)
    torch.testing.assert_close(out.cpu(), torch.nn.functional.gelu(x, approximate="tanh"), atol=2e-5, rtol=2e-5)
    launch(SILU_MUL_BY_POWERS, out, (x.to("mtia"), x.flip(0).to("mtia")), compute=torch.float32)
    torch.testing.assert_close(out.cpu(), torch.nn.functional.silu(x) * x.flip(0), atol=2e-5, rtol=2e-5)
    rows = x.view(4, 250)
    mtia_softmax_streamed[(4,)](rows.to("mtia"), out, 4, 250, WIDTH=64)
    torch.testing.assert_close(out.cpu().view(4, 250), rows.softmax(1))
