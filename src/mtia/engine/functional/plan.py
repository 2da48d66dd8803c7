"""What is known of a program before any launch: where its pointers come from, its largest tiles, how many instances are
interpreted at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mtia.engine.functional import memory
from mtia.program import commands as c
from mtia.program.dataflow import dataflow_of
from mtia.program.program import TileProgram, once_a_program
from mtia.program.types import Value

CHUNK_ELEMENTS = 1 << 18  # of the largest tile that is held: stays in the host's cache
CHUNK_MOST_ELEMENTS = 1 << 24  # of the largest tile of all, should none of them stay symbolic or lent
PARALLEL_WORK = 1 << 18
MACS_PER_ELEMENT = 16  # multiply-adds a host core does in the time of one element's operation


@dataclass(slots=True)
class Plan:
    """What is known of a program before any launch: where pointers come from, its largest tile, how it must run."""

    origins: dict[int, int] = field(default_factory=dict)  # value id -> parameter index
    largest_tile: int = 1
    largest_held: int = 1  # the largest tile that takes memory: addresses and masks are symbolic, lent tiles are views
    largest_work: int = 1  # of one command, in units of one element's operation
    n_values: int = 0
    sequential: bool = False
    lendable: frozenset[int] = frozenset()  # loads whose tile a multiply reads at once, before any store: need no copy


@once_a_program
def plan_of(program: TileProgram) -> Plan:
    """How the interpreter goes through the program."""
    plan = Plan()
    for i, parameter in enumerate(program.parameters):
        plan.n_values = max(plan.n_values, parameter.value.id + 1)
        if parameter.value.type.is_pointer:
            plan.origins[parameter.value.id] = i
    _plan_block(program.body, plan, in_while=False)
    plan.lendable = frozenset(_lendable(program))
    plan.largest_held = _largest_held(program, plan)
    return plan


def _largest_held(program: TileProgram, plan: Plan) -> int:
    flow = dataflow_of(program)
    lent = {
        command.result.id
        for command in program.commands
        if command.index in plan.lendable and command.result.type.n_bytes >= memory.MIN_LENT_BYTES
    }
    made = (
        v
        for command in program.commands
        if not isinstance(command, _COMPACT)
        for v in (*command.results, *(a for b in command.blocks for a in b.args))
    )
    return max((v.type.n_elements for v in made if v.id in flow.data_values and v.id not in lent), default=1)


_COMPACT = (c.Constant, c.Range, c.Splat, c.ExpandDims, c.Broadcast)  # one value or one row, however large the tile


def programs_per_chunk(plan: Plan) -> int:
    """How many program instances are interpreted at once."""
    if plan.sequential:
        return 1
    return max(1, min(CHUNK_ELEMENTS // plan.largest_held, CHUNK_MOST_ELEMENTS // plan.largest_tile))


def users_of(program: TileProgram) -> dict[int, list[c.Command | None]]:
    """Value id -> the commands that read it; None where a block yields it."""
    users: dict[int, list[c.Command | None]] = {}
    for command in program.commands:
        for operand in command.operands:
            users.setdefault(operand.id, []).append(command)
        for value in (v for block in command.blocks for v in block.yields):
            users.setdefault(value.id, []).append(None)
    return users


def _lendable(program: TileProgram) -> Iterator[int]:
    """Loads used by multiplies of their own block alone, in blocks that do not write memory."""
    users = users_of(program)
    for block in (program.body, *(b for command in program.commands for b in command.blocks)):
        if any(isinstance(command, _WRITES) for command in block.commands):
            continue
        multiplies = [command for command in block.commands if isinstance(command, c.MatMul)]
        for command in block.commands:
            if isinstance(command, c.Load) and all(u in multiplies for u in users.get(command.result.id, [])):
                yield command.index


_WRITES = (c.Store, c.AtomicRmw, c.AtomicCas, c.If, c.For, c.While)  # or may hold one


def _plan_block(block: c.Block, plan: Plan, *, in_while: bool) -> None:
    for command in block.commands:
        for value in (*command.results, *(a for b in command.blocks for a in b.args)):
            plan.n_values = max(plan.n_values, value.id + 1)
            plan.largest_tile = max(plan.largest_tile, value.type.n_elements)
        plan.largest_work = max(plan.largest_work, plan.largest_tile, _matmul_work(command))
        plan.sequential |= in_while and isinstance(command, c.AtomicCas | c.AtomicRmw)
        _trace_pointers(command, plan)
        for inner in command.blocks:
            _plan_block(inner, plan, in_while=in_while or isinstance(command, c.While))
        if isinstance(command, c.For | c.While | c.If) and not isinstance(command, c.For):
            for inner in command.blocks[-1:]:
                _join_origins(inner.yields[-len(command.results) :] if command.results else (), command.results, plan)


def _matmul_work(command: c.Command) -> int:
    if not isinstance(command, c.MatMul):
        return 0
    return command.result.type.n_elements * command.operands[0].type.shape[-1] // MACS_PER_ELEMENT


def _trace_pointers(command: c.Command, plan: Plan) -> None:
    if isinstance(command, c.For):
        _join_origins(command.operands[3:], command.body.args[1:], plan)
        _join_origins(command.operands[3:], command.results, plan)
    elif isinstance(command, c.While):
        _join_origins(command.operands, command.before.args, plan)
        _join_origins(command.operands, command.after.args, plan)
    elif command.results and command.result.type.is_pointer and not command.blocks:
        found = [plan.origins[o.id] for o in command.operands if o.id in plan.origins]
        if found:
            plan.origins[command.result.id] = found[0]


def _join_origins(sources: Sequence[Value], targets: Sequence[Value], plan: Plan) -> None:
    for source, target in zip(sources, targets, strict=False):
        if source.id in plan.origins and target.type.is_pointer:
            plan.origins[target.id] = plan.origins[source.id]


@contextmanager
def host_threads(plan: Plan, n_programs: int) -> Iterator[None]:
    """One host thread where the work is small: waking a second costs more than it saves, and on a busy machine a whole
    time slice. Results do not depend on it: tiles are independent."""
    before = torch.get_num_threads()
    alone = before > 1 and n_programs * plan.largest_work < PARALLEL_WORK
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(before)
