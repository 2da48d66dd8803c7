"""Indexing, sorting, layouts and random numbers on the device against the host."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from .on_device import check

X = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_reading(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    i, j = torch.tensor([[0, 4], [-1, 2]]), torch.tensor([3, -6])
    check(lambda a, i, j: (a[i], a[:, j], a[i, j], a[:, :, i], a[i, :, j], a[i[0], j, 1:3]), x, i, j)
    check(lambda a, j: (a.index_select(1, j.abs() % 6), a[a.sum((1, 2)) > 0]), x, j)
    check(lambda a, i: (a.gather(0, i.abs()[:, :, None]), a[0].take(i.abs())), x, i)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_writing(dtype: torch.dtype) -> None:
    def run(a: torch.Tensor, b: torch.Tensor, i: torch.Tensor) -> list[torch.Tensor]:
        outs = []
        for write in (
            lambda t: t.__setitem__((slice(None), i), b[:, i]),
            lambda t: t.__setitem__(t > 0, 1),
            lambda t: t.index_copy_(1, i, b[:, i]),
            lambda t: t.index_add_(0, i, b[:3]),
            lambda t: t.index_fill_(2, i, 3),
            lambda t: t.scatter_(1, i[None, :, None].expand(5, 3, 7), b[:, :3]),
            lambda t: t.scatter_(0, i[:, None, None], 2),
            lambda t: t.scatter_add_(1, i[None, :, None].expand(5, 3, 7) * 0, b[:, :3]),
            lambda t: t.index_put_((i, i), b[0, :3], accumulate=True),
            lambda t: t.masked_scatter_(t > 0, b),
        ):
            t = a.clone()
            write(t)
            outs.append(t)
        return outs

    b = (torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)
    check(
        run, (X * 4).to(dtype), b, torch.tensor([0, 4, 2]), tolerance=(2e-2, 2e-2) if dtype == torch.bfloat16 else None
    )


def test_masks() -> None:
    check(lambda a: (a.nonzero(), torch.masked_select(a, a > 0), (a > 1).nonzero(as_tuple=True), a[a > 9]), X)
    check(lambda a: (torch.isin(a, torch.tensor([1, 3], device=a.device)), torch.bincount(a)), torch.arange(6) % 4)
    check(lambda a: torch.histc(a.float(), 4, 0, 3), torch.arange(10) % 4)
    check(lambda a: (F.one_hot(a, 5), torch.equal(a, a)), torch.arange(10) % 4)


def test_embedding() -> None:
    def run(w: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        w = w.detach().requires_grad_()
        y = F.embedding(i, w, padding_idx=1)
        (y * y).sum().backward()
        return y.detach(), w.grad

    check(run, torch.randn(9, 12), torch.tensor([[1, 3, 3], [8, 0, 3]]))
    check(run, torch.randn(9, 12).to(torch.bfloat16), torch.tensor([[1, 3, 3], [8, 0, 3]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(3, 17), (2, 5000)])
def test_sort(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1000).to(dtype)
    check(lambda a: (a.sort(dim=-1, stable=True), a.sort(dim=-1, descending=True, stable=True)), x)
    check(lambda a: (a.topk(4).values, a.topk(3, largest=False).values, a.argsort(dim=0, stable=True)), x)


def test_sort_of_special_values() -> None:
    check(lambda a: a.sort(stable=True), torch.tensor([0.0, float("nan"), -0.0, float("inf"), -1.0, -float("inf")]))


def test_layouts() -> None:
    check(
        lambda a: (torch.cat([a, a[:, :2]], 1), torch.stack([a, a], 1), a.flip(0, 2), a.roll(2, 1), a.repeat(2, 1, 3)),
        X,
    )
    check(lambda a: (a.tril(), a.triu(1), (a > 0).tril(-1), a.permute(2, 0, 1).contiguous(), a.to(torch.float16)), X)
    check(lambda a: (F.pad(a, (1, 2, 0, 1)), a.unfold(2, 3, 2).contiguous(), a[:, ::2].clone()), X)
    check(lambda a: (torch.zeros_like(a), torch.full_like(a, 3), torch.ones_like(a, dtype=torch.int32)), X)
    check(
        lambda a: (
            torch.arange(2, 17, 3, device=a.device),
            torch.arange(0, 1, 0.1, device=a.device),
            torch.linspace(0, 1, 7, device=a.device),
            torch.eye(3, 4, device=a.device),
        ),
        X,
    )


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.uint8, torch.bool])
def test_casts(source: torch.dtype) -> None:
    x = (torch.rand(5, 6) * 5).to(source)
    for target in (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float16):
        check(lambda a, d=target: a.t().to(d), x)


def test_convolutions() -> None:
    def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, **options: object) -> tuple[torch.Tensor, ...]:
        x, w, b = (t.detach().requires_grad_() for t in (x, w, b))
        function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
        y = function(x, w, b, **options)
        (y * y).sum().backward()
        return y.detach(), x.grad, w.grad, b.grad

    loose = (1e-3, 1e-4)
    check(
        lambda *t: run(*t, stride=2, padding=1),
        torch.randn(2, 3, 9, 8),
        torch.randn(4, 3, 3, 3),
        torch.randn(4),
        tolerance=loose,
    )
    check(
        lambda *t: run(*t, groups=2, dilation=2),
        torch.randn(2, 4, 9, 8),
        torch.randn(6, 2, 3, 2),
        torch.randn(6),
        tolerance=loose,
    )
    check(lambda *t: run(*t, padding=2), torch.randn(2, 3, 11), torch.randn(4, 3, 5), torch.randn(4), tolerance=loose)
    check(lambda *t: run(*t), torch.randn(1, 2, 4, 5, 4), torch.randn(3, 2, 2, 2, 2), torch.randn(3), tolerance=loose)
    check(
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
        torch.randn(2, 3, 5, 4),
        torch.randn(3, 4, 3, 3),
        tolerance=loose,
    )


def test_transposed_convolution_rounds_once() -> None:
    """bfloat16 is the double precision result rounded; integers beyond float32's are exact."""
    x, w, bias = (torch.randn(*shape).bfloat16() for shape in ((1, 3, 5, 4), (3, 4, 3, 3), (4,)))
    got = F.conv_transpose2d(x.to("mtia"), w.to("mtia"), bias.to("mtia"), stride=2).cpu().double()
    exact = F.conv_transpose2d(x.double(), w.double(), bias.double(), stride=2)
    assert ((got - exact).abs() <= exact.abs() * 2.0**-8 + 1e-6).all()
    big = torch.tensor([[[2**25 + 1, 3]]])
    check(lambda x, w: F.conv_transpose1d(x, w), big, torch.ones(1, 1, 2, dtype=torch.int64))


