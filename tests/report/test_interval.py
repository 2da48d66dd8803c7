"""Assumed figures at their ends: the right end for each, nothing that changes which programs are legal."""

from __future__ import annotations

import pytest

from mtia import chips
from mtia.report.interval import fast_and_slow, moves


@pytest.mark.parametrize(
    ("key", "direction"),
    [("dram.bytes_per_s", 1), ("pe.dpe.mac_per_cycle.bf16", 1), ("launch.host_s", -1), ("pe.sfu.startup_cycles", -1),
     ("power.mac_j.bf16", -1), ("power.idle_w", -1), ("grid.rows", 0), ("pe.dpe.block_n", 0), ("clock_hz", 1),
     ("pe.local_memory_bytes", 0), ("sram.capacity_bytes", 1), ("dram.efficiency_frac", 1)],
)  # fmt: skip
def test_direction(key: str, direction: int) -> None:
    assert moves(key) == direction


@pytest.mark.parametrize("name", [n for n in chips.names() if n.startswith("mtia")])
def test_ends_lie_on_either_side(name: str) -> None:
    spec = chips.load(name)
    ends = fast_and_slow(spec)
    assert ends is not None
    fast, slow = ends
    for key in spec.uncertain():
        value, better, worse = spec.get(key), fast.get(key), slow.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        assert (better - value) * moves(key) >= 0 and (worse - value) * moves(key) <= 0, key
