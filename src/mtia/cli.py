"""The `mtia` command: a table of commands, each in a module of its own that is imported when it is called.

To add a command: write `mtia/report/NAME_command.py` with `app`, a `typer.Typer`, and a row in COMMANDS. Keep torch out
of the module's top level, so that `mtia --help` stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
import typer.core
import typer.main

from mtia import __version__
from mtia.errors import MtiaError

COMMANDS = {
    "demo": "mtia.report.demo_command",
    "run": "mtia.report.run_command",
    "explain": "mtia.report.explain_command",
    "validate": "mtia.validate.command",
    "calibrate": "mtia.validate.calibrate_command",
    "chips": "mtia.report.chips_command",
    "roadmap": "mtia.report.roadmap_command",
    "conformance": "mtia.report.conformance_command",
    "train": "mtia.report.train_command",
    "quality": "mtia.report.quality_command",
    "suite": "mtia.report.suite_command",
    "models": "mtia.report.models_command",
}
EXIT_ERROR = 2


class LazyGroup(typer.core.TyperGroup):
    """Commands by name; a module that does not exist (yet) leaves its command out."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, module in COMMANDS.items() if find_spec(module) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = typer.main.get_command(import_module(COMMANDS[cmd_name]).app)
        command.name = cmd_name
        return command


app = typer.Typer(cls=LazyGroup, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True)


@app.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    """Meta's MTIA chips, simulated: values, time and energy of PyTorch programs on device="mtia"."""
    if version:
        print(f"openmtia {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point. What a user can cause is one message on stderr and exit code 2."""
    try:
        app()
    except MtiaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


if __name__ == "__main__":
    main()