def test_random_numbers() -> None:
    torch.mtia.manual_seed(5)
    a = torch.rand(20_000, device="mtia")
    b = torch.rand(20_000, device="mtia")
    torch.mtia.manual_seed(5)
    assert torch.equal(a.cpu(), torch.rand(20_000, device="mtia").cpu())
    assert not torch.equal(a.cpu(), b.cpu())
    assert a.min().item() >= 0 and a.max().item() < 1
    assert a.mean().item() == pytest.approx(0.5, abs=0.01)
    n = torch.randn(20_000, device="mtia")
    assert (n.mean().item(), n.std().item()) == pytest.approx((0, 1), abs=0.03)
    i = torch.randint(3, 9, (5000,), device="mtia").cpu()
    assert sorted(i.unique().tolist()) == list(range(3, 9))
    assert sorted(torch.randperm(1000, device="mtia").cpu().tolist()) == list(range(1000))
    d = F.dropout(torch.ones(20_000, device="mtia"), 0.25).cpu()
    assert (d == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert d.max().item() == pytest.approx(1 / 0.75)
    m = torch.multinomial(torch.tensor([[0.0, 0.2, 0.8]], device="mtia").expand(4000, 3), 1).cpu()
    assert m.float().mean().item() == pytest.approx(1.8, abs=0.03)
