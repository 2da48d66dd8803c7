"""Schemes: what a linear layer's weights are held in, and what its activations become before they are multiplied.

bf16          as it is
int8          both in 8-bit integers, a scale a row, activations as they come (MTIA 100, 200)
int8-static   as int8, the activations' scale found beforehand (`calibrate`)
fp8           both in E4M3, a float32 scale a row, activations as they come (MTIA 300 and later)
mx8, mx8s, mx4            both in blocks of 16 under an exponent (MTIA 400 and later)
mxfp8, mxfp4              OCP's blocks of 32, for comparison
mx4-mx8       MX4 weights, MX8 activations
int8-weight, fp8-weight, mx8-weight, mx4-weight   weights alone, widened to bfloat16 as they are multiplied
mxint8-weight, mxfp6e2m3-weight, mxfp6e3m2-weight OCP's, alike, on every chip; FP6 takes a byte an element
"""

from __future__ import annotations

from dataclasses import dataclass

from mtia.errors import BadProblem, did_you_mean
from mtia.numerics.blocks import (
    BLOCK_FORMATS,
    MX4,
    MX8,
    MX8S,
    MXFP4,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8_E4M3,
    MXINT8,
    BlockFormat,
    ScaleRule,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """`weight`, `activation`: "bf16", "int8", "fp8" or a block format's name. `rule`: how block scales are chosen."""

    name: str
    weight: str
    activation: str
    static: bool = False
    rule: ScaleRule = ScaleRule.FLOOR

    @property
    def is_weight_only(self) -> bool:
        return self.activation == "bf16" and self.weight != "bf16"

    @property
    def weight_block(self) -> BlockFormat | None:
        return _block(self.weight, self.rule)

    @property
    def activation_block(self) -> BlockFormat | None:
        return _block(self.activation, self.rule)

    @property
    def multiplied(self) -> str:
        """The format that the engine multiplies in."""
        if self.is_weight_only or self.weight == "bf16":
            return "bf16"
        return self.weight if self.weight == self.activation else "mx8"

    @property
    def depth_multiple(self) -> int:
        """What the layer's depth is padded to."""
        blocks = [b.cols for b in (self.weight_block, self.activation_block) if b is not None]
        return max(blocks, default=1)


def _block(fmt: str, rule: ScaleRule) -> BlockFormat | None:
    block = _BLOCKS.get(fmt)
    return None if block is None else block.with_(rule=rule)


_BLOCKS = {
    "mx4": MX4, "mx8": MX8, "mx8s": MX8S, "mxfp8": MXFP8_E4M3, "mxfp4": MXFP4, "mxint8": MXINT8,
    "mxfp6e2m3": MXFP6_E2M3, "mxfp6e3m2": MXFP6_E3M2,
}  # fmt: skip
_BOTH = ("int8", "fp8", "mx8", "mx8s", "mx4", "mxfp8", "mxfp4")
_WEIGHT_ONLY = ("int8", "fp8", "mx8", "mx4", "mxint8", "mxfp6e2m3", "mxfp6e3m2")
SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        Scheme(name="bf16", weight="bf16", activation="bf16"),
        *(Scheme(name=f, weight=f, activation=f) for f in _BOTH),
        Scheme(name="int8-static", weight="int8", activation="int8", static=True),
        Scheme(name="mx4-mx8", weight="mx4", activation="mx8"),
        *(Scheme(name=f"{f}-weight", weight=f, activation="bf16") for f in _WEIGHT_ONLY),
    )
}


def scheme_named(name: str) -> Scheme:
    """The scheme called `name`; `name:fit` (even, ceil, floor) chooses another rule for its block scales.

    Raises BadProblem naming the known ones.
    """
    base, _, rule = name.partition(":")
    if base not in SCHEMES or (rule and rule not in set(ScaleRule)):
        raise BadProblem(
            "quantisation", argument="format", value=name,
            allowed=f"{_no_engine(base)}known: {', '.join(SCHEMES)}; with :{', :'.join(ScaleRule)} for a rule of block "
            f"scales.{did_you_mean(base, SCHEMES)}",
        )  # fmt: skip
    scheme = SCHEMES[base]
    if not rule:
        return scheme
    return Scheme(name=name, weight=scheme.weight, activation=scheme.activation, static=scheme.static,
                  rule=ScaleRule(rule))  # fmt: skip


def _no_engine(base: str) -> str:
    """What to do with a format that numerics/ has and no layer multiplies in."""
    if base == "nvfp4":
        return "a layer has no place for the tensor's own scale; use kernels.quantise_mx and F.scaled_mm; "
    if base in BLOCK_FORMATS and f"{base}-weight" in SCHEMES:
        return f"no generation's engine multiplies it, so weights alone: {base}-weight; "
    return ""


__all__ = ["SCHEMES", "Scheme", "scheme_named"]
