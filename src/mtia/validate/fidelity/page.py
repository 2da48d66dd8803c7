"""Published statements about MTIA beside predictions: the table of docs/fidelity.md.

A `Statement` says what was published and holds a run that predicts it; `table` runs them and writes the page's table,
misses first. What the statements are: `first.py`, `second.py`, `third.py` (by generation of chip).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mtia.errors import BadProblem, did_you_mean

BEGIN = "<!-- made by scripts/fidelity.py -->"
END = "<!-- end -->"
MET_FRAC = 0.05
NEAR_FRAC = 0.20


class Verdict(StrEnum):
    MISS = "miss"
    NEAR = "near"
    MET = "met"
    NOT_RUN = "not set up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run found. `off_frac`: prediction over published figure less one, or a mean error where `many`.

    `inside`: the published statement is a range or a bound, and whether the prediction keeps it.
    """

    prediction: str
    off_frac: float | None = None
    inside: bool | None = None
    many: bool = False

    @property
    def verdict(self) -> Verdict:
        if self.inside is not None:
            return Verdict.MET if self.inside else self._by_distance(least=Verdict.NEAR)
        return self._by_distance(least=Verdict.MET)

    def _by_distance(self, *, least: Verdict) -> Verdict:
        if self.off_frac is None:
            return Verdict.MISS
        off = abs(self.off_frac)
        if off > NEAR_FRAC:
            return Verdict.MISS
        return Verdict.NEAR if off > MET_FRAC else least

    @property
    def off(self) -> str:
        if self.off_frac is None:
            return ""
        percent = round(100 * self.off_frac)
        return f"{percent} % mean" if self.many else f"{percent:+d} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One published statement. `run` None: it cannot be set up, and `why` says what is missing.

    `section`: of the facts; `reading`: error of the published figure; `why`: for a miss, the reason as far as known.
    """

    name: str
    section: str
    published: str
    ran: str = ""
    reading: str = ""
    why: str = ""
    run: Callable[[], Outcome] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    statement: Statement
    outcome: Outcome | None

    @property
    def verdict(self) -> Verdict:
        return Verdict.NOT_RUN if self.outcome is None else self.outcome.verdict


def evaluate(statements: Iterable[Statement]) -> list[Found]:
    """Each statement with its outcome, misses first, then by distance."""
    found = [Found(s, s.run() if s.run is not None else None) for s in statements]
    order = list(Verdict)
    return sorted(found, key=lambda f: (order.index(f.verdict), -_distance(f), f.statement.section, f.statement.name))


def _distance(found: Found) -> float:
    off = found.outcome.off_frac if found.outcome is not None else None
    return 0.0 if off is None else abs(off)


def named(statements: Sequence[Statement], names: Iterable[str]) -> list[Statement]:
    """The statements of these names. Raises BadProblem on one that there is not."""
    by_name = {s.name: s for s in statements}
    for name in names:
        if name not in by_name:
            known = f"known: {', '.join(by_name)}{did_you_mean(name, by_name).rstrip('?')}"
            raise BadProblem("fidelity", argument="statement", value=name, allowed=known)
    return [by_name[name] for name in names]


def table(found: Sequence[Found]) -> str:
    """The page's tables: what was run, then what could not be."""
    lines = ["| verdict | published (facts) | prediction | off | run, and why it is off | name |", "|" + 6 * "---|"]
    lines += [_row(f, f.outcome) for f in found if f.outcome is not None]
    lines += ["", "| not set up (facts) | why | name |", "|---|---|---|"]
    rest = [f.statement for f in found if f.outcome is None]
    lines += [f"| {_said(s)} | {s.why} | `{s.name}` |" for s in rest]
    return "\n".join(lines)


def _row(found: Found, outcome: Outcome) -> str:
    s = found.statement
    how = f"{s.ran}. {s.why}" if s.ran and s.why else s.ran or s.why
    return f"| {found.verdict} | {_said(s)} | {outcome.prediction} | {outcome.off} | {how} | `{s.name}` |"


def _said(s: Statement) -> str:
    return f"{s.published}{f' ± {s.reading}' if s.reading else ''} ({s.section})"


def summary(found: Sequence[Found]) -> str:
    """ "31 statements were run: 3 misses, 5 near, 23 met; 12 cannot be set up." """
    count = {v: sum(f.verdict is v for f in found) for v in Verdict}
    ran = len(found) - count[Verdict.NOT_RUN]
    return (
        f"{ran} statements were run: {count[Verdict.MISS]} misses, {count[Verdict.NEAR]} near "
        f"(within {100 * NEAR_FRAC:.0f} %), {count[Verdict.MET]} met (within {100 * MET_FRAC:.0f} %, or the bound "
        f"kept); {count[Verdict.NOT_RUN]} cannot be set up."
    )


def between_marks(page: str) -> str:
    """What the script made of a page. Raises BadProblem where the marks are missing."""
    head, found, rest = page.partition(BEGIN)
    made, end, _ = rest.partition(END)
    if not found or not end:
        raise BadProblem("fidelity page", argument="marks", value=head[:40], allowed=f"it needs {BEGIN} and {END}")
    return made.strip()


def made(found: Sequence[Found]) -> str:
    return f"{summary(found)}\n\n{table(found)}"


def write(path: Path, found: Sequence[Found]) -> None:
    """Puts the tables between the page's marks."""
    page = path.read_text(encoding="utf-8")
    between_marks(page)
    head, _, rest = page.partition(BEGIN)
    path.write_text(f"{head}{BEGIN}\n\n{made(found)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


__all__ = [
    "Found", "Outcome", "Statement", "Verdict", "between_marks", "evaluate", "made", "named", "summary", "table",
    "write",
]  # fmt: skip
