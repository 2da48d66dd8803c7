"""Timing a callable in simulated time: once is enough, the same call takes the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mtia.host_runtime import record
from mtia.host_runtime.clock import clock
from mtia.units import fs_to_s


def simulated_ms(call: Callable[[], Any]) -> float:
    """Milliseconds from the first start to the last end of what `call` submits; the host's time where it is none."""
    timer = clock()
    before_fs = timer.now_fs
    timer.host_fs = before_fs
    with record.session() as log:
        call()
    if log.spans:
        return log.elapsed_s * 1e3
    return fs_to_s(timer.now_fs - before_fs) * 1e3


__all__ = ["simulated_ms"]
