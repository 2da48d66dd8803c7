"""`mtia quality MODEL`: what low-precision plans cost a model in quality, beside their time, energy and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mtia.report.quality import Study, Subject

app = typer.Typer(add_completion=False)

FORMATS = "int8,fp8,mx8:fit,mx4:even"
MODELS = ("smollm2", "minilm", "dlrm")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="smollm2, minilm or dlrm.")] = "smollm2",
    formats: Annotated[str, typer.Option(help="By comma: schemes (int8, mx4:even), plans PATTERN=SCHEME+..., recipes "
                                         "FILE.json or best:SCHEME.")] = FORMATS,
    chips: Annotated[str, typer.Option(help="Chips, by comma.")] = "mtia100,mtia200,mtia300,mtia400,mtia450,mtia500",
    windows: Annotated[int, typer.Option(help="smollm2: windows of text, spread over it.")] = 4,
    length: Annotated[int, typer.Option(help="smollm2: tokens of a window.")] = 512,
    samples: Annotated[int, typer.Option(help="minilm: sentences, dlrm: ratings; 0: 128, all.")] = 0,
    time: Annotated[bool, typer.Option(help="Time the model on each chip too.")] = True,
    check: Annotated[int, typer.Option(help="Tokens (sentences) that the device computes too, for comparison.")] = 0,
    search: Annotated[str, typer.Option(help="smollm2: find the best recipe for a scheme, and score it.")] = "",
    low_frac: Annotated[float, typer.Option(help="--search: share of multiplies in the scheme, at least.")] = 0.95,
    migrate: Annotated[float, typer.Option(help="--search: how far outliers move into weights, 0 to 1.")] = 0.0,
    out: Annotated[Path, typer.Option(help="Folder of page, figures and a recipe found.")] = Path("out/quality"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:  # fmt: skip
    """What each format costs in quality and buys in time, energy and memory, on real data."""
    from rich.console import Console

    from mtia.chips import load
    from mtia.report import quality, quality_page

    console = Console(stderr=True)
    specs = [load(name) for name in chips.split(",")]
    subject = _subject(model, windows, length, samples)
    plans = [text.replace("+", ",") for text in formats.split(",") if text]
    if search:
        plans.append(str(_found(subject, search, out, console, low_frac=low_frac, strength=migrate)))
    found = quality.study(subject, plans, specs, timed=time, check=check, say=console.print)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{model}.json").write_text(json.dumps(found.to_json(), indent=2) + "\n")
    written = quality_page.write(found, out / f"{model}.html")
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    _print(found, Console())
    print(f"page: {written}")


def _subject(model: str, windows: int, length: int, samples: int) -> Subject:
    from mtia.errors import BadProblem, did_you_mean

    if model == "smollm2":
        from mtia.report.quality_llm import Llm

        return Llm(windows, length)
    if model == "minilm":
        from mtia.report.quality_encoder import Encoder

        return Encoder(samples or 128)
    if model == "dlrm":
        from mtia.report.quality_recommender import Recommender

        return Recommender(n_samples=samples)
    raise BadProblem("quality", argument="model", value=model,
                     allowed=f"known: {', '.join(MODELS)}{did_you_mean(model, MODELS)}")  # fmt: skip


def _found(subject: Subject, scheme: str, out: Path, console: Console, **options: Any) -> Path:
    """The file of the best recipe for the scheme."""
    from mtia.errors import BadProblem
    from mtia.report.quality_llm import Llm

    if not isinstance(subject, Llm):
        raise BadProblem("quality", argument="--search", value=subject.name, allowed="smollm2 alone is searched")
    held = subject.search(scheme, say=console.print, **options)
    console.print(f"estimated divergence {held.divergence_nats:.4f} nats a token, {held.plain_nats:.4f} with nothing "
                  f"kept wide; {held.low_frac:.1%} of multiplies in {scheme}")  # fmt: skip
    return held.recipe.save(out / f"{subject.name}-{scheme.replace(':', '-')}.json")


def _print(found: Study, console: Console) -> None:
    from rich import box
    from rich.table import Table

    from mtia.report import quality_page

    def show(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)

    show(f"{found.title}: {found.scored}", quality_page.headings(found),
         [quality_page.cells(found, row) for row in found.rows])  # fmt: skip
    console.print(quality_page.NOTE.format(loss=found.loss), soft_wrap=True)
    if any(row.speeds for row in found.rows):
        show(f"Simulated {found.unit} a second", quality_page.SPEED_HEADINGS, quality_page.speed_rows(found))
    for line in quality_page.refusals(found):
        console.print(line, soft_wrap=True)
