"""The 90 % interval of a prediction, and how many measurements fall inside it.

Two parts, taken as independent. Figures that nobody published have ranges: the prediction is made on chips drawn from
them (a Latin hypercube over all assumed and calibrated figures, logarithmic where a range allows), and the spread of
its logarithm gives the first part. The engine leaves a residual even on chips whose figures are known: the second part
is what must be joined to the first for 90 % of the rows of the *other* chips, same operator, to be inside. Neither
looks at the row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot, log, sqrt
from typing import Any

import numpy as np

from mtia.chips.spec import ChipSpec, Figure
from mtia.report.interval import moves
from mtia.validate.cases import Case
from mtia.validate.predict import Status
from mtia.validate.results import RowResult
from mtia.validate.run import run_cases

# Student's t, 95th percentile, by degrees of freedom: the spread is estimated from a few draws
_T95 = {2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 9: 1.833, 11: 1.796, 15: 1.753, 31: 1.696}
_LINKS = re.compile(r"^scale_(up|out)\..*(_s|_per_cycle|_frac)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Half widths of ln(seconds) around the prediction. `engine`: None where no other chip has such rows."""

    row: RowResult
    figures: float
    engine: float | None

    @property
    def half(self) -> float:
        return hypot(self.figures, self.engine or 0.0)

    @property
    def low_s(self) -> float:
        return self.row.predicted_s * exp(-self.half)

    @property
    def high_s(self) -> float:
        return self.row.predicted_s * exp(self.half)

    @property
    def inside(self) -> bool:
        return abs(self.row.ln) <= self.half

    @property
    def inside_figures_alone(self) -> bool:
        return abs(self.row.ln) <= self.figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Of a group of rows: shares inside, and the median half width as a factor (1.2: from / 1.2 to x 1.2)."""

    label: str
    n: int
    inside_frac: float
    inside_figures_frac: float
    factor: float
    figures_factor: float

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n, "inside_frac": round(self.inside_frac, 4), "factor": round(self.factor, 4),
            "inside_by_figures_alone_frac": round(self.inside_figures_frac, 4),
            "figures_factor": round(self.figures_factor, 4),
        }  # fmt: skip


def drawn(spec: ChipSpec, n_draws: int) -> list[ChipSpec]:
    """`n_draws` chips from the ranges of `spec`; each range is cut into as many parts, each part is drawn once.

    Figures that change which programs are legal stay where they are. The same spec gives the same draws.
    """
    ranged = {key: figure for key, figure in spec.uncertain().items() if _is_moved(key, figure)}
    part = {key: _order(key, n_draws) for key in ranged}
    return [
        spec.vary({key: _at(f, (part[key][i] + 0.5) / n_draws) for key, f in ranged.items()}, name=f"{spec.name} #{i}")
        for i in range(n_draws)
    ]


def _is_moved(key: str, figure: Figure) -> bool:
    low, high = figure.source.low, figure.source.high
    moved = bool(moves(key)) or bool(_LINKS.match(key))  # links are no part of a chip alone: `moves` leaves them
    return moved and low is not None and high is not None and low < high


def _order(key: str, n: int) -> list[int]:
    """A shuffle of 0..n-1 that depends on the figure's name only."""
    return sorted(range(n), key=lambda i: hashlib.sha256(f"{key}/{i}".encode()).digest())


def _at(figure: Figure, share: float) -> float | int:
    """The value that `share` of the range lies below."""
    low, high = float(figure.source.low or 0.0), float(figure.source.high or 0.0)
    value = low * (high / low) ** share if low > 0 else low + share * (high - low)
    return max(1, round(value)) if isinstance(figure.value, int) and not isinstance(figure.value, bool) else value


def intervals(
    rows: Sequence[RowResult], specs: Mapping[str, ChipSpec], *, n_draws: int, jobs: int,
    progress: Callable[[int], Any] = lambda done: None,
) -> list[Interval]:  # fmt: skip
    """An interval per row that is predicted on every drawn chip. A row that fails on one has none (see `missing`)."""
    draws = {system: drawn(spec, n_draws) for system, spec in specs.items()}
    cases = [row.case for row in rows]
    runs = [_run(cases, {s: made[i] for s, made in draws.items()}, jobs, progress) for i in range(n_draws)]
    halves: list[float | None] = []
    for place in range(len(rows)):
        times = [run[place] for run in runs]
        logs = [log(t) for t in times if t is not None]
        halves.append(_half_width(logs) if len(logs) == n_draws else None)
    engine = _residuals(rows, halves)
    return [
        Interval(row=row, figures=half, engine=engine[place])
        for place, (row, half) in enumerate(zip(rows, halves, strict=True))
        if half is not None
    ]


def _run(
    cases: Sequence[Case], specs: Mapping[str, ChipSpec], jobs: int, progress: Callable[[int], Any]
) -> list[float | None]:
    answers = run_cases(cases, specs, jobs=jobs, progress=progress)
    return [a.seconds if a.status is Status.PREDICTED else None for a in answers]


def _half_width(logs: Sequence[float]) -> float:
    """Of the 90 % interval of one more draw, from the spread of the ones there are."""
    n = len(logs)
    if n < 2:
        return 0.0
    t = next((value for freedom, value in _T95.items() if n - 1 <= freedom), 1.645)
    return t * float(np.std(logs, ddof=1)) * sqrt(1 + 1 / n)


def _residuals(rows: Sequence[RowResult], halves: Sequence[float | None]) -> list[float | None]:
    """By row: the 90th percentile of what figures leave of |ln|, same table and operator on other chips."""
    groups: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for row, half in zip(rows, halves, strict=True):
        key = (row.case.table, row.case.operator)
        groups.setdefault(key, []).append((row.chip, abs(row.ln), half or 0.0))
    return [_residual([o for o in groups[r.case.table, r.case.operator] if o[0] != r.chip]) for r in rows]


def _residual(others: Sequence[tuple[str, float, float]]) -> float | None:
    """From (chip, |ln|, half width by figures) of each row: with it, 90 % of these rows are inside."""
    if not others:
        return None
    return float(np.quantile([sqrt(max(0.0, ln**2 - half**2)) for _, ln, half in others], 0.9))


def coverage(found: Sequence[Interval], key: Callable[[RowResult], str]) -> list[Coverage]:
    groups: dict[str, list[Interval]] = {"all": list(found)} if found else {}
    for one in found:
        groups.setdefault(key(one.row), []).append(one)
    return [
        Coverage(
            label=label, n=len(group), inside_frac=sum(i.inside for i in group) / len(group),
            inside_figures_frac=sum(i.inside_figures_alone for i in group) / len(group),
            factor=exp(float(np.median([i.half for i in group]))),
            figures_factor=exp(float(np.median([i.figures for i in group]))),
        )
        for label, group in groups.items()
    ]  # fmt: skip


__all__ = ["Coverage", "Interval", "coverage", "drawn", "intervals"]
