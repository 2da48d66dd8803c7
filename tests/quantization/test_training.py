"""Low-precision training: gradients near the exact ones, the same parameters, device equal to the host's definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mtia
from mtia.errors import BadProblem
from mtia.quantization.training import train_in

E4M3_CHAIN = 6**0.5 * 2.0**-4 / 3**0.5
"""Six quantised operands lie behind the first layer's gradient, each off by at most 2**-4 of itself, evenly spread."""
LIMIT = {"fp8": E4M3_CHAIN, "mx8:fit": E4M3_CHAIN, "mx8s:fit": E4M3_CHAIN, "int8": 0.03}


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    (model(x) ** 2).mean().backward()
    return [p.grad.detach().cpu().clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", LIMIT)
def test_gradients_are_near_the_exact_ones(name: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(40, 48), nn.Tanh(), nn.Linear(48, 24)), torch.randn(20, 40)
    exact = gradients(model, x)
    parameters = {id(p) for p in model.parameters()}
    low = gradients(train_in(model, name), x)
    assert {id(p) for p in model.parameters()} == parameters
    for a, b in zip(exact, low, strict=True):
        assert 0 < (a - b).norm() / a.norm() < LIMIT[name]


def test_the_device_takes_the_hosts_step() -> None:
    torch.manual_seed(0)
    model, x = train_in(nn.Sequential(nn.Linear(48, 32)), "mx8s"), torch.randn(20, 48)
    expected = gradients(model, x)
    with mtia.use("mtia400"):
        got = gradients(model.to("mtia"), x.to("mtia"))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-4)  # the loss's gradient itself rounds differently there


def test_a_format_that_is_not_trained_in_names_those_that_are() -> None:
    with pytest.raises(BadProblem, match="format = 'mx4'; known: fp8, mx8, mx8s, int8"):
        train_in(nn.Sequential(nn.Linear(4, 4)), "mx4")
