"""Registers the device's kernels with the dispatcher on first use, and counted host routes for what they leave."""

from __future__ import annotations

import torch

from mtia import _C


def register() -> None:
    """`mtia.kernels.register()`, the copy kernel, then host convolutions where no kernel took the place."""
    from mtia import kernels

    if hasattr(kernels, "register"):
        kernels.register()
        _C.set_copy_kernel(copy)
    _C.register_host_convolution()


def copy(dst: torch.Tensor, src: torch.Tensor) -> None:
    """dst[...] = src on one device. Complex pairs of one dtype are copied as pairs of reals; casts to and from complex
    go by the host, counted."""
    from mtia.kernels.copy import copy_strided

    if not (dst.is_complex() or src.is_complex()):
        copy_strided(dst, src)
    elif dst.dtype == src.dtype:
        copy_strided(torch.view_as_real(dst), torch.view_as_real(src))
    else:
        _C.host_copy(dst, src)
