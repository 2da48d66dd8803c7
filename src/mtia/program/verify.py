"""Checks a TileProgram: its own rules (each value defined once, before use; types that fit), and a chip's limits."""

from __future__ import annotations

from mtia.errors import ProgramError
from mtia.program import commands as c
from mtia.program.program import TileProgram
from mtia.program.types import Value


def verify(program: TileProgram) -> None:
    """Raises ProgramError naming the first command that breaks a rule."""
    defined: set[int] = set()
    for parameter in program.parameters:
        _define(program, -1, parameter.value, defined)
    for position, command in enumerate(program.commands):
        if command.index != position:
            raise ProgramError(program.name, command=position, problem=f"its index is {command.index}")
    _verify_block(program, program.body, defined)
    for buffer in program.buffers:
        if buffer.slots < 1:
            raise ProgramError(program.name, command=buffer.command, problem=f"cb{buffer.id} has {buffer.slots} slots")


def _define(program: TileProgram, command: int, value: Value, defined: set[int]) -> None:
    if value.id in defined:
        raise ProgramError(program.name, command=command, problem=f"{value} is written twice")
    defined.add(value.id)


def _verify_block(program: TileProgram, block: c.Block, defined: set[int]) -> None:
    visible = set(defined)
    for arg in block.args:
        _define(program, -1, arg, visible)
    for command in block.commands:
        for operand in command.operands:
            if operand.id not in visible:
                raise ProgramError(program.name, command=command.index, problem=f"{operand} is read before written")
        _verify_types(program, command)
        for inner in command.blocks:
            _verify_block(program, inner, visible)
        for result in command.results:
            _define(program, command.index, result, visible)
    for value in block.yields:
        if value.id not in visible:
            raise ProgramError(program.name, command=-1, problem=f"a region yields {value}, which is not in scope")


def _verify_types(program: TileProgram, command: c.Command) -> None:
    problem = ""
    match command:
        case c.MatMul():
            a, b = (o.type.shape for o in command.operands[:2])
            if a[-1] != b[-2] or command.result.type.shape[-2:] != (a[-2], b[-1]):
                problem = f"matmul of {a} and {b} gives {command.result.type.shape}"
        case c.Elementwise() if command.op not in ("addptr",):
            shapes = {o.type.shape for o in command.operands} | {command.result.type.shape}
            if len(shapes) > 1 and not (command.op == "select" and not command.operands[0].type.shape):
                problem = f"element-wise operands of different shapes {sorted(shapes)}"
        case c.Load() | c.Store():
            if not command.operands[0].type.is_pointer:
                problem = f"address {command.operands[0]} is {command.operands[0].type}, not a pointer"
    if problem:
        raise ProgramError(program.name, command=command.index, problem=problem)
