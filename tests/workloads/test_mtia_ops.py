"""Batch multiply, concatenation and dequantisation of small matrices."""

from __future__ import annotations

from typing import Any

import pytest

from mtia.chips import load
from mtia.errors import BadProblem
from mtia.workloads.mtia_ops import OPS, counted_bytes, predict_tensor_op

SPEC = load("mtia100")
SHAPE: dict[str, Any] = dict(m=256, k=128, n=32)


@pytest.mark.parametrize("op, n_bytes", [("batchmatmul", 90_112), ("concat", 163_840), ("dequantize", 165_888)])
def test_an_item_counts_each_tensor_once(op: str, n_bytes: int):
    assert counted_bytes(op, **SHAPE) == n_bytes


@pytest.mark.parametrize("op", OPS)
def test_places_and_roofs(op: str):
    """From SRAM nothing goes to DRAM; from DRAM each byte is fetched once and, in the long run, written back once."""
    near, far = (predict_tensor_op(SPEC, op=op, **SHAPE, tensors_in=place) for place in ("sram", "dram"))
    assert near.seconds < far.seconds
    assert near.seconds >= counted_bytes(op, **SHAPE) / SPEC.sram.bytes_per_s
    assert sum(t.dram_read_bytes + t.dram_write_bytes for t in near.timings) == 0
    moved = sum(t.dram_read_bytes + t.dram_write_bytes for t in far.timings)
    batch = int(far.how.split()[2].rstrip(","))
    assert moved == pytest.approx(batch * counted_bytes(op, **SHAPE), rel=0.03)


def test_a_faster_dram_is_never_slower():
    fast = SPEC.vary({"dram.bytes_per_s": 2 * SPEC.dram.bytes_per_s})
    slow, quick = (predict_tensor_op(s, op="concat", **SHAPE, tensors_in="dram").seconds for s in (SPEC, fast))
    assert quick < slow


def test_what_makes_no_sense_is_told():
    with pytest.raises(BadProblem, match=r"tensor op: op = 'concatenate'; allowed: batchmatmul, concat, dequantize"):
        predict_tensor_op(SPEC, op="concatenate", **SHAPE, tensors_in="sram")
    with pytest.raises(BadProblem, match=r"concat: tensors_in = 'l2'; allowed: sram, dram\."):
        predict_tensor_op(SPEC, op="concat", **SHAPE, tensors_in="l2")
    with pytest.raises(BadProblem, match=r"concat: m = -1; sizes are at least 1\."):
        predict_tensor_op(SPEC, op="concat", m=-1, k=1, n=1, tensors_in="sram")
