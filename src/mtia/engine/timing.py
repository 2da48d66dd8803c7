"""Time of one launch: `run_timed(trace, spec, residency)`, a tile-level discrete-event simulation.

The model (facts 2 to 4; the event loop is csrc/timing.cpp, deterministic, ties by PE then issue order):

* Program instance i runs on PE i modulo the number of PEs, PEs numbered row by row, so neighbours share a row. Each PE
  runs its instances in order; they overlap as far as circular buffers let them.
* The core issues commands in order (scalar_issue_cycles, dma_issue_cycles each); each engine runs its commands in
  order, a command starting when it is issued, its engine is free, its operands are there and its buffers have room.
* A DMA read goes over the NoC to SRAM, which is a memory-side LRU cache over DRAM; servers are first come first served,
  transfers cut through. One PE's stream is held to its port and to max_outstanding_bytes per round trip. Dirty blocks
  evicted cost DRAM writes. Reads of a block already under way to a PE of the same row or column merge (multicast; where
  noc.multicast_pes is given, to one of the same cluster of neighbours); so do atomic updates of a block where there is
  a reduction network: one SRAM update for the row or column. Runs shorter than an SRAM line pay for the line, picked
  rows shorter than a DRAM page for the page.
* Long launches of like waves: when three groups of waves took the same time, whole groups are skipped (exactly
  accounted) until the waves or the cache's behaviour change.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from math import ceil

import numpy as np

from mtia.chips.spec import ChipSpec, SourceKind
from mtia.engine.energy import Energy, energy_of
from mtia.engine.memory import Residency
from mtia.engine.native import library
from mtia.engine.roof import (
    Footprint,
    footprints_of,
    roof_terms_fs,
    roofline_fs,
    streamed_once,
    total_bytes,
    unit_cycles,
)
from mtia.engine.schedule import UNIT_INDEX, UNITS, Node, Schedule, compile_schedule, infos_of
from mtia.engine.timeline import PARTS, KernelTiming, Span, Timeline
from mtia.engine.trace import Access, Trace
from mtia.engine.zeros import live_fracs
from mtia.errors import Deadlock
from mtia.program.commands import Unit
from mtia.units import FS_PER_S, fs_to_s

MIN_WAVES_TO_SKIP = 48
TOLERANCE_FRAC = 2e-3  # of the period, between three groups of waves
MAX_SPANS = 20_000
SPAN_PES = 4  # PEs whose spans are kept where a launch has more than MAX_SPANS
BOUND_OF_PART = {"mlu": "vector"}


def run_timed(
    trace: Trace, spec: ChipSpec, residency: Residency | None = None, *, resident: int | None = None
) -> KernelTiming:
    """Time, energy and traffic of one launch. `residency` (what SRAM holds before; default nothing) is only read.

    `resident`: programs that a PE holds at once, each with buffers of its own, the next beginning when one has ended
    and then taking `launch.program_s` to be set up (blocks of a GPU). Default: programs follow each other as far as
    circular buffers let them.
    """
    schedule = compile_schedule(trace, spec)
    touched = footprints_of(trace)
    if not schedule.nodes or trace.n_programs <= 0:
        return _empty(trace)
    call = _Call(trace, spec, schedule, residency, streamed_once(schedule.accesses, touched), resident or 0)
    _check_finished(trace, schedule, call.result)
    return _timing(trace, spec, schedule, touched, residency, call)


def _check_finished(trace: Trace, schedule: Schedule, result: _CResult) -> None:
    """Raises Deadlock where a PE stood still before its last program ended."""
    if result.stuck_pe < 0:
        return
    node = schedule.nodes[min(result.stuck_node, len(schedule.nodes) - 1)]
    at = trace.program.commands[node.first_command]
    wait = f"PE {result.stuck_pe} stands at command {node.first_command} ({at.mnemonic}, {at.location})"
    raise Deadlock(trace.program.name, at_s=fs_to_s(result.makespan_fs), waits=[wait])


def touch_launch(trace: Trace, residency: Residency) -> int:
    """Records in `residency` what the launch leaves in SRAM; returns dirty bytes it pushed out."""
    return residency.touch_together((f.lo, f.hi, f.written_bytes > 0, f.n_bytes) for f in footprints_of(trace))


# --- the C structures -------------------------------------------------------------------------------------------------

_I32, _I64, _F64, _P = ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _CAccess(ctypes.Structure):
    _fields_ = (
        *((n, _P) for n in ("base", "end", "bytes", "runs")),
        *((n, _I32) for n in ("base_step", "end_step", "bytes_step", "runs_step")),
        ("run_bytes", _I64),
        *((n, _I32) for n in ("write", "atomic", "indexed", "use_dma_runs", "once", "unused")),
        ("unique_frac", _F64),
    )


class _CSegment(ctypes.Structure):
    _fields_ = tuple((n, _I64) for n in ("lo", "hi", "bytes", "dirty_bytes"))


class _CLaunch(ctypes.Structure):
    _fields_ = (
        ("n_programs", _I64),
        *(
            (n, _I32)
            for n in ("rows", "cols", "n_nodes", "n_segments", "ring", "max_distance", "can_skip", "multicast")
        ),
        *(
            (n, _P)
            for n in (
                "unit",
                "cost_fs",
                "issue_fs",
                "latency_fs",
                "access",
                "active",
                "dep_offset",
                "dep",
                "wait_offset",
                "wait_node",
                "wait_distance",
                "accesses",
                "active_masks",
                "segments",
                "run_end",
            )
        ),
        *(
            (n, _I64)
            for n in (
                "noc_latency_fs",
                "sram_latency_fs",
                "dram_latency_fs",
                "sram_capacity_bytes",
                "sram_line_bytes",
                "dram_page_bytes",
                "max_outstanding_bytes",
            )
        ),
        *(
            (n, _F64)
            for n in (
                "read_fs_per_byte",
                "write_fs_per_byte",
                "port_fs_per_byte",
                "sram_fs_per_byte",
                "dram_fs_per_byte",
                "d2d_fs_per_byte",
                "run_fs",
                "reduction_fs_per_byte",
                "dram_write_fs_per_byte",
                "tolerance_frac",
            )
        ),
        ("max_spans", _I64),
        ("span_pes", _I32),
        ("resident_programs", _I32),
        ("program_fs", _I64),
        ("dram_gap_bytes", _F64),
    )


class _CResult(ctypes.Structure):
    _fields_ = (
        ("makespan_fs", _I64),
        ("parts_fs", _I64 * len(PARTS)),
        *(
            (n, _I64)
            for n in (
                "sram_bytes",
                "dram_read_bytes",
                "dram_write_bytes",
                "noc_bytes",
                "hit_bytes",
                "merged_bytes",
                "sram_busy_fs",
                "dram_busy_fs",
                "noc_busy_fs",
                "n_spans",
                "n_events",
                "n_skipped_waves",
                "n_simulated_waves",
                "last_pe",
                "stuck_pe",
                "stuck_node",
            )
        ),
        ("port_busy_fs", _F64),
    )


@lru_cache(maxsize=1)
def _time_launch():
    function = library().mtia_time_launch
    function.argtypes, function.restype = [_P, _P, _P], ctypes.c_int
    return function


class _Call:
    """One call of the event loop: fills the structures, keeps what they point to alive, holds the result."""

    def __init__(
        self,
        trace: Trace,
        spec: ChipSpec,
        schedule: Schedule,
        residency: Residency | None,
        once: set[int],
        resident: int,
    ) -> None:
        self.keep: list = []
        self.launch = _CLaunch()
        self.result = _CResult()
        self._program(trace, spec, schedule, once)
        self._machine(spec)
        self.launch.resident_programs = resident
        self.launch.program_fs = round(spec.launch.program_s * FS_PER_S)
        while self.launch.ring < resident + 1:
            self.launch.ring *= 2
        self._resident(residency)
        self._waves(trace, spec, schedule, residency)
        self.spans = self._span_room(trace, spec, schedule)
        _time_launch()(ctypes.addressof(self.launch), ctypes.addressof(self.result), self.spans.ctypes.data)

    def _array(self, values: Sequence | np.ndarray, dtype: type) -> int:
        array = np.ascontiguousarray(values, dtype=dtype)
        self.keep.append(array)
        return array.ctypes.data

    def _program(self, trace: Trace, spec: ChipSpec, schedule: Schedule, once: set[int]) -> None:
        launch, nodes = self.launch, schedule.nodes
        fs_per_cycle = FS_PER_S / spec.clock_hz
        local = spec.pe.local_memory_bytes_per_cycle
        launch.n_programs, launch.n_nodes = trace.n_programs, len(nodes)
        launch.unit = self._array([n.unit for n in nodes], np.int32)
        launch.cost_fs = self._array([ceil(n.cost_cycles(local) * fs_per_cycle) for n in nodes], np.int64)
        launch.issue_fs = self._array([ceil(_issue_cycles(n, trace, spec) * fs_per_cycle) for n in nodes], np.int64)
        launch.latency_fs = self._array([ceil(n.latency_cycles * fs_per_cycle) for n in nodes], np.int64)
        launch.access = self._array([n.access for n in nodes], np.int32)
        launch.active = self._array([n.active for n in nodes], np.int32)
        deps = [sorted(n.deps) for n in nodes]
        waits = [sorted(n.waits) for n in nodes]
        launch.dep_offset, launch.dep = self._offsets(deps), self._array([d for ds in deps for d in ds], np.int32)
        launch.wait_offset = self._offsets(waits)
        launch.wait_node = self._array([w for ws in waits for w, _ in ws], np.int32)
        launch.wait_distance = self._array([d for ws in waits for _, d in ws], np.int32)
        launch.max_distance = max((d for ws in waits for _, d in ws), default=0)
        launch.ring = _ring(launch.max_distance, len(nodes))
        launch.accesses = self._accesses(trace, spec, schedule.accesses, once)
        masks = (_P * max(1, len(schedule.active_masks)))(*(m.ctypes.data for m in schedule.active_masks))
        self.keep.append(masks)
        launch.active_masks = ctypes.addressof(masks)

    def _offsets(self, lists: Sequence[Sequence]) -> int:
        return self._array(np.concatenate([[0], np.cumsum([len(x) for x in lists])]), np.int32)

    def _accesses(self, trace: Trace, spec: ChipSpec, accesses: list[Access], once: set[int]) -> int:
        out = (_CAccess * max(1, len(accesses)))()
        for i, (c_access, access) in enumerate(zip(out, accesses, strict=False)):
            c_access.once = i in once
            for name, value in (
                ("base", access.base),
                ("end", access.end),
                ("bytes", access.n_bytes),
                ("runs", access.runs),
            ):
                array = np.ascontiguousarray(np.atleast_1d(value), dtype=np.int64)
                self.keep.append(array)
                setattr(c_access, name, array.ctypes.data)
                setattr(c_access, f"{name}_step", int(array.size > 1))
            irregular = access.indexed or np.ndim(access.runs) > 0 or access.runs != 1
            c_access.run_bytes = 0 if irregular else max(1, access.row_bytes)
            c_access.write, c_access.atomic, c_access.indexed = access.write, access.atomic, access.indexed
            c_access.use_dma_runs = access.indexed and not spec.pe.dma.indexed
            total = total_bytes(access, trace.n_programs)
            c_access.unique_frac = min(1.0, access.unique_bytes / total) if access.indexed and total else 1.0
        self.keep.append(out)
        return ctypes.addressof(out)

    def _machine(self, spec: ChipSpec) -> None:
        launch = self.launch
        cycle_fs = FS_PER_S / spec.clock_hz
        launch.rows, launch.cols = spec.grid.rows, spec.grid.cols
        launch.multicast = (spec.noc.multicast_pes or 1) if spec.noc.multicast else 0
        launch.noc_latency_fs = round(spec.noc.latency_s * FS_PER_S)
        launch.sram_latency_fs = round(spec.sram.latency_s * FS_PER_S)
        launch.dram_latency_fs = round(spec.dram.latency_s * FS_PER_S)
        launch.sram_capacity_bytes, launch.sram_line_bytes = spec.sram.shared_bytes, spec.sram.line_bytes
        launch.dram_page_bytes, launch.dram_gap_bytes = spec.dram.page_bytes, spec.dram.gap_bytes
        launch.max_outstanding_bytes = spec.pe.dma.max_outstanding_bytes
        launch.read_fs_per_byte = cycle_fs / spec.pe.dma.read_bytes_per_cycle
        launch.write_fs_per_byte = cycle_fs / spec.pe.dma.write_bytes_per_cycle
        launch.port_fs_per_byte = FS_PER_S / spec.noc.pe_bytes_per_s
        launch.sram_fs_per_byte = FS_PER_S / spec.sram.bytes_per_s
        launch.dram_fs_per_byte = FS_PER_S / (spec.dram.bytes_per_s * spec.dram.efficiency_frac)
        launch.dram_write_fs_per_byte = FS_PER_S / (spec.dram.bytes_per_s * write_efficiency(spec))
        launch.d2d_fs_per_byte = _die_to_die_fs_per_byte(spec)
        launch.run_fs = cycle_fs
        launch.reduction_fs_per_byte = cycle_fs / width if (width := spec.noc.reduction_width) else 0.0
        launch.tolerance_frac = TOLERANCE_FRAC

    def _resident(self, residency: Residency | None) -> None:
        segments = residency.segments if residency is not None else []
        out = (_CSegment * max(1, len(segments)))(*((s.lo, s.hi, s.n_bytes, s.dirty_bytes) for s in segments))
        self.keep.append(out)
        self.launch.n_segments, self.launch.segments = len(segments), ctypes.addressof(out)

    def _waves(self, trace: Trace, spec: ChipSpec, schedule: Schedule, residency: Residency | None) -> None:
        n_waves = -(-trace.n_programs // spec.grid.n_pes)
        self.launch.can_skip = n_waves >= MIN_WAVES_TO_SKIP
        if self.launch.can_skip:
            self.launch.run_end = self._array(_run_ends(trace, spec, schedule, residency), np.int32)

    def _span_room(self, trace: Trace, spec: ChipSpec, schedule: Schedule) -> np.ndarray:
        whole = trace.n_programs * len(schedule.nodes) <= MAX_SPANS
        self.launch.max_spans = MAX_SPANS
        self.launch.span_pes = spec.grid.n_pes if whole else SPAN_PES
        return np.empty(min(MAX_SPANS, trace.n_programs * len(schedule.nodes)), dtype=_SPAN)

    def timeline(self, trace: Trace, schedule: Schedule) -> Timeline:
        """Keeps what the spans' names need, not the trace."""
        commands = trace.program.commands
        names = [
            (UNITS[n.unit], _label(commands[n.first_command].mnemonic, n), n.first_command) for n in schedule.nodes
        ]
        raw = self.spans[: self.result.n_spans].copy()
        complete = trace.n_programs * len(schedule.nodes) <= MAX_SPANS
        return Timeline(
            lambda: (_span(names[node], pe, program, start, end) for pe, node, program, start, end in raw.tolist()),
            complete=complete,
        )


