"""Commands that give a value another shape, or its elements another order; mostly views."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.elementwise import integer_cast
from mtia.engine.functional.assembly.held import I64, Linear, Mask, Scalar, contiguous
from mtia.program import commands as c
from mtia.program.types import Element


@assembles(c.Splat)
def _splat(asm: Assembler, cmd: c.Splat) -> None:
    held, type_ = asm.held(cmd.operands[0]), cmd.result.type
    none = (None,) * len(type_.shape)
    if isinstance(held, Scalar):
        asm.bind(cmd.result, Mask(none, held) if type_.element is Element.I1 else Linear(held, none))
    else:
        tile = asm.tile(cmd.operands[0])
        asm.bind(cmd.result, replace(tile, shape=type_.shape, strides=(0,) * len(type_.shape)))


@assembles(c.ExpandDims)
def _expand_dims(asm: Assembler, cmd: c.ExpandDims) -> None:
    held, d = asm.held(cmd.operands[0]), cmd.dim
    if isinstance(held, Linear):
        asm.bind(cmd.result, Linear(held.base, (*held.strides[:d], None, *held.strides[d:])))
    elif isinstance(held, Mask):
        asm.bind(cmd.result, Mask((*held.bounds[:d], None, *held.bounds[d:]), held.flag))
    else:
        tile = asm.tile(cmd.operands[0])
        strides = (*tile.strides[:d], 0, *tile.strides[d:])
        asm.bind(cmd.result, replace(tile, shape=cmd.result.type.shape, strides=strides))


@assembles(c.Broadcast)
def _broadcast(asm: Assembler, cmd: c.Broadcast) -> None:
    held, shape = asm.held(cmd.operands[0]), cmd.result.type.shape
    source = cmd.operands[0].type.shape
    if isinstance(held, Linear):
        strides = tuple(None if n == 1 else s for s, n in zip(held.strides, source, strict=True))
        asm.bind(cmd.result, Linear(held.base, strides))
    elif isinstance(held, Mask) and all(
        b is None or n == m for b, n, m in zip(held.bounds, source, shape, strict=True)
    ):
        asm.bind(cmd.result, held)
    else:
        tile = asm.tile(cmd.operands[0])
        strides = tuple(0 if n == 1 else s for s, n in zip(tile.strides, source, strict=True))
        asm.bind(cmd.result, replace(tile, shape=shape, strides=strides))


@assembles(c.Reshape)
def _reshape(asm: Assembler, cmd: c.Reshape) -> None:
    held = asm.held(cmd.operands[0])
    source, target = cmd.operands[0].type.shape, cmd.result.type.shape
    none = (None,) * len(target)
    if isinstance(held, Linear) and held.is_flat:
        asm.bind(cmd.result, Linear(held.base, none))
        return
    if isinstance(held, Scalar):
        asm.bind(cmd.result, Mask(none, held) if cmd.result.type.element is Element.I1 else Linear(held, none))
        return
    if isinstance(held, Linear) and _ones_aside(source) == _ones_aside(target):
        kept = iter(s for n, s in zip(source, held.strides, strict=True) if n != 1)
        strides = tuple(None if n == 1 else next(kept) for n in target)
        asm.bind(cmd.result, Linear(held.base, strides) if target else held.base)
        return
    tile = asm.tile(cmd.operands[0])
    if _ones_aside(source) == _ones_aside(target):
        kept = iter(s for n, s in zip(source, tile.strides, strict=True) if n != 1)
        view = replace(tile, shape=target, strides=tuple(0 if n == 1 else next(kept) for n in target))
    elif tile.is_uniform:
        view = replace(tile, shape=target, strides=(0,) * len(target))
    else:
        view = replace(asm.whole(tile), shape=target, strides=contiguous(target))
    asm.bind(cmd.result, asm.result_of(view, cmd.result.type))


def _ones_aside(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


@assembles(c.Transpose)
def _transpose(asm: Assembler, cmd: c.Transpose) -> None:
    held = asm.held(cmd.operands[0])
    if isinstance(held, Linear):
        asm.bind(cmd.result, Linear(held.base, tuple(held.strides[i] for i in cmd.order)))
    elif isinstance(held, Mask):
        asm.bind(cmd.result, Mask(tuple(held.bounds[i] for i in cmd.order), held.flag))
    else:
        tile = asm.tile(cmd.operands[0])
        strides = tuple(tile.strides[i] for i in cmd.order)
        asm.bind(cmd.result, replace(tile, shape=cmd.result.type.shape, strides=strides))


@assembles(c.Join)
def _join(asm: Assembler, cmd: c.Join) -> None:
    type_ = cmd.result.type
    out = asm.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    for at, operand in enumerate(cmd.operands):
        source = asm.tile(operand)
        half = replace(out, shape=source.shape, strides=tuple(2 * s for s in contiguous(source.shape)), offset=at)
        asm.copy(half, source, source.shape)
    asm.bind(cmd.result, out)


@assembles(c.Split)
def _split(asm: Assembler, cmd: c.Split) -> None:
    tile = asm.tile(cmd.operands[0])
    for at, result in enumerate(cmd.results):
        half = replace(
            tile, shape=tile.shape[:-1], strides=tile.strides[:-1], offset=tile.offset + at * tile.strides[-1]
        )
        asm.bind(result, asm.result_of(half, result.type))


@assembles(c.Concat)
def _concat(asm: Assembler, cmd: c.Concat) -> None:
    type_ = cmd.result.type
    out = asm.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    offset = 0
    for operand in cmd.operands:
        source = asm.tile(operand)
        asm.copy(
            replace(out, shape=source.shape, strides=contiguous(source.shape), offset=offset), source, source.shape
        )
        offset += prod(source.shape)
    asm.bind(cmd.result, out)


@assembles(c.Gather)
def _gather(asm: Assembler, cmd: c.Gather) -> None:
    source = asm.whole(asm.tile(cmd.operands[0]))
    index = asm.whole(integer_cast(asm, asm.tile(cmd.operands[1]), I64))
    d, type_ = cmd.dim, cmd.result.type
    out = asm.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    words = (out.slot.index, source.slot.index, index.slot.index, type_.element.n_bytes)
    extents = (prod(type_.shape[:d]), prod(type_.shape[d + 1 :]), source.shape[d], type_.shape[d])
    asm.emit("take", *words, *extents, cmd.index)
    asm.bind(cmd.result, out)


@assembles(c.Histogram)
def _histogram(asm: Assembler, cmd: c.Histogram) -> None:
    x = asm.whole(integer_cast(asm, asm.tile(cmd.operands[0]), I64))
    mask = asm.whole(asm.tile(cmd.operands[1])) if len(cmd.operands) > 1 else None
    type_ = cmd.result.type
    out = asm.new_tile(type_.element, type_.shape, [True], once=False)
    at = -1 if mask is None else mask.slot.index
    words = (out.slot.index, x.slot.index, at, prod(x.shape), type_.shape[0], type_.element.n_bytes)
    asm.emit("histogram", *words)
    asm.bind(cmd.result, out)


@assembles(c.Sort)
def _sort(asm: Assembler, cmd: c.Sort) -> None:
    x, type_ = asm.whole(asm.tile(cmd.operands[0])), cmd.result.type
    out = asm.new_tile(type_.element, type_.shape, [True] * len(type_.shape), once=False)
    words = (out.slot.index, x.slot.index, type_.element.n_bytes, type_.n_elements, type_.shape[-1])
    asm.emit("sort", *words, int(cmd.descending))
    asm.bind(cmd.result, out)
