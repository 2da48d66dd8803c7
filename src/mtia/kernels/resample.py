"""Resampling and pooling by averages: along each dim a few taps, each a gather of elements times a weight.

Nearest, linear, cubic and antialiased interpolation, adaptive and plain average pooling are the same thing with other
taps: out[i] = sum over t of weight[i, t] * x[index[i, t]], dim by dim. The gradient is that of the gathers.
Taps are computed on the host from sizes and scales alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from typing import Any

import torch

from mtia.kernels.autodiff import deliver, linear_gradient
from mtia.kernels.registry import aten


@dataclass(frozen=True, slots=True)
class Taps:
    """Per output element along one dim: where it looks, and how much each place counts (lists of equal length)."""

    index: tuple[tuple[int, ...], ...]
    weight: tuple[tuple[float, ...], ...]

    @property
    def n_taps(self) -> int:
        return len(self.index[0]) if self.index else 0


def resample(x: torch.Tensor, dim: int, taps: Taps) -> torch.Tensor:
    """One dim of `x` through its taps, accumulated in float32 for narrower types."""
    if not taps.index:
        return x.narrow(dim, 0, 0)
    index = torch.tensor(taps.index, dtype=torch.int64)
    weight = torch.tensor(taps.weight, dtype=torch.float64)
    shape = [1] * x.dim()
    shape[dim] = -1
    total: torch.Tensor | None = None
    for t in range(taps.n_taps):
        picked = x.index_select(dim, index[:, t].contiguous().to(x.device))
        if not bool((weight[:, t] == 1).all()):
            picked = picked * weight[:, t].to(x.dtype).to(x.device).reshape(shape)
        total = picked if total is None else total + picked
    assert total is not None
    return total


def _resampled(x: torch.Tensor, taps: Sequence[Taps]) -> torch.Tensor:
    """The last dims of `x`, one `Taps` each."""
    kind = x.dtype
    y = x.to(torch.float32) if kind in (torch.bfloat16, torch.float16) else x
    for at, one in enumerate(taps):
        y = resample(y, y.dim() - len(taps) + at, one)
    return y.to(kind).contiguous()


# --- taps -------------------------------------------------------------------------------------------------------------


def _padded(rows: list[list[tuple[int, float]]]) -> Taps:
    """Rows of (index, weight), to equal length with weight 0."""
    most = max((len(row) for row in rows), default=0)
    full = [row + [(row[-1][0], 0.0)] * (most - len(row)) for row in rows]
    return Taps(tuple(tuple(i for i, _ in row) for row in full), tuple(tuple(w for _, w in row) for row in full))


def _ratio(n_in: int, n_out: int, scale: float | None, *, align_corners: bool = False) -> float:
    """Input elements a step of the output, as PyTorch defines it."""
    if align_corners:
        return (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else n_in / n_out


@lru_cache(maxsize=1024)
def nearest_taps(n_in: int, n_out: int, scale: float | None, exact: bool) -> Taps:
    ratio = torch.tensor(_ratio(n_in, n_out, scale), dtype=torch.float32)
    at = torch.arange(n_out, dtype=torch.float32)
    index = ((at + 0.5) * ratio if exact else at * ratio).floor().clamp(max=n_in - 1).to(torch.int64).tolist()
    return _padded([[(i, 1.0)] for i in index])


@lru_cache(maxsize=1024)
def linear_taps(n_in: int, n_out: int, scale: float | None, align_corners: bool) -> Taps:
    ratio = _ratio(n_in, n_out, scale, align_corners=align_corners)
    rows = []
    for i in range(n_out):
        source = ratio * i if align_corners else max(0.0, ratio * (i + 0.5) - 0.5)
        low = min(int(source), n_in - 1)
        part = min(1.0, max(0.0, source - low))
        rows.append([(low, 1.0 - part), (min(low + 1, n_in - 1), part)])
    return _padded(rows)


@lru_cache(maxsize=1024)
def antialiased_taps(n_in: int, n_out: int, scale: float | None, align_corners: bool) -> Taps:
    """Triangle filter as wide as a step of the output, where that is more than one input element."""
    ratio = _ratio(n_in, n_out, scale, align_corners=align_corners)
    support = max(1.0, ratio)
    rows = []
    for i in range(n_out):
        centre = ratio * (i + 0.5)
        first = max(0, int(centre - support + 0.5))
        last = min(n_in, int(centre + support + 0.5))
        weights = [max(0.0, 1.0 - abs((j - centre + 0.5) / support)) for j in range(first, last)]
        total = sum(weights) or 1.0
        rows.append([(j, w / total) for j, w in zip(range(first, last), weights, strict=True)])
    return _padded(rows)


@lru_cache(maxsize=1024)
def cubic_taps(n_in: int, n_out: int, scale: float | None, align_corners: bool) -> Taps:
    """Keys' cubic with a = -0.75; places beyond the border are the border."""
    ratio = _ratio(n_in, n_out, scale, align_corners=align_corners)
    rows = []
    for i in range(n_out):
        source = ratio * i if align_corners else ratio * (i + 0.5) - 0.5
        low = floor(source)
        rows.append([(min(max(low + k, 0), n_in - 1), _cubic(source - low - k)) for k in (-1, 0, 1, 2)])
    return _padded(rows)


