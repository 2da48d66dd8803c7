"""Element-wise commands and conversions on tensors: one torch expression per operation name.

Floating point follows IEEE in the operand's own type (bf16 and fp16 operations round once per operation); integers wrap
in two's complement; unsigned operations read the same bits as unsigned. Source: MLIR arith and math semantics.
Where IEEE leaves the bits open (exp, which of two zeros is the larger), or torch does not round as IEEE says (sqrt),
the definition is ours: `loops.native`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from mtia.engine.functional.loops import native
from mtia.engine.functional.values import TORCH_DTYPE
from mtia.program.commands import Convert, Elementwise
from mtia.program.types import Element

T = torch.Tensor
_BITS = {torch.bool: 1, torch.int8: 8, torch.int16: 16, torch.int32: 32, torch.int64: 64}


def unsigned(x: T) -> T:
    """The bits of x read as unsigned, in int64 (exact below 64 bits)."""
    return x.to(torch.int64) & ((1 << _BITS[x.dtype]) - 1) if x.dtype is not torch.int64 else x


def _flip_sign(x: T) -> T:
    return x ^ torch.iinfo(torch.int64).min


def _unsigned_order(x: T) -> T:
    """A value whose signed order is x's unsigned order."""
    return _flip_sign(x) if x.dtype is torch.int64 else unsigned(x)


def _nonzero(x: T) -> T:
    return torch.where(x == 0, torch.ones_like(x), x)


def _unsigned_binary(function: Callable[[T, T], T]) -> Callable[[T, T], T]:
    def run(a: T, b: T) -> T:
        if a.dtype is torch.int64:
            return torch.from_numpy(_as_numpy_unsigned(function, a, b))
        return function(unsigned(a), _nonzero(unsigned(b))).to(a.dtype)

    return run


def _as_numpy_unsigned(function: Callable, a: T, b: T):
    import numpy as np

    x, y = a.numpy().view(np.uint64), _nonzero(b).numpy().view(np.uint64)
    quotient = x // y
    return (quotient if function is _div else x - quotient * y).view(np.int64)


def _div(a: T, b: T) -> T:
    return torch.div(a, b, rounding_mode="trunc")


def _rem(a: T, b: T) -> T:
    return torch.fmod(a, b)


def _shift_right_logical(a: T, b: T) -> T:
    if a.dtype is torch.int64:
        shifted = (a >> b) & ~(torch.full_like(a, -1) << (64 - b))
        return torch.where(b == 0, a, shifted)
    return (unsigned(a) >> unsigned(b)).to(a.dtype)


def _mulhi_unsigned(a: T, b: T) -> T:
    if a.dtype is not torch.int64:
        return ((unsigned(a) * unsigned(b)) >> 32 & 0xFFFFFFFF).to(a.dtype)
    mask = 0xFFFFFFFF
    a0, a1, b0, b1 = a & mask, (a >> 32) & mask, b & mask, (b >> 32) & mask
    low = a0 * b0
    mid = a1 * b0 + ((low >> 32) & mask)
    mid2 = a0 * b1 + (mid & mask)
    return a1 * b1 + ((mid >> 32) & mask) + ((mid2 >> 32) & mask)


def _copysign(a: T, b: T) -> T:
    return torch.copysign(a, b)


BINARY: dict[str, Callable[..., T]] = {
    "addf": torch.add,
    "subf": torch.sub,
    "mulf": torch.mul,
    "divf": torch.div,
    "remf": native("remf"),
    "precise_divf": torch.div,
    "maximumf": native("maximumf"),
    "minimumf": native("minimumf"),
    "maxnumf": native("maxnumf"),
    "minnumf": native("minnumf"),
    "subi": torch.sub,
    "muli": torch.mul,
    "addi": lambda a, b: a ^ b if a.dtype is torch.bool else a + b,
    "addptr": torch.add,
    "divsi": lambda a, b: _div(a, _nonzero(b)),
    "remsi": lambda a, b: _rem(a, _nonzero(b)),
    "divui": _unsigned_binary(_div),
    "remui": _unsigned_binary(_rem),
    "floordivsi": lambda a, b: torch.div(a, _nonzero(b), rounding_mode="floor"),
    "ceildivsi": lambda a, b: -torch.div(-a, _nonzero(b), rounding_mode="floor"),
    "andi": torch.bitwise_and,
    "ori": torch.bitwise_or,
    "xori": torch.bitwise_xor,
    "shli": torch.bitwise_left_shift,
    "shrsi": torch.bitwise_right_shift,
    "shrui": _shift_right_logical,
    "maxsi": torch.maximum,
    "minsi": torch.minimum,
    "maxui": lambda a, b: torch.where(_unsigned_order(a) >= _unsigned_order(b), a, b),
    "minui": lambda a, b: torch.where(_unsigned_order(a) <= _unsigned_order(b), a, b),
    "mulhiui": _mulhi_unsigned,
    "powf": native("powf"),
    "atan2": native("atan2"),
    "copysign": _copysign,
    # libdevice
    "pow": native("powf"),
    "fmod": native("remf"),
    "hypot": torch.hypot,
    "nextafter": torch.nextafter,
    "zeta": torch.special.zeta,
    "igamma": torch.igamma,
    "igammac": torch.igammac,
    **{
        name: getattr(torch.special, name)
        for kind in "tuvw"
        for name in (f"chebyshev_polynomial_{kind}", f"shifted_chebyshev_polynomial_{kind}")
    },
    "hermite_polynomial_h": torch.special.hermite_polynomial_h,
    "hermite_polynomial_he": torch.special.hermite_polynomial_he,
    "laguerre_polynomial_l": torch.special.laguerre_polynomial_l,
    "legendre_polynomial_p": torch.special.legendre_polynomial_p,
    "remainder": torch.remainder,
    "ldexp": lambda a, b: torch.ldexp(a, b),
    "fdim": lambda a, b: (a - b).clamp_min(0),
    "div_rn": torch.div,
    "mulhi": lambda a, b: ((a.to(torch.int64) * b.to(torch.int64)) >> 32).to(a.dtype),
}

