"""Symmetric eigenvalues and singular values by Jacobi rotations, as many at once as there are pairs of columns.

In each round of a sweep every column meets another, as players of a tournament do, so that all rotations of a round
are one step over the tile: a column's partner comes by a gather. After as many rounds as there are other columns,
every pair has met once. A launch is one sweep; what it turned is read to know whether another is needed. What does not
fit a tile is cut into blocks of columns; pairs of blocks then meet the same way.
Shapes: a_BNN, w_BNN row-major, B matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from mtia.kernels import functions
from mtia.kernels.householder import householder_qr, reflect
from mtia.kernels.iteration import ceil_div
from mtia.kernels.matrices import LEAST_WIDTH, eye, new, width

square_root = functions.square_root
LARGEST = 64
"""Columns of the largest matrix that one program rotates."""
SWEEPS = 40
"""Sweeps after which a matrix is reported as not converged; four to nine are usual."""


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
    """(tangent, sine, lean) that clear `shared`, the product of a column and its partner; opposite for the two.

    lean = sine / (1 + cosine): x - sine * (partner + lean * x) turns x, and rounds by the angle's size only.
    """
    shared = tl.where(acts, shared, 1.0)
    ratio = (partners_own - own) / (2.0 * shared)
    positive = (ratio > 0) | ((ratio == 0) & (i < partner))
    size = 1.0 / (tl.abs(ratio) + square_root(1.0 + ratio * ratio))
    tangent = tl.where(acts, tl.where(positive, size, -size), 0.0)
    cosine = 1.0 / square_root(1.0 + tangent * tangent)
    sine = cosine * tangent
    return tangent, sine, sine / (1.0 + cosine)


@triton.jit
def _turn(x, partners, sine, lean):
    return x - sine * (partners + lean * x)


@triton.jit
def _measured(shared, bound, acts):
    """|shared| / bound where a pair acts: how far from orthogonal it was."""
    return tl.where(acts, tl.abs(shared) / tl.where(acts & (bound > 0), bound, 1.0), 0.0)


@triton.jit(do_not_specialize=["N", "players"])
def mtia_jacobi_eigh(a_ptr, vectors_ptr, worst_ptr, N, players, WIDTH: tl.constexpr):
    """One sweep over symmetric matrices, in place: a becomes Q^T a Q, vectors becomes vectors Q.

    worst: the largest element that a rotation cleared, over the largest of a; NaN where a is not finite.
    """
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    a = tl.load(a_ptr + at, mask=inside, other=0.0)
    vectors = tl.load(vectors_ptr + at, mask=inside, other=0.0)
    largest = tl.max(tl.max(tl.abs(a), 1), 0)
    worst = tl.zeros((WIDTH,), a.dtype)
    for turn in range(0, players - 1):
        partner = _partners(i, players, turn)
        across = tl.broadcast_to(partner[None, :], (WIDTH, WIDTH))
        down = tl.broadcast_to(partner[:, None], (WIDTH, WIDTH))
        own = tl.sum(tl.where(row == column, a, 0.0), 0)
        shared = tl.sum(tl.where(row == partner[None, :], a, 0.0), 0)
        acts = (shared != 0) & (partner != i)
        worst = tl.maximum(worst, _measured(shared, largest, acts))
        tangent, sine, lean = _rotation(own, tl.gather(own, partner, 0), shared, acts, i, partner)
        a = _turn(a, tl.gather(a, across, 1), sine[None, :], lean[None, :])
        a = _turn(a, tl.gather(a, down, 0), sine[:, None], lean[:, None])
        a = tl.where(row == column, (own - tangent * shared)[None, :], a)
        a = tl.where((row == partner[None, :]) & acts[None, :], 0.0, a)
        vectors = _turn(vectors, tl.gather(vectors, across, 1), sine[None, :], lean[None, :])
    tl.store(a_ptr + at, a, mask=inside)
    tl.store(vectors_ptr + at, vectors, mask=inside)
    tl.store(worst_ptr + matrix, tl.max(worst, 0) + tl.sum(tl.sum(a * 0.0, 1), 0))


@triton.jit(do_not_specialize=["N", "players"])
def mtia_jacobi_svd(w_ptr, vectors_ptr, worst_ptr, N, players, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """One sweep that turns the columns of w towards orthogonal, in place: w becomes w Q, vectors becomes vectors Q.

    One-sided: the columns themselves are rotated, so small singular values keep their relative accuracy. worst: the
    largest cosine between two columns that met; NaN where w is not finite.
    """
    matrix = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    row, column = i[:, None], i[None, :]
    inside = (row < N) & (column < N)
    at = matrix * N * N + row * N + column
    w = tl.load(w_ptr + at, mask=inside, other=0.0)
    vectors = tl.load(vectors_ptr + at, mask=inside, other=0.0)
    worst = tl.zeros((WIDTH,), w.dtype)
    for turn in range(0, players - 1):
        partner = _partners(i, players, turn)
        across = tl.broadcast_to(partner[None, :], (WIDTH, WIDTH))
        w_partner = tl.gather(w, across, 1)
        own = tl.sum(w * w, 0)
        partners_own = tl.gather(own, partner, 0)
        shared = tl.sum(w * w_partner, 0)
        bound = square_root(own) * square_root(partners_own)
        acts = (tl.abs(shared) > EPS * bound) & (partner != i)
        worst = tl.maximum(worst, _measured(shared, bound, acts))
        _, sine, lean = _rotation(own, partners_own, shared, acts, i, partner)
        w = _turn(w, w_partner, sine[None, :], lean[None, :])
        vectors = _turn(vectors, tl.gather(vectors, across, 1), sine[None, :], lean[None, :])
    tl.store(w_ptr + at, w, mask=inside)
    tl.store(vectors_ptr + at, vectors, mask=inside)
    tl.store(worst_ptr + matrix, tl.max(worst, 0) + tl.sum(tl.sum(w * 0.0, 1), 0))


def _even(n: int) -> int:
    return max(2, n + n % 2)


def _eps(a: torch.Tensor) -> float:
    return torch.finfo(a.dtype).eps


def _until_still(a: torch.Tensor, sweep: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Sweeps until none turned much, read once a sweep; info int32 [B], 1 where a matrix still turns or is not finite.

    What a sweep leaves is of the order of the square of what it found, so the last need not find nothing.
    """
    still = _eps(a) ** 0.75
    worst = sweep()
    for _ in range(SWEEPS):
        if not bool((worst > still).any()):
            break
        worst = sweep()
    return (~(worst <= still)).to(torch.int32)


