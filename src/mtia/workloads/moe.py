"""The fused expert block of a mixture of experts, timed without a device (docs/timing.md, "Mixture of experts").

Router logits are given; the block routes tokens, sorts the assignments of this rank's experts, multiplies each expert's
rows by its matrices, and adds what comes back weighted. The rank holds experts / moe_ep experts with inter / moe_tp
columns each; assignments to other ranks' experts are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from math import ceil
from typing import Any

import numpy as np
import torch

from mtia.chips.spec import ChipSpec
from mtia.engine.timeline import KernelTiming
from mtia.engine.timing import run_timed
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels import moe as kernels
from mtia.kernels.copy import FILL
from mtia.kernels.elementwise import plan
from mtia.kernels.grouped_matmul import mtia_grouped_matmul, mtia_grouped_matmul_w4
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.transformer import SILU_MUL, mtia_quantize_groups
from mtia.workloads.launches import Buffer, Call, Memory, trace
from mtia.workloads.prediction import Prediction, Protocol, extended, predicted

# --- how many rows each expert gets -----------------------------------------------------------------------------------

BALANCED = "balanced"
POWER_LAW = "power_law_"
DRAWS = 33  # random routings, of which the typical one is taken
SEED = 2020


def expert_rows(tokens: int, topk: int, experts: int, ranks: int, distribution: str) -> np.ndarray:
    """Assignments by expert on the rank that gets most, int64 [experts / ranks].

    "balanced": as even as whole assignments can be. "power_law_<a>": expert popularities are independent draws from a
    density falling as x^-a (from 1 to 0.8 tokens; from 0.01 to 2 where there are fewer assignments than experts),
    scaled to the number of assignments; of `DRAWS` seeded routings, the one whose busiest rank is the median.
    Raises BadProblem for another name.
    """
    if distribution == BALANCED:
        return _even(tokens * topk, experts)[: experts // ranks]
    if not distribution.startswith(POWER_LAW):
        known = f"known are {BALANCED!r} and {POWER_LAW + '<exponent>'!r}"
        raise BadProblem("mixture of experts", argument="distribution", value=distribution, allowed=known)
    return _typical_rows(tokens, topk, experts, ranks, float(distribution.removeprefix(POWER_LAW)))


def _even(assignments: int, experts: int) -> np.ndarray:
    """The first experts get what is left over, spread evenly."""
    ends = -(-np.arange(experts + 1) * assignments // experts)
    return np.diff(ends)


@lru_cache(maxsize=4096)
def _typical_rows(tokens: int, topk: int, experts: int, ranks: int, exponent: float) -> np.ndarray:
    low, high = (1.0, 0.8 * tokens) if tokens * topk > experts else (0.01, 2.0)
    power = 1.0 - exponent
    uniform = np.random.default_rng(SEED).random((DRAWS, experts))
    popularity = (low**power + (high**power - low**power) * uniform) ** (1.0 / power)
    shares = np.minimum(popularity / popularity.sum(axis=1, keepdims=True) * tokens * topk, tokens)
    busiest = shares.reshape(DRAWS, ranks, -1).sum(axis=2).max(axis=1)
    typical = shares[np.argsort(busiest, kind="stable")[DRAWS // 2]]
    rows = _with_sum(np.rint(typical).astype(np.int64), tokens * topk, tokens, ranks).reshape(ranks, -1)
    return rows[int(rows.sum(axis=1).argmax())]


def _with_sum(rows: np.ndarray, total: int, most: int, ranks: int) -> np.ndarray:
    """Ranks in turn give one more to their expert with fewest (or take one from that with most) until it fits."""
    by_rank = rows.reshape(ranks, -1)
    while (missing := total - int(by_rank.sum())) != 0:
        sign = 1 if missing > 0 else -1
        room = (most - by_rank).sum(axis=1) if sign > 0 else by_rank.sum(axis=1)
        able = np.flatnonzero(room)
        shares = np.diff(-(-np.arange(len(able) + 1) * abs(missing) // len(able)))
        for rank, share in zip(able, shares, strict=True):
            by_rank[rank] = sign * _raised(sign * by_rank[rank], int(min(share, room[rank])), most if sign > 0 else 0)
    return by_rank.reshape(-1)


def _raised(counts: np.ndarray, amount: int, top: int) -> np.ndarray:
    """`amount` ones added, always to the lowest of `counts`, none above `top`."""
    low, high = int(counts.min()), top
    while low < high:  # the highest level that all can be raised to
        level = (low + high + 1) // 2
        if np.maximum(0, level - counts).sum() <= amount:
            low = level
        else:
            high = level - 1
    raised = np.maximum(counts, low)
    left = amount - int(raised.sum() - counts.sum())
    raised[np.flatnonzero(raised == low)[:left]] += 1
    return raised


# --- the problem ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How weights and activations are stored and multiplied. Depth `weight_depth` of a weight is one stored element.

    `quantised`: activations come in bfloat16 and are quantised on the way; `unpacked`: codes become bfloat16 on the
    vector cores before they are multiplied. Scales are in the weights' bytes.
    """

    mac: str
    weight: torch.dtype
    x: torch.dtype
    weight_depth: float = 1.0
    x_depth: float = 1.0
    quantised: bool = False
    unpacked: bool = False


