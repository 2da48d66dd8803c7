"""`mtia calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def calibrate(
    chip: Annotated[str, typer.Argument(help="A chip's name, or the path of a chip file.")],
    folder: Annotated[Path, typer.Argument(help="A folder of measurements (CSV).")] = Path("../shared/validation"),
    figures: Annotated[str, typer.Option(help="Which figures, by commas; at most six.")] = "",
    file: Annotated[str, typer.Option(help="Only these tables, by commas: gemm,attention_decode.")] = "",
    sample: Annotated[int, typer.Option(min=1, help="Rows per file and chip.")] = 32,
    draw: Annotated[int, typer.Option(min=0, help="Which sample; the next draw is reported, not fitted.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, max=8, help="Rounds of the descent; steps halve.")] = 3,
    write: Annotated[bool, typer.Option("--write", help="Write the figures into the chip's file.")] = False,
) -> None:
    """Fit at most six figures of a chip, inside their ranges, to measurements; show errors before and after."""
    import torch
    from rich.console import Console

    from mtia.chips.loader import load
    from mtia.validate import calibrate as fitting
    from mtia.validate.calibration_data import columns_of, rows_of

    torch.set_num_threads(1)
    console = Console()
    spec = load(chip)
    fitted_rows = rows_of(spec, folder, files=_words(file), n_per_file=sample, draw=draw)
    held_out = rows_of(spec, folder, files=_words(file), n_per_file=sample, draw=draw + 1)
    keys = _words(figures) or fitting.default_figures(fitted_rows)
    fit = fitting.calibrate(
        spec, fitted_rows, keys, rounds=rounds, told=lambda line: console.print(line, highlight=False)
    )
    for what, rows in (("fitted", fitted_rows), ("held out", held_out)):
        if rows:
            console.print(columns_of(what, fitting.errors_on(spec, rows), fitting.errors_on(fit.fitted, rows)))
    for knob in fit.knobs:
        key = next(iter(knob.entries))
        console.print(f"{knob.key}: {spec.get(key):.4g} -> {fit.fitted.get(key):.4g}", highlight=False)
    if write:
        names = ", ".join(dict.fromkeys(case.file for case in fitted_rows))
        data = f"{names}: {sample} rows each (draw {draw}), mean |ln| {fit.before:.3f} -> {fit.objective:.3f}"
        path = fitting.write_chip(fit, data, Path(chip) if chip.endswith(".toml") else None)
        console.print(f"wrote {path}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
