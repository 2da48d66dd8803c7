"""Element-wise commands and conversions: native loops over tiles where elements must be computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.held import I64, NARROW, Linear, NotAssembled, Scalar, Tile, bits, label
from mtia.engine.functional.assembly.symbolic import converted_scalar, kept_symbolic
from mtia.engine.functional.loops import ALIASES, find_loop
from mtia.program import commands as c
from mtia.program.types import Element, TileType

MIN_ROW = 16
"""A row shorter than this is not worth a call for each: operands are spread out first."""
GIVES_I32 = frozenset({"isnan", "isinf", "finitef", "signbit", "popc", "clz"})
SELECTED_AS = {1: Element.I8, 2: Element.I16, 4: Element.I32, 8: Element.I64}


@assembles(c.Elementwise)
def _elementwise(asm: Assembler, cmd: c.Elementwise) -> None:
    held = [asm.held(o) for o in cmd.operands]
    type_ = cmd.result.type
    symbolic = kept_symbolic(asm, cmd, held)
    if symbolic is not None:
        asm.bind(cmd.result, symbolic)
        return
    tiles = [asm.as_tile(h, o.type) for h, o in zip(held, cmd.operands, strict=True)]
    asm.bind(cmd.result, asm.result_of(elementwise(asm, cmd, tiles, type_.shape), type_))


_KEEPS_LINEAR = frozenset(
    {"extsi", "extui", "trunci", "index_cast", "index_castui", "bitcast", "ptr_to_int", "int_to_ptr"}
)


@assembles(c.Convert)
def _convert(asm: Assembler, cmd: c.Convert) -> None:
    held = asm.held(cmd.operands[0])
    source, target = cmd.operands[0].type, cmd.result.type
    symbolic = isinstance(held, Scalar | Linear) and not target.element.is_float and cmd.op in _KEEPS_LINEAR
    if symbolic and isinstance(held, Scalar):
        asm.bind(cmd.result, converted_scalar(asm, cmd, held))
        return
    if symbolic and Element.I1 not in (source.element, target.element):
        if isinstance(held, Linear) and held.is_flat:
            held = Linear(converted_scalar(asm, cmd, held.base), held.strides)
        asm.bind(cmd.result, held)
        return
    tile = asm.as_tile(held, source)
    asm.bind(cmd.result, asm.result_of(convert(asm, cmd, tile), target))


def apply(asm: Assembler, name: str, element: Element, tiles: Sequence[Tile], shape: tuple[int, ...]) -> Tile:
    """`name` (operation and type, no suffix) on tiles of one shape."""
    varying = [any(t.strides[d] for t in tiles) for d in range(len(shape))]
    once = all(t.is_invariant for t in tiles)
    dims = _merged([(n, [t.strides[d] for t in tiles]) for d, n in enumerate(shape) if varying[d]])
    inner = dims[-1] if dims else (1, [0] * len(tiles))
    if any(s not in (0, 1) for s in inner[1]) or (len(dims) > 1 and inner[0] < MIN_ROW):
        flat = [
            asm.spread(t, varying) if not t.is_uniform and (len(dims) > 1 or s not in (0, 1)) else t
            for t, s in zip(tiles, inner[1], strict=True)
        ]
        if any(f is not t for f, t in zip(flat, tiles, strict=True)):
            return apply(asm, name, element, flat, shape)
    suffix = "".join("v" if s or not dims else "s" for s in inner[1])
    loop = find_loop(f"{name}.{suffix}")
    if loop < 0:
        raise NotAssembled(f"no native loop for {name}")
    out = asm.new_tile(element, shape, varying, once=once)
    places = [w for t in tiles for w in t.place]
    if len(dims) <= 1:
        asm.emit("apply", loop, inner[0], out.slot.index, *places, *([-1, 0] * (3 - len(tiles))), once=once)
        return out
    outer = dims[:-1]
    words = [loop, inner[0], element.n_bytes, out.slot.index, len(outer), *(n for n, _ in outer)]
    for i, t in enumerate(tiles):
        words += [*t.place, *(s[i] * t.element.n_bytes for _, s in outer)]
    words += [-1, 0, *([0] * len(outer))] * (3 - len(tiles))
    asm.emit("apply_rows", *words, once=once)
    return out


def cast(asm: Assembler, tile: Tile, element: Element) -> Tile:
    """Between floating-point types, by way of float32 where one of them is narrow."""
    if tile.element is element:
        return tile
    if Element.F32 not in (tile.element, element):
        return cast(asm, cast(asm, tile, Element.F32), element)
    return apply(asm, f"float.{label(tile.element)}.{label(element)}", element, [tile], tile.shape)


def elementwise(asm: Assembler, cmd: c.Elementwise, tiles: list[Tile], shape: tuple[int, ...]) -> Tile:
    """The command on tiles, whatever they hold."""
    result = cmd.result.type.element
    op = ALIASES.get(cmd.op, cmd.op)
    tiles = [t if t.shape else replace(t, shape=shape, strides=(0,) * len(shape)) for t in tiles]
    if op == "select":
        integer = SELECTED_AS[result.n_bytes]
        return replace(apply(asm, f"select.{integer.label}", result, tiles, shape), element=result)
    if op == "addptr":
        pointee = cmd.operands[0].type.pointee
        assert pointee is not None
        offset = integer_cast(asm, tiles[1], I64)
        shift = asm.raw_constant(pointee.n_bytes.bit_length() - 1, TileType(I64, shape))  # sizes are powers of two
        tiles, op = [tiles[0], apply(asm, "shli.i64", I64, [offset, shift], shape)], "addi"
    source = tiles[0].element
    if source in NARROW:
        tiles = [cast(asm, t, Element.F32) if t.element in NARROW else t for t in tiles]
    name = f"{op}.{cmd.predicate}" if op in ("cmpi", "cmpf") else op
    full_name = f"{name}.{label(tiles[0].element)}"
    if op in GIVES_I32:
        return integer_cast(asm, apply(asm, full_name, Element.I32, tiles, shape), result, "trunci")
    computed = Element.F32 if result in NARROW else result
    return cast(asm, apply(asm, full_name, computed, tiles, shape), result)


def integer_cast(asm: Assembler, tile: Tile, element: Element, op: str = "extsi") -> Tile:
    if label(tile.element) == label(element):
        return tile
    return apply(asm, f"{op}.{label(tile.element)}.{label(element)}", element, [tile], tile.shape)


def convert(asm: Assembler, cmd: c.Convert, tile: Tile) -> Tile:
    source, target = cmd.operands[0].type.element, cmd.result.type.element
    op = {"fptoui": "fptosi", "index_cast": "extsi", "index_castui": "extui"}.get(cmd.op, cmd.op)
    if op in ("bitcast", "ptr_to_int", "int_to_ptr"):
        return replace(tile, element=target, constant_bits=None)
    if source.is_float and target.is_float:
        if cmd.rounding == "rtz" and target.n_bits < source.n_bits:
            raise NotAssembled("conversion that rounds toward zero")
        return cast(asm, tile, target)
    if source.is_float:
        wide = cast(asm, tile, Element.F32) if source.n_bits < 32 else tile
        return apply(asm, f"fptosi.{label(wide.element)}.{label(target)}", target, [wide], tile.shape)
    if target.is_float:
        wide = Element.F32 if target.n_bits < 32 else target
        out = apply(asm, f"{op}.{label(source)}.{label(wide)}", wide, [tile], tile.shape)
        return cast(asm, out, target)
    if op in ("extsi", "extui") and bits(target) < bits(source):
        op = "trunci"
    return integer_cast(asm, tile, target, op)


def _merged(dims: list[tuple[int, list[int]]]) -> list[tuple[int, list[int]]]:
    """Neighbouring dims that every operand walks as one become one."""
    out: list[tuple[int, list[int]]] = []
    for n, strides in dims:
        if out and all(outer == s * n for outer, s in zip(out[-1][1], strides, strict=True)):
            out[-1] = (out[-1][0] * n, strides)
        else:
            out.append((n, strides))
    return out
