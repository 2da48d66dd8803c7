"""Fully connected layers as Meta's kernels map them."""

from __future__ import annotations

import pytest

from mtia.chips import load
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.workloads.fc import predict_fc

SPEC = load("mtia100")


def seconds(m: int, k: int, n: int, dtype: str = "int8", weights_in: str = "sram", **changes: object) -> float:
    spec = SPEC.vary({key.replace("__", "."): value for key, value in changes.items()}) if changes else SPEC
    return predict_fc(spec, m=m, k=k, n=n, dtype=dtype, weights_in=weights_in).seconds


@pytest.mark.parametrize("dtype, rate", [("int8", 103.5e12), ("fp16", 52.1e12)])
def test_rows_stream_past_weights_at_the_engines_speed(dtype: str, rate: float):
    """Twice the rows take the multiplies of the second half longer, and nothing else: what the published bars fit."""
    longer, shorter = seconds(4096, 1024, 1024, dtype), seconds(2048, 1024, 1024, dtype)
    assert longer - shorter == pytest.approx(2 * 2048 * 1024 * 1024 / rate, rel=0.02)


def test_sram_is_never_slower_than_dram_and_weights_are_fetched_once():
    for m, k, n in ((128, 512, 512), (256, 1024, 320)):
        assert seconds(m, k, n) <= seconds(m, k, n, weights_in="dram")
    found = predict_fc(SPEC, m=64, k=1024, n=1024, dtype="int8", weights_in="sram")
    assert found.timings[0].dram_read_bytes == 0
    assert found.timings[0].flop == 2 * 64 * 1024 * 1024


def test_parts_add_up_and_the_choice_is_told():
    found = predict_fc(SPEC, m=256, k=512, n=512, dtype="fp16")
    assert sum(found.parts.values()) == pytest.approx(found.seconds, rel=1e-9)
    assert found.how.startswith("stationary weights, panels of ")
    assert found.parts["launch"] == SPEC.launch.replace_s


@pytest.mark.parametrize("chip", ["mtia200", "mtia300", "mtia400"])
def test_other_chips_and_odd_sizes(chip: str):
    spec = load(chip)
    for place in ("sram", "dram"):
        found = predict_fc(spec, m=100, k=384, n=200, dtype="bf16", weights_in=place)
        assert found.seconds >= 2 * 100 * 384 * 200 / spec.peak_flop_per_s("bf16")


def test_what_makes_no_sense_is_told():
    with pytest.raises(BadProblem, match=r"fc: weights_in = 'hbm'; allowed: sram, dram\."):
        predict_fc(SPEC, m=1, k=1, n=1, dtype="int8", weights_in="hbm")
    with pytest.raises(BadProblem, match=r"fc: k = 0; sizes are at least 1\."):
        predict_fc(SPEC, m=1, k=0, n=1, dtype="int8")
    with pytest.raises(UnsupportedDtype, match=r"fc: mtia100 has no int3; it supports int8, fp16"):
        predict_fc(SPEC, m=1, k=1, n=1, dtype="int3")
