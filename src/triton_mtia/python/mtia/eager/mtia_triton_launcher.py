"""Launching Triton kernels without torch.compile."""

from __future__ import annotations


def init() -> None:
    """Makes sure that Triton launches on MTIA. Raises RuntimeError where another driver is active."""
    from triton.runtime import driver

    target = driver.active.get_current_target()
    backend = target.backend if target is not None else "none"
    if backend != "mtia":
        raise RuntimeError(
            f"Triton's active driver is {backend!r}, not 'mtia': another device was found first. "
            "Call triton.runtime.driver.set_active with the mtia driver, or hide the other device."
        )


__all__ = ["init"]
