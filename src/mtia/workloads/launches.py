"""Timing a Triton kernel on any chip without a device: buffers are addresses that nobody allocates.

`Call` names a kernel, its grid and arguments; `trace` walks its addresses; `time_call` times it against what SRAM has;
`Memory` hands out addresses and remembers what SRAM holds from call to call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mtia.chips.spec import ChipSpec
from mtia.engine.functional.interpreter import Launch
from mtia.engine.functional.tracer import trace_launch
from mtia.engine.memory import Residency
from mtia.engine.timeline import KernelTiming
from mtia.engine.timing import run_timed, touch_launch
from mtia.engine.trace import Trace
from mtia.host_runtime.launch import compile_kernel, site_of
from mtia.program.commands import Load
from mtia.program.program import TileProgram

ALIGNMENT_BYTES = 4096
FIRST_ADDRESS = 1 << 40
OTHERS_PIECES = 32  # in which read and written data of others lie in turn


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor's place: first address, element type, bytes."""

    address: int
    dtype: torch.dtype
    n_bytes: int

    def at(self, element: int) -> Buffer:
        """The buffer from an element on."""
        skipped = element * self.dtype.itemsize
        return Buffer(self.address + skipped, self.dtype, self.n_bytes - skipped)


class Memory:
    """Addresses of a run's tensors, and what the chip's SRAM holds of them."""

    def __init__(self, spec: ChipSpec) -> None:
        self.spec = spec
        self.residency = Residency(spec.sram.shared_bytes)
        self._next = FIRST_ADDRESS

    def buffer(self, n_elements: int, dtype: torch.dtype) -> Buffer:
        """A new tensor of `n_elements`; never in SRAM before it is touched."""
        n_bytes = max(1, n_elements) * dtype.itemsize
        found = Buffer(self._next, dtype, n_bytes)
        self._next += -(-n_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES + ALIGNMENT_BYTES
        return found

    def warm(self, buffer: Buffer, *, written: bool = False) -> None:
        """The buffer was read (or written) whole just before."""
        self.residency.touch(buffer.address, buffer.address + buffer.n_bytes, written)

    def fill_with_others(self, n_bytes: int, dirty_frac: float) -> None:
        """Data of others that is in the way; a share of it, spread over its age, is to be written back first."""
        piece = n_bytes // OTHERS_PIECES
        if piece < 1:
            return
        others = self.buffer(n_bytes, torch.int8)
        dirty = int(piece * dirty_frac)
        for at in range(others.address, others.address + OTHERS_PIECES * piece, piece):
            self.residency.touch(at, at + dirty, True)
            self.residency.touch(at + dirty, at + piece, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One launch of a Triton kernel. `arguments`: Buffers and numbers for the parameters that are not constexpr.

    load_slots, store_slots: circular buffer slots of loads and of stores; none: as num_stages says for all.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Sequence[Buffer | int | float]
    constants: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # num_stages ...
    load_slots: int | None = None
    store_slots: int | None = None

    def program(self) -> TileProgram:
        like = [_signature(a) for a in self.arguments]
        compiled = compile_kernel(self.kernel, like, dict(self.constants), **self.options)
        if self.load_slots is None and self.store_slots is None:
            return compiled
        return _with_slots(compiled, self.load_slots, self.store_slots)


_SLOTTED: dict[tuple[int, int | None, int | None], tuple[TileProgram, TileProgram]] = {}


def _with_slots(program: TileProgram, load_slots: int | None, store_slots: int | None) -> TileProgram:
    """The program with so many slots where it loads and stores; made once."""
    key = (id(program), load_slots, store_slots)
    if key not in _SLOTTED:
        slots = [load_slots if isinstance(program.commands[b.command], Load) else store_slots for b in program.buffers]
        buffers = tuple(replace(b, slots=s or b.slots) for b, s in zip(program.buffers, slots, strict=True))
        _SLOTTED[key] = (program, replace(program, buffers=buffers))
    return _SLOTTED[key][1]


_LIKE: dict[torch.dtype, torch.Tensor] = {}


def _signature(argument: Buffer | int | float) -> Any:
    if not isinstance(argument, Buffer):
        return argument
    if argument.dtype not in _LIKE:
        _LIKE[argument.dtype] = torch.empty(0, dtype=argument.dtype, device="meta")
    return _LIKE[argument.dtype]


def trace(call: Call, spec: ChipSpec) -> Trace:
    """What every program instance asks of memory, on the program fitted to the chip. Raises what `fit` raises."""
    site = site_of(call.program(), spec)
    plain = [a.address if isinstance(a, Buffer) else a for a in call.arguments]
    x, y, z = (*call.grid, 1, 1)[:3]
    return trace_launch(Launch(program=site.program, grid=(x, y, z), arguments=plain))


def time_call(call: Call, memory: Memory, *, last: bool = False) -> KernelTiming:
    """Time of one launch against what SRAM holds, which it then changes (unless it is the `last` of its run)."""
    traced = trace(call, memory.spec)
    timing = run_timed(traced, memory.spec, memory.residency)
    if not last:
        touch_launch(traced, memory.residency)
    return timing


def touch_call(call: Call, memory: Memory) -> None:
    """As if the launch had run: only what it leaves in SRAM."""
    touch_launch(trace(call, memory.spec), memory.residency)


__all__ = ["Buffer", "Call", "Memory", "time_call", "touch_call", "trace"]
