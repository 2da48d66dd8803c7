"""Convolution in any number of dims as unfold and matrix multiplication, forward, backward and transposed.

Unfold writes each output position's patch as a column; fold is its transpose: each input position sums what the
patches that cover it hold.
"""

# N images, C input channels, O output channels, T taps of the kernel, L output positions

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from mtia.kernels.copy import cast, contiguous, fill
from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Emitter, Operation, define, launch
from mtia.kernels.matmul import multiply
from mtia.kernels.reduce import reduce
from mtia.kernels.registry import aten


def _coordinates(n_dims: int) -> list[str]:
    """Two-dimensional coordinates c0 .. of a kept-dims walk."""
    return [f"c{d} = i{d}[:, None]" for d in range(n_dims - 1)] + [f"c{n_dims - 1} = column[None, :]"]


def _geometry(n: int) -> tuple[str, ...]:
    return tuple(f"{what}{d}" for d in range(n) for what in ("size", "x_stride", "step", "pad", "dilation"))


@cache
def unfold_operation(n: int) -> Operation:
    """out[N, C, *kernel, *positions] = x[N, C, position * step - pad + tap * dilation], 0 outside."""

    def body(k: Emitter) -> list[str]:
        lines, terms, inside = _coordinates(2 + 2 * n), ["c0 * x_batch", "c1 * x_channel"], ["mask"]
        for d in range(n):
            lines.append(f"p{d} = c{2 + n + d} * step{d} - pad{d} + c{2 + d} * dilation{d}")
            terms.append(f"p{d} * x_stride{d}")
            inside.append(f"(p{d} >= 0) & (p{d} < size{d})")
        return [
            *lines,
            f"value = tl.load(x_ptr + ({' + '.join(terms)}), mask={' & '.join(inside)}, other=0.0)",
            k.store("out", "value"),
        ]

    return define(
        Operation(f"unfold{n}d", ("x",), scalars=("x_batch", "x_channel", *_geometry(n)), body=body, keep_dims=True)
    )


@cache
def fold_operation(n: int) -> Operation:
    """out[N, C, *positions] = sum over taps of columns[N, C, tap, (position + pad - tap * dilation) / step]."""

    def body(k: Emitter) -> list[str]:
        lines = [
            *_coordinates(2 + n),
            "total = tl.zeros(mask.shape, columns_ptr.dtype.element_ty)",
            "base = (c0 * channels + c1) * taps",
            "for tap in range(0, taps):",
            "    left = tap.to(tl.int64)",
        ]
        offset, inside = "0", ["mask"]
        for d in range(n - 1, -1, -1):
            lines += [
                f"    q{d} = c{2 + d} + pad{d} - (left % kernel{d}) * dilation{d}",
                f"    left = left // kernel{d}",
            ]
        for d in range(n):
            inside.append(f"(q{d} >= 0) & (q{d} % step{d} == 0) & (q{d} // step{d} < n_out{d})")
            offset = f"({offset}) * n_out{d} + q{d} // step{d}"
        positions = " * ".join(f"n_out{d}" for d in range(n))
        lines += [
            f"    at = (base + tap) * ({positions}) + {offset}",
            f"    total += tl.load(columns_ptr + at, mask={' & '.join(inside)}, other=0)",
        ]
        return [*lines, k.store("out", "total")]

    numbers = tuple(f"{what}{d}" for d in range(n) for what in ("step", "pad", "dilation", "kernel", "n_out"))
    return define(
        Operation(f"fold{n}d", ("columns",), scalars=("channels", "taps", *numbers), body=body, keep_dims=True)
    )


def _product(values: Sequence[int]) -> int:
    n = 1
    for v in values:
        n *= v
    return n


def _all(values: Sequence[int], n: int) -> list[int]:
    return list(values) * n if len(values) == 1 else list(values)


