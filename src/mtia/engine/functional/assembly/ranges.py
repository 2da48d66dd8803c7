"""What is known of a scalar's values: how large, and which power of two divides it."""

from __future__ import annotations

from mtia.engine.functional.assembly.held import Linear, Scalar, bits
from mtia.program.types import TileType

MOST_PROGRAMS = 1 << 18
"""Along an axis of the grid, for what is concluded from the range of a program's number; a larger grid runs other
instructions."""
ANY = 1 << 62  # zero is a multiple of every power of two


def range_of_constant(value: int) -> tuple[int | None, int]:
    return (value, value & -value or ANY) if value >= 0 else (None, 1)


def range_of(op: str, a: Scalar, b: Scalar, n_bits: int) -> tuple[int | None, int]:
    """`most` and `multiple` of a result of `n_bits`, which it does not leave."""
    if a.most is None or b.most is None:
        return None, 1
    most: int | None = None
    multiple = 1
    match op:
        case "addi":
            most, multiple = a.most + b.most, min(a.multiple, b.multiple)
        case "muli":
            most, multiple = a.most * b.most, min(a.multiple * b.multiple, ANY)
        case "divsi" | "divui" if b.constant:
            most = a.most // b.constant
        case "remsi" | "remui" if b.constant:
            most, multiple = b.constant - 1, min(a.multiple, b.multiple)
    return (most, multiple) if most is not None and most < 1 << (n_bits - 1) else (None, 1)


def stays_below(a: Linear, b: Linear, type_: TileType) -> bool:
    """Whether all of a tile lie between the same two multiples of a divisor, as its base does: the base is a multiple
    of a power of two that divides the divisor too, and the rest of an index is less than that power."""
    divisor, strides = b.base.constant, [0 if s is None else s.constant for s in a.strides]
    if a.base.most is None or not b.is_flat or not divisor or divisor < 0:
        return False
    if any(s is None or s < 0 for s in strides):
        return False
    span = sum(s * (n - 1) for s, n in zip(strides, type_.shape, strict=True) if s)
    return span < min(a.base.multiple, b.base.multiple) and a.base.most + span < 1 << (bits(type_.element) - 1)
