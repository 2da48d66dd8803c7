"""Reductions over any dims: one generator, a table of what is folded.

The kept dims are the rows of a walk, the reduced dims its columns. A tile lies along whichever has the unit stride.
Where there are few rows and much to fold, the columns are split over programs and a second launch folds the partials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from mtia.kernels.copy import cast, contiguous, copy_strided, fill
from mtia.kernels.dtypes import accumulate_dtype, compute_dtype, triton_name
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.iteration import INT32_LIMIT, ceil_div, collapse, next_power_of_2, order
from mtia.kernels.registry import aten
from mtia.kernels.source import jit_from_source

TILE = 1024
SPLIT_COLUMNS = 2048  # fewest columns worth a program of their own
FEW_PROGRAMS = 16
MOST_SPLITS = 64


@dataclass(frozen=True, slots=True)
class Fold:
    """`x` is mapped, folded into `acc` and finished; `whole` folds a tile of accumulators along AXIS.

    `identity`: "zero", "one", "low" (least value of the type) or "high". Partial results are combined as
    they are, unmapped.
    """

    name: str
    identity: str
    combine: str
    whole: str
    mapped: str = "x"
    finish: str = "acc"
    with_index: bool = False


_SUM = dict(identity="zero", combine="acc + x", whole="tl.sum(acc, AXIS)")
_FOLDS = (
    Fold("sum", **_SUM),
    Fold("mean", **_SUM, finish="acc / count"),
    Fold("sum_abs", **_SUM, mapped="tl.abs(x)"),
    Fold("norm2", **_SUM, mapped="x * x", finish="fn.square_root(acc)"),
    Fold("amax", "low", "fn.nan_max(acc, x)", "tl.reduce(acc, AXIS, fn.nan_max)"),
    Fold("amin", "high", "fn.nan_min(acc, x)", "tl.reduce(acc, AXIS, fn.nan_min)"),
    Fold("amax_abs", "zero", "fn.nan_max(acc, x)", "tl.reduce(acc, AXIS, fn.nan_max)", "tl.abs(x)"),
    Fold("amin_abs", "high", "fn.nan_min(acc, x)", "tl.reduce(acc, AXIS, fn.nan_min)", "tl.abs(x)"),
    Fold("prod", "one", "acc * x", "tl.reduce(acc, AXIS, fn.multiply)"),
    Fold("xor", "zero", "acc ^ x", "tl.xor_sum(acc, AXIS)"),
    Fold("any", "zero", "acc | x", "tl.reduce(acc, AXIS, fn.either)", "(x != 0).to(tl.int32)"),
    Fold("all", "one", "acc & x", "tl.reduce(acc, AXIS, fn.both)", "(x != 0).to(tl.int32)"),
    Fold(
        "argmax",
        "low",
        "fn.first_max(acc, acc_i, x, index)",
        "tl.reduce((acc, acc_i), AXIS, fn.first_max)",
        with_index=True,
    ),
    Fold(
        "argmin",
        "high",
        "fn.first_min(acc, acc_i, x, index)",
        "tl.reduce((acc, acc_i), AXIS, fn.first_min)",
        with_index=True,
    ),
)
FOLDS = {f.name: f for f in _FOLDS}


def _identity(kind: str, dtype: torch.dtype) -> str:
    if kind in ("zero", "one"):
        return "0" if kind == "zero" else "1"
    if dtype.is_floating_point:
        return "float('-inf')" if kind == "low" else "float('inf')"
    info = torch.iinfo(dtype)
    return str(info.min if kind == "low" else info.max)


@cache
def _kernel(
    fold_name: str,
    acc: torch.dtype,
    out: torch.dtype,
    n_kept: int,
    n_reduced: int,
    axis: int,
    tile: tuple[int, int],
    wide: bool,
    part: str,
) -> Any:
    """`part`: "whole" (one launch), "first" (partials out) or "last" (partials in)."""
    fold = FOLDS[fold_name]
    rows, columns = tile
    index, acc_type = ("tl.int64" if wide else "tl.int32"), triton_name(acc)
    if acc == torch.bool:
        acc_type = "tl.int32"
    kept = [(f"m{d}", f"kx{d}", f"ko{d}") for d in range(n_kept)]
    reduced = [(f"r{d}", f"rx{d}") for d in range(n_reduced)]
    integers = [*(n for t in kept for n in t), *(n for t in reduced for n in t), "n_columns", "per_split", "out_split"]
    pointers = ["x_ptr", "out_ptr"] + (["out_i_ptr"] if fold.with_index else [])
    pointers += ["x_i_ptr"] if fold.with_index and part == "last" else []
    row_at, column_at = ("[:, None]", "[None, :]") if axis == 1 else ("[None, :]", "[:, None]")
    shape = f"[{rows}, {columns}]" if axis == 1 else f"[{columns}, {rows}]"
    identity = _identity(fold.identity, acc)
    lines = [
        *row_lines(kept, rows, index),
        f"split = tl.program_id(1).to({index})",
        f"acc = tl.full({shape}, {identity}, {acc_type})",
        *([f"acc_i = tl.full({shape}, 2147483647, tl.int64)"] if fold.with_index else []),
        "start = split * per_split",
        "stop = tl.minimum(start + per_split, n_columns)",
        f"for at in range(start, stop, {columns}):",
        *("    " + line for line in loop_lines(fold, acc_type, identity, reduced, columns, row_at, column_at, part)),
    ]
    lines += [f"acc, acc_i = {fold.whole}" if fold.with_index else f"acc = {fold.whole}"]
    lines = [line.replace("AXIS", str(axis)) for line in lines]
    lines += ["out_at = row_ko + split * out_split"]
    finish = fold.finish if part != "first" else "acc"
    lines += [f"tl.store(out_ptr + out_at, ({finish}).to({triton_name(out)}), mask=row_mask)"]
    if fold.with_index:
        lines += ["tl.store(out_i_ptr + out_at, acc_i, mask=row_mask)"]
    parameters = [*pointers, *(["count"] if "count" in finish else []), *integers]
    name = f"mtia_{fold_name}" + ("" if part == "whole" else f"_{part}")
    source = f"def {name}({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
    return jit_from_source(name, source, tuple(integers))


def row_lines(kept: list[tuple[str, str, str]], rows: int, index: str) -> list[str]:
    """Source of a program's rows: `row`, `row_mask`, and where they begin in x and out (`row_kx`, `row_ko`)."""
    lines = [
        f"row = tl.program_id(0).to({index}) * {rows} + tl.arange(0, {rows})",
        f"row_mask = row < {' * '.join(n for n, _, _ in kept)}",
        "rest = row",
    ]
    x_terms, o_terms = [], []
    for d in range(len(kept) - 1, -1, -1):
        size, x_stride, o_stride = kept[d]
        lines += [f"c{d} = rest % {size}", f"rest = rest // {size}"] if d else ["c0 = rest"]
        x_terms.append(f"c{d} * {x_stride}")
        o_terms.append(f"c{d} * {o_stride}")
    return [*lines, f"row_kx = {' + '.join(x_terms)}", f"row_ko = {' + '.join(o_terms)}"]


