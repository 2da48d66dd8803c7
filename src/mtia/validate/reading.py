"""A CSV file as rows whose cells are read with a message that names file, line, column, value and what is known."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from mtia.errors import MtiaError, did_you_mean


class MeasuredDataError(MtiaError, ValueError):
    """A table of measurements says something that is not known. `line` 0: the file as a whole; `column` "": the row."""

    def __init__(
        self, file: str, *, line: int = 0, column: str = "", value: str | None = None, problem: str, allowed: str = ""
    ) -> None:
        where = f"{file}:{line}" if line else file
        said = " ".join(word for word in (column, "" if value is None else repr(value)) if word)
        super().__init__(f"{where}: {said + ': ' if said else ''}{problem}.{' ' + allowed if allowed else ''}")
        self.file, self.line, self.column, self.value = file, line, column, value
        self.problem, self.allowed = problem, allowed


class MeasuredDataErrors(MtiaError, ValueError):
    """Everything wrong in a folder, one line per kind of mistake (first row named, all rows counted)."""

    def __init__(self, folder: str, errors: Sequence[MeasuredDataError], *, shown: int = 12) -> None:
        self.folder, self.errors = folder, tuple(errors)
        lines = [f"  {text}" for text in grouped(errors)]
        more = [f"  ... and {len(lines) - shown} more kinds"] if len(lines) > shown else []
        rows = "1 row or file" if len(errors) == 1 else f"{len(errors)} rows or files"
        super().__init__(
            "\n".join([f"{folder}: {rows} cannot be used:", *lines[:shown], *more,
                       "Mend the data, or give --skip-unknown to list them and go on with the rest."])
        )  # fmt: skip


def grouped(errors: Iterable[MeasuredDataError]) -> list[str]:
    """One message per (file, column, value, problem): that of the first row, with the number of rows like it."""
    first: dict[tuple[str, str, str | None, str], MeasuredDataError] = {}
    count: dict[tuple[str, str, str | None, str], int] = {}
    for error in errors:
        key = (error.file, error.column, error.value, error.problem)
        first.setdefault(key, error)
        count[key] = count.get(key, 0) + 1
    return [f"{e}{f' ({count[key] - 1} more rows like it)' if count[key] > 1 else ''}" for key, e in first.items()]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file; `cells` by column."""

    file: str
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        found = self.cells[column].strip()
        if not found:
            raise self.error(column, "is empty")
        return found

    def optional(self, column: str) -> str:
        return self.cells.get(column, "").strip()

    def one_of(self, column: str, known: Iterable[str]) -> str:
        found, words = self.text(column), tuple(known)
        if found not in words:
            raise self.error(column, "is not known", f"Known: {', '.join(words)}.{did_you_mean(found, words)}")
        return found

    def count(self, column: str, *, least: int = 1) -> int:
        """A whole number, not below `least`."""
        text = self.text(column)
        try:
            number = int(text)
        except ValueError:
            raise self.error(column, "is not a whole number") from None
        if number < least:
            raise self.error(column, "is too small", f"The least is {least}.")
        return number

    def positive(self, column: str) -> float:
        text = self.text(column)
        try:
            number = float(text)
        except ValueError:
            raise self.error(column, "is not a number") from None
        if not isfinite(number) or number <= 0:
            raise self.error(column, "is not above zero and finite")
        return number

    def error(self, column: str, problem: str, allowed: str = "") -> MeasuredDataError:
        return MeasuredDataError(
            self.file, line=self.line, column=column, value=self.cells.get(column, ""), problem=problem, allowed=allowed
        )


@dataclass(frozen=True, slots=True)
class Sheet:
    """A CSV file: its columns, and its rows in order."""

    file: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]  # (line, cells)

    def __iter__(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        return iter(self.rows)


def read_sheet(path: Path) -> Sheet:
    """The file's header and rows. Raises MeasuredDataError on an empty file or a row of another length."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        header = next(reader, None)
        if not header:
            raise MeasuredDataError(path.name, problem="is empty", allowed="The first line names the columns.")
        columns = tuple(word.strip() for word in header)
        rows = tuple((reader.line_num, tuple(cells)) for cells in reader if cells)
    for line, cells in rows:
        if len(cells) != len(columns):
            problem = f"has {len(cells)} cells, the header names {len(columns)} columns"
            raise MeasuredDataError(path.name, line=line, problem=problem)
    return Sheet(path.name, columns, rows)


__all__ = ["MeasuredDataError", "MeasuredDataErrors", "Row", "Sheet", "grouped", "read_sheet"]
