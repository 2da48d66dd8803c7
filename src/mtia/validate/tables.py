"""Error tables: groups of rows, ours beside both rooflines; the worst rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mtia.units import format_time
from mtia.validate.cases import RelativeCollectiveCase
from mtia.validate.results import BANDS, RowResult
from mtia.validate.statistics import Errors, errors_of

Key = Callable[[RowResult], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One group: the engine's errors, and those of the rooflines over the rows of it that have one."""

    label: str
    ours: Errors
    roofline: Errors | None
    calibrated: Errors | None

    def to_json(self) -> dict[str, Any]:
        sides = {"ours": self.ours, "roofline": self.roofline, "calibrated_roofline": self.calibrated}
        return {name: side.to_json() for name, side in sides.items() if side is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTable:
    name: str
    title: str
    lines: Sequence[Line]

    def to_json(self) -> dict[str, Any]:
        return {line.label: line.to_json() for line in self.lines}


GROUPINGS: tuple[tuple[str, str, Key], ...] = (
    ("by_file", "By file", lambda r: r.case.file.removesuffix(".csv")),
    ("by_chip", "By chip", lambda r: r.chip),
    ("by_file_and_chip", "By file and chip", lambda r: f"{r.case.file.removesuffix('.csv')}, {r.chip}"),
    ("by_dtype", "By file and number format", lambda r: f"{r.case.file.removesuffix('.csv')}, {r.case.dtype}"),
    ("by_operator", "By file and operator", lambda r: f"{r.case.file.removesuffix('.csv')}, {r.case.operator}"),
    ("by_band", "By measured latency", lambda r: r.band),
    ("by_bound", "By what binds the prediction", lambda r: r.answer.bound or "not said"),
    ("by_file_and_band", "By file and measured latency", lambda r: f"{r.case.file.removesuffix('.csv')}, {r.band}"),
    ("by_file_and_bound", "By file and what binds", lambda r: f"{r.case.file.removesuffix('.csv')}, {r.answer.bound}"),
    ("by_kernel", "By measured kernel or library", lambda r: r.case.made_by or "not said"),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """Processor milliseconds over `n` predictions."""

    n: int
    median_ms: float
    mean_ms: float
    largest_ms: float


def line_of(label: str, rows: Sequence[RowResult]) -> Line:
    return Line(
        label=label,
        ours=errors_of([r.predicted_s for r in rows], [r.measured_s for r in rows]),
        roofline=_of(rows, lambda r: r.roofline_s),
        calibrated=_of(rows, lambda r: r.calibrated_s),
    )


def _of(rows: Sequence[RowResult], time: Callable[[RowResult], float | None]) -> Errors | None:
    pairs = [(t, r.measured_s) for r in rows if (t := time(r))]
    return errors_of([t for t, _ in pairs], [m for _, m in pairs]) if pairs else None


def error_tables(rows: Sequence[RowResult]) -> list[ErrorTable]:
    """Every grouping, "all" first; a table of one line that says no more than another is still there."""
    if not rows:
        return []
    tables = [ErrorTable(name="all", title="All rows", lines=[line_of("all", rows)])]
    return tables + [ErrorTable(name=n, title=t, lines=lines_by(rows, key)) for n, t, key in GROUPINGS]


def lines_by(rows: Sequence[RowResult], key: Key) -> list[Line]:
    groups: dict[str, list[RowResult]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return [line_of(label, groups[label]) for label in sorted(groups, key=_place)]


def _place(label: str) -> tuple[str, int, str]:
    """By name, bands of latency from short to long."""
    head, _, last = label.rpartition(", ")
    return head, BANDS.index(last) if last in BANDS else 0, label


# --- worst rows -------------------------------------------------------------------------------------------------------


def worst(rows: Sequence[RowResult], n: int) -> list[RowResult]:
    """The rows furthest off by ratio."""
    return sorted(rows, key=lambda r: (-abs(r.ln), r.case.where))[:n]


def explanation(row: RowResult) -> str:
    """ "dram 61 %, launch 20 %, noc 8 %; tile 128 x 256 ..."."""
    parts = row.answer.parts or {}
    total = sum(parts.values()) or 1.0
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    said = ", ".join(f"{name} {100 * seconds / total:.0f} %" for name, seconds in largest if seconds > 0)
    return "; ".join(text for text in (said, row.answer.how) if text)


def shown(row: RowResult, value: float) -> str:
    """A measured or predicted value in its own unit."""
    if isinstance(row.case, RelativeCollectiveCase):
        return f"{value:.4g}"
    if row.case.table in ("mtia_tbe", "mtia_ops"):
        return f"{1e-9 / value:.4g} GB/s"
    return format_time(value)


def milliseconds(rows: Sequence[RowResult], key: Key) -> Mapping[str, Speed]:
    """Processor milliseconds per prediction, by group; the largest holds what is compiled once."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(1e3 * row.answer.cpu_s)
    return {name: Speed(len(w), median(w), sum(w) / len(w), max(w)) for name, w in sorted(groups.items())}


__all__ = [
    "ErrorTable",
    "Key",
    "Line",
    "error_tables",
    "explanation",
    "line_of",
    "lines_by",
    "milliseconds",
    "shown",
    "worst",
]
