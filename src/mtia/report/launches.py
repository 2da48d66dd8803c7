"""From the runtime's log to what reports read: each span with where its time went, the gap before it included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mtia.chips.spec import ChipSpec
from mtia.engine.timeline import KernelTiming
from mtia.host_runtime import record
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Kind, Span
from mtia.report.summary import Launch
from mtia.units import fs_to_s

PART_NAMES = {
    "dpe": "DPE", "vector": "vector", "mlu": "vector", "sram": "SRAM", "dram": "DRAM", "noc": "NoC", "core": "issue",
    "latency": "latency",
}  # fmt: skip


@dataclass(slots=True)
class Recorder:
    """Collects the launches of one run, step by step. `spec`: the chip that runs."""

    spec: ChipSpec
    launches: list[Launch] = field(default_factory=list)
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> simulated start and end, s

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Launches in the block belong to step `name`; the step ends when the device is done."""
        begin_fs = clock().now_fs
        clock().advance_host(begin_fs - clock().host_fs)  # a step starts with an idle device and a host that knows
        with record.session() as log:
            yield
        self.launches += from_spans(log.spans, self.spec, begin_fs, name)
        self.steps[name] = fs_to_s(begin_fs), fs_to_s(max(begin_fs, clock().now_fs))

    def time_s(self, name: str) -> float:
        start_s, end_s = self.steps[name]
        return end_s - start_s

    def of_step(self, name: str) -> list[Launch]:
        return [launch for launch in self.launches if launch.step == name]


def from_spans(spans: Sequence[Span], spec: ChipSpec, begin_fs: int, step: str = "") -> list[Launch]:
    """Spans in start order; idle time since the one before (or `begin_fs`) counts as launch, at idle power."""
    launches, free_fs = [], begin_fs
    for span in sorted(spans, key=lambda s: (s.start_fs, s.end_fs)):
        gap_s = fs_to_s(max(0, span.start_fs - free_fs))
        launches.append(_launch(span, gap_s, spec, step))
        free_fs = max(free_fs, span.end_fs)
    return launches


def _launch(span: Span, gap_s: float, spec: ChipSpec, step: str) -> Launch:
    timing = span.work.timing
    parts = _PARTS[span.kind](span)
    parts["launch"] = parts.get("launch", 0.0) + gap_s
    known = isinstance(timing, KernelTiming)
    return Launch(
        name=span.name, start_s=fs_to_s(span.start_fs), end_s=fs_to_s(span.end_fs), parts_s=parts, stream=span.stream,
        roof_s=fs_to_s(timing.roof_fs) if known else 0.0, flop=span.work.n_flop, step=step,
        dram_bytes=timing.dram_bytes if known else 0, sram_bytes=timing.sram_bytes if known else 0,
        energy_j=span.work.energy_j + gap_s * spec.power.idle_w,
    )  # fmt: skip


def _kernel_parts(span: Span) -> dict[str, float]:
    timing = span.work.timing
    return kernel_parts(timing) if isinstance(timing, KernelTiming) else {"launch": fs_to_s(span.duration_fs)}


def kernel_parts(timing: KernelTiming) -> dict[str, float]:
    """Where a kernel's time goes, by the names of summary.BOUNDS, in seconds."""
    return _renamed({part: fs_to_s(time_fs) for part, time_fs in timing.parts_fs.items() if time_fs})


def _renamed(parts: Mapping[str, float]) -> dict[str, float]:
    out: dict[str, float] = {}
    for part, time_s in parts.items():
        name = PART_NAMES[part]
        out[name] = out.get(name, 0.0) + time_s
    return out


_PARTS: dict[Kind, Callable[[Span], dict[str, float]]] = {
    Kind.KERNEL: _kernel_parts,
    Kind.COPY: lambda span: {"host": fs_to_s(span.duration_fs)},
    Kind.HOST: lambda span: {"host": fs_to_s(span.duration_fs)},
}
