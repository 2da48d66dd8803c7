"""The interpreter under `MTIA_SANITIZE=1`: every access of every program instance is checked before it happens.

    out of bounds    outside the argument's allocation (or view), or in no allocation at all
    misaligned       an element that is not at a multiple of its own size
    uninitialised    bytes read that nothing wrote since they were allocated
    race             one byte, two instances, one changes it, not both by atomics, and no atomics order them
    use after free   a pointer into memory whose tensor is gone

What was touched by whom is kept per launch by csrc/sanitizer.cpp; which bytes were ever written lives beside device
memory. The first finding raises; the words and the allocation's history come from the launch's `Argument`s.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from mtia.engine.functional.interpreter import HANDLERS, Interpreter, Launch, held_mask
from mtia.engine.functional.plan import Plan, host_threads, plan_of, programs_per_chunk, users_of
from mtia.engine.native import library
from mtia.errors import MtiaError, OutOfBoundsAccess, RaceBetweenInstances, UnalignedElement, UninitializedRead
from mtia.program import commands as c
from mtia.program.program import TileProgram
from mtia.program.types import Value

MOST_ADDRESSES = 1 << 21  # of one command and chunk: eight bytes each
LOAD, STORE, ATOMIC, LOOK = range(4)
KINDS: dict[type[c.Command], int] = {c.Load: LOAD, c.Store: STORE, c.AtomicRmw: ATOMIC, c.AtomicCas: ATOMIC}
WORDS = {c.Load: "load", c.Store: "store", c.AtomicRmw: "atomic", c.AtomicCas: "atomic"}
ACQUIRES, RELEASES = 1, 2
ORDERS = {"relaxed": 0, "acquire": ACQUIRES, "release": RELEASES, "acq_rel": ACQUIRES | RELEASES}
OUT_OF_BOUNDS, MISALIGNED, UNINITIALIZED, RACE = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Argument:
    """A pointer argument as the sanitizer sees it: where accesses may fall, and how it is told of in a report."""

    name: str
    title: str  # "tensor float32 [4, 8]"
    start: int
    end: int
    bounds: str = "allocation"  # or "view"
    check_written: bool = False
    known: bool = True  # False: no live allocation is there, every access is a finding
    report: Callable[[], str] = str  # the tensor, and its allocation's history


@dataclass(frozen=True, slots=True)
class Region:
    """A device's memory, and the address of the bytes that say what of it was written."""

    base: int
    n_bytes: int
    written: int


@dataclass(slots=True, kw_only=True)
class Watch:
    """What a sanitized launch is held against. `owner_of(address, name)`: the live allocation there, by the name of the
    pointer; `stray(address, ...)`: the error for an address that no live allocation owns. Without `moves_are_reads` a
    load that is only stored again (a copy) may read what nobody wrote, and its copy is as unwritten."""

    arguments: Sequence[Argument | None]
    regions: Sequence[Region]
    owner_of: Callable[[int, str], Argument | None]
    stray: Callable[..., MtiaError]
    moves_are_reads: bool = True


_I64, _P = ctypes.c_int64, ctypes.c_void_p


@lru_cache(maxsize=1)
def _functions() -> Any:
    lib = library()
    lib.mtia_sanitizer_open.argtypes = [_I64, _P, _P, _P, _I64, ctypes.c_int]
    lib.mtia_sanitizer_open.restype = _P
    lib.mtia_sanitizer_close.argtypes, lib.mtia_sanitizer_close.restype = [_P], None
    lib.mtia_sanitizer_access.argtypes = [
        _P, ctypes.c_int, _P, _P, _I64, _I64, _I64, ctypes.c_int, _I64, _I64, _I64, ctypes.c_int, ctypes.c_int32,
        ctypes.c_int, _P, _P,
    ]  # fmt: skip
    lib.mtia_sanitizer_access.restype = _I64
    lib.mtia_sanitizer_exchanged.argtypes, lib.mtia_sanitizer_exchanged.restype = [_P, _I64, _I64, _P], None
    return lib