def loop_lines(
    fold: Fold,
    acc_type: str,
    identity: str,
    reduced: list[tuple[str, str]],
    columns: int,
    row_at: str,
    column_at: str,
    part: str,
) -> list[str]:
    """Source of one step of the loop over columns: load a tile, map it, combine it into `acc`."""
    if len(reduced) == 1:
        step = [f"column_off = column * {reduced[0][1]}"]
    else:
        (_, outer), (size, inner) = reduced
        step = [f"column_off = (column // {size}) * {outer} + (column % {size}) * {inner}"]
    load_type = acc_type
    lines = [
        f"column = at + tl.arange(0, {columns})",
        *step,
        f"mask = (column < stop){column_at} & row_mask{row_at}",
        f"where = row_kx{row_at} + column_off{column_at}",
        f"x = tl.load(x_ptr + where, mask=mask).to({load_type})",
        f"x = tl.where(mask, {fold.mapped if part != 'last' else 'x'}, {identity}).to({acc_type})",
    ]
    if not fold.with_index:
        return [*lines, f"acc = {fold.combine}"]
    if part == "last":
        lines += ["index = tl.load(x_i_ptr + where, mask=mask, other=2147483647)"]
    else:
        lines += [f"index = tl.where(mask, (column{column_at} + row{row_at} * 0).to(tl.int64), 2147483647)"]
    return [*lines, f"acc, acc_i = {fold.combine}"]


