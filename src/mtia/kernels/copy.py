"""Copies, casts, fills and layouts: device to device, any strides, any pair of dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.registry import aten

COPY = define(Operation("copy", ("x",), "x"))
FILL = define(Operation("fill", ("value",), "value"))


def copy_strided(dst: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
    """dst[...] = src (broadcast, converted to dst's dtype), both on one device. Returns dst."""
    if dst.is_complex() or src.is_complex():
        return _copy_complex(dst, src)
    same_family = src.dtype.is_floating_point == dst.dtype.is_floating_point
    launch(COPY, dst, (src,), compute=src.dtype if same_family or dst.dtype == torch.bool else _between(src, dst))
    return dst


def _copy_complex(dst: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts by themselves: a real source has no imaginary part, a real target drops it."""
    if not dst.is_complex():
        copy_strided(dst, torch.view_as_real(src).select(-1, 0))
        return dst
    parts = torch.view_as_real(dst)
    if src.is_complex():
        copy_strided(parts, torch.view_as_real(src))
        return dst
    copy_strided(parts.select(-1, 0), src)
    fill(parts.select(-1, 1), 0)
    return dst


def _between(src: torch.Tensor, dst: torch.Tensor) -> torch.dtype:
    """float <-> integer conversions go through a wide float."""
    return compute_dtype(src.dtype) if src.dtype.is_floating_point else src.dtype


def contiguous(x: torch.Tensor) -> torch.Tensor:
    """`x`, or a contiguous copy of it."""
    if x.is_contiguous():
        return x
    return copy_strided(torch.empty(x.shape, dtype=x.dtype, device=x.device), x)


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x`, or a copy of it in `dtype`."""
    if x.dtype == dtype:
        return x
    return copy_strided(torch.empty_like(x, dtype=dtype), x)


def fill(x: torch.Tensor, value: Any) -> torch.Tensor:
    """x[...] = value (a number or a one-element tensor)."""
    if x.is_complex():
        number = complex(value.item() if isinstance(value, torch.Tensor) else value)
        parts = torch.view_as_real(x)
        fill(parts.select(-1, 0), number.real)
        fill(parts.select(-1, 1), number.imag)
        return x
    launch(FILL, x, (value,), compute=compute_dtype(x.dtype))
    return x


def full(shape: Sequence[int], value: Any, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A new tensor on `like`'s device, filled with `value`."""
    return fill(torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device), value)


@aten("fill_.Scalar", "fill_.Tensor")
def fill_(x: torch.Tensor, value: Any) -> torch.Tensor:
    return fill(x, value)


@aten("zero_")
def zero_(x: torch.Tensor) -> torch.Tensor:
    return fill(x, 0)


@aten("_efficientzerotensor")
def efficient_zeros(
    size: Sequence[int], *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> torch.Tensor:
    """Gradients that are zero: with memory of their own, as ordinary tensors are (CPU's has none)."""
    return torch.zeros(size, dtype=dtype, device=device)


@aten("complex.out")
def complex_out(real: torch.Tensor, imag: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    shape = torch.broadcast_shapes(real.shape, imag.shape)
    if out.shape != shape:
        out.resize_(shape)
    parts = torch.view_as_real(out)
    copy_strided(parts.select(-1, 0), real)
    copy_strided(parts.select(-1, 1), imag)
    return out


@aten("polar.out")
def polar_out(size: torch.Tensor, angle: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    return complex_out(size * angle.cos(), size * angle.sin(), out=out)


@aten("cat.out")
def cat_out(tensors: Sequence[torch.Tensor], dim: int = 0, *, out: torch.Tensor) -> torch.Tensor:
    parts = [t for t in tensors if not (t.dim() == 1 and t.numel() == 0)]
    if not parts:
        return out.resize_(0)
    dim %= max(parts[0].dim(), 1)
    shape = list(parts[0].shape)
    shape[dim] = sum(t.shape[dim] for t in parts)
    if list(out.shape) != shape:
        out.resize_(shape)
    start = 0
    for t in parts:
        if t.numel():
            copy_strided(out.narrow(dim, start, t.shape[dim]), t)
        start += t.shape[dim]
    return out


ARANGE = define(
    Operation(
        "arange", (), scalars=("start", "step"), body=lambda k: [k.store("out", f"start + lin.to({k.compute}) * step")]
    )
)


@aten("arange.start_out")
def arange_out(start: Any, end: Any, step: Any = 1, *, out: torch.Tensor) -> torch.Tensor:
    """Values start, start + step, ... below end; of an int64 output whole numbers to begin with."""
    if out.dtype == torch.int64:
        start, end, step = int(start), int(end), int(step)
    is_int = all(isinstance(v, int) for v in (start, end, step))
    n = -((start - end) // step) if is_int else int(-((float(start) - float(end)) // float(step)))
    if out.numel() != n:
        out.resize_(n)
    wide = torch.float64 if out.dtype == torch.float64 else torch.float32
    compute = wide if out.dtype.is_floating_point else torch.int64
    if out.is_contiguous():
        launch(ARANGE, out, (), (start, step), compute=compute)
    else:
        copy_strided(out, arange_out(start, end, step, out=torch.empty(n, dtype=out.dtype, device=out.device)))
    return out


LINSPACE = define(
    Operation(
        "linspace",
        (),
        scalars=("start", "end", "step", "half", "last"),
        body=lambda k: [
            f"i = lin.to({k.compute})",
            k.store("out", "tl.where(i < half, libdevice.fma(step, i, start), libdevice.fma(-step, last - i, end))"),
        ],
    )
)


@aten("linspace.out")
def linspace_out(start: Any, end: Any, steps: int, *, out: torch.Tensor) -> torch.Tensor:
    if out.numel() != steps:
        out.resize_(steps)
    flat = out if out.is_contiguous() else torch.empty(steps, dtype=out.dtype, device=out.device)
    exact = out.dtype == torch.float64 or not out.dtype.is_floating_point
    wide = torch.float64 if exact else torch.float32
    if not out.dtype.is_floating_point:
        start, end = int(start), int(end)
    ends = torch.tensor([float(start), float(end)], dtype=wide)  # rounded before the step, as PyTorch does
    step = ((ends[1] - ends[0]) / max(steps - 1, 1)).item()
    launch(LINSPACE, flat, (), (start, end, step, steps // 2 + (steps == 1), steps - 1), compute=wide)
    return out if flat is out else copy_strided(out, flat)


@aten("logspace.out")
def logspace_out(start: Any, end: Any, steps: int, base: float = 10.0, *, out: torch.Tensor) -> torch.Tensor:
    """Whole outputs from whole exponents' ends, in float64 as PyTorch does."""
    if out.numel() != steps:
        out.resize_(steps)
    whole = not out.dtype.is_floating_point
    ends = (int(start), int(end)) if whole else (start, end)
    wide = torch.float64 if whole else compute_dtype(out.dtype)
    exponents = linspace_out(*ends, steps, out=torch.empty(steps, dtype=wide, device=out.device))
    return copy_strided(out, torch.pow(base, exponents))


def _triangle_indices(keep: Any, row: int, col: int, offset: int, dtype: Any, device: Any) -> torch.Tensor:
    """[2, n]: rows and columns of a triangle, row by row."""
    inside = keep(torch.ones((row, col), dtype=torch.bool, device=device), offset)
    return cast(contiguous(inside.nonzero().t()), dtype or torch.int64)


@aten("tril_indices")
def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, layout: Any = None, device: Any = None, **_: Any
) -> torch.Tensor:
    return _triangle_indices(torch.tril, row, col, offset, dtype, device)


@aten("triu_indices")
def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, layout: Any = None, device: Any = None, **_: Any
) -> torch.Tensor:
    return _triangle_indices(torch.triu, row, col, offset, dtype, device)


def _triangle(name: str, keep: str) -> Operation:
    return define(
        Operation(
            name,
            ("x",),
            scalars=("diagonal",),
            keep_dims=True,
            body=lambda k: [
                f"keep = (column[None, :] - i_row[:, None]) {keep} diagonal",
                f"x = {k.load('x', cast=k.names['x'])}",
                k.store("out", "tl.where(keep, x, (x * 0).to(x.dtype))" if k.names["x"] != "tl.int1" else "x & keep"),
            ],
        )
    )


TRIL, TRIU = _triangle("tril", "<="), _triangle("triu", ">=")


def _triangle_out(operation: Operation, x: torch.Tensor, diagonal: int, out: torch.Tensor) -> torch.Tensor:
    if out.shape != x.shape:
        out.resize_(x.shape)
    launch(operation, out, (x,), (diagonal,), compute=torch.int32)
    return out


@aten("tril.out")
def tril_out(x: torch.Tensor, diagonal: int = 0, *, out: torch.Tensor) -> torch.Tensor:
    return _triangle_out(TRIL, x, diagonal, out)


@aten("triu.out")
def triu_out(x: torch.Tensor, diagonal: int = 0, *, out: torch.Tensor) -> torch.Tensor:
    return _triangle_out(TRIU, x, diagonal, out)


EYE = define(
    Operation(
        "eye", (), keep_dims=True, body=lambda k: [k.store("out", "(column[None, :] == i_row[:, None]).to(tl.int32)")]
    )
)


@aten("eye.out", "eye.m_out")
def eye_out(n: int, m: int | None = None, *, out: torch.Tensor) -> torch.Tensor:
    out.resize_((n, n if m is None else m))
    launch(EYE, out, (), compute=torch.int32)
    return out


@aten("roll")
def roll(x: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    if not dims:
        return roll(x.reshape(-1), shifts, (0,)).view(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        n = x.shape[dim]
        cut = (-shift) % n if n else 0
        x = torch.cat((x.narrow(dim, cut, n - cut), x.narrow(dim, 0, cut)), dim)
    return x
