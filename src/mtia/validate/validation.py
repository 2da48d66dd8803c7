"""A validation as one value: what was predicted, what was left out and why, on which chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mtia.chips.spec import ChipSpec
from mtia.validate.fast_path import FastGap
from mtia.validate.intervals import Interval
from mtia.validate.results import RowResult
from mtia.validate.rooflines import Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """`rows`: what was predicted. `failed`, `missing`, `later`: what was not, with the reason in the answer.

    `skipped`: rows or files that could not be read, as said; only where the user asked to go on without them.
    """

    folder: str
    rows: Sequence[RowResult]
    failed: Sequence[RowResult] = ()
    missing: Sequence[RowResult] = ()
    later: Sequence[RowResult] = ()
    skipped: Sequence[str] = ()
    chips: Mapping[str, ChipSpec] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    fits: Mapping[str, Fit] = field(default_factory=dict)
    wall_s: float = 0.0
    note: str = ""  # sample, fast path, pooled figures
    intervals: Sequence[Interval] = ()
    fast_gaps: Sequence[FastGap] = ()
    pooled: bool = False  # no calibrated figure of a chip's own

    @property
    def complete(self) -> bool:
        """No row failed or could not be read."""
        return not self.failed and not self.skipped


__all__ = ["Results"]
