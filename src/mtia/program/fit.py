"""Fits a program to a chip: how many slots its circular buffers get, which buffers share, and what is refused.

Where two slots a buffer do not fit local memory, buffers fall back to one slot, the largest first: loads then wait for
the work on the tile before them. Only circular buffers are counted; what loops carry is taken to fit beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from mtia.chips.multiply import multiply_path, path_or_none, refused
from mtia.chips.spec import ChipSpec
from mtia.errors import MtiaError, OutOfLocalMemory, TooManyCircularBuffers
from mtia.program import commands as c
from mtia.program.program import CircularBuffer, TileProgram
from mtia.program.types import Element

_MATMUL_DTYPES = {
    Element.I8: "int8",
    Element.F16: "fp16",
    Element.BF16: "bf16",
    Element.F8E4M3: "fp8",
    Element.F8E5M2: "fp8",
}
_TRITON_NAME = {c.MatMul: "tl.dot", c.ScaledMatMul: "tl.dot_scaled"}
_FLOAT8 = (Element.F8E4M3, Element.F8E5M2)


def fit(program: TileProgram, spec: ChipSpec, *, strict: bool = True) -> TileProgram:
    """The program with the slots this chip has room for. Raises UnsupportedDtype, TooManyCircularBuffers and
    OutOfLocalMemory; without `strict` the last two are ChipLimitWarnings and the program runs as if it fit."""
    check_dtypes(program, spec)
    buffers = share_buffers(program, spec.pe.circular_buffers)
    if _total(buffers) > spec.pe.local_memory_bytes and len({b.id for b in buffers}) == len(buffers):
        buffers = share_by_tensor(program)
    used = len({b.id for b in buffers})
    if used > spec.pe.circular_buffers:
        limit, source = spec.pe.circular_buffers, _source(spec, "pe.circular_buffers")
        _refuse(TooManyCircularBuffers(program.name, needed=used, limit=limit, source=source), strict=strict)
    fitted = replace(program, buffers=_reduce_slots(program, buffers, spec.pe.local_memory_bytes, strict=strict))
    for name in ("_plan", "_dataflow"):  # what is known of the commands stays true
        if name in program.__dict__:
            object.__setattr__(fitted, name, program.__dict__[name])
    return fitted


class ChipLimitWarning(UserWarning):
    """A program goes beyond a limit of the chip and runs as if it did not; its time is optimistic."""


def _refuse(error: MtiaError, *, strict: bool) -> None:
    if strict:
        raise error
    warnings.warn(f"{error} Its time does not include what a split would cost.", ChipLimitWarning, stacklevel=3)


def _source(spec: ChipSpec, figure: str) -> str:
    known = spec.figures.get(figure)
    return f"{spec.name}: {known.source.text}" if known is not None else spec.name


def check_dtypes(program: TileProgram, spec: ChipSpec) -> None:
    """Raises UnsupportedDtype where the program multiplies in, or holds, a type this chip lacks. fp32 multiplies take
    the vector cores where the dot product engine has no fp32 path, so they are never refused."""
    holds_fp8 = path_or_none(spec, "fp8") is not None
    for command in program.commands:
        dtype = _multiplied(command)
        if dtype is not None:
            multiply_path(
                spec, dtype, what=f"{command.location}: kernel {program.name!r}, {_TRITON_NAME[type(command)]}"
            )
        for value in (*command.operands, *command.results):
            if value.type.element in _FLOAT8 and not holds_fp8:
                raise refused(spec, "fp8", what=f"{command.location}: kernel {program.name!r}, {value}")


def _multiplied(command: c.Command) -> str | None:
    """The format that a command multiplies in, None for fp32 and for commands that do not."""
    if isinstance(command, c.ScaledMatMul):
        return command.rate
    return _MATMUL_DTYPES.get(command.operands[0].type.element) if isinstance(command, c.MatMul) else None


def share_buffers(program: TileProgram, limit: int) -> tuple[CircularBuffer, ...]:
    """Buffers as they are where the chip has enough; else those whose tiles are never alive together share one."""
    buffers = program.buffers
    if len(buffers) <= limit:
        return buffers
    spans = _lifetimes(program)
    free_at: list[int] = []  # per shared buffer: last command that needs it
    shared = []
    for b in sorted(buffers, key=lambda b: spans[b.command]):
        start, end = spans[b.command]
        at = next((i for i, last in enumerate(free_at) if last < start), len(free_at))
        free_at[at : at + 1] = [end]
        shared.append(replace(b, id=at))
    return tuple(sorted(shared, key=lambda b: b.command))


def share_by_tensor(program: TileProgram) -> tuple[CircularBuffer, ...]:
    """Tiles of one tensor that are loaded at several places and never alive together (the masked and the plain loop of
    a kernel) share one ring, its slots as they were; a stored tile takes the place of a loaded one of its shape."""
    spans, origins = _lifetimes(program), _origins(program)
    rings: list[tuple[tuple, list[CircularBuffer]]] = []
    for b in sorted(program.buffers, key=lambda b: spans[b.command]):
        origin = origins.get(program.commands[b.command].operands[0].id, -1)
        key = (origin, _drains(program, b), b.tile) if origin >= 0 else (b.id,)
        ring = next((r for k, r in rings if k == key and _apart(spans[b.command], r, spans)), None)
        if ring is None:
            rings.append((key, [b]))
        else:
            ring.append(b)
    loaded = [ring for _, ring in rings if not _drains(program, ring[0])]
    stored = [ring for _, ring in rings if _drains(program, ring[0])]
    for ring in stored:
        like = (r for r in loaded if r[0].tile == ring[0].tile)
        place = next((r for r in like if all(_apart(spans[b.command], r, spans) for b in ring)), None)
        if place is None:
            loaded.append(ring)
        else:
            place.extend(ring)
    shared = [replace(b, id=i) for i, ring in enumerate(loaded) for b in ring]
    return tuple(sorted(shared, key=lambda b: b.command))


def _apart(span: tuple[int, int], ring: Sequence[CircularBuffer], spans: dict[int, tuple[int, int]]) -> bool:
    return all(span[0] > spans[b.command][1] or span[1] < spans[b.command][0] for b in ring)


def _origins(program: TileProgram) -> dict[int, int]:
    """Pointer value -> the parameter that it is computed from."""
    out = {p.value.id: i for i, p in enumerate(program.parameters) if p.value.type.is_pointer}

    def follow(targets: Sequence, sources: Sequence) -> None:
        for target, source in zip(targets, sources):
            if source.id in out:
                out[target.id] = out[source.id]

    for command in program.commands:
        match command:
            case c.For():
                follow(command.body.args[1:], command.operands[3:])
                follow(command.results, command.operands[3:])
            case c.While():
                follow(command.before.args, command.operands)
                follow(command.after.args, command.operands)
                follow(command.results, command.operands)
            case _ if command.results and command.results[0].type.is_pointer:
                known = next((out[o.id] for o in command.operands if o.id in out), None)
                if known is not None:
                    out[command.results[0].id] = known
    return out


def _lifetimes(program: TileProgram) -> dict[int, tuple[int, int]]:
    """First and last command that a buffer's tile is needed for, by the buffer's command."""
    produced = {r.id: cmd.index for cmd in program.commands for r in cmd.results}
    last_use: dict[int, int] = {}
    for cmd in program.commands:
        yielded = [v.id for block in cmd.blocks for v in block.yields]
        for value in (*(o.id for o in cmd.operands), *yielded):
            last_use[value] = max(last_use.get(value, 0), cmd.index)
    return {
        b.command: (
            min(b.command, produced.get(b.value_id, b.command)) if _drains(program, b) else b.command,
            b.command if _drains(program, b) else last_use.get(b.value_id, b.command),
        )
        for b in program.buffers
    }


def _drains(program: TileProgram, buffer: CircularBuffer) -> bool:
    return not isinstance(program.commands[buffer.command], c.Load)


def _total(buffers: Sequence[CircularBuffer]) -> int:
    largest: dict[int, int] = {}
    for b in buffers:
        largest[b.id] = max(largest.get(b.id, 0), b.n_bytes)
    return sum(largest.values())


def _reduce_slots(
    program: TileProgram, buffers: Sequence[CircularBuffer], limit_bytes: int, *, strict: bool
) -> tuple[CircularBuffer, ...]:
    """One slot less where it frees most, until all fit."""
    kept = list(buffers)
    while _total(kept) > limit_bytes:
        candidates = [b for b in kept if b.slots > 1]
        if not candidates:
            largest = max(kept, key=lambda b: b.n_bytes)
            where = f"cb{largest.id}: {largest.tile} at {program.commands[largest.command].location}"
            needed = _total(kept)
            name = f"kernel {program.name!r}"
            _refuse(OutOfLocalMemory(name, needed_bytes=needed, limit_bytes=limit_bytes, largest=where), strict=strict)
            break
        victim = max(candidates, key=lambda b: (b.tile.n_bytes, -b.command))
        kept = [replace(b, slots=b.slots - 1) if b.id == victim.id and b.slots == victim.slots else b for b in kept]
    return tuple(kept)
