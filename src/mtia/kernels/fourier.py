"""Discrete Fourier transforms as matrix products over real pairs, which the dot product engine takes.

A transform of n complex numbers is a real 2n x 2n matrix on their (real, imaginary) pairs as they lie in memory, and
one of real input or output a slice of it. Longer ones are split (Cooley and Tukey) into factors that one matrix serves,
with twiddles between; a long prime is a convolution with a chirp (Bluestein) of a length that splits. Matrices and
twiddles depend on sizes alone: the host makes them once, in float64, and the device keeps them.

B transforms at once, n numbers each, 2 the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import pi, prod, sqrt

import torch

from mtia.kernels.autodiff import deliver
from mtia.kernels.registry import aten

LARGEST_MATRIX = 64
"""Longest transform by one matrix where its length splits: 128 x 128 real."""
LARGEST_PRIME = 512
"""Longest prime length by one matrix; longer ones by a chirp."""

FORWARD, BACKWARD = -1, 1


# --- tables -----------------------------------------------------------------------------------------------------------


def _unit(angle: torch.Tensor) -> torch.Tensor:
    return torch.complex(angle.cos(), angle.sin())


def _turns(n: int, rows: int, columns: int, sign: int) -> torch.Tensor:
    """exp(sign 2 pi i r c / n) for r < rows, c < columns: complex128 on the host."""
    product = (torch.arange(rows, device="cpu").unsqueeze(1) * torch.arange(columns, device="cpu")) % n
    return _unit(sign * 2 * pi / n * product.double())


def _real_matrix(w_KN: torch.Tensor) -> torch.Tensor:
    """[2K, 2N]: pairs (as a row vector) times it are the pairs of the complex product with w."""
    a, b = w_KN.real, w_KN.imag
    rows = torch.stack((torch.stack((a, b), -1), torch.stack((-b, a), -1)), 1)
    return rows.reshape(2 * w_KN.shape[0], 2 * w_KN.shape[1])


@lru_cache(maxsize=256)
def _matrix(n: int, sign: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return _real_matrix(_turns(n, n, n, sign)).to(dtype).to(device)


@lru_cache(maxsize=256)
def _half_matrix(n: int, sign: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[n, 2 (n / 2 + 1)]: real numbers to the first half of their transform."""
    half = _turns(n, n, n // 2 + 1, sign)
    return torch.view_as_real(half).flatten(1).to(dtype).to(device)


@lru_cache(maxsize=256)
def _whole_matrix(n: int, sign: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[2 (n / 2 + 1), n]: the first half of a Hermitian spectrum to real numbers; the ends' imaginary parts count
    nothing."""
    w = _turns(n, n // 2 + 1, n, sign)
    counts = torch.full((n // 2 + 1, 1), 2.0, dtype=torch.float64, device="cpu")
    counts[0] = 1.0
    if n % 2 == 0:
        counts[-1] = 1.0
    rows = torch.stack((w.real * counts, -w.imag * counts), 1)
    rows[0, 1] = 0.0
    if n % 2 == 0:
        rows[-1, 1] = 0.0
    return rows.reshape(-1, n).to(dtype).to(device)


@lru_cache(maxsize=256)
def _twiddles(rows: int, columns: int, sign: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.view_as_real(_turns(rows * columns, rows, columns, sign)).to(dtype).to(device)


@lru_cache(maxsize=64)
def _chirp(n: int, sign: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """exp(sign pi i k^2 / n): pairs [n, 2]."""
    squares = (torch.arange(n, device="cpu") ** 2) % (2 * n)
    return torch.view_as_real(_unit(sign * pi / n * squares.double())).to(dtype).to(device)


# --- transforms of pairs ----------------------------------------------------------------------------------------------


def _times(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Complex product of pairs [..., 2]."""
    (a, b), (c, d) = x.unbind(-1), w.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c), -1)


def _factor(n: int) -> int:
    """The largest factor that one matrix serves, 1 < factor <= n; 0 where there is none but a long prime."""
    if n <= LARGEST_MATRIX:
        return n
    for factor in range(LARGEST_MATRIX, 1, -1):
        if n % factor == 0:
            return factor
    smallest = next((f for f in range(LARGEST_MATRIX + 1, int(sqrt(n)) + 1) if n % f == 0), n)
    return smallest if smallest <= LARGEST_PRIME else 0


def transform(x_BN2: torch.Tensor, sign: int) -> torch.Tensor:
    """The unscaled transform of each row of pairs [B, n, 2]."""
    B, n, _ = x_BN2.shape
    n1 = _factor(n)
    if n1 == n:
        return (x_BN2.reshape(B, 2 * n) @ _matrix(n, sign, x_BN2.dtype, x_BN2.device)).reshape(B, n, 2)
    if n1 == 0:
        return _by_chirp(x_BN2, sign)
    n2 = n // n1
    columns = x_BN2.reshape(B, n1, n2, 2).transpose(1, 2).reshape(B * n2, n1, 2)
    turned = _times(transform(columns, sign).reshape(B, n2, n1, 2), _twiddles(n2, n1, sign, x_BN2.dtype, x_BN2.device))
    rows = turned.transpose(1, 2).reshape(B * n1, n2, 2)
    return transform(rows, sign).reshape(B, n1, n2, 2).transpose(1, 2).reshape(B, n, 2)


