"""`mtia suite`: other projects' own tests on the device."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mtia.suites.results import TestResult

app = typer.Typer(add_completion=False)


@app.command()
def suite(
    name: Annotated[str, typer.Argument(help="triton, tutorials, helion or kernelbench.")],
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A checkout of that project.")],
    select: Annotated[str, typer.Option("-k", help="Only tests that match, as pytest's -k.")] = "",
    every: Annotated[int, typer.Option(min=1, help="A sample: one test in so many.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds for one test.")] = 120.0,
    journal: Annotated[Path | None, typer.Option(help="Results so far (out/suites/NAME.jsonl).")] = None,
    again: Annotated[bool, typer.Option(help="Run again what did not pass.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")] = False,
) -> None:  # fmt: skip
    """Which tests of Triton, Helion and KernelBench run on the device.

    Stop it at any time: the journal keeps what is done and the next call goes on. A test that crashes or hangs costs
    itself alone. Exit code 1 where a test failed.
    """
    from mtia.conformance.journal import Journal
    from mtia.conformance.result import Outcome
    from mtia.suites import catalog, supervise
    from mtia.suites.results import TestResult

    chosen = catalog.suite(name)
    kept = Journal(journal or Path("out/suites") / f"{name}.jsonl", TestResult)
    done = kept.read()
    if again:
        kept.forget([test for test, r in done.items() if r.outcome not in (Outcome.PASS, Outcome.SKIP)])
        done = kept.read()

    def keep(result: TestResult) -> None:
        kept.add(result)
        if result.outcome not in (Outcome.PASS, Outcome.SKIP):
            print(
                f"{result.outcome.value:8} {result.test}: {result.error or ', '.join(result.fallbacks)}",
                file=sys.stderr,
            )

    supervise.run(
        chosen, source.resolve(), known=done, on_result=keep, jobs=jobs, limit_s=limit_s, every=every, select=select
    )
    found = list(kept.read().values())
    if as_json:
        print(json.dumps([r.to_json() for r in found], indent=1))
    else:
        _print(name, found)
    sys.exit(any(r.outcome not in (Outcome.PASS, Outcome.SKIP) for r in found))


def _print(name: str, found: list[TestResult]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from mtia.conformance.result import Outcome
    from mtia.suites.results import by_file, headline, usual_errors

    console = Console()
    table = Table("tests", *(o.value for o in Outcome), box=box.SIMPLE_HEAD)
    for file, counts in by_file(found).items():
        table.add_row(file, *(str(counts[o]) for o in Outcome))
    console.print(table)
    for error, n in usual_errors(found):
        console.print(f"{n:5} {error}", markup=False, highlight=False)
    console.print(headline(name, found))
