"""Dense real linear algebra of aten: factorisations, solves, eigenvalues and singular values over the matrix kernels.

Batches are flattened to [B, M, N], factored one program per matrix (factorise, householder, jacobi) and shaped back.
Conventions are LAPACK's, as PyTorch's are: pivots count from 1, info names the first column that failed. Complex
matrices stay with the host.
"""

from __future__ import annotations

import math

import torch

from mtia.kernels import eigen, factorise, jacobi
from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.householder import householder_qr, reflect
from mtia.kernels.iteration import broadcast_shape
from mtia.kernels.matrices import eye, flat, new, serve, unflat

Tensors = tuple[torch.Tensor, ...]

# --- checks and shapes ------------------------------------------------------------------------------------------------


def _check_square(x: torch.Tensor, name: str) -> None:
    if x.dim() < 2:
        raise RuntimeError(f"{name}: The input tensor A must have at least 2 dimensions.")
    if x.shape[-1] != x.shape[-2]:
        raise RuntimeError(
            f"{name}: A must be batches of square matrices, but they are {x.shape[-2]} by {x.shape[-1]} matrices"
        )


def _check_info(info: torch.Tensor, name: str, x: torch.Tensor) -> None:
    """Raises torch.linalg.LinAlgError, in PyTorch's words, where a matrix of x failed."""
    torch.ops.aten._linalg_check_errors(info, name, is_matrix=x.dim() == 2)


def _fresh(x: torch.Tensor) -> torch.Tensor:
    """A flat batch [B, M, N] of its own, to be factored in place."""
    copy = x.clone(memory_format=torch.contiguous_format)
    return copy.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _spread(*matrices: torch.Tensor) -> list[torch.Tensor]:
    """The same matrices with their batch dims broadcast."""
    batch = broadcast_shape(*(m.shape[:-2] for m in matrices))
    return [m.expand(*batch, *m.shape[-2:]) for m in matrices]


def _is_vector_rhs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return b.dim() == 1 or (a.dim() - 1 == b.dim() and b.shape == a.shape[:-1])


# --- Cholesky ---------------------------------------------------------------------------------------------------------


@serve("linalg_cholesky_ex.L")
def cholesky_ex(x: torch.Tensor, *, upper: bool = False, check_errors: bool = False) -> Tensors:
    _check_square(x, "linalg.cholesky_ex")
    a = _fresh(x.mT if upper else x)
    info = unflat(factorise.cholesky(a), x.shape[:-2])
    if check_errors:
        _check_info(info, "linalg.cholesky_ex", x)
    lower = a.reshape(x.shape)
    return lower.mT if upper else lower, info


@serve("cholesky", "cholesky.out")
def cholesky(x: torch.Tensor, upper: bool = False) -> torch.Tensor:
    _check_square(x, "cholesky")
    factor, info = cholesky_ex(x, upper=upper)
    _check_info(info, "cholesky", x)
    return factor


@serve("_cholesky_solve_helper")
def cholesky_solve_helper(b: torch.Tensor, factor: torch.Tensor, upper: bool) -> torch.Tensor:
    t, rhs = flat(factor), flat(b)
    lower = t.mT if upper else t
    half_way = factorise.solve_triangular(lower, rhs, upper=False)
    return factorise.solve_triangular(lower.mT, half_way, upper=True).reshape(b.shape)


@serve("cholesky_inverse", "cholesky_inverse.out")
def cholesky_inverse(factor: torch.Tensor, upper: bool = False) -> torch.Tensor:
    _check_square(factor, "cholesky_inverse")
    return cholesky_solve_helper(eye(factor, factor.shape[-1]).expand(factor.shape), factor, upper)


# --- triangular solves ------------------------------------------------------------------------------------------------


