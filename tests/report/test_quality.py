"""Plans on chips, the Pareto front and the page; the study itself is run by `mtia quality`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtia.chips import load
from mtia.errors import BadProblem
from mtia.report import quality, quality_page
from mtia.report.quality import Quality, Speed, Study

SIX = [load(f"mtia{n}") for n in (100, 200, 300, 400, 450, 500)]


@pytest.mark.parametrize(("plan", "chip"), [("int8", "mtia100"), ("fp8", "mtia300"), ("mx8:fit", "mtia300"),
                                            ("mx4-weight", "mtia100"), ("mx4", "mtia300")])  # fmt: skip
def test_values_come_from_the_first_chip_that_multiplies_the_plan(plan: str, chip: str):
    found = quality.computing_chip(quality.plan_of(plan), SIX)
    assert found is not None and found.name == chip


def test_a_chip_without_the_format_is_left_out():
    assert quality.computing_chip(quality.plan_of("mx4"), SIX[:2]) is None
    assert quality.speeds(quality.plan_of("mx4"), SIX[:1]) == [Speed(chip="mtia100", refused="no mx4")]


def test_a_lone_scheme_leaves_the_head():
    plan = quality.plan_of("mx4")
    head, layer = plan.scheme_for("lm_head"), plan.scheme_for("model.layers.0.mlp.up_proj")
    assert head is not None and head.name == "bf16" and layer is not None and layer.name == "mx4"


def test_pareto_keeps_what_nothing_beats():
    assert quality.pareto([(1, 5), (2, 2), (3, 3), (4, 1), (4, 1)]) == [0, 1, 3, 4]


def study() -> Study:
    speeds = [Speed(chip="mtia450", tokens_per_s=2000, j_per_token=0.1, ttft_s=1e-3)]
    faster = [
        Speed(chip="mtia450", tokens_per_s=4000, j_per_token=0.05, ttft_s=1e-3),
        Speed(chip="mtia100", refused="no mx4"),
    ]
    return Study(
        rows=[Quality(plan="bf16", chip="mtia450", perplexity=10.0, agreement_frac=1.0, weight_bytes=200, speeds=speeds),
              Quality(plan="mx4", chip="mtia450", perplexity=12.5, agreement_frac=0.7, weight_bytes=60, speeds=faster)],
        n_tokens=512, text="a text",
    )  # fmt: skip


def test_the_page_shows_losses_speeds_and_why_not(tmp_path: Path):
    text = quality_page.write(study(), tmp_path / "q.html").read_text()
    for part in ("+25.00%", "4000", "no mx4", "mtia450: quality against speed", "this chip multiplies none"):
        assert part in text


def test_windows_too_short_are_refused():
    with pytest.raises(BadProblem, match=r"tokens = \(1, 1\); windows of 2 tokens or more"):
        quality.study(["fp8"], SIX, n_windows=1, length=1)
