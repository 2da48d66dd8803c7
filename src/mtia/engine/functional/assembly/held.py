"""What the assembler holds a value as, and what it makes of a program."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mtia.engine.functional.values import TORCH_DTYPE
from mtia.program.types import Element

NARROW = (Element.F16, Element.BF16)  # arithmetic is float32's, rounded after each operation
I64 = Element.I64


class NotAssembled(Exception):
    """The program has a command that the executor has no instruction for; the text says which."""


class Redo(Exception):
    """Assemble again, with one more value kept as a plain tile."""


@dataclass(eq=False)
class Slot:
    """Room for one tile. `users`: values that hold it; at none it is given to another tile of its size."""

    index: int
    n_bytes: int
    is_invariant: bool = False
    is_pinned: bool = False
    users: int = 0


@dataclass(frozen=True, eq=False)
class Scalar:
    """`most`: it is from 0 to that, where no axis has over `ranges.MOST_PROGRAMS` programs; None: it may be negative,
    or anything. `multiple`: a power of two that divides it."""

    register: int
    is_invariant: bool
    constant: int | None = None
    most: int | None = None
    multiple: int = 1


Stride = Scalar | None


@dataclass(frozen=True, eq=False)
class Linear:
    base: Scalar
    strides: tuple[Stride, ...]

    @property
    def is_flat(self) -> bool:
        return all(s is None for s in self.strides)


@dataclass(frozen=True, eq=False)
class Mask:
    bounds: tuple[tuple[Scalar, Scalar] | None, ...]
    flag: Scalar | None = None


@dataclass(frozen=True, eq=False)
class Tile:
    slot: Slot
    element: Element
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    offset: int = 0  # in elements
    constant_bits: int | None = None

    @property
    def is_invariant(self) -> bool:
        return self.slot.is_invariant

    @property
    def place(self) -> tuple[int, int]:
        return self.slot.index, self.offset * self.element.n_bytes

    @property
    def is_uniform(self) -> bool:
        return not any(self.strides)


Held = Scalar | Linear | Mask | Tile


@dataclass(frozen=True)
class Assembled:
    """Instructions and what they need: `registers` start with one for each argument."""

    code: np.ndarray
    body: int
    registers: np.ndarray
    slots: np.ndarray
    arena_bytes: int
    data: bytes
    is_ordered: bool  # programs must run one after the other: their writes may meet
    most_programs: int | None  # along an axis, where the instructions hold for no more


def label(element: Element) -> str:
    return "i64" if element is Element.PTR else element.label


def bits(element: Element) -> int:
    return 1 if element is Element.I1 else element.n_bits


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides, 0 where a dim has one index."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step if n != 1 else 0)
        step *= n
    return tuple(reversed(strides))


def same_strides(a: Linear, b: Linear) -> bool:
    return all(x is y or (x and y and x.register == y.register) for x, y in zip(a.strides, b.strides, strict=True))


def held_linear(base: Scalar, strides: tuple[Stride, ...]) -> Held:
    return Linear(base, strides) if strides else base


def float_bits(value: float, element: Element) -> int:
    """The bit pattern of a float argument in its type, as a register holds it."""
    if element is Element.F32:
        return struct.unpack("<i", struct.pack("<f", value))[0]
    if element is Element.F64:
        return struct.unpack("<q", struct.pack("<d", value))[0]
    tensor = torch.tensor([value], dtype=torch.float64).to(TORCH_DTYPE[element])
    return int.from_bytes(tensor.view(torch.uint8).numpy().tobytes(), "little")
