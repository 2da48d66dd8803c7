"""`triton.language.extra.libdevice` on mtia: each function is one special function unit (or vector core) operation.

Beside CUDA's names stand the special functions that PyTorch has and CUDA's library lacks. All count as one table
operation: for the long ones (zeta, igamma, the polynomials) the time is a lower bound.

The symbol `mtia_NAME` becomes the element-wise operation NAME of the TileProgram. fp16 and bf16 arguments compute in
fp32 and round once.
"""

from __future__ import annotations

import sys

from triton.language import core

_FLOATS = ("fp32", "fp64")
_UNARY = (
    "abs floor ceil trunc round rint nearbyint sqrt sqrt_rn rsqrt exp exp2 exp10 expm1 log log2 log10 log1p sin cos "
    "tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc erfinv erfcx lgamma tgamma cbrt j0 j1 y0 y1 "
    "cyl_bessel_i0 cyl_bessel_i1 normcdf normcdfinv sigmoid gelu fast_expf fast_tanhf fast_logf fast_sinf fast_cosf"
).split()
_SPECIAL_UNARY = (
    "cyl_bessel_i0e cyl_bessel_i1e cyl_bessel_k0 cyl_bessel_k1 cyl_bessel_k0e cyl_bessel_k1e spherical_j0 airy_ai "
    "digamma"
).split()
_BINARY = "pow fmod atan2 hypot copysign nextafter remainder fdim div_rn".split()
_SPECIAL_BINARY = (
    "zeta igamma igammac chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w "
    "shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v "
    "shifted_chebyshev_polynomial_w hermite_polynomial_h hermite_polynomial_he laguerre_polynomial_l "
    "legendre_polynomial_p"
).split()
_TERNARY = "fma fma_rn".split()
_PREDICATES = "isnan isinf finitef isfinited signbit".split()


def _promoted(args, _semantic):
    """Narrow floats as fp32, integers where a float is wanted as fp32; all arguments of one type."""
    tensors = [_semantic.to_tensor(a) for a in args]
    wide = core.float64 if any(t.dtype.scalar == core.float64 for t in tensors) else core.float32
    return [t.to(wide, _semantic=_semantic) for t in tensors], wide


def _restore(result, args, _semantic):
    first = next((a.dtype.scalar for a in args if isinstance(a, core.tensor) and a.dtype.scalar.is_floating()), None)
    narrow = first in (core.float16, core.bfloat16)
    return result.to(first, _semantic=_semantic) if narrow else result


def _table(name, n_args, returns=None):
    return {tuple(core.dtype(f) for _ in range(n_args)): (f"mtia_{name}", core.dtype(returns or f)) for f in _FLOATS}


def _define(name: str, n_args: int, returns: str | None = None) -> None:
    def call(*args, _semantic=None):
        wide, _ = _promoted(args, _semantic)
        result = core.extern_elementwise("", "", wide, _table(name, n_args, returns), is_pure=True, _semantic=_semantic)
        return result if returns else _restore(result, args, _semantic)

    call.__name__ = call.__qualname__ = name
    call.__module__ = __name__
    setattr(sys.modules[__name__], name, core.extern(call))


for _name in (*_UNARY, *_SPECIAL_UNARY):
    _define(_name, 1)
for _name in (*_BINARY, *_SPECIAL_BINARY):
    _define(_name, 2)
for _name in _TERNARY:
    _define(_name, 3)
for _name in _PREDICATES:
    _define(_name, 1, "int32")
for _name in ("llrint", "llround"):
    _define(_name, 1, "int64")
for _name in ("float2int_rn", "ilogb"):
    _define(_name, 1, "int32")


@core.extern
def ldexp(arg0, arg1, _semantic=None):
    """arg0 * 2**arg1; arg1 is int32."""
    assert _semantic is not None  # Triton passes it to every extern
    exponent = _semantic.to_tensor(arg1).to(core.int32, _semantic=_semantic)
    table = {(core.dtype(f), core.dtype("int32")): ("mtia_ldexp", core.dtype(f)) for f in _FLOATS}
    return core.extern_elementwise("", "", [arg0, exponent], table, is_pure=True, _semantic=_semantic)


scalbn = ldexp


def _integer_function(name: str, n_args: int, result: str | None) -> None:
    def call(*args, _semantic=None):
        table = {
            tuple(core.dtype(i) for _ in range(n_args)): (f"mtia_{name}", core.dtype(result or i))
            for i in ("int32", "int64")
        }
        return core.extern_elementwise("", "", list(args), table, is_pure=True, _semantic=_semantic)

    call.__name__ = call.__qualname__ = name
    call.__module__ = __name__
    setattr(sys.modules[__name__], name, core.extern(call))


_integer_function("popc", 1, "int32")
_integer_function("clz", 1, "int32")
_integer_function("mulhi", 2, None)


@core.extern
def sparse_2_4(arg0, _semantic=None):
    """`arg0`, said to be 2:4 sparse along its first dim: a `tl.dot` that takes it second reads what it was spread out
    from, two of four elements and their places, at the chip's sparse rate. Refused where the chip has none."""
    kinds = ("int8", "fp16", "bf16")
    table = {(core.dtype(kind),): ("mtia_sparse_2_4", core.dtype(kind)) for kind in kinds}
    return core.extern_elementwise("", "", [arg0], table, is_pure=True, _semantic=_semantic)


@core.extern
def float_as_int(arg0, _semantic=None):
    return core.extern_elementwise(
        "",
        "",
        [arg0],
        {(core.dtype("fp32"),): ("mtia_float_as_int", core.dtype("int32"))},
        is_pure=True,
        _semantic=_semantic,
    )


@core.extern
def int_as_float(arg0, _semantic=None):
    return core.extern_elementwise(
        "",
        "",
        [arg0],
        {(core.dtype("int32"),): ("mtia_int_as_float", core.dtype("fp32"))},
        is_pure=True,
        _semantic=_semantic,
    )
