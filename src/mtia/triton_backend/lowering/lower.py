"""TTIR operations to TileProgram commands. One table from operation name to the function that lowers it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from mtia.errors import UnsupportedOperation
from mtia.program import commands as c
from mtia.program.program import Parameter, TileProgram
from mtia.program.types import Element, Location, TileType, Value
from mtia.triton_backend.lowering.buffers import assign_buffers
from mtia.triton_backend.lowering.ttir import TtirBlock, TtirFunction, TtirOp, parse_module, parse_type, split_types

Lowering = Callable[["Lowerer", TtirOp], None]
_TABLE: dict[str, Lowering] = {}
SORT_CALLEE = (
    r"(?:triton\.language\.standard\.sort__i\d+S[\d_]+S_c\w+|mtia\.triton_backend\.language\.sort_tile__i\d+S[\d_]+S)"
    r"_c(?P<descending>True|False|0|1)(?!\w)"
)
"""The names of `tl.sort` and `sort_tile` of a tile of signed integers in TTIR."""


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    def register(function: Lowering) -> Lowering:
        for name in names:
            _TABLE[name] = function
        return function

    return register


def lower_module(text: str, *, num_stages: int) -> TileProgram:
    """TileProgram of the module's kernel. Raises UnsupportedOperation naming the op, the kernel and the line."""
    functions = parse_module(text)
    return Lowerer(functions[0], {f.name: f for f in functions}).program(num_stages)


