"""Outcomes from rows of `validation/mtia`, and from bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from mtia.chips.spec import ChipSpec
from mtia.validate.cases import AddCase, Case, EmbeddingCase, FcCase, RelativeCollectiveCase, TensorOpCase
from mtia.validate.chip_book import chip_book
from mtia.validate.fidelity.page import Outcome
from mtia.validate.predict import Status, answer
from mtia.validate.rows import read_folder

FOLDER = Path(__file__).resolve().parents[4] / "validation" / "mtia"
READ_OFF = "1 to 3 %"
Keep = Callable[[Case], bool]


@cache
def _cases() -> tuple[tuple[Case, ...], dict[str, ChipSpec]]:
    tables, errors = read_folder(FOLDER)
    if errors:
        raise errors[0]
    cases = tuple(case for table in tables for case in table.cases)
    book, unknown = chip_book(cases, FOLDER)
    if unknown:
        raise unknown[0]
    return cases, dict(book.specs)


@cache
def _ratio(case: Case) -> float:
    """Predicted over measured, as `mtia validate` has it."""
    found = answer(case, _cases()[1])
    if found.status is not Status.PREDICTED:
        raise RuntimeError(f"{case.where} ({case}): {found.error}")
    return found.seconds / case.measured_s


def _rows(keep: Keep) -> list[Case]:
    found = [case for case in _cases()[0] if keep(case)]
    assert found, "a statement about rows has some"
    return found


def many(keep: Keep) -> Callable[[], Outcome]:
    """Mean error of predicted times over rows, as `mtia validate` has it."""

    def run() -> Outcome:
        off = [_ratio(c) - 1 for c in _rows(keep)]
        mean = sum(map(abs, off)) / len(off)
        worst = max(off, key=abs)
        told = f"{len(off)} points, mean error {100 * mean:.1f} %, worst {100 * worst:+.0f} %"
        return Outcome(prediction=told, off_frac=mean, many=True)

    return run


def one(keep: Keep, unit: str, scale: float, *, per_s: float) -> Callable[[], Outcome]:
    """A row's rate: `per_s` work in its time, in `unit`s of `scale`."""

    def run() -> Outcome:
        (case,) = _rows(keep)
        predicted_s = _ratio(case) * case.measured_s
        return Outcome(prediction=f"{per_s / predicted_s / scale:.3g} {unit}", off_frac=1 / _ratio(case) - 1)

    return run


def fc(place: str, *, spilled: bool | None = None, dtype: str = "") -> Keep:
    def keep(case: Case) -> bool:
        if not isinstance(case, FcCase) or case.weights_in != place or (dtype and case.dtype != dtype):
            return False
        return spilled is None or (min(case.m, case.k) >= 4096) == spilled

    return keep


def tbe(rows: int, dim: int) -> Keep:
    return lambda c: isinstance(c, EmbeddingCase) and c.rows == rows and c.dim == dim


def tensor_op(op: str, place: str) -> Keep:
    return lambda c: isinstance(c, TensorOpCase) and c.op == op and c.tensors_in == place


def add(chip: str) -> Keep:
    return lambda c: isinstance(c, AddCase) and c.system == chip


def collective(chip: str, least: int, most: int) -> Keep:
    return lambda c: isinstance(c, RelativeCollectiveCase) and c.system.startswith(chip) and least <= c.n_bytes <= most


def at_least(found: float, bound: float) -> Outcome:
    return Outcome(prediction=f"{100 * found:.1f} %", off_frac=found / bound - 1, inside=found >= bound)


def within(found: float, low: float, high: float, told: str) -> Outcome:
    """Off by the distance to the nearer bound."""
    return Outcome(prediction=told, inside=low <= found <= high, off_frac=found / min(max(found, low), high) - 1)
