"""The weight-stationary layer: values as a matrix product's, weights read once."""

from __future__ import annotations

import pytest
import torch

import mtia
from mtia.chips import load
from mtia.kernels.weight_stationary import choose_panel, fc_weight_stationary


@pytest.mark.parametrize("M, K, N", [(64, 256, 128), (40, 200, 72), (1, 64, 33)])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float16])
def test_values(M: int, K: int, N: int, dtype: torch.dtype):
    x, w = torch.randint(-8, 8, (M, K)).to(dtype), torch.randint(-8, 8, (N, K)).to(dtype)
    with mtia.use("mtia100"):
        got = fc_weight_stationary(x.to("mtia"), w.to("mtia").t()).cpu()
    assert torch.equal(got.double(), x.double() @ w.double().t())  # small integers: exact in any order


@pytest.mark.parametrize("chip", ["mtia100", "mtia200", "mtia400"])
@pytest.mark.parametrize("size", [256, 1024, 4096])
@pytest.mark.parametrize("element_bytes", [1, 2])
def test_a_panel_fits_local_memory_and_no_pe_has_much_more_than_its_share(chip: str, size: int, element_bytes: int):
    spec = load(chip)
    p = choose_panel(128, size, size, element_bytes, spec)
    assert p.k * p.n * element_bytes + 2 * p.m * (p.k * element_bytes + 4 * p.n) <= spec.pe.local_memory_bytes
    rounds = -(-(-(-size // p.k) * -(-size // p.n)) // spec.grid.n_pes)
    assert rounds * p.k * p.n <= max(1.5 * size * size / spec.grid.n_pes, 64 * 64)
