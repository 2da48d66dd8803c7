"""Fits a program to a chip: how many slots its circular buffers get, which buffers share, and what is refused.

Where two slots a buffer do not fit local memory, buffers fall back to one slot, the largest first: loads then wait for
the work on the tile before them. Only circular buffers are counted; what loops carry is taken to fit beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mtia.chips.multiply import path_or_none, refused, refused_sparse
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


@dataclass(frozen=True, slots=True)
class Excess:
    """Where a program goes beyond its chip, and what a compiler would do instead at each execution of `command`.

    `kind` and `amount`: "copy" or "spill" so many bytes, "convert" so many elements, "shift" so many bytes in `rows`
    rows; engine/limits.py says what each costs."""

    error: MtiaError
    command: int
    kind: str
    amount: int
    rows: int = 0


def fit(
    program: TileProgram, spec: ChipSpec, *, strict: bool = True, strict_dtypes: bool = True
) -> tuple[TileProgram, tuple[Excess, ...]]:
    """The program with the slots this chip has room for, and where it goes beyond the chip all the same.

    Raises UnsupportedDtype (`strict_dtypes`), TooManyCircularBuffers and OutOfLocalMemory (`strict`)."""
    excess = [*check_dtypes(program, spec, strict=strict_dtypes)]
    buffers = share_buffers(program, spec.pe.circular_buffers)
    if _total(buffers) > spec.pe.local_memory_bytes and len({b.id for b in buffers}) == len(buffers):
        buffers = share_by_tensor(program)
    excess += _too_many(program, buffers, spec, strict=strict)
    buffers = _reduce_slots(program, buffers, spec.pe.local_memory_bytes)
    excess += _too_large(program, buffers, spec, strict=strict)
    return program.with_buffers(buffers), tuple(excess)


class ChipLimitWarning(UserWarning):
    """A program goes beyond a limit of the chip; its time includes what the software path would cost."""


def _too_many(
    program: TileProgram, buffers: Sequence[CircularBuffer], spec: ChipSpec, *, strict: bool
) -> Iterator[Excess]:
    """Tiles beyond the last circular buffer are copied through a staging buffer."""
    ids = sorted({b.id for b in buffers})
    limit = spec.pe.circular_buffers
    if len(ids) <= limit:
        return
    source = _source(spec, "pe.circular_buffers")
    error = TooManyCircularBuffers(program.name, needed=len(ids), limit=limit, source=source)
    if strict:
        raise error
    kept = set(ids[:limit])
    yield from (Excess(error, b.command, "copy", b.tile.n_bytes) for b in buffers if b.id not in kept)


def _too_large(
    program: TileProgram, buffers: Sequence[CircularBuffer], spec: ChipSpec, *, strict: bool
) -> Iterator[Excess]:
    """What local memory has no room for, of the largest tiles first, is spilled."""
    needed, limit = _total(buffers), spec.pe.local_memory_bytes
    if needed <= limit:
        return
    largest = max(buffers, key=lambda b: b.n_bytes)
    where = f"cb{largest.id}: {largest.tile} at {program.commands[largest.command].location}"
    error = OutOfLocalMemory(f"kernel {program.name!r}", needed_bytes=needed, limit_bytes=limit, largest=where)
    if strict:
        raise error
    over, spilled = needed - limit, set()
    for b in sorted(buffers, key=lambda b: -b.n_bytes):
        if over <= 0:
            return
        if b.id not in spilled:
            spilled.add(b.id)
            yield Excess(error, b.command, "spill", min(over, b.n_bytes))
            over -= b.n_bytes


def _source(spec: ChipSpec, figure: str) -> str:
    known = spec.figures.get(figure)
    return f"{spec.name}: {known.source.text}" if known is not None else spec.name


def check_dtypes(program: TileProgram, spec: ChipSpec, *, strict: bool = True) -> Iterator[Excess]:
    """Where the program multiplies in, or holds, a type this chip lacks: UnsupportedDtype, or (not `strict`) operands
    that are converted to a wider type first. fp32 multiplies take the vector cores where the dot product engine has no
    fp32 path, so they are never refused; tl.dot_scaled is, strict or not, where the file gives no cost of unpacking."""
    for command in program.commands:
        if isinstance(command, c.MatMul) and command.sparse and not spec.pe.dpe.sparse_2_4:
            dtype = _MATMUL_DTYPES[command.operands[1].type.element]
            raise refused_sparse(spec, dtype, what=f"{command.location}: kernel {program.name!r}, tl.dot")
        for what, dtype, n_elements in _lacking(program, command, spec):
            error = refused(spec, dtype, what=f"{command.location}: kernel {program.name!r}, {what}")
            if strict or isinstance(command, c.ScaledMatMul):
                raise error
            yield Excess(error, command.index, "convert", n_elements)


def _lacking(program: TileProgram, command: c.Command, spec: ChipSpec) -> Iterator[tuple[str, str, int]]:
    """(what, type, elements to convert) of a command that uses a type the chip lacks."""
    dtype = _multiplied(command)
    if dtype is not None and path_or_none(spec, dtype) is None:
        yield _TRITON_NAME[type(command)], dtype, sum(o.type.n_elements for o in command.operands[:2])
        return
    narrow = [v for v in (*command.operands, *command.results) if v.type.element in _FLOAT8]
    if narrow and path_or_none(spec, "fp8") is None:
        yield str(narrow[0]), "fp8", max(v.type.n_elements for v in narrow)


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
    program: TileProgram, buffers: Sequence[CircularBuffer], limit_bytes: int
) -> tuple[CircularBuffer, ...]:
    """One slot less where it frees most, until all fit or each has one."""
    kept = list(buffers)
    while _total(kept) > limit_bytes and (candidates := [b for b in kept if b.slots > 1]):
        victim = max(candidates, key=lambda b: (b.tile.n_bytes, -b.command))
        kept = [replace(b, slots=b.slots - 1) if b.id == victim.id and b.slots == victim.slots else b for b in kept]
    return tuple(kept)
