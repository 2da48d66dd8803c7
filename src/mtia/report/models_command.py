"""`mtia models`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtia.report.unit_options import Again, Jobs, JournalFile, forget, write_page

if TYPE_CHECKING:
    from rich.console import Console

    from mtia.architectures.result import Result, Unit
    from mtia.conformance.journal import Journal

app = typer.Typer(add_completion=False)
JOURNAL = Path("out/models/results.jsonl")


@app.command()
def models(
    names: Annotated[list[str] | None, typer.Argument(help="Architectures, wildcards; default all.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16; several by commas.")] = "float32",
    jobs: Jobs = 2,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds for one architecture in one dtype.")] = 900.0,
    journal: JournalFile = JOURNAL,
    again: Again = "",
    report: Annotated[Path | None, typer.Option(help="Write the page of results (docs/models.md).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")] = False,
) -> None:  # fmt: skip
    """Architectures of transformers under torch.compile: forward and one training step, held to the CPU and timed.

    Stop it at any time: the journal keeps what is done and the next call goes on. The exit code is 1 where one asked
    for did not pass.
    """
    from rich.console import Console

    from mtia.architectures import page
    from mtia.architectures.configs import ARCHITECTURES
    from mtia.architectures.result import Result
    from mtia.architectures.units import units
    from mtia.conformance.journal import Journal

    console = Console(stderr=True)
    wanted = units(names or (), tuple(dtype.split(",")))
    kept = Journal(journal, Result)
    forget(kept, wanted, again, passed=_passed, command="mtia models")
    known = kept.read()
    _run([unit for unit in wanted if unit not in known], kept, jobs, limit_s, console)
    known = kept.read()
    found = {unit: known[unit] for unit in wanted}
    write_page(report, lambda: page.markdown(found, list(ARCHITECTURES)), console)
    if as_json:
        print(json.dumps([r.to_json() for r in found.values()], indent=1))
    else:
        _print(list(found.values()), Console())
    sys.exit(0 if all(_passed(r) for r in found.values()) else 1)


def _passed(result: Result) -> bool:
    return result.outcome == "pass"


def _run(todo: list[Unit], journal: Journal[Result], jobs: int, limit_s: float, console: Console) -> None:
    from mtia.architectures import result
    from mtia.conformance.runner import Answers, run

    if not todo:
        return
    done = 0

    def keep(found: Result) -> None:
        nonlocal done
        done += 1
        journal.add(found)
        why = "" if _passed(found) else f": {found.error or ', '.join(found.fallbacks)}"
        line = f"{done}/{len(todo)} {found.outcome.value:8} {found.unit} {found.wall_s:.0f} s{why}"
        console.print(line, markup=False, highlight=False)

    answers = Answers(result.Result.from_json, result.ended)
    command = (sys.executable, "-m", "mtia.architectures.worker")
    run(todo, jobs=jobs, limit_s=limit_s, on_result=keep, command=command, answers=answers)


def _print(results: list[Result], console: Console) -> None:
    from rich import box
    from rich.table import Table

    from mtia.architectures import page

    chips = page.chips_of(results)
    table = Table(*page.headings(chips), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for result in results:
        table.add_row(*page.row(result, chips))
    console.print(table)
    console.print(page.headline(results))
