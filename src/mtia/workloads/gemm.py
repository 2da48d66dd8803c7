"""A matrix multiplication out[m, n] = x[m, k] @ w[n, k]^T as a library would run it on a chip.

`predict_gemm` takes the tiling of least estimated time (`gemm_estimate.py`), launches the real kernels with it
(`gemm_launches.py`) on addresses and times them; `fast=True` stops at the estimate.  A launch too long to simulate
whole is simulated in part, with the same tiles, and extended by the ratio of the two estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mtia.chips.spec import ChipSpec
from mtia.engine.timeline import KernelTiming
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels.iteration import ceil_div
from mtia.workloads.gemm_estimate import (
    QUANTISE_ELEMENTS,
    Choice,
    Kept,
    Machine,
    Problem,
    choose,
    kept,
    quantise_s,
    row_elements,
    same_tiling,
)
from mtia.workloads.gemm_launches import Formats, Scaling, Tensors, add_up, coarser, multiply, quantise
from mtia.workloads.launches import Memory, time_call
from mtia.workloads.prediction import Prediction, Protocol, extended, launch_overhead_s, predicted

CHAIN_COPIES = 6  # of the weights that a chain of like calls rotates over
MOST_TILE_STEPS = 6_000  # steps of all programs that one simulation walks
LEAST_STEPS = 16  # of a program whose depth is cut
LEAST_WAVES = 3  # of a launch whose tiles are cut
MOST_QUANTISED = 1 << 21  # elements that one simulation quantises
BLOCK = 128  # elements of depth with one scale in 8-bit block formats
_PLAIN = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ALIASES = {"bfloat16": "bf16", "float16": "fp16"}
_QUANTISED = {"fp8": "fp8", "fp8_block": "fp8", "nvfp4": "mx4"}  # dtype -> the multiply-add it needs


def predict_gemm(
    spec: ChipSpec,
    *,
    m: int,
    n: int,
    k: int,
    dtype: str,
    protocol: Protocol = Protocol.GRAPH_CHAIN,
    weight_copies: int | None = None,
    prefetched_bytes: float = 0.0,
    fast: bool = False,
) -> Prediction:
    """Latency of one multiplication of a chain of like ones.

    dtype: bfloat16, float16 (also bf16, fp16), or x in bfloat16 quantised as it comes: fp8 (one scale a row), fp8_block
    (a scale for 128 of depth), nvfp4 (4 bits, a scale for 16).  weight_copies: tensors that the weights rotate over
    from call to call (default 6 in a graph chain, else 1); x and out stay the same.  prefetched_bytes: of data for a
    later operator that a compiled program fetches meanwhile; they count as far as DRAM is busy longer with them.  fast:
    the analytical estimate instead of the tile-level simulation, with the same tiling.
    Raises BadProblem (a size below 1) and UnsupportedDtype (a type the chip cannot multiply).
    """
    formats = _formats(spec, dtype)
    for name, value in (("m", m), ("n", n), ("k", k)):
        if value < 1:
            raise BadProblem("matrix multiplication", argument=name, value=value, allowed="sizes are at least 1")
    copies = weight_copies or (CHAIN_COPIES if protocol is Protocol.GRAPH_CHAIN else 1)
    problem = Problem(
        m=m,
        n=n,
        k=k,
        mac=formats.mac,
        x_bytes=formats.bytes_per_element,
        w_bytes=formats.bytes_per_element,
        source_bytes=2.0 if formats.quantised else 0.0,
        rows_quantised=formats.quantised and not formats.group,
        one_width=formats.scaling is not Scaling.NONE,
        may_split=formats.scaling is Scaling.NONE,
        accumulators=2 if formats.scaling is Scaling.PROMOTED else 1,
        copies=copies,
    )
    machine = Machine.of(spec, formats.mac)
    held = kept(machine, problem)
    run = _Run(spec, protocol, machine, problem, held, choose(machine, problem, held), formats)
    found = run.estimated() if fast else run.simulated()
    return _with_prefetch(found, machine, problem, held, prefetched_bytes) if prefetched_bytes else found


def _with_prefetch(found: Prediction, machine: Machine, problem: Problem, held: Kept, n_bytes: float) -> Prediction:
    """The same with DRAM's time for what is fetched meanwhile, less what fits while DRAM has nothing else to do."""
    x, w, _ = problem.tensor_bytes
    busy_s = (x * (1 - held.x) + w * (1 - held.w) + n_bytes) / machine.dram_bytes_per_s
    more_s = max(0.0, busy_s + found.parts["launch"] - found.seconds)
    parts = {**found.parts, "prefetch": more_s}
    bound = max(parts, key=lambda part: parts[part])
    return replace(found, seconds=found.seconds + more_s, parts=parts, bound=bound)


