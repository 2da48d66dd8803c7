"""Integer commands on symbolic values: the rules that keep addresses affine and masks boxes.

Each rule returns a Lin or Box, or None where the result is neither; the caller then falls back to tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtia.engine.functional.values import Base, Box, Held, Lin, intersect
from mtia.program.commands import Elementwise
from mtia.program.types import Element, TileType

Rule = Callable[[Elementwise, list[Held]], Held | None]


def _wrap(value: Base, element: Element) -> Base:
    """Two's complement wrap to the element's width. NumPy wraps at 64 bits by itself, Python's integers never do."""
    bits = element.n_bits
    half = 1 << (bits - 1)
    if isinstance(value, int):
        return value if -half <= value < half else (value + half) % (1 << bits) - half
    if bits < 64 and value.size and (value.max() >= half or value.min() < -half):
        return (value + half) % (1 << bits) - half
    return value


def _add(a: Lin, b: Lin, sign: int = 1) -> Lin:
    if sign == 1:
        return Lin(a.base + b.base, tuple(x + y for x, y in zip(a.strides, b.strides, strict=True)))
    return Lin(a.base - b.base, tuple(x - y for x, y in zip(a.strides, b.strides, strict=True)))


def add(cmd: Elementwise, args: list[Held], sign: int = 1) -> Held | None:
    """Wraps where it is one value; a tile of indices is taken not to overflow."""
    a, b = args
    element = cmd.result.type.element
    if element is Element.I1 or not (isinstance(a, Lin) and isinstance(b, Lin)):
        return None
    total = _add(a, b, sign)
    return Lin(_wrap(total.base, element), total.strides) if total.is_flat else total


def sub(cmd: Elementwise, args: list[Held]) -> Held | None:
    return add(cmd, args, -1)


def addptr(cmd: Elementwise, args: list[Held]) -> Held | None:
    a, b = args
    if not (isinstance(a, Lin) and isinstance(b, Lin)):
        return None
    pointee = cmd.operands[0].type.pointee
    assert pointee is not None
    n = pointee.n_bytes
    return Lin(
        _wrap(a.base + b.base * n, Element.PTR), tuple(x + y * n for x, y in zip(a.strides, b.strides, strict=True))
    )


def mul(cmd: Elementwise, args: list[Held]) -> Held | None:
    a, b = args
    if not (isinstance(a, Lin) and isinstance(b, Lin)):
        return None
    if not b.is_flat:
        a, b = b, a
    if not b.is_flat:
        return None
    element = cmd.result.type.element
    if isinstance(b.base, int):
        return Lin(_wrap(a.base * b.base, element), tuple(s * b.base for s in a.strides))
    return Lin(_wrap(a.base * b.base, element), a.strides) if a.is_flat else None


def shift_left(cmd: Elementwise, args: list[Held]) -> Held | None:
    a, b = args
    if isinstance(a, Lin) and isinstance(b, Lin) and b.is_flat and isinstance(b.base, int) and 0 <= b.base < 63:
        return mul(cmd, [a, Lin(1 << b.base, b.strides)])
    return None


def _nonzero(b: Base) -> Base:
    """Division by zero, which only masked lanes may do, divides by one (as `pointwise` does)."""
    return np.where(b == 0, 1, b) if isinstance(b, np.ndarray) else b or 1


def _truncating_divide(a: Base, b: Base) -> Base:
    b = _nonzero(b)
    if isinstance(a, int) and isinstance(b, int):
        q = abs(a) // abs(b)
        return q if (a < 0) == (b < 0) else -q
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) == (b < 0), quotient, -quotient)


