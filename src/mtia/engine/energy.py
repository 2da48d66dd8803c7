"""Energy of one launch: per act by unit from the chip's figures, plus idle power over its time; bounded by TDP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtia.chips.spec import ChipSpec

_Joules = Any  # a number or an array of them
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
    mac: Mapping[str, float],
    vector_ops: int,
    local_bytes: float,
    noc_bytes: float,
    sram_bytes: float,
    dram_bytes: float,
) -> Energy:
    """Energy and, where the chip must slow down, the longer time (`clock_frac`).

    `mac`: multiply-adds by dtype, without those of zeros (padding to blocks, what masks leave out)."""
    power = spec.power
    die = {
        "dpe": sum(n * mac_energy_j(spec, dtype) for dtype, n in mac.items()),
        "vector": vector_ops * power.vector_op_j,
        "local": local_bytes * power.local_memory_j_per_byte,
        "noc": noc_bytes * power.noc_j_per_byte,
        "sram": sram_bytes * power.sram_j_per_byte,
    }
    dram_j = dram_bytes * power.dram_j_per_byte
    slower = float(clock_frac(sum(die.values()), dram_j, (power.tdp_w - power.idle_w) * time_s))
    longer = time_s / slower
    parts = {unit: joules * slower for unit, joules in die.items()} | {"dram": dram_j, "idle": power.idle_w * longer}
    return Energy(total_j=sum(parts.values()), parts_j=parts, time_s=longer, throttle_frac=slower)


def clock_frac(die_j: _Joules, dram_j: _Joules, allowed_j: _Joules) -> _Joules:
    """Share of the full clock at which a launch stays within the chip's power; 1 where it does at the full clock.

    `die_j`, `dram_j`: what it takes on the die and in memory at the full clock; `allowed_j`: what the power limit gives
    in the time at the full clock. Voltage follows the clock, so that energy on the die falls in proportion (V about the
    square root of f: 0.7 to 1.05 V from half to full clock is typical of 7 and 4 nm); that of memory stays. At share t
    the launch takes 1 / t of the time: die_j t + dram_j = allowed_j / t.
    """
    over = np.maximum(die_j + dram_j, 1e-30) > np.maximum(allowed_j, 0.0)
    die = np.maximum(die_j, 1e-30)
    share = (np.sqrt(dram_j * dram_j + 4 * die * np.maximum(allowed_j, 0.0)) - dram_j) / (2 * die)
    return np.where(over & (np.asarray(allowed_j) > 0), np.minimum(share, 1.0), 1.0)


def mac_energy_j(spec: ChipSpec, dtype: str) -> float:
    """Energy of one multiply-add; a type the file does not list costs as the widest it lists."""
    table = spec.power.mac_j
    if dtype in table:
        return table[dtype]
    return next((table[d] for d in _MAC_FALLBACK if d in table), 0.0)


__all__ = ["Energy", "clock_frac", "energy_of", "mac_energy_j"]
