"""The table of aten overloads served on the device: filled by the kernel families, read by register.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KERNELS: dict[str, Callable[..., Any]] = {}
OWN: dict[str, Callable[..., Any]] = {}
"""Operators that `csrc/gradients.cpp` defines in the namespace mtia: what PyTorch has no operator for."""


def aten(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Serve these overloads ("add.out", "fill_.Scalar") with the decorated function."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in KERNELS, f"aten::{name} registered twice"
            KERNELS[name] = function
        return function

    return enter


def own(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Serve the operator mtia::`name` with the decorated function."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        assert name not in OWN, f"mtia::{name} registered twice"
        OWN[name] = function
        return function

    return enter
