"""Attention of a transformer layer as a serving framework would run it, timed without a device.

`predict_prefill` (causal attention of whole prompts) and `predict_decode` (one new token per sequence against its
cache) take the tiling and split of least estimated time, launch the real kernels (`kernels/attention.py`) with it on
addresses and time those. A launch too long to simulate whole is simulated in part, with the same tiles, and extended
by the work of the most loaded PE (prefill) or by whole waves of like programs (decode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, gcd, prod
from typing import Any

import numpy as np
import torch
import triton.language as tl

from mtia.chips.spec import ChipSpec
from mtia.engine.memory import survives
from mtia.engine.timeline import KernelTiming
from mtia.engine.timing import run_timed
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels.attention import (
    LOG2_E,
    mtia_attention_combine,
    mtia_attention_decode,
    mtia_attention_forward,
    mtia_attention_store,
)
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.units import FS_PER_S
from mtia.workloads.launches import Buffer, Call, Memory, time_call, trace
from mtia.workloads.prediction import Prediction, Protocol, extended, predicted

MOST_STEPS = 8_000  # blocks of keys that one simulation walks, all programs together
LEAST_BLOCKS = 8  # of keys, of a program that is cut short
MOST_BLOCKS = 12  # of keys, of a program of a decode that is simulated whole
LEAST_WAVES = 2  # of a launch that is cut short
MOST_ROWS = 128  # of a library's tile
LONGEST_SEQ = 2048  # longer prompts are simulated at this length and extended by their blocks
STORE_ROWS = 64  # tokens that one program of the cache write takes
PART_ELEMENTS = 8192  # of the partial answers that one program combines
SOFTMAX_PASSES = 4  # vector passes over a block of scores beside the exponential: maximum, scaling, sum, conversion
STEP_STARTUPS = 12  # vector commands of one block, each with its start-up


@dataclass(frozen=True, slots=True)
class _Format:
    mac: str
    element: torch.dtype
    triton: Any


_BF16 = _Format("bf16", torch.bfloat16, tl.bfloat16)
_FP16 = _Format("fp16", torch.float16, tl.float16)
_FP8 = _Format("fp8", torch.float8_e4m3fn, tl.float8e4nv)
_FORMATS = {"bfloat16": _BF16, "bf16": _BF16, "float16": _FP16, "fp16": _FP16, "fp8": _FP8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One layer's attention. `window`: keys that a query sees, 0 all. `math`: what is multiplied in."""

    batch: int
    seq: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    math: _Format
    cache: _Format

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def reach(self) -> int:
        """Keys that the last token sees."""
        return min(self.seq, self.window) if self.window else self.seq

    @property
    def width(self) -> int:
        return next_power_of_2(self.head_dim)


def predict_prefill(
    spec: ChipSpec,
    *,
    batch: int,
    seq: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int = 0,
    attn_dtype: str = "bfloat16",
    kv_dtype: str = "bfloat16",
    protocol: Protocol = Protocol.GRAPH_ONE,
) -> Prediction:
    """Latency of causal attention of `batch` prompts of `seq` tokens, repeated on the same tensors.

    The keys and values are written to the cache first, by a kernel of its own. Those of a cache narrower than the
    operands are multiplied in whichever of the two types is faster. Raises BadProblem and UnsupportedDtype.
    """
    problem = _problem("prefill attention", spec, batch, seq, heads, kv_heads, head_dim, window, attn_dtype, kv_dtype)
    given = problem.math
    choices = [(p, choose_prefill(spec, p)) for p in _multiplied_in(spec, problem)]
    problem, choice = min(choices, key=lambda pair: pair[1].seconds)
    launches = [_time_store(spec, problem, given), _time_prefill(spec, problem, choice)]
    if problem.math.element.itemsize < given.element.itemsize:
        launches.insert(0, _time_narrowed_queries(spec, problem, given))
    return predicted(spec, protocol, launches, how=str(choice))


def _multiplied_in(spec: ChipSpec, p: Attention) -> list[Attention]:
    """The problem in the types that its blocks may be multiplied in: the operands' or that of a narrower cache.

    Weights leave the softmax as accumulators and are operands at once. Where both are registers their layouts agree for
    16-bit types alone, and libraries convert 8-bit operands up.
    """
    if not spec.pe.dpe.narrow_weights:
        return [replace(p, math=_BF16) if p.math is _FP8 else p]
    narrower = p.cache.element.itemsize < p.math.element.itemsize and p.cache.mac in spec.pe.dpe.mac_per_cycle
    return [p, replace(p, math=p.cache)] if narrower else [p]


