"""How a number between two neighbours of a format becomes one of them: to nearest even, toward zero, or by chance.

Stochastic rounding takes the upper neighbour with the probability that its distance from the lower one gives, so that
the mean over many roundings is the number itself.  MTIA 300's SFU has it (facts 4.2); what random bits it draws is
unpublished: here `n_random_bits` of a generator that the caller seeds are compared with the remainder.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from mtia.numerics.formats import FloatFormat, IntegerFormat

RANDOM_BITS = 16
"""Assumption `stochastic-random-bits`: bits of a random number that a stochastic rounding compares with; 8 to 32 are
plausible."""


class Rounding(StrEnum):
    """NEAREST_EVEN is every MTIA's default here (assumption `conversion-rounding`; only the DPE's accumulation is
    published); the others are for what a user wants to see changed."""

    NEAREST_EVEN = "nearest-even"
    NEAREST_AWAY = "nearest-away"
    TOWARD_ZERO = "toward-zero"
    STOCHASTIC = "stochastic"


def quantum_of(x: np.ndarray, fmt: FloatFormat | IntegerFormat) -> np.ndarray:
    """The distance between the format's neighbours around each number, float64: 2**(exponent - mantissa bits), no
    smaller than the smallest subnormal, 1 for integers."""
    if isinstance(fmt, IntegerFormat):
        return np.ones_like(x, dtype=np.float64)
    _, exponent = np.frexp(np.where(np.isfinite(x), x, 1.0).astype(np.float64))
    held = np.maximum(exponent - 1, fmt.least_exponent)
    return np.ldexp(1.0, held - fmt.mantissa_bits)


def round_numbers(
    x: np.ndarray,
    fmt: FloatFormat | IntegerFormat,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    random: np.random.Generator | None = None,
    n_random_bits: int = RANDOM_BITS,
) -> np.ndarray:
    """`x` rounded once to the format's numbers and saturated at its largest, float64; NaN and infinities as they are.

    `random`: needed by STOCHASTIC alone, which draws `n_random_bits` for each element in order.
    Raises ValueError where STOCHASTIC has no generator.
    """
    wide = x.astype(np.float64)
    quantum = quantum_of(wide, fmt)
    with np.errstate(invalid="ignore"):
        steps = _whole_steps(wide / quantum, rounding, random, n_random_bits)
        rounded = np.clip(steps * quantum, _least(fmt), fmt.largest)
    return np.where(np.isfinite(wide), rounded, wide)


def _whole_steps(
    steps: np.ndarray, rounding: Rounding, random: np.random.Generator | None, n_random_bits: int
) -> np.ndarray:
    if rounding is Rounding.NEAREST_EVEN:
        return np.rint(steps)
    if rounding is Rounding.NEAREST_AWAY:
        return np.copysign(np.floor(np.abs(steps) + 0.5), steps)
    if rounding is Rounding.TOWARD_ZERO:
        return np.trunc(steps)
    if random is None:
        raise ValueError("stochastic rounding draws random bits: give random=np.random.default_rng(seed)")
    drawn = random.integers(0, 1 << n_random_bits, size=steps.shape) / (1 << n_random_bits)
    return np.copysign(np.floor(steps + drawn), steps)  # what becomes zero keeps its sign


def _least(fmt: FloatFormat | IntegerFormat) -> float:
    return float(fmt.least) if isinstance(fmt, IntegerFormat) else -fmt.largest


__all__ = ["RANDOM_BITS", "Rounding", "quantum_of", "round_numbers"]
