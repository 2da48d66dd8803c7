"""What the shared SRAM holds from launch to launch: address ranges, least recently used first.

Within a launch the event loop keeps its own record block by block (csrc/timing.cpp), seeded from this one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp

from mtia.chips.spec import SramSpec
from mtia.engine.native import library


@dataclass(frozen=True, slots=True)
class Segment:
    """`n_bytes` of the addresses [lo, hi) are resident (all, unless rows were picked by index); some are dirty."""

    lo: int
    hi: int
    n_bytes: int
    dirty_bytes: int


@lru_cache(maxsize=1)
def _functions() -> dict[str, Callable]:
    p, i64 = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "new": (p, [i64]),
        "delete": (None, [p]),
        "copy": (p, [p]),
        "bytes": (i64, [p]),
        "count": (i64, [p]),
        "read": (None, [p, p]),
        "fractions": (None, [p, p, i64, p]),
        "remove": (i64, [p, i64, i64]),
        "clear": (None, [p]),
        "touch": (i64, [p, p, i64]),
        "pressure": (i64, [p, i64]),
    }
    functions = {}
    for name, (result, arguments) in signatures.items():
        function = getattr(library(), f"mtia_residency_{name}")
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    return functions


MOST_LOAD = 8.0  # times its capacity that a cache is asked to hold: nothing survives beyond


def survives(sram: SramSpec, reuse_bytes: float) -> float:
    """Share of data found in SRAM again after `reuse_bytes` different bytes, itself included, were touched.

    Least recently used. Where a line has `ways` places, chosen by a hash of its address, it survives if fewer than so
    many of the others fell on them: a Poisson number. Fully associative: all, or nothing of a longer stream.
    """
    load = reuse_bytes / sram.shared_bytes
    if sram.ways is None:
        return 1.0 if load <= 1 else 0.0
    mean = min(load, MOST_LOAD) * sram.ways
    share, term = 0.0, exp(-mean)
    for i in range(sram.ways):
        share += term
        term *= mean / (i + 1)
    return share


class Ranges:
    """Address ranges (lo, hi, written, n_bytes), ready to be asked about and touched again and again."""

    __slots__ = ("asked", "n", "out", "sizes", "touched")

    def __init__(self, ranges: Sequence[tuple[int, int, bool, int]]) -> None:
        self.n = len(ranges)
        self.sizes = [r[3] for r in ranges]
        self.asked = (ctypes.c_int64 * (2 * self.n))(*(x for r in ranges for x in r[:2]))
        self.out = (ctypes.c_double * self.n)()
        flat = [int(x) for r in ranges if r[1] > r[0] and r[3] > 0 for x in r]
        self.touched = (ctypes.c_int64 * len(flat))(*flat)


class Residency:
    """LRU over address ranges with a capacity in bytes; ranges never overlap. Deterministic (csrc/residency.cpp)."""

    def __init__(self, capacity_bytes: int, *, _handle: int | None = None) -> None:
        self.capacity_bytes = int(capacity_bytes)
        self._call = _functions()
        self._handle = _handle if _handle is not None else self._call["new"](self.capacity_bytes)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._call["delete"](self._handle)

    @property
    def n_bytes(self) -> int:
        return self._call["bytes"](self._handle)

    @property
    def segments(self) -> list[Segment]:
        """What is held, least recently touched first."""
        n = self._call["count"](self._handle)
        out = (ctypes.c_int64 * (4 * n))()
        self._call["read"](self._handle, out)
        return [Segment(*out[i : i + 4]) for i in range(0, 4 * n, 4)]

    def fraction(self, lo: int, hi: int) -> float:
        """Share of the bytes of [lo, hi) that are resident."""
        return self.fractions([(lo, hi)])[0]

    def fractions(self, ranges: Sequence[tuple[int, int]]) -> list[float]:
        """`fraction` of several ranges at once."""
        return self.fractions_of(Ranges([(lo, hi, False, 0) for lo, hi in ranges]))

    def fractions_of(self, ranges: Ranges) -> list[float]:
        """`fractions` of ranges prepared once."""
        self._call["fractions"](self._handle, ranges.asked, ranges.n, ranges.out)
        return ranges.out[:]

    def touch(self, lo: int, hi: int, written: bool, n_bytes: int | None = None) -> int:
        """[lo, hi) was read or written (`n_bytes` of it, default all). Returns dirty bytes evicted to DRAM.

        Of a range larger than the SRAM its end stays.
        """
        return self.touch_together([(lo, hi, written, hi - lo if n_bytes is None else n_bytes)])

    def touch_together(self, ranges: Iterable[tuple[int, int, bool, int]]) -> int:
        """Ranges (lo, hi, written, n_bytes) streamed side by side: each keeps the same share if not all fit."""
        return self.touch_all(Ranges(list(ranges)))

    def touch_all(self, ranges: Ranges) -> int:
        """`touch_together` of ranges prepared once."""
        return self._call["touch"](self._handle, ranges.touched, len(ranges.touched) // 4)

    def pressure(self, incoming_bytes: int) -> int:
        """Dirty bytes that would be written back to make room for `incoming_bytes` new ones."""
        return self._call["pressure"](self._handle, incoming_bytes)

    def forget(self, lo: int, hi: int) -> None:
        """[lo, hi) was freed: what it held is dead and needs no write-back."""
        self._call["remove"](self._handle, lo, hi)

    def clear(self) -> None:
        self._call["clear"](self._handle)

    def copy(self) -> Residency:
        return Residency(self.capacity_bytes, _handle=self._call["copy"](self._handle))


__all__ = ["Ranges", "Residency", "Segment", "survives"]
