"""Matrix multiplications: laws of the prediction, its mechanisms, the fast path beside the engine, texts of errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mtia.chips import load
from mtia.chips.spec import ChipSpec
from mtia.engine.timing import write_efficiency
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.workloads import gemm
from mtia.workloads.gemm import predict_gemm
from mtia.workloads.gemm_estimate import Choice, Kept, Machine, Problem, choose, kept, same_tiling
from mtia.workloads.launches import Memory
from mtia.workloads.prediction import Protocol

H100, A100, L40S, B200 = (load(name) for name in ("h100_sxm", "a100_sxm", "l40s", "b200_sxm"))


def seconds(spec: ChipSpec, m: int, n: int, k: int, dtype: str = "bfloat16", **more) -> float:
    return predict_gemm(spec, m=m, n=n, k=k, dtype=dtype, **more).seconds


def chosen(spec: ChipSpec, m: int, n: int, k: int) -> Choice:
    return choose(Machine.of(spec, "bf16"), Problem(m=m, n=n, k=k, mac="bf16"))


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
def test_the_same_inputs_give_the_same_prediction(fast: bool):
    first, again = (predict_gemm(H100, m=192, n=2048, k=1024, dtype="bfloat16", fast=fast) for _ in range(2))
    assert (first.seconds, first.parts, first.how) == (again.seconds, again.parts, again.how)


def test_parts_sum_to_the_seconds():
    for fast in (False, True):
        found = predict_gemm(H100, m=256, n=4096, k=2048, dtype="fp8", fast=fast)
        assert sum(found.parts.values()) == pytest.approx(found.seconds)


@pytest.mark.parametrize("spec", [H100, L40S], ids=lambda s: s.name)
def test_more_work_is_not_faster_beyond_a_wave(spec: ChipSpec):
    """Twice the rows, columns or depth: at most quantisation makes it a little cheaper."""
    m, n, k = 96, 2048, 1024
    least = seconds(spec, m, n, k)
    for more in ((2 * m, n, k), (m, 2 * n, k), (m, n, 2 * k)):
        assert seconds(spec, *more) > 0.97 * least


@pytest.mark.parametrize("key", ["clock_hz", "sram.bytes_per_s", "dram.bytes_per_s", "noc.pe_bytes_per_s"])
def test_a_faster_part_is_never_slower_on_the_fast_path(key: str):
    better = H100.vary({key: 1.5 * H100.get(key)})
    for shape in ((16, 4096, 4096), (512, 512, 512), (4096, 4096, 4096)):
        assert seconds(better, *shape, fast=True) <= seconds(H100, *shape, fast=True)


def test_the_roof_is_not_broken():
    m, n, k = 2048, 2048, 2048
    assert seconds(H100, m, n, k) > 2 * m * n * k / H100.peak_flop_per_s("bf16")


def test_waits_of_the_protocol_are_outside_the_kernels():
    """A profiler's kernel time leaves out the gap between kernels, an eager call adds the host's part."""
    kernel, chain, eager = (
        seconds(H100, 64, 1024, 1024, protocol=p, weight_copies=1, fast=True)
        for p in (Protocol.KERNEL, Protocol.GRAPH_CHAIN, Protocol.EAGER)
    )
    assert kernel < chain < eager
    assert eager - kernel > H100.launch.host_s


# --- mechanisms -------------------------------------------------------------------------------------------------------


def test_weights_that_stay_in_sram_are_faster_than_weights_that_do_not():
    """6 x 8 MB stay in the 96 MB of an L40S, 48 x 8 MB do not."""
    warm, cold = (predict_gemm(L40S, m=16, n=4096, k=1024, dtype="bf16", weight_copies=c) for c in (6, 48))
    assert warm.timings[0].dram_read_bytes < 0.1 * cold.timings[0].dram_read_bytes
    assert warm.seconds < 0.8 * cold.seconds


def test_data_read_by_all_is_held_once_for_each_part_of_the_sram():
    whole = H100.vary({"sram.read_copies": 1})
    assert H100.sram.shared_bytes * 2 == whole.sram.shared_bytes == whole.sram.capacity_bytes
    problem = Problem(m=16, n=4096, k=512, mac="bf16")  # 6 x 4 MB
    assert kept(Machine.of(whole, "bf16"), problem).w > kept(Machine.of(H100, "bf16"), problem).w


def test_a_deep_product_of_few_tiles_splits_its_depth():
    deep, wide = chosen(H100, 16, 256, 16384), chosen(H100, 16, 16384, 256)
    assert deep.splits > 4 and wide.splits == 1
    found = predict_gemm(H100, m=16, n=256, k=16384, dtype="bf16")
    assert len(found.timings) == 2 and "depth split" in found.how
    whole = same_tiling(
        Machine.of(H100, "bf16"),
        problem := Problem(m=16, n=256, k=16384, mac="bf16"),
        kept(Machine.of(H100, "bf16"), problem),
        replace(deep, splits=1),
    )
    assert found.seconds < whole.kernel_s + H100.launch.replace_s


def test_three_quarter_tiles_fill_a_wave_that_whole_ones_do_not():
    """768 x 6144: 144 tiles of 128 x 256 are two waves on 132 SMs, 192 of 128 x 192 as well, but shorter ones."""
    machine, problem = Machine.of(H100, "bf16"), Problem(m=768, n=6144, k=2048, mac="bf16")
    best = choose(machine, problem)
    wide = same_tiling(machine, problem, kept(machine, problem), replace(best, bm=128, bn=256, bn2=0, splits=1))
    narrow = same_tiling(machine, problem, kept(machine, problem), replace(best, bm=128, bn=128, bn2=64, splits=1))
    assert best.kernel_s <= narrow.kernel_s < wide.kernel_s


def test_one_more_tile_than_a_wave_costs_a_wave():
    machine = Machine.of(A100.vary({"sram.bytes_per_s": 2e13}), "bf16")
    fits, over = (
        same_tiling(machine, Problem(m=m, n=9 * 128, k=4096, mac="bf16"), Kept(x=1, w=1, out=1), TILE)
        for m in (12 * 128, 13 * 128)
    )
    assert over.kernel_s > 1.7 * fits.kernel_s


TILE = Choice(bm=128, bn=128, bn2=0, splits=1, group=8, slots=4, store_slots=1, step=64, kernel_s=0, sum_s=0, bound="")


def test_a_cluster_reads_a_strip_once():
    alone = H100.vary({"noc.multicast": False})
    together, each = (predict_gemm(s, m=2048, n=2048, k=1024, dtype="bf16").timings[0] for s in (H100, alone))
    assert each.merged_bytes == 0 < together.merged_bytes
    assert together.sram_bytes < 0.9 * each.sram_bytes


def test_writes_may_cost_more_than_reads():
    """A narrow depth: mostly what is written."""
    slow = H100.vary({"dram.write_efficiency_frac": 0.3})
    assert seconds(slow, 8192, 16384, 64) > 1.3 * seconds(H100, 8192, 16384, 64)


def test_no_write_is_better_than_a_read():
    slow = H100.vary({"dram.efficiency_frac": 0.4})
    assert write_efficiency(slow) == 0.4 and write_efficiency(H100) == H100.dram.write_efficiency_frac


@pytest.mark.parametrize("fast", [False, True])
def test_every_row_of_a_tile_costs_dram_a_gap(fast: bool):
    """Streamed weights: steps of 128 B a row, so 32 B of gap at each are a quarter more time."""
    shape: dict[str, Any] = dict(m=16, n=16384, k=16384, dtype="bf16", protocol=Protocol.KERNEL, fast=fast)
    none, wide = (predict_gemm(H100.vary({"dram.gap_bytes": g}), **shape).seconds for g in (1e-6, 32.0))
    assert wide / none == pytest.approx(1.25, abs=0.02)


def test_old_results_lie_among_what_was_read():
    """So that a part of a call writes back as large a share of what it pushes out as the whole call."""
    memory = Memory(L40S)
    memory.fill_with_others(1 << 20, 0.25)
    for pushed_out in (1 << 17, 1 << 18, 1 << 19):
        before = memory.residency.copy()
        room = before.capacity_bytes - before.n_bytes
        assert before.touch(1 << 50, (1 << 50) + room + pushed_out, False) == pytest.approx(pushed_out / 4, rel=0.1)


def test_what_a_compiled_program_fetches_meanwhile_counts_where_dram_has_no_time_left():
    tpu = load("tpu_v6e_1")
    shape: dict[str, Any] = dict(n=4096, k=14336, dtype="bf16", protocol=Protocol.KERNEL, weight_copies=32)
    matrix = 2.0 * 4096 * 14336

    def more_s(m: int) -> float:
        return (
            predict_gemm(tpu, m=m, **shape, prefetched_bytes=matrix).seconds - predict_gemm(tpu, m=m, **shape).seconds
        )

    matrix_s = matrix / (tpu.dram.bytes_per_s * tpu.dram.efficiency_frac)
    assert 0.9 * matrix_s < more_s(16) < 1.01 * matrix_s
    assert more_s(2048) == 0.0  # bound by the multiplies: DRAM is idle for longer


def test_large_products_slow_to_the_power_limit():
    hot = H100.vary({"power.mac_j.bf16": 8e-12})
    cool, slow = (predict_gemm(s, m=4096, n=4096, k=4096, dtype="bf16") for s in (H100, hot))
    assert slow.timings[0].throttle_frac < cool.timings[0].throttle_frac
    assert slow.seconds > 1.5 * cool.seconds


def test_rows_beyond_the_matrix_take_no_power():
    """160 rows in two tiles of 128: the time of 256, the energy of 160."""
    hot = H100.vary({"power.mac_j.bf16": 4e-12})
    few, whole = (predict_gemm(hot, m=m, n=16384, k=8192, dtype="bf16").timings[0] for m in (160, 256))
    assert few.flop == whole.flop and few.throttle_frac > 1.1 * whole.throttle_frac


def test_a_small_tile_waits_for_its_own_sums():
    """One tile a PE: each 16 of depth costs what a dependent multiply takes; many tiles hide it."""
    plain, chained = (A100.vary({"pe.dpe.dependent_cycles": c}) for c in (0, 130))
    more_s = seconds(chained, 16, 256, 512) - seconds(plain, 16, 256, 512)
    assert 0.5 < more_s / (512 / 16 * 130 / A100.clock_hz) < 1.0
    assert seconds(chained, 4096, 4096, 4096) == pytest.approx(seconds(plain, 4096, 4096, 4096), rel=0.01)


def test_a_like_kernel_may_be_set_up_early():
    plain = B200.vary({"launch.overlap_s": 0.0})
    gain = seconds(plain, 32, 256, 256, fast=True) - seconds(B200, 32, 256, 256, fast=True)
    assert gain == pytest.approx(B200.launch.overlap_s)
    shape = (32, 256, 256, "fp8")  # two kernels in turn
    assert seconds(plain, *shape, fast=True) == seconds(B200, *shape, fast=True)


# --- quantised types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp8", "fp8_block", "nvfp4"])
def test_quantising_is_a_kernel_of_its_own(dtype: str):
    found = predict_gemm(B200, m=64, n=1024, k=1024, dtype=dtype)
    assert found.timings[0].name.startswith("mtia_quantise") and len(found.timings) >= 2


def test_a_block_of_threads_reads_a_long_row_twice():
    """Once for its maximum, once to scale it, as frameworks' kernels do; a PE with a row to itself holds it."""
    short, long = (predict_gemm(B200, m=1024, n=256, k=k, dtype="fp8").timings[0] for k in (1024, 2048))
    assert short.requested_bytes == pytest.approx(1024 * 1024 * 3, rel=0.01)
    assert long.requested_bytes == pytest.approx(1024 * 2048 * 5, rel=0.01)


