"""Gradients of operators that are compositions of others: by differentiating the composition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_AUTOGRAD = ("AutogradFunctionality", "AutogradOther", "AutogradMTIA", "ADInplaceOrView")


@contextmanager
def recording() -> Iterator[None]:
    """Autograd on, although the dispatcher is below it: what runs inside is recorded."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for name in _AUTOGRAD:
        key = getattr(torch._C.DispatchKey, name, None)
        excluded = excluded if key is None else excluded.remove(key)
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


def gradients(
    function: Callable[..., Any], inputs: tuple[torch.Tensor, ...], grad_output: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """d function(*inputs) / d inputs, weighted by `grad_output`; zeros where an input plays no part."""
    with recording():
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        found = torch.autograd.grad(function(*leaves), leaves, grad_output, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True))


def linear_gradient(
    function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...], grad_output: torch.Tensor
) -> torch.Tensor:
    """As `gradients`, of a function that is linear in one input of `shape`: its values do not matter."""
    x = torch.zeros(shape, dtype=grad_output.dtype, device=grad_output.device)
    return gradients(function, (x,), grad_output)[0]


def deliver(found: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`found` in the caller's `out`, resized to fit."""
    if tuple(out.shape) != tuple(found.shape):
        out.resize_(found.shape)
    return out.copy_(found)


__all__ = ["deliver", "gradients", "linear_gradient", "recording"]
