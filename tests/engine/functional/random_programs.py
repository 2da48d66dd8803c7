"""Random TilePrograms: every kind of value, element type and most commands, drawn by hypothesis; run on host memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

from mtia.engine.functional.interpreter import Launch
from mtia.engine.functional.memory import Allocation
from mtia.engine.functional.values import TORCH_DTYPE
from mtia.program import commands as c
from mtia.program.program import Parameter, TileProgram
from mtia.program.types import Element, TileType, Value
from mtia.program.verify import verify

I1, I32, I64, F32 = Element.I1, Element.I32, Element.I64, Element.F32
FLOATS = (Element.F32, Element.F64, Element.F16, Element.BF16)
INTEGERS = (Element.I8, Element.I16, Element.I32, Element.I64)
EIGHTS = (Element.F8E4M3, Element.F8E5M2)
FLOAT_BINARY = ("addf", "subf", "mulf", "divf", "maximumf", "minimumf", "maxnumf", "minnumf")
FLOAT_UNARY = (
    "negf absf sqrt rsqrt exp exp2 log log2 log1p expm1 sin cos tanh erf sigmoid floor ceil trunc rint round".split()
)
INTEGER_BINARY = (
    "addi subi muli divsi remsi divui remui floordivsi andi ori xori maxsi minsi maxui minui shli shrsi shrui".split()
)
FLOAT_PREDICATES = "oeq ogt oge olt ole one ueq ugt uge ult ule une ord uno".split()
INTEGER_PREDICATES = "eq ne slt sle sgt sge ult ule ugt uge".split()
REDUCTIONS = {True: ("add", "mul", "max", "min", "max_nan", "min_nan"), False: ("add", "mul", "max", "min")}
SHAPES = ((8,), (64,), (4, 16), (32, 4), (2, 4, 8), (1, 32))


@dataclass
class Draft:
    """A program being written: commands of the innermost open block, counters."""

    blocks: list[list[c.Command]] = field(default_factory=lambda: [[]])
    parameters: list[Parameter] = field(default_factory=list)
    n_values: int = 0
    n_commands: int = 0

    def value(self, type_: TileType) -> Value:
        self.n_values += 1
        return Value(self.n_values - 1, f"v{self.n_values - 1}", type_)

    def parameter(self, type_: TileType) -> Value:
        value = self.value(type_)
        self.parameters.append(Parameter(value=value))
        return value

    def index(self) -> int:
        self.n_commands += 1
        return self.n_commands - 1

    def add(self, cls: type[c.Command], operands: Sequence[Value], *types: TileType, **fields: Any) -> Any:
        """One command; its result, or results."""
        results = tuple(self.value(t) for t in types)
        at = fields.pop("index", None)
        index = self.index() if at is None else at
        self.blocks[-1].append(cls(index=index, operands=tuple(operands), results=results, **fields))
        return results[0] if len(results) == 1 else results

    def open(self) -> None:
        self.blocks.append([])

    def close(self, args: Sequence[Value] = (), yields: Sequence[Value] = ()) -> c.Block:
        return c.Block(commands=tuple(self.blocks.pop()), args=tuple(args), yields=tuple(yields))

    def program(self) -> TileProgram:
        block = c.Block(commands=tuple(self.blocks[0]))
        program = TileProgram(name="random", parameters=tuple(self.parameters), body=block, buffers=())
        verify(program)
        return program

    # --- shorthands ---

    def constant(self, value: Any, type_: TileType) -> Value:
        return self.add(c.Constant, (), type_, value=value)

    def ew(self, op: str, *operands: Value, element: Element | None = None, predicate: str = "") -> Value:
        tile = max(operands, key=lambda o: len(o.type.shape)).type
        type_ = TileType(element, tile.shape) if element else tile
        return self.add(c.Elementwise, operands, type_, op=op, predicate=predicate)

    def splat(self, value: Value, shape: tuple[int, ...]) -> Value:
        return self.add(c.Splat, (value,), value.type.with_shape(shape)) if shape else value

    def offsets(self, shape: tuple[int, ...], strides: Sequence[int]) -> Value:
        """int32 tile: the sum of index * stride over the dims."""
        total = self.constant(0, TileType(I32, shape))
        for d, (n, stride) in enumerate(zip(shape, strides, strict=True)):
            along = self.add(c.Range, (), TileType(I32, (n,)), start=0, end=n)
            for at in range(len(shape)):
                if at != d:
                    shape_so_far = along.type.shape
                    along = self.add(
                        c.ExpandDims, (along,), TileType(I32, (*shape_so_far[:at], 1, *shape_so_far[at:])), dim=at
                    )
            along = self.add(c.Broadcast, (along,), TileType(I32, shape))
            scaled = self.ew("muli", along, self.constant(stride, TileType(I32, shape)))
            total = self.ew("addi", total, scaled)
        return total

    def address(self, pointer: Value, offsets: Value) -> Value:
        spread = self.splat(pointer, offsets.type.shape)
        return self.add(c.Elementwise, (spread, offsets), spread.type, op="addptr")


def row_major(shape: Sequence[int]) -> list[int]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return strides[::-1]


@dataclass
class Memory:
    """Host tensors behind a program's pointer arguments."""

    tensors: list[torch.Tensor] = field(default_factory=list)

    def launch(self, program: TileProgram, scalars: Sequence[Any], n_programs: int) -> Launch:
        pointers = [t.data_ptr() for t in self.tensors]
        spans = [
            Allocation(p, p + t.numel() * t.element_size(), "x") for p, t in zip(pointers, self.tensors, strict=True)
        ]
        arguments = [*pointers, *scalars]
        allocations = [*spans, *(Allocation(0, 0, "?") for _ in scalars)]
        return Launch(program=program, grid=(n_programs, 1, 1), arguments=arguments, allocations=allocations)