def _cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else 0.0


@lru_cache(maxsize=1024)
def adaptive_taps(n_in: int, n_out: int) -> Taps:
    rows = []
    for i in range(n_out):
        first, last = floor(i * n_in / n_out), ceil((i + 1) * n_in / n_out)
        rows.append([(j, 1.0 / (last - first)) for j in range(first, last)])
    return _padded(rows)


# --- interpolation ----------------------------------------------------------------------------------------------------


def _sizes(x_shape: Sequence[int], n_dims: int, output: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(x_shape[-n_dims:], output, strict=True))


def _nearest(*, exact: bool) -> Callable[..., list[Taps]]:
    def taps(shape: Sequence[int], size: Sequence[int], *scales: float | None) -> list[Taps]:
        known = scales or (None,) * len(size)
        return [nearest_taps(a, b, s, exact) for (a, b), s in zip(_sizes(shape, len(size), size), known, strict=True)]

    return taps


def _serve(name: str, taps: Callable[..., list[Taps]]) -> None:
    """`taps(input shape, output size, *rest)`; rest as in the schema."""

    def out(x: torch.Tensor, output_size: Sequence[int], *rest: Any, out: torch.Tensor) -> torch.Tensor:
        return deliver(_resampled(x, taps(x.shape, output_size, *rest)), out)

    def grad_input(
        grad: torch.Tensor, output_size: Sequence[int], input_size: Sequence[int], *rest: Any, grad_input: torch.Tensor
    ) -> torch.Tensor:
        chosen = taps(input_size, output_size, *rest)
        return deliver(linear_gradient(lambda x: _resampled(x, chosen), tuple(input_size), grad), grad_input)

    aten(f"{name}.out")(out)
    aten(f"{name}_backward.grad_input")(grad_input)


for _suffix in ("1d", "2d", "3d"):
    _serve(f"upsample_nearest{_suffix}", _nearest(exact=False))
    _serve(f"_upsample_nearest_exact{_suffix}", _nearest(exact=True))


def _filtered(filter: Callable[[int, int, float | None, bool], Taps]) -> Callable[..., list[Taps]]:
    def taps(shape: Sequence[int], size: Sequence[int], align_corners: bool, *scales: float | None) -> list[Taps]:
        known = scales or (None,) * len(size)
        return [filter(a, b, s, align_corners) for (a, b), s in zip(_sizes(shape, len(size), size), known, strict=True)]

    return taps


for _name in ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"):
    _serve(_name, _filtered(linear_taps))
_serve("upsample_bicubic2d", _filtered(cubic_taps))
_serve("_upsample_bilinear2d_aa", _filtered(antialiased_taps))


