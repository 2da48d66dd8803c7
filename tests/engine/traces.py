"""Traces built by hand: kernels as the lowering and tracer would give them, without Triton or torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtia.engine.trace import Access, Step, Trace
from mtia.program import commands as c
from mtia.program.program import CircularBuffer, Parameter, TileProgram
from mtia.program.types import Element, TileType, Value

SPACING = 1 << 40  # addresses of different tensors


@dataclass
class Kernel:
    """Commands are appended in program order; values and indices number themselves."""

    name: str = "kernel"
    commands: list[c.Command] = field(default_factory=list)
    buffers: list[CircularBuffer] = field(default_factory=list)
    n_values: int = 1000
    n_commands: int = 0

    def value(self, element: Element, *shape: int) -> Value:
        self.n_values += 1
        return Value(self.n_values, f"v{self.n_values}", TileType(element, shape))

    def make(self, cls: type[c.Command], operands: tuple = (), result: Value | None = None, **fields: Any):
        command = cls(index=self.n_commands, operands=operands, results=() if result is None else (result,), **fields)
        self.n_commands += 1
        return command

    def add(self, *args, **fields) -> c.Command:
        self.commands.append(self.make(*args, **fields))
        return self.commands[-1]

    def load(self, element: Element, *shape: int, slots: int = 2) -> c.Command:
        command = self.make(c.Load, (self.value(Element.PTR, *shape),), self.value(element, *shape))
        self.buffer(command.index, command.result, slots)
        return command

    def store(self, value: Value, slots: int = 2) -> c.Command:
        command = self.make(c.Store, (self.value(Element.PTR, *value.type.shape), value))
        self.buffer(command.index, value, slots)
        return command

    def buffer(self, command: int, value: Value, slots: int) -> None:
        self.buffers.append(
            CircularBuffer(id=len(self.buffers), value_id=value.id, command=command, tile=value.type, slots=slots)
        )

    def program(self) -> TileProgram:
        parameters = tuple(Parameter(value=Value(i, f"p{i}", TileType(Element.PTR))) for i in range(4))
        return TileProgram(
            name=self.name,
            parameters=parameters,
            body=c.Block(commands=tuple(self.commands)),
            buffers=tuple(self.buffers),
        )


def access(
    command: c.Command, base: np.ndarray | int, *, rows: int = 1, row_bytes: int, stride: int = 0, parameter: int = 0
) -> Access:
    extent = (rows - 1) * stride + row_bytes
    return Access(
        command=command.index,
        base=base,
        end=base + extent,
        rows=rows,
        row_bytes=row_bytes,
        row_stride_bytes=stride or row_bytes,
        n_bytes=rows * row_bytes,
        parameter=parameter,
        write=isinstance(command, c.Store),
    )


def elementwise(
    n: int,
    block: int,
    element: Element = Element.BF16,
    *,
    inputs: int = 2,
    slots: int = 2,
    ops: tuple[str, ...] = ("addf",),
) -> Trace:
    """out = op(...op(in0, in1)) over n elements, one block a program."""
    kernel = Kernel("elementwise")
    loads = [kernel.load(element, block, slots=slots) for _ in range(inputs)]
    kernel.commands += loads
    value = loads[0].result
    for op in ops:
        second = loads[-1].result
        value = kernel.add(c.Elementwise, (value, second), kernel.value(element, block), op=op).result
    store = kernel.store(value, slots)
    kernel.commands.append(store)
    n_programs = -(-n // block)
    at = np.arange(n_programs, dtype=np.int64) * block * element.n_bytes
    row = block * element.n_bytes
    steps = [
        Step(command=load.index, access=access(load, at + i * SPACING, row_bytes=row, parameter=i))
        for i, load in enumerate(loads)
    ]
    steps += [Step(command=command.index) for command in kernel.commands[inputs:-1]]
    steps.append(
        Step(command=store.index, access=access(store, at + inputs * SPACING, row_bytes=row, parameter=inputs))
    )
    return Trace(program=kernel.program(), grid=(n_programs, 1, 1), n_programs=n_programs, steps=steps)


def chain(n_tiles: int, tile: int, *, slots: int, element: Element = Element.F32, op: str = "addf") -> Trace:
    """One program that loads tiles one after the other into one buffer and works on each; no store."""
    kernel = Kernel("chain")
    load = kernel.load(element, tile, slots=slots)
    work = kernel.make(c.Elementwise, (load.result, load.result), kernel.value(element, tile), op=op)
    kernel.commands += [load, work]
    # a stored scalar would hide the drain: the value is used by an assertion, which costs nothing
    kernel.add(c.Print, (work.result,), prefix="")
    steps = []
    for i in range(n_tiles):
        base = i * tile * element.n_bytes
        steps.append(Step(command=load.index, access=access(load, base, row_bytes=tile * element.n_bytes)))
        steps.append(Step(command=work.index))
    return Trace(program=kernel.program(), grid=(1, 1, 1), n_programs=1, steps=steps)


def matmul(
    m: int, k: int, n: int, bm: int, bk: int, bn: int, element: Element = Element.F16, *, slots: int = 2, group: int = 1
) -> Trace:
    """c[m, n] = a[m, k] @ b[n, k]^T, a program per bm x bn tile, a loop over k; rows of b are k-contiguous.

    Programs run over n first; with `group` > 1, over `group` rows of tiles at a time.
    """
    kernel = Kernel("matmul")
    zero = kernel.add(c.Constant, (), kernel.value(Element.F32, bm, bn), value=0.0)
    bounds = tuple(kernel.value(Element.I32) for _ in range(3))
    for_index = kernel.n_commands
    kernel.n_commands += 1
    a, b = kernel.load(element, bm, bk, slots=slots), kernel.load(element, bk, bn, slots=slots)
    accumulator = kernel.value(Element.F32, bm, bn)
    dot = kernel.make(c.MatMul, (a.result, b.result, accumulator), kernel.value(Element.F32, bm, bn))
    body = c.Block(commands=(a, b, dot), args=(kernel.value(Element.I32), accumulator), yields=(dot.result,))
    loop = c.For(
        index=for_index, operands=(*bounds, zero.result), results=(kernel.value(Element.F32, bm, bn),), body=body
    )
    kernel.commands.append(loop)
    out = kernel.add(c.Convert, (loop.result,), kernel.value(element, bm, bn), op="truncf")
    store = kernel.store(out.result)
    kernel.commands.append(store)
    tiles_m, tiles_n = -(-m // bm), -(-n // bn)
    tile_m, tile_n = _tiles(tiles_m, tiles_n, group)
    e = element.n_bytes
    steps = []
    for i in range(k // bk):
        at_k = i * bk * e
        steps.append(
            Step(
                command=a.index,
                access=access(a, tile_m * bm * k * e + at_k, rows=bm, row_bytes=bk * e, stride=k * e, parameter=0),
            )
        )
        steps.append(
            Step(
                command=b.index,
                access=access(
                    b, SPACING + tile_n * bn * k * e + at_k, rows=bn, row_bytes=bk * e, stride=k * e, parameter=1
                ),
            )
        )
        steps.append(Step(command=dot.index))
    steps.append(Step(command=out.index))
    steps.append(
        Step(
            command=store.index,
            access=access(
                store,
                2 * SPACING + tile_m * bm * n * e + tile_n * bn * e,
                rows=bm,
                row_bytes=bn * e,
                stride=n * e,
                parameter=2,
            ),
        )
    )
    n_programs = tiles_m * tiles_n
    return Trace(program=kernel.program(), grid=(n_programs, 1, 1), n_programs=n_programs, steps=steps)


def _tiles(tiles_m: int, tiles_n: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Tile coordinates of each program: `group` rows of tiles side by side, then the next."""
    pid = np.arange(tiles_m * tiles_n, dtype=np.int64)
    per_group = group * tiles_n
    first = pid // per_group * group
    rows = np.minimum(tiles_m - first, group)
    return first + pid % per_group % rows, pid % per_group // rows


