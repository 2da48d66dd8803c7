"""What `mtia models` is asked to run, by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from mtia.architectures.configs import ARCHITECTURES
from mtia.architectures.result import Unit
from mtia.errors import BadProblem, did_you_mean

DTYPES = ("float32", "bfloat16", "float16")


def units(patterns: Sequence[str] = (), dtypes: Sequence[str] = DTYPES[:1]) -> list[Unit]:
    """All architectures whose name matches one of `patterns` (shell wildcards; none: all), in each dtype.

    Raises BadProblem on a dtype that has no tolerance here or a pattern that matches nothing.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise BadProblem("mtia models", argument="dtype", value=dtype, allowed=f"known: {', '.join(DTYPES)}")
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in ARCHITECTURES):
            hint = did_you_mean(pattern, ARCHITECTURES).strip()
            allowed = f"no architecture is called that. {hint}".strip()
            raise BadProblem("mtia models", argument="architecture", value=pattern, allowed=allowed)
    names = [n for n in ARCHITECTURES if not patterns or any(fnmatch(n, p) for p in patterns)]
    return [Unit(name, dtype) for dtype in dtypes for name in names]


__all__ = ["DTYPES", "units"]
