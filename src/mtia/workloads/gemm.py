"""A matrix multiplication out[m, n] = x[m, k] @ w[n, k]^T as a library would run it on a chip.

`predict_gemm` takes the tiling of least estimated time (`gemm_estimate.py`), launches the real kernel with it
(`kernels/library_matmul.py`) on addresses and times that; `fast=True` stops at the estimate.  A launch too long to
simulate whole is simulated in part, with the same tiles, and extended by the ratio of the two estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton.language as tl

from mtia.chips.spec import ChipSpec
from mtia.engine.timeline import KernelTiming
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels.iteration import ceil_div
from mtia.kernels.library_matmul import mtia_matmul_split, mtia_sum_splits
from mtia.workloads.gemm_estimate import SUM_BLOCK, Choice, Kept, Machine, Problem, choose, kept, same_tiling
from mtia.workloads.launches import Buffer, Call, Memory, time_call
from mtia.workloads.prediction import Prediction, Protocol, launch_overhead_s, predicted

CHAIN_COPIES = 6  # of the weights that a chain of like calls rotates over
MOST_TILE_STEPS = 12_000  # steps of all programs that one simulation walks
LEAST_STEPS = 24  # of a program whose depth is cut
LEAST_WAVES = 3  # of a launch whose tiles are cut
MOST_STEPS_FINE = 24  # deeper programs take double steps where slots allow
LEAST_SLOTS = 4
_INT32_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Format:
    mac: str
    element: torch.dtype


_FORMATS = {
    "bfloat16": _Format("bf16", torch.bfloat16),
    "bf16": _Format("bf16", torch.bfloat16),
    "float16": _Format("fp16", torch.float16),
    "fp16": _Format("fp16", torch.float16),
}


def predict_gemm(
    spec: ChipSpec,
    *,
    m: int,
    n: int,
    k: int,
    dtype: str,
    protocol: Protocol = Protocol.GRAPH_CHAIN,
    weight_copies: int | None = None,
    fast: bool = False,
) -> Prediction:
    """Latency of one multiplication of a chain of like ones.

    weight_copies: tensors that the weights rotate over from call to call (default 6 in a graph chain, else 1); x and
    out stay the same.  fast: the analytical estimate instead of the tile-level simulation, with the same tiling.
    Raises BadProblem (a size below 1) and UnsupportedDtype (a type the chip cannot multiply).
    """
    _check(spec, m, n, k, dtype)
    form = _FORMATS[dtype]
    copies = weight_copies or (CHAIN_COPIES if protocol is Protocol.GRAPH_CHAIN else 1)
    problem = Problem(m=m, n=n, k=k, mac=form.mac, copies=copies)
    machine = Machine.of(spec, form.mac)
    held = kept(machine, problem)
    choice = choose(machine, problem, held)
    if fast:
        return _estimated(spec, protocol, choice)
    return _simulated(spec, protocol, machine, problem, held, choice, form)


def _check(spec: ChipSpec, m: int, n: int, k: int, dtype: str) -> None:
    for name, value in (("m", m), ("n", n), ("k", k)):
        if value < 1:
            raise BadProblem("matrix multiplication", argument=name, value=value, allowed="sizes are at least 1")
    if dtype not in _FORMATS or _FORMATS[dtype].mac not in spec.pe.dpe.mac_per_cycle:
        able = sorted(name for name, form in _FORMATS.items() if form.mac in spec.pe.dpe.mac_per_cycle)
        raise UnsupportedDtype("matrix multiplication", chip=spec.name, dtype=dtype, supported=able)


def _estimated(spec: ChipSpec, protocol: Protocol, choice: Choice) -> Prediction:
    launch_s = launch_overhead_s(spec, protocol, 1 if choice.splits == 1 else 2)
    parts = {"launch": launch_s, choice.bound: choice.kernel_s, "sum": choice.sum_s}
    bound = max(parts, key=lambda part: parts[part])
    return Prediction(seconds=sum(parts.values()), bound=bound, parts=parts, how=str(choice))


# --- simulation -------------------------------------------------------------------------------------------------------


def _simulated(
    spec: ChipSpec, protocol: Protocol, machine: Machine, problem: Problem, held: Kept, choice: Choice, form: _Format
) -> Prediction:
    part = _part(machine, problem, choice)
    timings = _time(spec, machine, part, held, choice, form)
    how = str(choice)
    if part != problem:
        longer = choice.kernel_s / same_tiling(machine, part, held, choice).kernel_s
        timings = [_extended(timings[0], longer), *timings[1:]]
        how += f", simulated at {part.m} x {part.n} x {part.k}"
    return predicted(spec, protocol, timings, how=how)


def _extended(timing: KernelTiming, factor: float) -> KernelTiming:
    parts = {name: round(fs * factor) for name, fs in timing.critical_fs.items()}
    return replace(timing, makespan_fs=sum(parts.values()), critical_fs=parts)


def _part(machine: Machine, problem: Problem, choice: Choice) -> Problem:
    """The problem, or one with less depth and fewer tiles that is quick to simulate: the same tiles, full waves."""
    tiles = ceil_div(problem.m, choice.bm) * ceil_div(problem.n, choice.width) * choice.splits
    steps = ceil_div(ceil_div(problem.k, choice.step), choice.splits)
    if tiles * steps <= MOST_TILE_STEPS:
        return problem
    steps = max(LEAST_STEPS, min(steps, MOST_TILE_STEPS // tiles))
    k = min(problem.k, steps * choice.splits * choice.step)
    rows = max(LEAST_WAVES * machine.n_pes, MOST_TILE_STEPS // steps) / choice.splits
    m, n = problem.m, problem.n
    if tiles > rows * choice.splits:
        across = ceil_div(n, choice.width)
        square = max(1, round((rows * choice.width / choice.bm) ** 0.5))
        down = min(ceil_div(m, choice.bm), max(square, int(rows // across)))
        m = min(m, down * choice.bm)
        n = min(n, max(1, int(rows // down)) * choice.width)
    return replace(problem, m=m, n=n, k=k)


def _time(
    spec: ChipSpec, machine: Machine, problem: Problem, held: Kept, choice: Choice, form: _Format
) -> list[KernelTiming]:
    """The launches of one call, one after the other, on an SRAM as the calls before left it."""
    memory = Memory(spec)
    x = memory.buffer(problem.m * problem.k, form.element)
    w = memory.buffer(problem.n * problem.k, form.element)
    out = memory.buffer(problem.m * problem.n, form.element)
    _seed(memory, machine, held, x, w, out)
    if choice.splits == 1:
        return [time_call(_multiply(problem, choice, x, w, out), memory)]
    parts = memory.buffer(problem.m * problem.n * choice.splits, torch.float32)
    first = time_call(_multiply(problem, choice, x, w, parts), memory)
    return [first, time_call(_sum(problem, choice, parts, out), memory)]


def _seed(memory: Memory, machine: Machine, held: Kept, x: Buffer, w: Buffer, out: Buffer) -> None:
    """SRAM in the steady state: the shares of the tensors that are kept, above what other calls left to be replaced."""
    shares = ((w, held.w, False), (x, held.x, False), (out, held.out, True))
    resident = sum(b.n_bytes * share for b, share, _ in shares)
    others = int(memory.residency.capacity_bytes - resident)
    if min(held.x, held.w) < 1.0 and others > 0:
        replaced = sum(b.n_bytes * (1 - share) for b, share, _ in shares)
        dirty = int(others * min(1.0, out.n_bytes * (1 - held.out) / max(1.0, replaced)))
        old = memory.buffer(others, torch.int8)
        memory.residency.touch(old.address, old.address + dirty, True)
        memory.residency.touch(old.address + dirty, old.address + others, False)
    ranges = [(b.address, b.address + b.n_bytes, dirty, int(b.n_bytes * share)) for b, share, dirty in shares]
    memory.residency.touch_together(ranges)


def _multiply(problem: Problem, choice: Choice, x: Buffer, w: Buffer, out: Buffer) -> Call:
    m, n, k = problem.m, problem.n, problem.k
    step, slots = _coarser(problem, choice)
    depth = ceil_div(ceil_div(k, choice.splits), step) * step
    far = max(m * k, n * k, m * n * choice.splits) > _INT32_LIMIT
    return Call(
        kernel=mtia_matmul_split,
        grid=(ceil_div(m, choice.bm) * ceil_div(n, choice.width), choice.splits),
        arguments=(x, w, out, m, n, k, depth, choice.group),
        constants=dict(
            BM=choice.bm,
            BN=choice.bn,
            BN2=choice.bn2,
            BK=step,
            EVEN_K=depth * choice.splits == k,
            INDEX=tl.int64 if far else tl.int32,
        ),
        load_slots=slots,
        store_slots=1,
    )


def _coarser(problem: Problem, choice: Choice) -> tuple[int, int]:
    """Depth of a step and slots: the same bytes under way in fewer, larger steps where programs are deep."""
    step, slots = choice.step, choice.slots
    while slots >= 2 * LEAST_SLOTS and ceil_div(problem.k, step * choice.splits) > MOST_STEPS_FINE:
        step, slots = 2 * step, slots // 2
    return step, slots


def _sum(problem: Problem, choice: Choice, parts: Buffer, out: Buffer) -> Call:
    n_elements = problem.m * problem.n
    far = n_elements * choice.splits > _INT32_LIMIT
    return Call(
        kernel=mtia_sum_splits,
        grid=(ceil_div(n_elements, SUM_BLOCK),),
        arguments=(parts, out, n_elements),
        constants=dict(SPLITS=choice.splits, BLOCK=SUM_BLOCK, INDEX=tl.int64 if far else tl.int32),
    )


__all__ = ["predict_gemm"]
