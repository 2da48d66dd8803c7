"""TileProgram: the narrow waist. One kernel, as the commands one program instance gives to its PE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import TypeVar

from mtia.program.commands import Block, Command
from mtia.program.types import Location, TileType, Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A kernel argument at run time. `divisibility` is what the launch guarantees of an address or integer."""

    value: Value
    divisibility: int = 1


@dataclass(frozen=True, kw_only=True)
class CircularBuffer:
    """A FIFO in local memory between a producer and its consumers.

    `value_id` is the tile that lives in it: the result of a Load, or the data operand of a Store or atomic.
    `slots`: tiles it holds, so a producer may run `slots` tiles ahead.  Two values whose lifetimes never meet may share
    one buffer (`shared_with` names the first).
    """

    id: int
    value_id: int
    command: int  # index of the Load / Store that fills or drains it
    tile: TileType
    slots: int

    @property
    def n_bytes(self) -> int:
        return self.tile.n_bytes * self.slots


@dataclass(frozen=True, kw_only=True)
class TileProgram:
    """A kernel. Immutable; prints as text (`str(program)`), verifies with `mtia.program.verify.verify(program)`."""

    name: str
    parameters: tuple[Parameter, ...]
    body: Block
    buffers: tuple[CircularBuffer, ...]
    num_stages: int = 2
    location: Location = field(default_factory=Location)

    def walk(self) -> Iterator[Command]:
        """All commands in program order, regions included."""
        yield from _walk(self.body)

    def with_buffers(self, buffers: tuple[CircularBuffer, ...]) -> TileProgram:
        """The same commands; what was found of them (`once_a_program`) stays true."""
        out = replace(self, buffers=buffers)
        out.__dict__["_found"] = dict(self.__dict__.get("_found", {}))
        return out

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: not what was found of it."""
        return {name: value for name, value in self.__dict__.items() if name != "_found"}

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        """Commands by index (`commands[i].index == i`)."""
        return tuple(self.walk())

    @cached_property
    def buffer_of(self) -> dict[int, CircularBuffer]:
        """Circular buffer by the index of the command that fills or drains it."""
        return {b.command: b for b in self.buffers}

    @property
    def buffer_bytes(self) -> int:
        """Local memory that the circular buffers need."""
        largest: dict[int, int] = {}
        for b in self.buffers:
            largest[b.id] = max(largest.get(b.id, 0), b.n_bytes)
        return sum(largest.values())

    def __str__(self) -> str:
        from mtia.program.printer import format_program

        return format_program(self)


def once_a_program(find: Callable[[TileProgram], T]) -> Callable[[TileProgram], T]:
    """What `find` says of a program's commands, found at the first call and kept on the program."""

    @wraps(find)
    def found(program: TileProgram) -> T:
        held = program.__dict__.get("_found")
        if held is None:
            held = program.__dict__["_found"] = {}
        if find not in held:
            held[find] = find(program)
        return held[find]

    return found


def _walk(block: Block) -> Iterator[Command]:
    for command in block.commands:
        yield command
        for inner in command.blocks:
            yield from _walk(inner)


__all__ = ["CircularBuffer", "Parameter", "TileProgram", "Value"]