def _division_parts(args: list[Held], shape: tuple[int, ...]) -> tuple[Base, Lin, int] | None:
    """For x // c with one constant c > 0 and x never leaving one multiple of c inside a tile: quotient, x, c."""
    a, b = args
    if not (isinstance(a, Lin) and isinstance(b, Lin) and b.is_flat and isinstance(b.base, int) and b.base > 0):
        return None
    if any(s < 0 for s in a.strides):
        return None
    extent = sum(s * (n - 1) for s, n in zip(a.strides, shape, strict=True))
    first, last = a.base, a.base + extent
    if np.any(np.asarray(first) < 0):
        return None
    quotient = first // b.base
    return (quotient, a, b.base) if np.all(quotient == last // b.base) else None


def divide(cmd: Elementwise, args: list[Held]) -> Held | None:
    a, b = args
    if isinstance(a, Lin) and isinstance(b, Lin) and a.is_flat and b.is_flat:
        return Lin(_truncating_divide(a.base, b.base), a.strides)
    parts = _division_parts(args, cmd.result.type.shape)
    return Lin(parts[0], (0,) * len(parts[1].strides)) if parts else None


def remainder(cmd: Elementwise, args: list[Held]) -> Held | None:
    a, b = args
    if isinstance(a, Lin) and isinstance(b, Lin) and a.is_flat and b.is_flat:
        return Lin(a.base - _truncating_divide(a.base, b.base) * _nonzero(b.base), a.strides)
    parts = _division_parts(args, cmd.result.type.shape)
    return Lin(parts[1].base - parts[0] * parts[2], parts[1].strides) if parts else None


def divide_unsigned(cmd: Elementwise, args: list[Held]) -> Held | None:
    return None if _any_negative(cmd, args) else divide(cmd, args)


def remainder_unsigned(cmd: Elementwise, args: list[Held]) -> Held | None:
    return None if _any_negative(cmd, args) else remainder(cmd, args)


def _any_negative(cmd: Elementwise, args: list[Held]) -> bool:
    return any(isinstance(x, Lin) and _may_be_negative(x, cmd) for x in args)


def shift_right(cmd: Elementwise, args: list[Held]) -> Held | None:
    a, b = args
    if isinstance(a, Lin) and isinstance(b, Lin) and a.is_flat and b.is_flat and isinstance(b.base, int):
        return Lin(a.base >> b.base, a.strides)
    return None


def _flat_numpy(function: Callable[[Base, Base], Base]) -> Rule:
    def rule(cmd: Elementwise, args: list[Held]) -> Held | None:
        a, b = args
        if isinstance(a, Lin) and isinstance(b, Lin) and a.is_flat and b.is_flat:
            value = function(a.base, b.base)
            return Lin(int(value) if np.ndim(value) == 0 else value, a.strides)
        return None

    return rule


def bit_and(cmd: Elementwise, args: list[Held]) -> Held | None:
    a, b = args
    if isinstance(a, Box) and isinstance(b, Box):
        return intersect(a, b)
    return _flat_and(cmd, args)


_flat_and = _flat_numpy(lambda a, b: a & b)


def select(cmd: Elementwise, args: list[Held]) -> Held | None:
    condition, a, b = args
    if not (isinstance(a, Lin) and isinstance(b, Lin)):
        return None
    if isinstance(condition, Box):
        if any(i is not None for i in condition.bounds):
            return None
        condition = condition.flag
    elif isinstance(condition, Lin) and condition.is_flat:
        condition = condition.base
    else:
        return None
    if isinstance(condition, (bool, int)):
        return a if condition else b
    if a.strides != b.strides:
        return None
    return Lin(np.where(condition, a.base, b.base), a.strides)


def compare(cmd: Elementwise, args: list[Held]) -> Held | None:
    """An integer comparison as a Box: with d = a - b affine and varying along at most one dim, an interval of it."""
    a, b = args
    if not (isinstance(a, Lin) and isinstance(b, Lin)):
        return None
    predicate = cmd.predicate
    if predicate in ("sgt", "sge", "ugt", "uge"):
        a, b, predicate = b, a, {"gt": "lt", "ge": "le"}[predicate[1:]].join([predicate[0], ""])
    if predicate.startswith("u") and (_may_be_negative(a, cmd) or _may_be_negative(b, cmd)):
        return None
    d = _add(a, b, -1)
    varying = [i for i, s in enumerate(d.strides) if s]
    if len(varying) > 1:
        return None
    if not varying:
        flag = _compare_flat(predicate, d.base)
        if not cmd.result.type.shape:
            return Lin(flag.astype(np.int64) if isinstance(flag, np.ndarray) else int(flag))
        return Box((None,) * len(d.strides), bool(flag) if np.ndim(flag) == 0 else flag)
    interval = _interval(predicate, d.base, d.strides[varying[0]], cmd.result.type.shape[varying[0]])
    if interval is None:
        return None
    return Box(tuple(interval if i == varying[0] else None for i in range(len(d.strides))))


def _may_be_negative(x: Lin, cmd: Elementwise) -> bool:
    return _least(x, cmd.operands[0].type.shape) < 0


def _compare_flat(predicate: str, d: Base) -> np.ndarray | bool:
    kind = predicate if predicate in ("eq", "ne") else predicate[1:]
    return {"eq": lambda: d == 0, "ne": lambda: d != 0, "lt": lambda: d < 0, "le": lambda: d <= 0}[kind]()


def _interval(predicate: str, base: Base, stride: int, n: int) -> tuple[Base, Base] | None:
    """Indices i in [0, n) with base + stride * i <predicate> 0."""
    if predicate in ("slt", "ult", "sle", "ule"):
        offset = 1 if predicate.endswith("le") else 0  # base + s*i < offset
        if stride > 0:
            return 0, -((base - offset) // stride)  # i < ceil((offset - base) / stride)
        return (base - offset) // -stride + 1, n  # i > (base - offset) / -stride
    if predicate == "eq":
        at = -base // stride
        exact = np.asarray(at * stride + base) == 0
        hit = np.where(exact, at, n)
        return (int(hit), int(hit) + 1) if np.ndim(base) == 0 else (hit, hit + 1)
    return None


def convert(op: str, x: Lin, source: TileType, target: Element) -> Lin | None:
    """An integer of another width: values that the target holds stay; others wrap, where x is one value a program."""
    if op in ("extui", "index_castui"):
        if _least(x, source.shape) >= 0:
            return x
        return Lin(_unsigned(x.base, source.element), x.strides) if x.is_flat else None
    if target.n_bits >= source.element.n_bits:
        return x
    half = 1 << (target.n_bits - 1)
    if -half <= _least(x, source.shape) and _most(x, source.shape) < half:
        return x
    return Lin(_wrap(x.base, target), x.strides) if x.is_flat else None


def _unsigned(value: Base, element: Element) -> Base:
    return value % (1 << element.n_bits) if element.n_bits < 64 else value


def _least(x: Lin, shape: tuple[int, ...]) -> int:
    return int(np.min(x.base)) + sum(min(0, s * (n - 1)) for s, n in zip(x.strides, shape, strict=True))


def _most(x: Lin, shape: tuple[int, ...]) -> int:
    return int(np.max(x.base)) + sum(max(0, s * (n - 1)) for s, n in zip(x.strides, shape, strict=True))


def negate_mask(cmd: Elementwise, args: list[Held]) -> Held | None:
    """xor of a scalar flag with true."""
    return _flat_xor(cmd, args)


_flat_xor = _flat_numpy(lambda a, b: a ^ b)

RULES: dict[str, Rule] = {
    "addi": add,
    "subi": sub,
    "muli": mul,
    "addptr": addptr,
    "shli": shift_left,
    "shrsi": shift_right,
    "divsi": divide,
    "remsi": remainder,
    "divui": divide_unsigned,
    "remui": remainder_unsigned,
    "andi": bit_and,
    "ori": _flat_numpy(lambda a, b: a | b),
    "xori": negate_mask,
    "select": select,
    "cmpi": compare,
    "maxsi": _flat_numpy(np.maximum),
    "minsi": _flat_numpy(np.minimum),
    "floordivsi": _flat_numpy(lambda a, b: a // _nonzero(b)),
    "ceildivsi": _flat_numpy(lambda a, b: -(-a // _nonzero(b))),
}
