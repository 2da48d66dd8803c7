"""Chip files: complete, sourced, strict; a user's own file on top of a base."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mtia import chips
from mtia.chips.loader import DATA
from mtia.chips.schema import Table
from mtia.chips.spec import LEAVES, SourceKind
from mtia.errors import ChipFileError, UnknownChip

BASE = (DATA / "mtia200.toml").read_text()
VARIANT = 'name = "mine"\nbase = "mtia400"\n'
ALL = chips.names()


@pytest.mark.parametrize("chip", ALL)
def test_every_figure_has_a_source(chip: str):
    spec = chips.load(chip)
    for key, figure in spec.figures.items():
        assert figure.source.text.strip(), key
        if figure.source.kind in (SourceKind.ASSUMED, SourceKind.CALIBRATED) and not isinstance(figure.value, str):
            assert figure.source.low is not None and figure.source.high is not None, key
            assert figure.source.low <= float(figure.value) <= figure.source.high, key  # type: ignore[arg-type]


@pytest.mark.parametrize("chip", ALL)
def test_every_number_of_the_spec_has_a_figure(chip: str):
    spec = chips.load(chip)
    for key, leaf in LEAVES.items():
        value = spec.get(key)
        if leaf.table:
            assert {f"{key}.{entry}" for entry in value} == {k for k in spec.figures if k.startswith(f"{key}.")}
        elif (leaf.required and value is not None) or key in spec.figures:
            assert spec.figures[key].value == value


@pytest.mark.parametrize("chip", ALL)
def test_every_figure_is_in_the_document_it_names(chip: str):
    """A published figure names a document that the legend knows, or says what it is."""
    from mtia.chips.sources import DOCUMENTS

    for key, figure in chips.load(chip).figures.items():
        if figure.source.kind is SourceKind.PUBLISHED:
            assert any(name in figure.source.text for name in DOCUMENTS), (key, figure.source.text)


def test_names_are_files():
    assert set(ALL) == {p.stem for p in DATA.glob("*.toml")} and ALL[:6] == (
        "mtia100", "mtia200", "mtia300", "mtia400", "mtia450", "mtia500",
    )  # fmt: skip


def test_load_takes_names_paths_and_specs():
    spec = chips.load("mtia200")
    assert chips.load("MTIA 200") is spec and chips.load("mtia-200") is spec and chips.load(spec) is spec
    assert chips.load(DATA / "mtia200.toml") == spec == chips.load(str(DATA / "mtia200.toml"))


def test_unknown_chip():
    with pytest.raises(
        UnknownChip, match=r"unknown chip 'mtia20'; known: mtia100, .* Did you mean 'mtia200'\?"
    ) as info:
        chips.load("mtia20")
    assert info.value.name == "mtia20" and "mtia500" in info.value.known


def test_missing_file():
    with pytest.raises(ChipFileError, match=r"nowhere\.toml: there is no such file\. Known: mtia100"):
        chips.load("nowhere.toml")


# --- malformed files: each message names file, key, value and way out -------------------------------------------------


def edited(old: str, new: str) -> str:
    """mtia200's file with the first line that matches `old` (after the header of the figure) replaced."""
    assert re.search(old, BASE, flags=re.M), old
    return re.sub(old, new, BASE, count=1, flags=re.M)


def without(key: str) -> str:
    return edited(rf"^\[{re.escape(key)}\]\nvalue = .*\nsource = .*\n", "")


def with_figure(key: str, body: str) -> str:
    return edited(rf"^\[{re.escape(key)}\]\nvalue = .*\nsource = .*\n", f"[{key}]\n{body}\n")


