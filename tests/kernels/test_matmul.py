"""Matrix products on the device against the host, and the choice of tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import mtia
from mtia import chips, knobs
from mtia.kernels import tiling

from .on_device import check


def matrix(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 64, 48), (33, 70, 50), (128, 256, 64)])
def test_products(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    M, K, N = shape
    x, w, b = matrix(M, K, dtype=dtype), matrix(N, K, dtype=dtype), matrix(N, dtype=dtype)
    loose = (1e-4, 1e-4) if dtype == torch.float32 else (0.15, 2e-2)
    check(lambda x, w, b: (x @ w.t(), F.linear(x, w, b)), x, w, b, tolerance=loose)
    check(lambda x, w, b: torch.addmm(b, x, w.t(), beta=2, alpha=0.5), x, w, b, tolerance=loose)
    check(lambda x, w: (x.t() @ x, torch.mv(w, x[0]), torch.dot(x[0], w[0])), x, w, tolerance=loose)


def test_batches() -> None:
    x, y, c = matrix(6, 5, 17), matrix(6, 17, 9), matrix(5, 9)
    check(
        lambda x, y, c: (x @ y, torch.baddbmm(c, x, y), x @ y[0], torch.einsum("bik,bkj->bj", x, y)),
        x,
        y,
        c,
        tolerance=(1e-4, 1e-4),
    )
    check(lambda x: x.transpose(1, 2) @ x, x, tolerance=(1e-4, 1e-4))


def test_integers() -> None:
    a = torch.randint(-9, 9, (33, 40), dtype=torch.int8)
    b = torch.randint(-9, 9, (40, 24), dtype=torch.int8)
    with mtia.use("mtia200"):
        check(torch._int_mm, a, b)
    check(torch.mm, a.long()[:8], b.long()[:, :8])


def test_empty_depth() -> None:
    check(torch.mm, torch.zeros(3, 0), torch.zeros(0, 4))


def test_gradients() -> None:
    def run(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        F.linear(x, w).square().sum().backward()
        return x.grad, w.grad

    check(run, matrix(7, 5), matrix(3, 5), tolerance=(1e-4, 1e-4))


@pytest.mark.parametrize("chip", ["mtia100", "mtia200", "mtia300", "mtia500"])
def test_legal_tilings_fit_local_memory(chip: str) -> None:
    spec = chips.load(chip)
    for problem in ((1, 1, 576, 576), (1, 512, 2048, 2048), (12, 128, 128, 64)):
        found = tiling.legal_tilings(*problem, torch.bfloat16, spec)
        assert 0 < len(found) <= tiling.MOST_CANDIDATES
        assert all(2 * (t.m + t.n) * t.k * 2 < spec.pe.local_memory_bytes for t in found)


def forget() -> None:
    tiling._chosen.clear()
    tiling._loaded.clear()


def test_the_fastest_tiling_is_taken_and_kept(tmp_path: Path) -> None:
    asked = []

    def cost(t: tiling.Tiling) -> float:
        return abs(t.m - 32) + abs(t.n - 128) + t.k / 1000

    def time_of(t: tiling.Tiling) -> float:
        asked.append(t)
        return cost(t)

    with knobs.scope(cache_dir=tmp_path):
        forget()
        problem = (1, 301, 407, 512, torch.bfloat16, ("test",))
        best = tiling.choose_tiling(*problem, time_of)
        assert best == min(asked, key=cost)
        asked.clear()
        forget()
        assert tiling.choose_tiling(*problem, time_of) == best
        assert not asked
    forget()
