"""openMTIA: PyTorch's `mtia` device on simulated silicon.

    mtia.use("mtia400")          which chip `device="mtia"` is (also a context manager)
    mtia.chip()                  its ChipSpec
    mtia.simulated_time_s()      the simulated clock
    mtia.quantize(model, plan)   linear layers in INT8, FP8, MX8, MX4
    mtia.host_fallbacks()        operators the host computed, counted
    mtia.graphed(f, *examples)   f captured in a device graph and replayed

Importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "use": ("mtia.host_runtime.silicon", "use"),
    "chip": ("mtia.host_runtime.silicon", "chip"),
    "simulated_time_s": ("mtia.host_runtime.clock", "simulated_time_s"),
    "host_fallbacks": ("mtia.host_runtime.fallback", "counts"),
    "reset_host_fallbacks": ("mtia.host_runtime.fallback", "reset"),
    "session": ("mtia.host_runtime.record", "session"),
    "graphed": ("mtia.host_runtime.graphed", "graphed"),
    "quantize": ("mtia.quantization.quantize", "quantize"),
}
"""Public names that live in modules loaded on first use."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mtia' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
