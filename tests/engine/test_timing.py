"""Laws of the timing engine, on kernels built by hand."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import traces
from hypothesis import given, settings
from hypothesis import strategies as st

from mtia.chips import ChipSpec, load
from mtia.engine import timing
from mtia.engine.cycles import RULES
from mtia.engine.energy import clock_frac
from mtia.engine.memory import Residency
from mtia.engine.roof import roofline_fs
from mtia.engine.timing import run_timed, touch_launch
from mtia.engine.trace import Trace
from mtia.program.commands import COMMANDS, Unit
from mtia.program.types import Element
from mtia.units import FS_PER_S

CHIPS = ("mtia100", "mtia200", "mtia300", "mtia400")


def quick(name: str = "mtia200", **changes: object) -> ChipSpec:
    """A chip without latencies or issue cost, so that small cases can be worked by hand."""
    free = {
        "noc.latency_s": 1e-15,
        "sram.latency_s": 1e-15,
        "dram.latency_s": 1e-15,
        "pe.sfu.startup_cycles": 1,
        "pe.cores.scalar_issue_cycles": 1,
        "pe.cores.dma_issue_cycles": 1,
    }
    return load(name).vary({**free, **changes})


def warm(trace: Trace, spec: ChipSpec) -> Residency:
    residency = Residency(spec.sram.capacity_bytes)
    touch_launch(trace, residency)
    return residency


KERNELS = {
    "add": lambda: traces.elementwise(1 << 16, 1024),
    "one program": lambda: traces.elementwise(1024, 1024),
    "exp": lambda: traces.elementwise(1 << 18, 4096, Element.F32, inputs=1, ops=("exp", "mulf", "exp")),
    "matmul": lambda: traces.matmul(512, 512, 512, 64, 64, 64),
    "uneven": lambda: traces.matmul(576, 256, 320, 64, 64, 64, Element.BF16),
    "fc": lambda: traces.weight_stationary(256, 512, 1024, 32, 32, Element.F16, splits=2),
    "chain": lambda: traces.chain(20, 1024, slots=2),
}
kernels = pytest.mark.parametrize("kernel", KERNELS)


def test_every_command_has_a_rule():
    assert [cls.__name__ for cls in COMMANDS if cls not in RULES] == []


# --- worked by hand ---------------------------------------------------------------------------------------------------


def test_two_slots_hide_the_load():
    """Three tiles of 8192 float32. Load: 32 KiB at the DMA's rate; work: 8192 elements at 32 a cycle, 1 to start."""
    spec = quick(
        **{
            "pe.dma.read_bytes_per_cycle": 128,
            "noc.pe_bytes_per_s": 128 * 1e9,
            "clock_hz": 1e9,
            "sram.bytes_per_s": 1e15,
            "pe.dma.max_outstanding_bytes": 1 << 20,
        }
    )
    load_cycles, work_cycles = 256, 257

    def cycles(slots: int) -> float:
        trace = traces.chain(3, 8192, slots=slots)
        return run_timed(trace, spec, warm(trace, spec)).makespan_fs * 1e9 / FS_PER_S

    assert cycles(1) == pytest.approx(3 * (load_cycles + work_cycles), rel=0.02)
    assert cycles(2) == pytest.approx(load_cycles + 3 * work_cycles, rel=0.02)


def test_a_matmul_takes_its_macs_over_the_rate():
    spec = quick("mtia200")
    trace = traces.matmul(64, 4096, 64, 64, 128, 64)
    busy = run_timed(trace, spec, warm(trace, spec)).busy_fs["dpe"] * spec.grid.n_pes * spec.clock_hz / FS_PER_S
    assert busy == pytest.approx(64 * 64 * 4096 / 1024 + 32 * spec.pe.dpe.fill_cycles, rel=1e-6)


def test_a_dram_bound_add_runs_at_dram_speed():
    spec = load("mtia300")
    timing = run_timed(traces.elementwise(1 << 26, 8192), spec)
    assert timing.bound in ("dram", "latency")
    assert timing.dram_read_bytes == pytest.approx(2 * 2 * (1 << 26), rel=1e-3)
    rate = timing.dram_read_bytes / timing.makespan_fs * FS_PER_S
    assert rate > 0.75 * spec.dram.bytes_per_s * spec.dram.efficiency_frac


