"""The fast path of a matrix multiplication: which tiling a library would take, and its time without simulating it.

`choose(machine, problem)` weighs all tilings at once (arrays over candidates) with the figures the engine reads: whole
tiles and waves, the dot product engine's fill, a PE's port and its bytes in flight, SRAM traffic with multicast, what
DRAM must deliver given what SRAM kept, latency of the first step and the last tile, and the second kernel of a split
depth.  `workloads/gemm.py` simulates the choice; searches may take the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log2

import numpy as np

from mtia.chips.spec import ChipSpec, DpeSpec, SramSpec
from mtia.engine.energy import clock_frac
from mtia.engine.memory import survives
from mtia.engine.timing import write_efficiency

STEP_BYTES = 128  # depth of one step of a tile row: a memory line
MOST_SLOTS = 4  # steps of one program under way, as in the pipelines of the libraries' kernels
SUM_SLOTS = 16  # of its loads under way
SUM_BLOCK = 1024  # elements of one program of the kernel that adds partial sums
HEIGHTS = (16, 32, 64, 128, 256)
WIDTHS = ((16, 0), (32, 0), (64, 0), (64, 32), (128, 0), (128, 64), (256, 0))  # (BN, BN2)
SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
PARTIAL_BYTES = 4  # float32
QUANTISE_ELEMENTS = 2048  # of one program
QUANTISE_PASSES = 7  # of the vector engines over each element: widen, absolute, maximum, scale, clamp, round, pack
AGAIN_PASSES = 2  # more where a row is read again: widen, maximum
ROW_ELEMENTS = 8192  # most of a row that a program holds at once
BLOCK_ELEMENTS = 1024  # the same where a program is a block of threads, an element a thread
SHARPNESS = 10.0  # exponent by which resources used at once add up: how little they disturb one another


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """out[m, n] = x[m, k] @ w[n, k]^T. Bytes per element may be fractions (4-bit formats with their scales).

    `copies`: weights rotate over so many tensors from call to call, x and out are the same ones each time.
    """

    m: int
    n: int
    k: int
    mac: str  # dtype of the multiply-add
    x_bytes: float = 2.0
    w_bytes: float = 2.0
    out_bytes: float = 2.0
    source_bytes: float = 0.0  # of x before it is quantised; 0: it is not
    rows_quantised: bool = False  # by whole rows, a row a program
    one_width: bool = False  # of the kernel's tiles
    may_split: bool = True  # depth among programs
    accumulators: int = 1  # of a tile
    copies: int = 6

    @property
    def tensor_bytes(self) -> tuple[float, float, float]:
        """x as it comes, w, out."""
        x = self.m * self.k * (self.source_bytes or self.x_bytes)
        return x, self.n * self.k * self.w_bytes, self.m * self.n * self.out_bytes

    @property
    def quantised_bytes(self) -> float:
        """x once it is quantised; 0: it is not."""
        return self.m * self.k * self.x_bytes if self.source_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What of a ChipSpec bears on a matrix multiplication, in SI units, rates of one PE where not said otherwise."""

    n_pes: int
    clock_hz: float
    mac_per_cycle: float
    block_m: int
    block_n: int
    fill_cycles: float
    dpe: DpeSpec
    accumulator_bytes: int
    local_memory_bytes: int
    resident_programs: int
    port_bytes_per_s: float
    outstanding_bytes: float
    shares_x: int  # PEs that one read of a strip of x serves
    shares_w: int
    sram: SramSpec
    sram_bytes_per_s: float  # chip
    sram_latency_s: float  # PE to SRAM and back
    dram_bytes_per_s: float  # chip, best
    dram_write_bytes_per_s: float
    dram_gap_bytes: float  # lost at each run of contiguous addresses
    dram_latency_s: float
    replace_s: float
    vector_elements_per_s: float
    dynamic_w: float  # power left beside idle power
    mac_j: float
    sram_j: float  # per byte to a PE
    dram_j: float

    @classmethod
    def of(cls, spec: ChipSpec, mac: str) -> Machine:
        """The chip as a machine for one multiply-add type."""
        return _machine(spec, mac)


