"""The generations side by side: each figure, and its ratio to the generation before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtia.chips.loader import load, names
from mtia.chips.spec import ChipSpec

EIGHT_BIT = ("int8", "fp8", "mx8")
FOUR_BIT = ("mx4", "fp4", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadmapFigure:
    """One line of the roadmap. `unit` is what its number is in; `keys`: the chip figures that it rests on.

    Peaks name no keys: Meta publishes the product of PEs, MACs and clock, also where it does not publish the factors.
    """

    name: str
    title: str
    unit: str
    value: Callable[[ChipSpec], float | None]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`ratio` is to the generation before (None where either lacks the part); `assumed`: it rests on an assumption."""

    value: float | None
    ratio: float | None
    assumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Roadmap:
    """`cells[figure name]` has one Cell per chip, in the order of `chips` (by generation)."""

    chips: tuple[ChipSpec, ...]
    figures: tuple[RoadmapFigure, ...]
    cells: dict[str, tuple[Cell, ...]]


def best_of(dtypes: Sequence[str]) -> Callable[[ChipSpec], float | None]:
    """Peak in the fastest of these number formats, None where the chip has none of them."""
    return lambda spec: max((spec.peak_flop_per_s(d) for d in dtypes), default=0.0) or None


def _at(key: str, unit: str, title: str) -> RoadmapFigure:
    return RoadmapFigure(name=key, title=title, unit=unit, value=lambda spec: spec.get(key), keys=(key,))


FIGURES: tuple[RoadmapFigure, ...] = (
    RoadmapFigure(
        name="pes", title="PEs", unit="", value=lambda s: float(s.grid.n_pes), keys=("grid.rows", "grid.cols")
    ),
    _at("clock_hz", "Hz", "clock"),
    RoadmapFigure(name="bf16_flop_per_s", title="BF16 dense", unit="FLOP/s", value=best_of(("bf16",))),
    RoadmapFigure(name="8bit_flop_per_s", title="8-bit dense", unit="op/s", value=best_of(EIGHT_BIT)),
    RoadmapFigure(name="4bit_flop_per_s", title="4-bit dense", unit="op/s", value=best_of(FOUR_BIT)),
    _at("pe.local_memory_bytes", "B", "local memory per PE"),
    _at("sram.capacity_bytes", "B", "shared SRAM"),
    _at("sram.bytes_per_s", "B/s", "SRAM bandwidth"),
    _at("dram.capacity_bytes", "B", "DRAM"),
    _at("dram.bytes_per_s", "B/s", "DRAM bandwidth"),
    _at("host_link.bytes_per_s", "B/s", "host link"),
    _at("scale_up.bytes_per_s", "B/s", "scale-up, one way"),
    _at("scale_up.domain_chips", "", "chips per domain"),
    _at("scale_out.bytes_per_s", "B/s", "scale-out"),
    _at("power.tdp_w", "W", "TDP"),
    RoadmapFigure(
        name="balance", title="BF16 per DRAM byte", unit="FLOP/B",
        value=lambda s: s.peak_flop_per_s("bf16") / s.dram.bytes_per_s, keys=("dram.bytes_per_s",),
    ),
    RoadmapFigure(
        name="bf16_flop_per_j", title="BF16 per joule at TDP", unit="FLOP/J",
        value=lambda s: s.peak_flop_per_s("bf16") / s.power.tdp_w, keys=("power.tdp_w",),
    ),
)  # fmt: skip


def generations() -> tuple[ChipSpec, ...]:
    """The chips with a place on the roadmap, by generation."""
    return tuple(sorted((s for s in map(load, names()) if s.info.generation > 0), key=lambda s: s.info.generation))


def roadmap(chips: Sequence[ChipSpec] = ()) -> Roadmap:
    """The roadmap of `chips` (default: all six generations), each compared with the one before it in the list."""
    line = tuple(chips) or generations()
    return Roadmap(chips=line, figures=FIGURES, cells={f.name: _cells(f, line) for f in FIGURES})


def _cells(figure: RoadmapFigure, chips: Sequence[ChipSpec]) -> tuple[Cell, ...]:
    values = [figure.value(spec) for spec in chips]
    before = [None, *values[:-1]]
    return tuple(
        Cell(value=value, ratio=value / old if value and old else None, assumed=_rests_on_assumption(figure, spec))
        for spec, value, old in zip(chips, values, before, strict=True)
    )


def _rests_on_assumption(figure: RoadmapFigure, spec: ChipSpec) -> bool:
    uncertain = spec.uncertain()
    return any(key in uncertain for key in figure.keys)