class Lowerer:
    """Walks one function, keeping the SSA scope and the growing command list of the current block."""

    def __init__(self, function: TtirFunction, functions: dict[str, TtirFunction]) -> None:
        self.function = function
        self.functions = functions
        self.scopes: list[dict[str, Value]] = [{}]
        self.out: list[c.Command] = []
        self.n_values = 0
        self.n_commands = 0
        self.sparse: set[int] = set()  # values said to be 2:4 sparse
        self.lifted: tuple[int, ...] | None = None  # scalars of a mapped function become tiles of this shape
        self.calling: list[str] = []  # functions that are being inlined, outermost first

    def program(self, num_stages: int) -> TileProgram:
        parameters = tuple(
            Parameter(value=self.bind(name, type_), divisibility=divisibility)
            for name, type_, divisibility in self.function.args
        )
        body = c.Block(commands=tuple(self.flow(self.function.blocks, 0)))
        buffers = assign_buffers(body, num_stages)
        return TileProgram(
            name=self.function.name,
            parameters=parameters,
            body=body,
            buffers=buffers,
            num_stages=num_stages,
            location=self.function.location,
        )

    # --- scope ---

    def bind(self, name: str, type_: TileType) -> Value:
        value = Value(self.n_values, name.lstrip("%").replace("#", "."), type_)
        self.n_values += 1
        self.scopes[-1][name] = value
        return value

    def use(self, name: str) -> Value:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise UnsupportedOperation(
            f"value {name}",
            kernel=self.function.name,
            line=str(self.function.location),
            detail="the TTIR text names a value that is not defined before it",
        )

    def next_index(self) -> int:
        self.n_commands += 1
        return self.n_commands - 1

    # --- blocks ---

    def flow(self, blocks: list[TtirBlock], at: int) -> list[c.Command]:
        """Commands of block `at` and of what follows it: `cf` branches become If, an early return ends a branch."""
        saved, self.out = self.out, []
        for op in blocks[at].ops:
            if op.name in ("cf.br", "cf.cond_br"):
                self.branch(op, blocks)
            else:
                self.lower(op)
        result, self.out = self.out, saved
        return result

    def branch(self, op: TtirOp, blocks: list[TtirBlock]) -> None:
        labels = {b.label: i for i, b in enumerate(blocks)}
        targets = re.findall(r"(\^\w+)(?:\(([^)]*)\))?", op.text)
        if any(labels[label] <= labels.get(_owner(blocks, op), -1) for label, _ in targets):
            self.unsupported(op, "a backward `cf` branch (a loop that is not scf)")
        if op.name == "cf.br":
            self.out += self.jump(blocks, labels[targets[0][0]], targets[0][1])
            return
        index = self.next_index()
        condition = self.use(op.operands[0])
        then, otherwise = (c.Block(commands=tuple(self.jump(blocks, labels[label], args))) for label, args in targets)
        self.out.append(c.If(index=index, operands=(condition,), then=then, otherwise=otherwise, location=op.location))

    def jump(self, blocks: list[TtirBlock], at: int, args_text: str) -> list[c.Command]:
        values = [self.use(v) for v in re.findall(r"%[A-Za-z0-9_.$-]+(?:#\d+)?", args_text or "")]
        self.scopes.append({name: value for (name, _), value in zip(blocks[at].args, values, strict=True)})
        commands = self.flow(blocks, at)
        self.scopes.pop()
        return commands

    def block(self, block: TtirBlock, arg_names: list[str], arg_types: list[TileType]) -> c.Block:
        """One region's single block. Its terminator's operands become `yields`."""
        self.scopes.append({})
        saved, self.out = self.out, []
        args = tuple(self.bind(name, type_) for name, type_ in zip(arg_names, arg_types, strict=True))
        yields: tuple[Value, ...] = ()
        for op in block.ops:
            if op.name in ("scf.yield", "tt.reduce.return", "tt.scan.return", "scf.condition"):
                yields = tuple(self.use(v) for v in op.operands)
            else:
                self.lower(op)
        result = c.Block(commands=tuple(self.out), args=args, yields=yields)
        self.out = saved
        self.scopes.pop()
        return result

    # --- operations ---

    def lower(self, op: TtirOp) -> None:
        if op.name in _TABLE:
            _TABLE[op.name](self, op)
        elif op.name.split(".", 1)[0] in ("arith", "math"):
            lower_elementwise(self, op)
        else:
            self.unsupported(op, "")

    def unsupported(self, op: TtirOp, detail: str) -> None:
        raise UnsupportedOperation(op.name, kernel=self.function.name, line=str(op.location), detail=detail)

    def emit(
        self,
        cls: type[c.Command],
        source: TtirOp,
        operands: tuple[Value, ...],
        types: list[TileType],
        index: int | None = None,
        **fields: object,
    ) -> None:
        if index is None:
            index = self.next_index()
        if self.lifted is not None:
            types = [TileType(t.element, self.lifted, t.pointee) for t in types]
        results = tuple(self.bind(name, type_) for name, type_ in zip(source.results, types, strict=True))
        self.out.append(cls(index=index, operands=operands, results=results, location=source.location, **fields))

    def fresh(self, name: str, type_: TileType) -> Value:
        """A value that the TTIR text has no name for."""
        value = Value(self.n_values, f"{name}{self.n_values}", type_)
        self.n_values += 1
        return value

    def ones(self, op: TtirOp, lines: tuple[int, ...]) -> Value:
        """The scales of an operand that has none: one a line, 2 to the power 127 - 127."""
        one = self.fresh("one", TileType(Element.I8, (*lines, 1)))
        self.out.append(c.Constant(index=self.next_index(), results=(one,), value=127, location=op.location))
        return one

    def values(self, op: TtirOp) -> tuple[Value, ...]:
        return tuple(self.use(v) for v in op.operands)


def _owner(blocks: list[TtirBlock], op: TtirOp) -> str:
    return next(b.label for b in blocks if op in b.ops)


# --- values and shapes ------------------------------------------------------------------------------------------------


@lowers("arith.constant")
def lower_constant(self: Lowerer, op: TtirOp) -> None:
    if not op.types:  # `arith.constant true`
        self.emit(c.Constant, op, (), [TileType(Element.I1)], value=int(op.text.split()[0] == "true"))
        return
    type_ = parse_type(op.types)
    text = op.text.removeprefix("dense<").removesuffix(">") if op.text.startswith("dense<") else op.text
    if text.startswith("["):
        value = tuple(_number(t, type_.element) for t in re.findall(r"[^\s\[\],]+", text))
    else:
        value = _number(text, type_.element)
    self.emit(c.Constant, op, (), [type_], value=value)


