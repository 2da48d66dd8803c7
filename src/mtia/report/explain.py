"""Where a kernel's time goes: its program, what each engine of a PE did when, and what the launch waited for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtia import knobs
from mtia.chips.spec import ChipSpec
from mtia.engine.functional import executor
from mtia.engine.timeline import KernelTiming
from mtia.engine.timeline import Span as EngineSpan
from mtia.host_runtime import record, silicon
from mtia.host_runtime.record import Kind, Span
from mtia.program.program import TileProgram
from mtia.units import format_rate, format_si, format_time, fs_to_s

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "fp32": torch.float32,
    "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
SHADES = " ░▒▓█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One kernel of a run: a launch of it (the longest), and how often it ran."""

    span: Span
    n_calls: int
    total_s: float
    spec: ChipSpec

    @property
    def timing(self) -> KernelTiming:
        return self.span.work.timing

    @property
    def program(self) -> TileProgram:
        return self.span.work.program

    def to_json(self) -> dict[str, Any]:
        t = self.timing
        return {
            "kernel": self.span.name, "chip": self.spec.name, "calls": self.n_calls, "total_s": self.total_s,
            "time_s": fs_to_s(t.makespan_fs), "roof_s": fs_to_s(t.roof_fs), "bound": t.bound,
            "critical_s": {k: fs_to_s(v) for k, v in t.critical_fs.items()},
            "busy_s": {k: fs_to_s(v) for k, v in t.busy_fs.items()}, "flop": t.flop, "dram_bytes": t.dram_bytes,
            "sram_bytes": t.sram_bytes, "requested_bytes": t.requested_bytes, "merged_bytes": t.merged_bytes,
            "hit_bytes": t.hit_bytes, "energy_j": t.energy_j, "energy_parts_j": dict(t.energy_parts_j),
            "assumed": list(t.assumed), "program": str(self.program),
        }  # fmt: skip


def builtin(what: str, sizes: Mapping[str, int], dtype: str, chip: str) -> list[Explained]:
    """A built-in case, timed on `chip` with values off: "matmul" (m, n, k), "add" (m, n) or "softmax" (m, n)."""
    with silicon.use(chip or silicon.chip()) as spec, knobs.scope(values=False):
        run = CASES[what](sizes, DTYPES[dtype])
        run()  # picks a tiling, compiles
        with record.session() as log:
            run()
            torch.mtia.synchronize()
    return explained(log.spans, spec)


def _matmul(sizes: Mapping[str, int], dtype: torch.dtype) -> Callable[[], object]:
    a = torch.empty(sizes["m"], sizes["k"], dtype=dtype, device="mtia")
    b = torch.empty(sizes["k"], sizes["n"], dtype=dtype, device="mtia")
    return lambda: torch.mm(a, b)


def _add(sizes: Mapping[str, int], dtype: torch.dtype) -> Callable[[], object]:
    a = torch.empty(sizes["m"], sizes["n"], dtype=dtype, device="mtia")
    return lambda: torch.add(a, a)


def _softmax(sizes: Mapping[str, int], dtype: torch.dtype) -> Callable[[], object]:
    a = torch.empty(sizes["m"], sizes["n"], dtype=dtype, device="mtia")
    return lambda: torch.softmax(a, -1)


CASES: dict[str, Callable[[Mapping[str, int], torch.dtype], Callable[[], object]]] = {
    "matmul": _matmul, "add": _add, "softmax": _softmax,
}  # fmt: skip


def explained(spans: Sequence[Span], spec: ChipSpec) -> list[Explained]:
    """Each kernel once, longest total time first, by its longest launch."""
    groups: dict[str, list[Span]] = {}
    for span in spans:
        if span.kind is Kind.KERNEL and isinstance(span.work.timing, KernelTiming):
            groups.setdefault(span.name, []).append(span)
    found = [
        Explained(span=max(group, key=lambda s: s.duration_fs), n_calls=len(group), spec=spec,
                  total_s=fs_to_s(sum(s.duration_fs for s in group)))
        for group in groups.values()
    ]  # fmt: skip
    return sorted(found, key=lambda e: (-e.total_s, e.span.name))


# --- on the terminal --------------------------------------------------------------------------------------------------


def page(kernel: Explained, *, width: int = 100, program: bool = True) -> Group:
    """Everything about one kernel."""
    parts: list[RenderableType] = [Text(f"{kernel.timing} (on {kernel.spec.name})", style="bold")]
    if program:
        parts += [Text("\nThe program of one instance", style="bold"), Text(str(kernel.program))]
    parts += [Text("\nWhere the time goes", style="bold"), critical_table(kernel)]
    parts.append(Text(f"{busy(kernel)}\n{traffic(kernel)}"))
    parts += [Text("\nThe engines of one PE", style="bold"), Text(gantt(kernel, width))]
    parts += [Text("\nBy command, on that PE", style="bold"), command_table(kernel)]
    reason = executor.why_interpreted(kernel.program)
    if reason is not None:
        parts.append(
            Text(f"\nIts values come from the interpreter, slowly: no native instruction for {reason}", style="dim")
        )
    if kernel.timing.assumed:
        parts.append(Text(f"\nRests on assumed figures: {', '.join(kernel.timing.assumed)}", style="dim"))
    return Group(*parts)


