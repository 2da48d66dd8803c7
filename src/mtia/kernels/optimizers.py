"""PyTorch's fused optimisers: AdamW, Adam, SGD and Adagrad, one kernel per parameter, state read and written once.

Arithmetic is float32 in the order of PyTorch's own fused kernels; narrower parameters round once, at the store. The
step count and a gradient scaler's scale and `found_inf` are read on the device, so that a step can be captured.
1 - beta^step is taken as -expm1(step ln beta): near 1 a float32 power would keep three digits of it.
"""

# p parameter, g gradient, m first moment (SGD: momentum buffer), v second moment (Adagrad: sum of squares)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from mtia.kernels.iteration import ceil_div, flat_block
from mtia.kernels.registry import aten

Tensors = Sequence[torch.Tensor]


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def _gradient(g_ptr, at, mask, scale_ptr, HAS_SCALE: tl.constexpr, MAXIMIZE: tl.constexpr):
    """The gradient, unscaled (and written back so) and turned round where the objective is maximised."""
    g = tl.load(g_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_SCALE:
        g = g / tl.load(scale_ptr).to(tl.float32)
        tl.store(g_ptr + at, g.to(g_ptr.dtype.element_ty), mask=mask)
    if MAXIMIZE:
        g = -g
    return g


@triton.jit
def _places(n, found_inf_ptr, HAS_INF: tl.constexpr, BLOCK: tl.constexpr):
    """This program's elements; none where the scaler found infinities."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    if HAS_INF:
        mask = mask & (tl.load(found_inf_ptr) == 0.0)
    return at, mask


@triton.jit(do_not_specialize=["n"])
def mtia_fused_adam(
    p_ptr, g_ptr, m_ptr, v_ptr, top_ptr, step_ptr, scale_ptr, found_inf_ptr, lr_ptr,
    n, lr, log_beta1, log_beta2, rest1, rest2, weight_decay, eps,
    DECOUPLED: tl.constexpr, AMSGRAD: tl.constexpr, MAXIMIZE: tl.constexpr, HAS_SCALE: tl.constexpr,
    HAS_INF: tl.constexpr, LR_TENSOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adam; DECOUPLED: weight decay acts on the parameter (AdamW), else on the gradient. rest: 1 - beta."""
    at, mask = _places(n, found_inf_ptr, HAS_INF, BLOCK)
    g = _gradient(g_ptr, at, mask, scale_ptr, HAS_SCALE, MAXIMIZE)
    p = tl.load(p_ptr + at, mask=mask, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + at, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if LR_TENSOR:
        lr = tl.load(lr_ptr).to(tl.float32)
    if DECOUPLED:
        p = p - lr * weight_decay * p
    else:
        g = g + p * weight_decay
    m = m + rest1 * (g - m)
    v = v + rest2 * (g * g - v)
    step = tl.load(step_ptr).to(tl.float32)
    first = -libdevice.expm1(step * log_beta1)
    second = -libdevice.expm1(step * log_beta2)
    largest = v
    if AMSGRAD:
        largest = tl.maximum(tl.load(top_ptr + at, mask=mask, other=0.0).to(tl.float32), v)
        tl.store(top_ptr + at, largest.to(top_ptr.dtype.element_ty), mask=mask)
    p = p - lr / first * m / (tl.sqrt_rn(largest) / tl.sqrt_rn(second) + eps)
    tl.store(p_ptr + at, p.to(p_ptr.dtype.element_ty), mask=mask)
    tl.store(m_ptr + at, m.to(m_ptr.dtype.element_ty), mask=mask)
    tl.store(v_ptr + at, v.to(v_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def mtia_fused_sgd(
    p_ptr, g_ptr, m_ptr, scale_ptr, found_inf_ptr, lr_ptr,
    n, lr, weight_decay, momentum, rest,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, FIRST: tl.constexpr, MAXIMIZE: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_INF: tl.constexpr, LR_TENSOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """SGD; FIRST: the momentum buffer starts as the gradient. rest: 1 - dampening."""
    at, mask = _places(n, found_inf_ptr, HAS_INF, BLOCK)
    g = _gradient(g_ptr, at, mask, scale_ptr, HAS_SCALE, MAXIMIZE)
    p = tl.load(p_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if LR_TENSOR:
        lr = tl.load(lr_ptr).to(tl.float32)
    g = g + p * weight_decay
    if MOMENTUM:
        m = g
        if not FIRST:
            m = tl.load(m_ptr + at, mask=mask, other=0.0).to(tl.float32) * momentum + g * rest
        tl.store(m_ptr + at, m.to(m_ptr.dtype.element_ty), mask=mask)
        if NESTEROV:
            g = g + m * momentum
        else:
            g = m
    tl.store(p_ptr + at, (p - lr * g).to(p_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def mtia_fused_adagrad(
    p_ptr, g_ptr, v_ptr, step_ptr, scale_ptr, found_inf_ptr, lr_ptr,
    n, lr, lr_decay, weight_decay, eps,
    MAXIMIZE: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_INF: tl.constexpr, LR_TENSOR: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask = _places(n, found_inf_ptr, HAS_INF, BLOCK)
    g = _gradient(g_ptr, at, mask, scale_ptr, HAS_SCALE, MAXIMIZE)
    p = tl.load(p_ptr + at, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if LR_TENSOR:
        lr = tl.load(lr_ptr).to(tl.float32)
    g = g + p * weight_decay
    v = v + g * g
    rate = lr / (1.0 + (tl.load(step_ptr).to(tl.float32) - 1.0) * lr_decay)
    tl.store(p_ptr + at, (p - rate * g / (tl.sqrt_rn(v) + eps)).to(p_ptr.dtype.element_ty), mask=mask)
    tl.store(v_ptr + at, v.to(v_ptr.dtype.element_ty), mask=mask)


# --- on the device ----------------------------------------------------------------------------------------------------


def _check(name: str, p: torch.Tensor) -> None:
    if not _same_layout(torch.empty_like(p), p):
        raise ValueError(
            f"{name}: a parameter of shape {tuple(p.shape)} and strides {p.stride()}; the fused optimiser needs it "
            f"dense. Make the parameter contiguous, or use foreach=True."
        )


def _same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.stride() == b.stride() or (a.is_contiguous() and b.is_contiguous())


def _aligned(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A gradient or state in the parameter's layout (a transposed weight's gradient often has another)."""
    return x if _same_layout(x, p) else torch.empty_like(p, dtype=x.dtype).copy_(x)


def _rate(lr: Any, stand_in: torch.Tensor) -> tuple[float, torch.Tensor, bool]:
    """(lr, its pointer, is it read on the device)."""
    if isinstance(lr, torch.Tensor) and lr.device.type == "mtia":
        return 0.0, lr, True
    return float(lr), stand_in, False


def _update(
    kernel: Any,
    name: str,
    p: torch.Tensor,
    g: torch.Tensor,
    state: Tensors,
    extra: Tensors,
    scalars: Sequence[float],
    lr: Any,
    grad_scale: torch.Tensor | None,
    found_inf: torch.Tensor | None,
    **flags: bool,
) -> None:
    """One launch: parameter, gradient, state, extra pointers, then the pointers and flags that all three share."""
    if p.numel() == 0:
        return
    _check(name, p)
    given = (g, *state)
    aligned = [_aligned(p, x) for x in given]
    rate, lr_at, is_tensor = _rate(lr, p)
    n = p.numel()
    block = flat_block(n, p.element_size() * (1 + len(given)))
    kernel[(ceil_div(n, block),)](
        p, *aligned, *extra, p if grad_scale is None else grad_scale, p if found_inf is None else found_inf,
        lr_at, n, rate, *scalars, HAS_SCALE=grad_scale is not None, HAS_INF=found_inf is not None,
        LR_TENSOR=is_tensor, BLOCK=block, **flags,
    )  # fmt: skip
    for x, y in zip(given, aligned):
        if x is not y:
            x.copy_(y)


def _adam(name: str, *, decoupled: bool) -> Any:
    def run(
        params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, max_exp_avg_sqs: Tensors,
        state_steps: Tensors, *, lr: Any, beta1: float, beta2: float, weight_decay: float, eps: float, amsgrad: bool,
        maximize: bool, grad_scale: torch.Tensor | None = None, found_inf: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        scalars = _log(beta1), _log(beta2), 1 - beta1, 1 - beta2, weight_decay, eps
        for i, (p, g, m, v, step) in enumerate(zip(params, grads, exp_avgs, exp_avg_sqs, state_steps, strict=True)):
            top = max_exp_avg_sqs[i] if amsgrad else v
            _update(
                mtia_fused_adam, name, p, g, (m, v, top), (step,), scalars, lr, grad_scale, found_inf,
                DECOUPLED=decoupled, AMSGRAD=amsgrad, MAXIMIZE=maximize,
            )  # fmt: skip

    return run


def _log(beta: float) -> float:
    """ln beta; of 0, the largest power that float32 still takes to 1 - 0."""
    return math.log(beta) if beta > 0 else -1e4


aten("_fused_adamw_", "_fused_adamw_.tensor_lr")(_adam("fused AdamW", decoupled=True))
aten("_fused_adam_", "_fused_adam_.tensor_lr")(_adam("fused Adam", decoupled=False))


@aten("_fused_sgd_", "_fused_sgd_.tensor_lr")
def fused_sgd(
    params: Tensors, grads: Tensors, momentum_buffer_list: Tensors, *, weight_decay: float, momentum: float, lr: Any,
    dampening: float, nesterov: bool, maximize: bool, is_first_step: bool, grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
) -> None:  # fmt: skip
    scalars = weight_decay, momentum, 1 - dampening
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        buffer = momentum_buffer_list[i] if momentum_buffer_list else p
        _update(
            mtia_fused_sgd, "fused SGD", p, g, (buffer,), (), scalars, lr, grad_scale, found_inf,
            MOMENTUM=bool(momentum_buffer_list), NESTEROV=nesterov, FIRST=is_first_step, MAXIMIZE=maximize,
        )  # fmt: skip


@aten("_fused_adagrad_", "_fused_adagrad_.tensor_lr")
def fused_adagrad(
    params: Tensors, grads: Tensors, state_sums: Tensors, state_steps: Tensors, *, lr: Any, lr_decay: float,
    weight_decay: float, eps: float, maximize: bool, grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
) -> None:  # fmt: skip
    for p, g, v, step in zip(params, grads, state_sums, state_steps, strict=True):
        _update(
            mtia_fused_adagrad, "fused Adagrad", p, g, (v,), (step,), (lr_decay, weight_decay, eps), lr, grad_scale,
            found_inf, MAXIMIZE=maximize,
        )  # fmt: skip
