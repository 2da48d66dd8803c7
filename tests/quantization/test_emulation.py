"""The host's fast emulation holds the very numbers of the definition, and its layers those of the quantised ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mtia
from mtia.errors import UnsupportedDtype
from mtia.numerics.blocks import MXFP6_E2M3, NVFP4, ScaleRule
from mtia.quantization import emulation
from mtia.quantization.operands import numbers, quantise
from mtia.quantization.schemes import SCHEMES, scheme_named

BLOCKED = ("mx8", "mx8s", "mx4", "mxfp8", "mxfp4")
SCHEMES_AND_RULES = ["int8", "fp8", *(f"{name}:{rule}" for name in BLOCKED for rule in ScaleRule)]


def awkward(rows: int = 40, depth: int = 96) -> torch.Tensor:
    """Rows of very different size, outliers, a row of zeros, a block of zeros, powers of two and ties."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, depth, generator=random) * torch.exp2(torch.randint(-30, 30, (rows, 1), generator=random))
    x[:, 5] *= 300
    x[3] = 0
    x[:16, 32:48] = 0
    x[17] = torch.exp2(torch.arange(depth) % 24 - 12.0)
    x[18] = (torch.arange(depth) - 48) / 8
    return x


@pytest.mark.parametrize("name", SCHEMES_AND_RULES)
def test_rounded_is_the_definition(name: str) -> None:
    scheme, x = scheme_named(name), awkward()
    codes, scale = quantise(x, scheme.activation, scheme.activation_block)
    expected = numbers(codes, scale, scheme.activation, scheme.activation_block).float()
    assert torch.equal(emulation.rounded(x, scheme.activation, scheme.activation_block), expected)


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "int8-static"])
def test_an_emulated_layer_is_the_quantised_one(name: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(70, 24)), torch.randn(3, 7, 70).bfloat16().float()
    quantised = mtia.quantize(model, name)
    expected = quantised(x)
    got = emulation.emulate(copy.deepcopy(quantised))(x)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_formats_without_a_fast_way_are_refused() -> None:
    for block, word in ((MXFP6_E2M3, "e2m3"), (NVFP4, "nvfp4")):
        with pytest.raises(UnsupportedDtype, match=word):
            emulation.rounded(awkward(32, 32), block.name, block)
