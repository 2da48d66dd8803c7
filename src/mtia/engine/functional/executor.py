"""The native executor: a launch's values by the instructions that `assemble` made of its program.

The interpreter is the definition; the executor gives its bits. A program that has no instructions, and any launch under
MTIA_INTERPRET=1, is interpreted; `why_interpreted` says why, `counts` how often each was
used, `reasons` how often for which reason.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mtia.engine.functional import interpreter
from mtia.engine.functional.assembly import Assembled, NotAssembled, assemble, float_bits
from mtia.engine.functional.interpreter import Launch
from mtia.engine.functional.memory import Allocation, Bounds
from mtia.engine.native import library
from mtia.errors import MtiaError
from mtia.program.program import TileProgram, once_a_program

counts: Counter[str] = Counter()
"""Launches whose values were computed "native" and "interpreted", in this process."""
reasons: Counter[str] = Counter()
"""Of the interpreted ones, why: what in the program the executor has no instruction for."""


class _Native(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_void_p),
        ("body", ctypes.c_int64),
        ("registers", ctypes.c_void_p),
        ("n_registers", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("n_slots", ctypes.c_int64),
        ("arena_bytes", ctypes.c_int64),
        ("data", ctypes.c_char_p),
    ]


class Executor:
    """One program's instructions, ready to run."""

    def __init__(self, program: TileProgram, assembled: Assembled) -> None:
        self.program = program
        self.assembled = assembled
        self.native = _Native(
            assembled.code.ctypes.data,
            assembled.body,
            assembled.registers.ctypes.data,
            len(assembled.registers),
            assembled.slots.ctypes.data,
            len(assembled.slots),
            assembled.arena_bytes,
            assembled.data,
        )
        self.address = ctypes.addressof(self.native)
        self.floats = {
            i: p.value.type.element for i, p in enumerate(program.parameters) if p.value.type.element.is_float
        }
        self.words = ctypes.c_int64 * max(1, len(program.parameters))
        self.failure = (ctypes.c_int64 * 5)()
        self.most_programs = assembled.most_programs
        self.call = library().mtia_execute
        self.call.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 4 + [ctypes.c_void_p]
        self.call.restype = ctypes.c_int64

    def run(self, arguments: Sequence[Any], allocations: Sequence[Allocation], grid: tuple[int, int, int]) -> bool:
        """False where a program did what the chip would refuse; memory is then as far as the programs came."""
        if self.most_programs is not None and max(grid) > self.most_programs:
            return self.for_any_grid.run(arguments, allocations, grid)
        if self.floats:
            arguments = list(arguments)
            for i, element in self.floats.items():
                arguments[i] = float_bits(float(arguments[i]), element)
        n = len(arguments)
        words = self.words
        if isinstance(allocations, Bounds):
            low, high = allocations.low, allocations.high
        else:
            low, high = words(*[a.start for a in allocations]), words(*[a.end for a in allocations])
        return self.call(self.address, words(*arguments), low, high, n, *grid, self.failure) < 0

    @cached_property
    def for_any_grid(self) -> Executor:
        return Executor(self.program, assemble(self.program, any_grid=True))


@once_a_program
def executor_of(program: TileProgram) -> Executor | str:
    """The program's executor, or why it has none."""
    try:
        return Executor(program, assemble(program))
    except NotAssembled as reason:
        return str(reason)


def why_interpreted(program: TileProgram) -> str | None:
    """What in the program the executor has no instruction for; None where it runs natively."""
    known = executor_of(program)
    return known if isinstance(known, str) else None


def run(launch: Launch) -> None:
    """Compute the launch's values in device memory. Raises what the chip would refuse, named with line and instance."""
    known = executor_of(launch.program)
    if isinstance(known, str):
        counts["interpreted"] += 1
        reasons[known] += 1
        interpreter.run(launch)
        return
    counts["native"] += 1
    allocations = launch.allocations or [interpreter.UNCHECKED] * len(launch.arguments)
    if not known.run(launch.arguments, allocations, launch.grid):
        interpreter.run(launch)  # the definition says what is wrong
        raise MtiaError(
            f"{launch.program.name}: program {known.failure[0]} failed in the native executor and not in the "
            "interpreter. Please report it; MTIA_INTERPRET=1 runs the kernel without the executor."
        )


__all__ = ["Executor", "counts", "executor_of", "reasons", "run", "why_interpreted"]
