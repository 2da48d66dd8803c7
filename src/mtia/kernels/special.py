"""Special functions, one table operation each, and what is made of them."""

from __future__ import annotations

from math import factorial
from typing import Any

import torch

from mtia.kernels.autodiff import deliver
from mtia.kernels.elementwise import Operation, define
from mtia.kernels.pointwise import Rule, serve
from mtia.kernels.registry import aten

_OF_ONE = {
    "i0": "cyl_bessel_i0",
    "digamma": "digamma",
    "special_i0e": "cyl_bessel_i0e",
    "special_i1": "cyl_bessel_i1",
    "special_i1e": "cyl_bessel_i1e",
    "special_erfcx": "erfcx",
    "special_ndtri": "normcdfinv",
    "special_bessel_j0": "j0",
    "special_bessel_j1": "j1",
    "special_bessel_y0": "y0",
    "special_bessel_y1": "y1",
    "special_modified_bessel_i0": "cyl_bessel_i0",
    "special_modified_bessel_i1": "cyl_bessel_i1",
    "special_modified_bessel_k0": "cyl_bessel_k0",
    "special_modified_bessel_k1": "cyl_bessel_k1",
    "special_scaled_modified_bessel_k0": "cyl_bessel_k0e",
    "special_scaled_modified_bessel_k1": "cyl_bessel_k1e",
    "special_spherical_bessel_j0": "spherical_j0",
    "special_airy_ai": "airy_ai",
}
"""aten operator of one tensor -> function of libdevice."""

_POLYNOMIALS = (
    *(f"{shifted}chebyshev_polynomial_{kind}" for shifted in ("", "shifted_") for kind in "tuvw"),
    "hermite_polynomial_h",
    "hermite_polynomial_he",
    "laguerre_polynomial_l",
    "legendre_polynomial_p",
)

for _name, _function in _OF_ONE.items():
    serve(f"{_name}.out", define(Operation(_name, ("x",), f"libdevice.{_function}(x)")), Rule.FLOAT)

for _name in ("igamma", "igammac", "nextafter"):
    serve(f"{_name}.out", define(Operation(_name, ("x", "other"), f"libdevice.{_name}(x, other)")), Rule.PROMOTE)

_ZETA = define(Operation("zeta", ("x", "other"), "libdevice.zeta(x, other)"))
serve("special_zeta.out", _ZETA, Rule.FLOAT)
for _name in _POLYNOMIALS:
    serve(f"special_{_name}.out", define(Operation(_name, ("x", "n"), f"libdevice.{_name}(x, n)")), Rule.FLOAT)


@aten("polygamma.out")
def polygamma_out(n: int, x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """Derivative n of digamma: (-1)^(n + 1) n! zeta(n + 1, x)."""
    if n == 0:
        return deliver(torch.digamma(x), out)
    kind = out.dtype
    wide = x.to(torch.float32) if kind in (torch.bfloat16, torch.float16) or not x.dtype.is_floating_point else x
    order = torch.full_like(wide, n + 1)
    return deliver(((-1) ** (n + 1) * float(factorial(n)) * torch.special.zeta(order, wide)).to(kind), out)


_EXPONENT_BITS = {torch.float32: (torch.int32, 23, 255, 126), torch.float64: (torch.int64, 52, 2047, 1022)}


@aten("frexp.Tensor_out")
def frexp_out(x: torch.Tensor, *, mantissa: torch.Tensor, exponent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x = mantissa * 2 ** exponent with 0.5 <= |mantissa| < 1; zeros, infinities and NaN are their own mantissa."""
    wide = x if x.dtype in _EXPONENT_BITS else x.to(torch.float32)
    integer, shift, mask, bias = _EXPONENT_BITS[wide.dtype]
    small = (wide.abs() < torch.finfo(wide.dtype).tiny) & (wide != 0)
    scaled = torch.where(small, wide * 2.0**shift, wide)
    bits = scaled.view(integer)
    power = ((bits >> shift) & mask) - bias
    odd = (wide == 0) | ~wide.isfinite()
    kept = (bits & ~(mask << shift)) | (bias << shift)
    fraction = torch.where(odd, wide, kept.view(wide.dtype))
    power = torch.where(odd, torch.zeros_like(power), torch.where(small, power - shift, power))
    return deliver(fraction.to(x.dtype), mantissa), deliver(power.to(torch.int32), exponent)


def _angle(x: torch.Tensor) -> torch.Tensor:
    kind = x.dtype if x.dtype.is_floating_point else torch.get_default_dtype()
    turned = torch.where(x < 0, torch.full((), torch.pi, dtype=kind, device=x.device), 0.0).to(kind)
    return torch.where(x != x, x.to(kind), turned)


aten("angle")(_angle)
aten("angle.out")(lambda x, *, out: deliver(_angle(x).to(out.dtype), out))


@aten("round.decimals_out")
def round_decimals_out(x: torch.Tensor, *, decimals: int, out: torch.Tensor) -> torch.Tensor:
    if not x.dtype.is_floating_point or decimals == 0:
        return deliver(torch.round(x) if x.dtype.is_floating_point else x, out)
    wide = x.to(torch.float32) if x.dtype in (torch.bfloat16, torch.float16) else x
    ten = 10.0 ** abs(decimals)
    found = torch.round(wide * ten) / ten if decimals > 0 else torch.round(wide / ten) * ten
    return deliver(found.to(x.dtype), out)


def _shrunk(grad: torch.Tensor, x: torch.Tensor, lambd: Any, *, grad_input: torch.Tensor) -> torch.Tensor:
    return deliver(torch.where((x >= -lambd) & (x <= lambd), torch.zeros_like(grad), grad), grad_input)


aten("softshrink_backward.grad_input")(_shrunk)
aten("hardshrink_backward.grad_input")(_shrunk)
