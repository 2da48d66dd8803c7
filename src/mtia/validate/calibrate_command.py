"""`mtia calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def calibrate(
    chip: Annotated[str, typer.Argument(help="A chip's name, or the path of a chip file.")],
    folder: Annotated[Path, typer.Argument(help="A folder of measurements (CSV).")] = Path("validation/sample"),
    figures: Annotated[str, typer.Option(help="Which figures, by commas; at most six.")] = "",
    file: Annotated[str, typer.Option(help="Only these tables, by commas: gemm,attention_decode.")] = "",
    dtype: Annotated[str, typer.Option(help="Only these number formats, by commas.")] = "",
    sample: Annotated[int, typer.Option(min=1, help="Rows per file and chip.")] = 32,
    draw: Annotated[int, typer.Option(min=0, help="Which sample; the next draw is reported, not fitted.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, max=8, help="Rounds of the descent; steps halve.")] = 3,
    fast: Annotated[bool, typer.Option("--fast", help="Follow the analytical fast path, not the engine.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the figures into the chip's file.")] = False,
) -> None:
    """Fit at most six figures of a chip, inside their ranges, to measurements; show errors before and after."""
    import torch
    from rich.console import Console

    from mtia.chips.loader import load
    from mtia.validate import calibrate as fitting
    from mtia.validate.calibration_data import columns_of, rows_of

    torch.set_num_threads(1)
    console = Console(highlight=False)
    spec = load(chip)
    predict = fitting.quickly_predicted_s if fast else fitting.predicted_s
    rows = {}
    for what, number in (("fitted", draw), ("held out", draw + 1)):
        found = rows_of(spec, folder, files=_words(file), n_per_file=sample, draw=number, dtypes=_words(dtype))
        rows[what], why = fitting.predictable(spec, found, predict)
        for line in why:
            console.print(f"left out: {line}", markup=False)
    keys = _words(figures) or fitting.default_figures(spec, rows["fitted"])
    fit = fitting.calibrate(spec, rows["fitted"], keys, rounds=rounds, predict=predict, told=console.print)
    for what, cases in rows.items():
        if cases:
            errors = (fitting.errors_on(one, cases, predict) for one in (spec, fit.fitted))
            console.print(columns_of(what, *errors))
    for knob in fit.knobs:
        key = next(iter(knob.entries))
        console.print(f"{knob.key}: {spec.get(key):.4g} -> {fit.fitted.get(key):.4g}")
    if write:
        names = ", ".join(dict.fromkeys(case.file for case in rows["fitted"]))
        data = f"{names}: {sample} rows each (draw {draw}), mean |ln| {fit.before:.3f} -> {fit.objective:.3f}"
        path = fitting.write_chip(fit, data, Path(chip) if chip.endswith(".toml") else None)
        console.print(f"wrote {path}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
