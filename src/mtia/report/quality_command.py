"""`mtia quality MODEL`: perplexity and agreement of low-precision plans beside their time, energy and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

FORMATS = "int8,fp8,mx8:fit,mx4:even"


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="The model: smollm2.")] = "smollm2",
    formats: Annotated[str, typer.Option(help="Schemes, or plans PATTERN=SCHEME+PATTERN=SCHEME, by comma.")] = FORMATS,
    chips: Annotated[str, typer.Option(help="Chips, by comma.")] = "mtia200,mtia300,mtia400,mtia450,mtia500",
    windows: Annotated[int, typer.Option(help="Windows of text, spread over it.")] = 2,
    length: Annotated[int, typer.Option(help="Tokens of a window.")] = 512,
    time: Annotated[bool, typer.Option(help="Time a decode step of the compiled model on each chip too.")] = True,
    out: Annotated[Path, typer.Option(help="Folder of the page and the figures.")] = Path("out/quality"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What each format costs in quality and buys in time, on real text."""
    from rich.console import Console
    from rich.table import Table

    from mtia.chips import load
    from mtia.errors import BadProblem
    from mtia.report import quality, quality_page

    if model not in quality.MODELS:
        raise BadProblem("quality", argument="model", value=model, allowed=f"known: {', '.join(quality.MODELS)}")
    console = Console(stderr=True)
    plans = [text.replace("+", ",") for text in formats.split(",")]
    found = quality.study(
        plans, [load(name) for name in chips.split(",")], n_windows=windows, length=length, timed=time,
        say=console.print,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / "quality.json").write_text(json.dumps(found.to_json(), indent=2) + "\n")
    written = quality_page.write(found, out / "quality.html")
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    table = Table(title=f"SmolLM2-135M, {found.n_tokens:,} tokens of {found.text}", title_justify="left")
    for heading in quality_page.HEADINGS:
        table.add_column(heading)
    for row in found.rows:
        table.add_row(*quality_page.cells(found, row))
    shown = Console()
    shown.print(table)
    for line in quality_page.speed_rows(found):
        shown.print("  ".join(part for part in line if part))
    shown.print(f"page: {written}")
