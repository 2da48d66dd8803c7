"""Which commands serve addresses, masks and control, which the data, and which spread out a sparse operand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mtia.program import commands as c
from mtia.program.program import TileProgram, once_a_program
from mtia.program.types import Value


@dataclass(frozen=True, slots=True)
class Dataflow:
    """`index_values`: value ids that addresses, masks, loop bounds or branches depend on. `data_values`: ids that
    stored data depends on. `data_dependent`: some address or branch depends on what a load returns."""

    index_values: frozenset[int]
    data_values: frozenset[int]
    data_dependent: bool
    loaded_addresses: frozenset[int]  # indices of memory commands whose addresses depend on a load
    expansions: frozenset[int] = frozenset()  # indices of commands that only spread out a sparse operand

    def is_index_only(self, command: c.Command) -> bool:
        """The command only helps to compute addresses or control."""
        return bool(command.results) and not any(r.id in self.data_values for r in command.results)

    def expands(self, command: c.Command) -> bool:
        """The command only spreads out a sparse operand, which the dot product engine does as it reads it."""
        return command.index in self.expansions

    def costs_nothing(self, command: c.Command) -> bool:
        """The command is the DMA descriptor's work, or the dot product engine's as it reads an operand."""
        return self.is_index_only(command) or self.expands(command)

    def serves_index(self, command: c.Command) -> bool:
        return any(r.id in self.index_values for r in command.results)


@once_a_program
def dataflow_of(program: TileProgram) -> Dataflow:
    """Which values of the program depend on which."""
    edges: dict[int, set[int]] = {}  # everything a value depends on
    data_edges: dict[int, set[int]] = {}  # without addresses, masks, bounds and conditions
    _collect_edges(program.body, edges, data_edges)
    commands = program.commands
    index_values = _closure(_index_roots(commands), edges)
    data_values = _closure(_data_roots(commands), data_edges)
    loads = {r.id for cmd in commands if isinstance(cmd, c.Load | c.AtomicRmw | c.AtomicCas) for r in cmd.results}
    moved = frozenset(
        cmd.index for cmd in commands if isinstance(cmd, _MEMORY) and _closure([cmd.operands[0].id], edges) & loads
    )
    return Dataflow(
        frozenset(index_values), frozenset(data_values), bool(index_values & loads), moved, _expansions(program)
    )


def _expansions(program: TileProgram) -> frozenset[int]:
    """What nothing else uses than sparse operands, and commands like it: found from the last command backwards."""
    if not any(isinstance(cmd, c.MatMul) and cmd.sparse for cmd in program.commands):
        return frozenset()
    elsewhere = {v.id for block in _blocks(program.body) for v in block.yields}
    found: set[int] = set()
    for cmd in reversed(program.commands):
        plain = bool(cmd.results) and not cmd.blocks and not isinstance(cmd, _MEMORY | c.MatMul | c.ScaledMatMul)
        if plain and not any(r.id in elsewhere for r in cmd.results):
            found.add(cmd.index)
            continue
        own = (1,) if isinstance(cmd, c.MatMul) and cmd.sparse else ()
        elsewhere |= {v.id for at, v in enumerate(cmd.operands) if at not in own}
    return frozenset(found)


def _blocks(block: c.Block) -> Iterable[c.Block]:
    yield block
    for cmd in block.commands:
        for inner in cmd.blocks:
            yield from _blocks(inner)


_MEMORY = c.Load | c.Store | c.AtomicRmw | c.AtomicCas


def _index_roots(commands: Iterable[c.Command]) -> set[int]:
    roots: set[int] = set()
    for cmd in commands:
        match cmd:
            case c.Load():
                roots |= {v.id for v in cmd.operands[:2]}
            case c.Store() | c.AtomicRmw():
                roots |= {v.id for v in (cmd.operands[0], *cmd.operands[2:])}
            case c.AtomicCas():
                roots.add(cmd.operands[0].id)
            case c.For():
                roots |= {v.id for v in cmd.operands[:3]}
            case c.If():
                roots.add(cmd.operands[0].id)
            case c.While():
                roots.add(cmd.before.yields[0].id)
    return roots


def _data_roots(commands: Iterable[c.Command]) -> set[int]:
    roots: set[int] = set()
    for cmd in commands:
        match cmd:
            case c.Store() | c.AtomicRmw():
                roots.add(cmd.operands[1].id)
            case c.AtomicCas():
                roots |= {v.id for v in cmd.operands[1:]}
            case c.Assert() | c.Print():
                roots |= {v.id for v in cmd.operands}
    return roots


def _closure(roots: Iterable[int], edges: dict[int, set[int]]) -> set[int]:
    seen: set[int] = set()
    pending = list(roots)
    while pending:
        value = pending.pop()
        if value not in seen:
            seen.add(value)
            pending.extend(edges.get(value, ()))
    return seen


Edges = dict[int, set[int]]


def _depend(edges: tuple[Edges, ...], results: Sequence[Value], *sources: Sequence[Value]) -> None:
    """Result i depends on item i of every source."""
    for source in sources:
        for result, value in zip(results, source, strict=False):
            for table in edges:
                table.setdefault(result.id, set()).add(value.id)


def _depend_on_all(edges: Edges, results: Iterable[Value], sources: Iterable[Value]) -> None:
    for result in results:
        edges.setdefault(result.id, set()).update(v.id for v in sources)


def _collect_edges(block: c.Block, edges: Edges, data: Edges) -> None:
    both = (edges, data)
    for cmd in block.commands:
        match cmd:
            case c.For():
                _depend(both, cmd.body.args[1:], cmd.operands[3:], cmd.body.yields)
                _depend(both, cmd.results, cmd.operands[3:], cmd.body.yields)
                _depend_on_all(edges, (cmd.body.args[0], *cmd.results), cmd.operands[:3])
            case c.While():
                _depend(both, cmd.before.args, cmd.operands, cmd.after.yields)
                _depend(both, cmd.after.args, cmd.before.yields[1:])
                _depend(both, cmd.results, cmd.before.yields[1:])
                _depend_on_all(edges, cmd.results, cmd.before.yields[:1])
            case c.If():
                _depend(both, cmd.results, cmd.then.yields, cmd.otherwise.yields)
                _depend_on_all(edges, cmd.results, cmd.operands)
            case c.Load():
                _depend_on_all(edges, cmd.results, cmd.operands)
                _depend_on_all(data, cmd.results, cmd.operands[2:])
            case c.AtomicRmw() | c.AtomicCas():
                _depend_on_all(edges, cmd.results, cmd.operands)
            case _:
                _depend_on_all(edges, cmd.results, cmd.operands)
                _depend_on_all(data, cmd.results, cmd.operands)
                for combine in cmd.blocks:  # a reduction's or scan's own region: run wherever its results are wanted
                    _depend_on_all(edges, cmd.results, combine.yields)
        for inner in cmd.blocks:
            _collect_edges(inner, edges, data)
