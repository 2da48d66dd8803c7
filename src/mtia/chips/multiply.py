"""Where a chip multiplies a number format: its dot product engine, its vector cores, or after unpacking in software.

Read off the chip file: a format in `pe.dpe.mac_per_cycle` has an engine; one in `pe.cores.vector_mac_per_cycle` runs on
the vector cores; a block format neither has is unpacked on the cores, `pe.cores.unpack_passes` passes an element, and
multiplied as bfloat16 where the file gives that figure (MTIA 300), and refused where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mtia.chips.roadmap import generations
from mtia.chips.spec import ChipSpec
from mtia.errors import UnsupportedDtype
from mtia.units import format_flops

RATE_OF = {
    "fp8e4m3": "fp8", "fp8e5m2": "fp8", "mxfp8e4m3": "mx8", "mxfp8e5m2": "mx8", "mxfp4": "mx4", "nvfp4": "mx4",
}  # fmt: skip
"""The entry of `mac_per_cycle` that a format of `numerics` runs at, where its name is another."""
BLOCK_RATES = ("mx4", "mx8", "mx8s")
UNPACKED = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplyPath:
    """`rate`: the entry of the chip's tables that the multiply runs at; `unpack_passes`: passes of the vector cores
    over each operand element before it."""

    chip: str
    rate: str
    mac_per_cycle: float  # of one PE
    on_engine: bool  # the dot product engine; else the vector cores
    unpack_passes: float = 0.0

    @property
    def is_software(self) -> bool:
        return not self.on_engine or self.unpack_passes > 0


def rate_of(fmt: str) -> str:
    return RATE_OF.get(fmt, fmt)


def path_or_none(spec: ChipSpec, fmt: str) -> MultiplyPath | None:
    """How the chip multiplies two operands of the format; None where it cannot."""
    rate, engine, cores = rate_of(fmt), spec.pe.dpe.mac_per_cycle, spec.pe.cores
    if rate in engine:
        return MultiplyPath(chip=spec.name, rate=rate, mac_per_cycle=engine[rate], on_engine=True)
    if rate in BLOCK_RATES:
        if cores.unpack_passes is None:
            return None
        return MultiplyPath(
            chip=spec.name,
            rate=UNPACKED,
            mac_per_cycle=engine[UNPACKED],
            on_engine=True,
            unpack_passes=cores.unpack_passes,
        )
    if rate in cores.vector_mac_per_cycle:
        slow = cores.vector_mac_per_cycle[rate]
        return MultiplyPath(chip=spec.name, rate=rate, mac_per_cycle=slow, on_engine=False)
    return None


def multiply_path(spec: ChipSpec, fmt: str, *, what: str = "matrix multiplication") -> MultiplyPath:
    """As `path_or_none`. Raises UnsupportedDtype that says what the chip has, since which generation the format is
    there, and what the way in software would cost."""
    path = path_or_none(spec, fmt)
    if path is None:
        raise refused(spec, fmt, what=what)
    return path


def refused(spec: ChipSpec, fmt: str, *, what: str) -> UnsupportedDtype:
    """The error for a format that the chip does not multiply."""
    return UnsupportedDtype(
        what,
        chip=spec.name,
        dtype=rate_of(fmt),
        supported=sorted(spec.pe.dpe.mac_per_cycle),
        since=first_with(rate_of(fmt)),
        software=software_cost(spec, rate_of(fmt)),
    )


def software_cost(spec: ChipSpec, fmt: str) -> str:
    """A sentence: how the product is had without a unit, and at what peak beside the first chip that has one."""
    peak = spec.peak_flop_per_s(UNPACKED)
    have = next((s for s in generations() if fmt in s.pe.dpe.mac_per_cycle), None)
    there = f", {have.title} {format_flops(have.peak_flop_per_s(fmt))} in {fmt}" if have else ""
    return (
        f"In software: keep {fmt} for storage and unpack to {UNPACKED} on the vector cores (mtia.quantize with a "
        f"-weight scheme; {_unpack_rate(spec)} elements), then multiply at {format_flops(peak)}{there}."
    )


def refused_rounding(spec: ChipSpec, *, what: str) -> UnsupportedDtype:
    """The error for stochastic rounding on a chip whose SIMD engine or SFU rounds to nearest alone."""
    have = next((s for s in generations() if s.pe.sfu.stochastic_rounding), None)
    lanes = spec.grid.n_pes * spec.pe.cores.vector_cores * spec.pe.cores.vector_bytes_per_cycle / 4
    return UnsupportedDtype(
        what, chip=spec.name, dtype="stochastic rounding", supported=["nearest-even"],
        since="" if have is None else have.title,
        software="In software: mtia.numerics.blocks.quantise on the host, or random bits drawn, added and cut off by a "
        f"kernel of your own, some 30 passes of the vector cores ({lanes * spec.clock_hz / 1e12:.2g} T lanes/s).",
    )  # fmt: skip


SPARSE = "2:4 sparse weights"


def refused_sparse(spec: ChipSpec, dtype: str, *, what: str) -> UnsupportedDtype:
    """The error for 2:4 sparse weights on a chip whose engine reads dense ones alone."""
    have = next((s for s in generations() if s.pe.dpe.sparse_2_4), None)
    software = "In software: spread the weights out to dense ones (SparseWeight.dense()) and multiply them"
    if dtype in spec.pe.dpe.mac_per_cycle:
        software += f" at {format_flops(spec.peak_flop_per_s(dtype))} in {dtype}"
    if have is not None and dtype in have.pe.dpe.mac_per_cycle:
        software += f"; {have.title} has {format_flops(2 * have.peak_flop_per_s(dtype))} for them"
    return UnsupportedDtype(
        what, chip=spec.name, dtype=f"{SPARSE} in {dtype}", supported=[f"dense {t}" for t in spec.pe.dpe.mac_per_cycle],
        since="" if have is None else f"{have.title}, on which alone they are published", software=f"{software}.",
    )  # fmt: skip


def _unpack_rate(spec: ChipSpec) -> str:
    """Elements a second that the vector cores make of narrow ones, in as many passes as the file says, or one."""
    cores = spec.pe.cores
    lanes = spec.grid.n_pes * cores.vector_cores * cores.vector_bytes_per_cycle / 2
    return f"{lanes * spec.clock_hz / (cores.unpack_passes or 1) / 1e12:.3g} T/s"


@lru_cache(maxsize=64)
def first_with(rate: str) -> str:
    """Title of the first generation on the roadmap whose engine multiplies at the rate, "" where none does."""
    return next((s.title for s in generations() if rate in s.pe.dpe.mac_per_cycle), "")


__all__ = [
    "MultiplyPath",
    "first_with",
    "multiply_path",
    "path_or_none",
    "rate_of",
    "refused",
    "refused_rounding",
    "refused_sparse",
    "software_cost",
]
