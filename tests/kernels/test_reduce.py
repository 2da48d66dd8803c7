"""Reductions and scans on the device against the host."""

from __future__ import annotations

import pytest
import torch

from .on_device import check

X = torch.randn(6, 5, 40, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_dims(dims: tuple[int, ...], dtype: torch.dtype) -> None:
    x = X.to(dtype)
    check(lambda a: (a.sum(dims), a.sum(dims, keepdim=True), a.amax(dims), a.amin(dims, keepdim=True)), x)
    check(lambda a: a.sum(dims), x.transpose(0, 2))
    check(lambda a: a.sum(dims), x[:, :, ::3])
    if dtype.is_floating_point:
        check(
            lambda a: (a.mean(dims), a.var(dims), a.std(dims, keepdim=True), torch.linalg.vector_norm(a, dim=dims)), x
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_extremes_with_positions(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    for dim in range(3):
        check(lambda a, d=dim: (a.max(d).values, a.min(d, keepdim=True).values), x)
    check(lambda a: (a.max(1), a.argmax(1), a.argmin(2, keepdim=True), a.argmax(), a.max(), a.min()), X)


def test_ties_and_nan() -> None:
    check(lambda a: (a.argmax(), a.argmin(), a.max(0).indices), torch.tensor([2, 7, 7, 1, 1]))
    check(lambda a: (a.max(), a.argmax(), a.amin(0), a.sum()), torch.tensor([2.0, float("nan"), 7.0, float("nan")]))


def test_logical_and_counts() -> None:
    check(lambda a: (a.any(1), a.all(2), a.any(), a.all(), (a > 0).sum(1), (a > 0).any(0)), X.round())
    check(lambda a: (a.prod(2), a.float().prod()), X.round().to(torch.int64).clamp(-2, 2))
    check(lambda a: (torch.count_nonzero(a), torch.count_nonzero(a, 1)), X.round())


@pytest.mark.parametrize("shape", [(3, 9000), (1, 50_000), (20_000, 3), (130, 257)])
def test_long(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    check(lambda a: (a.sum(), a.mean(1), a.mean(0), a.logsumexp(1)), x, tolerance=(1e-4, 1e-4))
    check(lambda a: (a.argmax(1), a.argmin(0), a.argmax(), a.amax()), x)


def test_norms() -> None:
    for order in (1, 2, 3, float("inf"), 0):
        check(lambda a, p=order: torch.linalg.vector_norm(a, p, dim=1), X)


def test_result_type() -> None:
    check(
        lambda a: (a.sum(dtype=torch.float32), a.mean(dtype=torch.float32), a.sum(0, dtype=torch.float32)),
        X.to(torch.bfloat16),
    )
    check(lambda a: a.sum(1), X > 0)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_cumulative(dim: int) -> None:
    check(lambda a: a.cumsum(dim), X, tolerance=(1e-4, 1e-5))
    check(lambda a: (a.cumsum(dim), (a > 1).cumsum(dim)), X.to(torch.int64))
    check(lambda a: a.cumprod(dim), X[:, :, :4], tolerance=(1e-3, 1e-5))


def test_cumulative_over_blocks() -> None:
    check(lambda a: a.cumsum(1), torch.ones((2, 5000), dtype=torch.int64))
