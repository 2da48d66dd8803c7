"""From a folder to tables: chips, dispatch, sampling, the order of answers, what is said of rows without a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtia import chips
from mtia.errors import UnsupportedDtype
from mtia.validate import predict
from mtia.validate.flow import Options, select, validate
from mtia.validate.page import not_predicted_lines, to_json
from mtia.validate.reading import MeasuredDataError, MeasuredDataErrors
from mtia.validate.sampling import write_rows
from mtia.workloads.prediction import Prediction

GEMM = "system,dtype,m,n,k,latency_us"
SHAPES = [(m, 64 * n, 4096) for m in (1, 16, 256) for n in range(1, 11)]


def gemm_rows(*systems: str, dtypes: tuple[str, ...] = ("bfloat16",)) -> str:
    lines = [f"{s},{d},{m},{n},{k},{m * n / 100 + 5}" for s in systems for d in dtypes for m, n, k in SHAPES]
    return "\n".join([GEMM, *lines])


@pytest.fixture
def twice(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """predict_gemm says twice the latency that `gemm_rows` writes; the arguments it was given."""
    given: list[dict[str, Any]] = []

    def predict_gemm(spec, **arguments):
        given.append(arguments)
        if arguments["dtype"] == "fp8":
            raise UnsupportedDtype("matrix multiplication", chip=spec.name, dtype="fp8", supported=("bf16",))
        seconds = 2e-6 * (arguments["m"] * arguments["n"] / 100 + 5)
        return Prediction(seconds=seconds, bound="dram", parts={"dram": seconds}, how="tiles 64 x 64")

    monkeypatch.setattr(predict, "_function", lambda module, name: predict_gemm if module == "gemm" else None)
    return given


def run(folder: Path, **options: Any):
    return validate(Options(folder=folder, jobs=1, **options))


def test_a_prediction_of_twice_is_off_by_a_hundred_percent(folder, twice):
    results = run(folder(gemm=gemm_rows("h100_sxm", "a100_sxm")))
    assert len(results.rows) == 60 and results.complete
    document = to_json(results, n_worst=3)
    ours = document["tables"]["by_file_and_chip"]["gemm, h100_sxm"]["ours"]
    assert ours["n"] == 30 and ours["mean_frac"] == ours["bias_frac"] == pytest.approx(1.0)
    assert ours["spearman"] == pytest.approx(1.0)
    assert len(document["worst"]) == 3 and document["worst"][0]["how"] == "tiles 64 x 64"
    assert twice[0]["weight_copies"] == 6 and set(document["constants"]) == {"a100_sxm", "h100_sxm"}


def test_answers_keep_the_order_of_the_rows(folder, twice):
    results = run(folder(gemm=gemm_rows("h100_sxm", "a100_sxm")))
    assert [r.case.line for r in results.rows] == list(range(2, 62))
    assert all(r.predicted_s == pytest.approx(2 * r.measured_s) for r in results.rows)


def test_a_row_that_raises_is_listed_and_the_rest_goes_on(folder, twice):
    results = run(folder(gemm=gemm_rows("h100_sxm", dtypes=("bfloat16", "fp8"))))
    assert len(results.rows) == 30 and len(results.failed) == 30 and not results.complete
    text = "\n".join(not_predicted_lines(results))
    assert (
        "30 rows failed" in text
        and "h100_sxm has no fp8" in text
        and "gemm.csv:32" in text
        and "(30 rows like it)" in text
    )


def test_rows_without_a_predictor_are_counted(folder, twice):
    moe = "system,framework,kernel,dtype,gated,tokens,hidden,inter,topk,experts,moe_tp,moe_ep,distribution,latency_us"
    at = folder(gemm=gemm_rows("h100_sxm"), moe=f"{moe}\nh100_sxm,vllm,v,bfloat16,1,8,64,64,2,8,1,1,balanced,9")
    results = run(at)
    assert len(results.missing) == 1 and results.complete
    assert "moe.csv: no predictor yet (mtia.workloads.moe.predict_moe): 1 rows" in "\n".join(
        not_predicted_lines(results)
    )


def test_serving_rows_are_said_to_be_later(folder, twice):
    head = "id,backend,model,system,isl,osl,batch_size,ttft_ms,tpot_ms"
    results = run(folder(e2e=f"{head}\n1,vllm,m,h100_sxm,10,10,4,5,6"))
    assert list(not_predicted_lines(results)) == [
        "e2e.csv: not predicted yet (serving is a later issue): 1 rows"
    ]  # fmt: skip


# --- chips ------------------------------------------------------------------------------------------------------------


def test_an_unknown_chip_names_its_row_and_what_is_known(folder):
    with pytest.raises(MeasuredDataErrors) as info:
        select(Options(folder=folder(gemm=gemm_rows("h100_sxm", "h1000_sxm"))))
    text = str(info.value)
    assert "gemm.csv:32: system 'h1000_sxm': is no chip that is known" in text and "(29 more rows like it)" in text
    assert "mtia300" in text and "Did you mean 'h100_sxm'?" in text and "chips.json" in text


def test_unknown_rows_can_be_skipped_and_are_said(folder, twice):
    results = run(folder(gemm=gemm_rows("h100_sxm", "h1000_sxm")), skip_unknown=True)
    assert len(results.rows) == 30 and not results.complete
    assert "skipped: gemm.csv:32: system 'h1000_sxm'" in "\n".join(not_predicted_lines(results))


def test_published_figures_beside_the_data_make_a_chip(folder, twice):
    at = folder(gemm=gemm_rows("newchip"))
    entry = {"bf16": 500, "hbm_gbs": 2500, "sms": 100, "boost_mhz": 1500, "l2_mib": 40, "tdp_w": 500, "hbm_gib": 80}
    (at / "chips.json").write_text(json.dumps({"_comment": "x", "NewChip": entry}))
    results = run(at)
    assert results.chips["newchip"].dram.bytes_per_s == 2.5e12 and "chips.json" in results.origins["newchip"]
    assert len(results.rows) == 30


def test_published_figures_of_a_chip_that_we_have_are_compared_or_taken(folder, twice):
    at = folder(gemm=gemm_rows("h100_sxm"))
    entry = {"bf16": 989, "hbm_gbs": 2000, "sms": 132, "boost_mhz": 1980, "l2_mib": 50, "tdp_w": 700, "hbm_gib": 80}
    (at / "chips.json").write_text(json.dumps({"h100_sxm": entry}))
    known, made = run(at), run(at, published=True)
    assert known.chips["h100_sxm"].dram.bytes_per_s == pytest.approx(3.35e12, rel=0.01)
    assert "chips.json has hbm_gbs 2000, the chip 335" in known.origins["h100_sxm"]
    assert made.chips["h100_sxm"].dram.bytes_per_s == 2e12 and "published figures alone" in made.note


def test_a_chip_file_beside_the_data_comes_first(folder, twice):
    at = folder(gemm=gemm_rows("h100_sxm"))
    source = 'source = { kind = "chosen", why = "test" }'
    (at / "ours.toml").write_text(f'name = "h100_sxm"\nbase = "h100_sxm"\n[clock_hz]\nvalue = 1e9\n{source}\n')
    results = run(at)
    assert results.chips["h100_sxm"].clock_hz == 1e9 and "chip file" in results.origins["h100_sxm"]


def test_names_in_measured_data_are_aliases(folder, twice):
    results = run(folder(gemm=gemm_rows("A100")))
    assert results.chips["A100"].name == "a100_sxm" and {r.chip for r in results.rows} == {"a100_sxm"}


def test_pooled_runs_have_no_calibrated_figure(folder, twice):
    results = run(folder(gemm=gemm_rows("h100_sxm")), pooled=True)
    kinds = {f.source.kind.value for f in results.chips["h100_sxm"].figures.values()}
    assert "calibrated" not in kinds and "pooled over the other chips" in results.note
    assert chips.load("h100_sxm").name in results.chips["h100_sxm"].name


# --- choosing rows ----------------------------------------------------------------------------------------------------


def picked(folder: Path, **options: Any) -> list[str]:
    return [",".join(c.cells) for c in select(Options(folder=folder, **options)).cases]


def test_a_sample_does_not_depend_on_the_order_of_rows(tmp_path, folder):
    head, *lines = gemm_rows("h100_sxm", "a100_sxm", dtypes=("bfloat16", "fp8")).splitlines()
    at = folder(gemm="\n".join([head, *lines]))
    first = picked(at, sample_n=4)
    (at / "gemm.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert sorted(picked(at, sample_n=4)) == sorted(first) and len(first) == 8
    assert [
        sum(line.startswith(f"{c},{d}") for line in first)
        for c in ("h100_sxm", "a100_sxm")
        for d in ("bfloat16", "fp8")
    ] == [2] * 4


def test_draws_have_no_row_in_common(folder):
    at = folder(gemm=gemm_rows("h100_sxm"))
    draws = [set(picked(at, sample_n=10, draw=draw)) for draw in range(3)]
    assert [len(d) for d in draws] == [10, 10, 10] and len(set.union(*draws)) == 30


def test_a_sample_of_a_sample_is_the_smaller_one(folder):
    at = folder(gemm=gemm_rows("h100_sxm"))
    assert set(picked(at, sample_n=3)) < set(picked(at, sample_n=7))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"chips": ("h200_sxm",)}, "--chip: 'h200_sxm': has no rows here. There are a100_sxm, h100_sxm."),
        ({"files": ("gem",)}, "gem: is no table of this folder. There are gemm. Did you mean 'gemm'?"),
        ({"dtypes": ("fp9",)}, "--dtype: 'fp9': has no rows here. There are bfloat16."),
    ],
)
def test_a_choice_without_rows_names_what_there_is(folder, options, text):
    with pytest.raises(MeasuredDataError) as info:
        select(Options(folder=folder(gemm=gemm_rows("h100_sxm", "a100_sxm")), **options))
    assert text in str(info.value)


def test_chosen_rows_are_written_as_they_were(tmp_path: Path, folder: Callable[..., Path]):
    at = folder(gemm=gemm_rows("h100_sxm", "a100_sxm"))
    chosen = select(Options(folder=at, chips=("a100_sxm",), sample_n=5))
    (path,) = write_rows(tmp_path / "out", chosen.tables, chosen.cases)
    assert path.read_text().splitlines()[0] == GEMM
    assert set(path.read_text().splitlines()[1:]) == set(picked(at, chips=("a100_sxm",), sample_n=5))
