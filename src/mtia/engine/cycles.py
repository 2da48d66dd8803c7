"""What each command costs on the engines of one PE, in cycles: one rule per command class.

A rule reads the command and the ChipSpec, never values or sizes of the grid.  `FREE` commands cost nothing by
themselves: descriptors (splat, broadcast, expand_dims, reshape of a row-major tile), constants, program ids; memory
commands are the memory model's (engine/schedule.py, csrc/timing.cpp).  Sources: facts 2.2, 3.2, 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, isqrt, prod

from mtia.chips.multiply import MultiplyPath, multiply_path
from mtia.chips.spec import ChipSpec
from mtia.errors import UnsupportedDtype
from mtia.program import commands as c
from mtia.program.commands import Command, Unit
from mtia.program.types import Element, TileType
from mtia.units import ceil_div

# Arithmetic that an ALU does in one pass; every other element-wise function goes through tables.
ALU_OPS = frozenset((
    "addf", "subf", "mulf", "negf", "absf", "maximumf", "minimumf", "maxnumf", "minnumf", "fma", "clampf",
    "clampf_nan", "select", "cmpf", "floor", "ceil", "trunc", "addi", "subi", "muli", "andi", "ori", "xori", "shli",
    "shrsi", "shrui", "maxsi", "minsi", "maxui", "minui", "cmpi", "absi", "mulhiui", "addptr",
))  # fmt: skip
EXPONENTIALS = frozenset(("exp", "exp2"))  # of softmax, attention and the gates of a feed-forward
SPARSE_PLACE_BYTES = 1 / 8  # two places of two bits for four elements
SPLIT_PASSES = {"bf16x3": ("bf16", 3), "bf16x6": ("bf16", 6), "tf32x3": ("tf32", 3)}

_DTYPES = {
    Element.I1: "int8",
    Element.I8: "int8",
    Element.F8E4M3: "fp8",
    Element.F8E5M2: "fp8",
    Element.F16: "fp16",
    Element.BF16: "bf16",
    Element.F32: "fp32",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Work of one execution. `cycles` by engine; those of one command follow each other, except vector and SFU."""

    unit: Unit
    cycles: float
    mlu_cycles: float = 0.0
    vector_cycles: float = 0.0  # beside those of `unit`
    mac: int = 0  # executed, padding to whole blocks and passes included
    live_mac: int = 0  # of them without that padding, which is multiplied as zeros
    flop: int = 0  # asked for: 2 m n k
    dtype: str = ""
    vector_ops: int = 0
    local_bytes: int = 0  # moved between an engine and local memory beyond operands and results
    fill_cycles: float = 0.0  # of `cycles`
    chain_cycles: float = 0.0  # between its first and last result where nothing else is on the engine
    groups: bool = False  # strip-mined with its neighbours on the vector and special function engines


FREE: Cost | None = None
Rule = Callable[[Command, ChipSpec], Cost | None]
RULES: dict[type[Command], Rule] = {}


def rule(*classes: type[Command]) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for cls in classes:
            RULES[cls] = function
        return function

    return register


def latency_cycles(cost: Cost, n_programs: int) -> float:
    """From when the engine is free again to when the result is there, a share of it where so many programs of a PE take
    turns: the time that one waits is the others'."""
    return max(0.0, cost.fill_cycles + cost.chain_cycles / n_programs - cost.cycles)


def cost_of(command: Command, spec: ChipSpec) -> Cost | None:
    """Cost of one execution, None where the command costs nothing by itself."""
    return RULES[type(command)](command, spec)


def dtype_of(element: Element) -> str:
    """The name of an element type in a chip file's tables."""
    return _DTYPES.get(element, element.label)


# --- engines ----------------------------------------------------------------------------------------------------------


