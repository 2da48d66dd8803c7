"""Laws that predictions of attention obey on any chip, and what they refuse."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from mtia.chips import load
from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.workloads import attention
from mtia.workloads.attention import predict_decode, predict_prefill
from mtia.workloads.prediction import Prediction, Protocol

CHIPS = ("a100_sxm", "h100_sxm", "b200_sxm", "mtia300")
SMALL: dict[str, Any] = dict(batch=4, seq=1024, heads=16, kv_heads=4, head_dim=128)


def small(**changes: Any) -> dict[str, Any]:
    return SMALL | changes


PREDICT = {"prefill": predict_prefill, "decode": predict_decode}


@pytest.fixture(params=CHIPS, scope="module")
def chip(request: pytest.FixtureRequest) -> ChipSpec:
    return load(request.param)


def _kernel_s(found: Prediction) -> float:
    return found.seconds - found.parts["launch"]


def _bytes(found: Prediction) -> int:
    return sum(t.requested_bytes for t in found.timings)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_parts_sum_to_the_latency_and_it_is_the_same_again(chip: ChipSpec, phase: str) -> None:
    first, second = (PREDICT[phase](chip, **SMALL) for _ in range(2))
    assert first.seconds == second.seconds and first.parts == second.parts
    assert sum(first.parts.values()) == pytest.approx(first.seconds, rel=1e-9)
    assert first.bound in first.parts
    assert "keys" in first.how


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_longer_sequence_is_never_faster(chip: ChipSpec, phase: str) -> None:
    """Beyond 2048 tokens prefill is extended from a part: no step down where that begins."""
    times = [PREDICT[phase](chip, **small(seq=seq)).seconds for seq in (64, 512, 2048, 3072, 6144, 16384, 65536)]
    assert all(longer >= 0.98 * shorter for shorter, longer in pairwise(times)), times
    assert times[-1] > 2 * times[0]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_more_sequences_are_never_faster(chip: ChipSpec, phase: str) -> None:
    times = [PREDICT[phase](chip, **small(batch=batch)).seconds for batch in (1, 8, 64, 256)]
    assert all(more >= 0.98 * fewer for fewer, more in pairwise(times)), times


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_window_saves_time_where_it_hides_most_keys(chip: ChipSpec, phase: str) -> None:
    long = small(seq=16384, batch=16)
    whole, windowed = (PREDICT[phase](chip, **long, window=window) for window in (0, 256))
    assert _kernel_s(windowed) < 0.5 * _kernel_s(whole)
    assert PREDICT[phase](chip, **long, window=16384).seconds == whole.seconds  # as wide as the sequence: no window


def test_grouped_heads_move_fewer_bytes(chip: ChipSpec) -> None:
    """All query heads of a KV head share its keys and values in a decode."""
    apart, grouped = (predict_decode(chip, **small(kv_heads=kv_heads)) for kv_heads in (16, 2))
    assert _bytes(grouped) < 0.3 * _bytes(apart)


def test_decode_reads_its_cache_once(chip: ChipSpec) -> None:
    """Keys and values of every token, of whole blocks; queries, answers and partial answers beside them."""
    found = predict_decode(chip, **SMALL)
    cache_bytes = 2 * 4 * 1024 * 4 * 128 * 2
    assert cache_bytes <= _bytes(found) < 1.2 * cache_bytes


def test_a_narrower_cache_halves_what_a_decode_reads() -> None:
    chip = load("h100_sxm")
    wide, narrow = (predict_decode(chip, **SMALL, kv_dtype=kv) for kv in ("bfloat16", "fp8"))
    assert _bytes(narrow) < 0.6 * _bytes(wide)


def test_prefill_multiplies_what_the_mask_leaves(chip: ChipSpec) -> None:
    """Half of all pairs, and what is in blocks on the diagonal beyond them."""
    found = predict_prefill(chip, **SMALL)
    half = 4 * 4 * 16 * 128 * 1024 * 1024 / 2
    assert half <= found.timings[-1].flop < 1.3 * half


def test_a_part_of_a_decode_extends_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and waves that are not simulated add what those that are do in the steady state."""
    chip = load("h100_sxm")
    for case in (dict(batch=64, seq=2048), dict(batch=2, seq=32768), dict(batch=500, seq=128)):
        problem = small(**case)
        part = predict_decode(chip, **problem)
        with monkeypatch.context() as patch:
            patch.setattr(attention, "MOST_STEPS", 10**9)
            patch.setattr(attention, "MOST_BLOCKS", 10**9)
            whole = predict_decode(chip, **problem)
        assert part.seconds == pytest.approx(whole.seconds, rel=0.03), case


