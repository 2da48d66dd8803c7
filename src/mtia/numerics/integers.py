"""INT8 as MTIA 100 and 200 multiply it: a scale for the tensor (static) or one for each row (dynamic).

MTIA 200's reduction engine hands the least and greatest result of each row to the SIMD engine, which quantises the row
(ISCA25).  Symmetric, zero point 0 (assumption `int8-symmetric`: both engines take a bias, so an offset is possible and
costs a correction of the sums); rounding to nearest even (assumption `int8-rounding`).
"""

from __future__ import annotations

import numpy as np

from mtia.numerics.formats import INT8, encode

SMALLEST_SCALE = np.float32(1e-12 / 127)
"""A row of zeros is scaled by this, so that nothing is divided by zero."""


def row_scales(x_RC: np.ndarray) -> np.ndarray:
    """float32 [R, 1]: largest magnitude of the row / 127."""
    return np.maximum(np.abs(x_RC).max(axis=1, keepdims=True).astype(np.float32) / np.float32(127), SMALLEST_SCALE)


def quantise_rows(x_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [R, C] and float32 scale [R, 1]: dynamic, one scale a row."""
    scale = row_scales(x_RC)
    return quantise_static(x_RC, scale), scale


def quantise_static(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """int8 of x / scale (scale known beforehand, float32), saturated at -128 and 127."""
    return encode(x / np.asarray(scale, dtype=np.float32), INT8).view(np.int8)


def dequantise(q: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """float32 q * scale."""
    return q.astype(np.float32) * np.asarray(scale, dtype=np.float32)


__all__ = ["dequantise", "quantise_rows", "quantise_static", "row_scales"]
