"""Plans on chips, refusals, the Pareto front, the tables and the page; each subject once, on little data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer.main

from mtia.chips import load
from mtia.errors import BadProblem
from mtia.quantization.plan import Plan
from mtia.quantization.recipe import Recipe
from mtia.report import quality, quality_command, quality_page, text
from mtia.report.quality import Row, Speed, Study, Subject, study
from mtia.report.quality_encoder import Encoder, rank_agreement, same_nearest
from mtia.report.quality_llm import Llm
from mtia.report.quality_recommender import Recommender, rounded_rows, table_bits

SIX = [load(f"mtia{n}") for n in (100, 200, 300, 400, 450, 500)]


@pytest.mark.parametrize(("plan", "first"), [("int8", 100), ("fp8", 300), ("mx8:fit", 300), ("mx4-weight", 100),
                                             ("mx4", 300), ("*.up=fp8,*=int8", 300)])  # fmt: skip
def test_chips_before_the_first_with_a_format_refuse_it(plan: str, first: int):
    for n, spec in zip((100, 200, 300, 400, 450, 500), SIX, strict=True):
        assert bool(quality.refusal(Plan.of(plan), spec)) == (n < first)


def test_a_refusal_says_what_the_chip_has_since_when_and_the_way_in_software():
    said = quality.refusal(Plan.of("mx4"), SIX[1])
    for part in ("mtia200 has no mx4", "it supports bf16, fp16, int8", "since MTIA 400", "In software"):
        assert part in said


class Canned(Subject):
    """Twice as fast on each later plan."""

    name, title, unit, loss, kept = "canned", "a model", "tokens", "perplexity", {"lm_head": "bf16"}

    @property
    def scored(self) -> str:
        return "nothing"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.n_scored = 0

    def score(self, recipe: Recipe, row: Row, *, check: int) -> None:
        self.n_scored += 1
        row.loss_frac, row.loss_error_frac = 0.1 * (self.n_scored - 1), 0.01
        row.figures, row.low_frac, row.linear_bytes, row.memory_bytes = {"perplexity": 10.0}, 0.95, 100, 2_000_000

    def speeds(self, recipe: Recipe, specs) -> list[Speed]:
        self.asked.append([s.name for s in specs])
        return [
            Speed(chip=s.name, per_s=1000.0 * 2**self.n_scored, j_each=0.1, first_s=1e-3, bound="DRAM") for s in specs
        ]


def test_quality_is_computed_once_a_plan_and_time_on_the_chips_that_have_it():
    subject = Canned()
    found = study(subject, ["int8", "mx4", "int8"], [SIX[0], SIX[4]])
    assert [row.plan for row in found.rows] == ["bf16", "int8", "mx4"] and subject.n_scored == 3
    assert subject.asked == [["mtia100", "mtia450"], ["mtia100", "mtia450"], ["mtia450"]]
    assert [s.refused != "" for s in found.rows[2].speeds] == [True, False]
    assert found.to_json()["rows"][1]["speeds"][1]["per_s"] == 4000


def test_the_page_shows_losses_speeds_refusals_and_the_front(tmp_path: Path):
    found = study(Canned(), ["mx4"], [SIX[0], SIX[4]])
    page = quality_page.write(found, tmp_path / "q.html").read_text()
    for part in ("+10.00%", "1.00%", "95.0%", "4,000", "mx4 on mtia100", "mtia450: quality against speed", "2 MB"):
        assert part in page
    assert page.count('fill="#2a6f97"') == 3  # bf16 alone on the 100; on the 450 the slow one is better, the fast worse
    alone = Study(title="", scored="", unit="", loss="", rows=[Row(plan="x", speeds=[Speed(chip="c", refused="no")])])
    assert "this chip multiplies none" in quality_page.plot(alone, "c")


def test_pareto_keeps_what_nothing_beats():
    assert quality.pareto([(1, 5), (2, 2), (3, 3), (4, 1), (4, 1)]) == [0, 1, 3, 4]


def test_plans_schemes_files_and_recipes_of_the_package(tmp_path: Path):
    subject = Canned()
    head, layer = (subject.recipe_of("mx4").scheme_for(n) for n in ("lm_head", "up_proj"))
    assert head is None and layer is not None and layer.name == "mx4"
    path = Recipe(plan=Plan.of("fp8"), shift=True).save(tmp_path / "r.json")
    assert subject.recipe_of(str(path)).shift
    with pytest.raises(BadProblem, match=r"plan = 'best:mx4'; known: none"):
        subject.recipe_of("best:mx4")


def test_scored_text_and_calibration_text_share_no_window_and_no_paragraph():
    whole = [" ".join(p.split()) for p in text.paragraphs()]
    assert len(set(whole)) == len(whole) > 1000
    scored, calibration = text.scored(40, 512), text.calibration(40, 512)
    assert not {tuple(w.tolist()) for w in scored} & {tuple(w.tolist()) for w in calibration}
    with pytest.raises(BadProblem, match=r"windows = 4000; 1 to \d+ of 512 tokens"):
        text.scored(4000, 512)


def test_a_language_model_is_scored():
    found = study(Llm(n_windows=2, length=24), ["int8"], [], timed=False)
    base, low = found.rows
    assert "46 tokens of pydoc_data.topics" in found.scored and "2 windows" in found.scored
    assert base.loss_frac == 0 and base.low_frac == 0 and base.figures["same_frac"] == 1
    assert 0.78 < low.low_frac < 0.80  # the head stays: 21 % of multiplies
    assert 0 < low.figures["kl_nats"] < 0.3 and 0 < low.figures["same_frac"] <= 1
    assert low.loss_error_frac > 0 and low.memory_bytes < 0.7 * base.memory_bytes


def test_windows_too_short_are_refused():
    with pytest.raises(BadProblem, match="length = 1; windows of 2 tokens or more"):
        Llm(length=1)


def test_an_encoder_keeps_its_embeddings_and_their_order():
    found = study(Encoder(8), ["int8", "mx4:even"], [SIX[4]], check=1)
    base, int8, mx4 = found.rows
    assert base.figures["cosine"] == pytest.approx(1) and base.figures["device_off"] < 0.03
    assert 0.99 < int8.figures["cosine"] < 1 and mx4.figures["cosine"] < int8.figures["cosine"]
    assert mx4.figures["rank"] < int8.figures["rank"] < 1
    assert all(row.speeds[0].per_s > 0 and row.speeds[0].j_each > 0 for row in found.rows)
    with pytest.raises(BadProblem, match=r"sentences = 2; 3 to"):
        Encoder(2)


def test_agreement_of_ranks_and_neighbours():
    e = torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert rank_agreement(e, e) == pytest.approx(1) and same_nearest(e, e) == 1
    far = torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    assert abs(rank_agreement(far, e)) < 0.3 and same_nearest(far, e) < 0.5


def test_a_recommender_keeps_its_auc():
    found = study(Recommender(steps=20, n_samples=4000), ["int8", "mx4:even"], [SIX[1]])
    base, int8, mx4 = found.rows
    assert base.figures["auc"] > 0.6 and abs(int8.loss_frac) < 0.002 and abs(mx4.loss_frac) < 0.02
    assert mx4.memory_bytes < int8.memory_bytes < base.memory_bytes
    assert int8.speeds[0].per_s > 0 and "mtia200 has no mx4" in mx4.speeds[0].refused
    with pytest.raises(BadProblem, match="--check = 1; 0 for dlrm"):
        study(Recommender(steps=1, n_samples=100), [], [], check=1)


def test_tables_in_their_formats():
    plan = Plan.of({"a": "int8", "b": "mx4", "*": "bf16"})
    assert [table_bits(plan.scheme_for(n), 32) for n in "abc"] == [9.0, 4.5, 16.0]
    scheme = plan.scheme_for("a")
    assert scheme is not None
    table = torch.randn(5, 20)
    assert (rounded_rows(table, scheme) - table).abs().amax() <= table.abs().amax() / 127 / 2 + 1e-6


def test_the_command_names_models_and_what_is_searched(tmp_path: Path):
    def asked(*arguments: str) -> str:
        with pytest.raises(BadProblem) as error:
            typer.main.get_command(quality_command.app)(list(arguments), standalone_mode=False)
        return str(error.value)

    assert "model = 'minlm'; known: smollm2, minilm, dlrm" in asked("minlm")
    assert "smollm2 alone is searched" in asked("dlrm", "--search", "int8", "--out", str(tmp_path))
