"""GradScaler on the device does what it does on the CPU, step by step, and asks nothing of the host but the flag."""

from __future__ import annotations

import pytest
import torch

import mtia


def scales(device: str, overflow_at: set[int]) -> list[tuple[float, list[float]]]:
    """Scale and weights after each of ten steps; the gradient of some steps is infinite or not a number."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], device=device))
    other = torch.nn.Parameter(torch.ones(2000, device=device))
    optimizer = torch.optim.SGD([weight, other], lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=8.0, growth_interval=3)
    found = []
    for step in range(10):
        factor = float("inf") if step in overflow_at and step % 2 else float("nan") if step in overflow_at else 1.0
        optimizer.zero_grad()
        scaler.scale((weight * 0.5).sum() + (other.narrow(0, 1999, 1) * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append((scaler.get_scale(), weight.detach().cpu().tolist()))
    return found


@pytest.mark.parametrize("overflow_at", [set(), {0}, {3, 4}, {1, 8, 9}])
def test_scaler(overflow_at: set[int]):
    before = mtia.host_fallbacks()
    assert scales("mtia", overflow_at) == scales("cpu", overflow_at)
    assert mtia.host_fallbacks() == before
