"""From a TileProgram to the instructions of the native executor (engine/csrc/executor.cpp).

One pass over the commands. What a value is decides what its command becomes:

* `Scalar`: an integer, flag or address of one program: a 64-bit register, computed by scalar instructions.
* `Linear`: a tile of integers or addresses that is affine in the tile's indices: a base and a stride per dim, all
  `Scalar`. A load or store through it is one block copy.
* `Mask`: a box of the tile (an interval per dim, a flag), all `Scalar`.
* `Tile`: elements in a slot, with a stride per dim (0: the same for all its indices), so that splats, broadcasts,
  transposes and splits are views.

These are `values.Lin` and `values.Box` with registers for numbers, and the same rules keep them symbolic; arithmetic
is exact either way, so the interpreter and the executor agree bit for bit. What depends on arguments alone is computed
once a launch, before the programs run. A program with a command that has no instruction raises `NotAssembled`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch

from mtia.engine.functional import memory
from mtia.engine.functional.interpreter import fold_operation
from mtia.engine.functional.loops import ALIASES, code_id, find_loop, scalar_id
from mtia.engine.functional.values import TORCH_DTYPE
from mtia.program import commands as c
from mtia.program.program import TileProgram
from mtia.program.types import Element, TileType, Value

MOST_DIMS = 8
NARROW = (Element.F16, Element.BF16)  # arithmetic is float32's, rounded after each operation
I64 = Element.I64


class NotAssembled(Exception):
    """The program has a command that the executor has no instruction for; the text says which."""


class _Redo(Exception):
    """Assemble again, with one more value kept as a plain tile."""


@dataclass(eq=False)
class Slot:
    """Room for one tile. `users`: values that hold it; at none it is given to another tile of its size."""

    index: int
    n_bytes: int
    is_invariant: bool = False
    is_pinned: bool = False
    users: int = 0


@dataclass(frozen=True, eq=False)
class Scalar:
    register: int
    is_invariant: bool
    constant: int | None = None


Stride = Scalar | None


@dataclass(frozen=True, eq=False)
class Linear:
    base: Scalar
    strides: tuple[Stride, ...]

    @property
    def is_flat(self) -> bool:
        return all(s is None for s in self.strides)


@dataclass(frozen=True, eq=False)
class Mask:
    bounds: tuple[tuple[Scalar, Scalar] | None, ...]
    flag: Scalar | None = None


@dataclass(frozen=True, eq=False)
class Tile:
    slot: Slot
    element: Element
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    offset: int = 0  # in elements
    constant_bits: int | None = None

    @property
    def is_invariant(self) -> bool:
        return self.slot.is_invariant

    @property
    def place(self) -> tuple[int, int]:
        return self.slot.index, self.offset * self.element.n_bytes

    @property
    def is_uniform(self) -> bool:
        return not any(self.strides)


Held = Scalar | Linear | Mask | Tile


@dataclass(frozen=True)
class Assembled:
    """Instructions and what they need: `registers` start with one for each argument."""

    code: np.ndarray
    body: int
    registers: np.ndarray
    slots: np.ndarray
    arena_bytes: int
    data: bytes
    is_ordered: bool  # programs must run one after the other: their writes may meet


def assemble(program: TileProgram) -> Assembled:
    """The program's instructions. Raises NotAssembled."""
    as_tiles: set[int] = set()
    while True:
        try:
            return _Assembler(program, as_tiles).assemble()
        except _Redo as again:
            as_tiles.add(again.args[0])


def label(element: Element) -> str:
    return "i64" if element is Element.PTR else element.label


def bits(element: Element) -> int:
    return 1 if element is Element.I1 else element.n_bits


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides, 0 where a dim has one index."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step if n != 1 else 0)
        step *= n
    return tuple(reversed(strides))