def test_quantised_x_is_written_back_where_sram_has_no_room():
    found = predict_gemm(L40S, m=16384, n=256, k=16384, dtype="fp8").timings[0]
    assert found.dram_write_bytes > 0.3 * found.dram_read_bytes


def test_narrow_weights_stream_faster_and_small_products_do_not_gain():
    large, small = (16, 16384, 16384), (16, 256, 256)
    wide, narrow, narrowest = (seconds(B200, *large, dtype) for dtype in ("bf16", "fp8", "nvfp4"))
    assert narrowest < 0.8 * narrow < 0.7 * wide
    assert seconds(B200, *small, "fp8") > seconds(B200, *small, "bf16")


def test_block_scales_cost_the_vector_cores_where_the_engine_has_none():
    h100, b200 = (predict_gemm(s, m=512, n=1024, k=1024, dtype="fp8_block").timings[-1] for s in (H100, B200))
    assert (h100.name, b200.name) == ("mtia_matmul_promoted", "mtia_matmul_scaled")
    assert h100.vector_ops > 2 * b200.vector_ops


# --- the fast path and parts of a launch ------------------------------------------------------------------------------

SHAPES = ((1, 4096, 4096), (16, 1024, 256), (128, 5120, 2048), (512, 4096, 768), (2048, 2048, 1024), (8192, 512, 512))


