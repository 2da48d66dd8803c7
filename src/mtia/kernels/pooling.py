"""Pooling by the largest element, and its inverse: one kernel for windows that slide and windows that fit the output.

A program takes one row of the output in several planes; the taps of a window are a loop. Dims are padded to three.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels.autodiff import deliver
from mtia.kernels.copy import contiguous
from mtia.kernels.dtypes import compute_dtype, triton_name
from mtia.kernels.iteration import TILE_ELEMENTS, ceil_div, next_power_of_2
from mtia.kernels.registry import aten
from mtia.kernels.resample import Window, windows


@triton.jit
def window(i, n, n_out, stride, padding, dilation, extent, FITS: tl.constexpr):
    """First place, end (of those to look at) and step of window i along a dim of n elements."""
    if FITS:
        return i * n // n_out, ((i + 1) * n + n_out - 1) // n_out, 1
    else:
        first = i * stride - padding
        return first, tl.minimum(first + extent * dilation, n), dilation


@triton.jit(
    do_not_specialize=[
        "PLANES", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW", "SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH",
        "DW",
    ]
)  # fmt: skip
def mtia_max_pool(
    x_ptr, out_ptr, at_ptr, PLANES, D, H, W, OD, OH, OW, KD, KH, KW, SD, SH, SW, PD, PH, PW, DD, DH, DW,
    FITS: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out, at [PLANES, OD, OH, OW]: the largest element of each window of x [PLANES, D, H, W] and its place in the
    plane; the first of equals, NaN where there is one. K: taps along a dim (FITS: of the longest window); S, P, D:
    stride, padding, dilation."""
    o = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    od = tl.program_id(1) // OH
    oh = tl.program_id(1) % OH
    plane = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    real = (plane < PLANES)[:, None] & (o < OW)[None, :]
    planes = x_ptr + plane.to(tl.int64)[:, None] * (D * H * W)
    d_first, d_end, d_step = window(od, D, OD, SD, PD, DD, KD, FITS)
    h_first, h_end, h_step = window(oh, H, OH, SH, PH, DH, KH, FITS)
    w_first, w_end, w_step = window(o, W, OW, SW, PW, DW, KW, FITS)
    best = tl.zeros((ROWS, COLUMNS), COMPUTE)
    at = tl.full((ROWS, COLUMNS), -1, tl.int32)
    for a in range(0, KD):
        d = d_first + a * d_step
        for b in range(0, KH):
            h = h_first + b * h_step
            row = (d * H + h) * W
            row_inside = (d >= 0) & (d < d_end) & (h >= 0) & (h < h_end)
            for c in range(0, KW):
                w = w_first + c * w_step
                inside = real & (row_inside & (w >= 0) & (w < w_end))[None, :]
                place = row + w
                value = tl.load(planes + place[None, :], mask=inside, other=0).to(COMPUTE)
                better = inside & ((value > best) | (value != value) | (at < 0))
                best = tl.where(better, value, best)
                at = tl.where(better, place[None, :], at)
    to = plane.to(tl.int64)[:, None] * (OD * OH * OW) + (tl.program_id(1) * OW + o)[None, :]
    tl.store(out_ptr + to, best.to(out_ptr.dtype.element_ty), mask=real)
    tl.store(at_ptr + to, at.to(tl.int64), mask=real)


