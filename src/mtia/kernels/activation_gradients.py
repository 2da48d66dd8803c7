"""Gradients of activations that PyTorch would take apart: one kernel, rounded once.

`csrc/gradients.cpp` says why autograd reaches them, and when it takes PyTorch's composition instead.
"""

from __future__ import annotations

import torch

from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.registry import KERNELS, aten

_TANH_SOFTPLUS = "libdevice.tanh(libdevice.log1p(tl.exp(x)))"
_MISH = define(
    Operation(
        name="mish_backward",
        inputs=("grad_output", "x"),
        expression=(
            f"grad_output * ({_TANH_SOFTPLUS} + x / (1.0 + tl.exp(-x)) * (1.0 - {_TANH_SOFTPLUS} * {_TANH_SOFTPLUS}))"
        ),
    )
)


@aten("mish_backward")
def mish_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    launch(_MISH, out, (grad, x), compute=compute_dtype(x.dtype))
    return out


@aten("silu_backward")
def silu_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return KERNELS["silu_backward.grad_input"](grad, x, grad_input=torch.empty_like(x))
