"""Integer operators, hashes, ranges bit by bit, rows in order, and the complex numbers that real programs meet."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from .on_device import check
from .test_composed import with_gradient

INTEGERS = torch.tensor([0, 0, 1, 12, -18, 832040, 2**31 - 1, -(2**31) + 1], dtype=torch.int32)


@pytest.mark.parametrize("function", [torch.gcd, torch.lcm])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_divisors_and_multiples(function: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
    x = INTEGERS.to(dtype)
    y = torch.tensor([0, 7, 5, 18, 12, 514229, 2, 3]).to(dtype)  # 832040 and 514229: neighbours of Fibonacci's
    check(function, x, y)
    check(function, x, torch.tensor(6, dtype=dtype))


def test_gcd_is_pythons() -> None:
    x = torch.arange(-20, 20, device="mtia")
    got = torch.gcd(x[:, None], x[None, :]).cpu().tolist()
    assert got == [[math.gcd(a, b) for b in range(-20, 20)] for a in range(-20, 20)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int64])
def test_hash_of_a_tensor(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    check(lambda x: torch.hash_tensor(x).view(torch.int64), x)
    check(lambda x: torch.hash_tensor(x, 1, keepdim=True).view(torch.int64), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_linspace_has_the_cpus_bits(steps: int, dtype: torch.dtype) -> None:
    """One rounding an element (a fused multiply and add), from the nearer end."""
    for low, high in ((-1.3, 7.9), (5.0, -20.25), (0.1, 0.1)):
        expected = torch.linspace(low, high, steps, dtype=dtype)
        assert torch.equal(torch.linspace(low, high, steps, dtype=dtype, device="mtia").cpu(), expected)


def test_logspace_of_integers() -> None:
    check(lambda x: torch.logspace(0, 6.7, 5, dtype=torch.int64, device=x.device), torch.ones(1))


def test_triangles_of_places() -> None:
    for offset in (-2, 0, 3):
        check(lambda x, n=offset: torch.tril_indices(4, 6, n, device=x.device), torch.ones(1))
        check(lambda x, n=offset: torch.triu_indices(4, 6, n, device=x.device), torch.ones(1))


@pytest.mark.parametrize("shape", [(9, 4), (40, 5), (0, 4)])
def test_distinct_rows(shape: tuple[int, int]) -> None:
    """Ordered by pairs; and no row at all."""
    rows = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(2))
    check(lambda x: torch.unique_consecutive(x, dim=0, return_inverse=True, return_counts=True), rows)
    if shape[1]:
        check(lambda x: torch.unique(x, dim=0, return_inverse=True, return_counts=True), rows)


def test_complex_numbers_from_reals_and_back() -> None:
    size, angle = torch.rand(2, 5, generator=torch.Generator().manual_seed(1)).unbind()
    with_gradient(lambda a, b: torch.view_as_real(torch.complex(a, b)), size, angle)
    with_gradient(lambda a, b: torch.view_as_real(torch.polar(a, b)), size, angle)
    check(lambda x: torch.view_as_real(x.cfloat().conj().resolve_conj()), size)


def test_no_gradient_is_zero() -> None:
    with_gradient(torch.sgn, torch.randn(6, generator=torch.Generator().manual_seed(1)))
