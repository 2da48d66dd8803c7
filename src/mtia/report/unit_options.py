"""What `mtia conformance` and `mtia models` share: options of a run of many units whose results a journal keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mtia.conformance.journal import Journal

Jobs = Annotated[int, typer.Option(min=1, help="Worker processes.")]
JournalFile = Annotated[Path, typer.Option(help="Results so far: what is in it is not run again.")]
Again = Annotated[str, typer.Option(help="Run again: 'failed' (all but passed), 'all', or nothing.")]


def forget(
    journal: Journal[Any], wanted: Sequence[Any], again: str, *, passed: Callable[[Any], bool], command: str
) -> None:
    """Take out of the journal what is to run again. Raises BadProblem on another word than those of `Again`."""
    from mtia.errors import BadProblem

    if again not in ("", "failed", "all"):
        raise BadProblem(command, argument="--again", value=again, allowed="'failed' or 'all'")
    known = journal.read()
    stale = [u for u in wanted if u in known and (again == "all" or (again and not passed(known[u])))]
    if stale:
        journal.forget(stale)


def write_page(path: Path | None, text: Callable[[], str], console: Console) -> None:
    """The page of results where one is asked for."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(), encoding="utf-8")
    console.print(f"wrote {path}")


__all__ = ["Again", "Jobs", "JournalFile", "forget", "write_page"]
