"""Table-batched bags: values as PyTorch's embedding_bag and its row-wise 8-bit format, on every kind of chip."""

from __future__ import annotations

import pytest
import torch

import mtia
from mtia.kernels.embedding_bag import embedding_bags, pack_rows, row_pitch_bytes
from mtia.kernels.quantise import dequantize_rows, quantise_rows


def bags(tables: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Sums by PyTorch: [B, T, D]."""
    each = (torch.nn.functional.embedding_bag(i, t.float(), mode="sum") for i, t in zip(indices, tables, strict=True))
    return torch.stack(list(each), 1)


@pytest.mark.parametrize("chip", ["mtia100", "mtia300"])  # without and with indexed DMA
@pytest.mark.parametrize("dim, pooling", [(64, 1), (64, 20), (96, 7), (16, 33), (5, 2)])
def test_rows_with_scale_and_bias(chip: str, dim: int, pooling: int):
    torch.manual_seed(dim + pooling)
    weights = torch.randn(3, 40, dim)
    indices = torch.randint(0, 40, (3, 4, pooling), dtype=torch.int32)
    packed = pack_rows(weights, 32)
    with mtia.use(chip):
        got = embedding_bags(packed.to("mtia"), indices.to("mtia"), dim, torch.float32).cpu()
    scale, bias = packed[..., dim : dim + 8].contiguous().view(torch.float32).split(1, -1)
    torch.testing.assert_close(got, bags(packed[..., :dim] * scale + bias, indices), atol=1e-5, rtol=1e-5)
    assert (got - bags(weights, indices)).abs().max() <= pooling * float(scale.max()) / 2 * 1.01


def test_the_format_is_pytorchs():
    weights = torch.randn(30, 24)
    packed = torch.ops.quantized.embedding_bag_byte_prepack(weights)
    ours = pack_rows(weights)
    assert ours.shape == packed.shape
    unpacked = torch.ops.quantized.embedding_bag_byte_unpack(ours)
    torch.testing.assert_close(unpacked, torch.ops.quantized.embedding_bag_byte_unpack(packed), atol=0.02, rtol=0)
    indices = torch.randint(0, 30, (1, 6, 5), dtype=torch.int32)
    with mtia.use("mtia300"):
        got = embedding_bags(packed[None].to("mtia"), indices.to("mtia"), 24, torch.float32).cpu()[:, 0]
    offsets = torch.arange(0, 30, 5)
    want = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(packed, indices.reshape(-1).long(), offsets)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_plain_rows(dtype: torch.dtype):
    tables = torch.randn(2, 50, 32).to(dtype)
    indices = torch.randint(0, 50, (2, 3, 18), dtype=torch.int32)
    got = embedding_bags(tables.to("mtia"), indices.to("mtia"), 32, torch.float32).cpu()
    torch.testing.assert_close(got, bags(tables, indices), atol=1e-4, rtol=1e-4)


def test_a_constant_row_comes_back():
    packed = pack_rows(torch.full((1, 2, 8), 3.5))
    got = embedding_bags(packed.to("mtia"), torch.zeros((1, 1, 4), dtype=torch.int32).to("mtia"), 8, torch.float32)
    assert torch.equal(got.cpu(), torch.full((1, 1, 8), 14.0))


@pytest.mark.parametrize("dim, alignment, pitch", [(64, 32, 96), (256, 32, 288), (64, 1, 72), (5, 1, 16), (24, 32, 32)])
def test_row_pitch(dim: int, alignment: int, pitch: int):
    assert row_pitch_bytes(dim, 1, alignment, scaled=True) == pitch


@pytest.mark.parametrize("out", [torch.float32, torch.float16])
def test_dequantised_rows(out: torch.dtype):
    x = torch.randint(-128, 128, (6, 40), dtype=torch.int8)
    scale, bias = torch.rand(6, 1), torch.randn(6, 1)
    got = dequantize_rows(x.to("mtia"), scale.to("mtia"), bias.to("mtia"), out).cpu()
    torch.testing.assert_close(got, (x * scale + bias).to(out))


@pytest.mark.parametrize("m, n", [(5, 40), (3, 4096), (1, 1)])
def test_quantised_rows_come_back(m: int, n: int):
    x = torch.randn(m, n)
    q, scale = (t.cpu() for t in quantise_rows(x.to("mtia")))
    assert torch.equal(q.abs().amax(-1), torch.full((m,), 127, dtype=torch.int8))
    torch.testing.assert_close(scale, x.abs().amax(-1, keepdim=True) / 127)
    assert ((q * scale - x).abs() <= scale * 0.501).all()
