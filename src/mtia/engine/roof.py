"""The analytical roof of a launch: the most loaded unit, were everything else free and perfectly overlapped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtia.chips.spec import ChipSpec
from mtia.engine.memory import Residency
from mtia.engine.schedule import UNITS, Schedule, compile_schedule
from mtia.engine.trace import Access, Trace
from mtia.units import FS_PER_S


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a launch touches through one kernel parameter: address range and distinct bytes, by direction."""

    parameter: int
    lo: int
    hi: int
    read_bytes: int
    written_bytes: int

    @property
    def n_bytes(self) -> int:
        return min(self.hi - self.lo, self.read_bytes + self.written_bytes)


def footprints(trace: Trace, accesses: list[Access]) -> tuple[Footprint, ...]:
    """One per parameter (accesses of unknown origin: one per command), in order of first use."""
    groups: dict[tuple[int, int], list[Access]] = {}
    for access in accesses:
        key = (access.parameter, -1 if access.parameter >= 0 else access.command)
        groups.setdefault(key, []).append(access)
    found = (_footprint(group) for group in groups.values())
    return tuple(f for f in found if f is not None)


def footprints_of(trace: Trace) -> tuple[Footprint, ...]:
    """Those of all accesses, worked out once per trace: timing and what it leaves in SRAM both ask."""
    if trace.footprints is None:
        trace.footprints = footprints(trace, [step.access for step in trace.steps if step.access is not None])
    return trace.footprints  # type: ignore[return-value]


def _footprint(group: list[Access]) -> Footprint | None:
    used = [a for a in group if np.any(np.asarray(a.n_bytes) > 0)]
    if not used:
        return None
    lo = min(int(np.min(a.base)) for a in used)
    hi = max(int(np.max(a.end)) for a in used)
    read = _distinct_bytes([a for a in used if not a.write])
    written = _distinct_bytes([a for a in used if a.write])
    return Footprint(used[0].parameter, lo, hi, min(read, hi - lo), min(written, hi - lo))


def _distinct_bytes(accesses: list[Access]) -> int:
    """Bytes of the blocks with different first addresses (of equal ones, the first counts)."""
    indexed = max((a.unique_bytes for a in accesses if a.indexed), default=0)
    blocks = [a for a in accesses if not a.indexed]
    if not blocks:
        return indexed
    if len(blocks) == 1:
        return indexed + _distinct_in_one(blocks[0])
    pairs = [np.broadcast_arrays(np.atleast_1d(a.base), np.atleast_1d(a.n_bytes)) for a in blocks]
    base = np.concatenate([b for b, _ in pairs])
    n_bytes = np.concatenate([n for _, n in pairs])
    return indexed + _distinct(base, n_bytes)


def _distinct_in_one(access: Access) -> int:
    if isinstance(access.base, int):
        return int(np.max(access.n_bytes))
    base, n_bytes = np.broadcast_arrays(access.base, np.atleast_1d(access.n_bytes))
    if base.size > 1 and bool(np.all(base[1:] > base[:-1])):
        return int(n_bytes.sum())
    return _distinct(base, n_bytes)


def _distinct(base: np.ndarray, n_bytes: np.ndarray) -> int:
    touched = n_bytes > 0
    _, first = np.unique(base[touched], return_index=True)
    return int(n_bytes[touched][first].sum())


def streamed_once(accesses: list[Access], touched: tuple[Footprint, ...]) -> set[int]:
    """Positions of accesses whose blocks nothing else in the launch touches: no reuse to look for."""
    by_parameter: dict[int, list[int]] = {}
    for i, access in enumerate(accesses):
        by_parameter.setdefault(access.parameter, []).append(i)
    alone = {f.parameter for f in touched if not any(g is not f and g.lo < f.hi and f.lo < g.hi for g in touched)}
    return {
        users[0]
        for parameter, users in by_parameter.items()
        if parameter >= 0 and parameter in alone and len(users) == 1 and _never_repeats(accesses[users[0]])
    }


def _never_repeats(access: Access) -> bool:
    if access.indexed or np.ndim(access.base) == 0 or np.ndim(access.end) == 0:
        return False
    base, end = np.asarray(access.base), np.asarray(access.end)
    return base.size > 1 and bool(np.all(base[1:] >= end[:-1]))


def total_bytes(access: Access, n_programs: int) -> int:
    """Bytes that all program instances ask of one access."""
    if np.ndim(access.n_bytes) == 0:
        return int(access.n_bytes) * n_programs
    return int(np.sum(access.n_bytes))


def unit_cycles(schedule: Schedule, n_programs: int) -> list[float]:
    """Cycles of work by unit (order of UNITS), all program instances together."""
    totals = [0.0] * len(UNITS)
    for node in schedule.nodes:
        n = n_programs if node.active < 0 else int(schedule.active_masks[node.active].sum())
        for u, cycles in enumerate(node.cycles):
            totals[u] += n * cycles
    return totals


def roofline_fs(trace: Trace, spec: ChipSpec, residency: Residency | None = None) -> int:
    """Least time any schedule of this launch could take: the largest of work / rate over the units."""
    schedule = compile_schedule(trace, spec)
    return max(roof_terms_fs(trace, spec, schedule, footprints(trace, schedule.accesses), residency).values())


def roof_terms_fs(
    trace: Trace, spec: ChipSpec, schedule: Schedule, touched: tuple[Footprint, ...], residency: Residency | None
) -> dict[str, int]:
    """By unit, the time its work alone takes. DRAM counts what must be fetched, and what cannot stay in SRAM."""
    n_pes = max(1, min(spec.grid.n_pes, trace.n_programs))
    cycles = unit_cycles(schedule, trace.n_programs)
    terms = {unit.value: cycles[u] / n_pes / spec.clock_hz for u, unit in enumerate(UNITS)}
    joins = spec.noc.reduction_width > 0
    added = [a for a in schedule.accesses if a.atomic and joins]  # may meet on the reduction network
    read = sum(total_bytes(a, trace.n_programs) for a in schedule.accesses if not a.write)
    stored = sum(total_bytes(a, trace.n_programs) for a in schedule.accesses if a.write and not (a.atomic and joins))
    distinct_read = sum(f.read_bytes for f in touched)
    terms["sram"] = (distinct_read + stored + _distinct_bytes(added)) / spec.sram.bytes_per_s
    terms["noc"] = max(read, stored) / n_pes / port_bytes_per_s(spec)
    terms["dram"] = _dram_bytes(spec, touched, residency) / (spec.dram.bytes_per_s * spec.dram.efficiency_frac)
    return {name: int(time_s * FS_PER_S) for name, time_s in terms.items()}


def port_bytes_per_s(spec: ChipSpec) -> float:
    return max(spec.noc.pe_bytes_per_s, 1.0)


def _dram_bytes(spec: ChipSpec, touched: tuple[Footprint, ...], residency: Residency | None) -> float:
    def missing(f: Footprint) -> float:
        return f.read_bytes * (1.0 - (residency.fraction(f.lo, f.hi) if residency is not None else 0.0))

    written_and_read = sum(f.written_bytes for f in touched)
    return sum(missing(f) for f in touched if not f.written_bytes) + max(0, written_and_read - spec.sram.capacity_bytes)


__all__ = ["Footprint", "footprints", "footprints_of", "roof_terms_fs", "roofline_fs", "total_bytes", "unit_cycles"]
