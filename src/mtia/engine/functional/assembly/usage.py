"""What blocks of commands use, and when: last uses, loads that may stay in device memory, atomics whose order shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from mtia.program import commands as c
from mtia.program.program import TileProgram
from mtia.program.types import Element, Value


def inside(block: c.Block) -> Iterable[c.Command]:
    for command in block.commands:
        yield command
        for inner in command.blocks:
            yield from inside(inner)


def loops(program: TileProgram) -> Iterable[c.Block]:
    for command in program.commands:
        if isinstance(command, c.For | c.While):
            yield from command.blocks


def runs_in_sequence(program: TileProgram) -> bool:
    """Spin locks: the interpreter runs such programs one instance at a time."""
    return any(
        isinstance(inner, c.AtomicCas | c.AtomicRmw)
        for command in program.commands
        if isinstance(command, c.While)
        for block in command.blocks
        for inner in inside(block)
    )


def commute(program: TileProgram, atomics: Sequence[c.Command]) -> bool:
    """Their order shows nowhere: one operation, exact in any order, whose old values nobody reads."""
    used = {o for command in program.commands for o in used_by(command)}
    operations = {cmd.op if isinstance(cmd, c.AtomicRmw) else "" for cmd in atomics}
    return (
        len(operations) == 1
        and operations <= {"add", "max", "min", "umax", "umin", "and", "or", "xor"}
        and not any(r.id in used for cmd in atomics for r in cmd.results)
        and all(cmd.operands[1].type.element.is_integer for cmd in atomics)
    )


def used_by(command: c.Command) -> set[int]:
    used = {o.id for o in command.operands}
    for block in command.blocks:
        used.update(o.id for inner in inside(block) for o in inner.operands)
        used.update(v.id for inner in (block, *(b for cmd in inside(block) for b in cmd.blocks)) for v in inner.yields)
    return used


_NEVER = 1 << 30


def last_uses(block: c.Block) -> dict[int, list[int]]:
    """Position -> values made in this block that no later command of it needs."""
    last: dict[int, int] = {}
    for at, command in enumerate(block.commands):
        last.update({r.id: at for r in command.results})
        last.update({v: at for v in used_by(command) if v in last})
    last.update({v.id: _NEVER for v in block.yields if v.id in last})
    out: dict[int, list[int]] = {}
    for value, at in last.items():
        out.setdefault(at, []).append(value)
    return out


_VIEWS = (c.Splat, c.ExpandDims, c.Broadcast, c.Reshape, c.Transpose, c.Split, c.Convert)
_WRITES = (c.Store, c.AtomicRmw, c.AtomicCas)


def lendable(block: c.Block, last: dict[int, list[int]]) -> set[int]:
    """Loads after which nothing is written before the last use of their tile: it may stay in device memory."""
    last_use = {value: at for at, values in last.items() for value in values}
    for command in reversed(block.commands):  # a view is a use of what it views
        if isinstance(command, _VIEWS):
            at = max(last_use.get(r.id, 0) for r in command.results)
            operand = command.operands[0].id
            if operand in last_use:
                last_use[operand] = max(last_use[operand], at)
    writes = [
        at
        for at, command in enumerate(block.commands)
        if isinstance(command, _WRITES) or any(isinstance(i, _WRITES) for b in command.blocks for i in inside(b))
    ]
    return {
        command.index
        for at, command in enumerate(block.commands)
        if isinstance(command, c.Load)
        and last_use[command.result.id] != _NEVER
        and not any(at < w <= last_use[command.result.id] for w in writes)
    }


MOST_TURNED_ROWS = 4
"""A multiply of more rows reads its right-hand side from a transposed copy: that is made once, and read for each."""


def right_hand_sides(program: TileProgram) -> set[int]:
    """Loads whose only use is as the right-hand side of a float32 multiply of few rows, in the same block."""
    uses: Counter[int] = Counter()
    for block in _blocks(program.body):
        uses.update(o.id for command in block.commands for o in command.operands)
        uses.update(v.id for v in block.yields)
    return {
        load.index
        for block in _blocks(program.body)
        for command in block.commands
        if isinstance(command, c.MatMul) and _may_read_turned(command)
        for load in block.commands
        if isinstance(load, c.Load) and load.result.id == command.operands[1].id and uses[load.result.id] == 1
    }


def _may_read_turned(cmd: c.MatMul) -> bool:
    a, b = (o.type for o in cmd.operands[:2])
    is_plain = a.element is b.element is Element.F32 and cmd.precision == "ieee"
    return is_plain and len(b.shape) == 2 and a.shape[-2] <= MOST_TURNED_ROWS


def _blocks(block: c.Block) -> Iterable[c.Block]:
    yield block
    for command in block.commands:
        for inner in command.blocks:
            yield from _blocks(inner)


def made_in(block: c.Block) -> set[int]:
    return {r.id for command in block.commands for r in command.results}


def ids(values: Iterable[Value]) -> set[int]:
    return {v.id for v in values}
