"""Choosing a matrix multiplication's tiles by simulated time.

Three functions: what is legal on the chip, what each would take, the least. The choice is kept in memory and, keyed by
the chip's figures, on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch

from mtia import knobs
from mtia.chips.spec import ChipSpec
from mtia.kernels.iteration import ceil_div, next_power_of_2

MOST_CANDIDATES = 4
WIDE = 256
FEW_ROWS = 16  # of a decode step: weights are read once, so the loads in flight are what binds
MINOR_FRAC = 0.25  # weight of what does not bind, in the order of candidates


@dataclass(frozen=True, slots=True)
class Tiling:
    """Rows, columns and depth of one step; `stages`: slots of its circular buffers."""

    m: int
    n: int
    k: int
    stages: int = 2


@dataclass(frozen=True, slots=True)
class Operand:
    """What is multiplied: the chip's rate for it (an entry of `mac_per_cycle`) and the bytes of an element."""

    rate: str
    n_bytes: float


def operand_of(dtype: torch.dtype) -> Operand:
    return Operand(_ENGINE_TYPES.get(dtype, "fp32"), dtype.itemsize)


def chip_or_none() -> ChipSpec | None:
    """The chip in force; None where there is no device (kernels interpreted on the host)."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    from mtia.host_runtime import silicon

    return silicon.chip()


def band_rows() -> int:
    """Rows of tiles walked side by side: a row of PEs then shares a strip of y, a column of PEs a strip of x."""
    spec = chip_or_none()
    return 8 if spec is None else spec.grid.cols


def plain_tiling(M: int, N: int, K: int) -> Tiling:
    """A sound choice without a chip to ask: square-ish 64s, smaller where the matrix is."""
    return Tiling(
        m=min(64, max(16, next_power_of_2(M))),
        n=min(64, max(16, next_power_of_2(N))),
        k=min(64, max(16, next_power_of_2(K))),
    )


def legal_tilings(B: int, M: int, N: int, K: int, operand: torch.dtype | Operand, spec: ChipSpec) -> list[Tiling]:
    """Tilings that fit: two slots of both operands in local memory beside the result, the accumulator in its place.

    Few, spread over the useful range, the most promising (enough programs for the grid, deep steps) first. Where
    the accumulators hold a tile of 256 x 256 (MTIA 400 and later: a whole work unit stays in CREG), it is a candidate;
    elements below a byte, and a few rows, may take deeper steps. A wide tile, and one of a few rows, may also take four
    slots: loads then hide behind a multiply that is short beside the way to SRAM.
    """
    operand = operand if isinstance(operand, Operand) else operand_of(operand)
    size = operand.n_bytes
    sides = (16, 32, 64, 128, *((WIDE,) if spec.pe.dpe.accumulator_bytes >= 4 * WIDE * WIDE else ()))
    rows = sorted({min(m, next_power_of_2(M)) for m in sides})  # a vector is not padded to a block
    columns = sorted({min(n, max(16, next_power_of_2(N))) for n in sides})
    is_thin = M <= FEW_ROWS
    steps = (64, 128, 256, 512) if size < 1 or is_thin else (64, 128, 256)
    depths = sorted({min(k, max(16, next_power_of_2(K))) for k in steps})
    fitting = [
        Tiling(m, n, k, slots)
        for m in rows
        for n in columns
        for k in depths
        for slots in ((2, 4) if is_thin or m == n == WIDE else (2,))
        if _bytes(m, n, k, size, slots) <= spec.pe.local_memory_bytes
    ]
    return sorted(fitting, key=lambda t: _estimate(t, B, M, N, K, operand, spec))[:MOST_CANDIDATES]


def _bytes(m: int, n: int, k: int, size: float, slots: int = 2) -> float:
    return slots * (m + n) * k * size + m * n * (size + 4) + 4096


def _estimate(t: Tiling, B: int, M: int, N: int, K: int, operand: Operand, spec: ChipSpec) -> float:
    """Cycles, roughly: the fullest PE's loads and multiplies, or what all of them ask of SRAM and DRAM where that is
    more; what does not bind counts a little, to order equals. Only orders candidates for the timer."""
    size = operand.n_bytes
    programs = B * ceil_div(M, t.m) * ceil_div(N, t.n)
    waves = ceil_div(programs, spec.grid.n_pes)
    steps = ceil_div(K, t.k)
    in_flight = min(spec.pe.dma.max_outstanding_bytes, t.stages * (t.m + t.n) * t.k * size)
    round_trip = (2 * spec.noc.latency_s + spec.sram.latency_s) * spec.clock_hz
    port = min(spec.pe.dma.read_bytes_per_cycle, in_flight / round_trip)
    load = (t.m + t.n) * t.k * size / port
    multiply = _multiply_cycles(t, operand.rate, spec)
    issue = 3 * spec.pe.cores.dma_issue_cycles
    alone = waves * (steps * max(load, multiply, issue) + t.m * t.n * size / spec.pe.dma.write_bytes_per_cycle)
    shared = programs * steps * max(t.m, t.n) * t.k * size / (spec.sram.bytes_per_s / spec.clock_hz)
    matrices = B * (M * K + K * N + M * N) * size / (spec.dram.bytes_per_s * spec.dram.efficiency_frac / spec.clock_hz)
    granule = max(1.0, spec.sram.line_bytes / (min(t.n, t.k) * size))
    parts = (alone, granule * shared / min(spec.grid.rows, spec.grid.cols), granule * matrices)
    return round_trip + load + (1 - MINOR_FRAC) * max(parts) + MINOR_FRAC * sum(parts)


def _multiply_cycles(t: Tiling, name: str, spec: ChipSpec) -> float:
    """One step's multiply: whole blocks of the dot product engine, or the vector cores where it lacks the type."""
    rate = spec.pe.dpe.mac_per_cycle.get(name)
    if rate is None:
        return t.m * t.n * t.k / spec.pe.cores.vector_mac_per_cycle.get(name, 2)
    dpe = spec.pe.dpe
    return dpe.fill_cycles + prod(dpe.whole_blocks(t.m, t.n)) * t.k / rate


