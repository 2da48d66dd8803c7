"""The fused expert block of a mixture of experts, timed without a device (docs/timing.md, "Mixture of experts").

Router logits are given; the block routes tokens, sorts the assignments of this rank's experts, multiplies each expert's
rows by its matrices, and adds what comes back weighted. The rank holds experts / moe_ep experts with inter / moe_tp
columns each; assignments to other ranks' experts are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
import torch

from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem
from mtia.kernels import moe as kernels
from mtia.kernels.elementwise import plan
from mtia.kernels.grouped_matmul import mtia_grouped_matmul
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.transformer import SILU_MUL
from mtia.workloads.launches import Buffer, Call, Memory, time_call, touch_call
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
    """Ones added to the most popular experts with room, or taken from the least popular that have any, until it fits."""
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

    `tokens` is the count before experts are shared out. Raises BadProblem for sizes, splits or names that make no sense.
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
    for call in run.calls:
        touch_call(call, run.memory)
    timings = [time_call(call, run.memory) for call in run.calls]
    return predicted(spec, protocol, timings, how=f"tiles {run.tiles[0]}, {run.tiles[1]}; {block.assignments} rows")


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


class _Run:
    """Calls of the block, in order, and the memory they work in. Tables that addresses depend on are real memory."""

    def __init__(self, spec: ChipSpec, block: Block) -> None:
        self.spec, self.block, self.memory = spec, block, Memory(spec)
        self.tables: list[torch.Tensor] = []
        wide = block.inter * (2 if block.gated else 1)
        touched = block.rows[block.rows > 0]
        self.tiles = (
            choose_tile(spec, touched, wide, block.hidden),
            choose_tile(spec, touched, block.hidden, block.inter),
        )
        self.calls = self._calls(wide, touched)

    def _table(self, values: np.ndarray) -> Buffer:
        table = torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32))
        self.tables.append(table)
        return Buffer(table.data_ptr(), torch.int32, max(1, table.numel()) * 4)

    def _calls(self, wide: int, touched: np.ndarray) -> list[Call]:
        b, buffer = self.block, self.memory.buffer
        bf = torch.bfloat16
        n_tiles = int((-(-touched // self.tiles[0].m)).sum())
        padded = n_tiles * self.tiles[0].m
        x, hidden, out = buffer(b.tokens * b.hidden, bf), buffer(padded * b.hidden, bf), buffer(b.tokens * b.hidden, bf)
        y1, act, y2 = buffer(padded * wide, bf), buffer(padded * b.inter, bf), buffer(padded * b.hidden, bf)
        n_experts = len(b.rows)
        w1 = buffer(n_experts * wide * b.hidden, bf)
        w2 = buffer(n_experts * b.inter * b.hidden, bf)
        ids, weights = buffer(b.tokens * b.topk, torch.int32), buffer(b.tokens * b.topk, torch.float32)
        self.x, self.ids = x, ids
        calls = [*self._routing(ids, weights)]
        if b.assignments:
            calls += [
                self._permute(x, hidden),
                self._multiply(hidden, w1, y1, wide, b.hidden, 0),
                self._activate(y1, act, padded),
                self._multiply(act, w2, y2, b.hidden, b.inter, 1),
            ]
        return [*calls, self._combine(y2, weights, out)]

    # --- routing ---

    def _routing(self, ids: Buffer, weights: Buffer) -> list[Call]:
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
        return [route, count]

    def _sources(self) -> np.ndarray:
        """Token of each row that is not padding, in an order as good as any: each expert's rows spread over tokens."""
        return np.concatenate([np.arange(r) * self.block.tokens // r for r in self.block.rows if r])

    def _permute(self, x: Buffer, hidden: Buffer) -> Call:
        b = self.block
        columns = min(next_power_of_2(b.hidden), 8192)
        return Call(
            kernel=kernels.mtia_permute,
            grid=(ceil_div(b.hidden, columns), b.assignments),
            arguments=(x, self._table(self._sources()), hidden, b.hidden),
            constants=dict(BLOCK=columns),
        )

    def _combine(self, y: Buffer, weights: Buffer, out: Buffer) -> Call:
        """Each token's rows: the first of its places are this rank's, the others lie elsewhere."""
        b = self.block
        places = np.full(b.tokens * b.topk, -1, np.int64)
        here = np.linspace(0, places.size - 1, b.assignments).astype(np.int64)
        places[here] = np.arange(b.assignments)
        columns = min(next_power_of_2(b.hidden), 4096)
        return Call(
            kernel=kernels.mtia_combine,
            grid=(ceil_div(b.hidden, columns), b.tokens),
            arguments=(y, self._table(places), weights, out, b.hidden),
            constants=dict(TOPK=b.topk, BLOCK=columns),
        )

    # --- experts ---

    def _multiply(self, x: Buffer, w: Buffer, out: Buffer, n: int, k: int, which: int) -> Call:
        tile = self.tiles[which]
        touched = np.flatnonzero(self.block.rows)
        groups = np.repeat(touched, -(-self.block.rows[touched] // tile.m))
        return Call(
            kernel=mtia_grouped_matmul,
            grid=(len(groups) * ceil_div(n, tile.n),),
            arguments=(x, w, self._table(groups), out, n, k, len(groups)),
            constants=dict(BM=tile.m, BN=tile.n, BK=tile.k, BAND=8, EVEN_N=n % tile.n == 0, EVEN_K=k % tile.k == 0),
            options=dict(num_stages=tile.stages),
        )

    def _activate(self, y: Buffer, act: Buffer, rows: int) -> Call:
        b = self.block
        both = torch.empty((rows, 2 * b.inter), dtype=torch.bfloat16, device="meta")
        one = torch.empty((rows, b.inter), dtype=torch.bfloat16, device="meta")
        tensors = [one, both[:, : b.inter], both[:, b.inter :]] if b.gated else [one, one, one]
        names = (*SILU_MUL.outputs, *SILU_MUL.inputs)
        found = plan(SILU_MUL, (rows, b.inter), tensors, names, (), torch.float32)
        second = y.at(b.inter) if b.gated else y
        return Call(kernel=found.kernel, grid=found.grid, arguments=(act, y, second, *found.integers))


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
