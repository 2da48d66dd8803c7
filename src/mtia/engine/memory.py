"""What the shared SRAM holds from launch to launch: address ranges, least recently used first.

Within a launch the event loop keeps its own record block by block (csrc/timing.cpp), seeded from this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Segment:
    """`n_bytes` of the addresses [lo, hi) are resident (all, unless rows were picked by index); some are dirty."""

    lo: int
    hi: int
    n_bytes: int
    dirty_bytes: int

    def part(self, lo: int, hi: int) -> Segment:
        """The part inside [lo, hi), its bytes in proportion."""
        lo, hi = max(lo, self.lo), min(hi, self.hi)
        share = (hi - lo) / (self.hi - self.lo)
        return Segment(lo, hi, round(self.n_bytes * share), round(self.dirty_bytes * share))


class Residency:
    """LRU over address ranges with a capacity in bytes; ranges never overlap. Deterministic."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.segments: list[Segment] = []    # least recently touched first

    @property
    def n_bytes(self) -> int:
        return sum(s.n_bytes for s in self.segments)

    def fraction(self, lo: int, hi: int) -> float:
        """Share of the bytes of [lo, hi) that are resident."""
        if hi <= lo:
            return 0.0
        found = sum(s.part(lo, hi).n_bytes for s in self.segments if s.lo < hi and s.hi > lo)
        return min(1.0, found / (hi - lo))

    def touch(self, lo: int, hi: int, written: bool, n_bytes: int | None = None) -> int:
        """[lo, hi) was read or written (`n_bytes` of it, default all). Returns dirty bytes evicted to DRAM.

        Of a range larger than the SRAM its end stays.
        """
        return self.touch_together([(lo, hi, written, hi - lo if n_bytes is None else n_bytes)])

    def touch_together(self, ranges: Iterable[tuple[int, int, bool, int]]) -> int:
        """Ranges (lo, hi, written, n_bytes) streamed side by side: each keeps the same share if not all fit."""
        ranges = [r for r in ranges if r[1] > r[0] and r[3] > 0]
        total = sum(r[3] for r in ranges)
        kept = min(1.0, self.capacity_bytes / total) if total else 1.0
        written_back = 0
        for lo, hi, written, n_bytes in ranges:
            dirty = self._remove(lo, hi)
            start = hi - max(1, int((hi - lo) * kept))
            resident = min(hi - start, int(n_bytes * kept))
            dirty = resident if written else min(dirty, resident)
            written_back += int(n_bytes) - resident if written else 0
            self._append(Segment(start, hi, resident, dirty))
        return written_back + self._shrink()

    def forget(self, lo: int, hi: int) -> None:
        """[lo, hi) was freed: what it held is dead and needs no write-back."""
        self._remove(lo, hi)

    def clear(self) -> None:
        self.segments.clear()

    def copy(self) -> Residency:
        other = Residency(self.capacity_bytes)
        other.segments = list(self.segments)
        return other

    def _remove(self, lo: int, hi: int) -> int:
        """Cuts [lo, hi) out of the segments; returns the dirty bytes cut."""
        if not any(s.lo < hi and s.hi > lo for s in self.segments):
            return 0
        kept: list[Segment] = []
        dirty = 0
        for s in self.segments:
            if s.lo >= hi or s.hi <= lo:
                kept.append(s)
                continue
            dirty += s.part(lo, hi).dirty_bytes
            kept += [s.part(a, b) for a, b in ((s.lo, lo), (hi, s.hi)) if a < b]
        self.segments = kept
        return dirty

    def _append(self, new: Segment) -> None:
        last = self.segments[-1] if self.segments else None
        if last is not None and last.hi == new.lo and bool(last.dirty_bytes) == bool(new.dirty_bytes):
            new = Segment(last.lo, new.hi, last.n_bytes + new.n_bytes, last.dirty_bytes + new.dirty_bytes)
            self.segments.pop()
        self.segments.append(new)

    def _shrink(self) -> int:
        written_back, over = 0, self.n_bytes - self.capacity_bytes
        while over > 0:
            first = self.segments[0]
            if first.n_bytes <= over:
                self.segments.pop(0)
                written_back += first.dirty_bytes
                over -= first.n_bytes
                continue
            share = over / first.n_bytes
            dirty = round(first.dirty_bytes * share)
            cut = first.lo + max(1, round((first.hi - first.lo) * share)) if first.hi - first.lo > 1 else first.lo
            self.segments[0] = replace(first, lo=min(cut, first.hi - 1), n_bytes=first.n_bytes - over,
                                       dirty_bytes=first.dirty_bytes - dirty)
            written_back += dirty
            over = 0
        return written_back


__all__ = ["Residency", "Segment"]
