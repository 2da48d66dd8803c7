"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from mtia.report.summary import KernelSummary
from mtia.units import format_si, format_time


def kernel_table(rows: Sequence[KernelSummary], everything: KernelSummary, *, title: str, limit: int = 40) -> Table:
    """Per kernel: calls, time, share, bytes, FLOP, energy, what binds it, share of roof."""
    table = Table(title=title, title_justify="left", header_style="bold", row_styles=["", "dim"])
    table.add_column("kernel", overflow="fold", max_width=52)
    for heading in ("calls", "time", "%", "DRAM", "SRAM", "FLOP", "energy", "bound by", "of roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows[:limit]:
        table.add_row(*_cells(row, everything.time_s))
    if len(rows) > limit:
        table.add_row(f"... {len(rows) - limit} more (--json lists all)")
    table.add_section()
    table.add_row(*_cells(everything, everything.time_s), style="bold")
    return table


def _cells(row: KernelSummary, total_s: float) -> list[str]:
    return [
        row.name, f"{row.calls:,}", format_time(row.time_s), f"{100 * row.time_s / total_s:.1f}" if total_s else "",
        format_si(row.dram_bytes, "B"), format_si(row.sram_bytes, "B"), format_si(row.flop, ""),
        format_si(row.energy_j, "J"), f"{row.bound} {100 * row.bound_frac:.0f}%", f"{100 * row.roof_frac:.1f}%",
    ]  # fmt: skip


def fallback_line(fallbacks: Mapping[str, int]) -> str:
    """One line about operators that the host computed."""
    if not fallbacks:
        return "host fallbacks: 0 (every operator ran on the simulated chip)"
    listed = ", ".join(f"{op} x{n}" for op, n in sorted(fallbacks.items(), key=lambda item: -item[1]))
    return f"host fallbacks: {sum(fallbacks.values())}: {listed}"