def test_a_part_of_a_prefill_extends_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = load("a100_sxm")
    for case in (dict(batch=8, seq=1024), dict(batch=256, seq=64), dict(batch=1, seq=6144)):
        problem = small(**case)
        part = predict_prefill(chip, **problem)
        with monkeypatch.context() as patch:
            patch.setattr(attention, "MOST_STEPS", 10**9)
            patch.setattr(attention, "LONGEST_SEQ", 10**9)
            whole = predict_prefill(chip, **problem)
        assert part.seconds == pytest.approx(whole.seconds, rel=0.05), case


def test_a_cache_that_fits_sram_is_read_from_it() -> None:
    """The same tensors again and again: DRAM sees nothing of 8 MB of keys and values on an L2 of 50."""
    found = predict_decode(load("h100_sxm"), **SMALL)
    assert found.timings[1].dram_read_bytes < 0.05 * found.timings[1].requested_bytes
    large = predict_decode(load("h100_sxm"), **small(batch=128, seq=4096))
    assert large.timings[1].dram_read_bytes > 0.9 * large.timings[1].requested_bytes


def test_a_decode_extended_from_a_part_is_no_faster_than_dram() -> None:
    """1,024 programs that are all being set up when the part ends: DRAM has more to do in each block that follows."""
    chip = load("h200_sxm")
    found = predict_decode(chip, batch=512, seq=4096, heads=2, kv_heads=2, head_dim=64, kv_dtype="fp8")
    cache_bytes = 2 * 512 * 4096 * 2 * 64
    assert _kernel_s(found) > (cache_bytes - chip.sram.capacity_bytes) / chip.dram.bytes_per_s


def test_a_block_that_takes_time_to_set_up_costs_it_where_blocks_are_short() -> None:
    chip = load("a100_sxm")
    slow = chip.vary({"launch.program_s": chip.launch.program_s + 2e-6})
    many: dict[str, Any] = dict(batch=512, seq=16, heads=8, kv_heads=8, head_dim=64)
    assert _kernel_s(predict_decode(slow, **many)) > 1.3 * _kernel_s(predict_decode(chip, **many))
    few: dict[str, Any] = dict(batch=1, seq=16, heads=1, kv_heads=1, head_dim=64)
    extra = _kernel_s(predict_decode(slow, **few)) - _kernel_s(predict_decode(chip, **few))
    assert extra == pytest.approx(2e-6, rel=0.05)


def test_eight_bit_weights_where_the_engine_takes_them() -> None:
    """A narrower cache is multiplied in its type where weights may be operands again, else in that of the queries."""
    prefill: dict[str, Any] = dict(batch=2, seq=4096, heads=16, kv_heads=4, head_dim=128, kv_dtype="fp8")
    assert "in fp8" in predict_prefill(load("h100_sxm"), **prefill).how
    assert "in bf16" in predict_prefill(load("l40s"), **prefill).how


def test_protocols() -> None:
    kernel, graph, eager = (
        predict_decode(load("h100_sxm"), **SMALL, protocol=protocol).seconds
        for protocol in (Protocol.KERNEL, Protocol.GRAPH_ONE, Protocol.EAGER)
    )
    assert kernel < graph < eager


@pytest.mark.parametrize("predict", [predict_prefill, predict_decode])
def test_refusals(predict: Any) -> None:
    chip = load("a100_sxm")
    with pytest.raises(BadProblem, match="batch = 0; sizes are at least 1"):
        predict(chip, **small(batch=0))
    with pytest.raises(BadProblem, match="kv_heads = 3; a divisor of heads, 16"):
        predict(chip, **small(kv_heads=3))
    with pytest.raises(BadProblem, match="window = -1; tokens, 0 for all"):
        predict(chip, **SMALL, window=-1)
    with pytest.raises(UnsupportedDtype, match="a100_sxm has no fp8"):
        predict(chip, **SMALL, attn_dtype="fp8", kv_dtype="fp8")
    with pytest.raises(UnsupportedDtype, match="no int3"):
        predict(chip, **SMALL, kv_dtype="int3")
