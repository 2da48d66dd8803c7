"""Compiles a Trace and a ChipSpec to the flat arrays the event loop reads: nodes, dependencies, buffer waits.

A node is one thing an engine does: a DMA, a block multiply, a layout change, a scalar operation, or a group of
neighbouring vector and special-function commands (strip-mined: tiles inside a group never leave the engines).

* Dependencies are the latest nodes that produced an operand, seen through free commands (splat, broadcast, ...) and
  through the arguments and results of loops and branches. What a loop hands to its next iteration is, inside it, the
  value of the iteration before, also where this iteration has made its own already (software pipelining).
* What only feeds addresses and masks of block accesses is the DMA descriptor's job and costs the DMA issue alone. A
  DMA with one address per element is one DMA command per contiguous run, unless the chip's DMA reads index lists.
* A circular buffer of s slots makes the k-th load wait for the consumers of the (k - s)-th, and the producer of the
  k-th stored tile wait for the (k - s)-th store; k counts on across the program instances of a PE.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from mtia.chips.spec import ChipSpec
from mtia.engine.cycles import Cost, cost_of, latency_cycles
from mtia.engine.trace import Access, Trace
from mtia.program import commands as c
from mtia.program.commands import Command, Unit
from mtia.program.dataflow import dataflow_of
from mtia.program.program import TileProgram

UNITS = (Unit.CORE, Unit.VECTOR, Unit.SFU, Unit.MLU, Unit.DPE, Unit.DMA_IN, Unit.DMA_OUT)
UNIT_INDEX = {unit: i for i, unit in enumerate(UNITS)}
MEMORY = (c.Load, c.Store, c.AtomicRmw, c.AtomicCas)


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of one command for a chip, whatever the launch."""

    command: Command
    cost: Cost | None
    sources: tuple[tuple[int, ...], ...]  # per operand: the values it may be (through loops and branches)
    carried: tuple[tuple[int, ...], ...]  # per operand and value: the loop that handed it on, -1 none
    operand_bytes: tuple[int, ...]
    control: tuple[int, ...]  # values that decide whether it runs
    results: tuple[int, ...]
    is_memory: bool
    buffer: int  # circular buffer filled or drained, -1 none
    slots: int


@dataclass(slots=True)
class Node:
    """One thing an engine does. `cycles` by unit index; DMA nodes have none."""

    unit: int
    first_command: int
    active: int
    access: int = -1
    n_commands: int = 1
    cycles: list[float] = field(default_factory=lambda: [0.0] * len(UNITS))
    latency_cycles: float = 0.0  # from when the engine is free again to when the result is there
    deps: set[int] = field(default_factory=set)
    waits: set[tuple[int, int]] = field(default_factory=set)
    local: dict[int, int] = field(default_factory=dict)  # tiles a group reads or leaves in local memory -> bytes

    def cost_cycles(self, local_bytes_per_cycle: int) -> float:
        """Vector and SFU share the strips of a group, fed from local memory; the MLU's part comes before or after."""
        vector, sfu = self.cycles[1], self.cycles[2]
        return max(sum(self.cycles) - min(vector, sfu), sum(self.local.values()) / local_bytes_per_cycle)


@dataclass(slots=True)
class Schedule:
    """The nodes of one program instance, and what each command amounts to over all instances."""

    nodes: list[Node]
    accesses: list[Access]
    active_masks: list[np.ndarray]
    n_executions: dict[int, int]  # command index -> executions over all program instances


def compile_schedule(trace: Trace, spec: ChipSpec) -> Schedule:
    return _Compiler(trace, spec).compile()


@lru_cache(maxsize=512)
def _infos_by_identity(program: _Identity, spec: ChipSpec) -> tuple[Info, ...]:
    return _make_infos(program.program, spec)


def _loops_of(program: TileProgram) -> dict[int, tuple[tuple[int, int], ...]]:
    """`_loops` of a program, computed once."""
    return _loops_by_identity(_Identity(program))


@lru_cache(maxsize=512)
def _loops_by_identity(program: _Identity) -> dict[int, tuple[tuple[int, int], ...]]:
    return _loops(program.program.body, ())


class _Identity:
    """A program as a cache key by identity (programs hold tuples of commands: hashing one would walk it all)."""

    __slots__ = ("program",)

    def __init__(self, program: TileProgram) -> None:
        self.program = program

    def __hash__(self) -> int:
        return id(self.program)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.program is self.program


def infos_of(program: TileProgram, spec: ChipSpec) -> tuple[Info, ...]:
    """Info by command index, computed once per program and chip."""
    return _infos_by_identity(_Identity(program), spec)


