"""Builds a Trace: walks the program over the whole grid computing integers, pointers and masks only.

It is the interpreter with the data left out: commands that addresses, masks or control depend on run as they do there,
memory commands record what they touch, all others are recorded as steps. Loads that addresses depend on read memory.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
import torch

from mtia.engine.functional.interpreter import HANDLERS, Interpreter, Launch, held_mask
from mtia.engine.functional.plan import Plan, plan_of
from mtia.engine.functional.values import Base, Box, Lin
from mtia.engine.native import library
from mtia.engine.trace import Access, Step, Trace
from mtia.program import commands as c
from mtia.program.dataflow import Dataflow, dataflow_of
from mtia.program.types import TileType

DENSE_LIMIT = 1 << 24  # elements of one address tile over all programs; beyond it the grid is walked in parts

_CONTROL = (c.For, c.While, c.If, c.Return)
_MEMORY = (c.Load, c.Store, c.AtomicRmw, c.AtomicCas)
_FREE = (c.Constant, c.ProgramId, c.NumPrograms)


class _TooLarge(Exception):
    """Per-element addresses of the whole grid would not fit; trace it in parts."""


def trace_launch(launch: Launch) -> Trace:
    """What every program instance of the launch asks of memory. Reads memory only where addresses depend on it."""
    plan = plan_of(launch.program)
    flow = dataflow_of(launch.program)
    trace = Trace(
        program=launch.program, grid=launch.grid, n_programs=launch.n_programs, data_dependent=flow.data_dependent
    )
    with torch.no_grad():
        try:
            tracer = Tracer(launch, plan, flow, 0, launch.n_programs, limit=DENSE_LIMIT)
            tracer.run()
            trace.steps, trace.loops = tracer.steps, tracer.loops
        except _TooLarge:
            trace.steps, trace.loops = _trace_in_parts(launch, plan, flow)
    return trace


def _trace_in_parts(launch: Launch, plan: Plan, flow: Dataflow) -> tuple[list[Step], list[tuple[int, int, int]]]:
    part = max(1, DENSE_LIMIT // 4 // plan.largest_tile)
    tracers = []
    for first in range(0, launch.n_programs, part):
        tracer = Tracer(launch, plan, flow, first, min(part, launch.n_programs - first), limit=None)
        tracer.run()
        tracers.append(tracer)
    same = all([s.command for s in t.steps] == [s.command for s in tracers[0].steps] for t in tracers)
    if same:
        rows = zip(*(t.steps for t in tracers), strict=True)
        return [_join_steps(list(row), tracers) for row in rows], tracers[0].loops
    return _join_different(tracers), []


def _join_steps(steps: list[Step], tracers: list[Tracer]) -> Step:
    """One step of all parts: arrays one after the other."""
    sizes = [t.n for t in tracers]
    active = (
        None
        if all(s.active is None for s in steps)
        else np.concatenate(
            [np.ones(n, bool) if s.active is None else s.active for s, n in zip(steps, sizes, strict=True)]
        )
    )
    if steps[0].access is None:
        return Step(command=steps[0].command, active=active)
    accesses = [s.access for s in steps if s.access is not None]

    def joined(name: str) -> np.ndarray | int:
        values = [getattr(a, name) for a in accesses]
        if all(isinstance(v, int) for v in values) and len(set(values)) == 1:
            return values[0]
        return np.concatenate(
            [np.broadcast_to(np.asarray(v, np.int64), (n,)) for v, n in zip(values, sizes, strict=True)]
        )

    first = accesses[0]
    access = Access(
        command=first.command,
        base=joined("base"),
        end=joined("end"),
        rows=first.rows,
        row_bytes=first.row_bytes,
        row_stride_bytes=first.row_stride_bytes,
        n_bytes=joined("n_bytes"),
        parameter=first.parameter,
        write=first.write,
        atomic=first.atomic,
        indexed=first.indexed,
        runs=joined("runs"),
        unique_bytes=sum(a.unique_bytes for a in accesses),
    )
    return Step(command=steps[0].command, access=access, active=active)


def _join_different(tracers: list[Tracer]) -> list[Step]:
    """Parts that took different ways: each part's steps, active in its programs alone."""
    total = sum(t.n for t in tracers)
    steps: list[Step] = []
    for tracer in tracers:
        here = slice(tracer.first, tracer.first + tracer.n)
        for step in tracer.steps:
            active = np.zeros(total, bool)
            active[here] = True if step.active is None else step.active
            access = None if step.access is None else _spread(step.access, here, total)
            steps.append(Step(command=step.command, access=access, active=active))
    return steps


def _spread(access: Access, here: slice, total: int) -> Access:
    def wide(value: np.ndarray | int) -> np.ndarray:
        out = np.zeros(total, np.int64)
        out[here] = value
        return out

    return Access(
        command=access.command,
        base=wide(access.base),
        end=wide(access.end),
        rows=access.rows,
        row_bytes=access.row_bytes,
        row_stride_bytes=access.row_stride_bytes,
        n_bytes=wide(access.n_bytes),
        parameter=access.parameter,
        write=access.write,
        atomic=access.atomic,
        indexed=access.indexed,
        runs=wide(access.runs),
        unique_bytes=access.unique_bytes,
    )


