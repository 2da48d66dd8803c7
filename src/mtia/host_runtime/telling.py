"""What `MTIA_DEBUG` prints on stderr: a line for each launch (1), and before it each program's text, once (2)."""

from __future__ import annotations

import sys

from mtia.chips.spec import ChipSpec
from mtia.engine.functional import executor
from mtia.engine.functional.interpreter import Launch
from mtia.engine.timing import KernelTiming
from mtia.knobs import Knobs
from mtia.program.program import TileProgram
from mtia.units import format_time, fs_to_s

_shown: dict[int, TileProgram] = {}


def tell(request: Launch, timing: KernelTiming, spec: ChipSpec, settings: Knobs) -> None:
    """Print what `settings.debug` asks for of one launch, before its values are computed."""
    program = request.program
    if settings.debug > 1 and id(program) not in _shown:
        _shown[id(program)] = program  # kept, so that its id stays its own
        print(program, file=sys.stderr)
    print(
        f"mtia: {program.name} grid {request.grid} on {spec.name}: {format_time(fs_to_s(timing.makespan_fs))}, "
        f"bound by {timing.bound}, {_how(program, settings)}",
        file=sys.stderr,
    )


def _how(program: TileProgram, settings: Knobs) -> str:
    """How the launch's values are computed."""
    if not settings.values:
        return "values off"
    if settings.interpret:
        return "interpreted (MTIA_INTERPRET=1)"
    why = executor.why_interpreted(program)
    return "native" if why is None else f"interpreted ({why})"


__all__ = ["tell"]
