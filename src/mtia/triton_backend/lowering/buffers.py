"""Gives each tile that crosses between memory and the PE a circular buffer.

A loaded tile is filled by the DMA engine and read by the engines that consume it; a stored tile is filled by an engine
and drained by the DMA engine. Buffers in a loop get `num_stages` slots so that the DMA runs ahead; outside loops two,
so that the next program instance's loads overlap this one. Tiles of one element stay with the scalar core.
"""

from __future__ import annotations

from mtia.program import commands as c
from mtia.program.program import CircularBuffer
from mtia.program.types import TileType


def assign_buffers(body: c.Block, num_stages: int) -> tuple[CircularBuffer, ...]:
    """One buffer per load and per store of a tile, in program order."""
    buffers: list[CircularBuffer] = []
    _collect(body, max(2, num_stages), buffers)
    return tuple(buffers)


def _collect(block: c.Block, slots: int, buffers: list[CircularBuffer]) -> None:
    for command in block.commands:
        tile = _buffered_tile(command)
        if tile is not None:
            value_id, type_ = tile
            buffers.append(
                CircularBuffer(id=len(buffers), value_id=value_id, command=command.index, tile=type_, slots=slots)
            )
        for inner in command.blocks:
            _collect(inner, slots, buffers)


def _buffered_tile(command: c.Command) -> tuple[int, TileType] | None:
    if isinstance(command, c.Load) and command.result.type.shape:
        return command.result.id, command.result.type
    if isinstance(command, c.Store | c.AtomicRmw) and command.operands[1].type.shape:
        return command.operands[1].id, command.operands[1].type
    return None
