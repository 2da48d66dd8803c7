"""Cholesky, LU and LDL factorisations, and solves with triangular matrices.

One program per matrix, which stays in a tile; loops go over its columns and pick rows and columns by comparing
indices. Matrices too large for a tile are halved: factor the left columns, solve or swap the right, update, go on.
Shapes: a_BMN row-major, B matrices.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mtia.kernels import functions
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.matrices import TILE_ELEMENTS, fits, new, width

square_root = functions.square_root
MOST_COLUMNS = 32
"""Right-hand sides that a program of a triangular solve holds."""

# --- Cholesky ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["N"])
def mtia_cholesky(a_ptr, info_ptr, N, WIDTH: tl.constexpr):
    """a = L L^T in place, from a's lower triangle; zeros above. info: first column without a positive pivot, or 0."""
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    a = tl.load(a_ptr + at, mask=inside, other=0.0)
    info = 0
    for j in range(0, N):
        pivot_column = tl.sum(tl.where(column == j, a, 0.0), 1)
        pivot = tl.sum(tl.where(i == j, pivot_column, 0.0), 0)
        info = tl.where((info == 0) & ((pivot <= 0) | (pivot != pivot)), j + 1, info)
        root = square_root(tl.where(info == 0, pivot, 1.0))
        below = tl.where(i > j, pivot_column / root, 0.0)
        a = a - below[:, None] * below[None, :]
        a = tl.where(column == j, tl.where(i == j, root, below)[:, None], a)
    tl.store(a_ptr + at, tl.where(row >= column, a, 0.0), mask=inside)
    tl.store(info_ptr + matrix, info)


def cholesky(a: torch.Tensor) -> torch.Tensor:
    """Replaces a [B, N, N] by its lower factor; returns info int32 [B]."""
    B, N, _ = a.shape
    info = torch.zeros(B, dtype=torch.int32, device=a.device)
    if a.numel() == 0:
        return info
    if fits(N, N):
        mtia_cholesky[(B,)](a, info, N, WIDTH=width(N))
        return info
    half = N // 2
    first = a[:, :half, :half].contiguous()
    info = cholesky(first)
    panel = solve_triangular(first, a[:, half:, :half].mT, upper=False).mT
    rest = (a[:, half:, half:] - panel @ panel.mT).contiguous()
    later = cholesky(rest)
    a.zero_()
    a[:, :half, :half] = first
    a[:, half:, :half] = panel
    a[:, half:, half:] = rest
    return torch.where(info == 0, torch.where(later == 0, later, later + half), info)


