"""Embedding bags of any length: values and gradients are PyTorch's, bits repeat, only rows that were hit change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

import mtia
from mtia.kernels import embedding_rows as rows

from .on_device import check

ROWS = (9, 40, 3)  # tables; the last is hot


def lists(batch: int, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Table-batched indices, offsets and first rows; some bags are empty."""
    random = torch.Generator().manual_seed(batch)
    sizes = torch.randint(0, longest + 1, (len(ROWS) * batch,), generator=random)
    each = [torch.randint(0, n, (int(s.sum()),), generator=random) for n, s in zip(ROWS, sizes.split(batch))]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return torch.cat(each), offsets, torch.tensor([0, *ROWS[:-1]]).cumsum(0)


def bags(weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """[B, T, D] by PyTorch."""
    T, B = len(ROWS), (offsets.numel() - 1) // len(ROWS)
    ends = [slice(int(offsets[t * B]), int(offsets[(t + 1) * B])) for t in range(T)]
    return torch.stack([
        F.embedding_bag(indices[at] + first[t], weight, offsets[t * B : (t + 1) * B] - at.start, mode="sum")
        for t, at in enumerate(ends)], 1)  # fmt: skip


@pytest.fixture(params=["mtia100", "mtia300"])  # a sorting network and rows one by one; radix sort and indexed DMA
def chip(request: pytest.FixtureRequest) -> Iterator[str]:
    with mtia.use(request.param):
        yield request.param


@pytest.mark.parametrize("batch, longest, dim", [(1, 1, 4), (5, 0, 8), (30, 3, 16), (100, 7, 5), (2, 90, 32)])
def test_lists_forward_and_backward(chip: str, batch: int, longest: int, dim: int):
    torch.manual_seed(0)
    indices, offsets, first = lists(batch, longest)
    weight = torch.randn(sum(ROWS), dim, requires_grad=True)
    expected = bags(weight, indices, offsets, first)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    on = [t.to("mtia") for t in (weight.detach(), indices, offsets, first)]
    found = rows.embedding_lists(*on, bags=offsets.numel() - 1)
    torch.testing.assert_close(found.out.cpu(), expected.detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(found.sizes.cpu(), offsets.diff())
    gradient = rows.row_gradient(found.lookups, upstream.view(-1, dim).to("mtia"))
    dense = rows.store_rows(gradient, torch.zeros_like(on[0])).cpu()
    torch.testing.assert_close(dense, weight.grad, atol=1e-5, rtol=1e-5)


def test_adagrad_touches_only_rows_that_were_hit(chip: str):
    torch.manual_seed(1)
    weight, moment = torch.randn(50, 8), torch.rand(50)
    indices = torch.randint(10, 20, (300,))
    upstream = torch.randn(300, 8)
    g = torch.zeros(50, 8).index_add(0, indices, upstream)
    want_moment = moment + g.square().mean(1)
    want = weight - 0.1 * g / (want_moment.sqrt() + 1e-8).unsqueeze(1)
    w, m = weight.to("mtia"), moment.to("mtia")
    packed = rows.pack_lookups(indices.to("mtia"), None, 50)
    rows.rowwise_adagrad_(w, m, rows.row_gradient(packed, upstream.to("mtia")), rate=0.1, eps=1e-8)
    torch.testing.assert_close(w.cpu(), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(m.cpu(), want_moment, atol=1e-4, rtol=1e-5)
    idle = torch.ones(50, dtype=torch.bool).index_fill(0, indices, False)
    assert torch.equal(w.cpu()[idle], weight[idle]) and torch.equal(m.cpu()[idle], moment[idle])


def test_a_gradient_is_the_same_bits_again():
    indices, upstream = torch.randint(0, 5, (1000,)), torch.randn(1000, 16)
    once, again = (
        rows.dense_gradient(upstream.to("mtia"), indices.to("mtia"), None, 5).cpu().view(torch.int32) for _ in range(2)
    )
    assert torch.equal(once, again)


def test_a_run_over_many_tiles():
    """One row hit by everything: 5000 lookups, 79 tiles, one sum."""
    upstream = torch.ones(5000, 4)
    dense = rows.dense_gradient(upstream.to("mtia"), torch.full((5000,), 2).to("mtia"), None, 4).cpu()
    assert dense[2].tolist() == [5000.0] * 4 and dense.sum() == 20000


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("last", [False, True])
def test_embedding_bag(mode: str, kind: torch.dtype, last: bool):
    indices, offsets = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9]), torch.tensor([0, 0, 4, 5] + [8] * last)

    def both(weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor) -> list[torch.Tensor]:
        weight = weight.detach().requires_grad_()
        out = F.embedding_bag(indices, weight, offsets, mode=mode, include_last_offset=last)
        out.square().sum().backward()
        assert weight.grad is not None
        return [out.detach(), weight.grad]

    torch.manual_seed(2)
    check(both, torch.randn(10, 6), indices.to(kind), offsets.to(kind))


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_embedding_bag_with_weights_and_padding(padding: int | None, dtype: torch.dtype):
    indices, offsets = torch.tensor([1, 2, 4, 2, 2, 3]), torch.tensor([0, 3, 5])

    def both(weight: torch.Tensor, scale: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor):
        weight, scale = weight.detach().requires_grad_(), scale.detach().requires_grad_()
        out = F.embedding_bag(indices, weight, offsets, mode="sum", per_sample_weights=scale, padding_idx=padding)
        out.sum().backward()
        return [out.detach(), weight.grad, scale.grad]

    torch.manual_seed(3)
    check(both, torch.randn(5, 8).to(dtype), torch.rand(6).to(dtype), indices, offsets)


@pytest.mark.parametrize("padding, by_frequency", [(None, False), (1, False), (None, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_embedding(padding: int | None, by_frequency: bool, dtype: torch.dtype):
    def both(weight: torch.Tensor, indices: torch.Tensor) -> torch.Tensor | None:
        weight = weight.detach().requires_grad_()
        F.embedding(indices, weight, padding, scale_grad_by_freq=by_frequency).square().sum().backward()
        return weight.grad

    torch.manual_seed(4)
    check(both, torch.randn(7, 12).to(dtype), torch.randint(0, 7, (3, 11)))


def test_indices_on_the_host_are_refused():
    weight, offsets = torch.randn(4, 8).to("mtia"), torch.zeros(1, dtype=torch.int64).to("mtia")
    with pytest.raises(RuntimeError, match="same device, but indices is on cpu, weight on mtia:0"):
        F.embedding_bag(torch.zeros(2, dtype=torch.int64), weight, offsets, mode="sum")


def test_no_lookup_at_all():
    weight = torch.randn(4, 8).to("mtia").requires_grad_()
    none = torch.zeros(0, dtype=torch.int64).to("mtia")
    out = F.embedding_bag(none, weight, torch.zeros(3, dtype=torch.int64).to("mtia"), mode="sum")
    out.sum().backward()
    assert weight.grad is not None
    assert not out.any() and not weight.grad.any()