def _formats(spec: ChipSpec, dtype: str) -> Formats:
    have = spec.pe.dpe.mac_per_cycle
    plain = _ALIASES.get(dtype, dtype)
    if plain in _PLAIN and plain in have:
        return Formats(mac=plain, element=_PLAIN[plain])
    if dtype == "fp8" and "fp8" in have:
        return Formats(mac="fp8", element=torch.float8_e4m3fn, quantised=True)
    if dtype == "fp8_block" and "mx8" in have:
        return Formats(mac="mx8", element=torch.float8_e4m3fn, quantised=True, group=32, scaling=Scaling.ENGINE,
                       scale=torch.uint8, code="e4m3")  # fmt: skip
    if dtype == "fp8_block" and "fp8" in have:
        return Formats(mac="fp8", element=torch.float8_e4m3fn, quantised=True, group=BLOCK, scaling=Scaling.PROMOTED)
    if dtype == "nvfp4" and "mx4" in have:
        return Formats(mac="mx4", element=torch.uint8, per_element=2, quantised=True, group=16, scaling=Scaling.ENGINE,
                       scale=torch.float8_e4m3fn, code="e2m1")  # fmt: skip
    able = [name for name in _PLAIN if name in have] + [name for name, mac in _QUANTISED.items() if mac in have]
    raise UnsupportedDtype("matrix multiplication", chip=spec.name, dtype=dtype, supported=sorted(able))


