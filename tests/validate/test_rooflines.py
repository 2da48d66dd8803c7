"""The competition: least work by hand, and a fit that finds what made the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtia import chips
from mtia.validate.aims import verdicts
from mtia.validate.cases import AttentionCase, CollectiveCase, GemmCase, MoeCase
from mtia.validate.predict import Answer, Status
from mtia.validate.results import RowResult
from mtia.validate.rooflines import LEAST_ROWS, fit, least_s, roof_times, rooflines
from mtia.validate.work import work_of
from mtia.workloads.prediction import Protocol

ROW = {"table": "t", "file": "f.csv", "line": 2, "system": "h100_sxm", "measured_s": 1e-3}
GEMM = GemmCase(**ROW, dtype="bfloat16", m=256, n=512, k=1024, protocol=Protocol.GRAPH_CHAIN)


def attention(**changes) -> AttentionCase:
    shape = {"decode": False, "batch": 2, "seq": 4, "heads": 8, "kv_heads": 2, "head_dim": 64, "window": 0}
    return AttentionCase(**ROW, dtype="bfloat16", kv_dtype="fp8", **(shape | changes))


def test_work_of_a_multiplication():
    work = work_of(GEMM)
    assert work is not None and work.flop == 2 * 256 * 512 * 1024
    assert work.n_bytes == 2 * (256 * 1024 + 512 * 1024 + 256 * 512)


def test_work_of_attention():
    prefill, decode, window = work_of(attention()), work_of(attention(decode=True)), work_of(attention(window=2))
    assert prefill and decode and window
    assert prefill.flop == 4 * 2 * 8 * 64 * (1 + 2 + 3 + 4) and window.flop == 4 * 2 * 8 * 64 * (1 + 2 + 2 + 2)
    assert decode.flop == 4 * 2 * 8 * 64 * 4
    assert decode.n_bytes == 2 * 2 * 2 * 4 * 64 + 4 * 2 * 8 * 64  # keys and values of one byte, q and out of two


def test_work_of_experts_that_all_see_tokens():
    case = MoeCase(**ROW, dtype="bfloat16", tokens=4096, hidden=64, inter=32, topk=2, experts=8, moe_tp=1, moe_ep=1,
                   gated=True, distribution="balanced")  # fmt: skip
    work = work_of(case)
    assert work is not None and work.flop == 2 * 8192 * 64 * 32 * 3


@pytest.mark.parametrize(("op", "share"), [("all_reduce", 2 * 7 / 8), ("all_gather", 7 / 8), ("send_recv", 1)])
def test_collectives_are_bounded_by_the_link(op, share):
    case = CollectiveCase(**ROW, dtype="bfloat16", op=op, n_bytes=1 << 30, ranks=8, library="nccl",
                          protocol=Protocol.GRAPH_CHAIN)  # fmt: skip
    spec = chips.load("h100_sxm")
    assert spec.scale_up is not None
    assert roof_times(case, spec) == (0.0, pytest.approx(share * (1 << 30) / spec.scale_up.bytes_per_s))


def test_roof_of_a_multiplication():
    spec = chips.load("h100_sxm")
    times = roof_times(GEMM, spec)
    assert times is not None and times[0] == pytest.approx(2 * 256 * 512 * 1024 / spec.peak_flop_per_s("bf16"))


def test_the_fit_finds_what_made_the_data():
    byte_s = np.geomspace(1e-7, 1e-3, 60)
    flop_s = byte_s[::-1].copy()
    made = 3e-6 + np.maximum(flop_s / 0.6, byte_s / 0.9)
    found = fit(flop_s, byte_s, made)
    assert (found.flop_frac, found.byte_frac) == (pytest.approx(0.6, rel=0.01), pytest.approx(0.9, rel=0.01))
    assert found.floor_s == pytest.approx(3e-6, rel=0.01)


def test_each_operator_and_format_has_a_fit_of_its_own():
    cases = [replace(GEMM, line=i, dtype=d, m=64 * i) for i in range(LEAST_ROWS) for d in ("bfloat16", "fp8")]
    plain, calibrated, fits = rooflines(cases, {"h100_sxm": chips.load("h100_sxm")})
    assert len(fits) == 2 and np.isfinite(plain).all() and np.isfinite(calibrated).all()


def test_too_few_rows_have_no_fit():
    cases = [replace(GEMM, line=i) for i in range(LEAST_ROWS - 1)]
    plain, calibrated, fits = rooflines(cases, {"h100_sxm": chips.load("h100_sxm")})
    assert not fits and np.isfinite(plain).all() and np.isnan(calibrated).all()


def test_no_row_is_faster_than_the_pins_for_what_sram_cannot_hold():
    chip = chips.load("h100_sxm")
    small, large = attention(decode=True, batch=1), attention(decode=True, batch=512, seq=65536)
    work = work_of(large)
    assert work is not None and least_s(small, chip) == 0.0
    assert least_s(large, chip) == (work.n_bytes - chip.sram.capacity_bytes) / chip.dram.bytes_per_s
    row = RowResult(case=large, chip="h100_sxm", answer=Answer(status=Status.PREDICTED, seconds=1.0), least_s=2e-3)
    assert not row.is_possible and replace(row, least_s=5e-4).is_possible  # measured: 1 ms
    titles = [v.title for v in verdicts([row, replace(row, least_s=0.0)])]
    assert "attention decode that memory pins allow, mean" in titles
    assert [v.n for v in verdicts([row, replace(row, least_s=0.0)]) if "decode" in v.title] == [2, 2, 1, 1]