def run(launch: Launch, watch: Watch) -> None:
    """As `interpreter.run`, with every access checked. Raises the first finding."""
    plan = plan_of(launch.program)
    chunk = max(1, min(programs_per_chunk(plan), MOST_ADDRESSES // plan.largest_tile))
    with torch.no_grad(), host_threads(plan, launch.n_programs), _record_of(launch, watch) as record:
        for first in range(0, launch.n_programs, chunk):
            SanitizedInterpreter(launch, plan, first, min(chunk, launch.n_programs - first), watch, record).run()


@contextmanager
def _record_of(launch: Launch, watch: Watch) -> Iterator[int]:
    bases, sizes, written = (
        np.array([getattr(r, name) for r in watch.regions], np.int64) for name in ("base", "n_bytes", "written")
    )
    functions = _functions()
    is_ordering = any(_order(command) for command in launch.program.commands)
    record = functions.mtia_sanitizer_open(
        len(bases), bases.ctypes.data, sizes.ctypes.data, written.ctypes.data, launch.n_programs, int(is_ordering)
    )
    try:
        yield record
    finally:
        functions.mtia_sanitizer_close(record)


class SanitizedInterpreter(Interpreter):
    """An interpreter that looks at each memory command's addresses first."""

    def __init__(self, launch: Launch, plan: Plan, first: int, n: int, watch: Watch, record: int) -> None:
        super().__init__(launch, plan, first, n)
        self.watch = watch
        self.record = record
        self.moved = frozenset() if watch.moves_are_reads else moved_values(launch.program)
        self.unwritten: dict[int, torch.Tensor] = {}  # of moved values: uint8, 1 where nobody wrote the element

    def block(self, block: c.Block) -> None:
        for command in block.commands:
            if type(command) in KINDS:
                self.check(command)
            HANDLERS[type(command)](self, command, self.env)
            if isinstance(command, c.AtomicCas):
                self.note_exchange(command)
            if self.active is not None and not self.active.any():
                return

    def note_exchange(self, command: c.AtomicCas) -> None:
        """Releases where it exchanged something; a compare-and-exchange that failed, or polls, only acquired."""
        if _kind(command) == LOOK or not ORDERS[command.sem] & RELEASES:
            return
        expected = command.operands[1]
        exchanged = torch.ones(self.n, dtype=torch.uint8)
        if command.results:
            same = self.full(command.result) == self.full(expected)
            exchanged = same.reshape(same.shape[0], -1).any(1).to(torch.uint8).expand(self.n).contiguous()
        _functions().mtia_sanitizer_exchanged(self.record, self.first, self.n, exchanged.data_ptr())

    def check(self, command: c.Command) -> None:
        pointer = command.operands[0]
        has_mask = not isinstance(command, c.AtomicCas) and command.has_mask  # type: ignore[attr-defined]
        mask = held_mask(self, command.operands[1 if isinstance(command, c.Load) else 2]) if has_mask else None
        address, selected = self.elementwise_access(pointer, mask)
        n_bytes = _element_bytes(command)
        argument = self.argument(pointer)
        if argument is not None:
            self.check_addresses(command, argument, address, selected, n_bytes)
            return
        for owner, part in self.by_owner(command, address, selected, n_bytes):
            self.check_addresses(command, owner, address, part, n_bytes)

    def argument(self, pointer: Value) -> Argument | None:
        at = self.plan.origins.get(pointer.id, -1)
        return self.watch.arguments[at] if 0 <= at < len(self.watch.arguments) else None

    def by_owner(
        self, command: c.Command, address: torch.Tensor, selected: torch.Tensor | None, n_bytes: int
    ) -> Iterator[tuple[Argument, torch.Tensor]]:
        """The access in parts, one for each allocation that its addresses fall in (pointers that no argument gave)."""
        left = torch.ones_like(address, dtype=torch.bool) if selected is None else selected.clone()
        while bool(left.any()):
            at = int(left.flatten().nonzero()[0])
            lowest = int(address.flatten()[at])
            owner = self.watch.owner_of(lowest, self.name_of(command.operands[0]))
            if owner is None:
                raise self.stray(command, lowest, at // (address.numel() // address.shape[0]))
            part = left & (address >= owner.start) & (address < owner.end)
            left = left & ~part
            yield owner, part.contiguous()

    def name_of(self, pointer: Value) -> str:
        at = self.plan.origins.get(pointer.id, -1)
        return self.launch.program.parameters[at].value.name if at >= 0 else f"a pointer in {pointer}"

    def check_addresses(
        self, command: c.Command, argument: Argument, address: torch.Tensor, selected: torch.Tensor | None, n_bytes: int
    ) -> None:
        out = np.zeros(5, np.int64)
        unwritten = self.unwritten_of(command, address)
        finding = _functions().mtia_sanitizer_access(
            self.record, _kind(command), address.data_ptr(), None if selected is None else selected.data_ptr(),
            address.shape[0], self.n, address.numel() // address.shape[0], n_bytes, self.first, argument.start,
            argument.end, int(argument.check_written and _reads(command)), command.index, _order(command),
            None if unwritten is None else unwritten.data_ptr(), out.ctypes.data,
        )  # fmt: skip
        if finding:
            raise self.found(finding, command, argument, n_bytes, *(int(v) for v in out))

    def unwritten_of(self, command: c.Command, address: torch.Tensor) -> torch.Tensor | None:
        """For a load that is only moved: where to note what nobody wrote. For its store: what the load noted."""
        if isinstance(command, c.Load) and command.result.id in self.moved:
            noted = self.unwritten.get(command.result.id)
            if noted is None or noted.shape != address.shape:
                noted = torch.zeros(address.shape, dtype=torch.uint8)
                self.unwritten[command.result.id] = noted
            return noted.zero_()
        if isinstance(command, c.Store) and command.operands[1].id in self.unwritten:
            return self.unwritten[command.operands[1].id].expand(address.shape).contiguous()
        return None

    def found(
        self, finding: int, command: c.Command, argument: Argument, n_bytes: int, program: int, element: int,
        address: int, other: int, other_command: int,
    ) -> MtiaError:  # fmt: skip
        place = self.place(command)
        where: dict[str, Any] = {
            "instance": place.instance(program),
            "line": str(command.location),
            "argument": argument.name,
        }
        what: dict[str, Any] = {"address": address, "access": WORDS[type(command)], "report": argument.report()}
        offset = address - argument.start
        if finding == OUT_OF_BOUNDS:
            if not argument.known:
                return self.stray(command, address, program, argument)
            beyond = address if address < argument.start else max(address, argument.end)
            what["address"] = beyond
            return OutOfBoundsAccess(
                place.kernel, **where, **what, offset_bytes=beyond - argument.start,
                allocation_bytes=argument.end - argument.start, bounds=argument.bounds,
            )  # fmt: skip
        if finding == MISALIGNED:
            return UnalignedElement(place.kernel, **where, **what, element_bytes=n_bytes)
        if finding == UNINITIALIZED:
            return UninitializedRead(place.kernel, **where, **what, offset_bytes=offset)
        theirs = self.launch.program.commands[other_command]
        return RaceBetweenInstances(
            place.kernel, **where, **what, other=place.instance(other - self.first), other_line=str(theirs.location),
            other_access=WORDS[type(theirs)], offset_bytes=offset,
        )  # fmt: skip

    def stray(self, command: c.Command, address: int, program: int, argument: Argument | None = None) -> MtiaError:
        return self.watch.stray(
            kernel=self.launch.program.name,
            instance=self.place(command).instance(program),
            line=str(command.location),
            argument=argument.name if argument is not None else self.name_of(command.operands[0]),
            title=argument.title if argument is not None else "an address computed by the kernel",
            address=address,
            access=WORDS[type(command)],
        )


def moved_values(program: TileProgram) -> frozenset[int]:
    """Results of loads that nothing but stores of their own block uses."""
    users = users_of(program)
    moved = set()
    for block in (program.body, *(b for command in program.commands for b in command.blocks)):
        stores = [command for command in block.commands if isinstance(command, c.Store)]
        for command in block.commands:
            if isinstance(command, c.Load) and users.get(command.result.id):
                value = command.result.id
                if all(u is not None and u in stores and u.operands[1].id == value for u in users[value]):
                    moved.add(value)
    return frozenset(moved)


def _element_bytes(command: c.Command) -> int:
    value = command.result if isinstance(command, c.Load) else command.operands[1]
    return value.type.element.n_bytes


def _kind(command: c.Command) -> int:
    is_look = isinstance(command, c.AtomicCas) and command.operands[1] is command.operands[2]  # tl.atomic_poll
    return LOOK if is_look else KINDS[type(command)]


def _order(command: c.Command) -> int:
    """What an atomic surely does to the order of accesses; a compare-and-exchange may also release, once it is done."""
    if isinstance(command, c.AtomicCas):
        return ORDERS[command.sem] & ACQUIRES
    return ORDERS[command.sem] if isinstance(command, c.AtomicRmw) else 0


def _reads(command: c.Command) -> bool:
    return not isinstance(command, c.AtomicRmw) or command.op != "exch"


__all__ = ["Argument", "Region", "SanitizedInterpreter", "Watch", "run"]
