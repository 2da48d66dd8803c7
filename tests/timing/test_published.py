"""Real Triton kernels, traced and timed, beside what Meta published (facts 11). Each test prints both figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mtia import knobs
from mtia.chips import ChipSpec
from mtia.engine.memory import Residency
from mtia.engine.timeline import KernelTiming
from mtia.host_runtime import silicon
from mtia.host_runtime.clock import clock
from mtia.host_runtime.launch import compile_kernel, residency_of, time_program
from mtia.host_runtime.record import Session, session
from mtia.kernels.weight_stationary import launch_arguments, mtia_fc_weight_stationary
from mtia.units import fs_to_s


@pytest.fixture(autouse=True)
def without_values(tmp_path: Path) -> Iterator[None]:
    """Timing only, and no tiling remembered from elsewhere."""
    torch.mtia.init()
    with knobs.scope(values=False, cache_dir=tmp_path):
        yield


def tensor(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="mtia")


def resident(spec: ChipSpec, *tensors: torch.Tensor) -> None:
    """SRAM of device 0 holds these tensors, clean, and nothing else."""
    held = residency_of(0, spec)
    held.clear()
    for t in tensors:
        held.touch(t.data_ptr(), t.data_ptr() + t.untyped_storage().nbytes(), written=False)


def last_kernel(done: Session) -> KernelTiming:
    timing = done.spans[-1].work.timing
    assert timing is not None
    return timing


# --- MTIA 200 ---------------------------------------------------------------------------------------------------------


def test_mtia200_gemm_2048_reaches_its_peak():
    """torch.mm with its own tiling. Three matrices of 8 MB stay in the 256 MB SRAM between runs, as in a benchmark."""
    with silicon.use("mtia200") as spec:
        x, y, out = (tensor(2048, 2048, dtype=torch.float16) for _ in range(3))
        torch.mm(x, y, out=out)
        resident(spec, x, y, out)
        with session() as done:
            torch.mm(x, y, out=out)
        timing = last_kernel(done)
    share = timing.flop / fs_to_s(timing.makespan_fs) / 177e12
    print(f"2048^3 FP16 on MTIA 200: {100 * share:.1f} % of 177 TF/s; published > 92 %")
    assert timing.flop == 2 * 2048**3
    assert 0.90 < share < 1.0


@pytest.mark.parametrize("transposed", [False, True], ids=["K x N", "N x K"])
def test_mtia200_fc_streams_its_weights_at_dram_speed(transposed: bool):
    """FC 512 x 26592 x 2048: 109 MB of weights from LPDDR5, activations resident, the layer's own tiling."""
    with silicon.use("mtia200") as spec:
        x = tensor(512, 2048, dtype=torch.float16)
        w = tensor(26592, 2048, dtype=torch.float16).t() if transposed else tensor(2048, 26592, dtype=torch.float16)
        out = tensor(512, 26592, dtype=torch.float16)
        torch.mm(x, w, out=out)
        resident(spec, x)
        with session() as done:
            torch.mm(x, w, out=out)
        timing = last_kernel(done)
    share = 26592 * 2048 * 2 / fs_to_s(timing.makespan_fs) / 204.8e9
    print(f"FC 512x26592x2048 on MTIA 200: {100 * share:.1f} % of 204.8 GB/s; published > 95 %")
    assert timing.dram_read_bytes == 26592 * 2048 * 2  # each weight fetched once
    assert 0.90 < share < 1.0


# --- MTIA 300 ---------------------------------------------------------------------------------------------------------


def added(log2: int, spec: ChipSpec, *, dirty: bool) -> float:
    """Bytes per second of a BF16 add of 2^log2 elements that is waited for: launch path and host included.

    `dirty`: the run before left SRAM full of other data not yet written to DRAM (a benchmark that flushes the cache by
    writing to it); else SRAM holds what the same add left there.
    """
    n = 1 << log2
    x, y, out = (tensor(n, dtype=torch.bfloat16) for _ in range(3))
    scrub = tensor(spec.sram.capacity_bytes, dtype=torch.uint8)
    torch.add(x, y, out=out)
    torch.mtia.synchronize()
    if dirty:
        residency_of(0, spec).touch(scrub.data_ptr(), scrub.data_ptr() + scrub.nbytes, written=True)
    before = clock().host_fs
    torch.add(x, y, out=out)
    torch.mtia.synchronize()
    return 6 * n / fs_to_s(clock().host_fs - before)


BF16_ADD = {20: 364, 22: 1120, 24: 2390, 26: 4160, 28: 5190, 30: 5570}


@pytest.mark.parametrize("log2", [26, 28, 30])
def test_mtia300_bfloat16_add(log2: int):
    with silicon.use("mtia300") as spec:
        rate = added(log2, spec, dirty=False) / 1e9
    print(f"BF16 add of 2^{log2} on MTIA 300: {rate:.0f} GB/s; published {BF16_ADD[log2]}")
    assert rate == pytest.approx(BF16_ADD[log2], rel=0.15)