@lru_cache(maxsize=256)
def _machine(spec: ChipSpec, mac: str) -> Machine:
    group = spec.noc.multicast_pes
    along = (spec.grid.cols, spec.grid.rows) if group is None else (1, group)
    shares = along if spec.noc.multicast else (1, 1)
    pe, dram, power = spec.pe, spec.dram, spec.power
    dma = min(pe.dma.read_bytes_per_cycle * spec.clock_hz, spec.noc.pe_bytes_per_s)
    return Machine(
        n_pes=spec.grid.n_pes,
        clock_hz=spec.clock_hz,
        mac_per_cycle=pe.dpe.mac_per_cycle[mac],
        block_m=pe.dpe.block_m,
        block_n=pe.dpe.block_n,
        dpe=pe.dpe,
        fill_cycles=pe.dpe.fill_cycles,
        accumulator_bytes=pe.dpe.accumulator_bytes,
        local_memory_bytes=pe.local_memory_bytes,
        resident_programs=pe.resident_programs,
        port_bytes_per_s=dma,
        outstanding_bytes=pe.dma.max_outstanding_bytes,
        shares_x=shares[0],
        shares_w=shares[1],
        sram=spec.sram,
        sram_bytes_per_s=spec.sram.bytes_per_s,
        sram_latency_s=2 * spec.noc.latency_s + spec.sram.latency_s,
        dram_bytes_per_s=dram.bytes_per_s * dram.efficiency_frac,
        dram_write_bytes_per_s=dram.bytes_per_s * write_efficiency(spec),
        dram_gap_bytes=dram.gap_bytes,
        dram_latency_s=dram.latency_s,
        replace_s=spec.launch.replace_s,
        vector_elements_per_s=spec.clock_hz * _vector_rate(spec),
        dynamic_w=power.tdp_w - power.idle_w,
        mac_j=power.mac_j.get(mac, max(power.mac_j.values())),
        sram_j=power.sram_j_per_byte + power.noc_j_per_byte + 2 * power.local_memory_j_per_byte,
        dram_j=power.dram_j_per_byte,
    )


