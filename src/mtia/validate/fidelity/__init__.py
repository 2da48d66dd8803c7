"""Published statements about MTIA's speed (facts 11.1 to 11.7) beside predictions: docs/fidelity.md."""

from __future__ import annotations

from mtia.validate.fidelity import first, second, third
from mtia.validate.fidelity.page import Found, Outcome, Statement, Verdict, evaluate, named


def statements() -> tuple[Statement, ...]:
    """All of them, by section."""
    return (*first.statements(), *second.statements(), *third.statements())


__all__ = ["Found", "Outcome", "Statement", "Verdict", "evaluate", "named", "statements"]
