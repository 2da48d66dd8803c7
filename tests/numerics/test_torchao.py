"""MX blocks against torchao's reference, and FP8 and INT8 against torch: bit for bit where the definitions coincide.

torchao itself is no dependency (transformers would import it at every load of a model): what its `to_mx` gave for the
inputs here is kept as a digest. `pip install --no-deps --target DIR torchao==0.18.0` and
`PYTHONPATH=DIR:src python tests/numerics/test_torchao.py` prints them again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mtia.numerics import blocks as b
from mtia.numerics.blocks import ScaleRule
from mtia.numerics.formats import FP8_E4M3, FP8_E5M2, encode
from mtia.numerics.integers import quantise_rows

DIGESTS = Path(__file__).parent / "torchao_0.18.json"
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


def digest(scales: np.ndarray, codes: np.ndarray) -> str:
    """Of the scales, and of the codes of blocks that are not all zeros."""
    held = np.where((scales == 0).repeat(codes.shape[1] // scales.shape[1], axis=1), 0, codes).astype(np.uint8)
    return hashlib.sha256(scales.tobytes() + held.tobytes()).hexdigest()


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("name", ELEMENTS)
def test_codes_and_scales_are_torchaos(name: str, rule: ScaleRule):
    fmt = b.block_format(name).with_(rule=rule)
    ours = b.quantise(inputs(seed=len(name)), fmt)
    codes = b.pack_pairs(ours.codes) if fmt.element.n_bits == 4 else ours.codes
    assert digest(ours.scales, codes) == json.loads(DIGESTS.read_text())[f"{name} {rule}"]


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


def torchaos() -> dict[str, str]:
    """The digests of torchao's own results."""
    from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx  # type: ignore[import-not-found]

    found = {}
    for name, element in ELEMENTS.items():
        for rule, mode in MODES.items():
            x, cols = torch.from_numpy(inputs(seed=len(name))), b.block_format(name).cols
            scale, codes = to_mx(x, element, cols, getattr(ScaleCalculationMode, mode))
            scales = scale.view(torch.uint8).numpy().reshape(len(x), -1)
            found[f"{name} {rule}"] = digest(scales, codes.view(torch.uint8).numpy().reshape(len(x), -1))
    return found


if __name__ == "__main__":
    print(json.dumps(torchaos(), indent=1))
