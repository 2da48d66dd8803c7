"""Constants, indices, and the arithmetic that stays in registers: scalars, affine tiles, boxes."""

from __future__ import annotations

import torch

from mtia.engine.functional.assembly import ranges
from mtia.engine.functional.assembly.assembler import Assembler, assembles
from mtia.engine.functional.assembly.held import Held, Linear, Mask, Scalar, bits, held_linear, same_strides
from mtia.engine.functional.values import TORCH_DTYPE
from mtia.program import commands as c
from mtia.program.types import Element


@assembles(c.Constant)
def constant(asm: Assembler, cmd: c.Constant) -> None:
    type_ = cmd.result.type
    if isinstance(cmd.value, tuple):
        asm.bind(cmd.result, asm.given_constant(cmd.value, type_))
    elif type_.element.is_float:
        tensor = torch.full((1,), cmd.value, dtype=torch.float64).to(TORCH_DTYPE[type_.element])
        raw = int.from_bytes(tensor.view(torch.uint8).numpy().tobytes(), "little")
        asm.bind(cmd.result, asm.raw_constant(raw, type_))
    elif type_.element is Element.I1 and type_.shape:
        asm.bind(cmd.result, Mask((None,) * len(type_.shape), asm.constant(int(bool(cmd.value)))))
    else:
        base = asm.constant(int(bool(cmd.value)) if type_.element is Element.I1 else int(cmd.value))
        asm.bind(cmd.result, Linear(base, (None,) * len(type_.shape)) if type_.shape else base)


@assembles(c.ProgramId)
def _program_id(asm: Assembler, cmd: c.ProgramId) -> None:
    out = Scalar(asm.register(), False, None, None if asm.any_grid else ranges.MOST_PROGRAMS - 1)
    asm.emit("program_id", out.register, cmd.axis)
    asm.bind(cmd.result, out)


@assembles(c.NumPrograms)
def _num_programs(asm: Assembler, cmd: c.NumPrograms) -> None:
    out = Scalar(asm.register(), True)
    asm.emit("num_programs", out.register, cmd.axis, once=True)
    asm.bind(cmd.result, out)


@assembles(c.Range)
def _range(asm: Assembler, cmd: c.Range) -> None:
    asm.bind(cmd.result, Linear(asm.constant(cmd.start), (asm.constant(1) if cmd.end - cmd.start > 1 else None,)))


_SCALAR_OPS = frozenset(
    "addi subi muli divsi remsi divui remui floordivsi ceildivsi andi ori xori shli shrsi shrui maxsi minsi maxui"
    " minui".split()
)

_DIVISIONS = frozenset({"divsi", "divui", "remsi", "remui"})


def kept_symbolic(asm: Assembler, cmd: c.Elementwise, held: list[Held]) -> Held | None:
    """The result where it stays a scalar, affine, or a box; None where elements must be computed."""
    type_ = cmd.result.type
    ndim = len(type_.shape)
    if cmd.op == "andi" and all(isinstance(h, Mask) for h in held):
        return _intersection(asm, *held)  # type: ignore[arg-type]
    if cmd.op == "select":
        return _selected(asm, held, ndim)
    lins = [asm.linear(h, ndim) for h in held]
    if len(lins) != 2 or any(lin is None for lin in lins):
        return None
    a, b = lins
    assert a is not None and b is not None
    element = cmd.operands[0].type.element
    if cmd.op == "cmpi":
        return _comparison(asm, cmd, a, b)
    if cmd.op == "addptr":
        return _addptr(asm, cmd, a, b)
    if cmd.op in _SCALAR_OPS and a.is_flat and b.is_flat:
        return held_linear(asm.scalar_op(cmd.op, a.base, b.base, bits(element)), a.strides)
    if element is Element.I1:
        return None
    if cmd.op in _DIVISIONS and ranges.stays_below(a, b, type_):
        asm.most_programs = None if asm.any_grid else ranges.MOST_PROGRAMS
        base = asm.scalar_op(cmd.op, a.base, b.base, bits(element))
        return Linear(base, (None,) * ndim if cmd.op.startswith("div") else a.strides)
    if cmd.op in ("addi", "subi"):
        base = asm.scalar_op(cmd.op, a.base, b.base)
        return Linear(base, tuple(asm.add_strides(x, y, cmd.op) for x, y in zip(a.strides, b.strides, strict=True)))
    if cmd.op == "shli" and b.is_flat and b.base.constant is not None and 0 <= b.base.constant < 63:
        b = Linear(asm.constant(1 << b.base.constant), b.strides)
        return _scaled(asm, a, b, bits(element))
    if cmd.op == "muli":
        return _scaled(asm, a, b, bits(element)) if b.is_flat else _scaled(asm, b, a, bits(element))
    return None


