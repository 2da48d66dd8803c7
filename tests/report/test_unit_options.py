"""What is run again of a journal's units."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtia.conformance.journal import Journal
from mtia.conformance.result import Outcome, Result, ended
from mtia.conformance.units import Unit, units
from mtia.errors import BadProblem
from mtia.report.unit_options import forget


def passed(result: Result) -> bool:
    return result.outcome is Outcome.PASS


@pytest.mark.parametrize(("again", "left"), [("", 2), ("failed", 1), ("all", 0)])
def test_what_is_asked_for_again_leaves_the_journal(tmp_path: Path, again: str, left: int) -> None:
    wanted: list[Unit] = units(("float32",), ("abs", "add"))
    journal = Journal(tmp_path / "results.jsonl")
    for unit, outcome in zip(wanted, (Outcome.PASS, Outcome.FAIL), strict=True):
        journal.add(ended(unit, outcome, "", 1.0))
    forget(journal, wanted, again, passed=passed, command="mtia conformance")
    assert len(journal.read()) == left


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadProblem, match=r"mtia models: --again = 'maybe'; 'failed' or 'all'"):
        forget(Journal(tmp_path / "none.jsonl"), [], "maybe", passed=passed, command="mtia models")