def test_resident_tensors_need_no_dram():
    trace, spec = traces.matmul(512, 512, 512, 64, 64, 64), load("mtia200")
    cold, hot = run_timed(trace, spec), run_timed(trace, spec, warm(trace, spec))
    assert cold.dram_read_bytes == 2 * 512 * 512 * 2
    assert hot.dram_bytes == 0
    assert hot.makespan_fs < cold.makespan_fs


def test_multicast_merges_the_reads_of_a_row():
    trace, spec = traces.matmul(1024, 512, 1024, 128, 64, 128), load("mtia200")
    merged = run_timed(trace, spec)
    alone = run_timed(trace, spec.vary({"noc.multicast": False}))
    assert merged.merged_bytes > 0.8 * (merged.requested_bytes - 1024 * 1024 * 2)
    assert alone.merged_bytes == 0 and alone.sram_bytes == alone.requested_bytes
    assert merged.makespan_fs <= alone.makespan_fs


def test_dirty_blocks_pushed_out_are_written_back():
    trace, spec = traces.elementwise(1 << 24, 8192), load("mtia300").vary({"sram.capacity_bytes": 1 << 20})
    timing = run_timed(trace, spec)
    assert timing.dram_write_bytes == pytest.approx(2 * (1 << 24), rel=0.05)


def test_float32_dot_products_take_the_vector_cores_where_the_engine_has_none():
    timing = run_timed(traces.matmul(256, 256, 256, 64, 64, 64, Element.F32), load("mtia200"))
    assert timing.bound == "vector" and timing.busy_fs["dpe"] == 0
    assert timing.flop == 2 * 256**3


def lookups(rows: int, row_bytes: int, table_rows: int = 10_000_000) -> Trace:
    """64 programs that each pick `rows` rows by index from one table, all different, and store nothing."""
    trace = traces.elementwise(64 * rows * row_bytes, rows * row_bytes, Element.I8, inputs=1)
    trace.steps = [trace.steps[0]]
    access = trace.steps[0].access
    assert access is not None
    access.base, access.end, access.indexed, access.runs = 0, table_rows * row_bytes, True, rows
    access.unique_bytes = 64 * rows * row_bytes
    return trace


