"""The functional simulator: runs a TileProgram over the whole grid at once. It defines what each command computes.

Every command is one array operation with the program instances as leading dimension, in chunks that fit the host's
cache.  Integers and addresses stay symbolic while they are affine (`affine.py`), so most loads are block copies.
Where programs take different ways (branches, loops of different length), all ways are walked with a mask of the
programs on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mtia.engine.functional import affine, memory, pointwise, printing
from mtia.engine.functional.loops import multiply, native
from mtia.engine.functional.memory import UNCHECKED, Allocation, Place
from mtia.engine.functional.plan import Plan, host_threads, plan_of, programs_per_chunk
from mtia.engine.functional.values import TORCH_DTYPE, Base, Box, Held, Lin, dense, element_table, full, scale_table
from mtia.errors import KernelAssertion, UnsupportedOperation
from mtia.program import commands as c
from mtia.program.program import TileProgram
from mtia.program.types import Element, TileType, Value

Argument = int | float | bool


@dataclass(slots=True, kw_only=True)
class Launch:
    """A program, its grid and run-time arguments (pointers as addresses), with the allocations behind the pointers."""

    program: TileProgram
    grid: tuple[int, int, int]
    arguments: Sequence[Argument]
    allocations: Sequence[Allocation] = ()

    @property
    def n_programs(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


def run(launch: Launch) -> None:
    """Compute the launch's values in device memory. Raises what the chip would refuse, named with line and instance."""
    plan = plan_of(launch.program)
    chunk = programs_per_chunk(plan)
    with torch.no_grad(), host_threads(plan, launch.n_programs):
        for first in range(0, launch.n_programs, chunk):
            Interpreter(launch, plan, first, min(chunk, launch.n_programs - first)).run()


