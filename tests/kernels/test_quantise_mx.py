"""The device's block quantiser against numerics/blocks.py, code for code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mtia
from mtia.errors import BadProblem
from mtia.kernels.quantise_mx import dequantise_mx, quantise_mx
from mtia.numerics import blocks as b
from mtia.numerics.blocks import ScaleRule

FORMATS = (b.MX4, b.MX8, b.MX8S, b.MXFP8_E5M2, b.MXFP4)


def inputs(rows: int, columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, columns)) * np.exp2(random.integers(-100, 100, (rows, columns)))
    x[0] = np.linspace(-8, 8, columns)
    x[1, :32] = 0.0
    return x.astype(np.float32)


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_codes_and_scales_are_the_definitions(fmt: b.BlockFormat, rule: ScaleRule) -> None:
    fmt = fmt.with_(rule=rule)
    x = inputs(32, 96, seed=1)
    with mtia.use("mtia400"):
        q, scale = quantise_mx(torch.from_numpy(x).to("mtia"), fmt)
        codes, scales = q.view(torch.uint8).cpu().numpy(), scale.cpu().numpy()
    expected = b.quantise(x, fmt)
    np.testing.assert_array_equal(scales, expected.scales)
    packed = b.pack_pairs(expected.codes) if fmt.element.n_bits == 4 else expected.codes
    np.testing.assert_array_equal(codes, packed)


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


def test_what_has_no_kernel_says_what_has() -> None:
    with pytest.raises(BadProblem, match="format = 'mxfp6e2m3'; E2M1, E4M3 or E5M2 elements under E8M0"):
        quantise_mx(torch.zeros(1, 32), b.MXFP6_E2M3)
    with pytest.raises(BadProblem, match="depth = 40; a multiple of 16"):
        quantise_mx(torch.zeros(1, 40), b.MX8)
