"""What became of one test of a suite, as plain data, and the counts over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from mtia.conformance.result import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """`test`: pytest's id. `error`: why it failed or was skipped, in a line. `fallbacks`: host routes by operator.

    `simulated_s`: how far the device's clock moved (seconds), `wall_s`: how long the simulator took.
    """

    __test__ = False  # pytest: not a class of tests

    test: str
    outcome: Outcome
    error: str = ""
    fallbacks: dict[str, int] = field(default_factory=dict)
    simulated_s: float = 0.0
    wall_s: float = 0.0

    @property
    def unit(self) -> str:
        return self.test

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> TestResult:
        return cls(**{**row, "outcome": Outcome(row["outcome"])})


def by_file(results: Iterable[TestResult]) -> dict[str, Counter[Outcome]]:
    """Counts for each file of tests, in the order of their names."""
    counts: dict[str, Counter[Outcome]] = {}
    for result in results:
        counts.setdefault(result.test.partition("::")[0], Counter())[result.outcome] += 1
    return dict(sorted(counts.items()))


def usual_errors(results: Iterable[TestResult], most: int = 12) -> list[tuple[str, int]]:
    """The commonest reasons of what did not pass and was not skipped."""
    bad = Counter(r.error for r in results if r.outcome not in (Outcome.PASS, Outcome.SKIP, Outcome.FALLBACK))
    return bad.most_common(most)


def headline(suite: str, results: Iterable[TestResult]) -> str:
    """One sentence. Skipped tests are those that say themselves that they are for other hardware."""
    counts = Counter(r.outcome for r in results)
    run = sum(n for outcome, n in counts.items() if outcome is not Outcome.SKIP)
    host = f", {counts[Outcome.FALLBACK]} more with help of the host" if counts[Outcome.FALLBACK] else ""
    return f"{suite}: {counts[Outcome.PASS]} of {run} tests pass on the device{host}; {counts[Outcome.SKIP]} skip."


__all__ = ["TestResult", "by_file", "headline", "usual_errors"]
