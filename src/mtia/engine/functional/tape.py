"""Repeated launches without repeated index arithmetic: a tape of the data commands of one launch.

For a given grid and scalars, everything that does not come from memory (addresses relative to the arguments, masks,
loop counts, constants) is the same at every launch. The recorder interprets the first launch and keeps, for each
command whose operands did come from memory, one closure with all else bound. Replaying the closures is the launch.

The interpreter stays the definition: a tape calls the same operations in the same order and gives the same bits.
Programs whose control depends on data, or that merge diverging programs, are not taped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mtia.engine.functional import memory, pointwise
from mtia.engine.functional.interpreter import (
    HANDLERS,
    Interpreter,
    Launch,
    Plan,
    _fill_value,
    _is_zero,
    held_mask,
    host_threads,
    multiply_operand,
    plan_of,
    programs_per_chunk,
)
from mtia.engine.functional.interpreter import run as interpret
from mtia.engine.functional.memory import Allocation
from mtia.engine.functional.values import TORCH_DTYPE, Held, Lin, dense, full
from mtia.program import commands as c
from mtia.program.dataflow import dataflow_of
from mtia.program.program import TileProgram
from mtia.program.types import Value

MAX_ELEMENTS = 1 << 20  # larger launches spend their time in the data, and their constants would take memory
MAX_ENTRIES = 8192
MAX_TAPES = 64  # a program

Env = list[Held | None]
Entry = Callable[[Env, Sequence[Any], Sequence[Allocation]], None]


@dataclass(slots=True)
class Tape:
    """Entries of one chunk, and the values of its environment that never change."""

    constants: Env
    entries: list[Entry] = field(default_factory=list)

    def replay(self, arguments: Sequence[Any], allocations: Sequence[Allocation]) -> None:
        env = self.constants.copy()
        for entry in self.entries:
            entry(env, arguments, allocations)


class NotTapable(Exception):
    """This launch must be interpreted."""


def run(launch: Launch) -> None:
    """Compute the launch's values: by its tape where there is one, else by the interpreter. The second launch of a
    kind records its tape."""
    program = launch.program
    tapes: dict[tuple, Sequence[Tape] | None] = program.__dict__.setdefault("_tapes", {})
    key = (
        launch.grid,
        *(a for a, p in zip(launch.arguments, program.parameters, strict=True) if not p.value.type.is_pointer),
    )
    if key not in tapes:
        if len(tapes) >= MAX_TAPES:
            tapes.pop(next(iter(tapes)))
        tapes[key] = ()  # seen: worth a tape if it comes again
        interpret(launch)
        return
    known = tapes[key]
    if known is None:
        interpret(launch)
    elif not known:
        tapes[key] = _record(launch)
    else:
        with torch.no_grad(), host_threads(plan_of(program), launch.n_programs):
            for tape in known:
                tape.replay(launch.arguments, launch.allocations)


def _record(launch: Launch) -> list[Tape] | None:
    """Interpret the launch; its tapes, or None where it cannot have any."""
    plan = plan_of(launch.program)
    if not _may_tape(launch, plan):
        interpret(launch)
        return None
    chunk = programs_per_chunk(plan)
    tapes: list[Tape] | None = []
    with torch.no_grad(), host_threads(plan, launch.n_programs):
        for first in range(0, launch.n_programs, chunk):
            recorder = Recorder(launch, plan, first, min(chunk, launch.n_programs - first))
            recorder.run()
            tapes = None if tapes is None or recorder.tape is None else [*tapes, recorder.tape]
    return tapes


def _may_tape(launch: Launch, plan: Plan) -> bool:
    program = launch.program
    return (
        launch.n_programs * plan.largest_held <= MAX_ELEMENTS
        and not plan.sequential
        and not any(isinstance(cmd, c.While | c.AtomicCas | c.Print) for cmd in program.commands)
        and not _control_depends_on_data(program)
    )


def _control_depends_on_data(program: TileProgram) -> bool:
    """Loop bounds or branch conditions that some load feeds."""
    loaded = {r.id for cmd in program.commands if isinstance(cmd, c.Load | c.AtomicRmw) for r in cmd.results}
    if not loaded & dataflow_of(program).index_values:
        return False
    tainted = set(loaded)
    for cmd in program.commands:
        if any(o.id in tainted for o in cmd.operands):
            tainted.update(r.id for r in cmd.results)
            tainted.update(a.id for block in cmd.blocks for a in block.args)
    bounds = {o.id for cmd in program.commands if isinstance(cmd, c.For) for o in cmd.operands[:3]}
    bounds |= {cmd.operands[0].id for cmd in program.commands if isinstance(cmd, c.If)}
    return bool(bounds & tainted)


class Recorder(Interpreter):
    """Interprets, and writes the tape. `dynamic`: values that come from memory; `tape` is None once given up."""

    def __init__(self, launch: Launch, plan: Plan, first: int, n: int) -> None:
        super().__init__(launch, plan, first, n)
        self.tape: Tape | None = Tape([None] * plan.n_values)
        self.dynamic: set[int] = set()

    def block(self, block: c.Block) -> None:
        for command in block.commands:
            if command.blocks and not isinstance(command, c.Reduce | c.Scan):
                HANDLERS[type(command)](self, command, self.env)
            else:
                self.command(command)
            if self.active is not None and not self.active.any():
                return

    def command(self, command: c.Command) -> None:
        is_access = isinstance(command, c.Load | c.Store | c.AtomicRmw)
        if not is_access and not any(o.id in self.dynamic for o in command.operands):
            HANDLERS[type(command)](self, command, self.env)
            self.dynamic.difference_update(r.id for r in command.results)
            return
        if self.tape is not None:
            try:
                self.tape.entries.append(self.entry(command))
                if len(self.tape.entries) > MAX_ENTRIES:
                    self.tape = None
            except NotTapable:
                self.tape = None
        HANDLERS[type(command)](self, command, self.env)
        self.dynamic.update(r.id for r in command.results)

    def move(self, targets: Sequence[Value], sources: Sequence[Value]) -> None:
        moved = [(t.id, s.id) for t, s in zip(targets, sources, strict=True) if s.id in self.dynamic]
        constant = [(t.id, self.env[s.id]) for t, s in zip(targets, sources, strict=True) if s.id not in self.dynamic]
        super().move(targets, sources)
        self.dynamic.difference_update(t for t, _ in constant)
        self.dynamic.update(t for t, _ in moved)
        if moved and self.tape is not None:
            self.tape.entries.append(_move_entry(moved))

    def diverged(self) -> None:
        """Values of different ways are about to be merged."""
        self.tape = None

    # --- entries ---

    def entry(self, command: c.Command) -> Entry:
        pointer_is_fixed = command.operands and command.operands[0].id not in self.dynamic
        match command:
            case c.Load() if pointer_is_fixed and self._mask_is_fixed(command, 1) and _other_is_fixed(self, command):
                return self.load_entry(command)
            case c.Store() if pointer_is_fixed and self._mask_is_fixed(command, 2):
                return self.store_entry(command)
            case c.Elementwise() if command.op != "addptr":
                return self.elementwise_entry(command)
            case c.Convert():
                return self.convert_entry(command)
            case c.MatMul() if all(isinstance(self.env[o.id], torch.Tensor) for o in command.operands):
                return self.multiply_entry(command)
            case _:
                return self.generic_entry(command)

    def _mask_is_fixed(self, command: c.Load | c.Store, at: int) -> bool:
        return not command.has_mask or command.operands[at].id not in self.dynamic

    def relative(self, value: Value) -> tuple[int, Lin]:
        """A fixed pointer as (parameter, Lin relative to that argument)."""
        parameter = self.plan.origins.get(value.id, -1)
        held = self.env[value.id]
        if parameter < 0 or not isinstance(held, Lin):
            raise NotTapable
        return parameter, Lin(held.base - int(self.launch.arguments[parameter]), held.strides)

    def load_entry(self, command: c.Load) -> Entry:
        mask = held_mask(self, command.operands[1]) if command.has_mask else None
        fill = _fill_value(self, command)
        if isinstance(mask, torch.Tensor) or fill is None or not isinstance(self.env[command.operands[0].id], Lin):
            return self.generic_entry(command)
        parameter, pointer = self.relative(command.operands[0])
        type_, n = command.result.type, self.n
        bits = memory.fill_bits(fill, type_.element)
        lend = command.index in self.plan.lendable
        load = memory.prepared_load(pointer, mask, self.active, type_, n, bits, self.place(command), lend=lend)
        result = command.result.id
        if not type_.shape and not type_.element.is_float:
            return _scalar_load(load, parameter, result)

        def entry(env: Env, arguments: Sequence[Any], allocations: Sequence[Allocation]) -> None:
            env[result] = load(arguments[parameter], allocations[parameter])

        return entry

    def store_entry(self, command: c.Store) -> Entry:
        mask = held_mask(self, command.operands[2]) if command.has_mask else None
        if isinstance(mask, torch.Tensor) or not isinstance(self.env[command.operands[0].id], Lin):
            return self.generic_entry(command)
        parameter, pointer = self.relative(command.operands[0])
        value = command.operands[1]
        type_ = value.type
        store = memory.prepared_store(pointer, mask, self.active, type_, self.n, self.place(command))
        at = value.id
        fixed = None if at in self.dynamic else full(self.tensor(value), type_).contiguous()

        def entry(env: Env, arguments: Sequence[Any], allocations: Sequence[Allocation]) -> None:
            if fixed is not None:
                data = fixed
            else:
                data = env[at]
                if not isinstance(data, torch.Tensor):
                    data = dense(data, type_)  # type: ignore[arg-type]
                if data.shape[1:] != type_.shape:
                    data = full(data, type_)
                if not data.is_contiguous():
                    data = data.contiguous()
            store(data, arguments[parameter], allocations[parameter])

        return entry

    def operand_getters(self, command: c.Command) -> list[tuple[int, torch.Tensor | None]]:
        """Per operand: (value id, None) if dynamic, else (-1, its tensor)."""
        return [(o.id, None) if o.id in self.dynamic else (-1, self.tensor(o)) for o in command.operands]

    def elementwise_entry(self, command: c.Elementwise) -> Entry:
        if any(o.id in self.dynamic and not isinstance(self.env[o.id], torch.Tensor) for o in command.operands):
            return self.generic_entry(command)  # a loaded scalar integer: symbolic rules apply
        function = _evaluator(command)
        result = command.result.id
        match self.operand_getters(command):
            case [(a, None)]:

                def entry(env: Env, *_: object) -> None:
                    env[result] = function(env[a])
            case [(a, None), (b, None)]:

                def entry(env: Env, *_: object) -> None:
                    env[result] = function(env[a], env[b])
            case [(a, None), (_, torch.Tensor() as y)]:

                def entry(env: Env, *_: object) -> None:
                    env[result] = function(env[a], y)
            case [(_, torch.Tensor() as x), (b, None)]:

                def entry(env: Env, *_: object) -> None:
                    env[result] = function(x, env[b])
            case getters:

                def entry(env: Env, *_: object) -> None:
                    env[result] = function(*(env[i] if t is None else t for i, t in getters))

        return entry

    def convert_entry(self, command: c.Convert) -> Entry:
        source = command.operands[0]
        if not isinstance(self.env[source.id], torch.Tensor):
            return self.generic_entry(command)
        result, at = command.result.id, source.id
        dtype = TORCH_DTYPE[command.result.type.element]
        if command.op in ("extf", "truncf") and command.rounding != "rtz" and dtype not in pointwise._F8_LARGEST:

            def plain(env: Env, *_: object) -> None:
                env[result] = env[at].to(dtype)  # type: ignore[union-attr]

            return plain

        def entry(env: Env, *_: object) -> None:
            env[result] = pointwise.convert(command, env[at])  # type: ignore[arg-type]

        return entry

    def multiply_entry(self, command: c.MatMul) -> Entry:
        """The interpreter's multiply for floats whose tiles are whole; what is fixed is looked at once."""
        a, b, acc = (self.env[o.id] for o in command.operands)
        assert isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and isinstance(acc, torch.Tensor)
        shapes = [o.type.shape for o in command.operands]
        whole = a.shape[1:] == shapes[0] and b.shape[1:] == shapes[1]
        dtype = TORCH_DTYPE[command.result.type.element]
        if not whole or not a.is_floating_point() or dtype is not torch.float32 or acc.dtype is not dtype:
            return self.generic_entry(command)
        precision, result, matmul = command.precision, command.result.id, torch.matmul
        plain = a.dtype is b.dtype is torch.float32 and not precision.startswith("tf32")
        (a_at, a_fixed), (b_at, b_fixed), (acc_at, acc_fixed) = self.operand_getters(command)
        adds = acc_fixed is None or not _is_zero(acc_fixed)

        def entry(env: Env, *_: object) -> None:
            x: Any = env[a_at] if a_fixed is None else a_fixed
            y: Any = env[b_at] if b_fixed is None else b_fixed
            if not plain:
                x, y = multiply_operand(x, precision), multiply_operand(y, precision)
            product = matmul(x, y)
            if adds:
                total: Any = env[acc_at] if acc_fixed is None else acc_fixed
                product += total
            env[result] = product

        return entry

    def generic_entry(self, command: c.Command) -> Entry:
        """The interpreter's own handler, on an environment with the fixed operands put back."""
        handler = HANDLERS[type(command)]
        fixed, pointers = [], []
        for o in (*command.operands, *_captured(command)):
            if o.id in self.dynamic:
                continue
            if o.type.is_pointer:
                pointers.append(self._relative_held(o))
            else:
                fixed.append((o.id, self.env[o.id]))
        runner = _Replayer(self.launch, self.plan, self.first, self.n, self.active)

        def entry(env: Env, arguments: Sequence[Any], allocations: Sequence[Allocation]) -> None:
            for at, held in fixed:
                env[at] = held
            for at, parameter, held in pointers:
                base = arguments[parameter]
                env[at] = Lin(held.base + base, held.strides) if isinstance(held, Lin) else held + base
            runner.env, runner.allocations = env, allocations
            handler(runner, command, env)

        return entry

    def _relative_held(self, value: Value) -> tuple[int, int, Lin | torch.Tensor]:
        parameter = self.plan.origins.get(value.id, -1)
        held = self.env[value.id]
        if parameter < 0 or held is None:
            raise NotTapable
        base = int(self.launch.arguments[parameter])
        if isinstance(held, Lin):
            return value.id, parameter, Lin(held.base - base, held.strides)
        assert isinstance(held, torch.Tensor)
        return value.id, parameter, held - base


