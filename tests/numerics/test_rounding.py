"""Rounding rules against the encoders, and the mean of stochastic rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtia.numerics.formats import BF16, FORMATS, FP4_E2M1, FP8_E4M3, FP8_E5M2, FP16, FloatFormat, decode, round_to
from mtia.numerics.rounding import RANDOM_BITS, Rounding, round_numbers

NARROW = (FP8_E4M3, FP8_E5M2, FORMATS["fp6e2m3"], FORMATS["fp6e3m2"], FP4_E2M1, BF16, FP16)


def finite_numbers(fmt: FloatFormat) -> np.ndarray:
    codes = np.arange(1 << fmt.n_bits).astype(np.uint16 if fmt.storage_bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):  # signalling NaN among the codes
        numbers = decode(codes, fmt).astype(np.float64)
    return np.unique(numbers[np.isfinite(numbers)])


@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_nearest_even_is_the_encoders(fmt: FloatFormat):
    numbers = finite_numbers(fmt)
    x = np.concatenate((numbers, (numbers[:-1] + numbers[1:]) / 2, numbers * 0.99, numbers * 3))
    x = x[np.abs(x) < 3e38].astype(np.float32)
    np.testing.assert_array_equal(round_numbers(x, fmt), round_to(x, fmt, saturate=True))


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_every_number_of_the_format_stays(fmt: FloatFormat, rounding: Rounding):
    numbers = finite_numbers(fmt)
    random = np.random.default_rng(1)
    np.testing.assert_array_equal(round_numbers(numbers, fmt, rounding, random=random), numbers)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("fmt", NARROW[:5], ids=lambda f: f.name)
def test_the_result_is_a_neighbour(fmt: FloatFormat, rounding: Rounding):
    numbers = finite_numbers(fmt)
    low, high = numbers[:-1], numbers[1:]
    for share in (0.0, 0.125, 0.5, 0.875):
        rounded = round_numbers(low + share * (high - low), fmt, rounding, random=np.random.default_rng(2))
        assert ((rounded == low) | (rounded == high)).all()


@given(st.floats(-6, 6), st.integers(0, 2**31))
def test_the_mean_of_stochastic_rounding_is_the_number(x: float, seed: int):
    """64 k draws with 16 bits each: within five standard deviations of a coin's mean, plus the generator's step."""
    n = 1 << 16
    rounded = round_numbers(np.full(n, x), FP4_E2M1, Rounding.STOCHASTIC, random=np.random.default_rng(seed))
    spacing = 2.0
    assert abs(rounded.mean() - x) <= spacing * (5 * 0.5 / n**0.5 + 2.0**-RANDOM_BITS)


def test_stochastic_rounding_repeats_with_its_seed():
    x = np.linspace(-6, 6, 1001)
    a, b = (round_numbers(x, FP4_E2M1, Rounding.STOCHASTIC, random=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_stochastic_rounding_without_a_generator_says_what_to_give():
    with pytest.raises(ValueError, match=r"give random=np.random.default_rng\(seed\)"):
        round_numbers(np.ones(1), FP8_E4M3, Rounding.STOCHASTIC)


def test_infinity_and_nan_are_left_as_they_are():
    assert np.isnan(round_numbers(np.array([np.nan]), FP8_E4M3))[0]
    assert round_numbers(np.array([-np.inf]), FP8_E5M2)[0] == -np.inf