@serve("linalg_solve_triangular", "linalg_solve_triangular.out")
def solve_triangular(
    a: torch.Tensor, b: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> torch.Tensor:
    _check_square(a, "linalg.solve_triangular")
    a, b = _spread(a, b)
    n, rows = a.shape[-1], b.shape[-2 if left else -1]
    if n != rows:
        raise RuntimeError(
            "linalg.solve_triangular: Incompatible shapes of A and B for the equation "
            f"{'AX = B' if left else 'XA = B'} ({n}x{n} and {b.shape[-2]}x{b.shape[-1]})"
        )
    if not left:
        return solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    found = factorise.solve_triangular(flat(a), flat(b), upper=upper, unit=unitriangular)
    return found.reshape(b.shape)


@serve("triangular_solve.X")
def triangular_solve(
    b: torch.Tensor, a: torch.Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Tensors:
    t, flipped = (a.mT, not upper) if transpose else (a, upper)
    return solve_triangular(t, b, upper=flipped, unitriangular=unitriangular), _spread(a, b)[0]


# --- LU ---------------------------------------------------------------------------------------------------------------


def _transposes(x: torch.Tensor) -> bool:
    """Whether det and slogdet factor x^T: PyTorch's backward formulas expect it of contiguous matrices."""
    return x.is_contiguous()


def _lu(x: torch.Tensor, pivot: bool = True) -> Tensors:
    a = _fresh(x)
    pivots, info = factorise.lu(a, pivot=pivot)
    return a.reshape(x.shape), unflat(pivots, x.shape[:-2]), unflat(info, x.shape[:-2])


@serve("linalg_lu_factor_ex.out")
def lu_factor_ex(x: torch.Tensor, *, pivot: bool = True, check_errors: bool = False) -> Tensors:
    found = _lu(x, pivot)
    if check_errors:
        _check_info(found[2], "linalg.lu_factor_ex", x)
    return found


@serve("linalg_lu.out")
def lu(x: torch.Tensor, *, pivot: bool = True) -> Tensors:
    factors, pivots, _ = _lu(x, pivot)
    return lu_unpack(factors, pivots, True, pivot)


@serve("lu_unpack.out")
def lu_unpack(
    factors: torch.Tensor, pivots: torch.Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> Tensors:
    m, n = factors.shape[-2:]
    k = min(m, n)
    permutation = lower = upper = new(factors, 0)
    if unpack_pivots:
        swaps = pivots.reshape(math.prod(pivots.shape[:-1]), pivots.shape[-1])
        rows = factorise.pivots_to_rows(swaps, m)
        permutation = _permutation_matrix(unflat(rows, factors.shape[:-2]), factors.dtype)
    if unpack_data:
        lower = factors[..., :k].tril(-1) + torch.eye(m, k, dtype=factors.dtype, device=factors.device)
        upper = factors[..., :k, :].triu()
    return permutation, lower, upper


def _permutation_matrix(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """P [..., M, M] with P x[rows] = x."""
    place = torch.arange(rows.shape[-1], device=rows.device)
    return (place.unsqueeze(1) == rows.unsqueeze(-2)).to(dtype)


@serve("linalg_lu_solve.out")
def lu_solve(
    factors: torch.Tensor, pivots: torch.Tensor, b: torch.Tensor, *, left: bool = True, adjoint: bool = False
) -> torch.Tensor:
    _check_square(factors, "torch.linalg.lu_solve")
    if not left:
        return lu_solve(factors, pivots, b.mT, adjoint=not adjoint).mT
    batch = broadcast_shape(factors.shape[:-2], b.shape[:-2])
    t = flat(factors.expand(*batch, *factors.shape[-2:]))
    swaps = pivots.expand(*batch, pivots.shape[-1]).reshape(t.shape[:2])
    shape = (*batch, *b.shape[-2:])
    return _lu_solve(t, swaps, flat(b.expand(shape)), adjoint).reshape(shape)


def _lu_solve(t: torch.Tensor, pivots: torch.Tensor, b: torch.Tensor, adjoint: bool = False) -> torch.Tensor:
    if adjoint:
        half_way = factorise.solve_triangular(t.mT, b, upper=False)
        swapped = factorise.solve_triangular(t.mT, half_way, upper=True, unit=True)
        return factorise.swap_rows(swapped, pivots, inverse=True)
    half_way = factorise.solve_triangular(t, factorise.swap_rows(b, pivots), upper=False, unit=True)
    return factorise.solve_triangular(t, half_way, upper=True)


@serve("_linalg_solve_ex.result")
def solve_ex(a: torch.Tensor, b: torch.Tensor, *, left: bool = True, check_errors: bool = False) -> Tensors:
    _check_square(a, "linalg.solve")
    factors, pivots, info = _lu(a)
    if check_errors:
        _check_info(info, "torch.linalg.solve_ex", a)
    is_vector = _is_vector_rhs(a, b)
    rhs = b.unsqueeze(-1) if is_vector else b
    found = lu_solve(factors, pivots, rhs, left=left or is_vector)
    return found.squeeze(-1) if is_vector else found, factors, pivots, info


@serve("linalg_inv_ex.inverse")
def inv_ex(x: torch.Tensor, *, check_errors: bool = False) -> Tensors:
    _check_square(x, "linalg.inv")
    factors, pivots, info = _lu(x)
    if check_errors:
        _check_info(info, "linalg.inv_ex", x)
    return lu_solve(factors, pivots, eye(x, x.shape[-1]).expand(x.shape)), info


def _sign_of_swaps(pivots: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """+1 or -1 for an even or odd number of rows that moved."""
    in_place = torch.arange(1, pivots.shape[-1] + 1, dtype=pivots.dtype, device=pivots.device)
    odd = (pivots != in_place).sum(-1) % 2
    return (1 - 2 * odd).to(dtype)


@serve("_linalg_det.result")
def det(x: torch.Tensor) -> Tensors:
    _check_square(x, "linalg.det")
    factors, pivots, _ = _lu(x.mT if _transposes(x) else x)
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    return _sign_of_swaps(pivots, x.dtype) * diagonal.prod(-1), factors, pivots


@serve("_linalg_slogdet.sign")
def slogdet(x: torch.Tensor) -> Tensors:
    _check_square(x, "linalg.slogdet")
    factors, pivots, _ = _lu(x.mT if _transposes(x) else x)
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    sign = _sign_of_swaps(pivots, x.dtype) * diagonal.sgn().prod(-1)
    return sign, diagonal.abs().log().sum(-1), factors, pivots


# --- LDL --------------------------------------------------------------------------------------------------------------


@serve("linalg_ldl_factor_ex.out")
def ldl_factor_ex(x: torch.Tensor, *, hermitian: bool = False, check_errors: bool = False) -> Tensors:
    _check_square(x, "torch.linalg.ldl_factor_ex")
    a = _fresh(x)
    pivots, info = (unflat(t, x.shape[:-2]) for t in factorise.ldl(a))
    if check_errors:
        _check_info(info, "torch.linalg.ldl_factor_ex", x)
    return a.reshape(x.shape), pivots, info


@serve("linalg_ldl_solve.out")
def ldl_solve(ld: torch.Tensor, pivots: torch.Tensor, b: torch.Tensor, *, hermitian: bool = False) -> torch.Tensor:
    ld, b = _spread(ld, b)
    factors = flat(ld)
    swaps = pivots.expand(ld.shape[:-1]).reshape(factors.shape[:2])
    return factorise.ldl_solve(factors, swaps.contiguous(), flat(b)).reshape(b.shape)


# --- QR ---------------------------------------------------------------------------------------------------------------


def _qr(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reflectors with R [B, M, N], and tau [B, K]."""
    a = _fresh(x)
    return a, householder_qr(a)


def _columns_of_q(v: torch.Tensor, tau: torch.Tensor, columns: int) -> torch.Tensor:
    B, M, _ = v.shape
    first = torch.eye(M, columns, dtype=v.dtype, device=v.device).expand(B, M, columns)
    return reflect(v, tau, first)


@serve("linalg_qr.out")
def qr(x: torch.Tensor, mode: str = "reduced") -> Tensors:
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', or 'complete'"
        )
    m, n = x.shape[-2:]
    rows = m if mode == "complete" else min(m, n)
    a, tau = _qr(x)
    r = unflat(a[:, :rows].triu(), x.shape[:-2])
    if mode == "r":
        return new(x, 0), r
    return unflat(_columns_of_q(a, tau, rows), x.shape[:-2]), r


@serve("geqrf", "geqrf.a")
def geqrf(x: torch.Tensor) -> Tensors:
    if x.dim() < 2:
        raise RuntimeError(f"torch.geqrf: input must have at least 2 dimensions, but got {x.dim()}")
    a, tau = _qr(x)
    return a.reshape(x.shape), unflat(tau, x.shape[:-2])


@serve("linalg_householder_product", "linalg_householder_product.out")
def householder_product(v: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    if v.dim() < 2:
        raise RuntimeError("torch.linalg.householder_product: input must have at least 2 dimensions.")
    if v.shape[-2] < v.shape[-1]:
        raise RuntimeError(
            "torch.linalg.householder_product: input.shape[-2] must be greater than or equal to input.shape[-1]"
        )
    if v.shape[-1] < tau.shape[-1]:
        raise RuntimeError(
            "torch.linalg.householder_product: input.shape[-1] must be greater than or equal to tau.shape[-1]"
        )
    reflectors = flat(v)
    factors = tau.reshape(reflectors.shape[0], tau.shape[-1])
    return _columns_of_q(reflectors, factors, v.shape[-1]).reshape(v.shape)


@serve("ormqr", "ormqr.out")
def ormqr(
    v: torch.Tensor, tau: torch.Tensor, other: torch.Tensor, left: bool = True, transpose: bool = False
) -> torch.Tensor:
    if not left:
        return ormqr(v, tau, other.mT, True, not transpose).mT
    reflectors = flat(v)
    factors = tau.reshape(reflectors.shape[0], tau.shape[-1])
    return reflect(reflectors, factors, flat(other), transpose=transpose).reshape(other.shape)


# --- eigenvalues and singular values ----------------------------------------------------------------------------------


@serve("_linalg_eigh.eigenvalues")
def eigh(x: torch.Tensor, uplo: str = "L", compute_v: bool = True) -> Tensors:
    _check_square(x, "linalg.eigh")
    lower = x if uplo.upper() == "L" else x.mT
    symmetric = lower.tril() + lower.tril(-1).mT
    values, vectors, info = jacobi.eigh(flat(symmetric))
    batch = x.shape[:-2]
    _check_info(unflat(info, batch), "linalg.eigh", x)
    return unflat(values, batch), unflat(vectors, batch) if compute_v else new(x, 0)


@serve("_linalg_svd.U")
def svd(x: torch.Tensor, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None) -> Tensors:
    is_wide = x.shape[-2] < x.shape[-1]
    batch = x.shape[:-2]
    u, values, v, info = jacobi.svd(flat(x.mT if is_wide else x), full=full_matrices, vectors=compute_uv)
    _check_info(unflat(info, batch), "linalg.svd", x)
    if not compute_uv:
        return new(x, 0), unflat(values, batch), new(x, 0)
    left, right = (v, u) if is_wide else (u, v)
    return unflat(left, batch), unflat(values, batch), unflat(right.mT, batch)


def _eig(x: torch.Tensor, vectors: bool) -> tuple[torch.Tensor, ...]:
    """Complex values and, if asked for, vectors."""
    _check_square(x, "linalg.eig")
    if not bool(x.isfinite().all()):
        raise RuntimeError("torch.linalg.eig: input tensor should not contain infs or NaNs.")
    info, *found = eigen.eig(_fresh(x), vectors=vectors)
    batch = x.shape[:-2]
    _check_info(unflat(info, batch), "linalg.eig", x)
    pairs = (found[0:2], found[2:4]) if vectors else (found,)
    return tuple(unflat(torch.view_as_complex(torch.stack(tuple(pair), -1)), batch) for pair in pairs)


@serve("linalg_eig", "linalg_eig.out")
def eig(x: torch.Tensor) -> Tensors:
    return _eig(x, True)


@serve("_linalg_eigvals", "linalg_eigvals.out")
def eigvals(x: torch.Tensor) -> torch.Tensor:
    return _eig(x, False)[0]


# --- least squares ----------------------------------------------------------------------------------------------------

_DRIVERS = ("gels", "gelsy", "gelsd", "gelss")


@serve("linalg_lstsq.out")
def lstsq(a: torch.Tensor, b: torch.Tensor, rcond: float | None = None, *, driver: str | None = None) -> Tensors:
    """gels by QR; the drivers that reveal rank by singular values, those below rcond * the largest left out."""
    driver = driver or "gelsy"
    if driver not in _DRIVERS:
        raise RuntimeError(
            f"torch.linalg.lstsq: parameter `driver` should be one of ({', '.join(_DRIVERS)}) on the device, "
            f"not {driver!r}"
        )
    is_vector = _is_vector_rhs(a, b)
    m, n = a.shape[-2:]
    x, rhs = _spread(a, b.unsqueeze(-1) if is_vector else b)
    if rhs.shape[-2] != m:
        raise RuntimeError(f"torch.linalg.lstsq: input.size(-2) should match other.size(-{1 if is_vector else 2})")
    nothing, no_rank = new(a, 0), new(a, 0, dtype=torch.int64)
    if driver == "gels":
        solution, rank, values = _least_squares(x, rhs), no_rank, nothing
    else:
        cutoff = torch.finfo(a.dtype).eps * max(m, n) if rcond is None else rcond
        solution, rank, values = _least_norm(a, rhs, cutoff)
    full_rank = driver == "gels" or (driver != "gelsy" and bool((rank == n).all()))
    residuals = (x @ solution - rhs).square().sum(-2) if m > n and full_rank else nothing
    kept = values if driver in ("gelsd", "gelss") else nothing
    return solution.squeeze(-1) if is_vector else solution, residuals, rank, kept


def _least_squares(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """For matrices of full rank, [*, N, K]: least squares of tall ones, the least norm of wide ones."""
    m, n = a.shape[-2:]
    x, rhs = (a, flat(b)) if m >= n else (a.mT, flat(b))
    v, tau = _qr(x)
    r = v[:, : min(m, n)]
    if m >= n:
        found = factorise.solve_triangular(r, reflect(v, tau, rhs, transpose=True)[:, :n], upper=True)
    else:
        solved = factorise.solve_triangular(r.mT, rhs, upper=False)
        padding = torch.zeros((rhs.shape[0], n - m, rhs.shape[2]), dtype=a.dtype, device=a.device)
        found = reflect(v, tau, torch.cat((solved, padding), 1))
    return found.reshape(*b.shape[:-2], n, b.shape[-1])


def _least_norm(a: torch.Tensor, b: torch.Tensor, cutoff: float) -> Tensors:
    """(solution, rank, singular values) with the singular values above cutoff * the largest."""
    u, values, vh = svd(a)
    bound = values[..., :1] * max(cutoff, 0.0)
    kept = values > bound
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    solution = vh.mT @ (inverse.unsqueeze(-1) * (u.mT @ b))
    return solution, kept.sum(-1), values


# --- others -----------------------------------------------------------------------------------------------------------


@serve("linalg_matrix_exp")
def matrix_exp(x: torch.Tensor) -> torch.Tensor:
    """Scaled until the 1-norm is at most 1, Taylor's series by Horner's rule, squared back."""
    _check_square(x, "linalg.matrix_exp")
    if x.numel() == 0:
        return x.clone()
    a = x.to(compute_dtype(x.dtype))
    n = a.shape[-1]
    halvings = a.abs().sum(-2).amax(-1).log2().ceil().clamp(min=0).unsqueeze(-1).unsqueeze(-1)
    most = float(halvings.max().item())
    if not math.isfinite(most):
        return torch.full_like(x, float("nan"))
    a = a * torch.exp2(-halvings)
    one = eye(a, n)
    power = one.expand(a.shape)
    for k in range(19 if a.dtype == torch.float64 else 12, 0, -1):
        power = one + (a @ power) / k
    for step in range(int(most)):
        power = torch.where(halvings > step, power @ power, power)
    return power.to(x.dtype)


CROSS = define(Operation("cross", ("a", "b", "c", "d"), "a * b - c * d"))


@serve("linalg_cross.out")
def cross(x: torch.Tensor, other: torch.Tensor, *, dim: int = -1) -> torch.Tensor:
    x, other = torch.broadcast_tensors(x, other)
    out = new(x, *x.shape)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        parts = (x.select(dim, j), other.select(dim, k), x.select(dim, k), other.select(dim, j))
        if out.numel():
            launch(CROSS, out.select(dim, i), parts, compute=compute_dtype(x.dtype))
    return out
