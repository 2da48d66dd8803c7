"""`mtia chips`, `mtia chips show NAME`: which chips there are, and where each figure of one comes from."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtia import chips
from mtia.chips.recorded import RECORDED
from mtia.chips.roadmap import EIGHT_BIT, FOUR_BIT, best_of
from mtia.chips.sources import DOCUMENTS
from mtia.chips.spec import ChipSpec, Figure, SourceKind
from mtia.report.figures import format_in, format_range, format_source, format_value
from mtia.units import GiB, MiB

app = typer.Typer(help="The chips: list them, or show every figure of one with its source.", add_completion=False)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
STYLE = {
    SourceKind.PUBLISHED: "green",
    SourceKind.DERIVED: "cyan",
    SourceKind.ASSUMED: "bold yellow",
    SourceKind.CALIBRATED: "magenta",
    SourceKind.CHOSEN: "bold magenta",
}


@app.callback(invoke_without_command=True)
def list_chips(context: typer.Context, as_json: Json = False) -> None:
    """List the chips that come with openMTIA."""
    if context.invoked_subcommand is not None:
        return
    specs = [chips.load(name) for name in chips.names()]
    if as_json:
        print(json.dumps([summary(spec) for spec in specs], indent=2))
    else:
        Console().print(chips_table(specs))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A chip's name, or the path of a chip file.")], as_json: Json = False
) -> None:
    """Show every figure of one chip with its source; assumed ones are highlighted."""
    spec = chips.load(name)
    if as_json:
        print(json.dumps(document(spec), indent=2))
        return
    console = Console()
    console.print(figures_table(spec))
    console.print(counts_line(spec))
    console.print(sources_legend(spec))


def counts(spec: ChipSpec) -> dict[str, int]:
    """How many figures there are of each kind of source."""
    counted = Counter(figure.source.kind for figure in spec.figures.values())
    return {kind.value: counted.get(kind, 0) for kind in SourceKind}


def peaks(spec: ChipSpec) -> dict[str, float]:
    """Dense peak by number format, dot product engines."""
    return {dtype: spec.peak_flop_per_s(dtype) for dtype in spec.pe.dpe.mac_per_cycle}


def summary(spec: ChipSpec) -> dict[str, Any]:
    return {
        "name": spec.name, "title": spec.title, "generation": spec.info.generation, "role": spec.info.role,
        "status": spec.info.status, "disclosed": spec.info.disclosed, "pes": spec.grid.n_pes, "clock_hz": spec.clock_hz,
        "peak_flop_per_s": peaks(spec), "sram_bytes": spec.sram.capacity_bytes, "dram_bytes": spec.dram.capacity_bytes,
        "dram_bytes_per_s": spec.dram.bytes_per_s, "tdp_w": spec.power.tdp_w, "figures": counts(spec),
        "fingerprint": spec.fingerprint,
    }  # fmt: skip


def document(spec: ChipSpec) -> dict[str, Any]:
    """Everything known of one chip, as plain data."""
    return {**summary(spec), "all": {key: _figure(spec, key) for key in ordered_keys(spec)}}


def _figure(spec: ChipSpec, key: str) -> dict[str, Any]:
    figure, source = spec.figures[key], spec.figures[key].source
    plain = {"value": figure.value, "kind": source.kind.value, "source": source.text}
    optional = {"low": source.low, "high": source.high, "note": source.note, "inherited_from": source.inherited_from}
    if key in RECORDED:
        plain["unread"] = RECORDED[key]
    return plain | {k: v for k, v in optional.items() if v not in (None, "")}


def ordered_keys(spec: ChipSpec) -> list[str]:
    """Keys grouped by section, in the order of the schema."""
    sections = list(dict.fromkeys(key.rpartition(".")[0].split(".")[0] for key in spec.figures))
    return sorted(spec.figures, key=lambda key: sections.index(key.rpartition(".")[0].split(".")[0]))


HEADINGS = ("PEs", "GHz", "BF16\nTFLOP/s", "8-bit\nTop/s", "4-bit\nTop/s", "SRAM\nMiB", "DRAM\nGiB", "DRAM\nTB/s",
            "TDP\nW", "as-\nsu-\nmed")  # fmt: skip


def chips_table(specs: list[ChipSpec]) -> Table:
    caption = "`mtia chips show NAME` tells where each figure comes from"
    table = Table(title="Chips", caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("chip", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for spec in specs:
        table.add_row(spec.name, *_headline(spec))
    return table


def _headline(spec: ChipSpec) -> list[str]:
    kinds = counts(spec)
    rates = [best_of(formats)(spec) for formats in (("bf16",), EIGHT_BIT, FOUR_BIT)]
    return [
        str(spec.grid.n_pes), f"{spec.clock_hz / 1e9:.4g}", *("–" if r is None else f"{r / 1e12:,.0f}" for r in rates),
        f"{spec.sram.capacity_bytes / MiB:g}", f"{spec.dram.capacity_bytes / GiB:.0f}",
        f"{spec.dram.bytes_per_s / 1e12:.2f}", f"{spec.power.tdp_w:g}", str(kinds["assumed"]),
    ]  # fmt: skip


def figures_table(spec: ChipSpec) -> Table:
    table = Table(title=f"{spec.title}: {spec.info.role}; {spec.info.status}", header_style="bold")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("kind", no_wrap=True)
    table.add_column("range", justify="right")
    table.add_column("source", overflow="fold")
    section = ""
    for key in ordered_keys(spec):
        figure = spec.figures[key]
        if key.split(".")[0] != section and section:
            table.add_section()
        section, style = key.split(".")[0], STYLE[figure.source.kind]
        value = Text(format_value(key, figure.value), style=style if figure.source.kind != "published" else "")
        kind = Text(figure.source.kind.value, style=style)
        table.add_row(key, value, kind, format_range(key, figure), Text(_source(key, figure)))
    return table


def _source(key: str, figure: Figure) -> str:
    unread = f"Recorded, no rule reads it: {RECORDED[key]}. " if key in RECORDED else ""
    return unread + format_source(figure)


def counts_line(spec: ChipSpec) -> Text:
    """ "92 figures: 40 published, 10 derived, 42 assumed"; then the peaks, which follow from them."""
    line = Text(f"{len(spec.figures)} figures: ")
    parts = [(f"{n} {kind}", STYLE[SourceKind(kind)]) for kind, n in counts(spec).items() if n]
    for place, (text, style) in enumerate(parts):
        line.append(", " if place else "").append(text, style=style)
    rates = ", ".join(f"{dtype} {format_in('FLOP/s', rate)}" for dtype, rate in peaks(spec).items())
    return line.append(f"\npeaks that follow: {rates}")


def sources_legend(spec: ChipSpec) -> Text:
    """What the short names of documents stand for, those that this chip's figures name."""
    named = " ".join(format_source(figure) for figure in spec.figures.values())
    lines = [f"{key:<8}{title}" for key, title in DOCUMENTS.items() if key in named]
    return Text("\n".join(lines), style="dim")


__all__ = ["app"]
