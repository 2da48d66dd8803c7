"""A TileProgram as text. The compact form shows what the engines do; address arithmetic is counted, not listed."""

from __future__ import annotations

from dataclasses import fields

from mtia.program import commands as c
from mtia.program.dataflow import Dataflow, dataflow_of
from mtia.program.program import TileProgram
from mtia.program.types import Value

WIDTH = 116
_SKIPPED_FIELDS = {
    "index",
    "operands",
    "results",
    "location",
    "body",
    "before",
    "after",
    "then",
    "otherwise",
    "combine",
    "has_mask",
    "has_other",
}


def format_program(program: TileProgram, *, full: bool = False) -> str:
    """One line a command: engine, result with type, mnemonic, operands; circular buffers as `cbN`. `full` also lists
    the commands that only compute addresses, masks and loop bounds."""
    lines = [*_header(program), *_buffers(program), *_block(program.body, program, 1, full)]
    return "".join(f"{part}\n" for line in lines for part in _wrapped(line))


def _header(program: TileProgram) -> list[str]:
    parameters = ", ".join(f"{p.value}: {p.value.type}" for p in program.parameters)
    return [
        f"program {program.name}({parameters})",
        f"  # {program.buffer_bytes:,} bytes of circular buffers in each PE",
    ]


def _wrapped(line: str) -> list[str]:
    """The line in pieces of at most WIDTH characters, broken after commas; later pieces are indented."""
    out = [""]
    for i, item in enumerate(line.split(", ")):
        joined = f"{out[-1]}, {item}" if i else item
        if len(joined) <= WIDTH or not i:
            out[-1] = joined
        else:
            out[-1] += ","
            out.append(" " * (len(line) - len(line.lstrip()) + 10) + item)
    return out


def _buffers(program: TileProgram) -> list[str]:
    lines = []
    for b in program.buffers:
        direction = "in" if isinstance(program.commands[b.command], c.Load) else "out"
        lines.append(f"  cb{b.id}: {b.tile} x {b.slots} slots, {direction}")
    return lines


def _block(block: c.Block, program: TileProgram, depth: int, full: bool) -> list[str]:
    flow = dataflow_of(program)
    lines: list[str] = []
    hidden = 0
    for command in block.commands:
        if not full and _is_hidden(command, flow):
            hidden += 1
            continue
        lines += _hidden_line(hidden, depth)
        hidden = 0
        lines.append(_line(command, program, depth))
        lines += _regions(command, program, depth, full)
    return lines + _hidden_line(hidden, depth)


def _is_hidden(command: c.Command, flow: Dataflow) -> bool:
    if command.blocks and not isinstance(command, c.Reduce | c.Scan):
        return False
    return isinstance(command, c.Constant) or (flow.is_index_only(command) and not isinstance(command, c.Load))


def _hidden_line(n: int, depth: int) -> list[str]:
    return [f"{'  ' * depth}{'core':8}... {n} commands for addresses and bounds"] if n else []


def _line(command: c.Command, program: TileProgram, depth: int) -> str:
    results = ", ".join(f"{r}: {r.type}" for r in command.results)
    operands = ", ".join(str(o) for o in command.operands)
    buffer = program.buffer_of.get(command.index)
    through = f"  @cb{buffer.id}" if buffer is not None else ""
    head = f"{results} = " if results else ""
    unit = c.Unit.CORE if command.results and command.result.type.is_scalar and not command.blocks else command.unit
    return f"{'  ' * depth}{unit.value:8}{head}{_name(command)} {operands}{_fields(command)}{through}".rstrip()


def _name(command: c.Command) -> str:
    if isinstance(command, c.Elementwise | c.Convert):
        predicate = command.predicate if isinstance(command, c.Elementwise) else ""
        return f"{command.op}.{predicate}" if predicate else command.op
    return command.mnemonic


def _is_told(command: c.Command, name: str) -> bool:
    """A flag that is off goes without saying."""
    return name not in _SKIPPED_FIELDS and not (name == "sparse" and not getattr(command, name))


def _fields(command: c.Command) -> str:
    if isinstance(command, c.Elementwise | c.Convert):
        return ""
    items = [f"{f}={getattr(command, f)}" for f in (f.name for f in fields(command)) if _is_told(command, f)]
    return f" {{{', '.join(items)}}}" if items else ""


def _regions(command: c.Command, program: TileProgram, depth: int, full: bool) -> list[str]:
    if isinstance(command, c.Reduce | c.Scan) and command.op:
        return []
    lines: list[str] = []
    for i, block in enumerate(command.blocks):
        if i or isinstance(command, c.While):
            lines.append(f"{'  ' * depth}{'':8}{_region_name(command, i)}")
        lines += _block(block, program, depth + 1, full)
        if block.yields:
            lines.append(f"{'  ' * (depth + 1)}{'':8}yield {_values(block.yields)}")
    return lines


def _region_name(command: c.Command, i: int) -> str:
    return {c.While: ("while", "do"), c.If: ("then", "else")}.get(type(command), ("", ""))[i]


def _values(values: tuple[Value, ...]) -> str:
    return ", ".join(map(str, values))
