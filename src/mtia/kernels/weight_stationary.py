"""A fully connected layer with stationary weights, as Meta's first kernels map it (facts 2.5: MTIA 100, ISCA23).

Each program holds one [BK, BN] panel of weights in local memory, loaded once, and streams every row of activations past
it. K is split over neighbouring programs, so over the PEs of a row; their partial sums of one block meet on the
reduction network (chips with `noc.reduction`), or in memory where a chip has none. Weights are read exactly once
whatever M is; while a panel is loaded nothing is multiplied, for local memory has room for one.

aten ops take the output-stationary kernel of matmul.py; this one is for whoever asks for the strategy by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from mtia.chips.spec import ChipSpec
from mtia.kernels.iteration import ceil_div

_INTEGERS = ["M", "N", "K", "x_m", "x_k", "w_k", "w_n", "o_m", "o_n"]


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_fc_weight_stationary(
    x_ptr,
    w_ptr,
    out_ptr,
    M,
    N,
    K,
    x_m,
    x_k,
    w_k,
    w_n,
    o_m,
    o_n,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACC: tl.constexpr,
):
    """out[M, N] += x[M, BK] @ w[BK, BN] for one panel; program i takes split i modulo the splits of K."""
    splits = tl.cdiv(K, BK)
    depth = (tl.program_id(0) % splits) * BK + tl.arange(0, BK)
    columns = (tl.program_id(0) // splits) * BN + tl.arange(0, BN)
    panel = tl.load(
        w_ptr + depth[:, None] * w_k + columns[None, :] * w_n,
        mask=(depth < K)[:, None] & (columns < N)[None, :],
        other=0.0,
    )
    for first in range(0, M, BM):
        rows = first + tl.arange(0, BM)
        x = tl.load(
            x_ptr + rows[:, None] * x_m + depth[None, :] * x_k,
            mask=(rows < M)[:, None] & (depth < K)[None, :],
            other=0.0,
        )
        part = tl.dot(x, panel, out_dtype=ACC)
        tl.atomic_add(
            out_ptr + rows[:, None] * o_m + columns[None, :] * o_n,
            part,
            mask=(rows < M)[:, None] & (columns < N)[None, :],
        )


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows of activations per step; columns and depth of the stationary panel."""

    m: int
    n: int
    k: int


def choose_panel(M: int, N: int, K: int, element_bytes: int, spec: ChipSpec) -> Panel:
    """Panels that take the fullest PE the fewest cycles, by estimate.

    A panel is taken to be loaded while nothing is multiplied, so that few large ones win: they fill local memory. Must
    fit: the panel once, two slots of activations, two of 32-bit partial sums.
    """

    def fits(p: Panel) -> bool:
        panel, step = p.k * p.n * element_bytes, p.m * (p.k * element_bytes + p.n * 4)
        return panel + 2 * step <= spec.pe.local_memory_bytes

    def cycles(p: Panel) -> float:
        rounds = ceil_div(ceil_div(K, p.k) * ceil_div(N, p.n), spec.grid.n_pes)
        return rounds * _panel_cycles(p, M, element_bytes, spec)

    steps = [m for m in (32, 64, 128) if m <= max(32, M)]
    panels = [Panel(m, n, k) for m in steps for n in (32, 64, 128, 256) for k in (32, 64, 128, 256, 512, 1024)]
    return min((p for p in panels if fits(p)), key=cycles)


def _panel_cycles(p: Panel, M: int, element_bytes: int, spec: ChipSpec) -> float:
    """Cycles, roughly, of one panel: every PE loads one, the first rows follow, then steps at the pace of the slowest
    engine. Updates that join on the reduction network wait for each other: a step takes a round trip at least."""
    dma, dpe = spec.pe.dma, spec.pe.dpe
    round_trip = (2 * spec.noc.latency_s + spec.sram.latency_s) * spec.clock_hz
    in_flight = dma.max_outstanding_bytes / round_trip
    panels = spec.grid.n_pes * p.k * p.n * element_bytes / (spec.sram.bytes_per_s / spec.clock_hz)
    load = p.m * p.k * element_bytes / min(dma.read_bytes_per_cycle, in_flight)
    update = p.m * p.n * 4 / min(dma.write_bytes_per_cycle, in_flight)
    multiply = dpe.fill_cycles + p.m * p.n * p.k / _mac_per_cycle(element_bytes, spec)
    pace = max(multiply, load, round_trip + update)
    return round_trip + panels + load + ceil_div(M, p.m) * pace + update


def _mac_per_cycle(element_bytes: int, spec: ChipSpec) -> int:
    """The rate of the dot product engine for elements of a width; of the vector cores where it has none."""
    names = {1: ("int8", "fp8"), 2: ("fp16", "bf16"), 4: ("tf32",)}[element_bytes]
    rates = [spec.pe.dpe.mac_per_cycle[name] for name in names if name in spec.pe.dpe.mac_per_cycle]
    return max(rates, default=spec.pe.cores.vector_mac_per_cycle.get("fp32", 2))


def launch_arguments(
    x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, spec: ChipSpec
) -> tuple[tuple[int, int, int], tuple[Any, ...], dict[str, Any]]:
    """Grid, arguments and constants of `mtia_fc_weight_stationary` for x[M, K], w[K, N], out[M, N] of zeros."""
    M, K = x.shape
    N = w.shape[1]
    p = choose_panel(M, N, K, x.element_size(), spec)
    acc = tl.int32 if out.dtype == torch.int32 else tl.float32
    arguments = (x, w, out, M, N, K, *x.stride(), *w.stride(), *out.stride())
    return (ceil_div(K, p.k) * ceil_div(N, p.n), 1, 1), arguments, dict(BM=p.m, BN=p.n, BK=p.k, ACC=acc)


def fc_weight_stationary(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x[M, K] @ w[K, N] in the accumulator's type (int8 in int32, floats in float32)."""
    from mtia.host_runtime import silicon

    kind = torch.float32 if x.dtype.is_floating_point else torch.int32
    out = torch.zeros((x.shape[0], w.shape[1]), dtype=kind, device=x.device)
    grid, arguments, constants = launch_arguments(x, w, out, silicon.chip())
    mtia_fc_weight_stationary[grid](*arguments, **constants)
    return out


__all__ = ["Panel", "choose_panel", "fc_weight_stationary", "launch_arguments", "mtia_fc_weight_stationary"]
