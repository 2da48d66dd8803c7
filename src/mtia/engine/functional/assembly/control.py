"""Loops and branches, with the values that several places write."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.held import Held, Linear, Redo, Scalar, Tile, contiguous, same_strides
from mtia.engine.functional.assembly.memory import spread_all
from mtia.engine.functional.assembly.usage import ids, made_in
from mtia.program import commands as c
from mtia.program.types import Value


class _Carried:
    """A value that several places write: loop-carried, or the result of branches. A register, an affine tile with a
    register for its base, or a slot."""

    def __init__(self, asm: Assembler, value: Value, initial: Held) -> None:
        self.owner, self.value = asm, value
        type_ = value.type
        if isinstance(initial, Scalar):
            self.held: Held = Scalar(asm.register(), False)
        elif isinstance(initial, Linear) and value.id not in asm.as_tiles and _strides_are_fixed(initial):
            self.held = Linear(Scalar(asm.register(), False), initial.strides)
        else:
            slot = asm.slot(max(8, type_.n_bytes), pinned=False)
            slot.users += 1
            self.held = Tile(slot, type_.element, type_.shape, contiguous(type_.shape))

    def read(self, source: Held) -> Held:
        """`source` in this value's form, in registers or slots that no other carried value writes."""
        if isinstance(self.held, Tile):
            return self.owner.as_tile(source, self.value.type)
        if isinstance(self.held, Scalar):
            assert isinstance(source, Scalar)
            return source
        assert isinstance(self.held, Linear)
        if not isinstance(source, Linear) or not same_strides(self.held, source):
            raise Redo(self.value.id)
        return source.base

    def write(self, source: Held) -> None:
        if isinstance(self.held, Tile):
            assert isinstance(source, Tile)
            if source.slot is not self.held.slot:
                self.owner.copy(self.held, source, self.value.type.shape)
            return
        assert isinstance(source, Scalar)
        target = self.held.base if isinstance(self.held, Linear) else self.held
        assert isinstance(target, Scalar)
        if source.register != target.register:
            self.owner.move(target.register, source)

    def finish(self) -> None:
        if isinstance(self.held, Tile):
            self.held.slot.users -= 1
            self.owner.release(self.held.slot)


def _strides_are_fixed(lin: Linear) -> bool:
    return all(s is None or s.is_invariant for s in lin.strides)


def _hand_over(asm: Assembler, carried: Sequence[_Carried], sources: Sequence[Held], *, may_swap: bool) -> None:
    """All at once: what a later write would overwrite is set aside; a tile that nothing else needs changes places."""
    ready = [x.read(s) for x, s in zip(carried, sources, strict=True)]
    written = {_identity(x.held) for x in carried}
    slots = [_identity(r) for r in ready]
    for i, (x, source) in enumerate(zip(carried, ready, strict=True)):
        if _identity(source) in written and _identity(source) != _identity(x.held):
            ready[i] = _set_aside(asm, source)
    for i, (x, source) in enumerate(zip(carried, ready, strict=True)):
        if may_swap and isinstance(source, Tile) and slots.count(slots[i]) == 1 and _may_swap(x, source, written):
            assert isinstance(x.held, Tile)
            asm.emit("swap", x.held.slot.index, source.slot.index)
        else:
            x.write(source)


def _identity(held: Held) -> tuple:
    match held:
        case Tile():
            return ("slot", held.slot.index)
        case Linear():
            return ("register", held.base.register)
        case Scalar():
            return ("register", held.register)
    return ()


def _set_aside(asm: Assembler, source: Held) -> Held:
    if isinstance(source, Tile):
        out = asm.new_tile(source.element, source.shape, [True] * len(source.shape), once=False)
        asm.copy(out, source, source.shape)
        return out
    assert isinstance(source, Scalar)
    out = Scalar(asm.register(), False)
    asm.move(out.register, source)
    return out


def _may_swap(x: _Carried, source: Tile, written: set[tuple]) -> bool:
    """The source's slot is its own: made in this iteration, of the same form, neither lent nor carried."""
    target = x.held
    return (
        isinstance(target, Tile)
        and not source.slot.is_pinned
        and source.slot.users == 1
        and source.slot.n_bytes == target.slot.n_bytes
        and source.offset == 0
        and source.strides == target.strides
        and _identity(source) not in written
    )


