"""Multiplies on the dot product engine."""

from __future__ import annotations

from math import prod

from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.elementwise import apply, cast, integer_cast
from mtia.engine.functional.assembly.held import NotAssembled, Tile
from mtia.program import commands as c
from mtia.program.types import Element, Value


@assembles(c.MatMul)
def _matmul(asm: Assembler, cmd: c.MatMul) -> None:
    kind, element = multiply_kind(cmd)
    a, b = (asm.whole(_factor(asm, o, element, cmd.precision)) for o in cmd.operands[:2])
    start = asm.tile(cmd.operands[2])
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