UNARY: dict[str, Callable[[T], T]] = {
    "negf": torch.neg,
    "absf": torch.abs,
    "absi": torch.abs,
    "abs": torch.abs,
    "exp": native("exp"),
    "exp2": native("exp2"),
    "log": native("log"),
    "log2": native("log2"),
    "log10": native("log10"),
    "log1p": native("log1p"),
    "expm1": native("expm1"),
    "sqrt": native("sqrt"),
    "precise_sqrt": native("sqrt"),
    "sqrt_rn": native("sqrt"),
    "rsqrt": native("rsqrt"),
    "sin": native("sin"),
    "cos": native("cos"),
    "tan": native("tan"),
    "asin": native("asin"),
    "acos": native("acos"),
    "atan": native("atan"),
    "sinh": native("sinh"),
    "cosh": native("cosh"),
    "tanh": native("tanh"),
    "asinh": native("asinh"),
    "acosh": native("acosh"),
    "atanh": native("atanh"),
    "erf": native("erf"),
    "erfc": native("erfc"),
    "erfinv": torch.erfinv,
    "erfcx": torch.special.erfcx,
    "lgamma": torch.lgamma,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": native("round"),
    "rint": torch.round,
    "nearbyint": torch.round,
    "roundeven": torch.round,
    "exp10": lambda x: native("powf")(torch.tensor(10.0, dtype=x.dtype), x),
    "sigmoid": native("sigmoid"),
    "gelu": torch.nn.functional.gelu,
    "isnan": lambda x: x.isnan().to(torch.int32),
    "isinf": lambda x: x.isinf().to(torch.int32),
    "finitef": lambda x: x.isfinite().to(torch.int32),
    "isfinited": lambda x: x.isfinite().to(torch.int32),
    "signbit": lambda x: torch.signbit(x).to(torch.int32),
    "llrint": lambda x: torch.round(x).to(torch.int64),
    "llround": lambda x: native("round")(x).to(torch.int64),
    "float2int_rn": lambda x: torch.round(x).to(torch.int32),
    "j0": torch.special.bessel_j0,
    "j1": torch.special.bessel_j1,
    "y0": torch.special.bessel_y0,
    "y1": torch.special.bessel_y1,
    "cyl_bessel_i0": torch.special.i0,
    "cyl_bessel_i1": torch.special.i1,
    "cyl_bessel_i0e": torch.special.i0e,
    "cyl_bessel_i1e": torch.special.i1e,
    "cyl_bessel_k0": torch.special.modified_bessel_k0,
    "cyl_bessel_k1": torch.special.modified_bessel_k1,
    "cyl_bessel_k0e": torch.special.scaled_modified_bessel_k0,
    "cyl_bessel_k1e": torch.special.scaled_modified_bessel_k1,
    "spherical_j0": torch.special.spherical_bessel_j0,
    "airy_ai": torch.special.airy_ai,
    "digamma": torch.digamma,
    "ilogb": lambda x: torch.frexp(x).exponent - 1,
    "tgamma": lambda x: _gamma(x),
    "float_as_int": lambda x: x.view(torch.int32),
    "int_as_float": lambda x: x.view(torch.float32),
    "cbrt": lambda x: torch.sign(x) * torch.pow(torch.abs(x), 1.0 / 3.0),
    "normcdf": torch.special.ndtr,
    "normcdfinv": torch.special.ndtri,
    "fast_expf": native("exp"),
    "fast_tanhf": native("tanh"),
    "fast_logf": native("log"),
    "fast_sinf": native("sin"),
    "fast_cosf": native("cos"),
    "popc": lambda x: _popcount(x),
    "clz": lambda x: _leading_zeros(x),
}