def _rotated(
    a: torch.Tensor, launch: Callable[[torch.Tensor, torch.Tensor], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q [B, N, N], info [B]) of sweeps over a [B, N, N], which they replace."""
    B, N, _ = a.shape
    vectors = eye(a, N).expand(B, N, N).contiguous()
    worst = new(a, B)

    def sweep() -> torch.Tensor:
        launch(vectors, worst)
        return worst

    return vectors, _until_still(a, sweep)


def _rotate_symmetric(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes a [B, N, N], N <= LARGEST, diagonal in place; returns its eigenvectors, in no order, and info."""
    B, N, _ = a.shape

    def launch(vectors: torch.Tensor, worst: torch.Tensor) -> None:
        mtia_jacobi_eigh[(B,)](a, vectors, worst, N, _even(N), WIDTH=width(N))

    return _rotated(a, launch)


def _rotate_columns(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes the columns of w [B, N, N], N <= LARGEST, orthogonal in place; returns Q and info."""
    B, N, _ = w.shape
    eps = _eps(w) * max(LEAST_WIDTH, N) ** 0.5

    def launch(vectors: torch.Tensor, worst: torch.Tensor) -> None:
        mtia_jacobi_svd[(B,)](w, vectors, worst, N, _even(N), WIDTH=width(N), EPS=eps)

    return _rotated(w, launch)


# --- larger than a tile -----------------------------------------------------------------------------------------------

BLOCK_COLUMNS = LARGEST // 2


def _block_rounds(n: int) -> list[list[int]]:
    """Rounds of a tournament among an even number of blocks: the blocks in the order of their pairs."""
    blocks = _even(ceil_div(n, BLOCK_COLUMNS))
    circle = blocks - 1
    rounds = []
    for turn in range(circle):
        pairs = [(circle, turn)] + [((turn + d) % circle, (turn - d) % circle) for d in range(1, blocks // 2)]
        rounds.append([b for pair in pairs for b in sorted(pair)])
    return rounds


def _columns(blocks: list[int], device: torch.device) -> torch.Tensor:
    starts = torch.tensor(blocks, device=device).unsqueeze(1) * BLOCK_COLUMNS
    return (starts + torch.arange(BLOCK_COLUMNS, device=device)).reshape(-1)


def _padded(a: torch.Tensor, n: int) -> torch.Tensor:
    """a with zeros to n x n: columns that no rotation touches."""
    out = torch.zeros((a.shape[0], n, n), dtype=a.dtype, device=a.device)
    out[:, : a.shape[1], : a.shape[2]] = a
    return out


def _pairs(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Columns of x [B, M, N] in `order`, in groups of LARGEST: [B, G, M, LARGEST]."""
    B, M, N = x.shape
    return x.index_select(2, order).reshape(B, M, N // LARGEST, LARGEST).transpose(1, 2)


def _turned(x: torch.Tensor, order: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """x with each group of columns multiplied by its own q [B, G, LARGEST, LARGEST] and put back."""
    turned = (_pairs(x, order) @ q).transpose(1, 2).reshape(x.shape)
    return turned.index_select(2, order.argsort())


def _rotate_symmetric_blocks(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As _rotate_symmetric for larger N: all pairs of blocks of a round are made diagonal together."""
    B, N, _ = a.shape
    rounds = _block_rounds(N)
    size = (len(rounds) + 1) * BLOCK_COLUMNS
    work, vectors = _padded(a, size), eye(a, size).expand(B, size, size)

    def sweep() -> torch.Tensor:
        nonlocal work, vectors
        off = work - torch.diag_embed(work.diagonal(dim1=1, dim2=2))
        worst = off.abs().amax((1, 2)) / work.abs().amax((1, 2)).clamp(min=torch.finfo(a.dtype).tiny)
        for blocks in rounds:
            order = _columns(blocks, a.device)
            pairs = order.reshape(-1, LARGEST)
            small = work[:, pairs.unsqueeze(2), pairs.unsqueeze(1)]
            q = _rotate_symmetric(small.reshape(-1, LARGEST, LARGEST).contiguous())[0].reshape(small.shape)
            work, vectors = _turned(_turned(work, order, q).mT, order, q), _turned(vectors, order, q)
            work = (work + work.mT) * 0.5
        return worst

    info = _until_still(a, sweep)
    q = _straightened(vectors[:, :N, :N])
    a.copy_(q.mT @ (a @ q))
    return q, info


def _straightened(q: torch.Tensor) -> torch.Tensor:
    """q nearer to orthogonal by a step of Newton's: the products of many rounds drift from it."""
    return 1.5 * q - 0.5 * (q @ (q.mT @ q))


def _rotate_columns_blocks(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As _rotate_columns for larger N: pairs of blocks of a round are made orthogonal through their QR's factors R."""
    B, N, _ = w.shape
    rounds = _block_rounds(N)
    size = (len(rounds) + 1) * BLOCK_COLUMNS
    work, vectors = _padded(w, size), eye(w, size).expand(B, size, size)

    def sweep() -> torch.Tensor:
        nonlocal work, vectors
        length = work.square().sum(1).sqrt()
        unit = work / torch.where(length > 0, length, 1).unsqueeze(1)
        worst = (unit.mT @ unit).triu(1).abs().amax((1, 2))
        for blocks in rounds:
            order = _columns(blocks, w.device)
            groups = _pairs(work, order)
            panel = groups.reshape(-1, size, LARGEST).contiguous()
            householder_qr(panel)
            q = _rotate_columns(panel[:, :LARGEST].triu().contiguous())[0].reshape(B, -1, LARGEST, LARGEST)
            work, vectors = _turned(work, order, q), _turned(vectors, order, q)
        return worst

    info = _until_still(w, sweep)
    q = _straightened(vectors[:, :N, :N])
    w.copy_(w @ q)
    return q, info


# --- eigenvalues and singular values ----------------------------------------------------------------------------------


def eigh(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values [B, N] rising, vectors [B, N, N], info [B]) of contiguous symmetric matrices [B, N, N], replaced."""
    B, N, _ = a.shape
    if a.numel() == 0:
        return new(a, B, N), a, torch.zeros(B, dtype=torch.int32, device=a.device)
    vectors, info = _rotate_symmetric(a) if N <= LARGEST else _rotate_symmetric_blocks(a)
    values, order = a.diagonal(dim1=1, dim2=2).sort(-1)
    return values, _picked(vectors, order), info


def svd(a: torch.Tensor, *, full: bool, vectors: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(U, S falling, V, info) of a [B, M, N] with M >= N: U is [B, M, M] if `full`, else [B, M, N].

    a = Q R, and the columns of R^T, whose lengths fall, are rotated: R^T P = V S, so that R = P S V^T. V is made of
    those columns by one more QR, which also completes it where singular values are zero; U is Q P.
    """
    B, M, N = a.shape
    if B * N == 0:
        u = eye(a, M).expand(B, M, M) if full else new(a, B, M, N)
        return u, new(a, B, N), new(a, B, N, N), torch.zeros(B, dtype=torch.int32, device=a.device)
    largest = a.abs().amax((1, 2), keepdim=True)
    scale = torch.where(largest > 0, largest, 1)
    panel = (a / scale).contiguous()
    tau = householder_qr(panel)
    w = panel[:, :N].triu().mT.contiguous()
    rotations, info = _rotate_columns(w) if N <= LARGEST else _rotate_columns_blocks(w)
    values, order = (w.square().sum(1).sqrt() * scale[:, :, 0]).sort(-1, descending=True)
    if not vectors:
        return new(a, 0), values, new(a, 0), info
    u = torch.zeros((B, M, M if full else N), dtype=a.dtype, device=a.device)
    u[:, :N, :N] = _picked(rotations, order)
    if full and M > N:
        u[:, N:, N:] = eye(a, M - N)
    return reflect(panel, tau, u), values, _unit_columns(_picked(w, order)), info


def _unit_columns(w: torch.Tensor) -> torch.Tensor:
    """Orthogonal columns of falling length, the last perhaps zero, as an orthonormal basis."""
    scaled = w.contiguous()
    tau = householder_qr(scaled)
    sign = torch.where(scaled.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0).to(w.dtype)
    return reflect(scaled, tau, torch.diag_embed(sign))


def _picked(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Columns of x [B, M, N] in each matrix's order [B, N]."""
    return x.gather(2, order.unsqueeze(1).expand(x.shape))


__all__ = ["eigh", "svd"]
