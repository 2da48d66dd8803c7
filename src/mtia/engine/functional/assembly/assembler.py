"""One pass over a program's commands: what each value is held as, and the table from command to assembler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from mtia.engine.functional.assembly.emission import Emission
from mtia.engine.functional.assembly.held import (
    Assembled,
    Held,
    Linear,
    Mask,
    NotAssembled,
    Scalar,
    Tile,
    bits,
    contiguous,
)
from mtia.engine.functional.assembly.usage import (
    commute,
    inside,
    last_uses,
    lendable,
    loops,
    right_hand_sides,
    runs_in_sequence,
)
from mtia.engine.functional.values import TORCH_DTYPE
from mtia.program import commands as c
from mtia.program.program import TileProgram
from mtia.program.types import Element, TileType, Value


class Assembler(Emission):
    """One pass over a program. `as_tiles`: loop-carried values that an earlier pass could not keep affine. `any_grid`:
    nothing may be concluded from how many programs a launch has."""

    def __init__(self, program: TileProgram, as_tiles: set[int], *, any_grid: bool = False) -> None:
        super().__init__(len(program.parameters))
        self.program = program
        self.as_tiles = as_tiles
        self.any_grid = any_grid
        self.env: dict[int, Held] = {}
        self.origins: dict[int, int] = {}
        self.filled: dict[tuple, Tile] = {}
        self.lendable: set[int] = set()
        self.turnable = right_hand_sides(program)
        self.turned: set[int] = set()  # slots whose tile may lie in device memory, turned

    def assemble(self) -> Assembled:
        for i, parameter in enumerate(self.program.parameters):
            self.env[parameter.value.id] = self.argument(i, parameter.value.type)
        self._check_atomics()
        self.block(self.program.body)
        self.emit("halt")
        return self.finished()

    def _check_atomics(self) -> None:
        """Programs run one after the other here, command after command in the interpreter: of several atomics, or one
        in a loop, the order of updates would differ. Kernels with spin locks run one program at a time in both."""
        atomics = [cmd for cmd in self.program.commands if isinstance(cmd, c.AtomicRmw | c.AtomicCas)]
        self.is_ordered = bool(atomics)
        if not atomics or runs_in_sequence(self.program) or commute(self.program, atomics):
            return
        nested = {id(cmd) for block in loops(self.program) for cmd in inside(block)}
        if len(atomics) > 1 or id(atomics[0]) in nested:
            raise NotAssembled("several atomics, whose order among programs the interpreter defines")

    def bind(self, value: Value, held: Held) -> None:
        self.env[value.id] = held
        if isinstance(held, Tile):
            held.slot.users += 1

    def drop(self, value_id: int) -> None:
        held = self.env.pop(value_id, None)
        if isinstance(held, Tile):
            held.slot.users -= 1
            self.release(held.slot)

    # --- blocks ---

    def block(self, block: c.Block) -> None:
        last = last_uses(block)
        self.lendable |= lendable(block, last)
        for at, command in enumerate(block.commands):
            self.fresh.append([])
            ASSEMBLERS.get(type(command), _not_assembled)(self, command)
            self._trace_pointer(command)
            for slot in self.fresh.pop():
                self.release(slot)
            for value in last.get(at, ()):
                self.drop(value)

    def _trace_pointer(self, command: c.Command) -> None:
        if command.results and command.result.type.is_pointer and command.result.id not in self.origins:
            found = [self.origins[o.id] for o in command.operands if o.id in self.origins]
            if found:
                self.origins[command.result.id] = found[0]

    # --- values ---

    def argument(self, at: int, type_: TileType) -> Held:
        if type_.is_pointer:
            self.origins[self.program.parameters[at].value.id] = at
        if not type_.element.is_float:
            return Scalar(at, True)
        tile = self.new_tile(type_.element, (), (), once=True)
        self.emit("from_scalar", tile.slot.index, at, type_.element.n_bytes, once=True)
        return tile

    def linear(self, held: Held, ndim: int) -> Linear | None:
        if isinstance(held, Scalar) and ndim == 0:
            return Linear(held, ())
        return held if isinstance(held, Linear) else None

    def held(self, value: Value) -> Held:
        return self.env[value.id]

    def scalar(self, value: Value) -> Scalar:
        held = self.held(value)
        assert isinstance(held, Scalar)
        return held

    def tile(self, value: Value) -> Tile:
        return self.as_tile(self.held(value), value.type)

    def as_tile(self, held: Held, type_: TileType) -> Tile:
        """The elements, in a slot; dims that do not vary are not spread out."""
        if isinstance(held, Tile):
            return held
        if isinstance(held, Mask):
            return self._mask_tile(held, type_)
        lin = self.linear(held, len(type_.shape))
        assert lin is not None
        once = lin.base.is_invariant and all(s is None or s.is_invariant for s in lin.strides)
        key = (lin.base.register, *(None if s is None else s.register for s in lin.strides), type_)
        if once and key in self.filled:
            return self.filled[key]
        tile = self.new_tile(type_.element, type_.shape, [s is not None for s in lin.strides], once=once)
        dims = [(n, s.register) for n, s in zip(type_.shape, lin.strides, strict=True) if s is not None]
        words = (len(dims), *(n for n, _ in dims), *(s for _, s in dims))
        self.emit("linear", tile.slot.index, type_.element.n_bytes, lin.base.register, *words, once=once)
        if once:
            self.filled[key] = tile
        return tile

    def _mask_tile(self, mask: Mask, type_: TileType) -> Tile:
        scalars = [*(s for b in mask.bounds if b is not None for s in b), *([mask.flag] if mask.flag else [])]
        once = all(s.is_invariant for s in scalars)
        tile = self.new_tile(Element.I1, type_.shape, [b is not None for b in mask.bounds], once=once)
        dims = [(n, *b) for n, b in zip(type_.shape, mask.bounds, strict=True) if b is not None]
        if not dims:
            self.emit("from_scalar", tile.slot.index, (mask.flag or self.constant(1)).register, 1, once=once)
            return tile
        words = [w for n, lo, hi in dims for w in (n, lo.register, hi.register)]
        flag = -1 if mask.flag is None else mask.flag.register
        self.emit("box", tile.slot.index, flag, len(dims), *words, once=once)
        return tile

    def raw_constant(self, raw: int, type_: TileType) -> Tile:
        """A tile filled with one bit pattern, stored once."""
        key = (raw, type_.element)
        if key not in self.filled:
            tile = self.new_tile(type_.element, (), (), once=True)
            source = self.constant(raw).register
            self.emit("from_scalar", tile.slot.index, source, type_.element.n_bytes, once=True)
            self.filled[key] = replace(tile, constant_bits=raw)
        return replace(self.filled[key], shape=type_.shape, strides=(0,) * len(type_.shape))

    def given_constant(self, values: tuple, type_: TileType) -> Tile:
        tensor = torch.tensor(values).to(TORCH_DTYPE[type_.element])
        slot = self.slot(type_.n_bytes, once=True)
        self.data += bytes(-len(self.data) % 64)
        self.data_slots[slot.index] = len(self.data)
        self.data += tensor.view(torch.uint8).numpy().tobytes()
        return Tile(slot, type_.element, type_.shape, contiguous(type_.shape))

    def as_scalar(self, tile: Tile) -> Scalar:
        """The one integer of a tile."""
        out = Scalar(self.register(), tile.is_invariant)
        words = (out.register, *tile.place, bits(tile.element))
        self.emit("to_scalar", *words, once=tile.is_invariant)
        return out

    def result_of(self, tile: Tile, type_: TileType) -> Held:
        """What a computed tile is held as: integer scalars go to registers."""
        return self.as_scalar(tile) if not type_.shape and not type_.element.is_float else tile


Assemble = Callable[[Assembler, "c.Command"], None]
ASSEMBLERS: dict[type[c.Command], Assemble] = {}


def assembles(*classes: type[c.Command]) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        ASSEMBLERS.update(dict.fromkeys(classes, function))
        return function

    return register


@assembles(c.Print)
def _not_assembled(asm: Assembler, cmd: c.Command) -> None:
    raise NotAssembled(f"{cmd.mnemonic}, which the interpreter runs")