# --- triangular solve -------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["N", "K", "t_batch", "t_row", "t_column"])
def mtia_solve_triangular(
    t_ptr,
    x_ptr,
    N,
    K,
    t_batch,
    t_row,
    t_column,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    UPPER: tl.constexpr,
    UNIT: tl.constexpr,
):
    """x = t^-1 x in place, COLUMNS of x's K columns a program. Only the triangle of t is read; x is [B, N, K]."""
    matrix = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, WIDTH)
    k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (i < N)[:, None] & (k < K)[None, :]
    at = matrix * N * K + i[:, None] * K + k[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    for step in range(0, N):
        j = N - 1 - step if UPPER else step
        beyond = i < j if UPPER else (i > j) & (i < N)
        column_at = t_ptr + matrix * t_batch + j * t_column
        t = tl.load(column_at + i * t_row, mask=beyond, other=0.0)
        solved = tl.sum(tl.where((i == j)[:, None], x, 0.0), 0)
        if not UNIT:
            solved = solved / tl.load(column_at + j * t_row)
        x = tl.where((i == j)[:, None], solved[None, :], x - t[:, None] * solved[None, :])
    tl.store(x_ptr + at, x, mask=inside)


def solve_triangular(t: torch.Tensor, b: torch.Tensor, *, upper: bool, unit: bool = False) -> torch.Tensor:
    """x [B, N, K] with t x = b. t [B, N, N] and b of any strides; the other triangle of t is not read."""
    B, N, K = b.shape
    x = b.clone(memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return x
    rows = width(N)
    columns = max(1, min(MOST_COLUMNS, next_power_of_2(K), TILE_ELEMENTS // rows))
    mtia_solve_triangular[(ceil_div(K, columns), B)](
        t, x, N, K, *t.stride(), WIDTH=rows, COLUMNS=columns, UPPER=upper, UNIT=unit
    )
    return x


# --- LU ---------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["M", "N"])
def mtia_lu(a_ptr, pivots_ptr, info_ptr, M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIVOT: tl.constexpr):
    """P a = L U in place, the row of the largest element first (PIVOT). pivots: LAPACK's swaps, counted from 1.

    info: the first column whose pivot is zero, counted from 1, or 0.
    """
    matrix = tl.program_id(0).to(tl.int64)
    i, k = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row, column = i[:, None], k[None, :]
    inside = (row < M) & (column < N)
    at = matrix * M * N + row * N + column
    a = tl.load(a_ptr + at, mask=inside, other=0.0)
    steps = min(M, N)
    info = 0
    for j in range(0, steps):
        chosen = j
        if PIVOT:
            candidates = tl.abs(tl.sum(tl.where(column == j, a, 0.0), 1))
            chosen = tl.argmax(tl.where((i >= j) & (i < M), candidates, -1.0), 0)
        upper = tl.sum(tl.where(row == chosen, a, 0.0), 0)
        moved = tl.sum(tl.where(row == j, a, 0.0), 0)
        a = tl.where(row == j, upper[None, :], tl.where(row == chosen, moved[None, :], a))
        pivot = tl.sum(tl.where(k == j, upper, 0.0), 0)
        info = tl.where((info == 0) & (pivot == 0), j + 1, info)
        lower = tl.sum(tl.where(column == j, a, 0.0), 1) / tl.where(pivot == 0, 1.0, pivot)
        lower = tl.where(i > j, lower, 0.0)
        a = a - lower[:, None] * tl.where(k > j, upper, 0.0)[None, :]
        a = tl.where((column == j) & (row > j), lower[:, None], a)
        tl.store(pivots_ptr + matrix * steps + j, (chosen + 1).to(tl.int32))
    tl.store(a_ptr + at, a, mask=inside)
    tl.store(info_ptr + matrix, info)


def lu(a: torch.Tensor, *, pivot: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces a [B, M, N] by L (unit diagonal, below) and U; returns pivots int32 [B, min(M, N)] and info [B]."""
    B, M, N = a.shape
    steps = min(M, N)
    pivots = new(a, B, steps, dtype=torch.int32)
    info = torch.zeros(B, dtype=torch.int32, device=a.device)
    if a.numel() == 0:
        return pivots, info
    if fits(M, N) or N == 1:
        mtia_lu[(B,)](a, pivots, info, M, N, ROWS=width(M), COLUMNS=width(N) if N > 1 else 1, PIVOT=pivot)
        return pivots, info
    half = steps // 2 if steps > 1 else 1
    left = a[:, :, :half].contiguous()
    pivots, info = lu(left, pivot=pivot)
    right = swap_rows(a[:, :, half:], pivots)
    top = solve_triangular(left[:, :half], right[:, :half], upper=False, unit=True)
    rest = (right[:, half:] - left[:, half:] @ top).contiguous()
    later_pivots, later = lu(rest, pivot=pivot)
    a[:, :half, :half] = left[:, :half]
    a[:, half:, :half] = swap_rows(left[:, half:], later_pivots)
    a[:, :half, half:] = top
    a[:, half:, half:] = rest
    info = torch.where(info == 0, torch.where(later == 0, later, later + half), info)
    return torch.cat((pivots, later_pivots + half), 1), info


@triton.jit(do_not_specialize=["M", "K"])
def mtia_pivots_to_rows(pivots_ptr, rows_ptr, M, K, WIDTH: tl.constexpr, INVERSE: tl.constexpr):
    """Which row each row becomes by K swaps, in their order or (INVERSE) backwards. rows: int64 [B, M]."""
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    rows = i
    for step in range(0, K):
        j = K - 1 - step if INVERSE else step
        other = tl.load(pivots_ptr + matrix * K + j).to(tl.int32) - 1
        here, there = tl.sum(tl.where(i == j, rows, 0), 0), tl.sum(tl.where(i == other, rows, 0), 0)
        rows = tl.where(i == j, there, tl.where(i == other, here, rows))
    tl.store(rows_ptr + matrix * M + i, rows.to(tl.int64), mask=i < M)


def pivots_to_rows(pivots: torch.Tensor, m: int, *, inverse: bool = False) -> torch.Tensor:
    """int64 [B, M]: row r of the swapped matrix is row rows[r] of the matrix."""
    B, K = pivots.shape
    rows = new(pivots, B, m, dtype=torch.int64)
    if rows.numel():
        mtia_pivots_to_rows[(B,)](pivots.contiguous(), rows, m, K, WIDTH=width(m), INVERSE=inverse)
    return rows


def swap_rows(x: torch.Tensor, pivots: torch.Tensor, *, inverse: bool = False) -> torch.Tensor:
    """x [B, M, N] with the swaps of `pivots` done, or undone (`inverse`)."""
    rows = pivots_to_rows(pivots, x.shape[1], inverse=inverse)
    return x.gather(1, rows.unsqueeze(2).expand(x.shape))


# --- LDL --------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["N"])
def mtia_ldl(a_ptr, pivots_ptr, info_ptr, N, WIDTH: tl.constexpr):
    """P a P^T = L D L^T in place, from a's lower triangle: Bunch-Kaufman, D of blocks of one or two (LAPACK's sytf2).

    pivots: the row swapped, counted from 1; negative, twice, for a block of two. info: a column that is zero, or 0.
    """
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    a = tl.load(a_ptr + at, mask=inside, other=0.0)
    upper = tl.trans(a)
    a = tl.where(row >= column, a, upper)
    info = 0
    k = 0
    while k < N:
        of_k = tl.sum(tl.where(column == k, a, 0.0), 1)
        diagonal = tl.abs(tl.sum(tl.where(i == k, of_k, 0.0), 0))
        below = tl.where((i > k) & (i < N), tl.abs(of_k), -1.0)
        largest = tl.maximum(tl.max(below, 0), 0.0)
        far = tl.argmax(below, 0)
        size = 1
        chosen = k
        if tl.maximum(diagonal, largest) == 0:
            if info == 0:
                info = k + 1
        elif diagonal < 0.6403882032022076 * largest:
            of_far = tl.sum(tl.where(column == far, a, 0.0), 1)
            rival = tl.max(tl.where((i >= k) & (i != far) & (i < N), tl.abs(of_far), 0.0), 0)
            if diagonal * rival < 0.6403882032022076 * largest * largest:
                chosen = far
                if tl.abs(tl.sum(tl.where(i == far, of_far, 0.0), 0)) < 0.6403882032022076 * rival:
                    size = 2
        last = k + size - 1
        swapped = tl.where(i == last, chosen, tl.where(i == chosen, last, i))
        active = (row >= k) & (column >= k)
        a_rows = tl.gather(a, tl.broadcast_to(swapped[:, None], (WIDTH, WIDTH)), 0)
        a_both = tl.gather(a_rows, tl.broadcast_to(swapped[None, :], (WIDTH, WIDTH)), 1)
        a = tl.where(active, a_both, a)
        u = tl.sum(tl.where(column == k, a, 0.0), 1)
        if size == 1:
            pivot = tl.sum(tl.where(i == k, u, 0.0), 0)
            lower = tl.where(i > k, u / tl.where(pivot == 0, 1.0, pivot), 0.0)
            a = tl.where((row > k) & (column > k), a - lower[:, None] * tl.where(i > k, u, 0.0)[None, :], a)
            a = tl.where((column == k) & (row > k), lower[:, None], a)
            tl.store(pivots_ptr + matrix * N + k, (chosen + 1).to(tl.int32))
        else:
            v = tl.sum(tl.where(column == k + 1, a, 0.0), 1)
            off = tl.sum(tl.where(i == k + 1, u, 0.0), 0)
            first = tl.sum(tl.where(i == k + 1, v, 0.0), 0) / off
            second = tl.sum(tl.where(i == k, u, 0.0), 0) / off
            scale = 1.0 / (first * second - 1.0) / off
            lower_u = tl.where(i > k + 1, scale * (first * u - v), 0.0)
            lower_v = tl.where(i > k + 1, scale * (second * v - u), 0.0)
            update = lower_u[:, None] * u[None, :] + lower_v[:, None] * v[None, :]
            a = tl.where((row > k + 1) & (column > k + 1), a - update, a)
            a = tl.where((column == k) & (row > k + 1), lower_u[:, None], a)
            a = tl.where((column == k + 1) & (row > k + 1), lower_v[:, None], a)
            tl.store(pivots_ptr + matrix * N + k, (-chosen - 1).to(tl.int32))
            tl.store(pivots_ptr + matrix * N + k + 1, (-chosen - 1).to(tl.int32))
        k += size
    tl.store(a_ptr + at, tl.where(row >= column, a, 0.0), mask=inside)
    tl.store(info_ptr + matrix, info)


def ldl(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces a [B, N, N] by L and D of its lower triangle (zeros above); returns pivots int32 [B, N] and info [B].

    One tile a matrix whatever its size.
    """
    B, N, _ = a.shape
    pivots, info = new(a, B, N, dtype=torch.int32), torch.zeros(B, dtype=torch.int32, device=a.device)
    if a.numel():
        mtia_ldl[(B,)](a, pivots, info, N, WIDTH=width(N))
    return pivots, info


@triton.jit(do_not_specialize=["N", "K"])
def mtia_ldl_solve(ld_ptr, pivots_ptr, x_ptr, N, K, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """x = a^-1 x in place for a factored by mtia_ldl, COLUMNS of x's K columns a program (LAPACK's sytrs)."""
    matrix = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row = i[:, None]
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < N) & (c < K)[None, :]
    at = matrix * N * K + row * K + c[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    ld = ld_ptr + matrix * N * N
    k = 0
    while k < N:
        pivot = tl.load(pivots_ptr + matrix * N + k)
        size = tl.where(pivot > 0, 1, 2)
        last = k + size - 1
        other = tl.abs(pivot) - 1
        here = tl.sum(tl.where(row == last, x, 0.0), 0)
        there = tl.sum(tl.where(row == other, x, 0.0), 0)
        x = tl.where(row == last, there[None, :], tl.where(row == other, here[None, :], x))
        x_k = tl.sum(tl.where(row == k, x, 0.0), 0)
        u = tl.load(ld + i * N + k, mask=(i > last) & (i < N), other=0.0)
        x = x - u[:, None] * x_k[None, :]
        if size == 1:
            x = tl.where(row == k, (x_k / tl.load(ld + k * N + k))[None, :], x)
        else:
            x_next = tl.sum(tl.where(row == k + 1, x, 0.0), 0)
            v = tl.load(ld + i * N + k + 1, mask=(i > last) & (i < N), other=0.0)
            x = x - v[:, None] * x_next[None, :]
            off = tl.load(ld + (k + 1) * N + k)
            first = tl.load(ld + k * N + k) / off
            second = tl.load(ld + (k + 1) * N + k + 1) / off
            scale = 1.0 / (first * second - 1.0) / off
            x = tl.where(row == k, (scale * (second * x_k - x_next))[None, :], x)
            x = tl.where(row == k + 1, (scale * (first * x_next - x_k))[None, :], x)
        k += size
    k = N - 1
    while k >= 0:
        pivot = tl.load(pivots_ptr + matrix * N + k)
        size = tl.where(pivot > 0, 1, 2)
        other = tl.abs(pivot) - 1
        u = tl.load(ld + i * N + k, mask=(i > k) & (i < N), other=0.0)
        y_k = tl.sum(u[:, None] * x, 0)
        if size == 2:
            v = tl.load(ld + i * N + k - 1, mask=(i > k) & (i < N), other=0.0)
            y_before = tl.sum(v[:, None] * x, 0)
            x = tl.where(row == k - 1, x - y_before[None, :], x)
        x = tl.where(row == k, x - y_k[None, :], x)
        here = tl.sum(tl.where(row == k, x, 0.0), 0)
        there = tl.sum(tl.where(row == other, x, 0.0), 0)
        x = tl.where(row == k, there[None, :], tl.where(row == other, here[None, :], x))
        k -= size
    tl.store(x_ptr + at, x, mask=inside)


def ldl_solve(ld: torch.Tensor, pivots: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """x [B, N, K] with a x = b, from a's contiguous LDL factors [B, N, N] and pivots [B, N]."""
    B, N, K = b.shape
    x = b.clone(memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return x
    rows = width(N)
    columns = max(1, min(MOST_COLUMNS, next_power_of_2(K), TILE_ELEMENTS // rows))
    mtia_ldl_solve[(ceil_div(K, columns), B)](ld, pivots, x, N, K, WIDTH=rows, COLUMNS=columns)
    return x


__all__ = ["cholesky", "ldl", "ldl_solve", "lu", "pivots_to_rows", "solve_triangular", "swap_rows"]
