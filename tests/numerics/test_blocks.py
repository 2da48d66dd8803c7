"""Block formats: every element code at every scale, nearest values between all neighbours, and laws of blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtia.errors import BadProblem, UnsupportedDtype
from mtia.numerics import blocks as b
from mtia.numerics.blocks import BlockFormat, ScaleKind, ScaleRule
from mtia.numerics.formats import FloatFormat
from mtia.numerics.rounding import quantum_of

ALL = tuple(b.BLOCK_FORMATS.values())
POWER_SCALED = tuple(f for f in ALL if f.scale is ScaleKind.E8M0)
EXPONENTS = range(-127, 128)


def by_name(fmt: BlockFormat) -> str:
    return fmt.name


def element_numbers(fmt: BlockFormat) -> np.ndarray:
    """The finite numbers of the element, scale apart, rising."""
    codes = np.arange(1 << fmt.element.n_bits, dtype=np.uint8)
    numbers = b.decode_elements(codes, fmt)
    return np.unique(numbers[np.isfinite(numbers) & (np.abs(numbers) <= fmt.largest)])  # MXINT8 leaves -128 unused


def in_blocks(numbers: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """Rows of whole blocks with `numbers`, each block led by the element's largest, so that FLOOR picks scale 2**0."""
    room = fmt.rows * fmt.cols - 1
    padded = np.resize(np.concatenate((numbers, np.zeros(-len(numbers) % room))), (-(-len(numbers) // room), room))
    led = np.concatenate((np.full((len(padded), 1), fmt.largest), padded), axis=1)
    return led.reshape(-1, fmt.cols)


@pytest.mark.parametrize("fmt", POWER_SCALED, ids=by_name)
def test_every_element_at_every_scale_comes_back(fmt: BlockFormat):
    x = in_blocks(element_numbers(fmt), fmt)
    for exponent in EXPONENTS:
        scaled = np.ldexp(x, exponent)
        held = b.quantise(scaled, fmt)
        assert (held.scales == exponent + 127).all()
        back = b.decode_elements(held.codes, fmt) * np.ldexp(1.0, exponent)
        np.testing.assert_array_equal(back, scaled)


@pytest.mark.parametrize("fmt", POWER_SCALED, ids=by_name)
def test_nearest_value_between_all_neighbours_at_every_scale(fmt: BlockFormat):
    numbers = element_numbers(fmt)
    low, high = numbers[:-1], numbers[1:]
    middle = (low + high) / 2
    tiny = (high - low) * 2.0**-20
    even = even_neighbour(low, high, fmt)
    for exponent in EXPONENTS:
        for x, nearest in ((middle - tiny, low), (middle + tiny, high), (middle, even)):
            blocks = in_blocks(x, fmt)
            held = b.quantise(np.ldexp(blocks, exponent), fmt)
            np.testing.assert_array_equal(b.decode_elements(held.codes, fmt), in_blocks(nearest, fmt))


def even_neighbour(low: np.ndarray, high: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """Of two neighbours the one whose code ends in 0."""
    codes = b.encode_elements(low, fmt)
    return np.where(codes & 1 == 0, low, high)


@pytest.mark.parametrize("fmt", [f for f in ALL if isinstance(f.element, FloatFormat)], ids=by_name)
def test_elements_are_those_of_ml_dtypes(fmt: BlockFormat):
    array_type = {
        "fp8e4m3": ml_dtypes.float8_e4m3fn, "fp8e5m2": ml_dtypes.float8_e5m2, "fp6e2m3": ml_dtypes.float6_e2m3fn,
        "fp6e3m2": ml_dtypes.float6_e3m2fn, "fp4e2m1": ml_dtypes.float4_e2m1fn,
    }[fmt.element.name]  # fmt: skip
    codes = np.arange(1 << fmt.element.n_bits, dtype=np.uint8)
    np.testing.assert_array_equal(b.decode_elements(codes, fmt), codes.view(array_type).astype(np.float64))


def test_scales_are_those_of_ml_dtypes():
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(b.scale_values(codes, b.MX4), codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64))


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("fmt", POWER_SCALED, ids=by_name)
def test_scale_rules_on_every_power_and_around_it(fmt: BlockFormat, rule: ScaleRule):
    """FIT and CEIL never saturate; FIT is the least that does not; FLOOR is at most one power below FIT."""
    fmt = fmt.with_(rule=rule)
    tops = np.ldexp([1.0, 1.0 + 2**-20, fmt.largest / 2**fmt.largest_exponent, 1.999], np.arange(-60, 60)[:, None])
    exponents = b.scale_exponents(tops, fmt).astype(int) - 127
    overflow = tops > fmt.largest * np.ldexp(1.0, exponents)
    fits_below = tops <= fmt.largest * np.ldexp(1.0, exponents - 1)
    if rule in (ScaleRule.FIT, ScaleRule.CEIL):
        assert not overflow.any()
    if rule is ScaleRule.FIT:
        assert not fits_below.any()
    if rule is ScaleRule.FLOOR:
        fit = b.scale_exponents(tops, fmt.with_(rule=ScaleRule.FIT)).astype(int) - 127
        assert ((fit - exponents == 0) | (fit - exponents == 1)).all()


@st.composite
def block_inputs(draw: st.DrawFn) -> tuple[BlockFormat, np.ndarray]:
    fmt = draw(st.sampled_from(ALL))
    seed, spread = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 60))
    random = np.random.default_rng(seed)
    shape = (fmt.rows * draw(st.integers(1, 2)), fmt.cols * draw(st.integers(1, 3)))
    x = random.standard_normal(shape) * np.exp2(random.integers(-spread - 1, spread + 1, shape))
    return fmt, x.astype(np.float32)


@given(block_inputs())
def test_quantising_twice_changes_nothing(case: tuple[BlockFormat, np.ndarray]):
    """For power-of-two scales; an E4M3 scale is chosen anew from what the first one rounded."""
    fmt, x = case
    once = b.round_blocks(x, fmt)
    if fmt.scale is ScaleKind.E8M0:
        np.testing.assert_array_equal(b.round_blocks(once, fmt), once)


@given(block_inputs(), st.integers(-30, 30))
def test_scaling_by_a_power_of_two_scales_the_result(case: tuple[BlockFormat, np.ndarray], power: int):
    fmt, x = case
    scaled = b.round_blocks(np.ldexp(x, power), fmt)
    np.testing.assert_array_equal(scaled, np.ldexp(b.round_blocks(x, fmt), power))


@given(block_inputs())
def test_error_is_at_most_half_a_step_of_the_blocks_scale(case: tuple[BlockFormat, np.ndarray]):
    """Under FIT nothing saturates: every element is within half the spacing at its own size."""
    fmt, x = case
    if fmt.scale is not ScaleKind.E8M0:
        return
    fmt = fmt.with_(rule=ScaleRule.FIT)
    held = b.quantise(x, fmt)
    factors = b.scale_values(held.scales, fmt).repeat(fmt.rows, 0).repeat(fmt.cols, 1)
    spacing = quantum_of(x / factors / fmt.step, fmt.element) * factors * fmt.step
    assert (np.abs(b.dequantise(held).astype(np.float64) - x) <= spacing / 2).all()


@given(block_inputs())
def test_negation_negates(case: tuple[BlockFormat, np.ndarray]):
    fmt, x = case
    np.testing.assert_array_equal(b.round_blocks(-x, fmt), -b.round_blocks(x, fmt))


@given(st.integers(0, 2**32 - 1))
def test_mx8s_of_the_transpose_is_the_transpose(seed: int):
    x = np.random.default_rng(seed).standard_normal((32, 48)).astype(np.float32)
    np.testing.assert_array_equal(b.round_blocks(x.T.copy(), b.MX8S), b.round_blocks(x, b.MX8S).T)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fmt", ALL, ids=by_name)
def test_nan_and_infinity_stay_in_their_block(fmt: BlockFormat, bad: float):
    x = np.ones((fmt.rows, 2 * fmt.cols), dtype=np.float32)
    x[0, 1] = bad
    back = b.round_blocks(x, fmt)
    assert np.isnan(back[:, : fmt.cols]).all() and np.isfinite(back[:, fmt.cols :]).all()


@pytest.mark.parametrize("fmt", ALL, ids=by_name)
def test_zeros_stay_zero(fmt: BlockFormat):
    assert not b.round_blocks(np.zeros((fmt.rows, fmt.cols), dtype=np.float32), fmt).any()


def test_storage_of_a_tile_is_what_hot_chips_printed():
    """A 64 x 128 byte tile carries 512 B of scales in MX8 and 1 KB in MX4 (HC26)."""
    mx8 = b.quantise(np.ones((64, 128), dtype=np.float32), b.MX8)
    mx4 = b.quantise(np.ones((64, 256), dtype=np.float32), b.MX4)
    assert (mx8.scales.size, mx4.scales.size) == (512, 1024)
    assert mx4.n_bytes == 64 * 128 + 1024 and b.MX4.bits_per_element == 4.5


def test_packing_pairs_is_the_low_half_first_and_comes_back():
    codes = np.arange(16, dtype=np.uint8).reshape(2, 8)
    packed = b.pack_pairs(codes)
    assert packed[0].tolist() == [0x10, 0x32, 0x54, 0x76]
    np.testing.assert_array_equal(b.unpack_pairs(packed), codes)


def test_a_shape_that_blocks_do_not_divide_names_the_multiple():
    with pytest.raises(BadProblem, match=r"mx8s blocks: shape = \(8, 24\); rows must be a multiple of 16 and columns"):
        b.quantise(np.zeros((8, 24), dtype=np.float32), b.MX8S)
    with pytest.raises(UnsupportedDtype, match="has no mx5; it supports mx4, mx8"):
        b.block_format("mx5")