def _make_infos(program: TileProgram, spec: ChipSpec) -> tuple[Info, ...]:
    aliases = _aliases(program)
    control = _control_values(program.body, ())
    flow = dataflow_of(program)
    infos = []
    for command in program.commands:
        sources = [_resolve(v.id, aliases) for v in command.operands]
        is_memory = isinstance(command, MEMORY)
        buffer = program.buffer_of.get(command.index)
        infos.append(
            Info(
                command=command,
                cost=None if is_memory or flow.costs_nothing(command) else cost_of(command, spec),
                sources=tuple(tuple(s) for s in sources),
                carried=tuple(tuple(s.values()) for s in sources),
                operand_bytes=tuple(v.type.n_bytes for v in command.operands),
                control=tuple(root for v in control[command.index] for root in _resolve(v, aliases)),
                results=tuple(v.id for v in command.results),
                is_memory=is_memory,
                buffer=-1 if buffer is None else buffer.id,
                slots=0 if buffer is None else buffer.slots,
            )
        )
    return tuple(infos)


# --- values through loops and branches --------------------------------------------------------------------------------


Aliases = dict[int, tuple[tuple[int, int], ...]]


def _aliases(program: TileProgram) -> Aliases:
    """Value that a loop or branch hands on -> the values it may be, one step back, each with the loop whose iteration
    before it comes from (-1: this one, or no loop)."""
    out: Aliases = {}
    for command in program.commands:
        match command:
            case c.For():
                _alias(out, command.body.args[1:], command.operands[3:], command.body.yields, loop=command.index)
                _alias(out, command.results, command.operands[3:], command.body.yields)
            case c.While():
                _alias(out, command.before.args, command.operands, command.after.yields, loop=command.index)
                _alias(out, command.after.args, command.before.yields[1:])
                _alias(out, command.results, command.before.yields[1:])
            case c.If():
                _alias(out, command.results, command.then.yields, command.otherwise.yields)
    return out


def _alias(out: Aliases, targets: Sequence, *sources: Sequence, loop: int = -1) -> None:
    """`loop`: the last of `sources` is what that loop's iteration before has made."""
    carried = [-1] * (len(sources) - 1) + [loop]
    for i, target in enumerate(targets):
        out[target.id] = tuple((v[i].id, at) for v, at in zip(sources, carried, strict=True) if i < len(v))


def _resolve(value: int, aliases: Aliases) -> dict[int, int]:
    """The values that are not aliases which `value` may stand for, in a fixed order -> loop that handed it on (of
    several the outermost), -1 none."""
    seen: dict[int, int] = {}
    pending = [(value, -1)]
    while pending:
        v, loop = pending.pop()
        if v in seen:
            continue
        seen[v] = loop
        pending.extend((w, via if loop < 0 else loop if via < 0 else min(via, loop)) for w, via in aliases.get(v, ()))
    return {v: loop for v, loop in seen.items() if v not in aliases}


def _loops(block: c.Block, outer: tuple[tuple[int, int], ...]) -> dict[int, tuple[tuple[int, int], ...]]:
    """Command index -> the loops around it, outermost first: (index, index of the last command in it)."""
    out: dict[int, tuple[tuple[int, int], ...]] = {}
    for command in block.commands:
        out[command.index] = outer
        inside = outer
        if isinstance(command, c.For | c.While):
            inside = (*outer, (command.index, _last_index(command)))
        for inner in command.blocks:
            out.update(_loops(inner, inside))
    return out


def _last_index(command: Command) -> int:
    """Commands are numbered in program order, those of a region after the command that holds it."""
    return max((_last_index(b.commands[-1]) for b in command.blocks if b.commands), default=command.index)


