"""Which chip a row's `system` is: a chip file beside the data, a machine, a chip that we have, or published figures.

Looked up in that order; machines (`mtia.fabric.nodes`) are chips whose box changes their links. Published figures are
`chips.json` beside the data (peaks, bandwidths, counts: see the public one): what it does not say takes the values
shared by the family (`mtia.chips.published`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtia import chips
from mtia.chips.published import UnreadFigure, from_published
from mtia.chips.spec import ChipSpec
from mtia.errors import UnknownChip, did_you_mean
from mtia.fabric.nodes import nodes
from mtia.units import MiB
from mtia.validate.cases import Case, RelativeCollectiveCase
from mtia.validate.reading import MeasuredDataError

PUBLISHED_FILE = "chips.json"
SAME_FRAC = 0.03  # published figures are rounded


@dataclass(frozen=True, slots=True)
class ChipBook:
    """Spec and where it came from, by `system` as rows write it."""

    specs: Mapping[str, ChipSpec]
    origins: Mapping[str, str]

    def of(self, case: Case) -> ChipSpec:
        return self.specs[case.system]


def chip_book(
    cases: Iterable[Case], folder: Path, *, published_first: bool = False
) -> tuple[ChipBook, list[MeasuredDataError]]:
    """The chips of all cases; an error per row whose chip nobody knows. Raises on a chip file that cannot be read.

    `published_first`: a chip that has published figures beside the data is made from those, its own chip file unread.
    """
    files, published = _files(folder), _published(folder)
    specs: dict[str, ChipSpec] = {}
    origins: dict[str, str] = {}
    unknown: dict[str, str] = {}
    errors: list[MeasuredDataError] = []
    for case in cases:
        for system in _systems(case):
            if system not in specs and system not in unknown:
                found = _find(system, files, published, folder, published_first)
                if found is None:
                    unknown[system] = _known(system, files, published)
                else:
                    specs[system], origins[system] = found
            if system in unknown:
                problem = "is no chip that is known"
                errors.append(MeasuredDataError(case.file, line=case.line, column="system", value=system,
                                                problem=problem, allowed=unknown[system]))  # fmt: skip
    return ChipBook(specs, origins), errors


def _systems(case: Case) -> tuple[str, ...]:
    return (case.system, case.reference_system) if isinstance(case, RelativeCollectiveCase) else (case.system,)


def _files(folder: Path) -> dict[str, ChipSpec]:
    """Chip files beside the data, by their own name and by the file's."""
    found = {path.stem: chips.load(path) for path in sorted(folder.glob("*.toml"))}
    return {**found, **{spec.name: spec for spec in found.values()}}


def _published(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / PUBLISHED_FILE
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise MeasuredDataError(path.name, line=error.lineno, problem=f"is not JSON: {error.msg}") from None
    return {name: entry for name, entry in document.items() if isinstance(entry, dict)}


def _find(
    system: str,
    files: Mapping[str, ChipSpec],
    published: Mapping[str, dict[str, Any]],
    folder: Path,
    published_first: bool,
) -> tuple[ChipSpec, str] | None:
    plain = {name.lower(): name for name in files}
    if system.lower() in plain:
        return files[plain[system.lower()]], f"a chip file in {folder.name}"
    entry = {name.lower(): name for name in published}.get(system.lower())
    if published_first and entry is not None:
        return _from_published(entry, published[entry])
    if system in nodes():
        return nodes()[system].spec, f"{nodes()[system].chip}: {nodes()[system].why}"
    try:
        spec = chips.load(system)
    except UnknownChip:
        return None if entry is None else _from_published(entry, published[entry])
    origin = "comes with openMTIA" if spec.name == system else f"comes with openMTIA as {spec.name}"
    return spec, origin + ("" if entry is None else _contradiction(spec, published[entry]))


def _contradiction(spec: ChipSpec, entry: Mapping[str, Any]) -> str:
    """ "; chips.json has hbm_gbs 4000, the chip 3352": figures that are not those of the chip of that name."""
    ours = {"hbm_gbs": spec.dram.bytes_per_s / 1e9, "sms": spec.grid.n_pes, "cus": spec.grid.n_pes,
            "l2_mib": spec.sram.capacity_bytes / MiB, "tdp_w": spec.power.tdp_w}  # fmt: skip
    found = [
        f"{key} {said:g}, the chip {ours[key]:g}"
        for key, said in entry.items()
        if key in ours and isinstance(said, int | float) and abs(said / ours[key] - 1) > SAME_FRAC
    ]
    return f"; {PUBLISHED_FILE} has {'; '.join(found)} (--published takes it)" if found else ""


def _from_published(name: str, entry: dict[str, Any]) -> tuple[ChipSpec, str]:
    """The chip, and what was not read of its entry. Raises ChipFileError."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnreadFigure)
        spec = from_published(name, entry)
    return spec, "; ".join([f"{PUBLISHED_FILE}: {spec.title}", *dict.fromkeys(str(w.message) for w in caught)])


def _known(system: str, files: Mapping[str, ChipSpec], published: Mapping[str, Any]) -> str:
    words = list(dict.fromkeys((*chips.names(), *files, *published)))
    return (
        f"Known: {', '.join(words)}.{did_you_mean(system, words)} A new chip is a .toml file or an entry of "
        f"{PUBLISHED_FILE} beside the data."
    )


__all__ = ["PUBLISHED_FILE", "ChipBook", "chip_book"]