@pytest.mark.parametrize("log2", BF16_ADD)
def test_mtia300_bfloat16_add_after_the_cache_was_flushed(log2: int):
    """The short adds fit SRAM: with their operands still there, 2^24 would run 67 % faster than published. Published
    times are those of operands from DRAM, and of an SRAM that has older writes to make good first, as after a flush
    between runs; the protocol is not published. 2^26 then pays for writing back all of SRAM and comes out slow."""
    with silicon.use("mtia300") as spec:
        warm, flushed = (added(log2, spec, dirty=dirty) / 1e9 for dirty in (False, True))
    print(
        f"BF16 add of 2^{log2} on MTIA 300: {flushed:.0f} GB/s after a flush, {warm:.0f} repeated; "
        f"published {BF16_ADD[log2]}"
    )
    assert flushed == pytest.approx(BF16_ADD[log2], rel=0.15)


# --- MTIA 100 ---------------------------------------------------------------------------------------------------------

# (m, k = n): T(FL)OP/s in INT8 and in FP16, weights and activations in SRAM (facts 11.1; mtia_fc.csv has the digits)
FC_100 = {
    (128, 1024): (30.03, 19.96), (256, 1024): (47.00, 28.80), (512, 1024): (64.42, 37.18), (1024, 1024): (79.43, 43.22),
    (2048, 1024): (89.64, 47.00), (4096, 1024): (95.42, 49.27),
    (128, 2048): (53.30, 30.10), (256, 2048): (70.26, 38.16), (512, 2048): (83.78, 44.20), (1024, 2048): (93.02, 47.78),
    (2048, 2048): (97.89, 49.79), (4096, 2048): (100.3, 50.76),
    (128, 4096): (66.88, 34.65), (256, 4096): (81.38, 41.73), (512, 4096): (91.06, 46.22), (1024, 4096): (96.92, 49.27),
    (2048, 4096): (100.8, 50.76),
}  # fmt: skip
FC_100_SPILLED = {(4096, 4096): (57.66, 39.65)}
SPILLED = pytest.mark.xfail(
    strict=True,
    reason="published at 55 to 75 % of the next smaller layer's rate, 'spills': the "
    "placement of tensors in SRAM that the early software chose is not published; ours all fit",
)
CASES = [
    pytest.param(m, k, dtype, rate, marks=marks, id=f"{dtype}-{m}x{k}x{k}")
    for table, marks in ((FC_100, ()), (FC_100_SPILLED, SPILLED))
    for (m, k), rates in table.items()
    for dtype, rate in zip(("int8", "float16"), rates, strict=True)
]


def weight_stationary(m: int, k: int, dtype: torch.dtype, spec: ChipSpec) -> KernelTiming:
    """One layer as Meta's early kernels mapped it (facts 2.5), everything in SRAM."""
    x, w = tensor(m, k, dtype=dtype), tensor(k, k, dtype=dtype).t()
    out = tensor(m, k, dtype=torch.int32 if dtype == torch.int8 else torch.float32)
    grid, arguments, constants = launch_arguments(x, w, out, spec)
    program = compile_kernel(mtia_fc_weight_stationary, arguments, constants)
    held = Residency(spec.sram.capacity_bytes)
    for t in (x, w, out):
        held.touch(t.data_ptr(), t.data_ptr() + t.nbytes, written=False)
    return time_program(program, grid, arguments, spec, held)


@pytest.mark.parametrize("m, k, dtype, published", CASES)
def test_mtia100_fully_connected_from_sram(m: int, k: int, dtype: str, published: float):
    """In a chain of layers, as measured: a queued job replaces the one before it."""
    with silicon.use("mtia100") as spec:
        timing = weight_stationary(m, k, getattr(torch, dtype), spec)
    rate = timing.flop / (fs_to_s(timing.makespan_fs) + spec.launch.replace_s) / 1e12
    print(f"FC {dtype} {m}x{k}x{k} on MTIA 100: {rate:.1f} T/s; published {published} ({rate / published - 1:+.1%})")
    assert timing.flop == 2 * m * k * k
    assert rate == pytest.approx(published, rel=0.15)


def test_partial_sums_meet_on_the_reduction_network():
    """Updates of one block by PEs of a row cost SRAM one access; without the network each costs its own."""
    with silicon.use("mtia100") as spec:
        joined = weight_stationary(512, 1024, torch.int8, spec)
        alone = weight_stationary(512, 1024, torch.int8, spec.vary({"noc.reduction": False}))
    sums = 4 * 512 * 1024 * 4  # K in 4 splits, 32-bit sums
    assert joined.merged_bytes - alone.merged_bytes == pytest.approx(0.75 * sums, rel=0.05)
    assert alone.sram_bytes - joined.sram_bytes == pytest.approx(2 * 0.75 * sums, rel=0.05)  # read and written
    assert joined.makespan_fs < alone.makespan_fs
