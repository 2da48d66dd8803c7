"""ChipSpec: what the silicon is, as frozen data. One unit rule: SI, bytes or a count, named by suffix.

The numbers sit in plain nested dataclasses, so the engine reads `spec.pe.dpe.mac_per_cycle["bf16"]`; where each
number comes from sits beside them in `spec.figures["pe.dpe.mac_per_cycle"]`.  `None` means that the chip does not
have the part; a figure nobody has published is an assumption with a range, never a hole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SourceKind(StrEnum):
    PUBLISHED = "published"      # where: the document and table
    DERIVED = "derived"          # how: the arithmetic from published figures
    ASSUMED = "assumed"          # low, high, why: a range and its reason
    CALIBRATED = "calibrated"    # low, high, data: bounded fit on validation data


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where one figure comes from. `low` and `high` bound assumed and calibrated figures (same unit as the value)."""

    kind: SourceKind
    text: str
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value (number, string or per-dtype table) and its source."""

    value: object
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSpec:
    """The PE grid software sees (spare rows excluded)."""

    rows: int
    cols: int
    spare_pes: int = 0
    chiplets: int = 1            # compute chiplets the rows are dealt to
    die_to_die_bytes_per_s: float | None = None

    @property
    def n_pes(self) -> int:
        return self.rows * self.cols


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSpec:
    """The programmable cores of one PE. `scalar_issue_cycles`: cycles the scalar core needs to issue one command."""

    vector_cores: int
    vector_bytes_per_cycle: int              # width of one vector core's functional unit
    scalar_issue_cycles: int
    dma_issue_cycles: int                    # to set up and issue one DMA command


@dataclass(frozen=True, slots=True, kw_only=True)
class DpeSpec:
    """Dot product engine with its reduction engine (accumulators)."""

    mac_per_cycle: Mapping[str, int]         # per PE, dense; absent dtype = not supported in hardware
    block_m: int                             # smallest unit of work: rows of the streamed operand
    block_n: int                             # columns of the stationary operand
    block_k_bytes: int                       # depth of one block in bytes (32 B rows on MTIA 100)
    fill_cycles: int                         # pipeline fill of one block multiply-accumulate command
    accumulator_bytes: int                   # accumulators held by the reduction engine (or CREG)
    operand_bytes_per_cycle: int             # local memory to DPE
    sparse_2_4: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SfuSpec:
    """SIMD engine (100, 200) or special function unit (300 and later): element-wise, reductions, tables."""

    elements_per_cycle: Mapping[str, int]    # by dtype
    lut_elements_per_cycle: int              # exp, tanh, sigmoid, ... from tables
    horizontal_reduction: bool               # False: a row-wise reduction needs a transpose first (MLU)
    gather_elements_per_cycle: int
    startup_cycles: int                      # per command


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaSpec:
    """Fabric interface: DMA between local memory and the rest of the chip."""

    read_bytes_per_cycle: int
    write_bytes_per_cycle: int
    max_outstanding_bytes: int               # bytes in flight per PE (bandwidth = outstanding / latency)
    alignment_bytes: int                     # addresses a DMA accepts (32: others are refused; 1: any)
    indexed: bool                            # computes row addresses from an index list in local memory


@dataclass(frozen=True, slots=True, kw_only=True)
class PeSpec:
    cores: CoreSpec
    dpe: DpeSpec
    sfu: SfuSpec
    dma: DmaSpec
    mlu_bytes_per_cycle: int                 # memory layout unit: copy, transpose
    local_memory_bytes: int
    local_memory_bytes_per_cycle: int        # read + write
    circular_buffers: int                    # most circular buffers a kernel may have
    resident_programs: int = 1               # program instances a PE interleaves (1 on MTIA; GPUs hold several blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class SramSpec:
    """Shared on-chip SRAM, memory side: a cache over DRAM (LLC) and/or scratch."""

    capacity_bytes: int
    bytes_per_s: float
    latency_s: float
    line_bytes: int
    banks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NocSpec:
    multicast: bool                          # reads of one address by PEs of one row or column merge
    reduction: bool                          # reduction network between PEs
    pe_bytes_per_s: float                    # one PE's port
    latency_s: float                         # mean PE to SRAM one way


@dataclass(frozen=True, slots=True, kw_only=True)
class DramSpec:
    kind: str                                # "LPDDR5", "HBM3E", ...
    capacity_bytes: int
    bytes_per_s: float                       # theoretical, all channels
    efficiency_frac: float                   # best achievable share for long sequential streams
    latency_s: float
    channels: int
    page_bytes: int                          # row-buffer granule a short access pays for


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """The path of one kernel launch. Host time overlaps the device; the rest is on the device's critical path."""

    host_s: float                            # host runtime: enqueue one launch
    control_s: float                         # control core: take a job off the queue and hand it to the grid
    start_s: float                           # work-queue engines fetch, PEs start (first program instance)
    replace_s: float                         # a following queued job replaces a finished one (back to back)
    finish_s: float                          # completion barrier and report


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLinkSpec:
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUpSpec:
    domain_chips: int
    bytes_per_s: float                       # per chip, one way
    latency_s: float
    message_engines: int


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
    generation: int                          # position on the roadmap (1..6 for MTIA), 0 for reference chips
    role: str
    status: str
    disclosed: str                           # ISO year or year-month
    process: str
    package: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipSpec:
    """One chip. Build with `mtia.chips.load(name_or_path)`; vary with `spec.vary({...})`."""

    name: str
    title: str
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
    figures: Mapping[str, Figure] = field(default_factory=dict, repr=False, compare=False)
