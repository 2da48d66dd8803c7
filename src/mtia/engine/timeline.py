"""What a launch took: KernelTiming, and the Timeline of what each engine did when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from mtia.program.commands import Unit
from mtia.units import format_rate, format_time, fs_to_s

PARTS = ("dpe", "vector", "mlu", "sram", "dram", "noc", "core", "latency")


@dataclass(frozen=True, slots=True)
class Span:
    """Engine `unit` of PE `pe` ran command `command` of program instance `program`. A DMA's span is its transfer."""

    unit: Unit
    pe: int
    name: str
    command: int
    program: int
    start_fs: int
    end_fs: int

    @property
    def duration_fs(self) -> int:
        return self.end_fs - self.start_fs


class Timeline:
    """Spans in the order they were decided, made when first read. `complete`: every PE and instance is there."""

    def __init__(self, spans: Iterable[Span] | Callable[[], Iterable[Span]] = (), *, complete: bool = True) -> None:
        self._source = spans
        self.complete = complete

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        return tuple(self._source() if callable(self._source) else self._source)

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Timeline) and self.spans == other.spans and self.complete == other.complete

    __hash__ = None  # type: ignore[assignment]

    def spans_of(self, unit: Unit, pe: int | None = None) -> list[Span]:
        return [s for s in self.spans if s.unit is unit and (pe is None or s.pe == pe)]

    @property
    def units(self) -> list[Unit]:
        return sorted({s.unit for s in self.spans}, key=list(Unit).index)

    def to_chrome_trace(self) -> dict:
        """The Trace Event Format that chrome://tracing and Perfetto read; times in microseconds."""
        order = list(Unit)
        events: list[dict] = [
            {"ph": "M", "name": "thread_name", "pid": pe, "tid": order.index(unit), "args": {"name": unit.value}}
            for pe, unit in sorted({(s.pe, s.unit) for s in self.spans})
        ]
        events += [
            {"ph": "M", "name": "process_name", "pid": pe, "args": {"name": f"PE {pe}"}}
            for pe in sorted({s.pe for s in self.spans})
        ]
        events += [
            {
                "ph": "X",
                "name": s.name,
                "cat": s.unit.value,
                "pid": s.pe,
                "tid": order.index(s.unit),
                "ts": s.start_fs / 1e9,
                "dur": s.duration_fs / 1e9,
                "args": {"command": s.command, "program": s.program},
            }
            for s in self.spans
        ]
        return {"traceEvents": events, "displayTimeUnit": "ns"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTiming:
    """One launch on the grid, from the first PE's start to the last byte stored; the launch path is not in it.

    `busy_fs` by engine is the mean over all PEs; "sram", "dram", "noc" are the shared servers. `critical_fs` splits the
    makespan by what the last-finishing PE was doing or waiting for. `throttle_frac` below 1: the chip slowed to stay
    within its TDP (times include it, spans do not).
    """

    name: str
    n_programs: int
    makespan_fs: int
    roof_fs: int
    busy_fs: Mapping[str, int]
    critical_fs: Mapping[str, int]
    bound: str
    requested_bytes: int
    dram_read_bytes: int
    dram_write_bytes: int
    sram_bytes: int
    noc_bytes: int
    local_bytes: int
    merged_bytes: int  # multicast reads, joined updates: no SRAM access of their own
    hit_bytes: int  # found in SRAM
    flop: int
    mac: Mapping[str, int]
    vector_ops: int
    energy_j: float
    energy_parts_j: Mapping[str, float]
    throttle_frac: float = 1.0
    assumed: tuple[str, ...] = ()
    timeline: Timeline = field(default_factory=Timeline)
    n_skipped_waves: int = 0

    @property
    def parts_fs(self) -> Mapping[str, int]:
        return self.critical_fs

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.timeline.spans

    @property
    def dram_bytes(self) -> int:
        return self.dram_read_bytes + self.dram_write_bytes

    @property
    def roof_share_frac(self) -> float:
        return self.roof_fs / self.makespan_fs if self.makespan_fs else 1.0

    @property
    def power_w(self) -> float:
        return self.energy_j / fs_to_s(self.makespan_fs) if self.makespan_fs else 0.0

    def to_chrome_trace(self) -> dict:
        return self.timeline.to_chrome_trace()

    def __str__(self) -> str:
        time_s = fs_to_s(self.makespan_fs)
        rate = self.requested_bytes / time_s if time_s else 0.0
        return (
            f"{self.name}: {format_time(time_s)} | {format_rate(rate)} | {self.bound}-bound | "
            f"{100 * self.roof_share_frac:.0f} % of roof"
        )


__all__ = ["PARTS", "KernelTiming", "Span", "Timeline"]
