"""Variance and standard deviation along any dims, and their gradients: one kernel each.

A program walks its columns twice, for the mean and for the squares about it. Where few rows have much to fold, columns
are split over programs as `reduce` does, which takes a launch for each step.
"""

from __future__ import annotations

import warnings
from functools import cache
from math import prod
from typing import Any

import torch

from mtia.kernels.copy import cast, contiguous
from mtia.kernels.dtypes import accumulate_dtype, scalar_argument, scalar_in_kernel, triton_name
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.iteration import ceil_div
from mtia.kernels.reduce import (
    FOLDS,
    Fold,
    layout_of,
    loop_lines,
    needs_int64,
    normalise_dims,
    reduce,
    reduced_shape,
    row_lines,
    splits_of,
    tile_of,
    walk_integers,
)
from mtia.kernels.registry import aten, own
from mtia.kernels.source import jit_from_source

_SQUARES = Fold("squares", "zero", "acc + x", "tl.sum(acc, AXIS)", "(x - mean) * (x - mean)")
CENTRED_SQUARE = define(Operation("centred_square", ("x", "mean"), "(x - mean) * (x - mean)"))
SCALE = define(Operation("scale", ("x",), "x * factor", ("factor",)))
SCALE_ROOT = define(Operation("scale_root", ("x",), "fn.square_root(x * factor)", ("factor",)))
VAR_BACKWARD = define(Operation("var_backward", ("g", "x", "mean"), "g * factor * (x - mean)", ("factor",)))
STD_BACKWARD = define(
    Operation(
        name="std_backward",
        inputs=("g", "x", "mean", "root"),
        expression="tl.where(root == 0, 0.0, g * factor / root * (x - mean))",
        scalars=("factor",),
        other="1",
    )
)


@cache
def _kernel(
    root: bool,
    dtypes: tuple[torch.dtype, torch.dtype],
    n_kept: int,
    n_reduced: int,
    axis: int,
    tile: tuple[int, int],
    wide: bool,
) -> Any:
    """Rows of x in blocks, twice: the mean, then squares about it. `dtypes`: the mean's, the result's."""
    (rows, columns), (acc, out) = tile, map(triton_name, dtypes)
    index = "tl.int64" if wide else "tl.int32"
    kept = [(f"m{d}", f"kx{d}", f"ko{d}") for d in range(n_kept)]
    reduced = [(f"r{d}", f"rx{d}") for d in range(n_reduced)]
    integers = [*(n for t in kept for n in t), *(n for t in reduced for n in t), "n_columns"]
    row_at, column_at = ("[:, None]", "[None, :]") if axis == 1 else ("[None, :]", "[:, None]")
    zeros = f"acc = tl.full({f'[{rows}, {columns}]' if axis == 1 else f'[{columns}, {rows}]'}, 0, {acc})"

    def folded(fold: Fold) -> list[str]:
        body = loop_lines(fold, acc, "0", reduced, columns, row_at, column_at, "whole")
        return [zeros, f"for at in range(0, stop, {columns}):", *("    " + line for line in body)]

    total, result = f"tl.sum(acc, {axis})", f"tl.sum(acc, {axis}) * {scalar_in_kernel('factor', dtypes[0])}"
    lines = [
        *row_lines(kept, rows, index),
        "stop = n_columns",
        *folded(FOLDS["sum"]),
        f"mean_of_row = {total} / count",
        "tl.store(mean_ptr + row_ko, mean_of_row, mask=row_mask)",
        f"mean = mean_of_row{row_at}",
        *folded(_SQUARES),
        f"result = {f'fn.square_root({result})' if root else result}",
        f"tl.store(out_ptr + row_ko, result.to({out}), mask=row_mask)",
    ]
    name = "mtia_std" if root else "mtia_var"
    parameters = ("x_ptr", "out_ptr", "mean_ptr", "count", "factor", *integers)
    source = f"def {name}({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
    return jit_from_source(name, source, ("factor", *integers))


def _in_one_launch(
    x: torch.Tensor, dims: list[int], result: torch.Tensor, mean: torch.Tensor, factor: float, root: bool
) -> bool:
    """False, with nothing done, where columns are worth splitting over programs."""
    kept = [d for d in range(x.dim()) if d not in dims]
    out = result.view([x.shape[d] for d in kept])
    layout = layout_of(x, dims, out)
    if layout is None:
        x = contiguous(x.permute(*kept, *dims))
        dims = list(range(len(kept), x.dim()))
        layout = layout_of(x, dims, out)
        assert layout is not None, "a contiguous tensor collapses to rows and columns"
    sizes, kx, ko, r_sizes, rx = layout
    n_rows, n_columns = prod(sizes), prod(r_sizes)
    axis = 1 if abs(rx[-1]) <= abs(kx[-1]) or n_rows == 1 else 0
    tile = tile_of(n_rows, n_columns, axis)
    if splits_of(ceil_div(n_rows, tile[0]), n_columns) > 1:
        return False
    wide = needs_int64(x, sizes + r_sizes, kx + rx)
    kernel = _kernel(root, (mean.dtype, result.dtype), len(sizes), len(r_sizes), axis, tile, wide)
    integers = walk_integers(sizes, kx, ko, r_sizes, rx, n_columns, 0, 0)[:-2]
    scalars = float(n_columns), scalar_argument(factor, mean.dtype)
    kernel[(ceil_div(n_rows, tile[0]),)](x, result, mean, *scalars, *integers)
    return True


