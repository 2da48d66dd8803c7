"""The guard: the committed sample is predicted no worse than the committed tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtia.validate import expected
from mtia.validate.flow import Options, validate
from mtia.validate.page import not_predicted_lines
from mtia.validate.rows import read_folder

ROOT = Path(__file__).parents[2] / "validation"


def test_the_sample_says_where_it_comes_from():
    tables, errors = read_folder(ROOT / "sample")
    readme = (ROOT / "sample" / "README.md").read_text()
    assert not errors and all(not table.errors for table in tables)
    assert all(table.file.removesuffix(".csv") in readme for table in tables)
    assert 200 < sum(len(table.cases) for table in tables) < 400


@pytest.mark.slow
def test_errors_on_the_sample_are_not_above_the_committed_ones():
    results = validate(Options(folder=ROOT / "sample", jobs=2))
    worse = expected.worse(results, expected.read(ROOT / "expected.json"))
    told = "\n".join([*worse, *not_predicted_lines(results)])
    assert not worse, f"{told}\nMeant? mtia validate --update-expected validation/expected.json, and say so"
