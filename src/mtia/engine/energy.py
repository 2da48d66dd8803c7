"""Energy of one launch: per act by unit from the chip's figures, plus idle power over its time; bounded by TDP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtia.chips.spec import ChipSpec

_MAC_FALLBACK = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """`throttle_frac`: share of full speed at which the launch stays within TDP (1.0: it does anyway)."""

    total_j: float
    parts_j: Mapping[str, float]
    time_s: float
    throttle_frac: float


def energy_of(
    spec: ChipSpec,
    *,
    time_s: float,
    mac: Mapping[str, int],
    vector_ops: int,
    local_bytes: float,
    noc_bytes: float,
    sram_bytes: float,
    dram_bytes: float,
) -> Energy:
    """Energy and, where the chip must slow down, the longer time: dynamic energy / (TDP - idle power)."""
    power = spec.power
    parts = {
        "dpe": sum(n * mac_energy_j(spec, dtype) for dtype, n in mac.items()),
        "vector": vector_ops * power.vector_op_j,
        "local": local_bytes * power.local_memory_j_per_byte,
        "noc": noc_bytes * power.noc_j_per_byte,
        "sram": sram_bytes * power.sram_j_per_byte,
        "dram": dram_bytes * power.dram_j_per_byte,
    }
    dynamic = sum(parts.values())
    slowest = dynamic / (power.tdp_w - power.idle_w) if power.tdp_w > power.idle_w else time_s
    longer = max(time_s, slowest)
    parts["idle"] = power.idle_w * longer
    return Energy(
        total_j=dynamic + parts["idle"],
        parts_j=parts,
        time_s=longer,
        throttle_frac=time_s / longer if longer > 0 else 1.0,
    )


def mac_energy_j(spec: ChipSpec, dtype: str) -> float:
    """Energy of one multiply-add; a type the file does not list costs as the widest it lists."""
    table = spec.power.mac_j
    if dtype in table:
        return table[dtype]
    return next((table[d] for d in _MAC_FALLBACK if d in table), 0.0)


__all__ = ["Energy", "energy_of", "mac_energy_j"]
