"""Softmax and normalisations, forward and backward, on the device against the host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from mtia.host_runtime import record

from .on_device import check

SHAPES = [(4, 7, 33), (2, 9000), (3, 1)]


def with_gradient(function: Callable[..., torch.Tensor]) -> Callable[..., tuple[torch.Tensor, ...]]:
    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = function(*leaves)
        ramp = torch.arange(y.numel(), device=y.device, dtype=torch.float32).reshape(y.shape) % 5 - 2
        y.backward(ramp.to(y.dtype))
        return (y.detach(), *(x.grad for x in leaves))

    return run


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for dim in (-1, 0):
        check(with_gradient(lambda a, d=dim: a.softmax(d)), x)
        check(with_gradient(lambda a, d=dim: a.log_softmax(d)), x, tolerance=(5e-4, 1e-5))


def test_softmax_of_narrow_and_masked() -> None:
    x = torch.randn(4, 50)
    check(lambda a: (a.softmax(-1), a.log_softmax(-1), a.softmax(-1, dtype=torch.float32)), x.to(torch.bfloat16))
    check(lambda a: a.masked_fill(a > 0.5, float("-inf")).softmax(-1), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape: tuple[int, ...]) -> None:
    x, w, b = torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape[-1])
    check(with_gradient(lambda a, w, b: F.layer_norm(a, shape[-1:], w, b)), x, w, b, tolerance=(1e-4, 1e-4))
    check(with_gradient(lambda a: F.layer_norm(a, shape[-1:])), x, tolerance=(1e-4, 1e-4))


def test_layer_norm_in_bfloat16_and_over_two_dims() -> None:
    x, w, b = torch.randn(6, 48), torch.randn(48), torch.randn(48)
    check(
        lambda *a: F.layer_norm(a[0], (48,), a[1], a[2]),
        *(t.to(torch.bfloat16) for t in (x, w, b)),
        tolerance=(3e-2, 2e-2),
    )
    check(lambda a: F.layer_norm(a, (6, 48)), torch.randn(3, 6, 48))


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, w = torch.randn(shape), torch.randn(shape[-1])
    check(with_gradient(lambda a, w: F.rms_norm(a, shape[-1:], w, 1e-6)), x, w, tolerance=(1e-4, 1e-4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_is_one_kernel_and_one_for_each_gradient(dtype: torch.dtype) -> None:
    x, w, g = (torch.randn(shape).to(dtype) for shape in ((6, 96), (96,), (6, 96)))
    leaves = [t.to("mtia").requires_grad_() for t in (x, w)]
    exact = [t.double().requires_grad_() for t in (x, w)]
    upstream = g.to("mtia")
    F.rms_norm(leaves[0], (96,), leaves[1])  # registers and compiles
    with record.session() as log:
        y = F.rms_norm(leaves[0], (96,), leaves[1], 1e-5)
        got = torch.autograd.grad(y, leaves, upstream)
    names = [s.name for s in log.spans if s.name != "mtia_fill"]
    assert names == ["mtia_layer_norm", "mtia_layer_norm_backward", "mtia_norm_parameters_backward"]
    expected = torch.autograd.grad(F.rms_norm(exact[0], (96,), exact[1], 1e-5), exact, g.double())
    eps = torch.finfo(dtype).eps
    for ours, reference in zip(got, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(
            ours.cpu().double(), reference, rtol=eps, atol=1e-5 if dtype is torch.float32 else eps
        )


def test_derivatives_of_rms_norm_to_the_second() -> None:
    leaves = [torch.randn(s, dtype=torch.float64).to("mtia").requires_grad_() for s in ((2, 4), (4,))]
    assert torch.autograd.gradcheck(lambda x, w: F.rms_norm(x, (4,), w, 1e-3), leaves)
    assert torch.autograd.gradgradcheck(lambda x, w: F.rms_norm(x, (4,), w, 1e-3), leaves)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(reduction: str) -> None:
    x, y = torch.randn(12, 7), torch.randint(0, 7, (12,))
    y[3] = -100
    weight = torch.rand(7) + 0.5

    def cross_entropy(given: torch.Tensor | None) -> Callable[..., torch.Tensor]:
        return with_gradient(
            lambda a: F.cross_entropy(
                a, y.to(a.device), weight=None if given is None else given.to(a.device), reduction=reduction
            )
        )

    check(cross_entropy(None), x, tolerance=(1e-5, 1e-5))
    check(cross_entropy(weight), x, tolerance=(1e-5, 1e-5))
    check(
        with_gradient(lambda a, b: F.mse_loss(a, b, reduction=reduction)), x, torch.randn(12, 7), tolerance=(1e-5, 1e-5)
    )


def test_attention() -> None:
    q, k, v = (torch.randn(2, 4, 9, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    check(
        with_gradient(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        q,
        k,
        v,
        tolerance=(1e-5, 1e-4),
    )
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    check(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], m, enable_gqa=True),
        q,
        k,
        v,
        mask,
        tolerance=(1e-5, 1e-4),
    )


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weight_norm(dim: int, dtype: torch.dtype) -> None:
    v = torch.randn((6, 5, 7), dtype=torch.float64).to(dtype)
    g = torch.rand([v.shape[d] if d == dim else 1 for d in range(3)], dtype=torch.float64).to(dtype)
    tolerance = (2e-2, 2e-2) if dtype == torch.bfloat16 else None  # the CPU rounds g / |v| to bfloat16 in between
    check(with_gradient(lambda v, g: torch._weight_norm(v, g, dim)), v, g, tolerance=tolerance)
    check(lambda v, g: torch._weight_norm_interface(v, g, dim), v, g, tolerance=tolerance)


def test_weight_norm_sets_lengths_and_its_gradient_is_across() -> None:
    v, g = torch.randn(9, 33).to("mtia").requires_grad_(), torch.rand(9, 1).to("mtia").requires_grad_()
    w = torch._weight_norm(v, g, 0)
    torch.testing.assert_close(torch.linalg.vector_norm(w, dim=1).detach().cpu(), g.detach().cpu()[:, 0])
    w.backward(torch.randn(9, 33).to("mtia"))
    assert v.grad is not None and g.grad is not None
    across = (v.grad * v.detach()).sum(1).abs() / (v.grad.norm(dim=1) * v.detach().norm(dim=1))
    assert float(across.max()) < 1e-6
