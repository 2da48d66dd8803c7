"""Every (format, generation) pair: an engine, the cores at a stated cost, or a refusal that says what the chip has,
since which generation the format is there, and what software costs."""

from __future__ import annotations

import re

import pytest

from mtia.chips import ChipSpec, load
from mtia.chips.multiply import (
    BLOCK_RATES,
    SPARSE,
    multiply_path,
    path_or_none,
    rate_of,
    refused_rounding,
    refused_sparse,
)
from mtia.errors import UnsupportedDtype
from mtia.numerics.blocks import BLOCK_FORMATS
from mtia.numerics.multiply import contract_of

CHIPS = ("mtia100", "mtia200", "mtia300", "mtia400", "mtia450", "mtia500")
PLAIN = ("fp32", "tf32", "fp16", "bf16", "fp8e4m3", "fp8e5m2", "int8")
FORMATS = (*PLAIN, *BLOCK_FORMATS)
ENGINES = {  # what is published of engines: docs/numerics.md
    "mtia100": {"fp16", "bf16", "int8"},
    "mtia200": {"fp16", "bf16", "int8"},
    "mtia300": {"tf32", "fp16", "bf16", "fp8"},
    **{chip: {"tf32", "fp16", "bf16", "fp8", "mx8", "mx8s", "mx4"} for chip in CHIPS[3:]},
}


def title_of_first(rate: str) -> str:
    return next((load(chip).title for chip in CHIPS if rate in ENGINES[chip]), "")


@pytest.mark.parametrize("chip", CHIPS)
def test_engines_are_what_is_published(chip: str) -> None:
    assert set(load(chip).pe.dpe.mac_per_cycle) == ENGINES[chip]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_pair_runs_or_says_why_not(fmt: str, chip: str) -> None:
    spec, rate = load(chip), rate_of(fmt)
    path = path_or_none(spec, fmt)
    if path is None:
        _check_refusal(fmt, spec)
    elif rate in ENGINES[chip]:
        assert path.on_engine and not path.is_software and path.mac_per_cycle == spec.pe.dpe.mac_per_cycle[rate]
    elif rate in BLOCK_RATES:  # unpacked on the cores
        assert path.is_software and path.unpack_passes >= 1 and path.rate == "bf16"
        assert "unpacked on the cores to bf16" in str(contract_of(spec, fmt))
    else:
        assert path.is_software and not path.on_engine
        assert path.mac_per_cycle == spec.pe.cores.vector_mac_per_cycle[rate]


def _check_refusal(fmt: str, spec: ChipSpec) -> None:
    rate = rate_of(fmt)
    assert rate not in ENGINES[spec.name]
    with pytest.raises(UnsupportedDtype) as raised:
        multiply_path(spec, fmt, what="a product")
    error, text = raised.value, str(raised.value)
    assert text.startswith(
        f"a product: {spec.name} has no {rate}; it supports {', '.join(sorted(ENGINES[spec.name]))}."
    )
    since = title_of_first(rate)
    assert error.since == since
    assert (f"{rate} is supported since {since}." in text) == bool(since)
    assert re.search(
        rf"In software: keep {rate} for storage and unpack to bf16 on the vector cores .* [\d.]+ T/s elements\), then "
        r"multiply at [\d.]+ [TP]FLOP/s",
        text,
    )
    assert (f"FLOP/s in {rate}." in text) == bool(since)


def test_each_generation_refuses_these() -> None:
    refused = {chip: [f for f in FORMATS if path_or_none(load(chip), f) is None] for chip in CHIPS}
    comparison = ["mxfp6e2m3", "mxfp6e3m2", "mxint8"]
    old = ["tf32", "fp8e4m3", "fp8e5m2", "mx4", "mx8", "mx8s", "mxfp8e4m3", "mxfp8e5m2", *comparison[:2], "mxfp4",
           comparison[2], "nvfp4"]  # fmt: skip
    assert refused == {chip: old if chip in CHIPS[:2] else comparison for chip in CHIPS}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", ["int8", "fp16", "bf16"])
def test_sparse_weights(dtype: str, chip: str) -> None:
    spec = load(chip)
    assert spec.pe.dpe.sparse_2_4 == (chip == "mtia200")
    text = str(refused_sparse(spec, dtype, what="a product"))
    assert f"{chip} has no {SPARSE} in {dtype}; it supports dense" in text
    assert "since MTIA 200 (2i), on which alone they are published. In software: spread the weights out" in text
    assert ("multiply them at" in text) == (dtype in ENGINES[chip])


@pytest.mark.parametrize("chip", CHIPS)
def test_stochastic_rounding(chip: str) -> None:
    spec = load(chip)
    assert spec.pe.sfu.stochastic_rounding == (chip not in CHIPS[:2])
    assert re.search(
        rf"{chip} has no stochastic rounding; it supports nearest-even\. .*since MTIA 300\. In software: .*30 passes .*"
        r"[\d.]+ T lanes/s",
        str(refused_rounding(spec, what="quantising")),
    )