def engine_of(element: Element, spec: ChipSpec, *, table: bool) -> tuple[Unit, float]:
    """The faster engine for one element-wise pass over `element`, and its elements per cycle.

    The SFU where it has the type (tables are the SFU's alone); the vector cores else, by their width.
    """
    vector_rate = spec.pe.cores.vector_cores * spec.pe.cores.vector_bytes_per_cycle / element.n_bytes
    sfu_rate = spec.pe.sfu.elements_per_cycle.get(dtype_of(element), 0)
    if table:
        return Unit.SFU, float(spec.pe.sfu.lut_elements_per_cycle)
    return (Unit.SFU, float(sfu_rate)) if sfu_rate >= vector_rate else (Unit.VECTOR, float(vector_rate))


def _elementwise(
    n_elements: int,
    element: Element,
    spec: ChipSpec,
    *,
    table: bool = False,
    passes: float = 1.0,
    mlu_cycles: float = 0.0,
) -> Cost:
    unit, rate = engine_of(element, spec, table=table)
    cycles = spec.pe.sfu.startup_cycles + passes * n_elements / rate
    return Cost(unit=unit, cycles=cycles, mlu_cycles=mlu_cycles, vector_ops=int(passes * n_elements), groups=True)


def _scalar() -> Cost:
    return Cost(unit=Unit.CORE, cycles=1.0)


def _wider(command: Command) -> TileType:
    """The operand or result type with the most bytes: it sets the pace."""
    return max((v.type for v in (*command.operands, *command.results)), key=lambda t: (t.n_elements, t.element.n_bytes))


# --- rules ------------------------------------------------------------------------------------------------------------


@rule(
    c.Constant,
    c.ProgramId,
    c.NumPrograms,
    c.Splat,
    c.ExpandDims,
    c.Broadcast,
    c.Reshape,
    c.For,
    c.While,
    c.If,
    c.Return,
    c.Assert,
    c.Print,
)
def _nothing(command: Command, spec: ChipSpec) -> Cost | None:
    return FREE


@rule(c.Load, c.Store, c.AtomicRmw, c.AtomicCas)
def _memory(command: Command, spec: ChipSpec) -> Cost | None:
    return FREE  # the memory model's


@rule(c.Barrier)
def _barrier(command: Command, spec: ChipSpec) -> Cost:
    return Cost(unit=Unit.CORE, cycles=float(spec.pe.cores.scalar_issue_cycles))


@rule(c.Range)
def _range(command: Command, spec: ChipSpec) -> Cost:
    return _elementwise(command.result.type.n_elements, command.result.type.element, spec)


@rule(c.Elementwise)
def _ew(command: Command, spec: ChipSpec) -> Cost:
    assert isinstance(command, c.Elementwise)
    type_ = _wider(command)
    if type_.is_scalar:
        return _scalar()
    if command.op in EXPONENTIALS and spec.pe.sfu.exp_elements_per_cycle:
        passes = spec.pe.sfu.lut_elements_per_cycle / spec.pe.sfu.exp_elements_per_cycle
        return _elementwise(type_.n_elements, type_.element, spec, table=True, passes=passes)
    return _elementwise(type_.n_elements, type_.element, spec, table=command.op not in ALU_OPS)


@rule(c.Convert)
def _convert(command: Command, spec: ChipSpec) -> Cost | None:
    assert isinstance(command, c.Convert)
    type_ = _wider(command)
    if type_.is_scalar:
        return _scalar()
    if command.op in ("bitcast", "ptr_to_int", "int_to_ptr"):
        return FREE
    if spec.pe.sfu.free_conversion and all(v.type.element.is_float for v in (*command.operands, *command.results)):
        return FREE
    return _elementwise(type_.n_elements, type_.element, spec)


@rule(c.Transpose, c.Join, c.Split, c.Concat)
def _layout(command: Command, spec: ChipSpec) -> Cost:
    n_bytes = _wider(command).n_bytes
    return Cost(unit=Unit.MLU, cycles=n_bytes / spec.pe.mlu_bytes_per_cycle, local_bytes=2 * n_bytes)


