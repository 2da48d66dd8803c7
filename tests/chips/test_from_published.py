"""A chip from published figures alone, and a chip whose calibrated figures are pooled."""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import sqrt

import pytest

from mtia import chips
from mtia.chips import pooled as pooling
from mtia.chips.pooled import calibrated_keys, pooled
from mtia.chips.published import UnreadFigure, from_published, nearest, read_entry
from mtia.chips.spec import ChipSpec, Figure, Source, SourceKind
from mtia.errors import ChipFileError
from mtia.units import KiB

H100 = {
    "bf16": 989.4, "fp8": 1978.9, "hbm_gbs": 3352, "l2_mib": 50, "sms": 132, "boost_mhz": 1980, "tensor_clock_mhz": 1830,
    "smem_kib": 256, "regs_kib": 256, "link_gbs": 450, "tdp_w": 700, "hbm_gib": 80,
}  # fmt: skip


def test_published_figures_of_a_known_chip_make_that_chip():
    spec, known = from_published("anon", H100), chips.load("h100_sxm")
    for key in ("clock_hz", "dram.bytes_per_s", "dram.capacity_bytes", "sram.capacity_bytes", "power.tdp_w",
                "pe.local_memory_bytes", "scale_up.bytes_per_s", "pe.dpe.mac_per_cycle.bf16",
                "pe.dpe.mac_per_cycle.fp8", "pe.dpe.block_n"):  # fmt: skip
        assert spec.get(key) == known.get(key), key
    assert spec.grid.n_pes == known.grid.n_pes and spec.name.startswith("anon") and not calibrated_keys(spec)


def test_a_card_over_pcie_meets_others_through_the_host():
    card = from_published("anon", {**H100, "link_gbs": 64, "link": "PCIe 5.0 x16, no NVLink"})
    assert card.scale_up is not None and (card.scale_up.topology, card.scale_up.multicast) == ("host", False)
    linked = from_published("anon", H100)
    assert linked.scale_up is not None and linked.scale_up.topology == "switch"


def test_two_figures_are_enough():
    spec = from_published("anon", {"bf16": 400, "hbm_gbs": 1500})
    assert spec.peak_flop_per_s("bf16") == pytest.approx(400e12, rel=0.05) and spec.dram.bytes_per_s == 1.5e12
    assert spec.figures["dram.bytes_per_s"].source.kind is SourceKind.PUBLISHED


def test_what_is_not_published_has_a_range_and_a_reason():
    spec = from_published("anon", H100)
    for key in ("sram.bytes_per_s", "noc.pe_bytes_per_s", "power.mac_j.bf16"):
        source = spec.figures[key].source
        assert source.kind is SourceKind.ASSUMED and source.low < spec.get(key) < source.high and source.text, key


def test_peaks_quoted_below_the_boost_clock_are_powers_of_two():
    spec = from_published("anon", {"bf16": 2250, "fp4": 9000, "hbm_gbs": 8000, "sms": 148, "boost_mhz": 1965})
    assert spec.pe.dpe.mac_per_cycle["bf16"] == 4096 and spec.pe.dpe.mac_per_cycle["fp4"] == 16384
    assert spec.pe.dpe.mac_per_cycle["mx4"] == 16384 and spec.pe.dpe.mac_per_cycle["fp16"] == 4096


def test_systolic_arrays():
    spec = from_published("anon", {"bf16": 197, "hbm_gbs": 819, "mxu": "128x128"})
    assert spec.grid.n_pes == 4 and spec.pe.dpe.mac_per_cycle["bf16"] == 128 * 128 and spec.pe.dpe.block_n == 128
    assert (
        spec.clock_hz == pytest.approx(1.503e9, rel=0.01)
        and spec.sram.line_bytes == chips.load("tpu_v6e_1").sram.line_bytes
    )


@pytest.mark.parametrize(
    ("figures", "like"),
    [({**H100, "sms": 78, "bf16": 148, "fp8": 296, "hbm_gbs": 4000}, ("h100_sxm", "h200_sxm")),
     ({"bf16": 503.8, "fp8": 1007.6, "hbm_gbs": 1792, "l2_mib": 128, "sms": 188, "boost_mhz": 2617}, ("l40s",)),
     ({"bf16": 1307, "fp8": 2614, "hbm_gbs": 5300, "cus": 304, "boost_mhz": 2100}, ("mi210",))],
)  # fmt: skip
def test_the_nearest_chip_lends_what_is_unpublished(figures: dict[str, float], like: tuple[str, ...]):
    assert nearest(read_entry("anon", figures)).name in like


def test_a_chip_left_out_lends_nothing():
    spec = from_published("anon", H100, without=("h100_sxm", "h200_sxm", "h100_meta"))
    assert not {f.source.inherited_from for f in spec.figures.values()} & {"h100_sxm", "h200_sxm", "h100_meta"}


