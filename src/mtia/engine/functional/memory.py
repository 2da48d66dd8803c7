"""Device memory as the functional simulator reads and writes it. An address is a host address inside the chip's arena.

Every access is checked against the allocation that its pointer argument came from.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
import torch

from mtia.engine.functional.values import TORCH_DTYPE, Base, Box, Lin
from mtia.engine.native import library
from mtia.errors import OutOfBoundsAccess
from mtia.program.commands import Command
from mtia.program.types import Element, TileType

_I64 = ctypes.c_int64
_P = ctypes.c_void_p


@lru_cache(maxsize=1)
def _functions() -> dict[str, Callable[..., int]]:
    lib = library()
    signatures = {
        "mtia_load_blocks": [
            _P,
            _P,
            _I64,
            _I64,
            ctypes.c_int,
            _P,
            _P,
            _P,
            _P,
            _I64,
            _P,
            ctypes.c_int,
            _I64,
            _I64,
            _I64,
        ],
        "mtia_store_blocks": [
            _P,
            _I64,
            _P,
            _I64,
            _I64,
            ctypes.c_int,
            _P,
            _P,
            _P,
            _P,
            _I64,
            _P,
            ctypes.c_int,
            _I64,
            _I64,
        ],
        "mtia_gather": [_P, _P, _I64, _P, ctypes.c_int, _I64, _I64, _I64],
        "mtia_scatter": [_P, _P, _I64, _P, ctypes.c_int, _I64, _I64],
        "mtia_atomic": [_P, _P, _P, _I64, _P, ctypes.c_int, ctypes.c_int, _I64, _I64],
        "mtia_compare_exchange": [_P, _P, _P, _P, _I64, _P, ctypes.c_int, _I64, _I64],
    }
    for name, arguments in signatures.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, _I64
    return {name: getattr(lib, name) for name in signatures}


@dataclass(frozen=True, slots=True)
class Allocation:
    """The allocation behind a pointer argument: [start, end) and the argument's name."""

    start: int
    end: int
    argument: str


UNCHECKED = Allocation(0, 0, "?")


class Bounds(Sequence[Allocation]):
    """The allocations of a launch, kept as the native executor reads them: where each starts and ends, int64 words (0
    to 0 where nothing is checked), and the arguments' names."""

    __slots__ = ("high", "low", "names")

    def __init__(self, low: bytes, high: bytes, names: Sequence[str]) -> None:
        self.low, self.high, self.names = low, high, names

    def __len__(self) -> int:
        return len(self.low) // 8

    @overload
    def __getitem__(self, at: int) -> Allocation: ...
    @overload
    def __getitem__(self, at: slice) -> list[Allocation]: ...
    def __getitem__(self, at: int | slice) -> Allocation | list[Allocation]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        start, end = (memoryview(words).cast("q")[at] for words in (self.low, self.high))
        return Allocation(start, end, self.names[at]) if end else UNCHECKED


@dataclass(slots=True)
class Place:
    """Where in the program an access happens, for error messages."""

    kernel: str
    command: Command
    first_program: int
    grid: tuple[int, int, int]

    def instance(self, program: int) -> tuple[int, int, int]:
        flat = self.first_program + program
        x, y, _ = self.grid
        return flat % x, flat // x % y, flat // (x * y)


@lru_cache(maxsize=512)
def fill_bits(value: float, element: Element) -> int:
    """The bit pattern of `value` in the element type."""
    if value == 0:
        return 0
    tensor = torch.tensor([value]).to(TORCH_DTYPE[element])
    return int.from_bytes(tensor.view(torch.uint8).numpy().tobytes(), "little", signed=True)


class _Shape:
    """A tile's dims, memory strides and mask bounds as C arrays."""

    __slots__ = ("base", "base_step", "bound_step", "hi", "keep", "lo", "nd", "shape", "stride")

    def __init__(self, pointer: Lin, mask: Box | None, type_: TileType, n_programs: int) -> None:
        nd = len(type_.shape)
        self.nd = nd
        self.base = (
            np.array([pointer.base], np.int64)
            if isinstance(pointer.base, int)
            else np.ascontiguousarray(pointer.base, np.int64)
        )
        self.base_step = 0 if len(self.base) == 1 and n_programs != 1 else 1
        self.shape, self.stride = _dims(type_.shape, pointer.strides)
        self.lo, self.hi, self.bound_step = _bounds(mask, type_.shape, n_programs)


