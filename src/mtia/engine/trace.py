"""Trace: what every program instance of one launch asks of memory, without values.

`trace_launch` (engine/tracer.py) walks a TileProgram once over the whole grid, computing only integers, pointers and
masks, and records which commands run, in which order, and which addresses each DMA command touches. The timing engine
and the energy model read a Trace and a ChipSpec; nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mtia.program.program import TileProgram


@dataclass(slots=True, kw_only=True)
class Access:
    """One executed DMA command, for all P program instances.

    The elements form `rows` runs of `row_bytes` contiguous bytes, `row_stride_bytes` apart, the first at `base`
    (int64 [P], or one int where every program has the same; a program that does not execute the command or whose mask
    is empty has n_bytes 0).  `n_bytes` (int64 [P] or int) is what the masks leave.
    An `indexed` access (addresses computed per element) has `runs` contiguous runs in total per program
    (int64 [P] or int) and `unique_bytes` distinct bytes over the whole launch; base is its lowest address.
    `end` (exclusive) is the highest address touched by each program.
    """

    command: int
    base: np.ndarray | int
    end: np.ndarray | int
    rows: int
    row_bytes: int
    row_stride_bytes: int
    n_bytes: np.ndarray | int
    parameter: int  # which kernel parameter the address derives from, -1 unknown
    write: bool = False
    atomic: bool = False
    indexed: bool = False
    runs: np.ndarray | int = 1
    unique_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class Step:
    """One executed command. `active`: bool [P] where only some programs execute it, None for all of them."""

    command: int
    access: Access | None = None
    active: np.ndarray | None = None


@dataclass(slots=True, kw_only=True)
class Trace:
    """One launch: the grid's `n_programs` instances each run `steps` in order (where active).

    Loops are unrolled in `steps` (loop and branch commands themselves do not appear, their bodies do).
    `data_dependent`: addresses or control depended on values in memory, so a cached timing may not be reused for other
    data. `loops` are (first step, steps per iteration, iterations) of innermost counted loops, for steady state.
    """

    program: TileProgram
    grid: tuple[int, int, int]
    n_programs: int
    steps: list[Step] = field(default_factory=list)
    loops: list[tuple[int, int, int]] = field(default_factory=list)
    data_dependent: bool = False
    footprints: object = field(default=None, init=False, repr=False, compare=False)  # kept by `roof.footprints_of`
