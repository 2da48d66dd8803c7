"""Built-in kernels: the aten operators of device="mtia", written in Triton. `register()` enters them once."""

from __future__ import annotations


def register() -> None:
    """Enter all kernels with PyTorch's dispatcher; a second call does nothing. Triton is imported here, not before."""
    from mtia.kernels.register import register_all

    register_all()
