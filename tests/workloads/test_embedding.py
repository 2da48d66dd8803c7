"""Table-batched lookups: laws, and what a rate counts."""

from __future__ import annotations

from typing import Any

import pytest

from mtia.chips import load
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.workloads import embedding
from mtia.workloads.embedding import counted_bytes, predict_tbe

SPEC = load("mtia100")
SMALL: dict[str, Any] = dict(row_dtype="int8", batch=16, pooling=8, rows=1000, dim=64, tables=4)


def seconds(**changes: Any) -> float:
    return predict_tbe(SPEC, **{**SMALL, **changes}).seconds


@pytest.mark.parametrize("what, more", [("pooling", 33), ("batch", 64), ("tables", 16), ("dim", 256)])
def test_more_work_takes_more_time(what: str, more: int):
    assert seconds(**{what: more}) > seconds()


@pytest.mark.parametrize("pooling", [1, 20])
@pytest.mark.parametrize("dim", [64, 256])
def test_tables_that_fit_sram_are_never_slower(pooling: int, dim: int):
    """32 tables of 100 rows fit, 32 of a million do not."""
    of = dict(row_dtype="int8", batch=32, pooling=pooling, dim=dim)
    small, large = (predict_tbe(SPEC, rows=rows, **of) for rows in (100, 1_000_000))  # type: ignore[arg-type]
    assert small.seconds <= large.seconds
    assert small.timings[0].dram_read_bytes == 0 < large.timings[0].dram_read_bytes


@pytest.mark.parametrize("rows", [100, 300_000, 3_000_000])
def test_bytes_are_conserved(rows: int):
    """Rows of whole tiles of 16 with scale and bias, indices, outputs: what is asked for is found or fetched."""
    found = predict_tbe(SPEC, **{**SMALL, "rows": rows}).timings[0]
    bags = 4 * 16
    assert found.requested_bytes == bags * (8 * 4 + 16 * (64 + 8) + 64 * 2)
    assert found.noc_bytes == found.requested_bytes


def test_long_lookups_go_on_as_they_began(monkeypatch: pytest.MonkeyPatch):
    """A lookup of 16 bags a PE, cut at 8, and walked whole."""
    of = {**SMALL, "batch": 256, "pooling": 16}
    cut = predict_tbe(SPEC, **of)
    monkeypatch.setattr(embedding, "WAVES", 16)
    whole = predict_tbe(SPEC, **of)
    assert cut.seconds == pytest.approx(whole.seconds, rel=0.01)
    assert sum(cut.parts.values()) == pytest.approx(cut.seconds)


def test_indexed_dma_makes_lookups_faster():
    """One command for a tile of rows instead of one a row."""
    spec = SPEC.vary({"pe.dma.indexed": True})
    assert predict_tbe(spec, **SMALL).seconds < predict_tbe(SPEC, **SMALL).seconds


def test_a_rate_counts_rows_and_pooled_outputs():
    assert counted_bytes("int8", 64, 20, 256) == 32 * 64 * 256 * (20 + 2)
    assert counted_bytes("fp16", 1, 1, 8) == 32 * 8 * (2 + 2)


def test_what_makes_no_sense_is_told():
    with pytest.raises(BadProblem, match=r"tbe: pooling = 0; sizes are at least 1\."):
        seconds(pooling=0)
    with pytest.raises(UnsupportedDtype, match=r"tbe: mtia100 has no int4; it supports int8, fp16"):
        seconds(row_dtype="int4")
