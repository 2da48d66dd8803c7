"""What torch.amp.GradScaler asks of a device: unscale gradients and find what is not finite, move the scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from mtia.kernels.copy import contiguous, copy_strided
from mtia.kernels.iteration import ceil_div
from mtia.kernels.registry import aten

BLOCK = 1024
ONE = 0x3F800000  # float32 1.0 as an integer: bits of floats that are not negative order as the floats do


@triton.jit(do_not_specialize=["N"])
def mtia_unscale(grad_ptr, found_ptr, inverse_ptr, N, BLOCK_: tl.constexpr, ONE_: tl.constexpr):
    """grad *= inverse; found (float32, as int32) becomes 1.0 where any of grad is infinite or not a number."""
    at = tl.program_id(0) * BLOCK_ + tl.arange(0, BLOCK_)
    x = tl.load(grad_ptr + at, mask=at < N, other=0.0).to(tl.float32)
    wrong = tl.max((tl.abs(x) < float("inf")).to(tl.int32) ^ 1, 0)  # a NaN is not below infinity
    tl.store(grad_ptr + at, (x * tl.load(inverse_ptr)).to(grad_ptr.dtype.element_ty), mask=at < N)
    tl.atomic_max(found_ptr, wrong * ONE_, mask=wrong > 0)


@triton.jit(do_not_specialize=["growth", "backoff", "interval"])
def mtia_update_scale(scale_ptr, tracker_ptr, found_ptr, growth, backoff, interval):
    """Back off after a step that overflowed; grow after `interval` that did not, as far as the scale stays finite."""
    scale, good = tl.load(scale_ptr), tl.load(tracker_ptr) + 1
    overflowed = tl.load(found_ptr) > 0.0
    larger = scale * growth
    grown = tl.where((good == interval) & (larger < float("inf")), larger, scale)
    tl.store(scale_ptr, tl.where(overflowed, scale * backoff, grown))
    tl.store(tracker_ptr, tl.where(overflowed | (good == interval), 0, good))


@aten("_amp_foreach_non_finite_check_and_unscale_")
def unscale_(grads: Sequence[torch.Tensor], found_inf: torch.Tensor, inv_scale: torch.Tensor) -> None:
    flag = found_inf.view(torch.int32)
    for grad in grads:
        if grad.numel() == 0:
            continue
        flat = contiguous(grad)
        mtia_unscale[(ceil_div(grad.numel(), BLOCK),)](flat, flag, inv_scale, grad.numel(), BLOCK_=BLOCK, ONE_=ONE)
        if flat is not grad:
            copy_strided(grad, flat)


@aten("_amp_update_scale_")
def update_scale_(
    scale: torch.Tensor, growth_tracker: torch.Tensor, found_inf: torch.Tensor, scale_growth_factor: float,
    scale_backoff_factor: float, growth_interval: int,
) -> torch.Tensor:  # fmt: skip
    mtia_update_scale[(1,)](scale, growth_tracker, found_inf, float(scale_growth_factor), float(scale_backoff_factor),
                            growth_interval)  # fmt: skip
    return scale
