"""Commands: what a processing element can be asked to do, one class each, grouped by the engine that does it.

A command names its operands and results (SSA values: each is written once). A value that comes from memory or goes to
it lives in a circular buffer; `TileProgram.buffers` says which. Consumers (functional simulator, tracer, cycle rules,
energy, printer, verifier) keep their own tables from class to function; `COMMANDS` lists all classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from mtia.program.types import Location, Value


class Unit(StrEnum):
    """The engines of a PE (facts 2.2)."""

    CORE = "core"  # scalar RISC-V core: scalars, addresses, loop control, command issue
    VECTOR = "vector"  # vector RISC-V core
    SFU = "sfu"  # SIMD engine / special function unit
    MLU = "mlu"  # memory layout unit
    DPE = "dpe"  # dot product engine with reduction engine
    DMA_IN = "dma_in"  # fabric interface, memory -> local memory
    DMA_OUT = "dma_out"  # fabric interface, local memory -> memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """A straight run of commands; `args` are values bound on entry, `yields` those handed out at the end."""

    commands: tuple[Command, ...]
    args: tuple[Value, ...] = ()
    yields: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Command:
    """`index` is the position in program order (pre-order over regions); unique in a program."""

    unit: ClassVar[Unit] = Unit.CORE
    mnemonic: ClassVar[str] = "command"
    index: int
    operands: tuple[Value, ...] = ()
    results: tuple[Value, ...] = ()
    location: Location = field(default_factory=Location)

    @property
    def result(self) -> Value:
        return self.results[0]

    @property
    def blocks(self) -> tuple[Block, ...]:
        return ()


# --- values that cost nothing by themselves -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant(Command):
    """A scalar, or a tile filled with one value (`value`: int or float) or with given ones (`value`: tuple)."""

    mnemonic: ClassVar[str] = "const"
    value: int | float | tuple


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProgramId(Command):
    """Index of this program instance along `axis` (0, 1, 2)."""

    mnemonic: ClassVar[str] = "program_id"
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NumPrograms(Command):
    mnemonic: ClassVar[str] = "num_programs"
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Range(Command):
    """Integers start, start+1, ... end-1."""

    unit: ClassVar[Unit] = Unit.VECTOR
    mnemonic: ClassVar[str] = "range"
    start: int
    end: int


# --- element-wise -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Elementwise(Command):
    """`op` on every element (names in `mtia.program.ops`). On scalars it runs on the scalar core.

    `predicate` is the comparison of cmpi/cmpf ("slt", "oeq", ...); operands and results have one shape.
    """

    unit: ClassVar[Unit] = Unit.SFU
    mnemonic: ClassVar[str] = "ew"
    op: str
    predicate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convert(Command):
    """Element type conversion. `op`: extf truncf fptosi fptoui sitofp uitofp extsi extui trunci bitcast fp_to_fp
    ptr_to_int int_to_ptr. `rounding`: "rtne" (nearest, ties to even) or "rtz"."""

    unit: ClassVar[Unit] = Unit.SFU
    mnemonic: ClassVar[str] = "convert"
    op: str
    rounding: str = "rtne"


# --- shape: descriptors on the vector core, or data movement on the memory layout unit -------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Splat(Command):
    """A tile filled with a scalar."""

    unit: ClassVar[Unit] = Unit.VECTOR
    mnemonic: ClassVar[str] = "splat"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpandDims(Command):
    unit: ClassVar[Unit] = Unit.VECTOR
    mnemonic: ClassVar[str] = "expand_dims"
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Broadcast(Command):
    unit: ClassVar[Unit] = Unit.VECTOR
    mnemonic: ClassVar[str] = "broadcast"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reshape(Command):
    unit: ClassVar[Unit] = Unit.MLU
    mnemonic: ClassVar[str] = "reshape"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transpose(Command):
    """Dims permuted: result dim i is operand dim order[i]."""

    unit: ClassVar[Unit] = Unit.MLU
    mnemonic: ClassVar[str] = "transpose"
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Join(Command):
    """Two tiles joined along a new last dim of size 2."""

    unit: ClassVar[Unit] = Unit.MLU
    mnemonic: ClassVar[str] = "join"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split(Command):
    """A tile with last dim 2 split in two (two results)."""

    unit: ClassVar[Unit] = Unit.MLU
    mnemonic: ClassVar[str] = "split"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Concat(Command):
    """Two tiles one after the other along dim 0."""

    unit: ClassVar[Unit] = Unit.MLU
    mnemonic: ClassVar[str] = "cat"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gather(Command):
    """result[i..] = operand0 taken along `dim` at operand1[i..] (within local memory)."""

    unit: ClassVar[Unit] = Unit.SFU
    mnemonic: ClassVar[str] = "gather"
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram(Command):
    """Counts of operand0's integers in result.shape[0] bins; operand1, if given, masks."""

    unit: ClassVar[Unit] = Unit.VECTOR
    mnemonic: ClassVar[str] = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sort(Command):
    """operand0's integers in order along its last dim, largest first where `descending`; equal ones are alike."""

    unit: ClassVar[Unit] = Unit.SFU
    mnemonic: ClassVar[str] = "sort"
    descending: bool = False