_SPAN = np.dtype([("pe", "i4"), ("node", "i4"), ("program", "i8"), ("start_fs", "i8"), ("end_fs", "i8")])


def _span(name: tuple[Unit, str, int], pe: int, program: int, start_fs: int, end_fs: int) -> Span:
    return Span(name[0], pe, name[1], name[2], program, start_fs, end_fs)


def _label(mnemonic: str, node: Node) -> str:
    return mnemonic if node.n_commands == 1 else f"{mnemonic}+{node.n_commands - 1}"


def _issue_cycles(node: Node, trace: Trace, spec: ChipSpec) -> float:
    """Core time to issue a node's commands. A one-element load or store is an instruction of the core's."""
    if node.access < 0:
        return 0 if node.unit == UNIT_INDEX[Unit.CORE] else node.n_commands * spec.pe.cores.scalar_issue_cycles
    command = trace.program.commands[node.first_command]
    return spec.pe.cores.dma_issue_cycles if command.operands[0].type.shape else 1


def write_efficiency(spec: ChipSpec) -> float:
    """Share of DRAM bandwidth that writes reach: turning the bus around costs what reads alone do not pay.

    Never above that of reads, whose addresses, banks and software are theirs too.
    """
    reads = spec.dram.efficiency_frac
    return min(reads, spec.dram.write_efficiency_frac or reads)