def _vector_rate(spec: ChipSpec) -> float:
    """float32 elements of one pass a cycle."""
    cores = spec.pe.cores
    lanes = cores.vector_cores * cores.vector_bytes_per_cycle / 4
    return max(lanes, spec.pe.sfu.elements_per_cycle.get("fp32", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Shares of a call's tensors that it finds in SRAM, in the steady state of a chain of calls."""

    x: float  # as it comes
    w: float
    out: float
    quantised: float = 1.0  # x between the kernel that quantises it and the multiply


def kept(machine: Machine, problem: Problem) -> Kept:
    """What SRAM kept since each tensor was last touched: x and out one call ago, this copy of w `copies` calls ago."""
    x, w, out = problem.tensor_bytes
    every = x + problem.quantised_bytes + out
    near = survives(machine.sram, w + every)
    soon = survives(machine.sram, x + problem.quantised_bytes) if problem.source_bytes else near
    return Kept(x=near, w=survives(machine.sram, problem.copies * w + every), out=near, quantised=soon)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A tiling with the estimated seconds of its kernels. `slots`: steps under way in a PE."""

    bm: int
    bn: int
    bn2: int
    splits: int
    group: int
    slots: int
    store_slots: int
    step: int  # elements of depth
    kernel_s: float
    sum_s: float  # of the kernel that adds the partial sums of a split depth; 0: none
    bound: str

    @property
    def width(self) -> int:
        return self.bn + self.bn2

    def __str__(self) -> str:
        split = f", depth split {self.splits} ways" if self.splits > 1 else ""
        return f"tiles {self.bm} x {self.width}{split}"


@lru_cache(maxsize=256)
def _candidates(
    machine: Machine,
    out_bytes: float,
    step: int,
    step_bytes: float,
    one_width: bool,
    may_split: bool,
    accumulators: int,
) -> tuple[np.ndarray, ...]:
    """Tiles and splits that fit accumulators and, two steps deep beside the tile, local memory; arrays over all."""
    rows = []
    for bm in HEIGHTS:
        for bn, bn2 in WIDTHS:
            if bm * (bn + bn2) * PARTIAL_BYTES * accumulators > machine.accumulator_bytes or (one_width and bn2):
                continue
            for splits in SPLITS if may_split else SPLITS[:1]:
                room = _room(machine, bm * (bn + bn2), splits, out_bytes)
                if room >= 2 * (bm + bn + bn2) * step_bytes:
                    rows.append((bm, bn, bn2, splits, room))
    return tuple(np.array(rows, dtype=float).T)


def _room(machine: Machine, tile: int, splits: int, out_bytes: float) -> float:
    """Local memory beside the tile on its way out."""
    return machine.local_memory_bytes - tile * (out_bytes if splits == 1 else PARTIAL_BYTES)


def choose(machine: Machine, problem: Problem, held: Kept | None = None) -> Choice:
    """The tiling of least estimated time; of equals the first (smaller tiles, fewer splits)."""
    held = held or kept(machine, problem)
    step = _step(problem)
    step_bytes = step * max(problem.x_bytes, problem.w_bytes)
    a = _candidates(
        machine, problem.out_bytes, step, step_bytes, problem.one_width, problem.may_split, problem.accumulators
    )
    return _Weighing(machine, problem, held, step, *a).best()


def same_tiling(machine: Machine, problem: Problem, held: Kept, choice: Choice) -> Choice:
    """The estimate of another problem with a tiling that is given."""
    room = _room(machine, choice.bm * choice.width, choice.splits, problem.out_bytes)
    a = (np.array([float(v)]) for v in (choice.bm, choice.bn, choice.bn2, choice.splits, room))
    return _Weighing(machine, problem, held, choice.step, *a).best()


def _step(problem: Problem) -> int:
    """Elements of depth that one step takes: as many as a memory line holds without their scales, no more than k."""
    line = 1 << int(log2(STEP_BYTES / max(problem.x_bytes, problem.w_bytes)) + 0.5)
    return max(16, min(line, 1 << (problem.k - 1).bit_length()))


def row_elements(resident_programs: int) -> int:
    """Most of a row that a program of the quantising kernel holds at once: longer rows are read twice."""
    return BLOCK_ELEMENTS if resident_programs > 1 else ROW_ELEMENTS


def quantise_s(machine: Machine, problem: Problem, held: Kept) -> float:
    """The kernel that quantises x, as the engine would time it: SRAM, DRAM, vector passes, the fullest PE's rows."""
    if not problem.source_bytes:
        return 0.0
    m, elements = machine, problem.m * problem.k
    source, quantised = elements * problem.source_bytes, problem.quantised_bytes
    twice = problem.rows_quantised and problem.k > row_elements(m.resident_programs)
    again, passes = (source, QUANTISE_PASSES + AGAIN_PASSES) if twice else (0.0, QUANTISE_PASSES)
    height = max(1, QUANTISE_ELEMENTS // problem.k)
    programs = -(-problem.m // height) if problem.rows_quantised else -(-elements // QUANTISE_ELEMENTS)
    busy = min(m.n_pes, programs)
    fullest = -(-programs // m.n_pes) / programs
    dram = source * (1 - held.x) / m.dram_bytes_per_s + quantised * (1 - held.quantised) / m.dram_write_bytes_per_s
    parts = np.array(
        [
            [(source + again + quantised) / m.sram_bytes_per_s],
            [dram],
            [passes * elements / (busy * m.vector_elements_per_s)],
            [(source + again) * fullest / m.port_bytes_per_s],
        ]
    )
    return float(_together(parts)[0]) + (2 + twice) * m.sram_latency_s + (1 - held.x) * m.dram_latency_s


class _Weighing:
    """Arrays over candidates; names as in the module docstring."""

    def __init__(self, machine, problem, held, step, bm, bn, bn2, splits, room) -> None:
        self.machine, self.problem, self.held, self.step = machine, problem, held, step
        self.bm, self.bn, self.bn2, self.splits, self.room = bm, bn, bn2, splits, room
        self.width = bn + bn2
        m, p = machine, problem
        self.tiles_m, self.tiles_n = np.ceil(p.m / bm), np.ceil(p.n / self.width)
        self.steps = np.ceil(np.ceil(p.k / step) / splits)
        self.programs = self.tiles_m * self.tiles_n * splits
        self.waves = np.ceil(self.programs / m.n_pes)
        self.x_step, self.w_step = bm * step * p.x_bytes, self.width * step * p.w_bytes
        self.slots = self._slots()
        self.group = self._group()

    def _slots(self) -> np.ndarray:
        """Steps under way in a PE: of one program, or of several where the PE has them and holds them. Where one
        program has the PE for itself, copies run as far ahead as local memory reaches."""
        fit = np.floor(self.room / (self.x_step + self.w_step))
        if self.machine.resident_programs > 1:
            fit = np.minimum(fit, MOST_SLOTS * np.minimum(self.waves, self.machine.resident_programs))
        return np.maximum(2, fit)

    def store_slots(self) -> np.ndarray:
        """Two tiles on their way out where local memory has room for the second, else one."""
        taken = self.slots * (self.x_step + self.w_step)
        tile = self.machine.local_memory_bytes - self.room
        return np.where(taken + tile <= self.room, 2, 1)

    def _group(self) -> np.ndarray:
        """Rows of tiles in a band: what runs at once as high as wide, or all rows, or one: the least from DRAM."""
        at_once = np.minimum(self.machine.n_pes, self.tiles_m * self.tiles_n)
        square = np.clip(np.round(np.sqrt(at_once * self.width / self.bm)), 1, self.tiles_m)
        best, least = square, np.sum(self._passes(square), axis=0)
        for group in (self.tiles_m, np.ones_like(square)):
            bytes_ = np.sum(self._passes(group), axis=0)
            best, least = np.where(bytes_ < least, group, best), np.minimum(bytes_, least)
        return best

    def _passes(self, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of x and w that all passes over them fetch, if SRAM holds nothing at first: x again for each set of
        columns worked on at once unless its strip stays, w again for each band unless it stays."""
        m, p = self.machine, self.problem
        x, w = p.m * p.k * p.x_bytes, p.n * p.k * p.w_bytes
        columns = np.clip(np.round(m.n_pes / group), 1, self.tiles_n)
        strip = np.minimum(x, group * self.bm * p.k * p.x_bytes)
        beside = np.minimum(w, columns * self.width * p.k * p.w_bytes)
        x_stays = np.clip((m.sram.shared_bytes - beside) / strip, 0, 1)
        w_stays = np.clip((m.sram.shared_bytes - strip) / w, 0, 1)
        sets, bands = np.ceil(self.tiles_n / columns), np.ceil(self.tiles_m / group)
        return x * (1 + (sets - 1) * (1 - x_stays)), w * (1 + (bands - 1) * (1 - w_stays))

    def best(self) -> Choice:
        """The candidate of least time; of equals the first."""
        m, p = self.machine, self.problem
        read, written = self.dram_bytes()
        sram_bytes = self.sram_bytes()
        missed = np.minimum(1.0, read / self.distinct_bytes())
        latency = m.sram_latency_s + (1 - (1 - missed) ** self.slots) * m.dram_latency_s  # the slowest step under way
        parts = np.stack(
            [
                (self.waves * self.steps - 1) * self.step_s(latency),
                sram_bytes / m.sram_bytes_per_s,
                read * self.with_gaps() / m.dram_bytes_per_s + written / m.dram_write_bytes_per_s,
            ]
        )
        kernel_s = _together(parts) + self.fill_s() + self.drain_s()
        die_j, dram_j = m.mac_j * p.m * p.n * p.k + m.sram_j * sram_bytes, m.dram_j * (read + written)
        clock = clock_frac(die_j, dram_j, m.dynamic_w * kernel_s)
        bound = np.where(clock < 1.0, len(parts), np.argmax(parts, axis=0))
        kernel_s, sum_s = kernel_s / clock, self.sum_s()
        seconds = kernel_s + sum_s + np.where(self.splits > 1, m.replace_s, 0.0)
        used = (self.splits == 1) | (self.steps * (self.splits - 1) < np.ceil(p.k / self.step))
        return self._choice(int(np.argmin(np.where(used, seconds, np.inf))), kernel_s, sum_s, bound)

    def _choice(self, i: int, kernel_s: np.ndarray, sum_s: np.ndarray, bound: np.ndarray) -> Choice:
        whole = (int(v[i]) for v in (self.bm, self.bn, self.bn2, self.splits, self.group, self.slots))
        names = ("bm", "bn", "bn2", "splits", "group", "slots")
        return Choice(
            **dict(zip(names, whole, strict=True)),
            store_slots=int(self.store_slots()[i]),
            step=self.step,
            kernel_s=float(kernel_s[i]),
            sum_s=float(sum_s[i]),
            bound=("dpe", "sram", "dram", "power")[int(bound[i])],
        )

    # --- one PE ---

    def multiply_s(self) -> np.ndarray:
        """One step on the dot product engine, in whole blocks."""
        m = self.machine
        macs = (self._block_macs(self.bn) + np.where(self.bn2 > 0, self._block_macs(self.bn2), 0)) * self.step
        chain = m.dpe.chain_cycles(self.step * max(self.problem.x_bytes, self.problem.w_bytes))
        chain = chain / np.minimum(m.resident_programs, self.waves)
        return (np.maximum(macs / m.mac_per_cycle, chain) + m.fill_cycles) / m.clock_hz

    def _block_macs(self, columns: np.ndarray) -> np.ndarray:
        """Of one element of depth of a tile so wide, in `DpeSpec.whole_blocks` (sizes are powers of two)."""
        m = self.machine
        macs = np.maximum(self.bm, m.block_m) * np.maximum(columns, m.block_n)
        exchanged = np.maximum(self.bm, m.block_n) * np.maximum(columns, m.block_m)
        return np.minimum(macs, exchanged) if m.dpe.exchanges_operands else macs

    def step_s(self, latency: np.ndarray) -> np.ndarray:
        """The longest of multiply, port, and a slot's round (there, through the port, multiplied) over the slots."""
        m = self.machine
        bytes_, multiply = self.x_step + self.w_step, self.multiply_s()
        port = bytes_ / np.minimum(m.port_bytes_per_s, m.outstanding_bytes / latency)
        turn = (latency + bytes_ / m.port_bytes_per_s + multiply) / self.slots
        return np.maximum(np.maximum(multiply, port), turn)

    def fill_s(self) -> np.ndarray:
        """The first step, that all PEs ask for at once, and its multiply."""
        m = self.machine
        at_once = np.minimum(self.programs, m.n_pes) * self._shared_step_bytes() / m.sram_bytes_per_s
        missing = 1 - min(self.held.w, self._x_held())
        latency = m.sram_latency_s + missing * m.dram_latency_s
        return latency + np.maximum((self.x_step + self.w_step) / m.port_bytes_per_s, at_once) + self.multiply_s()

    def drain_s(self) -> np.ndarray:
        """The last tiles, that all PEs store at once."""
        m = self.machine
        tile = self._tile_bytes()
        at_once = np.minimum(self.programs, m.n_pes) * tile / m.sram_bytes_per_s
        return m.sram_latency_s + np.maximum(tile / m.port_bytes_per_s, at_once)

    def _tile_bytes(self) -> np.ndarray:
        """A tile on its way out; at the edges of the matrix only what is inside."""
        element = np.where(self.splits > 1, PARTIAL_BYTES, self.problem.out_bytes)
        return element * self.problem.m * self.problem.n * self.splits / self.programs

    # --- the chip ---

    def _x_held(self) -> float:
        return self.held.quantised if self.problem.source_bytes else self.held.x

    def _shared_step_bytes(self) -> np.ndarray:
        """What SRAM delivers for one step of one program, reads that PEs share counted once."""
        shares_x = np.minimum(self.machine.shares_x, self.tiles_n)
        shares_w = np.minimum(self.machine.shares_w, self.group)
        return self.x_step / shares_x + self.w_step / shares_w

    def sram_bytes(self) -> np.ndarray:
        """Read and, but for the last tiles (`drain_s`), written."""
        stored = np.maximum(0, self.programs - self.machine.n_pes) * self._tile_bytes()
        return self.programs * self.steps * self._shared_step_bytes() + stored

    def distinct_bytes(self) -> np.ndarray:
        """What PEs ask for, data that several of them use at once counted once: all of them wait if it misses."""
        at_once = np.minimum(self.machine.n_pes, self.programs)
        strips = self.group * self.x_step + np.maximum(1.0, at_once / self.group / self.splits) * self.w_step
        return self.programs / at_once * self.steps * self.splits * strips

    def dram_bytes(self) -> tuple[np.ndarray, float]:
        """Read (less what SRAM holds from the calls before) and written."""
        p = self.problem
        x, w = p.m * p.k * p.x_bytes, p.n * p.k * p.w_bytes
        x_read, w_read = self._passes(self.group)
        found = w * self.held.w + x * self._x_held()
        return x_read + w_read - found, p.m * p.n * p.out_bytes * (1 - self.held.out)

    def with_gaps(self) -> float:
        """Reads of DRAM, with the gap at each row of a step, in reads without."""
        run_bytes = self.step * min(self.problem.x_bytes, self.problem.w_bytes)
        return 1 + self.machine.dram_gap_bytes / run_bytes

    def sum_s(self) -> np.ndarray:
        """The second kernel of a split depth: a round trip, all partial sums."""
        m, p = self.machine, self.problem
        pes = min(m.n_pes, -(-p.m * p.n // SUM_BLOCK))
        bytes_ = p.m * p.n * (PARTIAL_BYTES * self.splits + p.out_bytes)
        under_way = np.minimum(SUM_SLOTS, self.splits) * SUM_BLOCK * PARTIAL_BYTES
        moved = bytes_ / np.minimum(
            m.sram_bytes_per_s, pes * np.minimum(m.port_bytes_per_s, under_way / m.sram_latency_s)
        )
        return np.where(self.splits > 1, 2 * m.sram_latency_s + moved, 0.0)


def _together(parts: np.ndarray) -> np.ndarray:
    """Seconds of resources used at once, a row each: a little above the longest."""
    longest = parts.max(axis=0)
    return longest * ((parts / longest) ** SHARPNESS).sum(axis=0) ** (1 / SHARPNESS)


__all__ = ["Choice", "Kept", "Machine", "Problem", "choose", "kept", "quantise_s", "row_elements", "same_tiling"]
