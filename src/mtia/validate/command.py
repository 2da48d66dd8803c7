"""`mtia validate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mtia.validate.flow import Options, Selection
    from mtia.validate.validation import Results

app = typer.Typer(add_completion=False)
SAMPLE = Path("validation/sample")


@app.command()
def validate(
    folder: Annotated[Path, typer.Argument(help="A folder of measurements (CSV), chip files and chips.json.")] = SAMPLE,
    file: Annotated[str, typer.Option(help="Only these tables, by commas: gemm,moe.")] = "",
    chip: Annotated[str, typer.Option(help="Only these chips, by commas.")] = "",
    dtype: Annotated[str, typer.Option(help="Only these number formats, by commas.")] = "",
    sample: Annotated[int, typer.Option(min=0, help="Rows per file and chip; 0: all.")] = 0,
    draw: Annotated[int, typer.Option(min=0, help="Which sample: draws have no row in common.")] = 0,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst rows to explain.")] = 10,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    fast: Annotated[bool, typer.Option("--fast", help="The analytical fast path where there is one.")] = False,
    compare_fast: Annotated[bool, typer.Option("--compare-fast", help="Engine against fast path.")] = False,
    pooled: Annotated[bool, typer.Option("--pooled", help="No calibrated figure of the chip's own.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Chips from chips.json, where it has them.")] = False,
    intervals: Annotated[bool, typer.Option("--intervals", help="Also 90 % intervals, and what is inside.")] = False,
    draws: Annotated[int, typer.Option(min=2, max=32, help="Chips drawn from the ranges, for intervals.")] = 8,
    constants: Annotated[bool, typer.Option("--constants", help="All tables, and assumed figures too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for errors.md, errors.json and rows.csv.")] = Path("out/validate"),
    plot: Annotated[Path | None, typer.Option(help="Write predicted against measured here (HTML).")] = None,
    expected: Annotated[Path | None, typer.Option(help="Fail where an error is above the one in this file.")] = None,
    update_expected: Annotated[Path | None, typer.Option(help="Write that file.")] = None,
    save_rows: Annotated[Path | None, typer.Option(help="Write the chosen rows here, as they are, and stop.")] = None,
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="List unusable rows and go on.")] = False,
) -> None:
    """Predict measured latencies, and say how far off: `mtia validate DIR`.

    A table is known by its columns (docs/validate.md). Exit code 1: a row failed or was skipped, or an error is above
    the expected one; 2: the data cannot be used.
    """
    from rich.console import Console

    from mtia.validate import expected as guard
    from mtia.validate import flow, page
    from mtia.validate.plot import write_plot
    from mtia.validate.sampling import write_rows

    options = flow.Options(
        folder=folder, files=_words(file), chips=_words(chip), dtypes=_words(dtype), sample_n=sample, draw=draw,
        jobs=jobs, fast=fast, compare_fast=compare_fast, pooled=pooled, published=published,
        n_draws=draws if intervals else 0, skip_unknown=skip_unknown,
    )  # fmt: skip
    before = guard.read(expected) if expected else None
    selection, console = flow.select(options), Console(stderr=as_json)
    if save_rows:
        written = write_rows(save_rows, selection.tables, selection.cases)
        console.print(f"{len(selection.cases):,} rows written: {', '.join(map(str, written))}")
        return
    results = _predicted(options, selection)
    if as_json:
        typer.echo(json.dumps(page.to_json(results, n_worst=worst), indent=1))
    else:
        page.print_results(console, results, n_worst=worst, everything=constants)
    written = page.write_folder(out, results, n_worst=worst)
    written += [write_plot(plot, results.rows, title=f"Predicted against measured: {folder}")] if plot else []
    written += [guard.write(update_expected, results)] if update_expected else []
    for path in written:
        console.print(f"wrote {path}")
    worse = _worse(console, results, guard.worse(results, before) if before is not None else None)
    raise typer.Exit(1 if worse or not results.complete else 0)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _predicted(options: Options, selection: Selection) -> Results:
    """With a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mtia.validate import flow

    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=flow.n_predictions(options, selection))
        return flow.validate(options, selection=selection, progress=lambda done: bar.advance(task, done))


def _worse(console: Console, results: Results, lines: list[str] | None) -> bool:
    if lines is None:
        return False
    if not lines:
        console.print("no error is above the expected one", style="green")
    for line in lines:
        console.print(f"worse than expected: {line}", style="bold red", highlight=False)
    return bool(lines)
