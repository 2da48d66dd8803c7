"""A linear layer whose weights are held in a scheme's format."""

# Buffers are typed as Tensor | Module by torch.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mtia.errors import BadProblem
from mtia.quantization.operands import product, product_of_wide, quantise, quantise_static
from mtia.quantization.schemes import Scheme, scheme_named

SCHEME_KEY = "scheme"


@torch.library.custom_op("mtia::quantised_linear", mutates_args=())
def quantised_linear(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    x_scale: torch.Tensor | None,
    scheme: str,
    depth: int,
) -> torch.Tensor:
    """x [M, K] by a layer's codes; `depth` is what K is padded to, `x_scale` the static scale of the activations."""
    held = scheme_named(scheme)
    wide = F.pad(x, (0, depth - x.shape[1])) if depth > x.shape[1] else x
    if held.is_weight_only:
        return product_of_wide(wide.contiguous(), codes, scale, bias, held, x.dtype)
    if x_scale is not None:
        q, q_scale = quantise_static(wide, x_scale), x_scale.reshape(1)
    else:
        q, q_scale = quantise(wide.contiguous(), held.activation, held.activation_block)
    return product(q, q_scale, codes, scale, bias, held, x.dtype)


@quantised_linear.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, scale: Any, bias: Any, x_scale: Any, scheme: str, depth: int):
    return x.new_empty((x.shape[0], codes.shape[0]))


class QuantisedLinear(nn.Module):
    """y = (x - shift) @ w.T + bias with w in `scheme`'s format; the state dict holds codes, scales, what corrects them
    and the scheme's name, which must be that of the layer it is loaded into.

    `shift` float32 [in_features]: what the activations are about (calibration's mean), taken off before they are
    rounded and given back through the bias, by the unrounded weights.
    `wide` int64 [C]: inputs that are not rounded; they are multiplied by their weights in the model's own type.
    `held`: codes and scales rounded elsewhere (compensation.py), as operands.quantise gives them, wide inputs zero.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None
    shift: torch.Tensor | None
    wide: torch.Tensor | None
    wide_weight: torch.Tensor | None
    narrow: torch.Tensor | None

    def __init__(
        self, linear: nn.Linear, scheme: Scheme, *, shift: torch.Tensor | None = None, wide: torch.Tensor | None = None,
        held: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scheme = scheme
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.depth = -(-linear.in_features // scheme.depth_multiple) * scheme.depth_multiple
        weight = linear.weight.detach()
        self._keep_wide(weight, wide if wide is not None and wide.numel() else None)
        self._shift(weight, shift, None if linear.bias is None else linear.bias.detach().clone())
        codes, scale = held if held is not None else self._rounded(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("x_scale", torch.zeros((), device=codes.device) if scheme.static else None)

    def _keep_wide(self, weight: torch.Tensor, wide: torch.Tensor | None) -> None:
        """`narrow` [in_features] is 0 for the wide inputs and 1 for the others."""
        self.register_buffer("wide", wide)
        self.register_buffer("wide_weight", None if wide is None else weight[:, wide].contiguous())
        self.register_buffer("narrow", None if wide is None else torch.ones_like(weight[0]).index_fill(0, wide, 0.0))

    def _shift(self, weight: torch.Tensor, shift: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        if shift is not None:
            shift = shift.to(torch.bfloat16).to(weight)  # casts leave it: what is taken off is what is given back
            back = weight.float() @ shift.float()
            bias = back if bias is None else bias.float() + back
        self.register_buffer("bias", bias)
        self.register_buffer("shift", shift)

    def _rounded(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.narrow is not None:
            weight = weight * self.narrow
        weight = F.pad(weight, (0, self.depth - self.in_features)).contiguous()
        return quantise(weight, self.scheme.weight, self.scheme.weight_block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.shifted(x.reshape(-1, self.in_features))
        low = (rows if self.narrow is None else rows * self.narrow).contiguous()
        out = quantised_linear(low, self.codes, self.scale, self.bias, self.x_scale, self.scheme.name, self.depth)
        if self.wide is not None:
            out = torch.addmm(out, rows.index_select(1, self.wide), self.wide_weight.t())  # type: ignore[union-attr]
        return out.reshape(*x.shape[:-1], self.out_features)

    def shifted(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [M, in_features] less the shift, in their own type."""
        return rows if self.shift is None else rows - self.shift

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A layer quantised without corrections takes those of the checkpoint."""
        for name in ("shift", "bias", "wide", "wide_weight", "narrow"):
            saved = state_dict.get(prefix + name)
            if saved is not None and getattr(self, name) is None:
                setattr(self, name, torch.empty_like(saved, device=self.codes.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantisedLinear:
        """Scales, and a bias that gives a shift back, stay float32 where a model is cast."""
        names = ("scale", "x_scale") if self.shift is None else ("scale", "x_scale", "bias")
        held = {name: t for name in names if (t := getattr(self, name)) is not None}
        super()._apply(fn, recurse)
        for name, before in held.items():
            after = getattr(self, name)
            if after.dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        return self

    @property
    def weight_bytes(self) -> int:
        return sum(t.nbytes for t in (self.codes, self.scale, self.wide_weight) if t is not None)

    @property
    def wide_frac(self) -> float:
        """Of the layer's multiplies, those that are not in the scheme's format."""
        return 0.0 if self.wide is None else self.wide.numel() / self.in_features

    def get_extra_state(self) -> dict[str, str]:
        return {SCHEME_KEY: self.scheme.name}

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state[SCHEME_KEY] != self.scheme.name:
            raise BadProblem(
                "loading a quantised layer", argument="scheme", value=state[SCHEME_KEY],
                allowed=f"the layer's own, {self.scheme.name}; quantize the model with the plan it was saved with",
            )  # fmt: skip

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme.name}"


__all__ = ["QuantisedLinear", "quantised_linear"]
