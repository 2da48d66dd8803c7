"""What holds for the time of any kernel, on launches of real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mtia
from mtia import knobs
from mtia.chips import load
from mtia.engine.memory import Residency
from mtia.engine.roof import total_bytes
from mtia.engine.timeline import KernelTiming
from mtia.engine.timing import run_timed, touch_launch
from timing.kernels import NAMES, record

CHIPS = ("mtia100", "mtia200", "mtia300", "mtia400")
kernels = pytest.mark.parametrize("kernel", NAMES)


def written(timing: KernelTiming) -> str:
    """Every figure of a timing and every span, as text."""
    figures = {k: v for k, v in asdict(timing).items() if k != "timeline"}
    return repr([sorted(figures.items()), [tuple(vars_of(s)) for s in timing.spans]])


def vars_of(span: object) -> list[object]:
    return [getattr(span, name) for name in ("unit", "pe", "name", "command", "program", "start_fs", "end_fs")]


# --- the same ---------------------------------------------------------------------------------------------------------


@kernels
def test_same_input_same_timeline(kernel: str):
    launch, spec = record(kernel), load("mtia200")
    first, second = (written(run_timed(launch.trace(spec), spec)) for _ in range(2))
    assert first == second


FRESH = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from mtia.chips import load
from mtia.engine.timing import run_timed
from timing.kernels import record
from timing.test_laws import written
spec = load("mtia200")
for kernel in ("matmul", "softmax", "fc"):
    print(hashlib.sha256(written(run_timed(record(kernel).trace(spec), spec)).encode()).hexdigest())
"""


