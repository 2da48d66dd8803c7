"""The figures of each chip that nobody published: calibrated and assumed, with range and source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mtia.chips.spec import ChipSpec, SourceKind
from mtia.report.figures import format_range, format_source, format_value


def constants(specs: Iterable[ChipSpec]) -> dict[str, dict[str, dict[str, Any]]]:
    """By chip and figure: value, kind, range and source of what is calibrated (first), chosen or assumed."""
    order = (SourceKind.CALIBRATED, SourceKind.CHOSEN, SourceKind.ASSUMED)
    return {spec.name: {key: figure for kind in order for key, figure in _of_kind(spec, kind)} for spec in specs}


def _of_kind(spec: ChipSpec, kind: SourceKind) -> Iterable[tuple[str, dict[str, Any]]]:
    for key, figure in spec.figures.items():
        if figure.source.kind is kind:
            yield key, {"value": figure.value, "text": format_value(key, figure.value), "kind": kind.value,
                        "range": format_range(key, figure), "source": format_source(figure)}  # fmt: skip


def counts(found: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many of each kind a chip has."""
    kinds = [figure["kind"] for figure in found.values()]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


__all__ = ["constants", "counts"]