# --- reductions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reduce(Command):
    """Operands reduced along `dim` by `combine` (args: accumulators then elements; yields: accumulators).

    `op` names the combiner when it is a known one ("add", "max", "min", "mul", "and", "or", "xor", "argmax",
    "argmin"), else "".
    """

    unit: ClassVar[Unit] = Unit.SFU
    mnemonic: ClassVar[str] = "reduce"
    dim: int
    combine: Block
    op: str = ""

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (self.combine,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scan(Command):
    """Inclusive prefix combine along `dim`, from the end if `reverse`."""

    unit: ClassVar[Unit] = Unit.SFU
    mnemonic: ClassVar[str] = "scan"
    dim: int
    combine: Block
    op: str = ""
    reverse: bool = False

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (self.combine,)


# --- dot product engine -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatMul(Command):
    """result[.., M, N] = operands[2] + operands[0][.., M, K] @ operands[1][.., K, N]; accumulates in result's type.

    `precision`: "ieee", "tf32", "bf16x3", ... as the kernel asked for float32 operands. `sparse`: of four elements of
    operand 1 along K two at most are not zero, and the engine reads those two with their places; the commands that
    spread them out are then its own work (`dataflow.Dataflow.expands`).
    """

    unit: ClassVar[Unit] = Unit.DPE
    mnemonic: ClassVar[str] = "matmul"
    precision: str = "ieee"
    sparse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledMatMul(Command):
    """MatMul on block-scaled operands (a, a_scale, b, b_scale, c). One may be plain, bf16 or fp16, its scales 1."""

    unit: ClassVar[Unit] = Unit.DPE
    mnemonic: ClassVar[str] = "scaled_matmul"
    a_format: str
    b_format: str

    @property
    def plain(self) -> str:
        """The 16-bit format of an operand that is not block-scaled, "" where both are."""
        return next((f for f in (self.a_format, self.b_format) if f in ("bf16", "fp16")), "")

    @property
    def rate(self) -> str:
        """The block format that the chip must read, as its multiply rates name it: the wider of the scaled operands."""
        scaled = {f for f in (self.a_format, self.b_format) if f != self.plain}
        return "mx4" if scaled == {"e2m1"} else "mx8"


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Load(Command):
    """operands: pointer(s) [, mask [, other]]. Result: the elements, in a circular buffer where it is a tile."""

    unit: ClassVar[Unit] = Unit.DMA_IN
    mnemonic: ClassVar[str] = "load"
    has_mask: bool = False
    has_other: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Store(Command):
    """operands: pointer(s), value(s) [, mask]."""

    unit: ClassVar[Unit] = Unit.DMA_OUT
    mnemonic: ClassVar[str] = "store"
    has_mask: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AtomicRmw(Command):
    """operands: pointer(s), value(s) [, mask]; result: the old values. `op`: fadd add max min umax umin and or xor
    exch. `sem`: relaxed, acquire, release or acq_rel; values and time are the same, the sanitizer tells them apart."""

    unit: ClassVar[Unit] = Unit.DMA_OUT
    mnemonic: ClassVar[str] = "atomic"
    op: str
    sem: str = "acq_rel"
    has_mask: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AtomicCas(Command):
    """operands: pointer(s), expected, new; result: the old values. `sem`: as of AtomicRmw."""

    unit: ClassVar[Unit] = Unit.DMA_OUT
    mnemonic: ClassVar[str] = "atomic_cas"
    sem: str = "acq_rel"


# --- control ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class For(Command):
    """operands: lower, upper, step, initial carried values. body.args: induction variable, carried values."""

    mnemonic: ClassVar[str] = "for"
    body: Block

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (self.body,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class While(Command):
    """operands: initial carried values. `before` yields the condition then the values; `after` the next values."""

    mnemonic: ClassVar[str] = "while"
    before: Block
    after: Block

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (self.before, self.after)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class If(Command):
    """operands: condition. Each branch yields the results."""

    mnemonic: ClassVar[str] = "if"
    then: Block
    otherwise: Block

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (self.then, self.otherwise)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Return(Command):
    """This program instance ends here (early return)."""

    mnemonic: ClassVar[str] = "return"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assert(Command):
    """operands: condition. `message` is the user's."""

    mnemonic: ClassVar[str] = "assert"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Print(Command):
    """Lines on standard output, one an element (engine/functional/printing.py). `signed`: by operand."""

    mnemonic: ClassVar[str] = "print"
    prefix: str
    hex: bool = False
    signed: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Barrier(Command):
    """All engines of the PE meet (tt.debug_barrier)."""

    mnemonic: ClassVar[str] = "barrier"


COMMANDS: tuple[type[Command], ...] = (
    Constant,
    ProgramId,
    NumPrograms,
    Range,
    Elementwise,
    Convert,
    Splat,
    ExpandDims,
    Broadcast,
    Reshape,
    Transpose,
    Join,
    Split,
    Concat,
    Gather,
    Histogram,
    Sort,
    Reduce,
    Scan,
    MatMul,
    ScaledMatMul,
    Load,
    Store,
    AtomicRmw,
    AtomicCas,
    For,
    While,
    If,
    Return,
    Assert,
    Print,
    Barrier,
)