def _number(text: str, element: Element) -> int | float:
    text = text.strip().strip('"')
    if text in ("true", "false"):
        return int(text == "true")
    if not element.is_float:
        return int(text, 0)
    return _float_of_bits(int(text, 16), element) if text.startswith("0x") else float(text)


def _float_of_bits(bits: int, element: Element) -> float:
    """MLIR prints infinities and NaN as their bit pattern."""
    if element is Element.F64:
        return struct.unpack("<d", bits.to_bytes(8, "little"))[0]
    if element is Element.F16:
        return struct.unpack("<e", bits.to_bytes(2, "little"))[0]
    if element in (Element.F8E4M3, Element.F8E5M2):
        is_nan = (bits & 0x7F) == 0x7F if element is Element.F8E4M3 else (bits & 0x7F) > 0x7C
        magnitude = float("nan") if is_nan else float("inf")
        return -magnitude if bits & 0x80 else magnitude
    return struct.unpack("<f", (bits << 16 if element is Element.BF16 else bits).to_bytes(4, "little"))[0]


@lowers("tt.get_program_id")
def lower_program_id(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.ProgramId, op, (), [TileType(Element.I32)], axis="xyz".index(op.text[0]))


@lowers("tt.get_num_programs")
def lower_num_programs(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.NumPrograms, op, (), [TileType(Element.I32)], axis="xyz".index(op.text[0]))


@lowers("tt.make_range")
def lower_range(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Range, op, (), [parse_type(op.types)], start=op.int_attribute("start"), end=op.int_attribute("end"))


def _arrow_type(op: TtirOp) -> TileType:
    return parse_type(op.types.rsplit("->", 1)[1])


@lowers("tt.splat", "tt.unsplat")
def lower_splat(self: Lowerer, op: TtirOp) -> None:
    if op.name == "tt.splat":
        self.emit(c.Splat, op, self.values(op), [_arrow_type(op)])
    else:
        tile = parse_type(op.types)
        self.emit(c.Reshape, op, self.values(op), [TileType(tile.element, (), tile.pointee)])


@lowers("tt.broadcast")
def lower_broadcast(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Broadcast, op, self.values(op), [_arrow_type(op)])


@lowers("tt.reshape")
def lower_reshape(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Reshape, op, self.values(op), [_arrow_type(op)])


@lowers("tt.expand_dims")
def lower_expand_dims(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.ExpandDims, op, self.values(op), [_arrow_type(op)], dim=op.int_attribute("axis"))


@lowers("tt.trans")
def lower_transpose(self: Lowerer, op: TtirOp) -> None:
    match = re.search(r"order = array<i32: ([\d, ]+)>", op.text)
    assert match is not None
    self.emit(c.Transpose, op, self.values(op), [_arrow_type(op)], order=tuple(map(int, match.group(1).split(","))))


@lowers("tt.join")
def lower_join(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Join, op, self.values(op), [_arrow_type(op)])


@lowers("tt.split")
def lower_split(self: Lowerer, op: TtirOp) -> None:
    type_ = _arrow_type(op)
    self.emit(c.Split, op, self.values(op), [type_, type_])


@lowers("tt.cat")
def lower_cat(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Concat, op, self.values(op), [_arrow_type(op)])


@lowers("tt.gather")
def lower_gather(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Gather, op, self.values(op), [_arrow_type(op)], dim=op.int_attribute("axis"))


@lowers("tt.histogram")
def lower_histogram(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Histogram, op, self.values(op), [_arrow_type(op)])


# --- element-wise -----------------------------------------------------------------------------------------------------

_CONVERSIONS = {
    "arith.extf",
    "arith.truncf",
    "arith.fptosi",
    "arith.fptoui",
    "arith.sitofp",
    "arith.uitofp",
    "arith.extsi",
    "arith.extui",
    "arith.trunci",
    "arith.bitcast",
    "arith.index_cast",
    "arith.index_castui",
    "tt.bitcast",
    "tt.fp_to_fp",
    "tt.ptr_to_int",
    "tt.int_to_ptr",
}


