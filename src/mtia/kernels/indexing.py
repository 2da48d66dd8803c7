"""Reading and writing at indices: gather, scatter, advanced indexing, masks.

All are element-wise walks in which one operand's address has index tensors times strides added: a view with stride 0
along the indexed dims gives the rest of the address. Negative indices count from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from mtia.kernels.copy import cast, contiguous, copy_strided, fill
from mtia.kernels.elementwise import Emitter, Operation, define, launch
from mtia.kernels.reduce import nonzero_mask
from mtia.kernels.registry import aten
from mtia.kernels.scan import scan

_ATOMIC_INTS = (torch.int32, torch.int64)


def _address(k: Emitter, base: str, n: int) -> tuple[list[str], str]:
    """Lines that sum the index offsets, and the pointer they give."""
    lines = []
    for j in range(n):
        lines += [
            f"i_{j} = {k.load(f'index{j}', cast='tl.int64')}",
            f"i_{j} = tl.where(i_{j} < 0, i_{j} + size{j}, i_{j})",
        ]
    offset = " + ".join(f"i_{j} * stride{j}" for j in range(n))
    return lines, f"{k.pointer(base)} + ({offset})"


def _scalars(n: int) -> tuple[str, ...]:
    return tuple(f"{what}{j}" for j in range(n) for what in ("size", "stride"))


def _indices(n: int) -> tuple[str, ...]:
    return tuple(f"index{j}" for j in range(n))


@cache
def take_operation(n: int) -> Operation:
    """out = x at n index tensors."""

    def body(k: Emitter) -> list[str]:
        lines, pointer = _address(k, "x", n)
        return [*lines, f"value = tl.load({pointer}, mask=mask)", k.store("out", "value")]

    return define(Operation(f"take{n}", ("x", *_indices(n)), scalars=_scalars(n), body=body))


@cache
def put_operation(n: int, how: str) -> Operation:
    """x at n index tensors = value, or folded with it (`how`: set, add, amax, amin)."""

    def body(k: Emitter) -> list[str]:
        lines, pointer = _address(k, "x", n)
        value = (
            f"({k.load('value', cast=k.names['value'])}).to({k.names['x']})"
            if "value" in k.layouts
            else (f"value.to({k.names['x']})")
        )
        call = {"set": "tl.store", "add": "tl.atomic_add", "amax": "tl.atomic_max", "amin": "tl.atomic_min"}[how]
        return [
            *lines,
            f"{call}({pointer}, {value} + tl.zeros(mask.shape, {k.names['x']}), mask=mask)"
            if k.names["x"] != "tl.int1"
            else f"{call}({pointer}, {value} & mask, mask=mask)",
        ]

    return define(Operation(f"put{n}_{how}", ("value", *_indices(n)), scalars=_scalars(n), body=body, outputs=("x",)))


def _along(x: torch.Tensor, dim: int, shape: Sequence[int]) -> torch.Tensor:
    """`x` at index 0 of `dim`, spread over `shape`: an operand whose address lacks only `dim`'s share."""
    for d, n in enumerate(shape):
        if d != dim and x.shape[d] != n:
            x = x.narrow(d, 0, n)
    return x.narrow(dim, 0, 1).expand(tuple(shape))


def _dim_scalars(x: torch.Tensor, dim: int) -> tuple[int, int]:
    return x.shape[dim], x.stride(dim)


