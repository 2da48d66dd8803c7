"""Error tables: groups of rows, ours beside both rooflines; the aims; the worst rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtia.units import format_time
from mtia.validate.cases import AttentionCase, CollectiveCase, RelativeCollectiveCase
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
)


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
    return tables + [ErrorTable(name=n, title=t, lines=_lines(rows, key)) for n, t, key in GROUPINGS]


def _lines(rows: Sequence[RowResult], key: Key) -> list[Line]:
    groups: dict[str, list[RowResult]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    rank = {band: place for place, band in enumerate(BANDS)}
    return [line_of(label, groups[label]) for label in sorted(groups, key=lambda g: (rank.get(g, 0), g))]


# --- aims -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A bound on an error of some rows. `each`: holds for every group of that key by itself."""

    title: str
    rows: Callable[[RowResult], bool]
    most_frac: float
    statistic: str = "mean_frac"  # a field of Errors
    each: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    title: str
    n: int
    most_frac: float
    found_frac: float
    calibrated_frac: float | None

    @property
    def met(self) -> bool:
        return self.found_frac <= self.most_frac

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "aim_frac": self.most_frac, "found_frac": float(f"{self.found_frac:.6g}"),
                "calibrated_roofline_frac": self.calibrated_frac and float(f"{self.calibrated_frac:.6g}"),
                "met": self.met}  # fmt: skip


def _gemm(*dtypes: str) -> Callable[[RowResult], bool]:
    return lambda r: r.case.table == "gemm" and r.case.dtype in dtypes


def _attention(decode: bool, least_s: float = 0.0) -> Callable[[RowResult], bool]:
    return lambda r: isinstance(r.case, AttentionCase) and r.case.decode is decode and r.measured_s >= least_s


def _table(*names: str) -> Callable[[RowResult], bool]:
    return lambda r: r.case.table in names


def _nccl(row: RowResult) -> bool:
    return isinstance(row.case, CollectiveCase) and row.case.library == "nccl"


def _large_mtia_collective(row: RowResult) -> bool:
    case = row.case
    return (isinstance(case, RelativeCollectiveCase) and case.ranks == 16 and case.n_bytes >= 1 << 22
            and row.chip.startswith("mtia"))  # fmt: skip


AIMS: tuple[Aim, ...] = (
    Aim(title="bfloat16 GEMM, mean", rows=_gemm("bfloat16"), most_frac=0.09),
    Aim(title="bfloat16 GEMM, 90th percentile", rows=_gemm("bfloat16"), most_frac=0.20, statistic="p90_frac"),
    Aim(title="bfloat16 GEMM, worst chip's mean", rows=_gemm("bfloat16"), most_frac=0.12, each=lambda r: r.chip),
    Aim(title="fp8, fp8_block, nvfp4 GEMM, mean", rows=_gemm("fp8", "fp8_block", "nvfp4"), most_frac=0.14),
    Aim(title="attention decode, mean", rows=_attention(True), most_frac=0.13),
    Aim(title="attention decode from 50 us, mean", rows=_attention(True, 50e-6), most_frac=0.08),
    Aim(title="attention prefill, mean", rows=_attention(False), most_frac=0.15),
    Aim(title="MoE block, mean", rows=_table("moe"), most_frac=0.22),
    Aim(title="NCCL collectives, mean", rows=_nccl, most_frac=0.12),
    Aim(title="eager operators, mean", rows=_table("ops_eager"), most_frac=0.09),
    Aim(title="TPU v6e, mean", rows=lambda r: r.chip.startswith("tpu"), most_frac=0.12),
    Aim(title="MTIA 100 fully connected from SRAM, mean", rows=lambda r: r.case.operator == "fc sram", most_frac=0.05),
    Aim(title="add of MTIA 300, mean", rows=lambda r: r.case.table == "mtia_add" and r.chip.startswith("mtia"),
        most_frac=0.10),
    Aim(title="MTIA 100 embedding and other operators, mean", rows=_table("mtia_tbe", "mtia_ops"), most_frac=0.20),
    Aim(title="MTIA 300 collectives of 16 ranks from 2^22 bytes, mean", rows=_large_mtia_collective, most_frac=0.15),
)  # fmt: skip


def verdicts(rows: Sequence[RowResult], aims: Sequence[Aim] = AIMS) -> list[Verdict]:
    """The aims that have rows here."""
    return [verdict for aim in aims if (verdict := _verdict(aim, [r for r in rows if aim.rows(r)])) is not None]


def _verdict(aim: Aim, rows: Sequence[RowResult]) -> Verdict | None:
    if not rows:
        return None
    lines = _lines(rows, aim.each) if aim.each else [line_of("", rows)]
    worst = max(lines, key=lambda line: getattr(line.ours, aim.statistic))
    title = f"{aim.title} ({worst.label})" if worst.label else aim.title
    calibrated = getattr(worst.calibrated, aim.statistic) if worst.calibrated else None
    return Verdict(title=title, n=worst.ours.n, most_frac=aim.most_frac,
                   found_frac=getattr(worst.ours, aim.statistic), calibrated_frac=calibrated)  # fmt: skip


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


def milliseconds(rows: Sequence[RowResult], key: Key) -> Mapping[str, tuple[int, float, float]]:
    """(rows, mean, largest) wall milliseconds per prediction, by group."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(1e3 * row.answer.wall_s)
    return {name: (len(walls), sum(walls) / len(walls), max(walls)) for name, walls in sorted(groups.items())}


__all__ = ["AIMS", "Aim", "ErrorTable", "Line", "Verdict", "error_tables", "explanation", "line_of", "milliseconds",
           "shown", "verdicts", "worst"]  # fmt: skip
