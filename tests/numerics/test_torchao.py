"""MX blocks against torchao's reference, and FP8 against torch: bit for bit where the definitions coincide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtia.numerics import blocks as b
from mtia.numerics.blocks import BlockFormat, ScaleRule
from mtia.numerics.formats import FP8_E4M3, FP8_E5M2, encode
from mtia.numerics.integers import quantise_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # torchao warns about extensions for other devices
mx_tensor = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
ELEMENTS = {
    "mxfp8e4m3": torch.float8_e4m3fn, "mxfp8e5m2": torch.float8_e5m2, "mxfp6e2m3": "fp6_e2m3", "mxfp6e3m2": "fp6_e3m2",
    "mxfp4": torch.float4_e2m1fn_x2, "mx4": torch.float4_e2m1fn_x2, "mx8": torch.float8_e4m3fn,
}  # fmt: skip
MODES = {ScaleRule.FLOOR: "FLOOR", ScaleRule.CEIL: "CEIL", ScaleRule.EVEN: "EVEN", ScaleRule.FIT: "RCEIL"}


def inputs(seed: int, size: int = 32 * 1024) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = random.standard_normal(size) * np.exp2(random.integers(-20, 20, size))
    x[::97] = 0.0
    x[64:96] = 0.0  # a block of nothing
    x[128:160] = 2.0 ** np.arange(32)
    return x.astype(np.float32).reshape(64, -1)


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("name", ELEMENTS)
def test_codes_and_scales_are_torchaos(name: str, rule: ScaleRule):
    fmt = b.block_format(name).with_(rule=rule)
    x = inputs(seed=len(name))
    ours = b.quantise(x, fmt)
    scale, data = mx_tensor.to_mx(
        torch.from_numpy(x), ELEMENTS[name], fmt.cols, getattr(mx_tensor.ScaleCalculationMode, MODES[rule])
    )
    np.testing.assert_array_equal(ours.scales, scale.view(torch.uint8).numpy().reshape(ours.scales.shape))
    theirs = data.view(torch.uint8).numpy()
    mine = b.pack_pairs(ours.codes) if fmt.element.n_bits == 4 else ours.codes
    same = mine == theirs
    block_is_zero = (ours.scales == 0).repeat(mine.shape[1] // ours.scales.shape[1], axis=1)
    assert same[~block_is_zero].all()


@pytest.mark.parametrize(("fmt", "dtype"), [(FP8_E4M3, torch.float8_e4m3fn), (FP8_E5M2, torch.float8_e5m2)])
def test_fp8_of_every_bfloat16_is_torchs_within_range(fmt, dtype: torch.dtype):
    every = np.arange(1 << 16, dtype=np.uint16).astype(np.uint32) << 16
    x = every.view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) <= fmt.largest)]
    torchs = torch.from_numpy(x).to(dtype).view(torch.uint8).numpy()
    np.testing.assert_array_equal(encode(x, fmt, saturate=True), torchs)


def test_int8_rows_are_torchs_symmetric_quantisation():
    x = inputs(seed=5)
    q, scale = quantise_rows(x)
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(x), torch.from_numpy(scale[:, 0]), torch.zeros(len(x), dtype=torch.int32), 0, -128, 127
    )
    np.testing.assert_allclose(q * scale, expected.numpy(), rtol=1e-6)


def test_rules_cover_every_mode_of_torchao():
    assert {m.name for m in mx_tensor.ScaleCalculationMode} == set(MODES.values())


def test_mx_names_are_torchaos_where_ours_is_a_block_of_32():
    widths: set[BlockFormat] = {f for f in b.BLOCK_FORMATS.values() if f.cols == 32 and f.rows == 1}
    assert {f.name for f in widths} - set(ELEMENTS) == {"mxint8"}, "torchao has no MXINT8"
