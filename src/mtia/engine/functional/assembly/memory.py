"""Loads, stores and atomics: block copies where an access is affine, element by element where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.elementwise import SELECTED_AS, apply
from mtia.engine.functional.assembly.held import Held, Linear, Mask, NotAssembled, Scalar, Tile, contiguous
from mtia.engine.functional.memory import ATOMIC_KINDS, ATOMIC_OPS
from mtia.program import commands as c
from mtia.program.types import Element, TileType, Value


@dataclass(frozen=True)
class _Access:
    """An affine access: base, strides, mask box, as the words of a load or store."""

    base: Scalar
    flag: int
    dims: list[int] = field(default_factory=list)


def _affine_access(asm: Assembler, pointer: Value, mask: Held | None) -> _Access | None:
    shape = pointer.type.shape
    lin = asm.linear(asm.held(pointer), len(shape))
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


def _parameter(asm: Assembler, pointer: Value) -> int:
    """The pointer argument an address comes from. One that is unknown, the interpreter does not check either."""
    if pointer.id not in asm.origins:
        raise NotAssembled("an address that comes from no pointer argument")
    return asm.origins[pointer.id]


@assembles(c.Load)
def _load(asm: Assembler, cmd: c.Load) -> None:
    mask = asm.held(cmd.operands[1]) if cmd.has_mask else None
    other = asm.held(cmd.operands[2]) if cmd.has_other else None
    type_ = cmd.result.type
    fill = _fill_register(asm, other, type_) if mask is not None else asm.constant(0)
    access = _affine_access(asm, cmd.operands[0], mask)
    if access is not None:
        out = _load_block(asm, cmd, access, fill or asm.constant(0), may_turn=fill is not None)
    else:
        out = _load_elements(asm, cmd, mask, fill or asm.constant(0))
    if fill is None:
        assert mask is not None and other is not None
        chosen = [asm.as_tile(mask, TileType(Element.I1, type_.shape)), out, asm.as_tile(other, type_)]
        integer = SELECTED_AS[type_.element.n_bytes]
        out = apply(asm, f"select.{integer.label}", type_.element, chosen, type_.shape)
    asm.bind(cmd.result, asm.result_of(out, type_))


def _load_block(asm: Assembler, cmd: c.Load, access: _Access, fill: Scalar, *, may_turn: bool) -> Tile:
    type_ = cmd.result.type
    lends = cmd.index in asm.lendable and bool(type_.shape)
    turns = lends and may_turn and cmd.index in asm.turnable
    slot = asm.slot(max(8, type_.n_bytes), pinned=lends)
    where = (cmd.index, _parameter(asm, cmd.operands[0]), access.base.register, access.flag, fill.register)
    asm.emit("load", slot.index, type_.element.n_bytes, 2 if turns else int(lends), *where, *access.dims)
    if turns:
        asm.turned.add(slot.index)
    return Tile(slot, type_.element, type_.shape, contiguous(type_.shape))


def _load_elements(asm: Assembler, cmd: c.Load, mask: Held | None, fill: Scalar) -> Tile:
    type_ = cmd.result.type
    address = asm.tile(cmd.operands[0])
    selected = None if mask is None else asm.as_tile(mask, TileType(Element.I1, type_.shape))
    varying = _varying(address, selected)
    address, selected = spread_all(asm, varying, address, selected)
    out = asm.new_tile(type_.element, type_.shape, varying, once=False)
    n = prod(extent for extent, v in zip(type_.shape, varying, strict=True) if v)
    where = (_parameter(asm, cmd.operands[0]), cmd.index, fill.register)
    asm.emit("gather", out.slot.index, address, selected, type_.element.n_bytes, n, *where)
    return out


def _varying(*tiles: Tile | None) -> list[bool]:
    present = [t for t in tiles if t is not None]
    return [any(t.strides[d] for t in present) for d in range(len(present[0].shape))]


def spread_all(asm: Assembler, varying: Sequence[bool], *tiles: Tile | None) -> list[int]:
    """Slots of the tiles, each contiguous over the varying dims; -1 for an absent one."""
    out = []
    for tile in tiles:
        flat = None if tile is None else asm.spread(tile, varying)
        if flat is not None and flat.offset:
            flat = asm.moved(flat)
        out.append(-1 if flat is None else flat.slot.index)
    return out


def _fill_register(asm: Assembler, other: Held | None, type_: TileType) -> Scalar | None:
    """The one bit pattern that masked elements get; None where they get different ones."""
    match other:
        case None:
            return asm.constant(0)
        case Scalar():
            return other
        case Linear() if other.is_flat:
            return other.base
        case Mask() if all(b is None for b in other.bounds):
            return other.flag or asm.constant(1)
        case Tile() if other.constant_bits is not None:
            return asm.constant(other.constant_bits)
        case Tile() if other.is_uniform:
            out = Scalar(asm.register(), other.is_invariant)
            asm.emit("to_scalar", out.register, *other.place, type_.element.n_bits, once=other.is_invariant)
            return out
    return None


@assembles(c.Store)
def _store(asm: Assembler, cmd: c.Store) -> None:
    pointer, value = cmd.operands[:2]
    mask = asm.held(cmd.operands[2]) if cmd.has_mask else None
    data, parameter = asm.tile(value), _parameter(asm, pointer)
    n_bytes = value.type.element.n_bytes
    access = _affine_access(asm, pointer, mask)
    if access is not None:
        where = (cmd.index, parameter, access.base.register, access.flag)
        asm.emit("store", *data.place, n_bytes, *where, *access.dims, *data.strides)
        return
    asm.is_ordered = True
    address = asm.tile(pointer)
    selected = None if mask is None else asm.as_tile(mask, TileType(Element.I1, value.type.shape))
    varying = _varying(address, selected, data)
    slots = spread_all(asm, varying, data, address, selected)
    n = prod(extent for extent, v in zip(value.type.shape, varying, strict=True) if v)
    asm.emit("scatter", *slots, n_bytes, n, parameter, cmd.index)


@assembles(c.AtomicRmw)
def _atomic_rmw(asm: Assembler, cmd: c.AtomicRmw) -> None:
    pointer, value = cmd.operands[:2]
    type_ = value.type
    address, data = asm.whole(asm.tile(pointer)), asm.whole(asm.tile(value))
    mask = -1
    if cmd.has_mask:
        held = asm.held(cmd.operands[2])
        mask = asm.whole(asm.as_tile(held, TileType(Element.I1, type_.shape))).slot.index
    old = asm.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    where = (type_.element.n_bytes, type_.n_elements, _parameter(asm, pointer), cmd.index)
    kind = (ATOMIC_KINDS[type_.element], ATOMIC_OPS[cmd.op])
    asm.emit("atomic", old.slot.index, data.slot.index, address.slot.index, mask, *where, *kind)
    if cmd.results:
        asm.bind(cmd.result, asm.result_of(old, type_))


@assembles(c.AtomicCas)
def _atomic_cas(asm: Assembler, cmd: c.AtomicCas) -> None:
    pointer, value = cmd.operands[0], cmd.operands[2]
    type_ = value.type
    tiles = [asm.whole(asm.tile(o)) for o in (cmd.operands[1], value, pointer)]
    old = asm.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    where = (type_.element.n_bytes, type_.n_elements, _parameter(asm, pointer), cmd.index)
    asm.emit("exchange", old.slot.index, *(t.slot.index for t in tiles), *where)
    if cmd.results:
        asm.bind(cmd.result, asm.result_of(old, type_))
