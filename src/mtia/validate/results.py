"""Predicted rows: a case with its answer, and the rooflines beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from mtia.chips.spec import ChipSpec
from mtia.validate.cases import Case, RelativeCollectiveCase
from mtia.validate.predict import Answer, Status
from mtia.validate.rooflines import Fit, least_s, rooflines

BANDS_S = (10e-6, 50e-6, 250e-6, 1e-3, 10e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """A predicted row. `roofline_s`, `calibrated_s`: None where there is no roofline for it.

    `least_s`: what memory needs at its pin rate for all that SRAM cannot hold.
    """

    case: Case
    chip: str
    answer: Answer
    roofline_s: float | None = None
    calibrated_s: float | None = None
    least_s: float = 0.0

    @property
    def is_possible(self) -> bool:
        """Measured no faster than the memory's pins allow."""
        return self.measured_s >= self.least_s

    @property
    def measured_s(self) -> float:
        return self.case.measured_s

    @property
    def predicted_s(self) -> float:
        return self.answer.seconds

    @property
    def ln(self) -> float:
        return log(self.predicted_s / self.measured_s)

    @property
    def error_frac(self) -> float:
        return self.predicted_s / self.measured_s - 1

    @property
    def band(self) -> str:
        return band_of(self.case)


def collect(
    cases: Sequence[Case], answers: Sequence[Answer], specs: Mapping[str, ChipSpec]
) -> dict[Status, list[RowResult]]:
    """Rows by what came of them, in their order; the predicted ones without rooflines yet."""
    found: dict[Status, list[RowResult]] = {status: [] for status in Status}
    for case, answer in zip(cases, answers, strict=True):
        chip = specs[case.system].name if case.system in specs else case.system
        least = least_s(case, specs[case.system]) if case.system in specs else 0.0
        found[answer.status].append(RowResult(case=case, chip=chip, answer=answer, least_s=least))
    return found


def with_rooflines(
    rows: Sequence[RowResult], cases: Sequence[Case], specs: Mapping[str, ChipSpec]
) -> tuple[list[RowResult], dict[str, Fit]]:
    """The rows with both rooflines. The calibrated one is fitted to all `cases` of the data, sampled or not."""
    plain, calibrated, fits = rooflines(cases, specs)
    place = {case.where: i for i, case in enumerate(cases)}
    at = [place[row.case.where] for row in rows]
    return [
        replace(row, roofline_s=_known(plain[i]), calibrated_s=_known(calibrated[i]))
        for row, i in zip(rows, at, strict=True)
    ], fits


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def band_of(case: Case) -> str:
    """ "10 to 50 us" of the measured latency; rates and ratios have no band."""
    if isinstance(case, RelativeCollectiveCase) or case.table in ("mtia_tbe", "mtia_ops"):
        return "rates and ratios"
    edges = [0.0, *BANDS_S]
    place = sum(case.measured_s >= edge for edge in BANDS_S)
    if place == len(BANDS_S):
        return f"from {_time(edges[-1])}"
    return f"{_time(edges[place])} to {_time(BANDS_S[place])}" if place else f"below {_time(BANDS_S[0])}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:g} us"


BANDS = (
    "below 10 us", "10 us to 50 us", "50 us to 250 us", "250 us to 1 ms", "1 ms to 10 ms", "from 10 ms",
    "rates and ratios",
)  # fmt: skip

__all__ = ["BANDS", "RowResult", "band_of", "collect", "with_rooflines"]