def test_multiplies_at_full_rate_fit_the_power_limit():
    spec = from_published("anon", {**H100, "tdp_w": 350})
    assert spec.peak_flop_per_s("bf16") / 2 * spec.power.mac_j["bf16"] < 350
    assert from_published("anon", {**H100, "smem_kib": 64}).pe.local_memory_bytes == 64 * KiB


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"hbm_gbs": 100}, r"chips\.json: x\.bf16: is missing, and so is fp16\. Give the dense peak in TFLOP/s"),
        ({"bf16": 100}, r"x\.hbm_gbs: is missing\. Give the memory bandwidth"),
        ({"bf16": "fast", "hbm_gbs": 1}, r"x\.bf16: is not a number above 0 \(got 'fast'\)"),
        ({"bf16": 1, "hbm_gbs": -1}, r"x\.hbm_gbs: is not a number above 0 \(got -1\)"),
        (
            {"bf16": 1, "hbm_gbs": 1, "mxu": "big"},
            r'x\.mxu: is not the size of an array \(got \'big\'\)\. Write "256x256"',
        ),
    ],
)
def test_bad_entries(figures: dict[str, object], message: str):
    with pytest.raises(ChipFileError, match=message):
        from_published("x", figures)


def test_a_figure_that_nobody_reads_is_said():
    with pytest.warns(UnreadFigure, match=r"x\.boost_ghz is not a figure that is used\. Did you mean"):
        from_published("x", {"bf16": 100, "hbm_gbs": 1000, "boost_ghz": 1.9})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_published("x", {"bf16": 100, "hbm_gbs": 1000, "aic_hbm_gbs": 900, "note": "a note", "_source": 1})


# --- pooled -----------------------------------------------------------------------------------------------------------


def calibrate(spec: ChipSpec, **values: float) -> ChipSpec:
    """The chip with figures as if a file had calibrated them."""
    keys = {key.replace("__", "."): value for key, value in values.items()}
    changed = spec.vary(keys, name=spec.name)
    source = {k: Source(kind=SourceKind.CALIBRATED, text="test", low=v / 2, high=v * 2) for k, v in keys.items()}
    figures = {k: Figure(value=changed.get(k), source=s) for k, s in source.items()}
    return replace(changed, figures={**changed.figures, **figures})


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> dict[str, ChipSpec]:
    plain = {name: replace(pooled(chips.load(name)), name=name) for name in ("a100_sxm", "h100_sxm", "l40s")}
    spec = {
        "a100_sxm": calibrate(plain["a100_sxm"], launch__replace_s=1e-6, sram__bytes_per_s=4e12),
        "h100_sxm": calibrate(plain["h100_sxm"], launch__replace_s=4e-7, sram__bytes_per_s=6e12),
        "l40s": calibrate(plain["l40s"], launch__replace_s=5e-7),
    }
    monkeypatch.setattr(pooling, "names", lambda: tuple(spec))
    monkeypatch.setattr(pooling, "load", spec.__getitem__)
    return spec


def test_the_pool_is_the_geometric_mean_of_the_others(three: dict[str, ChipSpec]):
    out = pooled(three["l40s"])
    assert out.launch.replace_s == pytest.approx(sqrt(1e-6 * 4e-7)) and not calibrated_keys(out)
    source = out.figures["launch.replace_s"].source
    assert (
        source.kind is SourceKind.ASSUMED and source.text == "pooled over a100_sxm, h100_sxm: geometric mean, seconds"
    )
    assert source.low == pytest.approx(4e-7) and source.high == pytest.approx(1e-6)
    assert pooled(three["l40s"], without=("h100_sxm",)).launch.replace_s == pytest.approx(1e-6)


def test_rates_of_the_cache_are_pooled_a_multiply(three: dict[str, ChipSpec]):
    out, h100 = pooled(three["a100_sxm"]), three["h100_sxm"]
    a_flop = h100.sram.bytes_per_s / h100.peak_flop_per_s("bf16")
    assert out.sram.bytes_per_s == pytest.approx(a_flop * out.peak_flop_per_s("bf16"))


def test_a_figure_that_no_other_chip_has_goes_to_the_middle_of_its_range(three: dict[str, ChipSpec]):
    out = pooled(three["a100_sxm"], without=("h100_sxm",))
    assert out.sram.bytes_per_s == pytest.approx(4e12)  # sqrt(2e12 x 8e12)
    assert "no other chip" in out.figures["sram.bytes_per_s"].source.text


def test_a_chip_without_calibrated_figures_is_itself():
    assert pooled(chips.load("mtia300")) is chips.load("mtia300")


@pytest.mark.parametrize("name", [n for n in chips.names() if not n.startswith("mtia")])
def test_every_reference_chip_can_do_without(name: str):
    spec = pooled(chips.load(name))
    assert not calibrated_keys(spec)
    for key in calibrated_keys(chips.load(name)):
        source = spec.figures[key].source
        assert source.kind is SourceKind.ASSUMED and source.low <= spec.get(key) <= source.high