def normalise_dims(dims: Any, n: int) -> list[int]:
    """Dims counted from 0, sorted; None or () means all."""
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return list(range(n))
    return sorted({d % max(n, 1) for d in ([dims] if isinstance(dims, int) else dims)})


def reduced_shape(shape: Sequence[int], dims: Sequence[int], keepdim: bool) -> list[int]:
    if keepdim:
        return [1 if d in dims else n for d, n in enumerate(shape)]
    return [n for d, n in enumerate(shape) if d not in dims]


def reduce(
    name: str,
    x: torch.Tensor,
    dims: Any,
    out: torch.Tensor,
    *,
    keepdim: bool = False,
    out_index: torch.Tensor | None = None,
    acc: torch.dtype | None = None,
) -> None:
    """Fold `x` along `dims` into `out` (already of the reduced shape; `out_index` int64 for arg folds)."""
    if out.numel() == 0:
        return
    if x.dim() == 0:
        x = x.reshape(1)
        keepdim, dims = False, [0]
    reduced = normalise_dims(dims, x.dim())
    dense = _kept_view(out, reduced, keepdim)
    index = None if out_index is None else _kept_view(out_index, reduced, keepdim)
    if x.numel() == 0:
        fill(out, {"mean": float("nan"), "prod": 1, "all": 1}.get(name, 0))
        return
    _reduce_into(FOLDS[name], x, reduced, dense, index, acc or accumulate_dtype(x.dtype))


def _kept_view(out: torch.Tensor, reduced: list[int], keepdim: bool) -> torch.Tensor:
    if not keepdim:
        return out
    for d in reversed(reduced):
        out = out.select(d, 0)
    return out


_layouts: dict[tuple, tuple] = {}


def layout_of(x: torch.Tensor, reduced: list[int], out: torch.Tensor) -> tuple | None:
    """Collapsed (kept sizes, x strides, out strides, reduced sizes, x strides); None where x is too scattered."""
    kept = [d for d in range(x.dim()) if d not in reduced]
    sizes, (kx, ko) = collapse(*order([x.shape[d] for d in kept], [[x.stride(d) for d in kept], list(out.stride())]))
    r_sizes, (rx,) = collapse([x.shape[d] for d in reduced], [[x.stride(d) for d in reduced]])
    if len(sizes) > 3 or len(r_sizes) > 2:
        return None
    return sizes, kx, ko, r_sizes, rx


def _reduce_into(
    fold: Fold,
    x: torch.Tensor,
    reduced: list[int],
    out: torch.Tensor,
    out_index: torch.Tensor | None,
    acc: torch.dtype,
    part: str = "whole",
    count: float | None = None,
    x_index: torch.Tensor | None = None,
) -> None:
    key = (x.shape, x.stride(), tuple(reduced), out.stride())
    layout = _layouts.get(key)
    if layout is None:
        layout = layout_of(x, reduced, out)
        if layout is None:
            kept = [d for d in range(x.dim()) if d not in reduced]
            x = contiguous(x.permute(*kept, *reduced))
            reduced = list(range(len(kept), x.dim()))
            layout = layout_of(x, reduced, out)
            if layout is None:
                temporary = torch.empty(out.shape, dtype=out.dtype, device=out.device)
                index = None if out_index is None else torch.empty_like(temporary, dtype=torch.int64)
                _reduce_into(fold, x, reduced, temporary, index, acc, part, count, x_index)
                copy_strided(out, temporary)
                if out_index is not None and index is not None:
                    copy_strided(out_index, index)
                return
        else:
            _layouts[key] = layout
    sizes, kx, ko, r_sizes, rx = layout
    n_rows, n_columns = _product(sizes), _product(r_sizes)
    axis = 1 if abs(rx[-1]) <= abs(kx[-1]) or n_rows == 1 else 0
    tile = tile_of(n_rows, n_columns, axis)
    n_splits = splits_of(ceil_div(n_rows, tile[0]), n_columns) if part == "whole" else 1
    if n_splits > 1:
        _two_launches(fold, x, reduced, out, out_index, acc, n_splits, tile, axis, layout)
        return
    wide = needs_int64(x, sizes + r_sizes, kx + rx)
    kernel = _kernel(fold.name, acc, out.dtype, len(sizes), len(r_sizes), axis, tile, wide, part)
    pointers = [x, out] + ([out_index] if fold.with_index else []) + ([x_index] if x_index is not None else [])
    integers = walk_integers(sizes, kx, ko, r_sizes, rx, n_columns, n_columns, 0)
    kernel[(ceil_div(n_rows, tile[0]), 1)](*pointers, *_count(fold, part, count or n_columns), *integers)


