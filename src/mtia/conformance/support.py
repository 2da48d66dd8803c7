"""Results added up: by operator, by dtype, beside TritorX's count, and as the page docs/support.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mtia.conformance.result import Outcome, Result
from mtia.conformance.units import DTYPES, Unit

TRITORX_PASS, TRITORX_OPERATORS = 481, 568
"""Operators whose tests all pass on MTIA, of those with OpInfo that it can run (TritorX; facts 7.3)."""

WORST_FIRST = (Outcome.CRASH, Outcome.TIMEOUT, Outcome.FAIL, Outcome.FALLBACK, Outcome.PASS, Outcome.SKIP)
MARK = {
    Outcome.PASS: "yes",
    Outcome.FALLBACK: "host",
    Outcome.FAIL: "no",
    Outcome.TIMEOUT: "slow",
    Outcome.CRASH: "crash",
    Outcome.SKIP: "-",
}


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """What a group of units amounts to: passed if all that had something to compare passed."""
    found = set(outcomes)
    return next((outcome for outcome in WORST_FIRST if outcome in found), Outcome.SKIP)


@dataclass(frozen=True, slots=True)
class Samples:
    """How many were compared and, by reason, left out. `uncounted_units`: from journals that do not say what was."""

    compared: int
    left_out: Counter[str]
    uncounted_units: int

    def __str__(self) -> str:
        reasons = "; ".join(f"{why}: {n:,}" for why, n in self.left_out.most_common())
        text = f"{self.compared:,} compared, {self.left_out.total():,} left out{f' ({reasons})' if reasons else ''}"
        if self.uncounted_units:
            text += f"; {self.uncounted_units:,} units ran before what is left out was counted"
        return text


@dataclass(frozen=True, slots=True)
class Support:
    """Outcomes by operator and dtype (variants of OpInfo together), forward and backward."""

    results: Mapping[Unit, Result]

    @property
    def operators(self) -> list[str]:
        return sorted({unit.op for unit in self.results})

    def forward(self, op: str, dtype: str | None = None) -> Outcome:
        """The operator in one dtype, or in all of them (TritorX's rule)."""
        return worst(r.outcome for u, r in self.results.items() if u.op == op and dtype in (None, u.dtype))

    def backward(self, op: str) -> Outcome:
        return worst(Outcome(r.backward) for u, r in self.results.items() if u.op == op and r.backward)

    def counts(self, dtype: str | None = None) -> Counter[Outcome]:
        """Operators by outcome, in one dtype or in all; operators without a unit in it are left out."""
        ops = {unit.op for unit in self.results if dtype in (None, unit.dtype)}
        return Counter(self.forward(op, dtype) for op in ops)

    def backward_counts(self) -> Counter[Outcome]:
        return Counter(self.backward(op) for op in self.operators if self.backward(op) is not Outcome.SKIP)

    def samples(self) -> Samples:
        """What the units' samples amount to, forward."""
        counted = [r for r in self.results.values() if r.left_out is not None]
        return Samples(
            compared=sum(r.samples for r in self.results.values()),
            left_out=sum((Counter(r.left_out) for r in counted), Counter()),
            uncounted_units=len(self.results) - len(counted),
        )

    def backward_samples(self) -> Samples:
        """The same for gradients, of the units whose journal says how many."""
        counted = [r for r in self.results.values() if r.backward and r.backward_left_out is not None]
        return Samples(
            compared=sum(r.backward_samples for r in counted),
            left_out=sum((Counter(r.backward_left_out) for r in counted), Counter()),
            uncounted_units=sum(bool(r.backward) for r in self.results.values()) - len(counted),
        )

    def host_routes(self) -> dict[str, list[str]]:
        """Host route -> operators that took it."""
        routes: dict[str, set[str]] = {}
        for unit, result in self.results.items():
            for route in result.fallbacks:
                routes.setdefault(route, set()).add(unit.op)
        return {route: sorted(ops) for route, ops in sorted(routes.items())}

    def first_error(self, op: str) -> str:
        """The first thing that went wrong with an operator, "" where nothing did."""
        for unit, result in sorted(self.results.items()):
            if unit.op == op and (result.error or result.backward_error):
                return f"{unit.dtype}: {result.error or 'backward: ' + result.backward_error}"
        return ""


def headline(support: Support) -> str:
    """One sentence: the count, beside TritorX's."""
    counts = support.counts()
    judged = sum(n for outcome, n in counts.items() if outcome is not Outcome.SKIP)
    return (
        f"{counts[Outcome.PASS]} of {judged} operators pass every sample in every dtype with nothing on the host "
        f"(TritorX on MTIA: {TRITORX_PASS} of {TRITORX_OPERATORS})."
    )


def sample_lines(support: Support) -> list[str]:
    """Samples compared and left out, a line each way."""
    return [f"Samples, forward: {support.samples()}.", f"Samples, backward: {support.backward_samples()}."]


def markdown(support: Support, wanted: Iterable[Unit] = ()) -> str:
    """The page docs/support.md; `wanted`: all units there are, to name those without a result."""
    parts = (_top, _counts, _routes, _failures)
    lines = [line for part in parts for line in part(support)]
    unknown = _not_run(support, wanted)
    if unknown:
        lines = [line.replace("in every dtype with", "in the dtypes that ran, with") for line in lines]
    return "\n".join([*lines, *unknown, *_table(support)]) + "\n"


def _top(support: Support) -> list[str]:
    return [
        "# Operators on the device",
        "",
        "Written by `mtia conformance --report docs/support.md`; do not edit. PyTorch's own operator tests (OpInfo,",
        "one row per operator, its variants together) on the device against the CPU: forward in five dtypes, backward",
        "where OpInfo checks it. *yes*: every sample right, nothing computed by the host. *host*: right, with help of",
        "the host. *no*: a sample wrong or refused. *-*: nothing to compare. The rules: `mtia/conformance/check.py`.",
        "",
        headline(support),
        "",
        *(f"- {line}" for line in sample_lines(support)),
        "",
    ]  # fmt: skip


def _counts(support: Support) -> list[str]:
    columns = (Outcome.PASS, Outcome.FALLBACK, Outcome.FAIL, Outcome.TIMEOUT, Outcome.CRASH)
    rows = [("all five dtypes", support.counts()), *((dtype, support.counts(dtype)) for dtype in DTYPES)]
    rows.append(("backward", support.backward_counts()))
    return [
        f"| operators | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(f"| {name} | {' | '.join(str(counts[c]) for c in columns)} |" for name, counts in rows),
        "",
    ]


def _routes(support: Support) -> list[str]:
    routes = support.host_routes()
    if not routes:
        return []
    lines = [f"| `{route}` | {', '.join(f'`{op}`' for op in ops)} |" for route, ops in routes.items()]
    return ["## What the host computes", "", "| host route | in tests of |", "| --- | --- |", *lines, ""]


def _failures(support: Support) -> list[str]:
    bad = [op for op in support.operators if support.first_error(op)]
    lines = [f"| `{op}` | {_escaped(support.first_error(op))} |" for op in bad]
    return ["## What fails", "", "| operator | first error |", "| --- | --- |", *lines, ""] if lines else []


def _not_run(support: Support, wanted: Iterable[Unit]) -> list[str]:
    missing = sorted(set(wanted) - set(support.results))
    if not missing:
        return []
    total = len(missing) + len(support.results)
    dtypes = ((dtype, [f"`{unit.entry}`" for unit in missing if unit.dtype == dtype]) for dtype in DTYPES)
    lines = [f"- {dtype}: {', '.join(entries)}" for dtype, entries in dtypes if entries]
    text = (
        f"{len(missing)} of {total} pairs of entry and dtype have no result yet; an operator counts above by those that"
        f" ran. {len({unit.op for unit in missing})} operators are concerned:"
    )
    return ["## Not run", "", text, "", *lines, ""]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(support: Support) -> list[str]:
    rows = []
    for op in support.operators:
        has = {unit.dtype for unit in support.results if unit.op == op}
        marks = [MARK[support.forward(op, dtype)] if dtype in has else "" for dtype in DTYPES]
        backward = support.backward(op)
        rows.append(f"| `{op}` | {' | '.join(marks)} | {'' if backward is Outcome.SKIP else MARK[backward]} |")
    head = f"| operator | {' | '.join(DTYPES)} | backward |"
    return ["## Every operator", "", head, f"| --- |{' --- |' * (len(DTYPES) + 1)}", *rows]


__all__ = ["Samples", "Support", "headline", "markdown", "sample_lines", "worst"]
