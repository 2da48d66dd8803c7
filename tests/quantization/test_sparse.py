"""2:4 sparse weights: compressed and spread out again, products equal to dense ones, rate and bytes, refusals."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mtia
from mtia import knobs
from mtia.engine.functional import executor
from mtia.engine.timeline import KernelTiming
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.host_runtime import silicon
from mtia.host_runtime.launch import residency_of
from mtia.host_runtime.record import session
from mtia.kernels.scaled_matmul import multiply_rows
from mtia.kernels.sparse_matmul import multiply_sparse
from mtia.quantization.sparse import DTYPES, SparseLinear, SparseWeight, prune, sparsify


def layer(k: int = 96, n: int = 48) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(k, n)


def inputs(k: int = 96) -> torch.Tensor:
    return torch.randn(37, k, generator=torch.Generator().manual_seed(1))


def test_every_pattern_of_two_of_four_comes_back() -> None:
    """All 11 patterns of at most two, in every pair of neighbours (a byte of places)."""
    patterns = [p for p in product((0, 1), repeat=4) if sum(p) <= 2]
    rows = torch.tensor([[*a, *b] * 2 for a in patterns for b in patterns], dtype=torch.float32)
    weight = rows * torch.arange(1, 17)
    held = SparseWeight.of(weight)
    assert len(patterns) == 11 and torch.equal(held.dense(), weight)
    assert held.places.shape == (2, 121) and held.values.shape == (121, 8)


def test_prune_keeps_the_two_largest_of_four() -> None:
    w = torch.tensor([[1.0, -3.0, 2.0, 0.5, 4.0, 4.0, 4.0, 4.0]])
    assert prune(w).tolist() == [[0.0, -3.0, 2.0, 0.0, 4.0, 4.0, 0.0, 0.0]]
    random = torch.randn(64, 64)
    assert torch.equal(prune(prune(random)), prune(random))
    assert (prune(random).view(64, 16, 4) != 0).sum(-1).max() == 2


def pruned(form: str, n: int, k: int) -> torch.Tensor:
    w = prune(torch.randn(n, k, generator=torch.Generator().manual_seed(2)) * 40)
    return w.clamp(-127, 127).round().to(torch.int8) if form == "int8" else w.to(DTYPES[form])


@pytest.mark.parametrize("shape", [(37, 48, 96), (1, 130, 208)], ids=str)
@pytest.mark.parametrize("form", DTYPES)
def test_products_are_the_dense_ones_with_the_zeros(form: str, shape: tuple[int, int, int]) -> None:
    """Bit for bit: a zero's product adds nothing. In the interpreter and in the native executor."""
    M, N, K = shape
    w = pruned(form, N, K)
    held = SparseWeight.of(w)
    x = (torch.randn(M, K, generator=torch.Generator().manual_seed(3)) * 20).round().to(DTYPES[form])
    with mtia.use("mtia200"):
        there, values, places = (t.to("mtia") for t in (x, held.values, held.places))
        out, dense, defined = (torch.empty(M, N, device="mtia") for _ in range(3))
        before = executor.counts.copy()
        multiply_sparse(there, values, places, None, None, out)
        assert (executor.counts - before)["interpreted"] == 0
        with knobs.scope(interpret=True):
            multiply_sparse(there, values, places, None, None, defined)
        one = torch.ones(1, device="mtia")
        if form == "int8":
            multiply_rows(there, w.to("mtia"), one, one, None, dense)
        else:
            dense = torch.mm(there, w.to("mtia").t(), out_dtype=torch.float32)
    assert torch.equal(out.cpu(), dense.cpu()) and torch.equal(out.cpu(), defined.cpu())


@pytest.mark.parametrize("form", DTYPES)
def test_layers_compute_the_definition(form: str) -> None:
    host = sparsify(nn.Sequential(layer(90)), form)
    assert isinstance(host[0], SparseLinear)  # type: ignore[index]
    with mtia.use("mtia200"), torch.no_grad():
        before = mtia.host_fallbacks()
        got = copy.deepcopy(host).to("mtia")(inputs(90).to("mtia"))
        assert mtia.host_fallbacks() == before
    torch.testing.assert_close(got.cpu(), host(inputs(90)), atol=2e-5, rtol=1e-5)