def needs_int64(x: torch.Tensor, sizes: list[int], strides: list[int]) -> bool:
    """Whether an offset or index of the walk leaves 32 bits."""
    return max(x.numel(), sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))) > INT32_LIMIT - TILE


def _two_launches(
    fold: Fold,
    x: torch.Tensor,
    reduced: list[int],
    out: torch.Tensor,
    out_index: torch.Tensor | None,
    acc: torch.dtype,
    n_splits: int,
    tile: tuple[int, int],
    axis: int,
    layout: tuple,
) -> None:
    sizes, kx, _, r_sizes, rx = layout
    n_rows, n_columns = _product(sizes), _product(r_sizes)
    per_split = ceil_div(ceil_div(n_columns, n_splits), tile[1]) * tile[1]
    n_splits = ceil_div(n_columns, per_split)
    stored = torch.int32 if acc == torch.bool else acc
    partial = torch.empty((n_splits, *out.shape), dtype=stored, device=x.device)
    index = torch.empty_like(partial, dtype=torch.int64) if fold.with_index else None
    sizes, kx, ko, r_sizes, rx = layout_of(x, reduced, partial[0]) or layout
    kernel = _kernel(
        fold.name, acc, stored, len(sizes), len(r_sizes), axis, tile, x.numel() > INT32_LIMIT - TILE, "first"
    )
    pointers = [x, partial] + ([index] if index is not None else [])
    integers = walk_integers(sizes, kx, ko, r_sizes, rx, n_columns, per_split, n_rows)
    kernel[(ceil_div(n_rows, tile[0]), n_splits)](*pointers, *integers)
    _reduce_into(fold, partial, [0], out, out_index, acc, "last", float(n_columns), index)


def walk_integers(
    sizes: list[int],
    kx: list[int],
    ko: list[int],
    r_sizes: list[int],
    rx: list[int],
    n_columns: int,
    per_split: int,
    out_split: int,
) -> list[int]:
    kept = [v for triple in zip(sizes, kx, ko, strict=True) for v in triple]
    reduced = [v for pair in zip(r_sizes, rx, strict=True) for v in pair]
    return [*kept, *reduced, n_columns, per_split, out_split]


def _count(fold: Fold, part: str, count: float) -> list[float]:
    return [float(count)] if "count" in fold.finish and part != "first" else []