def predict_decode(
    spec: ChipSpec,
    *,
    batch: int,
    seq: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int = 0,
    attn_dtype: str = "bfloat16",
    kv_dtype: str = "bfloat16",
    protocol: Protocol = Protocol.GRAPH_ONE,
) -> Prediction:
    """Latency of attention of one new token in each of `batch` sequences of `seq` tokens (the new one included) to
    their cache, repeated on the same cache: what fits SRAM is there. The new token's keys and values are written to it
    first, by a kernel of its own. Raises BadProblem and UnsupportedDtype."""
    problem = _problem("decode attention", spec, batch, seq, heads, kv_heads, head_dim, window, attn_dtype, kv_dtype)
    choice = choose_decode(spec, problem)
    store = _time_conversion(spec, batch, kv_heads * head_dim, _FORMATS[attn_dtype], problem.cache)
    return predicted(spec, protocol, [store, _time_decode(spec, problem, choice)], how=str(choice))


def _problem(
    what: str, spec: ChipSpec, batch: int, seq: int, heads: int, kv_heads: int, head_dim: int, window: int,
    attn_dtype: str, kv_dtype: str,
) -> Attention:  # fmt: skip
    sizes = {"batch": batch, "seq": seq, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    for name, value in sizes.items():
        if value < 1:
            raise BadProblem(what, argument=name, value=value, allowed="sizes are at least 1")
    if heads % kv_heads:
        raise BadProblem(what, argument="kv_heads", value=kv_heads, allowed=f"a divisor of heads, {heads}")
    if window < 0:
        raise BadProblem(what, argument="window", value=window, allowed="tokens, 0 for all")
    for dtype in (attn_dtype, kv_dtype):
        if dtype not in _FORMATS:
            raise UnsupportedDtype(what, chip=spec.name, dtype=dtype, supported=tuple(_FORMATS))
    math, cache = _FORMATS[attn_dtype], _FORMATS[kv_dtype]
    if math.mac not in spec.pe.dpe.mac_per_cycle:
        able = [name for name, form in _FORMATS.items() if form.mac in spec.pe.dpe.mac_per_cycle]
        raise UnsupportedDtype(what, chip=spec.name, dtype=attn_dtype, supported=able)
    return Attention(
        batch=batch, seq=seq, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        window=0 if window >= seq else window, math=math, cache=cache,
    )  # fmt: skip


# --- what a block costs a PE ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pe:
    """Rates of one PE for one type of multiply, per cycle, and of the memory behind it, in seconds and bytes."""

    spec: ChipSpec
    math: _Format

    def dot(self, m: int, k: int, n: int, *, n_programs: int) -> float:
        """Cycles of one block multiply, in a launch of so many programs."""
        dpe, pe = self.spec.pe.dpe, self.spec.pe
        rate = prod(dpe.whole_blocks(m, n)) * k / dpe.mac_per_cycle[self.math.mac]
        in_turn = min(pe.resident_programs, ceil(n_programs / self.spec.grid.n_pes))
        return dpe.fill_cycles + max(rate, dpe.chain_cycles(k * self.math.element.itemsize) / in_turn)

    @property
    def vector_rate(self) -> float:
        cores, sfu = self.spec.pe.cores, self.spec.pe.sfu
        return max(cores.vector_cores * cores.vector_bytes_per_cycle / 4, sfu.elements_per_cycle.get("fp32", 0))

    def softmax(self, m: int, n: int, *, together: bool = True) -> float:
        """Cycles of the weights of a block of scores: tables and vector passes side by side, or in turn."""
        sfu = self.spec.pe.sfu
        tables, passes = m * n / sfu.lut_elements_per_cycle, SOFTMAX_PASSES * m * n / self.vector_rate
        return STEP_STARTUPS * sfu.startup_cycles + (max(tables, passes) if together else tables + passes)

    def passes(self, elements: int) -> float:
        return self.spec.pe.sfu.startup_cycles + elements / self.vector_rate

    @property
    def round_trip_s(self) -> float:
        spec = self.spec
        return 2 * spec.noc.latency_s + spec.sram.latency_s + spec.dram.latency_s

    @property
    def stream_bytes_per_s(self) -> float:
        """What one PE can read: its port, its DMA engine, its bytes in flight."""
        dma = self.spec.pe.dma
        in_flight = dma.max_outstanding_bytes / self.round_trip_s
        return min(self.spec.noc.pe_bytes_per_s, dma.read_bytes_per_cycle * self.spec.clock_hz, in_flight)


def _seed(memory: Memory, read: Sequence[Buffer], written: Sequence[Buffer]) -> None:
    """SRAM as the run before left it: of each tensor the share that is kept, beside others' data to make room."""
    total = sum(b.n_bytes for b in (*read, *written))
    share = survives(memory.spec.sram, total)
    room = memory.residency.capacity_bytes
    if share < 1.0:
        memory.fill_with_others(int(room - share * total), sum(b.n_bytes for b in written) / total)
    held = [
        (b.address, b.address + b.n_bytes, w, int(share * b.n_bytes))
        for bs, w in ((read, False), (written, True))
        for b in bs
    ]
    memory.residency.touch_together(held)


def _shared_s(spec: ChipSpec, distinct_bytes: float, moved_bytes: float, written_bytes: float) -> tuple[float, float]:
    """Seconds that SRAM and DRAM need at least."""
    kept = survives(spec.sram, distinct_bytes)
    dram = spec.dram.bytes_per_s * spec.dram.efficiency_frac
    return (moved_bytes + written_bytes) / spec.sram.bytes_per_s, (1 - kept) * distinct_bytes / dram


# --- prefill ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChoice:
    """Tile and order of a prefill, with its estimated seconds. `run`: heads whose tiles are walked together."""

    queries: int
    grouped: int  # BG
    keys: int
    lookahead: bool
    run: int
    seconds: float
    math: str

    def __str__(self) -> str:
        heads = f" of {self.grouped} heads" if self.grouped > 1 else ""
        ahead = ", scores one block ahead" if self.lookahead else ""
        return f"tiles of {self.queries} queries{heads} x {self.keys} keys in {self.math}{ahead}"


def _alone_s(spec: ChipSpec, p: Attention, c: PrefillChoice) -> float:
    """What a block of its own spends while nothing else of it runs, and no other block on its PE: set-up, its first
    loads and its store."""
    held = resident(spec, p, c)
    if held is None:
        return 0.0
    pe = _Pe(spec, p.math)
    moved = (2 * c.queries * c.grouped + c.keys) * p.width * p.math.element.itemsize
    return (spec.launch.program_s + 2 * pe.round_trip_s + moved / pe.stream_bytes_per_s) / held


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tiles:
    """What the tiles of one head take: cycles of each, in order of position, and blocks of keys."""

    cycles: np.ndarray
    blocks: np.ndarray

    @property
    def n_tiles(self) -> int:
        return len(self.cycles)


def _units(p: Attention, grouped: int) -> int:
    """Heads that have programs of their own, all sequences together."""
    return p.batch * (p.kv_heads if grouped > 1 else p.heads)


def _tiles(spec: ChipSpec, p: Attention, c: PrefillChoice) -> _Tiles:
    pe = _Pe(spec, p.math)
    rows = c.queries * c.grouped
    first = np.arange(ceil_div(p.seq, c.queries)) * c.queries
    stop = np.minimum(p.seq, first + c.queries)
    start = np.maximum(0, first - p.window + 1) // c.keys * c.keys if p.window else np.zeros_like(first)
    blocks = np.maximum(1, -(-(stop - start) // c.keys))
    whole = np.minimum(p.seq // c.keys * c.keys, (first + 1) // c.keys * c.keys)
    masked = blocks if p.window else blocks - np.minimum(whole // c.keys, blocks)
    n_programs = len(first) * _units(p, c.grouped)
    multiply = pe.dot(rows, p.width, c.keys, n_programs=n_programs)
    multiply += pe.dot(rows, c.keys, p.width, n_programs=n_programs)
    weights = pe.softmax(rows, c.keys, together=not c.lookahead) + pe.passes(rows * p.width)
    step = max(multiply, weights) if c.lookahead else multiply + weights
    cycles = blocks * step + masked * 2 * pe.passes(rows * c.keys) + 3 * pe.passes(rows * p.width)
    cycles = cycles + _alone_s(spec, p, c) * spec.clock_hz
    return _Tiles(cycles=cycles, blocks=blocks)


def _dealt(tiles: _Tiles, n_programs: int, run: int, n_pes: int) -> float:
    """Cycles of the most loaded PE: the kernel's order of tiles, program i on PE i modulo the PEs."""
    mean = n_programs / tiles.n_tiles * float(tiles.cycles.sum()) / n_pes
    if n_programs > 400 * n_pes:
        return mean
    program = np.arange(n_programs)
    section, within = np.divmod(program, run * tiles.n_tiles)
    rank = within // run
    tile = np.where(section % 2 == 1, rank, tiles.n_tiles - 1 - rank)
    return float(np.bincount(program % n_pes, weights=tiles.cycles[tile]).max())


@lru_cache(maxsize=4096)
def choose_prefill(spec: ChipSpec, p: Attention) -> PrefillChoice:
    """The tile of least estimated time."""
    return min(_prefill_candidates(spec, p), key=lambda c: c.seconds)


def _prefill_candidates(spec: ChipSpec, p: Attention) -> list[PrefillChoice]:
    """The library's tile for this head size, with the query heads of a KV head apart or, where the threads that
    multiply fetch the queries themselves, together; a copy engine fetches boxes of one head."""
    packed = 1 if spec.pe.dpe.separate_accumulators else next_power_of_2(p.group)
    found = []
    for grouped in sorted({1, packed if packed <= MOST_ROWS else 1}):
        rows, keys = _library_tile(spec, p, p.seq * grouped)
        c = PrefillChoice(
            queries=rows // grouped, grouped=grouped, keys=keys, lookahead=_looks_ahead(spec, p, rows, keys), run=1,
            seconds=0.0, math=p.math.mac,
        )  # fmt: skip
        found.append(_weighed(spec, p, c))
    return found


def _library_tile(spec: ChipSpec, p: Attention, filled: int) -> tuple[int, int]:
    """Rows and keys of a block: libraries have one tile a head size, the largest whose scores and answers the
    accumulators hold together and whose blocks (two of keys and values) local memory holds; where there is none, the
    scores and answers take turns. A smaller one where the prompt has no more than `filled` rows to fill it, down to two
    blocks of the engine."""
    highest = max(2 * spec.pe.dpe.block_n, min(MOST_ROWS, next_power_of_2(filled)), MOST_ROWS // 2)
    sizes = [(rows, keys) for rows in (128, 64, 32, 16) if rows <= highest for keys in (128, 64, 32)]
    for together in (True, False):
        for rows, keys in sizes:
            scores, answers = 4 * rows * keys, 4 * rows * p.width
            held = scores + answers if together else max(scores, answers)
            local = (rows + 4 * keys) * p.width * p.math.element.itemsize
            if (
                held <= spec.pe.dpe.accumulator_bytes
                and local <= spec.pe.local_memory_bytes
                and (rows >= 64 or not together)
            ):
                return rows, keys
    return 16, 16


def _looks_ahead(spec: ChipSpec, p: Attention, rows: int, keys: int) -> bool:
    """Two blocks of scores in flight beside the answers, in accumulators that vector work does not live in."""
    dpe = spec.pe.dpe
    return dpe.separate_accumulators and 4 * rows * (2 * keys + p.width) <= dpe.accumulator_bytes


def resident(spec: ChipSpec, p: Attention, c: PrefillChoice) -> int | None:
    """Programs that a PE holds at once; None where a PE does not hold several (they follow through their buffers)."""
    pe = spec.pe
    if pe.resident_programs == 1:
        return None
    rows = c.queries * c.grouped
    accumulators = 4 * rows * (c.keys * (2 if c.lookahead else 1) + p.width)
    buffers = (rows + 4 * c.keys) * p.width * p.math.element.itemsize
    fit = min(pe.dpe.accumulator_bytes // accumulators, pe.local_memory_bytes // buffers)
    return max(1, min(pe.resident_programs, fit))


def _weighed(spec: ChipSpec, p: Attention, c: PrefillChoice) -> PrefillChoice:
    tiles = _tiles(spec, p, c)
    n_programs = tiles.n_tiles * _units(p, c.grouped)
    together = [1] if c.grouped > 1 else sorted({1, p.group, min(_units(p, 1), 4 * p.group)})
    loads = [(_dealt(tiles, n_programs, run, spec.grid.n_pes), run) for run in together]
    cycles, run = min(loads)
    pe = _Pe(spec, p.math)
    rows = c.queries * c.grouped
    kv_bytes = 2 * p.batch * p.kv_heads * p.seq * p.head_dim * p.math.element.itemsize
    q_bytes = p.batch * p.heads * p.seq * p.head_dim * p.math.element.itemsize
    o_bytes = p.batch * p.heads * p.seq * p.head_dim * 2
    read = 2 * _units(p, c.grouped) * float(tiles.blocks.sum()) * c.keys * p.head_dim * p.math.element.itemsize
    sram_s, dram_s = _shared_s(spec, kv_bytes + q_bytes + o_bytes, read + q_bytes, o_bytes)
    busy = min(n_programs, spec.grid.n_pes)
    port_s = (read + q_bytes) / busy / pe.stream_bytes_per_s
    fill_s = 2 * pe.round_trip_s + (rows + 2 * c.keys) * p.width * p.math.element.itemsize / pe.stream_bytes_per_s
    return replace(c, run=run, seconds=max(cycles / spec.clock_hz, sram_s, dram_s, port_s) + fill_s)


def _time_prefill(spec: ChipSpec, p: Attention, c: PrefillChoice) -> KernelTiming:
    """The launch, or a part of it extended by the work of the most loaded PE."""
    part = _shorter(p, c)
    tiles = _tiles(spec, part, c)
    programs = tiles.n_tiles * _units(part, c.grouped)
    simulated = _part_of(tiles, c, programs, spec.grid.n_pes)
    memory = Memory(spec)
    tokens = p.batch * p.seq
    q, out = (memory.buffer(tokens * p.heads * p.head_dim, e) for e in (p.math.element, torch.bfloat16))
    k, v = (memory.buffer(tokens * p.kv_heads * p.head_dim, p.math.element) for _ in range(2))
    _seed(memory, (q, k, v), (out,))
    traced = trace(_forward(part, c, (q, k, v, out), simulated), spec)
    timing = run_timed(traced, spec, memory.residency, resident=resident(spec, p, c))
    if simulated == programs and part == p:
        return timing
    whole = _tiles(spec, p, c)
    n_pes = spec.grid.n_pes
    longer = _dealt(whole, whole.n_tiles * _units(p, c.grouped), c.run, n_pes) / _dealt(tiles, simulated, c.run, n_pes)
    return extended(timing, longer)


def _shorter(p: Attention, c: PrefillChoice) -> Attention:
    if p.seq <= LONGEST_SEQ or p.window:
        return p
    return replace(p, seq=LONGEST_SEQ)


def _part_of(tiles: _Tiles, c: PrefillChoice, programs: int, n_pes: int) -> int:
    """Programs to simulate: all, or whole sections of the order and, where they are short, whole waves."""
    steps = float(tiles.blocks.sum()) / tiles.n_tiles + 1
    most = max(2 * n_pes, int(MOST_STEPS / steps))
    if programs <= most:
        return programs
    section = 2 * c.run * tiles.n_tiles
    period = section * n_pes // gcd(section, n_pes)
    for unit in (period, section, n_pes):
        if 2 * unit <= most:
            return most // unit * unit
    return most


def _forward(p: Attention, c: PrefillChoice, tensors: tuple[Buffer, ...], programs: int) -> Call:
    """The kernel on tensors [batch, seq, heads, D] laid out token by token; the first `programs` of its grid."""
    q, k, v, out = tensors
    D = p.head_dim
    q_strides, k_strides = (p.seq * p.heads * D, D, p.heads * D, 1), (p.seq * p.kv_heads * D, D, p.kv_heads * D, 1)
    return Call(
        kernel=mtia_attention_forward,
        grid=(programs,),
        arguments=(
            q, k, v, out, out, LOG2_E / D**0.5, 1.0,
            p.seq, p.seq, p.heads, p.group, p.kv_heads if c.grouped > 1 else p.heads, c.run, 0, p.window,
            *q_strides, *k_strides, *k_strides, *q_strides,
        ),
        constants=dict(
            BQ=c.queries, BG=c.grouped, BN=c.keys, BD=p.width, D=D, CAUSAL=True, WINDOWED=p.window > 0, HAS_LSE=False,
            LOOKAHEAD=c.lookahead, TYPE=p.math.triton, INDEX=tl.int64,
        ),
    )  # fmt: skip


def _time_store(spec: ChipSpec, p: Attention, source: _Format) -> KernelTiming:
    """Keys and values written to the cache."""
    return _time_conversion(spec, p.batch * p.seq, p.kv_heads * p.head_dim, source, p.cache)


def _time_narrowed_queries(spec: ChipSpec, p: Attention, source: _Format) -> KernelTiming:
    """Queries converted, in two halves side by side."""
    return _time_conversion(spec, ceil_div(p.batch * p.seq, 2), p.heads * p.head_dim, source, p.math)


def _time_conversion(spec: ChipSpec, tokens: int, row: int, source: _Format, target: _Format) -> KernelTiming:
    """Two tensors [tokens, row] read in one type and written in another."""
    memory = Memory(spec)
    given = [memory.buffer(tokens * row, source.element) for _ in range(2)]
    cache = [memory.buffer(tokens * row, target.element) for _ in range(2)]
    rows = max(1, STORE_ROWS * 128 // next_power_of_2(row))
    programs = ceil_div(tokens, rows)
    waves = ceil_div(programs, spec.grid.n_pes)
    call = Call(
        kernel=mtia_attention_store,
        grid=(programs,),
        arguments=(*given, *cache, 1.0, 1.0, tokens, row),
        constants=dict(ROWS=rows, WIDTH=next_power_of_2(row), N=row),
    )
    _seed(memory, given, cache)
    most = max(4, MOST_STEPS // 4 // spec.grid.n_pes)
    if waves <= most:
        return time_call(call, memory)
    short = replace(call, grid=(most * spec.grid.n_pes,))
    return extended(time_call(short, memory), waves / most)


# --- decode -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeChoice:
    """Splits of the keys and block of a decode, with its estimated seconds."""

    splits: int
    keys: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.splits} split{'s' if self.splits > 1 else ''} of the keys, blocks of {self.keys}"


def _split_tokens(p: Attention, splits: int, keys: int) -> int:
    return ceil_div(ceil_div(p.reach + (keys if p.window else 0), keys), splits) * keys


@lru_cache(maxsize=4096)
def choose_decode(spec: ChipSpec, p: Attention) -> DecodeChoice:
    """Splits and block of least estimated time."""
    fitting = [keys for keys in (128, 64, 32, 16) if _decode_buffers(p, keys) <= spec.pe.local_memory_bytes]
    sizes = [keys for keys in fitting if keys >= 64] or fitting[:1] or [16]
    found = []
    for keys in sizes:
        blocks = ceil_div(p.reach, keys)
        most = min(blocks, 4 * ceil_div(spec.grid.n_pes, p.batch * p.kv_heads), 64)
        for splits in sorted({*(1 << i for i in range(7)), *range(1, 17), most}):
            if splits <= most:
                found.append(_weighed_decode(spec, p, splits, keys))
    return min(found, key=lambda c: c.seconds)


def _decode_buffers(p: Attention, keys: int) -> int:
    """Local memory of a program: queries, and two blocks of keys and values each."""
    return (next_power_of_2(p.group) * 2 + 4 * keys * p.cache.element.itemsize) * p.width


def decode_resident(spec: ChipSpec, p: Attention, keys: int) -> int | None:
    """Programs that a PE holds at once; None where a PE does not hold several."""
    if spec.pe.resident_programs == 1:
        return None
    return max(1, min(spec.pe.resident_programs, spec.pe.local_memory_bytes // _decode_buffers(p, keys)))


def _weighed_decode(spec: ChipSpec, p: Attention, splits: int, keys: int) -> DecodeChoice:
    pe = _Pe(spec, p.math)
    rows = next_power_of_2(p.group)
    programs = p.batch * p.kv_heads * splits
    blocks = ceil_div(_split_tokens(p, splits, keys), keys)
    dots = [pe.dot(rows, k, n, n_programs=programs) for k, n in ((p.width, keys), (keys, p.width))]
    step = sum(dots) + pe.softmax(rows, keys)
    if p.cache is not p.math:
        step += 2 * pe.passes(keys * p.width)
    block_bytes = 2 * keys * p.head_dim * p.cache.element.itemsize
    step_s = max(step / spec.clock_hz, block_bytes / pe.stream_bytes_per_s)
    waves = ceil_div(programs, spec.grid.n_pes)
    kv_bytes = 2 * p.batch * p.kv_heads * p.reach * p.head_dim * p.cache.element.itemsize
    sram_s, dram_s = _shared_s(spec, kv_bytes, kv_bytes, 0.0)
    alone_s = spec.launch.program_s + 4 * pe.round_trip_s + blocks * (pe.round_trip_s / 2 + step / spec.clock_hz)
    held = decode_resident(spec, p, keys) or 2
    seconds = max(
        waves * blocks * step_s, ceil(programs / spec.grid.n_pes / held) * alone_s, sram_s, dram_s + alone_s / blocks
    )
    if splits > 1:
        part_bytes = 4 * p.batch * p.heads * splits * p.head_dim
        seconds += 3 * pe.round_trip_s + 2 * part_bytes / spec.sram.bytes_per_s
    return DecodeChoice(splits=splits, keys=keys, seconds=seconds)


def _time_decode(spec: ChipSpec, p: Attention, c: DecodeChoice) -> KernelTiming:
    memory = Memory(spec)
    lengths = np.full(p.batch, p.seq, dtype=np.int32)  # real memory: the kernel's loops depend on it
    table = Buffer(lengths.ctypes.data, torch.int32, lengths.nbytes)
    n = p.batch * p.heads * p.head_dim
    q, out = (memory.buffer(n, torch.bfloat16) for _ in range(2))
    k, v = (memory.buffer(p.batch * p.kv_heads * p.seq * p.head_dim, p.cache.element) for _ in range(2))
    parts = memory.buffer(n * c.splits, torch.float32) if c.splits > 1 else out
    lse = memory.buffer(p.batch * p.heads * c.splits, torch.float32) if c.splits > 1 else out
    _seed(memory, (q, *_seen(p, k), *_seen(p, v)), (out,) if c.splits == 1 else (parts, lse, out))
    programs = p.batch * p.kv_heads * c.splits
    blocks = ceil_div(_split_tokens(p, c.splits, c.keys), c.keys)

    resident = decode_resident(spec, p, c.keys)

    def call(programs: int, blocks: int) -> Call:
        return _decode(p, c, (q, k, v, parts, lse, table), programs, blocks, resident)

    timing = _time_like_programs(call, memory, programs, blocks, resident)
    return _combined(p, c, memory, timing, (parts, lse, out)) if c.splits > 1 else timing


def _seen(p: Attention, cache: Buffer) -> list[Buffer]:
    """What of a cache is read: all, or with a window the end of each sequence."""
    if p.reach == p.seq:
        return [cache]
    row = p.kv_heads * p.head_dim
    starts = (((b + 1) * p.seq - p.reach) * row for b in range(p.batch))
    return [Buffer(cache.at(at).address, cache.dtype, p.reach * row * cache.dtype.itemsize) for at in starts]


def _combined(p: Attention, c: DecodeChoice, memory: Memory, parts: KernelTiming, tensors: tuple) -> KernelTiming:
    """The last program of each head to end, told by a counter, combines the parts: as the combining kernel without a
    launch of its own, after a round trip to the counter."""
    for tensor in tensors[:2]:
        memory.warm(tensor, written=True)
    combine = _time_combine(p, c, memory, tensors)
    counter_fs = round((2 * memory.spec.noc.latency_s + memory.spec.sram.latency_s) * FS_PER_S)
    critical = {part: fs + combine.critical_fs[part] for part, fs in parts.critical_fs.items()}
    critical["latency"] += counter_fs
    return replace(
        parts,
        makespan_fs=sum(critical.values()),
        critical_fs=critical,
        requested_bytes=parts.requested_bytes + combine.requested_bytes,
        dram_read_bytes=parts.dram_read_bytes + combine.dram_read_bytes,
        dram_write_bytes=parts.dram_write_bytes + combine.dram_write_bytes,
    )


def _decode(
    p: Attention, c: DecodeChoice, tensors: tuple[Buffer, ...], programs: int, blocks: int, resident: int | None
) -> Call:
    """The kernel on a cache [batch, seq, kv_heads, D] whose pages follow each other; the first `programs` of its grid,
    the first `blocks` of each. Programs of one PE work one after the other, so blocks under way are those of all."""
    q, k, v, parts, lse, lengths = tensors
    D = p.head_dim
    row = p.kv_heads * D
    cache_strides = (p.seq * row, row, D, 1)
    return Call(
        kernel=mtia_attention_decode,
        grid=(programs,),
        arguments=(
            q, k, v, parts, lse, lengths, lengths, LOG2_E / D**0.5, 1.0,
            p.kv_heads, c.splits, blocks * c.keys, p.window, 0,
            p.heads * D, D, 1, *cache_strides, *cache_strides, p.heads * D, D, 1,
        ),
        constants=dict(
            G=p.group, BG=next_power_of_2(p.group), BN=c.keys, BD=p.width, D=D, PAGE=0, WINDOWED=p.window > 0,
            SPLIT=c.splits > 1, TYPE=p.math.triton, INDEX=tl.int64,
        ),
        options=dict(num_stages=2 * (resident or 1)),
    )  # fmt: skip


def _time_like_programs(
    call: Callable[[int, int], Call], memory: Memory, programs: int, blocks: int, resident: int | None = None
) -> KernelTiming:
    """A launch of like programs of so many blocks: whole where it is short, else the time of shorter ones and what a
    block and a wave more add in the steady state."""
    n_pes = memory.spec.grid.n_pes * (resident or 1)
    waves, rest = divmod(programs, n_pes)
    most_waves = max(LEAST_WAVES, MOST_STEPS // (min(blocks, LEAST_BLOCKS) * n_pes))
    shown = programs if waves <= most_waves else most_waves * n_pes + rest
    most_blocks = max(LEAST_BLOCKS, min(MOST_BLOCKS, MOST_STEPS // shown))
    if blocks > most_blocks and shown < programs:
        shown = most_waves * n_pes

    def timed(n: int, length: int) -> KernelTiming:
        """Alone: what SRAM holds stays as it was."""
        traced = trace(call(n, length), memory.spec)
        return run_timed(traced, memory.spec, memory.residency, resident=resident)

    length = min(blocks, most_blocks)
    timing = timed(shown, length)
    if length < blocks:
        half, more = timed(shown, length // 2), length - length // 2
        block_fs = max(timing.makespan_fs - half.makespan_fs, _dram_fs(memory.spec, half, timing)) / more
        timing = extended(timing, 1.0 + block_fs * (blocks - length) / timing.makespan_fs)
        return extended(timing, programs / shown)
    if shown < programs:
        few = most_waves // 2
        wave_fs = (timing.makespan_fs - timed(few * n_pes + rest, length).makespan_fs) / (most_waves - few)
        timing = extended(timing, 1.0 + wave_fs * (waves - most_waves) / timing.makespan_fs)
    return timing


def _dram_fs(spec: ChipSpec, before: KernelTiming, after: KernelTiming) -> float:
    """What DRAM takes for the reads by which two launches differ: programs that are still being set up hide it."""
    more_bytes = after.dram_read_bytes - before.dram_read_bytes
    return more_bytes / (spec.dram.bytes_per_s * spec.dram.efficiency_frac) * FS_PER_S


def _time_combine(p: Attention, c: DecodeChoice, memory: Memory, tensors: tuple[Buffer, ...]) -> KernelTiming:
    splits = next_power_of_2(c.splits)
    rows = max(1, PART_ELEMENTS // (splits * p.width))
    rows = min(rows, next_power_of_2(ceil_div(p.batch * p.heads, memory.spec.grid.n_pes)))
    call = Call(
        kernel=mtia_attention_combine,
        grid=(ceil_div(p.batch * p.heads, rows),),
        arguments=(*tensors, p.batch * p.heads, c.splits),
        constants=dict(ROWS=rows, SPLITS=splits, BD=p.width, D=p.head_dim, INDEX=tl.int64),
    )
    return _time_like_programs(lambda programs, _: replace(call, grid=(programs,)), memory, call.grid[0], 1)


__all__ = ["predict_decode", "predict_prefill"]
