"""Every code of the small formats, and the nearest-value rule between every two neighbours."""

from __future__ import annotations

from math import isfinite, isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtia.errors import UnsupportedDtype
from mtia.numerics import formats
from mtia.numerics.formats import (
    BF16,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP32,
    INT8,
    TF32,
    FloatFormat,
    decode,
    encode,
    round_to,
)

FLOATS = (FP32, TF32, BF16, FP16, FP8_E4M3, FP8_E5M2)
SMALL = (BF16, FP16, FP8_E4M3, FP8_E5M2)


def codes_of(fmt: FloatFormat) -> np.ndarray:
    return np.arange(1 << fmt.n_bits, dtype=np.uint64).astype(formats._CODE_TYPE[fmt.storage_bits])


@pytest.mark.parametrize("fmt", [*SMALL, TF32], ids=lambda f: f.name)
def test_decode_is_the_definition_on_every_code(fmt: FloatFormat):
    codes = codes_of(fmt)
    meant = np.array([fmt.value_of(int(code)) for code in codes], dtype=np.float32)
    np.testing.assert_array_equal(decode(codes, fmt), meant)
    assert (np.signbit(decode(codes, fmt)) == np.signbit(meant))[~np.isnan(meant)].all()


@pytest.mark.parametrize("fmt", [*SMALL, TF32], ids=lambda f: f.name)
def test_round_trip_on_every_code(fmt: FloatFormat):
    codes = codes_of(fmt)
    numbers = decode(codes, fmt)
    back = encode(numbers, fmt)
    assert ((back == codes) | np.isnan(numbers)).all()
    assert np.isnan(decode(back, fmt)[np.isnan(numbers)]).all()


def test_int8_every_code():
    codes = np.arange(256, dtype=np.uint8)
    assert decode(codes, INT8).tolist() == [INT8.value_of(int(c)) for c in codes]
    np.testing.assert_array_equal(encode(decode(codes, INT8), INT8), codes)


@pytest.mark.parametrize("fmt", SMALL, ids=lambda f: f.name)
def test_nearest_and_ties_to_even_between_all_neighbours(fmt: FloatFormat):
    """Halfway between two neighbours goes to the even code; a hair to either side to the nearer one."""
    codes = codes_of(fmt)[: 1 << (fmt.n_bits - 1)]
    codes = codes[np.isfinite(decode(codes, fmt))]
    numbers = decode(codes, fmt).astype(np.float64)
    low, high = codes[:-1], codes[1:]
    middle = (numbers[:-1] + numbers[1:]) / 2
    even = np.where(low % 2 == 0, low, high)
    for sign, bit in ((1.0, 0), (-1.0, 1 << (fmt.n_bits - 1))):
        bit = codes.dtype.type(bit)
        np.testing.assert_array_equal(encode(sign * middle, fmt), even | bit)
        np.testing.assert_array_equal(encode(sign * (middle * 0.75 + numbers[:-1] * 0.25), fmt), low | bit)
        np.testing.assert_array_equal(encode(sign * (middle * 0.75 + numbers[1:] * 0.25), fmt), high | bit)


@pytest.mark.parametrize(
    ("fmt", "largest", "smallest_normal", "smallest_subnormal"),
    [
        (FP8_E4M3, 448.0, 2.0**-6, 2.0**-9), (FP8_E5M2, 57344.0, 2.0**-14, 2.0**-16), (FP16, 65504.0, 2.0**-14, 2.0**-24),
        (BF16, float.fromhex("0x1.fep127"), 2.0**-126, 2.0**-133), (FP32, float(np.finfo(np.float32).max), 2.0**-126, 2.0**-149),
    ],
    ids=lambda v: getattr(v, "name", None),
)  # fmt: skip
def test_landmarks(fmt: FloatFormat, largest: float, smallest_normal: float, smallest_subnormal: float):
    assert (fmt.largest, fmt.smallest_normal, fmt.smallest_subnormal) == (largest, smallest_normal, smallest_subnormal)
    one = encode(np.array([1.0, 1.0 + fmt.epsilon]), fmt)
    assert one[1] == one[0] + 1


@pytest.mark.parametrize("fmt", FLOATS, ids=lambda f: f.name)
def test_overflow_and_saturation(fmt: FloatFormat):
    beyond = np.array([np.inf, -np.inf, np.nan], dtype=np.float32)
    plain, held = round_to(beyond, fmt), round_to(beyond, fmt, saturate=True)
    assert isnan(plain[2]) and isnan(held[2])
    if fmt.has_infinity:
        assert plain[0] == np.inf == held[0] and plain[1] == -np.inf == held[1]
    else:
        assert isnan(plain[0]) and (held[0], held[1]) == (fmt.largest, -fmt.largest)
    much = np.array([fmt.largest * 8, -fmt.largest * 8])
    assert not np.isfinite(round_to(much, fmt)).any()
    assert round_to(much, fmt, saturate=True).tolist() == [fmt.largest, -fmt.largest]


def test_int8_saturates_and_rounds_to_even():
    x = np.array([0.5, 1.5, -0.5, -2.5, 127.4, 400.0, -400.0, np.inf, -np.inf, np.nan])
    assert round_to(x, INT8).tolist() == [0, 2, 0, -2, 127, 127, -128, 127, -128, 0]


@given(st.floats(width=32, allow_nan=False), st.sampled_from(FLOATS))
def test_rounding_is_idempotent_monotone_and_close(x: float, fmt: FloatFormat):
    once = round_to(np.array([x], dtype=np.float32), fmt)
    np.testing.assert_array_equal(round_to(once, fmt), once)
    value = float(once[0])
    if isfinite(value) and isfinite(x):
        assert abs(value - x) <= max(abs(x) * fmt.epsilon / 2, fmt.smallest_subnormal / 2)


@given(st.floats(2.0**-10, 2.0**10, width=32))
def test_error_never_grows_with_mantissa_bits(x: float):
    by_bits = (BF16, TF32, FP32)
    errors = [abs(float(round_to(np.array([x], dtype=np.float32), fmt)[0]) - x) for fmt in by_bits]
    assert errors == sorted(errors, reverse=True)


def test_tf32_is_float32_with_ten_mantissa_bits():
    tie = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-11)], dtype=np.float32)
    assert round_to(tie, TF32).tolist() == [1.0, 1 + 2.0**-9, -1.0]
    assert np.isnan(round_to(np.array([np.nan], dtype=np.float32), TF32))[0]


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(UnsupportedDtype, match="fp8e4m3"):
        formats.format_named("fp7")
