"""Launches past Triton's look-up: the same kernel, program and time as through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from triton import knobs

import mtia
from mtia.kernels import elementwise, matmul
from mtia.kernels.known_launch import KnownLaunch


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the launches that went through Triton, from here on."""
    found: list[str] = []

    def forget(launches: dict[Any, KnownLaunch]) -> None:
        for launch in launches.values():
            launch.programs.clear()

    forget(matmul._launches)
    forget(elementwise._plans)
    real = KnownLaunch._by_triton

    def counted(self: KnownLaunch, *arguments: Any) -> None:
        found.append(self.kernel.fn.__name__)
        real(self, *arguments)

    monkeypatch.setattr(KnownLaunch, "_by_triton", counted)
    yield found


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(n, generator=generator) for n in ((3, 40), (40, 24)))  # type: ignore[return-value]


def test_the_second_launch_goes_straight_and_gives_the_same(looked_up: list[str]) -> None:
    x, y = operands()
    on_device = x.to("mtia"), y.to("mtia")
    with mtia.session() as log:
        first, second = torch.mm(*on_device), torch.mm(*on_device)
    assert looked_up == ["mtia_matmul"]
    assert torch.equal(first.cpu(), second.cpu())
    torch.testing.assert_close(second.cpu(), x @ y, atol=1e-5, rtol=1e-5)
    assert [s.name for s in log.spans] == ["mtia_matmul"] * 2


def test_addresses_aligned_otherwise_are_looked_up(looked_up: list[str]) -> None:
    x, y = operands()
    storage = torch.zeros(x.numel() + 1)
    storage[1:] = x.view(-1)
    aligned, shifted, y_ = x.to("mtia"), storage.to("mtia")[1:].view(3, 40), y.to("mtia")
    for _ in range(2):
        assert torch.equal(torch.mm(aligned, y_).cpu(), torch.mm(shifted, y_).cpu())
    assert len(looked_up) == 3  # the first aligned one, and both shifted ones


def test_kinds_of_numbers_are_compiled_apart(looked_up: list[str]) -> None:
    x = torch.arange(8).to("mtia")
    for value in (3, 4, 1 << 40, 1 << 41, -(1 << 40)):
        assert torch.equal((x + value).cpu(), torch.arange(8) + value)
    assert len(looked_up) == 2  # one of 32 bits, one of 64


def test_a_hook_on_tritons_launches_is_told_of_each(looked_up: list[str]) -> None:
    x, y = (t.to("mtia") for t in operands())
    torch.mm(x, y)
    told: list[str] = []

    def hook(metadata: Any) -> None:
        told.append(metadata.get()["name"])

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        torch.mm(x, y)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    torch.mm(x, y)
    assert told == ["mtia_matmul"] and len(looked_up) == 2
