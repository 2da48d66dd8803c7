"""Element and tile types of a TileProgram."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod


class Element(Enum):
    """An element type: the name printed in programs and its size in bits."""

    I1 = ("i1", 8)  # held as one byte, as PyTorch's bool
    I8 = ("i8", 8)
    I16 = ("i16", 16)
    I32 = ("i32", 32)
    I64 = ("i64", 64)
    F8E4M3 = ("fp8e4m3", 8)
    F8E5M2 = ("fp8e5m2", 8)
    F16 = ("fp16", 16)
    BF16 = ("bf16", 16)
    F32 = ("fp32", 32)
    F64 = ("fp64", 64)
    PTR = ("ptr", 64)

    def __init__(self, label: str, n_bits: int) -> None:
        self.label = label
        self.n_bits = n_bits

    @property
    def n_bytes(self) -> int:
        return self.n_bits // 8

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self is not Element.PTR


_FLOATS = {Element.F8E4M3, Element.F8E5M2, Element.F16, Element.BF16, Element.F32, Element.F64}
FLOATS = frozenset(_FLOATS)


@dataclass(frozen=True, slots=True)
class TileType:
    """A scalar (empty shape) or tile. `pointee` names what a PTR element points to."""

    element: Element
    shape: tuple[int, ...] = ()
    pointee: Element | None = None

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_elements * self.element.n_bytes

    @property
    def is_scalar(self) -> bool:
        return not self.shape

    @property
    def is_pointer(self) -> bool:
        return self.element is Element.PTR

    def with_shape(self, shape: tuple[int, ...]) -> TileType:
        return TileType(self.element, shape, self.pointee)

    def __str__(self) -> str:
        element = f"*{self.pointee.label}" if self.pointee is not None else self.element.label
        return f"{element}[{','.join(map(str, self.shape))}]" if self.shape else element


@dataclass(frozen=True, slots=True)
class Value:
    """The result of one command, or a parameter, loop variable or region argument. Identity is `id`."""

    id: int
    name: str
    type: TileType

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, slots=True)
class Location:
    """Where in the user's source a command comes from (the innermost frame the user wrote)."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "unknown location"