class Geometry:
    """Sizes of one convolution: `inner` the side with positions to sum over patches, `outer` the patches' side."""

    def __init__(
        self,
        inner: Sequence[int],
        outer: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        n = len(kernel)
        self.n, self.inner, self.outer, self.kernel = n, list(inner), list(outer), list(kernel)
        self.stride, self.padding, self.dilation = _all(stride, n), _all(padding, n), _all(dilation, n)
        self.taps, self.positions = _product(kernel), _product(outer)


def unfold(x: torch.Tensor, g: Geometry) -> torch.Tensor:
    """[N, C, *inner] -> [N, C * T, L]."""
    N, C = x.shape[:2]
    out = torch.empty((N, C, *g.kernel, *g.outer), dtype=x.dtype, device=x.device)
    numbers = [v for d in range(g.n) for v in (g.inner[d], x.stride(2 + d), g.stride[d], g.padding[d], g.dilation[d])]
    launch(
        unfold_operation(g.n),
        out,
        (x.as_strided((1,), (1,)),),
        (x.stride(0), x.stride(1), *numbers),
        compute=torch.int64,
    )
    return out.view(N, C * g.taps, g.positions)


def fold(columns: torch.Tensor, C: int, g: Geometry, out: torch.Tensor) -> None:
    """[N, C * T, L] contiguous -> out [N, C, *inner]."""
    numbers = [v for d in range(g.n) for v in (g.stride[d], g.padding[d], g.dilation[d], g.kernel[d], g.outer[d])]
    launch(fold_operation(g.n), out, (columns.view(-1)[:1],), (C, g.taps, *numbers), compute=torch.int64)


def _is_pointwise(g: Geometry) -> bool:
    return g.taps == 1 and all(s == 1 for s in g.stride) and not any(g.padding)


def _columns(x: torch.Tensor, g: Geometry) -> torch.Tensor:
    if _is_pointwise(g):
        return contiguous(x).view(x.shape[0], x.shape[1], g.positions)
    return unfold(x, g)


def output_size(
    inner: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
) -> list[int]:
    n = len(kernel)
    s, p, d, o = _all(stride, n), _all(padding, n), _all(dilation, n), _all(output_padding, n)
    if transposed:
        return [(inner[i] - 1) * s[i] - 2 * p[i] + d[i] * (kernel[i] - 1) + o[i] + 1 for i in range(n)]
    return [(inner[i] + 2 * p[i] - d[i] * (kernel[i] - 1) - 1) // s[i] + 1 for i in range(n)]


def _correlate(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, g: Geometry, groups: int
) -> torch.Tensor:
    """out[N, O, *outer]: patches of x [N, C, *inner] times weight [O, C / groups, *kernel]."""
    N, n_out = x.shape[0], weight.shape[0]
    out = torch.empty((N, n_out, g.positions), dtype=x.dtype, device=x.device)
    columns = _columns(x, g).unflatten(1, (groups, -1))
    w = contiguous(weight).view(groups, n_out // groups, -1)
    for i in range(groups):
        part = slice(i * (n_out // groups), (i + 1) * (n_out // groups))
        c = None if bias is None else bias[part].view(1, -1, 1)
        multiply(w[i].expand(N, -1, -1), columns[:, i], out[:, part], c)
    return out.view(N, n_out, *g.outer)


def _spread(
    y: torch.Tensor, weight: torch.Tensor, g: Geometry, groups: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """out[N, C, *inner]: transpose of `_correlate` in x, for y [N, O, *outer] and weight [O, C / groups, *kernel].

    Narrow types are summed in float32 and rounded once.
    """
    N, n_out = y.shape[:2]
    C = weight.shape[1] * groups
    rows = contiguous(y).view(N, groups, n_out // groups, g.positions)
    w = contiguous(weight).view(groups, n_out // groups, -1)
    kind = compute_dtype(y.dtype)
    columns = torch.empty((N, groups, w.shape[2], g.positions), dtype=kind, device=y.device)
    for i in range(groups):
        multiply(w[i].t().expand(N, -1, -1), rows[:, i], columns[:, i])
    out = torch.empty((N, C, *g.inner), dtype=y.dtype if bias is None else kind, device=y.device)
    fold(columns, C, g, out)
    return out if bias is None else cast(out.add_(bias.view(1, -1, *([1] * g.n))), y.dtype)


def _weight_gradient(x: torch.Tensor, y: torch.Tensor, shape: Sequence[int], g: Geometry, groups: int) -> torch.Tensor:
    """Gradient [O, C / groups, *kernel] of `_correlate` in the weight, for x [N, C, *inner] and y [N, O, *outer]."""
    N, n_out = y.shape[:2]
    columns = _columns(x, g).unflatten(1, (groups, -1))
    rows = contiguous(y).view(N, groups, n_out // groups, g.positions)
    kind = compute_dtype(x.dtype)
    each = torch.empty((N, groups, n_out // groups, columns.shape[2]), dtype=kind, device=x.device)
    for i in range(groups):
        multiply(rows[:, i], columns[:, i].transpose(1, 2), each[:, i])
    out = torch.empty(each.shape[1:], dtype=x.dtype, device=x.device)
    reduce("sum", each, 0, out, acc=kind)
    return out.view(tuple(shape))


@aten("convolution_overrideable")
def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    n = weight.dim() - 2
    if x.dim() == n + 1:
        batch = convolution(x.unsqueeze(0), weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        return batch.squeeze(0)
    kernel = weight.shape[2:]
    outer = output_size(x.shape[2:], kernel, stride, padding, dilation, transposed, output_padding)
    if x.numel() == 0:
        channels = weight.shape[1] * groups if transposed else weight.shape[0]
        return torch.empty((x.shape[0], channels, *outer), dtype=x.dtype, device=x.device)
    if not transposed:
        g = Geometry(x.shape[2:], outer, kernel, stride, padding, dilation)
        return _correlate(x, weight, bias, g, groups)
    g = Geometry(outer, x.shape[2:], kernel, stride, padding, dilation)
    return _spread(x, weight, g, groups, bias)


@aten("convolution_backward_overrideable")
def convolution_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    kernel = weight.shape[2:]
    dx = dw = db = None
    if transposed:
        g = Geometry(grad.shape[2:], x.shape[2:], kernel, stride, padding, dilation)
        dx = _correlate(grad, weight, None, g, groups) if output_mask[0] else None
        dw = _weight_gradient(grad, x, weight.shape, g, groups) if output_mask[1] else None
    else:
        g = Geometry(x.shape[2:], grad.shape[2:], kernel, stride, padding, dilation)
        dx = _spread(grad, weight, g, groups) if output_mask[0] else None
        dw = _weight_gradient(x, grad, weight.shape, g, groups) if output_mask[1] else None
    if output_mask[2]:
        channels = grad.shape[1]
        db = fill(torch.empty((channels,), dtype=grad.dtype, device=grad.device), 0)
        reduce("sum", grad, [0, *range(2, grad.dim())], db, acc=compute_dtype(grad.dtype))
    return dx, dw, db
