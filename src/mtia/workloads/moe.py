"""The fused expert block of a mixture of experts, timed without a device (docs/timing.md, "Mixture of experts").

Router logits are given; the block routes tokens, sorts the assignments of this rank's experts, multiplies each expert's
rows by its matrices, and adds what comes back weighted. The rank holds experts / moe_ep experts with inter / moe_tp
columns each; assignments to other ranks' experts are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

import numpy as np
import torch

from mtia.chips.spec import ChipSpec
from mtia.engine.timeline import KernelTiming
from mtia.engine.timing import run_timed
from mtia.errors import BadProblem
from mtia.kernels import moe as kernels
from mtia.kernels.elementwise import plan
from mtia.kernels.grouped_matmul import mtia_grouped_matmul
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.transformer import SILU_MUL
from mtia.workloads.launches import Buffer, Call, Memory, trace
from mtia.workloads.prediction import Prediction, Protocol, predicted

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
    rng = np.random.default_rng(SEED)
    draws = [_busiest(_power_law_rows(rng, tokens, topk, experts, exponent), ranks) for _ in range(DRAWS)]
    return sorted(draws, key=lambda rows: int(rows.sum()))[DRAWS // 2]


def _busiest(rows: np.ndarray, ranks: int) -> np.ndarray:
    by_rank = rows.reshape(ranks, -1)
    return by_rank[int(by_rank.sum(axis=1).argmax())]


def _power_law_rows(rng: np.random.Generator, tokens: int, topk: int, experts: int, exponent: float) -> np.ndarray:
    low, high = (1.0, 0.8 * tokens) if tokens * topk > experts else (0.01, 2.0)
    power = 1.0 - exponent
    popularity = (low**power + (high**power - low**power) * rng.random(experts)) ** (1.0 / power)
    rows = np.rint(popularity / popularity.sum() * tokens * topk).astype(np.int64)
    return _with_sum(np.minimum(rows, tokens), tokens * topk, tokens)


def _with_sum(rows: np.ndarray, total: int, most: int) -> np.ndarray:
    """Ones added to the most popular experts with room, or taken from the least popular, until the sum is `total`."""
    by_popularity = np.argsort(-rows, kind="stable")
    while (missing := total - int(rows.sum())) != 0:
        order = by_popularity if missing > 0 else by_popularity[::-1]
        able = order[rows[order] < most] if missing > 0 else order[rows[order] > 0]
        rows[able[: abs(missing)]] += 1 if missing > 0 else -1
    return rows


# --- the problem ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One rank's expert block. `rows`: assignments by local expert; `inter`: columns this rank holds."""

    tokens: int
    hidden: int
    inter: int
    topk: int
    experts: int
    rows: np.ndarray
    gated: bool
    dtype: str

    @property
    def assignments(self) -> int:
        return int(self.rows.sum())


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows, columns and depth of a step; `stages`: slots of its circular buffers."""

    m: int
    n: int
    k: int
    stages: int = 2


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
) -> Prediction:
    """Latency of the expert block on the rank with most work, run again and again on the same tokens and weights.

    `tokens` is the count before experts are shared out. Raises BadProblem for sizes, splits or names without sense.
    """
    _check(tokens, hidden, inter, topk, experts, moe_tp, moe_ep)
    rows = expert_rows(tokens, topk, experts, moe_ep, distribution)
    block = Block(
        tokens=tokens,
        hidden=hidden,
        inter=inter // moe_tp,
        topk=topk,
        experts=experts,
        rows=rows,
        gated=gated,
        dtype=dtype,
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
    if experts % moe_ep:
        raise BadProblem(
            "mixture of experts", argument="moe_ep", value=moe_ep, allowed=f"must divide {experts} experts"
        )
    if inter % moe_tp:
        raise BadProblem("mixture of experts", argument="moe_tp", value=moe_tp, allowed=f"must divide inter = {inter}")


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
        wide = block.inter * (2 if block.gated else 1)
        touched = block.rows[block.rows > 0]
        self.tiles = (
            choose_tile(spec, touched, wide, block.hidden),
            choose_tile(spec, touched, block.hidden, block.inter),
        )
        self.steps = self._steps(wide, touched)

    def timings(self) -> list[KernelTiming]:
        """Of the steady state: SRAM holds what the run before left."""
        for step in self.steps:
            self._touch(step)
        found = []
        for step in self.steps:
            found.append(step.time())
            self._touch(step)
        return found

    def _touch(self, step: _Step) -> None:
        touched = [(b.address, b.address + b.n_bytes, b in step.writes, b.n_bytes) for b in step.reads + step.writes]
        self.memory.residency.touch_together(touched)

    def _table(self, values: np.ndarray) -> Buffer:
        table = torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32))
        self.tables.append(table)
        return Buffer(table.data_ptr(), torch.int32, max(1, table.numel()) * 4)

    def _steps(self, wide: int, touched: np.ndarray) -> list[_Step]:
        b, buffer = self.block, self.memory.buffer
        bf = torch.bfloat16
        rows = b.assignments
        x, sorted_x, out = buffer(b.tokens * b.hidden, bf), buffer(rows * b.hidden, bf), buffer(b.tokens * b.hidden, bf)
        y1, act, y2 = buffer(rows * wide, bf), buffer(rows * b.inter, bf), buffer(rows * b.hidden, bf)
        w1 = buffer(len(touched) * wide * b.hidden, bf)
        w2 = buffer(len(touched) * b.inter * b.hidden, bf)
        ids, weights = buffer(b.tokens * b.topk, torch.int32), buffer(b.tokens * b.topk, torch.float32)
        steps = self._routing(ids, weights)
        if rows:
            steps += [
                self._permute(x, sorted_x),
                self._multiply(sorted_x, w1, y1, wide, b.hidden, 0),
                self._activate(y1, act),
                self._multiply(act, w2, y2, b.hidden, b.inter, 1),
            ]
        return [*steps, self._combine(y2, weights, out)]

    def _step(self, call: Call, reads: tuple[Buffer, ...], writes: tuple[Buffer, ...]) -> _Step:
        return _Step(lambda: run_timed(trace(call, self.spec), self.spec, self.memory.residency), reads, writes)

    # --- routing ---

    def _routing(self, ids: Buffer, weights: Buffer) -> list[_Step]:
        b = self.block
        width = next_power_of_2(b.experts)
        rows = max(1, min(8, 2048 // width, b.tokens))
        logits = self.memory.buffer(b.tokens * b.experts, torch.float32)
        route = Call(
            kernel=kernels.mtia_route,
            grid=(ceil_div(b.tokens, rows),),
            arguments=(logits, ids, weights, b.tokens, b.experts),
            constants=dict(ROWS=rows, WIDTH=width, TOPK=b.topk),
        )
        n = b.tokens * b.topk
        offsets = self.memory.buffer(b.experts, torch.int32)
        count = Call(
            kernel=kernels.mtia_count_experts,
            grid=(1,),
            arguments=(ids, offsets, n, b.experts),
            constants=dict(WIDTH=width, BLOCK=min(4096, max(64, next_power_of_2(n))), PAD=self.tiles[0].m),
        )
        return [self._step(route, (logits,), (ids, weights)), self._step(count, (ids,), (offsets,))]

    def _permute(self, x: Buffer, sorted_x: Buffer) -> _Step:
        b = self.block
        source = np.concatenate([np.arange(r) * b.tokens // r for r in b.rows if r])
        columns = min(next_power_of_2(b.hidden), 8192)
        call = Call(
            kernel=kernels.mtia_permute,
            grid=(ceil_div(b.hidden, columns), b.assignments),
            arguments=(x, self._table(source), sorted_x, b.hidden),
            constants=dict(BLOCK=columns),
        )
        return self._step(call, (x,), (sorted_x,))

    def _combine(self, y: Buffer, weights: Buffer, out: Buffer) -> _Step:
        """Places of this rank's assignments spread evenly over the tokens' choices; the others lie elsewhere."""
        b = self.block
        places = np.full(b.tokens * b.topk, -1, np.int64)
        here = np.linspace(0, places.size - 1, b.assignments).astype(np.int64)
        places[here] = np.arange(b.assignments)
        columns = min(next_power_of_2(b.hidden), 4096)
        call = Call(
            kernel=kernels.mtia_combine,
            grid=(ceil_div(b.hidden, columns), b.tokens),
            arguments=(y, self._table(places), weights, out, b.hidden),
            constants=dict(TOPK=b.topk, BLOCK=columns),
        )
        return self._step(call, (y, weights), (out,))

    # --- experts ---

    def _multiply(self, x: Buffer, w: Buffer, out: Buffer, n: int, k: int, which: int) -> _Step:
        problem = Grouped(rows=self.block.rows[self.block.rows > 0], n=n, k=k, tile=self.tiles[which])
        return _Step(lambda: time_grouped(problem, self.memory, (x, w, out)), (x, w), (out,))

    def _activate(self, y: Buffer, act: Buffer) -> _Step:
        b, rows = self.block, self.block.assignments
        both = torch.empty((rows, 2 * b.inter), dtype=torch.bfloat16, device="meta")
        one = torch.empty((rows, b.inter), dtype=torch.bfloat16, device="meta")
        tensors = [one, both[:, : b.inter], both[:, b.inter :]] if b.gated else [one, one, one]
        names = (*SILU_MUL.outputs, *SILU_MUL.inputs)
        found = plan(SILU_MUL, (rows, b.inter), tensors, names, (), torch.float32)
        second = y.at(b.inter) if b.gated else y
        call = Call(kernel=found.kernel, grid=found.grid, arguments=(act, y, second, *found.integers))
        return self._step(call, (y,), (act,))


# --- the grouped multiply, by slices ----------------------------------------------------------------------------------

FEW_STEPS = 6  # a depth of so many steps is simulated whole
FEW_WAVES = 8  # so many rounds of programs on every PE are simulated whole


@dataclass(frozen=True, slots=True)
class Grouped:
    """Groups of `rows` rows (all above 0) against [n, k] matrices of their own."""

    rows: np.ndarray
    n: int
    k: int
    tile: Tile

    def groups(self) -> np.ndarray:
        """The group of each tile of rows."""
        return np.repeat(np.arange(len(self.rows)), -(-self.rows // self.tile.m)).astype(np.int32)


def time_grouped(problem: Grouped, memory: Memory, tensors: tuple[Buffer, Buffer, Buffer]) -> KernelTiming:
    """Time of the launch on (x, w, out), from slices of it where it is long.

    A slice has a share of the depth, and an SRAM with that share of the bytes, so that what is resident and what is
    used again stays in proportion; two depths give what every program costs and what a step costs. Of a launch of many
    rounds of programs it has a share of the columns. The simulated slice's timing is scaled to the whole.
    """
    tile = problem.tile
    steps = ceil_div(problem.k, tile.k)
    n, waves_frac = _columns(problem, memory.spec)
    share = 1
    while ceil_div(steps, share) > FEW_STEPS:
        share *= 2
    longer = _slice(problem, memory, tensors, n, share)
    if share == 1:
        return _scaled(longer, waves_frac)
    shorter = _slice(problem, memory, tensors, n, 2 * share)
    n_longer, n_shorter = ceil_div(steps, share), ceil_div(steps, 2 * share)
    rate = max(0, longer.makespan_fs - shorter.makespan_fs) / (n_longer - n_shorter)
    whole = longer.makespan_fs + (steps - n_longer) * rate
    return _scaled(longer, waves_frac * whole / longer.makespan_fs)


def _scaled(timing: KernelTiming, factor: float) -> KernelTiming:
    """Its time and parts times `factor`; traffic and work stay those of the slice."""
    parts = {name: round(fs * factor) for name, fs in timing.critical_fs.items()}
    return replace(timing, makespan_fs=sum(parts.values()), critical_fs=parts)


def _columns(problem: Grouped, spec: ChipSpec) -> tuple[int, float]:
    """Columns to simulate, and how many times as long the whole takes."""
    tiles_n = ceil_div(problem.n, problem.tile.n)
    tiles_m = len(problem.groups())
    waves = tiles_m * tiles_n / spec.grid.n_pes
    if waves <= 1.5 * FEW_WAVES:
        return problem.n, 1.0
    fewer = max(1, round(FEW_WAVES * spec.grid.n_pes / tiles_m))
    if fewer >= tiles_n:
        return problem.n, 1.0
    return fewer * problem.tile.n, tiles_n / fewer


def _slice(
    problem: Grouped, memory: Memory, tensors: tuple[Buffer, Buffer, Buffer], n: int, share: int
) -> KernelTiming:
    """The launch with 1 / share of the depth (whole steps) on SRAM as large in proportion."""
    tile, groups = problem.tile, torch.from_numpy(problem.groups())
    k = min(problem.k, ceil_div(ceil_div(problem.k, tile.k), share) * tile.k)
    spec = memory.spec
    small = Memory(_with_sram(spec, share))
    x = small.buffer(len(groups) * tile.m * k, torch.bfloat16)
    w = small.buffer(len(problem.rows) * n * k, torch.bfloat16)
    out = small.buffer(len(groups) * tile.m * n, torch.bfloat16)
    _copy_residency(memory, small, list(zip(tensors, (x, w, out), strict=True)), share)
    call = Call(
        kernel=mtia_grouped_matmul,
        grid=(len(groups) * ceil_div(n, tile.n),),
        arguments=(x, w, Buffer(groups.data_ptr(), torch.int32, 4 * len(groups)), out, n, k, len(groups)),
        constants=dict(BM=tile.m, BN=tile.n, BK=tile.k, BAND=8, EVEN_N=n % tile.n == 0, EVEN_K=k % tile.k == 0),
        options=dict(num_stages=tile.stages),
    )
    return run_timed(trace(call, small.spec), small.spec, small.residency)


@lru_cache(maxsize=256)
def _with_sram(spec: ChipSpec, share: int) -> ChipSpec:
    if share == 1:
        return spec
    return spec.vary({"sram.capacity_bytes": max(1, spec.sram.capacity_bytes // share)}, name=spec.name)


def _copy_residency(whole: Memory, small: Memory, pairs: list[tuple[Buffer, Buffer]], share: int) -> None:
    """What SRAM holds of each tensor, at the same place of the small one; other data by their bytes."""
    for segment in whole.residency.segments:
        rest, dirty = segment.n_bytes, segment.dirty_bytes > 0
        for big, little in pairs:
            scale = little.n_bytes / big.n_bytes
            low, high = max(segment.lo, big.address), min(segment.hi, big.address + big.n_bytes)
            if low < high:
                at = little.address + int((low - big.address) * scale)
                small.residency.touch(at, at + max(1, int((high - low) * scale)), dirty)
                rest -= high - low
        if rest // share > 0:
            small.warm(small.buffer(rest // share, torch.int8), written=dirty)


# --- tiles ------------------------------------------------------------------------------------------------------------


def choose_tile(spec: ChipSpec, rows: np.ndarray, n: int, k: int) -> Tile:
    """The tile with the least estimated time for groups of `rows` rows against [n, k] matrices of bfloat16."""
    candidates = [
        Tile(m, cols, depth)
        for m in (16, 32, 64, 128)
        for cols in (32, 64, 128, 256)
        for depth in (64, 128, 256)
        if (m == 16 or m < 2 * rows.max(initial=1)) and _fits(spec, m, cols, depth)
    ]
    return min(candidates, key=lambda t: _estimate(spec, t, rows, n, k))


def _fits(spec: ChipSpec, m: int, n: int, k: int) -> bool:
    return 2 * (m + n) * k * 2 + m * n * 2 <= spec.pe.local_memory_bytes


def _estimate(spec: ChipSpec, tile: Tile, rows: np.ndarray, n: int, k: int) -> float:
    """Cycles, roughly: the fullest PE alone, or what all of them ask of SRAM or DRAM."""
    tiles = int((-(-rows // tile.m)).sum())
    programs = tiles * ceil_div(n, tile.n)
    steps = ceil_div(k, tile.k)
    multiply = spec.pe.dpe.fill_cycles + tile.m * tile.n * tile.k / spec.pe.dpe.mac_per_cycle["bf16"]
    load = (tile.m + tile.n) * tile.k * 2 / spec.pe.dma.read_bytes_per_cycle
    waves = ceil(programs / spec.grid.n_pes)
    alone = waves * (steps * max(multiply, load) + tile.m * tile.n * 2 / spec.pe.dma.write_bytes_per_cycle)
    shared = programs * (tile.m + tile.n) * k * 2 * spec.clock_hz / spec.sram.bytes_per_s
    fetched = len(rows) * n * k * 2 * spec.clock_hz / (spec.dram.bytes_per_s * spec.dram.efficiency_frac)
    latency = (spec.dram.latency_s + spec.sram.latency_s) * spec.clock_hz + load
    return latency + 0.75 * max(alone, shared, fetched) + 0.25 * (alone + shared + fetched)


__all__ = ["Block", "expert_rows", "predict_moe"]
