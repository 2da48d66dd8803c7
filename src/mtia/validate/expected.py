"""The guard: error tables as committed, and what got worse since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtia.errors import MtiaError
from mtia.validate.tables import error_tables
from mtia.validate.validation import Results

TABLES = ("all", "by_file", "by_chip", "by_file_and_chip", "by_dtype")
STATISTICS = ("median_frac", "mean_frac", "p90_frac")
ROUNDING_FRAC = 0.0005  # errors are shown to a tenth of a percent


class ExpectedFileError(MtiaError, ValueError):
    """The committed tables cannot be read."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. Write it anew: mtia validate DIR --update-expected {path}")
        self.path, self.problem = path, problem


def document(results: Results) -> dict[str, Any]:
    """What is committed: statistics of each group, and how many rows were not predicted."""
    tables = {
        t.name: {line.label: _rounded(line.ours.to_json()) for line in t.lines} for t in error_tables(results.rows)
    }
    return {
        "command": "mtia validate validation/sample --update-expected validation/expected.json",
        "not_predicted": {"failed": len(results.failed), "no_predictor": len(results.missing)},
        "tables": {name: tables[name] for name in TABLES if name in tables},
    }


def _rounded(line: Mapping[str, Any]) -> dict[str, Any]:
    return {"n": line["n"], **{name: round(line[name], 4) for name in STATISTICS}}


def write(path: Path, results: Results) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(results), indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """Raises ExpectedFileError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExpectedFileError(path, "there is no such file") from None
    except json.JSONDecodeError as error:
        raise ExpectedFileError(path, f"is not JSON: {error}") from None
    if not isinstance(found, dict) or "tables" not in found:
        raise ExpectedFileError(path, "holds no error tables")
    return found


def worse(results: Results, expected: Mapping[str, Any]) -> list[str]:
    """One line per error that rose beyond rounding, group that lost rows, or row that is not predicted any more."""
    now = document(results)
    found = [
        f"{table}, {label}: {line}"
        for table, lines in expected["tables"].items()
        for label, before in lines.items()
        for line in _worse(before, now["tables"].get(table, {}).get(label))
    ]
    for kind, before in expected.get("not_predicted", {}).items():
        if now["not_predicted"][kind] > before:
            found.append(f"{kind}: {now['not_predicted'][kind]} rows, {before} before")
    return found


def _worse(before: Mapping[str, Any], now: Mapping[str, Any] | None) -> Sequence[str]:
    if now is None:
        return ["no rows any more"]
    rose = [name for name in STATISTICS if now[name] > before[name] + ROUNDING_FRAC]
    lines = [f"{name} {100 * now[name]:.2f} %, was {100 * before[name]:.2f} %" for name in rose]
    return ([f"{now['n']} rows, were {before['n']}"] if now["n"] < before["n"] else []) + lines


__all__ = ["ExpectedFileError", "document", "read", "worse", "write"]