@dataclass(frozen=True, slots=True)
class _Run:
    """One call: what is multiplied, with which kernels, on which chip, under which protocol."""

    spec: ChipSpec
    protocol: Protocol
    machine: Machine
    problem: Problem
    held: Kept
    choice: Choice
    formats: Formats

    @property
    def n_launches(self) -> int:
        return 1 + self.formats.quantised + (self.choice.splits > 1)

    def estimated(self) -> Prediction:
        """The fast path."""
        launch_s = launch_overhead_s(self.spec, self.protocol, self.n_launches)
        quantised_s = quantise_s(self.machine, self.problem, self.held)
        parts = {"launch": launch_s, "quantise": quantised_s, "sum": self.choice.sum_s}
        parts[self.choice.bound] = self.choice.kernel_s
        bound = max(parts, key=lambda part: parts[part])
        return Prediction(seconds=sum(parts.values()), bound=bound, parts=parts, how=str(self.choice))

    def simulated(self) -> Prediction:
        """All launches of the call, one after the other, on an SRAM as the calls before left it."""
        part = _part(self.machine, self.problem, self.choice, self.formats)
        how, longer = str(self.choice), 1.0
        if part != self.problem:
            longer = self.choice.kernel_s / same_tiling(self.machine, part, self.held, self.choice).kernel_s
            how += f", simulated at {part.m} x {part.n} x {part.k}"
        memory = Memory(self.spec)
        t = self._tensors(memory, part)
        self._seed(memory, part, t)
        timings = [self._quantise(memory, t, part)] if self.formats.quantised else []
        timings += self._multiply(memory, t, part, longer)
        return predicted(self.spec, self.protocol, timings, how=how)

    def _tensors(self, memory: Memory, part: Problem) -> Tensors:
        f = self.formats
        x_elements, w_elements = part.m * part.k, part.n * part.k
        group = f.group or part.k
        return Tensors(
            source=memory.buffer(x_elements if f.quantised else 1, torch.bfloat16),
            x=memory.buffer(ceil_div(x_elements, f.per_element), f.element),
            w=memory.buffer(ceil_div(w_elements, f.per_element), f.element),
            out=memory.buffer(part.m * part.n, torch.bfloat16),
            x_scale=memory.buffer(ceil_div(x_elements, group), f.scale),
            w_scale=memory.buffer(ceil_div(w_elements, group), f.scale),
        )

    def _seed(self, memory: Memory, part: Problem, t: Tensors) -> None:
        """SRAM in the steady state: the kept shares of the tensors, above what others left to be replaced."""
        first = t.source if self.formats.quantised else t.x
        shares = [
            (t.w, self.held.w, False),
            (t.w_scale, self.held.w, False),
            (first, self.held.x, False),
            (t.out, self.held.out, True),
        ]
        if self.formats.quantised:
            shares.insert(2, (t.x, self.held.out, True))
        resident = sum(b.n_bytes * share for b, share, _ in shares)
        others = int(memory.residency.capacity_bytes - resident)
        if min(self.held.x, self.held.w) < 1.0 and others > 0:
            replaced = sum(b.n_bytes * (1 - share) for b, share, _ in shares)
            written = sum(b.n_bytes * (1 - share) for b, share, dirty in shares if dirty)
            memory.fill_with_others(others, min(1.0, written / max(1.0, replaced)))
        ranges = [(b.address, b.address + b.n_bytes, dirty, int(b.n_bytes * share)) for b, share, dirty in shares]
        memory.residency.touch_together(ranges)

    def _quantise(self, memory: Memory, t: Tensors, part: Problem) -> KernelTiming:
        """All of x, or as many rows as are quick to simulate."""
        programs = part.m if self.problem.rows_quantised else ceil_div(part.m * part.k, QUANTISE_ELEMENTS)
        rows = min(part.m, max(1, part.m * LEAST_WAVES * self.machine.n_pes // programs, MOST_QUANTISED // part.k))
        longest = row_elements(self.machine.resident_programs)
        timing = time_call(quantise(rows, part.k, self.formats, t, longest), memory)
        some = replace(part, m=rows)
        if some == self.problem:
            return timing
        longer = quantise_s(self.machine, self.problem, self.held) / quantise_s(self.machine, some, self.held)
        return extended(timing, longer)

    def _multiply(self, memory: Memory, t: Tensors, part: Problem, longer: float) -> list[KernelTiming]:
        if self.choice.splits == 1:
            timing = time_call(multiply(part, self.choice, self.formats, t, t.out), memory, last=True)
            return [extended(timing, longer)]
        sums = memory.buffer(part.m * part.n * self.choice.splits, torch.float32)
        timing = time_call(multiply(part, self.choice, self.formats, t, sums), memory)
        added = time_call(add_up(part, self.choice, sums, t.out), memory, last=True)
        shorter = same_tiling(self.machine, part, self.held, self.choice)
        return [extended(timing, longer), extended(added, self.choice.sum_s / shorter.sum_s)]


def _part(machine: Machine, problem: Problem, choice: Choice, formats: Formats) -> Problem:
    """The problem, or one with fewer tiles and less depth that is quick to simulate: the same tiles, full waves, whole
    steps of the kernel.

    Depth is cut last: in a shallower product results weigh more among what is moved.
    """
    tiles = ceil_div(problem.m, choice.bm) * ceil_div(problem.n, choice.width) * choice.splits
    steps = ceil_div(ceil_div(problem.k, choice.step), choice.splits)
    if tiles * steps <= MOST_TILE_STEPS:
        return problem
    fewest = min(tiles, LEAST_WAVES * machine.n_pes)
    if (shorter := max(LEAST_STEPS, MOST_TILE_STEPS // fewest)) < steps:
        whole = coarser(problem, choice, formats)[0] // choice.step
        steps = max(1, shorter // whole) * whole
    k = min(problem.k, steps * choice.splits * choice.step)
    waves = max(LEAST_WAVES, MOST_TILE_STEPS // steps // machine.n_pes)
    most = waves * machine.n_pes / choice.splits
    m, n = problem.m, problem.n
    if tiles > most * choice.splits:
        across = ceil_div(n, choice.width)
        square = max(1, round((most * choice.width / choice.bm) ** 0.5))
        down = min(ceil_div(m, choice.bm), max(square, int(most // across)))
        m = min(m, down * choice.bm)
        n = min(n, max(1, int(most // down)) * choice.width)
    return replace(problem, m=m, n=n, k=k)


__all__ = ["predict_gemm"]
