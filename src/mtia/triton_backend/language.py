"""What a PE can do and stock Triton cannot say in few words: functions for `@triton.jit` kernels.

`tl.sort` of integers is a Sort command too (lowering/lower.py), but Triton first writes out a sorting network for it,
which takes seconds for a long tile; `sort_tile` says it in one call.
"""

from __future__ import annotations

import triton
import triton.language as tl

_RISING = tl.constexpr(False)


@triton.jit
def sort_tile(x, descending: tl.constexpr = _RISING):
    """x, a tile of signed integers, in order along its last dim. The back end replaces the call by a Sort."""
    return x


__all__ = ["sort_tile"]