@rule(c.Gather)
def _gather(command: Command, spec: ChipSpec) -> Cost:
    n = command.result.type.n_elements
    cycles = spec.pe.sfu.startup_cycles + n / spec.pe.sfu.gather_elements_per_cycle
    return Cost(unit=Unit.SFU, cycles=cycles, vector_ops=n, groups=True)


@rule(c.Histogram)
def _histogram(command: Command, spec: ChipSpec) -> Cost:
    """One element at a time and vector core: a read, an add, a write to a counter."""
    n = command.operands[0].type.n_elements
    return Cost(unit=Unit.VECTOR, cycles=n / spec.pe.cores.vector_cores, vector_ops=n, groups=True)


RADIX_BITS = 8  # of one pass of a radix sort
EXCHANGE_PASSES = 5  # of a step of the network that Triton writes: sum of a pair, exclusive or, compare, flip, select


@rule(c.Sort)
def _sort(command: Command, spec: ChipSpec) -> Cost:
    """A radix sort over local memory where the chip has one, a pass per digit (facts 4.2); else a bitonic network on
    the element-wise engines, each step `EXCHANGE_PASSES` over the tile."""
    type_ = command.result.type
    n, keys_per_cycle = type_.n_elements, spec.pe.sfu.radix_sort_elements_per_cycle
    if keys_per_cycle is None:
        stages = max(1, type_.shape[-1] - 1).bit_length()
        return _elementwise(n, type_.element, spec, passes=EXCHANGE_PASSES * stages * (stages + 1) / 2)
    digits = ceil(8 * type_.element.n_bytes / RADIX_BITS)
    cycles = spec.pe.sfu.startup_cycles + digits * n / keys_per_cycle
    return Cost(unit=Unit.SFU, cycles=cycles, vector_ops=digits * n, local_bytes=2 * digits * type_.n_bytes)


@rule(c.Reduce)
def _reduce(command: Command, spec: ChipSpec) -> Cost:
    """One pass over the tile, once per command of the combiner. Where the engines only reduce vertically, rows are
    folded to one engine width, and what is left of each is transposed by the MLU and reduced (facts 3.3, 4.2)."""
    assert isinstance(command, c.Reduce)
    type_ = max((v.type for v in command.operands), key=lambda t: t.element.n_bytes)
    passes = _combiner_passes(command.combine) * len(command.operands)
    left, mlu_cycles = _across(type_, command.dim, spec)
    return _elementwise(type_.n_elements + left, type_.element, spec, passes=passes, mlu_cycles=mlu_cycles)


@rule(c.Scan)
def _scan(command: Command, spec: ChipSpec) -> Cost:
    """As a reduction; along the last dim the tile is transposed there and back where there is no horizontal path."""
    assert isinstance(command, c.Scan)
    type_ = max((v.type for v in command.operands), key=lambda t: t.element.n_bytes)
    passes = _combiner_passes(command.combine) * len(command.operands)
    last = command.dim % len(type_.shape) == len(type_.shape) - 1
    mlu_cycles = 0.0
    if last and not spec.pe.sfu.horizontal_reduction:
        mlu_cycles = 2 * type_.n_bytes / spec.pe.mlu_bytes_per_cycle
    if len(type_.shape) == 1:  # a carry runs through the strips: log2 steps inside each
        _, rate = engine_of(type_.element, spec, table=False)
        passes *= max(1, ceil(rate).bit_length() - 1)
    return _elementwise(type_.n_elements, type_.element, spec, passes=passes, mlu_cycles=mlu_cycles)


def _combiner_passes(block: c.Block) -> int:
    return max(1, sum(isinstance(command, c.Elementwise | c.Convert) for command in block.commands))


def _across(type_: TileType, dim: int, spec: ChipSpec) -> tuple[int, float]:
    """Elements left to reduce after the vertical part of a reduction along the last dim, and cycles to turn them."""
    if dim % len(type_.shape) != len(type_.shape) - 1 or spec.pe.sfu.horizontal_reduction:
        return 0, 0.0
    _, rate = engine_of(type_.element, spec, table=False)
    left = prod(type_.shape[:-1]) * min(type_.shape[-1], ceil(rate))
    return left, left * type_.element.n_bytes / spec.pe.mlu_bytes_per_cycle