def _control_values(block: c.Block, outer: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Command index -> values of the conditions of the branches and open loops around it."""
    out: dict[int, tuple[int, ...]] = {}
    for command in block.commands:
        out[command.index] = outer
        inside = outer
        if isinstance(command, c.If):
            inside = (*outer, command.operands[0].id)
        elif isinstance(command, c.While):
            inside = (*outer, command.before.yields[0].id)
        for inner in command.blocks:
            out.update(_control_values(inner, inside))
    return out


# --- one launch -------------------------------------------------------------------------------------------------------


class _Compiler:
    def __init__(self, trace: Trace, spec: ChipSpec) -> None:
        self.trace, self.spec = trace, spec
        self.infos = infos_of(trace.program, spec)
        self.schedule = Schedule([], [], [], {})
        self.nodes = self.schedule.nodes
        self.producers: dict[int, tuple[int, ...]] = {}  # value -> nodes it comes from
        self.defined: dict[int, tuple[int, int]] = {}  # value -> (step, active mask)
        self.before: dict[int, tuple[int, int, tuple[int, ...]]] = {}  # the time before: (step, active mask, nodes)
        self.loops = _loops_of(trace.program)
        self.began: dict[int, int] = {}  # loop -> step at which its iteration under way began
        self.last_command = -1
        self.masks: dict[int, int] = {}
        self.n_active: list[int] = []
        self.group: int = -1  # open vector group
        self.fills: dict[int, list[int]] = {}  # buffer -> nodes that load into it, in order
        self.drains: dict[int, list[tuple[int, tuple[int, ...]]]] = {}  # buffer -> (store node, producers)
        self.slots: dict[int, int] = {}
        self.interleaved = min(spec.pe.resident_programs, max(1, -(-trace.n_programs // spec.grid.n_pes)))

    def compile(self) -> Schedule:
        for at, step in enumerate(self.trace.steps):
            self._enter(step.command, at)
            info = self.infos[step.command]
            if info.cost is None and not info.is_memory:
                self._pass_through(info, at)
                continue
            active = self._mask(step.active)
            if info.is_memory:
                assert step.access is not None
                self._memory(info, at, step.access, active)
            else:
                self._count(info.command.index, active)
                self._work(info, at, active)
        self._buffer_waits()
        return self.schedule

    # --- masks and counts ---

    def _mask(self, active: np.ndarray | None) -> int:
        if active is None:
            return -1
        index = self.masks.get(id(active))
        if index is None:
            index = self.masks[id(active)] = len(self.n_active)
            flat = np.ascontiguousarray(np.broadcast_to(active, (self.trace.n_programs,)), dtype=np.uint8)
            self.schedule.active_masks.append(flat)
            self.n_active.append(int(np.count_nonzero(flat)))
        return index

    def _count(self, command: int, active: int) -> None:
        n = self.trace.n_programs if active < 0 else self.n_active[active]
        self.schedule.n_executions[command] = self.schedule.n_executions.get(command, 0) + n

    def _enter(self, command: int, at: int) -> None:
        """Notes where iterations begin: a loop is entered, or its innermost one around both commands goes back."""
        last, self.last_command = self.last_command, command
        loops = self.loops[command]
        for i, (loop, end) in enumerate(loops):
            if not loop < last <= end:  # from outside: this loop and all in it begin
                self.began.update((inner, at) for inner, _ in loops[i:])
                return
            goes_back = command <= last and (i + 1 == len(loops) or not loops[i + 1][0] < last <= loops[i + 1][1])
            if goes_back:
                self.began.update((inner, at) for inner, _ in loops[i:])
                return

    # --- dependencies ---

    def _latest(self, values: tuple[int, ...], carried: tuple[int, ...], active: int) -> tuple[int, ...]:
        """Nodes behind the value that was defined last (with branches: behind the last of each mask)."""
        if len(values) == 1:
            return self.producers.get(values[0], ())
        known = sorted(
            found for v, loop in zip(values, carried, strict=True) if (found := self._definition(v, loop)) is not None
        )
        out: tuple[int, ...] = ()
        for _, mask, nodes in reversed(known):
            out = (*out, *nodes)
            if mask in (-1, active):
                break
        return out

    def _definition(self, value: int, loop: int) -> tuple[int, int, tuple[int, ...]] | None:
        """(step, active mask, nodes) of the last definition, before its iteration where a loop hands it on."""
        last = self.defined.get(value)
        if last is None:
            return None
        if loop >= 0 and last[0] >= self.began.get(loop, 0):
            return self.before.get(value)
        return (*last, self.producers.get(value, ()))

    def _operand_nodes(self, info: Info, active: int) -> set[int]:
        nodes: set[int] = set()
        for values, carried, n_bytes in zip(info.sources, info.carried, info.operand_bytes, strict=True):
            found = self._latest(values, carried, active)
            for node in found:
                if node != self.group and self.nodes[node].unit in (1, 2):
                    self.nodes[node].local[values[0]] = n_bytes
            nodes.update(found)
        for value in info.control:
            nodes.update(self.producers.get(value, ()))
        return nodes

    def _define(self, info: Info, at: int, active: int, nodes: tuple[int, ...]) -> None:
        for value in info.results:
            if value in self.defined:
                self.before[value] = (*self.defined[value], self.producers.get(value, ()))
            self.producers[value] = nodes
            self.defined[value] = (at, active)

    def _pass_through(self, info: Info, at: int) -> None:
        if isinstance(info.command, c.Barrier):
            return
        nodes = self._operand_nodes(info, -1)
        self._define(info, at, -1, tuple(sorted(nodes)))

    # --- nodes ---

    def _add(self, unit: Unit, info: Info, active: int, deps: Iterable[int]) -> int:
        self.nodes.append(Node(UNIT_INDEX[unit], info.command.index, active, deps=set(deps)))
        return len(self.nodes) - 1

    def _work(self, info: Info, at: int, active: int) -> None:
        cost = info.cost
        assert cost is not None
        if cost.groups:
            self._join_group(info, cost, at, active)
            return
        if cost.unit is not Unit.CORE:
            self.group = -1
        deps = self._operand_nodes(info, active)
        if isinstance(info.command, c.Barrier):
            deps |= self._last_of_each_unit()
        node = self._add(cost.unit, info, active, deps)
        self._spend(self.nodes[node], cost)
        self._define(info, at, active, (node,))

    def _join_group(self, info: Info, cost: Cost, at: int, active: int) -> None:
        deps = self._operand_nodes(info, active)
        if self.group < 0 or self.nodes[self.group].active != active or self._after_group(deps):
            self.group = self._add(cost.unit, info, active, ())
            self.nodes[self.group].n_commands = 0
            deps = self._operand_nodes(info, active)
        node = self.nodes[self.group]
        for values, carried, n_bytes in zip(info.sources, info.carried, info.operand_bytes, strict=True):
            made_by = self._latest(values, carried, active)
            if made_by and self.group not in made_by:
                node.local[values[0]] = n_bytes
        node.n_commands += 1
        node.deps |= deps - {self.group}
        self._spend(node, cost)
        node.unit = 2 if node.cycles[2] >= node.cycles[1] else 1
        self._define(info, at, active, (self.group,))

    def _after_group(self, deps: Iterable[int]) -> bool:
        """Whether one of the nodes waits for the open group: a scalar made from a tile's reduction, say.

        What follows an open group is the core's, which works in order: a node also waits for all before it.
        """
        last = max(deps, default=-1)
        return any(self.group in self.nodes[node].deps for node in range(self.group + 1, last + 1))

    def _spend(self, node: Node, cost: Cost) -> None:
        node.cycles[UNIT_INDEX[cost.unit]] += cost.cycles
        node.latency_cycles = max(node.latency_cycles, latency_cycles(cost, self.interleaved))
        node.cycles[UNIT_INDEX[Unit.MLU]] += cost.mlu_cycles
        node.cycles[UNIT_INDEX[Unit.VECTOR]] += cost.vector_cycles

    def _last_of_each_unit(self) -> set[int]:
        last: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            last[node.unit] = i
        return set(last.values())

    def _memory(self, info: Info, at: int, access: Access, active: int) -> None:
        self.group = -1
        deps = self._operand_nodes(info, active)
        node = self._add(Unit.DMA_OUT if access.write else Unit.DMA_IN, info, active, deps)
        self.nodes[node].access = len(self.schedule.accesses)
        self.schedule.accesses.append(access)
        self._define(info, at, active, (node,))
        if info.buffer < 0:
            return
        self.slots[info.buffer] = info.slots
        if access.write:
            self.drains.setdefault(info.buffer, []).append(
                (node, self._latest(info.sources[1], info.carried[1], active))
            )
        else:
            self.fills.setdefault(info.buffer, []).append(node)

    # --- circular buffers ---

    def _buffer_waits(self) -> None:
        consumers: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for dep in node.deps:
                consumers.setdefault(dep, []).append(i)
        for buffer, loads in self.fills.items():
            for k, load in enumerate(loads):
                before, distance = _earlier(k, self.slots[buffer], len(loads))
                self._wait(load, consumers.get(loads[before], [loads[before]]), distance)
        for buffer, stores in self.drains.items():
            for k, (_, producers) in enumerate(stores):
                before, distance = _earlier(k, self.slots[buffer], len(stores))
                for producer in producers:
                    self._wait(producer, [stores[before][0]], distance)

    def _wait(self, node: int, released_by: Iterable[int], distance: int) -> None:
        """A release that this program issues only after `node` cannot hold it back (the tile outlives its slot)."""
        self.nodes[node].waits.update((other, distance) for other in released_by if distance > 0 or other < node)


def _earlier(k: int, slots: int, n_uses: int) -> tuple[int, int]:
    """Use k - slots of a buffer that a program uses n_uses times: (which use, how many programs before)."""
    at = k - slots
    return at % n_uses, -(at // n_uses)


__all__ = ["UNITS", "UNIT_INDEX", "Info", "Node", "Schedule", "compile_schedule", "infos_of"]
