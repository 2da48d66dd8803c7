"""What linear layers are fed by examples, on the host: mean, extremes, mean squares and second moments of their inputs.

Layers fed the same tensor (q, k, v; gate, up) share one `Inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

Run = Callable[[nn.Module], object]
"""Feeds a model its examples."""


def _nothing() -> torch.Tensor:
    return torch.zeros(())


@dataclass(slots=True)
class Inputs:
    """Of one tensor's rows x [K], float32 [K] each: sums, sums of squares, greatest and least."""

    n_rows: int = 0
    sum: torch.Tensor = field(default_factory=_nothing)
    squares: torch.Tensor = field(default_factory=_nothing)
    greatest: torch.Tensor = field(default_factory=lambda: torch.tensor(-torch.inf))
    least: torch.Tensor = field(default_factory=lambda: torch.tensor(torch.inf))

    def add(self, rows: torch.Tensor) -> None:
        self.n_rows += len(rows)
        self.sum = self.sum + rows.sum(0)
        self.squares = self.squares + (rows * rows).sum(0)
        self.greatest = torch.maximum(self.greatest, rows.amax(0))
        self.least = torch.minimum(self.least, rows.amin(0))

    @property
    def mean(self) -> torch.Tensor:
        return self.sum / max(1, self.n_rows)

    @property
    def variance(self) -> torch.Tensor:
        return (self.squares / max(1, self.n_rows) - self.mean**2).clamp_min(0)

    @property
    def largest(self) -> torch.Tensor:
        """Magnitudes about the mean."""
        return torch.maximum(self.greatest - self.mean, self.mean - self.least)

    def divided(self, scale: torch.Tensor) -> Inputs:
        """The same rows divided by `scale` [K]."""
        return Inputs(n_rows=self.n_rows, sum=self.sum / scale, squares=self.squares / scale**2,
                      greatest=self.greatest / scale, least=self.least / scale)  # fmt: skip


@dataclass(slots=True)
class Moments:
    """The sum of y y^T [K, K] over rows, y what `rounding` makes of a row."""

    rounding: Callable[[torch.Tensor], torch.Tensor]
    sum: torch.Tensor = field(default_factory=_nothing)

    def add(self, rows: torch.Tensor) -> None:
        held = self.rounding(rows)
        self.sum = self.sum + held.T @ held


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that a plan may name."""
    return {name: module for name, module in model.named_modules() if type(module) is nn.Linear}


def fed(model: nn.Module, run: Run) -> dict[str, Inputs]:
    """The inputs of every linear layer that `run(model)` reaches."""
    found: dict[str, Inputs] = {}
    last: list[tuple[torch.Tensor, Inputs]] = []

    def see(name: str, x: torch.Tensor) -> None:
        if last and last[0][0] is x:
            found.setdefault(name, last[0][1])
            return
        inputs = found.setdefault(name, Inputs())
        last[:] = [(x, inputs)]
        inputs.add(_rows(x))

    with _watched(linears(model), see), torch.no_grad():
        run(model)
    return found


def add_moments(model: nn.Module, run: Run, asked: Mapping[str, Moments]) -> None:
    """Adds what `run(model)` feeds each layer; a `Moments` that layers share is added to by the first of them alone."""
    first = {id(m): name for name, m in reversed(list(asked.items()))}

    def see(name: str, x: torch.Tensor) -> None:
        asked[name].add(_rows(x))

    layers = {name: layer for name, layer in linears(model).items() if name in first.values()}
    with _watched(layers, see), torch.no_grad():
        run(model)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.detach().reshape(-1, x.shape[-1]).float()


@contextmanager
def _watched(layers: Mapping[str, nn.Module], see: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda layer, arguments: see(name, arguments[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["Inputs", "Moments", "Run", "add_moments", "fed", "linears"]