_ENGINE_TYPES = {torch.int8: "int8", torch.uint8: "int8", torch.float16: "fp16", torch.bfloat16: "bf16"}


_chosen: dict[tuple, Tiling] = {}


def choose_tiling(
    B: int, M: int, N: int, K: int, operand: torch.dtype | Operand, kind: tuple, time_of: Callable[[Tiling], float]
) -> Tiling:
    """The legal tiling with the least simulated time; `kind` tells apart what else the kernel does (layouts, bias)."""
    spec = chip_or_none()
    if spec is None:
        return plain_tiling(M, N, K)
    name = str(operand) if isinstance(operand, torch.dtype) else operand.rate
    problem = (B, M, N, K, name, *map(str, kind))
    key = (spec_digest(spec), problem)
    if key not in _chosen:
        _chosen[key] = _from_disk(key) or _search(B, M, N, K, operand, spec, time_of, key)
    return _chosen[key]


def _search(
    B: int, M: int, N: int, K: int, operand: torch.dtype | Operand, spec: ChipSpec,
    time_of: Callable[[Tiling], float], key: tuple,
) -> Tiling:  # fmt: skip
    candidates = legal_tilings(B, M, N, K, operand, spec) or [plain_tiling(M, N, K)]
    best = min(candidates, key=time_of) if len(candidates) > 1 else candidates[0]
    _to_disk(key, best)
    return best


@cache
def _code_digest() -> str:
    """Hash of the engine and the matmul kernels: a choice made by other code is made again."""
    root = Path(__file__).resolve().parent.parent
    files = [
        *(root / "engine").rglob("*.py"),
        *(root / "engine" / "csrc").glob("*.cpp"),
        root / "kernels" / "matmul.py",
        root / "kernels" / "scaled_matmul.py",
        root / "kernels" / "tiling.py",
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


_digests: dict[int, tuple[ChipSpec, str]] = {}


def spec_digest(spec: ChipSpec) -> str:
    """A short hash of every figure of the chip and of the code that timed the choice."""
    known = _digests.get(id(spec))
    if known is None or known[0] is not spec:
        known = _digests[id(spec)] = (spec, hashlib.sha256((repr(spec) + _code_digest()).encode()).hexdigest()[:16])
    return known[1]


def _file(digest: str) -> Path:
    return Path(knobs.get().cache_dir) / "tilings" / f"{digest}.jsonl"


_loaded: dict[str, dict[str, Tiling]] = {}


def _from_disk(key: tuple) -> Tiling | None:
    digest, problem = key
    if digest not in _loaded:
        _loaded[digest] = _read(_file(digest))
    return _loaded[digest].get(json.dumps(problem))


def _read(path: Path) -> dict[str, Tiling]:
    """One JSON object a line; a line cut off by a crash is skipped."""
    found: dict[str, Tiling] = {}
    if not path.exists():
        return found
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            found[json.dumps(row["problem"])] = Tiling(**row["tiling"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _to_disk(key: tuple, tiling: Tiling) -> None:
    digest, problem = key
    path = _file(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"problem": problem, "tiling": asdict(tiling)}) + "\n")