@lru_cache(maxsize=4096)
def _dims(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(shape or (1,), np.int64), np.array(strides or (0,), np.int64)


@lru_cache(maxsize=4096)
def _whole(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(max(1, len(shape)), np.int64), np.array(shape or (1,), np.int64)


def _bounds(mask: Box | None, shape: tuple[int, ...], n_programs: int) -> tuple[np.ndarray, np.ndarray, int]:
    if mask is None or all(b is None for b in mask.bounds):
        return *_whole(shape), 0
    if all(b is None or (isinstance(b[0], int) and isinstance(b[1], int)) for b in mask.bounds):
        lo = np.array([0 if b is None else b[0] for b in mask.bounds], np.int64)
        hi = np.array([n if b is None else b[1] for b, n in zip(mask.bounds, shape, strict=True)], np.int64)
        return lo, hi, 0
    nd = len(shape)
    lo, hi = np.zeros((n_programs, nd), np.int64), np.empty((n_programs, nd), np.int64)
    for d, (b, n) in enumerate(zip(mask.bounds, shape, strict=True)):
        hi[:, d] = n
        if b is not None:
            lo[:, d], hi[:, d] = b
    return lo, hi, nd


def active_bytes(mask: Box | None, active: np.ndarray | None, n_programs: int) -> np.ndarray | None:
    """uint8 [P]: programs that take part; None for all."""
    flag: np.ndarray | bool = True if mask is None else mask.flag
    if isinstance(flag, bool):
        if flag and active is None:
            return None
        flag = np.full(n_programs, flag)
    if active is not None:
        flag = flag & active
    return np.ascontiguousarray(flag, np.uint8)


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def prepared_load(
    pointer: Lin,
    mask: Box | None,
    active: np.ndarray | None,
    type_: TileType,
    n_programs: int,
    fill: int,
    place: Place,
    *,
    lend: bool = False,
) -> Callable[[int, Allocation], torch.Tensor]:
    """A block load: `load(address, where)` gives [P or 1, *shape], one copy for all programs where pointer and mask are
    the same for all. `pointer` is relative to `address`. With `lend` the result may be a view of device memory."""
    flags = active_bytes(mask, active, n_programs)
    if lend and flags is None and (view := _prepared_view(pointer, mask, type_, n_programs, place)) is not None:
        return view
    shared = isinstance(pointer.base, int) and flags is None and (mask is None or _is_shared(mask))
    count = 1 if shared else n_programs
    s = _Shape(pointer, mask, type_, count)
    relative, base = s.base, np.empty_like(s.base)
    shape, dtype = (count, *type_.shape), TORCH_DTYPE[type_.element]
    tail = (
        _address(base),
        s.base_step,
        count,
        s.nd,
        _address(s.shape),
        _address(s.stride),
        _address(s.lo),
        _address(s.hi),
        s.bound_step,
        _address(flags),
        type_.element.n_bytes,
        fill,
    )
    call, empty, add = _functions()["mtia_load_blocks"], torch.empty, np.add

    def load(address: int, where: Allocation, _keep: object = (s, flags)) -> torch.Tensor:
        add(relative, address, base)
        out = empty(shape, dtype=dtype)
        bad = call(out.data_ptr(), *tail, where.start, where.end)
        if bad >= 0:
            absolute = Lin(pointer.base + address, pointer.strides)
            raise _out_of_bounds(absolute, mask, type_, int(bad), where, place, "load")
        return out

    return load


MIN_LENT_BYTES = 1 << 14  # a smaller tile is copied sooner than lent


def _prepared_view(
    pointer: Lin, mask: Box | None, type_: TileType, n_programs: int, place: Place
) -> Callable[[int, Allocation], torch.Tensor] | None:
    """A load without a copy, where no mask cuts the tile and the programs' tiles are evenly spaced; else None."""
    elem = type_.element.n_bytes
    if type_.n_bytes < MIN_LENT_BYTES or not _covers(mask, type_.shape) or any(s < 0 for s in pointer.strides):
        return None
    bases = np.atleast_1d(np.asarray(pointer.base, np.int64))
    steps = np.diff(bases)
    if len(steps) and (steps[0] < 0 or (steps != steps[0]).any()):
        return None
    step = int(steps[0]) if len(steps) else 0
    if any(s % elem for s in (step, *pointer.strides)):
        return None
    shape = (len(bases), *type_.shape)
    strides = (step // elem, *(s // elem for s in pointer.strides))
    first, span = int(bases[0]), elem * (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)))
    buffer, dtype = ctypes.c_char * span, TORCH_DTYPE[type_.element]

    def load(address: int, where: Allocation) -> torch.Tensor:
        start = address + first
        if where.end and (start < where.start or start + span > where.end):
            bad = next(p for p, b in enumerate(bases) if _is_outside(pointer, type_, int(b) + address, where))
            raise _out_of_bounds(Lin(pointer.base + address, pointer.strides), mask, type_, bad, where, place, "load")
        return torch.frombuffer(buffer.from_address(start), dtype=dtype).as_strided(shape, strides)

    return load


def _covers(mask: Box | None, shape: tuple[int, ...]) -> bool:
    """The mask leaves every element of every program's tile."""
    if mask is None:
        return True
    cut = (
        np.any(np.asarray(b[0]) > 0) or np.any(np.asarray(b[1]) < n)
        for b, n in zip(mask.bounds, shape, strict=True)
        if b is not None
    )
    return not any(cut)


def _is_outside(pointer: Lin, type_: TileType, base: int, where: Allocation) -> bool:
    last = base + sum((n - 1) * s for n, s in zip(type_.shape, pointer.strides, strict=True)) + type_.element.n_bytes
    return base < where.start or last > where.end


def prepared_store(
    pointer: Lin, mask: Box | None, active: np.ndarray | None, type_: TileType, n_programs: int, place: Place
) -> Callable[[torch.Tensor, int, Allocation], None]:
    """A block store: `store(data, address, where)`; data contiguous [P or 1, *shape], pointer relative to address."""
    s = _Shape(pointer, mask, type_, n_programs)
    flags = active_bytes(mask, active, n_programs)
    relative, base = s.base, np.empty_like(s.base)
    tail = (
        _address(base),
        s.base_step,
        n_programs,
        s.nd,
        _address(s.shape),
        _address(s.stride),
        _address(s.lo),
        _address(s.hi),
        s.bound_step,
        _address(flags),
        type_.element.n_bytes,
    )
    call, add, n_elements = _functions()["mtia_store_blocks"], np.add, type_.n_elements

    def store(data: torch.Tensor, address: int, where: Allocation, _keep: object = (s, flags)) -> None:
        add(relative, address, base)
        bad = call(data.data_ptr(), n_elements if data.shape[0] != 1 else 0, *tail, where.start, where.end)
        if bad >= 0:
            absolute = Lin(pointer.base + address, pointer.strides)
            raise _out_of_bounds(absolute, mask, type_, int(bad), where, place, "store")

    return store


def _is_shared(mask: Box) -> bool:
    return all(b is None or (isinstance(b[0], int) and isinstance(b[1], int)) for b in mask.bounds)


def gather(
    address: torch.Tensor, mask: torch.Tensor | None, type_: TileType, fill: int, where: Allocation, place: Place
) -> torch.Tensor:
    """address: contiguous int64 [P, *shape]; mask: contiguous bool, same shape."""
    out = torch.empty(address.shape, dtype=TORCH_DTYPE[type_.element])
    bad = _functions()["mtia_gather"](
        out.data_ptr(),
        address.data_ptr(),
        address.numel(),
        None if mask is None else mask.data_ptr(),
        type_.element.n_bytes,
        fill,
        where.start,
        where.end,
    )
    if bad >= 0:
        raise _out_of_bounds_element(address, int(bad), type_, where, place, "load")
    return out


def scatter(
    data: torch.Tensor,
    address: torch.Tensor,
    mask: torch.Tensor | None,
    type_: TileType,
    where: Allocation,
    place: Place,
) -> None:
    """Writes in program order, then element order: the last write to an address stays."""
    bad = _functions()["mtia_scatter"](
        data.data_ptr(),
        address.data_ptr(),
        address.numel(),
        None if mask is None else mask.data_ptr(),
        type_.element.n_bytes,
        where.start,
        where.end,
    )
    if bad >= 0:
        raise _out_of_bounds_element(address, int(bad), type_, where, place, "store")


ATOMIC_KINDS = {
    Element.I32: 0,
    Element.I64: 1,
    Element.F32: 2,
    Element.F64: 3,
    Element.F16: 4,
    Element.BF16: 5,
    Element.I16: 6,
    Element.I8: 7,
}
ATOMIC_OPS = {"add": 0, "fadd": 0, "max": 1, "min": 2, "umax": 3, "umin": 4, "and": 5, "or": 6, "xor": 7, "exch": 8}


def atomic(
    op: str,
    data: torch.Tensor,
    address: torch.Tensor,
    mask: torch.Tensor | None,
    type_: TileType,
    where: Allocation,
    place: Place,
) -> torch.Tensor:
    """The old values; updates happen in program order, so a run is repeatable."""
    old = torch.empty_like(data)
    bad = _functions()["mtia_atomic"](
        old.data_ptr(),
        data.data_ptr(),
        address.data_ptr(),
        address.numel(),
        None if mask is None else mask.data_ptr(),
        ATOMIC_KINDS[type_.element],
        ATOMIC_OPS[op],
        where.start,
        where.end,
    )
    if bad >= 0:
        raise _out_of_bounds_element(address, int(bad), type_, where, place, "atomic")
    return old


def compare_exchange(
    expected: torch.Tensor,
    desired: torch.Tensor,
    address: torch.Tensor,
    mask: torch.Tensor | None,
    type_: TileType,
    where: Allocation,
    place: Place,
) -> torch.Tensor:
    old = torch.empty_like(desired)
    bad = _functions()["mtia_compare_exchange"](
        old.data_ptr(),
        expected.data_ptr(),
        desired.data_ptr(),
        address.data_ptr(),
        address.numel(),
        None if mask is None else mask.data_ptr(),
        type_.element.n_bytes,
        where.start,
        where.end,
    )
    if bad >= 0:
        raise _out_of_bounds_element(address, int(bad), type_, where, place, "atomic")
    return old


def _of_program(base: Base, program: int) -> int:
    return base if isinstance(base, int) else int(base[program])


def _out_of_bounds(
    pointer: Lin, mask: Box | None, type_: TileType, program: int, where: Allocation, place: Place, what: str
) -> OutOfBoundsAccess:
    first = last = _of_program(pointer.base, program)
    for d, (n, stride) in enumerate(zip(type_.shape, pointer.strides, strict=True)):
        bounds = mask.bounds[d] if mask is not None else None
        lo, hi = (
            (0, n)
            if bounds is None
            else (max(0, _of_program(bounds[0], program)), min(n, _of_program(bounds[1], program)))
        )
        first += min(stride * lo, stride * (hi - 1))
        last += max(stride * lo, stride * (hi - 1))
    last += type_.element.n_bytes
    return _error(first, last, program, where, place, what)


def _out_of_bounds_element(
    address: torch.Tensor, at: int, type_: TileType, where: Allocation, place: Place, what: str
) -> OutOfBoundsAccess:
    per_program = address.numel() // address.shape[0]
    first = int(address.view(-1)[at])
    return _error(first, first + type_.element.n_bytes, at // per_program, where, place, what)


def _error(first: int, last: int, program: int, where: Allocation, place: Place, what: str) -> OutOfBoundsAccess:
    beyond = first if first < where.start else max(first, where.end)
    return OutOfBoundsAccess(
        place.kernel,
        instance=place.instance(program),
        line=str(place.command.location),
        argument=where.argument,
        address=beyond,
        offset_bytes=beyond - where.start,
        allocation_bytes=where.end - where.start,
        access=what,
    )