_E4M3 = torch.float8_e4m3fn
FORMATS = {
    "bfloat16": Format(mac="bf16", weight=torch.bfloat16, x=torch.bfloat16),
    "float16": Format(mac="fp16", weight=torch.float16, x=torch.float16),
    "fp8": Format(mac="fp8", weight=_E4M3, x=_E4M3, quantised=True),
    "fp8_block": Format(mac="fp8", weight=_E4M3, x=_E4M3, quantised=True),
    "nvfp4": Format(mac="fp4", weight=_E4M3, x=_E4M3, weight_depth=2 / 1.125, x_depth=2 / 1.125, quantised=True),
    "w4a16_mxfp4": Format(mac="bf16", weight=torch.uint8, x=torch.bfloat16, weight_depth=2.0, unpacked=True),
    "w4a8_mxfp4_mxfp8": Format(mac="mx8", weight=_E4M3, x=_E4M3, weight_depth=2 / 1.0625, quantised=True),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows, columns and depth of a step; `stages`: slots of its circular buffers; `band`: row tiles side by side."""

    m: int
    n: int
    k: int
    stages: int = 2
    band: int = 8


class Remote(StrEnum):
    """What becomes of the assignments to other ranks' experts."""

    DROPPED = "dropped"
    ZEROED_HERE = "zeroed here"  # as below, of the tokens that have an expert here
    ZEROED = "zeroed"  # their rows are set to zero where a product would be, then activated and summed like others
    MULTIPLIED = "multiplied"  # by some local expert, where the token has one here


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How a library builds the block.

    `gathers`: the multiply reads a token's row where it lies; else rows are first copied into the experts' order.
    `fuses`: the first multiply's epilogue activates (and quantises); else launches of their own do.
    `fixed_tiles`: tiles that do not look at the chip (Triton's fused kernel without a table made for the shape), and
    programs that do not know of clusters, so each reads for itself.
    `expands`: weights of four bits become bfloat16 when they are loaded, once and for all.
    `helpers`: further small launches: cleared counters, steps of the sort, descriptors of the multiplies' operands.
    """

    gathers: bool = False
    fuses: bool = False
    fixed_tiles: bool = False
    expands: bool = False
    helpers: int = 0
    remote: Remote = Remote.DROPPED


LIBRARY = Build(helpers=3)
FUSED = Build(gathers=True, fuses=True)
PORTABLE = Build(gathers=True, fixed_tiles=True, helpers=1, remote=Remote.ZEROED)
MARLIN = replace(PORTABLE, fixed_tiles=False)
SGLANG = replace(PORTABLE, expands=True, remote=Remote.ZEROED_HERE)
SGLANG_MULTIPLYING = replace(SGLANG, remote=Remote.MULTIPLIED)


def build_of(kernel: str, version: str = "", dtype: str = "") -> Build:
    """The build behind a kernel's name in measured data: TensorRT-LLM's generated kernels, Triton's fused kernel of
    vLLM or SGLang (which before 0.5.11 multiplied remote assignments: measured, the time does not fall with the ranks),
    or another library's."""
    if "fused_moe_triton" in kernel:
        return SGLANG_MULTIPLYING if version.startswith(("0.4", "0.5.10")) else SGLANG
    if "triton_tritonexperts" in kernel or kernel.endswith("vllm_fused_moe"):
        return PORTABLE
    if "marlin" in kernel:
        return MARLIN
    generated = "flashinfer_trtllm" in kernel or (kernel.endswith("moe_torch_flow") and dtype.startswith("w4a8"))
    return FUSED if generated else LIBRARY


@dataclass(frozen=True)
class Block:
    """One rank's expert block. `rows`: assignments by local expert; `inter`: columns this rank holds."""

    tokens: int
    hidden: int
    inter: int
    topk: int
    experts: int
    rows: np.ndarray
    gated: bool
    format: Format
    build: Build

    @cached_property
    def touched(self) -> np.ndarray:
        """Rows multiplied, of the experts that have any."""
        rows = self.rows[self.rows > 0].copy()
        if self.build.remote is Remote.MULTIPLIED and len(rows):
            rows[0] += self._remote
        return rows

    @property
    def _remote(self) -> int:
        """Assignments to other ranks' experts, of the tokens that have one here."""
        local = int(self.rows.sum())
        return min(self.tokens, local) * self.topk - local

    @property
    def zeroed(self) -> int:
        """Rows that are carried along as zeros."""
        if self.build.remote is Remote.ZEROED_HERE:
            return self._remote
        return self.tokens * self.topk - int(self.rows.sum()) if self.build.remote is Remote.ZEROED else 0

    @property
    def wide(self) -> int:
        """Columns of the first matrix."""
        return self.inter * (2 if self.gated else 1)

    @property
    def assignments(self) -> int:
        """Rows multiplied."""
        return int(self.touched.sum())

    @property
    def carried(self) -> int:
        """Rows between the multiplies."""
        return self.assignments + self.zeroed


def predict_moe(
    spec: ChipSpec,
    *,
    tokens: int,
    hidden: int,
    inter: int,
    topk: int,
    experts: int,
    moe_tp: int = 1,
    moe_ep: int = 1,
    gated: bool = True,
    dtype: str = "bfloat16",
    distribution: str = BALANCED,
    protocol: Protocol = Protocol.GRAPH_ONE,
    kernel: str = "",
    version: str = "",
    build: Build | None = None,
) -> Prediction:
    """Latency of the expert block on the rank with most work, run again and again on the same tokens and weights.

    `tokens` is the count before experts are shared out. `kernel` and `version` name the library's kernel and framework
    as measured data do (`build_of`); or give the `build`. Raises BadProblem for sizes, splits or names without sense,
    UnsupportedDtype for a format whose multiply the chip lacks.
    """
    _check(tokens, hidden, inter, topk, experts, moe_tp, moe_ep)
    build = build or build_of(kernel, version, dtype)
    block = Block(
        tokens=tokens,
        hidden=hidden,
        inter=inter // moe_tp,
        topk=topk,
        experts=experts,
        rows=expert_rows(tokens, topk, experts, moe_ep, distribution),
        gated=gated,
        format=_format(spec, "bfloat16" if build.expands and dtype == "w4a16_mxfp4" else dtype),
        build=build,
    )
    run = _Run(spec, block)
    return predicted(spec, protocol, run.timings(), how=f"tiles {run.tiles[0]}, {run.tiles[1]}")


def _check(tokens: int, hidden: int, inter: int, topk: int, experts: int, moe_tp: int, moe_ep: int) -> None:
    sizes = dict(tokens=tokens, hidden=hidden, inter=inter, topk=topk, experts=experts, moe_tp=moe_tp, moe_ep=moe_ep)
    for name, value in sizes.items():
        if value < 1:
            raise BadProblem("mixture of experts", argument=name, value=value, allowed="at least 1 is needed")
    if topk > experts:
        raise BadProblem("mixture of experts", argument="topk", value=topk, allowed=f"there are {experts} experts")
    for name, parts, whole in (("moe_ep", moe_ep, experts), ("moe_tp", moe_tp, inter)):
        if whole % parts:
            raise BadProblem("mixture of experts", argument=name, value=parts, allowed=f"must divide {whole}")


def _format(spec: ChipSpec, dtype: str) -> Format:
    able = [name for name, form in FORMATS.items() if form.mac in spec.pe.dpe.mac_per_cycle]
    if dtype not in able:
        raise UnsupportedDtype("mixture of experts", chip=spec.name, dtype=dtype, supported=able)
    return FORMATS[dtype]


# --- the launches -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """One launch, and the tensors it reads and writes whole."""

    time: Callable[[], KernelTiming]
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]


class _Run:
    """Launches of the block, in order, and the memory they work in. Tables that addresses depend on are real memory."""

    def __init__(self, spec: ChipSpec, block: Block) -> None:
        self.spec, self.block, self.memory = spec, block, Memory(spec)
        self.tables: list[torch.Tensor] = []
        seen = without_clusters(spec) if block.build.fixed_tiles else spec
        self.first = Grouped(rows=block.touched, n=block.wide, k=block.hidden, block=block, spec=seen)
        self.second = Grouped(rows=block.touched, n=block.hidden, k=block.inter, block=block, spec=seen)
        self.tiles = (self.first.tile, self.second.tile)
        self.steps = self._steps()

    def timings(self) -> list[KernelTiming]:
        return steady(self.memory, self.steps)

    def _table(self, values: np.ndarray) -> Buffer:
        table = torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32))
        self.tables.append(table)
        return _pointing_at(table)

    def _steps(self) -> list[_Step]:
        b, buffer = self.block, self.memory.buffer
        bf = torch.bfloat16
        x, out = buffer(b.tokens * b.hidden, bf), buffer(b.tokens * b.hidden, bf)
        y1, act, y2 = buffer(b.carried * b.wide, bf), buffer(b.carried * b.inter, bf), buffer(b.carried * b.hidden, bf)
        w1, w2 = self.first.weights(self.memory), self.second.weights(self.memory)
        steps, weights = self._routing()
        if not b.assignments:
            return [*steps, self._combine(y2, weights, out)]
        more, rows_in = self._ready(x, b.tokens, b.hidden)
        steps += more
        if not b.build.gathers:
            copied = buffer(b.assignments * self.first.stored_x, b.format.x)
            steps.append(self._permute(rows_in, copied))
            rows_in = copied
        steps += [self._multiply(self.first, rows_in, w1, y1), *self._zeroed(y1, b.wide)]
        if b.build.fuses:
            act = y1
        else:
            steps.append(self._activate(y1, act))
            more, act = self._ready(act, b.carried, b.inter)
            steps += more
        steps += [self._multiply(self.second, act, w2, y2), *self._zeroed(y2, b.hidden)]
        return [*steps, self._combine(y2, weights, out)]

    def _ready(self, x: Buffer, rows: int, columns: int) -> tuple[list[_Step], Buffer]:
        """`x` in the format that is multiplied: itself, or quantised by one launch."""
        if not self.block.format.quantised:
            return [], x
        group = min(QUANTISED_GROUP, columns & -columns)
        groups = max(1, min(2048 // group, next_power_of_2(columns // group)))
        height = max(1, 2048 // (group * groups))
        out = self.memory.buffer(rows * columns, torch.float8_e4m3fn)
        scale = self.memory.buffer(rows * (columns // group), torch.float32)

        def call(rows: int, tensors: Sequence[Buffer]) -> Call:
            return Call(
                kernel=mtia_quantize_groups,
                grid=(ceil_div(columns // group, groups), ceil_div(rows, height)),
                arguments=(*tensors, rows, columns),
                constants=dict(ROWS=height, GROUPS=groups, GROUP=group, TOP=448.0),
            )

        return [rowwise(self.memory, call, rows, (x,), (out, scale))], out

    # --- routing ---

    def _routing(self) -> tuple[list[_Step], Buffer]:
        """Three launches that share nothing large with the others, so their times serve every block alike in these."""
        b = self.block
        weights = self.memory.buffer(b.tokens * b.topk, torch.float32)
        timings = routing_timings(self.spec, b.tokens, b.experts, b.topk)
        timings += (timings[-1],) * b.build.helpers
        return [_Step(lambda timing=timing: timing, (), (weights,)) for timing in timings], weights

    def _permute(self, x: Buffer, copied: Buffer) -> _Step:
        b, stored = self.block, self.first.stored_x
        columns = min(next_power_of_2(stored), 8192)
        rank = np.concatenate([np.arange(r) / r for r in b.touched])

        def call(rows: int, tensors: Sequence[Buffer]) -> Call:
            source = rank[:: max(1, len(rank) // rows)][:rows] * ceil(b.tokens * rows / b.assignments)
            return Call(
                kernel=kernels.mtia_permute,
                grid=(ceil_div(stored, columns), rows),
                arguments=(tensors[0], self._table(source), tensors[1], stored),
                constants=dict(BLOCK=columns),
            )

        return rowwise(self.memory, call, b.assignments, (x,), (copied,))

    def _combine(self, y: Buffer, weights: Buffer, out: Buffer) -> _Step:
        """Places of this rank's assignments spread evenly over the tokens' choices; the others lie elsewhere."""
        b = self.block
        local = int(b.rows.sum()) + b.zeroed
        columns = min(next_power_of_2(b.hidden), 4096)

        def call(rows: int, tensors: Sequence[Buffer]) -> Call:
            here = min(rows * b.topk, ceil(local * rows / b.tokens))
            places = np.full(rows * b.topk, -1, np.int64)
            places[np.linspace(0, places.size - 1, here).astype(np.int64)] = np.arange(here)
            return Call(
                kernel=kernels.mtia_combine,
                grid=(ceil_div(b.hidden, columns), rows),
                arguments=(tensors[0], self._table(places), tensors[1], tensors[2], b.hidden),
                constants=dict(TOPK=b.topk, BLOCK=columns),
            )

        return rowwise(self.memory, call, b.tokens, (y, weights), (out,))

    # --- experts ---

    def _multiply(self, problem: Grouped, x: Buffer, w: Buffer, out: Buffer) -> _Step:
        return _Step(lambda: time_grouped(problem, self.memory, (x, w, out)), (x, w), (out,))

    def _zeroed(self, y: Buffer, columns: int) -> list[_Step]:
        """Rows of remote assignments set to zero."""
        if not self.block.zeroed:
            return []
        like = torch.empty((1,), dtype=torch.bfloat16, device="meta")

        def call(rows: int, tensors: Sequence[Buffer]) -> Call:
            shape = (rows * columns,)
            found = plan(FILL, shape, [like.expand(shape).contiguous()], ("out",), ("value",), torch.float32)
            return Call(kernel=found.kernel, grid=found.grid, arguments=(tensors[0], 0.0, *found.integers))

        rows = y.at((self.block.carried - self.block.zeroed) * columns)
        return [rowwise(self.memory, call, self.block.zeroed, (), (rows,))]

    def _activate(self, y: Buffer, act: Buffer) -> _Step:
        b = self.block

        def call(rows: int, tensors: Sequence[Buffer]) -> Call:
            both = torch.empty((rows, b.wide), dtype=torch.bfloat16, device="meta")
            one = torch.empty((rows, b.inter), dtype=torch.bfloat16, device="meta")
            halves = [one, both[:, : b.inter], both[:, b.inter :]] if b.gated else [one, one, one]
            names = (*SILU_MUL.outputs, *SILU_MUL.inputs)
            found = plan(SILU_MUL, (rows, b.inter), halves, names, (), torch.float32)
            second = tensors[0].at(b.inter) if b.gated else tensors[0]
            return Call(
                kernel=found.kernel, grid=found.grid, arguments=(tensors[1], tensors[0], second, *found.integers)
            )

        return rowwise(self.memory, call, b.carried, (y,), (act,))


@lru_cache(maxsize=8192)
def routing_timings(spec: ChipSpec, tokens: int, experts: int, topk: int) -> tuple[KernelTiming, ...]:
    """Choice of experts, count by expert, and places in the experts' order, run after run on the same tokens."""
    n, width, memory = tokens * topk, next_power_of_2(experts), Memory(spec)
    height = max(1, min(8, 2048 // width, tokens))
    logits = memory.buffer(tokens * experts, torch.float32)
    ids, weights = memory.buffer(n, torch.int32), memory.buffer(n, torch.float32)
    offsets, sources = memory.buffer(experts, torch.int32), memory.buffer(2 * n, torch.int32)
    tables = []

    def route(rows: int, tensors: Sequence[Buffer]) -> Call:
        return Call(
            kernel=kernels.mtia_route,
            grid=(ceil_div(rows, height),),
            arguments=(*tensors, rows, experts),
            constants=dict(ROWS=height, WIDTH=width, TOPK=topk),
        )

    def count(rows: int, tensors: Sequence[Buffer]) -> Call:
        block = min(4096, max(64, next_power_of_2(n)))
        return Call(
            kernel=kernels.mtia_count_experts,
            grid=(1,),
            arguments=(*tensors, rows, experts),
            constants=dict(WIDTH=width, BLOCK=block, PAD=16),
        )

    def place(rows: int, tensors: Sequence[Buffer]) -> Call:
        tables.append(torch.arange(rows, dtype=torch.int32) % experts)
        return Call(
            kernel=kernels.mtia_place,
            grid=(ceil_div(rows, PLACE_BLOCK),),
            arguments=(_pointing_at(tables[-1]), tensors[1], tensors[2], tensors[2].at(rows), rows),
            constants=dict(TOPK=topk, BLOCK=PLACE_BLOCK),
        )

    steps = (
        rowwise(memory, route, tokens, (logits,), (ids, weights)),
        rowwise(memory, count, n, (ids,), (offsets,), most=MOST_IDS),
        rowwise(memory, place, n, (ids,), (offsets, sources), most=MOST_IDS),
    )
    return tuple(steady(memory, steps))


def steady(memory: Memory, steps: Sequence[_Step]) -> list[KernelTiming]:
    """Times of launches that run again and again: SRAM holds what the run before left."""

    def touch(step: _Step) -> None:
        touched = [(b.address, b.address + b.n_bytes, b in step.writes, b.n_bytes) for b in step.reads + step.writes]
        memory.residency.touch_together(touched)

    for step in steps:
        touch(step)
    found = []
    for step in steps:
        found.append(step.time())
        touch(step)
    return found


def rowwise(
    memory: Memory,
    make: Callable[[int, Sequence[Buffer]], Call],
    rows: int,
    reads: tuple[Buffer, ...],
    writes: tuple[Buffer, ...],
    most: int | None = None,
) -> _Step:
    """A launch over rows of tensors, `make(rows, tensors)`. Of very many rows a share is simulated, on an SRAM with
    that share of the bytes, and its time scaled."""
    share = 1
    while ceil_div(rows, share) > (most or MOST_ROWS):
        share *= 2

    def time() -> KernelTiming:
        few, used, tensors = rows, memory, [*reads, *writes]
        if share > 1:
            few, used = ceil_div(rows, share), Memory(_with_sram(memory.spec, share))
            tensors = [used.buffer(ceil(t.n_bytes / t.dtype.itemsize * few / rows), t.dtype) for t in tensors]
            _copy_residency(memory, used, list(zip([*reads, *writes], tensors, strict=True)), share)
        timing = run_timed(trace(make(few, tensors), used.spec), used.spec, used.residency)
        return timing if share == 1 else extended(timing, rows / few)

    return _Step(time, reads, writes)


# --- the grouped multiply, by slices ----------------------------------------------------------------------------------

QUANTISED_GROUP = 128  # columns that share a scale, at most
MOST_ROWS = 768  # of a launch over rows that are simulated
MOST_IDS = 1 << 15  # assignments that are simulated
PLACE_BLOCK = 256
FEW_STEPS = 6  # a depth of so many steps is simulated whole
STAGES = 3  # slots of a library's tiles
FEW_WAVES = 5  # so many rounds of programs on every PE are simulated whole


@dataclass(frozen=True)
class Grouped:
    """Groups of `rows` rows (all above 0) against [n, k] matrices of their own."""

    rows: np.ndarray
    n: int
    k: int
    block: Block
    spec: ChipSpec

    @cached_property
    def tile(self) -> Tile:
        if self.block.build.fixed_tiles and not self.form.unpacked:
            return fixed_tile(self)
        return choose_tile(self)

    @property
    def form(self) -> Format:
        return self.block.format

    @property
    def stored_x(self) -> int:
        """Stored elements of a row of x."""
        return ceil(self.k / self.form.x_depth)

    def weights(self, memory: Memory, n: int | None = None, k: int | None = None) -> Buffer:
        """The touched groups' matrices (or n columns and k of their depth), followed by scales that lie apart."""
        n, k = n or self.n, k or self.k
        scales = ceil_div(k, 32) if self.form.unpacked else 0
        return memory.buffer(len(self.rows) * n * (ceil(k / self.form.weight_depth) + scales), self.form.weight)

    def groups(self, tile: Tile) -> np.ndarray:
        """The group of each tile of rows."""
        return np.repeat(np.arange(len(self.rows)), -(-self.rows // tile.m)).astype(np.int32)

    def counts(self, tile: Tile) -> np.ndarray:
        """Rows of each tile: all full but the last of a group."""
        ends = np.cumsum(-(-self.rows // tile.m))
        found = np.full(int(ends[-1]), tile.m, np.int32)
        found[ends - 1] = (self.rows - 1) % tile.m + 1
        return found


def time_grouped(problem: Grouped, memory: Memory, tensors: tuple[Buffer, Buffer, Buffer]) -> KernelTiming:
    """Time of the launch on (x, w, out), from slices of it where it is long.

    A slice has a share of the depth, and an SRAM with that share of the bytes, so that what is resident and what is
    used again stays in proportion; two depths give what every program costs and what a step costs. Of a launch of many
    rounds of programs it has a share of the columns. The simulated slice's timing is scaled to the whole.
    """
    steps = ceil_div(problem.k, problem.tile.k)
    n, longer_frac = _columns(problem)
    share = 1
    while ceil_div(steps, share) > FEW_STEPS:
        share *= 2
    longer = _slice(problem, memory, tensors, n, share)
    if share == 1:
        return extended(longer, longer_frac)
    shorter = _slice(problem, memory, tensors, n, 2 * share)
    n_longer, n_shorter = ceil_div(steps, share), ceil_div(steps, 2 * share)
    rate = max(0, longer.makespan_fs - shorter.makespan_fs) / (n_longer - n_shorter)
    whole = longer.makespan_fs + (steps - n_longer) * rate
    return extended(longer, longer_frac * whole / longer.makespan_fs)


def _columns(problem: Grouped) -> tuple[int, float]:
    """Columns to simulate, and how many times as long the whole takes."""
    tile = problem.tile
    tiles_n = ceil_div(problem.n, tile.n)
    tiles_m = len(problem.groups(tile))
    waves = tiles_m * tiles_n / problem.spec.grid.n_pes
    fewer = max(1, round(FEW_WAVES * problem.spec.grid.n_pes / tiles_m))
    if waves <= 1.5 * FEW_WAVES or fewer >= tiles_n:
        return problem.n, 1.0
    return fewer * tile.n, tiles_n / fewer


def _slice(
    problem: Grouped, memory: Memory, tensors: tuple[Buffer, Buffer, Buffer], n: int, share: int
) -> KernelTiming:
    """The launch with 1 / share of the depth (whole steps) on SRAM as large in proportion."""
    tile, form = problem.tile, problem.form
    groups = torch.from_numpy(problem.groups(tile))
    k = min(problem.k, ceil_div(ceil_div(problem.k, tile.k), share) * tile.k)
    small = Memory(_with_sram(problem.spec, share))
    stored_k = ceil(k / form.x_depth)
    whole_rows = tensors[0].n_bytes / (problem.stored_x * form.x.itemsize)
    x_rows = max(tile.m, round(whole_rows * n / problem.n))  # each is used by fewer columns: fewer are fetched
    starts = torch.from_numpy((np.arange(len(groups)) % (x_rows // tile.m) * tile.m).astype(np.int32))
    x = small.buffer(x_rows * stored_k, form.x)
    w = problem.weights(small, n, k)
    out = small.buffer(len(groups) * tile.m * n, torch.bfloat16)
    _copy_residency(memory, small, list(zip(tensors, (x, w, out), strict=True)), share, n / problem.n)
    counts = torch.from_numpy(problem.counts(tile))
    tables = (_pointing_at(groups), _pointing_at(starts), _pointing_at(counts))
    call = _call_of(problem, (x, w, out), tables, n, k, len(groups))
    return run_timed(trace(call, small.spec), small.spec, small.residency)


def _pointing_at(table: torch.Tensor) -> Buffer:
    return Buffer(table.data_ptr(), table.dtype, max(1, table.numel()) * table.itemsize)


def _call_of(
    problem: Grouped, tensors: tuple[Buffer, Buffer, Buffer], tables: tuple[Buffer, ...], n: int, k: int, tiles: int
) -> Call:
    tile, form = problem.tile, problem.form
    (x, w, out), grid = tensors, (tiles * ceil_div(n, tile.n),)
    blocks = dict(BM=tile.m, BN=tile.n, BK=tile.k, BAND=tile.band)
    slots: dict[str, Any] = dict(load_slots=tile.stages, store_slots=1)
    if form.weight_depth != form.x_depth:
        scale = w.at(len(problem.rows) * n * ceil(k / form.weight_depth)) if form.unpacked else w
        arguments = (x, w, scale, *tables, out, n, k, tiles)
        flags = dict(UNPACK=form.unpacked, EVEN_N=n % tile.n == 0)
        return Call(kernel=mtia_grouped_matmul_w4, grid=grid, arguments=arguments, constants=blocks | flags, **slots)
    k = ceil(k / form.x_depth)
    flags = dict(EVEN_N=n % tile.n == 0, EVEN_K=k % tile.k == 0)
    arguments = (x, w, *tables, out, n, k, tiles)
    return Call(kernel=mtia_grouped_matmul, grid=grid, arguments=arguments, constants=blocks | flags, **slots)


@lru_cache(maxsize=64)
def without_clusters(spec: ChipSpec) -> ChipSpec:
    """The chip as a kernel sees it that does not ask for its cluster's shared reads."""
    if not spec.noc.multicast or spec.noc.multicast_pes is None:
        return spec
    return spec.vary({"noc.multicast": False}, name=spec.name)


@lru_cache(maxsize=256)
def _with_sram(spec: ChipSpec, share: int) -> ChipSpec:
    if share == 1:
        return spec
    return spec.vary({"sram.capacity_bytes": max(1, spec.sram.capacity_bytes // share)}, name=spec.name)


def _copy_residency(
    whole: Memory, small: Memory, pairs: list[tuple[Buffer, Buffer]], share: int, dirty_frac: float = 1.0
) -> None:
    """What SRAM holds of each tensor, at the same place of the small one; other data by their bytes.

    dirty_frac: share of other data's unwritten bytes that the slice has to write back.
    """
    for segment in whole.residency.segments:
        rest, dirty = segment.n_bytes, segment.dirty_bytes > 0
        for big, little in pairs:
            scale = little.n_bytes / big.n_bytes
            low, high = max(segment.lo, big.address), min(segment.hi, big.address + big.n_bytes)
            if low < high:
                at = little.address + int((low - big.address) * scale)
                small.residency.touch(at, at + max(1, int((high - low) * scale)), dirty)
                rest -= high - low
        unwritten = int(rest // share * dirty_frac) if dirty else 0
        for n_bytes, written in ((unwritten, True), (rest // share - unwritten, False)):
            if n_bytes > 0:
                small.warm(small.buffer(n_bytes, torch.int8), written=written)


# --- tiles ------------------------------------------------------------------------------------------------------------


def fixed_tile(problem: Grouped) -> Tile:
    """Triton's fused kernel without a table for the shape: vLLM's and SGLang's default configurations, three slots for
    each of the programs that a PE holds."""
    block = problem.block
    few = block.tokens <= len(block.rows)
    if block.format.quantised:
        tile = Tile(16 if few else 64, 128, 128, band=1 if few else 32)
    else:
        tile = Tile(16, 32, 64, band=1) if few else Tile(64, 64, 32)
    stage_bytes = _step_bytes(block.format, tile.m, tile.n, tile.k)
    held = int((problem.spec.pe.local_memory_bytes - 2 * tile.m * tile.n) / (STAGES * stage_bytes))
    return replace(tile, stages=STAGES * max(1, min(problem.spec.pe.resident_programs, held)))


def choose_tile(problem: Grouped) -> Tile:
    """The tile with the least estimated time; its depth is the largest of which `STAGES` fit."""
    most = 2 * problem.rows.max(initial=1)
    candidates = [
        Tile(m, n, k, STAGES)
        for m in (16, 32, 64, 128)
        for n in (32, 64, 128, 256)
        if (m == 16 or m < most) and (k := _depth(problem, m, n))
    ]
    return min(candidates, key=lambda tile: _estimate(problem, tile))


def _depth(problem: Grouped, m: int, n: int) -> int:
    room = problem.spec.pe.local_memory_bytes - m * n * 2
    deepest = min(512, next_power_of_2(problem.k))
    return next(
        (k for k in (512, 256, 128, 64) if k <= deepest and STAGES * _step_bytes(problem.form, m, n, k) <= room), 0
    )


def _step_bytes(form: Format, m: int, n: int, k: int) -> float:
    return k * (m * form.x.itemsize / form.x_depth + n * form.weight.itemsize / form.weight_depth)


def _estimate(problem: Grouped, tile: Tile) -> float:
    """Cycles, roughly: the fullest PE alone, or what all of them ask of SRAM or DRAM."""
    spec, n, k = problem.spec, problem.n, problem.k
    programs = int((-(-problem.rows // tile.m)).sum()) * ceil_div(n, tile.n)
    steps = ceil_div(k, tile.k)
    step_bytes = _step_bytes(problem.form, tile.m, tile.n, tile.k)
    multiply = spec.pe.dpe.fill_cycles + tile.m * tile.n * tile.k / spec.pe.dpe.mac_per_cycle[problem.form.mac]
    load = step_bytes / spec.pe.dma.read_bytes_per_cycle
    waves = ceil(programs / spec.grid.n_pes)
    alone = waves * (steps * max(multiply, load) + tile.m * tile.n * 2 / spec.pe.dma.write_bytes_per_cycle)
    shared = programs * steps * step_bytes * spec.clock_hz / spec.sram.bytes_per_s
    weights = len(problem.rows) * n * k * problem.form.weight.itemsize / problem.form.weight_depth
    fetched = weights * spec.clock_hz / (spec.dram.bytes_per_s * spec.dram.efficiency_frac)
    latency = (spec.dram.latency_s + spec.sram.latency_s) * spec.clock_hz + load
    return latency + 0.75 * max(alone, shared, fetched) + 0.25 * (alone + shared + fetched)


__all__ = [
    "FUSED",
    "LIBRARY",
    "MARLIN",
    "PORTABLE",
    "SGLANG",
    "SGLANG_MULTIPLYING",
    "Block",
    "Build",
    "Remote",
    "build_of",
    "expert_rows",
    "predict_moe",
]
