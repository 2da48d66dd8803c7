"""Eigenvalues and vectors of matrices that are not symmetric: Hessenberg form, then Francis's double-shifted QR.

One program a matrix, one tile whatever its size. The matrix stays real until it is quasi-triangular (LAPACK's hqr); its
2 x 2 blocks are then turned into complex triangular ones, whose vectors come by substitution, all columns at once.
Values come in the order of the diagonal, mostly LAPACK's; of a conjugate pair the one above the axis first.
Shapes: a_BNN row-major, B matrices; complex results as two real tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mtia.kernels import functions
from mtia.kernels.matrices import new, width

square_root = functions.square_root
SWEEPS_EACH = 60
"""QR sweeps for one value after which a matrix is reported as not converged; two to four are usual."""


@triton.jit
def _element(x, row, column, i, j):
    return tl.sum(tl.sum(tl.where((row == i) & (column == j), x, 0.0), 1), 0)


@triton.jit
def _reflect_rows(x, v, tau):
    """(1 - tau v v^T) x"""
    return x - tau * v[:, None] * tl.sum(v[:, None] * x, 0)[None, :]


@triton.jit
def _reflect_columns(x, v, tau):
    """x (1 - tau v v^T)"""
    return x - tau * tl.sum(x * v[None, :], 1)[:, None] * v[None, :]


@triton.jit
def _turn_rows(x, row, j, cosine, sine):
    """Rows j and j + 1 turned: cosine of each, sine of the other."""
    upper, lower = tl.sum(tl.where(row == j, x, 0.0), 0), tl.sum(tl.where(row == j + 1, x, 0.0), 0)
    x = tl.where(row == j, (cosine * upper + sine * lower)[None, :], x)
    return tl.where(row == j + 1, (cosine * lower - sine * upper)[None, :], x)


@triton.jit
def _turn_columns(x, column, j, cosine, sine):
    left, right = tl.sum(tl.where(column == j, x, 0.0), 1), tl.sum(tl.where(column == j + 1, x, 0.0), 1)
    x = tl.where(column == j, (cosine * left + sine * right)[:, None], x)
    return tl.where(column == j + 1, (cosine * right - sine * left)[:, None], x)


@triton.jit(do_not_specialize=["N", "limit"])
def mtia_schur(a_ptr, z_ptr, info_ptr, N, limit, EPSILON: tl.constexpr, WIDTH: tl.constexpr):
    """a = z t z^T: t replaces a, quasi-triangular. info: 1 + the value that `limit` sweeps did not find, or 0."""
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    h = tl.load(a_ptr + at, mask=inside, other=0.0)
    z = tl.where(row == column, 1.0, 0.0).to(h.dtype)
    for k in range(0, N - 2):
        x = tl.sum(tl.where(column == k, h, 0.0), 1)
        alpha = tl.sum(tl.where(i == k + 1, x, 0.0), 0)
        below = tl.where(i > k + 1, x, 0.0)
        largest = tl.maximum(tl.max(tl.abs(below), 0), tl.abs(alpha))
        scale = tl.where(largest == 0, 1.0, largest)
        tail = tl.sum((below / scale) * (below / scale), 0)
        norm = scale * square_root(tail + (alpha / scale) * (alpha / scale))
        beta = tl.where(alpha >= 0, -norm, norm)
        idle = tail == 0
        tau = tl.where(idle, 0.0, (beta - alpha) / tl.where(idle, 1.0, beta))
        v = tl.where(i == k + 1, 1.0, below / tl.where(idle, 1.0, alpha - beta)).to(h.dtype)
        h = _reflect_columns(_reflect_rows(h, v, tau), v, tau)
        z = _reflect_columns(z, v, tau)
        h = tl.where((column == k) & (row > k + 1), 0.0, h)
    size = tl.max(tl.max(tl.abs(h), 1), 0)
    info = 0
    sweeps = 0
    high = N - 1
    while high >= 0:
        diagonal = tl.sum(tl.where(column == row, h, 0.0), 1)
        before = tl.sum(tl.where(column == row - 1, diagonal[None, :], 0.0), 1)
        under = tl.abs(tl.sum(tl.where(column == row - 1, h, 0.0), 1))
        near = tl.abs(diagonal) + tl.abs(before)
        small = under <= EPSILON * tl.where(near == 0, size, near)
        low = tl.max(tl.where(small & (i <= high), i, 0), 0)
        h = tl.where((row == low) & (column == low - 1), 0.0, h)
        if low == high:
            high -= 1
            sweeps = 0
        elif low == high - 1:
            a = _element(h, row, column, low, low)
            b = _element(h, row, column, low, high)
            c = _element(h, row, column, high, low)
            d = _element(h, row, column, high, high)
            half = 0.5 * (a - d)
            inner = half * half + b * c
            if inner >= 0:
                root = square_root(inner)
                reach = half + tl.where(half >= 0, root, -root)
                length = square_root(c * c + reach * reach)
                cosine = tl.where(length == 0, 1.0, reach / tl.where(length == 0, 1.0, length))
                sine = tl.where(length == 0, 0.0, c / tl.where(length == 0, 1.0, length))
                h = _turn_columns(_turn_rows(h, row, low, cosine, sine), column, low, cosine, sine)
                z = _turn_columns(z, column, low, cosine, sine)
                h = tl.where((row == high) & (column == low), 0.0, h)
            high -= 2
            sweeps = 0
        elif sweeps >= limit:
            info = high + 1
            high = -1
        else:
            a = _element(h, row, column, high - 1, high - 1)
            b = _element(h, row, column, high - 1, high)
            c = _element(h, row, column, high, high - 1)
            d = _element(h, row, column, high, high)
            middle = 0.5 * (a + d)
            product = a * d - b * c
            inner = 0.25 * (a - d) * (a - d) + b * c
            if inner > 0:  # of two real shifts the nearer to the corner, twice
                root = square_root(inner)
                middle += tl.where(tl.abs(middle + root - d) <= tl.abs(middle - root - d), root, -root)
                product = middle * middle
            total = 2.0 * middle
            if sweeps % 10 == 9:  # another shift where the usual one goes in circles
                total = 1.5 * (tl.abs(c) + tl.abs(_element(h, row, column, high - 1, high - 2)))
                product = total * total / 2.25
            first = _element(h, row, column, low, low)
            second = _element(h, row, column, low + 1, low)
            x = first * first + _element(h, row, column, low, low + 1) * second - total * first + product
            y = second * (first + _element(h, row, column, low + 1, low + 1) - total)
            w = second * _element(h, row, column, low + 2, low + 1)
            for k in range(low, high):
                if k > low:
                    x = _element(h, row, column, k, k - 1)
                    y = _element(h, row, column, k + 1, k - 1)
                    w = _element(h, row, column, k + 2, k - 1)
                if k == high - 1:
                    w = w * 0.0
                scale = tl.abs(x) + tl.abs(y) + tl.abs(w)
                safe = tl.where(scale == 0, 1.0, scale)
                norm = safe * square_root((x / safe) * (x / safe) + (y / safe) * (y / safe) + (w / safe) * (w / safe))
                norm = tl.where(x >= 0, norm, -norm)
                lead = tl.where(scale == 0, 1.0, x + norm)
                tau = tl.where(scale == 0, 0.0, lead / tl.where(scale == 0, 1.0, norm))
                v = tl.where(i == k, 1.0, tl.where(i == k + 1, y / lead, tl.where(i == k + 2, w / lead, 0.0)))
                v = v.to(h.dtype)
                h = _reflect_columns(_reflect_rows(h, v, tau), v, tau)
                z = _reflect_columns(z, v, tau)
                h = tl.where((column == k - 1) & (row > k) & (k > low), 0.0, h)
            sweeps += 1
    tl.store(a_ptr + at, h, mask=inside)
    tl.store(z_ptr + at, z, mask=inside)
    tl.store(info_ptr + matrix, info)


@triton.jit(do_not_specialize=["N"])
def mtia_schur_values(t_ptr, real_ptr, imaginary_ptr, N, WIDTH: tl.constexpr):
    """The values of quasi-triangular matrices: the diagonal, and of a block its mean and the distance from the axis."""
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    at = t_ptr + matrix * N * N + i * (N + 1)
    a = tl.load(at, mask=i < N, other=0.0)
    below = tl.load(at + N, mask=i + 1 < N, other=0.0)
    above = tl.load(at + 1, mask=i + 1 < N, other=0.0)
    after = tl.load(at + N + 1, mask=i + 1 < N, other=0.0)
    before_below = tl.load(at - 1, mask=(i > 0) & (i < N), other=0.0)
    before_above = tl.load(at - N, mask=(i > 0) & (i < N), other=0.0)
    before = tl.load(at - N - 1, mask=(i > 0) & (i < N), other=0.0)
    starts, ends = below != 0, before_below != 0
    other = tl.where(starts, after, before)
    half = 0.5 * (a - other)
    square = -(half * half + tl.where(starts, above * below, before_above * before_below))
    reach = square_root(tl.maximum(square, 0.0))
    paired = starts | ends
    tl.store(real_ptr + matrix * N + i, tl.where(paired, 0.5 * (a + other), a), mask=i < N)
    tl.store(imaginary_ptr + matrix * N + i, tl.where(starts, reach, tl.where(ends, -reach, 0.0)), mask=i < N)


@triton.jit(do_not_specialize=["N"])
def mtia_schur_vectors(
    t_ptr, z_ptr, real_ptr, imaginary_ptr, vr_ptr, vi_ptr, N, EPSILON: tl.constexpr, WIDTH: tl.constexpr
):
    """Vectors v = z y of t's values, not scaled: t's blocks made complex triangular, then t y = y value from below."""
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    tr = tl.load(t_ptr + at, mask=inside, other=0.0)
    zr = tl.load(z_ptr + at, mask=inside, other=0.0)
    value_r = tl.load(real_ptr + matrix * N + i, mask=i < N, other=0.0)
    value_i = tl.load(imaginary_ptr + matrix * N + i, mask=i < N, other=0.0)
    size = tl.maximum(tl.max(tl.max(tl.abs(tr), 1), 0), 1e-30)
    ti, zi = tr * 0.0, zr * 0.0
    for j in range(0, N - 1):
        c = _element(tr, row, column, j + 1, j)
        if c != 0:
            # u = (value - d, c) / length is the block's vector; (u, its complement) turns the block triangular
            ur = tl.sum(tl.where(i == j, value_r, 0.0), 0) - _element(tr, row, column, j + 1, j + 1)
            ui = tl.sum(tl.where(i == j, value_i, 0.0), 0)
            length = square_root(ur * ur + ui * ui + c * c)
            ur, ui, s = ur / length, ui / length, c / length
            upper_r, upper_i = tl.sum(tl.where(row == j, tr, 0.0), 0), tl.sum(tl.where(row == j, ti, 0.0), 0)
            lower_r, lower_i = tl.sum(tl.where(row == j + 1, tr, 0.0), 0), tl.sum(tl.where(row == j + 1, ti, 0.0), 0)
            tr = tl.where(row == j, (ur * upper_r + ui * upper_i + s * lower_r)[None, :], tr)
            ti = tl.where(row == j, (ur * upper_i - ui * upper_r + s * lower_i)[None, :], ti)
            tr = tl.where(row == j + 1, (ur * lower_r - ui * lower_i - s * upper_r)[None, :], tr)
            ti = tl.where(row == j + 1, (ur * lower_i + ui * lower_r - s * upper_i)[None, :], ti)
            tr, ti = _complex_columns(tr, ti, column, j, ur, ui, s)
            zr, zi = _complex_columns(zr, zi, column, j, ur, ui, s)
            tr = tl.where((row == j + 1) & (column == j), 0.0, tr)
            ti = tl.where((row == j + 1) & (column == j), 0.0, ti)
    yr = tl.where(row == column, 1.0, 0.0).to(tr.dtype)
    yi = yr * 0.0
    for step in range(0, N):
        k = N - 1 - step
        across_r = tl.sum(tl.where((row == k) & (column > k), tr, 0.0), 0)[:, None]
        across_i = tl.sum(tl.where((row == k) & (column > k), ti, 0.0), 0)[:, None]
        sum_r, sum_i = tl.sum(across_r * yr - across_i * yi, 0), tl.sum(across_r * yi + across_i * yr, 0)
        gap_r = tl.sum(tl.where(i == k, value_r, 0.0), 0) - value_r
        gap_i = tl.sum(tl.where(i == k, value_i, 0.0), 0) - value_i
        close = tl.abs(gap_r) + tl.abs(gap_i) < EPSILON * size
        gap_r, gap_i = tl.where(close, EPSILON * size, gap_r), tl.where(close, 0.0, gap_i)
        scale = gap_r * gap_r + gap_i * gap_i
        found_r = -(sum_r * gap_r + sum_i * gap_i) / scale
        found_i = -(sum_i * gap_r - sum_r * gap_i) / scale
        yr = tl.where((row == k) & (column > k), found_r[None, :], yr)
        yi = tl.where((row == k) & (column > k), found_i[None, :], yi)
    vr, vi = zr * 0.0, zr * 0.0
    for k in range(0, N):
        from_r, from_i = (
            tl.sum(tl.where(column == k, zr, 0.0), 1)[:, None],
            tl.sum(tl.where(column == k, zi, 0.0), 1)[:, None],
        )
        to_r, to_i = tl.sum(tl.where(row == k, yr, 0.0), 0)[None, :], tl.sum(tl.where(row == k, yi, 0.0), 0)[None, :]
        vr += from_r * to_r - from_i * to_i
        vi += from_r * to_i + from_i * to_r
    tl.store(vr_ptr + at, vr, mask=inside)
    tl.store(vi_ptr + at, vi, mask=inside)


@triton.jit
def _complex_columns(xr, xi, column, j, ur, ui, s):
    """Columns j and j + 1 times the unitary ((u, -s), (s, conj u))."""
    left_r, left_i = tl.sum(tl.where(column == j, xr, 0.0), 1), tl.sum(tl.where(column == j, xi, 0.0), 1)
    right_r, right_i = tl.sum(tl.where(column == j + 1, xr, 0.0), 1), tl.sum(tl.where(column == j + 1, xi, 0.0), 1)
    xr = tl.where(column == j, (ur * left_r - ui * left_i + s * right_r)[:, None], xr)
    xi = tl.where(column == j, (ur * left_i + ui * left_r + s * right_i)[:, None], xi)
    xr = tl.where(column == j + 1, (ur * right_r + ui * right_i - s * left_r)[:, None], xr)
    xi = tl.where(column == j + 1, (ur * right_i - ui * right_r - s * left_i)[:, None], xi)
    return xr, xi


def eig(a: torch.Tensor, *, vectors: bool) -> tuple[torch.Tensor, ...]:
    """(info [B], values real and imaginary [B, N], with `vectors` theirs [B, N, N], each of length one and its largest
    element real) of contiguous matrices [B, N, N], which are replaced."""
    B, N, _ = a.shape
    info = torch.zeros(B, dtype=torch.int32, device=a.device)
    real, imaginary = new(a, B, N), new(a, B, N)
    if a.numel() == 0:
        return (info, real, imaginary, *((a, a) if vectors else ()))
    z = torch.empty_like(a)
    epsilon = torch.finfo(a.dtype).eps
    mtia_schur[(B,)](a, z, info, N, SWEEPS_EACH, EPSILON=epsilon, WIDTH=width(N))
    mtia_schur_values[(B,)](a, real, imaginary, N, WIDTH=width(N))
    if not vectors:
        return info, real, imaginary
    vr, vi = torch.empty_like(a), torch.empty_like(a)
    mtia_schur_vectors[(B,)](a, z, real, imaginary, vr, vi, N, EPSILON=epsilon, WIDTH=width(N))
    return info, real, imaginary, *_unit_columns(vr, vi, imaginary)


def _unit_columns(vr: torch.Tensor, vi: torch.Tensor, imaginary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of length one, turned so that the largest element is real; those of real values real throughout."""
    largest = torch.maximum(vr.abs(), vi.abs()).amax(1, keepdim=True)
    vr, vi = vr / largest, vi / largest
    square = vr * vr + vi * vi
    size, place = square.max(1, keepdim=True)
    lead_r, lead_i = vr.gather(1, place), vi.gather(1, place)
    scale = 1 / (size * square.sum(1, keepdim=True)).sqrt()
    turned_r, turned_i = (vr * lead_r + vi * lead_i) * scale, (vi * lead_r - vr * lead_i) * scale
    return turned_r, torch.where(imaginary.unsqueeze(1) == 0, torch.zeros_like(turned_i), turned_i)


__all__ = ["eig"]
