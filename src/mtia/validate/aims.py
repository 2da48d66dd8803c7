"""What the project sets out to reach on the public measurements, and whether the rows at hand do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mtia.validate.cases import AttentionCase, CollectiveCase, RelativeCollectiveCase
from mtia.validate.results import RowResult
from mtia.validate.tables import Key, line_of, lines_by


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


def _possible(rows: Callable[[RowResult], bool]) -> Callable[[RowResult], bool]:
    """Of these, those that are not faster than the memory's pins allow."""
    return lambda r: rows(r) and r.is_possible


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
    Aim(title="attention decode that memory pins allow, mean", rows=_possible(_attention(True)), most_frac=0.13),
    Aim(title="attention decode from 50 us that memory pins allow, mean", rows=_possible(_attention(True, 50e-6)),
        most_frac=0.08),
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


POOLED_AIM = Aim(
    title="GEMM without calibrated figures, worst chip's mean",
    rows=_table("gemm"),
    most_frac=0.16,
    each=lambda r: r.chip,
)


def verdicts(rows: Sequence[RowResult], *, pooled: bool = False) -> list[Verdict]:
    """The aims that have rows here; with `pooled` figures another one holds."""
    aims = (POOLED_AIM,) if pooled else AIMS
    return [verdict for aim in aims if (verdict := _verdict(aim, [r for r in rows if aim.rows(r)])) is not None]


def _verdict(aim: Aim, rows: Sequence[RowResult]) -> Verdict | None:
    if not rows:
        return None
    lines = lines_by(rows, aim.each) if aim.each else [line_of("", rows)]
    worst = max(lines, key=lambda line: getattr(line.ours, aim.statistic))
    title = f"{aim.title} ({worst.label})" if worst.label else aim.title
    calibrated = getattr(worst.calibrated, aim.statistic) if worst.calibrated else None
    return Verdict(title=title, n=worst.ours.n, most_frac=aim.most_frac,
                   found_frac=getattr(worst.ours, aim.statistic), calibrated_frac=calibrated)  # fmt: skip


__all__ = ["AIMS", "POOLED_AIM", "Aim", "Verdict", "verdicts"]
