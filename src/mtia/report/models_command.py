"""`mtia models`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds for one architecture in one dtype.")] = 900.0,
    journal: Annotated[Path, typer.Option(help="Results so far: what is in it is not run again.")] = JOURNAL,
    again: Annotated[str, typer.Option(help="Run again: 'failed' (all but passed), 'all', or nothing.")] = "",
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
    from mtia.architectures.result import Outcome, Result
    from mtia.architectures.units import units
    from mtia.conformance.journal import Journal

    console = Console(stderr=True)
    wanted = units(names or (), tuple(dtype.split(",")))
    kept = Journal(journal, Result)
    _forget(kept, wanted, again)
    known = kept.read()
    _run([unit for unit in wanted if unit not in known], kept, jobs, limit_s, console)
    known = kept.read()
    found = {unit: known[unit] for unit in wanted}
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(page.markdown(found, list(ARCHITECTURES)), encoding="utf-8")
        console.print(f"wrote {report}")
    if as_json:
        print(json.dumps([r.to_json() for r in found.values()], indent=1))
    else:
        _print(list(found.values()), Console())
    sys.exit(0 if all(r.outcome is Outcome.PASS for r in found.values()) else 1)


def _forget(journal: Journal[Result], wanted: list[Unit], again: str) -> None:
    from mtia.architectures.result import Outcome
    from mtia.errors import BadProblem

    if again not in ("", "failed", "all"):
        raise BadProblem("mtia models", argument="--again", value=again, allowed="'failed' or 'all'")
    known = journal.read()
    stale = [u for u in wanted if u in known and (again == "all" or (again and known[u].outcome is not Outcome.PASS))]
    if stale:
        journal.forget(stale)


def _run(todo: list[Unit], journal: Journal[Result], jobs: int, limit_s: float, console: Console) -> None:
    from mtia.architectures import result
    from mtia.architectures.result import Outcome
    from mtia.conformance.runner import Answers, run

    if not todo:
        return
    done = 0

    def keep(found: Result) -> None:
        nonlocal done
        done += 1
        journal.add(found)
        why = "" if found.outcome is Outcome.PASS else f": {found.error or ', '.join(found.fallbacks)}"
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
