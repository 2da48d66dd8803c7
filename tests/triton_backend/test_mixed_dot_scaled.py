"""tl.dot_scaled where one operand is plain: values, the rate it runs at, and what a chip without block formats pays."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import mtia
from mtia import chips
from mtia.host_runtime import record

M = N = 32
K = 64


@triton.jit
def mixed(a_ptr, b_ptr, scale_ptr, out_ptr, LEFT: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """a [M, K] bf16 times b [K, N] e4m3 with scales [N, K / 32], or, with LEFT, the transposed product."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    scale = tl.load(scale_ptr + n[:, None] * (K // 32) + tl.arange(0, K // 32)[None, :])
    if LEFT:
        a = tl.load(a_ptr + k[:, None] + m[None, :] * K)
        b = tl.load(b_ptr + n[:, None] + k[None, :] * N)
        out = tl.trans(tl.dot_scaled(b, scale, "e4m3", a, None, "bf16"))
    else:
        a = tl.load(a_ptr + m[:, None] * K + k[None, :])
        b = tl.load(b_ptr + k[:, None] * N + n[None, :])
        out = tl.dot_scaled(a, None, "bf16", b, scale, "e4m3")
    tl.store(out_ptr + m[:, None] * N + n[None, :], out)


def operands() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    a, b = torch.randn(M, K).bfloat16(), torch.randn(K, N).to(torch.float8_e4m3fn)
    return a, b, torch.randint(120, 134, (N, K // 32), dtype=torch.uint8)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("chip", ["mtia300", "mtia400"])
def test_one_scale_is_enough(chip: str, left: bool):
    a, b, scale = operands()
    wide = b.double() * torch.exp2(scale.double() - 127).T.repeat_interleave(32, 0)
    with mtia.use(chip):
        out = torch.empty(M, N, device="mtia")
        mixed[(1,)](a.to("mtia"), b.to("mtia"), scale.to("mtia"), out, LEFT=left, M=M, N=N, K=K)
    torch.testing.assert_close(out.cpu().double(), a.double() @ wide, rtol=1e-5, atol=1e-4)


def test_a_chip_without_block_formats_unpacks_only_what_is_scaled():
    """MTIA 300: K x N elements pass the vector cores, M x K do not; MTIA 400 has a unit and passes none."""
    a, b, scale = operands()
    passed = {}
    for chip in ("mtia300", "mtia400"):
        with mtia.use(chip), record.session() as log:
            out = torch.empty(M, N, device="mtia")
            mixed[(1,)](a.to("mtia"), b.to("mtia"), scale.to("mtia"), out, LEFT=False, M=M, N=N, K=K)
        passed[chip] = next(s for s in log.spans if s.name == "mixed").work.timing.vector_ops
    assert passed["mtia300"] - passed["mtia400"] == chips.load("mtia300").pe.cores.unpack_passes * K * N
