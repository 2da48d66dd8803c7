"""`mtia demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    prompt: Annotated[str, typer.Option(help="The question.")] = "Why is the sky blue?",
    max_new_tokens: Annotated[int, typer.Option(min=2, max=2048, help="Length of the answer at most.")] = 32,
    chip: Annotated[str, typer.Option(help="The chip that computes the answer.")] = "mtia300",
    chips: Annotated[str, typer.Option(help="Chips to compare, by commas; names or files.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    eager: Annotated[bool, typer.Option("--eager", help="Without torch.compile.")] = False,
    intervals: Annotated[bool, typer.Option(help="Time each chip at the ends of its assumed figures, too.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for the page and the trace.")] = Path("out/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """A stock PyTorch LLM answers on the simulated chip; then every generation is timed on the same prompt.

    Exit code 1: a token differs from the CPU's in float32, or the host computed an operator.
    """
    import torch
    from rich.console import Console

    from mtia.report import demo as flow

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in dtypes:
        raise typer.BadParameter(f"{dtype!r}; known: {', '.join(dtypes)}", param_hint="--dtype")
    options = flow.Options(
        prompt=prompt, max_new_tokens=max_new_tokens, chip=chip, dtype=dtypes[dtype], compile=not eager,
        chips=tuple(c.strip() for c in chips.split(",") if c.strip()) or flow.SIX, intervals=intervals, folder=out,
    )  # fmt: skip
    result = flow.run(options, Console(stderr=as_json, width=None))
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1))
    raise typer.Exit(0 if result.passed else 1)
