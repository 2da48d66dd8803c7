"""What it costs to go beyond a limit of the chip (`MTIA_STRICT=0`): the work a compiler would put in its place.

The work is on top of the kernel's own, one engine at a time: an upper estimate, since part of it could hide behind
other engines. Rates are the chip's; there is no constant of our own.

    copy     a tile without a circular buffer is copied out of a shared staging buffer by the memory layout unit
    spill    bytes that local memory has no room for go out to shared memory over the PE's port, and come back
    convert  elements of a type the dot product engine lacks are converted on the vector or special function engine
    shift    a misaligned row is fetched with the aligned bytes around it, and moved into place by the layout unit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil

from mtia.chips.spec import ChipSpec
from mtia.engine.cycles import engine_of
from mtia.engine.timeline import KernelTiming
from mtia.engine.trace import Trace
from mtia.program.fit import Excess
from mtia.program.types import Element
from mtia.units import s_to_fs


def _copy_s(excess: Excess, spec: ChipSpec) -> float:
    return excess.amount / spec.pe.mlu_bytes_per_cycle / spec.clock_hz


def _spill_s(excess: Excess, spec: ChipSpec) -> float:
    return 2 * excess.amount / spec.noc.pe_bytes_per_s


def _convert_s(excess: Excess, spec: ChipSpec) -> float:
    _, rate = engine_of(Element.F32, spec, table=False)
    return (spec.pe.sfu.startup_cycles + excess.amount / rate) / spec.clock_hz


def _shift_s(excess: Excess, spec: ChipSpec) -> float:
    extra_bytes = excess.rows * spec.pe.dma.alignment_bytes
    return extra_bytes / spec.noc.pe_bytes_per_s + _copy_s(excess, spec)


_SECONDS: Mapping[str, Callable[[Excess, ChipSpec], float]] = {
    "copy": _copy_s, "spill": _spill_s, "convert": _convert_s, "shift": _shift_s,
}  # fmt: skip
PARTS = {"copy": "mlu", "spill": "noc", "convert": "vector", "shift": "mlu"}  # of KernelTiming.critical_fs


def software_fs(excess: Excess, trace: Trace, spec: ChipSpec) -> int:
    """Femtoseconds on the busiest PE: each execution of the command pays."""
    once_s = _SECONDS[excess.kind](excess, spec)
    executed = 0
    for step in trace.steps:
        if step.command == excess.command:
            active = trace.n_programs if step.active is None else int(step.active.sum())
            executed += ceil(active / spec.grid.n_pes)
    return s_to_fs(once_s * executed)


def with_software_path(
    timing: KernelTiming, excesses: Sequence[Excess], trace: Trace, spec: ChipSpec
) -> tuple[KernelTiming, list[int]]:
    """The timing with what each excess costs added, and those costs (fs)."""
    costs = [software_fs(e, trace, spec) for e in excesses]
    critical = dict(timing.critical_fs)
    for excess, cost in zip(excesses, costs, strict=True):
        critical[PARTS[excess.kind]] = critical.get(PARTS[excess.kind], 0) + cost
    return replace(timing, makespan_fs=timing.makespan_fs + sum(costs), critical_fs=critical), costs


__all__ = ["PARTS", "software_fs", "with_software_path"]
