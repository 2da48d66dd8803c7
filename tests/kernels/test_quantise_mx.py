"""The device's block quantiser against numerics/blocks.py, code for code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mtia
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels.quantise_mx import dequantise_mx, quantise_mx, random_bits
from mtia.numerics import blocks as b
from mtia.numerics.blocks import ScaleRule
from mtia.numerics.rounding import RANDOM_BITS, Rounding
from mtia.quantization.operands import quantise

FORMATS = (b.MX4, b.MX8, b.MX8S, b.MXFP8_E5M2, b.MXFP6_E2M3, b.MXFP6_E3M2, b.MXINT8)


def inputs(rows: int, columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, columns)) * np.exp2(random.integers(-100, 100, (rows, columns)))
    x[0] = np.linspace(-8, 8, columns)
    x[1, :32] = 0.0
    return x.astype(np.float32)


def packed(codes: np.ndarray, fmt: b.BlockFormat) -> np.ndarray:
    return b.pack_pairs(codes) if fmt.element.n_bits == 4 else codes


def device_codes(x: np.ndarray, fmt: b.BlockFormat, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    q, scale = quantise_mx(torch.from_numpy(x).to("mtia"), fmt, seed=seed)
    return q.view(torch.uint8).cpu().numpy(), scale.view(torch.uint8).cpu().numpy()


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_codes_and_scales_are_the_definitions(fmt: b.BlockFormat, rule: ScaleRule) -> None:
    fmt = fmt.with_(rule=rule)
    x = inputs(32, 96, seed=1)
    with mtia.use("mtia400"):
        codes, scales = device_codes(x, fmt)
    expected = b.quantise(x, fmt)
    np.testing.assert_array_equal(scales, expected.scales)
    np.testing.assert_array_equal(codes, packed(expected.codes, fmt))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_marks_its_block(bad: float) -> None:
    x = torch.ones(16, 64)
    x[3, 20] = bad
    with mtia.use("mtia400"):
        _, scale = quantise_mx(x.to("mtia"), b.MX8)
    assert scale.cpu()[3].tolist() == [119, 255, 119, 119]


def test_there_and_back_is_the_definition() -> None:
    x = inputs(48, 64, seed=2)
    with mtia.use("mtia400"):
        back = dequantise_mx(*quantise_mx(torch.from_numpy(x).to("mtia"), b.MX8S), b.MX8S, torch.float32).cpu()
    np.testing.assert_array_equal(back.numpy(), b.round_blocks(x, b.MX8S))


class Drawn:
    """A generator that gives out bits drawn before."""

    def __init__(self, bits: np.ndarray) -> None:
        self.bits = bits

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> np.ndarray:
        assert (low, high) == (0, 1 << RANDOM_BITS)
        return self.bits.reshape(size)


@pytest.mark.parametrize("fmt", b.BLOCK_FORMATS.values(), ids=lambda f: f.name)
def test_stochastic_codes_are_the_definitions_for_the_bits_drawn(fmt: b.BlockFormat) -> None:
    fmt = fmt.with_(rounding=Rounding.STOCHASTIC)
    x = inputs(32, 96, seed=3)
    with mtia.use("mtia300"):
        codes, scale = device_codes(x, fmt, seed=11)
        bits = random_bits(x.size, 11, "mtia").cpu().numpy()
    expected = b.quantise(x, fmt, random=Drawn(bits))  # type: ignore[arg-type]
    np.testing.assert_array_equal(scale, expected.scales)
    np.testing.assert_array_equal(codes, packed(expected.codes, fmt))


@pytest.mark.parametrize("fmt", [b.MX8, b.MX4, b.MXINT8], ids=lambda f: f.name)
def test_the_mean_of_stochastic_roundings_is_the_number(fmt: b.BlockFormat) -> None:
    """4096 blocks of one number under a scale that its neighbour 1 sets: within four standard deviations, and bits
    drawn for another seed are others."""
    x = np.full((4096, fmt.cols), 0.3, dtype=np.float32)
    x[:, 0] = 1.0
    fmt = fmt.with_(rounding=Rounding.STOCHASTIC)
    with mtia.use("mtia300"):
        codes, scales = device_codes(x, fmt, seed=1)
        other, _ = device_codes(x, fmt, seed=2)
    elements = b.unpack_pairs(codes) if fmt.element.n_bits == 4 else codes
    back = b.dequantise(b.BlockTensor(codes=elements, scales=scales, fmt=fmt))[:, 1:]
    assert len(np.unique(back)) == 2 and (codes != other).any()
    deviation = np.ptp(back) / 2 / np.sqrt(back.size)
    assert abs(back.mean() - np.float64(np.float32(0.3))) < 4 * deviation


# --- every bit pattern ------------------------------------------------------------------------------------------------


def every_bfloat16() -> np.ndarray:
    """The finite ones, float32 [2040, 32], neighbours side by side."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    return every[torch.isfinite(every)].numpy().reshape(-1, 32)


