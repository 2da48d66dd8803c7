"""What a run did, per kernel: the rows that tables, pages and traces are drawn from.

`Launch` is one kernel launch as reports see it; `summarize` adds launches up by kernel, `total` over all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

BOUNDS = ("launch", "DRAM", "SRAM", "DPE", "vector", "NoC", "issue", "latency", "host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch. `parts_s`: where the time since the end of the one before went, by name of BOUNDS; sums to it."""

    name: str
    start_s: float
    end_s: float
    parts_s: Mapping[str, float]
    roof_s: float  # least time the chip's peaks allow for these operations and bytes
    flop: float
    dram_bytes: float
    sram_bytes: float
    energy_j: float
    grid: tuple[int, int, int] = (1, 1, 1)
    stream: int = 0
    step: str = ""  # what the program was doing: "prefill", "decode 3"


@dataclass(slots=True, kw_only=True)
class KernelSummary:
    """Launches of one kernel (or all) added up."""

    name: str
    calls: int = 0
    time_s: float = 0.0
    roof_s: float = 0.0
    flop: float = 0.0
    dram_bytes: float = 0.0
    sram_bytes: float = 0.0
    energy_j: float = 0.0
    parts_s: dict[str, float] = field(default_factory=dict)

    def add(self, launch: Launch) -> None:
        self.calls += 1
        self.time_s += sum(launch.parts_s.values())
        self.roof_s += launch.roof_s
        self.flop += launch.flop
        self.dram_bytes += launch.dram_bytes
        self.sram_bytes += launch.sram_bytes
        self.energy_j += launch.energy_j
        for part, time_s in launch.parts_s.items():
            self.parts_s[part] = self.parts_s.get(part, 0.0) + time_s

    @property
    def bound(self) -> str:
        """The part that takes most of the time; "" where nothing ran."""
        return max(self.parts_s, key=lambda part: self.parts_s[part]) if self.time_s > 0 else ""

    @property
    def bound_frac(self) -> float:
        """That part's share of the time."""
        return self.parts_s[self.bound] / self.time_s if self.time_s > 0 else 0.0

    @property
    def roof_frac(self) -> float:
        """Share of the roof that is reached: least possible time over time taken."""
        return self.roof_s / self.time_s if self.time_s > 0 else 0.0

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "bound": self.bound, "roof_frac": self.roof_frac}


def summarize(launches: Iterable[Launch]) -> list[KernelSummary]:
    """One row per kernel name, longest time first (then by name, so that equal times keep an order)."""
    rows: dict[str, KernelSummary] = {}
    for launch in launches:
        rows.setdefault(launch.name, KernelSummary(name=launch.name)).add(launch)
    return sorted(rows.values(), key=lambda row: (-row.time_s, row.name))


def total(launches: Iterable[Launch], name: str = "total") -> KernelSummary:
    """All launches as one row."""
    row = KernelSummary(name=name)
    for launch in launches:
        row.add(launch)
    return row