def test_the_fast_path_follows_the_engine():
    gaps = sorted(abs(seconds(H100, *s, fast=True) / seconds(H100, *s) - 1) for s in SHAPES)
    assert gaps[len(gaps) // 2] < 0.06 and gaps[-1] < 0.2


@pytest.mark.parametrize(
    ("chip", "shape", "rel"), [("a100_sxm", (1024, 4096, 2048), 0.06), ("mtia200", (2048,) * 3, 0.02)]
)
def test_a_launch_simulated_in_part_takes_as_long_as_the_whole(
    chip: str, shape: tuple[int, int, int], rel: float, monkeypatch: pytest.MonkeyPatch
):
    """On MTIA 200 a step takes 256 of depth: a part of 1984 would be charged for 2048."""
    problem: dict[str, Any] = dict(zip("mnk", shape, strict=True), dtype="fp16")
    part = predict_gemm(load(chip), **problem)
    monkeypatch.setattr(gemm, "MOST_TILE_STEPS", 1 << 20)
    whole = predict_gemm(load(chip), **problem)
    assert "simulated at" not in whole.how
    assert part.seconds == pytest.approx(whole.seconds, rel=rel)


def test_the_largest_product_is_predicted_in_part():
    found = predict_gemm(H100, m=32768, n=65536, k=51200, dtype="bf16")
    assert "simulated at" in found.how
    assert 0.5 < 2 * 32768 * 65536 * 51200 / found.seconds / H100.peak_flop_per_s("bf16") < 1


@pytest.mark.parametrize("name", ["mtia200", "mtia400", "tpu_v6e_1", "mi210"])
def test_chips_that_are_no_nvidia_gpus(name: str):
    spec = load(name)
    dtype = "bf16" if "bf16" in spec.pe.dpe.mac_per_cycle else "fp16"
    for fast in (False, True):
        found = seconds(spec, 256, 2048, 1024, dtype, fast=fast)
        assert 2 * 256 * 2048 * 1024 / spec.peak_flop_per_s(dtype) < found < 1e-3


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_size_below_one_is_refused():
    with pytest.raises(BadProblem, match=r"matrix multiplication: n = 0; sizes are at least 1"):
        predict_gemm(H100, m=1, n=0, k=64, dtype="bf16")


def test_a_type_the_chip_has_not_is_refused_with_those_it_has():
    with pytest.raises(UnsupportedDtype, match=r"a100_sxm.*nvfp4|nvfp4.*a100_sxm") as caught:
        predict_gemm(A100, m=16, n=64, k=64, dtype="nvfp4")
    assert "bf16" in str(caught.value)
