"""What became of one unit, as plain data: it crosses processes and lies in a journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from mtia.conformance.units import Unit


class Outcome(StrEnum):
    """Best first."""

    PASS = "pass"  # every sample right, nothing on the host
    FALLBACK = "fallback"  # every sample right, some of it on the host
    FAIL = "fail"  # a sample wrong or refused
    TIMEOUT = "timeout"  # not done within the limit
    CRASH = "crash"  # the process died
    SKIP = "skip"  # nothing to compare: the CPU has no answer for any sample


@dataclass(slots=True, kw_only=True)
class Result:
    """`samples` compared, of which `wrong` differ or were refused. `backward`: the same question about gradients, ""
    where OpInfo checks none in this dtype. `left_out`: samples with nothing to compare, by reason; None in journals of
    before they were counted. `fallbacks`: host routes by operator. `error`: the first one, in a line."""

    op: str
    variant: str
    dtype: str
    outcome: Outcome
    samples: int = 0
    wrong: int = 0
    error: str = ""
    left_out: dict[str, int] | None = None
    backward: Outcome | str = ""
    backward_samples: int = 0
    backward_error: str = ""
    backward_left_out: dict[str, int] | None = None
    fallbacks: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def unit(self) -> Unit:
        return Unit(self.op, self.variant, self.dtype)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Result:
        fields = {**row, "outcome": Outcome(row["outcome"])}
        if row.get("backward"):
            fields["backward"] = Outcome(row["backward"])
        return cls(**fields)


def ended(unit: Unit, outcome: Outcome, error: str, wall_s: float) -> Result:
    """The result of a unit whose process gave none."""
    return Result(op=unit.op, variant=unit.variant, dtype=unit.dtype, outcome=outcome, error=error, wall_s=wall_s)


__all__ = ["Outcome", "Result", "ended"]
