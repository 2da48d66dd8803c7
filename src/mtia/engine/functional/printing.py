"""The lines of tl.device_print: one an element, in the form that Triton's GPU back ends print.

pid (0, 0, 0) idx ( 3, 17) x: 42          tile; with several operands "(operand 1) " stands before the value
pid (0, 0, 0) idx () x: 42                scalar: once an instance, for a PE runs one thread (a GPU prints one a lane)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from mtia.program.types import TileType

Number = int | float | bool


def lines(
    prefix: str,
    instance: tuple[int, int, int],
    operands: Sequence[tuple[TileType, Sequence[Number]]],
    *,
    hex: bool,
    signed: Sequence[bool],
) -> Iterator[str]:
    """`instance`: its place in the grid. `operands`: each one's type and elements in row order."""
    if not operands:
        yield f"pid {instance}{prefix}"
    for at, ((type_, elements), is_signed) in enumerate(zip(operands, signed, strict=True)):
        named = f"(operand {at}) " if len(operands) > 1 else ""
        widths = [len(str(n - 1)) if n > 1 else 0 for n in type_.shape]
        places = product(*(range(n) for n in type_.shape))
        for place, element in zip(places, elements, strict=True):
            index = ", ".join(f"{i:{width}}" if width else str(i) for i, width in zip(place, widths, strict=True))
            yield f"pid {instance} idx ({index}){prefix}{named}{_value(element, type_, hex=hex, signed=is_signed)}"


def _value(x: Number, type_: TileType, *, hex: bool, signed: bool) -> str:
    """Decimal with six places for floats; hexadecimal at the type's width; pointers always as addresses."""
    element = type_.element
    if element.is_float:
        return float(x).hex() if hex else f"{x:f}"
    bits = int(x) & ((1 << element.n_bits) - 1)
    if type_.is_pointer:
        return f"0x{bits:x}"
    if hex:
        return f"0x{bits:0{element.n_bits // 4}x}"
    return str(int(x) if signed else bits)


__all__ = ["lines"]
