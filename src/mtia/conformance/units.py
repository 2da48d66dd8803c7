"""What there is to test: PyTorch's OpInfo entries, one unit of work per operator, variant and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from typing import Any

from mtia.errors import BadProblem, MtiaError, did_you_mean

DTYPES = ("float32", "bfloat16", "float16", "int32", "int64")
"""The dtypes that TritorX counts (facts 7.3)."""
FLOATS = ("float32", "bfloat16", "float16")


class NoOpInfo(MtiaError, ImportError):
    """PyTorch's test package needs a module that is not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"PyTorch's operator tests (torch.testing._internal) need the package {missing!r}, which is not installed. "
            f"Install openmtia[conformance], or pip install {missing}."
        )
        self.missing = missing


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """One operator (with OpInfo's variant name, "" for the plain one) in one dtype."""

    op: str
    variant: str
    dtype: str

    @property
    def entry(self) -> str:
        """The operator's name in OpInfo: `linalg.norm`, or `var_mean.unbiased` with its variant."""
        return f"{self.op}.{self.variant}" if self.variant else self.op

    def __str__(self) -> str:
        return f"{self.entry} {self.dtype}"

    def to_json(self) -> list[str]:
        return [self.op, self.variant, self.dtype]


@cache
def op_infos() -> dict[tuple[str, str], Any]:
    """OpInfo by (name, variant), as PyTorch lists them. Raises NoOpInfo."""
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    except ModuleNotFoundError as error:
        raise NoOpInfo(error.name or str(error)) from None
    return {(info.name, info.variant_test_name): info for info in op_db}


def units(dtypes: Sequence[str] = DTYPES, patterns: Sequence[str] = ()) -> list[Unit]:
    """All units in these dtypes whose entry matches one of `patterns` (shell wildcards; none: all).

    Raises BadProblem on a dtype that is not counted or a pattern that matches nothing.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise BadProblem("mtia conformance", argument="dtype", value=dtype, allowed=f"known: {', '.join(DTYPES)}")
    found = list(_all(dtypes))
    for pattern in patterns:
        if not any(fnmatch(unit.entry, pattern) for unit in found):
            hint = did_you_mean(pattern, {unit.entry for unit in found}).strip()
            allowed = f"no operator is called that. {hint}".strip()
            raise BadProblem("mtia conformance", argument="operator", value=pattern, allowed=allowed)
    return [unit for unit in found if not patterns or any(fnmatch(unit.entry, p) for p in patterns)]


def _all(dtypes: Sequence[str]) -> Iterator[Unit]:
    import torch

    for name, variant in sorted(op_infos()):
        has = op_infos()[name, variant].dtypes
        for dtype in dtypes:
            if getattr(torch, dtype) in has:
                yield Unit(name, variant, dtype)


__all__ = ["DTYPES", "FLOATS", "NoOpInfo", "Unit", "op_infos", "units"]
