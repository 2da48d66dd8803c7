"""Host routes: operators that the host computed because the device has no kernel. Every one is counted.

The boxed fallback counts by itself; a kernel written in Python that calls the CPU calls `count(op)` first.
"""

from __future__ import annotations

import warnings

import torch  # noqa: F401  its libraries must be loaded before _C, which links to them

from mtia import _C, knobs
from mtia.errors import HostFallbackRefused
from mtia.knobs import HostFallback

_warned: set[str] = set()


class HostFallbackWarning(UserWarning):
    """An operator ran on the host (said once an operator, unless MTIA_HOST_FALLBACK=count)."""


def count(op: str, n: int = 1) -> None:
    """Count `n` runs of `op` on the host. Raises HostFallbackRefused where MTIA_HOST_FALLBACK=error."""
    _C.count_fallback(op, n)


def counts() -> dict[str, int]:
    """Runs on the host since the start or the last reset, by operator, most first."""
    return dict(sorted(_C.fallback_counts().items(), key=lambda item: (-item[1], item[0])))


def reset() -> None:
    _C.reset_fallbacks()
    _warned.clear()


def notice(op: str) -> None:
    """Called before each host route unless the policy is to count only."""
    policy = knobs.get().host_fallback
    if policy is HostFallback.ERROR:
        raise HostFallbackRefused(op)
    if policy is HostFallback.WARN and op not in _warned:
        _warned.add(op)
        warnings.warn(
            f"{op} has no mtia kernel and runs on the host: counted in mtia.host_fallbacks() and timed as the "
            f"transfers and host work it is. MTIA_HOST_FALLBACK=error refuses such operators, =count says nothing.",
            HostFallbackWarning,
            stacklevel=3,
        )


__all__ = ["HostFallbackWarning", "count", "counts", "notice", "reset"]
