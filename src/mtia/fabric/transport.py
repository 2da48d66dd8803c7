"""How bytes get from a chip into its neighbour's memory: what a step costs beyond its bytes, and who moves them.

PEs that store to a peer (no message engines) have three ways. *Words* carry a flag beside each word: twice the bytes on
the wire, the least latency. *Lines* carry one flag per 128 bytes and need links that keep a line whole. *Bulk* stores
are followed by a fence and a flag. Message engines (`scale_up.message_engines`) post RDMA writes instead: *puts* into a
mailbox, or announced bulk transfers: a chain of work-queue entries, each waiting for the one before. Reductions run
near memory, as an entry of their own that needs its whole input.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtia.chips.spec import ChipSpec
from mtia.fabric.topology import Fabric, Topology, scale_up_of, topology_of

WORD_WIRE, LINE_WIRE = 2.0, 16 / 15  # bytes on the wire per byte of data: 4 of 8, 120 of 128
LINE_STEP = 1.4  # of a step with words: a line is whole only when its last word is there
WORD_GRAIN_BYTES, LINE_GRAIN_BYTES = 4096, 512  # a PE's least share of a step: 8 bytes for each of its lanes
BULK_CHUNK_BYTES = 2 << 20  # most that one mover passes on in one step
ENGINE_SLICES = 16  # pieces of a bulk step that message engines have under way; a PE waits behind its fence
PASSING_ENTRIES = 3  # RECV, WAIT, SEND: what message engines run to pass a share on; REDUCE makes four
LEAST_PER_PE_BYTES_PER_CYCLE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """Rates in bytes/s of one of `pes` movers. `step_s`: from the last byte stored to the neighbour going on."""

    name: str
    start_s: float  # once per collective
    step_s: float
    wire_ratio: float
    pes: int
    move_bytes_per_s: float
    copy_bytes_per_s: float
    add_bytes_per_s: float
    grain_bytes: int = 0  # a mover's least share of a step; 0: all movers always share
    chunk_bytes: int = 1 << 62  # a mover's most
    slices: int = 1  # pieces of a step that are passed on one by one
    staged: bool = False  # arrivals lie in a staging buffer that the receiver reads
    entry_s: float = 0.0  # a work-queue entry more in a step
    entry_bytes: int = 1 << 62  # most that one entry carries to one peer

    def movers(self, step_bytes: float) -> float:
        """PEs that take part in a step of so many bytes, in the mean over channels: a fraction keeps time monotone."""
        if not self.grain_bytes:
            return self.pes
        return max(1.0, min(float(self.pes), step_bytes / self.grain_bytes))


def transports_of(spec: ChipSpec, fabric: Fabric, element_bytes: int) -> tuple[Transport, ...]:
    """The ways that this chip has, least latency first."""
    if scale_up_of(spec).message_engines:
        return _by_message_engines(spec, fabric)
    return _by_pes(spec, fabric, element_bytes)


def _by_pes(spec: ChipSpec, fabric: Fabric, element_bytes: int) -> tuple[Transport, ...]:
    up = scale_up_of(spec)
    pes = min(up.message_pes, spec.grid.n_pes)
    copy = up.pe_copy_bytes_per_cycle * spec.clock_hz
    adds = _vector_adds_per_s(spec) * element_bytes
    word = Transport(name="word", start_s=0.0, step_s=fabric.hop_s, wire_ratio=WORD_WIRE, pes=pes,
                     move_bytes_per_s=up.pe_flagged_bytes_per_cycle * spec.clock_hz, copy_bytes_per_s=copy,
                     add_bytes_per_s=adds, grain_bytes=WORD_GRAIN_BYTES, staged=True)  # fmt: skip
    line = Transport(name="line", start_s=0.0, step_s=LINE_STEP * fabric.hop_s, wire_ratio=LINE_WIRE, pes=pes,
                     move_bytes_per_s=up.pe_flagged_bytes_per_cycle * spec.clock_hz, copy_bytes_per_s=copy,
                     add_bytes_per_s=adds, grain_bytes=LINE_GRAIN_BYTES, staged=True)  # fmt: skip
    bulk = Transport(name="bulk", start_s=up.bulk_start_s, step_s=fabric.bulk_hop_s, wire_ratio=1.0, pes=pes,
                     move_bytes_per_s=up.pe_bulk_bytes_per_cycle * spec.clock_hz, copy_bytes_per_s=copy,
                     add_bytes_per_s=adds, chunk_bytes=BULK_CHUNK_BYTES)  # fmt: skip
    return (word, bulk) if topology_of(spec) is Topology.HOST else (word, line, bulk)


def _vector_adds_per_s(spec: ChipSpec) -> float:
    """Elements that one PE adds a second, in any dtype: its vector cores in 32-bit lanes."""
    cores = spec.pe.cores
    return max(1, cores.vector_cores * cores.vector_bytes_per_cycle // 4) * spec.clock_hz


def _by_message_engines(spec: ChipSpec, fabric: Fabric) -> tuple[Transport, ...]:
    """The network interfaces move the bytes; the engines only copy and add near memory."""
    up = scale_up_of(spec)
    entry = up.message_entry_s + fabric.hop_s
    near = (up.message_engine_bytes_per_cycle or LEAST_PER_PE_BYTES_PER_CYCLE) * spec.clock_hz
    wire = up.bytes_per_s  # the interfaces take whatever the links carry
    put = Transport(name="put", start_s=0.0, step_s=fabric.hop_s, wire_ratio=1.0, pes=up.message_engines,
                    move_bytes_per_s=wire, copy_bytes_per_s=near, add_bytes_per_s=near, staged=True,
                    entry_s=up.message_entry_s, entry_bytes=up.mailbox_bytes)  # fmt: skip
    bulk = Transport(name="bulk", start_s=up.bulk_start_s, step_s=PASSING_ENTRIES * entry, wire_ratio=1.0,
                     pes=up.message_engines, move_bytes_per_s=wire, copy_bytes_per_s=near, add_bytes_per_s=near,
                     slices=ENGINE_SLICES, entry_s=entry)  # fmt: skip
    return put, bulk


__all__ = ["Transport", "transports_of"]