def critical_table(kernel: Explained) -> Table:
    """What the last PE to finish was doing or waiting for."""
    timing, table = kernel.timing, Table(header_style="bold", box=None)
    for heading in ("part", "on the critical path", "share"):
        table.add_column(heading, justify="right")
    for part, time_fs in sorted(timing.critical_fs.items(), key=lambda item: -item[1]):
        if time_fs:
            share = f"{100 * time_fs / max(1, timing.makespan_fs):.1f}%"
            table.add_row(PART_TEXT[part], format_time(fs_to_s(time_fs)), share)
    table.add_row("total", format_time(fs_to_s(timing.makespan_fs)), "100%", style="bold")
    table.add_row("roof", format_time(fs_to_s(timing.roof_fs)), f"{100 * timing.roof_share_frac:.1f}%")
    return table


def busy(kernel: Explained) -> str:
    """How long each unit worked, mean over PEs, longest first."""
    held = sorted(kernel.timing.busy_fs.items(), key=lambda item: -item[1])
    return "busy (mean of PEs): " + ", ".join(f"{unit} {format_time(fs_to_s(t))}" for unit, t in held if t)


PART_TEXT = {
    "dpe": "dot product engine", "vector": "vector and special functions", "mlu": "memory layout unit",
    "sram": "SRAM rate", "dram": "DRAM rate", "noc": "NoC and DMA rate", "core": "command issue",
    "latency": "memory latency",
}  # fmt: skip


def traffic(kernel: Explained) -> str:
    """Bytes, operations and energy in two lines."""
    t = kernel.timing
    time_s = max(fs_to_s(t.makespan_fs), 1e-15)
    return (
        f"asked for {format_si(t.requested_bytes, 'B')}; {format_si(t.merged_bytes, 'B')} came by multicast, "
        f"{format_si(t.hit_bytes, 'B')} were found in SRAM, DRAM moved {format_si(t.dram_bytes, 'B')} "
        f"({format_rate(t.dram_bytes / time_s)})\n"
        f"{format_si(t.flop, 'FLOP')} on matrices ({format_si(t.flop / time_s, 'FLOP/s')}), "
        f"{format_si(t.vector_ops, '')} vector operations, {t.n_programs:,} instances on "
        f"{kernel.spec.grid.n_pes} PEs, {format_si(t.energy_j, 'J')} ({t.power_w:.0f} W)"
    )


def gantt(kernel: Explained, width: int = 100) -> str:
    """One line per engine of the PE with most spans; a column's shade is its busy share."""
    spans = _one_pe(kernel.timing.spans)
    if not spans:
        return "(no spans: nothing ran on a PE)"
    end_fs = max(kernel.timing.makespan_fs, max(s.end_fs for s in spans))
    units = sorted({s.unit for s in spans}, key=lambda unit: unit.value)
    label = max(len(u.value) for u in units)
    lines = [f"{u.value:>{label}} │{_shaded([s for s in spans if s.unit is u], end_fs, width)}│" for u in units]
    scale = f"{'':>{label}}  0{format_time(fs_to_s(end_fs)):>{width - 1}}"
    return "\n".join([f"PE {spans[0].pe}", *lines, scale])


def _one_pe(spans: Sequence[EngineSpan]) -> list[EngineSpan]:
    counts: dict[int, int] = {}
    for span in spans:
        counts[span.pe] = counts.get(span.pe, 0) + 1
    chosen = min(counts, key=lambda pe: (-counts[pe], pe), default=0)
    return [s for s in spans if s.pe == chosen]


def _shaded(spans: Sequence[EngineSpan], end_fs: int, width: int) -> str:
    busy = [0.0] * width
    for span in spans:
        first, last = span.start_fs * width / end_fs, span.end_fs * width / end_fs
        for column in range(int(first), min(width, int(last) + 1)):
            busy[column] += max(0.0, min(last, column + 1) - max(first, column))
    return "".join(SHADES[0 if b <= 0 else min(4, 1 + int(b * 3.999))] for b in busy)


def command_table(kernel: Explained) -> Table:
    """Time of each command on one PE (commands overlap, so the column does not add up to the makespan)."""
    table = Table(header_style="bold", box=None)
    for heading in ("command", "engine", "runs", "time", "source"):
        table.add_column(heading, justify="left" if heading in ("command", "source") else "right")
    groups: dict[int, list[EngineSpan]] = {}
    for span in _one_pe(kernel.timing.spans):
        groups.setdefault(span.command, []).append(span)
    for at, group in sorted(groups.items(), key=lambda item: -sum(s.duration_fs for s in item[1])):
        time_s = fs_to_s(sum(s.duration_fs for s in group))
        first = group[0]
        table.add_row(f"{at} {first.name}", first.unit.value, str(len(group)), format_time(time_s), _line(kernel, at))
    return table


def _line(kernel: Explained, command: int) -> str:
    location = kernel.program.commands[command].location if command < len(kernel.program.commands) else None
    return f"{location.file.rsplit('/', 1)[-1]}:{location.line}" if location is not None and location.file else ""