def random_tensor(element: Element, n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = TORCH_DTYPE[element]
    if element in EIGHTS:
        codes = torch.randint(0, 256, (n,), generator=generator, dtype=torch.int32).to(torch.uint8)
        return codes.view(dtype)
    if element.is_float:
        x = torch.randn(n, generator=generator, dtype=torch.float64) * 4
        special = torch.randint(0, 40, (n,), generator=generator)
        for at, value in enumerate((0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-42)):
            x = torch.where(special == at, value, x)
        return x.to(dtype)
    info = torch.iinfo(dtype)
    wide = torch.randint(info.min // 2, info.max // 2, (n,), generator=generator, dtype=torch.int64)
    small = torch.randint(-9, 10, (n,), generator=generator)
    return torch.where(torch.rand(n, generator=generator) < 0.5, small, wide).to(dtype)


@dataclass
class Writer:
    """Draws commands onto a draft; `tiles` are the values in reach, all of one shape."""

    draw: Callable[[st.SearchStrategy], Any]
    draft: Draft
    shape: tuple[int, ...]
    tiles: list[Value]
    flags: list[Value] = field(default_factory=list)
    scalars: list[Value] = field(default_factory=list)

    def pick(self, elements: Sequence[Element]) -> Value | None:
        found = [t for t in self.tiles if t.type.element in elements]
        return self.draw(st.sampled_from(found)) if found else None

    def step(self) -> None:
        kinds = [self.float_op, self.integer_op, self.compare, self.choose, self.convert, self.reduce, self.scan]
        kinds += [self.shape_round_trip, self.scalar_op, self.constant, self.gather, self.sort]
        self.draw(st.sampled_from(kinds))()

    def float_op(self) -> None:
        a = self.pick(FLOATS)
        if a is None:
            return
        b = self.pick((a.type.element,))
        assert b is not None
        if self.draw(st.booleans()):
            self.tiles.append(self.draft.ew(self.draw(st.sampled_from(FLOAT_BINARY)), a, b))
        elif self.draw(st.integers(0, 4)) == 0:
            self.tiles.append(self.draft.ew(self.draw(st.sampled_from(("fma", "clampf"))), a, b, a))
        else:
            self.tiles.append(self.draft.ew(self.draw(st.sampled_from(FLOAT_UNARY)), a))

    def integer_op(self) -> None:
        a = self.pick(INTEGERS)
        if a is None:
            return
        b = self.pick((a.type.element,))
        assert b is not None
        op = self.draw(st.sampled_from(INTEGER_BINARY))
        if op in ("shli", "shrsi", "shrui"):
            b = self.draft.ew("andi", b, self.draft.constant(a.type.element.n_bits - 1, a.type))
        self.tiles.append(self.draft.ew(op, a, b))

    def compare(self) -> None:
        a = self.pick((*FLOATS, *INTEGERS))
        if a is None:
            return
        b = self.pick((a.type.element,))
        assert b is not None
        op, predicates = ("cmpf", FLOAT_PREDICATES) if a.type.element.is_float else ("cmpi", INTEGER_PREDICATES)
        self.flags.append(self.draft.ew(op, a, b, element=I1, predicate=self.draw(st.sampled_from(predicates))))
        if len(self.flags) > 1:
            op = self.draw(st.sampled_from(("andi", "ori", "xori")))
            self.flags.append(self.draft.ew(op, *self.flags[-2:]))

    def choose(self) -> None:
        a = self.pick((*FLOATS, *INTEGERS, *EIGHTS))
        if not self.flags or a is None:
            return
        b = self.pick((a.type.element,))
        assert b is not None
        flag = self.draw(st.sampled_from(self.flags))
        self.tiles.append(self.draft.add(c.Elementwise, (flag, a, b), a.type, op="select"))

    def convert(self) -> None:
        a = self.pick((*FLOATS, *INTEGERS, *EIGHTS))
        if a is None:
            return
        target = self.draw(st.sampled_from((*FLOATS, *INTEGERS, *EIGHTS)))
        op = conversion(a.type.element, target, self.draw(st.booleans()))
        if op:
            self.tiles.append(self.draft.add(c.Convert, (a,), TileType(target, self.shape), op=op))

    def constant(self) -> None:
        element = self.draw(st.sampled_from((*FLOATS, *INTEGERS)))
        value = self.draw(st.integers(-5, 5))
        self.tiles.append(
            self.draft.constant(float(value) if element.is_float else value, TileType(element, self.shape))
        )

    def scalar_op(self) -> None:
        if not self.scalars:
            return
        a, b = (self.draw(st.sampled_from(self.scalars)) for _ in range(2))
        op = self.draw(st.sampled_from([o for o in INTEGER_BINARY if not o.startswith("sh")]))
        scalar = self.draft.ew(op, a, b)
        self.scalars.append(scalar)
        self.tiles.append(self.draft.splat(scalar, self.shape))

    def reduce(self) -> None:
        a = self.pick((*FLOATS, I32, I64))
        if a is None:
            return
        dim = self.draw(st.integers(0, len(self.shape) - 1))
        op = self.draw(st.sampled_from((*REDUCTIONS[a.type.element.is_float], "")))
        small = TileType(a.type.element, (*self.shape[:dim], *self.shape[dim + 1 :]))
        index = self.draft.index()
        combine = self.combiner(a.type.element)
        out = self.draft.add(c.Reduce, (a,), small, dim=dim, combine=combine, op=op, index=index)
        self.spread(out, dim)

    def combiner(self, element: Element) -> c.Block:
        """A sum, as the region of a reduction."""
        left, right = (self.draft.value(TileType(element)) for _ in range(2))
        self.draft.open()
        total = self.draft.ew("addf" if element.is_float else "addi", left, right)
        return self.draft.close((left, right), (total,))

    def spread(self, value: Value, dim: int) -> None:
        if not value.type.shape:
            self.tiles.append(self.draft.splat(value, self.shape))
            return
        shape = value.type.shape
        up = self.draft.add(c.ExpandDims, (value,), value.type.with_shape((*shape[:dim], 1, *shape[dim:])), dim=dim)
        self.tiles.append(self.draft.add(c.Broadcast, (up,), value.type.with_shape(self.shape)))

    def scan(self) -> None:
        a = self.pick((F32, Element.F64, I32, I64))
        if a is None:
            return
        dim = self.draw(st.integers(0, len(self.shape) - 1))
        fields = dict(dim=dim, op=self.draw(st.sampled_from(("add", "mul"))), reverse=self.draw(st.booleans()))
        index = self.draft.index()
        combine = self.combiner(a.type.element)
        self.tiles.append(self.draft.add(c.Scan, (a,), a.type, combine=combine, index=index, **fields))

    def sort(self) -> None:
        a = self.pick(INTEGERS)
        if a is not None:
            self.tiles.append(self.draft.add(c.Sort, (a,), a.type, descending=self.draw(st.booleans())))

    def shape_round_trip(self) -> None:
        a = self.pick((*FLOATS, *INTEGERS))
        if a is None:
            return
        element, shape = a.type.element, self.shape
        kind = self.draw(st.sampled_from(("reshape", "transpose", "join", "concat")))
        if kind == "reshape":
            flat = self.draft.add(c.Reshape, (a,), TileType(element, (a.type.n_elements,)))
            self.tiles.append(self.draft.add(c.Reshape, (flat,), a.type))
        elif kind == "transpose" and len(shape) > 1:
            order = tuple(reversed(range(len(shape))))
            turned = self.draft.add(c.Transpose, (a,), TileType(element, shape[::-1]), order=order)
            back = self.draft.add(c.Reshape, (turned,), a.type)  # not the inverse: elements change places
            self.tiles.append(back)
        elif kind == "join":
            b = self.pick((element,))
            assert b is not None
            both = self.draft.add(c.Join, (a, b), TileType(element, (*shape, 2)))
            self.tiles.extend(self.draft.add(c.Split, (both,), a.type, a.type))
        elif kind == "concat":
            b = self.pick((element,))
            assert b is not None
            both = self.draft.add(c.Concat, (a, b), TileType(element, (2 * a.type.shape[0], *shape[1:])))
            parts = self.draft.add(c.Reshape, (both,), TileType(element, (2, *shape)))
            dims = tuple(range(1, len(shape) + 1))
            turned = self.draft.add(c.Transpose, (parts,), TileType(element, (*shape, 2)), order=(*dims, 0))
            self.tiles.append(self.draft.add(c.Split, (turned,), a.type, a.type)[1])

    def gather(self) -> None:
        a, index = self.pick((*FLOATS, *INTEGERS)), self.pick((I32,))
        if a is None or index is None:
            return
        dim = self.draw(st.integers(0, len(self.shape) - 1))
        inside = self.draft.ew("remui", index, self.draft.constant(self.shape[dim], index.type))
        self.tiles.append(self.draft.add(c.Gather, (a, inside), a.type, dim=dim))


def conversion(source: Element, target: Element, signed: bool) -> str:
    if source is target:
        return ""
    if source.is_float and target.is_float:
        return "extf" if target.n_bits > source.n_bits else "truncf"
    if source.is_float:
        return "" if source in EIGHTS else "fptosi"
    if target.is_float:
        return "" if target in EIGHTS else ("sitofp" if signed else "uitofp")
    if target.n_bits < source.n_bits:
        return "trunci"
    return "extsi" if signed else "extui"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit by bit; a NaN equals any NaN."""
    unsigned = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    equal = a.view(unsigned) == b.view(unsigned)
    if a.dtype.is_floating_point:
        equal |= a.to(torch.float32).isnan() & b.to(torch.float32).isnan()
    return bool(equal.all())