class Tracer(Interpreter):
    """An interpreter that keeps to what addresses need and writes down the rest."""

    def __init__(self, launch: Launch, plan: Plan, flow: Dataflow, first: int, n: int, *, limit: int | None) -> None:
        super().__init__(launch, plan, first, n)
        self.flow = flow
        self.limit = limit
        self.steps: list[Step] = []
        self.loops: list[tuple[int, int, int]] = []

    def block(self, block: c.Block) -> None:
        for command in block.commands:
            kind = type(command)
            if kind in _CONTROL:
                HANDLERS[kind](self, command, self.env)
                if self.active is not None and not self.active.any():
                    return
            elif kind in _MEMORY:
                self.memory_command(command)
            else:
                self.other_command(command)

    def other_command(self, command: c.Command) -> None:
        if self.flow.serves_index(command):
            self._refuse_large(command)
            HANDLERS[type(command)](self, command, self.env)
        if not isinstance(command, _FREE) and not self.flow.is_index_only(command):
            self.steps.append(Step(command=command.index, active=self.active))

    def _refuse_large(self, command: c.Command) -> None:
        """Before per-element integers of the whole grid are made, where they would not fit."""
        if self.limit is None or not command.results:
            return
        if command.result.type.n_elements * self.n > self.limit and not self._stays_affine(command):
            raise _TooLarge

    def _stays_affine(self, command: c.Command) -> bool:
        return not any(isinstance(self.env[o.id], torch.Tensor) for o in command.operands) and (
            not isinstance(command, c.Elementwise)
            or command.op in ("addi", "subi", "addptr", "muli", "cmpi", "andi", "shli", "select")
        )

    def memory_command(self, command: c.Command) -> None:
        access = self.access_of(command)
        self.steps.append(Step(command=command.index, access=access, active=self.active))
        if self.flow.serves_index(command):
            if isinstance(command, c.Load):
                HANDLERS[c.Load](self, command, self.env)
            elif isinstance(command, c.AtomicCas):  # without values: no contention, the exchange succeeds
                self.env[command.result.id] = self.env[command.operands[1].id]
            else:  # what an atomic returns is not known without values
                self.env[command.result.id] = Lin(0, (0,) * len(command.result.type.shape))

    def uniform_loop(self, cmd: c.For, iterations: range) -> None:
        first, before = len(self.steps), len(self.loops)
        super().uniform_loop(cmd, iterations)
        n = len(self.steps) - first
        if len(iterations) > 1 and len(self.loops) == before and n % len(iterations) == 0:
            self.loops.append((first, n // len(iterations), len(iterations)))

    # --- accesses ---

    def access_of(self, command: c.Command) -> Access:
        pointer = command.operands[0]
        value_type = command.result.type if isinstance(command, c.Load) else command.operands[1].type
        mask_at = 1 if isinstance(command, c.Load) else 2
        has_mask = getattr(command, "has_mask", False)
        mask = held_mask(self, command.operands[mask_at]) if has_mask else None
        held = self.env[pointer.id]
        type_ = TileType(value_type.element, pointer.type.shape)
        if isinstance(held, Lin) and not isinstance(mask, torch.Tensor):
            access = self.block_access(held, mask, type_)
        else:
            access = self.element_access(command, mask, type_)
        access.command = command.index
        access.parameter = self.plan.origins.get(pointer.id, -1)
        access.write = not isinstance(command, c.Load)
        access.atomic = isinstance(command, c.AtomicRmw | c.AtomicCas)
        return access

    def block_access(self, pointer: Lin, mask: Box | None, type_: TileType) -> Access:
        """Per program: the box of the tile that the mask leaves; a broadcast dim is read once."""
        elem = type_.element.n_bytes
        base: Base = pointer.base
        span: Base = elem
        count: Base = elem
        for d, (n, stride) in enumerate(zip(type_.shape, pointer.strides, strict=True)):
            low, extent = _extent(mask.bounds[d] if mask is not None else None, n)
            base = base + stride * low
            if stride:
                span = span + abs(stride) * (extent - 1)
                count = count * extent
                if stride < 0:
                    base = base + stride * (extent - 1)
            else:
                count = count * np.minimum(extent, 1) if isinstance(extent, np.ndarray) else count * min(extent, 1)
        n_bytes = _where_active(
            np.maximum(count, 0) if isinstance(count, np.ndarray) else max(0, count), mask, self.active, self.n
        )
        rows, row_bytes, row_stride = _rows(type_.shape, pointer.strides, elem)
        return Access(
            command=0,
            base=base,
            end=base + span,
            rows=rows,
            row_bytes=row_bytes,
            row_stride_bytes=row_stride,
            n_bytes=n_bytes,
            parameter=-1,
        )

    def element_access(self, command: c.Command, mask: Box | torch.Tensor | None, type_: TileType) -> Access:
        pointer = command.operands[0]
        if self.limit is not None and pointer.type.n_elements * self.n > self.limit:
            raise _TooLarge
        address, selected = self.elementwise_access(pointer, mask)
        elem = type_.element.n_bytes
        runs, first, last, count = count_runs(address, selected, elem)
        indexed = command.index in self.flow.loaded_addresses
        rows = max(1, int(np.mean(runs[count > 0]))) if (count > 0).any() else 1
        total = int(count.sum()) * elem
        row_bytes = max(elem, total // max(1, int(runs.sum())))
        shared = len(runs) == 1

        def per_program(x: np.ndarray) -> np.ndarray | int:
            return int(x[0]) if shared else x

        n_bytes = _where_active(per_program(count * elem), None, self.active, self.n)
        return Access(
            command=0,
            base=per_program(first),
            end=per_program(last),
            rows=rows,
            row_bytes=row_bytes,
            row_stride_bytes=0,
            n_bytes=n_bytes,
            parameter=-1,
            indexed=indexed,
            runs=per_program(runs),
            unique_bytes=_unique_bytes(address, selected, elem, int(runs.sum())) if indexed else 0,
        )


def _extent(bounds: tuple[Base, Base] | None, n: int) -> tuple[Base, Base]:
    """First index and number of indices inside the bounds."""
    if bounds is None:
        return 0, n
    low, high = bounds
    if isinstance(low, int) and isinstance(high, int):
        low, high = min(max(low, 0), n), min(max(high, 0), n)
        return low, max(0, high - low)
    low, high = np.clip(low, 0, n), np.clip(high, 0, n)
    return low, np.maximum(0, high - low)


def _where_active(n_bytes: Base, mask: Box | None, active: np.ndarray | None, n_programs: int) -> Base:
    flag: np.ndarray | bool = True if mask is None else mask.flag
    if active is not None:
        flag = flag & active
    if isinstance(flag, bool):
        return n_bytes if flag else 0
    return np.where(np.broadcast_to(flag, (n_programs,)), n_bytes, 0).astype(np.int64)


@lru_cache(maxsize=4096)
def _rows(shape: tuple[int, ...], strides: tuple[int, ...], elem: int) -> tuple[int, int, int]:
    """(rows, bytes a row, stride between rows): contiguous dims merged, broadcast dims left out."""
    run, rows, row_stride = elem, 1, 0
    for stride, n in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if s and n > 1):
        if stride == run and rows == 1:
            run *= n
        else:
            row_stride = row_stride or stride
            rows *= n
    return rows, run, row_stride


def _unique_bytes(address: torch.Tensor, selected: torch.Tensor | None, elem: int, n_runs: int) -> int:
    """Bytes of memory that the elements cover together: the union of their runs of consecutive addresses."""
    if not n_runs:
        return 0
    lo, hi = np.empty(n_runs, np.int64), np.empty(n_runs, np.int64)
    mask = None if selected is None else selected.data_ptr()
    n_programs = address.shape[0]
    shape = (n_programs, address.numel() // n_programs, elem)
    _list_runs()(address.data_ptr(), mask, *shape, lo.ctypes.data, hi.ctypes.data)
    return covered_bytes(lo, hi, elem)


COUNTED_SPAN = 8  # units a run up to which counting over the span beats sorting the runs


def covered_bytes(lo: np.ndarray, hi: np.ndarray, elem: int) -> int:
    """Bytes in the union of the intervals [lo, hi), whose lengths are multiples of `elem`."""
    start = int(lo.min())
    from_units, to_units = (lo - start) // elem, (hi - start) // elem
    n_units = int(to_units.max())
    if n_units <= COUNTED_SPAN * len(lo) and not ((lo - start) % elem).any():
        opened = np.bincount(from_units, minlength=n_units + 1) - np.bincount(to_units, minlength=n_units + 1)
        return int(np.count_nonzero(np.cumsum(opened))) * elem
    order = np.argsort(lo, kind="stable")
    lo, reached = lo[order], np.maximum.accumulate(hi[order])
    before = np.concatenate([lo[:1], reached[:-1]])
    return int(np.maximum(0, reached - np.maximum(lo, before)).sum())


@lru_cache(maxsize=1)
def _count_runs():
    function = library().mtia_count_runs
    p, i64 = ctypes.c_void_p, ctypes.c_int64
    function.argtypes, function.restype = [p, p, i64, i64, ctypes.c_int, p, p, p, p], None
    return function


@lru_cache(maxsize=1)
def _list_runs():
    function = library().mtia_list_runs
    p, i64 = ctypes.c_void_p, ctypes.c_int64
    function.argtypes, function.restype = [p, p, i64, i64, ctypes.c_int, p, p], None
    return function


def count_runs(
    address: torch.Tensor, selected: torch.Tensor | None, elem: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per program (row of `address`): runs of consecutive addresses, lowest, end of the highest, elements."""
    n_programs = address.shape[0]
    runs, first, last, count = (np.zeros(n_programs, np.int64) for _ in range(4))
    _count_runs()(
        address.data_ptr(),
        None if selected is None else selected.data_ptr(),
        n_programs,
        address.numel() // n_programs,
        elem,
        runs.ctypes.data,
        first.ctypes.data,
        last.ctypes.data,
        count.ctypes.data,
    )
    return runs, first, last, count