def test_two_fresh_processes_agree_byte_for_byte(tmp_path: Path):
    def run(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(
            [sys.executable, "-c", FRESH, str(Path(__file__).parents[1])],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    first = run("1")
    assert len(first.split()) == 3 and first == run("2")


# --- bytes and bounds -------------------------------------------------------------------------------------------------


@kernels
@pytest.mark.parametrize("chip", CHIPS)
def test_bytes_moved_are_what_the_program_says(kernel: str, chip: str):
    spec = load(chip)
    trace = record(kernel).trace(spec)
    timing = run_timed(trace, spec)
    accesses = [s.access for s in trace.steps if s.access is not None]
    asked = sum(total_bytes(a, trace.n_programs) for a in accesses)
    updated_again = sum(total_bytes(a, trace.n_programs) for a in accesses if a.atomic)
    assert timing.requested_bytes == timing.noc_bytes == asked > 0
    assert asked <= timing.sram_bytes + timing.merged_bytes <= asked + updated_again  # an update reads and writes
    assert timing.dram_write_bytes == 0  # all of it fits SRAM


def test_a_matmul_moves_its_tiles():
    """512 x 512 x 512 in tiles: every row of tiles reads all of y, every column all of x, the result is stored once."""
    launch, spec = record("matmul"), load("mtia200")
    trace = launch.trace(spec)
    loads = [s.access for s in trace.steps if s.access is not None and not s.access.write]
    stores = [s.access for s in trace.steps if s.access is not None and s.access.write]
    n_tiles = launch.grid[0]
    read = sum(total_bytes(a, trace.n_programs) for a in loads)
    blocks = [v.type.shape for a in loads[:2] for v in trace.program.commands[a.command].results]
    (bm, _), (_, bn) = blocks
    assert n_tiles == (512 // bm) * (512 // bn)
    assert read == n_tiles * (bm + bn) * 512 * 2
    assert sum(total_bytes(a, trace.n_programs) for a in stores) == 512 * 512 * 2


@kernels
@pytest.mark.parametrize("chip", CHIPS)
def test_no_timeline_beats_its_roof(kernel: str, chip: str):
    spec = load(chip)
    trace = record(kernel).trace(spec)
    warm = Residency(spec.sram.capacity_bytes)
    touch_launch(trace, warm)
    for residency in (None, warm):
        timing = run_timed(trace, spec, residency)
        assert 0 < timing.roof_fs <= timing.makespan_fs == sum(timing.critical_fs.values())


# --- time and values --------------------------------------------------------------------------------------------------


def computed(chip: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(96, 160, generator=generator) for _ in range(2))
    with mtia.use(chip):
        a, b = x.to("mtia"), y.to("mtia")
        return [t.cpu() for t in ((a + b).exp(), torch.softmax(a, -1), a.sum(0), a.bfloat16().t().contiguous())]


def test_the_chip_does_not_change_values():
    first, *others = (computed(chip) for chip in CHIPS)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_timing_only_runs_allocate_the_same_and_touch_no_memory():
    def footprint(values: bool) -> tuple[int, int, int]:
        torch.mtia.reset_peak_memory_stats()
        before = torch.mtia.memory_stats().get("allocated_bytes.all.current", 0)
        held = torch.zeros(64, 256, device="mtia")
        with knobs.scope(values=values):
            result = torch.softmax(held @ held.t(), -1)
        stats = torch.mtia.memory_stats()
        out = (
            stats.get("allocated_bytes.all.current", 0) - before,
            stats.get("allocated_bytes.all.peak", 0) - before,
            result.numel(),
        )
        assert torch.count_nonzero(held).item() == 0
        return out

    footprint(True)
    assert footprint(True) == footprint(False)


def test_asking_for_a_time_leaves_memory_as_it_was():
    launch, spec = record("fc"), load("mtia200")
    for t in launch.tensors:
        t.fill_(3)
    run_timed(launch.trace(spec), spec)
    assert all(bool((t == 3).all()) for t in launch.tensors)


# --- faster parts -----------------------------------------------------------------------------------------------------

BETTER = {
    "clock_hz": 1,
    "sram.bytes_per_s": 1,
    "dram.bytes_per_s": 1,
    "noc.pe_bytes_per_s": 1,
    "noc.latency_s": -1,
    "sram.latency_s": -1,
    "dram.latency_s": -1,
}


def makespan(kernel: str, chip: str, changes: dict[str, object], warm: bool) -> int:
    spec = load(chip).vary({"power.tdp_w": 4000.0, **changes})
    trace = record(kernel).trace(load(chip))
    residency = Residency(spec.sram.capacity_bytes)
    if warm:
        touch_launch(trace, residency)
    return run_timed(trace, spec, residency).makespan_fs


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from(NAMES),
    key=st.sampled_from(sorted(BETTER)),
    chip=st.sampled_from(CHIPS),
    factor=st.sampled_from([1.1, 1.5, 2.0, 4.0]),
    warm=st.booleans(),
)
def test_a_faster_part_is_never_slower(kernel: str, key: str, chip: str, factor: float, warm: bool):
    """No slack."""
    better = load(chip).get(key) * factor ** BETTER[key]
    assert makespan(kernel, chip, {key: better}, warm) <= makespan(kernel, chip, {}, warm)


def test_a_wider_dma_engine_may_lose_a_race():
    """The one kind of exception found in 4 000 comparisons (this kernel, and 0.6 % on "matmul").

    A wider DMA engine lets a PE ask for its second block sooner, and so be first at DRAM for both, where its neighbours
    then listen in; each first request waits a DRAM round trip, and this PE is the one the launch ends with. The same
    bytes move from the same places. First come, first served arbitration does this (Graham's anomaly), in silicon as
    well as here."""
    spec = load("mtia100").vary({"dram.efficiency_frac": 0.8, "pe.cores.dma_issue_cycles": 60})  # where it was found
    trace = record("uneven matmul").trace(spec)
    narrow = run_timed(trace, spec)
    wide = run_timed(trace, spec.vary({"pe.dma.read_bytes_per_cycle": 2 * spec.pe.dma.read_bytes_per_cycle}))
    assert narrow.makespan_fs < wide.makespan_fs < 1.05 * narrow.makespan_fs
    assert (wide.dram_read_bytes, wide.sram_bytes, wide.merged_bytes) == (
        narrow.dram_read_bytes,
        narrow.sram_bytes,
        narrow.merged_bytes,
    )
    assert wide.critical_fs["latency"] > narrow.critical_fs["latency"]
    assert wide.critical_fs["noc"] < narrow.critical_fs["noc"]
