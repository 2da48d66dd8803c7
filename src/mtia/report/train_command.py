"""`mtia train`: training on the simulated chip, step time by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mtia.training.loop import Options, TrainingRun

app = typer.Typer(add_completion=False)


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="dlrm (MovieLens-100k), gpt2, llama, bert or vit.")] = "dlrm",
    chip: Annotated[str, typer.Option(help="A chip's name or file; else MTIA_CHIP, else mtia300.")] = "",
    steps: Annotated[int, typer.Option(help="Steps in all; 0: whole epochs.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 1,
    batch: Annotated[int, typer.Option(help="Samples of a step; 0: the task's own.")] = 0,
    optimizer: Annotated[str, typer.Option(help="adamw, sgd, adagrad, rowwise-adagrad, shampoo.")] = "",
    learning_rate: Annotated[float, typer.Option(help="0: the task's own.")] = 0.0,
    dtype: Annotated[str, typer.Option(help="float32; bfloat16 or float16 by autocast.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile/--eager", help="torch.compile the dense layers.")] = False,
    seed: Annotated[int, typer.Option(help="Weights, data split and order.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder for checkpoints.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two: what a kill can lose.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint.")] = False,
    compare_cpu: Annotated[bool, typer.Option("--compare-cpu", help="The same run on the CPU, losses beside.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Result as JSON on stdout, progress on stderr.")] = False,
) -> None:  # fmt: skip
    """Train a model on the simulated chip: loss and metrics, then the mean step's time and energy by part.

    Stop it at any time, SIGKILL included: with --checkpoint, `--resume` goes on at the step that was in work and ends
    with the same losses.
    """
    from rich.console import Console

    from mtia.host_runtime import silicon
    from mtia.training.loop import Options

    options = Options(
        task=task, steps=steps, epochs=epochs, batch=batch, optimizer=optimizer, learning_rate=learning_rate,
        dtype=dtype, compile=compiled, seed=seed, checkpoint=checkpoint, checkpoint_every=checkpoint_every,
        resume=resume,
    )  # fmt: skip
    progress = Console(stderr=True)
    with silicon.use(chip or silicon.chip()):
        run = _with_progress(options, progress, f"{task} on {silicon.chip().title}")
    cpu = _on_cpu(options, progress) if compare_cpu else None
    if as_json:
        typer.echo(json.dumps({**run.to_json(), "cpu": cpu and cpu.to_json()}, indent=1))
        return
    console = Console()
    console.print(step_table(run))
    console.print(loss_table(run, cpu))
    _fallbacks(run, console)


def _on_cpu(options: Options, console: Console) -> TrainingRun:
    from dataclasses import replace

    alike = replace(options, device="cpu", compile=False, checkpoint=None, resume=False)
    return _with_progress(alike, console, f"{options.task} on the CPU")


def _with_progress(options: Options, console: Console, title: str) -> TrainingRun:
    """A bar on a terminal; elsewhere a line a step."""
    from mtia.training.loop import train

    if not console.is_terminal:
        return train(options, lambda step, steps, loss: typer.echo(
            f"{title}: step {step}/{steps} loss {loss:.6f}", err=True))  # fmt: skip
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    loss = TextColumn("loss {task.fields[loss]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), loss, TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(title, total=None, loss="")

        def show(step: int, steps: int, loss: float) -> None:
            bar.update(row, completed=step, total=steps, loss=f"{loss:.4f}")

        return train(options, show)


def step_table(run: TrainingRun) -> Table:
    """The mean step by part, in the order in which parts first ran; what the device waited is last."""
    from rich import box
    from rich.table import Table

    from mtia.training.parts import GAPS
    from mtia.units import format_si, format_time

    step = run.mean_step
    title = f"{run.options.task} on {run.chip}: mean of {len(run.steps)} steps, simulated"
    table = Table("part", title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for heading in ("launches", "time", "share", "energy"):
        table.add_column(heading, justify="right")
    for name in sorted(step.parts, key=lambda name: name == GAPS):
        part = step.parts[name]
        share = f"{100 * part.time_fs / step.time_fs:.1f}%" if step.time_fs else ""
        table.add_row(name, f"{part.n_calls:,}", format_time(part.time_s), share, format_si(part.energy_j, "J"))
    table.add_section()
    calls = sum(part.n_calls for part in step.parts.values())
    table.add_row("step", f"{calls:,}", format_time(step.time_s), "100.0%", format_si(step.energy_j, "J"), style="bold")
    return table


def loss_table(run: TrainingRun, cpu: TrainingRun | None) -> Table:
    """First and last losses and metrics, beside the CPU's where it ran."""
    from rich import box
    from rich.table import Table

    table = Table("", run.chip, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    if cpu is not None:
        table.add_column("CPU")
        table.add_column("relative difference")
    for name, value in figures(run).items():
        beside = figures(cpu)[name] if cpu is not None else None
        more = () if beside is None else (f"{beside:.6f}", f"{difference(value, beside):.1e}")
        table.add_row(name, f"{value:.6f}", *more)
    return table


def figures(run: TrainingRun) -> dict[str, float]:
    """Losses and metrics by name."""
    return {
        "loss of the first step": run.losses[0], "loss of the last step": run.losses[-1],
        **{name.replace("_", " "): value for name, value in run.metrics.items()},
    }  # fmt: skip


def difference(value: float, beside: float) -> float:
    """Relative to `beside`."""
    return abs(value - beside) / abs(beside) if beside else abs(value)


def _fallbacks(run: TrainingRun, console: Console) -> None:
    from mtia.report.tables import fallback_line

    console.print(fallback_line(run.fallbacks))