def test_rows_picked_by_index_pay_for_dram_pages():
    spec = load("mtia100").vary({"pe.dma.indexed": True})
    short, page = (run_timed(lookups(512, n), spec) for n in (spec.dram.page_bytes // 4, spec.dram.page_bytes))
    assert short.dram_read_bytes == page.dram_read_bytes == 4 * short.requested_bytes == page.requested_bytes


def test_without_indexed_dma_the_core_issues_one_command_a_row():
    spec = load("mtia100")
    timing = run_timed(lookups(512, 64), spec.vary({"dram.bytes_per_s": 1e13, "sram.bytes_per_s": 1e13}))
    issue_s = 512 * spec.pe.cores.dma_issue_cycles / spec.clock_hz
    assert timing.bound == "core"
    assert timing.critical_fs["core"] == pytest.approx(issue_s * FS_PER_S, rel=0.01)


def test_an_empty_launch_takes_no_time():
    trace = traces.elementwise(1024, 1024)
    trace.steps = []
    assert run_timed(trace, load("mtia200")).makespan_fs == 0


# --- laws -------------------------------------------------------------------------------------------------------------


@kernels
@pytest.mark.parametrize("chip", CHIPS)
def test_no_timeline_beats_its_roof(kernel: str, chip: str):
    trace, spec = KERNELS[kernel](), load(chip)
    for residency in (None, warm(trace, spec)):
        timing = run_timed(trace, spec, residency)
        assert 0 < timing.roof_fs <= timing.makespan_fs
        assert timing.roof_fs == roofline_fs(trace, spec, residency)


@kernels
def test_bytes_are_conserved(kernel: str):
    trace = KERNELS[kernel]()
    timing = run_timed(trace, load("mtia300"))
    asked = sum(int(s.access.n_bytes) * trace.n_programs for s in trace.steps if s.access is not None)
    assert timing.requested_bytes == timing.noc_bytes == asked
    assert timing.sram_bytes + timing.merged_bytes == asked
    assert timing.dram_read_bytes <= asked
    assert timing.dram_write_bytes == 0  # it all fits SRAM


@kernels
def test_the_critical_path_adds_up(kernel: str):
    timing = run_timed(KERNELS[kernel](), load("mtia200"))
    assert sum(timing.critical_fs.values()) == timing.makespan_fs
    assert min(timing.critical_fs.values()) >= 0


@kernels
def test_an_engine_does_one_thing_at_a_time(kernel: str):
    timeline = run_timed(KERNELS[kernel](), load("mtia200")).timeline
    assert timeline.complete and len(timeline) > 0
    for pe in {s.pe for s in timeline}:
        for unit in timeline.units:
            spans = sorted(timeline.spans_of(unit, pe), key=lambda s: (s.start_fs, s.end_fs))
            assert all(a.end_fs <= b.start_fs for a, b in itertools.pairwise(spans))


@kernels
def test_same_inputs_same_timing(kernel: str):
    spec = load("mtia300")
    first, second = run_timed(KERNELS[kernel](), spec), run_timed(KERNELS[kernel](), spec)
    assert first == second


RATES = {
    "clock_hz": 1,
    "noc.pe_bytes_per_s": 1,
    "sram.bytes_per_s": 1,
    "dram.bytes_per_s": 1,
    "noc.latency_s": -1,
    "sram.latency_s": -1,
    "dram.latency_s": -1,
}


@kernels
def test_all_rates_doubled_halve_the_time(kernel: str):
    spec = load("mtia200").vary({"power.tdp_w": 2000.0})
    double = spec.vary({key: spec.get(key) * 2.0**sign for key, sign in RATES.items()})
    trace = KERNELS[kernel]()
    assert run_timed(trace, double).makespan_fs == pytest.approx(run_timed(trace, spec).makespan_fs / 2, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.sampled_from(sorted(KERNELS)),
    key=st.sampled_from([*sorted(RATES), "pe.dma.max_outstanding_bytes"]),
    chip=st.sampled_from(CHIPS),
)
def test_a_faster_part_is_never_slower(kernel: str, key: str, chip: str):
    """No slack. Where it does not hold (a wider DMA engine) is in tests/timing/test_laws.py, with the reason."""
    spec = load(chip).vary({"power.tdp_w": 2000.0})
    better = type(spec.get(key))(spec.get(key) * 2.0 ** RATES.get(key, 1))
    trace = KERNELS[kernel]()
    faster, slower = run_timed(trace, spec.vary({key: better})), run_timed(trace, spec)
    assert faster.makespan_fs <= slower.makespan_fs


@pytest.mark.parametrize("n, block, capacity", [(1 << 23, 1024, None), (1 << 24, 2048, None), (1 << 24, 2048, 8 << 20)])
def test_skipped_waves_agree_with_the_full_simulation(
    n: int, block: int, capacity: int | None, monkeypatch: pytest.MonkeyPatch
):
    spec = load("mtia300") if capacity is None else load("mtia300").vary({"sram.capacity_bytes": capacity})
    trace = traces.elementwise(n, block)
    skipped = run_timed(trace, spec)
    monkeypatch.setattr(timing, "MIN_WAVES_TO_SKIP", 1 << 40)
    full = run_timed(trace, spec)
    assert skipped.n_skipped_waves > 0 and full.n_skipped_waves == 0
    assert skipped.makespan_fs == pytest.approx(full.makespan_fs, rel=0.01)
    assert skipped.dram_read_bytes == pytest.approx(full.dram_read_bytes, rel=0.01)
    assert skipped.dram_write_bytes == pytest.approx(full.dram_write_bytes, rel=0.02, abs=1 << 20)
    assert sum(skipped.critical_fs.values()) == skipped.makespan_fs


# --- energy, report ---------------------------------------------------------------------------------------------------


def test_energy_adds_up_and_a_low_tdp_slows_the_chip():
    trace, spec = traces.matmul(1024, 1024, 1024, 128, 64, 128), load("mtia200")
    timing = run_timed(trace, spec)
    assert timing.energy_j == pytest.approx(sum(timing.energy_parts_j.values()))
    assert spec.power.idle_w < timing.power_w <= spec.power.tdp_w and timing.throttle_frac == 1.0
    capped = run_timed(trace, spec.vary({"power.tdp_w": 30.0, "power.typical_w": 25.0}))
    assert capped.throttle_frac < 1.0
    assert capped.power_w == pytest.approx(30.0, rel=1e-3)
    assert capped.makespan_fs == pytest.approx(timing.makespan_fs / capped.throttle_frac, rel=1e-3)


@pytest.mark.parametrize(
    "die_j, dram_j, allowed_j", [(3.0, 0.0, 1.0), (3.0, 1.0, 2.0), (0.5, 2.0, 1.0), (10.0, 0.1, 9.0)]
)
def test_voltage_falls_with_the_clock(die_j: float, dram_j: float, allowed_j: float):
    """At share t of the clock a launch takes 1 / t of the time and die_j t + dram_j: exactly what the limit gives."""
    t = float(clock_frac(die_j, dram_j, allowed_j))
    assert 0 < t < 1 and die_j * t + dram_j == pytest.approx(allowed_j / t)
    assert float(clock_frac(die_j, dram_j, die_j + dram_j)) == 1.0
    linear = allowed_j / (die_j + dram_j)  # were energy the same at every clock
    assert t > linear or (dram_j > die_j and t == pytest.approx(linear, rel=0.2))


def test_what_masks_leave_out_costs_time_but_no_energy():
    """A tile that hangs over the edge of the matrix takes as long as a whole one, and multiplies zeros."""
    spec, inside = quick(), traces.matmul(128, 256, 512, 128, 64, 64)
    over = traces.matmul(128, 256, 512, 128, 64, 64)
    for step in over.steps:  # a quarter of the rows of a are inside
        if step.access is not None and step.access.parameter == 0:
            step.access.n_bytes //= 4
    whole, edge = run_timed(inside, spec), run_timed(over, spec)
    assert edge.mac == whole.mac and edge.busy_fs["dpe"] == whole.busy_fs["dpe"]
    assert edge.energy_parts_j["dpe"] == pytest.approx(whole.energy_parts_j["dpe"] / 4)


def test_blocks_of_depth_follow_each_other_into_the_same_sums():
    """A small tile waits for its own sums; a tile of many blocks never does, nor do programs that take turns."""
    plain, chained = quick(), quick("mtia200", **{"pe.dpe.dependent_cycles": 100})
    blocks_s = 512 * 2 // plain.pe.dpe.block_k_bytes * 100 / plain.clock_hz

    def waited_s(tile: int, n_tiles: int = 1, resident: int = 1) -> float:
        trace = traces.matmul(tile, 512, tile * n_tiles, tile, 64, tile)
        specs = (spec.vary({"pe.resident_programs": resident}) for spec in (plain, chained))
        before, after = (run_timed(trace, spec) for spec in specs)
        assert before.busy_fs["dpe"] == after.busy_fs["dpe"]
        return (after.makespan_fs - before.makespan_fs) / FS_PER_S

    assert 0.5 * blocks_s < waited_s(32) < blocks_s
    assert waited_s(256) == 0.0
    four_each = 4 * plain.grid.n_pes
    assert waited_s(32, four_each, resident=4) < 0.3 * waited_s(32, four_each)


def test_operands_change_places_where_that_pads_less():
    dpe = quick(**{"pe.dpe.block_m": 16, "pe.dpe.block_n": 128, "pe.dpe.exchanges_operands": True}).pe.dpe
    assert dpe.whole_blocks(128, 64) == (64, 128) and dpe.whole_blocks(16, 200) == (16, 256)
    assert dataclasses.replace(dpe, exchanges_operands=False).whole_blocks(128, 64) == (128, 128)


def test_names_the_assumed_figures_it_rests_on():
    assumed = run_timed(traces.elementwise(1 << 16, 1024), load("mtia200")).assumed
    assert "noc.latency_s" in assumed and not any(key.startswith("pe.dpe") for key in assumed)


def test_chrome_trace_has_a_row_per_engine():
    trace = run_timed(traces.elementwise(2048, 1024), load("mtia200")).to_chrome_trace()
    rows = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {Unit.DMA_IN.value, Unit.DMA_OUT.value} <= rows
    assert all(e["dur"] >= 0 for e in trace["traceEvents"] if e["ph"] == "X")
