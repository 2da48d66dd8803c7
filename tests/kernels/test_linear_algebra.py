"""Dense linear algebra on the device: equal to the CPU's where the answer is one, and the factors multiply back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mtia
from mtia.kernels import factorise, householder, jacobi

from .on_device import check

L = torch.linalg
TOLERANCE = {torch.float32: (2e-5, 2e-5), torch.float64: (1e-12, 1e-12)}
DTYPES = (torch.float32, torch.float64)


def _random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _positive(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = _random(*shape, dtype=dtype)
    return x @ x.mT + torch.eye(shape[-1], dtype=dtype)


def _on_device_only(function: Callable[..., tuple[torch.Tensor, ...]], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Results for inputs moved to the device, back on the host; nothing was computed by the host."""
    before = mtia.host_fallbacks()
    found = function(*(x.to("mtia") for x in inputs))
    assert mtia.host_fallbacks() == before
    return [x.cpu() for x in found]


def _is_orthonormal(q: torch.Tensor) -> None:
    n = q.shape[-1]
    torch.testing.assert_close(q.mT @ q, torch.eye(n, dtype=q.dtype).expand(*q.shape[:-2], n, n), atol=5e-6, rtol=0)


# --- equal to the CPU -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("upper", [False, True])
def test_cholesky_and_what_uses_it(dtype: torch.dtype, upper: bool) -> None:
    a, b = _positive(3, 5, 5, dtype=dtype), _random(3, 5, 2, dtype=dtype)

    def run(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        factor = L.cholesky(a, upper=upper)
        return factor, torch.cholesky_inverse(factor, upper), torch.cholesky_solve(b, factor, upper)

    check(run, a, b, tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_triangular_solve_reads_one_triangle(upper: bool, left: bool, unit: bool) -> None:
    a = _random(2, 4, 4, dtype=torch.float64) + 4 * torch.eye(4, dtype=torch.float64)
    b = _random(2, 4, 4, dtype=torch.float64, seed=1)
    check(lambda a, b: L.solve_triangular(a, b, upper=upper, left=left, unitriangular=unit), a, b)


@pytest.mark.parametrize("shape", [(3, 5, 5), (7, 4), (2, 4, 7)])
def test_lu_pivots_as_lapack(shape: tuple[int, ...]) -> None:
    check(lambda a: (*L.lu_factor_ex(a), *L.lu(a)), _random(*shape), tolerance=(1e-5, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_solves_determinants_and_inverse(dtype: torch.dtype) -> None:
    a, b = _positive(3, 5, 5, dtype=dtype), _random(3, 5, 2, dtype=dtype)

    def run(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        lu, pivots = L.lu_factor(a)
        solves = [L.lu_solve(lu, pivots, x, left=left, adjoint=adjoint)
                  for x, left in ((b, True), (b.mT, False)) for adjoint in (False, True)]  # fmt: skip
        return (*solves, L.solve(a, b), L.solve(a, b.mT, left=False), L.solve(a[0], b[0, :, 0]), L.inv(a))

    check(run, a, b, tolerance=TOLERANCE[dtype])
    check(lambda a: (L.det(a), *L.slogdet(a)), _random(3, 5, 5, dtype=dtype), tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_ldl_swaps_as_bunch_and_kaufman(dtype: torch.dtype) -> None:
    x, b = _random(4, 6, 6, dtype=dtype, seed=3), _random(4, 6, 2, dtype=dtype)
    symmetric = x + x.mT
    symmetric[0].fill_diagonal_(0)  # blocks of two are needed
    check(lambda a: L.ldl_factor_ex(a), symmetric, tolerance=(1e-4, 1e-4))
    check(lambda a, b: L.ldl_solve(*L.ldl_factor(a), b), symmetric, b, tolerance=(1e-3, 1e-3))


@pytest.mark.parametrize("mode", ["reduced", "complete", "r"])
@pytest.mark.parametrize("shape", [(3, 5, 5), (7, 4), (4, 7)])
def test_qr(shape: tuple[int, ...], mode: str) -> None:
    check(lambda a: L.qr(a, mode), _random(*shape), tolerance=(1e-5, 1e-5))


def test_reflectors_multiply_from_both_sides() -> None:
    a, c = _random(2, 6, 3, dtype=torch.float64), _random(2, 6, 6, dtype=torch.float64, seed=1)

    def run(a: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
        v, tau = torch.geqrf(a)
        sides = [(left, transpose) for left in (False, True) for transpose in (False, True)]
        return [v, tau, L.householder_product(v, tau), *(torch.ormqr(v, tau, c, *side) for side in sides)]

    check(run, a, c)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (2, 4, 4)])
def test_least_squares_by_every_driver(shape: tuple[int, ...]) -> None:
    a, b = _random(*shape), _random(*shape[:-1], 2, seed=1)
    for driver in ("gels", "gelsy", "gelsd", "gelss"):
        check(lambda a, b, driver=driver: tuple(L.lstsq(a, b, driver=driver)), a, b, tolerance=(5e-5, 5e-5))


def test_least_squares_of_deficient_rank_has_the_least_norm() -> None:
    a = _random(6, 2, dtype=torch.float64) @ _random(2, 4, dtype=torch.float64)
    check(lambda a, b: tuple(L.lstsq(a, b))[:3:2], a, _random(6, 1, dtype=torch.float64, seed=2))
    check(lambda a: (L.pinv(a), L.matrix_rank(a)), a)


def test_matrix_exponential_cross_and_norms() -> None:
    a = _random(3, 4, 4) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1)
    check(torch.matrix_exp, a, tolerance=(1e-3, 1e-4))
    check(lambda x: L.cross(x[:, :3], x[:, 1:], dim=1), a)
    check(lambda x: (L.matrix_norm(x, "nuc"), L.matrix_norm(x, 2), L.cond(x)), a, tolerance=(1e-4, 1e-4))


# --- factors multiply back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_eigenvectors(n: int) -> None:
    x = _random(2, n, n)
    a = x + x.mT
    values, vectors = _on_device_only(L.eigh, a)
    torch.testing.assert_close(values, L.eigvalsh(a), atol=2e-5, rtol=1e-5)
    _is_orthonormal(vectors)
    torch.testing.assert_close(vectors * values.unsqueeze(-2) @ vectors.mT, a, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 5), (7, 4), (4, 7), (1, 1)])
def test_singular_vectors(shape: tuple[int, ...], full: bool) -> None:
    a = _random(*shape)
    u, values, vh = _on_device_only(lambda x: L.svd(x, full_matrices=full), a)
    expected = L.svd(a, full_matrices=full)
    assert (u.shape, vh.shape) == (expected.U.shape, expected.Vh.shape)
    torch.testing.assert_close(values, expected.S, atol=1e-5, rtol=1e-5)
    _is_orthonormal(u)
    _is_orthonormal(vh.mT)
    k = values.shape[-1]
    torch.testing.assert_close(u[..., :k] * values.unsqueeze(-2) @ vh[..., :k, :], a, atol=1e-5, rtol=1e-5)


def test_singular_vectors_of_a_zero_and_a_deficient_matrix_are_complete() -> None:
    for a in (torch.zeros(3, 3), _random(6, 2) @ _random(2, 4)):
        u, _, vh = _on_device_only(L.svd, a)
        _is_orthonormal(u)
        _is_orthonormal(vh.mT)


def test_what_does_not_fit_a_tile_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (factorise, householder):
        monkeypatch.setattr(module, "fits", lambda m, n: n <= 4)
    check(L.cholesky, _positive(2, 6, 6, dtype=torch.float64))
    check(lambda a: (*L.lu_factor_ex(a), *L.qr(a)), _random(2, 6, 5, dtype=torch.float64))


def test_blocks_of_columns_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobi, "LARGEST", 4)
    monkeypatch.setattr(jacobi, "BLOCK_COLUMNS", 2)
    a = _positive(1, 5, 5, dtype=torch.float64)
    values, vectors, singular = _on_device_only(lambda a: (*L.eigh(a), L.svdvals(a)), a)
    torch.testing.assert_close(vectors * values.unsqueeze(-2) @ vectors.mT, a)
    torch.testing.assert_close(singular, values.flip(-1))


# --- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)])
def test_empty_matrices(shape: tuple[int, ...]) -> None:
    check(lambda a: (L.cholesky(a), *L.lu_factor(a), L.inv(a), L.det(a), *L.qr(a), *L.eigh(a), *L.svd(a),
                     torch.matrix_exp(a), L.solve(a, a)), torch.zeros(shape))  # fmt: skip


def test_info_names_the_column_that_failed() -> None:
    a = torch.eye(4).repeat(3, 1, 1)
    a[1, 2, 2], a[2, 0, 0] = -1, 0
    assert _on_device_only(lambda x: L.cholesky_ex(x)[1:], a)[0].tolist() == [0, 3, 1]
    singular = torch.eye(4).repeat(2, 1, 1)
    singular[1, 3, 3] = 0
    assert _on_device_only(lambda x: L.lu_factor_ex(x)[2:], singular)[0].tolist() == [0, 4]


def test_errors_are_pytorchs() -> None:
    bad = torch.eye(3).repeat(2, 1, 1)
    bad[1, 1, 1] = 0
    here = bad.to("mtia")
    with pytest.raises(L.LinAlgError, match=r"linalg.cholesky: \(Batch element 1\): The factorization could not be"):
        L.cholesky(here)
    with pytest.raises(L.LinAlgError, match=r"linalg.inv: \(Batch element 1\): The diagonal element 2 is zero"):
        L.inv(here)
    with pytest.raises(RuntimeError, match="must be batches of square matrices"):
        torch.cholesky_inverse(torch.ones(3, 2, device="mtia"))
    with pytest.raises(L.LinAlgError, match=r"linalg\.svd"):
        L.svdvals(torch.full((2, 2), float("nan"), device="mtia"))


def test_gradients_flow_through_factors() -> None:
    def gradient(a: torch.Tensor) -> torch.Tensor:
        a = a.detach().requires_grad_()
        total = (
            L.det(a)
            + L.solve(a, a[:, :1]).sum()
            + L.cholesky(a @ a.mT).sum()
            + L.slogdet(a).logabsdet
            + L.svdvals(a).sum()
            + L.qr(a).R.sum()
        )
        return torch.autograd.grad(total, a)[0]

    check(gradient, _random(4, 4, dtype=torch.float64), tolerance=(1e-8, 1e-8))
