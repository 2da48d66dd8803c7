"""How far the analytical fast path is from the tile-level engine, and how much quicker, on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mtia.validate.predict import Answer, Status
from mtia.validate.results import RowResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FastGap:
    """Of |fast / engine - 1| over `n` rows that have a fast path, and median processor milliseconds of both.

    `outside_frac` of the rows are off by more than a tenth.
    """

    label: str
    n: int
    median_frac: float
    p90_frac: float
    outside_frac: float
    fast_ms: float
    engine_ms: float

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "label"}


def fast_gaps(rows: Sequence[RowResult], fast: Sequence[Answer], key: Callable[[RowResult], str]) -> list[FastGap]:
    """By group; `fast[i]` is the answer to `rows[i]` on the fast path. Rows without one are left out."""
    groups: dict[str, list[tuple[RowResult, Answer]]] = {}
    for row, quick in zip(rows, fast, strict=True):
        if quick.fast and quick.status is Status.PREDICTED:
            groups.setdefault(key(row), []).append((row, quick))
    return [_gap(label, pairs) for label, pairs in sorted(groups.items())]


def _gap(label: str, pairs: Sequence[tuple[RowResult, Answer]]) -> FastGap:
    off = np.abs([quick.seconds / row.predicted_s - 1 for row, quick in pairs])
    return FastGap(
        label=label,
        n=len(pairs),
        median_frac=float(np.median(off)),
        p90_frac=float(np.quantile(off, 0.9)),
        outside_frac=float((off > 0.1).mean()),
        fast_ms=1e3 * float(np.median([quick.cpu_s for _, quick in pairs])),
        engine_ms=1e3 * float(np.median([row.answer.cpu_s for row, _ in pairs])),
    )


__all__ = ["FastGap", "fast_gaps"]
