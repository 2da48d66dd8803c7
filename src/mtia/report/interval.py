"""The interval of a prediction that rests on assumed figures: all of them at the fast end, and all at the slow end.

That is the widest the stated ranges allow (they are moved together), not a confidence interval. Figures that change
which programs are legal (grid, block shapes, local memory) stay where they are.
"""

from __future__ import annotations

import re

from mtia.chips.spec import ChipSpec

_MORE_IS_BETTER = re.compile(
    r"(bytes_per_s|_per_cycle(\.\w+)?|clock_hz|efficiency_frac|max_outstanding_bytes|vector_cores|banks|"
    r"sram\.capacity_bytes)$"
)
_LESS_IS_BETTER = re.compile(r"(_s|_cycles|page_bytes|gap_bytes|_j|_j\.\w+|_j_per_byte|_w)$")
_FIXED = re.compile(r"^(grid\.|scale_|info\.|pe\.dpe\.block_|dram\.capacity|power\.(tdp|typical)_w)")


def moves(key: str) -> int:
    """+1 where a larger figure is a faster or thriftier chip, -1 where a smaller one is, 0 where it is left alone."""
    if _FIXED.search(key):
        return 0
    if _MORE_IS_BETTER.search(key):
        return 1
    return -1 if _LESS_IS_BETTER.search(key) else 0


def fast_and_slow(spec: ChipSpec) -> tuple[ChipSpec, ChipSpec] | None:
    """The chip with every assumed figure at its better end, and at its worse end; None where nothing is assumed."""
    fast, slow = {}, {}
    for key, figure in spec.uncertain().items():
        low, high, direction = figure.source.low, figure.source.high, moves(key)
        if low is None or high is None or low == high or not direction:
            continue
        better, worse = (high, low) if direction > 0 else (low, high)
        fast[key], slow[key] = _like(figure.value, better), _like(figure.value, worse)
    if not fast:
        return None
    return spec.vary(fast, name=f"{spec.name} (assumed figures at their fast end)"), spec.vary(
        slow, name=f"{spec.name} (assumed figures at their slow end)"
    )


def _like(value: object, bound: float) -> float | int:
    return int(bound) if isinstance(value, int) and not isinstance(value, bool) else bound
