"""The native library's functions: error in units in the last place against float64, special values, conversions."""

import math

import numpy as np
import pytest
import torch

from mtia.engine.functional import pointwise
from mtia.engine.functional.loops import multiply, native, run_loop

# name -> (float64 reference, range, most error in ulp)
FUNCTIONS = {
    "exp": (np.exp, (-103.9, 88.7), 1.0),
    "exp2": (np.exp2, (-149.0, 127.9), 0.51),
    "log": (np.log, (0.0, 3e38), 0.51),
    "log2": (np.log2, (0.0, 3e38), 0.51),
    "log10": (np.log10, (0.0, 3e38), 0.51),
    "log1p": (np.log1p, (-1.0, 1e10), 0.51),
    "expm1": (np.expm1, (-80.0, 88.7), 0.51),
    "sin": (np.sin, (-1e6, 1e6), 0.51),
    "cos": (np.cos, (-1e6, 1e6), 0.51),
    "tanh": (np.tanh, (-12.0, 12.0), 0.51),
    "erf": (np.vectorize(math.erf), (-5.0, 5.0), 0.6),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), (-90.0, 90.0), 0.51),
    "rsqrt": (lambda x: 1 / np.sqrt(x), (0.0, 3e38), 1.5),
    "sqrt": (np.sqrt, (0.0, 3e38), 0.5),
}


def samples(low, high):
    """Even over the range, and every magnitude that it has."""
    generator = np.random.default_rng(0)
    even = generator.uniform(low, high, 20_000)
    magnitudes = np.exp2(generator.uniform(-140, math.log2(max(abs(low), abs(high))), 20_000))
    both = np.concatenate([even, magnitudes, -magnitudes]).astype(np.float32)
    return both[(both > low) & (both < high)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_units_in_the_last_place(name):
    reference, bounds, most = FUNCTIONS[name]
    x = samples(*bounds)
    exact = reference(x.astype(np.float64))
    got = native(name)(torch.from_numpy(x)).numpy().astype(np.float64)
    ulp = np.spacing(np.maximum(np.abs(exact), np.finfo(np.float32).tiny).astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(got - exact) / ulp) <= most


SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3e38, -3e38, 1.0, -1.0]


@pytest.mark.parametrize("name", FUNCTIONS)
@np.errstate(all="ignore")
def test_special_values_are_those_of_the_c_library(name):
    x = np.array(SPECIAL, np.float32)
    expected = FUNCTIONS[name][0](x.astype(np.float64)).astype(np.float32)
    got = native(name)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=0)
    zeros = (expected == 0) & (x == 0)
    assert np.array_equal(np.signbit(got[zeros]), np.signbit(expected[zeros]))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 3, 16, 17, 1000])
def test_a_value_does_not_depend_on_where_it_stands(name, n):
    x = torch.linspace(0.01, 30, 1000)
    whole = native(name)(x)
    parts = torch.cat([native(name)(part) for part in x.split(n)])
    assert torch.equal(whole, parts)


def test_the_larger_of_two_zeros_is_the_positive_one_whatever_the_order():
    zeros, other = torch.tensor([0.0, -0.0, 0.0]), torch.tensor([-0.0, 0.0, 0.0])
    for name in ("maximumf", "maxnumf"):
        assert not native(name)(zeros, other).signbit().any()
    for name in ("minimumf", "minnumf"):
        assert native(name)(zeros, other).signbit().tolist() == [True, True, False]


def test_maximum_keeps_nan_and_maxnum_passes_it_over():
    a, b = torch.tensor([math.nan, 1.0, math.nan]), torch.tensor([1.0, math.nan, math.nan])
    assert native("maximumf")(a, b).isnan().all()
    assert native("maxnumf")(a, b)[:2].tolist() == [1.0, 1.0]
    assert native("minnumf")(a, b)[2].isnan()


NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8e4m3": torch.float8_e4m3fn, "fp8e5m2": torch.float8_e5m2}


@pytest.mark.parametrize("label", NARROW)
def test_every_narrow_code_widens_as_pytorch_does(label):
    codes = (
        torch.arange(256, dtype=torch.int32).to(torch.uint8) if "8" in label else torch.arange(1 << 16).to(torch.int16)
    )
    x = codes.view(NARROW[label])
    assert torch.equal(
        run_loop(f"float.{label}.fp32", torch.float32, x).nan_to_num(7.0), x.to(torch.float32).nan_to_num(7.0)
    )


@pytest.mark.parametrize("label", NARROW)
def test_narrowing_rounds_to_nearest_even(label):
    dtype = NARROW[label]
    finite = (
        torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype)
        if "8" in label
        else torch.randn(4096).to(dtype)
    )
    values = finite.to(torch.float32)
    values = values[values.isfinite()]
    ties = (values[1:] + values[:-1]) / 2
    x = torch.cat([values, ties, ties * (1 + 2**-20), torch.randn(4096) * 100, torch.tensor(SPECIAL)]).contiguous()
    expected = pointwise.to_float8(x, dtype) if "8" in label else x.to(dtype)
    got = run_loop(f"float.fp32.{label}", dtype, x)
    integer = torch.uint8 if "8" in label else torch.int16
    same = (got.view(integer) == expected.view(integer)) | x.isnan()
    assert same.all()
    assert got[x.isnan()].to(torch.float32).isnan().all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (16, 16, 16), (13, 40, 100), (64, 32, 48)])
@pytest.mark.parametrize("starts", [False, True])
def test_a_multiply_takes_its_products_in_order_with_one_rounding_each(shape, starts):
    m, k, n = shape
    generator = np.random.default_rng(1)
    a, b = (generator.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    start = generator.standard_normal((m, n)).astype(np.float32)
    total = start.copy() if starts else np.zeros((m, n), np.float32)
    for i in range(k):  # the product of two floats is exact in float64; the sum's second rounding is rarely seen
        total = (a[:, i : i + 1].astype(np.float64) * b[i : i + 1] + total).astype(np.float32)
    got = multiply(
        0, torch.from_numpy(a)[None], torch.from_numpy(b)[None], torch.from_numpy(start)[None] if starts else None
    )
    np.testing.assert_allclose(got[0].numpy(), total, rtol=0, atol=1e-6)
    assert (got[0].numpy() == total).mean() > 0.99


@pytest.mark.parametrize("columns", [1, 15, 16, 47, 48, 100])
def test_how_a_multiply_is_blocked_shows_in_no_bit(columns):
    a, b = torch.randn(1, 21, 33), torch.randn(1, 33, 100)
    whole = multiply(0, a, b, None)
    part = multiply(0, a[:, 5:6].contiguous(), b[:, :, :columns].contiguous(), None)
    assert torch.equal(whole[:, 5:6, :columns], part)
