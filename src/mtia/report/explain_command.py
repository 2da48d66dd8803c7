"""`mtia explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    target: Annotated[str, typer.Argument(help="A script, or a built-in case: matmul, add, softmax.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="The script's arguments (behind --).")] = None,
    kernel: Annotated[str, typer.Option(help="Only kernels whose name contains this; else the longest one.")] = "",
    m: Annotated[int, typer.Option(min=1, help="Rows of the case.")] = 2048,
    n: Annotated[int, typer.Option(min=1, help="Columns of the case.")] = 2048,
    k: Annotated[int, typer.Option(min=1, help="Depth of the matmul.")] = 2048,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chip: Annotated[str, typer.Option(help="A chip's name or file; else MTIA_CHIP, else mtia300.")] = "",
    program: Annotated[bool, typer.Option(help="Show the program's text.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A kernel's program, its timeline, and where each second comes from.

    `mtia explain matmul --m 4096 --n 4096 --k 4096 --chip mtia400`, or `mtia explain script.py --kernel softmax`.
    """
    from rich.console import Console

    from mtia.report import explain as flow

    if dtype not in flow.DTYPES:
        raise typer.BadParameter(f"{dtype!r}; known: {', '.join(flow.DTYPES)}", param_hint="--dtype")
    found = _explained(target, arguments or [], {"m": m, "n": n, "k": k}, dtype, chip)
    chosen = [e for e in found if kernel in e.span.name]
    if not chosen:
        names = ", ".join(dict.fromkeys(e.span.name for e in found)) or "none"
        typer.echo(f"error: {target} ran no kernel with {kernel!r} in its name; it ran: {names}", err=True)
        raise typer.Exit(2)
    chosen = chosen if kernel else chosen[:1]
    if as_json:
        typer.echo(json.dumps([e.to_json() for e in chosen], indent=1))
        return
    console = Console()
    for each in chosen:
        console.print(flow.page(each, width=max(20, min(120, console.width - 14)), program=program))
    if len(found) > len(chosen):
        others = ", ".join(f"{e.span.name} x{e.n_calls}" for e in found if e not in chosen)
        console.print(f"[dim]other kernels (--kernel NAME): {others}[/]")


def _explained(target: str, arguments: list[str], sizes: dict[str, int], dtype: str, chip: str):  # type: ignore[no-untyped-def]
    from mtia.report import explain, run_script

    if target in explain.CASES:
        return explain.builtin(target, sizes, dtype, chip)
    script = Path(target)
    if not script.is_file():
        known = ", ".join(explain.CASES)
        raise typer.BadParameter(f"{target!r} is no file; built-in cases: {known}", param_hint="TARGET")
    done = run_script.run(script, arguments, chip)
    return explain.explained(done.spans, done.spec)