# --- pooling by averages ----------------------------------------------------------------------------------------------


def _adaptive(x: torch.Tensor, output: Sequence[int]) -> torch.Tensor:
    return _resampled(x, [adaptive_taps(n, o) for n, o in zip(x.shape[-len(output) :], output, strict=True)])


@aten("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def adaptive_avg_pool(x: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    return _adaptive(x, output_size)


@aten("_adaptive_avg_pool2d_backward")
def adaptive_avg_pool2d_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return linear_gradient(lambda y: _adaptive(y, grad.shape[-2:]), tuple(x.shape), grad)


@aten("_adaptive_avg_pool3d_backward")
def adaptive_avg_pool3d_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return linear_gradient(lambda y: _adaptive(y, grad.shape[-3:]), tuple(x.shape), grad)


@dataclass(frozen=True, slots=True)
class Window:
    """Sliding windows along one dim, as PyTorch's pooling defines them."""

    kernel: int
    stride: int
    padding: int
    dilation: int = 1
    ceil_mode: bool = False

    def n_out(self, n_in: int) -> int:
        span = self.dilation * (self.kernel - 1) + 1
        n = (n_in + 2 * self.padding - span + (self.stride - 1 if self.ceil_mode else 0)) // self.stride + 1
        if self.ceil_mode and (n - 1) * self.stride >= n_in + self.padding:
            n -= 1  # a window must start inside the input or its left padding
        return n


def windows(
    n_dims: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> list[Window]:  # fmt: skip
    def each(values: Sequence[int]) -> list[int]:
        return list(values) * n_dims if len(values) == 1 else list(values)

    steps = each(stride) if len(stride) else each(kernel)
    return [
        Window(k, s, p, d, ceil_mode)
        for k, s, p, d in zip(each(kernel), steps, each(padding), each(dilation), strict=True)
    ]


def _average(x: torch.Tensor, over: Sequence[Window], include_padding: bool, divisor: int | None) -> torch.Tensor:
    """Sums of windows by taps, then one division by what each window counts."""
    sums, counts = [], []
    for w, n in zip(over, x.shape[-len(over) :], strict=True):
        rows, sizes = [], []
        for i in range(w.n_out(n)):
            start = i * w.stride - w.padding
            end = min(start + w.kernel, n + w.padding)
            inside = range(max(start, 0), min(end, n))
            rows.append([(j, 1.0) for j in inside] or [(0, 0.0)])
            sizes.append(end - start if include_padding else len(inside))
        sums.append(_padded(rows))
        counts.append(torch.tensor(sizes, dtype=torch.float64))
    kind = x.dtype
    y = _resampled(x.to(torch.float32) if kind in (torch.bfloat16, torch.float16) else x, sums)
    if divisor is not None:
        return (y / divisor).to(kind)
    total = counts[0]
    for c in counts[1:]:
        total = total.unsqueeze(-1) * c
    return (y / total.to(y.dtype).to(y.device)).to(kind)


def _serve_average(n_dims: int) -> None:
    def forward(
        x: torch.Tensor, kernel: Any, stride: Any, padding: Any, ceil: bool, include: bool, divisor: Any
    ) -> Any:
        return _average(x, windows(n_dims, kernel, stride, padding, ceil_mode=ceil), include, divisor)

    def out(
        x: torch.Tensor, kernel_size: Any, stride: Any = (), padding: Any = (0,), ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None, *, out: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        return deliver(forward(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override), out)

    def grad_input(
        grad: torch.Tensor, x: torch.Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
        count_include_pad: bool, divisor_override: int | None, *, grad_input: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        def function(y: torch.Tensor) -> torch.Tensor:
            return forward(y, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

        return deliver(linear_gradient(function, tuple(x.shape), grad), grad_input)

    aten(f"avg_pool{n_dims}d.out")(out)
    aten(f"avg_pool{n_dims}d_backward.grad_input")(grad_input)


_serve_average(2)
_serve_average(3)