def weight_stationary(
    m: int,
    k: int,
    n: int,
    bm: int,
    bn: int,
    element: Element,
    *,
    pes: int = 64,
    splits: int = 1,
    weight_slots: int = 1,
    activation_slots: int = 2,
) -> Trace:
    """An FC layer whose program holds a [k, bn] weight panel and streams `m / splits` rows of activations past it.

    One weight buffer: the next panel's load waits for this one's last multiply.
    """
    kernel = Kernel("fc")
    w = kernel.load(element, k, bn, slots=weight_slots)
    a = kernel.load(element, bm, k, slots=activation_slots)
    zero = kernel.value(Element.F32, bm, bn)
    dot = kernel.make(c.MatMul, (a.result, w.result, zero), kernel.value(Element.F32, bm, bn))
    out = kernel.make(c.Convert, (dot.result,), kernel.value(element, bm, bn), op="truncf")
    store = kernel.store(out.result)
    kernel.commands += [w, a, dot, out, store]
    e = element.n_bytes
    panels = n // bn
    pid = np.arange(panels * splits, dtype=np.int64)
    panel, split = pid % panels, pid // panels
    rows = m // splits
    steps = [
        Step(command=w.index, access=access(w, SPACING + panel * bn * k * e, rows=1, row_bytes=bn * k * e, parameter=1))
    ]
    for i in range(rows // bm):
        at = split * rows + i * bm
        steps.append(Step(command=a.index, access=access(a, at * k * e, row_bytes=bm * k * e, parameter=0)))
        steps += [Step(command=dot.index), Step(command=out.index)]
        steps.append(
            Step(
                command=store.index,
                access=access(
                    store,
                    2 * SPACING + at * n * e + panel * bn * e,
                    rows=bm,
                    row_bytes=bn * e,
                    stride=n * e,
                    parameter=2,
                ),
            )
        )
    return Trace(program=kernel.program(), grid=(len(pid), 1, 1), n_programs=len(pid), steps=steps)
