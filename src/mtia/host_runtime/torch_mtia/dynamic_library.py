"""Code that Inductor generates imports this module to be sure that the device is there."""

from __future__ import annotations

import torch  # noqa: F401  (its libraries must be loaded first; with autoload on, this sets up the device)

from mtia.host_runtime.torch_mtia.autoload import load

load()
