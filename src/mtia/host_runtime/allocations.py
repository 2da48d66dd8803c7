"""The history of device memory under `MTIA_SANITIZE=1`: who allocated each block, who freed it, from which lines.

The C++ allocator calls `allocated` and `freed` (through `hooks`) while the knob is on. Freed blocks are quarantined:
their space is not handed out again before `QUARANTINE_BYTES` more were freed, so that a stale pointer finds the block
it was made for.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from dataclasses import dataclass, field
from types import FrameType

from mtia import _C, knobs
from mtia.host_runtime import graphs

QUARANTINE_BYTES = 256 << 20  # a device
MOST_FREED = 16384  # freed blocks that are remembered
MOST_FRAMES = 6  # innermost Python lines kept of an allocation or a free

Lines = tuple[tuple[str, int, str], ...]  # file, line, function; innermost first


@dataclass(slots=True)
class Block:
    """One allocation: [start, start + n_bytes), where it was made and, once freed, where it was let go."""

    device: int
    start: int
    n_bytes: int
    made_at: Lines | None  # None: before anybody watched
    pool: int = 0  # of the graph that was captured when it was made
    freed_at: Lines | None = None
    written_is_known: bool = True  # False: something unwatched may have written it

    @property
    def end(self) -> int:
        return self.start + self.n_bytes

    def story(self) -> str:
        """The block's history on indented lines."""
        made = "      before MTIA_SANITIZE was on" if self.made_at is None else _listing(self.made_at)
        text = f"    allocated {self.n_bytes:,} bytes at {self.start:#x} on mtia:{self.device}:\n{made}"
        if self.freed_at is not None:
            text += f"\n    freed:\n{_listing(self.freed_at)}"
        return text


def _listing(lines: Lines) -> str:
    return (
        "\n".join(f"      {file}:{line} in {function}" for file, line, function in lines)
        or "      a thread of PyTorch's (autograd)"
    )


@dataclass(slots=True)
class _State:
    live: dict[int, Block] = field(default_factory=dict)
    freed: deque[Block] = field(default_factory=lambda: deque(maxlen=MOST_FREED))
    is_on: bool = False


_state = _State()


def follow_knob() -> None:
    """Start or stop watching, as `MTIA_SANITIZE` in force here asks."""
    wanted = knobs.get().sanitize
    if wanted == _state.is_on:
        return
    _state.is_on = wanted
    _C.track_allocations(wanted)
    for device in range(_C.device_count()):
        if wanted:
            _C.written_map(device)
        if wanted or _C.arena_exists(device):
            _C.set_quarantine(device, QUARANTINE_BYTES if wanted else 0)
    if not wanted:  # what is written from here on is not watched
        for block in _state.live.values():
            block.written_is_known = False


def is_watching() -> bool:
    """Whether launches are sanitized now: process-wide, so that autograd's threads are as the thread that asked."""
    return _state.is_on


def allocated(device: int, address: int, n_bytes: int) -> None:
    pool = graphs.pool_being_filled(device)
    _state.live[address] = Block(device, address, n_bytes, _lines_of(sys._getframe().f_back), pool)


def freed(address: int) -> None:
    block = _state.live.pop(address, None)
    if block is not None:
        block.freed_at = _lines_of(sys._getframe().f_back)
        _state.freed.append(block)


def live_block(address: int) -> Block | None:
    """The live allocation that holds the address; one that was never told of has no lines."""
    found = _C.allocation_of(address)
    if found is None:
        return None
    start, n_bytes = found
    return _state.live.get(start) or Block(_C.device_of(start), start, n_bytes, None, written_is_known=False)


def freed_block(address: int) -> Block | None:
    """The last freed block that held the address."""
    return next((b for b in reversed(_state.freed) if b.start <= address < b.end), None)


def neighbours(address: int, n: int = 1) -> list[Block]:
    """The nearest live blocks below and above an address that nobody owns."""
    blocks = sorted(_state.live.values(), key=lambda b: b.start)
    below = [b for b in blocks if b.end <= address][-n:]
    above = [b for b in blocks if b.start > address][:n]
    return [*below, *above]


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _lines_of(frame: FrameType | None) -> Lines:
    """The innermost lines outside torch and openMTIA; where there are none, theirs."""
    inner: list[tuple[str, int, str]] = []
    users: list[tuple[str, int, str]] = []
    torch_folder = os.path.dirname(sys.modules["torch"].__file__ or "") + os.sep
    while frame is not None and len(users) < MOST_FRAMES:
        file = frame.f_code.co_filename
        line = (file, frame.f_lineno, frame.f_code.co_name)
        if file.startswith((_OURS, torch_folder, "<")):
            inner.append(line)
        else:
            users.append(line)
        frame = frame.f_back
    return tuple(users or inner[:MOST_FRAMES])


__all__ = ["Block", "allocated", "follow_knob", "freed", "freed_block", "is_watching", "live_block", "neighbours"]
