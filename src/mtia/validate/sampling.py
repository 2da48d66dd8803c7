"""Which rows: by chip, by file, or a sample that is the same on every machine and for every order of the rows."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from mtia.errors import did_you_mean
from mtia.validate.cases import Case
from mtia.validate.reading import MeasuredDataError
from mtia.validate.rows import MeasuredTable


def sample(cases: Iterable[Case], n_per_group: int, *, draw: int = 0) -> list[Case]:
    """`n_per_group` rows of each file and chip, its number formats in turn, in the order of the input.

    Rows are ordered by a hash of what they say, so that neither their order nor other rows matter. Draws 0, 1, 2 ...
    have no row in common: tune on one, report another.
    """
    groups: dict[tuple[str, str], dict[str, list[Case]]] = {}
    listed = list(cases)
    for case in listed:
        groups.setdefault((case.file, case.system), {}).setdefault(f"{case.dtype} {case.operator}", []).append(case)
    chosen = {
        id(c) for group in groups.values() for c in _in_turn(group)[draw * n_per_group : (draw + 1) * n_per_group]
    }
    return [case for case in listed if id(case) in chosen]


def _in_turn(by_kind: dict[str, list[Case]]) -> list[Case]:
    """One of each number format and operator after the other, each in the order of its hashes."""
    ordered = [sorted(cases, key=_hash) for _, cases in sorted(by_kind.items())]
    longest = max(len(cases) for cases in ordered)
    return [cases[place] for place in range(longest) for cases in ordered if place < len(cases)]


def _hash(case: Case) -> str:
    return hashlib.sha256("\x1f".join(case.cells).encode()).hexdigest()


def chosen_files(tables: Sequence[MeasuredTable], words: Sequence[str]) -> list[MeasuredTable]:
    """The tables whose file is named, with or without .csv; all without words. Raises MeasuredDataError on another."""
    names = {table.file.removesuffix(".csv"): table for table in tables}
    for word in words:
        if word.removesuffix(".csv") not in names:
            raise MeasuredDataError(word, problem="is no table of this folder",
                                    allowed=f"There are {', '.join(names)}.{did_you_mean(word, names)}")  # fmt: skip
    wanted = {word.removesuffix(".csv") for word in words}
    return [table for name, table in names.items() if not wanted or name in wanted]


def write_rows(folder: Path, tables: Iterable[MeasuredTable], cases: Iterable[Case]) -> list[Path]:
    """The rows of `cases`, as they were read, in files of the same names and columns."""
    kept = {id(case) for case in cases}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in tables:
        rows = [case.cells for case in table.cases if id(case) in kept]
        if rows:
            path = folder / table.file
            with path.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream, lineterminator="\n").writerows([table.columns, *rows])
            written.append(path)
    return written


__all__ = ["chosen_files", "sample", "write_rows"]