@lowers(*_CONVERSIONS)
def lower_convert(self: Lowerer, op: TtirOp) -> None:
    target = re.split(r" to |->", op.types)[-1]
    rounding = op.attribute("rounding") or ("rtz" if "rtz" in op.text else "rtne")
    self.emit(c.Convert, op, self.values(op), [parse_type(target)], op=op.name.split(".")[1], rounding=rounding)


def lower_elementwise(self: Lowerer, op: TtirOp) -> None:
    """arith and math operations whose operands and results have one type."""
    type_ = parse_type(op.types.split("->")[-1].split(",")[0])
    self.emit(c.Elementwise, op, self.values(op), [type_] * len(op.results), op=op.name.split(".")[1])


@lowers("arith.cmpi", "arith.cmpf")
def lower_compare(self: Lowerer, op: TtirOp) -> None:
    operand = parse_type(op.types)
    self.emit(
        c.Elementwise,
        op,
        self.values(op),
        [TileType(Element.I1, operand.shape)],
        op=op.name.split(".")[1],
        predicate=op.text.split(",")[0].strip(),
    )


@lowers("arith.select")
def lower_select(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Elementwise, op, self.values(op), [split_types(op.types)[-1]], op="select")


@lowers("arith.mulsi_extended", "arith.mului_extended", "arith.addui_extended")
def lower_extended(self: Lowerer, op: TtirOp) -> None:
    self.unsupported(op, "two-result integer arithmetic")


@lowers("tt.addptr")
def lower_addptr(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Elementwise, op, self.values(op), [split_types(op.types)[0]], op="addptr")


@lowers("tt.mulhiui", "tt.precise_sqrt", "tt.precise_divf", "tt.clampf")
def lower_tt_elementwise(self: Lowerer, op: TtirOp) -> None:
    propagates = "_nan" if op.name == "tt.clampf" and "propagateNan = all" in op.text else ""
    type_ = parse_type(op.types.split("->")[-1].split(",")[0])
    self.emit(c.Elementwise, op, self.values(op), [type_], op=op.name.split(".")[1] + propagates)


@lowers("tt.extern_elementwise")
def lower_extern(self: Lowerer, op: TtirOp) -> None:
    symbol = re.search(r'symbol = "([^"]*)"', op.text)
    assert symbol is not None
    name = symbol.group(1)
    if not name.startswith("mtia_"):
        self.unsupported(op, f"external function {name!r}; use triton.language.extra.libdevice")
    if name == "mtia_sparse_2_4":
        (operand,) = self.values(op)
        self.scopes[-1][op.results[0]] = operand
        self.sparse.add(operand.id)
        return
    self.emit(c.Elementwise, op, self.values(op), [_arrow_type(op)], op=name.removeprefix("mtia_"))


# --- reductions, dot --------------------------------------------------------------------------------------------------


def _combiner(self: Lowerer, op: TtirOp) -> tuple[c.Block, str]:
    block = op.regions[0][0]
    combine = self.block(block, [name for name, _ in block.args], [type_ for _, type_ in block.args])
    return combine, _combiner_name(combine)


_COMBINERS = {
    "addf": "add",
    "addi": "add",
    "mulf": "mul",
    "muli": "mul",
    "maxnumf": "max",
    "maximumf": "max_nan",
    "minnumf": "min",
    "minimumf": "min_nan",
    "maxsi": "max",
    "minsi": "min",
    "andi": "and",
    "ori": "or",
    "xori": "xor",
    "maxui": "umax",
    "minui": "umin",
}


def _combiner_name(block: c.Block) -> str:
    """The known combiner of a region over its two arguments, else ""."""
    if len(block.commands) == 4:
        return _nan_keeping_extreme(block)
    if len(block.commands) != 1 or not isinstance(block.commands[0], c.Elementwise):
        return ""
    command = block.commands[0]
    if {v.id for v in command.operands} != {v.id for v in block.args} or block.yields != command.results:
        return ""
    return _COMBINERS.get(command.op, "")


