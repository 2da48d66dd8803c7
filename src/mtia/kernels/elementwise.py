"""Element-wise kernels written from expressions: the one generator behind arithmetic, casts, copies and indexing.

`launch(operation, out, inputs, scalars)` plans the walk (iteration.py), writes the kernel for that operation, those
dtypes and that kind of walk once, and launches it. Everything that repeats is cached by signature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from mtia.kernels.dtypes import scalar_argument, scalar_in_kernel, triton_name
from mtia.kernels.iteration import Walk, ceil_div, flat_block, row_tile, walk
from mtia.kernels.known_launch import KnownLaunch
from mtia.kernels.source import jit_from_source

Number = bool | int | float


@dataclass(frozen=True, slots=True)
class Emitter:
    """What a body may say: how to read, write and address the operands of one generated kernel."""

    layouts: dict[str, str]
    compute: str
    names: dict[str, str]

    def pointer(self, name: str) -> str:
        return f"{name}_ptr" if self.layouts[name] == "o" else f"{name}_ptr + {name}_off"

    def load(self, name: str, *, cast: str | None = None, other: str = "") -> str:
        if self.layouts[name] == "o":
            text = f"tl.load({name}_ptr)"
        else:
            text = f"tl.load({self.pointer(name)}, mask=mask{f', other={other}' if other else ''})"
        return f"{text}.to({cast or self.compute})"

    def store(self, name: str, value: str) -> str:
        via = ".to(tl.float32)" if self.names[name] == "tl.bfloat16" and self.compute != "tl.float32" else ""
        return f"tl.store({self.pointer(name)}, ({value}){via}.to({self.names[name]}), mask=mask)"


Body = Callable[[Emitter], list[str]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A named element-wise computation.

    `inputs`: names bound to tensors or numbers; `scalars`: names bound to numbers; `expression`: Triton source over
    them, in the compute dtype; `for_bool`, `for_int`: what it is for those compute dtypes where it differs.
    `other`: what masked lanes of inputs read as (1 where the expression divides). A `body` replaces the expression.
    """

    name: str
    inputs: tuple[str, ...]
    expression: str = ""
    scalars: tuple[str, ...] = ()
    for_bool: str = ""
    for_int: str = ""
    other: str = ""
    body: Body | None = field(default=None, compare=False)
    outputs: tuple[str, ...] = ("out",)
    keep_dims: bool = False


_OPERATIONS: dict[str, Operation] = {}


def define(operation: Operation) -> Operation:
    """Enter an operation; its name identifies it in caches and reports."""
    assert operation.name not in _OPERATIONS, operation.name
    _OPERATIONS[operation.name] = operation
    return operation


def _expression(operation: Operation, compute: torch.dtype) -> str:
    if compute == torch.bool and operation.for_bool:
        return operation.for_bool
    if not compute.is_floating_point and operation.for_int:
        return operation.for_int
    return operation.expression


def _body_lines(operation: Operation, emit: Emitter, compute: torch.dtype, numbers: tuple[str, ...]) -> list[str]:
    lines = [f"{s} = {scalar_in_kernel(s, compute)}" for s in (*numbers, *operation.scalars)]
    if operation.body is not None:
        return lines + operation.body(emit)
    lines += [f"{a} = {emit.load(a, other=operation.other)}" for a in operation.inputs if a not in numbers]
    return [*lines, emit.store("out", _expression(operation, compute))]


def _flat_head(layouts: dict[str, str], index: str, block: int) -> list[str]:
    head = [f"lin = tl.program_id(0).to({index}) * {block} + tl.arange(0, {block})", "mask = lin < n0"]
    return head + [f"{name}_off = lin" for name, layout in layouts.items() if layout == "c"]


def _strided_head(layouts: dict[str, str], n_dims: int, index: str, rows: int, columns: int) -> list[str]:
    last = n_dims - 1
    n_rows = " * ".join(f"n{d}" for d in range(last)) or "1"
    head = [
        f"column = tl.program_id(0).to({index}) * {columns} + tl.arange(0, {columns})",
        f"row = tl.program_id(1).to({index}) * {rows} + tl.arange(0, {rows})",
        f"mask = (row < {n_rows})[:, None] & (column < n{last})[None, :]",
        "rest = row",
    ]
    for d in range(last - 1, 0, -1):
        head += [f"i{d} = rest % n{d}", f"rest = rest // n{d}"]
    head += ["i0 = rest", f"i_row = i{last - 1}"] if last else ["i_row = row"]
    for name in layouts:
        terms = " + ".join(f"i{d} * {name}_s{d}" for d in range(last)) or "row * 0"
        head.append(f"{name}_off = ({terms})[:, None] + (column * {name}_s{last})[None, :]")
    return head


