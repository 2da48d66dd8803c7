"""Results on disk, a JSON object a line, written as they come: an interrupted run loses the units in work, no more."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from mtia.conformance.result import Result


class Entry(Protocol):
    """What a journal keeps: the outcome of one unit of work."""

    @property
    def unit(self) -> Any: ...

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self: ...


R = TypeVar("R", bound=Entry)


class Journal(Generic[R]):
    """Appends results; a line that a crash cut off is skipped when read, and what follows starts a line of its own."""

    def __init__(self, path: Path, kind: type[R] = Result) -> None:
        self.path, self.kind = path, kind

    def read(self) -> dict[Any, R]:
        """The latest result of each unit."""
        found: dict[Any, R] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                result = self.kind.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
            found[result.unit] = result
        return found

    def add(self, result: R) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            if file.tell() and not self._ends_a_line():
                file.write("\n")
            file.write(json.dumps(result.to_json()) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def forget(self, units: Iterable[Hashable]) -> None:
        """Drops these units' results, so that they run again."""
        kept = {unit: result for unit, result in self.read().items() if unit not in set(units)}
        if not self.path.exists():
            return
        draft = self.path.with_suffix(".tmp")
        draft.write_text("".join(json.dumps(r.to_json()) + "\n" for r in kept.values()), encoding="utf-8")
        draft.replace(self.path)


__all__ = ["Journal"]
