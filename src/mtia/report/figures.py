"""Figures of a chip as text: a number with its unit and prefix, a source with its range."""

from __future__ import annotations

from mtia.chips.schema import DTYPES
from mtia.chips.spec import Figure
from mtia.units import format_capacity, format_si

_UNITS = (
    ("_bytes_per_s", "B/s"), ("_bytes_per_cycle", "B/cycle"), ("_elements_per_cycle", "elements/cycle"),
    ("_mac_per_cycle", "MAC/cycle"), ("_j_per_byte", "J/B"), ("_hz", "Hz"), ("_cycles", "cycles"), ("_j", "J"),
    ("_w", "W"), ("_s", "s"),
)  # fmt: skip


def format_value(key: str, value: object) -> str:
    """The value of the figure `key`: format_value("clock_hz", 1.35e9) == "1.35 GHz"."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    return format_number(_unit_word(key), float(value))


def format_number(word: str, value: float) -> str:
    """A number whose unit is the suffix of `word`."""
    if word.endswith("_bytes"):
        return format_capacity(value)
    if word.endswith("_frac"):
        return f"{100 * value:.3g} %"
    for suffix, unit in _UNITS:
        if word.endswith(suffix):
            return f"{value:g} {unit}" if "cycle" in unit else format_si(value, unit)
    return f"{value:g}"


def _unit_word(key: str) -> str:
    return "_" + [part for part in key.split(".") if part not in DTYPES][-1]


def format_in(unit: str, value: float | None) -> str:
    """A number in a named unit ("B" means a capacity, "" a count)."""
    if value is None:
        return "–"
    if unit == "B":
        return format_capacity(value)
    return format_si(value, unit) if unit else f"{value:g}"


def format_range(key: str, figure: Figure) -> str:
    """ "100 ns … 400 ns", or nothing where the figure has no range (or is a truth value)."""
    source = figure.source
    if source.low is None or source.high is None or isinstance(figure.value, bool):
        return ""
    return f"{format_value(key, source.low)} … {format_value(key, source.high)}"


def format_source(figure: Figure) -> str:
    """Text of the source, then the note, then the chip whose file states it."""
    source = figure.source
    note = f" ({source.note})" if source.note else ""
    origin = f" [{source.inherited_from}]" if source.inherited_from else ""
    return f"{source.text}{note}{origin}"
