"""A chip without calibrated figures: each takes the value pooled over the chips that have been calibrated.

What is pooled is the quantity that chips share (`QUANTITIES`): seconds, a share of the published rate, bytes of cache
a multiply, or the share of the power limit that multiplies at full rate would take. It is the geometric mean over the
like chips whose own file calibrates the figure, without the chip itself, so a chip that was never measured and one
whose measurements are left out are predicted in the same way. Pooled figures are assumptions, their spread the range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import exp, log, sqrt

from mtia.chips.loader import load, names
from mtia.chips.spec import ChipSpec, Figure, Source, SourceKind, leaf_and_entry

Scale = Callable[[ChipSpec, str], float]

FEW_PES = 16  # below: systolic arrays, each as large as tens of SMs
SPREAD = 1.25  # least factor between a pooled value and either end of its range


def _itself(spec: ChipSpec, key: str) -> float:
    return 1.0


def _per_multiply(spec: ChipSpec, key: str) -> float:
    """Multiply-adds a second: a cache is built to feed the engines through tiles of much the same size."""
    return max(spec.peak_flop_per_s(d) for d in ("bf16", "fp16")) / 2


def _per_cycle(spec: ChipSpec, key: str) -> float:
    return spec.clock_hz


def _of_power_limit(spec: ChipSpec, key: str) -> float:
    """Joules of one multiply-add at which full rate alone would take the whole power limit."""
    dtype = key.rpartition(".")[2]
    rate = spec.peak_flop_per_s(dtype) / 2
    return spec.power.tdp_w / rate if rate > 0 else 1e-12


QUANTITIES: tuple[tuple[re.Pattern[str], Scale, str], ...] = (
    (re.compile(r"^sram\.bytes_per_s$"), _per_multiply, "bytes a multiply at full rate"),
    (re.compile(r"^noc\.pe_bytes_per_s$"), _per_cycle, "bytes a cycle"),
    (re.compile(r"^power\.mac_j\."), _of_power_limit, "share of the power limit at full rate"),
    (re.compile(r"_s$"), _itself, "seconds"),
    (re.compile(r""), _itself, "as it is"),
)


def quantity_of(key: str) -> tuple[Scale, str]:
    """What a figure is divided by before it is pooled, and in words what is then pooled."""
    return next((scale, words) for pattern, scale, words in QUANTITIES if pattern.search(key))


def calibrated_keys(spec: ChipSpec, *, own: bool = False) -> list[str]:
    """Keys of calibrated figures; `own`: only those of the chip's own file."""
    calibrated = {k: f.source for k, f in spec.figures.items() if f.source.kind is SourceKind.CALIBRATED}
    return sorted(k for k, source in calibrated.items() if not (own and source.inherited_from))


def pooled(spec: ChipSpec, *, without: Collection[str] = ()) -> ChipSpec:
    """The chip with every calibrated figure replaced; the chip itself and those named in `without` have no say."""
    changes = {key: pooled_figure(spec, key, without=without) for key in calibrated_keys(spec)}
    if not changes:
        return spec
    changed = spec.vary({key: figure.value for key, figure in changes.items()}, name=f"{spec.name} (pooled)")
    return replace(changed, title=f"{spec.title}, pooled figures", figures={**changed.figures, **changes})


def pooled_figure(spec: ChipSpec, key: str, *, without: Collection[str] = ()) -> Figure:
    """The figure from other chips; where no other chip has calibrated it, the middle of its own stated range."""
    scale, words = quantity_of(key)
    source = spec.figures[key].source
    found = {chip.name: float(chip.get(key)) / scale(chip, key) for chip in _calibrated(spec, key, without)}
    if not found:
        low, high = float(source.low or 0.0), float(source.high or 0.0)
        middle = sqrt(low * high) if low > 0 else (low + high) / 2
        why = "no other chip has calibrated it: the middle of the range that calibration was held to"
        return _figure(spec, key, middle, low, high, why)
    value = exp(sum(map(log, found.values())) / len(found)) * scale(spec, key)
    if scale is _of_power_limit:  # far below its limit a chip does not spend more on a multiply than any other
        value = min(value, max(float(load(name).get(key)) for name in found))
    ends = [v * scale(spec, key) for v in found.values()]
    low, high = min(*ends, value / SPREAD), max(*ends, value * SPREAD)
    return _figure(spec, key, value, low, high, f"pooled over {', '.join(sorted(found))}: geometric mean, {words}")


def _calibrated(spec: ChipSpec, key: str, without: Collection[str]) -> list[ChipSpec]:
    """The other chips of the same kind whose own file calibrates the figure."""
    known = (load(name) for name in names() if name not in without and name != spec.name)
    alike = (chip for chip in known if same_kind(spec, chip))
    return [chip for chip in alike if key in calibrated_keys(chip, own=True) and float(chip.get(key)) > 0]


def same_kind(one: ChipSpec, other: ChipSpec) -> bool:
    """Many small PEs, or a few large systolic arrays; on MTIA's roadmap or not."""
    few = [chip.grid.n_pes < FEW_PES for chip in (one, other)]
    ours = [chip.info.generation > 0 for chip in (one, other)]
    return few[0] == few[1] and ours[0] == ours[1]


def _figure(spec: ChipSpec, key: str, value: float, low: float, high: float, why: str) -> Figure:
    leaf, _ = leaf_and_entry(key, spec.name)
    if key.endswith("_frac"):
        value, high = min(value, 1.0), min(high, 1.0)
    if leaf.kind is int:
        value = max(1, round(value))
    low, high = min(low, value), max(high, value)
    return Figure(value=value, source=Source(kind=SourceKind.ASSUMED, text=why, low=low, high=high))


def sources(spec: ChipSpec) -> Mapping[str, str]:
    """Key -> where a pooled figure comes from, for reports."""
    return {k: f.source.text for k, f in spec.figures.items() if f.source.text.startswith("pooled over")}


__all__ = ["calibrated_keys", "pooled", "pooled_figure", "quantity_of", "same_kind", "sources"]
