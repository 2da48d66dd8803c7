"""Reductions and scans along a dim of a tile."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.elementwise import cast, convert, elementwise
from mtia.engine.functional.assembly.held import NARROW, NotAssembled, Tile, label
from mtia.engine.functional.assembly.symbolic import constant
from mtia.engine.functional.interpreter import fold_operation
from mtia.engine.functional.loops import find_loop
from mtia.program import commands as c
from mtia.program.types import Element, Value


@assembles(c.Reduce)
def _reduce(asm: Assembler, cmd: c.Reduce) -> None:
    operation = fold_operation(cmd)
    if operation is None:
        _reduce_by_region(asm, cmd)
        return
    tile, element = asm.tile(cmd.operands[0]), cmd.operands[0].type.element
    wide = cast(asm, tile, Element.F32) if element in NARROW else tile
    out = cast(asm, _fold(asm, operation, asm.whole(wide), cmd.dim), element)
    asm.bind(cmd.result, asm.result_of(out, cmd.result.type))


def _fold(asm: Assembler, operation: str, x: Tile, dim: int) -> Tile:
    loop = find_loop(f"{operation}.{label(x.element)}.vv")
    if loop < 0:
        raise NotAssembled(f"no native loop for {operation} on {label(x.element)}")
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    n, inner = x.shape[dim], prod(x.shape[dim + 1 :])
    out = asm.new_tile(x.element, shape, [True] * len(shape), once=False)
    scratch = asm.slot((n + 8) * inner * x.element.n_bytes)
    words = (loop, x.element.n_bytes, prod(x.shape[:dim]), n, inner, out.slot.index, *x.place, scratch.index)
    asm.emit("fold", *words)
    return out


def _reduce_by_region(asm: Assembler, cmd: c.Reduce) -> None:
    tiles = [asm.tile(o) for o in cmd.operands]
    n = cmd.operands[0].type.shape[cmd.dim]
    if n & (n - 1):
        raise NotAssembled("a reduction of a length that is no power of two")
    while n > 1:  # neighbours pair up, so the order is kept
        n //= 2
        halves = [[_every_other(t, cmd.dim, n, start) for t in tiles] for start in (0, 1)]
        tiles = _region(asm, cmd.combine, [*halves[0], *halves[1]])
    for result, tile in zip(cmd.results, tiles, strict=True):
        strides = (*tile.strides[: cmd.dim], *tile.strides[cmd.dim + 1 :])
        asm.bind(result, asm.result_of(replace(tile, shape=result.type.shape, strides=strides), result.type))


def _every_other(tile: Tile, dim: int, n: int, start: int) -> Tile:
    stride = tile.strides[dim]
    return replace(
        tile,
        shape=(*tile.shape[:dim], n, *tile.shape[dim + 1 :]),
        strides=(*tile.strides[:dim], 2 * stride if n > 1 else 0, *tile.strides[dim + 1 :]),
        offset=tile.offset + start * stride,
    )


def _region(asm: Assembler, block: c.Block, args: list[Tile]) -> list[Tile]:
    """A combine region on whole tiles: its scalars are elements."""
    shape = args[0].shape
    inside: dict[int, Tile] = {a.id: t for a, t in zip(block.args, args, strict=True)}

    def operand(value: Value) -> Tile:
        if value.id in inside:
            return inside[value.id]
        return asm.tile(value)

    for cmd in block.commands:
        match cmd:
            case c.Constant():
                asm.fresh.append([])
                constant(asm, cmd)
                asm.fresh.pop()
                inside[cmd.result.id] = operand(cmd.result)
            case c.Elementwise():
                inside[cmd.result.id] = elementwise(asm, cmd, [operand(o) for o in cmd.operands], shape)
            case c.Convert():
                inside[cmd.result.id] = convert(asm, cmd, operand(cmd.operands[0]))
            case _:
                raise NotAssembled(f"{cmd.mnemonic} in the region of a reduction")
    return [operand(v) for v in block.yields]


_SCANNED = {Element.F32: 0, Element.F64: 1, Element.I32: 2, Element.I64: 3}


@assembles(c.Scan)
def _scan(asm: Assembler, cmd: c.Scan) -> None:
    element = cmd.operands[0].type.element
    if not _is_running_total(cmd) or element in (Element.I8, Element.I16):  # integers wrap in any order
        _scan_by_region(asm, cmd)
        return
    if element not in _SCANNED:
        raise NotAssembled(f"a running {cmd.op} of {label(element)}, whose order the interpreter defines")
    x = asm.whole(asm.tile(cmd.operands[0]))
    out = asm.new_tile(element, x.shape, [True] * len(x.shape), once=False)
    extents = (prod(x.shape[: cmd.dim]), x.shape[cmd.dim], prod(x.shape[cmd.dim + 1 :]))
    kind = (_SCANNED[element], int(cmd.op == "mul"), int(cmd.reverse))
    asm.emit("scan", *kind, *extents, out.slot.index, x.slot.index)
    asm.bind(cmd.result, out)


def _is_running_total(cmd: c.Scan) -> bool:
    """A sum or product, which the interpreter takes in order; any other scan doubles its reach, step by step."""
    return len(cmd.operands) == 1 and cmd.op in ("add", "mul") and cmd.operands[0].type.element is not Element.I1


def _scan_by_region(asm: Assembler, cmd: c.Scan) -> None:
    """After the step of length s, each element holds what the 2 s up to it combine to."""
    tiles = [asm.whole(asm.tile(o)) for o in cmd.operands]
    if cmd.reverse:
        tiles = [asm.whole(_turned_round(t, cmd.dim)) for t in tiles]
    step = 1
    while step < cmd.operands[0].type.shape[cmd.dim]:
        tiles = _reaching_twice_as_far(asm, cmd, tiles, step)
        step *= 2
    for result, tile in zip(cmd.results, tiles, strict=True):
        asm.bind(result, asm.whole(_turned_round(tile, cmd.dim)) if cmd.reverse else tile)


def _reaching_twice_as_far(asm: Assembler, cmd: c.Scan, tiles: list[Tile], step: int) -> list[Tile]:
    n, dim = tiles[0].shape[cmd.dim] - step, cmd.dim
    asm.fresh.append([])
    combined = _region(asm, cmd.combine, [_along(t, dim, at, n) for at in (0, step) for t in tiles])
    joined = [_joined(asm, t, dim, step, new) for t, new in zip(tiles, combined, strict=True)]
    kept = [t.slot for t in joined]
    for slot in asm.fresh.pop():
        if slot in kept:
            asm.fresh[-1].append(slot)
        else:
            asm.release(slot)
    return joined


def _along(tile: Tile, dim: int, start: int, n: int) -> Tile:
    shape = (*tile.shape[:dim], n, *tile.shape[dim + 1 :])
    strides = (*tile.strides[:dim], tile.strides[dim] if n > 1 else 0, *tile.strides[dim + 1 :])
    return replace(tile, shape=shape, strides=strides, offset=tile.offset + start * tile.strides[dim])


def _turned_round(tile: Tile, dim: int) -> Tile:
    """A view from the end of `dim` to its beginning."""
    stride = tile.strides[dim]
    strides = (*tile.strides[:dim], -stride, *tile.strides[dim + 1 :])
    return replace(tile, strides=strides, offset=tile.offset + (tile.shape[dim] - 1) * stride)


def _joined(asm: Assembler, before: Tile, dim: int, step: int, new: Tile) -> Tile:
    """The first `step` of `before`, then `new`."""
    out = asm.new_tile(before.element, before.shape, [True] * len(before.shape), once=False)
    kept = _along(before, dim, 0, step)
    asm.copy(_along(out, dim, 0, step), kept, kept.shape)
    asm.copy(_along(out, dim, step, new.shape[dim]), new, new.shape)
    return out