class _Assembler:
    def __init__(self, program: TileProgram, as_tiles: set[int]) -> None:
        self.program = program
        self.as_tiles = as_tiles
        self.prologue: list[int] = []
        self.code: list[int] = []
        self.registers: list[int] = [0] * len(program.parameters)
        self.slots: list[Slot] = []
        self.free: dict[int, list[Slot]] = {}
        self.fresh: list[list[Slot]] = [[]]
        self.data = bytearray()
        self.data_slots: dict[int, int] = {}
        self.env: dict[int, Held] = {}
        self.origins: dict[int, int] = {}
        self.constants: dict[int, Scalar] = {}
        self.known: dict[tuple, Scalar] = {}
        self.filled: dict[tuple, Tile] = {}
        self.is_ordered = False
        self.lendable: set[int] = set()

    def assemble(self) -> Assembled:
        for i, parameter in enumerate(self.program.parameters):
            self.env[parameter.value.id] = self.argument(i, parameter.value.type)
        self._check_atomics()
        self.block(self.program.body)
        self.emit("halt")
        prologue = [*self.prologue, code_id("halt"), 2]
        offset, offsets = 0, []
        for slot in self.slots:
            if slot.index in self.data_slots:
                offsets.append(-1 - self.data_slots[slot.index])
            else:
                offsets.append(offset)
                offset += -(-slot.n_bytes // 64) * 64
        return Assembled(
            np.array([*prologue, *self._placed(len(prologue))], np.int32),
            len(prologue),
            np.array(self.registers, np.int64),
            np.array(offsets, np.int64),
            max(64, offset),
            bytes(self.data),
            self.is_ordered,
        )

    def _placed(self, start: int) -> list[int]:
        """The body's words with jump targets counted from the beginning of all."""
        words, at = list(self.code), 0
        targets = {code_id("jump"): 2, code_id("branch"): 3}
        while at < len(words):
            if words[at] in targets:
                words[at + targets[words[at]]] += start
            at += words[at + 1]
        return words

    def _check_atomics(self) -> None:
        """Programs run one after the other here, command after command in the interpreter: of several atomics, or one
        in a loop, the order of updates would differ. Kernels with spin locks run one program at a time in both."""
        atomics = [cmd for cmd in self.program.commands if isinstance(cmd, c.AtomicRmw | c.AtomicCas)]
        self.is_ordered = bool(atomics)
        if not atomics or _runs_in_sequence(self.program) or _commute(self.program, atomics):
            return
        nested = {id(cmd) for block in _loops(self.program) for cmd in _inside(block)}
        if len(atomics) > 1 or id(atomics[0]) in nested:
            raise NotAssembled("several atomics, whose order among programs the interpreter defines")

    # --- emission -----------------------------------------------------------------------------------------------------

    def emit(self, name: str, *words: int, once: bool = False) -> int:
        """Append an instruction, to what runs once a launch or to what every program runs; where it begins."""
        stream = self.prologue if once else self.code
        at = len(stream)
        stream += [code_id(name), 2 + len(words), *words]
        return at

    def here(self) -> int:
        return len(self.code)

    def patch(self, at: int, word: int) -> None:
        self.code[at + word] = len(self.code)

    def register(self) -> int:
        self.registers.append(0)
        return len(self.registers) - 1

    def constant(self, value: int) -> Scalar:
        if value not in self.constants:
            at = self.register()
            self.registers[at] = (value + (1 << 63)) % (1 << 64) - (1 << 63)
            self.constants[value] = Scalar(at, True, value)
        return self.constants[value]

    def slot(self, n_bytes: int, *, once: bool = False, pinned: bool = False) -> Slot:
        pool = self.free.get(n_bytes)
        if pool and not once and not pinned:
            slot = pool.pop()
        else:
            slot = Slot(len(self.slots), n_bytes, once, pinned or once)
            self.slots.append(slot)
        if not slot.is_pinned:
            self.fresh[-1].append(slot)
        return slot

    def new_tile(self, element: Element, shape: tuple[int, ...], varying: Sequence[bool], *, once: bool) -> Tile:
        """A tile in a slot of its own; dims that do not vary are stored once."""
        stored = tuple(n if v else 1 for n, v in zip(shape, varying, strict=True))
        slot = self.slot(max(8, prod(stored) * element.n_bytes), once=once)
        return Tile(slot, element, shape, contiguous(stored))

    def release(self, slot: Slot) -> None:
        pool = self.free.setdefault(slot.n_bytes, [])
        if slot.users == 0 and not slot.is_pinned and slot not in pool:
            pool.append(slot)

    def bind(self, value: Value, held: Held) -> None:
        self.env[value.id] = held
        if isinstance(held, Tile):
            held.slot.users += 1

    def drop(self, value_id: int) -> None:
        held = self.env.pop(value_id, None)
        if isinstance(held, Tile):
            held.slot.users -= 1
            self.release(held.slot)

    # --- blocks -------------------------------------------------------------------------------------------------------

    def block(self, block: c.Block) -> None:
        last = _last_uses(block)
        self.lendable |= _lendable(block, last)
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

    # --- values -------------------------------------------------------------------------------------------------------

    def argument(self, at: int, type_: TileType) -> Held:
        if type_.is_pointer:
            self.origins[self.program.parameters[at].value.id] = at
        if not type_.element.is_float:
            return Scalar(at, True)
        tile = self.new_tile(type_.element, (), (), once=True)
        self.emit("from_scalar", tile.slot.index, at, type_.element.n_bytes, once=True)
        return tile

    def scalar_op(self, op: str, a: Scalar, b: Scalar, n_bits: int = 64, result_bits: int | None = None) -> Scalar:
        result_bits = n_bits if result_bits is None else result_bits
        folded = _folded(op, a.constant, b.constant)
        if folded is not None and -(1 << 62) < folded < 1 << 62 and n_bits == 64 == result_bits:
            return self.constant(folded)
        if op in ("addi", "subi") and b.constant == 0 and n_bits == 64:
            return a
        if op == "addi" and a.constant == 0 and n_bits == 64:
            return b
        if op == "muli" and 1 in (a.constant, b.constant) and n_bits == 64:
            return a if b.constant == 1 else b
        once = a.is_invariant and b.is_invariant
        key = (op, a.register, b.register, n_bits, result_bits)
        if once and key in self.known:
            return self.known[key]
        out = Scalar(self.register(), once)
        self.emit("scalar", scalar_id(op), out.register, a.register, b.register, n_bits, result_bits, once=once)
        if once:
            self.known[key] = out
        return out

    def move(self, target: int, source: Scalar) -> None:
        self.emit("scalar", scalar_id("move"), target, source.register, -1, 64, 64)

    def choose(self, condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
        once = condition.is_invariant and a.is_invariant and b.is_invariant
        out = Scalar(self.register(), once)
        self.emit("choose", out.register, condition.register, a.register, b.register, once=once)
        return out

    def add_strides(self, a: Stride, b: Stride, op: str = "addi") -> Stride:
        if b is None:
            return a
        if a is None and op == "addi":
            return b
        out = self.scalar_op(op, a or self.constant(0), b)
        return None if out.constant == 0 else out

    def scale_stride(self, a: Stride, by: Scalar) -> Stride:
        if a is None:
            return None
        out = self.scalar_op("muli", a, by)
        return None if out.constant == 0 else out

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

    # --- copies -------------------------------------------------------------------------------------------------------

    def copy(self, target: Tile, source: Tile, shape: tuple[int, ...], *, once: bool = False) -> None:
        """Elements of `source` to `target`, both of this shape, whatever their strides."""
        n = target.element.n_bytes
        words = [
            w
            for extent, to, at in zip(shape, target.strides, source.strides, strict=True)
            if extent != 1
            for w in (extent, to * n, at * n)
        ]
        self.emit("copy", *target.place, *source.place, n, len(words) // 3, *words, once=once)

    def spread(self, tile: Tile, varying: Sequence[bool]) -> Tile:
        """Contiguous over the varying dims; the tile itself where it already is."""
        stored = contiguous([n if v else 1 for n, v in zip(tile.shape, varying, strict=True)])
        if tile.strides == stored:
            return tile
        out = self.new_tile(tile.element, tile.shape, varying, once=tile.is_invariant)
        shape = tuple(n if v else 1 for n, v in zip(tile.shape, varying, strict=True))
        self.copy(out, tile, shape, once=tile.is_invariant)
        return out

    def whole(self, tile: Tile) -> Tile:
        """Contiguous, every dim spread out, from the beginning of its slot."""
        out = self.spread(tile, [True] * len(tile.shape))
        return out if out.offset == 0 else self._moved(out)

    def _moved(self, tile: Tile) -> Tile:
        out = self.new_tile(tile.element, tile.shape, [s != 0 for s in tile.strides], once=tile.is_invariant)
        shape = tuple(n if s else 1 for n, s in zip(tile.shape, tile.strides, strict=True))
        self.copy(out, tile, shape, once=tile.is_invariant)
        return out

    # --- element-wise -------------------------------------------------------------------------------------------------

    def apply(self, name: str, element: Element, tiles: Sequence[Tile], shape: tuple[int, ...]) -> Tile:
        """`name` (operation and type, no suffix) on tiles of one shape."""
        varying = [any(t.strides[d] for t in tiles) for d in range(len(shape))]
        once = all(t.is_invariant for t in tiles)
        dims = _merged([(n, [t.strides[d] for t in tiles]) for d, n in enumerate(shape) if varying[d]])
        inner = dims[-1] if dims else (1, [0] * len(tiles))
        if any(s not in (0, 1) for s in inner[1]) or (len(dims) > 1 and inner[0] < MIN_ROW):
            flat = [
                self.spread(t, varying) if not t.is_uniform and (len(dims) > 1 or s not in (0, 1)) else t
                for t, s in zip(tiles, inner[1], strict=True)
            ]
            if any(f is not t for f, t in zip(flat, tiles, strict=True)):
                return self.apply(name, element, flat, shape)
        suffix = "".join("v" if s or not dims else "s" for s in inner[1])
        loop = find_loop(f"{name}.{suffix}")
        if loop < 0:
            raise NotAssembled(f"no native loop for {name}")
        out = self.new_tile(element, shape, varying, once=once)
        places = [w for t in tiles for w in t.place]
        if len(dims) <= 1:
            self.emit("apply", loop, inner[0], out.slot.index, *places, *([-1, 0] * (3 - len(tiles))), once=once)
            return out
        outer = dims[:-1]
        words = [loop, inner[0], element.n_bytes, out.slot.index, len(outer), *(n for n, _ in outer)]
        for i, t in enumerate(tiles):
            words += [*t.place, *(s[i] * t.element.n_bytes for _, s in outer)]
        words += [-1, 0, *([0] * len(outer))] * (3 - len(tiles))
        self.emit("apply_rows", *words, once=once)
        return out

    def cast(self, tile: Tile, element: Element) -> Tile:
        """Between floating-point types, by way of float32 where one of them is narrow."""
        if tile.element is element:
            return tile
        if Element.F32 not in (tile.element, element):
            return self.cast(self.cast(tile, Element.F32), element)
        return self.apply(f"float.{label(tile.element)}.{label(element)}", element, [tile], tile.shape)

    def elementwise(self, cmd: c.Elementwise, tiles: list[Tile], shape: tuple[int, ...]) -> Tile:
        """The command on tiles, whatever they hold."""
        result = cmd.result.type.element
        op = ALIASES.get(cmd.op, cmd.op)
        tiles = [t if t.shape else replace(t, shape=shape, strides=(0,) * len(shape)) for t in tiles]
        if op == "select":
            integer = SELECTED_AS[result.n_bytes]
            return replace(self.apply(f"select.{integer.label}", result, tiles, shape), element=result)
        if op == "addptr":
            pointee = cmd.operands[0].type.pointee
            assert pointee is not None
            offset = self.integer_cast(tiles[1], I64)
            shift = self.raw_constant(pointee.n_bytes.bit_length() - 1, TileType(I64, shape))  # sizes are powers of two
            tiles, op = [tiles[0], self.apply("shli.i64", I64, [offset, shift], shape)], "addi"
        source = tiles[0].element
        if source in NARROW:
            tiles = [self.cast(t, Element.F32) if t.element in NARROW else t for t in tiles]
        name = f"{op}.{cmd.predicate}" if op in ("cmpi", "cmpf") else op
        full_name = f"{name}.{label(tiles[0].element)}"
        if op in GIVES_I32:
            return self.integer_cast(self.apply(full_name, Element.I32, tiles, shape), result, "trunci")
        computed = Element.F32 if result in NARROW else result
        return self.cast(self.apply(full_name, computed, tiles, shape), result)

    def integer_cast(self, tile: Tile, element: Element, op: str = "extsi") -> Tile:
        if label(tile.element) == label(element):
            return tile
        return self.apply(f"{op}.{label(tile.element)}.{label(element)}", element, [tile], tile.shape)

    def convert(self, cmd: c.Convert, tile: Tile) -> Tile:
        source, target = cmd.operands[0].type.element, cmd.result.type.element
        op = {"fptoui": "fptosi", "index_cast": "extsi", "index_castui": "extui"}.get(cmd.op, cmd.op)
        if op in ("bitcast", "ptr_to_int", "int_to_ptr"):
            return replace(tile, element=target, constant_bits=None)
        if source.is_float and target.is_float:
            if cmd.rounding == "rtz" and target.n_bits < source.n_bits:
                raise NotAssembled("conversion that rounds toward zero")
            return self.cast(tile, target)
        if source.is_float:
            wide = self.cast(tile, Element.F32) if source.n_bits < 32 else tile
            return self.apply(f"fptosi.{label(wide.element)}.{label(target)}", target, [wide], tile.shape)
        if target.is_float:
            wide = Element.F32 if target.n_bits < 32 else target
            out = self.apply(f"{op}.{label(source)}.{label(wide)}", wide, [tile], tile.shape)
            return self.cast(out, target)
        if op in ("extsi", "extui") and bits(target) < bits(source):
            op = "trunci"
        return self.integer_cast(tile, target, op)


MIN_ROW = 16
"""A row shorter than this is not worth a call for each: operands are spread out first."""
GIVES_I32 = frozenset({"isnan", "isinf", "finitef", "signbit", "popc", "clz"})
SELECTED_AS = {1: Element.I8, 2: Element.I16, 4: Element.I32, 8: Element.I64}


def _folded(op: str, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return None
    match op:
        case "addi":
            return a + b
        case "subi":
            return a - b
        case "muli":
            return a * b
        case "maxsi":
            return max(a, b)
        case "minsi":
            return min(a, b)
    return None


def _merged(dims: list[tuple[int, list[int]]]) -> list[tuple[int, list[int]]]:
    """Neighbouring dims that every operand walks as one become one."""
    out: list[tuple[int, list[int]]] = []
    for n, strides in dims:
        if out and all(outer == s * n for outer, s in zip(out[-1][1], strides, strict=True)):
            out[-1] = (out[-1][0] * n, strides)
        else:
            out.append((n, strides))
    return out


# --- what blocks use, and when ----------------------------------------------------------------------------------------


def _inside(block: c.Block) -> Iterable[c.Command]:
    for command in block.commands:
        yield command
        for inner in command.blocks:
            yield from _inside(inner)


def _loops(program: TileProgram) -> Iterable[c.Block]:
    for command in program.commands:
        if isinstance(command, c.For | c.While):
            yield from command.blocks


def _runs_in_sequence(program: TileProgram) -> bool:
    """Spin locks: the interpreter runs such programs one instance at a time."""
    return any(
        isinstance(inner, c.AtomicCas | c.AtomicRmw)
        for command in program.commands
        if isinstance(command, c.While)
        for block in command.blocks
        for inner in _inside(block)
    )


def _commute(program: TileProgram, atomics: Sequence[c.Command]) -> bool:
    """Their order shows nowhere: one operation, exact in any order, whose old values nobody reads."""
    used = {o for command in program.commands for o in _used_by(command)}
    operations = {cmd.op if isinstance(cmd, c.AtomicRmw) else "" for cmd in atomics}
    return (
        len(operations) == 1
        and operations <= {"add", "max", "min", "umax", "umin", "and", "or", "xor"}
        and not any(r.id in used for cmd in atomics for r in cmd.results)
        and all(cmd.operands[1].type.element.is_integer for cmd in atomics)
    )


def _used_by(command: c.Command) -> set[int]:
    used = {o.id for o in command.operands}
    for block in command.blocks:
        used.update(o.id for inner in _inside(block) for o in inner.operands)
        used.update(v.id for inner in (block, *(b for cmd in _inside(block) for b in cmd.blocks)) for v in inner.yields)
    return used


_NEVER = 1 << 30


def _last_uses(block: c.Block) -> dict[int, list[int]]:
    """Position -> values made in this block that no later command of it needs."""
    last: dict[int, int] = {}
    for at, command in enumerate(block.commands):
        last.update({r.id: at for r in command.results})
        last.update({v: at for v in _used_by(command) if v in last})
    last.update({v.id: _NEVER for v in block.yields if v.id in last})
    out: dict[int, list[int]] = {}
    for value, at in last.items():
        out.setdefault(at, []).append(value)
    return out


_VIEWS = (c.Splat, c.ExpandDims, c.Broadcast, c.Reshape, c.Transpose, c.Split, c.Convert)
_WRITES = (c.Store, c.AtomicRmw, c.AtomicCas)


def _lendable(block: c.Block, last: dict[int, list[int]]) -> set[int]:
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
        if isinstance(command, _WRITES) or any(isinstance(i, _WRITES) for b in command.blocks for i in _inside(b))
    ]
    return {
        command.index
        for at, command in enumerate(block.commands)
        if isinstance(command, c.Load)
        and last_use[command.result.id] != _NEVER
        and not any(at < w <= last_use[command.result.id] for w in writes)
    }


# --- commands ---------------------------------------------------------------------------------------------------------

Assemble = Callable[[_Assembler, "c.Command"], None]
ASSEMBLERS: dict[type[c.Command], Assemble] = {}


def assembles(*classes: type[c.Command]) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        ASSEMBLERS.update(dict.fromkeys(classes, function))
        return function

    return register


@assembles(c.Constant)
def _constant(self: _Assembler, cmd: c.Constant) -> None:
    type_ = cmd.result.type
    if isinstance(cmd.value, tuple):
        self.bind(cmd.result, self.given_constant(cmd.value, type_))
    elif type_.element.is_float:
        tensor = torch.full((1,), cmd.value, dtype=torch.float64).to(TORCH_DTYPE[type_.element])
        raw = int.from_bytes(tensor.view(torch.uint8).numpy().tobytes(), "little")
        self.bind(cmd.result, self.raw_constant(raw, type_))
    elif type_.element is Element.I1 and type_.shape:
        self.bind(cmd.result, Mask((None,) * len(type_.shape), self.constant(int(bool(cmd.value)))))
    else:
        base = self.constant(int(bool(cmd.value)) if type_.element is Element.I1 else int(cmd.value))
        self.bind(cmd.result, Linear(base, (None,) * len(type_.shape)) if type_.shape else base)


@assembles(c.ProgramId)
def _program_id(self: _Assembler, cmd: c.ProgramId) -> None:
    out = Scalar(self.register(), False)
    self.emit("program_id", out.register, cmd.axis)
    self.bind(cmd.result, out)


@assembles(c.NumPrograms)
def _num_programs(self: _Assembler, cmd: c.NumPrograms) -> None:
    out = Scalar(self.register(), True)
    self.emit("num_programs", out.register, cmd.axis, once=True)
    self.bind(cmd.result, out)


@assembles(c.Range)
def _range(self: _Assembler, cmd: c.Range) -> None:
    self.bind(cmd.result, Linear(self.constant(cmd.start), (self.constant(1) if cmd.end - cmd.start > 1 else None,)))


@assembles(c.Elementwise)
def _elementwise(self: _Assembler, cmd: c.Elementwise) -> None:
    held = [self.held(o) for o in cmd.operands]
    type_ = cmd.result.type
    symbolic = _symbolic(self, cmd, held)
    if symbolic is not None:
        self.bind(cmd.result, symbolic)
        return
    tiles = [self.as_tile(h, o.type) for h, o in zip(held, cmd.operands, strict=True)]
    self.bind(cmd.result, self.result_of(self.elementwise(cmd, tiles, type_.shape), type_))


_SCALAR_OPS = frozenset(
    "addi subi muli divsi remsi divui remui floordivsi ceildivsi andi ori xori shli shrsi shrui maxsi minsi maxui"
    " minui".split()
)


def _symbolic(self: _Assembler, cmd: c.Elementwise, held: list[Held]) -> Held | None:
    """The result where it stays a scalar, affine, or a box; None where elements must be computed."""
    type_ = cmd.result.type
    ndim = len(type_.shape)
    if cmd.op == "andi" and all(isinstance(h, Mask) for h in held):
        return _intersection(self, *held)  # type: ignore[arg-type]
    if cmd.op == "select":
        return _selected(self, held, ndim)
    lins = [self.linear(h, ndim) for h in held]
    if len(lins) != 2 or any(lin is None for lin in lins):
        return None
    a, b = lins
    assert a is not None and b is not None
    element = cmd.operands[0].type.element
    if cmd.op == "cmpi":
        return _comparison(self, cmd, a, b)
    if cmd.op == "addptr":
        return _addptr(self, cmd, a, b)
    if cmd.op in _SCALAR_OPS and a.is_flat and b.is_flat:
        return _held_linear(self.scalar_op(cmd.op, a.base, b.base, bits(element)), a.strides)
    if element is Element.I1:
        return None
    if cmd.op in ("addi", "subi"):
        base = self.scalar_op(cmd.op, a.base, b.base)
        return Linear(base, tuple(self.add_strides(x, y, cmd.op) for x, y in zip(a.strides, b.strides, strict=True)))
    if cmd.op == "shli" and b.is_flat and b.base.constant is not None and 0 <= b.base.constant < 63:
        b = Linear(self.constant(1 << b.base.constant), b.strides)
        return _scaled(self, a, b, bits(element))
    if cmd.op == "muli":
        return _scaled(self, a, b, bits(element)) if b.is_flat else _scaled(self, b, a, bits(element))
    return None


def _held_linear(base: Scalar, strides: tuple[Stride, ...]) -> Held:
    return Linear(base, strides) if strides else base


def _scaled(self: _Assembler, a: Linear, b: Linear, n_bits: int) -> Held | None:
    if not b.is_flat:
        return None
    base = self.scalar_op("muli", a.base, b.base, n_bits)
    return Linear(base, tuple(self.scale_stride(s, b.base) for s in a.strides))


def _addptr(self: _Assembler, cmd: c.Elementwise, a: Linear, b: Linear) -> Held:
    pointee = cmd.operands[0].type.pointee
    assert pointee is not None
    size = self.constant(pointee.n_bytes)
    base = self.scalar_op("addi", a.base, self.scalar_op("muli", b.base, size))
    strides = tuple(self.add_strides(x, self.scale_stride(y, size)) for x, y in zip(a.strides, b.strides, strict=True))
    return _held_linear(base, strides)


_MIRRORED = {"sgt": "slt", "sge": "sle"}
_INTERVALS = {"slt": 0, "sle": 1, "eq": 2}


def _comparison(self: _Assembler, cmd: c.Elementwise, a: Linear, b: Linear) -> Held | None:
    element, shape = cmd.operands[0].type.element, cmd.result.type.shape
    if a.is_flat and b.is_flat:
        flag = self.scalar_op(cmd.predicate, a.base, b.base, bits(element), 1)
        return Mask((None,) * len(shape), flag) if shape else flag
    predicate = cmd.predicate
    if predicate in _MIRRORED:
        a, b, predicate = b, a, _MIRRORED[predicate]
    varying = [d for d, (x, y) in enumerate(zip(a.strides, b.strides, strict=True)) if x is not None or y is not None]
    if predicate not in _INTERVALS or len(varying) != 1:
        return None
    d = varying[0]
    base = self.scalar_op("subi", a.base, b.base)
    stride = self.add_strides(a.strides[d], b.strides[d], "subi") or self.constant(0)
    once = base.is_invariant and stride.is_invariant
    lo, hi = Scalar(self.register(), once), Scalar(self.register(), once)
    words = (lo.register, hi.register, _INTERVALS[predicate], base.register, stride.register, shape[d])
    self.emit("interval", *words, once=once)
    return Mask(tuple((lo, hi) if i == d else None for i in range(len(shape))))


def _intersection(self: _Assembler, a: Mask, b: Mask) -> Mask:
    bounds = []
    for x, y in zip(a.bounds, b.bounds, strict=True):
        if x is None or y is None:
            bounds.append(x or y)
        else:
            bounds.append((self.scalar_op("maxsi", x[0], y[0]), self.scalar_op("minsi", x[1], y[1])))
    flag = self.scalar_op("andi", a.flag, b.flag) if a.flag and b.flag else a.flag or b.flag
    return Mask(tuple(bounds), flag)


def _selected(self: _Assembler, held: list[Held], ndim: int) -> Held | None:
    condition, a, b = held[0], self.linear(held[1], ndim), self.linear(held[2], ndim)
    if isinstance(condition, Mask) and all(x is None for x in condition.bounds):
        condition = condition.flag or self.constant(1)
    if not isinstance(condition, Scalar) or a is None or b is None or not _same_strides(a, b):
        return None
    return _held_linear(self.choose(condition, a.base, b.base), a.strides)


def _same_strides(a: Linear, b: Linear) -> bool:
    return all(x is y or (x and y and x.register == y.register) for x, y in zip(a.strides, b.strides, strict=True))


_KEEPS_LINEAR = frozenset(
    {"extsi", "extui", "trunci", "index_cast", "index_castui", "bitcast", "ptr_to_int", "int_to_ptr"}
)


@assembles(c.Convert)
def _convert(self: _Assembler, cmd: c.Convert) -> None:
    held = self.held(cmd.operands[0])
    source, target = cmd.operands[0].type, cmd.result.type
    symbolic = isinstance(held, Scalar | Linear) and not target.element.is_float and cmd.op in _KEEPS_LINEAR
    if symbolic and isinstance(held, Scalar):
        self.bind(cmd.result, _converted_scalar(self, cmd, held))
        return
    if symbolic and Element.I1 not in (source.element, target.element):
        if isinstance(held, Linear) and held.is_flat:
            held = Linear(_converted_scalar(self, cmd, held.base), held.strides)
        self.bind(cmd.result, held)
        return
    tile = self.as_tile(held, source)
    self.bind(cmd.result, self.result_of(self.convert(cmd, tile), target))


def _converted_scalar(self: _Assembler, cmd: c.Convert, held: Scalar) -> Scalar:
    source, target = cmd.operands[0].type.element, cmd.result.type.element
    if cmd.op in ("extui", "index_castui") and bits(source) < 64:
        return self.scalar_op("extui", held, self.constant(0), bits(source), bits(target))
    if cmd.op == "extsi" and source is Element.I1:
        return self.scalar_op("subi", self.constant(0), held, 64, bits(target))
    if bits(target) >= bits(source):
        return held
    return self.scalar_op("move", held, self.constant(0), 64, bits(target))


# --- shape ------------------------------------------------------------------------------------------------------------


@assembles(c.Splat)
def _splat(self: _Assembler, cmd: c.Splat) -> None:
    held, type_ = self.held(cmd.operands[0]), cmd.result.type
    none = (None,) * len(type_.shape)
    if isinstance(held, Scalar):
        self.bind(cmd.result, Mask(none, held) if type_.element is Element.I1 else Linear(held, none))
    else:
        tile = self.tile(cmd.operands[0])
        self.bind(cmd.result, replace(tile, shape=type_.shape, strides=(0,) * len(type_.shape)))


@assembles(c.ExpandDims)
def _expand_dims(self: _Assembler, cmd: c.ExpandDims) -> None:
    held, d = self.held(cmd.operands[0]), cmd.dim
    if isinstance(held, Linear):
        self.bind(cmd.result, Linear(held.base, (*held.strides[:d], None, *held.strides[d:])))
    elif isinstance(held, Mask):
        self.bind(cmd.result, Mask((*held.bounds[:d], None, *held.bounds[d:]), held.flag))
    else:
        tile = self.tile(cmd.operands[0])
        strides = (*tile.strides[:d], 0, *tile.strides[d:])
        self.bind(cmd.result, replace(tile, shape=cmd.result.type.shape, strides=strides))


@assembles(c.Broadcast)
def _broadcast(self: _Assembler, cmd: c.Broadcast) -> None:
    held, shape = self.held(cmd.operands[0]), cmd.result.type.shape
    source = cmd.operands[0].type.shape
    if isinstance(held, Linear):
        strides = tuple(None if n == 1 else s for s, n in zip(held.strides, source, strict=True))
        self.bind(cmd.result, Linear(held.base, strides))
    elif isinstance(held, Mask) and all(
        b is None or n == m for b, n, m in zip(held.bounds, source, shape, strict=True)
    ):
        self.bind(cmd.result, held)
    else:
        tile = self.tile(cmd.operands[0])
        strides = tuple(0 if n == 1 else s for s, n in zip(tile.strides, source, strict=True))
        self.bind(cmd.result, replace(tile, shape=shape, strides=strides))


@assembles(c.Reshape)
def _reshape(self: _Assembler, cmd: c.Reshape) -> None:
    held = self.held(cmd.operands[0])
    source, target = cmd.operands[0].type.shape, cmd.result.type.shape
    none = (None,) * len(target)
    if isinstance(held, Linear) and held.is_flat:
        self.bind(cmd.result, Linear(held.base, none))
        return
    if isinstance(held, Scalar):
        self.bind(cmd.result, Mask(none, held) if cmd.result.type.element is Element.I1 else Linear(held, none))
        return
    if isinstance(held, Linear) and _ones_aside(source) == _ones_aside(target):
        kept = iter(s for n, s in zip(source, held.strides, strict=True) if n != 1)
        strides = tuple(None if n == 1 else next(kept) for n in target)
        self.bind(cmd.result, Linear(held.base, strides) if target else held.base)
        return
    tile = self.tile(cmd.operands[0])
    if _ones_aside(source) == _ones_aside(target):
        kept = iter(s for n, s in zip(source, tile.strides, strict=True) if n != 1)
        view = replace(tile, shape=target, strides=tuple(0 if n == 1 else next(kept) for n in target))
    elif tile.is_uniform:
        view = replace(tile, shape=target, strides=(0,) * len(target))
    else:
        view = replace(self.whole(tile), shape=target, strides=contiguous(target))
    self.bind(cmd.result, self.result_of(view, cmd.result.type))


def _ones_aside(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


@assembles(c.Transpose)
def _transpose(self: _Assembler, cmd: c.Transpose) -> None:
    held = self.held(cmd.operands[0])
    if isinstance(held, Linear):
        self.bind(cmd.result, Linear(held.base, tuple(held.strides[i] for i in cmd.order)))
    elif isinstance(held, Mask):
        self.bind(cmd.result, Mask(tuple(held.bounds[i] for i in cmd.order), held.flag))
    else:
        tile = self.tile(cmd.operands[0])
        strides = tuple(tile.strides[i] for i in cmd.order)
        self.bind(cmd.result, replace(tile, shape=cmd.result.type.shape, strides=strides))


@assembles(c.Join)
def _join(self: _Assembler, cmd: c.Join) -> None:
    type_ = cmd.result.type
    out = self.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    for at, operand in enumerate(cmd.operands):
        source = self.tile(operand)
        half = replace(out, shape=source.shape, strides=tuple(2 * s for s in contiguous(source.shape)), offset=at)
        self.copy(half, source, source.shape)
    self.bind(cmd.result, out)


@assembles(c.Split)
def _split(self: _Assembler, cmd: c.Split) -> None:
    tile = self.tile(cmd.operands[0])
    for at, result in enumerate(cmd.results):
        half = replace(
            tile, shape=tile.shape[:-1], strides=tile.strides[:-1], offset=tile.offset + at * tile.strides[-1]
        )
        self.bind(result, self.result_of(half, result.type))


@assembles(c.Concat)
def _concat(self: _Assembler, cmd: c.Concat) -> None:
    type_ = cmd.result.type
    out = self.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    offset = 0
    for operand in cmd.operands:
        source = self.tile(operand)
        self.copy(
            replace(out, shape=source.shape, strides=contiguous(source.shape), offset=offset), source, source.shape
        )
        offset += prod(source.shape)
    self.bind(cmd.result, out)


@assembles(c.Gather)
def _gather(self: _Assembler, cmd: c.Gather) -> None:
    source = self.whole(self.tile(cmd.operands[0]))
    index = self.whole(self.integer_cast(self.tile(cmd.operands[1]), I64))
    d, type_ = cmd.dim, cmd.result.type
    out = self.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    words = (out.slot.index, source.slot.index, index.slot.index, type_.element.n_bytes)
    extents = (prod(type_.shape[:d]), prod(type_.shape[d + 1 :]), source.shape[d], type_.shape[d])
    self.emit("take", *words, *extents, cmd.index)
    self.bind(cmd.result, out)


@assembles(c.Histogram)
def _histogram(self: _Assembler, cmd: c.Histogram) -> None:
    x = self.whole(self.integer_cast(self.tile(cmd.operands[0]), I64))
    mask = self.whole(self.tile(cmd.operands[1])) if len(cmd.operands) > 1 else None
    type_ = cmd.result.type
    out = self.new_tile(type_.element, type_.shape, [True], once=False)
    at = -1 if mask is None else mask.slot.index
    words = (out.slot.index, x.slot.index, at, prod(x.shape), type_.shape[0], type_.element.n_bytes)
    self.emit("histogram", *words)
    self.bind(cmd.result, out)


@assembles(c.Sort)
def _sort(self: _Assembler, cmd: c.Sort) -> None:
    x, type_ = self.whole(self.tile(cmd.operands[0])), cmd.result.type
    out = self.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    words = (out.slot.index, x.slot.index, type_.element.n_bytes, type_.n_elements, type_.shape[-1])
    self.emit("sort", *words, int(cmd.descending))
    self.bind(cmd.result, out)


# --- reductions -------------------------------------------------------------------------------------------------------


@assembles(c.Reduce)
def _reduce(self: _Assembler, cmd: c.Reduce) -> None:
    operation = fold_operation(cmd)
    if operation is None:
        _reduce_by_region(self, cmd)
        return
    tile, element = self.tile(cmd.operands[0]), cmd.operands[0].type.element
    wide = self.cast(tile, Element.F32) if element in NARROW else tile
    out = self.cast(_fold(self, operation, self.whole(wide), cmd.dim), element)
    self.bind(cmd.result, self.result_of(out, cmd.result.type))


def _fold(self: _Assembler, operation: str, x: Tile, dim: int) -> Tile:
    loop = find_loop(f"{operation}.{label(x.element)}.vv")
    if loop < 0:
        raise NotAssembled(f"no native loop for {operation} on {label(x.element)}")
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    n, inner = x.shape[dim], prod(x.shape[dim + 1 :])
    out = self.new_tile(x.element, shape, [True] * len(shape), once=False)
    scratch = self.slot((n + 8) * inner * x.element.n_bytes)
    words = (loop, x.element.n_bytes, prod(x.shape[:dim]), n, inner, out.slot.index, *x.place, scratch.index)
    self.emit("fold", *words)
    return out


def _reduce_by_region(self: _Assembler, cmd: c.Reduce) -> None:
    tiles = [self.tile(o) for o in cmd.operands]
    n = cmd.operands[0].type.shape[cmd.dim]
    if n & (n - 1):
        raise NotAssembled("a reduction of a length that is no power of two")
    while n > 1:  # neighbours pair up, so the order is kept
        n //= 2
        halves = [[_every_other(t, cmd.dim, n, start) for t in tiles] for start in (0, 1)]
        tiles = _region(self, cmd.combine, [*halves[0], *halves[1]])
    for result, tile in zip(cmd.results, tiles, strict=True):
        strides = (*tile.strides[: cmd.dim], *tile.strides[cmd.dim + 1 :])
        self.bind(result, self.result_of(replace(tile, shape=result.type.shape, strides=strides), result.type))


def _every_other(tile: Tile, dim: int, n: int, start: int) -> Tile:
    stride = tile.strides[dim]
    return replace(
        tile,
        shape=(*tile.shape[:dim], n, *tile.shape[dim + 1 :]),
        strides=(*tile.strides[:dim], 2 * stride if n > 1 else 0, *tile.strides[dim + 1 :]),
        offset=tile.offset + start * stride,
    )


def _region(self: _Assembler, block: c.Block, args: list[Tile]) -> list[Tile]:
    """A combine region on whole tiles: its scalars are elements."""
    shape = args[0].shape
    inside: dict[int, Tile] = {a.id: t for a, t in zip(block.args, args, strict=True)}

    def operand(value: Value) -> Tile:
        if value.id in inside:
            return inside[value.id]
        return self.tile(value)

    for cmd in block.commands:
        match cmd:
            case c.Constant():
                self.fresh.append([])
                _constant(self, cmd)
                self.fresh.pop()
                inside[cmd.result.id] = operand(cmd.result)
            case c.Elementwise():
                inside[cmd.result.id] = self.elementwise(cmd, [operand(o) for o in cmd.operands], shape)
            case c.Convert():
                inside[cmd.result.id] = self.convert(cmd, operand(cmd.operands[0]))
            case _:
                raise NotAssembled(f"{cmd.mnemonic} in the region of a reduction")
    return [operand(v) for v in block.yields]


_SCANNED = {Element.F32: 0, Element.F64: 1, Element.I32: 2, Element.I64: 3}


@assembles(c.Scan)
def _scan(self: _Assembler, cmd: c.Scan) -> None:
    element = cmd.operands[0].type.element
    if len(cmd.operands) != 1 or cmd.op not in ("add", "mul") or element not in _SCANNED:
        raise NotAssembled(f"scan {cmd.op or 'with a region'} of {label(element)}")
    x = self.whole(self.tile(cmd.operands[0]))
    out = self.new_tile(element, x.shape, [True] * len(x.shape), once=False)
    extents = (prod(x.shape[: cmd.dim]), x.shape[cmd.dim], prod(x.shape[cmd.dim + 1 :]))
    kind = (_SCANNED[element], int(cmd.op == "mul"), int(cmd.reverse))
    self.emit("scan", *kind, *extents, out.slot.index, x.slot.index)
    self.bind(cmd.result, out)


# --- dot product engine -----------------------------------------------------------------------------------------------


@assembles(c.MatMul)
def _matmul(self: _Assembler, cmd: c.MatMul) -> None:
    kind, element = multiply_kind(cmd)
    a, b = (self.whole(_factor(self, o, element, cmd.precision)) for o in cmd.operands[:2])
    start = self.tile(cmd.operands[2])
    type_ = cmd.result.type
    out = self.new_tile(element, type_.shape, [True] * len(type_.shape), once=False)
    initial = -1
    if start.constant_bits != 0:
        initial = self.whole(start if start.element is element else self.cast(start, element)).slot.index
    (m, k), n = a.shape[-2:], b.shape[-1]
    words = (kind, out.slot.index, a.slot.index, b.slot.index, initial, prod(type_.shape[:-2]), m, k, n)
    self.emit("multiply", *words)
    self.bind(cmd.result, out if out.element is type_.element else self.cast(out, type_.element))


def multiply_kind(cmd: c.MatMul) -> tuple[int, Element]:
    """The native multiply and the type it accumulates in."""
    element = cmd.operands[0].type.element
    if element.is_integer:
        if cmd.result.type.element is not Element.I32:
            raise NotAssembled("an integer multiply that does not accumulate in i32")
        return 2, Element.I32
    return (1, Element.F64) if element is Element.F64 else (0, Element.F32)


def _factor(self: _Assembler, value: Value, element: Element, precision: str) -> Tile:
    tile = self.tile(value)
    if element is Element.I32:
        return self.integer_cast(tile, element)
    if tile.element is not Element.F32:
        return self.cast(tile, element)
    if precision.startswith("tf32") and "x3" not in precision:
        return self.apply("tf32.fp32", Element.F32, [tile], tile.shape)
    return tile


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Access:
    """An affine access: base, strides, mask box, as the words of a load or store."""

    base: Scalar
    flag: int
    dims: list[int] = field(default_factory=list)


def _affine_access(self: _Assembler, pointer: Value, mask: Held | None) -> _Access | None:
    shape = pointer.type.shape
    lin = self.linear(self.held(pointer), len(shape))
    if lin is None or isinstance(mask, Tile):
        return None
    flag, bounds = None, (None,) * len(shape)
    if isinstance(mask, Scalar):
        flag = mask
    elif isinstance(mask, Mask):
        flag, bounds = mask.flag, mask.bounds
    words = []
    for n, stride, bound in zip(shape, lin.strides, bounds, strict=True):
        lo, hi = (-1, -1) if bound is None else (bound[0].register, bound[1].register)
        words += [n, -1 if stride is None else stride.register, lo, hi]
    return _Access(lin.base, -1 if flag is None else flag.register, [len(shape), *words])


def _parameter(self: _Assembler, pointer: Value) -> int:
    """The pointer argument an address comes from. One that is unknown, the interpreter does not check either."""
    if pointer.id not in self.origins:
        raise NotAssembled("an address that comes from no pointer argument")
    return self.origins[pointer.id]


@assembles(c.Load)
def _load(self: _Assembler, cmd: c.Load) -> None:
    mask = self.held(cmd.operands[1]) if cmd.has_mask else None
    other = self.held(cmd.operands[2]) if cmd.has_other else None
    type_ = cmd.result.type
    fill = _fill_register(self, other, type_) if mask is not None else self.constant(0)
    access = _affine_access(self, cmd.operands[0], mask)
    if access is not None:
        out = _load_block(self, cmd, access, fill or self.constant(0))
    else:
        out = _load_elements(self, cmd, mask, fill or self.constant(0))
    if fill is None:
        assert mask is not None and other is not None
        chosen = [self.as_tile(mask, TileType(Element.I1, type_.shape)), out, self.as_tile(other, type_)]
        integer = SELECTED_AS[type_.element.n_bytes]
        out = self.apply(f"select.{integer.label}", type_.element, chosen, type_.shape)
    self.bind(cmd.result, self.result_of(out, type_))


def _load_block(self: _Assembler, cmd: c.Load, access: _Access, fill: Scalar) -> Tile:
    type_ = cmd.result.type
    lends = cmd.index in self.lendable and bool(type_.shape)
    slot = self.slot(max(8, type_.n_bytes), pinned=lends)
    where = (cmd.index, _parameter(self, cmd.operands[0]), access.base.register, access.flag, fill.register)
    self.emit("load", slot.index, type_.element.n_bytes, int(lends), *where, *access.dims)
    return Tile(slot, type_.element, type_.shape, contiguous(type_.shape))


def _load_elements(self: _Assembler, cmd: c.Load, mask: Held | None, fill: Scalar) -> Tile:
    type_ = cmd.result.type
    address = self.tile(cmd.operands[0])
    selected = None if mask is None else self.as_tile(mask, TileType(Element.I1, type_.shape))
    varying = _varying(address, selected)
    address, selected = _spread_all(self, varying, address, selected)
    out = self.new_tile(type_.element, type_.shape, varying, once=False)
    n = prod(extent for extent, v in zip(type_.shape, varying, strict=True) if v)
    where = (_parameter(self, cmd.operands[0]), cmd.index, fill.register)
    self.emit("gather", out.slot.index, address, selected, type_.element.n_bytes, n, *where)
    return out


def _varying(*tiles: Tile | None) -> list[bool]:
    present = [t for t in tiles if t is not None]
    return [any(t.strides[d] for t in present) for d in range(len(present[0].shape))]


def _spread_all(self: _Assembler, varying: Sequence[bool], *tiles: Tile | None) -> list[int]:
    """Slots of the tiles, each contiguous over the varying dims; -1 for an absent one."""
    out = []
    for tile in tiles:
        flat = None if tile is None else self.spread(tile, varying)
        if flat is not None and flat.offset:
            flat = self._moved(flat)
        out.append(-1 if flat is None else flat.slot.index)
    return out


def _fill_register(self: _Assembler, other: Held | None, type_: TileType) -> Scalar | None:
    """The one bit pattern that masked elements get; None where they get different ones."""
    match other:
        case None:
            return self.constant(0)
        case Scalar():
            return other
        case Linear() if other.is_flat:
            return other.base
        case Mask() if all(b is None for b in other.bounds):
            return other.flag or self.constant(1)
        case Tile() if other.constant_bits is not None:
            return self.constant(other.constant_bits)
        case Tile() if other.is_uniform:
            out = Scalar(self.register(), other.is_invariant)
            self.emit("to_scalar", out.register, *other.place, type_.element.n_bits, once=other.is_invariant)
            return out
    return None


@assembles(c.Store)
def _store(self: _Assembler, cmd: c.Store) -> None:
    pointer, value = cmd.operands[:2]
    mask = self.held(cmd.operands[2]) if cmd.has_mask else None
    data, parameter = self.tile(value), _parameter(self, pointer)
    n_bytes = value.type.element.n_bytes
    access = _affine_access(self, pointer, mask)
    if access is not None:
        where = (cmd.index, parameter, access.base.register, access.flag)
        self.emit("store", *data.place, n_bytes, *where, *access.dims, *data.strides)
        return
    self.is_ordered = True
    address = self.tile(pointer)
    selected = None if mask is None else self.as_tile(mask, TileType(Element.I1, value.type.shape))
    varying = _varying(address, selected, data)
    slots = _spread_all(self, varying, data, address, selected)
    n = prod(extent for extent, v in zip(value.type.shape, varying, strict=True) if v)
    self.emit("scatter", *slots, n_bytes, n, parameter, cmd.index)


@assembles(c.AtomicRmw)
def _atomic_rmw(self: _Assembler, cmd: c.AtomicRmw) -> None:
    pointer, value = cmd.operands[:2]
    type_ = value.type
    address, data = self.whole(self.tile(pointer)), self.whole(self.tile(value))
    mask = -1
    if cmd.has_mask:
        held = self.held(cmd.operands[2])
        mask = self.whole(self.as_tile(held, TileType(Element.I1, type_.shape))).slot.index
    old = self.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    where = (type_.element.n_bytes, type_.n_elements, _parameter(self, pointer), cmd.index)
    kind = (memory.ATOMIC_KINDS[type_.element], memory.ATOMIC_OPS[cmd.op])
    self.emit("atomic", old.slot.index, data.slot.index, address.slot.index, mask, *where, *kind)
    if cmd.results:
        self.bind(cmd.result, self.result_of(old, type_))


@assembles(c.AtomicCas)
def _atomic_cas(self: _Assembler, cmd: c.AtomicCas) -> None:
    pointer, value = cmd.operands[0], cmd.operands[2]
    type_ = value.type
    tiles = [self.whole(self.tile(o)) for o in (cmd.operands[1], value, pointer)]
    old = self.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    where = (type_.element.n_bytes, type_.n_elements, _parameter(self, pointer), cmd.index)
    self.emit("exchange", old.slot.index, *(t.slot.index for t in tiles), *where)
    if cmd.results:
        self.bind(cmd.result, self.result_of(old, type_))


# --- control ----------------------------------------------------------------------------------------------------------


class _Carried:
    """A value that several places write: loop-carried, or the result of branches. A register, an affine tile with a
    register for its base, or a slot."""

    def __init__(self, self_: _Assembler, value: Value, initial: Held) -> None:
        self.owner, self.value = self_, value
        type_ = value.type
        if isinstance(initial, Scalar):
            self.held: Held = Scalar(self_.register(), False)
        elif isinstance(initial, Linear) and value.id not in self_.as_tiles and _strides_are_fixed(initial):
            self.held = Linear(Scalar(self_.register(), False), initial.strides)
        else:
            slot = self_.slot(max(8, type_.n_bytes), pinned=False)
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
        if not isinstance(source, Linear) or not _same_strides(self.held, source):
            raise _Redo(self.value.id)
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


def _hand_over(self: _Assembler, carried: Sequence[_Carried], sources: Sequence[Held], *, may_swap: bool) -> None:
    """All at once: what a later write would overwrite is set aside; a tile that nothing else needs changes places."""
    ready = [x.read(s) for x, s in zip(carried, sources, strict=True)]
    written = {_identity(x.held) for x in carried}
    slots = [_identity(r) for r in ready]
    for i, (x, source) in enumerate(zip(carried, ready, strict=True)):
        if _identity(source) in written and _identity(source) != _identity(x.held):
            ready[i] = _set_aside(self, source)
    for i, (x, source) in enumerate(zip(carried, ready, strict=True)):
        if may_swap and isinstance(source, Tile) and slots.count(slots[i]) == 1 and _may_swap(x, source, written):
            assert isinstance(x.held, Tile)
            self.emit("swap", x.held.slot.index, source.slot.index)
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


def _set_aside(self: _Assembler, source: Held) -> Held:
    if isinstance(source, Tile):
        out = self.new_tile(source.element, source.shape, [True] * len(source.shape), once=False)
        self.copy(out, source, source.shape)
        return out
    assert isinstance(source, Scalar)
    out = Scalar(self.register(), False)
    self.move(out.register, source)
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


def _start(self: _Assembler, args: Sequence[Value], operands: Sequence[Value]) -> list[_Carried]:
    held = [self.held(o) for o in operands]
    carried = [_Carried(self, a, h) for a, h in zip(args, held, strict=True)]
    for x, source, operand in zip(carried, held, operands, strict=True):
        x.write(x.read(source))
        self.bind(x.value, x.held)
        if operand.id in self.origins:
            self.origins[x.value.id] = self.origins[operand.id]
    return carried


@assembles(c.For)
def _for(self: _Assembler, cmd: c.For) -> None:
    lower, upper, step = (self.scalar(o) for o in cmd.operands[:3])
    variable = Scalar(self.register(), False)
    carried = _start(self, cmd.body.args[1:], cmd.operands[3:])
    self.move(variable.register, lower)
    self.bind(cmd.body.args[0], variable)
    top = self.here()
    running = self.scalar_op("slt", variable, upper, 64, 1)
    leave = self.emit("branch", running.register, 0)
    made = _made(cmd.body)
    self.block(cmd.body)
    sources = [self.held(y) for y in cmd.body.yields]
    _hand_over(
        self, carried, sources, may_swap=all(y.id in made or y.id in _ids(cmd.body.args) for y in cmd.body.yields)
    )
    _drop_yields(self, cmd.body)
    self.move(variable.register, self.scalar_op("addi", variable, step))
    self.emit("jump", top)
    self.patch(leave, 3)
    _end(self, cmd.results, cmd.body.args[1:], carried)


def _made(block: c.Block) -> set[int]:
    return {r.id for command in block.commands for r in command.results}


def _drop_yields(self: _Assembler, block: c.Block) -> None:
    for value in _ids(block.yields) & _made(block):
        self.drop(value)


def _ids(values: Iterable[Value]) -> set[int]:
    return {v.id for v in values}


def _end(self: _Assembler, results: Sequence[Value], args: Sequence[Value], carried: Sequence[_Carried]) -> None:
    for result, arg, x in zip(results, args, carried, strict=True):
        self.bind(result, x.held)
        if arg.id in self.origins:
            self.origins[result.id] = self.origins[arg.id]
        self.drop(arg.id)
        x.finish()


@assembles(c.While)
def _while(self: _Assembler, cmd: c.While) -> None:
    carried = _start(self, cmd.before.args, cmd.operands)
    top = self.here()
    self.block(cmd.before)
    running = self.scalar(cmd.before.yields[0])
    passed = [self.held(y) for y in cmd.before.yields[1:]]
    leave = self.emit("branch", running.register, 0)
    for arg, held, source in zip(cmd.after.args, passed, cmd.before.yields[1:], strict=True):
        self.bind(arg, held)
        if source.id in self.origins:
            self.origins[arg.id] = self.origins[source.id]
    self.block(cmd.after)
    _hand_over(self, carried, [self.held(y) for y in cmd.after.yields], may_swap=False)
    _drop_yields(self, cmd.after)
    self.emit("jump", top)
    self.patch(leave, 3)
    for result, held, source in zip(cmd.results, passed, cmd.before.yields[1:], strict=True):
        self.bind(result, held)
        if source.id in self.origins:
            self.origins[result.id] = self.origins[source.id]


@assembles(c.If)
def _if(self: _Assembler, cmd: c.If) -> None:
    condition = self.scalar(cmd.operands[0])
    skip = self.emit("branch", condition.register, 0)
    merged: list[_Carried] = []
    leave = -1
    for branch in cmd.blocks:
        self.block(branch)
        sources = [self.held(y) for y in branch.yields]
        merged = merged or [_Carried(self, r, s) for r, s in zip(cmd.results, sources, strict=True)]
        _hand_over(self, merged, sources, may_swap=False)
        for result, y in zip(cmd.results, branch.yields, strict=False):
            if y.id in self.origins:
                self.origins[result.id] = self.origins[y.id]
        _drop_yields(self, branch)
        if leave < 0:
            leave = self.emit("jump", 0)
            self.patch(skip, 3)
    self.patch(leave, 2)
    for x in merged:
        self.bind(x.value, x.held)
        x.finish()


@assembles(c.Return)
def _return(self: _Assembler, cmd: c.Return) -> None:
    self.emit("halt")


@assembles(c.Assert)
def _assert(self: _Assembler, cmd: c.Assert) -> None:
    ok = self.tile(cmd.operands[0])
    varying = [s != 0 for s in ok.strides]
    flat = self.spread(ok, varying)
    n = prod(extent for extent, v in zip(ok.shape, varying, strict=True) if v)
    self.emit("assert", _spread_all(self, varying, flat)[0], n, cmd.index)


@assembles(c.Barrier)
def _barrier(self: _Assembler, cmd: c.Barrier) -> None:
    """Commands already take effect in program order."""


@assembles(c.Print, c.ScaledMatMul)
def _not_assembled(self: _Assembler, cmd: c.Command) -> None:
    raise NotAssembled(f"{cmd.mnemonic}, which the interpreter runs")


def float_bits(value: float, element: Element) -> int:
    """The bit pattern of a float argument in its type, as a register holds it."""
    if element is Element.F32:
        return struct.unpack("<i", struct.pack("<f", value))[0]
    if element is Element.F64:
        return struct.unpack("<q", struct.pack("<d", value))[0]
    tensor = torch.tensor([value], dtype=torch.float64).to(TORCH_DTYPE[element])
    return int.from_bytes(tensor.view(torch.uint8).numpy().tobytes(), "little")


__all__ = ["Assembled", "NotAssembled", "assemble", "float_bits"]
