"""What each layer's rounding costs the model's predictions, measured by one pass forward and back over example text.

To second order the divergence of the rounded model from the exact one is half of d^T F d, d what rounding adds to a
layer's output and F the Fisher information of the next token about it: the mean of g g^T, g the gradient of the
log-likelihood of tokens drawn from the model's own prediction. One backward pass gives (g . d)^2 of every layer and
token at once; rounding errors of different layers are taken as independent.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """`divergence_nats`: estimated Kullback-Leibler divergence a token when this layer alone is rounded; `n_mac`:
    multiplies of the layer a token."""

    layer: str
    divergence_nats: float
    n_mac: int


def sensitivities(
    model: nn.Module, rounded: Mapping[str, nn.Module], tokens: torch.Tensor, *, seed: int = 0
) -> list[Sensitivity]:
    """Of each layer of `rounded` (its stand-in by name), over int64 tokens [windows, length], worst first.

    `model` gives `.logits`; its weights stay as they are. `seed`: of the tokens drawn.
    """
    total, random = dict.fromkeys(rounded, 0.0), torch.Generator().manual_seed(seed)
    handles = [model.get_submodule(name).register_forward_hook(_hook(name, stand_in, total))
               for name, stand_in in rounded.items()]  # fmt: skip
    embedding = model.get_input_embeddings()
    handles.append(embedding.register_forward_hook(lambda layer, inputs, out: out.requires_grad_()))
    try:
        for window in tokens:
            log_p = torch.log_softmax(model(window[None]).logits[0].float(), -1)
            drawn = torch.multinomial(log_p.detach().exp(), 1, generator=random)
            log_p.gather(1, drawn).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    found = [
        Sensitivity(layer=name, divergence_nats=0.5 * value / tokens.numel(), n_mac=_n_mac(model.get_submodule(name)))
        for name, value in total.items()
    ]
    return sorted(found, key=lambda s: -s.divergence_nats)


def _hook(name: str, stand_in: nn.Module, total: dict[str, float]) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple[Any, ...], out: torch.Tensor) -> None:
        with torch.no_grad():
            added = stand_in(inputs[0]) - out
        out.register_hook(lambda gradient: add((gradient * added).sum(-1)))

    def add(per_token: torch.Tensor) -> None:
        total[name] += float((per_token.double() ** 2).sum())

    return hook


def _n_mac(layer: nn.Module) -> int:
    return layer.in_features * layer.out_features  # type: ignore[operator]


__all__ = ["Sensitivity", "sensitivities"]
