"""What Meta published is recomputed from the PE-level figures: peaks, bandwidths, capacities, ratios, power."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mtia import chips
from mtia.chips.roadmap import generations, roadmap
from mtia.units import GiB, KiB, MiB

MTIA = ("mtia100", "mtia200", "mtia300", "mtia400", "mtia450", "mtia500")


@pytest.mark.parametrize(
    ("chip", "dtype", "published"),
    [
        ("mtia100", "int8", 104e12), ("mtia100", "fp16", 52e12), ("mtia100", "bf16", 52e12),
        ("mtia200", "int8", 354e12), ("mtia200", "fp16", 177e12), ("mtia200", "bf16", 177e12),
        ("mtia300", "fp8", 1120e12), ("mtia300", "fp16", 560e12), ("mtia300", "bf16", 560e12),
        ("mtia400", "bf16", 3e15), ("mtia400", "fp8", 6e15), ("mtia400", "mx8", 6e15), ("mtia400", "mx4", 12e15),
        ("mtia450", "bf16", 3.5e15), ("mtia450", "fp8", 7e15), ("mtia450", "mx8", 7e15), ("mtia450", "mx4", 21e15),
        ("mtia500", "bf16", 5e15), ("mtia500", "fp8", 10e15), ("mtia500", "mx8", 10e15), ("mtia500", "mx4", 30e15),
    ],
)  # fmt: skip
def test_peak(chip: str, dtype: str, published: float):
    assert chips.load(chip).peak_flop_per_s(dtype) == pytest.approx(published, rel=0.01)


def test_table_one_of_mtia_100_has_a_divisor_of_1024():
    spec = chips.load("mtia100")
    assert spec.peak_flop_per_s("int8") / 1.024 == pytest.approx(102.4e12)
    assert spec.peak_flop_per_s("fp16") / 1.024 == pytest.approx(51.2e12)


@pytest.mark.parametrize(
    ("chip", "missing"),
    [("mtia100", ("fp8", "tf32", "mx8", "mx4", "fp32")), ("mtia200", ("fp8", "tf32", "mx8", "mx4", "fp32")),
     ("mtia300", ("int8", "mx8", "mx4", "fp32")), ("mtia400", ("int8", "fp32"))],
)  # fmt: skip
def test_what_a_dot_product_engine_lacks(chip: str, missing: tuple[str, ...]):
    assert not set(missing) & set(chips.load(chip).pe.dpe.mac_per_cycle)


@pytest.mark.parametrize("chip", MTIA)
def test_float32_dot_products_are_slow_and_never_refused(chip: str):
    spec = chips.load(chip)
    assert 0 < spec.dot_flop_per_s("fp32") < spec.peak_flop_per_s("bf16") / 4


@pytest.mark.parametrize(
    ("chip", "dtype", "published"),  # MTIA 100 and 200 count one operation per lane, 300 is read at 35.0 / 42.5
    [
        ("mtia100", "fp32", 0.8e12),
        ("mtia100", "int8", 3.2e12),
        ("mtia200", "fp16", 2.8e12),
        ("mtia200", "bf16", 1.4e12),
    ],
)
def test_vector_cores(chip: str, dtype: str, published: float):
    assert chips.load(chip).vector_peak_flop_per_s(dtype) / 2 == pytest.approx(published, rel=0.03)


def test_vector_and_simd_of_mtia_300_close_at_35():
    spec = chips.load("mtia300")
    lanes = spec.pe.sfu.elements_per_cycle["fp16"] * spec.grid.n_pes * spec.clock_hz * 2
    assert lanes == pytest.approx(35.0e12, rel=0.01)
    assert lanes * 42.5 / 35.0 == pytest.approx(42.5e12, rel=0.01)
    assert spec.vector_peak_flop_per_s("fp32") == pytest.approx(21.3e12 / 1.214, rel=0.01)
    assert spec.peak_flop_per_s("fp16") / lanes == pytest.approx(16)


def test_simd_of_mtia_200():
    spec = chips.load("mtia200")
    lanes = spec.pe.sfu.elements_per_cycle["fp32"] * spec.grid.n_pes * spec.clock_hz * 2
    assert lanes == pytest.approx(5.5e12, rel=0.01)
    assert spec.peak_flop_per_s("fp16") / lanes == pytest.approx(32)


@pytest.mark.parametrize(
    ("chip", "key", "published"),
    [
        ("mtia100", "sram.bytes_per_s", 0.8e12), ("mtia200", "sram.bytes_per_s", 2.7e12),
        ("mtia300", "sram.bytes_per_s", 11.4e12), ("mtia400", "sram.bytes_per_s", 5 * 2.7e12),
        ("mtia100", "sram.capacity_bytes", 128 * MiB), ("mtia200", "sram.capacity_bytes", 256 * MiB),
        ("mtia300", "sram.capacity_bytes", 192 * MiB),
        ("mtia100", "pe.local_memory_bytes", 128 * KiB), ("mtia200", "pe.local_memory_bytes", 384 * KiB),
        ("mtia300", "pe.local_memory_bytes", 512 * KiB),
        ("mtia100", "dram.bytes_per_s", 176e9), ("mtia200", "dram.bytes_per_s", 204.8e9),
        ("mtia300", "dram.bytes_per_s", 6.1e12), ("mtia400", "dram.bytes_per_s", 9.4e12),
        ("mtia450", "dram.bytes_per_s", 18.4e12), ("mtia500", "dram.bytes_per_s", 27.6e12),
        ("mtia300", "dram.capacity_bytes", 216 * GiB), ("mtia400", "dram.capacity_bytes", 288 * GiB),
        ("mtia500", "dram.capacity_bytes", 512 * GiB),
        ("mtia100", "host_link.bytes_per_s", 16e9), ("mtia400", "host_link.bytes_per_s", 512e9),
        ("mtia300", "scale_up.bytes_per_s", 800e9), ("mtia500", "scale_up.bytes_per_s", 1.2e12),
        ("mtia300", "scale_out.bytes_per_s", 200e9), ("mtia450", "scale_out.bytes_per_s", 100e9),
        ("mtia300", "scale_up.domain_chips", 16), ("mtia400", "scale_up.domain_chips", 72),
        ("mtia100", "power.tdp_w", 25), ("mtia200", "power.tdp_w", 85), ("mtia300", "power.tdp_w", 912),
        ("mtia400", "power.tdp_w", 1200), ("mtia450", "power.tdp_w", 1400), ("mtia500", "power.tdp_w", 1700),
        ("mtia400", "pe.sfu.gather_elements_per_cycle", 64), ("mtia400", "scale_up.message_engine_bytes_per_cycle", 128),
        ("mtia450", "grid.die_to_die_bytes_per_s", 2 * 2 * 1.3e12),
    ],
)  # fmt: skip
def test_published_figure(chip: str, key: str, published: float):
    assert chips.load(chip).get(key) == pytest.approx(published)


@pytest.mark.parametrize(("chip", "published"), [("mtia100", 0.4e12), ("mtia200", 1.0e12), ("mtia300", 1.9e12)])
def test_local_memory_bandwidth(chip: str, published: float):
    assert chips.load(chip).local_memory_bytes_per_s == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("chip", "bytes_per_cycle"), [("mtia100", 1000), ("mtia200", 2000), ("mtia300", 6000)])
def test_sram_width(chip: str, bytes_per_cycle: float):
    spec = chips.load(chip)
    assert spec.sram.bytes_per_s / spec.clock_hz == pytest.approx(bytes_per_cycle)


@pytest.mark.parametrize(
    ("chip", "pins_bits", "pin_bits_per_s"),
    [("mtia100", 16 * 16, 5.5e9), ("mtia200", 16 * 16, 6.4e9), ("mtia300", 6 * 1024, 8.0e9), ("mtia400", 8 * 1024, 9.2e9),
     ("mtia450", 8 * 2048, 9.0e9), ("mtia500", 8 * 2048, 13.5e9)],
)  # fmt: skip
def test_dram_pins(chip: str, pins_bits: int, pin_bits_per_s: float):
    assert chips.load(chip).dram.bytes_per_s == pytest.approx(pins_bits * pin_bits_per_s / 8, rel=0.01)


@pytest.mark.parametrize(
    ("chip", "flop_per_byte"),
    [("mtia100", 298), ("mtia200", 864), ("mtia300", 91.8), ("mtia400", 318), ("mtia450", 190), ("mtia500", 181)],
)
def test_machine_balance(chip: str, flop_per_byte: float):
    spec = chips.load(chip)
    assert spec.peak_flop_per_s("bf16") / spec.dram.bytes_per_s == pytest.approx(flop_per_byte, rel=0.01)


def test_both_readings_of_the_clock_of_mtia_400():
    headline = chips.load("mtia400")
    slides = headline.vary({"clock_hz": 1.7e9})
    assert [slides.peak_flop_per_s(d) for d in ("bf16", "fp8", "mx4")] == pytest.approx(
        [2.67e15, 5.35e15, 10.7e15], rel=0.01
    )
    assert slides.peak_flop_per_s("bf16") / 173e12 == pytest.approx(15.4, rel=0.01)
    source = headline.figures["clock_hz"].source
    assert (source.low, source.high) == (1.7e9, 1.9e9)


def test_ratios_of_mtia_400():
    old, before, new = (chips.load(n) for n in ("mtia200", "mtia300", "mtia400"))
    assert new.dram.bytes_per_s / old.dram.bytes_per_s == pytest.approx(46, rel=0.01)
    assert new.host_link.bytes_per_s / old.host_link.bytes_per_s == 16
    assert new.sram.bytes_per_s / old.sram.bytes_per_s == pytest.approx(5)
    assert new.peak_flop_per_s("bf16") / before.peak_flop_per_s("bf16") == pytest.approx(5, rel=0.1)
    assert new.grid.n_pes / before.grid.n_pes == pytest.approx(1.3, rel=0.03)
    assert new.dram.capacity_bytes / before.dram.capacity_bytes == pytest.approx(1.3, rel=0.03)
    assert new.dram.bytes_per_s / before.dram.bytes_per_s == pytest.approx(1.5, rel=0.03)
    assert new.pe.dpe.mac_per_cycle["bf16"] == 4 * before.pe.dpe.mac_per_cycle["bf16"]


def test_ratios_of_mtia_450_and_500():
    four, mid, five = (chips.load(n) for n in ("mtia400", "mtia450", "mtia500"))
    assert mid.dram.bytes_per_s / four.dram.bytes_per_s == pytest.approx(2, rel=0.03)
    assert mid.peak_flop_per_s("mx4") / four.peak_flop_per_s("mx4") == pytest.approx(1.75, rel=0.01)
    assert mid.peak_flop_per_s("mx4") / mid.peak_flop_per_s("bf16") == 6
    assert five.peak_flop_per_s("mx4") / mid.peak_flop_per_s("mx4") == pytest.approx(1.43, rel=0.01)
    assert five.dram.bytes_per_s / mid.dram.bytes_per_s == pytest.approx(1.5)
    assert five.dram.capacity_bytes / mid.dram.capacity_bytes == pytest.approx(1.8, rel=0.02)
    assert five.dram.bytes_per_s / chips.load("mtia300").dram.bytes_per_s == pytest.approx(4.5, rel=0.01)


def test_launch_paths():
    first, second, third = (chips.load(n).launch for n in ("mtia100", "mtia200", "mtia300"))
    assert second.control_s + second.start_s + second.finish_s < 1e-6 and second.replace_s < 0.5e-6
    assert second.control_s + second.start_s + second.finish_s <= 0.2 * (
        first.control_s + first.start_s + first.finish_s
    )
    assert first.replace_s <= 5.2e-6
    assert third.host_s + third.control_s + third.start_s + third.finish_s == pytest.approx(16e-6)


@pytest.mark.parametrize("chip", MTIA)
def test_energy_closes_with_tdp_at_peak(chip: str):
    """Every unit at its peak draws between 60 and 105 % of TDP."""
    spec = chips.load(chip)
    power = spec.power
    drawn_w = (
        power.idle_w
        + spec.peak_flop_per_s("bf16") / 2 * power.mac_j["bf16"]
        + spec.pe.dpe.operand_bytes_per_cycle * spec.grid.n_pes * spec.clock_hz * power.local_memory_j_per_byte
        + spec.sram.bytes_per_s * (power.noc_j_per_byte + power.sram_j_per_byte)
        + spec.dram.bytes_per_s * power.dram_j_per_byte
        + (spec.scale_up.bytes_per_s * power.link_j_per_byte if spec.scale_up else 0)
    )
    assert 0.6 * power.tdp_w < drawn_w < 1.05 * power.tdp_w


@pytest.mark.parametrize("chip", MTIA)
def test_an_energy_per_multiply_add_for_every_rate(chip: str):
    spec = chips.load(chip)
    assert set(spec.pe.dpe.mac_per_cycle) | set(spec.pe.cores.vector_mac_per_cycle) <= set(spec.power.mac_j)


@pytest.mark.parametrize("chip", MTIA)
def test_the_memory_system_is_ordered(chip: str):
    """SRAM is faster than DRAM, ports of all PEs together faster than SRAM, and enough bytes are in flight."""
    spec = chips.load(chip)
    assert spec.sram.bytes_per_s > spec.dram.bytes_per_s
    assert spec.noc.pe_bytes_per_s * spec.grid.n_pes > spec.sram.bytes_per_s
    assert spec.noc.pe_bytes_per_s == pytest.approx(spec.pe.dma.read_bytes_per_cycle * spec.clock_hz, rel=0.01)
    round_trip_s = 2 * spec.noc.latency_s + spec.sram.latency_s + spec.dram.latency_s
    assert spec.pe.dma.max_outstanding_bytes * spec.grid.n_pes / round_trip_s > spec.dram.bytes_per_s


def test_roadmap_is_in_order_with_ratios():
    line = roadmap()
    assert [s.name for s in line.chips] == list(MTIA) == [s.name for s in generations()]
    dram = line.cells["dram.bytes_per_s"]
    assert [c.ratio for c in dram] == [None, *(b.value / a.value for a, b in pairwise(dram))]  # type: ignore[operator]
    assert [c.value for c in line.cells["4bit_flop_per_s"]][:3] == [None, None, None]
    assert not line.cells["dram.bytes_per_s"][5].assumed and line.cells["sram.capacity_bytes"][5].assumed
