"""How far predictions are from measurements: one value per group of rows, all of them from the ratio of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FloatArray = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of predicted against measured. All but `n`, `mean_abs_ln` and `spearman` are fractions (0.1: 10 %).

    `bias_frac`: exp(mean ln(predicted / measured)) - 1; above 0 predictions are too slow. `spearman` is the rank
    correlation, with mean ranks where values tie; None where either side is constant or there are fewer than 3 rows.
    """

    n: int
    median_frac: float
    mean_frac: float
    p90_frac: float
    bias_frac: float
    mean_abs_ln: float
    spearman: float | None

    def to_json(self) -> dict[str, float | int | None]:
        return {
            "n": self.n, "median_frac": _short(self.median_frac), "mean_frac": _short(self.mean_frac),
            "p90_frac": _short(self.p90_frac), "bias_frac": _short(self.bias_frac),
            "mean_abs_ln": _short(self.mean_abs_ln),
            "spearman": None if self.spearman is None else _short(self.spearman),
        }  # fmt: skip


def errors_of(predicted: Sequence[float] | FloatArray, measured: Sequence[float] | FloatArray) -> Errors:
    """Statistics over rows; both above zero, same length, at least one. The 90th percentile interpolates linearly."""
    p, m = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    assert p.shape == m.shape and p.size, "a group of rows has both, and at least one"
    off = np.abs(p / m - 1)
    ln = np.log(p / m)
    return Errors(
        n=int(p.size), median_frac=float(np.median(off)), mean_frac=float(off.mean()),
        p90_frac=float(np.quantile(off, 0.9)), bias_frac=float(np.expm1(ln.mean())),
        mean_abs_ln=float(np.abs(ln).mean()), spearman=spearman(p, m),
    )  # fmt: skip


def spearman(x: FloatArray, y: FloatArray) -> float | None:
    """Rank correlation with mean ranks for ties."""
    if x.size < 3:
        return None
    rx, ry = _ranks(x), _ranks(y)
    rx, ry = rx - rx.mean(), ry - ry.mean()
    spread = float(np.sqrt((rx @ rx) * (ry @ ry)))
    return float(rx @ ry) / spread if spread else None


def _ranks(values: FloatArray) -> FloatArray:
    """1 for the least; equal values share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[group]


def _short(value: float) -> float:
    """Six significant digits: what two machines agree on."""
    return float(f"{value:.6g}")


__all__ = ["Errors", "errors_of", "spearman"]
