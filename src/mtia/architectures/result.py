"""What became of one architecture, as plain data: it crosses processes and lies in a journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mtia.conformance.result import Outcome


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """One architecture in one dtype."""

    name: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"

    def to_json(self) -> list[str]:
        return [self.name, self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Simulated time of a forward pass and of a training step on one chip, and the kernels launched in each;
    `attention_kernels`: how many of the step's are fused attention."""

    forward_s: float
    step_s: float
    kernels_forward: int
    kernels_step: int
    attention_kernels: int = 0


@dataclass(slots=True, kw_only=True)
class Result:
    """`graphs` compiled (one forward, one training where nothing breaks); `compile_s` and `wall_s` are
    the simulator's; `error_share`: largest error as a share of what is allowed; `times` by chip."""

    name: str
    dtype: str
    family: str
    outcome: Outcome
    error: str = ""
    fallbacks: dict[str, int] = field(default_factory=dict)
    error_share: float = 0.0
    graphs: int = 0
    kernels_forward: int = 0
    kernels_step: int = 0
    times: dict[str, Times] = field(default_factory=dict)
    compile_s: float = 0.0
    wall_s: float = 0.0

    @property
    def unit(self) -> Unit:
        return Unit(self.name, self.dtype)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Result:
        times = {chip: Times(**t) for chip, t in row.get("times", {}).items()}
        return cls(**{**row, "outcome": Outcome(row["outcome"]), "times": times})


def ended(unit: Unit, outcome: Outcome, error: str, wall_s: float) -> Result:
    """The result of a unit whose process gave none."""
    return Result(name=unit.name, dtype=unit.dtype, family="", outcome=outcome, error=error, wall_s=wall_s)


__all__ = ["Outcome", "Result", "Times", "Unit", "ended"]