SOURCE = 'source = { kind = "published", where = "somewhere" }'
BAD = {
    "unknown key": (
        BASE + f"\n[sram.capacty_bytes]\nvalue = 1\n{SOURCE}\n",
        "sram.capacty_bytes: no such figure. Did you mean 'sram.capacity_bytes'?",
    ),
    "unknown section": (BASE + f"\n[ddram.bytes_per_s]\nvalue = 1e9\n{SOURCE}\n", "ddram: no such figure"),
    "clock in GHz": (
        without("clock_hz") + f"\n[clock_ghz]\nvalue = 1.35\n{SOURCE}\n",
        "clock_ghz: no such figure. Figures are unprefixed: write clock_hz in hertz: 1.35 GHz is 1.35e9.",
    ),
    "clock in MHz": (BASE + f"\n[clock_mhz]\nvalue = 1350\n{SOURCE}\n", "write clock_hz in hertz"),
    "bandwidth in GB/s": (BASE + f"\n[dram.gb_per_s]\nvalue = 204.8\n{SOURCE}\n", "write dram.bytes_per_s"),
    "latency in ns": (BASE + f"\n[sram.latency_ns]\nvalue = 120\n{SOURCE}\n", "write sram.latency_s in seconds"),
    "capacity in MiB": (BASE + f"\n[sram.capacity_mib]\nvalue = 256\n{SOURCE}\n", "write sram.capacity_bytes"),
    "a peak": (BASE + f"\n[peak_tflops]\nvalue = 177\n{SOURCE}\n", "Peak rates follow from pe.dpe.mac_per_cycle"),
    "gigahertz in hertz": (
        with_figure("clock_hz", f"value = 1.35\n{SOURCE}"), "clock_hz: is out of all proportion (got 1.35). The figure is in hertz",
    ),
    "microseconds in seconds": (with_figure("launch.host_s", f"value = 5\n{SOURCE}"), "The figure is in seconds: 5.2 us is 5.2e-6"),
    "missing figure": (without("sram.banks"), "sram.banks: is missing. Every figure of the schema is needed."),
    "missing table": (without("pe.dpe.mac_per_cycle"), "pe.dpe.mac_per_cycle: is missing"),
    "missing section": (edited("^scale_up = .*$", ""), 'scale_up: is missing. Give the section, or write scale_up = "none"'),
    "no source": (with_figure("clock_hz", "value = 1.35e9"), "clock_hz: has no source. Write source = { kind = ... }. Kinds: published"),
    "bare number": (without("sram.banks") + "\n[sram]\nbanks = 64\n",
                    "sram.banks: is a figure, so it needs a value and a source (got 64)"),
    "no kind": (with_figure("clock_hz", 'value = 1.35e9\nsource = { where = "x" }'), "clock_hz: its source has no kind"),
    "unknown kind": (
        with_figure("clock_hz", 'value = 1.35e9\nsource = { kind = "publshed", where = "x" }'),
        "clock_hz: unknown kind of source (got 'publshed'). Kinds: published, derived, assumed, calibrated, chosen. Did you mean 'published'?",
    ),
    "no place": (with_figure("clock_hz", 'value = 1.35e9\nsource = { kind = "published" }'), "a source of kind 'published' needs where"),
    "no range": (
        with_figure("sram.banks", 'value = 64\nsource = { kind = "assumed", why = "x" }'),
        "sram.banks: a source of kind 'assumed' needs low and high",
    ),
    "outside its range": (
        with_figure("sram.banks", 'value = 64\nsource = { kind = "assumed", low = 1, high = 32, why = "x" }'),
        "sram.banks: lies outside its own range (got 64). Its range is 1 to 32.",
    ),
    "range upside down": (
        with_figure("sram.banks", 'value = 64\nsource = { kind = "assumed", low = 90, high = 32, why = "x" }'),
        "sram.banks: low 90 is above high 32",
    ),
    "extra source part": (
        with_figure("sram.banks", 'value = 64\nsource = { kind = "published", where = "x", nte = "y" }'),
        "its source has no part 'nte'. Known here: high, kind, low, note, where. Did you mean 'note'?",
    ),
    "zero": (with_figure("sram.banks", f"value = 0\n{SOURCE}"), "sram.banks: must be above 0 (got 0)"),
    "negative": (with_figure("grid.rows", f"value = -8\n{SOURCE}"), "grid.rows: must be above 0 (got -8)"),
    "negative launch": (with_figure("launch.host_s", f"value = -1e-6\n{SOURCE}"), "launch.host_s: must be at least 0"),
    "fraction of a bank": (with_figure("sram.banks", f"value = 1.5\n{SOURCE}"), "sram.banks: is not a whole number (got 1.5)"),
    "text for a number": (with_figure("sram.banks", f'value = "many"\n{SOURCE}'), "sram.banks: is not a number (got 'many')"),
    "number for a truth": (with_figure("noc.multicast", f"value = 1\n{SOURCE}"), "noc.multicast: is not true or false"),
    "number for text": (with_figure("dram.kind", f"value = 5\n{SOURCE}"), "dram.kind: is not text"),
    "efficiency in percent": (with_figure("dram.efficiency_frac", f"value = 95\n{SOURCE}"), "a fraction from 0 to 1"),
    "unknown dtype": (
        with_figure("pe.dpe.mac_per_cycle", f"value = {{ bf61 = 1024 }}\n{SOURCE}"),
        "pe.dpe.mac_per_cycle.bf61: no such number format. Known: int4",
    ),
    "table as number": (with_figure("pe.dpe.mac_per_cycle", f"value = 1024\n{SOURCE}"), "is a table by number format (got 1024)"),
    "part of a figure": (BASE + "\n[clock_hz.note]\nx = 1\n", "clock_hz.note: no such part of a figure. A figure has: value, source"),
    "no name": (edited('^name = .*$', ""), 'name: is missing. Write name = "mychip".'),
    "not TOML": ("name = ", "is not TOML"),
    "unknown base": ('name = "x"\nbase = "mtia44"\n', "base: unknown chip (got 'mtia44'). Known: mtia100"),
    "none where needed": (with_figure("dram.kind", f'value = "none"\n{SOURCE}') + "\n[sram]\nextra = 1\n", "sram"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_malformed(case: str):
    text, message = BAD[case]
    with pytest.raises(ChipFileError) as info:
        chips.loads(text, file="bad.toml")
    assert message in str(info.value)
    assert str(info.value).startswith("bad.toml: ") and info.value.file == "bad.toml"


def test_a_base_that_is_itself(tmp_path: Path):
    (tmp_path / "a.toml").write_text('name = "a"\nbase = "b.toml"\n')
    (tmp_path / "b.toml").write_text('name = "b"\nbase = "a.toml"\n')
    with pytest.raises(ChipFileError, match="is based on itself"):
        chips.load(tmp_path / "a.toml")


# --- variants ---------------------------------------------------------------------------------------------------------

CHOSEN = 'source = { kind = "chosen", why = "what if" }'


def test_a_users_file_with_a_base(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(
        VARIANT + f"[clock_hz]\nvalue = 2.4e9\n{CHOSEN}\n[pe.dpe.mac_per_cycle.mx4]\nvalue = 65536\n{CHOSEN}\n"
    )
    mine, base = chips.load(path), chips.load("mtia400")
    assert (mine.name, mine.clock_hz, mine.pe.dpe.mac_per_cycle["mx4"]) == ("mine", 2.4e9, 65536)
    assert mine.pe.dpe.mac_per_cycle["bf16"] == base.pe.dpe.mac_per_cycle["bf16"] and mine.dram == base.dram
    assert mine.figures["dram.bytes_per_s"].source.inherited_from == "mtia400"
    assert mine.figures["clock_hz"].source.kind is SourceKind.CHOSEN
    assert mine.fingerprint != base.fingerprint


def test_a_file_on_a_file(tmp_path: Path):
    (tmp_path / "a.toml").write_text(VARIANT + f"[sram.line_bytes]\nvalue = 256\n{CHOSEN}\n")
    (tmp_path / "b.toml").write_text(f'name = "b"\nbase = "a.toml"\n[clock_hz]\nvalue = 1.8e9\n{CHOSEN}\n')
    spec = chips.load(tmp_path / "b.toml")
    assert spec.sram.line_bytes == 256 and spec.figures["sram.line_bytes"].source.inherited_from == "mine"
    assert spec.figures["grid.rows"].source.inherited_from == "mtia400"


def test_a_variant_can_do_without_a_part():
    spec = chips.loads(VARIANT + 'scale_out = "none"\n')
    assert spec.scale_out is None and spec.scale_up is not None
    assert not [k for k in spec.figures if k.startswith("scale_out.")]


def test_a_variant_can_drop_a_number_format():
    spec = chips.loads(VARIANT + f'[pe.dpe.mac_per_cycle.mx4]\nvalue = "none"\n{CHOSEN}\n')
    assert "mx4" not in spec.pe.dpe.mac_per_cycle and "mx8" in spec.pe.dpe.mac_per_cycle


def test_a_variant_can_replace_a_table():
    spec = chips.loads(VARIANT + f"[pe.dpe.mac_per_cycle]\nvalue = {{ bf16 = 4096, fp8 = 8192 }}\n{CHOSEN}\n")
    assert dict(spec.pe.dpe.mac_per_cycle) == {"bf16": 4096, "fp8": 8192}


def test_a_variant_can_add_a_part_that_its_base_lacks():
    parts = ("domain_chips = 8", "bytes_per_s = 100e9", "latency_s = 2e-6", "message_engines = 4")
    text = "".join(f"[scale_up.{p.split(' = ')[0]}]\nvalue = {p.split(' = ')[1]}\n{CHOSEN}\n" for p in parts)
    spec = chips.loads(f'name = "x"\nbase = "mtia200"\n{text}')
    assert spec.scale_up is not None and spec.scale_up.message_engine_bytes_per_cycle is None


def test_vary():
    base = chips.load("mtia400")
    spec = base.vary({"dram.bytes_per_s": 12e12, "pe.dpe.mac_per_cycle.mx4": 65536}, name="fast")
    assert (spec.name, spec.dram.bytes_per_s, spec.pe.dpe.mac_per_cycle["mx4"]) == ("fast", 12e12, 65536)
    assert base.dram.bytes_per_s == 9.4e12 and spec.figures["dram.bytes_per_s"].source.kind is SourceKind.CHOSEN
    assert spec.fingerprint != base.fingerprint == base.vary({"clock_hz": base.clock_hz}).fingerprint
    assert "clock_hz=1700000000.0" in base.vary({"clock_hz": 1.7e9}).name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dram.byte_per_s": 1e12}, "dram.byte_per_s: no such figure. Did you mean 'dram.bytes_per_s'?"),
        ({"dram.bytes_per_s": -1.0}, "dram.bytes_per_s: must be above 0 (got -1.0)"),
        ({"clock_hz": 1.9}, "is out of all proportion"),
        ({"grid.rows": 2.5}, "is not a whole number"),
    ],
)
def test_vary_checks(changes: dict[str, object], message: str):
    with pytest.raises(ChipFileError) as info:
        chips.load("mtia400").vary(changes)
    assert message in str(info.value)


def test_vary_in_a_part_that_is_not_there():
    with pytest.raises(ChipFileError, match="this chip has none"):
        chips.load("mtia200").vary({"scale_up.bytes_per_s": 1e12})


def test_specs_hash_compare_and_pickle():
    spec = chips.load("mtia300")
    assert pickle.loads(pickle.dumps(spec)) == spec and hash(replace(spec)) == hash(spec)
    assert replace(spec, clock_hz=2e9) != spec and spec != chips.load("mtia200")
    assert len({chips.load(n).fingerprint for n in ALL}) == len(ALL)


def test_a_table_is_a_frozen_mapping():
    table = Table({"bf16": 1, "fp8": 2})
    assert table == {"bf16": 1, "fp8": 2} and dict(table) == table and table.get("mx4") is None
    with pytest.raises(TypeError):
        table["bf16"] = 3  # type: ignore[index]