def _start(asm: Assembler, args: Sequence[Value], operands: Sequence[Value]) -> list[_Carried]:
    held = [asm.held(o) for o in operands]
    carried = [_Carried(asm, a, h) for a, h in zip(args, held, strict=True)]
    for x, source, operand in zip(carried, held, operands, strict=True):
        x.write(x.read(source))
        asm.bind(x.value, x.held)
        if operand.id in asm.origins:
            asm.origins[x.value.id] = asm.origins[operand.id]
    return carried


@assembles(c.For)
def _for(asm: Assembler, cmd: c.For) -> None:
    lower, upper, step = (asm.scalar(o) for o in cmd.operands[:3])
    variable = Scalar(asm.register(), False)
    carried = _start(asm, cmd.body.args[1:], cmd.operands[3:])
    asm.move(variable.register, lower)
    asm.bind(cmd.body.args[0], variable)
    top = asm.here()
    running = asm.scalar_op("slt", variable, upper, 64, 1)
    leave = asm.emit("branch", running.register, 0)
    made = made_in(cmd.body)
    asm.block(cmd.body)
    sources = [asm.held(y) for y in cmd.body.yields]
    _hand_over(asm, carried, sources, may_swap=all(y.id in made or y.id in ids(cmd.body.args) for y in cmd.body.yields))
    _drop_yields(asm, cmd.body)
    asm.move(variable.register, asm.scalar_op("addi", variable, step))
    asm.emit("jump", top)
    asm.patch(leave, 3)
    _end(asm, cmd.results, cmd.body.args[1:], carried)


def _drop_yields(asm: Assembler, block: c.Block) -> None:
    for value in ids(block.yields) & made_in(block):
        asm.drop(value)


def _end(asm: Assembler, results: Sequence[Value], args: Sequence[Value], carried: Sequence[_Carried]) -> None:
    for result, arg, x in zip(results, args, carried, strict=True):
        asm.bind(result, x.held)
        if arg.id in asm.origins:
            asm.origins[result.id] = asm.origins[arg.id]
        asm.drop(arg.id)
        x.finish()


@assembles(c.While)
def _while(asm: Assembler, cmd: c.While) -> None:
    carried = _start(asm, cmd.before.args, cmd.operands)
    top = asm.here()
    asm.block(cmd.before)
    running = asm.scalar(cmd.before.yields[0])
    passed = [asm.held(y) for y in cmd.before.yields[1:]]
    leave = asm.emit("branch", running.register, 0)
    for arg, held, source in zip(cmd.after.args, passed, cmd.before.yields[1:], strict=True):
        asm.bind(arg, held)
        if source.id in asm.origins:
            asm.origins[arg.id] = asm.origins[source.id]
    asm.block(cmd.after)
    _hand_over(asm, carried, [asm.held(y) for y in cmd.after.yields], may_swap=False)
    _drop_yields(asm, cmd.after)
    asm.emit("jump", top)
    asm.patch(leave, 3)
    for result, held, source in zip(cmd.results, passed, cmd.before.yields[1:], strict=True):
        asm.bind(result, held)
        if source.id in asm.origins:
            asm.origins[result.id] = asm.origins[source.id]


@assembles(c.If)
def _if(asm: Assembler, cmd: c.If) -> None:
    condition = asm.scalar(cmd.operands[0])
    skip = asm.emit("branch", condition.register, 0)
    merged: list[_Carried] = []
    leave = -1
    for branch in cmd.blocks:
        asm.block(branch)
        sources = [asm.held(y) for y in branch.yields]
        merged = merged or [_Carried(asm, r, s) for r, s in zip(cmd.results, sources, strict=True)]
        _hand_over(asm, merged, sources, may_swap=False)
        for result, y in zip(cmd.results, branch.yields, strict=False):
            if y.id in asm.origins:
                asm.origins[result.id] = asm.origins[y.id]
        _drop_yields(asm, branch)
        if leave < 0:
            leave = asm.emit("jump", 0)
            asm.patch(skip, 3)
    asm.patch(leave, 2)
    for x in merged:
        asm.bind(x.value, x.held)
        x.finish()


@assembles(c.Return)
def _return(asm: Assembler, cmd: c.Return) -> None:
    asm.emit("halt")


@assembles(c.Assert)
def _assert(asm: Assembler, cmd: c.Assert) -> None:
    ok = asm.tile(cmd.operands[0])
    varying = [s != 0 for s in ok.strides]
    flat = asm.spread(ok, varying)
    n = prod(extent for extent, v in zip(ok.shape, varying, strict=True) if v)
    asm.emit("assert", spread_all(asm, varying, flat)[0], n, cmd.index)


@assembles(c.Barrier)
def _barrier(asm: Assembler, cmd: c.Barrier) -> None:
    """Commands already take effect in program order."""
