"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from mtia.report.summary import KernelSummary
from mtia.units import format_si, format_time


def kernel_table(rows: Sequence[KernelSummary], everything: KernelSummary, *, title: str, limit: int = 40) -> Table:
    """Per kernel: calls, time (with the gap before it), DRAM bytes, FLOP, energy, what binds it, share of roof."""
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("kernel", overflow="fold", min_width=15, max_width=60)
    for heading in ("calls", "time", "DRAM", "FLOP", "energy", "bound by", "roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows[:limit]:
        table.add_row(*_cells(row))
    if len(rows) > limit:
        table.add_row(f"... {len(rows) - limit} more (--json lists all)")
    table.add_section()
    table.add_row(*_cells(everything), style="bold")
    return table


def _cells(row: KernelSummary) -> list[str]:
    return [
        row.name, f"{row.calls:,}", format_time(row.time_s),
        format_si(row.dram_bytes, "B"), format_si(row.flop, ""),
        format_si(row.energy_j, "J"), f"{row.bound} {100 * row.bound_frac:.0f}%", f"{100 * row.roof_frac:.0f}%",
    ]  # fmt: skip


def fallback_line(fallbacks: Mapping[str, int]) -> str:
    """One line about operators that the host computed."""
    if not fallbacks:
        return "host fallbacks: 0 (every operator ran on the simulated chip)"
    listed = ", ".join(f"{op} x{n}" for op, n in sorted(fallbacks.items(), key=lambda item: -item[1]))
    return f"host fallbacks: {sum(fallbacks.values())}: {listed}"
