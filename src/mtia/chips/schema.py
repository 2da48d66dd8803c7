"""Which figures a chip has and what each may be, read off the dataclasses: one place for names, types and limits."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

NONE = "none"  # in a file: the chip has no such part
UNKNOWN = "unknown"  # in a file: the chip may have it, nothing is published and nothing is assumed
DTYPES = ("int4", "int8", "fp4", "mx4", "fp8", "mx8", "mx8s", "fp16", "bf16", "tf32", "fp32", "fp64")


class Table(Mapping[str, float]):
    """An immutable, hashable mapping from dtype to number."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, float]) -> None:
        self._items = dict(items)
        self._hash = hash(frozenset(self._items.items()))

    def __getitem__(self, key: str) -> float:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[type[Table], tuple[dict[str, float]]]:
        return Table, (self._items,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One figure of the schema. `kind`: bool, int, float or str; `table`: one number per dtype."""

    key: str
    kind: type
    table: bool
    optional: bool  # may be none
    required: bool  # has no default
    sections: tuple[str, ...]  # optional sections that it lies in

    def accepts_zero(self) -> bool:
        return bool(_ZERO_IS_FINE.search(self.key))


_ZERO_IS_FINE = re.compile(
    r"(^info\.generation|^launch\..*_s|spare_pes|_latency_s|\.latency_s|_cycles|idle_w|message_engines)$"
)


class BadValue(ValueError):
    """A value that its figure may not have: `problem` and what is `allowed`."""

    def __init__(self, problem: str, allowed: str = "") -> None:
        super().__init__(problem)
        self.problem, self.allowed = problem, allowed


def leaves_of(cls: type, prefix: str = "", sections: tuple[str, ...] = ()) -> dict[str, Leaf]:
    """Every figure of a spec class by dotted key, nested dataclasses included."""
    found: dict[str, Leaf] = {}
    hints = get_type_hints(cls)
    for field in fields(cls):
        key = f"{prefix}{field.name}"
        kind, optional = _without_none(hints[field.name])
        if is_dataclass(kind):
            inside = (*sections, key) if optional else sections
            found |= leaves_of(kind, f"{key}.", inside)  # type: ignore[arg-type]
        elif field.metadata.get("figure", True):
            required = field.default is MISSING and field.default_factory is MISSING
            table = get_origin(kind) is not None
            found[key] = Leaf(key=key, kind=get_args(kind)[1] if table else kind, table=table, optional=optional,
                              required=required, sections=sections)  # fmt: skip
    return found


def optional_sections(cls: type) -> tuple[str, ...]:
    """Names of the parts a chip may lack altogether."""
    hints = get_type_hints(cls)
    parts = {f.name: _without_none(hints[f.name]) for f in fields(cls)}
    return tuple(name for name, (kind, optional) in parts.items() if optional and is_dataclass(kind))


def _without_none(hint: Any) -> tuple[Any, bool]:
    """(type, may be None)."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [k for k in get_args(hint) if k is not types.NoneType]
        return kinds[0], True
    return hint, False


# --- values -----------------------------------------------------------------------------------------------------------


def checked(leaf: Leaf, value: object) -> object:
    """`value` as the figure's type. Raises BadValue when it cannot be, with what is allowed."""
    if leaf.kind is str:
        return _text(value)
    if leaf.kind is bool:
        return _boolean(value)
    number = _number(leaf, value)
    _check_sign(leaf, number)
    _check_size(leaf.key, number)
    return number


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadValue("is not text", "Write a string.")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue("is not true or false", "Write true or false.")
    return value


def _number(leaf: Leaf, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue("is not a number", f"Write a number{_in_unit(leaf.key)}.")
    if leaf.kind is float:
        return float(value)
    if value != int(value):
        raise BadValue("is not a whole number", "Write a whole number.")
    return int(value)


def _check_sign(leaf: Leaf, number: float) -> None:
    if number < 0 or (number == 0 and not leaf.accepts_zero()):
        allowed = "at least 0" if leaf.accepts_zero() else "above 0"
        way_out = f' Write value = "{NONE}" if the chip has none.' if leaf.optional else ""
        raise BadValue(f"must be {allowed}", way_out.strip())


_SIZES = (
    # suffix, least, most, what to write
    ("_bytes_per_s", 1e6, 1e16, "bytes per second: 204.8 GB/s is 204.8e9"),
    ("_hz", 1e6, 1e11, "hertz: 1.35 GHz is 1.35e9"),
    ("_frac", 0.0, 1.0, "a fraction from 0 to 1"),
    ("_j_per_byte", 0.0, 1e-6, "joules: 5 pJ is 5e-12"),
    ("_j", 0.0, 1e-6, "joules: 5 pJ is 5e-12"),
    ("_w", 0.0, 1e5, "watts"),
    ("_s", 0.0, 0.1, "seconds: 5.2 us is 5.2e-6"),
)


def _check_size(key: str, number: float) -> None:
    """Catches a prefix left in the value (clock_hz = 1.35), not a bold design."""
    last = re.sub(r"\.(" + "|".join(DTYPES) + r")$", "", key)
    for suffix, least, most, unit in _SIZES:
        if ("_" + last.rpartition(".")[2]).endswith(suffix):
            if number and not least <= number <= most:
                raise BadValue("is out of all proportion", f"The figure is in {unit}.")
            return


def _in_unit(key: str) -> str:
    return next((f" in {unit}" for suffix, _, _, unit in _SIZES if _unit_word(key).endswith(suffix)), "")


def _unit_word(key: str) -> str:
    """The part of a key that carries its unit, with a leading underscore: dram.bytes_per_s -> _bytes_per_s."""
    parts = [part for part in key.split(".") if part not in DTYPES]
    return f"_{parts[-1]}"


# --- names ------------------------------------------------------------------------------------------------------------

_WRONG_UNITS = (
    (re.compile(r"_[gmk]hz$"), "_hz"),
    (re.compile(r"_(([gmtk]i?b)_per_s|([gmt]i?b)_?ps|([gmt]i?b)_s|bandwidth)$"), "_bytes_per_s"),
    (re.compile(r"_([gmtk]i?b|size)$"), "_bytes"),
    (re.compile(r"_(us|ns|ms|usec|nsec|seconds)$"), "_s"),
    (re.compile(r"_([pnf]j)_per_byte$"), "_j_per_byte"),
    (re.compile(r"_([pnf]j)$"), "_j"),
    (re.compile(r"_(kw|mw|watts?)$"), "_w"),
    (re.compile(r"_(percent|pct)$"), "_frac"),
)
_RATE = re.compile(r"(t|g|p)?(flops?|ops)(_per_s)?$")


def unit_hint(key: str, known: Mapping[str, Leaf]) -> str:
    """For a key like clock_ghz: what to write instead; "" when the unit is not what is wrong with it."""
    head, _, last = key.rpartition(".")
    for pattern, suffix in _WRONG_UNITS:
        right = f"{head}.{pattern.sub(suffix, f'_{last}').lstrip('_')}".lstrip(".")
        if pattern.search(f"_{last}") and right in known:
            return f"Figures are unprefixed: write {right}{_in_unit(right)}."
    if _RATE.search(last):
        return "Peak rates follow from pe.dpe.mac_per_cycle, the grid and clock_hz; give those."
    return ""