# --- time on MTIA 200 -------------------------------------------------------------------------------------------------


def timed(M: int, N: int, K: int, form: str, *, sparse: bool, cold: bool) -> KernelTiming:
    def new(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="mtia")

    x, out, one = new(M, K, dtype=DTYPES[form]), new(M, N, dtype=torch.float16), new(1, dtype=torch.float32)
    values, places = new(N, K // 2, dtype=DTYPES[form]), new(K // 8, N, dtype=torch.uint8)
    w = new(N, K, dtype=DTYPES[form])

    def launch() -> Any:
        if sparse:
            return multiply_sparse(x, values, places, None, None, out)
        return torch.mm(x, w.t(), out=out) if form != "int8" else multiply_rows(x, w, one, one, None, out)

    launch()
    if cold:
        residency_of(0, silicon.chip()).clear()
    with session() as done:
        launch()
    timing = done.spans[-1].work.timing
    assert timing is not None
    return timing


@pytest.mark.parametrize(("form", "published"), [("int8", 708e12), ("fp16", 354e12)])
def test_mtia200_multiplies_sparse_weights_at_twice_its_dense_rate(form: str, published: float, tmp_path: Path) -> None:
    """4096 cubed, operands in SRAM where they fit."""
    n = 4096
    with knobs.scope(values=False, cache_dir=tmp_path), silicon.use("mtia200"):
        sparse, dense = (timed(n, n, n, form, sparse=s, cold=False) for s in (True, False))
    rate = sparse.flop / (sparse.makespan_fs / 1e15)
    print(
        f"{form}: {rate / 1e12:.0f} T/s of {published / 1e12:.0f}; {dense.makespan_fs / sparse.makespan_fs:.2f} x dense"
    )
    assert sparse.flop == dense.flop == 2 * n**3
    assert 0.8 * published < rate < published
    assert 1.7 < dense.makespan_fs / sparse.makespan_fs < 2


@pytest.mark.parametrize(("form", "share"), [("int8", 0.625), ("fp16", 0.5625)])
def test_decode_reads_the_compressed_bytes(form: str, share: float, tmp_path: Path) -> None:
    n = 8192
    with knobs.scope(values=False, cache_dir=tmp_path), silicon.use("mtia200"):
        sparse, dense = (timed(1, n, n, form, sparse=s, cold=True) for s in (True, False))
    assert sparse.dram_read_bytes == pytest.approx(share * dense.dram_read_bytes, rel=0.01)
    assert sparse.makespan_fs / dense.makespan_fs == pytest.approx(share, rel=0.1)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["mtia100", "mtia300", "mtia400", "mtia450", "mtia500"])
def test_other_generations_refuse(chip: str) -> None:
    model = sparsify(nn.Sequential(layer()), "fp16")
    said = (
        rf"{chip} has no 2:4 sparse weights in fp16; it supports dense .*is supported since MTIA 200 \(2i\), on which "
        r"alone they are published\. In software: spread the weights out to dense ones .* at [\d.]+ [TP]FLOP/s in fp16; "
        r"MTIA 200 \(2i\) has 354 TFLOP/s"
    )
    with mtia.use(chip), torch.no_grad(), pytest.raises(UnsupportedDtype, match=said):
        model.to("mtia")(inputs().to("mtia"))


def test_errors_name_the_group() -> None:
    with pytest.raises(
        BadProblem, match=r"weight = \[1.0, 1.0, 1.0, 1.0\]; two of four not zero, at row 0, columns 0 on"
    ):
        SparseWeight.of(torch.ones(2, 16))
    with pytest.raises(BadProblem, match=r"shape = \(2, 6\); \[rows, a multiple of 4\]"):
        prune(torch.ones(2, 6))
    with pytest.raises(BadProblem, match="format = 'mx4'; known: bf16, fp16, int8"):
        SparseLinear(layer(), "mx4")
