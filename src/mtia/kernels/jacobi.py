"""Symmetric eigenvalues and singular values by Jacobi rotations, as many at once as there are pairs of columns.

In each round of a sweep every column meets another, as players of a tournament do, so that all rotations of a round
are one step over the tile: a column's partner comes by a gather. After as many rounds as there are other columns,
every pair has met once. What does not fit a tile is cut into blocks of columns; pairs of blocks then meet the same way.
Shapes: a_BNN, w_BNN row-major, B matrices.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mtia.kernels import functions
from mtia.kernels.householder import householder_qr, reflect
from mtia.kernels.matrices import LEAST_WIDTH, eye, new, width

square_root = functions.square_root
LARGEST = 64
"""Columns of the largest matrix that one program rotates."""
SWEEPS = 40
"""Sweeps after which a matrix is reported as not converged; six to ten are usual."""


@triton.jit
def _partners(i, players, turn):
    """Whom each of i meets in round `turn` of a tournament among an even number of players; itself beyond them."""
    circle = players - 1
    other = (2 * turn - i + 2 * circle) % circle
    other = tl.where(other == i, circle, other)
    other = tl.where(i == circle, turn, other)
    return tl.where(i < players, other, i)


@triton.jit
def _rotation(own, partners_own, shared, acts, i, partner):
    """(cosine, tangent) that clear `shared`, the product of a column and its partner; opposite for the two."""
    shared = tl.where(acts, shared, 1.0)
    ratio = (partners_own - own) / (2.0 * shared)
    positive = (ratio > 0) | ((ratio == 0) & (i < partner))
    size = 1.0 / (tl.abs(ratio) + square_root(1.0 + ratio * ratio))
    tangent = tl.where(acts, tl.where(positive, size, -size), 0.0)
    return 1.0 / square_root(1.0 + tangent * tangent), tangent


@triton.jit(do_not_specialize=["N", "players", "sweeps"])
def mtia_jacobi_eigh(
    a_ptr, values_ptr, vectors_ptr, info_ptr, N, players, sweeps, WIDTH: tl.constexpr, EPS: tl.constexpr
):
    """Eigenvalues, rising, and eigenvectors (columns) of the symmetric a, read whole. info: 1 if not converged."""
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    a = tl.load(a_ptr + at, mask=inside, other=0.0)
    vectors = tl.where(row == column, 1.0, 0.0).to(a.dtype)
    largest = tl.max(tl.max(tl.abs(a), 1), 0)
    scale = tl.where((largest > 0) & (largest < float("inf")), largest, 1.0)
    a = a / scale
    left = tl.max(tl.max(tl.where(row == column, 0.0, tl.abs(a)), 1), 0)
    sweep = 0
    while (left > EPS) & (sweep < sweeps):
        for turn in range(0, players - 1):
            partner = _partners(i, players, turn)
            across = tl.broadcast_to(partner[None, :], (WIDTH, WIDTH))
            down = tl.broadcast_to(partner[:, None], (WIDTH, WIDTH))
            own = tl.sum(tl.where(row == column, a, 0.0), 0)
            shared = tl.sum(tl.where(row == partner[None, :], a, 0.0), 0)
            partners_own = tl.gather(own, partner, 0)
            acts = (shared != 0) & (partner != i)
            cosine, tangent = _rotation(own, partners_own, shared, acts, i, partner)
            sine = cosine * tangent
            a = cosine[None, :] * a - sine[None, :] * tl.gather(a, across, 1)
            a = cosine[:, None] * a - sine[:, None] * tl.gather(a, down, 0)
            a = tl.where(row == column, (own - tangent * shared)[None, :], a)
            a = tl.where((row == partner[None, :]) & acts[None, :], 0.0, a)
            vectors = cosine[None, :] * vectors - sine[None, :] * tl.gather(vectors, across, 1)
        left = tl.max(tl.max(tl.where(row == column, 0.0, tl.abs(a)), 1), 0)
        sweep += 1
    values = tl.sum(tl.where(row == column, a, 0.0), 0) * scale
    below = tl.sum(tl.where(row == column, a, 0.0), 1) * scale
    before = (below[:, None] < values[None, :]) | ((below[:, None] == values[None, :]) & (row < column))
    rank = tl.sum((before & (row < N)).to(tl.int32), 0)
    finite = (largest < float("inf")) & (tl.sum(tl.where(values == values, 0, 1), 0) == 0)
    tl.store(values_ptr + matrix * N + rank, values, mask=i < N)
    tl.store(vectors_ptr + matrix * N * N + row * N + rank[None, :], vectors, mask=inside)
    tl.store(info_ptr + matrix, tl.where(finite & (left <= EPS), 0, 1))


@triton.jit(do_not_specialize=["N", "players", "sweeps"])
def mtia_jacobi_svd(
    w_ptr, values_ptr, vectors_ptr, info_ptr, N, players, sweeps, WIDTH: tl.constexpr, EPS: tl.constexpr
):
    """w V with orthogonal columns, in place, the longest first; their lengths in values, V in vectors.

    One-sided: the columns themselves are rotated, so small singular values keep their relative accuracy.
    """
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    w = tl.load(w_ptr + at, mask=inside, other=0.0)
    vectors = tl.where(row == column, 1.0, 0.0).to(w.dtype)
    largest = tl.max(tl.max(tl.abs(w), 1), 0)
    scale = tl.where((largest > 0) & (largest < float("inf")), largest, 1.0)
    w = w / scale
    left = largest * 0 + 1
    sweep = 0
    while (left > EPS) & (sweep < sweeps):
        most = tl.zeros((WIDTH,), w.dtype)
        for turn in range(0, players - 1):
            partner = _partners(i, players, turn)
            across = tl.broadcast_to(partner[None, :], (WIDTH, WIDTH))
            w_partner = tl.gather(w, across, 1)
            own = tl.sum(w * w, 0)
            partners_own = tl.gather(own, partner, 0)
            shared = tl.sum(w * w_partner, 0)
            bound = square_root(own) * square_root(partners_own)
            acts = (tl.abs(shared) > EPS * bound) & (partner != i)
            most = tl.maximum(most, tl.where(acts, tl.abs(shared) / tl.where(acts, bound, 1.0), 0.0))
            cosine, tangent = _rotation(own, partners_own, shared, acts, i, partner)
            sine = cosine * tangent
            w = cosine[None, :] * w - sine[None, :] * w_partner
            vectors = cosine[None, :] * vectors - sine[None, :] * tl.gather(vectors, across, 1)
        left = tl.max(most, 0)
        sweep += 1
    values = square_root(tl.sum(w * w, 0)) * scale
    below = tl.sum(tl.where(row == column, values[None, :], 0.0), 1)
    before = (below[:, None] > values[None, :]) | ((below[:, None] == values[None, :]) & (row < column))
    rank = tl.sum((before & (row < N)).to(tl.int32), 0)
    finite = (largest < float("inf")) & (tl.sum(tl.where(values == values, 0, 1), 0) == 0)
    sorted_at = matrix * N * N + row * N + rank[None, :]
    tl.store(values_ptr + matrix * N + rank, values, mask=i < N)
    tl.store(w_ptr + sorted_at, w * scale, mask=inside)
    tl.store(vectors_ptr + sorted_at, vectors, mask=inside)
    tl.store(info_ptr + matrix, tl.where(finite & (left <= 16 * EPS), 0, 1))


def _even(n: int) -> int:
    return max(2, n + n % 2)


def _eps(a: torch.Tensor) -> float:
    return torch.finfo(a.dtype).eps


def eigh(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values [B, N] rising, vectors [B, N, N], info [B]) of contiguous symmetric matrices [B, N, N]."""
    B, N, _ = a.shape
    values, vectors = new(a, B, N), new(a, B, N, N)
    info = torch.zeros(B, dtype=torch.int32, device=a.device)
    if a.numel() == 0:
        return values, vectors, info
    if N > LARGEST:
        return _eigh_blocks(a)
    mtia_jacobi_eigh[(B,)](a, values, vectors, info, N, _even(N), SWEEPS, WIDTH=width(N), EPS=_eps(a))
    return values, vectors, info


