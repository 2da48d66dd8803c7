"""Multiplies on the dot product engine."""

from __future__ import annotations

from math import prod

from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.elementwise import apply, cast, integer_cast
from mtia.engine.functional.assembly.held import NotAssembled, Tile
from mtia.engine.functional.values import element_table, scale_table
from mtia.program import commands as c
from mtia.program.types import Element, TileType, Value

UNIT_SCALE = 127  # E8M0's code of 1


@assembles(c.MatMul)
def _matmul(asm: Assembler, cmd: c.MatMul) -> None:
    kind, element = multiply_kind(cmd)
    a, b = (asm.whole(_factor(asm, o, element, cmd.precision)) for o in cmd.operands[:2])
    _multiply(asm, cmd, kind, element, a, b, cmd.operands[2])


@assembles(c.ScaledMatMul)
def _scaled_matmul(asm: Assembler, cmd: c.ScaledMatMul) -> None:
    a, a_scale, b, b_scale, start = cmd.operands
    left = _unpacked(asm, a, a_scale, cmd.a_format, turned=False)
    _multiply(asm, cmd, 0, Element.F32, left, _unpacked(asm, b, b_scale, cmd.b_format, turned=True), start)


def _unpacked(asm: Assembler, elements: Value, scale: Value, form: str, *, turned: bool) -> Tile:
    """Block-scaled elements [.., rows, depth], or [.., depth, rows] where `turned`, as float32 numbers."""
    tile, scales = asm.whole(asm.tile(elements)), asm.whole(asm.tile(scale))
    if form in ("bf16", "fp16"):
        if asm.tile(scale).constant_bits != UNIT_SCALE:
            raise NotAssembled("a scale of plain 16-bit operands")
        return asm.whole(cast(asm, tile, Element.F32))
    packed = 2 if form == "e2m1" else 1
    depth, rows = tile.shape[-2:] if turned else tile.shape[:-3:-1]
    depth *= packed
    shape = (*tile.shape[:-2], *((depth, rows) if turned else (rows, depth)))
    out = asm.new_tile(Element.F32, shape, [True] * len(shape), once=False)
    tables = (_table(asm, element_table(form)), _table(asm, scale_table(scale.type.element)))
    sizes = (prod(tile.shape[:-2]), rows, depth, depth // scales.shape[-1], packed, int(turned))
    asm.emit("unpack", out.slot.index, tile.slot.index, scales.slot.index, *tables, *sizes)
    return out


def _table(asm: Assembler, numbers: tuple[float, ...]) -> int:
    """The slot of a table of float32, stored once."""
    key = ("table", numbers)
    if key not in asm.filled:
        asm.filled[key] = asm.given_constant(numbers, TileType(Element.F32, (len(numbers),)))
    return asm.filled[key].slot.index


def _multiply(asm: Assembler, cmd: c.Command, kind: int, element: Element, a: Tile, b: Tile, begin: Value) -> None:
    start = asm.tile(begin)
    type_ = cmd.result.type
    out = asm.new_tile(element, type_.shape, [True] * len(type_.shape), once=False)
    initial = -1
    if start.constant_bits != 0:
        initial = asm.whole(start if start.element is element else cast(asm, start, element)).slot.index
    (m, k), n = a.shape[-2:], b.shape[-1]
    words = (kind, out.slot.index, a.slot.index, b.slot.index, initial, prod(type_.shape[:-2]), m, k, n)
    asm.emit("multiply", *words, int(b.slot.index in asm.turned))
    asm.bind(cmd.result, out if out.element is type_.element else cast(asm, out, type_.element))


def multiply_kind(cmd: c.MatMul) -> tuple[int, Element]:
    """The native multiply and the type it accumulates in."""
    element = cmd.operands[0].type.element
    if element.is_integer:
        if cmd.result.type.element is not Element.I32:
            raise NotAssembled("an integer multiply that does not accumulate in i32")
        return 2, Element.I32
    return (1, Element.F64) if element is Element.F64 else (0, Element.F32)


def _factor(asm: Assembler, value: Value, element: Element, precision: str) -> Tile:
    tile = asm.tile(value)
    if element is Element.I32:
        return integer_cast(asm, tile, element)
    if tile.element is not Element.F32:
        return cast(asm, tile, element)
    if precision.startswith("tf32") and "x3" not in precision:
        return apply(asm, "tf32.fp32", Element.F32, [tile], tile.shape)
    return tile
