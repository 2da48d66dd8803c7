"""Pooling by the largest element, and its inverse. Windows are walked tap by tap, all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil, floor, prod
from typing import Any

import torch

from mtia.kernels.autodiff import deliver
from mtia.kernels.registry import aten
from mtia.kernels.resample import Window, windows


def _max_pool(x: torch.Tensor, over: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and flat positions in the last dims; the first of equals, and NaN where there is one."""
    sizes = x.shape[-len(over) :]
    outs = [w.n_out(n) for w, n in zip(over, sizes, strict=True)]
    lowest = -torch.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
    best = torch.full((*x.shape[: -len(over)], *outs), lowest, dtype=x.dtype, device=x.device)
    at = torch.zeros(best.shape, dtype=torch.int64, device=x.device)
    for tap in product(*(range(w.kernel) for w in over)):
        places = [
            [i * w.stride - w.padding + t * w.dilation for i in range(o)]
            for w, t, o in zip(over, tap, outs, strict=True)
        ]
        value, position, inside = _picked(x, places, sizes)
        better = inside & ((value > best) | (value != value))
        best, at = torch.where(better, value, best), torch.where(better, position, at)
    return best, at


def _picked(
    x: torch.Tensor, places: Sequence[Sequence[int]], sizes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Elements at a grid of places, their flat positions, and which places lie inside."""
    n_dims = len(places)
    value = x
    position = torch.zeros((1,) * n_dims, dtype=torch.int64)
    inside = torch.ones((1,) * n_dims, dtype=torch.bool)
    for d, (along, n) in enumerate(zip(places, sizes, strict=True)):
        exact = torch.tensor(along, dtype=torch.int64)
        index = exact.clamp(0, n - 1)
        value = value.index_select(x.dim() - n_dims + d, index.to(x.device))
        shape = [1] * n_dims
        shape[d] = -1
        position = position * n + index.reshape(shape)
        inside = inside & ((exact >= 0) & (exact < n)).reshape(shape)
    return value, position.to(x.device), inside.to(x.device)


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


def _pool_at(
    x: torch.Tensor, starts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest elements of windows [start, end) along the last dims."""
    sizes = x.shape[-len(starts) :]
    longest = [max(e - s for s, e in zip(a, b, strict=True)) for a, b in zip(starts, ends, strict=True)]
    lowest = -torch.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
    shape = (*x.shape[: -len(starts)], *(len(s) for s in starts))
    best = torch.full(shape, lowest, dtype=x.dtype, device=x.device)
    at = torch.zeros(shape, dtype=torch.int64, device=x.device)
    for tap in product(*(range(n) for n in longest)):
        # a window shorter than this tap looks at its first element again, which changes nothing
        places = [
            [s + t if s + t < e else s for s, e in zip(a, b, strict=True)]
            for a, b, t in zip(starts, ends, tap, strict=True)
        ]
        value, position, _ = _picked(x, places, sizes)
        better = (value > best) | (value != value)
        best, at = torch.where(better, value, best), torch.where(better, position, at)
    return best, at


def _adaptive(x: torch.Tensor, output: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = list(zip(x.shape[-len(output) :], output, strict=True))
    starts = [[floor(i * n / o) for i in range(o)] for n, o in sizes]
    ends = [[ceil((i + 1) * n / o) for i in range(o)] for n, o in sizes]
    return _pool_at(x, starts, ends)


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


def _fractional_starts(samples: torch.Tensor, n: int, kernel: int, output: int) -> list[list[int]]:
    """Per image and channel, where windows start: steps of a random fractional sequence, the last one at the end.

    samples: float [N * C] in 0 .. 1.
    """
    if output == 1:
        return [[n - kernel] for _ in range(samples.numel())]
    alpha = (n - kernel) / (output - 1)
    at = samples.to(torch.float32).cpu()
    rows = []
    for u in at.tolist():
        rows.append([*(int((i + u) * alpha) - int(u * alpha) for i in range(output - 1)), n - kernel])
    return rows


def _fractional(
    x: torch.Tensor, kernel: Sequence[int], output: Sequence[int], samples: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image and channel by windows of its own; `samples` [N, C, dims], the last size's first."""
    n_dims = len(output)
    sizes = x.shape[-n_dims:]
    planes = x.reshape(-1, *sizes)
    draws = samples.reshape(-1, n_dims)
    starts = [_fractional_starts(draws[:, n_dims - 1 - d], sizes[d], kernel[d], output[d]) for d in range(n_dims)]
    flat = torch.zeros((planes.shape[0], *([1] * n_dims)), dtype=torch.int64)
    for d in range(n_dims):
        shape = [planes.shape[0], *([1] * n_dims)]
        shape[1 + d] = output[d]
        flat = flat * sizes[d] + torch.tensor(starts[d], dtype=torch.int64).reshape(shape)
    corner = flat.reshape(planes.shape[0], -1).to(x.device)
    values = planes.reshape(planes.shape[0], -1)
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
