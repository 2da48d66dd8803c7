"""Runs a function on the host and on the device and compares: values, dtypes, and no host route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

import mtia

TOLERANCES = {
    torch.float32: (1e-5, 1.3e-6),
    torch.bfloat16: (1e-3, 1.6e-2),
    torch.float16: (1e-4, 2e-3),
    torch.float64: (1e-6, 1e-6),
}


def to_device(value: Any) -> Any:
    """The same tree on the device, strides kept."""
    return tree_map_only(torch.Tensor, _move, value)


def _move(t: torch.Tensor) -> torch.Tensor:
    if t.is_contiguous() or t.numel() == 0:
        return t.to("mtia")
    span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    storage = t.as_strided((span,), (1,)).to("mtia")
    return storage.as_strided(t.shape, t.stride())


def check(function: Callable[..., Any], *arguments: Any, tolerance: tuple[float, float] | None = None) -> Any:
    """`function` on host tensors and on the same on the device: equal results, nothing computed by the host."""
    expected = function(*arguments)
    moved = to_device(arguments)
    before = mtia.host_fallbacks()
    got = function(*moved)
    after = mtia.host_fallbacks()
    assert after == before, f"host routes: { ({k: v for k, v in after.items() if before.get(k) != v}) }"
    for g, e in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        _compare(g, e, tolerance)
    return got


def _compare(got: Any, expected: Any, tolerance: tuple[float, float] | None) -> None:
    if not isinstance(expected, torch.Tensor):
        assert got == expected
        return
    assert got.device.type == "mtia"
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    atol, rtol = tolerance or TOLERANCES.get(expected.dtype, (0, 0))
    torch.testing.assert_close(got.cpu(), expected, atol=atol, rtol=rtol, equal_nan=True)
