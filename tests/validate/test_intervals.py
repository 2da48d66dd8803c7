"""Intervals: draws from the stated ranges, widths from their spread, nothing from the row itself."""

from __future__ import annotations

from math import log

import pytest

from mtia import chips
from mtia.validate.cases import GemmCase
from mtia.validate.intervals import coverage, drawn, intervals
from mtia.validate.predict import Answer, Status
from mtia.validate.results import RowResult
from mtia.workloads.prediction import Protocol


def row(chip: str, ratio: float, line: int) -> RowResult:
    case = GemmCase(table="gemm", file="g.csv", line=line, system=chip, dtype="bfloat16", measured_s=1e-5, m=1, n=1,
                    k=1, protocol=Protocol.KERNEL)  # fmt: skip
    return RowResult(case=case, chip=chip, answer=Answer(status=Status.PREDICTED, seconds=1e-5 * ratio, bound="dram"))


def test_draws_stay_within_their_ranges_and_fill_them():
    spec = chips.load("mtia300")
    made = drawn(spec, 8)
    key, figure = next((k, f) for k, f in spec.uncertain().items() if k == "sram.latency_s")
    values = sorted(chip.get(key) for chip in made)
    low, high = figure.source.low, figure.source.high
    assert low is not None and high is not None and all(low <= v <= high for v in values)
    assert values[0] < low * (high / low) ** 0.25 and values[-1] > low * (high / low) ** 0.75
    assert len(set(values)) == 8


def test_draws_are_the_same_each_time():
    spec = chips.load("mtia300")
    assert [c.fingerprint for c in drawn(spec, 3)] == [c.fingerprint for c in drawn(spec, 3)]


def test_figures_that_change_programs_stay():
    spec = chips.load("mtia300")
    assert {(c.grid.rows, c.pe.dpe.block_m) for c in drawn(spec, 4)} == {(spec.grid.rows, spec.pe.dpe.block_m)}


def test_the_engines_residual_is_that_of_other_chips(monkeypatch: pytest.MonkeyPatch):
    """Chip a is off by 10 %, chip b by 100 %: a's interval knows b's residual, b's only a's."""
    monkeypatch.setattr("mtia.validate.intervals.drawn", lambda spec, n: [spec] * n)
    monkeypatch.setattr(
        "mtia.validate.intervals.run_cases",
        lambda cases, specs, **_: [Answer(status=Status.PREDICTED, seconds=2e-5) for _ in cases],
    )
    rows = [row("a", 1.1, 2), row("a", 1.1, 3), row("b", 2.0, 4), row("b", 2.0, 5)]
    found = intervals(rows, {"a": chips.load("mtia300"), "b": chips.load("mtia300")}, n_draws=3, jobs=1)
    assert [i.engine for i in found] == [pytest.approx(log(2))] * 2 + [pytest.approx(log(1.1))] * 2
    assert [i.inside for i in found] == [True, True, False, False]
    everything, a, b = coverage(found, lambda r: r.chip)
    assert (everything.inside_frac, a.inside_frac, b.inside_frac) == (0.5, 1.0, 0.0)
    assert a.factor == pytest.approx(2.0) and a.figures_factor == pytest.approx(1.0)