def _launch(
    x: torch.Tensor, outs: Sequence[int], taps: Sequence[int], over: Sequence[Window] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and flat positions in the last dims; `over`: sliding windows, none: those that fit the output."""
    n_dims = len(outs)
    sizes = x.shape[-n_dims:]
    best = torch.empty((*x.shape[:-n_dims], *outs), dtype=x.dtype, device=x.device)
    at = torch.empty(best.shape, dtype=torch.int64, device=x.device)
    if best.numel() == 0:
        return best, at
    planes = prod(x.shape[:-n_dims])
    ones, zeros = [1] * (3 - n_dims), [0] * (3 - n_dims)
    geometry = [
        *(ones + list(sizes)), *(ones + list(outs)), *(ones + list(taps)),
        *(ones + [w.stride for w in over] if over else [1] * 3),
        *(zeros + [w.padding for w in over] if over else [0] * 3),
        *(ones + [w.dilation for w in over] if over else [1] * 3),
    ]  # fmt: skip
    columns = min(next_power_of_2(outs[-1]), TILE_ELEMENTS)
    rows = min(next_power_of_2(planes), max(1, TILE_ELEMENTS // columns))
    grid = (ceil_div(outs[-1], columns), prod(outs[:-1]), ceil_div(planes, rows))
    mtia_max_pool[grid](
        contiguous(x), best, at, planes, *geometry, FITS=not over,
        COMPUTE=getattr(tl, triton_name(compute_dtype(x.dtype)).removeprefix("tl.")), ROWS=rows, COLUMNS=columns,
    )  # fmt: skip
    return best, at


def _max_pool(x: torch.Tensor, over: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
    outs = [w.n_out(n) for w, n in zip(over, x.shape[-len(over) :], strict=True)]
    return _launch(x, outs, [w.kernel for w in over], over)


def _scattered(grad: torch.Tensor, at: torch.Tensor, shape: Sequence[int], n_dims: int) -> torch.Tensor:
    """`grad` added up where `at` (flat positions in the last dims) says."""
    lead = tuple(shape[: len(shape) - n_dims])
    flat = torch.zeros((*lead, prod(shape[len(shape) - n_dims :])), dtype=grad.dtype, device=grad.device)
    rows = (*lead, prod(grad.shape[grad.dim() - n_dims :]))
    return flat.scatter_add(-1, at.reshape(rows), grad.reshape(rows)).reshape(tuple(shape))


@aten("max_pool2d_with_indices.out")
def max_pool2d_out(
    x: torch.Tensor, kernel_size: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,),
    ceil_mode: bool = False, *, out: torch.Tensor, indices: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    value, at = _max_pool(x, windows(2, kernel_size, stride, padding, dilation, ceil_mode))
    return deliver(value, out), deliver(at, indices)


@aten("max_pool2d_with_indices_backward.grad_input")
def max_pool2d_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    indices: torch.Tensor, *, grad_input: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    return deliver(_scattered(grad, indices, x.shape, 2), grad_input)


@aten("max_pool3d_with_indices")
def max_pool3d(
    x: torch.Tensor, kernel_size: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,),
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    return _max_pool(x, windows(3, kernel_size, stride, padding, dilation, ceil_mode))


@aten("max_pool3d_with_indices_backward")
def max_pool3d_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    indices: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    return _scattered(grad, indices, x.shape, 3)


# --- windows that fit the output --------------------------------------------------------------------------------------


def _adaptive(x: torch.Tensor, output: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = [_longest(n, o) for n, o in zip(x.shape[-len(output) :], output, strict=True)]
    return _launch(x, output, longest)


def _longest(n: int, n_out: int) -> int:
    """Of the windows [floor(i n / n_out), ceil((i + 1) n / n_out))."""
    return max((ceil_div((i + 1) * n, n_out) - i * n // n_out for i in range(n_out)), default=0)


@aten("adaptive_max_pool2d.out", "adaptive_max_pool3d.out")
def adaptive_max_pool_out(
    x: torch.Tensor, output_size: Sequence[int], *, out: torch.Tensor, indices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    value, at = _adaptive(x, output_size)
    return deliver(value, out), deliver(at, indices)


@aten("adaptive_max_pool2d_backward.grad_input")
def adaptive_max_pool2d_backward(
    grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor, *, grad_input: torch.Tensor
) -> torch.Tensor:
    return deliver(_scattered(grad, indices, x.shape, 2), grad_input)


@aten("adaptive_max_pool3d_backward.grad_input")
def adaptive_max_pool3d_backward(
    grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor, *, grad_input: torch.Tensor
) -> torch.Tensor:
    return deliver(_scattered(grad, indices, x.shape, 3), grad_input)


# --- the inverse ------------------------------------------------------------------------------------------------------


def _unpool(x: torch.Tensor, indices: torch.Tensor, output: Sequence[int]) -> torch.Tensor:
    n_dims = len(output)
    lead = tuple(x.shape[: x.dim() - n_dims])
    rows = (*lead, prod(x.shape[x.dim() - n_dims :]))
    flat = torch.zeros((*lead, prod(output)), dtype=x.dtype, device=x.device)
    return flat.scatter(-1, indices.reshape(rows), x.reshape(rows)).reshape((*lead, *output))


@aten("max_unpool2d")
def max_unpool2d(x: torch.Tensor, indices: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    return _unpool(x, indices, output_size)


@aten("max_unpool3d")
def max_unpool3d(
    x: torch.Tensor, indices: torch.Tensor, output_size: Sequence[int], stride: Any, padding: Any
) -> torch.Tensor:
    return _unpool(x, indices, output_size)


# --- windows at random ------------------------------------------------------------------------------------------------


def _fractional_starts(u: torch.Tensor, n: int, kernel: int, output: int) -> torch.Tensor:
    """int64 [N * C, output]: where the windows of each plane start, steps of a random fractional sequence, the last
    one at the end. u: float [N * C] in 0 .. 1."""
    last = torch.full((u.shape[0], 1), n - kernel, dtype=torch.int64, device=u.device)
    if output == 1:
        return last
    alpha = torch.full((), (n - kernel) / (output - 1), dtype=u.dtype, device=u.device)
    steps = torch.arange(output - 1, device=u.device, dtype=u.dtype)
    first = ((steps + u.unsqueeze(1)) * alpha).to(torch.int64) - (u * alpha).to(torch.int64).unsqueeze(1)
    return torch.cat((first, last), 1)


def _fractional(
    x: torch.Tensor, kernel: Sequence[int], output: Sequence[int], samples: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image and channel by windows of its own; `samples` [N, C, dims], the last size's first."""
    n_dims = len(output)
    sizes = x.shape[-n_dims:]
    n_planes = prod(x.shape[: x.dim() - n_dims])
    draws = samples.reshape(n_planes, n_dims)
    corner = torch.zeros((n_planes, *([1] * n_dims)), dtype=torch.int64, device=x.device)
    for d in range(n_dims):
        starts = _fractional_starts(draws[:, n_dims - 1 - d], sizes[d], kernel[d], output[d])
        shape = [n_planes, *([1] * n_dims)]
        shape[1 + d] = output[d]
        corner = corner * sizes[d] + starts.reshape(shape)
    corner = corner.reshape(n_planes, prod(output))
    values = x.reshape(n_planes, prod(sizes))
    best = torch.full(corner.shape, -torch.inf, dtype=x.dtype, device=x.device)
    at = corner
    for tap in product(*(range(k) for k in kernel)):
        offset = 0
        for t, n in zip(tap, sizes, strict=True):
            offset = offset * n + t
        position = corner + offset
        value = values.gather(1, position)
        better = (value > best) | (value != value)
        best, at = torch.where(better, value, best), torch.where(better, position, at)
    shape = (*x.shape[: x.dim() - n_dims], *output)
    return best.reshape(shape), at.reshape(shape)


@aten("fractional_max_pool2d.output", "fractional_max_pool3d.output")
def fractional_max_pool_out(
    x: torch.Tensor, kernel_size: Sequence[int], output_size: Sequence[int], random_samples: torch.Tensor, *,
    output: torch.Tensor, indices: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    value, at = _fractional(x, kernel_size, output_size, random_samples)
    return deliver(value, output), deliver(at, indices)


@aten("fractional_max_pool2d_backward.grad_input")
def fractional_max_pool2d_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel_size: Any, output_size: Any, indices: torch.Tensor, *,
    grad_input: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    return deliver(_scattered(grad, indices, x.shape, 2), grad_input)


@aten("fractional_max_pool3d_backward")
def fractional_max_pool3d_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel_size: Any, output_size: Any, indices: torch.Tensor
) -> torch.Tensor:
    return _scattered(grad, indices, x.shape, 3)
