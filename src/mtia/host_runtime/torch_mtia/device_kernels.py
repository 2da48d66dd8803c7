"""Registers the device's kernels with the dispatcher on first use, and counted host routes for what they leave."""

from __future__ import annotations

from mtia import _C


def register() -> None:
    """`mtia.kernels.register()`, then host convolutions where no kernel took the place."""
    from mtia import kernels

    if hasattr(kernels, "register"):
        kernels.register()
    _C.register_host_convolution()