def _at_least_1d(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(t.reshape(1) if t.dim() == 0 else t for t in tensors)


@aten("gather.out")
def gather_out(
    x: torch.Tensor, dim: int, index: torch.Tensor, *, sparse_grad: bool = False, out: torch.Tensor
) -> torch.Tensor:
    if out.shape != index.shape:
        out.resize_(index.shape)
    if index.numel() == 0:
        return out
    x1, index1, out1 = _at_least_1d(x, index, out)
    dim %= x1.dim()
    launch(take_operation(1), out1, (_along(x1, dim, index1.shape), index1), _dim_scalars(x1, dim), compute=torch.int64)
    return out


def _scatter(x: torch.Tensor, dim: int, index: torch.Tensor, value: Any, out: torch.Tensor, how: str) -> torch.Tensor:
    if out is not x:
        if out.shape != x.shape:
            out.resize_(x.shape)
        copy_strided(out, x)
    if index.numel() == 0:
        return out
    target = _atomic_target(out, how)
    x1, index1 = _at_least_1d(target, index)
    dim %= x1.dim()
    if isinstance(value, torch.Tensor):
        (value,) = _at_least_1d(value)
        for d, n in enumerate(index1.shape):
            value = value.narrow(d, 0, n)
        value = cast(value, target.dtype)
    else:
        value = fill(torch.empty((1,), dtype=target.dtype, device=out.device), value)
    launch(
        put_operation(1, how),
        _along(x1, dim, index1.shape),
        (value, index1),
        _dim_scalars(x1, dim),
        compute=torch.int64,
        shape=tuple(index1.shape),
    )
    return out if target is out else copy_strided(out, target)


def _atomic_target(x: torch.Tensor, how: str) -> torch.Tensor:
    """`x`, or a copy in a type that memory can fold atomically (narrow floats: float32; small integers: int32)."""
    if how == "set" or x.dtype in (torch.float32, torch.float64, *_ATOMIC_INTS):
        return x
    return cast(x, torch.float32 if x.dtype.is_floating_point else torch.int32)


@aten("scatter.src_out")
def scatter_src_out(
    x: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, *, out: torch.Tensor
) -> torch.Tensor:
    return _scatter(x, dim, index, src, out, "set")


@aten("scatter.value_out")
def scatter_value_out(x: torch.Tensor, dim: int, index: torch.Tensor, value: Any, *, out: torch.Tensor) -> torch.Tensor:
    return _scatter(x, dim, index, value, out, "set")


@aten("scatter_add.out")
def scatter_add_out(
    x: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, *, out: torch.Tensor
) -> torch.Tensor:
    return _scatter(x, dim, index, src, out, "add")


# --- advanced indexing ------------------------------------------------------------------------------------------------


def _expand_masks(x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Boolean indices as the positions where they hold; host indices moved to the device."""
    out: list[torch.Tensor | None] = []
    for index in indices:
        if index is None:
            out.append(None)
            continue
        index = index.to(x.device) if index.device != x.device else index
        if index.dtype in (torch.bool, torch.uint8):
            out.extend(nonzero(index).unbind(1))
        else:
            out.append(index)
    return out + [None] * (x.dim() - len(out))


def _indexed_view(
    x: torch.Tensor, indices: Sequence[torch.Tensor | None]
) -> tuple[tuple[int, ...], torch.Tensor, list[torch.Tensor], list[int]]:
    """(result shape, x's operand, index operands, sizes and strides) of x[indices]."""
    dims = [d for d, i in enumerate(indices) if i is not None]
    tensors = torch.broadcast_tensors(*[i for i in indices if i is not None])
    block = tuple(tensors[0].shape)
    together = dims == list(range(dims[0], dims[-1] + 1))
    lead = dims[0] if together else 0
    kept = [d for d in range(x.dim()) if d not in dims]
    before = [d for d in kept if together and d < lead]
    after = [d for d in kept if d not in before]
    shape = (*(x.shape[d] for d in before), *block, *(x.shape[d] for d in after))
    strides = (*(x.stride(d) for d in before), *([0] * len(block)), *(x.stride(d) for d in after))
    operand = x.as_strided(shape, strides) if 0 not in shape and x.numel() else x
    spread = [t.reshape((*t.shape, *([1] * len(after)))) for t in tensors]
    return shape, operand, spread, [v for d in dims for v in _dim_scalars(x, d)]


@aten("index.Tensor")
def index_tensor(x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    return _index(x, indices, None)


@aten("index.Tensor_out")
def index_tensor_out(x: torch.Tensor, indices: Sequence[torch.Tensor | None], *, out: torch.Tensor) -> torch.Tensor:
    return _index(x, indices, out)


def _index(x: torch.Tensor, indices: Sequence[torch.Tensor | None], out: torch.Tensor | None) -> torch.Tensor:
    full = _expand_masks(x, indices)
    shape, operand, spread, scalars = _indexed_view(x, full)
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device)
    elif tuple(out.shape) != shape:
        out.resize_(shape)
    if out.numel() == 0:
        return out
    if not out.dim():
        launch(
            take_operation(len(spread)),
            out.view(1),
            (operand.reshape(1), *(s.reshape(1) for s in spread)),
            tuple(scalars),
            compute=torch.int64,
        )
    else:
        launch(take_operation(len(spread)), out, (operand, *spread), tuple(scalars), compute=torch.int64)
    return out


@aten("_index_put_impl_")
def index_put_impl_(
    x: torch.Tensor,
    indices: Sequence[torch.Tensor | None],
    values: torch.Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> torch.Tensor:
    if all(i is None for i in indices):
        return x.add_(values) if accumulate else x.copy_(values)
    if not accumulate and values.numel() == 1 and len(indices) == 1 and _is_mask(indices[0]):
        return _fill_where(x, indices[0], values)
    how = "add" if accumulate else "set"
    target = _atomic_target(x, how)
    shape, operand, spread, scalars = _indexed_view(target, _expand_masks(x, indices))
    if 0 in shape or values.numel() == 0:
        return x
    values = values.to(x.device) if values.device != x.device else values
    values = cast(values, target.dtype).expand(shape)
    launch(
        put_operation(len(spread), how), operand, (values, *spread), tuple(scalars), compute=torch.int64, shape=shape
    )
    return x if target is x else copy_strided(x, target)


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def _fill_where(x: torch.Tensor, mask: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    """x[mask] = number, without finding positions."""
    assert mask is not None
    mask = mask.to(x.device) if mask.device != x.device else mask
    return x.masked_fill_(mask.reshape(*mask.shape, *([1] * (x.dim() - mask.dim()))), value.reshape(()))


@aten("index_select")
def index_select(x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    if x.dim() == 0:
        return x.clone()
    dim %= x.dim()
    return _index(x, [None] * dim + [index.reshape(-1)], None)


@aten("index_select.out")
def index_select_out(x: torch.Tensor, dim: int, index: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    return _index(x, [None] * (dim % x.dim()) + [index.reshape(-1)], out)


def _onto(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    if out is not x:
        if out.shape != x.shape:
            out.resize_(x.shape)
        copy_strided(out, x)
    return out


@aten("index_copy.out")
def index_copy_out(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, out: torch.Tensor
) -> torch.Tensor:
    _onto(x, out)
    target, source1, index1 = _at_least_1d(out, source, index)
    index_put_impl_(target, [None] * (dim % target.dim()) + [index1], source1)
    return out


@aten("index_add.out")
def index_add_out(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, alpha: Any = 1, out: torch.Tensor
) -> torch.Tensor:
    _onto(x, out)
    target, source1, index1 = _at_least_1d(out, source, index)
    scaled = source1 if alpha == 1 else source1 * alpha
    index_put_impl_(target, [None] * (dim % target.dim()) + [index1], scaled, True)
    return out


@aten("index_fill_.int_Scalar", "index_fill_.int_Tensor")
def index_fill_(x: torch.Tensor, dim: int, index: torch.Tensor, value: Any) -> torch.Tensor:
    one = value if isinstance(value, torch.Tensor) else fill(torch.empty((), dtype=x.dtype, device=x.device), value)
    target, index1 = _at_least_1d(x, index)
    index_put_impl_(target, [None] * (dim % target.dim()) + [index1], one)
    return x


@aten("take")
def take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return _index(contiguous(x).view(-1), [index], None)


# --- masks ------------------------------------------------------------------------------------------------------------


def _coordinate(k: Emitter) -> list[str]:
    """Where x holds: coordinate (lin // stride) % size, written to row (number of earlier ones) of one column."""
    return [
        f"found = mask & {k.load('x', cast='tl.int1')}",
        f"at = {k.load('counts', cast='tl.int64')} - 1",
        "tl.store(out_ptr + at * columns, (lin.to(tl.int64) // stride) % size, mask=found)",
    ]


COORDINATE = define(
    Operation("nonzero_coordinate", ("x", "counts"), scalars=("columns", "stride", "size"), body=_coordinate)
)


def _running_count(mask: torch.Tensor) -> torch.Tensor:
    counts = torch.empty((mask.numel(),), dtype=torch.int64, device=mask.device)
    return scan(mask.view(-1), 0, counts, product=False)


@aten("nonzero")
def nonzero(x: torch.Tensor) -> torch.Tensor:
    """Coordinates of what is not zero, [count, dims]. The count is read back by the host."""
    mask = contiguous(x if x.dtype == torch.bool else nonzero_mask(x))
    if mask.numel() == 0:
        return torch.empty((0, x.dim()), dtype=torch.int64, device=x.device)
    counts = _running_count(mask)
    out = torch.empty((int(counts[-1].item()), x.dim()), dtype=torch.int64, device=x.device)
    stride = 1
    if out.numel():
        for d in range(x.dim() - 1, -1, -1):
            launch(
                COORDINATE,
                out.view(-1)[d : d + 1],
                (mask.view(-1), counts),
                (x.dim(), stride, x.shape[d]),
                compute=torch.int64,
                shape=(mask.numel(),),
            )
            stride *= x.shape[d]
    return out


@aten("nonzero.out")
def nonzero_out(x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    found = nonzero(x)
    return copy_strided(out.resize_(found.shape), found)


COMPACT = define(
    Operation(
        "compact",
        ("x", "where_", "counts"),
        body=lambda k: [
            f"found = mask & {k.load('where_', cast='tl.int1')}",
            f"at = {k.load('counts', cast='tl.int64')} - 1",
            f"tl.store(out_ptr + at, {k.load('x', cast=k.names['x'])}, mask=found)",
        ],
    )
)


@aten("masked_select")
def masked_select(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    x, mask = torch.broadcast_tensors(x, mask)
    x, mask = contiguous(x), contiguous(mask)
    if x.numel() == 0:
        return torch.empty((0,), dtype=x.dtype, device=x.device)
    counts = _running_count(mask)
    out = torch.empty((int(counts[-1].item()),), dtype=x.dtype, device=x.device)
    if out.numel():
        launch(COMPACT, out[:1], (x.view(-1), mask.view(-1), counts), compute=torch.int64, shape=(x.numel(),))
    return out


SPREAD = define(
    Operation(
        "spread",
        ("where_", "counts", "source"),
        body=lambda k: [
            f"found = mask & {k.load('where_', cast='tl.int1')}",
            f"at = {k.load('counts', cast='tl.int64')} - 1",
            "value = tl.load(source_ptr + at, mask=found)",
            f"tl.store({k.pointer('out')}, value, mask=found)",
        ],
    )
)


@aten("masked_scatter_")
def masked_scatter_(x: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    mask = contiguous(mask.expand(x.shape))
    if x.numel() == 0 or source.numel() == 0:
        return x
    flat = contiguous(x)
    counts = _running_count(mask)
    launch(SPREAD, flat.view(-1), (mask.view(-1), counts, contiguous(source).view(-1)[:1]), compute=torch.int64)
    return x if flat is x else copy_strided(x, flat)


@aten("flip")
def flip(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    for d in dims:
        n = x.shape[d]
        x = index_select(x, d, torch.arange(n - 1, -1, -1, device=x.device))
    return x


@aten("isin.Tensor_Tensor_out")
def isin_out(
    elements: torch.Tensor, tests: torch.Tensor, *, assume_unique: bool = False, invert: bool = False, out: torch.Tensor
) -> torch.Tensor:
    found = (elements.unsqueeze(-1) == tests.reshape(-1)).any(-1)
    return out.resize_(elements.shape).copy_(~found if invert else found)


@aten("isin.Tensor_Scalar_out")
def isin_scalar_out(
    elements: torch.Tensor, test: Any, *, assume_unique: bool = False, invert: bool = False, out: torch.Tensor
) -> torch.Tensor:
    return out.resize_(elements.shape).copy_(elements != test if invert else elements == test)


@aten("bincount")
def bincount(x: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
    """The number of bins is read back by the host."""
    n = max(minlength, int(x.max().item()) + 1 if x.numel() else 0)
    kind = torch.int64 if weights is None else (torch.float32 if weights.dtype == torch.float32 else torch.float64)
    out = fill(torch.empty((n,), dtype=kind, device=x.device), 0)
    ones = fill(torch.empty((1,), dtype=kind, device=x.device), 1) if weights is None else cast(weights, kind)
    return index_put_impl_(out, [x], ones, True) if x.numel() else out


@aten("histc")
def histc(x: torch.Tensor, bins: int = 100, min: Any = 0, max: Any = 0) -> torch.Tensor:
    """Counts in equal bins over [min, max]; equal bounds mean the data's own. Integers are counted too."""
    low, high = float(min), float(max)
    if low == high and x.numel():
        low, high = float(x.min().item()), float(x.max().item())
    if low == high:
        low, high = low - 1, high + 1
    wide = cast(contiguous(x).view(-1), torch.float32)
    inside = (wide >= low) & (wide <= high)
    place = ((wide - low) * (bins / (high - low))).floor().clamp(0, bins - 1)
    out = fill(torch.empty((bins,), dtype=torch.float32, device=x.device), 0)
    index_put_impl_(out, [cast(place, torch.int64)], cast(inside, torch.float32), True)
    return cast(out, x.dtype)
