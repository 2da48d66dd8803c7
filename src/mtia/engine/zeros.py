"""Which share of a launch's multiplies has operands from memory: what a mask leaves out is zero.

A multiplier whose operand does not change switches next to nothing, so the energy of a tile that hangs over the edge of
a matrix is that of the part inside (`live_frac`). Its time is that of the whole tile.
"""

from __future__ import annotations

from mtia.engine.roof import total_bytes
from mtia.engine.schedule import Info, Schedule
from mtia.engine.trace import Trace
from mtia.program import commands as c

_SAME_ELEMENTS = (c.Convert, c.Transpose, c.Reshape)


def live_fracs(trace: Trace, schedule: Schedule, infos: tuple[Info, ...]) -> dict[int, float]:
    """Command index of each multiply -> share of it whose operands no mask left out; 1 where a tile was computed."""
    loaded = _loaded_fracs(trace, schedule)
    made_by = {result: info for info in infos for result in info.results}
    out = {}
    for command in schedule.n_executions:
        info = infos[command]
        if isinstance(info.command, c.MatMul | c.ScaledMatMul):
            operands = (0, 1) if isinstance(info.command, c.MatMul) else (0, 2)
            a, b = (_live_frac(info.sources[at], made_by, loaded) for at in operands)
            out[command] = a * b
    return out


def _loaded_fracs(trace: Trace, schedule: Schedule) -> dict[int, float]:
    """Command index of each load -> bytes that its masks leave, of all in its tiles."""
    kept: dict[int, int] = {}
    whole: dict[int, int] = {}
    for node in schedule.nodes:
        if node.access < 0 or schedule.accesses[node.access].write:
            continue
        access = schedule.accesses[node.access]
        runs = trace.n_programs if node.active < 0 else int(schedule.active_masks[node.active].sum())
        tile_bytes = trace.program.commands[access.command].result.type.n_bytes
        kept[access.command] = kept.get(access.command, 0) + total_bytes(access, trace.n_programs)
        whole[access.command] = whole.get(access.command, 0) + runs * tile_bytes
    return {command: min(1.0, kept[command] / n) for command, n in whole.items() if n}


def _live_frac(values: tuple[int, ...], made_by: dict[int, Info], loaded: dict[int, float]) -> float:
    """Of an operand: that of the load that it comes from unchanged but for its type and layout."""
    while len(values) == 1 and (info := made_by.get(values[0])) is not None:
        if info.command.index in loaded:
            return loaded[info.command.index]
        if not isinstance(info.command, _SAME_ELEMENTS):
            return 1.0
        values = info.sources[0]
    return 1.0


__all__ = ["live_fracs"]