# --- dot product ------------------------------------------------------------------------------------------------------


@rule(c.MatMul)
def _matmul(command: Command, spec: ChipSpec) -> Cost:
    assert isinstance(command, c.MatMul)
    dtype, passes = _matmul_dtype(command, spec)
    converted = dtype_of(command.operands[0].type.element) in _HOLDS and dtype in ("fp16", "bf16")
    return _dot(command, dtype, passes, spec, n_bytes=Element.BF16.n_bytes if converted else 0, sparse=command.sparse)


@rule(c.ScaledMatMul)
def _scaled_matmul(command: Command, spec: ChipSpec) -> Cost:
    """At the rate of the wider format, plain 16-bit ones too. Without a unit for block formats, what is block-scaled is
    unpacked on the vector cores first and the engine multiplies 16-bit numbers (chips/multiply.py)."""
    assert isinstance(command, c.ScaledMatMul)
    path = multiply_path(spec, command.rate, what="tl.dot_scaled")
    packed = 2 if command.a_format == "e2m1" else 1
    if not path.unpack_passes:
        return _dot(command, command.plain or path.rate, 1, spec, b_at=2, packed=packed)
    return _unpacked_dot(command, path, packed, spec)


def _unpacked_dot(command: c.ScaledMatMul, path: MultiplyPath, packed: int, spec: ChipSpec) -> Cost:
    """Every block-scaled element passes the vector cores and is written to local memory as a 16-bit number."""
    wide = Element.BF16
    cost = _dot(command, command.plain or path.rate, 1, spec, b_at=2, packed=packed, n_bytes=wide.n_bytes)
    n = sum(
        command.operands[at].type.n_elements * (2 if form == "e2m1" else 1)
        for at, form in ((0, command.a_format), (2, command.b_format))
        if form != command.plain
    )
    lanes = spec.pe.cores.vector_cores * spec.pe.cores.vector_bytes_per_cycle / wide.n_bytes
    passes = int(path.unpack_passes * n)
    return replace(
        cost, vector_cycles=passes / lanes, vector_ops=passes, local_bytes=cost.local_bytes + n * wide.n_bytes
    )


def _matmul_dtype(command: c.MatMul, spec: ChipSpec) -> tuple[str, int]:
    """The engine type the multiply runs in and how many passes it takes."""
    dtype = dtype_of(command.operands[0].type.element)
    have = spec.pe.dpe.mac_per_cycle
    if dtype != "fp32":
        return _held_by(dtype, spec), 1
    if command.precision == "tf32" and "tf32" in have:
        return "tf32", 1
    if command.precision in SPLIT_PASSES and SPLIT_PASSES[command.precision][0] in have:
        return SPLIT_PASSES[command.precision]
    return "fp32", 1


_HOLDS = {"fp8": ("fp16", "bf16"), "int8": ("fp16", "bf16")}


def _held_by(dtype: str, spec: ChipSpec) -> str:
    """The type itself, or, on a chip that lacks it (`program/fit.py` refuses that or has the operands converted), the
    first wider one of the engine that holds all its values."""
    have = spec.pe.dpe.mac_per_cycle
    if dtype in have or dtype in spec.pe.cores.vector_mac_per_cycle:
        return dtype
    return next((wider for wider in _HOLDS.get(dtype, ()) if wider in have), dtype)


