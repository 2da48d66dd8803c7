"""Complex tensors as pairs of reals: the few operators that real programs meet (building them, their gradients)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mtia.kernels import pointwise  # noqa: F401  (its real operators stand under these)
from mtia.kernels.copy import complex_out
from mtia.kernels.registry import KERNELS, aten

Pair = tuple[Any, Any]


def pair(x: Any) -> Pair:
    """Real and imaginary part of a tensor or number."""
    if isinstance(x, torch.Tensor):
        return tuple(torch.view_as_real(x.resolve_conj()).unbind(-1)) if x.is_complex() else (x, 0)
    return complex(x).real, complex(x).imag


def _product(x: Any, other: Any) -> Pair:
    (a, b), (c, d) = pair(x), pair(other)
    return a * c - b * d, a * d + b * c


def _sign(x: Any) -> Pair:
    """x / |x|, 0 at 0."""
    a, b = pair(x)
    size = torch.hypot(a, b)
    size = torch.where(size == 0, torch.ones_like(size), size)
    return a / size, b / size


def _conjugate(x: Any) -> Pair:
    a, b = pair(x)
    return a, -b


def _or_complex(name: str, of_pairs: Callable[..., Pair]) -> None:
    """The overload as it is for real outputs, `of_pairs` for complex ones."""
    of_reals = KERNELS.get(name)

    def run(*args: Any, out: torch.Tensor) -> torch.Tensor:
        if out.is_complex():
            return complex_out(*of_pairs(*args), out=out)
        assert of_reals is not None
        return of_reals(*args, out=out)

    KERNELS[name] = run


_or_complex("mul.out", _product)
_or_complex("sgn.out", _sign)


@aten("conj_physical.out")
def conj_physical_out(x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    return complex_out(*_conjugate(x), out=out)


@aten("conj_physical_")
def conj_physical_(x: torch.Tensor) -> torch.Tensor:
    """In place; of a real tensor nothing changes."""
    if x.is_complex():
        torch.view_as_real(x).select(-1, 1).neg_()
    return x


def _modulus_of_complex() -> None:
    of_reals = KERNELS["abs.out"]

    def modulus(x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return torch.hypot(*pair(x), out=out) if x.is_complex() else of_reals(x, out=out)

    KERNELS["abs.out"] = modulus


_modulus_of_complex()