def _in_steps(
    x: torch.Tensor, dims: list[int], result: torch.Tensor, mean: torch.Tensor, factor: float, root: bool
) -> None:
    acc = mean.dtype
    reduce("mean", x, dims, mean, keepdim=True, acc=acc)
    squares = torch.empty(x.shape, dtype=acc, device=x.device)
    launch(CENTRED_SQUARE, squares, (x, mean), compute=acc)
    total = torch.empty(mean.shape, dtype=acc, device=x.device)
    reduce("sum", squares, dims, total, keepdim=True, acc=acc)
    launch(SCALE_ROOT if root else SCALE, result, (total,), (factor,), compute=acc)


def _factor(n: int, correction: float) -> float:
    """1 over the degrees of freedom; infinite where there are none, so that a variance of nothing is NaN."""
    freedom = max(n - correction, 0.0)
    return 1.0 / freedom if freedom else float("inf")


def _folded_together(x: torch.Tensor, dims: list[int]) -> int:
    return prod(x.shape[d] for d in dims) if x.dim() else 1


def variance(
    x: torch.Tensor, dim: Any, correction: Any, keepdim: bool, *, root: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance (or its root) along `dim` in x's dtype, and the mean in that of the arithmetic: squares about the mean.

    The mean has `dim` kept, the result as `keepdim` says.
    """
    dims, acc = normalise_dims(dim, x.dim()), accumulate_dtype(x.dtype)
    kept = reduced_shape(x.shape, dims, True)
    mean = torch.empty(kept, dtype=acc, device=x.device)
    result = torch.empty(kept, dtype=x.dtype, device=x.device)
    n, correction = _folded_together(x, dims), 1.0 if correction is None else float(correction)
    if n <= correction:
        warnings.warn(
            f"a variance of {n} elements with correction {correction:g} has no degrees of freedom: it is infinite or "
            "NaN. Give a correction below the number of elements.",
            stacklevel=3,
        )
    factor = _factor(n, correction)
    if not x.dim() or not x.numel() or not _in_one_launch(x, dims, result, mean, factor, root):
        _in_steps(x, dims, result, mean, factor, root)
    return result.view(reduced_shape(x.shape, dims, keepdim)), mean


def _with_mean(
    x: torch.Tensor, dim: Any, correction: Any, keepdim: bool, *, root: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    result, mean = variance(x, dim, correction, keepdim, root=root)
    return result, cast(mean, x.dtype).view(result.shape)


@aten("var.correction")
def var(x: torch.Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> torch.Tensor:
    return variance(x, dim, correction, keepdim, root=False)[0]


@aten("std.correction")
def std(x: torch.Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> torch.Tensor:
    return variance(x, dim, correction, keepdim, root=True)[0]


@aten("var_mean.correction")
def var_mean(
    x: torch.Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    return _with_mean(x, dim, correction, keepdim, root=False)


@aten("std_mean.correction")
def std_mean(
    x: torch.Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    return _with_mean(x, dim, correction, keepdim, root=True)


@own("variance")
def variance_with_mean(
    x: torch.Tensor, dim: Any, correction: Any, keepdim: bool, root: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the gradient needs: the result and the mean, not rounded to x's dtype, with `dim` kept."""
    return variance(x, dim, correction, keepdim, root=root)


@own("variance_backward")
def variance_backward(
    g: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, root: torch.Tensor | None, dim: Any, correction: Any
) -> torch.Tensor:
    """Gradient of x from that of the variance, or of its `root`; `g` and `root` have `dim` kept or not.

    2 g (x - mean) / freedom; for the root (r) g (x - mean) / (r freedom), and 0 where it is 0.
    """
    dims, out = normalise_dims(dim, x.dim()), torch.empty_like(x)
    factor = _factor(_folded_together(x, dims), 1.0 if correction is None else float(correction))
    g = g.reshape(mean.shape)
    if root is None:
        launch(VAR_BACKWARD, out, (g, x, mean), (2.0 * factor,), compute=mean.dtype)
    else:
        launch(STD_BACKWARD, out, (g, x, mean, root.reshape(mean.shape)), (factor,), compute=mean.dtype)
    return out
