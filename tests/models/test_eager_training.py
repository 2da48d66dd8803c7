"""Eager training on the device follows the host: losses of some AdamW steps, no operator on the host."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import mtia
from mtia.architectures.configs import build

STEPS = 3


def losses(model: torch.nn.Module, loss_of: Callable[[torch.nn.Module], torch.Tensor]) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(loss.item())
    return found


def compare(
    model: torch.nn.Module, loss_on: Callable[[str], Callable[[torch.nn.Module], torch.Tensor]], rtol: float = 2e-4
) -> None:
    expected = losses(copy.deepcopy(model), loss_on("cpu"))
    device_model = copy.deepcopy(model).to("mtia")
    before = mtia.host_fallbacks()
    got = losses(device_model, loss_on("mtia"))
    after = mtia.host_fallbacks()
    assert after == before, {k: v for k, v in after.items() if before.get(k) != v}
    assert got == pytest.approx(expected, rel=rtol)
    assert got[-1] < got[0]


def test_mlp() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(24, 40), torch.nn.LayerNorm(40), torch.nn.GELU(), torch.nn.Linear(40, 5)
    )
    x, y = torch.randn(16, 24), torch.randint(0, 5, (16,))
    compare(model, lambda device: lambda m: F.cross_entropy(m(x.to(device)), y.to(device)))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_language_model(name: str) -> None:
    model, inputs = build(name)
    ids = inputs["input_ids"]

    def loss_on(device: str) -> Callable[[torch.nn.Module], torch.Tensor]:
        return lambda m: m(input_ids=ids.to(device), labels=ids.to(device), use_cache=False).loss

    compare(model.train(), loss_on)


def test_convolution() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(8, 4, 2, stride=2),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 8 * 8, 3),
    )
    x, y = torch.randn(4, 3, 8, 8), torch.randint(0, 3, (4,))
    compare(model, lambda device: lambda m: F.cross_entropy(m(x.to(device)), y.to(device)))
