"""Code that Inductor generates imports this module to be sure that the device is there."""

from __future__ import annotations

from mtia.host_runtime.torch_mtia.autoload import load

load()
