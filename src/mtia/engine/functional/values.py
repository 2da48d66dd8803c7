"""What an SSA value holds while the whole grid runs at once. P programs, tile dims after.

* `Lin`: integers and addresses that are affine in the tile's indices: base (one int, or int64 [P]) plus a stride per
  tile dim. Kept symbolic as long as possible: a load from a `Lin` is a block copy, not a gather.
* `Box`: a mask that is a box of the tile: per dim an interval, and a flag per program.
* `torch.Tensor` [P or 1, *dims], where any tile dim may be 1 instead of its full size (not yet broadcast).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from mtia.numerics.blocks import MX4, scale_values
from mtia.numerics.formats import FP4_E2M1, FP8_E4M3, FP8_E5M2, decode
from mtia.program.types import Element, TileType

Base = int | np.ndarray

TORCH_DTYPE = {
    Element.I1: torch.bool,
    Element.I8: torch.int8,
    Element.I16: torch.int16,
    Element.I32: torch.int32,
    Element.I64: torch.int64,
    Element.PTR: torch.int64,
    Element.F8E4M3: torch.float8_e4m3fn,
    Element.F8E5M2: torch.float8_e5m2,
    Element.F16: torch.float16,
    Element.BF16: torch.bfloat16,
    Element.F32: torch.float32,
    Element.F64: torch.float64,
}

# --- block-scaled operands --------------------------------------------------------------------------------------------

_CODES = np.arange(256, dtype=np.uint8)


@lru_cache
def element_table(form: str) -> tuple[float, ...]:
    """The number of each byte of a block-scaled operand; of e2m1 each of 16 codes, two of them to a byte."""
    codes = _CODES[:16] if form == "e2m1" else _CODES
    return tuple(decode(codes, {"e2m1": FP4_E2M1, "e4m3": FP8_E4M3, "e5m2": FP8_E5M2}[form]).tolist())


@lru_cache
def scale_table(element: Element) -> tuple[float, ...]:
    """The factor of each byte of a scale: E4M3, or E8M0 (NaN for 255), whose bytes have no type of their own."""
    if element is Element.F8E4M3:
        return tuple(decode(_CODES, FP8_E4M3).tolist())
    return tuple(scale_values(_CODES, MX4).tolist())


class Lin:
    """base + sum(stride[d] * index[d])."""

    __slots__ = ("base", "strides")

    def __init__(self, base: Base, strides: tuple[int, ...] = ()) -> None:
        self.base = base
        self.strides = strides

    @property
    def is_flat(self) -> bool:
        """Same value at every index of the tile."""
        return not any(self.strides)


Interval = tuple[Base, Base]


class Box:
    """True where bounds[d][0] <= index[d] < bounds[d][1] for every bounded dim, in programs where `flag` holds."""

    __slots__ = ("bounds", "flag")

    def __init__(self, bounds: tuple[Interval | None, ...], flag: np.ndarray | bool = True) -> None:
        self.bounds = bounds
        self.flag = flag


Held = Lin | Box | torch.Tensor


@lru_cache(maxsize=1024)
def _index(n: int, dim: int, ndim: int) -> torch.Tensor:
    shape = [1] * (ndim + 1)
    shape[dim + 1] = n
    return torch.arange(n, dtype=torch.int64).view(shape)


def _per_program(base: Base, ndim: int) -> torch.Tensor | int:
    if isinstance(base, int):
        return base
    return torch.from_numpy(np.ascontiguousarray(base)).view(-1, *([1] * ndim))


def dense(held: Held, type_: TileType) -> torch.Tensor:
    """As a tensor of the type's dtype, dims that do not vary left at size 1."""
    if isinstance(held, torch.Tensor):
        return held
    if isinstance(held, Lin):
        return _dense_lin(held, type_)
    return _dense_box(held, type_)


def _dense_lin(held: Lin, type_: TileType) -> torch.Tensor:
    ndim = len(type_.shape)
    out = _per_program(held.base, ndim)
    for d, stride in enumerate(held.strides):
        if stride:
            out = out + _index(type_.shape[d], d, ndim) * stride
    dtype = TORCH_DTYPE[type_.element]
    if isinstance(out, int):
        if not type_.element.is_float and dtype is not torch.bool:
            bits = type_.element.n_bits
            out = (out + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
        return torch.full([1] * (ndim + 1), out, dtype=dtype)
    return out.to(dtype)


def _dense_box(held: Box, type_: TileType) -> torch.Tensor:
    ndim = len(type_.shape)
    flag = held.flag
    out = (
        torch.full([1] * (ndim + 1), flag) if isinstance(flag, bool) else torch.from_numpy(flag).view(-1, *([1] * ndim))
    )
    for d, interval in enumerate(held.bounds):
        if interval is not None:
            index = _index(type_.shape[d], d, ndim)
            lo, hi = (_per_program(b, ndim) for b in interval)
            out = out & (index >= lo) & (index < hi)
    return out


def full(tensor: torch.Tensor, type_: TileType, n_programs: int | None = None) -> torch.Tensor:
    """Broadcast to the tile's full shape (and to all programs if `n_programs`); a view where possible."""
    lead = n_programs if n_programs is not None else tensor.shape[0]
    return tensor.expand(lead, *type_.shape)


def intersect(a: Box, b: Box) -> Box:
    bounds = tuple(_meet(x, y) for x, y in zip(a.bounds, b.bounds, strict=True))
    flag = a.flag & b.flag if isinstance(a.flag, np.ndarray) or isinstance(b.flag, np.ndarray) else a.flag and b.flag
    return Box(bounds, flag)


def _meet(a: Interval | None, b: Interval | None) -> Interval | None:
    if a is None or b is None:
        return a if b is None else b
    return _largest(a[0], b[0]), _smallest(a[1], b[1])


def _largest(a: Base, b: Base) -> Base:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


def _smallest(a: Base, b: Base) -> Base:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else np.minimum(a, b)