def svd_square(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(U S, S falling, V, info) of contiguous w [B, N, N] = U S V^T; the first overwrites w."""
    B, N, _ = w.shape
    values, vectors = new(w, B, N), new(w, B, N, N)
    info = torch.zeros(B, dtype=torch.int32, device=w.device)
    if w.numel() == 0:
        return w, values, vectors, info
    if N > LARGEST:
        return _svd_blocks(w)
    eps = _eps(w) * max(LEAST_WIDTH, N) ** 0.5
    mtia_jacobi_svd[(B,)](w, values, vectors, info, N, _even(N), SWEEPS, WIDTH=width(N), EPS=eps)
    return w, values, vectors, info


# --- larger than a tile -----------------------------------------------------------------------------------------------

BLOCK_COLUMNS = LARGEST // 2


def _block_rounds(n: int) -> list[list[int]]:
    """Rounds of a tournament among an even number of blocks: the blocks in the order of their pairs."""
    blocks = _even(-(-n // BLOCK_COLUMNS))
    circle = blocks - 1
    rounds = []
    for turn in range(circle):
        pairs = [(circle, turn)] + [((turn + d) % circle, (turn - d) % circle) for d in range(1, blocks // 2)]
        rounds.append([b for pair in pairs for b in sorted(pair)])
    return rounds


def _order(blocks: list[int], like: torch.Tensor) -> torch.Tensor:
    starts = torch.tensor(blocks, device=like.device).unsqueeze(1) * BLOCK_COLUMNS
    return (starts + torch.arange(BLOCK_COLUMNS, device=like.device)).reshape(-1)


def _padded(a: torch.Tensor, n: int) -> torch.Tensor:
    out = torch.zeros((a.shape[0], n, n), dtype=a.dtype, device=a.device)
    out[:, : a.shape[1], : a.shape[2]] = a
    return out


def _turn_columns(x: torch.Tensor, order: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Columns of x [B, M, N] in `order`, each group of LARGEST multiplied by its own q [B, G, L, L], put back."""
    B, M, N = x.shape
    groups = x.index_select(2, order).reshape(B, M, -1, LARGEST).transpose(1, 2)
    turned = (groups @ q).transpose(1, 2).reshape(B, M, N)
    out = torch.empty_like(turned)
    out[:, :, order] = turned
    return out


def _eigh_blocks(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs of blocks are made diagonal by the kernel, all pairs of a round together."""
    B, N, _ = a.shape
    rounds = _block_rounds(N)
    size = (len(rounds) + 1) * BLOCK_COLUMNS
    work, vectors = _padded(a, size), eye(a, size).expand(B, size, size)
    limit = _eps(a) * size**0.5 * work.abs().amax((1, 2))
    for _ in range(SWEEPS):
        off = (work - torch.diag_embed(work.diagonal(dim1=1, dim2=2))).abs().amax((1, 2))
        if not bool((off > limit).any()):
            break
        for blocks in rounds:
            order = _order(blocks, a)
            pairs = order.reshape(-1, LARGEST)
            small = work[:, pairs.unsqueeze(2), pairs.unsqueeze(1)]
            q = eigh(small.reshape(-1, LARGEST, LARGEST).contiguous())[1].reshape(small.shape)
            work = _turn_columns(_turn_columns(work, order, q).mT, order, q).mT
            work = (work + work.mT) * 0.5
            vectors = _turn_columns(vectors, order, q)
    info = (~(off <= limit)).to(torch.int32)
    live = vectors[:, :N].square().sum(1) > 0.5  # the padding's vectors have no part in the matrix's rows
    values = torch.where(live, work.diagonal(dim1=1, dim2=2), float("inf"))
    values, order = values.sort(-1)
    return values[:, :N].contiguous(), _picked(vectors[:, :N], order[:, :N]), info


def _svd_blocks(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs of blocks of columns are made orthogonal through the kernel on their triangular factors."""
    B, N, _ = w.shape
    rounds = _block_rounds(N)
    size = (len(rounds) + 1) * BLOCK_COLUMNS
    work, vectors = _padded(w, size), eye(w, size).expand(B, size, size)
    limit = _eps(w) * size**0.5
    for _ in range(SWEEPS):
        length = work.square().sum(1).sqrt()
        unit = work / torch.where(length > 0, length, 1).unsqueeze(1)
        off = (unit.mT @ unit - torch.diag_embed((length > 0).to(w.dtype))).abs().amax((1, 2))
        if not bool((off > limit).any()):
            break
        for blocks in rounds:
            order = _order(blocks, w)
            groups = work.index_select(2, order).reshape(B, size, -1, LARGEST).transpose(1, 2)
            panel = groups.reshape(-1, size, LARGEST).contiguous()
            householder_qr(panel)
            q = svd_square(panel[:, :LARGEST].triu().contiguous())[2].reshape(B, -1, LARGEST, LARGEST)
            work, vectors = _turn_columns(work, order, q), _turn_columns(vectors, order, q)
    info = (~(off <= 16 * limit)).to(torch.int32)
    live = vectors[:, :N].square().sum(1) > 0.5
    values = torch.where(live, work.square().sum(1).sqrt(), -1.0)
    values, order = values.sort(-1, descending=True)
    order = order[:, :N]
    return _picked(work[:, :N], order), values[:, :N].contiguous(), _picked(vectors[:, :N], order), info


def _picked(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return x.gather(2, order.unsqueeze(1).expand(x.shape[0], x.shape[1], order.shape[1]))


# --- thin and full ----------------------------------------------------------------------------------------------------


def svd(a: torch.Tensor, *, full: bool, vectors: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(U, S falling, V, info) of a [B, M, N] with M >= N: U is [B, M, M] if `full`, else [B, M, N].

    The triangular factor of a is rotated; U is made of the rotated columns by one more QR, which also completes it
    where singular values are zero.
    """
    B, M, N = a.shape
    panel = a.clone(memory_format=torch.contiguous_format)
    tau = householder_qr(panel)
    scaled, values, v, info = svd_square(panel[:, :N].triu().contiguous())
    if not vectors:
        return new(a, B, 0, 0), values, v, info
    own_tau = householder_qr(scaled)
    sign = torch.where(scaled.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0).to(a.dtype)
    u = torch.zeros((B, M, M if full else N), dtype=a.dtype, device=a.device)
    u[:, :N, :N] = reflect(scaled, own_tau, torch.diag_embed(sign))
    if full and M > N:
        u[:, N:, N:] = eye(a, M - N)
    return reflect(panel, tau, u), values, v, info


__all__ = ["eigh", "svd", "svd_square"]
