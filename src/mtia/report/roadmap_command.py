"""`mtia roadmap`: the generations by date and status, each figure with its ratio to the generation before."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtia import chips
from mtia.chips.roadmap import Cell, Roadmap, RoadmapFigure, roadmap
from mtia.report.figures import format_in

app = typer.Typer(add_completion=False)


@app.command()
def show(
    chip: Annotated[list[str] | None, typer.Option("--chip", help="Compare these instead (names or files).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """The six generations side by side, and how much each gained on the one before."""
    line = roadmap([chips.load(name) for name in chip or ()])
    if as_json:
        print(json.dumps(document(line), indent=2))
    else:
        Console().print(roadmap_table(line))


def document(line: Roadmap) -> list[dict[str, Any]]:
    """One object per chip: dates, status, and for each figure its value, ratio and whether it is assumed."""
    return [
        {
            "name": spec.name, "title": spec.title, "role": spec.info.role, "disclosed": spec.info.disclosed,
            "status": spec.info.status, "process": spec.info.process,
            "figures": {f.name: _plain(f, line.cells[f.name][place]) for f in line.figures},
        }
        for place, spec in enumerate(line.chips)
    ]  # fmt: skip


def _plain(figure: RoadmapFigure, cell: Cell) -> dict[str, Any]:
    return {"value": cell.value, "unit": figure.unit, "ratio": cell.ratio, "assumed": cell.assumed}


def roadmap_table(line: Roadmap) -> Table:
    table = Table(
        title="MTIA roadmap", box=box.SIMPLE, caption="× to the generation before   ~ rests on an assumed figure"
    )
    table.add_column("")
    for spec in line.chips:
        table.add_column(spec.title, justify="right", overflow="fold")
    for title, words in _facts(line):
        table.add_row(title, *words)
    table.add_section()
    for figure in line.figures:
        table.add_row(_label(figure), *(_text(figure, cell) for cell in line.cells[figure.name]))
    return table


def _facts(line: Roadmap) -> list[tuple[str, list[str]]]:
    infos = [spec.info for spec in line.chips]
    return [
        ("disclosed", [i.disclosed for i in infos]), ("status", [i.status for i in infos]),
        ("role", [i.role for i in infos]), ("process", [i.process for i in infos]),
    ]  # fmt: skip


def _label(figure: RoadmapFigure) -> str:
    return f"{figure.title}, {figure.unit}" if figure.unit else figure.title


def _text(figure: RoadmapFigure, cell: Cell) -> Text:
    """ "~1.9 G ×1.41": the unit stands in the row's label."""
    number = format_in(figure.unit, cell.value).removesuffix(figure.unit)
    text = Text(f"{'~' if cell.assumed else ''}{number.strip()}", style="yellow" if cell.assumed else "")
    return text.append(f" ×{cell.ratio:.3g}", style="dim") if cell.ratio else text