class Interpreter:
    """One chunk of a launch: programs first .. first + n."""

    def __init__(self, launch: Launch, plan: Plan, first: int, n: int) -> None:
        self.launch = launch
        self.plan = plan
        self.first = first
        self.n = n
        self.active: np.ndarray | None = None  # bool [P]; None: all
        self.env: list[Held | None] = [None] * plan.n_values
        self.flat_ids: np.ndarray | None = None

    def run(self) -> None:
        for parameter, argument in zip(self.launch.program.parameters, self.launch.arguments, strict=True):
            self.env[parameter.value.id] = hold_argument(parameter.value.type, argument)
        self.block(self.launch.program.body)

    def block(self, block: c.Block) -> None:
        env = self.env
        for command in block.commands:
            HANDLERS[type(command)](self, command, env)
            if self.active is not None and not self.active.any():
                return

    def move(self, targets: Sequence[Value], sources: Sequence[Value]) -> None:
        """Hand values on, all at once: loop-carried values, results of regions."""
        held = [self.env[s.id] for s in sources]
        for target, value in zip(targets, held, strict=True):
            self.env[target.id] = value

    # --- operands ---

    def tensor(self, value: Value) -> torch.Tensor:
        held = self.env[value.id]
        assert held is not None, f"%{value.name} used before it is defined"
        return dense(held, value.type)

    def full(self, value: Value) -> torch.Tensor:
        return full(self.tensor(value), value.type)

    def scalar(self, value: Value) -> Base:
        """An integer scalar, one for all programs (int) or one each (int64 [P])."""
        held = self.env[value.id]
        if isinstance(held, Lin):
            return held.base
        flat = dense(held, value.type).reshape(-1).to(torch.int64)  # type: ignore[arg-type]
        return int(flat[0]) if flat.numel() == 1 else flat.numpy()

    def program_ids(self, axis: int) -> Base:
        x, y, z = self.launch.grid
        if (x, y, z)[axis] == 1:
            return 0
        if self.flat_ids is None:
            self.flat_ids = np.arange(self.first, self.first + self.n, dtype=np.int64)
        ids = self.flat_ids
        if axis == 0:
            ids = ids if y == z == 1 else ids % x
        elif axis == 1:
            ids = ids // x if z == 1 else ids // x % y
        else:
            ids = ids // (x * y)
        return int(ids[0]) if len(ids) == 1 else ids

    def place(self, command: c.Command) -> Place:
        return Place(self.launch.program.name, command, self.first, self.launch.grid)

    def allocation(self, pointer: Value) -> Allocation:
        at = self.plan.origins.get(pointer.id, -1)
        return self.launch.allocations[at] if 0 <= at < len(self.launch.allocations) else UNCHECKED

    def active_tensor(self, ndim: int) -> torch.Tensor | None:
        return None if self.active is None else torch.from_numpy(self.active).view(-1, *([1] * ndim))

    def elementwise_access(
        self, pointer: Value, mask: Box | torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Addresses int64 [P or 1, *shape] and mask of the same shape, contiguous."""
        address = self.full(pointer)
        if mask is None and self.active is None:
            return address.contiguous(), None
        selected = (
            torch.ones([1] * (address.ndim), dtype=torch.bool)
            if mask is None
            else dense(mask, _mask_type(pointer.type))
        )
        active = self.active_tensor(len(pointer.type.shape))
        if active is not None:
            selected = selected & active
        address, selected = torch.broadcast_tensors(address, selected)
        return address.contiguous(), selected.contiguous()

    def scatter_operands(
        self, pointer: Value, mask: Box | torch.Tensor | None, value: Value
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        address, selected = self.elementwise_access(pointer, mask)  # type: ignore[attr-defined]
        data = self.full(value)
        n = self.n  # every program writes, whether or not values differ
        address = address.expand(n, *address.shape[1:]).contiguous()
        selected = None if selected is None else selected.expand(address.shape).contiguous()
        return address, selected, data.expand(address.shape).contiguous()

    def uniform_loop(self, cmd: c.For, iterations: range) -> None:
        for i in iterations:
            self.env[cmd.body.args[0].id] = Lin(i)
            self.block(cmd.body)
            self.move(cmd.body.args[1:], cmd.body.yields)

    def varied_loop(self, cmd: c.For, lower: Base, upper: Base, step: Base) -> None:
        """Programs leave the loop at different iterations: those that are through keep their values."""
        env, carried, outer = self.env, cmd.body.args[1:], self.active
        variable = np.broadcast_to(np.asarray(lower, np.int64), (self.n,)).copy()
        while True:
            running = _and(outer, variable < upper)
            if not running.any():
                break
            self.active = running
            env[cmd.body.args[0].id] = Lin(variable.copy())
            old = [env[a.id] for a in carried]
            self.block(cmd.body)
            for arg, value, before in zip(carried, cmd.body.yields, old, strict=True):
                new = env[value.id]
                env[arg.id] = new if running.all() else _merge(running, new, before, arg.type)
            variable = variable + step
        self.active = outer


def hold_argument(type_: TileType, argument: Argument) -> Held:
    if type_.element.is_float:
        return torch.tensor([float(argument)], dtype=torch.float64).to(TORCH_DTYPE[type_.element])
    return Lin(int(argument))


Handler = Callable[[Interpreter, "c.Command", list[Held | None]], None]
HANDLERS: dict[type[c.Command], Handler] = {}


def handles(cls: type[c.Command]) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        HANDLERS[cls] = function
        return function

    return register


# --- values -----------------------------------------------------------------------------------------------------------


@handles(c.Constant)
def _constant(self: Interpreter, cmd: c.Constant, env: list) -> None:
    env[cmd.result.id] = hold_constant(cmd)


def hold_constant(cmd: c.Constant) -> Held:
    type_ = cmd.result.type
    if isinstance(cmd.value, tuple):
        return torch.tensor(cmd.value).to(TORCH_DTYPE[type_.element]).view(1, *type_.shape)
    if type_.element is Element.I1 and type_.shape:
        return Box((None,) * len(type_.shape), bool(cmd.value))
    if type_.element.is_float:
        value = torch.full([1] * (len(type_.shape) + 1), cmd.value, dtype=torch.float64)
        return value.to(TORCH_DTYPE[type_.element])
    return Lin(int(cmd.value), (0,) * len(type_.shape))


@handles(c.ProgramId)
def _program_id(self: Interpreter, cmd: c.ProgramId, env: list) -> None:
    env[cmd.result.id] = Lin(self.program_ids(cmd.axis))


@handles(c.NumPrograms)
def _num_programs(self: Interpreter, cmd: c.NumPrograms, env: list) -> None:
    env[cmd.result.id] = Lin(self.launch.grid[cmd.axis])


@handles(c.Range)
def _range(self: Interpreter, cmd: c.Range, env: list) -> None:
    env[cmd.result.id] = Lin(cmd.start, (1,))


@handles(c.Elementwise)
def _elementwise(self: Interpreter, cmd: c.Elementwise, env: list) -> None:
    held = [env[o.id] for o in cmd.operands]
    rule = affine.RULES.get(cmd.op)
    if rule is not None and not any(isinstance(h, torch.Tensor) for h in held):
        result = rule(cmd, held)
        if result is not None:
            env[cmd.result.id] = result
            return
    if cmd.op not in pointwise.OPERATIONS and cmd.op not in ("cmpi", "cmpf"):
        raise UnsupportedOperation(
            cmd.op,
            kernel=self.launch.program.name,
            line=str(cmd.location),
            detail="the functional simulator has no such element-wise operation",
        )
    tensors = [dense(h, o.type) for h, o in zip(held, cmd.operands, strict=True)]
    if cmd.op == "addptr":
        pointee = cmd.operands[0].type.pointee
        assert pointee is not None
        tensors[1] = tensors[1].to(torch.int64) * pointee.n_bytes
    env[cmd.result.id] = pointwise.evaluate(cmd, tensors)


@handles(c.Convert)
def _convert(self: Interpreter, cmd: c.Convert, env: list) -> None:
    held = env[cmd.operands[0].id]
    source, target = cmd.operands[0].type, cmd.result.type
    if (
        isinstance(held, Lin)
        and not target.element.is_float
        and source.element is not Element.I1
        and target.element is not Element.I1
        and cmd.op in _LIN_CONVERSIONS
        and (converted := affine.convert(cmd.op, held, source, target.element)) is not None
    ):
        env[cmd.result.id] = converted
        return
    if isinstance(held, Lin) and held.is_flat and source.element is Element.I1 and cmd.op == "extui":
        env[cmd.result.id] = held
        return
    env[cmd.result.id] = pointwise.convert(cmd, dense(held, source))


_LIN_CONVERSIONS = {"extsi", "extui", "trunci", "index_cast", "index_castui", "bitcast", "ptr_to_int", "int_to_ptr"}


# --- shape ------------------------------------------------------------------------------------------------------------


def _unsqueezed(tensor: torch.Tensor, ndim: int) -> torch.Tensor:
    return tensor.view(tensor.shape[0], *([1] * ndim))


@handles(c.Splat)
def _splat(self: Interpreter, cmd: c.Splat, env: list) -> None:
    held = env[cmd.operands[0].id]
    ndim = len(cmd.result.type.shape)
    if isinstance(held, Lin):
        if cmd.result.type.element is Element.I1:
            flag = bool(held.base) if isinstance(held.base, int) else held.base.astype(bool)
            env[cmd.result.id] = Box((None,) * ndim, flag)
        else:
            env[cmd.result.id] = Lin(held.base, (0,) * ndim)
    else:
        env[cmd.result.id] = _unsqueezed(self.tensor(cmd.operands[0]), ndim)


@handles(c.ExpandDims)
def _expand_dims(self: Interpreter, cmd: c.ExpandDims, env: list) -> None:
    held = env[cmd.operands[0].id]
    if isinstance(held, Lin):
        env[cmd.result.id] = Lin(held.base, (*held.strides[: cmd.dim], 0, *held.strides[cmd.dim :]))
    elif isinstance(held, Box):
        env[cmd.result.id] = Box((*held.bounds[: cmd.dim], None, *held.bounds[cmd.dim :]), held.flag)
    else:
        env[cmd.result.id] = held.unsqueeze(cmd.dim + 1)


@handles(c.Broadcast)
def _broadcast(self: Interpreter, cmd: c.Broadcast, env: list) -> None:
    held = env[cmd.operands[0].id]
    source = cmd.operands[0].type.shape
    if isinstance(held, Lin):
        strides = tuple(0 if n == 1 else s for s, n in zip(held.strides, source, strict=True))
        env[cmd.result.id] = Lin(held.base, strides)
    elif isinstance(held, Box):
        env[cmd.result.id] = _broadcast_box(held, source, cmd.result.type.shape)
    else:
        env[cmd.result.id] = held


def _broadcast_box(held: Box, source: tuple[int, ...], target: tuple[int, ...]) -> Box:
    """A bound on a dim of size 1 says whether index 0 is inside: in or out for the whole broadcast dim."""
    flag = held.flag
    bounds = []
    for interval, n, m in zip(held.bounds, source, target, strict=True):
        if interval is not None and n == 1 and m != 1:
            flag = np.asarray(flag) & (np.asarray(interval[0]) <= 0) & (np.asarray(interval[1]) > 0)
            interval = None
        bounds.append(interval)
    if isinstance(flag, np.ndarray) and flag.ndim == 0:
        flag = bool(flag)
    return Box(tuple(bounds), flag)


@handles(c.Reshape)
def _reshape(self: Interpreter, cmd: c.Reshape, env: list) -> None:
    held = env[cmd.operands[0].id]
    source, target = cmd.operands[0].type.shape, cmd.result.type.shape
    if isinstance(held, Lin) and held.is_flat:
        env[cmd.result.id] = Lin(held.base, (0,) * len(target))
        return
    if isinstance(held, Lin):
        strides = _reshaped_strides(source, held.strides, target)
        if strides is not None:
            env[cmd.result.id] = Lin(held.base, strides)
            return
    tensor = self.full(cmd.operands[0])
    env[cmd.result.id] = tensor.reshape(tensor.shape[0], *target)


def _reshaped_strides(
    source: tuple[int, ...], strides: tuple[int, ...], target: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides after a reshape that only adds or drops dims of size 1 or splits a single dim."""
    kept = [(n, s) for n, s in zip(source, strides, strict=True) if n != 1]
    if [n for n, _ in kept] == [n for n in target if n != 1]:
        rest = iter(kept)
        return tuple(0 if n == 1 else next(rest)[1] for n in target)
    if len(kept) != 1:
        return None
    stride, result = kept[0][1], []
    for n in reversed(target):
        result.append(stride if n != 1 else 0)
        stride *= n
    return tuple(reversed(result))


@handles(c.Transpose)
def _transpose(self: Interpreter, cmd: c.Transpose, env: list) -> None:
    held = env[cmd.operands[0].id]
    if isinstance(held, Lin):
        env[cmd.result.id] = Lin(held.base, tuple(held.strides[i] for i in cmd.order))
    elif isinstance(held, Box):
        env[cmd.result.id] = Box(tuple(held.bounds[i] for i in cmd.order), held.flag)
    else:
        env[cmd.result.id] = held.permute(0, *(i + 1 for i in cmd.order))


@handles(c.Join)
def _join(self: Interpreter, cmd: c.Join, env: list) -> None:
    a, b = torch.broadcast_tensors(*(self.full(o) for o in cmd.operands))
    env[cmd.result.id] = torch.stack((a, b), dim=-1)


@handles(c.Split)
def _split(self: Interpreter, cmd: c.Split, env: list) -> None:
    tensor = self.full(cmd.operands[0])
    env[cmd.results[0].id], env[cmd.results[1].id] = tensor[..., 0], tensor[..., 1]


@handles(c.Concat)
def _concat(self: Interpreter, cmd: c.Concat, env: list) -> None:
    a, b = (self.full(o) for o in cmd.operands)
    n = max(a.shape[0], b.shape[0])
    env[cmd.result.id] = torch.cat((a.expand(n, *a.shape[1:]), b.expand(n, *b.shape[1:])), dim=1)


@handles(c.Gather)
def _gather(self: Interpreter, cmd: c.Gather, env: list) -> None:
    source, index = (self.full(o) for o in cmd.operands)
    n = max(source.shape[0], index.shape[0])
    source, index = source.expand(n, *source.shape[1:]), index.expand(n, *index.shape[1:])
    env[cmd.result.id] = torch.gather(source, cmd.dim + 1, index.to(torch.int64))


@handles(c.Histogram)
def _histogram(self: Interpreter, cmd: c.Histogram, env: list) -> None:
    x = self.full(cmd.operands[0])
    n_bins = cmd.result.type.shape[0]
    keep = (x >= 0) & (x < n_bins)
    if len(cmd.operands) > 1:
        keep = keep & self.full(cmd.operands[1])
    x, keep = torch.broadcast_tensors(x, keep)
    counts = torch.zeros((x.shape[0], n_bins), dtype=TORCH_DTYPE[cmd.result.type.element])
    counts.scatter_add_(1, torch.where(keep, x, 0).to(torch.int64), keep.to(counts.dtype))
    env[cmd.result.id] = counts


@handles(c.Sort)
def _sort(self: Interpreter, cmd: c.Sort, env: list) -> None:
    env[cmd.result.id] = self.full(cmd.operands[0]).sort(-1, descending=cmd.descending).values


# --- reductions -------------------------------------------------------------------------------------------------------

FOLDS: dict[str, tuple[str, str]] = {  # reduction -> the operation that folds floats, integers
    "add": ("addf", "addi"),
    "mul": ("mulf", "muli"),
    "max": ("maxnumf", "maxsi"),
    "min": ("minnumf", "minsi"),
    "max_nan": ("maximumf", "maxsi"),
    "min_nan": ("minimumf", "minsi"),
}


def fold_operation(cmd: c.Reduce) -> str | None:
    """The element-wise operation whose folding is this reduction; None where its own region must be run."""
    element = cmd.operands[0].type.element
    if len(cmd.operands) != 1:
        return None
    if element is Element.I1:
        return {"or": "ori", "and": "andi"}.get(cmd.op)
    return FOLDS[cmd.op][0 if element.is_float else 1] if cmd.op in FOLDS else None


def _fold(operation: Callable[..., torch.Tensor], x: torch.Tensor, dim: int) -> torch.Tensor:
    """The defined order of a reduction: the first half with the second (an odd one in the middle waits), until one is
    left. Narrow floats fold in float32 and round once."""
    dtype = x.dtype
    if dtype in (torch.bfloat16, torch.float16):
        x = x.to(torch.float32)
    while (n := x.shape[dim]) > 1:
        h = n // 2
        folded = operation(x.narrow(dim, 0, h), x.narrow(dim, n - h, h))
        x = torch.cat((folded, x.narrow(dim, h, 1)), dim) if n % 2 else folded
    return x.squeeze(dim).to(dtype)


@handles(c.Reduce)
def _reduce(self: Interpreter, cmd: c.Reduce, env: list) -> None:
    operands = [self.full(o) for o in cmd.operands]
    operation = fold_operation(cmd)
    if operation is not None:
        env[cmd.result.id] = _fold(pointwise.OPERATIONS[operation], operands[0], cmd.dim + 1)
        return
    operands = _same_programs(operands)
    while operands[0].shape[cmd.dim + 1] > 1:  # neighbours pair up, so the order is kept
        evens, odds = (_every_other(operands, cmd.dim + 1, start) for start in (0, 1))
        operands = _combine(self, cmd.combine, evens, odds)
    for result, operand in zip(cmd.results, operands, strict=True):
        env[result.id] = operand.squeeze(cmd.dim + 1)


def _same_programs(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    n = max(t.shape[0] for t in tensors)
    return [t.expand(n, *t.shape[1:]) for t in tensors]


def _every_other(tensors: list[torch.Tensor], dim: int, start: int) -> list[torch.Tensor]:
    index = (slice(None),) * dim + (slice(start, None, 2),)
    return [t[index] for t in tensors]


def _combine(
    self: Interpreter, block: c.Block, left: list[torch.Tensor], right: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The combine region on whole tensors: its scalars are elements."""
    env = self.env
    for arg, tensor in zip(block.args, (*left, *right), strict=True):
        env[arg.id] = tensor
    self.block(block)
    shape = np.broadcast_shapes(*(t.shape for t in (*left, *right)))  # torch.broadcast_shapes imports sympy: seconds
    return [_region_result(env[v.id], v.type, shape) for v in block.yields]


def _region_result(held: Held | None, type_: TileType, shape: tuple[int, ...]) -> torch.Tensor:
    assert held is not None
    tensor = dense(held, type_)
    return (
        tensor.reshape(tensor.shape or (1,)).expand(shape)
        if tensor.ndim == len(shape)
        else tensor.view(-1, *([1] * (len(shape) - 1))).expand(shape)
    )


_SCANNERS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "add": lambda x, d: x.cumsum(d, dtype=x.dtype),
    "mul": lambda x, d: x.cumprod(d, dtype=x.dtype),
}


@handles(c.Scan)
def _scan(self: Interpreter, cmd: c.Scan, env: list) -> None:
    dim = cmd.dim + 1
    operands = _same_programs([self.full(o) for o in cmd.operands])
    if cmd.reverse:
        operands = [t.flip(dim) for t in operands]
    scanner = _SCANNERS.get(cmd.op) if len(operands) == 1 and operands[0].dtype is not torch.bool else None
    results = [scanner(operands[0], dim)] if scanner else _doubling_scan(self, cmd, operands, dim)
    for result, tensor in zip(cmd.results, results, strict=True):
        env[result.id] = tensor.flip(dim) if cmd.reverse else tensor


def _doubling_scan(self: Interpreter, cmd: c.Scan, tensors: list[torch.Tensor], dim: int) -> list[torch.Tensor]:
    n, step = tensors[0].shape[dim], 1
    while step < n:
        left = [t.narrow(dim, 0, n - step) for t in tensors]
        right = [t.narrow(dim, step, n - step) for t in tensors]
        combined = _combine(self, cmd.combine, left, right)
        tensors = [torch.cat((t.narrow(dim, 0, step), new), dim) for t, new in zip(tensors, combined, strict=True)]
        step *= 2
    return tensors


# --- dot product engine -----------------------------------------------------------------------------------------------


def round_to_tf32(x: torch.Tensor) -> torch.Tensor:
    """float32 rounded to 10 mantissa bits, to nearest even; infinities and NaN as they are."""
    return native("tf32")(x)


def multiply_operand(x: torch.Tensor, precision: str) -> torch.Tensor:
    """In the type of the accumulator: float32 for narrow floats, int32 for integers, float64 as it is."""
    if x.dtype is torch.float32:
        return round_to_tf32(x) if precision.startswith("tf32") and "x3" not in precision else x
    if not x.dtype.is_floating_point:
        return x.to(torch.int32)
    return x if x.dtype is torch.float64 else x.to(torch.float32)


def _scaled(elements: torch.Tensor, scale: torch.Tensor, cmd_format: str, scale_element: Element) -> torch.Tensor:
    """[.., rows, K] in float32, element x scale: e2m1 two to a byte, low half first; scales [.., rows, K / g] e4m3 or
    e8m0. The rule is numerics/multiply.py's."""
    if cmd_format in ("bf16", "fp16"):
        numbers = elements.float()
    else:
        codes = elements.view(torch.uint8).long()
        if cmd_format == "e2m1":
            codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
        numbers = torch.tensor(element_table(cmd_format))[codes]
    factors = torch.tensor(scale_table(scale_element), dtype=torch.float32)[scale.view(torch.uint8).long()]
    return numbers * factors.repeat_interleave(numbers.shape[-1] // factors.shape[-1], dim=-1)


@handles(c.ScaledMatMul)
def _scaled_matmul(self: Interpreter, cmd: c.ScaledMatMul, env: list) -> None:
    """As MatMul, of the numbers that elements and scales make."""
    a, a_scale, b, b_scale = (self.full(o) for o in cmd.operands[:4])
    left = _scaled(a, a_scale, cmd.a_format, cmd.operands[1].type.element)
    right = _scaled(b.transpose(-1, -2).contiguous(), b_scale, cmd.b_format, cmd.operands[3].type.element)
    env[cmd.result.id] = _multiplied(self, cmd, left, right.transpose(-1, -2), cmd.operands[4])


@handles(c.MatMul)
def _matmul(self: Interpreter, cmd: c.MatMul, env: list) -> None:
    """Each element starts from the accumulator and takes its K products in order, one fused multiply-add each."""
    a, b = (multiply_operand(self.full(o), cmd.precision) for o in cmd.operands[:2])
    env[cmd.result.id] = _multiplied(self, cmd, a, b, cmd.operands[2])


def _multiplied(self: Interpreter, cmd: c.Command, a: torch.Tensor, b: torch.Tensor, begin: Value) -> torch.Tensor:
    start = self.tensor(begin)
    n = max(x.shape[0] for x in (a, b, start))
    shape = cmd.result.type.shape
    a, b = (x.expand(n, *x.shape[1:]).reshape(-1, *x.shape[-2:]).contiguous() for x in (a, b))
    first = None if _is_zero(start) else start.to(a.dtype).expand(n, *shape).reshape(-1, *shape[-2:]).contiguous()
    product = multiply(MULTIPLY_KINDS[a.dtype], a, b, first).view(n, *shape)
    return product.to(TORCH_DTYPE[cmd.result.type.element])


MULTIPLY_KINDS = {torch.float32: 0, torch.float64: 1, torch.int32: 2}


def _is_zero(x: torch.Tensor) -> bool:
    return x.numel() == 1 and x.item() == 0


# --- memory -----------------------------------------------------------------------------------------------------------


def held_mask(self: Interpreter, value: Value) -> Box | torch.Tensor:
    held = self.env[value.id]
    if isinstance(held, Lin):  # scalar i1
        return Box((), bool(held.base) if isinstance(held.base, int) else held.base.astype(bool))
    assert held is not None
    return held


def _fill_value(self: Interpreter, cmd: c.Load) -> float | None:
    """The one value that masked elements get, None where they get different ones."""
    if not cmd.has_other:
        return 0
    held = self.env[cmd.operands[2].id]
    if isinstance(held, Lin) and held.is_flat and isinstance(held.base, int):
        return held.base
    if isinstance(held, Box) and isinstance(held.flag, bool) and not any(held.bounds):
        return int(held.flag)
    return held.item() if isinstance(held, torch.Tensor) and held.numel() == 1 else None


@handles(c.Load)
def _load(self: Interpreter, cmd: c.Load, env: list) -> None:
    pointer, mask = env[cmd.operands[0].id], held_mask(self, cmd.operands[1]) if cmd.has_mask else None
    fill = _fill_value(self, cmd)
    type_ = cmd.result.type
    bits = memory.fill_bits(fill, type_.element) if fill is not None else 0
    where, place = self.allocation(cmd.operands[0]), self.place(cmd)
    if isinstance(pointer, Lin) and not isinstance(mask, torch.Tensor):
        lend = cmd.index in self.plan.lendable
        load = memory.prepared_load(pointer, mask, self.active, type_, self.n, bits, place, lend=lend)
        out = load(0, where)
    else:
        address, selected = self.elementwise_access(cmd.operands[0], mask)
        out = memory.gather(address, selected, type_, bits, where, place)
    if fill is None:
        out = torch.where(full(dense(mask, _mask_type(type_)), type_), out, self.full(cmd.operands[2]))  # type: ignore
    env[cmd.result.id] = out if type_.shape or type_.element.is_float else _scalar_integer(out)


def _scalar_integer(x: torch.Tensor) -> Lin:
    flat = x.reshape(-1).to(torch.int64)
    return Lin(int(flat[0]) if flat.numel() == 1 else flat.numpy())


def _mask_type(type_: TileType) -> TileType:
    return TileType(Element.I1, type_.shape)


@handles(c.Store)
def _store(self: Interpreter, cmd: c.Store, env: list) -> None:
    pointer, mask = env[cmd.operands[0].id], held_mask(self, cmd.operands[2]) if cmd.has_mask else None
    value = cmd.operands[1]
    where, place = self.allocation(cmd.operands[0]), self.place(cmd)
    if isinstance(pointer, Lin) and not isinstance(mask, torch.Tensor):
        data = self.full(value).contiguous()
        memory.prepared_store(pointer, mask, self.active, value.type, self.n, place)(data, 0, where)
        return
    address, selected, data = self.scatter_operands(cmd.operands[0], mask, value)
    memory.scatter(data, address, selected, value.type, where, place)


@handles(c.AtomicRmw)
def _atomic_rmw(self: Interpreter, cmd: c.AtomicRmw, env: list) -> None:
    mask = held_mask(self, cmd.operands[2]) if cmd.has_mask else None
    value = cmd.operands[1]
    address, selected, data = self.scatter_operands(cmd.operands[0], mask, value)
    old = memory.atomic(cmd.op, data, address, selected, value.type, self.allocation(cmd.operands[0]), self.place(cmd))
    if cmd.results:
        env[cmd.result.id] = old if cmd.result.type.shape or value.type.element.is_float else _scalar_integer(old)


@handles(c.AtomicCas)
def _atomic_cas(self: Interpreter, cmd: c.AtomicCas, env: list) -> None:
    value = cmd.operands[2]
    address, selected, desired = self.scatter_operands(cmd.operands[0], None, value)
    expected = self.full(cmd.operands[1]).expand(desired.shape).contiguous()
    old = memory.compare_exchange(
        expected, desired, address, selected, value.type, self.allocation(cmd.operands[0]), self.place(cmd)
    )
    if cmd.results:
        env[cmd.result.id] = old if cmd.result.type.shape or value.type.element.is_float else _scalar_integer(old)


# --- control ----------------------------------------------------------------------------------------------------------


def _merge(chosen: np.ndarray, new: Held | None, old: Held | None, type_: TileType) -> Held | None:
    """`new` in the chosen programs, `old` in the others; None stays None (the tracer leaves data out)."""
    if new is None or old is None:
        return new if old is None else old
    if isinstance(new, Lin) and isinstance(old, Lin) and new.strides == old.strides:
        return Lin(np.where(chosen, new.base, old.base), new.strides)
    flag = torch.from_numpy(chosen).view(-1, *([1] * len(type_.shape)))
    return torch.where(flag, dense(new, type_), dense(old, type_))


def _and(a: np.ndarray | None, b: np.ndarray) -> np.ndarray:
    return b if a is None else a & b


@handles(c.If)
def _if(self: Interpreter, cmd: c.If, env: list) -> None:
    condition = self.scalar(cmd.operands[0])
    if isinstance(condition, int):
        branch = cmd.then if condition else cmd.otherwise
        self.block(branch)
        if self.active is None or self.active.any():
            self.move(cmd.results, branch.yields)
        return
    taken = condition.astype(bool)
    outer = self.active
    merged: list[Held | None] = [None] * len(cmd.results)
    ended = np.zeros(self.n, bool)
    for chosen, branch in ((taken, cmd.then), (~taken, cmd.otherwise)):
        self.active = _and(outer, chosen)
        if not self.active.any():
            continue
        before = self.active
        self.block(branch)
        ended |= before & ~self.active
        for i, value in enumerate(branch.yields):
            merged[i] = _merge(chosen, env[value.id], merged[i], value.type)
    self.active = outer
    if ended.any():
        self.active = _and(outer, ~ended)
    for result, held in zip(cmd.results, merged, strict=True):
        env[result.id] = held


@handles(c.Return)
def _return(self: Interpreter, cmd: c.Return, env: list) -> None:
    """The programs on this way end; at top level that is all of them, and nothing follows."""
    if self.active is not None:
        self.active = np.zeros(self.n, bool)


@handles(c.For)
def _for(self: Interpreter, cmd: c.For, env: list) -> None:
    lower, upper, step = (self.scalar(o) for o in cmd.operands[:3])
    self.move(cmd.body.args[1:], cmd.operands[3:])
    if all(isinstance(b, int) for b in (lower, upper, step)):
        self.uniform_loop(cmd, range(lower, upper, step))
    else:
        self.varied_loop(cmd, lower, upper, step)
    self.move(cmd.results, cmd.body.args[1:])


@handles(c.While)
def _while(self: Interpreter, cmd: c.While, env: list) -> None:
    outer = self.active
    held: list[Held | None] = [env[o.id] for o in cmd.operands]
    results: list[Held | None] = [None] * len(cmd.results)
    running = np.ones(self.n, bool) if outer is None else outer.copy()
    while True:
        for arg, value in zip(cmd.before.args, held, strict=True):
            env[arg.id] = value
        self.active = None if outer is None and running.all() else running
        self.block(cmd.before)
        condition = self.scalar(cmd.before.yields[0])
        go_on = running & (np.asarray(condition) != 0)
        leaving = running & ~go_on
        passed = [env[v.id] for v in cmd.before.yields[1:]]
        for i, (result, value) in enumerate(zip(cmd.results, passed, strict=True)):
            results[i] = _merge(leaving, value, results[i], result.type)
        if not go_on.any():
            break
        self.active = None if outer is None and go_on.all() else go_on
        for arg, value in zip(cmd.after.args, passed, strict=True):
            env[arg.id] = value
        self.block(cmd.after)
        new = [env[v.id] for v in cmd.after.yields]
        held = [
            n if go_on.all() else _merge(go_on, n, h, a.type)
            for n, h, a in zip(new, held, cmd.before.args, strict=True)
        ]
        running = go_on
    self.active = outer
    for result, value in zip(cmd.results, results, strict=True):
        env[result.id] = value


@handles(c.Assert)
def _assert(self: Interpreter, cmd: c.Assert, env: list) -> None:
    ok = self.tensor(cmd.operands[0])
    active = self.active_tensor(ok.ndim - 1)
    if active is not None:
        ok = ok | ~active
    if not bool(ok.all()):
        program = int((~ok).flatten(1).any(1).nonzero()[0]) if ok.ndim > 1 else int((~ok).nonzero()[0])
        raise KernelAssertion(
            self.launch.program.name,
            message=cmd.message,
            line=str(cmd.location),
            instance=self.place(cmd).instance(program),
        )


@handles(c.Print)
def _print(self: Interpreter, cmd: c.Print, env: list) -> None:
    place = self.place(cmd)
    for program in range(self.n):
        if self.active is not None and not self.active[program]:
            continue
        values = [self.full(o) for o in cmd.operands]
        tiles = [v[program if v.shape[0] > 1 else 0].flatten().tolist() for v in values]
        operands = list(zip((o.type for o in cmd.operands), tiles, strict=True))
        for line in printing.lines(cmd.prefix, place.instance(program), operands, hex=cmd.hex, signed=cmd.signed):
            print(line)


@handles(c.Barrier)
def _barrier(self: Interpreter, cmd: c.Barrier, env: list) -> None:
    """Commands already take effect in program order."""
