"""`mtia run`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mtia.report.run_script import ScriptRun

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Our own options; they stand before the script or right behind it."""

    chip: str = ""
    trace: Path | None = None
    page: Path | None = None
    as_json: bool = False


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def run(
    script: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help='A script that uses device="mtia".')],
    arguments: Annotated[list[str] | None, typer.Argument(help="The script's arguments.")] = None,
    chip: Annotated[str, typer.Option(help="A chip's name or file; else MTIA_CHIP, else mtia300.")] = "",
    trace: Annotated[Path | None, typer.Option(help="Write a Perfetto trace here.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Summary as JSON on stdout, the script on stderr.")] = False,
) -> None:  # fmt: skip
    """Run a script on a simulated chip, then say what each kernel did.

    `mtia run train.py --chip mtia400 --steps 3`: options right behind the script are ours as long as we know them
    (--chip, --trace, --page, --json); the rest, or all that follows `--`, is the script's. The exit code is the
    script's. The summary goes to stderr, so that the script's output can be piped.
    """
    from rich.console import Console

    from mtia.report import run_script

    options = Options(chip=chip, trace=trace, page=page, as_json=as_json)
    options, rest = split(arguments or [], options)
    with contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext():
        done = run_script.run(script, rest, options.chip)
    if options.as_json:
        typer.echo(json.dumps(done.to_json(), indent=1))
    else:
        _print(done, Console(stderr=True))
    _write(done, options)
    raise typer.Exit(done.exit_code)


_TAKES_VALUE = {"--chip": ("chip", str), "--trace": ("trace", Path), "--page": ("page", Path)}


def split(words: Sequence[str], options: Options) -> tuple[Options, list[str]]:
    """Our options at the head of `words`, and what is left for the script."""
    rest = list(words)
    while rest:
        name, equals, value = rest[0].partition("=")
        if name == "--json" and not equals:
            options, rest = replace(options, as_json=True), rest[1:]
        elif name in _TAKES_VALUE and (equals or len(rest) > 1):
            field, read = _TAKES_VALUE[name]
            options = replace(options, **{field: read(value if equals else rest[1])})
            rest = rest[1 if equals else 2 :]
        else:
            break
    return options, rest[1:] if rest[:1] == ["--"] else rest


def _print(done: ScriptRun, console: Console) -> None:
    from mtia.report import summary, tables
    from mtia.units import format_time

    title = f"{done.script.name} on {done.spec.title}: {format_time(done.elapsed_s)} simulated"
    console.print(tables.kernel_table(summary.summarize(done.launches), summary.total(done.launches), title=title))
    console.print(tables.fallback_line(done.fallbacks))


def _write(done: ScriptRun, options: Options) -> None:
    from mtia.report import chrome_trace, summary
    from mtia.report import page as pages

    title = f"{done.script.name} on {done.spec.title}"
    if options.trace is not None:
        typer.echo(f"wrote {chrome_trace.write(options.trace, [(title, done.launches)])}", err=True)
    if options.page is not None:
        body = [pages.heading("Launches"), pages.timeline(done.launches), pages.heading("Kernels"),
                pages.kernels(summary.summarize(done.launches), summary.total(done.launches))]  # fmt: skip
        typer.echo(f"wrote {pages.write(options.page, title=title, lead='simulated time', body=body)}", err=True)