def _nan_keeping_extreme(block: c.Block) -> str:
    """Inductor's maximum and minimum: select((a > b) | (a != a), a, b)."""
    a, b = (v.id for v in block.args) if len(block.args) == 2 else (-1, -1)
    reads = [[v.id for v in command.operands] for command in block.commands]
    makes = [[v.id for v in command.results] for command in block.commands]
    compares = [getattr(command, "predicate", "") for command in block.commands[:2]]
    shape = [getattr(command, "op", "") for command in block.commands]
    if shape != ["cmpf", "cmpf", "ori", "select"] or compares[1] != "une" or block.yields != block.commands[3].results:
        return ""
    if reads != [[a, b], [a, a], [*makes[0], *makes[1]], [*makes[2], a, b]]:
        return ""
    return {"ogt": "max_nan", "olt": "min_nan"}.get(compares[0], "")


def _result_types(op: TtirOp) -> list[TileType]:
    text = op.types.rsplit("->", 1)[1].strip()
    return split_types(text[1:-1] if text.startswith("(") else text)


@lowers("tt.reduce")
def lower_reduce(self: Lowerer, op: TtirOp) -> None:
    operands, index = self.values(op), self.next_index()
    combine, name = _combiner(self, op)
    self.emit(c.Reduce, op, operands, _result_types(op), index, dim=op.int_attribute("axis"), combine=combine, op=name)


@lowers("tt.scan")
def lower_scan(self: Lowerer, op: TtirOp) -> None:
    operands, index = self.values(op), self.next_index()
    combine, name = _combiner(self, op)
    self.emit(
        c.Scan,
        op,
        operands,
        _result_types(op),
        index,
        dim=op.int_attribute("axis"),
        combine=combine,
        op=name,
        reverse=op.attribute("reverse") == "true",
    )


@lowers("tt.dot")
def lower_dot(self: Lowerer, op: TtirOp) -> None:
    precision = op.attribute("inputPrecision") or "ieee"
    operands = self.values(op)
    sparse = operands[1].id in self.sparse
    self.emit(c.MatMul, op, operands, [_arrow_type(op)], precision=precision, sparse=sparse)


@lowers("tt.dot_scaled")
def lower_dot_scaled(self: Lowerer, op: TtirOp) -> None:
    formats = [re.search(rf"\b{side} = (\w+)", op.text) for side in ("lhs", "rhs")]
    operands = re.match(r"(%\S+)(?: scale (%[^\s,]+))?, (%\S+)(?: scale (%[^\s,]+))?, (%[^\s,]+)", op.text)
    if operands is None or None in formats:
        self.unsupported(op, f"operands and formats cannot be read from {op.text!r}")
        return
    a_format, b_format = (match[1] for match in formats if match)
    a, a_scale, b, b_scale, accumulator = (self.use(name) if name else None for name in operands.groups())
    assert a is not None and b is not None and accumulator is not None
    rows, columns = a.type.shape[:-1], (*b.type.shape[:-2], b.type.shape[-1])
    self.emit(
        c.ScaledMatMul,
        op,
        (a, a_scale or self.ones(op, rows), b, b_scale or self.ones(op, columns), accumulator),
        [_arrow_type(op)],
        a_format=a_format,
        b_format=b_format,
    )


# --- memory -----------------------------------------------------------------------------------------------------------


@lowers("tt.load")
def lower_load(self: Lowerer, op: TtirOp) -> None:
    operands = self.values(op)
    pointer = operands[0].type
    assert pointer.pointee is not None
    self.emit(
        c.Load,
        op,
        operands,
        [TileType(pointer.pointee, pointer.shape)],
        has_mask=len(operands) > 1,
        has_other=len(operands) > 2,
    )


@lowers("tt.store")
def lower_store(self: Lowerer, op: TtirOp) -> None:
    operands = self.values(op)
    self.emit(c.Store, op, operands, [], has_mask=len(operands) > 2)


