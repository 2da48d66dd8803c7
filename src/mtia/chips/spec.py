"""ChipSpec: what the silicon is, as frozen data. One unit rule: SI, bytes or a count, named by suffix.

The numbers sit in plain nested dataclasses, so the engine reads `spec.pe.dpe.mac_per_cycle["bf16"]`; where each
number comes from sits beside them in `spec.figures["pe.dpe.mac_per_cycle.bf16"]` (one per entry of a table).  `None`
means that the chip does not have the part; a figure nobody has published is an assumption with a range, never a hole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from math import prod
from typing import Any

from mtia.chips.schema import BadValue, Leaf, Table, checked, leaves_of
from mtia.errors import ChipFileError, did_you_mean
from mtia.units import ceil_div


class SourceKind(StrEnum):
    PUBLISHED = "published"  # where: the document and table
    DERIVED = "derived"  # how: the arithmetic from published figures
    ASSUMED = "assumed"  # low, high, why: a range and its reason
    CALIBRATED = "calibrated"  # low, high, data: bounded fit on validation data
    CHOSEN = "chosen"  # why: a designer's or user's what-if, not a claim about silicon that exists


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where one figure comes from. `low` and `high` bound assumed and calibrated figures (same unit as the value).

    `inherited_from` names the chip whose file states the figure, where that is not this chip's own.
    """

    kind: SourceKind
    text: str
    low: float | None = None
    high: float | None = None
    note: str = ""
    inherited_from: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value (number, truth value or text; None: the chip has none) and its source."""

    value: object
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSpec:
    """The PE grid software sees (spare rows excluded).

    `die_to_die_bytes_per_s`: both directions together. `crossing_frac`: the share of PEs' traffic that crosses; absent,
    addresses are interleaved over the c chiplets and (c - 1) / c of it does.
    """

    rows: int
    cols: int
    spare_pes: int = 0
    chiplets: int = 1  # compute chiplets the rows are dealt to
    die_to_die_bytes_per_s: float | None = None
    crossing_frac: float | None = None

    @property
    def n_pes(self) -> int:
        return self.rows * self.cols


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSpec:
    """The programmable cores of one PE. `scalar_issue_cycles`: cycles the scalar core needs to issue one command.

    A `tl.dot` whose dtype `DpeSpec.mac_per_cycle` lacks (float32 in full precision, on every MTIA) runs here, at
    `vector_mac_per_cycle`; a dtype in neither table is refused. A `tl.dot_scaled` without a unit is unpacked here, in
    `unpack_passes` passes over each operand element, and multiplied as bfloat16; none: it is refused.
    """

    vector_cores: int
    vector_bytes_per_cycle: int  # width of one vector core's functional unit
    vector_mac_per_cycle: Mapping[str, int]  # all vector cores: multiply-adds of a dot product done in software
    scalar_issue_cycles: int
    dma_issue_cycles: int  # to set up and issue one DMA command
    unpack_passes: int | None = None  # vector passes that turn one block-scaled element into bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class DpeSpec:
    """Dot product engine with its reduction engine (accumulators)."""

    mac_per_cycle: Mapping[str, int]  # per PE, dense; absent dtype = not supported in hardware
    block_m: int  # smallest unit of work: rows of the streamed operand
    block_n: int  # columns of the stationary operand
    block_k_bytes: int  # depth of one block in bytes (32 B rows on MTIA 100)
    fill_cycles: int  # pipeline fill of one block multiply-accumulate command
    accumulator_bytes: int  # accumulators held by the reduction engine (or CREG)
    operand_bytes_per_cycle: int  # local memory to DPE
    sparse_2_4: bool = False
    narrow_weights: bool = True  # an 8-bit result may be an operand again without its fragments being rearranged
    separate_accumulators: bool = True  # not the vector cores' registers: multiplies run on beside vector work
    exchanges_operands: bool = False  # either operand may be the streamed one
    dependent_cycles: int = 0  # from one block of depth to the next into the same accumulators; 0: at the engine's rate

    def whole_blocks(self, m: int, n: int, *, either_way: bool = True) -> tuple[int, int]:
        """Streamed rows and stationary columns of an m x n product in whole blocks; n x m where that pads less and the
        operands may change places (`either_way` false: these may not, as one is sparse)."""
        ways = ((m, n), (n, m)) if self.exchanges_operands and either_way else ((m, n),)
        padded = [(ceil_div(a, self.block_m) * self.block_m, ceil_div(b, self.block_n) * self.block_n) for a, b in ways]
        return min(padded, key=prod)

    def chain_cycles(self, depth_bytes: float) -> float:
        """Least cycles of a multiply so deep: its blocks of depth add to the same accumulators, one after the other."""
        return self.dependent_cycles * depth_bytes / self.block_k_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SfuSpec:
    """SIMD engine (100, 200) or special function unit (300 and later): element-wise, reductions, tables."""

    elements_per_cycle: Mapping[str, int]  # by dtype
    lut_elements_per_cycle: int  # exp, tanh, sigmoid, ... from tables
    horizontal_reduction: bool  # False: a row-wise reduction needs a transpose first (MLU)
    gather_elements_per_cycle: int
    startup_cycles: int  # per command
    exp_elements_per_cycle: int | None = None  # exponentials (softmax, attention, gates) on a unit of their own
    stochastic_rounding: bool = False  # conversions that round by chance
    free_conversion: bool = False  # float formats convert on the way, without a pass of their own
    radix_sort_elements_per_cycle: int | None = None  # through one 8-bit digit, there and back; none: no radix sort


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaSpec:
    """Fabric interface: DMA between local memory and the rest of the chip."""

    read_bytes_per_cycle: int
    write_bytes_per_cycle: int
    max_outstanding_bytes: int  # bytes in flight per PE (bandwidth = outstanding / latency)
    alignment_bytes: int  # addresses a DMA accepts (32: others are refused; 1: any)
    indexed: bool  # computes row addresses from an index list in local memory


@dataclass(frozen=True, slots=True, kw_only=True)
class PeSpec:
    cores: CoreSpec
    dpe: DpeSpec
    sfu: SfuSpec
    dma: DmaSpec
    mlu_bytes_per_cycle: int  # memory layout unit: copy, transpose
    local_memory_bytes: int
    local_memory_bytes_per_cycle: int  # read + write
    circular_buffers: int  # most circular buffers a kernel may have
    resident_programs: int = 1  # program instances a PE interleaves (1 on MTIA; GPUs hold several blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class SramSpec:
    """Shared on-chip SRAM, memory side: a cache over DRAM (LLC) and/or scratch."""

    capacity_bytes: int
    bytes_per_s: float
    latency_s: float
    line_bytes: int
    banks: int
    read_copies: int = 1  # parts of the SRAM that each keep what their PEs read: shared data is held so many times
    ways: int | None = None  # a line has so many places, by a hash of its address; none: any place

    @property
    def shared_bytes(self) -> int:
        """Room for data that all PEs read."""
        return self.capacity_bytes // self.read_copies


@dataclass(frozen=True, slots=True, kw_only=True)
class NocSpec:
    multicast: bool  # reads of one address by PEs of one row or column merge, or of one cluster of `multicast_pes`
    reduction: bool  # reduction network between PEs
    pe_bytes_per_s: float  # one PE's port
    latency_s: float  # mean PE to SRAM one way
    reduction_bytes_per_cycle: int | None = None  # of the reduction network, from PE to PE
    multicast_pes: int | None = None  # neighbouring PEs that may share one read; none: whole rows and columns

    @property
    def reduction_width(self) -> int:
        """Bytes a cycle of the reduction network; 0 where there is none."""
        return (self.reduction_bytes_per_cycle or 0) if self.reduction else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DramSpec:
    kind: str  # "LPDDR5", "HBM3E", ...
    capacity_bytes: int
    bytes_per_s: float  # theoretical, all channels
    efficiency_frac: float  # best achievable share for long sequential streams
    latency_s: float
    channels: int
    page_bytes: int  # row-buffer granule a short access pays for
    write_efficiency_frac: float | None = None  # best achievable share for writes among reads; none: as reads
    gap_bytes: float = 0.0  # that would move in the time lost at the start of each run of contiguous addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """The path of one kernel launch. Host time overlaps the device; the rest is on the device's critical path."""

    host_s: float  # host runtime: enqueue one launch
    control_s: float  # control core: take a job off the queue and hand it to the grid
    start_s: float  # work-queue engines fetch, PEs start (first program instance)
    replace_s: float  # a following queued job replaces a finished one (back to back)
    finish_s: float  # completion barrier and report
    overlap_s: float = 0.0  # of replace_s, hidden where a kernel follows one of its own: set up before that has ended
    runs_ahead: bool = False  # the host enqueues while earlier launches run: its time hides behind them
    program_s: float = 0.0  # a program instance that is a block of its own is set up: threads, barriers, descriptors


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLinkSpec:
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUpSpec:
    """The fast fabric of a domain and what drives it: message engines or, with none, `message_pes` PEs.

    Defaults are the assumptions shared by chips whose PEs write to their peers' memory (`docs/timing.md`,
    Collectives). Times are of one step of a collective: what one rank does before the next can go on.
    """

    domain_chips: int
    bytes_per_s: float  # per chip, one way
    latency_s: float  # a step whose data carries its own flags: store, link, peer sees it
    message_engines: int
    message_engine_bytes_per_cycle: int | None = None  # near-memory copy or reduce, each engine, all running
    topology: str = "switch"  # "switch", "mesh" (a link per pair), "torus", "host" (PCIe, groups below a bridge)
    efficiency_frac: float = 0.79  # of bytes_per_s that long stores reach
    launch_s: float = 5e-6  # a collective of the library, enqueued back to back: host path, start, end
    bulk_start_s: float = 8e-6  # more for one that moves data in bulk: buffers are exchanged, more warps start
    bulk_step_s: float = 3.6e-6  # a step in bulk: fence, flag, peer sees it
    message_pes: int = 32  # PEs that move data where there are no message engines
    pe_flagged_bytes_per_cycle: float = 4.0  # what each of them stores to a peer with flags in the data
    pe_bulk_bytes_per_cycle: float = 11.0  # without
    pe_copy_bytes_per_cycle: float = 16.0  # copied inside the chip
    multicast: bool = False  # the switch multicasts, and adds what several chips hold
    message_entry_s: float = 1.1e-6  # one work-queue entry of a message engine, beyond `latency_s`
    mailbox_bytes: int = 65536  # message engines: what one put carries to a peer unannounced
    group_chips: int | None = None  # topology "host": chips below one PCIe switch
    bridge_bytes_per_s: float | None = None  # topology "host": all that crosses between the groups


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOutSpec:
    """The network beyond the scale-up domain."""

    bytes_per_s: float  # per chip, one way
    latency_s: float
    efficiency_frac: float = 0.85  # that long messages reach


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSpec:
    """Energy per elementary act; `mac_j` by dtype. `idle_w` is leakage and clocks with nothing running."""

    tdp_w: float
    typical_w: float
    idle_w: float
    mac_j: Mapping[str, float]
    vector_op_j: float
    local_memory_j_per_byte: float
    noc_j_per_byte: float
    sram_j_per_byte: float
    dram_j_per_byte: float
    link_j_per_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipInfo:
    """Roadmap and physical facts; text is text."""

    vendor: str
    generation: int  # position on the roadmap (1..6 for MTIA), 0 for reference chips
    role: str
    status: str
    disclosed: str  # ISO year or year-month
    process: str
    package: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipSpec:
    """One chip. Build with `mtia.chips.load(name_or_path)`; vary with `spec.vary({...})`. Hashable."""

    name: str = field(metadata={"figure": False})
    title: str = field(metadata={"figure": False})
    info: ChipInfo
    clock_hz: float
    grid: GridSpec
    pe: PeSpec
    noc: NocSpec
    sram: SramSpec
    dram: DramSpec
    launch: LaunchSpec
    host_link: HostLinkSpec
    power: PowerSpec
    scale_up: ScaleUpSpec | None = None
    scale_out: ScaleOutSpec | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict, repr=False, compare=False, metadata={"figure": False})

    def peak_flop_per_s(self, dtype: str) -> float:
        """Dense peak of the dot product engines (2 flops per multiply-add); 0 where they lack the dtype."""
        return 2 * self.grid.n_pes * self.pe.dpe.mac_per_cycle.get(dtype, 0) * self.clock_hz

    def vector_peak_flop_per_s(self, dtype: str) -> float:
        """Peak of a dot product done in software on the vector cores; 0 where they lack the dtype."""
        return 2 * self.grid.n_pes * self.pe.cores.vector_mac_per_cycle.get(dtype, 0) * self.clock_hz

    def dot_flop_per_s(self, dtype: str) -> float:
        """The better of dot product engine and vector cores: what `tl.dot` in `dtype` can reach."""
        return max(self.peak_flop_per_s(dtype), self.vector_peak_flop_per_s(dtype))

    @property
    def local_memory_bytes_per_s(self) -> float:
        """Local memory bandwidth of one PE, read and write together."""
        return self.pe.local_memory_bytes_per_cycle * self.clock_hz

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any figure does (not when a source or note does): for caches, reports."""
        plain = {k: v for k, v in self._plain().items() if k not in ("name", "title", "info", "figures")}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]

    def _plain(self) -> dict[str, Any]:
        bare = replace(self, figures={})
        return json.loads(json.dumps(asdict(bare), default=dict))

    def get(self, key: str) -> Any:
        """A figure by dotted key: `spec.get("pe.dpe.mac_per_cycle.bf16")`. Raises ChipFileError on an unknown key."""
        value: Any = self
        leaf, entry = leaf_and_entry(key, self.name)
        for part in leaf.key.split("."):
            value = None if value is None else getattr(value, part)
        return value.get(entry) if entry and value is not None else value

    def uncertain(self) -> dict[str, Figure]:
        """The figures with a range (assumed, calibrated), by key."""
        ranged = (SourceKind.ASSUMED, SourceKind.CALIBRATED)
        return {key: figure for key, figure in self.figures.items() if figure.source.kind in ranged}

    def vary(self, changes: Mapping[str, object], *, name: str = "") -> ChipSpec:
        """A new spec with some figures changed: `spec.vary({"clock_hz": 1.7e9, "pe.dpe.mac_per_cycle.mx4": 65536})`.

        Values pass the same checks as a file's. Raises ChipFileError on an unknown key or an impossible value.
        """
        spec, figures = self, dict(self.figures)
        for key, value in changes.items():
            leaf, entry = leaf_and_entry(key, self.name)
            spec = _with(spec, leaf.key.split("."), _varied(self, leaf, entry, value, spec.get(leaf.key)))
            _record(figures, key, leaf, entry, value)
        default = f"{self.name}+{','.join(f'{k}={v}' for k, v in changes.items())}"
        return replace(spec, name=name or default, figures=figures)


def _varied(spec: ChipSpec, leaf: Leaf, entry: str, value: object, old: Any) -> object:
    """The new value of one leaf; for a table, the table with one entry or all of them replaced."""
    try:
        if entry:
            return Table({**(old or {}), entry: checked(leaf, value)})  # type: ignore[dict-item]
        if leaf.table:
            return Table({k: checked(leaf, v) for k, v in dict(value).items()})  # type: ignore[call-overload]
        return None if value is None and leaf.optional else checked(leaf, value)
    except BadValue as bad:
        key = f"{leaf.key}.{entry}" if entry else leaf.key
        raise ChipFileError(spec.name, key=key, problem=bad.problem, allowed=bad.allowed, value=value) from None


def _with(part: Any, path: list[str], value: object) -> Any:
    """`part` with the field at `path` replaced, all the way down. A part the chip lacks cannot be given one figure."""
    if len(path) == 1:
        return replace(part, **{path[0]: value})
    inner = getattr(part, path[0])
    if inner is None:
        raise ChipFileError(part.name, key=path[0], problem="this chip has none, so single figures of it cannot vary",
                            allowed="Write a chip file with a base that gives the whole section.")  # fmt: skip
    return replace(part, **{path[0]: _with(inner, path[1:], value)})


def _record(figures: dict[str, Figure], key: str, leaf: Leaf, entry: str, value: object) -> None:
    source = Source(kind=SourceKind.CHOSEN, text="set by vary()")
    if leaf.table and not entry:
        for old in [k for k in figures if k.startswith(f"{leaf.key}.")]:
            del figures[old]
        figures |= {f"{key}.{k}": Figure(value=v, source=source) for k, v in dict(value).items()}  # type: ignore[call-overload]
    else:
        figures[key] = Figure(value=value, source=source)


def leaf_and_entry(key: str, file: str) -> tuple[Leaf, str]:
    """The schema's leaf for a dotted key, and the table entry it names ("" for the whole leaf)."""
    if key in LEAVES:
        return LEAVES[key], ""
    head, _, entry = key.rpartition(".")
    if head in LEAVES and LEAVES[head].table:
        return LEAVES[head], entry
    raise ChipFileError(file, key=key, problem="no such figure", allowed=did_you_mean(key, LEAVES).strip())


LEAVES: dict[str, Leaf] = leaves_of(ChipSpec)
