"""`mtia conformance`: PyTorch's own operator tests on the device."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtia.report.unit_options import Again, Jobs, JournalFile, forget, write_page

if TYPE_CHECKING:
    from rich.console import Console

    from mtia.conformance.result import Result
    from mtia.conformance.units import Unit

app = typer.Typer(add_completion=False)
JOURNAL = Path("out/conformance/results.jsonl")


@app.command()
def conformance(
    operators: Annotated[list[str] | None, typer.Argument(help="OpInfo's names, wildcards; default all.")] = None,
    dtype: Annotated[str, typer.Option(help="Only these, by commas.")] = "float32,bfloat16,float16,int32,int64",
    jobs: Jobs = 2,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds for one operator in one dtype.")] = 300.0,
    journal: JournalFile = JOURNAL,
    again: Again = "",
    report: Annotated[Path | None, typer.Option(help="Write the page of results (docs/support.md).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Counts and results as JSON on stdout.")] = False,
) -> None:  # fmt: skip
    """Which of PyTorch's operators run on the device, sample by sample, against the CPU.

    Stop it at any time: the journal keeps what is done and the next call goes on. The exit code is 1 where a unit asked
    for did not pass.
    """
    from rich.console import Console

    from mtia.conformance import support
    from mtia.conformance.journal import Journal
    from mtia.conformance.units import units

    console = Console(stderr=True)
    wanted = units(tuple(dtype.split(",")), operators or ())
    kept = Journal(journal)
    forget(kept, wanted, again, passed=_passed, command="mtia conformance")
    known = kept.read()
    _run([unit for unit in wanted if unit not in known], kept, jobs, limit_s, console)
    found = support.Support({unit: r for unit, r in kept.read().items() if unit in set(wanted)})
    write_page(report, lambda: support.markdown(found, wanted), console)
    if as_json:
        print(json.dumps(_json(found), indent=1))
    else:
        _print(found, Console())
    sys.exit(0 if all(_passed(r) for r in found.results.values()) else 1)


def _passed(result: Result) -> bool:
    return result.outcome in ("pass", "skip") and result.backward in ("pass", "skip", "")


def _run(todo: list[Unit], journal, jobs: int, limit_s: float, console: Console) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from mtia.conformance.runner import run

    if not todo:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("operators", total=len(todo))

        def keep(result: Result) -> None:
            journal.add(result)
            if not _passed(result):
                why = result.error or result.backward_error or ", ".join(result.fallbacks)
                progress.console.print(f"{result.outcome.value:8} {result.unit}: {why}", markup=False, highlight=False)
            progress.update(task, advance=1, description=str(result.unit)[:40])

        run(todo, jobs=jobs, limit_s=limit_s, on_result=keep)


def _json(found) -> dict[str, object]:
    from mtia.conformance.units import DTYPES

    return {
        "all_dtypes": found.counts(),
        "by_dtype": {dtype: found.counts(dtype) for dtype in DTYPES},
        "backward": found.backward_counts(),
        "samples": asdict(found.samples()),
        "backward_samples": asdict(found.backward_samples()),
        "host_routes": found.host_routes(),
        "results": [r.to_json() for _, r in sorted(found.results.items())],
    }


def _print(found, console: Console) -> None:
    from rich import box
    from rich.table import Table

    from mtia.conformance.support import headline, sample_lines
    from mtia.conformance.units import DTYPES

    outcomes = ("pass", "fallback", "fail", "timeout", "crash")
    table = Table("operators", *outcomes, box=box.SIMPLE_HEAD)
    rows = [
        ("all dtypes", found.counts()),
        *((d, found.counts(d)) for d in DTYPES),
        ("backward", found.backward_counts()),
    ]
    for name, counts in rows:
        if counts:
            table.add_row(name, *(str(counts[outcome]) for outcome in outcomes))
    console.print(table)
    console.print(headline(found))
    for line in sample_lines(found):
        console.print(line)
