"""Called by `import torch` (entry point `torch.backends`): make `device="mtia"` exist, cheaply, and never fail.

Only the small C++ library is loaded here. Chips, kernels and Triton wait for the first use of the device.
"""

from __future__ import annotations

import atexit
import warnings
from typing import Any

MAX_DEVICES = 72
"""Devices one process can have: a scale-up domain. More chips are more ranks (torch.distributed)."""

_registered = False


class LoadWarning(UserWarning):
    """The mtia device could not be set up; torch works without it."""


def register() -> None:
    """Register the device with torch. A failure is a warning: `import torch` must work on."""
    try:
        load()
    except Exception as error:
        warnings.warn(
            f"openMTIA could not set up device 'mtia': {type(error).__name__}: {error}. torch goes on without it; "
            f"TORCH_DEVICE_BACKEND_AUTOLOAD=0 turns this off.",
            LoadWarning,
            stacklevel=2,
        )


def load() -> None:
    """As `register`, but a failure raises."""
    global _registered
    if _registered:
        return
    from mtia import _C
    from mtia.host_runtime.torch_mtia import patches

    _C.set_device_count(_device_count())
    _C.set_callbacks(_LazyHooks())
    _C.install_allocators()
    _C.register_profiler()
    patches.install()
    atexit.register(_C.settle_gradients)
    _registered = True


def _device_count() -> int:
    from mtia import knobs
    from mtia.errors import KnobError

    count = knobs.get().device_count
    if count > MAX_DEVICES:
        raise KnobError(
            "MTIA_DEVICE_COUNT", problem="is more than one process can have", value=count,
            allowed=f"Write 1 to {MAX_DEVICES} (a scale-up domain); more chips are more ranks of torch.distributed.",
        )  # fmt: skip
    return count


class _LazyHooks:
    """Stands for `mtia.host_runtime.hooks` until its first use."""

    def __getattr__(self, name: str) -> Any:
        from mtia.host_runtime import hooks
        from mtia.host_runtime.untraced import untraced

        value = untraced(getattr(hooks, name))
        setattr(self, name, value)
        return value
