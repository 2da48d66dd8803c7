"""The committed error tables: what counts as worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mtia.validate import expected
from mtia.validate.cases import GemmCase
from mtia.validate.predict import Answer, Status
from mtia.validate.results import RowResult
from mtia.validate.validation import Results
from mtia.workloads.prediction import Protocol


def row(measured_s: float, predicted_s: float, *, chip: str = "c", line: int = 2) -> RowResult:
    case = GemmCase(table="gemm", file="g.csv", line=line, system=chip, dtype="fp8", measured_s=measured_s, m=1, n=1,
                    k=1, protocol=Protocol.KERNEL)  # fmt: skip
    return RowResult(case=case, chip=chip, answer=Answer(status=Status.PREDICTED, seconds=predicted_s, bound="dram"))


def results(*ratios: float, chip: str = "c") -> Results:
    return Results(folder="f", rows=[row(1.0, ratio, chip=chip, line=i) for i, ratio in enumerate(ratios)])


def test_the_same_is_not_worse(tmp_path: Path):
    before = results(1.1, 1.2, 0.9)
    expected.write(tmp_path / "e.json", before)
    assert expected.worse(before, expected.read(tmp_path / "e.json")) == []


def test_rounding_is_not_worse_and_more_is(tmp_path: Path):
    committed = expected.document(results(1.1, 1.1, 1.1))
    assert expected.worse(results(1.1004, 1.1004, 1.1004), committed) == []
    lines = expected.worse(results(1.11, 1.11, 1.11), committed)
    assert "all, all: mean_frac 11.00 %, was 10.00 %" in lines


def test_better_is_not_worse():
    assert expected.worse(results(1.0, 1.0), expected.document(results(1.1, 0.8))) == []


def test_a_group_that_lost_rows_is_named():
    lines = expected.worse(results(1.1), expected.document(results(1.1, 1.1)))
    assert "by_chip, c: 1 rows, were 2" in lines
    lines = expected.worse(results(1.1, chip="d"), expected.document(results(1.1)))
    assert "by_chip, c: no rows any more" in lines


def test_rows_that_fail_now_are_named():
    before = results(1.1)
    lines = expected.worse(replace(before, failed=[row(1.0, 1.0)]), expected.document(before))
    assert lines == ["failed: 1 rows, 0 before"]


@pytest.mark.parametrize(
    ("text", "said"), [(None, "there is no such file"), ("{", "is not JSON"), ("{}", "no error tables")]
)
def test_a_file_that_cannot_be_read_says_how_to_write_it(tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "e.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(expected.ExpectedFileError) as info:
        expected.read(path)
    assert said in str(info.value) and "--update-expected" in str(info.value)
