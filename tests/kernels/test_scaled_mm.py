"""PyTorch's scaled products on the device against float64 products of the numbers that the operands hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import ScalingType, SwizzleType

import mtia
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels.quantise_mx import quantise_mx
from mtia.numerics import blocks as b

E4M3 = torch.float8_e4m3fn


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(out: torch.Tensor, exact: torch.Tensor, rtol: float = 1e-2) -> None:
    """Within a bfloat16 step of the largest, and no host route."""
    error = (out.cpu().double() - exact).abs().max()
    assert error <= rtol * exact.abs().max(), float(error)


@pytest.fixture(autouse=True)
def _no_host_route():
    with mtia.use("mtia400"):
        before = mtia.host_fallbacks()
        yield
        assert mtia.host_fallbacks() == before


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_scaled_mm_by_tensor_and_by_row(rows: bool, bias: bool) -> None:
    M, N, K = 48, 80, 96
    x, w = (numbers(n, K, seed=n) for n in (M, N))
    xs, ws = ((t.abs().amax(1, keepdim=True) if rows else t.abs().max().reshape(1, 1)) / 448 for t in (x, w))
    qx, qw = (x / xs).to(E4M3), (w / ws).to(E4M3)
    added = numbers(N, seed=7).to(torch.bfloat16) if bias else None
    scales = (xs.to("mtia"), ws.T.contiguous().to("mtia")) if rows else (xs.view(()).to("mtia"), ws.view(()).to("mtia"))
    out = torch._scaled_mm(
        qx.to("mtia"), qw.to("mtia").t(), *scales, bias=None if added is None else added.to("mtia"),
        out_dtype=torch.bfloat16,
    )  # fmt: skip
    exact = (qx.double() * xs.double()) @ (qw.double() * ws.double()).T + (0 if added is None else added.double())
    close(out, exact)
    assert out.dtype is torch.bfloat16


@pytest.mark.parametrize("fmt", [b.MX8, b.MXFP8_E4M3], ids=lambda f: f.name)
def test_scaled_mm_by_block(fmt: b.BlockFormat) -> None:
    x, w = numbers(40, 128, seed=1), numbers(64, 128, seed=2)
    (qx, sx), (qw, sw) = (quantise_mx(t.to("mtia"), fmt) for t in (x, w))
    e8m0 = torch.float8_e8m0fnu
    out = torch._scaled_mm(qx, qw.t(), sx.view(e8m0), sw.view(e8m0), out_dtype=torch.float32)
    held = [torch.from_numpy(b.round_blocks(t.numpy(), fmt)).double() for t in (x, w)]
    close(out, held[0] @ held[1].T, rtol=1e-6)


def test_scaled_mm_of_packed_fp4_with_two_levels_of_scale() -> None:
    """NVFP4: E4M3 for 16 of depth under one float32 for the tensor."""
    x, w = numbers(32, 64, seed=3).numpy(), numbers(48, 64, seed=4).numpy()
    held = [b.quantise(t, b.NVFP4) for t in (x, w)]
    packed = [torch.from_numpy(b.pack_pairs(h.codes)).view(torch.float4_e2m1fn_x2).to("mtia") for h in held]
    scales = [torch.from_numpy(h.scales).view(E4M3).to("mtia") for h in held]
    tensors = [torch.tensor(h.tensor_scale, device="mtia") for h in held]
    recipe = [ScalingType.BlockWise1x16, ScalingType.TensorWise]
    plain = [SwizzleType.NO_SWIZZLE, SwizzleType.NO_SWIZZLE]
    out = F.scaled_mm(
        packed[0], packed[1].t(), [scales[0], tensors[0]], recipe, [scales[1], tensors[1]], recipe, plain, plain,
        output_dtype=torch.float32,
    )  # fmt: skip
    exact = [torch.from_numpy(b.dequantise(h)).double() for h in held]
    close(out, exact[0] @ exact[1].T, rtol=1e-5)


def test_scaled_mm_by_wide_blocks() -> None:
    M, N, K = 70, 256, 384
    x, w = numbers(M, K, seed=5).to(E4M3), numbers(N, K, seed=6).to(E4M3)
    sx, sw = torch.rand(M, K // 128) + 0.5, torch.rand(N // 128, K // 128) + 0.5
    out = torch._scaled_mm(
        x.to("mtia"), w.to("mtia").t(), sx.to("mtia"), sw.T.contiguous().to("mtia"), out_dtype=torch.bfloat16
    )
    wide_w = w.double() * sw.double().repeat_interleave(128, 0).repeat_interleave(128, 1)
    close(out, (x.double() * sx.double().repeat_interleave(128, 1)) @ wide_w.T)


def test_scaled_grouped_mm_takes_each_group_of_rows_to_its_matrix() -> None:
    x, w = numbers(48, 64, seed=8), numbers(3, 32, 64, seed=9)
    xs, ws = x.abs().amax(1) / 448, w.abs().amax(2) / 448
    qx, qw = (x / xs[:, None]).to(E4M3), (w / ws[..., None]).to(E4M3)
    ends = torch.tensor([16, 16, 48], dtype=torch.int32)
    out = torch._scaled_grouped_mm(
        qx.to("mtia"), qw.to("mtia").transpose(1, 2), xs.to("mtia"), ws.to("mtia"), ends.to("mtia"),
        out_dtype=torch.bfloat16,
    )  # fmt: skip
    wide_x, wide_w = qx.double() * xs.double()[:, None], qw.double() * ws.double()[..., None]
    exact = torch.cat([wide_x[:16] @ wide_w[0].T, wide_x[16:] @ wide_w[2].T])
    close(out, exact)


@pytest.mark.parametrize("chip", ["mtia100", "mtia200", "mtia300", "mtia450"])
def test_int_mm_is_exact_on_every_chip(chip: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randint(-128, 128, s, dtype=torch.int8, generator=generator) for s in ((40, 96), (96, 56)))
    with mtia.use(chip):
        got = torch._int_mm(x.to("mtia"), y.to("mtia")).cpu()
    np.testing.assert_array_equal(got.numpy(), x.numpy().astype(np.int64) @ y.numpy().astype(np.int64))


def test_errors_say_what_to_give() -> None:
    x = torch.zeros(32, 64, device="mtia").to(E4M3)
    swizzled = torch.zeros(512, dtype=torch.uint8, device="mtia").view(torch.float8_e8m0fnu)
    with pytest.raises(
        BadProblem, match=r"scale_a.shape = \(512,\); one value, one for each of 32 rows, or \[rows, 64"
    ):
        torch._scaled_mm(x, x.t(), swizzled, swizzled, out_dtype=torch.bfloat16)
    one = torch.ones((), device="mtia")
    with mtia.use("mtia200"), pytest.raises(UnsupportedDtype, match=r"mtia200 has no fp8.*since MTIA 300.*In software"):
        torch._scaled_mm(x, x.t(), one, one, out_dtype=torch.bfloat16)