def _by_chirp(x_BN2: torch.Tensor, sign: int) -> torch.Tensor:
    """j k = (j^2 + k^2 - (k - j)^2) / 2: the transform as a convolution, cyclic in a power of two."""
    n = x_BN2.shape[1]
    length = 1 << (2 * n - 2).bit_length()
    chirp = _chirp(n, sign, x_BN2.dtype, x_BN2.device)
    against = _chirp(n, -sign, x_BN2.dtype, x_BN2.device)
    gap = torch.zeros(length - 2 * n + 1, 2, dtype=x_BN2.dtype, device=x_BN2.device)
    kernel = torch.cat((against, gap, against[1:].flip(0))).unsqueeze(0)
    padded = torch.nn.functional.pad(_times(x_BN2, chirp), (0, 0, 0, length - n))
    product = _times(transform(padded, FORWARD), transform(kernel, FORWARD))
    return _times(transform(product, BACKWARD)[:, :n] / length, chirp)


def _half(x_BN: torch.Tensor, sign: int) -> torch.Tensor:
    """Real rows to the first half of their transform, pairs [B, n / 2 + 1, 2]."""
    B, n = x_BN.shape
    if _factor(n) == n:
        return (x_BN @ _half_matrix(n, sign, x_BN.dtype, x_BN.device)).reshape(B, n // 2 + 1, 2)
    return transform(torch.stack((x_BN, torch.zeros_like(x_BN)), -1), sign)[:, : n // 2 + 1]


def _whole(x_BH2: torch.Tensor, n: int, sign: int) -> torch.Tensor:
    """The first half of a Hermitian spectrum to its n real numbers."""
    B = x_BH2.shape[0]
    half = x_BH2[:, : n // 2 + 1]
    if _factor(n) == n:
        return half.reshape(B, -1) @ _whole_matrix(n, sign, x_BH2.dtype, x_BH2.device)
    mirrored = half[:, 1 : (n + 1) // 2].flip(1)
    conjugate = torch.stack((mirrored[..., 0], -mirrored[..., 1]), -1)
    return transform(torch.cat((half, conjugate), 1), sign)[..., 0]


# --- aten -------------------------------------------------------------------------------------------------------------


def _scale(normalization: int, n: int) -> float:
    """PyTorch's fft_norm_mode: none, by the root, by the size."""
    return (1.0, 1.0 / sqrt(n), 1.0 / n)[normalization]


def _pairs(x: torch.Tensor) -> torch.Tensor:
    """[..., 2] of a complex tensor."""
    return torch.view_as_real(x.resolve_conj())


def _complex(pairs: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(pairs.contiguous())


def _along(pairs: torch.Tensor, dim: int, sign: int) -> torch.Tensor:
    last = pairs.movedim(dim, -2)
    done = transform(last.reshape(prod(last.shape[:-2]), *last.shape[-2:]), sign)
    return done.reshape(last.shape).movedim(-2, dim)


def _scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    return x if scale == 1.0 else x * scale


def _all(pairs: torch.Tensor, dims: Sequence[int], sign: int) -> torch.Tensor:
    for dim in dims:
        pairs = _along(pairs, dim, sign)
    return pairs


@aten("_fft_c2c")
def fft_c2c(x: torch.Tensor, dim: Sequence[int], normalization: int, forward: bool) -> torch.Tensor:
    dims = [d % x.dim() for d in dim] if x.dim() else []
    if x.numel() == 0:
        return x.clone()
    pairs = _all(_pairs(x), dims, FORWARD if forward else BACKWARD)
    return _complex(_scaled(pairs, _scale(normalization, prod(x.shape[d] for d in dims))))


@aten("_fft_r2c")
def fft_r2c(x: torch.Tensor, dim: Sequence[int], normalization: int, onesided: bool) -> torch.Tensor:
    """The last of `dim` from real numbers to half a spectrum, the others from complex to complex."""
    dims = [d % x.dim() for d in dim]
    if not onesided:
        return fft_c2c(_complex(torch.stack((x, torch.zeros_like(x)), -1)), dim, normalization, True)
    last = x.movedim(dims[-1], -1)
    n = last.shape[-1]
    half = _half(last.reshape(prod(last.shape[:-1]), n), FORWARD)
    pairs = half.reshape(*last.shape[:-1], n // 2 + 1, 2).movedim(-2, dims[-1])
    pairs = _all(pairs, dims[:-1], FORWARD)
    return _complex(_scaled(pairs, _scale(normalization, prod(x.shape[d] for d in dims))))


@aten("_fft_c2r")
def fft_c2r(x: torch.Tensor, dim: Sequence[int], normalization: int, last_dim_size: int) -> torch.Tensor:
    """All but the last of `dim` from complex to complex, that one from half a spectrum to real numbers."""
    dims = [d % x.dim() for d in dim]
    pairs = _all(_pairs(x), dims[:-1], BACKWARD)
    last = pairs.movedim(dims[-1], -2)
    real = _whole(last.reshape(prod(last.shape[:-2]), *last.shape[-2:]), last_dim_size, BACKWARD)
    found = real.reshape(*last.shape[:-2], last_dim_size).movedim(-1, dims[-1])
    size = prod(x.shape[d] for d in dims[:-1]) * last_dim_size
    return _scaled(found, _scale(normalization, size)).contiguous()


aten("_fft_c2c.out")(
    lambda x, dim, normalization, forward, *, out: deliver(fft_c2c(x, dim, normalization, forward), out)
)
aten("_fft_r2c.out")(
    lambda x, dim, normalization, onesided, *, out: deliver(fft_r2c(x, dim, normalization, onesided), out)
)
aten("_fft_c2r.out")(
    lambda x, dim, normalization, last_dim_size, *, out: deliver(fft_c2r(x, dim, normalization, last_dim_size), out)
)

__all__ = ["fft_c2c", "fft_c2r", "fft_r2c", "transform"]