@lowers("tt.atomic_rmw")
def lower_atomic_rmw(self: Lowerer, op: TtirOp) -> None:
    operands = self.values(op)
    how, sem = (word.strip() for word in op.text.split(",")[:2])  # "fadd, acq_rel, gpu, %pointer, %value"
    self.emit(
        c.AtomicRmw, op, operands, [_arrow_type(op)][: len(op.results)], op=how, sem=sem, has_mask=len(operands) > 2
    )


@lowers("tt.atomic_cas")
def lower_atomic_cas(self: Lowerer, op: TtirOp) -> None:
    sem = op.text.split(",")[0].strip()
    self.emit(c.AtomicCas, op, self.values(op), [_arrow_type(op)][: len(op.results)], sem=sem)


@lowers("tt.atomic_poll")
def lower_atomic_poll(self: Lowerer, op: TtirOp) -> None:
    """Compare and exchange of the expected value with itself, until it is what was there."""
    operands = self.values(op)
    if len(operands) != 2 or operands[0].type.shape:
        self.unsupported(op, "a poll of several addresses, or with a time limit; poll one address without one")
    pointer, expected = operands
    index, where = self.next_index(), op.location
    seen, differs = self.fresh("seen", expected.type), self.fresh("differs", TileType(Element.I1))
    look = c.AtomicCas(
        index=self.next_index(),
        operands=(pointer, expected, expected),
        results=(seen,),
        sem=op.text.split(",")[0].strip(),
        location=where,
    )
    compare = c.Elementwise(
        index=self.next_index(),
        operands=(seen, expected),
        results=(differs,),
        op="cmpi",
        predicate="ne",
        location=where,
    )
    before = c.Block(commands=(look, compare), yields=(differs,))
    self.out.append(
        c.While(index=index, operands=(), results=(), before=before, after=c.Block(commands=()), location=where)
    )
    self.emit(c.Constant, op, (), [TileType(Element.I1)], value=1)


# --- control ----------------------------------------------------------------------------------------------------------


@lowers("scf.for")
def lower_for(self: Lowerer, op: TtirOp) -> None:
    match = re.match(r"(?:unsigned )?(%\S+) = (%\S+) to (%\S+) step (%\S+)(?: iter_args\((.*?)\) -> .*)?", op.text)
    assert match is not None, op.text
    variable, lower, upper, step, carried = match.groups()
    pairs = re.findall(r"(%\S+) = (%[^\s,)]+)", carried or "")
    initial = tuple(self.use(v) for _, v in pairs)
    bounds = tuple(self.use(v) for v in (lower, upper, step))
    index = self.next_index()
    types = [v.type for v in initial]
    body = self.block(op.regions[0][0], [variable, *(name for name, _ in pairs)], [bounds[0].type, *types])
    results = tuple(self.bind(name, type_) for name, type_ in zip(op.results, types, strict=True))
    self.out.append(c.For(index=index, operands=(*bounds, *initial), results=results, body=body, location=op.location))


@lowers("scf.while")
def lower_while(self: Lowerer, op: TtirOp) -> None:
    pairs = re.findall(r"(%\S+) = (%[^\s,)]+)", op.text)
    initial = tuple(self.use(v) for _, v in pairs)
    index = self.next_index()
    before = self.block(op.regions[0][0], [name for name, _ in pairs], [v.type for v in initial])
    after_block = op.regions[1][0]
    after = self.block(after_block, [name for name, _ in after_block.args], [type_ for _, type_ in after_block.args])
    results = tuple(self.bind(name, v.type) for name, v in zip(op.results, before.yields[1:], strict=True))
    self.out.append(
        c.While(index=index, operands=initial, results=results, before=before, after=after, location=op.location)
    )


@lowers("scf.if")
def lower_if(self: Lowerer, op: TtirOp) -> None:
    condition = self.use(op.operands[0])
    index = self.next_index()
    branches = [self.block(region[0], [], []) for region in op.regions]
    then, otherwise = branches if len(branches) == 2 else (branches[0], c.Block(commands=()))
    results = tuple(self.bind(name, v.type) for name, v in zip(op.results, then.yields, strict=True))
    self.out.append(
        c.If(index=index, operands=(condition,), results=results, then=then, otherwise=otherwise, location=op.location)
    )


