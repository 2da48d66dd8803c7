"""Expert blocks: how many rows each expert gets, laws of the predicted time, what a slice leaves out, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtia import chips
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.workloads import moe
from mtia.workloads.launches import Memory
from mtia.workloads.moe import (
    FORMATS,
    FUSED,
    LIBRARY,
    MARLIN,
    PORTABLE,
    SGLANG,
    SGLANG_MULTIPLYING,
    build_of,
    expert_rows,
    predict_moe,
)

CHIP = "h100_sxm"
SMALL: dict[str, Any] = dict(tokens=64, hidden=2048, inter=1024, topk=4, experts=32)


def seconds(**changes: Any) -> float:
    return predict_moe(chips.load(CHIP), **{**SMALL, **changes}).seconds


# --- rows -------------------------------------------------------------------------------------------------------------


def test_balanced_routing_is_as_even_as_whole_rows_can_be() -> None:
    rows = expert_rows(100, 8, 64, 4, "balanced")
    assert len(rows) == 16
    assert set(rows) <= {12, 13}
    assert rows.sum() == 200
    assert (expert_rows(1, 8, 64, 8, "balanced") > 0).sum() == 1  # one of its eight experts on each rank


@pytest.mark.parametrize(("tokens", "topk", "experts", "ranks"), [(512, 8, 64, 8), (4096, 2, 8, 2), (3, 8, 256, 4)])
def test_skewed_routing_gives_the_busiest_rank(tokens: int, topk: int, experts: int, ranks: int) -> None:
    rows = expert_rows(tokens, topk, experts, ranks, "power_law_1.2")
    assert len(rows) == experts // ranks
    assert rows.min() >= 0
    assert rows.max() <= tokens  # a token goes to an expert once
    assert rows.sum() >= tokens * topk / ranks
    assert np.array_equal(rows, expert_rows(tokens, topk, experts, ranks, "power_law_1.2"))
    all_rows = expert_rows(tokens, topk, experts, 1, "power_law_1.2")
    assert all_rows.sum() == tokens * topk


def test_a_steeper_law_is_more_skewed() -> None:
    flat, steep = (expert_rows(4096, 8, 64, 1, f"power_law_{a}").max() for a in (0.5, 1.5))
    assert steep > 1.5 * flat


def test_missing_rows_go_to_ranks_in_turn() -> None:
    rows = moe._with_sum(np.array([5, 0, 0, 0]), total=9, most=8, ranks=2)
    assert rows.tolist() == [5, 2, 1, 1]
    assert moe._with_sum(np.array([5, 3, 4, 0]), total=8, most=8, ranks=2).tolist() == [3, 3, 2, 0]


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8_block", "w4a16_mxfp4"])
def test_more_tokens_are_never_faster(dtype: str) -> None:
    times = [seconds(tokens=tokens, dtype=dtype) for tokens in (4, 32, 256, 2048)]
    assert times == sorted(times)


def test_more_experts_touched_stream_more_weights() -> None:
    assert seconds(tokens=8, topk=8) > 1.3 * seconds(tokens=8, topk=2)
    assert seconds(moe_tp=1) > 1.3 * seconds(moe_tp=4)


def test_skewed_routing_is_never_faster_than_even_routing_where_multiplies_bind() -> None:
    many = dict(tokens=4096, moe_ep=4)
    assert seconds(**many, distribution="power_law_1.2") > 1.2 * seconds(**many)


def test_weights_are_those_of_the_touched_experts_in_their_format() -> None:
    spec = chips.load("b200_sxm")
    rows = expert_rows(4, 2, 32, 1, "balanced")
    per_weight = {"bfloat16": 2, "fp8": 1, "nvfp4": 0.5625, "w4a16_mxfp4": 0.53125, "w4a8_mxfp4_mxfp8": 0.53125}
    for dtype, n_bytes in per_weight.items():
        block = moe.Block(
            tokens=4, hidden=2048, inter=1024, topk=2, experts=32, rows=rows, gated=True, format=FORMATS[dtype],
            build=LIBRARY,
        )  # fmt: skip
        grouped = moe.Grouped(rows=block.touched, n=2048, k=2048, block=block, spec=spec)
        assert grouped.weights(Memory(spec)).n_bytes == pytest.approx(8 * 2048 * 2048 * n_bytes, rel=1e-3)


def test_four_bit_weights_beat_wide_ones_where_weights_bind() -> None:
    assert seconds(dtype="w4a16_mxfp4") < seconds(dtype="fp8") < seconds()


def test_the_same_block_twice_takes_the_same_time() -> None:
    assert seconds(tokens=333, distribution="power_law_1.2") == seconds(tokens=333, distribution="power_law_1.2")


@pytest.mark.parametrize("tokens", [16, 1024])
def test_slices_stand_for_the_whole(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sliced = seconds(tokens=tokens)
    monkeypatch.setattr(moe, "FEW_STEPS", 10_000)
    monkeypatch.setattr(moe, "FEW_WAVES", 10_000)
    monkeypatch.setattr(moe, "MOST_ROWS", 1 << 30)
    assert sliced == pytest.approx(seconds(tokens=tokens), rel=0.1)


# --- builds -----------------------------------------------------------------------------------------------------------


def test_builds_by_the_names_in_measured_data() -> None:
    assert build_of("trtllm moe_torch_flow_cutlass") == LIBRARY
    assert build_of("vllm vllm_unquantizedfusedmoe_triton_tritonexperts") == PORTABLE
    assert build_of("sglang sglang_fused_moe_triton", "0.5.10") == SGLANG_MULTIPLYING
    assert build_of("sglang sglang_fused_moe_triton", "0.5.14") == SGLANG
    assert build_of("vllm vllm_gptossmxfp4moe_marlin_marlinexperts") == MARLIN
    assert build_of("sglang_flashinfer_trtllm_moe") == FUSED


def test_a_build_has_the_launches_it_says() -> None:
    spec = chips.load(CHIP)
    names = {
        name: [t.name for t in predict_moe(spec, **SMALL, build=build).timings]
        for name, build in (("library", LIBRARY), ("fused", FUSED), ("portable", PORTABLE))
    }
    assert "mtia_permute" in names["library"]
    assert "mtia_permute" not in names["portable"]
    assert "mtia_silu_mul" not in names["fused"]
    assert len(names["fused"]) < len(names["portable"]) < len(names["library"])


def test_remote_assignments_cost_what_the_build_does_with_them() -> None:
    many = dict(tokens=4096, moe_ep=4)
    dropped, here, multiplied = (seconds(**many, build=b) for b in (LIBRARY, SGLANG, SGLANG_MULTIPLYING))
    assert multiplied > here
    assert multiplied > 1.5 * dropped
    few = dict(tokens=4096, moe_ep=16, topk=2)  # most tokens have no expert here
    assert seconds(**few, build=PORTABLE) > seconds(**few, build=SGLANG)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_refusals_name_the_argument() -> None:
    with pytest.raises(BadProblem, match=r"moe_ep = 5; must divide 32"):
        seconds(moe_ep=5)
    with pytest.raises(BadProblem, match=r"topk = 64; there are 32 experts"):
        seconds(topk=64)
    with pytest.raises(BadProblem, match=r"tokens = 0; at least 1"):
        seconds(tokens=0)
    with pytest.raises(BadProblem, match=r"distribution = 'zipf'; known are 'balanced' and 'power_law_<exponent>'"):
        seconds(distribution="zipf")
    with pytest.raises(UnsupportedDtype, match="fp8"):
        predict_moe(chips.load("a100_sxm"), **SMALL, dtype="fp8")