@cache
def _kernel(
    name: str,
    dtypes: tuple[torch.dtype, ...],
    tensors: tuple[str, ...],
    numbers: tuple[str, ...],
    compute: torch.dtype,
    layouts: str,
    n_dims: int,
    tile: tuple[int, ...],
    wide: bool,
) -> Any:
    """The compiled-on-demand kernel for one operation, element types and kind of walk."""
    operation = _OPERATIONS[name]
    layout_of = dict(zip(tensors, layouts, strict=True))
    emit = Emitter(layout_of, triton_name(compute), {t: triton_name(d) for t, d in zip(tensors, dtypes, strict=True)})
    index = "tl.int64" if wide else "tl.int32"
    is_flat = len(tile) == 1
    head = _flat_head(layout_of, index, *tile) if is_flat else _strided_head(layout_of, n_dims, index, *tile)
    sizes = tuple(f"n{d}" for d in range(n_dims))
    strides = () if is_flat else tuple(f"{t}_s{d}" for t in tensors for d in range(n_dims))
    given = (*numbers, *operation.scalars)
    parameters = ", ".join((*(f"{t}_ptr" for t in tensors), *given, *sizes, *strides))
    lines = head + _body_lines(operation, emit, compute, numbers)
    source = f"def mtia_{name}({parameters}):\n" + "".join(f"    {line}\n" for line in lines)
    return jit_from_source(f"mtia_{name}", source, (*given, *sizes, *strides))


_plans: dict[tuple, KnownLaunch] = {}


def plan(
    operation: Operation,
    shape: tuple[int, ...],
    tensors: list[torch.Tensor],
    tensor_names: tuple[str, ...],
    numbers: tuple[str, ...],
    compute: torch.dtype,
) -> KnownLaunch:
    """Walk and kernel for `operation` over `shape`. Only shapes, strides and dtypes are read: tensors may be meta."""
    w = walk(shape, tensors, keep_dims=operation.keep_dims)
    tile = (flat_block(w.sizes[0], sum(t.element_size() for t in tensors)),) if w.is_flat else row_tile(w)
    kernel = _kernel(
        operation.name,
        tuple(t.dtype for t in tensors),
        tensor_names,
        numbers,
        compute,
        w.layouts,
        len(w.sizes),
        tile,
        w.needs_int64,
    )
    if w.is_flat:
        return KnownLaunch(kernel, (ceil_div(w.sizes[0], tile[0]),), w.sizes, {})
    return KnownLaunch(kernel, _strided_grid(w, tile), (*w.sizes, *(s for st in w.strides for s in st)), {})


def _strided_grid(w: Walk, tile: tuple[int, ...]) -> tuple[int, int]:
    n_rows = 1
    for n in w.sizes[:-1]:
        n_rows *= n
    return ceil_div(w.sizes[-1], tile[1]), ceil_div(n_rows, tile[0])


def launch(
    operation: Operation,
    outputs: torch.Tensor | tuple[torch.Tensor, ...],
    inputs: tuple[torch.Tensor | Number, ...],
    scalars: tuple[Number, ...] = (),
    *,
    compute: torch.dtype,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Run `operation` over `shape` (default: the first output's); inputs broadcast to it.

    A number, or a one-element host tensor beside device tensors, goes to the kernel as a scalar argument.
    """
    outs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    if outs[0].numel() == 0 and shape is None:
        return
    tensors, names, values, numbers = list(outs), list(operation.outputs), [], []
    on_host = outs[0].device.type == "cpu"
    for name, value in zip(operation.inputs, inputs, strict=True):
        if isinstance(value, torch.Tensor) and (on_host or value.device.type != "cpu"):
            tensors.append(value)
            names.append(name)
        else:
            values.append(value.item() if isinstance(value, torch.Tensor) else value)
            numbers.append(name)
    key = (operation.name, shape, compute, tuple(numbers), *[(t.dtype, t.shape, t.stride()) for t in tensors])
    found = _plans.get(key)
    if found is None:
        full = tuple(outs[0].shape) if shape is None else shape
        found = _plans[key] = plan(operation, full, tensors, tuple(names), tuple(numbers), compute)
    arguments = [scalar_argument(v, compute) for v in (*values, *scalars)]
    found(tensors, arguments)