def _captured(command: c.Command) -> list[Value]:
    """Values that the combine region of a reduction or scan takes from outside (constants, mostly)."""
    inner = [cmd for block in command.blocks for cmd in block.commands]
    made = {r.id for cmd in inner for r in cmd.results} | {a.id for block in command.blocks for a in block.args}
    used = {o.id: o for cmd in inner for o in cmd.operands}
    return [value for at, value in used.items() if at not in made]


class _Replayer(Interpreter):
    """Gives a handler the interpreter it expects while a tape is replayed."""

    def __init__(self, launch: Launch, plan: Plan, first: int, n: int, active: np.ndarray | None) -> None:
        super().__init__(Launch(program=launch.program, grid=launch.grid, arguments=()), plan, first, n)
        self.active = active
        self.allocations: Sequence[Allocation] = ()

    def allocation(self, pointer: Value) -> Allocation:
        at = self.plan.origins.get(pointer.id, -1)
        return self.allocations[at] if 0 <= at < len(self.allocations) else memory.UNCHECKED


def _other_is_fixed(self: Recorder, command: c.Load) -> bool:
    return not command.has_other or command.operands[2].id not in self.dynamic


def _move_entry(moves: list[tuple[int, int]]) -> Entry:
    if len(moves) == 1:
        target, source = moves[0]

        def one(env: Env, *_: object) -> None:
            env[target] = env[source]

        return one

    def entry(env: Env, *_: object) -> None:
        held = [env[s] for _, s in moves]
        for move, value in zip(moves, held, strict=True):
            env[move[0]] = value

    return entry


def _scalar_load(load: Callable, parameter: int, result: int) -> Entry:
    def entry(env: Env, arguments: Sequence[Any], allocations: Sequence[Allocation]) -> None:
        flat = load(arguments[parameter], allocations[parameter]).reshape(-1).to(torch.int64)
        env[result] = Lin(int(flat[0]) if flat.numel() == 1 else flat.numpy())

    return entry


_KEEPS_DTYPE = frozenset(
    {
        "addf",
        "subf",
        "mulf",
        "divf",
        "maximumf",
        "minimumf",
        "maxnumf",
        "minnumf",
        "negf",
        "absf",
        "exp",
        "exp2",
        "log",
        "sqrt",
        "rsqrt",
        "sin",
        "cos",
        "tanh",
        "erf",
        "select",
        "precise_divf",
        "precise_sqrt",
        "sigmoid",
    }
)


def _evaluator(command: c.Elementwise) -> Callable[..., torch.Tensor]:
    if command.op in _KEEPS_DTYPE:
        return pointwise.OPERATIONS[command.op]
    return lambda *tensors: pointwise.evaluate(command, list(tensors))


__all__ = ["Recorder", "Tape", "run"]