@lowers("tt.return")
def lower_return(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Return, op, (), [])


@lowers("tt.call")
def lower_call(self: Lowerer, op: TtirOp) -> None:
    """A call of a `noinline` function. Inlined: a program is one list of commands, without a stack. A sort of integers
    (compiler.keep_sorts) is a command."""
    if sort := re.match(rf"@{SORT_CALLEE}", op.text):
        self.emit(c.Sort, op, self.values(op), [_arrow_type(op)], descending=sort["descending"] in ("True", "1"))
        return
    match = re.match(r"@([\w.$]+)\(", op.text)
    callee = self.functions.get(match.group(1)) if match else None
    if callee is None:
        self.unsupported(op, "a call of a function that the module does not define")
        return
    if callee.name in self.calling:
        self.unsupported(op, f"recursion: {callee.name} calls itself")
    if len(callee.blocks) > 1:
        self.unsupported(
            op, f"{callee.name} is `noinline` and returns early; return once, at its end, or let it be inlined"
        )
    arguments = self.values(op)
    self.calling.append(callee.name)
    self.scopes.append({name: v for (name, _, _), v in zip(callee.args, arguments, strict=True)})
    returned: tuple[Value, ...] = ()
    for inner in callee.blocks[0].ops:
        if inner.name == "tt.return":
            returned = self.values(inner)
        else:
            self.lower(inner)
    self.scopes.pop()
    self.calling.pop()
    self.scopes[-1].update(zip(op.results, returned, strict=True))


@lowers("tt.assert")
def lower_assert(self: Lowerer, op: TtirOp) -> None:
    message = re.search(r'"((?:[^"\\]|\\.)*)"', op.text)
    self.emit(c.Assert, op, self.values(op), [], message=message.group(1) if message else "")


@lowers("tt.print")
def lower_print(self: Lowerer, op: TtirOp) -> None:
    prefix = re.search(r'"((?:[^"\\]|\\.)*)"', op.text)
    signs = re.search(r"isSigned = array<i32(?:: ([\d, ]*))?>", op.text)
    signed = tuple(s.strip() == "1" for s in (signs.group(1) or "").split(",") if s.strip()) if signs else ()
    self.emit(
        c.Print,
        op,
        self.values(op),
        [],
        prefix=prefix.group(1) if prefix else "",
        hex=op.attribute("hex") == "true",
        signed=signed,
    )


@lowers("ttg.barrier", "gpu.barrier", "tt.debug_barrier")
def lower_barrier(self: Lowerer, op: TtirOp) -> None:
    self.emit(c.Barrier, op, (), [])


@lowers("llvm.intr.assume")
def lower_assume(self: Lowerer, op: TtirOp) -> None:
    """A hint to the optimiser: nothing to do."""


@lowers("tt.map_elementwise")
def lower_map_elementwise(self: Lowerer, op: TtirOp) -> None:
    """The mapped function's own operations, on whole tiles."""
    block, pack = op.regions[0][0], op.int_attribute("pack")
    if pack != 1:
        self.unsupported(op, f"{pack} elements a call (pack); use pack=1")
    branching = next((inner for inner in block.ops if inner.regions), None)
    if branching is not None:
        self.unsupported(branching, "inside tl.map_elementwise; use tl.where")
    operands = self.values(op)
    self.scopes.append({name: value for (name, _), value in zip(block.args, operands, strict=True)})
    self.lifted, returned = operands[0].type.shape, ()
    for inner in block.ops:
        if inner.name == "tt.map_elementwise.return":
            returned = self.values(inner)
        else:
            self.lower(inner)
    self.lifted = None
    self.scopes.pop()
    self.scopes[-1].update(zip(op.results, returned, strict=True))


@lowers("ub.poison")
def lower_poison(self: Lowerer, op: TtirOp) -> None:
    type_ = parse_type(op.types)
    self.emit(c.Constant, op, (), [type_], value=0.0 if type_.element.is_float else 0)


__all__ = ["Location", "lower_module"]