def _scaled(asm: Assembler, a: Linear, b: Linear, n_bits: int) -> Held | None:
    if not b.is_flat:
        return None
    base = asm.scalar_op("muli", a.base, b.base, n_bits)
    return Linear(base, tuple(asm.scale_stride(s, b.base) for s in a.strides))


def _addptr(asm: Assembler, cmd: c.Elementwise, a: Linear, b: Linear) -> Held:
    pointee = cmd.operands[0].type.pointee
    assert pointee is not None
    size = asm.constant(pointee.n_bytes)
    base = asm.scalar_op("addi", a.base, asm.scalar_op("muli", b.base, size))
    strides = tuple(asm.add_strides(x, asm.scale_stride(y, size)) for x, y in zip(a.strides, b.strides, strict=True))
    return held_linear(base, strides)


_MIRRORED = {"sgt": "slt", "sge": "sle"}
_INTERVALS = {"slt": 0, "sle": 1, "eq": 2}


def _comparison(asm: Assembler, cmd: c.Elementwise, a: Linear, b: Linear) -> Held | None:
    element, shape = cmd.operands[0].type.element, cmd.result.type.shape
    if a.is_flat and b.is_flat:
        flag = asm.scalar_op(cmd.predicate, a.base, b.base, bits(element), 1)
        return Mask((None,) * len(shape), flag) if shape else flag
    predicate = cmd.predicate
    if predicate in _MIRRORED:
        a, b, predicate = b, a, _MIRRORED[predicate]
    varying = [d for d, (x, y) in enumerate(zip(a.strides, b.strides, strict=True)) if x is not None or y is not None]
    if predicate not in _INTERVALS or len(varying) != 1:
        return None
    d = varying[0]
    base = asm.scalar_op("subi", a.base, b.base)
    stride = asm.add_strides(a.strides[d], b.strides[d], "subi") or asm.constant(0)
    once = base.is_invariant and stride.is_invariant
    lo, hi = Scalar(asm.register(), once), Scalar(asm.register(), once)
    words = (lo.register, hi.register, _INTERVALS[predicate], base.register, stride.register, shape[d])
    asm.emit("interval", *words, once=once)
    return Mask(tuple((lo, hi) if i == d else None for i in range(len(shape))))


def _intersection(asm: Assembler, a: Mask, b: Mask) -> Mask:
    bounds = []
    for x, y in zip(a.bounds, b.bounds, strict=True):
        if x is None or y is None:
            bounds.append(x or y)
        else:
            bounds.append((asm.scalar_op("maxsi", x[0], y[0]), asm.scalar_op("minsi", x[1], y[1])))
    flag = asm.scalar_op("andi", a.flag, b.flag) if a.flag and b.flag else a.flag or b.flag
    return Mask(tuple(bounds), flag)


def _selected(asm: Assembler, held: list[Held], ndim: int) -> Held | None:
    condition, a, b = held[0], asm.linear(held[1], ndim), asm.linear(held[2], ndim)
    if isinstance(condition, Mask) and all(x is None for x in condition.bounds):
        condition = condition.flag or asm.constant(1)
    if not isinstance(condition, Scalar) or a is None or b is None or not same_strides(a, b):
        return None
    return held_linear(asm.choose(condition, a.base, b.base), a.strides)


def converted_scalar(asm: Assembler, cmd: c.Convert, held: Scalar) -> Scalar:
    source, target = cmd.operands[0].type.element, cmd.result.type.element
    if cmd.op in ("extui", "index_castui") and bits(source) < 64:
        return asm.scalar_op("extui", held, asm.constant(0), bits(source), bits(target))
    if cmd.op == "extsi" and source is Element.I1:
        return asm.scalar_op("subi", asm.constant(0), held, 64, bits(target))
    if bits(target) >= bits(source):
        return held
    return asm.scalar_op("move", held, asm.constant(0), 64, bits(target))
