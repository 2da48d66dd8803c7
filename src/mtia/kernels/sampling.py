"""Sampling a field at points (grid_sample): where the points are is a composition, what lies there one kernel.

Dims are padded to three. A program takes a block of points of one image and, a tile of channels at a time, the nearest
element or the weighted corners of the cell around each point.
"""

# N images, C channels, P points; sizes D, H, W

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from mtia.kernels.autodiff import gradients
from mtia.kernels.copy import cast, contiguous
from mtia.kernels.decomposed import decomposition
from mtia.kernels.dtypes import compute_dtype, triton_name
from mtia.kernels.iteration import TILE_ELEMENTS, ceil_div, next_power_of_2
from mtia.kernels.registry import aten

_BILINEAR, _NEAREST = 0, 1
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2
POINTS = 256


@triton.jit
def corner_of(place, up: tl.constexpr, NEAREST: tl.constexpr):
    """A whole position beside `place`, its weight, and the weight's derivative."""
    if NEAREST:
        return libdevice.nearbyint(place), place * 0 + 1, place * 0
    else:
        low = tl.floor(place)
        rest = place - low
        if up:
            return low + 1, rest, place * 0 + 1
        else:
            return low, 1 - rest, place * 0 - 1


@triton.jit(do_not_specialize=["C", "D", "H", "W", "P"])
def mtia_sample(
    x_ptr, place_ptr, out_ptr, C, D, H, W, P,
    CORNERS: tl.constexpr, NEAREST: tl.constexpr, COMPUTE: tl.constexpr, CHANNELS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """out [N, C, P] of x [N, C, D, H, W] at place [N, 3, P]; zero outside."""
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.program_id(2).to(tl.int64)
    at = place_ptr + n * 3 * P + p
    place_d = tl.load(at, mask=p < P, other=0)
    place_h = tl.load(at + P, mask=p < P, other=0)
    place_w = tl.load(at + 2 * P, mask=p < P, other=0)
    plane = (n * C + c)[:, None] * (D * H * W)
    total = tl.zeros((CHANNELS, POINTS), COMPUTE)
    for corner in tl.static_range(CORNERS):
        d, weight_d, _ = corner_of(place_d, corner // 4, NEAREST)
        h, weight_h, _ = corner_of(place_h, corner // 2 % 2, NEAREST)
        w, weight_w, _ = corner_of(place_w, corner % 2, NEAREST)
        inside = (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W) & (p < P)
        element = (tl.where(inside, d, 0).to(tl.int32) * H + tl.where(inside, h, 0).to(tl.int32)) * W
        element = element + tl.where(inside, w, 0).to(tl.int32)
        x = tl.load(x_ptr + plane + element[None, :], mask=inside[None, :] & (c < C)[:, None], other=0).to(COMPUTE)
        total += x * tl.where(inside, weight_d * weight_h * weight_w, 0)[None, :]
    to = out_ptr + (n * C + c)[:, None] * P + p[None, :]
    tl.store(to, total.to(out_ptr.dtype.element_ty), mask=(c < C)[:, None] & (p < P)[None, :])


@triton.jit(do_not_specialize=["C", "D", "H", "W", "P"])
def mtia_sample_backward(
    grad_ptr, x_ptr, place_ptr, grad_x_ptr, grad_place_ptr, C, D, H, W, P,
    CORNERS: tl.constexpr, NEAREST: tl.constexpr, COMPUTE: tl.constexpr, CHANNELS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Adds to grad_x (in the compute type) and writes grad_place [N, 3, P]."""
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    n = tl.program_id(1).to(tl.int64)
    at = n * 3 * P + p
    place_d = tl.load(place_ptr + at, mask=p < P, other=0)
    place_h = tl.load(place_ptr + at + P, mask=p < P, other=0)
    place_w = tl.load(place_ptr + at + 2 * P, mask=p < P, other=0)
    grad_d = tl.zeros((POINTS,), COMPUTE)
    grad_h = tl.zeros((POINTS,), COMPUTE)
    grad_w = tl.zeros((POINTS,), COMPUTE)
    for corner in tl.static_range(CORNERS):
        d, weight_d, slope_d = corner_of(place_d, corner // 4, NEAREST)
        h, weight_h, slope_h = corner_of(place_h, corner // 2 % 2, NEAREST)
        w, weight_w, slope_w = corner_of(place_w, corner % 2, NEAREST)
        inside = (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W) & (p < P)
        element = (tl.where(inside, d, 0).to(tl.int32) * H + tl.where(inside, h, 0).to(tl.int32)) * W
        element = element + tl.where(inside, w, 0).to(tl.int32)
        weight = tl.where(inside, weight_d * weight_h * weight_w, 0)
        both = tl.zeros((POINTS,), COMPUTE)
        for start in range(0, C, CHANNELS):
            c = start + tl.arange(0, CHANNELS)
            mask = inside[None, :] & (c < C)[:, None]
            there = (n * C + c)[:, None] * (D * H * W) + element[None, :]
            x = tl.load(x_ptr + there, mask=mask, other=0).to(COMPUTE)
            grad = tl.load(grad_ptr + (n * C + c)[:, None] * P + p[None, :], mask=mask, other=0).to(COMPUTE)
            both += tl.sum(grad * x, 0)
            tl.atomic_add(grad_x_ptr + there, grad * weight[None, :], mask=mask)
        grad_d += tl.where(inside, both * slope_d * weight_h * weight_w, 0)
        grad_h += tl.where(inside, both * weight_d * slope_h * weight_w, 0)
        grad_w += tl.where(inside, both * weight_d * weight_h * slope_w, 0)
    tl.store(grad_place_ptr + at, grad_d, mask=p < P)
    tl.store(grad_place_ptr + at + P, grad_h, mask=p < P)
    tl.store(grad_place_ptr + at + 2 * P, grad_w, mask=p < P)


def _place(at: torch.Tensor, n: int, padding_mode: int, align_corners: bool) -> torch.Tensor:
    """Coordinates -1 .. 1 as element positions, moved inside as the padding mode says."""
    place = (at + 1) / 2 * (n - 1) if align_corners else ((at + 1) * n - 1) / 2
    if padding_mode == _REFLECTION:
        low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
        if span == 0:
            return torch.zeros_like(place)
        off = (place - low).abs()
        turns, rest = torch.floor(off / span), torch.fmod(off, span)
        place = torch.where(torch.fmod(turns, 2) == 0, rest + low, span - rest + low)
    return place if padding_mode == _ZEROS else place.clamp(0, n - 1)


def _places(grid: torch.Tensor, sizes: Sequence[int], padding_mode: int, align_corners: bool) -> torch.Tensor:
    """grid [N, *out, dims], the last size's coordinate first, as places [N, 3, P]; dims of size 1 come first."""
    n_dims = len(sizes)
    flat = grid.reshape(grid.shape[0], -1, n_dims)
    found = [_place(flat[..., n_dims - 1 - d], n, padding_mode, align_corners) for d, n in enumerate(sizes)]
    return torch.stack([torch.zeros_like(flat[..., 0])] * (3 - n_dims) + found, 1)


def _shape(x: torch.Tensor, grid: torch.Tensor, mode: int) -> tuple[list[int], dict[str, Any]]:
    """The kernels' integers and constants."""
    sizes = [*[1] * (5 - x.dim()), *x.shape[2:]]
    n_points = grid[0, ..., 0].numel()
    compute = compute_dtype(x.dtype)
    points = min(POINTS, next_power_of_2(n_points))
    constants = {
        "CORNERS": 1 if mode == _NEAREST else 1 << (x.dim() - 2),
        "NEAREST": mode == _NEAREST,
        "COMPUTE": getattr(tl, triton_name(compute).removeprefix("tl.")),
        "CHANNELS": min(next_power_of_2(x.shape[1]), max(1, TILE_ELEMENTS // points)),
        "POINTS": points,
    }
    return [x.shape[1], *sizes, n_points], constants


def grid_sample(x: torch.Tensor, grid: torch.Tensor, mode: int, padding_mode: int, align_corners: bool) -> torch.Tensor:
    """x [N, C, *sizes], grid [N, *out, dims] with the last size's coordinate first: linear or nearest."""
    out = torch.empty((*x.shape[:2], *grid.shape[1:-1]), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    integers, constants = _shape(x, grid, mode)
    place = _places(cast(grid, compute_dtype(x.dtype)), x.shape[2:], padding_mode, align_corners)
    blocks = (ceil_div(integers[-1], constants["POINTS"]), ceil_div(x.shape[1], constants["CHANNELS"]), x.shape[0])
    mtia_sample[blocks](contiguous(x), place, out, *integers, **constants)
    return out


def grid_sample_backward(
    grad: torch.Tensor, x: torch.Tensor, grid: torch.Tensor, mode: int, padding_mode: int, align_corners: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    compute = compute_dtype(x.dtype)
    grad_x = torch.zeros(x.shape, dtype=compute, device=x.device)
    if grad.numel() == 0:
        return grad_x.to(x.dtype), torch.zeros_like(grid)
    integers, constants = _shape(x, grid, mode)
    wide = cast(grid, compute)
    place = _places(wide, x.shape[2:], padding_mode, align_corners)
    grad_place = torch.empty_like(place)
    blocks = (ceil_div(integers[-1], constants["POINTS"]), x.shape[0])
    mtia_sample_backward[blocks](contiguous(grad), contiguous(x), place, grad_x, grad_place, *integers, **constants)
    if mode == _NEAREST:
        return cast(grad_x, x.dtype), torch.zeros_like(grid)
    (grad_grid,) = gradients(lambda g: _places(g, x.shape[2:], padding_mode, align_corners), (wide,), grad_place)
    return cast(grad_x, x.dtype), cast(grad_grid, grid.dtype)


def _bicubic(x: torch.Tensor, grid: torch.Tensor, mode: int, padding_mode: int, align_corners: bool) -> torch.Tensor:
    return decomposition("grid_sampler_2d")(x, grid, mode, padding_mode, align_corners)


aten("grid_sampler_3d")(grid_sample)


@aten("grid_sampler_2d")
def grid_sampler_2d(
    x: torch.Tensor, grid: torch.Tensor, mode: int, padding_mode: int, align_corners: bool
) -> torch.Tensor:
    sample = grid_sample if mode in (_BILINEAR, _NEAREST) else _bicubic
    return sample(x, grid, mode, padding_mode, align_corners)


def _masked(function: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., Any]:
    def backward(
        grad: torch.Tensor, x: torch.Tensor, grid: torch.Tensor, mode: int, padding_mode: int, align_corners: bool,
        output_mask: Sequence[bool],
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:  # fmt: skip
        found = function(grad, x, grid, mode, padding_mode, align_corners)
        return (found[0] if output_mask[0] else None), found[1] if output_mask[1] else None

    return backward


def _backward_2d(
    grad: torch.Tensor, x: torch.Tensor, grid: torch.Tensor, mode: int, padding_mode: int, align_corners: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    if mode in (_BILINEAR, _NEAREST):
        return grid_sample_backward(grad, x, grid, mode, padding_mode, align_corners)
    found = gradients(lambda a, b: _bicubic(a, b, mode, padding_mode, align_corners), (x, grid), grad)
    return found[0], found[1]


aten("grid_sampler_2d_backward")(_masked(_backward_2d))
aten("grid_sampler_3d_backward")(_masked(grid_sample_backward))
