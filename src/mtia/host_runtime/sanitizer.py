"""`MTIA_SANITIZE=1`: what a launch's pointers may reach, and the words of what they reach beyond it.

The checks are the engine's (`engine/functional/sanitized.py`); here are the tensors and the history of their memory
(`allocations.py`). With `MTIA_VALUES=0` nothing is computed and nothing is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mtia import _C
from mtia.engine.functional import sanitized
from mtia.engine.functional.interpreter import Launch
from mtia.engine.functional.memory import Allocation
from mtia.engine.functional.sanitized import Argument, Region, Watch
from mtia.errors import MisalignedAccess, MtiaError, OutOfBoundsAccess, UseAfterFree
from mtia.host_runtime import allocations
from mtia.host_runtime.allocations import Block
from mtia.program.program import TileProgram

NOWHERE = 1  # an allocation [1, 1) lets no access pass


class Captured:
    """A pointer argument as a graph holds it: an address. The graph keeps no tensor alive, as on the chip; what it was
    is remembered for reports."""

    def __init__(self, tensor: Any, pool: int) -> None:
        self.address: int = tensor.data_ptr()
        self.extent = extent_of(tensor)
        self.title = title_of(tensor)
        self.pool = pool
        self.block = allocations.live_block(self.address)

    def data_ptr(self) -> int:
        return self.address


def captured(arguments: Sequence[Any], pool: int) -> list[Any]:
    """Arguments for a graph's node: addresses in place of tensors."""
    return [Captured(a, pool) if hasattr(a, "data_ptr") else a for a in arguments]


def title_of(argument: Any) -> str:
    if isinstance(argument, Captured):
        return argument.title
    if isinstance(argument, torch.Tensor):
        dtype = str(argument.dtype).removeprefix("torch.")
        strides = "" if argument.is_contiguous() else f", strides {tuple(argument.stride())}"
        return f"tensor {dtype} {list(argument.shape)}{strides}"
    return f"a raw pointer ({type(argument).__name__})"


def extent_of(argument: Any) -> tuple[int, int] | None:
    """The addresses that a tensor's elements span; None for a raw pointer."""
    if isinstance(argument, Captured):
        return argument.extent
    if not isinstance(argument, torch.Tensor):
        return None
    start = argument.data_ptr()
    if argument.numel() == 0:
        return start, start
    last = sum((n - 1) * stride for n, stride in zip(argument.shape, argument.stride(), strict=True))
    return start, start + (last + 1) * argument.element_size()


# --- a launch ---------------------------------------------------------------------------------------------------------


def allocations_of(program: TileProgram, pointers: Sequence[int], given: Sequence[Any]) -> list[Allocation]:
    """As `launch._allocations`, but a pointer into no live block lets no access pass."""
    out = [Allocation(0, 0, "?")] * len(given)
    for i in pointers:
        block = _block_of(given[i])
        name = program.parameters[i].value.name
        out[i] = Allocation(NOWHERE, NOWHERE, name) if block is None else Allocation(block.start, block.end, name)
    return out


def run(launch: Launch, pointers: Sequence[int], given: Sequence[Any], *, users: bool) -> None:
    """Compute the launch's values with every access checked. In a user's kernel a view bounds its accesses, and copying
    what nobody wrote is a finding; in ours and Inductor's, a copy of such memory is as unwritten."""
    sanitized.run(launch, watch_of(launch.program, pointers, given, users=users))


def watch_of(program: TileProgram, pointers: Sequence[int], given: Sequence[Any], *, users: bool) -> Watch:
    arguments: list[Argument | None] = [None] * len(given)
    for i in pointers:
        arguments[i] = _argument(program.parameters[i].value.name, given[i], views=users)
    regions = [
        Region(_C.arena(device)[0], _C.reserved(device), _C.written_map(device))
        for device in range(_C.device_count())
        if _C.arena_exists(device)
    ]
    return Watch(
        arguments=arguments, regions=regions, owner_of=_owner_of, stray=stray, moves_are_reads=users
    )  # fmt: skip


def _address_of(given: Any) -> int:
    return given.data_ptr() if hasattr(given, "data_ptr") else int(given or 0)


def _block_of(given: Any) -> Block | None:
    """The block that a pointer argument may reach: live, or of the pool of the graph that is being replayed."""
    if isinstance(given, Captured) and given.pool and given.block is not None and given.block.pool == given.pool:
        return given.block
    address = _address_of(given)
    block = allocations.live_block(address)
    if block is None and isinstance(given, torch.Tensor) and given.untyped_storage().nbytes():
        block = allocations.live_block(given.untyped_storage().data_ptr())  # one past the end: an empty view
    return block


def _argument(name: str, given: Any, *, views: bool) -> Argument:
    block, extent, title = _block_of(given), extent_of(given), title_of(given)
    if block is None:
        return Argument(name, title, NOWHERE, NOWHERE, known=False)
    start, end, bounds = block.start, block.end, "allocation"
    if views and extent is not None and extent != (start, end):
        start, end, bounds = *extent, "view"
    return Argument(name, title, start, end, bounds, block.written_is_known, report=lambda: report(name, title, block))


def _owner_of(address: int, name: str) -> Argument | None:
    block = allocations.live_block(address)
    if block is None:
        return None
    title = "an address computed by the kernel"
    return Argument(
        name, title, block.start, block.end, check_written=block.written_is_known,
        report=lambda: report(name, title, block),
    )  # fmt: skip


def report(name: str, title: str, block: Block | None) -> str:
    """A tensor and the history of its memory, on indented lines."""
    return f"  {name!r} is {title}" + (f"\n{block.story()}" if block is not None else "")


def stray(
    *, kernel: str, instance: Sequence[int], line: str, argument: str, title: str, address: int, access: str
) -> MtiaError:
    """The error for an access that no live block owns: into a freed one, or nowhere."""
    gone = allocations.freed_block(address)
    where = {"instance": instance, "line": line, "argument": argument, "address": address, "access": access}
    if gone is not None:
        return UseAfterFree(kernel, **where, report=report(argument, title, gone))
    lines = [
        report(argument, title, None),
        f"  no allocation holds {address:#x}; the nearest:",
        *(b.story() for b in allocations.neighbours(address)),
    ]
    return OutOfBoundsAccess(
        kernel, **where, offset_bytes=0, allocation_bytes=0, bounds="allocation (there is none)",
        report="\n".join(lines),
    )  # fmt: skip


def explained(error: MtiaError, program: TileProgram, given: Sequence[Any]) -> MtiaError:
    """An out-of-bounds or misaligned access that another part found (the tracer, a chip limit), with its tensor."""
    if not isinstance(error, OutOfBoundsAccess | MisalignedAccess) or "\n" in str(error):
        return error
    at = next((i for i, p in enumerate(program.parameters) if p.value.name == error.argument), None)
    if at is None:
        return error
    block = _block_of(given[at])
    if block is None and isinstance(error, OutOfBoundsAccess):
        return stray(
            kernel=error.kernel, instance=error.instance, line=error.line, argument=error.argument,
            title=title_of(given[at]), address=error.address, access=error.access,
        )  # fmt: skip
    error.args = (f"{error}\n{report(error.argument, title_of(given[at]), block)}",)
    return error


__all__ = ["Captured", "allocations_of", "captured", "explained", "run", "stray", "watch_of"]
