"""Instructions in the making: the streams, and the registers and slots that their words name."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mtia.engine.functional.assembly.held import Assembled, Scalar, Slot, Stride, Tile, contiguous
from mtia.engine.functional.assembly.ranges import range_of, range_of_constant
from mtia.engine.functional.loops import code_id, scalar_id
from mtia.program.types import Element


class Emission:
    """Instructions in the making, with the registers and slots that they name."""

    def __init__(self, n_arguments: int) -> None:
        self.prologue: list[int] = []
        self.code: list[int] = []
        self.registers: list[int] = [0] * n_arguments
        self.slots: list[Slot] = []
        self.free: dict[int, list[Slot]] = {}
        self.fresh: list[list[Slot]] = [[]]
        self.data = bytearray()
        self.data_slots: dict[int, int] = {}
        self.constants: dict[int, Scalar] = {}
        self.known: dict[tuple, Scalar] = {}
        self.is_ordered = False
        self.most_programs: int | None = None

    def finished(self) -> Assembled:
        """All of it, when the last instruction is emitted."""
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
            self.most_programs,
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

    # --- instructions ---

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

    # --- registers ---

    def register(self) -> int:
        self.registers.append(0)
        return len(self.registers) - 1

    def constant(self, value: int) -> Scalar:
        if value not in self.constants:
            at = self.register()
            self.registers[at] = (value + (1 << 63)) % (1 << 64) - (1 << 63)
            self.constants[value] = Scalar(at, True, value, *range_of_constant(value))
        return self.constants[value]

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
        out = Scalar(self.register(), once, None, *range_of(op, a, b, min(n_bits, result_bits)))
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

    # --- slots ---

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
        return out if out.offset == 0 else self.moved(out)

    def moved(self, tile: Tile) -> Tile:
        out = self.new_tile(tile.element, tile.shape, [s != 0 for s in tile.strides], once=tile.is_invariant)
        shape = tuple(n if s else 1 for n, s in zip(tile.shape, tile.strides, strict=True))
        self.copy(out, tile, shape, once=tile.is_invariant)
        return out


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
