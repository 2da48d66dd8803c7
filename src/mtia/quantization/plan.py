"""Which layer takes which scheme: glob patterns over module names, the first that matches counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mtia.errors import BadProblem
from mtia.quantization.schemes import Scheme, scheme_named


@dataclass(frozen=True, slots=True)
class Plan:
    """`rules`: (pattern, scheme) in order. `Plan.of({"lm_head": "bf16", "*.down_proj": "mx8", "*": "mx4"})`."""

    rules: tuple[tuple[str, Scheme], ...]

    @classmethod
    def of(cls, plan: str | Mapping[str, str] | Plan) -> Plan:
        """A scheme's name for every linear layer, a mapping from patterns to names, "pattern=name,..." or a Plan."""
        if isinstance(plan, Plan):
            return plan
        if isinstance(plan, str):
            plan = _parsed(plan)
        return cls(tuple((pattern, scheme_named(name)) for pattern, name in plan.items()))

    def scheme_for(self, layer: str) -> Scheme | None:
        """The scheme of a layer's name; None leaves the layer as it is."""
        return next((scheme for pattern, scheme in self.rules if fnmatchcase(layer, pattern)), None)

    def unused(self, layers: list[str]) -> list[str]:
        """Patterns that match no layer."""
        return [pattern for pattern, _ in self.rules if not any(fnmatchcase(name, pattern) for name in layers)]

    def __str__(self) -> str:
        if len(self.rules) == 1 and self.rules[0][0] == "*":
            return self.rules[0][1].name
        return ",".join(f"{pattern}={scheme.name}" for pattern, scheme in self.rules)


def _parsed(text: str) -> dict[str, str]:
    if "=" not in text:
        return {"*": text}
    pairs = [part.partition("=") for part in text.split(",")]
    wrong = [pattern for pattern, sign, name in pairs if not (sign and pattern and name)]
    if wrong:
        raise BadProblem("quantisation plan", argument="rule", value=wrong[0], allowed="PATTERN=FORMAT, separated by ,")
    return {pattern: name for pattern, _, name in pairs}


__all__ = ["Plan"]
