"""How long the engine itself takes. CPU time of this process, so that a busy machine does not fail the test."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mtia
from mtia import knobs
from mtia.host_runtime import launch
from mtia.host_runtime.launch import residency_of


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def test_a_new_2048_cubed_matmul_is_timed_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tiling choice and compilation included, nothing on disk; the process has multiplied other matrices before."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch, "_compiled", {})
    with knobs.scope(values=False, cache_dir=tmp_path), mtia.use("mtia200"):
        x = torch.empty(1024, 1024, dtype=torch.bfloat16, device="mtia")
        torch.mm(x, x)
        x = torch.empty(2048, 2048, dtype=torch.bfloat16, device="mtia")
        spent = cpu_seconds(lambda: torch.mm(x, x))
    print(f"torch.mm 2048^3, values off, first time: {spent:.2f} s")
    assert spent < 1.0


def test_a_cached_launch_is_timed_within_a_hundred_microseconds(monkeypatch: pytest.MonkeyPatch):
    """With 300 other tensors in SRAM, as in a model; the median of a thousand."""
    spent: list[float] = []
    plain = launch._timed

    def watched(*arguments):
        start = time.perf_counter()
        timed = plain(*arguments)
        spent.append(time.perf_counter() - start)
        return timed

    with knobs.scope(values=False), mtia.use("mtia200") as spec:
        others = [torch.empty(65536 + i, dtype=torch.float16, device="mtia") for i in range(302)]
        for t in others:
            residency_of(0, spec).touch(t.data_ptr(), t.data_ptr() + t.nbytes, written=False)
        x = torch.empty(512, 512, dtype=torch.bfloat16, device="mtia")
        out = torch.empty_like(x)
        for _ in range(3):
            torch.mm(x, x, out=out)
        monkeypatch.setattr(launch, "_timed", watched)
        for _ in range(1000):
            torch.mm(x, x, out=out)
        assert len(residency_of(0, spec).segments) >= 300
    median = statistics.median(spent)
    print(f"cached launch timed in {1e6 * median:.0f} us")
    assert len(spent) == 1000 and median < 100e-6
