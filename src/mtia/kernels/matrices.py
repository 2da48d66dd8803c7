"""What the matrix kernels share: batches of matrices as one flat batch, tiles that hold one, results into outputs.

A dense factorisation runs one program per matrix, the matrix padded to a tile of powers of two; larger ones are split
by recursion over columns or by blocks, in Python, over the same kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_any, tree_map_only

from mtia.host_runtime import fallback
from mtia.kernels.copy import contiguous, copy_strided
from mtia.kernels.iteration import next_power_of_2
from mtia.kernels.registry import aten

TILE_ELEMENTS = 8192
"""Elements of the largest tile: 32 KiB of float32, so that a tile and its temporaries fit a PE's local memory."""
LEAST_WIDTH = 16
"""Smaller matrices share one compilation."""


def width(n: int) -> int:
    """Elements of a tile's side that holds n."""
    return max(LEAST_WIDTH, next_power_of_2(n))


def fits(m: int, n: int) -> bool:
    """Whether an m x n matrix is one tile."""
    return width(m) * width(n) <= TILE_ELEMENTS


def flat(x: torch.Tensor) -> torch.Tensor:
    """[..., M, N] as contiguous [B, M, N]."""
    return contiguous(x).reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def unflat(x: torch.Tensor, batch: Sequence[int]) -> torch.Tensor:
    """[B, ...] as [*batch, ...]."""
    return x.reshape((*batch, *x.shape[1:]))


def new(like: torch.Tensor, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def eye(like: torch.Tensor, n: int) -> torch.Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


def deliver(found: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`found` in a caller's output, which is resized where its shape differs and keeps its strides elsewhere."""
    if out.shape != found.shape:
        out.resize_(found.shape)
    if found.numel():
        copy_strided(out, found)
    return out


def serve(*overloads: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Serve these overloads with a function of the inputs that returns the outputs, new tensors in the schema's order.

    Outputs that the overload was given receive them. Complex matrices have no kernels: the host takes them, counted.
    """

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for overload in overloads:
            aten(overload)(_served(overload, function))
        return function

    return enter


def _served(overload: str, function: Callable[..., Any]) -> Callable[..., Any]:
    packet, _, name = overload.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), name or "default")
    out_names = [a.name for a in operator._schema.arguments if a.is_out]

    def run(*args: Any, **kwargs: Any) -> Any:
        outs = [kwargs.pop(n) for n in out_names]
        if tree_any(_is_complex, (args, kwargs)):
            found = _on_host(operator, out_names, args, kwargs, outs)
        else:
            found = function(*args, **kwargs)
        if not outs:
            return found
        results = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        delivered = tuple(deliver(f, o) for f, o in zip(results, outs, strict=True))
        return delivered if len(delivered) > 1 else delivered[0]

    run.__name__ = packet
    return run


def _is_complex(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_complex()


def _on_host(operator: Any, out_names: list[str], args: tuple, kwargs: dict, outs: list[torch.Tensor]) -> Any:
    """The CPU's results, moved to the device: a host route, counted."""
    fallback.count(operator._schema.name)
    device = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)).device
    host_args, host_kwargs = tree_map_only(torch.Tensor, lambda t: t.cpu(), (args, kwargs))
    host_outs = {n: torch.empty(0, dtype=o.dtype) for n, o in zip(out_names, outs, strict=True)}
    found = operator(*host_args, **host_kwargs, **host_outs)
    return tree_map_only(torch.Tensor, lambda t: t.to(device), found)


__all__ = ["LEAST_WIDTH", "TILE_ELEMENTS", "deliver", "eye", "fits", "flat", "new", "serve", "unflat", "width"]