def _gamma(x: T) -> T:
    magnitude = torch.exp(torch.lgamma(x))
    return torch.where((x < 0) & (torch.floor(x) % 2 != 0), -magnitude, magnitude)


def _popcount(x: T) -> T:
    bits = torch.arange(_BITS[x.dtype])
    return ((x.unsqueeze(-1) >> bits) & 1).sum(-1).to(torch.int32)


def _leading_zeros(x: T) -> T:
    n = _BITS[x.dtype]
    bits = (x.unsqueeze(-1) >> torch.arange(n - 1, -1, -1)) & 1
    return torch.where(bits.any(-1), bits.to(torch.int8).argmax(-1), n).to(torch.int32)


TERNARY: dict[str, Callable[[T, T, T], T]] = {
    "select": torch.where,
    "fma": native("fma"),
    "fma_rn": native("fma"),
    "clampf": native("clampf"),
    "clampf_nan": native("clampf_nan"),
}

OPERATIONS: dict[str, Callable[..., T]] = {**UNARY, **BINARY, **TERNARY}

_ORDERED: dict[str, Callable[[T, T], T]] = {
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
}


def compare_integers(predicate: str, a: T, b: T) -> T:
    if predicate in ("eq", "ne"):
        return _ORDERED[predicate](a, b)
    if predicate[0] == "u":
        a, b = _unsigned_order(a), _unsigned_order(b)
    return _ORDERED[predicate[1:]](a, b)


def compare_floats(predicate: str, a: T, b: T) -> T:
    """Ordered predicates are false on NaN, unordered ones true."""
    if predicate in ("true", "false"):
        return torch.full_like(a, predicate == "true", dtype=torch.bool)
    unordered = a.isnan() | b.isnan()
    if predicate in ("uno", "ord"):
        return unordered if predicate == "uno" else ~unordered
    result = _ORDERED[predicate[1:]](a, b)
    if predicate == "one":
        return result & ~unordered
    return result if predicate[0] == "o" or predicate == "une" else result | unordered


def evaluate(cmd: Elementwise, args: list[T]) -> T:
    """The command on tensors already in their operands' dtypes."""
    if cmd.op == "cmpi":
        return compare_integers(cmd.predicate, *args)
    if cmd.op == "cmpf":
        return compare_floats(cmd.predicate, *args)
    result = OPERATIONS[cmd.op](*args)
    dtype = TORCH_DTYPE[cmd.result.type.element]
    return result if result.dtype is dtype else result.to(dtype)


_F8_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def to_float8(x: T, dtype: torch.dtype) -> T:
    """Round to nearest even; finite values and infinities beyond the largest saturate; NaN stays NaN."""
    largest = _F8_LARGEST[dtype]
    return x.to(torch.float32).clamp(-largest, largest).to(dtype)


def _truncate_float(x: T, dtype: torch.dtype) -> T:
    """Round toward zero: convert to nearest, step back where the magnitude grew."""
    y = x.to(dtype)
    grew = y.to(x.dtype).abs() > x.abs()
    return torch.where(grew, torch.nextafter(y, torch.zeros_like(y)), y)


def convert(cmd: Convert, x: T) -> T:
    """Element type conversion, by the rules of the command's `op`."""
    source, target = cmd.operands[0].type.element, cmd.result.type.element
    dtype = TORCH_DTYPE[target]
    match cmd.op:
        case "bitcast":
            return x if x.dtype is dtype else x.contiguous().view(dtype)
        case "extui" | "uitofp" | "index_castui":
            return unsigned_to(x, dtype)
        case "sitofp" if source is Element.I1:
            return -x.to(dtype)
        case "extsi" if source is Element.I1:
            return -x.to(dtype)
        case "trunci" if target is Element.I1:
            return (x & 1).to(torch.bool)
        case "fptosi" | "fptoui":
            return _to_integer(x, dtype)
    if dtype in _F8_LARGEST:
        return to_float8(x, dtype)
    if cmd.rounding == "rtz" and source.is_float and target.n_bits < source.n_bits:
        return _truncate_float(x, dtype)
    return x.to(dtype)


def unsigned_to(x: T, dtype: torch.dtype) -> T:
    if x.dtype is torch.int64 and dtype.is_floating_point:
        high = (x < 0).to(torch.float64) * 2.0**64
        return (x.to(torch.float64) + high).to(dtype)
    return (x if x.dtype is torch.bool else unsigned(x)).to(dtype)


def _to_integer(x: T, dtype: torch.dtype) -> T:
    if dtype is torch.bool:
        return x != 0
    wide = x.to(torch.float64)
    wide = torch.where(wide.isnan(), 0.0, wide)
    limit = math.ldexp(1.0, 63)
    return wide.clamp(-limit, math.nextafter(limit, 0)).to(torch.int64).to(dtype)
