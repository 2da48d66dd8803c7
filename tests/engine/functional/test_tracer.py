"""What a trace says of memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtia.engine.functional.tracer import covered_bytes

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=40)


@given(RUNS, st.sampled_from([1, 2, 4]), st.sampled_from([1, 1000]))
def test_covered_bytes_are_those_of_the_set(runs: list[tuple[int, int]], elem: int, spread: int) -> None:
    """Near runs are counted over their span, far ones sorted: the set of bytes is the same."""
    lo = np.array([first * spread * elem for first, _ in runs], dtype=np.int64)
    hi = lo + np.array([n * elem for _, n in runs], dtype=np.int64)
    everything = {byte for a, b in zip(lo.tolist(), hi.tolist(), strict=True) for byte in range(a, b)}
    assert covered_bytes(lo, hi, elem) == len(everything)