def _dot(
    command: Command, dtype: str, passes: int, spec: ChipSpec, b_at: int = 1, packed: int = 1, n_bytes: float = 0,
    sparse: bool = False,
) -> Cost:  # fmt: skip
    """`packed`: elements in one of operand a's bytes. `n_bytes`: of an element as the engine reads it, by default as it
    is held. `sparse`: operand b has two of four elements."""
    a, b = command.operands[0].type, command.operands[b_at].type
    m, k, n = a.shape[-2], a.shape[-1] * packed, b.shape[-1]
    batch = prod(a.shape[:-2])
    if dtype not in spec.pe.dpe.mac_per_cycle:
        return _software_dot(batch * m * k * n, dtype, spec)
    cost = _engine_dot(batch, m, k, n, n_bytes or a.element.n_bytes / packed, dtype, passes, spec, sparse)
    return replace(cost, flop=2 * batch * m * k * n)


def _software_dot(mac: int, dtype: str, spec: ChipSpec) -> Cost:
    """On the vector cores, or, for a type they lack too, one element at a time on the scalar core's lanes."""
    rate = spec.pe.cores.vector_mac_per_cycle.get(dtype) or _scalar_rate(dtype, spec)
    return Cost(unit=Unit.VECTOR, cycles=mac / rate, mac=mac, live_mac=mac, flop=2 * mac, dtype=dtype)


def _scalar_rate(dtype: str, spec: ChipSpec) -> float:
    wide = {"int32": "fp32", "i32": "fp32", "i16": "fp16", "int16": "fp16"}.get(dtype)
    if wide is None and dtype not in ("fp64", "i64"):
        raise UnsupportedDtype(
            "tl.dot",
            chip=spec.name,
            dtype=dtype,
            supported=sorted({*spec.pe.dpe.mac_per_cycle, *spec.pe.cores.vector_mac_per_cycle}),
        )
    return spec.pe.cores.vector_mac_per_cycle.get(wide or "fp32", 2) / (1 if wide else 2)


def _engine_dot(
    batch: int, m: int, k: int, n: int, n_bytes: float, dtype: str, passes: int, spec: ChipSpec, sparse: bool
) -> Cost:
    """Whole blocks; operands stream from local memory, each block used once per accumulator block it meets. Of a sparse
    operand half of the products are made, and half of the elements stream with two bits each."""
    dpe = spec.pe.dpe
    block_k = max(1, int(dpe.block_k_bytes / n_bytes))
    made = 2 if sparse else 1  # of so many products one
    live_mac = batch * m * n * k * passes // made
    (m, n), k = dpe.whole_blocks(m, n, either_way=not sparse), ceil_div(k, block_k) * block_k
    mac = batch * m * n * k * passes // made
    b_bytes = n_bytes / 2 + SPARSE_PLACE_BYTES if sparse else n_bytes
    reuse = max(1, isqrt(dpe.accumulator_bytes // (4 * dpe.block_m * dpe.block_n)))
    blocks_m, blocks_n = m // dpe.block_m, n // dpe.block_n
    streamed_a, streamed_b = m * ceil(blocks_n / reuse), n * ceil(blocks_m / reuse)
    operand_bytes = int(batch * k * (n_bytes * streamed_a + b_bytes * streamed_b))
    spilled_bytes = _spilled_bytes(batch * m * n * 4, dpe.accumulator_bytes)
    cycles = max(
        mac / dpe.mac_per_cycle[dtype],
        operand_bytes / dpe.operand_bytes_per_cycle,
        (operand_bytes + spilled_bytes) / spec.pe.local_memory_bytes_per_cycle,
    )
    return Cost(
        unit=Unit.DPE, cycles=dpe.fill_cycles + cycles, mac=mac, live_mac=live_mac, dtype=dtype,
        local_bytes=operand_bytes + spilled_bytes, fill_cycles=dpe.fill_cycles,
        chain_cycles=dpe.chain_cycles(k * n_bytes / made),
    )  # fmt: skip


def _spilled_bytes(tile_bytes: int, accumulator_bytes: int) -> int:
    """An accumulator tile that the reduction engine cannot hold is read and written once a step."""
    return 2 * tile_bytes if tile_bytes > accumulator_bytes else 0


__all__ = ["ALU_OPS", "RULES", "Cost", "cost_of", "dtype_of", "engine_of", "latency_cycles", "rule"]