def tile_of(n_rows: int, n_columns: int, axis: int) -> tuple[int, int]:
    if axis == 1:
        columns = min(next_power_of_2(n_columns), TILE)
        rows = min(next_power_of_2(n_rows), max(1, TILE // columns), next_power_of_2(ceil_div(n_rows, 64)))
    else:
        rows = min(next_power_of_2(n_rows), 128)
        columns = min(next_power_of_2(n_columns), max(1, 2 * TILE // rows))
    return rows, columns


def splits_of(n_programs: int, n_columns: int) -> int:
    if n_programs > FEW_PROGRAMS or n_columns < 2 * SPLIT_COLUMNS:
        return 1
    return min(MOST_SPLITS // n_programs, n_columns // SPLIT_COLUMNS)


def _product(sizes: Sequence[int]) -> int:
    n = 1
    for s in sizes:
        n *= s
    return n


# --- aten -------------------------------------------------------------------------------------------------------------


def _run(name: str, x: torch.Tensor, dims: Any, keepdim: bool, out: torch.Tensor, acc: torch.dtype) -> torch.Tensor:
    shape = reduced_shape(x.shape, normalise_dims(dims, x.dim()), keepdim)
    if list(out.shape) != shape:
        out.resize_(shape)
    reduce(name, x, dims, out, keepdim=keepdim, acc=acc)
    return out


def _sum_accumulator(x: torch.Tensor, out: torch.Tensor) -> torch.dtype:
    return (
        accumulate_dtype(out.dtype if out.dtype.is_floating_point else x.dtype)
        if out.dtype.is_floating_point or not x.dtype.is_floating_point
        else torch.float32
    )


@aten("sum.IntList_out")
def sum_out(
    x: torch.Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, out: torch.Tensor
) -> torch.Tensor:
    return _run("sum", x, dim, keepdim, out, _sum_accumulator(x, out))


@aten("mean.out")
def mean_out(
    x: torch.Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, out: torch.Tensor
) -> torch.Tensor:
    return _run("mean", x, dim, keepdim, out, accumulate_dtype(out.dtype))


@aten("prod.int_out")
def prod_int_out(
    x: torch.Tensor, dim: int, keepdim: bool = False, *, dtype: Any = None, out: torch.Tensor
) -> torch.Tensor:
    return _run("prod", x, dim, keepdim, out, _sum_accumulator(x, out))


@aten("prod")
def prod(x: torch.Tensor, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    kind = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    out = torch.empty((), dtype=kind, device=x.device)
    return _run("prod", x, None, False, out, _sum_accumulator(x, out))


def _extreme_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.uint8 if x.dtype == torch.bool else compute_dtype(x.dtype)


@aten("amax.out")
def amax_out(x: torch.Tensor, dim: Any = (), keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
    return _run("amax", x, dim, keepdim, out, _extreme_dtype(x))


@aten("amin.out")
def amin_out(x: torch.Tensor, dim: Any = (), keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
    return _run("amin", x, dim, keepdim, out, _extreme_dtype(x))


@aten("max")
def max_all(x: torch.Tensor) -> torch.Tensor:
    return amax_out(x, None, out=torch.empty((), dtype=x.dtype, device=x.device))


@aten("min")
def min_all(x: torch.Tensor) -> torch.Tensor:
    return amin_out(x, None, out=torch.empty((), dtype=x.dtype, device=x.device))


def _with_index(
    name: str, x: torch.Tensor, dim: Any, keepdim: bool, values: torch.Tensor, indices: torch.Tensor
) -> None:
    shape = reduced_shape(x.shape, normalise_dims(dim, x.dim()), keepdim)
    for t in (values, indices):
        if list(t.shape) != shape:
            t.resize_(shape)
    reduce(name, x, dim, values, keepdim=keepdim, out_index=indices, acc=_extreme_dtype(x))


@aten("max.dim_max")
def max_dim_max(
    x: torch.Tensor, dim: int, keepdim: bool = False, *, max: torch.Tensor, max_values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    _with_index("argmax", x, dim, keepdim, max, max_values)
    return max, max_values


@aten("min.dim_min")
def min_dim_min(
    x: torch.Tensor, dim: int, keepdim: bool = False, *, min: torch.Tensor, min_indices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    _with_index("argmin", x, dim, keepdim, min, min_indices)
    return min, min_indices


def _arg(name: str, x: torch.Tensor, dim: int | None, keepdim: bool, out: torch.Tensor) -> torch.Tensor:
    source = x.reshape(-1) if dim is None else x
    shape = reduced_shape(source.shape, normalise_dims(0 if dim is None else dim, source.dim()), keepdim)
    if dim is None and keepdim:
        shape = [1] * x.dim()
    if list(out.shape) != shape:
        out.resize_(shape)
    index = out.view(()) if dim is None else out
    values = torch.empty(index.shape, dtype=x.dtype, device=x.device)
    reduce(
        name,
        source,
        0 if dim is None else dim,
        values,
        keepdim=keepdim and dim is not None,
        out_index=index,
        acc=_extreme_dtype(x),
    )
    return out


@aten("argmax.out")
def argmax_out(x: torch.Tensor, dim: int | None = None, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
    return _arg("argmax", x, dim, keepdim, out)


@aten("argmin.out")
def argmin_out(x: torch.Tensor, dim: int | None = None, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
    return _arg("argmin", x, dim, keepdim, out)


def _logical(name: str, x: torch.Tensor, dim: Any, keepdim: bool, out: torch.Tensor) -> torch.Tensor:
    acc = torch.int32 if x.dtype == torch.bool else compute_dtype(x.dtype)
    if acc != torch.int32:
        x, acc = nonzero_mask(x), torch.int32
    return _run(name, x, dim, keepdim, out, acc)


NONZERO_MASK = define(Operation("is_nonzero", ("x",), "x != 0"))


def nonzero_mask(x: torch.Tensor) -> torch.Tensor:
    """bool: x != 0."""
    mask = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    launch(NONZERO_MASK, mask, (x,), compute=compute_dtype(x.dtype))
    return mask


@aten("any.out", "any.dims_out")
def any_out(x: torch.Tensor, dim: Any = None, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
    return _logical("any", x, dim, keepdim, out)


@aten("any.all_out")
def any_all_out(x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    return _logical("any", x, None, False, out)


@aten("all.out", "all.dims_out")
def all_out(x: torch.Tensor, dim: Any = None, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
    return _logical("all", x, dim, keepdim, out)


@aten("all.all_out")
def all_all_out(x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    return _logical("all", x, None, False, out)


@aten("hash_tensor.out")
def hash_tensor_out(
    x: torch.Tensor, dim: Any = (), *, keepdim: bool = False, mode: int = 0, out: torch.Tensor
) -> torch.Tensor:
    """Exclusive or of the elements' 64 bits: of floats as float64, of integers as int64 (mode 0, the only one)."""
    bits = cast(x, torch.float64).view(torch.int64) if x.dtype.is_floating_point else cast(x, torch.int64)
    shape = reduced_shape(x.shape, normalise_dims(dim, x.dim()), keepdim)
    if list(out.shape) != shape:
        out.resize_(shape)
    _run("xor", bits, dim, keepdim, out.view(torch.int64), torch.int64)
    return out


@aten("count_nonzero.dim_IntList")
def count_nonzero(x: torch.Tensor, dim: Any) -> torch.Tensor:
    out = torch.empty((), dtype=torch.int64, device=x.device)
    return _run("sum", nonzero_mask(x), dim, False, out, torch.int64)


_NORMS = {2: "norm2", 1: "sum_abs", float("inf"): "amax_abs", float("-inf"): "amin_abs"}


@aten("linalg_vector_norm.out")
def vector_norm_out(
    x: torch.Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, out: torch.Tensor
) -> torch.Tensor:
    acc = accumulate_dtype(out.dtype)
    if ord == 0:
        return _run("sum", nonzero_mask(x), dim, keepdim, out, acc)
    if ord in _NORMS:
        return _run(_NORMS[ord], x, dim, keepdim, out, acc)
    powers = cast(x, acc).abs().pow(ord)
    return out.copy_(powers.sum(normalise_dims(dim, x.dim()), keepdim=keepdim).pow(1.0 / ord))


@aten("norm.out")
def norm_out(x: torch.Tensor, p: Any, dim: Any, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
    return vector_norm_out(x, 2 if p is None else p, dim, keepdim, out=out)


@aten("norm.dtype_out")
def norm_dtype_out(
    x: torch.Tensor, p: Any, dim: Any, keepdim: bool = False, *, dtype: Any = None, out: torch.Tensor
) -> torch.Tensor:
    return vector_norm_out(x, 2 if p is None else p, dim, keepdim, out=out)
