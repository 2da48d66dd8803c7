"""Timings of kernels whose addresses come from memory: kept per index data, and the same as without keeping."""

from __future__ import annotations

import pytest
import torch

from mtia.host_runtime import launch, record


def _rows(index: torch.Tensor, table: torch.Tensor) -> int:
    with record.session() as log:
        torch.nn.functional.embedding(index, table)
    return log.spans[-1].duration_fs


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    original = launch.trace_launch

    def counting(request: launch.Launch) -> object:
        names.append(request.program.name)
        return original(request)

    monkeypatch.setattr(launch, "trace_launch", counting)
    return names


def test_same_indices_are_timed_once_and_others_anew(traced: list[str]) -> None:
    table = torch.zeros(4096, 256, device="mtia")
    same = torch.zeros(512, dtype=torch.int64, device="mtia")
    spread = torch.arange(0, 4096, 8).to("mtia")
    for _ in range(3):  # until SRAM holds what it will hold
        _rows(same, table)
        _rows(spread, table)
    traced.clear()
    first, second = _rows(same, table), _rows(spread, table)
    assert (_rows(same, table), _rows(spread, table)) == (first, second)
    assert traced == []
    same.fill_(7)
    traced.clear()
    _rows(same, table)
    assert len(traced) == 1
