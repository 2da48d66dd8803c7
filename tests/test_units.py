from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtia
from mtia import units
from mtia.units import FS_PER_S, UNIT_SUFFIXES

COUNTS = {"rows", "cols", "spare_pes", "chiplets", "vector_cores", "block_m", "block_n", "circular_buffers",
          "resident_programs", "multicast_pes", "message_pes", "group_chips", "unpack_passes", "mac_per_cycle", "product_bits", "block_k", "read_copies", "ways", "banks", "channels", "domain_chips", "message_engines", "generation",
          "ratio", "value", "low", "high"}  # fmt: skip
LIGHT = ("mtia.chips", "mtia.program", "mtia.knobs", "mtia.engine.trace")


def dataclasses_of(package: str) -> Iterator[type]:
    """Dataclasses defined in a package, by import."""
    module = importlib.import_module(package)
    paths = getattr(module, "__path__", None)
    names = [package, *(f"{package}.{m.name}" for m in pkgutil.iter_modules(paths or []))]
    for name in names:
        for member in vars(importlib.import_module(name)).values():
            if isinstance(member, type) and dataclasses.is_dataclass(member) and member.__module__ == name:
                yield member


@pytest.mark.parametrize("package", LIGHT)
def test_bare_numbers_carry_their_unit(package: str):
    for cls in dataclasses_of(package):
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if hints[field.name] in (float, float | None):
                word = f"_{field.name}"
                assert word.endswith(UNIT_SUFFIXES) or field.name in COUNTS, f"{cls.__name__}.{field.name}"


def test_number_fields_of_a_chip_have_units_or_are_counts():
    from mtia.chips.spec import LEAVES

    for key, leaf in LEAVES.items():
        word = f"_{key.split('.')[-1]}"
        if leaf.kind in (int, float):
            assert word.endswith(UNIT_SUFFIXES) or key.split(".")[-1] in COUNTS, key


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (204.8e9, "B/s", "205 GB/s"), (5.2e-6, "s", "5.2 µs"), (0.0, "s", "0 s"), (999.96e9, "B/s", "1 TB/s"),
        (1234.0, "W", "1.23 kW"), (0.27e-12, "J", "270 fJ"), (1.5e-18, "J", "0.0015 fJ"), (-3e-3, "s", "-3 ms"),
        (float("inf"), "s", "inf s"), (100.0, "s", "100 s"),
    ],
)  # fmt: skip
def test_format_si(value: float, unit: str, text: str):
    assert units.format_si(value, unit) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(393216, "384 KiB"), (288 * 2**30, "288 GiB"), (17, "17 B"), (1536, "1.5 KiB")]
)
def test_format_capacity(n_bytes: int, text: str):
    assert units.format_capacity(n_bytes) == text


@given(st.floats(1e-14, 1e17))
def test_format_si_is_close_and_short(value: float):
    number, prefixed = units.format_si(value, "x").split(" ")
    scale = {p: s for s, p in units._PREFIXES}[prefixed.removesuffix("x")]
    assert float(number) * scale == pytest.approx(value, rel=6e-3)
    assert 0.99 <= float(number) <= 1000


def test_cycles_round_up_once():
    assert units.cycles_to_fs(3, 10**15) == 3
    assert units.cycles_to_fs(1, 3) == FS_PER_S // 3 + 1
    assert units.cycles_to_fs(1_350_000_000, 1.35e9) == FS_PER_S


@given(st.integers(0, 10**12), st.integers(1, 10**10))
def test_cycles_to_fs_is_the_least_upper_bound(n_cycles: int, clock_hz: int):
    time_fs = units.cycles_to_fs(n_cycles, clock_hz)
    assert (time_fs - 1) * clock_hz < n_cycles * FS_PER_S <= time_fs * clock_hz


@given(st.floats(0, 1e3))
def test_seconds_survive_femtoseconds(time_s: float):
    assert units.fs_to_s(units.s_to_fs(time_s)) == pytest.approx(time_s, rel=1e-12, abs=1e-15)


def test_bytes_to_fs():
    assert units.bytes_to_fs(1, 1e15) == 1
    assert units.bytes_to_fs(3, 2e15) == 2


def test_package_has_a_version():
    assert mtia.__version__.count(".") == 2