def _ring(max_distance: int, n_nodes: int) -> int:
    """Program instances a PE may have begun and not finished: a power of two, more where they are short."""
    least = max_distance + 3
    ring = 4 if n_nodes > 64 else 8
    while ring < least:
        ring *= 2
    return ring


def _die_to_die_fs_per_byte(spec: ChipSpec) -> float:
    """Of a byte that a PE moves, the share that crosses: the chip's own, or that of interleaved addresses."""
    grid = spec.grid
    if grid.chiplets < 2 or not grid.die_to_die_bytes_per_s:
        return 0.0
    crossing = (grid.chiplets - 1) / grid.chiplets if grid.crossing_frac is None else grid.crossing_frac
    return FS_PER_S * crossing / grid.die_to_die_bytes_per_s


def _run_ends(trace: Trace, spec: ChipSpec, schedule: Schedule, residency: Residency | None) -> np.ndarray:
    """Per wave, the last wave of the run of alike waves it is in (sizes, masks, what was resident)."""
    n_pes = spec.grid.n_pes
    n_waves = -(-trace.n_programs // n_pes)
    full = trace.n_programs // n_pes
    changes = np.zeros(n_waves, dtype=bool)  # wave w differs from w - 1
    changes[full:] = True
    for array in _per_program(schedule):
        waves = array[: full * n_pes].reshape(full, n_pes)
        changes[1:full] |= (waves[1:] != waves[:-1]).any(axis=1)
    if residency is not None and residency.segments:
        for access in schedule.accesses:
            if np.ndim(access.base):
                changes[1:full] |= _residency_changes(np.asarray(access.base)[: full * n_pes : n_pes], residency)
    ends = np.arange(n_waves, dtype=np.int32)
    starts = np.flatnonzero(changes)
    for start, end in zip(np.concatenate([[0], starts]), np.concatenate([starts, [n_waves]])):
        ends[start:end] = end - 1
    return ends


def _per_program(schedule: Schedule) -> list[np.ndarray]:
    arrays = [np.asarray(x) for a in schedule.accesses for x in (a.n_bytes, a.runs) if np.ndim(x)]
    return arrays + list(schedule.active_masks)


def _residency_changes(first_base: np.ndarray, residency: Residency) -> np.ndarray:
    """Where a wave's addresses leave or enter a range that was resident before the launch."""
    edges = np.array(sorted(x for s in residency.segments for x in (s.lo, s.hi)))
    place = np.searchsorted(edges, first_base, side="right")
    return place[1:] != place[:-1]


# --- the result -------------------------------------------------------------------------------------------------------


def _timing(
    trace: Trace,
    spec: ChipSpec,
    schedule: Schedule,
    touched: tuple[Footprint, ...],
    residency: Residency | None,
    call: _Call,
) -> KernelTiming:
    result = call.result
    work = _work(trace, spec, schedule)
    requested = sum(total_bytes(a, trace.n_programs) for a in schedule.accesses)
    local_bytes = requested + work.local_bytes
    energy = energy_of(
        spec,
        time_s=fs_to_s(result.makespan_fs),
        mac=work.live_mac,
        vector_ops=work.vector_ops,
        local_bytes=local_bytes,
        noc_bytes=result.noc_bytes,
        sram_bytes=result.sram_bytes,
        dram_bytes=result.dram_read_bytes + result.dram_write_bytes,
    )
    critical = _stretched(dict(zip(PARTS, result.parts_fs, strict=True)), result.makespan_fs, energy)
    makespan = sum(critical.values())
    return KernelTiming(
        name=trace.program.name,
        n_programs=trace.n_programs,
        makespan_fs=makespan,
        roof_fs=max(roof_terms_fs(trace, spec, schedule, touched, residency).values()),
        busy_fs=_busy(trace, spec, schedule, result),
        critical_fs=critical,
        bound=_bound(critical),
        requested_bytes=requested,
        dram_read_bytes=result.dram_read_bytes,
        dram_write_bytes=result.dram_write_bytes,
        sram_bytes=result.sram_bytes,
        noc_bytes=result.noc_bytes,
        local_bytes=local_bytes,
        merged_bytes=result.merged_bytes,
        hit_bytes=result.hit_bytes,
        flop=work.flop,
        mac=work.mac,
        vector_ops=work.vector_ops,
        energy_j=energy.total_j,
        energy_parts_j=energy.parts_j,
        throttle_frac=energy.throttle_frac,
        assumed=_assumed(spec, schedule),
        timeline=call.timeline(trace, schedule),
        n_skipped_waves=result.n_skipped_waves,
    )


class _Work:
    """Sums over all executions of all commands."""

    def __init__(self) -> None:
        self.mac: dict[str, int] = {}
        self.live_mac: dict[str, float] = {}
        self.flop = self.vector_ops = self.local_bytes = 0


def _work(trace: Trace, spec: ChipSpec, schedule: Schedule) -> _Work:
    infos = infos_of(trace.program, spec)
    live = live_fracs(trace, schedule, infos)
    out = _Work()
    for command, n in schedule.n_executions.items():
        cost = infos[command].cost
        assert cost is not None
        out.flop += n * cost.flop
        out.vector_ops += n * cost.vector_ops
        out.local_bytes += n * cost.local_bytes
        if cost.mac:
            out.mac[cost.dtype] = out.mac.get(cost.dtype, 0) + n * cost.mac
            not_zero = n * cost.live_mac * live.get(command, 1.0)
            out.live_mac[cost.dtype] = out.live_mac.get(cost.dtype, 0.0) + not_zero
    for node in schedule.nodes:
        out.local_bytes += trace.n_programs * sum(node.local.values())
    return out


def _stretched(critical: dict[str, int], makespan_fs: int, energy: Energy) -> dict[str, int]:
    """The critical path with every part longer by the same factor where the chip slows to its TDP."""
    if energy.throttle_frac >= 1.0:
        return critical
    return {part: round(time_fs / energy.throttle_frac) for part, time_fs in critical.items()}


def _bound(critical: dict[str, int]) -> str:
    by_bound: dict[str, int] = {}
    for part, time_fs in critical.items():
        name = BOUND_OF_PART.get(part, part)
        by_bound[name] = by_bound.get(name, 0) + time_fs
    return max(by_bound, key=lambda name: by_bound[name])


def _busy(trace: Trace, spec: ChipSpec, schedule: Schedule, result: _CResult) -> dict[str, int]:
    cycle_fs = FS_PER_S / spec.clock_hz
    cycles = unit_cycles(schedule, trace.n_programs)
    busy = {unit.value: round(cycles[u] * cycle_fs / spec.grid.n_pes) for u, unit in enumerate(UNITS[:5])}
    return busy | {
        "sram": result.sram_busy_fs,
        "dram": result.dram_busy_fs,
        "noc": round(max(result.port_busy_fs / spec.grid.n_pes, result.noc_busy_fs)),
    }


_ALWAYS = ("clock_hz", "grid.", "pe.cores.", "pe.dma.", "noc.", "sram.", "power.")
_BY_UNIT = {Unit.DPE: "pe.dpe.", Unit.SFU: "pe.sfu.", Unit.VECTOR: "pe.sfu.", Unit.MLU: "pe.mlu_bytes_per_cycle"}


def _assumed(spec: ChipSpec, schedule: Schedule) -> tuple[str, ...]:
    """Assumed figures that this timing read, by key."""
    units = {UNITS[u] for n in schedule.nodes for u in range(5) if n.cycles[u] > 0}
    prefixes = (
        *_ALWAYS,
        "dram.",
        "pe.local_memory_bytes_per_cycle",
        *(prefix for unit, prefix in _BY_UNIT.items() if unit in units),
    )
    return tuple(key for key in _assumed_keys(spec) if key.startswith(prefixes))


def _assumed_keys(spec: ChipSpec) -> list[str]:
    return sorted(key for key, figure in spec.figures.items() if figure.source.kind is SourceKind.ASSUMED)


def _empty(trace: Trace) -> KernelTiming:
    """A launch of nothing takes no time."""
    return KernelTiming(
        name=trace.program.name,
        n_programs=trace.n_programs,
        makespan_fs=0,
        roof_fs=0,
        busy_fs={},
        critical_fs=dict.fromkeys(PARTS, 0),
        bound="latency",
        requested_bytes=0,
        dram_read_bytes=0,
        dram_write_bytes=0,
        sram_bytes=0,
        noc_bytes=0,
        local_bytes=0,
        merged_bytes=0,
        hit_bytes=0,
        flop=0,
        mac={},
        vector_ops=0,
        energy_j=0.0,
        energy_parts_j={},
    )


__all__ = ["roofline_fs", "run_timed", "touch_launch"]
