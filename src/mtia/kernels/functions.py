"""Small `@triton.jit` functions that generated and hand-written kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def first_max(a_value, a_index, b_value, b_index):
    """Larger value, NaN above all, the lower index where equal."""
    a_nan = a_value != a_value
    b_nan = b_value != b_value
    same = (a_value == b_value) | (a_nan & b_nan)
    take_a = (a_nan & ~b_nan) | ((a_value > b_value) & ~b_nan) | (same & (a_index < b_index))
    return tl.where(take_a, a_value, b_value), tl.where(take_a, a_index, b_index)


@triton.jit
def first_min(a_value, a_index, b_value, b_index):
    """Smaller value, NaN below all, the lower index where equal."""
    a_nan = a_value != a_value
    b_nan = b_value != b_value
    same = (a_value == b_value) | (a_nan & b_nan)
    take_a = (a_nan & ~b_nan) | ((a_value < b_value) & ~b_nan) | (same & (a_index < b_index))
    return tl.where(take_a, a_value, b_value), tl.where(take_a, a_index, b_index)


@triton.jit
def nan_max(a, b):
    """Larger of two; NaN if either is."""
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def nan_min(a, b):
    """Smaller of two; NaN if either is."""
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def either(a, b):
    return a | b


@triton.jit
def both(a, b):
    return a & b


@triton.jit
def gcd(a, b):
    """Greatest common divisor of integers, not negative; gcd(0, b) = |b|. Euclid, until no lane has a remainder."""
    a, b = tl.broadcast(tl.abs(a), tl.abs(b))
    while tl.max((b != 0).to(tl.int32), None) > 0:
        rest = tl.where(b != 0, a % tl.where(b != 0, b, 1), 0)
        a = tl.where(b != 0, b, a)
        b = rest
    return a


@triton.jit
def lcm(a, b):
    """Least common multiple of integers, not negative; 0 where either is."""
    divisor = gcd(a, b)
    return tl.abs(a // tl.where(divisor != 0, divisor, 1) * b)


@triton.jit
def floor_div_int(a, b):
    """Integer quotient rounded towards minus infinity."""
    q = a // b
    return tl.where((a % b != 0) & ((a < 0) != (b < 0)), q - 1, q)


@triton.jit
def remainder_int(a, b):
    """Integer remainder with the divisor's sign."""
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def integer_pow(base, exponent):
    """base ** exponent by squaring, exponents 0..63; 1/base semantics of torch for negative ones (0, 1 or -1)."""
    result = base * 0 + 1
    square = base
    e = exponent
    for _ in tl.static_range(6):
        result = tl.where((e & 1) != 0, result * square, result)
        square = square * square
        e = e >> 1
    odd_sign = tl.where((exponent & 1) != 0, base, base * base)
    return tl.where(exponent >= 0, result, tl.where((base == 1) | (base == -1), odd_sign, base * 0))


@triton.jit
def square_root(x):
    """Correctly rounded square root: `tl.sqrt_rn` has no float64, whose `tl.sqrt` rounds correctly."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def exp_by_powers(x):
    """exp of a float32 as a math library computes it where the hardware has powers of two alone."""
    n = tl.floor(tl.fma(x, 1.4426950408889634, 0.5))
    power = tl.exp2(tl.fma(x, 1.4426950408889634, -n))
    scale = ((tl.clamp(n, -127.0, 128.0).to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return power * scale


@triton.jit
def tanh_by_powers(x):
    """tanh of a float32 as a math library computes it: a polynomial near zero, else by a power and a quotient."""
    s = x * x
    near = tl.fma(tl.fma(tl.fma(tl.fma(s, 0.0157296831, -0.0523039624), s, 0.133152977), s, -0.333327681) * s, x, x)
    far = tl.fma(1.0 / (tl.exp2(tl.minimum(tl.abs(x) * 2.8853900817779268, 120.0)) + 1.0), -2.0, 1.0)
    return tl.where(tl.abs(x) < 0.55, near, tl.where(x < 0.0, -far, far))
