"""Element-wise operations bit by bit: unsigned integers, comparisons with NaN, float8, TF32, fused multiply-add."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtia.engine.functional import pointwise
from mtia.engine.functional.interpreter import round_to_tf32

I32 = st.integers(-(2**31), 2**31 - 1)


def pair(a, b):
    return torch.tensor([a], dtype=torch.int32), torch.tensor([b], dtype=torch.int32)


@given(I32, I32)
def test_unsigned_32_bit_operations(a, b):
    x, y = pair(a, b)
    ua, ub = a % 2**32, b % 2**32
    assert int(pointwise.BINARY["mulhiui"](x, y)[0]) % 2**32 == ua * ub >> 32
    if b:
        assert int(pointwise.BINARY["divui"](x, y)[0]) % 2**32 == ua // ub
        assert int(pointwise.BINARY["remui"](x, y)[0]) % 2**32 == ua % ub
    assert int(pointwise.BINARY["maxui"](x, y)[0]) % 2**32 == max(ua, ub)
    assert bool(pointwise.compare_integers("ult", x, y)[0]) == (ua < ub)
    assert int(pointwise.BINARY["shrui"](x, pair(b % 32, 0)[0])[0]) % 2**32 == ua >> b % 32


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_unsigned_64_bit_high_product(a, b):
    x, y = torch.tensor([a]), torch.tensor([b])
    assert int(pointwise.BINARY["mulhiui"](x, y)[0]) % 2**64 == (a % 2**64) * (b % 2**64) >> 64


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("oeq", [True, False, False]),
        ("one", [False, True, False]),
        ("olt", [False, True, False]),
        ("ueq", [True, False, True]),
        ("une", [False, True, True]),
        ("ult", [False, True, True]),
        ("ord", [True, True, False]),
        ("uno", [False, False, True]),
    ],
)
def test_float_comparisons_of_equal_less_and_nan(predicate, expected):
    a, b = torch.tensor([1.0, 1.0, torch.nan]), torch.tensor([1.0, 2.0, 1.0])
    assert pointwise.compare_floats(predicate, a, b).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_float8_code_survives_a_round_trip(dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(dtype)
    back = pointwise.to_float8(codes.to(torch.float32), dtype)
    values, again = codes.to(torch.float32), back.to(torch.float32)
    largest = pointwise._F8_LARGEST[dtype]
    expected = torch.where(values.isinf(), torch.sign(values) * largest, values)  # infinities saturate
    assert torch.equal(again.nan_to_num(nan=-1.0), expected.nan_to_num(nan=-1.0))


@given(st.floats(width=32))
def test_tf32_is_the_nearest_value_with_ten_mantissa_bits(x):
    rounded = float(round_to_tf32(torch.tensor([x]))[0])
    if not np.isfinite(x):
        assert rounded == x or (np.isnan(rounded) and np.isnan(x))
        return
    bits = np.float32(rounded).view(np.uint32)
    assert bits & 0x1FFF == 0
    if np.isfinite(rounded) and x:
        below = (np.float32(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
        above = ((np.float32(x).view(np.uint32) & np.uint32(0xFFFFE000)) + np.uint32(0x2000)).view(np.float32)
        distance = abs(Fraction(x) - Fraction(rounded))
        assert all(distance <= abs(Fraction(x) - Fraction(float(n))) for n in (below, above) if np.isfinite(n))


@given(*[st.floats(-1e3, 1e3, width=32)] * 3)
def test_fma_rounds_once(a, b, c):
    result = float(pointwise.TERNARY["fma"](*(torch.tensor([v]) for v in (a, b, c)))[0])
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    # double holds the exact product; its sum may round once before the final rounding
    assert abs(Fraction(result) - exact) <= abs(exact) * Fraction(1, 2**24) * (1 + Fraction(1, 2**20)) + Fraction(
        1, 2**149
    )


def test_division_by_zero_lanes_do_not_raise():
    x, zero = pair(7, 0)
    assert int(pointwise.BINARY["divsi"](x, zero)[0]) == 7
    assert int(pointwise.BINARY["remsi"](x, zero)[0]) == 0
