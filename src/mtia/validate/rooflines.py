"""The competition: what a roofline says of the same rows, as published and with three figures fitted to them.

Spec roofline: max(flop / peak, bytes / bandwidth), from published peaks. Calibrated roofline: floor + max(flop /
(a peak), bytes / (b bandwidth)), the three fitted to the very rows that it is then judged on (least mean |ln|), per
chip, operator and number format: as good as a roofline can look. Groups of fewer than `LEAST_ROWS` have none: three
figures fitted to a few rows say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtia.chips.spec import ChipSpec
from mtia.validate.cases import Case, RelativeCollectiveCase
from mtia.validate.work import Work, work_of

FloatArray = np.ndarray
LEAST_ROWS = 12


@dataclass(frozen=True, slots=True)
class Fit:
    """Achievable shares of peak and bandwidth, and a floor."""

    flop_frac: float = 1.0
    byte_frac: float = 1.0
    floor_s: float = 0.0

    def seconds(self, flop_s: FloatArray, byte_s: FloatArray) -> FloatArray:
        return self.floor_s + np.maximum(flop_s / self.flop_frac, byte_s / self.byte_frac)


def roof_times(case: Case, spec: ChipSpec) -> tuple[float, float] | None:
    """(seconds at peak flop rate, seconds at peak bandwidth); None where the chip or the case has no such roof."""
    work = work_of(case)
    if work is None or isinstance(case, RelativeCollectiveCase):
        return None
    bandwidth = _bandwidth(work, spec)
    peak = next((p for name in work.math if (p := spec.dot_flop_per_s(name))), 0.0)
    if not bandwidth or (work.flop and not peak):
        return None
    return work.flop / peak if work.flop else 0.0, work.n_bytes / bandwidth


def _bandwidth(work: Work, spec: ChipSpec) -> float:
    if work.over_link:
        return spec.scale_up.bytes_per_s if spec.scale_up else 0.0
    return spec.sram.bytes_per_s if work.from_sram else spec.dram.bytes_per_s


def least_s(case: Case, spec: ChipSpec) -> float:
    """Seconds that memory at its pin rate needs for what SRAM cannot hold from call to call: none measures less.

    0 where the case moves nothing through device memory. A row below it is not what its columns say.
    """
    work = work_of(case)
    if work is None or work.over_link or work.from_sram or isinstance(case, RelativeCollectiveCase):
        return 0.0
    return max(0.0, work.n_bytes - spec.sram.capacity_bytes) / spec.dram.bytes_per_s


def fit(flop_s: FloatArray, byte_s: FloatArray, measured_s: FloatArray) -> Fit:
    """Least mean |ln| over share of peak, share of bandwidth and floor: a pattern search from the obvious start."""
    floor = float(np.quantile(measured_s, 0.02)) * 0.9
    at, step = np.log([0.7, 0.8, max(floor, 1e-9)]), np.array([0.4, 0.4, 0.8])
    best = _misfit(at, flop_s, byte_s, measured_s)
    while step.max() > 1e-3:
        moved = False
        for axis in range(3):
            for sign in (1, -1):
                there = at.copy()
                there[axis] += sign * step[axis]
                value = _misfit(there, flop_s, byte_s, measured_s)
                if value < best:
                    at, best, moved = there, value, True
        step = step if moved else step / 2
    return Fit(*(float(v) for v in np.exp(at)))


def _misfit(at: FloatArray, flop_s: FloatArray, byte_s: FloatArray, measured_s: FloatArray) -> float:
    flop_frac, byte_frac, floor_s = np.exp(at)
    return float(np.abs(np.log(Fit(flop_frac, byte_frac, floor_s).seconds(flop_s, byte_s) / measured_s)).mean())


def rooflines(cases: Sequence[Case], specs: Mapping[str, ChipSpec]) -> tuple[FloatArray, FloatArray, dict[str, Fit]]:
    """(spec roofline, calibrated roofline) in seconds by row, NaN where there is none; and the fits by group."""
    times = [roof_times(case, specs[case.system]) if case.system in specs else None for case in cases]
    flop_s, byte_s = (np.array([np.nan if t is None else t[i] for t in times]) for i in (0, 1))
    measured_s = np.array([case.measured_s for case in cases])
    calibrated, fits = np.full(len(cases), np.nan), {}
    for group, rows in _groups(cases, flop_s).items():
        if len(rows) < LEAST_ROWS:
            continue
        fits[group] = found = fit(flop_s[rows], byte_s[rows], measured_s[rows])
        calibrated[rows] = found.seconds(flop_s[rows], byte_s[rows])
    return np.maximum(flop_s, byte_s), calibrated, fits


def _groups(cases: Sequence[Case], flop_s: FloatArray) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        if not np.isnan(flop_s[place]):
            found.setdefault(f"{case.file} {case.operator} {case.system} {case.dtype}", []).append(place)
    return found


__all__ = ["Fit", "fit", "least_s", "roof_times", "rooflines"]