@pytest.mark.parametrize("fmt", ["int8", "fp8"])
def test_every_bfloat16_in_rows_becomes_the_definitions_code(fmt: str) -> None:
    x = torch.from_numpy(every_bfloat16())
    with mtia.use("mtia400"):
        there = [t.cpu() for t in quantise(x.to("mtia"), fmt, None)]
    for got, expected in zip(there, quantise(x, fmt, None), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("fmt", b.BLOCK_FORMATS.values(), ids=lambda f: f.name)
def test_every_bfloat16_becomes_the_definitions_code(fmt: b.BlockFormat) -> None:
    """All 65,280 finite bfloat16 numbers in blocks of numbers alike, under the rule that never saturates and its own."""
    rows = np.pad(every_bfloat16(), ((0, 8), (0, 0)))
    for rule in (fmt.rule, ScaleRule.FIT):
        changed = fmt.with_(rule=rule)
        with mtia.use("mtia400"):
            codes, scales = device_codes(rows, changed)
        expected = b.quantise(rows, changed)
        np.testing.assert_array_equal(scales, expected.scales)
        np.testing.assert_array_equal(codes, packed(expected.codes, changed))


def test_nvfp4_takes_a_tensors_scale() -> None:
    x = inputs(16, 64, seed=5)
    with mtia.use("mtia400"):
        given = torch.tensor([0.25], device="mtia")
        q, scale = quantise_mx(torch.from_numpy(x).to("mtia"), b.NVFP4, tensor_scale=given)
    expected = b.quantise(x, b.NVFP4, tensor_scale=0.25)
    np.testing.assert_array_equal(scale.view(torch.uint8).cpu().numpy(), expected.scales)
    np.testing.assert_array_equal(q.cpu().numpy(), b.pack_pairs(expected.codes))


def test_what_has_no_kernel_says_what_has() -> None:
    with pytest.raises(BadProblem, match="rounding = 'toward-zero'; nearest-even, or stochastic where the SFU has it"):
        quantise_mx(torch.zeros(1, 32), b.MX8.with_(rounding=Rounding.TOWARD_ZERO))
    with pytest.raises(BadProblem, match="depth = 40; a multiple of 16"):
        quantise_mx(torch.zeros(1, 40), b.MX8)


@pytest.mark.parametrize("chip", ["mtia100", "mtia200"])
def test_stochastic_rounding_is_refused_where_the_simd_engine_has_none(chip: str) -> None:
    said = rf"{chip} has no stochastic rounding; it supports nearest-even.*since MTIA 300.*In software: .*passes"
    with mtia.use(chip), pytest.raises(UnsupportedDtype, match=said):
        quantise_mx(torch.zeros(1, 32, device="mtia"), b.MXINT8.with_(rounding=Rounding.STOCHASTIC))
